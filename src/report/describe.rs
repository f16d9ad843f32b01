//! Operations, reasons and resources in words.
//!
//! The same words serve the views of a plan, the comments of a tape and the messages of a failed run.

use regrow_graph::graph::{OpKind, Reason};
use regrow_graph::ids::{OpId, ResourceId, TaskId};

use super::words;
use crate::image::Origin;
use crate::pipeline::Prepared;
use crate::resolve::recipe::{InodeKind, PagesFrom, ResourceKind, StepKind, UnixAction};

/// The pid of a task, the tid of a thread.
pub fn pid(prepared: &Prepared, task: TaskId) -> u32 {
    prepared.resolved.recipes.tasks[task.index()].pid.0
}

/// What an operation does, in words.
pub fn what(prepared: &Prepared, op: OpId) -> String {
    let recipes = &prepared.resolved.recipes;
    match &prepared.plan.graph.op(op).kind {
        OpKind::Fork { child, into: None } => format!("fork task {}", pid(prepared, *child)),
        OpKind::Fork { child, into: Some(into) } => {
            format!("fork task {} into the cgroup at fd {into}", pid(prepared, *child))
        }
        OpKind::StartThread { thread } => format!("start thread {}", pid(prepared, *thread)),
        OpKind::Create { resource, at, .. } => {
            let numbers: Vec<String> = at.iter().map(ToString::to_string).collect();
            let at = if numbers.is_empty() { String::new() } else { format!("fd {}: ", numbers.join(", ")) };
            let verb = match recipes.resources[resource.index()].kind {
                ResourceKind::File { .. } => "open",
                _ => "make",
            };
            format!("{at}{verb} {}", resource_name(prepared, *resource))
        }
        OpKind::Dup { from, to, .. } => format!("fd {to}: copy of fd {from}"),
        OpKind::Close { first, last } if first == last => format!("fd {first}: close"),
        OpKind::Close { first, last } => format!("fd {first} to {last}: close"),
        OpKind::SetCloexec { fd, cloexec } => {
            format!("fd {fd}: close-on-exec {}", if *cloexec { "on" } else { "off" })
        }
        OpKind::Send { channel, through, fds, .. } => {
            let of = words::count(fds.len(), "descriptor");
            format!("fd {through}: send {of} through {}", resource_name(prepared, *channel))
        }
        OpKind::Receive { channel, through, at, stays, .. } => {
            let of = words::count(at.len(), "descriptor");
            let verb = if *stays { "look at" } else { "receive" };
            format!("fd {through}: {verb} {of} from {}", resource_name(prepared, *channel))
        }
        OpKind::Stage { number, begins: false } => format!("end stage {number}"),
        OpKind::Stage { number, begins: true } => format!("begin stage {number}"),
        OpKind::Turn { begins: false } => "hand on what is shared".to_owned(),
        OpKind::Turn { begins: true } => "take over what is shared".to_owned(),
        OpKind::SetSid => "lead a session".to_owned(),
        OpKind::SetPgid { pgid } => format!("process group {pgid}"),
        OpKind::BecomeSubreaper => "be a subreaper".to_owned(),
        OpKind::Step { step, .. } => step_name(&recipes.steps[step.index()].kind),
        OpKind::AwaitExit { child, reap } => {
            let and = if *reap { " and reap it" } else { "" };
            format!("await the death of task {}{and}", pid(prepared, *child))
        }
        OpKind::EatSigchld => "take back SIGCHLD".to_owned(),
        OpKind::Exit => "die".to_owned(),
        OpKind::Arrive => "arrive".to_owned(),
        OpKind::Park => "park".to_owned(),
    }
}

