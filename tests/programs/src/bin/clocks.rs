//! Reads the clocks by the vDSO in every way that programs have: by libc, by pointers that were looked up
//! before the dump, and by pointers that are looked up afresh. After the restore each way must agree with
//! the system calls, and no clock may go backwards while it is read.
//!
//! With `busy` as the second argument a thread reads the clocks all the time, also while it is dumped.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::mem::transmute;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use regrow_test_programs::Task;

type ClockGettime = extern "C" fn(libc::clockid_t, *mut libc::timespec) -> libc::c_int;
type Gettimeofday = extern "C" fn(*mut libc::timeval, *mut libc::c_void) -> libc::c_int;
type Time = extern "C" fn(*mut libc::time_t) -> libc::time_t;
type Getcpu = extern "C" fn(*mut libc::c_uint, *mut libc::c_uint, *mut libc::c_void) -> libc::c_long;

/// How often each clock is read: enough for the slow path of a vDSO to be taken.
const TIMES: usize = 2000;

/// Clocks, and by which name a failure calls them.
const CLOCKS: [(libc::clockid_t, &str); 8] = [
    (libc::CLOCK_REALTIME, "realtime"),
    (libc::CLOCK_MONOTONIC, "monotonic"),
    (libc::CLOCK_MONOTONIC_RAW, "monotonic raw"),
    (libc::CLOCK_REALTIME_COARSE, "realtime coarse"),
    (libc::CLOCK_MONOTONIC_COARSE, "monotonic coarse"),
    (libc::CLOCK_BOOTTIME, "boottime"),
    (libc::CLOCK_TAI, "tai"),
    // Not in the vDSO: it makes a system call.
    (libc::CLOCK_PROCESS_CPUTIME_ID, "cpu time"),
];

static STOP: AtomicBool = AtomicBool::new(false);
static READ: AtomicU64 = AtomicU64::new(0);

fn main() {
    let is_busy = std::env::args().nth(2).is_some_and(|argument| argument == "busy");
    let mut task = Task::root();
    let cached = symbols();
    for name in ["__vdso_clock_gettime", "__vdso_gettimeofday", "__vdso_time", "__vdso_getcpu"] {
        task.check(&format!("the vDSO has {name}"), cached.contains_key(name));
    }
    check(&mut task, "before, looked up", &cached);
    check_libc(&mut task, "before, libc");
    let before = raw(libc::CLOCK_REALTIME);
    let busy = is_busy.then(|| std::thread::spawn(read_always));
    while is_busy && READ.load(Ordering::Relaxed) < 1000 {
        std::thread::yield_now();
    }

    if is_busy {
        // What it reads and writes does not stand still.
        let parked = task.get_ready();
        while !task.file("go").exists() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        task.check_identity(parked);
    } else {
        task.park();
    }

    STOP.store(true, Ordering::Relaxed);
    for failure in busy.into_iter().filter_map(|busy| busy.join().ok()).flatten() {
        task.fail(failure);
    }
    task.check("the time of day went on", raw(libc::CLOCK_REALTIME) >= before);
    let fresh = symbols();
    task.check_eq("the symbols of the vDSO", &fresh, &cached);
    check(&mut task, "after, pointers from before", &cached);
    check(&mut task, "after, looked up", &fresh);
    check_libc(&mut task, "after, libc");
    task.finish();
}

/// Reads a clock for as long as the program lives. Gives what went wrong.
fn read_always() -> Option<String> {
    let mut last = 0;
    while !STOP.load(Ordering::Relaxed) {
        let now = libc_clock(libc::CLOCK_REALTIME)?;
        if now < last {
            return Some(format!("the time of day went from {last} to {now} ns"));
        }
        last = now;
        READ.fetch_add(1, Ordering::Relaxed);
    }
    None
}

/// By the vDSO's own symbols.
fn check(task: &mut Task, when: &str, symbols: &BTreeMap<String, usize>) {
    let find = |name: &str| symbols.get(name).copied();
    if let Some(address) = find("__vdso_clock_gettime") {
        // SAFETY: the vDSO's function of this name has this type (vdso(7)).
        let clock_gettime: ClockGettime = unsafe { transmute(address) };
        clocks(task, &format!("{when}, clock_gettime"), |clock| nanoseconds(clock_gettime, clock));
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        task.check_eq(
            &format!("{when}: an unknown clock"),
            clock_gettime(9999, &raw mut time),
            -libc::EINVAL,
        );
    }
    if let Some(address) = find("__vdso_clock_getres") {
        // SAFETY: as above.
        let clock_getres: ClockGettime = unsafe { transmute(address) };
        for (clock, name) in CLOCKS {
            let by_vdso = nanoseconds(clock_getres, clock);
            let by_call = syscall_time(libc::SYS_clock_getres, clock);
            task.check_eq(&format!("{when}: resolution of {name}"), by_vdso, by_call);
        }
    }
    if let Some(address) = find("__vdso_gettimeofday") {
        // SAFETY: as above.
        let gettimeofday: Gettimeofday = unsafe { transmute(address) };
        bracket(
            task,
            &format!("{when}: gettimeofday"),
            || {
                let mut time = libc::timeval { tv_sec: 0, tv_usec: 0 };
                let result = gettimeofday(&raw mut time, std::ptr::null_mut());
                (result == 0).then(|| (time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64) * 1000)
            },
            libc::CLOCK_REALTIME,
            1000,
        );
    }
    if let Some(address) = find("__vdso_time") {
        // SAFETY: as above.
        let time: Time = unsafe { transmute(address) };
        bracket(
            task,
            &format!("{when}: time"),
            || {
                let mut stored = 0;
                let seconds = time(&raw mut stored);
                (stored == seconds).then_some(seconds as u64 * 1_000_000_000)
            },
            libc::CLOCK_REALTIME_COARSE,
            1_000_000_000,
        );
    }
    if let Some(address) = find("__vdso_getcpu") {
        // SAFETY: as above.
        let getcpu: Getcpu = unsafe { transmute(address) };
        let by_call = || {
            let (mut cpu, mut node) = (0u32, 0u32);
            // SAFETY: the kernel writes both numbers; the third argument is unused.
            unsafe { libc::syscall(libc::SYS_getcpu, &raw mut cpu, &raw mut node, 0) };
            (cpu, node)
        };
        // The task may move between two questions, but not always.
        let agrees = (0..1000).any(|_| {
            let before = by_call();
            let (mut cpu, mut node) = (u32::MAX, u32::MAX);
            let result = getcpu(&raw mut cpu, &raw mut node, std::ptr::null_mut());
            result == 0 && before == (cpu, node) && before == by_call()
        });
        task.check(&format!("{when}: getcpu"), agrees);
    }
}

