//! The vDSO of a task: the running kernel's in its place, or that of another kernel, led to it.
//!
//! Where the dumped code is the running kernel's, the kernel maps its own where the dump had it
//! (`ARCH_MAP_VDSO_64`): nothing else is done. Otherwise programs hold addresses in code that knows the data
//! of another kernel. Then
//!
//! - the dumped code comes back as it was, in memory of the task's own, and every function that it exports
//!   starts with a jump to the function of the same name in the running kernel's vDSO, or, where that
//!   has none, with the system call that does the same;
//! - the running kernel's vDSO is mapped where the task has nothing;
//! - the dumped data, which only that code has read, is empty;
//! - the running kernel's vDSO gets the mark by which CRIU knows such a one at the next dump: it leaves it
//!   out and stores the dumped code, jumps included, as the task's vDSO. So it is restored again
//!   anywhere: where that code is the running kernel's but for such jumps, as if there had never been any.
//!
//! A thread that was stopped in the dumped code, or is to return there from a signal handler, goes on only
//! where that is certain to be right: at the start of a function, or on the way out of one. Anywhere
//! else it may have read half of the data: refused.
//!
//! Example: `__vdso_time` at 0x7ffe00000a30 of the dump begins with `movabs $0x7ffe0000fc40,%rax; jmp *%rax`.
//!
//! # Sources
//! vdso(7), arch_prctl(2); arch/x86/entry/vdso/vma.c; CRIU's `criu/include/parasite-vdso.h` for the mark and
//! `criu/vdso.c` for what it does to marked mappings.

use std::collections::BTreeMap;

use super::Resolver;
use super::numbers::PAGE;
use super::problem::ProblemKind;
use super::window::TASK_SIZE;
use crate::host::Vdso;
use crate::image::vdso::{Function, Stop, code_of, first_special, functions};
use crate::image::{Alive, Origin, Task, Vma, VmaKind};

/// How a task gets its vDSO.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// It has none.
    None,
    /// The running kernel's, from this address on.
    Running(u64),
    /// The dumped one, which leads to the running kernel's.
    Led(Box<Led>),
    /// Not at all: why has been said.
    Refused,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Led {
    /// Whose it is.
    pub(super) pid: u32,
    /// Where the running kernel's mappings start.
    pub(super) place: u64,
    /// Its code: first address, and length.
    pub(super) running_code: (u64, u64),
    /// What is written at the start of it.
    pub(super) mark: Vec<u8>,
    /// What is written over the dumped code: address and bytes.
    pub(super) jumps: Vec<(u64, Vec<u8>)>,
}

/// `movabs $target,%rax; jmp *%rax`: functions of the x86-64 ABI take no argument in rax.
const JUMP_LEN: usize = 12;
const JUMP_START: [u8; 2] = [0x48, 0xb8];
/// What CRIU fills its own jumps up to.
const CRIU_JUMP_LEN: usize = 16;
const INT3: u8 = 0xcc;
const MAP_GROWSDOWN: u32 = libc::MAP_GROWSDOWN as u32;
/// Nothing is placed below, where programs without PIE and their heaps are.
const LOWEST: u64 = 4 << 30;

/// Whether `code` is the running kernel's but for what [`patch`] and CRIU write at starts of functions.
fn is_patched(code: &[u8], running: &Vdso) -> bool {
    if code.len() != running.bytes.len() {
        return false;
    }
    let mut wanted = running.bytes.clone();
    for function in running.functions() {
        let at = function.offset as usize;
        let Some(len) = code.get(at..).and_then(|code| patch_len(code, &function.name)) else { continue };
        let Some(end) = at.checked_add(len).filter(|end| *end <= code.len()) else { continue };
        wanted[at..end].copy_from_slice(&code[at..end]);
        // Four bytes behind, which are no code then.
        let filled = at + CRIU_JUMP_LEN;
        if len == JUMP_LEN && code.get(end..filled) == Some(&[INT3; CRIU_JUMP_LEN - JUMP_LEN]) {
            wanted[end..filled].fill(INT3);
        }
    }
    code == wanted
}

/// How long the patch is that `code` starts with; `None`: it starts with none.
fn patch_len(code: &[u8], name: &str) -> Option<usize> {
    if jump_target(code).is_some() {
        return Some(JUMP_LEN);
    }
    let call = system_call(name)?;
    code.starts_with(&call).then_some(call.len())
}

