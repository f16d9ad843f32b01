//! Kinds of memory beyond plain mappings: what each is, and who shares it with whom.

mod support;

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

use support::Scenario;
use support::dumped::Dumped;

/// Huge pages of 2 MiB that the kernel has for the time of a test.
struct HugePages {
    before: u64,
    _alone: MutexGuard<'static, ()>,
}

/// The kernel's pool is one for all tests.
static POOL: Mutex<()> = Mutex::new(());

/// What the program takes, and what a dump takes meanwhile to look at it.
const PAGES: u64 = 26;

impl HugePages {
    const NUMBER: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    const SURPLUS: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/surplus_hugepages";

    /// Makes so many free, where one may: without root no scenario runs.
    fn free(wanted: u64) -> Option<HugePages> {
        let number = |path: &str| {
            let text = fs::read_to_string(path).expect("2 MiB are a size of huge pages on x86-64");
            text.trim().parse::<u64>().expect("a number")
        };
        let alone = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let now = number(HugePages::NUMBER);
        // What the test before has given back while the kernel still cleared away who had them.
        let before = now - number(HugePages::SURPLUS).min(now);
        let lacking = wanted.saturating_sub(number(HugePages::FREE));
        fs::write(HugePages::NUMBER, (now + lacking).to_string()).ok()?;
        let pages = HugePages { before, _alone: alone };
        let free = number(HugePages::FREE);
        assert!(free >= wanted, "{wanted} huge pages are asked for, and {free} are to be had");
        Some(pages)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = fs::write(HugePages::NUMBER, self.before.to_string());
    }
}

/// Private and shared, memfds mapped and open; inherited address spaces and others.
#[test]
fn huge_pages() {
    let _pages = HugePages::free(PAGES);
    huge().run();
    huge().sharing("keep").rounds(1).run();
}

/// System V segments of them, of several tasks, in parts, marked, of nobody.
#[test]
fn huge_segments() {
    let _pages = HugePages::free(PAGES);
    let segments = || {
        let cannot = "it restores no parts of segments, and no marks";
        Scenario::program("sysv", &["huge"]).in_an_ipc_namespace().criu_cannot(cannot)
    };
    segments().run();
    segments().sharing("keep").by_plan().rounds(1).run();
}

/// A file of them, on a hugetlbfs.
#[test]
fn files_of_huge_pages() {
    let _pages = HugePages::free(PAGES);
    let files = || Scenario::program("kinds", &["hugetlbfs"]);
    files().run();
    files().sharing("keep").rounds(1).run();
}

/// When there are not enough of them, nothing is begun; nor by a plan that was stored when there were.
#[test]
fn too_few_huge_pages() {
    let pages = HugePages::free(PAGES);
    let Some(mut dumped) = Dumped::program("kinds", &["huge"]) else { return };
    let images = dumped.images_dir().display().to_string();
    let plan = dumped.file("huge.plan").display().to_string();
    let stored = dumped.regrow(&["plan", "-D", &images, "--out", &plan]);
    assert_eq!(stored.code, Some(0), "{}", stored.text);
    fs::write(HugePages::NUMBER, "3").expect("root may");
    let checked = dumped.regrow(&["check", &images]);
    assert_eq!(checked.code, Some(7), "{}", checked.text);
    let words = "huge pages of 2097152 bytes are needed, and 3 are free";
    assert!(checked.text.contains(words) && checked.text.contains("[memfd.img entry"), "{}", checked.text);
    let restored = dumped.restore(&["--plan", &plan]);
    let words = "here it is only 3";
    assert!(restored.code == Some(1) && restored.text.contains(words), "{}", restored.text);
    dumped.check_nothing_left("restore without huge pages");
    drop(pages);
}

/// /dev/zero, views of one memory that differ in what is reserved, tmpfs, a memfd that nobody may execute.
#[test]
fn shared_memory_by_other_ways() {
    Scenario::program("kinds", &["shared"])
        .criu_changes(&["/dev/zero (deleted)", "became"], "CRIU maps a memfd instead")
        .run();
}

fn huge() -> Scenario {
    Scenario::program("kinds", &["huge"])
        .criu_changes(&["/anon_hugepage (deleted)", "became"], "CRIU maps a memfd instead")
}
