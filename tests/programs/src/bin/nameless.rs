//! Files without a name: `nameless DIR`.
//!
//! The root has memfds (written, sealed, opened a second time), an unlinked sparse file that is open in
//! several ways, and an unlinked file in an unlinked directory; a child of it works in that directory,
//! another has a file of /proc about itself open. After the restore each finds what it had: contents,
//! positions, flags, seals, permissions, owners, times and names.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use regrow_test_programs::{Task, pattern};

/// What must be the same afterwards.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    link: String,
    flags: i32,
    position: u64,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: u64,
    blocks_are_few: bool,
    modified: (i64, i64),
    seals: Option<i32>,
}

fn link(fd: BorrowedFd<'_>) -> String {
    let path = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("a link");
    path.to_string_lossy().into_owned()
}

fn see(file: &File) -> Seen {
    use std::os::fd::AsFd;
    let stat = file.metadata().expect("fstat");
    let is_memfd = link(file.as_fd()).starts_with("/memfd:");
    Seen {
        link: link(file.as_fd()),
        flags: fcntl(file, FcntlArg::F_GETFL).expect("F_GETFL") & !OFlag::O_LARGEFILE.bits(),
        position: if stat.is_dir() { 0 } else { { file }.stream_position().expect("lseek") },
        mode: stat.mode(),
        owner: (stat.uid(), stat.gid()),
        links: stat.nlink(),
        size: if stat.is_dir() { 0 } else { stat.size() },
        blocks_are_few: stat.is_dir() || stat.blocks() * 512 <= stat.size() / 2,
        // Images have the times of files to the microsecond, and none of memfds.
        modified: if is_memfd { (0, 0) } else { (stat.mtime(), stat.mtime_nsec() / 1000) },
        seals: is_memfd.then(|| fcntl(file, FcntlArg::F_GET_SEALS).expect("F_GET_SEALS")),
    }
}

fn memfd(name: &std::ffi::CStr, bytes: &[u8]) -> File {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_ALLOW_SEALING).expect("memfd_create"));
    file.write_all(bytes).expect("write");
    file
}

fn reopen(file: &File, how: &OpenOptions) -> File {
    how.open(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("reopen")
}

fn main() {
    let mut task = Task::root();

    let mut plain = memfd(c"plain", &pattern(1, 10_000));
    plain.seek(SeekFrom::Start(77)).expect("lseek");
    let mut read_only = reopen(&plain, OpenOptions::new().read(true));
    read_only.seek(SeekFrom::Start(5)).expect("lseek");
    let append = reopen(&plain, OpenOptions::new().append(true));
    let sealed = memfd(c"sealed", b"for ever");
    let all =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&sealed, FcntlArg::F_ADD_SEALS(all)).expect("F_ADD_SEALS");
    let odd = memfd(c"odd", b"");
    odd.set_permissions(fs::Permissions::from_mode(0o640)).expect("chmod");
    std::os::unix::fs::fchown(&odd, Some(7), Some(8)).expect("chown");

    let path = task.file("unlinked");
    // As mkstemp(3) opens in Python and others.
    let mut how = OpenOptions::new();
    how.read(true).write(true).create_new(true).mode(0o604).custom_flags(libc::O_NOFOLLOW);
    let mut gone = how.open(&path).expect("open");
    gone.write_all_at(&pattern(2, 3000), 0).expect("write");
    gone.write_all_at(b"far", 500_000).expect("write");
    gone.set_len(600_000).expect("truncate");
    gone.seek(SeekFrom::Start(100)).expect("lseek");
    let gone_again = OpenOptions::new().append(true).open(&path).expect("open");
    std::os::unix::fs::fchown(&gone, Some(11), Some(12)).expect("chown");
    fs::remove_file(&path).expect("unlink");
    // Another one of the same name.
    let mut second = how.append(true).open(&path).expect("open");
    second.write_all(b"second").expect("write");
    fs::remove_file(&path).expect("unlink");

    let directory = task.file("directory");
    fs::create_dir(&directory).expect("mkdir");
    let inside = directory.join("inside");
    let mut within = OpenOptions::new().read(true).write(true).create_new(true).open(&inside).expect("open");
    within.write_all(b"inside").expect("write");
    let opened = File::open(&directory).expect("open");
    let removed = directory.clone();
    task.spawn("inside", move |task| {
        std::env::set_current_dir(&removed).expect("chdir");
        fs::remove_file("inside").expect("unlink");
        fs::remove_dir(&removed).expect("rmdir");
        let cwd = || fs::read_link("/proc/self/cwd").expect("a link").to_string_lossy().into_owned();
        task.park();
        task.check_eq("working directory", cwd(), format!("{} (deleted)", removed.display()));
    });
    task.spawn("about", |task| {
        let mut stat = File::open(format!("/proc/{}/stat", std::process::id())).expect("open");
        task.park();
        let mut text = String::new();
        stat.read_to_string(&mut text).expect("read");
        task.check("a file about the task itself", text.starts_with(&format!("{} (", std::process::id())));
    });
    // It removes the directory.
    while !task.file("ready.inside").exists() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }

    let files = [
        ("a memfd", &plain),
        ("a memfd for reading", &read_only),
        ("a memfd for appending", &append),
        ("a sealed memfd", &sealed),
        ("an empty memfd", &odd),
        ("an unlinked file", &gone),
        ("an unlinked file for appending", &gone_again),
        ("another of the same name", &second),
        ("a file in an unlinked directory", &within),
        ("an unlinked directory", &opened),
    ];
    let before: Vec<Seen> = files.iter().map(|(_, file)| see(file)).collect();
    task.park();
    for ((what, file), before) in files.iter().zip(before) {
        task.check_eq(what, see(file), before);
    }

    let read = |file: &File, at: u64, len: usize| {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, at).map(|()| bytes).unwrap_or_default()
    };
    task.check_eq("content of a memfd", read(&read_only, 0, 10_000), pattern(1, 10_000));
    task.check_eq("content of a sealed memfd", read(&sealed, 0, 8), b"for ever".to_vec());
    task.check("a sealed memfd cannot be written", { &sealed }.write(b"x").is_err());
    task.check_eq("content of an unlinked file", read(&gone, 0, 3000), pattern(2, 3000));
    task.check_eq("its end", read(&gone, 500_000, 3), b"far".to_vec());
    task.check_eq("its hole", read(&gone, 100_000, 4), vec![0; 4]);
    task.check_eq("content of the other", read(&second, 0, 6), b"second".to_vec());
    task.check_eq("content in an unlinked directory", read(&within, 0, 6), b"inside".to_vec());
    // One file at two descriptions.
    { &gone_again }.write_all(b"more").expect("write");
    task.check_eq("what the other description wrote", read(&gone, 600_000, 4), b"more".to_vec());
    { &append }.write_all(b"more").expect("write");
    task.check_eq("what the other description wrote", read(&plain, 10_000, 4), b"more".to_vec());
    task.check("nothing is left", !path.exists() && !directory.exists());
    task.collect();
    task.finish();
}
