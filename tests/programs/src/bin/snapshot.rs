//! Prints, as JSON, what can be seen of the tree of tasks below a root: `snapshot PID [--strict]`.
//!
//! Two snapshots of the same tree are equal, and a restored tree's equals the original's: everything
//! that a number of the kernel's names (inodes of pipes, sockets and deleted files) is named by its
//! first user instead, in the order of pids, descriptors and addresses. What is compared:
//!
//! - `tasks.PID`: identity, state, credentials, signals, limits, layout, environment, thread by thread,
//!   and what is shared with the parent;
//! - `tasks.PID.fds.N`: link, flags, position, what fdinfo says, and `description`, the first
//!   `PID/N` that refers to the *same open file description* (kcmp);
//! - `tasks.PID.maps.RANGE`: mergeable neighbours are joined; `tasks.PID.pages`: the pages with content
//!   of private memory, by a hash, without the stack (parked tasks use it), the rseq area and pages
//!   that are as in the mapped file (a dump leaves such a page of text behind);
//! - `descriptions`: pipes' capacity and content, sockets' peer, queues, buffers and shutdown;
//! - `shared_memory`: content of shared anonymous objects.
//!
//! What a task cannot be asked for (signal handlers, alternate stacks, registers) is for the programs'
//! own checks. Tasks are stopped while they are looked at. `--strict` adds the VM flag `ac`: memory that
//! was ever writable stays accounted, which programs cannot see.

#![allow(clippy::print_stdout, reason = "standard output is the result")]

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};

type Error = Box<dyn std::error::Error>;
type Result<T, E = Error> = std::result::Result<T, E>;

const PAGE_BYTES: u64 = 4096;

fn main() -> Result<()> {
    let root: i32 = std::env::args().nth(1).ok_or("snapshot PID")?.parse()?;
    let pids = tree(root)?;
    let is_strict = std::env::args().nth(2).as_deref() == Some("--strict");
    let mut snapshot = Snapshot { is_strict, sockets: unix_sockets()?, ..Snapshot::default() };
    let stopped = Stopped::all(&pids)?;
    let mut tasks = Map::new();
    for pid in &pids {
        let task = snapshot.task(*pid, &stopped).map_err(|error| format!("task {pid}: {error}"))?;
        tasks.insert(pid.to_string(), task);
    }
    let descriptions = snapshot.describe()?;
    drop(stopped);
    println!(
        "{}",
        json!({ "tasks": tasks, "descriptions": descriptions, "shared_memory": snapshot.shared_memory })
    );
    Ok(())
}

/// The pids of `root` and everything below it, ascending.
fn tree(root: i32) -> Result<Vec<i32>> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok())
            && let Ok(stat) = Stat::read(&format!("/proc/{pid}/stat"))
        {
            parents.insert(pid, stat.number(4)?);
        }
    }
    if !parents.contains_key(&root) {
        return Err(format!("there is no task {root}").into());
    }
    let is_below = |mut pid: i64| {
        while pid != i64::from(root) {
            match i32::try_from(pid).ok().and_then(|pid| parents.get(&pid)) {
                Some(parent) => pid = *parent,
                None => return false,
            }
        }
        true
    };
    Ok(parents.keys().copied().filter(|pid| is_below(i64::from(*pid))).collect())
}

/// The fields of a stat file, numbered from 1 as in proc(5).
struct Stat {
    comm: String,
    rest: Vec<String>,
}

impl Stat {
    fn read(path: &str) -> Result<Stat> {
        let text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
        let open = text.find('(').ok_or("stat")?;
        let close = text.rfind(')').ok_or("stat")?;
        Ok(Stat {
            comm: text[open + 1..close].to_owned(),
            rest: text[close + 1..].split_whitespace().map(str::to_owned).collect(),
        })
    }

    fn field(&self, number: usize) -> Result<&str> {
        Ok(self.rest.get(number - 3).ok_or("stat is too short")?)
    }

    fn number(&self, number: usize) -> Result<i64> {
        Ok(self.field(number)?.parse()?)
    }

