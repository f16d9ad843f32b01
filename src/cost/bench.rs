//! One measurement: tapes with clock readings between their records, played by the runner.
//!
//! So what is timed is what a restore runs: raw calls by records, in tasks that have nothing mapped but the
//! region. The readings are records, too (`clock_gettime(2)` into cells of the region), and are read from
//! the memfd when all have ended.
//!
//! ```text
//!   regrow ──fork──▶ keeper ──clone3──▶ root (init of a pid namespace) ──▶ tasks of the measurement
//! ```
//!
//! The keeper makes the namespace; when the root has ended, or is killed by the keeper, or dies with it, the
//! kernel kills whoever is left in it. Nothing is written anywhere.
//!
//! # Sources
//! pid_namespaces(7), prctl(2) (PR_SET_PDEATHSIG), clock_gettime(2), sched(7) (SCHED_BATCH: a task that is woken
//! does not take the CPU from one that runs).

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::calibrate::Enter;
use crate::runner;
use crate::sys::region::Shared;
use crate::sys::{futex, play, process, region};
use crate::tape::abi::{
    CLONE_ARGS_EXIT_SIGNAL, CLONE_ARGS_FLAGS, CLONE_ARGS_SET_TID, CLONE_ARGS_SET_TID_SIZE, wake,
};
use crate::tape::assemble::{Assembler, Tape};
use crate::tape::disasm;

/// Where the region is: far from where programs have anything.
const BASE: u64 = 0x2000_0000_0000;
/// Most bytes of tapes.
const REGION_LEN: u64 = 1 << 30;
/// The end of user space.
const TASK_SIZE: u64 = 0x7fff_ffff_f000;
/// Behind the region, for mappings that are measured.
pub(super) const ROOM: u64 = BASE + REGION_LEN + (1 << 20);
/// No measurement takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pid of the first task that a root forks: it is the init of its namespace.
pub(super) const FIRST_PID: u32 = 2;
const SCHED_BATCH: u64 = 3;
/// Words of four messages with descriptors.
const WORDS: usize = 512;

/// Readings of one thing, in nanoseconds each.
pub(super) type Times = BTreeMap<&'static str, Vec<f64>>;

/// What is to be read when all have ended.
#[derive(Debug, Clone, Copy)]
enum Reading {
    /// The time between two readings, for so many in a row.
    Between { from: u64, to: u64, times: u32 },
    /// A reading by itself.
    At { cell: u64 },
}

/// Tapes of a measurement while they are written.
pub(super) struct Bench {
    pub(super) asm: Assembler,
    readings: Vec<(&'static str, Reading)>,
    /// A CPU that all of it runs on.
    cpu: Option<usize>,
    needs_pids: bool,
}

impl Bench {
    /// With so many events and clock readings; there is room for [`WORDS`] further words that calls write.
    pub(super) fn new(cpu: Option<usize>, events: usize, readings: usize) -> Bench {
        let asm = Assembler::new(BASE, events, 2 * readings + WORDS, runner::code());
        Bench { asm, readings: Vec::new(), cpu, needs_pids: false }
    }

    /// The beginning of the root's tape: alone, on one CPU, with nothing but the region.
    pub(super) fn root(&mut self) -> Tape {
        let mut tape = Tape::default();
        let killed = [libc::PR_SET_PDEATHSIG as u64, libc::SIGKILL as u64, 0, 0, 0];
        tape.call(libc::SYS_prctl, &killed, 0);
        if let Some(cpu) = self.cpu {
            let mut mask = vec![0u64; cpu / 64 + 1];
            mask[cpu / 64] = 1 << (cpu % 64);
            let (address, len) = (self.asm.words(&mask), mask.len() as u64 * 8);
            tape.call(libc::SYS_sched_setaffinity, &[0, len, address], 0);
            let parameter = self.asm.words(&[0]);
            tape.call(libc::SYS_sched_setscheduler, &[0, SCHED_BATCH, parameter], 0);
        }
        // Pages are measured, not huge pages.
        tape.call(libc::SYS_prctl, &[libc::PR_SET_THP_DISABLE as u64, 1, 0, 0, 0], 0);
        tape.call(libc::SYS_munmap, &[0, BASE], 0);
        let end = BASE + REGION_LEN;
        tape.call(libc::SYS_munmap, &[end, TASK_SIZE - end], 0);
        tape.call(libc::SYS_close_range, &[0, u64::from(u32::MAX), 0], 0);
        tape
    }

