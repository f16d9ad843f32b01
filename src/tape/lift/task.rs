//! Calls that make, end or change the task itself: family, attributes, privileges.

use regrow_graph::verify::{Attribute, Effect, PrivilegeEffect};

use super::{Call, GROUPS_MAX, Lift, PR_TIMER_CREATE_RESTORE_IDS, time};

impl Call<'_, '_> {
    /// Life, death, sessions, groups, and `prctl(2)`; `None`: the call is none of them.
    pub(super) fn family(&self) -> Lift<Option<Effect>> {
        let region = self.lifter;
        let effect: Lift<Effect> = match libc::c_long::from(self.record.nr) {
            libc::SYS_setsid => {
                self.gives(u64::from(self.pid))?;
                Ok(Effect::SetSid)
            }
            libc::SYS_setpgid => {
                self.gives_zero()?;
                if self.low(0) != 0 && self.low(0) != self.pid {
                    return Err(format!("of task {}", self.low(0)));
                }
                let pgid = if self.low(1) == 0 { self.pid } else { self.low(1) };
                Ok(Effect::SetPgid { pgid })
            }
            libc::SYS_waitid => {
                self.gives_zero()?;
                let [kind, pid, info, options, usage, _] = self.record.args;
                let options = options as i32;
                let how = if options & libc::WNOWAIT == 0 { libc::__WALL } else { libc::WNOWAIT };
                if kind as u32 != libc::P_PID || usage != 0 || options & !how != libc::WEXITED {
                    return Err(format!("id type {kind}, options {options:#x}, rusage {usage:#x}"));
                }
                if info != 0 {
                    region.output(info, 128)?;
                }
                Ok(Effect::AwaitExit { pid: pid as u32, reap: options & libc::WNOWAIT == 0 })
            }
            libc::SYS_exit_group => Ok(Effect::Exit { code: self.arg(0) as u8 }),
            libc::SYS_kill => {
                self.gives_zero()?;
                if self.low(0) != self.pid {
                    return Err(format!("of {}", self.low(0) as i32));
                }
                Ok(Effect::Kill { signal: self.low(1) })
            }

            libc::SYS_prctl => self.prctl(),
            _ => return Ok(None),
        };
        effect.map(Some)
    }

    fn prctl(&self) -> Lift<Effect> {
        self.gives_zero()?;
        let value = self.arg(1);
        let flag = || if value <= 1 { Ok(value == 1) } else { Err(format!("value {value}")) };
        let attribute = match self.low(0) as i32 {
            libc::PR_SET_NAME => {
                let name = self.lifter.text(value)?;
                Attribute::Name(name.get(..15).unwrap_or(name).to_vec())
            }
            libc::PR_SET_DUMPABLE => Attribute::Dumpable(value),
            libc::PR_SET_PDEATHSIG => Attribute::ParentDeathSignal(value),
            libc::PR_SET_CHILD_SUBREAPER => Attribute::Subreaper(value != 0),
            libc::PR_SET_THP_DISABLE => {
                self.must_be_zero(&[2, 3, 4])?;
                Attribute::ThpDisable(value != 0)
            }
            libc::PR_SET_TIMERSLACK => Attribute::TimerSlack(value),
            PR_TIMER_CREATE_RESTORE_IDS => Attribute::TimerIds(flag()?),
            libc::PR_SET_MM => return self.set_mm(),
            libc::PR_CAPBSET_DROP => return Ok(Effect::Privilege(PrivilegeEffect::DropBounding(value))),
            libc::PR_SET_SECUREBITS => return Ok(Effect::Privilege(PrivilegeEffect::Securebits(value))),
            libc::PR_SET_KEEPCAPS => return Ok(Effect::Privilege(PrivilegeEffect::KeepCaps(flag()?))),
            libc::PR_SET_NO_NEW_PRIVS if value == 1 => {
                return Ok(Effect::Privilege(PrivilegeEffect::NoNewPrivs));
            }
            libc::PR_CAP_AMBIENT if value == libc::PR_CAP_AMBIENT_RAISE as u64 => {
                return Ok(Effect::Privilege(PrivilegeEffect::RaiseAmbient(self.arg(2))));
            }
            option => return Err(format!("option {option}, value {value:#x}")),
        };
        Ok(Effect::Attribute(attribute))
    }

    fn ids(&self) -> [Option<u32>; 3] {
        std::array::from_fn(|index| Some(self.low(index)).filter(|id| *id != u32::MAX))
    }

