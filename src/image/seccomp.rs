//! `seccomp.img`: the filters of all threads.
//!
//! Turns its one entry into the list of filters, each with the one that was installed next. It holds
//! every program to the kernel's rules, so that none is refused in the middle of a restore, and every
//! chain to the kernel's limit. It does not know what a program decides.
//!
//! The dump writes each thread's filters from the newest to the oldest, links each to the one written
//! before, and has the thread name the last: so the link, which the image calls `prev`, leads from a
//! filter to that which came *after* it (`criu/seccomp.c`, since CRIU 3.10).
//!
//! Example: filters `[{B}, {A, prev 0}]` and a thread that names filter 1: A was installed, then B.
//!
//! # Sources
//! `images/seccomp.proto`, `criu/seccomp.c`; for programs `bpf_check_classic` (net/core/filter.c) and
//! `seccomp_check_filter`, `seccomp_attach_filter` (kernel/seccomp.c) of the kernel.

use super::error::Errors;
use super::magic;
use super::model::{Image, Model, SeccompFilter, Thread};
use super::proto::SeccompEntry;
use super::read::Dir;

/// Bytes of a `struct sock_filter`.
const INSTRUCTION: usize = 8;
/// Most instructions of a program (BPF_MAXINSNS).
const INSTRUCTIONS_MAX: usize = 4096;
/// Most instructions of a chain, and what each of its filters counts beside its own
/// (MAX_INSNS_PER_PATH, `seccomp_attach_filter`).
const CHAIN_MAX: u64 = 32768;
const CHAIN_FILTER: u64 = 4;
/// Bytes of a `struct seccomp_data`.
const DATA: u32 = 64;
/// Words of scratch memory (BPF_MEMWORDS).
const WORDS: u32 = 16;

const TSYNC: u32 = libc::SECCOMP_FILTER_FLAG_TSYNC as u32;
/// PTRACE_SECCOMP_GET_METADATA tells of this one alone.
const LOG: u32 = libc::SECCOMP_FILTER_FLAG_LOG as u32;

/// All filters.
pub(crate) fn read_filters(dir: &Dir<'_>, errors: &mut Errors) -> Vec<SeccompFilter> {
    let image = Image::Seccomp;
    let mut filters = Vec::new();
    dir.for_each(image, &magic::SECCOMP, errors, |_, entry, errors| {
        if entry.index != 0 {
            errors.inconsistent(image, entry.index, "a second entry");
            return Ok(());
        }
        let Some(e) = errors.decode::<SeccompEntry>(entry) else { return Ok(()) };
        let count = e.seccomp_filters.len();
        for (index, filter) in (0u32..).zip(e.seccomp_filters) {
            if let Err(reason) = check_program(&filter.filter) {
                errors.inconsistent(image, 0, format!("filter {index}: {reason}"));
            }
            let flags = filter.flags.unwrap_or(0);
            if flags & !(TSYNC | LOG) != 0 {
                let reason = format!("filter {index}: flags {:#x}", flags & !(TSYNC | LOG));
                errors.unsupported(image, 0, reason);
            }
            if let Some(prev) = filter.prev.filter(|prev| *prev as usize >= count) {
                let reason = format!("filter {index} is followed by filter {prev}, of {count}");
                errors.inconsistent(image, 0, reason);
            }
            filters.push(SeccompFilter { program: filter.filter.into(), next: filter.prev, flags });
        }
        Ok(())
    });
    check_chains(&filters, errors);
    filters
}

/// That every chain ends, is no longer than the kernel allows, and is for one thread or for all.
fn check_chains(filters: &[SeccompFilter], errors: &mut Errors) {
    let image = Image::Seccomp;
    let next = |index: usize| filters.get(index)?.next.map(|next| next as usize);
    // How much the chain from each filter on counts; a chain is followed only to what is known.
    let mut costs: Vec<Option<u64>> = vec![None; filters.len()];
    let mut on_way = vec![false; filters.len()];
    for start in 0..filters.len() {
        let mut way = Vec::new();
        let mut at = Some(start);
        while let Some(index) = at.filter(|index| costs.get(*index) == Some(&None)) {
            if std::mem::replace(&mut on_way[index], true) {
                errors.inconsistent(image, 0, format!("filter {index} follows itself"));
                return;
            }
            way.push(index);
            at = next(index);
        }
        let mut cost = at.and_then(|index| costs.get(index).copied().flatten()).unwrap_or(0);
        for index in way.into_iter().rev() {
            let own = (filters[index].program.len() / INSTRUCTION) as u64 + CHAIN_FILTER;
            let was_within = cost <= CHAIN_MAX;
            cost = cost.saturating_add(own);
            costs[index] = Some(cost);
            if was_within && cost > CHAIN_MAX {
                let reason = format!("the filters from {index} on have more instructions than a chain may");
                errors.inconsistent(image, 0, reason);
            }
        }
    }
    for (index, filter) in filters.iter().enumerate() {
        let after = filter.next.and_then(|next| filters.get(next as usize));
        if after.is_some_and(|after| (after.flags ^ filter.flags) & TSYNC != 0) {
            let reason = format!("of filter {index} and the next only one is for all threads (TSYNC)");
            errors.unsupported(image, 0, reason);
        }
    }
}

