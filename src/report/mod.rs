//! Views: plans and tapes in words.

use std::fmt::Write;

use regrow_graph::graph::OpKind;
use regrow_graph::ids::{OpId, ResourceId, TaskId};

use crate::image::Origin;
use crate::pipeline::Prepared;
use crate::resolve::recipe::{ResourceKind, StepKind};
use crate::tape::disasm;

/// The pid of a task.
pub fn pid(prepared: &Prepared, task: TaskId) -> u32 {
    prepared.resolved.recipes.tasks[task.index()].pid.0
}

/// What an operation does, in words.
pub fn what(prepared: &Prepared, op: OpId) -> String {
    let recipes = &prepared.resolved.recipes;
    match &prepared.plan.graph.op(op).kind {
        OpKind::Fork { child } => format!("fork task {}", pid(prepared, *child)),
        OpKind::Create { resource, at, .. } => {
            let numbers: Vec<String> = at.iter().map(ToString::to_string).collect();
            let at = if numbers.is_empty() { String::new() } else { format!("fd {}: ", numbers.join(", ")) };
            format!("{at}make {}", resource_name(prepared, *resource))
        }
        OpKind::Dup { from, to, .. } => format!("fd {to}: copy of fd {from}"),
        OpKind::Close { first, last } if first == last => format!("fd {first}: close"),
        OpKind::Close { first, last } => format!("fd {first} to {last}: close"),
        OpKind::SetCloexec { fd, cloexec } => format!("fd {fd}: close-on-exec {}", if *cloexec { "on" } else { "off" }),
        OpKind::SetSid => "lead a session".to_owned(),
        OpKind::SetPgid { pgid } => format!("process group {pgid}"),
        OpKind::Step { step, .. } => step_name(&recipes.steps[step.index()].kind),
        OpKind::AwaitExit { child } => format!("await the death of task {}", pid(prepared, *child)),
        OpKind::EatSigchld => "take back SIGCHLD".to_owned(),
        OpKind::Exit => "die".to_owned(),
        OpKind::Arrive => "arrive".to_owned(),
        OpKind::Park => "park".to_owned(),
    }
}

/// A resource in words.
pub fn resource_name(prepared: &Prepared, resource: ResourceId) -> String {
    match &prepared.resolved.recipes.resources[resource.index()].kind {
        ResourceKind::File { path, .. } => path.clone(),
        ResourceKind::Pipe { data, .. } if data.is_empty() => format!("pipe {resource}"),
        ResourceKind::Pipe { data, .. } => format!("pipe {resource} with {} bytes", data.len()),
        ResourceKind::Eventfd { counter, .. } => format!("eventfd {resource} at {counter}"),
        ResourceKind::SocketPair { ends, .. } => {
            let queued: usize = ends.iter().map(|end| end.queue.len()).sum();
            let with = if queued == 0 { String::new() } else { format!(" with {queued} messages") };
            format!("unix socket pair {resource}{with}")
        }
        ResourceKind::Carrier { len, .. } => format!("shared memory {resource} of {len} bytes"),
    }
}

