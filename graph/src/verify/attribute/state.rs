//! The attributes of one task or thread of the model, moved by the rows of the table.
//!
//! What belongs to the task as a whole is kept with its first thread; the places for it in the state
//! of a further thread stay unknown and nobody looks at them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::value::{Action, Limit, Pending, Timer, Value};
use super::{ATTRIBUTES, AttributeKind as Kind, Inherit, OnCredentials, TABLE};
use crate::verify::effect::{PrivilegeEffect, SeccompEffect};

/// SECBIT_NO_SETUID_FIXUP.
const NO_SETUID_FIXUP: u64 = 1 << 2;
/// SECBIT_KEEP_CAPS.
const KEEP_CAPS: u64 = 1 << 4;
const CAP_SYS_RESOURCE: u32 = 24;
/// SCHED_RESET_ON_FORK.
const RESET_ON_FORK: u64 = 0x4000_0000;
/// SCHED_FIFO, SCHED_RR, SCHED_DEADLINE.
const REAL_TIME: [u64; 3] = [1, 2, 6];

pub(in crate::verify) const UIDS: [Kind; 4] = [Kind::Uid, Kind::EffectiveUid, Kind::SavedUid, Kind::FsUid];
pub(in crate::verify) const GIDS: [Kind; 4] = [Kind::Gid, Kind::EffectiveGid, Kind::SavedGid, Kind::FsGid];

/// A value, and whether it is still what the launcher had.
#[derive(Debug, Clone)]
pub(in crate::verify) struct Slot {
    pub(in crate::verify) value: Value,
    pub(in crate::verify) is_inherited: bool,
}

const UNKNOWN: Slot = Slot { value: Value::Unknown, is_inherited: false };

/// All attributes, in the order of the table.
#[derive(Debug, Clone)]
pub(in crate::verify) struct State {
    slots: Vec<Slot>,
}

/// Whether something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::verify) enum Certainty {
    No,
    Maybe,
    Yes,
}

impl State {
    /// Of somebody who is not born yet.
    pub(in crate::verify) fn unborn() -> State {
        State { slots: Vec::new() }
    }

    /// Of a process of which only these are known.
    pub(in crate::verify) fn launcher(facts: &[(Kind, Value)]) -> State {
        let mut state = State { slots: vec![UNKNOWN; ATTRIBUTES] };
        for (kind, value) in facts {
            let value = match value {
                Value::Limits(limits) => Value::Limits(Arc::new(
                    limits.map(|limit| limit.map(|limit| Limit { is_inherited: true, ..limit })),
                )),
                other => other.clone(),
            };
            state.slots[*kind as usize] = Slot { value, is_inherited: true };
        }
        state
    }

    /// What a child, or a thread, starts with.
    pub(in crate::verify) fn born(&self, is_thread: bool) -> State {
        let inherited = |row: &super::Row| match if is_thread { row.on_thread } else { row.on_fork } {
            Inherit::Copied => self.slot(row.kind).clone(),
            Inherit::Cleared => Slot { value: row.cleared.into(), is_inherited: false },
            Inherit::Shared => UNKNOWN,
            Inherit::Takes(other) => self.slot(other).clone(),
            Inherit::CopiedUnlessReset => self.unless_reset(row.kind),
        };
        State { slots: TABLE.iter().map(inherited).collect() }
    }

    /// Nice value and policy of a child.
    fn unless_reset(&self, kind: Kind) -> Slot {
        let slot = self.slot(kind).clone();
        let Value::Numbers(now) = &self.slot(Kind::Scheduler).value else {
            // Whether the flag is set is unknown.
            return UNKNOWN;
        };
        let [policy, priority] = [now[0], now[1]];
        if policy & RESET_ON_FORK == 0 {
            return slot;
        }
        let policy = policy & !RESET_ON_FORK;
        let is_real_time = REAL_TIME.contains(&policy);
        let value = match (kind, slot.value) {
            (Kind::Scheduler, _) if is_real_time => Value::numbers(&[0, 0]),
            (Kind::Scheduler, _) => Value::numbers(&[policy, priority]),
            (_, Value::Number(_)) if is_real_time => Value::Number(0),
            (_, Value::Number(nice)) => Value::Number((nice as i64).max(0) as u64),
            (_, other) => other,
        };
        Slot { value, is_inherited: false }
    }

