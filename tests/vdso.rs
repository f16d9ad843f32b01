//! Trees whose vDSO is another than the running kernel's.
//!
//! The other kernel is real: Debian's, booted by an emulator (`scripts/provide-guest`), under which CRIU
//! dumps the same program.

mod support;

use std::fs;
use std::os::unix::fs::FileExt;

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

/// A byte that means nothing makes a vDSO another one: of this kernel's in everything that matters. A thread
/// reads the clock all the time: where the dump has caught it inside of code that would not be there any
/// more, the images are refused by name; elsewhere they are restored, and it goes on. With the byte as it
/// was, the task comes back as if it had never been elsewhere.
#[test]
fn threads_within_another_vdso() {
    let Some(mut dumped) = Dumped::program("clocks", &["busy"]) else { return };
    let images = dumped.images_dir().to_str().expect("UTF-8").to_owned();
    let words = format!("thread {}: it was stopped", dumped.root() + 1);
    // How often the thread was refused, and how often restored: to be led, and back.
    let (mut refused, mut restored) = ([0; 2], [0; 2]);
    let mut is_led = false;
    for _ in 0..100 {
        let to_be_led = !is_led;
        mark_as_other(&mut dumped, to_be_led);
        let ended = dumped.regrow(&["check", &images]);
        if ended.code == Some(0) {
            restored[usize::from(is_led)] += 1;
            is_led = to_be_led;
        } else {
            refused[usize::from(is_led)] += 1;
            assert!(ended.text.contains(&words), "{}", ended.text);
            assert!(ended.text.contains("of a vDSO that is not this kernel's"), "{}", ended.text);
            let failed = dumped.restore(&[]);
            assert_eq!(failed.code, Some(1), "{}", failed.text);
            dumped.check_nothing_left("refused");
            // To where it was it can always go.
            mark_as_other(&mut dumped, is_led);
        }
        let ended = dumped.regrow(&["check", &images]);
        assert_eq!(ended.code, Some(0), "{}", ended.text);
        let says_so = ended.text.contains("functions lead to the vDSO of this kernel");
        assert_eq!(says_so, is_led, "{}", ended.text);
        restore(&mut dumped, "a busy thread");
        if is_led {
            check_maps(&mut dumped, "a busy thread");
        }
        if !is_led && refused.iter().chain(&restored).all(|count| *count > 0) {
            break;
        }
        dumped.dump_again();
    }
    let maps = dumped.shell("cat /proc/$ROOT/maps").text;
    let code = maps.lines().filter(|line| line.ends_with("[vdso]")).count();
    let nameless = maps.lines().filter(|line| line.contains(" r-xp ") && line.contains(" 00:00 0 ")).count();
    assert_eq!((code, nameless), (1, 1), "nothing is left of the detour:\n{maps}");
    dumped.check_restored("back");
    assert!(
        refused.iter().chain(&restored).all(|count| *count > 0),
        "{refused:?} refused, {restored:?} restored"
    );
}

/// Makes the dumped vDSO another one than this kernel's, or this kernel's again, by a byte of its header that
/// nobody reads (EI_PAD, elf(5)).
fn mark_as_other(dumped: &mut Dumped, is_other: bool) {
    const PAD: usize = 15;
    const PAGE: usize = 4096;
    let own = regrow::host::gather_vdso().expect("this kernel has a vDSO").bytes;
    let mut found = 0;
    for entry in fs::read_dir(dumped.images_dir()).expect("images") {
        let path = entry.expect("an image").path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pages-")) {
            continue;
        }
        let pages = fs::read(&path).expect("pages");
        for at in (0..pages.len()).step_by(PAGE) {
            let page = &pages[at..];
            if page[..PAD] == own[..PAD] && page[PAD + 1..64] == own[PAD + 1..64] {
                found += 1;
                let file = fs::OpenOptions::new().write(true).open(&path).expect("pages");
                file.write_all_at(&[u8::from(is_other)], (at + PAD) as u64).expect("written");
            }
        }
    }
    assert_eq!(found, 1, "vDSOs in the images");
    dumped.accept_files();
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
    let (_, led) = line.split_once("; ").unwrap_or_default();
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
