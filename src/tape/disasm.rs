//! Tapes as text, the way `strace` prints system calls. What is printed is what runs.
//!
//! Worked example: `openat(AT_FDCWD, "/dev/null", O_RDWR|O_NOCTTY, 0) = 3`.

use std::fmt::Write;

use super::Tapes;
use super::abi::{CLONE_ARGS_CGROUP, CLONE_ARGS_FLAGS, CLONE_INTO_CGROUP, Check, Record, Verb};

/// How an argument is shown.
#[derive(Debug, Clone, Copy)]
enum Arg {
    /// A signed number.
    Int,
    /// A descriptor; -100 is AT_FDCWD.
    Fd,
    /// An address or another number best read in hexadecimal.
    Hex,
    /// The text at an address.
    Text,
    /// So many bytes at an address as the argument with this index says.
    Bytes(usize),
    /// So many 64-bit words at an address.
    Words(usize),
    /// A set of named bits.
    Flags(&'static [(u64, &'static str)]),
    /// A named number.
    Name(&'static [(u64, &'static str)]),
}

const PROT: &[(u64, &str)] = &[(1, "PROT_READ"), (2, "PROT_WRITE"), (4, "PROT_EXEC")];
const MAP: &[(u64, &str)] = &[
    (0x01, "MAP_SHARED"),
    (0x02, "MAP_PRIVATE"),
    (0x08, "MAP_DROPPABLE"),
    (0x10, "MAP_FIXED"),
    (0x20, "MAP_ANONYMOUS"),
    (0x100, "MAP_GROWSDOWN"),
    (0x800, "MAP_DENYWRITE"),
    (0x1000, "MAP_EXECUTABLE"),
    (0x2000, "MAP_LOCKED"),
    (0x4000, "MAP_NORESERVE"),
    (0x20000, "MAP_STACK"),
    (0x10_0000, "MAP_FIXED_NOREPLACE"),
];
const OPEN: &[(u64, &str)] = &[
    (0o1, "O_WRONLY"),
    (0o2, "O_RDWR"),
    (0o400, "O_NOCTTY"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o10000, "O_DSYNC"),
    (0o20000, "O_ASYNC"),
    (0o40000, "O_DIRECT"),
    (0o200_000, "O_DIRECTORY"),
    (0o400_000, "O_NOFOLLOW"),
    (0o1_000_000, "O_NOATIME"),
    (0o2_000_000, "O_CLOEXEC"),
    (0o10_000_000, "O_PATH"),
];
const REMAP: &[(u64, &str)] = &[(1, "MREMAP_MAYMOVE"), (2, "MREMAP_FIXED")];
const SIGNALS: &[(u64, &str)] = &[
    (1, "SIGHUP"),
    (2, "SIGINT"),
    (3, "SIGQUIT"),
    (4, "SIGILL"),
    (5, "SIGTRAP"),
    (6, "SIGABRT"),
    (7, "SIGBUS"),
    (8, "SIGFPE"),
    (9, "SIGKILL"),
    (10, "SIGUSR1"),
    (11, "SIGSEGV"),
    (12, "SIGUSR2"),
    (13, "SIGPIPE"),
    (14, "SIGALRM"),
    (15, "SIGTERM"),
    (17, "SIGCHLD"),
    (18, "SIGCONT"),
    (19, "SIGSTOP"),
    (20, "SIGTSTP"),
    (21, "SIGTTIN"),
    (22, "SIGTTOU"),
    (28, "SIGWINCH"),
];
const ADVICE: &[(u64, &str)] = &[
    (1, "MADV_RANDOM"),
    (2, "MADV_SEQUENTIAL"),
    (10, "MADV_DONTFORK"),
    (12, "MADV_MERGEABLE"),
    (14, "MADV_HUGEPAGE"),
    (15, "MADV_NOHUGEPAGE"),
    (16, "MADV_DONTDUMP"),
    (18, "MADV_WIPEONFORK"),
    (102, "MADV_GUARD_INSTALL"),
];
const FCNTL: &[(u64, &str)] = &[
    (1, "F_GETFD"),
    (2, "F_SETFD"),
    (4, "F_SETFL"),
    (6, "F_SETLK"),
    (37, "F_OFD_SETLK"),
    (1024, "F_SETLEASE"),
    (10, "F_SETSIG"),
    (15, "F_SETOWN_EX"),
    (1031, "F_SETPIPE_SZ"),
];
const LIMITS: &[(u64, &str)] = &[
    (0, "RLIMIT_CPU"),
    (1, "RLIMIT_FSIZE"),
    (2, "RLIMIT_DATA"),
    (3, "RLIMIT_STACK"),
    (4, "RLIMIT_CORE"),
    (5, "RLIMIT_RSS"),
    (6, "RLIMIT_NPROC"),
    (7, "RLIMIT_NOFILE"),
    (8, "RLIMIT_MEMLOCK"),
    (9, "RLIMIT_AS"),
    (10, "RLIMIT_LOCKS"),
    (11, "RLIMIT_SIGPENDING"),
    (12, "RLIMIT_MSGQUEUE"),
    (13, "RLIMIT_NICE"),
    (14, "RLIMIT_RTPRIO"),
    (15, "RLIMIT_RTTIME"),
];
const PRCTL: &[(u64, &str)] = &[
    (1, "PR_SET_PDEATHSIG"),
    (4, "PR_SET_DUMPABLE"),
    (15, "PR_SET_NAME"),
    (24, "PR_CAPBSET_DROP"),
    (28, "PR_SET_SECUREBITS"),
    (29, "PR_SET_TIMERSLACK"),
    (35, "PR_SET_MM"),
    (36, "PR_SET_CHILD_SUBREAPER"),
    (38, "PR_SET_NO_NEW_PRIVS"),
    (41, "PR_SET_THP_DISABLE"),
    (47, "PR_CAP_AMBIENT"),
    (77, "PR_TIMER_CREATE_RESTORE_IDS"),
];
const SOCKET: &[(u64, &str)] = &[
    (2, "SO_REUSEADDR"),
    (5, "SO_DONTROUTE"),
    (6, "SO_BROADCAST"),
    (9, "SO_KEEPALIVE"),
    (10, "SO_OOBINLINE"),
    (11, "SO_NO_CHECK"),
    (12, "SO_PRIORITY"),
    (13, "SO_LINGER"),
    (16, "SO_PASSCRED"),
    (18, "SO_RCVLOWAT"),
    (20, "SO_RCVTIMEO"),
    (21, "SO_SNDTIMEO"),
    (32, "SO_SNDBUFFORCE"),
    (33, "SO_RCVBUFFORCE"),
    (34, "SO_PASSSEC"),
    (36, "SO_MARK"),
    (72, "SO_BUF_LOCK"),
];
const ONE: &[(u64, &str)] = &[(1, "SOL_SOCKET")];
const UNIX: &[(u64, &str)] = &[(1, "AF_UNIX")];
const FAMILY: &[(u64, &str)] = &[(1, "AF_UNIX"), (2, "AF_INET"), (10, "AF_INET6")];
const SOCK: &[(u64, &str)] =
    &[(1, "SOCK_STREAM"), (2, "SOCK_DGRAM"), (5, "SOCK_SEQPACKET"), (0x80000, "SOCK_CLOEXEC")];