    /// Reads the clock.
    pub(super) fn stamp(&mut self, tape: &mut Tape) -> u64 {
        self.stamp_of(tape, libc::CLOCK_MONOTONIC)
    }

    fn stamp_of(&mut self, tape: &mut Tape, clock: libc::clockid_t) -> u64 {
        let cell = self.asm.cell(0);
        self.asm.cell(0);
        tape.call(libc::SYS_clock_gettime, &[clock as u64, cell], 0);
        cell
    }

    /// Reads how much of a CPU the task has had since its birth.
    pub(super) fn cpu_time(&mut self, tape: &mut Tape, name: &'static str) {
        let cell = self.stamp_of(tape, libc::CLOCK_PROCESS_CPUTIME_ID);
        self.readings.push((name, Reading::At { cell }));
    }

    /// What happens between two readings of the clock.
    pub(super) fn between(&mut self, name: &'static str, from: u64, to: u64, times: u32) {
        self.readings.push((name, Reading::Between { from, to, times }));
    }

    /// Times what `body` writes, which does something `times` times.
    pub(super) fn timed(
        &mut self,
        tape: &mut Tape,
        name: &'static str,
        times: u32,
        body: impl FnOnce(&mut Bench, &mut Tape),
    ) {
        let from = self.stamp(tape);
        body(self, tape);
        let to = self.stamp(tape);
        self.between(name, from, to, times);
    }

    /// Lays down a child's tape; the parent's records that fork it come from [`Bench::fork`].
    pub(super) fn child(&mut self, pid: u32, flags: i32, tape: &Tape) -> (u64, u64) {
        self.needs_pids = true;
        let wanted = self.asm.data(&pid.to_ne_bytes(), 4);
        let mut words = [0u64; 11];
        words[CLONE_ARGS_FLAGS] = flags as u64;
        words[CLONE_ARGS_EXIT_SIGNAL] = if flags == 0 { libc::SIGCHLD as u64 } else { 0 };
        words[CLONE_ARGS_SET_TID] = wanted;
        words[CLONE_ARGS_SET_TID_SIZE] = 1;
        let clone_args = self.asm.words(&words);
        (clone_args, self.asm.tape(pid, false, clone_args, &tape.records))
    }

    /// Plays the tapes: what was read, without the time that reading takes.
    pub(super) fn play(mut self, root: Tape, enter: Enter<'_>) -> Result<Times, String> {
        let mut root = root;
        exit(&mut root);
        let mut words = [0u64; 11];
        words[CLONE_ARGS_EXIT_SIGNAL] = libc::SIGCHLD as u64;
        let clone_args = self.asm.words(&words);
        // Its pid does not matter: it is the first in its namespace, or any.
        self.asm.tape(1, false, clone_args, &root.records);
        let readings = std::mem::take(&mut self.readings);
        let needs_pids = self.needs_pids;
        let tapes = self.asm.finish(REGION_LEN, REGION_LEN).map_err(|error| error.to_string())?;
        let memory = region::create(&tapes).map_err(|error| error.to_string())?;
        let io = |error: std::io::Error| error.to_string();
        let (mut said, mut says) = std::io::pipe().map_err(io)?;
        match process::fork().map_err(|errno| format!("fork: {}", errno.desc()))? {
            None => {
                drop(said);
                let kept = keep(&tapes, memory.as_fd(), needs_pids, enter);
                let _ = says.write_all(kept.err().unwrap_or_default().as_bytes());
                std::process::exit(0);
            }
            Some(keeper) => {
                drop(says);
                let mut text = String::new();
                let heard = said.read_to_string(&mut text);
                let status = waitpid(keeper, None).map_err(|errno| format!("waitpid: {}", errno.desc()))?;
                heard.map_err(io)?;
                if !text.is_empty() {
                    return Err(text);
                }
                if status != WaitStatus::Exited(keeper, 0) {
                    return Err(format!("the keeper: {status:?}"));
                }
            }
        }
        let memory = std::fs::File::from(memory);
        let clock_ns = |cell: u64| -> Result<f64, String> {
            let mut bytes = [0; 16];
            memory.read_exact_at(&mut bytes, cell - BASE).map_err(io)?;
            let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|index| bytes[at + index]));
            Ok(word(0) as f64 * 1e9 + word(8) as f64)
        };
        let mut times = Times::new();
        for (name, reading) in readings {
            let time = match reading {
                Reading::At { cell } => clock_ns(cell)?,
                Reading::Between { from, to, times } => (clock_ns(to)? - clock_ns(from)?) / f64::from(times),
            };
            times.entry(name).or_default().push(time);
        }
        Ok(times)
    }
}

