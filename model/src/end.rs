//! The end of a run, described so that two of them can be compared.
//!
//! What the tapes made has no name that anybody outside could see, so here it is numbered in the order in
//! which one comes upon it: processes by pid, their descriptors by number, their mappings by address, then what
//! those show, what waits in that, and so on. What nobody can get at is left out. So two ends are
//! equal if nobody inside the tree could tell them apart, whoever made what.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use regrow_graph::ids::Fd;
use regrow_graph::verify::IpcKind;

use crate::ids::{DescId, Made, ObjectId, SegmentId, SpaceId, TableId};
use crate::world::{
    Backing, Description, Directory, Ipc, Object, Phase, Process, Runs, Source, Space, Table, Thread, Why,
    World,
};

/// What is left of something that nobody can get at any more: the other end of a socket, for example.
pub const GONE: ObjectId = ObjectId::Made(Made { tid: u32::MAX, record: 0, nth: 0 });

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct End {
    /// By pid; zombies are among them.
    pub processes: BTreeMap<u32, Process>,
    /// By tid.
    pub threads: BTreeMap<u32, Thread>,
    /// By the numbers that threads have for them here.
    pub tables: BTreeMap<TableId, Table>,
    /// By the numbers that tables have for them.
    pub descriptions: BTreeMap<DescId, Description>,
    /// What they show, and mappings show.
    pub objects: BTreeMap<ObjectId, Object>,
    /// Working directories.
    pub directories: BTreeMap<Made, Directory>,
    /// Address spaces, without the tapes.
    pub spaces: BTreeMap<SpaceId, Space>,
    /// Shared anonymous memory.
    pub segments: BTreeMap<SegmentId, Runs>,
    /// IPC namespaces, by the numbers that threads have for them here; without what has gone with the tapes.
    pub ipcs: BTreeMap<Made, Ipc>,
    /// Names that were made or taken away; `None`: nothing is there.
    pub names: BTreeMap<Arc<[u8]>, Option<ObjectId>>,
}

impl End {
    /// Records that failed, by thread.
    pub fn faults(&self) -> BTreeMap<u32, &Why> {
        let faults = self.threads.iter().filter_map(|(tid, thread)| match &thread.phase {
            Phase::Failed(why) => Some((*tid, why)),
            Phase::Running | Phase::Arrived | Phase::Parked => None,
        });
        faults.collect()
    }

    /// Whether every thread has parked.
    pub fn is_complete(&self) -> bool {
        self.threads.values().all(|thread| thread.phase == Phase::Parked)
    }

    /// The descriptor table of a process: what each number refers to, and close-on-exec.
    pub fn table(&self, pid: u32) -> BTreeMap<Fd, (DescId, bool)> {
        let table = self.threads.get(&pid).and_then(|thread| self.tables.get(&thread.table));
        let entries = table.map(|table| table.entries.clone()).unwrap_or_default();
        entries.into_iter().map(|(fd, entry)| (fd, (entry.desc, entry.cloexec))).collect()
    }
}

/// Numbers for what the tapes made, given out as one comes upon it.
struct Numbers<'a> {
    world: &'a World,
    descs: BTreeMap<DescId, DescId>,
    objects: BTreeMap<Made, ObjectId>,
    segments: BTreeMap<SegmentId, SegmentId>,
    todo: VecDeque<DescId>,
    todo_objects: VecDeque<ObjectId>,
}

fn number(nth: usize) -> Made {
    Made { tid: 0, record: 0, nth: nth as u32 }
}

