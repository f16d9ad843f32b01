//! What each record of the tapes costs, and what in it other tasks wait for.
//!
//! It takes what a lifter made of the finished tapes, so it prices what runs, whoever planned it. It is no
//! checker: of a task it follows how many descriptors, mappings and pages it has, as far as costs hang on
//! that, and of a wrong tape it says something.
//!
//! Worked example: with three descriptors open, a fork costs `fork_ns + 3 * fork_fd_ns`, and more for the
//! mappings.

use std::collections::BTreeMap;

use super::fill::MOVED_SHARE;
use super::{CostModel, sum};
use crate::ids::Fd;
use crate::verify::{
    Attribute, Change, Effect, FdEffect, LiftedTree, MemoryEffect, NameEffect, PrivilegeEffect, RingEffect,
    UserfaultChange,
};

/// Flag of clone(2): the child is a thread.
const CLONE_THREAD: u64 = 0x1_0000;
const PAGE: u64 = 4096;

/// What a record does to other tasks, or waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Work,
    /// Lets the task with this index begin.
    Begin(usize),
    /// Posts this event.
    Post(u32),
    /// Waits for this event.
    Wait(u32),
    /// Waits for the death of the task with this index.
    Await(usize),
    /// The barrier.
    Arrive,
    /// The end of a task that lives.
    Park,
    /// The end of a task that dies.
    Exit,
}

/// A record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Its index in the tape.
    pub record: u32,
    /// What it costs where nothing is waited for and nobody is woken.
    pub cost_ns: u64,
    /// What it is to others.
    pub act: Act,
}

/// A tape with its costs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PricedTape {
    /// The pid of the task, the tid of the thread.
    pub pid: u32,
    /// What it costs to begin.
    pub birth_ns: u64,
    /// Its records.
    pub moments: Vec<Moment>,
}

/// All tapes, the root's first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PricedTree {
    /// One a tape.
    pub tapes: Vec<PricedTape>,
    /// What it costs to wake one task.
    pub wake_ns: u64,
    /// What it costs to have slept.
    pub woken_ns: u64,
    /// What the commit of a thread costs, beside its tail.
    pub commit_thread_ns: u64,
}

/// Prices tapes.
pub fn price(tree: &LiftedTree, costs: &CostModel) -> PricedTree {
    let index: BTreeMap<u32, usize> =
        tree.tasks.iter().enumerate().map(|(index, task)| (task.pid, index)).collect();
    let mut priced = PricedTree {
        tapes: vec![PricedTape::default(); tree.tasks.len()],
        wake_ns: sum(&[(1, costs.wake_ns)]),
        woken_ns: sum(&[(1, costs.woken_ns)]),
        commit_thread_ns: sum(&[(1, costs.commit_thread_ns)]),
    };
    // What each task starts with, until its turn comes; parents come before children.
    let mut born: Vec<Option<(Holdings, f64)>> = vec![None; tree.tasks.len()];
    if let Some(root) = born.first_mut() {
        *root = Some((Holdings::of_root(), costs.birth_ns));
    }
    let mut ready: Vec<usize> = born.iter().take(1).map(|_| 0).collect();
    while let Some(at) = ready.pop() {
        let Some((mut holdings, birth_ns)) = born[at].take() else { continue };
        let task = &tree.tasks[at];
        let mut moments = Vec::with_capacity(task.effects.len());
        for lifted in &task.effects {
            let (cost_ns, act) = match &lifted.effect {
                Effect::Fork(birth) => {
                    let is_thread = birth.flags & CLONE_THREAD != 0;
                    let cost = holdings.fork(costs, is_thread);
                    let act = match index.get(&birth.pid) {
                        Some(child) if *child != at && priced.tapes[*child].pid == 0 => {
                            let begin = if is_thread {
                                (Holdings::default(), 0.0)
                            } else {
                                (holdings.clone(), costs.birth_ns)
                            };
                            born[*child] = Some(begin);
                            ready.push(*child);
                            Act::Begin(*child)
                        }
                        Some(_) | None => Act::Work,
                    };
                    (cost, act)
                }
                Effect::Post(event) => (sum(&[(1, costs.post_ns)]), Act::Post(*event)),
                Effect::Wait(event) => (sum(&[(1, costs.wait_ns)]), Act::Wait(*event)),
                Effect::AwaitExit { pid, .. } => {
                    let act = index.get(pid).map_or(Act::Work, |child| Act::Await(*child));
                    (sum(&[(1, costs.reap_ns)]), act)
                }
                Effect::Arrive => (sum(&[(1, costs.arrive_ns)]), Act::Arrive),
                Effect::Park => (sum(&[(1, costs.arrive_ns)]), Act::Park),
                Effect::Exit { .. } | Effect::Kill { .. } => (sum(&[(1, costs.exit_ns)]), Act::Exit),
                other => (holdings.cost(other, costs), Act::Work),
            };
            moments.push(Moment { record: lifted.record, cost_ns, act });
        }
        priced.tapes[at] = PricedTape { pid: task.pid, birth_ns: sum(&[(1, birth_ns)]), moments };
    }
    priced
}

