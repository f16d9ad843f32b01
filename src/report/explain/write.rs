//! An explanation as text.

use super::super::words;
use super::{About, Act, Explanation, Making, Meeting, OfdStory, ShmStory, Stay, TaskStory};

/// How many lines of one sort are written, but for the task that was asked for.
const SHOWN: usize = 24;

/// An explanation as text.
pub fn text(explanation: &Explanation) -> String {
    match &explanation.about {
        About::Task(story) => task(story),
        About::Description(story) => description(story),
        About::SharedMemory(story) => shared_memory(story),
    }
}

fn task(story: &TaskStory) -> String {
    let mut text = format!("{} {} {} [{}]\n", story.role, story.pid, story.comm, story.origin);
    let mut rows = Rows::default();
    rows.lines("born", &story.birth);
    if story.born_by != story.parent
        && let Some(parent) = story.parent
    {
        rows.line("", format!("its parent in the end is {parent}"));
    }
    rows.lines("family", &story.family);
    rows.lines("memory", &story.memory.map(str::to_owned).into_iter().collect::<Vec<_>>());
    let inherited: Vec<String> =
        story.inherits.iter().map(|one| format!("fd {}: {}: {}", one.fd, one.what, one.then)).collect();
    rows.lines("inherits", &inherited);
    rows.lines("makes", &acts(&story.creates));
    rows.lines("moves", &acts(&story.moves));
    rows.lines("closes", &acts(&story.drops));
    if !story.forks.is_empty() {
        rows.line("forks", words::numbers(&story.forks, SHOWN));
    }
    rows.meetings(&story.waits_for, &story.awaited_by);
    let path = match story.on_critical_path_ns {
        0 => "none of it on the critical path".to_owned(),
        ns => format!("{} of the critical path are its", words::time_ns(ns)),
    };
    rows.line(
        "costs",
        format!(
            "{} in {}, its birth included; {path}",
            words::time_ns(story.work_ns),
            words::count(story.records, "record")
        ),
    );
    text.push_str(&rows.text());
    text
}

fn description(story: &OfdStory) -> String {
    let seen = story.seen_from.map_or_else(String::new, |(pid, fd)| format!("task {pid}, descriptor {fd}: "));
    let mut text = format!("{seen}open file {:#x} [{}]\n", story.id, story.origin);
    let mut rows = Rows::default();
    let Some(making) = &story.making else {
        rows.line("made", "by nobody: no task has it, nor needs it on the way".to_owned());
        text.push_str(&rows.text());
        return text;
    };
    rows.making(making);
    let holders: Vec<String> = story
        .holders
        .iter()
        .map(|holder| format!("{} at {}", holder.pid, words::numbers(&holder.fds, 8)))
        .collect();
    rows.lines("held by", &holders);
    let way: Vec<String> = story.way.iter().take(SHOWN).flat_map(stay).collect();
    for (at, line) in way.into_iter().enumerate() {
        rows.line(if at == 0 { "way" } else { "" }, line);
    }
    if story.way.len() > SHOWN {
        rows.line("", format!("and through {} more", words::count(story.way.len() - SHOWN, "task")));
    }
    rows.meetings(&story.waits_for, &story.awaited_by);
    let costs = &story.costs;
    rows.line(
        "costs",
        format!(
            "made {}, moved {}, closed {}, copied by {} {}{}",
            words::time_ns(costs.making_ns),
            words::time_ns(costs.moving_ns),
            words::time_ns(costs.closing_ns),
            words::count(costs.copies, "fork"),
            words::time_ns(costs.copying_ns),
            match costs.only_passed_through {
                0 => String::new(),
                copies => format!(", {copies} of them to tasks that close it again"),
            }
        ),
    );
    text.push_str(&rows.text());
    text
}

