//! A small tree that has a certificate, and what loses it.
//!
//! Task 10 leads the session and makes a pipe, a socket pair and an eventfd; 11 leads a group and
//! has the pipe's writing end and one socket; 12 joins that group, has files of its own and a
//! thread 14; 13 is a zombie.

use std::collections::BTreeMap;

use super::*;
use crate::ids::{Fd, OfdId};

const SIGCHLD: u64 = 17;
const THREAD: u64 = 0x50f00;
const NONBLOCK: u32 = 0o4000;

type Tapes = BTreeMap<u32, Vec<Effect>>;

fn close_all() -> Effect {
    Effect::Fd(FdEffect::CloseRange { first: 0, last: Fd::MAX, only_mark: false, unshare: false })
}

fn open(path: &str, flags: u32, fd: Fd) -> Effect {
    Effect::Fd(FdEffect::Open { path: path.into(), flags, fd })
}

fn close(fd: Fd) -> Effect {
    Effect::Fd(FdEffect::Close { fd })
}

fn dup(from: Fd, to: Fd) -> Effect {
    Effect::Fd(FdEffect::Dup { from, to, cloexec: false })
}

fn pipe() -> Effect {
    Effect::Fd(FdEffect::Pipe { flags: 0 })
}

fn on(fd: Fd, change: Change) -> Effect {
    Effect::Object { fd, change }
}

fn write(fd: Fd, data: &[u8]) -> Effect {
    on(fd, Change::Write { data: data.to_vec() })
}

fn fork(pid: u32) -> Effect {
    Effect::Fork(Birth { pid, flags: 0, exit_signal: SIGCHLD, cgroup: None })
}

fn map(at: u64, len: u64) -> Effect {
    Effect::Memory(MemoryEffect::Map { at, len, prot: 3, flags: 0x32, file: None })
}

fn uids(id: u32) -> Effect {
    Effect::Privilege(PrivilegeEffect::Uids([Some(id); 3]))
}

fn tapes() -> Tapes {
    let root = vec![
        Effect::Memory(MemoryEffect::Unmap { at: 0, len: 0x1_0000_0000 }),
        close_all(),
        Effect::SetSid,
        open("/dev/null", 2, 0),
        pipe(),
        write(2, b"hello"),
        Effect::Fd(FdEffect::SocketPair { sock_type: 1, flags: 0 }),
        on(4, Change::Send { data: b"greetings".to_vec(), rights: Vec::new(), never_blocks: true }),
        fork(11),
        fork(12),
        close(2),
        close(4),
        Effect::Fd(FdEffect::Eventfd { counter: 5, flags: NONBLOCK, fd: 2 }),
        fork(13),
        Effect::AwaitExit { pid: 13, reap: false },
        map(0x10000, 0x1000),
        Effect::Arrive,
        Effect::Privilege(PrivilegeEffect::Groups(Vec::new())),
        Effect::Privilege(PrivilegeEffect::Gids([Some(1000); 3])),
        uids(1000),
        Effect::Attribute(Attribute::Dumpable(1)),
        Effect::Park,
    ];
    let leader = vec![
        Effect::SetPgid { pgid: 11 },
        Effect::Post(0),
        close(1),
        close(3),
        Effect::Fd(FdEffect::SetCloexec { fd: 2, cloexec: true }),
        Effect::Arrive,
        Effect::Park,
    ];
    let member = vec![
        close_all(),
        open("/dev/null", 2, 0),
        open("/data", 0, 1),
        on(1, Change::Seek { position: 100 }),
        Effect::Wait(0),
        Effect::SetPgid { pgid: 11 },
        Effect::Fork(Birth { pid: 14, flags: THREAD, exit_signal: 0, cgroup: None }),
        Effect::Arrive,
        Effect::Park,
    ];
    let zombie = vec![Effect::Exit { code: 3 }];
    let thread = vec![Effect::Attribute(Attribute::TidAddress(0x10000)), Effect::Arrive, Effect::Park];
    BTreeMap::from([(10, root), (11, leader), (12, member), (13, zombie), (14, thread)])
}

fn path(name: &str, path: &str, flags: u32, position: u64) -> ExpectedOfd {
    let spec = OfdSpec::Path { path: path.into(), position: Some(position) };
    ExpectedOfd { name: name.into(), spec, flags, ..ExpectedOfd::default() }
}

fn socket(name: &str, socket: u32, peer: u32, queue: &[u8]) -> ExpectedOfd {
    let queue = if queue.is_empty() {
        Vec::new()
    } else {
        vec![ExpectedPacket { data: queue.to_vec(), rights: Vec::new() }]
    };
    let options = BTreeMap::from([(SocketOption::SendBuffer, 212_992), (SocketOption::PassCred, 0)]);
    let spec = SocketSpec {
        socket,
        peer: SocketPeer::Socket(peer),
        family: 1,
        sock_type: 1,
        queue,
        options,
        ..SocketSpec::default()
    };
    ExpectedOfd {
        name: name.into(),
        spec: OfdSpec::Socket(Box::new(spec)),
        flags: 2,
        ..ExpectedOfd::default()
    }
}

fn sigchld_default() -> Value {
    let mut actions = [None; 64];
    actions[SIGCHLD as usize - 1] = Some(attribute::Action::default());
    Value::Actions(actions.into())
}

fn expected() -> Expected {
    let slot = |fd: Fd, ofd: u32| Slot { fd, ofd: OfdId(ofd), cloexec: false };
    let task = |pid: u32, ppid: u32, pgid: u32, table: Vec<Slot>| ExpectedTask {
        pid,
        ppid,
        sid: 10,
        pgid,
        table,
        table_id: Some(pid),
        ..ExpectedTask::default()
    };
    let end = |name: &str, flags: u32| ExpectedOfd {
        name: name.into(),
        spec: OfdSpec::Pipe { pipe: 0x1f },
        flags,
        ..ExpectedOfd::default()
    };
    Expected {
        tasks: vec![
            task(10, 0, 10, vec![slot(0, 0), slot(1, 1), slot(2, 3), slot(3, 4)]),
            task(11, 10, 11, vec![slot(0, 0), Slot { cloexec: true, ..slot(2, 2) }, slot(4, 5)]),
            ExpectedTask { threads: vec![14], ..task(12, 10, 11, vec![slot(0, 6), slot(1, 7)]) },
            ExpectedTask {
                life: Life::Zombie { status: 0x300 },
                table_id: None,
                ..task(13, 10, 10, Vec::new())
            },
        ],
        ofds: vec![
            path("file 0x1 (/dev/null)", "/dev/null", 2, 0),
            end("file 0x2 (pipe 0x1f, reading end)", 0),
            end("file 0x3 (pipe 0x1f, writing end)", 1),
            ExpectedOfd {
                name: "file 0x4 (eventfd)".into(),
                spec: OfdSpec::Eventfd { counter: 5, semaphore: false },
                flags: 2 | NONBLOCK,
                ..ExpectedOfd::default()
            },
            socket("file 0x5 (unix socket 0xa)", 0xa, 0xb, b"greetings"),
            socket("file 0x6 (unix socket 0xb)", 0xb, 0xa, b""),
            path("file 0x7 (/dev/null)", "/dev/null", 2, 0),
            path("file 0x8 (/data)", "/data", 0, 100),
        ],
        pipes: BTreeMap::from([(0x1f, ExpectedPipe { capacity: Some(65536), data: b"hello".to_vec() })]),
        paths: ["/dev/null", "/data", "/bin/true"].map(|path| path.as_bytes().to_vec()).into(),
        images: vec![b"/images".to_vec()],
        // The launcher waits for its children.
        inherited: vec![(AttributeKind::SigActions, sigchld_default())],
        ..Expected::default()
    }
}

fn tree(tapes: &Tapes) -> LiftedTree {
    let tasks = tapes.iter().map(|(pid, effects)| LiftedTask {
        pid: *pid,
        effects: effects.iter().cloned().zip(0..).map(|(effect, record)| Lifted { record, effect }).collect(),
    });
    LiftedTree {
        region: Region {
            start: 0x1_0000_0000,
            rw_end: 0x1_0000_1000,
            end: 0x1_0001_0000,
            window_end: 0x1_0010_0000,
        },
        total: 4 + u32::from(tapes.contains_key(&15)),
        root: Birth { pid: 10, flags: 0, exit_signal: SIGCHLD, cgroup: None },
        tasks: tasks.collect(),
        suspended: [12, 14].into(),
    }
}

/// The certificate is lost with a message that has these words in it.
#[track_caller]
fn check(change: impl FnOnce(&mut Tapes), demand: u32, words: &str) {
    check_all(|tapes, _, _| change(tapes), demand, words);
}

