//! Whether the tapes do what the images say, checked by [`regrow_graph::verify`].
//!
//! Both of the checker's inputs are made here without what makes the plan: [`expected`] reads the
//! model itself, not what `resolve` makes of it; [`crate::tape::lift`] reads the finished records.
//! What the checker cannot judge yet is not certified: a description of such a kind in any table
//! is a counterexample.
//!
//! Worked example: a task with /dev/null at 0 becomes one expected task, one slot and
//! `OfdSpec::Path { path: "/dev/null", position: Some(0) }`; a tape that opens /dev/zero instead is
//! answered with `task 7: descriptor 0 ends as file /dev/zero, the images say file 0x1 (/dev/null)`.

mod attributes;
mod commit;
#[cfg(test)]
mod mutations;
mod space;
mod vdso;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use regrow_graph::ids::OfdId;
pub use regrow_graph::verify::{Certificate, Counterexample, Facts};
use regrow_graph::verify::{
    Content, Cradle as Birthplace, Expected, ExpectedFilter, ExpectedInode, ExpectedOfd, ExpectedPacket,
    ExpectedPipe, ExpectedSeccomp, ExpectedTask, InodeId, InodeKind, Interest, Life, OfdSpec, Owner, Slot,
    SocketFile, SocketOption, SocketPeer, SocketSpec, TimerSpec, Wrong, verify,
};

pub use attributes::Inherited;

use crate::host::{HostFacts, Vdso};
use crate::image::vdso::Dumped;
use crate::image::{
    Blob, Epoll, Fifo, Fown, Image, InetSocket, Model, NsPid, Ofd, OfdKind, RegFile, SocketOptions,
    TaskState, Timerfd, UnixSocket, open_blob,
};
use crate::runner;
use crate::tape::ThreadState;
use crate::tape::abi::{Record, Verb};
use crate::tape::lift::{LiftError, lift};
use crate::tape::{Tapes, Undo, UndoKind};

/// The bit of O_TMPFILE that is not O_DIRECTORY.
const O_TMPFILE_BIT: u32 = 0o20_000_000;
/// `TCP_ESTABLISHED` and `TCP_LISTEN`, as unix sockets have them, too.
const ESTABLISHED: u32 = 1;
const LISTEN: u32 = 10;

/// A session and a group of the images that are to be those of the invoker (`--shell-job`): what
/// the images call it, and what it is to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cradle {
    /// Session: old and new.
    pub sid: Option<(u32, u32)>,
    /// Process group: old and new.
    pub pgid: Option<(u32, u32)>,
}

/// What is true before anything runs: the host, and where the root is born.
#[derive(Debug, Clone, Default)]
pub struct Ground {
    /// Session and group that the root is born in.
    pub cradle: Cradle,
    /// What the host's kernel does by default.
    pub facts: Facts,
    /// What the root inherits.
    pub inherited: Inherited,
    /// The running kernel's vDSO; `None`: no task may have one.
    pub vdso: Option<Vdso>,
    /// vDSOs of the images that are not its bytes.
    pub vdsos: Arc<BTreeMap<NsPid, Dumped>>,
}

impl Ground {
    /// That of this process, whose facts are gathered.
    pub fn of(facts: &HostFacts, cradle: Cradle) -> Ground {
        let defaults = Facts {
            clocks_ns: [facts.clocks_ns.realtime, facts.clocks_ns.monotonic, facts.clocks_ns.boottime],
            suid_dumpable: facts.kernel.suid_dumpable,
            ..Facts::default()
        };
        Ground {
            cradle,
            facts: defaults,
            inherited: Inherited::of(facts),
            vdso: facts.vdso.clone(),
            vdsos: Arc::default(),
        }
    }
}

/// Tapes that have a certificate: nothing but [`certify_tapes`] makes them, so nothing else can be run.
#[derive(Debug)]
pub struct CertifiedTapes {
    tapes: Tapes,
    fault: Option<(u32, u32)>,
}

impl CertifiedTapes {
    /// Lets a record fail with `errno` when it is reached, for tests; says whether there is such a record. The
    /// certificate is then that of the tapes without the fault.
    pub fn inject_fault(&mut self, pid: u32, record: u32, errno: i32) -> bool {
        let is_there = self.tapes.inject_fault(pid, record, errno);
        if is_there {
            self.fault = Some((pid, record));
        }
        is_there
    }

    /// For tests that print tapes and run none.
    #[cfg(test)]
    pub(crate) fn unchecked(tapes: Tapes) -> CertifiedTapes {
        CertifiedTapes { tapes, fault: None }
    }

    /// The task and the record that fail on purpose.
    pub fn fault(&self) -> Option<(u32, u32)> {
        self.fault
    }
}

impl std::ops::Deref for CertifiedTapes {
    type Target = Tapes;

    fn deref(&self) -> &Tapes {
        &self.tapes
    }
}

/// As [`certify`], and keeps the tapes as certified ones.
///
/// # Errors
/// The first step at which tapes and images part.
pub fn certify_tapes(
    model: &Model,
    tapes: Tapes,
    ground: &Ground,
    commit: Option<&[ThreadState]>,
) -> Result<(CertifiedTapes, Certificate), Counterexample> {
    let certificate = certify(model, &tapes, ground, commit)?;
    Ok((CertifiedTapes { tapes, fault: None }, certificate))
}

/// Checks that `tapes` do what the images say, on this ground, and that the commit then sets what
/// they say; `None`: there is to be no commit.
///
/// # Errors
/// The first step at which they part.
pub fn certify(
    model: &Model,
    tapes: &Tapes,
    ground: &Ground,
    threads: Option<&[ThreadState]>,
) -> Result<Certificate, Counterexample> {
    let lifted = lift(tapes).map_err(|LiftError { pid, record, what }| Counterexample {
        task: pid,
        record,
        wrong: Wrong::NotUnderstood { what },
    })?;
    // The effects of records are those of this runner, no other.
    let reads = |address: u64, bytes: &[u8]| {
        address >= tapes.ro_base() && tapes.bytes(address, bytes.len() as u64) == Some(bytes)
    };
    let sigchld = 1u64 << (libc::SIGCHLD - 1);
    let strange = if !reads(tapes.code, runner::code()) {
        Some("the tapes come with another runner")
    } else if !reads(tapes.sigchld_set, &sigchld.to_ne_bytes()) || !reads(tapes.no_time, &[0; 16]) {
        Some("what the commit reads is not a set of SIGCHLD and no time")
    } else {
        None
    };
    if let Some(what) = strange {
        let wrong = Wrong::NotUnderstood { what: what.to_owned() };
        return Err(Counterexample { task: lifted.root.pid, record: None, wrong });
    }
    check_clocks(model, tapes, &ground.facts, lifted.root.pid)?;
    let mut ground = ground.clone();
    if let Some([monotonic, boottime]) = tapes.clocks_ns {
        ground.facts.clocks_ns = [ground.facts.clocks_ns[0], Some(monotonic), Some(boottime)];
    }
    let expected = expected(model, &ground)?;
    if let Some(threads) = threads {
        commit::check(model, threads)?;
    }
    check_undo(tapes, &expected)?;
    check_spent(tapes, &expected)?;
    verify(&lifted, &expected)
}