/// One task on the way: a line for how it gets it and what becomes of it, and one for each thing that it does.
fn stay(stay: &Stay) -> Vec<String> {
    let mut parts = Vec::new();
    if !stay.born_with.is_empty() {
        parts.push(format!("is born with it at {}", words::numbers(&stay.born_with, 8)));
    }
    // Children that get it under the same numbers, together.
    let mut groups: Vec<(&[u32], Vec<u32>)> = Vec::new();
    for child in &stay.hands_to {
        match groups.iter_mut().find(|(fds, _)| *fds == child.fds) {
            Some((_, pids)) => pids.push(child.pid),
            None => groups.push((&child.fds, vec![child.pid])),
        }
    }
    for (fds, pids) in groups.into_iter().take(8) {
        parts.push(format!("forks {} with it at {}", words::numbers(&pids, 8), words::numbers(fds, 8)));
    }
    parts.push(match stay.ends_with.as_slice() {
        [] => "does not keep it".to_owned(),
        fds => format!("has it at {} in the end", words::numbers(fds, 8)),
    });
    let mut lines = vec![format!("{} {}", stay.pid, parts.join(", "))];
    lines.extend(stay.acts.iter().take(SHOWN).map(|done| format!("    {}", act(done))));
    lines
}

fn shared_memory(story: &ShmStory) -> String {
    let mut text = format!(
        "shared memory {:#x}, {} [{}]\n",
        story.id,
        words::bytes(story.len_bytes),
        story.making.origin
    );
    let mut rows = Rows::default();
    rows.making(&story.making);
    let end = story.carried_at.saturating_add(story.len_bytes);
    rows.line(
        "carried",
        format!(
            "at {:#x}-{end:#x}, in every task that is forked behind that; it goes at the commit",
            story.carried_at
        ),
    );
    rows.lines("filled", &acts(&story.fills));
    let views: Vec<String> = story
        .views
        .iter()
        .map(|view| {
            let end = view.start.saturating_add(view.len_bytes);
            let from = match view.offset_bytes {
                0 => String::new(),
                offset => format!(", from {offset:#x} on"),
            };
            let cost = words::time_ns(view.act.cost_ns);
            format!("{} at {:#x}-{end:#x}{from} ({}, {cost})", view.pid, view.start, view.act.op)
        })
        .collect();
    rows.lines("mapped by", &views);
    if !story.passed_through.is_empty() {
        rows.line("passes", words::numbers(&story.passed_through, SHOWN));
    }
    rows.meetings(&story.waits_for, &story.awaited_by);
    rows.line("costs", format!("{} to make, fill and map", words::time_ns(story.cost_ns)));
    text.push_str(&rows.text());
    text
}

fn acts(list: &[Act]) -> Vec<String> {
    list.iter().map(act).collect()
}

fn act(act: &Act) -> String {
    let why = if act.because.is_empty() { String::new() } else { format!(", {}", act.because) };
    format!("{}{why} ({}, {})", act.what, act.op, words::time_ns(act.cost_ns))
}

/// Lines under headings.
#[derive(Default)]
struct Rows(Vec<Vec<String>>);

impl Rows {
    fn line(&mut self, heading: &str, line: String) {
        self.0.push(vec![heading.to_owned(), line]);
    }

    fn lines(&mut self, heading: &str, lines: &[String]) {
        for (at, line) in lines.iter().take(SHOWN).enumerate() {
            self.line(if at == 0 { heading } else { "" }, line.clone());
        }
        if lines.len() > SHOWN {
            self.line("", format!("and {} more", lines.len() - SHOWN));
        }
    }

    fn making(&mut self, making: &Making) {
        self.line("what", format!("{}: {} ({})", making.kind, making.name, making.resource));
        let made = making.made.as_ref().map_or_else(String::new, |made| format!(": {}", act(made)));
        self.line("made", format!("by {}{made}", making.owner));
        self.lines("why there", &making.because);
    }

    fn meetings(&mut self, waits_for: &[Meeting], awaited_by: &[Meeting]) {
        let meeting = |meeting: &Meeting| {
            let why =
                if meeting.because.is_empty() { String::new() } else { format!(": {}", meeting.because) };
            format!(
                "{} waits before \"{}\" until {} has done \"{}\"{why}",
                meeting.waits, meeting.before, meeting.whom, meeting.done
            )
        };
        if waits_for.is_empty() {
            self.line("waits for", "nobody".to_owned());
        }
        self.lines("waits for", &waits_for.iter().map(meeting).collect::<Vec<_>>());
        if awaited_by.is_empty() {
            self.line("awaited by", "nobody".to_owned());
        }
        self.lines("awaited by", &awaited_by.iter().map(meeting).collect::<Vec<_>>());
    }

    fn text(&self) -> String {
        words::table(&self.0, 2)
    }
}
