//! Random sequences of calls, valid and invalid ones, of few tasks with few descriptors and few pages:
//! so that they meet often.
//!
//! Arguments are drawn from small pools that have both what works and what does not: numbers of
//! descriptors below 12 (and one that is never open), four files, three abstract names, eight pages.
//! Nothing here knows whether a call succeeds; the test counts that each kind of call does both.

use proptest::prelude::*;
use proptest::strategy::Union;

use crate::call::{Call, Gives, Kind, Step, Word};
use crate::player::SCRATCH;

/// Where the files of a case are.
pub(crate) const DIRECTORY: &str = "/mnt";
/// The first task.
pub(crate) const ROOT: u32 = 1000;
/// The first of the pages that the cases map.
pub(crate) const PAGES: u64 = 0x20_0000_0000;
const PAGE: u64 = 4096;
const THREAD: u64 = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000 | 0x4_0000;

type Calls = BoxedStrategy<Call>;

fn call(name: &'static str, nr: i64, args: Vec<Word>, gives: Gives) -> Call {
    Call { name, nr, args, gives }
}

fn is(number: impl Into<u64>) -> Word {
    Word::Is(number.into())
}

const ZERO: Gives = Gives::Value(0);

fn fd() -> impl Strategy<Value = u32> {
    prop_oneof![30 => 0u32..6, 10 => 6u32..12, 1 => Just(100_000u32)]
}

/// A descriptor of the caller's that is of use, mostly.
fn held(kind: Kind) -> impl Strategy<Value = Word> {
    prop_oneof![6 => any::<u8>().prop_map(move |nth| Word::Held(kind, nth)), 1 => fd().prop_map(is)]
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        12 => (0..2u8).prop_map(|n| format!("{DIRECTORY}/f{n}")),
        1 => (0..2u8).prop_map(|n| format!("{DIRECTORY}/d{n}")),
        1 => Just(format!("{DIRECTORY}/d0/f")),
        1 => Just(format!("{DIRECTORY}/p")),
        1 => Just(format!("{DIRECTORY}/none/f")),
    ]
    .prop_map(String::into_bytes)
}

/// Mostly of directories.
fn directory() -> impl Strategy<Value = Vec<u8>> {
    let one = (0..2u8).prop_map(|n| format!("{DIRECTORY}/d{n}").into_bytes());
    prop_oneof![3 => one, 1 => path()]
}

fn text(path: &[u8]) -> Word {
    Word::Bytes([path, b"\0"].concat())
}

fn cwd() -> Word {
    Word::Is(libc::AT_FDCWD as i64 as u64)
}

/// O_CLOEXEC, O_NONBLOCK, both, none; now and then a flag that is wrong.
fn flags() -> impl Strategy<Value = u64> {
    prop_oneof![
        5 => Just(0u64),
        5 => Just(libc::O_NONBLOCK as u64),
        2 => Just(libc::O_CLOEXEC as u64),
        2 => Just((libc::O_NONBLOCK | libc::O_CLOEXEC) as u64),
        1 => Just(libc::O_NOCTTY as u64),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![
        10 => 1usize..40,
        1 => Just(0usize),
        2 => Just(8usize),
        2 => 4000usize..5000,
        1 => Just(65536usize),
        1 => 8000usize..20000,
    ];
    (len, any::<u8>())
        .prop_map(|(len, first)| (0..len).map(|at| first.wrapping_add((at % 251) as u8)).collect())
}

fn signal() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => prop::sample::select(vec![10u64, 12, 15, 17, 34, 40, 1, 2]),
        1 => prop::sample::select(vec![9u64, 63, 18, 23, 28]),
        1 => Just(11u64),
    ]
}

fn set() -> impl Strategy<Value = u64> {
    prop::collection::vec(prop::sample::select(vec![9u64, 10, 12, 15, 17, 34, 40, 63]), 0..4)
        .prop_map(|signals| signals.iter().fold(0, |set, signal| set | 1 << (signal - 1)))
}

fn tables() -> Calls {
    let open_flags = (
        prop::sample::select(vec![libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR]),
        prop::sample::select(vec![0, 0, 0, libc::O_APPEND, libc::O_CLOEXEC, libc::O_NONBLOCK, libc::O_PATH]),
        prop::sample::select(vec![
            0,
            libc::O_CREAT,
            libc::O_CREAT,
            libc::O_CREAT | libc::O_EXCL,
            libc::O_TRUNC,
            libc::O_DIRECTORY,
        ]),
    )
        .prop_map(|(access, status, create)| (access | status | create) as u32);
    let open = (path(), open_flags).prop_map(|(path, flags)| {
        call("openat", libc::SYS_openat, vec![cwd(), text(&path), is(flags), is(0o640u32)], Gives::Number)
    });
    let open_directory = directory().prop_map(|path| {
        let flags = (libc::O_DIRECTORY | libc::O_RDONLY) as u64;
        call("openat", libc::SYS_openat, vec![cwd(), text(&path), is(flags), is(0u32)], Gives::Number)
    });
    let pipe = prop_oneof![9 => flags(), 1 => Just(libc::O_DIRECT as u64)]
        .prop_map(|flags| call("pipe2", libc::SYS_pipe2, vec![Word::Scratch, is(flags)], ZERO));
    let pair = (prop::sample::select(vec![1u64, 1, 2, 5, 3, 4]), flags()).prop_map(|(kind, flags)| {
        call(
            "socketpair",
            libc::SYS_socketpair,
            vec![is(1u32), is(kind | flags), is(0u32), Word::Scratch],
            ZERO,
        )
    });
    let dup = (held(Kind::Any), fd(), prop::bool::ANY).prop_map(|(from, to, cloexec)| {
        let flags = if cloexec { libc::O_CLOEXEC as u64 } else { 0 };
        call("dup3", libc::SYS_dup3, vec![from, is(to), is(flags)], Gives::Value(to.into()))
    });
    let lowest = (held(Kind::Any), fd(), prop::bool::ANY).prop_map(|(from, least, cloexec)| {
        let command = if cloexec { libc::F_DUPFD_CLOEXEC } else { libc::F_DUPFD };
        call("fcntl(F_DUPFD)", libc::SYS_fcntl, vec![from, is(command as u64), is(least)], Gives::Number)
    });
    let cloexec = (held(Kind::Any), 0u64..2).prop_map(|(fd, flag)| {
        call("fcntl(F_SETFD)", libc::SYS_fcntl, vec![fd, is(libc::F_SETFD as u64), is(flag)], ZERO)
    });
    let close = fd().prop_map(|fd| call("close", libc::SYS_close, vec![is(fd)], ZERO));
    let range =
        (fd(), fd(), prop::sample::select(vec![0u64, 0, 2, 4, 6])).prop_map(|(first, last, flags)| {
            call("close_range", libc::SYS_close_range, vec![is(first), is(last), is(flags)], ZERO)
        });
    prop_oneof![5 => open, 2 => open_directory, 6 => pipe, 5 => pair, 5 => dup, 3 => lowest, 3 => cloexec, 5 => close, 1 => range]
        .boxed()
}

