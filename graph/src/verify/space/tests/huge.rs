//! Huge pages; shared memory that is opened by the mapping of a carrier.

use super::super::super::object::{O_RDONLY, O_RDWR};
use super::*;

const SIZE: u64 = 2 << 20;
/// `MAP_HUGETLB | MAP_HUGE_2MB`.
const HUGE: u32 = 0x4_0000 | 21 << 26;
const NORESERVE: u32 = 0x4000;
/// A window that huge pages fit into, and what is in it.
const SCRATCH: u64 = BASE + SIZE;
const CARRIER: u64 = BASE + 4 * SIZE;
const LARGE_END: u64 = BASE + 16 * SIZE;

fn path() -> String {
    format!("/proc/self/map_files/{CARRIER:x}-{:x}", CARRIER + 2 * SIZE)
}

/// A task that has private memory, shared memory that it has opened, and a memfd, all of huge pages.
fn tape() -> Vec<Effect> {
    vec![
        unmap(0, BASE),
        unmap(LARGE_END, super::super::USER_END - LARGE_END),
        Effect::Fd(FdEffect::CloseRange { first: 0, last: Fd::MAX, only_mark: false, unshare: false }),
        // Record 3.
        map_as(CARRIER, 2 * SIZE, RW, SHARED | HUGE | NORESERVE),
        open(&path(), O_RDWR, 0),
        open("/images/pages-9.img", O_RDONLY, 1),
        read(1, &[(CARRIER + SIZE, SIZE)], 0x5000),
        close(1),
        map_file(0x40_0000, SIZE, 1, 0x10_0001, (0, SIZE)),
        close(0),
        // Record 10.
        map_as(0x80_0000, 2 * SIZE, RW, PRIVATE | HUGE),
        open("/images/pages-1.img", O_RDONLY, 0),
        read(0, &[(0x80_0000 + 0x5000, 0x2000)], 0),
        close(0),
        protect(0x80_0000 + SIZE, SIZE, 1),
        // Record 15.
        Effect::Fd(FdEffect::Memfd { name: b"huge".to_vec(), flags: 0x12 | 4 | 21 << 26, fd: 0 }),
        change(Change::Truncate { len: 2 * SIZE }),
        open("/images/pages-8.img", O_RDONLY, 1),
        map_file(SCRATCH, 2 * SIZE, RW, SHARED & !0x20 | NORESERVE, (0, 0)),
        read(1, &[(SCRATCH + SIZE, SIZE)], 0x3000),
        unmap(SCRATCH, 2 * SIZE),
        // Record 21.
        change(Change::SetFileOwner { uid: 1, gid: 2 }),
        change(Change::SetMode { mode: 0o600 }),
        close(1),
        Effect::Arrive,
        Effect::Park,
    ]
}

fn change(change: Change) -> Effect {
    Effect::Object { fd: 0, change }
}

fn images() -> Expected {
    let huge = |start, end, prot, shows, flags| ExpectedMapping { flags, ..mapping(start, end, prot, shows) };
    let space = ExpectedSpace {
        mappings: vec![
            huge(0x40_0000, 0x40_0000 + SIZE, 1, shared(SIZE), 0x21 | HUGE),
            huge(0x80_0000, 0x80_0000 + SIZE, RW, Shown::Anonymous, 0x22 | HUGE),
            huge(0x80_0000 + SIZE, 0x80_0000 + 2 * SIZE, 1, Shown::Anonymous, 0x22 | HUGE),
        ],
        guards: Vec::new(),
        pages: pages(1, &[(0x80_5000, 0x2000, 0)]),
    };
    let mut content = Content::default();
    content.push(SIZE, b"/images/pages-8.img", 0x3000, SIZE);
    let inode = ExpectedInode {
        kind: InodeKind::Memfd,
        name: b"huge".to_vec(),
        size: 2 * SIZE,
        mode: Some(0o600),
        owner: (1, 2),
        content,
        huge: HUGE,
        ..ExpectedInode::default()
    };
    let spec = OfdSpec::Inode { inode: InodeId::Memfd(1), alias: None, position: None };
    let mut root = task(10, 0, space);
    root.table = vec![Slot { fd: 0, ofd: OfdId(0), cloexec: false }];
    Expected {
        tasks: vec![root],
        ofds: vec![ExpectedOfd { name: "memfd".into(), spec, flags: O_RDWR, ..ExpectedOfd::default() }],
        images: vec![b"/images".to_vec()],
        segments: [(0x77, ExpectedSegment { len: 2 * SIZE, pages: pages(9, &[(SIZE, SIZE, 0x5000)]) })]
            .into(),
        inodes: [(InodeId::Memfd(1), inode)].into(),
        ..Expected::default()
    }
}

fn run_huge(change: impl FnOnce(&mut Vec<Effect>, &mut Expected)) -> Result<Certificate, Counterexample> {
    let (mut tape, mut images) = (tape(), images());
    change(&mut tape, &mut images);
    let effects = tape.into_iter().zip(0..).map(|(effect, record)| Lifted { record, effect });
    let tree = LiftedTree {
        region: Region { start: BASE, rw_end: BASE + 0x8000, end: CARRIERS, window_end: LARGE_END },
        total: 1,
        root: Birth { pid: 10, flags: 0, exit_signal: SIGCHLD, cgroup: None },
        tasks: vec![LiftedTask { pid: 10, effects: effects.collect() }],
        ..LiftedTree::default()
    };
    verify_with(&tree, &images, &|_| false, &mut |_| false)
}

