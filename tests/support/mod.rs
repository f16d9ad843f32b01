//! The harness of the integration tests: [`Scenario`] takes a self-checking program through dump and
//! restore and demands that nothing can be told apart.
//!
//! In fresh pid and mount namespaces, under an init that reaps:
//!
//! ```text
//! start ─ ready ─ snapshot ─ criu dump ─ all gone ─ regrow restore ─ snapshot, equal? ─┐
//!                               ▲                                                      │ once more
//!                               └──────────────────────────────────────────────────────┘
//! go ─ the program checks itself ─ exit status 0 ─ nothing left
//! ```
//!
//! Environment:
//!
//! | variable | meaning |
//! |---|---|
//! | `REGROW_CRIU` | the CRIU to dump with; else the oldest of `target/criu/*/criu` (`scripts/provide-criu`) |
//! | `REGROW_NO_SKIP=1` | a test that cannot run fails |
//! | `REGROW_SKIP_FILE` | a file that skipped tests are appended to |
//! | `REGROW_TEST_RESTORER=criu` | control run: CRIU restores too, and what it is known to change is only printed |
//! | `REGROW_TEST_ROUNDS` | how often to dump and restore, for all tests; 0 only runs the programs |
//! | `REGROW_TEST_STRICT=1` | compare also what no program can see (VM flag `ac`) |
//! | `REGROW_TEST_BY_PLAN=1` | every restore is one by a stored plan, which opens no image but those that tasks copy from |
//! | `REGROW_TEST_POLICY=lowest-pid` | every scenario is restored under this policy |
//! | `REGROW_KEEP=1` | keep the directories of the tests, and say where they are |

#![allow(dead_code, reason = "each test binary uses its part of the harness")]

pub(crate) mod browser;
pub(crate) mod criu;
pub(crate) mod diff;
pub(crate) mod dumped;
pub(crate) mod guest;
pub(crate) mod increments;
pub(crate) mod namespace;
pub(crate) mod opened;
pub(crate) mod schema;
pub(crate) mod service;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::namespace::Namespace;

/// No step of a scenario takes longer than this, also on a slow machine.
const STEP: Duration = Duration::from_secs(120);

/// How long tasks that are at work may take to come to rest.
const SETTLED: Duration = Duration::from_secs(60);

/// How long a restored task may take to run at all.
const ARRIVAL: Duration = Duration::from_secs(5);

/// The pid before that of a program's root: far from what CRIU and regrow get for themselves.
const PID_BEFORE_ROOT: i64 = 999;

/// What stands under a test: a failure is a text, because all that happens to it is that it is printed.
type Outcome<T> = Result<T, String>;

/// Who restores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Restorer {
    Regrow,
    Criu,
}

impl Restorer {
    fn chosen() -> Restorer {
        match std::env::var("REGROW_TEST_RESTORER").as_deref() {
            Ok("criu") => Restorer::Criu,
            Ok("regrow" | "") | Err(_) => Restorer::Regrow,
            Ok(other) => panic!("REGROW_TEST_RESTORER={other}: it is `regrow` or `criu`"),
        }
    }
}

/// What CRIU's own restore is known to change: pieces of a line of the difference, and why. Only control
/// runs look here; regrow's restores must be identical.
const CRIU_CHANGES: &[(&[&str], &str)] =
    &[(&["namespaces.time", "became"], "CRIU restores into a time namespace of its own")];

/// A program, and how it is taken through dump and restore.
pub(crate) struct Scenario {
    command: Vec<String>,
    is_script: bool,
    rounds: u32,
    moves_memory: bool,
    dump_options: Vec<&'static str>,
    started_by: Vec<&'static str>,
    after_criu: bool,
    own_time: bool,
    own_ipc: bool,
    by_plan: bool,
    policy: Option<String>,
    sharing: Option<&'static str>,
    lacks_userfaultfd: bool,
    increments: Increments,
    stays_small: bool,
    criu_changes: Vec<(Vec<&'static str>, &'static str)>,
    criu_cannot: Option<&'static str>,
}

/// Of which dumps a directory has pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Increments {
    /// Of its own.
    None,
    /// Of so many more, made of the one ([`increments::spread`]).
    Made { dumps: u32 },
    /// CRIU has dumped the tree before, left it running, and removes from that dump what the next one has.
    Deduplicated,
}

