//! One task's descriptor table while its program is written.

use std::collections::{BTreeMap, BTreeSet};

use crate::forest::{Life, Slot, TaskSpec};
use crate::ids::{Fd, OfdId, TaskId};
use crate::numbers::Supply;
use crate::table::{Entry, Move, Table, transform, transform_part};

/// The table as it is, as it is to end, and what is at hand for others meanwhile.
pub(super) struct Desk {
    pub(super) task: TaskId,
    pub(super) table: Table,
    /// What is carried stays where it is: nobody keeps the table.
    stays_put: bool,
    /// The table at the end, by number.
    slots: Vec<Slot>,
    /// The same by description.
    by_ofd: Vec<(OfdId, Fd)>,
    /// Numbers of descriptions that are open and not in the final table.
    carried: BTreeMap<OfdId, Fd>,
    /// The same by number.
    carried_at: BTreeMap<Fd, OfdId>,
    /// What has been opened since the table was last put right.
    fresh: Vec<OfdId>,
    /// Likewise, by number; also ends that nobody wants.
    fresh_fds: Vec<Fd>,
    /// It shares the table with who forks it.
    shares_table: bool,
    /// Nothing has been opened since [`Desk::settle`]: what is open is at its final number or is carried.
    is_settled: bool,
}

impl Desk {
    pub(super) fn new(task: TaskId, spec: &TaskSpec, table: Table) -> Desk {
        // What it shares it leaves as it is. (A table of its own may be long, and is not looked through.)
        let shared = spec.shares_table.then(|| table.iter()).into_iter().flatten();
        let mut slots = spec.table.clone();
        slots.extend(
            shared.filter_map(|(fd, entry)| Some(Slot { fd, ofd: entry.ofd?, cloexec: entry.cloexec })),
        );
        slots.sort_by_key(|slot| slot.fd);
        let mut by_ofd: Vec<(OfdId, Fd)> = slots.iter().map(|slot| (slot.ofd, slot.fd)).collect();
        by_ofd.sort_unstable();
        Desk {
            task,
            table,
            stays_put: spec.life == Life::Helper,
            slots,
            by_ofd,
            carried: BTreeMap::new(),
            carried_at: BTreeMap::new(),
            fresh: Vec::new(),
            fresh_fds: Vec::new(),
            shares_table: spec.shares_table,
            is_settled: false,
        }
    }

    /// Whether a description is in the final table.
    pub(super) fn wants(&self, ofd: OfdId) -> bool {
        self.wanted_at(ofd).next().is_some()
    }