#[track_caller]
fn check_all(change: impl FnOnce(&mut Tapes, &mut LiftedTree, &mut Expected), demand: u32, words: &str) {
    let (mut tapes, mut lifted, mut expected) = (tapes(), LiftedTree::default(), expected());
    change(&mut tapes, &mut lifted, &mut expected);
    let mut whole = tree(&tapes);
    if lifted.total != 0 {
        whole.total = lifted.total;
    }
    if lifted.root != Birth::default() {
        whole.root = lifted.root;
    }
    let counterexample = match verify(&whole, &expected) {
        Ok(certificate) => panic!("a certificate, expected: {words}\n{certificate}"),
        Err(counterexample) => counterexample,
    };
    let text = counterexample.to_string();
    assert!(text.contains(words), "{text}\nexpected: {words}");
    assert_eq!(counterexample.wrong.demand(), demand, "{text}");
}

/// Changes the model and must keep the certificate.
#[track_caller]
fn passes(change: impl FnOnce(&mut Tapes, &mut Expected)) -> Certificate {
    let (mut tapes, mut expected) = (tapes(), expected());
    change(&mut tapes, &mut expected);
    match verify(&tree(&tapes), &expected) {
        Ok(certificate) => certificate,
        Err(counterexample) => panic!("{counterexample}"),
    }
}

/// Where the first effect is that `is` accepts.
#[track_caller]
fn find(tape: &[Effect], is: impl Fn(&Effect) -> bool) -> usize {
    tape.iter().position(is).expect("such an effect")
}

/// The tape of `pid`.
fn of(tapes: &mut Tapes, pid: u32) -> &mut Vec<Effect> {
    tapes.get_mut(&pid).expect("such a tape")
}

#[track_caller]
fn remove(tapes: &mut Tapes, pid: u32, effect: &Effect) {
    let at = find(&tapes[&pid], |other| other == effect);
    of(tapes, pid).remove(at);
}

#[track_caller]
fn replace(tapes: &mut Tapes, pid: u32, effect: &Effect, by: Vec<Effect>) {
    let at = find(&tapes[&pid], |other| other == effect);
    of(tapes, pid).splice(at..=at, by);
}

/// Puts effects before the barrier.
fn last(tapes: &mut Tapes, pid: u32, effects: Vec<Effect>) {
    let at = find(&tapes[&pid], |other| *other == Effect::Arrive);
    of(tapes, pid).splice(at..at, effects);
}

#[test]
fn the_tree_has_a_certificate() {
    let certificate = passes(|_, _| ());
    let text = certificate.to_string();
    assert_eq!((certificate.tasks, certificate.threads, certificate.zombies), (3, 1, 1), "{text}");
    assert_eq!((certificate.descriptors, certificate.descriptions, certificate.objects), (9, 8, 3), "{text}");
    assert_eq!((certificate.posts, certificate.waits, certificate.deaths_awaited), (1, 1, 1), "{text}");
    assert_eq!(certificate.queued_bytes, 5 + 5 + 9, "{text}");
    assert_eq!(certificate.births, 5, "{text}");
    assert!(text.starts_with("certified: 42 records of 3 tasks"), "{text}");
}

#[test]
fn demand_1_waits_and_posts() {
    check(|t| remove(t, 11, &Effect::Post(0)), 1, "task 12, record 4: waits for event 0, which nobody posts");
    check(
        |t| of(t, 11).insert(1, Effect::Post(0)),
        1,
        "task 11, record 2: posts event 0, which task 11 posts, too",
    );
    check(|t| last(t, 10, vec![Effect::Wait(9)]), 1, "waits for event 9");
    let circle = |t: &mut Tapes| {
        of(t, 11).insert(0, Effect::Wait(1));
        of(t, 12).push(Effect::Post(1));
        of(t, 12).swap(8, 9);
    };
    check(
        circle,
        1,
        "task 11 waits in record 0 for event 1, which task 12 posts in record 8; task 12 waits in record 4 for event 0",
    );
    check(
        |t| {
            of(t, 10).insert(8, Effect::Wait(1));
            last(t, 12, vec![Effect::Post(1)]);
        },
        1,
        "task 12 is created by task 10",
    );
    check(
        |t| of(t, 13).insert(0, Effect::Wait(7)),
        1,
        "task 13, record 0: waits for event 7, which nobody posts",
    );
}

#[test]
fn demand_1_the_barrier() {
    let behind = |effect: Effect| {
        move |t: &mut Tapes| {
            let end = t[&11].len() - 1;
            of(t, 11).insert(end, effect);
        }
    };
    check(behind(Effect::Wait(0)), 1, "wait after the barrier");
    check(behind(open("/dev/null", 2, 1)), 1, "openat after the barrier");
    check(behind(close(4)), 1, "close after the barrier");
    check(behind(Effect::Arrive), 4, "arrives at the barrier a second time");
    check(|t| remove(t, 11, &Effect::Arrive), 4, "parks before it has arrived");
    check(|t| remove(t, 14, &Effect::Arrive), 4, "parks before it has arrived");
    check(|t| remove(t, 11, &Effect::Park), 4, "ends without parking or dying");
    check(|t| of(t, 11).push(close(4)), 4, "goes on behind its end");
    check_all(|_, tree, _| tree.total = 5, 4, "the barrier waits for 5 tasks, and 4 live");
}

#[test]
fn demand_1_blocking() {
    check(|t| replace(t, 10, &write(2, b"hello"), vec![write(2, &[0; 65537])]), 1, "write would block");
    let full = |t: &mut Tapes| replace(t, 10, &write(2, b"hello"), vec![write(2, &[1; 4096]); 17]);
    check(
        full,
        1,
        "write would block: the writing end of the pipe that task 10 makes in record 4 holds 65536 of 65536 bytes",
    );
    let send = on(3, Change::Send { data: vec![0; 300_000], rights: Vec::new(), never_blocks: false });
    check(|t| of(t, 10).insert(8, send), 1, "send would block");
    check(|t| of(t, 10).insert(5, Effect::AwaitExit { pid: 11, reap: false }), 1, "which lives on");
    check(
        |t| of(t, 10).insert(5, Effect::AwaitExit { pid: 13, reap: false }),
        1,
        "which is not created before",
    );
}

#[test]
fn demand_1_orders() {
    // Two tasks move the position of a description that they share.
    let seek = |fd| on(fd, Change::Seek { position: 7 });
    check(
        |t| {
            last(t, 10, vec![seek(0)]);
            last(t, 11, vec![seek(0)]);
        },
        1,
        "lseek on file /dev/null is not ordered with record",
    );
    let ordered = |t: &mut Tapes, e: &mut Expected| {
        last(t, 10, vec![seek(0), Effect::Post(5)]);
        last(t, 11, vec![Effect::Wait(5), seek(0)]);
        e.ofds[0] = path("file 0x1 (/dev/null)", "/dev/null", 2, 7);
    };
    assert_eq!(passes(ordered).orders_proved, 2);
    // What comes before the barrier comes before what comes behind it.
    passes(|t, _| {
        last(t, 10, vec![on(0, Change::SetStatus { flags: NONBLOCK })]);
        let end = t[&11].len() - 1;
        of(t, 11).insert(end, on(0, Change::SetStatus { flags: 0 }));
    });
}

#[test]
fn demand_2_tables() {
    let swap = vec![dup(1, 9), dup(3, 1), dup(9, 3), close(9)];
    check(
        |t| last(t, 10, swap),
        2,
        "task 10: descriptor 1 ends as a socket of the pair that task 10 makes in record 6, the images say file 0x2",
    );
    check(
        |t| remove(t, 11, &close(3)),
        2,
        "task 11: descriptor 3 (socket 0xa) is open at the end; the images have nothing there",
    );
    check(|t| remove(t, 10, &close(4)), 2, "task 10: descriptor 4 (");
    check(
        |t| last(t, 12, vec![open("/data", 0, 2)]),
        2,
        "task 12: descriptor 2 (file /data) is open at the end",
    );
    check(|t| last(t, 10, vec![close(3)]), 2, "descriptor 3 is missing at the end; the images say file 0x5");
    check(
        |t| replace(t, 12, &open("/data", 0, 1), vec![open("/data", 0, 2)]),
        2,
        "openat gives descriptor 1, the record expects 2",
    );
    check(
        |t| last(t, 11, vec![Effect::Fd(FdEffect::SetCloexec { fd: 2, cloexec: false })]),
        2,
        "close-on-exec off, the images say on",
    );
    check(|t| last(t, 10, vec![close(9)]), 2, "close: descriptor 9 is not open");
    check(|t| last(t, 10, vec![dup(9, 10)]), 2, "dup3: descriptor 9 is not open");
    check(|t| last(t, 10, vec![dup(1, 1)]), 2, "onto itself");
    check(|t| last(t, 10, vec![dup(1, 1 << 30)]), 2, "beyond every limit");
    check(|t| remove(t, 10, &close_all()), 2, "openat while descriptors of the launcher may still be open");
    // A child that inherits more than it knows of.
    check(
        |t| {
            of(t, 10).insert(8, dup(0, 20));
            last(t, 10, vec![close(20)]);
        },
        2,
        "task 11: descriptor 20 (file /dev/null) is open at the end",
    );
}