impl Scenario {
    /// One of `tests/programs`, by name. It gets its directory as the first argument.
    #[must_use]
    pub(crate) fn program(name: &str, arguments: &[&str]) -> Scenario {
        Scenario::new(name, arguments, false)
    }

    /// A script of `tests/programs`, by file name, run by bash. It gets its directory as the first argument.
    #[must_use]
    pub(crate) fn script(name: &str, arguments: &[&str]) -> Scenario {
        Scenario::new(name, arguments, true)
    }

    fn new(name: &str, arguments: &[&str], is_script: bool) -> Scenario {
        let command = std::iter::once(name).chain(arguments.iter().copied()).map(str::to_owned).collect();
        Scenario {
            command,
            is_script,
            rounds: 2,
            moves_memory: false,
            dump_options: Vec::new(),
            started_by: Vec::new(),
            after_criu: false,
            own_time: false,
            own_ipc: false,
            by_plan: std::env::var_os("REGROW_TEST_BY_PLAN").is_some(),
            policy: std::env::var("REGROW_TEST_POLICY").ok(),
            sharing: None,
            lacks_userfaultfd: false,
            increments: Increments::None,
            stays_small: false,
            criu_changes: Vec::new(),
            criu_cannot: None,
        }
    }

    /// How often the tree is dumped and restored; twice unless said.
    #[must_use]
    pub(crate) fn rounds(mut self, rounds: u32) -> Scenario {
        self.rounds = rounds;
        self
    }

    /// The tasks are at work while they wait, so the content of their memory is not compared.
    #[must_use]
    pub(crate) fn with_moving_memory(mut self) -> Scenario {
        self.moves_memory = true;
        self
    }

