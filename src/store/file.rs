//! The file of a stored plan: written whole or not at all, readable by its owner alone (tapes hold what waits
//! in pipes and sockets).
//!
//! As compilers do it, what is there is overwritten: the plan is written beside it under another name, made
//! durable, and takes its place by `rename(2)`. So a reader sees the old plan or the new one, and a symbolic
//! link is replaced, never followed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::format::{FormatError, Sections};
use super::{StoredPlan, wire};

/// Names of temporary files that are tried.
const TRIES: u32 = 64;

pub(super) fn write(path: &Path, plan: &StoredPlan) -> io::Result<()> {
    let (beside, file) = create_beside(path)?;
    let written = fill(file, plan).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
        return written;
    }
    // The name is there when the directory says so.
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no name of a file"));
    };
    if fs::symlink_metadata(path).is_ok_and(|there| there.is_dir()) {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    for number in 0..TRIES {
        let mut other = OsString::from(".");
        other.push(name);
        other.push(format!(".{}-{number}", std::process::id()));
        let beside = path.with_file_name(other);
        let made = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&beside);
        match made {
            Ok(file) => return Ok((beside, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EEXIST))
}

fn fill(file: File, plan: &StoredPlan) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, file);
    wire::write(plan, &mut out)?;
    out.flush()?;
    out.into_inner().map_err(|error| error.into_error())?.sync_all()
}

/// Opens a file that could be a stored plan. A FIFO is none, and does not hang us.
pub(super) fn open(path: &Path) -> Result<Sections<File>, FormatError> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    Sections::of_file(File::options().read(true).custom_flags(flags).open(path)?)
}
