//! A tree that lives in images only: dumped by CRIU and gone, in namespaces of its own, to be restored
//! in ways that [`super::Scenario`] does not know: with faults, with altered images, with other options.
//!
//! ```text
//! start ─ ready ─ criu dump ─ all gone ─ [ whatever the test does: nothing may be left, or ─ go ─ checks ok ]*
//! ```
//!
//! What fails here panics: there is nothing to be tidied up but what the drops do.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::guest::{Guest, Job};
use super::namespace::Namespace;
use super::{Ground, PID_BEFORE_ROOT, STEP, complaint, ended, say, shown, skip, tail, wait_for};

/// See the module.
pub(crate) struct Dumped {
    ground: &'static Ground,
    // Before the directory: what lives in the namespaces uses it.
    namespace: Namespace,
    directory: TempDir,
    root: i64,
    pids: Vec<i64>,
    images: Content,
    state: Vec<String>,
    runs: u32,
}

/// Much longer than a rollback takes, also on a busy machine; what is left after it is left for good.
const SETTLED: std::time::Duration = std::time::Duration::from_secs(60);

/// A directory's files: length and hash of each.
type Content = BTreeMap<String, (u64, u64)>;

/// How a program of the namespaces ended, and what it printed.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; `None` if a signal killed it.
    pub(crate) code: Option<i32>,
    /// Standard output and standard error, as they came.
    pub(crate) text: String,
}

/// What came of a restore with a fault.
#[derive(Debug)]
pub(crate) struct Rehearsed {
    /// The fault.
    pub(crate) fault: String,
    /// The exit code; `None` if a signal ended it.
    pub(crate) code: Option<i64>,
    /// What it printed to standard error.
    pub(crate) text: String,
    /// What is not as it was before.
    pub(crate) left: Vec<String>,
}

impl Dumped {
    /// One of `tests/programs`, started in a session of its own, and dumped. `None` where it cannot be
    /// done, which has been said then.
    #[must_use]
    pub(crate) fn program(name: &str, arguments: &[&str]) -> Option<Dumped> {
        Dumped::started(Dumped::nothing()?, |dumped| vec![dumped.helper(name)], arguments)
    }