#[test]
fn demand_2_one_to_one() {
    let shared = |t: &mut Tapes| {
        replace(t, 12, &close_all(), (1..=4).map(close).collect());
        remove(t, 12, &open("/dev/null", 2, 0));
    };
    check(
        shared,
        2,
        "task 12: descriptor 0 ends as the same description as descriptor 0 of task 10 (file /dev/null), the images say file 0x7",
    );
    check(
        |t| last(t, 11, vec![close(0), open("/dev/null", 2, 0)]),
        2,
        "task 11: descriptor 0 ends as a description of its own (file /dev/null), the images say that it shares file 0x1 (/dev/null) with descriptor 0 of task 10",
    );
    // 11 gets the writing end of another pipe, and the socket of another pair.
    let crossed = |t: &mut Tapes| {
        let more = vec![
            pipe(),
            dup(3, 2),
            close(1),
            close(3),
            Effect::Fd(FdEffect::SetCloexec { fd: 2, cloexec: true }),
        ];
        last(t, 11, more);
    };
    check(crossed, 2, "task 11: descriptor 2 ends as the writing end of the pipe that task 11 makes");
    let other_pair =
        vec![Effect::Fd(FdEffect::SocketPair { sock_type: 1, flags: 0 }), dup(3, 4), close(1), close(3)];
    check(|t| last(t, 11, other_pair), 2, "the other end ends as closed, the images say open");
    check(
        |t| last(t, 10, vec![dup(0, 1)]),
        2,
        "descriptor 1 ends as file /dev/null, the images say file 0x2 (pipe 0x1f, reading end)",
    );
    // Opening again by way of /proc gives a new description of the same pipe.
    let again = |t: &mut Tapes, e: &mut Expected| {
        last(t, 10, vec![open("/proc/self/fd/1", 0, 4)]);
        e.ofds.push(ExpectedOfd {
            name: "again".into(),
            spec: OfdSpec::Pipe { pipe: 0x1f },
            ..ExpectedOfd::default()
        });
        e.tasks[0].table.push(Slot { fd: 4, ofd: OfdId(8), cloexec: false });
    };
    assert_eq!(passes(again).descriptions, 9);
    check_all(
        |t, _, e| {
            again(t, e);
            replace(t, 10, &open("/proc/self/fd/1", 0, 4), vec![dup(1, 4)]);
        },
        2,
        "the same description",
    );
}

#[test]
fn demand_2_attributes() {
    check(|t| remove(t, 10, &write(2, b"hello")), 2, "data ends as 0 bytes, the images say 5 bytes");
    check(
        |t| replace(t, 10, &write(2, b"hello"), vec![write(2, b"help!")]),
        2,
        "data ends as 5 bytes with 0x70 at 3",
    );
    check(
        |t| of(t, 10).insert(6, on(2, Change::SetPipeSize { bytes: 131_072 })),
        2,
        "capacity in bytes ends as 131072",
    );
    check(|t| of(t, 10).insert(6, on(2, Change::SetPipeSize { bytes: 100_000 })), 2, "refuses");
    check(
        |t| remove(t, 12, &on(1, Change::Seek { position: 100 })),
        2,
        "file 0x8 (/data)): position ends as 0, the images say 100",
    );
    check(
        |t| last(t, 12, vec![on(1, Change::SetStatus { flags: NONBLOCK })]),
        2,
        "status flags ends as 0o4000, the images say 0o0",
    );
    check(|t| last(t, 10, vec![write(2, &1u64.to_ne_bytes())]), 2, "counter ends as 6, the images say 5");
    let pass = Change::SetOption { option: SocketOption::PassCred, value: 1, force: false };
    check(
        |t| last(t, 10, vec![on(3, pass)]),
        2,
        "a socket option ends as PassCred 1, the images say PassCred 0",
    );
    check(
        |t| last(t, 10, vec![on(3, Change::Shutdown { bits: 2, connected: true })]),
        2,
        "shutdown ends as 2, the images say 0",
    );
    check(|t| last(t, 11, vec![write(4, b"!")]), 2, "queued data ends as 10 bytes, the images say 9 bytes");
    let owner = Change::SetOwner { pid_type: 1, pid: 10 };
    check(|t| last(t, 10, vec![on(1, owner)]), 2, "the owner ends as 10, the images say 0");
    check_all(
        |_, _, e| e.ofds[7].spec = OfdSpec::Unmodelled("a lease".into()),
        2,
        "file 0x8 (/data): a lease cannot be checked yet",
    );
    check_all(
        |_, _, e| e.tasks[1].table_id = Some(10),
        2,
        "its descriptor table is its own, the images say shared",
    );
}

#[test]
fn demand_2_files() {
    check(
        |t| last(t, 12, vec![open("/etc/shadow", 0, 2), close(2)]),
        2,
        "opens /etc/shadow, which the images do not mention",
    );
    check(|t| last(t, 12, vec![open("/images/../x", 0, 2), close(2)]), 2, "which the images do not mention");
    check(
        |t| last(t, 12, vec![open("/images/pages-1.img", 1, 2), close(2)]),
        2,
        "which the images do not mention",
    );
    check(|t| last(t, 12, vec![open("/data", 0o1001, 2), close(2)]), 2, "may create or truncate");
    check(
        |t| last(t, 12, vec![open("/data", 1, 2), write(2, b"x"), close(2)]),
        2,
        "write changes file /data",
    );
    check(|t| last(t, 12, vec![write(1, b"x")]), 2, "the kernel refuses that");
    check(
        |t| last(t, 10, vec![pipe(), close(4), write(5, b"x"), close(5)]),
        2,
        "write into a pipe, which nobody can read any more",
    );
    let read = Change::Read { into: vec![(0x10000, 4096)], offset: Some(0) };
    let fill = vec![map(0x10000, 0x1000), open("/images/pages-1.img", 0, 2), on(2, read), close(2)];
    passes(|t, _| last(t, 12, fill));
}

#[test]
fn demand_3_in_part() {
    check(
        |t| last(t, 11, vec![map(0x1_0000_0000, 0x1000)]),
        3,
        "mmap of 0x100000000..0x100001000: in the tapes",
    );
    let unmap = Effect::Memory(MemoryEffect::Unmap { at: 0, len: 0x1_0000_1000 });
    check(|t| last(t, 11, vec![unmap]), 3, "munmap of 0x0..0x100001000: in the tapes");
    check(|t| last(t, 11, vec![map(0x10001, 0x1000)]), 3, "not a multiple of the page size");
    check(|t| last(t, 11, vec![map(0x7fff_ffff_f000, 0x1000)]), 3, "beyond user space");
    check(|t| last(t, 11, vec![map(!0xfff, 0x1000)]), 3, "beyond user space");
    let carrier = Effect::Memory(MemoryEffect::Map {
        at: 0x1_0008_0000,
        len: 0x1000,
        prot: 3,
        flags: 0x100021,
        file: None,
    });
    passes(|t, _| of(t, 10).insert(5, carrier.clone()));
    check(|t| last(t, 11, vec![carrier.clone(), carrier]), 3, "a carrier of shared memory made twice");
    let read = on(1, Change::Read { into: vec![(0x1_0000_2000, 64)], offset: Some(0) });
    check(|t| last(t, 12, vec![read]), 3, "in the tapes");
}

#[test]
fn demand_4_births() {
    check(|t| of(t, 10).insert(9, fork(11)), 4, "task 10, record 9: task 11 is created a second time");
    check(|t| remove(t, 10, &fork(12)), 4, "task 12: is never created");
    check(
        |t| of(t, 10).insert(9, fork(99)),
        4,
        "creates task 99, which is neither in the images nor has a tape",
    );
    let by_other = |t: &mut Tapes| {
        remove(t, 10, &fork(12));
        last(t, 11, vec![fork(12)]);
    };
    check(by_other, 4, "its parent is 11, the images say 10");
    let sibling = Effect::Fork(Birth { pid: 12, flags: 0x8000, exit_signal: 0, cgroup: None });
    let by_sibling = |t: &mut Tapes, _: &mut Expected| {
        remove(t, 10, &fork(12));
        last(t, 11, vec![sibling]);
    };
    passes(by_sibling);
    let silent = Effect::Fork(Birth { pid: 12, flags: 0, exit_signal: 0, cgroup: None });
    check(|t| replace(t, 10, &fork(12), vec![silent]), 4, "its death is told by signal 0, must be by 17");
    let sharing = Effect::Fork(Birth { pid: 12, flags: 0x100, exit_signal: SIGCHLD, cgroup: None });
    check(
        |t| replace(t, 10, &fork(12), vec![sharing]),
        0,
        "unknown effect: clone3: flags 0x100 is not modelled",
    );
    let thread = Effect::Fork(Birth { pid: 14, flags: THREAD, exit_signal: 0, cgroup: None });
    check(|t| remove(t, 12, &thread), 4, "task 12: its thread 14 is never created");
    check(
        |t| {
            remove(t, 12, &thread);
            last(t, 11, vec![thread.clone()]);
        },
        4,
        "is a thread of task 12, and task 11 starts it",
    );
    check(|t| of(t, 14).insert(0, Effect::SetSid), 4, "setsid of a thread that is not its task's first");
}

