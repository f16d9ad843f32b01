//! Timerfds (`timerfd.proto`).

use super::fown;
use crate::image::error::Errors;
use crate::image::file::Entry;
use crate::image::model::{OfdKind, Timerfd};
use crate::image::proto::FileEntry;

/// Reads the `tfd` of an entry.
pub(crate) fn read(e: FileEntry, entry: &Entry<'_>, errors: &mut Errors) -> Option<OfdKind> {
    let e = e.tfd?;
    let mut time_ns = |seconds: u64, nanoseconds: u64| {
        let sum = seconds.checked_mul(1_000_000_000).and_then(|ns| ns.checked_add(nanoseconds));
        // What does not fit into signed 64 bits is no time for the kernel either.
        let time = sum.filter(|ns| nanoseconds < 1_000_000_000 && i64::try_from(*ns).is_ok());
        if time.is_none() {
            let reason = format!("timerfd with a time of {seconds} s and {nanoseconds} ns");
            errors.inconsistent(entry.file, entry.index, reason);
        }
        time
    };
    Some(OfdKind::Timerfd(Timerfd {
        flags: e.flags,
        fown: fown(&e.fown),
        clock_id: e.clockid,
        ticks: e.ticks,
        settime_flags: e.settime_flags,
        value_ns: time_ns(e.vsec, e.vnsec)?,
        interval_ns: time_ns(e.isec, e.insec)?,
    }))
}
