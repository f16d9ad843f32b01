//! The vDSO in images: its bytes, what it exports, and who was stopped in it.
//!
//! The bytes are an ELF image that the kernel gave the task, found among its pages; in an image it is
//! whatever somebody has written there, so everything is bounded and nothing is believed. The running
//! kernel's own is read by the same means. What is to be done with a vDSO is not decided here.
//!
//! Example: Linux 6.1 gives `[vvar]` of 4 pages and `[vdso]` of 2, whose image exports
//! `__vdso_clock_gettime` and, at the same place, `clock_gettime`.
//!
//! # Sources
//! vdso(7), elf(5); arch/x86/include/asm/sigframe.h and uapi/asm/sigcontext.h for signal frames.

use std::collections::BTreeSet;

use object::elf::{
    DT_GNU_HASH, DT_HASH, DT_STRTAB, DT_SYMTAB, EM_X86_64, FileHeader64, GnuHashHeader, PT_LOAD, STT_FUNC,
    Sym64,
};
use object::pod::slice_from_bytes;
use object::read::elf::{Dyn as _, FileHeader as _, GnuHashTable, HashTable, ProgramHeader as _, Sym as _};
use object::{LittleEndian, SymbolIndex};

use super::alike::Alike;
use super::error::ImageError;
use super::file::Blobs;
use super::model::{Alive, Blob, Image, Model, Vma, VmaKind};
use super::ranges::within;

const PAGE: u64 = 4096;
/// The most that is taken for a vDSO; real ones have one or two pages.
const MAX_BYTES: u64 = 1 << 20;
/// More symbols than any vDSO has.
const MAX_SYMBOLS: u32 = 1024;
/// The most of one stack that is searched for signal frames, from its end upwards.
const MAX_STACK_BYTES: u64 = 64 << 20;
/// Signal handlers that interrupt one another on stacks of their own.
const MAX_STACKS: usize = 64;

/// A function that a vDSO exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its name, without the version.
    pub name: String,
    /// Where it starts, from the start of the image.
    pub offset: u64,
    /// Its length in bytes, as the symbol has it.
    pub len: u64,
}

/// The functions that a vDSO exports, in the order of its symbols: several names may have one place.
///
/// # Errors
/// In words, what keeps the bytes from being an ELF image of x86-64 that exports functions.
pub fn functions(image: &[u8]) -> Result<Vec<Function>, &'static str> {
    const ENDIAN: LittleEndian = LittleEndian;
    const BROKEN: &str = "its ELF headers are broken";
    let header = FileHeader64::<LittleEndian>::parse(image).map_err(|_| "it is no ELF image")?;
    if header.e_machine.get(ENDIAN) != EM_X86_64 || !header.is_little_endian() {
        return Err("it is no ELF image of x86-64");
    }
    let segments = header.program_headers(ENDIAN, image).map_err(|_| BROKEN)?;
    let load = segments.iter().find(|segment| segment.p_type(ENDIAN) == PT_LOAD).ok_or(BROKEN)?;
    let offset_of = |address: u64| {
        let offset = address.checked_sub(load.p_vaddr(ENDIAN))?.checked_add(load.p_offset(ENDIAN))?;
        (offset < image.len() as u64).then_some(offset)
    };
    let from = |address: u64| image.get(usize::try_from(offset_of(address)?).ok()?..);
    let dynamic = segments
        .iter()
        .find_map(|segment| segment.dynamic(ENDIAN, image).ok().flatten())
        .ok_or("it has no dynamic symbols")?;
    let entry = |tag: u32| {
        let found = dynamic.iter().find(|entry| entry.tag32(ENDIAN) == Some(tag))?;
        from(found.d_val(ENDIAN))
    };
    let symbols = entry(DT_SYMTAB).ok_or("it has no dynamic symbols")?;
    let strings = entry(DT_STRTAB).ok_or("its symbols have no names")?;
    // A hash table is the only thing that says how many symbols there are.
    let by_hash =
        entry(DT_HASH).and_then(|data| HashTable::<FileHeader64<LittleEndian>>::parse(ENDIAN, data).ok());
    let count = match by_hash {
        Some(table) => Some(table.symbol_table_length()),
        None => entry(DT_GNU_HASH).and_then(|data| {
            // The chains are as long as the symbols they are of: a table is not larger than the image.
            slice_from_bytes::<GnuHashHeader<LittleEndian>>(data, 1).ok()?;
            GnuHashTable::<FileHeader64<LittleEndian>>::parse(ENDIAN, data).ok()?.symbol_table_length(ENDIAN)
        }),
    };
    let count =
        count.filter(|count| *count <= MAX_SYMBOLS).ok_or("it does not say how many symbols it has")?;
    let (symbols, _) = slice_from_bytes::<Sym64<LittleEndian>>(symbols, count as usize)
        .map_err(|()| "its symbols are cut off")?;
    let mut functions = Vec::new();
    for symbol in symbols.iter().skip(SymbolIndex(1).0) {
        if symbol.st_type() != STT_FUNC || symbol.is_undefined(ENDIAN) {
            continue;
        }
        let name = strings.get(symbol.st_name(ENDIAN) as usize..).unwrap_or_default();
        let name = name.iter().position(|byte| *byte == 0).map_or(&[][..], |end| &name[..end]);
        let len = symbol.st_size(ENDIAN);
        let offset = offset_of(symbol.st_value(ENDIAN))
            .filter(|offset| offset.checked_add(len).is_some_and(|end| end <= image.len() as u64))
            .ok_or("a function of it lies outside")?;
        let name = std::str::from_utf8(name).map_err(|_| "a name of it is no text")?;
        functions.push(Function { name: name.to_owned(), offset, len });
    }
    Ok(functions)
}

