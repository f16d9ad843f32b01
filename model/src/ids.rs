//! Names for what the tapes make: by the thread and the record that make it.
//!
//! A counter would give the same pipe another number under another schedule. The maker's record is the
//! same under all of them, so worlds that are the same are equal, and need not be renamed first.

use std::fmt;
use std::sync::Arc;

/// What a record made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Made {
    /// The thread; 0: it was there before.
    pub tid: u32,
    /// Its record, by its index in the tape's effects.
    pub record: u32,
    /// Which of those that the record made.
    pub nth: u32,
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.tid, self.record, self.nth)
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub Made);
    };
}

id!(
    /// A descriptor table.
    TableId
);
id!(
    /// An open file description.
    DescId
);
id!(
    /// An address space.
    SpaceId
);
id!(
    /// Shared anonymous memory.
    SegmentId
);

/// What a description shows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ObjectId {
    /// A file that is there, by its path.
    Host(Arc<[u8]>),
    /// Something that the tapes make.
    Made(Made),
}
