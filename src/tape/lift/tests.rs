//! Each call back to its effect, and what is refused.

use std::mem::offset_of;

use regrow_graph::verify::{Attribute, Change, FdEffect, MemoryEffect, NameEffect, RingEffect, SocketOption};

use super::common::PAGE;
use super::*;
use crate::tape::abi::{Control, PATIENCE_S};
use crate::tape::assemble::Assembler;

const BASE: u64 = 0x1_0000_0000;
const RO: u64 = BASE + PAGE;
/// Where calls may write: behind the two event words.
const SCRATCH: u64 = BASE + EVENTS_OFFSET + 8;

/// A region built by hand: buffers from the start of the read-only part, then one tape.
struct Builder {
    ro: Vec<u8>,
    records: Vec<Record>,
    total: u32,
}

impl Builder {
    fn new() -> Builder {
        Builder { ro: vec![0; 64], records: Vec::new(), total: 1 }
    }

    fn data(&mut self, bytes: &[u8]) -> u64 {
        let address = RO + self.ro.len() as u64;
        self.ro.extend_from_slice(bytes);
        self.ro.resize(self.ro.len().next_multiple_of(8), 0);
        address
    }

    fn words(&mut self, words: &[u64]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.data(&bytes)
    }

    fn verb(&mut self, verb: u8, args: &[u64]) {
        self.record(verb, Check::Any, 0, args, 0);
    }

    fn call(&mut self, nr: libc::c_long, args: &[u64], expect: u64) {
        self.record(0, Check::Equal, nr, args, expect);
    }

    fn record(&mut self, verb: u8, check: Check, nr: libc::c_long, args: &[u64], expect: u64) {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        self.records.push(Record { verb, check: check as u8, nr: nr as u16, op: 0, args: all, expect });
    }

    fn finish(mut self) -> Tapes {
        let pid = self.data(&7u32.to_ne_bytes());
        let mut words = [0; 11];
        words[CLONE_ARGS_EXIT_SIGNAL] = 17;
        words[CLONE_ARGS_SET_TID] = pid;
        words[CLONE_ARGS_SET_TID_SIZE] = 1;
        let clone_args = self.words(&words);
        let lives = self.records.last().is_some_and(|record| record.verb == Verb::Park as u8);
        let bytes: Vec<u8> = self.records.iter().flat_map(|record| record.to_bytes()).collect();
        let tape = self.data(&bytes);
        self.ro.resize(self.ro.len().next_multiple_of(PAGE as usize), 0);
        let mut rw = vec![0; PAGE as usize];
        let at = offset_of!(Control, total);
        rw[at..at + 4].copy_from_slice(&self.total.to_ne_bytes());
        let at = offset_of!(Control, patience);
        rw[at..at + 8].copy_from_slice(&PATIENCE_S.to_ne_bytes());
        let tasks = vec![TaskTape { pid: 7, lives, tape, records: self.records.len() as u32, clone_args }];
        let empty = Assembler::new(BASE, 0, 0, &[]).finish(1 << 20, 1 << 21).expect("it fits");
        Tapes { rw, ro: self.ro, code: RO, tasks, ..empty }
    }
}

/// The effect of one record, or what is wrong with it.
fn one(build: impl FnOnce(&mut Builder)) -> Result<Effect, String> {
    let mut builder = Builder::new();
    build(&mut builder);
    builder.verb(Verb::Wait as u8, &[BASE + EVENTS_OFFSET + 4]);
    builder.verb(Verb::Park as u8, &[]);
    let tree = lift(&builder.finish()).map_err(|error| error.to_string())?;
    Ok(tree.tasks[0].effects[0].effect.clone())
}

#[track_caller]
fn check(build: impl FnOnce(&mut Builder), expected: Effect) {
    assert_eq!(one(build), Ok(expected));
}

#[track_caller]
fn refuse(build: impl FnOnce(&mut Builder), words: &str) {
    match one(build) {
        Ok(effect) => panic!("{effect:?}, expected: {words}"),
        Err(text) => assert!(text.contains(words), "{text}\nexpected: {words}"),
    }
}

const AT_CWD: u64 = -100i64 as u64;

