//! What the kernel makes of rings of asynchronous I/O: by how many processors there may be, and up to which limit.
//!
//! # Sources
//! Documentation/ABI/testing/sysfs-devices-system-cpu (`possible`); proc_sys_fs(5) (`aio-max-nr`, `aio-nr`).

use super::{read_number, read_text};

/// How many processors there may be: the kernel's `num_possible_cpus`.
pub fn possible_processors() -> Option<u32> {
    count(&read_text("/sys/devices/system/cpu/possible")?)
}

/// How many requests rings may be asked for with, and how many they have been.
pub(super) fn requests() -> Option<(u64, u64)> {
    Some((read_number("/proc/sys/fs/aio-max-nr")?, read_number("/proc/sys/fs/aio-nr")?))
}

/// The numbers of a list of ranges: `0-3,8` are five.
fn count(list: &str) -> Option<u32> {
    list.split(',').try_fold(0u32, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        let check = |list, expected| assert_eq!(count(list), expected, "{list}");
        check("0", Some(1));
        check("0-1", Some(2));
        check("0-3,8", Some(5));
        check("", None);
        check("3-1", None);
        check("0-4294967295", None);
    }

    #[test]
    fn this_host_has_some() {
        assert!(possible_processors().is_some_and(|count| count > 0));
        assert!(requests().is_some_and(|(most, _)| most > 0));
    }
}