fn anonymous() -> Calls {
    let eventfd =
        (prop_oneof![0u32..3, Just(u32::MAX)], flags(), 0u64..2).prop_map(|(counter, flags, semaphore)| {
            call("eventfd2", libc::SYS_eventfd2, vec![is(counter), is(flags | semaphore)], Gives::Number)
        });
    let epoll = prop::sample::select(vec![0u64, 0, libc::O_CLOEXEC as u64, libc::O_NONBLOCK as u64])
        .prop_map(|flags| call("epoll_create1", libc::SYS_epoll_create1, vec![is(flags)], Gives::Number));
    let timer = (prop::sample::select(vec![0u64, 1, 7, 2, 99]), flags()).prop_map(|(clock, flags)| {
        call("timerfd_create", libc::SYS_timerfd_create, vec![is(clock), is(flags)], Gives::Number)
    });
    let signals = (set(), flags()).prop_map(|(set, flags)| {
        let args = vec![is(u32::MAX), Word::Words(vec![is(set)]), is(8u32), is(flags)];
        call("signalfd4", libc::SYS_signalfd4, args, Gives::Number)
    });
    let memfd = prop::sample::select(vec![0u64, 1, 2, 3, 0x20]).prop_map(|flags| {
        call("memfd_create", libc::SYS_memfd_create, vec![text(b"m"), is(flags)], Gives::Number)
    });
    prop_oneof![3 => eventfd, 2 => epoll, 2 => timer, 1 => signals, 3 => memfd].boxed()
}

fn objects() -> Calls {
    let seek =
        (held(Kind::File), prop_oneof![0u64..100, Just(4096), Just(1 << 40)]).prop_map(|(fd, position)| {
            call("lseek", libc::SYS_lseek, vec![fd, is(position), is(0u32)], Gives::Value(position))
        });
    let status = (
        held(Kind::Any),
        prop::sample::select(vec![0, libc::O_NONBLOCK, libc::O_APPEND, libc::O_NONBLOCK, 2]),
    )
        .prop_map(|(fd, flags)| {
            call(
                "fcntl(F_SETFL)",
                libc::SYS_fcntl,
                vec![fd, is(libc::F_SETFL as u64), is(flags as u64)],
                ZERO,
            )
        });
    let size = (
        held(Kind::Pipe),
        prop::sample::select(vec![0u32, 4096, 5000, 8192, 65536, 1 << 20, 1 << 21, u32::MAX]),
    )
        .prop_map(|(fd, size)| {
            let args = vec![fd, is(libc::F_SETPIPE_SZ as u64), is(size)];
            call("fcntl(F_SETPIPE_SZ)", libc::SYS_fcntl, args, Gives::Value(size.into()))
        });
    let write = (held(Kind::Any), bytes()).prop_map(|(fd, bytes)| {
        let len = bytes.len() as u64;
        call("write", libc::SYS_write, vec![fd, Word::Bytes(bytes), is(len)], Gives::Value(len))
    });
    let count = (held(Kind::Eventfd), prop_oneof![0u64..4, Just(u64::MAX), Just(u64::MAX - 1)]).prop_map(
        |(fd, value)| {
            call(
                "write",
                libc::SYS_write,
                vec![fd, Word::Bytes(value.to_ne_bytes().to_vec()), is(8u32)],
                Gives::Value(8),
            )
        },
    );
    let into = prop_oneof![4 => Just(SCRATCH), 2 => (0u64..8).prop_map(|page| PAGES + page * PAGE + 100)];
    let len = prop_oneof![5 => 1u64..40, 2 => Just(8u64), 1 => Just(0u64), 1 => Just(5000u64)];
    let read = (held(Kind::Any), into.clone(), len.clone()).prop_map(|(fd, into, len)| {
        call("read", libc::SYS_read, vec![fd, is(into), is(len)], Gives::Value(len))
    });
    let pread = (held(Kind::File), into, len, prop::sample::select(vec![0u64, 3, 4096])).prop_map(
        |(fd, into, len, offset)| {
            let vector = Word::Words(vec![is(into), is(len)]);
            call(
                "read",
                libc::SYS_preadv,
                vec![fd, vector, is(1u32), is(offset), is(0u32)],
                Gives::Value(len),
            )
        },
    );
    let watch =
        (held(Kind::Epoll), held(Kind::Any), prop::sample::select(vec![1u32, 4, 1 | 1 << 31, 5]), 0u32..9)
            .prop_map(|(epoll, target, events, data)| {
                let event = [events.to_ne_bytes(), data.to_ne_bytes(), [0; 4]].concat();
                let args = vec![epoll, is(libc::EPOLL_CTL_ADD as u64), target, Word::Bytes(event)];
                call("epoll_ctl", libc::SYS_epoll_ctl, args, ZERO)
            });
    // Far in the future: nothing expires while a case runs.
    let set = (held(Kind::Timer), prop::sample::select(vec![0u64, 0, 1, 2, 8]), 0u64..2, 0u64..2).prop_map(
        |(fd, flags, interval, value)| {
            let time = vec![is(interval * 7), is(interval * 9), is(value * (1 << 33)), is(0u32)];
            let args = vec![fd, is(flags), Word::Words(time), is(0u32)];
            call("timerfd_settime", libc::SYS_timerfd_settime, args, ZERO)
        },
    );
    let ticks = (held(Kind::Timer), 0u64..4).prop_map(|(fd, ticks)| {
        let args = vec![fd, is(0x4008_5400u32), Word::Words(vec![is(ticks)])];
        call("ioctl(TFD_IOC_SET_TICKS)", libc::SYS_ioctl, args, ZERO)
    });
    let truncate = (held(Kind::File), prop_oneof![0u64..50, Just(8192u64), Just(u64::MAX)])
        .prop_map(|(fd, len)| call("ftruncate", libc::SYS_ftruncate, vec![fd, is(len)], ZERO));
    let copy = (held(Kind::Any), held(Kind::File), 1u64..30).prop_map(|(to, from, len)| {
        call("sendfile", libc::SYS_sendfile, vec![to, from, is(0u32), is(len)], Gives::Value(len))
    });
    let seals =
        (held(Kind::File), prop::sample::select(vec![0u64, 1, 2, 4, 8, 3])).prop_map(|(fd, seals)| {
            call("fcntl(F_ADD_SEALS)", libc::SYS_fcntl, vec![fd, is(1033u32), is(seals)], ZERO)
        });
    let owner = (held(Kind::Any), prop_oneof![ROOT..ROOT + 6, Just(0u32)]).prop_map(|(fd, pid)| {
        call("fcntl(F_SETOWN)", libc::SYS_fcntl, vec![fd, is(libc::F_SETOWN as u64), is(pid)], ZERO)
    });
    let sig = (held(Kind::Any), prop::sample::select(vec![0u64, 10, 64, 65])).prop_map(|(fd, signal)| {
        call("fcntl(F_SETSIG)", libc::SYS_fcntl, vec![fd, is(10u32), is(signal)], ZERO)
    });
    let mode = (held(Kind::File), 0u64..0o10000)
        .prop_map(|(fd, mode)| call("fchmod", libc::SYS_fchmod, vec![fd, is(mode)], ZERO));
    let enter = held(Kind::Directory).prop_map(|fd| call("fchdir", libc::SYS_fchdir, vec![fd], ZERO));
    prop_oneof![
        3 => seek, 4 => status, 3 => size, 12 => write, 3 => count, 12 => read, 3 => pread, 6 => watch, 2 => set,
        2 => ticks, 3 => truncate, 2 => copy, 2 => seals, 1 => owner, 1 => sig, 1 => mode, 2 => enter,
    ]
    .boxed()
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    (0..2u8).prop_map(|n| [&1u16.to_ne_bytes()[..], &[0], b"name", &[b'0' + n]].concat())
}

