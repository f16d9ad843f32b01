//! The views of a plan, and the trace of a run: of real trees, and in a browser.
//!
//! The page is opened in headless Chromium and used as one would use it. `REGROW_SHOTS=DIR` keeps pictures of
//! what is seen.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::browser::Browser;
use support::dumped::Dumped;
use support::schema;

/// A real tree with threads, a zombie, sessions and stopped tasks.
fn motley() -> Option<Dumped> {
    Dumped::program("motley", &[])
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The slices of a trace, by thread: start and length in nanoseconds, and the event.
fn slices(trace: &Value) -> BTreeMap<u64, Vec<(u64, u64, Value)>> {
    let mut all: BTreeMap<u64, Vec<(u64, u64, Value)>> = BTreeMap::new();
    for event in trace["traceEvents"].as_array().unwrap() {
        if event["ph"] == "X" {
            let ns = |micros: &Value| (micros.as_f64().unwrap() * 1000.0).round() as u64;
            let slice = (ns(&event["ts"]), ns(&event["dur"]), event.clone());
            all.entry(event["tid"].as_u64().unwrap()).or_default().push(slice);
        }
    }
    all
}

/// How many records each tape has, by pid.
fn records(tree: &mut Dumped) -> BTreeMap<u64, u64> {
    let images = tree.images_dir();
    let printed = tree.regrow(&["tape", images.to_str().unwrap()]);
    let header = |line: &str| {
        let (pid, rest) = line.strip_prefix("task ")?.split_once(": ")?;
        Some((pid.parse().ok()?, rest.split_once(' ')?.0.parse().ok()?))
    };
    printed.text.lines().filter_map(header).collect()
}

/// Any two slices of a track lie one within the other, or apart: viewers drop what does not.
#[track_caller]
fn check_nested(track: &[(u64, u64, Value)]) {
    let mut track: Vec<(u64, u64)> = track.iter().map(|(start, len, _)| (*start, start + len)).collect();
    track.sort_by_key(|(start, end)| (*start, std::cmp::Reverse(*end)));
    let mut open: Vec<u64> = Vec::new();
    for (start, end) in track {
        while open.pop_if(|open| *open <= start).is_some() {}
        assert!(open.last().is_none_or(|open| end <= *open), "{start}..{end} ends behind what it starts in");
        open.push(end);
    }
}

/// The trace of a whole restore: every record of every task and thread, in order, within the phases of
/// regrow itself.
#[track_caller]
fn check_whole(records: &BTreeMap<u64, u64>, trace: &Value) {
    let regrow = trace["otherData"]["regrow"].as_u64().unwrap();
    assert_eq!(trace["otherData"]["outcome"], "restored");
    let mut slices = slices(trace);
    // Some are on tracks of their own, which are threads of the same process.
    let mut phases = Vec::new();
    slices.retain(|_, track| {
        let is_of_task = track[0].2["pid"] != json!(regrow);
        if !is_of_task {
            check_nested(track);
            phases.append(track);
        }
        is_of_task
    });
    let phase = |name: &str| {
        let found = phases.iter().find(|(.., event)| event["name"] == name);
        let (start, len, _) = found.unwrap_or_else(|| panic!("no phase {name}"));
        (*start, start + len)
    };
    let order = ["launch", "play", "barrier", "tail", "commit"].map(phase);
    assert!(order.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{order:?}");
    assert_eq!(slices.keys().collect::<Vec<_>>(), records.keys().collect::<Vec<_>>(), "who has a lane");
    let noise_ns = 20_000; // Of two CPUs' counters, and of the conversion.
    for (pid, slices) in &slices {
        let mut next = 0;
        let mut now = 0;
        for (start, len, event) in slices {
            assert_eq!(event["args"]["record"], json!(next), "{pid}: {event}");
            next += event["args"]["records"].as_u64().unwrap();
            assert!(*start >= now, "{pid}: {event} starts before the one before it has ended");
            now = start + len;
            assert!(*start + noise_ns >= order[0].0 && now <= order[4].1 + noise_ns, "{pid}: {event}");
            assert!(!event["name"].as_str().unwrap().is_empty(), "{event}");
            if event["name"] == "park" {
                assert!(*start + noise_ns >= order[3].0, "{pid}: parked before the tail");
            }
        }
        let dies = slices.last().unwrap().2["cat"] == "death";
        // Behind a death by signal stands a record that never runs.
        let rest = records[pid] - next;
        assert!(rest == 0 || rest == 1 && dies, "{pid}: {rest} records without a time");
    }
}

#[test]
fn a_traced_restore_is_a_restore() {
    let Some(mut tree) = motley() else { return };
    let file = tree.file("trace.json");
    let records = records(&mut tree);
    let restored = tree.restore(&["--trace", file.to_str().unwrap()]);
    assert_eq!(restored.code, Some(0), "{}", restored.text);
    let trace = read_json(&file);
    check_whole(&records, &trace);
    // Threads are threads of their processes.
    let regrow = &trace["otherData"]["regrow"];
    let of_tasks = trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["pid"] != *regrow);
    assert!(of_tasks.filter(|event| event["pid"] != event["tid"] && event["ph"] == "X").count() > 4);
    // Stopped tasks, registers, threads: the program looks itself whether all is as it was.
    tree.check_restored("traced");
}

#[test]
fn a_stored_plan_is_traced_too() {
    let Some(mut tree) = motley() else { return };
    let (file, plan) = (tree.file("trace.json"), tree.file("tree.plan"));
    let images = tree.images_dir();
    let records = records(&mut tree);
    let out = tree.regrow(&["plan", "-D", images.to_str().unwrap(), "--out", plan.to_str().unwrap()]);
    assert_eq!(out.code, Some(0), "{}", out.text);
    let restored = tree.restore(&["--plan", plan.to_str().unwrap(), "--trace", file.to_str().unwrap()]);
    assert_eq!(restored.code, Some(0), "{}", restored.text);
    let trace = read_json(&file);
    check_whole(&records, &trace);
    tree.check_restored("traced, by a stored plan");
    let events = trace["traceEvents"].as_array().unwrap();
    let is_told = |event: &Value| event["args"]["image"].as_str().is_some_and(|image| image.contains(".img"));
    assert!(events.iter().any(is_told), "no image entries");
}

/// Strict seccomp takes the counter away from its thread: nothing is noted from there on, and nobody dies of it.
#[test]
fn strict_seccomp_is_traced_as_far_as_it_goes() {
    let Some(mut tree) = Dumped::program("seccomp", &[]) else { return };
    let file = tree.file("trace.json");
    let restored = tree.restore(&["--trace", file.to_str().unwrap()]);
    assert_eq!(restored.code, Some(0), "{}", restored.text);
    let trace = read_json(&file);
    let mut slices = slices(&trace);
    slices.retain(|_, slices| slices[0].2["pid"] != trace["otherData"]["regrow"]);
    let last =
        |slices: &Vec<(u64, u64, Value)>| slices.last().unwrap().2["name"].as_str().unwrap().to_owned();
    let ends: Vec<String> = slices.values().map(last).collect();
    // Two tasks in strict mode and a thread of one more: they are not seen to park.
    assert_eq!(ends.iter().filter(|name| *name != "park").count(), 3, "{ends:?}");
    tree.check_restored("traced");
}

/// What is traced is taken away again like everything else, wherever it fails.
#[test]
fn faults_of_traced_restores_leave_nothing() {
    let Some(mut tree) = motley() else { return };
    let records = records(&mut tree);
    let mut faults: Vec<String> = records
        .iter()
        .flat_map(|(pid, count)| (0..*count).step_by(11).map(move |record| format!("{pid}:{record}:12")))
        .collect();
    faults.extend(
        ["memfd:12", "map:12", "clone:11", "seize@2:1", "unmap@3:12", "spare@4:1"].map(str::to_owned),
    );
    // Under a name that is not looked at: it is written by every run.
    let file = tree.file("trace.log");
    let options = ["-o", "fault.log", "--pidfile", "pid", "--trace", file.to_str().unwrap()];
    let found = tree.rehearse(&faults, &options);
    assert_eq!(found.len(), faults.len());
    for found in found {
        assert_eq!(found.code, Some(1), "{}: {}", found.fault, found.text);
        assert!(found.left.is_empty(), "{}: left or missing:\n{}", found.fault, found.left.join("\n"));
    }
    let restored = tree.restore(&["--pidfile", "pid", "--trace", file.to_str().unwrap()]);
    assert_eq!(restored.code, Some(0), "{}", restored.text);
    check_whole(&records, &read_json(&file));
    tree.check_restored("traced, after faults");
}

/// A trace of what went wrong goes as far as it went.
#[test]
fn a_failed_restore_leaves_its_trace() {
    let Some(mut tree) = motley() else { return };
    let file = tree.file("trace.json");
    let root = tree.root();
    let fault = format!("{root}:20:12");
    let failed = tree.restore(&["--trace", file.to_str().unwrap(), "--inject-fault", &fault]);
    assert_eq!(failed.code, Some(1), "{}", failed.text);
    tree.check_nothing_left("a failed restore");
    let trace = read_json(&file);
    let outcome = trace["otherData"]["outcome"].as_str().unwrap();
    assert!(outcome.contains("ENOMEM"), "{outcome}");
    let slices = slices(&trace);
    let (_, _, last) = slices[&(root as u64)].last().unwrap();
    let (first, count) =
        (last["args"]["record"].as_u64().unwrap(), last["args"]["records"].as_u64().unwrap());
    assert!((first..first + count).contains(&20), "{last}");
    // The images are refused: there is nothing of tasks then.
    std::fs::write(tree.images_dir().join("pstree.img"), "").unwrap();
    let refused = tree.restore(&["--trace", file.to_str().unwrap()]);
    assert_eq!(refused.code, Some(1), "{}", refused.text);
    let trace = read_json(&file);
    assert!(trace["otherData"]["outcome"].as_str().unwrap().contains("pstree.img"), "{trace}");
    assert!(trace["traceEvents"].as_array().unwrap().iter().any(|event| event["name"] == "prepare"));
}

fn plan_schema() -> Value {
    read_json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/plan.schema.json"))
}

/// What is printed of plans is as the schema says, and the schema names all of it.
#[test]
fn plans_are_as_their_schema_says() {
    let schema = plan_schema();
    let check = |tree: &mut Dumped, images: &Path, what: &str| {
        let printed = tree.regrow(&["plan", images.to_str().unwrap(), "--format", "json"]);
        assert_eq!(printed.code, Some(0), "{what}: {}", printed.text);
        let plan: Value = serde_json::from_str(&printed.text).unwrap();
        let faults = schema::faults(&schema, &plan);
        assert!(faults.is_empty(), "{what}: {faults:#?}");
        plan
    };
    let Some(mut tree) = motley() else { return };
    let images = tree.images_dir();
    let plan = check(&mut tree, &images, "motley");
    let ops: Vec<&Value> = plan["operations"].as_array().unwrap().iter().map(|op| &op["op"]).collect();
    for op in
        ["fork", "start_thread", "create", "dup", "close", "step", "exit", "await_exit", "arrive", "park"]
    {
        assert!(ops.contains(&&json!(op)), "{op}");
    }
    // One whose tasks wait for one another, with helpers and adoptions.
    let made = tree.file("made");
    let write =
        ["demo", "--tasks", "60", "--seed", "3", "--first-pid", "3000", "--write", made.to_str().unwrap()];
    assert_eq!(tree.regrow(&write).code, Some(0));
    check(&mut tree, &made.join("images"), "made up");

    // The check can fail.
    let with = |change: &dyn Fn(&mut Value)| {
        let mut plan = plan.clone();
        change(&mut plan);
        schema::faults(&schema, &plan)
    };
    let wrong = with(&|plan| plan["tasks"][0]["pid"] = json!("1"));
    assert_eq!(wrong, ["/tasks/0/pid: \"1\" is not type \"integer\""]);
    assert_eq!(with(&|plan| plan["new"] = json!(1)), [": new is not in the schema"]);
    assert_eq!(with(&|plan| drop(plan.as_object_mut().unwrap().remove("edges"))), [": without edges"]);
    assert_eq!(with(&|plan| plan["operations"][3]["why"]["reason"] = json!("whim")).len(), 1);
    assert!(with(&|_| ()).is_empty());
}

/// The page of a tree, drawn with the trace of its restore. The tree lives when this returns.
fn page(tree: &mut Dumped) -> PathBuf {
    let (file, page) = (tree.file("trace.json"), tree.file("plan.html"));
    let (images, trace, out) =
        (tree.images_dir(), file.to_str().unwrap().to_owned(), page.to_str().unwrap().to_owned());
    let images = images.to_str().unwrap();
    let restored = tree.restore(&["--trace", &trace]);
    assert_eq!(restored.code, Some(0), "{}", restored.text);
    let written = tree.regrow(&["plan", images, "--format", "html", "--trace", &trace, "--out", &out]);
    // The pids are taken, by the tree itself.
    assert_eq!(written.code, Some(4), "{}", written.text);
    page
}

#[track_caller]
fn check_quiet(browser: &Browser) {
    assert!(browser.faults.is_empty(), "{:#?}", browser.faults);
    let elsewhere: Vec<&String> = browser
        .loaded
        .iter()
        .filter(|url| !url.starts_with("file://") && !url.starts_with("about:"))
        .collect();
    assert!(elsewhere.is_empty(), "the page loads {elsewhere:?}");
}

#[test]
fn the_page_is_used() {
    let Some(mut browser) = Browser::start(1440, 860) else { return };
    let Some(mut tree) = motley() else { return };
    let tasks = records(&mut tree).len();
    let page = page(&mut tree);
    let root = tree.root();
    tree.check_restored("traced");

    browser.open(&page, "");
    let overview = browser.text("#view-overview");
    assert!(overview.contains("All tasks were restored."), "{overview}");
    assert!(overview.contains("certified:") && overview.contains("no deadlock"), "{overview}");
    browser.shoot("overview");

    // Tabs, by mouse and by key.
    for (tab, sees) in [("tasks", "#tree .row"), ("resources", "#resources .row"), ("timeline", "#canvas")] {
        browser.click(&format!("#tab-{tab}"));
        browser.wait(&format!("location.hash.startsWith('#/{tab}')"));
        browser.wait(&format!("!!document.querySelector('{sees}')"));
        assert_eq!(browser.eval(&format!("document.getElementById('tab-{tab}').ariaSelected")), "true");
    }
    browser.key("2");
    browser.wait("location.hash.startsWith('#/tasks')");
    assert!(browser.text("#tasks-count").starts_with(&format!("{tasks} tasks")));
    assert!(browser.text("#tree").contains("zombie") && browser.text("#tree").contains("thread"));

    // A task: its program, with times, and its descriptors.
    browser.click("#tree .row:nth-child(2)");
    let pid = browser.eval("location.hash.split('/')[2]").as_str().unwrap().to_owned();
    browser.wait("document.querySelectorAll('#program .row').length > 5");
    let head = browser.text("#task h2");
    assert!(head.contains(&pid), "{head}");
    let program = browser.text("#program");
    assert!(program.contains("µs") || program.contains("ns"), "no times: {program}");
    browser.shoot("task");
    browser.eval("document.getElementById('program').focus()");
    browser.key("End");
    browser.wait("document.getElementById('program').innerText.includes('park')");
    browser.click("#program-filter");
    browser.write("arrive");
    browser.wait("document.querySelectorAll('#program .row').length === 2");
    let filtered = browser.text("#program");
    assert!(filtered.contains("arrive") && filtered.contains("all must have arrived"), "{filtered}");
    browser.click(".switch button:nth-child(2)");
    browser.wait("!!document.querySelector('#uses .row')");
    let uses = browser.text("#uses");
    assert!(
        uses.contains("/dev/null") || uses.contains("makes it") || uses.contains("inherits it"),
        "{uses}"
    );

    // The tree, by keys.
    browser.eval("document.getElementById('tree').focus()");
    browser.key("Home");
    browser.wait(&format!("location.hash === '#/tasks/{root}'"));
    let before = browser.eval("document.querySelectorAll('#tree .row').length").as_u64().unwrap();
    browser.key("ArrowLeft");
    browser.wait("document.querySelectorAll('#tree .row').length === 1");
    browser.key("ArrowRight");
    browser.wait(&format!("document.querySelectorAll('#tree .row').length === {before}"));

    // Search: a pid, and a descriptor.
    browser.key("/");
    browser.write(&pid);
    browser.wait("!document.getElementById('found').hidden");
    assert!(browser.text("#found .chosen").starts_with(&pid));
    browser.key("Enter");
    browser.wait(&format!("location.hash === '#/tasks/{pid}'"));
    browser.key("/");
    browser.write("fd 1");
    browser.wait("document.getElementById('found').innerText.includes('fd 1 of ')");
    browser.shoot("search");
    browser.key("Enter");
    browser.wait("location.hash.startsWith('#/resources/r')");
    let delivery = browser.text("#resource");
    assert!(delivery.contains("made by") && delivery.contains("fd"), "{delivery}");
    browser.shoot("resource");

    // The timeline: a lane a task; what the mouse is on is told, a click keeps it, keys move on.
    browser.key("5");
    browser.wait("location.hash.startsWith('#/timeline')");
    let wait_drawn =
        "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))";
    browser.eval(wait_drawn);
    assert!(browser.text("#slice").contains(&format!("{tasks} lanes")));
    let place = browser.eval(&format!("window.regrow.place({root}, 0)"));
    browser.hover(place["x"].as_f64().unwrap(), place["y"].as_f64().unwrap());
    browser.wait("!document.getElementById('tip').hidden");
    let tip = browser.text("#tip");
    assert!(tip.contains(&format!("{root} ")) && tip.contains(".img") && tip.contains("from"), "{tip}");
    browser.shoot("timeline");
    browser.click_at(place["x"].as_f64().unwrap(), place["y"].as_f64().unwrap());
    browser.eval("document.getElementById('canvas').focus()");
    let chosen = browser.text("#slice b");
    browser.key("ArrowRight");
    browser.wait(&format!("document.querySelector('#slice b').innerText !== {}", json!(chosen)));
    let range = browser.text("#timeline-range");
    browser.wheel(700.0, 400.0, -300.0, true);
    browser.wait(&format!("document.getElementById('timeline-range').innerText !== {}", json!(range)));
    browser.key("0");
    browser.key("Enter");
    browser.wait("location.hash.includes('/program/')");
    browser.wait("!!document.querySelector('#program .row.chosen')");
    let row = browser.text("#program .row.chosen");
    assert!(!row.is_empty());

    // Dark and light.
    browser.key("5");
    let theme = browser.eval("document.documentElement.dataset.theme");
    let pixel = "(() => { const c = document.getElementById('canvas'); \
                 return Array.from(c.getContext('2d').getImageData(c.width - 2, c.height - 2, 1, 1).data).join(); })()";
    browser.eval(wait_drawn);
    let before = browser.eval(pixel);
    browser.click("#theme");
    assert_ne!(browser.eval("document.documentElement.dataset.theme"), theme);
    browser.eval(wait_drawn);
    assert_ne!(browser.eval(pixel), before, "the canvas keeps its colours");
    browser.shoot("timeline-other");
    check_quiet(&browser);
}

/// Names that the images bring along are shown, and are nothing else.
#[test]
fn hostile_names_are_only_shown() {
    let Some(mut browser) = Browser::start(1200, 800) else { return };
    let Some(mut tree) = Dumped::script("hostile_names.sh", &[]) else { return };
    let page = page(&mut tree);
    tree.check_restored("traced");
    browser.open(&page, "#/tasks");
    let shown = browser.text("#tree");
    assert!(shown.contains("<b id=x>&amp;"), "{shown}");
    browser.click("#tab-resources");
    browser.click("#resource-filter");
    browser.write("hacked");
    browser.wait(
        "[...document.querySelectorAll('#resources .row')].every(row => row.innerText.includes('hacked'))",
    );
    browser.click("#resources .row");
    let name = browser.text("#resource h2");
    assert!(name.contains("</script><script>window.hacked=1</script>"), "{name}");
    browser.key("5");
    browser.key("/");
    browser.write("<b id");
    browser.wait("document.getElementById('found').innerText.includes('<b id=x>')");
    assert_eq!(
        browser.eval("[typeof window.hacked, document.getElementById('x')]"),
        json!(["undefined", null])
    );
    check_quiet(&browser);
}

/// A page of a thousand tasks is as quick, and has as few elements, as one of ten.
#[test]
fn a_thousand_tasks() {
    let Some(mut browser) = Browser::start(1440, 860) else { return };
    let Some(mut ground) = Dumped::nothing() else { return };
    let ended = ground.shell(
        "set -e
         $REGROW demo --tasks 1000 --first-pid 3000 --write $DIR/made >/dev/null
         $REGROW restore -D $DIR/made/images -d --trace $DIR/trace.json
         for p in $(seq 3000 3999); do kill -KILL $p 2>/dev/null || true; done
         for i in $(seq 1000); do [ -d /proc/3000 ] || break; sleep 0.02; done
         $REGROW plan $DIR/made/images --format html --trace $DIR/trace.json --out $DIR/plan.html",
    );
    // Some may still be dying.
    assert!(matches!(ended.code, Some(0 | 4)), "{}", ended.text);
    let page = ground.file("plan.html");
    assert!(std::fs::metadata(&page).unwrap().len() < 8 << 20);
    browser.open(&page, "");
    let elements = "document.getElementsByTagName('*').length";
    for view in ["overview", "tasks", "resources", "waits", "timeline"] {
        let took = browser.eval(&format!(
            "(() => {{ const start = performance.now(); location.hash = '#/{view}'; return new Promise(done => \
             requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)))); }})()"
        ));
        assert!(took.as_f64().unwrap() < 3000.0, "{view}: {took} ms");
        browser.shoot(&format!("thousand-{view}"));
        let count = browser.eval(elements).as_u64().unwrap();
        assert!(count < 2500, "{view}: {count} elements");
    }
    // The last of a thousand rows is a key away.
    browser.eval("location.hash = '#/tasks'");
    browser.wait("document.querySelectorAll('#tree .row').length > 20");
    browser.eval("document.getElementById('tree').focus()");
    browser.key("End");
    browser.wait("document.querySelector('#tree .chosen')?.ariaPosInSet === '1000'");
    browser.eval("location.hash = '#/timeline'");
    browser.wait("!document.getElementById('view-timeline').hidden");
    browser.eval("document.getElementById('canvas').focus()");
    browser.key("l");
    let place = browser.eval(
        "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(window.regrow.place(3000, 0)))))",
    );
    assert!(place["y"].as_f64().unwrap() > 0.0);
    browser.shoot("thousand-lanes");
    check_quiet(&browser);
}
