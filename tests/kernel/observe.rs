//! The state of the kernel at the end of a case, in words that do not say which kernel it was: what the
//! model's state is turned into as well ([`crate::modelled`]).
//!
//! One line a fact. Descriptions, objects and tables are numbered in the order in which a walk over
//! tasks and their descriptors first meets them, so that equal states have equal lines.
//!
//! ```text
//! t1000 fd 3          description 1 cloexec
//! description 1       object 0 flags 0o1 position 0
//! object 0            pipe capacity 65536 holds "abc"
//! ```
//!
//! Flags and positions are looked at first, in /proc. Then what can only be had by a call of the task
//! itself is had by one. At the end contents are read out, which changes them.
//!
//! # Sources
//! `proc_pid_fdinfo(5)`, `proc_pid_maps(5)`, `proc_pid_status(5)`, `kcmp(2)`, `pidfd_getfd(2)`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use crate::player::{BASE, Outcome, Player, RO_LEN, RW_LEN, SCRATCH};

/// Facts by what they are about.
pub(crate) type State = BTreeMap<String, String>;

/// KCMP_FILE, KCMP_FILES, KCMP_FS (linux/kcmp.h).
const KCMP_FILE: i32 = 0;
const KCMP_FILES: i32 = 2;
const KCMP_FS: i32 = 3;

/// What is different.
pub(crate) fn difference(kernel: &State, model: &State) -> Vec<String> {
    let keys: BTreeSet<&String> = kernel.keys().chain(model.keys()).collect();
    let mut lines = Vec::new();
    for key in keys {
        let (is, modelled) = (kernel.get(key), model.get(key));
        let is_unknown = modelled.is_none() && crate::modelled::UNKNOWN.iter().any(|end| key.ends_with(end));
        if is != modelled && !is_unknown {
            let none = "—".to_owned();
            let (is, modelled) = (is.unwrap_or(&none), modelled.unwrap_or(&none));
            lines.push(format!("{key}\n  kernel: {is}\n  model:  {modelled}"));
        }
    }
    lines
}

/// Bytes in a few words.
pub(crate) fn shown(bytes: &[u8]) -> String {
    if bytes.len() <= 60 {
        return format!("\"{}\"", bytes.escape_ascii());
    }
    // FNV-1a.
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{} bytes #{hash:x}", bytes.len())
}

/// Looks at all that is left of a tree, and takes it apart.
pub(crate) fn observe(player: &Player<'_>) -> State {
    let mut look = Look { player, state: State::new(), descriptions: Vec::new(), objects: Vec::new() };
    let all: Vec<u32> = player.all().collect();
    for tid in &all {
        look.process(*tid);
    }
    let living = player.living();
    look.tables(&living);
    for tid in &living {
        look.thread(*tid);
    }
    for tid in &living {
        look.asked(*tid);
    }
    look.memory(&living);
    look.contents();
    look.state
}

/// A description: who has it under which number, and a descriptor of our own.
struct Held {
    tid: u32,
    fd: u32,
    own: OwnedFd,
    object: usize,
}

struct Look<'a> {
    player: &'a Player<'a>,
    state: State,
    descriptions: Vec<Held>,
    /// What is shown: device and inode, and one of the descriptions; for what has no inode of its own,
    /// nothing but the description.
    objects: Vec<(Option<(u64, u64)>, usize)>,
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or("").trim()
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn kcmp(a: u32, b: u32, kind: i32, fds: (u32, u32)) -> i64 {
    // SAFETY: kcmp takes numbers and writes nothing.
    let result = unsafe { libc::syscall(libc::SYS_kcmp, a, b, kind, u64::from(fds.0), u64::from(fds.1)) };
    assert!(result >= 0, "kcmp: {}", std::io::Error::last_os_error());
    result
}

