//! Threads, signals and timers: `threads DIR PART [COUNT]`, one of these parts:
//!
//! - `many`: COUNT threads, each with a name, a thread-local value, a signal mask, an alternate stack and a
//!   robust mutex of its own, which it holds when it ends after the restore;
//! - `waits`: threads that each wait in another system call, and must find there what comes after the restore;
//! - `signals`: signals queued to the task and to single threads, with what they carry and in their order;
//! - `timers`: interval timers and POSIX timers of several clocks, with gaps in their ids;
//! - `expired`: an interval timer that has gone off, and whose signal waits.

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use libc::{c_int, c_long, sigset_t, timespec};
use nix::errno::Errno;
use nix::unistd::{getpid, gettid, pipe, write};
use regrow_test_programs::Task;

/// How long a thread may take to do what it does at once.
const SOON: Duration = Duration::from_secs(30);

fn main() {
    let mut task = Task::root();
    let mut arguments = std::env::args().skip(2);
    match arguments.next().as_deref() {
        Some("many") => {
            let count = arguments.next().and_then(|text| text.parse().ok()).expect("argv[3] is a number");
            many(&mut task, count);
        }
        Some("waits") => waits(&mut task),
        Some("signals") => signals(&mut task),
        Some("timers") => timers(&mut task),
        Some("expired") => expired(&mut task),
        other => panic!("argv[2] is many, waits, signals, timers or expired, not {other:?}"),
    }
    task.finish();
}

/// Gets and sets nothing but what the arguments say; gives the result or the error.
fn call(number: c_long, arguments: [i64; 6]) -> Result<i64, Errno> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: every caller passes what its system call takes, and pointers to live values.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

fn at<T: ?Sized>(value: &T) -> i64 {
    std::ptr::from_ref(value).cast::<u8>().addr() as i64
}

fn futex_wait(word: &AtomicU32, timeout: Option<&timespec>) -> Result<i64, Errno> {
    let timeout = timeout.map_or(0, at);
    call(libc::SYS_futex, [at(word), i64::from(libc::FUTEX_WAIT), 0, timeout, 0, 0])
}

fn futex_wake(word: &AtomicU32) {
    word.store(1, Ordering::SeqCst);
    let _ = call(libc::SYS_futex, [at(word), i64::from(libc::FUTEX_WAKE), i64::from(i32::MAX), 0, 0, 0]);
}