fn sockets() -> Calls {
    let socket = (prop::sample::select(vec![1u64, 1, 2, 5, 3, 9]), flags()).prop_map(|(kind, flags)| {
        call("socket", libc::SYS_socket, vec![is(1u32), is(kind | flags), is(0u32)], Gives::Number)
    });
    let accept = (held(Kind::Listener), flags()).prop_map(|(fd, flags)| {
        call("accept4", libc::SYS_accept4, vec![fd, is(0u32), is(0u32), is(flags)], Gives::Number)
    });
    let address = |nr, name: &'static str| {
        move |(fd, address): (Word, Vec<u8>)| {
            let len = address.len() as u64;
            call(name, nr, vec![fd, Word::Bytes(address), is(len)], ZERO)
        }
    };
    let bind = (held(Kind::Socket), name()).prop_map(address(libc::SYS_bind, "bind"));
    let to = prop_oneof![9 => name(), 1 => Just(vec![0u8; 16])];
    let connect = (held(Kind::Socket), to).prop_map(address(libc::SYS_connect, "connect"));
    let listen = (held(Kind::Bound), 0u64..3)
        .prop_map(|(fd, backlog)| call("listen", libc::SYS_listen, vec![fd, is(backlog)], ZERO));
    let shutdown = (held(Kind::Socket), 0u64..3)
        .prop_map(|(fd, how)| call("shutdown", libc::SYS_shutdown, vec![fd, is(how)], ZERO));
    let send = (held(Kind::Socket), bytes(), prop::bool::ANY).prop_map(|(fd, bytes, wait)| {
        let (len, flags) = (bytes.len() as u64, if wait { 0 } else { libc::MSG_DONTWAIT as u64 });
        let args = vec![fd, Word::Bytes(bytes), is(len), is(flags), is(0u32), is(0u32)];
        call("send", libc::SYS_sendto, args, Gives::Value(len))
    });
    let rights = prop::collection::vec(held(Kind::Any), 1..4);
    let rights = sending(held(Kind::Socket), rights);
    let option = (
        held(Kind::Socket),
        prop::sample::select(vec![
            (libc::SO_SNDBUF, 4096u32),
            (libc::SO_RCVBUF, 10000),
            (libc::SO_SNDBUFFORCE, 1 << 20),
            (libc::SO_REUSEADDR, 1),
            (libc::SO_PRIORITY, 3),
            (libc::SO_RCVLOWAT, 5),
            (libc::SO_SNDBUF, 1 << 25),
            (libc::SO_KEEPALIVE, 1),
            (libc::SO_BROADCAST, 1),
            (libc::SO_OOBINLINE, 1),
        ]),
    )
        .prop_map(|(fd, (option, value))| {
            let args =
                vec![fd, is(1u32), is(option as u64), Word::Bytes(value.to_ne_bytes().to_vec()), is(4u32)];
            call("setsockopt", libc::SYS_setsockopt, args, ZERO)
        });
    prop_oneof![5 => socket, 5 => accept, 5 => bind, 8 => connect, 6 => listen, 3 => shutdown, 8 => send, 4 => rights, 3 => option]
        .boxed()
}

/// A message of one byte with descriptors.
fn sending(
    through: impl Strategy<Value = Word> + 'static,
    rights: impl Strategy<Value = Vec<Word>> + 'static,
) -> Calls {
    (through, rights).prop_map(|(fd, rights)| send(fd, rights)).boxed()
}

