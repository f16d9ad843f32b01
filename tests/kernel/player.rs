//! Plays calls one at a time, each in the task and at the moment that it is told to, and says what the
//! kernel gave.
//!
//! The runner of the tapes cannot do this: it keeps no results, and a record that fails ends the whole
//! tree. So this is its sibling: registers only, no stack, nothing mapped but the window; what it plays
//! it finds in a slot of the window, one slot a thread, and puts the result there. The order of calls of
//! all tasks is then that of the caller, who waits for each result before the next.
//!
//! ```text
//! slot │ turn │ done │ number │ six arguments │ result │     turn != done: play it
//! ```
//!
//! A call that would block is noticed by what the kernel says of the thread (state S, in that call), and
//! interrupted by ptrace(2), which leaves no trace in the task: no handler, no signal.
//!
//! # Sources
//! `syscall(2)`, `futex(2)`, `clone(2)`, `ptrace(2)`, `proc_pid_stat(5)`, `proc_pid_syscall(5)`.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use regrow::tape::abi::CLONE_ARGS_SIZE;

/// Where the window is in the controller and in every task.
pub(crate) const BASE: u64 = 0x10_0000_0000;
/// Length of the part that tasks write.
pub(crate) const RW_LEN: u64 = 0x1_0000;
/// Length of the part that they only read and execute.
pub(crate) const RO_LEN: u64 = 0x20_0000;
/// Where calls may write what nobody reads.
pub(crate) const SCRATCH: u64 = BASE + 0x1000;
/// Where control messages are written.
pub(crate) const CONTROL: u64 = BASE + 0x6000;
/// Where the words are that calls read and change.
pub(crate) const CHANGED: u64 = BASE + 0x7000;
const SLOTS: u64 = BASE + 0x8000;
const SLOT_SIZE: u64 = 128;
/// How often a number is asked for that should be free. A process can be reaped a little before those of
/// its threads are (kernel/exit.c, `release_task`), and that little is long on a busy machine.
pub(crate) const PATIENCE: u32 = 200;
/// Behind the code: what calls read.
pub(crate) const BUFFERS: u64 = BASE + RW_LEN + 0x1000;

// rbx: the slot; r12: the number of the call.
std::arch::global_asm!(
    ".pushsection .text.regrow_player, \"ax\", @progbits",
    ".balign 64",
    ".hidden regrow_player_start",
    ".globl regrow_player_start",
    "regrow_player_start:",
    "10:",
    "mov eax, [rbx]",
    "cmp eax, [rbx + 4]",
    "jne 11f",
    "mov edx, eax",
    "mov rdi, rbx",
    "xor esi, esi", // FUTEX_WAIT
    "xor r10d, r10d",
    "mov eax, 202", // futex
    "syscall",
    "jmp 10b",
    "11:",
    "mov rax, [rbx + 8]",
    "mov r12, rax",
    "mov rdi, [rbx + 16]",
    "mov rsi, [rbx + 24]",
    "mov rdx, [rbx + 32]",
    "mov r10, [rbx + 40]",
    "mov r8, [rbx + 48]",
    "mov r9, [rbx + 56]",
    "syscall",
    // From here on a child looks at nothing of its maker's slot, which may hold the next call by now.
    "cmp r12, 435", // clone3
    "jne 12f",
    "test rax, rax",
    "jnz 12f",
    "mov rbx, rdx", // The child's slot.
    "jmp 10b",
    "12:",
    "mov [rbx + 64], rax",
    "mov eax, [rbx]",
    "mov [rbx + 4], eax",
    "lea rdi, [rbx + 4]",
    "mov esi, 1", // FUTEX_WAKE
    "mov edx, 1",
    "mov eax, 202",
    "syscall",
    "jmp 10b",
    ".hidden regrow_player_end",
    ".globl regrow_player_end",
    "regrow_player_end:",
    ".popsection",
);

unsafe extern "C" {
    static regrow_player_start: u8;
    static regrow_player_end: u8;
}

fn code() -> &'static [u8] {
    let start = &raw const regrow_player_start;
    let end = &raw const regrow_player_end;
    // SAFETY: both symbols are defined by the assembly above, in this order and in one section.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// What the kernel made of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It returned this; a negative number is an error.
    Gave(i64),
    /// It waits, and did nothing so far.
    Blocks,
    /// The task has died of it.
    Died,
}

