//! The files that the images name, as they are here.
//!
//! In: paths of the model. Out: a [`FileFact`] for each: what opening the name would reach, or why
//! it would fail, and the build-id where the images have one to compare with. Whether opening is
//! *allowed* is left to the restore, which does it.
//!
//! Names of the images are those that the kernel prints, without symbolic links. A restore opens
//! them following links all the same, as CRIU does (`criu/files-reg.c`, `open_path`), so that a
//! distribution that has turned `/bin` into a link is no obstacle. Only a description of a symbolic
//! link itself (`O_PATH | O_NOFOLLOW`) asks for the link, and `is_symlink` is there for it.
//!
//! Example: `/usr/bin/python3` of the images is now a link to `python3.11`: `reached` describes the
//! latter, and `is_symlink` is set.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, fstat, fstatat, lstat};
use nix::sys::statfs::{FsType, fstatfs};
use object::elf::{FileHeader32, FileHeader64, NT_GNU_BUILD_ID};
use object::read::elf::{FileHeader, ProgramHeader};
use object::read::{ReadCache, ReadRef};
use object::{Endianness, FileKind};

use crate::image::{Ofd, OfdKind};

/// A longer description of a note is no build-id; CRIU's bound.
const BUILD_ID_MAX_BYTES: usize = 512;
/// CRIU looks for a build-id in this much of a file; a segment of notes is smaller by far.
const NOTES_MAX_BYTES: u64 = 1 << 20;
/// uapi/linux/magic.h.
const HUGETLBFS_MAGIC: FsType = FsType(0x9584_58f6);
/// Bytes of the usual page.
const SMALL: u64 = 4096;
/// What `st_blocks` counts.
const SECTOR: u64 = 512;
/// No path is as long (path_resolution(7)).
const PATH_MAX: usize = libc::PATH_MAX as usize;

/// One file that the images name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFact {
    /// What the name leads to if symbolic links are followed, or what keeps it from being found.
    pub reached: Result<FileStat, Errno>,
    /// Whether the last part of the name is a symbolic link.
    pub is_symlink: bool,
    /// If some entry of the images has a build-id for this name: the one of the file here, padded
    /// with zeros to a multiple of four bytes as CRIU stores it, or why it has none, in words.
    pub build_id: Option<Result<Vec<u8>, String>>,
    /// Its pages, if it is a file of a hugetlbfs.
    pub huge: Option<HugeFile>,
}

/// A regular file of a hugetlbfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HugeFile {
    /// How large its pages are.
    pub page_bytes: u64,
    /// How many of them it has.
    pub pages: u64,
}

/// What `stat(2)` says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    /// Type and permissions: `st_mode`.
    pub mode: u32,
    /// Length.
    pub size_bytes: u64,
    /// Of a device file: the device.
    pub rdev: u64,
    /// Inode number.
    pub ino: u64,
    /// The file system that holds it.
    pub dev: u64,
    /// `st_blksize`.
    pub block_bytes: u64,
    /// `st_blocks`: how much it takes, in pieces of 512 bytes.
    pub sectors: u64,
}

/// Every path of `ofds`, and whether a build-id is wanted: of regular descriptions (among them
/// executables, mapped files, working and root directories) and of unix sockets bound to a name.
pub(super) fn named_by(ofds: &[Ofd]) -> BTreeMap<String, bool> {
    let mut paths = BTreeMap::new();
    for ofd in ofds {
        match &ofd.kind {
            // The name of an external file is a key for the user's options and no path.
            OfdKind::Reg(file) if !file.is_external => {
                *paths.entry(file.path.clone()).or_default() |= !file.build_id.is_empty();
            }
            OfdKind::Unix(socket) => {
                if let Some(path) = socket_path(&socket.name, socket.name_dir.as_deref()) {
                    paths.entry(path).or_default();
                }
                if let Some(dir) = directory_of_socket(&socket.name, socket.name_dir.as_deref()) {
                    paths.entry(dir).or_default();
                }
            }
            _ => {}
        }
    }
    paths
}

/// The path that a unix socket is bound to; `None` if it is unbound or its name is abstract.
fn socket_path(name: &[u8], name_dir: Option<&str>) -> Option<String> {
    let name = name.split(|&byte| byte == 0).next().filter(|name| !name.is_empty())?;
    let name = std::str::from_utf8(name).ok()?;
    match name_dir {
        Some(dir) if !name.starts_with('/') => Some(format!("{}/{name}", dir.trim_end_matches('/'))),
        _ => Some(String::from(name)),
    }
}