/// That each thread names a filter if and only if it has one, and that filters for all threads of a
/// task are its first thread's.
pub(crate) fn check_threads(model: &Model, errors: &mut Errors) {
    for alive in model.tasks.iter().filter_map(|task| task.alive()) {
        let is_synced = |thread: &Thread| {
            let filter = thread.seccomp_filter.and_then(|index| model.seccomp_filters.get(index as usize));
            filter.is_some_and(|filter| filter.flags & TSYNC != 0)
        };
        let whole = alive.threads.first().is_some_and(is_synced);
        for (index, thread) in alive.threads.iter().enumerate() {
            let mut bad = |reason: String| {
                errors.inconsistent(thread.origin.image, thread.origin.entry, reason);
            };
            let count = model.seccomp_filters.len();
            match (thread.seccomp_mode, thread.seccomp_filter) {
                (2, None) => bad("seccomp mode 2 without a filter".to_owned()),
                (2, Some(filter)) if filter as usize >= count => {
                    bad(format!("its seccomp filter is {filter}, and seccomp.img has {count}"));
                }
                (2, Some(_)) | (0..=1, None) => {}
                (mode, Some(_)) => bad(format!("a seccomp filter in mode {mode}")),
                // Refused where the core image is read.
                (_, None) => {}
            }
            if index == 0 {
                continue;
            }
            if is_synced(thread) {
                bad("its seccomp filters are for all threads (TSYNC), and it is not the first".to_owned());
            } else if whole && thread.seccomp_mode != 0 {
                bad("seccomp of its own beside the first thread's, which is for all (TSYNC)".to_owned());
            }
        }
    }
}

/// One instruction of classic BPF.
#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    operand: u32,
}

/// What an instruction does, as far as it can be wrong.
enum Sort {
    /// Nothing that could be wrong here.
    Plain,
    /// Loads a word of `struct seccomp_data`.
    LoadData,
    /// Loads, stores a word of scratch memory.
    LoadMemory,
    StoreMemory,
    /// Divides, shifts by the operand.
    Divide,
    Shift,
    /// Jumps always, on a condition.
    Jump,
    Branch,
    Return,
}

impl Instruction {
    fn of(bytes: &[u8; INSTRUCTION]) -> Instruction {
        let [c0, c1, jump_true, jump_false, k0, k1, k2, k3] = *bytes;
        Instruction {
            code: u16::from_ne_bytes([c0, c1]),
            jump_true,
            jump_false,
            operand: u32::from_ne_bytes([k0, k1, k2, k3]),
        }
    }

    /// `None`: a filter of system calls has no such instruction.
    fn sort(self) -> Option<Sort> {
        Some(match self.code {
            // ld [k]; ld, ldx #k; ld, ldx #len; tax, txa
            0x20 => Sort::LoadData,
            0x00 | 0x01 | 0x80 | 0x81 | 0x07 | 0x87 => Sort::Plain,
            // ld, ldx M[k]; st, stx
            0x60 | 0x61 => Sort::LoadMemory,
            0x02 | 0x03 => Sort::StoreMemory,
            // div #k; lsh, rsh #k
            0x34 => Sort::Divide,
            0x64 | 0x74 => Sort::Shift,
            // add, sub, mul, or, and, xor by k and by x; div, lsh, rsh by x; neg
            0x04 | 0x14 | 0x24 | 0x44 | 0x54 | 0xa4 => Sort::Plain,
            0x0c | 0x1c | 0x2c | 0x4c | 0x5c | 0xac | 0x3c | 0x6c | 0x7c | 0x84 => Sort::Plain,
            // ja; jeq, jgt, jge, jset by k and by x
            0x05 => Sort::Jump,
            0x15 | 0x25 | 0x35 | 0x45 | 0x1d | 0x2d | 0x3d | 0x4d => Sort::Branch,
            // ret #k, ret a
            0x06 | 0x16 => Sort::Return,
            _ => return None,
        })
    }
}

