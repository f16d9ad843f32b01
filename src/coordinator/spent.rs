//! Names that have done their service when the tree lives: link remaps, which CRIU made at the dump.
//!
//! The tree lives by then, so what cannot be removed is said and changes nothing. After a failure they
//! stay: the images can be restored again.
//!
//! # Sources
//! CRIU's `criu/files-reg.c` (`try_clean_remaps`) for when they go.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Removes the names.
pub(super) fn remove(names: &[Vec<u8>]) {
    for name in names {
        let path = Path::new(OsStr::from_bytes(name));
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!("{}: cannot be removed: {error}", path.display());
        }
    }
}
