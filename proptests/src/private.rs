//! Pipes that a parent has with each of its children alone: what makes helpers worth it that fork batches of these.

use regrow::synth::{Forest, Kind, Slot};

/// Gives every living child whose table is its own, as its parent's is, a pipe from its parent, at numbers behind
/// all that are in their tables.
pub fn add_private_pipes(forest: &mut Forest) {
    for child in 1..forest.tasks.len() {
        let Some(parent) = forest.tasks[child].parent else { continue };
        let shares = |task: usize| {
            let of = |it: &regrow::synth::Task| it.shares_table && it.parent == Some(task);
            forest.tasks[task].shares_table || forest.tasks.iter().any(of)
        };
        let lives = |task: usize| forest.tasks[task].dead.is_none();
        if !lives(child) || !lives(parent) || shares(child) || shares(parent) {
            continue;
        }
        let resource = forest.resources.len();
        forest.resources.push(Kind::Pipe { data: Vec::new() });
        for (task, end) in [(parent, 1), (child, 0)] {
            let table = &mut forest.tasks[task].table;
            let fd = table.iter().map(|slot| slot.fd + 1).max().unwrap_or(0);
            table.push(Slot { fd, resource, end, cloexec: false });
        }
    }
}