/// The directory of the file that stands for a unix socket's name.
pub(crate) fn directory_of_socket(name: &[u8], name_dir: Option<&str>) -> Option<String> {
    let path = socket_path(name, name_dir)?;
    let (dir, _) = path.rsplit_once('/')?;
    Some(String::from(if dir.is_empty() { "/" } else { dir }))
}

pub(super) fn gather(paths: &BTreeMap<String, bool>, root: Option<&Path>) -> BTreeMap<String, FileFact> {
    let tree = match root {
        None => Ok(Tree { root: None }),
        Some(root) => open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .map(|root| Tree { root: Some(root) }),
    };
    let look_up = |path: &str, wants_build_id| match &tree {
        Ok(tree) => tree.look_up(path, wants_build_id),
        Err(errno) => FileFact { reached: Err(*errno), is_symlink: false, build_id: None, huge: None },
    };
    let mut facts: BTreeMap<String, FileFact> =
        paths.iter().map(|(path, &wants_build_id)| (path.clone(), look_up(path, wants_build_id))).collect();
    // Of what is missing it matters which of the directories above it are there: the first that is not, for
    // nothing is below it.
    let missing: Vec<String> =
        facts.iter().filter(|(_, fact)| fact.reached.is_err()).map(|(path, _)| path.clone()).collect();
    for path in missing.iter().filter(|path| path.len() < PATH_MAX) {
        let mut above =
            path.match_indices('/').map(|(end, _)| &path[..end]).filter(|above| !above.is_empty());
        let first = above.find_map(|above| {
            let fact = look_up(above, false);
            fact.reached.is_err().then_some((above, fact))
        });
        if let Some((above, fact)) = first {
            facts.entry(above.to_owned()).or_insert(fact);
        }
    }
    facts
}

/// Where paths begin: at a directory, or at this process's own root.
struct Tree {
    root: Option<OwnedFd>,
}

impl Tree {
    fn look_up(&self, path: &str, wants_build_id: bool) -> FileFact {
        let (reached, is_symlink) = self.stat(path);
        let build_id = match &reached {
            Ok(stat) if wants_build_id && is_regular(stat.mode) => Some(self.read_build_id(path)),
            _ => None,
        };
        let huge = match &reached {
            // Of others a block is a page at most, but for few.
            Ok(stat) if is_regular(stat.mode) && stat.block_bytes > SMALL => self.huge(path, stat),
            _ => None,
        };
        FileFact { reached, is_symlink, build_id, huge }
    }

    /// A block of a hugetlbfs is a page (fs/hugetlbfs/inode.c, `hugetlbfs_fill_super`).
    fn huge(&self, path: &str, stat: &FileStat) -> Option<HugeFile> {
        let file = self.open(path, OFlag::O_PATH).ok()?;
        let is_hugetlbfs = fstatfs(&file).is_ok_and(|found| found.filesystem_type() == HUGETLBFS_MAGIC);
        let pages = stat.sectors.saturating_mul(SECTOR) / stat.block_bytes;
        is_hugetlbfs.then_some(HugeFile { page_bytes: stat.block_bytes, pages })
    }

    /// What `path` reaches, and whether its last part is a symbolic link.
    fn stat(&self, path: &str) -> (Result<FileStat, Errno>, bool) {
        let link = match &self.root {
            None => lstat(path),
            Some(_) => self.open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW).and_then(fstat),
        };
        match link.map(FileStat::from) {
            Ok(link) if is_symlink(link.mode) => {
                let target = match &self.root {
                    None => fstatat(AT_FDCWD, path, AtFlags::empty()),
                    Some(_) => self.open(path, OFlag::O_PATH).and_then(fstat),
                };
                (target.map(FileStat::from), true)
            }
            link => (link, false),
        }
    }

    /// Opens `path` with absolute names and links meaning what they would after a chroot.
    fn open(&self, path: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlag::O_CLOEXEC;
        match &self.root {
            None => open(path, flags, Mode::empty()),
            Some(root) => {
                openat2(root, path, OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT))
            }
        }
    }

    fn read_build_id(&self, path: &str) -> Result<Vec<u8>, String> {
        // Not to hang on a file that became a FIFO since it was looked at.
        let fd = self
            .open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
            .map_err(|e| e.to_string())?;
        let file = File::from(fd);
        file.metadata().map_err(|e| e.to_string()).and_then(|metadata| {
            if is_regular(metadata.mode()) { Ok(()) } else { Err(String::from("no longer a regular file")) }
        })?;
        find_build_id(&ReadCache::new(file)).map_err(String::from)
    }
}

