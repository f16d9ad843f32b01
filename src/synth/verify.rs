//! Looks at a living forest: whether every task found itself right, and what no task can see of itself.
//!
//! Reads `/proc` and asks kcmp(2); it changes nothing but, for [`again`], the status word of tasks. It must
//! run in the pid namespace of the forest, and may look into its tasks (ptrace(2), `PTRACE_MODE_READ_REALCREDS`).
//!
//! | what | how |
//! |---|---|
//! | pid, parent, group, session, descriptors' flags, offsets, what waits, registers, memory | each task itself |
//! | no descriptor is missing, none is too many | `/proc/PID/fd` |
//! | whether it has its parent's table | `kcmp(KCMP_FILES)` |
//! | the same description, or another | `kcmp(KCMP_FILE)` of each descriptor with the first of its description, and of the first ones with each other |
//! | which pipe, which file | `/proc/PID/fd` |
//! | counters of eventfds | `/proc/PID/fdinfo` |
//! | each mapping, its protection, nothing else mapped | `/proc/PID/maps` |
//! | the same segment, or another | device and inode in `/proc/PID/maps` |
//! | System V objects | `/proc/sysvipc` and `/proc/sys` in the namespace of the root; inodes of attached segments are their ids |
//! | zombies and their exit codes | `/proc/PID/stat` |

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::payload::{self, DATA, SCRATCH, SCRATCH_BYTES, STACK, STACK_BYTES, Said, TEXT};
use super::{Forest, Kind, PAGE, Task, model};
use crate::sys::kcmp;

/// How much was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Tasks that live, and checks that they made themselves.
    pub tasks: usize,
    /// Checks of all tasks together.
    pub checks: usize,
    /// Dead ones.
    pub zombies: usize,
    /// Descriptors.
    pub descriptors: usize,
    /// Mappings.
    pub mappings: usize,
}

/// Lets every task play its checks again; then [`verify`] waits for the new results.
///
/// # Errors
/// A task that is not there, or may not be touched.
pub fn again(forest: &Forest) -> Result<(), String> {
    for task in living(forest) {
        let path = format!("/proc/{}/mem", task.pid);
        let write = || {
            let file = File::options().write(true).open(&path)?;
            (0..=task.threads.len()).try_for_each(|it| file.write_all_at(&[0; 8], payload::data_of(it)))
        };
        write().map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(())
}

/// Waits until every task has said something, and compares all that there is with the description.
///
/// # Errors
/// Everything that is not as described.
pub fn verify(forest: &Forest, limit: Duration) -> Result<Verified, Vec<String>> {
    let mut faults = Vec::new();
    let mut verified = Verified::default();
    let end = Instant::now() + limit;
    for (index, task) in forest.tasks.iter().enumerate() {
        match task.dead {
            Some(code) => {
                faults.extend(check_zombie(task.pid, code));
                verified.zombies += 1;
            }
            None => {
                verified.tasks += 1;
                let threads = std::iter::once((task.pid, model::checks(forest, index)));
                let others = task.threads.iter().zip(1..);
                let others = others.map(|(tid, number)| (*tid, model::thread_checks(*tid, number)));
                for (number, (tid, checks)) in threads.chain(others).enumerate() {
                    match wait_for(tid, payload::data_of(number), &checks, end) {
                        Ok(()) => verified.checks += checks.len(),
                        Err(fault) => faults.push(fault),
                    }
                }
                faults.extend(check_threads(task));
            }
        }
    }
    check_tables(forest, &mut verified, &mut faults);
    check_resources(forest, &mut faults);
    check_mappings(forest, &mut verified, &mut faults);
    if let Some(ipc) = &forest.ipc {
        ipc.verify(forest, &mut faults);
    }
    if faults.is_empty() { Ok(verified) } else { Err(faults) }
}

fn living(forest: &Forest) -> impl Iterator<Item = &Task> {
    forest.tasks.iter().filter(|task| task.dead.is_none())
}

/// Waits for what a thread says.
fn wait_for(pid: u32, data: u64, checks: &[payload::Check], end: Instant) -> Result<(), String> {
    let path = format!("/proc/{pid}/mem");
    loop {
        let mut bytes = [0; 24];
        File::open(&path)
            .and_then(|file| file.read_exact_at(&mut bytes, data))
            .map_err(|error| format!("task {pid}: {path}: {error}"))?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        match payload::said(data, [word(0), word(8), word(16)]) {
            Said::Nothing if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
            Said::Nothing => return Err(format!("task {pid}: has not finished its checks")),
            Said::Right => return Ok(()),
            Said::Wrong { check, found } => {
                let what = checks.get(check).map_or("a check that it does not have", |check| &check.what);
                let expected = match checks.get(check).map(|check| &check.deed) {
                    Some(payload::Deed::Call { result, .. }) => format!(", not {result}"),
                    Some(payload::Deed::Bytes { .. }) | None => String::new(),
                };
                return Err(format!("task {pid}: {what}: found {found}{expected}"));
            }
        }
    }
}

/// That a task has its threads and no other.
fn check_threads(task: &Task) -> Option<String> {
    let mut wanted = [&[task.pid], task.threads.as_slice()].concat();
    wanted.sort_unstable();
    let list = fs::read_dir(format!("/proc/{}/task", task.pid));
    let names = list.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut found: Vec<u32> = names.filter_map(|name| name.parse().ok()).collect();
    found.sort_unstable();
    (found != wanted).then(|| format!("task {}: threads {found:?}, not {wanted:?}", task.pid))
}

/// A zombie: its state, and its exit code where the caller may see it (proc_pid_stat(5), field 52).
fn check_zombie(pid: u32, code: u8) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> =
        text.rsplit_once(')').map(|(_, rest)| rest.split_ascii_whitespace().collect()).unwrap_or_default();
    if fields.first() != Some(&"Z") {
        return Some(format!("task {pid}: is no zombie: {:?}", fields.first()));
    }
    let expected = (u32::from(code) << 8).to_string();
    let found = fields.last().copied().unwrap_or_default();
    (found != expected).then(|| format!("task {pid}: exit code {found}, not {expected}"))
}