fn set_of(signals: &[c_int]) -> sigset_t {
    // SAFETY: the set is initialised by sigemptyset; the numbers are those of signals.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

fn block(set: &sigset_t) {
    // SAFETY: the set is live; the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set, std::ptr::null_mut()) };
}

/// The mask of the calling thread, as the kernel has it.
fn blocked() -> u64 {
    let mask = 0u64;
    let _ = call(libc::SYS_rt_sigprocmask, [0, 0, at(&mask), 8, 0, 0]);
    // SAFETY: the kernel has written it behind the compiler's back.
    unsafe { std::ptr::read_volatile(&raw const mask) }
}

fn wait_until(what: &str, task: &mut Task, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > SOON {
            task.fail(format!("{what}: not in time"));
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

// ---- many -------------------------------------------------------------------------------------

thread_local! {
    static OWN: Cell<u64> = const { Cell::new(0) };
}

/// A mutex whose next owner learns of the death of the last.
struct Robust(Box<std::cell::UnsafeCell<libc::pthread_mutex_t>>);

// SAFETY: a pthread mutex is made to be used by several threads, by address, and it is never moved.
unsafe impl Sync for Robust {}
// SAFETY: as above.
unsafe impl Send for Robust {}

impl Robust {
    fn new() -> Robust {
        // SAFETY: attribute and mutex are initialised by the calls made for it, and live.
        unsafe {
            let mut attribute = std::mem::zeroed();
            libc::pthread_mutexattr_init(&raw mut attribute);
            libc::pthread_mutexattr_setrobust(&raw mut attribute, libc::PTHREAD_MUTEX_ROBUST);
            let mutex = Box::new(std::cell::UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));
            let result = libc::pthread_mutex_init(mutex.get(), &raw const attribute);
            assert_eq!(result, 0, "pthread_mutex_init");
            Robust(mutex)
        }
    }

    fn try_lock(&self) -> Errno {
        // SAFETY: the mutex is initialised, and stays where it is.
        Errno::from_raw(unsafe { libc::pthread_mutex_trylock(self.0.get()) })
    }

    fn recover(&self) -> c_int {
        // SAFETY: called by the owner, who was told of the death of the last one.
        unsafe { libc::pthread_mutex_consistent(self.0.get()) + libc::pthread_mutex_unlock(self.0.get()) }
    }
}

/// What a thread has of its own, as it sees it.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Own {
    tid: i32,
    name: String,
    local: u64,
    local_at: usize,
    blocked: u64,
    stack: [u64; 3],
    /// Where glibc's rseq area is known to the kernel, it takes no other one.
    rseq: Result<i64, Errno>,
}

impl Own {
    fn see() -> Own {
        let mut name = [0u8; 16];
        let _ = call(libc::SYS_prctl, [i64::from(libc::PR_GET_NAME), at(&name), 0, 0, 0, 0]);
        name[15] = 0;
        let mut stack = [0u64; 3];
        let _ = call(libc::SYS_sigaltstack, [0, std::ptr::from_mut(&mut stack).addr() as i64, 0, 0, 0, 0]);
        stack[1] &= 0xffff_ffff;
        let area = [0u64; 4];
        Own {
            tid: gettid().as_raw(),
            name: name.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect(),
            local: OWN.get(),
            local_at: OWN.with(|own| std::ptr::from_ref(own).addr()),
            blocked: blocked(),
            stack,
            rseq: call(libc::SYS_rseq, [at(&area) & !31, 32, 0, 0x5305_3053, 0, 0]),
        }
    }
}

fn many(task: &mut Task, count: usize) {
    struct Shared {
        go: AtomicU32,
        ready: AtomicU32,
        started: Vec<AtomicU32>,
        failures: Mutex<Vec<String>>,
        mutexes: Vec<Robust>,
    }
    let shared = Arc::new(Shared {
        go: AtomicU32::new(0),
        ready: AtomicU32::new(0),
        started: (0..count).map(|_| AtomicU32::new(0)).collect(),
        failures: Mutex::new(Vec::new()),
        mutexes: (0..count).map(|_| Robust::new()).collect(),
    });
    let start = |number: usize| {
        let shared = Arc::clone(&shared);
        let body = move || {
            let mut signals = vec![libc::SIGUSR1];
            signals.extend((0..10).filter(|bit| number >> bit & 1 != 0).map(|bit| libc::SIGRTMIN() + bit));
            block(&set_of(&signals));
            OWN.set(number as u64 * 7919);
            let stack = vec![0u8; libc::SIGSTKSZ + number % 100 * 16];
            let own =
                libc::stack_t { ss_sp: stack.as_ptr().cast_mut().cast(), ss_flags: 0, ss_size: stack.len() };
            // SAFETY: the stack lives until the other one is back.
            let old = unsafe {
                let mut old = std::mem::zeroed();
                libc::sigaltstack(&raw const own, &raw mut old);
                old
            };
            let mutex = shared.mutexes[number].try_lock();
            let before = Own::see();
            shared.started[number].store(before.tid as u32, Ordering::SeqCst);
            shared.ready.fetch_add(1, Ordering::SeqCst);
            while shared.go.load(Ordering::SeqCst) == 0 {
                let _ = futex_wait(&shared.go, None);
            }
            let after = Own::see();
            if after != before || mutex != Errno::from_raw(0) {
                let text = format!("thread {number}: {after:?}, not {before:?}, mutex {mutex:?}");
                shared.failures.lock().expect("nobody panics").push(text);
            }
            // SAFETY: the thread's own, as it was at the start.
            unsafe { libc::sigaltstack(&raw const old, std::ptr::null_mut()) };
            // Ends as the owner of the mutex.
        };
        let builder = std::thread::Builder::new().name(format!("worker {number}")).stack_size(48 << 10);
        builder.spawn(body).expect("a thread")
    };
    let threads: Vec<JoinHandle<()>> = (0..count).map(start).collect();
    wait_until("the threads start", task, || shared.ready.load(Ordering::SeqCst) as usize == count);
    task.park();
    for (number, mutex) in shared.mutexes.iter().enumerate() {
        task.check_eq(&format!("mutex {number} is held"), mutex.try_lock(), Errno::EBUSY);
    }
    futex_wake(&shared.go);
    for thread in threads {
        task.check("a thread ends", thread.join().is_ok());
    }
    for (number, mutex) in shared.mutexes.iter().enumerate() {
        task.check_eq(&format!("mutex {number}: its owner is dead"), mutex.try_lock(), Errno::EOWNERDEAD);
        task.check_eq("it can be recovered", mutex.recover(), 0);
    }
    for failure in shared.failures.lock().expect("nobody panics").iter() {
        task.fail(failure.clone());
    }
}

// ---- waits ------------------------------------------------------------------------------------

const PENDING: i64 = i64::MIN;

/// How a call of a thread ended: its result, or the negated error.
struct Waiting {
    what: &'static str,
    tid: AtomicI64,
    ended: AtomicI64,
    interrupted: AtomicU32,
}

/// Whether a call goes on by itself after it was interrupted, or has to be made again: signal(7). Dumps
/// interrupt it, and images do not hold what the kernel would go on with (`restart_block`).
#[derive(Clone, Copy, PartialEq)]
enum Interrupted {
    Restarts,
    Returns,
}

fn start_waiting(
    what: &'static str,
    how: Interrupted,
    mut wait: impl FnMut() -> Result<i64, Errno> + Send + 'static,
) -> Arc<Waiting> {
    let waiting = Arc::new(Waiting {
        what,
        tid: AtomicI64::new(0),
        ended: AtomicI64::new(PENDING),
        interrupted: AtomicU32::new(0),
    });
    let own = Arc::clone(&waiting);
    let body = move || {
        own.tid.store(i64::from(gettid().as_raw()), Ordering::SeqCst);
        loop {
            match wait() {
                Err(Errno::EINTR) if how == Interrupted::Returns => {
                    own.interrupted.fetch_add(1, Ordering::SeqCst);
                }
                result => {
                    let result = result.unwrap_or_else(|errno| -i64::from(errno as i32));
                    own.ended.store(result, Ordering::SeqCst);
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().stack_size(64 << 10).spawn(body).expect("a thread");
    waiting
}

fn now(clock: c_int) -> timespec {
    let mut time = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time
}

fn after(clock: c_int, seconds: i64) -> timespec {
    let start = now(clock);
    timespec { tv_sec: start.tv_sec + seconds, ..start }
}

fn read_one(fd: c_int) -> Result<i64, Errno> {
    let mut byte = 0u8;
    call(libc::SYS_read, [i64::from(fd), std::ptr::from_mut(&mut byte).addr() as i64, 1, 0, 0, 0])
}

fn epoll_wait(fd: c_int, timeout_ms: i64) -> Result<i64, Errno> {
    let mut event = [0u32; 3];
    let event = std::ptr::from_mut(&mut event).addr() as i64;
    call(libc::SYS_epoll_wait, [i64::from(fd), event, 1, timeout_ms, 0, 0])
}

extern "C" fn noted(_: c_int) {}

fn waits(task: &mut Task) {
    use Interrupted::{Restarts, Returns};
    const LONG: timespec = timespec { tv_sec: 5000, tv_nsec: 0 };
    let wanted = set_of(&[libc::SIGRTMIN() + 3]);
    block(&wanted);
    // SAFETY: the handler does nothing, and does not restart calls.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = noted as extern "C" fn(c_int) as usize;
        libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut());
    }
    static PLAIN: AtomicU32 = AtomicU32::new(0);
    static TIMED: AtomicU32 = AtomicU32::new(0);
    static UNTIL: AtomicU32 = AtomicU32::new(0);
    let pipes: Vec<_> = (0..7).map(|_| pipe().expect("pipe")).collect();
    let end = |index: usize| pipes[index].0.as_raw_fd();
    let pollfd = move |fd: c_int| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let epoll = nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::empty()).expect("epoll");
    epoll
        .add(&pipes[6].0, nix::sys::epoll::EpollEvent::new(nix::sys::epoll::EpollFlags::EPOLLIN, 6))
        .expect("epoll_ctl");
    let epoll_fd = epoll.0.as_raw_fd();

    // While there is one thread.
    // SAFETY: the child makes one system call, again and again, until it is killed.
    let child = unsafe { libc::fork() };
    if child == 0 {
        loop {
            let _ = call(libc::SYS_pause, [0; 6]);
        }
    }
    let listener = UnixListener::bind(task.file("socket")).expect("bind");
    let listener_fd = listener.as_raw_fd();

    // Those that end by what happens after the restore.
    let by_event = [
        start_waiting("futex", Restarts, || futex_wait(&PLAIN, None)),
        start_waiting("futex for some time", Returns, || match TIMED.load(Ordering::SeqCst) {
            0 => futex_wait(&TIMED, Some(&LONG)),
            _ => Ok(0),
        }),
        start_waiting("futex until some time", Returns, {
            let deadline = after(libc::CLOCK_MONOTONIC, 5000);
            move || match UNTIL.load(Ordering::SeqCst) {
                0 => {
                    let how = i64::from(libc::FUTEX_WAIT_BITSET);
                    call(libc::SYS_futex, [at(&UNTIL), how, 0, at(&deadline), 0, i64::from(u32::MAX)])
                }
                _ => Ok(0),
            }
        }),
        start_waiting("read", Restarts, {
            let fd = end(0);
            move || read_one(fd)
        }),
        start_waiting("poll", Returns, {
            let fd = end(1);
            move || call(libc::SYS_poll, [at(&[pollfd(fd)]), 1, -1, 0, 0, 0])
        }),
        start_waiting("poll for some time", Returns, {
            let fd = end(2);
            move || call(libc::SYS_poll, [at(&[pollfd(fd)]), 1, 5_000_000, 0, 0, 0])
        }),
        start_waiting("ppoll for some time", Restarts, {
            let fd = end(3);
            // The kernel writes the rest of the time there.
            let mut time = LONG;
            move || {
                let time = std::ptr::from_mut(&mut time).addr() as i64;
                call(libc::SYS_ppoll, [at(&[pollfd(fd)]), 1, time, 0, 8, 0])
            }
        }),
        start_waiting("pselect with a mask", Restarts, {
            let fd = end(4);
            move || {
                let mut set = [0u64; 16];
                set[fd as usize / 64] |= 1 << (fd % 64);
                // The thread's own: /proc shows another one only from the moment on when the call is made again.
                let mask = 1u64 << (libc::SIGRTMIN() + 3 - 1);
                let pack = [at(&mask), 8];
                let set = std::ptr::from_mut(&mut set).addr() as i64;
                call(libc::SYS_pselect6, [i64::from(fd) + 1, set, 0, 0, 0, at(&pack)])
            }
        }),
        start_waiting("epoll_wait", Returns, move || epoll_wait(epoll_fd, -1)),
        start_waiting("epoll_wait for some time", Returns, move || epoll_wait(epoll_fd, 5_000_000)),
        start_waiting("rt_sigtimedwait", Returns, {
            let wanted = 1u64 << (libc::SIGRTMIN() + 3 - 1);
            move || call(libc::SYS_rt_sigtimedwait, [at(&wanted), 0, at(&LONG), 8, 0, 0])
        }),
        start_waiting("wait4", Restarts, move || call(libc::SYS_wait4, [i64::from(child), 0, 0, 0, 0, 0])),
        start_waiting("accept", Restarts, move || {
            call(libc::SYS_accept4, [i64::from(listener_fd), 0, 0, 0, 0, 0]).map(|_| 0)
        }),
    ];
    // Those that a signal ends: a call that was made again by itself ends by it, like one that was not interrupted.
    let by_signal = [
        start_waiting("pause", Restarts, || call(libc::SYS_pause, [0; 6])),
        start_waiting("nanosleep until some time", Restarts, {
            let deadline = after(libc::CLOCK_MONOTONIC, 5000);
            move || call(libc::SYS_clock_nanosleep, [1, 1, at(&deadline), 0, 0, 0])
        }),
        start_waiting("read, interrupted", Restarts, {
            let fd = end(5);
            move || read_one(fd)
        }),
    ];
    // Those that end by themselves, maybe before the dump.
    let start = Instant::now();
    let by_time = [
        start_waiting("nanosleep", Returns, {
            let mut rest = timespec { tv_sec: 6, tv_nsec: 0 };
            move || {
                let rest = std::ptr::from_mut(&mut rest).addr() as i64;
                call(libc::SYS_nanosleep, [rest, rest, 0, 0, 0, 0])
            }
        }),
        start_waiting("clock_nanosleep until some time", Restarts, {
            let deadline = after(libc::CLOCK_MONOTONIC, 6);
            move || call(libc::SYS_clock_nanosleep, [1, 1, at(&deadline), 0, 0, 0])
        }),
        start_waiting("clock_nanosleep until some time of the day", Restarts, {
            let deadline = after(libc::CLOCK_REALTIME, 6);
            move || call(libc::SYS_clock_nanosleep, [0, 1, at(&deadline), 0, 0, 0])
        }),
    ];
    let ended = |waiting: &Waiting| waiting.ended.load(Ordering::SeqCst);
    let is_asleep = |waiting: &Waiting| {
        let tid = waiting.tid.load(Ordering::SeqCst);
        let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" S"))
    };
    for waiting in by_event.iter().chain(&by_signal) {
        wait_until(waiting.what, task, || is_asleep(waiting));
    }
    task.park();

    for waiting in by_event.iter().chain(&by_signal) {
        task.check_eq(&format!("{} still waits", waiting.what), ended(waiting), PENDING);
    }
    for word in [&PLAIN, &TIMED, &UNTIL] {
        futex_wake(word);
    }
    for (_, writer) in pipes.iter().enumerate().filter(|(index, _)| *index != 5).map(|(_, ends)| ends) {
        task.check_eq("write", write(writer, b"x"), Ok(1));
    }
    let kill = |waiting: &Waiting, signal: c_int| {
        let tid = waiting.tid.load(Ordering::SeqCst);
        call(libc::SYS_tgkill, [i64::from(getpid().as_raw()), tid, i64::from(signal), 0, 0, 0])
    };
    let sent = kill(&by_event[10], libc::SIGRTMIN() + 3);
    task.check_eq("a signal that is waited for", sent, Ok(0));
    let killed = call(libc::SYS_kill, [i64::from(child), i64::from(libc::SIGKILL), 0, 0, 0, 0]);
    task.check_eq("a child that is waited for", killed, Ok(0));
    let connected = UnixStream::connect(task.file("socket"));
    task.check("a connection that is waited for", connected.is_ok());
    let (signal, child) = (i64::from(libc::SIGRTMIN() + 3), i64::from(child));
    let results = [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, signal, child, 0];
    for (waiting, result) in by_event.iter().zip(results) {
        wait_until(waiting.what, task, || ended(waiting) != PENDING);
        task.check_eq(waiting.what, ended(waiting), result);
    }
    for waiting in &by_signal {
        wait_until(waiting.what, task, || is_asleep(waiting));
        let sent = kill(waiting, libc::SIGUSR2);
        task.check_eq("a signal that ends it", sent, Ok(0));
        wait_until(waiting.what, task, || ended(waiting) != PENDING);
        task.check_eq(waiting.what, ended(waiting), -i64::from(libc::EINTR));
    }
    for waiting in &by_time {
        wait_until(waiting.what, task, || ended(waiting) != PENDING);
        task.check_eq(waiting.what, ended(waiting), 0);
    }
    task.check("sleeping took as long as it should", start.elapsed() >= Duration::from_secs(6));
}