/// A descriptor of another task, as one of our own.
fn borrow(tid: u32, fd: u32) -> OwnedFd {
    // PIDFD_THREAD
    let thread = libc::O_EXCL;
    // SAFETY: calls that take numbers; what they give is a new descriptor, ours alone.
    unsafe {
        let pidfd = libc::syscall(libc::SYS_pidfd_open, tid, thread);
        assert!(pidfd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
        let pidfd = OwnedFd::from_raw_fd(pidfd as i32);
        let own = libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0);
        assert!(own >= 0, "pidfd_getfd: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(own as i32)
    }
}

impl Look<'_> {
    fn note(&mut self, about: String, fact: impl Into<String>) {
        self.state.insert(about, fact.into());
    }

    /// Kinship and death of the process that a thread leads, if it does.
    fn process(&mut self, pid: u32) {
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return };
        if field(&status, "Tgid") != pid.to_string() {
            return;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is there");
        let rest = stat.rsplit_once(") ").expect("a name").1;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // Field 3 is the state.
        let at = |number: usize| fields[number - 3];
        let own = std::process::id().to_string();
        let parent = if at(4) == own { "0" } else { at(4) };
        self.note(format!("p{pid} kin"), format!("parent {parent} group {} session {}", at(5), at(6)));
        if matches!(at(3), "Z" | "X") {
            self.note(format!("p{pid} died"), at(52));
        } else {
            self.note(format!("p{pid} pending"), field(&status, "ShdPnd"));
        }
    }

    fn tables(&mut self, living: &[u32]) {
        let mut tables: Vec<u32> = Vec::new();
        let mut places: Vec<u32> = Vec::new();
        for tid in living {
            let table = tables.iter().position(|other| kcmp(*tid, *other, KCMP_FILES, (0, 0)) == 0);
            let table = table.unwrap_or_else(|| {
                tables.push(*tid);
                tables.len() - 1
            });
            self.note(format!("t{tid} table"), table.to_string());
            let place = places.iter().position(|other| kcmp(*tid, *other, KCMP_FS, (0, 0)) == 0);
            let place = place.unwrap_or_else(|| {
                places.push(*tid);
                places.len() - 1
            });
            self.note(format!("t{tid} place"), place.to_string());
            let mut fds: Vec<u32> = fs::read_dir(format!("/proc/{tid}/fd"))
                .expect("it lives")
                .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
                .collect();
            fds.sort_unstable();
            for fd in fds {
                self.descriptor(*tid, fd);
            }
        }
    }

    fn descriptor(&mut self, tid: u32, fd: u32) {
        let info = fs::read_to_string(format!("/proc/{tid}/fdinfo/{fd}")).expect("it is open");
        let flags = u32::from_str_radix(field(&info, "flags"), 8).expect("octal flags");
        let known =
            self.descriptions.iter().position(|held| kcmp(tid, held.tid, KCMP_FILE, (fd, held.fd)) == 0);
        let number = known.unwrap_or_else(|| self.description(tid, fd, &info, flags));
        let cloexec = if flags & libc::O_CLOEXEC as u32 != 0 { " cloexec" } else { "" };
        self.note(format!("t{tid} fd {fd}"), format!("description {number}{cloexec}"));
    }

    fn description(&mut self, tid: u32, fd: u32, info: &str, flags: u32) -> usize {
        let own = borrow(tid, fd);
        let meta = fs::metadata(format!("/proc/{tid}/fd/{fd}")).expect("it is open");
        let link = fs::read_link(format!("/proc/{tid}/fd/{fd}")).expect("it is open");
        let link = link.to_string_lossy().into_owned();
        let is_anonymous = link.starts_with("anon_inode:");
        let inode = (!is_anonymous).then(|| (meta.dev(), meta.ino()));
        let number = self.descriptions.len();
        let object = self.objects.iter().position(|(known, _)| inode.is_some() && *known == inode);
        let object = object.unwrap_or_else(|| {
            self.objects.push((inode, number));
            self.objects.len() - 1
        });
        // O_LARGEFILE is the ABI's (fs/open.c, `force_o_largefile`), O_CLOEXEC the descriptor's.
        let shown = flags & !(libc::O_CLOEXEC as u32 | 0o100_000);
        let position = field(info, "pos");
        self.note(
            format!("description {number}"),
            format!("object {object} flags {shown:#o} position {position}"),
        );
        let kind = self.kind(&link, &meta, info, own.as_raw_fd());
        if matches!(meta.mode() & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR) {
            self.note(format!("object {object} mode"), format!("{:o}", meta.mode() & 0o7777));
            self.note(format!("object {object} owner"), format!("{}:{}", meta.uid(), meta.gid()));
        }
        if link.starts_with("socket:") {
            self.note(format!("object {object} peer"), address(own.as_raw_fd(), libc::getpeername));
        }
        let known = self.state.entry(format!("object {object}")).or_insert_with(|| kind.clone());
        // What is opened by O_PATH does not say all.
        if known.len() < kind.len() {
            *known = kind;
        }
        self.descriptions.push(Held { tid, fd, own, object });
        number
    }

    /// What is shown, as far as it can be told without changing it.
    fn kind(&self, link: &str, meta: &fs::Metadata, info: &str, own: i32) -> String {
        match link {
            "anon_inode:[eventfd]" => {
                let count = u64::from_str_radix(field(info, "eventfd-count"), 16).expect("hexadecimal");
                let semaphore = field(info, "eventfd-semaphore") == "1";
                format!("eventfd {count}{}", if semaphore { " semaphore" } else { "" })
            }
            "anon_inode:[eventpoll]" => {
                // tfd: 5 events: 19 data: 0 pos:0 ino:1 sdev:f
                let mut interests: Vec<String> = info
                    .lines()
                    .filter_map(|line| line.strip_prefix("tfd:"))
                    .map(|line| {
                        let words: Vec<&str> = line.split_whitespace().collect();
                        format!("{}:{}:{}", words[0], words[2], words[4])
                    })
                    .collect();
                interests.sort();
                format!("epoll [{}]", interests.join(" "))
            }
            "anon_inode:[timerfd]" => {
                let (clock, ticks) = (field(info, "clockid"), field(info, "ticks"));
                let flags = field(info, "settime flags");
                let time = |name: &str| {
                    let text = field(info, name).trim_matches(['(', ')']);
                    let (seconds, nanoseconds) = text.split_once(", ").expect("two numbers");
                    [seconds, nanoseconds].map(|number| number.parse::<u64>().expect("a number"))
                };
                let [interval_s, interval_ns] = time("it_interval");
                // What is left of it moves; it is set or not.
                let value = if time("it_value") == [0, 0] { "off" } else { "on" };
                format!(
                    "timerfd clock {clock} ticks {ticks} flags {flags} every {interval_s}.{interval_ns:09} {value}"
                )
            }
            "anon_inode:[signalfd]" => {
                let mask = u64::from_str_radix(field(info, "sigmask"), 16).expect("hexadecimal");
                format!("signalfd {mask:x}")
            }
            link if link.starts_with("pipe:") || meta.mode() & libc::S_IFMT == libc::S_IFIFO => {
                let name = if link.starts_with("pipe:") { "pipe" } else { "fifo" };
                // SAFETY: fcntl takes numbers.
                let capacity = unsafe { libc::fcntl(own, libc::F_GETPIPE_SZ) };
                // O_PATH has no pipe behind it.
                if capacity < 0 { name.to_owned() } else { format!("{name} capacity {capacity}") }
            }
            link if link.starts_with("socket:") => self.socket(own),
            link => {
                let kind = match meta.mode() & libc::S_IFMT {
                    libc::S_IFDIR => "directory",
                    libc::S_IFREG => "file",
                    libc::S_IFCHR => return format!("device {link}"),
                    _ => "other",
                };
                // SAFETY: fcntl takes numbers.
                let seals = unsafe { libc::fcntl(own, libc::F_GET_SEALS) };
                let is_memfd = seals >= 0 && link.starts_with("/memfd:");
                if is_memfd { format!("{kind} seals {seals}") } else { kind.to_owned() }
            }
        }
    }

    fn socket(&self, own: i32) -> String {
        let option = |option| {
            let (mut value, mut len) = (0i32, 4 as libc::socklen_t);
            // SAFETY: value and length are live and of the size that is told.
            let result = unsafe {
                libc::getsockopt(own, libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut len)
            };
            assert_eq!(result, 0);
            value
        };
        format!(
            "socket type {} listens {} name {} sndbuf {} rcvbuf {}",
            option(libc::SO_TYPE),
            option(libc::SO_ACCEPTCONN),
            address(own, libc::getsockname),
            option(libc::SO_SNDBUF),
            option(libc::SO_RCVBUF),
        )
    }

    /// Attributes that /proc has of a thread.
    fn thread(&mut self, tid: u32) {
        let status = fs::read_to_string(format!("/proc/{tid}/status")).expect("it lives");
        let get = |name: &str| words(field(&status, name));
        let facts = [
            ("process", get("Tgid")),
            ("umask", get("Umask")),
            ("uids", get("Uid")),
            ("gids", get("Gid")),
            ("groups", get("Groups")),
            ("own pending", get("SigPnd")),
            ("blocked", get("SigBlk")),
            ("ignored", get("SigIgn")),
            ("caught", get("SigCgt")),
            ("inheritable", get("CapInh")),
            ("permitted", get("CapPrm")),
            ("effective", get("CapEff")),
            ("bounding", get("CapBnd")),
            ("ambient", get("CapAmb")),
            ("no new privileges", get("NoNewPrivs")),
        ];
        for (name, fact) in facts {
            self.note(format!("t{tid} {name}"), fact);
        }
        let name = status.lines().find_map(|line| line.strip_prefix("Name:\t"));
        self.note(format!("t{tid} name"), name.unwrap_or_default());
        let cwd = fs::read_link(format!("/proc/{tid}/cwd")).expect("it lives");
        let cwd = cwd.to_string_lossy().into_owned();
        self.note(format!("t{tid} directory"), cwd.strip_suffix(" (deleted)").unwrap_or(&cwd));
        if let Ok(slack) = fs::read_to_string(format!("/proc/{tid}/timerslack_ns")) {
            self.note(format!("t{tid} slack"), slack.trim());
        }
        // SAFETY: getpriority takes numbers.
        let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, tid) };
        self.note(format!("t{tid} nice"), nice.to_string());
    }

    /// What only a task itself can ask for.
    fn asked(&mut self, tid: u32) {
        let ask = |nr: i64, args: [u64; 6]| {
            self.player.window.write(SCRATCH, &[0; 64]);
            match self.player.play(tid, nr as u64, args) {
                Outcome::Gave(result) if result >= 0 => Some((result, self.player.window.read(SCRATCH, 64))),
                Outcome::Gave(_) | Outcome::Blocks | Outcome::Died => None,
            }
        };
        let word = |bytes: &[u8], at: usize| u64::from_ne_bytes(std::array::from_fn(|i| bytes[8 * at + i]));
        let get = |option: i32| {
            let answer = ask(libc::SYS_prctl, [option as u64, SCRATCH, 0, 0, 0, 0]);
            answer.map_or_else(|| "cannot".to_owned(), |(_, bytes)| (word(&bytes, 0) as u32).to_string())
        };
        let direct = |option: i32| {
            let answer = ask(libc::SYS_prctl, [option as u64, 0, 0, 0, 0, 0]);
            answer.map_or_else(|| "cannot".to_owned(), |(result, _)| result.to_string())
        };
        let alt = ask(libc::SYS_sigaltstack, [0, SCRATCH, 0, 0, 0, 0]).map_or_else(
            || "cannot".to_owned(),
            |(_, bytes)| format!("{:x} {:x} {}", word(&bytes, 0), word(&bytes, 1) as u32, word(&bytes, 2)),
        );
        let mut facts = vec![
            ("death signal", get(libc::PR_GET_PDEATHSIG)),
            ("subreaper", get(libc::PR_GET_CHILD_SUBREAPER)),
            ("dumpable", direct(libc::PR_GET_DUMPABLE)),
            ("securebits", direct(libc::PR_GET_SECUREBITS)),
            ("keeps capabilities", direct(libc::PR_GET_KEEPCAPS)),
            ("no huge pages", direct(libc::PR_GET_THP_DISABLE)),
            ("alternate stack", alt),
        ];
        let limit = ask(libc::SYS_prlimit64, [0, 7, 0, SCRATCH, 0, 0]);
        if let Some((_, bytes)) = limit {
            facts.push((
                "limit of descriptors",
                format!("{} {}", word(&bytes, 0) as i64, word(&bytes, 1) as i64),
            ));
        }
        let facts: Vec<(String, String)> =
            facts.into_iter().map(|(name, fact)| (format!("t{tid} {name}"), fact)).collect();
        self.state.extend(facts);
    }

    /// Mappings page by page: neighbours that are alike are one to the kernel, or not, as it likes.
    fn memory(&mut self, living: &[u32]) {
        for tid in living {
            let status = fs::read_to_string(format!("/proc/{tid}/status")).expect("it lives");
            if field(&status, "Tgid") != tid.to_string() {
                continue;
            }
            let smaps = fs::read_to_string(format!("/proc/{tid}/smaps")).expect("it lives");
            let memory = fs::File::open(format!("/proc/{tid}/mem")).expect("it lives");
            let mut mapping: Option<(u64, u64, String, u64, String)> = None;
            for line in smaps.lines() {
                let head: Vec<&str> = line.splitn(6, ' ').collect();
                if let Some((start, end)) = head[0].split_once('-')
                    && let (Ok(start), Ok(end)) =
                        (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16))
                {
                    let offset = u64::from_str_radix(head[2], 16).expect("hexadecimal");
                    let name = head.get(5).map_or("", |name| name.trim()).to_owned();
                    mapping = Some((start, end, head[1].to_owned(), offset, name));
                } else if let Some(flags) = line.strip_prefix("VmFlags: ")
                    && let Some((start, end, prot, offset, name)) = mapping.take()
                {
                    if start >= BASE && end <= BASE + RW_LEN + RO_LEN || name == "[vsyscall]" {
                        continue;
                    }
                    // dc: not inherited by fork; dd: not in dumps; wf: wiped on fork; nh: no huge pages.
                    let mut kept: Vec<&str> = flags
                        .split_whitespace()
                        .filter(|flag| matches!(*flag, "dc" | "dd" | "wf" | "nh"))
                        .collect();
                    kept.sort_unstable();
                    for page in (start..end).step_by(4096) {
                        let at = if name.is_empty() || name == "/dev/zero (deleted)" {
                            String::new()
                        } else {
                            format!(" file+{:x}", offset + page - start)
                        };
                        let mut bytes = vec![0u8; 4096];
                        // Also what the task itself may not read; behind the end of a file there is nothing.
                        let content = match memory.read_exact_at(&mut bytes, page) {
                            Ok(()) if bytes.iter().all(|byte| *byte == 0) => "zero".to_owned(),
                            Ok(()) => shown(&bytes),
                            Err(_) => "nothing".to_owned(),
                        };
                        let fact = format!("{prot}{at} [{}] {content}", kept.join(" "));
                        self.state.insert(format!("p{tid} page {page:x}"), fact);
                    }
                }
            }
        }
    }

    /// What is in pipes, sockets and files: read out.
    fn contents(&mut self) {
        for index in 0..self.objects.len() {
            let held: Vec<usize> = (0..self.descriptions.len())
                .filter(|held| self.descriptions[*held].object == index)
                .collect();
            let kind = self.state[&format!("object {index}")].clone();
            let content = if kind.starts_with("pipe capacity") || kind.starts_with("fifo capacity") {
                held.iter().find_map(|held| drain_pipe(&self.descriptions[*held].own))
            } else if kind.starts_with("file") {
                let (tid, fd) = (self.descriptions[held[0]].tid, self.descriptions[held[0]].fd);
                let mut bytes = Vec::new();
                let file = fs::File::open(format!("/proc/{tid}/fd/{fd}"));
                file.and_then(|mut file| {
                    file.seek(SeekFrom::Start(0))?;
                    // Sparse ones are long.
                    file.take(1 << 20).read_to_end(&mut bytes)
                })
                .ok()
                .map(|_| {
                    let len = fs::metadata(format!("/proc/{tid}/fd/{fd}")).map_or(0, |meta| meta.len());
                    format!("{len} long {}", shown(&bytes))
                })
            } else if kind.starts_with("socket") && kind.contains(" listens 0 ") {
                held.first().map(|held| drain_socket(&self.descriptions[*held].own, &self.descriptions))
            } else {
                None
            };
            if let Some(content) = content {
                self.note(format!("object {index} holds"), content);
            }
        }
    }
}

