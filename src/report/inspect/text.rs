//! An [`Inspection`] as text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::super::words;
use super::*;

/// How many holders of a description the text names.
const HOLDERS_SHOWN: usize = 3;
/// How deep the text indents a tree: below, only the numbers tell.
const DEPTH_SHOWN: usize = 24;

impl Detail {
    /// What sort of thing it is, in words.
    pub fn kind(&self) -> String {
        match self {
            Detail::Path { file_type, .. } => file_type.unwrap_or("path").to_owned(),
            Detail::Pipe { .. } => "pipe".to_owned(),
            Detail::Eventfd { .. } => "eventfd".to_owned(),
            Detail::Epoll { .. } => "epoll file".to_owned(),
            Detail::Timerfd { .. } => "timerfd".to_owned(),
            Detail::Signalfd { .. } => "signalfd".to_owned(),
            Detail::Fifo { .. } => "FIFO".to_owned(),
            Detail::UnixSocket { socket_type, .. } => format!("unix {socket_type} socket"),
            Detail::InetSocket { protocol: 6, .. } => "TCP socket".to_owned(),
            Detail::InetSocket { protocol: 17, .. } => "UDP socket".to_owned(),
            Detail::InetSocket { protocol, .. } => format!("internet socket of protocol {protocol}"),
            Detail::Memfd { .. } => "memfd".to_owned(),
            Detail::Unread { criu_kind } => format!("{criu_kind} (not read)"),
        }
    }

    /// Which one it is, in words.
    pub fn target(&self) -> String {
        match self {
            Detail::Path { path, remapped: None, .. } => path.clone(),
            Detail::Path { path, remapped: Some(how), .. } => format!("{path} ({how})"),
            Detail::Pipe { pipe_id, end: "both" } => format!("{pipe_id:#x}, both ends"),
            Detail::Pipe { pipe_id, end } => format!("{pipe_id:#x}, {end} end"),
            Detail::Eventfd { counter } => format!("counter {counter}"),
            Detail::Epoll { watched } => {
                let numbers: Vec<String> = watched.iter().map(ToString::to_string).collect();
                format!(
                    "watches {}",
                    if numbers.is_empty() { "nothing".to_owned() } else { numbers.join(", ") }
                )
            }
            Detail::Timerfd { clock, value_ns, interval_ns, ticks } => {
                format!("clock {clock}, {value_ns} ns left, every {interval_ns} ns, {ticks} ticks")
            }
            Detail::Signalfd { mask } => format!("signals {mask:#x}"),
            Detail::Fifo { path, .. } => path.clone(),
            Detail::InetSocket { inode, state, local, remote, .. } => {
                let mut text = format!("{inode:#x}, {state}");
                if let Some(local) = local {
                    let _ = write!(text, " at {local}");
                }
                if let Some(remote) = remote {
                    let _ = write!(text, " to {remote}");
                }
                text
            }
            Detail::UnixSocket { inode, peer, name, backlog, shutdown, .. } => {
                let mut text = format!("{inode:#x}");
                if let Some(name) = name {
                    let _ = write!(text, " at {name}");
                }
                if let Some(peer) = peer {
                    let _ = write!(text, ", peer {peer:#x}");
                }
                if let Some(backlog) = backlog {
                    let _ = write!(text, ", listening, backlog {backlog}");
                }
                if let Some(shutdown) = shutdown {
                    let _ = write!(text, ", {shutdown} shut down");
                }
                text
            }
            Detail::Memfd { name: Some(name), .. } => format!("memfd:{name}"),
            Detail::Memfd { inode_id, name: None } => format!("inode {inode_id:#x}"),
            Detail::Unread { .. } => String::new(),
        }
    }
}

/// An inspection as text; with every mapping if `with_maps`.
pub fn text(inspection: &Inspection, with_maps: bool) -> String {
    let descriptions: BTreeMap<u32, &Description> =
        inspection.descriptions.iter().map(|description| (description.id, description)).collect();
    let mut text = head(inspection);
    text.push('\n');
    text.push_str(&tree(&inspection.tasks));
    for task in &inspection.tasks {
        if let Some(living) = &task.living {
            let _ = writeln!(text, "\ntask {} {}", task.pid, task.comm);
            text.push_str(&living_text(task.pid, living, &descriptions, with_maps));
        }
    }
    text.push_str(&shared(inspection, &descriptions));
    text
}

