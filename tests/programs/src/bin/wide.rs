//! One root with many children, of ten sorts: `wide DIR [COUNT]`.
//!
//! Process groups with living leaders whose members are siblings, nieces and cousins of the leader;
//! sessions; zombies of all kinds; and children that differ from the root in one attribute each.
//! [`Task::park`] checks the attributes; what is checked here is what it does not know.

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, raise, sigaction, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, fork, getsid, setpgid, setsid};
use regrow_test_programs::Task;

fn main() {
    let count: u32 = std::env::args().nth(2).map_or(100, |text| text.parse().expect("the count is a number"));
    let mut task = Task::root();
    let mut leader = None;
    let zombies = [
        (zombie(|| exit(0)), WaitStatus::Exited as fn(Pid, i32) -> WaitStatus, 0),
        (zombie(|| exit(7)), WaitStatus::Exited, 7),
        (zombie(|| exit(255)), WaitStatus::Exited, 255),
        (zombie(|| die(Signal::SIGKILL)), killed, Signal::SIGKILL as i32),
        (zombie(|| die(Signal::SIGTERM)), killed, Signal::SIGTERM as i32),
        (zombie(|| die(Signal::SIGUSR2)), killed, Signal::SIGUSR2 as i32),
    ];
    for number in 0..count {
        let name = format!("child{number}");
        match number % 10 {
            0 => leader = Some(task.spawn(&name, leads_a_group)),
            1 => {
                let group = leader.expect("child 0 came first");
                let pid = task.spawn(&name, |task| follows(task, group));
                // Both sides call it, as shells do, so that it has happened for both.
                let _ = setpgid(pid, group);
            }
            2 => drop(task.spawn(&name, |task| has_a_follower(task, leader.expect("child 0 came first")))),
            3 => drop(task.spawn(&name, leads_a_session)),
            4 => drop(task.spawn(&name, |task| handles_signals(task, number))),
            5 => drop(task.spawn(&name, |task| is_limited(task, number))),
            6 => drop(task.spawn(&name, |task| lives_elsewhere(task, number))),
            7 => drop(task.spawn(&name, has_a_zombie)),
            8 => drop(task.spawn(&name, |task| is_an_ancestor(task, 3))),
            _ => drop(task.spawn(&name, Task::park)),
        }
    }
    task.park();
    for (pid, make, code) in zombies {
        let found = task.check_ok("zombie", waitpid(pid, Some(WaitPidFlag::WNOHANG)));
        task.check_eq("zombie", found, Some(make(pid, code)));
    }
    task.finish();
}

fn killed(pid: Pid, signal: i32) -> WaitStatus {
    WaitStatus::Signaled(pid, Signal::try_from(signal).expect("a signal"), false)
}

/// A child that is dead when this returns, and not reaped.
fn zombie(end: impl FnOnce()) -> Pid {
    // SAFETY: the program has one thread, so the child may do anything.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => {
            waitid(nix::sys::wait::Id::Pid(child), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
                .expect("waitid");
            child
        }
        ForkResult::Child => {
            end();
            exit(99)
        }
    }
}

fn exit(code: i32) -> ! {
    // SAFETY: ends the task at once; there is nothing to clean up in the copy.
    unsafe { libc::_exit(code) }
}

fn die(signal: Signal) {
    raise(signal).expect("raise");
}

fn leads_a_group(task: &mut Task) {
    setpgid(Pid::from_raw(0), Pid::from_raw(0)).expect("setpgid");
    task.park();
}

