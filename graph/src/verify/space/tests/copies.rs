//! Pages that are copied into place instead of being read: what passes, and what would fail, hang or leave something.

use super::*;

/// Where the image is mapped, behind the carriers.
const SOURCE: u64 = CARRIERS + 0x8_0000;
const CLONE_VM: u64 = 0x100;
/// The record in which 10 reads its pages.
const READ: usize = 10;

fn with(fd: Fd, change: UserfaultChange) -> Effect {
    Effect::Object { fd, change: Change::Userfault(change) }
}

fn open_userfault(fd: Fd) -> Effect {
    Effect::Fd(FdEffect::Userfault { flags: 1, fd })
}

fn register(at: u64, len: u64) -> Effect {
    with(1, UserfaultChange::Register { at, len })
}

fn unregister(at: u64, len: u64) -> Effect {
    with(1, UserfaultChange::Unregister { at, len })
}

fn copy(to: u64, from: u64, len: u64) -> Effect {
    with(1, UserfaultChange::Copy { to, from, len })
}

fn map_source(len: u64, offset: u64) -> Effect {
    map_file(SOURCE, len, 1, 0x10_0001, (0, offset))
}

/// What takes the place of the read: the records of a copying, and where each is among them.
fn copying() -> Vec<Effect> {
    vec![
        open_userfault(1),
        with(1, UserfaultChange::Handshake),
        register(0x10000, 0x4000),
        map_source(0x2000, 0x7000),
        copy(0x11000, SOURCE, 0x1000),
        copy(0x13000, SOURCE + 0x1000, 0x1000),
        unmap(SOURCE, 0x2000),
        unregister(0x10000, 0x4000),
        close(1),
    ]
}

fn copies(t: &mut Tapes, by: Vec<Effect>) {
    of(t, 10).splice(READ..=READ, by);
}

/// One record of the copying is others.
#[track_caller]
fn wrong(at: usize, by: &[Effect], words: &str) {
    let mut all = copying();
    all.splice(at..=at, by.iter().cloned());
    refuse(|t, _| copies(t, all), words);
}

#[test]
fn pages_are_copied() {
    let certificate = passes(|t, _| copies(t, copying()));
    assert_eq!(certificate.pages, 3 + 2 + 2);
}

#[test]
fn shared_memory_is_filled_by_who_inherits_it() {
    let filled = |offset| {
        vec![
            open("/images/pages-9.img", 0, 0),
            open_userfault(1),
            with(1, UserfaultChange::Handshake),
            register(CARRIERS, 0x4000),
            map_source(0x2000, offset),
            copy(CARRIERS + 0x1000, SOURCE, 0x2000),
            unmap(SOURCE, 0x2000),
            unregister(CARRIERS, 0x4000),
            close(1),
            close(0),
        ]
    };
    // 10 no longer opens, reads and closes it.
    let left = |t: &mut Tapes| drop(of(t, 10).drain(4..=6));
    passes(|t, _| {
        left(t);
        last(t, 12, filled(0x5000));
    });
    refuse(
        |t, _| {
            left(t);
            last(t, 12, filled(0x6000));
        },
        "pages-9.img from 0x6000",
    );
    // Twice is once too often, whoever does it.
    refuse(|t, _| last(t, 12, filled(0x5000)), "a page is there");
}

#[test]
fn what_the_kernel_would_refuse() {
    wrong(1, &[], "ioctl(UFFDIO_REGISTER)");
    wrong(
        1,
        &[with(1, UserfaultChange::Handshake), with(1, UserfaultChange::Handshake)],
        "ioctl(UFFDIO_API)",
    );
    wrong(2, &[], "not registered with this userfaultfd");
    wrong(2, &[register(0x10000, 0x2000)], "not registered with this userfaultfd");
    wrong(2, &[register(0x10000, 0x5000)], "not in one mapping");
    wrong(2, &[register(0x10000, 0x4000), register(0x11000, 0x1000)], "registered twice");
    wrong(3, &[], "no file is mapped there to be copied from");
    wrong(3, &[map_source(0x1000, 0x7000)], "no file is mapped there to be copied from");
    wrong(3, &[map_file(SOURCE, 0x2000, RW, 0x10_0002, (0, 0x7000))], "among the carriers");
    wrong(
        3,
        &[map_file(CARRIERS, 0x2000, 1, 0x10_0001, (0, 0x7000))],
        "something may be mapped there already",
    );
    // A page is there: the kernel stops at it.
    wrong(5, &[copy(0x11000, SOURCE + 0x1000, 0x1000)], "a page is there");
    wrong(4, &[read(0, &[(0x11000, 0x1000)], 0x7000)], "it would wait for ever");
    wrong(5, &[copy(0x13000, SOURCE + 0x1000, 0x1001)], "no range of pages");
    wrong(5, &[copy(0x13000, SOURCE + 0x1000, 0x2000)], "not in one mapping");
}

