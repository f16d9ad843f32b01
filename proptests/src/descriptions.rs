//! Genes into descriptions of synthetic forests ([`regrow::synth`]).
//!
//! The trees are those of [`crate::history`], so sessions, groups, orphans and zombies are possible ones, and as nasty
//! as there. On them go descriptors of every kind that a description knows, in tables that children take over
//! from their parents changed, what waits in pipes and sockets, descriptors in flight among it; private and
//! shared memory, System V objects, rings of asynchronous I/O; attributes; threads. As in [`crate::forests`] a gene is a few numbers that are read modulo what
//! there is: every gene means something, and smaller ones mean simpler forests, so shrinking works.
//!
//! Example: a tree of two tasks and the one gene of a pipe with holders (1, end 0) and (0, end 1) is a root that can
//! write to its child.

use std::path::Path;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use regrow::image::RLimit;
use regrow::synth::attributes::{Action, Credentials};
use regrow::synth::{
    Attributes, Forest, Kind, MAPPINGS, Message, PAGE, Page, Private, Segment, Slot, Task, View, Watched,
};
use regrow_graph::forest::Life;

use crate::areas::{AreaGenes, add_areas, areas};
use crate::history::{History, histories};
use crate::sysv::{IpcGenes, RingGene, add_ipc, add_rings, namespaces, rings};

/// The pid of no task is below this.
pub const FIRST_PID: u32 = 20_000;
/// The tid of the first of the threads.
const FIRST_TID: u32 = FIRST_PID + 500;
/// How many files there are to be opened: `file-0` and so on.
pub const FILES: u32 = 12;
/// Bytes in each.
pub const FILE_BYTES: usize = 4096;

/// Bytes, and what comes with them: resource and end.
type MessageGene = (Vec<u8>, Vec<(u16, u8)>);

#[derive(Debug, Clone)]
enum KindGene {
    File { number: u32, flags: usize, position: u64 },
    Pipe(Vec<u8>),
    Pair([Vec<u8>; 2]),
    Eventfd(u64),
    Messages { sort: usize, queued: [Vec<MessageGene>; 2] },
    Listener(u32),
    Epoll(Vec<(u16, u32, u64)>),
    Memfd { len_pages: u64, filled: u64, seed: u64, position: u64 },
    Signalfd(u64),
    Timerfd,
}

#[derive(Debug, Clone)]
struct ResourceGene {
    kind: KindGene,
    /// Task, end, descriptor, close-on-exec.
    holders: Vec<(u16, u8, u32, bool)>,
}

/// How a task takes over what its parent has.
#[derive(Debug, Clone, Copy)]
enum Inherit {
    Nothing,
    All {
        cloexec: bool,
    },
    Rotated(usize),
    Some(u16),
    /// It has the parent's table itself.
    Shared,
}

/// Private memory: task, pages before it, length, which pages have contents, their seed, writable.
type PrivateGene = (u16, u64, u64, u64, u64, bool);

#[derive(Debug, Clone)]
struct SegmentGene {
    len_pages: u64,
    filled: u64,
    seed: u64,
    /// Task, offset, length.
    views: Vec<(u16, u64, u64)>,
}

fn kinds() -> impl Strategy<Value = KindGene> {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    let rights = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(any::<(u16, u8)>(), 0..4)];
    let message = (prop::collection::vec(any::<u8>(), 1..40), rights);
    let queue = || prop::collection::vec(message.clone(), 0..4);
    prop_oneof![
        3 => (0..FILES, 0..4usize, 0..FILE_BYTES as u64).prop_map(|(number, flags, position)| KindGene::File { number, flags, position }),
        4 => bytes(200).prop_map(KindGene::Pipe),
        3 => (bytes(200), bytes(200)).prop_map(|(one, two)| KindGene::Pair([one, two])),
        1 => (0..1000u64).prop_map(KindGene::Eventfd),
        3 => (0..3usize, queue(), queue()).prop_map(|(sort, one, two)| KindGene::Messages { sort, queued: [one, two] }),
        1 => (1..9u32).prop_map(KindGene::Listener),
        2 => prop::collection::vec((any::<u16>(), any::<u32>(), any::<u64>()), 0..4).prop_map(KindGene::Epoll),
        1 => (1..4u64, any::<u64>(), any::<u64>(), 0..5000u64).prop_map(|(len_pages, filled, seed, position)| KindGene::Memfd { len_pages, filled, seed, position }),
        1 => any::<u64>().prop_map(KindGene::Signalfd),
        1 => Just(KindGene::Timerfd),
    ]
}

