//! One image, in place of the same one of a sound directory: its reader, and all that looks at what was read.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use regrow::{image, report};
use regrow_fuzz::archive::{self, File};
use regrow_fuzz::host::{self, must};
use regrow_fuzz::limit::{Counting, within};
use regrow_fuzz::wire::Dice;
use regrow_fuzz::{mutate, seeds};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static GROUND: OnceLock<(PathBuf, Vec<File>)> = OnceLock::new();

fn prepare() {
    host::begin();
    let seeds = seeds::directories();
    seeds::write_if_asked(|| seeds::of_images(&seeds));
    let dir = must(host::directory("image"), "a directory");
    let files = seeds.into_iter().find(|(name, _)| name == "everything").map(|(_, files)| files);
    let files = must(files.ok_or("none"), "the sound directory");
    must(host::place(&dir, &files), "the sound directory");
    let _ = GROUND.set((dir, files));
}

fuzz_target!(init: prepare(), |input: &[u8]| {
    let Some((dir, sound)) = GROUND.get() else { return };
    let own = |file: &File| file.place().0 == 0 && file.leads_to().is_none();
    let Some(file) = archive::read(input).into_iter().find(own) else { return };
    let before = sound.iter().find(|other| other.name == file.name);
    must(host::place_one(dir, &file), "the image");
    let bytes = file.len() + sound.iter().map(File::len).sum::<usize>() - before.map_or(0, File::len);
    within(bytes, || match image::read_model(dir) {
        Ok(model) => {
            let inspection = report::inspect::inspect(&model, Some(bytes as u64), None);
            drop(report::inspect::text(&inspection, true));
            drop(serde_json::to_string(&inspection));
        }
        Err(errors) => drop(errors.to_string()),
    });
    match before {
        Some(before) => must(host::place_one(dir, before), "the sound image"),
        None => must(std::fs::remove_file(dir.join(&file.name)), "the image"),
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut dice = Dice(seed.into());
    if dice.one_in(8) {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    }
    let changed = mutate::single(&data[..size], &mut dice);
    let len = changed.len().min(max_size);
    data[..len].copy_from_slice(&changed[..len]);
    len
});