    /// Whether it runs or sleeps is an accident; whether it is stopped or dead is not.
    fn state(&self) -> Result<String> {
        Ok(match self.field(3)? {
            "R" | "S" | "D" | "I" => "alive",
            "T" => "stopped",
            // Ours: taken as alive, because a task stopped before is seen as "T" before we seize it.
            "t" => "alive",
            "Z" | "X" => "zombie",
            other => other,
        }
        .to_owned())
    }
}

/// Tasks whose threads are held by ptrace until this is dropped.
struct Stopped {
    states: HashMap<i32, String>,
    rseq: HashMap<i32, (u64, u64)>,
    threads: Vec<Pid>,
}

impl Stopped {
    fn all(pids: &[i32]) -> Result<Stopped> {
        let mut stopped = Stopped { states: HashMap::new(), rseq: HashMap::new(), threads: Vec::new() };
        for pid in pids {
            let state = Stat::read(&format!("/proc/{pid}/stat"))?.state()?;
            let alive = state != "zombie";
            stopped.states.insert(*pid, state);
            if alive {
                for thread in numbers(&format!("/proc/{pid}/task"))? {
                    stopped.seize(thread)?;
                }
            }
        }
        Ok(stopped)
    }

    fn seize(&mut self, thread: i32) -> Result<()> {
        let pid = Pid::from_raw(thread);
        ptrace::seize(pid, ptrace::Options::empty()).map_err(|error| format!("seize {thread}: {error}"))?;
        self.threads.push(pid);
        ptrace::interrupt(pid)?;
        waitpid(pid, Some(WaitPidFlag::__WALL))?;
        // struct ptrace_rseq_configuration: pointer, size, signature, flags, pad.
        let mut configuration = [0u64; 3];
        const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
        // SAFETY: the kernel writes at most the given size into the live array.
        let length = unsafe {
            libc::ptrace(
                PTRACE_GET_RSEQ_CONFIGURATION,
                thread,
                size_of_val(&configuration),
                configuration.as_mut_ptr(),
            )
        };
        if length > 0 && configuration[0] != 0 {
            self.rseq.insert(thread, (configuration[0], configuration[1]));
        }
        Ok(())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for thread in &self.threads {
            let _ = ptrace::detach(*thread, None);
        }
    }
}

fn numbers(folder: &str) -> Result<Vec<i32>> {
    let mut found: Vec<i32> =
        fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    found.sort_unstable();
    Ok(found)
}

fn text(path: &str) -> Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(path).map_err(|error| format!("{path}: {error}"))?).into_owned())
}

fn link(path: &str) -> Result<String> {
    Ok(fs::read_link(path).map_err(|error| format!("{path}: {error}"))?.to_string_lossy().into_owned())
}

fn hash(bytes: &[u8]) -> String {
    let mut state = 0xcbf2_9ce4_8422_2325u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = (state ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
    }
    format!("{state:016x}")
}

/// What makes two descriptors worth a kcmp.
type Suspicion = (u64, u64, String, String);

#[derive(Default)]
struct Snapshot {
    is_strict: bool,
    /// The name that stands for an object whose number the kernel chose: (device, inode) -> first user.
    names: HashMap<(u64, u64), String>,
    /// Different open file descriptions that look alike: each by its first (pid, fd).
    alike: HashMap<Suspicion, Vec<(i32, RawFd)>>,
    /// Every open file description, by its first user.
    first: BTreeMap<(i32, RawFd), Kind>,
    sockets: HashMap<u32, UnixSocket>,
    socket_names: HashMap<u64, String>,
    shared_memory: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Clone, Copy)]
enum Kind {
    Pipe,
    Socket { inode: u64 },
}

