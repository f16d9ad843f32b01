//! kcmp(2): whether two descriptors are one open file description, two tables one table.

use std::cmp::Ordering;

use nix::errno::Errno;

/// A descriptor of a task: pid and number.
pub type Descriptor = (u32, u32);

/// `KCMP_FILE` (linux/kcmp.h).
const KCMP_FILE: i32 = 0;

/// `KCMP_FILES` (linux/kcmp.h).
const KCMP_FILES: i32 = 2;

/// How the kernel orders two descriptions; equal: they are one.
fn compare(a: Descriptor, b: Descriptor) -> Result<Ordering, Errno> {
    // SAFETY: kcmp takes numbers and writes nothing.
    let result =
        unsafe { libc::syscall(libc::SYS_kcmp, a.0, b.0, KCMP_FILE, u64::from(a.1), u64::from(b.1)) };
    match Errno::result(result)? {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 => Ok(Ordering::Greater),
        // Not equal, and without an order.
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// Whether two descriptors are of one open file description.
///
/// # Errors
/// The kernel's: ESRCH, EBADF, EPERM; ENOSYS without CONFIG_KCMP.
pub fn same_file(a: Descriptor, b: Descriptor) -> Result<bool, Errno> {
    Ok(compare(a, b)? == Ordering::Equal)
}

/// Whether two tasks have one descriptor table.
///
/// # Errors
/// The kernel's: ESRCH, EPERM; ENOSYS without CONFIG_KCMP.
pub fn same_table(a: u32, b: u32) -> Result<bool, Errno> {
    // SAFETY: kcmp takes numbers and writes nothing.
    let result = unsafe { libc::syscall(libc::SYS_kcmp, a, b, KCMP_FILES, 0, 0) };
    Ok(Errno::result(result)? == 0)
}

/// Sorts descriptors in the kernel's order of their descriptions: those of one stand side by side.
///
/// # Errors
/// As [`same_file`]; the order is then none.
pub fn sort_files(descriptors: &mut [Descriptor]) -> Result<(), Errno> {
    let mut first_error = None;
    descriptors.sort_by(|a, b| {
        compare(*a, *b).unwrap_or_else(|errno| {
            first_error.get_or_insert(errno);
            Ordering::Equal
        })
    });
    first_error.map_or(Ok(()), Err)
}
