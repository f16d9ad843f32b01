//! What to start from: synthetic directories, small, with every kind of open file, and one that CRIU wrote of a program of
//! ours; each image of them; their tapes.

use std::collections::BTreeMap;
use std::path::Path;

use regrow::host;
use regrow::image::{self, *};
use regrow::pipeline::{self, Prepared};
use regrow::resolve::Options;
use regrow::store::StoredPlan;
use regrow::store::identity::Identity;
use regrow::synth::increments::spread;
use regrow::synth::model::{Ground, Synthetic, synthesise};
use regrow::synth::random::Shape;

use crate::archive::File;
use crate::host::{directory, facts, files, learn, must, place};
use crate::{archive, tape};

/// The options of all targets: whatever lets more through.
pub fn options() -> Options {
    Options { shell_job: true, file_locks: true, link_remap: true, ..Options::default() }
}

fn shape(tasks: usize, depth: usize, shared_fds: usize, shared_maps: usize, seed: u64) -> Shape {
    let directory = "/fuzz".into();
    Shape { tasks, depth, shared_fds, shared_maps, with_pairs: true, first_pid: 2000, directory, seed }
}

fn synthetic(shape: &Shape) -> Synthetic {
    let own = host::gather_own();
    let ground = Ground { own: &own, executable: "/fuzz/executable" };
    let made = synthesise(&shape.forest(), &ground).map_err(|faults| faults.join(", "));
    must(made, "a forest")
}

