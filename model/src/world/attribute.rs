//! Attributes of processes and threads.
//!
//! # Sources
//! `prctl(2)`, `umask(2)`, `chdir(2)`, `chroot(2)`, `sigaltstack(2)`, `get_robust_list(2)`,
//! `set_tid_address(2)`, `setitimer(2)`, `timer_create(2)`, `sched(7)`, `membarrier(2)`,
//! Documentation/userspace-api/rseq.rst; kernel/fork.c (`copy_process`), kernel/sys.c (`prctl`).

use std::collections::BTreeMap;
use std::sync::Arc;

use regrow_graph::verify::Attribute;

use super::signal::Action;
use super::{Call, World, fails, not_modelled};
use crate::errno::{EBUSY, EINVAL, ENOMEM, EPERM};
use crate::footprint::{Access, Thing};
use crate::ids::ObjectId;

const CAP_SYS_CHROOT: u64 = 1 << 18;
const CAP_SYS_NICE: u64 = 1 << 23;
const RLIMIT_NICE: u32 = 13;
const RLIMIT_RTPRIO: u32 = 14;
/// `sizeof(struct robust_list_head)`.
const ROBUST_LEN: u64 = 24;

/// Working directory, root, umask: what CLONE_FS shares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Directory {
    /// The path of the working directory; `None`: the launcher's.
    pub working: Option<Arc<[u8]>>,
    /// What was entered by descriptor.
    pub object: Option<ObjectId>,
    /// The path of the root; `None`: the launcher's.
    pub root: Option<Arc<[u8]>>,
    /// The umask; `None`: the launcher's.
    pub umask: Option<u32>,
}

/// Timers of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Timers {
    /// `setitimer(2)`: interval and first expiry in microseconds.
    pub interval: BTreeMap<u32, (u64, u64)>,
    /// `timer_create(2)`, by id.
    pub posix: BTreeMap<u32, PosixTimer>,
    /// Timers get the ids that are asked for.
    pub with_ids: bool,
}

/// A timer of `timer_create(2)`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PosixTimer {
    /// `CLOCK_*`.
    pub clock: u32,
    /// `struct sigevent`.
    pub event: Vec<u8>,
    /// As `timer_settime(2)` set it: flags, interval and first expiry in nanoseconds.
    pub set: (u32, u64, u64),
}

/// Attributes of a thread. `None`: as the launcher had it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ThreadAttributes {
    /// `PR_SET_NAME`.
    pub name: Option<Arc<[u8]>>,
    /// `personality(2)`.
    pub personality: Option<u32>,
    /// `PR_SET_PDEATHSIG`.
    pub parent_death_signal: u64,
    /// `PR_SET_TIMERSLACK`.
    pub timer_slack: Option<u64>,
    /// `sigaltstack(2)`: address, flags, length; `None`: none.
    pub alt_stack: Option<(u64, u32, u64)>,
    /// `set_robust_list(2)`: its head.
    pub robust_list: u64,
    /// `set_tid_address(2)`.
    pub tid_address: u64,
    /// `rseq(2)`: address, length, signature.
    pub rseq: Option<(u64, u32, u32)>,
    /// `setpriority(2)`.
    pub nice: Option<i32>,
    /// Policy and priority.
    pub scheduler: Option<(u32, u32)>,
    /// What was written to files below /proc/self that is the thread's own.
    pub settings: BTreeMap<Arc<[u8]>, Arc<[u8]>>,
}

impl ThreadAttributes {
    /// What a new thread, or the first thread of a new process, has of its maker's.
    pub(super) fn born(&self, is_thread: bool) -> ThreadAttributes {
        let mut born =
            ThreadAttributes { parent_death_signal: 0, robust_list: 0, tid_address: 0, ..self.clone() };
        // "sigaltstack should be cleared when sharing the same VM" (`copy_process`); so it is with rseq.
        if is_thread {
            (born.alt_stack, born.rseq) = (None, None);
        }
        born
    }
}

impl World {
    pub(super) fn attributes_mut(&mut self, tid: u32) -> &mut ThreadAttributes {
        self.write(Thing::Thread(tid));
        &mut self.thread_mut(tid).attributes
    }

    fn directory_mut(&mut self, tid: u32) -> &mut Directory {
        let id = self.thread(tid).directory;
        self.write(Thing::Directory(id));
        Arc::make_mut(self.directories.entry(id).or_default())
    }

    fn timers_mut(&mut self, tid: u32) -> &mut Timers {
        self.write(Thing::Process(self.thread(tid).process));
        &mut self.process_mut(tid).timers
    }

