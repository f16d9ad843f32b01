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
use super::index::Index;
use super::problem::ProblemKind;
use crate::host::{HostFacts, HugeFile};
use crate::image::huge::MAP_HUGETLB;
use crate::image::{Model, NsPid, OfdKind, Origin, Vma, VmaKind};

/// The name of the file that a mapping shows, if that has one. `ofds`: the descriptions of the model by their ids.
fn path<'a>(model: &'a Model, ofds: &Index, vma: &Vma) -> Option<&'a str> {
    let (VmaKind::FilePrivate { ofd_id, .. } | VmaKind::FileShared { ofd_id, .. }) = vma.kind else {
        return None;
    };
    let ofd = model.ofds.get(ofds.get(&ofd_id)?.index())?;
    if let OfdKind::Reg(file) = &ofd.kind { Some(&file.path) } else { None }
}

/// The file of huge pages that a mapping of a file shows here.
pub(super) fn file<'a>(
    model: &'a Model,
    facts: &HostFacts,
    ofds: &Index,
    vma: &Vma,
) -> Option<(&'a str, HugeFile)> {
    let path = path(model, ofds, vma)?;
    Some((path, facts.files.get(path)?.huge?))
}

/// Whether a mapping of huge pages is one that the file here gives.
pub(super) fn judge(resolver: &mut Resolver<'_>, pid: NsPid, vma: &Vma) {
    let range = format!("mapping {:#x}-{:#x}", vma.start, vma.end);
    let (model, ofds) = (resolver.model, &resolver.ofd_of_id);
    let Some((path, HugeFile { page_bytes, .. })) = file(model, resolver.facts, ofds, vma) else {
        let path = path(model, ofds, vma).unwrap_or("its file");
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
pub(super) fn lacking(model: &Model, facts: &HostFacts, ofds: &Index) -> Vec<(String, u64, u64, Origin)> {
    let mut files: BTreeMap<&str, Mapped> = BTreeMap::new();
    let vmas = model.tasks.iter().filter_map(|task| task.alive()).flat_map(|alive| &alive.mm.vmas);
    for vma in vmas.filter(|vma| vma.flags & MAP_HUGETLB != 0) {
        let VmaKind::FileShared { offset_bytes, .. } = vma.kind else { continue };
        let Some((path, huge)) = file(model, facts, ofds, vma) else { continue };
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::super::problem::Problem;
    use super::super::{Options, numbers::PAGE};
    use super::*;
    use crate::host::{FileFact, FileStat};
    use crate::image::{Fown, Image, Ofd, RegFile, read_model};

    const AT: u64 = 0x7000_0000_0000;
    const TWO_MIB: u64 = 2 << 20;
    const GIB: u64 = 1 << 30;
    const FILE: u32 = 7777;

    /// The sample, with a file that a mapping may show.
    fn model() -> Model {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/pair/images");
        let mut model = read_model(&dir).unwrap();
        let file = RegFile {
            path: "/huge/file".to_owned(),
            flags: libc::O_RDWR as u32,
            position: 0,
            fown: Fown::default(),
            mount_id: None,
            size_bytes: None,
            mode: None,
            is_external: false,
            build_id: Vec::new(),
            checksum: None,
        };
        model.ofds.push(Ofd { id: FILE, origin: Origin::new(Image::Files, 0), kind: OfdKind::Reg(file) });
        model
    }

    /// What is known of the file: pages of this size, of which it has one; or that it is on no hugetlbfs.
    fn facts(page_bytes: Option<u64>) -> HostFacts {
        let mut facts = HostFacts::default();
        let mode = libc::S_IFREG | 0o600;
        let stat =
            FileStat { mode, size_bytes: GIB, rdev: 0, ino: 1, dev: 1, block_bytes: TWO_MIB, sectors: 0 };
        let huge = page_bytes.map(|page_bytes| HugeFile { page_bytes, pages: 1 });
        let fact = FileFact { reached: Ok(stat), is_symlink: false, build_id: None, huge };
        facts.files.insert("/huge/file".to_owned(), fact);
        facts
    }

    fn vma((start, end, offset_bytes): (u64, u64, u64), ofd_id: u32, flags: i32) -> Vma {
        Vma {
            start,
            end,
            prot: 3,
            flags: flags as u32 | MAP_HUGETLB,
            status: 0,
            kind: VmaKind::FileShared { ofd_id, offset_bytes, file_flags: None },
            madvise: 0,
            origin: Origin::new(Image::Mm(4711), 3),
        }
    }

    /// What is said of a mapping of the file.
    fn judged(page_bytes: Option<u64>, range: (u64, u64, u64), ofd_id: u32) -> Vec<Problem> {
        let (model, facts, options) = (model(), facts(page_bytes), Options::default());
        let mut resolver = Resolver::new(&model, &facts, &options);
        judge(&mut resolver, NsPid(4711), &vma(range, ofd_id, libc::MAP_SHARED));
        resolver.problems.into_vec()
    }

    #[test]
    fn files_that_are_other_files_here_are_refused() {
        let check = |page_bytes, range, ofd_id, expected: &str| {
            let problems = judged(page_bytes, range, ofd_id);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert_eq!(problems[0].kind, ProblemKind::FileChanged);
            assert_eq!((problems[0].task, problems[0].text.as_str()), (Some(NsPid(4711)), expected));
        };
        let whole = (AT, AT + 2 * TWO_MIB, 0);
        let range = "mapping 0x700000000000-0x700000400000";
        check(None, whole, FILE, &format!("{range}: /huge/file is not on a hugetlbfs here"));
        check(Some(TWO_MIB), whole, FILE + 1, &format!("{range}: its file is not on a hugetlbfs here"));
        let cut = |range| format!("{range}: cuts huge pages of 1073741824 bytes, which /huge/file has here");
        check(Some(GIB), whole, FILE, &cut(range));
        check(Some(GIB), (AT, AT + GIB, TWO_MIB), FILE, &cut("mapping 0x700000000000-0x700040000000"));
        let start = (AT + TWO_MIB, AT + TWO_MIB + GIB, 0);
        check(Some(GIB), start, FILE, &cut("mapping 0x700000200000-0x700040200000"));
        for (page_bytes, range) in [(TWO_MIB, whole), (GIB, (AT, AT + GIB, GIB)), (PAGE, whole)] {
            assert_eq!(judged(Some(page_bytes), range, FILE), []);
        }
    }

    /// Pages that shared mappings reserve and that the file does not have: each once, whoever maps it.
    #[test]
    fn what_files_lack_is_counted_once() {
        let lacks = |vmas: Vec<Vma>| {
            let mut model = model();
            let ofds = Index::of(model.ofds.iter().map(|ofd| ofd.id));
            for task in &mut model.tasks {
                let alive = task.alive_mut().unwrap();
                alive.mm.vmas.extend(vmas.clone());
            }
            let found = lacking(&model, &facts(Some(TWO_MIB)), &ofds);
            found.into_iter().map(|(path, bytes, pages, _)| (path, bytes, pages)).collect::<Vec<_>>()
        };
        let shared = |pages: u64, offset: u64, flags| {
            vma((AT, AT + pages * TWO_MIB, offset * TWO_MIB), FILE, libc::MAP_SHARED | flags)
        };
        let file = "/huge/file".to_owned();
        assert_eq!(lacks(vec![]), []);
        assert_eq!(lacks(vec![shared(3, 0, 0), shared(2, 2, 0)]), [(file.clone(), TWO_MIB, 3)]);
        assert_eq!(lacks(vec![shared(3, 0, libc::MAP_NORESERVE)]), [(file, TWO_MIB, 0)]);
    }
}
