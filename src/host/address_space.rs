//! Where memory can be mapped, and what the kernel maps on its own.
//!
//! In: `/proc/self/maps` and `/proc/self/mem`. Out: the ranges in use in this process, which the
//! tape region must avoid here as well as in every task, and this kernel's [`Vdso`]. It does not
//! choose addresses.
//!
//! Example: a 6.18 kernel maps, one behind the other, `[vvar]` of 4 pages, `[vvar_vclock]` of 2 and
//! `[vdso]` of 2; a task of an older kernel had `[vvar]` of 4 and `[vdso]` of 2.

use std::fs::File;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

use super::{read_number, read_text};
use crate::image::vdso::{Function, code_of, first_special, functions};
use crate::image::{Alive, Vma};

/// End of user addresses with four-level page tables: the last page below 2^47 is never mapped.
/// The kernel goes beyond only if asked by a hint above this.
pub const TASK_SIZE: u64 = 0x7fff_ffff_f000;

/// The most that is read as a vDSO; real ones have one or two pages.
const VDSO_MAX_BYTES: u64 = 1 << 20;

/// Address ranges of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressSpace {
    /// Address behind the last that can be mapped.
    pub task_size: u64,
    /// The lowest that can be mapped without privilege: `vm.mmap_min_addr`.
    pub mmap_min_addr: Option<u64>,
    /// What is mapped now below `task_size`: (first address, address behind the last), ascending,
    /// adjacent ranges joined. Empty if it could not be learned.
    pub in_use: Vec<(u64, u64)>,
}

impl Default for AddressSpace {
    fn default() -> AddressSpace {
        AddressSpace { task_size: TASK_SIZE, mmap_min_addr: None, in_use: Vec::new() }
    }
}

/// The mappings that the kernel gives every program for reading the clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vdso {
    /// `[vvar]`, `[vvar_vclock]` where the kernel has it, `[vdso]`, in the order of addresses.
    /// `arch_prctl(ARCH_MAP_VDSO_64, address)` puts the first at `address` and the others behind.
    pub mappings: Vec<SpecialMapping>,
    /// Contents of `[vdso]`: an ELF image. Empty if it could not be read.
    pub bytes: Vec<u8>,
}

impl Vdso {
    /// The mapping of the code.
    pub fn code(&self) -> Option<&SpecialMapping> {
        self.mappings.iter().find(|mapping| mapping.name == "[vdso]")
    }

    /// Whether the mappings that a task has of a kernel are where this one's would be.
    pub fn is_laid_out_as(&self, alive: &Alive) -> bool {
        let place = |vma: &Vma| Some((vma.start - first_special(alive)?, vma.end - vma.start));
        code_of(alive).and_then(place)
            == self.code().map(|mapping| (mapping.offset_bytes, mapping.size_bytes))
    }

    /// What it exports; offsets are from the start of the code. Empty if it could not be read.
    pub fn functions(&self) -> Vec<Function> {
        functions(&self.bytes).unwrap_or_default()
    }

    /// Length of all together, from the first to the end of the last.
    pub fn size_bytes(&self) -> u64 {
        self.mappings.last().map_or(0, |last| last.offset_bytes + last.size_bytes)
    }
}

/// One of [`Vdso::mappings`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialMapping {
    /// As `/proc/PID/maps` has it, with its brackets.
    pub name: String,
    /// Distance from the first.
    pub offset_bytes: u64,
    /// Length.
    pub size_bytes: u64,
}

/// A line of `/proc/self/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MapsLine {
    start: u64,
    end: u64,
    name: String,
}

impl MapsLine {
    fn parse(line: &str) -> Option<MapsLine> {
        // start-end perms offset dev inode name: the name may hold blanks, or be missing.
        let (start, rest) = line.split_once('-')?;
        let (end, rest) = rest.split_once(' ')?;
        let name = rest.splitn(5, ' ').nth(4).unwrap_or_default().trim_start();
        Some(MapsLine {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            name: String::from(name),
        })
    }

    fn is_special(&self) -> bool {
        self.name == "[vdso]" || self.name.starts_with("[vvar")
    }
}

pub(super) fn read_own_maps() -> Vec<MapsLine> {
    read_text("/proc/self/maps").unwrap_or_default().lines().filter_map(MapsLine::parse).collect()
}