// ---- signals ----------------------------------------------------------------------------------

/// What a signal says of itself: number, code, sender or descriptor, uid or events, value.
type Said = (c_int, c_int, i32, i32, u64);

/// All that is pending for the calling thread and the task, in the order of its coming.
fn take_pending() -> Vec<Said> {
    let mut found = Vec::new();
    let all = u64::MAX;
    let time = timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        let mut info = [0i32; 32];
        let info_at = std::ptr::from_mut(&mut info).addr() as i64;
        match call(libc::SYS_rt_sigtimedwait, [at(&all), info_at, at(&time), 8, 0, 0]) {
            Ok(_) => {
                // The kernel's siginfo: number, errno, code, padding, then what the code says.
                let value = u64::from(info[6] as u32) | u64::from(info[7] as u32) << 32;
                found.push((info[0], info[2], info[4], info[5], value));
            }
            Err(Errno::EINTR) => {}
            Err(_) => return found,
        }
    }
}

fn queue(thread: Option<i32>, signal: c_int, value: u64) {
    const SI_QUEUE: i32 = -1;
    let pid = i64::from(getpid().as_raw());
    let mut info = [0i32; 32];
    (info[0], info[2], info[4], info[5]) = (signal, SI_QUEUE, pid as i32, 17);
    (info[6], info[7]) = (value as u32 as i32, (value >> 32) as u32 as i32);
    let sent = match thread {
        Some(tid) => {
            call(libc::SYS_rt_tgsigqueueinfo, [pid, i64::from(tid), i64::from(signal), at(&info), 0, 0])
        }
        None => call(libc::SYS_rt_sigqueueinfo, [pid, i64::from(signal), at(&info), 0, 0, 0]),
    };
    assert_eq!(sent, Ok(0), "signal {signal}");
}

