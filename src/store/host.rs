//! What a plan relies on of the host it was made on, and whether that is still so.
//!
//! Every fact is a name and a value in words: so a stale plan is refused with what it was and what it is.
//! Only what was relied on is stored. What the root inherits and the plan does not set is known by the
//! certificate, which counts it; what the resolution looked at beside that (privileges, limits, what the
//! kernel has) is in one table, `named`. Files and pids are asked for anew.
//!
//! Worked example: a plan made on Linux 6.18.1 has `("Linux", Same, "6.18.1")` among its facts; on 6.18.2 it
//! is answered with `planned on Linux 6.18.1, this is 6.18.2`.

use std::collections::{BTreeMap, BTreeSet};

use regrow_graph::verify::{AttributeKind, Value};
use serde::{Deserialize, Serialize};

use crate::certify::{DumpedClocks, Inherited};
use crate::host::{FileFact, Hierarchy, HostFacts, Probe, Questions, Taken};
use crate::image::{Model, NsPid, OfdKind};
use crate::pipeline::Prepared;
use crate::resolve::problem::{Problem, ProblemKind};
use crate::tape::Tapes;
use crate::tape::abi::UFFDIO_MOVE;

/// What a plan relies on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relied {
    /// Facts about the host and the caller.
    pub facts: Vec<Fact>,
    /// Files that the images name, as they were found.
    pub files: Vec<File>,
}

/// A fact about the host or the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What it is about.
    pub name: String,
    /// What must hold of it now.
    pub rule: Rule,
    /// What it was.
    pub value: String,
}

/// What must hold of a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rule {
    /// It is as it was.
    Same,
    /// It is a number that is not smaller than it was.
    AtLeast,
}

/// A file that the images name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its path.
    pub path: String,
    /// Whether its permissions, its length and its build-id are those of the dump, and so relied on.
    pub asks: [bool; 3],
    /// What was found there, as far as it is relied on.
    pub found: String,
}

/// When a fact is relied on.
pub(super) enum When {
    Always,
    /// The certificate says so, by this name.
    Counted,
    /// If this holds.
    If(bool),
}

