//! How the time from images that have been read to a plan with a certificate grows with the tree, and the memory.
//!
//! ```text
//! cargo bench --bench planner -- [TASKS …]
//! ```
//!
//! The program itself prints digests of the tapes with `--digests TASKS …`.
//!
//! Models of the shapes that the race restores, at several sizes, go through what `regrow plan` does with a model:
//! resources and recipes are found, descriptors placed and ordered, the programs lowered and assembled, the tapes lifted
//! and certified. The tasks are synthetic ones with as many mappings as a small program with a few libraries; each
//! of their descriptors is of a real kind. What is printed is the time of each stage for a task (the median of some rounds),
//! the time that all took (what the images demand is found out while they are resolved, planned and lowered, and the check
//! follows), and that for a use of a descriptor; and the most memory that a process of its own had for one round, from the model
//! to the certificate, with the model in it. What is linear keeps its columns from one size to the next. Nothing is restored, so
//! sizes are beyond what this host could run.
#![allow(clippy::print_stdout, reason = "the table is the result")]
#![allow(clippy::expect_used, reason = "what goes wrong ends the measuring")]
#![allow(missing_docs, reason = "a program")]

use std::process::Command;
use std::time::{Duration, Instant};

use regrow::host::{self, HostFacts, OwnFacts, PidFacts};
use regrow::image::{
    self, Alive, FdEntry, Image, Model, NsPid, Ofd, OfdKind, Origin, PagesImage, RLimit, Task, TaskState,
};
use regrow::pipeline::{Timings, try_prepare_model};
use regrow::resolve::{Options, Payloads};
use regrow::synth::model::{Ground, synthesise};
use regrow::synth::{self, Kind, MAPPINGS, PAGE, Page, Private, Segment, Slot, View};

/// How often each is planned where time counts; the median of each stage counts.
const ROUNDS: usize = 5;
const ROOT_PID: u32 = 1000;
/// Beyond what any shape asks for.
const NUMBERS: u64 = 1 << 20;

fn main() {
    regrow::sys::heap::take_in_large_pieces();
    regrow::sys::heap::be_of_huge_pages();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [one, shape, tasks, rounds] = arguments.as_slice()
        && one == "--one"
    {
        let at = |text: &str| text.parse::<usize>().expect("a number");
        measure(at(shape), at(tasks), at(rounds));
        return;
    }
    if let [digests, tasks @ ..] = arguments.as_slice()
        && digests == "--digests"
    {
        for tasks in tasks {
            (0..SHAPES.len()).for_each(|shape| digest(shape, tasks.parse().expect("a number")));
        }
        return;
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("the planner is measured by `cargo bench --bench planner`");
        return;
    }
    let sizes: Vec<usize> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![1000, 10_000, 40_000] } else { sizes };
    println!(
        "| tree | tasks | uses | records | resolve, µs a task | plan | lower | demands | certify | all | ns a use | s | MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for (shape, (.., always)) in SHAPES.iter().enumerate() {
        for tasks in always.as_ref().map_or(sizes.as_slice(), std::slice::from_ref) {
            // Memory is that of one round in a process that has done nothing else.
            let peak = of_child(shape, *tasks, 1);
            let peak = peak.rsplit('|').nth(1).unwrap_or_default().trim();
            let row = of_child(shape, *tasks, ROUNDS);
            let row = row.trim_end().trim_end_matches('|').rsplit_once('|').map_or("", |(row, _)| row);
            println!("{row}| {peak} |");
        }
    }
}

/// The row that a process of its own prints.
fn of_child(shape: usize, tasks: usize, rounds: usize) -> String {
    let own = std::env::current_exe().expect("this program");
    let numbers = [shape, tasks, rounds].map(|number| number.to_string());
    let output = Command::new(own).arg("--one").args(numbers).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a row")
}

type Shape = fn(usize, &mut Grower);

/// With how many pieces of shared memory they are, and how many tasks they have if it is always so many.
const SHAPES: [(&str, Shape, usize, Option<usize>); 7] = [
    ("nothing shared", nothing, 0, None),
    ("100 descriptors, inherited from the root", inherited, 0, None),
    ("prefork server", prefork, 0, None),
    ("one chain, as it is raced", chain, 0, Some(DEPTH)),
    ("chains, each with 10 pipes and half of its parent's", chain, 0, None),
    ("tree of ten children each, 100 descriptors a task", tree, 0, None),
    ("32 shared mappings", mappings, 32, None),
];

/// How deep a chain is.
const DEPTH: usize = 60;

