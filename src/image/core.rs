//! `core-PID.img`: registers and attributes of a thread, and of a process in that of its leader.
//!
//! Turns one entry into a [`Core`]. It knows x86-64 and refuses the rest. It does not know whether the
//! CPU of this host has the components that the image carries.
//!
//! Example: `task_state 2, exit_code 256` in the `tc` of a core is a zombie that exited with 1; such a
//! core has no registers.

use std::sync::Arc;

use super::error::Errors;
use super::file::Entry;
use super::magic;
use super::model::{
    Creds, Fpu, Image, KobjIds, NsPid, Origin, PosixTimer, RLimit, Regs, Rseq, Sched, SigAction, SigAltStack,
    Thread, Timers,
};
use super::proto::{
    CoreEntry, CredsEntry, ItimerEntry, MARCH_X86_64, SaEntry, SignalQueueEntry, TaskCoreEntry,
    TaskKobjIdsEntry, TaskTimersEntry, ThreadCoreEntry, ThreadInfoX86, UserX86FpregsEntry, UserX86RegsEntry,
    UserX86XsaveEntry,
};
use super::read::Dir;
use super::wire::parted_by;

/// Bytes of a `siginfo_t`.
const SIGINFO_BYTES: usize = 128;

/// Why a core image must be there.
const NEEDED: &str = "pstree.img names it";

/// Signals, 1 to 64.
const SIGNALS: usize = 64;

/// The number of the field of a core image that says something of the whole process (`tc`).
const OF_PROCESS: u32 = 3;

/// What of a core image says something of the whole process.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) state: State,
    pub(crate) exit_code: u32,
    pub(crate) personality: u32,
    pub(crate) comm: String,
    pub(crate) sigactions: Vec<SigAction>,
    pub(crate) rlimits: Vec<RLimit>,
    pub(crate) pending_shared: Vec<Vec<u8>>,
    pub(crate) oom_score_adj: i32,
    pub(crate) loginuid: Option<u32>,
    pub(crate) child_subreaper: bool,
    pub(crate) membarrier: u32,
    pub(crate) stop_signo: Option<u32>,
    pub(crate) timers: Timers,
    /// The leader's mask of signals.
    blocked: u64,
    /// Where versions before 3.4 put what is now of each thread.
    pub(crate) old_cg_set: Option<u32>,
    pub(crate) old_seccomp: Option<u32>,
}

/// `task_state` (`compel/include/uapi/task-state.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Alive,
    Stopped,
    Dead,
}

/// A core image of a leader.
pub(crate) struct Core {
    pub(crate) task: Process,
    /// Of a living task.
    pub(crate) thread: Option<Thread>,
    /// Old versions only.
    pub(crate) ids: Option<KobjIds>,
}

/// The core image of the leader `pid`.
pub(crate) fn read_core(dir: &Dir<'_>, pid: NsPid, errors: &mut Errors) -> Option<Core> {
    let image = Image::Core(pid.0);
    let file = image.to_string();
    let entry = Entry { file: &file, index: 0, body: &[] };
    let before = errors.count();
    let bytes = dir.read_needed(image, NEEDED, errors)?;
    let parts = dir.only_body(&bytes, &magic::CORE).and_then(|body| parted_by(body, OF_PROCESS));
    let known = parts.as_ref().and_then(|(tc, rest)| {
        let process = dir.known.processes.get(tc)?;
        // If anything is wrong with the rest, the whole entry says so.
        let mut errors = Errors::new();
        let rest: CoreEntry = errors.decode(&Entry { body: rest, ..entry })?;
        errors.is_empty().then_some((process, rest))
    });
    let (task, e) = match known {
        Some((process, rest)) => (Process::clone(&process), supported(rest, image, errors)?),
        None => {
            let mut e = supported(dir.one_of(&bytes, image, &magic::CORE, errors)?, image, errors)?;
            let Some(tc) = e.tc.take() else {
                errors.missing_field(image, 0, "core_entry", "tc");
                return None;
            };
            let task = process(tc, &entry, errors)?;
            if let (Some((tc, _)), true) = (&parts, errors.count() == before) {
                dir.known.processes.keep(tc, || Arc::new(task.clone()));
            }
            (task, e)
        }
    };
    let blocked = task.blocked;
    let thread = match (task.state, e.thread_info, e.thread_core) {
        (State::Dead, _, _) => None,
        (_, Some(info), Some(core)) => Some(thread(pid, info, core, Some(blocked), &entry, errors)?),
        (_, None, _) => {
            errors.missing_field(image, 0, "core_entry", "thread_info");
            return None;
        }
        (_, _, None) => {
            errors.missing_field(image, 0, "core_entry", "thread_core");
            return None;
        }
    };
    Some(Core { task, thread, ids: e.ids.map(kobj_ids) })
}

