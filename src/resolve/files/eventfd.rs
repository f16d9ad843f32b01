//! eventfd.

use regrow_graph::ids::OfdId;

use super::super::Resolver;
use super::super::numbers::O_SETTABLE;
use super::super::recipe::ResourceKind;
use crate::image::{Eventfd, Ofd};

pub(super) fn resolve(resolver: &mut Resolver<'_>, ofd: OfdId, entry: &Ofd, eventfd: &Eventfd) {
    // What is stored is what F_GETFL says: O_RDWR and the status flags. EFD_SEMAPHORE is not among
    // them (its bit would be O_WRONLY), so images of CRIU up to 4.2 do not know it.
    let flags = eventfd.flags & O_SETTABLE;
    super::single(resolver, ofd, ResourceKind::Eventfd { counter: eventfd.counter, flags }, entry.origin);
}
