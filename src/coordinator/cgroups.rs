//! Makes the cgroups that the tree needs and that are not there, and takes them away again if there is no commit.
//!
//! The launcher does it, before anybody is born: so whoever else dies, it knows what it has made. A directory that is
//! there stays as it is, and so do its files; one that is made gets the values that the images have, as CRIU's
//! `--manage-cgroups=soft` does it:
//!
//! ```text
//!   all directories, those above first:  mkdir ─ what must be set while a cgroup is empty ─ permissions
//!   those that were made, again:         every other file whose value is not the one of the images
//! ```
//!
//! A file that says already what the images say is not written: some (a limit of a controller that is not enabled,
//! `memory.kmem.limit_in_bytes`) refuse even their own value.
//!
//! # Sources
//! cgroups(7); Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst of the kernel; CRIU's `criu/cgroup.c` for what must be
//! set early, and for files whose value is written in another way than it is read.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Error, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use super::seam::{Seam, Step};
use crate::tape::{Cgroup, CgroupFile, CgroupPerms};

/// Files that can, or should, be written only while a cgroup is empty.
const EARLY: [&[u8]; 8] = [
    b"cpuset.cpus",
    b"cpuset.mems",
    b"devices.list",
    b"memory.kmem.limit_in_bytes",
    b"memory.swappiness",
    b"memory.oom_control",
    b"memory.use_hierarchy",
    b"cgroup.type",
];
/// A cgroup is busy until the last of its dead tasks has let go of it, which may be after it was reaped.
const ATTEMPTS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// Directories that were made, in this order.
#[derive(Debug, Default)]
pub(super) struct Made {
    directories: Vec<PathBuf>,
}

/// What could not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failed {
    /// Which cgroup of the list.
    pub(super) index: u32,
    /// Which of its files; `None`: the directory itself.
    pub(super) file: Option<u32>,
    /// Why.
    pub(super) errno: Errno,
}

impl Made {
    /// Makes what is missing. What was made before something failed is noted all the same.
    pub(super) fn make(&mut self, list: &[Cgroup], seam: &Seam) -> Result<(), Failed> {
        let mut new = Vec::new();
        for (index, cgroup) in (0..).zip(list) {
            let failed = |file: Option<u32>, error: Error| Failed { index, file, errno: errno(&error) };
            let path = Path::new(std::ffi::OsStr::from_bytes(&cgroup.directory));
            seam.at(Step::Cgroups).map_err(|errno| Failed { index, file: None, errno })?;
            match std::fs::create_dir(path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(failed(None, error)),
            }
            self.directories.push(path.to_owned());
            new.push((index, cgroup, path));
            each(cgroup, true, |file| write(path, file))
                .map_err(|(file, error)| failed(Some(file), error))?;
            if let Some(perms) = cgroup.perms {
                File::open(path)
                    .and_then(|file| permit(&file, perms))
                    .map_err(|error| failed(None, error))?;
            }
        }
        for (index, cgroup, path) in new {
            each(cgroup, false, |file| write(path, file)).map_err(|(file, error)| Failed {
                index,
                file: Some(file),
                errno: errno(&error),
            })?;
        }
        Ok(())
    }

    /// Removes what was made. All tasks must be dead. Gives what could not be removed.
    pub(super) fn remove(&self) -> Vec<(PathBuf, Error)> {
        let mut failed = Vec::new();
        for path in self.directories.iter().rev() {
            let mut removed = std::fs::remove_dir(path);
            for _ in 0..ATTEMPTS {
                if !removed.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) {
                    break;
                }
                std::thread::sleep(PAUSE);
                removed = std::fs::remove_dir(path);
            }
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    failed.push((path.clone(), error))
                }
                Ok(()) | Err(_) => {}
            }
        }
        failed
    }
}

