//! Epoll files (`eventpoll.proto`) and what they watch.
//!
//! Versions before 3.x kept what is watched in `eventpoll-tfd.img`, one entry for each target, with
//! the id of the epoll file.

use super::fown;
use crate::image::error::Errors;
use crate::image::file::Entry;
use crate::image::magic;
use crate::image::model::{Epoll, Image, Interest, Ofd, OfdKind};
use crate::image::proto::{EventpollTfdEntry, FileEntry};
use crate::image::read::Dir;

/// Reads the `epfd` of an entry.
pub(crate) fn read(e: FileEntry, _: &Entry<'_>, _: &mut Errors) -> Option<OfdKind> {
    // The ids in the targets are not set there.
    let e = e.epfd?;
    Some(OfdKind::Epoll(Epoll {
        flags: e.flags,
        fown: fown(&e.fown),
        interests: e.tfd.iter().map(interest).collect(),
    }))
}

fn interest(e: &EventpollTfdEntry) -> Interest {
    Interest { fd: e.tfd, events: e.events, data: e.data, inode: e.inode }
}

/// Adds what `eventpoll-tfd.img` says to the epoll files.
pub(crate) fn read_targets(dir: &Dir<'_>, ofds: &mut [Ofd], errors: &mut Errors) {
    let image = Image::EventpollTfd;
    dir.for_each(image, &magic::EVENTPOLL_TFD, errors, |_, entry, errors| {
        let Some(e) = errors.decode::<EventpollTfdEntry>(entry) else {
            return Ok(());
        };
        match ofds.iter_mut().find(|ofd| ofd.id == e.id).map(|ofd| &mut ofd.kind) {
            Some(OfdKind::Epoll(epoll)) => epoll.interests.push(interest(&e)),
            Some(_) | None => {
                let reason = format!("a target of {:#x}, which is no epoll file", e.id);
                errors.inconsistent(image, entry.index, reason);
            }
        }
        Ok(())
    });
}
