//! Trees whose vDSO is another than the running kernel's.
//!
//! The other kernel is real: Debian's, booted by an emulator (`scripts/provide-guest`), under which CRIU
//! dumps the same program.

mod support;

use support::Scenario;
use support::dumped::Dumped;

/// The same kernel: the vDSO comes back as it was.
#[test]
fn clocks_of_this_kernel() {
    Scenario::program("clocks", &[]).run();
}

/// Dumped under Debian's kernel, restored under the running one; dumped and restored there again, by
/// regrow and by CRIU. The program finds the clocks right in every way that programs read them.
#[test]
fn clocks_of_another_kernel() {
    let Some(mut dumped) = Dumped::under_another_kernel("clocks", &[]) else { return };
    let functions = check_is_led(&mut dumped, "from the other kernel");
    restore(&mut dumped, "from the other kernel");
    check_maps(&mut dumped, "from the other kernel");

    // CRIU takes the running kernel's vDSO for what it is, and stores the dumped one, jumps included.
    dumped.dump_again();
    assert_eq!(check_is_led(&mut dumped, "dumped again"), functions);
    restore(&mut dumped, "dumped again");
    check_maps(&mut dumped, "dumped again");

    dumped.dump_again();
    let ended = dumped.restore_by_criu();
    assert_eq!(ended.code, Some(0), "by CRIU: {}\n{}", ended.text, dumped.work_text("restore.log"));
    check_maps(&mut dumped, "by CRIU");

    // What CRIU has led to the running kernel's vDSO comes back, too.
    dumped.dump_again();
    assert_eq!(check_is_led(&mut dumped, "led by CRIU"), functions);
    restore(&mut dumped, "led by CRIU");
    check_maps(&mut dumped, "led by CRIU");
    dumped.check_restored("after four restores");
}

fn restore(dumped: &mut Dumped, what: &str) {
    let ended = dumped.restore(&[]);
    assert_eq!(ended.code, Some(0), "{what}: {}", ended.text);
}

/// Demands a certificate that says how many functions lead to this kernel's vDSO; gives their number.
fn check_is_led(dumped: &mut Dumped, what: &str) -> u32 {
    let images = dumped.images_dir();
    let ended = dumped.regrow(&["check", images.to_str().expect("UTF-8")]);
    assert_eq!(ended.code, Some(0), "{what}: {}", ended.text);
    let line = ended.text.lines().find(|line| line.contains("address spaces")).unwrap_or_default();
    let (_, led) = line.split_once("; ").and_then(|(_, rest)| rest.split_once("; ")).unwrap_or_default();
    let count = led.strip_suffix(" functions lead to the vDSO of this kernel").and_then(|it| it.parse().ok());
    count.unwrap_or_else(|| panic!("{what}: {}", ended.text))
}

/// The task has one vDSO of this kernel, and the one that its auxiliary vector names is another: private,
/// not writable, and executable.
fn check_maps(dumped: &mut Dumped, what: &str) {
    let maps = dumped.shell("cat /proc/$ROOT/maps").text;
    // AT_SYSINFO_EHDR is 33; words are in the byte order of the machine.
    let auxv = dumped.shell("od -An -v -tx8 -w16 /proc/$ROOT/auxv").text;
    let named = auxv.lines().find_map(|line| line.trim().strip_prefix("0000000000000021 ")).expect("a vDSO");
    let named = named.trim_start_matches('0');
    let of_kernel = maps.lines().filter(|line| line.ends_with("[vdso]")).count();
    assert_eq!(of_kernel, 1, "{what}:\n{maps}");
    let line = maps.lines().find(|line| line.starts_with(named)).unwrap_or_default();
    assert!(line.contains(" r-xp ") && !line.ends_with("[vdso]"), "{what}: {named}\n{maps}");
}
