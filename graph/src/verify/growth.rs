//! What the checker does grows with what it is given: steps are counted ([`super::work`]) on trees of the shapes
//! in which a copy for each child, or a look at all tasks for each task, would cost the square.

use super::*;
use crate::ids::{Fd, OfdId};

const ROOT: u32 = 10;
const NULL: &str = "/dev/null";
/// Behind the last address of user space.
const USER_END: u64 = 0x7fff_ffff_f000;

/// Tapes and what they are to come to, while both are written.
struct Grower {
    tapes: Vec<(u32, Vec<Effect>)>,
    expected: Expected,
}

fn fork(pid: u32) -> Effect {
    Effect::Fork(Birth { pid, flags: 0, exit_signal: 17, cgroup: None })
}

fn open(fd: Fd) -> Effect {
    Effect::Fd(FdEffect::Open { path: NULL.into(), flags: 2, fd })
}

fn close(first: Fd, last: Fd) -> Effect {
    Effect::Fd(FdEffect::CloseRange { first, last, only_mark: false, unshare: false })
}

fn map(at: u64) -> Effect {
    Effect::Memory(MemoryEffect::Map { at, len: 0x1000, prot: 3, flags: 0x32, file: None })
}

fn unmap(at: u64, len: u64) -> Effect {
    Effect::Memory(MemoryEffect::Unmap { at, len })
}

fn advise(at: u64, advice: u32) -> Effect {
    Effect::Memory(MemoryEffect::Advise { at, len: 0x1000, advice })
}

fn end() -> [Effect; 2] {
    [Effect::Arrive, Effect::Park]
}

/// Where mapping `number` of the root is: mappings that are next to each other are two of a kind all the same.
fn place(number: usize) -> u64 {
    0x1000_0000 + 0x2000 * number as u64
}

impl Grower {
    /// A root that has nothing.
    fn new() -> Grower {
        let begin = vec![unmap(0, USER_END), close(0, Fd::MAX), Effect::SetSid];
        let root = ExpectedTask { pid: ROOT, sid: ROOT, pgid: ROOT, ..ExpectedTask::default() };
        let mut actions = [None; 64];
        actions[16] = Some(attribute::Action::default());
        let expected = Expected {
            tasks: vec![root],
            paths: [NULL.into()].into(),
            inherited: vec![(AttributeKind::SigActions, Value::Actions(actions.into()))],
            ..Expected::default()
        };
        Grower { tapes: vec![(ROOT, begin)], expected }
    }

    fn root(&mut self, effects: impl IntoIterator<Item = Effect>) {
        self.tapes[0].1.extend(effects);
    }

    /// A child of `parent`, which forks it now.
    fn child(&mut self, parent: u32) -> u32 {
        let pid = ROOT + self.tapes.len() as u32;
        self.tapes[(parent - ROOT) as usize].1.push(fork(pid));
        self.tapes.push((pid, Vec::new()));
        let (sid, pgid) = (ROOT, ROOT);
        self.expected.tasks.push(ExpectedTask { pid, ppid: parent, sid, pgid, ..ExpectedTask::default() });
        pid
    }

    fn tape(&mut self, pid: u32) -> &mut Vec<Effect> {
        &mut self.tapes[(pid - ROOT) as usize].1
    }

    fn task(&mut self, pid: u32) -> &mut ExpectedTask {
        &mut self.expected.tasks[(pid - ROOT) as usize]
    }

    fn ofd(&mut self, spec: OfdSpec, flags: u32) -> OfdId {
        let name = format!("file {}", self.expected.ofds.len());
        self.expected.ofds.push(ExpectedOfd { name, spec, flags, ..ExpectedOfd::default() });
        OfdId::new(self.expected.ofds.len() - 1)
    }

    fn null(&mut self) -> OfdId {
        self.ofd(OfdSpec::Path { path: NULL.into(), position: None }, 2)
    }

    fn has(&mut self, pid: u32, fd: Fd, ofd: OfdId) {
        self.task(pid).table.push(Slot { fd, ofd, cloexec: false });
    }