fn errno(error: &Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Each file of a cgroup that is, or is not, to be written early, with its number.
fn each(
    cgroup: &Cgroup,
    early: bool,
    mut write: impl FnMut(&CgroupFile) -> std::io::Result<()>,
) -> Result<(), (u32, Error)> {
    let files = (0..).zip(&cgroup.files).filter(|(_, file)| EARLY.contains(&file.name.as_slice()) == early);
    for (number, file) in files {
        write(file).map_err(|error| (number, error))?;
    }
    Ok(())
}

/// Lets a file say what it said, and gives it its permissions.
fn write(directory: &Path, file: &CgroupFile) -> std::io::Result<()> {
    let at = |name: &[u8]| directory.join(std::ffi::OsStr::from_bytes(name));
    let path = at(&file.name);
    let value = file.value.as_slice();
    let put = |path: &Path, value: &[u8]| OpenOptions::new().write(true).open(path)?.write_all(value);
    match file.name.as_slice() {
        // Who is in it is another thing.
        b"cgroup.procs" | b"tasks" => {}
        // What may be used is taken away as a whole and given back line by line (cgroup-v1/devices.rst).
        b"devices.list" => {
            if says(&path, value) {
                return Ok(());
            }
            put(&at(b"devices.deny"), b"a")?;
            let lines = value.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            return lines.into_iter().try_for_each(|line| put(&at(b"devices.allow"), line));
        }
        b"cgroup.subtree_control" => {
            if !says(&path, value) {
                let enabled = value.split(|byte| *byte == b' ').filter(|name| !name.is_empty());
                let words: Vec<Vec<u8>> = enabled.map(|name| [b"+", name].concat()).collect();
                put(&path, &words.join(&b' '))?;
            }
        }
        // One that is threaded cannot be what it was before; all others are what they are.
        b"cgroup.type" if value != b"threaded" => {}
        // The interfaces of the dump may be others here, and a cgroup starts with 0 for each.
        b"net_prio.ifpriomap" => {
            let lines = value.split(|byte| *byte == b'\n').filter(|line| !line.ends_with(b" 0"));
            for line in lines.filter(|line| !line.is_empty()) {
                let _ = put(&path, line);
            }
        }
        // It says more than what can be written: CRIU keeps the first number of it.
        b"memory.oom_control" if value == b"0" => {}
        _ if value.is_empty() || says(&path, value) => {}
        name => match put(&path, value) {
            Err(error)
                if error.raw_os_error() == Some(libc::EOPNOTSUPP)
                    && name == b"memory.kmem.limit_in_bytes" => {}
            done => done?,
        },
    }
    file.perms.map_or(Ok(()), |perms| File::open(&path).and_then(|file| permit(&file, perms)))
}

/// Whether a file says this already.
fn says(path: &Path, value: &[u8]) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.trim_ascii_end() == value.trim_ascii_end())
}

fn permit(file: &File, perms: CgroupPerms) -> std::io::Result<()> {
    let stat = file.metadata()?;
    if (stat.uid(), stat.gid()) != (perms.uid, perms.gid) {
        fchown(file, Some(perms.uid), Some(perms.gid))?;
    }
    if stat.mode() & 0o7777 != perms.mode & 0o7777 {
        file.set_permissions(Permissions::from_mode(perms.mode & 0o7777))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(path: &Path) -> Vec<u8> {
        path.as_os_str().as_bytes().to_vec()
    }

    #[test]
    fn what_is_there_stays_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let (old, new) = (dir.path().join("old"), dir.path().join("old/new"));
        std::fs::create_dir(&old).expect("a directory");
        std::fs::write(old.join("pids.max"), "max\n").expect("a file");
        let file = |name: &str, value: &str| CgroupFile {
            name: name.as_bytes().to_vec(),
            value: value.as_bytes().to_vec(),
            perms: None,
        };
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let list = [
            Cgroup { directory: bytes(&old), perms: None, files: vec![file("pids.max", "7")] },
            Cgroup {
                directory: bytes(&new),
                perms: Some(CgroupPerms { mode: 0o40711, uid, gid }),
                files: vec![file("cgroup.procs", ""), file("pids.max", "")],
            },
        ];
        let mut made = Made::default();
        made.make(&list, &Seam::default()).expect("nothing has to be written");
        assert_eq!(std::fs::metadata(&new).expect("it is there").mode() & 0o7777, 0o711);
        assert_eq!(std::fs::read(old.join("pids.max")).expect("it is there"), b"max\n");
        assert_eq!(made.directories, std::slice::from_ref(&new));
        assert!(made.remove().is_empty());
        assert!(!new.exists() && old.exists());
    }

    #[test]
    fn what_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let new = dir.path().join("new");
        let missing = dir.path().join("missing/new");
        let list =
            [&new, &missing].map(|path| Cgroup { directory: bytes(path), perms: None, files: Vec::new() });
        let mut made = Made::default();
        let failed = made.make(&list, &Seam::default()).expect_err("there is nothing above it");
        assert_eq!(failed, Failed { index: 1, file: None, errno: Errno::ENOENT });
        assert!(made.remove().is_empty() && !new.exists());
    }
}