fn send(fd: Word, rights: Vec<Word>) -> Call {
    let room = 16 + 4 * rights.len() as u64;
    let vector = Word::Words(vec![Word::Bytes(b"r".to_vec()), is(1u32)]);
    let message = vec![is(0u32), is(0u32), vector, is(1u32), Word::Rights(rights), is(room), is(0u32)];
    let flags = libc::MSG_DONTWAIT as u64;
    call("send", libc::SYS_sendmsg, vec![fd, Word::Words(message), is(flags)], Gives::Value(1))
}

/// A message of so many bytes is received, with room for so many descriptors.
fn receive(fd: Word, rights: u64, bytes: u64, flags: i32) -> Call {
    let vector = Word::Words(vec![Word::Scratch, is(bytes)]);
    let room = 16 + 4 * rights;
    let header = vec![is(0u32), is(0u32), vector, is(1u32), Word::Control, is(room), is(0u32)];
    let args = vec![fd, Word::Changed(header), is(flags as u32)];
    call("recvmsg", libc::SYS_recvmsg, args, Gives::Value(bytes))
}

/// Channels as plans have them, what goes through them, and who has too little room for it.
fn messages() -> Calls {
    // Lanes and boards keep messages apart.
    let pair = (prop::sample::select(vec![5u64, 5, 5, 5, 2, 1]), flags()).prop_map(|(kind, flags)| {
        let args = vec![is(1u32), is(kind | flags), is(0u32), Word::Scratch];
        call("socketpair", libc::SYS_socketpair, args, ZERO)
    });
    let rights = prop_oneof![
        20 => prop::collection::vec(held(Kind::Any), 1..5),
        2 => Just(Vec::new()),
        // SCM_MAX_FD, and one more.
        1 => (held(Kind::Any), 252usize..255).prop_map(|(fd, count)| vec![fd; count]),
    ];
    let send = sending(held(Kind::Connected), rights);
    let receive = receiving();
    let probe = (held(Kind::Any), 0u64..2).prop_map(|(fd, flag)| {
        call("fcntl(F_GETFD)", libc::SYS_fcntl, vec![fd, is(libc::F_GETFD as u64)], Gives::Value(flag))
    });
    let close = held(Kind::Any).prop_map(|fd| call("close", libc::SYS_close, vec![fd], ZERO));
    let shutdown = (held(Kind::Connected), 0u64..3)
        .prop_map(|(fd, how)| call("shutdown", libc::SYS_shutdown, vec![fd, is(how)], ZERO));
    // The other ends of what is sent tell whether anybody has it still.
    let read = held(Kind::Pipe)
        .prop_map(|fd| call("read", libc::SYS_read, vec![fd, is(SCRATCH), is(8u32)], Gives::Value(8)));
    let write = held(Kind::Pipe).prop_map(|fd| {
        call("write", libc::SYS_write, vec![fd, Word::Bytes(b"w".to_vec()), is(1u32)], Gives::Value(1))
    });
    prop_oneof![
        5 => pair, 12 => send, 14 => receive, 2 => probe, 7 => close, 1 => shutdown, 3 => read, 1 => write,
        2 => lowered(),
    ]
    .boxed()
}

/// One message is received, or looked at.
fn receiving() -> Calls {
    let from = prop_oneof![6 => held(Kind::Filled), 3 => held(Kind::Connected), 1 => held(Kind::Any)];
    let rights = prop_oneof![8 => 1u64..5, 1 => Just(253u64)];
    let bytes = prop_oneof![6 => Just(1u64), 1 => 2u64..50];
    let (wait_not, look, mark) = (libc::MSG_DONTWAIT, libc::MSG_PEEK, libc::MSG_CMSG_CLOEXEC);
    let flags = prop_oneof![
        5 => Just(wait_not),
        5 => Just(wait_not | look),
        2 => Just(wait_not | mark),
        2 => Just(wait_not | look | mark),
        1 => Just(0),
    ];
    (from, rights, bytes, flags)
        .prop_map(|(fd, rights, bytes, flags)| receive(fd, rights, bytes, flags))
        .boxed()
}

/// A soft limit of descriptors that may be below those that are open, and can be raised again.
fn lowered() -> Calls {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is live.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    let hard = limit.rlim_max;
    prop_oneof![4 => 3u64..12, 1 => Just(hard)]
        .prop_map(move |soft| {
            let words = Word::Words(vec![is(soft), is(hard)]);
            let args = vec![is(0u32), is(libc::RLIMIT_NOFILE), words, is(0u32)];
            call("prlimit64", libc::SYS_prlimit64, args, ZERO)
        })
        .boxed()
}

fn names() -> Calls {
    let one = |nr, name: &'static str, rest: Vec<Word>| {
        path().prop_map(move |path| call(name, nr, [vec![cwd(), text(&path)], rest.clone()].concat(), ZERO))
    };
    let two = |name: &'static str, nr, flags: Option<u64>| {
        (path(), path()).prop_map(move |(from, to)| {
            let mut args = vec![cwd(), text(&from), cwd(), text(&to)];
            args.extend(flags.map(Word::Is));
            call(name, nr, args, ZERO)
        })
    };
    let fifo = u64::from(libc::S_IFIFO | 0o600);
    prop_oneof![
        3 => directory().prop_map(|path| {
            call("mkdir", libc::SYS_mkdirat, vec![cwd(), text(&path), is(0o755u32)], ZERO)
        }),
        2 => one(libc::SYS_mknodat, "mknod", vec![is(fifo), is(0u32)]),
        2 => two("link", libc::SYS_linkat, Some(0)),
        5 => one(libc::SYS_unlinkat, "unlink", vec![is(0u32)]),
        2 => two("rename", libc::SYS_renameat2, Some(0)),
        1 => two("renameat2", libc::SYS_renameat2, Some(2)),
        3 => directory().prop_map(|path| {
            let args = vec![cwd(), text(&path), is(libc::AT_REMOVEDIR as u64)];
            call("rmdir", libc::SYS_unlinkat, args, ZERO)
        }),
        2 => one(libc::SYS_fchmodat, "fchmodat", vec![is(0o600u32)]),
        2 => one(libc::SYS_fchownat, "fchownat", vec![is(5u32), is(6u32), is(0u32)]),
    ]
    .boxed()
}

