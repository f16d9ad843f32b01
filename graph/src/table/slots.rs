//! The numbers of a descriptor table, as the kernel keeps them: pages of bits beside what they stand for.
//!
//! Pages are shared until they are changed, so that a child's copy of a long table costs next to nothing.

use std::sync::Arc;

use smallvec::SmallVec;

use super::Entry;
use crate::ids::{Fd, OfdId};

/// Numbers in a page, and pages in a chunk.
const WIDTH: u32 = u64::BITS;
/// Numbers in a chunk.
const CHUNK: u32 = WIDTH * WIDTH;
/// Stands for an open description that nobody wants.
const NOBODYS: u32 = u32::MAX;

/// 64 numbers.
#[derive(Debug, Clone)]
struct Page {
    open: u64,
    cloexec: u64,
    ofds: [u32; WIDTH as usize],
}

/// 4096 numbers.
#[derive(Debug, Clone)]
struct Chunk {
    /// Pages in which something is open.
    any: u64,
    /// Pages in which everything is.
    full: u64,
    pages: [Option<Arc<Page>>; WIDTH as usize],
}

/// All numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots {
    /// By number; nearly always there is one.
    chunks: SmallVec<[(u32, Arc<Chunk>); 1]>,
    len: usize,
}

/// Chunk, page and bit of a number.
fn split(fd: Fd) -> (u32, usize, u32) {
    (fd / CHUNK, (fd % CHUNK / WIDTH) as usize, fd % WIDTH)
}

/// The lowest bit from `from` on.
fn first_from(bits: u64, from: u32) -> Option<u32> {
    let bits = if from >= WIDTH { 0 } else { bits & (u64::MAX << from) };
    (bits != 0).then(|| bits.trailing_zeros())
}

/// The highest bit up to `to`.
fn last_to(bits: u64, to: u32) -> Option<u32> {
    let bits = bits & (u64::MAX >> (WIDTH - 1 - to));
    (bits != 0).then(|| bits.ilog2())
}

impl Page {
    fn entry(&self, bit: u32) -> Option<Entry> {
        let ofd = self.ofds[bit as usize];
        (self.open >> bit & 1 != 0).then(|| Entry {
            ofd: (ofd != NOBODYS).then_some(OfdId(ofd)),
            cloexec: self.cloexec >> bit & 1 != 0,
        })
    }
}

