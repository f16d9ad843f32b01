//! An IPC namespace and what lives in it: `sysv DIR PART`. The root makes the namespace, sets limits in it, and has objects
//! in common with a child and a grandchild.
//!
//! | part | has |
//! |---|---|
//! | `plain` | segments of several tasks and addresses, one to be read only, one in parts of different protection, a sparse one, one that nobody has; message queues; semaphore sets |
//! | `more` | what CRIU does not bring back: segments that are marked for removal, locked, made by another user than their owner, of which a part is mapped, or mapped elsewhere; a queue that holds more than it may |
//! | `huge` | segments of huge pages: of several tasks, to be read only, in parts and elsewhere, marked for removal, of nobody |
//! | `limits` | limits that were lowered below what is in use; segments that go with their last attachment, marked or not |
//!
//! Memory is compared from outside, too. What the namespace says of itself (`/proc/sysvipc`, `/proc/sys`) is compared here,
//! and that a write of one task is seen by the others, and that what is marked goes with its last attachment.

use std::fs;
use std::io;
use std::ptr::null_mut;

use regrow_test_programs::area::{Area, PAGE};
use regrow_test_programs::{Task, wait_for_file};

const NOBODY: libc::uid_t = 65534;
const NO_GROUP: libc::gid_t = 65533;

fn main() {
    let mut task = Task::root();
    // SAFETY: the program has one thread; nothing else is touched.
    done("unshare", unsafe { libc::unshare(libc::CLONE_NEWIPC) });
    match std::env::args().nth(2).as_deref() {
        Some("plain") => plain(&mut task),
        Some("more") => more(&mut task),
        Some("limits") => limits(&mut task),
        Some("huge") => huge(&mut task),
        other => panic!("there is no part {other:?}"),
    }
    let _ = fs::remove_file(task.file("compared"));
    task.finish();
}

fn done(what: &str, result: i32) -> i32 {
    assert!(result >= 0, "{what}: {}", io::Error::last_os_error());
    result
}

/// A new segment.
fn segment(key: libc::key_t, bytes: usize, mode: i32) -> i32 {
    // SAFETY: makes a segment, and touches no memory.
    done("shmget", unsafe { libc::shmget(key, bytes, libc::IPC_CREAT | libc::IPC_EXCL | mode) })
}

/// Attaches a segment of so many bytes where there is room.
fn attach(id: i32, bytes: usize, flags: i32) -> Area {
    // SAFETY: no address is given, so nothing is replaced.
    let start = unsafe { libc::shmat(id, null_mut(), flags) };
    assert!(start as isize != -1, "shmat: {}", io::Error::last_os_error());
    Area { start: start.cast(), bytes }
}

/// Fills a segment that the task does not keep.
fn fill(id: i32, bytes: usize, seed: u64) {
    let area = attach(id, bytes, 0);
    area.fill(seed);
    detach(area);
}

fn detach(area: Area) {
    // SAFETY: nothing uses the area afterwards.
    done("shmdt", unsafe { libc::shmdt(area.start.cast()) });
}

/// Whether a mapping can be made writable.
fn may_write(area: Area) -> bool {
    // SAFETY: only the protection is asked to change.
    unsafe { libc::mprotect(area.start.cast(), PAGE, libc::PROT_READ | libc::PROT_WRITE) == 0 }
}

fn control(id: i32, command: i32) -> io::Result<libc::shmid_ds> {
    // SAFETY: plain data, of which zeros are values.
    let mut ds: libc::shmid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one structure at most.
    let result = unsafe { libc::shmctl(id, command, &raw mut ds) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(ds) }
}

fn give_segment(id: i32, uid: libc::uid_t, gid: libc::gid_t, mode: libc::mode_t) {
    let mut ds = control(id, libc::IPC_STAT).expect("IPC_STAT");
    (ds.shm_perm.uid, ds.shm_perm.gid, ds.shm_perm.mode) = (uid, gid, mode as _);
    // SAFETY: the kernel reads one structure.
    done("IPC_SET", unsafe { libc::shmctl(id, libc::IPC_SET, &raw mut ds) });
}

