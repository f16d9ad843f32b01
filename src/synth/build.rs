//! The same forest by fork: how long a program takes that builds such a tree itself.
//!
//! The root makes everything, each task takes its descriptors and mappings and writes its pages. What a restore
//! adds is left out: pids are whatever comes, and nobody runs the payload. So the time is for comparison only.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io::{Error, Result};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::{Forest, Kind, PAGE, page_bytes};

/// Descriptors of resources start here while tasks take theirs: beyond all that a description gives out.
const PARKED: i32 = 4096;
/// A task that has died of something can no longer say so.
const LIMIT: Duration = Duration::from_secs(60);
/// `MREMAP_FIXED | MREMAP_MAYMOVE`.
const MOVED: i32 = libc::MREMAP_FIXED | libc::MREMAP_MAYMOVE;

/// Builds the forest below this process, waits until every task is complete, and gives the time that took.
/// The caller is the init of a pid namespace with one thread; all other processes of it are killed and reaped.
///
/// # Errors
/// Whatever the kernel refuses, in this process or in one of the tasks.
pub fn build(forest: &Forest) -> Result<Duration> {
    // SAFETY: a new mapping at a place of the kernel's choice.
    let shared = unsafe { map(std::ptr::null_mut(), PAGE, libc::MAP_SHARED)? };
    // SAFETY: it is as large as a page, zero, and stays mapped.
    let words: &[AtomicU32; 2] = unsafe { &*shared.cast() };
    let start = Instant::now();
    // SAFETY: the caller has one thread, so the child may do anything.
    match unsafe { libc::fork() } {
        0 => {
            let failed = root(forest, words).is_err();
            // A task that could not become what it should.
            words[1].fetch_add(u32::from(failed), Ordering::SeqCst);
            rest()
        }
        -1 => return Err(Error::last_os_error()),
        _ => {}
    }
    let living = forest.tasks.iter().filter(|task| task.dead.is_none()).count() as u32;
    let is_complete = || words[0].load(Ordering::SeqCst) >= living;
    while !is_complete() && words[1].load(Ordering::SeqCst) == 0 && start.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_micros(100));
    }
    let (took, is_complete) = (start.elapsed(), is_complete());
    // SAFETY: of all that this process may signal: in its namespace, everybody but itself (kill(2)).
    unsafe { libc::kill(-1, libc::SIGKILL) };
    // SAFETY: waits for children, and takes no status.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL) } > 0 {}
    if is_complete { Ok(took) } else { Err(Error::other("a task could not be built")) }
}

/// Sleeps until it is killed.
fn rest() -> ! {
    loop {
        // SAFETY: pause has no preconditions.
        unsafe { libc::pause() };
    }
}

/// Makes all that is shared, and then is the first task.
fn root(forest: &Forest, words: &[AtomicU32; 2]) -> Result<()> {
    if forest.ipc.is_some() || forest.tasks.iter().any(|task| !task.rings.is_empty()) {
        // Shapes have none of these, as they have not all kinds of files.
        return Err(Error::other("System V objects or AIO rings by fork"));
    }
    let mut ends = Vec::new();
    for kind in &forest.resources {
        ends.push(make(kind)?);
    }
    let mut segments = Vec::new();
    for segment in &forest.segments {
        // SAFETY: a new mapping at a place of the kernel's choice.
        let at = unsafe { map(std::ptr::null_mut(), segment.len_pages * PAGE, libc::MAP_SHARED)? };
        for page in &segment.pages {
            // SAFETY: the page lies within the segment, as the description says.
            unsafe { write(at.add((page.index * PAGE) as usize), &page_bytes(page.seed)) };
        }
        segments.push(at.addr());
    }
    become_task(forest, 0, &ends, &segments, words)
}

