//! What is measured, tape by tape, and which constants come of it.
//!
//! Each function writes one measurement, plays it, and gives constants by their names in
//! [`regrow_graph::cost::CostModel`]. Where a constant is what one more descriptor, mapping or page adds, two
//! measurements are compared.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe, read, write};

use super::bench::{Bench, FIRST_PID, Median, ROOM, Times, await_exit, exit};
use super::calibrate::Enter;
use crate::runner;
use crate::sys::{process, ptrace};
use crate::tape::assemble::Tape;

const PAGE: u64 = 4096;
const READ: u64 = libc::PROT_READ as u64;
const READ_WRITE: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
const PRIVATE: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED) as u64;
const NO_FD: u64 = u64::MAX;
/// How often each thing is done between two readings of the clock.
const TIMES: u32 = 16;
/// Descriptors, mappings, and pages of the forks that are compared with a bare one.
const FORK_FDS: u32 = 400;
const FORK_VMAS: u32 = 400;
const FORK_PAGES: u64 = 1024;
/// Those of them that a child replaces.
const REPLACED: u64 = 64;
/// Descriptors of one message.
const MESSAGE_FDS: u32 = 64;
/// Pages of a mapping that is filled: one, then another, then the others.
const FILL_PAGES: u64 = 256;
const MORE: u64 = FILL_PAGES - 2;
/// How many turns the forks with different loads take: what the machine does meanwhile is the same for all.
const TURNS: u32 = 5;
/// Tasks that are committed together.
const COMMITTED: u32 = 32;

/// Constants as they were measured.
pub(super) type Constants = BTreeMap<&'static str, Median>;
/// What a measurement gives, or why it cannot be made.
pub(super) type Outcome = Result<Constants, String>;

/// What all measurements share.
pub(super) struct Ground<'a> {
    /// How often each is repeated.
    pub(super) samples: u32,
    /// The CPU that most of them run on.
    pub(super) cpu: Option<usize>,
    pub(super) enter: Enter<'a>,
    /// A file that is there, and the directory that it is in.
    pub(super) file: Vec<u8>,
    pub(super) directory: Vec<u8>,
}

/// One measurement: its constants, and what measures them.
pub(super) struct Measurement {
    pub(super) constants: &'static [&'static str],
    pub(super) run: fn(&Ground<'_>) -> Outcome,
}

/// All measurements. Every constant is one's and only one's.
pub(super) const ALL: &[Measurement] = &[
    Measurement {
        constants: &["call_ns", "credentials_ns", "path_ns", "open_ns", "post_ns", "wait_ns"],
        run: calls,
    },
    Measurement {
        constants: &[
            "dup_ns",
            "close_ns",
            "close_last_ns",
            "handle_ns",
            "pipe_ns",
            "socket_ns",
            "socketpair_ns",
            "memfd_ns",
            "attach_ns",
            "write_ns",
        ],
        run: descriptors,
    },
    Measurement { constants: &["send_ns", "send_fd_ns", "receive_ns", "receive_fd_ns"], run: messages },
    Measurement {
        constants: &[
            "map_ns",
            "map_file_ns",
            "remap_ns",
            "unmap_ns",
            "protect_ns",
            "fill_ns",
            "fill_page_ns",
        ],
        run: memory,
    },
    Measurement { constants: &["register_ns", "copy_ns", "copy_page_ns"], run: copies },
    Measurement {
        constants: &[
            "fork_ns",
            "fork_fd_ns",
            "fork_vma_ns",
            "fork_page_ns",
            "close_many_ns",
            "drop_page_ns",
            "replace_page_ns",
            "birth_ns",
            "exit_ns",
            "reap_ns",
            "setsid_ns",
            "setpgid_ns",
        ],
        run: forks,
    },
    Measurement { constants: &["thread_ns"], run: threads },
    Measurement { constants: &["wake_ns", "woken_ns", "arrive_ns"], run: wakes },
    Measurement { constants: &["filter_ns"], run: filters },
    Measurement { constants: &["commit_thread_ns"], run: commits },
];

