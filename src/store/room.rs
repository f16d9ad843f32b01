//! Transparent huge pages of a stored plan: how many are free is how many are free now.
//!
//! A plan asks for as many as were free when it was made. Where there are fewer when it is played, the kernel would move
//! what is in the way, for as long as that takes. So huge pages stay forbidden to a task for longer, as far as its tape
//! asks for more than there are: the record that allows them comes behind the reads that would bring them, which then bring small ones. All reads of a
//! task that follow it are taken together. Memory that pages are moved from gets small ones then, by the opposite advice. The tapes
//! are certified after that, as any.
//!
//! Worked example: `prctl(PR_SET_THP_DISABLE, 0)`, `openat`, a `pread64` of 4 MiB, `close`: with room for 2 MiB the first comes behind the
//! third.
//!
//! # Sources
//! PR_SET_THP_DISABLE(2const); mm/huge_memory.c (`vma_thp_gfp_mask`).

use crate::tape::Tapes;
use crate::tape::abi::{Check, Record, Verb};

/// What a record has to do with it.
enum What {
    /// Huge pages come from here on.
    Allows,
    /// So many bytes are read from a pages image.
    Reads(u64),
    /// It opens or closes the image.
    Beside,
    /// So many bytes among the carriers get huge pages, to be moved from there.
    Stages(u64),
    Else,
}

fn what(tapes: &Tapes, record: &Record) -> What {
    if record.verb() != Some(Verb::Syscall) {
        return What::Else;
    }
    match libc::c_long::from(record.nr) {
        libc::SYS_prctl if record.args[..2] == [libc::PR_SET_THP_DISABLE as u64, 0] => What::Allows,
        libc::SYS_pread64 | libc::SYS_preadv if record.check() == Some(Check::Equal) => {
            What::Reads(record.expect)
        }
        libc::SYS_openat | libc::SYS_close => What::Beside,
        libc::SYS_madvise
            if record.args[2] == libc::MADV_HUGEPAGE as u64
                && (tapes.base..tapes.base.saturating_add(tapes.window_len)).contains(&record.args[0]) =>
        {
            What::Stages(record.args[1])
        }
        _ => What::Else,
    }
}

/// Lets no more huge pages be asked for than there is room for, in bytes.
pub(crate) fn fit(tapes: &mut Tapes, mut room: u64) {
    let (mut late, mut small) = (Vec::new(), Vec::new());
    for task in &tapes.tasks {
        let mut allowed: Option<Allowed> = None;
        for (address, record) in tapes.records(task) {
            match (what(tapes, &record), &mut allowed) {
                (What::Allows, _) => {
                    late.extend(allowed.take().filter(|it| it.is_too_much(&mut room)));
                    allowed = Some(Allowed { records: vec![(address, record)], reads: 1, bytes: 0 });
                }
                (What::Reads(bytes), Some(it)) => {
                    it.records.push((address, record));
                    it.reads = it.records.len();
                    it.bytes = it.bytes.saturating_add(bytes);
                }
                (What::Beside, Some(it)) => it.records.push((address, record)),
                (What::Stages(bytes), it) => {
                    late.extend(it.take().filter(|it| it.is_too_much(&mut room)));
                    match room.checked_sub(bytes) {
                        Some(left) => room = left,
                        None => small.push((address, record)),
                    }
                }
                (What::Else, it) => late.extend(it.take().filter(|it| it.is_too_much(&mut room))),
                (What::Reads(_) | What::Beside, None) => {}
            }
        }
        late.extend(allowed.filter(|it| it.is_too_much(&mut room)));
    }
    for (address, mut record) in small {
        record.args[2] = libc::MADV_NOHUGEPAGE as u64;
        tapes.set_record(address, record);
    }
    for Allowed { mut records, reads, .. } in late {
        let addresses: Vec<u64> = records.iter().map(|(address, _)| *address).collect();
        records[..reads].rotate_left(1);
        for (address, (_, record)) in addresses.into_iter().zip(records) {
            tapes.set_record(address, record);
        }
    }
}

/// A record that allows huge pages, and those behind it that bring them.
struct Allowed {
    /// With their addresses.
    records: Vec<(u64, Record)>,
    /// How many of them there are up to the last that reads.
    reads: usize,
    bytes: u64,
}