#[test]
fn descriptors() {
    let path = |b: &mut Builder| b.data(b"/dev/null\0");
    let open = |flags| Effect::Fd(FdEffect::Open { path: b"/dev/null".to_vec(), flags, fd: 3 });
    check(
        |b| {
            let at = path(b);
            b.call(libc::SYS_openat, &[AT_CWD, at, 2, 0], 3)
        },
        open(2),
    );
    check(
        |b| {
            let at = path(b);
            b.call(libc::SYS_openat, &[u64::from(-100i32 as u32), at, 0, 0], 3)
        },
        open(0),
    );
    refuse(
        |b| {
            let at = path(b);
            b.call(libc::SYS_openat, &[4, at, 2, 0], 3)
        },
        "relative to descriptor 4",
    );
    refuse(
        |b| {
            let at = path(b) + 1;
            b.call(libc::SYS_openat, &[AT_CWD, at, 2, 0], 3)
        },
        "is not absolute",
    );
    refuse(
        |b| {
            let at = path(b);
            b.record(0, Check::Success, libc::SYS_openat, &[AT_CWD, at, 2, 0], 3)
        },
        "number is not checked",
    );
    refuse(|b| b.call(libc::SYS_openat, &[AT_CWD, SCRATCH, 2, 0], 3), "not in the read-only part");
    refuse(|b| b.call(libc::SYS_openat, &[AT_CWD, u64::MAX, 2, 0], 3), "outside the region");
    check(
        |b| b.call(libc::SYS_dup3, &[3, 7, 0o2_000_000], 7),
        Effect::Fd(FdEffect::Dup { from: 3, to: 7, cloexec: true }),
    );
    refuse(|b| b.call(libc::SYS_dup3, &[3, 7, 0], 6), "gives 7, and 6 is expected");
    refuse(
        |b| b.record(0, Check::Any, libc::SYS_close, &[3], 0),
        "task 7, record 0: close: its failure would not be seen",
    );
    check(|b| b.call(libc::SYS_pipe2, &[SCRATCH, 0o4000], 0), Effect::Fd(FdEffect::Pipe { flags: 0o4000 }));
    refuse(|b| b.call(libc::SYS_pipe2, &[BASE + EVENTS_OFFSET, 0], 0), "not in the scratch part");
    refuse(|b| b.call(libc::SYS_pipe2, &[RO, 0], 0), "not in the scratch part");
    refuse(|b| b.call(libc::SYS_pipe2, &[RO - 4, 0], 0), "not in the scratch part");
    check(
        |b| b.call(libc::SYS_socketpair, &[1, 0o2_000_005, 0, SCRATCH], 0),
        Effect::Fd(FdEffect::SocketPair { sock_type: 5, flags: 0o2_000_000 }),
    );
    refuse(|b| b.call(libc::SYS_socketpair, &[2, 1, 0, SCRATCH], 0), "family 2");
    check(
        |b| b.call(libc::SYS_close_range, &[0, u64::from(u32::MAX), 4], 0),
        Effect::Fd(FdEffect::CloseRange { first: 0, last: u32::MAX, only_mark: true, unshare: false }),
    );
    refuse(|b| b.call(libc::SYS_close_range, &[0, 5, 1], 0), "flags 0x1");
    check(
        |b| b.call(libc::SYS_fcntl, &[3, 2, 1], 0),
        Effect::Fd(FdEffect::SetCloexec { fd: 3, cloexec: true }),
    );
    // F_SETLKW would wait; F_SETLK reads what it is to lock.
    refuse(|b| b.call(libc::SYS_fcntl, &[3, 7, 1], 0), "fcntl: command 7");
    refuse(|b| b.call(libc::SYS_fcntl, &[3, 6, 1], 0), "fcntl: reads 32 bytes at 0x1");
}