/// That each task has the descriptors that it should, and no other.
fn check_tables(forest: &Forest, verified: &mut Verified, faults: &mut Vec<String>) {
    for task in living(forest) {
        let mut expected: Vec<u32> = task.table.iter().map(|slot| slot.fd).collect();
        expected.sort_unstable();
        verified.descriptors += expected.len();
        let list = fs::read_dir(format!("/proc/{}/fd", task.pid));
        let names = list.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut found: Vec<u32> = names.filter_map(|name| name.parse().ok()).collect();
        found.sort_unstable();
        if found != expected {
            faults.push(format!("task {}: descriptors {found:?}, not {expected:?}", task.pid));
        }
        let parent = task.parent.map(|parent| forest.tasks[parent].pid);
        let shares = parent.map_or(Ok(false), |parent| kcmp::same_table(task.pid, parent));
        if shares != Ok(task.shares_table) {
            faults.push(format!("task {}: has its parent's table: {shares:?}", task.pid));
        }
    }
}

/// That what is shared is one description, what is not is another, and what it is.
fn check_resources(forest: &Forest, faults: &mut Vec<String>) {
    let pid = |index: usize| forest.tasks[index].pid;
    let mut firsts: Vec<(u32, u32)> = Vec::new();
    let mut files: BTreeMap<String, usize> = BTreeMap::new();
    for (resource, kind) in forest.resources.iter().enumerate() {
        for end in 0..kind.ends() {
            let holders = forest.holders(resource, end);
            let Some(&(task, fd)) = holders.first() else { continue };
            let first = (pid(task), fd);
            for &(task, fd) in &holders[1..] {
                if kcmp::same_file(first, (pid(task), fd)) != Ok(true) {
                    faults.push(format!(
                        "{} {resource}: descriptor {fd} of task {} is not descriptor {} of task {}",
                        kind.name(),
                        pid(task),
                        first.1,
                        first.0
                    ));
                }
            }
            firsts.push(first);
            faults.extend(check_kind(kind, resource, first, &mut files));
        }
    }
    // All of them are different: kcmp(2) orders them, so neighbours are enough.
    if let Err(errno) = kcmp::sort_files(&mut firsts) {
        faults.push(format!("kcmp: {errno}"));
    }
    for pair in firsts.windows(2) {
        if kcmp::same_file(pair[0], pair[1]) != Ok(false) {
            faults.push(format!(
                "descriptor {} of task {} is descriptor {} of task {}",
                pair[0].1, pair[0].0, pair[1].1, pair[1].0
            ));
        }
    }
}

