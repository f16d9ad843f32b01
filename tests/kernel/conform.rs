//! One case, on the kernel and on the model, step by step; and what is different in the end.
//!
//! The model is asked first: what it does not model is not tried on the kernel either. Then the same
//! record is played, and the two results are compared; at the end, the two states.
//!
//! A record whose call gives less than it expects (a short read, say) ends a tape: on the kernel part of it is done, and the model
//! says what is given and stops. Where another call would do exactly what was done, the model plays
//! that one; otherwise the case ends there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use regrow_graph::verify::{Attribute, Change, Effect, FdEffect, MemoryEffect};
use regrow_model::world::{Object, Why};
use regrow_model::{Fault, Host, World};

use crate::call::{Call, Gives, Placed, Step, Word, seed};
use crate::generate::{DIRECTORY, PAGES, ROOT};
use crate::observe::{self, difference};
use crate::player::{BASE, BUFFERS, CHANGED, CONTROL, Outcome, PATIENCE, Player, RO_LEN, RW_LEN, Window};
use crate::{Mutant, modelled};

/// How often what happened.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Count {
    /// It succeeded.
    pub done: u32,
    /// It failed.
    pub failed: u32,
    /// It waited.
    pub blocked: u32,
    /// Its caller died of it.
    pub died: u32,
    /// It was not tried: the model does not know what it does.
    pub unknown: u32,
}

/// By the name of the effect; and which errors there were.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// How often what happened.
    pub calls: BTreeMap<&'static str, Count>,
    /// Errors by call.
    pub errors: BTreeSet<(&'static str, i64)>,
    /// What was played.
    pub effects: Vec<Effect>,
    /// Descriptors that came in messages.
    pub received: u32,
    /// Messages of which not all descriptors came.
    pub truncated: u32,
    /// Why steps were not tried.
    pub reasons: BTreeMap<String, u32>,
}

/// The number that is expected before the model has said which it is.
const UNKNOWN_NUMBER: u64 = 0x7fff_0000;

/// The host as the model has to know it.
pub(crate) fn host() -> Host {
    let number = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        text.trim().parse::<u64>().unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let status = fs::read_to_string("/proc/self/status").expect("it is there");
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).expect("capabilities");
    let (mut soft, mut limits) = (libc::rlimit { rlim_cur: 0, rlim_max: 0 }, BTreeMap::new());
    for resource in 0..16u32 {
        // SAFETY: the limit is live.
        unsafe { libc::getrlimit(resource, &raw mut soft) };
        limits.insert(resource, (soft.rlim_cur, soft.rlim_max));
    }
    Host {
        sid: std::process::id(),
        pgid: std::process::id(),
        fds: BTreeSet::new(),
        mappings: Vec::new(),
        pipe_max_bytes: number("/proc/sys/fs/pipe-max-size") as u32,
        somaxconn: number("/proc/sys/net/core/somaxconn") as u32,
        nr_open: number("/proc/sys/fs/nr_open") as u32,
        pid_max: number("/proc/sys/kernel/pid_max") as u32,
        suid_dumpable: number("/proc/sys/fs/suid_dumpable"),
        limits,
        capabilities: u64::from_str_radix(bounding, 16).expect("hexadecimal"),
        wmem_default: number("/proc/sys/net/core/wmem_default"),
        rmem_default: number("/proc/sys/net/core/rmem_default"),
        wmem_max: number("/proc/sys/net/core/wmem_max"),
        rmem_max: number("/proc/sys/net/core/rmem_max"),
        files: [DIRECTORY.into()].into(),
        known: [DIRECTORY.into()].into(),
        ..Host::default()
    }
}

/// What both play first, so that nothing is left of who started the tree.
fn beginning() -> Vec<Step> {
    let call = |name, nr, args, gives| Step::Call { who: 0, call: Call { name, nr, args, gives } };
    let is = Word::Is;
    let text = |text: &[u8]| Word::Bytes([text, b"\0"].concat());
    let mut steps = vec![
        call("umask", libc::SYS_umask, vec![is(0o22)], Gives::Old),
        call("prctl", libc::SYS_prctl, vec![is(libc::PR_SET_NAME as u64), text(b"root")], Gives::Value(0)),
        call("chdir", libc::SYS_chdir, vec![text(b"/")], Gives::Value(0)),
        call("setgroups", libc::SYS_setgroups, vec![is(0), is(0)], Gives::Value(0)),
        call("setpriority", libc::SYS_setpriority, vec![is(0), is(0), is(0)], Gives::Value(0)),
        call(
            "sigaltstack",
            libc::SYS_sigaltstack,
            vec![Word::Words(vec![is(0), is(2), is(0)]), is(0)],
            Gives::Value(0),
        ),
        call(
            "rt_sigprocmask",
            libc::SYS_rt_sigprocmask,
            vec![is(2), Word::Words(vec![is(0)]), is(0), is(8)],
            Gives::Value(0),
        ),
    ];
    // Nobody is to die of a broken pipe: a tape with such a record has failed by then.
    let action = Word::Words(vec![is(1), is(0), is(0), is(0)]);
    let args = vec![is(libc::SIGPIPE as u64), action, is(0), is(8)];
    steps.push(call("rt_sigaction", libc::SYS_rt_sigaction, args, Gives::Value(0)));
    steps
}

