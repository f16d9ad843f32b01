//! A time namespace for children whose clocks go on from given times.
//!
//! A new one starts with the offsets of the present one. Offsets are counted from the host's clocks, so
//! ours are part of them; they can be set until the first child is born in it.
//!
//! # Sources
//! time_namespaces(7); kernel/time/namespace.c.

use std::fmt::Write as _;

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

const PATH: &str = "/proc/self/timens_offsets";
const CLOCKS: [(ClockId, &str); 2] =
    [(ClockId::CLOCK_MONOTONIC, "monotonic"), (ClockId::CLOCK_BOOTTIME, "boottime")];

/// Makes a time namespace for the children born from now on, in which CLOCK_MONOTONIC and CLOCK_BOOTTIME
/// say `wanted_ns` now.
///
/// # Errors
/// The kernel's: EPERM without CAP_SYS_ADMIN and CAP_SYS_TIME, ERANGE for times that it cannot count.
pub(super) fn enter(wanted_ns: [u64; 2]) -> Result<(), Errno> {
    let of_io = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let old = std::fs::read_to_string(PATH).map_err(of_io)?;
    crate::sys::process::unshare_time()?;
    let mut text = String::new();
    for ((clock, name), wanted_ns) in CLOCKS.into_iter().zip(wanted_ns) {
        let now = clock_gettime(clock)?;
        let now_ns = i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec());
        let offset_ns = i128::from(wanted_ns) - now_ns + offset_ns(&old, name).ok_or(Errno::EINVAL)?;
        let (seconds, rest) = (offset_ns.div_euclid(1_000_000_000), offset_ns.rem_euclid(1_000_000_000));
        let _ = writeln!(text, "{name} {seconds} {rest}");
    }
    // One write: the kernel takes them together.
    std::fs::write(PATH, text).map_err(of_io)
}

/// The offset of a clock in `timens_offsets`: name, seconds, nanoseconds a line.
fn offset_ns(text: &str, name: &str) -> Option<i128> {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    let mut numbers = line.split_whitespace().skip(1).map(str::parse::<i64>);
    let (seconds, rest) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(i128::from(seconds) * 1_000_000_000 + i128::from(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets() {
        let text = "monotonic           0         0\nboottime          -3 500000000\n";
        assert_eq!(offset_ns(text, "monotonic"), Some(0));
        assert_eq!(offset_ns(text, "boottime"), Some(-2_500_000_000));
        assert_eq!(offset_ns(text, "realtime"), None);
        assert_eq!(offset_ns("monotonic 1", "monotonic"), None);
    }
}
