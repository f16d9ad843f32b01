//! Descriptor tables by the man pages, from the raw records of tapes: what a mutation must change to be one.
//!
//! It knows nothing of effects, plans or the checker: numbers of calls, their arguments, the lowest free
//! descriptor (open(2)), what dup3(2), close_range(2), fcntl(2) and clone3(2) do. Tasks that share a table use it in an
//! order that events make; all others meet at forks, and in what they send each other through socket pairs
//! (unix(7), recvmsg(2)): [`ends_by`] lets one of them come last, so that who does not wait for it is seen to.
//!
//! Example: `eventfd2() = 3, dup3(3, 7), close(3)` ends with 7, made by the first call that makes any.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use regrow::tape::abi::{CLONE_ARGS_FLAGS, CLONE_ARGS_SET_TID, Check, Record, Verb};
use regrow::tape::{Tapes, TaskTape};

/// What a descriptor refers to: who made it, which of the calls that make any in that tape, which end.
pub type Made = (u32, u32, u8);

/// A slot: what is there, and close-on-exec.
pub type Slot = (Made, bool);

/// A table.
pub type Table = BTreeMap<u64, Slot>;

/// The tables of all that park, by pid, and the numbers of the calls that made what is in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ends {
    /// By pid.
    pub tables: BTreeMap<u32, Table>,
    /// The call, by who made it and which it was.
    pub calls: BTreeMap<(u32, u32), u16>,
}

impl Ends {
    /// Whether the other end is certainly another: other numbers, other flags, other sharing, other kinds.
    pub fn differs(&self, other: &Ends) -> bool {
        self.shape() != other.shape()
    }

    /// All that two ends must have in common, whatever what is shared is called.
    fn shape(&self) -> Vec<(u32, u64, bool, u16, u8, usize)> {
        let mut firsts: BTreeMap<Made, usize> = BTreeMap::new();
        let mut shape = Vec::new();
        for (pid, table) in &self.tables {
            for (fd, (made, cloexec)) in table {
                let next = firsts.len();
                let first = *firsts.entry(*made).or_insert(next);
                let call = self.calls.get(&(made.0, made.1)).copied().unwrap_or_default();
                // The ends of a pair are alike, those of a pipe are not.
                let end = if libc::c_long::from(call) == libc::SYS_pipe2 { made.2 } else { 0 };
                shape.push((*pid, *fd, *cloexec, call, end, first));
            }
        }
        shape
    }
}

/// What tasks have in common beside tables.
#[derive(Debug, Default)]
struct Common {
    /// Events that have been posted.
    posted: BTreeSet<u64>,
    /// What waits to be received from an end of a pair.
    queues: BTreeMap<Made, VecDeque<Vec<Made>>>,
    ends: Ends,
}

impl Common {
    /// Whether somebody could get at an end: in one of these tables, or in a message.
    fn is_open(&self, end: Made, tables: &[Table], own: &Table) -> bool {
        let has = |table: &Table| table.values().any(|(made, _)| *made == end);
        has(own)
            || tables.iter().any(has)
            || self.queues.values().flatten().flatten().any(|made| *made == end)
    }
}

/// Plays all tapes, each as far as it comes without what it waits for, until all have come to their ends.
///
/// # Errors
/// A call does not give what its record expects, or somebody waits for ever.
pub fn ends(tapes: &Tapes) -> Result<Ends, String> {
    ends_by(tapes, None)
}

/// The same, where a task plays only what others wait for: when nobody else can go on.
///
/// # Errors
/// As [`ends`].
pub fn ends_by(tapes: &Tapes, last: Option<u32>) -> Result<Ends, String> {
    let root = tapes.tasks.first().ok_or("no tapes")?;
    let (mut tables, mut common) = (vec![Table::new()], Common::default());
    let mut players = vec![Player { task: root, next: 0, table_at: 0, table: Table::new(), made: 0 }];
    loop {
        let mut moved = false;
        let mut at = 0;
        let mut holds_back = last.is_some();
        while at < players.len() || holds_back && !moved {
            if at >= players.len() {
                (at, holds_back) = (0, false);
            }
            let player = &mut players[at];
            if holds_back && last == Some(player.task.pid) {
                at += 1;
                continue;
            }
            player.table = std::mem::take(&mut tables[player.table_at]);
            let before = player.next;
            let born = player.play(tapes, &tables, &mut common)?;
            moved |= player.next > before;
            let table = std::mem::take(&mut player.table);
            let shared = player.table_at;
            if let Some((child, shares)) = born {
                let table_at = if shares { shared } else { tables.len() };
                if !shares {
                    tables.push(table.clone());
                }
                players.push(Player { task: child, next: 0, table_at, table: Table::new(), made: 0 });
            } else {
                at += 1;
            }
            tables[shared] = table;
        }
        if !moved {
            break;
        }
    }
    for player in &players {
        let records = tapes.records(player.task).count();
        if player.next < records {
            return Err(format!("task {} waits for ever in record {}", player.task.pid, player.next));
        }
        if tapes.records(player.task).any(|(_, record)| record.verb() == Some(Verb::Park)) {
            common.ends.tables.insert(player.task.pid, tables[player.table_at].clone());
        }
    }
    Ok(common.ends)
}

