//! Ordered maps whose copies share what neither has changed since.
//!
//! A fork copies a descriptor table and an address space. Here the copy is one pointer, and a change of either
//! copies only the nodes on the way to it: a B-tree of nodes with counts of references. What a range holds
//! goes node by node, so many children can each drop what all have inherited in a few steps.
//!
//! Every operation takes time logarithmic in the number of insertions so far, beside what it gives back or
//! changes. A node is never filled up again when entries go, only dropped when it is empty: a level is added
//! only when a node of every level below has been filled, so the height does not suffer.
//!
//! Worked example: a map with 1000 keys is copied; the copy loses the keys from 10 on. It has one node then, and
//! the original is as it was.

use std::collections::HashSet;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::work;

/// Most entries of a leaf, most children of an inner node.
const WIDTH: usize = 16;

/// A value.
pub(super) trait Item: Clone {
    /// Whether it is one that [`Ordered::marked`] finds.
    fn is_marked(&self) -> bool {
        false
    }
}

/// A map from numbers, below the highest, to values, in order.
#[derive(Debug, Clone)]
pub(super) struct Ordered<V> {
    root: Option<Tree<V>>,
}

/// A node that is not empty, and what is known of all below it.
#[derive(Debug, Clone)]
struct Tree<V> {
    first: u64,
    last: u64,
    count: u64,
    has_marked: bool,
    node: Arc<Node<V>>,
}

/// Nearly all nodes are leaves, whose entries lie in the node itself.
#[derive(Debug)]
enum Node<V> {
    Leaf(SmallVec<[(u64, V); WIDTH]>),
    Inner(Vec<Tree<V>>),
}

impl<V: Clone> Clone for Node<V> {
    /// Nodes are copied to be changed.
    fn clone(&self) -> Node<V> {
        match self {
            Node::Leaf(entries) => {
                work::count(entries.len());
                Node::Leaf(entries.clone())
            }
            Node::Inner(below) => {
                work::count(below.len());
                let mut copy = Vec::with_capacity(WIDTH + 1);
                copy.extend_from_slice(below);
                Node::Inner(copy)
            }
        }
    }
}

impl<V> Default for Ordered<V> {
    fn default() -> Ordered<V> {
        Ordered { root: None }
    }
}

impl<V: Item> Ordered<V> {
    /// Whether both are copies of one that have not been changed since.
    pub(super) fn is_same(&self, other: &Ordered<V>) -> bool {
        match (&self.root, &other.root) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(&a.node, &b.node),
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    pub(super) fn get(&self, key: u64) -> Option<&V> {
        self.floor(key).filter(|(found, _)| *found == key).map(|(_, value)| value)
    }

    /// The last entry whose key is not above `key`.
    pub(super) fn floor(&self, key: u64) -> Option<(u64, &V)> {
        let mut tree = self.root.as_ref().filter(|root| root.first <= key)?;
        loop {
            work::count(1);
            match &*tree.node {
                Node::Leaf(entries) => {
                    let at = entries.partition_point(|(other, _)| *other <= key).checked_sub(1)?;
                    return entries.get(at).map(|(key, value)| (*key, value));
                }
                Node::Inner(below) => tree = below.get(child(below, key))?,
            }
        }
    }

    /// Puts a value in; gives what was there.
    pub(super) fn insert(&mut self, key: u64, value: V) -> Option<V> {
        let Some(root) = &mut self.root else {
            self.root = Tree::of(Node::Leaf(smallvec![(key, value)]));
            return None;
        };
        let (old, second) = root.insert(key, value);
        if let Some(second) = second
            && let Some(first) = self.root.take()
        {
            self.root = Tree::of(Node::Inner(vec![first, second]));
        }
        old
    }

    /// Takes a value out.
    pub(super) fn remove(&mut self, key: u64) -> Option<V> {
        let value = self.get(key)?.clone();
        self.remove_range(key, key.saturating_add(1));
        Some(value)
    }

    /// Drops all from `from` on, before `to`.
    pub(super) fn remove_range(&mut self, from: u64, to: u64) {
        if let Some(root) = &mut self.root
            && root.remove_range(from, to)
        {
            self.root = None;
        }
        // A root with one child is not needed.
        while let Some(root) = &self.root
            && let Node::Inner(below) = &*root.node
            && let [only] = below.as_slice()
        {
            self.root = Some(only.clone());
        }
    }

    /// The value at `key`, to change.
    pub(super) fn change(&mut self, key: u64, by: impl FnOnce(&mut V)) {
        let mut by = Some(by);
        self.change_range(key, key.saturating_add(1), &mut |value| {
            if let Some(by) = by.take() {
                by(value);
            }
        });
    }

    /// Changes all from `from` on, before `to`.
    pub(super) fn change_range(&mut self, from: u64, to: u64, by: &mut impl FnMut(&mut V)) {
        if let Some(root) = &mut self.root {
            root.change_range(from, to, by);
        }
    }

    /// All from `from` on, before `to`.
    pub(super) fn range(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, &V)> {
        // A tree of a million entries is five nodes high.
        let mut way: SmallVec<[(&Node<V>, usize); 5]> = SmallVec::new();
        let mut next = self.root.as_ref().filter(|root| from <= root.last && from < to);
        while let Some(tree) = next {
            work::count(1);
            let (at, below) = match &*tree.node {
                Node::Leaf(entries) => (entries.partition_point(|(key, _)| *key < from), None),
                Node::Inner(below) => {
                    let at = below.partition_point(|tree| tree.last < from);
                    (at + 1, below.get(at))
                }
            };
            way.push((&*tree.node, at));
            next = below;
        }
        std::iter::from_fn(move || {
            loop {
                let (node, at) = way.last_mut()?;
                let here = *at;
                *at += 1;
                match node {
                    Node::Leaf(entries) => {
                        if let Some((key, value)) = entries.get(here) {
                            return (*key < to).then_some((*key, value));
                        }
                        way.pop();
                    }
                    Node::Inner(below) => match below.get(here) {
                        Some(tree) => {
                            work::count(1);
                            way.push((&*tree.node, 0));
                        }
                        None => drop(way.pop()),
                    },
                }
            }
        })
    }

    /// All of it, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        self.range(0, u64::MAX)
    }

