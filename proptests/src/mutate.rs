//! Finished tapes that are wrong in one thing.
//!
//! Each [`Kind`] changes bytes of a plan's tapes, and says by itself, or by what the tape's own records and the
//! description say, why no kernel could come to the same end. So a mutation that changes nothing is never made,
//! and the checker is not asked which those are. What tables end as is asked of [`crate::tables`].
//!
//! Example: [`Kind::DropPost`] leaves out the only post of an event for which somebody waits.
//!
//! # Sources
//! The man page of each call; credentials(7), capabilities(7) for [`Kind::PrivilegeEarly`].

mod messages;

use std::collections::BTreeSet;

use regrow::image::RLimit;
use regrow::synth::{Attributes, Forest, Task};
use regrow::tape::abi::{CLONE_ARGS_EXIT_SIGNAL, CLONE_ARGS_FLAGS, Check, Record, Verb};
use regrow::tape::{Tapes, TaskTape};

use crate::tables::{Ends, child_of, ends};

pub use messages::MessageKind;

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A descriptor is not closed, and the tables end otherwise.
    DropClose,
    /// The post of an event is left out: who waits for it waits for ever.
    DropPost,
    /// A task does not wait for the founding of a group that it joins, and nothing else makes it.
    DropWait,
    /// A task waits for what it posts itself, later.
    WaitForOwnPost,
    /// A task does not arrive: the barrier never opens.
    DropArrival,
    /// A task does not park: it runs into whatever lies behind its tape.
    DropPark,
    /// A child is not forked.
    DropFork,
    /// Two parents fork each other's child.
    SwapChildren,
    /// A child is forked before its parent leaves a session that it should be in, too.
    SetsidLate,
    /// A child's death is told by no signal.
    OtherExitSignal,
    /// A child has a copy of its parent's table instead of the table, or the table instead of a copy.
    OtherSharing,
    /// A process group is another.
    OtherGroup,
    /// A zombie has another exit code.
    OtherExitCode,
    /// The death of a zombie is not awaited: the barrier may open before.
    DropAwait,
    /// What makes a descriptor and what uses it first change places.
    UseBeforeMaking,
    /// What makes a descriptor is done twice.
    MakeTwice,
    /// A descriptor is put at another number.
    OtherNumber,
    /// A descriptor is put at a number that is a copy of something else.
    OtherSource,
    /// Close-on-exec is on instead of off or off instead of on.
    OtherCloexec,
    /// A description is non-blocking.
    OtherFlags,
    /// A description is somewhere else in its file.
    OtherOffset,
    /// What waits in a pipe or a socket is another byte.
    OtherQueue,
    /// What waits in a pipe or a socket is not put there.
    DropQueue,
    /// An eventfd has another counter.
    OtherCounter,
    /// An epoll file does not watch something.
    DropWatch,
    /// A mask of new files, a name or an action on a signal that differs from the parent's is not set.
    ForgetInherited,
    /// A limit, nice value, signal at the parent's death, id … that differs from the writer's is not set.
    ForgetOwn,
    /// The same set to another value.
    OtherAttribute,
    /// Capabilities go before the groups are set, which takes one of them.
    PrivilegeEarly,
    /// A page is not filled.
    DropFill,
    /// Pages are filled from elsewhere in their image.
    OtherPages,
    /// A mapping is not made.
    DropMapping,
    /// A mapping is somewhere else.
    OtherAddress,
    /// A mapping has other permissions.
    OtherProtection,
    /// The IPC namespace is not made.
    DropNamespace,
    /// A System V segment, queue or semaphore set is not made.
    DropSysv,
    /// One is made with another length or key.
    OtherSysv,
    /// A segment is not marked for removal, or not locked.
    DropMark,
    /// A message is not sent to its queue.
    DropMessage,
    /// A semaphore has another value.
    OtherSemaphores,
    /// A segment is not attached.
    DropAttach,
    /// An AIO ring is not made.
    DropRing,
    /// An AIO ring is moved to another place, or stays where it came to be.
    OtherRing,
    /// The requests are not made, or not read, that let the ends of a ring be where they were.
    DropRequests,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 44] = [
        Kind::DropClose,
        Kind::DropPost,
        Kind::DropWait,
        Kind::WaitForOwnPost,
        Kind::DropArrival,
        Kind::DropPark,
        Kind::DropFork,
        Kind::SwapChildren,
        Kind::SetsidLate,
        Kind::OtherExitSignal,
        Kind::OtherSharing,
        Kind::OtherGroup,
        Kind::OtherExitCode,
        Kind::DropAwait,
        Kind::UseBeforeMaking,
        Kind::MakeTwice,
        Kind::OtherNumber,
        Kind::OtherSource,
        Kind::OtherCloexec,
        Kind::OtherFlags,
        Kind::OtherOffset,
        Kind::OtherQueue,
        Kind::DropQueue,
        Kind::OtherCounter,
        Kind::DropWatch,
        Kind::ForgetInherited,
        Kind::ForgetOwn,
        Kind::OtherAttribute,
        Kind::PrivilegeEarly,
        Kind::DropFill,
        Kind::OtherPages,
        Kind::DropMapping,
        Kind::OtherAddress,
        Kind::OtherProtection,
        Kind::DropNamespace,
        Kind::DropSysv,
        Kind::OtherSysv,
        Kind::DropMark,
        Kind::DropMessage,
        Kind::OtherSemaphores,
        Kind::DropAttach,
        Kind::DropRing,
        Kind::OtherRing,
        Kind::DropRequests,
    ];
}

