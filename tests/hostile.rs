//! Images that nobody dumped and that ask for too much: whatever they say is a problem or a plan, and costs no more
//! than it is. Found by fuzzing (fuzz/) or beside it; the targets there look for more.

#![allow(clippy::unwrap_used)]

use nix::time::{ClockId, clock_gettime};
use regrow::host;
use regrow::image::{
    Fown, Image, Model, Ofd, OfdKind, Origin, RegFile, SocketOptions, UnixSocket, read_model, write_model,
};
use regrow::pipeline;
use regrow::resolve::Options;
use regrow::resolve::problem::ProblemKind;
use regrow::synth::model::{Ground, Synthetic, synthesise};
use regrow::synth::random::Shape;

fn synthetic(shared_maps: usize) -> Synthetic {
    let shape = Shape {
        tasks: 2,
        depth: 1,
        shared_fds: 0,
        shared_maps,
        with_pairs: false,
        first_pid: 4_100_000,
        directory: "/".into(),
        seed: 1,
    };
    let own = host::gather_own();
    synthesise(&shape.forest(), &Ground { own: &own, executable: "/bin/sh" }).unwrap()
}

/// The problems of a model that is written and read again; `None`: it has none.
#[track_caller]
fn check(change: impl FnOnce(&mut Model), kind: ProblemKind, expected: &str) {
    let Synthetic { mut model, contents } = synthetic(1);
    change(&mut model);
    let dir = tempfile::tempdir().unwrap();
    write_model(&model, &contents, dir.path()).unwrap();
    let problems = match pipeline::try_prepare(dir.path(), &Options::default()) {
        Ok((_, problems)) => problems,
        Err(error) => error.problems(),
    };
    let found = problems.iter().find(|problem| problem.text.contains(expected));
    assert_eq!(found.map(|problem| problem.kind), Some(kind), "{problems:#?}");
}

#[test]
fn shared_memory_larger_than_any_address_space() {
    for size in [u64::MAX, u64::MAX - 4095, 1 << 47] {
        check(
            |model| model.memfds[0].size_bytes = size,
            ProblemKind::BadImages,
            "no address space is that large",
        );
    }
}

/// What is asked of the host about a path is no more than the path.
#[test]
fn a_path_of_many_directories() {
    for unit in ["/", "/a", "/regrow-none"] {
        let path = unit.repeat(60_000 / unit.len());
        let Synthetic { mut model, .. } = synthetic(0);
        let entry = model.ofds.len();
        let kind = OfdKind::Reg(RegFile {
            path: path.clone(),
            flags: 0,
            position: 0,
            fown: Fown::default(),
            mount_id: None,
            size_bytes: None,
            mode: None,
            is_external: false,
            build_id: Vec::new(),
            checksum: None,
        });
        model.ofds.push(Ofd { id: 900, origin: Origin::new(Image::Files, entry), kind });
        let asked: usize = host::gather(&model, None).files.keys().map(String::len).sum();
        assert!(asked < 3 * path.len(), "{asked} bytes of paths for one of {}", path.len());
    }
}

/// A datagram socket that is connected to the next, which is connected to the next: each must be connected after
/// those that aim at it.
#[test]
fn a_long_chain_of_datagram_sockets() {
    const COUNT: u32 = 1500;
    let Synthetic { mut model, contents } = synthetic(0);
    let net_ns = model.inventory.root_ids.map(|ids| ids.net_ns);
    for number in 0..COUNT {
        let (id, inode) = (10_000 + number, 20_000 + number);
        let socket = UnixSocket {
            inode,
            sock_type: 2,
            state: 7,
            flags: 2,
            uflags: 0,
            backlog: 0,
            // The last of them aims at none.
            peer: if number == 0 { 0 } else { inode - 1 },
            fown: Fown::default(),
            options: SocketOptions::default(),
            name: format!("\0regrow-hostile-{number}").into_bytes(),
            shutdown: 0,
            name_dir: None,
            deleted: false,
            ns_id: net_ns,
            mount_id: None,
            file_perms: None,
        };
        let entry = model.ofds.len();
        model.ofds.push(Ofd {
            id,
            origin: Origin::new(Image::Files, entry),
            kind: OfdKind::Unix(Box::new(socket)),
        });
        let alive = model.tasks[0].alive_mut().unwrap();
        let entry = alive.fds.len() as u32;
        alive.fds.push(regrow::image::FdEntry { fd: 100 + number, ofd_id: id, cloexec: false, entry });
    }
    let dir = tempfile::tempdir().unwrap();
    write_model(&model, &contents, dir.path()).unwrap();
    assert_eq!(read_model(dir.path()).unwrap().ofds.len(), model.ofds.len());
    // Of this thread: others do not count, and neither does a busy machine.
    let cpu_s = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().tv_sec();
    let start = cpu_s();
    let outcome = pipeline::try_prepare(dir.path(), &Options::default());
    assert!(outcome.is_ok(), "{outcome:?}");
    // What took the cube of their number took minutes.
    let took = cpu_s() - start;
    assert!(took < 30, "{took} s");
}
