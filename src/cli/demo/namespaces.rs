//! Namespaces for the demonstration, and whoever waits outside of them.
//!
//! As root: of pids and mounts. Otherwise a user namespace comes first, in which the caller has all
//! privileges that a restore needs (user_namespaces(7)), where the kernel lets everybody make one.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getgid, getuid};
use regrow::host;

use super::super::exit;
use super::{Demo, inside};

/// CAP_SYS_ADMIN (linux/capability.h): what unshare(2) takes.
const CAP_SYS_ADMIN: u32 = 21;

/// Runs the demonstration in namespaces of its own; nothing is left of it.
pub(super) fn run(demo: &Demo) -> anyhow::Result<ExitCode> {
    let directory = Directory::new()?;
    let mut demo = demo.clone();
    match enter(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS) {
        Ok(Privilege::Root) => {}
        // SO_SNDBUFFORCE and SO_RCVBUFFORCE (socket(7)) take CAP_NET_ADMIN in the first user namespace.
        Ok(Privilege::UserNamespace) => demo.without_pairs = true,
        Err(lacking) => return Ok(lack(&lacking)),
    }
    // The terminal's signals end the namespaces, and then us.
    let signals: SigSet = [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT]
        .into_iter()
        .collect();
    signals.thread_block()?;
    match regrow::sys::process::fork()? {
        Some(init) => wait(init, &signals),
        None => {
            // Its directory is the parent's to remove.
            let directory = std::mem::ManuallyDrop::new(directory);
            Ok(match prepare_init() {
                Ok(()) => inside::run(&demo, &directory.0),
                Err(lacking) => lack(&lacking),
            })
        }
    }
}

/// A directory that goes when this does.
struct Directory(PathBuf);

impl Directory {
    fn new() -> anyhow::Result<Directory> {
        let parent = std::env::temp_dir().canonicalize()?;
        for number in 0.. {
            let path = parent.join(format!("regrow-demo-{}-{number}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Directory(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| path.display().to_string()),
            }
        }
        anyhow::bail!("{}: no name is free", parent.display())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Where the privileges come from.
pub(in crate::cli) enum Privilege {
    /// They were there.
    Root,
    /// They are those of a user namespace.
    UserNamespace,
}

/// Makes namespaces, of pids among them; the next child is their init.
pub(in crate::cli) fn enter(own: CloneFlags) -> Result<Privilege, String> {
    if host::gather_own().caps.has_effective(CAP_SYS_ADMIN) {
        return unshare(own)
            .map(|()| Privilege::Root)
            .map_err(|errno| format!("unshare (namespaces): {}", errno.desc()));
    }
    let (uid, gid) = (getuid(), getgid());
    unshare(own | CloneFlags::CLONE_NEWUSER).map_err(|errno| {
        let why = match errno {
            Errno::EPERM => {
                "; the kernel lets only root make one (user.max_user_namespaces, \
                             kernel.unprivileged_userns_clone, AppArmor)"
            }
            Errno::ENOSPC => "; user.max_user_namespaces allows no more",
            _ => "",
        };
        format!("not root, and unshare (a user namespace) fails: {}{why}", errno.desc())
    })?;
    let write = |file: &str, text: String| {
        let path = Path::new("/proc/self").join(file);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("{uid} {uid} 1"))?;
    write("gid_map", format!("{gid} {gid} 1"))?;
    Ok(Privilege::UserNamespace)
}

/// What the init of the namespaces needs before anything else.
fn prepare_init() -> Result<(), String> {
    // Nobody is to be left if the one outside is killed.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(|errno| format!("prctl: {}", errno.desc()))?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|errno| format!("mount (nothing is to be seen outside): {}", errno.desc()))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none).map_err(|errno| {
        let why = match errno {
            Errno::EPERM => {
                "; parts of /proc are covered by mounts, as in a container, and only root may \
                             mount one without"
            }
            _ => "",
        };
        format!("mount (/proc of the namespace): {}{why}", errno.desc())
    })
}

/// Waits for the init; ends it if we are told to end.
fn wait(init: Pid, signals: &SigSet) -> anyhow::Result<ExitCode> {
    loop {
        let signal = signals.wait()?;
        if signal != Signal::SIGCHLD {
            let _ = kill(init, Signal::SIGKILL);
            waitpid(init, None)?;
            return Ok(ExitCode::from(exit::FAILED));
        }
        match waitpid(init, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::Exited(_, code) => {
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(exit::FAILED)));
            }
            WaitStatus::Signaled(_, signal, _) => {
                anyhow::bail!("the init of the namespaces was killed by {signal}");
            }
            _ => {}
        }
    }
}

#[allow(clippy::print_stderr)] // The command line is what prints.
fn lack(what: &str) -> ExitCode {
    eprintln!("regrow: lacking: {what}");
    ExitCode::from(exit::LACKING)
}
