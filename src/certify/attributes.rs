//! What the images say of every attribute, and what the root inherits of the launcher: two inputs of the
//! checker, made without the planner.
//!
//! Worked example: a task of one thread with the umask 077 has `(Umask, Number(0o077))` among those of
//! its own pid; that the launcher's nice value is 5 is `(Nice, Number(5))` among what is inherited.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use regrow_graph::ids::OfdId;
use regrow_graph::verify::attribute::{Action, Limit, Pending, TABLE, Timer, timer_event};
use regrow_graph::verify::{AttributeKind as Kind, InodeId, Value};

use super::CgroupGround;
use crate::host::HostFacts;
use crate::image::{Alive, Creds, Model, OfdKind, Task, Thread};

/// SECBIT_KEEP_CAPS (linux/securebits.h).
const KEEP_CAPS: u32 = 1 << 4;
/// Signals that cannot be blocked: SIGKILL and SIGSTOP.
const UNBLOCKABLE: u64 = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);

/// What a child of the launcher starts with: facts about this host, on which a certificate may rely.
#[derive(Debug, Clone, Default)]
pub struct Inherited(pub Vec<(Kind, Value)>);

impl Inherited {
    /// From what has been found out about this process, which is like the launcher but for what the
    /// launcher does before it clones the root: it raises its soft limit of descriptors to the hard one
    /// and takes back its area for restartable sequences.
    pub fn of(facts: &HostFacts) -> Inherited {
        let own = &facts.own;
        let mut all: Vec<(Kind, Value)> = Vec::new();
        let mut limits = own.rlimits.map(|limit| limit.map(|limit| Limit::new(limit.cur, limit.max)));
        if let Some(limit) = &mut limits[libc::RLIMIT_NOFILE as usize] {
            limit.soft = limit.hard;
        }
        all.push((Kind::Limits, Value::Limits(Arc::new(limits))));
        all.push((Kind::Rseq, Value::Nothing));
        // Values say where it is not the caller's.
        all.push((Kind::Cgroups, Value::Nothing));
        // A program that has been executed is registered for nothing (membarrier(2)), and regrow never
        // asks to be.
        all.push((Kind::Membarrier, Value::Number(0)));
        // Paths of the images start where ours do.
        all.push((Kind::RootDirectory, Value::bytes(b"/")));

        let mut number = |kind: Kind, value: Option<u64>| {
            all.extend(value.map(|value| (kind, Value::Number(value))));
        };
        number(Kind::Personality, own.personality.map(u64::from));
        number(Kind::Dumpable, own.dumpable.map(u64::from));
        number(Kind::ThpDisable, own.thp_disabled.map(u64::from));
        number(Kind::TimerSlack, own.timer_slack_ns);
        number(Kind::LoginUid, own.loginuid.map(u64::from));
        number(Kind::NoNewPrivs, own.no_new_privs.map(u64::from));
        number(Kind::Seccomp, own.seccomp_mode.map(u64::from));
        number(Kind::Securebits, own.securebits.map(|bits| u64::from(bits & !KEEP_CAPS)));
        number(Kind::KeepCaps, own.securebits.map(|bits| u64::from(bits & KEEP_CAPS != 0)));
        let ids = [
            (own.uids, [Kind::Uid, Kind::EffectiveUid, Kind::SavedUid, Kind::FsUid]),
            (own.gids, [Kind::Gid, Kind::EffectiveGid, Kind::SavedGid, Kind::FsGid]),
        ];
        for (ids, kinds) in ids {
            let values = ids.map(|ids| [ids.real, ids.effective, ids.saved, ids.fs]);
            for (at, kind) in kinds.into_iter().enumerate() {
                number(kind, values.map(|values| u64::from(values[at])));
            }
        }
        if own.uids.is_some() {
            // Read together with them.
            number(Kind::CapEffective, Some(own.caps.effective));
            number(Kind::CapPermitted, Some(own.caps.permitted));
            number(Kind::CapInheritable, Some(own.caps.inheritable));
            number(Kind::CapBounding, Some(own.caps.bounding));
            number(Kind::CapAmbient, Some(own.caps.ambient));
        }
        all.extend(own.groups.as_ref().map(|groups| (Kind::Groups, Value::groups(groups))));
        all.extend(own.nice.map(|nice| (Kind::Nice, Value::signed(nice))));
        all.extend(own.oom_score_adj.map(|score| (Kind::OomScoreAdj, Value::signed(score))));
        if let (Some(policy), Some(priority)) = (own.sched_policy, own.sched_priority) {
            all.push((Kind::Scheduler, Value::numbers(&[policy.into(), priority.into()])));
        }
        Inherited(all)
    }

