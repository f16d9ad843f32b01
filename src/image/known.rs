//! What images were found to say, so that the same bytes need not be decoded once for each task.
//!
//! Tasks that were forked and have not changed since have images of the same bytes: descriptor tables, lists of mappings.
//! To compare bytes costs far less than to decode them and to hold them against their definition. Only what was read without
//! an error is kept, for errors name the image that they are in. It does not know what the bytes mean.
//!
//! Example: a server and 999 workers that have the same files open have `fdinfo-2.img` to `fdinfo-1001.img` of the same
//! bytes, of which one is decoded.

use std::sync::{Arc, Mutex, PoisonError};

use super::core::Process;
use super::model::{Mm, Table};

/// So many different images of a kind are kept. Trees of more kinds of tasks gain less.
const KEPT: usize = 16;

/// What is known of a directory.
#[derive(Default)]
pub(crate) struct Known {
    /// Descriptor tables.
    pub(crate) tables: Images<Table>,
    /// What core images say of whole processes, by the bytes of that field.
    pub(crate) processes: Images<Arc<Process>>,
    /// Address spaces without pages. The image that they name is one of those with the same bytes.
    pub(crate) spaces: Images<Arc<Mm>>,
}

/// Images of a kind, and what they say.
pub(crate) struct Images<T>(Mutex<Vec<(Vec<u8>, T)>>);

impl<T> Default for Images<T> {
    fn default() -> Images<T> {
        Images(Mutex::default())
    }
}

impl<T: Clone> Images<T> {
    /// What an image of these bytes says.
    pub(crate) fn get(&self, bytes: &[u8]) -> Option<T> {
        // Nobody leaves the list half changed.
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(image, _)| image == bytes).map(|(_, said)| said.clone())
    }

    /// Keeps what an image of these bytes says, while there is room.
    pub(crate) fn keep(&self, bytes: &[u8], said: impl FnOnce() -> T) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push((bytes.to_vec(), said()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_same_bytes_say() {
        let images: Images<usize> = Images::default();
        assert_eq!(images.get(b"a"), None);
        images.keep(b"a", || 1);
        images.keep(b"ab", || 2);
        assert_eq!((images.get(b"a"), images.get(b"ab"), images.get(b"b")), (Some(1), Some(2), None));
        (0..100u8).for_each(|byte| images.keep(&[byte; 3], || 3));
        assert_eq!((images.get(&[0; 3]), images.get(&[99; 3])), (Some(3), None));
    }
}