/// The window, mapped for good.
pub(crate) struct Window {
    /// All of it, where the controller may write.
    writable: *mut u8,
}

impl Window {
    /// Maps the window. Once in a process.
    pub(crate) fn map() -> Window {
        let len = (RW_LEN + RO_LEN) as usize;
        let fd = nix::sys::memfd::memfd_create(c"player", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
            .expect("a memfd");
        nix::unistd::ftruncate(&fd, len as libc::off_t).expect("its length");
        let map = |at: u64, len: u64, prot, offset: u64| {
            let fixed = if at == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE };
            let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
            // SAFETY: a new mapping; MAP_FIXED_NOREPLACE takes nothing away.
            let found = unsafe {
                libc::mmap(at as *mut _, len as usize, prot, libc::MAP_SHARED | fixed, raw, offset as i64)
            };
            assert!(found != libc::MAP_FAILED && (at == 0 || found.addr() as u64 == at), "{at:#x}");
            found.cast::<u8>()
        };
        map(BASE, RW_LEN, libc::PROT_READ | libc::PROT_WRITE, 0);
        map(BASE + RW_LEN, RO_LEN, libc::PROT_READ | libc::PROT_EXEC, RW_LEN);
        let writable = map(0, RW_LEN + RO_LEN, libc::PROT_READ | libc::PROT_WRITE, 0);
        let window = Window { writable };
        window.write(BASE + RW_LEN, code());
        window
    }

    fn at(&self, address: u64, len: u64) -> *mut u8 {
        assert!(address >= BASE && address + len <= BASE + RW_LEN + RO_LEN, "{address:#x} is in the window");
        self.writable.wrapping_add((address - BASE) as usize)
    }

    /// Puts bytes where the tasks see them at `address`.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        let to = self.at(address, bytes.len() as u64);
        // SAFETY: `at` has checked the range; no task looks at it before it gets its turn.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    /// What a call has written.
    pub(crate) fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let from = self.at(address, len as u64);
        // SAFETY: `at` has checked the range; no task is at work.
        unsafe { std::slice::from_raw_parts(from, len).to_vec() }
    }

    fn word(&self, address: u64) -> &AtomicU32 {
        // SAFETY: `at` has checked the range, words of slots are aligned, and the mapping is for good.
        unsafe { AtomicU32::from_ptr(self.at(address, 4).cast()) }
    }
}

/// A tree of tasks that play what they are told to.
pub(crate) struct Player<'a> {
    pub(crate) window: &'a Window,
    slots: BTreeMap<u32, u64>,
    used: u64,
}