#[test]
fn objects_and_memory() {
    check(
        |b| {
            let at = b.data(b"hello");
            b.call(libc::SYS_write, &[4, at, 5], 5)
        },
        Effect::Object { fd: 4, change: Change::Write { data: b"hello".to_vec() } },
    );
    refuse(
        |b| {
            let at = b.data(b"hello");
            b.record(0, Check::Success, libc::SYS_write, &[4, at, 5], 5)
        },
        "would not be seen",
    );
    refuse(
        |b| {
            let at = b.data(b"hello");
            b.call(libc::SYS_write, &[4, at, 1 << 40], 1 << 40)
        },
        "outside the region",
    );
    let vectors = [0x10000, 4096, SCRATCH, 64];
    check(
        |b| {
            let at = b.words(&vectors);
            b.call(libc::SYS_preadv, &[4, at, 2, 8192, 0], 4160)
        },
        Effect::Object {
            fd: 4,
            change: Change::Read { into: vec![(0x10000, 4096), (SCRATCH, 64)], offset: Some(8192) },
        },
    );
    refuse(
        |b| {
            let at = b.words(&[BASE, 64]);
            b.call(libc::SYS_preadv, &[4, at, 1, 0, 0], 64)
        },
        "not in the scratch part",
    );
    refuse(
        |b| {
            let at = b.words(&vectors);
            b.call(libc::SYS_preadv, &[4, at, 2, 8192, 0], 4096)
        },
        "gives 4160, and 4096 is expected",
    );
    refuse(
        |b| {
            let at = b.words(&vectors);
            b.call(libc::SYS_preadv, &[4, at, u64::MAX, 0, 0], 0)
        },
        "vectors",
    );
    refuse(|b| b.call(libc::SYS_pread64, &[4, u64::MAX, 64, 0], 64), "beyond the address space");
    check(
        |b| b.call(libc::SYS_mmap, &[0x10000, 4096, 3, 0x10_0022, u64::MAX, 0], 0x10000),
        Effect::Memory(MemoryEffect::Map { at: 0x10000, len: 4096, prot: 3, flags: 0x10_0022, file: None }),
    );
    refuse(
        |b| b.call(libc::SYS_mmap, &[0x10000, 4096, 3, 0x22, u64::MAX, 0], 0x10000),
        "the kernel would choose the address",
    );
    refuse(|b| b.call(libc::SYS_mremap, &[0x10000, 0, 4096, 1, 0x20000], 0x20000), "flags 0x1");
    // Huge pages of the kernel's choice, none of a size, and a queue of them.
    refuse(|b| b.call(libc::SYS_shmget, &[0, 1 << 21, 0o7600], 7), "flags 0o7600");
    refuse(|b| b.call(libc::SYS_shmget, &[0, 1 << 21, 0o3600 | 21 << 26], 7), "flags 0o12400003600");
    refuse(|b| b.call(libc::SYS_msgget, &[0, 0o7600 | 21 << 26], 7), "flags 0o12400007600");
    let poke = |pid: u64, len: u64, count: u64, expect: u64| {
        move |b: &mut Builder| {
            let data = b.data(b"abc");
            let (from, to) = (b.words(&[data, 3]), b.words(&[0x10000, len]));
            b.call(libc::SYS_process_vm_writev, &[pid, from, 1, to, count, 0], expect)
        }
    };
    let pieces = vec![(0x10000, b"abc".to_vec())];
    check(poke(7, 3, 1, 3), Effect::Memory(MemoryEffect::Write { pieces }));
    refuse(poke(8, 3, 1, 3), "to task 8");
    refuse(poke(7, 4, 1, 3), "3 bytes into 4");
    refuse(poke(7, 3, 2, 3), "1 vectors into 2");
    refuse(poke(7, 3, 1, 2), "gives 3, and 2 is expected");
    let options = [212_992u64 / 2];
    check(
        |b| {
            let at = b.words(&options);
            b.call(libc::SYS_setsockopt, &[4, 1, 32, at, 4], 0)
        },
        Effect::Object {
            fd: 4,
            change: Change::SetOption { option: SocketOption::SendBuffer, value: 106_496, force: true },
        },
    );
    // struct msghdr with one vector and one SCM_RIGHTS of descriptors 5 and 6.
    let sendmsg = |b: &mut Builder, kind: u64| {
        let data = b.data(b"x");
        let iov = b.words(&[data, 1]);
        let control = b.words(&[24, 1 | kind << 32, 5 | 6 << 32]);
        let message = b.words(&[0, 0, iov, 1, control, 24, 0]);
        b.call(libc::SYS_sendmsg, &[4, message, 0x40], 1);
    };
    let change = Change::Send { data: b"x".to_vec(), rights: vec![5, 6], never_blocks: true };
    check(|b| sendmsg(b, 1), Effect::Object { fd: 4, change });
    refuse(|b| sendmsg(b, 2), "other than one of SCM_RIGHTS");
}

#[test]
fn tasks() {
    check(|b| b.call(libc::SYS_setsid, &[], 7), Effect::SetSid);
    check(|b| b.call(libc::SYS_setpgid, &[0, 0], 0), Effect::SetPgid { pgid: 7 });
    refuse(|b| b.call(libc::SYS_setpgid, &[8, 8], 0), "of task 8");
    check(
        |b| b.call(libc::SYS_waitid, &[1, 9, 0, 0x100_0004, 0], 0),
        Effect::AwaitExit { pid: 9, reap: false },
    );
    refuse(|b| b.call(libc::SYS_waitid, &[1, 9, 0, 0x100_0005, 0], 0), "options");
    refuse(|b| b.call(libc::SYS_kill, &[1, 9], 0), "kill: of 1");
    let eat = |b: &mut Builder, seconds: u64| {
        let (set, time) = (b.words(&[1 << 16]), b.words(&[seconds, 0]));
        b.call(libc::SYS_rt_sigtimedwait, &[set, 0, time, 8], 17);
    };
    check(|b| eat(b, 0), Effect::Attribute(Attribute::EatSignal { set: 1 << 16 }));
    refuse(|b| eat(b, 1), "rt_sigtimedwait: may block");
    refuse(|b| b.call(libc::SYS_reboot, &[], 0), "system call 169: not modelled");
    refuse(|b| b.call(libc::SYS_prctl, &[4242], 0), "option 4242");
    refuse(|b| b.verb(77, &[]), "verb 77");
    refuse(|b| b.verb(Verb::Post as u8, &[BASE + EVENTS_OFFSET + 2]), "is not an event");
    refuse(|b| b.verb(Verb::Post as u8, &[BASE]), "is not an event");
    refuse(|b| b.verb(Verb::Post as u8, &[u64::MAX - 2]), "events outside the written part");
    refuse(|b| b.verb(Verb::Fork as u8, &[0, 88, 0]), "not in the read-only part");
}

