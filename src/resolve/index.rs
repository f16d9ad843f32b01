//! The descriptions of the images by the ids that they have there.
//!
//! Every entry of every table is looked up. CRIU counts ids from 1 on, so mostly they are an index; where they are far
//! apart, they are looked up by their hash.

use std::collections::HashMap;

use regrow_graph::ids::OfdId;

/// At most so many places for each description.
const PLACES: usize = 8;

/// Descriptions by id.
pub(super) enum Index {
    Dense(Vec<Option<OfdId>>),
    Sparse(HashMap<u32, OfdId>),
}

impl Index {
    /// Of the ids in the order of the descriptions. Of several the last counts.
    pub(super) fn of(ids: impl ExactSizeIterator<Item = u32> + Clone) -> Index {
        let end = ids.clone().max().map_or(0, |id| id as usize + 1);
        let numbered = ids.clone().enumerate().map(|(index, id)| (id, OfdId::new(index)));
        if end / PLACES > ids.len() {
            return Index::Sparse(numbered.collect());
        }
        let mut dense = vec![None; end];
        numbered.for_each(|(id, ofd)| dense[id as usize] = Some(ofd));
        Index::Dense(dense)
    }

    pub(super) fn get(&self, id: &u32) -> Option<&OfdId> {
        match self {
            Index::Dense(all) => all.get(*id as usize)?.as_ref(),
            Index::Sparse(all) => all.get(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_and_far() {
        for (ids, is_dense) in [(vec![], true), (vec![3, 1, 9, 3], true), (vec![7, u32::MAX, 0, 7], false)] {
            let index = Index::of(ids.iter().copied());
            assert_eq!(matches!(index, Index::Dense(_)), is_dense, "{ids:?}");
            for id in [0, 1, 2, 3, 7, 9, 10, u32::MAX - 1, u32::MAX] {
                let wanted = ids.iter().rposition(|other| *other == id).map(OfdId::new);
                assert_eq!(index.get(&id).copied(), wanted, "{id} of {ids:?}");
            }
        }
    }
}
