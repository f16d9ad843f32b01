//! A plan in a few numbers, to compare it with another plan of the same tree.
//!
//! The numbers are counts of the plan's operations and of the tapes' records, and times by the cost model. One
//! column a policy: `regrow plan` shows one, and each further policy is a column more.

use std::collections::BTreeSet;

use regrow_graph::forest::Life;
use regrow_graph::graph::OpKind;
use regrow_graph::ids::TaskId;
use regrow_graph::order::Item;
use serde::Serialize;

use super::words;
use crate::cost::Priced;
use crate::pipeline::Prepared;
use crate::tape::lift::LiftError;

/// The numbers of one plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// By which policy it was made.
    pub policy: &'static str,
    /// Resources that are made.
    pub creates: u64,
    /// Descriptors at the end that came with the fork.
    pub inherited: u64,
    /// Resources that a helper makes for others.
    pub made_aside: u64,
    /// Descriptors that are passed over sockets.
    pub passed: u64,
    /// Messages that they are passed in.
    pub messages: u64,
    /// Waits of one task for another.
    pub waits: u64,
    /// What is waited for.
    pub posts: u64,
    /// Barriers of all tasks.
    pub barriers: u64,
    /// Copies of descriptors to other numbers.
    pub moves: u64,
    /// Calls that close descriptors.
    pub closes: u64,
    /// Records of all tapes.
    pub records: u64,
    /// All work, by the cost model.
    pub work_ns: u64,
    /// The longest chain up to the barrier.
    pub critical_path_ns: u64,
    /// Predicted time up to the barrier, on [`Summary::cores`] cores.
    pub play_ns: u64,
    /// Predicted time from there to the end.
    pub commit_ns: u64,
    /// How many cores the prediction is for.
    pub cores: u32,
}

impl Summary {
    /// The numbers of a plan, of which `inherited` descriptors come with the fork.
    ///
    /// # Errors
    /// The tapes are not understood; those with a certificate are.
    pub(super) fn of(prepared: &Prepared, inherited: u64) -> Result<Summary, LiftError> {
        let plan = &prepared.plan;
        let prediction = Priced::of(&prepared.tapes, &prepared.costs)?.predict(prepared.cores);
        let tasks = &prepared.resolved.forest.tasks;
        let is_helper = |owner: &TaskId| tasks[owner.index()].life == Life::Helper;
        let mut summary = Summary {
            policy: prepared.policy.name(),
            creates: 0,
            inherited,
            made_aside: plan.owners.iter().flatten().filter(|owner| is_helper(owner)).count() as u64,
            passed: 0,
            messages: 0,
            waits: 0,
            posts: 0,
            barriers: 0,
            moves: 0,
            closes: 0,
            records: prepared.tapes.tasks.iter().map(|tape| u64::from(tape.records)).sum(),
            work_ns: prediction.work_ns,
            critical_path_ns: prediction.critical_path_ns,
            play_ns: prediction.play_ns,
            commit_ns: prediction.commit_ns,
            cores: prediction.cores,
        };
        let (mut stages, mut arrives) = (BTreeSet::new(), false);
        for (_, op) in plan.graph.ops() {
            match &op.kind {
                OpKind::Create { .. } => summary.creates += 1,
                OpKind::Dup { .. } => summary.moves += 1,
                OpKind::Close { .. } => summary.closes += 1,
                OpKind::Send { .. } => summary.messages += 1,
                OpKind::Receive { ofds, .. } => summary.passed += ofds.len() as u64,
                OpKind::Arrive => arrives = true,
                OpKind::Stage { number, begins: false } => drop(stages.insert(*number)),
                OpKind::Stage { begins: true, .. } => {}
                OpKind::Fork { .. }
                | OpKind::Turn { .. }
                | OpKind::StartThread { .. }
                | OpKind::SetCloexec { .. }
                | OpKind::SetSid
                | OpKind::SetPgid { .. }
                | OpKind::BecomeSubreaper
                | OpKind::Step { .. }
                | OpKind::AwaitExit { .. }
                | OpKind::EatSigchld
                | OpKind::Exit
                | OpKind::Park => {}
            }
        }
        // What parts two stages is one; the last is the one that every plan has.
        summary.barriers = stages.len() as u64 + u64::from(arrives);
        for item in plan.programs.iter().flatten() {
            match item {
                Item::Wait(_) => summary.waits += 1,
                Item::Post(_) => summary.posts += 1,
                Item::Op(_) => {}
            }
        }
        Ok(summary)
    }
}