/// What a description is of. `seen`: what pipes and sockets were met, and for which resource.
fn check_kind(
    kind: &Kind,
    resource: usize,
    (pid, fd): (u32, u32),
    seen: &mut BTreeMap<String, usize>,
) -> Option<String> {
    let link = fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap_or_default();
    let link = link.to_string_lossy().into_owned();
    let text = format!("task {pid}: descriptor {fd}");
    let info = || fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
    let told = |key: &str| {
        let info = info();
        let found = info.lines().find_map(|line| line.strip_prefix(key))?;
        Some(found.trim().to_owned())
    };
    let wrong = |expected: &str| Some(format!("task {pid}: descriptor {fd} is {link}, not {expected}"));
    match kind {
        Kind::File { path, .. } if link != path.to_string_lossy() => wrong(&path.to_string_lossy()),
        Kind::Pipe { .. } if !link.starts_with("pipe:") => wrong("a pipe"),
        Kind::Pipe { .. } => {
            // Both ends are of one pipe, and no other resource is.
            let of = *seen.entry(link.clone()).or_insert(resource);
            let others = seen.iter().any(|(other, of)| *of == resource && *other != link);
            if of != resource || others { wrong("the pipe of the other end") } else { None }
        }
        Kind::Pair { .. } | Kind::Messages { .. } | Kind::Listener { .. } if !link.starts_with("socket:") => {
            wrong("a socket")
        }
        Kind::Memfd { name, .. } if link != format!("/memfd:{name} (deleted)") => wrong("its memfd"),
        Kind::Signalfd { mask } => {
            let told = told("sigmask:").and_then(|text| u64::from_str_radix(&text, 16).ok());
            (told != Some(*mask)).then(|| format!("{text}: signalfd of {told:x?}, not {mask:x}"))
        }
        Kind::Timerfd => {
            let told = told("it_value:");
            (told.as_deref() != Some("(0, 0)")).then(|| format!("{text}: timerfd at {told:?}"))
        }
        Kind::Listener { name, .. } => {
            let inode = link.trim_matches(|letter: char| !letter.is_ascii_digit());
            let table = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
            // Flags with __SO_ACCEPTCON (proc_net(5)), inode, name.
            let is_it = |line: &str| {
                let words: Vec<&str> = line.split_ascii_whitespace().collect();
                words.get(3) == Some(&"00010000")
                    && words.get(6) == Some(&inode)
                    && words.get(7) == Some(&&*format!("@{name}"))
            };
            (!table.lines().any(is_it)).then(|| format!("{text}: does not listen on @{name}"))
        }
        Kind::Epoll { interests } => {
            let mut wanted: Vec<(u64, u64, u64)> = interests
                .iter()
                .map(|it| (it.fd.into(), u64::from(it.events) | ALWAYS_TOLD, it.data))
                .collect();
            wanted.sort_unstable();
            let found = read_interests(&info());
            (found != wanted).then(|| format!("{text}: watches {found:x?}, not {wanted:x?}"))
        }
        Kind::Eventfd { counter } => {
            let found = told("eventfd-count:").and_then(|text| u64::from_str_radix(&text, 16).ok());
            (found != Some(*counter))
                .then(|| format!("task {pid}: descriptor {fd}: eventfd at {found:?}, not {counter}"))
        }
        Kind::File { .. } | Kind::Pair { .. } | Kind::Messages { .. } | Kind::Memfd { .. } => None,
    }
}

/// Events that epoll tells of unasked: EPOLLERR and EPOLLHUP.
const ALWAYS_TOLD: u64 = (libc::EPOLLERR | libc::EPOLLHUP) as u64;

/// What an epoll file watches, by its fdinfo (proc_pid_fdinfo(5)): descriptor, events, data; sorted.
fn read_interests(info: &str) -> Vec<(u64, u64, u64)> {
    let line = |line: &str| {
        let mut words = line.strip_prefix("tfd:")?.split_ascii_whitespace();
        let fd = words.next()?.parse().ok()?;
        let mut hex = |key: &str| {
            let word = words.by_ref().skip_while(|word| *word != key).nth(1)?;
            u64::from_str_radix(word, 16).ok()
        };
        Some((fd, hex("events:")?, hex("data:")?))
    };
    let mut found: Vec<_> = info.lines().filter_map(line).collect();
    found.sort_unstable();
    found
}