/// The keeper's life.
fn keep(
    tapes: &crate::tape::Tapes,
    memory: std::os::fd::BorrowedFd<'_>,
    needs_pids: bool,
    enter: Enter<'_>,
) -> Result<(), String> {
    let errno = |what: &'static str| move |errno: nix::errno::Errno| format!("{what}: {}", errno.desc());
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(errno("prctl"))?;
    if needs_pids {
        enter()?;
    }
    // As the launcher does: many descriptors are open at a time.
    if let Ok((_, hard)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
        let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard);
    }
    let shared = Shared::map(memory).map_err(|error| error.to_string())?;
    let root = play::play(tapes, memory).map_err(errno("clone3"))?;
    let start = Instant::now();
    loop {
        match waitpid(root, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
            Ok(status) => return Err(format!("the measurement ended: {status:?}")),
            Err(other) => return Err(errno("waitpid")(other)),
        }
        let bits = shared.wake().load(Ordering::SeqCst);
        if bits & wake::FAILED != 0 {
            let why = failure(tapes, &shared);
            end(root);
            return Err(why);
        }
        if start.elapsed() > PATIENCE {
            end(root);
            return Err("the measurement does not end".to_owned());
        }
        futex::wait(shared.wake(), bits, Duration::from_millis(1));
    }
}

/// Ends the root, and with it all in its namespace.
fn end(root: Pid) {
    let _ = kill(root, Signal::SIGKILL);
    let _ = waitpid(root, None);
}

fn failure(tapes: &crate::tape::Tapes, shared: &Shared) -> String {
    let (record, result, _) = shared.failure();
    let what = tapes.record(record).map_or_else(String::new, |record| disasm::line(tapes, &record));
    let call = what.split('(').next().unwrap_or_default();
    match i32::try_from(-result).ok().filter(|errno| (1..4096).contains(errno)) {
        Some(errno) => format!("{call}: {}", nix::errno::Errno::from_raw(errno).desc()),
        None => format!("{call}: gave {result}"),
    }
}

/// The end of a task.
pub(super) fn exit(tape: &mut Tape) {
    tape.call(libc::SYS_exit_group, &[0], 0);
    tape.never();
}

/// Waits for a child's death, and reaps it or not.
pub(super) fn await_exit(tape: &mut Tape, pid: u32, reap: bool) {
    let options = libc::WEXITED | if reap { libc::__WALL } else { libc::__WALL | libc::WNOWAIT };
    tape.call(libc::SYS_waitid, &[u64::from(libc::P_PID), u64::from(pid), 0, options as u64, 0], 0);
}

/// The middle of many numbers; half of them lie between the other two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Median {
    pub(super) middle: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Median {
    /// Of no numbers there is none.
    pub(super) fn of(numbers: &[f64]) -> Option<Median> {
        let mut sorted = numbers.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |part: usize| sorted.get(sorted.len().saturating_sub(1) * part / 4).copied();
        Some(Median { middle: at(2)?, low: at(1)?, high: at(3)? })
    }

    /// Changed alike.
    pub(super) fn map(self, change: impl Fn(f64) -> f64) -> Median {
        Median { middle: change(self.middle), low: change(self.low), high: change(self.high) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle() {
        assert_eq!(Median::of(&[]), None);
        assert_eq!(Median::of(&[7.0]), Some(Median { middle: 7.0, low: 7.0, high: 7.0 }));
        assert_eq!(Median::of(&[5.0, 1.0, 4.0, 2.0, 3.0]), Some(Median { middle: 3.0, low: 2.0, high: 4.0 }));
    }
}