#[track_caller]
fn refuse_huge(change: impl FnOnce(&mut Vec<Effect>, &mut Expected), words: &str) {
    match run_huge(change) {
        Ok(certificate) => panic!("a certificate, expected: {words}\n{certificate}"),
        Err(counterexample) => {
            assert!(counterexample.to_string().contains(words), "{counterexample}\nexpected: {words}");
        }
    }
}

/// One record is another.
#[track_caller]
fn other(at: usize, by: Effect, words: &str) {
    refuse_huge(|t, _| t[at] = by, words);
}

#[test]
fn huge_pages_end_as_the_images_say() {
    let certificate = run_huge(|_, _| ()).unwrap_or_else(|counterexample| panic!("{counterexample}"));
    assert_eq!((certificate.mappings, certificate.segments), (3, 1));
    for at in 0..tape().len() {
        assert!(run_huge(|t, _| drop(t.remove(at))).is_err(), "record {at} is not needed");
    }
}

#[test]
fn huge_pages_that_end_otherwise() {
    other(
        10,
        map_as(0x80_0000, 2 * SIZE, RW, PRIVATE),
        "the images say private memory, rw-, huge pages of 2^21",
    );
    let larger = 0x4_0000 | 30 << 26;
    other(10, map_as(0x80_0000, 2 * SIZE, RW, PRIVATE | larger), "not whole huge pages");
    other(15, Effect::Fd(FdEffect::Memfd { name: b"huge".to_vec(), flags: 0x12, fd: 0 }), "memfd");
    other(8, map_file(0x40_0000, SIZE, 1, 0x10_0001, (0, 0)), "from 0x200000");
    refuse_huge(|_, e| e.segments.entry(0x77).or_default().len = SIZE, "bytes");
    refuse_huge(
        |_, e| e.inodes.entry(InodeId::Memfd(1)).or_default().content = Content::default(),
        "content",
    );
    other(6, read(1, &[(CARRIER + SIZE, SIZE)], 0x6000), "from 0x5000");
}

#[test]
fn what_huge_pages_do_not_take() {
    let last = |steps: Vec<Effect>, words: &str| {
        refuse_huge(
            |t, _| {
                let at = t.len() - 2;
                drop(t.splice(at..at, steps));
            },
            words,
        );
    };
    let whole = "not whole huge pages";
    last(vec![unmap(0x80_0000, 0x1000)], whole);
    last(vec![protect(0x80_1000, SIZE, 1)], whole);
    last(vec![advise(0x80_0000, 0x1000, 16)], whole);
    last(vec![map_as(0x80_0000, 0x1000, RW, OVER)], whole);
    last(vec![map_as(0xc0_0000, SIZE / 2, RW, PRIVATE | HUGE)], whole);
    last(vec![map_as(0xc0_0000, SIZE, RW, PRIVATE | 0x4_0000)], "is not modelled");
    last(vec![map_as(0xc0_0000, SIZE, RW, PRIVATE | 21 << 26)], "is not modelled");
    last(vec![map_as(0xc0_0000, SIZE, RW, PRIVATE | HUGE | MAP_LOCKED)], "is not modelled");
    last(vec![advise(0x80_0000, SIZE, 18)], "the kernel refuses that");
    last(vec![advise(0x80_0000, SIZE, 102)], "the kernel refuses that");
    last(vec![memory(MemoryEffect::Lock { at: 0x80_0000, len: SIZE })], "memory that is not to be locked");
    last(vec![relocate(0x80_0000, SIZE, 0xc0_0000, SIZE)], "of huge pages");
    last(vec![view(CARRIER, 0xc0_0000, SIZE)], "of huge pages");
    let sealed = |seals: u32| change(Change::AddSeals { seals });
    last(vec![map_file(SCRATCH, SIZE, RW, 0x10_0001, (0, 0)), sealed(8), unmap(SCRATCH, SIZE)], "refuses");
    last(vec![map_file(SCRATCH, SIZE, RW, 0x10_0001, (0, 0))], "ends as");
    last(vec![map_file(0xc0_0000, SIZE, RW, 0x10_0001, (0, 0x1000))], whole);
}

#[test]
fn what_is_opened_is_a_carrier() {
    other(4, open(&path(), O_RDONLY, 0), "is not modelled");
    let named = |start: u64, end: u64| open(&format!("/proc/self/map_files/{start:x}-{end:x}"), O_RDWR, 0);
    other(4, named(CARRIER, CARRIER + SIZE), "map_files");
    other(4, named(CARRIER + SIZE, CARRIER + 2 * SIZE), "map_files");
    other(4, named(0x80_0000, 0x80_0000 + SIZE), "no carrier");
    other(4, open("/proc/self/map_files/+1000-2000", O_RDWR, 0), "map_files");
    other(8, map_file(0x40_0000, 2 * SIZE, 1, 0x10_0001, (0, SIZE)), "the kernel refuses that");
    other(8, map_file(0x40_0000, SIZE, 1, 0x10_0002, (0, SIZE)), "the kernel refuses that");
    other(18, map_file(CARRIER, 2 * SIZE, RW, 0x10_0001, (0, 0)), "a carrier of shared memory");
    // Filled before it is there, and behind its end.
    refuse_huge(|t, _| t.swap(18, 19), "no carrier that this task has is there");
    other(16, change(Change::Truncate { len: SIZE }), "");
    other(19, read(1, &[(SCRATCH + 2 * SIZE, SIZE)], 0x3000), "no carrier that this task has is there");
}
