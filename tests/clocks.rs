//! Clocks: where the host's would run backwards or the tree had a time namespace of its own.

mod support;

use std::fs;

use support::Scenario;
use support::dumped::Dumped;

#[test]
fn a_time_namespace() {
    Scenario::program("uptime", &[])
        .started_by(&["unshare", "--time", "--monotonic", "1000000", "--boottime", "2000000"])
        .in_a_time_namespace()
        .run();
}

#[test]
fn what_criu_has_restored() {
    Scenario::program("uptime", &[]).after_criu().in_a_time_namespace().run();
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A field of a protobuf message that is a message itself.
fn nested(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, content.len() as u8], content].concat()
}

#[test]
fn a_host_that_is_behind() {
    const AHEAD_S: u64 = 5_000_000;
    let Some(mut tree) = Dumped::program("uptime", &[&AHEAD_S.to_string()]) else { return };
    // As if the host of the dump had been up for so much longer.
    let uptime = fs::read_to_string("/proc/uptime").expect("uptime");
    let uptime_s: f64 = uptime.split_whitespace().next().expect("seconds").parse().expect("seconds");
    let seconds = uptime_s as u64 + AHEAD_S + 60;
    let path = tree.images_dir().join("timens-0.img");
    let image = fs::read(&path).expect("the clocks of the dump");
    let time = [&[1 << 3][..], &varint(seconds), &[2 << 3, 0]].concat();
    let clocks = [nested(1, &time), nested(2, &time)].concat();
    let altered = [&image[..8], &(clocks.len() as u32).to_le_bytes(), &clocks].concat();
    fs::write(&path, altered).expect("write");
    tree.accept_files();

    let plan = tree.shell("$REGROW plan $IMAGES");
    assert_eq!(plan.code, Some(0), "{}", plan.text);
    let words = format!("CLOCK_MONOTONIC goes on from {seconds}.000000000 s");
    assert!(plan.text.contains(&words), "{}", plan.text);
    let lacking = tree.shell("setpriv --bounding-set -sys_time -- $REGROW check $IMAGES");
    assert_eq!(lacking.code, Some(7), "{}", lacking.text);
    assert!(lacking.text.contains("CAP_SYS_TIME"), "{}", lacking.text);

    let restored = tree.restore(&["-o", "behind.log", "--pidfile", "pid"]);
    assert_eq!(restored.code, Some(0), "{}", restored.text);
    let offsets = tree.shell("cat /proc/$ROOT/timens_offsets").text;
    let is_ahead = |line: &str| {
        line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).is_some_and(|s: u64| s >= AHEAD_S)
    };
    assert!(offsets.lines().count() == 2 && offsets.lines().all(is_ahead), "{offsets}");
    tree.check_restored("a host that is behind");
}