fn resources() -> impl Strategy<Value = ResourceGene> {
    let fd = prop_oneof![6 => 0u32..8, 1 => 0u32..60];
    let holder = (any::<u16>(), any::<u8>(), fd, any::<bool>());
    (kinds(), prop::collection::vec(holder, 0..6)).prop_map(|(kind, holders)| ResourceGene { kind, holders })
}

fn inherits() -> impl Strategy<Value = Inherit> {
    prop_oneof![
        2 => Just(Inherit::Nothing),
        2 => any::<bool>().prop_map(|cloexec| Inherit::All { cloexec }),
        2 => (1usize..5).prop_map(Inherit::Rotated),
        1 => any::<u16>().prop_map(Inherit::Some),
        1 => Just(Inherit::Shared),
    ]
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let action = (1u32..=64, prop_oneof![Just(1u64), 0x1000u64..0x9000], 0usize..4, any::<u64>()).prop_map(
        |(signal, handler, flags, mask)| {
            let flags = [0, libc::SA_NODEFER, libc::SA_RESTART, libc::SA_SIGINFO][flags] as u64;
            // Of some signals the payload must not be disturbed, and two have no action.
            (signal, Action { handler, flags, mask: mask & !UNBLOCKABLE })
        },
    );
    let limit = prop_oneof![
        (0u64..4096).prop_map(|cur| (libc::RLIMIT_CORE, RLimit { cur, max: 4096 })),
        (64u64..512).prop_map(|cur| (libc::RLIMIT_NOFILE, RLimit { cur, max: 512 })),
        (4096u64..8192).prop_map(|cur| (libc::RLIMIT_MSGQUEUE, RLimit { cur, max: 8192 })),
    ];
    let ids = || prop::array::uniform3(prop_oneof![Just(0u32), Just(1000u32), 1u32..70_000]);
    let credentials =
        (ids(), ids(), prop::collection::btree_set(0u32..70_000, 0..4), any::<u64>(), any::<u64>()).prop_map(
            |(uids, gids, groups, keep, effective)| Credentials {
                uids,
                gids,
                groups: groups.into_iter().collect(),
                keep,
                effective,
            },
        );
    (
        prop::option::of("[a-z]{1,15}"),
        prop::option::of(0u32..0o1000),
        prop::option::weighted(0.3, 0i32..20),
        any::<[bool; 3]>(),
        prop_oneof![2 => Just(0u32), 1 => 1u32..65],
        prop_oneof![2 => Just(0u64), 1 => any::<u64>()],
        prop::collection::vec(action, 0..3),
        prop::collection::vec(limit, 0..2),
        prop::option::weighted(0.3, credentials),
    )
        .prop_map(
            |(
                name,
                umask,
                nice,
                [subreaper, undumpable, no_new_privs],
                death,
                blocked,
                mut actions,
                limits,
                credentials,
            )| {
                actions.retain(|(signal, _)| {
                    !matches!(*signal as i32, libc::SIGKILL | libc::SIGSTOP | libc::SIGCHLD)
                });
                actions.sort_by_key(|(signal, _)| *signal);
                actions.dedup_by_key(|(signal, _)| *signal);
                Attributes {
                    name,
                    umask,
                    nice,
                    subreaper,
                    parent_death_signal: death,
                    undumpable,
                    no_new_privs,
                    blocked: blocked & !UNBLOCKABLE,
                    actions,
                    limits,
                    credentials,
                }
            },
        )
}

/// SIGKILL and SIGSTOP.
const UNBLOCKABLE: u64 = 1 << 8 | 1 << 18;

/// Everything that a description is made of.
#[derive(Debug, Clone)]
struct Genes {
    history: History,
    resources: Vec<ResourceGene>,
    inherits: Vec<Inherit>,
    private: Vec<PrivateGene>,
    segments: Vec<SegmentGene>,
    attributes: Vec<(u16, Attributes)>,
    threads: Vec<u16>,
    areas: AreaGenes,
    ipc: Option<IpcGenes>,
    rings: Vec<RingGene>,
}

