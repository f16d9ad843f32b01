//! The model's state in the words of [`crate::observe`].
//!
//! What the model says it does not know (the mode of a file that nobody has set, the address of a peer
//! that is gone) is left out: [`UNKNOWN`] names the facts that may be.

use std::collections::BTreeMap;

use regrow_model::ids::DescId;
use regrow_model::world::{Backing, FileKind, Object, Runs, Source, Thread};
use regrow_model::{End, World};

use crate::call::Kind;
use crate::observe::{State, shown};
use crate::player::{BASE, RO_LEN, RW_LEN};

/// Facts that the kernel always has and the model need not, by the end of what they are about.
pub(crate) const UNKNOWN: [&str; 5] = [" mode", " owner", " peer", " slack", " directory"];

const O_ACCMODE: u32 = 3;
const O_WRONLY: u32 = 1;
const O_PATH: u32 = libc::O_PATH as u32;
const PAGE: u64 = 4096;

/// Which threads live, and of which process each is.
pub(crate) fn living(world: &World) -> BTreeMap<u32, u32> {
    let end = world.end();
    let on_their_way = end.threads.iter().filter(|(_, thread)| thread.phase.is_on_its_way());
    on_their_way.map(|(tid, thread)| (*tid, thread.process)).collect()
}

/// The descriptors of a thread that show something of a kind.
pub(crate) fn held(world: &World, tid: u32, kind: Kind) -> Vec<u32> {
    let end = world.end();
    let table = end.threads.get(&tid).and_then(|thread| end.tables.get(&thread.table));
    let is_one = |object: &Object| match object {
        Object::Foreign | Object::Signalfd { .. } | Object::Userfault { .. } => kind == Kind::Any,
        Object::File(file) if file.kind == FileKind::Directory => matches!(kind, Kind::Any | Kind::Directory),
        Object::File(_) => matches!(kind, Kind::Any | Kind::File),
        Object::Pipe(_) => matches!(kind, Kind::Any | Kind::Pipe),
        Object::Socket(socket) => {
            matches!(kind, Kind::Any | Kind::Socket)
                || kind == Kind::Listener && socket.backlog.is_some()
                || kind == Kind::Bound && socket.name.is_some()
                || kind == Kind::Connected && socket.peer.is_some()
                || kind == Kind::Filled && !socket.queue.is_empty()
        }
        Object::Eventfd { .. } => matches!(kind, Kind::Any | Kind::Eventfd),
        Object::Epoll { .. } => matches!(kind, Kind::Any | Kind::Epoll),
        Object::Timerfd { .. } => matches!(kind, Kind::Any | Kind::Timer),
    };
    let entries = table.into_iter().flat_map(|table| &table.entries);
    entries
        .filter(|(_, entry)| is_one(&end.objects[&end.descriptions[&entry.desc].object]))
        .map(|(fd, _)| *fd)
        .collect()
}

