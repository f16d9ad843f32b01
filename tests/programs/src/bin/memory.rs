//! Address spaces: `memory DIR [PART]`, where the part is `plain` or `files`. Mappings of all plain kinds, with content that a root, two children and
//! a grandchild have in common, or have each changed for themselves.
//!
//! `plain` has anonymous memory where `files` has a memfd and a deleted file.
//!
//! Layout and content are compared from outside. What is checked here is what a mapping *means*: that a
//! write to private memory is seen by nobody else, one to shared memory by all, one to a file by the file.

use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use regrow_test_programs::{Task, pattern};

const PAGE: usize = 4096;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// A mapping, by its address: several tasks have it there, each in its own address space.
#[derive(Clone, Copy)]
struct Area {
    start: *mut u8,
    bytes: usize,
}

impl Area {
    fn map(pages: usize, protection: i32, flags: i32, file: Option<(&OwnedFd, usize)>) -> Area {
        let (fd, offset) = file.map_or((-1, 0), |(fd, page)| (fd.as_raw_fd(), page * PAGE));
        // SAFETY: no address is given, so nothing is replaced.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), pages * PAGE, protection, flags, fd, offset as libc::off_t)
        };
        assert!(start != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Area { start: start.cast(), bytes: pages * PAGE }
    }

    fn private(pages: usize) -> Area {
        Area::map(pages, RW, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None)
    }

    /// Some pages of this area, as an area.
    fn part(self, first: usize, pages: usize) -> Area {
        assert!((first + pages) * PAGE <= self.bytes);
        Area { start: self.start.wrapping_add(first * PAGE), bytes: pages * PAGE }
    }

    fn write(self, at: usize, content: &[u8]) {
        assert!(at + content.len() <= self.bytes);
        // SAFETY: the range is inside the mapping, which the program keeps.
        unsafe { std::ptr::copy_nonoverlapping(content.as_ptr(), self.start.add(at), content.len()) };
    }

    fn read(self, at: usize, length: usize) -> Vec<u8> {
        assert!(at + length <= self.bytes);
        let mut content = vec![0; length];
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(self.start.add(at), content.as_mut_ptr(), length) };
        content
    }

    fn fill(self, seed: u64) {
        self.write(0, &pattern(seed, self.bytes));
    }

    fn holds(self, seed: u64) -> bool {
        self.read(0, self.bytes) == pattern(seed, self.bytes)
    }

    fn is_zero(self) -> bool {
        self.read(0, self.bytes).iter().all(|byte| *byte == 0)
    }

    fn protect(self, protection: i32) {
        // SAFETY: the area is a mapping of the program that no Rust reference points into.
        let result = unsafe { libc::mprotect(self.start.cast(), self.bytes, protection) };
        assert_eq!(result, 0, "mprotect: {}", std::io::Error::last_os_error());
    }

    /// Whether the kernel took the advice: some are matters of its configuration.
    fn advise(self, advice: i32) -> bool {
        // SAFETY: as in `protect`.
        unsafe { libc::madvise(self.start.cast(), self.bytes, advice) == 0 }
    }

    fn unmap(self) {
        // SAFETY: as in `protect`; nothing uses the area afterwards.
        let result = unsafe { libc::munmap(self.start.cast(), self.bytes) };
        assert_eq!(result, 0, "munmap: {}", std::io::Error::last_os_error());
    }

    /// A second mapping of the same shared pages.
    fn again(self) -> Area {
        self.remap(0, self.bytes)
    }

    /// The mapping at another address.
    fn moved(self) -> Area {
        // Keeps the kernel from giving the old address: the way there is taken.
        let target =
            Area::map(self.bytes / PAGE, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None);
        // SAFETY: both ranges are mappings of the program; the target was made for this.
        let start = unsafe {
            libc::mremap(
                self.start.cast(),
                self.bytes,
                self.bytes,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                target.start.cast::<libc::c_void>(),
            )
        };
        assert!(start != libc::MAP_FAILED, "mremap: {}", std::io::Error::last_os_error());
        Area { start: start.cast(), bytes: self.bytes }
    }

    fn remap(self, old_bytes: usize, new_bytes: usize) -> Area {
        // SAFETY: as above; an old size of 0 leaves the old mapping.
        let start = unsafe { libc::mremap(self.start.cast(), old_bytes, new_bytes, libc::MREMAP_MAYMOVE) };
        assert!(start != libc::MAP_FAILED, "mremap: {}", std::io::Error::last_os_error());
        Area { start: start.cast(), bytes: new_bytes }
    }
}