#[test]
fn demand_4_family() {
    check(
        |t| remove(t, 12, &Effect::Wait(0)),
        4,
        "task 12, record 4: setpgid to group 11, which does not exist then",
    );
    check(|t| of(t, 12).swap(4, 5), 4, "setpgid to group 11, which does not exist then");
    check(
        |t| remove(t, 12, &Effect::SetPgid { pgid: 11 }),
        4,
        "task 12: ends in process group 10, the images say 11",
    );
    check(|t| last(t, 11, vec![Effect::SetSid]), 4, "setsid by the leader of a process group");
    check(|t| of(t, 12).insert(0, Effect::SetSid), 4, "task 12");
    check(
        |t| remove(t, 10, &Effect::SetSid),
        4,
        "task 10: ends in session of the launcher, the images say 10",
    );
    check(|t| last(t, 10, vec![Effect::SetPgid { pgid: 10 }]), 4, "setpgid by a session leader");
    check(
        |t| {
            remove(t, 12, &Effect::SetPgid { pgid: 11 });
            of(t, 12).splice(0..0, [Effect::SetSid, Effect::Post(3)]);
            last(t, 11, vec![Effect::Wait(3)]);
        },
        4,
        "task 12: ends in session 12",
    );
}

#[test]
fn demand_4_zombies() {
    check(|t| of(t, 13)[0] = Effect::Exit { code: 4 }, 4, "dies with status 0x400, the images say 0x300");
    check(|t| of(t, 13)[0] = Effect::Kill { signal: 9 }, 4, "dies with status 0x9, the images say 0x300");
    check(
        |t| of(t, 13)[0] = Effect::Kill { signal: 15 },
        4,
        "dies by signal 15, whose disposition may not be the default",
    );
    check(
        |t| *of(t, 13) = vec![Effect::Arrive, Effect::Park],
        4,
        "lives on, and the images say that it is a zombie",
    );
    check(|t| last(t, 11, vec![Effect::Exit { code: 0 }]), 4, "exits with code 0, and should live on");
    check(
        |t| remove(t, 10, &Effect::AwaitExit { pid: 13, reap: false }),
        4,
        "task 13: nobody makes sure that it has died",
    );
    let reap = vec![Effect::AwaitExit { pid: 13, reap: true }];
    check(
        |t| replace(t, 10, &Effect::AwaitExit { pid: 13, reap: false }, reap),
        4,
        "reaps task 13, which the images have as a zombie",
    );
    let sigaction = |signal, handler| {
        Effect::Attribute(Attribute::SigAction { signal, handler, flags: 0, restorer: 0, mask: 0 })
    };
    check(|t| of(t, 10).insert(4, sigaction(17, 1)), 4, "may ignore SIGCHLD while task 13 dies");
    let killed = |t: &mut Tapes, e: &mut Expected| {
        let mask = Effect::Attribute(Attribute::SigMask { how: 2, set: 0 });
        *of(t, 13) = vec![
            Effect::Attribute(Attribute::Dumpable(0)),
            sigaction(11, 0),
            mask,
            Effect::Kill { signal: 11 },
        ];
        e.tasks[3].life = Life::Zombie { status: 11 };
    };
    passes(killed);
    check_all(
        |t, _, e| {
            killed(t, e);
            of(t, 13).remove(0);
        },
        4,
        "dies by signal 11, which dumps core unless dumpable is 0",
    );
}

#[test]
fn demand_4_helpers() {
    let helper = |t: &mut Tapes| {
        of(t, 10).insert(12, Effect::Fork(Birth { pid: 50, flags: 0, exit_signal: 0, cgroup: None }));
        t.insert(50, vec![Effect::Exit { code: 0 }]);
    };
    check(helper, 4, "task 50: is a helper and is not reaped before the barrier");
    let reaped = |t: &mut Tapes, _: &mut Expected| {
        helper(t);
        last(t, 10, vec![Effect::AwaitExit { pid: 50, reap: true }]);
    };
    assert_eq!(passes(reaped).helpers, 1);
}

#[test]
fn demand_4_groups_of_helpers() {
    // 50 founds a group that 12 joins, and is gone when it has.
    let founded = |t: &mut Tapes, e: &mut Expected| {
        of(t, 10).insert(8, Effect::Fork(Birth { pid: 50, flags: 0, exit_signal: 0, cgroup: None }));
        last(t, 10, vec![Effect::AwaitExit { pid: 50, reap: true }]);
        let found = Effect::SetPgid { pgid: 50 };
        t.insert(50, vec![found, Effect::Post(5), Effect::Wait(6), Effect::Exit { code: 0 }]);
        let join = vec![Effect::Wait(5), Effect::SetPgid { pgid: 50 }, Effect::Post(6)];
        replace(t, 12, &Effect::SetPgid { pgid: 11 }, join);
        e.tasks[2].pgid = 50;
    };
    assert_eq!(passes(founded).helpers, 1);
    let without = |gone: Effect| {
        move |t: &mut Tapes, _: &mut LiftedTree, e: &mut Expected| {
            founded(t, e);
            for task in [12, 50] {
                if of(t, task).contains(&gone) {
                    remove(t, task, &gone);
                }
            }
        }
    };
    check_all(without(Effect::Wait(6)), 4, "group 50");
    check_all(without(Effect::Wait(5)), 4, "group 50");
}

/// Task 10 has a child more, 21, in session 20, whose leader is dead: a helper stands in for it.
#[test]
fn demand_4_sessions_of_helpers() {
    let sibling = |pid| Effect::Fork(Birth { pid, flags: 0x8000, exit_signal: 0, cgroup: None });
    let stood_in = |t: &mut Tapes, e: &mut Expected| {
        let at = find(&t[&10], |effect| *effect == fork(13));
        of(t, 10)
            .splice(at..at, [Effect::Fork(Birth { pid: 20, flags: 0, exit_signal: SIGCHLD, cgroup: None })]);
        last(t, 10, vec![Effect::AwaitExit { pid: 20, reap: true }]);
        t.insert(20, vec![Effect::SetSid, sibling(21), Effect::Exit { code: 0 }]);
        t.insert(21, vec![close_all(), Effect::Arrive, Effect::Park]);
        e.tasks.push(ExpectedTask { pid: 21, ppid: 10, sid: 20, pgid: 20, ..ExpectedTask::default() });
    };
    let total = |t: &mut LiftedTree| t.total = 5;
    let check_here = |change: &dyn Fn(&mut Tapes), words: &str| {
        check_all(
            |t, l, e| {
                stood_in(t, e);
                change(t);
                total(l);
            },
            4,
            words,
        );
    };
    check_here(&|t| remove(t, 20, &Effect::SetSid), "task 21: ends in session 10, the images say 20");
    check_here(
        &|t| replace(t, 20, &sibling(21), vec![fork(21)]),
        "task 21: its parent is 0, the images say 10",
    );
    check_here(
        &|t| {
            let silent = Effect::Fork(Birth { pid: 20, flags: 0, exit_signal: 0, cgroup: None });
            let loud = find(&t[&10], |effect| matches!(effect, Effect::Fork(birth) if birth.pid == 20));
            of(t, 10)[loud] = silent;
        },
        "its death is told by signal 0, must be by 17",
    );
    check_here(
        &|t| remove(t, 10, &Effect::AwaitExit { pid: 20, reap: true }),
        "task 20: is a helper and is not reaped before the barrier",
    );
    check_here(
        &|t| {
            let ignores = Attribute::SigAction { signal: 17, handler: 1, flags: 0, restorer: 0, mask: 0 };
            of(t, 10).insert(4, Effect::Attribute(ignores));
        },
        "may ignore SIGCHLD while task 20 dies",
    );
    check_here(
        &|t| remove(t, 10, &Effect::SetSid),
        "task 10: ends in session of the launcher, the images say 10",
    );
    let mut tapes = tapes();
    let mut wanted = expected();
    stood_in(&mut tapes, &mut wanted);
    let mut whole = tree(&tapes);
    total(&mut whole);
    let certificate = verify(&whole, &wanted).expect("a certificate");
    assert_eq!((certificate.helpers, certificate.adoptions, certificate.tasks), (1, 0, 4));
}