/// All facts that a plan may rely on, of this host.
pub(super) fn named(facts: &HostFacts, tapes: &Tapes, has_cradle: bool) -> Vec<(When, Fact)> {
    let mut all = Vec::new();
    let mut add = |when: When, rule: Rule, name: &str, value: Option<String>| {
        all.extend(value.map(|value| (when, Fact { name: name.to_owned(), rule, value })));
    };
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    let (own, kernel) = (&facts.own, &facts.kernel);

    add(When::Always, Rule::Same, "Linux", kernel.release.clone());
    let vdso = facts.vdso.as_ref().map_or_else(
        || "none".to_owned(),
        |vdso| {
            let mappings: Vec<String> = vdso
                .mappings
                .iter()
                .map(|mapping| format!("{} {}+{}", mapping.name, mapping.offset_bytes, mapping.size_bytes))
                .collect();
            let hash = blake3::hash(&vdso.bytes).to_hex();
            format!("{} ({})", hash.get(..16).unwrap_or_default(), mappings.join(", "))
        },
    );
    add(When::Always, Rule::Same, "the vDSO", Some(vdso));
    let xsave = facts.xsave.as_ref().map_or_else(
        || "none".to_owned(),
        |layout| {
            let components: Vec<String> = layout
                .components
                .iter()
                .map(|part| format!("{} {}+{}", part.number, part.offset_bytes, part.size_bytes))
                .collect();
            let (mask, size, mxcsr) = (layout.mask, layout.size_bytes, layout.mxcsr_mask);
            format!("{mask:#x} of {size} bytes, MXCSR {mxcsr:#x}, components {}", components.join(", "))
        },
    );
    add(When::Always, Rule::Same, "the CPU's extended state", Some(xsave));

    // What the caller is: credentials are changed from there, and all that is done needs its privileges.
    for (name, ids) in [("user ids", own.uids), ("group ids", own.gids)] {
        let value = ids.map(|ids| format!("{} {} {} {}", ids.real, ids.effective, ids.saved, ids.fs));
        add(When::Always, Rule::Same, name, value);
    }
    add(When::Always, Rule::Same, "groups", own.groups.as_ref().map(|groups| format!("{groups:?}")));
    for (name, set) in [
        ("effective capabilities", own.caps.effective),
        ("permitted capabilities", own.caps.permitted),
        ("inheritable capabilities", own.caps.inheritable),
        ("bounding capabilities", own.caps.bounding),
        ("ambient capabilities", own.caps.ambient),
    ] {
        add(When::Always, Rule::Same, name, Some(format!("{set:#x}")));
    }
    add(When::Always, Rule::Same, "securebits", own.securebits.map(|bits| format!("{bits:#x}")));
    add(When::Always, Rule::Same, "no_new_privs", own.no_new_privs.map(|value| value.to_string()));
    add(When::Always, Rule::Same, "seccomp mode", number(own.seccomp_mode.map(u64::from)));
    let in_first = own.is_in_first_user_ns.map(|is_first| if is_first { "the first" } else { "another" });
    add(When::Always, Rule::Same, "user namespace", in_first.map(str::to_owned));
    for (index, limit) in own.rlimits.iter().enumerate() {
        let name = format!("hard resource limit {index}");
        add(When::Always, Rule::AtLeast, &name, number(limit.map(|limit| limit.max)));
    }
    add(When::If(has_cradle), Rule::Same, "the caller's session", number(own.sid.map(u64::from)));
    add(When::If(has_cradle), Rule::Same, "the caller's process group", number(own.pgid.map(u64::from)));

    // What the kernel has and allows.
    let suid_dumpable = number(kernel.suid_dumpable.map(u64::from));
    add(When::Always, Rule::Same, "fs.suid_dumpable", suid_dumpable);
    add(When::Always, Rule::AtLeast, "kernel.pid_max", number(facts.pids.pid_max.map(u64::from)));
    add(When::Always, Rule::AtLeast, "fs.nr_open", number(kernel.nr_open));
    add(When::Always, Rule::AtLeast, "fs.pipe-max-size", number(kernel.pipe_max_size_bytes));
    add(When::Always, Rule::AtLeast, "vm.max_map_count", number(kernel.max_map_count));
    add(When::Always, Rule::Same, "vm.memfd_noexec", number(kernel.memfd_noexec.map(u64::from)));
    for (name, probe) in [
        ("clone3 with set_tid", kernel.clone3_set_tid),
        ("prctl(PR_SET_MM_MAP)", kernel.set_mm_map),
        ("arch_prctl(ARCH_MAP_VDSO_64)", kernel.map_vdso_64),
        ("process_vm_writev(2)", kernel.process_vm_writev),
        ("close_range(2)", kernel.close_range),
        ("/proc/PID/map_files", kernel.map_files),
        ("prctl(PR_TIMER_CREATE_RESTORE_IDS)", kernel.timer_restore_ids),
    ] {
        let value = match probe {
            Probe::Present => "there".to_owned(),
            Probe::Unknown => "unknown".to_owned(),
            Probe::Absent(errno) => format!("not there ({})", errno.desc()),
        };
        add(When::If(probe.is_present()), Rule::Same, name, Some(value));
    }
    for (bytes, free) in &facts.huge_pages {
        // How many are needed is told with the plan.
        add(When::If(false), Rule::AtLeast, &huge_pages(*bytes), Some(free.to_string()));
    }
    let userfaultfd = match kernel.userfaultfd {
        Probe::Present => "there".to_owned(),
        Probe::Unknown => "unknown".to_owned(),
        Probe::Absent(errno) => format!("not there ({})", errno.desc()),
    };
    let copies = tapes.has_call(libc::SYS_userfaultfd);
    add(When::If(copies), Rule::Same, "userfaultfd(2)", Some(userfaultfd));
    let moves = tapes.has_record(|record| record.is_call(libc::SYS_ioctl) && record.args[1] == UFFDIO_MOVE);
    let moving = if kernel.moves_pages { "there" } else { "not there" };
    add(When::If(moves), Rule::Same, "UFFDIO_MOVE", Some(moving.to_owned()));
    // How long the kernel makes rings, and how many events they have room for.
    let has_rings = tapes.has_call(libc::SYS_io_setup);
    let processors = number(kernel.possible_processors.map(u64::from));
    add(When::If(has_rings), Rule::Same, "possible processors", processors);
    // How many are needed is told with the plan.
    add(When::If(false), Rule::AtLeast, AIO_REQUESTS, number(kernel.aio_requests_free()));
    let time = if kernel.time_namespaces { "there" } else { "not there" };
    add(When::If(tapes.clocks_ns.is_some()), Rule::Same, "time namespaces", Some(time.to_owned()));

    // Where tasks are moved, if they are, is told with the plan.
    for hierarchy in &facts.hierarchies {
        let Fact { name, rule, value } = hierarchy_fact(hierarchy);
        add(When::If(false), rule, &name, Some(value));
    }

    // What the root inherits.
    for (kind, value) in &Inherited::of(facts).0 {
        match value {
            Value::Limits(limits) => {
                for (index, limit) in limits.iter().enumerate() {
                    let value = limit.map(|limit| format!("{} of {}", limit.soft, limit.hard));
                    add(When::Counted, Rule::Same, &format!("resource limit {index}"), value);
                }
            }
            // Told above, whether they are inherited or changed.
            _ if is_of_caller(*kind) || *kind == AttributeKind::Cgroups => {}
            value => add(When::Counted, Rule::Same, kind.row().name, Some(value.shown(*kind))),
        }
    }
    all
}

