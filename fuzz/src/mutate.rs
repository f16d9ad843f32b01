//! Changes of inputs that leave most of their form: images stay images, archives archives, tapes tapes.
//!
//! Each function changes its input a few times, by dice; the targets call them as libFuzzer's custom mutators, in turns with
//! libFuzzer's own changes of plain bytes, and as its way to cross two inputs.

use std::collections::BTreeSet;

use regrow::store::StoredPlan;
use regrow::store::format::{self, Section, Sections};

use crate::archive::{self, File};
use crate::tape::{self, Input};
use crate::wire::{self, Dice};

/// Heads all images but the inventory in version 1.1.
const COMMON_MAGIC: [u8; 4] = 0x5456_4319u32.to_le_bytes();
/// Raw bytes behind an entry are made to fit its length up to this.
const RAW_MAX: u64 = 1 << 16;

/// An image as entries.
struct Framed {
    head: Vec<u8>,
    entries: Vec<Entry>,
    /// The field with the length of the raw bytes behind an entry, where there are such.
    raw: Option<u32>,
}

#[derive(Clone)]
struct Entry {
    body: Vec<u8>,
    raw: Vec<u8>,
}

/// The field of an entry that says how many raw bytes follow.
fn raw_field(name: &str) -> Option<u32> {
    match name {
        "pipes-data.img" | "fifo-data.img" | "sk-queues.img" => Some(2),
        _ if name.starts_with("ghost-file-") => Some(1),
        _ => None,
    }
}

fn frame(file: &File) -> Option<Framed> {
    let mut rest = file.bytes.as_slice();
    let head = if rest.starts_with(&COMMON_MAGIC) { 8 } else { 4 };
    let head = rest.split_off(..head)?.to_vec();
    let raw = raw_field(file.place().1);
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest.split_off(..4)?.try_into().ok()?) as usize;
        let body = rest.split_off(..len)?.to_vec();
        let raw = raw.and_then(|field| wire::number(&wire::parse(&body)?, field)).unwrap_or(0);
        let raw = rest.split_off(..usize::try_from(raw).ok()?)?.to_vec();
        entries.push(Entry { body, raw });
    }
    Some(Framed { head, entries, raw })
}

fn unframe(framed: &Framed) -> Vec<u8> {
    let mut bytes = framed.head.clone();
    for Entry { body, raw } in &framed.entries {
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(raw);
    }
    bytes
}

/// All numbers in the images.
fn pool(files: &[File]) -> Vec<u64> {
    let mut pool = Vec::new();
    for file in files {
        for entry in frame(file).iter().flat_map(|framed| &framed.entries) {
            if let Some(message) = wire::parse(&entry.body) {
                wire::numbers(&message, &mut pool);
            }
        }
    }
    pool
}

/// Changes an image once.
pub fn change_image(file: &mut File, dice: &mut Dice, pool: &[u64]) {
    let framed = frame(file).filter(|framed| !framed.entries.is_empty() && !dice.one_in(30));
    let Some(mut framed) = framed else {
        if file.place().1.starts_with("pages-") && dice.one_in(2) {
            file.zeros = dice.below(16) as u16;
        } else {
            wire::change_bytes(&mut file.bytes, dice);
        }
        return;
    };
    let at = dice.below(framed.entries.len());
    match dice.below(16) {
        0 => {
            framed.entries.remove(at);
        }
        1 => {
            let copy = framed.entries[at].clone();
            framed.entries.insert(dice.below(framed.entries.len() + 1), copy);
        }
        2 => {
            let other = dice.below(framed.entries.len());
            framed.entries.swap(at, other);
        }
        3 => {
            // Two halves of two entries.
            let other = dice.below(framed.entries.len());
            let bodies = (wire::parse(&framed.entries[at].body), wire::parse(&framed.entries[other].body));
            if let (Some(mut first), Some(second)) = bodies {
                first.truncate(dice.below(first.len() + 1));
                first.extend(second.into_iter().skip(first.len()));
                framed.entries[at].body = wire::write(&first);
            }
        }
        _ => change_entry(&mut framed, at, dice, pool),
    }
    file.bytes = unframe(&framed);
}