impl Slots {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, fd: Fd) -> Option<Entry> {
        let (chunk, page, bit) = split(fd);
        self.chunk(chunk)?.pages[page].as_ref()?.entry(bit)
    }

    /// Where a chunk is, or would be.
    fn find(&self, chunk: u32) -> Result<usize, usize> {
        match self.chunks.first() {
            Some((first, _)) if *first == chunk => Ok(0),
            _ => self.chunks.binary_search_by_key(&chunk, |(number, _)| *number),
        }
    }

    fn chunk(&self, chunk: u32) -> Option<&Chunk> {
        self.find(chunk).ok().map(|at| &*self.chunks[at].1)
    }

    /// Gives what was there.
    pub(super) fn set(&mut self, fd: Fd, entry: Entry) -> Option<Entry> {
        let (chunk, at, bit) = split(fd);
        let found = self.find(chunk).unwrap_or_else(|free| {
            let none = Chunk { any: 0, full: 0, pages: [const { None }; WIDTH as usize] };
            self.chunks.insert(free, (chunk, Arc::new(none)));
            free
        });
        let chunk = Arc::make_mut(&mut self.chunks[found].1);
        let empty = || Arc::new(Page { open: 0, cloexec: 0, ofds: [NOBODYS; WIDTH as usize] });
        let page = Arc::make_mut(chunk.pages[at].get_or_insert_with(empty));
        let old = page.entry(bit);
        page.open |= 1 << bit;
        page.cloexec = page.cloexec & !(1 << bit) | u64::from(entry.cloexec) << bit;
        page.ofds[bit as usize] = entry.ofd.map_or(NOBODYS, |ofd| ofd.0);
        chunk.any |= 1 << at;
        chunk.full |= u64::from(page.open == u64::MAX) << at;
        self.len += usize::from(old.is_none());
        old
    }

    /// Gives what was there.
    pub(super) fn clear(&mut self, fd: Fd) -> Option<Entry> {
        let old = self.get(fd)?;
        let (number, at, bit) = split(fd);
        let found = self.find(number).ok()?;
        let chunk = Arc::make_mut(&mut self.chunks[found].1);
        let page = Arc::make_mut(chunk.pages[at].as_mut()?);
        page.open &= !(1 << bit);
        chunk.full &= !(1 << at);
        if page.open == 0 {
            chunk.pages[at] = None;
            chunk.any &= !(1 << at);
            if chunk.any == 0 {
                self.chunks.remove(found);
            }
        }
        self.len -= 1;
        Some(old)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Fd, Entry)> + '_ {
        self.chunks.iter().flat_map(|(number, chunk)| {
            chunk.pages.iter().zip(0..).flat_map(move |(page, at)| {
                page.iter().flat_map(move |page| {
                    let bits =
                        std::iter::successors(first_from(page.open, 0), |bit| first_from(page.open, bit + 1));
                    bits.filter_map(move |bit| Some((number * CHUNK + at * WIDTH + bit, page.entry(bit)?)))
                })
            })
        })
    }

    /// The lowest number from `from` on that is not open.
    pub(super) fn lowest_free(&self, from: Fd) -> Fd {
        let (mut number, mut at, mut bit) = split(from);
        while let Some(chunk) = self.chunk(number) {
            let base = number * CHUNK;
            let Some(page) = &chunk.pages[at] else { return base + at as u32 * WIDTH + bit };
            if let Some(free) = first_from(!page.open, bit) {
                return base + at as u32 * WIDTH + free;
            }
            if let Some(next) = first_from(!chunk.full, at as u32 + 1) {
                let open = chunk.pages[next as usize].as_ref().map_or(0, |page| page.open);
                return base + next * WIDTH + (!open).trailing_zeros();
            }
            (number, at, bit) = (number + 1, 0, 0);
        }
        number.saturating_mul(CHUNK).saturating_add(at as u32 * WIDTH + bit)
    }

    /// The lowest open number from `from` on.
    pub(super) fn next_open(&self, from: Fd) -> Option<Fd> {
        let (number, at, bit) = split(from);
        let within = |number: u32, chunk: &Chunk, at: u32| {
            let page = chunk.pages[at as usize].as_ref()?;
            Some(number * CHUNK + at * WIDTH + first_from(page.open, 0)?)
        };
        if let Some(chunk) = self.chunk(number) {
            if let Some(found) = chunk.pages[at].as_ref().and_then(|page| first_from(page.open, bit)) {
                return Some(number * CHUNK + at as u32 * WIDTH + found);
            }
            if let Some(next) = first_from(chunk.any, at as u32 + 1) {
                return within(number, chunk, next);
            }
        }
        let (number, chunk) = self.chunks.get(self.chunks.partition_point(|(other, _)| *other <= number))?;
        within(*number, chunk, first_from(chunk.any, 0)?)
    }

    /// The highest open number up to `to`.
    pub(super) fn last_open(&self, to: Fd) -> Option<Fd> {
        let (number, at, bit) = split(to);
        let within = |number: u32, chunk: &Chunk, at: u32| {
            let page = chunk.pages[at as usize].as_ref()?;
            Some(number * CHUNK + at * WIDTH + last_to(page.open, WIDTH - 1)?)
        };
        if let Some(chunk) = self.chunk(number) {
            if let Some(found) = chunk.pages[at].as_ref().and_then(|page| last_to(page.open, bit)) {
                return Some(number * CHUNK + at as u32 * WIDTH + found);
            }
            if let Some(before) = at.checked_sub(1).and_then(|before| last_to(chunk.any, before as u32)) {
                return within(number, chunk, before);
            }
        }
        let before = self.chunks.partition_point(|(other, _)| *other < number).checked_sub(1)?;
        let (number, chunk) = &self.chunks[before];
        within(*number, chunk, last_to(chunk.any, WIDTH - 1)?)
    }
}