    pub(super) fn has_capability(&mut self, tid: u32, bit: u64) -> bool {
        self.read(Thing::Thread(tid));
        self.thread(tid).credentials.effective & bit != 0
    }

    pub(super) fn set_attribute(&mut self, tid: u32, attribute: &Attribute) -> Call<i64> {
        match attribute {
            Attribute::Name(name) => {
                self.attributes_mut(tid).name = Some(name.get(..15).unwrap_or(name).into());
            }
            Attribute::Umask(umask) => self.directory_mut(tid).umask = Some(umask & 0o777),
            Attribute::WorkingDirectory(path) => {
                let path = self.absolute(tid, path)?;
                self.check_directory(&path)?;
                let directory = self.directory_mut(tid);
                (directory.working, directory.object) = (Some(path), None);
            }
            Attribute::RootDirectory(path) => {
                if !self.has_capability(tid, CAP_SYS_CHROOT) {
                    return fails(EPERM);
                }
                let path = self.absolute(tid, path)?;
                self.check_directory(&path)?;
                self.directory_mut(tid).root = Some(path);
            }
            Attribute::Personality(personality) => self.attributes_mut(tid).personality = Some(*personality),
            Attribute::Dumpable(value) => {
                if *value > 1 {
                    return fails(EINVAL);
                }
                self.space_mut(tid).dumpable = *value;
            }
            Attribute::ParentDeathSignal(signal) => {
                if *signal > 64 {
                    return fails(EINVAL);
                }
                self.attributes_mut(tid).parent_death_signal = *signal;
            }
            Attribute::Subreaper(is_one) => {
                let pid = self.thread(tid).process;
                self.write(Thing::Subreaper(pid));
                self.process_mut(tid).is_subreaper = *is_one;
            }
            Attribute::ThpDisable(is_disabled) => self.space_mut(tid).thp_disabled = *is_disabled,
            Attribute::TimerSlack(slack) => {
                // 0 and what is negative: the default, which is the maker's (PR_SET_TIMERSLACK(2const)).
                let slack = (*slack > 0 && *slack <= i64::MAX as u64).then_some(*slack);
                self.attributes_mut(tid).timer_slack = slack;
            }
            Attribute::TimerIds(is_on) => self.timers_mut(tid).with_ids = *is_on,
            Attribute::SigAction { signal, handler, flags, restorer, mask } => {
                let action = Action { handler: *handler, flags: *flags, restorer: *restorer, mask: *mask };
                return self.set_action(tid, *signal, action);
            }
            Attribute::SigMask { how, set } => return self.set_mask(tid, *how, *set),
            Attribute::EatSignal { set } => return self.eat_signal(tid, *set),
            Attribute::AltStack { sp, flags, len } => {
                /// SS_DISABLE; SS_AUTODISARM may come with both.
                const DISABLE: u32 = 2;
                if flags & !(DISABLE | 1 | 1 << 31) != 0 {
                    return fails(EINVAL);
                }
                let off = flags & DISABLE != 0;
                /// MINSIGSTKSZ (asm/signal.h); more where the CPU's state needs it.
                const LEAST: u64 = 2048;
                if !off && *len < LEAST {
                    return fails(ENOMEM);
                }
                self.attributes_mut(tid).alt_stack = (!off).then_some((*sp, *flags, *len));
            }
            Attribute::RobustList { head, len } => {
                if *len != ROBUST_LEN {
                    return fails(EINVAL);
                }
                self.attributes_mut(tid).robust_list = *head;
            }
            Attribute::TidAddress(address) => {
                self.attributes_mut(tid).tid_address = *address;
                return Ok(tid.into());
            }
            Attribute::Rseq { address, len, flags, signature } => {
                let rseq = &mut self.attributes_mut(tid).rseq;
                match (*flags, *rseq) {
                    (1, Some(old)) if old == (*address, *len, *signature) => *rseq = None,
                    (1, Some(old)) if old.2 != *signature && (old.0, old.1) == (*address, *len) => {
                        return fails(EPERM);
                    }
                    (0, None) if address.is_multiple_of(32) && *len >= 32 => {
                        *rseq = Some((*address, *len, *signature));
                    }
                    (0, Some(old)) if old == (*address, *len, *signature) => return fails(EBUSY),
                    _ => return fails(EINVAL),
                }
            }
            Attribute::Membarrier(command) => {
                self.space_mut(tid).membarrier.insert(*command);
            }
            Attribute::IntervalTimer { which, interval_us, value_us } => {
                if *which > 2 {
                    return fails(EINVAL);
                }
                let timers = self.timers_mut(tid);
                // One that does not run has no interval either, to whoever asks.
                if *value_us == 0 {
                    timers.interval.remove(which);
                } else {
                    timers.interval.insert(*which, (*interval_us, *value_us));
                }
            }
            Attribute::TimerCreate { clock, event, id } => {
                let timers = self.timers_mut(tid);
                if !timers.with_ids {
                    return not_modelled("a timer with an id of the kernel's choice");
                }
                if timers.posix.contains_key(id) {
                    return fails(EBUSY);
                }
                let timer = PosixTimer { clock: *clock, event: event.clone(), set: (0, 0, 0) };
                timers.posix.insert(*id, timer);
            }
            Attribute::TimerSet { id, flags, interval_ns, value_ns } => {
                match self.timers_mut(tid).posix.get_mut(id) {
                    Some(timer) => timer.set = (*flags, *interval_ns, *value_ns),
                    None => return fails(EINVAL),
                }
            }
            Attribute::QueueSignal { pid, tid: thread, signal, info } => {
                return self.queue_signal(tid, (*pid, *thread), *signal, info);
            }
            Attribute::Nice(nice) => {
                let nice = (*nice).clamp(-20, 19);
                let old = self.thread(tid).attributes.nice.unwrap_or(0);
                let limit = self.limit(tid, RLIMIT_NICE);
                let allowed = i64::from(20 - nice) <= i64::try_from(limit).unwrap_or(i64::MAX);
                if nice < old && !allowed && !self.has_capability(tid, CAP_SYS_NICE) {
                    return fails(crate::errno::EACCES);
                }
                self.attributes_mut(tid).nice = Some(nice);
            }
            Attribute::Scheduler { policy, priority } => {
                /// SCHED_RESET_ON_FORK.
                const RESET: u32 = 0x4000_0000;
                let real_time = matches!(policy & !RESET, 1 | 2);
                if policy & !RESET > 5 || policy & !RESET == 4 || real_time != (1..=99).contains(priority) {
                    return fails(EINVAL);
                }
                let limit = self.limit(tid, RLIMIT_RTPRIO);
                if real_time && u64::from(*priority) > limit && !self.has_capability(tid, CAP_SYS_NICE) {
                    return fails(EPERM);
                }
                self.attributes_mut(tid).scheduler = Some((*policy, *priority));
            }
        }
        Ok(0)
    }

