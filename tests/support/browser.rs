//! A headless Chromium, driven by the DevTools protocol over a pair of pipes.
//!
//! `--remote-debugging-pipe` speaks JSON, each message ended by a zero byte, on descriptors 3 and 4: no port, no
//! web socket, no driver of its own. Events are kept where a test asks about them: what was loaded, and what went
//! wrong in the page.
//!
//! # Sources
//! The DevTools protocol's domains Target, Page, Runtime, Input, Network, Log.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::skip;

/// No answer takes longer, also on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// A browser with one page.
pub(crate) struct Browser {
    child: Child,
    requests: ChildStdin,
    messages: Receiver<Value>,
    session: Option<String>,
    last: u64,
    /// What the page has asked for: addresses.
    pub(crate) loaded: Vec<String>,
    /// What went wrong in the page.
    pub(crate) faults: Vec<String>,
    _profile: TempDir,
}

impl Browser {
    /// Starts one. `None` where there is none, which has been said then.
    #[must_use]
    pub(crate) fn start(width: u32, height: u32) -> Option<Browser> {
        let is_there = |name: &&&str| Command::new(**name).arg("--version").output().is_ok();
        let Some(name) = NAMES.iter().find(is_there) else {
            skip("no Chromium (apt-get install chromium)");
            return None;
        };
        let profile = tempfile::Builder::new().prefix("regrow-browser-").tempdir().expect("a directory");
        // The shell puts our pipes where Chromium wants them.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", name])
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe"])
            .arg(format!("--window-size={width},{height}"))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Chromium starts");
        let requests = child.stdin.take().expect("a pipe");
        let mut answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while answers.read_until(0, &mut message).is_ok_and(|length| length > 0) {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else { break };
                if sender.send(value).is_err() {
                    break;
                }
                message.clear();
            }
        });
        let mut browser = Browser {
            child,
            requests,
            messages,
            session: None,
            last: 0,
            loaded: Vec::new(),
            faults: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let to = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", to);
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        browser.call("Emulation.setDeviceMetricsOverride", size);
        Some(browser)
    }

    /// One request, and what is answered.
    #[track_caller]
    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut request = json!({ "id": self.last, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            request["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&request).expect("JSON");
        bytes.push(0);
        self.requests.write_all(&bytes).expect("Chromium listens");
        loop {
            let message =
                self.messages.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{method}: no answer"));
            if message["id"] == json!(self.last) {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, message: &Value) {
        let of = &message["params"];
        match message["method"].as_str() {
            Some("Network.requestWillBeSent") => {
                self.loaded.push(of["request"]["url"].as_str().unwrap_or_default().to_owned());
            }
            Some("Runtime.exceptionThrown") => self.faults.push(of["exceptionDetails"].to_string()),
            Some("Log.entryAdded") if of["entry"]["level"] == "error" => {
                self.faults.push(of["entry"].to_string());
            }
            Some("Page.javascriptDialogOpening") => self.faults.push(format!("a dialog: {of}")),
            _ => {}
        }
    }

    /// Opens a file, at a place in it.
    pub(crate) fn open(&mut self, file: &Path, place: &str) {
        let url = format!("file://{}{place}", file.display());
        self.call("Page.navigate", json!({ "url": url }));
        self.wait("document.readyState === 'complete' && !!window.regrow");
    }

    /// What an expression gives.
    #[track_caller]
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let request = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", request);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// The text that an element shows, with all spaces as one.
    #[track_caller]
    pub(crate) fn text(&mut self, selector: &str) -> String {
        let element = format!("document.querySelector({})", json!(selector));
        let text = self.eval(&format!("{element} && {element}.innerText"));
        let text = text.as_str().unwrap_or_else(|| panic!("no {selector}")).to_owned();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub(crate) fn wait(&mut self, expression: &str) {
        let start = Instant::now();
        while self.eval(expression) != json!(true) {
            assert!(start.elapsed() < PATIENCE, "never: {expression}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Clicks on an element, where it is.
    #[track_caller]
    pub(crate) fn click(&mut self, selector: &str) {
        let place = self.eval(&format!(
            "(() => {{ const e = document.querySelector({}); if (!e) return null; \
             e.scrollIntoView({{ block: 'nearest' }}); const b = e.getBoundingClientRect(); \
             return [b.x + b.width / 2, b.y + b.height / 2]; }})()",
            json!(selector)
        ));
        let at = |index: usize| place[index].as_f64().unwrap_or_else(|| panic!("no {selector} to click on"));
        self.click_at(at(0), at(1));
    }

    /// Clicks at a place of the page.
    pub(crate) fn click_at(&mut self, x: f64, y: f64) {
        self.hover(x, y);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": x, "y": y, "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Moves the mouse.
    pub(crate) fn hover(&mut self, x: f64, y: f64) {
        self.call("Input.dispatchMouseEvent", json!({ "type": "mouseMoved", "x": x, "y": y }));
    }

    /// Turns the wheel.
    pub(crate) fn wheel(&mut self, x: f64, y: f64, by: f64, is_control: bool) {
        let modifiers = if is_control { 2 } else { 0 };
        let event = json!({
            "type": "mouseWheel", "x": x, "y": y, "deltaX": 0, "deltaY": by, "modifiers": modifiers
        });
        self.call("Input.dispatchMouseEvent", event);
    }

    /// Types into what has the focus.
    pub(crate) fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Presses a key: a letter, or a name such as `Enter`.
    pub(crate) fn key(&mut self, key: &str) {
        let code = match key {
            "Enter" => 13,
            "Escape" => 27,
            "ArrowLeft" => 37,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            "End" => 35,
            "Home" => 36,
            _ => 0,
        };
        let text = if code == 0 { json!(key) } else { json!("") };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({ "type": kind, "key": key, "text": text, "windowsVirtualKeyCode": code });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// A picture of what is seen, as a PNG; only where somebody wants to look (`REGROW_SHOTS`, a directory).
    pub(crate) fn shoot(&mut self, name: &str) {
        let Some(directory) = std::env::var_os("REGROW_SHOTS") else { return };
        let answer = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        let picture = decode(answer["data"].as_str().unwrap_or_default());
        std::fs::write(Path::new(&directory).join(format!("{name}.png")), picture).expect("a picture");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends when nobody speaks to it any more, with all its processes.
        self.session = None;
        let _ = self.requests.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Base 64.
fn decode(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let values: Vec<u32> = text
        .bytes()
        .filter_map(|letter| LETTERS.iter().position(|known| *known == letter))
        .map(|value| value as u32)
        .collect();
    let mut bytes = Vec::new();
    for group in values.chunks(4) {
        let word = group.iter().fold(0, |word, value| word << 6 | value) << (6 * (4 - group.len()));
        bytes.extend_from_slice(&word.to_be_bytes()[1..group.len()]);
    }
    bytes
}
