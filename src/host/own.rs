//! This process: what a child of it would inherit and what it is allowed to do.
//!
//! In: `/proc/self`, limits and prctl. Out: [`OwnFacts`], the known starting state of the root
//! task, whose every attribute the plan must set where the images differ. It does not know the
//! images.
//!
//! Example: started by an init system with `nice 5`, and `oom_score_adj` at -900: the root of the
//! tree would run so too, unless the plan puts both right.

use std::os::unix::fs::MetadataExt;

use nix::sys::resource::{Resource, getrlimit};

use super::{raw, read_number, read_text, status_field};
use crate::image::RLimit;

/// The 16 resource limits by their numbers (asm-generic/resource.h).
const RESOURCES: [Resource; 16] = [
    Resource::RLIMIT_CPU,
    Resource::RLIMIT_FSIZE,
    Resource::RLIMIT_DATA,
    Resource::RLIMIT_STACK,
    Resource::RLIMIT_CORE,
    Resource::RLIMIT_RSS,
    Resource::RLIMIT_NPROC,
    Resource::RLIMIT_NOFILE,
    Resource::RLIMIT_MEMLOCK,
    Resource::RLIMIT_AS,
    Resource::RLIMIT_LOCKS,
    Resource::RLIMIT_SIGPENDING,
    Resource::RLIMIT_MSGQUEUE,
    Resource::RLIMIT_NICE,
    Resource::RLIMIT_RTPRIO,
    Resource::RLIMIT_RTTIME,
];

/// Attributes of regrow's own process.
#[derive(Debug, Clone, Default)]
pub struct OwnFacts {
    /// Its pid, as it sees it itself.
    pub pid: u32,
    /// Its parent's pid; 0 if the parent lies outside the pid namespace.
    pub ppid: u32,
    /// Its process group and session; 0: of outside the pid namespace.
    pub pgid: Option<u32>,
    /// See `pgid`.
    pub sid: Option<u32>,
    /// Limits by number; `u64::MAX` is unlimited.
    pub rlimits: [Option<RLimit>; 16],
    /// User ids.
    pub uids: Option<Ids>,
    /// Group ids.
    pub gids: Option<Ids>,
    /// Supplementary groups, in the kernel's order (ascending).
    pub groups: Option<Vec<u32>>,
    /// Capability sets; all empty if they could not be read.
    pub caps: CapSets,
    /// `PR_GET_SECUREBITS`.
    pub securebits: Option<u32>,
    /// `PR_GET_NO_NEW_PRIVS`.
    pub no_new_privs: Option<bool>,
    /// 0 disabled, 1 strict, 2 filter.
    pub seccomp_mode: Option<u32>,
    /// Whether it lives in the first user namespace, where some capabilities are asked for.
    pub is_in_first_user_ns: Option<bool>,
    /// `personality(2)`.
    pub personality: Option<u32>,
    /// `PR_GET_DUMPABLE`: 0, 1 or 2.
    pub dumpable: Option<u32>,
    /// -20 to 19.
    pub nice: Option<i32>,
    /// `SCHED_*`.
    pub sched_policy: Option<u32>,
    /// Of a real-time policy, else 0.
    pub sched_priority: Option<u32>,
    /// `oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// Login uid; `u32::MAX` is unset. `None` where the kernel has no audit.
    pub loginuid: Option<u32>,
    /// (controllers, path) of `/proc/self/cgroup`: controllers as the kernel writes them (`cpu,cpuacct`,
    /// `name=systemd`), empty for the unified hierarchy.
    pub cgroups: Vec<(String, String)>,
    /// Timer slack. Inherited by children.
    pub timer_slack_ns: Option<u64>,
    /// `PR_SET_THP_DISABLE`. Inherited by children.
    pub thp_disabled: Option<bool>,
    /// Whether orphans below become children of this process. Not inherited.
    pub is_child_subreaper: Option<bool>,
    /// Blocked signals: bit 0 is signal 1.
    pub signals_blocked: Option<u64>,
    /// Ignored signals. Inherited by children.
    pub signals_ignored: Option<u64>,
}

/// User ids or group ids of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Ids {
    pub real: u32,
    pub effective: u32,
    pub saved: u32,
    pub fs: u32,
}

/// Capability sets: bit N is capability N.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct CapSets {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub bounding: u64,
    pub ambient: u64,
}