fn change_entry(framed: &mut Framed, at: usize, dice: &mut Dice, pool: &[u64]) {
    let raw_field = framed.raw;
    let entry = &mut framed.entries[at];
    let Some(mut message) = wire::parse(&entry.body) else {
        wire::change_bytes(&mut entry.body, dice);
        return;
    };
    wire::change(&mut message, dice, pool);
    entry.body = wire::write(&message);
    // Mostly the next entry stays where it is.
    let raw = raw_field.and_then(|field| wire::number(&message, field));
    if let Some(raw) = raw.filter(|raw| *raw <= RAW_MAX && !dice.one_in(4)) {
        entry.raw.resize(raw as usize, b'r');
    }
}

/// Changes the files of an archive once.
pub fn change_directory(files: &mut Vec<File>, dice: &mut Dice) {
    let pool = pool(files);
    let at = dice.below(files.len());
    let Some(file) = files.get_mut(at) else { return };
    match dice.below(40) {
        0 => {
            files.remove(at);
        }
        1 => {
            let renamed = renamed(&file.name, dice, &pool);
            let copy = File { name: renamed, ..file.clone() };
            if !files.iter().any(|file| file.name == copy.name) {
                files.push(copy);
            }
        }
        2 => {
            let renamed = renamed(&file.name, dice, &pool);
            if !files.iter().any(|file| file.name == renamed) {
                files[at].name = renamed;
            }
        }
        3..6 => same_number(files, dice, &pool),
        6 => {
            // To the directory of another dump.
            let (number, base) = file.place();
            let other = dice.below(usize::from(archive::BEFORE) + 1) as u8;
            let moved = if other == 0 {
                base.to_owned()
            } else {
                format!("{}/{base}", archive::directory_name(other))
            };
            if other != number && !files.iter().any(|file| file.name == moved) {
                files[at].name = moved;
            }
        }
        _ if file.leads_to().is_some() => {
            file.bytes = vec![dice.below(usize::from(archive::BEFORE) + 2) as u8]
        }
        _ => change_image(file, dice, &pool),
    }
    if !dice.one_in(8) {
        fit_pages(files);
    }
}

/// The name with another number in it.
fn renamed(name: &str, dice: &mut Dice, pool: &[u64]) -> String {
    if let Some((before, base)) = name.rsplit_once('/') {
        return format!("{before}/{}", renamed(base, dice, pool));
    }
    let digits = |c: char| c.is_ascii_digit();
    match (name.find(digits), name.rfind(digits)) {
        (Some(from), Some(to)) => {
            let old = name[from..=to].parse().unwrap_or(0);
            format!("{}{}{}", &name[..from], dice.number(old, pool), &name[to + 1..])
        }
        _ => name.to_owned(),
    }
}

/// Gives all that has one number another: in all images, and in their names.
fn same_number(files: &mut [File], dice: &mut Dice, pool: &[u64]) {
    let Some(old) = dice.of(pool).copied().filter(|old| *old > 1) else { return };
    let new = dice.number(old, pool);
    fn replace(message: &mut wire::Message, old: u64, new: u64) {
        for (_, value) in message {
            match value {
                wire::Value::Number(value) if *value == old => *value = new,
                wire::Value::Message(inner) => replace(inner, old, new),
                wire::Value::Number(_)
                | wire::Value::Eight(_)
                | wire::Value::Four(_)
                | wire::Value::Bytes(_) => {}
            }
        }
    }
    let names: BTreeSet<String> = files.iter().map(|file| file.name.clone()).collect();
    for file in files {
        if let Some(mut framed) = frame(file) {
            for entry in &mut framed.entries {
                if let Some(mut message) = wire::parse(&entry.body) {
                    replace(&mut message, old, new);
                    entry.body = wire::write(&message);
                }
            }
            file.bytes = unframe(&framed);
        }
        let renamed = file.name.replace(&format!("-{old}.img"), &format!("-{new}.img"));
        if !names.contains(&renamed) {
            file.name = renamed;
        }
    }
}