fn jump(target: u64) -> Vec<u8> {
    [&JUMP_START[..], &target.to_le_bytes(), &[0xff, 0xe0]].concat()
}

/// Where `code` jumps, if that is all it does.
fn jump_target(code: &[u8]) -> Option<u64> {
    let (target, end) = code.strip_prefix(&JUMP_START)?.split_first_chunk::<8>()?;
    end.starts_with(&[0xff, 0xe0]).then(|| u64::from_le_bytes(*target))
}

/// The system call that does what a function of this name does, arguments and result included.
fn system_call(name: &str) -> Option<Vec<u8>> {
    let number = match name.strip_prefix("__vdso_").unwrap_or(name) {
        "clock_gettime" => libc::SYS_clock_gettime,
        "clock_getres" => libc::SYS_clock_getres,
        "gettimeofday" => libc::SYS_gettimeofday,
        "time" => libc::SYS_time,
        "getcpu" => libc::SYS_getcpu,
        "getrandom" => libc::SYS_getrandom,
        _ => return None,
    };
    // mov $number,%eax; syscall; ret
    let call = [&[0xb8][..], &(number as u32).to_le_bytes(), &[0x0f, 0x05, 0xc3]].concat();
    if number != libc::SYS_getrandom {
        return Some(call);
    }
    // Who asks what state the function wants (the fifth argument is ~0) gets ENOSYS: there is none. All else is
    // getrandom(2): cmp $-1,%r8; je behind; <call>; mov $-ENOSYS,%rax; ret
    let refusal = [&[0x48, 0xc7, 0xc0][..], &(-libc::ENOSYS).to_le_bytes(), &[0xc3]].concat();
    Some([&[0x49, 0x83, 0xf8, 0xff, 0x74, call.len() as u8][..], &call, &refusal].concat())
}

/// Whether a function needs neither data of its kernel nor that kernel: it may stay as it is. Entering an
/// enclave is an instruction, and mappings of enclaves are not restored.
fn stands_alone(name: &str) -> bool {
    name.strip_prefix("__vdso_").unwrap_or(name) == "sgx_enter_enclave"
}

/// Decides for one task.
pub(super) fn resolve(resolver: &mut Resolver<'_>, task: &Task, alive: &Alive) -> Way {
    let Some(start) = first_special(alive) else { return Way::None };
    let vmas = &alive.mm.vmas;
    let Some(code) = code_of(alive) else { return Way::None };
    let origin = code.origin;
    let mut no = |kind, text: String| {
        resolver.problems.add(kind, Some(task.pid), Some(origin), text);
        Way::Refused
    };
    if vmas.iter().filter(|vma| vma.kind == VmaKind::Vdso).count() > 1 {
        return no(ProblemKind::BadImages, "it has more than one vDSO".to_owned());
    }
    let Some(running) = resolver.facts.vdso.as_ref().filter(|running| running.code().is_some()) else {
        return no(ProblemKind::Lacking, "it has a vDSO, and this kernel has none".to_owned());
    };
    let Some(dumped) = resolver.vdsos.get(&task.pid) else { return Way::Running(start) };
    if let Some(bytes) = &dumped.code
        && running.is_laid_out_as(alive)
        && is_patched(bytes, running)
    {
        // Who was within the vDSO of the kernel that it led to has nowhere to go on; who was within a jump,
        // neither.
        let exported = running.functions();
        let is_in_jump = |offset: u64| {
            let within = |function: &&Function| {
                (function.offset + 1..function.offset + JUMP_LEN as u64).contains(&offset)
            };
            let mut started = exported.iter().filter(within);
            started.any(|function| bytes[function.offset as usize..].starts_with(&JUMP_START))
        };
        let bad = dumped.stops.iter().filter(|stop| offset_in(stop, code).is_none_or(is_in_jump));
        let texts: Vec<String> = bad.map(|stop| describe(stop, code, &exported)).collect();
        return refuse_stops(resolver, task, origin, texts).unwrap_or(Way::Running(start));
    }
    let Some(bytes) = &dumped.code else {
        return no(ProblemKind::BadImages, "the pages of its vDSO are not all in the images".to_owned());
    };
    let exported = match functions(bytes) {
        Ok(exported) => exported,
        Err(why) => return no(ProblemKind::BadImages, format!("its vDSO: {why}")),
    };
    if !resolver.facts.kernel.process_vm_writev.is_present() {
        let text = "its vDSO is that of another kernel, and process_vm_writev(2) is missing";
        return no(ProblemKind::Lacking, text.to_owned());
    }
    // Those who are within the vDSO that it led to go on, where that was this kernel's.
    let former = former_place(bytes, &exported, running).filter(|place| is_free(vmas, *place, running));
    let Some(place) = former.or_else(|| free_place(vmas, code, running.size_bytes())) else {
        let text = format!(
            "its vDSO is that of another kernel, and no range of {} bytes is free for this kernel's",
            running.size_bytes()
        );
        return no(ProblemKind::Lacking, text);
    };
    let code_offset = running.code().map_or(0, |mapping| mapping.offset_bytes);
    let targets: BTreeMap<String, u64> = running
        .functions()
        .into_iter()
        .map(|function| (function.name, place + code_offset + function.offset))
        .collect();
    let patches = match patches(&exported, &targets, bytes.len()) {
        Ok(patches) => patches,
        Err(text) => return no(ProblemKind::Lacking, text),
    };
    let stops = dumped.stops.clone();
    let is_in_former = |ip: u64| {
        let from = place + code_offset;
        former == Some(place) && (from..from + running.bytes.len() as u64).contains(&ip)
    };
    let bad = stops.iter().filter(|stop| match offset_in(stop, code) {
        Some(offset) => !goes_on(offset, bytes, &patches),
        None => !is_in_former(stop.ip),
    });
    let texts: Vec<String> = bad.map(|stop| describe(stop, code, &exported)).collect();
    let led = Led {
        pid: task.pid.0,
        place,
        running_code: (place + code_offset, running.bytes.len() as u64),
        mark: mark(alive, code.start, place, running),
        jumps: patches.into_iter().map(|(offset, bytes)| (code.start + offset, bytes)).collect(),
    };
    let end = place + running.size_bytes();
    if let Some(refused) = refuse_stops(resolver, task, origin, texts) {
        return refused;
    }
    resolver.placed_vdsos.push((place, end));
    Way::Led(Box::new(led))
}

