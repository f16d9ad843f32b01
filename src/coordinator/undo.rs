//! Takes away what tasks that were killed in the middle have left in the file system.
//!
//! A file that must have a name for a moment is noted in the tapes ([`Undo`]) with three words of the
//! region: its task sets the first before it makes the name, the second when it has, the third when
//! the name is gone again. The launcher reads them when everybody is dead, so nothing changes any
//! more. Between the first two words it is not known whether the name was made: then it is removed
//! only if it looks as it does at that moment and as nothing else does (an empty file, or an empty
//! directory, of root, with the sticky bit and no other permission than the owner's).
//!
//! The file of a unix socket stays, so its third word is never set: it is removed after every failure.
//! Its permissions are not ours to choose. So where it is not known whether it was made, it is
//! removed only if it was born since the tapes began to play: then nothing was there before, and
//! `bind(2)` did not fail.
//!
//! The table of notes lies behind the region in its memfd, where no task maps it:
//!
//! ```text
//! intent: u64  made: u64  gone: u64  kind: u64  len: u64  path…      (offsets of words; one after another)
//! ```
//!
//! An entry of its own kind is the last one: the cgroups that are to be made (`coordinator::cgroups`).
//!
//! # Sources
//! statx(2), clock_gettime(2).

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

use crate::sys::region::Place;
use crate::tape::{CGROUPS, Cgroup, Undo, UndoKind};

/// Longest path that is believed (PATH_MAX).
const PATH_MAX: u64 = 4096;

/// Bytes of an entry before its path: five words.
const HEAD: usize = 40;

/// The region of a run, kept for its end.
#[derive(Debug)]
pub struct Remains {
    region: File,
    table: u64,
    started: SystemTime,
}

impl Remains {
    /// Keeps the memfd of a region, before its tapes begin to play.
    ///
    /// # Errors
    /// The kernel's, of duplicating a descriptor.
    pub fn keep(region: BorrowedFd<'_>, place: Place) -> std::io::Result<Remains> {
        let region: OwnedFd = region.try_clone_to_owned()?;
        // By the clock that gives files their times.
        let now = Duration::from(clock_gettime(ClockId::CLOCK_REALTIME_COARSE)?);
        let started = SystemTime::UNIX_EPOCH + now;
        Ok(Remains { region: region.into(), table: place.rw_len + place.ro_len + place.trace_len, started })
    }

