//! What a task sets on itself, and how a zombie dies.

use regrow_graph::ids::Fd;

use super::Lowering;
use crate::image::PosixTimer;
use crate::resolve::Recipes;
use crate::resolve::recipe::{FileLock, StepKind, StepRecipe};

/// Signal sets of the kernel have eight bytes.
const SIGSET_SIZE: u64 = 8;

/// `PR_TIMER_CREATE_RESTORE_IDS` (uapi/linux/prctl.h, since Linux 6.15).
const RESTORE_IDS: i32 = 77;

/// How many words that calls write to the steps take: the kernel reads and writes each timer's id.
pub(super) fn cells(recipes: &Recipes) -> usize {
    let count = |step: &StepRecipe| match &step.kind {
        StepKind::PosixTimers(timers) => timers.len(),
        _ => 0,
    };
    recipes.steps.iter().map(count).sum()
}

impl Lowering<'_> {
    /// `timer_create(2)` with the ids of our choice.
    fn posix_timers(&mut self, timers: &[PosixTimer]) {
        self.prctl(RESTORE_IDS, 1);
        for timer in timers {
            let id = self.asm.cell(u64::from(timer.id));
            // struct sigevent: value; signal and kind of notice; thread.
            let notice = u64::from(timer.signo) | u64::from(timer.notify) << 32;
            let mut event = [0; 8];
            event[..3].copy_from_slice(&[timer.sival_ptr, notice, timer.notify_tid.unwrap_or(0) as u64]);
            let event = self.asm.words(&event);
            self.tape.call(libc::SYS_timer_create, &[u64::from(timer.clock_id), event, id], 0);
        }
        self.prctl(RESTORE_IDS, 0);
    }

    pub(super) fn step(&mut self, kind: &StepKind, fds: &[Fd]) {
        match kind {
            StepKind::Bare => self.bare(),
            StepKind::NewIpcNamespace => self.new_ipc_namespace(),
            StepKind::Vacate => self.vacate(),
            StepKind::Unmap { start, len } => self.unmap(*start, *len),
            StepKind::SigAction { signal, action } => {
                let buffer = self.asm.words(&[action.handler, action.flags, action.restorer, action.mask]);
                self.tape.call(libc::SYS_rt_sigaction, &[u64::from(*signal), buffer, 0, SIGSET_SIZE], 0);
            }
            // The result is the old mask.
            StepKind::Umask(mask) => self.tape.call_ok(libc::SYS_umask, &[u64::from(*mask)]),
            StepKind::Chdir(path) => {
                let path = self.asm.text(path.as_bytes());
                self.tape.call(libc::SYS_chdir, &[path], 0);
            }
            StepKind::EnterDirectory => {
                let fd = fds.first().map_or(u64::MAX, |fd| u64::from(*fd));
                self.tape.call(libc::SYS_fchdir, &[fd], 0);
            }
            StepKind::Chroot(path) => {
                let path = self.asm.text(path.as_bytes());
                self.tape.call(libc::SYS_chroot, &[path], 0);
            }
            StepKind::Comm(name) => {
                let name = self.asm.text(name.as_bytes());
                self.prctl(libc::PR_SET_NAME, name);
            }
            // The result is the old personality.
            StepKind::Personality(persona) => {
                self.tape.call_ok(libc::SYS_personality, &[u64::from(*persona)])
            }
            StepKind::Mmap { start, len, prot, flags, file_offset } => {
                self.mmap(*start, *len, *prot, *flags, *file_offset, fds)
            }
            StepKind::Ring(ring) => self.ring(ring, fds),
            StepKind::MapShared { from, start, len } => self.map_shared(*from, *start, *len),
            StepKind::AttachHuge(view) => self.attach_huge(view),
            StepKind::Grow { start, len, new_len } => {
                self.tape.call(libc::SYS_mremap, &[*start, *len, *new_len, 0], *start)
            }
            StepKind::Mprotect { start, len, prot } => {
                self.tape.call(libc::SYS_mprotect, &[*start, *len, u64::from(*prot)], 0)
            }
            StepKind::Madvise { start, len, advice } => {
                self.tape.call(libc::SYS_madvise, &[*start, *len, u64::from(*advice)], 0)
            }
            StepKind::Mlock { start, len } => self.tape.call(libc::SYS_mlock, &[*start, *len], 0),
            StepKind::MapVdso { start } => self.map_vdso(*start),
            StepKind::Poke { pid, pieces } => self.poke(*pid, pieces),
            StepKind::Copy(copying) => self.copy(copying, fds),
            StepKind::Fill { pieces, offset } => self.fill(pieces, *offset, fds),
            StepKind::SetMm(map) => self.set_mm(map, fds),
            StepKind::AltStack(sas) => {
                let buffer = self.asm.words(&[sas.sp, u64::from(sas.flags), sas.size_bytes]);
                self.tape.call(libc::SYS_sigaltstack, &[buffer, 0], 0);
            }
            StepKind::RobustList { head, len } => {
                self.tape.call(libc::SYS_set_robust_list, &[*head, *len], 0)
            }
            StepKind::TidAddress { address, pid } => {
                self.tape.call(libc::SYS_set_tid_address, &[*address], u64::from(*pid))
            }
            StepKind::Rseq { address, len, signature } => {
                self.tape.call(libc::SYS_rseq, &[*address, u64::from(*len), 0, u64::from(*signature)], 0);
            }
            StepKind::Dumpable(value) => self.prctl(libc::PR_SET_DUMPABLE, u64::from(*value)),
            StepKind::ThpDisable(is) => self.prctl(libc::PR_SET_THP_DISABLE, u64::from(*is)),
            StepKind::ChildSubreaper(is_one) => {
                self.prctl(libc::PR_SET_CHILD_SUBREAPER, u64::from(*is_one));
            }
            StepKind::ParentDeathSignal(signal) => self.prctl(libc::PR_SET_PDEATHSIG, u64::from(*signal)),
            StepKind::TimerSlack(slack_ns) => self.prctl(libc::PR_SET_TIMERSLACK, *slack_ns),
            StepKind::Lock { fd, lock } => self.lock(*fd, *lock),
            StepKind::Nice(nice) => {
                self.tape.call(
                    libc::SYS_setpriority,
                    &[u64::from(libc::PRIO_PROCESS), 0, i64::from(*nice) as u64],
                    0,
                );
            }
            StepKind::Scheduler { policy, priority } => {
                let parameters = self.asm.data(&priority.to_ne_bytes(), 4);
                self.tape.call(libc::SYS_sched_setscheduler, &[0, u64::from(*policy), parameters], 0);
            }
            StepKind::Write(bytes) => {
                let fd = fds.first().map_or(u64::MAX, |fd| u64::from(*fd));
                let buffer = self.asm.data(bytes, 1);
                self.tape.call(libc::SYS_write, &[fd, buffer, bytes.len() as u64], bytes.len() as u64);
            }
            StepKind::QueueSignal { pid, tid, signal, info } => {
                let info = self.asm.data(info, 8);
                let (pid, signal) = (u64::from(*pid), u64::from(*signal));
                match tid {
                    None => self.tape.call(libc::SYS_rt_sigqueueinfo, &[pid, signal, info], 0),
                    Some(tid) => {
                        self.tape.call(libc::SYS_rt_tgsigqueueinfo, &[pid, u64::from(*tid), signal, info], 0)
                    }
                }
            }
            StepKind::IntervalTimer { which, interval_us, value_us } => {
                let split = |us: &u64| [us / 1_000_000, us % 1_000_000];
                let value = self.asm.words(&[split(interval_us), split(value_us)].concat());
                self.tape.call(libc::SYS_setitimer, &[u64::from(*which), value, 0], 0);
            }
            StepKind::PosixTimers(timers) => self.posix_timers(timers),
            StepKind::ArmTimer(timer) => {
                let split = |ns: u64| [ns / 1_000_000_000, ns % 1_000_000_000];
                let value = self.asm.words(&[split(timer.interval_ns), split(timer.value_ns)].concat());
                self.tape.call(libc::SYS_timer_settime, &[u64::from(timer.id), 0, value, 0], 0);
            }
            StepKind::Membarrier(commands) => {
                for bit in (0..32).filter(|bit| commands >> bit & 1 == 1) {
                    self.tape.call(libc::SYS_membarrier, &[1 << bit, 0, 0], 0);
                }
            }
            StepKind::Watch { epoll, target, events, data } => {
                let epoll = epoll.or(fds.first().copied()).unwrap_or(Fd::MAX);
                self.watch(epoll, *target, *events, *data);
            }
            StepKind::ArmTimerfd { fd, flags, value_ns, interval_ns, ticks, .. } => {
                self.arm_timerfd(*fd, *flags, *value_ns, *interval_ns, *ticks);
            }
            StepKind::Owner { fd, fown, own_uids } => self.owner(*fd, fown, *own_uids),
            StepKind::FillPair(ends) => self.fill_pair(ends, fds),
            StepKind::Credentials(credentials) => self.credentials(credentials),
            StepKind::SeccompStrict => self.seccomp_strict(),
            StepKind::SeccompFilters(filters) => self.seccomp_filters(filters),
            StepKind::RLimit { resource, cur, max } => {
                let limit = self.asm.words(&[*cur, *max]);
                self.tape.call(libc::SYS_prlimit64, &[0, u64::from(*resource), limit, 0], 0);
            }
        }
    }

    /// `flock(2)`, `fcntl(2)` with `struct flock`; neither waits.
    fn lock(&mut self, fd: Fd, lock: FileLock) {
        match lock {
            FileLock::Whole { operation } => {
                let operation = (operation | libc::LOCK_NB) as u64;
                self.tape.call(libc::SYS_flock, &[u64::from(fd), operation], 0);
            }
            FileLock::Lease { kind } => {
                let args = [u64::from(fd), libc::F_SETLEASE as u64, u64::from(kind as u16)];
                self.tape.call(libc::SYS_fcntl, &args, 0);
            }
            FileLock::Range { is_ofd, kind, start, len } => {
                // l_type, l_whence (SEEK_SET); l_start, l_len; l_pid, which must be 0.
                let range = self.asm.words(&[u64::from(kind as u16), start as u64, len as u64, 0]);
                let command = if is_ofd { libc::F_OFD_SETLK } else { libc::F_SETLK };
                self.tape.call(libc::SYS_fcntl, &[u64::from(fd), command as u64, range], 0);
            }
        }
    }

    pub(super) fn prctl(&mut self, option: i32, value: u64) {
        self.tape.call(libc::SYS_prctl, &[option as u64, value, 0, 0, 0], 0);
    }

    /// A zombie's end. One that was killed dies of the same signal, without a core file: not dumpable,
    /// the signal at its default and let through.
    pub(super) fn exit(&mut self) {
        let recipe = &self.recipes.tasks[self.task.index()];
        let code = u64::from(recipe.exit_code.unwrap_or(0));
        let signal = code & 0x7f;
        if signal == 0 {
            return self.tape.call(libc::SYS_exit_group, &[code >> 8 & 0xff], 0);
        }
        self.prctl(libc::PR_SET_DUMPABLE, 0);
        if signal != libc::SIGKILL as u64 {
            let default = self.asm.words(&[0, 0, 0, 0]);
            self.tape.call(libc::SYS_rt_sigaction, &[signal, default, 0, SIGSET_SIZE], 0);
        }
        let pid = u64::from(recipe.pid.0);
        let none = self.asm.words(&[0]);
        self.tape.call(libc::SYS_rt_sigprocmask, &[libc::SIG_SETMASK as u64, none, 0, SIGSET_SIZE], 0);
        self.tape.call(libc::SYS_kill, &[pid, signal], 0);
        self.tape.never();
    }
}
