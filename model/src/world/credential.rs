//! Credentials, capabilities, limits, seccomp.
//!
//! # Sources
//! `credentials(7)`, `capabilities(7)`, `setresuid(2)`, `setfsuid(2)`, `setgroups(2)`, `capset(2)`,
//! `prctl(2)`, `seccomp(2)`, `prlimit(2)`; kernel/cred.c (`commit_creds`), security/commoncap.c
//! (`cap_task_fix_setuid`, `cap_capset`, `cap_task_prctl`), kernel/sys.c (`do_prlimit`).

use std::sync::Arc;

use regrow_graph::verify::{PrivilegeEffect, SeccompEffect};

use super::{Call, World, fails, not_modelled};
use crate::errno::{EACCES, EINVAL, EPERM};
use crate::footprint::Thing;

const CAP_SETGID: u64 = 1 << 6;
const CAP_SETUID: u64 = 1 << 7;
const CAP_SETPCAP: u64 = 1 << 8;
pub(super) const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_SYS_RESOURCE: u64 = 1 << 24;
pub(super) const CAP_CHECKPOINT_RESTORE: u64 = 1 << 40;
/// Capabilities that go with the fsuid: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID,
/// LINUX_IMMUTABLE, MKNOD, MAC_OVERRIDE.
const CAP_FS: u64 = 0x1f | 1 << 9 | 1 << 27 | 1 << 32;
const SECURE_NO_SETUID_FIXUP: u32 = 1 << 2;
const SECURE_KEEP_CAPS: u32 = 1 << 4;
const SECURE_KEEP_CAPS_LOCKED: u32 = 1 << 5;
const SECURE_NO_CAP_AMBIENT_RAISE: u32 = 1 << 6;
const SECUREBITS: u32 = 0xff;
/// Each bit's lock is the one above it.
const SECURE_LOCKS: u32 = 0xaa;

/// Credentials of a thread.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// Real, effective, saved.
    pub uids: [u32; 3],
    /// Real, effective, saved.
    pub gids: [u32; 3],
    /// For files.
    pub fsuid: u32,
    /// For files.
    pub fsgid: u32,
    /// Further groups; `None`: as the launcher's.
    pub groups: Option<Arc<[u32]>>,
    /// What it can do now.
    pub effective: u64,
    /// What it can make effective.
    pub permitted: u64,
    /// What may be handed on by `execve`.
    pub inheritable: u64,
    /// What is handed on by `execve`.
    pub ambient: u64,
    /// What can be had at all.
    pub bounding: u64,
    /// `PR_SET_SECUREBITS`, with PR_SET_KEEPCAPS.
    pub securebits: u32,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
}

impl Credentials {
    pub(super) fn root(capabilities: u64) -> Credentials {
        Credentials {
            uids: [0; 3],
            gids: [0; 3],
            fsuid: 0,
            fsgid: 0,
            groups: None,
            effective: capabilities,
            permitted: capabilities,
            inheritable: 0,
            ambient: 0,
            bounding: capabilities,
            securebits: 0,
            no_new_privs: false,
        }
    }

    /// `cap_emulate_setxid`: what a change of uids from `old` leaves.
    fn fix_uids(&mut self, old: [u32; 3]) {
        if self.securebits & SECURE_NO_SETUID_FIXUP != 0 {
            return;
        }
        if old.contains(&0) && !self.uids.contains(&0) {
            if self.securebits & SECURE_KEEP_CAPS == 0 {
                (self.permitted, self.effective) = (0, 0);
            }
            // "Pre-ambient programs expect setresuid to nonroot followed by exec to drop capabilities."
            self.ambient = 0;
        }
        if old[1] == 0 && self.uids[1] != 0 {
            self.effective = 0;
        }
        if old[1] != 0 && self.uids[1] == 0 {
            self.effective = self.permitted;
        }
    }
}

/// seccomp of a thread.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Seccomp {
    /// Strict mode.
    pub is_strict: bool,
    /// Filters, the oldest first, with their flags.
    pub filters: Vec<(Arc<[u8]>, u64)>,
}

fn all_or(ids: [Option<u32>; 3], old: [u32; 3]) -> [u32; 3] {
    std::array::from_fn(|at| ids[at].unwrap_or(old[at]))
}

/// Whether `setresuid(2)` has nothing to do: then it does not touch the id for files either (kernel/sys.c,
/// `__sys_setresuid`).
fn is_no_change(ids: [Option<u32>; 3], old: [u32; 3], fs: u32) -> bool {
    let stays = (0..3).all(|at| ids[at].is_none_or(|id| id == old[at]));
    stays && ids[1].is_none_or(|id| id == fs)
}