    fn has(&self, kind: Kind) -> bool {
        self.0.iter().any(|(other, _)| *other == kind)
    }
}

/// What is looked up for the attributes of a task.
pub(super) struct Images<'a> {
    pub(super) model: &'a Model,
    pub(super) index_of: &'a HashMap<u32, OfdId>,
    pub(super) ghost_of: &'a BTreeMap<u32, InodeId>,
    /// Files whose names lead elsewhere now.
    pub(super) remapped: &'a BTreeSet<u32>,
    pub(super) inherited: &'a Inherited,
    pub(super) cgroups: &'a CgroupGround,
}

impl Images<'_> {
    /// What the images say of a task's attributes, by thread.
    ///
    /// # Errors
    /// In words: what the images say cannot be compared.
    pub(super) fn attributes(&self, task: &Task) -> Result<BTreeMap<u32, Vec<(Kind, Value)>>, String> {
        let Some(alive) = task.alive() else {
            // Of the dead only the name shows.
            let name = match &task.state {
                crate::image::TaskState::Zombie { comm, .. } => comm,
                crate::image::TaskState::Alive(alive) | crate::image::TaskState::Stopped(alive) => {
                    &alive.comm
                }
            };
            return Ok(BTreeMap::from([(task.pid.0, vec![(Kind::Name, Value::bytes(name.as_bytes()))])]));
        };
        let mut all = BTreeMap::new();
        for thread in &alive.threads {
            let is_leader = thread.tid == task.pid;
            let mut said = Vec::with_capacity(TABLE.len());
            for row in &TABLE {
                let value = match row.scope {
                    regrow_graph::verify::attribute::Scope::Task if is_leader => {
                        self.of_task(row.kind, alive)?
                    }
                    regrow_graph::verify::attribute::Scope::Task => None,
                    regrow_graph::verify::attribute::Scope::Thread => {
                        self.of_thread(row.kind, alive, thread, is_leader)
                    }
                };
                said.extend(value.map(|value| (row.kind, value)));
            }
            all.insert(thread.tid.0, said);
        }
        Ok(all)
    }

    /// An attribute of a whole task; `None`: the images do not say.
    fn of_task(&self, kind: Kind, alive: &Alive) -> Result<Option<Value>, String> {
        let mm = &alive.mm;
        let flag = |flag: bool| Some(Value::Number(flag.into()));
        Ok(match kind {
            Kind::Umask => Some(Value::Number(u64::from(alive.umask))),
            Kind::WorkingDirectory => Some(self.file(alive.fs.cwd_id, "working directory")?),
            Kind::RootDirectory => Some(self.file(alive.fs.root_id, "root directory")?),
            Kind::Dumpable => mm.dumpable.map(|value| Value::Number(value as u64)),
            Kind::Subreaper => flag(alive.child_subreaper),
            Kind::ThpDisable => flag(mm.thp_disabled),
            Kind::SigActions => Some(actions(alive)),
            Kind::Membarrier => Some(Value::membarrier(alive.membarrier)),
            Kind::IntervalTimers => Some(Value::interval_timers(alive.timers.itimers)),
            Kind::PosixTimers => Some(posix_timers(alive)),
            // Only the restore needs it.
            Kind::TimerIds => flag(false),
            Kind::PendingShared => Some(pending(&alive.pending_shared)),
            Kind::Limits => (!alive.rlimits.is_empty()).then(|| limits(alive)),
            Kind::OomScoreAdj => Some(Value::signed(alive.oom_score_adj)),
            Kind::Cgroups => self.cgroups.of_task(self.model, alive)?,
            Kind::MmLayout => Some(Value::numbers(&[
                mm.start_code,
                mm.end_code,
                mm.start_data,
                mm.end_data,
                mm.start_brk,
                mm.brk,
                mm.start_stack,
                mm.arg_start,
                mm.arg_end,
                mm.env_start,
                mm.env_end,
            ])),
            Kind::AuxiliaryVector => {
                let bytes: Vec<u8> = mm.auxv.iter().flat_map(|word| word.to_ne_bytes()).collect();
                Some(Value::bytes(&bytes))
            }
            Kind::Executable => Some(self.file(mm.exe_file_id, "executable")?),
            Kind::Name
            | Kind::Personality
            | Kind::ParentDeathSignal
            | Kind::TimerSlack
            | Kind::DefaultTimerSlack
            | Kind::SigMask
            | Kind::AltStack
            | Kind::RobustList
            | Kind::TidAddress
            | Kind::Rseq
            | Kind::Pending
            | Kind::Nice
            | Kind::Scheduler
            | Kind::LoginUid
            | Kind::Uid
            | Kind::EffectiveUid
            | Kind::SavedUid
            | Kind::FsUid
            | Kind::Gid
            | Kind::EffectiveGid
            | Kind::SavedGid
            | Kind::FsGid
            | Kind::Groups
            | Kind::CapEffective
            | Kind::CapPermitted
            | Kind::CapInheritable
            | Kind::CapBounding
            | Kind::CapAmbient
            | Kind::Securebits
            | Kind::KeepCaps
            | Kind::NoNewPrivs
            | Kind::Seccomp => None,
        })
    }

    /// An attribute of a thread; `None`: the images do not say.
    fn of_thread(&self, kind: Kind, alive: &Alive, thread: &Thread, is_leader: bool) -> Option<Value> {
        let number = |number: u64| Some(Value::Number(number));
        let id = |of: fn(&Creds) -> u32| Some(Value::Number(of(thread.creds.as_deref()?).into()));
        let set = |of: fn(&Creds) -> u64| Some(Value::Number(of(thread.creds.as_deref()?)));
        match kind {
            Kind::Name => {
                // A leader's is its task's (criu/cr-dump.c).
                let own = thread.comm.as_ref().filter(|_| !is_leader);
                Some(Value::bytes(own.unwrap_or(&alive.comm).as_bytes()))
            }
            Kind::Personality => number(alive.personality.into()),
            Kind::ParentDeathSignal => number(thread.pdeath_sig.into()),
            Kind::TimerSlack => thread.timer_slack_ns.map(Value::Number),
            // The images do not have it.
            Kind::DefaultTimerSlack => None,
            // Everything, so that nothing comes through before the commit sets what the images say.
            Kind::SigMask => number(!UNBLOCKABLE),
            Kind::AltStack => Some(Value::alt_stack(thread.sas.sp, thread.sas.flags, thread.sas.size_bytes)),
            Kind::RobustList => Some(Value::robust_list(thread.robust_list.0, thread.robust_list.1)),
            Kind::TidAddress => number(thread.clear_tid_addr),
            Kind::Rseq => Some(match &thread.rseq {
                Some(rseq) => Value::rseq(rseq.address, rseq.size_bytes, rseq.signature),
                None => Value::Nothing,
            }),
            Kind::Pending => Some(pending(&thread.pending)),
            Kind::Nice => Some(Value::signed(thread.sched.nice)),
            Kind::Scheduler => {
                Some(Value::numbers(&[thread.sched.policy.into(), thread.sched.priority.into()]))
            }
            // On a kernel without auditing there is none.
            Kind::LoginUid if !self.inherited.has(Kind::LoginUid) => None,
            Kind::LoginUid => alive.loginuid.map(|uid| Value::Number(uid.into())),
            Kind::Uid => id(|creds| creds.uid),
            Kind::EffectiveUid => id(|creds| creds.euid),
            Kind::SavedUid => id(|creds| creds.suid),
            Kind::FsUid => id(|creds| creds.fsuid),
            Kind::Gid => id(|creds| creds.gid),
            Kind::EffectiveGid => id(|creds| creds.egid),
            Kind::SavedGid => id(|creds| creds.sgid),
            Kind::FsGid => id(|creds| creds.fsgid),
            Kind::Groups => thread.creds.as_ref().map(|creds| Value::groups(&creds.groups)),
            Kind::CapEffective => set(|creds| creds.cap_eff),
            Kind::CapPermitted => set(|creds| creds.cap_prm),
            Kind::CapInheritable => set(|creds| creds.cap_inh),
            Kind::CapBounding => set(|creds| creds.cap_bnd),
            Kind::CapAmbient => set(|creds| creds.cap_amb),
            Kind::Securebits => id(|creds| creds.securebits & !KEEP_CAPS),
            Kind::KeepCaps => id(|creds| u32::from(creds.securebits & KEEP_CAPS != 0)),
            Kind::NoNewPrivs => id(|creds| creds.no_new_privs.into()),
            Kind::Seccomp if thread.seccomp_mode == 0 && self.filters_all(alive) => number(2),
            Kind::Seccomp => number(thread.seccomp_mode.into()),
            Kind::Umask
            | Kind::WorkingDirectory
            | Kind::RootDirectory
            | Kind::Dumpable
            | Kind::Subreaper
            | Kind::ThpDisable
            | Kind::SigActions
            | Kind::Membarrier
            | Kind::IntervalTimers
            | Kind::PosixTimers
            | Kind::TimerIds
            | Kind::PendingShared
            | Kind::Limits
            | Kind::OomScoreAdj
            | Kind::Cgroups
            | Kind::MmLayout
            | Kind::AuxiliaryVector
            | Kind::Executable => None,
        }
    }

    /// Whether the filters of the first thread are those of all.
    fn filters_all(&self, alive: &Alive) -> bool {
        const TSYNC: u32 = libc::SECCOMP_FILTER_FLAG_TSYNC as u32;
        let first = alive.threads.first().and_then(|first| first.seccomp_filter);
        let filter = first.and_then(|index| self.model.seccomp_filters.get(index as usize));
        filter.is_some_and(|filter| filter.flags & TSYNC != 0)
    }

    /// A file by its number in files.img: its path, or what it is where it has no name.
    fn file(&self, id: u32, what: &str) -> Result<Value, String> {
        if let Some(inode) = self.ghost_of.get(&id) {
            return Ok(Value::Inode(*inode));
        }
        let missing = || format!("its {what}, file {id:#x}, is not in files.img as a file with a name");
        let ofd =
            self.index_of.get(&id).and_then(|ofd| self.model.ofds.get(ofd.index())).ok_or_else(missing)?;
        match &ofd.kind {
            OfdKind::Reg(_) if self.remapped.contains(&id) => {
                Err(format!("the name of its {what} was replaced, or its process is gone"))
            }
            OfdKind::Reg(file) => Ok(Value::bytes(file.path.as_bytes())),
            OfdKind::Memfd(memfd) => Ok(Value::Inode(InodeId::Memfd(memfd.inode_id))),
            _ => Err(missing()),
        }
    }
}