fn signals(task: &mut Task) {
    const SI_USER: c_int = 0;
    const SI_QUEUE: c_int = -1;
    const SI_TKILL: c_int = -6;
    const POLL_IN: c_int = 1;
    const F_SETSIG: c_int = 10;
    let real_time = |number: c_int| libc::SIGRTMIN() + number;
    // SAFETY: the set is filled before it is used.
    let all = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        set
    };
    block(&all);
    let own = getpid().as_raw();

    struct Other {
        tid: AtomicI64,
        go: AtomicU32,
        found: Mutex<Vec<Said>>,
    }
    let others: Vec<Arc<Other>> = (0..2)
        .map(|_| {
            let tid = AtomicI64::new(0);
            Arc::new(Other { tid, go: AtomicU32::new(0), found: Mutex::new(Vec::new()) })
        })
        .collect();
    let threads: Vec<JoinHandle<()>> = others
        .iter()
        .map(|other| {
            let other = Arc::clone(other);
            std::thread::spawn(move || {
                other.tid.store(i64::from(gettid().as_raw()), Ordering::SeqCst);
                while other.go.load(Ordering::SeqCst) == 0 {
                    let _ = futex_wait(&other.go, None);
                }
                *other.found.lock().expect("nobody panics") = take_pending();
            })
        })
        .collect();
    for other in &others {
        wait_until("a thread starts", task, || other.tid.load(Ordering::SeqCst) != 0);
    }
    let tids: Vec<i32> = others.iter().map(|other| other.tid.load(Ordering::SeqCst) as i32).collect();

    // To the task: several of one signal, in between others, and a value of all bits.
    for (signal, value) in [(5, 1), (1, 2), (1, u64::MAX), (9, 4), (1, 5)] {
        queue(None, real_time(signal), value);
    }
    // One that is pending already is not queued again.
    for _ in 0..2 {
        let sent = call(libc::SYS_kill, [i64::from(own), i64::from(libc::SIGUSR1), 0, 0, 0, 0]);
        assert_eq!(sent, Ok(0));
    }
    // By the kernel: what an owner of a descriptor gets, with events and number of the descriptor.
    let (reader, writer) = pipe().expect("pipe");
    let fd = reader.as_raw_fd();
    // SAFETY: these requests take numbers.
    unsafe {
        libc::fcntl(fd, libc::F_SETOWN, own);
        libc::fcntl(fd, F_SETSIG, real_time(7));
        libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK);
    }
    write(&writer, b"x").expect("write");
    // To single threads.
    for (thread, tid) in tids.iter().copied().enumerate() {
        for (signal, value) in [(2, 10), (3, 11), (2, 12)] {
            queue(Some(tid), real_time(signal), value + 100 * thread as u64);
        }
        let to = [i64::from(own), i64::from(tid), i64::from(libc::SIGUSR2), 0, 0, 0];
        assert_eq!(call(libc::SYS_tgkill, to), Ok(0));
    }
    queue(Some(own), real_time(2), 77);
    task.park();

    // One after the other: what is the task's any thread may take, and two at a time would take it in no certain order.
    for (other, thread) in others.iter().zip(threads) {
        futex_wake(&other.go);
        task.check("a thread ends", thread.join().is_ok());
    }
    let mut found: Vec<Vec<Said>> =
        others.iter().map(|other| other.found.lock().expect("nobody panics").clone()).collect();
    found.push(take_pending());
    let uid = 0;
    for (thread, found) in found.iter().enumerate() {
        let mine: Vec<Said> = found
            .iter()
            .copied()
            .filter(|said| [real_time(2), real_time(3), libc::SIGUSR2].contains(&said.0))
            .collect();
        let base = 100 * thread as u64;
        let wanted = match thread {
            2 => vec![(real_time(2), SI_QUEUE, own, 17, 77)],
            _ => vec![
                (libc::SIGUSR2, SI_TKILL, own, uid, 0),
                (real_time(2), SI_QUEUE, own, 17, 10 + base),
                (real_time(2), SI_QUEUE, own, 17, 12 + base),
                (real_time(3), SI_QUEUE, own, 17, 11 + base),
            ],
        };
        task.check_eq(&format!("signals of thread {thread}"), mine, wanted);
    }
    let mut shared: Vec<Said> = found
        .concat()
        .into_iter()
        .filter(|said| ![real_time(2), real_time(3), libc::SIGUSR2].contains(&said.0))
        .collect();
    shared.sort_by_key(|said| said.0);
    let wanted = vec![
        (libc::SIGUSR1, SI_USER, own, uid, 0),
        (real_time(1), SI_QUEUE, own, 17, 2),
        (real_time(1), SI_QUEUE, own, 17, u64::MAX),
        (real_time(1), SI_QUEUE, own, 17, 5),
        (real_time(5), SI_QUEUE, own, 17, 1),
        // The band is a long, and the descriptor follows it.
        (real_time(7), POLL_IN, i32::from(libc::POLLIN | libc::POLLRDNORM), 0, fd as u64),
        (real_time(9), SI_QUEUE, own, 17, 4),
    ];
    task.check_eq("signals of the task", shared, wanted);
}