/// A mutant, and what was done to it in words.
#[derive(Debug, Clone)]
pub struct Mutant {
    /// The tapes.
    pub tapes: Tapes,
    /// Which record of which task.
    pub what: String,
}

/// Plans of one forest, to be spoiled.
#[derive(Debug)]
pub struct Plan<'a> {
    forest: &'a Forest,
    tapes: &'a Tapes,
    records: Vec<Vec<Record>>,
    ends: Ends,
}

/// Where a record is: tape and index.
type At = (usize, usize);

impl<'a> Plan<'a> {
    /// The plan of a forest.
    ///
    /// # Errors
    /// Its tables cannot be told.
    pub fn new(forest: &'a Forest, tapes: &'a Tapes) -> Result<Plan<'a>, String> {
        let records = tapes.tasks.iter().map(|task| tapes.records(task).map(|(_, it)| it).collect());
        Ok(Plan { forest, tapes, records: records.collect(), ends: ends(tapes)? })
    }

    /// One mutant of this kind, chosen by `seed`; `None`: the plan has nothing to be spoiled so.
    pub fn mutant(&self, kind: Kind, seed: u64) -> Option<Mutant> {
        let places: Vec<At> = (0..self.records.len())
            .flat_map(|task| (0..self.records[task].len()).map(move |index| (task, index)))
            .filter(|at| self.is_place(kind, *at))
            .collect();
        // Not every place will do: some mutants come to the same end.
        let tries = places.len().min(12);
        (0..tries).find_map(|step| {
            let at = places[((seed >> 8) as usize).wrapping_add(step * 31) % places.len()];
            let tapes = self.spoil(kind, at, seed)?;
            let record = self.record(at);
            let line = regrow::tape::disasm::line(self.tapes, record);
            let what = format!("{kind:?}: task {}, record {}: {line}", self.tape(at).pid, at.1);
            Some(Mutant { tapes, what })
        })
    }

    fn record(&self, (task, index): At) -> &Record {
        &self.records[task][index]
    }

    fn tape(&self, (task, _): At) -> &TaskTape {
        &self.tapes.tasks[task]
    }

    /// The task of the description that plays this tape as its first thread.
    fn task(&self, at: At) -> Option<&Task> {
        self.forest.tasks.iter().find(|task| task.pid == self.tape(at).pid)
    }

    fn is_before_barrier(&self, (task, index): At) -> bool {
        self.records[task][index..].iter().any(|record| record.verb() == Some(Verb::Arrive))
    }

    /// Whether a record is one that this kind spoils, looking at it alone.
    fn is_place(&self, kind: Kind, at: At) -> bool {
        let record = self.record(at);
        let verb = record.verb();
        let call = (verb == Some(Verb::Syscall)).then_some(libc::c_long::from(record.nr));
        let is = |numbers: &[libc::c_long]| call.is_some_and(|nr| numbers.contains(&nr));
        let fcntl = |command: i32| is(&[libc::SYS_fcntl]) && record.args[1] as i32 == command;
        match kind {
            Kind::DropClose => is(&[libc::SYS_close, libc::SYS_close_range]),
            Kind::DropPost => verb == Some(Verb::Post),
            Kind::DropWait | Kind::WaitForOwnPost => verb == Some(Verb::Wait),
            Kind::DropArrival => verb == Some(Verb::Arrive),
            Kind::DropPark => verb == Some(Verb::Park),
            Kind::DropFork
            | Kind::SwapChildren
            | Kind::SetsidLate
            | Kind::OtherExitSignal
            | Kind::OtherSharing => verb == Some(Verb::Fork),
            Kind::OtherGroup => is(&[libc::SYS_setpgid]),
            Kind::OtherExitCode => is(&[libc::SYS_exit_group]),
            Kind::DropAwait => is(&[libc::SYS_waitid]),
            Kind::UseBeforeMaking | Kind::MakeTwice => {
                // Those two give 0, and the numbers elsewhere.
                let tells = !is(&[libc::SYS_pipe2, libc::SYS_socketpair]);
                is(&MAKERS) && tells && record.check() == Some(Check::Equal)
            }
            Kind::OtherNumber | Kind::OtherSource => is(&[libc::SYS_dup3]),
            Kind::OtherCloexec => is(&[libc::SYS_dup3]) || fcntl(libc::F_SETFD) || is(&MAKERS),
            Kind::OtherFlags => is(&[libc::SYS_openat, libc::SYS_eventfd2, libc::SYS_timerfd_create]),
            Kind::OtherOffset => is(&[libc::SYS_lseek]),
            Kind::OtherQueue => is(&[libc::SYS_write, libc::SYS_sendto]),
            Kind::DropQueue => is(&[libc::SYS_write, libc::SYS_sendto, libc::SYS_sendmsg]),
            Kind::OtherCounter => is(&[libc::SYS_eventfd2]),
            Kind::DropWatch => is(&[libc::SYS_epoll_ctl]),
            Kind::ForgetInherited => {
                is(&[libc::SYS_umask, libc::SYS_rt_sigaction]) || is_prctl(record, libc::PR_SET_NAME)
            }
            Kind::ForgetOwn | Kind::OtherAttribute => {
                is(&[
                    libc::SYS_prlimit64,
                    libc::SYS_setpriority,
                    libc::SYS_setgroups,
                    libc::SYS_setresuid,
                    libc::SYS_setresgid,
                ]) || is_prctl(record, libc::PR_SET_PDEATHSIG)
                    || is_prctl(record, libc::PR_SET_DUMPABLE)
                    || is_prctl(record, libc::PR_SET_CHILD_SUBREAPER)
                    || is_prctl(record, libc::PR_SET_NO_NEW_PRIVS)
            }
            Kind::PrivilegeEarly => is(&[libc::SYS_setgroups]),
            Kind::DropFill | Kind::OtherPages => is(&[libc::SYS_preadv]),
            Kind::DropMapping => is(&[libc::SYS_mmap, libc::SYS_mremap]),
            Kind::OtherAddress => is(&[libc::SYS_mmap]),
            Kind::OtherProtection => is(&[libc::SYS_mmap, libc::SYS_mprotect]),
            Kind::DropNamespace => is(&[libc::SYS_unshare]) && record.args[0] == libc::CLONE_NEWIPC as u64,
            Kind::DropSysv | Kind::OtherSysv => is(&[libc::SYS_shmget, libc::SYS_msgget, libc::SYS_semget]),
            Kind::DropMark => is(&[libc::SYS_shmctl]) && [IPC_RMID, SHM_LOCK].contains(&record.args[1]),
            Kind::DropMessage => is(&[libc::SYS_msgsnd]),
            Kind::OtherSemaphores => is(&[libc::SYS_semctl]) && record.args[2] == SETALL,
            Kind::DropAttach => is(&[libc::SYS_shmat]),
            Kind::DropRing => is(&[libc::SYS_io_setup]),
            Kind::OtherRing => verb == Some(Verb::Indirect),
            Kind::DropRequests => is(&[libc::SYS_io_submit, libc::SYS_io_getevents]),
        }
    }

    /// The spoiled tapes; `None`: nothing would certainly be wrong.
    fn spoil(&self, kind: Kind, at: At, seed: u64) -> Option<Tapes> {
        let record = *self.record(at);
        let (task, index) = at;
        let dropped = || {
            let mut records = self.records[task].clone();
            records.remove(index);
            Some(self.with(&[(task, records)]))
        };
        let replaced = |record: Record| {
            let mut records = self.records[task].clone();
            records[index] = record;
            Some(self.with(&[(task, records)]))
        };
        let swapped = |with: usize| {
            let mut records = self.records[task].clone();
            records.swap(index, with);
            Some(self.with(&[(task, records)]))
        };
        let arg = |which: usize, value: u64| {
            let mut record = record;
            record.args[which] = value;
            record
        };
        match kind {
            Kind::DropClose => dropped().filter(|tapes| self.ends_otherwise(tapes)),
            Kind::DropPost => {
                let waits =
                    |other: &Record| other.verb() == Some(Verb::Wait) && other.args[0] == record.args[0];
                self.records.iter().flatten().any(waits).then(dropped).flatten()
            }
            Kind::DropWait => self.can_join_early(at).then(dropped).flatten(),
            Kind::WaitForOwnPost => {
                let later =
                    self.records[task][index..].iter().find(|other| other.verb() == Some(Verb::Post))?;
                replaced(arg(0, later.args[0]))
            }
            Kind::DropArrival | Kind::DropPark | Kind::DropFork => dropped(),
            Kind::SwapChildren => self.swap_children(at, seed),
            Kind::SetsidLate => {
                let setsid = |other: &Record| is_call(other, libc::SYS_setsid);
                let (child, is_thread) = child_of(self.tapes, &record)?;
                let before = self.records[task][..index].iter().rposition(setsid)?;
                let tape = self.tapes.tasks.iter().position(|tape| tape.pid == child)?;
                // A child of the images that is in its parent's session, and stays where it is born.
                let stays = !self.records[tape].iter().any(setsid);
                let is_its =
                    self.forest.tasks.iter().any(|it| it.pid == child && it.sid == self.tape(at).pid);
                (stays && is_its && !is_thread).then(|| swapped(before)).flatten()
            }
            Kind::OtherExitSignal => {
                // With CLONE_PARENT the signal is the forker's, whatever is asked for (clone(2)); an orphan's becomes
                // SIGCHLD when another adopts it (kernel/exit.c, `reparent_leader`).
                let address = record.args[0] + 8 * CLONE_ARGS_EXIT_SIGNAL as u64;
                self.is_own_child(task, &record).then(|| self.with_byte(address, 0)).flatten()
            }
            Kind::OtherSharing => {
                // Who dies at once has no table in the end: nobody shares one with it then.
                let (child, is_thread) = child_of(self.tapes, &record)?;
                let is_alive =
                    |pid: u32| self.forest.tasks.iter().any(|it| it.pid == pid && it.dead.is_none());
                let lives = is_alive(child) && is_alive(self.tape(at).pid);
                let address = record.args[0] + 8 * CLONE_ARGS_FLAGS as u64;
                let flags = self.word(address)? ^ libc::CLONE_FILES as u64;
                // Of a little-endian word.
                (lives && !is_thread).then(|| self.with_byte(address + 1, flags.to_ne_bytes()[1])).flatten()
            }
            Kind::OtherGroup => {
                // Its last change, to a group that another founded: now its own.
                let is_last =
                    !self.records[task][index + 1..].iter().any(|it| is_call(it, libc::SYS_setpgid));
                let (is_member, pid) = (self.task(at)?.pgid != self.tape(at).pid, self.tape(at).pid);
                (is_last && is_member).then(|| replaced(arg(1, pid.into()))).flatten()
            }
            Kind::OtherExitCode => {
                self.task(at)?.dead?;
                replaced(arg(0, (record.args[0] + 1) & 0x7f))
            }
            Kind::DropAwait => {
                let options = record.args[3] as i32;
                let is_zombie = self
                    .forest
                    .tasks
                    .iter()
                    .any(|it| u64::from(it.pid) == record.args[1] && it.dead.is_some());
                (is_zombie && options & libc::WNOWAIT != 0).then(dropped).flatten()
            }
            Kind::UseBeforeMaking => {
                let user = self.records[task].get(index + 1)?;
                let uses = libc::c_long::from(user.nr);
                let is_use = user.verb() == Some(Verb::Syscall)
                    && [libc::SYS_dup3, libc::SYS_fcntl, libc::SYS_lseek, libc::SYS_write].contains(&uses)
                    && user.args[0] == record.expect;
                // The lowest free number was free before.
                is_use.then(|| swapped(index + 1)).flatten()
            }
            // The number that is expected is taken.
            Kind::MakeTwice => {
                let next = self.records[task].get(index + 1)?;
                let mut records = self.records[task].clone();
                records[index + 1] = Record { op: next.op, ..record };
                Some(self.with(&[(task, records)]))
            }
            Kind::OtherNumber => {
                let mut other = arg(1, record.args[1] + 200);
                other.expect =
                    if record.check() == Some(Check::Equal) { other.args[1] } else { record.expect };
                replaced(other).filter(|tapes| self.ends_otherwise(tapes))
            }
            Kind::OtherSource => {
                let from = (record.args[0] + 1 + seed % 3) % 64;
                replaced(arg(0, from)).filter(|tapes| self.ends_otherwise(tapes))
            }
            Kind::OtherCloexec => {
                let which = match libc::c_long::from(record.nr) {
                    libc::SYS_epoll_create1 | libc::SYS_userfaultfd => 0,
                    libc::SYS_openat | libc::SYS_dup3 => 2,
                    libc::SYS_fcntl => {
                        return replaced(arg(2, record.args[2] ^ 1)).filter(|it| self.ends_otherwise(it));
                    }
                    libc::SYS_memfd_create => return None,
                    libc::SYS_signalfd4 | libc::SYS_accept4 => 3,
                    _ => 1,
                };
                let other = arg(which, record.args[which] ^ libc::O_CLOEXEC as u64);
                replaced(other).filter(|tapes| self.ends_otherwise(tapes))
            }
            Kind::OtherFlags => {
                // Nobody sets the flags of any description afterwards, and somebody has this one in the end.
                let sets = |it: &Record| is_call(it, libc::SYS_fcntl) && it.args[1] as i32 == libc::F_SETFL;
                if self.records.iter().flatten().any(sets) || !self.is_kept(at) {
                    return None;
                }
                let which = if libc::c_long::from(record.nr) == libc::SYS_openat { 2 } else { 1 };
                replaced(arg(which, record.args[which] ^ libc::O_NONBLOCK as u64))
            }
            Kind::OtherOffset => {
                // Right behind the making of what somebody has in the end: nobody moves it again.
                let made = index.checked_sub(1).filter(|made| {
                    let maker = &self.records[task][*made];
                    is_call(maker, libc::SYS_openat) && maker.expect == record.args[0]
                })?;
                self.is_kept((task, made)).then(|| {
                    let mut other = arg(1, record.args[1] + 1);
                    other.expect =
                        if record.check() == Some(Check::Equal) { other.args[1] } else { record.expect };
                    replaced(other)
                })?
            }
            Kind::OtherQueue => {
                let is_queue = record.args[2] > 0 && !self.is_of_proc(at);
                is_queue.then(|| self.with_byte(record.args[1], self.byte(record.args[1])? ^ 0x55)).flatten()
            }
            Kind::DropQueue => (!self.is_of_proc(at)).then(dropped).flatten(),
            Kind::OtherCounter => {
                let writes = |it: &Record| {
                    is_call(it, libc::SYS_write) && it.args[0] == record.expect && it.args[2] == 8
                };
                let is_set_later = self.records[task].get(index + 1).is_some_and(writes);
                (self.is_kept(at) && !is_set_later).then(|| replaced(arg(0, record.args[0] + 1))).flatten()
            }
            Kind::DropWatch => dropped(),
            Kind::ForgetInherited => self.differs_from_parent(at).then(dropped).flatten(),
            Kind::ForgetOwn => self.differs_from_writer(at).then(dropped).flatten(),
            Kind::OtherAttribute => {
                if !self.differs_from_writer(at) {
                    return None;
                }
                match libc::c_long::from(record.nr) {
                    libc::SYS_prlimit64 => self.with_byte(record.args[2], self.byte(record.args[2])? ^ 1),
                    libc::SYS_setpriority => replaced(arg(2, record.args[2] ^ 1)),
                    // Groups that are 0, 0 … would be so still.
                    libc::SYS_setgroups if record.args[0] > 0 => replaced(arg(0, record.args[0] - 1)),
                    libc::SYS_setgroups => None,
                    libc::SYS_setresuid | libc::SYS_setresgid => replaced(arg(2, record.args[2] ^ 1)),
                    _ if is_prctl(&record, libc::PR_SET_PDEATHSIG) => {
                        replaced(arg(1, record.args[1] % 60 + 1))
                    }
                    _ => None,
                }
            }
            Kind::PrivilegeEarly => {
                const SETGID: u64 = 1 << 6;
                let own = self.task(at)?.attributes.credentials.as_ref()?;
                let last = self.records[task].iter().rposition(|it| is_call(it, libc::SYS_capset))?;
                let gives_up = own.keep & own.effective & SETGID == 0;
                (gives_up && last > index).then(|| swapped(last)).flatten()
            }
            Kind::DropFill
            | Kind::DropMapping
            | Kind::DropNamespace
            | Kind::DropSysv
            | Kind::DropMark
            | Kind::DropMessage
            | Kind::DropAttach
            | Kind::DropRing
            | Kind::DropRequests => dropped(),
            Kind::OtherSysv => {
                // A segment that is marked loses its key, whichever it was.
                let which = usize::from(libc::c_long::from(record.nr) == libc::SYS_shmget);
                let more = if which == 1 { 0x1000 } else { 1 };
                replaced(arg(which, record.args[which].wrapping_add(more) & u64::from(u32::MAX)))
            }
            Kind::OtherSemaphores => self.with_byte(record.args[3], self.byte(record.args[3])? ^ 1),
            Kind::OtherRing if seed & 1 == 0 => dropped(),
            Kind::OtherRing => {
                let mut other = arg(4, record.args[4] + (1 << 33));
                other.expect = other.args[4];
                replaced(other)
            }
            Kind::OtherPages => replaced(arg(3, record.args[3] ^ 0x1000)),
            Kind::OtherAddress => {
                let mut other = arg(0, record.args[0] + (1 << 33));
                other.expect =
                    if record.check() == Some(Check::Equal) { other.args[0] } else { record.expect };
                replaced(other)
            }
            Kind::OtherProtection => {
                // Nobody changes it again.
                let again = |it: &Record| is_call(it, libc::SYS_mprotect) && it.args[0] == record.args[0];
                // What carries shared memory goes in the end, and so does what keeps the place of a ring free.
                let is_moved_to =
                    |it: &Record| it.verb() == Some(Verb::Indirect) && it.args[4] == record.args[0];
                let keeps_a_place = self.records[task][index + 1..].iter().any(is_moved_to);
                let is_private = record.args[3] & libc::MAP_PRIVATE as u64 != 0;
                let is_kept = is_call(&record, libc::SYS_mprotect) || is_private && !keeps_a_place;
                let is_last = is_kept && !self.records[task][index + 1..].iter().any(again);
                is_last.then(|| replaced(arg(2, record.args[2] ^ libc::PROT_EXEC as u64))).flatten()
            }
        }
    }

    /// Tapes with other records for some tasks, none of which has more than before.
    fn with(&self, changes: &[(usize, Vec<Record>)]) -> Tapes {
        let mut tapes = self.tapes.clone();
        for (task, records) in changes {
            let start = (tapes.tasks[*task].tape - tapes.ro_base()) as usize;
            let bytes: Vec<u8> = records.iter().flat_map(|record| record.to_bytes()).collect();
            tapes.ro[start..start + bytes.len()].copy_from_slice(&bytes);
            tapes.tasks[*task].records = records.len() as u32;
        }
        tapes
    }

    fn with_byte(&self, address: u64, byte: u8) -> Option<Tapes> {
        let mut tapes = self.tapes.clone();
        let at = usize::try_from(address.checked_sub(tapes.ro_base())?).ok()?;
        *tapes.ro.get_mut(at)? = byte;
        Some(tapes)
    }

    fn byte(&self, address: u64) -> Option<u8> {
        self.tapes.bytes(address, 1).map(|bytes| bytes[0])
    }

    fn word(&self, address: u64) -> Option<u64> {
        Some(u64::from_ne_bytes(self.tapes.bytes(address, 8)?.try_into().ok()?))
    }

    /// Whether a call fails on the way, or the tables are others in the end.
    fn ends_otherwise(&self, tapes: &Tapes) -> bool {
        ends(tapes).map_or(true, |ends| self.ends.differs(&ends))
    }

    /// Whether what a call makes is in a table in the end.
    fn is_kept(&self, (task, index): At) -> bool {
        let before = self.records[task][..index].iter();
        let is_maker = |it: &&Record| it.verb() == Some(Verb::Syscall) && MAKERS.contains(&it.nr.into());
        let made = (self.tapes.tasks[task].pid, before.filter(is_maker).count() as u32);
        let slots = self.ends.tables.values().flat_map(|table| table.values());
        slots.into_iter().any(|((by, which, _), _)| (*by, *which) == made)
    }

    /// Whether a record writes to what is not shared memory, a pipe or a socket: a file of /proc.
    fn is_of_proc(&self, (task, index): At) -> bool {
        let fd = self.records[task][index].args[0];
        let maker = self.records[task][..index]
            .iter()
            .rev()
            .find(|it| it.verb() == Some(Verb::Syscall) && MAKERS.contains(&it.nr.into()) && it.expect == fd);
        maker.is_some_and(|it| {
            is_call(it, libc::SYS_openat)
                && self.tapes.c_string(it.args[1]).is_some_and(|path| path.starts_with(b"/proc/"))
        })
    }

    /// A task that waits for another's founding of a group, and would join it at once: whether it can get
    /// there while the founder has not. It can if nothing that it has waited for before, and nobody above it,
    /// comes behind the founding.
    fn can_join_early(&self, at: At) -> bool {
        let (task, index) = at;
        let event = self.record(at).args[0];
        let Some(next) = self.records[task][index + 1..].iter().find(|it| it.verb() != Some(Verb::Wait))
        else {
            return false;
        };
        if !is_call(next, libc::SYS_setpgid) {
            return false;
        }
        let posts = |it: &Record| it.verb() == Some(Verb::Post) && it.args[0] == event;
        let Some(founder) = self.records.iter().position(|records| records.iter().any(posts)) else {
            return false;
        };
        let Some(posted) = self.records[founder].iter().position(posts) else { return false };
        // The founder founds the group by the record before the post; what it leads by then counts, too.
        let founds = posted.checked_sub(1).map(|it| &self.records[founder][it]);
        let is_founding = founds
            .is_some_and(|it| is_call(it, libc::SYS_setpgid) && [0, next.args[1]].contains(&it.args[1]));
        if !is_founding || u64::from(self.tapes.tasks[founder].pid) != next.args[1] {
            return false;
        }
        let mut needed = BTreeSet::new();
        self.comes_before((task, index), &mut needed, Some(at));
        !needed.iter().any(|(who, upto)| *who == founder && *upto >= posted - 1)
    }

    /// Up to which record other tasks must have come before a record can be played: program order, forks,
    /// waits (but for `without`), deaths that are waited for.
    fn comes_before(&self, at: At, found: &mut BTreeSet<At>, without: Option<At>) {
        if !found.insert(at) {
            return;
        }
        let (task, index) = at;
        let pid = self.tapes.tasks[task].pid;
        for (position, records) in self.records.iter().enumerate() {
            let forks = |it: &Record| {
                it.verb() == Some(Verb::Fork)
                    && child_of(self.tapes, it).is_some_and(|(child, _)| child == pid)
            };
            if let Some(fork) = records.iter().position(forks) {
                self.comes_before((position, fork), found, without);
            }
        }
        for (before, record) in self.records[task][..index].iter().enumerate() {
            if without == Some((task, before)) {
                continue;
            }
            if record.verb() == Some(Verb::Wait) {
                for (position, records) in self.records.iter().enumerate() {
                    let posts = |it: &Record| it.verb() == Some(Verb::Post) && it.args[0] == record.args[0];
                    if let Some(post) = records.iter().position(posts) {
                        self.comes_before((position, post), found, without);
                    }
                }
            } else if is_call(record, libc::SYS_waitid) {
                let dead = |tape: &TaskTape| u64::from(tape.pid) == record.args[1];
                if let Some(dead) = self.tapes.tasks.iter().position(dead) {
                    self.comes_before((dead, self.records[dead].len() - 1), found, without);
                }
            }
        }
    }

    /// Whether a fork of a task that lives makes a child of the images that is its own in the end.
    fn is_own_child(&self, task: usize, record: &Record) -> bool {
        let Some((child, is_thread)) = child_of(self.tapes, record) else { return false };
        let parent = self.forest.tasks.iter().position(|it| it.pid == self.tapes.tasks[task].pid);
        let is_its = |it: &Task| it.pid == child && it.parent.is_some() && it.parent == parent;
        let is_plain = self.word(record.args[0]).is_some_and(|flags| flags & libc::CLONE_PARENT as u64 == 0);
        !is_thread && is_plain && self.tapes.tasks[task].lives && self.forest.tasks.iter().any(is_its)
    }

    /// Exchanges two forks of two tasks that live, of children of the images that are their own.
    fn swap_children(&self, (task, index): At, seed: u64) -> Option<Tapes> {
        let others: Vec<At> = (0..self.records.len())
            .filter(|other| *other != task)
            .flat_map(|other| (0..self.records[other].len()).map(move |at| (other, at)))
            .filter(|(other, at)| {
                let record = &self.records[*other][*at];
                record.verb() == Some(Verb::Fork) && self.is_own_child(*other, record)
            })
            .collect();
        if others.is_empty() || !self.is_own_child(task, &self.records[task][index]) {
            return None;
        }
        let (other, at) = others[seed as usize % others.len()];
        let (mut one, mut two) = (self.records[task].clone(), self.records[other].clone());
        std::mem::swap(&mut one[index], &mut two[at]);
        Some(self.with(&[(task, one), (other, two)]))
    }

    /// Whether a task of the images differs from its parent, in whose tape all is set before the fork, in what
    /// a record sets for the only time.
    fn differs_from_parent(&self, at: At) -> bool {
        let record = self.record(at);
        let alike =
            |it: &&Record| it.verb() == record.verb() && it.nr == record.nr && it.args[0] == record.args[0];
        let is_umask = is_call(record, libc::SYS_umask);
        let count =
            self.records[at.0].iter().filter(|it| is_umask && it.nr == record.nr || alike(it)).count();
        let Some(task) = self.task(at) else { return false };
        let Some(parent) = task.parent.map(|parent| &self.forest.tasks[parent]) else { return false };
        // It is forked by its parent, not by somebody who only stands in.
        let forks = |it: &Record| child_of(self.tapes, it).is_some_and(|(child, _)| child == task.pid);
        let forker = self
            .records
            .iter()
            .position(|records| records.iter().any(|it| it.verb() == Some(Verb::Fork) && forks(it)));
        if count != 1 || forker.is_none_or(|forker| self.tapes.tasks[forker].pid != parent.pid) {
            return false;
        }
        let (own, from) = (&task.attributes, &parent.attributes);
        match libc::c_long::from(record.nr) {
            libc::SYS_umask => own.umask.unwrap_or(0o022) != from.umask.unwrap_or(0o022),
            libc::SYS_rt_sigaction => {
                let of = |all: &[(u32, _)]| {
                    all.iter().find(|(signal, _)| u64::from(*signal) == record.args[0]).copied()
                };
                of(&own.actions) != of(&from.actions)
            }
            // A zombie's name is not asked for.
            _ => {
                let name = |it: &Attributes| it.name.clone().unwrap_or_else(|| "twig".to_owned());
                task.dead.is_none() && name(own) != name(from)
            }
        }
    }

    /// Whether a record sets, for the only time, what is described as other than the writer's.
    fn differs_from_writer(&self, at: At) -> bool {
        let record = self.record(at);
        let Some(task) = self.task(at) else { return false };
        let own = &task.attributes;
        let is_alike = |it: &&Record| {
            it.verb() == record.verb()
                && it.nr == record.nr
                && (it.nr != libc::SYS_prctl as u16 || it.args[0] == record.args[0])
                && (it.nr != libc::SYS_prlimit64 as u16 || it.args[1] == record.args[1])
        };
        let count = self.records[at.0].iter().filter(is_alike).count();
        if count != 1 || self.is_before_barrier(at) && is_prctl(record, libc::PR_SET_DUMPABLE) {
            return false;
        }
        let here = crate::images::own();
        match libc::c_long::from(record.nr) {
            libc::SYS_prlimit64 => {
                let limit = own.limits.iter().rev().find(|(of, _)| u64::from(*of) == record.args[1]);
                let inherited = here.rlimits.get(record.args[1] as usize).copied().flatten();
                // The launcher has raised its soft limit of descriptors.
                let raised = |limit: RLimit| {
                    let is_raised = record.args[1] == u64::from(libc::RLIMIT_NOFILE);
                    if is_raised { RLimit { cur: limit.max, ..limit } } else { limit }
                };
                limit.is_some_and(|(_, limit)| Some(*limit) != inherited.map(raised))
            }
            libc::SYS_setpriority => own.nice.is_some() && own.nice != here.nice,
            libc::SYS_setgroups => {
                own.credentials.as_ref().is_some_and(|it| Some(&it.groups) != here.groups.as_ref())
            }
            libc::SYS_setresuid => {
                own.credentials.as_ref().is_some_and(|it| it.uids[2] != here.uids.unwrap_or_default().saved)
            }
            libc::SYS_setresgid => {
                own.credentials.as_ref().is_some_and(|it| it.gids[2] != here.gids.unwrap_or_default().saved)
            }
            _ if is_prctl(record, libc::PR_SET_PDEATHSIG) => own.parent_death_signal != 0,
            _ if is_prctl(record, libc::PR_SET_CHILD_SUBREAPER) => own.subreaper,
            _ if is_prctl(record, libc::PR_SET_NO_NEW_PRIVS) => {
                own.no_new_privs && here.no_new_privs == Some(false)
            }
            // It is the address space's: each of its threads would do.
            _ if is_prctl(record, libc::PR_SET_DUMPABLE) => {
                own.undumpable && own.credentials.is_none() && task.threads.is_empty()
            }
            _ => false,
        }
    }
}

/// Commands of `shmctl(2)` and `semctl(2)` (uapi/linux/{ipc,shm,sem}.h).
const IPC_RMID: u64 = 0;
const SHM_LOCK: u64 = 11;
const SETALL: u64 = 17;

/// Calls that make descriptors.
const MAKERS: [libc::c_long; 11] = [
    libc::SYS_openat,
    libc::SYS_pipe2,
    libc::SYS_socketpair,
    libc::SYS_socket,
    libc::SYS_accept4,
    libc::SYS_eventfd2,
    libc::SYS_epoll_create1,
    libc::SYS_timerfd_create,
    libc::SYS_signalfd4,
    libc::SYS_memfd_create,
    libc::SYS_userfaultfd,
];

fn is_call(record: &Record, number: libc::c_long) -> bool {
    record.verb() == Some(Verb::Syscall) && libc::c_long::from(record.nr) == number
}

fn is_prctl(record: &Record, option: i32) -> bool {
    is_call(record, libc::SYS_prctl) && record.args[0] as i32 == option
}