fn address(
    socket: i32,
    ask: unsafe extern "C" fn(i32, *mut libc::sockaddr, *mut libc::socklen_t) -> i32,
) -> String {
    let mut bytes = [0u8; 128];
    let mut len = 128 as libc::socklen_t;
    // SAFETY: buffer and length are live and of the size that is told.
    let result = unsafe { ask(socket, bytes.as_mut_ptr().cast(), &raw mut len) };
    if result != 0 { "none".to_owned() } else { shown(bytes.get(2..len as usize).unwrap_or_default()) }
}

fn set_nonblock(fd: i32) -> i32 {
    // SAFETY: fcntl takes numbers.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK);
        flags
    }
}

fn drain_pipe(end: &OwnedFd) -> Option<String> {
    let flags = set_nonblock(end.as_raw_fd());
    if flags & libc::O_ACCMODE == libc::O_WRONLY || flags & libc::O_PATH != 0 {
        return None;
    }
    let mut file = fs::File::from(end.try_clone().ok()?);
    let (mut all, mut bytes) = (Vec::new(), vec![0; 1 << 20]);
    while let Ok(len @ 1..) = file.read(&mut bytes) {
        all.extend_from_slice(&bytes[..len]);
    }
    Some(shown(&all))
}

/// A message: its bytes, and of each description that comes with it the number, if a table has it, too.
pub(crate) type Message = (Vec<u8>, Vec<Option<usize>>);

