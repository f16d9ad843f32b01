//! File locks: set by the task that the images name, at the number they name, once its table is final.
//!
//! POSIX locks belong to a task and go when it closes *any* descriptor of the file (fcntl_locking(2)),
//! so they follow its last close. Leases that are being broken are not restored. Nobody contended any lock at the dump, so none waits for another.

use std::collections::BTreeMap;

use super::super::Resolver;
use super::super::problem::ProblemKind;
use super::super::recipe::{FileLock, StepKind};

/// `criu/include/file-lock.h`: kinds of locks.
const POSIX: u32 = 1;
const FLOCK: u32 = 2;
const OFD: u32 = 4;
const LEASE: u32 = 8;

pub(super) fn resolve(resolver: &mut Resolver<'_>) {
    let model = resolver.model;
    let by_pid: BTreeMap<i64, usize> =
        model.tasks.iter().enumerate().map(|(index, task)| (i64::from(task.pid.0), index)).collect();
    for lock in &model.file_locks {
        let origin = Some(lock.origin);
        let what = format!("a file lock of task {} on fd {}", lock.pid, lock.fd);
        if !resolver.options.file_locks {
            let text = format!("{what}: use --file-locks to restore it");
            resolver.problems.unsupported(None, origin, text);
            continue;
        }
        let holder = by_pid.get(&i64::from(lock.pid)).copied();
        if holder.is_some_and(|index| resolver.forest.tasks[index].shares_table) {
            // The kernel would have the table's first task as the owner (fcntl_locking(2)), or drop the lock when that
            // closes the file once more.
            let text = format!("{what}, which shares its descriptor table with its parent: not restored yet");
            resolver.problems.unsupported(None, origin, text);
            continue;
        }
        let is_open = |index: &usize| {
            resolver.forest.tasks[*index].table.iter().any(|slot| i64::from(slot.fd) == i64::from(lock.fd))
        };
        let Some(index) = holder.filter(is_open) else {
            let text = format!("{what}, which it does not have open");
            resolver.problems.add(ProblemKind::BadImages, None, origin, text);
            continue;
        };
        let kind = match lock.kind {
            0 => libc::F_RDLCK,
            1 => libc::F_WRLCK,
            other => {
                let text = format!("{what}: type {other} is not restored yet");
                resolver.problems.unsupported(None, origin, text);
                continue;
            }
        };
        let lock_kind = match lock.flag {
            FLOCK if kind == libc::F_RDLCK => FileLock::Whole { operation: libc::LOCK_SH },
            FLOCK => FileLock::Whole { operation: libc::LOCK_EX },
            POSIX | OFD => FileLock::Range {
                is_ofd: lock.flag == OFD,
                kind: kind as i16,
                start: lock.start,
                len: lock.len,
            },
            LEASE => FileLock::Lease { kind: kind as i16 },
            flag => {
                let text = format!("{what}: kind {flag} is not restored yet");
                resolver.problems.unsupported(None, origin, text);
                continue;
            }
        };
        let step = resolver.add_step(
            StepKind::Lock { fd: lock.fd as u32, lock: lock_kind },
            lock.origin,
            Vec::new(),
        );
        // A lease is refused while others have the file open (fcntl(2)): behind the barrier only those
        // have it that should.
        if lock.flag == LEASE {
            resolver.placed[index].tail.push(step);
        } else {
            resolver.placed[index].with_threads.push(step);
        }
    }
}