impl<'a> Player<'a> {
    /// Makes the first task: with nothing mapped but the window, no descriptor, no handler.
    pub(crate) fn launch(window: &'a Window, pid: u32) -> Player<'a> {
        let mut player = Player { window, slots: BTreeMap::new(), used: 0 };
        let slot = player.free_slot();
        window.write(slot, &[0; SLOT_SIZE as usize]);
        const CLEAR_SIGHAND: u64 = 1 << 32;
        let number = BUFFERS + 256;
        window.write(number, &pid.to_ne_bytes());
        let mut words = [0u64; (CLONE_ARGS_SIZE / 8) as usize];
        words[0] = CLEAR_SIGHAND;
        words[4] = libc::SIGCHLD as u64;
        words[8] = number;
        words[9] = 1;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        window.write(BUFFERS, &bytes);
        let mut result = -i64::from(libc::EEXIST);
        for _ in 0..PATIENCE {
            // SAFETY: no CLONE_VM; the window is mapped, the code is the player's, and it finds its slot
            // where the runner would have its tape.
            result = unsafe { regrow::runner::enter(BUFFERS, CLONE_ARGS_SIZE, slot, BASE, BASE + RW_LEN) };
            if result != -i64::from(libc::EEXIST) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(result, i64::from(pid), "clone3 of the root");
        player.born(pid, slot);
        player
    }

    /// The slot of the task that is made next, if one is.
    pub(crate) fn free_slot(&self) -> u64 {
        let slot = SLOTS + self.used * SLOT_SIZE;
        assert!(slot < BASE + RW_LEN, "too many tasks in one case");
        slot
    }

    /// Notes that a call has made a task.
    pub(crate) fn born(&mut self, tid: u32, slot: u64) {
        self.slots.insert(tid, slot);
        self.used += 1;
        self.window.write(self.free_slot(), &[0; SLOT_SIZE as usize]);
    }

    /// Those who could play something: not the dead.
    pub(crate) fn living(&self) -> Vec<u32> {
        self.slots
            .keys()
            .copied()
            .filter(|tid| matches!(state_of(*tid), Some(state) if state != 'Z' && state != 'X'))
            .collect()
    }

    /// All that ever were.
    pub(crate) fn all(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots.keys().copied()
    }

    /// Lets a task make a call.
    pub(crate) fn play(&self, tid: u32, nr: u64, args: [u64; 6]) -> Outcome {
        let slot = self.slots[&tid];
        let mut bytes = nr.to_ne_bytes().to_vec();
        bytes.extend(args.iter().flat_map(|arg| arg.to_ne_bytes()));
        self.window.write(slot + 8, &bytes);
        let turn = self.window.word(slot).load(Ordering::SeqCst) + 1;
        self.window.word(slot).store(turn, Ordering::SeqCst);
        futex(self.window.word(slot), libc::FUTEX_WAKE, 1, None);
        let start = Instant::now();
        let mut sleeps = 0;
        loop {
            if let Some(outcome) = self.result(slot, turn, Duration::from_micros(500)) {
                return outcome;
            }
            match state_of(tid) {
                None | Some('Z' | 'X') => return Outcome::Died,
                Some('S') if call_of(tid) == Some(nr) => sleeps += 1,
                Some(_) => sleeps = 0,
            }
            // Nothing that does not wait for another task sleeps as long.
            if sleeps == 4 {
                interrupt(tid);
                return match self.result(slot, turn, Duration::from_secs(5)) {
                    Some(Outcome::Gave(result)) if result == -i64::from(libc::EINTR) => Outcome::Blocks,
                    Some(outcome) => outcome,
                    None => panic!("call {nr} of {tid} does not come back"),
                };
            }
            assert!(start.elapsed() < Duration::from_secs(5), "call {nr} of {tid} does not come back");
        }
    }

    fn result(&self, slot: u64, turn: u32, limit: Duration) -> Option<Outcome> {
        let done = self.window.word(slot + 4);
        let start = Instant::now();
        loop {
            let now = done.load(Ordering::SeqCst);
            if now == turn {
                let bytes = self.window.read(slot + 64, 8);
                return Some(Outcome::Gave(i64::from_ne_bytes(std::array::from_fn(|i| bytes[i]))));
            }
            let left = limit.checked_sub(start.elapsed())?;
            futex(done, libc::FUTEX_WAIT, now, Some(left));
        }
    }
}

impl Drop for Player<'_> {
    /// Nothing is left of the tree.
    fn drop(&mut self) {
        for tid in self.slots.keys() {
            // SAFETY: a signal to a task that we have made, or to nobody.
            unsafe { libc::kill(*tid as i32, libc::SIGKILL) };
        }
        // All of them come to us, who are the subreaper.
        // SAFETY: no status is asked for. (nix knows no deaths of real-time signals.)
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL) } > 0 {}
    }
}

fn futex(word: &AtomicU32, operation: i32, value: u32, limit: Option<Duration>) {
    let time = limit.map(|limit| libc::timespec {
        tv_sec: limit.as_secs() as i64,
        tv_nsec: i64::from(limit.subsec_nanos()),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word and the time outlive the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, time, 0, 0) };
}

/// The state of a thread as /proc has it; `None`: there is none.
pub(crate) fn state_of(tid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{tid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The call that a sleeping thread is in.
fn call_of(tid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{tid}/syscall")).ok()?;
    text.split(' ').next()?.parse().ok()
}

/// Takes a thread out of the call that it waits in, which then gives EINTR.
fn interrupt(tid: u32) {
    let pid = Pid::from_raw(tid as i32);
    ptrace::seize(pid, ptrace::Options::empty()).expect("it can be traced");
    ptrace::interrupt(pid).expect("it can be interrupted");
    waitpid(pid, Some(WaitPidFlag::__WALL)).expect("it stops");
    let mut registers = ptrace::getregs(pid).expect("it has stopped");
    // ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK (linux/errno.h).
    if matches!(registers.rax as i64, -516..=-512) {
        registers.rax = i64::from(-libc::EINTR) as u64;
        registers.orig_rax = u64::MAX;
        ptrace::setregs(pid, registers).expect("it has stopped");
    }
    ptrace::detach(pid, None).expect("it has stopped");
}