/// Random descriptions without faults, of at most `tasks` tasks, whose files are in `files`.
pub fn descriptions(files: &Path, tasks: usize) -> impl Strategy<Value = Forest> + use<> {
    let files = files.to_owned();
    let private = (any::<u16>(), 1u64..4, 1u64..6, any::<u64>(), any::<u64>(), any::<bool>());
    let view = (any::<u16>(), 0u64..6, 1u64..7);
    let segment = (1u64..7, any::<u64>(), any::<u64>(), prop::collection::vec(view, 1..5));
    let segment =
        segment.prop_map(|(len_pages, filled, seed, views)| SegmentGene { len_pages, filled, seed, views });
    let attributes = (any::<u16>(), attributes());
    let genes = (
        histories(),
        prop::collection::vec(resources(), 0..9),
        prop::collection::vec(inherits(), 1..5),
        prop::collection::vec(private, 0..6),
        prop::collection::vec(segment, 0..4),
        prop::collection::vec(attributes, 0..5),
        prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(any::<u16>(), 0..4)],
        areas(),
        (namespaces(), rings()),
    );
    genes.prop_map(
        move |(
            mut history,
            resources,
            inherits,
            private,
            segments,
            attributes,
            threads,
            areas,
            (ipc, rings),
        )| {
            // The root leads a session: with another birthplace the plan would depend on who runs the test.
            history.has_cradle = false;
            let events = history.events.len().min(tasks * 2);
            history.events.truncate(events);
            let genes = Genes {
                history,
                resources,
                inherits,
                private,
                segments,
                attributes,
                threads,
                areas,
                ipc,
                rings,
            };
            build(&genes, &files, tasks)
        },
    )
}

/// The description of a seed: the same everywhere.
///
/// # Panics
/// Never: every gene means something.
#[allow(clippy::expect_used)]
pub fn sample(files: &Path, tasks: usize, seed: u64) -> Forest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), random);
    descriptions(files, tasks).new_tree(&mut runner).expect("no gene is rejected").current()
}

/// Leaves out events until there are not too many tasks.
fn tree(history: &History, most: usize) -> Vec<Task> {
    let mut history = history.clone();
    loop {
        let (specs, _) = history.live();
        if specs.len() > most && !history.events.is_empty() {
            history.events.pop();
            continue;
        }
        let moved = |pid: u32| pid + FIRST_PID;
        return specs
            .iter()
            .map(|spec| Task {
                pid: moved(spec.pid),
                parent: spec.parent.map(|parent| parent.index()),
                pgid: moved(spec.pgid),
                sid: moved(spec.sid),
                dead: (spec.life == Life::Zombie).then_some((spec.pid % 5) as u8),
                ..Task::default()
            })
            .collect();
    }
}

fn build(genes: &Genes, files: &Path, most: usize) -> Forest {
    let mut forest = Forest { tasks: tree(&genes.history, most), ..Forest::default() };
    let living: Vec<usize> = (0..forest.tasks.len()).filter(|at| forest.tasks[*at].dead.is_none()).collect();
    let task = |choice: u16| living[usize::from(choice) % living.len()];
    share(&mut forest, &genes.inherits);
    for (index, gene) in genes.resources.iter().enumerate() {
        let kind = kind(&gene.kind, &forest.resources, files, index);
        let ends = kind.ends();
        forest.resources.push(kind);
        for &(who, end, fd, cloexec) in &gene.holders {
            let keeper = keeper(&forest, task(who));
            hold(&mut forest.tasks[keeper], fd, (index, usize::from(end) % ends), cloexec);
        }
    }
    inherit(&mut forest, &genes.inherits);
    complete(&mut forest);
    for index in 0..forest.tasks.len() {
        forest.tasks[index].table = forest.tasks[keeper(&forest, index)].table.clone();
    }
    watch(&mut forest, &genes.resources);
    for (number, choice) in (0..).zip(&genes.threads) {
        forest.tasks[task(*choice)].threads.push(FIRST_TID + number);
    }
    for (choice, attributes) in &genes.attributes {
        forest.tasks[task(*choice)].attributes = attributes.clone();
    }
    add_areas(&mut forest.tasks, &genes.areas, task);
    memory(&mut forest, genes, task);
    forest
}