fn head(inspection: &Inspection) -> String {
    let mut text =
        format!("images in {}, version {}", inspection.directory.display(), inspection.image_version);
    if let Some(id) = &inspection.criu_run_id {
        let _ = write!(text, ", CRIU run {id}");
    }
    text.push('\n');
    if !inspection.plugins.is_empty() {
        let _ = writeln!(text, "dumped with CRIU plugins {}", inspection.plugins.join(", "));
    }
    let totals = &inspection.totals;
    let zombies = (totals.zombies > 0).then(|| words::count(totals.zombies, "zombie"));
    let stopped = (totals.stopped > 0).then(|| format!("{} stopped", totals.stopped));
    let special: Vec<String> = zombies.into_iter().chain(stopped).collect();
    let special = if special.is_empty() { String::new() } else { format!(" ({})", special.join(", ")) };
    let _ = write!(text, "{}{special}", words::count(totals.tasks, "task"));
    let _ = writeln!(
        text,
        "; {}, {} of {}, {} of {}",
        words::count(totals.threads, "thread"),
        words::count(totals.descriptors, "descriptor"),
        words::count(totals.descriptions, "description"),
        words::count(totals.mappings, "mapping"),
        words::bytes(totals.mapped_bytes),
    );
    let _ = write!(
        text,
        "{} of private pages stored, {} of shared",
        words::bytes(totals.private_pages_bytes),
        words::bytes(totals.shared_pages_bytes)
    );
    if let Some(bytes) = totals.images_bytes {
        let _ = write!(text, "; {} of images", words::bytes(bytes));
    }
    text.push('\n');
    for parent in &inspection.parents {
        let bytes = words::bytes(parent.stored_pages.size_bytes);
        let _ = writeln!(text, "{bytes} of them of a dump before, in {}", parent.directory.display());
    }
    for image in &inspection.unread {
        let entries =
            image.entries.map_or(String::new(), |entries| format!(", {}", words::count(entries, "entry")));
        let _ = writeln!(text, "not read: {}{entries}: {}", image.file, image.what);
    }
    text
}

/// The tasks as a tree. Deep trees are indented only so far.
fn tree(tasks: &[TaskView]) -> String {
    let index_of: BTreeMap<u32, usize> =
        tasks.iter().enumerate().map(|(index, task)| (task.pid, index)).collect();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); tasks.len()];
    let mut stack: Vec<(usize, String, String, usize)> = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        match index_of.get(&task.ppid) {
            // Parents come first; whatever claims something else is drawn as a root.
            Some(parent) if *parent < index => children[*parent].push(index),
            Some(_) | None => stack.push((index, String::new(), String::new(), 0)),
        }
    }
    stack.reverse();
    let mut rows = Vec::new();
    while let Some((index, own, below, depth)) = stack.pop() {
        let task = &tasks[index];
        let parent = index_of.get(&task.ppid).filter(|parent| **parent < index).map(|parent| &tasks[*parent]);
        rows.push(vec![format!("{own}{} {}", task.pid, task.comm), state(task), notes(task, parent, depth)]);
        for (rank, child) in children[index].iter().enumerate().rev() {
            let is_last = rank + 1 == children[index].len();
            let (branch, stem) = match (depth < DEPTH_SHOWN, is_last) {
                (false, _) => ("", ""),
                (true, false) => ("├─ ", "│  "),
                (true, true) => ("└─ ", "   "),
            };
            stack.push((*child, format!("{below}{branch}"), format!("{below}{stem}"), depth + 1));
        }
    }
    words::table(&rows, 0)
}