impl Snapshot {
    fn task(&mut self, pid: i32, stopped: &Stopped) -> Result<Value> {
        let proc = format!("/proc/{pid}");
        let stat = Stat::read(&format!("{proc}/stat"))?;
        let state = stopped.states[&pid].clone();
        let mut task = Map::new();
        task.insert("comm".into(), json!(stat.comm));
        for (name, number) in
            [("parent", 4), ("group", 5), ("session", 6), ("terminal", 7), ("exit_signal", 38)]
        {
            task.insert(name.into(), json!(stat.number(number)?));
        }
        task.insert("state".into(), json!(state));
        if state == "zombie" {
            // Of a stopped task it is the signal, until its parent has asked for it.
            task.insert("exit_code".into(), json!(stat.number(52)?));
            return Ok(Value::Object(task));
        }
        for (name, number) in [
            ("priority", 18),
            ("nice", 19),
            ("start_code", 26),
            ("end_code", 27),
            ("start_stack", 28),
            ("rt_priority", 40),
            ("policy", 41),
            ("start_data", 45),
            ("end_data", 46),
            ("start_brk", 47),
            ("arg_start", 48),
            ("arg_end", 49),
            ("env_start", 50),
            ("env_end", 51),
        ] {
            task.insert(name.into(), json!(stat.field(number)?));
        }
        task.insert("status".into(), status(&format!("{proc}/status"), Of::Process)?);
        for name in ["cmdline", "environ"] {
            let bytes = fs::read(format!("{proc}/{name}"))?;
            let words: Vec<_> = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
            task.insert(name.into(), json!(words));
        }
        for name in ["cwd", "root", "exe"] {
            task.insert(name.into(), json!(link(&format!("{proc}/{name}"))?));
        }
        for name in ["oom_score_adj", "timerslack_ns", "personality", "coredump_filter"] {
            task.insert(name.into(), json!(text(&format!("{proc}/{name}"))?.trim_end()));
        }
        // Hierarchies come and go with whoever mounts them, and every task is in the root of each.
        let groups = text(&format!("{proc}/cgroup"))?;
        let groups: Vec<_> = groups
            .lines()
            .filter_map(|line| line.split_once(':').map(|(_, group)| group))
            .filter(|group| !group.ends_with(":/"))
            .collect();
        task.insert("cgroups".into(), json!(groups));
        let limits = text(&format!("{proc}/limits"))?;
        task.insert("limits".into(), json!(limits.lines().skip(1).map(squeeze).collect::<Vec<_>>()));
        let auxv = fs::read(format!("{proc}/auxv"))?;
        let auxv: Vec<String> =
            auxv.chunks(8).map(|word| word.iter().rev().map(|b| format!("{b:02x}")).collect()).collect();
        task.insert("auxv".into(), json!(auxv));
        let mut namespaces = Map::new();
        for entry in fs::read_dir(format!("{proc}/ns"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            namespaces.insert(name.clone(), json!(link(&format!("{proc}/ns/{name}"))?));
        }
        task.insert("namespaces".into(), Value::Object(namespaces));
        task.insert("shared_with_parent".into(), json!(shared(pid, i32::try_from(stat.number(4)?)?)));
        let mut threads = Map::new();
        for thread in numbers(&format!("{proc}/task"))? {
            threads
                .insert(thread.to_string(), self.thread(&format!("{proc}/task/{thread}"), thread, stopped)?);
        }
        task.insert("threads".into(), Value::Object(threads));
        task.insert("fds".into(), self.fds(pid)?);
        let (maps, pages) = self.memory(pid, stopped)?;
        task.insert("maps".into(), maps);
        task.insert("pages".into(), pages);
        Ok(Value::Object(task))
    }

    fn thread(&self, proc: &str, thread: i32, stopped: &Stopped) -> Result<Value> {
        let stat = Stat::read(&format!("{proc}/stat"))?;
        let (mut head, mut length) = (0usize, 0usize);
        // SAFETY: both pointers are to live words.
        let robust =
            unsafe { libc::syscall(libc::SYS_get_robust_list, thread, &raw mut head, &raw mut length) };
        let rseq = stopped.rseq.get(&thread);
        Ok(json!({
            "comm": stat.comm,
            "status": status(&format!("{proc}/status"), Of::Thread)?,
            "robust_list": if robust == 0 { format!("{head:#x}") } else { format!("error {robust}") },
            "rseq": rseq.map(|(address, _)| format!("{address:#x}")),
            "rseq_size_and_signature": rseq.map(|(_, rest)| format!("{rest:#x}")),
        }))
    }

    fn fds(&mut self, pid: i32) -> Result<Value> {
        let mut fds = Map::new();
        for fd in numbers(&format!("/proc/{pid}/fd"))? {
            let path = format!("/proc/{pid}/fd/{fd}");
            let here = format!("{pid}/{fd}");
            let target = link(&path)?;
            let metadata = fs::metadata(&path);
            let (device, inode) = metadata.as_ref().map_or((0, 0), |it| (it.dev(), it.ino()));
            let mut entry = Map::new();
            let mut kind = None;
            let named = if target.starts_with("pipe:") {
                kind = Some(Kind::Pipe);
                format!("pipe of {}", self.name(device, inode, &here))
            } else if target.starts_with("socket:") {
                kind = Some(Kind::Socket { inode });
                self.socket_names.entry(inode).or_insert_with(|| here.clone());
                format!("socket of {}", self.name(device, inode, &here))
            } else if target.ends_with(" (deleted)") || target.starts_with("/proc/") {
                // Inodes of /proc get their numbers when somebody looks.
                format!("{target} of {}", self.name(device, inode, &here))
            } else if target.starts_with('/') {
                format!("{target} {device:x}:{inode}")
            } else {
                target.clone()
            };
            entry.insert("file".into(), json!(named));
            let mut id = String::new();
            let mut more = Vec::new();
            for line in text(&format!("/proc/{pid}/fdinfo/{fd}"))?.lines() {
                match line.split_once(':').map(|(name, value)| (name, value.trim())) {
                    Some(("ino", _)) => {}
                    Some(("eventfd-id", value)) => id = value.to_owned(),
                    Some((
                        name @ ("pos" | "flags" | "mnt_id" | "eventfd-count" | "eventfd-semaphore"),
                        value,
                    )) => {
                        entry.insert(name.into(), json!(value));
                    }
                    // Time goes by; a deadline that is past stands for a whole period.
                    Some(("it_value", _)) => {}
                    // What an epoll file watches: without inode numbers, which the kernel chose.
                    Some(("tfd", _)) => more.push(squeeze(line.split("pos:").next().unwrap_or(line))),
                    _ => more.push(squeeze(line)),
                }
            }
            if target == "anon_inode:[eventpoll]" {
                // The kernel lists them by address.
                more.sort();
            }
            if !more.is_empty() {
                entry.insert("more".into(), json!(more));
            }
            let looks = self.alike.entry((device, inode, target, id)).or_default();
            let mut description = None;
            for (other_pid, other_fd) in looks.iter() {
                if is_same_description((pid, fd), (*other_pid, *other_fd))? {
                    description = Some((*other_pid, *other_fd));
                    break;
                }
            }
            let description = description.unwrap_or_else(|| {
                looks.push((pid, fd));
                if let Some(kind) = kind {
                    self.first.insert((pid, fd), kind);
                }
                (pid, fd)
            });
            entry.insert("description".into(), json!(format!("{}/{}", description.0, description.1)));
            fds.insert(fd.to_string(), Value::Object(entry));
        }
        Ok(Value::Object(fds))
    }

    fn name(&mut self, device: u64, inode: u64, here: &str) -> String {
        self.names.entry((device, inode)).or_insert_with(|| here.to_owned()).clone()
    }

    /// The insides of pipes and sockets, by their first user. Looking takes nothing out of them.
    fn describe(&self) -> Result<Value> {
        let mut descriptions = Map::new();
        for ((pid, fd), kind) in &self.first {
            let own = steal(*pid, *fd).map_err(|error| format!("descriptor {pid}/{fd}: {error}"))?;
            let value = match kind {
                Kind::Pipe => describe_pipe(&own)?,
                Kind::Socket { inode } => self.describe_socket(&own, *inode),
            };
            descriptions.insert(format!("{pid}/{fd}"), value);
        }
        Ok(Value::Object(descriptions))
    }

    fn describe_socket(&self, socket: &OwnedFd, inode: u64) -> Value {
        let mut options = Map::new();
        for (name, option) in [
            ("domain", libc::SO_DOMAIN),
            ("type", libc::SO_TYPE),
            ("protocol", libc::SO_PROTOCOL),
            ("send_buffer_bytes", libc::SO_SNDBUF),
            ("receive_buffer_bytes", libc::SO_RCVBUF),
            ("listens", libc::SO_ACCEPTCONN),
            ("passes_credentials", libc::SO_PASSCRED),
        ] {
            options.insert(name.into(), json!(socket_option(socket, option)));
        }
        options.insert("readable_bytes".into(), json!(count(socket, libc::FIONREAD)));
        options.insert("owner".into(), json!(owner(socket)));
        // Both queues count the kernel's overhead too; equal contents give equal numbers.
        options.insert("unread_by_peer".into(), json!(count(socket, libc::TIOCOUTQ).map(|bytes| bytes > 0)));
        if let Some(unix) = u32::try_from(inode).ok().and_then(|inode| self.sockets.get(&inode)) {
            options.insert("state".into(), json!(unix.state));
            options.insert("shutdown".into(), json!(unix.shutdown));
            options.insert("address".into(), json!(unix.name));
            let peer = unix.peer.map(|peer| {
                self.socket_names.get(&u64::from(peer)).map_or("none, or outside of the tree", String::as_str)
            });
            options.insert("peer".into(), json!(peer));
        }
        Value::Object(options)
    }

    fn memory(&mut self, pid: i32, stopped: &Stopped) -> Result<(Value, Value)> {
        let mut joined: Vec<(u64, u64, Vma)> = Vec::new();
        let mut pages = Map::new();
        let content = File::open(format!("/proc/{pid}/mem"))?;
        let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
        for (start, end, mut vma) in vmas(&text(&format!("/proc/{pid}/smaps"))?, self.is_strict)? {
            let is_shared = vma.permissions.ends_with('s');
            if vma.name.ends_with(" (deleted)") {
                let here = format!("{pid}/{start:x}");
                let name = self.names.entry((0x1_0000_0000 | vma.device, vma.inode)).or_insert(here).clone();
                let is_nameless =
                    ["/dev/zero", "/anon_hugepage"].iter().any(|name| vma.name.starts_with(name));
                if is_shared && is_nameless || vma.name.starts_with("/memfd:") {
                    self.shared_content(pid, start, end, &vma, &name)?;
                }
                // Also set aside: the device of anonymous shared memory, which is an internal one.
                (vma.inode, vma.device) = (0, 0);
                vma.object = name;
            }
            if !is_shared && !vma.name.starts_with("[v") && vma.name != "[stack]" {
                let rseq: Vec<u64> = stopped.rseq.values().map(|(address, _)| *address).collect();
                let file = match vma.name.starts_with('/') {
                    true => File::open(format!("/proc/{pid}/map_files/{start:x}-{end:x}")).ok(),
                    false => None,
                };
                let memory = Private {
                    pagemap: &pagemap,
                    content: &content,
                    rseq: &rseq,
                    file: file.map(|it| (it, vma.offset)),
                };
                memory.note(start, end, &mut pages)?;
            }
            // The file that the kernel puts behind private huge pages is nobody's, and not in the images.
            if !is_shared && vma.name.starts_with("/anon_hugepage") {
                (vma.offset, vma.object) = (0, String::new());
            }
            match joined.last_mut() {
                Some((first, last, before)) if *last == start && before.joins(&vma, start - *first) => {
                    *last = end
                }
                _ => joined.push((start, end, vma)),
            }
        }
        let mut maps = Map::new();
        for (start, end, vma) in joined {
            maps.insert(format!("{start:012x}-{end:012x}"), json!(vma.to_string()));
        }
        Ok((Value::Object(maps), Value::Object(pages)))
    }

    /// Notes what a shared object holds in the part that is mapped here, without filling its holes.
    fn shared_content(&mut self, pid: i32, start: u64, end: u64, vma: &Vma, name: &str) -> Result<()> {
        let object = self.shared_memory.entry(name.to_owned()).or_default();
        let path = format!("/proc/{pid}/map_files/{start:x}-{end:x}");
        let mut file = File::open(&path).map_err(|error| format!("{path}: {error}"))?;
        let mut offset = vma.offset;
        let end = vma.offset + (end - start);
        let mut page = vec![0; PAGE_BYTES as usize];
        // SEEK_DATA fails where only a hole is left.
        while offset < end {
            // SAFETY: the descriptor is open; lseek takes no pointers.
            let data = unsafe { libc::lseek(file.as_raw_fd(), offset as i64, libc::SEEK_DATA) };
            let Ok(data) = u64::try_from(data) else { break };
            if data >= end {
                break;
            }
            file.seek(SeekFrom::Start(data))?;
            if file.read_exact(&mut page).is_err() {
                break;
            }
            if page.iter().any(|byte| *byte != 0) {
                object.insert(format!("{data:08x}"), hash(&page));
            }
            offset = data + PAGE_BYTES;
        }
        Ok(())
    }
}

/// Private memory of a task.
struct Private<'a> {
    pagemap: &'a File,
    content: &'a File,
    rseq: &'a [u64],
    /// The file below, and where in it the range starts.
    file: Option<(File, u64)>,
}

