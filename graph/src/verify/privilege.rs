//! Which privileges a task still has, and which effects need one.
//!
//! A task starts with all of them. Credentials that are set take capabilities away as the kernel
//! does (`capabilities(7)`, "Effect of user ID changes on capabilities"); besides, after the first
//! record that gives anything up, only effects that need nothing may follow, and the calls that
//! give more up, as long as each still may.

use super::effect::{
    Attribute, Change, Effect, FdEffect, IpcEffect, MemoryEffect, PrivilegeEffect, SeccompEffect,
};

const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SETPCAP: u32 = 8;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_NICE: u32 = 23;
const CAP_SYS_RESOURCE: u32 = 24;

/// The privileges of one task.
#[derive(Debug, Clone)]
pub(super) struct Privileges {
    effective: u64,
    permitted: u64,
    uids: [u32; 3],
    gids: [u32; 3],
    /// SECBIT_NO_SETUID_FIXUP.
    no_fixup: bool,
    /// SECBIT_KEEP_CAPS.
    keep_caps: bool,
    no_new_privs: bool,
    /// The first record that gave something up, and its name.
    dropped: Option<(u32, &'static str)>,
    /// Where the first to give something up were the uids or gids, and nothing else has followed: what there
    /// was before.
    before_ids: Option<Full>,
    /// Hard limits that are known.
    hard: [Option<u64>; 16],
}

/// Uids and gids with the capabilities that they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Full {
    effective: u64,
    permitted: u64,
    uids: [u32; 3],
    gids: [u32; 3],
}

/// What an effect needs.
enum Need {
    Nothing,
    /// One capability.
    Capability(u32),
    /// That nothing has been given up.
    Everything,
}

/// An effect that comes too late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLate {
    pub(super) dropped_in: u32,
    pub(super) dropped_by: &'static str,
}

impl Privileges {
    pub(super) fn all() -> Privileges {
        Privileges {
            effective: u64::MAX,
            permitted: u64::MAX,
            uids: [0; 3],
            gids: [0; 3],
            no_fixup: false,
            keep_caps: false,
            no_new_privs: false,
            dropped: None,
            before_ids: None,
            hard: [None; 16],
        }
    }

    /// Executes `effect` as far as it is about privileges.
    pub(super) fn step(&mut self, record: u32, effect: &Effect) -> Result<(), TooLate> {
        if let Some((dropped_in, dropped_by)) = self.dropped {
            let allowed = match self.need(effect) {
                Need::Nothing => true,
                Need::Capability(number) => self.effective & 1 << number != 0,
                Need::Everything => false,
            };
            if !allowed {
                return Err(TooLate { dropped_in, dropped_by });
            }
        }
        if let Effect::Privilege(effect) = effect {
            let (before, is_first) = (self.full(), self.dropped.is_none());
            let gives_up = self.apply(effect);
            if gives_up && is_first {
                self.dropped = Some((record, Effect::Privilege(effect.clone()).name()));
            }
            // Ids that are taken on for a while, the saved one kept, give nothing up.
            self.before_ids = match effect {
                PrivilegeEffect::Uids(_) | PrivilegeEffect::Gids(_) if is_first => Some(before),
                PrivilegeEffect::Uids(_) | PrivilegeEffect::Gids(_) => self.before_ids,
                _ => None,
            };
            if self.before_ids == Some(self.full()) {
                self.dropped = None;
                self.before_ids = None;
            }
        }
        Ok(())
    }

    fn full(&self) -> Full {
        Full { effective: self.effective, permitted: self.permitted, uids: self.uids, gids: self.gids }
    }

    /// Real and effective uid.
    pub(super) fn uids(&self) -> [u32; 2] {
        [self.uids[0], self.uids[1]]
    }

    pub(super) fn has_no_new_privs(&self) -> bool {
        self.no_new_privs
    }

