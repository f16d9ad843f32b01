//! A chain of tasks, each the only child of the one above: `deep DIR [DEPTH]`.
//!
//! Every task opens one file or pipe of its own, inherits those of all tasks above it and drops some of
//! them, so that no two descriptor tables of the chain are equal.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use nix::unistd::{pipe, read, write};
use regrow_test_programs::{Task, pattern};

/// What one task of the chain has opened, as those below it see it.
enum Opened {
    File(File),
    Pipe(OwnedFd, OwnedFd),
    Dropped,
}

fn main() {
    let depth: u32 = std::env::args().nth(2).map_or(40, |text| text.parse().expect("the depth is a number"));
    let mut task = Task::root();
    level(&mut task, 0, depth, &mut Vec::new());
    task.finish();
}

fn level(task: &mut Task, number: u32, depth: u32, opened: &mut Vec<Opened>) {
    opened.push(open(task, number));
    if number + 1 < depth {
        task.spawn(&format!("level{}", number + 1), |task| {
            // Each level drops another part of what the tasks above it hold.
            for (index, open) in opened.iter_mut().enumerate() {
                if (index + number as usize) % 7 == 3 {
                    *open = Opened::Dropped;
                }
            }
            level(task, number + 1, depth, opened);
        });
    }
    let numbers = descriptors();
    let length = if number.is_multiple_of(2) { 100 + u64::from(number) } else { 0 };
    task.park();
    task.check_eq("descriptors", descriptors(), numbers);
    match opened.last_mut() {
        Some(Opened::File(file)) => {
            let position = task.check_ok("position", file.stream_position());
            task.check_eq("position", position, Some(length));
            let mut content = Vec::new();
            let _ = task.check_ok("seek", file.seek(SeekFrom::Start(0)));
            let _ = task.check_ok("read", file.read_to_end(&mut content));
            task.check("file content", content == pattern(u64::from(number), 200));
        }
        Some(Opened::Pipe(reader, writer)) => {
            // Others hold this pipe, but only the task that made it uses it.
            let written = task.check_ok("write", write(&*writer, b"through"));
            task.check_eq("written", written, Some(7));
            let mut bytes = [0; 7];
            let count = task.check_ok("read", read(&*reader, &mut bytes));
            task.check_eq("read", count, Some(7));
            task.check_eq("bytes", &bytes, b"through");
        }
        Some(Opened::Dropped) | None => task.fail("nothing opened"),
    }
}

fn open(task: &Task, number: u32) -> Opened {
    if number % 2 == 1 {
        let (reader, writer) = pipe().expect("pipe");
        return Opened::Pipe(reader, writer);
    }
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(task.file(&format!("file{number}")))
        .expect("open");
    file.write_all(&pattern(u64::from(number), 200)).expect("write");
    file.seek(SeekFrom::Start(100 + u64::from(number))).expect("seek");
    Opened::File(file)
}

/// The numbers in use.
fn descriptors() -> Vec<i32> {
    (0..1024)
        .filter(|number| {
            // SAFETY: F_GETFD only looks.
            unsafe { libc::fcntl(*number, libc::F_GETFD) >= 0 }
        })
        .collect()
}