/// The mapping of the vDSO's code.
pub fn code_of(alive: &Alive) -> Option<&Vma> {
    alive.mm.vmas.iter().find(|vma| vma.kind == VmaKind::Vdso)
}

/// Where the first of the mappings is that the kernel provides.
pub fn first_special(alive: &Alive) -> Option<u64> {
    let mut special = alive.mm.vmas.iter().filter(|vma| matches!(vma.kind, VmaKind::Vvar | VmaKind::Vdso));
    special.next().map(|vma| vma.start)
}

/// The vDSO of a task that is not the running kernel's.
#[derive(Debug, Clone, Default)]
pub struct Dumped {
    /// Its code; `None` if it is not all in the images.
    pub code: Option<Vec<u8>>,
    /// Who goes on in it.
    pub stops: Vec<Stop>,
}

/// The bytes of a task's vDSO; `None` if it has none, or one too large to be one, or not all pages of it
/// are in the images.
///
/// # Errors
/// The pages cannot be read.
pub fn read_code(model: &Model, alive: &Alive) -> Result<Option<Vec<u8>>, ImageError> {
    let Some(vma) = code_of(alive).filter(|vma| vma.end - vma.start <= MAX_BYTES) else { return Ok(None) };
    let mut bytes = vec![0; (vma.end - vma.start) as usize];
    let found = read_range(model, alive, vma.start, &mut bytes)?;
    Ok((found == vma.end - vma.start).then_some(bytes))
}

/// For each task one that has the same code at the same addresses: the first on the way to the root, as far as their pages
/// were compared; or itself. (Old pages, of which a run does not say that the parent has them in the end, are in writable
/// memory of the task's own.)
pub fn same_code(model: &Model, alike: &Alike) -> Vec<usize> {
    let mut first: Vec<usize> = Vec::with_capacity(model.tasks.len());
    for (index, task) in model.tasks.iter().enumerate() {
        let of_parent = || {
            let (parent, runs) = alike.with_parent(index)?;
            let code = code_of(task.alive()?)?;
            let theirs = code_of(model.tasks.get(parent)?.alive()?)?;
            let in_common: u64 = within(runs, code.start, code.end).map(|(start, end)| end - start).sum();
            let is_same =
                (code.start, code.end) == (theirs.start, theirs.end) && in_common == code.end - code.start;
            first.get(parent).copied().filter(|_| is_same)
        };
        let of_parent = of_parent();
        first.push(of_parent.unwrap_or(index));
    }
    first
}