fn measure(shape: usize, tasks: usize, rounds: usize) {
    let (label, grow, segments, _) = SHAPES[shape];
    let mut grower = Grower::new(segments);
    grow(tasks, &mut grower);
    let (model, facts) = grower.done();
    let uses: usize = model.tasks.iter().filter_map(|task| task.alive()).map(|alive| alive.fds.len()).sum();
    let mut all: Vec<(Timings, Duration)> = Vec::new();
    let (mut records, mut model) = (0, Some(model));
    for _ in 0..rounds {
        let model_now = model.take().expect("the model of the round before");
        let options = Options::default();
        let (payloads, facts) = (Payloads::default(), facts.clone());
        let start = Instant::now();
        let (prepared, problems) =
            try_prepare_model(model_now, payloads, facts, &options, Timings::default())
                .expect("a certificate");
        let elapsed = start.elapsed();
        assert!(problems.is_empty(), "{}", problems[0]);
        let prepared = prepared.expect("a plan");
        all.push((prepared.timings, elapsed));
        records = prepared.certificate.records;
        model = Some(prepared.model);
    }
    let median = |of: fn(&(Timings, Duration)) -> Duration| {
        let mut times: Vec<Duration> = all.iter().map(of).collect();
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64()
    };
    let stages: [f64; 5] = [
        median(|(timings, _)| timings.resolve),
        median(|(timings, _)| timings.plan),
        median(|(timings, _)| timings.lower),
        median(|(timings, _)| timings.demands),
        median(|(timings, _)| timings.certify),
    ];
    let total = median(|(_, elapsed)| *elapsed);
    let of_task = |seconds: f64| seconds * 1e6 / tasks as f64;
    let [resolve, plan, lower, demands, certify] = stages.map(of_task);
    println!(
        "| {label} | {tasks} | {uses} | {records} | {resolve:.1} | {plan:.1} | {lower:.1} | {demands:.1} | {certify:.1} | {:.1} | {:.0} | {total:.2} | {} |",
        of_task(total),
        total * 1e9 / uses.max(1) as f64,
        peak_mib(),
    );
}

/// By what two builds are compared that should plan alike: prints a digest of the tapes.
fn digest(shape: usize, tasks: usize) {
    let (label, grow, segments, always) = SHAPES[shape];
    let tasks = always.unwrap_or(tasks);
    let mut grower = Grower::new(segments);
    grow(tasks, &mut grower);
    let (model, facts) = grower.done();
    let (options, payloads) = (Options::default(), Payloads::default());
    let (prepared, _) =
        try_prepare_model(model, payloads, facts, &options, Timings::default()).expect("a certificate");
    let tapes = &prepared.expect("a plan").tapes;
    let places = tapes.tasks.iter().flat_map(|task| [task.tape, task.clone_args].map(u64::to_ne_bytes));
    let mut hasher = blake3::Hasher::new();
    hasher.update(&tapes.rw).update(&tapes.ro).update(places.flatten().collect::<Vec<u8>>().as_slice());
    println!("{} {label}, {tasks} tasks", hasher.finalize().to_hex());
}

/// The most memory that this process has had (proc_pid_status(5)).
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

/// A model while it grows: one synthetic task of each, and one description of each kind, are copied.
struct Grower {
    model: Model,
    own: OwnFacts,
    task: Alive,
    kinds: Vec<OfdKind>,
    next_ofd: u32,
    next_inode: u32,
}

/// Private mappings of a task beside those that every synthetic one has.
fn private() -> Vec<Private> {
    let mapping = |number: u64| Private {
        start: MAPPINGS.start + number * 64 * PAGE,
        len_pages: 1 + number % 32,
        writable: number.is_multiple_of(3),
        // A third of them is written to.
        pages: if number.is_multiple_of(3) { vec![Page { index: 0, seed: number }] } else { Vec::new() },
    };
    (0..24).map(mapping).collect()
}