impl Private<'_> {
    /// Notes the pages of a range that the task has for itself and that are not empty.
    fn note(&self, start: u64, end: u64, pages: &mut Map<String, Value>) -> Result<()> {
        const PRESENT: u64 = 1 << 63;
        const SWAPPED: u64 = 1 << 62;
        const FILE_OR_SHARED: u64 = 1 << 61;
        /// `MADV_GUARD_INSTALL` (Documentation/admin-guide/mm/pagemap.rst, since Linux 6.15).
        const GUARD: u64 = 1 << 58;
        let mut entries = vec![0u8; 1 << 16];
        let mut address = start;
        while address < end {
            let wanted = (((end - address) / PAGE_BYTES * 8) as usize).min(entries.len());
            self.pagemap.read_exact_at(&mut entries[..wanted], address / PAGE_BYTES * 8)?;
            for entry in entries[..wanted].chunks_exact(8) {
                let bits = u64::from_le_bytes(entry.try_into()?);
                if bits & GUARD != 0 {
                    pages.insert(format!("{address:012x}"), json!("a guard"));
                } else if bits & (PRESENT | SWAPPED) != 0
                    && bits & FILE_OR_SHARED == 0
                    && let Some(content) = self.page(address, address - start)?
                {
                    pages.insert(format!("{address:012x}"), json!(content));
                }
                address += PAGE_BYTES;
            }
        }
        Ok(())
    }

    fn page(&self, address: u64, distance: u64) -> Result<Option<String>> {
        const RSEQ_BYTES: usize = 32;
        let mut page = vec![0u8; PAGE_BYTES as usize];
        self.content
            .read_exact_at(&mut page, address)
            .map_err(|error| format!("page {address:x}: {error}"))?;
        for area in self.rseq.iter().filter(|area| (address..address + PAGE_BYTES).contains(area)) {
            // The kernel keeps the number of the current CPU there.
            let from = (area - address) as usize;
            let to = (from + RSEQ_BYTES).min(page.len());
            page[from..to].fill(0);
        }
        if let Some((file, offset)) = &self.file {
            let mut below = vec![0u8; PAGE_BYTES as usize];
            let mut length = 0;
            while let Ok(count @ 1..) = file.read_at(&mut below[length..], offset + distance + length as u64)
            {
                length += count;
            }
            if below == page {
                return Ok(None);
            }
        }
        Ok(page.iter().any(|byte| *byte != 0).then(|| hash(&page)))
    }
}