/// Reads what the images have of a range; says how many bytes that was. The others are left.
fn read_range(model: &Model, alive: &Alive, start: u64, bytes: &mut [u8]) -> Result<u64, ImageError> {
    let end = start.saturating_add(bytes.len() as u64);
    let extents = &alive.mm.pages.extents;
    let first = extents.partition_point(|extent| extent.start + extent.len_pages * PAGE <= start);
    let mut found = 0;
    let blobs = Blobs::of(model);
    // An extent may reach into the mappings before and behind.
    for part in extents[first..].iter().map_while(|extent| extent.within(start, end)) {
        let len_bytes = part.len_pages * PAGE;
        let image = Image::Pages(part.image);
        let read = blobs.read(&Blob { image, offset_bytes: part.offset_bytes, len_bytes })?;
        let at = (part.start - start) as usize;
        bytes[at..at + read.len()].copy_from_slice(&read);
        found += len_bytes;
    }
    Ok(found)
}

/// What the images have of a range: stretches of memory without holes, with their addresses.
fn stored_runs(
    model: &Model,
    alive: &Alive,
    start: u64,
    end: u64,
) -> Result<Vec<(u64, Vec<u8>)>, ImageError> {
    let extents = &alive.mm.pages.extents;
    let first = extents.partition_point(|extent| extent.start + extent.len_pages * PAGE <= start);
    let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
    let blobs = Blobs::of(model);
    for part in extents[first..].iter().map_while(|extent| extent.within(start, end)) {
        let image = Image::Pages(part.image);
        let len_bytes = part.len_pages * PAGE;
        let read = blobs.read(&Blob { image, offset_bytes: part.offset_bytes, len_bytes })?;
        match runs.last_mut() {
            Some((at, bytes)) if *at + bytes.len() as u64 == part.start => bytes.extend_from_slice(&read),
            _ => runs.push((part.start, read)),
        }
    }
    Ok(runs)
}

/// Where a task would go on in its vDSO: the instruction pointers of threads that were stopped there, and
/// of those that a signal handler has interrupted there. Also those in no mapping at all: CRIU leaves out the
/// vDSO of the kernel to which the dumped one leads.
///
/// # Errors
/// The pages of a stack cannot be read.
pub fn stops_within(model: &Model, alive: &Alive, code: &Vma) -> Result<Vec<Stop>, ImageError> {
    let vmas = &alive.mm.vmas;
    let is_within = |ip: u64| {
        let at = vmas.partition_point(|vma| vma.end <= ip);
        (code.start..code.end).contains(&ip) || vmas.get(at).is_none_or(|vma| ip < vma.start)
    };
    let restorers: BTreeSet<u64> = alive
        .sigactions
        .iter()
        .filter(|action| action.handler > 1 && action.restorer != 0)
        .map(|action| action.restorer)
        .collect();
    let mut stops = Vec::new();
    for thread in &alive.threads {
        let tid = thread.tid.0;
        if is_within(thread.regs.ip) {
            stops.push(Stop { tid, ip: thread.regs.ip, in_handler: false });
        }
        // A handler's frame has the stack pointer of what it interrupted, which may be on another stack.
        let mut pointers = vec![thread.regs.sp];
        let mut next = 0;
        while let Some(pointer) = pointers.get(next).copied().filter(|_| next < MAX_STACKS) {
            next += 1;
            let at = vmas.partition_point(|vma| vma.end <= pointer);
            let Some(vma) = vmas.get(at).filter(|vma| vma.start <= pointer) else { continue };
            let start = pointer & !(PAGE - 1);
            let end = vma.end.min(start.saturating_add(MAX_STACK_BYTES));
            // A frame has no word that is 0 where it is looked at, so none goes on where nothing is stored.
            for (at, bytes) in stored_runs(model, alive, start, end)? {
                for (ip, sp) in frames(&bytes, at, pointer, &restorers) {
                    if is_within(ip) {
                        stops.push(Stop { tid, ip, in_handler: true });
                    }
                    let is_elsewhere = sp < vma.start || vma.end <= sp;
                    let is_known = |other: &u64| other & !(PAGE - 1) == sp & !(PAGE - 1);
                    if is_elsewhere && pointers.len() < MAX_STACKS && !pointers.iter().any(is_known) {
                        pointers.push(sp);
                    }
                }
            }
        }
    }
    Ok(stops)
}

