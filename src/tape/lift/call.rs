//! One system call: its arguments, how its result is judged, and which file here knows it.

use regrow_graph::ids::Fd;
use regrow_graph::verify::{Change, Effect};

use super::super::abi::Check;
use super::{Call, Lift};

impl Call<'_, '_> {
    pub(super) fn arg(&self, index: usize) -> u64 {
        self.record.args[index]
    }

    pub(super) fn low(&self, index: usize) -> u32 {
        self.record.args[index] as u32
    }

    pub(super) fn fd(&self, index: usize) -> Lift<Fd> {
        let fd = self.low(index);
        if fd > i32::MAX as u32 { Err(format!("descriptor {}", fd as i32)) } else { Ok(fd) }
    }

    /// The call gives 0 or fails, and a failure is seen.
    pub(super) fn gives_zero(&self) -> Lift<()> {
        self.gives(0)
    }

    /// The call gives `value` or fails, and a failure is seen.
    pub(super) fn gives(&self, value: u64) -> Lift<()> {
        match self.check {
            Check::Equal if self.record.expect == value => Ok(()),
            Check::Equal => Err(format!("gives {value}, and {} is expected", self.record.expect as i64)),
            Check::Success => Ok(()),
            Check::Any => Err("its failure would not be seen".to_owned()),
        }
    }

    /// The call could give less than `value`: nothing but `value` may pass.
    pub(super) fn gives_exactly(&self, value: u64) -> Lift<()> {
        match self.check {
            Check::Equal => self.gives(value),
            Check::Success | Check::Any => Err(format!("a result other than {value} would not be seen")),
        }
    }

    /// Any success is as good as any other.
    pub(super) fn succeeds(&self) -> Lift<()> {
        match self.check {
            Check::Equal | Check::Success => Ok(()),
            Check::Any => Err("its failure would not be seen".to_owned()),
        }
    }

    /// The number that a call which opens a descriptor must give.
    pub(super) fn number(&self) -> Lift<Fd> {
        match self.check {
            Check::Equal => Fd::try_from(self.record.expect)
                .ok()
                .filter(|fd| *fd <= i32::MAX as u32)
                .ok_or_else(|| format!("descriptor {} is expected", self.record.expect as i64)),
            Check::Success | Check::Any => Err("its descriptor's number is not checked".to_owned()),
        }
    }

    pub(super) fn must_be_zero(&self, indices: &[usize]) -> Lift<()> {
        match indices.iter().find(|index| self.arg(**index) != 0) {
            Some(index) => Err(format!("argument {index} is {:#x}", self.arg(*index))),
            None => Ok(()),
        }
    }

    /// An absolute path, behind AT_FDCWD.
    pub(super) fn path_at_cwd(&self) -> Lift<Vec<u8>> {
        if self.low(0) as i32 != libc::AT_FDCWD {
            return Err(format!("relative to descriptor {}", self.low(0) as i32));
        }
        self.lifter.absolute_path(self.arg(1))
    }

    pub(super) fn object(&self, change: Change) -> Lift<Effect> {
        Ok(Effect::Object { fd: self.fd(0)?, change })
    }

    /// What the call does.
    pub(super) fn effect(&self) -> Lift<Effect> {
        for lift in [
            Self::descriptor,
            Self::object_change,
            Self::socket,
            Self::memory,
            Self::ring,
            Self::family,
            Self::ipc,
        ] {
            if let Some(effect) = lift(self)? {
                return Ok(effect);
            }
        }
        self.privilege().or_else(|| self.attribute()).unwrap_or_else(|| Err("not modelled".to_owned()))
    }
}