    /// More options of `criu dump`.
    #[must_use]
    pub(crate) fn dump_options(mut self, options: &[&'static str]) -> Scenario {
        self.dump_options.extend(options);
        self
    }

    /// The command that runs the program, which takes its place.
    #[must_use]
    pub(crate) fn started_by(mut self, command: &[&'static str]) -> Scenario {
        self.started_by.extend(command);
        self
    }

    /// First the tree is dumped and restored by CRIU, once.
    #[must_use]
    pub(crate) fn after_criu(mut self) -> Scenario {
        self.after_criu = true;
        self
    }

    /// The tree has a time namespace of its own, which is another one after each restore.
    #[must_use]
    pub(crate) fn in_a_time_namespace(mut self) -> Scenario {
        self.own_time = true;
        self
    }

    /// The tree has an IPC namespace of its own, which is another one after each restore.
    #[must_use]
    pub(crate) fn in_an_ipc_namespace(mut self) -> Scenario {
        self.own_ipc = true;
        self
    }

    /// Each restore is one by a plan that was stored before, and opens no image but those that tasks copy
    /// from. CRIU gets no round.
    #[must_use]
    pub(crate) fn by_plan(mut self) -> Scenario {
        self.by_plan = true;
        self
    }

    /// Each restore is planned by CRIU's rule: what tasks share goes to them in messages.
    #[must_use]
    pub(crate) fn by_lowest_pid(mut self) -> Scenario {
        self.policy = Some("lowest-pid".to_owned());
        self
    }

    /// Which address spaces are inherited (`--sharing`).
    #[must_use]
    pub(crate) fn sharing(mut self, which: &'static str) -> Scenario {
        self.sharing = Some(which);
        self
    }

    /// Regrow finds no userfaultfd(2).
    #[must_use]
    pub(crate) fn without_userfaultfd(mut self) -> Scenario {
        self.lacks_userfaultfd = true;
        self
    }

    /// The pages are spread over so many dumps before. After each second dump, `criu dedup` removes what newer dumps have.
    #[must_use]
    pub(crate) fn spread_over(mut self, dumps: u32) -> Scenario {
        self.increments = Increments::Made { dumps };
        self
    }

    /// Each dump is a second one, which removes from the first what it has itself (`--auto-dedup`).
    #[must_use]
    pub(crate) fn deduplicated(mut self) -> Scenario {
        self.increments = Increments::Deduplicated;
        self
    }

    /// Restored by regrow, the tree takes no more memory than before: pages that were shared are shared again.
    #[must_use]
    pub(crate) fn stays_small(mut self) -> Scenario {
        self.stays_small = true;
        self
    }

    /// For control runs: CRIU cannot restore this; only the program is run, without dump and restore.
    #[must_use]
    pub(crate) fn criu_cannot(mut self, why: &'static str) -> Scenario {
        self.criu_cannot = Some(why);
        self
    }

    /// For control runs: lines that contain all these pieces, of the difference or of what the program
    /// finds, are CRIU's doing.
    #[must_use]
    pub(crate) fn criu_changes(mut self, pieces: &[&'static str], why: &'static str) -> Scenario {
        self.criu_changes.push((pieces.to_vec(), why));
        self
    }

    /// Runs the scenario.
    ///
    /// # Panics
    ///
    /// If anything is not as it was, with all that is known about it.
    pub(crate) fn run(self) {
        let Some(ground) = Ground::find() else { return };
        let directory =
            tempfile::Builder::new().prefix("regrow-test-").tempdir().expect("a directory for the test");
        let outcome = self.play(ground, directory.path());
        if std::env::var_os("REGROW_KEEP").is_some() {
            say(&format!("kept: {}", directory.keep().display()));
        }
        if let Err(failure) = outcome {
            panic!("{}: {failure}", self.command.join(" "));
        }
    }

    fn play(&self, ground: &Ground, directory: &Path) -> Outcome<()> {
        let state = directory.join("state");
        fs::create_dir(&state).map_err(|error| error.to_string())?;
        let mut namespace = Namespace::start(&ground.program("nsinit"))?;
        namespace.ask(json!({ "op": "last_pid", "pid": PID_BEFORE_ROOT }), STEP)?;

        let mut argv = if self.is_script {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(&self.command[0]);
            vec!["bash".to_owned(), shown(&script)]
        } else {
            vec![shown(&ground.program(&self.command[0]))]
        };
        argv.splice(0..0, self.started_by.iter().map(|word| (*word).to_owned()));
        argv.push(shown(&state));
        argv.extend_from_slice(&self.command[1..]);
        let log = directory.join("program.log");
        let root = namespace.start_detached(&argv, &log)?;
        wait_for(&state.join("ready"), &mut namespace, root, &log)?;

        let mut stage = Stage {
            namespace,
            ground,
            directory: directory.to_owned(),
            root,
            dump_options: self.dump_options.clone(),
            by_plan: self.by_plan,
            policy: self.policy.clone(),
            sharing: self.sharing,
            lacks_userfaultfd: self.lacks_userfaultfd,
            increments: self.increments,
            restorer: Restorer::chosen(),
        };
        let mut before = if self.moves_memory {
            stage.settled(self, "original", String::new)?
        } else {
            stage.snapshot("original")?
        };
        let rounds = match (stage.restorer, self.criu_cannot) {
            (Restorer::Criu, Some(why)) => {
                say(&format!("{}: not restored in this control run: {why}", self.command.join(" ")));
                0
            }
            _ => match std::env::var("REGROW_TEST_ROUNDS") {
                Ok(text) => text.parse().map_err(|error| format!("REGROW_TEST_ROUNDS={text}: {error}"))?,
                Err(_) => self.rounds,
            },
        };
        if self.after_criu {
            let restorer = std::mem::replace(&mut stage.restorer, Restorer::Criu);
            stage.dump(0, &before)?;
            stage.restore(0)?;
            before = stage.snapshot("restored0")?;
            stage.restorer = restorer;
        }
        for round in 1..=rounds {
            let small = stage.pss_kb()?;
            stage.dump(round, &before)?;
            stage.restore(round)?;
            if self.stays_small && stage.restorer == Restorer::Regrow {
                stage.demand_small(round, small)?;
            }
            let after = stage
                .await_same(self, &format!("restored{round}"), &before)
                .map_err(|text| format!("after restore {round}:\n{text}"))?;
            // With a tolerant control run, the next round starts from what there is.
            before = after;
        }
        // What regrow has restored must be as good to CRIU as what it dumped first: it dumps the tree once
        // more and restores it itself.
        let is_for_criu = self.criu_cannot.is_none() && !self.by_plan;
        if stage.restorer == Restorer::Regrow && rounds > 0 && is_for_criu {
            stage.restorer = Restorer::Criu;
            let round = rounds + 1;
            stage.dump(round, &before)?;
            stage.restore(round)?;
            stage
                .await_same(self, &format!("restored{round}"), &before)
                .map_err(|text| format!("after restore {round}, by CRIU:\n{text}"))?;
        }

        fs::write(state.join("go"), "").map_err(|error| error.to_string())?;
        let status = stage.namespace.wait(root, STEP)?;
        let result =
            fs::read_to_string(state.join("result")).unwrap_or_else(|error| format!("no result: {error}\n"));
        let failures = result.lines().filter(|line| *line != "ok").map(str::to_owned).collect();
        let failures = self.without_criu_changes(failures, stage.restorer);
        // The status says nothing else, but it must have come through.
        if !failures.is_empty() || (status == 0) != (result == "ok\n") {
            let log = fs::read_to_string(&log).unwrap_or_default();
            let failures = failures.join("\n");
            return Err(format!(
                "the program's own checks ({}):\n{failures}\n{}",
                ended(status),
                tail(&log, 20)
            ));
        }
        let answer = stage.namespace.ask(json!({ "op": "pids" }), STEP)?;
        if answer["pids"] != json!([]) {
            return Err(format!("tasks are left: {answer}"));
        }
        stage.namespace.end()
    }

    fn compare(&self, before: &Value, after: &Value, restorer: Restorer) -> Outcome<()> {
        let mut lines = self.without_criu_changes(diff::lines(before, after), restorer);
        if self.moves_memory {
            lines.retain(|line| !line.contains(".pages."));
        }
        if self.own_ipc {
            lines.retain(|line| !line.contains(".namespaces.ipc"));
        }
        if self.own_time {
            lines.retain(|line| !line.contains(".namespaces.time"));
        }
        if lines.is_empty() { Ok(()) } else { Err(diff::readable(&lines)) }
    }

    /// In control runs, says which lines CRIU is known for, and gives the others.
    fn without_criu_changes(&self, mut lines: Vec<String>, restorer: Restorer) -> Vec<String> {
        if restorer == Restorer::Criu {
            let own = self.criu_changes.iter().map(|(pieces, why)| (pieces.as_slice(), *why));
            for (pieces, why) in CRIU_CHANGES.iter().copied().chain(own) {
                let is_known = |line: &String| pieces.iter().all(|piece| line.contains(piece));
                let (known, rest): (Vec<String>, Vec<String>) = lines.into_iter().partition(is_known);
                lines = rest;
                if let Some(example) = known.first() {
                    say(&format!(
                        "{}: {why}: {} lines, such as {example}",
                        self.command.join(" "),
                        known.len()
                    ));
                }
            }
        }
        lines
    }
}

/// A running scenario.
struct Stage<'a> {
    namespace: Namespace,
    ground: &'a Ground,
    directory: PathBuf,
    root: i64,
    dump_options: Vec<&'static str>,
    by_plan: bool,
    policy: Option<String>,
    sharing: Option<&'static str>,
    lacks_userfaultfd: bool,
    increments: Increments,
    restorer: Restorer,
}

impl Stage<'_> {
    fn snapshot(&mut self, name: &str) -> Outcome<Value> {
        let output = self.directory.join(format!("{name}.json"));
        // It is appended to.
        let _ = fs::remove_file(&output);
        let program = shown(&self.ground.program("snapshot"));
        let mut argv = vec![program, self.root.to_string()];
        if std::env::var("REGROW_TEST_STRICT").as_deref() == Ok("1") {
            argv.push("--strict".to_owned());
        }
        let status = self.namespace.run(&argv, &output, STEP)?;
        let text = fs::read_to_string(&output).map_err(|error| error.to_string())?;
        if status != 0 {
            return Err(format!("snapshot `{name}`: {}", tail(&text, 3)));
        }
        serde_json::from_str(&text).map_err(|error| format!("snapshot `{name}`: {error}"))
    }

    /// How much memory the tree takes, in kB; what several tasks share counts once.
    fn pss_kb(&mut self) -> Outcome<u64> {
        let output = self.directory.join("pss");
        // It is appended to.
        let _ = fs::remove_file(&output);
        let argv = [shown(&self.ground.program("pss")), self.root.to_string()];
        let status = self.namespace.run(&argv, &output, STEP)?;
        let text = fs::read_to_string(&output).map_err(|error| error.to_string())?;
        let number = text.trim().parse().ok().filter(|_| status == 0);
        number.ok_or_else(|| format!("pss: {}", tail(&text, 3)))
    }

    /// Demands that the restored tree takes hardly more memory than it did.
    fn demand_small(&mut self, round: u32, before_kb: u64) -> Outcome<()> {
        let after_kb = self.pss_kb()?;
        say(&format!("restore {round}: {before_kb} kB before, {after_kb} kB after"));
        if after_kb > before_kb + before_kb / 20 {
            return Err(format!("restore {round}: it took {before_kb} kB, and takes {after_kb} kB"));
        }
        Ok(())
    }

    /// Waits until the tasks have done what they do on their own account, such as closing what they have
    /// just written: two snapshots in a row then say the same.
    fn settled(&mut self, scenario: &Scenario, name: &str, log: impl Fn() -> String) -> Outcome<Value> {
        let start = Instant::now();
        let mut before = self.snapshot(name);
        loop {
            std::thread::sleep(Duration::from_millis(100));
            let now = self.snapshot(name);
            let difference = match (&before, &now) {
                (Ok(before), Ok(now)) => scenario.compare(before, now, Restorer::Regrow),
                // A thread may end while it is looked at.
                (Err(failure), _) | (_, Err(failure)) => Err(failure.clone()),
            };
            before = now;
            match difference {
                Ok(()) => return before,
                Err(text) => {
                    let pids = self.namespace.ask(json!({ "op": "pids" }), STEP)?;
                    let is_alive =
                        pids["pids"].as_array().is_some_and(|pids| pids.contains(&json!(self.root)));
                    if !is_alive || start.elapsed() > SETTLED {
                        return Err(format!("it does not settle:\n{text}\n{}", log()));
                    }
                }
            }
        }
    }

    /// Demands that the restored tree is as it was. Tasks that are at work get a moment to arrive in the
    /// system calls that they waited in: there, other signals may be blocked than outside (sigsuspend(2),
    /// pselect(2)).
    fn await_same(&mut self, scenario: &Scenario, name: &str, before: &Value) -> Outcome<Value> {
        let start = Instant::now();
        loop {
            let after = self.snapshot(name)?;
            match scenario.compare(before, &after, self.restorer) {
                Ok(()) => return Ok(after),
                Err(text) if !scenario.moves_memory || start.elapsed() > ARRIVAL => return Err(text),
                Err(_) => {}
            }
        }
    }

    fn images(&self, round: u32) -> String {
        shown(&self.directory.join(format!("images{round}")))
    }

    /// Dumps the tree, which ends it, and waits until none of its pids is taken.
    fn dump(&mut self, round: u32, snapshot: &Value) -> Outcome<()> {
        let images = PathBuf::from(self.images(round));
        let before = increments::before(&images, 1);
        match self.increments {
            Increments::None => self.dump_into(&images, &[])?,
            Increments::Made { dumps } => {
                self.dump_into(&images, &[])?;
                let moved = increments::spread(&images, dumps);
                if moved == 0 {
                    return Err(format!("dump {round}: no page is further back"));
                }
                if round.is_multiple_of(2) {
                    self.deduplicate(&images, dumps)?;
                }
            }
            Increments::Deduplicated => {
                self.dump_into(&before, &["--leave-running"])?;
                increments::note_uptime(&before);
                let link = format!("../{}", before.file_name().unwrap_or_default().display());
                self.dump_into(&images, &["--prev-images-dir", &link, "--auto-dedup"])?;
                if increments::holes(&before) == 0 || !images.join("parent").exists() {
                    return Err(format!("dump {round}: nothing was removed from the one before"));
                }
            }
        }
        let pids: Vec<i64> = snapshot["tasks"]
            .as_object()
            .map(|tasks| tasks.keys().filter_map(|pid| pid.parse().ok()).collect())
            .unwrap_or_default();
        let answer = self.namespace.ask(json!({ "op": "gone", "pids": pids, "timeout_ms": 20_000 }), STEP)?;
        if answer["left"] != json!([]) {
            return Err(format!("tasks survived dump {round}: {answer}"));
        }
        Ok(())
    }

    /// `criu dump` into a new directory.
    fn dump_into(&mut self, images: &Path, options: &[&str]) -> Outcome<()> {
        fs::create_dir(images).map_err(|error| error.to_string())?;
        let (root, name) = (self.root.to_string(), shown(images));
        let criu = shown(&self.ground.criu);
        let argv = ["-t", &root, "-D", &name, "-o", "dump.log", "-v4"];
        let argv: Vec<String> = [criu.as_str(), "dump"]
            .iter()
            .chain(&argv)
            .chain(&self.dump_options)
            .chain(options)
            .map(|word| (*word).to_owned())
            .collect();
        let output = images.with_extension("out");
        let status = self.namespace.run(&argv, &output, STEP)?;
        if status != 0 {
            let said = complaint(&images.join("dump.log"), &output);
            return Err(format!("criu dump into {name}: {}\n{said}", ended(status)));
        }
        Ok(())
    }

    /// `criu dedup` of a directory and of those before it but the last.
    fn deduplicate(&mut self, images: &Path, dumps: u32) -> Outcome<()> {
        let last = increments::before(images, dumps);
        let had = increments::holes(&last);
        let argv = [&shown(&self.ground.criu), "dedup", "-D", &shown(images), "-o", "dedup.log", "-v4"];
        let output = images.with_extension("dedup");
        let status = self.namespace.run(&argv.map(str::to_owned), &output, STEP)?;
        if status != 0 {
            let said = complaint(&images.join("dedup.log"), &output);
            return Err(format!("criu dedup: {}\n{said}", ended(status)));
        }
        // It goes all the way back by itself.
        if increments::holes(&last) <= had {
            return Err("criu dedup removed nothing from the first dump".to_owned());
        }
        Ok(())
    }

    /// How regrow is to plan.
    fn plan_options(&self) -> impl Iterator<Item = String> + use<> {
        let policy = self.policy.clone().map(|policy| ["--policy".to_owned(), policy]);
        let sharing = self.sharing.map(|sharing| ["--sharing".to_owned(), sharing.to_owned()]);
        policy.into_iter().chain(sharing).flatten()
    }

    /// What regrow is to be started by.
    fn starter(&self) -> Option<String> {
        let is_needed = self.lacks_userfaultfd && self.restorer == Restorer::Regrow;
        is_needed.then(|| shown(&self.ground.program("without_userfaultfd")))
    }

    fn restore(&mut self, round: u32) -> Outcome<()> {
        let images = self.images(round);
        let work = self.directory.join(format!("restore{round}"));
        fs::create_dir(&work).map_err(|error| error.to_string())?;
        let pidfile = work.join("pid");
        let program = match self.restorer {
            Restorer::Regrow => PathBuf::from(env!("CARGO_BIN_EXE_regrow")),
            Restorer::Criu => self.ground.criu.clone(),
        };
        let plan = shown(&work.join("tree.plan"));
        let is_planned = self.by_plan && self.restorer == Restorer::Regrow;
        if is_planned {
            let mut argv =
                [&shown(&program), "plan", "-D", &images, "--out", &plan].map(str::to_owned).to_vec();
            argv.extend(self.plan_options());
            argv.splice(0..0, self.starter());
            let output = self.directory.join(format!("plan{round}.out"));
            let status = self.namespace.run(&argv, &output, STEP)?;
            if status != 0 {
                return Err(format!("plan {round}: {}\n{}", ended(status), complaint(&output, &output)));
            }
        }
        let opened = is_planned.then(|| opened::Opened::watch(Path::new(&images)));
        let mut argv = [
            &shown(&program),
            "restore",
            "-D",
            &images,
            "-W",
            &shown(&work),
            "-o",
            "restore.log",
            "-v4",
            "-d",
            "--pidfile",
            &shown(&pidfile),
        ]
        .map(str::to_owned)
        .to_vec();
        if is_planned {
            argv.extend(["--plan".to_owned(), plan]);
        } else if self.restorer == Restorer::Regrow {
            argv.extend(self.plan_options());
        }
        argv.splice(0..0, self.starter());
        let output = self.directory.join(format!("restore{round}.out"));
        let status = self.namespace.run(&argv, &output, STEP)?;
        if status != 0 {
            return Err(format!(
                "{:?} restore {round}: {}\n{}",
                self.restorer,
                ended(status),
                complaint(&work.join("restore.log"), &output)
            ));
        }
        if let Some(opened) = opened {
            let read = opened.images_that_no_task_copies();
            if !read.is_empty() {
                return Err(format!("restore {round} by a stored plan read {}", read.join(", ")));
            }
        }
        let pid = fs::read_to_string(&pidfile)
            .map_err(|error| format!("no pid file after restore {round}: {error}"))?;
        if pid.trim() != self.root.to_string() {
            return Err(format!("the pid file says {pid:?}, not {}", self.root));
        }
        Ok(())
    }
}

/// What the tests stand on.
struct Ground {
    criu: PathBuf,
    programs: PathBuf,
}

impl Ground {
    /// `None` if the test was skipped, which has been said then.
    fn find() -> Option<&'static Ground> {
        static GROUND: OnceLock<Outcome<Ground>> = OnceLock::new();
        match GROUND.get_or_init(Ground::look) {
            Ok(ground) => Some(ground),
            Err(why) => {
                skip(why);
                None
            }
        }
    }