const WAIT: &[(u64, &str)] = &[(4, "WEXITED"), (0x100_0000, "WNOWAIT")];
const P_PID: &[(u64, &str)] = &[(1, "P_PID")];
const HOW: &[(u64, &str)] = &[(0, "SHUT_RD"), (1, "SHUT_WR"), (2, "SHUT_RDWR")];
const MSG: &[(u64, &str)] =
    &[(0x2, "MSG_PEEK"), (0x40, "MSG_DONTWAIT"), (0x4000, "MSG_NOSIGNAL"), (0x4000_0000, "MSG_CMSG_CLOEXEC")];
const ARCH: &[(u64, &str)] = &[(0x2003, "ARCH_MAP_VDSO_64")];
const EPOLL: &[(u64, &str)] = &[(1, "EPOLL_CTL_ADD")];
const IOCTL: &[(u64, &str)] = &[
    (0x4008_5400, "TFD_IOC_SET_TICKS"),
    (0xc018_aa3f, "UFFDIO_API"),
    (0xc020_aa00, "UFFDIO_REGISTER"),
    (0x8010_aa01, "UFFDIO_UNREGISTER"),
    (0xc028_aa03, "UFFDIO_COPY"),
    (0xc028_aa05, "UFFDIO_MOVE"),
];
const USERFAULT: &[(u64, &str)] = &[(1, "UFFD_USER_MODE_ONLY"), (0x80000, "O_CLOEXEC")];
const SECCOMP: &[(u64, &str)] = &[(0, "SECCOMP_SET_MODE_STRICT"), (1, "SECCOMP_SET_MODE_FILTER")];
const FILTER: &[(u64, &str)] = &[(1, "SECCOMP_FILTER_FLAG_TSYNC"), (2, "SECCOMP_FILTER_FLAG_LOG")];
const UNSHARE: &[(u64, &str)] = &[(0x0800_0000, "CLONE_NEWIPC")];
const IPC_GET: &[(u64, &str)] = &[(0o1000, "IPC_CREAT"), (0o2000, "IPC_EXCL")];
const IPC_CTL: &[(u64, &str)] = &[(0, "IPC_RMID"), (1, "IPC_SET"), (11, "SHM_LOCK"), (17, "SETALL")];
const IPC_SEND: &[(u64, &str)] = &[(0o4000, "IPC_NOWAIT")];
const ATTACH: &[(u64, &str)] = &[(0o10000, "SHM_RDONLY")];
const WHENCE: &[(u64, &str)] = &[(0, "SEEK_SET")];

