//! What the images say of an address space.
//!
//! Worked example: a task whose text is pages 0 and 1 of the file `ofd3`, and one page of which a
//! debugger has changed, is the mapping `0x1000..0x3000`, read and execute, [`Shown::File`] at 0,
//! and one extent of [`ExpectedPages`] at `0x2000` or `0x1000`.

use serde::{Deserialize, Serialize};

use crate::ids::OfdId;

/// An address space.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedSpace {
    /// What is mapped, in the order of the addresses, without overlaps. Where one ends and the next
    /// begins does not count where both are alike.
    pub mappings: Vec<ExpectedMapping>,
    /// Ranges under `MADV_GUARD_INSTALL`, sorted: first address, and the one behind the last.
    pub guards: Vec<(u64, u64)>,
    /// What private mappings hold other than what they show by themselves, by address.
    pub pages: ExpectedPages,
}

/// A mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedMapping {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// `PROT_*`.
    pub prot: u32,
    /// `MAP_*`; what it shows is not said by them.
    pub flags: u32,
    /// Advice given, in the order of the bits: bit N stands for advice N of `madvise(2)`.
    pub advice: u64,
    /// What it shows.
    pub shows: Shown,
}

/// What a mapping must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shown {
    /// Private memory.
    Anonymous,
    /// Private memory that the kernel may drop (`MAP_DROPPABLE`).
    Droppable,
    /// Shared memory without a name.
    Segment {
        /// Its number in the images.
        segment: u64,
        /// Where the mapping starts in it.
        offset: u64,
    },
    /// A System V segment that is attached.
    System {
        /// Its id.
        segment: u32,
        /// Where the mapping starts in it.
        offset: u64,
        /// Now or after `mprotect(2)`: it was not attached to be read only.
        may_write: bool,
    },
    /// A file.
    File {
        /// One of [`super::super::Expected::ofds`] that shows the file; not the description that was mapped.
        ofd: OfdId,
        /// Where the mapping starts in it.
        offset: u64,
        /// Shared: whether it may be written, now or after `mprotect(2)`. `None`: private.
        shared: Option<bool>,
    },
    /// The ring of an AIO context, all of it.
    Ring {
        /// The event that is read next.
        head: u32,
        /// The event that is written next.
        tail: u32,
    },
    /// The kernel's own, or the task's own in its place ([`super::super::ExpectedVdso`] says which).
    Kernel,
}

/// Shared memory without a name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedSegment {
    /// Its length in bytes, whole pages.
    pub len: u64,
    /// What it holds other than zeros, by offset.
    pub pages: ExpectedPages,
}

/// Stored pages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedPages {
    /// The paths of the files that they are in.
    pub files: Vec<Vec<u8>>,
    /// Which, sorted.
    pub extents: Vec<PageExtent>,
}

/// Two stretches of files that must hold the same bytes: what a task has in memory was read from the one,
/// and the images have it in the other. A page that a child inherits is such a one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alike<'a> {
    /// Path of the file that was read, and from where on.
    pub held: (&'a [u8], u64),
    /// Path of the file that the images name, and from where on.
    pub wanted: (&'a [u8], u64),
    /// Length of both in bytes.
    pub len: u64,
}

/// A run of stored pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageExtent {
    /// Address, or offset in the segment, in bytes.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
    /// Index of the file in [`ExpectedPages::files`].
    pub file: u32,
    /// Offset in it, in bytes.
    pub from: u64,
}

impl ExpectedPages {
    /// The path of the file of an extent; without any where there is no such file.
    pub(super) fn file(&self, index: u32) -> &[u8] {
        self.files.get(index as usize).map_or(b"", Vec::as_slice)
    }
}
