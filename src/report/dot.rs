//! The graph of a plan for graphviz: one cluster a task, one node an operation or a run of them.
//!
//! Each task's program runs down one straight column, in grey and without words: one thing after another. Drawn
//! with its reason is what leads from one task to another. A run never spans the end of such an edge, so what
//! the picture shows as waiting does wait. All arrive at the barrier on one line.
//!
//! ```text
//! regrow plan DIR --format dot | dot -Tsvg > plan.svg
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use regrow_graph::graph::{OpKind, Reason};
use regrow_graph::ids::{OpId, TaskId};

use super::plan::is_shown;
use super::{describe, run};
use crate::pipeline::Prepared;
use crate::resolve::Role;

/// Lines of a label: what is more is told by its first and last.
const LINES_SHOWN: usize = 12;
/// Characters of a line of a label.
const LINE_SHOWN: usize = 56;

/// A plan for graphviz; of its tasks only `only`, if given, and the other ends of its edges.
pub fn dot(prepared: &Prepared, only: Option<u32>) -> String {
    let graph = &prepared.plan.graph;
    let is_shown = |op: OpId| is_shown(prepared, graph.op(op).task, only);
    let crossing: Vec<(OpId, OpId, Reason)> = graph
        .edges()
        .filter(|(before, after, _)| graph.op(*before).task != graph.op(*after).task)
        .filter(|(before, after, _)| is_shown(*before) || is_shown(*after))
        .collect();
    let starts: BTreeSet<OpId> = crossing.iter().map(|(_, after, _)| *after).collect();
    let ends: BTreeSet<OpId> = crossing.iter().map(|(before, ..)| *before).collect();
    let mut ops: BTreeMap<TaskId, Vec<OpId>> = BTreeMap::new();
    for op in &prepared.plan.order {
        if is_shown(*op) || starts.contains(op) || ends.contains(op) {
            ops.entry(graph.op(*op).task).or_default().push(*op);
        }
    }
    let mut text = String::from(
        "digraph plan {\n  rankdir=TB; newrank=true; ranksep=0.22; nodesep=0.3; fontname=\"sans-serif\"; fontsize=11;\n  \
         node [shape=box, style=\"filled,rounded\", fillcolor=white, color=\"#808080\", fontname=\"sans-serif\", fontsize=9, margin=\"0.08,0.04\", height=0.2];\n  \
         edge [fontname=\"sans-serif\", fontsize=8, arrowsize=0.6, color=\"#b8b8b8\"];\n",
    );
    let mut arrivals: Vec<OpId> = Vec::new();
    let mut node_of: BTreeMap<OpId, OpId> = BTreeMap::new();
    for (task, ops) in &ops {
        let recipe = &prepared.resolved.recipes.tasks[task.index()];
        let what = match recipe.role {
            Role::Task | Role::Sibling => "task",
            Role::Thread => "thread",
            Role::Helper { .. } => "helper task",
        };
        let label = escape(&format!("{what} {} {}", recipe.pid, recipe.comm));
        let _ = writeln!(text, "  subgraph cluster_{} {{", task.0);
        let _ = writeln!(
            text,
            "    label=\"{label}\"; style=\"filled,rounded\"; fillcolor=\"#f4f4f4\"; color=\"#d0d0d0\";"
        );
        let joins =
            |a: OpId, b: OpId| !ends.contains(&a) && !starts.contains(&b) && is_told_together(prepared, a, b);
        let runs = run::cut(ops, joins);
        for run in &runs {
            let Some(first) = run.first() else { continue };
            node_of.extend(run.iter().map(|op| (*op, *first)));
            if graph.op(*first).kind == OpKind::Arrive {
                arrivals.push(*first);
            }
            let _ = writeln!(
                text,
                "    {first} [group={}, label=\"{}\"{}];",
                task.0,
                label_of(prepared, run),
                looks(&graph.op(*run.last().unwrap_or(first)).kind)
            );
        }
        for pair in runs.windows(2) {
            if let (Some(before), Some(after)) = (pair[0].first(), pair[1].first()) {
                let _ = writeln!(text, "    {before} -> {after} [weight=20, arrowhead=none];");
            }
        }
        text.push_str("  }\n");
    }
    if arrivals.len() > 1 {
        let line: Vec<String> = arrivals.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "  {{ rank=same; {} }}", line.join("; "));
    }
    for (before, after, why) in crossing {
        if let (Some(from), Some(to)) = (node_of.get(&before), node_of.get(&after)) {
            let because = escape(&describe::why(prepared, why));
            let _ = writeln!(text, "  {from} -> {to} [label=\"{because}\"{}];", colours(why));
        }
    }
    text.push_str("}\n");
    text
}

/// What a run is made of.
#[derive(PartialEq, Eq)]
enum Sort {
    /// Steps, and files that are opened for one.
    Steps,
    Create,
    Place,
    Close,
    Other,
}

fn sort(prepared: &Prepared, op: OpId) -> Sort {
    let node = prepared.plan.graph.op(op);
    match node.kind {
        OpKind::Step { .. } => Sort::Steps,
        OpKind::Create { .. } if matches!(node.why, Reason::NeededBy { .. }) => Sort::Steps,
        OpKind::Create { .. } => Sort::Create,
        OpKind::Dup { .. } | OpKind::SetCloexec { .. } => Sort::Place,
        OpKind::Close { .. } => Sort::Close,
        _ => Sort::Other,
    }
}

