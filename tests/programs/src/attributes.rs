//! What a task can ask the kernel about itself and nobody else can: signal dispositions, alternate
//! stack, prctl settings and the like. [`crate::Task::park`] compares it in every task of every program.

use std::fmt::Debug;

/// The attributes by name, in a fixed order.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Attributes(Vec<(String, String)>);

impl Attributes {
    /// Those of the calling thread and its task.
    #[must_use]
    pub fn of_this_task() -> Attributes {
        let mut all = Vec::new();
        let mut note = |name: &str, value: &dyn Debug| all.push((name.to_owned(), format!("{value:x?}")));
        for signal in 1..=64 {
            // The kernel's struct: handler, flags, restorer, mask.
            let mut action = [0u64; 4];
            let result = raw(libc::SYS_rt_sigaction, [signal, 0, address(&mut action), 8, 0]);
            note(&format!("action of signal {signal}"), &(result, action));
        }
        let mut blocked = 0u64;
        raw(libc::SYS_rt_sigprocmask, [0, 0, address(&mut blocked), 8, 0]);
        note("blocked signals", &blocked);
        let mut stack = [0u64; 3];
        raw(libc::SYS_sigaltstack, [0, address(&mut stack), 0, 0, 0]);
        // The upper half of the flags is padding.
        stack[1] &= 0xffff_ffff;
        note("alternate stack", &stack);
        for resource in 0..16 {
            let mut limit = [0u64; 2];
            raw(libc::SYS_prlimit64, [0, resource, 0, address(&mut limit), 0]);
            note(&format!("limit {resource}"), &limit);
        }
        for (name, option) in [
            ("dumpable", libc::PR_GET_DUMPABLE),
            ("keeps capabilities", libc::PR_GET_KEEPCAPS),
            ("securebits", libc::PR_GET_SECUREBITS),
            ("timer slack", libc::PR_GET_TIMERSLACK),
            ("no new privileges", libc::PR_GET_NO_NEW_PRIVS),
            ("huge pages disabled", libc::PR_GET_THP_DISABLE),
            ("memory merged", libc::PR_GET_MEMORY_MERGE),
        ] {
            // A kernel that does not know an option (an error) does nothing of the kind: dumped there and
            // restored here, it is 0.
            note(name, &raw(libc::SYS_prctl, [i64::from(option), 0, 0, 0, 0]).max(0));
        }
        for (name, option) in [
            ("parent-death signal", libc::PR_GET_PDEATHSIG),
            ("subreaper", libc::PR_GET_CHILD_SUBREAPER),
            ("time-stamp counter", libc::PR_GET_TSC),
        ] {
            let mut value = 0u32;
            let result = raw(libc::SYS_prctl, [i64::from(option), address(&mut value), 0, 0, 0]);
            note(name, &(result, value));
        }
        let mut tid_address = 0u64;
        const PR_GET_TID_ADDRESS: i64 = 40;
        raw(libc::SYS_prctl, [PR_GET_TID_ADDRESS, address(&mut tid_address), 0, 0, 0]);
        note("address cleared at exit", &tid_address);
        let mut base = [0u64; 2];
        const ARCH_GET_FS: i64 = 0x1003;
        const ARCH_GET_GS: i64 = 0x1004;
        if cfg!(target_arch = "x86_64") {
            raw(libc::SYS_arch_prctl, [ARCH_GET_FS, address(&mut base[0]), 0, 0, 0]);
            raw(libc::SYS_arch_prctl, [ARCH_GET_GS, address(&mut base[1]), 0, 0, 0]);
        }
        note("segment bases", &base);
        note("policy", &raw(libc::SYS_sched_getscheduler, [0; 5]));
        note("nice", &raw(libc::SYS_getpriority, [0; 5]));
        const IOPRIO_WHO_PROCESS: i64 = 1;
        note("I/O priority", &raw(libc::SYS_ioprio_get, [IOPRIO_WHO_PROCESS, 0, 0, 0, 0]));
        note("personality", &raw(libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0]));
        for timer in 0..3 {
            let mut value = [0u64; 4];
            raw(libc::SYS_getitimer, [timer, address(&mut value), 0, 0, 0]);
            note(&format!("interval of timer {timer}"), &&value[..2]);
        }
        let mut pending = 0u64;
        raw(libc::SYS_rt_sigpending, [address(&mut pending), 8, 0, 0, 0]);
        note("pending signals", &pending);
        note("umask", &umask());
        note("working directory", &std::env::current_dir().ok());
        Attributes(all)
    }

    /// `name: found, not wanted`, for each that is not as in `wanted`.
    #[must_use]
    pub fn differences(&self, wanted: &Attributes) -> Vec<String> {
        let pairs = self.0.iter().zip(&wanted.0).filter(|(found, wanted)| found != wanted);
        pairs.map(|((name, found), (_, wanted))| format!("{name}: {found}, not {wanted}")).collect()
    }
}

fn umask() -> u32 {
    // SAFETY: umask takes a number; with one thread nobody sees the mask in between.
    unsafe {
        let mask = libc::umask(0o077);
        libc::umask(mask);
        mask
    }
}

fn address<T>(value: &mut T) -> i64 {
    std::ptr::from_mut(value) as i64
}

fn raw(number: libc::c_long, arguments: [i64; 5]) -> i64 {
    let [a, b, c, d, e] = arguments;
    // SAFETY: private to this module, whose calls only read the state of the task, into live locals of
    // the sizes that the kernel writes.
    unsafe { libc::syscall(number, a, b, c, d, e) }
}
