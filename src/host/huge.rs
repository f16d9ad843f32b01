//! Huge pages: how many of each size are free.
//!
//! In: /sys/kernel/mm/hugepages. Out: a number for each size that the kernel has. Pages that are promised to
//! mappings count as taken; those that the kernel may still make (`nr_overcommit_hugepages`) as free.
//!
//! # Sources
//! Documentation/admin-guide/mm/hugetlbpage.rst.

use std::collections::BTreeMap;

use super::read_number;

const DIRECTORY: &str = "/sys/kernel/mm/hugepages";

/// How many huge pages there are to be had, by their size in bytes.
pub(super) fn gather() -> BTreeMap<u64, u64> {
    let Ok(sizes) = std::fs::read_dir(DIRECTORY) else { return BTreeMap::new() };
    let of = |name: &str| {
        let kibibytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let number = |what: &str| read_number::<u64>(&format!("{DIRECTORY}/{name}/{what}"));
        let free = number("free_hugepages")?.saturating_sub(number("resv_hugepages")?);
        let further =
            number("nr_overcommit_hugepages")?.saturating_sub(number("surplus_hugepages").unwrap_or(0));
        Some((kibibytes.checked_mul(1024)?, free.saturating_add(further)))
    };
    sizes.filter_map(|entry| of(entry.ok()?.file_name().to_str()?)).collect()
}