/// What all tasks of the program inherit.
#[derive(Clone, Copy)]
struct Areas {
    file_private: Area,
    file_shared: Area,
    deleted: Area,
    mixed: Area,
    shared: Area,
    unreserved: Area,
    memfd: Area,
    copied: Area,
    sparse: Area,
}

/// Pages of `sparse` that hold something: all of one in 97.
const SPARSE_PAGES: usize = (64 << 20) / PAGE;
const SPARSE_STEP: usize = 97;

fn main() {
    let mut task = Task::root();
    let with_files = match std::env::args().nth(2).as_deref() {
        None | Some("plain") => false,
        Some("files") => true,
        Some(other) => panic!("there is no part {other}"),
    };
    let areas = prepare(&task, with_files);
    let only_here = OnlyHere::prepare();
    let mut heap = Heap::grow();

    task.spawn("first", |task| first_child(task, areas));
    task.spawn("second", |task| second_child(task, areas));
    // Behind the children's back: they keep what was there at their fork.
    areas.copied.part(0, 8).fill(100);
    areas.copied.part(40, 1).write(5, b"root");

    task.park();

    check_common(&mut task, areas);
    only_here.check(&mut task);
    heap.check(&mut task);
    task.check("the root's own pages", areas.copied.part(0, 8).holds(100));
    task.check("untouched pages", areas.copied.part(8, 8).holds_part_of(7, 8));
    areas.copied.part(9, 1).fill(101);
    areas.shared.write(0, b"from the root");
    task.collect();
    // What the children did after the restore.
    task.check_eq("shared memory", areas.shared.read(PAGE, 5), b"first".to_vec());
    task.check_eq("shared memory", areas.shared.read(2 * PAGE, 6), b"second".to_vec());
    task.check_eq("memfd", areas.memfd.read(PAGE, 5), b"first".to_vec());
    task.check_eq("the shared file", areas.file_shared.read(PAGE, 5), b"first".to_vec());
    let content = fs::read(shared_file(&task)).unwrap_or_default();
    task.check_eq("the file itself", content.get(PAGE..PAGE + 5), Some(&b"first"[..]));
    let content = fs::read(private_file(&task)).unwrap_or_default();
    task.check("the file below private pages", content == pattern(1, 16 * PAGE));
    task.check("private pages, after the children wrote theirs", areas.copied.part(9, 1).holds(101));
    task.check_eq(
        "private pages",
        areas.copied.part(20, 1).read(0, 4),
        pattern(7, 64 * PAGE)[20 * PAGE..][..4].to_vec(),
    );
    task.finish();
}

impl Area {
    /// Whether this holds the pages from `first` of a larger pattern.
    fn holds_part_of(self, seed: u64, first: usize) -> bool {
        self.read(0, self.bytes) == pattern(seed, first * PAGE + self.bytes)[first * PAGE..]
    }
}

fn private_file(task: &Task) -> PathBuf {
    task.file("private")
}

fn shared_file(task: &Task) -> PathBuf {
    task.file("shared")
}

fn file(path: PathBuf, seed: u64, pages: usize) -> OwnedFd {
    fs::write(&path, pattern(seed, pages * PAGE)).expect("write");
    OpenOptions::new().read(true).write(true).open(path).expect("open").into()
}