/// The messages of a socket. Of a stream, what of it was sent together cannot be told; and a datagram socket that
/// is shut down gives empty messages for ever.
pub(crate) fn messages(mut all: Vec<Message>, is_stream: bool) -> String {
    let rights = |rights: &[Option<usize>]| {
        let names = rights.iter().map(|it| it.map_or_else(|| "in flight".to_owned(), |it| it.to_string()));
        format!("[{}]", names.collect::<Vec<_>>().join(" "))
    };
    if is_stream {
        let bytes: Vec<u8> = all.iter().flat_map(|(bytes, _)| bytes).copied().collect();
        let sent: Vec<_> = all.into_iter().flat_map(|(_, rights)| rights).collect();
        return format!("{} {}", shown(&bytes), rights(&sent));
    }
    while all.last().is_some_and(|(bytes, rights)| bytes.is_empty() && rights.is_empty()) {
        all.pop();
    }
    let all: Vec<String> =
        all.iter().map(|(bytes, sent)| format!("{} {}", shown(bytes), rights(sent))).collect();
    all.join(", ")
}

/// Which of the descriptions a descriptor of our own refers to, if it is one of them.
fn known_as(own: i32, known: &[Held]) -> Option<usize> {
    let pid = std::process::id();
    known.iter().position(|held| kcmp(pid, pid, KCMP_FILE, (own as u32, held.own.as_raw_fd() as u32)) == 0)
}