/// Does something as another user, who is root again afterwards.
fn as_other<T>(make: impl FnOnce() -> T) -> T {
    let keep = libc::uid_t::MAX;
    // SAFETY: ids alone, of a task with one thread.
    unsafe {
        done("setresgid", libc::setresgid(keep, NO_GROUP, keep));
        done("setresuid", libc::setresuid(keep, NOBODY, keep));
    }
    let made = make();
    // SAFETY: as above.
    unsafe {
        done("setresuid", libc::setresuid(keep, 0, keep));
        done("setresgid", libc::setresgid(keep, 0, keep));
        done("PR_SET_DUMPABLE", libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0));
    }
    made
}

fn queue(key: libc::key_t, mode: i32) -> i32 {
    // SAFETY: makes a queue, and touches no memory.
    done("msgget", unsafe { libc::msgget(key, libc::IPC_CREAT | libc::IPC_EXCL | mode) })
}

#[repr(C)]
struct Message {
    kind: libc::c_long,
    text: [u8; 64],
}

fn send(id: i32, kind: libc::c_long, text: &[u8]) {
    let mut message = Message { kind, text: [0; 64] };
    message.text[..text.len()].copy_from_slice(text);
    // SAFETY: the message has room for its bytes.
    done("msgsnd", unsafe { libc::msgsnd(id, (&raw const message).cast(), text.len(), libc::IPC_NOWAIT) });
}

fn receive(id: i32, kind: libc::c_long) -> io::Result<(libc::c_long, Vec<u8>)> {
    let mut message = Message { kind: 0, text: [0; 64] };
    // SAFETY: the kernel writes at most as many bytes as there is room for.
    let len = unsafe { libc::msgrcv(id, (&raw mut message).cast(), 64, kind, libc::IPC_NOWAIT) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    Ok((message.kind, message.text[..len].to_vec()))
}

fn semaphores(key: libc::key_t, values: &[u16], mode: i32) -> i32 {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | mode;
    // SAFETY: makes a set, and touches no memory.
    let id = done("semget", unsafe { libc::semget(key, values.len() as i32, flags) });
    for (index, value) in (0..).zip(values) {
        // SAFETY: the argument is a number.
        done("SETVAL", unsafe { libc::semctl(id, index, libc::SETVAL, i32::from(*value)) });
    }
    id
}

fn values(id: i32, count: i32) -> Vec<i32> {
    // SAFETY: no memory is touched.
    (0..count).map(|index| unsafe { libc::semctl(id, index, libc::GETVAL) }).collect()
}

/// What the namespace says of its objects, but for times, last users and memory in use.
fn objects() -> Vec<String> {
    // /proc/sysvipc: key, id, permissions; of segments size, makers and users, attachments; ids of owner and maker.
    let columns: [(&str, &[usize]); 3] = [
        ("shm", &[0, 1, 2, 3, 6, 7, 8, 9, 10]),
        ("msg", &[0, 1, 2, 3, 4, 7, 8, 9, 10]),
        ("sem", &[0, 1, 2, 3, 4, 5, 6, 7]),
    ];
    let mut all = Vec::new();
    for (kind, columns) in columns {
        let text = fs::read_to_string(format!("/proc/sysvipc/{kind}")).expect("/proc/sysvipc");
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let kept: Vec<&str> = columns.iter().map(|column| words[*column]).collect();
            all.push(format!("{kind} {}", kept.join(" ")));
        }
    }
    all
}

fn variable(name: &str) -> String {
    format!("/proc/sys/{name}")
}

fn set_variable(name: &str, value: &str) {
    fs::write(variable(name), value).expect("a variable of the namespace");
}