    fn need(&self, effect: &Effect) -> Need {
        match effect {
            Effect::Fork(_) => Need::Everything,
            Effect::Post(_)
            | Effect::Wait(_)
            | Effect::Arrive
            | Effect::Park
            | Effect::Exit { .. }
            | Effect::Kill { .. }
            | Effect::AwaitExit { .. }
            | Effect::SetSid
            | Effect::SetPgid { .. } => Need::Nothing,
            Effect::Undo { .. } => Need::Nothing,
            Effect::File(_) => Need::Everything,
            Effect::Fd(effect) => match effect {
                // The clocks that wake the machine need CAP_WAKE_ALARM, page faults of the kernel CAP_SYS_PTRACE.
                FdEffect::Open { .. }
                | FdEffect::Timerfd { .. }
                | FdEffect::Userfault { .. }
                | FdEffect::Socket { .. }
                | FdEffect::Accept { .. } => Need::Everything,
                FdEffect::Pipe { .. }
                | FdEffect::SocketPair { .. }
                | FdEffect::Eventfd { .. }
                | FdEffect::Epoll { .. }
                | FdEffect::Signalfd { .. }
                | FdEffect::Memfd { .. }
                | FdEffect::Receive { .. }
                | FdEffect::Probe { .. }
                | FdEffect::Dup { .. }
                | FdEffect::DupLowest { .. }
                | FdEffect::SetCloexec { .. }
                | FdEffect::Close { .. }
                | FdEffect::CloseRange { .. } => Need::Nothing,
            },
            Effect::Name(_) => Need::Everything,
            Effect::Ipc(effect) => match effect {
                // Whoever makes an object is its owner. Huge pages are not everybody's (`can_do_hugetlb_shm`,
                // fs/hugetlbfs/inode.c).
                IpcEffect::Make { huge: 0, .. } => Need::Nothing,
                IpcEffect::Make { .. } => Need::Capability(CAP_IPC_LOCK),
                IpcEffect::NewNamespace
                | IpcEffect::SetOwner { .. }
                | IpcEffect::LockSegment { .. }
                | IpcEffect::RemoveSegment { .. }
                | IpcEffect::Send { .. }
                | IpcEffect::SetValues { .. } => Need::Everything,
            },
            Effect::Object { change, .. } => match change {
                Change::Seek { .. }
                | Change::SetStatus { .. }
                | Change::Read { .. }
                | Change::SetOwner { .. }
                | Change::SetSignal { .. }
                | Change::Lock
                | Change::Userfault(_)
                | Change::Shutdown { .. } => Need::Nothing,
                Change::SetPipeSize { .. }
                | Change::Bind { .. }
                | Change::Listen { .. }
                | Change::Connect { .. }
                | Change::SetBytes { .. }
                | Change::Write { .. }
                | Change::Send { .. }
                | Change::SetOption { .. }
                | Change::Watch { .. }
                | Change::SetTimer { .. }
                | Change::SetTicks { .. }
                | Change::Truncate { .. }
                | Change::Copy { .. }
                | Change::SetFileOwner { .. }
                | Change::SetMode { .. }
                | Change::SetTimes { .. }
                | Change::AddSeals { .. }
                | Change::Enter => Need::Everything,
            },
            Effect::Memory(effect) => match effect {
                MemoryEffect::Map { .. }
                | MemoryEffect::Remap { .. }
                | MemoryEffect::Unmap { .. }
                | MemoryEffect::Protect { .. }
                | MemoryEffect::Advise { .. }
                // Its own memory takes no permission (mm/process_vm_access.c).
                | MemoryEffect::Write { .. }
                | MemoryEffect::Ring(_) => Need::Nothing,
                MemoryEffect::SetMm { .. }
                | MemoryEffect::MapVdso { .. }
                | MemoryEffect::Attach { .. }
                | MemoryEffect::Lock { .. } => Need::Everything,
            },
            Effect::Attribute(attribute) => match attribute {
                Attribute::WorkingDirectory(_) | Attribute::RootDirectory(_) => Need::Everything,
                // sched(7); limits that have been lowered mean nothing to who has it.
                Attribute::Nice(_) | Attribute::Scheduler { .. } => Need::Capability(CAP_SYS_NICE),
                Attribute::Name(_)
                | Attribute::Umask(_)
                | Attribute::Personality(_)
                | Attribute::Dumpable(_)
                | Attribute::ParentDeathSignal(_)
                | Attribute::Subreaper(_)
                | Attribute::ThpDisable(_)
                | Attribute::TimerSlack(_)
                | Attribute::SigAction { .. }
                | Attribute::SigMask { .. }
                | Attribute::EatSignal { .. }
                | Attribute::AltStack { .. }
                | Attribute::RobustList { .. }
                | Attribute::TidAddress(_)
                | Attribute::Rseq { .. }
                | Attribute::Membarrier(_)
                | Attribute::IntervalTimer { .. }
                | Attribute::TimerIds(_)
                | Attribute::TimerCreate { .. }
                | Attribute::TimerSet { .. }
                | Attribute::QueueSignal { .. } => Need::Nothing,
            },
            Effect::Privilege(effect) => match effect {
                PrivilegeEffect::Uids(ids) if ids.iter().flatten().all(|id| self.uids.contains(id)) => {
                    Need::Nothing
                }
                PrivilegeEffect::FsUid(id) if self.uids.contains(id) => Need::Nothing,
                PrivilegeEffect::Uids(_) | PrivilegeEffect::FsUid(_) => Need::Capability(CAP_SETUID),
                PrivilegeEffect::Gids(_) | PrivilegeEffect::FsGid(_) | PrivilegeEffect::Groups(_) => {
                    Need::Capability(CAP_SETGID)
                }
                PrivilegeEffect::DropBounding(_) | PrivilegeEffect::Securebits(_) => {
                    Need::Capability(CAP_SETPCAP)
                }
                PrivilegeEffect::Capabilities { effective, permitted, .. }
                    if permitted & !self.permitted == 0 && effective & !permitted == 0 =>
                {
                    Need::Nothing
                }
                PrivilegeEffect::Capabilities { .. } => Need::Everything,
                PrivilegeEffect::Limit { resource, hard, .. } => match self.hard.get(*resource as usize) {
                    Some(Some(now)) if hard <= now => Need::Nothing,
                    _ => Need::Capability(CAP_SYS_RESOURCE),
                },
                PrivilegeEffect::RaiseAmbient(number)
                    if self.permitted & 1u64.checked_shl(*number as u32).unwrap_or(0) == 0 =>
                {
                    Need::Everything
                }
                // Strict mode is free; filters are for those who cannot gain by them (seccomp(2)).
                PrivilegeEffect::Seccomp(SeccompEffect::Filter { .. }) if !self.no_new_privs => {
                    Need::Capability(CAP_SYS_ADMIN)
                }
                PrivilegeEffect::RaiseAmbient(_)
                | PrivilegeEffect::KeepCaps(_)
                | PrivilegeEffect::NoNewPrivs
                | PrivilegeEffect::Seccomp(_) => Need::Nothing,
            },
        }
    }