fn is_told_together(prepared: &Prepared, a: OpId, b: OpId) -> bool {
    let graph = &prepared.plan.graph;
    match (sort(prepared, a), sort(prepared, b)) {
        (Sort::Steps | Sort::Close, Sort::Steps | Sort::Close) => true,
        (Sort::Place | Sort::Close, Sort::Place | Sort::Close) => true,
        (Sort::Create, Sort::Create) => graph.op(a).why == graph.op(b).why,
        // The tail, with its end.
        (Sort::Steps, Sort::Other) => graph.op(b).kind == OpKind::Park,
        _ => false,
    }
}

fn label_of(prepared: &Prepared, run: &[OpId]) -> String {
    let mut lines: Vec<String> = run::cut(run, |a, b| run::is_alike(prepared, a, b))
        .into_iter()
        .map(|alike| run::what(prepared, alike))
        .collect();
    if lines.len() > LINES_SHOWN {
        let hidden = lines.len() - LINES_SHOWN + 1;
        lines.splice(LINES_SHOWN - 2..lines.len() - 1, [format!("… {hidden} more …")]);
    }
    let why = |op: &OpId| prepared.plan.graph.op(*op).why;
    if let Some(first) = run.first()
        && run.iter().all(|op| why(op) == why(first))
        && matches!(why(first), Reason::InheritedBy { .. } | Reason::BeforeSetsid { .. } | Reason::NotWanted)
    {
        lines.push(format!("({})", describe::why(prepared, why(first))));
    }
    match lines.as_slice() {
        [one] => escape(&shortened(one)),
        // To the left.
        lines => lines.iter().map(|line| escape(&shortened(line)) + "\\l").collect(),
    }
}

/// Without its middle, where it is too long: a path is known by its end.
fn shortened(line: &str) -> String {
    let letters: Vec<char> = line.chars().collect();
    if letters.len() <= LINE_SHOWN {
        return line.to_owned();
    }
    let half = LINE_SHOWN / 2;
    letters[..half].iter().chain(&['…']).chain(&letters[letters.len() - half..]).collect()
}

fn looks(kind: &OpKind) -> &'static str {
    match kind {
        OpKind::Fork { .. } | OpKind::StartThread { .. } => ", fillcolor=\"#dcebff\"",
        OpKind::Create { .. } => ", fillcolor=\"#e2f5de\"",
        OpKind::Send { .. } | OpKind::Receive { .. } => ", fillcolor=\"#e2f5de\"",
        OpKind::Stage { .. } | OpKind::Turn { .. } => ", fillcolor=\"#e8e0f5\"",
        OpKind::SetSid | OpKind::SetPgid { .. } | OpKind::BecomeSubreaper => ", fillcolor=\"#fff3cf\"",
        OpKind::Arrive => ", shape=octagon, style=filled, fillcolor=\"#e8e0f5\"",
        OpKind::Park => ", fillcolor=\"#e8e0f5\"",
        OpKind::Exit | OpKind::AwaitExit { .. } | OpKind::EatSigchld => ", fillcolor=\"#f5dede\"",
        OpKind::Dup { .. } | OpKind::Close { .. } | OpKind::SetCloexec { .. } | OpKind::Step { .. } => "",
    }
}

fn colours(why: Reason) -> &'static str {
    match why {
        Reason::BornBy { .. } => ", color=\"#2060c0\", fontcolor=\"#2060c0\"",
        Reason::MustHaveExited { .. }
        | Reason::MembersFirst { .. }
        | Reason::AdopterFirst { .. }
        | Reason::OrphansFirst { .. }
        | Reason::MustBeItsChild { .. } => ", color=\"#b03030\", fontcolor=\"#b03030\"",
        Reason::SentBy { .. } | Reason::TakenBy { .. } => ", color=\"#208040\", fontcolor=\"#208040\"",
        Reason::LeaderFirst { .. } | Reason::BeforeSetsid { .. } => {
            ", color=\"#a07000\", fontcolor=\"#a07000\""
        }
        Reason::Sequence
        | Reason::InheritedBy { .. }
        | Reason::AfterForks
        | Reason::NotWanted
        | Reason::NumberWanted { .. }
        | Reason::NeededBy { .. }
        | Reason::StageOver { .. }
        | Reason::AfterTurn { .. }
        | Reason::Complete
        | Reason::AllArrived => ", color=\"#404040\", fontcolor=\"#404040\"",
    }
}

/// For a quoted string of the DOT language.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '\\' => escaped.extend(['\\', letter]),
            '\n' => escaped.push_str("\\n"),
            letter if letter.is_control() => escaped.extend(
                letter.escape_default().flat_map(|l| if l == '\\' { vec!['\\', '\\'] } else { vec![l] }),
            ),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_are_escaped() {
        assert_eq!(escape("a\"b\\c\nd\u{1}"), "a\\\"b\\\\c\\nd\\\\u{1}");
    }
}
