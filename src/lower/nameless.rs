//! Inodes without a name: memfds, unlinked files and directories.
//!
//! Files are made under their names, filled, and unlinked; directories are removed when all is made
//! in them; then everything is opened through `/proc/self/fd`, which works without a name and gives
//! the name that it had. What may be left behind by a task that is killed in between is noted in
//! flags of the region: see [`crate::coordinator::undo`].

use std::collections::BTreeMap;

use regrow_graph::ids::Fd;

use super::Lowering;
use crate::resolve::Recipes;
use crate::resolve::recipe::{
    Content, Inode, InodeKind, NEW_DIRECTORY_MODE, NEW_FILE_MODE, Nameless, ResourceKind,
};
use crate::tape::UndoKind;

/// `fcntl(F_ADD_SEALS)` (uapi/linux/fcntl.h).
const F_ADD_SEALS: u64 = 1033;
/// `MFD_EXEC` (uapi/linux/memfd.h, since Linux 6.3): what is stored of the mode counts, whatever
/// `vm.memfd_noexec` says.
const MFD_EXEC: u64 = 0x10;
const MFD_CLOEXEC: u64 = 1;
const MFD_ALLOW_SEALING: u64 = 2;
const F_SEAL_SEAL: u32 = 1;
/// Most bytes of one `sendfile(2)`; the kernel stops at 0x7ffff000.
const COPY_MAX: u64 = 1 << 30;
const AT_CWD: u64 = libc::AT_FDCWD as u64;

/// How many names are made and removed again.
pub(super) fn names(recipes: &Recipes) -> usize {
    let count = |recipe: &Nameless| {
        let names =
            recipe.inodes.iter().map(|inode| usize::from(inode.kind.has_name()) + inode.further.len());
        recipe.scaffold.len() + names.sum::<usize>()
    };
    recipes
        .resources
        .iter()
        .map(|resource| match &resource.kind {
            ResourceKind::Nameless(recipe) => count(recipe),
            _ => 0,
        })
        .sum()
}

/// The words of one undo entry.
#[derive(Clone, Copy)]
struct Flags {
    made: u64,
    gone: u64,
}

