//! `mm-PID.img` and `pagemap-PID.img`: an address space.
//!
//! Turns them into an [`Mm`]. It knows which mappings can stand beside each other and that stored pages
//! lie within mappings; it does not know what lies behind a mapped file. Mappings of memfds come
//! out of here without their inode: which one it is, and whether it is a memfd at all, can be said
//! only beside `files.img` (see [`super::read`]).
//!
//! # Where a mapping starts
//! At its first address as `/proc/PID/maps` shows it. For a stack (`MAP_GROWSDOWN`) on kernels before
//! 4.12, which hid the guard page below, CRIU counts that page in: the mapping starts a page lower,
//! and no page is ever stored for it. Newer kernels keep a gap outside of the mapping, and the
//! mapping is what it says. CRIU itself grows the stack of the restored task on a kernel of the
//! old kind only, so an image of an old kernel restores to a mapping of one page more.
//!
//! Example: status `0x201`, flags `0x22` (`MAP_PRIVATE | MAP_ANONYMOUS`) is
//! [`VmaKind::AnonPrivate`].

use std::sync::Arc;

use super::aio::read_rings;
use super::error::Errors;
use super::magic;
use super::model::{Image, Mm, NsPid, Origin, Pages, Vma, VmaKind};
use super::pagemap::{PAGE_BYTES, read_pagemap};
use super::proto::{MmEntry, VmaEntry};
use super::read::Dir;
use super::vma;

/// First address that no task can map: 2^56 with five-level page tables.
const TASK_END: u64 = 1 << 56;

/// `prot` bits that x86-64 knows: read, write, execute, and those of `mprotect` for growing areas.
const PROT_KNOWN: u32 = 0x0300_000f;

/// `flags` bits that `mmap` knows, but `MAP_UNINITIALIZED`, and the size of huge pages in the upper six.
const FLAGS_KNOWN: u32 = 0xfc1f_f97f;

/// The bits of `flags` that say whether a mapping is private or shared.
const MAP_TYPE: u32 = 0xf;

/// The address space of the task `pid`.
pub(crate) fn read_mm(dir: &Dir<'_>, pid: NsPid, errors: &mut Errors) -> Option<Mm> {
    let image = Image::Mm(pid.0);
    let at_first = errors.count();
    let bytes = dir.read_needed(image, "a living task has one", errors);
    let known = bytes.as_ref().and_then(|bytes| dir.known.spaces.get(bytes));
    let unknown = bytes.as_ref().filter(|_| known.is_none());
    let e: Option<MmEntry> = unknown.and_then(|bytes| dir.one_of(bytes, image, &magic::MM, errors));
    let pagemap = Image::Pagemap(pid.0);
    let before = errors.count();
    let pages = read_pagemap(dir, pagemap, &magic::PAGEMAP, errors);
    if pages.is_none() && errors.count() == before {
        errors.missing_file(pagemap, "a living task has one");
    }
    if let Some(known) = known {
        let pages = pages?;
        check_pages(pagemap, &pages, &known.vmas, errors);
        return Some(of_another(&known, image, pages));
    }
    let (bytes, e, mut pages) = (bytes?, e?, pages?);

    if e.mm_saved_auxv.len() > 512 {
        errors.inconsistent(image, 0, format!("auxiliary vector of {} words", e.mm_saved_auxv.len()));
    }
    if let Some(value) = e.dumpable.filter(|value| !(0..=2).contains(value)) {
        errors.inconsistent(image, 0, format!("dumpable is {value}"));
    }
    let before = errors.count();
    let (vmas, guards) = read_vmas(image, &e.vmas, errors);
    if errors.count() == before {
        check_pages(pagemap, &pages, &vmas, errors);
    }
    let has_rings = !e.aios.is_empty();
    let aio_rings = read_rings(dir, image, &e.aios, &vmas, &mut pages, errors);
    let mm = Mm {
        origin: Origin::new(image, 0),
        start_code: e.mm_start_code,
        end_code: e.mm_end_code,
        start_data: e.mm_start_data,
        end_data: e.mm_end_data,
        start_stack: e.mm_start_stack,
        start_brk: e.mm_start_brk,
        brk: e.mm_brk,
        arg_start: e.mm_arg_start,
        arg_end: e.mm_arg_end,
        env_start: e.mm_env_start,
        env_end: e.mm_env_end,
        exe_file_id: e.exe_file_id,
        auxv: e.mm_saved_auxv,
        dumpable: e.dumpable,
        thp_disabled: e.thp_disabled.unwrap_or(false),
        aio_rings,
        vmas,
        guards,
        pages: Pages::default(),
    };
    // What a ring is, its pages say, too.
    if errors.count() == at_first && !has_rings {
        dir.known.spaces.keep(&bytes, || Arc::new(mm.clone()));
    }
    Some(Mm { pages, ..mm })
}

/// An address space of the same mappings as one that is known, with pages of its own.
fn of_another(known: &Mm, image: Image, pages: Pages) -> Mm {
    let of_image = |origin: Origin| Origin { image, ..origin };
    let vmas = known.vmas.iter().map(|vma| Vma { origin: of_image(vma.origin), ..vma.clone() });
    Mm {
        origin: of_image(known.origin),
        auxv: known.auxv.clone(),
        aio_rings: Vec::new(),
        vmas: vmas.collect(),
        guards: known.guards.clone(),
        pages,
        ..*known
    }
}