fn step_name(step: &StepKind) -> String {
    match step {
        StepKind::Bare => "drop all that the launcher left".to_owned(),
        StepKind::SigAction { signal, .. } => format!("handler of signal {signal}"),
        StepKind::Umask(mask) => format!("umask {mask:03o}"),
        StepKind::Chdir(path) => format!("working directory {path}"),
        StepKind::Comm(name) => format!("name {name}"),
        StepKind::Personality(persona) => format!("personality {persona:#x}"),
        StepKind::Mmap { start, len, .. } => format!("map {start:#x}-{:#x}", start + len),
        StepKind::MapShared { start, len, .. } => format!("map shared memory {start:#x}-{:#x}", start + len),
        StepKind::Mprotect { start, len, .. } => format!("protect {start:#x}-{:#x}", start + len),
        StepKind::Madvise { start, len, advice } => format!("advice {advice} for {start:#x}-{:#x}", start + len),
        StepKind::MapVdso { start } => format!("map the vDSO at {start:#x}"),
        StepKind::Fill { pieces, .. } => {
            let pages: u64 = pieces.iter().map(|(_, len)| len / 4096).sum();
            format!("fill {pages} pages in {} pieces", pieces.len())
        }
        StepKind::SetMm(_) => "memory layout and executable".to_owned(),
        StepKind::AltStack(_) => "alternate signal stack".to_owned(),
        StepKind::RobustList { .. } => "robust futex list".to_owned(),
        StepKind::TidAddress { .. } => "clear-tid address".to_owned(),
        StepKind::Rseq { .. } => "restartable sequences".to_owned(),
        StepKind::Dumpable(value) => format!("dumpable {value}"),
        StepKind::ThpDisable => "no transparent huge pages".to_owned(),
        StepKind::ChildSubreaper => "child subreaper".to_owned(),
        StepKind::ParentDeathSignal(signal) => format!("parent-death signal {signal}"),
        StepKind::Nice(nice) => format!("nice {nice}"),
        StepKind::Scheduler { policy, priority } => format!("scheduling policy {policy}, priority {priority}"),
        StepKind::Write(bytes) => format!("write \"{}\"", bytes.escape_ascii()),
        StepKind::QueueSignal { signal, .. } => format!("pending signal {signal}"),
        StepKind::IntervalTimer { which, .. } => format!("interval timer {which}"),
        StepKind::Membarrier(_) => "membarrier registrations".to_owned(),
        StepKind::Credentials(_) => "credentials".to_owned(),
        StepKind::RLimit { resource, .. } => format!("resource limit {resource}"),
    }
}

/// The image entry that an operation comes from.
pub fn origin(prepared: &Prepared, op: OpId) -> Origin {
    let recipes = &prepared.resolved.recipes;
    let node = prepared.plan.graph.op(op);
    match &node.kind {
        OpKind::Fork { child } | OpKind::AwaitExit { child } => recipes.tasks[child.index()].origin,
        OpKind::Create { resource, .. } => recipes.resources[resource.index()].origin,
        OpKind::Step { step, .. } => recipes.steps[step.index()].origin,
        OpKind::Dup { ofd: Some(ofd), .. } => {
            prepared.model.ofds.get(ofd.index()).map_or(recipes.tasks[node.task.index()].origin, |ofd| ofd.origin)
        }
        OpKind::Exit => recipes.tasks[node.task.index()].core_origin,
        OpKind::Dup { ofd: None, .. }
        | OpKind::Close { .. }
        | OpKind::SetCloexec { .. }
        | OpKind::SetSid
        | OpKind::SetPgid { .. }
        | OpKind::EatSigchld
        | OpKind::Arrive
        | OpKind::Park => recipes.tasks[node.task.index()].origin,
    }
}

/// What an operation is for, with the image entry.
pub fn purpose(prepared: &Prepared, op: OpId) -> String {
    format!("{} [{}]", what(prepared, op), origin(prepared, op))
}

/// The tapes, one a task, or only that of `only`.
pub fn tapes(prepared: &Prepared, only: Option<u32>) -> String {
    let mut text = String::new();
    let tapes = &prepared.tapes;
    for task in tapes.tasks.iter().filter(|task| only.is_none_or(|pid| pid == task.pid)) {
        let _ = writeln!(text, "task {}: {} records", task.pid, task.records);
        let mut last = None;
        for (index, (_, record)) in tapes.records(task).enumerate() {
            let _ = write!(text, "{index:6}  {}", disasm::line(tapes, &record));
            if last != Some(record.op) && (record.op as usize) < prepared.plan.graph.len() {
                let _ = write!(text, "    # {}", purpose(prepared, OpId(record.op)));
                last = Some(record.op);
            }
            text.push('\n');
        }
    }
    text
}