/// The core image of a thread that leads no process.
pub(crate) fn read_thread(dir: &Dir<'_>, tid: NsPid, errors: &mut Errors) -> Option<Thread> {
    let image = Image::Core(tid.0);
    let file = image.to_string();
    let entry = Entry { file: &file, index: 0, body: &[] };
    let e = read_entry(dir, image, errors)?;
    if e.tc.is_some() {
        errors.inconsistent(image, 0, "a thread with the attributes of a process (tc)");
    }
    match (e.thread_info, e.thread_core) {
        (Some(info), Some(core)) => thread(tid, info, core, None, &entry, errors),
        (info, core) => {
            for (field, there) in [("thread_info", info.is_some()), ("thread_core", core.is_some())] {
                if !there {
                    errors.missing_field(image, 0, "core_entry", field);
                }
            }
            None
        }
    }
}

fn read_entry(dir: &Dir<'_>, image: Image, errors: &mut Errors) -> Option<CoreEntry> {
    supported(dir.read_one(image, &magic::CORE, NEEDED, errors)?, image, errors)
}

/// An entry, if it is of this architecture.
fn supported(e: CoreEntry, image: Image, errors: &mut Errors) -> Option<CoreEntry> {
    if e.mtype != MARCH_X86_64 {
        const NAMES: [&str; 9] =
            ["unknown", "x86-64", "ARM", "AArch64", "PPC64", "S390", "MIPS", "LoongArch64", "RISC-V 64"];
        let name = NAMES.get(e.mtype as usize).unwrap_or(&"unknown");
        errors.unsupported(image, 0, format!("a task of another architecture: {name} ({})", e.mtype));
        return None;
    }
    Some(e)
}

/// Ids of kernel objects.
pub(crate) fn kobj_ids(e: TaskKobjIdsEntry) -> KobjIds {
    let id = |id: Option<u32>| id.unwrap_or(0);
    KobjIds {
        vm: e.vm_id,
        files: e.files_id,
        fs: e.fs_id,
        sighand: e.sighand_id,
        pid_ns: id(e.pid_ns_id),
        net_ns: id(e.net_ns_id),
        ipc_ns: id(e.ipc_ns_id),
        uts_ns: id(e.uts_ns_id),
        mnt_ns: id(e.mnt_ns_id),
        user_ns: id(e.user_ns_id),
        cgroup_ns: id(e.cgroup_ns_id),
        time_ns: id(e.time_ns_id),
    }
}

/// A name of a task or thread: at most 15 bytes.
fn comm(bytes: Vec<u8>, entry: &Entry<'_>, errors: &mut Errors) -> Option<String> {
    let name = errors.text(bytes, entry, "name of a task")?;
    if name.len() > 15 || name.contains('\0') {
        errors.inconsistent(entry.file, entry.index, format!("name of a task {name:?}"));
    }
    Some(name)
}