/// Name and arguments of the system calls that tapes use.
fn known(nr: libc::c_long) -> Option<(&'static str, &'static [Arg])> {
    use Arg::{Bytes, Fd, Flags, Hex, Int, Name, Text, Words};
    Some(match nr {
        libc::SYS_munmap => ("munmap", &[Hex, Hex]),
        libc::SYS_mmap => ("mmap", &[Hex, Hex, Flags(PROT), Flags(MAP), Fd, Hex]),
        libc::SYS_mremap => ("mremap", &[Hex, Hex, Hex, Flags(REMAP), Hex]),
        libc::SYS_mprotect => ("mprotect", &[Hex, Hex, Flags(PROT)]),
        libc::SYS_mlock => ("mlock", &[Hex, Hex]),
        libc::SYS_madvise => ("madvise", &[Hex, Hex, Name(ADVICE)]),
        libc::SYS_arch_prctl => ("arch_prctl", &[Name(ARCH), Hex]),
        libc::SYS_pread64 => ("pread64", &[Fd, Hex, Hex, Hex]),
        libc::SYS_preadv => ("preadv", &[Fd, Hex, Int, Hex, Int]),
        libc::SYS_process_vm_writev => ("process_vm_writev", &[Int, Hex, Int, Hex, Int, Hex]),
        libc::SYS_openat => ("openat", &[Fd, Text, Flags(OPEN), Hex]),
        libc::SYS_lseek => ("lseek", &[Fd, Int, Name(WHENCE)]),
        libc::SYS_close => ("close", &[Fd]),
        libc::SYS_close_range => ("close_range", &[Int, Int, Hex]),
        libc::SYS_dup3 => ("dup3", &[Fd, Fd, Flags(OPEN)]),
        libc::SYS_fcntl => ("fcntl", &[Fd, Name(FCNTL), Hex]),
        libc::SYS_flock => ("flock", &[Fd, Hex]),
        libc::SYS_pipe2 => ("pipe2", &[Hex, Flags(OPEN)]),
        libc::SYS_socketpair => ("socketpair", &[Name(UNIX), Flags(SOCK), Int, Hex]),
        libc::SYS_socket => ("socket", &[Name(FAMILY), Flags(SOCK), Int]),
        libc::SYS_bind => ("bind", &[Fd, Bytes(2), Int]),
        libc::SYS_listen => ("listen", &[Fd, Int]),
        libc::SYS_connect => ("connect", &[Fd, Bytes(2), Int]),
        libc::SYS_accept4 => ("accept4", &[Fd, Hex, Hex, Flags(OPEN)]),
        libc::SYS_unlinkat => ("unlinkat", &[Fd, Text, Int]),
        libc::SYS_fchmodat => ("fchmodat", &[Fd, Text, Hex]),
        libc::SYS_fchownat => ("fchownat", &[Fd, Text, Int, Int, Int]),
        libc::SYS_eventfd2 => ("eventfd2", &[Int, Flags(OPEN)]),
        libc::SYS_epoll_create1 => ("epoll_create1", &[Flags(OPEN)]),
        libc::SYS_epoll_ctl => ("epoll_ctl", &[Fd, Name(EPOLL), Fd, Hex]),
        libc::SYS_timerfd_create => ("timerfd_create", &[Int, Flags(OPEN)]),
        libc::SYS_timerfd_settime => ("timerfd_settime", &[Fd, Hex, Words(4), Hex]),
        libc::SYS_ioctl => ("ioctl", &[Fd, Name(IOCTL), Words(1)]),
        libc::SYS_io_setup => ("io_setup", &[Int, Hex]),
        libc::SYS_io_submit => ("io_submit", &[Hex, Int, Hex]),
        libc::SYS_io_getevents => ("io_getevents", &[Hex, Int, Int, Hex, Hex]),
        libc::SYS_userfaultfd => ("userfaultfd", &[Flags(USERFAULT)]),
        libc::SYS_signalfd4 => ("signalfd4", &[Fd, Words(1), Int, Flags(OPEN)]),
        libc::SYS_sendmsg => ("sendmsg", &[Fd, Words(7), Flags(MSG)]),
        libc::SYS_recvmsg => ("recvmsg", &[Fd, Words(7), Flags(MSG)]),
        libc::SYS_write => ("write", &[Fd, Bytes(2), Int]),
        libc::SYS_sendto => ("sendto", &[Fd, Bytes(2), Int, Flags(MSG), Hex, Int]),
        libc::SYS_shutdown => ("shutdown", &[Fd, Name(HOW)]),
        libc::SYS_setsockopt => ("setsockopt", &[Fd, Name(ONE), Name(SOCKET), Bytes(4), Int]),
        libc::SYS_rt_sigaction => ("rt_sigaction", &[Name(SIGNALS), Words(4), Hex, Int]),
        libc::SYS_rt_sigprocmask => ("rt_sigprocmask", &[Int, Words(1), Hex, Int]),
        libc::SYS_rt_sigtimedwait => ("rt_sigtimedwait", &[Words(1), Hex, Words(2), Int]),
        libc::SYS_sigaltstack => ("sigaltstack", &[Words(3), Hex]),
        libc::SYS_set_robust_list => ("set_robust_list", &[Hex, Int]),
        libc::SYS_set_tid_address => ("set_tid_address", &[Hex]),
        libc::SYS_rseq => ("rseq", &[Hex, Int, Int, Hex]),
        libc::SYS_umask => ("umask", &[Hex]),
        libc::SYS_chdir => ("chdir", &[Text]),
        libc::SYS_personality => ("personality", &[Hex]),
        libc::SYS_prlimit64 => ("prlimit64", &[Int, Name(LIMITS), Words(2), Hex]),
        libc::SYS_membarrier => ("membarrier", &[Hex, Int, Int]),
        libc::SYS_prctl => ("prctl", &[Name(PRCTL), Hex, Hex, Hex, Hex]),
        libc::SYS_unshare => ("unshare", &[Flags(UNSHARE)]),
        libc::SYS_shmget => ("shmget", &[Hex, Int, Flags(IPC_GET)]),
        libc::SYS_shmctl => ("shmctl", &[Int, Name(IPC_CTL), Hex]),
        libc::SYS_shmat => ("shmat", &[Int, Hex, Flags(ATTACH)]),
        libc::SYS_msgget => ("msgget", &[Hex, Flags(IPC_GET)]),
        libc::SYS_msgctl => ("msgctl", &[Int, Name(IPC_CTL), Hex]),
        libc::SYS_msgsnd => ("msgsnd", &[Int, Hex, Int, Flags(IPC_SEND)]),
        libc::SYS_semget => ("semget", &[Hex, Int, Flags(IPC_GET)]),
        libc::SYS_semctl => ("semctl", &[Int, Int, Name(IPC_CTL), Hex]),
        libc::SYS_setsid => ("setsid", &[]),
        libc::SYS_setpgid => ("setpgid", &[Int, Int]),
        libc::SYS_setgroups => ("setgroups", &[Int, Hex]),
        libc::SYS_setresuid => ("setresuid", &[Int, Int, Int]),
        libc::SYS_setresgid => ("setresgid", &[Int, Int, Int]),
        libc::SYS_setfsuid => ("setfsuid", &[Int]),
        libc::SYS_setfsgid => ("setfsgid", &[Int]),
        libc::SYS_capset => ("capset", &[Words(1), Words(3)]),
        libc::SYS_seccomp => ("seccomp", &[Name(SECCOMP), Flags(FILTER), Words(2)]),
        libc::SYS_setpriority => ("setpriority", &[Int, Int, Int]),
        libc::SYS_sched_setscheduler => ("sched_setscheduler", &[Int, Int, Hex]),
        libc::SYS_rt_sigqueueinfo => ("rt_sigqueueinfo", &[Int, Name(SIGNALS), Hex]),
        libc::SYS_rt_tgsigqueueinfo => ("rt_tgsigqueueinfo", &[Int, Int, Name(SIGNALS), Hex]),
        libc::SYS_timer_create => ("timer_create", &[Int, Words(3), Words(1)]),
        libc::SYS_timer_settime => ("timer_settime", &[Int, Int, Words(4), Hex]),
        libc::SYS_setitimer => ("setitimer", &[Int, Words(4), Hex]),
        libc::SYS_waitid => ("waitid", &[Name(P_PID), Int, Hex, Flags(WAIT), Hex]),
        libc::SYS_kill => ("kill", &[Int, Name(SIGNALS)]),
        libc::SYS_exit_group => ("exit_group", &[Int]),
        _ => return None,
    })
}

