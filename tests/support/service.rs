//! A real, unmodified program that serves (`scripts/provide-programs`), taken through dumps and restores while
//! it knows nothing of it: [`Service`].
//!
//! ```text
//! start ─ answers ─ settled ─ snapshot ─ criu dump ─ all gone ─ regrow restore ─ snapshot, equal? ─ asked ─┐
//!                      ▲                                                                                   │ once more,
//!                      └───────────────────────────────────────────────────────────────────────────────────┘ then by CRIU
//! told to end ─ exit status ─ nothing left
//! ```
//!
//! What fails here panics; the drops tidy up.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::namespace::Namespace;
use super::{Ground, PID_BEFORE_ROOT, Restorer, STEP, Scenario, Stage, ended, say, shown, skip, tail};

/// How long a service may take to answer, also on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// No answer to one request takes longer.
const ANSWER: Duration = Duration::from_secs(20);

/// See the module.
pub(crate) struct Service {
    // Before the directory: what lives in the namespaces uses it.
    stage: Stage<'static>,
    scenario: Scenario,
    directory: TempDir,
    rounds: u32,
}

impl Service {
    /// Starts a program of `scripts/provide-programs` with `NAME=VALUE` in its environment. Its arguments
    /// are made from the directory for its files. `None` where it cannot be done, which has been said then.
    #[must_use]
    pub(crate) fn start(
        name: &str,
        environment: &[&str],
        arguments: impl FnOnce(&Path) -> Vec<String>,
    ) -> Option<Service> {
        let ground = Ground::find()?;
        let program = match provided(name) {
            Ok(program) => program,
            Err(why) => {
                skip(&why);
                return None;
            }
        };
        let directory = tempfile::Builder::new().prefix("regrow-test-").tempdir().expect("a directory");
        // Services give their files to other users.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
        let mut namespace = Namespace::start(&ground.program("nsinit")).expect("namespaces");
        // Programs look there for what came with them. Nobody else sees it.
        let shared = shown(&program.with_file_name("root/usr/share"));
        let mount = ["mount", "--bind", &shared, "/usr/share"].map(str::to_owned);
        let output = directory.path().join("mount.out");
        assert_eq!(namespace.run(&mount, &output, STEP), Ok(0), "{}", text_of(&output));
        namespace.ask(json!({ "op": "last_pid", "pid": PID_BEFORE_ROOT }), STEP).expect("last_pid");
        let mut argv = vec!["env".to_owned()];
        argv.extend(environment.iter().map(|&setting| setting.to_owned()));
        argv.push(shown(&program));
        argv.extend(arguments(directory.path()));
        let log = directory.path().join("program.log");
        let root = namespace.start_detached(&argv, &log).expect("the program starts");
        let restorer = Restorer::chosen();
        let scenario = Scenario::new(name, &[], false).with_moving_memory();
        let stage = Stage {
            namespace,
            ground,
            directory: directory.path().to_owned(),
            root,
            dump_options: Vec::new(),
            by_plan: scenario.by_plan,
            policy: scenario.policy.clone(),
            sharing: scenario.sharing,
            lacks_userfaultfd: scenario.lacks_userfaultfd,
            increments: scenario.increments,
            restorer,
        };
        let rounds = scenario.rounds;
        Some(Service { stage, scenario, directory, rounds })
    }