/// Whether the launcher would find every name that a task makes: each has a note of its own, whose
/// flags are set just before, just after, and when the name is gone. Those of sockets are
/// [`verify`]'s: their names are not in the records alone.
fn check_undo(tapes: &Tapes, expected: &Expected) -> Result<(), Counterexample> {
    let mut free: Vec<&Undo> = tapes.undo.iter().collect();
    for task in &tapes.tasks {
        let records: Vec<Record> = tapes.records(task).map(|(_, record)| record).collect();
        let posts = |at: Option<usize>, word: u64| {
            let record = at.and_then(|at| records.get(at));
            record.is_some_and(|record| {
                record.verb() == Some(Verb::Post) && record.args[0] == tapes.base + word
            })
        };
        let wrong = |at: usize, path: &[u8], what: &str| Counterexample {
            task: task.pid,
            record: Some(at as u32),
            wrong: Wrong::NotUnderstood { what: format!("{}: {what}", path.escape_ascii()) },
        };
        let mut open: Vec<(&[u8], &Undo)> = Vec::new();
        for (at, record) in
            records.iter().enumerate().filter(|(_, record)| record.verb() == Some(Verb::Syscall))
        {
            let nr = libc::c_long::from(record.nr);
            let makes = matches!(nr, libc::SYS_mkdirat | libc::SYS_mknodat | libc::SYS_linkat)
                || nr == libc::SYS_openat && record.args[2] & libc::O_CREAT as u64 != 0;
            let removes = nr == libc::SYS_unlinkat || nr == libc::SYS_renameat2 && record.args[4] == 0;
            if !makes && !removes {
                continue;
            }
            let path_at = if nr == libc::SYS_linkat { record.args[3] } else { record.args[1] };
            let path = tapes.c_string(path_at).unwrap_or_default();
            if removes {
                let is_plain = nr == libc::SYS_unlinkat && record.args[2] == 0;
                if is_plain
                    && expected.socket_paths.contains(path)
                    && !open.iter().any(|(name, _)| *name == path)
                {
                    continue;
                }
                let Some(index) = open.iter().rposition(|(name, _)| *name == path) else {
                    return Err(wrong(at, path, "is removed, and nothing says that it was made"));
                };
                if !posts(Some(at + 1), open.remove(index).1.gone) {
                    return Err(wrong(at, path, "is removed, and the launcher is not told"));
                }
                continue;
            }
            let is_this = |undo: &&Undo| {
                let named = match undo.kind {
                    UndoKind::File => matches!(nr, libc::SYS_openat | libc::SYS_mknodat) && undo.path == path,
                    UndoKind::Directory => nr == libc::SYS_mkdirat && undo.path == path,
                    UndoKind::Link => nr == libc::SYS_linkat && is_pair(&undo.path, record, tapes),
                    UndoKind::Socket => false,
                    UndoKind::ChangedPlaces => {
                        nr == libc::SYS_openat && undo.path.split(|byte| *byte == 0).next() == Some(path)
                    }
                };
                named && posts(at.checked_sub(1), undo.intent) && posts(Some(at + 1), undo.made)
            };
            let Some(index) = free.iter().position(is_this) else {
                return Err(wrong(at, path, "is made, and the launcher would not remove it after a failure"));
            };
            open.push((path, free.remove(index)));
        }
    }
    Ok(())
}

/// Whether the clocks never run backwards: in a time namespace they go on from the dump, and without one
/// the host's are further on. A tree that had a time namespace has one again.
fn check_clocks(model: &Model, tapes: &Tapes, facts: &Facts, root: u32) -> Result<(), Counterexample> {
    let nanoseconds =
        |(seconds, rest): (u64, u64)| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
    let dumped = model.clocks_of_tree().map(|clocks| [clocks.monotonic, clocks.boottime].map(nanoseconds));
    let host = [facts.clocks_ns[1], facts.clocks_ns[2]];
    let is_right = match (tapes.clocks_ns, dumped) {
        (Some(is), Some(dumped)) => is == dumped,
        (Some(_), None) => false,
        (None, _) if model.is_in_own_time_ns() => false,
        (None, Some(dumped)) => host.iter().zip(dumped).all(|(now, then)| now.is_none_or(|now| now >= then)),
        (None, None) => true,
    };
    if is_right {
        return Ok(());
    }
    let shown = |clocks: Option<[u64; 2]>| match clocks {
        Some([monotonic, boottime]) => format!("go on from {monotonic} and {boottime} ns"),
        None => "are the host's".to_owned(),
    };
    let wrong = Wrong::WrongClocks { is: shown(tapes.clocks_ns), wanted: shown(dumped) };
    Err(Counterexample { task: root, record: None, wrong })
}

/// Whether what is removed when the tree lives is what CRIU left for this: the other names of files that
/// had lost theirs.
fn check_spent(tapes: &Tapes, expected: &Expected) -> Result<(), Counterexample> {
    let linked = expected.inodes.values().filter(|inode| inode.kind == InodeKind::Linked);
    let names: BTreeSet<&[u8]> = linked.map(|inode| inode.source.as_slice()).collect();
    match tapes.spent.iter().find(|path| !names.contains(path.as_slice())) {
        Some(path) => Err(Counterexample {
            task: tapes.tasks.first().map_or(0, |task| task.pid),
            record: None,
            wrong: Wrong::NotUnderstood {
                what: format!("{} would be removed in the end, and is no link remap", path.escape_ascii()),
            },
        }),
        None => Ok(()),
    }
}

/// Whether a note of a further name has the two names of a `linkat(2)`: the new one first.
fn is_pair(note: &[u8], record: &Record, tapes: &Tapes) -> bool {
    let [old, new] = [record.args[1], record.args[3]].map(|at| tapes.c_string(at).unwrap_or_default());
    note == [new, b"\0", old].concat()
}