/// One record, with what it expects.
pub fn line(tapes: &Tapes, record: &Record) -> String {
    let mut text = call(tapes, record);
    match (record.verb(), record.check()) {
        (Some(Verb::Syscall | Verb::Indirect), Some(Check::Equal)) | (Some(Verb::Fork), _) => {
            let _ = match record.expect {
                value if value < 1 << 20 => write!(text, " = {value}"),
                value => write!(text, " = {value:#x}"),
            };
        }
        (Some(Verb::Syscall | Verb::Indirect), Some(Check::Success)) => text.push_str(" succeeds"),
        (_, _) => {}
    }
    text
}

/// What a word of a note for the launcher says, and of which name.
fn undo_word(tapes: &Tapes, address: u64) -> Option<(&'static str, &[u8])> {
    let offset = address.checked_sub(tapes.base)?;
    tapes.undo.iter().find_map(|undo| {
        let words = [(undo.intent, "intent"), (undo.made, "made"), (undo.gone, "gone")];
        let (_, what) = words.into_iter().find(|(word, _)| *word == offset)?;
        Some((what, undo.path.as_slice()))
    })
}

/// One record without what it expects.
pub fn call(tapes: &Tapes, record: &Record) -> String {
    let word = |address: u64| {
        format!("event {}", (address.wrapping_sub(tapes.base).wrapping_sub(super::abi::EVENTS_OFFSET)) / 4)
    };
    match record.verb() {
        Some(Verb::Syscall | Verb::Indirect) => syscall(tapes, record),
        Some(Verb::Fork) if is_guest(tapes, record.args[0]) => {
            format!("clone3({{flags=CLONE_VM, set_tid=[{}]}})", record.expect)
        }
        Some(Verb::Fork) => match cgroup_of(tapes, record.args[0]) {
            None => format!("clone3({{exit_signal=SIGCHLD, set_tid=[{}]}})", record.expect),
            Some(fd) => format!(
                "clone3({{flags=CLONE_INTO_CGROUP, exit_signal=SIGCHLD, set_tid=[{}], cgroup={fd}}})",
                record.expect
            ),
        },
        Some(Verb::Post) => match undo_word(tapes, record.args[0]) {
            Some((what, path)) => format!("undo({what}, \"{}\")", path.escape_ascii()),
            None => format!("post({})", word(record.args[0])),
        },
        Some(Verb::Wait) => format!("wait({})", word(record.args[0])),
        Some(Verb::Arrive) => "arrive()".to_owned(),
        Some(Verb::Park) => "park()".to_owned(),
        None => "fail()".to_owned(),
    }
}

