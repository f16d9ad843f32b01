//! A whole directory: read, resolved, planned, lowered, certified and shown. Nothing is created.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::{fuzz_crossover, fuzz_mutator, fuzz_target};
use regrow::{pipeline, report};
use regrow_fuzz::host::{self, must};
use regrow_fuzz::limit::{Counting, within};
use regrow_fuzz::wire::Dice;
use regrow_fuzz::{archive, mutate, seeds};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static DIR: OnceLock<PathBuf> = OnceLock::new();

fn prepare() {
    host::begin();
    let seeds = seeds::directories();
    seeds::write_if_asked(|| seeds::of_directories(&seeds));
    // For the facts about the host.
    drop(seeds::planned(&seeds));
    let _ = DIR.set(must(host::directory("images"), "a directory"));
}

fuzz_target!(init: prepare(), |input: &[u8]| {
    let Some(dir) = DIR.get() else { return };
    let bytes = must(host::place(dir, &archive::read(input)), "the images");
    let options = seeds::options();
    within(bytes, || match pipeline::try_prepare_on(dir, &options, |_| host::facts()) {
        Ok((prepared, problems)) => {
            for problem in &problems {
                drop(problem.to_string());
            }
            if let Some(prepared) = prepared {
                drop(report::plan::text(&prepared, None, true));
                drop(report::plan::view(&prepared, None).map(|view| serde_json::to_string(&view)));
                drop(report::dot::dot(&prepared, None));
                drop(report::tapes(&prepared, None));
            }
        }
        // A refused plan harms nobody; but each is a plan that should not have been made.
        Err(pipeline::PrepareError::Refuted(counterexample)) if std::env::var_os("REGROW_FUZZ_REFUTED").is_some() => {
            panic!("no certificate: {counterexample}")
        }
        Err(error) => drop(error.problems()),
    });
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut dice = Dice(seed.into());
    if dice.one_in(20) {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    }
    let changed = mutate::directory(&data[..size], &mut dice);
    let len = changed.len().min(max_size);
    data[..len].copy_from_slice(&changed[..len]);
    len
});

fuzz_crossover!(|first: &[u8], second: &[u8], out: &mut [u8], seed: u32| {
    let crossed = mutate::cross_directories(first, second, &mut Dice(seed.into()));
    let len = crossed.len().min(out.len());
    out[..len].copy_from_slice(&crossed[..len]);
    len
});