impl From<nix::sys::stat::FileStat> for FileStat {
    fn from(stat: nix::sys::stat::FileStat) -> FileStat {
        FileStat {
            mode: stat.st_mode,
            size_bytes: stat.st_size as u64,
            rdev: stat.st_rdev,
            ino: stat.st_ino,
            dev: stat.st_dev,
            block_bytes: stat.st_blksize as u64,
            sectors: stat.st_blocks as u64,
        }
    }
}

fn is_regular(mode: u32) -> bool {
    mode & libc::S_IFMT == libc::S_IFREG
}

fn is_symlink(mode: u32) -> bool {
    mode & libc::S_IFMT == libc::S_IFLNK
}

/// The build-id in an ELF file; reads the headers and the notes and nothing else.
fn find_build_id<'data, R: ReadRef<'data>>(data: R) -> Result<Vec<u8>, &'static str> {
    match FileKind::parse(data) {
        Ok(FileKind::Elf32) => find_note(FileHeader32::<Endianness>::parse(data), data),
        Ok(FileKind::Elf64) => find_note(FileHeader64::<Endianness>::parse(data), data),
        _ => Err("not an ELF file"),
    }
}

fn find_note<'data, H: FileHeader<Endian = Endianness>, R: ReadRef<'data>>(
    header: object::read::Result<&'data H>,
    data: R,
) -> Result<Vec<u8>, &'static str> {
    const BROKEN: &str = "broken ELF headers";
    let header = header.map_err(|_| BROKEN)?;
    let endian = header.endian().map_err(|_| BROKEN)?;
    for segment in header.program_headers(endian, data).map_err(|_| BROKEN)? {
        let (_, size_bytes) = segment.file_range(endian);
        if size_bytes > NOTES_MAX_BYTES {
            continue;
        }
        let Ok(Some(mut notes)) = segment.notes(endian, data) else { continue };
        while let Ok(Some(note)) = notes.next() {
            // Whatever its name: CRIU takes the first note of this type, and what it took is what
            // the caller compares with.
            if note.n_type(endian) == NT_GNU_BUILD_ID {
                return match note.desc() {
                    [] => Err("empty build-id"),
                    id if id.len() > BUILD_ID_MAX_BYTES => Err("build-id is too long"),
                    id => {
                        let mut padded = id.to_vec();
                        padded.resize(id.len().next_multiple_of(4), 0);
                        Ok(padded)
                    }
                };
            }
        }
    }
    Err("no build-id")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up(root: Option<&Path>, path: &str) -> FileFact {
        let paths = BTreeMap::from([(String::from(path), true)]);
        gather(&paths, root).remove(path).expect("every path has a fact")
    }

    /// A file system below a directory: `a/file`, `abs -> /a/file`, `dangling -> /nowhere`, `up -> ../../..`.
    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join("a")).expect("mkdir");
        std::fs::write(dir.path().join("a/file"), b"12345").expect("write");
        for (name, target) in [("abs", "/a/file"), ("dangling", "/nowhere"), ("up", "../../..")] {
            std::os::unix::fs::symlink(target, dir.path().join(name)).expect("symlink");
        }
        dir
    }

    #[test]
    fn links_lead_no_further_than_the_root() {
        let dir = tree();
        let own = std::fs::metadata(dir.path()).expect("stat");
        let check = |path: &str, size_bytes: Result<u64, Errno>, is_symlink: bool| {
            let fact = look_up(Some(dir.path()), path);
            assert_eq!(
                (fact.reached.map(|stat| stat.size_bytes), fact.is_symlink),
                (size_bytes, is_symlink),
                "{path}"
            );
        };
        check("/a/file", Ok(5), false);
        check("a/file", Ok(5), false);
        check("/abs", Ok(5), true);
        check("/dangling", Err(Errno::ENOENT), true);
        check("/a/none", Err(Errno::ENOENT), false);
        check("/a/file/x", Err(Errno::ENOTDIR), false);
        let up = look_up(Some(dir.path()), "/up").reached.expect("found");
        assert_eq!((up.ino, up.dev), (own.ino(), own.dev()));
        assert_eq!(look_up(Some(&dir.path().join("none")), "/").reached, Err(Errno::ENOENT));
    }

    #[test]
    fn without_a_root_names_mean_what_they_say() {
        let dir = tree();
        let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
        let file = look_up(None, &path("a/file"));
        assert_eq!(file.reached.map(|stat| (stat.size_bytes, is_regular(stat.mode))), Ok((5, true)));
        assert_eq!(file.build_id, Some(Err(String::from("not an ELF file"))));
        let dangling = look_up(None, &path("dangling"));
        assert_eq!(
            (dangling.reached, dangling.is_symlink, dangling.build_id),
            (Err(Errno::ENOENT), true, None)
        );
        let null = look_up(None, "/dev/null").reached.expect("found");
        assert_eq!((null.mode & libc::S_IFMT, null.rdev), (libc::S_IFCHR, libc::makedev(1, 3)));
    }

    #[test]
    fn sockets_are_looked_up_where_they_were_bound() {
        let check = |name: &[u8], dir: Option<&str>, expected: Option<&str>| {
            assert_eq!(socket_path(name, dir).as_deref(), expected);
        };
        check(b"", None, None);
        check(b"\0abstract", None, None);
        check(b"/run/s\0", None, Some("/run/s"));
        check(b"/run/s", Some("/home"), Some("/run/s"));
        check(b"s", Some("/run"), Some("/run/s"));
        check(b"s", Some("/"), Some("/s"));
    }

    /// An ELF file of 64 bits, little endian, with one PT_NOTE segment.
    fn elf(notes: &[u8]) -> Vec<u8> {
        let mut file = vec![0u8; 64 + 56];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[16] = 2;
        file[18] = 62;
        file[20] = 1;
        file[32] = 64; // e_phoff
        file[52] = 64;
        file[54] = 56;
        file[56] = 1; // e_phnum
        file[64] = 4; // PT_NOTE
        file[64 + 8] = 120; // p_offset
        file[64 + 32..64 + 40].copy_from_slice(&(notes.len() as u64).to_le_bytes());
        file[64 + 48] = 4; // p_align
        file.extend_from_slice(notes);
        file
    }

    fn note(kind: u32, name: &[u8; 4], desc: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [4, desc.len() as u32, kind] {
            note.extend_from_slice(&word.to_le_bytes());
        }
        note.extend_from_slice(name);
        note.extend_from_slice(desc);
        note.resize(note.len().next_multiple_of(4), 0);
        note
    }

    #[test]
    fn build_ids_are_found_and_padded() {
        let check = |file: &[u8], expected: Result<&[u8], &str>| {
            assert_eq!(find_build_id(file).as_deref().map_err(|e| *e), expected);
        };
        let abi = note(1, b"GNU\0", &[0; 16]);
        check(&elf(&[abi.clone(), note(3, b"GNU\0", &[7; 20])].concat()), Ok(&[7; 20]));
        check(&elf(&note(3, b"GNU\0", &[1, 2, 3, 4, 5])), Ok(&[1, 2, 3, 4, 5, 0, 0, 0]));
        check(&elf(&note(3, b"GNU\0", &[])), Err("empty build-id"));
        check(&elf(&note(3, b"GNU\0", &[1; 600])), Err("build-id is too long"));
        check(&elf(&abi), Err("no build-id"));
        check(b"#!/bin/sh\n", Err("not an ELF file"));
        check(b"", Err("not an ELF file"));
        let whole = elf(&note(3, b"GNU\0", &[7; 20]));
        for end in 0..whole.len() {
            assert!(find_build_id(&whole[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn the_build_id_of_a_real_file_agrees_with_readelf() {
        let path = std::env::current_exe().expect("current_exe");
        let path = path.to_str().expect("UTF-8");
        let Ok(output) = std::process::Command::new("readelf").args(["-n", path]).output() else { return };
        let output = String::from_utf8_lossy(&output.stdout);
        let Some((_, id)) = output.split_once("Build ID: ") else { return };
        let id: String = id.chars().take_while(char::is_ascii_hexdigit).collect();
        let found = look_up(None, path).build_id.expect("asked for").expect("found");
        assert_eq!(found.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), id);
    }
}
