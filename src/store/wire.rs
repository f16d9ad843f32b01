//! Sections as bytes: `postcard` of serialisable forms, the two parts of the region as they are.
//!
//! What is read is whole (a section that goes on behind its value is damaged) and has the shape that the
//! rest of regrow takes for granted: places within the window, lengths in pages. What it *means* is for the
//! checker to judge.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, DeserializeSeed};
use serde::{Deserialize, Serialize};

use super::bounded::{Budget, Within};
use super::format::{self, FormatError, Section, Sections};
use super::identity::Identity;
use super::{About, PlannedOn, Purposes, StoredPlan, TapeDeadline};
use crate::certify::Demands;
use crate::tape::thread::{REGISTERS, from_words, to_words};
use crate::tape::{Cgroup, Tapes, TaskTape, ThreadState, Undo};

const PAGE: u64 = 4096;
/// Below this nothing is placed, and behind that nothing can be.
const LOWEST: u64 = 1 << 16;
const HIGHEST: u64 = crate::host::TASK_SIZE;

/// [`Tapes`] without the region, and what goes with them.
#[derive(Debug, Serialize, Deserialize)]
struct TapesHead {
    base: u64,
    window_len: u64,
    code: u64,
    sigchld_set: u64,
    no_time: u64,
    tasks: Vec<TaskTape>,
    suspended: BTreeSet<u32>,
    undo: Vec<Undo>,
    clocks_ns: Option<[u64; 2]>,
    spent: Vec<Vec<u8>>,
    cgroups: Vec<Cgroup>,
    deadlines: Vec<TapeDeadline>,
}

/// A [`ThreadState`].
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredThread {
    tid: u32,
    is_leader: bool,
    registers: [u64; REGISTERS],
    #[serde(with = "bytes")]
    xstate: Vec<u8>,
    blocked: u64,
    stop_signal: Option<i32>,
    eats_sigchld: bool,
    leaves: bool,
}

/// Bytes as bytes, not as a sequence of numbers.
mod bytes {
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

impl StoredThread {
    pub(super) fn of(thread: &ThreadState) -> StoredThread {
        StoredThread {
            tid: thread.tid,
            is_leader: thread.is_leader,
            registers: to_words(&thread.registers),
            xstate: thread.xstate.clone(),
            blocked: thread.blocked,
            stop_signal: thread.stop_signal,
            eats_sigchld: thread.eats_sigchld,
            leaves: thread.leaves,
        }
    }

    fn into_state(self) -> ThreadState {
        ThreadState {
            tid: self.tid,
            is_leader: self.is_leader,
            registers: from_words(self.registers),
            xstate: self.xstate,
            blocked: self.blocked,
            stop_signal: self.stop_signal,
            eats_sigchld: self.eats_sigchld,
            leaves: self.leaves,
        }
    }
}

/// Writes a whole plan.
pub(super) fn write(plan: &StoredPlan, out: &mut impl Write) -> io::Result<()> {
    let tapes = &plan.tapes;
    let head = TapesHead {
        base: tapes.base,
        window_len: tapes.window_len,
        code: tapes.code,
        sigchld_set: tapes.sigchld_set,
        no_time: tapes.no_time,
        tasks: tapes.tasks.clone(),
        suspended: tapes.suspended.clone(),
        undo: tapes.undo.clone(),
        clocks_ns: tapes.clocks_ns,
        spent: tapes.spent.clone(),
        cgroups: tapes.cgroups.clone(),
        deadlines: plan.deadlines.clone(),
    };
    let threads: Vec<StoredThread> = plan.threads.iter().map(StoredThread::of).collect();
    let (about, images, host) = (encode(&plan.about)?, encode(&plan.images)?, encode(&plan.host)?);
    let (demands, threads, head) = (encode(&plan.demands)?, encode(&threads)?, encode(&head)?);
    let parts: [&[u8]; Section::ALL.len()] =
        [&about, &images, &host, &demands, &threads, &head, &tapes.rw, &tapes.ro, &plan.purposes.0];
    out.write_all(&format::head(&parts))?;
    parts.iter().try_for_each(|part| out.write_all(part))
}

fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    postcard::to_allocvec(value).map_err(io::Error::other)
}

/// How many bytes what is read may take for each byte of the file, and beside that. Real plans take less than
/// twice their length: most of it is tapes, which are as long in memory.
const BYTES_A_BYTE: u64 = 8;
const BYTES_BESIDE: usize = 1 << 16;

/// What a file of `len` bytes may take.
fn budget(len: u64) -> Budget {
    let bytes = usize::try_from(len.saturating_mul(BYTES_A_BYTE)).unwrap_or(usize::MAX);
    Budget::new(bytes.saturating_add(BYTES_BESIDE))
}