pub(super) fn gather(maps: &[MapsLine]) -> AddressSpace {
    let mut in_use: Vec<(u64, u64)> = Vec::new();
    // [vsyscall] lies beyond what can be mapped.
    for line in maps.iter().filter(|line| line.end <= TASK_SIZE) {
        match in_use.last_mut() {
            Some(last) if last.1 == line.start => last.1 = line.end,
            _ => in_use.push((line.start, line.end)),
        }
    }
    AddressSpace { task_size: TASK_SIZE, mmap_min_addr: read_number("/proc/sys/vm/mmap_min_addr"), in_use }
}

/// This process's own vDSO: the same for all native programs of this kernel.
pub(super) fn find_vdso(maps: &[MapsLine]) -> Option<Vdso> {
    let vdso = maps.iter().find(|line| line.name == "[vdso]")?;
    let special: Vec<&MapsLine> = maps.iter().filter(|line| line.is_special()).collect();
    let first = special.first()?.start;
    Some(Vdso {
        mappings: special
            .iter()
            .map(|line| SpecialMapping {
                name: line.name.clone(),
                offset_bytes: line.start - first,
                size_bytes: line.end - line.start,
            })
            .collect(),
        bytes: read_own_memory(vdso.start, vdso.end - vdso.start).unwrap_or_default(),
    })
}

/// Reads own memory by way of a file, which needs no pointer.
fn read_own_memory(start: u64, size_bytes: u64) -> Option<Vec<u8>> {
    if size_bytes > VDSO_MAX_BYTES {
        return None;
    }
    let mut bytes = vec![0; size_bytes as usize];
    File::open("/proc/self/mem").ok()?.read_exact_at(&mut bytes, start).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/with blank
00452000-00453000 rw-p 00000000 00:00 0 
7fff8000-7fff9000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000004000 r--p 00000000 00:00 0                  [vvar]
7f0000004000-7f0000006000 r--p 00000000 00:00 0                  [vvar_vclock]
7f0000006000-7f0000008000 r-xp 00000000 00:00 0                  [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0          [vsyscall]";

    fn maps() -> Vec<MapsLine> {
        MAPS.lines().filter_map(MapsLine::parse).collect()
    }

    #[test]
    fn names_may_hold_blanks_or_be_missing() {
        let names: Vec<String> = maps().into_iter().map(|line| line.name).collect();
        assert_eq!(
            names,
            ["/usr/bin/with blank", "", "[heap]", "[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"]
        );
        assert_eq!(MapsLine::parse("nonsense"), None);
        assert_eq!(MapsLine::parse("1-x r"), None);
    }

    #[test]
    fn adjacent_ranges_are_joined() {
        let expected =
            [(0x40_0000, 0x45_3000), (0x7fff_8000, 0x7fff_9000), (0x7f00_0000_0000, 0x7f00_0000_8000)];
        assert_eq!(gather(&maps()).in_use, expected);
    }

    #[test]
    fn special_mappings_are_measured_from_the_first() {
        // Reading at the made-up address fails, or gives whatever is there.
        let vdso = find_vdso(&maps()).expect("found");
        let layout: Vec<_> =
            vdso.mappings.iter().map(|m| (m.name.as_str(), m.offset_bytes, m.size_bytes)).collect();
        assert_eq!(
            layout,
            [("[vvar]", 0, 0x4000), ("[vvar_vclock]", 0x4000, 0x2000), ("[vdso]", 0x6000, 0x2000)]
        );
        assert_eq!(vdso.size_bytes(), 0x8000);
        assert_eq!(find_vdso(&[]), None);
    }

    #[test]
    fn the_own_vdso_is_an_elf_image() {
        let Some(vdso) = find_vdso(&read_own_maps()) else { return };
        assert_eq!(vdso.bytes.get(..4), Some(&b"\x7fELF"[..]));
        assert_eq!(vdso.mappings.last().map(|last| last.size_bytes), Some(vdso.bytes.len() as u64));
        let here = &raw const vdso as u64;
        let in_use = gather(&read_own_maps()).in_use;
        assert!(in_use.iter().any(|&(start, end)| start <= here && here < end));
    }
}