/// Where the directory of the cgroup is in which who is born by these `clone_args` is born; `None`: its forker's.
fn cgroup_of(tapes: &Tapes, clone_args: u64) -> Option<u64> {
    let word = |index: usize| {
        let bytes = tapes.bytes(clone_args.checked_add(8 * index as u64)?, 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    };
    word(CLONE_ARGS_CGROUP)
        .filter(|_| word(CLONE_ARGS_FLAGS).is_some_and(|flags| flags & CLONE_INTO_CGROUP != 0))
}

/// Whether who is born by these `clone_args` is so in its forker's address space, and no thread.
fn is_guest(tapes: &Tapes, clone_args: u64) -> bool {
    let flags = tapes.bytes(clone_args, 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
    flags == Some(libc::CLONE_VM as u64)
}

fn syscall(tapes: &Tapes, record: &Record) -> String {
    let Some((name, args)) = known(libc::c_long::from(record.nr)) else {
        let args: Vec<String> = record.args.iter().map(|arg| format!("{arg:#x}")).collect();
        return format!("syscall_{}({})", record.nr, args.join(", "));
    };
    let mut text = format!("{name}(");
    for (index, kind) in args.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        let kind = match (libc::c_long::from(record.nr), record.args[1], index) {
            // Start and length; to, from and length (ioctl_userfaultfd(2)).
            (libc::SYS_ioctl, 0xc020_aa00 | 0x8010_aa01, 2) => Arg::Words(2),
            (libc::SYS_ioctl, 0xc028_aa03 | 0xc028_aa05, 2) => Arg::Words(3),
            _ => *kind,
        };
        if record.verb() == Some(Verb::Indirect) && index == 0 {
            let _ = write!(text, "*{:#x}", record.args[0]);
            continue;
        }
        show(tapes, record, record.args[index], kind, &mut text);
    }
    text.push(')');
    text
}

fn show(tapes: &Tapes, record: &Record, value: u64, kind: Arg, text: &mut String) {
    let _ = match kind {
        Arg::Int => write!(text, "{}", value as i64),
        Arg::Fd if value as i32 == libc::AT_FDCWD => write!(text, "AT_FDCWD"),
        Arg::Fd => write!(text, "{}", value as i32),
        Arg::Hex => hex(value, text),
        Arg::Text => match tapes.c_string(value) {
            Some(bytes) => write!(text, "\"{}\"", bytes.escape_ascii()),
            None => hex(value, text),
        },
        Arg::Bytes(len) => match tapes.bytes(value, record.args[len].min(32)) {
            Some(bytes) => {
                let more = if record.args[len] > 32 { "..." } else { "" };
                write!(text, "\"{}\"{more}", bytes.escape_ascii())
            }
            None => hex(value, text),
        },
        Arg::Words(count) => match tapes.bytes(value, count as u64 * 8) {
            Some(bytes) => {
                let words: Vec<String> = bytes
                    .chunks_exact(8)
                    .map(|chunk| format!("{:#x}", u64::from_ne_bytes(std::array::from_fn(|i| chunk[i]))))
                    .collect();
                write!(text, "{{{}}}", words.join(", "))
            }
            None => hex(value, text),
        },
        Arg::Name(names) => match names.iter().find(|(number, _)| *number == value) {
            Some((_, name)) => write!(text, "{name}"),
            None => write!(text, "{value}"),
        },
        Arg::Flags(names) => {
            let mut rest = value;
            let mut parts: Vec<String> = Vec::new();
            for (bit, name) in names {
                if rest & bit == *bit {
                    parts.push((*name).to_owned());
                    rest &= !bit;
                }
            }
            if rest != 0 || parts.is_empty() {
                parts.push(if rest == 0 { "0".to_owned() } else { format!("{rest:#x}") });
            }
            write!(text, "{}", parts.join("|"))
        }
    };
}

fn hex(value: u64, text: &mut String) -> std::fmt::Result {
    match value {
        0 => write!(text, "0"),
        u64::MAX => write!(text, "-1"),
        value => write!(text, "{value:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::assemble::{Assembler, Tape};

    fn check(build: impl FnOnce(&mut Assembler, &mut Tape), expected: &str) {
        let mut asm = Assembler::new(0x1_0000_0000, 1, 0, b"runner");
        let mut tape = Tape::default();
        build(&mut asm, &mut tape);
        let records = tape.records;
        asm.tape(1, true, 0, &records);
        let tapes = asm.finish(1 << 20, 1 << 20).expect("room");
        assert_eq!(line(&tapes, &records[0]), expected);
    }

    #[test]
    fn reads_like_strace() {
        check(
            |asm, tape| {
                let path = asm.text(b"/dev/null");
                tape.call(
                    libc::SYS_openat,
                    &[libc::AT_FDCWD as u64, path, (libc::O_RDWR | libc::O_NOCTTY) as u64, 0],
                    3,
                );
            },
            "openat(AT_FDCWD, \"/dev/null\", O_RDWR|O_NOCTTY, 0) = 3",
        );
        check(
            |asm, tape| {
                let data = asm.data(b"hello\n", 1);
                tape.call(libc::SYS_write, &[4, data, 6], 6);
            },
            "write(4, \"hello\\n\", 6) = 6",
        );
        check(|_, tape| tape.call_ok(libc::SYS_umask, &[0o22]), "umask(0x12) succeeds");
        check(|_, tape| tape.call(libc::SYS_close_range, &[3, 9, 0], 0), "close_range(3, 9, 0) = 0");
        check(
            |_, tape| tape.call_at(libc::SYS_mremap, 0x1_0000_0890, &[4096, 4096, 3, 0x7000], 0x7000),
            "mremap(*0x100000890, 0x1000, 0x1000, MREMAP_MAYMOVE|MREMAP_FIXED, 0x7000) = 28672",
        );
        check(|asm, tape| tape.wait(asm.event(0)), "wait(event 0)");
        check(|_, tape| tape.call(500, &[1], 0), "syscall_500(0x1, 0x0, 0x0, 0x0, 0x0, 0x0) = 0");
    }
}