/// A line of `/proc/PID/maps`: range, permissions, device and inode.
struct Line {
    range: (u64, u64),
    perms: String,
    file: String,
}

fn read_maps(pid: u32) -> Vec<Line> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let perms = words.next()?.to_owned();
        let _offset = words.next()?;
        let file = format!("{} {}", words.next()?, words.next()?);
        Some(Line { range: (number(start)?, number(end)?), perms, file })
    };
    // The vsyscall page is there in every task of a kernel that has it.
    text.lines().filter(|text| !text.ends_with("[vsyscall]")).filter_map(line).collect()
}

/// What more than one mapping may show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shown {
    Segment(usize),
    /// By id.
    SysV(u32),
    /// By task and address.
    Ring(u32, u64),
}

/// That each task has its mappings, and no other.
fn check_mappings(forest: &Forest, verified: &mut Verified, faults: &mut Vec<String>) {
    let mut segments: BTreeMap<Shown, String> = BTreeMap::new();
    for task in living(forest) {
        let found = read_maps(task.pid);
        let mut expected: BTreeMap<u64, (u64, &str, Option<Shown>)> = BTreeMap::new();
        let code = payload::code().len() as u64;
        for (start, len, perms) in [
            (TEXT, code.next_multiple_of(PAGE), "r-xp"),
            (SCRATCH, SCRATCH_BYTES, "rw-p"),
            (STACK, STACK_BYTES, "rw-p"),
        ] {
            expected.insert(start, (start + len, perms, None));
        }
        for number in 1..=task.threads.len() {
            let start = payload::data_of(number);
            expected.insert(start, (start + PAGE, "rw-p", None));
        }
        for it in &task.private {
            let perms = if it.writable { "rw-p" } else { "r--p" };
            expected.insert(it.start, (it.start + it.len_pages * PAGE, perms, None));
        }
        for view in &task.views {
            expected.insert(
                view.start,
                (view.start + view.len_pages * PAGE, "rw-s", Some(Shown::Segment(view.segment))),
            );
        }
        for it in &task.attached {
            let perms = if it.read_only { "r--s" } else { "rw-s" };
            let id = forest.ipc.as_ref().and_then(|ipc| ipc.segments.get(it.segment)).map(|it| it.perm.id);
            let end = it.start + it.len_pages * PAGE;
            expected.insert(it.start, (end, perms, id.map(Shown::SysV)));
        }
        for ring in &task.rings {
            let end = ring.start + ring.len_pages * PAGE;
            expected.insert(ring.start, (end, "rw-s", Some(Shown::Ring(task.pid, ring.start))));
        }
        verified.mappings += expected.len() + 1;
        for line in &found {
            let (start, end) = line.range;
            // How long the data is depends on the checks.
            if start == DATA && line.perms == "rw-p" {
                continue;
            }
            let text = format!("task {}: {start:#x}-{end:#x} {}", task.pid, line.perms);
            match expected.remove(&start) {
                Some((wanted, perms, segment)) if wanted == end && perms == line.perms => {
                    let Some(segment) = segment else { continue };
                    if let Shown::SysV(id) = segment
                        && line.file.rsplit(' ').next() != Some(&id.to_string())
                    {
                        faults.push(format!("{text}: {} is not the segment {id}", line.file));
                    }
                    if *segments.entry(segment).or_insert_with(|| line.file.clone()) != line.file {
                        faults.push(format!("{text}: not the segment that others have"));
                    }
                }
                Some((wanted, perms, _)) => {
                    faults.push(format!("{text}, not {start:#x}-{wanted:#x} {perms}"))
                }
                None => faults.push(format!("{text}: mapped beyond the description")),
            }
        }
        for (start, (end, perms, _)) in expected {
            faults.push(format!("task {}: {start:#x}-{end:#x} {perms}: not mapped", task.pid));
        }
    }
    let mut files: Vec<&String> = segments.values().collect();
    files.sort_unstable();
    if files.windows(2).any(|pair| pair[0] == pair[1]) {
        faults.push("two segments are one".to_owned());
    }
}