/// Task 22 leads session 22 below 11 and has left its child 23 to 10: 11 must not take it.
#[test]
fn demand_4_orphans() {
    let subreaper = Effect::Attribute(Attribute::Subreaper(true));
    let carrier = Effect::Fork(Birth { pid: 50, flags: 0, exit_signal: 0, cgroup: None });
    let orphaned = |t: &mut Tapes, e: &mut Expected| {
        last(t, 10, vec![subreaper.clone(), Effect::Post(7)]);
        last(t, 11, vec![fork(22)]);
        t.insert(
            22,
            vec![
                close_all(),
                Effect::SetSid,
                carrier.clone(),
                Effect::AwaitExit { pid: 50, reap: true },
                Effect::Post(8),
                Effect::Arrive,
                Effect::Park,
            ],
        );
        t.insert(50, vec![fork(23), Effect::Wait(7), Effect::Exit { code: 0 }]);
        t.insert(23, vec![Effect::Arrive, Effect::Park]);
        let task = |pid, ppid| ExpectedTask { pid, ppid, sid: 22, pgid: 22, ..ExpectedTask::default() };
        e.tasks.extend([task(22, 11), task(23, 10)]);
    };
    let lost = |change: &dyn Fn(&mut Tapes, &mut Expected), demand: u32, words: &str| {
        check_all(
            |t, l, e| {
                orphaned(t, e);
                change(t, e);
                l.total = 6;
            },
            demand,
            words,
        );
    };
    let kept = |change: &dyn Fn(&mut Tapes, &mut Expected)| {
        let (mut tapes, mut wanted) = (tapes(), expected());
        orphaned(&mut tapes, &mut wanted);
        change(&mut tapes, &mut wanted);
        let mut whole = tree(&tapes);
        whole.total = 6;
        match verify(&whole, &wanted) {
            Ok(certificate) => certificate,
            Err(counterexample) => panic!("{counterexample}"),
        }
    };
    assert_eq!(kept(&|_, _| ()).adoptions, 1);
    // Nobody is ready, or nobody is for sure.
    lost(&|t, _| remove(t, 10, &subreaper), 4, "task 23: its parent is 0, the images say 10");
    lost(
        &|t, _| remove(t, 50, &Effect::Wait(7)),
        4,
        "task 50, record 1: leaves children, and task 10 is not certainly ready to adopt them then",
    );
    // The death of the helper that forks it would send it.
    lost(
        &|t, _| of(t, 23).insert(0, Effect::Attribute(Attribute::ParentDeathSignal(15))),
        0,
        "a signal for the death of a parent that dies before the barrier",
    );
    // A subreaper on the way takes it.
    lost(
        &|t, _| of(t, 11).splice(0..0, [subreaper.clone()]).for_each(drop),
        4,
        "task 23: its parent is 11, the images say 10",
    );
    let after = |waits: bool| {
        let subreaper = subreaper.clone();
        move |t: &mut Tapes, _: &mut Expected| {
            let wait = waits.then_some(Effect::Wait(8));
            last(t, 11, wait.into_iter().chain([subreaper.clone()]).collect());
        }
    };
    kept(&after(true));
    lost(&after(false), 4, "task 11");
    // It may cease to be one in the tail, when nobody dies any more, and not before.
    let ends = Effect::Attribute(Attribute::Subreaper(false));
    kept(&|t, _| {
        let at = t[&10].len() - 1;
        of(t, 10).insert(at, ends.clone());
    });
    lost(
        &|t, _| {
            of(t, 10).insert(8, subreaper.clone());
            of(t, 10).insert(9, ends.clone());
        },
        4,
        "task 50, record 2: leaves children, and task 10 is not certainly ready",
    );
    lost(
        &|t, _| last(t, 10, vec![Effect::Wait(8), ends.clone()]),
        0,
        "a subreaper with orphans that ceases to be one before the barrier",
    );
    // As a zombie it is waited for when it is certainly there.
    let zombie = |t: &mut Tapes, e: &mut Expected| {
        *of(t, 23) = vec![Effect::Exit { code: 1 }];
        if let Some(task) = e.tasks.iter_mut().find(|task| task.pid == 23) {
            task.life = Life::Zombie { status: 0x100 };
        }
        last(t, 10, vec![Effect::AwaitExit { pid: 23, reap: false }]);
    };
    let (mut tapes, mut wanted) = (tapes(), expected());
    orphaned(&mut tapes, &mut wanted);
    zombie(&mut tapes, &mut wanted);
    let mut whole = tree(&tapes);
    whole.total = 5;
    let unsure = verify(&whole, &wanted).expect_err("no certificate").to_string();
    assert!(unsure.contains("waits for the death of task 23, which is not"), "{unsure}");
    let at = find(&tapes[&10], |effect| *effect == Effect::AwaitExit { pid: 23, reap: false });
    of(&mut tapes, 10).insert(at, Effect::Wait(8));
    let mut whole = tree(&tapes);
    whole.total = 5;
    let certificate = verify(&whole, &wanted).expect("a certificate");
    assert_eq!((certificate.zombies, certificate.adoptions), (2, 1));
}

#[test]
fn demand_5_privileges() {
    check(
        |t| of(t, 12).insert(1, uids(1000)),
        5,
        "task 12, record 2: openat needs a privilege that setresuid in record 1 gives up",
    );
    check(|t| of(t, 10).insert(8, uids(1000)), 5, "clone3 needs a privilege");
    let tail_order = |t: &mut Tapes| {
        let at = find(&t[&10], |effect| *effect == uids(1000));
        of(t, 10).swap(at, at - 1);
    };
    check(tail_order, 5, "setresgid needs a privilege that setgroups in record 17 gives up");
    // With NO_SETUID_FIXUP the ids take nothing away, until the sets are set.
    let kept = |t: &mut Tapes, _: &mut Expected| {
        tail_order(t);
        let at = find(&t[&10], |effect| *effect == uids(1000));
        of(t, 10).insert(at, Effect::Privilege(PrivilegeEffect::Securebits(4)));
    };
    passes(kept);
    let limit = |hard| Effect::Privilege(PrivilegeEffect::Limit { resource: 7, soft: hard, hard });
    check(
        |t| of(t, 10).insert(8, limit(64)),
        5,
        "clone3 needs a privilege that prlimit64 in record 8 gives up",
    );
}

fn filter(program: &[u8], flags: u64) -> Effect {
    Effect::Privilege(PrivilegeEffect::Seccomp(SeccompEffect::Filter { program: program.into(), flags }))
}

/// Puts effects at the end of the tail.
fn at_end(tapes: &mut Tapes, pid: u32, effects: Vec<Effect>) {
    let at = find(&tapes[&pid], |other| *other == Effect::Park);
    of(tapes, pid).splice(at..at, effects);
}

/// Task 12 has two filters, the first of which logs, with its thread 14.
fn with_filters(tapes: &mut Tapes, expected: &mut Expected) {
    at_end(tapes, 12, vec![filter(b"first", 3), filter(b"second", 1)]);
    let wanted = |program: &[u8], logs| ExpectedFilter { program: program.into(), logs };
    let chain = ExpectedSeccomp::Filters(vec![wanted(b"first", true), wanted(b"second", false)]);
    expected.seccomp = BTreeMap::from([(12, chain), (14, ExpectedSeccomp::OfFirst)]);
}

#[test]
fn filters() {
    assert_eq!(passes(with_filters).filters, 2);
    let lost = |change: &dyn Fn(&mut Tapes), demand, words| {
        check_all(
            |t, _, e| {
                with_filters(t, e);
                change(t);
            },
            demand,
            words,
        );
    };
    let (first, second) = (filter(b"first", 3), filter(b"second", 1));
    lost(
        &|t| remove(t, 12, &second),
        6,
        "task 12: thread 12 ends with seccomp: 1 filter; the images say: 2 filters",
    );
    let another = "thread 12 ends with seccomp: 2 filters, number 2 another one; the images say: 2 filters";
    lost(&|t| replace(t, 12, &second, vec![filter(b"secund", 1)]), 6, another);
    lost(&|t| replace(t, 12, &second, vec![filter(b"second", 3)]), 6, another);
    lost(
        &|t| {
            remove(t, 12, &first);
            at_end(t, 12, vec![first.clone()]);
        },
        6,
        "2 filters, number 1 another one",
    );
    lost(
        &|t| replace(t, 12, &second, vec![filter(b"second", 0)]),
        6,
        "thread 14 ends with seccomp: 1 filter of its own; the images say: the filters of its task's first thread",
    );
    // Filters of its own that are alike are not enough.
    lost(
        &|t| {
            replace(t, 12, &first, vec![filter(b"first", 2)]);
            replace(t, 12, &second, vec![filter(b"second", 0)]);
            at_end(t, 14, vec![filter(b"first", 2), filter(b"second", 0)]);
        },
        6,
        "thread 14 ends with seccomp: 2 filters of its own",
    );
    lost(
        &|t| at_end(t, 14, vec![filter(b"third", 0)]),
        1,
        "seccomp on the filters of thread 14 is not ordered with record 2 of task 14",
    );
    lost(&|t| replace(t, 12, &first, vec![filter(b"first", 11)]), 0, "flags 0xb is not modelled");
    lost(
        &|t| at_end(t, 11, vec![filter(b"third", 0)]),
        5,
        "seccomp is not suspended in thread 11: it could deny what follows",
    );
    lost(&|t| last(t, 12, vec![filter(b"third", 0)]), 5, "seccomp before the barrier");
    let drop = || vec![Effect::Privilege(PrivilegeEffect::Uids([Some(7); 3]))];
    let privs = || vec![Effect::Privilege(PrivilegeEffect::NoNewPrivs)];
    lost(
        &|t| replace(t, 12, &first, [drop(), vec![first.clone()]].concat()),
        5,
        "seccomp needs a privilege that setresuid in record 8 gives up",
    );
    lost(
        &|t| replace(t, 12, &first, [privs(), vec![first.clone()]].concat()),
        0,
        "TSYNC of a thread with no_new_privs",
    );
    // With no_new_privs a filter needs nothing else.
    passes(|t, e| {
        at_end(t, 12, [privs(), drop(), vec![filter(b"third", 0)]].concat());
        let wanted = ExpectedFilter { program: b"third"[..].into(), logs: false };
        e.seccomp = BTreeMap::from([(12, ExpectedSeccomp::Filters(vec![wanted]))]);
    });
    check(|t| at_end(t, 12, vec![filter(b"third", 0)]), 6, "1 filter; the images say: no filters");
}