impl CapSets {
    /// Whether capability `number` is effective.
    pub fn has_effective(&self, number: u32) -> bool {
        number < u64::BITS && self.effective & (1 << number) != 0
    }
}

pub(super) fn gather() -> OwnFacts {
    let status = read_text("/proc/self/status").unwrap_or_default();
    let stat = Stat::parse(&read_text("/proc/self/stat").unwrap_or_default());
    let mut own = OwnFacts {
        pid: std::process::id(),
        ppid: std::os::unix::process::parent_id(),
        rlimits: RESOURCES.map(|resource| getrlimit(resource).ok().map(|(cur, max)| RLimit { cur, max })),
        securebits: raw::prctl_get(libc::PR_GET_SECUREBITS).ok(),
        is_in_first_user_ns: user_ns_is_first(),
        personality: raw::personality().ok(),
        dumpable: raw::prctl_get(libc::PR_GET_DUMPABLE).ok(),
        oom_score_adj: read_number("/proc/self/oom_score_adj"),
        loginuid: read_number("/proc/self/loginuid"),
        cgroups: parse_cgroups(&read_text("/proc/self/cgroup").unwrap_or_default()),
        timer_slack_ns: raw::prctl_get(libc::PR_GET_TIMERSLACK).ok().map(u64::from),
        thp_disabled: raw::prctl_get(libc::PR_GET_THP_DISABLE).ok().map(|value| value & 1 != 0),
        is_child_subreaper: nix::sys::prctl::get_child_subreaper().ok(),
        ..parse_status(&status, stat)
    };
    // A child does not run as we do then (sched(7)).
    if raw::policy().is_ok_and(|policy| policy & libc::SCHED_RESET_ON_FORK as u32 != 0) {
        own.reset_on_fork();
    }
    own
}

impl OwnFacts {
    /// What SCHED_RESET_ON_FORK leaves to a child (kernel/sched/core.c, `sched_fork`).
    fn reset_on_fork(&mut self) {
        let real_time = [libc::SCHED_FIFO, libc::SCHED_RR, libc::SCHED_DEADLINE].map(|policy| policy as u32);
        if self.sched_policy.is_some_and(|policy| real_time.contains(&policy)) {
            self.sched_policy = Some(libc::SCHED_OTHER as u32);
            self.sched_priority = Some(0);
            self.nice = self.nice.map(|_| 0);
        }
        self.nice = self.nice.map(|nice| nice.max(0));
    }
}

/// The first user namespace has an inode number of its own (linux/proc_ns.h, PROC_USER_INIT_INO).
fn user_ns_is_first() -> Option<bool> {
    const FIRST: u64 = 0xefff_fffd;
    Some(std::fs::metadata("/proc/self/ns/user").ok()?.ino() == FIRST)
}

/// What the text of `/proc/self/status` and the numbers of `/proc/self/stat` say.
fn parse_status(status: &str, stat: Option<Stat>) -> OwnFacts {
    let field = |key| status_field(status, key);
    let hex = |key| u64::from_str_radix(field(key)?, 16).ok();
    let caps = |key| hex(key).unwrap_or_default();
    OwnFacts {
        pgid: stat.map(|s| s.pgid),
        sid: stat.map(|s| s.sid),
        nice: stat.map(|s| s.nice),
        sched_policy: stat.map(|s| s.policy),
        sched_priority: stat.map(|s| s.rt_priority),
        uids: field("Uid").and_then(parse_ids),
        gids: field("Gid").and_then(parse_ids),
        groups: field("Groups").and_then(parse_numbers),
        caps: CapSets {
            effective: caps("CapEff"),
            permitted: caps("CapPrm"),
            inheritable: caps("CapInh"),
            bounding: caps("CapBnd"),
            ambient: caps("CapAmb"),
        },
        no_new_privs: field("NoNewPrivs").map(|text| text != "0"),
        seccomp_mode: field("Seccomp").and_then(|text| text.parse().ok()),
        signals_blocked: hex("SigBlk"),
        signals_ignored: hex("SigIgn"),
        ..OwnFacts::default()
    }
}

/// The numbers of `/proc/PID/stat` that are wanted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    pgid: u32,
    sid: u32,
    nice: i32,
    rt_priority: u32,
    policy: u32,
}