fn process(tc: TaskCoreEntry, entry: &Entry<'_>, errors: &mut Errors) -> Option<Process> {
    let state = match tc.task_state {
        1 => State::Alive,
        2 | 6 => State::Dead,
        3 => State::Stopped,
        other => {
            errors.unsupported(entry.file, entry.index, format!("task state {other}"));
            return None;
        }
    };
    let comm = comm(tc.comm, entry, errors);
    // A dead task has no actions.
    let sigactions =
        if state == State::Dead { Some(Vec::new()) } else { sigactions(&tc.sigactions, entry, errors) };
    let timers = match tc.timers {
        Some(timers) => read_timers(&timers, entry, errors),
        None => Some(Timers::default()),
    };
    let pending_shared = signals(tc.signals_s, entry, errors);
    let rlimits: Vec<RLimit> =
        tc.rlimits.unwrap_or_default().rlimits.iter().map(|e| RLimit { cur: e.cur, max: e.max }).collect();
    if rlimits.len() > 16 {
        errors.unsupported(
            entry.file,
            entry.index,
            format!("{} resource limits, 16 are known", rlimits.len()),
        );
    }
    let Some(personality) = personality(tc.personality) else {
        errors.unsupported(entry.file, entry.index, format!("personality {}", tc.personality));
        return None;
    };
    Some(Process {
        state,
        exit_code: tc.exit_code,
        personality,
        comm: comm?,
        sigactions: sigactions?,
        rlimits,
        pending_shared: pending_shared?,
        oom_score_adj: tc.oom_score_adj.unwrap_or(0),
        loginuid: tc.loginuid,
        child_subreaper: tc.child_subreaper.unwrap_or(false),
        membarrier: tc.membarrier_registration_mask.unwrap_or(0),
        stop_signo: tc.stop_signo,
        timers: timers?,
        blocked: tc.blk_sigset,
        old_cg_set: tc.cg_set,
        old_seccomp: tc.old_seccomp_mode,
    })
}

/// A personality, from what CRIU makes of it: it reads the hexadecimal digits of `/proc/PID/personality`
/// as decimal ones (`get_task_personality` in `criu/cr-dump.c`), so that 0x40000 (ADDR_NO_RANDOMIZE)
/// is stored as 40000. What stands behind a digit above 9 is lost. `None`: it is not one either way.
fn personality(stored: u32) -> Option<u32> {
    // personality(2): a number of an execution domain, and flags from 0x20000 to 0x8000000.
    const DOMAIN_MAX: u32 = 0x10;
    const FLAGS: u32 = 0x0ffe_0000;
    let is_one = |value: &u32| value & !FLAGS <= DOMAIN_MAX;
    let as_digits = u32::from_str_radix(&stored.to_string(), 16).ok();
    as_digits.filter(is_one).or(Some(stored).filter(is_one))
}

/// Actions of all 64 signals. The image has no entries for SIGKILL (9) and SIGSTOP (19), whose
/// action cannot be changed.
fn sigactions(list: &[SaEntry], entry: &Entry<'_>, errors: &mut Errors) -> Option<Vec<SigAction>> {
    const FIXED: [usize; 2] = [9, 19];
    if list.is_empty() {
        errors.unsupported(
            entry.file,
            entry.index,
            "signal actions in an image of their own: CRIU before 2.0",
        );
        return None;
    }
    let with_fixed = list.len() == SIGNALS;
    if !with_fixed && list.len() != SIGNALS - FIXED.len() {
        errors.inconsistent(entry.file, entry.index, format!("{} signal actions, 62 expected", list.len()));
        return None;
    }
    let mut rest = list.iter();
    let mut actions = Vec::with_capacity(SIGNALS);
    for signal in 1..=SIGNALS {
        if FIXED.contains(&signal) && !with_fixed {
            actions.push(SigAction::default());
        } else if let Some(e) = rest.next() {
            actions.push(SigAction {
                handler: e.sigaction,
                flags: e.flags,
                restorer: e.restorer,
                mask: e.mask,
                compat: e.compat_sigaction.unwrap_or(false),
            });
        }
    }
    Some(actions)
}

fn signals(queue: Option<SignalQueueEntry>, entry: &Entry<'_>, errors: &mut Errors) -> Option<Vec<Vec<u8>>> {
    let infos: Vec<Vec<u8>> = queue.unwrap_or_default().signals.into_iter().map(|e| e.siginfo).collect();
    match infos.iter().find(|info| info.len() != SIGINFO_BYTES) {
        None => Some(infos),
        Some(info) => {
            let reason = format!("pending signal of {} bytes, {SIGINFO_BYTES} expected", info.len());
            errors.inconsistent(entry.file, entry.index, reason);
            None
        }
    }
}