    /// Credentials, limits, filters; `None`: the call is none of them.
    pub(super) fn privilege(&self) -> Option<Lift<Effect>> {
        let effect = match libc::c_long::from(self.record.nr) {
            libc::SYS_setresuid => self.gives_zero().map(|()| PrivilegeEffect::Uids(self.ids())),
            libc::SYS_setresgid => self.gives_zero().map(|()| PrivilegeEffect::Gids(self.ids())),
            // They give the old id, and never say that they fail.
            libc::SYS_setfsuid => Ok(PrivilegeEffect::FsUid(self.low(0))),
            libc::SYS_setfsgid => Ok(PrivilegeEffect::FsGid(self.low(0))),
            libc::SYS_setgroups => self.gives_zero().and_then(|()| {
                let count = self.arg(0);
                if count > GROUPS_MAX {
                    return Err(format!("{count} groups"));
                }
                self.lifter.u32s(self.arg(1), count).map(PrivilegeEffect::Groups)
            }),
            libc::SYS_capset => self.gives_zero().and_then(|()| self.capset()),
            libc::SYS_seccomp => self.seccomp().map(PrivilegeEffect::Seccomp),
            libc::SYS_prlimit64 => self.gives_zero().and_then(|()| {
                if self.low(0) != 0 && self.low(0) != self.pid || self.arg(2) == 0 || self.arg(3) != 0 {
                    return Err(format!(
                        "of task {}, new at {:#x}, old at {:#x}",
                        self.low(0),
                        self.arg(2),
                        self.arg(3)
                    ));
                }
                let [soft, hard] = self.lifter.array::<2>(self.arg(2))?;
                Ok(PrivilegeEffect::Limit { resource: self.low(1), soft, hard })
            }),
            _ => return None,
        };
        Some(effect.map(Effect::Privilege))
    }

    fn capset(&self) -> Lift<PrivilegeEffect> {
        /// _LINUX_CAPABILITY_VERSION_3
        const VERSION: u32 = 0x2008_0522;
        let header = self.lifter.u32s(self.arg(0), 2)?;
        if header[0] != VERSION || header[1] != 0 && header[1] != self.pid {
            return Err(format!("version {:#x}, pid {}", header[0], header[1]));
        }
        let sets = self.lifter.u32s(self.arg(1), 6)?;
        let [effective, permitted, inheritable] =
            std::array::from_fn(|i| u64::from(sets[i]) | u64::from(sets[i + 3]) << 32);
        Ok(PrivilegeEffect::Capabilities { effective, permitted, inheritable })
    }