/// One mapping, as far as it is the same for a restored one.
struct Vma {
    permissions: String,
    offset: u64,
    device: u64,
    inode: u64,
    name: String,
    object: String,
    flags: String,
}

impl Vma {
    fn joins(&self, next: &Vma, distance: u64) -> bool {
        let is_file = self.name.starts_with('/');
        self.permissions == next.permissions
            && self.name == next.name
            && self.object == next.object
            && self.flags == next.flags
            && (self.device, self.inode) == (next.device, next.inode)
            && (!is_file || self.offset + distance == next.offset)
    }
}

impl std::fmt::Display for Vma {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "{} {:x} {:x}:{} {} {}",
            self.permissions, self.offset, self.device, self.inode, self.name, self.object
        )?;
        write!(out, "[{}]", self.flags)
    }
}

fn vmas(smaps: &str, is_strict: bool) -> Result<Vec<(u64, u64, Vma)>> {
    let mut found: Vec<(u64, u64, Vma)> = Vec::new();
    for line in smaps.lines() {
        let first = line.split(' ').next().unwrap_or_default();
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if let Some((_, _, vma)) = found.last_mut() {
                // Soft-dirty is bookkeeping of whoever dumps.
                let is_compared = |flag: &&str| *flag != "sd" && (is_strict || *flag != "ac");
                vma.flags = flags.split_whitespace().filter(is_compared).collect::<Vec<_>>().join(" ");
            }
        } else if let (Some((start, end)), false) = (first.split_once('-'), first.ends_with(':')) {
            let mut words = line.splitn(6, ' ').skip(1);
            let mut word = || words.next().ok_or("smaps");
            let permissions = word()?.to_owned();
            let offset = u64::from_str_radix(word()?, 16)?;
            let (major, minor) = word()?.split_once(':').ok_or("smaps")?;
            let device = u64::from_str_radix(major, 16)? << 20 | u64::from_str_radix(minor, 16)?;
            let inode = word()?.parse()?;
            let name = words.next().unwrap_or_default().trim_start().to_owned();
            let vma =
                Vma { permissions, offset, device, inode, name, object: String::new(), flags: String::new() };
            found.push((u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?, vma));
        }
    }
    Ok(found)
}