fn refuse_stops(resolver: &mut Resolver<'_>, task: &Task, origin: Origin, texts: Vec<String>) -> Option<Way> {
    let refused = (!texts.is_empty()).then_some(Way::Refused);
    for text in texts {
        resolver.problems.unsupported(Some(task.pid), Some(origin), text);
    }
    refused
}

fn offset_in(stop: &Stop, code: &Vma) -> Option<u64> {
    (code.start..code.end).contains(&stop.ip).then(|| stop.ip - code.start)
}

/// Where the vDSO was that the dumped one led to, if that was this kernel's: all functions that both have
/// led to where this kernel's would be. (CRIU takes vDSOs for one another by the same sign.)
fn former_place(code: &[u8], exported: &[Function], running: &Vdso) -> Option<u64> {
    let code_offset = running.code()?.offset_bytes;
    let own: BTreeMap<String, u64> =
        running.functions().into_iter().map(|function| (function.name, function.offset)).collect();
    let mut places = exported.iter().filter_map(|function| {
        let offset = own.get(&function.name)?.checked_add(code_offset)?;
        let target = code.get(function.offset as usize..).and_then(jump_target);
        // One that leads nowhere is none that this kernel's could be.
        Some(target.map(|target| target.wrapping_sub(offset)))
    });
    let first = places.next()??;
    places.all(|place| place == Some(first)).then_some(first)
}

fn is_free(vmas: &[Vma], place: u64, running: &Vdso) -> bool {
    let end = place.checked_add(running.size_bytes()).filter(|end| *end <= TASK_SIZE);
    place.is_multiple_of(PAGE)
        && place >= LOWEST
        && end.is_some_and(|end| vmas.iter().all(|vma| end <= vma.start || vma.end <= place))
}