/// Why one operation comes after another, in words; empty where one thing just follows the other.
pub fn why(prepared: &Prepared, reason: Reason) -> String {
    match reason {
        Reason::Sequence => String::new(),
        Reason::BornBy { parent } => format!("born by {}", pid(prepared, parent)),
        Reason::InheritedBy { child } => format!("inherited by {}", pid(prepared, child)),
        Reason::NeededBy { step } => {
            format!("needed to {}", step_name(&prepared.resolved.recipes.steps[step.index()].kind))
        }
        Reason::MembersFirst { pgid } => format!("the members of process group {pgid} must have joined"),
        Reason::MustHaveExited { child } => format!("{} must have died", pid(prepared, child)),
        Reason::AdopterFirst { adopter } => {
            format!("{} must be ready to adopt its children", pid(prepared, adopter))
        }
        Reason::OrphansFirst { adopter } => {
            format!("orphans for {} must have passed", pid(prepared, adopter))
        }
        Reason::SentBy { giver } => format!("{} must have sent it", pid(prepared, giver)),
        Reason::TakenBy { taker } => {
            format!("{} must have taken the message before", pid(prepared, taker))
        }
        Reason::AfterTurn { of } => format!("{} must be done with what it shares", pid(prepared, of)),
        Reason::MustBeItsChild { child } => format!("{} must be its child", pid(prepared, child)),
        Reason::AfterForks
        | Reason::NotWanted
        | Reason::NumberWanted { .. }
        | Reason::BeforeSetsid { .. }
        | Reason::LeaderFirst { .. }
        | Reason::StageOver { .. }
        | Reason::Complete
        | Reason::AllArrived => reason.to_string(),
    }
}

/// A resource in words.
pub fn resource_name(prepared: &Prepared, resource: ResourceId) -> String {
    match &prepared.resolved.recipes.resources[resource.index()].kind {
        ResourceKind::File { path, .. } => path.clone(),
        ResourceKind::Pipe { data, .. } if data.is_empty() => format!("pipe {resource}"),
        ResourceKind::Pipe { data, .. } => format!("pipe {resource} with {} bytes", data.len()),
        ResourceKind::Eventfd { counter, .. } => format!("eventfd {resource} at {counter}"),
        ResourceKind::Epoll { .. } => format!("epoll file {resource}"),
        ResourceKind::Timerfd { clock_id, .. } => format!("timerfd {resource} of clock {clock_id}"),
        ResourceKind::Userfault => format!("userfaultfd {resource}"),
        ResourceKind::Signalfd { mask, .. } => format!("signalfd {resource} of signals {mask:#x}"),
        ResourceKind::Fifo { path, data, .. } if data.is_empty() => format!("FIFO {path}"),
        ResourceKind::Fifo { path, data, .. } => format!("FIFO {path} with {} bytes", data.len()),
        ResourceKind::SocketPair { ends, .. } => {
            let queued: usize = ends.iter().map(|end| end.queue.len()).sum();
            let with = if queued == 0 { String::new() } else { format!(" with {queued} messages") };
            format!("unix socket pair {resource}{with}")
        }
        ResourceKind::UnixSockets(group) => {
            let names: Vec<String> = group
                .actions
                .iter()
                .filter_map(|action| match action {
                    UnixAction::Bind { name, .. } => Some(name.address[2..].escape_ascii().to_string()),
                    _ => None,
                })
                .collect();
            let at = if names.is_empty() { String::new() } else { format!(" at {}", names.join(", ")) };
            format!("{} unix sockets {resource}{at}", group.sockets.len())
        }
        ResourceKind::InetSockets(sockets) => match sockets.as_slice() {
            [one] => format!(
                "internet socket {resource} (protocol {}, port {})",
                one.socket.protocol, one.socket.src.1
            ),
            _ => format!("{} internet sockets {resource}", sockets.len()),
        },
        ResourceKind::Nameless(recipe) => {
            let names: Vec<String> = recipe
                .inodes
                .iter()
                .map(|inode| match &inode.kind {
                    InodeKind::Memfd { name, .. } => format!("memfd \"{name}\""),
                    InodeKind::File { path, .. } => format!("{path} (deleted)"),
                    InodeKind::Directory { path } => format!("{path}/ (deleted)"),
                    InodeKind::Fifo { path, .. } => format!("FIFO {path} (deleted)"),
                    InodeKind::Linked { path, from } => format!("{path} (now {from})"),
                })
                .collect();
            names.join(", ")
        }
        ResourceKind::Channel => format!("channel {resource}"),
        ResourceKind::Carrier { len, .. } => format!("shared memory {resource} of {len} bytes"),
        ResourceKind::Ipc(recipe) => {
            let counts = [
                ("segment", recipe.segments.len()),
                ("queue", recipe.queues.len()),
                ("semaphore set", recipe.semaphores.len()),
            ];
            let there = counts.iter().filter(|(_, count)| *count > 0);
            let there: Vec<String> = there.map(|(what, count)| words::count(*count, what)).collect();
            if there.is_empty() { "IPC variables".to_owned() } else { format!("IPC: {}", there.join(", ")) }
        }
        ResourceKind::OpenedCarrier { len, .. } => format!("opened shared memory {resource} of {len} bytes"),
    }
}

