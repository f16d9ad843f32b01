//! timerfd.
//!
//! The images have the time that was left; it goes on with the restore. An absolute deadline
//! (`TFD_TIMER_ABSTIME`) is therefore the clock when regrow looked at it, plus that time. A periodic timer that has
//! expired and was not read yet shows no time left: what it has counted is there at once, and its
//! next period begins with the restore.

use regrow_graph::ids::OfdId;

use super::super::Resolver;
use super::super::numbers::O_SETTABLE;
use super::super::problem::ProblemKind;
use super::super::recipe::{ResourceKind, StepKind};
use super::{Holders, name};
use crate::image::{Ofd, Timerfd};

const TFD_KNOWN: u32 = (libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET) as u32;

pub(super) fn resolve(
    resolver: &mut Resolver<'_>,
    holders: &Holders,
    ofd: OfdId,
    entry: &Ofd,
    timerfd: &Timerfd,
) {
    let Some(now_ns) = resolver.clocks().of(timerfd.clock_id) else {
        let text = format!("{}: clock {} is no clock of a timerfd", name(entry), timerfd.clock_id);
        resolver.problems.add(ProblemKind::BadImages, None, Some(entry.origin), text);
        return;
    };
    if timerfd.settime_flags & !TFD_KNOWN != 0 {
        let text = format!("{}: unknown flags {:#x}", name(entry), timerfd.settime_flags & !TFD_KNOWN);
        resolver.problems.unsupported(None, Some(entry.origin), text);
    }
    let flags = timerfd.flags & O_SETTABLE;
    super::single(resolver, ofd, ResourceKind::Timerfd { clock_id: timerfd.clock_id, flags }, entry.origin);
    let mut value_ns = timerfd.value_ns;
    if value_ns == 0 && timerfd.ticks != 0 {
        value_ns = timerfd.interval_ns;
    }
    if timerfd.settime_flags & libc::TFD_TIMER_ABSTIME as u32 != 0 && value_ns != 0 {
        value_ns = value_ns.saturating_add(now_ns);
    }
    if (value_ns, timerfd.interval_ns, timerfd.ticks, timerfd.settime_flags) == (0, 0, 0, 0) {
        return;
    }
    let Some((task, fd)) = holders.get(ofd) else {
        let text = format!("{}: not restored yet while it is in flight in a unix socket only", name(entry));
        resolver.problems.unsupported(None, Some(entry.origin), text);
        return;
    };
    let kind = StepKind::ArmTimerfd {
        fd,
        clock_id: timerfd.clock_id,
        flags: timerfd.settime_flags,
        value_ns,
        interval_ns: timerfd.interval_ns,
        ticks: timerfd.ticks,
    };
    let step = resolver.add_step(kind, entry.origin, Vec::new());
    resolver.placed[task.index()].tail.push(step);
}