    /// How many steps it takes; it must have a certificate.
    #[track_caller]
    fn steps(mut self) -> u64 {
        for task in &self.expected.tasks {
            let tape = &mut self.tapes[(task.pid - ROOT) as usize].1;
            if task.life == Life::Alive && tape.last() != Some(&Effect::Park) {
                tape.extend(end());
            }
        }
        let lifted = |effects: Vec<Effect>| {
            effects.into_iter().zip(0..).map(|(effect, record)| Lifted { record, effect }).collect()
        };
        let tapes = self.tapes.into_iter();
        let living = self.expected.tasks.iter().filter(|task| task.life == Life::Alive);
        let tree = LiftedTree {
            total: living.map(|task| 1 + task.threads.len() as u32).sum(),
            root: Birth { pid: ROOT, flags: 0, exit_signal: 17, cgroup: None },
            tasks: tapes.map(|(pid, effects)| LiftedTask { pid, effects: lifted(effects) }).collect(),
            suspended: self.expected.seccomp.keys().copied().collect(),
            ..LiftedTree::default()
        };
        work::steps(|| match verify(&tree, &self.expected) {
            Ok(_) => {}
            Err(counterexample) => panic!("{counterexample}"),
        })
    }
}

/// Twice of everything may take a little more than twice the steps, for trees get higher: not three times.
#[track_caller]
fn check(shape: impl Fn(usize) -> Grower) {
    let (small, large) = (shape(500).steps(), shape(1000).steps());
    assert!(2 * large < 5 * small, "{small} steps for 500, {large} for 1000");
}

/// Workers of a server with as many descriptors, each of which drops them by one record.
#[test]
fn descriptors_that_are_dropped() {
    check(|count| {
        let mut grower = Grower::new();
        for fd in 0..count as Fd {
            let ofd = grower.null();
            grower.root([open(fd)]);
            grower.has(ROOT, fd, ofd);
        }
        for _ in 0..count {
            let (worker, ofd) = (grower.child(ROOT), grower.null());
            grower.tape(worker).extend([close(3, Fd::MAX), close(0, 2), open(0)]);
            grower.has(worker, 0, ofd);
        }
        grower
    });
}

/// A server that opens a file for each worker, which keeps the first and that one: the next stays out of its way.
#[test]
fn descriptors_that_come_one_by_one() {
    check(|count| {
        let mut grower = Grower::new();
        let first = grower.null();
        grower.root([open(0)]);
        grower.has(ROOT, 0, first);
        for fd in 1..=count as Fd {
            let ofd = grower.null();
            grower.root([open(fd)]);
            grower.has(ROOT, fd, ofd);
            let worker = grower.child(ROOT);
            grower.has(worker, 0, first);
            grower.has(worker, fd, ofd);
            if fd > 1 {
                grower.tape(worker).push(close(1, fd - 1));
            }
        }
        grower
    });
}

/// A parent with many mappings, of which the kernel gives children some and no others; they drop what they get.
#[test]
fn mappings_that_are_inherited() {
    check(|count| {
        let mut grower = Grower::new();
        let shows = Shown::Anonymous;
        let wanted = |at: u64, advice: u64| ExpectedMapping {
            start: at,
            end: at + 0x1000,
            prot: 3,
            flags: 0x22,
            advice,
            shows,
        };
        let mut mappings = Vec::new();
        for number in 0..count {
            grower.root([map(place(number))]);
            let advice = if number % 3 == 0 { 1 << 10 } else { 0 };
            if advice != 0 {
                grower.root([advise(place(number), 10)]);
            }
            mappings.push(wanted(place(number), advice));
        }
        grower.task(ROOT).space = Some(Box::new(ExpectedSpace { mappings, ..ExpectedSpace::default() }));
        for number in 0..count {
            let child = grower.child(ROOT);
            let kept = place(number / 3 * 3 + 1);
            grower.tape(child).extend([unmap(0, kept), unmap(kept + 0x1000, 1 << 46), map(0x1000)]);
            let mappings = vec![wanted(0x1000, 0), wanted(kept, 0)];
            let mappings = if kept < place(count) { mappings } else { vec![wanted(0x1000, 0)] };
            grower.task(child).space = Some(Box::new(ExpectedSpace { mappings, ..ExpectedSpace::default() }));
        }
        grower
    });
}

/// A parent that waits for each of its children to die.
#[test]
fn zombies() {
    check(|count| {
        let mut grower = Grower::new();
        for _ in 0..count {
            let child = grower.child(ROOT);
            grower.tape(child).push(Effect::Exit { code: 3 });
            grower.task(child).life = Life::Zombie { status: 0x300 };
        }
        for child in 0..count as u32 {
            grower.root([Effect::AwaitExit { pid: ROOT + 1 + child, reap: false }]);
        }
        grower
    });
}