/// The patches of the exported functions, by offset.
fn patches(
    exported: &[Function],
    targets: &BTreeMap<String, u64>,
    code_len: usize,
) -> Result<BTreeMap<u64, Vec<u8>>, String> {
    let mut names: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for function in exported {
        names.entry(function.offset).or_default().push(&function.name);
    }
    let mut patches = BTreeMap::new();
    for (offset, names_here) in &names {
        let target = names_here.iter().find_map(|name| targets.get(*name));
        let patch = match target {
            Some(target) => jump(*target),
            None => match names_here.iter().find_map(|name| system_call(name)) {
                Some(call) => call,
                None if names_here.iter().any(|name| stands_alone(name)) => continue,
                None => {
                    return Err(format!(
                        "its vDSO is that of another kernel and has {}, which this kernel's has not and no system call replaces",
                        names_here.join(" or ")
                    ));
                }
            },
        };
        let end = names.range(offset + 1..).next().map_or(code_len as u64, |(next, _)| *next);
        if end - offset < patch.len() as u64 {
            return Err(format!(
                "its vDSO is that of another kernel, and {} is too short to be led to this kernel's",
                names_here.join(" or ")
            ));
        }
        patches.insert(*offset, patch);
    }
    Ok(patches)
}

fn describe(stop: &Stop, code: &Vma, exported: &[Function]) -> String {
    let within = |offset: u64| {
        let holds =
            |function: &&Function| (function.offset..function.offset + function.len).contains(&offset);
        let function = exported.iter().find(holds).map(|function| format!("in {}", function.name));
        function.unwrap_or_else(|| format!("at offset {offset:#x}"))
    };
    let place = offset_in(stop, code).map_or_else(|| format!("at {:#x}", stop.ip), within);
    let how = if stop.in_handler { "a signal handler interrupted it" } else { "it was stopped" };
    format!("thread {}: {how} {place} of a vDSO that is not this kernel's: it cannot go on there", stop.tid)
}

/// Whether code that is about to execute the instruction at `offset` ends as it must: at the start of a
/// function nothing has happened yet, and on the way out nothing but registers and the stack matters.
fn goes_on(offset: u64, code: &[u8], patches: &BTreeMap<u64, Vec<u8>>) -> bool {
    if patches.contains_key(&offset) {
        return true;
    }
    let is_patched = |from: usize, len: usize| {
        let before = patches.range(..(from + len) as u64).next_back();
        before.is_some_and(|(start, patch)| start + patch.len() as u64 > from as u64)
    };
    let mut at = offset as usize;
    // Ways out are short.
    for _ in 0..16 {
        let Some(rest) = code.get(at..).filter(|rest| !rest.is_empty()) else { return false };
        let (len, ends) = match way_out(rest) {
            Some(step) => step,
            None => return false,
        };
        if is_patched(at, len) {
            return false;
        }
        if ends {
            return true;
        }
        at += len;
    }
    false
}

/// The length of an instruction that only takes registers from the stack, moves or widens them or returns,
/// and whether it returns; `None`: any other (Intel SDM volume 2).
fn way_out(code: &[u8]) -> Option<(usize, bool)> {
    Some(match code {
        // ret; repz ret
        [0xc3, ..] => (1, true),
        [0xf3, 0xc3, ..] => (2, true),
        // pop; leave; nop; cltq
        [0x58..=0x5f, ..] | [0xc9, ..] | [0x90, ..] => (1, false),
        [0x41, 0x58..=0x5f, ..] | [0x48, 0x98, ..] => (2, false),
        // mov, xor or test of registers
        [0x89 | 0x8b | 0x31 | 0x33 | 0x85, 0xc0..=0xff, ..] => (2, false),
        [0x40..=0x4f, 0x89 | 0x8b | 0x31 | 0x33 | 0x85 | 0x63, 0xc0..=0xff, ..] => (3, false),
        // add $8,%rsp
        [0x48, 0x83, 0xc4, _, ..] => (4, false),
        // lea -8(%rbp),%rsp
        [0x48, 0x8d, 0x65, _, ..] => (4, false),
        _ => return None,
    })
}

/// Room for the running kernel's mappings: the nearest hole above the dumped code, where kernels put it,
/// or else the nearest below. Not right below what grows down.
fn free_place(vmas: &[Vma], code: &Vma, len: u64) -> Option<u64> {
    let needed = len.checked_add(2 * PAGE)?;
    let below_end = |vma: &&Vma| vma.end <= TASK_SIZE;
    // (end of what lies below, start of what lies above, whether that grows down), by address.
    let mut holes = Vec::new();
    let mut from = LOWEST;
    for vma in vmas.iter().filter(below_end) {
        holes.push((from, vma.start, vma.flags & MAP_GROWSDOWN != 0));
        from = from.max(vma.end);
    }
    holes.push((from, TASK_SIZE, false));
    holes.retain(|(start, end, grows)| !grows && end.checked_sub(*start).is_some_and(|room| room >= needed));
    let above = holes.iter().find(|(start, ..)| *start >= code.end).map(|(start, ..)| start + PAGE);
    above.or_else(|| holes.iter().rev().map(|(_, end, _)| end - PAGE - len).next())
}

