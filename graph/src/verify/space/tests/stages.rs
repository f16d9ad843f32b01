//! Pages that are read into memory among the carriers and moved from there: what passes, and what would fail or leave something.

use super::*;

/// Where the stage is, behind the carriers.
const STAGE: u64 = CARRIERS + 0x8_0000;
/// MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED_NOREPLACE.
const FLAGS: u32 = 0x10_4022;
const MADV_HUGEPAGE: u32 = 14;
const MADV_NOHUGEPAGE: u32 = 15;
const CLONE_VM: u64 = 0x100;
/// The record in which 10 reads its pages.
const READ: usize = 10;

fn with(fd: Fd, change: UserfaultChange) -> Effect {
    Effect::Object { fd, change: Change::Userfault(change) }
}

fn register(at: u64, len: u64) -> Effect {
    with(1, UserfaultChange::Register { at, len })
}

fn unregister(at: u64, len: u64) -> Effect {
    with(1, UserfaultChange::Unregister { at, len })
}

fn move_pages(to: u64, from: u64, len: u64) -> Effect {
    with(1, UserfaultChange::Move { to, from, len })
}

fn map_stage(len: u64) -> Effect {
    map_as(STAGE, len, RW, FLAGS)
}

/// What takes the place of the read: the records of a moving, and where each is among them.
fn moving() -> Vec<Effect> {
    vec![
        Effect::Fd(FdEffect::Userfault { flags: 1, fd: 1 }),
        with(1, UserfaultChange::Handshake),
        register(0x10000, 0x4000),
        map_stage(0x2000),
        advise(STAGE, 0x2000, MADV_HUGEPAGE),
        // Record 5.
        read(0, &[(STAGE, 0x2000)], 0x7000),
        move_pages(0x11000, STAGE, 0x1000),
        move_pages(0x13000, STAGE + 0x1000, 0x1000),
        unmap(STAGE, 0x2000),
        unregister(0x10000, 0x4000),
        // Record 10.
        close(1),
        protect(0x11000, 0x1000, 1),
        protect(0x11000, 0x1000, RW),
    ]
}

fn moves(t: &mut Tapes, by: Vec<Effect>) {
    of(t, 10).splice(READ..=READ, by);
}

fn changed(at: usize, by: &[Effect]) -> Vec<Effect> {
    let mut all = moving();
    all.splice(at..=at, by.iter().cloned());
    all
}

/// One record of the moving is others.
#[track_caller]
fn wrong(at: usize, by: &[Effect], words: &str) {
    refuse(|t, _| moves(t, changed(at, by)), words);
}

#[track_caller]
fn right(at: usize, by: &[Effect]) {
    passes(|t, _| moves(t, changed(at, by)));
}

#[test]
fn pages_are_moved() {
    let certificate = passes(|t, _| moves(t, moving()));
    assert_eq!(certificate.pages, 3 + 2 + 2);
    // What pages the stage gets is all the same.
    right(4, &[]);
    right(4, &[advise(STAGE, 0x2000, MADV_NOHUGEPAGE)]);
    // Read by two calls, and moved by one.
    right(5, &[read(0, &[(STAGE, 0x1000)], 0x7000), read(0, &[(STAGE + 0x1000, 0x1000)], 0x8000)]);
}

#[test]
fn what_the_kernel_would_refuse() {
    wrong(2, &[], "not registered with this userfaultfd");
    wrong(2, &[register(0x10000, 0x2000)], "not registered with this userfaultfd");
    // Where nothing is mapped, or has been read.
    wrong(3, &[], "madvise of 0x100090000..0x100092000: among the carriers");
    wrong(3, &[map_stage(0x1000)], "madvise of 0x100090000..0x100092000: among the carriers");
    refuse(
        |t, _| {
            let mut all = moving();
            all.splice(3..=4, [map_stage(0x1000)]);
            moves(t, all);
        },
        "no carrier that this task has is there",
    );
    wrong(5, &[], "no page is there to be moved");
    wrong(5, &[read(0, &[(STAGE, 0x1000)], 0x7000)], "no page is there to be moved");
    wrong(5, &[read(0, &[(STAGE, 0x1fff)], 0x7000)], "no page is there to be moved");
    wrong(6, &[move_pages(0x11000, STAGE, 0x1000), move_pages(0x12000, STAGE, 0x1000)], "moved twice");
    wrong(7, &[move_pages(0x11000, STAGE + 0x1000, 0x1000)], "a page is there");
    wrong(7, &[move_pages(0x13000, STAGE + 0x1000, 0x1001)], "no range of pages");
    // It is registered, and not protected as the stage.
    for prot in [1, 7] {
        refuse(
            |t, _| {
                let mut all = moving();
                all.insert(6, protect(0x11000, 0x1000, prot));
                moves(t, all);
            },
            "not protected as what is moved",
        );
    }
}

