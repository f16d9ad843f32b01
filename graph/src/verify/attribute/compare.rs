//! The end of every attribute against the images.

use super::value::{Value, shown_action, shown_kind, shown_limit};
use super::{ATTRIBUTES, AttributeKind as Kind, Row, Scope, TABLE};
use crate::verify::expected::{Expected, ExpectedTask, InodeId};
use crate::verify::object::ObjectKind;
use crate::verify::outcome::Wrong;
use crate::verify::run::Run;

/// What the comparison has seen.
#[derive(Debug)]
pub(in crate::verify) struct Seen {
    /// Values compared.
    pub(in crate::verify) compared: u64,
    /// What is right only because the launcher has it so: of each attribute, bit 0; of limits, a bit for each.
    relied_on: [u16; ATTRIBUTES],
}

impl Default for Seen {
    fn default() -> Seen {
        Seen { compared: 0, relied_on: [0; ATTRIBUTES] }
    }
}

impl Seen {
    fn count(&mut self, is_inherited: bool, kind: Kind, index: usize) {
        self.compared += 1;
        if is_inherited {
            self.relied_on[kind as usize] |= 1 << index;
        }
    }

    /// Takes over what has been seen of other tasks.
    pub(in crate::verify) fn take(&mut self, other: &Seen) {
        self.compared += other.compared;
        for (mine, others) in self.relied_on.iter_mut().zip(&other.relied_on) {
            *mine |= others;
        }
    }

    /// The names of what was relied on.
    pub(in crate::verify) fn facts(&self) -> Vec<String> {
        let bits = |row: &'static Row| (0..u16::BITS).map(move |index| (row, index));
        let all = TABLE.iter().flat_map(bits);
        let name = |(row, index): (&Row, u32)| match row.kind {
            Kind::Limits => format!("resource limit {index}"),
            _ => row.name.to_owned(),
        };
        all.filter(|(row, index)| self.relied_on[row.kind as usize] >> index & 1 != 0).map(name).collect()
    }
}

/// Compares the attributes of a task, all its threads and what it leaves behind. `pair` says whether a
/// file that the tapes have made is the one of the images.
pub(in crate::verify) fn task(
    run: &Run<'_>,
    want: &ExpectedTask,
    seen: &mut Seen,
    mut pair: impl FnMut(usize, InodeId) -> bool,
) -> Result<(), Wrong> {
    let Some(leader) = run.by_pid.get(&want.pid).copied() else { return Err(Wrong::NeverBorn) };
    for (tid, wanted) in &want.attributes {
        let Some(own) = run.by_pid.get(tid).copied() else { return Err(Wrong::ThreadMissing { tid: *tid }) };
        let of = |name: &str| {
            if *tid == want.pid { name.to_owned() } else { format!("{name} of its thread {tid}") }
        };
        for (kind, value) in wanted {
            let place = match kind.row().scope {
                Scope::Task => leader,
                Scope::Thread => own,
            };
            let slot = run.tasks[place].attributes.slot(*kind);
            let differs = |name: &str, is: String, wanted: String| {
                Err(Wrong::AttributeEnds { attribute: of(name), is, wanted })
            };
            match (&slot.value, value) {
                (Value::Actions(is), Value::Actions(wanted)) => {
                    for (at, (is, wanted)) in is.iter().zip(wanted.iter()).enumerate() {
                        if is != wanted {
                            let shown = |action: &Option<_>| {
                                action.as_ref().map_or_else(|| Value::Unknown.shown(*kind), shown_action)
                            };
                            let name = format!("action of signal {}", at + 1);
                            return differs(&name, shown(is), shown(wanted));
                        }
                        seen.count(slot.is_inherited, *kind, 0);
                    }
                }
                (Value::Limits(is), Value::Limits(wanted)) => {
                    for (at, (is, wanted)) in is.iter().zip(wanted.iter()).enumerate() {
                        let Some(wanted) = wanted else { continue };
                        let pair = |limit: &super::Limit| (limit.soft, limit.hard);
                        if is.as_ref().map(pair) != Some(pair(wanted)) {
                            let is = is.as_ref().map_or_else(|| Value::Unknown.shown(*kind), shown_limit);
                            return differs(&format!("resource limit {at}"), is, shown_limit(wanted));
                        }
                        let is_inherited = is.is_some_and(|limit| limit.is_inherited);
                        seen.count(is_inherited, Kind::Limits, at);
                    }
                }
                (Value::Made(object), Value::Inode(inode)) => {
                    if !is_inode(run.expected, run, *object, *inode) || !pair(*object, *inode) {
                        return differs(kind.row().name, shown_made(run, *object), value.shown(*kind));
                    }
                    seen.count(false, *kind, 0);
                }
                _ => {
                    let dumpable;
                    let (is, is_inherited) = if *kind == Kind::Dumpable {
                        dumpable = run.dumpable_at_the_end(leader, &want.threads);
                        let is_slot = dumpable == slot.value && slot.is_inherited;
                        (&dumpable, is_slot && !run.says_dumpable(leader, &want.threads))
                    } else {
                        // Where it is the caller's, it does not matter which.
                        (&slot.value, slot.is_inherited && *kind != Kind::Cgroups)
                    };
                    if is != value || !is.is_known() {
                        let is = match is {
                            Value::Made(object) => shown_made(run, *object),
                            other => other.shown(*kind),
                        };
                        return differs(kind.row().name, is, value.shown(*kind));
                    }
                    seen.count(is_inherited, *kind, 0);
                }
            }
        }
    }
    if run.tasks[leader].has_sigchld && !want.attributes.is_empty() {
        let kind = Kind::PendingShared;
        let is = "signal 17 of a child that has died, too".to_owned();
        let said = want.attributes.get(&want.pid).into_iter().flatten().find(|(other, _)| *other == kind);
        let wanted = said.map_or_else(|| Value::Nothing.shown(kind), |(_, value)| value.shown(kind));
        return Err(Wrong::AttributeEnds { attribute: kind.row().name.to_owned(), is, wanted });
    }
    Ok(())
}

impl Run<'_> {
    fn says_dumpable(&self, leader: usize, threads: &[u32]) -> bool {
        let tapes =
            std::iter::once(leader).chain(threads.iter().filter_map(|tid| self.by_pid.get(tid).copied()));
        tapes.into_iter().any(|tape| self.tasks[tape].dumpable_in_tail.is_some())
    }
}

/// Whether a file that the tapes have made has the kind and the name of one of the images.
fn is_inode(expected: &Expected, run: &Run<'_>, object: usize, inode: InodeId) -> bool {
    match (&run.objects.objects[object].kind, expected.inodes.get(&inode)) {
        (ObjectKind::Inode(is), Some(wanted)) => is.kind == wanted.kind && is.name == wanted.name,
        _ => false,
    }
}

fn shown_made(run: &Run<'_>, object: usize) -> String {
    match &run.objects.objects[object].kind {
        ObjectKind::Inode(inode) => format!("{} {}", shown_kind(inode.kind), inode.name.escape_ascii()),
        ObjectKind::File { .. }
        | ObjectKind::Pipe(_)
        | ObjectKind::Socket(_)
        | ObjectKind::Eventfd { .. }
        | ObjectKind::Epoll { .. }
        | ObjectKind::Timerfd { .. }
        | ObjectKind::Signalfd { .. }
        | ObjectKind::Segment(_)
        | ObjectKind::Userfault { .. } => "something else".to_owned(),
    }
}