/// The value that a section is, all of it.
pub(super) fn decode<T: DeserializeOwned>(
    section: Section,
    bytes: &[u8],
    budget: &Budget,
) -> Result<T, FormatError> {
    let damaged = |error: postcard::Error| FormatError::of(section, format!("damaged ({error})"));
    let mut from = postcard::Deserializer::from_bytes(bytes);
    let value = Within(budget, PhantomData).deserialize(&mut from).map_err(damaged)?;
    match from.finalize().map_err(damaged)? {
        [] => Ok(value),
        _ => Err(FormatError::of(section, "damaged (it goes on behind its end)")),
    }
}

/// The next section, which the caller knows.
fn next<R: Read>(sections: &mut Sections<R>, wanted: Section) -> Result<Vec<u8>, FormatError> {
    match sections.read()? {
        (section, bytes) if section == wanted => Ok(bytes),
        (section, _) => Err(FormatError::of(section, "out of order")),
    }
}

pub(super) fn read_about<R: Read>(mut sections: Sections<R>) -> Result<About, FormatError> {
    let budget = budget(sections.len());
    decode(Section::About, &next(&mut sections, Section::About)?, &budget)
}

/// What a list of purposes says, which is a section by itself.
pub(super) fn decode_purposes(bytes: &[u8]) -> Vec<(u32, String)> {
    decode(Section::Purposes, bytes, &budget(bytes.len() as u64)).unwrap_or_default()
}

/// A plan that has been read but for what it is judged by, which is most of what takes time to read.
pub(super) struct Parts {
    pub(super) about: About,
    pub(super) images: Identity,
    pub(super) host: PlannedOn,
    pub(super) demands: Undecoded,
    pub(super) threads: Vec<ThreadState>,
    pub(super) tapes: Tapes,
    pub(super) deadlines: Vec<TapeDeadline>,
    pub(super) purposes: Purposes,
}

/// [`Demands`] as they were written.
pub(super) struct Undecoded {
    bytes: Vec<u8>,
    /// What the rest of the file has left.
    budget: Budget,
}

impl Undecoded {
    pub(super) fn decode(self) -> Result<Demands, FormatError> {
        decode(Section::Demands, &self.bytes, &self.budget)
    }
}

/// Reads a whole plan.
pub(super) fn read<R: Read>(sections: Sections<R>) -> Result<StoredPlan, FormatError> {
    let Parts { about, images, host, demands, threads, tapes, deadlines, purposes } = read_parts(sections)?;
    let demands = demands.decode()?;
    Ok(StoredPlan { about, images, host, demands, threads, tapes, deadlines, purposes })
}

/// Reads all that there is, and decodes what does not take long.
pub(super) fn read_parts<R: Read>(mut sections: Sections<R>) -> Result<Parts, FormatError> {
    fn part<T: DeserializeOwned, R: Read>(
        sections: &mut Sections<R>,
        section: Section,
        budget: &Budget,
    ) -> Result<T, FormatError> {
        decode(section, &next(sections, section)?, budget)
    }
    let budget = budget(sections.len());
    let about = part(&mut sections, Section::About, &budget)?;
    let images = part(&mut sections, Section::Images, &budget)?;
    let host = part(&mut sections, Section::Host, &budget)?;
    let demands = next(&mut sections, Section::Demands)?;
    let threads: Vec<StoredThread> = part(&mut sections, Section::Threads, &budget)?;
    let head: TapesHead = part(&mut sections, Section::Tapes, &budget)?;
    let rw = next(&mut sections, Section::Written)?;
    let ro = next(&mut sections, Section::Read)?;
    let purposes = Purposes(next(&mut sections, Section::Purposes)?);
    check_shape(&head, &rw, &ro)?;
    Ok(Parts {
        about,
        images,
        host,
        demands: Undecoded { bytes: demands, budget },
        threads: threads.into_iter().map(StoredThread::into_state).collect(),
        tapes: Tapes {
            base: head.base,
            window_len: head.window_len,
            rw,
            ro,
            code: head.code,
            sigchld_set: head.sigchld_set,
            no_time: head.no_time,
            tasks: head.tasks,
            suspended: head.suspended,
            undo: head.undo,
            clocks_ns: head.clocks_ns,
            spent: head.spent,
            cgroups: head.cgroups,
            is_traced: false,
        },
        deadlines: head.deadlines,
        purposes,
    })
}

/// What all who have [`Tapes`] take for granted.
fn check_shape(head: &TapesHead, rw: &[u8], ro: &[u8]) -> Result<(), FormatError> {
    let wrong = |what: &str| Err(FormatError::of(Section::Tapes, what));
    let region = rw.len() as u64 + ro.len() as u64;
    let is_page = |length: u64| length.is_multiple_of(PAGE);
    if !is_page(head.base) || !is_page(head.window_len) {
        return wrong("its window does not consist of pages");
    }
    if head.base < LOWEST || head.base.checked_add(head.window_len).is_none_or(|end| end > HIGHEST) {
        return wrong("its window is where nothing can be mapped");
    }
    if rw.is_empty() || !is_page(rw.len() as u64) || !is_page(ro.len() as u64) || region > head.window_len {
        return wrong("the region is not made of pages of the window");
    }
    if head.tasks.is_empty() {
        return wrong("there is no tape");
    }
    Ok(())
}
