//! Numbers in words: sizes, times, flags, signals, exit statuses, lists of pids, tables.
//!
//! Worked example: exit status `0x0f00` is "exited with 15", `0x000f` is "killed by SIGTERM".

use std::fmt::Write;
use std::time::Duration;

use nix::sys::signal::Signal;

/// Open flags (asm-generic/fcntl.h) beside the access mode, in the order of their bits.
const OPEN: &[(u32, &str)] = &[
    (0o400, "O_NOCTTY"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o4_010_000, "O_SYNC"),
    (0o10_000, "O_DSYNC"),
    (0o20_000, "O_ASYNC"),
    (0o40_000, "O_DIRECT"),
    // Set by the kernel for every 64-bit program: says nothing.
    (0o100_000, ""),
    (0o20_200_000, "O_TMPFILE"),
    (0o200_000, "O_DIRECTORY"),
    (0o400_000, "O_NOFOLLOW"),
    (0o1_000_000, "O_NOATIME"),
    (0o2_000_000, "O_CLOEXEC"),
    (0o10_000_000, "O_PATH"),
];

/// Resource limits by number (asm-generic/resource.h).
const LIMITS: [&str; 16] = [
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

/// `MADV_*` (asm-generic/mman-common.h).
const ADVICE: &[(u32, &str)] = &[
    (1, "MADV_RANDOM"),
    (2, "MADV_SEQUENTIAL"),
    (10, "MADV_DONTFORK"),
    (12, "MADV_MERGEABLE"),
    (14, "MADV_HUGEPAGE"),
    (15, "MADV_NOHUGEPAGE"),
    (16, "MADV_DONTDUMP"),
    (18, "MADV_WIPEONFORK"),
    (102, "MADV_GUARD_INSTALL"),
];

/// The names of open flags, the access mode first.
pub(super) fn open_flags(flags: u32) -> Vec<String> {
    let access = match flags & libc::O_ACCMODE as u32 {
        0 => "O_RDONLY",
        1 => "O_WRONLY",
        2 => "O_RDWR",
        _ => "O_ACCMODE",
    };
    let mut names = vec![access.to_owned()];
    let mut rest = flags & !(libc::O_ACCMODE as u32);
    for (bits, name) in OPEN {
        if rest & bits == *bits {
            rest &= !bits;
            if !name.is_empty() {
                names.push((*name).to_owned());
            }
        }
    }
    if rest != 0 {
        names.push(format!("{rest:#x}"));
    }
    names
}

/// `rwx` of `PROT_*`.
pub(super) fn protection(prot: u32) -> String {
    [(1, 'r'), (2, 'w'), (4, 'x')]
        .into_iter()
        .map(|(bit, letter)| if prot & bit != 0 { letter } else { '-' })
        .collect()
}

/// A signal by its name; of the real-time ones the number.
pub(super) fn signal(number: u32) -> String {
    match i32::try_from(number).ok().and_then(|number| Signal::try_from(number).ok()) {
        Some(signal) => signal.as_str().to_owned(),
        None => format!("signal {number}"),
    }
}

/// Advice to `madvise(2)` by its name.
pub(super) fn advice(number: u32) -> String {
    let known = ADVICE.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| format!("advice {number}"), |(_, name)| (*name).to_owned())
}

/// A resource limit by its name.
pub(super) fn limit(number: u32) -> String {
    LIMITS.get(number as usize).map_or_else(|| format!("limit {number}"), |name| format!("RLIMIT_{name}"))
}

/// An exit status in the encoding of `wait4(2)`.
pub(super) fn exit_status(status: u32) -> String {
    match status & 0x7f {
        0 => format!("exited with {}", status >> 8 & 0xff),
        number => {
            let core = if status & 0x80 != 0 { ", core dumped" } else { "" };
            format!("killed by {}{core}", signal(number))
        }
    }
}

/// A size: exact if it is small or a round number of its unit.
pub(super) fn bytes(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..1024 => return count(bytes, "byte"),
        1024..0x10_0000 => (1 << 10, "KiB"),
        0x10_0000..0x4000_0000 => (1 << 20, "MiB"),
        _ => (1 << 30, "GiB"),
    };
    if bytes.is_multiple_of(unit) {
        return format!("{} {name}", bytes / unit);
    }
    format!("{:.1} {name}", bytes as f64 / unit as f64)
}

