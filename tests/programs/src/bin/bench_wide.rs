//! Many children that share nothing but what fork gives them: `bench_wide DIR [COUNT]`, 1000 unless said.
//! For benchmarks; it checks itself like the other programs.

use regrow_test_programs::Task;

fn main() {
    let count: u32 =
        std::env::args().nth(2).map_or(1000, |text| text.parse().expect("the count is a number"));
    let mut task = Task::root();
    for number in 0..count {
        task.spawn(&format!("child{number}"), Task::park);
    }
    task.park();
    task.finish();
}