/// How many requests rings may still be asked for with.
const AIO_REQUESTS: &str = "free AIO requests";

/// How the names of facts about hierarchies of cgroups begin.
const HIERARCHY: &str = "the cgroup hierarchy ";

/// Where the caller is in a hierarchy, and where that is mounted.
fn hierarchy_fact(hierarchy: &Hierarchy) -> Fact {
    let name = if hierarchy.name.is_empty() { "of version 2" } else { &hierarchy.name };
    let place = match &hierarchy.mount {
        Some(mount) => format!("its {} mounted at {}", mount.root, mount.point),
        None => "mounted nowhere".to_owned(),
    };
    let value = format!("({place}, the caller in {})", hierarchy.own);
    Fact { name: format!("{HIERARCHY}{name}"), rule: Rule::Same, value }
}

fn huge_pages(bytes: u64) -> String {
    format!("free huge pages of {bytes} bytes")
}

/// Whether it is one of the caller's credentials, or what holds them down.
fn is_of_caller(kind: AttributeKind) -> bool {
    use AttributeKind as Kind;
    [
        Kind::Uid,
        Kind::EffectiveUid,
        Kind::SavedUid,
        Kind::FsUid,
        Kind::Gid,
        Kind::EffectiveGid,
        Kind::SavedGid,
        Kind::FsGid,
        Kind::Groups,
        Kind::CapEffective,
        Kind::CapPermitted,
        Kind::CapInheritable,
        Kind::CapBounding,
        Kind::CapAmbient,
        Kind::Securebits,
        Kind::KeepCaps,
        Kind::NoNewPrivs,
        Kind::Seccomp,
    ]
    .contains(&kind)
}