/// Name and version of the JSON of a comparison.
pub const FORMAT: &str = "regrow-comparison/1";

/// Plans of one tree by different policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// [`FORMAT`].
    pub format: &'static str,
    /// One a policy.
    pub plans: Vec<Summary>,
    /// Policies by which this tree cannot be planned.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unplanned: Vec<Unplanned>,
}

/// A policy by which a tree cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unplanned {
    /// Its name.
    pub policy: &'static str,
    /// What is in the way.
    pub reasons: Vec<String>,
}

impl Comparison {
    /// Puts plans beside one another.
    pub fn new(plans: Vec<Summary>, unplanned: Vec<Unplanned>) -> Comparison {
        Comparison { format: FORMAT, plans, unplanned }
    }

    /// As text: the plans with the numbers in rows, and below them what cannot be planned.
    pub fn text(&self) -> String {
        let mut text = if self.plans.is_empty() { String::new() } else { text(&self.plans) };
        for Unplanned { policy, reasons } in &self.unplanned {
            text += &format!("by {policy} there is no plan: {}\n", reasons.join("; "));
        }
        text
    }
}

/// Plans beside one another, the numbers in rows.
pub(super) fn text(summaries: &[Summary]) -> String {
    let row = |name: &str, value: &dyn Fn(&Summary) -> String| -> Vec<String> {
        std::iter::once(name.to_owned()).chain(summaries.iter().map(value)).collect()
    };
    let count = |name: &str, value: fn(&Summary) -> u64| row(name, &|summary| value(summary).to_string());
    let time = |name: &str, value: fn(&Summary) -> u64| row(name, &|summary| words::time_ns(value(summary)));
    let cores = summaries.first().map_or(1, |summary| summary.cores);
    let rows = [
        row("policy", &|summary| summary.policy.to_owned()),
        count("creates", |summary| summary.creates),
        count("inherited", |summary| summary.inherited),
        count("made aside", |summary| summary.made_aside),
        count("passed", |summary| summary.passed),
        count("messages", |summary| summary.messages),
        count("waits", |summary| summary.waits),
        count("posts", |summary| summary.posts),
        count("barriers", |summary| summary.barriers),
        count("moves", |summary| summary.moves),
        count("closes", |summary| summary.closes),
        count("records", |summary| summary.records),
        time("work", |summary| summary.work_ns),
        time("critical path", |summary| summary.critical_path_ns),
        time(&format!("up to the barrier on {}", words::count(cores, "core")), |summary| summary.play_ns),
        time("and from there", |summary| summary.commit_ns),
    ];
    words::table(&rows, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_planned_is_said() {
        let unplanned = |policy| Unplanned { policy, reasons: vec!["task 7: this".into(), "that".into()] };
        let comparison = Comparison::new(Vec::new(), vec![unplanned("lowest-pid")]);
        assert_eq!(comparison.text(), "by lowest-pid there is no plan: task 7: this; that\n");
        let json = |comparison: &Comparison| serde_json::to_string(comparison).expect("it is JSON");
        assert_eq!(
            json(&comparison),
            r#"{"format":"regrow-comparison/1","plans":[],"unplanned":[{"policy":"lowest-pid","reasons":["task 7: this","that"]}]}"#
        );
        let all = Comparison::new(Vec::new(), Vec::new());
        assert_eq!((all.text().as_str(), json(&all).contains("unplanned")), ("", false));
    }
}
