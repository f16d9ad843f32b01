//! Rings of asynchronous I/O: what passes, and what is somewhere else, of another length, read or written otherwise.

use super::*;

const RING: u64 = 0xa0000;
/// A word of the written part.
const CELL: u64 = BASE + 0x7000;

fn ring(effect: RingEffect) -> Effect {
    memory(MemoryEffect::Ring(effect))
}

fn setup(requests: u32) -> Effect {
    ring(RingEffect::Setup { requests, cell: CELL })
}

fn place(len: u64, to: u64) -> Effect {
    ring(RingEffect::Place { cell: CELL, len, to })
}

fn submit(count: u32) -> Effect {
    ring(RingEffect::Submit { ring: RING, count, fd: 0 })
}

fn reap(count: u32) -> Effect {
    ring(RingEffect::Reap { ring: RING, count })
}

fn keep(at: u64, len: u64) -> Effect {
    map_as(at, len, 0, PRIVATE)
}

/// What task 11 does last: a ring of a page, read up to event 5 and written up to event 9.
fn making() -> Vec<Effect> {
    vec![
        keep(RING, 0x1000),
        setup(1),
        place(0x1000, RING),
        open("/images/pages-2.img", 0, 0),
        submit(5),
        reap(5),
        // Record 6.
        submit(4),
        read(0, &[(RING + 32, 0x1000 - 32)], 0x2000 + 32),
        close(0),
    ]
}

fn wanted(e: &mut Expected) {
    e.facts.processors = Some(2);
    let heir = space(e, 1);
    heir.mappings.push(mapping(RING, RING + 0x1000, RW, Shown::Ring { head: 5, tail: 9 }));
    heir.pages.extents.push(PageExtent { at: RING + 32, len: 0x1000 - 32, file: 0, from: 0x2000 + 32 });
}

/// One record of the making is others.
#[track_caller]
fn wrong(at: usize, by: &[Effect], words: &str) {
    let mut all = making();
    all.splice(at..=at, by.iter().cloned());
    otherwise(all, words);
}

#[track_caller]
fn otherwise(all: Vec<Effect>, words: &str) {
    refuse(
        |t, e| {
            wanted(e);
            last(t, 11, all);
        },
        words,
    );
}

/// Something is done behind it.
#[track_caller]
fn then(by: &[Effect], words: &str) {
    otherwise([making(), by.to_vec()].concat(), words);
}

#[test]
fn a_ring_comes_to_its_place() {
    let certificate = passes(|t, e| {
        wanted(e);
        last(t, 11, making());
    });
    assert_eq!(certificate.mappings, 15);
    // One that was never used, and one that has come round: 127 events.
    for (head, tail, events) in [(0, 0, vec![]), (120, 3, vec![(64, 64), (56, 56), (10, 0)])] {
        passes(|t, e| {
            wanted(e);
            space(e, 1).mappings[4].shows = Shown::Ring { head, tail };
            let events = events.iter().flat_map(|(made, read)| {
                [submit(*made), reap(*read)].into_iter().take(if *read == 0 { 1 } else { 2 })
            });
            let mut all = making();
            all.splice(4..=6, events);
            last(t, 11, all);
        });
    }
}

#[test]
fn no_record_of_it_can_be_left_out() {
    for at in (0..making().len()).filter(|at| *at != 8) {
        let left = run(|t, e| {
            wanted(e);
            let mut all = making();
            all.remove(at);
            last(t, 11, all);
        });
        assert!(left.is_err(), "record {at}: {:?} is not needed", making()[at]);
    }
    refuse(
        |_, e| wanted(e),
        "0xa0000..0xa1000 ends as nothing, the images say a ring of asynchronous I/O, from 0x0, rw-",
    );
    // Nothing asks for it.
    refuse(
        |t, e| {
            e.facts.processors = Some(2);
            last(t, 11, making());
        },
        "0xa0000..0xa1000 ends as a ring of asynchronous I/O, from 0x0, rw-, the images say nothing",
    );
}

#[test]
fn another_place_or_length() {
    wrong(0, &[keep(RING, 0x2000)], "0xa1000..0xa2000 ends as private memory");
    wrong(0, &[keep(RING + 0x1000, 0x1000)], "nothing keeps it free for the ring");
    let file = map_file(RING, 0x1000, 1, 0x10_0002, (0, 0));
    wrong(0, &[open("/lib", 0, 0), file, close(0)], "nothing keeps it free for the ring");
    wrong(2, &[place(0x1000, 0x12000)], "no ring is at 0xa0000");
    wrong(2, &[place(0x1000, 0x60000)], "nothing keeps it free for the ring");
    wrong(2, &[place(0x2000, RING)], "not as long as the ring is");
    wrong(1, &[setup(63)], "not as long as the ring is");
    wrong(1, &[setup(0)], "a ring of 0 requests");
    wrong(1, &[ring(RingEffect::Setup { requests: 1, cell: CELL + 8 })], "what no ring was made for");
    // With many processors the kernel makes it longer.
    refuse(
        |t, e| {
            wanted(e);
            e.facts.processors = Some(16);
            last(t, 11, making());
        },
        "not as long as the ring is",
    );
    refuse(
        |t, e| {
            wanted(e);
            e.facts.processors = None;
            last(t, 11, making());
        },
        "how many processors",
    );
    then(
        &[keep(RING + 0x1000, 0x1000), relocate(RING, 0x1000, RING + 0x1000, 0x1000)],
        "a ring of asynchronous I/O is there",
    );
}

