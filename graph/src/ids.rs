//! Dense ids: `u32` newtypes that index vectors. They do not convert into one another.

use std::fmt;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// The id of the element at `index` of its vector.
            pub fn new(index: usize) -> $name {
                $name(u32::try_from(index).expect("fewer than 2^32 of anything"))
            }

            /// Where its element is in its vector.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(
    /// A task: an index into [`crate::forest::Forest::tasks`].
    TaskId,
    "t"
);
id!(
    /// An open file description: what dup, fork and SCM_RIGHTS share.
    OfdId,
    "ofd"
);
id!(
    /// Something that is created once and used by one or more tasks.
    ResourceId,
    "r"
);
id!(
    /// A step: work of one task that the graph orders without knowing what it is.
    StepId,
    "s"
);
id!(
    /// An operation: a node of the graph.
    OpId,
    "op"
);
id!(
    /// An event: posted once by one task, waited for by others.
    EventId,
    "e"
);

/// A descriptor number.
pub type Fd = u32;

/// The few descriptor numbers of an operation.
pub type Fds = SmallVec<[Fd; 4]>;
