//! Trees whose vDSO is another than the running kernel's.

mod support;

use support::Scenario;
use support::dumped::Dumped;

/// The same kernel: the vDSO comes back as it was.
#[test]
fn clocks_of_this_kernel() {
    Scenario::program("clocks", &[]).run();
}

/// Dumped under Debian's kernel, restored under the running one.
#[test]
fn clocks_of_another_kernel() {
    let Some(mut dumped) = Dumped::under_another_kernel("clocks", &[]) else { return };
    let ended = dumped.regrow(&["check", dumped.images_dir().to_str().expect("UTF-8")]);
    eprintln!("{}", ended.text);
    let ended = dumped.restore(&[]);
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    dumped.check_restored("restored on another kernel");
}