enum Of {
    Process,
    Thread,
}

/// The lines of a status file that a restored task has in common with the original.
fn status(path: &str, of: Of) -> Result<Value> {
    let process = [
        "Umask",
        "NStgid",
        "NSpgid",
        "NSsid",
        "Uid",
        "Gid",
        "Groups",
        "Threads",
        "ShdPnd",
        "SigIgn",
        "SigCgt",
        "THP_enabled",
    ];
    let thread = [
        "NSpid",
        "Uid",
        "Gid",
        "Groups",
        "SigPnd",
        "SigBlk",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
        "Cpus_allowed",
        "Mems_allowed",
    ];
    let wanted: &[&str] = match of {
        Of::Process => &process,
        Of::Thread => &thread,
    };
    let mut found = Map::new();
    for line in text(path)?.lines() {
        if let Some((name, value)) = line.split_once(':')
            && wanted.contains(&name)
        {
            found.insert(name.to_owned(), json!(squeeze(value)));
        }
    }
    Ok(Value::Object(found))
}

fn squeeze(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_same_description(left: (i32, RawFd), right: (i32, RawFd)) -> Result<bool> {
    const KCMP_FILE: libc::c_int = 0;
    // SAFETY: kcmp takes numbers only.
    let answer = unsafe { libc::syscall(libc::SYS_kcmp, left.0, right.0, KCMP_FILE, left.1, right.1) };
    match answer {
        0 => Ok(true),
        1..=3 => Ok(false),
        _ => Err(format!("kcmp {left:?} {right:?}: {}", std::io::Error::last_os_error()).into()),
    }
}

/// What a task has not a copy of but shares with its parent, as clone(2) can make it.
fn shared(pid: i32, parent: i32) -> Vec<&'static str> {
    let kinds =
        [("memory", 1), ("descriptor table", 2), ("working directory and umask", 3), ("signal handlers", 4)];
    let is_shared = |kind: i32| {
        // SAFETY: kcmp takes numbers only.
        unsafe { libc::syscall(libc::SYS_kcmp, pid, parent, kind, 0, 0) == 0 }
    };
    kinds.into_iter().filter(|(_, kind)| is_shared(*kind)).map(|(name, _)| name).collect()
}

