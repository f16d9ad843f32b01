//! The container of a stored plan: a head that says what follows, then sections, each with its checksum.
//!
//! ```text
//!   0  magic "regrowpl"
//!   8  version                 u32
//!  12  architecture            u32, e_machine of its ELF files
//!  16  number of sections      u32
//!  20  0                       u32
//!  24  table: for each section its number u32, 0 u32, its length u64, its BLAKE3 [u8; 32]
//!   …  BLAKE3 of all that stands before
//!   …  the sections, one behind the other; the file ends with the last
//! ```
//!
//! Numbers are little-endian. It knows nothing of what is in a section. Nothing is believed: the head is
//! held against the length of the file before anything is allocated, and a section is handed out only if
//! it is what its checksum says. Worked example: a flipped bit in the demands is answered with
//! `section demands: damaged (its checksum is another)`.

use std::fs::File;
use std::io::{self, Read};

use blake3::Hasher;
use thiserror::Error;

/// The first bytes of a stored plan.
pub const MAGIC: [u8; 8] = *b"regrowpl";
/// Of the format as it is written. Version 1 had no `--policy`, and no pages that are alike; version 2 did not say
/// which tasks leave by themselves; in version 3 all pages of a task were in one image, and none were
/// huge; version 4 had no rings of asynchronous I/O, version 5 no IPC namespaces, version 6 no System V segments of huge pages,
/// version 7 no cgroups; version 8 knew of pages that are alike only what a child has of its parent.
pub const VERSION: u32 = 9;
/// `EM_X86_64` (elf.h).
const ARCHITECTURE: u32 = 62;
const FIXED: usize = 24;
const ROW: usize = 48;
const HASH: usize = blake3::OUT_LEN;
/// Of less than so many bytes one processor finds the checksum: it takes less than to tell another.
const ALONE: usize = 1 << 17;

/// A part of a stored plan. The order is that of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// What it is a plan of.
    About,
    /// Which images it was made from.
    Images,
    /// What it relies on of the host.
    Host,
    /// What the tapes are judged by.
    Demands,
    /// What ptrace sets.
    Threads,
    /// What goes with the region: where it is, who plays which tape, what is to be removed.
    Tapes,
    /// The part of the region that tasks write.
    Written,
    /// The part that they read and execute.
    Read,
    /// What each operation is for.
    Purposes,
}

impl Section {
    /// All of them, in the order of the file.
    pub const ALL: [Section; 9] = [
        Section::About,
        Section::Images,
        Section::Host,
        Section::Demands,
        Section::Threads,
        Section::Tapes,
        Section::Written,
        Section::Read,
        Section::Purposes,
    ];

    /// Its number in the file.
    pub fn number(self) -> u32 {
        self as u32 + 1
    }

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Section::About => "about",
            Section::Images => "images",
            Section::Host => "host",
            Section::Demands => "demands",
            Section::Threads => "threads",
            Section::Tapes => "tapes",
            Section::Written => "written part",
            Section::Read => "read part",
            Section::Purposes => "purposes",
        }
    }
}

/// Why a file is no stored plan that can be used.
#[derive(Debug, Error)]
pub enum FormatError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("not a stored plan")]
    NotAPlan,
    /// It is no file that could be one.
    #[error("not a regular file")]
    NotAFile,
    /// It was written by another version.
    #[error("a stored plan of version {is}, and this regrow reads version {VERSION}: plan again")]
    Version {
        /// Its version.
        is: u32,
    },
    /// It was written for another architecture.
    #[error("a stored plan for another architecture (ELF machine {is}), this is x86-64")]
    Architecture {
        /// Its architecture.
        is: u32,
    },
    /// The head is not what it was.
    #[error("head: {0}")]
    Head(&'static str),
    /// A section is not what it was.
    #[error("section {}: {what}", .section.name())]
    Section {
        /// Which.
        section: Section,
        /// What is wrong with it.
        what: String,
    },
}