/// Makes the pages images as long as the pagemaps say, as far as that is not much.
fn fit_pages(files: &mut [File]) {
    let mut wanted: Vec<(String, u64)> = Vec::new();
    for file in files.iter() {
        let Some((before, _)) =
            file.name.split_once("pagemap-").filter(|(before, _)| before.is_empty() || before.ends_with('/'))
        else {
            continue;
        };
        let Some(framed) = frame(file) else { continue };
        let messages: Vec<_> = framed.entries.iter().filter_map(|entry| wire::parse(&entry.body)).collect();
        let Some((head, extents)) = messages.split_first() else { continue };
        // What is in a dump before is not in this file: `in_parent`, or PE_PARENT (pagemap.proto).
        let is_here = |extent: &&wire::Message| {
            wire::number(extent, 3).unwrap_or(0) == 0 && wire::number(extent, 4).unwrap_or(0) & 1 == 0
        };
        let pages = extents.iter().filter(is_here).fold(0u64, |sum, extent| {
            let pages = wire::number(extent, 5).or_else(|| wire::number(extent, 2)).unwrap_or(0);
            sum.saturating_add(pages)
        });
        if let Some(id) = wire::number(head, 1) {
            wanted.push((format!("{before}pages-{id}.img"), pages));
        }
    }
    for (name, pages) in wanted {
        if let Some(file) = files.iter_mut().find(|file| file.name == name)
            && let Ok(pages @ 0..17) = u16::try_from(pages)
        {
            let mut whole = file.whole();
            whole.resize(usize::from(pages) * 4096, 0);
            *file = File::new(&name, whole);
        }
    }
}

/// Changes an archive of which only the first file matters.
pub fn single(input: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut files = archive::read(input);
    files.truncate(1);
    let pool = pool(&files);
    if let Some(file) = files.first_mut() {
        for _ in 0..=dice.below(4) {
            change_image(file, dice, &pool);
        }
    }
    archive::write(&files)
}

/// Changes an archive.
pub fn directory(input: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut files = archive::read(input);
    for _ in 0..=dice.below(4) {
        change_directory(&mut files, dice);
    }
    archive::write(&files)
}

/// Takes files of the second archive into the first.
pub fn cross_directories(first: &[u8], second: &[u8], dice: &mut Dice) -> Vec<u8> {
    let (mut files, others) = (archive::read(first), archive::read(second));
    for other in others {
        match files.iter_mut().find(|file| file.name == other.name) {
            Some(file) if dice.one_in(3) => *file = other,
            None if dice.one_in(2) => files.push(other),
            Some(_) | None => {}
        }
    }
    archive::write(&files)
}

/// Changes tapes.
pub fn tapes(input: &[u8], dice: &mut Dice) -> Vec<u8> {
    let Some(mut input) = tape::read(input) else { return input.to_vec() };
    for _ in 0..=dice.below(4) {
        change_tapes(&mut input, dice);
    }
    tape::write(&input)
}

