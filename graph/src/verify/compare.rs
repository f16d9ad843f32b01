//! Compares where the tapes end with what the images say.
//!
//! Descriptor by descriptor, it builds a one-to-one relation between the descriptions of the model
//! and those of the images, and one between their pipes and sockets. Names are not enough: two
//! numbers share a description, and two descriptions a pipe, if and only if the images say so.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::apart;
use super::attribute::compare::{Seen, task as compare_attributes};
use super::expected::{
    Content, Expected, ExpectedInode, ExpectedOfd, ExpectedTask, InodeId, InodeKind, Interest, Life, OfdSpec,
    Owner, Slot, SocketFile, SocketPeer, SocketSpec,
};
use super::family::check_parent;
use super::object::{
    Inode, NOT_COMPARED, O_ACCMODE, O_DSYNC, O_SYNC_BIT, O_WRONLY, ObjectKind, SOCK_DGRAM, SOCK_STREAM,
    Socket, end_name,
};
use super::outcome::{Certificate, Counterexample, Wrong};
use super::run::{Phase, Role, Run};
use super::space::{self, Alike};
use super::table::{Desc, Entry};
use crate::ids::{Fd, OfdId};

/// Where a pair was first met.
#[derive(Debug, Clone, Copy)]
struct Place {
    task: u32,
    fd: Fd,
}

/// The number of a pipe or a socket in the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Pipe(u32),
    Fifo(u32),
    Socket(u32),
    Inode(InodeId),
}

/// The one-to-one relation of pipes, sockets and inodes, both ways.
struct Relation {
    of_object: Vec<Option<Key>>,
    of_key: HashMap<Key, usize>,
}

impl Relation {
    fn key(&self, object: usize) -> Option<Key> {
        self.of_object[object]
    }

    /// Whether an object may be what the images call `key`.
    fn may_be(&self, object: usize, key: Key) -> bool {
        self.of_object[object].is_none_or(|other| other == key)
            && self.of_key.get(&key).is_none_or(|other| *other == object)
    }

    /// Takes up that it is; says whether it may be.
    fn pair(&mut self, object: usize, key: Key) -> bool {
        *self.of_object[object].get_or_insert(key) == key
            && *self.of_key.entry(key).or_insert(object) == object
    }
}

struct Compare<'a, 'b> {
    run: &'b Run<'a>,
    expected: &'a Expected,
    /// The one-to-one relation of descriptions, both ways.
    of_desc: Vec<Option<(OfdId, Place)>>,
    of_ofd: Vec<Option<(Desc, Place)>>,
    /// That of pipes, sockets and inodes.
    objects: Relation,
    /// That of descriptor tables.
    of_table: BTreeMap<usize, u32>,
    of_table_id: BTreeMap<u32, usize>,
    /// Descriptions in flight, still to be compared, with where they were met.
    in_flight: Vec<(Desc, OfdId, Place)>,
    ends: &'b Ends,
    seen: Seen,
    seen_memory: space::Seen,
    certificate: Certificate,
}

/// What is open anywhere at the end.
struct Ends {
    /// Of descriptions.
    survivors: Vec<bool>,
    /// Of what they show.
    open_objects: Vec<bool>,
    /// At which open listener each connection waits.
    listener_of: BTreeMap<usize, usize>,
}