    /// The numbers of a description in the final table, the lowest first.
    pub(super) fn wanted_at(&self, ofd: OfdId) -> impl Iterator<Item = Fd> + '_ {
        let first = self.by_ofd.partition_point(|(other, _)| *other < ofd);
        self.by_ofd[first..].iter().take_while(move |(other, _)| *other == ofd).map(|(_, fd)| *fd)
    }

    /// What a number is in the final table.
    pub(super) fn wanted(&self, fd: Fd) -> Option<Slot> {
        self.slots.binary_search_by_key(&fd, |slot| slot.fd).ok().map(|at| self.slots[at])
    }

    /// Notes that the kernel has opened `fd`.
    pub(super) fn open(&mut self, fd: Fd, ofd: Option<OfdId>) {
        self.table.set(fd, Entry { ofd, cloexec: false });
        self.fresh.extend(ofd);
        self.fresh_fds.push(fd);
        self.is_settled = false;
    }

    /// Turns the table into the final one.
    pub(super) fn finish(&mut self) -> Vec<Move> {
        if self.is_settled && self.carried.is_empty() && self.table.len() == self.slots.len() {
            return Vec::new();
        }
        let wanted: Vec<(Fd, Entry)> = self.slots.iter().map(|slot| (slot.fd, entry(slot))).collect();
        self.become_exactly(&wanted)
    }

    /// Puts the table right: what is open and in the final table to its final numbers, what is open and in
    /// `kept`, which is sorted, to the number at which it is carried, and nothing else is open.
    pub(super) fn settle(&mut self, supply: &mut Supply<'_>, kept: &[OfdId]) -> Vec<Move> {
        let gone: Vec<OfdId> = self
            .carried
            .keys()
            .copied()
            .filter(|ofd| self.table.find(*ofd).is_none() || kept.binary_search(ofd).is_err())
            .collect();
        if self.is_settled && gone.is_empty() {
            return Vec::new();
        }
        self.drop_carried(&gone);
        let mut wanted: Vec<(Fd, Entry)> = Vec::with_capacity(self.slots.len() + kept.len());
        wanted.extend(self.slots.iter().filter(|slot| self.is_open(slot)).map(|slot| (slot.fd, entry(slot))));
        // Few are carried, and mostly none where another is wanted.
        let is_wanted = |fd: &Fd| wanted.binary_search_by_key(fd, |(fd, _)| *fd).is_ok();
        let in_the_way: Vec<Fd> = self.carried_at.keys().copied().filter(is_wanted).collect();
        for fd in in_the_way {
            // It gets another number below.
            self.evict(fd);
        }
        // Both lists are sorted.
        let mut mine = 0;
        for ofd in kept {
            mine += self.by_ofd[mine..].iter().take_while(|(other, _)| other < ofd).count();
            let is_wanted = self.by_ofd.get(mine).is_some_and(|(other, _)| other == ofd);
            if !is_wanted && self.table.find(*ofd).is_some() {
                wanted.push(self.carry(supply, *ofd));
            }
        }
        wanted.sort_unstable_by_key(|(fd, _)| *fd);
        let moves = self.become_exactly(&wanted);
        self.is_settled = true;
        moves
    }

    /// As [`Desk::settle`], where only what has been opened since must go to its numbers and be kept, and `gone`
    /// is not kept any more.
    pub(super) fn settle_changes(&mut self, supply: &mut Supply<'_>, gone: &[OfdId]) -> Vec<Move> {
        self.is_settled = false;
        self.drop_carried(gone);
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.sort_unstable();
        fresh.dedup();
        let mut scope: BTreeSet<Fd> = std::mem::take(&mut self.fresh_fds).into_iter().collect();
        scope.extend(gone.iter().chain(&fresh).flat_map(|ofd| self.table.places_of(*ofd)));
        let mut wanted: Vec<(Fd, Entry)> = Vec::new();
        let mut to_carry = Vec::new();
        for ofd in fresh.into_iter().filter(|ofd| !gone.contains(ofd)) {
            if self.wants(ofd) {
                wanted.extend(
                    self.wanted_at(ofd).filter_map(|fd| self.wanted(fd)).map(|slot| (slot.fd, entry(&slot))),
                );
            } else {
                to_carry.push(ofd);
            }
        }
        for (fd, _) in &wanted {
            if let Some(other) = self.evict(*fd) {
                scope.extend(self.table.places_of(other));
                to_carry.push(other);
            }
        }
        for ofd in to_carry {
            wanted.extend([self.carry(supply, ofd)]);
        }
        wanted.sort_unstable_by_key(|(fd, _)| *fd);
        let mut moves = Vec::new();
        transform_part(&mut self.table, &scope, &wanted, &mut moves);
        moves
    }

    fn become_exactly(&mut self, wanted: &[(Fd, Entry)]) -> Vec<Move> {
        self.fresh.clear();
        self.fresh_fds.clear();
        let mut moves = Vec::new();
        transform(&mut self.table, wanted, &mut moves);
        moves
    }

    /// Whether what is wanted at a number is open, there or elsewhere.
    fn is_open(&self, slot: &Slot) -> bool {
        // What it shares may be there and be nothing that it knows.
        let is_there = || self.table.get(slot.fd).is_some_and(|now| now.ofd == Some(slot.ofd));
        !self.shares_table && is_there() || self.table.find(slot.ofd).is_some()
    }

    /// Where a description is carried that is open and not in the final table.
    fn carry(&mut self, supply: &mut Supply<'_>, ofd: OfdId) -> (Fd, Entry) {
        let fd = match self.carried.get(&ofd) {
            Some(fd) => *fd,
            None => {
                let favourite =
                    if self.stays_put { self.table.find(ofd) } else { supply.wanted[ofd.index()] };
                // What is to be there in the end may come later: then this one gives way.
                let is_taken =
                    |fd: Fd| self.wanted(fd).is_some_and(|slot| self.table.find(slot.ofd).is_some());
                let is_free = |fd: &Fd| !is_taken(*fd) && !self.carried_at.contains_key(fd);
                let fd = favourite.filter(is_free).unwrap_or_else(|| supply.aside(ofd));
                self.carried.insert(ofd, fd);
                self.carried_at.insert(fd, ofd);
                fd
            }
        };
        // Whether it is closed on exec does not matter here: as it is.
        let cloexec = self.table.get(fd).is_some_and(|now| now.ofd == Some(ofd) && now.cloexec);
        (fd, Entry { ofd: Some(ofd), cloexec })
    }

    fn drop_carried(&mut self, gone: &[OfdId]) {
        for ofd in gone {
            if let Some(fd) = self.carried.remove(ofd) {
                self.carried_at.remove(&fd);
            }
        }
    }

    /// Takes a number from what is carried at it.
    fn evict(&mut self, fd: Fd) -> Option<OfdId> {
        let ofd = self.carried_at.remove(&fd)?;
        self.carried.remove(&ofd);
        Some(ofd)
    }
}

fn entry(slot: &Slot) -> Entry {
    Entry { ofd: Some(slot.ofd), cloexec: slot.cloexec }
}