/// What the images say, for the checker.
///
/// # Errors
/// What a pipe or a socket holds cannot be read.
pub fn expected(model: &Model, ground: &Ground) -> Result<Expected, Counterexample> {
    let Ground { cradle, facts, inherited, .. } = ground;
    let running = ground.vdso.as_ref().map(vdso::Running::of);
    let (cradle, facts) = (*cradle, *facts);
    let moved = |id: u32, to: &[Option<(u32, u32)>]| {
        to.iter().flatten().find(|(old, _)| *old == id).map_or(id, |(_, new)| *new)
    };
    let index_of: BTreeMap<u32, OfdId> =
        model.ofds.iter().enumerate().map(|(index, ofd)| (ofd.id, OfdId::new(index))).collect();
    let mut tasks = Vec::with_capacity(model.tasks.len());
    for task in &model.tasks {
        let life = match &task.state {
            TaskState::Alive(_) | TaskState::Stopped(_) => Life::Alive,
            TaskState::Zombie { exit_code, .. } => Life::Zombie { status: *exit_code },
        };
        let mut wanted = ExpectedTask {
            pid: task.pid.0,
            ppid: task.ppid.0,
            sid: moved(task.sid.0, &[cradle.sid]),
            // The group that the session's leader leads has its number.
            pgid: moved(task.pgid.0, &[cradle.pgid, cradle.sid]),
            life,
            ..ExpectedTask::default()
        };
        if let Some(alive) = task.alive() {
            wanted.vdso =
                running.as_ref().and_then(|running| running.expected(alive, ground.vdsos.get(&task.pid)));
            wanted.threads = alive.threads.iter().skip(1).map(|thread| thread.tid.0).collect();
            let space = space::expected(model, alive, &index_of);
            wanted.space = Some(Box::new(space.map_err(|what| unusable(task.pid.0, what))?));
            wanted.table_id = Some(alive.ids.files).filter(|id| *id != 0);
            for entry in &alive.fds {
                let Some(ofd) = index_of.get(&entry.ofd_id).copied() else {
                    return Err(unusable(
                        task.pid.0,
                        format!("descriptor {}: file {:#x} is not in files.img", entry.fd, entry.ofd_id),
                    ));
                };
                wanted.table.push(Slot { fd: entry.fd, ofd, cloexec: entry.cloexec });
            }
            wanted.table.sort_by_key(|slot| slot.fd);
        }
        tasks.push(wanted);
    }
    let root = tasks.first().map_or(0, |task| task.pid);
    let read = |blob: &Blob| open_blob(&model.dir, blob).map_err(|error| unusable(root, error.to_string()));

    let mut pipes = BTreeMap::new();
    for pipe in &model.pipe_data {
        pipes.insert(pipe.pipe_id, ExpectedPipe { capacity: pipe.capacity_bytes, data: read(&pipe.data)? });
    }
    let mut fifos = BTreeMap::new();
    for fifo in &model.fifo_data {
        fifos.insert(fifo.pipe_id, ExpectedPipe { capacity: fifo.capacity_bytes, data: read(&fifo.data)? });
    }
    let mut queues: BTreeMap<u32, Vec<ExpectedPacket>> = BTreeMap::new();
    let mut strange: BTreeMap<u32, &'static str> = BTreeMap::new();
    for packet in &model.packets {
        let rights: Option<Vec<OfdId>> = packet.rights.iter().map(|id| index_of.get(id).copied()).collect();
        if packet.control_messages as usize > packet.rights.len() || rights.is_none() {
            strange.insert(packet.id_for, "control messages in its queue");
        }
        let packet_data = ExpectedPacket { data: read(&packet.data)?, rights: rights.unwrap_or_default() };
        queues.entry(packet.id_for).or_default().push(packet_data);
    }
    let mut ghost_of: BTreeMap<u32, InodeId> = BTreeMap::new();
    for remap in &model.remaps {
        match remap.remap_type {
            0 => {
                ghost_of.insert(remap.orig_id, InodeId::Linked(remap.remap_id));
            }
            1 => {
                ghost_of.insert(remap.orig_id, InodeId::Ghost(remap.remap_id));
            }
            _ => {
                strange.insert(remap.orig_id, "its process is gone");
            }
        }
    }
    let inodes = inodes(model, &ghost_of);
    let images = attributes::Images { model, index_of: &index_of, ghost_of: &ghost_of, inherited };
    for (wanted, task) in tasks.iter_mut().zip(&model.tasks) {
        wanted.attributes = images.attributes(task).map_err(|what| unusable(task.pid.0, what))?;
    }

    let sockets: BTreeMap<u32, (OfdId, &UnixSocket)> = model
        .ofds
        .iter()
        .enumerate()
        .filter_map(|(index, ofd)| match &ofd.kind {
            OfdKind::Unix(socket) => Some((socket.inode, (OfdId::new(index), &**socket))),
            _ => None,
        })
        .collect();
    let context = Context { model, index_of: &index_of, tasks: &tasks, sockets: &sockets, facts };
    let ofds = model
        .ofds
        .iter()
        .map(|ofd| {
            let mut wanted = context.expected_ofd(ofd, queues.remove(&ofd.id).unwrap_or_default());
            if let (Some(inode), OfdKind::Reg(file)) = (ghost_of.get(&ofd.id), &ofd.kind) {
                if inodes.contains_key(inode) && !file.is_external {
                    let is_first = inodes.get(inode).is_some_and(|inode| inode.name == file.path.as_bytes());
                    let alias = (!is_first).then(|| file.path.as_bytes().to_vec());
                    wanted.spec = OfdSpec::Inode { inode: *inode, alias, position: position(file) };
                    // The flag of a file that was made without a name, which no other way leaves.
                    if file.flags & O_TMPFILE_BIT != 0 {
                        wanted.flags &= !(libc::O_TMPFILE as u32);
                    }
                } else {
                    wanted.spec = OfdSpec::Unmodelled("an unlinked file of this kind".to_owned());
                }
            }
            let path_id = if let OfdKind::Fifo(fifo) = &ofd.kind { fifo.reg_id } else { ofd.id };
            if let (Some(id), OfdSpec::Fifo { inode, .. }) = (ghost_of.get(&path_id), &mut wanted.spec) {
                *inode = Some(*id);
            }
            if let Some(what) = strange.get(&path_id) {
                wanted.spec = OfdSpec::Unmodelled((*what).to_owned());
            }
            wanted
        })
        .collect();
    let paths = model.ofds.iter().filter_map(|ofd| match &ofd.kind {
        OfdKind::Reg(file) => Some(file.path.as_bytes().to_vec()),
        _ => None,
    });
    Ok(Expected {
        tasks,
        ofds,
        pipes,
        fifos,
        cradle: Birthplace {
            sid: cradle.sid.map_or(0, |(_, new)| new),
            pgid: cradle.pgid.map_or(0, |(_, new)| new),
        },
        paths: paths.collect(),
        socket_paths: sockets.values().filter_map(|(_, socket)| unix_path(socket)).collect::<BTreeSet<_>>(),
        images: model.dir.as_os_str().as_bytes().to_vec(),
        facts,
        inodes,
        inherited: inherited.0.clone(),
        segments: space::segments(model),
        seccomp: seccomp(model),
    })
}