/// An open descriptor.
#[derive(Debug, Clone, Copy)]
struct Open {
    fd: Fd,
    /// Whether others have its description, too, as far as is seen here.
    is_shared: bool,
}

/// What a task has, as far as costs hang on it.
#[derive(Debug, Clone, Default)]
struct Holdings {
    /// By number.
    open: Vec<Open>,
    vmas: u64,
    pages: u64,
}

impl Holdings {
    fn of_root() -> Holdings {
        // The written and the read part of the region.
        Holdings { open: Vec::new(), vmas: 2, pages: 0 }
    }

    fn fork(&mut self, costs: &CostModel, is_thread: bool) -> u64 {
        if is_thread {
            return sum(&[(1, costs.thread_ns)]);
        }
        for open in &mut self.open {
            open.is_shared = true;
        }
        sum(&[
            (1, costs.fork_ns),
            (self.open.len() as u64, costs.fork_fd_ns),
            (self.vmas, costs.fork_vma_ns),
            (self.pages, costs.fork_page_ns),
        ])
    }

    /// Opens a number; one that is open already is closed by that.
    fn set(&mut self, fd: Fd, is_shared: bool) {
        match self.open.binary_search_by_key(&fd, |open| open.fd) {
            Ok(at) => self.open[at].is_shared = is_shared,
            Err(at) => self.open.insert(at, Open { fd, is_shared }),
        }
    }

    fn set_lowest(&mut self) {
        // Numbers ascend, so those before the first gap are their own places.
        let mut free = 0;
        let mut end = self.open.len();
        while free < end {
            let middle = free + (end - free) / 2;
            if self.open[middle].fd as usize == middle { free = middle + 1 } else { end = middle }
        }
        self.open.insert(free, Open { fd: free as Fd, is_shared: false });
    }

    fn copy(&mut self, from: Fd, to: Fd) {
        if let Ok(at) = self.open.binary_search_by_key(&from, |open| open.fd) {
            self.open[at].is_shared = true;
        }
        self.set(to, true);
    }

    /// Closes a range: how many of them others have, and how many nobody else has.
    fn close(&mut self, first: Fd, last: Fd) -> (u64, u64) {
        let from = self.open.partition_point(|open| open.fd < first);
        let to = self.open.partition_point(|open| open.fd <= last).max(from);
        let (mut shared, mut sole) = (0, 0);
        for open in self.open.drain(from..to) {
            if open.is_shared { shared += 1 } else { sole += 1 }
        }
        (shared, sole)
    }

    /// The cost of what concerns nobody else.
    fn cost(&mut self, effect: &Effect, costs: &CostModel) -> u64 {
        let one = |each_ns: f64| sum(&[(1, each_ns)]);
        match effect {
            Effect::SetSid => one(costs.setsid_ns),
            Effect::SetPgid { .. } => one(costs.setpgid_ns),
            Effect::Fd(effect) => self.descriptor(effect, costs),
            Effect::Undo { .. } => one(costs.post_ns),
            Effect::File(_) => one(costs.path_ns),
            Effect::Name(
                NameEffect::MakeDirectory { .. }
                | NameEffect::MakeFifo { .. }
                | NameEffect::Link { .. }
                | NameEffect::Unlink { .. }
                | NameEffect::Rename { .. }
                | NameEffect::Exchange { .. }
                | NameEffect::RemoveDirectory { .. },
            ) => one(costs.path_ns),
            Effect::Object { change, .. } => self.change(change, costs),
            Effect::Memory(effect) => self.memory(effect, costs),
            Effect::Attribute(attribute) => self::attribute(attribute, costs),
            Effect::Privilege(effect) => privilege(effect, costs),
            Effect::Ipc(_) => one(costs.call_ns),
            // These concern others: the caller has seen to them.
            Effect::Fork(_)
            | Effect::Post(_)
            | Effect::Wait(_)
            | Effect::Arrive
            | Effect::Park
            | Effect::Exit { .. }
            | Effect::Kill { .. }
            | Effect::AwaitExit { .. } => 0,
        }
    }