    /// Those of its values that are marked, in order.
    pub(super) fn marked(&self) -> Vec<(u64, V)> {
        let mut found = Vec::new();
        if let Some(root) = &self.root {
            root.add_marked(&mut found);
        }
        found
    }

    /// The lowest number from `from` on that is no key.
    pub(super) fn lowest_absent(&self, from: u64) -> u64 {
        self.root.as_ref().map_or(from, |root| root.lowest_absent(from))
    }

    /// Goes through what is in no node that has been `seen`, and notes which have been now.
    pub(super) fn visit_new(&self, seen: &mut HashSet<usize>, visit: &mut impl FnMut(&V)) {
        if let Some(root) = &self.root {
            root.visit_new(seen, visit);
        }
    }
}

/// Which of the children would have a key that is not below the first one's.
fn child<V>(below: &[Tree<V>], key: u64) -> usize {
    below.partition_point(|tree| tree.first <= key).saturating_sub(1)
}

/// Where a full node is parted for something more at `at`: what grows at its end is left full.
fn middle(at: usize) -> usize {
    if at == WIDTH { WIDTH } else { WIDTH / 2 }
}

/// Puts an entry into a leaf; gives what does not fit any more.
fn insert_entry<V>(
    entries: &mut SmallVec<[(u64, V); WIDTH]>,
    at: usize,
    entry: (u64, V),
) -> Option<SmallVec<[(u64, V); WIDTH]>> {
    if entries.len() < WIDTH {
        entries.insert(at, entry);
        return None;
    }
    let middle = middle(at);
    let mut rest: SmallVec<[(u64, V); WIDTH]> = entries.drain(middle..).collect();
    if at < middle {
        entries.insert(at, entry);
    } else {
        rest.insert(at - middle, entry);
    }
    Some(rest)
}

impl<V: Item> Tree<V> {
    /// `None` if the node is empty.
    fn of(node: Node<V>) -> Option<Tree<V>> {
        let mut tree = Tree { first: 0, last: 0, count: 0, has_marked: false, node: Arc::new(node) };
        tree.refresh();
        (tree.count > 0).then_some(tree)
    }

    fn refresh(&mut self) {
        match &*self.node {
            Node::Leaf(entries) => {
                self.first = entries.first().map_or(0, |(key, _)| *key);
                self.last = entries.last().map_or(0, |(key, _)| *key);
                self.count = entries.len() as u64;
                self.has_marked = entries.iter().any(|(_, value)| value.is_marked());
            }
            Node::Inner(below) => {
                self.first = below.first().map_or(0, |tree| tree.first);
                self.last = below.last().map_or(0, |tree| tree.last);
                self.count = below.iter().map(|tree| tree.count).sum();
                self.has_marked = below.iter().any(|tree| tree.has_marked);
            }
        }
    }

