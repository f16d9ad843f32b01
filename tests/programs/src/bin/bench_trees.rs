//! Trees of the shapes that servers and pools have: `bench_trees DIR COUNT SHAPE`. For benchmarks; each task checks
//! how many descriptors it has, and like the other programs who it is.
//!
//! | shape | COUNT | what it is |
//! |---|---|---|
//! | `inherited` | children | 150 descriptors of all plain kinds, opened by the root and inherited by all |
//! | `prefork` | workers | a server that keeps an end of a socket pair and of a pipe for each worker; the worker has the other ends, the listener, and an epoll of its own |
//! | `chain` | depth | each level opens 10 pipes and drops half of what its parent had |
//! | `mappings` | children | 32 shared anonymous mappings, of all |

use std::fs::File;
use std::net::TcpListener;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::EventFd;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{close, pipe};
use regrow_test_programs::{Task, pattern};

fn main() {
    let argument = |at: usize| std::env::args().nth(at).expect("bench_trees DIR COUNT SHAPE");
    let count: u32 = argument(2).parse().expect("the count is a number");
    let mut task = Task::root();
    match argument(3).as_str() {
        "inherited" => inherited(&mut task, count),
        "prefork" => prefork(&mut task, count),
        "chain" => chain(&mut task, 0, count, &mut Vec::new()),
        "mappings" => mappings(&mut task, count),
        other => panic!("{other}: no such shape"),
    }
    task.finish();
}

/// Parks; then as many descriptors must be open as the program has, beside the three standard ones. (Counted only
/// behind the restore: what a program does before it is timed.)
fn park(task: &mut Task, descriptors: usize) {
    task.park();
    // One is the directory's.
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |list| list.count() - 1);
    task.check_eq("descriptors", open, 3 + descriptors);
}

fn socket_pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty()).expect("socketpair")
}

fn inherited(task: &mut Task, count: u32) {
    let mut open: Vec<OwnedFd> = Vec::new();
    for number in 0..50 {
        let path = task.file(&format!("file{number}"));
        std::fs::write(&path, pattern(number, 64)).expect("write");
        open.push(File::open(path).expect("open").into());
    }
    for _ in 0..25 {
        let (reader, writer) = pipe().expect("pipe");
        open.extend([reader, writer]);
    }
    for _ in 0..20 {
        let (left, right) = socket_pair();
        open.extend([left, right]);
    }
    for _ in 0..10 {
        open.push(EventFd::new().expect("eventfd").into());
    }
    assert_eq!(open.len(), 150);
    for number in 0..count {
        task.spawn(&format!("child{number}"), |task| park(task, open.len()));
    }
    park(task, open.len());
}

fn prefork(task: &mut Task, count: u32) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    let needed = u64::from(count) * 2 + 64;
    setrlimit(Resource::RLIMIT_NOFILE, needed.min(hard), hard).expect("setrlimit");
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut kept: Vec<OwnedFd> = Vec::new();
    for number in 0..count {
        let (server, worker) = socket_pair();
        let (reader, writer) = pipe().expect("pipe");
        let theirs: Vec<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).collect();
        let mut ends = Some((server, reader));
        let (worker, writer, listener) = (&worker, &writer, &listener);
        task.spawn(&format!("worker{number}"), |task| {
            for fd in theirs {
                close(fd).expect("close");
            }
            drop(ends.take());
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
            for (number, fd) in [worker.as_fd(), listener.as_fd()].into_iter().enumerate() {
                epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, number as u64)).expect("epoll_ctl");
            }
            let _ = writer;
            // The listener, two ends, the epoll.
            park(task, 4);
        });
        let (server, reader) = ends.take().expect("they are still here");
        kept.extend([server, reader]);
    }
    park(task, 1 + kept.len());
}

fn chain(task: &mut Task, level: u32, depth: u32, above: &mut Vec<OwnedFd>) {
    let mut keep = false;
    above.retain(|_| {
        keep = !keep;
        keep
    });
    for _ in 0..10 {
        let (reader, writer) = pipe().expect("pipe");
        above.extend([reader, writer]);
    }
    if level + 1 < depth {
        task.spawn(&format!("level{}", level + 1), |task| chain(task, level + 1, depth, above));
    }
    park(task, above.len());
}

fn mappings(task: &mut Task, count: u32) {
    const BYTES: usize = 1 << 20;
    let length = NonZeroUsize::new(BYTES).expect("not 0");
    let mut starts = Vec::new();
    for number in 0..32 {
        // SAFETY: a new mapping at a place that the kernel chooses.
        let start = unsafe {
            mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED)
        }
        .expect("mmap");
        // SAFETY: the mapping is as long, and stays.
        let bytes = unsafe { std::slice::from_raw_parts_mut(start.as_ptr().cast::<u8>(), BYTES) };
        bytes[..8192].copy_from_slice(&pattern(number, 8192));
        starts.push(start.as_ptr() as usize);
    }
    let check = move |task: &mut Task| {
        park(task, 0);
        for (number, start) in starts.iter().enumerate() {
            // SAFETY: as above; nobody writes any more.
            let bytes = unsafe { std::slice::from_raw_parts(*start as *const u8, 8192) };
            task.check("shared memory", bytes == pattern(number as u64, 8192));
        }
    };
    for number in 0..count {
        task.spawn(&format!("child{number}"), &check);
    }
    check(task);
}