fn read_timers(e: &TaskTimersEntry, entry: &Entry<'_>, errors: &mut Errors) -> Option<Timers> {
    let mut duration = |sec: u64, part: u64, unit: u64| {
        let sum = sec.checked_mul(unit).and_then(|whole| whole.checked_add(part)).filter(|_| part < unit);
        if sum.is_none() {
            errors.inconsistent(entry.file, entry.index, format!("timer of {sec} s and {part} / {unit} s"));
        }
        sum
    };
    let mut itimer = |e: &ItimerEntry| {
        Some((duration(e.isec, e.iusec, 1_000_000)?, duration(e.vsec, e.vusec, 1_000_000)?))
    };
    let mut itimers = [itimer(&e.real)?, itimer(&e.virt)?, itimer(&e.prof)?];
    // A real one that has gone off is not armed again before its signal is taken (kernel/signal.c, `dequeue_signal`). To arm it with
    // nothing left would disarm it for good (kernel/time/itimer.c, `do_setitimer`), so all of its interval is left then.
    let (interval_us, value_us) = &mut itimers[0];
    if *value_us == 0 {
        *value_us = *interval_us;
    }
    let mut posix = Vec::with_capacity(e.posix.len());
    for e in &e.posix {
        posix.push(PosixTimer {
            id: e.it_id,
            clock_id: e.clock_id,
            signo: e.si_signo,
            notify: e.it_sigev_notify,
            sival_ptr: e.sival_ptr,
            overrun: e.overrun,
            interval_ns: duration(e.isec, e.insec, 1_000_000_000)?,
            value_ns: duration(e.vsec, e.vnsec, 1_000_000_000)?,
            notify_tid: e.notify_thread_id,
        });
    }
    Some(Timers { itimers, posix })
}

/// One thread. `leader_blocked`: a leader's mask is in `tc`, that of another thread in its own part.
fn thread(
    tid: NsPid,
    info: ThreadInfoX86,
    core: ThreadCoreEntry,
    leader_blocked: Option<u64>,
    entry: &Entry<'_>,
    errors: &mut Errors,
) -> Option<Thread> {
    let blocked = leader_blocked.or(core.blk_sigset);
    if blocked.is_none() {
        errors.missing_field(entry.file, entry.index, "thread_core_entry", "thread_core.blk_sigset");
    }
    let regs = regs(&info.gpregs, entry, errors);
    let fpu = fpu(&info.fpregs, entry, errors);
    let pending = signals(core.signals_p, entry, errors);
    let creds = match core.creds {
        Some(e) => read_creds(e, entry, errors).map(|creds| Some(Box::new(creds))),
        None => Some(None),
    };
    let name = match core.comm {
        Some(name) => comm(name, entry, errors).map(Some),
        None => Some(None),
    };
    let seccomp_mode = core.seccomp_mode.unwrap_or(0);
    if seccomp_mode > 2 {
        errors.unsupported(entry.file, entry.index, format!("seccomp mode {seccomp_mode}"));
    }
    Some(Thread {
        tid,
        origin: Origin::new(Image::Core(tid.0), 0),
        regs: regs?,
        fpu: Some(Box::new(fpu?)),
        gdt_tls: info.tls.iter().filter(|desc| !desc.seg_not_present).count() as u32,
        clear_tid_addr: info.clear_tid_addr,
        robust_list: (core.futex_rla, u64::from(core.futex_rla_len)),
        blocked: blocked?,
        sas: core.sas.map_or(SigAltStack::default(), |e| SigAltStack {
            sp: e.ss_sp,
            size_bytes: e.ss_size,
            flags: e.ss_flags,
        }),
        pending: pending?,
        comm: name?,
        rseq: core.rseq_entry.map(|e| Rseq {
            address: e.rseq_abi_pointer,
            size_bytes: e.rseq_abi_size,
            signature: e.signature,
            critical_section: e.rseq_cs_pointer.unwrap_or(0),
        }),
        sched: Sched {
            policy: core.sched_policy.unwrap_or(0),
            priority: core.sched_prio.unwrap_or(0),
            nice: core.sched_nice.unwrap_or(0),
        },
        pdeath_sig: core.pdeath_sig.unwrap_or(0),
        creds: creds?,
        seccomp_mode,
        seccomp_filter: core.seccomp_filter,
        cg_set: core.cg_set,
        timer_slack_ns: core.timerslack_ns,
    })
}

