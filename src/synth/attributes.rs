//! What a task is beside its place in the tree, its descriptors and its memory.
//!
//! Where nothing is said, tasks are as whoever writes the images. Every attribute is one that the payload can ask
//! for and leaves as it is: the mask of new files is changed and changed back.
//!
//! Example: `Attributes { nice: Some(3), .. }` puts 3 into the model, and `getpriority() = 17` into the checks.

use super::payload::{Check, Deed, SCRATCH};
use crate::image::{Creds, RLimit, SigAction, Thread};

/// Attributes that can be other than the writer's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Its name, at most 15 bytes.
    pub name: Option<String>,
    /// The mask of new files.
    pub umask: Option<u32>,
    /// -20 to 19.
    pub nice: Option<i32>,
    /// `PR_SET_CHILD_SUBREAPER`.
    pub subreaper: bool,
    /// `PR_SET_PDEATHSIG`; 0: none.
    pub parent_death_signal: u32,
    /// `PR_SET_DUMPABLE` of 0.
    pub undumpable: bool,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// Blocked signals: bit 0 is signal 1.
    pub blocked: u64,
    /// Other actions than the default, by signal.
    pub actions: Vec<(u32, Action)>,
    /// Other limits than the writer's, none above them.
    pub limits: Vec<(u32, RLimit)>,
    /// Other credentials than the writer's.
    pub credentials: Option<Credentials>,
}

/// What is done on a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action {
    /// `SIG_IGN` (1) or an address.
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Blocked while it runs.
    pub mask: u64,
}

/// Ids of a task that has given up some or all of its capabilities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Real, effective, saved user.
    pub uids: [u32; 3],
    /// Real, effective, saved group.
    pub gids: [u32; 3],
    /// Supplementary groups, ascending.
    pub groups: Vec<u32>,
    /// Which of the writer's capabilities are kept; ambient ones are none.
    pub keep: u64,
    /// Which of those are effective.
    pub effective: u64,
}

/// Bytes of a `struct sigaction` of the kernel.
const SIGACTION_BYTES: u64 = 32;
/// `SA_RESTORER`.
const SA_RESTORER: u64 = 0x0400_0000;

impl Attributes {
    /// The action on a signal.
    pub(super) fn action(&self, signal: u32) -> SigAction {
        let found = self.actions.iter().find(|(of, _)| *of == signal);
        found.map_or(SigAction::default(), |(_, action)| SigAction {
            handler: action.handler,
            flags: action.flags | SA_RESTORER,
            restorer: 0x4000_0000,
            mask: action.mask,
            compat: false,
        })
    }

    pub(super) fn limit(&self, resource: usize, own: RLimit) -> RLimit {
        self.limits.iter().find(|(of, _)| *of as usize == resource).map_or(own, |(_, limit)| *limit)
    }

    /// Sets what a thread has of them. `own`: the writer's credentials.
    pub(super) fn set(&self, thread: &mut Thread, own: &Creds) {
        thread.sched.nice = self.nice.unwrap_or(thread.sched.nice);
        thread.pdeath_sig = self.parent_death_signal;
        thread.blocked = self.blocked;
        let mut creds = own.clone();
        creds.no_new_privs |= self.no_new_privs;
        if let Some(wanted) = &self.credentials {
            [creds.uid, creds.euid, creds.suid] = wanted.uids;
            [creds.gid, creds.egid, creds.sgid] = wanted.gids;
            (creds.fsuid, creds.fsgid) = (creds.euid, creds.egid);
            creds.groups.clone_from(&wanted.groups);
            creds.cap_prm &= wanted.keep;
            creds.cap_eff = creds.cap_prm & wanted.effective;
            (creds.cap_inh, creds.cap_amb) = (0, 0);
        }
        thread.creds = Some(Box::new(creds));
    }