/// By libc, which has its pointers from the start of the program.
fn check_libc(task: &mut Task, when: &str) {
    clocks(task, when, libc_clock);
}

fn clocks(task: &mut Task, when: &str, mut read: impl FnMut(libc::clockid_t) -> Option<u64>) {
    for (clock, name) in CLOCKS {
        bracket(task, &format!("{when}: {name}"), || read(clock), clock, 1);
    }
}

/// Each reading lies between what the system call says before and after, in units of `unit_ns`.
fn bracket(
    task: &mut Task,
    what: &str,
    mut read: impl FnMut() -> Option<u64>,
    clock: libc::clockid_t,
    unit_ns: u64,
) {
    for _ in 0..TIMES {
        let before = raw(clock) / unit_ns * unit_ns;
        let now = read();
        let after = raw(clock);
        if now.is_none_or(|now| now < before || now > after) {
            task.fail(format!("{what}: {now:?} is not between {before} and {after}"));
            return;
        }
    }
}

fn libc_clock(clock: libc::clockid_t) -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live value.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    (result == 0).then(|| time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

fn nanoseconds(function: ClockGettime, clock: libc::clockid_t) -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let result = function(clock, &raw mut time);
    (result == 0).then(|| time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// What the system call says: the measure of all others.
fn raw(clock: libc::clockid_t) -> u64 {
    syscall_time(libc::SYS_clock_gettime, clock).unwrap_or(0)
}

fn syscall_time(number: libc::c_long, clock: libc::clockid_t) -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls write one timespec.
    let result = unsafe { libc::syscall(number, clock, &raw mut time) };
    (result == 0).then(|| time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Functions that the vDSO exports, found by the auxiliary vector and the ELF image, as vdso(7) and the
/// kernel's tools/testing/selftests/vDSO do.
fn symbols() -> BTreeMap<String, usize> {
    const PT_LOAD: u32 = 1;
    const PT_DYNAMIC: u32 = 2;
    const DT_STRTAB: u64 = 5;
    const DT_SYMTAB: u64 = 6;
    const STT_FUNC: u8 = 2;
    // SAFETY: asks for a number.
    let base = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) } as usize;
    let mut found = BTreeMap::new();
    if base == 0 {
        return found;
    }
    // SAFETY: the kernel has mapped a whole ELF image there, which is never unmapped.
    unsafe {
        let word = |at: usize| (at as *const u64).read_unaligned();
        let half = |at: usize| (at as *const u32).read_unaligned();
        let short = |at: usize| (at as *const u16).read_unaligned() as usize;
        let headers = base + word(base + 32) as usize;
        let (size, count) = (short(base + 54), short(base + 56));
        let (mut bias, mut dynamic) = (base, 0);
        for header in (0..count).map(|index| headers + index * size) {
            match half(header) {
                PT_LOAD => {
                    bias =
                        base.wrapping_add(word(header + 8) as usize).wrapping_sub(word(header + 16) as usize)
                }
                PT_DYNAMIC => dynamic = base + word(header + 8) as usize,
                _ => {}
            }
        }
        let (mut strings, mut table) = (0, 0);
        while dynamic != 0 && word(dynamic) != 0 {
            let at = bias.wrapping_add(word(dynamic + 8) as usize);
            match word(dynamic) {
                DT_STRTAB => strings = at,
                DT_SYMTAB => table = at,
                _ => {}
            }
            dynamic += 16;
        }
        // The linker puts the strings right behind the symbols.
        let mut symbol = table;
        while symbol != 0 && symbol + 24 <= strings {
            let is_function = (symbol as *const u8).add(4).read() & 15 == STT_FUNC;
            if is_function && short(symbol + 6) != 0 {
                let name = CStr::from_ptr((strings + half(symbol) as usize) as *const libc::c_char);
                found.insert(
                    name.to_string_lossy().into_owned(),
                    bias.wrapping_add(word(symbol + 8) as usize),
                );
            }
            symbol += 24;
        }
    }
    found
}