/// seccomp of every thread that has any. Filters with TSYNC are those of all threads of their task.
fn seccomp(model: &Model) -> BTreeMap<u32, ExpectedSeccomp> {
    const TSYNC: u32 = libc::SECCOMP_FILTER_FLAG_TSYNC as u32;
    const LOG: u32 = libc::SECCOMP_FILTER_FLAG_LOG as u32;
    let filters = &model.seccomp_filters;
    let mut all = BTreeMap::new();
    for alive in model.tasks.iter().filter_map(|task| task.alive()) {
        let mut is_shared = false;
        for thread in &alive.threads {
            let first = thread.seccomp_filter.and_then(|index| filters.get(index as usize));
            let chain = std::iter::successors(first, |filter| filters.get(filter.next? as usize));
            let wanted = match thread.seccomp_mode {
                0 if is_shared => ExpectedSeccomp::OfFirst,
                0 => continue,
                1 => ExpectedSeccomp::Strict,
                // No chain is longer than all filters: the reader has seen to it that each ends.
                _ => ExpectedSeccomp::Filters(
                    chain
                        .take(filters.len())
                        .map(|filter| ExpectedFilter {
                            program: filter.program.clone(),
                            logs: filter.flags & LOG != 0,
                        })
                        .collect(),
                ),
            };
            is_shared |= first.is_some_and(|filter| filter.flags & TSYNC != 0);
            all.insert(thread.tid.0, wanted);
        }
    }
    all
}

/// Unlinked files, each by the name that it had, and memfds.
fn inodes(model: &Model, ghost_of: &BTreeMap<u32, InodeId>) -> BTreeMap<InodeId, ExpectedInode> {
    let image = |image: Image| model.dir.join(image.to_string()).as_os_str().as_bytes().to_vec();
    let mut names: BTreeMap<InodeId, BTreeSet<&str>> = BTreeMap::new();
    for ofd in &model.ofds {
        if let (Some(id), OfdKind::Reg(file)) = (ghost_of.get(&ofd.id), &ofd.kind) {
            names.entry(*id).or_default().insert(&file.path);
        }
    }
    // It is made under the first of its names, in their order: so messages and descriptions name it.
    let names = |id: InodeId| -> Option<(Vec<u8>, BTreeSet<Vec<u8>>)> {
        let mut paths = names.get(&id)?.iter().map(|path| path.as_bytes().to_vec());
        Some((paths.next()?, paths.collect()))
    };
    let mut inodes = BTreeMap::new();
    for ghost in &model.ghosts {
        let id = InodeId::Ghost(ghost.id);
        let kind = match ghost.mode & libc::S_IFMT {
            libc::S_IFREG => InodeKind::File,
            libc::S_IFDIR => InodeKind::Directory,
            libc::S_IFIFO => InodeKind::Fifo,
            _ => continue,
        };
        let Some((name, further)) = names(id) else { continue };
        let mut content = Content::default();
        for piece in &ghost.pieces {
            content.push(
                piece.at,
                &image(Image::GhostFile(ghost.id)),
                piece.data.offset_bytes,
                piece.data.len_bytes,
            );
        }
        let inode = ExpectedInode {
            kind,
            name,
            further,
            source: Vec::new(),
            size: ghost.size_bytes,
            mode: Some(ghost.mode & 0o7777),
            owner: (ghost.uid, ghost.gid),
            times: ghost.times,
            seals: 0,
            content,
        };
        inodes.insert(id, inode);
    }
    for memfd in &model.memfds {
        let mut content = Content::default();
        for shm in model.shm.iter().filter(|shm| shm.shmid == memfd.shmid) {
            let source = image(Image::Pages(shm.pages.pages_id));
            for extent in &shm.pages.extents {
                let rest = memfd.size_bytes.saturating_sub(extent.start);
                content.push(
                    extent.start,
                    &source,
                    extent.offset_bytes,
                    rest.min(extent.len_pages.saturating_mul(4096)),
                );
            }
        }
        let inode = ExpectedInode {
            kind: InodeKind::Memfd,
            name: memfd.name.as_bytes().to_vec(),
            further: BTreeSet::new(),
            source: Vec::new(),
            size: memfd.size_bytes,
            mode: memfd.mode.map(|mode| mode & 0o7777),
            owner: (memfd.uid, memfd.gid),
            times: None,
            seals: memfd.seals,
            content,
        };
        inodes.insert(InodeId::Memfd(memfd.inode_id), inode);
    }
    for ofd in &model.ofds {
        let (id, OfdKind::Reg(file)) = (InodeId::Linked(ofd.id), &ofd.kind) else { continue };
        if let Some((name, further)) = names(id) {
            let source = file.path.as_bytes().to_vec();
            let inode =
                ExpectedInode { kind: InodeKind::Linked, name, further, source, ..ExpectedInode::default() };
            inodes.insert(id, inode);
        }
    }
    inodes
}

fn unusable(task: u32, what: String) -> Counterexample {
    Counterexample { task, record: None, wrong: Wrong::Images { what } }
}

/// What is looked up for a description.
struct Context<'a> {
    model: &'a Model,
    index_of: &'a BTreeMap<u32, OfdId>,
    tasks: &'a [ExpectedTask],
    sockets: &'a BTreeMap<u32, (OfdId, &'a UnixSocket)>,
    facts: Facts,
}

