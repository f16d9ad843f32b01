//! Private memory with a history: areas that tasks make, that their children are born with, and that all of them change.
//!
//! Every area has a room of its own, so that it can be made longer. Before a task forks, and again behind that, pages
//! are written, emptied, unmapped, mapped and protected; a child that inherits starts with what its parent had at the
//! fork. So mappings of parent and child differ in every way in which they can: in their ends, in holes, in protection,
//! in pages; and children have pages in common that their parent has no more.
//!
//! Example: a root maps pages 4 to 12 and writes to all, a child unmaps pages 8 and 9 and writes to page 4, and the root
//! then protects pages 10 to 12: the child has two mappings, of which the second was a part of the root's first.

use std::collections::BTreeMap;

use proptest::prelude::*;
use regrow::synth::{MAPPINGS, PAGE, Page, Private, Task};

/// Pages of a room.
const ROOM: u64 = 24;
/// Areas are from here on: beyond all that is placed otherwise.
const FIRST: u64 = MAPPINGS.start + (1 << 26);

/// What is done to pages of an area.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Write(u64),
    Empty,
    Unmap,
    Map,
    Protect(bool),
}

/// First page, how many, and what.
type Change = (u64, u64, Deed);

/// Who does it, behind its forks or before, to which of its areas.
type ChangeGene = (u16, bool, u16, Change);

/// What becomes of areas.
#[derive(Debug, Clone)]
pub(crate) struct AreaGenes {
    /// Who makes one.
    made: Vec<u16>,
    changes: Vec<ChangeGene>,
    /// Which tasks are born with their parent's, over and over.
    inherits: Vec<bool>,
}

pub(crate) fn areas() -> impl Strategy<Value = AreaGenes> {
    let deed = prop_oneof![
        4 => (0u64..4).prop_map(Deed::Write),
        1 => Just(Deed::Empty),
        2 => Just(Deed::Unmap),
        2 => Just(Deed::Map),
        2 => any::<bool>().prop_map(Deed::Protect),
    ];
    let change = (any::<u16>(), any::<bool>(), any::<u16>(), (0..ROOM, 1u64..9, deed));
    (
        prop::collection::vec(any::<u16>(), 0..3),
        prop::collection::vec(change, 0..12),
        prop::collection::vec(prop::bool::weighted(0.8), 1..4),
    )
        .prop_map(|(made, changes, inherits)| AreaGenes { made, changes, inherits })
}

/// A page that is mapped: whether it is writable, and what was written to it.
type Mapped = (bool, Option<u64>);

#[derive(Debug, Clone, Default)]
struct Area(BTreeMap<u64, Mapped>);

impl Area {
    fn change(&mut self, (first, count, deed): Change) {
        for page in first..(first + count).min(ROOM) {
            let mapped = self.0.get_mut(&page);
            match (deed, mapped) {
                (Deed::Write(seed), Some((true, content))) => *content = Some(1 + seed),
                (Deed::Empty, Some((_, content))) => *content = None,
                (Deed::Unmap, _) => drop(self.0.remove(&page)),
                (Deed::Map, None) => drop(self.0.insert(page, (true, None))),
                (Deed::Protect(writable), Some((is, _))) => *is = writable,
                (Deed::Write(_) | Deed::Empty | Deed::Map | Deed::Protect(_), _) => {}
            }
        }
    }

    /// Its mappings: what lies side by side and is protected alike is one.
    fn mappings(&self, start: u64) -> Vec<Private> {
        let mut mappings: Vec<Private> = Vec::new();
        for (page, (writable, content)) in &self.0 {
            let at = start + page * PAGE;
            let continues =
                |last: &&mut Private| last.start + last.len_pages * PAGE == at && last.writable == *writable;
            let index = match mappings.last_mut().filter(continues) {
                Some(last) => {
                    last.len_pages += 1;
                    last.len_pages - 1
                }
                None => {
                    mappings.push(Private {
                        start: at,
                        len_pages: 1,
                        writable: *writable,
                        pages: Vec::new(),
                    });
                    0
                }
            };
            // The same bytes at the same address, whoever writes them: they may have been shared.
            if let (Some(seed), Some(last)) = (content, mappings.last_mut()) {
                last.pages.push(Page { index, seed: seed * 1000 + page });
            }
        }
        mappings
    }
}

/// Gives the tasks their areas. `living` says who a gene is about.
pub(crate) fn add_areas(tasks: &mut [Task], genes: &AreaGenes, living: impl Fn(u16) -> usize) {
    let mut at_forks: Vec<BTreeMap<usize, Area>> = vec![BTreeMap::new(); tasks.len()];
    for index in 0..tasks.len() {
        if tasks[index].dead.is_some() {
            continue;
        }
        let inherits = genes.inherits[index % genes.inherits.len()];
        let parent = tasks[index].parent.filter(|parent| inherits && *parent < index);
        let mut own = parent.map_or_else(BTreeMap::new, |parent| at_forks[parent].clone());
        for (number, who) in genes.made.iter().enumerate() {
            if living(*who) == index {
                let area = (4..12).map(|page| (page, (true, Some(page % 3).filter(|kind| *kind > 0))));
                own.insert(number, Area(area.collect()));
            }
        }
        let change = |own: &mut BTreeMap<usize, Area>, behind: bool| {
            let its = genes.changes.iter().filter(|(who, when, ..)| living(*who) == index && *when == behind);
            for (_, _, which, change) in its {
                let which = usize::from(*which) % own.len().max(1);
                if let Some(area) = own.values_mut().nth(which) {
                    area.change(*change);
                }
            }
        };
        change(&mut own, false);
        at_forks[index] = own.clone();
        change(&mut own, true);
        for (number, area) in &own {
            // A page between two rooms, or the kernel would join what is alike.
            let start = FIRST + *number as u64 * (ROOM + 1) * PAGE;
            tasks[index].private.extend(area.mappings(start));
        }
    }
}
