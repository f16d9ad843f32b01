//! Waiting for the tapes: until all have reached a point, or a record has failed, a task has died,
//! the launcher is gone.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::channel::{Channel, Reply};
use super::{FailedRecord, RunError};
use crate::sys::futex;
use crate::sys::region::Shared;
use crate::tape::abi::wake;
use crate::tape::{Tapes, disasm};

/// How long between looks at what the kernel does not tell by waking us.
const LOOK: Duration = Duration::from_millis(50);
/// How long between looks at every single task.
const INSPECT: Duration = Duration::from_millis(500);

/// Waits until `bit` of the wake word is set.
///
/// # Errors
/// What went wrong first.
pub fn until(tapes: &Tapes, channel: &Channel, shared: &Shared, bit: u32) -> Result<(), RunError> {
    let mut inspected = Instant::now();
    loop {
        let bits = shared.wake().load(Ordering::SeqCst);
        if bits & wake::FAILED != 0 {
            return Err(failed(tapes, shared));
        }
        if bits & bit != 0 {
            return Ok(());
        }
        listen(tapes, channel)?;
        if inspected.elapsed() >= INSPECT {
            inspect(tapes)?;
            inspected = Instant::now();
        }
        futex::wait(shared.wake(), bits, LOOK);
    }
}

fn listen(tapes: &Tapes, channel: &Channel) -> Result<(), RunError> {
    match channel.try_receive().map_err(RunError::Channel)? {
        None | Some(Reply::Started { .. }) => Ok(()),
        Some(Reply::RootDied) => Err(RunError::Died { pid: tapes.tasks[0].pid }),
        Some(Reply::Interrupted(signal)) => Err(RunError::Interrupted(signal)),
        Some(
            Reply::MapFailed(errno)
            | Reply::ClocksFailed(errno)
            | Reply::CloneFailed(errno)
            | Reply::CgroupFailed { errno, .. },
        ) => Err(RunError::Channel(std::io::Error::from_raw_os_error(errno))),
    }
}

/// A task that should live and is a zombie was killed by something (out of memory, a user).
fn inspect(tapes: &Tapes) -> Result<(), RunError> {
    for task in tapes.tasks.iter().filter(|task| task.lives) {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", task.pid)) else { continue };
        // proc_pid_stat(5): the state follows the name, which is in parentheses and may hold any.
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        if matches!(state, Some('Z' | 'X')) {
            return Err(RunError::Died { pid: task.pid });
        }
    }
    Ok(())
}

fn failed(tapes: &Tapes, shared: &Shared) -> RunError {
    let (address, result, pid) = shared.failure();
    let size = size_of::<crate::tape::abi::Record>() as u64;
    let found = tapes
        .tasks
        .iter()
        .find(|task| (task.tape..task.tape + u64::from(task.records) * size).contains(&address));
    let record = tapes.record(address);
    RunError::Record(Box::new(FailedRecord {
        pid: found.map_or(pid, |task| task.pid),
        record: found.map_or(0, |task| ((address - task.tape) / size) as u32),
        op: record.map_or(u32::MAX, |record| record.op),
        result,
        call: record
            .map_or_else(|| format!("a record at {address:#x}"), |record| disasm::call(tapes, &record)),
        purpose: String::new(),
    }))
}