/// One of every kind of open file, and of most of what a task can have.
fn everything() -> Synthetic {
    let mut synthetic = synthetic(&shape(3, 2, 4, 1, 9));
    let Synthetic { model, contents } = &mut synthetic;
    let fown = Fown::default();
    let reg = |path: &str, flags: u32, mode: Option<u32>| {
        OfdKind::Reg(RegFile {
            path: path.to_owned(),
            flags,
            position: 0,
            fown,
            mount_id: None,
            size_bytes: None,
            mode,
            is_external: false,
            build_id: Vec::new(),
            checksum: None,
        })
    };
    let unix = |inode: u32, sock_type: u32, state: u32, name: &[u8]| {
        OfdKind::Unix(Box::new(UnixSocket {
            inode,
            sock_type,
            state,
            flags: 2,
            uflags: 0,
            backlog: 5,
            peer: 0,
            fown,
            options: SocketOptions {
                sndbuf_bytes: 212_992,
                rcvbuf_bytes: 212_992,
                ..SocketOptions::default()
            },
            name: name.to_vec(),
            shutdown: 0,
            name_dir: None,
            deleted: false,
            ns_id: Some(2),
            mount_id: None,
            file_perms: (name.first() == Some(&b'/')).then_some((0o140_755, 0, 0)),
        }))
    };
    let inet = |sock_type: u32, protocol: u32, state: u32| {
        OfdKind::Inet(Box::new(InetSocket {
            inode: 900 + protocol,
            family: 2,
            sock_type,
            protocol,
            state,
            src: (vec![127, 0, 0, 1], 8080),
            dst: (vec![0; 4], 0),
            flags: 2,
            backlog: 7,
            fown,
            options: SocketOptions {
                sndbuf_bytes: 16_384,
                rcvbuf_bytes: 131_072,
                ..SocketOptions::default()
            },
            v6only: None,
            freebind: false,
            pktinfo: false,
            tos: None,
            ttl: None,
            hdrincl: None,
            nodefrag: None,
            checksum: None,
            icmp_filter: Vec::new(),
            device: None,
            ns_id: Some(2),
            shutdown: 0,
            cork: false,
            nodelay: false,
            keep: [None; 3],
        }))
    };
    let eventfd = OfdKind::Eventfd(Eventfd { flags: 2, counter: 1, fown });
    // The kernel adds EPOLLERR and EPOLLHUP.
    let interest = Interest { fd: 60, events: 0x19, data: 60, inode: None };
    let memfd = |position| OfdKind::Memfd(MemfdFile { inode_id: 70, flags: 2, position, fown });
    let kinds: Vec<(u32, Option<u32>, OfdKind)> = vec![
        (700, Some(60), eventfd),
        (701, Some(61), OfdKind::Epoll(Epoll { flags: 2, fown, interests: vec![interest] })),
        (
            702,
            Some(62),
            OfdKind::Timerfd(Timerfd {
                flags: 2,
                fown,
                clock_id: 1,
                ticks: 0,
                settime_flags: 0,
                value_ns: 5_000_000_000,
                interval_ns: 1_000_000,
            }),
        ),
        (703, Some(63), OfdKind::Signalfd(Signalfd { flags: 2, fown, mask: 0x200 })),
        (704, None, reg("/fuzz/fifo", 2, Some(0o010_644))),
        (705, Some(64), OfdKind::Fifo(Fifo { pipe_id: 77, reg_id: 704 })),
        (706, Some(65), inet(1, 6, 10)),
        (707, Some(66), inet(2, 17, 7)),
        (708, Some(67), unix(801, 1, 10, b"/fuzz/socket\0")),
        (709, Some(68), unix(802, 2, 7, b"\0abstract")),
        (710, Some(69), memfd(3)),
        (711, Some(70), reg("/fuzz/gone", 0o100_002, Some(0o100_644))),
        (712, Some(71), reg("/fuzz/file-0", 0o100_000, Some(0o100_644))),
    ];
    let first = model.ofds.len();
    let task = model.tasks[0].alive_mut();
    let alive = must(task.ok_or("dead"), "the root");
    for (index, (id, fd, kind)) in kinds.into_iter().enumerate() {
        model.ofds.push(Ofd { id, origin: Origin::new(Image::Files, first + index), kind });
        let entry = alive.fds.len() as u32;
        alive.fds.extend(fd.map(|fd| FdEntry { fd, ofd_id: id, cloexec: fd % 2 == 0, entry }));
    }
    let origin = |image| Origin::new(image, 0);
    model.fifo_data.push(PipeData {
        pipe_id: 77,
        capacity_bytes: Some(65_536),
        data: contents.add(Image::FifoData, b"first in"),
        origin: origin(Image::FifoData),
    });
    model.memfds.push(MemfdInode {
        inode_id: 70,
        name: "memory".to_owned(),
        size_bytes: 4096,
        shmid: 70,
        seals: 0,
        hugetlb_flag: None,
        mode: Some(0o100_777),
        uid: 0,
        gid: 0,
        origin: Origin::new(Image::Memfd, model.memfds.len()),
    });
    let image = PagesImage::own(99);
    contents.add(Image::Pages(image), &[7; 4096]);
    let extent = Extent { start: 0, len_pages: 1, image, offset_bytes: 0, entry: 1 };
    model.shm.push(Shm { shmid: 70, pages: Pages { pages_id: 99, extents: vec![extent] } });
    model.remaps.push(Remap { orig_id: 711, remap_id: 1, remap_type: 1, origin: origin(Image::RemapFpath) });
    model.ghosts.push(GhostFile {
        id: 1,
        mode: 0o100_644,
        uid: 0,
        gid: 0,
        times: Some(((1, 2), (3, 4))),
        size_bytes: 5,
        pieces: vec![GhostPiece { at: 0, data: contents.add(Image::GhostFile(1), b"ghost") }],
        origin: origin(Image::GhostFile(1)),
    });
    model.cgroup_sets.push(CgroupSet { id: 1, members: vec![("cpu".to_owned(), "/".to_owned())] });
    let below = CgroupDirectory { parent: Some(0), name: "in".to_owned(), ..CgroupDirectory::default() };
    let perms = Some(CgroupPerms { mode: 0o644, uid: 1, gid: 2 });
    let limit = CgroupProperty { name: "cpu.shares".to_owned(), value: "512".to_owned(), perms };
    let above = CgroupDirectory {
        name: "/job".to_owned(),
        perms,
        properties: vec![limit],
        ..CgroupDirectory::default()
    };
    let directories = vec![above, below];
    model.cgroup_hierarchies.push(CgroupHierarchy { controllers: vec!["cpu".to_owned()], directories });
    model.inventory.root_cg_set = Some(1);
    let lock =
        FileLock { flag: 1, kind: 1, pid: 2000, fd: 71, start: 0, len: 9, origin: origin(Image::Filelocks) };
    model.file_locks.push(lock);
    let allow = [0x06, 0, 0, 0, 0, 0, 0xff, 0x7f];
    model.seccomp_filters.push(SeccompFilter { program: allow.into(), next: None, flags: 0 });
    model.clocks.insert(0, Clocks { monotonic: (10, 0), boottime: (11, 0) });

    let thread = alive.threads[0].clone();
    for thread in &mut alive.threads {
        thread.cg_set = Some(1);
        thread.pending.push(siginfo(12));
        thread.robust_list = (0x5000_0000, 24);
        thread.sas = SigAltStack { sp: 0x5000_0000, size_bytes: 8192, flags: 0 };
    }
    let second = NsPid(2100);
    alive.threads.push(Thread {
        tid: second,
        origin: origin(Image::Core(second.0)),
        cg_set: Some(1),
        seccomp_mode: 2,
        seccomp_filter: Some(0),
        comm: Some("second".to_owned()),
        ..thread
    });
    alive.pending_shared.push(siginfo(10));
    alive.timers.itimers[0] = (1000, 900);
    alive.timers.posix.push(PosixTimer {
        id: 0,
        clock_id: 1,
        signo: 14,
        notify: 0,
        sival_ptr: 3,
        overrun: 0,
        interval_ns: 0,
        value_ns: 60_000_000_000,
        notify_tid: None,
    });
    if let Some(task) = model.tasks.last_mut()
        && let TaskState::Alive(alive) = &task.state
    {
        task.state = TaskState::Stopped(Box::new(Alive { stop_signo: Some(19), ..(**alive).clone() }));
    }
    synthetic
}