/// Ranges under `MADV_GUARD_INSTALL`.
type Guards = Vec<(u64, u64)>;

fn read_vmas(image: Image, entries: &[VmaEntry], errors: &mut Errors) -> (Vec<Vma>, Guards) {
    if entries.is_empty() {
        errors.inconsistent(image, 0, "no mappings");
    }
    let mut vmas = Vec::with_capacity(entries.len());
    let mut guards = Guards::new();
    for (i, e) in entries.iter().enumerate() {
        let origin = Origin::new(image, i);
        let mut bad = |reason: &str| {
            let reason = format!("mapping {:#x}-{:#x}: {reason}", e.start, e.end);
            errors.inconsistent(image, origin.entry, reason);
        };
        if e.end <= e.start {
            bad("ends before it starts");
            continue;
        }
        if !(e.start | e.end).is_multiple_of(PAGE_BYTES) {
            bad("not at page boundaries");
            continue;
        }
        if e.end > TASK_END && e.status & vma::AREA_VSYSCALL == 0 {
            bad("outside of the address space");
            continue;
        }
        if e.status & vma::AREA_GUARD != 0 {
            guards.push((e.start, e.end));
            continue;
        }
        if !e.pgoff.is_multiple_of(PAGE_BYTES) || e.pgoff.checked_add(e.end - e.start).is_none() {
            bad("impossible offset");
            continue;
        }
        if let Some(vma) = read_vma(origin, e, errors) {
            vmas.push(vma);
        }
    }
    vmas.sort_by_key(|vma| vma.start);
    guards.sort_unstable();
    super::huge::complete(&mut vmas);
    for pair in vmas.windows(2) {
        if pair[1].start < pair[0].end {
            let reason = format!(
                "mapping {:#x}-{:#x} overlaps {:#x}-{:#x}",
                pair[1].start, pair[1].end, pair[0].start, pair[0].end
            );
            errors.inconsistent(image, pair[1].origin.entry, reason);
        }
    }
    (vmas, guards)
}

fn read_vma(origin: Origin, e: &VmaEntry, errors: &mut Errors) -> Option<Vma> {
    let unknown = [
        ("status", e.status & !vma::KNOWN),
        ("protection", e.prot & !PROT_KNOWN),
        ("flag", e.flags & !FLAGS_KNOWN),
    ];
    for (what, bits) in unknown {
        if bits != 0 {
            let reason = format!("mapping {:#x}-{:#x}: unknown {what} bits {bits:#x}", e.start, e.end);
            errors.unsupported(origin.image, origin.entry, reason);
        }
    }
    if !fits_type(e) {
        let reason =
            format!("mapping {:#x}-{:#x}: status {:#x} with flags {:#x}", e.start, e.end, e.status, e.flags);
        errors.inconsistent(origin.image, origin.entry, reason);
    }
    let Some(kind) = vma_kind(e) else {
        let reason = format!("mapping {:#x}-{:#x}: file id {:#x}", e.start, e.end, e.shmid);
        errors.inconsistent(origin.image, origin.entry, reason);
        return None;
    };
    Some(Vma {
        start: e.start,
        end: e.end,
        prot: e.prot,
        flags: e.flags,
        status: e.status,
        kind,
        madvise: e.madv.unwrap_or(0),
        origin,
    })
}

/// Whether `status` and `flags` agree on what is private: `MAP_PRIVATE` (2) and `MAP_DROPPABLE` (8)
/// are, `MAP_SHARED` (1) and `MAP_SHARED_VALIDATE` (3) are not.
fn fits_type(e: &VmaEntry) -> bool {
    let is = |bits: u32| e.status & bits != 0;
    match e.flags & MAP_TYPE {
        2 | 8 => !is(vma::FILE_SHARED | vma::ANON_SHARED),
        1 | 3 => !is(vma::FILE_PRIVATE | vma::ANON_PRIVATE),
        _ => false,
    }
}