impl Allowed {
    /// Takes what it asks for, if there is as much.
    fn is_too_much(&self, room: &mut u64) -> bool {
        match room.checked_sub(self.bytes) {
            Some(left) => *room = left,
            None => return true,
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::assemble::{Assembler, Tape};

    const MIB: u64 = 1 << 20;

    /// Two tapes: reads of 1 MiB before huge pages are allowed, then 4 MiB by two reads; and 2 MiB.
    fn tapes() -> Tapes {
        // The root is lowered last.
        let mut asm = Assembler::new(0x1_0000_0000, 0, 0, &[0; 64]);
        let disable = |tape: &mut Tape, is: u64| {
            tape.call(libc::SYS_prctl, &[libc::PR_SET_THP_DISABLE as u64, is, 0, 0, 0], 0)
        };
        let read =
            |tape: &mut Tape, bytes: u64| tape.call(libc::SYS_pread64, &[3, 0x20_0000, bytes, 0], bytes);
        let mut first = Tape::default();
        disable(&mut first, 1);
        read(&mut first, MIB);
        disable(&mut first, 0);
        first.call(libc::SYS_openat, &[0, 0, 0, 0], 4);
        read(&mut first, 3 * MIB);
        read(&mut first, MIB);
        first.call(libc::SYS_close, &[4], 0);
        first.call(libc::SYS_mprotect, &[0x20_0000, MIB, 1], 0);
        read(&mut first, 9 * MIB);
        let mut second = Tape::default();
        disable(&mut second, 0);
        read(&mut second, 2 * MIB);
        for (pid, tape) in [(8, second), (7, first)] {
            asm.tape(pid, true, 0, &tape.records);
        }
        asm.finish(1 << 20, 1 << 20).expect("it fits")
    }

    /// Every tape as a word: `A` allows, `R` reads.
    fn shown(tapes: &Tapes) -> Vec<String> {
        let letter = |record: &Record| match what(tapes, record) {
            What::Allows => 'A',
            What::Reads(_) => 'R',
            What::Beside => 'o',
            What::Stages(_) => 'S',
            What::Else => '.',
        };
        tapes
            .tasks
            .iter()
            .map(|task| tapes.records(task).map(|(_, record)| letter(&record)).collect())
            .collect()
    }

    #[test]
    fn no_more_is_asked_for_than_is_free() {
        let check = |room: u64, expected: [&str; 2]| {
            let mut all = tapes();
            fit(&mut all, room);
            assert_eq!(shown(&all), expected, "{room}");
            // Nothing else is changed, and nothing is lost.
            let sorted = |tapes: &Tapes| {
                let mut all: Vec<[u8; 64]> = tapes
                    .tasks
                    .iter()
                    .flat_map(|task| tapes.records(task).map(|(_, record)| record.to_bytes()))
                    .collect();
                all.sort_unstable();
                all
            };
            assert_eq!(sorted(&all), sorted(&tapes()));
        };
        check(u64::MAX, [".RAoRRo.R", "AR"]);
        check(6 * MIB, [".RAoRRo.R", "AR"]);
        // The second has what is left.
        check(5 * MIB, [".RAoRRo.R", "RA"]);
        check(3 * MIB, [".RoRRAo.R", "AR"]);
        check(0, [".RoRRAo.R", "RA"]);
    }

    #[test]
    fn what_is_moved_has_small_pages_where_huge_ones_are_few() {
        let advised = |room: u64| {
            let mut asm = Assembler::new(0x1_0000_0000, 0, 0, &[0; 64]);
            let mut tape = Tape::default();
            for (at, mib) in [(0x1_4000_0000, 4), (0x1_4000_0000, 2), (0x7000_0000, 9)] {
                let args = [at, mib * MIB, libc::MADV_HUGEPAGE as u64];
                tape.call(libc::SYS_madvise, &args, 0);
            }
            asm.tape(7, true, 0, &tape.records);
            let mut tapes = asm.finish(1 << 20, 1 << 30).expect("it fits");
            tapes.window_len = 2 << 30;
            fit(&mut tapes, room);
            let advice = |record: &Record| record.args[2] as i32;
            tapes.records(&tapes.tasks[0]).map(|(_, record)| advice(&record)).collect::<Vec<_>>()
        };
        let [huge, small] = [libc::MADV_HUGEPAGE, libc::MADV_NOHUGEPAGE];
        // The last is no memory among the carriers.
        assert_eq!(advised(6 * MIB), [huge, huge, huge]);
        assert_eq!(advised(5 * MIB), [huge, small, huge]);
        assert_eq!(advised(3 * MIB), [small, huge, huge]);
    }
}