/// That the kernel takes the program.
fn check_program(bytes: &[u8]) -> Result<(), String> {
    let (instructions, rest) = bytes.as_chunks::<INSTRUCTION>();
    let count = instructions.len();
    if !rest.is_empty() || !(1..=INSTRUCTIONS_MAX).contains(&count) {
        return Err(format!("{} bytes are not 1 to {INSTRUCTIONS_MAX} instructions", bytes.len()));
    }
    // Words of scratch memory that may not have been written when an instruction is reached: jumps only
    // lead forwards, so that all ways to it are known by then. To the kernel what stands behind a return
    // is reached from there.
    let mut unwritten = vec![0u16; count];
    unwritten[0] = u16::MAX;
    for (at, instruction) in instructions.iter().map(Instruction::of).enumerate() {
        let Instruction { code, operand, .. } = instruction;
        let bad = |what: &str| Err(format!("instruction {at}: {what}"));
        let Some(sort) = instruction.sort() else { return bad(&format!("code {code:#x}")) };
        let mut state = unwritten[at];
        let mut targets = [Some(1), None];
        match sort {
            Sort::Plain => {}
            Sort::LoadData if operand >= DATA || !operand.is_multiple_of(4) => {
                return bad(&format!("loads data at {operand}"));
            }
            Sort::Divide if operand == 0 => return bad("divides by 0"),
            Sort::Shift if operand >= 32 => return bad(&format!("shifts by {operand}")),
            Sort::LoadData | Sort::Divide | Sort::Shift => {}
            Sort::LoadMemory | Sort::StoreMemory if operand >= WORDS => {
                return bad(&format!("word {operand} of {WORDS}"));
            }
            Sort::LoadMemory if state >> operand & 1 == 1 => {
                return bad(&format!("reads word {operand}, which may not have been written"));
            }
            Sort::LoadMemory => {}
            Sort::StoreMemory => state &= !(1 << operand),
            Sort::Jump => targets = [Some(u64::from(operand) + 1), None],
            Sort::Branch => {
                targets =
                    [instruction.jump_true, instruction.jump_false].map(|jump| Some(u64::from(jump) + 1));
            }
            Sort::Return if at + 1 == count => targets = [None, None],
            Sort::Return => {}
        }
        for target in targets.into_iter().flatten() {
            let to = usize::try_from(target).ok().and_then(|target| at.checked_add(target));
            match to.and_then(|to| unwritten.get_mut(to)) {
                Some(there) => *there |= state,
                None => return bad("leads behind the end"),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn program(list: &[(u16, u8, u8, u32)]) -> Vec<u8> {
        let bytes = |(code, jump_true, jump_false, operand): &(u16, u8, u8, u32)| {
            [&code.to_ne_bytes()[..], &[*jump_true, *jump_false], &operand.to_ne_bytes()].concat()
        };
        list.iter().flat_map(bytes).collect()
    }

    const ALLOW: (u16, u8, u8, u32) = (0x06, 0, 0, 0x7fff_0000);

    #[test]
    fn programs() {
        #[track_caller]
        fn check(list: &[(u16, u8, u8, u32)], expected: Result<(), &str>) {
            assert_eq!(check_program(&program(list)), expected.map_err(str::to_owned));
            assert!(kernel_takes(&program(list)).is_none_or(|takes| takes == expected.is_ok()), "{list:x?}");
        }
        check(&[ALLOW], Ok(()));
        check(&[(0x20, 0, 0, 0), (0x15, 0, 1, 39), (0x06, 0, 0, 0x5_0001), ALLOW], Ok(()));
        check(&[(0x20, 0, 0, 64), ALLOW], Err("instruction 0: loads data at 64"));
        check(&[(0x20, 0, 0, 2), ALLOW], Err("instruction 0: loads data at 2"));
        check(&[(0x28, 0, 0, 0), ALLOW], Err("instruction 0: code 0x28"));
        check(&[(0x94, 0, 0, 3), ALLOW], Err("instruction 0: code 0x94"));
        check(&[(0x34, 0, 0, 0), ALLOW], Err("instruction 0: divides by 0"));
        check(&[(0x64, 0, 0, 32), ALLOW], Err("instruction 0: shifts by 32"));
        check(&[(0x02, 0, 0, 16), ALLOW], Err("instruction 0: word 16 of 16"));
        check(&[(0x60, 0, 0, 3), ALLOW], Err("instruction 0: reads word 3, which may not have been written"));
        check(&[(0x02, 0, 0, 3), (0x61, 0, 0, 3), ALLOW], Ok(()));
        // One way to the load goes past the store.
        check(
            &[(0x15, 0, 1, 0), (0x02, 0, 0, 3), (0x60, 0, 0, 3), ALLOW],
            Err("instruction 2: reads word 3, which may not have been written"),
        );
        // Both ways store.
        check(
            &[(0x15, 0, 2, 0), (0x02, 0, 0, 3), (0x05, 0, 0, 1), (0x03, 0, 0, 3), (0x60, 0, 0, 3), ALLOW],
            Ok(()),
        );
        // What no jump leads over may read what it wants; not so behind a return.
        check(&[(0x05, 0, 0, 1), (0x60, 0, 0, 3), ALLOW], Ok(()));
        check(
            &[ALLOW, (0x60, 0, 0, 3), ALLOW],
            Err("instruction 1: reads word 3, which may not have been written"),
        );
        check(&[(0x05, 0, 0, 1), ALLOW], Err("instruction 0: leads behind the end"));
        check(&[(0x05, 0, 0, u32::MAX), ALLOW], Err("instruction 0: leads behind the end"));
        check(&[(0x15, 0, 1, 0), ALLOW], Err("instruction 0: leads behind the end"));
        check(&[(0x20, 0, 0, 0)], Err("instruction 0: leads behind the end"));
        check(&[ALLOW, (0x20, 0, 0, 0)], Err("instruction 1: leads behind the end"));
        check(&[ALLOW; 4096], Ok(()));
        check(&[ALLOW; 4097], Err("32776 bytes are not 1 to 4096 instructions"));
        check(&[], Err("0 bytes are not 1 to 4096 instructions"));
        assert!(check_program(&program(&[ALLOW])[..7]).is_err());
    }

    /// Every code, alone and behind a store of the word that it may load: this and the running kernel
    /// agree.
    #[test]
    fn codes() {
        for code in 0..=0xff {
            let list = [(0x02, 0, 0, 4), (code, 0, 0, 4), ALLOW, ALLOW, ALLOW, ALLOW, ALLOW];
            let bytes = program(&list);
            let takes = check_program(&bytes).is_ok();
            assert!(kernel_takes(&bytes).is_none_or(|kernel| kernel == takes), "code {code:#x}");
        }
    }

    /// Whether the running kernel takes the program; `None` where it cannot be asked. It is not installed:
    /// for a filter with a listener the kernel wants a descriptor once it has found the program good,
    /// and who asks may have none.
    #[allow(unsafe_code)]
    fn kernel_takes(bytes: &[u8]) -> Option<bool> {
        let program = libc::sock_fprog {
            len: u16::try_from(bytes.len() / INSTRUCTION).unwrap(),
            filter: bytes.as_ptr().cast_mut().cast(),
        };
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        let mut status = 0;
        // SAFETY: the child makes system calls alone, with live values; the parent reaps it.
        unsafe {
            let pid = libc::fork();
            if pid == 0 {
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none);
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
                libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program);
                libc::_exit(*libc::__errno_location());
            }
            assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        }
        match libc::WEXITSTATUS(status) {
            libc::EMFILE => Some(true),
            libc::EINVAL => Some(false),
            _ => None,
        }
    }

    #[test]
    fn chains() {
        #[track_caller]
        fn check(filters: &[(usize, Option<u32>, u32)], expected: &[&str]) {
            let filters: Vec<SeccompFilter> = filters
                .iter()
                .map(|(len, next, flags)| SeccompFilter {
                    program: program(&vec![ALLOW; *len]).into(),
                    next: *next,
                    flags: *flags,
                })
                .collect();
            let mut errors = Errors::new();
            check_chains(&filters, &mut errors);
            let found = match errors.finish(std::path::Path::new("/"), Some(())) {
                Ok(()) => Vec::new(),
                Err(errors) => errors.errors().iter().map(ToString::to_string).collect(),
            };
            assert_eq!(found, expected);
        }
        check(&[], &[]);
        check(&[(1, None, 0), (1, Some(0), 0), (1, Some(1), LOG), (1, Some(0), 0)], &[]);
        check(&[(1, Some(0), 0)], &["seccomp.img entry 0: filter 0 follows itself"]);
        check(
            &[(1, None, 0), (1, Some(3), 0), (1, Some(1), 0), (1, Some(2), 0)],
            &["seccomp.img entry 0: filter 1 follows itself"],
        );
        let long: Vec<_> = (0..8).map(|at: u32| (4092, at.checked_sub(1), 0)).collect();
        check(&long, &[]);
        let longer: Vec<_> = (0..9).map(|at: u32| (4092, at.checked_sub(1), 0)).collect();
        check(
            &longer,
            &["seccomp.img entry 0: the filters from 8 on have more instructions than a chain may"],
        );
        check(
            &[(1, None, TSYNC), (1, Some(0), 0)],
            &[
                "seccomp.img entry 0: unsupported: of filter 1 and the next only one is for all threads (TSYNC)",
            ],
        );
    }
}