fn kind(gene: &KindGene, before: &[Kind], files: &Path, index: usize) -> Kind {
    const FLAGS: [i32; 4] = [libc::O_RDONLY, libc::O_RDWR, libc::O_RDWR | libc::O_APPEND, libc::O_WRONLY];
    const SORTS: [i32; 3] = [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET];
    match gene {
        KindGene::File { number, flags, position } => Kind::File {
            path: files.join(format!("file-{number}")),
            flags: FLAGS[*flags] as u32,
            position: *position,
        },
        KindGene::Pipe(data) => Kind::Pipe { data: data.clone() },
        KindGene::Pair(queued) => Kind::Pair { queued: queued.clone() },
        KindGene::Eventfd(counter) => Kind::Eventfd { counter: *counter },
        KindGene::Messages { sort, queued } => {
            let right = |(resource, end): &(u16, u8)| {
                let resource = usize::from(*resource) % before.len().max(1);
                let kind = before.get(resource).filter(|kind| !matches!(kind, Kind::Epoll { .. }))?;
                Some((resource, usize::from(*end) % kind.ends()))
            };
            let queued = queued.each_ref().map(|queue| {
                queue
                    .iter()
                    .map(|(bytes, rights)| Message {
                        bytes: bytes.clone(),
                        rights: rights.iter().filter_map(right).collect(),
                    })
                    .collect()
            });
            Kind::Messages { sock_type: SORTS[*sort] as u32, queued }
        }
        KindGene::Listener(backlog) => {
            Kind::Listener { name: format!("regrow-{}-{index}", FIRST_PID), backlog: *backlog }
        }
        KindGene::Epoll(_) => Kind::Epoll { interests: Vec::new() },
        KindGene::Memfd { len_pages, filled, seed, position } => Kind::Memfd {
            name: format!("memory {index}"),
            content: Segment { len_pages: *len_pages, pages: pages(*len_pages, *filled, *seed) },
            position: *position,
        },
        KindGene::Signalfd(mask) => Kind::Signalfd { mask: mask & !UNBLOCKABLE },
        KindGene::Timerfd => Kind::Timerfd,
    }
}

/// The pages whose bit is set.
pub(crate) fn pages(len_pages: u64, filled: u64, seed: u64) -> Vec<Page> {
    let is_filled = |index: &u64| filled >> index & 1 == 1;
    (0..len_pages).filter(is_filled).map(|index| Page { index, seed: seed.wrapping_add(index) }).collect()
}

fn hold(task: &mut Task, fd: u32, (resource, end): (usize, usize), cloexec: bool) {
    let is_free = |fd: &u32| task.table.iter().all(|slot| slot.fd != *fd);
    let fd = (fd..).find(is_free).unwrap_or(fd);
    task.table.push(Slot { fd, resource, end, cloexec });
}

/// Which tasks have their parents' tables.
fn share(forest: &mut Forest, genes: &[Inherit]) {
    for (index, task) in forest.tasks.iter_mut().enumerate().skip(1) {
        task.shares_table = task.dead.is_none() && matches!(genes[index % genes.len()], Inherit::Shared);
    }
}

/// Who has the table that a task has, and got it first.
fn keeper(forest: &Forest, index: usize) -> usize {
    let task = &forest.tasks[index];
    task.parent.filter(|_| task.shares_table).map_or(index, |parent| keeper(forest, parent))
}

fn inherit(forest: &mut Forest, genes: &[Inherit]) {
    for index in 1..forest.tasks.len() {
        let task = &forest.tasks[index];
        let Some(parent) = task.parent.filter(|_| task.dead.is_none()) else { continue };
        let mut slots = forest.tasks[keeper(forest, parent)].table.clone();
        let fds: Vec<u32> = slots.iter().map(|slot| slot.fd).collect();
        match genes[index % genes.len()] {
            // The one that it shares it gets in the end.
            Inherit::Nothing | Inherit::Shared => slots.clear(),
            Inherit::All { cloexec } => slots.iter_mut().for_each(|slot| slot.cloexec ^= cloexec),
            Inherit::Rotated(by) => {
                let by = by % slots.len().max(1);
                slots.rotate_left(by);
            }
            Inherit::Some(bits) => {
                let mut at = 0;
                slots.retain(|_| {
                    at += 1;
                    bits >> (at % 16) & 1 == 1
                });
            }
        }
        for (fd, slot) in fds.into_iter().zip(slots) {
            let table = &mut forest.tasks[index].table;
            if table.iter().all(|other| other.fd != fd) {
                table.push(Slot { fd, ..slot });
            }
        }
    }
}