    /// Whether a path may lead to a directory.
    fn check_directory(&mut self, path: &Arc<[u8]>) -> Call<()> {
        self.read(Thing::Name(path.clone()));
        match self.leads_to(path) {
            Some(None) => {
                self.check_parent(path)?;
                fails(crate::errno::ENOENT)
            }
            Some(Some(ObjectId::Made(made))) => {
                let id = ObjectId::Made(made);
                match self.object(&id) {
                    super::Object::File(file) if file.kind == super::FileKind::Directory => Ok(()),
                    _ => fails(crate::errno::ENOTDIR),
                }
            }
            Some(Some(ObjectId::Host(_))) | None => Ok(()),
        }
    }

    /// A write to a file below /proc/PID: what is set by it.
    pub(super) fn write_setting(&mut self, tid: u32, rest: &[u8], data: &[u8]) -> Call<i64> {
        let Some(slash) = rest.iter().position(|byte| *byte == b'/') else {
            return not_modelled("a write into /proc");
        };
        let (whose, name) = rest.split_at(slash);
        let name = &name[1..];
        let whose = std::str::from_utf8(whose).ok().and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
        let pid = self.thread(tid).process;
        if whose != tid && whose != pid {
            return not_modelled("a write about another task");
        }
        let value: Arc<[u8]> = data.strip_suffix(b"\n").unwrap_or(data).into();
        let written = data.len() as i64;
        match name {
            b"comm" => {
                let thread = if self.threads.contains_key(&whose) { whose } else { tid };
                self.attributes_mut(thread).name = Some(value.get(..15).unwrap_or(&value).into());
            }
            b"loginuid" | b"attr/current" | b"attr/sockcreate" => {
                self.attributes_mut(tid).settings.insert(name.into(), value);
            }
            b"oom_score_adj" | b"coredump_filter" => {
                self.note(Thing::Process(pid), Access::Write);
                self.process_mut(tid).settings.insert(name.into(), value);
            }
            _ => return not_modelled(format!("a write to {}", name.escape_ascii())),
        }
        Ok(written)
    }

    fn limit(&mut self, tid: u32, resource: u32) -> u64 {
        self.read(Thing::Process(self.thread(tid).process));
        self.process_of(tid).limits.get(&resource).map_or(0, |(soft, _)| *soft)
    }
}