fn actions(alive: &Alive) -> Value {
    let mut all = [Some(Action::default()); 64];
    for (place, action) in all.iter_mut().zip(&alive.sigactions) {
        *place = Some(Action {
            handler: action.handler,
            flags: action.flags,
            restorer: action.restorer,
            mask: action.mask,
        });
    }
    Value::Actions(Arc::new(all))
}

fn limits(alive: &Alive) -> Value {
    let mut all = [None; 16];
    for (place, limit) in all.iter_mut().zip(&alive.rlimits) {
        *place = Some(Limit::new(limit.cur, limit.max));
    }
    Value::Limits(Arc::new(all))
}

/// A timer that is not armed has no interval (timer_settime(2)).
fn posix_timers(alive: &Alive) -> Value {
    let timer = |timer: &crate::image::PosixTimer| {
        let thread = timer.notify_tid.unwrap_or(0) as u32;
        let event = timer_event(timer.sival_ptr, timer.signo.into(), timer.notify.into(), thread.into());
        let times_ns = if timer.value_ns == 0 { (0, 0) } else { (timer.interval_ns, timer.value_ns) };
        (timer.id, Timer { clock: timer.clock_id, event, times_ns })
    };
    Value::timers(alive.timers.posix.iter().map(timer).collect())
}

/// The number comes first in a `siginfo_t` (sigaction(2)).
fn pending(infos: &[Vec<u8>]) -> Value {
    let one = |info: &Vec<u8>| {
        let signal = info.first_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        Pending { signal, info: info.as_slice().into() }
    };
    Value::signals(infos.iter().map(one).collect())
}