fn drain_socket(socket: &OwnedFd, known: &[Held]) -> String {
    const MOST: usize = 600;
    let fd = socket.as_raw_fd();
    set_nonblock(fd);
    let mut all: Vec<Message> = Vec::new();
    let (mut kind, mut len) = (0i32, 4 as libc::socklen_t);
    // SAFETY: value and length are live and of the size that is told.
    unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_TYPE, (&raw mut kind).cast(), &raw mut len) };
    // An error that waits comes before the messages, once.
    let mut errors = 0;
    while all.len() < MOST && errors < 2 {
        let mut bytes = vec![0u8; 1 << 18];
        let mut control = [0u64; 256];
        let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: zeroes are a message header without anything.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        (header.msg_iov, header.msg_iovlen) = (&raw mut vector, 1);
        (header.msg_control, header.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control));
        // SAFETY: the header names live buffers and their lengths.
        let got = unsafe { libc::recvmsg(fd, &raw mut header, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) };
        if got < 0 {
            errors += 1;
            continue;
        }
        let mut rights = Vec::new();
        // SAFETY: the kernel has filled the header; the macros walk what it says is there.
        unsafe {
            let mut message = libc::CMSG_FIRSTHDR(&raw const header);
            while !message.is_null() {
                if (*message).cmsg_type == libc::SCM_RIGHTS {
                    let data = libc::CMSG_DATA(message).cast::<i32>();
                    let count = ((*message).cmsg_len - 16) / 4;
                    for nth in 0..count {
                        let own = OwnedFd::from_raw_fd(data.add(nth).read_unaligned());
                        rights.push(known_as(own.as_raw_fd(), known));
                    }
                }
                message = libc::CMSG_NXTHDR(&raw const header, message);
            }
        }
        if got == 0 && rights.is_empty() && kind == libc::SOCK_STREAM {
            break;
        }
        bytes.truncate(got as usize);
        all.push((bytes, rights));
    }
    messages(all, kind == libc::SOCK_STREAM)
}