/// Gives the root what nobody has and somebody must.
fn complete(forest: &mut Forest) {
    for index in (0..forest.resources.len()).rev() {
        let in_flight = forest.in_flight();
        let is_held = |forest: &Forest, end| {
            in_flight.contains(&(index, end)) || !forest.holders(index, end).is_empty()
        };
        let held: Vec<bool> = (0..forest.resources[index].ends()).map(|end| is_held(forest, end)).collect();
        let needed: Vec<usize> = match &forest.resources[index] {
            Kind::Pipe { data } if data.is_empty() && held.contains(&true) => Vec::new(),
            Kind::Pipe { .. } => vec![0],
            Kind::Epoll { .. } if forest.holders(index, 0).is_empty() => vec![0],
            Kind::Pair { .. } | Kind::Messages { .. } => vec![0, 1],
            Kind::File { .. }
            | Kind::Eventfd { .. }
            | Kind::Listener { .. }
            | Kind::Epoll { .. }
            | Kind::Memfd { .. }
            | Kind::Signalfd { .. }
            | Kind::Timerfd => vec![0],
        };
        for end in needed.into_iter().filter(|end| !held[*end]) {
            hold(&mut forest.tasks[0], 3, (index, end), false);
        }
    }
}

/// Gives epoll files what they watch: what all who have them have at one number.
fn watch(forest: &mut Forest, genes: &[ResourceGene]) {
    for (index, gene) in genes.iter().enumerate() {
        let KindGene::Epoll(wanted) = &gene.kind else { continue };
        let Some(&(holder, _)) = forest.holders(index, 0).first() else { continue };
        let fds: Vec<u32> = forest.tasks[holder]
            .table
            .iter()
            .map(|slot| slot.fd)
            .filter(|fd| forest.is_watched_by_all(index, *fd))
            .collect();
        let mut interests: Vec<Watched> = Vec::new();
        for (choice, events, data) in wanted.iter().filter(|_| !fds.is_empty()) {
            let fd = fds[usize::from(*choice) % fds.len()];
            let events = [libc::EPOLLIN, libc::EPOLLOUT, libc::EPOLLIN | libc::EPOLLET][*events as usize % 3];
            if interests.iter().all(|other| other.fd != fd) {
                interests.push(Watched { fd, events: events as u32, data: *data });
            }
        }
        forest.resources[index] = Kind::Epoll { interests };
    }
}

fn memory(forest: &mut Forest, genes: &Genes, task: impl Fn(u16) -> usize) {
    let mut next = vec![MAPPINGS.start; forest.tasks.len()];
    // A hole between two, or the kernel would join what is alike.
    let mut place = |task: usize, before: u64, len_pages: u64| {
        let start = next[task] + before * PAGE;
        next[task] = start + len_pages * PAGE;
        start
    };
    for &(who, before, len_pages, filled, seed, writable) in &genes.private {
        let task = task(who);
        let start = place(task, before, len_pages);
        let pages = pages(len_pages, filled, seed);
        forest.tasks[task].private.push(Private { start, len_pages, writable, pages });
    }
    for gene in &genes.segments {
        let segment = forest.segments.len();
        let pages = pages(gene.len_pages, gene.filled, gene.seed);
        forest.segments.push(Segment { len_pages: gene.len_pages, pages });
        for &(who, offset, len) in &gene.views {
            let offset_pages = offset % gene.len_pages;
            let len_pages = len.min(gene.len_pages - offset_pages);
            let task = task(who);
            let start = place(task, 1, len_pages);
            forest.tasks[task].views.push(View { segment, start, offset_pages, len_pages });
        }
    }
    add_ipc(forest, genes.ipc.as_ref(), &task, &mut place);
    add_rings(forest, &genes.rings, &task, &mut place);
}