impl FormatError {
    /// Of a section.
    pub fn of(section: Section, what: impl Into<String>) -> FormatError {
        FormatError::Section { section, what: what.into() }
    }
}

/// The head of a file whose sections are `parts`, in the order of [`Section::ALL`].
pub fn head(parts: &[&[u8]; Section::ALL.len()]) -> Vec<u8> {
    let mut head = Vec::with_capacity(FIXED + parts.len() * ROW + HASH);
    head.extend_from_slice(&MAGIC);
    for word in [VERSION, ARCHITECTURE, parts.len() as u32, 0] {
        head.extend_from_slice(&word.to_le_bytes());
    }
    for (section, part) in Section::ALL.into_iter().zip(parts) {
        head.extend_from_slice(&section.number().to_le_bytes());
        head.extend_from_slice(&[0; 4]);
        head.extend_from_slice(&(part.len() as u64).to_le_bytes());
        head.extend_from_slice(blake3::hash(part).as_bytes());
    }
    let hash = blake3::hash(&head);
    head.extend_from_slice(hash.as_bytes());
    head
}

/// The sections of a file, read one after another.
#[derive(Debug)]
pub struct Sections<R> {
    from: R,
    len: u64,
    next: usize,
    table: [(u64, [u8; HASH]); Section::ALL.len()],
}

impl Sections<File> {
    /// Of an open file, which must be a regular one.
    ///
    /// # Errors
    /// It is not a plan, or its head is damaged.
    pub fn of_file(file: File) -> Result<Sections<File>, FormatError> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(FormatError::NotAFile);
        }
        Sections::of(file, metadata.len())
    }
}

impl<R: Read> Sections<R> {
    /// Of something of `len` bytes.
    ///
    /// # Errors
    /// It is not a plan, or its head is damaged.
    pub fn of(mut from: R, len: u64) -> Result<Sections<R>, FormatError> {
        const HEAD: usize = FIXED + Section::ALL.len() * ROW + HASH;
        let mut head = [0; HEAD];
        from.read_exact(&mut head[..FIXED]).map_err(or_not_a_plan)?;
        let fixed = &head[..FIXED];
        if fixed[..8] != MAGIC {
            return Err(FormatError::NotAPlan);
        }
        let word = |bytes: &[u8], at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        match (word(fixed, 8), word(fixed, 12)) {
            (VERSION, ARCHITECTURE) => {}
            (VERSION, is) => return Err(FormatError::Architecture { is }),
            (is, _) => return Err(FormatError::Version { is }),
        }
        if word(fixed, 16) as usize != Section::ALL.len() || word(fixed, 20) != 0 {
            return Err(FormatError::Head("another number of sections"));
        }
        from.read_exact(&mut head[FIXED..]).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => FormatError::Head("cut off"),
            _ => error.into(),
        })?;
        let (body, hash) = head.split_at(HEAD - HASH);
        if blake3::hash(body).as_bytes() != hash {
            return Err(FormatError::Head("damaged (its checksum is another)"));
        }
        let mut table = [(0, [0; HASH]); Section::ALL.len()];
        let mut sum = HEAD as u64;
        for ((section, row), place) in
            Section::ALL.iter().zip(body[FIXED..].chunks_exact(ROW)).zip(&mut table)
        {
            if word(row, 0) != section.number() || word(row, 4) != 0 {
                return Err(FormatError::Head("a section of another number"));
            }
            let len = u64::from_le_bytes(std::array::from_fn(|i| row[8 + i]));
            sum = sum.checked_add(len).ok_or(FormatError::Head("sections longer than any file"))?;
            *place = (len, std::array::from_fn(|i| row[16 + i]));
        }
        match sum.cmp(&len) {
            std::cmp::Ordering::Equal => Ok(Sections { from, len, next: 0, table }),
            std::cmp::Ordering::Greater => Err(FormatError::Head("the file is cut off behind it")),
            std::cmp::Ordering::Less => Err(FormatError::Head("the file goes on behind its last section")),
        }
    }

    /// Length of the whole file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The next section, whole.
    ///
    /// # Errors
    /// It is not what its checksum says, or there is none left.
    pub fn read(&mut self) -> Result<(Section, Vec<u8>), FormatError> {
        let (Some(section), Some((len, hash))) = (Section::ALL.get(self.next), self.table.get(self.next))
        else {
            return Err(FormatError::Head("no further section"));
        };
        self.next += 1;
        // No more than the file has: `of` has seen to it.
        let size = usize::try_from(*len).map_err(|_| FormatError::of(*section, "too long"))?;
        let mut bytes = Vec::with_capacity(size);
        self.from.by_ref().take(*len).read_to_end(&mut bytes)?;
        if bytes.len() != size {
            return Err(FormatError::of(*section, "cut off"));
        }
        let is =
            if size < ALONE { blake3::hash(&bytes) } else { Hasher::new().update_rayon(&bytes).finalize() };
        if is.as_bytes() != hash {
            return Err(FormatError::of(*section, "damaged (its checksum is another)"));
        }
        Ok((*section, bytes))
    }
}

