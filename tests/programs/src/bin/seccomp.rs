//! seccomp: every ward proves that what it let itself be denied is denied still, and nothing else.
//!
//! | ward | |
//! |---|---|
//! | `chain` | filters whose order shows, one logged; a child inherits them and has one of its own |
//! | `deep` | sixty filters |
//! | `large` | three filters of 4096 instructions |
//! | `dropped` | uid 1000 without capabilities; calls that a restore makes in it would kill it |
//! | `sandbox` | uid 1000 and no_new_privs before the filter |
//! | `killed` | dies of a call by SIGSYS |
//! | `strict`, `strict-killed` | strict mode; the latter dies of a call by SIGKILL |
//! | `threads` | filters and strict mode of single threads, one of which dies alone |
//! | `tsync` | one chain for all threads, to which the first adds for all after the restore |
//!
//! `seccomp DIR notifies` has one task with a filter that asks a supervisor; `seccomp - under COMMAND...`
//! runs a command under a filter.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use libc::{c_long, sock_filter};
use nix::errno::Errno;
use regrow_test_programs::Task;
use regrow_test_programs::ward::{Crew, Line, Ward, check_eq, status};

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const USER_NOTIF: u32 = 0x7fc0_0000;
const ERRNO: u32 = 0x5_0000;
const TSYNC: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_TSYNC;
const LOG: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_LOG;

/// Calls that neither this program nor its libraries make.
const TIMES: c_long = libc::SYS_times;
const SYSINFO: c_long = libc::SYS_sysinfo;
const PRIORITY: c_long = libc::SYS_sched_get_priority_max;

fn main() {
    let mut task = Task::root();
    match std::env::args().nth(2).as_deref() {
        None => {}
        Some("notifies") => {
            install(&deny(&[TIMES], USER_NOTIF), 0);
            task.park();
            task.check_eq("times without a supervisor", call(TIMES), Err(Errno::ENOSYS));
            task.finish();
        }
        Some("under") => {
            install(&deny(&[TIMES], ERRNO | 1), 0);
            let command: Vec<String> = std::env::args().skip(3).collect();
            panic!("{}", Command::new(&command[0]).args(&command[1..]).exec());
        }
        Some(other) => panic!("there is no part {other}"),
    }
    let wards = [
        (Ward::start("chain", chain), 0),
        (Ward::start("deep", deep), 0),
        (Ward::start("large", large), 0),
        (Ward::start("dropped", dropped), 0),
        (Ward::start("sandbox", sandbox), 0),
        (Ward::start("killed", killed), libc::SIGSYS),
        (Ward::start("strict", |line| strict(line, false)), 0),
        (Ward::start("strict-killed", |line| strict(line, true)), libc::SIGKILL),
        (Ward::start("threads", threads), 0),
        (Ward::start("tsync", tsync), 0),
    ];
    for (ward, _) in &wards[6..8] {
        await_mode(ward.pid().as_raw());
    }
    task.park();
    for (ward, signal) in wards {
        ward.finish(&mut task, signal);
    }
    task.finish();
}

fn chain(line: Line) -> Vec<String> {
    // Of equal answers the newest filter's counts.
    install(&deny(&[TIMES, SYSINFO], ERRNO | 1001), 0);
    install(&deny(&[TIMES], ERRNO | 1002), LOG);
    let mut heir = Ward::start("heir", |line| {
        install(&deny(&[PRIORITY], ERRNO | 1004), 0);
        line.wait();
        let mut failures = Vec::new();
        check(&mut failures, TIMES, 1002);
        check(&mut failures, SYSINFO, 1001);
        check(&mut failures, PRIORITY, 1004);
        check_eq(&mut failures, "filters", status("Seccomp_filters"), "3".to_owned());
        failures
    });
    install(&deny(&[SYSINFO], ERRNO | 1003), 0);
    line.wait();
    let mut failures = Vec::new();
    check(&mut failures, TIMES, 1002);
    check(&mut failures, SYSINFO, 1003);
    check(&mut failures, PRIORITY, 0);
    check_eq(&mut failures, "filters", status("Seccomp_filters"), "3".to_owned());
    check_eq(&mut failures, "no_new_privs", status("NoNewPrivs"), "0".to_owned());
    failures.extend(heir.end(0));
    failures
}

fn deep(line: Line) -> Vec<String> {
    for number in 1..=60 {
        install(&deny(&[TIMES], ERRNO | number), 0);
    }
    line.wait();
    let mut failures = Vec::new();
    check(&mut failures, TIMES, 60);
    check(&mut failures, SYSINFO, 0);
    check_eq(&mut failures, "filters", status("Seccomp_filters"), "60".to_owned());
    failures
}

fn large(line: Line) -> Vec<String> {
    for (nr, errno) in [(TIMES, 2001), (SYSINFO, 2002), (PRIORITY, 2003)] {
        let tail = deny(&[nr], ERRNO | errno);
        let mut program = vec![sock_filter { code: 0x20, jt: 0, jf: 0, k: 4 }; 4096 - tail.len()];
        program.extend(tail);
        install(&program, 0);
    }
    line.wait();
    let mut failures = Vec::new();
    check(&mut failures, TIMES, 2001);
    check(&mut failures, SYSINFO, 2002);
    check(&mut failures, PRIORITY, 2003);
    failures
}