/// The median of what was read under a name, without the readings themselves.
fn median(times: &Times, name: &'static str, each: u32) -> Result<Median, String> {
    let of = |name: &str| times.get(name).and_then(|times| Median::of(times));
    let reading_ns = of("nothing").map_or(0.0, |nothing| nothing.middle) / f64::from(each);
    let found = of(name).ok_or_else(|| format!("{name} was not measured"))?;
    Ok(found.map(|time| (time - reading_ns).max(0.0)))
}

/// Several of them, each done [`TIMES`] times in a row.
fn medians(times: &Times, names: &[&'static str]) -> Outcome {
    names.iter().map(|name| Ok((*name, median(times, name, TIMES)?))).collect()
}

/// Two readings with nothing between them.
fn nothing(bench: &mut Bench, tape: &mut Tape) {
    bench.timed(tape, "nothing", 1, |_, _| {});
}

fn calls(ground: &Ground<'_>) -> Outcome {
    let mut bench = Bench::new(ground.cpu, 2, ground.samples as usize * 14);
    let mut root = bench.root();
    let (file, directory) = (bench.asm.text(&ground.file), bench.asm.text(&ground.directory));
    let events = [bench.asm.event(0), bench.asm.event(1)];
    for _ in 0..ground.samples {
        nothing(&mut bench, &mut root);
        many(&mut bench, &mut root, "call_ns", |tape, _| tape.call_ok(libc::SYS_umask, &[0]));
        // setresuid(2) to the same ids is nothing to the kernel; this makes new credentials each time.
        many(&mut bench, &mut root, "credentials_ns", |tape, at| {
            tape.call(libc::SYS_prctl, &[libc::PR_SET_KEEPCAPS as u64, (at + 1) % 2, 0, 0, 0], 0);
        });
        many(&mut bench, &mut root, "path_ns", |tape, _| tape.call(libc::SYS_chdir, &[directory], 0));
        many(&mut bench, &mut root, "open_ns", |tape, at| {
            tape.call(libc::SYS_openat, &[libc::AT_FDCWD as u64, file, 0, 0], at);
        });
        root.call(libc::SYS_close_range, &[0, u64::from(u32::MAX), 0], 0);
        many(&mut bench, &mut root, "post_ns", |tape, _| tape.post(events[0]));
        many(&mut bench, &mut root, "wait_ns", |tape, _| tape.wait(events[0]));
    }
    let names = ["call_ns", "credentials_ns", "path_ns", "open_ns", "post_ns", "wait_ns"];
    medians(&bench.play(root, ground.enter)?, &names)
}

/// Does something [`TIMES`] times, and times it; `body` is told how often it was done before.
fn many(bench: &mut Bench, tape: &mut Tape, name: &'static str, body: impl Fn(&mut Tape, u64)) {
    bench.timed(tape, name, TIMES, |_, tape| (0..u64::from(TIMES)).for_each(|at| body(tape, at)));
}

fn descriptors(ground: &Ground<'_>) -> Outcome {
    let mut bench = Bench::new(ground.cpu, 0, ground.samples as usize * 22);
    let mut root = bench.root();
    let scratch = bench.asm.cell(0);
    let name = bench.asm.text(b"regrow");
    let interest = bench.asm.data(&[0; 12], 8);
    let close_all = |tape: &mut Tape| tape.call(libc::SYS_close_range, &[0, u64::from(u32::MAX), 0], 0);
    for _ in 0..ground.samples {
        nothing(&mut bench, &mut root);
        many(&mut bench, &mut root, "handle_ns", |tape, at| tape.call(libc::SYS_eventfd2, &[0, 0], at));
        let copies = u64::from(TIMES)..;
        many(&mut bench, &mut root, "dup_ns", |tape, at| {
            let to = copies.start + at;
            tape.call(libc::SYS_dup3, &[0, to, 0], to);
        });
        many(&mut bench, &mut root, "close_ns", |tape, at| {
            tape.call(libc::SYS_close, &[copies.start + at], 0);
        });
        many(&mut bench, &mut root, "close_last_ns", |tape, at| tape.call(libc::SYS_close, &[at], 0));
        many(&mut bench, &mut root, "pipe_ns", |tape, _| tape.call(libc::SYS_pipe2, &[scratch, 0], 0));
        close_all(&mut root);
        let (unix, stream) = (libc::AF_UNIX as u64, libc::SOCK_STREAM as u64);
        many(&mut bench, &mut root, "socket_ns", |tape, at| {
            tape.call(libc::SYS_socket, &[unix, stream, 0], at);
        });
        close_all(&mut root);
        many(&mut bench, &mut root, "socketpair_ns", |tape, _| {
            tape.call(libc::SYS_socketpair, &[unix, stream, 0, scratch], 0);
        });
        close_all(&mut root);
        many(&mut bench, &mut root, "memfd_ns", |tape, at| {
            tape.call(libc::SYS_memfd_create, &[name, libc::MFD_CLOEXEC as u64], at);
        });
        close_all(&mut root);
        root.call(libc::SYS_epoll_create1, &[0], 0);
        root.call(libc::SYS_eventfd2, &[0, 0], 1);
        many(&mut bench, &mut root, "attach_ns", |tape, at| {
            let change = if at % 2 == 0 { libc::EPOLL_CTL_ADD } else { libc::EPOLL_CTL_DEL };
            tape.call(libc::SYS_epoll_ctl, &[0, change as u64, 1, interest], 0);
        });
        close_all(&mut root);
        root.call(libc::SYS_pipe2, &[scratch, 0], 0);
        many(&mut bench, &mut root, "write_ns", |tape, at| match at % 2 {
            0 => tape.call(libc::SYS_write, &[1, name, 6], 6),
            _ => tape.call(libc::SYS_read, &[0, scratch, 6], 6),
        });
        close_all(&mut root);
    }
    let names = [
        "dup_ns",
        "close_ns",
        "close_last_ns",
        "handle_ns",
        "pipe_ns",
        "socket_ns",
        "socketpair_ns",
        "memfd_ns",
        "attach_ns",
        "write_ns",
    ];
    medians(&bench.play(root, ground.enter)?, &names)
}

/// `struct msghdr` (sendmsg(2)) of one byte, with room for descriptors, in words that the kernel may write.
fn message(bench: &mut Bench, fds: &[u32]) -> u64 {
    let byte = bench.asm.cell(0);
    let vector = bench.asm.cell(byte);
    bench.asm.cell(1);
    let header = if fds.is_empty() { 0 } else { 16 + 4 * fds.len() as u64 };
    let control = bench.asm.cell(header);
    // SOL_SOCKET, SCM_RIGHTS.
    bench.asm.cell(libc::SOL_SOCKET as u64 | (libc::SCM_RIGHTS as u64) << 32);
    for pair in fds.chunks(2) {
        let second = pair.get(1).copied().unwrap_or(0);
        bench.asm.cell(u64::from(pair[0]) | u64::from(second) << 32);
    }
    let len = header.next_multiple_of(8);
    let words = [0, 0, vector, 1, if len == 0 { 0 } else { control }, len, 0];
    words.map(|word| bench.asm.cell(word))[0]
}

fn messages(ground: &Ground<'_>) -> Outcome {
    let mut bench = Bench::new(ground.cpu, 0, ground.samples as usize * 10);
    let mut root = bench.root();
    let pair = bench.asm.cell(0);
    let seqpacket = libc::SOCK_SEQPACKET as u64;
    root.call(libc::SYS_socketpair, &[libc::AF_UNIX as u64, seqpacket, 0, pair], 0);
    let fds: Vec<u32> = (2..2 + MESSAGE_FDS).collect();
    for fd in &fds {
        root.call(libc::SYS_eventfd2, &[0, 0], u64::from(*fd));
    }
    let without = [message(&mut bench, &[]), message(&mut bench, &[])];
    let with = [message(&mut bench, &fds), message(&mut bench, &fds)];
    let wait = libc::MSG_DONTWAIT as u64;
    for _ in 0..ground.samples {
        nothing(&mut bench, &mut root);
        for (names, [sent, received]) in
            [(["send", "receive"], without), (["send many", "receive many"], with)]
        {
            bench.timed(&mut root, names[0], 1, |_, tape| {
                tape.call(libc::SYS_sendmsg, &[0, sent, wait], 1);
            });
            bench.timed(&mut root, names[1], 1, |_, tape| {
                tape.call(libc::SYS_recvmsg, &[1, received, wait], 1);
            });
        }
        root.call(libc::SYS_close_range, &[u64::from(2 + MESSAGE_FDS), u64::from(u32::MAX), 0], 0);
    }
    let times = bench.play(root, ground.enter)?;
    let mut constants = Constants::new();
    for (one, many, name, each) in [
        ("send", "send many", "send_ns", "send_fd_ns"),
        ("receive", "receive many", "receive_ns", "receive_fd_ns"),
    ] {
        let (one, many) = (median(&times, one, 1)?, median(&times, many, 1)?);
        constants.insert(name, one);
        constants.insert(each, slope(one, many, f64::from(MESSAGE_FDS)));
    }
    Ok(constants)
}

/// What each of `count` adds.
fn slope(without: Median, with: Median, count: f64) -> Median {
    with.map(|time| ((time - without.middle) / count).max(0.0))
}

/// A memfd with so many pages that are no zeroes, as descriptor 0.
fn file(bench: &mut Bench, tape: &mut Tape, pages: u64) {
    let content: Vec<u8> = (0..16 * PAGE).map(|at| (at % 251) as u8).collect();
    let (name, content) = (bench.asm.text(b"regrow"), bench.asm.data(&content, PAGE));
    tape.call(libc::SYS_memfd_create, &[name, 0], 0);
    for at in 0..pages.div_ceil(16) {
        tape.call(libc::SYS_pwrite64, &[0, content, 16 * PAGE, at * 16 * PAGE], 16 * PAGE);
    }
}

fn memory(ground: &Ground<'_>) -> Outcome {
    let mut bench = Bench::new(ground.cpu, 0, ground.samples as usize * 16);
    let mut root = bench.root();
    file(&mut bench, &mut root, FILL_PAGES);
    let map = |tape: &mut Tape, at: u64, len: u64, prot: u64, flags: u64, fd: u64| {
        tape.call(libc::SYS_mmap, &[at, len, prot, flags, fd, 0], at);
    };
    let unmap = |tape: &mut Tape, at: u64, len: u64| tape.call(libc::SYS_munmap, &[at, len], 0);
    let shared = (libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED) as u64;
    let carrier = ROOM + (1 << 30);
    map(&mut root, carrier, 16 * PAGE, READ_WRITE, shared, NO_FD);
    // With a gap behind each: neighbours would become one mapping.
    let place = |at: u64| ROOM + at * 32 * PAGE;
    let all = place(u64::from(TIMES)) - ROOM;
    for _ in 0..ground.samples {
        nothing(&mut bench, &mut root);
        many(&mut bench, &mut root, "map_ns", |tape, at| {
            map(tape, place(at), 16 * PAGE, READ_WRITE, PRIVATE, NO_FD);
        });
        unmap(&mut root, ROOM, all);
        let of_file = (libc::MAP_PRIVATE | libc::MAP_FIXED) as u64;
        many(&mut bench, &mut root, "map_file_ns", |tape, at| {
            map(tape, place(at), 16 * PAGE, READ_WRITE, of_file, 0);
        });
        unmap(&mut root, ROOM, all);
        let remap = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
        many(&mut bench, &mut root, "remap_ns", |tape, at| {
            tape.call(libc::SYS_mremap, &[carrier, 0, 16 * PAGE, remap, place(at)], place(at));
        });
        unmap(&mut root, ROOM, all);
        map(&mut root, ROOM, 16 * PAGE, READ_WRITE, PRIVATE, NO_FD);
        many(&mut bench, &mut root, "protect_ns", |tape, at| {
            let prot = if at % 2 == 0 { READ } else { READ_WRITE };
            tape.call(libc::SYS_mprotect, &[ROOM, 16 * PAGE, prot], 0);
        });
        unmap(&mut root, ROOM, 16 * PAGE);
        // One page is there, and with it the table of those around it.
        let (second, third) = (ROOM + PAGE, ROOM + 2 * PAGE);
        map(&mut root, ROOM, FILL_PAGES * PAGE, READ_WRITE, PRIVATE, NO_FD);
        root.call(libc::SYS_pread64, &[0, ROOM, PAGE, 0], PAGE);
        bench.timed(&mut root, "one page", 1, |_, tape| {
            tape.call(libc::SYS_pread64, &[0, second, PAGE, PAGE], PAGE);
        });
        bench.timed(&mut root, "many pages", 1, |_, tape| {
            tape.call(libc::SYS_pread64, &[0, third, MORE * PAGE, 2 * PAGE], MORE * PAGE);
        });
        unmap(&mut root, ROOM, FILL_PAGES * PAGE);
        map(&mut root, ROOM, 16 * PAGE, READ_WRITE, PRIVATE, NO_FD);
        root.call(libc::SYS_pread64, &[0, ROOM, PAGE, 0], PAGE);
        bench.timed(&mut root, "unmap_ns", 1, |_, tape| unmap(tape, ROOM, 16 * PAGE));
    }
    let times = bench.play(root, ground.enter)?;
    let mut constants = medians(&times, &["map_ns", "map_file_ns", "remap_ns", "protect_ns"])?;
    constants.insert("unmap_ns", median(&times, "unmap_ns", 1)?);
    let (one, many) = (median(&times, "one page", 1)?, median(&times, "many pages", 1)?);
    let page = slope(one, many, (MORE - 1) as f64);
    constants.insert("fill_page_ns", page);
    constants.insert("fill_ns", one.map(|time| (time - page.middle).max(0.0)));
    Ok(constants)
}

fn copies(ground: &Ground<'_>) -> Outcome {
    /// uapi/linux/userfaultfd.h.
    const USER_MODE_ONLY: u64 = 1;
    const API: u64 = 0xc018_aa3f;
    const REGISTER: u64 = 0xc020_aa00;
    const UNREGISTER: u64 = 0x8010_aa01;
    const COPY: u64 = 0xc028_aa03;
    let mut bench = Bench::new(ground.cpu, 0, ground.samples as usize * 32);
    let mut root = bench.root();
    file(&mut bench, &mut root, FILL_PAGES);
    root.call(libc::SYS_userfaultfd, &[USER_MODE_ONLY], 1);
    fn written<const N: usize>(bench: &mut Bench, words: [u64; N]) -> u64 {
        words.map(|word| bench.asm.cell(word))[0]
    }
    let api = written(&mut bench, [0xaa, 0, 0]);
    root.call(libc::SYS_ioctl, &[1, API, api], 0);
    let (source, len) = (ROOM + (1 << 30), FILL_PAGES * PAGE);
    let shared = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
    root.call(libc::SYS_mmap, &[source, len, libc::PROT_READ as u64, shared, 0, 0], source);
    let register = |bench: &mut Bench, tape: &mut Tape| {
        let range = written(bench, [ROOM, len, 1, 0]);
        tape.call(libc::SYS_ioctl, &[1, REGISTER, range], 0);
    };
    let unregister = |bench: &mut Bench, tape: &mut Tape| {
        let range = bench.asm.words(&[ROOM, len]);
        tape.call(libc::SYS_ioctl, &[1, UNREGISTER, range], 0);
    };
    let copy = |bench: &mut Bench, tape: &mut Tape, page: u64, pages: u64| {
        let copy = written(bench, [ROOM + page * PAGE, source + page * PAGE, pages * PAGE, 0, 0]);
        tape.call(libc::SYS_ioctl, &[1, COPY, copy], 0);
    };
    for _ in 0..ground.samples {
        nothing(&mut bench, &mut root);
        root.call(libc::SYS_mmap, &[ROOM, len, READ_WRITE, PRIVATE, NO_FD, 0], ROOM);
        bench.timed(&mut root, "register_ns", 2, |bench, tape| {
            register(bench, tape);
            unregister(bench, tape);
        });
        register(&mut bench, &mut root);
        // One page is there, and with it the table of those around it.
        copy(&mut bench, &mut root, 0, 1);
        bench.timed(&mut root, "one page", 1, |bench, tape| copy(bench, tape, 1, 1));
        bench.timed(&mut root, "many pages", 1, |bench, tape| copy(bench, tape, 2, MORE));
        unregister(&mut bench, &mut root);
        root.call(libc::SYS_munmap, &[ROOM, len], 0);
    }
    let times = bench.play(root, ground.enter)?;
    let mut constants = Constants::from([("register_ns", median(&times, "register_ns", 2)?)]);
    let (one, many) = (median(&times, "one page", 1)?, median(&times, "many pages", 1)?);
    let page = slope(one, many, (MORE - 1) as f64);
    constants.insert("copy_page_ns", page);
    constants.insert("copy_ns", one.map(|time| (time - page.middle).max(0.0)));
    Ok(constants)
}

/// What a task has when it forks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    Nothing,
    Descriptors,
    Mappings,
    Pages,
}