/// A step in words.
pub(super) fn step_name(step: &StepKind) -> String {
    let range = |start: u64, len: u64| format!("{start:#x}-{:#x}", start.saturating_add(len));
    match step {
        StepKind::Bare => "drop all that the launcher left".to_owned(),
        StepKind::NewIpcNamespace => "a new IPC namespace".to_owned(),
        StepKind::Vacate => "drop the parent's address space".to_owned(),
        StepKind::Unmap { start, len } => format!("unmap {}", range(*start, *len)),
        StepKind::SigAction { signal, .. } => format!("handler of {}", words::signal(*signal)),
        StepKind::Umask(mask) => format!("umask {mask:03o}"),
        StepKind::Chdir(path) => format!("working directory {path}"),
        StepKind::EnterDirectory => "working directory that was removed".to_owned(),
        StepKind::Chroot(path) => format!("root directory {path}"),
        StepKind::Comm(name) => format!("name {name}"),
        StepKind::Personality(persona) => format!("personality {persona:#x}"),
        StepKind::Mmap { start, len, .. } => format!("map {}", range(*start, *len)),
        StepKind::Ring(ring) => {
            let events = words::count(ring.pending, "event");
            format!("AIO ring {} with {events}", range(ring.start, ring.len))
        }
        StepKind::MapShared { start, len, .. } => format!("map shared memory {}", range(*start, *len)),
        StepKind::AttachHuge(view) => {
            format!("attach System V segment {} at {}", view.id, range(view.start, view.len))
        }
        StepKind::Grow { start, len, new_len } => {
            format!("grow {} to {:#x}", range(*start, *len), start.saturating_add(*new_len))
        }
        StepKind::Mprotect { start, len, prot } => {
            format!("protect {} {}", range(*start, *len), words::protection(*prot))
        }
        StepKind::Madvise { start, len, advice } => {
            format!("{} {}", words::advice(*advice), range(*start, *len))
        }
        StepKind::Mlock { start, len } => format!("lock {}", range(*start, *len)),
        StepKind::MapVdso { start } => format!("map the vDSO at {start:#x}"),
        StepKind::Poke { pieces, .. } => {
            let bytes: usize = pieces.iter().map(|(_, bytes)| bytes.len()).sum();
            let first = pieces.first().map_or(0, |(at, _)| *at);
            format!("write {} from {first:#x} on", words::count(bytes, "byte"))
        }
        StepKind::Copy(copying) => {
            let pages: u64 = copying.pieces.iter().map(|(_, _, len)| len / 4096).sum();
            let (pages, pieces) = (words::count(pages, "page"), words::count(copying.pieces.len(), "piece"));
            let verb = match copying.from {
                PagesFrom::Image { .. } => "copy",
                PagesFrom::Stage => "move",
            };
            match copying.guests.len() {
                0 => format!("{verb} {pages} in {pieces}"),
                guests => format!("{verb} {pages} in {pieces}, with {}", words::count(guests, "guest")),
            }
        }
        StepKind::Fill { pieces, .. } => {
            let pages: u64 = pieces.iter().map(|(_, len)| len / 4096).sum();
            format!("fill {} in {}", words::count(pages, "page"), words::count(pieces.len(), "piece"))
        }
        StepKind::SetMm(_) => "memory layout and executable".to_owned(),
        StepKind::AltStack(_) => "alternate signal stack".to_owned(),
        StepKind::RobustList { .. } => "robust futex list".to_owned(),
        StepKind::TidAddress { .. } => "clear-tid address".to_owned(),
        StepKind::Rseq { .. } => "restartable sequences".to_owned(),
        StepKind::Dumpable(value) => format!("dumpable {value}"),
        StepKind::ThpDisable(true) => "no transparent huge pages".to_owned(),
        StepKind::ThpDisable(false) => "transparent huge pages".to_owned(),
        StepKind::ChildSubreaper(true) => "child subreaper".to_owned(),
        StepKind::ChildSubreaper(false) => "no child subreaper".to_owned(),
        StepKind::ParentDeathSignal(signal) => format!("parent-death signal {}", words::signal(*signal)),
        StepKind::TimerSlack(slack_ns) => format!("timer slack {slack_ns} ns"),
        StepKind::Lock { fd, .. } => format!("fd {fd}: lock the file"),
        StepKind::Nice(nice) => format!("nice {nice}"),
        StepKind::Scheduler { policy, priority } => {
            format!("scheduling policy {policy}, priority {priority}")
        }
        StepKind::Write(bytes) => format!("write \"{}\"", bytes.escape_ascii()),
        StepKind::QueueSignal { signal, .. } => format!("pending {}", words::signal(*signal)),
        StepKind::IntervalTimer { which, .. } => format!("interval timer {which}"),
        StepKind::ArmTimer(timer) => format!("arm POSIX timer {}", timer.id),
        StepKind::Watch { epoll: None, target, events, .. } => {
            format!("epoll: watch fd {target} for {events:#x}")
        }
        StepKind::Watch { epoll: Some(epoll), target, events, .. } => {
            format!("fd {epoll}: watch fd {target} for {events:#x}")
        }
        StepKind::ArmTimerfd { fd, value_ns: 0, .. } => format!("fd {fd}: timer without a deadline"),
        StepKind::ArmTimerfd { fd, .. } => format!("fd {fd}: arm the timer"),
        StepKind::Owner { fd, fown, .. } if fown.pid == 0 => {
            format!("fd {fd}: tells by {}", words::signal(fown.signum))
        }
        StepKind::Owner { fd, fown, .. } => format!("fd {fd}: owner {}", fown.pid),
        StepKind::FillPair(ends) => {
            let queued: usize = ends.iter().map(|end| end.queue.len()).sum();
            let flying: usize =
                ends.iter().flat_map(|end| &end.queue).map(|message| message.rights.len()).sum();
            format!("send {} with {}", words::count(queued, "message"), words::count(flying, "descriptor"))
        }
        StepKind::PosixTimers(timers) => format!("{} POSIX timers", timers.len()),
        StepKind::Membarrier(_) => "membarrier registrations".to_owned(),
        StepKind::Credentials(_) => "credentials".to_owned(),
        StepKind::SeccompStrict => "seccomp: strict mode".to_owned(),
        StepKind::SeccompFilters(filters) => {
            let threads =
                if filters.iter().any(|filter| filter.flags & 1 != 0) { " for all threads" } else { "" };
            format!("seccomp: {}{threads}", words::count(filters.len(), "filter"))
        }
        StepKind::RLimit { resource, .. } => format!("resource limit {}", words::limit(*resource)),
    }
}