impl Stat {
    fn parse(text: &str) -> Option<Stat> {
        // The name, field 2, may hold blanks and parentheses; field 3 follows the last ')'.
        let (_, after_comm) = text.rsplit_once(')')?;
        let fields: Vec<&str> = after_comm.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Stat {
            pgid: field(5)?.parse().ok()?,
            sid: field(6)?.parse().ok()?,
            nice: field(19)?.parse().ok()?,
            rt_priority: field(40)?.parse().ok()?,
            policy: field(41)?.parse().ok()?,
        })
    }
}

fn parse_numbers(text: &str) -> Option<Vec<u32>> {
    text.split_ascii_whitespace().map(|number| number.parse().ok()).collect()
}

fn parse_ids(text: &str) -> Option<Ids> {
    match parse_numbers(text)?[..] {
        [real, effective, saved, fs] => Some(Ids { real, effective, saved, fs }),
        _ => None,
    }
}

fn parse_cgroups(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let (_hierarchy, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            Some((String::from(controllers), String::from(path)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_a_hostile_name() {
        let numbers: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let check = |name: &str| {
            let text = format!("7 ({name}) S {}", numbers.join(" "));
            let expected = Stat { pgid: 5, sid: 6, nice: 19, rt_priority: 40, policy: 41 };
            assert_eq!(Stat::parse(&text), Some(expected), "{text}");
        };
        check("sh");
        check("a b) R 1 (");
        assert_eq!(Stat::parse("7 (sh) S 1 2"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn status_gives_credentials() {
        let facts = parse_status(
            "Name:\tx\nUid:\t0\t1\t2\t3\nGid:\t4\t4\t4\t4\nGroups:\t5 6 \nSigBlk:\t0000000000000001\n\
             SigIgn:\t0000000000001000\nCapEff:\t000001ffffffffff\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t9\n",
            None,
        );
        assert_eq!(facts.uids, Some(Ids { real: 0, effective: 1, saved: 2, fs: 3 }));
        assert_eq!(facts.groups, Some(vec![5, 6]));
        assert!(
            facts.caps.has_effective(40) && !facts.caps.has_effective(41) && !facts.caps.has_effective(64)
        );
        assert_eq!((facts.no_new_privs, facts.seccomp_mode), (Some(true), Some(2)));
        assert_eq!((facts.signals_blocked, facts.signals_ignored), (Some(1), Some(1 << 12)));
        assert_eq!(parse_status("", None).groups, None);
    }

    #[test]
    fn a_policy_that_children_do_not_inherit() {
        let check = |policy: u32, priority: u32, nice: i32, expected: (u32, u32, i32)| {
            let mut own = OwnFacts {
                sched_policy: Some(policy),
                sched_priority: Some(priority),
                nice: Some(nice),
                ..OwnFacts::default()
            };
            own.reset_on_fork();
            let (policy, priority, nice) = expected;
            assert_eq!(
                (own.sched_policy, own.sched_priority, own.nice),
                (Some(policy), Some(priority), Some(nice))
            );
        };
        check(1, 50, 5, (0, 0, 0));
        check(0, 0, -5, (0, 0, 0));
        check(3, 0, 5, (3, 0, 5));
    }

    #[test]
    fn cgroups_of_both_versions() {
        let check = |line: &str, expected: (&str, &str)| {
            assert_eq!(parse_cgroups(line), [(String::from(expected.0), String::from(expected.1))]);
        };
        check("0::/user.slice/a:b", ("", "/user.slice/a:b"));
        check("4:cpu,cpuacct:/", ("cpu,cpuacct", "/"));
        check("9:name=systemd:/x", ("name=systemd", "/x"));
    }

    #[test]
    fn this_process_is_known_completely() {
        let own = gather();
        let missing = [
            own.pgid.is_none(),
            own.sid.is_none(),
            own.rlimits.iter().any(Option::is_none),
            own.uids.is_none(),
            own.gids.is_none(),
            own.groups.is_none(),
            own.securebits.is_none(),
            own.no_new_privs.is_none(),
            own.seccomp_mode.is_none(),
            own.is_in_first_user_ns.is_none(),
            own.personality.is_none(),
            own.dumpable.is_none(),
            own.nice.is_none(),
            own.oom_score_adj.is_none(),
            own.cgroups.is_empty(),
            own.timer_slack_ns.is_none(),
            own.thp_disabled.is_none(),
            own.is_child_subreaper.is_none(),
        ];
        assert!(!missing.contains(&true), "{own:#?}");
    }
}