impl Context<'_> {
    fn expected_ofd(&self, ofd: &Ofd, queue: Vec<ExpectedPacket>) -> ExpectedOfd {
        let sockets = self.sockets;
        let id = ofd.id;
        let (name, spec, flags, fown) = match &ofd.kind {
            OfdKind::Reg(file) => {
                (format!("file {id:#x} ({})", file.path), path(file), file.flags, file.fown)
            }
            OfdKind::Pipe(pipe) => {
                let end = match (pipe.flags as i32) & libc::O_ACCMODE {
                    libc::O_RDONLY => "reading end",
                    libc::O_WRONLY => "writing end",
                    _ => "reading and writing end",
                };
                (
                    format!("file {id:#x} (pipe {:#x}, {end})", pipe.pipe_id),
                    OfdSpec::Pipe { pipe: pipe.pipe_id },
                    pipe.flags,
                    pipe.fown,
                )
            }
            OfdKind::Eventfd(eventfd) => {
                // EFD_SEMAPHORE is not among the flags of the images (criu/eventfd.c stores F_GETFL).
                let spec = OfdSpec::Eventfd { counter: eventfd.counter, semaphore: false };
                (format!("file {id:#x} (eventfd)"), spec, eventfd.flags, eventfd.fown)
            }
            OfdKind::Unix(unix) => {
                let spec = socket(unix, sockets, queue);
                (format!("file {id:#x} (unix socket {:#x})", unix.inode), spec, unix.flags, unix.fown)
            }
            OfdKind::Inet(inet) => {
                let spec = inet_socket(inet);
                (format!("file {id:#x} (internet socket {:#x})", inet.inode), spec, inet.flags, inet.fown)
            }
            OfdKind::Memfd(memfd) => {
                let inode = InodeId::Memfd(memfd.inode_id);
                let spec = OfdSpec::Inode { inode, alias: None, position: Some(memfd.position) };
                (format!("file {id:#x} (memfd {})", memfd.inode_id), spec, memfd.flags, memfd.fown)
            }
            OfdKind::Epoll(epoll) => {
                let spec = self.epoll(id, epoll);
                (format!("file {id:#x} (epoll)"), spec, epoll.flags, epoll.fown)
            }
            OfdKind::Timerfd(timerfd) => {
                let spec = timer(timerfd, &self.facts);
                (format!("file {id:#x} (timerfd)"), spec, timerfd.flags, timerfd.fown)
            }
            OfdKind::Signalfd(signalfd) => {
                // SIGKILL and SIGSTOP are never among them.
                let spec = OfdSpec::Signalfd { mask: signalfd.mask };
                (format!("file {id:#x} (signalfd)"), spec, signalfd.flags, signalfd.fown)
            }
            OfdKind::Fifo(fifo) => match self.fifo(fifo) {
                Some(file) => {
                    let spec = OfdSpec::Fifo {
                        fifo: fifo.pipe_id,
                        path: file.path.as_bytes().to_vec(),
                        inode: None,
                    };
                    (format!("file {id:#x} (FIFO {})", file.path), spec, file.flags, file.fown)
                }
                None => {
                    let spec = OfdSpec::Unmodelled("a FIFO without a path".to_owned());
                    (format!("file {id:#x} (FIFO {:#x})", fifo.pipe_id), spec, 0, Fown::default())
                }
            },
            OfdKind::Other(kind) => (
                format!("file {id:#x} ({kind})"),
                OfdSpec::Unmodelled(format!("a file of kind {kind}")),
                0,
                Fown::default(),
            ),
        };
        let owner = Owner {
            pid_type: fown.pid_type,
            pid: fown.pid,
            uids: [fown.uid, fown.euid],
            signal: fown.signum,
        };
        ExpectedOfd { name, spec, flags, owner }
    }

    /// The path of a FIFO: not external, not another one's.
    fn fifo(&self, fifo: &Fifo) -> Option<&RegFile> {
        match &self.model.ofds[self.index_of.get(&fifo.reg_id)?.index()].kind {
            OfdKind::Reg(file) if !file.is_external => Some(file),
            _ => None,
        }
    }

    /// The numbers of the images are those of the first task that has the epoll file, and the files at
    /// them.
    fn epoll(&self, id: u32, epoll: &Epoll) -> OfdSpec {
        let Some(own) = self.index_of.get(&id) else {
            return OfdSpec::Unmodelled("an epoll file without an id".to_owned());
        };
        // Where nobody has it open, what it is in flight in counts, and so on.
        let is_open =
            |ofd: &OfdId| self.tasks.iter().any(|task| task.table.iter().any(|slot| slot.ofd == *ofd));
        let mut through = *own;
        for _ in 0..self.model.packets.len() {
            let carries = |packet: &&crate::image::Packet| {
                packet.rights.iter().any(|right| self.index_of.get(right) == Some(&through))
            };
            if is_open(&through) {
                break;
            }
            // Of several the last in the image counts, as it does for who sends.
            let carrier = self.model.packets.iter().rfind(carries);
            match carrier.and_then(|packet| self.index_of.get(&packet.id_for)) {
                Some(next) => through = *next,
                None => break,
            }
        }
        let mut holders = self.tasks.iter().filter(|task| task.table.iter().any(|slot| slot.ofd == through));
        let targets = |task: &ExpectedTask| -> Option<Vec<Interest>> {
            let slot = |fd: u32| {
                let at = task.table.binary_search_by_key(&fd, |slot| slot.fd).ok()?;
                Some(task.table[at].ofd)
            };
            let interest = |interest: &crate::image::Interest| {
                let ofd = slot(interest.fd)?;
                let inode = match &self.model.ofds.get(ofd.index())?.kind {
                    OfdKind::Pipe(pipe) => Some(pipe.pipe_id),
                    OfdKind::Fifo(fifo) => Some(fifo.pipe_id),
                    OfdKind::Unix(unix) => Some(unix.inode),
                    _ => None,
                };
                if inode.zip(interest.inode).is_some_and(|(is, wanted)| is != wanted as u32) {
                    return None;
                }
                Some(Interest { fd: interest.fd, ofd, events: interest.events, data: interest.data })
            };
            epoll.interests.iter().map(interest).collect()
        };
        match holders.find_map(targets) {
            Some(interests) => OfdSpec::Epoll { interests },
            None if epoll.interests.is_empty() => OfdSpec::Epoll { interests: Vec::new() },
            None => {
                OfdSpec::Unmodelled("an epoll file that watches what no task has at that number".to_owned())
            }
        }
    }
}

/// How a timer must be set: absolute deadlines by the clock at the restore, and one period from then
/// where the last has expired.
fn timer(timerfd: &Timerfd, facts: &Facts) -> OfdSpec {
    let clock = timerfd.clock_id;
    let expired = timerfd.value_ns == 0 && timerfd.ticks > 0;
    let left_ns = if expired { timerfd.interval_ns } else { timerfd.value_ns };
    let is_absolute = timerfd.settime_flags & libc::TFD_TIMER_ABSTIME as u32 != 0;
    let now_ns = match clock as i32 {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM => facts.clocks_ns[0],
        libc::CLOCK_MONOTONIC => facts.clocks_ns[1],
        libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => facts.clocks_ns[2],
        _ => None,
    };
    let value_ns = match (is_absolute && left_ns > 0, now_ns) {
        (false, _) => left_ns,
        (true, Some(now_ns)) => now_ns.saturating_add(left_ns),
        (true, None) => return OfdSpec::Unmodelled("a timerfd of a clock that could not be read".to_owned()),
    };
    let timer = TimerSpec {
        flags: timerfd.settime_flags,
        value_ns,
        interval_ns: timerfd.interval_ns,
        ticks: timerfd.ticks,
    };
    OfdSpec::Timerfd { clock, timer }
}

fn path(file: &RegFile) -> OfdSpec {
    if file.is_external {
        return OfdSpec::Unmodelled("an external file".to_owned());
    }
    OfdSpec::Path { path: file.path.as_bytes().to_vec(), position: position(file) }
}

/// Descriptions without a position have -1, or are O_PATH.
fn position(file: &RegFile) -> Option<u64> {
    let has_position = file.flags & libc::O_PATH as u32 == 0 && file.position != u64::MAX;
    has_position.then_some(file.position)
}

