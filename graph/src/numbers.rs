//! The numbers at which descriptions travel to the tasks that want them.

use std::collections::BTreeMap;

use crate::forest::Forest;
use crate::ids::{Fd, OfdId};
use crate::lists::Lists;
use crate::needs::Needs;

/// The numbers at which descriptions travel.
pub(crate) struct Numbers {
    /// The number that most tasks want each description at; for those in no table, and carried below
    /// their owner, a number that no table uses.
    pub(crate) wanted: Vec<Option<Fd>>,
    /// A number that no table uses, handed out on demand.
    aside: BTreeMap<OfdId, Fd>,
    /// What the tables use, ascending.
    used: Vec<Fd>,
    next: Fd,
}

impl Numbers {
    pub(crate) fn choose(forest: &Forest, needs: &Needs) -> Numbers {
        let slots = || forest.tasks.iter().flat_map(|task| &task.table);
        let mut votes = Lists::of(forest.ofds, || slots().map(|slot| (slot.ofd.index(), slot.fd)));
        let mut best: Vec<Option<Fd>> = vec![None; forest.ofds];
        let mut used: Vec<Fd> = Vec::new();
        votes.for_each(|ofd, fds| {
            // Mostly all want the same.
            if !fds.iter().all(|fd| *fd == fds[0]) {
                fds.sort_unstable();
            }
            let mut most = 0;
            for alike in fds.chunk_by(|one, other| one == other) {
                used.push(alike[0]);
                if alike.len() > most {
                    most = alike.len();
                    best[ofd] = Some(alike[0]);
                }
            }
        });
        used.sort_unstable();
        used.dedup();
        let mut numbers = Numbers { wanted: vec![None; forest.ofds], aside: BTreeMap::new(), used, next: 0 };
        for (index, best) in best.iter().enumerate() {
            if let Some(fd) = best {
                numbers.wanted[index] = Some(*fd);
            } else if needs.of_ofd[index].is_some_and(|r| needs.is_carried(r)) {
                numbers.wanted[index] = Some(numbers.aside(OfdId::new(index)));
            }
        }
        numbers
    }

    pub(crate) fn aside(&mut self, ofd: OfdId) -> Fd {
        if let Some(fd) = self.aside.get(&ofd) {
            return *fd;
        }
        while self.used.binary_search(&self.next).is_ok() {
            self.next += 1;
        }
        let fd = self.next;
        self.next += 1;
        self.aside.insert(ofd, fd);
        fd
    }
}