impl World {
    fn credentials_mut(&mut self, tid: u32) -> &mut Credentials {
        self.write(Thing::Thread(tid));
        &mut self.thread_mut(tid).credentials
    }

    pub(super) fn change_privilege(&mut self, tid: u32, effect: &PrivilegeEffect) -> Call<i64> {
        self.read(Thing::Thread(tid));
        let old = self.thread(tid).credentials.clone();
        let may = |bit: u64| old.effective & bit != 0;
        let mut new = old.clone();
        match effect {
            PrivilegeEffect::Uids(ids) => {
                if is_no_change(*ids, old.uids, old.fsuid) {
                    return Ok(0);
                }
                new.uids = all_or(*ids, old.uids);
                if !may(CAP_SETUID) && new.uids.iter().any(|uid| !old.uids.contains(uid)) {
                    return fails(EPERM);
                }
                new.fsuid = new.uids[1];
                new.fix_uids(old.uids);
            }
            PrivilegeEffect::Gids(ids) => {
                if is_no_change(*ids, old.gids, old.fsgid) {
                    return Ok(0);
                }
                new.gids = all_or(*ids, old.gids);
                if !may(CAP_SETGID) && new.gids.iter().any(|gid| !old.gids.contains(gid)) {
                    return fails(EPERM);
                }
                new.fsgid = new.gids[1];
            }
            // They never say that they fail, and give what was before.
            PrivilegeEffect::FsUid(uid) => {
                if may(CAP_SETUID) || old.uids.contains(uid) || old.fsuid == *uid {
                    new.fsuid = *uid;
                    if old.securebits & SECURE_NO_SETUID_FIXUP == 0 {
                        if old.fsuid == 0 && *uid != 0 {
                            new.effective &= !CAP_FS;
                        }
                        if old.fsuid != 0 && *uid == 0 {
                            new.effective |= old.permitted & CAP_FS;
                        }
                    }
                }
                self.commit(tid, &old, new);
                return Ok(old.fsuid.into());
            }
            PrivilegeEffect::FsGid(gid) => {
                if may(CAP_SETGID) || old.gids.contains(gid) || old.fsgid == *gid {
                    new.fsgid = *gid;
                }
                self.commit(tid, &old, new);
                return Ok(old.fsgid.into());
            }
            PrivilegeEffect::Groups(groups) => {
                if !may(CAP_SETGID) {
                    return fails(EPERM);
                }
                new.groups = Some(groups.as_slice().into());
            }
            PrivilegeEffect::Capabilities { effective, permitted, inheritable } => {
                let within = |set: u64, of: u64| set & !of == 0;
                if !within(*permitted, old.permitted)
                    || !within(*effective, *permitted)
                    || !may(CAP_SETPCAP) && !within(*inheritable, old.inheritable | old.permitted)
                    || !within(*inheritable, old.inheritable | old.bounding)
                {
                    return fails(EPERM);
                }
                (new.effective, new.permitted, new.inheritable) = (*effective, *permitted, *inheritable);
                new.ambient &= permitted & inheritable;
            }
            PrivilegeEffect::RaiseAmbient(capability) => {
                // Above CAP_LAST_CAP.
                if *capability > 40 {
                    return fails(EINVAL);
                }
                let bit = 1u64 << capability;
                if old.permitted & old.inheritable & bit == 0
                    || old.securebits & SECURE_NO_CAP_AMBIENT_RAISE != 0
                {
                    return fails(EPERM);
                }
                new.ambient |= bit;
            }
            PrivilegeEffect::DropBounding(capability) => {
                if !may(CAP_SETPCAP) {
                    return fails(EPERM);
                }
                if *capability > 40 {
                    return fails(EINVAL);
                }
                new.bounding &= !(1u64 << capability);
            }
            PrivilegeEffect::Securebits(bits) => {
                let Ok(bits) = u32::try_from(*bits) else { return fails(EPERM) };
                let locked = (old.securebits & SECURE_LOCKS) >> 1;
                let unlocks = old.securebits & SECURE_LOCKS & !bits != 0;
                if locked & (old.securebits ^ bits) != 0
                    || unlocks
                    || bits & !SECUREBITS != 0
                    || !may(CAP_SETPCAP)
                {
                    return fails(EPERM);
                }
                new.securebits = bits;
            }
            PrivilegeEffect::KeepCaps(keep) => {
                if old.securebits & SECURE_KEEP_CAPS_LOCKED != 0 {
                    return fails(EPERM);
                }
                new.securebits =
                    old.securebits & !SECURE_KEEP_CAPS | if *keep { SECURE_KEEP_CAPS } else { 0 };
            }
            PrivilegeEffect::NoNewPrivs => new.no_new_privs = true,
            PrivilegeEffect::Seccomp(effect) => return self.set_seccomp(tid, effect, &old),
            PrivilegeEffect::Limit { resource, soft, hard } => {
                return self.set_limit(tid, *resource, (*soft, *hard), &old);
            }
        }
        self.commit(tid, &old, new);
        Ok(0)
    }