/// See [`stops_within`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// The thread.
    pub tid: u32,
    /// The instruction it goes on with.
    pub ip: u64,
    /// Whether a signal handler runs first, whose return leads there.
    pub in_handler: bool,
}

/// Signal frames of a stack from a stack pointer upwards: instruction and stack pointer of what was
/// interrupted. A frame starts with the address to which the handler returns, the `restorer` of its
/// disposition; eight words later the registers follow.
fn frames(stack: &[u8], start: u64, pointer: u64, restorers: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    /// Words from the start of `struct rt_sigframe`: `uc_mcontext.sp`, `.ip`, `.flags` and the selectors.
    const SP: usize = 21;
    const IP: usize = 22;
    const FLAGS: usize = 23;
    const SELECTORS: usize = 24;
    /// `__USER_CS` (asm/segment.h).
    const USER_CS: u64 = 0x33;
    /// Bit 1 is always set, and there is none above bit 21 (Intel SDM volume 1, 3.4.3).
    const FLAGS_FIXED: u64 = 2;
    let (words, _) = stack.as_chunks::<8>();
    let word = |index: usize| u64::from_ne_bytes(words[index]);
    let first = pointer.saturating_sub(start).div_ceil(8) as usize;
    let mut found = Vec::new();
    for frame in first..words.len().saturating_sub(SELECTORS) {
        let is_frame = restorers.contains(&word(frame))
            && word(frame + SELECTORS) & 0xffff == USER_CS
            && word(frame + FLAGS) & FLAGS_FIXED != 0
            && word(frame + FLAGS) >> 22 == 0;
        if is_frame {
            found.push((word(frame + IP), word(frame + SP)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::alike::{Pair, Run};
    use super::super::model::PagesImage;
    use super::*;
    use crate::host;

    fn running() -> Option<Vec<u8>> {
        Some(host::gather_vdso()?.bytes)
    }

    #[test]
    fn the_running_vdso_exports_the_clocks() {
        let Some(image) = running() else { return };
        let functions = functions(&image).expect("readable");
        for name in
            ["__vdso_clock_gettime", "clock_gettime", "__vdso_gettimeofday", "__vdso_time", "__vdso_getcpu"]
        {
            let function = functions.iter().find(|function| function.name == name).expect(name);
            assert!(function.len > 0 && function.offset > 0, "{function:?}");
        }
    }

    #[test]
    fn whose_code_is_the_same() {
        let mut model = super::super::increments::pair();
        let code = code_of(model.tasks[0].alive().expect("it lives")).expect("a vDSO").clone();
        let (len, image) = (code.end - code.start, PagesImage::own(1));
        let run =
            |by, len| Run { at: code.start + by, len, images: (image, image), of_child: 0, of_parent: 0 };
        let check = |model: &Model, runs: &[Run], expected: [usize; 2]| {
            let alike = Alike::of_pair(Pair { child: 1, parent: 0 }, runs.to_vec());
            assert_eq!(same_code(model, &alike), expected, "{runs:?}");
        };
        // Where it is another mapping, nothing is said by pages.
        let child = model.tasks[1].alive_mut().expect("it lives");
        child.mm.vmas.retain(|vma| vma.kind != VmaKind::Vdso);
        check(&model, &[run(0, len)], [0, 1]);
        model.tasks[1].alive_mut().expect("it lives").mm.vmas.push(code.clone());
        check(&model, &[run(0, len)], [0, 0]);
        check(&model, &[run(0, PAGE), run(PAGE, len - PAGE)], [0, 0]);
        check(&model, &[run(0, len - PAGE)], [0, 1]);
        check(&model, &[], [0, 1]);
        assert_eq!(same_code(&model, &Alike::default()), [0, 1]);
    }

    #[test]
    fn hostile_images_are_errors() {
        let Some(image) = running() else { return };
        assert_eq!(functions(&[]), Err("it is no ELF image"));
        assert_eq!(functions(&[0x7f; 4096]), Err("it is no ELF image"));
        for len in 0..image.len() {
            let _ = functions(&image[..len]);
        }
        // Every byte of the headers and tables with every bit wrong, and a few large values.
        for at in 0..image.len().min(0x800) {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut image = image.clone();
                image[at] = value;
                let _ = functions(&image);
            }
        }
    }
}
