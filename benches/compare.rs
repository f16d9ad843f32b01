//! How fast pages are compared: `cargo bench --bench compare [-- MIB]`.
//!
//! Two tasks with so many MiB each (1024 if nobody says), in a directory of memory, of whose pages every eighth is not
//! alike. Prints GiB of each task a second, as the planner compares them, and what else was tried: pieces of the mapped
//! images, brought in by `MADV_POPULATE_READ` (madvise(2)) and compared where they are; and how fast `memcpy` copies
//! them on as many cores. The least of several rounds.
#![allow(unsafe_code, reason = "files are mapped that nobody changes")]
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, reason = "the table is the result")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use memmap2::{Advice, Mmap};
use rayon::prelude::*;
use regrow::host;
use regrow::image::alike::{Alike, Pair};
use regrow::image::{Extent, Model, PagesImage, TaskState};
use regrow::synth::model::{Ground, synthesise};
use regrow::synth::{Forest, Task};

const PAGE: usize = 4096;
const PIECE: usize = 1 << 20;
const ROUNDS: usize = 7;

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("pages are compared by `cargo bench --bench compare`");
        return;
    }
    let mib = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1024usize);
    let memory = Path::new("/dev/shm");
    let dir = tempfile::tempdir_in(if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() });
    let dir = dir.expect("a directory");
    let model = model(dir.path(), mib);
    let pair = [Pair { child: 1, parent: 0 }];
    let wanted = (mib << 20) / 8 * 7;
    let found = |alike: &Alike| alike.of(1, 0).unwrap().iter().map(|run| run.len as usize).sum::<usize>();
    let planner = least(|| assert_eq!(found(&Alike::find(&model, &pair)), wanted));
    let images = [1, 2].map(|id| map(&dir.path().join(format!("pages-{id}.img"))));
    let mapped = least(|| {
        // Mapped anew each time: pages that are there already cost nothing.
        let images = [1, 2].map(|id| map(&dir.path().join(format!("pages-{id}.img"))));
        let alike: usize = (0..images[0].len() / PIECE)
            .into_par_iter()
            .map(|piece| {
                let [ours, theirs] = [0, 1].map(|which: usize| {
                    let image = &images[which];
                    image
                        .advise_range(Advice::PopulateRead, piece * PIECE, PIECE)
                        .expect("MADV_POPULATE_READ");
                    &image[piece * PIECE..][..PIECE]
                });
                let pages = ours.chunks(PAGE).zip(theirs.chunks(PAGE));
                pages.filter(|(a, b)| a == b).count() * PAGE
            })
            .sum();
        assert_eq!(alike, wanted);
    });
    let copied = least(|| {
        (0..images[0].len() / PIECE).into_par_iter().for_each_init(
            || vec![0u8; PIECE],
            |buffer, piece| {
                buffer.copy_from_slice(&images[0][piece * PIECE..][..PIECE]);
                std::hint::black_box(buffer);
            },
        );
    });
    println!("| {mib} MiB, {} cores | GiB/s |\n|---|---|", rayon::current_num_threads());
    for (what, time) in
        [("as planned", planner), ("mapped, brought in", mapped), ("one of them copied", copied)]
    {
        println!("| {what} | {:.1} |", mib as f64 / 1024.0 / time.as_secs_f64());
    }
}

/// Two tasks, and their pages.
fn model(dir: &Path, mib: usize) -> Model {
    let task = |pid, parent| Task { pid, parent, pgid: pid, sid: pid, ..Task::default() };
    let forest = Forest { tasks: vec![task(1000, None), task(1001, Some(0))], ..Forest::default() };
    let own = host::gather_own();
    let mut model = synthesise(&forest, &Ground { own: &own, executable: "/bin/true" }).unwrap().model;
    model.dir = dir.to_owned();
    for (id, task) in (1u32..).zip(&mut model.tasks) {
        let path = dir.join(format!("pages-{id}.img"));
        let mut file = File::create(path).expect("an image");
        for mebibyte in 0..mib {
            let mut bytes = vec![0u8; PIECE];
            for (page, bytes) in bytes.chunks_mut(PAGE).enumerate() {
                let number = (mebibyte * PIECE / PAGE + page) as u64;
                for (at, word) in bytes.chunks_mut(8).enumerate() {
                    word.copy_from_slice(&(number << 12 | at as u64).to_le_bytes());
                }
                // Not alike, from the middle on.
                if page % 8 == 7 {
                    bytes[PAGE / 2] = id as u8;
                }
            }
            file.write_all(&bytes).expect("written");
        }
        let len_pages = (mib << 20) as u64 / PAGE as u64;
        let image = PagesImage::own(id);
        let extent = Extent { start: 1 << 40, len_pages, image, offset_bytes: 0, entry: 0 };
        if let TaskState::Alive(alive) = &mut task.state {
            alive.mm.pages.extents = vec![extent];
        }
    }
    model
}

fn map(path: &Path) -> Mmap {
    let file = File::open(path).expect("it was written");
    // SAFETY: nobody changes it any more.
    unsafe { Mmap::map(&file) }.expect("mmap")
}

fn least(mut once: impl FnMut()) -> Duration {
    let time = || {
        let start = Instant::now();
        once();
        start.elapsed()
    };
    std::iter::repeat_with(time).take(ROUNDS).min().unwrap()
}