    /// Removes what has been left. All tasks must be dead. Gives what could not be removed.
    pub fn remove(&self) -> Vec<(PathBuf, std::io::Error)> {
        let mut failed = Vec::new();
        // In reverse: what was made last goes first.
        for undo in self.list().into_iter().rev() {
            if !self.is_set(undo.intent) || self.is_set(undo.gone) {
                continue;
            }
            if undo.kind == UndoKind::ChangedPlaces {
                failed.extend(self.put_back(&undo));
                continue;
            }
            let path = Path::new(std::ffi::OsStr::from_bytes(&undo.path));
            if !self.is_set(undo.made) && !self.looks_new(path, undo.kind) {
                continue;
            }
            let removed = match undo.kind {
                UndoKind::File => std::fs::remove_file(path),
                UndoKind::Directory => std::fs::remove_dir(path),
                UndoKind::Link => std::fs::remove_file(first_of_two(path)),
                UndoKind::Socket if is_socket(path) => std::fs::remove_file(path),
                UndoKind::Socket | UndoKind::ChangedPlaces => Ok(()),
            };
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    failed.push((path.to_owned(), error))
                }
                Ok(()) | Err(_) => {}
            }
        }
        failed
    }

    /// Which of the two is under the first name shows in its permissions: those of the new file are
    /// not set before both names are as they were.
    fn put_back(&self, undo: &Undo) -> Option<(PathBuf, std::io::Error)> {
        let mut names =
            undo.path.splitn(2, |byte| *byte == 0).map(|name| Path::new(std::ffi::OsStr::from_bytes(name)));
        let (aside, own) = (names.next()?, names.next()?);
        let stat = std::fs::symlink_metadata(aside).ok()?;
        let is_new = stat.is_file() && stat.uid() == 0 && stat.mode() & 0o7077 == 0o1000;
        let done = match (is_new, self.is_set(undo.made)) {
            (true, true) => std::fs::remove_file(aside),
            (true, false) if stat.len() == 0 => std::fs::remove_file(aside),
            (false, true) => std::fs::rename(aside, own),
            (true | false, false) => Ok(()),
        };
        done.err().map(|error| (aside.to_owned(), error))
    }

    /// Whether what is there is as it was made, before anything was done to it.
    fn looks_new(&self, path: &Path, kind: UndoKind) -> bool {
        if kind == UndoKind::Link {
            return is_same_file(path);
        }
        let Ok(stat) = std::fs::symlink_metadata(path) else { return false };
        let (is_kind, is_empty) = match kind {
            UndoKind::File => (stat.is_file() || stat.file_type().is_fifo(), stat.len() == 0),
            // rmdir(2) sees to that.
            UndoKind::Directory => (stat.is_dir(), true),
            UndoKind::ChangedPlaces | UndoKind::Link => (false, false),
            UndoKind::Socket => return stat.created().is_ok_and(|born| born >= self.started),
        };
        // The umask may have taken the owner's permissions, too.
        is_kind && is_empty && stat.uid() == 0 && stat.mode() & 0o7077 == 0o1000
    }

    /// The cgroups that are to be made before the tapes begin to play.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn cgroups(&self) -> std::io::Result<Vec<Cgroup>> {
        let mut at = self.table;
        loop {
            let mut head = [0; HEAD];
            match self.region.read_exact_at(&mut head, at) {
                // Without any the table ends with the notes.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(Vec::new()),
                read => read?,
            }
            let word = |index: usize| u64::from_ne_bytes(std::array::from_fn(|byte| head[index * 8 + byte]));
            let (kind, len) = (word(3), word(4));
            at += HEAD as u64;
            if kind == CGROUPS {
                let end = self.region.metadata()?.len();
                let mut bytes = vec![0; len.min(end.saturating_sub(at)) as usize];
                self.region.read_exact_at(&mut bytes, at)?;
                return postcard::from_bytes(&bytes).map_err(std::io::Error::other);
            }
            at = at.saturating_add(len);
        }
    }

    fn is_set(&self, offset: u64) -> bool {
        let mut word = [0; 4];
        self.region.read_exact_at(&mut word, offset).is_ok() && word != [0; 4]
    }

    fn list(&self) -> Vec<Undo> {
        let mut list = Vec::new();
        let mut at = self.table;
        loop {
            let mut head = [0; HEAD];
            if self.region.read_exact_at(&mut head, at).is_err() {
                return list;
            }
            let word = |index: usize| u64::from_ne_bytes(std::array::from_fn(|byte| head[index * 8 + byte]));
            let len = word(4);
            let mut path = vec![0; len.min(PATH_MAX) as usize];
            if len > PATH_MAX || self.region.read_exact_at(&mut path, at + HEAD as u64).is_err() {
                return list;
            }
            let kind = match word(3) {
                0 => UndoKind::File,
                1 => UndoKind::Directory,
                2 => UndoKind::ChangedPlaces,
                3 => UndoKind::Socket,
                4 => UndoKind::Link,
                _ => return list,
            };
            list.push(Undo { intent: word(0), made: word(1), gone: word(2), kind, path });
            at += HEAD as u64 + len;
        }
    }
}

/// The first of two paths with a zero byte between.
fn first_of_two(paths: &Path) -> &Path {
    let bytes = paths.as_os_str().as_bytes();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    Path::new(std::ffi::OsStr::from_bytes(&bytes[..end]))
}