#[test]
fn names() {
    let [old, new] = [b"/old\0", b"/new\0"];
    let fifo = u64::from(libc::S_IFIFO | 0o1600);
    check(
        |b| {
            let at = b.data(new);
            b.call(libc::SYS_mknodat, &[AT_CWD, at, fifo, 0], 0)
        },
        Effect::Name(NameEffect::MakeFifo { path: b"/new".to_vec() }),
    );
    refuse(
        |b| {
            let at = b.data(new);
            b.call(libc::SYS_mknodat, &[AT_CWD, at, u64::from(libc::S_IFCHR), 0], 0)
        },
        "mknodat: mode",
    );
    let link = |b: &mut Builder, dir: u64, flags: u64| {
        let (from, to) = (b.data(old), b.data(new));
        b.call(libc::SYS_linkat, &[AT_CWD, from, dir, to, flags], 0);
    };
    check(
        |b| link(b, AT_CWD, 0),
        Effect::Name(NameEffect::Link { from: b"/old".to_vec(), to: b"/new".to_vec() }),
    );
    refuse(|b| link(b, 4, 0), "relative to descriptor 4");
    refuse(|b| link(b, AT_CWD, libc::AT_SYMLINK_FOLLOW as u64), "flags 0x400");
}

#[test]
fn ends() {
    let mut killed = Builder::new();
    killed.call(libc::SYS_kill, &[7, 9], 0);
    killed.verb(u8::MAX, &[]);
    let tree = lift(&killed.finish()).expect("lifts");
    assert_eq!(tree.tasks[0].effects, [Lifted { record: 0, effect: Effect::Kill { signal: 9 } }]);
    let mut behind = Builder::new();
    behind.call(libc::SYS_kill, &[7, 9], 0);
    behind.verb(Verb::Arrive as u8, &[]);
    assert!(lift(&behind.finish()).expect_err("refused").what.contains("behind the end"));
    let mut open = Builder::new();
    open.call(libc::SYS_kill, &[7, 9], 0);
    assert!(lift(&open.finish()).is_err());
}

#[test]
fn the_region() {
    let tapes = || {
        let mut builder = Builder::new();
        builder.verb(Verb::Park as u8, &[]);
        builder.finish()
    };
    let refused = |change: fn(&mut Tapes)| {
        let mut tapes = tapes();
        change(&mut tapes);
        lift(&tapes).expect_err("refused").to_string()
    };
    assert_eq!(lift(&tapes()).map(|tree| (tree.total, tree.root.pid)), Ok((1, 7)));
    assert!(refused(|t| t.rw[24] = 1).contains("do not start as 0"));
    let patience = "another time to wait";
    assert!(refused(|t| t.rw[offset_of!(Control, patience)] = 2).contains(patience));
    assert!(refused(|t| t.rw[offset_of!(Control, patience) + 9] = 1).contains(patience));
    assert!(refused(|t| t.base = !0xfff).contains("does not fit"));
    assert!(refused(|t| t.window_len = 4096).contains("no ranges of pages"));
    assert!(refused(|t| t.tasks[0].records = u32::MAX).contains("overlap or lie outside"));
    assert!(refused(|t| t.tasks[0].tape = BASE).contains("not in the read-only part"));
    assert!(refused(|t| t.tasks[0].lives = false).contains("listed as one that dies"));
    assert!(refused(|t| t.tasks[0].pid = 8).contains("ask for pid 7"));
    assert!(refused(|t| t.tasks.clear()).contains("there is no tape"));
}

