//! The comparison of what each task stands for alone, on all processors: attributes, seccomp, address space.
//!
//! What several tasks must agree on (which inode, which shared memory a thing is) and what only the images'
//! bytes can tell, and nobody knows yet, is noted here and left to [`super::compare`], which then knows all of it. Nothing is
//! said about what is wrong: where anything is, all is compared once more, one task after another, so that what is
//! said does not depend on who came first.

use rayon::prelude::*;

use super::attribute::compare::{Seen, task as compare_attributes};
use super::expected::{ExpectedTask, InodeId};
use super::outcome::{Certificate, Wrong};
use super::run::Run;
use super::space::{self, Alike};

/// Tasks that are compared by one job.
const TASKS: usize = 8;

/// What some tasks came to.
#[derive(Default)]
pub(super) struct Part<'a> {
    pub(super) seen: Seen,
    pub(super) seen_memory: space::Seen,
    /// Mappings and pages are counted in it.
    pub(super) certificate: Certificate,
    /// Objects, and which inodes of the images they must be.
    pub(super) inodes: Vec<(usize, InodeId)>,
    /// Tasks whose pages are right only if other bytes of the images are the same, of which that is not known.
    pub(super) asking: Vec<&'a ExpectedTask>,
}

/// Compares all tasks; `None`: something is wrong.
pub(super) fn compare<'a>(
    run: &Run<'_>,
    tasks: &'a [ExpectedTask],
    is_known: &(dyn Fn(&Alike<'_>) -> bool + Sync),
) -> Option<Vec<Part<'a>>> {
    tasks
        .par_chunks(TASKS)
        .map(|chunk| {
            let mut part = Part::default();
            chunk.iter().try_for_each(|want| part.task(run, want, is_known)).ok()?;
            Some(part)
        })
        .collect()
}

impl<'a> Part<'a> {
    fn task(
        &mut self,
        run: &Run<'_>,
        want: &'a ExpectedTask,
        is_known: &(dyn Fn(&Alike<'_>) -> bool + Sync),
    ) -> Result<(), Wrong> {
        let inodes = &mut self.inodes;
        let mut pair = |object, inode| {
            inodes.push((object, inode));
            true
        };
        compare_attributes(run, want, &mut self.seen, &mut pair)?;
        run.compare_seccomp(want)?;
        run.compare_space(want, &mut self.seen_memory, &mut self.certificate, &mut pair)?;
        let (mut asks, before) = (false, self.certificate.pages);
        run.compare_private_pages(want, &mut self.certificate, &mut |alike| {
            asks |= !is_known(alike);
            true
        })?;
        if asks {
            // They are counted when all of it is known.
            self.certificate.pages = before;
            self.asking.push(want);
        }
        Ok(())
    }
}
