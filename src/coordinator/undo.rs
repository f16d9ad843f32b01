//! What a failed restore has made in the file system, removed by the launcher when all tasks are gone.
//!
//! The tapes tell of each file in a word of its own, which only counts up: 0, nothing has been done;
//! 1, the task was about to make it; 2, it has. Files of the second kind are removed. Of the first
//! kind are those that could not be made because something else was there, and those whose task was
//! killed in between: they are removed if they were born since the tapes began to play.
//!
//! # Sources
//! statx(2).

use std::fs::{File, symlink_metadata};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// No path is longer (PATH_MAX).
const PATH_MAX: usize = 4096;

/// The clock of file systems may be so far behind (a tick of the slowest kernel, CONFIG_HZ=100).
const TICK: Duration = Duration::from_millis(10);

/// The list, in the memfd of the tapes.
#[derive(Debug)]
pub struct Undo {
    region: File,
    base: u64,
    table: u64,
    count: u64,
    started: SystemTime,
}

impl Undo {
    /// The list of `count` entries at the address `table` of a region at `base`, whose tapes play since
    /// `started`.
    pub fn new(region: OwnedFd, base: u64, (table, count): (u64, u64), started: SystemTime) -> Undo {
        Undo { region: File::from(region), base, table, count, started }
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Option<usize> {
        self.region.read_at(bytes, address.checked_sub(self.base)?).ok()
    }

    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        (self.read(address, &mut bytes)? == 8).then(|| u64::from_ne_bytes(bytes))
    }

    /// Removes what there is to be removed, the last first. What fails is left: there is nobody to be
    /// told any more.
    pub fn run(&self) {
        for index in (0..self.count).rev() {
            let _ = self.undo(index);
        }
    }

    fn undo(&self, index: u64) -> Option<()> {
        let entry = self.table.checked_add(index.checked_mul(16)?)?;
        let (word, path) = (self.word(entry)?, self.word(entry + 8)?);
        let mut bytes = [0; 4];
        self.read(word, &mut bytes)?;
        let made = u32::from_ne_bytes(bytes);
        let mut text = [0; PATH_MAX];
        let len = self.read(path, &mut text)?;
        let text = text[..len].split(|byte| *byte == 0).next()?;
        let path = Path::new(std::ffi::OsStr::from_bytes(text));
        if made == 0 || made == 1 && !self.is_new(path) {
            return None;
        }
        std::fs::remove_file(path).ok()
    }

    fn is_new(&self, path: &Path) -> bool {
        symlink_metadata(path)
            .and_then(|metadata| metadata.created())
            .is_ok_and(|born| born + TICK >= self.started)
    }
}