fn memory() -> Calls {
    let range = || (0u64..8, prop_oneof![6 => 1u64..4, 1 => Just(0u64)]);
    let prot = || prop::sample::select(vec![3u64, 3, 3, 1, 0, 5]);
    let kind = prop::sample::select(vec![libc::MAP_PRIVATE, libc::MAP_PRIVATE, libc::MAP_SHARED]);
    let place = prop::sample::select(vec![libc::MAP_FIXED, libc::MAP_FIXED_NOREPLACE]);
    let file = prop_oneof![5 => Just(None), 2 => (held(Kind::File), 0u64..3).prop_map(Some)];
    let map = (range(), prot(), kind, place, file).prop_map(|((page, pages), prot, kind, place, file)| {
        // Whether what a file system has may be executed is up to the host.
        let prot = if file.is_some() { prot & 3 } else { prot };
        let at = PAGES + page * PAGE;
        let flags = (kind | place | if file.is_none() { libc::MAP_ANONYMOUS } else { 0 }) as u64;
        let (fd, offset) = file.map_or((is(u64::MAX), 0), |(fd, page)| (fd, page * PAGE));
        let args = vec![is(at), is(pages * PAGE), is(prot), is(flags), fd, is(offset)];
        call("mmap", libc::SYS_mmap, args, Gives::Value(at))
    });
    let remap = (range(), range(), prop::bool::ANY).prop_map(|((from, old), (to, new), same)| {
        if from == to {
            // It stays where it is, and becomes longer.
            let at = PAGES + from * PAGE;
            let args = vec![is(at), is(old * PAGE), is((old + new) * PAGE), is(0u32)];
            return call("mremap", libc::SYS_mremap, args, Gives::Value(at));
        }
        let new = if same { old } else { new };
        let to = PAGES + to * PAGE;
        let args = vec![is(PAGES + from * PAGE), is(old * PAGE), is(new * PAGE), is(3u32), is(to)];
        call("mremap", libc::SYS_mremap, args, Gives::Value(to))
    });
    let unmap = range().prop_map(|(page, pages)| {
        call("munmap", libc::SYS_munmap, vec![is(PAGES + page * PAGE), is(pages * PAGE)], ZERO)
    });
    let protect = (range(), prot()).prop_map(|((page, pages), prot)| {
        call("mprotect", libc::SYS_mprotect, vec![is(PAGES + page * PAGE), is(pages * PAGE), is(prot)], ZERO)
    });
    // DONTNEED, DONTFORK, DOFORK, DONTDUMP, DODUMP, WIPEONFORK, KEEPONFORK, NOHUGEPAGE, and one that is none.
    let advice = prop::sample::select(vec![4u64, 10, 11, 16, 17, 18, 19, 15, 99]);
    let advise = (range(), advice).prop_map(|((page, pages), advice)| {
        call("madvise", libc::SYS_madvise, vec![is(PAGES + page * PAGE), is(pages * PAGE), is(advice)], ZERO)
    });
    let poke = (0u64..8, prop::sample::select(vec![0u64, 7, 4090]), 1usize..20, any::<u8>()).prop_map(
        |(page, offset, len, byte)| {
            let data = Word::Words(vec![Word::Bytes(vec![byte; len]), is(len as u64)]);
            let to = Word::Words(vec![is(PAGES + page * PAGE + offset), is(len as u64)]);
            let args = vec![Word::Own, data, is(1u32), to, is(1u32), is(0u32)];
            call("process_vm_writev", libc::SYS_process_vm_writev, args, Gives::Value(len as u64))
        },
    );
    prop_oneof![7 => map, 3 => remap, 2 => unmap, 3 => protect, 2 => advise, 8 => poke].boxed()
}

fn family() -> Calls {
    let session = Just(call("setsid", libc::SYS_setsid, vec![], Gives::Own));
    let group = prop_oneof![3 => Just(Word::Is(0)), 5 => (ROOT..ROOT + 6).prop_map(is)]
        .prop_map(|group| call("setpgid", libc::SYS_setpgid, vec![is(0u32), group], ZERO));
    let wait = (ROOT..ROOT + 7, prop::bool::ANY).prop_map(|(pid, reap)| {
        let options = if reap { 0x4000_0000 | 4 } else { 4 | 0x0100_0000 };
        call(
            "waitid",
            libc::SYS_waitid,
            vec![is(1u32), is(pid), is(0u32), is(options as u64), is(0u32)],
            ZERO,
        )
    });
    let exit = (0u64..4).prop_map(|code| call("exit_group", libc::SYS_exit_group, vec![is(code)], ZERO));
    let kill = signal().prop_map(|signal| call("kill", libc::SYS_kill, vec![Word::Own, is(signal)], ZERO));
    prop_oneof![3 => session, 4 => group, 5 => wait, 2 => exit, 2 => kill].boxed()
}

fn prctl(name: &'static str, option: i32, value: impl Strategy<Value = u64> + 'static) -> Calls {
    value
        .prop_map(move |value| {
            call(
                name,
                libc::SYS_prctl,
                vec![is(option as u64), is(value), is(0u32), is(0u32), is(0u32)],
                ZERO,
            )
        })
        .boxed()
}

