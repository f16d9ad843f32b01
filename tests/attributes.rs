//! The checker's attribute table against the running kernel, row by row. (What the checker makes of the
//! table is tested where it is, in graph/src/verify/attribute/tests.rs and src/certify/tests.rs.)

mod support;

use std::process::Command;

use regrow_graph::verify::attribute::TABLE;

#[test]
fn every_row_is_as_the_kernel_has_it() {
    let Some(program) = support::program("attribute_rows") else { return };
    let output = Command::new(program)
        .arg("flipped")
        // The program registers and asks for its own area.
        .env("GLIBC_TUNABLES", "glibc.pthread.rseq=0")
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    let mut tested = 0;
    for row in &TABLE {
        let line = said.lines().find_map(|line| line.strip_prefix(&format!("row {}: ", row.name)));
        match line {
            Some("as the kernel has it") => tested += 1,
            Some("not in this kernel") => support::say(&format!("{}: not in this kernel", row.name)),
            other => panic!("{}: {other:?}\n{said}", row.name),
        }
    }
    support::say(&format!("{tested} of {} rows tested on this kernel", TABLE.len()));
    // Login uids and chosen ids of timers are all that a kernel may lack.
    assert!(tested + 2 >= TABLE.len());
}