#[test]
fn other_bytes_than_the_images_have() {
    wrong(3, &[map_source(0x2000, 0x8000)], "pages-1.img from 0x8000");
    wrong(4, &[copy(0x12000, SOURCE, 0x1000)], "ends with");
    wrong(5, &[], "ends with no bytes of an image");
}

#[test]
fn nothing_is_left_of_it() {
    wrong(6, &[], "still mapped to be copied from");
    wrong(7, &[], "still registered");
    wrong(7, &[unregister(0x10000, 0x3000)], "still registered");
    wrong(8, &[], "");
    // Also where nobody is forked behind it.
    let tail = vec![
        open("/images/pages-1.img", 0, 0),
        open_userfault(1),
        with(1, UserfaultChange::Handshake),
        register(0x60000 - 0x10000, 0x1000),
        close(1),
        close(0),
    ];
    refuse(|t, _| last(t, 10, tail), "still registered");
}

#[test]
fn what_is_not_copied_into() {
    let into = |at: u64| {
        vec![open_userfault(1), with(1, UserfaultChange::Handshake), register(at, 0x1000), close(1)]
    };
    // A private mapping of a file; locked memory; nothing.
    for (at, words) in [
        (0x20000, "memory that no page is copied into"),
        (0x40000, "something is there"),
        (0x70000, "not in one mapping"),
    ] {
        refuse(|t, _| last(t, 10, [vec![open("/lib", 0, 0)], into(at), vec![close(0)]].concat()), words);
    }
}

/// 10 lets a guest copy the second page.
fn with_guest(t: &mut Tapes, guest: Vec<Effect>, change: impl FnOnce(&mut Vec<Effect>)) {
    let mut all = copying();
    all[5] = Effect::AwaitExit { pid: 20, reap: true };
    all.insert(4, Effect::Fork(Birth { pid: 20, flags: CLONE_VM, exit_signal: 0, cgroup: None }));
    change(&mut all);
    copies(t, all);
    t.insert(20, guest);
}

fn guest() -> Vec<Effect> {
    vec![copy(0x13000, SOURCE + 0x1000, 0x1000), Effect::Exit { code: 0 }]
}

#[test]
fn guests_copy_at_the_same_time() {
    passes(|t, _| with_guest(t, guest(), |_| ()));
    // The same page by both.
    let same = vec![copy(0x11000, SOURCE, 0x1000), Effect::Exit { code: 0 }];
    refuse(|t, _| with_guest(t, same, |_| ()), "a page is there");
    // Its file goes while it copies.
    refuse(|t, _| with_guest(t, guest(), |all| all.swap(6, 7)), "task 20, record 0: ioctl(UFFDIO_COPY)");
    refuse(|t, _| with_guest(t, guest(), |all| drop(all.remove(6))), "task 20, record 0: ioctl(UFFDIO_COPY)");
    // Another may be late when the one that is awaited has ended.
    let second = |t: &mut Tapes, awaited: &[u32]| {
        with_guest(t, guest(), |all| {
            all.remove(5);
            all.insert(5, Effect::Fork(Birth { pid: 21, flags: CLONE_VM, exit_signal: 0, cgroup: None }));
            let waits = awaited.iter().map(|pid| Effect::AwaitExit { pid: *pid, reap: true });
            all.splice(6..=6, waits);
        });
        t.insert(21, vec![copy(0x11000, SOURCE, 0x1000), Effect::Exit { code: 0 }]);
    };
    passes(|t, _| second(t, &[20, 21]));
    refuse(|t, _| second(t, &[20]), "the address space");
    // It does nothing else.
    let maps = vec![map(0x90000, 0x1000), Effect::Exit { code: 0 }];
    refuse(|t, _| with_guest(t, maps, |_| ()), "in the address space of another task");
    let arrives = vec![Effect::Arrive, Effect::Park];
    refuse(|t, _| with_guest(t, arrives, |_| ()), "in the address space of another task");
    // Tasks of the images are no guests.
    refuse(
        |t, _| {
            let tape = of(t, 10);
            let at = tape.iter().position(|effect| *effect == fork(11)).expect("a fork");
            tape[at] = Effect::Fork(Birth { pid: 11, flags: CLONE_VM, exit_signal: SIGCHLD, cgroup: None });
        },
        "clone3",
    );
}

#[test]
fn only_ones_own_memory() {
    // 11 inherits the descriptor of 10's.
    let mut all = copying();
    all.pop();
    refuse(
        |t, _| {
            copies(t, all);
            let tape = of(t, 10);
            let at = tape.iter().position(|effect| *effect == fork(11)).expect("a fork");
            tape.insert(at + 1, close(1));
            last(t, 11, vec![register(0x10000, 0x2000)]);
        },
        "of another address space",
    );
}