fn prepare(task: &Task, with_files: bool) -> Areas {
    let private = file(private_file(task), 1, 16);
    let file_private = Area::map(8, RW, libc::MAP_PRIVATE, Some((&private, 2)));
    file_private.part(1, 1).fill(2);
    file_private.part(5, 2).fill(3);
    file_private.part(3, 2).protect(libc::PROT_READ);

    let file_shared = Area::map(8, RW, libc::MAP_SHARED, Some((&file(shared_file(task), 4, 8), 0)));
    file_shared.part(2, 1).fill(5);

    let anonymous = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let deleted = if with_files {
        let path = task.file("deleted");
        let gone = file(path.clone(), 6, 4);
        fs::remove_file(path).expect("remove");
        Area::map(4, RW, libc::MAP_SHARED, Some((&gone, 0)))
    } else {
        Area::map(4, RW, anonymous, None)
    };
    deleted.fill(6);

    // Neighbours that differ in their protection, with and without content.
    let mixed = Area::private(24);
    for (number, protection) in PROTECTIONS.iter().enumerate() {
        mixed.part(number * 3, 2).fill(50 + number as u64);
        mixed.part(number * 3, 3).protect(*protection);
    }

    let shared = Area::map(32, RW, anonymous, None);
    shared.part(8, 4).fill(60);
    shared.part(20, 1).fill(61);

    // In part locked, which no child inherits.
    let unreserved = Area::map(16, RW, anonymous | libc::MAP_NORESERVE, None);
    unreserved.part(5, 2).fill(63);
    let locked = unreserved.part(4, 4);
    // SAFETY: mlock(2) changes no memory.
    let result = unsafe { libc::mlock(locked.start.cast(), locked.bytes) };
    assert_eq!(result, 0, "mlock: {}", std::io::Error::last_os_error());

    let memfd = if with_files {
        let memory = memfd_create(c"regrow", MFdFlags::MFD_CLOEXEC).expect("memfd_create");
        ftruncate(memory.as_fd(), 16 * PAGE as i64).expect("ftruncate");
        Area::map(12, RW, libc::MAP_SHARED, Some((&memory, 4)))
    } else {
        Area::map(12, RW, anonymous, None)
    };
    memfd.part(3, 2).fill(62);

    let copied = Area::private(64);
    copied.fill(7);

    let sparse =
        Area::map(SPARSE_PAGES, RW, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, None);
    for page in (0..SPARSE_PAGES).step_by(SPARSE_STEP) {
        sparse.part(page, 1).write(page % 4000, &page.to_ne_bytes());
    }
    Areas { file_private, file_shared, deleted, mixed, shared, unreserved, memfd, copied, sparse }
}

const PROTECTIONS: [i32; 8] = [
    libc::PROT_READ,
    libc::PROT_NONE,
    RW,
    libc::PROT_READ | libc::PROT_EXEC,
    RW | libc::PROT_EXEC,
    libc::PROT_NONE,
    libc::PROT_READ,
    RW,
];

/// Holds for every task, whatever the others have done meanwhile.
fn check_common(task: &mut Task, areas: Areas) {
    task.check("dirty page of a file", areas.file_private.part(1, 1).holds(2));
    task.check("dirty pages of a file", areas.file_private.part(5, 2).holds(3));
    task.check("clean page of a file", areas.file_private.part(3, 1).holds_part_of_file(1, 5));
    task.check("shared file", areas.file_shared.part(2, 1).holds(5));
    task.check("deleted file", areas.deleted.holds(6));
    for (number, protection) in PROTECTIONS.iter().enumerate() {
        let area = areas.mixed.part(number * 3, 3);
        area.protect(libc::PROT_READ);
        task.check("page of a mixed area", area.part(0, 2).holds(50 + number as u64));
        task.check("empty page of a mixed area", area.part(2, 1).is_zero());
        area.protect(*protection);
    }
    for page in (0..SPARSE_PAGES).step_by(SPARSE_STEP) {
        let found = areas.sparse.part(page, 1).read(page % 4000, 8);
        task.check_eq("sparse page", found, page.to_ne_bytes().to_vec());
    }
    task.check("unreserved shared memory", areas.unreserved.part(5, 2).holds(63));
    task.check("empty page of the sparse area", areas.sparse.part(50, 1).is_zero());
    task.check("copied pages", areas.copied.part(48, 16).holds_part_of(7, 48));
}

impl Area {
    /// Whether this page is that page of the file.
    fn holds_part_of_file(self, seed: u64, page: usize) -> bool {
        self.holds_part_of(seed, page)
    }
}

/// Has the shared memory twice, once moved and once only a part from its middle.
fn first_child(task: &mut Task, areas: Areas) {
    areas.copied.part(16, 8).fill(110);
    let again = areas.shared.again();
    let middle = areas.shared.part(8, 4).again();
    areas.memfd.part(0, 2).protect(libc::PROT_READ);
    task.spawn("grandchild", |task| {
        areas.copied.part(18, 2).fill(120);
        task.park();
        check_common(task, areas);
        task.check("the parent's page", areas.copied.part(16, 2).holds_part_of(110, 0));
        task.check("own page", areas.copied.part(18, 2).holds(120));
        task.check("shared", areas.shared.part(20, 1).holds(61));
        areas.copied.part(20, 1).fill(121);
        areas.shared.write(3 * PAGE, b"grandchild");
    });
    areas.copied.part(22, 1).fill(111);
    task.park();
    check_common(task, areas);
    task.check("own page", areas.copied.part(22, 1).holds(111));
    task.check("the root's page before it wrote", areas.copied.part(0, 8).holds_part_of(7, 0));
    task.check("shared, in the middle", middle.holds(60));
    task.check("shared, again", again.part(20, 1).holds(61));
    task.collect();
    task.check_eq("what the grandchild wrote", again.read(3 * PAGE, 10), b"grandchild".to_vec());
    task.check("the grandchild's private page", areas.copied.part(20, 1).holds_part_of(110, 4));
    again.write(PAGE, b"first");
    middle.write(10, b"middle");
    task.check_eq("one memory at two addresses", areas.shared.read(8 * PAGE + 10, 6), b"middle".to_vec());
    areas.memfd.part(0, 2).protect(RW);
    areas.memfd.write(PAGE, b"first");
    areas.file_shared.write(PAGE, b"first");
    areas.file_private.part(7, 1).fill(112);
    areas.copied.part(9, 1).fill(113);
}