/// Plays a case on both. `Err`: what is different.
pub(crate) fn run(
    window: &Window,
    steps: &[Step],
    mutant: Option<&Mutant>,
    counts: &mut Counts,
) -> Result<(), String> {
    for entry in fs::read_dir(DIRECTORY).expect("it is mounted").flatten() {
        let path = entry.path();
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
    let mut case = Case {
        player: Player::launch(window, ROOT),
        world: World::new(&seed(ROOT), host()).map_err(|fault| fault.to_string())?,
        mutant,
        counts,
        log: String::new(),
    };
    let behind = BASE + RW_LEN + RO_LEN;
    for (nr, args) in [
        (libc::SYS_munmap, [0, BASE, 0, 0, 0, 0]),
        (libc::SYS_munmap, [behind, 0x7fff_ffff_f000 - behind, 0, 0, 0, 0]),
        (libc::SYS_close_range, [0, u64::from(u32::MAX), 0, 0, 0, 0]),
    ] {
        assert_eq!(case.player.play(ROOT, nr as u64, args), Outcome::Gave(0), "call {nr}");
    }
    let mut others = Counts::default();
    std::mem::swap(&mut others, case.counts);
    for step in &beginning() {
        case.step(step)?;
    }
    std::mem::swap(&mut others, case.counts);
    for step in steps {
        if !case.step(step)? {
            return Ok(());
        }
    }
    case.wait_for_deaths()?;
    let model = modelled::facts(&case.world);
    let kernel = observe::observe(&case.player);
    let lines = difference(&kernel, &model);
    if lines.is_empty() { Ok(()) } else { Err(format!("{}{}", case.log, lines.join("\n"))) }
}

struct Case<'a> {
    player: Player<'a>,
    world: World,
    mutant: Option<&'a Mutant>,
    counts: &'a mut Counts,
    log: String,
}

/// What the model says of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Gives(i64),
    Waits,
}