#[test]
fn a_ring_on_its_way() {
    wrong(2, &[], "a ring that is wherever the kernel put it");
    wrong(2, &[map(0xb0000, 0x1000), place(0x1000, RING)], "a ring that is wherever the kernel put it");
    wrong(2, &[unmap(RING, 0x1000), place(0x1000, RING)], "a ring that is wherever the kernel put it");
    wrong(2, &[setup(1), place(0x1000, RING)], "a ring that is wherever the kernel put it");
    otherwise(vec![keep(RING, 0x1000), setup(1)], "a ring that is wherever the kernel put it");
    let other = RING + 0x1000;
    wrong(2, &[place(0x1000, RING), place(0x1000, other)], "what no ring was made for");
}

#[test]
fn read_and_written_otherwise() {
    wrong(
        6,
        &[submit(5)],
        "the ring at 0xa0000 ends read and written up to 5 and 10, the images say 5 and 9",
    );
    wrong(5, &[reap(4)], "up to 4 and 9, the images say 5 and 9");
    wrong(5, &[reap(6)], "for 6 of 5 events");
    wrong(4, &[submit(0)], "0 more events");
    // Two processors keep up to 44 of 127 places.
    wrong(4, &[submit(84)], "84 more events beside 0, where 83 are sure");
    wrong(4, &[submit(60), submit(30)], "30 more events beside 60");
    wrong(3, &[open("/lib", 0, 0)], "io_submit");
    wrong(3, &[open("/images/pages-2.img", 1, 0)], "pages-2.img");
    wrong(3, &[], "io_submit");
    then(&[protect(RING, 0x1000, 0), open("/images/pages-2.img", 0, 0), submit(1)], "no ring is at 0xa0000");
}

#[test]
fn what_is_in_it() {
    // The kernel writes over what was filled.
    let mut all = making();
    all.swap(6, 7);
    otherwise(all, "ends with no bytes of an image");
    wrong(7, &[read(0, &[(RING + 32, 0x1000 - 32)], 0x3000 + 32)], "pages-2.img from 0x3020");
    wrong(
        7,
        &[read(0, &[(RING + 64, 0x1000 - 64)], 0x2000 + 64)],
        "0xa0020..0xa0040 ends with no bytes of an image",
    );
    wrong(7, &[read(0, &[(RING, 0x1000)], 0x2000)], "over the head of a ring");
    wrong(7, &[read(0, &[(RING + 16, 32)], 0x2000)], "over the head of a ring");
}

#[test]
fn nothing_happens_to_it() {
    then(&[unmap(RING, 0x1000)], "a ring of asynchronous I/O is there");
    then(&[map_as(RING, 0x1000, RW, OVER)], "a ring of asynchronous I/O is there");
    then(
        &[keep(RING + 0x1000, 0x1000), setup(1), place(0x1000, RING)],
        "a ring of asynchronous I/O is there",
    );
    then(&[view(RING, 0xb0000, 0x1000)], "a second view of what is not shared");
    then(&[advise(RING, 0x1000, 4)], "advice 4 about 0xa0000..0xa1000");
    then(&[advise(RING, 0x1000, 10)], "advice 10, the images say a ring");
    then(&[memory(MemoryEffect::Lock { at: RING, len: 0x1000 })], "memory that is not to be locked");
    then(&[protect(RING, 0x1000, 1)], "from 0x0, r--");
    then(&[memory(MemoryEffect::Write { pieces: vec![(RING + 32, vec![1])] })], "process_vm_writev");
    passes(|t, e| {
        wanted(e);
        space(e, 1).mappings[4].prot = 1;
        space(e, 1).mappings[4].advice = 1 << 10;
        last(t, 11, [making(), vec![protect(RING, 0x1000, 1), advise(RING, 0x1000, 10)]].concat());
    });
}

/// Whether a child would be born with it depends on the kernel.
#[test]
fn who_has_a_ring_does_not_fork() {
    refuse(
        |t, e| {
            wanted(e);
            let root = of(t, 10);
            let at = root.iter().position(|effect| *effect == fork(11)).expect("it forks");
            root.splice(at..at, [keep(RING, 0x1000), setup(1), place(0x1000, RING)]);
        },
        "a ring that a child may or may not be born with",
    );
    refuse(
        |t, e| {
            wanted(e);
            let root = of(t, 10);
            let at = root.iter().position(|effect| *effect == fork(11)).expect("it forks");
            root.splice(at..at, [keep(RING, 0x1000), setup(1)]);
        },
        "a ring that is wherever the kernel put it",
    );
}