    fn descriptor(&mut self, effect: &FdEffect, costs: &CostModel) -> u64 {
        let one = |each_ns: f64| sum(&[(1, each_ns)]);
        match effect {
            FdEffect::Open { fd, .. } => {
                self.set(*fd, false);
                one(costs.open_ns)
            }
            FdEffect::Pipe { .. } => {
                self.set_lowest();
                self.set_lowest();
                one(costs.pipe_ns)
            }
            FdEffect::SocketPair { .. } => {
                self.set_lowest();
                self.set_lowest();
                one(costs.socketpair_ns)
            }
            FdEffect::Socket { fd, .. } | FdEffect::Accept { fd, .. } => {
                self.set(*fd, false);
                one(costs.socket_ns)
            }
            FdEffect::Eventfd { fd, .. }
            | FdEffect::Epoll { fd, .. }
            | FdEffect::Timerfd { fd, .. }
            | FdEffect::Signalfd { fd, .. }
            | FdEffect::Userfault { fd, .. } => {
                self.set(*fd, false);
                one(costs.handle_ns)
            }
            FdEffect::Memfd { fd, .. } => {
                self.set(*fd, false);
                one(costs.memfd_ns)
            }
            FdEffect::Receive { rights, .. } => {
                for _ in 0..*rights {
                    self.set_lowest();
                }
                sum(&[(1, costs.receive_ns), (u64::from(*rights), costs.receive_fd_ns)])
            }
            FdEffect::Dup { from, to, .. } | FdEffect::DupLowest { from, to, .. } => {
                let closed = self.close(*to, *to);
                self.copy(*from, *to);
                sum(&[(1, costs.dup_ns)]).saturating_add(closing(closed, 0, costs))
            }
            FdEffect::SetCloexec { .. } | FdEffect::Probe { .. } => one(costs.call_ns),
            FdEffect::Close { fd } => closing(self.close(*fd, *fd), 0, costs),
            FdEffect::CloseRange { only_mark: true, .. } => one(costs.call_ns),
            FdEffect::CloseRange { first, last, .. } => closing(self.close(*first, *last), 1, costs),
        }
    }

    fn change(&mut self, change: &Change, costs: &CostModel) -> u64 {
        let one = |each_ns: f64| sum(&[(1, each_ns)]);
        let content = |bytes: u64| sum(&[(1, bytes as f64 / PAGE as f64 * costs.fill_page_ns)]);
        match change {
            Change::Write { data } => one(costs.write_ns).saturating_add(content(data.len() as u64)),
            Change::Send { data, rights, .. } => {
                sum(&[(1, costs.send_ns), (rights.len() as u64, costs.send_fd_ns)])
                    .saturating_add(content(data.len() as u64))
            }
            Change::Read { into, offset } => {
                let bytes = into.iter().fold(0, |sum: u64, (_, len)| sum.saturating_add(*len));
                if offset.is_some() {
                    self.pages = self.pages.saturating_add(bytes / PAGE);
                }
                one(costs.fill_ns).saturating_add(content(bytes))
            }
            Change::Copy { len, .. } => one(costs.fill_ns).saturating_add(content(*len)),
            Change::Bind { .. } | Change::Connect { .. } => one(costs.path_ns),
            Change::Watch { .. } | Change::Lock | Change::SetOwner { .. } | Change::AddSeals { .. } => {
                one(costs.attach_ns)
            }
            Change::Enter
            | Change::Seek { .. }
            | Change::SetStatus { .. }
            | Change::SetPipeSize { .. }
            | Change::Shutdown { .. }
            | Change::Listen { .. }
            | Change::SetBytes { .. }
            | Change::SetOption { .. }
            | Change::SetSignal { .. }
            | Change::SetTimer { .. }
            | Change::SetTicks { .. }
            | Change::Truncate { .. }
            | Change::SetFileOwner { .. }
            | Change::SetMode { .. }
            | Change::SetTimes { .. } => one(costs.call_ns),
            Change::Userfault(change) => match change {
                UserfaultChange::Handshake => one(costs.call_ns),
                UserfaultChange::Register { .. } | UserfaultChange::Unregister { .. } => {
                    one(costs.register_ns)
                }
                UserfaultChange::Copy { len, .. } => {
                    self.pages = self.pages.saturating_add(len / PAGE);
                    sum(&[(1, costs.copy_ns), (len / PAGE, costs.copy_page_ns)])
                }
                UserfaultChange::Move { len, .. } => {
                    // They were counted when they were read; at a fork they count less.
                    let pages = (len / PAGE) as f64 * (1.0 - MOVED_SHARE);
                    self.pages = self.pages.saturating_sub(pages as u64);
                    one(costs.call_ns)
                }
            },
        }
    }