    /// Says whether the effect gives something up.
    fn apply(&mut self, effect: &PrivilegeEffect) -> bool {
        match effect {
            PrivilegeEffect::Uids(ids) => {
                let before = self.uids;
                for (slot, id) in self.uids.iter_mut().zip(ids) {
                    *slot = id.unwrap_or(*slot);
                }
                if !self.no_fixup {
                    if before.contains(&0) && !self.uids.contains(&0) && !self.keep_caps {
                        self.permitted = 0;
                        self.effective = 0;
                    }
                    if before[1] == 0 && self.uids[1] != 0 {
                        self.effective = 0;
                    }
                    if before[1] != 0 && self.uids[1] == 0 {
                        self.effective = self.permitted;
                    }
                }
                true
            }
            PrivilegeEffect::FsUid(id) => {
                // Strictly, those about files only; none of the others is needed any more then.
                if !self.no_fixup && *id != 0 {
                    self.effective = 0;
                }
                true
            }
            PrivilegeEffect::Capabilities { effective, permitted, .. } => {
                self.effective = *effective & self.permitted;
                self.permitted &= *permitted;
                true
            }
            PrivilegeEffect::Securebits(bits) => {
                self.no_fixup = bits & 1 << 2 != 0;
                self.keep_caps = bits & 1 << 4 != 0;
                true
            }
            PrivilegeEffect::KeepCaps(keep) => {
                self.keep_caps = *keep;
                false
            }
            PrivilegeEffect::Limit { resource, hard, .. } => {
                let Some(slot) = self.hard.get_mut(*resource as usize) else { return true };
                // Of a limit that is not known only infinity is certainly not lower.
                let lowered = slot.map_or(*hard != u64::MAX, |now| *hard < now);
                *slot = Some(*hard);
                lowered
            }
            PrivilegeEffect::RaiseAmbient(_) => false,
            PrivilegeEffect::NoNewPrivs => {
                self.no_new_privs = true;
                true
            }
            PrivilegeEffect::Gids(ids) => {
                for (slot, id) in self.gids.iter_mut().zip(ids) {
                    *slot = id.unwrap_or(*slot);
                }
                true
            }
            PrivilegeEffect::FsGid(_)
            | PrivilegeEffect::Groups(_)
            | PrivilegeEffect::DropBounding(_)
            | PrivilegeEffect::Seccomp(_) => true,
        }
    }
}