/// A descriptor here for the same open file description.
fn steal(pid: i32, fd: RawFd) -> std::io::Result<OwnedFd> {
    // SAFETY: pidfd_open and pidfd_getfd take numbers and give new descriptors, owned by nobody else.
    unsafe {
        let pidfd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if pidfd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let pidfd = OwnedFd::from_raw_fd(pidfd as RawFd);
        let own = libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0);
        if own < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(own as RawFd))
    }
}

fn describe_pipe(pipe: &OwnedFd) -> Result<Value> {
    // SAFETY: F_GETPIPE_SZ takes no argument.
    let capacity = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_GETPIPE_SZ) };
    let queued = count(pipe, libc::FIONREAD).unwrap_or(0);
    let mut content = None;
    let mut ends = [0; 2];
    // SAFETY: pipe2 writes two descriptors, which nobody else owns.
    let (reader, writer) = unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    };
    // SAFETY: tee and F_SETPIPE_SZ take numbers only. A write end, where tee fails, has no content to show.
    let copied = unsafe {
        libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, capacity);
        libc::tee(pipe.as_raw_fd(), writer.as_raw_fd(), usize::MAX >> 1, libc::SPLICE_F_NONBLOCK)
    };
    drop(writer);
    if copied > 0 {
        let mut bytes = Vec::new();
        File::from(reader).read_to_end(&mut bytes)?;
        content = Some(hash(&bytes));
    }
    Ok(
        json!({ "capacity_bytes": capacity, "queued_bytes": queued, "content": content, "owner": owner(pipe) }),
    )
}

