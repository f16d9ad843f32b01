//! A plan as one page to look at and to search: `src/report/html` with the data in it.
//!
//! The page loads nothing and sends nothing (its policy forbids it to). The data are JSON in an element that is
//! no script, so nothing of them is ever parsed as markup or run: names of tasks, files and sockets are whatever
//! the images say. Strings are stored once and referred to by their place; programs are flat lists of numbers,
//! since a tree of a thousand tasks has a hundred thousand operations.
//!
//! ```text
//! regrow plan DIR --format html --out plan.html
//! ```

use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::plan::{self, PlanItem, PlanView};
use super::sort::Sort;
use super::trace::{self, Trace};
use crate::pipeline::Prepared;

const PAGE: &str = include_str!("html/page.html");
const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");

/// The page of a plan, with a run of it if there is a trace.
///
/// # Errors
/// None that the types of this crate can cause.
pub fn html(prepared: &Prepared, trace: Option<&Trace>) -> Result<String, serde_json::Error> {
    let view = plan::view(prepared, None)?;
    let mut strings = Strings::default();
    let mut data = plan_data(&view, &prepared.certificate.to_string(), &mut strings);
    if let Some(trace) = trace {
        let is_of_this = trace.about.plan == trace::plan_id(&prepared.tapes);
        data["trace"] = trace_data(trace, is_of_this, &mut strings);
    }
    data["strings"] = json!(strings.all);
    page(&data)
}

/// The page with these data.
fn page(data: &impl Serialize) -> Result<String, serde_json::Error> {
    let data = escape(&serde_json::to_string(data)?);
    // The data come last: what is in them is not looked at for places to fill.
    let page = PAGE.replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", SCRIPT);
    Ok(match page.split_once("/*DATA*/") {
        Some((before, after)) => [before, &data, after].concat(),
        None => page,
    })
}