    pub(in crate::verify) fn slot(&self, kind: Kind) -> &Slot {
        self.slots.get(kind as usize).unwrap_or(&UNKNOWN)
    }

    pub(in crate::verify) fn value(&self, kind: Kind) -> &Value {
        &self.slot(kind).value
    }

    pub(in crate::verify) fn number(&self, kind: Kind) -> Option<u64> {
        match self.value(kind) {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub(in crate::verify) fn set(&mut self, kind: Kind, value: Value) {
        if let Some(slot) = self.slots.get_mut(kind as usize) {
            *slot = Slot { value, is_inherited: false };
        }
    }

    /// A number that has come from the one before: it is as much the launcher's as that was.
    fn update(&mut self, kind: Kind, number: Option<u64>) {
        if let Some(slot) = self.slots.get_mut(kind as usize) {
            slot.value = number.map_or(Value::Unknown, Value::Number);
        }
    }

    /// What another attribute is.
    fn take(&mut self, kind: Kind, from: Kind) {
        let slot = self.slot(from).clone();
        if let Some(place) = self.slots.get_mut(kind as usize) {
            *place = slot;
        }
    }

    /// What is done on a signal.
    pub(in crate::verify) fn action(&self, signal: u32) -> Option<Action> {
        match self.value(Kind::SigActions) {
            Value::Actions(actions) => *actions.get(signal.checked_sub(1)? as usize)?,
            _ => None,
        }
    }

    pub(in crate::verify) fn set_action(&mut self, signal: u32, action: Action) {
        let slot = &mut self.slots[Kind::SigActions as usize];
        if !matches!(slot.value, Value::Actions(_)) {
            let mut actions = [None; 64];
            // Those two cannot be set (sigaction(2)).
            actions[8] = Some(Action::default());
            actions[18] = Some(Action::default());
            slot.value = Value::Actions(Arc::new(actions));
        }
        slot.is_inherited = false;
        if let Value::Actions(actions) = &mut slot.value
            && let Some(place) = Arc::make_mut(actions).get_mut(signal.wrapping_sub(1) as usize)
        {
            *place = Some(action);
        }
    }

    /// The POSIX timers, to change.
    pub(in crate::verify) fn timers(&mut self) -> &mut BTreeMap<u32, Timer> {
        let slot = &mut self.slots[Kind::PosixTimers as usize];
        if !matches!(slot.value, Value::Timers(_)) {
            slot.value = Value::Timers(Arc::default());
        }
        match &mut slot.value {
            Value::Timers(timers) => Arc::make_mut(timers),
            _ => unreachable!("it has just been made one"),
        }
    }

    /// Signals that wait, to change.
    pub(in crate::verify) fn signals(&mut self, kind: Kind) -> &mut Vec<Pending> {
        let slot = &mut self.slots[kind as usize];
        if !matches!(slot.value, Value::Signals(_)) {
            slot.value = Value::Signals(Arc::default());
        }
        match &mut slot.value {
            Value::Signals(signals) => Arc::make_mut(signals),
            _ => unreachable!("it has just been made one"),
        }
    }

    /// Whether the signals of `set` are all certainly blocked.
    pub(in crate::verify) fn blocks(&self, set: u64) -> bool {
        self.number(Kind::SigMask).is_some_and(|mask| mask & set == set)
    }

    /// Sets a limit. Says whether the kernel may refuse it, because the hard limit goes up.
    pub(in crate::verify) fn set_limit(
        &mut self,
        resource: u32,
        limit: Limit,
        may_raise: bool,
    ) -> Result<(), Limit> {
        let slot = &mut self.slots[Kind::Limits as usize];
        if !matches!(slot.value, Value::Limits(_)) {
            slot.value = Value::Limits(Arc::new([None; 16]));
        }
        slot.is_inherited = false;
        if let Value::Limits(limits) = &mut slot.value
            && let Some(place) = Arc::make_mut(limits).get_mut(resource as usize)
        {
            if let Some(now) = place.filter(|now| limit.hard > now.hard && !may_raise) {
                return Err(now);
            }
            *place = Some(limit);
        }
        Ok(())
    }

    /// Whether hard limits can be raised; unknown capabilities are taken to be there, for if they are
    /// not, the call fails and is seen to.
    pub(in crate::verify) fn may_raise_limits(&self) -> bool {
        self.number(Kind::CapEffective).is_none_or(|set| set & 1 << CAP_SYS_RESOURCE != 0)
    }

    fn is_real_time(&self) -> Option<bool> {
        match self.value(Kind::Scheduler) {
            Value::Numbers(now) => Some(REAL_TIME.contains(&(now[0] & !RESET_ON_FORK))),
            _ => None,
        }
    }

    /// A further registration for membarrier.
    pub(in crate::verify) fn register(&mut self, command: u32) {
        let registered = self.number(Kind::Membarrier).map(|now| command | now as u32);
        let value = registered.map_or(Value::Unknown, Value::membarrier);
        if let Some(slot) = self.slots.get_mut(Kind::Membarrier as usize) {
            slot.value = value;
        }
    }

    /// A new policy: real-time ones have no timer slack, and a task that leaves them gets its default
    /// back (kernel/sched/syscalls.c, `__setscheduler_params`).
    pub(in crate::verify) fn set_scheduler(&mut self, policy: u32, priority: u32) {
        let policy = u64::from(policy);
        self.set(Kind::Scheduler, Value::numbers(&[policy, priority.into()]));
        if self.is_real_time() == Some(true) {
            self.set(Kind::TimerSlack, Value::Number(0));
        } else {
            match self.number(Kind::TimerSlack) {
                Some(0) => self.take(Kind::TimerSlack, Kind::DefaultTimerSlack),
                Some(_) => {}
                None => self.set(Kind::TimerSlack, Value::Unknown),
            }
        }
    }

    /// `PR_SET_TIMERSLACK`: 0 stands for the default. Real-time threads have none, whatever is set
    /// (kernel/sys.c).
    pub(in crate::verify) fn set_timer_slack(&mut self, slack_ns: u64) {
        match (self.is_real_time(), slack_ns) {
            (None, _) => self.set(Kind::TimerSlack, Value::Unknown),
            (Some(true), _) => {}
            (Some(false), 0) => self.take(Kind::TimerSlack, Kind::DefaultTimerSlack),
            (Some(false), slack_ns) => self.set(Kind::TimerSlack, Value::Number(slack_ns)),
        }
    }

    /// What of capabilities the kernel would not do, for all that is known: the inheritable set takes in
    /// nothing that the bounding set does not have, and ambient is only what is permitted and inheritable
    /// (security/commoncap.c, `cap_capset` and `cap_task_prctl`).
    pub(in crate::verify) fn refuses_capabilities(&self, effect: &PrivilegeEffect) -> Option<String> {
        let has = |kind: Kind| self.number(kind).unwrap_or(0);
        match effect {
            PrivilegeEffect::Capabilities { inheritable, .. } => {
                let have = has(Kind::CapInheritable) | has(Kind::CapBounding);
                let more = inheritable & !have;
                (more != 0).then(|| format!("inheritable capabilities {more:#x}, which are not bounding"))
            }
            PrivilegeEffect::RaiseAmbient(number) => {
                let bit = 1u64.checked_shl(*number as u32).unwrap_or(0);
                let can = bit & has(Kind::CapPermitted) & has(Kind::CapInheritable) != 0;
                (!can).then(|| format!("capability {number}, which is not both permitted and inheritable"))
            }
            PrivilegeEffect::Uids(_)
            | PrivilegeEffect::Gids(_)
            | PrivilegeEffect::FsUid(_)
            | PrivilegeEffect::FsGid(_)
            | PrivilegeEffect::Groups(_)
            | PrivilegeEffect::DropBounding(_)
            | PrivilegeEffect::Securebits(_)
            | PrivilegeEffect::KeepCaps(_)
            | PrivilegeEffect::NoNewPrivs
            | PrivilegeEffect::Seccomp(_)
            | PrivilegeEffect::Limit { .. } => None,
        }
    }

    /// Changes credentials. Says whether that resets what [`OnCredentials::Reset`] is for.
    pub(in crate::verify) fn change_credentials(&mut self, effect: &PrivilegeEffect) -> Certainty {
        match effect {
            PrivilegeEffect::Uids(ids) => {
                let before = UIDS.map(|kind| self.number(kind));
                let changed = self.change_ids(UIDS, *ids);
                self.fix_capabilities(before);
                changed
            }
            PrivilegeEffect::Gids(ids) => self.change_ids(GIDS, *ids),
            PrivilegeEffect::FsUid(id) => {
                let before = self.number(Kind::FsUid);
                self.set(Kind::FsUid, Value::Number(u64::from(*id)));
                self.fix_file_capabilities(before, u64::from(*id));
                differ(before, Some(u64::from(*id)))
            }
            PrivilegeEffect::FsGid(id) => {
                let before = self.number(Kind::FsGid);
                self.set(Kind::FsGid, Value::Number(u64::from(*id)));
                differ(before, Some(u64::from(*id)))
            }
            PrivilegeEffect::Groups(groups) => {
                self.set(Kind::Groups, Value::groups(groups));
                Certainty::No
            }
            PrivilegeEffect::Capabilities { effective, permitted, inheritable } => {
                self.set(Kind::CapEffective, Value::Number(*effective));
                self.set(Kind::CapPermitted, Value::Number(*permitted));
                self.set(Kind::CapInheritable, Value::Number(*inheritable));
                // It stays within both (capabilities(7)).
                let both = permitted & inheritable;
                match self.number(Kind::CapAmbient) {
                    _ if both == 0 => self.set(Kind::CapAmbient, Value::Number(0)),
                    now => self.update(Kind::CapAmbient, now.map(|now| now & both)),
                }
                Certainty::No
            }
            PrivilegeEffect::RaiseAmbient(number) => {
                let bit = 1u64.checked_shl(*number as u32).unwrap_or(0);
                let now = self.number(Kind::CapAmbient).map(|now| now | bit);
                let both = self.number(Kind::CapPermitted).zip(self.number(Kind::CapInheritable));
                match (now, both.map(|(permitted, inheritable)| permitted & inheritable)) {
                    // There cannot be more, whatever there was.
                    (Some(now), Some(most)) if now == most => self.set(Kind::CapAmbient, Value::Number(now)),
                    (now, _) => self.update(Kind::CapAmbient, now),
                }
                Certainty::No
            }
            PrivilegeEffect::DropBounding(number) => {
                let bit = 1u64.checked_shl(*number as u32).unwrap_or(0);
                let now = self.number(Kind::CapBounding).map(|now| now & !bit);
                self.update(Kind::CapBounding, now);
                Certainty::No
            }
            PrivilegeEffect::Securebits(bits) => {
                self.set(Kind::Securebits, Value::Number(bits & !KEEP_CAPS));
                self.set(Kind::KeepCaps, Value::Number(u64::from(bits & KEEP_CAPS != 0)));
                Certainty::No
            }
            PrivilegeEffect::KeepCaps(keep) => {
                self.set(Kind::KeepCaps, Value::Number((*keep).into()));
                Certainty::No
            }
            PrivilegeEffect::NoNewPrivs => {
                self.set(Kind::NoNewPrivs, Value::Number(1));
                Certainty::No
            }
            // The mode; the filters themselves are followed apart.
            PrivilegeEffect::Seccomp(effect) => {
                let mode = match effect {
                    SeccompEffect::Strict => 1,
                    SeccompEffect::Filter { .. } => 2,
                };
                self.set(Kind::Seccomp, Value::Number(mode));
                Certainty::No
            }
            // Of the task, and set with the other attributes.
            PrivilegeEffect::Limit { .. } => Certainty::No,
        }
    }

    /// `setresuid(2)`, `setresgid(2)`: the file system id becomes the effective one, unless nothing at
    /// all is to change (kernel/sys.c, `__sys_setresuid`).
    fn change_ids(&mut self, kinds: [Kind; 4], ids: [Option<u32>; 3]) -> Certainty {
        let before = kinds.map(|kind| self.number(kind));
        for (kind, id) in kinds.into_iter().zip(ids) {
            if let Some(id) = id {
                self.set(kind, Value::Number(u64::from(id)));
            }
        }
        let after = kinds.map(|kind| self.number(kind));
        let is_nothing = (0..3).all(|at| ids[at].is_none() || differ(before[at], after[at]) == Certainty::No);
        if kinds[3].row().on_credentials == OnCredentials::Follows && !(ids[1].is_none() && is_nothing) {
            self.take(kinds[3], kinds[1]);
        }
        let fs_after = self.number(kinds[3]);
        match (differ(before[1], after[1]), differ(before[3], fs_after)) {
            (Certainty::Yes, _) | (_, Certainty::Yes) => Certainty::Yes,
            (Certainty::No, Certainty::No) => Certainty::No,
            _ => Certainty::Maybe,
        }
    }

    /// "Effect of user ID changes on capabilities" (capabilities(7); security/commoncap.c,
    /// `cap_emulate_setxuid`).
    fn fix_capabilities(&mut self, before: [Option<u64>; 4]) {
        if self.number(Kind::Securebits).is_some_and(|bits| bits & NO_SETUID_FIXUP != 0) {
            return;
        }
        let after = UIDS.map(|kind| self.number(kind));
        if before[..3] == after[..3] && before[..3].iter().all(Option::is_some) {
            return;
        }
        let known = [&before[..3], &after[..3]].concat().iter().all(Option::is_some)
            && self.value(Kind::Securebits).is_known()
            && self.value(Kind::KeepCaps).is_known();
        let lost = before[..3].contains(&Some(0)) && !after[..3].contains(&Some(0));
        let keeps = self.number(Kind::KeepCaps) == Some(1);
        for row in TABLE.iter().filter(|row| row.on_credentials == OnCredentials::LostWithRoot) {
            if !known {
                self.set(row.kind, Value::Unknown);
            } else if lost && (row.kind == Kind::CapAmbient || !keeps) {
                self.set(row.kind, Value::Number(0));
            }
        }
        if known && before[1] == Some(0) && after[1] != Some(0) {
            self.set(Kind::CapEffective, Value::Number(0));
        }
        if known && before[1] != Some(0) && after[1] == Some(0) {
            self.take(Kind::CapEffective, Kind::CapPermitted);
        }
    }

    /// The same of `setfsuid(2)`: only the capabilities about files come and go.
    fn fix_file_capabilities(&mut self, before: Option<u64>, after: u64) {
        /// CAP_FS_SET (linux/capability.h): CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID,
        /// LINUX_IMMUTABLE, MKNOD, MAC_OVERRIDE.
        const FILES: u64 = 0b1_1111 | 1 << 9 | 1 << 27 | 1 << 32;
        let bits = self.number(Kind::Securebits);
        if bits.is_some_and(|bits| bits & NO_SETUID_FIXUP != 0) || before == Some(after) {
            return;
        }
        let now = match (before, self.number(Kind::CapEffective), self.number(Kind::CapPermitted), bits) {
            (Some(0), Some(now), _, Some(_)) => Some(now & !FILES),
            (Some(_), Some(now), Some(permitted), Some(_)) if after == 0 => Some(now | permitted & FILES),
            (Some(_), Some(now), _, Some(_)) => Some(now),
            _ => None,
        };
        self.update(Kind::CapEffective, now);
    }
}

fn differ(a: Option<u64>, b: Option<u64>) -> Certainty {
    match (a, b) {
        (Some(a), Some(b)) if a == b => Certainty::No,
        (Some(_), Some(_)) => Certainty::Yes,
        _ => Certainty::Maybe,
    }
}