impl Grower {
    /// Nobody yet. `segments`: pieces of shared memory that all map.
    fn new(segments: usize) -> Grower {
        let mut own = host::gather_own();
        own.rlimits[libc::RLIMIT_NOFILE as usize] = Some(RLimit { cur: NUMBERS, max: NUMBERS });
        let nobody = || [Vec::new(), Vec::new()];
        let resources = vec![
            Kind::File { path: "/bin/true".into(), flags: 0, position: 0 },
            Kind::Pipe { data: Vec::new() },
            Kind::Pair { queued: nobody() },
            Kind::Epoll { interests: Vec::new() },
            Kind::Listener { name: "planner".to_owned(), backlog: 128 },
        ];
        let ends =
            resources.iter().enumerate().flat_map(|(at, kind)| (0..kind.ends()).map(move |end| (at, end)));
        let table = (0..).zip(ends).map(|(fd, (resource, end))| Slot { fd, resource, end, cloexec: false });
        let views = (0..segments).map(|segment| View {
            segment,
            start: MAPPINGS.start + (64 + segment as u64) * 64 * PAGE,
            offset_pages: 0,
            len_pages: 4,
        });
        let root = synth::Task {
            pid: ROOT_PID,
            pgid: ROOT_PID,
            sid: ROOT_PID,
            table: table.collect(),
            private: private(),
            views: views.collect(),
            ..synth::Task::default()
        };
        let memory = Segment { len_pages: 4, pages: vec![Page { index: 1, seed: 1 }] };
        let forest =
            synth::Forest { tasks: vec![root], resources, segments: vec![memory; segments], ipc: None };
        let ground = Ground { own: &own, executable: "/bin/true" };
        let mut model = synthesise(&forest, &ground).expect("no faults").model;
        // Pipes of the default capacity have no entry.
        model.pipe_data.clear();
        model.dir = "/images".into();
        let first = model.tasks.pop().expect("one task");
        let TaskState::Alive(mut task) = first.state else { panic!("it lives") };
        let ids: Vec<u32> = task.fds.drain(..).map(|fd| fd.ofd_id).collect();
        let (its, others): (Vec<Ofd>, Vec<Ofd>) =
            std::mem::take(&mut model.ofds).into_iter().partition(|ofd| ids.contains(&ofd.id));
        model.ofds = others;
        let next_ofd = its.iter().chain(&model.ofds).map(|ofd| ofd.id).max().unwrap_or(0) + 1;
        let kinds = its.into_iter().map(|ofd| ofd.kind).collect();
        Grower { model, own, task: *task, kinds, next_ofd, next_inode: 1 << 20 }
    }

    fn task(&mut self, parent: Option<usize>) -> usize {
        let index = self.model.tasks.len();
        let pid = ROOT_PID + index as u32;
        let mut alive = self.task.clone();
        let id = index as u32 + 2;
        (alive.ids.vm, alive.ids.files, alive.ids.fs, alive.ids.sighand) = (id, id, id, id);
        alive.threads[0].tid = NsPid(pid);
        alive.mm.pages.pages_id = index as u32 + 1000;
        for extent in &mut alive.mm.pages.extents {
            extent.image = PagesImage::own(index as u32 + 1000);
        }
        self.model.tasks.push(Task {
            pid: NsPid(pid),
            ppid: NsPid(parent.map_or(0, |parent| ROOT_PID + parent as u32)),
            pgid: NsPid(ROOT_PID),
            sid: NsPid(ROOT_PID),
            origin: Origin::new(Image::Pstree, index),
            core_origin: Origin::new(Image::Core(pid), 0),
            state: TaskState::Alive(Box::new(alive)),
        });
        index
    }

    fn add(&mut self, is: impl Fn(&OfdKind) -> bool, change: impl FnOnce(&mut OfdKind)) -> u32 {
        let mut kind = self.kinds.iter().find(|kind| is(kind)).expect("a description of each kind").clone();
        change(&mut kind);
        let (id, entry) = (self.next_ofd, self.model.ofds.len());
        self.next_ofd += 1;
        self.model.ofds.push(Ofd { id, origin: Origin::new(Image::Files, entry), kind });
        id
    }

    fn file(&mut self) -> u32 {
        self.add(|kind| matches!(kind, OfdKind::Reg(_)), |_| {})
    }

    fn epoll(&mut self) -> u32 {
        self.add(|kind| matches!(kind, OfdKind::Epoll(_)), |_| {})
    }

    fn listener(&mut self) -> u32 {
        self.add(|kind| matches!(kind, OfdKind::Unix(socket) if socket.backlog > 0), |_| {})
    }

    fn inode(&mut self) -> u32 {
        self.next_inode += 1;
        self.next_inode
    }

    /// Its ends for reading and writing.
    fn pipe(&mut self) -> [u32; 2] {
        let inode = self.inode();
        [libc::O_RDONLY, libc::O_WRONLY].map(|access| {
            let is_end = |kind: &OfdKind| matches!(kind, OfdKind::Pipe(pipe) if pipe.flags == access as u32);
            self.add(is_end, |kind| {
                if let OfdKind::Pipe(pipe) = kind {
                    pipe.pipe_id = inode;
                }
            })
        })
    }

    fn pair(&mut self) -> [u32; 2] {
        let [one, other] = [self.inode(), self.inode()];
        [(one, other), (other, one)].map(|(inode, peer)| {
            self.add(
                |kind| matches!(kind, OfdKind::Unix(socket) if socket.backlog == 0),
                |kind| {
                    if let OfdKind::Unix(socket) = kind {
                        (socket.inode, socket.peer) = (inode, peer);
                    }
                },
            )
        })
    }

