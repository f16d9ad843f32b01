//! One of each that a commit treats in a way of its own: threads, tasks that are stopped (one of them with
//! threads, one the child of another), zombies, a session, groups: `motley DIR`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{ForkResult, Pid, fork, setpgid, setsid};
use regrow_test_programs::Task;

const THREADS: u32 = 3;

fn main() {
    let mut task = Task::root();
    task.spawn("threads", |task| {
        let crowd = Crowd::new();
        task.park();
        crowd.check(task);
    });
    task.spawn("session", |task| {
        setsid().expect("setsid");
        task.spawn("member", Task::park);
        task.park();
    });
    let stopped = [
        task.spawn("stopped", |task| stop(task, Signal::SIGSTOP, false)),
        task.spawn("stopped crowd", |task| stop(task, Signal::SIGTSTP, true)),
        task.spawn("stopped parent", |task| {
            let child = task.spawn("stopped child", |task| stop(task, Signal::SIGSTOP, false));
            await_stop(child);
            stop(task, Signal::SIGSTOP, false);
            kill(child, Signal::SIGCONT).expect("SIGCONT");
        }),
    ];
    stopped.into_iter().for_each(await_stop);
    let zombie = zombie();
    task.park();
    for pid in stopped {
        // Still stopped, by the same signal as before: it has run nothing that could have set it going.
        let found = waitpid(pid, Some(WaitPidFlag::WUNTRACED | WaitPidFlag::WNOHANG));
        task.check("a stopped child", matches!(found, Ok(WaitStatus::Stopped(..))));
        kill(pid, Signal::SIGCONT).expect("SIGCONT");
    }
    let found = waitpid(zombie, Some(WaitPidFlag::WNOHANG));
    task.check_eq("the zombie", found, Ok(WaitStatus::Exited(zombie, 5)));
    task.finish();
}

/// Threads that count until they are told to end.
struct Crowd {
    ends: Arc<AtomicBool>,
    ran: Arc<AtomicU32>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Crowd {
    fn new() -> Crowd {
        let (ends, ran) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let threads = (0..THREADS)
            .map(|_| {
                let (ends, ran) = (Arc::clone(&ends), Arc::clone(&ran));
                std::thread::spawn(move || {
                    while !ends.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    ran.fetch_add(1, Ordering::SeqCst);
                })
            })
            .collect();
        Crowd { ends, ran, threads }
    }

    fn check(self, task: &mut Task) {
        self.ends.store(true, Ordering::SeqCst);
        for thread in self.threads {
            task.check("a thread ends", thread.join().is_ok());
        }
        task.check_eq("threads", self.ran.load(Ordering::SeqCst), THREADS);
    }
}

/// Gets ready, is stopped by a signal of its own, and goes on when it is told to.
fn stop(task: &mut Task, signal: Signal, is_crowd: bool) {
    // Out of the orphaned group, in which SIGTSTP would stop nobody.
    setpgid(Pid::from_raw(0), Pid::from_raw(0)).expect("setpgid");
    let crowd = is_crowd.then(Crowd::new);
    let parked = task.get_ready();
    raise(signal).expect("raise");
    task.check("continued after it was told to go", task.file("go").exists());
    task.check_identity(parked);
    if let Some(crowd) = crowd {
        crowd.check(task);
    }
}

/// Waits until a child is stopped, and leaves the news for others.
fn await_stop(pid: Pid) {
    waitid(Id::Pid(pid), WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT).expect("waitid");
}

fn zombie() -> Pid {
    // SAFETY: this task has one thread, so the child may do anything.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => {
            waitid(Id::Pid(child), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).expect("waitid");
            child
        }
        // SAFETY: ends the task at once; there is nothing to clean up in the copy.
        ForkResult::Child => unsafe { libc::_exit(5) },
    }
}