#[test]
fn strict_mode() {
    let strict = || Effect::Privilege(PrivilegeEffect::Seccomp(SeccompEffect::Strict));
    let with = |t: &mut Tapes, e: &mut Expected| {
        at_end(t, 14, vec![strict()]);
        e.seccomp = BTreeMap::from([(14, ExpectedSeccomp::Strict)]);
    };
    passes(with);
    let lost = |change: &dyn Fn(&mut Tapes), demand, words| {
        check_all(
            |t, _, e| {
                with(t, e);
                change(t);
            },
            demand,
            words,
        );
    };
    lost(
        &|t| remove(t, 14, &strict()),
        6,
        "task 12: thread 14 ends with seccomp: no filters; the images say: strict mode",
    );
    lost(&|t| at_end(t, 12, vec![strict()]), 6, "thread 12 ends with seccomp: strict mode");
    lost(
        &|t| at_end(t, 14, vec![filter(b"x", 0)]),
        2,
        "seccomp on a thread in strict mode: the kernel refuses",
    );
    lost(
        &|t| replace(t, 14, &strict(), vec![filter(b"x", 0), strict()]),
        2,
        "seccomp on a thread with filters: the kernel refuses",
    );
}

#[test]
fn descriptions_in_flight() {
    // 11 sends its pipe end to 10 and closes it; the images have it in the queue only.
    let sent = |t: &mut Tapes, e: &mut Expected| {
        let send = on(4, Change::Send { data: b"x".to_vec(), rights: vec![2], never_blocks: true });
        last(t, 11, vec![send, close(2)]);
        e.tasks[1].table.remove(1);
        if let OfdSpec::Socket(spec) = &mut e.ofds[4].spec {
            spec.queue.push(ExpectedPacket { data: b"x".to_vec(), rights: vec![OfdId(2)] });
        }
    };
    assert_eq!(passes(sent).descriptions, 8);
    check_all(
        |t, _, e| {
            sent(t, e);
            if let OfdSpec::Socket(spec) = &mut e.ofds[4].spec {
                spec.queue[1].rights = vec![OfdId(1)];
            }
        },
        2,
        "descriptor 3 ends as",
    );
}

/// Task 12 with an epoll file at 2 that watches the timerfd at 3, a signalfd at 4, and both ends of a
/// FIFO at 5 and 6, opened by way of 7; the timer's owner is thread 14.
fn with_events(tapes: &mut Tapes, expected: &mut Expected) {
    let fd_effects = vec![
        Effect::Fd(FdEffect::Epoll { flags: 0, fd: 2 }),
        Effect::Fd(FdEffect::Timerfd { clock: 1, flags: NONBLOCK, fd: 3 }),
        Effect::Fd(FdEffect::Signalfd { mask: 0x200, flags: 0, fd: 4 }),
        open("/fifo", 2, 5),
        write(5, b"queued"),
        dup(5, 7),
        close(5),
        open("/fifo", 0, 5),
        open("/fifo", 1 | NONBLOCK, 6),
        close(7),
        on(2, Change::Watch { target: 3, events: 1, data: 77 }),
    ];
    last(tapes, 12, fd_effects);
    let at = find(&tapes[&12], |other| *other == Effect::Park);
    let tail = [
        on(3, Change::SetTimer { flags: 0, interval_ns: 5, value_ns: 70 }),
        on(3, Change::SetTicks { ticks: 2 }),
        on(3, Change::SetSignal { signal: 34 }),
        Effect::Privilege(PrivilegeEffect::Uids([Some(7), Some(8), None])),
        on(3, Change::SetOwner { pid_type: 0, pid: 14 }),
        Effect::Privilege(PrivilegeEffect::Uids([Some(0), Some(0), None])),
        Effect::Privilege(PrivilegeEffect::Limit { resource: 4, soft: u64::MAX, hard: u64::MAX }),
    ];
    of(tapes, 12).splice(at..at, tail);
    let fifo = |flags: u32| ExpectedOfd {
        name: "file 0xc (FIFO /fifo)".into(),
        spec: OfdSpec::Fifo { fifo: 0x2f, path: b"/fifo".to_vec(), inode: None },
        flags,
        ..ExpectedOfd::default()
    };
    let timer = TimerSpec { flags: 0, value_ns: 70, interval_ns: 5, ticks: 2 };
    expected.ofds.extend([
        ExpectedOfd {
            name: "file 0x9 (epoll)".into(),
            spec: OfdSpec::Epoll {
                interests: vec![Interest { fd: 3, ofd: OfdId(9), events: 0x19, data: 77 }],
            },
            flags: 2,
            ..ExpectedOfd::default()
        },
        ExpectedOfd {
            name: "file 0xa (timerfd)".into(),
            spec: OfdSpec::Timerfd { clock: 1, timer },
            flags: 2 | NONBLOCK,
            owner: Owner { pid_type: 0, pid: 14, uids: [7, 8], signal: 34 },
        },
        ExpectedOfd {
            name: "file 0xb (signalfd)".into(),
            spec: OfdSpec::Signalfd { mask: 0x200 },
            flags: 2,
            ..ExpectedOfd::default()
        },
        fifo(0),
        fifo(1 | NONBLOCK),
    ]);
    let slots = (2..).zip(8..13).map(|(fd, ofd)| Slot { fd, ofd: OfdId(ofd), cloexec: false });
    expected.tasks[2].table.extend(slots);
    expected.fifos.insert(0x2f, ExpectedPipe { capacity: None, data: b"queued".to_vec() });
    expected.paths.insert(b"/fifo".to_vec());
}

#[test]
fn events_have_a_certificate() {
    assert_eq!(passes(with_events).descriptions, 13);
    // What is watched and then closed everywhere is forgotten.
    passes(|t, e| {
        with_events(t, e);
        let extra = [
            Effect::Fd(FdEffect::Eventfd { counter: 0, flags: 0, fd: 7 }),
            on(2, Change::Watch { target: 7, events: 1, data: 1 }),
            close(7),
        ];
        last(t, 12, extra.into());
    });
}