fn dropped(line: Line) -> Vec<String> {
    // Whatever a restore calls once the filters are there: it must not meet them.
    let fatal = [
        libc::SYS_munmap,
        libc::SYS_futex,
        libc::SYS_rt_sigtimedwait,
        libc::SYS_getpid,
        libc::SYS_setgroups,
        libc::SYS_setresuid,
        libc::SYS_setresgid,
        libc::SYS_setfsuid,
        libc::SYS_setfsgid,
        libc::SYS_capset,
        libc::SYS_seccomp,
        libc::SYS_prctl,
        libc::SYS_prlimit64,
        libc::SYS_setpriority,
        libc::SYS_sched_setscheduler,
    ];
    // SAFETY: the calls take numbers and an empty list.
    unsafe {
        assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
        assert_eq!(libc::setresgid(1000, 1000, 1000), 0);
        install(&deny(&[TIMES], ERRNO | 3001), 0);
        install(&deny(&fatal, KILL_PROCESS), 0);
        assert_eq!(libc::setuid(1000), 0);
    }
    line.wait();
    let mut failures = Vec::new();
    check(&mut failures, TIMES, 3001);
    check_eq(&mut failures, "uids", status("Uid"), "1000 1000 1000 1000".to_owned());
    check_eq(&mut failures, "groups", status("Groups"), String::new());
    check_eq(&mut failures, "capabilities", status("CapPrm"), "0000000000000000".to_owned());
    check_eq(&mut failures, "no_new_privs", status("NoNewPrivs"), "0".to_owned());
    check_eq(&mut failures, "filters", status("Seccomp_filters"), "2".to_owned());
    failures
}

fn sandbox(line: Line) -> Vec<String> {
    set_ids(1000);
    // SAFETY: PR_SET_NO_NEW_PRIVS takes numbers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    install(&deny(&[TIMES], ERRNO | 4001), 0);
    line.wait();
    let mut failures = Vec::new();
    check(&mut failures, TIMES, 4001);
    check_eq(&mut failures, "uids", status("Uid"), "1000 1000 1000 1000".to_owned());
    check_eq(&mut failures, "no_new_privs", status("NoNewPrivs"), "1".to_owned());
    failures
}

fn killed(line: Line) -> Vec<String> {
    install(&deny(&[TIMES], KILL_PROCESS), 0);
    line.wait();
    let mut failures = Vec::new();
    check(&mut failures, SYSINFO, 0);
    if !failures.is_empty() {
        return failures;
    }
    let _ = call(TIMES);
    vec!["times is not denied".to_owned()]
}

/// The last thing that it does before it waits is to enter strict mode, so its keeper looks when it has.
fn strict(line: Line, dies: bool) -> Vec<String> {
    line.say(b"r");
    // SAFETY: PR_SET_SECCOMP takes numbers here; what follows are read, write and exit alone.
    unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT, 0, 0, 0);
        line.hear();
        if dies {
            libc::syscall(libc::SYS_getpid);
            line.say(b"getpid is not denied");
        }
        libc::syscall(libc::SYS_exit, 0);
    }
    Vec::new()
}