    /// Gives the value that was there, and what has become too much for this node.
    fn insert(&mut self, key: u64, value: V) -> (Option<V>, Option<Tree<V>>) {
        work::count(1);
        let is_marked = value.is_marked();
        let (old, rest) = match Arc::make_mut(&mut self.node) {
            Node::Leaf(entries) => match entries.binary_search_by_key(&key, |(other, _)| *other) {
                Ok(at) => (Some(std::mem::replace(&mut entries[at].1, value)), None),
                Err(at) => (None, insert_entry(entries, at, (key, value)).map(Node::Leaf)),
            },
            Node::Inner(below) => {
                let at = child(below, key);
                let (old, rest) = below[at].insert(key, value);
                if let Some(rest) = rest {
                    below.insert(at + 1, rest);
                }
                let is_too_long = below.len() > WIDTH;
                (old, is_too_long.then(|| Node::Inner(below.split_off(middle(at + 1)))))
            }
        };
        if rest.is_some() || old.as_ref().is_some_and(V::is_marked) {
            self.refresh();
        } else {
            // What is known of all the others stays true.
            self.first = self.first.min(key);
            self.last = self.last.max(key);
            self.count += u64::from(old.is_none());
            self.has_marked |= is_marked;
        }
        (old, rest.and_then(Tree::of))
    }

    /// Says whether nothing is left.
    fn remove_range(&mut self, from: u64, to: u64) -> bool {
        work::count(1);
        if from <= self.first && self.last < to {
            return true;
        }
        if to <= self.first || self.last < from || from >= to {
            return false;
        }
        match Arc::make_mut(&mut self.node) {
            Node::Leaf(entries) => {
                let start = entries.partition_point(|(key, _)| *key < from);
                let end = entries.partition_point(|(key, _)| *key < to);
                entries.drain(start..end);
            }
            Node::Inner(below) => {
                // At most the first and the last of these have something that stays.
                let start = below.partition_point(|tree| tree.last < from);
                let end = below.partition_point(|tree| tree.first < to).max(start);
                for at in (start..end).rev() {
                    if below[at].remove_range(from, to) {
                        below.remove(at);
                    }
                }
            }
        }
        self.refresh();
        self.count == 0
    }

    fn change_range(&mut self, from: u64, to: u64, by: &mut impl FnMut(&mut V)) {
        if to <= self.first || self.last < from || from >= to {
            return;
        }
        work::count(1);
        match Arc::make_mut(&mut self.node) {
            Node::Leaf(entries) => {
                let start = entries.partition_point(|(key, _)| *key < from);
                for (_, value) in entries[start..].iter_mut().take_while(|(key, _)| *key < to) {
                    by(value);
                }
            }
            Node::Inner(below) => {
                let start = below.partition_point(|tree| tree.last < from);
                for tree in below[start..].iter_mut().take_while(|tree| tree.first < to) {
                    tree.change_range(from, to, by);
                }
            }
        }
        self.refresh();
    }

    fn add_marked(&self, found: &mut Vec<(u64, V)>) {
        if !self.has_marked {
            return;
        }
        work::count(1);
        match &*self.node {
            Node::Leaf(entries) => {
                found.extend(entries.iter().filter(|(_, value)| value.is_marked()).cloned());
            }
            Node::Inner(below) => below.iter().for_each(|tree| tree.add_marked(found)),
        }
    }

    fn lowest_absent(&self, mut from: u64) -> u64 {
        work::count(1);
        if from < self.first || self.last < from {
            return from;
        }
        if self.last - self.first + 1 == self.count {
            return self.last.saturating_add(1);
        }
        match &*self.node {
            Node::Leaf(entries) => {
                let start = entries.partition_point(|(key, _)| *key < from);
                for (key, _) in &entries[start..] {
                    if *key != from {
                        break;
                    }
                    from = from.saturating_add(1);
                }
            }
            Node::Inner(below) => {
                let start = below.partition_point(|tree| tree.last < from);
                for tree in &below[start..] {
                    from = tree.lowest_absent(from);
                    if from <= tree.last {
                        break;
                    }
                }
            }
        }
        from
    }