    fn look() -> Outcome<Ground> {
        let profile =
            Path::new(env!("CARGO_BIN_EXE_regrow")).parent().expect("a binary is in a directory").to_owned();
        let criu = criu::with_rlimit_shim(criu::find(&profile)?, &profile)?;
        build_programs(&profile);
        Ok(Ground { criu, programs: profile })
    }

    fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }
}

/// Cargo builds a package's own binaries for its tests, but not those of another member.
fn build_programs(profile: &Path) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--quiet", "--package", "regrow-test-programs", "--bins"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.env("CARGO_TARGET_DIR", profile.parent().unwrap_or(profile));
    if profile.file_name().is_some_and(|name| name == "release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "building the test programs: {status}");
}

/// Says that the running test was skipped, loudly; a failure where no test may be.
pub(crate) fn skip(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var("REGROW_NO_SKIP").as_deref() != Ok("1"), "{name} may not be skipped: {why}");
    say(&format!("SKIPPED: {name}: {why}"));
    if let Some(path) = std::env::var_os("REGROW_SKIP_FILE") {
        let line = format!("{name}: {why}\n");
        let written = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut it| it.write_all(line.as_bytes()));
        written.expect("REGROW_SKIP_FILE can be written");
    }
}

/// The path of one of `tests/programs`, to be run by the test itself. `None` where tests as root cannot be
/// run, which has been said then.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    Some(Ground::find()?.program(name))
}