/// What a traced run notes is part of the region, and no call's to write.
#[test]
fn traced_tapes() {
    let traced = |build: &dyn Fn(&mut Builder)| {
        let mut builder = Builder::new();
        build(&mut builder);
        builder.verb(Verb::Park as u8, &[]);
        let mut tapes = builder.finish();
        tapes.set_traced().expect("there is room");
        tapes
    };
    let plain = traced(&|_| ());
    let area = plain.trace().expect("traced");
    let region = lift(&plain).expect("understood").region;
    assert_eq!((region.end, region.rw_end), (area.slots + area.slots_len, RO));
    // Where the scratch part ends, and where the slots begin.
    let pipe = |to: u64| lift(&traced(&|builder: &mut Builder| builder.call(libc::SYS_pipe2, &[to, 0], 0)));
    assert!(pipe(SCRATCH).is_ok());
    for to in [area.slots, area.slots - 4, area.slots + area.slots_len - 8, area.code] {
        let refused = pipe(to).expect_err("refused").to_string();
        assert!(refused.contains("not in the scratch part"), "{refused}");
    }
    let word = offset_of!(Control, trace);
    for change in [0u64, 1, 16, u64::MAX] {
        let mut tapes = plain.clone();
        let bias = area.bias(&tapes) ^ change;
        tapes.rw[word..word + 8].copy_from_slice(&bias.to_ne_bytes());
        assert_eq!(lift(&tapes).is_ok(), change == 0, "{change:#x}");
        // Without a trace there is nowhere to note times.
        tapes.is_traced = false;
        assert!(lift(&tapes).is_err());
    }
}