fn socket(
    socket: &UnixSocket,
    sockets: &BTreeMap<u32, (OfdId, &UnixSocket)>,
    queue: Vec<ExpectedPacket>,
) -> OfdSpec {
    let unmodelled = |what: &str| OfdSpec::Unmodelled(what.to_owned());
    let is_dgram = socket.sock_type == libc::SOCK_DGRAM as u32;
    if socket.uflags != 0 || socket.options.bound_dev.is_some() {
        return unmodelled("an external or inherited socket, or one bound to a device");
    }
    let listens = socket.state == LISTEN;
    let file = match unix_path(socket) {
        None => SocketFile::Any,
        // A listener's file stands for what it accepted, too.
        Some(_) if !is_dgram && socket.state == ESTABLISHED => SocketFile::Any,
        Some(_) if socket.deleted => SocketFile::Gone,
        Some(_) => SocketFile::Own { perms: socket.file_perms },
    };
    let is_relative = unix_path(socket).is_some() && socket.name[0] != b'/';
    let peer = match sockets.get(&socket.peer) {
        // A peer that sits only in a queue is open, too; the checker finds it there.
        Some((_, peer)) if peer.peer == socket.inode => SocketPeer::Socket(peer.inode),
        Some((_, peer)) if !is_dgram && peer.state == LISTEN => SocketPeer::Listener(peer.inode),
        Some((_, peer)) if is_dgram => SocketPeer::Socket(peer.inode),
        Some(_) => return unmodelled("a socket whose peer is connected elsewhere"),
        None if socket.peer != 0 => return unmodelled("a socket whose peer is outside the tree"),
        None if is_dgram => SocketPeer::None,
        None if socket.state == ESTABLISHED => SocketPeer::Closed,
        None => SocketPeer::None,
    };
    OfdSpec::Socket(Box::new(SocketSpec {
        socket: socket.inode,
        peer,
        family: libc::AF_UNIX as u32,
        sock_type: socket.sock_type,
        name: unix_address(socket),
        name_dir: socket.name_dir.clone().filter(|_| is_relative).map(String::into_bytes),
        file,
        backlog: listens.then_some(socket.backlog),
        waiting: sockets.values().filter(|(_, other)| listens && other.peer == socket.inode).count(),
        shutdown: socket.shutdown,
        queue,
        options: options(&socket.options),
        bytes: byte_options(&socket.options),
        ..SocketSpec::default()
    }))
}

/// The name of a socket as `bind(2)` takes it, without the zero byte behind a path.
fn unix_address(socket: &UnixSocket) -> Option<Vec<u8>> {
    let first = *socket.name.first()?;
    let end = if first == 0 { None } else { socket.name.iter().position(|byte| *byte == 0) };
    let name = &socket.name[..end.unwrap_or(socket.name.len())];
    Some([&(libc::AF_UNIX as u16).to_ne_bytes(), name].concat())
}

/// The absolute path of a socket's name.
fn unix_path(socket: &UnixSocket) -> Option<Vec<u8>> {
    let name = unix_address(socket)?.split_off(2);
    match (name.first()?, &socket.name_dir) {
        (0, _) => None,
        (b'/', _) | (_, None) => Some(name),
        (_, Some(dir)) => Some([dir.trim_end_matches('/').as_bytes(), b"/", &name].concat()),
    }
}

/// An internet socket.
fn inet_socket(socket: &InetSocket) -> OfdSpec {
    /// netinet/in.h
    const PROTOCOL_ICMP: [u32; 2] = [1, 58];
    const CLOSED: u32 = 7;
    let unmodelled = |what: &str| OfdSpec::Unmodelled(what.to_owned());
    let (is_tcp, is_raw) = (socket.sock_type == 1, socket.sock_type == 3);
    if is_tcp && (socket.dst.1 != 0 || !matches!(socket.state, LISTEN | CLOSED)) {
        return unmodelled("a TCP connection");
    }
    if socket.device.is_some() || socket.checksum.is_some() {
        return unmodelled("a socket with a scope or a checksum");
    }
    let is_v6 = socket.family == libc::AF_INET6 as u32;
    let address = |end: &(Vec<u8>, u16)| {
        let there = if is_raw { end.0.iter().any(|byte| *byte != 0) } else { end.1 != 0 };
        there.then(|| {
            let mut bytes = [(socket.family as u16).to_ne_bytes(), end.1.to_be_bytes()].concat();
            bytes.resize(if is_v6 { 8 } else { 4 }, 0);
            bytes.extend(&end.0);
            bytes.resize(if is_v6 { 28 } else { 16 }, 0);
            bytes
        })
    };
    let mut wanted = options(&socket.options);
    let mut set = |option: SocketOption, value: Option<u32>| {
        wanted.extend(value.map(|value| (option, u64::from(value))));
    };
    set(SocketOption::FreeBind, Some(socket.freebind.into()));
    set(SocketOption::PacketInfo, Some(socket.pktinfo.into()));
    set(SocketOption::HeaderIncluded, socket.hdrincl.map(u32::from));
    if is_v6 {
        set(SocketOption::V6Only, socket.v6only.map(u32::from));
    } else {
        set(SocketOption::TypeOfService, socket.tos);
        set(SocketOption::TimeToLive, socket.ttl);
        set(SocketOption::NoDefrag, socket.nodefrag.map(u32::from));
    }
    if is_tcp {
        set(SocketOption::NoDelay, Some(socket.nodelay.into()));
        set(SocketOption::Cork, Some(socket.cork.into()));
        set(SocketOption::KeepCount, socket.keep[0]);
        set(SocketOption::KeepIdle, socket.keep[1]);
        set(SocketOption::KeepInterval, socket.keep[2]);
    }
    let mut bytes = byte_options(&socket.options);
    bytes.insert(
        SocketOption::IcmpFilter,
        socket.icmp_filter.iter().flat_map(|word| word.to_ne_bytes()).collect(),
    );
    // The number of an ICMP socket is none that anybody chose.
    let named = is_raw || !PROTOCOL_ICMP.contains(&socket.protocol);
    OfdSpec::Socket(Box::new(SocketSpec {
        socket: socket.inode,
        peer: address(&socket.dst).map_or(SocketPeer::None, SocketPeer::Address),
        family: socket.family,
        sock_type: socket.sock_type,
        protocol: socket.protocol,
        name: address(&socket.src).filter(|_| named),
        backlog: (socket.state == LISTEN).then_some(socket.backlog),
        shutdown: socket.shutdown,
        options: wanted,
        bytes,
        ..SocketSpec::default()
    }))
}

/// The options that are no numbers.
fn byte_options(options: &SocketOptions) -> BTreeMap<SocketOption, Vec<u8>> {
    let device = options.bound_dev.clone().unwrap_or_default().into_bytes();
    // Code, jump if true, jump if false, operand: from the highest bits to the lowest.
    let instruction = |word: &u64| {
        let [b7, b6, b5, b4, b3, b2, b1, b0] = word.to_be_bytes();
        let (code, operand) =
            (u16::from_be_bytes([b7, b6]).to_ne_bytes(), u32::from_be_bytes([b3, b2, b1, b0]).to_ne_bytes());
        [&code[..], &[b5, b4], &operand].concat()
    };
    let filter = options.filter.iter().flat_map(instruction).collect();
    BTreeMap::from([(SocketOption::BoundDevice, device), (SocketOption::Filter, filter)])
}