/// A `siginfo_t` of `kill(2)`.
fn siginfo(signal: u8) -> Vec<u8> {
    let mut bytes = vec![0; 128];
    bytes[0] = signal;
    bytes
}

/// A tree whose pages are of three dumps.
fn increments() -> Synthetic {
    let whole = synthetic(&shape(3, 2, 2, 2, 5));
    must(spread(&whole, |_, page| (page % 3) as u32), "pages of dumps before")
}

/// The directories, by name.
pub fn directories() -> Vec<(String, Vec<File>)> {
    let made = [
        ("one", synthetic(&shape(1, 1, 0, 0, 1))),
        ("some", synthetic(&shape(3, 2, 6, 1, 2))),
        ("chain", synthetic(&shape(5, 4, 4, 2, 3))),
        ("star", synthetic(&shape(6, 1, 8, 1, 4))),
        ("everything", everything()),
        ("increments", increments()),
    ];
    let mut all = Vec::new();
    let dir = must(directory("seeds"), "a directory for seeds");
    for (name, Synthetic { model, contents }) in made {
        must(place(&dir, &[]), "an empty directory");
        must(image::write_model(&model, &contents, &dir), name);
        all.push((name.to_owned(), must(files(&dir), name)));
    }
    let pair = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/images/pair/images");
    all.push(("pair".to_owned(), must(files(&pair), "tests/images/pair")));
    for (_, files) in &mut all {
        // What is in a page matters to nothing that is fuzzed but vDSOs, and pages are long.
        for file in files.iter_mut().filter(|file| file.place().1.starts_with("pages-")) {
            *file = File::new(&file.name, vec![0; file.len()]);
        }
    }
    all
}

/// A directory that is in place, and its plan.
#[derive(Debug)]
pub struct Planned {
    /// Length of its files.
    pub bytes: usize,
    /// All stages of it.
    pub prepared: Prepared,
}

/// Places all directories, learns about the host, and plans those that have a plan.
pub fn planned(seeds: &[(String, Vec<File>)]) -> Vec<Planned> {
    let mut placed = Vec::new();
    for (name, files) in seeds {
        let dir = must(directory(&format!("seed-{name}")), name);
        let bytes = must(place(&dir, files), name);
        placed.push((bytes, must(image::read_model(&dir), name)));
    }
    let models: Vec<Model> = placed.iter().map(|(_, model)| model.clone()).collect();
    learn(&models);
    let mut planned = Vec::new();
    for (bytes, model) in placed {
        let outcome = pipeline::try_prepare_on(&model.dir, &options(), |_| facts());
        match must(outcome, &model.dir.to_string_lossy()) {
            (Some(prepared), _) => planned.push(Planned { bytes, prepared }),
            (None, problems) => {
                let list: BTreeMap<String, ()> = problems.iter().map(|it| (it.to_string(), ())).collect();
                eprintln!("{} has no plan here: {:?}", model.dir.display(), list.keys());
            }
        }
    }
    must((!planned.is_empty()).then_some(planned).ok_or("none of the seeds has one"), "plans")
}

/// Writes all seeds of a target into the directory `REGROW_FUZZ_SEEDS` and ends, if there is such a variable.
pub fn write_if_asked(seeds: impl FnOnce() -> Vec<(String, Vec<u8>)>) {
    let Some(dir) = std::env::var_os("REGROW_FUZZ_SEEDS") else { return };
    for (name, bytes) in seeds() {
        must(std::fs::write(Path::new(&dir).join(&name), bytes), &name);
    }
    std::process::exit(0);
}

/// Each directory as one input.
pub fn of_directories(seeds: &[(String, Vec<File>)]) -> Vec<(String, Vec<u8>)> {
    seeds.iter().map(|(name, files)| (name.clone(), archive::write(files))).collect()
}

/// Each image as one input.
pub fn of_images(seeds: &[(String, Vec<File>)]) -> Vec<(String, Vec<u8>)> {
    let single = |name: &String, file: &File| {
        (format!("{name}-{}", file.name), archive::write(std::slice::from_ref(file)))
    };
    let own = |file: &&File| file.place().0 == 0 && file.leads_to().is_none();
    seeds
        .iter()
        .flat_map(|(name, files)| files.iter().filter(own).map(move |file| single(name, file)))
        .collect()
}

/// The tapes of each plan.
pub fn of_tapes(planned: &[Planned]) -> Vec<(String, Vec<u8>)> {
    let input = |(seed, planned): (usize, &Planned)| {
        let tapes = (*planned.prepared.tapes).clone();
        (format!("tapes-{seed}"), tape::write(&tape::Input { seed: seed as u8, tapes }))
    };
    planned.iter().enumerate().map(input).collect()
}

/// Each plan as it would be stored.
pub fn of_plans(planned: &[Planned]) -> Vec<(String, Vec<u8>)> {
    let stored = |(number, planned): (usize, &Planned)| {
        let plan = StoredPlan::of(&planned.prepared, Identity::default(), &options());
        (format!("plan-{number}"), must(plan.to_bytes(), "a stored plan"))
    };
    planned.iter().enumerate().map(stored).collect()
}