/// All facts that the model has.
pub(crate) fn facts(world: &World) -> State {
    let end = world.end();
    let mut state = State::new();
    for (pid, process) in &end.processes {
        let (parent, group, session) = (process.parent, process.pgid, process.sid);
        state.insert(format!("p{pid} kin"), format!("parent {parent} group {group} session {session}"));
        match process.status {
            Some(status) => state.insert(format!("p{pid} died"), status.to_string()),
            None => {
                state.insert(format!("p{pid} pending"), format!("{:016x}", set(process.pending.signals())))
            }
        };
    }
    let mut descriptions: Vec<_> = Vec::new();
    let (mut tables, mut places) = (Vec::new(), Vec::new());
    for (tid, thread) in &end.threads {
        let number = number(&mut tables, thread.table);
        state.insert(format!("t{tid} table"), number.to_string());
        let number = self::number(&mut places, thread.directory);
        state.insert(format!("t{tid} place"), number.to_string());
        for (fd, entry) in &end.tables[&thread.table].entries {
            let number = self::number(&mut descriptions, entry.desc);
            let cloexec = if entry.cloexec { " cloexec" } else { "" };
            state.insert(format!("t{tid} fd {fd}"), format!("description {number}{cloexec}"));
        }
        attributes(&end, *tid, thread, &mut state);
    }
    let mut objects = Vec::new();
    for (number, desc) in descriptions.iter().enumerate() {
        let description = &end.descriptions[desc];
        let object = self::number(&mut objects, description.object.clone());
        let flags = description.flags & !(libc::O_CLOEXEC as u32 | 0o100_000);
        let position = description.position;
        state.insert(
            format!("description {number}"),
            format!("object {object} flags {flags:#o} position {position}"),
        );
    }
    for (number, id) in objects.iter().enumerate() {
        let all = descriptions.iter().map(|desc| &end.descriptions[desc]);
        let shown: Vec<_> = all.filter(|description| description.object == *id).collect();
        let opened = shown.iter().any(|description| description.flags & O_PATH == 0);
        let reads = shown.iter().any(|description| {
            description.flags & (O_PATH | O_ACCMODE) != O_WRONLY && description.flags & O_PATH == 0
        });
        let is_named = shown.iter().any(|description| description.path.is_some());
        let about = format!("object {number}");
        match &end.objects[id] {
            Object::Foreign => {
                state.insert(about, "foreign".to_owned());
            }
            Object::Userfault { .. } => {
                state.insert(about, "userfaultfd".to_owned());
            }
            Object::Eventfd { counter, semaphore } => {
                state.insert(
                    about,
                    format!("eventfd {counter}{}", if *semaphore { " semaphore" } else { "" }),
                );
            }
            Object::Epoll { interests } => {
                let mut all: Vec<String> = interests
                    .iter()
                    .map(|((fd, _), (events, data))| format!("{fd}:{events:x}:{data:x}"))
                    .collect();
                all.sort();
                state.insert(about, format!("epoll [{}]", all.join(" ")));
            }
            Object::Timerfd { clock, timer } => {
                let (ticks, flags) = (timer.ticks, timer.flags);
                let (seconds, rest) = (timer.interval_ns / 1_000_000_000, timer.interval_ns % 1_000_000_000);
                let value = if timer.value_ns == 0 { "off" } else { "on" };
                state.insert(
                    about,
                    format!("timerfd clock {clock} ticks {ticks} flags 0{flags:o} every {seconds}.{rest:09} {value}"),
                );
            }
            Object::Signalfd { mask } => {
                state.insert(about, format!("signalfd {mask:x}"));
            }
            Object::Pipe(pipe) => {
                let name = if is_named { "fifo" } else { "pipe" };
                if opened {
                    state.insert(about.clone(), format!("{name} capacity {}", pipe.capacity));
                } else {
                    state.insert(about.clone(), name.to_owned());
                }
                if reads {
                    state.insert(format!("{about} holds"), self::shown(&pipe.data()));
                }
            }
            Object::Socket(socket) => {
                let name = |address: Option<&[u8]>| {
                    self::shown(address.and_then(|address| address.get(2..)).unwrap_or_default())
                };
                let option = |option| socket.options.get(&option).copied().unwrap_or(0);
                state.insert(
                    about.clone(),
                    format!(
                        "socket type {} listens {} name {} sndbuf {} rcvbuf {}",
                        socket.sock_type,
                        u8::from(socket.backlog.is_some()),
                        name(socket.name.as_deref()),
                        option(regrow_graph::verify::SocketOption::SendBuffer),
                        option(regrow_graph::verify::SocketOption::ReceiveBuffer),
                    ),
                );
                let peer = socket.peer.as_ref().map(|peer| end.objects.get(peer));
                match peer {
                    None => drop(state.insert(format!("{about} peer"), "none".to_owned())),
                    Some(Some(Object::Socket(peer))) => {
                        state.insert(format!("{about} peer"), name(peer.name.as_deref()));
                    }
                    Some(Some(_) | None) => {}
                }
                if socket.backlog.is_none() {
                    let messages = socket.queue.iter().map(|message| {
                        let known = |desc: &DescId| descriptions.iter().position(|known| known == desc);
                        (message.data.clone(), message.rights.iter().map(known).collect())
                    });
                    let is_stream = socket.sock_type == libc::SOCK_STREAM as u32;
                    state.insert(
                        format!("{about} holds"),
                        crate::observe::messages(messages.collect(), is_stream),
                    );
                }
            }
            Object::File(file) => {
                let kind = match file.kind {
                    FileKind::Host => {
                        state.insert(about, format!("device {}", String::from_utf8_lossy(&file.name)));
                        continue;
                    }
                    FileKind::Directory => "directory".to_owned(),
                    FileKind::Regular => "file".to_owned(),
                    FileKind::Memfd => format!("file seals {}", file.seals),
                };
                state.insert(about.clone(), kind);
                if let Some(mode) = file.meta.mode {
                    state.insert(format!("{about} mode"), format!("{mode:o}"));
                }
                if let Some((uid, gid)) = file.meta.owner {
                    state.insert(format!("{about} owner"), format!("{uid}:{gid}"));
                }
                if let Some(size) = file.size {
                    let bytes = bytes(&file.content, size.min(1 << 20));
                    state.insert(format!("{about} holds"), format!("{size} long {}", self::shown(&bytes)));
                }
            }
        }
    }
    for pid in end.processes.keys() {
        memory(world, &end, *pid, &mut state);
    }
    state
}

/// The number of something, given out as one comes upon it.
fn number<T: PartialEq>(known: &mut Vec<T>, it: T) -> usize {
    known.iter().position(|other| *other == it).unwrap_or_else(|| {
        known.push(it);
        known.len() - 1
    })
}

fn set(signals: impl Iterator<Item = u32>) -> u64 {
    signals.fold(0, |set, signal| set | 1 << (signal - 1))
}

fn bytes(runs: &Runs, len: u64) -> Vec<u8> {
    let mut all = vec![0; len as usize];
    for (start, end, source) in runs.iter() {
        if let Source::Bytes(bytes) = source {
            for at in start..end.min(len) {
                all[at as usize] = bytes[(at - start) as usize];
            }
        }
    }
    all
}