// ---- timers -----------------------------------------------------------------------------------

/// A POSIX timer, by the kernel's id.
fn create_timer(clock: c_int, notify: c_int, signal: c_int, value: u64, tid: i32) -> i32 {
    let mut event = [0i32; 16];
    (event[0], event[1]) = (value as u32 as i32, (value >> 32) as u32 as i32);
    (event[2], event[3], event[4]) = (signal, notify, tid);
    let mut id = -1i32;
    let id_at = std::ptr::from_mut(&mut id).addr() as i64;
    let result = call(libc::SYS_timer_create, [i64::from(clock), at(&event), id_at, 0, 0, 0]);
    assert_eq!(result, Ok(0), "timer_create of clock {clock}");
    id
}

fn set_timer(id: i32, interval_ns: i64, value_ns: i64, absolute: bool) -> Result<i64, Errno> {
    let time = |ns: i64| [ns / 1_000_000_000, ns % 1_000_000_000];
    let spec = [time(interval_ns), time(value_ns)];
    call(libc::SYS_timer_settime, [i64::from(id), i64::from(absolute), at(&spec), 0, 0, 0])
}

/// Interval and rest, in nanoseconds.
fn get_timer(id: i32) -> Result<(i64, i64), Errno> {
    let mut spec = [0i64; 4];
    let spec_at = std::ptr::from_mut(&mut spec).addr() as i64;
    call(libc::SYS_timer_gettime, [i64::from(id), spec_at, 0, 0, 0, 0])?;
    Ok((spec[0] * 1_000_000_000 + spec[1], spec[2] * 1_000_000_000 + spec[3]))
}