fn regs(e: &UserX86RegsEntry, entry: &Entry<'_>, errors: &mut Errors) -> Option<Regs> {
    let compat = match e.mode {
        None | Some(1) => false,
        Some(2) => true,
        Some(mode) => {
            errors.unsupported(entry.file, entry.index, format!("register set of mode {mode}"));
            return None;
        }
    };
    Some(Regs {
        r15: e.r15,
        r14: e.r14,
        r13: e.r13,
        r12: e.r12,
        bp: e.bp,
        bx: e.bx,
        r11: e.r11,
        r10: e.r10,
        r9: e.r9,
        r8: e.r8,
        ax: e.ax,
        cx: e.cx,
        dx: e.dx,
        si: e.si,
        di: e.di,
        orig_ax: e.orig_ax,
        ip: e.ip,
        cs: e.cs,
        flags: e.flags,
        sp: e.sp,
        ss: e.ss,
        fs_base: e.fs_base,
        gs_base: e.gs_base,
        ds: e.ds,
        es: e.es,
        fs: e.fs,
        gs: e.gs,
        compat,
    })
}

/// Words as the bytes they were in the FPU's area.
fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The same for words of 64 bits.
fn long_words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn fpu(e: &UserX86FpregsEntry, entry: &Entry<'_>, errors: &mut Errors) -> Option<Fpu> {
    let mut bad = |what: &str, found: usize, expected: usize| {
        if found != expected {
            let reason = format!("FPU state: {what} of {found} bytes, {expected} expected");
            errors.inconsistent(entry.file, entry.index, reason);
        }
        found != expected
    };
    let (st_space, xmm_space) = (words(&e.st_space), words(&e.xmm_space));
    let mut wrong = bad("st_space", st_space.len(), 128) | bad("xmm_space", xmm_space.len(), 256);
    let components = e.xsave.as_ref().map(components).unwrap_or_default();
    for (component, name, bytes, expected) in &components {
        wrong |= bad(&format!("component {component} ({name})"), bytes.len(), *expected);
    }
    let mut short = |what: &str, value: u32| {
        let fits = u16::try_from(value).ok();
        if fits.is_none() {
            errors.inconsistent(entry.file, entry.index, format!("FPU state: {what} {value:#x}"));
        }
        fits
    };
    let (cwd, swd, twd, fop) =
        (short("cwd", e.cwd), short("swd", e.swd), short("twd", e.twd), short("fop", e.fop));
    if wrong {
        return None;
    }
    Some(Fpu {
        cwd: cwd?,
        swd: swd?,
        twd: twd?,
        fop: fop?,
        rip: e.rip,
        rdp: e.rdp,
        mxcsr: e.mxcsr,
        mxcsr_mask: e.mxcsr_mask,
        st_space,
        xmm_space,
        xstate_bv: e.xsave.as_ref().map(|xsave| xsave.xstate_bv),
        components: components.into_iter().map(|(component, _, bytes, _)| (component, bytes)).collect(),
    })
}

/// The extended components that are there: number, name, bytes, and how many there should be (the
/// sizes of the standard format, Intel SDM volume 1, chapter 13).
fn components(e: &UserX86XsaveEntry) -> Vec<(u32, &'static str, Vec<u8>, usize)> {
    let mut all = vec![
        (2, "AVX", words(&e.ymmh_space), 256),
        (3, "BNDREGS", long_words(&e.bndreg_state), 64),
        (4, "BNDCSR", long_words(&e.bndcsr_state), 64),
        (5, "opmask", long_words(&e.opmask_reg), 64),
        (6, "ZMM_Hi256", long_words(&e.zmm_upper), 512),
        (7, "Hi16_ZMM", long_words(&e.hi16_zmm), 1024),
        (9, "PKRU", words(&e.pkru), 8),
    ];
    if let Some(cet) = &e.cet {
        all.push((11, "CET user state", long_words(&[cet.cet, cet.ssp]), 16));
    }
    all.retain(|(_, _, bytes, _)| !bytes.is_empty());
    all
}

