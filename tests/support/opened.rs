//! Which files of a directory are opened, by whomever, while this is watched: inotify(7) sees inodes, also
//! through another mount namespace.

use std::collections::BTreeSet;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// A directory that is watched.
pub(crate) struct Opened {
    inotify: Inotify,
}

impl Opened {
    /// Watches from now on.
    pub(crate) fn watch(directory: &Path) -> Opened {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).expect("inotify");
        inotify.add_watch(directory, AddWatchFlags::IN_OPEN).expect("the directory is watched");
        Opened { inotify }
    }

    /// The names that were opened since. The directory itself is not among them.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    let lost = events.iter().any(|event| event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW));
                    assert!(!lost, "events were lost");
                    let is_of_file = |name: &std::ffi::OsString| name.to_string_lossy().into_owned();
                    names.extend(events.iter().filter_map(|event| event.name.as_ref().map(is_of_file)));
                }
                Err(Errno::EAGAIN) => return names,
                Err(error) => panic!("inotify: {error}"),
            }
        }
    }

    /// Images among them that no task copies from while it is restored: all but pages and the content of
    /// unlinked files.
    pub(crate) fn images_that_no_task_copies(&self) -> Vec<String> {
        let is_copied = |name: &String| name.starts_with("pages-") || name.starts_with("ghost-file-");
        self.names().into_iter().filter(|name| name.ends_with(".img") && !is_copied(name)).collect()
    }
}
