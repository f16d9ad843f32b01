//! Signalfds (`signalfd.proto`).

use super::fown;
use crate::image::error::Errors;
use crate::image::file::Entry;
use crate::image::model::{OfdKind, Signalfd};
use crate::image::proto::FileEntry;

/// Reads the `sgfd` of an entry.
pub(crate) fn read(e: FileEntry, _: &Entry<'_>, _: &mut Errors) -> Option<OfdKind> {
    let e = e.sgfd?;
    Some(OfdKind::Signalfd(Signalfd { flags: e.flags, fown: fown(&e.fown), mask: e.sigmask }))
}