/// Has the shared memory at another address, with a hole, and lacks some of the rest.
fn second_child(task: &mut Task, areas: Areas) {
    let moved = areas.shared.moved();
    moved.part(12, 4).unmap();
    moved.part(24, 4).protect(libc::PROT_READ);
    areas.memfd.unmap();
    areas.copied.part(32, 4).fill(130);
    areas.copied.part(36, 1).unmap();
    task.park();
    check_common(task, areas);
    task.check("own page", areas.copied.part(32, 4).holds(130));
    task.check("neighbour", areas.copied.part(37, 1).holds_part_of(7, 37));
    task.check("shared", moved.part(20, 1).holds(61));
    moved.write(2 * PAGE, b"second");
    areas.copied.part(9, 1).fill(131);
}

/// What the root does not pass on, or what is not worth passing on.
struct OnlyHere {
    advised: Vec<Area>,
    grows_down: Area,
    locked: Area,
}

impl OnlyHere {
    fn prepare() -> OnlyHere {
        let advice = [
            libc::MADV_DONTDUMP,
            libc::MADV_DONTFORK,
            libc::MADV_HUGEPAGE,
            libc::MADV_NOHUGEPAGE,
            libc::MADV_MERGEABLE,
            libc::MADV_WIPEONFORK,
            libc::MADV_SEQUENTIAL,
            libc::MADV_RANDOM,
        ];
        let advised = advice
            .into_iter()
            .filter_map(|advice| {
                let area = Area::private(8);
                // Pages without access keep neighbours apart.
                area.part(0, 1).protect(libc::PROT_NONE);
                let area = area.part(1, 7);
                area.part(2, 2).fill(advice as u64);
                area.advise(advice).then_some(area)
            })
            .collect();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_GROWSDOWN;
        let grows_down = Area::map(4, RW, flags, None);
        grows_down.fill(70);
        let locked = Area::private(2);
        locked.fill(71);
        // SAFETY: the range is a mapping of the program.
        let result = unsafe { libc::mlock(locked.start.cast(), locked.bytes) };
        assert_eq!(result, 0, "mlock: {}", std::io::Error::last_os_error());
        OnlyHere { advised, grows_down, locked }
    }

    fn check(&self, task: &mut Task) {
        for area in &self.advised {
            task.check("advised area", area.part(0, 2).is_zero());
            task.check("advised area", !area.part(2, 2).is_zero());
            area.fill(72);
            task.check("advised area, written", area.holds(72));
        }
        task.check("area that grows down", self.grows_down.holds(70));
        task.check("locked area", self.locked.holds(71));
        self.locked.fill(73);
    }
}

/// The break, moved beyond what the allocator has taken.
struct Heap {
    area: Area,
}

impl Heap {
    fn grow() -> Heap {
        let bytes = 64 * PAGE;
        // SAFETY: the allocator copes with others moving the break, and does not touch what they got.
        let start = unsafe { libc::sbrk(bytes as libc::intptr_t) };
        assert!(start as isize != -1, "sbrk: {}", std::io::Error::last_os_error());
        let area = Area { start: start.cast(), bytes };
        area.fill(80);
        Heap { area }
    }

    fn check(&mut self, task: &mut Task) {
        task.check("heap", self.area.holds(80));
        // SAFETY: as above.
        let more = unsafe { libc::sbrk(4096) };
        let end = self.area.start.wrapping_add(self.area.bytes);
        task.check("the break can move on from where it was", more.cast() >= end);
        task.check("new heap is empty", Area { start: more.cast(), bytes: PAGE }.is_zero());
    }
}