fn variables() -> Vec<String> {
    let kernel =
        ["sem", "msgmax", "msgmnb", "msgmni", "auto_msgmni", "shmmax", "shmall", "shmmni", "shm_rmid_forced"];
    let mqueue = ["queues_max", "msg_max", "msgsize_max", "msg_default", "msgsize_default"];
    let kernel = kernel.iter().map(|name| format!("kernel/{name}"));
    let names = kernel.chain(mqueue.iter().map(|name| format!("fs/mqueue/{name}")));
    let line = |name: String| {
        let text = fs::read_to_string(variable(&name)).unwrap_or_default();
        format!("{name} {}", text.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    names.map(line).collect()
}

/// The root parks when all below are ready, compares what the namespace says, and lets the others go on.
fn park_root(task: &mut Task, below: &[&str]) {
    for name in below {
        assert!(wait_for_file(&task.file(&format!("ready.{name}"))), "{name} is not ready");
    }
    let before = [objects(), variables()];
    task.park();
    for (before, now) in before.iter().zip([objects(), variables()]) {
        for (before, now) in before.iter().zip(&now) {
            task.check_eq("of the namespace", now, before);
        }
        task.check_eq("how many", now.len(), before.len());
    }
    fs::write(task.file("compared"), "").expect("a file");
}

fn park_below(task: &mut Task) {
    task.park();
    task.check("the root has compared", wait_for_file(&task.file("compared")));
}

fn plain(task: &mut Task) {
    for (name, value) in [
        ("kernel/sem", "250 64000 64 256"),
        ("kernel/msgmax", "4096"),
        ("kernel/msgmnb", "20000"),
        ("kernel/shmmni", "100"),
        ("kernel/shmmax", "100000000"),
        ("fs/mqueue/msg_max", "7"),
        ("fs/mqueue/queues_max", "33"),
    ] {
        set_variable(name, value);
    }
    // Ids are not in a row, nor from 0 on.
    for _ in 0..3 {
        let gone = segment(libc::IPC_PRIVATE, PAGE, 0o600);
        control(gone, libc::IPC_RMID).expect("IPC_RMID");
    }
    let shared = segment(0x5245_4701, 5 * PAGE, 0o640);
    let sparse = segment(libc::IPC_PRIVATE, 600 * PAGE, 0o600);
    let nobodys = segment(0x5245_4702, 5000, 0o604);
    let empty = segment(0x5245_4703, 1, 0o600);
    fill(nobodys, 5000, 3);
    give_segment(nobodys, NOBODY, NO_GROUP, 0o462);
    let gone = segment(libc::IPC_PRIVATE, PAGE, 0o600);
    let last = segment(0x5245_4704, PAGE, 0o600);
    control(gone, libc::IPC_RMID).expect("IPC_RMID");
    fill(last, PAGE, 4);

    let whole = attach(shared, 5 * PAGE, 0);
    whole.part(PAGE, 2 * PAGE).fill(1);
    // Each part is a mapping.
    whole.part(PAGE, PAGE).protect(libc::PROT_READ);
    whole.part(3 * PAGE, PAGE).protect(libc::PROT_NONE);
    let holes = attach(sparse, 600 * PAGE, 0);
    holes.part(3 * PAGE, 2 * PAGE).fill(2);
    holes.part(599 * PAGE, PAGE).fill(5);
    let read_only = attach(sparse, 600 * PAGE, libc::SHM_RDONLY);

    let letters = queue(0x5245_4705, 0o620);
    send(letters, 7, b"the first");
    send(letters, 2, b"");
    send(letters, 7, &[9; 64]);
    let _none = queue(libc::IPC_PRIVATE, 0o600);
    let set = semaphores(0x5245_4706, &[0, 1, 32767, 5], 0o660);

    task.spawn("child", |task| {
        // Elsewhere, and once more to be read.
        detach(holes);
        let again = attach(sparse, 600 * PAGE, 0);
        let second = attach(shared, 5 * PAGE, libc::SHM_RDONLY);
        task.spawn("grandchild", |task| {
            detach(read_only);
            park_below(task);
            task.check("what the root has written", second.part(PAGE, 2 * PAGE).holds(1));
            again.part(50 * PAGE, PAGE).fill(21);
        });
        park_below(task);
        task.collect();
        task.check("the grandchild's page", again.part(50 * PAGE, PAGE).holds(21));
        task.check("the grandchild's page, elsewhere", read_only.part(50 * PAGE, PAGE).holds(21));
        task.check(
            "sparse",
            again.part(3 * PAGE, 2 * PAGE).holds(2) && again.part(599 * PAGE, PAGE).holds(5),
        );
        whole.part(0, PAGE).fill(22);
        task.check("the child's page, at its second address", second.part(0, PAGE).holds(22));
        detach(second);
        detach(whole);
    });
    park_root(task, &["child", "grandchild"]);
    task.collect();
    task.check("shared memory", whole.part(PAGE, 2 * PAGE).holds(1) && whole.part(4 * PAGE, PAGE).is_zero());
    task.check("the child's page", whole.part(0, PAGE).holds(22));
    task.check("the grandchild's page", read_only.part(50 * PAGE, PAGE).holds(21));
    task.check("holes", holes.part(5 * PAGE, 45 * PAGE).is_zero());
    let found = attach(nobodys, 5000, libc::SHM_RDONLY);
    task.check("what nobody had", found.holds(3));
    let found = attach(last, PAGE, 0);
    task.check("what nobody had either", found.holds(4));
    task.check("what nobody had ever", attach(empty, PAGE, 0).is_zero());
    task.check_eq("attachments", control(sparse, libc::IPC_STAT).map(|ds| ds.shm_nattch).ok(), Some(2));
    // SAFETY: one of a key that exists is looked for.
    let by_key = unsafe { libc::shmget(0x5245_4701, 0, 0) };
    task.check_eq("the key", by_key, shared);
    task.check_eq("a message", receive(letters, 7).ok(), Some((7, b"the first".to_vec())));
    task.check_eq("the next of all", receive(letters, 0).ok(), Some((2, Vec::new())));
    task.check_eq("the last", receive(letters, 0).ok(), Some((7, vec![9; 64])));
    task.check("nothing more", receive(letters, 0).is_err());
    task.check_eq("semaphores", values(set, 4), [0, 1, 32767, 5]);
}

fn more(task: &mut Task) {
    let marked = segment(libc::IPC_PRIVATE, 2 * PAGE, 0o600);
    let locked = segment(0x5245_4711, 3 * PAGE, 0o600);
    control(locked, 11).expect("SHM_LOCK");
    let others = as_other(|| segment(0x5245_4712, PAGE, 0o600));
    fill(others, PAGE, 6);
    give_segment(others, 1, 2, 0o660);
    let torn = segment(0x5245_4713, 9 * PAGE, 0o600);
    let whole = attach(torn, 9 * PAGE, 0);
    whole.fill(7);
    let held = attach(locked, 3 * PAGE, 0);
    held.fill(8);
    let read_only = attach(torn, 9 * PAGE, libc::SHM_RDONLY);
    // SAFETY: the range is mapped.
    done("mlock", unsafe { libc::mlock(held.start.cast(), 3 * PAGE) });
    let theirs = as_other(|| queue(0x5245_4714, 0o640));
    send(theirs, 1, &[5; 60]);
    send(theirs, 2, &[6; 60]);
    // SAFETY: plain data, of which zeros are values; the kernel writes and reads one structure.
    unsafe {
        let mut ds: libc::msqid_ds = std::mem::zeroed();
        done("IPC_STAT", libc::msgctl(theirs, libc::IPC_STAT, &raw mut ds));
        ds.msg_qbytes = 100;
        done("IPC_SET", libc::msgctl(theirs, libc::IPC_SET, &raw mut ds));
    }
    let sets = as_other(|| semaphores(libc::IPC_PRIVATE, &[3, 4], 0o600));

    task.spawn("child", |task| {
        let own = attach(marked, 2 * PAGE, 0);
        own.part(0, PAGE).fill(9);
        control(marked, libc::IPC_RMID).expect("IPC_RMID");
        // Only pieces are left, one of them elsewhere, one to be read.
        whole.part(PAGE, 2 * PAGE).unmap();
        whole.part(5 * PAGE, PAGE).protect(libc::PROT_READ);
        let room = Area::anonymous(2 * PAGE, libc::MAP_PRIVATE).expect("mmap");
        let from = whole.part(6 * PAGE, 2 * PAGE);
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: both ranges are the program's, and nothing points there.
        let moved = unsafe {
            libc::mremap(from.start.cast(), 2 * PAGE, 2 * PAGE, flags, room.start.cast::<libc::c_void>())
        };
        assert!(moved == room.start.cast(), "mremap: {}", io::Error::last_os_error());
        task.spawn("grandchild", |task| {
            own.part(PAGE, PAGE).fill(10);
            whole.part(0, PAGE).unmap();
            park_below(task);
            room.part(PAGE, PAGE).fill(23);
            task.check("what is attached to be read stays so", !may_write(read_only));
            own.part(0, PAGE).fill(24);
        });
        park_below(task);
        task.collect();
        task.check("what is marked", own.part(0, PAGE).holds(24) && own.part(PAGE, PAGE).holds(10));
        whole.part(0, PAGE).fill(25);
        task.check("what is left", control(marked, libc::IPC_STAT).is_ok());
    });
    park_root(task, &["child", "grandchild"]);
    task.collect();
    task.check("what is marked has gone", control(marked, libc::IPC_STAT).is_err());
    task.check("the grandchild's page", whole.part(7 * PAGE, PAGE).holds(23));
    task.check("the child's page", whole.part(0, PAGE).holds(25));
    task.check("locked", held.holds(8));
    let ds = control(others, libc::IPC_STAT).expect("IPC_STAT");
    let perm = ds.shm_perm;
    task.check_eq("ids", [perm.uid, perm.gid, perm.cuid, perm.cgid], [1, 2, NOBODY, NO_GROUP]);
    task.check("what another made", attach(others, PAGE, 0).holds(6));
    task.check_eq("messages", receive(theirs, 0).ok(), Some((1, vec![5; 60])));
    task.check_eq("messages", receive(theirs, 0).ok(), Some((2, vec![6; 60])));
    task.check_eq("semaphores", values(sets, 2), [3, 4]);
}

fn limits(task: &mut Task) {
    let large = segment(0x5245_4721, 40 * PAGE, 0o600);
    let area = attach(large, 40 * PAGE, 0);
    area.part(30 * PAGE, PAGE).fill(1);
    let small = segment(0x5245_4722, PAGE, 0o600);
    attach(small, PAGE, 0).fill(3);
    let set = semaphores(0x5245_4723, &[1, 2, 3, 4, 5, 6], 0o600);
    let letters = queue(0x5245_4724, 0o600);
    send(letters, 1, &[7; 50]);
    for (name, value) in [
        ("kernel/shmmax", "8192"),
        ("kernel/shmall", "4"),
        ("kernel/shmmni", "1"),
        ("kernel/sem", "2 3 1 1"),
        ("kernel/msgmni", "0"),
        ("kernel/shm_rmid_forced", "1"),
    ] {
        set_variable(name, value);
    }
    task.spawn("child", |task| {
        park_below(task);
        area.part(0, PAGE).fill(2);
    });
    park_root(task, &["child"]);
    task.collect();
    task.check("large", area.part(30 * PAGE, PAGE).holds(1) && area.part(0, PAGE).holds(2));
    detach(area);
    task.check("it goes with its last attachment", control(large, libc::IPC_STAT).is_err());
    task.check("another does not", control(small, libc::IPC_STAT).is_ok());
    task.check_eq("semaphores", values(set, 6), [1, 2, 3, 4, 5, 6]);
    task.check_eq("a message", receive(letters, 1).ok(), Some((1, vec![7; 50])));
}

/// The size of huge pages here.
const HUGE: usize = 2 << 20;
const HUGE_FLAGS: i32 = 0o4000 | libc::MAP_HUGE_2MB;

fn huge(task: &mut Task) {
    let shared = segment(0x5245_4731, 3 * HUGE, 0o640 | HUGE_FLAGS);
    let torn = segment(libc::IPC_PRIVATE, 4 * HUGE, 0o600 | HUGE_FLAGS);
    let marked = segment(libc::IPC_PRIVATE, HUGE, 0o600 | HUGE_FLAGS);
    let nobodys = segment(0x5245_4733, HUGE, 0o604 | HUGE_FLAGS);
    let small = segment(0x5245_4734, 3 * PAGE, 0o600);
    fill(nobodys, 5000, 3);
    give_segment(nobodys, NOBODY, NO_GROUP, 0o462);
    let usual = attach(small, 3 * PAGE, 0);
    usual.part(PAGE, PAGE).fill(4);

    let whole = attach(shared, 3 * HUGE, 0);
    whole.part(HUGE + 3 * PAGE, 2 * PAGE).fill(1);
    whole.part(HUGE, HUGE).protect(libc::PROT_READ);
    let read_only = attach(shared, 3 * HUGE, libc::SHM_RDONLY);
    let pieces = attach(torn, 4 * HUGE, 0);
    pieces.fill(2);

    task.spawn("child", |task| {
        let again = attach(shared, 3 * HUGE, 0);
        let own = attach(marked, HUGE, 0);
        own.part(0, PAGE).fill(5);
        control(marked, libc::IPC_RMID).expect("IPC_RMID");
        // The first is gone, two are elsewhere, and with something else between them and the second.
        pieces.part(0, HUGE).unmap();
        let room = Area::anonymous(4 * HUGE, libc::MAP_PRIVATE).expect("mmap");
        let place = room.part(room.start.align_offset(HUGE), 2 * HUGE);
        let from = pieces.part(2 * HUGE, 2 * HUGE);
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: both ranges are the program's, and nothing points there.
        let moved = unsafe {
            libc::mremap(from.start.cast(), 2 * HUGE, 2 * HUGE, flags, place.start.cast::<libc::c_void>())
        };
        assert!(moved == place.start.cast(), "mremap: {}", io::Error::last_os_error());
        task.spawn("grandchild", |task| {
            detach(whole);
            own.part(HUGE - PAGE, PAGE).fill(6);
            park_below(task);
            task.check("what is attached to be read stays so", !may_write_huge(read_only));
            task.check("what the root has filled", read_only.part(HUGE + 3 * PAGE, 2 * PAGE).holds(1));
            again.part(2 * HUGE, PAGE).fill(21);
            place.part(HUGE, PAGE).fill(22);
            own.part(PAGE, PAGE).fill(23);
        });
        park_below(task);
        task.collect();
        task.check("marked", own.part(0, PAGE).holds(5) && own.part(HUGE - PAGE, PAGE).holds(6));
        task.check("written by the grandchild", own.part(PAGE, PAGE).holds(23));
        task.check("elsewhere", place.part(HUGE, PAGE).holds(22));
        task.check("it is there still", control(marked, libc::IPC_STAT).is_ok());
        detach(own);
        task.check("it goes with its last attachment", control(marked, libc::IPC_STAT).is_err());
    });
    park_root(task, &["child", "grandchild"]);
    task.collect();
    task.check("the grandchild's page", whole.part(2 * HUGE, PAGE).holds(21));
    task.check("empty", whole.part(0, HUGE).is_zero() && read_only.part(0, HUGE).is_zero());
    task.check("the grandchild's page, seen in all of it", pieces.part(3 * HUGE, PAGE).holds(22));
    let content = regrow_test_programs::pattern(2, 4 * HUGE);
    task.check("pieces", pieces.part(0, 3 * HUGE).read() == content[..3 * HUGE]);
    task.check("what nobody had", attach(nobodys, 5000, libc::SHM_RDONLY).holds(3));
    task.check("the usual pages", usual.part(PAGE, PAGE).holds(4));
    // Each of the three parts of the first counts.
    task.check_eq("attachments", control(shared, libc::IPC_STAT).map(|ds| ds.shm_nattch).ok(), Some(4));
}

/// [`may_write`] of huge pages, which are protected as a whole.
fn may_write_huge(area: Area) -> bool {
    // SAFETY: only the protection is asked to change.
    unsafe { libc::mprotect(area.start.cast(), HUGE, libc::PROT_READ | libc::PROT_WRITE) == 0 }
}