impl Numbers<'_> {
    fn desc(&mut self, desc: DescId) -> DescId {
        let next = DescId(number(self.descs.len()));
        if !self.descs.contains_key(&desc) {
            self.todo.push_back(desc);
        }
        *self.descs.entry(desc).or_insert(next)
    }

    fn object(&mut self, id: &ObjectId) -> ObjectId {
        match id {
            ObjectId::Host(_) => {
                if !self.todo_objects.contains(id) {
                    self.todo_objects.push_back(id.clone());
                }
                id.clone()
            }
            ObjectId::Made(made) => {
                let next = ObjectId::Made(number(self.objects.len()));
                if !self.objects.contains_key(made) {
                    self.todo_objects.push_back(id.clone());
                }
                self.objects.entry(*made).or_insert(next).clone()
            }
        }
    }

    fn segment(&mut self, id: SegmentId) -> SegmentId {
        let next = SegmentId(number(self.segments.len()));
        *self.segments.entry(id).or_insert(next)
    }

    fn runs(&mut self, runs: &Runs) -> Runs {
        let mut renamed = Runs::default();
        for (start, end, source) in runs.iter() {
            let source = match source {
                Source::File(id, at) => Source::File(self.object(id), *at),
                Source::Bytes(_) | Source::Zero => source.clone(),
            };
            renamed.insert(start, end, source);
        }
        renamed
    }

    fn space(&mut self, space: &Space) -> Space {
        let region = self.world.region();
        let mut renamed = Space { mappings: BTreeMap::new(), ..space.clone() };
        for (start, mut mapping) in space.joined() {
            // One `munmap` of the commit takes tapes and carriers away.
            if region.start <= start && start < region.window_end {
                continue;
            }
            mapping.backing = match mapping.backing {
                Backing::Segment(id, offset) => Backing::Segment(self.segment(id), offset),
                Backing::File { object, offset, shared } => {
                    Backing::File { object: self.object(&object), offset, shared }
                }
                Backing::Anonymous
                | Backing::Region
                | Backing::Vvar
                | Backing::Vdso
                | Backing::Foreign
                | Backing::Ring => mapping.backing,
            };
            renamed.mappings.insert(start, mapping);
        }
        renamed.private = self.runs(&space.private);
        renamed.layout.exe = space.layout.exe.as_ref().map(|exe| self.object(exe));
        renamed
    }

    fn shown(&mut self, object: &Object, live: &BTreeSet<ObjectId>) -> Object {
        let mut object = object.clone();
        match &mut object {
            Object::Socket(socket) => {
                let mut known = |id: &ObjectId| if live.contains(id) { self.object(id) } else { GONE };
                socket.peer = socket.peer.as_ref().map(&mut known);
                socket.waiting = socket.waiting.iter().map(&mut known).collect();
                for message in &mut socket.queue {
                    message.from = known(&message.from);
                }
                for message in &mut socket.queue {
                    message.rights = message.rights.iter().map(|desc| self.desc(*desc)).collect();
                }
            }
            Object::Epoll { interests } => {
                // What is closed is watched no more (epoll(7)).
                let watched: Vec<_> = interests.iter().map(|(key, how)| (*key, *how)).collect();
                let is_open = |desc: DescId| self.world.is_held(desc);
                let watched: Vec<_> = watched.into_iter().filter(|((_, desc), _)| is_open(*desc)).collect();
                *interests =
                    watched.into_iter().map(|((fd, desc), how)| ((fd, self.desc(desc)), how)).collect();
            }
            Object::File(file) => file.content = self.runs(&file.content),
            Object::Pipe(pipe) => pipe.forget_opens(),
            Object::Foreign
            | Object::Eventfd { .. }
            | Object::Timerfd { .. }
            | Object::Signalfd { .. }
            | Object::Userfault { .. } => {}
        }
        object
    }
}