fn or_not_a_plan(error: io::Error) -> FormatError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => FormatError::NotAPlan,
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Vec<Vec<u8>> {
        Section::ALL
            .iter()
            .map(|section| vec![section.number() as u8; section.number() as usize * 3])
            .collect()
    }

    fn file() -> Vec<u8> {
        let parts = parts();
        let parts: [&[u8]; Section::ALL.len()] = std::array::from_fn(|at| parts[at].as_slice());
        [head(&parts).as_slice(), &parts.concat()].concat()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>, FormatError> {
        let mut sections = Sections::of(bytes, bytes.len() as u64)?;
        Section::ALL.iter().map(|_| sections.read().map(|(_, bytes)| bytes)).collect()
    }

    #[test]
    fn there_and_back() {
        assert_eq!(read(&file()).expect("sections"), parts());
    }

    #[test]
    fn damage_is_named() {
        let good = file();
        let starts: Vec<usize> = parts()
            .iter()
            .scan(good.len() - parts().concat().len(), |at, part| {
                *at += part.len();
                Some(*at)
            })
            .collect();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            let said = read(&bytes).expect_err("damaged").to_string();
            let section = starts.iter().position(|end| at < *end);
            let head = good.len() - parts().concat().len();
            let expected = match (at, section) {
                (0..8, _) => "not a stored plan".to_owned(),
                (8..12, _) => "a stored plan of version".to_owned(),
                (12..16, _) => "a stored plan for another architecture".to_owned(),
                (_, _) if at < head => "head: ".to_owned(),
                (_, Some(section)) => format!("section {}: damaged", Section::ALL[section].name()),
                (_, None) => unreachable!(),
            };
            assert!(said.starts_with(&expected), "{at}: {said}, expected {expected}");
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let good = file();
        for end in 0..good.len() {
            assert!(read(&good[..end]).is_err(), "{end}");
        }
        assert!(read(&[good.as_slice(), b"x"].concat()).is_err());
    }

    /// The length is held against the file before a byte is allocated for it.
    #[test]
    fn lengths_beyond_the_file() {
        for len in [u64::MAX, u64::MAX / 2, 1 << 40] {
            let mut bytes = file();
            let end = FIXED + Section::ALL.len() * ROW;
            bytes[FIXED + 8..FIXED + 16].copy_from_slice(&len.to_le_bytes());
            let hash = blake3::hash(&bytes[..end]);
            bytes[end..end + HASH].copy_from_slice(hash.as_bytes());
            let said = read(&bytes).expect_err("too long").to_string();
            assert!(said.starts_with("head: "), "{said}");
        }
    }
}