/// Forks children one after another, by a task with a load.
fn forks_with(ground: &Ground<'_>, samples: u32, load: Load) -> Result<Times, String> {
    let mut bench = Bench::new(ground.cpu, 0, samples as usize * 14);
    let mut root = bench.root();
    match load {
        Load::Nothing => {}
        Load::Descriptors => {
            for fd in 0..FORK_FDS {
                root.call(libc::SYS_eventfd2, &[0, 0], u64::from(fd));
            }
        }
        Load::Mappings => {
            for at in 0..u64::from(FORK_VMAS) {
                let at = ROOM + at * 2 * PAGE;
                root.call(libc::SYS_mmap, &[at, PAGE, READ_WRITE, PRIVATE, NO_FD, 0], at);
            }
        }
        Load::Pages => {
            let flags = PRIVATE | libc::MAP_POPULATE as u64;
            root.call(libc::SYS_mmap, &[ROOM, FORK_PAGES * PAGE, READ_WRITE, flags, NO_FD, 0], ROOM);
            file(&mut bench, &mut root, REPLACED);
        }
    }
    for sample in 0..samples {
        let pid = FIRST_PID + sample;
        let mut child = Tape::default();
        bench.cpu_time(&mut child, "birth");
        match load {
            Load::Nothing if sample % 2 == 0 => bench.timed(&mut child, "setsid_ns", 1, |_, tape| {
                tape.call(libc::SYS_setsid, &[], u64::from(pid));
            }),
            Load::Nothing => bench.timed(&mut child, "setpgid_ns", 1, |_, tape| {
                tape.call(libc::SYS_setpgid, &[0, 0], 0);
            }),
            Load::Descriptors => bench.timed(&mut child, "close many", 1, |_, tape| {
                tape.call(libc::SYS_close_range, &[0, u64::from(u32::MAX), 0], 0);
            }),
            Load::Pages => {
                bench.timed(&mut child, "replace", REPLACED as u32, |_, tape| {
                    tape.call(libc::SYS_pread64, &[0, ROOM, REPLACED * PAGE, 0], REPLACED * PAGE);
                });
                // These are shared still.
                let (from, len) = (ROOM + REPLACED * PAGE, (FORK_PAGES - REPLACED) * PAGE);
                bench.timed(&mut child, "drop", 1, |_, tape| {
                    tape.call(libc::SYS_munmap, &[from, len], 0);
                });
            }
            Load::Mappings => {}
        }
        nothing(&mut bench, &mut child);
        exit(&mut child);
        let (clone_args, tape) = bench.child(pid, 0, &child);
        let from = bench.stamp(&mut root);
        root.fork(clone_args, tape, pid);
        let forked = bench.stamp(&mut root);
        await_exit(&mut root, pid, false);
        let dead = bench.stamp(&mut root);
        await_exit(&mut root, pid, true);
        let reaped = bench.stamp(&mut root);
        bench.between("fork", from, forked, 1);
        bench.between("life", forked, dead, 1);
        bench.between("reap", dead, reaped, 1);
    }
    bench.play(root, ground.enter)
}