/// Compares the end of a run with the images.
pub(super) fn compare(
    run: Run<'_>,
    is_known: &(dyn Fn(&Alike<'_>) -> bool + Sync),
    is_alike: &mut dyn FnMut(&Alike<'_>) -> bool,
) -> Result<Certificate, Counterexample> {
    let ends = Ends::of(&run)?;
    let compared = match Compare::new(&run, &ends).at_once(is_known, is_alike) {
        Some(certificate) => {
            // What the images' bytes can tell has been asked.
            #[cfg(test)]
            assert_eq!(Compare::new(&run, &ends).one_by_one(&mut |_| true).as_ref(), Ok(&certificate));
            Ok(certificate)
        }
        // What is wrong is said of the first task where it is.
        None => Compare::new(&run, &ends).one_by_one(is_alike),
    };
    run.give_back();
    compared
}

impl Run<'_> {
    /// Gives back the memory of the model, while others go on.
    fn give_back(self) {
        let Run { tasks, tables, objects, spaces, segments, .. } = self;
        rayon::spawn(move || drop((tasks, tables, objects, spaces, segments)));
    }
}

impl Ends {
    /// Looks at all tables, and whether everything that was sent or written found who it was for.
    fn of(run: &Run<'_>) -> Result<Ends, Counterexample> {
        let mut survivors = vec![false; run.objects.descriptions.len()];
        // What many tables have in common is looked at once.
        let mut seen = HashSet::new();
        for task in run.tasks.iter().filter(|task| task.phase == Phase::Parked) {
            run.tables[task.table].visit_new(&mut seen, &mut |desc| survivors[desc.0 as usize] = true);
        }
        run.objects.close_over_flight(&mut survivors);
        let mut open_objects = vec![false; run.objects.objects.len()];
        let mut readable = open_objects.clone();
        let descriptions = run.objects.descriptions.iter();
        for (description, _) in descriptions.zip(&survivors).filter(|(_, is_open)| **is_open) {
            open_objects[description.object] = true;
            readable[description.object] |= description.flags & O_ACCMODE != O_WRONLY;
        }
        let mut listener_of = BTreeMap::new();
        for (object, _) in open_objects.iter().enumerate().filter(|(_, is_open)| **is_open) {
            if let ObjectKind::Socket(listener) = &run.objects.objects[object].kind {
                for connection in &listener.waiting {
                    listener_of.entry(*connection).or_insert(object);
                }
            }
        }
        if let Some(lost) = run.lost_message(&open_objects) {
            return Err(lost);
        }
        for (at, call, object) in &run.needs_reader {
            if !readable[*object] && !run.received.contains(at) {
                let what = match run.objects.objects[*object].kind {
                    ObjectKind::Pipe(_) => "a pipe",
                    ObjectKind::Socket(_) => "a socket",
                    ObjectKind::File { .. }
                    | ObjectKind::Eventfd { .. }
                    | ObjectKind::Epoll { .. }
                    | ObjectKind::Timerfd { .. }
                    | ObjectKind::Signalfd { .. }
                    | ObjectKind::Segment(_)
                    | ObjectKind::Userfault { .. }
                    | ObjectKind::Inode(_) => "something",
                };
                let wrong = Wrong::NoReader { call, what: what.to_owned() };
                return Err(Counterexample { task: run.pid(at.task), record: Some(at.record), wrong });
            }
        }
        Ok(Ends { survivors, open_objects, listener_of })
    }
}

impl<'a, 'b> Compare<'a, 'b> {
    fn new(run: &'b Run<'a>, ends: &'b Ends) -> Compare<'a, 'b> {
        let count = run.objects.objects.len();
        let objects = Relation { of_object: vec![None; count], of_key: HashMap::with_capacity(count / 2) };
        Compare {
            run,
            expected: run.expected,
            of_desc: vec![None; run.objects.descriptions.len()],
            of_ofd: vec![None; run.expected.ofds.len()],
            objects,
            of_table: BTreeMap::new(),
            of_table_id: BTreeMap::new(),
            in_flight: Vec::new(),
            ends,
            seen: Seen::default(),
            seen_memory: space::Seen::default(),
            certificate: run.certificate.clone(),
        }
    }

    /// Compares all tasks, on all processors what each stands for alone. `None`: something is wrong.
    fn at_once(
        mut self,
        is_known: &(dyn Fn(&Alike<'_>) -> bool + Sync),
        is_alike: &mut dyn FnMut(&Alike<'_>) -> bool,
    ) -> Option<Certificate> {
        let (run, expected) = (self.run, self.expected);
        let (descriptors, apart) = rayon::join(
            || expected.tasks.iter().try_for_each(|want| self.task(want)),
            || apart::compare(run, &expected.tasks, is_known),
        );
        descriptors.ok()?;
        for part in apart? {
            self.seen.take(&part.seen);
            self.certificate.mappings += part.certificate.mappings;
            self.certificate.pages += part.certificate.pages;
            let mut inodes = part.inodes.into_iter();
            if !self.seen_memory.take(part.seen_memory)
                || !inodes.all(|(object, inode)| self.objects.pair(object, Key::Inode(inode)))
            {
                return None;
            }
            for want in part.asking {
                run.compare_private_pages(want, &mut self.certificate, is_alike).ok()?;
            }
        }
        self.finish(is_alike).ok()
    }

    /// Compares one task after another.
    fn one_by_one(
        mut self,
        is_alike: &mut dyn FnMut(&Alike<'_>) -> bool,
    ) -> Result<Certificate, Counterexample> {
        for want in &self.expected.tasks {
            self.task(want)
                .and_then(|()| self.task_attributes(want))
                .and_then(|()| self.run.compare_seccomp(want))
                .and_then(|()| self.space(want, is_alike))
                .map_err(|wrong| Counterexample { task: want.pid, record: None, wrong })?;
        }
        self.finish(is_alike)
    }

    /// Compares what no task in particular has.
    fn finish(mut self, is_alike: &mut dyn FnMut(&Alike<'_>) -> bool) -> Result<Certificate, Counterexample> {
        let run = self.run;
        while let Some((desc, ofd, place)) = self.in_flight.pop() {
            let matched = self.description(place, desc, ofd);
            matched.map_err(|wrong| Counterexample { task: place.task, record: None, wrong })?;
        }
        run.compare_segments(&self.seen_memory, &mut self.certificate, is_alike)?;
        run.compare_ipc(&mut self.certificate, is_alike)?;
        for (pid, index) in run.by_pid {
            if let Role::Helper = run.roles[*index] {
                if run.tasks[*index].phase != Phase::Reaped {
                    return Err(Counterexample { task: *pid, record: None, wrong: Wrong::HelperLeft });
                }
                self.certificate.helpers += 1;
            }
        }
        if let Some((path, name)) = run.made_names.iter().find(|(_, name)| name.is_there) {
            let path = path.escape_ascii().to_string();
            return Err(Counterexample {
                task: run.pid(name.last.task),
                record: None,
                wrong: Wrong::NameLeft { path },
            });
        }
        self.certificate.attributes = self.seen.compared;
        self.certificate.host_facts = self.seen.facts();
        self.certificate.descriptions = self.of_desc.iter().flatten().count() as u64;
        self.certificate.objects = self.objects.of_object.iter().flatten().count() as u64;
        Ok(self.certificate)
    }
}

impl<'a> Compare<'a, '_> {
    /// Who it is, and its descriptors.
    fn task(&mut self, want: &'a ExpectedTask) -> Result<(), Wrong> {
        let run = self.run;
        let Some(task) = run.by_pid.get(&want.pid).map(|index| &run.tasks[*index]) else {
            return Err(Wrong::NeverBorn);
        };
        check_parent(want, task.parent, task.exit_signal)?;
        if task.sid != want.sid {
            return Err(Wrong::WrongSession { is: task.sid, wanted: want.sid });
        }
        if task.pgid != want.pgid {
            return Err(Wrong::WrongGroup { is: task.pgid, wanted: want.pgid });
        }
        match (want.life, task.phase) {
            (Life::Alive, Phase::Parked) => {
                for tid in &want.threads {
                    if run.by_pid.get(tid).is_none_or(|index| run.tasks[*index].phase != Phase::Parked) {
                        return Err(Wrong::ThreadMissing { tid: *tid });
                    }
                    self.certificate.threads += 1;
                }
                self.certificate.tasks += 1;
            }
            (
                Life::Alive,
                Phase::Unborn
                | Phase::Running
                | Phase::Arrived
                | Phase::Tail
                | Phase::Dead { .. }
                | Phase::Reaped,
            ) => {
                return Err(Wrong::NeverArrives);
            }
            (Life::Zombie { status }, Phase::Dead { status: is }) => {
                if is != status {
                    return Err(Wrong::WrongStatus { is, wanted: status });
                }
                // The root has no parent in the tree that could wait for it.
                if !task.awaited {
                    return Err(Wrong::ZombieNotAwaited);
                }
                self.certificate.zombies += 1;
                return Ok(());
            }
            (
                Life::Zombie { .. },
                Phase::Unborn | Phase::Running | Phase::Arrived | Phase::Tail | Phase::Parked | Phase::Reaped,
            ) => {
                return Err(Wrong::ShouldDie);
            }
        }
        if let Some(id) = want.table_id {
            let one_to_one = *self.of_table.entry(task.table).or_insert(id) == id
                && *self.of_table_id.entry(id).or_insert(task.table) == task.table;
            if !one_to_one {
                return Err(Wrong::WrongSharing { shared: self.of_table.get(&task.table) != Some(&id) });
            }
        }
        let mut wanted = want.table.iter().peekable();
        let mut open = run.tables[task.table].iter().peekable();
        loop {
            match (wanted.peek().copied(), open.peek().copied()) {
                (None, None) => return Ok(()),
                (Some(slot), Some((fd, entry))) if fd == slot.fd => {
                    self.slot(want.pid, slot, entry)?;
                    wanted.next();
                    open.next();
                }
                (slot, Some((fd, entry))) if slot.is_none_or(|slot| fd < slot.fd) => {
                    return Err(Wrong::Leaked { fd, is: self.describe(entry.desc) });
                }
                (Some(slot), _) => {
                    return Err(Wrong::Missing { fd: slot.fd, wanted: self.ofd(slot.ofd)?.name.clone() });
                }
                (None, Some((fd, entry))) => return Err(Wrong::Leaked { fd, is: self.describe(entry.desc) }),
            }
        }
    }

    fn space(
        &mut self,
        want: &ExpectedTask,
        is_alike: &mut dyn FnMut(&Alike<'_>) -> bool,
    ) -> Result<(), Wrong> {
        let objects = &mut self.objects;
        let pair = |object, inode| objects.pair(object, Key::Inode(inode));
        self.run.compare_space(want, &mut self.seen_memory, &mut self.certificate, pair)?;
        self.run.compare_private_pages(want, &mut self.certificate, is_alike)
    }

    fn task_attributes(&mut self, want: &ExpectedTask) -> Result<(), Wrong> {
        let objects = &mut self.objects;
        compare_attributes(self.run, want, &mut self.seen, |object, inode| {
            objects.pair(object, Key::Inode(inode))
        })
    }

    fn ofd(&self, ofd: OfdId) -> Result<&'a ExpectedOfd, Wrong> {
        self.expected
            .ofds
            .get(ofd.index())
            .ok_or_else(|| Wrong::Images { what: format!("{ofd} is not described") })
    }

    fn describe(&self, desc: Desc) -> String {
        match self.objects.key(self.run.objects.description(desc).object) {
            Some(Key::Pipe(pipe)) => {
                format!("the {} of pipe {pipe:#x}", end_name(self.run.objects.description(desc).flags))
            }
            Some(Key::Fifo(fifo)) => {
                format!("the {} of FIFO {fifo:#x}", end_name(self.run.objects.description(desc).flags))
            }
            Some(Key::Socket(socket)) => format!("socket {socket:#x}"),
            Some(Key::Inode(_)) | None => self.run.describe(desc),
        }
    }

    fn slot(&mut self, task: u32, slot: &Slot, entry: Entry) -> Result<(), Wrong> {
        self.description(Place { task, fd: slot.fd }, entry.desc, slot.ofd)?;
        if entry.cloexec != slot.cloexec {
            return Err(Wrong::WrongCloexec { fd: slot.fd, is: entry.cloexec });
        }
        self.certificate.descriptors += 1;
        Ok(())
    }

    /// Takes up that `desc` is `ofd`.
    fn description(&mut self, place: Place, desc: Desc, ofd: OfdId) -> Result<(), Wrong> {
        let want = self.ofd(ofd)?;
        let fd = place.fd;
        // That it is described has just been seen.
        match (self.of_desc[desc.0 as usize], self.of_ofd[ofd.index()]) {
            (Some((matched, _)), _) if matched == ofd => return Ok(()),
            (Some(_), _) if !self.is_kind(desc, want) => {
                return Err(Wrong::WrongDescription {
                    fd,
                    is: self.describe(desc),
                    wanted: want.name.clone(),
                });
            }
            (Some((_, other)), _) => {
                let (is, wanted) = (self.describe(desc), want.name.clone());
                return Err(Wrong::SharedDescription {
                    fd,
                    is,
                    other: other.task,
                    other_fd: other.fd,
                    wanted,
                });
            }
            (None, Some((other_desc, other))) => {
                let (is, wanted) = (self.describe(desc), want.name.clone());
                // Either the same thing opened a second time, or something else.
                let is_alike = self.run.objects.description(other_desc).object
                    == self.run.objects.description(desc).object
                    || self.is_kind(desc, want);
                return Err(if is_alike {
                    Wrong::SeparateDescription { fd, is, other: other.task, other_fd: other.fd, wanted }
                } else {
                    Wrong::WrongDescription { fd, is, wanted }
                });
            }
            (None, None) => {}
        }
        if let OfdSpec::Unmodelled(what) = &want.spec {
            return Err(Wrong::Uncheckable { fd, what: format!("{}: {what}", want.name) });
        }
        if !self.is_kind(desc, want) {
            return Err(Wrong::WrongDescription { fd, is: self.describe(desc), wanted: want.name.clone() });
        }
        self.attributes(place, desc, want)?;
        self.of_desc[desc.0 as usize] = Some((ofd, place));
        self.of_ofd[ofd.index()] = Some((desc, place));
        Ok(())
    }

    /// Whether the description is of the wanted kind: the same path, the same end.
    fn is_kind(&self, desc: Desc, want: &ExpectedOfd) -> bool {
        let access = self.run.objects.description(desc).flags & O_ACCMODE == want.flags & O_ACCMODE;
        match (&self.run.objects.object_of(desc).kind, &want.spec) {
            (ObjectKind::File { path }, OfdSpec::Path { path: wanted, .. }) => path == wanted,
            (ObjectKind::Pipe(pipe), OfdSpec::Pipe { .. }) => {
                access && pipe.fifo.is_none() && run_fifo(self.run, desc).is_none()
            }
            (ObjectKind::Socket(socket), OfdSpec::Socket(wanted)) => {
                (socket.family, socket.sock_type, socket.protocol)
                    == (wanted.family, wanted.sock_type, wanted.protocol)
            }
            (ObjectKind::Eventfd { .. }, OfdSpec::Eventfd { .. }) => true,
            (ObjectKind::Epoll { .. }, OfdSpec::Epoll { .. }) => true,
            (ObjectKind::Timerfd { .. }, OfdSpec::Timerfd { .. }) => true,
            (ObjectKind::Signalfd { .. }, OfdSpec::Signalfd { .. }) => true,
            (ObjectKind::Pipe(pipe), OfdSpec::Fifo { path, inode, .. }) => {
                let name = match (inode, &pipe.fifo) {
                    (Some(_), Some(fifo)) => Some(fifo.name.as_slice()),
                    (None, None) => run_fifo(self.run, desc),
                    (Some(_), None) | (None, Some(_)) => None,
                };
                access && name == Some(path.as_slice())
            }
            (ObjectKind::Inode(inode), OfdSpec::Inode { inode: wanted, alias, .. }) => {
                let is_alias = self.run.objects.description(desc).alias.as_deref() == alias.as_deref();
                let is_it = |wanted: &ExpectedInode| {
                    (inode.kind, &inode.name, &inode.source, inode.huge)
                        == (wanted.kind, &wanted.name, &wanted.source, wanted.huge)
                };
                is_alias && self.expected.inodes.get(wanted).is_some_and(is_it)
            }
            (
                ObjectKind::File { .. }
                | ObjectKind::Pipe(_)
                | ObjectKind::Socket(_)
                | ObjectKind::Eventfd { .. }
                | ObjectKind::Epoll { .. }
                | ObjectKind::Timerfd { .. }
                | ObjectKind::Signalfd { .. }
                | ObjectKind::Segment(_)
                | ObjectKind::Userfault { .. }
                | ObjectKind::Inode(_),
                OfdSpec::Path { .. }
                | OfdSpec::Pipe { .. }
                | OfdSpec::Socket(_)
                | OfdSpec::Eventfd { .. }
                | OfdSpec::Epoll { .. }
                | OfdSpec::Timerfd { .. }
                | OfdSpec::Signalfd { .. }
                | OfdSpec::Fifo { .. }
                | OfdSpec::Inode { .. }
                | OfdSpec::Unmodelled(_),
            ) => false,
        }
    }

    fn attributes(&mut self, place: Place, desc: Desc, want: &'a ExpectedOfd) -> Result<(), Wrong> {
        let run = self.run;
        let description = run.objects.description(desc);
        let differs = |attribute, is: String, wanted: String| {
            Err(Wrong::WrongAttribute { fd: place.fd, what: want.name.clone(), attribute, is, wanted })
        };
        let number = |attribute, is: u64, wanted: u64| {
            if is == wanted { Ok(()) } else { differs(attribute, is.to_string(), wanted.to_string()) }
        };
        let mut wanted_flags = want.flags & !NOT_COMPARED;
        if wanted_flags & O_SYNC_BIT != 0 {
            wanted_flags |= O_DSYNC;
        }
        let flags = description.flags & !NOT_COMPARED;
        if flags != wanted_flags {
            return differs("status flags", format!("{flags:#o}"), format!("{wanted_flags:#o}"));
        }
        let Owner { pid_type, pid, uids, signal } = want.owner;
        let owner = description.owner;
        number("the owner's signal", owner.signal.into(), signal.into())?;
        number("the owner", owner.pid.into(), pid.into())?;
        if pid != 0 {
            number("the kind of owner", owner.pid_type.into(), pid_type.into())?;
            number("the owner's real uid", owner.uids[0].into(), uids[0].into())?;
            number("the owner's effective uid", owner.uids[1].into(), uids[1].into())?;
        }
        let attributes = |is: &Inode, wanted: &ExpectedInode| {
            if let Some(wanted) = wanted.mode {
                let shown = |mode: Option<u32>| mode.map_or("not set".to_owned(), |mode| format!("{mode:o}"));
                if is.mode != Some(wanted) {
                    return differs("mode", shown(is.mode), shown(Some(wanted)));
                }
            }
            if is.owner != Some(wanted.owner) {
                return differs("owner", format!("{:?}", is.owner), format!("{:?}", wanted.owner));
            }
            if wanted.times.is_some() && is.times != wanted.times {
                return differs("times", format!("{:?}", is.times), format!("{:?}", wanted.times));
            }
            Ok(())
        };
        match (&run.objects.objects[description.object].kind, &want.spec) {
            (ObjectKind::File { .. }, OfdSpec::Path { position, .. }) => {
                if let Some(position) = position {
                    number("position", description.position, *position)?;
                }
            }
            (ObjectKind::Pipe(pipe), OfdSpec::Pipe { pipe: key } | OfdSpec::Fifo { fifo: key, .. }) => {
                let (map_key, contained) = match &want.spec {
                    OfdSpec::Fifo { .. } => (Key::Fifo(*key), self.expected.fifos.get(key)),
                    _ => (Key::Pipe(*key), self.expected.pipes.get(key)),
                };
                self.pair(place, desc, want, map_key)?;
                let default = self.expected.facts.pipe_bytes;
                let (capacity, data) = match contained {
                    Some(wanted) => (wanted.capacity.unwrap_or(default), wanted.data.as_slice()),
                    None => (default, [].as_slice()),
                };
                number("capacity in bytes", pipe.capacity.into(), capacity.into())?;
                if pipe.data != data {
                    let (is, wanted) = contents(&pipe.data, data);
                    return differs("data", is, wanted);
                }
                self.certificate.queued_bytes += data.len() as u64;
                if let (OfdSpec::Fifo { inode: Some(inode), .. }, Some(is)) = (&want.spec, &pipe.fifo) {
                    let Some(wanted) = self.expected.inodes.get(inode) else {
                        return Err(Wrong::Images {
                            what: format!("{}: its inode is not described", want.name),
                        });
                    };
                    attributes(is, wanted)?;
                }
            }
            (
                ObjectKind::Eventfd { counter, semaphore },
                OfdSpec::Eventfd { counter: wanted, semaphore: wanted_semaphore },
            ) => {
                number("counter", *counter, *wanted)?;
                number("EFD_SEMAPHORE", (*semaphore).into(), (*wanted_semaphore).into())?;
            }
            (ObjectKind::Epoll { watched }, OfdSpec::Epoll { interests }) => {
                self.watched(place, want, watched, interests)?;
            }
            (
                ObjectKind::Timerfd { clock, timer },
                OfdSpec::Timerfd { clock: wanted_clock, timer: wanted },
            ) => {
                number("clock", (*clock).into(), (*wanted_clock).into())?;
                number("flags of the timer", timer.flags.into(), wanted.flags.into())?;
                number("time left", timer.value_ns, wanted.value_ns)?;
                number("interval", timer.interval_ns, wanted.interval_ns)?;
                number("ticks", timer.ticks, wanted.ticks)?;
            }
            (ObjectKind::Signalfd { mask }, OfdSpec::Signalfd { mask: wanted }) => {
                number("signals", *mask, *wanted)?;
            }
            (ObjectKind::Socket(socket), OfdSpec::Socket(spec)) => {
                self.pair(place, desc, want, Key::Socket(spec.socket))?;
                self.socket(place, desc, want, socket, spec)?;
            }
            (ObjectKind::Inode(is), OfdSpec::Inode { inode, position, alias: _ }) => {
                self.pair(place, desc, want, Key::Inode(*inode))?;
                if let Some(position) = position {
                    number("position", description.position, *position)?;
                }
                let Some(wanted) = self.expected.inodes.get(inode) else {
                    return Err(Wrong::Images { what: format!("{}: its inode is not described", want.name) });
                };
                // It has kept what it is.
                if is.kind == InodeKind::Linked {
                    return Ok(());
                }
                attributes(is, wanted)?;
                number("seals", is.seals.into(), wanted.seals.into())?;
                if is.kind != InodeKind::Directory {
                    number("length", is.size, wanted.size)?;
                }
                if is.content != wanted.content {
                    let bytes = |content: &Content| format!("{} bytes", content.bytes());
                    return differs("content", bytes(&is.content), bytes(&wanted.content));
                }
            }
            // is_kind has refused these.
            (
                ObjectKind::File { .. }
                | ObjectKind::Pipe(_)
                | ObjectKind::Socket(_)
                | ObjectKind::Eventfd { .. }
                | ObjectKind::Epoll { .. }
                | ObjectKind::Timerfd { .. }
                | ObjectKind::Signalfd { .. }
                | ObjectKind::Segment(_)
                | ObjectKind::Userfault { .. }
                | ObjectKind::Inode(_),
                OfdSpec::Path { .. }
                | OfdSpec::Pipe { .. }
                | OfdSpec::Socket(_)
                | OfdSpec::Eventfd { .. }
                | OfdSpec::Epoll { .. }
                | OfdSpec::Timerfd { .. }
                | OfdSpec::Signalfd { .. }
                | OfdSpec::Fifo { .. }
                | OfdSpec::Inode { .. }
                | OfdSpec::Unmodelled(_),
            ) => {}
        }
        Ok(())
    }

    /// What an epoll file watches at the end: what is closed everywhere is gone from it (epoll(7)).
    fn watched(
        &mut self,
        place: Place,
        want: &'a ExpectedOfd,
        watched: &BTreeMap<(Desc, Fd), (u32, u64)>,
        interests: &[Interest],
    ) -> Result<(), Wrong> {
        let differs = |is: String, wanted: String| {
            Err(Wrong::WrongAttribute {
                fd: place.fd,
                what: want.name.clone(),
                attribute: "what it watches",
                is,
                wanted,
            })
        };
        let is_open = |desc: Desc| self.ends.survivors[desc.0 as usize];
        let open: Vec<_> = watched.iter().filter(|((desc, _), _)| is_open(*desc)).collect();
        if open.len() != interests.len() {
            return differs(open.len().to_string(), interests.len().to_string());
        }
        let mut said: BTreeMap<(Fd, u32, u64), OfdId> = BTreeMap::new();
        for interest in interests {
            said.entry((interest.fd, interest.events, interest.data)).or_insert(interest.ofd);
        }
        for ((desc, fd), (events, data)) in open {
            match said.get(&(*fd, *events, *data)) {
                Some(ofd) => self.in_flight.push((*desc, *ofd, place)),
                None => {
                    return differs(
                        format!("descriptor {fd} for {events:#x}, data {data:#x}"),
                        "otherwise".to_owned(),
                    );
                }
            }
        }
        Ok(())
    }

    /// Takes up that the object of `desc` is `key`.
    fn pair(&mut self, place: Place, desc: Desc, want: &ExpectedOfd, key: Key) -> Result<(), Wrong> {
        let object = self.run.objects.description(desc).object;
        if !self.objects.may_be(object, key) {
            return Err(Wrong::CrossedEnds {
                fd: place.fd,
                is: self.describe(desc),
                wanted: want.name.clone(),
            });
        }
        self.objects.pair(object, key);
        Ok(())
    }

    fn socket(
        &mut self,
        place: Place,
        desc: Desc,
        want: &'a ExpectedOfd,
        socket: &Socket,
        spec: &'a SocketSpec,
    ) -> Result<(), Wrong> {
        let differs = |attribute, is: String, wanted: String| {
            Err(Wrong::WrongAttribute { fd: place.fd, what: want.name.clone(), attribute, is, wanted })
        };
        // What a listener has not accepted yet is open as long as the listener is.
        let listener = match spec.peer {
            SocketPeer::Listener(_) => socket.peer.and_then(|peer| self.ends.listener_of.get(&peer).copied()),
            SocketPeer::None | SocketPeer::Closed | SocketPeer::Socket(_) | SocketPeer::Address(_) => None,
        };
        let peer = listener.or(socket.peer.filter(|peer| self.ends.open_objects[*peer]));
        let shown = |bytes: &Option<Vec<u8>>| match bytes {
            Some(bytes) => bytes.escape_ascii().to_string(),
            None => "nothing".to_owned(),
        };
        let wanted_dest = match &spec.peer {
            SocketPeer::Address(address) => Some(address.clone()),
            SocketPeer::None | SocketPeer::Closed | SocketPeer::Socket(_) | SocketPeer::Listener(_) => None,
        };
        if matches!(spec.peer, SocketPeer::Listener(_)) && listener.is_none() {
            return differs("the other end", "accepted or closed".to_owned(), "waiting".to_owned());
        }
        if socket.dest != wanted_dest {
            return differs("the address at the other end", shown(&socket.dest), shown(&wanted_dest));
        }
        match (&spec.peer, peer) {
            (SocketPeer::Socket(number) | SocketPeer::Listener(number), Some(peer)) => {
                let peer_key = Key::Socket(*number);
                if !self.objects.may_be(peer, peer_key) {
                    return Err(Wrong::CrossedEnds {
                        fd: place.fd,
                        is: self.describe(desc),
                        wanted: want.name.clone(),
                    });
                }
                self.objects.pair(peer, peer_key);
            }
            (SocketPeer::Socket(_) | SocketPeer::Listener(_), None) => {
                return differs("the other end", "closed".to_owned(), "open".to_owned());
            }
            (SocketPeer::None | SocketPeer::Closed | SocketPeer::Address(_), Some(_)) => {
                return differs("the other end", "open".to_owned(), "closed".to_owned());
            }
            (SocketPeer::Closed, None) if socket.peer.is_none() => {
                return differs("the other end", "never connected".to_owned(), "closed".to_owned());
            }
            (SocketPeer::None, None) if socket.peer.is_some() && socket.sock_type != SOCK_DGRAM => {
                return differs("the other end", "closed".to_owned(), "never connected".to_owned());
            }
            (SocketPeer::None | SocketPeer::Closed | SocketPeer::Address(_), None) => {}
        }
        if socket.name != spec.name {
            return differs("name", shown(&socket.name), shown(&spec.name));
        }
        if socket.name_dir != spec.name_dir {
            return differs("directory of its name", shown(&socket.name_dir), shown(&spec.name_dir));
        }
        let node = Run::path_of(socket).and_then(|path| self.run.names.files.get(&path));
        match spec.file {
            SocketFile::Any => {}
            SocketFile::Own { perms } => {
                let Some(node) = node.filter(|node| self.run.objects.description(desc).object == node.socket)
                else {
                    return differs(
                        "the file of its name",
                        "another's or none".to_owned(),
                        "its own".to_owned(),
                    );
                };
                let (mode, owner) =
                    perms.map_or((node.mode, node.owner), |(mode, uid, gid)| (Some(mode), Some((uid, gid))));
                if (node.mode, node.owner) != (mode, owner) {
                    return differs(
                        "the file of its name",
                        format!("{:?} {:?}", node.mode, node.owner),
                        format!("{mode:?} {owner:?}"),
                    );
                }
            }
            SocketFile::Gone => {
                if node.is_some_and(|node| self.run.objects.description(desc).object == node.socket) {
                    return differs("the file of its name", "there".to_owned(), "unlinked".to_owned());
                }
            }
        }
        if socket.backlog != spec.backlog {
            return differs("backlog", format!("{:?}", socket.backlog), format!("{:?}", spec.backlog));
        }
        if socket.waiting.len() != spec.waiting {
            return differs("connections", socket.waiting.len().to_string(), spec.waiting.to_string());
        }
        for (option, wanted) in &spec.bytes {
            let is = socket.bytes.get(option).map_or(&[][..], Vec::as_slice);
            if is != wanted {
                let (is, wanted) = contents(is, wanted);
                return differs(
                    "a socket option",
                    format!("{option:?} {is}"),
                    format!("{option:?} {wanted}"),
                );
            }
        }
        // When a connected stream's other end is closed, both directions are shut down.
        let was_connected = socket.peer.is_some() && socket.sock_type != SOCK_DGRAM;
        let shutdown = if was_connected && peer.is_none() { 3 } else { socket.shutdown };
        if shutdown != spec.shutdown {
            return differs("shutdown", shutdown.to_string(), spec.shutdown.to_string());
        }
        for (option, wanted) in &spec.options {
            let is = socket.option(*option);
            if is != *wanted {
                return differs(
                    "a socket option",
                    format!("{option:?} {is}"),
                    format!("{option:?} {wanted}"),
                );
            }
        }
        if socket.sock_type == SOCK_STREAM && socket.queue.iter().all(|packet| packet.rights.is_empty()) {
            // Where one piece of a stream ends and the next begins cannot be seen.
            let is: Vec<u8> = socket.queue.iter().flat_map(|packet| &packet.data).copied().collect();
            let wanted: Vec<u8> = spec.queue.iter().flat_map(|packet| &packet.data).copied().collect();
            if is != wanted || spec.queue.iter().any(|packet| !packet.rights.is_empty()) {
                let (is, wanted) = contents(&is, &wanted);
                return differs("queued data", is, wanted);
            }
            self.certificate.queued_bytes += is.len() as u64;
            return Ok(());
        }
        if socket.queue.len() != spec.queue.len() {
            return differs(
                "queue",
                format!("{} messages", socket.queue.len()),
                format!("{} messages", spec.queue.len()),
            );
        }
        for (packet, wanted) in socket.queue.iter().zip(&spec.queue) {
            if packet.data != wanted.data {
                let (is, wanted) = contents(&packet.data, &wanted.data);
                return differs("a queued message", is, wanted);
            }
            if packet.rights.len() != wanted.rights.len() {
                return differs(
                    "descriptors in flight",
                    packet.rights.len().to_string(),
                    wanted.rights.len().to_string(),
                );
            }
            self.certificate.queued_bytes += packet.data.len() as u64;
            self.in_flight
                .extend(packet.rights.iter().zip(&wanted.rights).map(|(desc, ofd)| (*desc, *ofd, place)));
        }
        Ok(())
    }
}

/// The path of a FIFO.
fn run_fifo<'a>(run: &Run<'a>, desc: Desc) -> Option<&'a [u8]> {
    run.path_of_fifo.get(&run.objects.description(desc).object).copied()
}

/// How two contents differ, in words.
fn contents(is: &[u8], wanted: &[u8]) -> (String, String) {
    let at = is.iter().zip(wanted).position(|(a, b)| a != b);
    match at {
        Some(at) => (
            format!("{} bytes with {:#04x} at {at}", is.len(), is[at]),
            format!("{} bytes with {:#04x} there", wanted.len(), wanted[at]),
        ),
        None => (format!("{} bytes", is.len()), format!("{} bytes", wanted.len())),
    }
}
