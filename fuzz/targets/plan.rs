//! A stored plan: its file, its sections with checksums that fit, what they hold, and its certification from what it says
//! itself.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use regrow::store::StoredPlan;
use regrow_fuzz::limit::{Counting, within};
use regrow_fuzz::wire::Dice;
use regrow_fuzz::{host, mutate, seeds};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn prepare() {
    host::begin();
    seeds::write_if_asked(|| seeds::of_plans(&seeds::planned(&seeds::directories())));
}

fuzz_target!(init: prepare(), |input: &[u8]| {
    within(input.len(), || match StoredPlan::from_bytes(input) {
        Ok(plan) => {
            drop(plan.certify());
            drop(plan.purposes.all());
            drop(plan.host.relied.questions(&plan.tapes));
        }
        Err(error) => drop(error.to_string()),
    });
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut dice = Dice(seed.into());
    if dice.one_in(50) {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    }
    let changed = mutate::plan(&data[..size], &mut dice);
    let len = changed.len().min(max_size);
    data[..len].copy_from_slice(&changed[..len]);
    len
});