fn forks(ground: &Ground<'_>) -> Outcome {
    const LOADS: [Load; 4] = [Load::Nothing, Load::Descriptors, Load::Mappings, Load::Pages];
    let mut all: [Times; 4] = Default::default();
    for _ in 0..TURNS {
        for (times, load) in all.iter_mut().zip(LOADS) {
            for (name, more) in forks_with(ground, ground.samples.div_ceil(TURNS), load)? {
                times.entry(name).or_default().extend(more);
            }
        }
    }
    let [bare, descriptors, mappings, pages] = &all;
    let fork = median(bare, "fork", 1)?;
    // The clock of a task's own time is not the one whose reading is known: its reading stays in.
    let birth = bare.get("birth").and_then(|times| Median::of(times)).ok_or("no birth was measured")?;
    let added = |times: &Times, count: f64| Ok::<_, String>(slope(fork, median(times, "fork", 1)?, count));
    let closing = median(descriptors, "close many", 1)?;
    Ok(Constants::from([
        ("fork_ns", fork),
        ("fork_fd_ns", added(descriptors, f64::from(FORK_FDS))?),
        ("fork_vma_ns", added(mappings, f64::from(FORK_VMAS))?),
        ("fork_page_ns", added(pages, FORK_PAGES as f64)?),
        ("close_many_ns", closing.map(|time| time / f64::from(FORK_FDS))),
        ("replace_page_ns", median(pages, "replace", REPLACED as u32)?),
        ("drop_page_ns", median(pages, "drop", 1)?.map(|time| time / (FORK_PAGES - REPLACED) as f64)),
        ("birth_ns", birth),
        ("reap_ns", median(bare, "reap", 1)?),
        ("setsid_ns", median(bare, "setsid_ns", 1)?),
        ("setpgid_ns", median(bare, "setpgid_ns", 1)?),
        // All on one CPU: what is not the child's birth is its end, and the way there and back.
        ("exit_ns", median(bare, "life", 1)?.map(|time| (time - birth.middle).max(0.0))),
    ]))
}

