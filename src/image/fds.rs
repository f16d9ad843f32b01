//! `fdinfo-ID.img` and `fs-PID.img`: descriptor tables, working and root directories.
//!
//! Turns them into [`FdEntry`]s and [`Fs`]. They name open file descriptions by id and know nothing
//! else of them.
//!
//! Example: the entry `id 5, flags 1, type REG, fd 3` says that descriptor 3 is description 5 of
//! `files.img` and is closed on exec.

use std::collections::BTreeSet;

use super::error::Errors;
use super::files::fd_type_name;
use super::magic;
use super::model::{FdEntry, Fs, Image, NsPid, Origin};
use super::proto::{FdinfoEntry, FsEntry};
use super::read::Dir;

/// The table with the number `files_id`, sorted by descriptor.
///
/// CRIU creates an image with its first entry: a task without an open descriptor has none, and that
/// is no error.
pub(crate) fn read_fds(dir: &Dir<'_>, files_id: u32, errors: &mut Errors) -> Vec<FdEntry> {
    let image = Image::Fdinfo(files_id);
    let (mut fds, mut seen) = (Vec::new(), BTreeSet::new());
    dir.for_each(image, &magic::FDINFO, errors, |_, entry, errors| {
        let Some(e) = errors.decode::<FdinfoEntry>(entry) else {
            return Ok(());
        };
        let fd = e.fd;
        if fd > i32::MAX as u32 {
            errors.inconsistent(image, entry.index, format!("descriptor {fd}"));
        }
        if !seen.insert(fd) {
            errors.inconsistent(image, entry.index, format!("descriptor {fd} a second time"));
        }
        if e.flags & !1 != 0 {
            errors.unsupported(
                image,
                entry.index,
                format!("descriptor {fd}: unknown flags {:#x}", e.flags & !1),
            );
        }
        if fd_type_name(e.r#type).is_none() {
            errors.unsupported(image, entry.index, format!("descriptor {fd}: unknown kind {}", e.r#type));
        }
        if e.xattr_security_selinux.is_some_and(|label| !label.is_empty()) {
            errors.unsupported(image, entry.index, format!("descriptor {fd}: SELinux label of a socket"));
        }
        let origin = Origin { image, entry: entry.index };
        fds.push(FdEntry { fd, ofd_id: e.id, cloexec: e.flags & 1 != 0, origin });
        Ok(())
    });
    fds.sort_by_key(|entry| entry.fd);
    fds
}

/// Directories of the task `pid`, and its umask.
pub(crate) fn read_fs(dir: &Dir<'_>, pid: NsPid, errors: &mut Errors) -> Option<(Fs, u32)> {
    let image = Image::Fs(pid.0);
    let e: FsEntry = dir.read_one(image, &magic::FS, "a living task has one", errors)?;
    let umask = e.umask.unwrap_or(0);
    if umask & !0o777 != 0 {
        errors.inconsistent(image, 0, format!("umask {umask:#o}"));
    }
    Some((Fs { cwd_id: e.cwd_id, root_id: e.root_id, origin: Origin::new(image, 0) }, umask))
}