    /// `commit_creds`: who becomes somebody else is not dumpable any more, and hears no more of his
    /// parent's death.
    fn commit(&mut self, tid: u32, old: &Credentials, new: Credentials) {
        let is_other = (old.uids[1], old.gids[1], old.fsuid, old.fsgid)
            != (new.uids[1], new.gids[1], new.fsuid, new.fsgid)
            || new.permitted & !old.permitted != 0;
        if is_other {
            let dumpable = self.ground.host.suid_dumpable;
            self.space_mut(tid).dumpable = dumpable;
            self.attributes_mut(tid).parent_death_signal = 0;
        }
        *self.credentials_mut(tid) = new;
    }

    fn set_seccomp(&mut self, tid: u32, effect: &SeccompEffect, old: &Credentials) -> Call<i64> {
        /// SECCOMP_FILTER_FLAG_TSYNC.
        const SYNC: u64 = 1;
        self.write(Thing::Thread(tid));
        match effect {
            SeccompEffect::Strict => {
                let seccomp = &mut self.thread_mut(tid).seccomp;
                if !seccomp.filters.is_empty() {
                    return fails(EINVAL);
                }
                seccomp.is_strict = true;
            }
            SeccompEffect::Filter { program, flags } => {
                if old.effective & CAP_SYS_ADMIN == 0 && !old.no_new_privs {
                    return fails(EACCES);
                }
                let own = &mut self.thread_mut(tid).seccomp;
                if own.is_strict {
                    return fails(EINVAL);
                }
                let before = own.filters.clone();
                let filter = (program.clone(), flags & !SYNC);
                own.filters.push(filter);
                if flags & SYNC != 0 {
                    return self.synchronise(tid, &before);
                }
            }
        }
        Ok(0)
    }

    /// What filters say to a call is not modelled: they must be suspended.
    pub(super) fn check_filters(&mut self, tid: u32) -> Call<()> {
        let thread = self.thread(tid);
        let has_any = thread.seccomp.is_strict || !thread.seccomp.filters.is_empty();
        if !has_any || self.is_released && self.ground.suspended.contains(&tid) {
            return Ok(());
        }
        not_modelled("a call under seccomp")
    }

    /// All threads get the caller's filters, if theirs are the beginning of those.
    fn synchronise(&mut self, tid: u32, before: &[(Arc<[u8]>, u64)]) -> Call<i64> {
        let pid = self.thread(tid).process;
        let own = self.thread(tid).seccomp.clone();
        let no_new_privs = self.thread(tid).credentials.no_new_privs;
        let others: Vec<u32> = self
            .threads
            .iter()
            .filter(|(other, thread)| thread.process == pid && **other != tid)
            .map(|(other, _)| *other)
            .collect();
        for other in others {
            self.write(Thing::Thread(other));
            let thread = self.thread_mut(other);
            if thread.seccomp.is_strict || !before.starts_with(&thread.seccomp.filters) {
                return Ok(other.into());
            }
            thread.seccomp = own.clone();
            thread.credentials.no_new_privs |= no_new_privs;
        }
        Ok(0)
    }

    fn set_limit(
        &mut self,
        tid: u32,
        resource: u32,
        (soft, hard): (u64, u64),
        old: &Credentials,
    ) -> Call<i64> {
        const RLIMIT_NOFILE: u32 = 7;
        const RESOURCES: u32 = 16;
        if resource >= RESOURCES || soft > hard {
            return fails(EINVAL);
        }
        if resource == RLIMIT_NOFILE && hard > u64::from(self.ground.host.nr_open) {
            return fails(EPERM);
        }
        let pid = self.thread(tid).process;
        self.write(Thing::Process(pid));
        let now = self.process_of(tid).limits.get(&resource).copied();
        let is_raise = now.is_some_and(|(_, most)| hard > most);
        if is_raise && old.effective & CAP_SYS_RESOURCE == 0 {
            return fails(EPERM);
        }
        if resource > 15 {
            return not_modelled("a limit of another kernel");
        }
        self.process_mut(tid).limits.insert(resource, (soft, hard));
        Ok(0)
    }
}