#[test]
fn what_is_no_stage() {
    wrong(3, &[map_as(STAGE, 0x2000, 1, FLAGS)], "among the carriers");
    wrong(3, &[map_as(STAGE, 0x2000, RW, PRIVATE)], "among the carriers");
    let over = map_as(CARRIERS, 0x2000, RW, FLAGS);
    wrong(3, &[over], "something may be mapped there already");
    wrong(3, &[map_stage(0x2000), map_stage(0x1000)], "something may be mapped there already");
    let image = map_file(STAGE, 0x1000, 1, 0x10_0001, (0, 0x7000));
    wrong(3, &[map_stage(0x2000), image.clone()], "something may be mapped there already");
    wrong(3, &[image, map_stage(0x2000)], "something may be mapped there already");
    wrong(4, &[advise(STAGE, 0x2000, 4)], "advice 4 about a stage");
    wrong(4, &[protect(STAGE, 0x2000, 1)], "among the carriers");
    wrong(5, &[read(0, &[(STAGE, 0x2000)], 0x7000), read(0, &[(STAGE, 0x1000)], 0x7000)], "read into twice");
}

#[test]
fn other_bytes_than_the_images_have() {
    wrong(5, &[read(0, &[(STAGE, 0x2000)], 0x8000)], "pages-1.img from 0x8000");
    wrong(6, &[move_pages(0x12000, STAGE, 0x1000)], "ends with");
    wrong(6, &[move_pages(0x11000, STAGE + 0x1000, 0x1000)], "moved twice");
    wrong(7, &[], "ends with no bytes of an image");
}

#[test]
fn nothing_is_left_of_it() {
    wrong(8, &[], "still mapped to be moved from");
    wrong(8, &[unmap(STAGE, 0x1000)], "still mapped to be moved from");
    wrong(9, &[], "still registered");
    // What is protected stays so.
    wrong(12, &[], "0x11000");
}

#[test]
fn only_private_memory() {
    let tail = vec![
        open("/images/pages-1.img", 0, 0),
        Effect::Fd(FdEffect::Userfault { flags: 1, fd: 1 }),
        with(1, UserfaultChange::Handshake),
        register(0x30000, 0x1000),
        map_stage(0x1000),
        read(0, &[(STAGE, 0x1000)], 0x7000),
        move_pages(0x30000, STAGE, 0x1000),
    ];
    refuse(|t, _| last(t, 10, tail), "memory that no page is moved into");
}

/// 10 lets a guest read and move the second page.
fn with_guest(t: &mut Tapes, guest: Vec<Effect>, change: impl FnOnce(&mut Vec<Effect>)) {
    let mut all = moving();
    all[7] = Effect::AwaitExit { pid: 20, reap: true };
    all[5] = read(0, &[(STAGE, 0x1000)], 0x7000);
    all.insert(5, Effect::Fork(Birth { pid: 20, flags: CLONE_VM, exit_signal: 0, cgroup: None }));
    change(&mut all);
    moves(t, all);
    t.insert(20, guest);
}

fn guest() -> Vec<Effect> {
    vec![
        read(0, &[(STAGE + 0x1000, 0x1000)], 0x8000),
        move_pages(0x13000, STAGE + 0x1000, 0x1000),
        Effect::Exit { code: 0 },
    ]
}

#[test]
fn guests_move_at_the_same_time() {
    passes(|t, _| with_guest(t, guest(), |_| ()));
    // What the other reads, and nobody waits for.
    let mut same = guest();
    same[1] = move_pages(0x11000, STAGE, 0x1000);
    refuse(|t, _| with_guest(t, same.clone(), |_| ()), "");
    same[0] = read(0, &[(STAGE, 0x1000)], 0x7000);
    refuse(|t, _| with_guest(t, same, |_| ()), "read into twice");
    // One reads for the other.
    let other = guest().split_off(1);
    refuse(
        |t, _| with_guest(t, other, |all| all[6] = read(0, &[(STAGE, 0x2000)], 0x7000)),
        "task 20, record 0: ioctl(UFFDIO_MOVE)",
    );
    // The stage goes while it moves.
    refuse(|t, _| with_guest(t, guest(), |all| all.swap(8, 9)), "task 20, record 0");
    refuse(|t, _| with_guest(t, guest(), |all| drop(all.remove(8))), "task 20, record 0");
    // It reads into nothing else.
    let mut elsewhere = guest();
    elsewhere[0] = read(0, &[(0x50000, 0x1000)], 0x8000);
    refuse(|t, _| with_guest(t, elsewhere, |_| ()), "in the address space of another task");
}