fn follows(task: &mut Task, group: Pid) {
    while setpgid(Pid::from_raw(0), group).is_err() {
        // The leader has not made the group yet.
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    task.park();
    // Signal 0 asks whether there is such a group. (Its leader may have finished by now.)
    let _ = task.check_ok("the group", kill(Pid::from_raw(-group.as_raw()), None));
}

/// A grandchild of the root in a group that a child of the root leads.
fn has_a_follower(task: &mut Task, group: Pid) {
    let name = format!("{}.follower", task.name());
    task.spawn(&name, |task| follows(task, group));
    task.park();
}

fn leads_a_session(task: &mut Task) {
    let session = setsid().expect("setsid");
    let name = task.name().to_owned();
    task.spawn(&format!("{name}.member"), |task| {
        task.park();
        let found = task.check_ok("session", getsid(None));
        task.check_eq("session", found, Some(session));
    });
    task.spawn(&format!("{name}.group"), |task| {
        leads_a_group(task);
        let found = task.check_ok("session", getsid(None));
        task.check_eq("session", found, Some(session));
    });
    task.park();
}

extern "C" fn count_it(_: libc::c_int) {
    COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
}

static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

fn handles_signals(task: &mut Task, number: u32) {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGHUP);
    mask.add(Signal::SIGWINCH);
    let flags =
        if number % 20 == 4 { SaFlags::SA_ONSTACK | SaFlags::SA_RESTART } else { SaFlags::SA_NODEFER };
    let action = SigAction::new(SigHandler::Handler(count_it), flags, mask);
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler only adds to an atomic counter.
    unsafe {
        sigaction(Signal::SIGUSR1, &action).expect("sigaction");
        sigaction(Signal::SIGUSR2, &ignore).expect("sigaction");
    }
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGALRM);
    blocked.add(Signal::SIGIO);
    sigprocmask(nix::sys::signal::SigmaskHow::SIG_BLOCK, Some(&blocked), None).expect("sigprocmask");
    // 64 KiB that stay for good, as an alternate stack does.
    let memory = Box::leak(vec![0u8; 65536].into_boxed_slice());
    let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
    // SAFETY: the memory lives as long as the task.
    unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) };
    task.park();
    raise(Signal::SIGUSR1).expect("raise");
    raise(Signal::SIGUSR2).expect("raise");
    task.check_eq("handled signals", COUNT.load(std::sync::atomic::Ordering::Relaxed), 1);
}

fn is_limited(task: &mut Task, number: u32) {
    setrlimit(Resource::RLIMIT_NOFILE, 64 + u64::from(number), 200 + u64::from(number)).expect("setrlimit");
    setrlimit(Resource::RLIMIT_CORE, 0, 0).expect("setrlimit");
    setrlimit(Resource::RLIMIT_STACK, 4 << 20, 6 << 20).expect("setrlimit");
    setrlimit(Resource::RLIMIT_MSGQUEUE, 4096, 8192).expect("setrlimit");
    let name = format!("{}.inherits", task.name());
    task.spawn(&name, Task::park);
    task.park();
}

fn lives_elsewhere(task: &mut Task, number: u32) {
    umask(Mode::from_bits_truncate(0o007 + (number << 3 & 0o70)));
    let home = task.file(&format!("home{number}"));
    std::fs::create_dir(&home).expect("create_dir");
    chdir(&home).expect("chdir");
    let name = std::ffi::CString::new(format!("wide {number} )(")).expect("no NUL");
    prctl::set_name(&name).expect("name");
    prctl::set_pdeathsig(Signal::SIGHUP).expect("pdeathsig");
    if number % 20 == 6 {
        prctl::set_no_new_privs().expect("no_new_privs");
    }
    task.park();
    task.check_eq("name", prctl::get_name().ok(), Some(name));
}

fn has_a_zombie(task: &mut Task) {
    let pid = zombie(|| exit(3));
    let killed_one = zombie(|| die(Signal::SIGALRM));
    task.park();
    task.check_eq("zombie", waitpid(pid, None), Ok(WaitStatus::Exited(pid, 3)));
    task.check_eq(
        "zombie",
        waitpid(killed_one, None),
        Ok(WaitStatus::Signaled(killed_one, Signal::SIGALRM, false)),
    );
}

fn is_an_ancestor(task: &mut Task, generations: u32) {
    if generations > 0 {
        let name = format!("{}.{generations}", task.name());
        task.spawn(&name, |task| is_an_ancestor(task, generations - 1));
    }
    task.park();
}
