//! Huge pages, and shared memory that is opened by a mapping of it.
//!
//! Memory of huge pages is mapped and cut in whole pages; a file of them cannot be written, so that what it
//! holds is read into a mapping, which a task has in the window for a moment ([`Run::is_scratch`]). A second
//! view of shared memory of huge pages cannot be had by `mremap(2)`; it is a mapping of the carrier's file.
//!
//! # Sources
//! mm/mmap.c (`ksys_mmap_pgoff`), mm/hugetlb.c (`hugetlb_vm_op_split`), mm/mremap.c, fs/hugetlbfs/inode.c,
//! fs/proc/base.c (`proc_map_files_lookup`: a range must be that of a mapping), `memfd_create(2)`.

use super::super::before::At;
use super::super::object::{Inode, O_ACCMODE, O_CLOEXEC, O_NOCTTY, O_RDWR, ObjectKind};
use super::super::outcome::Wrong;
use super::super::run::Run;
use super::super::table::Desc;
use super::state::{HUGE, MAP_HUGETLB, Mapping, Shows, huge_shift};

/// `MFD_HUGETLB`.
const MFD_HUGETLB: u32 = 4;
/// `MFD_HUGETLB` and the size, which stands where that of `mmap(2)` does.
pub(in super::super) const MFD_HUGE: u32 = HUGE & !MAP_HUGETLB | MFD_HUGETLB;

/// The flags of `mmap(2)` that say what pages a memfd has; `None`: the kernel would choose their size, or there
/// is none.
pub(in super::super) fn huge_memfd(flags: u32) -> Option<u32> {
    let size = flags & HUGE & !MAP_HUGETLB;
    let kept = if flags & MFD_HUGETLB == 0 { size } else { size | MAP_HUGETLB };
    is_told(kept).then_some(kept)
}

/// Whether flags of `mmap(2)` say nothing of huge pages, or also how large they are.
pub(in super::super) fn is_told(flags: u32) -> bool {
    if flags & MAP_HUGETLB == 0 { flags & HUGE == 0 } else { (13..47).contains(&huge_shift(flags)) }
}

impl Run<'_> {
    /// A System V segment of huge pages that a task has among the carriers: no view of it is to be had there.
    pub(super) fn carried_huge(&self, at: At, id: u32) -> Option<usize> {
        let segment = self.system_segment(id).filter(|segment| self.segments[*segment].huge != 0)?;
        let mut carriers = self.carriers.values().filter(|carrier| carrier.segment == segment);
        carriers.any(|carrier| self.before.is_inherited(carrier.made, at)).then_some(segment)
    }

    /// Opens the shared memory that a carrier shows, by the range of the mapping: `1000-3000`.
    pub(in super::super) fn open_carrier(
        &mut self,
        at: At,
        call: &'static str,
        range: &[u8],
        flags: u32,
    ) -> Result<Desc, Wrong> {
        let path = || format!("/proc/self/map_files/{}", range.escape_ascii());
        let ends = std::str::from_utf8(range).ok().and_then(|range| range.split_once('-'));
        let number = |digits: &str| {
            let is_plain = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
            is_plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        let ends = ends.and_then(|(start, end)| Some((number(start)?, number(end)?)));
        let Some((start, end)) = ends.filter(|(start, end)| start < end) else {
            return Err(Wrong::OpensOther { path: path() });
        };
        if flags & !(O_CLOEXEC | O_NOCTTY) & !O_ACCMODE != 0 || flags & O_ACCMODE != O_RDWR {
            return Err(Wrong::NotModelled { call, what: format!("flags {flags:#o} for {}", path()) });
        }
        let (from, carrier) = self.carrier(at, call, start, end)?;
        // What is opened of an attachment would be no attachment when it is mapped.
        if (from, carrier.end) != (start, end) || !matches!(carrier.mapping.shows, Shows::Segment { .. }) {
            return Err(Wrong::OpensOther { path: path() });
        }
        let object = self.objects.add_object(ObjectKind::Segment(carrier.segment), at);
        Ok(self.objects.add_description(object, O_RDWR, at))
    }

    /// Whether all between two addresses of the window is what the task has mapped there for a moment.
    pub(super) fn is_scratch(&self, task: usize, start: u64, end: u64) -> bool {
        let region = self.region;
        region.end <= start
            && start < end
            && end <= region.window_end
            && self.spaces[self.space_of(task)].mappings.hole(start, end).is_none()
    }

    /// Whether a task has a shared mapping of a file that it may write (mm/memfd.c: such a one forbids a seal).
    pub(in super::super) fn is_mapped_to_write(&self, task: usize, object: usize) -> bool {
        let mut mappings = self.spaces[self.space_of(task)].mappings.iter();
        mappings.any(|(_, _, mapping)| match mapping.shows {
            Shows::File { desc, may_write: true, .. } => self.objects.description(desc).object == object,
            Shows::File { .. }
            | Shows::Anonymous
            | Shows::Droppable
            | Shows::Segment { .. }
            | Shows::System { .. }
            | Shows::Kernel
            | Shows::Ring { .. } => false,
        })
    }

    /// Whether a range cuts no huge page that the task has mapped.
    pub(super) fn check_cuts(&self, at: At, call: &'static str, start: u64, end: u64) -> Result<(), Wrong> {
        let mappings = &self.spaces[self.space_of(at.task)].mappings;
        // What lies within the range is not cut: only the mappings at its two ends are.
        let at_ends =
            [Some(start), end.checked_sub(1)].into_iter().flatten().filter(|at| (start..end).contains(at));
        for (from, to, mapping) in at_ends.filter_map(|at| mappings.at(at)) {
            if mapping.flags & MAP_HUGETLB != 0 {
                is_whole(call, mapping, start.max(from), end.min(to))?;
            }
        }
        Ok(())
    }

    /// Bytes of a file go into a memfd that is mapped for that.
    pub(super) fn fill_inode(
        &mut self,
        at: At,
        call: &'static str,
        desc: Desc,
        into: (u64, u64),
        from: (usize, u64),
    ) -> Result<(), Wrong> {
        let ((start, end), (source, offset)) = (into, from);
        let ObjectKind::File { path } = &self.objects.objects[source].kind else {
            return Err(Wrong::NotModelled { call, what: "reading what is no file".to_owned() });
        };
        let path = path.clone();
        let what = self.describe(desc);
        let inode: &mut Inode = self.inode(at, call, desc)?;
        if inode.huge == 0 || inode.is_sealed() || end > inode.size {
            return Err(Wrong::ChangesFile { call, what });
        }
        inode.content.push(start, &path, offset, end - start);
        Ok(())
    }
}

/// Whether a range is whole pages of a mapping.
pub(super) fn is_whole(call: &'static str, mapping: &Mapping, start: u64, end: u64) -> Result<(), Wrong> {
    let align = mapping.align();
    let offset = match mapping.shows {
        Shows::Segment { offset, .. } | Shows::System { offset, .. } | Shows::File { offset, .. } => offset,
        Shows::Anonymous | Shows::Droppable | Shows::Kernel | Shows::Ring { .. } => 0,
    };
    if [start, end, offset].iter().all(|at| at.is_multiple_of(align)) {
        return Ok(());
    }
    Err(Wrong::BadRange { call, at: start, end, why: "not whole huge pages" })
}
