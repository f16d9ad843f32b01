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
use super::model::{FdEntry, Fs, Image, NsPid, Origin, Table};
use super::proto::{FdinfoEntry, FsEntry};
use super::read::Dir;

/// The shortest entry that has all fields, with its length: so many bytes.
const LEAST_BYTES: usize = 12;

/// The table with the number `files_id`, sorted by descriptor.
///
/// CRIU creates an image with its first entry: a task without an open descriptor has none, and that
/// is no error.
pub(crate) fn read_fds(dir: &Dir<'_>, files_id: u32, errors: &mut Errors) -> Table {
    let image = Image::Fdinfo(files_id);
    let bytes = match dir.read(image) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Table::default(),
        Err(error) => {
            errors.push(error);
            return Table::default();
        }
    };
    if let Some(table) = dir.known.tables.get(&bytes) {
        return table;
    }
    let before = errors.count();
    let mut fds: Vec<FdEntry> = Vec::with_capacity(bytes.len() / LEAST_BYTES);
    // All numbers, once one did not come behind all before it.
    let mut seen: Option<BTreeSet<u32>> = None;
    dir.for_each_of(&bytes, image, &magic::FDINFO, errors, |_, entry, errors| {
        let Some(e) = plain(entry.body).or_else(|| errors.decode(entry)) else {
            return Ok(());
        };
        let fd = e.fd;
        if fd > i32::MAX as u32 {
            errors.inconsistent(image, entry.index, format!("descriptor {fd}"));
        }
        let is_behind = seen.is_none() && fds.last().is_none_or(|last| last.fd < fd);
        let mut is_new = || seen.get_or_insert_with(|| fds.iter().map(|entry| entry.fd).collect()).insert(fd);
        if !is_behind && !is_new() {
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
        fds.push(FdEntry { fd, ofd_id: e.id, cloexec: e.flags & 1 != 0, entry: entry.index });
        Ok(())
    });
    fds.sort_by_key(|entry| entry.fd);
    let table = Table::from(fds);
    if errors.count() == before {
        dir.known.tables.keep(&bytes, || table.clone());
    }
    table
}

/// An entry as CRIU writes nearly all: the fields that it must have, in the order of their numbers, and no other. What is
/// `None` may be as good, and is left to the decoder, which takes each of these for the same.
fn plain(body: &[u8]) -> Option<FdinfoEntry> {
    let mut rest = body.iter().copied();
    let mut field = |number: u8| -> Option<u32> {
        // A varint: its wire type is 0.
        (rest.next()? == number << 3).then_some(())?;
        let mut value = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = rest.next()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).ok();
            }
        }
        None
    };
    let (id, flags, r#type, fd) = (field(1)?, field(2)?, field(3)?, field(4)?);
    let entry = FdinfoEntry { id, flags, r#type, fd, xattr_security_selinux: None };
    rest.next().is_none().then_some(entry)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::super::file::Entry;
    use super::*;

    /// What is plain, the decoder takes for the same.
    fn check(body: &[u8]) -> Option<FdinfoEntry> {
        let found = plain(body)?;
        let mut errors = Errors::new();
        let decoded: Option<FdinfoEntry> = errors.decode(&Entry { file: "fdinfo-2.img", index: 0, body });
        assert_eq!(decoded.as_ref(), Some(&found), "{body:02x?}");
        assert!(errors.is_empty());
        Some(found)
    }

    #[test]
    fn other_forms_are_not_plain() {
        let plain = [8, 5, 16, 0, 24, 1, 32, 3];
        assert!(check(&plain).is_some());
        // Cut off, with more behind it, in another order, a value of more than 32 bits.
        assert_eq!(check(&plain[..7]), None);
        assert_eq!(check(&[&plain[..], &[42, 0]].concat()), None);
        assert_eq!(check(&[16, 0, 8, 5, 24, 1, 32, 3]), None);
        assert_eq!(check(&[8, 0xff, 0xff, 0xff, 0xff, 0x10, 16, 0, 24, 1, 32, 3]), None);
        assert_eq!(check(&[]), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_plain(id: u32, flags: u32, r#type: u32, fd: u32) {
            let entry = FdinfoEntry { id, flags, r#type, fd, xattr_security_selinux: None };
            prop_assert_eq!(check(&entry.encode_to_vec()), Some(entry));
        }

        #[test]
        fn whatever_is_plain_is_decoded(
            keys in prop::sample::select(vec![[8u8, 16, 24, 32], [8, 16, 24, 33], [16, 8, 24, 32]]),
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..7), 4),
        ) {
            check(&keys.iter().zip(values).flat_map(|(key, value)| [vec![*key], value].concat()).collect::<Vec<_>>());
        }
    }
}