fn count(fd: &OwnedFd, request: libc::c_ulong) -> Option<i32> {
    let mut value = 0;
    // SAFETY: the request writes one int.
    (unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut value) } == 0).then_some(value)
}

fn owner(fd: &OwnedFd) -> String {
    // SAFETY: neither request takes an argument.
    unsafe {
        format!("{} signal {}", libc::fcntl(fd.as_raw_fd(), libc::F_GETOWN), libc::fcntl(fd.as_raw_fd(), 11))
    }
}

fn socket_option(socket: &OwnedFd, option: libc::c_int) -> Option<i32> {
    let mut value = 0;
    let mut length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: both pointers are to live values of the sizes said.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some(value)
}

/// What the kernel tells about a unix socket over netlink (sock_diag(7)).
#[derive(Default)]
struct UnixSocket {
    state: u8,
    peer: Option<u32>,
    shutdown: u8,
    name: Option<String>,
}

fn unix_sockets() -> Result<HashMap<u32, UnixSocket>> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const SHOW_NAME_AND_PEER: u32 = 1 | 4;
    let (name, peer, shutdown) = (0, 2, 6);
    // SAFETY: socket takes numbers and gives a new descriptor.
    let netlink = unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG);
        if fd < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        File::from(OwnedFd::from_raw_fd(fd))
    };
    // struct nlmsghdr, then struct unix_diag_req.
    let mut request = Vec::new();
    request.extend(40u32.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    request.extend([0; 8]);
    request.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(0u32.to_ne_bytes());
    request.extend(SHOW_NAME_AND_PEER.to_ne_bytes());
    request.extend([0xff; 8]);
    std::io::Write::write_all(&mut &netlink, &request)?;

    let mut found = HashMap::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = (&netlink).read(&mut buffer)?;
        let mut messages = &buffer[..length];
        while messages.len() >= 16 {
            let size = (word(messages, 0) as usize).clamp(16, messages.len());
            let kind = u16::from_ne_bytes([messages[4], messages[5]]);
            if i32::from(kind) == libc::NLMSG_DONE {
                return Ok(found);
            }
            if i32::from(kind) == libc::NLMSG_ERROR || size < 32 {
                return Err("unix sockets cannot be listed: no unix_diag?".into());
            }
            let message = &messages[16..size];
            let mut socket = UnixSocket { state: message[2], ..UnixSocket::default() };
            let mut attributes = &message[16..];
            while attributes.len() >= 4 {
                let length = u16::from_ne_bytes([attributes[0], attributes[1]]) as usize;
                let kind = u16::from_ne_bytes([attributes[2], attributes[3]]);
                let value = &attributes[4..length.clamp(4, attributes.len())];
                if kind == peer && value.len() >= 4 {
                    socket.peer = Some(word(value, 0));
                } else if kind == shutdown && !value.is_empty() {
                    socket.shutdown = value[0];
                } else if kind == name {
                    socket.name = Some(String::from_utf8_lossy(value).into_owned());
                }
                attributes = &attributes[(length.next_multiple_of(4)).clamp(4, attributes.len())..];
            }
            found.insert(word(message, 4), socket);
            messages = &messages[size.next_multiple_of(4).min(messages.len())..];
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}