fn threads(ground: &Ground<'_>) -> Outcome {
    let mut bench = Bench::new(ground.cpu, 0, ground.samples as usize * 4);
    let mut root = bench.root();
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM;
    let mut thread = Tape::default();
    thread.call(libc::SYS_exit, &[0], 0);
    for sample in 0..ground.samples {
        nothing(&mut bench, &mut root);
        let tid = FIRST_PID + sample;
        let (clone_args, tape) = bench.child(tid, flags, &thread);
        bench.timed(&mut root, "thread_ns", 1, |_, root| root.fork(clone_args, tape, tid));
    }
    let times = bench.play(root, ground.enter)?;
    Ok(Constants::from([("thread_ns", median(&times, "thread_ns", 1)?)]))
}

fn wakes(ground: &Ground<'_>) -> Outcome {
    let mut bench = Bench::new(ground.cpu, ground.samples as usize + 1, ground.samples as usize * 7);
    let mut root = bench.root();
    let nap = bench.asm.words(&[0, 200_000]);
    let unused = bench.asm.event(ground.samples);
    for sample in 0..ground.samples {
        let pid = FIRST_PID + sample;
        let event = bench.asm.event(sample);
        let mut child = Tape::default();
        child.wait(event);
        let awake = bench.stamp(&mut child);
        exit(&mut child);
        let (clone_args, tape) = bench.child(pid, 0, &child);
        nothing(&mut bench, &mut root);
        root.fork(clone_args, tape, pid);
        // The only CPU is the child's until it sleeps.
        root.call(libc::SYS_nanosleep, &[nap, 0], 0);
        bench.timed(&mut root, "post", 1, |_, tape| tape.post(unused));
        let from = bench.stamp(&mut root);
        root.post(event);
        let posted = bench.stamp(&mut root);
        await_exit(&mut root, pid, true);
        bench.between("post and wake", from, posted, 1);
        bench.between("woken", posted, awake, 1);
    }
    let times = bench.play(root, ground.enter)?;
    let post = median(&times, "post", 1)?;
    let wake = median(&times, "post and wake", 1)?.map(|time| (time - post.middle).max(0.0));
    let woken = median(&times, "woken", 1)?;
    // Whoever is woken has been put to sleep before, as the root is here: a switch each.
    Ok(Constants::from([("wake_ns", wake), ("woken_ns", woken), ("arrive_ns", woken)]))
}

