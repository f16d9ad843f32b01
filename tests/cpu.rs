//! What is in a task's registers.

mod support;

use support::Scenario;

#[test]
fn registers_of_all_kinds() {
    Scenario::program("fpu_regs", &[]).run();
}