    fn memory(&mut self, effect: &MemoryEffect, costs: &CostModel) -> u64 {
        let one = |each_ns: f64| sum(&[(1, each_ns)]);
        match effect {
            MemoryEffect::Map { file, .. } => {
                self.vmas = self.vmas.saturating_add(1);
                one(if file.is_some() { costs.map_file_ns } else { costs.map_ns })
            }
            MemoryEffect::Remap { old_len, .. } => {
                self.vmas = self.vmas.saturating_add(u64::from(*old_len == 0));
                one(costs.remap_ns)
            }
            MemoryEffect::Attach { .. } => {
                self.vmas = self.vmas.saturating_add(1);
                one(costs.map_ns)
            }
            MemoryEffect::MapVdso { .. } => {
                self.vmas = self.vmas.saturating_add(2);
                one(costs.map_file_ns)
            }
            // All below the window: with it the address space that a task was born with is gone.
            MemoryEffect::Unmap { at: 0, .. } => {
                let bare = Holdings::of_root();
                let vmas = std::mem::replace(&mut self.vmas, bare.vmas);
                let pages = std::mem::replace(&mut self.pages, bare.pages);
                let dropped = vmas.saturating_sub(bare.vmas).max(1);
                sum(&[(dropped, costs.unmap_ns), (pages, costs.drop_page_ns)])
            }
            MemoryEffect::Unmap { .. } => {
                self.vmas = self.vmas.saturating_sub(1);
                one(costs.unmap_ns)
            }
            MemoryEffect::Protect { .. } | MemoryEffect::Advise { .. } => one(costs.protect_ns),
            MemoryEffect::Lock { len, .. } => {
                // mlock(2) makes all pages be there.
                self.pages = self.pages.saturating_add(len / PAGE);
                sum(&[(1, costs.protect_ns), (len / PAGE, costs.fill_page_ns)])
            }
            MemoryEffect::SetMm { .. } => one(costs.attach_ns),
            MemoryEffect::Ring(RingEffect::Setup { .. }) => {
                self.vmas = self.vmas.saturating_add(1);
                one(costs.map_file_ns)
            }
            MemoryEffect::Ring(RingEffect::Place { .. }) => one(costs.remap_ns),
            MemoryEffect::Ring(RingEffect::Submit { count, .. } | RingEffect::Reap { count, .. }) => {
                sum(&[(u64::from(*count), costs.call_ns)])
            }
            MemoryEffect::Write { pieces } => {
                self.pages = self.pages.saturating_add(pieces.len() as u64);
                sum(&[(1, costs.fill_ns), (pieces.len() as u64, costs.fill_page_ns)])
            }
        }
    }
}

/// The cost of closing some that others have and some that nobody else has, by so many calls that close a range.
fn closing((shared, sole): (u64, u64), ranges: u64, costs: &CostModel) -> u64 {
    let each_ns = if ranges == 0 { costs.close_ns } else { costs.close_many_ns };
    sum(&[(shared, each_ns), (sole, costs.close_last_ns), (ranges, costs.call_ns)])
}

fn attribute(attribute: &Attribute, costs: &CostModel) -> u64 {
    let each_ns = match attribute {
        Attribute::WorkingDirectory(_) | Attribute::RootDirectory(_) => costs.path_ns,
        Attribute::TimerCreate { .. } | Attribute::QueueSignal { .. } | Attribute::Scheduler { .. } => {
            costs.attach_ns
        }
        Attribute::Name(_)
        | Attribute::Umask(_)
        | Attribute::Personality(_)
        | Attribute::Dumpable(_)
        | Attribute::ParentDeathSignal(_)
        | Attribute::Subreaper(_)
        | Attribute::ThpDisable(_)
        | Attribute::TimerSlack(_)
        | Attribute::TimerIds(_)
        | Attribute::SigAction { .. }
        | Attribute::SigMask { .. }
        | Attribute::EatSignal { .. }
        | Attribute::AltStack { .. }
        | Attribute::RobustList { .. }
        | Attribute::TidAddress(_)
        | Attribute::Rseq { .. }
        | Attribute::Membarrier(_)
        | Attribute::IntervalTimer { .. }
        | Attribute::TimerSet { .. }
        | Attribute::Nice(_) => costs.call_ns,
    };
    sum(&[(1, each_ns)])
}

fn privilege(effect: &PrivilegeEffect, costs: &CostModel) -> u64 {
    let each_ns = match effect {
        PrivilegeEffect::Uids(_)
        | PrivilegeEffect::Gids(_)
        | PrivilegeEffect::FsUid(_)
        | PrivilegeEffect::FsGid(_)
        | PrivilegeEffect::RaiseAmbient(_)
        | PrivilegeEffect::Groups(_)
        | PrivilegeEffect::Capabilities { .. }
        | PrivilegeEffect::DropBounding(_)
        | PrivilegeEffect::Securebits(_)
        | PrivilegeEffect::KeepCaps(_) => costs.credentials_ns,
        PrivilegeEffect::NoNewPrivs | PrivilegeEffect::Limit { .. } => costs.call_ns,
        PrivilegeEffect::Seccomp(_) => costs.filter_ns,
    };
    sum(&[(1, each_ns)])
}