/// JSON for an element of a page: no tag, comment or entity begins in it, and it means the same. In JSON these
/// characters are in strings only.
fn escape(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for letter in json.chars() {
        match letter {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// Strings, each once.
#[derive(Debug, Default)]
struct Strings {
    all: Vec<String>,
    known: HashMap<String, usize>,
}

impl Strings {
    fn place(&mut self, text: &str) -> usize {
        if let Some(place) = self.known.get(text) {
            return *place;
        }
        self.all.push(text.to_owned());
        self.known.insert(text.to_owned(), self.all.len() - 1);
        self.all.len() - 1
    }
}

/// Place of a sort in the legend.
fn sort_place(sort: Sort) -> usize {
    Sort::ALL.iter().position(|(known, _)| *known == sort).unwrap_or(0)
}

/// The plan as `page.js` reads it.
fn plan_data(view: &PlanView, certificate: &str, strings: &mut Strings) -> Value {
    let task_of: HashMap<u32, usize> =
        view.tasks.iter().enumerate().map(|(index, task)| (task.pid, index)).collect();
    let task = |pid: u32| task_of.get(&pid).map_or(-1, |index| *index as i64);
    let tasks: Vec<Value> = view
        .tasks
        .iter()
        .map(|it| {
            json!([
                it.pid,
                strings.place(&it.comm),
                it.adopted_by.or(it.parent).map_or(-1, task),
                it.role,
                it.exit_status,
                it.records,
                it.parent.filter(|_| it.adopted_by.is_some()).map_or(-1, task),
            ])
        })
        .collect();
    // [id, sort, what, why, image entry] for each operation.
    let operations: Vec<usize> = view
        .operations
        .iter()
        .flat_map(|op| {
            [
                op.id.index(),
                sort_place(op.sort),
                strings.place(&op.what),
                strings.place(&op.because),
                strings.place(&op.origin.to_string()),
            ]
        })
        .collect();
    // An operation is 4n, a wait for event n 4n + 1, a post of it 4n + 2.
    let programs: Vec<Vec<usize>> = view
        .tasks
        .iter()
        .map(|task| {
            let item = |item: &PlanItem| match item {
                PlanItem::Do(op) => 4 * op.index(),
                PlanItem::Wait(event) => 4 * event.index() + 1,
                PlanItem::Post(event) => 4 * event.index() + 2,
            };
            task.program.iter().map(item).collect()
        })
        .collect();
    let resources: Vec<Value> = view
        .resources
        .iter()
        .map(|it| {
            let users: Vec<Value> =
                it.users.iter().map(|user| json!([task(user.pid), user.how, user.fds])).collect();
            let words = [it.kind, &it.name, &it.origin.to_string()].map(|text| strings.place(text));
            json!([words[0], words[1], words[2], it.owner.map_or(-1, task), users])
        })
        .collect();
    let events: Vec<usize> = view.events.iter().map(|event| event.after.index()).collect();
    let event_of: HashMap<_, usize> = view
        .events
        .iter()
        .flat_map(|event| event.waiters.iter().map(|to| ((event.after, to.before), event.event.index())))
        .collect();
    // What one task does for another, but for births, which are everywhere.
    let edges: Vec<Value> = view
        .edges
        .iter()
        .filter(|edge| !matches!(edge.why, regrow_graph::graph::Reason::BornBy { .. }))
        .map(|edge| {
            let event = event_of.get(&(edge.before, edge.after)).map_or(-1, |event| *event as i64);
            json!([edge.before, edge.after, strings.place(&edge.because), event])
        })
        .collect();
    json!({
        "directory": view.directory,
        "version": env!("CARGO_PKG_VERSION"),
        "sorts": Sort::ALL.map(|(_, words)| words),
        "totals": view.totals,
        "timings": view.timings,
        "certificate": certificate,
        "tasks": tasks,
        "operations": operations,
        "programs": programs,
        "resources": resources,
        "events": events,
        "edges": edges,
    })
}

/// A trace as `page.js` reads it: nine numbers a slice.
fn trace_data(trace: &Trace, is_of_this: bool, strings: &mut Strings) -> Value {
    let lanes: Vec<Value> = trace
        .lanes
        .iter()
        .map(|lane| {
            let slices: Vec<i64> = lane
                .slices
                .iter()
                .flat_map(|slice| {
                    [
                        slice.start_ns as i64,
                        slice.len_ns as i64,
                        sort_place(slice.sort) as i64,
                        strings.place(&slice.name) as i64,
                        strings.place(&slice.args.purpose) as i64,
                        strings.place(&slice.args.image) as i64,
                        slice.args.op.filter(|_| is_of_this).map_or(-1, i64::from),
                        i64::from(slice.args.record),
                        i64::from(slice.args.is_unfinished),
                    ]
                })
                .collect();
            json!([lane.pid, strings.place(&lane.comm), slices])
        })
        .collect();
    let phases: Vec<Value> = trace
        .phases
        .iter()
        .map(|phase| {
            let len_ns = phase.end_ns.saturating_sub(phase.start_ns);
            json!([strings.place(&phase.name), phase.start_ns, len_ns])
        })
        .collect();
    json!({
        "outcome": trace.about.outcome,
        "directory": trace.about.directory,
        "version": trace.about.version,
        "isOfThisPlan": is_of_this,
        "phases": phases,
        "lanes": lanes,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The data of a page, found as a browser finds them.
    fn data_of(page: &str) -> &str {
        let (_, rest) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
        rest.split_once("</script>").unwrap().0
    }

    #[test]
    fn hostile_names_stay_names() {
        let names = [
            "</script><script>alert(1)</script>",
            "<!--<script>",
            "]]>&lt;&amp;",
            "\u{2028}\u{2029}\"\\'`${x}",
            "/*STYLE*//*SCRIPT*//*DATA*/",
            "\0\u{1b}[31m\u{202e}",
        ];
        let page = page(&names).unwrap();
        let data = data_of(&page);
        assert_eq!(serde_json::from_str::<Vec<String>>(data).unwrap(), names);
        assert!(!data.contains(['<', '>', '&', '\u{2028}', '\u{2029}', '\0']));
        assert_eq!(page.matches("</script>").count(), 2);
        assert!(!page.contains("alert(1)</script>"));
    }

    /// One page, whole, that needs nothing else.
    #[test]
    fn the_page_loads_nothing() {
        let page = page(&0).unwrap();
        for part in
            ["/*STYLE*/", "/*SCRIPT*/", "/*DATA*/", "http://", "https://", "@import", "src=", "innerHTML"]
        {
            assert!(!page.contains(part), "{part}");
        }
        assert!(page.contains("default-src 'none'"));
        assert!(page.starts_with("<!doctype html>"));
    }
}