    fn visit_new(&self, seen: &mut HashSet<usize>, visit: &mut impl FnMut(&V)) {
        // Nobody else has what is not shared.
        let is_shared = Arc::strong_count(&self.node) > 1;
        if is_shared && !seen.insert(Arc::as_ptr(&self.node) as usize) {
            return;
        }
        match &*self.node {
            Node::Leaf(entries) => {
                work::count(entries.len());
                entries.iter().for_each(|(_, value)| visit(value));
            }
            Node::Inner(below) => below.iter().for_each(|tree| tree.visit_new(seen, visit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    impl Item for u64 {
        fn is_marked(&self) -> bool {
            self.is_multiple_of(7)
        }
    }

    /// A generator of numbers: each run has the same.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    #[track_caller]
    fn same(is: &Ordered<u64>, wanted: &BTreeMap<u64, u64>, state: &mut u64) {
        assert!(
            is.iter().map(|(key, value)| (key, *value)).eq(wanted.iter().map(|(key, value)| (*key, *value)))
        );
        let marked = wanted.iter().filter(|(_, value)| value.is_marked()).map(|(key, value)| (*key, *value));
        assert!(is.marked().into_iter().eq(marked));
        for _ in 0..4 {
            let (a, b) = (next(state) % 600, next(state) % 600);
            assert_eq!(is.get(a), wanted.get(&a));
            let floor = wanted.range(..=a).next_back().map(|(key, value)| (*key, *value));
            assert_eq!(is.floor(a).map(|(key, value)| (key, *value)), floor);
            let range = wanted.range(a..b.max(a)).map(|(key, value)| (*key, *value));
            assert!(is.range(a, b).map(|(key, value)| (key, *value)).eq(range));
            assert_eq!(is.lowest_absent(a), (a..).find(|key| !wanted.contains_key(key)).unwrap_or(a));
        }
    }

    /// Everything that can be done, beside a map that is known to be right; copies stay as they are.
    #[test]
    fn as_a_plain_map() {
        for seed in 0..40 {
            let mut state = seed;
            let (mut is, mut wanted) = (Ordered::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for step in 0..600 {
                let (a, b) = (next(&mut state) % 512, next(&mut state) % 512);
                match next(&mut state) % 16 {
                    // In order, as most tables and address spaces are filled.
                    0..5 => {
                        let (key, value) = (is.lowest_absent(a), b);
                        assert_eq!(is.insert(key, value), wanted.insert(key, value));
                    }
                    5..11 => assert_eq!(is.insert(a, b), wanted.insert(a, b)),
                    11 => assert_eq!(is.remove(a), wanted.remove(&a)),
                    12 => {
                        let to = if step % 5 == 0 { a + b } else { a + b % 20 };
                        is.remove_range(a, to);
                        wanted.retain(|key, _| !(a..to).contains(key));
                    }
                    13 => {
                        is.change(a, |value| *value += 1);
                        wanted.entry(a).and_modify(|value| *value += 1);
                    }
                    14 => {
                        is.change_range(a, a + b % 40, &mut |value| *value += 3);
                        wanted.range_mut(a..a + b % 40).for_each(|(_, value)| *value += 3);
                    }
                    _ => copies.push((is.clone(), wanted.clone())),
                }
                if step % 16 == 0 {
                    same(&is, &wanted, &mut state);
                }
            }
            for (is, wanted) in &copies {
                same(is, wanted, &mut state);
            }
            let (mut seen, mut sum) = (HashSet::new(), 0usize);
            copies.iter().for_each(|(copy, _)| copy.visit_new(&mut seen, &mut |_| sum += 1));
            assert!(sum <= copies.iter().map(|(_, wanted)| wanted.len()).sum());
        }
    }

    fn filled(len: u64) -> Ordered<u64> {
        let mut all = Ordered::default();
        (0..len).for_each(|key| assert!(all.insert(key, key).is_none()));
        all
    }

    /// A copy, and a range out of it: no more for a long map than for a short one, but for a level or two.
    #[test]
    fn ranges_go_as_one() {
        let most = |len: u64| {
            let all = filled(len);
            let mut copy = all.clone();
            let steps = work::steps(|| {
                copy.remove_range(3, len);
                let _ = copy.insert(copy.lowest_absent(0), 1);
            });
            assert_eq!((copy.iter().count(), all.iter().count() as u64), (4, len));
            steps
        };
        let (short, long) = (most(1000), most(100_000));
        assert!(long <= 3 * short, "{long} steps for 100,000, {short} for 1000");
    }

    /// Those who look at all copies see what they share once.
    #[test]
    fn shared_nodes_are_visited_once() {
        let all = filled(10_000);
        let mut copies = vec![all; 100];
        copies.iter_mut().for_each(|copy| assert!(copy.insert(5000, 0).is_some()));
        let (mut seen, mut sum) = (HashSet::new(), 0);
        copies.iter().for_each(|copy| copy.visit_new(&mut seen, &mut |_| sum += 1));
        assert!((10_000..10_000 + 100 * 2 * WIDTH).contains(&sum), "{sum}");
        assert!(copies[0].clone().is_same(&copies[0]) && !copies[0].is_same(&copies[1]));
    }
}