impl World {
    /// What there is now, as the end of a run.
    pub fn end(&self) -> End {
        let live_descs = self.live();
        let mut live: BTreeSet<ObjectId> =
            live_descs.iter().map(|desc| self.description(*desc).object.clone()).collect();
        for id in live.clone() {
            if let Object::Socket(socket) = self.object(&id) {
                live.extend(socket.waiting.iter().cloned());
            }
        }
        let mut numbers = Numbers {
            world: self,
            descs: BTreeMap::new(),
            objects: BTreeMap::new(),
            segments: BTreeMap::new(),
            todo: VecDeque::new(),
            todo_objects: VecDeque::new(),
        };
        let mut end = End {
            processes: BTreeMap::new(),
            threads: BTreeMap::new(),
            tables: BTreeMap::new(),
            descriptions: BTreeMap::new(),
            objects: BTreeMap::new(),
            directories: BTreeMap::new(),
            spaces: BTreeMap::new(),
            segments: BTreeMap::new(),
            ipcs: BTreeMap::new(),
            names: BTreeMap::new(),
        };
        let mut tables: BTreeMap<TableId, TableId> = BTreeMap::new();
        let mut directories: BTreeMap<Made, Made> = BTreeMap::new();
        let mut ipcs: BTreeMap<Made, Made> = BTreeMap::new();
        for (tid, thread) in &self.threads {
            let next = TableId(number(tables.len()));
            let table = *tables.entry(thread.table).or_insert(next);
            if table == next
                && let Some(shown) = self.tables.get(&thread.table)
            {
                let mut renamed = Table::default();
                for (fd, entry) in &shown.entries {
                    let mut entry = *entry;
                    entry.desc = numbers.desc(entry.desc);
                    renamed.entries.insert(*fd, entry);
                }
                end.tables.insert(table, renamed);
            }
            let next = number(directories.len());
            let directory = *directories.entry(thread.directory).or_insert(next);
            if let Some(shown) = self.directories.get(&thread.directory) {
                let object = shown.object.as_ref().map(|id| numbers.object(id));
                end.directories.insert(directory, Directory { object, ..(**shown).clone() });
            }
            let ipc = thread.ipc.map(|ns| {
                let next = number(ipcs.len());
                *ipcs.entry(ns).or_insert(next)
            });
            let opening = thread.opening.map(|desc| numbers.desc(desc));
            let thread =
                Thread { table, directory, ipc, opening, record: 0, progress: 0, ..(**thread).clone() };
            end.threads.insert(*tid, thread);
        }
        for (pid, process) in &self.processes {
            let mut process = (**process).clone();
            if let Some(space) = self.spaces.get(&process.space) {
                process.space = SpaceId(number(end.spaces.len()));
                end.spaces.insert(process.space, numbers.space(space));
            }
            end.processes.insert(*pid, process);
        }
        // Only what somebody has mapped outside of the window is attached in the end.
        let attached: BTreeSet<SegmentId> = numbers.segments.keys().copied().collect();
        for (ns, renamed) in ipcs {
            let mut ipc = self.ipcs.get(&ns).map(|ipc| (**ipc).clone()).unwrap_or_default();
            let gone = ipc.vanishing(&attached);
            ipc.objects.retain(|(kind, id), _| *kind != IpcKind::Segment || !gone.contains(id));
            for object in ipc.objects.values_mut() {
                object.segment = object.segment.map(|segment| numbers.segment(segment));
            }
            end.ipcs.insert(renamed, ipc);
        }
        for (path, leads) in &self.names {
            end.names.insert(path.clone(), leads.as_ref().map(|id| numbers.object(id)));
        }
        loop {
            if let Some(desc) = numbers.todo.pop_front() {
                let mut description = self.description(desc).clone();
                description.object = numbers.object(&description.object);
                let desc = numbers.desc(desc);
                end.descriptions.insert(desc, description);
            } else if let Some(id) = numbers.todo_objects.pop_front() {
                let renamed = numbers.object(&id);
                numbers.todo_objects.retain(|other| *other != id || matches!(id, ObjectId::Made(_)));
                if end.objects.contains_key(&renamed) {
                    continue;
                }
                if let Some(object) = self.objects.get(&id) {
                    end.objects.insert(renamed, Object::Foreign);
                    let shown = numbers.shown(object, &live);
                    let renamed = numbers.object(&id);
                    numbers.todo_objects.retain(|other| *other != id);
                    end.objects.insert(renamed, shown);
                }
            } else {
                break;
            }
        }
        let segments = numbers.segments.clone();
        for (id, renamed) in segments {
            if let Some(runs) = self.segments.get(&id) {
                end.segments.insert(renamed, numbers.runs(runs));
            }
        }
        end
    }
}