/// The image entry that an operation comes from.
pub fn origin(prepared: &Prepared, op: OpId) -> Origin {
    let recipes = &prepared.resolved.recipes;
    let node = prepared.plan.graph.op(op);
    match &node.kind {
        OpKind::Fork { child, .. }
        | OpKind::StartThread { thread: child }
        | OpKind::AwaitExit { child, .. } => recipes.tasks[child.index()].origin,
        OpKind::Create { resource, .. } => recipes.resources[resource.index()].origin,
        OpKind::Send { channel, .. } | OpKind::Receive { channel, .. } => {
            recipes.resources[channel.index()].origin
        }
        OpKind::Step { step, .. } => recipes.steps[step.index()].origin,
        OpKind::Dup { ofd: Some(ofd), .. } => prepared
            .model
            .ofds
            .get(ofd.index())
            .map_or(recipes.tasks[node.task.index()].origin, |ofd| ofd.origin),
        OpKind::Exit => recipes.tasks[node.task.index()].core_origin,
        OpKind::Dup { ofd: None, .. }
        | OpKind::Close { .. }
        | OpKind::SetCloexec { .. }
        | OpKind::SetSid
        | OpKind::SetPgid { .. }
        | OpKind::BecomeSubreaper
        | OpKind::Stage { .. }
        | OpKind::Turn { .. }
        | OpKind::EatSigchld
        | OpKind::Arrive
        | OpKind::Park => recipes.tasks[node.task.index()].origin,
    }
}

/// What an operation is for, with the image entry.
pub fn purpose(prepared: &Prepared, op: OpId) -> String {
    format!("{} [{}]", what(prepared, op), origin(prepared, op))
}

/// An operation in words, for a trace.
pub fn words_of(prepared: &Prepared, op: u32) -> super::trace::Words {
    if op as usize >= prepared.plan.graph.len() {
        return super::trace::Words { what: "an unknown operation".to_owned(), ..Default::default() };
    }
    let op = OpId(op);
    super::trace::Words {
        what: what(prepared, op),
        purpose: why(prepared, prepared.plan.graph.op(op).why),
        image: origin(prepared, op).to_string(),
    }
}
