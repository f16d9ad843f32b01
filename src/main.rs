//! The command line: parse, call, print the error, choose the exit code.

use std::process::ExitCode;

use clap::Parser;

mod cli;

fn main() -> ExitCode {
    regrow::sys::heap::take_in_large_pieces();
    cli::run(cli::Cli::parse())
}
