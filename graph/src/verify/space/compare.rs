//! The ends of the address spaces against the images.
//!
//! Ranges are compared as far as both sides stay the same, so it does not count where a mapping
//! ends and another begins that is like it: the kernel merges such. Shared memory is related one to
//! one with the images' and looked into once, when all its views are known.

use std::collections::BTreeMap;

use super::super::expected::{ExpectedTask, InodeId, OfdSpec};
use super::super::object::ObjectKind;
use super::super::outcome::{Certificate, Counterexample, Wrong};
use super::super::run::Run;
use super::super::table::Desc;
use super::expected::{Alike, ExpectedMapping, ExpectedPages, Shown};
use super::intervals::{Cut as _, both};
use super::state::{
    Fill, HUGE, MADV_DONTDUMP, MADV_WIPEONFORK, MAP_GROWSDOWN, MAP_HUGETLB, MAP_LOCKED, MAP_NORESERVE,
    Mapping, PROT_ALL, PROT_EXEC, PROT_READ, PROT_WRITE, Shows, advised, bit, huge_shift, kept,
};

const PAGE: u64 = 4096;
const CODE: u32 = PROT_READ | PROT_EXEC;

/// Where a segment was first met.
#[derive(Debug, Clone, Copy)]
struct Place {
    task: u32,
    at: u64,
}

/// The one-to-one relation of the segments, both ways.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Seen {
    of_segment: BTreeMap<usize, u64>,
    of_number: BTreeMap<u64, (usize, Place)>,
}

/// What is there, of what is compared with stored pages.
#[derive(Debug, Clone, Copy)]
enum Held<'a> {
    Bytes(&'a Fill),
    /// The kernel's own, in its place.
    Kernel,
}

impl Seen {
    /// Takes over what has been seen of other tasks. Says whether all of it is one to one.
    pub(in super::super) fn take(&mut self, other: Seen) -> bool {
        let mut pairs = other.of_segment.into_iter();
        let mut numbers = other.of_number.into_iter();
        pairs.all(|(segment, number)| *self.of_segment.entry(segment).or_insert(number) == number)
            && numbers.all(|(number, met)| self.of_number.entry(number).or_insert(met).0 == met.0)
    }
}