fn attributes() -> Calls {
    let comm = prop::sample::select(vec!["a", "name", "a name that is too long"]).prop_map(|name| {
        call(
            "prctl(PR_SET_NAME)",
            libc::SYS_prctl,
            vec![is(libc::PR_SET_NAME as u64), text(name.as_bytes())],
            ZERO,
        )
    });
    let umask = prop::sample::select(vec![0u64, 0o22, 0o777, 0o1027])
        .prop_map(|mask| call("umask", libc::SYS_umask, vec![is(mask)], Gives::Old));
    let chdir = directory().prop_map(|path| call("chdir", libc::SYS_chdir, vec![text(&path)], ZERO));
    let action = (
        signal(),
        prop::sample::select(vec![0u64, 1, PAGES]),
        prop::sample::select(vec![0u64, 2, 0x1000_0000]),
        set(),
    )
        .prop_map(|(signal, handler, flags, mask)| {
            // A signal that nobody sends: there is no handler to be run.
            let signal = if handler > 1 { 64 } else { signal };
            let words = vec![is(handler), is(flags), is(0u32), is(mask)];
            let args = vec![is(signal), Word::Words(words), is(0u32), is(8u32)];
            call("rt_sigaction", libc::SYS_rt_sigaction, args, ZERO)
        });
    let mask = (0u64..3, set()).prop_map(|(how, set)| {
        let args = vec![is(how), Word::Words(vec![is(set)]), is(0u32), is(8u32)];
        call("rt_sigprocmask", libc::SYS_rt_sigprocmask, args, ZERO)
    });
    let eat = (set(), prop::sample::select(vec![10u64, 12, 17, 34])).prop_map(|(set, expected)| {
        let args =
            vec![Word::Words(vec![is(set)]), is(0u32), Word::Words(vec![is(0u32), is(0u32)]), is(8u32)];
        let _ = expected;
        call("rt_sigtimedwait", libc::SYS_rt_sigtimedwait, args, Gives::Old)
    });
    let alt =
        prop::sample::select(vec![(PAGES, 0u64, 8192u64), (0, 2, 0), (PAGES, 0, 16), (PAGES, 1 << 31, 8192)])
            .prop_map(|(sp, flags, len)| {
                let words = Word::Words(vec![is(sp), is(flags), is(len)]);
                call("sigaltstack", libc::SYS_sigaltstack, vec![words, is(0u32)], ZERO)
            });
    let robust = prop::sample::select(vec![(PAGES, 24u64), (0, 24), (PAGES, 8)]).prop_map(|(head, len)| {
        call("set_robust_list", libc::SYS_set_robust_list, vec![is(head), is(len)], ZERO)
    });
    let nice = prop::sample::select(vec![0u64, 5, 19]).prop_map(|nice| {
        call("setpriority", libc::SYS_setpriority, vec![is(0u32), is(0u32), is(nice)], ZERO)
    });
    let flag = || 0u64..2;
    prop_oneof![
        2 => comm,
        2 => umask,
        2 => chdir,
        4 => action,
        4 => mask,
        2 => eat,
        1 => alt,
        1 => robust,
        1 => nice,
        1 => prctl("prctl(PR_SET_DUMPABLE)", libc::PR_SET_DUMPABLE, 0u64..4),
        1 => prctl("prctl(PR_SET_PDEATHSIG)", libc::PR_SET_PDEATHSIG, prop::sample::select(vec![0u64, 10, 65])),
        3 => prctl("prctl(PR_SET_CHILD_SUBREAPER)", libc::PR_SET_CHILD_SUBREAPER, flag()),
        1 => prctl("prctl(PR_SET_THP_DISABLE)", libc::PR_SET_THP_DISABLE, flag()),
        1 => prctl("prctl(PR_SET_TIMERSLACK)", libc::PR_SET_TIMERSLACK, prop::sample::select(vec![0u64, 12345])),
    ]
    .boxed()
}

fn capset(effective: u64, permitted: u64, inheritable: u64) -> Call {
    let header = [0x2008_0522u32.to_ne_bytes(), [0; 4]].concat();
    let halves = [effective, permitted, inheritable].map(|set| set as u32);
    let uppers = [effective, permitted, inheritable].map(|set| (set >> 32) as u32);
    let data = Word::Bytes(halves.iter().chain(&uppers).flat_map(|half| half.to_ne_bytes()).collect());
    call("capset", libc::SYS_capset, vec![Word::Bytes(header), data], ZERO)
}

fn privileges() -> Calls {
    let id = || prop::sample::select(vec![u64::from(u32::MAX), 0, 1000, 2000]);
    let uids = (id(), id(), id())
        .prop_map(|(a, b, c)| call("setresuid", libc::SYS_setresuid, vec![is(a), is(b), is(c)], ZERO));
    let gids = (id(), id(), id())
        .prop_map(|(a, b, c)| call("setresgid", libc::SYS_setresgid, vec![is(a), is(b), is(c)], ZERO));
    let fsuid = (0u64..3).prop_map(|id| call("setfsuid", libc::SYS_setfsuid, vec![is(id)], Gives::Old));
    let fsgid = (0u64..3).prop_map(|id| call("setfsgid", libc::SYS_setfsgid, vec![is(id)], Gives::Old));
    let groups = prop::collection::vec(0u32..9, 0..4).prop_map(|groups| {
        let list = Word::Bytes(groups.iter().flat_map(|group| group.to_ne_bytes()).collect());
        call("setgroups", libc::SYS_setgroups, vec![is(groups.len() as u64), list], ZERO)
    });
    // CAP_KILL, CAP_SETUID, CAP_SYS_ADMIN, CAP_SYS_PACCT, and all that there are without CAP_SYS_RESOURCE.
    let all = ((1u64 << 41) - 1) & !(1 << 24);
    let sets =
        || prop::sample::select(vec![all, all & !(1 << 20), 1 << 5 | 1 << 7 | 1 << 6 | 1 << 21, 1 << 7, 0]);
    let caps = (sets(), sets(), sets())
        .prop_map(|(effective, permitted, inheritable)| capset(effective, permitted, inheritable));
    let bounding = prop::sample::select(vec![20u64, 5, 63]);
    let securebits = prop::sample::select(vec![0u64, 4, 0x10, 0x30, 1 << 12]);
    let ambient = prop::sample::select(vec![5u64, 7, 20, 63]).prop_map(|cap| {
        let args = vec![
            is(libc::PR_CAP_AMBIENT as u64),
            is(libc::PR_CAP_AMBIENT_RAISE as u64),
            is(cap),
            is(0u32),
            is(0u32),
        ];
        call("prctl(PR_CAP_AMBIENT)", libc::SYS_prctl, args, ZERO)
    });
    let limit = (
        prop::sample::select(vec![7u64, 1, 4, 99]),
        prop::sample::select(vec![(8u64, 8u64), (10, 1 << 19), (64, 9), (9, 10)]),
    )
        .prop_map(|(resource, (soft, hard))| {
            let args = vec![is(0u32), is(resource), Word::Words(vec![is(soft), is(hard)]), is(0u32)];
            call("prlimit64", libc::SYS_prlimit64, args, ZERO)
        });
    prop_oneof![
        2 => uids,
        2 => gids,
        1 => fsuid,
        1 => fsgid,
        1 => groups,
        3 => caps,
        1 => prctl("prctl(PR_CAPBSET_DROP)", libc::PR_CAPBSET_DROP, bounding),
        1 => prctl("prctl(PR_SET_SECUREBITS)", libc::PR_SET_SECUREBITS, securebits),
        1 => prctl("prctl(PR_SET_KEEPCAPS)", libc::PR_SET_KEEPCAPS, 0u64..2),
        1 => prctl("prctl(PR_SET_NO_NEW_PRIVS)", libc::PR_SET_NO_NEW_PRIVS, Just(1u64)),
        1 => ambient,
        2 => limit,
    ]
    .boxed()
}