fn change_tapes(input: &mut Input, dice: &mut Dice) {
    const RECORD: usize = 64;
    let Input { tapes, .. } = input;
    let Some(task) = dice.of(&tapes.tasks).copied() else { return };
    let records = task.records as usize;
    let start = usize::try_from(task.tape.wrapping_sub(tapes.base).wrapping_sub(tapes.rw.len() as u64));
    let range = |index: usize| {
        let from = start.ok()?.checked_add(index.checked_mul(RECORD)?)?;
        Some(from..from.checked_add(RECORD)?)
    };
    let (one, two) = (dice.below(records), dice.below(records));
    let both = range(one).zip(range(two));
    let both = both.filter(|(one, two)| one.end.max(two.end) <= tapes.ro.len());
    match (dice.below(16), both.clone()) {
        (0, _) => change_head(input, dice),
        (1, _) => {
            let part = if dice.one_in(4) { &mut tapes.rw } else { &mut tapes.ro };
            let at = dice.below(part.len());
            if let Some(byte) = part.get_mut(at) {
                *byte = dice.roll() as u8;
            }
        }
        (2, Some((one, two))) => {
            let saved = tapes.ro[one.clone()].to_vec();
            tapes.ro.copy_within(two.clone(), one.start);
            tapes.ro[two].copy_from_slice(&saved);
        }
        (3, Some((one, two))) => tapes.ro.copy_within(two, one.start),
        (4, Some((one, two))) => {
            // One away, or one more, and what is between moves.
            let (from, to) = (one.start.min(two.start), one.start.max(two.start));
            if dice.one_in(2) {
                tapes.ro.copy_within(from + RECORD..to + RECORD, from);
            } else {
                tapes.ro.copy_within(from..to, from + RECORD);
            }
        }
        (5, _) => {
            // One task's record in another's tape.
            if let (Some(other), Some((to, _))) = (dice.of(&tapes.tasks).copied(), both) {
                let at = other.tape.wrapping_add((dice.below(other.records as usize) * RECORD) as u64);
                if let Some(bytes) = tapes.bytes(at, RECORD as u64).map(<[u8]>::to_vec) {
                    tapes.ro[to].copy_from_slice(&bytes);
                }
            }
        }
        (_, Some((one, two))) => {
            // A word of a record, by words of another.
            let words = |range: std::ops::Range<usize>| {
                let (words, _) = tapes.ro[range].as_chunks::<8>();
                words.iter().map(|word| u64::from_le_bytes(*word)).collect::<Vec<_>>()
            };
            let (own, pool) = (words(one.clone()), [words(one.clone()), words(two)].concat());
            let word = dice.below(8);
            let at = one.start + word * 8;
            if word == 0 {
                let byte = at + dice.below(4);
                tapes.ro[byte] = dice.number(tapes.ro[byte].into(), &[0, 1, 2, 3, 4, 5]) as u8;
            } else {
                let new = dice.number(own[word], &pool);
                tapes.ro[at..at + 8].copy_from_slice(&new.to_le_bytes());
            }
        }
        (_, None) => change_head(input, dice),
    }
}

fn change_head(input: &mut Input, dice: &mut Dice) {
    let tapes = &mut input.tapes;
    let mut pool = vec![tapes.base, tapes.window_len, tapes.code, tapes.sigchld_set, tapes.no_time];
    pool.extend(
        tapes
            .tasks
            .iter()
            .flat_map(|task| [task.tape, task.clone_args, task.pid.into(), task.records.into()]),
    );
    pool.extend(tapes.undo.iter().flat_map(|undo| [undo.intent, undo.made, undo.gone]));
    let at = dice.below(tapes.tasks.len());
    let undo = dice.below(tapes.undo.len());
    match dice.below(14) {
        0 => tapes.base = dice.number(tapes.base, &pool),
        1 => tapes.window_len = dice.number(tapes.window_len, &pool),
        2 => tapes.code = dice.number(tapes.code, &pool),
        3 => tapes.sigchld_set = dice.number(tapes.sigchld_set, &pool),
        4 => tapes.no_time = dice.number(tapes.no_time, &pool),
        5 => tapes.clocks_ns = (!dice.one_in(3)).then(|| [dice.number(0, &pool), dice.number(0, &pool)]),
        6 => {
            tapes.suspended.insert(dice.number(0, &pool) as u32);
        }
        7 => {
            let len = dice.below(tapes.rw.len() + 8192);
            tapes.rw.resize(len, 0);
        }
        8 if !tapes.tasks.is_empty() => {
            let copy = tapes.tasks[at];
            tapes.tasks.push(copy);
        }
        9 if !tapes.tasks.is_empty() => {
            tapes.tasks.remove(at);
        }
        10 | 11 => {
            if let Some(task) = tapes.tasks.get_mut(at) {
                match dice.below(5) {
                    0 => task.pid = dice.number(task.pid.into(), &pool) as u32,
                    1 => task.lives = !task.lives,
                    2 => task.tape = dice.number(task.tape, &pool),
                    3 => task.records = dice.number(task.records.into(), &pool) as u32,
                    _ => task.clone_args = dice.number(task.clone_args, &pool),
                }
            }
        }
        12 => {
            if let Some(undo) = tapes.undo.get_mut(undo) {
                match dice.below(4) {
                    0 => undo.intent = dice.number(undo.intent, &pool),
                    1 => undo.made = dice.number(undo.made, &pool),
                    2 => undo.gone = dice.number(undo.gone, &pool),
                    _ => wire::change_bytes(&mut undo.path, dice),
                }
            }
        }
        _ => input.seed = dice.roll() as u8,
    }
}