fn state(task: &TaskView) -> String {
    match (task.state, &task.exit, &task.stop_signal) {
        (State::Alive, ..) => "alive".to_owned(),
        (State::Stopped, _, Some(signal)) => format!("stopped by {signal}"),
        (State::Stopped, _, None) => "stopped".to_owned(),
        (State::Zombie, Some(exit), _) => format!("zombie, {}", exit.words),
        (State::Zombie, None, _) => "zombie".to_owned(),
    }
}

fn notes(task: &TaskView, parent: Option<&TaskView>, depth: usize) -> String {
    let mut notes = Vec::new();
    let threads = task.living.as_ref().map_or(0, |living| living.threads.len());
    if threads > 1 {
        notes.push(words::count(threads, "thread"));
    }
    if parent.is_none_or(|parent| parent.sid != task.sid) {
        notes.push(format!("session {}", task.sid));
    }
    if parent.is_none_or(|parent| parent.pgid != task.pgid) {
        notes.push(format!("group {}", task.pgid));
    }
    if depth > DEPTH_SHOWN {
        notes.push(format!("child of {}", task.ppid));
    }
    notes.join(", ")
}

fn living_text(
    pid: u32,
    living: &Living,
    descriptions: &BTreeMap<u32, &Description>,
    with_maps: bool,
) -> String {
    let mut text = String::new();
    let name = |id: u32| {
        descriptions.get(&id).map_or_else(|| format!("{id:#x}"), |description| description.detail.target())
    };
    let _ = writeln!(
        text,
        "  executable {}, working directory {}, root {}",
        name(living.executable),
        name(living.working_directory),
        name(living.root_directory)
    );
    if living.threads.len() > 1 {
        let tids: Vec<u32> = living.threads.iter().map(|thread| thread.tid).collect();
        let _ = writeln!(text, "  {}: {}", words::count(tids.len(), "thread"), words::numbers(&tids, 16));
    }
    let _ = writeln!(text, "  {}", words::count(living.descriptors.len(), "descriptor"));
    let rows: Vec<Vec<String>> =
        living.descriptors.iter().map(|descriptor| descriptor_row(pid, descriptor, descriptions)).collect();
    text.push_str(&words::table(&rows, 4));
    let mappings = &living.mappings;
    let kinds: Vec<String> = mappings
        .kinds
        .iter()
        .map(|kind| format!("{} {} ({})", kind.count, kind.kind, words::bytes(kind.size_bytes)))
        .collect();
    let _ = writeln!(
        text,
        "  {}, {}: {}",
        words::count(mappings.count, "mapping"),
        words::bytes(mappings.size_bytes),
        kinds.join(", ")
    );
    if with_maps {
        let rows: Vec<Vec<String>> = mappings.list.iter().map(mapping_row).collect();
        text.push_str(&words::table(&rows, 4));
    }
    let stored = living.stored_pages;
    let _ = writeln!(
        text,
        "  {} stored, {}",
        words::count(stored.pages, "page"),
        words::bytes(stored.size_bytes)
    );
    text
}

fn descriptor_row(
    pid: u32,
    descriptor: &Descriptor,
    descriptions: &BTreeMap<u32, &Description>,
) -> Vec<String> {
    let mut row = vec![
        format!("{:>3}", descriptor.fd),
        if descriptor.cloexec { "cloexec".to_owned() } else { String::new() },
    ];
    let Some(description) = descriptions.get(&descriptor.description) else {
        row.push(format!("description {:#x}, not in files.img", descriptor.description));
        return row;
    };
    row.push(description.detail.kind());
    row.push(description.detail.target());
    row.push(description.flags.join("|"));
    row.push(match description.position {
        Some(position) if position != 0 => format!("at {position}"),
        Some(_) | None => String::new(),
    });
    // A description may have very many holders, so nothing is collected but what is shown.
    let others =
        || description.holders.iter().filter(|holder| (holder.pid, holder.fd) != (pid, descriptor.fd));
    let own = others().filter(|holder| holder.pid == pid).map(|holder| format!("fd {}", holder.fd));
    let foreign =
        others().filter(|holder| holder.pid != pid).map(|holder| format!("{} fd {}", holder.pid, holder.fd));
    let mut shown: Vec<String> = own.chain(foreign).take(HOLDERS_SHOWN).collect();
    let more = description.holders.len().saturating_sub(1 + HOLDERS_SHOWN);
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    row.push(if shown.is_empty() { String::new() } else { format!("same as {}", shown.join(", ")) });
    row
}

