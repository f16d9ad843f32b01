//! The numbers at which descriptions travel to the tasks that want them.

use std::collections::{BTreeMap, BTreeSet};

use crate::forest::Forest;
use crate::ids::{Fd, OfdId};
use crate::needs::Needs;

/// The numbers at which descriptions travel.
pub(crate) struct Numbers {
    /// The number that most tasks want each description at; for those in no table, and carried below
    /// their owner, a number that no table uses.
    pub(crate) wanted: Vec<Option<Fd>>,
    /// A number that no table uses, handed out on demand.
    aside: BTreeMap<OfdId, Fd>,
    used: BTreeSet<Fd>,
    next: Fd,
}

impl Numbers {
    pub(crate) fn choose(forest: &Forest, needs: &Needs) -> Numbers {
        let slots = forest.tasks.iter().flat_map(|task| &task.table);
        let mut votes: Vec<(OfdId, Fd)> = slots.map(|slot| (slot.ofd, slot.fd)).collect();
        // There are as many as uses: sorted at once they cost less than in a map.
        votes.sort_unstable();
        let mut best: Vec<Option<(u32, Fd)>> = vec![None; forest.ofds];
        for alike in votes.chunk_by(|one, other| one == other) {
            let ((ofd, fd), count) = (alike[0], alike.len() as u32);
            let slot = &mut best[ofd.index()];
            if slot.is_none_or(|(most, _)| count > most) {
                *slot = Some((count, fd));
            }
        }
        let mut used: Vec<Fd> = votes.into_iter().map(|(_, fd)| fd).collect();
        used.sort_unstable();
        used.dedup();
        let used = used.into_iter().collect();
        let mut numbers = Numbers { wanted: vec![None; forest.ofds], aside: BTreeMap::new(), used, next: 0 };
        for (index, best) in best.iter().enumerate() {
            if let Some((_, fd)) = best {
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
        while self.used.contains(&self.next) {
            self.next += 1;
        }
        let fd = self.next;
        self.next += 1;
        self.aside.insert(ofd, fd);
        fd
    }
}
