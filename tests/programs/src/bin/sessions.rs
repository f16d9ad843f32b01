//! Sessions and groups that no sequence of plain forks leads to: `sessions DIR PART`.
//!
//! | part | |
//! |---|---|
//! | `leaver` | a task left its parent's session when it already had a child, which stayed |
//! | `orphan` | the root is a subreaper, and has a child that was orphaned and has a session of its own |
//! | `siblings` | likewise, and the child is a member of the session that its *sibling* leads; |
//! | | another one leads a process group there |

use std::time::Duration;

use nix::sys::prctl;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid, getsid, setpgid, setsid};
use regrow_test_programs::Task;

fn main() {
    let mut task = Task::root();
    match std::env::args().nth(2).as_deref() {
        Some("leaver") => leaver(&mut task),
        Some("orphan") => orphan(&mut task),
        Some("siblings") => siblings(&mut task),
        other => panic!("there is no part {other:?}"),
    }
    task.park();
    task.finish();
}

fn leaver(task: &mut Task) {
    task.spawn("leaver", |task| {
        let session = getsid(None).expect("getsid");
        task.spawn("stayed", |task| {
            task.park();
            let found = task.check_ok("session", getsid(None));
            task.check_eq("session", found, Some(session));
        });
        setsid().expect("setsid");
        task.spawn("followed", Task::park);
        task.park();
    });
}

fn orphan(task: &mut Task) {
    let root = getpid();
    prctl::set_child_subreaper(true).expect("subreaper");
    abandon(task, "orphan", root, |task| {
        setsid().expect("setsid");
        task.park();
    });
}

fn siblings(task: &mut Task) {
    let root = getpid();
    prctl::set_child_subreaper(true).expect("subreaper");
    task.spawn("leader", |task| {
        setsid().expect("setsid");
        // They are the root's to wait for.
        abandon(task, "sibling", root, Task::park);
        abandon(task, "groupsibling", root, |task| {
            setpgid(Pid::from_raw(0), Pid::from_raw(0)).expect("setpgid");
            task.park();
        });
        task.park();
    });
}

/// Starts a grandchild that becomes a child of the subreaper, because its parent exits at once.
fn abandon(task: &mut Task, name: &str, reaper: Pid, body: impl FnOnce(&mut Task)) {
    // SAFETY: the program has one thread, so the child may do anything.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => {
            waitpid(child, None).expect("waitpid");
            task.adopt(name);
        }
        ForkResult::Child => {
            task.become_child("between");
            task.spawn(name, |task| {
                while getppid() != reaper {
                    std::thread::sleep(Duration::from_millis(1));
                }
                body(task);
            });
            // SAFETY: ends the task at once, without waiting for its child.
            unsafe { libc::_exit(0) }
        }
    }
}