/// Whether two paths with a zero byte between are names of one file.
fn is_same_file(paths: &Path) -> bool {
    let first = first_of_two(paths);
    let bytes = paths.as_os_str().as_bytes();
    let Some(second) = bytes.get(first.as_os_str().len() + 1..) else { return false };
    let inode = |path: &Path| std::fs::symlink_metadata(path).ok().map(|stat| (stat.dev(), stat.ino()));
    let inodes = inode(first).zip(inode(Path::new(std::ffi::OsStr::from_bytes(second))));
    inodes.is_some_and(|(first, second)| first == second)
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|stat| stat.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::undo_table;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::fs::OpenOptionsExt;

    fn remains(words: &[u32], list: &[Undo]) -> Remains {
        let mut file = tempfile::tempfile().expect("a file");
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        file.write_all(&bytes).expect("write");
        file.write_all(&undo_table(list)).expect("write");
        let place = Place { base: 0, rw_len: bytes.len() as u64, ro_len: 0, trace_len: 0 };
        Remains::keep(file.as_fd(), place).expect("a copy")
    }

    /// Whether the file is still there afterwards.
    fn check(words: [u32; 3], mode: u32, stays: bool) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).expect("a file");
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("chmod");
        let undo = Undo {
            intent: 0,
            made: 4,
            gone: 8,
            kind: UndoKind::File,
            path: path.as_os_str().as_bytes().to_vec(),
        };
        let failed = remains(&words, &[undo]).remove();
        assert!(failed.is_empty(), "{failed:?}");
        assert_eq!(path.exists(), stays, "{words:?} {mode:o}");
    }

    #[test]
    fn what_was_made_and_is_not_gone_is_removed() {
        check([1, 1, 0], 0o644, false);
        check([1, 1, 1], 0o644, true);
        check([0, 0, 0], 0o644, true);
        // Not known: only what looks new.
        check([1, 0, 0], 0o644, true);
        if nix::unistd::geteuid().is_root() {
            check([1, 0, 0], crate::resolve::recipe::NEW_FILE_MODE, false);
        }
    }

    /// Whether a further name of a file is still there afterwards; whether it is one of that file.
    fn check_link(words: [u32; 3], is_link: bool, stays: bool) {
        let dir = tempfile::tempdir().expect("a directory");
        let [name, file] = ["name", "file"].map(|name| dir.path().join(name));
        std::fs::write(&file, "content").expect("a file");
        if is_link {
            std::fs::hard_link(&file, &name).expect("a link");
        } else {
            std::fs::write(&name, "another's").expect("a file");
        }
        let path = [name.as_os_str().as_bytes(), b"\0", file.as_os_str().as_bytes()].concat();
        let undo = Undo { intent: 0, made: 4, gone: 8, kind: UndoKind::Link, path };
        let failed = remains(&words, &[undo]).remove();
        assert!(failed.is_empty(), "{failed:?}");
        assert_eq!((name.exists(), file.exists()), (stays, true), "{words:?} {is_link}");
    }

    #[test]
    fn further_names_are_removed_and_nothing_else() {
        check_link([1, 1, 0], true, false);
        check_link([0, 0, 0], true, true);
        // Not known: only if it leads to the file.
        check_link([1, 0, 0], true, false);
        check_link([1, 0, 0], false, true);
        check_link([1, 1, 1], false, true);
    }

    /// Whether a socket's file is still there afterwards; whether it was there before the tapes played.
    fn check_socket(words: [u32; 3], old: bool, stays: bool) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let bind = || std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        let undo = Undo {
            intent: 0,
            made: 4,
            gone: 8,
            kind: UndoKind::Socket,
            path: path.as_os_str().as_bytes().to_vec(),
        };
        let before = old.then(bind);
        if old {
            std::thread::sleep(Duration::from_millis(50));
        }
        let remains = remains(&words, &[undo]);
        let after = (!old).then(bind);
        let failed = remains.remove();
        assert!(failed.is_empty(), "{failed:?}");
        assert_eq!(path.exists(), stays, "{words:?} {old}");
        drop((before, after));
    }

    #[test]
    fn sockets_are_removed_unless_they_were_there_before() {
        check_socket([1, 1, 0], false, false);
        check_socket([0, 0, 0], false, true);
        // Not known: only what is younger than the tapes' run.
        check_socket([1, 0, 0], false, false);
        check_socket([1, 0, 0], true, true);
    }

    #[test]
    fn cgroups_come_behind_the_notes() {
        let undo = Undo {
            intent: 0,
            made: 4,
            gone: 8,
            kind: UndoKind::Directory,
            path: b"/nowhere/at/all".to_vec(),
        };
        let cgroup = Cgroup { directory: b"/sys/fs/cgroup/x".to_vec(), perms: None, files: Vec::new() };
        let check = |undo: &[Undo], cgroups: &[Cgroup]| {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(&crate::tape::launcher_table(undo, cgroups).expect("a table")).expect("write");
            let place = Place { base: 0, rw_len: 0, ro_len: 0, trace_len: 0 };
            let remains = Remains::keep(file.as_fd(), place).expect("a copy");
            assert_eq!(remains.cgroups().expect("a list"), cgroups);
            assert_eq!(remains.list(), undo);
        };
        check(&[], &[]);
        check(std::slice::from_ref(&undo), &[]);
        check(&[], std::slice::from_ref(&cgroup));
        check(&[undo.clone(), undo], &[cgroup.clone(), cgroup]);
    }

    #[test]
    fn a_cut_table_is_no_panic() {
        let undo = Undo {
            intent: 0,
            made: 4,
            gone: 8,
            kind: UndoKind::Directory,
            path: b"/nowhere/at/all".to_vec(),
        };
        let bytes = undo_table(std::slice::from_ref(&undo));
        for end in 0..bytes.len() {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(&bytes[..end]).expect("write");
            let remains = Remains::keep(file.as_fd(), Place { base: 0, rw_len: 0, ro_len: 0, trace_len: 0 })
                .expect("a copy");
            assert!(remains.list().is_empty());
        }
    }
}