/// Changes a stored plan: its tapes, or the bytes of a section, under a checksum that fits.
pub fn plan(input: &[u8], dice: &mut Dice) -> Vec<u8> {
    if dice.one_in(2)
        && let Ok(mut plan) = StoredPlan::from_bytes(input)
    {
        let mut tapes = Input { seed: 0, tapes: plan.tapes };
        for _ in 0..=dice.below(4) {
            change_tapes(&mut tapes, dice);
        }
        plan.tapes = tapes.tapes;
        return plan.to_bytes().unwrap_or_default();
    }
    let Ok(mut sections) = Sections::of(input, input.len() as u64) else { return input.to_vec() };
    let mut parts: [Vec<u8>; Section::ALL.len()] = Default::default();
    for part in &mut parts {
        let Ok((_, bytes)) = sections.read() else { return input.to_vec() };
        *part = bytes;
    }
    // The two parts of the region are changed as tapes.
    let changed = [0, 1, 2, 3, 3, 3, 4, 5, 5, 8];
    let at = dice.of(&changed).copied().unwrap_or(3);
    for _ in 0..=dice.below(3) {
        change_compact(&mut parts[at], dice);
    }
    let parts: [&[u8]; Section::ALL.len()] = std::array::from_fn(|at| parts[at].as_slice());
    [format::head(&parts).as_slice(), &parts.concat()].concat()
}

/// Changes bytes that are numbers of various lengths, lengths and kinds, one behind the other.
fn change_compact(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let at = dice.below(bytes.len());
    match (dice.below(8), bytes.get(at).copied()) {
        (0, _) => wire::change_bytes(bytes, dice),
        (1, Some(_)) => {
            // A number as long as there can be.
            let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
            let len = 1 + dice.below(huge.len());
            bytes.splice(at..at + 1, huge[huge.len() - len..].iter().copied());
        }
        (2, Some(_)) => {
            let from = dice.below(bytes.len());
            let piece = bytes[from..].iter().copied().take(1 + dice.below(64)).collect::<Vec<_>>();
            bytes.splice(at..at, piece);
        }
        (3, Some(_)) => {
            let end = (at + 1 + dice.below(64)).min(bytes.len());
            bytes.drain(at..end);
        }
        (4, Some(_)) if dice.one_in(4) => {
            // A long list of whatever is short.
            let count = 1 + dice.below(16_000);
            let length = [count as u8 | 0x80, (count >> 7) as u8 & 0x7f];
            bytes.splice(at..at + 1, length.into_iter().chain(std::iter::repeat_n(0, count)));
        }
        (_, Some(byte)) => bytes[at] = dice.number(byte.into(), &[0, 1, 2, 3, 4]) as u8,
        (_, None) => bytes.push(dice.roll() as u8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_fit_their_pagemaps() {
        let entry = |message: &wire::Message| {
            let body = wire::write(message);
            [&(body.len() as u32).to_le_bytes()[..], &body].concat()
        };
        let head = entry(&vec![(1, wire::Value::Number(3))]);
        let extent = entry(&vec![(1, wire::Value::Number(0x1000)), (2, wire::Value::Number(4))]);
        let map = [&COMMON_MAGIC[..], b"pmap", &head, &extent].concat();
        let mut pages = vec![0; 4096];
        pages[5] = 5;
        let mut files = [File::new("pagemap-7.img", map), File::new("pages-3.img", pages.clone())];
        fit_pages(&mut files);
        let mut whole = pages.clone();
        whole.resize(4 * 4096, 0);
        assert_eq!(files[1].whole(), whole);

        // One page here, four in the dump before.
        let number = |field, number| (field, wire::Value::Number(number));
        let here = entry(&vec![number(1, 0x1000), number(5, 1), number(4, 4)]);
        let there = entry(&vec![number(1, 0x2000), number(5, 4), number(4, 1)]);
        let map = [&COMMON_MAGIC[..], b"pmap", &head, &here, &there].concat();
        let mut files = [File::new("before-1/pagemap-7.img", map), File::new("before-1/pages-3.img", pages)];
        fit_pages(&mut files);
        assert_eq!(files[1].len(), 4096);
    }
}
