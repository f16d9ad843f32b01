//! Kinds of memory beyond plain mappings: what each is, and who shares it with whom.

mod support;

use std::fs;

use support::Scenario;

/// Huge pages of 2 MiB that the kernel has for the time of a test.
struct HugePages {
    before: String,
}

impl HugePages {
    const NUMBER: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

    /// Makes so many free, where one may: without root no scenario runs.
    fn free(wanted: u64) -> Option<HugePages> {
        let read = |path: &str| fs::read_to_string(path).expect("2 MiB are a size of huge pages on x86-64");
        let number = |text: &str| text.trim().parse::<u64>().expect("a number");
        let before = read(HugePages::NUMBER);
        let lacking = wanted.saturating_sub(number(&read(HugePages::FREE)));
        fs::write(HugePages::NUMBER, (number(&before) + lacking).to_string()).ok()?;
        let pages = HugePages { before };
        let free = number(&read(HugePages::FREE));
        assert!(free >= wanted, "{wanted} huge pages are asked for, and {free} are to be had");
        Some(pages)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = fs::write(HugePages::NUMBER, &self.before);
    }
}

/// Private and shared, memfds mapped and open; inherited address spaces and others.
#[test]
fn huge_pages() {
    let _pages = HugePages::free(26);
    huge().run();
    huge().sharing("keep").rounds(1).run();
}

fn huge() -> Scenario {
    Scenario::program("kinds", &["huge"])
        .criu_changes(&["/anon_hugepage (deleted)", "became"], "CRIU maps a memfd instead")
}