    /// What a task can ask of itself.
    pub(super) fn checks(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        let mut call = |what: &str, number: i64, args: &[u64], result: i64, bytes: Option<Vec<u8>>| {
            let mut six = [0; 6];
            six[..args.len()].copy_from_slice(args);
            let deed = Deed::Call { number, args: six, result };
            checks.push(Check { what: format!("its {what}"), deed });
            if let Some(bytes) = bytes {
                let deed = Deed::Bytes { address: SCRATCH, bytes };
                checks.push(Check { what: format!("its {what}, as told"), deed });
            }
        };
        let ask = |option: i32| [option as u64, SCRATCH];
        let mut name = self.name.as_deref().unwrap_or("twig").as_bytes().to_vec();
        name.resize(16, 0);
        call("name", libc::SYS_prctl, &ask(libc::PR_GET_NAME), 0, Some(name));
        let umask = self.umask.unwrap_or(0o022);
        call("umask", libc::SYS_umask, &[0o022], umask.into(), None);
        call("umask", libc::SYS_umask, &[umask.into()], 0o022, None);
        if let Some(nice) = self.nice {
            call("nice value", libc::SYS_getpriority, &[0, 0], (20 - nice).into(), None);
        }
        let word = |value: u32| Some(value.to_le_bytes().to_vec());
        let subreaper = ask(libc::PR_GET_CHILD_SUBREAPER);
        call("being a subreaper", libc::SYS_prctl, &subreaper, 0, word(self.subreaper.into()));
        let death = word(self.parent_death_signal);
        call("parent-death signal", libc::SYS_prctl, &ask(libc::PR_GET_PDEATHSIG), 0, death);
        let dumpable = [libc::PR_GET_DUMPABLE as u64];
        call("being dumpable", libc::SYS_prctl, &dumpable, (!self.undumpable).into(), None);
        if self.no_new_privs {
            call("no_new_privs", libc::SYS_prctl, &[libc::PR_GET_NO_NEW_PRIVS as u64], 1, None);
        }
        let blocked = Some(self.blocked.to_le_bytes().to_vec());
        call("blocked signals", libc::SYS_rt_sigprocmask, &[0, 0, SCRATCH, 8], 0, blocked);
        for (signal, _) in &self.actions {
            let SigAction { handler, flags, restorer, mask, .. } = self.action(*signal);
            let bytes: Vec<u8> =
                [handler, flags, restorer, mask].iter().flat_map(|word| word.to_le_bytes()).collect();
            debug_assert_eq!(bytes.len() as u64, SIGACTION_BYTES);
            let args = [u64::from(*signal), 0, SCRATCH, 8];
            call(&format!("action on signal {signal}"), libc::SYS_rt_sigaction, &args, 0, Some(bytes));
        }
        for (resource, limit) in &self.limits {
            let bytes = [limit.cur, limit.max].iter().flat_map(|word| word.to_le_bytes()).collect();
            let args = [0, u64::from(*resource), 0, SCRATCH];
            call(&format!("limit {resource}"), libc::SYS_prlimit64, &args, 0, Some(bytes));
        }
        if let Some(wanted) = &self.credentials {
            let bytes = |ids: &[u32]| Some(ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>());
            let three = [SCRATCH, SCRATCH + 4, SCRATCH + 8];
            call("user ids", libc::SYS_getresuid, &three, 0, bytes(&wanted.uids));
            call("group ids", libc::SYS_getresgid, &three, 0, bytes(&wanted.gids));
            let count = wanted.groups.len();
            let told = (count > 0).then(|| bytes(&wanted.groups)).flatten();
            call("groups", libc::SYS_getgroups, &[count as u64, SCRATCH], count as i64, told);
        }
        checks
    }

    /// What is wrong with them, in words.
    pub(super) fn faults(&self) -> Vec<&'static str> {
        let mut faults = Vec::new();
        let mut bad = |is: bool, what| faults.extend(is.then_some(what));
        bad(
            self.name.as_ref().is_some_and(|name| name.len() > 15 || name.contains('\0')),
            "its name is none",
        );
        bad(self.umask.is_some_and(|mask| mask > 0o777), "its mask of new files is none");
        bad(self.nice.is_some_and(|nice| !(-20..20).contains(&nice)), "its nice value is none");
        bad(self.parent_death_signal > 64, "its parent-death signal is none");
        let can_change = |signal: u32| (1..=64).contains(&signal) && signal != 9 && signal != 19;
        bad(self.actions.iter().any(|(signal, _)| !can_change(*signal)), "an action on what is no signal");
        bad(self.blocked & (1 << 8 | 1 << 18) != 0, "SIGKILL and SIGSTOP are never blocked");
        let is_limit = |(resource, limit): &(u32, RLimit)| *resource < 16 && limit.cur <= limit.max;
        bad(!self.limits.iter().all(is_limit), "a limit of nothing, or above the hard one");
        let groups = self.credentials.iter().flat_map(|it| it.groups.windows(2));
        bad(groups.into_iter().any(|pair| pair[0] >= pair[1]), "its groups do not ascend");
        faults
    }
}