/// The options that the images give, as `getsockopt(2)` would.
fn options(options: &SocketOptions) -> BTreeMap<SocketOption, u64> {
    let mut wanted = BTreeMap::from([
        (SocketOption::SendBuffer, u64::from(options.sndbuf_bytes)),
        (SocketOption::ReceiveBuffer, u64::from(options.rcvbuf_bytes)),
        (SocketOption::SendTimeout, options.snd_timeout_us),
        (SocketOption::ReceiveTimeout, options.rcv_timeout_us),
        (SocketOption::ReuseAddr, options.reuseaddr.into()),
        (SocketOption::ReusePort, options.reuseport.into()),
        (SocketOption::PassCred, options.passcred.into()),
        (SocketOption::PassSec, options.passsec.into()),
        (SocketOption::DontRoute, options.dontroute.into()),
        (SocketOption::NoCheck, options.no_check.into()),
        (SocketOption::Broadcast, options.broadcast.into()),
        (SocketOption::KeepAlive, options.keepalive.into()),
        (SocketOption::OobInline, options.oobinline.into()),
        (SocketOption::Linger, options.linger_s.map_or(0, |seconds| u64::from(seconds) + 1)),
    ]);
    let stored = [
        (SocketOption::Priority, options.priority),
        (SocketOption::ReceiveLowat, options.rcvlowat),
        (SocketOption::Mark, options.mark),
        (SocketOption::BufferLock, options.buf_lock),
    ];
    wanted.extend(stored.into_iter().filter_map(|(option, value)| Some((option, u64::from(value?)))));
    wanted
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::image::read_model;
    use crate::tape::abi::{CLONE_ARGS_EXIT_SIGNAL, CLONE_ARGS_SET_TID, CLONE_ARGS_SET_TID_SIZE};
    use crate::tape::assemble::{Assembler, Tape};

    const BASE: u64 = 0x1_0000_0000;
    const WINDOW: u64 = 1 << 21;
    const AT_CWD: u64 = libc::AT_FDCWD as u64;
    const CLOEXEC: u64 = libc::O_CLOEXEC as u64;

    fn pair() -> Model {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/pair/images");
        let mut model = read_model(&dir).expect("the images are good");
        for alive in model.tasks.iter_mut().filter_map(|task| task.alive_mut()) {
            // The tapes below map nothing.
            (alive.mm.vmas, alive.mm.pages) = Default::default();
        }
        model
    }

    /// A host whose launcher has, of what a fork leaves to a child, just what the root is to have: the
    /// tapes below are about descriptors.
    fn ground(model: &Model) -> Ground {
        let expected = expected(model, &Ground::default()).expect("the images are good");
        let root = &expected.tasks[0];
        Ground { inherited: Inherited(root.attributes[&root.pid].clone()), ..Ground::default() }
    }

    /// What no child inherits of its parent; and nothing that the launcher had mapped.
    fn thread_of_its_own(tape: &mut Tape, model: &Model, index: usize) {
        let thread = &model.tasks[index].alive().expect("it lives").threads[0];
        let (head, len) = thread.robust_list;
        tape.call(libc::SYS_set_robust_list, &[head, len], 0);
        tape.call(libc::SYS_set_tid_address, &[thread.clear_tid_addr], u64::from(thread.tid.0));
        tape.call(libc::SYS_munmap, &[0, BASE], 0);
        tape.call(libc::SYS_munmap, &[BASE + WINDOW, 0x7fff_ffff_f000 - BASE - WINDOW], 0);
    }

    fn clone_args(asm: &mut Assembler, pid: u32) -> u64 {
        let mut words = [0; 11];
        words[CLONE_ARGS_EXIT_SIGNAL] = libc::SIGCHLD as u64;
        words[CLONE_ARGS_SET_TID] = asm.data(&pid.to_ne_bytes(), 4);
        words[CLONE_ARGS_SET_TID_SIZE] = 1;
        asm.words(&words)
    }

    /// Tapes for the pair's descriptors, by hand: `change` sees each task's records before they are
    /// laid down.
    fn tapes(model: &Model, change: impl Fn(u32, &mut Vec<Record>)) -> Tapes {
        let mut asm = Assembler::new(BASE, 0, 0, runner::code());
        let payload = |blob: &Blob| open_blob(&model.dir, blob).expect("the payload is there");
        let (pipe, packets) = (payload(&model.pipe_data[0].data), &model.packets);

        let mut child = Tape::default();
        child.call(libc::SYS_close, &[4], 0);
        child.call(libc::SYS_close, &[5], 0);
        let name = asm.text(model.tasks[1].alive().expect("it lives").comm.as_bytes());
        child.call(libc::SYS_prctl, &[libc::PR_SET_NAME as u64, name, 0, 0, 0], 0);
        thread_of_its_own(&mut child, model, 1);
        child.arrive();
        child.park();
        change(4713, &mut child.records);
        let child_args = clone_args(&mut asm, 4713);
        let child_tape = asm.tape(4713, true, child_args, &child.records);

        let mut parent = Tape::default();
        let null = asm.text(b"/dev/null");
        let scratch = asm.scratch();
        parent.call(libc::SYS_close_range, &[0, u64::from(u32::MAX), 0], 0);
        parent.call(libc::SYS_setsid, &[], 4711);
        parent.call(libc::SYS_openat, &[AT_CWD, null, libc::O_RDONLY as u64, 0], 0);
        parent.call(libc::SYS_openat, &[AT_CWD, null, libc::O_WRONLY as u64, 0], 1);
        parent.call(libc::SYS_dup3, &[1, 2, 0], 2);
        parent.call(libc::SYS_pipe2, &[scratch, CLOEXEC], 0);
        let data = asm.data(&pipe, 1);
        parent.call(libc::SYS_write, &[4, data, pipe.len() as u64], pipe.len() as u64);
        parent.call(libc::SYS_socketpair, &[libc::AF_UNIX as u64, libc::SOCK_STREAM as u64, 0, scratch], 0);
        for packet in packets {
            // Description 6 is descriptor 5 of the parent: what waits there is sent from the other end.
            let (bytes, from) = (payload(&packet.data), if packet.id_for == 6 { 6 } else { 5 });
            let data = asm.data(&bytes, 1);
            let args = [from, data, bytes.len() as u64, libc::MSG_DONTWAIT as u64];
            parent.call(libc::SYS_sendto, &args, bytes.len() as u64);
        }
        parent.fork(child_args, child_tape, 4713);
        parent.call(libc::SYS_close, &[6], 0);
        thread_of_its_own(&mut parent, model, 0);
        parent.arrive();
        parent.park();
        change(4711, &mut parent.records);
        let args = clone_args(&mut asm, 4711);
        asm.tape(4711, true, args, &parent.records);
        asm.finish(1 << 20, WINDOW).expect("they fit")
    }

    #[track_caller]
    fn check(model: &Model, tapes: &Tapes, expected: &str) {
        match certify(model, tapes, &ground(&pair()), None) {
            Ok(certificate) => panic!("a certificate, expected: {expected}\n{certificate}"),
            Err(counterexample) => assert_eq!(counterexample.to_string(), expected),
        }
    }

    #[test]
    fn a_real_tree() {
        let model = pair();
        let certificate =
            certify(&model, &tapes(&model, |_, _| ()), &ground(&model), None).expect("a certificate");
        assert_eq!((certificate.tasks, certificate.descriptors, certificate.descriptions), (2, 11, 6));
        assert_eq!(certificate.queued_bytes, 2 * 11 + 10 + 11);
    }

    #[test]
    fn records_that_lose_the_certificate() {
        let model = pair();
        let lost = |pid: u32, at: usize, by: Option<Record>, expected: &str| {
            let tapes = tapes(&model, |task, records| {
                if task == pid {
                    records.splice(at..=at, by);
                }
            });
            check(&model, &tapes, expected);
        };
        let call = |nr: libc::c_long, args: &[u64], expect: u64| {
            let mut tape = Tape::default();
            tape.call(nr, args, expect);
            tape.records.pop()
        };
        let pipe = "file 0x4 (pipe 0x10012f, reading end)";
        lost(
            4711,
            6,
            None,
            &format!("task 4711: descriptor 3 ({pipe}): data ends as 0 bytes, the images say 11 bytes"),
        );
        lost(
            4713,
            0,
            None,
            "task 4713: descriptor 4 (the writing end of pipe 0x10012f) is open at the end; the images have nothing there",
        );
        lost(
            4713,
            0,
            call(libc::SYS_reboot, &[], 0),
            "task 4713, record 0: unknown effect: system call 169: not modelled",
        );
        lost(
            4711,
            4,
            call(libc::SYS_dup3, &[0, 2, 0], 2),
            "task 4711: descriptor 2 ends as the same description as descriptor 0 of task 4711 (file /dev/null), the images say file 0x3 (/dev/null)",
        );
        lost(
            4711,
            11,
            None,
            "task 4711: descriptor 6 (socket 0x100131) is open at the end; the images have nothing there",
        );
    }

    #[test]
    fn models_that_lose_the_certificate() {
        let good = pair();
        let tapes = tapes(&good, |_, _| ());
        let lost = |change: &dyn Fn(&mut Model), expected: &str| {
            let mut model = good.clone();
            change(&mut model);
            check(&model, &tapes, expected);
        };
        let alive =
            |model: &mut Model, change: &dyn Fn(&mut crate::image::Alive)| match &mut model.tasks[1].state {
                TaskState::Alive(alive) | TaskState::Stopped(alive) => change(alive),
                TaskState::Zombie { .. } => panic!("it lives"),
            };
        lost(
            &|model| alive(model, &|alive| alive.fds[0].cloexec = true),
            "task 4713: descriptor 0 ends with close-on-exec off, the images say on",
        );
        lost(
            &|model| {
                alive(model, &|alive| {
                    alive.threads.push(crate::image::Thread {
                        tid: crate::image::NsPid(4714),
                        ..alive.threads[0].clone()
                    })
                })
            },
            "task 4713: its thread 4714 is never created",
        );
        lost(
            &|model| alive(model, &|alive| alive.threads[0].seccomp_mode = 1),
            "task 4713: seccomp mode is 0 at the end, the images say 1",
        );
        lost(
            &|model| {
                let program = [6u8, 0, 0, 0, 0, 0, 0xff, 0x7f][..].into();
                model.seccomp_filters = vec![crate::image::SeccompFilter { program, next: None, flags: 0 }];
                alive(model, &|alive| {
                    (alive.threads[0].seccomp_mode, alive.threads[0].seccomp_filter) = (2, Some(0));
                });
            },
            "task 4713: seccomp mode is 0 at the end, the images say 2",
        );
        lost(
            &|model| alive(model, &|alive| alive.fds[4].ofd_id = 6),
            "task 4713: descriptor 6 ends as a description of its own (socket 0x100131), the images say that it shares file 0x6 (unix socket 0x100130) with descriptor 5 of task 4711",
        );
        lost(
            &|model| model.tasks[1].pgid = crate::image::NsPid(4713),
            "task 4713: ends in process group 4711, the images say 4713",
        );
        lost(
            &|model| model.ofds[3].kind = OfdKind::Other("TTY"),
            "task 4711: descriptor 3: file 0x4 (TTY): a file of kind TTY cannot be checked yet",
        );
        lost(
            &|model| model.packets[0].control_messages = 1,
            "task 4711: descriptor 5: file 0x6 (unix socket 0x100130): control messages in its queue cannot be checked yet",
        );
        lost(
            &|model| model.pipe_data[0].data.len_bytes = 1 << 40,
            "task 4711: the images cannot be used to check it: pipes-data.img: truncated: 1099511627776 bytes wanted at offset 22, 11 there",
        );
    }

    #[test]
    fn clocks_that_lose_the_certificate() {
        let mut model = pair();
        let mut tapes = tapes(&model, |_, _| ());
        let facts = |now| Facts { clocks_ns: [Some(1), Some(now), Some(now)], ..Facts::default() };
        let dumped = model.clocks_of_tree().expect("the clocks of the dump");
        let now = (dumped.boottime.0 + 1) * 1_000_000_000;
        let inherited = ground(&model).inherited;
        let on = |now| Ground { facts: facts(now), inherited: inherited.clone(), ..Ground::default() };
        let is_certified =
            |model: &Model, tapes: &Tapes, now: u64| match certify(model, tapes, &on(now), None) {
                Ok(_) => true,
                Err(counterexample) => {
                    assert!(counterexample.to_string().contains("its clocks"), "{counterexample}");
                    false
                }
            };
        assert!(is_certified(&model, &tapes, now));
        assert!(!is_certified(&model, &tapes, 1), "the host's clocks are behind");
        let nanoseconds = |(seconds, rest)| seconds * 1_000_000_000 + rest;
        let wanted = [dumped.monotonic, dumped.boottime].map(nanoseconds);
        tapes.clocks_ns = Some(wanted);
        assert!(is_certified(&model, &tapes, 1));
        tapes.clocks_ns = Some([wanted[0], wanted[1] - 1]);
        assert!(!is_certified(&model, &tapes, 1), "another time");
        // It had a time namespace, and has none.
        for task in &mut model.tasks {
            if let TaskState::Alive(alive) = &mut task.state {
                alive.ids.time_ns = 77;
            }
        }
        model.clocks.insert(77, dumped);
        tapes.clocks_ns = None;
        assert!(!is_certified(&model, &tapes, now));
        tapes.clocks_ns = Some(wanted);
        assert!(is_certified(&model, &tapes, now));
    }

    #[test]
    fn another_runner() {
        let model = pair();
        let mut tapes = tapes(&model, |_, _| ());
        tapes.ro[0] ^= 1;
        check(&model, &tapes, "task 4711: unknown effect: the tapes come with another runner");
    }

    /// Bits that flip in what the tapes are made of: no panic, and never a certificate for another
    /// number of records.
    #[test]
    fn hostile_tapes() {
        let model = pair();
        let good = tapes(&model, |_, _| ());
        let ground = ground(&model);
        let records = certify(&model, &good, &ground, None).expect("a certificate").records;
        let start = runner::code().len();
        for at in start..good.ro.len().min(start + 4096) {
            for bit in [0, 3, 7] {
                let mut tapes = good.clone();
                tapes.ro[at] ^= 1 << bit;
                if let Ok(certificate) = certify(&model, &tapes, &ground, None) {
                    assert_eq!(certificate.records, records);
                }
            }
        }
    }
}