/// What the status bits say; `None` if the id of a file does not fit.
fn vma_kind(e: &VmaEntry) -> Option<VmaKind> {
    let is = |bits: u32| e.status & bits != 0;
    let ofd_id = u32::try_from(e.shmid);
    let (offset_bytes, file_flags) = (e.pgoff, e.fdflags);
    Some(if is(vma::SPECIAL) {
        VmaKind::Other
    } else if is(vma::AREA_AIORING) {
        VmaKind::AioRing
    } else if is(vma::AREA_SYSVIPC) {
        // How it was attached is stored since CRIU 1.6; before, as if to be written.
        let read_only =
            file_flags.is_some_and(|flags| flags & libc::O_ACCMODE as u32 == libc::O_RDONLY as u32);
        VmaKind::SysV { shmid: u32::try_from(e.shmid).ok()?, offset_bytes, read_only }
    } else if is(vma::AREA_VSYSCALL) {
        VmaKind::Vsyscall
    } else if is(vma::AREA_VDSO) {
        VmaKind::Vdso
    } else if is(vma::AREA_VVAR) {
        VmaKind::Vvar
    } else if is(vma::FILE_PRIVATE | vma::FILE_SHARED) && is(vma::AREA_MEMFD) {
        VmaKind::Memfd { ofd_id: ofd_id.ok()?, inode_id: 0, offset_bytes, file_flags }
    } else if is(vma::FILE_PRIVATE) {
        VmaKind::FilePrivate { ofd_id: ofd_id.ok()?, offset_bytes, file_flags }
    } else if is(vma::FILE_SHARED) {
        VmaKind::FileShared { ofd_id: ofd_id.ok()?, offset_bytes, file_flags }
    } else if is(vma::ANON_SHARED) {
        VmaKind::AnonShared { shmid: e.shmid, offset_bytes }
    } else if is(vma::ANON_PRIVATE) {
        VmaKind::AnonPrivate
    } else {
        VmaKind::Other
    })
}

/// That stored pages lie within mappings. An extent may go on over the border of two.
fn check_pages(image: Image, pages: &Pages, vmas: &[Vma], errors: &mut Errors) {
    let mut rest = vmas.iter().peekable();
    for extent in &pages.extents {
        let end = extent.start + extent.len_pages * PAGE_BYTES;
        let mut at = extent.start;
        while at < end {
            match rest.peek() {
                Some(vma) if vma.end <= at => {
                    rest.next();
                }
                Some(vma) if vma.start <= at => at = vma.end,
                _ => {
                    errors.inconsistent(
                        image,
                        extent.entry,
                        format!("pages at {at:#x}, where nothing is mapped"),
                    );
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(start: u64, end: u64, status: u32) -> VmaEntry {
        VmaEntry {
            start,
            end,
            pgoff: 0,
            shmid: 7,
            prot: 3,
            flags: if status & (vma::FILE_SHARED | vma::ANON_SHARED) != 0 { 0x21 } else { 0x22 },
            status,
            fd: -1,
            madv: None,
            fdflags: Some(2),
        }
    }

    fn check(entries: &[VmaEntry], expected: &str) {
        let mut errors = Errors::new();
        let (vmas, guards) = read_vmas(Image::Mm(1), entries, &mut errors);
        let said = match errors.finish(std::path::Path::new("/d"), Some(())) {
            Ok(()) => format!("{:?} {guards:x?}", vmas.iter().map(|v| v.kind).collect::<Vec<_>>()),
            Err(e) => e.errors().iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn status_bits_say_the_kind() {
        check(&[entry(0x1000, 0x2000, 0x201)], "[AnonPrivate] []");
        check(&[entry(0x1000, 0x2000, 0x221)], "[AnonPrivate] []");
        check(&[entry(0x1000, 0x2000, 0x40201)], "[AnonPrivate] []");
        check(
            &[entry(0x1000, 0x2000, 0x41)],
            "[FilePrivate { ofd_id: 7, offset_bytes: 0, file_flags: Some(2) }] []",
        );
        check(
            &[entry(0x1000, 0x2000, 0x4081)],
            "[Memfd { ofd_id: 7, inode_id: 0, offset_bytes: 0, file_flags: Some(2) }] []",
        );
        check(&[entry(0x1000, 0x2000, 0x501)], "[SysV { shmid: 7, offset_bytes: 0, read_only: false }] []");
        check(&[entry(0x1000, 0x2000, 0x901)], "[Other] []");
        check(&[entry(0x1000, 0x2000, 9)], "[Vdso] []");
    }

    #[test]
    fn guards_are_no_mappings() {
        let guard = entry(0x1000, 0x2000, vma::AREA_GUARD);
        check(&[entry(0x1000, 0x4000, 0x201), guard], "[AnonPrivate] [(1000, 2000)]");
    }

    #[test]
    fn impossible_mappings() {
        check(
            &[entry(0x2000, 0x2000, 0x201)],
            "mm-1.img entry 0: mapping 0x2000-0x2000: ends before it starts",
        );
        check(
            &[entry(0x1001, 0x2000, 0x201)],
            "mm-1.img entry 0: mapping 0x1001-0x2000: not at page boundaries",
        );
        check(
            &[entry(0x1000, 0x3000, 0x201), entry(0x2000, 0x4000, 0x201)],
            "mm-1.img entry 1: mapping 0x2000-0x4000 overlaps 0x1000-0x3000",
        );
        check(
            &[entry(0x1000, 0x2000, 0x80201)],
            "mm-1.img entry 0: unsupported: mapping 0x1000-0x2000: unknown status bits 0x80000",
        );
        check(&[], "mm-1.img entry 0: no mappings");
        let mut odd = entry(0x1000, 0x2000, 0x201);
        odd.flags = 0x21;
        check(&[odd.clone()], "mm-1.img entry 0: mapping 0x1000-0x2000: status 0x201 with flags 0x21");
        odd.flags = 0x0200_0022;
        check(&[odd], "mm-1.img entry 0: unsupported: mapping 0x1000-0x2000: unknown flag bits 0x2000000");
    }
}
