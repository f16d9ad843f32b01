//! How each task may get its vDSO, for the checker: from the images and the running kernel's vDSO.
//!
//! # Sources
//! vdso(7); the man page of the system call that each function stands for.

use std::collections::BTreeMap;

use regrow_graph::verify::{ExpectedVdso, LedFunction, LedVdso};

use crate::host::Vdso;
use crate::image::vdso::{Dumped, Function, code_of, first_special, functions};
use crate::image::{Alive, VmaKind};

/// No more than this at the start of a function is written over, by any restore.
const PATCH_MAX: usize = 22;

/// Code that does what a function of this name does where the running kernel has none: `mov $number,%eax;
/// syscall; ret`. The random generator without a state of its own says so when it is asked for one.
const INSTEAD: [(&str, &[u8]); 6] = [
    ("__vdso_clock_gettime", &[0xb8, 228, 0, 0, 0, 0x0f, 0x05, 0xc3]),
    ("__vdso_clock_getres", &[0xb8, 229, 0, 0, 0, 0x0f, 0x05, 0xc3]),
    ("__vdso_gettimeofday", &[0xb8, 96, 0, 0, 0, 0x0f, 0x05, 0xc3]),
    ("__vdso_time", &[0xb8, 201, 0, 0, 0, 0x0f, 0x05, 0xc3]),
    ("__vdso_getcpu", &[0xb8, 53, 1, 0, 0, 0x0f, 0x05, 0xc3]),
    (
        "__vdso_getrandom",
        &[
            0x49, 0x83, 0xf8, 0xff, 0x74, 8, 0xb8, 62, 1, 0, 0, 0x0f, 0x05, 0xc3, 0x48, 0xc7, 0xc0, 0xda,
            0xff, 0xff, 0xff, 0xc3,
        ],
    ),
];

/// What is asked of the running kernel's for each task.
pub(super) struct Running<'a> {
    vdso: &'a Vdso,
    functions: Vec<Function>,
}

impl<'a> Running<'a> {
    pub(super) fn of(vdso: &'a Vdso) -> Running<'a> {
        Running { vdso, functions: vdso.functions() }
    }

    /// What the images say of a task's vDSO. `other`: it is not the running kernel's, byte for byte.
    pub(super) fn expected(&self, alive: &Alive, other: Option<&Dumped>) -> Option<Box<ExpectedVdso>> {
        let code = code_of(alive)?;
        let first = first_special(alive)?;
        let mut expected = ExpectedVdso { len: self.vdso.size_bytes(), here: None, led: None };
        let bytes = match other {
            None => {
                expected.here = Some(first);
                return Some(Box::new(expected));
            }
            Some(other) => other.code.as_deref().unwrap_or_default(),
        };
        if self.vdso.is_laid_out_as(alive) && self.differs_at_starts_only(bytes) {
            expected.here = Some(first);
        }
        expected.led = self.led(alive, (code.start, code.end), bytes);
        Some(Box::new(expected))
    }

    fn differs_at_starts_only(&self, bytes: &[u8]) -> bool {
        let is_start = |at: usize| {
            let behind = |function: &Function| at.checked_sub(function.offset as usize);
            self.functions.iter().filter_map(behind).any(|behind| behind < PATCH_MAX)
        };
        bytes.len() == self.vdso.bytes.len()
            && bytes.iter().zip(&self.vdso.bytes).enumerate().all(|(at, (is, was))| is == was || is_start(at))
    }

    fn led(&self, alive: &Alive, code: (u64, u64), bytes: &[u8]) -> Option<LedVdso> {
        let running = self.vdso.mappings.iter().find(|mapping| mapping.name == "[vdso]")?;
        let mut led: BTreeMap<u64, LedFunction> = BTreeMap::new();
        for function in functions(bytes).ok()? {
            let at = code.0 + function.offset;
            let entry = led.entry(at).or_insert_with(|| LedFunction { at, ..LedFunction::default() });
            let same = self.functions.iter().filter(|other| other.name == function.name);
            entry.targets.extend(same.map(|other| running.offset_bytes + other.offset));
            if let Some((_, instead)) = INSTEAD.iter().find(|(name, _)| *name == function.name) {
                entry.instead = Some(instead.to_vec());
            }
        }
        let start_of = |wanted| alive.mm.vmas.iter().find(|vma| vma.kind == wanted).map(|vma| vma.start);
        let is_data_first = self.vdso.mappings.first().is_some_and(|mapping| mapping.name == "[vvar]");
        Some(LedVdso {
            code,
            taken: alive.mm.vmas.iter().map(|vma| (vma.start, vma.end)).collect(),
            running: (running.offset_bytes, running.size_bytes),
            // "CRIUvDSO", the dumped code, version 3, the dumped data, the running kernel's data
            // (CRIU's criu/include/parasite-vdso.h).
            mark: vec![
                Some(u64::from_le_bytes(*b"CRIUvDSO")),
                Some(code.0),
                Some(3),
                Some(start_of(VmaKind::Vvar).unwrap_or(u64::MAX)),
                if is_data_first { None } else { Some(u64::MAX) },
            ],
            functions: led.into_values().collect(),
        })
    }
}
