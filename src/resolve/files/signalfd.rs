//! signalfd. It belongs to nobody: whoever reads it gets signals of its own (signalfd(2)).

use regrow_graph::ids::OfdId;

use super::super::Resolver;
use super::super::numbers::O_SETTABLE;
use super::super::recipe::ResourceKind;
use crate::image::{Ofd, Signalfd};

pub(super) fn resolve(resolver: &mut Resolver<'_>, ofd: OfdId, entry: &Ofd, signalfd: &Signalfd) {
    let flags = signalfd.flags & O_SETTABLE;
    super::single(resolver, ofd, ResourceKind::Signalfd { mask: signalfd.mask, flags }, entry.origin);
}