    fn has(&mut self, task: usize, fd: u32, ofd_id: u32) {
        let TaskState::Alive(alive) = &mut self.model.tasks[task].state else { panic!("it lives") };
        let entry = alive.fds.len() as u32;
        alive.fds.push(FdEntry { fd, ofd_id, cloexec: false, entry });
    }

    fn table(&self, task: usize) -> Vec<(u32, u32)> {
        let alive = self.model.tasks[task].alive().expect("it lives");
        alive.fds.iter().map(|fd| (fd.fd, fd.ofd_id)).collect()
    }

    /// The model, and a host on which its pids are free.
    fn done(mut self) -> (Model, HostFacts) {
        for task in &mut self.model.tasks {
            if let TaskState::Alive(alive) = &mut task.state {
                alive.fds.sort_by_key(|fd| fd.fd);
                alive.fds.shrink_to_fit();
            }
        }
        image::arrange(&mut self.model);
        let mut facts = host::gather(&self.model, None);
        facts.pids = PidFacts { pid_max: Some(1 << 22), ..PidFacts::default() };
        facts.own = self.own;
        (self.model, facts)
    }
}

/// Children of the root with three files of their own each.
fn nothing(tasks: usize, grower: &mut Grower) {
    let root = grower.task(None);
    for _ in 1..tasks {
        let child = grower.task(Some(root));
        for fd in 0..3 {
            let ofd = grower.file();
            grower.has(child, fd, ofd);
        }
    }
}

/// Everybody has what the root has.
fn inherited(tasks: usize, grower: &mut Grower) {
    let ofds: Vec<u32> = (0..100).map(|_| grower.file()).collect();
    for task in 0..tasks {
        grower.task((task > 0).then_some(0));
        for (fd, ofd) in (0..).zip(&ofds) {
            grower.has(task, fd, *ofd);
        }
    }
}

/// A server that keeps one end of a socket pair and of a pipe for each worker; the worker has the others, what all
/// have, and an epoll of its own.
fn prefork(tasks: usize, grower: &mut Grower) {
    let root = grower.task(None);
    let listener = grower.listener();
    grower.has(root, 3, listener);
    for _ in 1..tasks {
        let worker = grower.task(Some(root));
        let (pair, pipe, epoll) = (grower.pair(), grower.pipe(), grower.epoll());
        let at = 10 + 2 * worker as u32;
        grower.has(root, at, pair[0]);
        grower.has(root, at + 1, pipe[0]);
        grower.has(worker, 3, listener);
        grower.has(worker, 4, pair[1]);
        grower.has(worker, 5, pipe[1]);
        grower.has(worker, 6, epoll);
    }
}

/// Chains, side by side below the root.
fn chain(tasks: usize, grower: &mut Grower) {
    let root = grower.task(None);
    let (mut parent, mut depth) = (root, 0);
    for _ in 1..tasks {
        if depth == DEPTH {
            (parent, depth) = (root, 0);
        }
        let task = grower.task(Some(parent));
        let kept: Vec<(u32, u32)> = grower.table(parent).into_iter().step_by(2).collect();
        let mut free = kept.iter().map(|(fd, _)| fd + 1).max().unwrap_or(0);
        kept.into_iter().for_each(|(fd, ofd)| grower.has(task, fd, ofd));
        for _ in 0..10 {
            for end in grower.pipe() {
                grower.has(task, free, end);
                free += 1;
            }
        }
        (parent, depth) = (task, depth + 1);
    }
}

/// Ten children a task; each has 60 descriptors of everybody's, 30 of its parent's and 10 of its own.
fn tree(tasks: usize, grower: &mut Grower) {
    let common: Vec<u32> = (0..60).map(|_| grower.file()).collect();
    let mut own: Vec<Vec<u32>> = Vec::new();
    for index in 0..tasks {
        let parent = (index > 0).then(|| (index - 1) / 10);
        let task = grower.task(parent);
        let mut ofds = common.clone();
        if let Some(parent) = parent {
            ofds.extend(own[parent].iter().take(30).copied());
        }
        let mut mine: Vec<u32> = (0..10).map(|_| grower.file()).collect();
        ofds.extend(mine.iter().copied());
        mine.extend(parent.into_iter().flat_map(|parent| own[parent].iter().take(20).copied()));
        own.push(mine);
        for (fd, ofd) in (0..).zip(&ofds) {
            grower.has(task, fd, *ofd);
        }
    }
}

/// Shared memory that all have; the root fills it.
fn mappings(tasks: usize, grower: &mut Grower) {
    let root = grower.task(None);
    for _ in 1..tasks {
        grower.task(Some(root));
    }
}