fn read_creds(e: CredsEntry, entry: &Entry<'_>, errors: &mut Errors) -> Option<Creds> {
    let mut mask = |what: &str, words: &[u32]| match words {
        // Ambient capabilities are newer than the image format.
        [] if what == "cap_amb" => Some(0),
        [low, high] => Some(u64::from(*low) | u64::from(*high) << 32),
        _ => {
            errors.inconsistent(
                entry.file,
                entry.index,
                format!("{what} of {} words, 2 expected", words.len()),
            );
            None
        }
    };
    let caps = [
        mask("cap_inh", &e.cap_inh),
        mask("cap_prm", &e.cap_prm),
        mask("cap_eff", &e.cap_eff),
        mask("cap_bnd", &e.cap_bnd),
        mask("cap_amb", &e.cap_amb),
    ];
    if e.apparmor_data.is_some_and(|data| !data.is_empty()) {
        errors.unsupported(entry.file, entry.index, "AppArmor policy inside of credentials");
    }
    let lsm_profile = match e.lsm_profile {
        Some(profile) => Some(errors.text(profile, entry, "LSM profile")?),
        None => None,
    };
    let lsm_sockcreate = match e.lsm_sockcreate {
        Some(label) => Some(errors.text(label, entry, "LSM label of sockets")?),
        None => None,
    };
    let [cap_inh, cap_prm, cap_eff, cap_bnd, cap_amb] = caps;
    Some(Creds {
        uid: e.uid,
        gid: e.gid,
        euid: e.euid,
        egid: e.egid,
        suid: e.suid,
        sgid: e.sgid,
        fsuid: e.fsuid,
        fsgid: e.fsgid,
        cap_inh: cap_inh?,
        cap_prm: cap_prm?,
        cap_eff: cap_eff?,
        cap_bnd: cap_bnd?,
        cap_amb: cap_amb?,
        securebits: e.secbits,
        groups: e.groups,
        no_new_privs: e.no_new_privs.unwrap_or(0) != 0,
        lsm_profile,
        lsm_sockcreate,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn check(count: usize, expected: Result<&[(usize, u64)], &str>) {
        let list: Vec<SaEntry> =
            (0..count as u64).map(|i| SaEntry { sigaction: i + 1, ..SaEntry::default() }).collect();
        let entry = Entry { file: "core-1.img", index: 0, body: &[] };
        let mut errors = Errors::new();
        let actions = sigactions(&list, &entry, &mut errors);
        let found = errors.finish(std::path::Path::new("/"), actions).map_err(|e| e.errors()[0].to_string());
        match expected {
            Ok(handlers) => {
                let actions = found.unwrap();
                assert_eq!(actions.len(), 64);
                for (signal, handler) in handlers {
                    assert_eq!(actions[signal - 1].handler, *handler, "signal {signal}");
                }
            }
            Err(text) => assert_eq!(found.unwrap_err(), text),
        }
    }

    /// A real interval timer that has gone off begins anew, others are as they were.
    #[test]
    fn interval_timers() {
        let timer = |isec, vusec| ItimerEntry { isec, iusec: 0, vsec: 0, vusec };
        let check = |real, virt, prof, expected| {
            let e = TaskTimersEntry { real, virt, prof, ..TaskTimersEntry::default() };
            let entry = Entry { file: "core-1.img", index: 0, body: &[] };
            let timers = read_timers(&e, &entry, &mut Errors::new()).expect("they are consistent");
            assert_eq!(timers.itimers, expected);
        };
        let second = 1_000_000;
        check(timer(1, 0), timer(2, 0), timer(3, 0), [(second, second), (2 * second, 0), (3 * second, 0)]);
        check(timer(1, 7), timer(2, 8), timer(0, 9), [(second, 7), (2 * second, 8), (0, 9)]);
        check(timer(0, 0), timer(0, 0), timer(0, 0), [(0, 0); 3]);
    }

    #[test]
    fn personalities() {
        let check = |stored, expected| assert_eq!(personality(stored), expected, "{stored}");
        check(0, Some(0));
        check(8, Some(8));
        // ADDR_NO_RANDOMIZE, with UNAME26, with READ_IMPLIES_EXEC, as CRIU stores them.
        check(40_000, Some(0x4_0000));
        check(60_000, Some(0x6_0000));
        check(440_000, Some(0x44_0000));
        // Stored as they are.
        check(0x4_0000, Some(0x4_0000));
        check(0x44_0000, Some(0x44_0000));
        check(12_345, None);
        check(u32::MAX, None);
    }

    #[test]
    fn sigactions_skip_kill_and_stop() {
        check(62, Ok(&[(1, 1), (8, 8), (9, 0), (10, 9), (18, 17), (19, 0), (20, 18), (64, 62)]));
        check(64, Ok(&[(9, 9), (19, 19), (64, 64)]));
        check(63, Err("core-1.img entry 0: 63 signal actions, 62 expected"));
        check(
            0,
            Err("core-1.img entry 0: unsupported: signal actions in an image of their own: CRIU before 2.0"),
        );
    }
}