impl Run<'_> {
    /// Compares the address space of a living task. `pair`: whether an object may be an inode of the
    /// images, and is from now on.
    pub(in super::super) fn compare_space(
        &self,
        want: &ExpectedTask,
        seen: &mut Seen,
        certificate: &mut Certificate,
        mut pair: impl FnMut(usize, InodeId) -> bool,
    ) -> Result<(), Wrong> {
        let (Some(space), Some(leader)) = (want.space.as_deref(), self.by_pid.get(&want.pid)) else {
            return Ok(());
        };
        let is = &self.spaces[*leader];
        if let Some((at, end, ())) = is.unknown.iter().next() {
            return Err(Wrong::LauncherMemory { at, end });
        }
        let wanted = space.mappings.iter().map(|mapping| (mapping.start, mapping.end, mapping));
        for (at, end, is, wanted) in both(is.mappings.iter(), wanted) {
            let is = is.map(|(by, mapping)| mapping.rest(by));
            self.compare_mapping((want.pid, at), is, wanted, seen, &mut pair).map_err(|()| {
                Wrong::WrongMapping {
                    at,
                    end,
                    is: is.map_or_else(nothing, |is| self.shown(&is)),
                    wanted: wanted.map_or_else(nothing, |(by, wanted)| self.shown_wanted(seen, wanted, by)),
                }
            })?;
        }
        let rings = space.mappings.iter().filter_map(|mapping| match mapping.shows {
            Shown::Ring { head, tail } => Some((mapping.start, (u64::from(head), u64::from(tail)))),
            _ => None,
        });
        for (at, wanted) in rings {
            let is = is.rings.get(&at).map(|ring| (ring.head, ring.tail));
            if is != Some(wanted) {
                return Err(Wrong::WrongRing { at, is, wanted });
            }
        }
        let guards = space.guards.iter().map(|(start, end)| (*start, *end, ()));
        for (at, end, is, wanted) in both(is.guards.iter(), guards) {
            if is.is_some() != wanted.is_some() {
                return Err(Wrong::WrongGuard { at, end, is: is.is_some() });
            }
        }
        certificate.mappings += space.mappings.len() as u64;
        Ok(())
    }

    /// Compares what a living task's private mappings hold.
    pub(in super::super) fn compare_private_pages(
        &self,
        want: &ExpectedTask,
        certificate: &mut Certificate,
        is_alike: &mut dyn FnMut(&Alike<'_>) -> bool,
    ) -> Result<(), Wrong> {
        let (Some(space), Some(leader)) = (want.space.as_deref(), self.by_pid.get(&want.pid)) else {
            return Ok(());
        };
        certificate.pages += pages(&space.pages);
        let is = &self.spaces[*leader];
        let kernel = is.mappings.iter().filter(|(_, _, mapping)| matches!(mapping.shows, Shows::Kernel));
        let mut held: Vec<(u64, u64, Held<'_>)> =
            kernel.map(|(start, end, _)| (start, end, Held::Kernel)).collect();
        held.extend(is.fills.iter().map(|(start, end, fill)| (start, end, Held::Bytes(fill))));
        held.sort_by_key(|(start, ..)| *start);
        let differs = self.first_difference(held.into_iter(), &space.pages, is_alike);
        differs.map_or(Ok(()), |(at, end, is, wanted)| Err(Wrong::WrongPages { at, end, is, wanted }))
    }

    /// Where what is held is not what is stored, and both in words.
    fn first_difference<'a>(
        &self,
        held: impl Iterator<Item = (u64, u64, Held<'a>)>,
        stored: &ExpectedPages,
        is_alike: &mut dyn FnMut(&Alike<'_>) -> bool,
    ) -> Option<(u64, u64, String, String)> {
        let extents = stored
            .extents
            .iter()
            .map(|extent| (extent.at, extent.at.saturating_add(extent.len), (extent.file, extent.from)));
        // Nearly all are of one file.
        let mut known: Option<((usize, u32), bool)> = None;
        for (at, end, is, wanted) in both(held, extents) {
            let wanted = wanted.map(|(by, (file, from))| (file, from.saturating_add(by)));
            let is = match is {
                Some((_, Held::Kernel)) => continue,
                Some((by, Held::Bytes(fill))) => Some(fill.rest(by)),
                None => None,
            };
            let is_right = match (is, wanted) {
                (Some(is), Some((file, from))) => {
                    let path = stored.file(file);
                    let of_file = match known {
                        Some((pair, of_file)) if pair == (is.object, file) => of_file,
                        Some(_) | None => self.is_stored_in(is.object, path),
                    };
                    known = Some(((is.object, file), of_file));
                    of_file && is.from == from || self.is_alike(&is, (path, from), end - at, is_alike)
                }
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if !is_right {
                let none = || "no bytes of an image".to_owned();
                let is = is.map_or_else(none, |is| self.shown_fill(&is));
                let wanted = wanted.map_or_else(none, |(file, from)| {
                    format!("the bytes of {} from {from:#x}", stored.file(file).escape_ascii())
                });
                return Some((at, end, is, wanted));
            }
        }
        None
    }

    /// Whether other bytes than those that are stored are the same ones.
    fn is_alike(
        &self,
        is: &Fill,
        wanted: (&[u8], u64),
        len: u64,
        is_alike: &mut dyn FnMut(&Alike<'_>) -> bool,
    ) -> bool {
        let ObjectKind::File { path } = &self.objects.objects[is.object].kind else { return false };
        is_alike(&Alike { held: (path, is.from), wanted, len })
    }

    fn is_stored_in(&self, object: usize, file: &[u8]) -> bool {
        matches!(&self.objects.objects[object].kind, ObjectKind::File { path } if path == file)
    }

    /// `at`: the task, and where the range starts.
    fn compare_mapping(
        &self,
        (task, at): (u32, u64),
        is: Option<Mapping>,
        wanted: Option<(u64, &ExpectedMapping)>,
        seen: &mut Seen,
        pair: &mut impl FnMut(usize, InodeId) -> bool,
    ) -> Result<(), ()> {
        let (is, wanted, by) = match (is, wanted) {
            (Some(is), Some((by, wanted))) => (is, wanted, by),
            (None, None) => return Ok(()),
            // Where the kernel's own may be, is looked at when it is mapped and when the task arrives.
            (Some(Mapping { shows: Shows::Kernel, .. }), None) => return Ok(()),
            (Some(_), None) | (None, Some(_)) => return Err(()),
        };
        let is_alike = match (is.shows, wanted.shows) {
            // As the kernel maps it: code to be executed, data to be read. The data is never in core dumps.
            (Shows::Kernel, Shown::Kernel) => {
                let is_its = folded(wanted) & !bit(MADV_DONTDUMP) == 0;
                let is_plain = matches!(wanted.prot & PROT_ALL, PROT_READ | CODE);
                return if is_its && is_plain { Ok(()) } else { Err(()) };
            }
            // The dumped code and data, which lead to the kernel's own.
            (Shows::Anonymous, Shown::Kernel) => {
                let advice = |advice: u64| advice & !bit(MADV_DONTDUMP);
                let is_its = advice(is.advice) == advice(folded(wanted)) && is.flags == 0;
                return if is_its && is.prot == wanted.prot & PROT_ALL { Ok(()) } else { Err(()) };
            }
            (Shows::Anonymous, Shown::Anonymous) | (Shows::Droppable, Shown::Droppable) => true,
            (Shows::Segment { segment, offset }, Shown::Segment { segment: number, offset: wanted }) => {
                let place = Place { task, at };
                let is_there = offset == wanted.saturating_add(by);
                is_there
                    && *seen.of_segment.entry(segment).or_insert(number) == number
                    && seen.of_number.entry(number).or_insert((segment, place)).0 == segment
            }
            (
                Shows::System { segment, offset, may_write },
                Shown::System { segment: id, offset: wanted, may_write: may },
            ) => {
                self.segments[segment].system == Some(id)
                    && offset == wanted.saturating_add(by)
                    && may_write == may
            }
            (
                Shows::File { desc, offset, is_shared, may_write },
                Shown::File { ofd, offset: wanted, shared },
            ) => {
                offset == wanted.saturating_add(by)
                    && is_shared.then_some(may_write) == shared
                    && self.is_file(desc, self.expected.ofds.get(ofd.index()).map(|ofd| &ofd.spec), pair)
            }
            // Each is one context's: there is none of which another's is a part.
            (Shows::Ring { offset }, Shown::Ring { .. }) => offset == by,
            (
                Shows::Anonymous
                | Shows::Droppable
                | Shows::Segment { .. }
                | Shows::System { .. }
                | Shows::File { .. }
                | Shows::Kernel
                | Shows::Ring { .. },
                Shown::Anonymous
                | Shown::Droppable
                | Shown::Segment { .. }
                | Shown::System { .. }
                | Shown::File { .. }
                | Shown::Kernel
                | Shown::Ring { .. },
            ) => false,
        };
        let modes = (is.prot, is.flags, is.advice);
        if is_alike && modes == (wanted.prot & PROT_ALL, flags(wanted), folded(wanted)) {
            Ok(())
        } else {
            Err(())
        }
    }

    /// Whether a description shows the file that another one of the images does, under the same name.
    fn is_file(
        &self,
        desc: Desc,
        spec: Option<&OfdSpec>,
        pair: &mut impl FnMut(usize, InodeId) -> bool,
    ) -> bool {
        let description = self.objects.description(desc);
        match (&self.objects.objects[description.object].kind, spec) {
            (ObjectKind::File { path }, Some(OfdSpec::Path { path: wanted, .. })) => path == wanted,
            (ObjectKind::Inode(is), Some(OfdSpec::Inode { inode, alias, .. })) => {
                let is_it = self.expected.inodes.get(inode).is_some_and(|wanted| {
                    (is.kind, &is.name, &is.source, is.huge)
                        == (wanted.kind, &wanted.name, &wanted.source, wanted.huge)
                });
                is_it && description.alias.as_deref() == alias.as_deref() && pair(description.object, *inode)
            }
            _ => false,
        }
    }

    /// Compares the shared memory that the tasks see.
    pub(in super::super) fn compare_segments(
        &self,
        seen: &Seen,
        certificate: &mut Certificate,
        is_alike: &mut dyn FnMut(&Alike<'_>) -> bool,
    ) -> Result<(), Counterexample> {
        for (number, (segment, place)) in &seen.of_number {
            let is = &self.segments[*segment];
            let wrong = |wrong| Err(Counterexample { task: place.task, record: None, wrong });
            let Some(wanted) = self.expected.segments.get(number) else {
                return wrong(Wrong::Images { what: format!("shared memory {number:#x} is not described") });
            };
            if is.len != wanted.len {
                return wrong(Wrong::WrongLength {
                    segment: *number,
                    is_bytes: is.len,
                    wanted_bytes: wanted.len,
                });
            }
            let held = is.fills.iter().map(|(start, end, fill)| (start, end, Held::Bytes(fill)));
            if let Some((at, end, is, wanted)) = self.first_difference(held, &wanted.pages, is_alike) {
                return wrong(Wrong::WrongShared { segment: *number, at, end, is, wanted });
            }
            certificate.segments += 1;
            certificate.pages += pages(&wanted.pages);
        }
        Ok(())
    }

    /// Where what a segment holds is not what is stored, and both in words.
    pub(in super::super) fn segment_differs(
        &self,
        segment: usize,
        wanted: &ExpectedPages,
        is_alike: &mut dyn FnMut(&Alike<'_>) -> bool,
    ) -> Option<(u64, u64, String, String)> {
        let fills = self.segments[segment].fills.iter();
        let held = fills.map(|(start, end, fill)| (start, end, Held::Bytes(fill)));
        self.first_difference(held, wanted, is_alike)
    }

    pub(in super::super) fn stored_pages(&self, stored: &ExpectedPages) -> u64 {
        pages(stored)
    }

    fn shown_fill(&self, fill: &Fill) -> String {
        let what = match &self.objects.objects[fill.object].kind {
            ObjectKind::File { path } => path.escape_ascii().to_string(),
            _ => "something else".to_owned(),
        };
        format!("the bytes of {what} from {:#x}", fill.from)
    }

    fn shown(&self, mapping: &Mapping) -> String {
        let what = match mapping.shows {
            Shows::Anonymous => "private memory".to_owned(),
            Shows::Droppable => "droppable memory".to_owned(),
            Shows::Kernel => "the vDSO".to_owned(),
            Shows::Ring { offset } => format!("a ring of asynchronous I/O, from {offset:#x}"),
            Shows::Segment { segment, offset } => {
                let made = self.segments[segment].made;
                let by = self.pid(made.task);
                format!("the shared memory that task {by} makes in record {}, from {offset:#x}", made.record)
            }
            Shows::System { segment, offset, may_write } => {
                let id = self.segments[segment].system.unwrap_or_default();
                format!("System V segment {id}{}, from {offset:#x}", read_only_word(may_write))
            }
            Shows::File { desc, offset, is_shared, may_write } => {
                format!(
                    "{}{}, from {offset:#x}",
                    shared_word(is_shared.then_some(may_write)),
                    self.describe(desc)
                )
            }
        };
        format!("{what}, {}", modes(mapping.prot, mapping.flags, mapping.advice))
    }

    fn shown_wanted(&self, seen: &Seen, mapping: &ExpectedMapping, by: u64) -> String {
        let what = match mapping.shows {
            Shown::Anonymous => "private memory".to_owned(),
            Shown::Droppable => "droppable memory".to_owned(),
            Shown::Kernel => "the vDSO".to_owned(),
            Shown::Ring { .. } => format!("a ring of asynchronous I/O, from {by:#x}"),
            Shown::Segment { segment, offset } => {
                let other = seen.of_number.get(&segment).map_or_else(String::new, |(_, place)| {
                    format!(" that task {} has at {:#x}", place.task, place.at)
                });
                format!("the shared memory {segment:#x}{other}, from {:#x}", offset.saturating_add(by))
            }
            Shown::System { segment, offset, may_write } => {
                let from = offset.saturating_add(by);
                format!("System V segment {segment}{}, from {from:#x}", read_only_word(may_write))
            }
            Shown::File { ofd, offset, shared } => {
                let name = self.expected.ofds.get(ofd.index()).map_or("a file", |ofd| &ofd.name);
                format!("{}{name}, from {:#x}", shared_word(shared), offset.saturating_add(by))
            }
        };
        format!("{what}, {}", modes(mapping.prot & PROT_ALL, flags(mapping), folded(mapping)))
    }
}

/// How many pages are stored.
fn pages(stored: &ExpectedPages) -> u64 {
    stored.extents.iter().fold(0u64, |sum, extent| sum.saturating_add(extent.len)) / PAGE
}

fn nothing() -> String {
    "nothing".to_owned()
}

fn read_only_word(may_write: bool) -> &'static str {
    if may_write { "" } else { " for reading" }
}

fn shared_word(shared: Option<bool>) -> &'static str {
    match shared {
        None => "a private mapping of ",
        Some(true) => "a shared mapping of ",
        Some(false) => "a shared mapping for reading of ",
    }
}

/// The flags that a mapping of the images keeps. A droppable one has some of its own.
fn flags(wanted: &ExpectedMapping) -> u32 {
    let own = if wanted.shows == Shown::Droppable { MAP_NORESERVE } else { 0 };
    kept(wanted.flags) | own
}

/// The advice that a mapping of the images keeps when all has been given.
fn folded(wanted: &ExpectedMapping) -> u64 {
    let own = if wanted.shows == Shown::Droppable { bit(MADV_WIPEONFORK) | bit(MADV_DONTDUMP) } else { 0 };
    if wanted.advice == 0 {
        return own;
    }
    let given = (0..u64::BITS).filter(|advice| wanted.advice & bit(*advice) != 0);
    // What is not known is kept as it is, and no mapping has it.
    given.fold(own, |kept, advice| advised(kept, advice).unwrap_or(kept | bit(advice)))
}

/// Protection, flags and advice in words: `rw-, locked, advice 10`.
fn modes(prot: u32, flags: u32, advice: u64) -> String {
    let mut words: String = [(PROT_READ, 'r'), (PROT_WRITE, 'w'), (PROT_EXEC, 'x')]
        .iter()
        .map(|(bit, letter)| if prot & bit != 0 { *letter } else { '-' })
        .collect();
    let named = [(MAP_GROWSDOWN, "grows down"), (MAP_LOCKED, "locked"), (MAP_NORESERVE, "not reserved")];
    for (_, name) in named.iter().filter(|(bit, _)| flags & bit != 0) {
        words += &format!(", {name}");
    }
    let mut rest = named.iter().fold(flags, |rest, (bit, _)| rest & !bit);
    if flags & MAP_HUGETLB != 0 && huge_shift(flags) != 0 {
        words += &format!(", huge pages of 2^{} bytes", huge_shift(flags));
        rest &= !HUGE;
    }
    if rest != 0 {
        words += &format!(", flags {rest:#x}");
    }
    for advice in (0..u64::BITS).filter(|number| advice & bit(*number) != 0) {
        words += &format!(", advice {advice}");
    }
    words
}