#[test]
fn events_that_lose_the_certificate() {
    let lost = |change: &dyn Fn(&mut Tapes, &mut Expected), demand: u32, words: &str| {
        check_all(
            |t, _, e| {
                with_events(t, e);
                change(t, e);
            },
            demand,
            words,
        );
    };
    let watch = on(2, Change::Watch { target: 3, events: 1, data: 77 });
    lost(&|t, _| remove(t, 12, &watch), 2, "what it watches ends as 0, the images say 1");
    let other = on(2, Change::Watch { target: 4, events: 1, data: 77 });
    lost(
        &|t, _| replace(t, 12, &watch, vec![other.clone()]),
        2,
        "what it watches ends as descriptor 4 for 0x19",
    );
    lost(&|t, _| replace(t, 12, &watch, vec![watch.clone(), watch.clone()]), 2, "the kernel refuses that");
    let twisted = |t: &mut Tapes, _: &mut Expected| {
        // The right number, but of what was there before.
        let moved = vec![dup(4, 7), dup(3, 8), dup(7, 3), watch.clone(), dup(8, 3), close(7), close(8)];
        replace(t, 12, &watch, moved);
    };
    lost(&twisted, 2, "descriptor 2 ends as");
    let ticks = on(3, Change::SetTicks { ticks: 2 });
    lost(&|t, _| remove(t, 12, &ticks), 2, "ticks ends as 0, the images say 2");
    lost(
        &|t, _| replace(t, 12, &ticks, vec![on(3, Change::SetTicks { ticks: 0 })]),
        2,
        "the kernel refuses that",
    );
    let early = on(3, Change::SetTimer { flags: 1, interval_ns: 5, value_ns: 70 });
    lost(
        &|t, _| replace(t, 12, &ticks, vec![early.clone(), ticks.clone()]),
        2,
        "flags of the timer ends as 1",
    );
    let signalfd = Effect::Fd(FdEffect::Signalfd { mask: 0x200, flags: 0, fd: 4 });
    let narrow = Effect::Fd(FdEffect::Signalfd { mask: 0x80, flags: 0, fd: 4 });
    lost(
        &|t, _| replace(t, 12, &signalfd, vec![narrow.clone()]),
        2,
        "signals ends as 128, the images say 512",
    );
    // FIFOs.
    lost(&|t, _| replace(t, 12, &open("/fifo", 2, 5), vec![open("/fifo", 0, 5)]), 1, "that would block");
    lost(
        &|t, _| {
            remove(t, 12, &close(7));
            replace(t, 12, &dup(5, 7), Vec::new());
        },
        1,
        "opens the FIFO /fifo where its other end is not certainly open",
    );
    lost(&|t, _| remove(t, 12, &write(5, b"queued")), 2, "data ends as 0 bytes, the images say 6 bytes");
    // Owners.
    let owner = on(3, Change::SetOwner { pid_type: 0, pid: 14 });
    lost(
        &|t, _| {
            remove(t, 12, &owner);
            let at = find(&t[&12], |effect| *effect == watch);
            of(t, 12).insert(at, owner.clone());
        },
        2,
        "the owner's real uid ends as 0, the images say 7",
    );
    let nobody = on(3, Change::SetOwner { pid_type: 0, pid: 99 });
    lost(
        &|t, _| replace(t, 12, &owner, vec![nobody.clone()]),
        4,
        "F_SETOWN to 99, which does not certainly exist",
    );
    let unborn = on(0, Change::SetOwner { pid_type: 1, pid: 12 });
    lost(&|t, _| of(t, 11).insert(0, unborn.clone()), 4, "F_SETOWN to 12, which does not certainly exist");
    // Uids that are not taken back give up what the limit needs.
    let back = Effect::Privilege(PrivilegeEffect::Uids([Some(0), Some(0), None]));
    lost(&|t, _| remove(t, 12, &back), 5, "prlimit64 needs a privilege that setresuid");
}

fn name(effect: NameEffect) -> Effect {
    Effect::Name(effect)
}

/// Tasks 12 and its like, with an unlinked FIFO at 2 and 3, a file of two names at 4, and one that has another
/// name still at 5.
fn with_lost_names(tapes: &mut Tapes, expected: &mut Expected) {
    let (fifo, link) = (
        |path: &[u8]| name(NameEffect::MakeFifo { path: path.to_vec() }),
        |from: &[u8], to: &[u8]| name(NameEffect::Link { from: from.to_vec(), to: to.to_vec() }),
    );
    let unlink = |path: &[u8]| name(NameEffect::Unlink { path: path.to_vec() });
    let path_only = 0o10_000_000;
    let owned =
        |fd| [on(fd, Change::SetFileOwner { uid: 1, gid: 2 }), on(fd, Change::SetMode { mode: 0o640 })];
    let mut effects = vec![fifo(b"/gone"), open("/gone", 2, 2), write(2, b"queued"), unlink(b"/gone")];
    effects.extend(owned(2));
    effects.extend([open("/proc/self/fd/2", 0, 3), dup(3, 7), close(3), open("/proc/self/fd/2", 1, 3)]);
    effects.extend([dup(7, 2), close(7)]);
    // The first name at 4, the second at 5.
    effects.extend([open("/a", 2 | 0o300, 4), link(b"/a", b"/b"), open("/b", path_only, 5), unlink(b"/b")]);
    effects.push(unlink(b"/a"));
    effects.extend(owned(4));
    effects.extend([open("/proc/self/fd/5", 0, 6), dup(6, 4), close(6), close(5)]);
    effects.extend([link(b"/kept", b"/lost"), open("/lost", path_only, 5), unlink(b"/lost")]);
    effects.extend([open("/proc/self/fd/5", 0, 6), dup(6, 5), close(6)]);
    last(tapes, 12, effects);
    let ofd =
        |name: &str, spec, flags| ExpectedOfd { name: name.into(), spec, flags, ..ExpectedOfd::default() };
    let inode = |id, alias: Option<&[u8]>| OfdSpec::Inode {
        inode: id,
        alias: alias.map(<[u8]>::to_vec),
        position: Some(0),
    };
    let [gone, ab, lost] = [InodeId::Ghost(1), InodeId::Ghost(2), InodeId::Linked(9)];
    let pipe = || OfdSpec::Fifo { fifo: 0x2f, path: b"/gone".to_vec(), inode: Some(gone) };
    expected.ofds.extend([
        ofd("file 0x9 (FIFO /gone)", pipe(), 0),
        ofd("file 0xa (FIFO /gone)", pipe(), 1),
        ofd("file 0xb (/b)", inode(ab, Some(b"/b")), 0),
        ofd("file 0xc (/lost)", inode(lost, None), 0),
    ]);
    let slots = (2..).zip(8..12).map(|(fd, ofd)| Slot { fd, ofd: OfdId(ofd), cloexec: false });
    expected.tasks[2].table.extend(slots);
    expected.fifos.insert(0x2f, ExpectedPipe { capacity: None, data: b"queued".to_vec() });
    let made = |kind, name: &[u8], further: &[&[u8]]| ExpectedInode {
        kind,
        name: name.to_vec(),
        further: further.iter().map(|name| name.to_vec()).collect(),
        mode: Some(0o640),
        owner: (1, 2),
        ..ExpectedInode::default()
    };
    expected.inodes.extend([
        (gone, made(InodeKind::Fifo, b"/gone", &[])),
        (ab, made(InodeKind::File, b"/a", &[b"/b"])),
        (lost, ExpectedInode { source: b"/kept".to_vec(), ..made(InodeKind::Linked, b"/lost", &[]) }),
    ]);
}

#[test]
fn lost_names_have_a_certificate() {
    assert_eq!(passes(with_lost_names).descriptions, 12);
}

#[test]
fn lost_names_that_lose_the_certificate() {
    let lost = |change: &dyn Fn(&mut Tapes), demand: u32, words: &str| {
        check_all(
            |t, _, e| {
                with_lost_names(t, e);
                change(t);
            },
            demand,
            words,
        );
    };
    let fifo = |path: &[u8]| name(NameEffect::MakeFifo { path: path.to_vec() });
    let link = |from: &[u8], to: &[u8]| name(NameEffect::Link { from: from.to_vec(), to: to.to_vec() });
    let unlink = |path: &[u8]| name(NameEffect::Unlink { path: path.to_vec() });
    lost(
        &|t| replace(t, 12, &fifo(b"/gone"), vec![fifo(b"/other")]),
        2,
        "no unlinked FIFO of the images had",
    );
    lost(&|t| remove(t, 12, &unlink(b"/gone")), 2, "/gone");
    lost(&|t| remove(t, 12, &write(2, b"queued")), 2, "data ends as 0 bytes, the images say 6 bytes");
    lost(&|t| remove(t, 12, &on(2, Change::SetMode { mode: 0o640 })), 2, "mode ends as not set");
    lost(
        &|t| replace(t, 12, &link(b"/a", b"/b"), vec![link(b"/a", b"/c")]),
        2,
        "no unlinked file of the images had",
    );
    // Opened by the other name.
    let by_name = open("/proc/self/fd/5", 0, 6);
    lost(&|t| replace(t, 12, &by_name, vec![open("/proc/self/fd/4", 0, 6)]), 2, "unlinked file /a");
    lost(
        &|t| replace(t, 12, &link(b"/kept", b"/lost"), vec![link(b"/passwd", b"/lost")]),
        2,
        "is not what the images say that the file is called now",
    );
    // A file that is not the tapes' own keeps what it is.
    let change = on(6, Change::SetMode { mode: 0 });
    lost(&|t| replace(t, 12, &dup(6, 5), vec![change.clone(), dup(6, 5)]), 2, "changes unlinked file /lost");
}

/// The dumped code at 0x20000 has three functions: one that the running kernel has too, one that a system
/// call replaces, one that stays. The running kernel's mappings are 3 pages, its code the third.
fn led() -> ExpectedVdso {
    let function = |at: u64, targets: &[u64], instead: Option<&[u8]>| LedFunction {
        at,
        targets: targets.to_vec(),
        instead: instead.map(<[u8]>::to_vec),
    };
    ExpectedVdso {
        len: 0x3000,
        here: None,
        led: Some(LedVdso {
            code: (0x20000, 0x22000),
            taken: vec![(0x1e000, 0x22000), (0x40000, 0x50000)],
            running: (0x2000, 0x1000),
            mark: vec![Some(7), None],
            functions: vec![
                function(0x20100, &[0x2040], Some(b"call")),
                function(0x20200, &[], Some(b"call")),
                function(0x20300, &[], None),
            ],
        }),
    }
}

fn jump(target: u64) -> Vec<u8> {
    [&[0x48, 0xb8][..], &target.to_le_bytes(), &[0xff, 0xe0]].concat()
}