/// Waits until a thread is in strict mode.
fn await_mode(tid: i32) {
    let path = format!("/proc/{tid}/status");
    while !std::fs::read_to_string(&path).is_ok_and(|text| text.contains("Seccomp:\t1")) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The thread that is killed by its filter; that in strict mode, and its pipe.
static VICTIM: AtomicI32 = AtomicI32::new(0);
static STRICT: AtomicI32 = AtomicI32::new(0);
static STRICT_PIPE: [AtomicI32; 2] = [AtomicI32::new(0), AtomicI32::new(0)];

fn is_gone(tid: i32) -> bool {
    let path = format!("/proc/self/task/{tid}");
    let start = Instant::now();
    while std::path::Path::new(&path).exists() {
        if start.elapsed() > Duration::from_secs(10) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

fn threads(line: Line) -> Vec<String> {
    let mut ends = [0; 2];
    // SAFETY: pipe2 writes two descriptors.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), 0) }, 0);
    for (end, fd) in STRICT_PIPE.iter().zip(ends) {
        end.store(fd, Ordering::SeqCst);
    }
    let count = |failures: &mut Vec<String>, wanted: &str| {
        check_eq(failures, "filters of a thread", status("Seccomp_filters"), wanted.to_owned());
    };
    let mut crew = Crew::new();
    crew.thread(
        || install(&deny(&[TIMES], ERRNO | 1501), 0),
        move |(), failures| {
            check(failures, TIMES, 1501);
            check(failures, SYSINFO, 0);
            count(failures, "1");
        },
    );
    crew.thread(
        || {
            install(&deny(&[TIMES], ERRNO | 1502), LOG);
            install(&deny(&[SYSINFO], ERRNO | 1503), 0);
        },
        move |(), failures| {
            check(failures, TIMES, 1502);
            check(failures, SYSINFO, 1503);
            count(failures, "2");
        },
    );
    crew.thread(
        || (),
        move |(), failures| {
            check(failures, TIMES, 0);
            check(failures, SYSINFO, 0);
            count(failures, "0");
        },
    );
    crew.thread(
        || {
            install(&deny(&[TIMES], KILL_THREAD), 0);
            // SAFETY: gettid has no preconditions.
            VICTIM.store(unsafe { libc::gettid() }, Ordering::SeqCst);
        },
        |(), failures| {
            check(failures, SYSINFO, 0);
            // It never says that it is done.
            let _ = call(TIMES);
            failures.push("times is not denied".to_owned());
        },
    );
    std::thread::spawn(strict_thread);
    crew.await_ready();
    while STRICT.load(Ordering::SeqCst) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    await_mode(STRICT.load(Ordering::SeqCst));
    line.wait();
    let mut failures = crew.finish(1);
    check(&mut failures, TIMES, 0);
    check_eq(&mut failures, "filters of the first thread", status("Seccomp_filters"), "0".to_owned());
    check_eq(&mut failures, "the killed thread is gone", is_gone(VICTIM.load(Ordering::SeqCst)), true);
    let mut byte = 41u8;
    // SAFETY: live bytes. Nobody else reads: the thread writes when it has read.
    unsafe { libc::write(ends[1], (&raw const byte).cast(), 1) };
    check_eq(&mut failures, "the strict thread is gone", is_gone(STRICT.load(Ordering::SeqCst)), true);
    // SAFETY: as above.
    unsafe { libc::read(ends[0], (&raw mut byte).cast(), 1) };
    check_eq(&mut failures, "what the strict thread wrote", byte, 42);
    failures
}

fn strict_thread() {
    // SAFETY: gettid has no preconditions.
    STRICT.store(unsafe { libc::gettid() }, Ordering::SeqCst);
    let [reader, writer] = [&STRICT_PIPE[0], &STRICT_PIPE[1]].map(|fd| fd.load(Ordering::SeqCst));
    let mut byte = 0u8;
    // SAFETY: PR_SET_SECCOMP takes numbers here; what follows are read, write and exit, of a live byte.
    unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT, 0, 0, 0);
        libc::read(reader, (&raw mut byte).cast(), 1);
        byte += 1;
        libc::write(writer, (&raw const byte).cast(), 1);
        libc::syscall(libc::SYS_exit, 0);
    }
}

fn tsync(line: Line) -> Vec<String> {
    install(&deny(&[TIMES], ERRNO | 1601), 0);
    let mut crew = Crew::new();
    for _ in 0..3 {
        crew.thread(
            || (),
            |(), failures| {
                check(failures, TIMES, 1601);
                check(failures, SYSINFO, 1602);
                // Installed by the first thread after the restore.
                check(failures, PRIORITY, 1603);
                check_eq(failures, "filters", status("Seccomp_filters"), "3".to_owned());
            },
        );
    }
    install(&deny(&[SYSINFO], ERRNO | 1602), TSYNC | LOG);
    crew.await_ready();
    line.wait();
    install(&deny(&[PRIORITY], ERRNO | 1603), TSYNC);
    let mut failures = crew.finish(0);
    check(&mut failures, TIMES, 1601);
    check(&mut failures, SYSINFO, 1602);
    failures
}

fn set_ids(id: u32) {
    // SAFETY: the calls take numbers and an empty list.
    unsafe {
        assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
        assert_eq!(libc::setresgid(id, id, id), 0);
        assert_eq!(libc::setresuid(id, id, id), 0);
    }
}

/// A filter that answers `action` to these calls, and allows the others.
fn deny(calls: &[c_long], action: u32) -> Vec<sock_filter> {
    let mut program = vec![sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 }];
    for nr in calls {
        program.push(sock_filter { code: 0x15, jt: 0, jf: 1, k: *nr as u32 });
        program.push(sock_filter { code: 0x06, jt: 0, jf: 0, k: action });
    }
    program.push(sock_filter { code: 0x06, jt: 0, jf: 0, k: ALLOW });
    program
}

fn install(program: &[sock_filter], flags: libc::c_ulong) {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).expect("at most 4096 instructions"),
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the program is live, and the kernel copies it.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    assert_eq!(result, 0, "seccomp: {}", Errno::last());
}

/// Makes one of the three calls.
fn call(nr: c_long) -> Result<(), Errno> {
    let mut buffer = [0u64; 64];
    let argument = if nr == PRIORITY { 0 } else { buffer.as_mut_ptr() as i64 };
    // SAFETY: the buffer is live, and longer than a struct tms and a struct sysinfo.
    let result = unsafe { libc::syscall(nr, argument) };
    if result == -1 { Err(Errno::last()) } else { Ok(()) }
}

/// That the call fails with `errno`, or (0) succeeds.
fn check(failures: &mut Vec<String>, nr: c_long, errno: i32) {
    // Some have no name.
    let found = match call(nr) {
        Ok(()) => 0,
        Err(_) => Errno::last_raw(),
    };
    check_eq(failures, &format!("errno of call {nr}"), found, errno);
}