/// Whatever bytes are wrong: an error or effects, no panic.
#[test]
fn hostile_bytes() {
    let mut builder = Builder::new();
    let path = builder.data(b"/dev/null\0");
    let words = builder.words(&[0x10000, 4096, 0x20000, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    builder.call(libc::SYS_openat, &[AT_CWD, path, 2, 0], 0);
    builder.call(libc::SYS_preadv, &[0, words, 2, 0, 0], 4160);
    builder.call(libc::SYS_sendmsg, &[0, words, 0], 0);
    builder.call(libc::SYS_prctl, &[35, 14, words, 104, 0], 0);
    builder.call(libc::SYS_capset, &[words, words], 0);
    builder.call(libc::SYS_setsockopt, &[0, 1, 7, words, 4], 0);
    builder.verb(Verb::Park as u8, &[]);
    let good = builder.finish();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20_000 {
        let mut tapes = good.clone();
        for _ in 0..=random() % 3 {
            let at = random() as usize % 1024;
            tapes.ro[at] = [0, 1, 0x7f, 0xff, random() as u8][random() as usize % 5];
        }
        match random() % 16 {
            0 => tapes.base = random(),
            1 => tapes.tasks[0].tape ^= 1 << (random() % 64),
            2 => tapes.tasks[0].records = random() as u32,
            3 => tapes.tasks[0].clone_args ^= 1 << (random() % 64),
            4 => tapes.rw.truncate(random() as usize % 4096),
            _ => {}
        }
        let _ = lift(&tapes);
    }
}

#[test]
fn seccomp() {
    use regrow_graph::verify::{PrivilegeEffect, SeccompEffect};

    let install = |b: &mut Builder, count: u64, flags: u64| {
        let program = b.data(b"sixteen bytes ab");
        let program = b.words(&[count, program]);
        b.call(libc::SYS_seccomp, &[1, flags, program], 0);
    };
    let filter = SeccompEffect::Filter { program: b"sixteen bytes ab"[..].into(), flags: 3 };
    check(|b| install(b, 2, 3), Effect::Privilege(PrivilegeEffect::Seccomp(filter)));
    refuse(|b| install(b, 0, 0), "seccomp: 0 instructions");
    refuse(|b| install(b, 4097, 0), "seccomp: 4097 instructions");
    // The kernel looks at the lower 16 bits alone.
    refuse(|b| install(b, 1 << 16 | 2, 0), "seccomp: 65538 instructions");
    refuse(|b| install(b, 4096, 0), "outside the region");
    refuse(
        |b| {
            let program = b.words(&[2, SCRATCH]);
            b.call(libc::SYS_seccomp, &[1, 0, program], 0);
        },
        "not in the read-only part",
    );
    check(
        |b| b.call(libc::SYS_seccomp, &[0, 0, 0], 0),
        Effect::Privilege(PrivilegeEffect::Seccomp(SeccompEffect::Strict)),
    );
    refuse(|b| b.call(libc::SYS_seccomp, &[0, 1, 0], 0), "seccomp: argument 1 is 0x1");
    refuse(|b| b.call(libc::SYS_seccomp, &[2, 0, 0], 0), "seccomp: operation 2");
    // Where a thread cannot be synchronised, its tid comes back.
    refuse(
        |b| {
            let program = b.words(&[2, RO]);
            b.record(0, Check::Success, libc::SYS_seccomp, &[1, 1, program], 0);
        },
        "a result other than 0 would not be seen",
    );
    refuse(|b| b.call(libc::SYS_prctl, &[22, 2, RO, 0, 0], 0), "option 22");
}

/// A header of `recvmsg` at SCRATCH, in the written part, where the kernel writes it, too.
fn received(words: [u64; 7], flags: u64, expect: u64) -> Result<Effect, String> {
    let mut builder = Builder::new();
    builder.call(libc::SYS_recvmsg, &[9, SCRATCH + 1536, flags], expect);
    builder.verb(Verb::Wait as u8, &[BASE + EVENTS_OFFSET + 4]);
    builder.verb(Verb::Park as u8, &[]);
    let vector = builder.words(&[SCRATCH, 1]);
    let mut tapes = builder.finish();
    let mut header = words;
    if header[2] == 0 {
        header[2] = vector;
    }
    for (at, word) in header.iter().enumerate() {
        let from = (SCRATCH + 1536 - BASE) as usize + 8 * at;
        tapes.rw[from..from + 8].copy_from_slice(&word.to_ne_bytes());
    }
    let tree = lift(&tapes).map_err(|error| error.to_string())?;
    Ok(tree.tasks[0].effects[0].effect.clone())
}

#[test]
fn messages_with_descriptors() {
    let control = SCRATCH + 8;
    let (wait_not, look, mark) = (0x40, 0x2, 0x4000_0000);
    let effect = |rights, cloexec, stays, never_blocks| {
        Ok(Effect::Fd(FdEffect::Receive { socket: 9, bytes: 1, rights, cloexec, stays, never_blocks }))
    };
    let header = |len| [0, 0, 0, 1, control, len, 0];
    assert_eq!(received(header(24), wait_not, 1), effect(2, false, false, true));
    assert_eq!(received(header(16 + 4 * 253), wait_not | look | mark, 1), effect(253, true, true, true));
    assert_eq!(received(header(20), 0, 1), effect(1, false, false, false));
    let check = |header: [u64; 7], flags, expect, words: &str| {
        let text = received(header, flags, expect).expect_err(words);
        assert!(text.contains(words), "{text}\nexpected: {words}");
    };
    check(header(24), 0x100, 1, "flags 0x100");
    check(header(24), 0, 0, "gives 1, and 0 is expected");
    check(header(16), 0, 1, "a control buffer of 16 bytes");
    check(header(22), 0, 1, "a control buffer of 22 bytes");
    check([0, 0, 0, 2, control, 24, 0], 0, 1, "not one vector");
    check([control, 8, 0, 1, control, 24, 0], 0, 1, "a name, flags");
    check([0, 0, 0, 1, RO, 24, 0], 0, 1, "not in the scratch part");
    // The control message would overwrite the header.
    check([0, 0, 0, 1, SCRATCH + 1540, 24, 0], 0, 1, "is written by another");
    check([0, 0, 0, 1, BASE, 24, 0], 0, 1, "not in the scratch part");

    let probe = |b: &mut Builder| b.call(libc::SYS_fcntl, &[4, libc::F_GETFD as u64], 1);
    check_probe(probe);
    refuse(|b| b.call(libc::SYS_fcntl, &[4, libc::F_GETFD as u64], 2), "gives 0, and 2 is expected");
    refuse(
        |b| b.record(0, Check::Success, libc::SYS_fcntl, &[4, libc::F_GETFD as u64], 0),
        "a result other than 0 would not be seen",
    );
    // Two calls with one header.
    let mut builder = Builder::new();
    for _ in 0..2 {
        builder.call(libc::SYS_recvmsg, &[9, SCRATCH + 1536, 0], 1);
    }
    builder.verb(Verb::Wait as u8, &[BASE + EVENTS_OFFSET + 4]);
    builder.verb(Verb::Park as u8, &[]);
    let vector = builder.words(&[SCRATCH, 1]);
    let mut tapes = builder.finish();
    for (at, word) in [0, 0, vector, 1, control, 24, 0].iter().enumerate() {
        let from = (SCRATCH + 1536 - BASE) as usize + 8 * at;
        tapes.rw[from..from + 8].copy_from_slice(&word.to_ne_bytes());
    }
    let text = lift(&tapes).expect_err("no effects").to_string();
    assert!(text.contains("which another call writes"), "{text}");
}

#[track_caller]
fn check_probe(build: impl FnOnce(&mut Builder)) {
    check(build, Effect::Fd(FdEffect::Probe { fd: 4, cloexec: true }));
}

/// A region with a request in its written part.
fn with_request(words: &[u64], build: impl FnOnce(&mut Builder)) -> Result<LiftedTree, LiftError> {
    let mut builder = Builder::new();
    build(&mut builder);
    builder.verb(Verb::Wait as u8, &[BASE + EVENTS_OFFSET + 4]);
    builder.verb(Verb::Park as u8, &[]);
    let mut tapes = builder.finish();
    for (at, word) in (REQUEST - BASE..).step_by(8).zip(words) {
        tapes.rw[at as usize..at as usize + 8].copy_from_slice(&word.to_ne_bytes());
    }
    lift(&tapes)
}

const REQUEST: u64 = BASE + PAGE - 64;

#[test]
fn rings_of_asynchronous_io() {
    let ring = |effect| Effect::Memory(MemoryEffect::Ring(effect));
    let cell = SCRATCH + 0x800;
    check(|b| b.call(libc::SYS_io_setup, &[63, cell], 0), ring(RingEffect::Setup { requests: 63, cell }));
    refuse(|b| b.call(libc::SYS_io_setup, &[63, RO], 0), "not in the scratch part");
    refuse(|b| b.record(0, Check::Any, libc::SYS_io_setup, &[63, cell], 0), "its failure would not be seen");
    // What is not 0 is a context that is there.
    let taken = with_request(&[1], |b| b.call(libc::SYS_io_setup, &[63, REQUEST], 0));
    assert!(taken.expect_err("it is refused").to_string().contains("of a context that is there"));

    let indirect = |b: &mut Builder, nr, args: &[u64], expect| {
        b.record(Verb::Indirect as u8, Check::Equal, nr, args, expect);
    };
    check(
        |b| indirect(b, libc::SYS_mremap, &[cell, 4096, 4096, 3, 0x7000], 0x7000),
        ring(RingEffect::Place { cell, len: 4096, to: 0x7000 }),
    );
    refuse(
        |b| indirect(b, libc::SYS_mremap, &[cell, 4096, 4096, 3, 0x7000], 0x8000),
        "and 32768 is expected",
    );
    refuse(|b| indirect(b, libc::SYS_mremap, &[cell, 4096, 8192, 3, 0x7000], 0x7000), "of what is not known");
    refuse(|b| indirect(b, libc::SYS_mremap, &[cell, 4096, 4096, 7, 0x7000], 0x7000), "of what is not known");
    refuse(
        |b| indirect(b, libc::SYS_mremap, &[RO, 4096, 4096, 3, 0x7000], 0x7000),
        "not in the scratch part",
    );
    refuse(|b| indirect(b, libc::SYS_munmap, &[cell, 4096], 0), "its first argument is in a word");

    let reap = |b: &mut Builder, args: &[u64], expect| b.call(libc::SYS_io_getevents, args, expect);
    check(|b| reap(b, &[0x7000, 5, 5, SCRATCH], 5), ring(RingEffect::Reap { ring: 0x7000, count: 5 }));
    refuse(|b| reap(b, &[0x7000, 4, 5, SCRATCH], 5), "4 to 5 events");
    refuse(|b| reap(b, &[0x7000, 5, 5, SCRATCH], 4), "and 4 is expected");
    refuse(|b| reap(b, &[0x7000, 5, 5, SCRATCH, RO], 5), "argument 4");
    refuse(|b| reap(b, &[0x7000, 5, 5, BASE + PAGE - 159], 5), "not in the scratch part");
    refuse(|b| reap(b, &[0x7000, 1 << 32, 1 << 32, SCRATCH], 1 << 32), "at once");
}

#[test]
fn requests_that_read_nothing() {
    let submit = |of: &[u64], count: u64, expect: u64| {
        let of = of.to_vec();
        move |b: &mut Builder| {
            let list = b.words(&of);
            b.call(libc::SYS_io_submit, &[0x7000, count, list], expect);
        }
    };
    let plain = [0, 0, 9 << 32, 0, 0, 0, 0, 0];
    let two = with_request(&plain, submit(&[REQUEST; 2], 2, 2)).expect("it is understood");
    let effect = RingEffect::Submit { ring: 0x7000, count: 2, fd: 9 };
    assert_eq!(two.tasks[0].effects[0].effect, Effect::Memory(MemoryEffect::Ring(effect)));
    let refuse = |words: &[u64], build: &dyn Fn(&mut Builder), why: &str| {
        let error = with_request(words, build).expect_err("it is refused").to_string();
        assert!(error.contains(why), "{error}\nexpected: {why}");
    };
    refuse(&plain, &submit(&[REQUEST; 2], 2, 1), "and 1 is expected");
    refuse(&plain, &submit(&[REQUEST, REQUEST - 64], 2, 2), "requests that differ");
    refuse(&plain, &submit(&[], 0, 0), "no request");
    refuse(&plain, &submit(&[RO; 1], 1, 1), "not in the scratch part");
    // Anything else than a read of no bytes from the start of a file.
    for at in [0, 1, 3, 4, 5, 6, 7] {
        let mut other = plain;
        other[at] = 1;
        refuse(&other, &submit(&[REQUEST], 1, 1), "more than read nothing");
    }
    for word in [9 << 32 | 1, 9 << 32 | 1 << 16, 1 << 63] {
        refuse(&[0, 0, word], &submit(&[REQUEST], 1, 1), "more than read nothing");
    }
    // Another call would write into it.
    let written = |b: &mut Builder| {
        submit(&[REQUEST], 1, 1)(b);
        b.call(libc::SYS_io_getevents, &[0x7000, 1, 1, REQUEST - 8], 1);
    };
    refuse(&plain, &written, "is written by another");
    let own = |b: &mut Builder| {
        submit(&[REQUEST], 1, 1)(b);
        b.call(libc::SYS_io_setup, &[1, REQUEST], 0);
    };
    refuse(&plain, &own, "is written by another");
}

/// Tapes of `count` tasks that do the same.
fn alike(count: u32, build: impl FnOnce(&mut Builder)) -> Tapes {
    let mut builder = Builder::new();
    build(&mut builder);
    builder.verb(Verb::Wait as u8, &[BASE + EVENTS_OFFSET + 4]);
    builder.verb(Verb::Park as u8, &[]);
    let mut tapes = builder.finish();
    // As long as if each had its own.
    let records = tapes.tasks[0].records as usize * count as usize;
    tapes.ro.resize((tapes.ro.len() + records * size_of::<Record>()).next_multiple_of(PAGE as usize), 0);
    let first = tapes.tasks[0];
    tapes.tasks = (0..count).map(|number| TaskTape { pid: first.pid + number, ..first }).collect();
    tapes
}

#[test]
fn tapes_are_lifted_when_they_are_asked_for() {
    let tapes = alike(40, |builder| {
        let path = builder.data(b"/dev/null\0");
        builder.call(libc::SYS_openat, &[AT_CWD, path, 2, 0], 3);
        builder.call(libc::SYS_pipe2, &[SCRATCH, 0], 0);
    });
    let one_by_one = one_by_one(&tapes).expect("understood");
    let lazy = LazyTree::of(&tapes).expect("understood as a whole");
    let is_there = |task: usize| lazy.of_task(task) == Some(&one_by_one[task].effects);
    assert!(is_there(17) && is_there(17) && is_there(39));
    assert!(lazy.are_understood());
    assert!((0..40).all(is_there));
    let shown = |tasks: &[LiftedTask]| format!("{tasks:?}");
    assert_eq!(lazy.into_tasks().as_deref().map(shown), Some(shown(&one_by_one)));
}

#[test]
fn one_tape_that_is_not_understood() {
    let mut tapes = alike(40, |builder| builder.call(libc::SYS_close, &[3], 0));
    tapes.tasks[20].records -= 1;
    let lazy = LazyTree::of(&tapes).expect("understood as a whole");
    assert!(lazy.of_task(19).is_some() && lazy.of_task(20).is_none());
    assert!(!lazy.are_understood());
    assert!(lazy.into_tasks().is_none());
    assert_eq!(lift(&tapes).expect_err("refused").pid, 27);
}

#[test]
fn tapes_that_are_in_each_others_way() {
    // io_setup(2) reads and writes the same word.
    let tapes = alike(2, |builder| builder.call(libc::SYS_io_setup, &[1, REQUEST], 0));
    let lazy = LazyTree::of(&tapes).expect("understood as a whole");
    assert!(lazy.of_task(0).is_some() && lazy.of_task(1).is_some());
    assert!(!lazy.are_understood());
    let error = lift(&tapes).expect_err("refused");
    assert!(error.pid == 8 && error.what.contains("which another call writes"), "{error}");
}

/// Who lifts one tape may take more of what all may read than it needs, and gives that back.
#[test]
fn many_short_tapes() {
    let tapes = alike(2000, |builder| {
        let path = builder.data(b"/dev/null\0");
        builder.call(libc::SYS_openat, &[AT_CWD, path, 2, 0], 3);
    });
    assert!((tapes.ro.len() as u64) < 2000 * ALLOWANCE / 100);
    assert!(LazyTree::of(&tapes).expect("understood as a whole").are_understood());
}