fn filters(ground: &Ground<'_>) -> Outcome {
    // Each stays, and slows the calls behind it down: few are enough.
    let samples = ground.samples.min(32);
    let mut bench = Bench::new(ground.cpu, 0, samples as usize * 4);
    let mut root = bench.root();
    // struct sock_filter: return SECCOMP_RET_ALLOW. struct sock_fprog: how many, and where.
    let mut instruction = vec![0x06, 0, 0, 0];
    instruction.extend(0x7fff_0000u32.to_ne_bytes());
    let instruction = bench.asm.data(&instruction, 8);
    let program = bench.asm.words(&[1, instruction]);
    root.call(libc::SYS_prctl, &[libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0], 0);
    for _ in 0..samples {
        nothing(&mut bench, &mut root);
        bench.timed(&mut root, "filter_ns", 1, |_, tape| {
            tape.call(libc::SYS_seccomp, &[libc::SECCOMP_SET_MODE_FILTER as u64, 0, program], 0);
        });
    }
    let times = bench.play(root, ground.enter)?;
    Ok(Constants::from([("filter_ns", median(&times, "filter_ns", 1)?)]))
}

/// The steps of [`crate::coordinator::commit`] for tasks that leave by themselves, with children that sleep, and without
/// the extended registers. They stop for a SIGSEGV that they send themselves: there is no window to leave.
fn commits(ground: &Ground<'_>) -> Outcome {
    let mut times = Vec::new();
    for _ in 0..ground.samples.div_ceil(16) {
        let failed = |what: &'static str| move |errno: Errno| format!("{what}: {}", errno.desc());
        let (wait, go) = pipe().map_err(failed("pipe"))?;
        let mut children = Children::default();
        for _ in 0..COMMITTED {
            match process::fork().map_err(failed("fork"))? {
                Some(child) => children.0.push(child),
                None => {
                    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
                    let _ = read(&wait, &mut [0]);
                    loop {
                        let _ = raise(Signal::SIGSEGV);
                    }
                }
            }
        }
        // They are to sleep.
        std::thread::sleep(Duration::from_millis(5));
        let start = Instant::now();
        commit(&children.0, &go)?;
        times.push(start.elapsed().as_nanos() as f64 / f64::from(COMMITTED));
    }
    let median = Median::of(&times).ok_or("no commit was measured")?;
    Ok(Constants::from([("commit_thread_ns", median)]))
}

