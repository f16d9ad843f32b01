//! Rings of asynchronous I/O: `aio_rings DIR`. The root has several: one that was never used, one with events that are read
//! in part, one whose end has come round to before its beginning, a long one, and one that is protected. One that was made
//! first is destroyed. A child has rings of its own.
//!
//! When it goes on, every task finds the heads and the events of its rings as they were, reads the events that were left,
//! writes to a file through each ring, and fills it: a ring that had lost count of its places would take too many
//! requests, or too few.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use regrow_test_programs::{Task, pattern};

const HEAD: usize = 32;
const WRITE: u16 = 1;

/// `struct iocb` (uapi/linux/aio_abi.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Request {
    data: u64,
    key: u32,
    rw_flags: u32,
    operation: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    len: u64,
    offset: u64,
    reserved: u64,
    flags: u32,
    event_file: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Event {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

/// A context, and what has gone through it.
struct Ring {
    what: &'static str,
    id: u64,
    requests: usize,
    /// Numbers of the next event that is made, and of the next that is read.
    made: u64,
    read: u64,
}

impl Ring {
    fn new(what: &'static str, requests: usize) -> Ring {
        let mut id = 0u64;
        // SAFETY: the kernel writes the one word.
        let result = unsafe { libc::syscall(libc::SYS_io_setup, requests, &raw mut id) };
        assert_eq!(result, 0, "io_setup: {}", std::io::Error::last_os_error());
        Ring { what, id, requests, made: 0, read: 0 }
    }

    fn destroy(self) {
        // SAFETY: no request of it is on its way.
        let result = unsafe { libc::syscall(libc::SYS_io_destroy, self.id) };
        assert_eq!(result, 0, "io_destroy: {}", std::io::Error::last_os_error());
    }

    /// One of the eight words of the head.
    fn word(&self, number: usize) -> u32 {
        assert!(number < 8);
        // SAFETY: the ring is mapped, readable, as long as the context is there, and starts with its head.
        unsafe { ((self.id as *const u32).add(number)).read_volatile() }
    }

    fn head(&self) -> [u32; 8] {
        std::array::from_fn(|number| self.word(number))
    }

    fn events(&self) -> usize {
        self.word(1) as usize
    }

    /// All that is behind the head.
    fn content(&self) -> Vec<u8> {
        // SAFETY: as above; there are so many events of 32 bytes.
        unsafe { std::slice::from_raw_parts((self.id as usize + HEAD) as *const u8, self.events() * 32) }
            .to_vec()
    }

    /// Writes the eight bytes of its number to a file, one after another; says how many the kernel took.
    fn try_write(&mut self, file: &File, count: usize) -> usize {
        for taken in 0..count {
            let bytes = self.made.to_ne_bytes();
            let request = Request {
                data: 1_000 + self.made,
                operation: WRITE,
                file: file.as_raw_fd() as u32,
                buffer: bytes.as_ptr() as u64,
                len: 8,
                offset: self.made * 8,
                ..Request::default()
            };
            let list = [&raw const request];
            // SAFETY: one request, which is done when the call returns: the file is not opened for direct I/O.
            let result = unsafe { libc::syscall(libc::SYS_io_submit, self.id, 1, list.as_ptr()) };
            if result != 1 {
                assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EAGAIN));
                return taken;
            }
            self.made += 1;
        }
        count
    }

    fn write(&mut self, file: &File, count: usize) {
        assert_eq!(self.try_write(file, count), count, "{}", self.what);
    }

    /// Reads events, which must be the next ones.
    fn reap(&mut self, count: usize) -> Result<(), String> {
        let mut events = vec![Event::default(); count];
        let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: there is room for as many events as are asked for.
        let got = unsafe {
            libc::syscall(libc::SYS_io_getevents, self.id, 0, count, events.as_mut_ptr(), &raw const none)
        };
        if got != count as i64 {
            let error = std::io::Error::last_os_error();
            return Err(format!("{}: {got} of {count} events ({error})", self.what));
        }
        for event in events {
            if (event.data, event.result, event.result2) != (1_000 + self.read, 8, 0) {
                return Err(format!("{}: event {} is {event:?}", self.what, self.read));
            }
            self.read += 1;
        }
        Ok(())
    }

    fn pending(&self) -> usize {
        (self.made - self.read) as usize
    }
}

