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
    wanted: Vec<Option<Fd>>,
    asides: Asides,
}

/// Numbers that no table uses, handed out on demand, each to one description.
struct Asides {
    given: BTreeMap<OfdId, Fd>,
    /// What the tables use, ascending.
    used: Vec<Fd>,
    next: Fd,
}

/// The numbers, for one task that is placed.
pub(crate) struct Supply<'a> {
    /// As [`Numbers`] has them.
    pub(crate) wanted: &'a [Option<Fd>],
    source: Source<'a>,
}

enum Source<'a> {
    /// Whoever asks gets the next one.
    Next(&'a mut Asides),
    /// Others are placed at the same time, so there are only those that were handed out before.
    Known {
        asides: &'a Asides,
        /// How many others have been asked for.
        lacking: Fd,
    },
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
        let asides = Asides { given: BTreeMap::new(), used, next: 0 };
        let mut numbers = Numbers { wanted: vec![None; forest.ofds], asides };
        for (index, best) in best.iter().enumerate() {
            if let Some(fd) = best {
                numbers.wanted[index] = Some(*fd);
            } else if needs.of_ofd[index].is_some_and(|r| needs.is_carried(r)) {
                numbers.wanted[index] = Some(numbers.asides.give(OfdId::new(index)));
            }
        }
        numbers
    }

    /// For the next of the tasks that are placed in their order.
    pub(crate) fn in_order(&mut self) -> Supply<'_> {
        Supply { wanted: &self.wanted, source: Source::Next(&mut self.asides) }
    }

    /// For any of the tasks that are placed at the same time.
    pub(crate) fn at_once(&self) -> Supply<'_> {
        let source = Source::Known { asides: &self.asides, lacking: 0 };
        Supply { wanted: &self.wanted, source }
    }
}

impl Asides {
    fn give(&mut self, ofd: OfdId) -> Fd {
        if let Some(fd) = self.given.get(&ofd) {
            return *fd;
        }
        while self.used.binary_search(&self.next).is_ok() {
            self.next += 1;
        }
        let fd = self.next;
        self.next += 1;
        self.given.insert(ofd, fd);
        fd
    }
}

impl Supply<'_> {
    /// A number for a description that cannot be where most want it.
    pub(crate) fn aside(&mut self, ofd: OfdId) -> Fd {
        match &mut self.source {
            Source::Next(asides) => asides.give(ofd),
            Source::Known { asides, lacking } => asides.given.get(&ofd).copied().unwrap_or_else(|| {
                *lacking += 1;
                // Nothing else is there; what comes of it is thrown away.
                Fd::MAX - *lacking
            }),
        }
    }

    /// Whether a number was asked for that depends on who asked before: what was placed by it does not count.
    pub(crate) fn is_lacking(&self) -> bool {
        matches!(self.source, Source::Known { lacking: 1.., .. })
    }
}
