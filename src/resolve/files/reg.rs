//! Paths: regular files, directories, character devices.

use regrow_graph::ids::{OfdId, TaskId};

use super::super::Resolver;
use super::super::numbers::{O_CREATION, O_KNOWN, O_LARGEFILE};
use super::super::problem::ProblemKind;
use super::super::recipe::{FilePurpose, ResourceKind};
use super::name;
use crate::image::{Ofd, OfdKind, Origin, RegFile};

const S_IFMT: u32 = libc::S_IFMT;

pub(super) fn resolve(resolver: &mut Resolver<'_>, ofd: OfdId, entry: &Ofd, file: &RegFile) {
    if file.is_external {
        resolver.problems.unsupported(
            None,
            Some(entry.origin),
            format!("{}: external files (--external) are not restored yet", name(entry)),
        );
        return;
    }
    let unknown = file.flags & !O_KNOWN;
    if unknown != 0 {
        resolver.problems.unsupported(
            None,
            Some(entry.origin),
            format!("{}: unknown open flags {unknown:#x}", name(entry)),
        );
    }
    if let Some(mode) = file.mode {
        match mode & S_IFMT {
            libc::S_IFREG | libc::S_IFDIR | libc::S_IFCHR | libc::S_IFBLK => {}
            libc::S_IFLNK if file.flags & libc::O_PATH as u32 != 0 => {}
            other => resolver.problems.unsupported(
                None,
                Some(entry.origin),
                format!("{}: file type {other:#o} is not restored yet", name(entry)),
            ),
        }
    }
    match proc_task(resolver, &file.path) {
        Some(of) => judge_proc(resolver, ofd, entry, of),
        None => judge(resolver, file, entry.origin),
    }
    let is_path = file.flags & libc::O_PATH as u32 != 0;
    let kind = ResourceKind::File {
        path: file.path.clone(),
        flags: file.flags & !(O_CREATION | O_LARGEFILE),
        position: if is_path || file.position == u64::MAX { 0 } else { file.position },
        purpose: FilePurpose::Descriptor,
    };
    super::single(resolver, ofd, kind, entry.origin);
}

/// The task of the images that a path below `/proc` is about.
pub(in super::super) fn proc_task(resolver: &Resolver<'_>, path: &str) -> Option<TaskId> {
    let rest = path.strip_prefix("/proc/")?;
    let pid: u32 = rest.split('/').next()?.parse().ok()?;
    resolver.model.tasks.iter().position(|task| task.pid.0 == pid).map(TaskId::new)
}

/// Whether `above` is `task` or an ancestor of it: there before anything that `task` does.
pub(in super::super) fn is_above(resolver: &Resolver<'_>, above: TaskId, task: TaskId) -> bool {
    let mut at = Some(task);
    while let Some(task) = at {
        if task == above {
            return true;
        }
        at = resolver.forest.tasks[task.index()].parent;
    }
    false
}

/// A file about a task of the tree exists only when that task does: whoever opens it must be the task
/// itself, or be born after it, or open it after its forks.
fn judge_proc(resolver: &mut Resolver<'_>, ofd: OfdId, entry: &Ofd, of: TaskId) {
    let tasks = &resolver.forest.tasks;
    let users: Vec<TaskId> = (0..tasks.len())
        .filter(|task| tasks[*task].table.iter().any(|slot| slot.ofd == ofd))
        .map(TaskId::new)
        .collect();
    // The one who opens it is the lowest common ancestor of its users: a task is above that one
    // if and only if it is above them all.
    let is_there = users.iter().all(|user| is_above(resolver, of, *user));
    // What only one task has, it opens after its forks.
    let is_child = users.len() == 1 && tasks[of.index()].parent == users.first().copied();
    if !is_there && !is_child {
        let text = format!(
            "{}: is about a task that may be born later than it is opened: not restored yet",
            name(entry)
        );
        resolver.problems.unsupported(None, Some(entry.origin), text);
    }
    if let OfdKind::Reg(file) = &entry.kind
        && file
            .path
            .split('/')
            .nth(3)
            .is_some_and(|part| matches!(part, "task" | "fd" | "map_files" | "fdinfo"))
        && file.path.split('/').nth(4).is_some()
    {
        let text = format!(
            "{}: a thread or a descriptor of a task may not be there when it is opened: not restored yet",
            name(entry)
        );
        resolver.problems.unsupported(None, Some(entry.origin), text);
    }
}

/// Whether the file on this host is the one that was dumped: it must exist, with the stored type
/// and permissions, size and build-id, as far as the images have them.
pub(in super::super) fn judge(resolver: &mut Resolver<'_>, file: &RegFile, origin: Origin) {
    let path = &file.path;
    let facts = resolver.facts;
    // What was opened as a link (O_PATH | O_NOFOLLOW) need lead nowhere.
    if file.mode.is_some_and(|mode| mode & S_IFMT == libc::S_IFLNK)
        && facts.files.get(path).is_some_and(|fact| fact.is_symlink)
    {
        return;
    }
    let (fact, build_id) = match facts.files.get(path).map(|fact| (&fact.reached, &fact.build_id)) {
        Some((Ok(stat), build_id)) => (stat, build_id),
        Some((Err(errno), _)) => {
            let text = format!("{path}: {}", errno.desc());
            return resolver.problems.add(ProblemKind::FileChanged, None, Some(origin), text);
        }
        None => {
            let text = format!("{path}: was not looked at");
            return resolver.problems.add(ProblemKind::FileChanged, None, Some(origin), text);
        }
    };
    let mut differs =
        |text: String| resolver.problems.add(ProblemKind::FileChanged, None, Some(origin), text);
    if let Some(mode) = file.mode
        && mode != fact.mode
    {
        differs(format!("{path}: mode is {:o}, was {mode:o} at the dump", fact.mode));
        if mode & S_IFMT != fact.mode & S_IFMT {
            return;
        }
    }
    if let Some(size) = file.size_bytes
        && fact.mode & S_IFMT == libc::S_IFREG
        && size != fact.size_bytes
    {
        differs(format!("{path}: {} bytes long, was {size} at the dump", fact.size_bytes));
    }
    if !file.build_id.is_empty() {
        let was = hex(&file.build_id);
        match build_id {
            Some(Ok(id)) if *id != file.build_id => {
                differs(format!("{path}: build-id is {}, was {was} at the dump", hex(id)))
            }
            Some(Err(why)) => differs(format!("{path}: {why}, but had build-id {was} at the dump")),
            Some(Ok(_)) | None => {}
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