/// Past the capturing of test output, which would hide it when the test passes.
pub(crate) fn say(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

fn shown(path: &Path) -> String {
    path.to_str().expect("the tests' paths are UTF-8").to_owned()
}

/// Waits for a file that the program writes, as long as the program lives.
fn wait_for(path: &Path, namespace: &mut Namespace, root: i64, log: &Path) -> Outcome<()> {
    let start = Instant::now();
    while !path.exists() {
        let pids = namespace.ask(json!({ "op": "pids" }), STEP)?;
        let is_alive = pids["pids"].as_array().is_some_and(|pids| pids.contains(&json!(root)));
        if !is_alive || start.elapsed() > STEP {
            let log = fs::read_to_string(log).unwrap_or_default();
            return Err(format!("{} did not appear\n{}", path.display(), tail(&log, 10)));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A wait status in words.
fn ended(status: i64) -> String {
    i32::try_from(status).map_or_else(|_| status.to_string(), |raw| ExitStatus::from_raw(raw).to_string())
}

fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// The errors of a log, or its end, and what was printed.
fn complaint(log: &Path, output: &Path) -> String {
    let mut text = String::new();
    for path in [log, output] {
        let content = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let errors: Vec<&str> = content.lines().filter(|line| line.contains("rror")).collect();
        let part =
            if errors.is_empty() { tail(&content, 8) } else { errors[..errors.len().min(30)].join("\n") };
        let _ = writeln!(text, "--- {}\n{part}", path.display());
    }
    text
}