    /// A script of `tests/programs`, run by bash; otherwise as [`Dumped::program`].
    #[must_use]
    pub(crate) fn script(name: &str, arguments: &[&str]) -> Option<Dumped> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name);
        Dumped::started(Dumped::nothing()?, |_| vec!["bash".to_owned(), shown(&script)], arguments)
    }

    fn started(
        mut dumped: Dumped,
        program: impl FnOnce(&Dumped) -> Vec<String>,
        arguments: &[&str],
    ) -> Option<Dumped> {
        let log = dumped.file("program.log");
        let mut argv = program(&dumped);
        argv.push(shown(&dumped.state_dir()));
        argv.extend(arguments.iter().map(|&argument| argument.to_owned()));
        dumped.root = dumped.namespace.start_detached(&argv, &log).expect("the program starts");
        let ready = dumped.state_dir().join("ready");
        wait_for(&ready, &mut dumped.namespace, dumped.root, &log).expect("the program gets ready");
        dumped.pids = dumped.living();
        dumped.dump();
        dumped.accept_files();
        Some(dumped)
    }

    /// One of `tests/programs`, dumped under another kernel. `None` where it cannot be done, which has been
    /// said then.
    #[must_use]
    pub(crate) fn under_another_kernel(name: &str, arguments: &[&str]) -> Option<Dumped> {
        let ground = Ground::find()?;
        let guest = match Guest::find(ground.programs.parent().unwrap_or(&ground.programs)) {
            Ok(guest) => guest,
            Err(why) => {
                skip(&why);
                return None;
            }
        };
        let mut dumped = Dumped::nothing()?;
        let mut program = vec![dumped.helper(name), shown(&dumped.state_dir())];
        program.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let job = Job {
            init: &ground.program("guestinit"),
            program: &program,
            criu: &super::criu::find(&ground.programs).expect("it was found before"),
            state: &dumped.state_dir(),
            images: &dumped.images_dir(),
            work: dumped.directory.path(),
        };
        let release = guest.dump(&job).expect("a dump under another kernel");
        say(&format!("{name}: dumped under Linux {release}"));
        dumped.root = PID_BEFORE_ROOT + 1;
        dumped.pids = vec![dumped.root];
        dumped.accept_files();
        Some(dumped)
    }

    /// Only the namespaces and the directories: the test itself does the rest.
    #[must_use]
    pub(crate) fn nothing() -> Option<Dumped> {
        let ground = Ground::find()?;
        let directory =
            tempfile::Builder::new().prefix("regrow-test-").tempdir().expect("a directory for the test");
        let mut namespace = Namespace::start(&ground.program("nsinit")).expect("namespaces");
        namespace.ask(json!({ "op": "last_pid", "pid": PID_BEFORE_ROOT }), STEP).expect("last_pid");
        for name in ["state", "images", "work"] {
            fs::create_dir(directory.path().join(name)).expect("a directory");
        }
        Some(Dumped {
            ground,
            namespace,
            directory,
            root: 0,
            pids: Vec::new(),
            images: Content::new(),
            state: Vec::new(),
            runs: 0,
        })
    }

    fn dump(&mut self) {
        let (root, images) = (self.root.to_string(), shown(&self.images_dir()));
        let criu = shown(&self.ground.criu);
        let ended = self.run(&[&criu, "dump", "-t", &root, "-D", &images, "-o", "dump.log", "-v4"]);
        let log = self.images_dir().join("dump.log");
        assert_eq!(ended.code, Some(0), "criu dump: {}\n{}", ended.text, complaint(&log, &log));
        self.await_gone();
    }

    /// Dumps the living tree again, in place of the images that it came from.
    pub(crate) fn dump_again(&mut self) {
        for name in names(&self.images_dir()) {
            fs::remove_file(self.images_dir().join(name)).expect("an image");
        }
        let _ = fs::remove_file(self.work_dir().join("pid"));
        self.dump();
        self.accept_files();
    }

    /// `criu restore` of these images, detached.
    pub(crate) fn restore_by_criu(&mut self) -> Ended {
        let (criu, images, work) = (self.criu(), shown(&self.images_dir()), shown(&self.work_dir()));
        let ended =
            self.run(&[&criu, "restore", "-D", &images, "-W", &work, "-d", "-o", "restore.log", "-v4"]);
        let _ = fs::remove_file(self.work_dir().join("stats-restore"));
        ended
    }

    /// The pid of the tree's root.
    #[must_use]
    pub(crate) fn root(&self) -> i64 {
        self.root
    }

    /// The pids of the whole tree, zombies too.
    #[must_use]
    pub(crate) fn pids(&self) -> &[i64] {
        &self.pids
    }

    /// Where the images are.
    #[must_use]
    pub(crate) fn images_dir(&self) -> PathBuf {
        self.directory.path().join("images")
    }

    /// A directory for logs and pidfiles.
    #[must_use]
    pub(crate) fn work_dir(&self) -> PathBuf {
        self.directory.path().join("work")
    }

    /// The directory in which the tasks meet.
    #[must_use]
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The directory above all of these, for files of the test.
    #[must_use]
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A test program's path.
    #[must_use]
    pub(crate) fn helper(&self, name: &str) -> String {
        shown(&self.ground.program(name))
    }

    /// CRIU's path.
    #[must_use]
    pub(crate) fn criu(&self) -> String {
        shown(&self.ground.criu)
    }

    /// Runs a program in the namespaces to its end.
    pub(crate) fn run(&mut self, argv: &[&str]) -> Ended {
        self.runs += 1;
        let output = self.directory.path().join(format!("run{}.out", self.runs));
        let argv: Vec<String> = argv.iter().map(|&argument| argument.to_owned()).collect();
        let status = self.namespace.run(&argv, &output, STEP).expect("the program runs");
        let text = String::from_utf8_lossy(&fs::read(&output).unwrap_or_default()).into_owned();
        let code = (status & 0x7f == 0).then_some(((status >> 8) & 0xff) as i32);
        Ended { code, text }
    }

    /// Runs a script of bash in the namespaces, with `$REGROW`, `$CRIU`, `$IMAGES`, `$WORK`, `$STATE`, `$DIR`
    /// and `$ROOT`.
    pub(crate) fn shell(&mut self, script: &str) -> Ended {
        let script = self.with_names(script);
        self.run(&["bash", "-c", &script])
    }

    /// A script as [`Dumped::shell`] runs it.
    pub(crate) fn with_names(&self, script: &str) -> String {
        format!(
            "REGROW={} CRIU={} IMAGES={} WORK={} STATE={} DIR={} ROOT={}\n{script}",
            env!("CARGO_BIN_EXE_regrow"),
            self.criu(),
            shown(&self.images_dir()),
            shown(&self.work_dir()),
            shown(&self.state_dir()),
            shown(self.directory.path()),
            self.root
        )
    }

    /// Runs regrow in the namespaces.
    pub(crate) fn regrow(&mut self, arguments: &[&str]) -> Ended {
        let argv: Vec<&str> =
            std::iter::once(env!("CARGO_BIN_EXE_regrow")).chain(arguments.iter().copied()).collect();
        self.run(&argv)
    }

    /// `regrow restore` of these images, with this work directory, detached, and what is added.
    pub(crate) fn restore(&mut self, arguments: &[&str]) -> Ended {
        let (images, work) = (shown(&self.images_dir()), shown(&self.work_dir()));
        let mut all = vec!["restore", "-D", &images, "-W", &work, "-d"];
        all.extend_from_slice(arguments);
        self.regrow(&all)
    }

    /// Restores that are to fail, each with a fault: what came of each. (`rehearse` of the test programs.)
    pub(crate) fn rehearse(&mut self, faults: &[String], options: &[&str]) -> Vec<Rehearsed> {
        /// So many that no run takes as long as a step may.
        const AT_ONCE: usize = 100;
        let list = self.file("faults.log");
        let helper = self.helper("rehearse");
        let (directory, images, work) =
            (shown(self.directory.path()), shown(&self.images_dir()), shown(&self.work_dir()));
        let mut argv = vec![helper.as_str(), list.to_str().expect("UTF-8"), &directory];
        argv.extend([env!("CARGO_BIN_EXE_regrow"), "restore", "-D", &images, "-W", &work, "-d"]);
        argv.extend_from_slice(options);
        let mut all = Vec::new();
        for faults in faults.chunks(AT_ONCE) {
            fs::write(&list, faults.join("\n")).expect("the list of faults");
            let ended = self.run(&argv);
            assert_eq!(ended.code, Some(0), "{}", ended.text);
            all.extend(ended.text.lines().map(|line| {
                let found: Value =
                    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
                let left = found["left"].as_array().map(Vec::as_slice).unwrap_or_default();
                Rehearsed {
                    fault: text("fault"),
                    code: found["code"].as_i64(),
                    text: text("text"),
                    left: left.iter().filter_map(|line| line.as_str().map(str::to_owned)).collect(),
                }
            }));
        }
        assert_eq!(all.len(), faults.len(), "a fault was not tried");
        all
    }

    /// All pids in the namespaces but the init's.
    pub(crate) fn living(&mut self) -> Vec<i64> {
        let answer = self.namespace.ask(json!({ "op": "pids" }), STEP).expect("pids");
        answer["pids"].as_array().expect("pids").iter().filter_map(Value::as_i64).collect()
    }

    /// Waits until none of the tree's pids is taken.
    pub(crate) fn await_gone(&mut self) {
        let request = json!({ "op": "gone", "pids": self.pids, "timeout_ms": 20_000 });
        let answer = self.namespace.ask(request, STEP).expect("gone");
        assert_eq!(answer["left"], json!([]), "tasks are left");
    }

    /// Demands that a failed restore left nothing: no task, no file, the images as they were.
    #[track_caller]
    pub(crate) fn check_nothing_left(&mut self, what: &str) {
        // Also makes the init forget how those ended that it has reaped, whose pids come again.
        self.await_gone();
        let living = self.living();
        assert!(living.is_empty(), "{what}: tasks are left:\n{}", self.describe(&living));
        self.check_files(what);
    }

    /// Demands that no file was made, and that the images are as they were.
    #[track_caller]
    pub(crate) fn check_files(&self, what: &str) {
        assert_eq!(content(&self.images_dir()), self.images, "{what}: the images have changed");
        assert_eq!(self.state_files(), self.state, "{what}: files of the program");
        for name in names(&self.work_dir()) {
            assert!(Path::new(&name).extension().is_some_and(|it| it == "log"), "{what}: {name} is left");
        }
    }

    /// Waits until regrow has ended, if it has not, and the tree either lives or is gone. Says whether any
    /// of it lives; that all of it does is for the caller to check.
    pub(crate) fn settle(&mut self) -> bool {
        let request = json!({ "op": "settle", "timeout_ms": SETTLED.as_millis() as u64 });
        let answer = self.namespace.ask(request, STEP).expect("settle");
        assert_eq!(answer["unsettled"], json!([]), "neither restored nor rolled back");
        !self.living().is_empty()
    }

    /// What `/proc` says of tasks, for a message.
    pub(crate) fn describe(&mut self, pids: &[i64]) -> String {
        let list: Vec<String> = pids.iter().map(ToString::to_string).collect();
        let script =
            format!("cd /proc; for p in {}; do cat $p/stat $p/wchan; echo; done 2>&1", list.join(" "));
        self.run(&["bash", "-c", &script]).text
    }

    /// Demands that the whole tree lives, lets it check itself, and waits until nothing is left. After
    /// that the tree can be restored again.
    #[track_caller]
    pub(crate) fn check_restored(&mut self, what: &str) {
        let living = self.living();
        let described = if living == self.pids { String::new() } else { self.describe(&living) };
        assert_eq!(living, self.pids, "{what}: the tasks:\n{described}");
        fs::write(self.state_dir().join("go"), "").expect("go");
        let status = self.namespace.wait(self.root, STEP).expect("the root ends");
        self.check_result(what);
        assert_eq!(status, 0, "{what}: {}", ended(status));
        self.await_gone();
        self.check_nothing_left(what);
    }

    /// Demands that the program has found itself as it was, and takes back what its check left.
    #[track_caller]
    pub(crate) fn check_result(&mut self, what: &str) {
        let state = self.state_dir();
        let result =
            fs::read_to_string(state.join("result")).unwrap_or_else(|error| format!("no result: {error}"));
        let log = fs::read_to_string(self.file("program.log")).unwrap_or_default();
        assert_eq!(result, "ok\n", "{what}\n{}", tail(&log, 20));
        for name in names(&state) {
            if name == "go" || name == "result" || name.starts_with("done.") {
                fs::remove_file(state.join(name)).expect("a file of the harness");
            }
        }
        let _ = fs::remove_file(self.work_dir().join("pid"));
    }

    /// Ends a part of a tree that has been left.
    #[track_caller]
    pub(crate) fn end_rest(&mut self, what: &str) {
        for pid in self.living() {
            // It may have been buried with its parent.
            self.run(&["kill", "-KILL", &pid.to_string()]);
        }
        let _ = fs::remove_file(self.work_dir().join("pid"));
        self.check_nothing_left(what);
    }

    /// The text of a file in the work directory; empty if there is none.
    #[must_use]
    pub(crate) fn work_text(&self, name: &str) -> String {
        fs::read_to_string(self.work_dir().join(name)).unwrap_or_default()
    }

    /// Starts a task that has nothing to do with the tree, with the given pid.
    pub(crate) fn start_as(&mut self, pid: i64) -> i64 {
        self.namespace.ask(json!({ "op": "last_pid", "pid": pid - 1 }), STEP).expect("last_pid");
        let output = self.file("stranger.out");
        let argv = ["sleep", "1000"].map(str::to_owned);
        let started = self.namespace.start_detached(&argv, &output).expect("sleep starts");
        assert_eq!(started, pid, "another task was faster");
        // `regrow check` does not go out of the way, as a restore does: let it start beyond the tree.
        let highest = self.pids.iter().max().copied().unwrap_or(pid);
        self.namespace.ask(json!({ "op": "last_pid", "pid": highest }), STEP).expect("last_pid");
        started
    }

    /// Ends a task that [`Dumped::start_as`] has started.
    pub(crate) fn end_stranger(&mut self, pid: i64) {
        let ended = self.run(&["kill", "-KILL", &pid.to_string()]);
        assert_eq!(ended.code, Some(0), "{}", ended.text);
        let status = self.namespace.wait(pid, STEP).expect("it ends");
        assert_eq!(status, i64::from(libc::SIGKILL));
    }

    /// Removes the files of sockets that the tree's dump has left, which nobody is bound to any more: a
    /// restore may replace such a file, and one that fails does not bring it back.
    pub(crate) fn remove_stale_sockets(&mut self) {
        let state = shown(&self.state_dir());
        let ended = self.run(&["find", &state, "-type", "s", "-delete"]);
        assert_eq!(ended.code, Some(0), "{}", ended.text);
        self.accept_files();
    }

    /// Takes the images and the program's files as they are now for those that must not change: a test
    /// has altered them.
    pub(crate) fn accept_files(&mut self) {
        self.images = content(&self.images_dir());
        self.state = self.state_files();
    }

    fn state_files(&self) -> Vec<String> {
        names(&self.state_dir())
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .expect("a directory of the test")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn content(directory: &Path) -> Content {
    names(directory)
        .into_iter()
        .filter_map(|name| {
            let bytes = fs::read(directory.join(&name)).ok()?;
            let mut hasher = DefaultHasher::new();
            hasher.write(&bytes);
            Some((name, (bytes.len() as u64, hasher.finish())))
        })
        .collect()
}
