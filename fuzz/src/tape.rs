//! Tapes in one input, and back.
//!
//! The runner's code is left out, and put in again where the tapes have it: an input keeps its meaning when the runner
//! changes. Which seed the tapes are held against is the input's first byte. All numbers are little-endian; a list is its
//! length as u16, bytes are theirs as u32.

use std::collections::BTreeSet;

use regrow::runner;
use regrow::tape::{Tapes, TaskTape, Undo, UndoKind};

/// An input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Whose images they are held against.
    pub seed: u8,
    /// The tapes.
    pub tapes: Tapes,
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.0.split_off_first().copied()
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.0.split_off(..2)?.try_into().ok()?))
    }

    fn word(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.0.split_off(..4)?.try_into().ok()?))
    }

    fn long(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.0.split_off(..8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let len = self.word()? as usize;
        self.0.split_off(..len).map(<[u8]>::to_vec)
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut list = Vec::new();
        for _ in 0..self.short()? {
            list.push(item(self)?);
        }
        Some(list)
    }
}

fn undo(reader: &mut Reader<'_>) -> Option<Undo> {
    let kind = match reader.byte()? % 5 {
        0 => UndoKind::File,
        1 => UndoKind::Directory,
        2 => UndoKind::ChangedPlaces,
        3 => UndoKind::Link,
        _ => UndoKind::Socket,
    };
    let [intent, made, gone] = [reader.long()?, reader.long()?, reader.long()?];
    Some(Undo { intent, made, gone, kind, path: reader.bytes()? })
}

fn task(reader: &mut Reader<'_>) -> Option<TaskTape> {
    Some(TaskTape {
        pid: reader.word()?,
        lives: reader.byte()? & 1 == 1,
        tape: reader.long()?,
        records: reader.word()?,
        clone_args: reader.long()?,
    })
}

/// The tapes of an input; `None` if it ends too early.
pub fn read(input: &[u8]) -> Option<Input> {
    let mut reader = Reader(input);
    let seed = reader.byte()?;
    let [base, window_len, code] = [reader.long()?, reader.long()?, reader.long()?];
    let [sigchld_set, no_time] = [reader.long()?, reader.long()?];
    let clocks = [reader.long()?, reader.long()?];
    let tasks = reader.list(task)?;
    let suspended = reader.list(Reader::word)?.into_iter().collect::<BTreeSet<u32>>();
    let undo = reader.list(undo)?;
    let spent = reader.list(Reader::bytes)?;
    let rw = reader.bytes()?;
    let mut ro = reader.bytes()?;
    let at = code.wrapping_sub(base).wrapping_sub(rw.len() as u64);
    let part = usize::try_from(at).ok().and_then(|at| ro.get_mut(at..)?.get_mut(..runner::code().len()));
    if let Some(part) = part {
        part.copy_from_slice(runner::code());
    }
    let clocks_ns = (clocks != [0, 0]).then_some(clocks);
    let tapes = Tapes {
        base,
        window_len,
        rw,
        ro,
        code,
        sigchld_set,
        no_time,
        tasks,
        suspended,
        undo,
        clocks_ns,
        spent,
        // What the launcher makes is no record: the target `plan` has it.
        cgroups: Vec::new(),
        is_traced: false,
    };
    Some(Input { seed, tapes })
}

/// The input with these tapes.
pub fn write(Input { seed, tapes }: &Input) -> Vec<u8> {
    let mut out = vec![*seed];
    let Tapes {
        base,
        window_len,
        rw,
        ro,
        code,
        sigchld_set,
        no_time,
        tasks,
        suspended,
        undo,
        clocks_ns,
        spent,
        cgroups: _,
        is_traced: _,
    } = tapes;
    let [monotonic, boottime] = clocks_ns.unwrap_or_default();
    for long in [*base, *window_len, *code, *sigchld_set, *no_time, monotonic, boottime] {
        out.extend_from_slice(&long.to_le_bytes());
    }
    let bytes = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    out.extend_from_slice(&(tasks.len() as u16).to_le_bytes());
    for TaskTape { pid, lives, tape, records, clone_args } in tasks {
        out.extend_from_slice(&pid.to_le_bytes());
        out.push(u8::from(*lives));
        out.extend_from_slice(&tape.to_le_bytes());
        out.extend_from_slice(&records.to_le_bytes());
        out.extend_from_slice(&clone_args.to_le_bytes());
    }
    out.extend_from_slice(&(suspended.len() as u16).to_le_bytes());
    suspended.iter().for_each(|tid| out.extend_from_slice(&tid.to_le_bytes()));
    out.extend_from_slice(&(undo.len() as u16).to_le_bytes());
    for Undo { intent, made, gone, kind, path } in undo {
        out.push(match kind {
            UndoKind::File => 0,
            UndoKind::Directory => 1,
            UndoKind::ChangedPlaces => 2,
            UndoKind::Link => 3,
            UndoKind::Socket => 4,
        });
        for long in [intent, made, gone] {
            out.extend_from_slice(&long.to_le_bytes());
        }
        bytes(&mut out, path);
    }
    out.extend_from_slice(&(spent.len() as u16).to_le_bytes());
    spent.iter().for_each(|path| bytes(&mut out, path));
    bytes(&mut out, rw);
    // Without the runner: zeros in its place.
    let mut ro = ro.clone();
    let at = code.wrapping_sub(*base).wrapping_sub(rw.len() as u64);
    let part = usize::try_from(at).ok().and_then(|at| ro.get_mut(at..)?.get_mut(..runner::code().len()));
    if let Some(part) = part.filter(|part| *part == runner::code()) {
        part.fill(0);
    }
    bytes(&mut out, &ro);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let code = runner::code();
        let mut ro = vec![1; 4096];
        ro[64..][..code.len()].copy_from_slice(code);
        let tapes = Tapes {
            base: 0x10_0000,
            window_len: 8192,
            rw: vec![2; 4096],
            ro,
            code: 0x10_1040,
            sigchld_set: 1,
            no_time: 2,
            tasks: vec![TaskTape { pid: 7, lives: true, tape: 9, records: 3, clone_args: 11 }],
            suspended: BTreeSet::from([7]),
            undo: vec![Undo { intent: 1, made: 2, gone: 3, kind: UndoKind::Link, path: b"/a".to_vec() }],
            clocks_ns: Some([5, 6]),
            spent: vec![b"/b".to_vec()],
            is_traced: false,
        };
        let input = Input { seed: 3, tapes };
        let bytes = write(&input);
        assert_eq!(read(&bytes), Some(input));
        assert!((0..bytes.len()).all(|end| read(&bytes[..end]).is_none()));
    }
}