/// What is seen of a ring: all of its head but the kernel's number, and all behind it.
fn seen(ring: &Ring) -> ([u32; 7], Vec<u8>) {
    let [_, head @ ..] = ring.head();
    (head, ring.content())
}

fn go_on(task: &mut Task, ring: &mut Ring, file: &File) {
    let what = ring.what;
    let pending = ring.pending();
    // What is left over, then what is there at most: it must not be more than there are places.
    let further = ring.try_write(file, ring.events());
    task.check(&format!("{what}: {further} beside {pending}"), further + pending < ring.events());
    for count in [pending, further] {
        task.check_ok(what, ring.reap(count));
    }
    task.check_eq(what, ring.reap(1).is_err(), true);
    for round in 0..8 {
        // As many as were asked for, whichever processors there are.
        let taken = ring.try_write(file, ring.requests);
        task.check_eq(&format!("{what}, round {round}"), taken, ring.requests);
        task.check_ok(what, ring.reap(taken));
    }
    let (first, mut bytes) = (ring.made - ring.requests as u64, vec![0; 8 * ring.requests]);
    file.read_exact_at(&mut bytes, first * 8).expect("read");
    let wanted: Vec<u8> = (first..ring.made).flat_map(u64::to_ne_bytes).collect();
    task.check(&format!("{what}: what was written"), bytes == wanted);
}

fn child(task: &mut Task) {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(task.file("of-child"));
    let file = file.expect("open");
    let mut rings = [Ring::new("the child's", 8), Ring::new("the child's second", 200)];
    rings[0].write(&file, 3);
    for _ in 0..9 {
        rings[1].write(&file, 100);
        rings[1].reap(90).expect("reap");
        rings[1].reap(10).expect("reap");
    }
    rings[1].write(&file, 150);
    let (before, numbers) = (rings.each_ref().map(seen), rings.each_ref().map(|ring| ring.word(0)));
    task.park();
    // None has gone in between, so they have the same numbers.
    task.check_eq("numbers", rings.each_ref().map(|ring| ring.word(0)), numbers);
    task.check("the child's rings are as they were", rings.each_ref().map(seen) == before);
    for ring in &mut rings {
        go_on(task, ring, &file);
    }
}

fn main() {
    let mut task = Task::root();
    task.spawn("child", child);
    let file = File::options().read(true).write(true).create(true).truncate(true).open(task.file("written"));
    let file = file.expect("open");
    let first = Ring::new("destroyed", 1);
    let mut rings = [
        Ring::new("never used", 1),
        Ring::new("read in part", 10),
        Ring::new("come round", 62),
        Ring::new("long", 1024),
        Ring::new("read-only", 64),
    ];
    first.destroy();
    let [_, part, round, long, read_only] = &mut rings;
    part.write(&file, 9);
    part.reap(5).expect("reap");
    for _ in 0..5 {
        let most = round.events() / 2;
        round.write(&file, most - 2);
        round.reap(most - 2).expect("reap");
    }
    // Up to one before the beginning, which no other event can show.
    let to_end = round.events() - round.word(3) as usize;
    round.write(&file, to_end.min(60));
    round.reap(to_end.min(60) - 1).expect("reap");
    round.write(&file, 40);
    long.write(&file, 300);
    long.reap(300).expect("reap");
    long.write(&file, 700);
    read_only.write(&file, 64);
    read_only.reap(63).expect("reap");
    let len = HEAD + 32 * read_only.events();
    // SAFETY: the ring's own mapping; the kernel writes to it by another way.
    let result = unsafe { libc::mprotect(read_only.id as *mut libc::c_void, len, libc::PROT_READ) };
    assert_eq!(result, 0, "mprotect: {}", std::io::Error::last_os_error());
    assert!(round.word(3) < round.word(2), "the ring has not come round");
    let memory = pattern(3, 1 << 16);
    let before = rings.each_ref().map(seen);
    task.park();
    for (ring, before) in rings.iter().zip(&before) {
        task.check_eq(&format!("{}: head", ring.what), seen(ring).0, before.0);
        task.check(&format!("{}: events", ring.what), seen(ring).1 == before.1);
    }
    for ring in &mut rings {
        go_on(&mut task, ring, &file);
    }
    task.check("memory beside", memory == pattern(3, 1 << 16));
    let another = Ring::new("made after", 5);
    task.check("another is elsewhere", rings.iter().all(|ring| ring.id != another.id));
    task.finish();
}