    /// Attributes; `None`: the call sets none.
    pub(super) fn attribute(&self) -> Option<Lift<Effect>> {
        let region = self.lifter;
        let attribute = match libc::c_long::from(self.record.nr) {
            // They give the old value and do not fail.
            libc::SYS_umask => Ok(Attribute::Umask(self.low(0) & 0o777)),
            libc::SYS_personality => Ok(Attribute::Personality(self.low(0))),
            libc::SYS_set_tid_address => Ok(Attribute::TidAddress(self.arg(0))),
            libc::SYS_chdir => self
                .gives_zero()
                .and_then(|()| region.absolute_path(self.arg(0)))
                .map(Attribute::WorkingDirectory),
            libc::SYS_chroot => self
                .gives_zero()
                .and_then(|()| region.absolute_path(self.arg(0)))
                .map(Attribute::RootDirectory),
            libc::SYS_rt_sigaction => self.gives_zero().and_then(|()| {
                if self.arg(2) != 0
                    || self.arg(3) != 8
                    || self.arg(1) == 0
                    || !(1..=64).contains(&self.arg(0))
                {
                    return Err(format!(
                        "signal {}, old at {:#x}, sets of {} bytes",
                        self.arg(0),
                        self.arg(2),
                        self.arg(3)
                    ));
                }
                let [handler, flags, restorer, mask] = region.array::<4>(self.arg(1))?;
                Ok(Attribute::SigAction { signal: self.low(0), handler, flags, restorer, mask })
            }),
            libc::SYS_rt_sigprocmask => self.gives_zero().and_then(|()| {
                if self.low(0) > 2 || self.arg(1) == 0 || self.arg(2) != 0 || self.arg(3) != 8 {
                    return Err(format!(
                        "how {}, old at {:#x}, sets of {} bytes",
                        self.low(0),
                        self.arg(2),
                        self.arg(3)
                    ));
                }
                let [set] = region.array::<1>(self.arg(1))?;
                Ok(Attribute::SigMask { how: self.low(0), set })
            }),
            libc::SYS_rt_sigtimedwait => self.eat_signal(),
            libc::SYS_sigaltstack => self.gives_zero().and_then(|()| {
                self.must_be_zero(&[1])?;
                let [sp, flags, len] = region.array::<3>(self.arg(0))?;
                Ok(Attribute::AltStack { sp, flags: flags as u32, len })
            }),
            libc::SYS_set_robust_list => {
                self.gives_zero().map(|()| Attribute::RobustList { head: self.arg(0), len: self.arg(1) })
            }
            libc::SYS_rseq => self.gives_zero().map(|()| Attribute::Rseq {
                address: self.arg(0),
                len: self.low(1),
                flags: self.low(2),
                signature: self.low(3),
            }),
            libc::SYS_membarrier => self.gives_zero().and_then(|()| {
                self.must_be_zero(&[1])?;
                // The commands that register: MEMBARRIER_CMD_REGISTER_* (linux/membarrier.h).
                match self.low(0) {
                    command @ (4 | 16 | 64 | 256) => Ok(Attribute::Membarrier(command)),
                    2 => Ok(Attribute::Membarrier(2)),
                    command => Err(format!("command {command}")),
                }
            }),
            libc::SYS_setitimer => self.gives_zero().and_then(|()| {
                self.must_be_zero(&[2])?;
                let [interval_s, interval, value_s, value] = region.array::<4>(self.arg(1))?;
                Ok(Attribute::IntervalTimer {
                    which: self.low(0),
                    interval_us: time(interval_s, interval, 1_000_000)?,
                    value_us: time(value_s, value, 1_000_000)?,
                })
            }),
            libc::SYS_timer_create => self.gives_zero().and_then(|()| {
                let id = region.cell(self.arg(2))?;
                let event =
                    if self.arg(1) == 0 { Vec::new() } else { region.input(self.arg(1), 64)?.to_vec() };
                Ok(Attribute::TimerCreate { clock: self.low(0), event, id })
            }),
            libc::SYS_timer_settime => self.gives_zero().and_then(|()| {
                self.must_be_zero(&[3])?;
                let [interval_s, interval, value_s, value] = region.array::<4>(self.arg(2))?;
                Ok(Attribute::TimerSet {
                    id: self.low(0),
                    flags: self.low(1),
                    interval_ns: time(interval_s, interval, 1_000_000_000)?,
                    value_ns: time(value_s, value, 1_000_000_000)?,
                })
            }),
            libc::SYS_rt_sigqueueinfo => self.queue_signal(None, 1),
            libc::SYS_rt_tgsigqueueinfo => self.queue_signal(Some(self.low(1)), 2),
            libc::SYS_setpriority => self.gives_zero().and_then(|()| {
                if self.low(0) != libc::PRIO_PROCESS || self.low(1) != 0 && self.low(1) != self.pid {
                    return Err(format!("which {}, who {}", self.low(0), self.low(1)));
                }
                Ok(Attribute::Nice(self.low(2) as i32))
            }),
            libc::SYS_sched_setscheduler => self.gives_zero().and_then(|()| {
                if self.low(0) != 0 && self.low(0) != self.pid {
                    return Err(format!("of task {}", self.low(0)));
                }
                Ok(Attribute::Scheduler { policy: self.low(1), priority: region.u32s(self.arg(2), 1)?[0] })
            }),
            _ => return None,
        };
        Some(attribute.map(Effect::Attribute))
    }

    /// The signal is argument `at`, the `siginfo_t` the one behind it.
    fn queue_signal(&self, tid: Option<u32>, at: usize) -> Lift<Attribute> {
        self.gives_zero()?;
        let info = self.lifter.input(self.arg(at + 1), 128)?.to_vec();
        Ok(Attribute::QueueSignal { pid: self.low(0), tid, signal: self.low(at), info })
    }

    fn eat_signal(&self) -> Lift<Attribute> {
        let [set_at, info, timeout, size, ..] = self.record.args;
        if size != 8 || info != 0 {
            return Err(format!("info at {info:#x}, sets of {size} bytes"));
        }
        if timeout == 0 || self.lifter.array::<2>(timeout)? != [0, 0] {
            return Err("may block".to_owned());
        }
        let [set] = self.lifter.array::<1>(set_at)?;
        Ok(Attribute::EatSignal { set })
    }
}