impl Relied {
    /// What a plan relies on.
    pub fn of(prepared: &Prepared) -> Relied {
        let cradle = &prepared.ground.cradle;
        let has_cradle = cradle.sid.is_some() || cradle.pgid.is_some();
        let counted: BTreeSet<&str> = prepared.certificate.host_facts.iter().map(String::as_str).collect();
        let facts = named(&prepared.facts, &prepared.tapes, has_cradle)
            .into_iter()
            .filter(|(when, fact)| match when {
                When::Always => true,
                When::Counted => counted.contains(fact.name.as_str()),
                When::If(holds) => *holds,
            })
            .map(|(_, fact)| fact);
        let needed = crate::resolve::needed_huge_pages(&prepared.model, &prepared.facts).into_iter();
        let huge = needed.map(|(bytes, pages)| Fact {
            name: huge_pages(bytes),
            rule: Rule::AtLeast,
            value: pages.to_string(),
        });
        let rings = crate::resolve::needed_aio_requests(&prepared.model).map(|requests| Fact {
            name: AIO_REQUESTS.to_owned(),
            rule: Rule::AtLeast,
            value: requests.to_string(),
        });
        let is_needed = !prepared.demands.expected.hierarchies.is_empty();
        let hierarchies = prepared.facts.hierarchies.iter().filter(|_| is_needed).map(hierarchy_fact);
        let facts = facts.chain(huge).chain(rings).chain(hierarchies).collect();
        let asked = asked(&prepared.model);
        // What is below /proc of the tree's own tasks is not there yet, whatever is there now.
        let own: BTreeSet<String> =
            prepared.tapes.tasks.iter().map(|task| format!("/proc/{}", task.pid)).collect();
        let is_own = |path: &str| {
            let end = path.match_indices('/').nth(2).map_or(path.len(), |(at, _)| at);
            own.contains(&path[..end])
        };
        let files = prepared
            .facts
            .files
            .iter()
            .filter(|(path, _)| !is_own(path))
            .map(|(path, fact)| {
                let asks = asked.get(path.as_str()).copied().unwrap_or_default();
                File { path: path.clone(), asks, found: found(fact, asks) }
            })
            .collect();
        Relied { facts, files }
    }

    /// What to ask this host before the tapes can play on it.
    pub fn questions(&self, tapes: &Tapes) -> Questions {
        Questions {
            tasks: tapes.tasks.iter().map(|task| NsPid(task.pid)).collect(),
            paths: self.files.iter().map(|file| (file.path.clone(), file.asks[2])).collect(),
            hierarchies: self.facts.iter().any(|fact| fact.name.starts_with(HIERARCHY)),
        }
    }

    /// What is not as it was.
    pub fn differences(&self, facts: &HostFacts, tapes: &Tapes) -> Vec<Problem> {
        let stale = |text: String| Problem { kind: ProblemKind::StalePlan, task: None, text, origin: None };
        let mut problems = Vec::new();
        let here: BTreeMap<String, String> =
            named(facts, tapes, true).into_iter().map(|(_, fact)| (fact.name, fact.value)).collect();
        for fact in &self.facts {
            let now = here.get(&fact.name).map_or("unknown", String::as_str);
            if !fact.rule.holds(&fact.value, now) {
                problems.push(stale(fact.difference(now)));
            }
        }
        for file in &self.files {
            let now = facts.files.get(&file.path).map(|fact| found(fact, file.asks));
            if now.as_ref() != Some(&file.found) {
                let now = now.unwrap_or_else(|| "not looked at".to_owned());
                let text = format!("{}: planned with {}, here is {now}", file.path, file.found);
                let kind = ProblemKind::FileChanged;
                problems.push(Problem { kind, task: None, text, origin: None });
            }
        }
        problems
    }
}

impl Rule {
    fn holds(self, was: &str, now: &str) -> bool {
        match self {
            Rule::Same => was == now,
            Rule::AtLeast => match (was.parse::<u64>(), now.parse::<u64>()) {
                (Ok(was), Ok(now)) => now >= was,
                _ => false,
            },
        }
    }
}

impl Fact {
    fn difference(&self, now: &str) -> String {
        let Fact { name, rule, value } = self;
        match (name.as_str(), rule) {
            ("Linux", _) => format!("planned on Linux {value}, this is {now}"),
            (_, Rule::Same) => format!("planned with {name} {value}, here it is {now}"),
            (_, Rule::AtLeast) => format!("planned with {name} {value}, here it is only {now}"),
        }
    }
}

