//! FIFOs (`fifo.proto`) and what they hold (`fifo-data.img`, as `pipes-data.img`).
//!
//! A description of a FIFO is two entries: this one, with the number of the pipe, and one of a
//! regular file, which no table refers to, with path, flags and owner.

use super::pipe::read_data;
use crate::image::error::Errors;
use crate::image::file::Entry;
use crate::image::magic;
use crate::image::model::{Fifo, Image, OfdKind, PipeData};
use crate::image::proto::FileEntry;
use crate::image::read::Dir;

/// Reads the `fifo` of an entry.
pub(crate) fn read(e: FileEntry, entry: &Entry<'_>, errors: &mut Errors) -> Option<OfdKind> {
    let e = e.fifo?;
    let Some(reg_id) = e.regf_id else {
        errors.unsupported(entry.file, entry.index, "a FIFO without an entry for its path: CRIU before 1.6");
        return None;
    };
    Some(OfdKind::Fifo(Fifo { pipe_id: e.pipe_id, reg_id }))
}

/// What FIFOs hold.
pub(crate) fn read_fifo_data(dir: &Dir<'_>, errors: &mut Errors) -> Vec<PipeData> {
    read_data(dir, Image::FifoData, &magic::FIFO_DATA, errors)
}
