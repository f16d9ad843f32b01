//! Pipes (`pipe.proto`) and what they hold (`pipes-data.img`, `pipe-data.proto`).
//!
//! An entry of `pipes-data.img` is followed by its `bytes` raw bytes. There is one for each pipe whose
//! read end was dumped, also for an empty one: it carries the capacity. A pipe of which only the write
//! end is open in the tree has none.

use std::collections::BTreeSet;

use super::fown;
use crate::image::error::Errors;
use crate::image::file::Entry;
use crate::image::magic;
use crate::image::model::{Image, OfdKind, Origin, Pipe, PipeData};
use crate::image::proto::{FileEntry, PipeDataEntry};
use crate::image::read::Dir;

/// Reads the `pipe` of an entry.
pub(crate) fn read(e: FileEntry, _: &Entry<'_>, _: &mut Errors) -> Option<OfdKind> {
    let e = e.pipe?;
    Some(OfdKind::Pipe(Pipe { pipe_id: e.pipe_id, flags: e.flags, fown: fown(&e.fown) }))
}

/// What pipes hold.
pub(crate) fn read_pipe_data(dir: &Dir<'_>, errors: &mut Errors) -> Vec<PipeData> {
    read_data(dir, Image::PipesData, &magic::PIPES_DATA, errors)
}

/// What pipes or FIFOs hold: their images are alike.
pub(super) fn read_data(
    dir: &Dir<'_>,
    image: Image,
    kind: &magic::Kind,
    errors: &mut Errors,
) -> Vec<PipeData> {
    let (mut list, mut seen) = (Vec::new(), BTreeSet::new());
    dir.for_each(image, kind, errors, |entries, entry, errors| {
        let Some(e) = errors.decode::<PipeDataEntry>(entry) else {
            // Without its length the data cannot be told from the next entry.
            return Err(unreadable_rest(entry));
        };
        let data = entries.payload(image, e.bytes)?;
        if !seen.insert(e.pipe_id) {
            errors.inconsistent(image, entry.index, format!("data of pipe {:#x} a second time", e.pipe_id));
        }
        if e.size.is_some_and(|capacity| capacity < e.bytes) {
            errors.inconsistent(
                image,
                entry.index,
                format!("pipe {:#x} holds more than its capacity", e.pipe_id),
            );
        }
        let origin = Origin { image, entry: entry.index };
        list.push(PipeData { pipe_id: e.pipe_id, capacity_bytes: e.size, data, origin });
        Ok(())
    });
    list
}

/// Nothing behind a bad entry can be read in an image that mixes entries and raw bytes.
pub(crate) fn unreadable_rest(entry: &Entry<'_>) -> crate::image::ImageError {
    crate::image::ImageError::Inconsistent {
        file: entry.file.to_owned(),
        entry: Some(entry.index),
        reason: "the rest of the file cannot be read without it".to_owned(),
    }
}