fn attributes(end: &End, tid: u32, thread: &Thread, state: &mut State) {
    let process = &end.processes[&thread.process];
    let directory = &end.directories[&thread.directory];
    let credentials = &thread.credentials;
    let space = &end.spaces[&process.space];
    let attributes = &thread.attributes;
    let ids = |ids: [u32; 3], fs: u32| format!("{} {} {} {fs}", ids[0], ids[1], ids[2]);
    let mut groups = credentials.groups.as_deref().unwrap_or_default().to_vec();
    groups.sort_unstable();
    let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
    let actions = |of: fn(u64) -> bool| {
        set(process.actions.iter().filter(|(_, action)| of(action.handler)).map(|(signal, _)| *signal))
    };
    let hex = |set: u64| format!("{set:016x}");
    let flag = |is: bool| u8::from(is).to_string();
    let alt = attributes
        .alt_stack
        .map_or_else(|| "0 2 0".to_owned(), |(sp, flags, len)| format!("{sp:x} {flags:x} {len}"));
    let mut facts = vec![
        ("process", thread.process.to_string()),
        ("name", String::from_utf8_lossy(attributes.name.as_deref().unwrap_or_default()).into_owned()),
        ("umask", format!("{:04o}", directory.umask.unwrap_or(0))),
        ("uids", ids(credentials.uids, credentials.fsuid)),
        ("gids", ids(credentials.gids, credentials.fsgid)),
        ("groups", groups.join(" ")),
        ("own pending", hex(set(thread.pending.signals()))),
        ("blocked", hex(thread.mask)),
        ("ignored", hex(actions(|handler| handler == 1))),
        ("caught", hex(actions(|handler| handler > 1))),
        ("inheritable", hex(credentials.inheritable)),
        ("permitted", hex(credentials.permitted)),
        ("effective", hex(credentials.effective)),
        ("bounding", hex(credentials.bounding)),
        ("ambient", hex(credentials.ambient)),
        ("no new privileges", flag(credentials.no_new_privs)),
        ("nice", attributes.nice.unwrap_or(0).to_string()),
        ("death signal", attributes.parent_death_signal.to_string()),
        ("subreaper", flag(process.is_subreaper)),
        ("dumpable", space.dumpable.to_string()),
        ("securebits", credentials.securebits.to_string()),
        ("keeps capabilities", (credentials.securebits >> 4 & 1).to_string()),
        ("no huge pages", flag(space.thp_disabled)),
        ("alternate stack", alt),
    ];
    if let (Some(working), None) = (&directory.working, &directory.object) {
        facts.push(("directory", String::from_utf8_lossy(working).into_owned()));
    }
    if let Some(slack) = attributes.timer_slack {
        facts.push(("slack", slack.to_string()));
    }
    if let Some((soft, hard)) = process.limits.get(&7) {
        facts.push(("limit of descriptors", format!("{} {}", *soft as i64, *hard as i64)));
    }
    state.extend(facts.into_iter().map(|(name, fact)| (format!("t{tid} {name}"), fact)));
}

fn memory(world: &World, end: &End, pid: u32, state: &mut State) {
    let Some(process) = end.processes.get(&pid).filter(|process| process.status.is_none()) else { return };
    let Some(space) = end.spaces.get(&process.space) else { return };
    for (start, mapping) in space.joined() {
        if start >= BASE && mapping.end <= BASE + RW_LEN + RO_LEN {
            continue;
        }
        let may = |bit: u32, letter: char| if mapping.prot & bit != 0 { letter } else { '-' };
        let sharing = if mapping.flags & libc::MAP_SHARED as u32 != 0 { 's' } else { 'p' };
        let prot: String = [may(1, 'r'), may(2, 'w'), may(4, 'x'), sharing].into_iter().collect();
        let names = [(10, "dc"), (16, "dd"), (18, "wf"), (15, "nh")];
        let mut advice: Vec<&str> = names
            .iter()
            .filter(|(advice, _)| mapping.advice.contains(advice))
            .map(|(_, name)| *name)
            .collect();
        advice.sort_unstable();
        for page in (start..mapping.end).step_by(PAGE as usize) {
            let (file, behind) = match &mapping.backing {
                Backing::File { object, offset, .. } => {
                    let offset = offset + page - start;
                    let size = match end.objects.get(object) {
                        Some(Object::File(file)) => file.size,
                        Some(_) | None => None,
                    };
                    (format!(" file+{offset:x}"), size.is_some_and(|size| offset >= size))
                }
                Backing::Anonymous
                | Backing::Segment(..)
                | Backing::Region
                | Backing::Vvar
                | Backing::Vdso
                | Backing::Foreign
                | Backing::Ring => (String::new(), false),
            };
            let content =
                world.memory(pid, page, page + PAGE).map(|runs| bytes(&runs, PAGE)).unwrap_or_default();
            let content = if behind {
                "nothing".to_owned()
            } else if content.iter().all(|byte| *byte == 0) {
                "zero".to_owned()
            } else {
                shown(&content)
            };
            state.insert(
                format!("p{pid} page {page:x}"),
                format!("{prot}{file} [{}] {content}", advice.join(" ")),
            );
        }
    }
}
