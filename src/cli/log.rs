//! The log: to a file where `--log-file` names one, to standard error otherwise; levels as CRIU's
//! `-v[N]` counts them.

use std::fs::File;
use std::path::Path;
use std::sync::Mutex;

use tracing::level_filters::LevelFilter;

/// CRIU's levels: 0 silent, 1 errors, 2 warnings (the default), 3 information, 4 all.
pub(super) fn level(verbosity: u8) -> LevelFilter {
    match verbosity {
        0 => LevelFilter::OFF,
        1 => LevelFilter::ERROR,
        2 => LevelFilter::WARN,
        3 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    }
}

/// Starts logging. Creates the file, so that it exists whatever comes.
///
/// # Errors
/// The file cannot be created.
pub(super) fn start(file: Option<&Path>, verbosity: u8) -> std::io::Result<()> {
    let builder =
        tracing_subscriber::fmt().with_max_level(level(verbosity)).with_target(false).with_ansi(false);
    match file {
        Some(path) => {
            let file = File::create(path)?;
            builder.with_writer(Mutex::new(file)).init();
        }
        None => builder.without_time().with_writer(std::io::stderr).init(),
    }
    Ok(())
}