/// What a case is about: a theme has its own calls more often than others, so that they meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Theme {
    /// Descriptors and all that they show.
    Files,
    /// Unix sockets.
    Sockets,
    /// Descriptors in messages, lanes and boards.
    Messages,
    /// Address spaces.
    Memory,
    /// Births, deaths, sessions, groups.
    Family,
    /// Attributes and credentials.
    Attributes,
    /// Everything.
    All,
}

fn steps(theme: Theme) -> impl Strategy<Value = Step> {
    // Of tables, anonymous, objects, sockets, names, memory, family, attributes, privileges, messages; of forks.
    let (weights, forks) = match theme {
        Theme::Files => ([30, 10, 50, 0, 14, 0, 1, 2, 0, 0], 4),
        Theme::Sockets => ([20, 2, 15, 60, 0, 0, 1, 0, 0, 4], 4),
        Theme::Messages => ([8, 1, 0, 0, 0, 0, 1, 0, 0, 90], 8),
        Theme::Memory => ([6, 4, 6, 0, 0, 80, 2, 0, 0, 0], 6),
        Theme::Family => ([2, 0, 0, 0, 0, 0, 60, 12, 0, 0], 25),
        // Without files: permissions are not modelled.
        Theme::Attributes => ([0, 0, 0, 0, 0, 0, 4, 50, 30, 0], 8),
        Theme::All => ([16, 6, 20, 12, 4, 16, 8, 8, 0, 8], 6),
    };
    let calls = [
        tables(),
        anonymous(),
        objects(),
        sockets(),
        names(),
        memory(),
        family(),
        attributes(),
        privileges(),
        messages(),
    ];
    let weighted: Vec<(u32, Calls)> =
        weights.into_iter().zip(calls).filter(|(weight, _)| *weight > 0).collect();
    let call = (0u8..8, Union::new_weighted(weighted)).prop_map(|(who, call)| Step::Call { who, call });
    let flags = prop_oneof![
        8 => Just((0u64, libc::SIGCHLD as u64)),
        1 => Just((0, 0)),
        2 => Just((libc::CLONE_PARENT as u64, 0)),
        1 => Just((libc::CLONE_FILES as u64, libc::SIGCHLD as u64)),
        1 => Just((libc::CLONE_FS as u64, libc::SIGCHLD as u64)),
        2 => Just((THREAD, 0)),
        1 => Just((THREAD, libc::SIGCHLD as u64)),
    ];
    let fork = (0u8..8, ROOT + 1..ROOT + 6, flags).prop_map(|(who, pid, (flags, exit_signal))| Step::Fork {
        who,
        pid,
        flags,
        exit_signal,
    });
    prop_oneof![forks => fork, 100 => call]
}

/// Files and directories, so that names lead somewhere.
fn made() -> Calls {
    let file = (0..2u8).prop_map(|n| {
        let path = text(format!("{DIRECTORY}/f{n}").as_bytes());
        let flags = (libc::O_CREAT | libc::O_RDWR) as u64;
        call("openat", libc::SYS_openat, vec![cwd(), path, is(flags), is(0o640u32)], Gives::Number)
    });
    let directory = (0..2u8).prop_map(|n| {
        let path = text(format!("{DIRECTORY}/d{n}").as_bytes());
        call("mkdir", libc::SYS_mkdirat, vec![cwd(), path, is(0o755u32)], ZERO)
    });
    prop_oneof![file, directory].boxed()
}

/// Something to begin with: without it most calls of a short case would find nothing open, or mapped.
fn firsts(theme: Theme) -> impl Strategy<Value = Step> {
    let call = match theme {
        Theme::Files | Theme::All => {
            prop_oneof![2 => tables(), 2 => anonymous(), 1 => names(), 2 => made()].boxed()
        }
        Theme::Sockets => prop_oneof![tables(), sockets()].boxed(),
        Theme::Messages => prop_oneof![2 => messages(), 1 => tables()].boxed(),
        Theme::Memory => prop_oneof![3 => memory(), 1 => anonymous()].boxed(),
        Theme::Family => family(),
        Theme::Attributes => attributes(),
    };
    call.prop_filter("it makes something", |call| {
        const NOT: [&str; 7] = ["close", "close_range", "exit_group", "kill", "munmap", "unlink", "rmdir"];
        !NOT.contains(&call.name)
    })
    .prop_map(|call| Step::Call { who: 0, call })
}

/// Calls that random ones hardly ever come to, deliberately: each of these sequences has a call that succeeds only behind others,
/// or fails only behind others, and both ways of it. They are of use among other calls, too.
pub(crate) fn scenes() -> Vec<Vec<Step>> {
    [with_files(), of_attributes()].concat()
}