impl Lowering<'_> {
    pub(super) fn nameless(&mut self, recipe: &Nameless, at: &[Fd], cloexec: bool) {
        let mut numbers = at.iter().map(|fd| u64::from(*fd));
        let mut number = || numbers.next().unwrap_or(u64::MAX);
        let close = if cloexec { libc::O_CLOEXEC as u64 } else { 0 };
        // The numbers of each inode, in the order in which the kernel gives them.
        let mut further: Vec<Vec<u64>> = Vec::with_capacity(recipe.inodes.len());
        let mut fds: Vec<(u64, u64)> = Vec::with_capacity(recipe.inodes.len());
        for inode in &recipe.inodes {
            let made = number();
            further.push(inode.further.iter().map(|_| number()).collect());
            fds.push((made, if inode.contents.is_empty() { u64::MAX } else { number() }));
        }
        let opened: Vec<u64> = recipe.opens.iter().map(|_| number()).collect();

        let mut directories: BTreeMap<&str, Option<u64>> =
            recipe.scaffold.iter().map(|path| (path.as_str(), None)).collect();
        for (inode, (fd, _)) in recipe.inodes.iter().zip(&fds) {
            if let InodeKind::Directory { path } = &inode.kind {
                directories.insert(path, Some(*fd));
            }
        }
        let mut standing = Vec::with_capacity(directories.len());
        for (path, fd) in &directories {
            let flags = self.begin(path, UndoKind::Directory);
            let text = self.asm.text(path.as_bytes());
            self.tape.call(libc::SYS_mkdirat, &[AT_CWD, text, u64::from(NEW_DIRECTORY_MODE)], 0);
            self.tape.post(flags.made);
            standing.push((text, flags));
            if let Some(fd) = fd {
                let how = (libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW) as u64 | close;
                self.tape.call(libc::SYS_openat, &[AT_CWD, text, how, 0], *fd);
            }
        }
        for ((inode, (fd, source)), further) in recipe.inodes.iter().zip(&fds).zip(&further) {
            match &inode.kind {
                InodeKind::Directory { .. } => {}
                InodeKind::Fifo { path, capacity, data } => {
                    let flags = self.begin(path, UndoKind::File);
                    let text = self.asm.text(path.as_bytes());
                    let mode = u64::from(libc::S_IFIFO | NEW_FILE_MODE);
                    self.tape.call(libc::SYS_mknodat, &[AT_CWD, text, mode, 0], 0);
                    self.tape.post(flags.made);
                    // For reading and writing it never waits, and spares the others waiting.
                    let how = (libc::O_RDWR | libc::O_NOFOLLOW) as u64 | close;
                    self.tape.call(libc::SYS_openat, &[AT_CWD, text, how, 0], *fd);
                    self.fill_pipe(*fd, *capacity, data);
                    self.remove(text, flags);
                    self.attributes(inode, *fd);
                }
                InodeKind::Linked { path, from } => {
                    let links = std::iter::once(path).chain(&inode.further);
                    let fds = std::iter::once(fd).chain(further);
                    let names: Vec<_> = links.map(|name| self.link(from, name)).collect();
                    for ((text, flags), fd) in names.into_iter().zip(fds) {
                        self.open_name(text, *fd, close);
                        self.remove(text, flags);
                    }
                    self.asm.spend(from.as_bytes());
                }
                InodeKind::Memfd { name, seals, huge } => {
                    // Without MFD_ALLOW_SEALING it would have F_SEAL_SEAL from the start.
                    let how = MFD_EXEC
                        | huge.map_or(0, |huge| u64::from(huge.flags))
                        | if cloexec { MFD_CLOEXEC } else { 0 }
                        | if *seals == F_SEAL_SEAL { 0 } else { MFD_ALLOW_SEALING };
                    let name = self.asm.text(name.as_bytes());
                    self.tape.call(libc::SYS_memfd_create, &[name, how], *fd);
                    match huge {
                        Some(huge) => self.fill_huge(inode, *fd, *source, close, huge.scratch),
                        None => self.fill_file(inode, *fd, *source, close),
                    }
                    self.attributes(inode, *fd);
                    self.keep_first(inode, *fd);
                    if *seals != 0 && *seals != F_SEAL_SEAL {
                        self.tape.call(libc::SYS_fcntl, &[*fd, F_ADD_SEALS, u64::from(*seals)], 0);
                    }
                }
                InodeKind::File { path, aside } => {
                    let flags = match aside {
                        Some(aside) => self.begin(&format!("{aside}\0{path}"), UndoKind::ChangedPlaces),
                        None => self.begin(path, UndoKind::File),
                    };
                    let own = self.asm.text(path.as_bytes());
                    let text = aside.as_ref().map_or(own, |aside| self.asm.text(aside.as_bytes()));
                    let how =
                        (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_NOCTTY)
                            as u64
                            | close;
                    self.tape.call(libc::SYS_openat, &[AT_CWD, text, how, u64::from(NEW_FILE_MODE)], *fd);
                    self.tape.post(flags.made);
                    // While it is empty: so it can be told apart from others after a failure.
                    let links: Vec<_> = inode.further.iter().map(|name| self.link(path, name)).collect();
                    for ((text, flags), fd) in links.into_iter().zip(further) {
                        self.open_name(text, *fd, close);
                        self.remove(text, flags);
                    }
                    self.fill_file(inode, *fd, *source, close);
                    if aside.is_some() {
                        // What is overwritten keeps its name (rename(2), fs/dcache.c `__d_move`).
                        for exchange in [u64::from(libc::RENAME_EXCHANGE), 0] {
                            self.tape.call(libc::SYS_renameat2, &[AT_CWD, text, AT_CWD, own, exchange], 0);
                        }
                        self.tape.post(flags.gone);
                    } else {
                        self.remove(text, flags);
                    }
                    self.attributes(inode, *fd);
                    self.keep_first(inode, *fd);
                }
            }
        }
        for (text, flags) in standing.into_iter().rev() {
            self.tape.call(libc::SYS_unlinkat, &[AT_CWD, text, libc::AT_REMOVEDIR as u64], 0);
            self.tape.post(flags.gone);
        }
        for (inode, (fd, _)) in recipe.inodes.iter().zip(&fds) {
            if let InodeKind::Directory { .. } = inode.kind {
                self.attributes(inode, *fd);
            }
        }
        for (open, fd) in recipe.opens.iter().zip(opened) {
            let made = match open.name.checked_sub(1) {
                None => fds.get(open.inode).map(|(made, _)| made),
                Some(name) => further.get(open.inode).and_then(|fds| fds.get(name)),
            };
            let Some(made) = made else { continue };
            let path = self.asm.text(format!("/proc/self/fd/{made}").as_bytes());
            // An open only pretends to set O_ASYNC (open(2), BUGS).
            let is_async = open.flags & libc::O_ASYNC as u32 != 0;
            let how = u64::from(open.flags & !(libc::O_ASYNC as u32)) | libc::O_NOCTTY as u64 | close;
            self.tape.call(libc::SYS_openat, &[AT_CWD, path, how, 0], fd);
            if is_async {
                self.tape.call(libc::SYS_fcntl, &[fd, libc::F_SETFL as u64, u64::from(open.flags)], 0);
            }
            if open.position != 0 {
                self.tape.call(libc::SYS_lseek, &[fd, open.position, libc::SEEK_SET as u64], open.position);
            }
        }
    }

    /// Says that a name is about to be made.
    fn begin(&mut self, path: &str, kind: UndoKind) -> Flags {
        let [intent, made, gone] = self.asm.undo(path.as_bytes(), kind);
        self.tape.post(intent);
        Flags { made, gone }
    }

    /// One more name of a file: its text, and what is to be said when it is gone.
    fn link(&mut self, from: &str, name: &str) -> (u64, Flags) {
        let flags = self.begin(&format!("{name}\0{from}"), UndoKind::Link);
        let [old, new] = [from, name].map(|path| self.asm.text(path.as_bytes()));
        self.tape.call(libc::SYS_linkat, &[AT_CWD, old, AT_CWD, new, 0], 0);
        self.tape.post(flags.made);
        (new, flags)
    }

    /// A descriptor that stands for a name: what is opened through it has that name.
    fn open_name(&mut self, text: u64, fd: u64, close: u64) {
        let how = (libc::O_PATH | libc::O_NOFOLLOW) as u64 | close;
        self.tape.call(libc::SYS_openat, &[AT_CWD, text, how, 0], fd);
    }

    fn remove(&mut self, text: u64, flags: Flags) {
        self.tape.call(libc::SYS_unlinkat, &[AT_CWD, text, 0], 0);
        self.tape.post(flags.gone);
    }

    /// What is not filled is a hole.
    fn set_length(&mut self, inode: &Inode, fd: u64) {
        if inode.size_bytes != 0 {
            self.tape.call(libc::SYS_ftruncate, &[fd, inode.size_bytes], 0);
        }
    }

    fn fill_file(&mut self, inode: &Inode, fd: u64, source: u64, close: u64) {
        self.set_length(inode, fd);
        for (index, content) in inode.contents.iter().enumerate() {
            self.open_content(index, content, source, close);
            for piece in &content.pieces {
                let mut done = 0;
                while done < piece.len {
                    let now = (piece.len - done).min(COPY_MAX);
                    for (fd, position) in [(fd, piece.at + done), (source, piece.from + done)] {
                        self.tape.call(libc::SYS_lseek, &[fd, position, libc::SEEK_SET as u64], position);
                    }
                    self.tape.call(libc::SYS_sendfile, &[fd, source, 0, now], now);
                    done += now;
                }
            }
        }
    }

    /// A file of huge pages is filled where it is mapped: it cannot be written (fs/hugetlbfs/inode.c).
    fn fill_huge(&mut self, inode: &Inode, fd: u64, source: u64, close: u64, scratch: u64) {
        self.set_length(inode, fd);
        if inode.contents.is_empty() {
            return;
        }
        let prot = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        // Nothing is reserved: what is not filled stays a hole.
        let flags = (libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE | libc::MAP_NORESERVE) as u64;
        self.tape.call(libc::SYS_mmap, &[scratch, inode.size_bytes, prot, flags, fd, 0], scratch);
        for (index, content) in inode.contents.iter().enumerate() {
            self.open_content(index, content, source, close);
            for piece in &content.pieces {
                let mut done = 0;
                while done < piece.len {
                    let now = (piece.len - done).min(COPY_MAX);
                    let args = [source, scratch + piece.at + done, now, piece.from + done];
                    self.tape.call(libc::SYS_pread64, &args, now);
                    done += now;
                }
            }
        }
        // Before the seals: none against writing can be had while it is mapped to be written (memfd_create(2)).
        self.tape.call(libc::SYS_munmap, &[scratch, inode.size_bytes], 0);
    }

    /// Opens the next image that a file is filled from. Each is open at the same number; the last one stays.
    fn open_content(&mut self, index: usize, content: &Content, source: u64, close: u64) {
        if index > 0 {
            self.tape.call(libc::SYS_close, &[source], 0);
        }
        let path = self.asm.text(content.path.as_bytes());
        let how = (libc::O_RDONLY | libc::O_NOCTTY) as u64 | close;
        self.tape.call(libc::SYS_openat, &[AT_CWD, path, how, 0], source);
    }

    /// Makes the description that an inode was made by one of those that are wanted.
    fn keep_first(&mut self, inode: &Inode, fd: u64) {
        let Some((flags, position)) = inode.first else { return };
        if position != 0 || !inode.contents.is_empty() {
            self.tape.call(libc::SYS_lseek, &[fd, position, libc::SEEK_SET as u64], position);
        }
        if flags != 0 {
            self.tape.call(libc::SYS_fcntl, &[fd, libc::F_SETFL as u64, u64::from(flags)], 0);
        }
    }

    /// Owner before mode, which a change of the owner may alter (chown(2)); times last.
    fn attributes(&mut self, inode: &Inode, fd: u64) {
        self.tape.call(libc::SYS_fchown, &[fd, u64::from(inode.uid), u64::from(inode.gid)], 0);
        self.tape.call(libc::SYS_fchmod, &[fd, u64::from(inode.mode)], 0);
        if let Some((atime, mtime)) = inode.times {
            let words = [atime.0 as u64, atime.1, mtime.0 as u64, mtime.1];
            let times = self.asm.words(&words);
            self.tape.call(libc::SYS_utimensat, &[fd, 0, times, 0], 0);
        }
    }
}
