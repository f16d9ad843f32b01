//! Names that files have lost: `names DIR`.
//!
//! A file had two names and was opened by each; a FIFO has no name any more and holds data; another file
//! was opened by a name that is gone and has one still. After the restore each is what it was, under
//! the name by which it was opened.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use regrow_test_programs::{Task, pattern};

/// The name of what is open, without the mark of a name that is gone.
fn name_of(file: &File) -> PathBuf {
    let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("a link");
    let text = link.to_string_lossy().into_owned();
    PathBuf::from(text.trim_end_matches(" (deleted)"))
}

fn inode(file: &File) -> (u64, u64) {
    let stat = file.metadata().expect("fstat");
    (stat.dev(), stat.ino())
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect("open")
}

fn main() {
    let mut task = Task::root();

    let [first, second] = ["first", "second"].map(|name| task.file(name));
    fs::write(&first, pattern(1, 5000)).expect("write");
    fs::hard_link(&first, &second).expect("link");
    let by_name = [open(&first), open(&second)];

    let fifo = task.file("fifo");
    mkfifo(&fifo, Mode::from_bits_truncate(0o640)).expect("mkfifo");
    std::os::unix::fs::chown(&fifo, Some(21), Some(22)).expect("chown");
    let mut reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).expect("open");
    let mut writer = OpenOptions::new().write(true).open(&fifo).expect("open");
    writer.write_all(b"in the pipe").expect("write");

    let [kept, lost] = ["kept", "lost"].map(|name| task.file(name));
    fs::write(&kept, b"kept").expect("write");
    fs::hard_link(&kept, &lost).expect("link");
    let by_lost = [open(&lost), open(&lost)];
    let by_kept = open(&kept);

    for gone in [&first, &second, &fifo, &lost] {
        fs::remove_file(gone).expect("unlink");
    }
    let child_writer = writer.try_clone().expect("dup");
    task.spawn("writer", move |task| {
        task.park();
        task.check("the FIFO takes more", { &child_writer }.write_all(b", and more").is_ok());
    });
    let fifo_before = reader.metadata().expect("fstat");
    task.park();

    task.check_eq("first name", name_of(&by_name[0]), first.clone());
    task.check_eq("second name", name_of(&by_name[1]), second.clone());
    task.check_eq("both are one file", inode(&by_name[0]), inode(&by_name[1]));
    by_name[0].write_all_at(b"seen by the other", 100).expect("write");
    let mut bytes = vec![0; 5000];
    by_name[1].read_exact_at(&mut bytes, 0).expect("read");
    let mut wanted = pattern(1, 5000);
    wanted[100..117].copy_from_slice(b"seen by the other");
    task.check_eq("content", bytes, wanted);

    let fifo_after = reader.metadata().expect("fstat");
    task.check_eq("name of the FIFO", [name_of(&reader), name_of(&writer)], [fifo.clone(), fifo.clone()]);
    task.check_eq(
        "mode, owner and links of the FIFO",
        (fifo_after.mode(), fifo_after.uid(), fifo_after.gid(), fifo_after.nlink()),
        (fifo_before.mode(), fifo_before.uid(), fifo_before.gid(), 0),
    );
    task.check_eq("both ends are of one FIFO", inode(&reader), inode(&writer));

    task.check_eq("a name that is gone", name_of(&by_lost[0]), lost.clone());
    task.check_eq("the name that is there", name_of(&by_kept), kept.clone());
    let inodes = [&by_lost[0], &by_lost[1], &by_kept].map(inode);
    task.check("all are one file", inodes.iter().all(|of| *of == inodes[0]));
    task.check_eq("it has one name", by_kept.metadata().expect("fstat").nlink(), 1);
    by_lost[0].write_all_at(b"K", 0).expect("write");
    task.check_eq("what was written by the lost name", fs::read(&kept).expect("read"), b"Kept".to_vec());

    task.collect();
    let mut text = Vec::new();
    drop(writer);
    let _ = reader.read_to_end(&mut text);
    task.check_eq("what was in the FIFO", text, b"in the pipe, and more".to_vec());
    for gone in [&first, &second, &fifo, &lost] {
        task.check("nothing is left", !gone.exists());
    }
    let left = fs::read_dir(task.file("")).expect("the directory").filter_map(Result::ok);
    let remaps = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("link_remap"));
    task.check_eq("no name of CRIU's is left", remaps.count(), 0);
    task.finish();
}