/// The mark at the start of the running kernel's code by which CRIU knows it: five words.
fn mark(alive: &Alive, code: u64, place: u64, running: &Vdso) -> Vec<u8> {
    /// "CRIUvDSO", and the third version of what follows.
    const SIGNATURE: u64 = 0x4f53_4476_5549_5243;
    const VERSION: u64 = 3;
    const NONE: u64 = u64::MAX;
    let dumped_data =
        alive.mm.vmas.iter().find(|vma| vma.kind == VmaKind::Vvar).map_or(NONE, |vma| vma.start);
    let data = running.mappings.iter().find(|mapping| mapping.name == "[vvar]");
    let running_data = data.map_or(NONE, |mapping| place + mapping.offset_bytes);
    [SIGNATURE, code, VERSION, dumped_data, running_data].iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The mapping that asks for the vDSO.
pub(super) fn origin(alive: &Alive) -> Origin {
    let special = alive.mm.vmas.iter().find(|vma| matches!(vma.kind, VmaKind::Vvar | VmaKind::Vdso));
    special.map_or(alive.mm.origin, |vma| vma.origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::SpecialMapping;
    use crate::image::{Image, Origin};

    fn function(name: &str, offset: u64, len: u64) -> Function {
        Function { name: name.to_owned(), offset, len }
    }

    fn vma(start: u64, end: u64, flags: i32, kind: VmaKind) -> Vma {
        Vma {
            start: start * PAGE,
            end: end * PAGE,
            prot: 5,
            flags: flags as u32,
            status: 0,
            kind,
            madvise: 0,
            origin: Origin::new(Image::Mm(1), 0),
        }
    }

    #[test]
    fn functions_are_led_by_any_of_their_names() {
        let exported = [
            function("clock_gettime", 0x100, 64),
            function("__vdso_clock_gettime", 0x100, 64),
            function("__vdso_time", 0x140, 32),
            function("__vdso_sgx_enter_enclave", 0x180, 64),
            function("__vdso_getrandom", 0x200, 64),
        ];
        let targets = BTreeMap::from([("__vdso_clock_gettime".to_owned(), 0x1234_5678_9abc)]);
        let patches = patches(&exported, &targets, 0x1000).expect("patches");
        assert_eq!(
            patches[&0x100],
            [0x48, 0xb8, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12, 0, 0, 0xff, 0xe0],
            "a jump"
        );
        assert_eq!(patches[&0x140], [0xb8, 201, 0, 0, 0, 0x0f, 0x05, 0xc3], "time(2)");
        assert_eq!(patches[&0x200].len(), 22, "getrandom(2)");
        assert_eq!(patches.len(), 3, "the enclave's stays");
    }

    #[test]
    fn what_cannot_be_led_is_said() {
        let none = BTreeMap::new();
        let unknown = patches(&[function("__vdso_new", 0x100, 64)], &none, 0x1000).expect_err("unknown");
        assert!(unknown.contains("has __vdso_new, which this kernel's has not"), "{unknown}");
        let close = [function("__vdso_time", 0x100, 4), function("__vdso_getcpu", 0x104, 32)];
        let short = patches(&close, &none, 0x1000).expect_err("too short");
        assert!(short.contains("__vdso_time is too short"), "{short}");
        let short = patches(&[function("__vdso_time", 0xffc, 4)], &none, 0x1000).expect_err("at the end");
        assert!(short.contains("too short"), "{short}");
    }

    #[test]
    fn a_vdso_that_leads_to_this_kernels_says_where_that_was() {
        let Some(running) = crate::host::gather_vdso() else { return };
        let place = 0x7ffe_0000_0000;
        let code_offset = running.code().map_or(0, |mapping| mapping.offset_bytes);
        let mut code = running.bytes.clone();
        for function in running.functions() {
            let jump = jump(place + code_offset + function.offset);
            code[function.offset as usize..][..JUMP_LEN].copy_from_slice(&jump);
        }
        let exported = running.functions();
        assert_eq!(former_place(&code, &exported, &running), Some(place));
        code[exported[0].offset as usize + 2] ^= 4;
        assert_eq!(former_place(&code, &exported, &running), None, "another kernel's");
        assert_eq!(former_place(&running.bytes, &exported, &running), None, "no jumps");
    }

    #[test]
    fn threads_go_on_at_starts_and_on_ways_out() {
        let mut code = vec![0x0f; 0x200];
        // cltq; add $8,%rsp; pop %rbp; pop %r12; ret
        code[0x120..0x12a].copy_from_slice(&[0x48, 0x98, 0x48, 0x83, 0xc4, 8, 0x5d, 0x41, 0x5c, 0xc3]);
        code[0x130..0x132].copy_from_slice(&[0x5d, 0x8b]);
        code[0x10a..0x10c].copy_from_slice(&[0x90, 0xc3]);
        let patches = BTreeMap::from([(0x100, jump(1))]);
        let check = |offset: u64, expected: bool| {
            assert_eq!(goes_on(offset, &code, &patches), expected, "{offset:#x}");
        };
        check(0x100, true);
        check(0x120, true);
        check(0x126, true);
        check(0x129, true);
        // Another instruction, on the way out, behind it, in a patch, outside.
        check(0x11f, false);
        check(0x130, false);
        check(0x12a, false);
        check(0x10a, false);
        check(0x200, false);
        check(0x1ff, false);
    }

    #[test]
    fn the_running_kernels_goes_above_or_below() {
        let end = TASK_SIZE / PAGE;
        let base = LOWEST / PAGE + 0x1000;
        let check = |vmas: &[Vma], expected: Option<u64>| {
            let code = vmas.iter().find(|vma| vma.kind == VmaKind::Vdso).expect("code");
            assert_eq!(free_place(vmas, code, 8 * PAGE).map(|at| at / PAGE), expected);
        };
        let plain = VmaKind::AnonPrivate;
        let code = vma(base, base + 2, 0x22, VmaKind::Vdso);
        check(std::slice::from_ref(&code), Some(base + 3));
        check(&[code.clone(), vma(base + 12, base + 13, 0x22, plain)], Some(base + 3));
        // Too small, or below a stack.
        check(&[code.clone(), vma(base + 11, base + 13, 0x22, plain)], Some(base + 14));
        check(&[code.clone(), vma(base + 100, base + 101, 0x122, plain)], Some(base + 102));
        check(&[code.clone(), vma(base + 2, end, 0x22, plain)], Some(base - 9));
        check(&[vma(LOWEST / PAGE, base, 0x22, plain), code, vma(base + 2, end, 0x22, plain)], None);
    }

    #[test]
    fn a_patched_image_of_this_kernel_is_known() {
        let Some(running) = crate::host::gather_vdso() else { return };
        let targets = running.functions().into_iter().map(|function| (function.name, 0x1234)).collect();
        let patches_all = patches(&running.functions(), &targets, running.bytes.len()).expect("patches");
        let stubs = patches(&running.functions(), &BTreeMap::new(), running.bytes.len()).expect("stubs");
        let patched = |patches: &BTreeMap<u64, Vec<u8>>, fill: &[u8]| {
            let mut code = running.bytes.clone();
            for (at, patch) in patches {
                let patch = [&patch[..], fill].concat();
                code[*at as usize..*at as usize + patch.len()].copy_from_slice(&patch);
            }
            code
        };
        assert!(is_patched(&patched(&patches_all, &[]), &running));
        assert!(is_patched(&patched(&patches_all, &[INT3; 4]), &running), "as CRIU does");
        assert!(is_patched(&patched(&stubs, &[]), &running));
        assert!(!is_patched(&patched(&patches_all, &[INT3; 5]), &running));
        let mut other = patched(&patches_all, &[]);
        other[0x40] ^= 1;
        assert!(!is_patched(&other, &running), "another byte");
        let mapping = SpecialMapping { name: "[vdso]".to_owned(), offset_bytes: 0, size_bytes: 4096 };
        let short =
            Vdso { mappings: vec![mapping], bytes: running.bytes[..4096.min(running.bytes.len())].to_vec() };
        assert!(!is_patched(&patched(&patches_all, &[])[..1], &short));
    }
}
