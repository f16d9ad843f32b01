//! Eventfds (`eventfd.proto`).

use super::fown;
use crate::image::error::Errors;
use crate::image::file::Entry;
use crate::image::model::{Eventfd, OfdKind};
use crate::image::proto::FileEntry;

/// Reads the `efd` of an entry.
pub(crate) fn read(e: FileEntry, _: &Entry<'_>, _: &mut Errors) -> Option<OfdKind> {
    let e = e.efd?;
    Some(OfdKind::Eventfd(Eventfd { flags: e.flags, counter: e.counter, fown: fown(&e.fown) }))
}