/// A number of things: `1 task`, `2 tasks`.
pub(super) fn count(number: impl TryInto<u64>, thing: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    match number {
        1 => format!("1 {thing}"),
        _ => format!("{number} {}", plural(thing)),
    }
}

fn plural(thing: &str) -> String {
    match thing.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if thing.ends_with('s') => format!("{thing}es"),
        None => format!("{thing}s"),
    }
}

/// A time.
pub(super) fn duration(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{seconds:.2} s"),
        seconds => format!("{:.1} ms", seconds * 1e3),
    }
}

/// A time of so many nanoseconds, with two digits that count.
pub(super) fn time_ns(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

/// Ascending numbers, runs of three and more as `4-9`, and how many more there are behind `most` items.
pub(super) fn numbers(numbers: &[u32], most: usize) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    let mut items: Vec<(String, usize)> = Vec::new();
    for (first, last) in runs {
        match last - first {
            0 => items.push((first.to_string(), 1)),
            1 => items.extend([(first.to_string(), 1), (last.to_string(), 1)]),
            between => items.push((format!("{first}-{last}"), between as usize + 1)),
        }
    }
    let mut text: Vec<&str> = items.iter().take(most).map(|(item, _)| item.as_str()).collect();
    let more: usize = items.iter().skip(most).map(|(_, count)| count).sum();
    let more = format!("{more} more");
    if items.len() > most {
        text.push(&more);
    }
    text.join(", ")
}

/// Rows as aligned columns, each line behind `indent` blanks and without blanks at its end. No column is
/// padded to more than 72 characters.
pub(super) fn table(rows: &[Vec<String>], indent: usize) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = cell.chars().count().min(72);
            match widths.get_mut(column) {
                Some(most) => *most = width.max(*most),
                None => widths.push(width),
            }
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = " ".repeat(indent);
        for (cell, width) in row.iter().zip(&widths).filter(|(_, width)| **width > 0) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses() {
        let check = |status, expected| assert_eq!(exit_status(status), expected);
        check(0, "exited with 0");
        check(0xff00, "exited with 255");
        check(9, "killed by SIGKILL");
        check(0x8b, "killed by SIGSEGV, core dumped");
        check(40, "killed by signal 40");
    }

    #[test]
    fn sizes() {
        let check = |size, expected| assert_eq!(bytes(size), expected);
        check(1, "1 byte");
        check(1023, "1023 bytes");
        check(4096, "4 KiB");
        check(1 << 20, "1 MiB");
        check((1 << 20) + (1 << 19), "1.5 MiB");
        check(u64::MAX, "17179869184.0 GiB");
    }

    #[test]
    fn times() {
        let check = |ns, expected| assert_eq!(time_ns(ns), expected);
        check(0, "0 ns");
        check(999, "999 ns");
        check(1_000, "1.0 µs");
        check(12_345_678, "12.3 ms");
        check(2_500_000_000, "2.50 s");
    }

    #[test]
    fn runs_of_numbers() {
        let check = |list: &[u32], most, expected| assert_eq!(numbers(list, most), expected);
        check(&[], 3, "");
        check(&[1, 2, 4, 5, 6, 9], 9, "1, 2, 4-6, 9");
        check(&[1, 3, 5, 6, 7], 2, "1, 3, 3 more");
        check(&[u32::MAX], 2, "4294967295");
    }

    #[test]
    fn flags() {
        let check = |flags, expected: &str| assert_eq!(open_flags(flags).join("|"), expected);
        check(0o100_000, "O_RDONLY");
        check(0o102_002, "O_RDWR|O_APPEND");
        check(0o4_010_001, "O_WRONLY|O_SYNC");
        check(1 << 31, "O_RDONLY|0x80000000");
    }

    #[test]
    fn counts() {
        assert_eq!(count(1u32, "descriptor"), "1 descriptor");
        assert_eq!(count(0u32, "directory"), "0 directories");
    }
}
