//! Mappings of files on a mounted hugetlbfs.
//!
//! CRIU dumps them as mappings of any other file, whose name it stores and not what is in it: the file must be there. That
//! its pages are huge it says (`MAP_HUGETLB`), and not how large they are; that is the file system's affair, here as
//! there. (An unlinked one it cannot dump: no such file can be written, `copy_chunk_from_file` in `criu/files-reg.c`.)
//!
//! Worked example: a file of two pages of 2 MiB, of which one was ever touched, mapped whole and shared by two tasks, takes
//! one page of those that are free; mapped privately by each it takes two more for each.
//!
//! # Sources
//! Documentation/admin-guide/mm/hugetlbpage.rst; mm/mmap.c (`ksys_mmap_pgoff`), mm/hugetlb.c (`hugetlb_reserve_pages`).

use std::collections::BTreeMap;

use super::Resolver;
use super::huge::distinct;
use super::problem::ProblemKind;
use crate::host::{HostFacts, HugeFile};
use crate::image::huge::MAP_HUGETLB;
use crate::image::{Model, NsPid, OfdKind, Origin, Vma, VmaKind};

/// The name of the file that a mapping shows, if that has one.
fn path<'a>(model: &'a Model, vma: &Vma) -> Option<&'a str> {
    let (VmaKind::FilePrivate { ofd_id, .. } | VmaKind::FileShared { ofd_id, .. }) = vma.kind else {
        return None;
    };
    let ofd = model.ofds.iter().find(|ofd| ofd.id == ofd_id)?;
    if let OfdKind::Reg(file) = &ofd.kind { Some(&file.path) } else { None }
}

/// The file of huge pages that a mapping of a file shows here.
pub(super) fn file<'a>(model: &'a Model, facts: &HostFacts, vma: &Vma) -> Option<(&'a str, HugeFile)> {
    let path = path(model, vma)?;
    Some((path, facts.files.get(path)?.huge?))
}

/// Whether a mapping of huge pages is one that the file here gives.
pub(super) fn judge(resolver: &mut Resolver<'_>, pid: NsPid, vma: &Vma) {
    let range = format!("mapping {:#x}-{:#x}", vma.start, vma.end);
    let Some((path, HugeFile { page_bytes, .. })) = file(resolver.model, resolver.facts, vma) else {
        let path = path(resolver.model, vma).unwrap_or("its file");
        let text = format!("{range}: {path} is not on a hugetlbfs here");
        return resolver.problems.add(ProblemKind::FileChanged, Some(pid), Some(vma.origin), text);
    };
    let offset = match vma.kind {
        VmaKind::FilePrivate { offset_bytes, .. } | VmaKind::FileShared { offset_bytes, .. } => offset_bytes,
        _ => 0,
    };
    if ![vma.start, vma.end, offset].iter().all(|at| at.is_multiple_of(page_bytes)) {
        let text = format!("{range}: cuts huge pages of {page_bytes} bytes, which {path} has here");
        resolver.problems.add(ProblemKind::FileChanged, Some(pid), Some(vma.origin), text);
    }
}

/// What is mapped of a file, shared and reserved: of each run of pages the first and the one behind the last.
struct Mapped {
    huge: HugeFile,
    origin: Origin,
    pages: Vec<(u64, u64)>,
}

/// Pages that files lack where shared mappings reserve them: of each the name, the size of its pages, how many, and the
/// first mapping.
pub(super) fn lacking(model: &Model, facts: &HostFacts) -> Vec<(String, u64, u64, Origin)> {
    let mut files: BTreeMap<&str, Mapped> = BTreeMap::new();
    let vmas = model.tasks.iter().filter_map(|task| task.alive()).flat_map(|alive| &alive.mm.vmas);
    for vma in vmas.filter(|vma| vma.flags & MAP_HUGETLB != 0) {
        let VmaKind::FileShared { offset_bytes, .. } = vma.kind else { continue };
        let Some((path, huge)) = file(model, facts, vma) else { continue };
        let mapped = files.entry(path);
        let mapped = mapped.or_insert_with(|| Mapped { huge, origin: vma.origin, pages: Vec::new() });
        if vma.flags & libc::MAP_NORESERVE as u32 == 0 {
            let first = offset_bytes / huge.page_bytes;
            mapped.pages.push((first, first.saturating_add((vma.end - vma.start) / huge.page_bytes)));
        }
    }
    let lacking = files.into_iter().map(|(path, Mapped { huge, origin, pages })| {
        // Which of its pages it has nobody says: at least so many more are taken.
        (path.to_owned(), huge.page_bytes, distinct(pages).saturating_sub(huge.pages), origin)
    });
    lacking.collect()
}