/// The descriptors of a resource, parked.
fn make(kind: &Kind) -> Result<Vec<i32>> {
    let mut pair = [-1; 2];
    // SAFETY: the kernel writes two numbers into `pair`; paths end in a zero byte.
    let fds = unsafe {
        match kind {
            Kind::File { path, flags, position } => {
                let path = CString::new(path.as_os_str().as_bytes())?;
                let fd = ok(libc::open(path.as_ptr(), *flags as i32))?;
                libc::lseek(fd, *position as i64, libc::SEEK_SET);
                vec![fd]
            }
            // Random forests have none of these; what builds trees to compare times has no need of them.
            Kind::Messages { .. }
            | Kind::Listener { .. }
            | Kind::Epoll { .. }
            | Kind::Memfd { .. }
            | Kind::Signalfd { .. }
            | Kind::Timerfd => return Err(Error::other(format!("{} by fork", kind.name()))),
            Kind::Eventfd { counter } => vec![ok(libc::eventfd(*counter as u32, 0))?],
            Kind::Pipe { data } => {
                ok(libc::pipe(pair.as_mut_ptr()))?;
                libc::write(pair[1], data.as_ptr().cast(), data.len());
                pair.to_vec()
            }
            Kind::Pair { queued } => {
                ok(libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr()))?;
                for (end, bytes) in queued.iter().enumerate() {
                    libc::write(pair[1 - end], bytes.as_ptr().cast(), bytes.len());
                }
                pair.to_vec()
            }
        }
    };
    let mut parked = Vec::new();
    for fd in fds {
        // SAFETY: numbers only.
        parked.push(unsafe {
            let high = ok(libc::fcntl(fd, libc::F_DUPFD, PARKED))?;
            libc::close(fd);
            high
        });
    }
    Ok(parked)
}

/// Family, children, descriptors, memory.
fn become_task(
    forest: &Forest,
    index: usize,
    ends: &[Vec<i32>],
    segments: &[usize],
    words: &[AtomicU32; 2],
) -> Result<()> {
    let task = &forest.tasks[index];
    // SAFETY: numbers only.
    unsafe {
        if task.sid == task.pid {
            libc::setsid();
        } else if task.pgid == task.pid {
            libc::setpgid(0, 0);
        }
    }
    if let Some(code) = task.dead {
        // SAFETY: nothing of this process is to be gone on with.
        unsafe { libc::_exit(i32::from(code)) };
    }
    for (child, _) in forest.tasks.iter().enumerate().filter(|(_, task)| task.parent == Some(index)) {
        // SAFETY: this process has one thread.
        match unsafe { libc::fork() } {
            0 => return become_task(forest, child, ends, segments, words),
            -1 => return Err(Error::last_os_error()),
            _ => {}
        }
    }
    // SAFETY: descriptors are numbers; addresses are those of the description, where nothing else is (the
    // program itself lies above 4 GiB), and segments are as long as their views need.
    unsafe {
        libc::close_range(0, PARKED as u32 - 1, 0);
        for slot in &task.table {
            let cloexec = if slot.cloexec { libc::O_CLOEXEC } else { 0 };
            ok(libc::dup3(ends[slot.resource][slot.end], slot.fd as i32, cloexec))?;
        }
        libc::close_range(PARKED as u32, u32::MAX, 0);
        for it in &task.private {
            let at =
                map(it.start as *mut u8, it.len_pages * PAGE, libc::MAP_PRIVATE | libc::MAP_FIXED_NOREPLACE)?;
            for page in &it.pages {
                write(at.add((page.index * PAGE) as usize), &page_bytes(page.seed));
            }
            if !it.writable {
                ok(libc::mprotect(at.cast(), (it.len_pages * PAGE) as usize, libc::PROT_READ))?;
            }
        }
        for view in &task.views {
            let from = segments[view.segment] + (view.offset_pages * PAGE) as usize;
            let len = (view.len_pages * PAGE) as usize;
            let at = libc::mremap(from as *mut libc::c_void, 0, len, MOVED, view.start as *mut libc::c_void);
            if at == libc::MAP_FAILED {
                return Err(Error::last_os_error());
            }
        }
    }
    words[0].fetch_add(1, Ordering::SeqCst);
    rest()
}

/// # Safety
/// With a fixed address: what is mapped there may go.
unsafe fn map(at: *mut u8, len: u64, flags: i32) -> Result<*mut u8> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the caller's.
    let at = unsafe { libc::mmap(at.cast(), len as usize, prot, flags | libc::MAP_ANONYMOUS, -1, 0) };
    if at == libc::MAP_FAILED { Err(Error::last_os_error()) } else { Ok(at.cast()) }
}

/// # Safety
/// `bytes.len()` bytes at `at` are mapped, writable, and nobody else's.
unsafe fn write(at: *mut u8, bytes: &[u8]) {
    // SAFETY: the caller's.
    unsafe { at.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
}

fn ok(result: i32) -> Result<i32> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}