/// Children that end with this.
#[derive(Default)]
struct Children(Vec<Pid>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &self.0 {
            let _ = kill(*child, Signal::SIGKILL);
        }
        for child in &self.0 {
            let _ = waitpid(*child, None);
        }
    }
}

fn commit(children: &[Pid], go: &OwnedFd) -> Result<(), String> {
    let failed = |what: &'static str| move |errno: Errno| format!("{what}: {}", errno.desc());
    let all = |what: &'static str, step: &dyn Fn(Pid) -> nix::Result<()>| {
        children.iter().try_for_each(|child| step(*child).map_err(failed(what)))
    };
    // As every task of a restore has it: in user mode, with nothing set but where it goes on.
    let call = registers(runner::code().as_ptr().addr() as u64 + runner::syscall_offset());
    all("PTRACE_SEIZE", &|child| ptrace::seize(child, false))?;
    write(go, &[0; COMMITTED as usize]).map_err(failed("write"))?;
    all("PTRACE_SETREGS", &|child| {
        ptrace::wait(child)?;
        ptrace::fault(child)?;
        ptrace::set_registers(child, &call)?;
        ptrace::set_signal_mask(child, u64::MAX)
    })?;
    // What they would go on with is nothing to go on with: they stay.
    all("PTRACE_SETOPTIONS", &ptrace::spare)
}

/// Registers of a thread that calls getppid(2) next.
fn registers(rip: u64) -> libc::user_regs_struct {
    libc::user_regs_struct {
        r15: 0,
        r14: 0,
        r13: 0,
        r12: 0,
        rbp: 0,
        rbx: 0,
        r11: 0,
        r10: 0,
        r9: 0,
        r8: 0,
        rax: libc::SYS_getppid as u64,
        rcx: 0,
        rdx: 0,
        rsi: 0,
        rdi: 0,
        orig_rax: u64::MAX,
        rip,
        // User segments of Linux on x86-64, interrupts enabled.
        cs: 0x33,
        eflags: 0x202,
        rsp: 0,
        ss: 0x2b,
        fs_base: 0,
        gs_base: 0,
        ds: 0,
        es: 0,
        fs: 0,
        gs: 0,
    }
}