/// Of each path whether the images say its permissions, its length, its build-id.
fn asked(model: &Model) -> BTreeMap<&str, [bool; 3]> {
    let mut asked: BTreeMap<&str, [bool; 3]> = BTreeMap::new();
    for ofd in &model.ofds {
        if let OfdKind::Reg(file) = &ofd.kind
            && !file.is_external
        {
            let [mode, size, build_id] = asked.entry(&file.path).or_default();
            *mode |= file.mode.is_some();
            *size |= file.size_bytes.is_some();
            *build_id |= !file.build_id.is_empty();
        }
    }
    asked
}

/// What is at a path, in words, as far as it is relied on.
fn found(fact: &FileFact, [mode, size, build_id]: [bool; 3]) -> String {
    let link = if fact.is_symlink { "a link to " } else { "" };
    let stat = match &fact.reached {
        Ok(stat) => stat,
        Err(errno) => return format!("{link}nothing ({})", errno.desc()),
    };
    let is_device = matches!(stat.mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK);
    let kind = match stat.mode & libc::S_IFMT {
        libc::S_IFREG => "a regular file",
        libc::S_IFDIR => "a directory",
        libc::S_IFCHR => "a character device",
        libc::S_IFBLK => "a block device",
        libc::S_IFIFO => "a FIFO",
        libc::S_IFSOCK => "a socket",
        libc::S_IFLNK => "a symbolic link",
        _ => "something",
    };
    let mut text = format!("{link}{kind}");
    if mode {
        text += &format!(", mode {:o}", stat.mode & 0o7777);
    }
    if size && stat.mode & libc::S_IFMT == libc::S_IFREG {
        text += &format!(", {} bytes long", stat.size_bytes);
    }
    if is_device {
        text += &format!(", number {}:{}", libc::major(stat.rdev), libc::minor(stat.rdev));
    }
    if build_id {
        match &fact.build_id {
            Some(Ok(id)) => {
                let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
                text += &format!(", build-id {id}");
            }
            Some(Err(why)) => text += &format!(", {why}"),
            None => {}
        }
    }
    text
}

/// Which pids of the tapes are in use here.
pub(super) fn taken(facts: &HostFacts) -> Vec<Problem> {
    let one = |(pid, taken): (&NsPid, &Taken)| {
        let text = format!("pid {pid} is taken by {taken}");
        Problem { kind: ProblemKind::PidTaken, task: Some(*pid), text, origin: None }
    };
    facts.pids.taken.iter().map(one).collect()
}

/// Whether the window of the tapes is free in this process, too, which maps it for the root.
pub(super) fn window(facts: &HostFacts, tapes: &Tapes) -> Option<Problem> {
    let (start, end) = (tapes.base, tapes.base.saturating_add(tapes.window_len));
    let (from, to) = facts.address_space.in_use.iter().find(|(from, to)| *from < end && *to > start)?;
    let text = format!("the tapes are to be at {start:#x}-{end:#x}, and here {from:#x}-{to:#x} is in use");
    Some(Problem { kind: ProblemKind::StalePlan, task: None, text, origin: None })
}

/// Whether clocks that the tree has from the host are still further on than at the dump.
pub(super) fn clocks(dumped: &DumpedClocks, facts: &HostFacts, tapes: &Tapes) -> Vec<Problem> {
    let (Some(dumped_ns), None) = (dumped.dumped_ns, tapes.clocks_ns) else { return Vec::new() };
    let now = facts.clocks_ns;
    [("CLOCK_MONOTONIC", now.monotonic, dumped_ns[0]), ("CLOCK_BOOTTIME", now.boottime, dumped_ns[1])]
        .into_iter()
        .filter(|(_, now, then)| now.is_some_and(|now| now < *then))
        .map(|(name, now, then)| {
            let seconds = |ns: u64| ns / 1_000_000_000;
            let text = format!(
                "planned with the clocks of the host, and its {name} is behind that of the dump: {} s, was {} s",
                seconds(now.unwrap_or_default()),
                seconds(then)
            );
            Problem { kind: ProblemKind::StalePlan, task: None, text, origin: None }
        })
        .collect()
}