fn mapping_row(mapping: &Mapping) -> Vec<String> {
    vec![
        format!("{:x}-{:x}", mapping.start, mapping.end),
        mapping.protection.clone(),
        words::bytes(mapping.end.saturating_sub(mapping.start)),
        mapping.kind.to_owned(),
        mapping.offset_bytes.map_or(String::new(), |offset| format!("{offset:#x}")),
        mapping.what.clone(),
    ]
}

/// What belongs to no single task.
fn shared(inspection: &Inspection, descriptions: &BTreeMap<u32, &Description>) -> String {
    let mut text = String::new();
    if !inspection.shared_memory.is_empty() {
        text.push_str("\nshared memory\n");
        let row = |segment: &Segment| {
            vec![
                format!("{:#x}", segment.id),
                segment.memfd.as_ref().map_or("anonymous".to_owned(), |name| format!("memfd:{name}")),
                words::bytes(segment.size_bytes),
                format!("{} stored", words::count(segment.stored_pages.pages, "page")),
                if segment.users.is_empty() {
                    "no users".to_owned()
                } else {
                    format!("used by {}", words::numbers(&segment.users, 8))
                },
            ]
        };
        text.push_str(&words::table(&inspection.shared_memory.iter().map(row).collect::<Vec<_>>(), 2));
    }
    let in_flight: BTreeSet<u32> =
        inspection.socket_queues.iter().flat_map(|queue| queue.in_flight.iter().copied()).collect();
    let holders = |id: u32| match descriptions.get(&id).map(|description| description.holders.as_slice()) {
        Some([first, rest @ ..]) => {
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            format!("{} fd {}{more}", first.pid, first.fd)
        }
        Some([]) | None if in_flight.contains(&id) => "in flight".to_owned(),
        Some([]) | None => "nobody".to_owned(),
    };
    if !inspection.pipes.is_empty() {
        text.push_str("\npipes\n");
        let row = |pipe: &PipeView| {
            let end = |wanted: &str| {
                let ids = pipe.descriptions.iter().copied().filter(
                    |id| matches!(descriptions.get(id).map(|d| &d.detail), Some(Detail::Pipe { end, .. }) if *end == wanted || *end == "both"),
                );
                ids.map(holders).collect::<Vec<_>>().join(", ")
            };
            let ends = [("written by", end("write")), ("read by", end("read"))];
            let named = |(verb, who): (&str, String)| {
                if who.is_empty() { format!("{verb} nobody") } else { format!("{verb} {who}") }
            };
            let [write, read] = ends.map(named);
            let capacity = pipe
                .capacity_bytes
                .map_or(String::new(), |capacity| format!("of {}", words::bytes(capacity.into())));
            vec![
                format!("{:#x}", pipe.pipe_id),
                format!("{} queued", words::bytes(pipe.queued_bytes)),
                capacity,
                write,
                read,
            ]
        };
        text.push_str(&words::table(&inspection.pipes.iter().map(row).collect::<Vec<_>>(), 2));
    }
    if !inspection.socket_queues.is_empty() {
        text.push_str("\nsocket queues\n");
        let row = |queue: &SocketQueue| {
            let name = descriptions.get(&queue.description).map_or_else(
                || format!("description {:#x}", queue.description),
                |d| format!("{} {}", d.detail.kind(), d.detail.target()),
            );
            let flight = match queue.in_flight.len() {
                0 => String::new(),
                number => format!("{} in flight", words::count(number, "descriptor")),
            };
            vec![
                name,
                format!("{}, {}", words::count(queue.packets, "message"), words::bytes(queue.queued_bytes)),
                flight,
                format!("for {}", holders(queue.description)),
            ]
        };
        text.push_str(&words::table(&inspection.socket_queues.iter().map(row).collect::<Vec<_>>(), 2));
    }
    text
}
