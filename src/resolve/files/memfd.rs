//! memfd: not restored yet as a descriptor. (Shared anonymous memory, which CRIU stores as a memfd
//! named `/dev/zero`, is mapped and never in a table.)

use super::super::Resolver;
use super::name;
use crate::image::{MemfdFile, Ofd};

pub(super) fn resolve(resolver: &mut Resolver<'_>, entry: &Ofd, memfd: &MemfdFile) {
    let inode = resolver.model.memfds.iter().find(|inode| inode.inode_id == memfd.inode_id);
    let called = inode.map_or("?", |inode| inode.name.as_str());
    resolver.problems.unsupported(None, Some(entry.origin), format!("{}: memfd \"{called}\" is not restored yet", name(entry)));
}
