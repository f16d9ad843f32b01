//! Plans that move blocks of pages into place, and are wrong in one record.

use regrow_graph::verify::Lifted;

use super::space::{PAGE, add, is_in_vain, is_of_memory, try_all, vma};
use super::*;
use crate::host::Transparent;
use crate::image::alike::{Alike, Pair, Run};
use crate::image::{Extent, PagesImage};

/// Where the memory is that the child inherits: above all that the other tests add.
const MEMORY: u64 = 0x8000_0000;
/// Pages of a block.
const BLOCK: u64 = 512;
const BLOCKS: u64 = 6;

/// Where a page was never written to.
const HOLE: u64 = 2 * BLOCK + 5;

/// The pair, of which the child has all the parent's memory unchanged but for a page.
fn real_blocks(data_limit: u64) -> Real {
    let mut model = model();
    let image = PagesImage::own(model.tasks[0].alive().expect("it lives").mm.pages.pages_id);
    let own = PagesImage::own(model.tasks[1].alive().expect("it lives").mm.pages.pages_id);
    let pages = BLOCKS * BLOCK;
    let part = |from: u64, to: u64, image| Extent {
        start: MEMORY + from * PAGE,
        len_pages: to - from,
        image,
        offset_bytes: (1 << 30) + from * PAGE,
        entry: 0,
    };
    let of_root = vec![part(0, HOLE, image), part(HOLE + 1, pages, image)];
    // What is one stretch of one file is the same, without a look at it.
    let of_child =
        vec![part(0, 700, image), part(700, 701, own), part(701, HOLE, image), part(HOLE + 1, pages, image)];
    for (task, extents) in model.tasks.iter_mut().zip([of_root, of_child]) {
        let alive = task.alive_mut().expect("it lives");
        add(alive, vma(MEMORY, pages, VmaKind::AnonPrivate));
        alive.mm.pages.extents.extend(extents);
        alive.mm.pages.extents.sort_by_key(|extent| extent.start);
    }
    let mut facts = facts(&model);
    (facts.kernel.moves_pages, facts.kernel.transparent) = (true, Transparent::Madvise);
    facts.huge_page_ns = Some(1000);
    facts.own.rlimits[libc::RLIMIT_DATA as usize] = Some(RLimit { cur: data_limit, max: data_limit });
    let run = |from: u64, to: u64| {
        let (at, offset) = (MEMORY + from * PAGE, part(from, to, image).offset_bytes);
        Run { at, len: (to - from) * PAGE, images: (image, image), of_child: offset, of_parent: offset }
    };
    let alike =
        Alike::of_pair(Pair { child: 1, parent: 0 }, vec![run(0, 700), run(701, HOLE), run(HOLE + 1, pages)]);
    plan_alike(model, &facts, alike).0
}

/// Whether it shows in nothing but the time it takes, or is put right by what follows.
fn is_no_matter(what: &str, effect: &Effect, further: &[Lifted]) -> bool {
    let within = |at: u64| (MEMORY..MEMORY + BLOCKS * BLOCK * PAGE).contains(&at);
    match effect {
        // Whether what blocks are read into has huge pages.
        Effect::Memory(MemoryEffect::Advise { advice, .. }) if *advice as i32 == libc::MADV_HUGEPAGE => true,
        // A page of each is protected, and then as it was, so that their blocks are parted; all else can be written, too.
        Effect::Memory(MemoryEffect::Protect { at, prot: 1, .. }) if within(*at) => what != "a page longer",
        Effect::Memory(MemoryEffect::Protect { at, prot: 3, .. }) if within(*at) => what == "a page longer",
        // What is read in place of the page that is missing, and dropped.
        Effect::Object { change: Change::Read { into, .. }, .. }
            if matches!(into[..], [(_, PAGE)])
                && ["another part of the image", "at the position"].contains(&what) =>
        {
            let dropped = MEMORY + HOLE * PAGE;
            further.iter().any(|other| {
                let Effect::Memory(MemoryEffect::Advise { at, len, advice }) = other.effect else {
                    return false;
                };
                (at, len, advice as i32) == (dropped, PAGE, libc::MADV_DONTNEED)
            })
        }
        _ => is_in_vain(what, effect, further),
    }
}

#[test]
fn every_record_of_moving_is_needed() {
    let Real { lifted, expected, .. } = real_blocks(u64::MAX);
    let tried = try_all(lifted, &expected, |task, effect| task == 0 && is_of_memory(effect));
    let matters =
        |(_, what, effect, further): &&(_, &str, Effect, Vec<Lifted>)| !is_no_matter(what, effect, further);
    let left: Vec<&String> = tried.left.iter().filter(matters).map(|(shown, ..)| shown).collect();
    assert_eq!(left, Vec::<&String>::new());
    assert!(tried.names.contains("ioctl(UFFDIO_MOVE)") && tried.names.contains("mprotect"));
    assert!(tried.count > 100, "{}", tried.count);
}

/// What is staged counts as data, of which there may be no more than a limit says.
#[test]
fn nothing_is_moved_where_data_is_limited() {
    for (limit, expected) in [(u64::MAX, true), (u64::MAX - 1, false), (50_000, false)] {
        let effects = real_blocks(limit).lifted.tasks.into_iter().flat_map(|task| task.effects);
        let moves = |effect: &Effect| {
            let Effect::Object { change: Change::Userfault(change), .. } = effect else { return false };
            matches!(change, UserfaultChange::Move { .. })
        };
        assert_eq!(effects.into_iter().any(|lifted| moves(&lifted.effect)), expected, "{limit}");
    }
}