/// Those that give nothing up: who has given something up has not all permissions, and these are not modelled.
fn with_files() -> Vec<Vec<Step>> {
    let nothing = || is(0u32);
    let held = |kind| Word::Held(kind, 0);
    let open = |path: &str, flags: i32| {
        let path = text(format!("{DIRECTORY}/{path}").as_bytes());
        let args = vec![cwd(), path, is(flags as u32), is(0o640u32)];
        call("openat", libc::SYS_openat, args, Gives::Number)
    };
    let file = |path| open(path, libc::O_CREAT | libc::O_RDWR);
    let name = || Word::Bytes([&1u16.to_ne_bytes()[..], b"\0scene"].concat());
    let socket = || call("socket", libc::SYS_socket, vec![is(1u32), is(1u32), nothing()], Gives::Number);
    let named = |what, nr, fd| call(what, nr, vec![fd, name(), is(8u32)], ZERO);
    let accept = || {
        let args = vec![held(Kind::Listener), nothing(), nothing(), nothing()];
        call("accept4", libc::SYS_accept4, args, Gives::Number)
    };
    let enter = |kind| call("fchdir", libc::SYS_fchdir, vec![held(kind)], ZERO);
    let exchange = |to: &str| {
        let paths = ["f0", to].map(|path| text(format!("{DIRECTORY}/{path}").as_bytes()));
        let [from, to] = paths;
        call("renameat2", libc::SYS_renameat2, vec![cwd(), from, cwd(), to, is(2u32)], ZERO)
    };
    let timer = call("timerfd_create", libc::SYS_timerfd_create, vec![is(1u32), nothing()], Gives::Number);
    let ticks = |count: u64| {
        let args = vec![held(Kind::Timer), is(0x4008_5400u32), Word::Words(vec![is(count)])];
        call("ioctl(TFD_IOC_SET_TICKS)", libc::SYS_ioctl, args, ZERO)
    };
    let pair = call(
        "socketpair",
        libc::SYS_socketpair,
        vec![is(1u32), is(libc::SOCK_SEQPACKET as u64), nothing(), Word::Scratch],
        ZERO,
    );
    let three = || send(held(Kind::Connected), (0..3).map(|nth| Word::Held(Kind::Any, nth)).collect());
    let taken = |room| receive(held(Kind::Filled), room, 1, libc::MSG_DONTWAIT);
    let calls = [
        vec![
            socket(),
            named("bind", libc::SYS_bind, held(Kind::Socket)),
            call("listen", libc::SYS_listen, vec![held(Kind::Bound), is(1u32)], ZERO),
            socket(),
            named("connect", libc::SYS_connect, Word::Held(Kind::Socket, 1)),
            accept(),
            // Nobody else has come, and there is none that listens.
            call("close", libc::SYS_close, vec![held(Kind::Listener)], ZERO),
            accept(),
        ],
        vec![
            call(
                "mkdir",
                libc::SYS_mkdirat,
                vec![cwd(), text(format!("{DIRECTORY}/d0").as_bytes()), is(0o755u32)],
                ZERO,
            ),
            call("chdir", libc::SYS_chdir, vec![text(format!("{DIRECTORY}/d0").as_bytes())], ZERO),
            open("d0", libc::O_DIRECTORY),
            enter(Kind::Directory),
            file("f0"),
            enter(Kind::File),
        ],
        vec![file("f0"), file("f1"), exchange("f1"), exchange("none/f")],
        // Of two errors the one of the directory that is none comes first.
        vec![file("f1"), exchange("f1/f")],
        vec![timer, ticks(2), ticks(0)],
        // Of the first message one descriptor comes, of the second all.
        vec![pair, three(), taken(1), three(), taken(4)],
    ];
    by_the_root(calls)
}

/// Signals, ids and capabilities.
fn of_attributes() -> Vec<Vec<Step>> {
    let nothing = || is(0u32);
    let set = || Word::Words(vec![is(1u64 << (libc::SIGUSR2 - 1))]);
    let block = call(
        "rt_sigprocmask",
        libc::SYS_rt_sigprocmask,
        vec![is(libc::SIG_BLOCK as u64), set(), nothing(), is(8u32)],
        ZERO,
    );
    let kill = call("kill", libc::SYS_kill, vec![Word::Own, is(libc::SIGUSR2 as u64)], ZERO);
    let eat = || {
        let at_once = Word::Words(vec![nothing(), nothing()]);
        call(
            "rt_sigtimedwait",
            libc::SYS_rt_sigtimedwait,
            vec![set(), nothing(), at_once, is(8u32)],
            Gives::Old,
        )
    };
    let groups = |id: u64| call("setresgid", libc::SYS_setresgid, vec![is(id), is(id), is(id)], ZERO);
    let ambient = |capability: u64| {
        let raise = is(libc::PR_CAP_AMBIENT_RAISE as u64);
        let args = vec![is(libc::PR_CAP_AMBIENT as u64), raise, is(capability), nothing(), nothing()];
        call("prctl(PR_CAP_AMBIENT)", libc::SYS_prctl, args, ZERO)
    };
    // CAP_KILL, CAP_SETUID.
    let (kill_all, set_uids) = (1 << 5, 1 << 7);
    by_the_root([
        vec![block, kill, eat(), eat()],
        vec![capset(kill_all, kill_all, kill_all), ambient(5), ambient(20)],
        vec![groups(1000), capset(set_uids, set_uids, 0), groups(2000)],
    ])
}

fn by_the_root<const N: usize>(calls: [Vec<Call>; N]) -> Vec<Vec<Step>> {
    let steps = |calls: Vec<Call>| calls.into_iter().map(|call| Step::Call { who: 0, call }).collect();
    calls.into_iter().map(steps).collect()
}

/// One case; in some of them is a scene.
pub(crate) fn cases() -> impl Strategy<Value = Vec<Step>> {
    prop::sample::select(vec![
        Theme::Files,
        Theme::Files,
        Theme::Sockets,
        Theme::Messages,
        Theme::Memory,
        Theme::Family,
        Theme::Attributes,
        Theme::All,
    ])
    .prop_flat_map(|theme| {
        let scenes = if theme == Theme::Attributes { of_attributes() } else { with_files() };
        let scene = prop::option::weighted(0.1, (any::<prop::sample::Index>(), prop::sample::select(scenes)));
        (prop::collection::vec(firsts(theme), 0..8), prop::collection::vec(steps(theme), 5..60), scene)
    })
    .prop_map(|(mut firsts, steps, scene)| {
        firsts.extend(steps);
        if let Some((at, scene)) = scene {
            let at = at.index(firsts.len());
            firsts.splice(at..at, scene);
        }
        firsts
    })
}