impl Case<'_> {
    /// Plays a step on both; says whether the case goes on.
    fn step(&mut self, step: &Step) -> Result<bool, String> {
        let living = modelled::living(&self.world);
        self.wait_for_deaths()?;
        if living.is_empty() {
            return Ok(true);
        }
        let (tid, pid) =
            living.iter().nth(step.who() % living.len()).map(|(tid, pid)| (*tid, *pid)).expect("one of them");
        if let Step::Fork { pid: born, .. } = step
            && *born == pid
        {
            return Ok(true);
        }
        let step = &step.with_held(|kind| modelled::held(&self.world, tid, kind));
        let slot = self.player.free_slot();
        let mut placed = Placed::new(step, (tid, pid), UNKNOWN_NUMBER, slot);
        let mut effect = placed.lift(step);
        let name = effect.name();
        // The kernel chooses the number; the model says which one it would be.
        if let Step::Call { call: Call { gives: Gives::Number, .. }, .. } = step
            && let Err(Fault { why: Why::Gives { is, .. }, .. }) = self.ask(tid, &effect)
        {
            placed = Placed::new(step, (tid, pid), is as u64, slot);
            effect = placed.lift(step);
        }
        let mut goes_on = true;
        let before = self.world.clone();
        let said = match self.ask(tid, &effect) {
            Ok((world, said)) => {
                self.world = world;
                said
            }
            Err(fault) => match fault.why {
                Why::Errno(errno) => {
                    // Where it fails the kernel has done a part. Most are not tried, or every case would
                    // end here.
                    if self.may_fail_late(pid, &effect, errno) {
                        if step.who() != 0 {
                            return Ok(self.skip(name, "a part of it is done before it fails"));
                        }
                        goes_on = false;
                    }
                    Said::Gives(-i64::from(errno))
                }
                Why::Gives { is, .. } => {
                    match shorter(&effect, is) {
                        Some(effect) => match self.ask(tid, &effect) {
                            Ok((world, _)) => self.world = world,
                            Err(fault) => return Ok(self.skip(name, &fault.why.to_string())),
                        },
                        None => goes_on = false,
                    }
                    Said::Gives(is)
                }
                Why::NotModelled(what) => return Ok(self.skip(name, &what)),
                Why::NoTape(_) | Why::NoEnd | Why::BehindEnd => return Err(format!("{}{fault}", self.log)),
            },
        };
        self.player.window.write(BUFFERS, &placed.buffers[4096..]);
        self.player.window.write(CONTROL, &[0; 2048]);
        for (address, bytes) in &placed.changed {
            self.player.window.write(*address, bytes);
        }
        let play = || self.player.play(tid, u64::from(placed.record.nr), placed.record.args);
        let mut outcome = play();
        let taken = Outcome::Gave(-i64::from(libc::EEXIST));
        for _ in 0..PATIENCE {
            if !matches!(step, Step::Fork { .. })
                || outcome != taken
                || said == Said::Gives(-i64::from(libc::EEXIST))
            {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
            outcome = play();
        }
        self.log += &format!("{tid}: {step:?} = {outcome:?}\n");
        if let (Step::Fork { pid, .. }, Outcome::Gave(1..)) = (step, outcome) {
            self.player.born(*pid, slot);
        }
        self.counts.effects.push(effect.clone());
        let count = self.counts.calls.entry(name).or_default();
        let is_old = matches!(step, Step::Call { call: Call { gives: Gives::Old, .. }, .. })
            && !matches!(effect, Effect::Attribute(Attribute::EatSignal { .. }));
        let agree = match (outcome, said) {
            (Outcome::Gave(is), Said::Gives(said)) => {
                if is < 0 {
                    count.failed += 1;
                    self.counts.errors.insert((name, is));
                } else {
                    count.done += 1;
                }
                is == said || is_old && is >= 0 && said >= 0
            }
            (Outcome::Blocks, said) => {
                count.blocked += 1;
                said == Said::Waits
            }
            (Outcome::Died, said) => {
                count.died += 1;
                said == Said::Gives(0)
            }
            (Outcome::Gave(_), Said::Waits) => false,
        };
        if !agree {
            return Err(format!("{}the model says {said:?}", self.log));
        }
        if let (Effect::Fd(FdEffect::Receive { socket, .. }), Outcome::Gave(0..)) = (&effect, outcome) {
            let (kernel, model) = (self.received(), self.placed(&before, tid, *socket));
            if kernel != model {
                return Err(format!("{}received: kernel {kernel:?}, model {model:?}", self.log));
            }
            self.counts.truncated += u32::from(kernel.1);
            self.counts.received += kernel.0.len() as u32;
        }
        Ok(goes_on)
    }

    /// What the kernel has written behind a receiving: the numbers, and whether there are fewer than there were in the
    /// message (MSG_CTRUNC).
    fn received(&self) -> (Vec<u32>, bool) {
        let words = |bytes: Vec<u8>| -> Vec<u64> {
            bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(std::array::from_fn(|i| word[i]))).collect()
        };
        let header = words(self.player.window.read(CHANGED, 56));
        let control = self.player.window.read(CONTROL, 2048);
        let len = if header[5] == 0 { 16 } else { words(control[..8].to_vec())[0] as usize };
        let numbers = control[16..len].chunks_exact(4);
        let numbers = numbers.map(|number| u32::from_ne_bytes(std::array::from_fn(|i| number[i])));
        (numbers.collect(), header[6] & libc::MSG_CTRUNC as u64 != 0)
    }

    /// The same of the model.
    fn placed(&self, before: &World, tid: u32, socket: u32) -> (Vec<u32>, bool) {
        let numbers = |world: &World| -> BTreeSet<u32> {
            world.table(tid).map(|table| table.entries.keys().copied().collect()).unwrap_or_default()
        };
        let new: Vec<u32> = numbers(&self.world).difference(&numbers(before)).copied().collect();
        let end = before.end();
        let entry = end.tables[&end.threads[&tid].table].entries[&socket];
        let sent = match &end.objects[&end.descriptions[&entry.desc].object] {
            Object::Socket(socket) => socket.queue.front().map_or(0, |message| message.rights.len()),
            _ => 0,
        };
        let is_truncated = new.len() < sent;
        (new, is_truncated)
    }

    /// Whether a call that fails may have changed something before: the first of several mappings, say.
    fn may_fail_late(&self, pid: u32, effect: &Effect, errno: i32) -> bool {
        if let Effect::Object { change: Change::Read { into, .. }, .. } = effect
            && errno != libc::ECONNRESET
        {
            // What was to be read is gone; how much of it depends on what it is read from.
            return into.iter().any(|(at, _)| *at >= PAGES) && errno == libc::EFAULT;
        }
        // That a peer went without having read all is said once.
        if errno == libc::ECONNRESET {
            return true;
        }
        // Who sends to a peer that is gone is not connected any more.
        if matches!(effect, Effect::Object { change: Change::Send { .. } | Change::Write { .. }, .. }) {
            return errno == libc::ECONNREFUSED;
        }
        // What was mapped there is gone by then (mm/vma.c, `vms_abort_munmap_vmas`).
        if matches!(effect, Effect::Memory(MemoryEffect::Map { file: Some(_), .. })) {
            return errno == libc::ENODEV;
        }
        let Effect::Memory(MemoryEffect::Protect { at, len, .. } | MemoryEffect::Advise { at, len, .. }) =
            effect
        else {
            return false;
        };
        self.world.memory(pid, *at, at.saturating_add(*len)).is_some_and(|runs| !runs.is_empty())
    }

    /// Threads are killed by the exit of another, but not at once: waits until the same live on both sides.
    fn wait_for_deaths(&self) -> Result<(), String> {
        let there: Vec<u32> = modelled::living(&self.world).into_keys().collect();
        let mut here = self.player.living();
        for _ in 0..PATIENCE {
            if here == there {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
            here = self.player.living();
        }
        Err(format!("{}living: kernel {here:?}, model {there:?}", self.log))
    }

    fn skip(&mut self, name: &'static str, why: &str) -> bool {
        self.counts.calls.entry(name).or_default().unknown += 1;
        *self.counts.reasons.entry(format!("{name}: {why}")).or_default() += 1;
        true
    }

    /// What the model, or what a mutant made of it, makes of an effect: the world behind it, and the result.
    fn ask(&self, tid: u32, effect: &Effect) -> Result<(World, Said), Fault> {
        let mut world = self.world.clone();
        let mutated = match self.mutant.map(|mutant| (mutant.change)(effect)) {
            None | Some(Mutation::Same) => effect.clone(),
            Some(Mutation::As(other)) => *other,
            Some(Mutation::Nothing(result)) => {
                // Whether it would have failed is not what was turned off.
                world.call(tid, effect)?;
                return Ok((self.world.clone(), Said::Gives(result)));
            }
        };
        let before = world.calls_made(tid);
        let step = world.call(tid, &mutated)?;
        match step.outcome {
            regrow_model::Outcome::Blocked => Ok((world, Said::Waits)),
            regrow_model::Outcome::Done if world.calls_made(tid) == before => {
                let why = Why::NotModelled("a part of it is done, and it waits".to_owned());
                Err(Fault { tid, record: None, call: effect.name(), why, footprint: step.footprint })
            }
            regrow_model::Outcome::Done | regrow_model::Outcome::Ended => {
                Ok((world, Said::Gives(step.result)))
            }
        }
    }
}