/// An interval timer that has gone off, and is armed again when its signal is taken.
fn expired(task: &mut Task) {
    block(&set_of(&[libc::SIGALRM]));
    let value: [i64; 4] = [0, 50_000, 0, 1000];
    assert_eq!(call(libc::SYS_setitimer, [0, at(&value), 0, 0, 0, 0]), Ok(0));
    let rest = || {
        let mut value = [0i64; 4];
        let value_at = std::ptr::from_mut(&mut value).addr() as i64;
        let _ = call(libc::SYS_getitimer, [0, value_at, 0, 0, 0, 0]);
        value
    };
    wait_until("the timer goes off", task, || rest() == [0, 50_000, 0, 0]);
    task.park();

    let wanted = 1u64 << (libc::SIGALRM - 1);
    let time = timespec { tv_sec: 10, tv_nsec: 0 };
    for count in 1..=3 {
        let came = call(libc::SYS_rt_sigtimedwait, [at(&wanted), 0, at(&time), 8, 0, 0]);
        task.check_eq(&format!("signal {count} of the timer"), came, Ok(i64::from(libc::SIGALRM)));
    }
}

fn timers(task: &mut Task) {
    const SECOND_NS: i64 = 1_000_000_000;
    const SI_TIMER: c_int = -2;
    let real_time = |number: c_int| libc::SIGRTMIN() + number;
    let blocked: Vec<c_int> = (0..8).map(real_time).collect();
    block(&set_of(&blocked));
    // Interval timers of the three kinds.
    for (which, seconds) in [(0, 3000), (1, 2000), (2, 1000)] {
        let value: [i64; 4] = [seconds / 2, 250_000, seconds, 500_000];
        assert_eq!(call(libc::SYS_setitimer, [which, at(&value), 0, 0, 0, 0]), Ok(0));
    }
    // A thread that a timer tells.
    static TOLD: AtomicI64 = AtomicI64::new(0);
    static TID: AtomicI64 = AtomicI64::new(0);
    static END: AtomicBool = AtomicBool::new(false);
    let thread = std::thread::spawn(move || {
        TID.store(i64::from(gettid().as_raw()), Ordering::SeqCst);
        let wanted = 1u64 << (libc::SIGRTMIN() + 4 - 1);
        while !END.load(Ordering::SeqCst) {
            let mut info = [0i32; 32];
            let info_at = std::ptr::from_mut(&mut info).addr() as i64;
            let time = timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let came = call(libc::SYS_rt_sigtimedwait, [at(&wanted), info_at, at(&time), 8, 0, 0]);
            if came.is_ok() {
                TOLD.store(i64::from(info[6] as u32), Ordering::SeqCst);
            }
        }
    });
    wait_until("the thread starts", task, || TID.load(Ordering::SeqCst) != 0);
    let tid = TID.load(Ordering::SeqCst) as i32;

    // The ids of those that are deleted again stay unused.
    let create = |clock, notify, number: c_int| {
        create_timer(clock, notify, real_time(number), 0x1_0000_0000 + number as u64, tid)
    };
    let gaps = [(); 3].map(|()| create(libc::CLOCK_MONOTONIC, libc::SIGEV_NONE, 0));
    let plain = create(libc::CLOCK_REALTIME, libc::SIGEV_SIGNAL, 1);
    let silent = create(libc::CLOCK_MONOTONIC, libc::SIGEV_NONE, 2);
    let absolute = create(libc::CLOCK_BOOTTIME, libc::SIGEV_SIGNAL, 3);
    let more = create(libc::CLOCK_MONOTONIC, libc::SIGEV_SIGNAL, 0);
    let threaded = create(libc::CLOCK_MONOTONIC, libc::SIGEV_THREAD_ID, 4);
    let idle = create(libc::CLOCK_REALTIME, libc::SIGEV_SIGNAL, 5);
    let working = create(libc::CLOCK_PROCESS_CPUTIME_ID, libc::SIGEV_SIGNAL, 6);
    let atomic = create(libc::CLOCK_TAI, libc::SIGEV_SIGNAL, 7);
    // It goes off at once, and its signal stays pending.
    let late = create(libc::CLOCK_MONOTONIC, libc::SIGEV_SIGNAL, 0);
    for id in gaps.into_iter().chain([more]) {
        assert_eq!(call(libc::SYS_timer_delete, [i64::from(id), 0, 0, 0, 0, 0]), Ok(0));
    }
    let boot = now(libc::CLOCK_BOOTTIME);
    let deadline_ns = (boot.tv_sec + 4000) * SECOND_NS;
    let set = [
        (plain, 7 * SECOND_NS, 5000 * SECOND_NS, false),
        (silent, 0, 6000 * SECOND_NS, false),
        (absolute, 0, deadline_ns, true),
        (threaded, 3 * SECOND_NS + 1, 5000 * SECOND_NS, false),
        (working, 100 * SECOND_NS, 2000 * SECOND_NS, false),
        (atomic, 0, 3000 * SECOND_NS, false),
        (late, 4000 * SECOND_NS, 1, false),
    ];
    for (id, interval_ns, value_ns, absolute) in set {
        assert_eq!(set_timer(id, interval_ns, value_ns, absolute), Ok(0), "timer {id}");
    }
    let is_pending = || {
        let pending = 0u64;
        let _ = call(libc::SYS_rt_sigpending, [at(&pending), 8, 0, 0, 0, 0]);
        // SAFETY: the kernel has written it behind the compiler's back.
        unsafe { std::ptr::read_volatile(&raw const pending) >> (real_time(0) - 1) & 1 != 0 }
    };
    wait_until("a timer goes off", task, is_pending);
    task.park();

    for (which, seconds) in [(0, 3000), (1, 2000), (2, 1000)] {
        let mut value = [0i64; 4];
        let value_at = std::ptr::from_mut(&mut value).addr() as i64;
        let _ = call(libc::SYS_getitimer, [which, value_at, 0, 0, 0, 0]);
        task.check_eq(&format!("interval of timer {which}"), [value[0], value[1]], [seconds / 2, 250_000]);
        let rest = value[2];
        task.check(&format!("rest of timer {which}: {rest}"), (seconds - 500..=seconds).contains(&rest));
    }
    let expected = [
        ("plain", plain, 7 * SECOND_NS, 5000),
        ("silent", silent, 0, 6000),
        ("absolute", absolute, 0, 4000),
        ("threaded", threaded, 3 * SECOND_NS + 1, 5000),
        ("working", working, 100 * SECOND_NS, 2000),
        ("atomic", atomic, 0, 3000),
    ];
    for (what, id, interval_ns, seconds) in expected {
        let found = get_timer(id);
        task.check_eq(&format!("interval of {what}"), found.map(|(interval, _)| interval), Ok(interval_ns));
        let rest_s = found.map_or(-1, |(_, rest)| rest / SECOND_NS);
        task.check(&format!("rest of {what}: {rest_s} s"), (seconds - 500..=seconds).contains(&rest_s));
    }
    task.check_eq("a timer that is not armed", get_timer(idle), Ok((0, 0)));
    for id in gaps.into_iter().chain([more]) {
        task.check_eq(&format!("deleted timer {id}"), get_timer(id), Err(Errno::EINVAL));
    }
    let late_said = take_pending();
    let said = |said: &Said| (said.0, said.1, said.2, said.4);
    let wanted = vec![(real_time(0), SI_TIMER, late, 0x1_0000_0000)];
    task.check_eq("the pending signal of a timer", late_said.iter().map(said).collect::<Vec<_>>(), wanted);
    let rest_s = get_timer(late).map_or(-1, |(_, rest)| rest / SECOND_NS);
    task.check(&format!("rest of late: {rest_s} s"), (3500..=4000).contains(&rest_s));
    // They go off, with the signal and the value that they were made with.
    for (id, number) in [(plain, 1), (absolute, 3), (idle, 5), (atomic, 7), (working, 6)] {
        task.check_eq("timer_settime", set_timer(id, 0, 1, false), Ok(0));
        let wanted = 1u64 << (real_time(number) - 1);
        let mut info = [0i32; 32];
        let info_at = std::ptr::from_mut(&mut info).addr() as i64;
        let time = timespec { tv_sec: 20, tv_nsec: 0 };
        // Time of the processor does not go by while nothing is done.
        let spin = Instant::now();
        while id == working && spin.elapsed() < Duration::from_millis(50) {}
        let came = call(libc::SYS_rt_sigtimedwait, [at(&wanted), info_at, at(&time), 8, 0, 0]);
        task.check_eq(&format!("signal of timer {id}"), came, Ok(i64::from(real_time(number))));
        let said = (info[2], info[4], info[6], info[7]);
        task.check_eq(&format!("what timer {id} says"), said, (SI_TIMER, id, number, 1));
    }
    task.check_eq("timer_settime", set_timer(silent, 0, 1, false), Ok(0));
    task.check_eq("timer_settime", set_timer(threaded, 0, 1, false), Ok(0));
    wait_until("the thread is told", task, || TOLD.load(Ordering::SeqCst) == 4);
    END.store(true, Ordering::SeqCst);
    task.check("the thread ends", thread.join().is_ok());
    task.check_eq("nothing else has come", take_pending(), Vec::new());
}