/// A line of tasks, the last of which changes what the first has opened, as all do that the root waits for.
#[test]
fn long_lines() {
    check(|count| {
        let mut grower = Grower::new();
        let mut last = ROOT;
        for fd in 0..count as Fd {
            let ofd = grower.null();
            grower.root([open(fd)]);
            grower.expected.ofds[ofd.index()].flags |= 0o4000;
            grower.has(ROOT, fd, ofd);
        }
        for _ in 0..count {
            last = grower.child(last);
        }
        for fd in 0..count as Fd {
            grower.tape(last).push(Effect::Object { fd, change: Change::SetStatus { flags: 0o4000 } });
        }
        // What the others have inherited they close, which leaves the root's.
        for pid in ROOT + 1..=last {
            grower.tape(pid).push(close(0, Fd::MAX));
        }
        grower
    });
}

/// All wait for one task, which has waited for all; then each changes what another has made.
#[test]
fn a_barrier_between_two_stages() {
    check(|count| {
        let mut grower = Grower::new();
        let (post, wait) = (Effect::Post, Effect::Wait);
        for fd in 0..count as Fd {
            let ofd = grower.null();
            grower.root([open(fd)]);
            grower.expected.ofds[ofd.index()].flags |= 0o4000;
            grower.has(ROOT, fd, ofd);
        }
        let workers: Vec<u32> = (0..count).map(|_| grower.child(ROOT)).collect();
        let set = |number: usize, flags: u32| Effect::Object {
            fd: number as Fd,
            change: Change::SetStatus { flags },
        };
        for (number, worker) in workers.iter().enumerate() {
            let other = (number * 7 + 1) % count;
            grower.tape(*worker).extend([set(number, 0), post(1 + number as u32)]);
            grower.tape(*worker).extend([wait(0), set(other, 0o4000), close(0, Fd::MAX)]);
        }
        grower.root((0..count).map(|number| wait(1 + number as u32)));
        grower.root([post(0)]);
        grower
    });
}

/// Pipes that a server fills itself, and one epoll file that watches them all.
#[test]
fn pipes_that_are_watched() {
    check(|count| {
        let mut grower = Grower::new();
        let mut interests = Vec::new();
        let mut watches = Vec::new();
        for pipe in 0..count as u32 {
            let data = b"hello".to_vec();
            grower.expected.pipes.insert(pipe, ExpectedPipe { capacity: None, data: data.clone() });
            grower.root([Effect::Fd(FdEffect::Pipe { flags: 0 })]);
            for end in 0..2 {
                let ofd = grower.ofd(OfdSpec::Pipe { pipe }, end);
                grower.has(ROOT, 2 * pipe + end, ofd);
                if end == 0 {
                    interests.push(Interest { fd: 2 * pipe, ofd, events: 0x19, data: pipe.into() });
                }
            }
            grower.root([Effect::Object { fd: 2 * pipe + 1, change: Change::Write { data } }]);
            watches.push(Change::Watch { target: 2 * pipe, events: 1, data: pipe.into() });
        }
        let fd = 2 * count as Fd;
        let epoll = grower.ofd(OfdSpec::Epoll { interests }, 2);
        grower.has(ROOT, fd, epoll);
        grower.root([Effect::Fd(FdEffect::Epoll { flags: 0, fd })]);
        grower.root(watches.into_iter().map(|change| Effect::Object { fd, change }));
        grower
    });
}

/// Tasks whose second thread gets the filter of the first.
#[test]
fn filters_for_all_threads() {
    const THREAD: u64 = 0x50f00;
    check(|count| {
        let mut grower = Grower::new();
        let program: std::sync::Arc<[u8]> = vec![6, 0, 0, 0, 0, 0, 0xff, 0x7f].into();
        let tasks: Vec<u32> = (0..count).map(|_| grower.child(ROOT)).collect();
        for pid in tasks {
            let tid = ROOT + grower.tapes.len() as u32;
            let thread = Effect::Fork(Birth { pid: tid, flags: THREAD, exit_signal: 0, cgroup: None });
            grower.tapes.push((tid, end().to_vec()));
            let effect = SeccompEffect::Filter { program: program.clone(), flags: 1 };
            grower.tape(pid).extend([
                thread,
                Effect::Arrive,
                Effect::Privilege(PrivilegeEffect::Seccomp(effect)),
                Effect::Park,
            ]);
            let filter = ExpectedFilter { program: program.clone(), logs: false };
            grower.expected.seccomp.insert(pid, ExpectedSeccomp::Filters(vec![filter]));
            grower.expected.seccomp.insert(tid, ExpectedSeccomp::OfFirst);
            grower.task(pid).threads.push(tid);
        }
        grower
    });
}
