//! Any bytes as tapes: lifted, checked against the images of a seed, and printed.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use regrow::certify;
use regrow::tape::disasm;
use regrow_fuzz::limit::{Counting, within};
use regrow_fuzz::seeds::{self, Planned};
use regrow_fuzz::wire::Dice;
use regrow_fuzz::{host, mutate, tape};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static PLANNED: OnceLock<Vec<Planned>> = OnceLock::new();

fn prepare() {
    host::begin();
    let planned = seeds::planned(&seeds::directories());
    seeds::write_if_asked(|| seeds::of_tapes(&planned));
    let _ = PLANNED.set(planned);
}

fuzz_target!(init: prepare(), |input: &[u8]| {
    let Some(planned) = PLANNED.get() else { return };
    let Some(tape::Input { seed, tapes }) = tape::read(input) else { return };
    let Some(Planned { bytes, prepared }) = planned.get(usize::from(seed) % planned.len()) else { return };
    within(bytes.saturating_add(input.len()), || {
        drop(certify::check(&prepared.demands, &tapes, Some(&prepared.threads)));
        for task in &tapes.tasks {
            for (_, record) in tapes.records(task) {
                drop(disasm::line(&tapes, &record));
            }
        }
    });
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut dice = Dice(seed.into());
    if dice.one_in(30) {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    }
    let changed = mutate::tapes(&data[..size], &mut dice);
    let len = changed.len().min(max_size);
    data[..len].copy_from_slice(&changed[..len]);
    len
});