    /// For rounds by CRIU: what [`Scenario::criu_changes`] says.
    #[must_use]
    pub(crate) fn criu_changes(mut self, (pieces, why): (&[&'static str], &'static str)) -> Service {
        self.scenario.criu_changes.push((pieces.to_vec(), why));
        self
    }

    /// The directory of the service's files.
    #[must_use]
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A file of the service, by name.
    #[must_use]
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The pid of the service's first task, in its namespace.
    #[must_use]
    pub(crate) fn root(&self) -> i64 {
        self.stage.root
    }

    /// The pids of all its tasks.
    pub(crate) fn pids(&mut self) -> Vec<i64> {
        let answer = self.stage.namespace.ask(json!({ "op": "pids" }), STEP).expect("pids");
        answer["pids"].as_array().expect("pids").iter().filter_map(Value::as_i64).collect()
    }

    /// Waits until `attempt` gives something.
    #[track_caller]
    pub(crate) fn eventually<T>(&mut self, what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(value) = attempt() {
                return value;
            }
            let alive = self.pids().contains(&self.stage.root);
            assert!(alive && start.elapsed() < PATIENCE, "{what}: nothing came of it\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Dumps and restores the service, twice by regrow and once more by CRIU, and calls `ask` each time with
    /// the number of the round.
    pub(crate) fn dump_and_restore(&mut self, mut ask: impl FnMut(&mut Service, u32)) {
        for round in 1..=self.rounds + 1 {
            if round > self.rounds {
                self.stage.restorer = Restorer::Criu;
            }
            let log = self.file("program.log");
            let log = || tail(&text_of(&log), 20);
            let before = self.stage.settled(&self.scenario, &format!("before{round}"), log);
            let before = before.unwrap_or_else(|failure| panic!("{failure}"));
            let small = self.stage.pss_kb().unwrap_or_else(|failure| panic!("{failure}"));
            let ok = self.stage.dump(round, &before).and_then(|()| self.stage.restore(round));
            ok.unwrap_or_else(|failure| panic!("{failure}\n{}", self.log()));
            if self.stage.restorer == Restorer::Regrow {
                let ok = self.stage.demand_small(round, small);
                ok.unwrap_or_else(|failure| panic!("{failure}"));
            }
            let same = self.stage.await_same(&self.scenario, &format!("restored{round}"), &before);
            same.unwrap_or_else(|text| panic!("after restore {round}:\n{text}"));
            ask(self, round);
        }
    }

    /// Sends a signal to the first task.
    pub(crate) fn signal(&mut self, signal: &str) {
        let script = format!("kill -{signal} {}", self.stage.root);
        let output = self.file("kill.out");
        let argv = ["bash", "-c", &script].map(str::to_owned);
        let status = self.stage.namespace.run(&argv, &output, STEP).expect("kill runs");
        assert_eq!(status, 0, "{}", text_of(&output));
    }

    /// Demands that the service ends, as a signal or a request has told it to, with exit status 0, and leaves
    /// no task.
    pub(crate) fn end(mut self) {
        let status = self.stage.namespace.wait(self.stage.root, STEP);
        let status = status.unwrap_or_else(|failure| panic!("{failure}\n{}", self.log()));
        assert_eq!(status, 0, "{}\n{}", ended(status), self.log());
        let left = self.pids();
        assert!(left.is_empty(), "tasks are left: {left:?}");
        self.stage.namespace.end().expect("the namespaces end");
    }

    fn log(&self) -> String {
        tail(&text_of(&self.file("program.log")), 20)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::env::var_os("REGROW_KEEP").is_some() {
            self.directory.disable_cleanup(true);
            say(&format!("kept: {}", self.directory.path().display()));
        }
    }
}

fn text_of(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The wrapper that runs a program of `scripts/provide-programs`.
pub(crate) fn provided(name: &str) -> Result<PathBuf, String> {
    let profile = Path::new(env!("CARGO_BIN_EXE_regrow")).parent().expect("a binary is in a directory");
    [profile.parent().unwrap_or(profile), &Path::new(env!("CARGO_MANIFEST_DIR")).join("target")]
        .iter()
        .filter_map(|target| fs::read_dir(target.join("programs")).ok())
        .flatten()
        .filter_map(|suite| Some(suite.ok()?.path()))
        .filter(|suite| suite.join(".complete").is_file())
        .map(|suite| suite.join(name))
        .find(|program| program.is_file())
        .ok_or_else(|| format!("no {name} to test with: run scripts/provide-programs"))
}

/// A file of `tests/programs/real`.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/real").join(name)
}

/// A port of the loopback interface that nobody has: below those that the kernel gives by itself, since it
/// must be free again after the dump.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test programs run at the same time: each starts somewhere else.
    let start = std::process::id() % 1000 * 10;
    loop {
        let port = 20_000 + (start as u16 + NEXT.fetch_add(1, Ordering::SeqCst)) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The whole answer to a request over TCP, after which the service closes the connection; `None` if nobody
/// listens yet.
pub(crate) fn ask_tcp(port: u16, request: &[u8]) -> Option<String> {
    let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(ANSWER)).expect("timeout");
    Some(converse(stream, request))
}

/// The same over a unix socket.
pub(crate) fn ask_unix(path: &Path, request: &[u8]) -> Option<String> {
    let stream = UnixStream::connect(path).ok()?;
    stream.set_read_timeout(Some(ANSWER)).expect("timeout");
    Some(converse(stream, request))
}

fn converse(mut stream: impl Read + Write, request: &[u8]) -> String {
    stream.write_all(request).expect("the request is sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the answer comes");
    String::from_utf8_lossy(&answer).into_owned()
}

/// A request of HTTP/1.1 after which the connection is closed.
pub(crate) fn http(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// Status and body of an answer of HTTP/1.1.
pub(crate) fn answer(text: &str) -> (u16, &str) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    (status.unwrap_or(0), body)
}