/// The name of a call, as far as the lifter knows it.
pub(super) fn name(nr: u16) -> String {
    let name = match libc::c_long::from(nr) {
        libc::SYS_openat => "openat",
        libc::SYS_pipe2 => "pipe2",
        libc::SYS_socketpair => "socketpair",
        libc::SYS_socket => "socket",
        libc::SYS_accept4 => "accept4",
        libc::SYS_bind => "bind",
        libc::SYS_listen => "listen",
        libc::SYS_connect => "connect",
        libc::SYS_unlinkat => "unlinkat",
        libc::SYS_fchmodat => "fchmodat",
        libc::SYS_fchownat => "fchownat",
        libc::SYS_eventfd2 => "eventfd2",
        libc::SYS_epoll_create1 => "epoll_create1",
        libc::SYS_epoll_ctl => "epoll_ctl",
        libc::SYS_timerfd_create => "timerfd_create",
        libc::SYS_timerfd_settime => "timerfd_settime",
        libc::SYS_signalfd4 => "signalfd4",
        libc::SYS_userfaultfd => "userfaultfd",
        libc::SYS_ioctl => "ioctl",
        libc::SYS_dup3 => "dup3",
        libc::SYS_dup2 => "dup2",
        libc::SYS_close => "close",
        libc::SYS_close_range => "close_range",
        libc::SYS_fcntl => "fcntl",
        libc::SYS_lseek => "lseek",
        libc::SYS_write => "write",
        libc::SYS_sendto => "sendto",
        libc::SYS_sendmsg => "sendmsg",
        libc::SYS_recvmsg => "recvmsg",
        libc::SYS_shutdown => "shutdown",
        libc::SYS_setsockopt => "setsockopt",
        libc::SYS_read => "read",
        libc::SYS_pread64 => "pread64",
        libc::SYS_preadv => "preadv",
        libc::SYS_process_vm_writev => "process_vm_writev",
        libc::SYS_flock => "flock",
        libc::SYS_ftruncate => "ftruncate",
        libc::SYS_memfd_create => "memfd_create",
        libc::SYS_mkdirat => "mkdirat",
        libc::SYS_mknodat => "mknodat",
        libc::SYS_linkat => "linkat",
        libc::SYS_renameat2 => "renameat2",
        libc::SYS_sendfile => "sendfile",
        libc::SYS_fchown => "fchown",
        libc::SYS_fchmod => "fchmod",
        libc::SYS_utimensat => "utimensat",
        libc::SYS_fchdir => "fchdir",
        libc::SYS_chroot => "chroot",
        libc::SYS_mmap => "mmap",
        libc::SYS_mremap => "mremap",
        libc::SYS_munmap => "munmap",
        libc::SYS_mprotect => "mprotect",
        libc::SYS_madvise => "madvise",
        libc::SYS_mlock => "mlock",
        libc::SYS_io_setup => "io_setup",
        libc::SYS_io_submit => "io_submit",
        libc::SYS_io_getevents => "io_getevents",
        libc::SYS_arch_prctl => "arch_prctl",
        libc::SYS_unshare => "unshare",
        libc::SYS_shmget => "shmget",
        libc::SYS_shmctl => "shmctl",
        libc::SYS_shmat => "shmat",
        libc::SYS_msgget => "msgget",
        libc::SYS_msgctl => "msgctl",
        libc::SYS_msgsnd => "msgsnd",
        libc::SYS_semget => "semget",
        libc::SYS_semctl => "semctl",
        libc::SYS_setsid => "setsid",
        libc::SYS_setpgid => "setpgid",
        libc::SYS_waitid => "waitid",
        libc::SYS_exit_group => "exit_group",
        libc::SYS_kill => "kill",
        libc::SYS_prctl => "prctl",
        libc::SYS_setresuid => "setresuid",
        libc::SYS_setresgid => "setresgid",
        libc::SYS_setgroups => "setgroups",
        libc::SYS_capset => "capset",
        libc::SYS_seccomp => "seccomp",
        libc::SYS_prlimit64 => "prlimit64",
        libc::SYS_umask => "umask",
        libc::SYS_chdir => "chdir",
        libc::SYS_rt_sigaction => "rt_sigaction",
        libc::SYS_rt_sigprocmask => "rt_sigprocmask",
        libc::SYS_rt_sigtimedwait => "rt_sigtimedwait",
        libc::SYS_sigaltstack => "sigaltstack",
        libc::SYS_rseq => "rseq",
        libc::SYS_membarrier => "membarrier",
        libc::SYS_rt_sigqueueinfo => "rt_sigqueueinfo",
        libc::SYS_rt_tgsigqueueinfo => "rt_tgsigqueueinfo",
        libc::SYS_sched_setscheduler => "sched_setscheduler",
        libc::SYS_setpriority => "setpriority",
        libc::SYS_setitimer => "setitimer",
        libc::SYS_timer_create => "timer_create",
        libc::SYS_timer_settime => "timer_settime",
        libc::SYS_set_robust_list => "set_robust_list",
        libc::SYS_set_tid_address => "set_tid_address",
        _ => return format!("system call {nr}"),
    };
    name.to_owned()
}