/// The descriptors that a call sends along, and how many it has room for.
pub fn rights_of(tapes: &Tapes, record: &Record) -> Option<(Vec<u64>, u64)> {
    let word = |address: u64| Some(u64::from_ne_bytes(tapes.bytes(address, 8)?.try_into().ok()?));
    // struct msghdr (recvmsg(2)): the fifth word is the control message's address, the sixth its length.
    let (control, room) = (word(record.args[1] + 32)?, word(record.args[1] + 40)?);
    let count = room.checked_sub(16)? / 4;
    if libc::c_long::from(record.nr) == libc::SYS_recvmsg {
        return Some((Vec::new(), count));
    }
    let count = word(control)?.checked_sub(16)? / 4;
    let numbers = tapes.bytes(control + 16, 4 * count)?.chunks_exact(4);
    let numbers = numbers.map(|it| u64::from(u32::from_ne_bytes(std::array::from_fn(|i| it[i]))));
    Some((numbers.collect(), count))
}

/// A word of the arguments of a fork.
fn argument(tapes: &Tapes, record: &Record, at: usize) -> Option<u64> {
    let bytes = tapes.bytes(record.args[0] + at as u64 * 8, 8)?;
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}

/// The child of a fork, and whether it is a thread.
pub fn child_of(tapes: &Tapes, record: &Record) -> Option<(u32, bool)> {
    let tid = tapes.bytes(argument(tapes, record, CLONE_ARGS_SET_TID)?, 4)?;
    let is_thread = argument(tapes, record, CLONE_ARGS_FLAGS)? & libc::CLONE_THREAD as u64 != 0;
    Some((u32::from_ne_bytes(tid.try_into().ok()?), is_thread))
}

/// Whether a child has the table of who forks it.
pub fn shares_table(tapes: &Tapes, record: &Record) -> bool {
    argument(tapes, record, CLONE_ARGS_FLAGS).is_some_and(|flags| flags & libc::CLONE_FILES as u64 != 0)
}

struct Player<'a> {
    task: &'a TaskTape,
    /// The record that comes next.
    next: usize,
    /// Where its table is while others play.
    table_at: usize,
    table: Table,
    made: u32,
}

impl<'a> Player<'a> {
    /// Plays up to a fork, a wait for what has not been posted, or the end; gives who is born, and whether it shares
    /// the table.
    fn play(
        &mut self,
        tapes: &'a Tapes,
        tables: &[Table],
        common: &mut Common,
    ) -> Result<Option<(&'a TaskTape, bool)>, String> {
        for (index, (_, record)) in tapes.records(self.task).enumerate().skip(self.next) {
            let pid = self.task.pid;
            let at = |what: String| format!("task {pid}, record {index}: {what}");
            let mut born = None;
            match record.verb() {
                Some(Verb::Syscall) => match libc::c_long::from(record.nr) {
                    libc::SYS_sendmsg => self.send(tapes, &record, tables, common).map_err(at)?,
                    libc::SYS_recvmsg => self.receive(tapes, &record, common).map_err(at)?,
                    _ => self.call(&record, &mut common.ends).map_err(at)?,
                },
                Some(Verb::Fork) => {
                    let (pid, is_thread) =
                        child_of(tapes, &record).ok_or_else(|| at("no child".to_owned()))?;
                    let child = tapes.tasks.iter().find(|child| child.pid == pid);
                    let child = child.ok_or_else(|| at(format!("no tape of {pid}")))?;
                    born = (!is_thread).then(|| (child, shares_table(tapes, &record)));
                }
                Some(Verb::Post) => drop(common.posted.insert(record.args[0])),
                Some(Verb::Wait) if !common.posted.contains(&record.args[0]) => return Ok(None),
                Some(Verb::Indirect | Verb::Wait | Verb::Arrive | Verb::Park) | None => {}
            }
            self.next = index + 1;
            if born.is_some() {
                return Ok(born);
            }
        }
        Ok(None)
    }

    fn lowest(&self, from: u64) -> u64 {
        (from..).find(|fd| !self.table.contains_key(fd)).unwrap_or(from)
    }

    /// New descriptors at the lowest free numbers; the first.
    fn make(&mut self, record: &Record, ends: u8, cloexec: bool, all: &mut Ends) -> u64 {
        let made = (self.task.pid, self.made);
        all.calls.insert(made, record.nr);
        self.made += 1;
        let first = self.lowest(0);
        for end in 0..ends {
            self.table.insert(self.lowest(0), ((made.0, made.1, end), cloexec));
        }
        first
    }