/// What a mutant makes of an effect.
pub(crate) enum Mutation {
    /// What the model makes of it.
    Same,
    /// What it makes of another.
    As(Box<Effect>),
    /// Nothing, and this is given.
    Nothing(i64),
}

/// What does exactly what a call does that gives no more than `is`.
fn shorter(effect: &Effect, is: i64) -> Option<Effect> {
    let len = u64::try_from(is).ok()?;
    if let Effect::Memory(MemoryEffect::Write { pieces }) = effect
        && let [(at, bytes)] = pieces.as_slice()
    {
        let bytes = bytes.get(..len as usize)?.to_vec();
        return Some(Effect::Memory(MemoryEffect::Write { pieces: vec![(*at, bytes)] }));
    }
    match effect {
        Effect::Fd(FdEffect::Receive { socket, rights, cloexec, stays, never_blocks, .. }) => {
            return Some(Effect::Fd(FdEffect::Receive {
                socket: *socket,
                bytes: len,
                rights: *rights,
                cloexec: *cloexec,
                stays: *stays,
                never_blocks: *never_blocks,
            }));
        }
        Effect::Fd(FdEffect::Probe { fd, .. }) => {
            return Some(Effect::Fd(FdEffect::Probe { fd: *fd, cloexec: len != 0 }));
        }
        _ => {}
    }
    let Effect::Object { fd, change } = effect else { return None };
    let change = match change {
        Change::Read { into, offset } => {
            // An empty message is taken, which a call that asks for nothing does not do.
            let (at, _) = into.first().filter(|_| len > 0)?;
            Change::Read { into: vec![(*at, len)], offset: *offset }
        }
        Change::SetPipeSize { .. } => Change::SetPipeSize { bytes: u32::try_from(len).ok()? },
        Change::Copy { from, .. } if len > 0 => Change::Copy { from: *from, len },
        _ => return None,
    };
    Some(Effect::Object { fd: *fd, change })
}