fn poke(pieces: &[(u64, &[u8])]) -> Effect {
    let pieces = pieces.iter().map(|(at, bytes)| (*at, bytes.to_vec())).collect();
    Effect::Memory(MemoryEffect::Write { pieces })
}

fn led_steps() -> Vec<Effect> {
    let mark: Vec<u8> = [7u64, 0x30000].iter().flat_map(|word| word.to_le_bytes()).collect();
    let protect = |prot| Effect::Memory(MemoryEffect::Protect { at: 0x32000, len: 0x1000, prot });
    vec![
        Effect::Memory(MemoryEffect::MapVdso { at: 0x30000 }),
        protect(3),
        poke(&[(0x32000, &mark)]),
        protect(5),
        map(0x20000, 0x2000),
        poke(&[(0x20100, &jump(0x32040)), (0x20200, b"call")]),
    ]
}

#[test]
fn demand_3_a_vdso_leads_to_the_running_kernels() {
    let passes_with = |change: &dyn Fn(&mut Vec<Effect>)| {
        passes(|t, e| {
            e.tasks[1].vdso = Some(Box::new(led()));
            let mut steps = led_steps();
            change(&mut steps);
            last(t, 11, steps);
        })
    };
    assert_eq!(passes_with(&|_| {}).vdso_jumps, 2);
    #[track_caller]
    fn refuse(change: impl FnOnce(&mut Vec<Effect>), words: &str) {
        check_all(
            |t, _, e| {
                e.tasks[1].vdso = Some(Box::new(led()));
                let mut steps = led_steps();
                change(&mut steps);
                last(t, 11, steps);
            },
            3,
            words,
        );
    }
    let map_at = |at| Effect::Memory(MemoryEffect::MapVdso { at });
    refuse(|s| s.clear(), "arrives without the vDSO");
    refuse(|s| s[0] = map_at(0x1d000), "not where the vDSO may be");
    refuse(|s| s.push(map_at(0x60000)), "a vDSO mapped a second time");
    refuse(|s| drop(s.remove(5)), "the function 0x20100 of its vDSO does not lead");
    refuse(|s| s[5] = poke(&[(0x20100, &jump(0x32040))]), "the function 0x20200 of its vDSO does not lead");
    refuse(|s| s[5] = poke(&[(0x20100, &jump(0x32044))]), "does not lead to the function of the same name");
    refuse(|s| s[5] = poke(&[(0x20100, b"call")]), "does not lead to the function of the same name");
    refuse(|s| s[5] = poke(&[(0x20200, b"cold")]), "does not lead to the function of the same name");
    refuse(|s| s[5] = poke(&[(0x20300, b"call")]), "does not lead to the function of the same name");
    refuse(|s| s[5] = poke(&[(0x20101, b"call")]), "not the start of a function");
    refuse(|s| s[5] = poke(&[(0x50000, b"call")]), "not the start of a function");
    refuse(|s| s[5] = poke(&[(0x1_0000_2000, b"call")]), "in the tapes");
    refuse(|s| s[5] = poke(&[(0x20200, &[0; 0x101])]), "over the next function");
    refuse(|s| s.push(poke(&[(0x20200, b"call")])), "written twice");
    refuse(|s| s.push(map(0x21000, 0x1000)), "over what leads to the vDSO");
    refuse(|s| s.push(map(0x31000, 0x1000)), "over the vDSO");
    refuse(
        |s| s.push(Effect::Memory(MemoryEffect::Unmap { at: 0x10000, len: 0x21000 })),
        "munmap of 0x10000..0x31000: over the vDSO",
    );
    // What leads to it would stay.
    refuse(
        |s| s.push(Effect::Memory(MemoryEffect::Unmap { at: 0x30000, len: 0x3000 })),
        "munmap of 0x30000..0x33000: over the vDSO",
    );
    refuse(
        |s| s.push(Effect::Memory(MemoryEffect::Unmap { at: 0x20000, len: 0x13000 })),
        "arrives without the vDSO",
    );
    refuse(|s| s.swap(0, 5), "before the vDSO is mapped");
    refuse(|s| drop(s.remove(1)), "the vDSO's code is not writable");
    refuse(|s| drop(s.remove(3)), "the vDSO's code stays writable");
    refuse(|s| drop(s.remove(2)), "the mark is missing");
    refuse(|s| s[2] = poke(&[(0x32000, b"mark")]), "not the mark");
    let protect = Effect::Memory(MemoryEffect::Protect { at: 0x30000, len: 0x1000, prot: 3 });
    refuse(|s| s.push(protect), "another part of the vDSO");
}

#[test]
fn demand_3_the_vdso_of_the_running_kernel() {
    let here = ExpectedVdso { len: 0x3000, here: Some(0x30000), led: None };
    let map_at = |at| Effect::Memory(MemoryEffect::MapVdso { at });
    let with = |steps: Vec<Effect>| {
        let here = here.clone();
        move |t: &mut Tapes, e: &mut Expected| {
            e.tasks[1].vdso = Some(Box::new(here));
            last(t, 11, steps);
        }
    };
    assert_eq!(passes(with(vec![map_at(0x30000)])).vdso_jumps, 0);
    // All of it may go, and come again: it was inherited, perhaps.
    let unmap = |at, len| Effect::Memory(MemoryEffect::Unmap { at, len });
    passes(with(vec![map_at(0x30000), unmap(0x30000, 0x3000), map_at(0x30000)]));
    let refuse = |steps: Vec<Effect>, words: &str| {
        let change = with(steps);
        check_all(|t, _, e| change(t, e), 3, words);
    };
    refuse(vec![map_at(0x30000), unmap(0x2f000, 0x5000)], "arrives without the vDSO");
    refuse(vec![map_at(0x30000), unmap(0x30000, 0x2000), map_at(0x30000)], "over the vDSO");
    refuse(vec![map_at(0x40000)], "not where the vDSO may be");
    refuse(vec![map_at(0x30000), poke(&[(0x32000, b"x")])], "a vDSO that needs nothing");
    let protect = Effect::Memory(MemoryEffect::Protect { at: 0x32000, len: 0x1000, prot: 3 });
    refuse(vec![map_at(0x30000), protect], "another part of the vDSO");
    check(|t| last(t, 11, vec![map_at(0x30000)]), 3, "a vDSO that the images do not have");
}

/// 15 shares the table of 10, and opens a file while 10 waits for it.
fn share_table(tapes: &mut Tapes, expected: &mut Expected) {
    let root = tapes.get_mut(&10).expect("the root");
    let at = root.iter().position(|effect| *effect == Effect::Arrive).expect("it arrives");
    let born = Effect::Fork(Birth { pid: 15, flags: 0x400, exit_signal: SIGCHLD, cgroup: None });
    root.splice(at..at, [born, Effect::Wait(1), dup(3, 9), close(9)]);
    let sharer = vec![open("/data", 0, 4), close(4), Effect::Post(1), Effect::Arrive, Effect::Park];
    tapes.insert(15, sharer);
    let (attributes, threads) = (BTreeMap::new(), Vec::new());
    let parent = expected.tasks[0].clone();
    expected.tasks.push(ExpectedTask { pid: 15, ppid: 10, attributes, threads, ..parent });
}

#[test]
fn shared_tables_have_a_certificate() {
    let certificate = passes(share_table);
    assert_eq!(certificate.tasks, 4);
    // What one of them opens the other has.
    passes(|tapes, expected| {
        share_table(tapes, expected);
        let sharer = tapes.get_mut(&15).expect("the sharer");
        sharer.remove(1);
        let root = tapes.get_mut(&10).expect("the root");
        let at = root.iter().position(|effect| *effect == dup(3, 9)).expect("its copy");
        root.insert(at, close(4));
    });
}

#[test]
fn shared_tables_that_lose_the_certificate() {
    let flags = |tapes: &mut Tapes, pid: u32, flags: u64| {
        for effect in tapes.values_mut().flatten() {
            if let Effect::Fork(birth) = effect
                && birth.pid == pid
            {
                birth.flags = flags;
            }
        }
    };
    let check_shared = |change: &dyn Fn(&mut Tapes, &mut Expected), demand: u32, words: &str| {
        let share = |tapes: &mut Tapes, _: &mut LiftedTree, expected: &mut Expected| {
            share_table(tapes, expected);
            change(tapes, expected);
        };
        check_all(share, demand, words);
    };
    check_shared(&|t, _| flags(t, 15, 0), 2, "its descriptor table is its own, the images say shared");
    check_shared(
        &|_, e| e.tasks[4].table_id = Some(15),
        2,
        "is shared with another task's, the images say its own",
    );
    // Nobody waits for the sharer, and both work on the table.
    check_shared(&|t, _| remove(t, 10, &Effect::Wait(1)), 1, "the shared descriptor table");
    // It is left with what one of them has opened.
    check_shared(&|t, _| remove(t, 15, &close(4)), 2, "descriptor 4 (file /data) is open at the end");
    // Or without what one of them has closed.
    check_shared(&|t, _| of(t, 15).insert(1, close(0)), 2, "descriptor 0");
}