    /// What is sent goes to the other end of a pair. Of other sockets only that they are open is looked at: nobody
    /// receives from these.
    fn send(
        &mut self,
        tapes: &Tapes,
        record: &Record,
        tables: &[Table],
        common: &mut Common,
    ) -> Result<(), String> {
        let (through, _) = *self.open(u64::from(record.args[0] as u32))?;
        let (numbers, _) = rights_of(tapes, record).unwrap_or_default();
        let made =
            numbers.into_iter().map(|fd| Ok(self.open(fd)?.0)).collect::<Result<Vec<Made>, String>>()?;
        let call = common.ends.calls.get(&(through.0, through.1)).copied().unwrap_or_default();
        if libc::c_long::from(call) == libc::SYS_socketpair {
            let other = (through.0, through.1, 1 - through.2);
            if !common.is_open(other, tables, &self.table) {
                return Err("EPIPE".to_owned());
            }
            common.queues.entry(other).or_default().push_back(made);
        }
        Ok(())
    }

    fn receive(&mut self, tapes: &Tapes, record: &Record, common: &mut Common) -> Result<(), String> {
        let (from, _) = *self.open(u64::from(record.args[0] as u32))?;
        let (_, room) = rights_of(tapes, record).ok_or("no room")?;
        let (flags, queue) = (record.args[2] as i32, common.queues.entry(from).or_default());
        let stays = flags & libc::MSG_PEEK != 0;
        let message = if stays { queue.front().cloned() } else { queue.pop_front() };
        for made in message.ok_or("EAGAIN")?.into_iter().take(room as usize) {
            let fd = self.lowest(0);
            self.table.insert(fd, (made, flags & libc::MSG_CMSG_CLOEXEC != 0));
        }
        Ok(())
    }

    fn call(&mut self, record: &Record, all: &mut Ends) -> Result<(), String> {
        let [a, b, c, d, e, _] = record.args;
        let cloexec = |flags: u64| flags & libc::O_CLOEXEC as u64 != 0;
        // Descriptors are ints.
        let (from, to) = (u64::from(a as u32), u64::from(b as u32));
        let mut result = None;
        match libc::c_long::from(record.nr) {
            libc::SYS_openat => result = Some(self.make(record, 1, cloexec(c), all)),
            libc::SYS_socket | libc::SYS_eventfd2 | libc::SYS_memfd_create => {
                // MFD_CLOEXEC is 1.
                let is_memfd = libc::c_long::from(record.nr) == libc::SYS_memfd_create;
                result = Some(self.make(record, 1, if is_memfd { b & 1 != 0 } else { cloexec(b) }, all));
            }
            libc::SYS_epoll_create1 | libc::SYS_userfaultfd => {
                result = Some(self.make(record, 1, cloexec(a), all))
            }
            libc::SYS_timerfd_create => result = Some(self.make(record, 1, cloexec(b), all)),
            libc::SYS_signalfd4 | libc::SYS_accept4 => result = Some(self.make(record, 1, cloexec(d), all)),
            libc::SYS_pipe2 => drop(self.make(record, 2, cloexec(b), all)),
            libc::SYS_socketpair => drop(self.make(record, 2, cloexec(b), all)),
            libc::SYS_dup3 | libc::SYS_dup2 => {
                let (made, _) = *self.open(from)?;
                if from == to {
                    return Err("EINVAL".to_owned());
                }
                let is_dup3 = libc::c_long::from(record.nr) == libc::SYS_dup3;
                self.table.insert(to, (made, is_dup3 && cloexec(c)));
                result = Some(to);
            }
            libc::SYS_fcntl => {
                let slot = *self.open(from)?;
                match b as i32 {
                    libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
                        let to = self.lowest(c);
                        self.table.insert(to, (slot.0, b as i32 == libc::F_DUPFD_CLOEXEC));
                        result = Some(to);
                    }
                    libc::F_GETFD => result = Some(u64::from(slot.1)),
                    libc::F_SETFD => drop(self.table.insert(from, (slot.0, c & 1 != 0))),
                    _ => {}
                }
            }
            libc::SYS_close => {
                self.open(from)?;
                self.table.remove(&from);
            }
            libc::SYS_close_range => {
                let mark = c & u64::from(libc::CLOSE_RANGE_CLOEXEC) != 0;
                for (_, slot) in self.table.range_mut(from..=to).filter(|_| mark) {
                    slot.1 = true;
                }
                self.table.retain(|fd, _| mark || *fd < from || *fd > to);
            }
            libc::SYS_lseek
            | libc::SYS_write
            | libc::SYS_preadv
            | libc::SYS_setsockopt
            | libc::SYS_listen
            | libc::SYS_bind
            | libc::SYS_timerfd_settime
            | libc::SYS_ioctl
            | libc::SYS_ftruncate => drop(self.open(from)?),
            libc::SYS_epoll_ctl => {
                self.open(from)?;
                self.open(u64::from(c as u32))?;
            }
            libc::SYS_mmap if d & libc::MAP_ANONYMOUS as u64 == 0 => drop(self.open(u64::from(e as u32))?),
            _ => {}
        }
        match result {
            Some(fd) if record.check() == Some(Check::Equal) && fd != record.expect => {
                Err(format!("gives {fd}, not {}", record.expect))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn open(&self, fd: u64) -> Result<&Slot, String> {
        self.table.get(&fd).ok_or_else(|| format!("descriptor {fd} is not open"))
    }
}
