//! The reader as a whole, on the real directory `tests/images/pair` and on damaged copies of it.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;
use rayon::prelude::*;
use tempfile::TempDir;

use super::proto::{
    CgControllerEntry, CgroupDirEntry, CgroupEntry, CgroupPropEntry, CoreEntry, FileEntry, FownEntry,
    InventoryEntry, MemfdFileEntry, MemfdInodeEntry, MmEntry, PagemapEntry, PagemapHead, SeccompEntry,
    SeccompFilterEntry, VmaEntry,
};
use super::*;

mod ipc;
mod same;

fn pair() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/pair/images")
}

/// A copy of the directory, to damage.
struct Copy(TempDir);

impl Copy {
    fn new() -> Copy {
        let copy = Copy(tempfile::tempdir().unwrap());
        for name in names() {
            fs::copy(pair().join(&name), copy.path(&name)).unwrap();
        }
        copy
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// The entries of an image without raw bytes.
    fn entries(&self, name: &str) -> Vec<Vec<u8>> {
        let bytes = self.bytes(name);
        let mut rest = &bytes[if name == "inventory.img" { 4 } else { 8 }..];
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let len = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
            entries.push(rest[4..4 + len].to_vec());
            rest = &rest[4 + len..];
        }
        entries
    }

    /// Writes an image with the entries; of an image that is not there yet, with the magic of `kind`.
    fn set_entries(&self, name: &str, entries: &[Vec<u8>]) {
        let (kind, _) = magic::recognise(name).unwrap();
        let mut bytes = Vec::new();
        if name != "inventory.img" {
            bytes.extend(magic::COMMON_MAGIC.to_le_bytes());
        }
        bytes.extend(kind.magic.to_le_bytes());
        for entry in entries {
            bytes.extend((entry.len() as u32).to_le_bytes());
            bytes.extend(entry);
        }
        self.write(name, &bytes);
    }

    fn read(&self) -> Result<Model, ReadErrors> {
        read_model(self.0.path())
    }
}

fn names() -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(pair()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    // A restore leaves statistics beside the images.
    names.retain(|name| name.ends_with(".img"));
    names.sort();
    names
}

/// Damages a copy and compares all errors, without the directory.
fn check(damage: impl FnOnce(&Copy), expected: &[&str]) {
    let copy = Copy::new();
    damage(&copy);
    let found: Vec<String> = match copy.read() {
        Ok(_) => Vec::new(),
        Err(errors) => errors.errors().iter().map(ToString::to_string).collect(),
    };
    assert_eq!(found, expected);
}

/// The parts of the model that one would look at first.
fn summary(model: &Model) -> String {
    let mut out = String::new();
    for task in &model.tasks {
        let alive = task.alive().unwrap();
        let thread = &alive.threads[0];
        writeln!(
            out,
            "task {} of {} {:?} group {} session {}",
            task.pid, task.ppid, alive.comm, task.pgid, task.sid
        )
        .unwrap();
        writeln!(out, "  blocked {:#x} call {}", thread.blocked, thread.regs.orig_ax).unwrap();
        let fds: Vec<String> = alive
            .fds
            .iter()
            .map(|fd| format!("{}={}{}", fd.fd, fd.ofd_id, if fd.cloexec { "!" } else { "" }))
            .collect();
        writeln!(out, "  fds {}", fds.join(" ")).unwrap();
        let kinds: Vec<String> = alive.mm.vmas.iter().map(|vma| format!("{:?}", vma.kind)).collect();
        let mut kinds: Vec<&str> = kinds.iter().map(|kind| kind.split(' ').next().unwrap()).collect();
        kinds.dedup();
        writeln!(out, "  vmas {}", kinds.join(" ")).unwrap();
        let pages: u64 = alive.mm.pages.extents.iter().map(|extent| extent.len_pages).sum();
        writeln!(out, "  pages {pages} in pages-{}.img", alive.mm.pages.pages_id).unwrap();
    }
    for ofd in &model.ofds {
        let kind = match &ofd.kind {
            OfdKind::Reg(reg) => format!("{} flags {:#o}", reg.path, reg.flags),
            OfdKind::Pipe(pipe) => format!("pipe flags {:#o}", pipe.flags),
            OfdKind::Unix(socket) => {
                format!("unix type {} state {}", socket.sock_type, socket.state)
            }
            kind => format!("{kind:?}"),
        };
        writeln!(out, "ofd {} {kind}", ofd.id).unwrap();
    }
    for data in &model.pipe_data {
        let bytes = open_blob(model, &data.data).unwrap();
        writeln!(out, "pipe holds {:?} of {:?}", String::from_utf8(bytes).unwrap(), data.capacity_bytes)
            .unwrap();
    }
    for packet in &model.packets {
        let bytes = open_blob(model, &packet.data).unwrap();
        writeln!(out, "socket holds {:?}", String::from_utf8(bytes).unwrap()).unwrap();
    }
    out
}

#[test]
fn a_real_directory() {
    let model = read_model(&pair()).unwrap();
    let expected = "\
task 4711 of 0 \"pair\" group 4711 session 4711
  blocked 0x4000 call 128
  fds 0=2 1=3 2=3 3=4! 4=5! 5=6
  vmas FilePrivate AnonPrivate Vvar Vdso AnonPrivate Vsyscall
  pages 7 in pages-1.img
task 4713 of 4711 \"pair-child\" group 4711 session 4711
  blocked 0x4000 call 128
  fds 0=2 1=3 2=3 3=4! 6=9
  vmas FilePrivate AnonPrivate Vvar Vdso AnonPrivate Vsyscall
  pages 7 in pages-2.img
ofd 2 /dev/null flags 0o100000
ofd 3 /dev/null flags 0o100001
ofd 4 pipe flags 0o0
ofd 5 pipe flags 0o1
ofd 6 unix type 1 state 1
ofd 9 unix type 1 state 1
ofd 7 / flags 0o0
ofd 8 / flags 0o0
ofd 1 /tmp/pair flags 0o0
ofd 10 / flags 0o0
ofd 11 / flags 0o0
pipe holds \"in the pipe\" of Some(65536)
socket holds \"from child\"
socket holds \"from parent\"
";
    assert_eq!(summary(&model), expected);
    assert!(model.unread.is_empty(), "{:?}", model.unread);
    assert_eq!(model.inventory.img_version, 2);
    assert!(model.clocks.contains_key(&0));
    let alive = model.tasks[0].alive().unwrap();
    assert_eq!(alive.sigactions.len(), 64);
    assert_eq!(alive.rlimits.len(), 16);
    let map = map_image(&model, super::PagesImage::own(alive.mm.pages.pages_id)).unwrap();
    assert_eq!(map.len(), 7 * 4096);
}

#[test]
fn version_1_reads_to_the_same_model() {
    let copy = Copy::new();
    for name in names() {
        let bytes = copy.bytes(&name);
        if name == "inventory.img" {
            let mut inventory = InventoryEntry::decode(&copy.entries(&name)[0][..]).unwrap();
            inventory.img_version = 1;
            copy.set_entries(&name, &[inventory.encode_to_vec()]);
        } else if !name.starts_with("pages-") {
            copy.write(&name, &bytes[4..]);
        }
    }
    let (new, mut old) = (read_model(&pair()).unwrap(), copy.read().unwrap());
    assert_eq!(summary(&old), summary(&new));
    // Raw bytes stand four bytes earlier.
    old.dir = new.dir.clone();
    old.inventory.img_version = 2;
    old.pipe_data.iter_mut().for_each(|data| data.data.offset_bytes += 4);
    old.packets.iter_mut().for_each(|packet| packet.data.offset_bytes += 4);
    assert_eq!(format!("{old:?}"), format!("{new:?}"));
}

/// A cut at any byte is an error; only between two entries of an image that is a list of independent
/// entries can it not be seen.
#[test]
fn truncations_are_errors() {
    const LISTS: [&str; 5] =
        ["fdinfo-2.img", "fdinfo-3.img", "pipes-data.img", "sk-queues.img", "seccomp.img"];
    names().par_iter().filter(|name| !name.starts_with("pages-")).for_each(|name| {
        let copy = Copy::new();
        let bytes = copy.bytes(name);
        for len in 0..bytes.len() {
            copy.write(name, &bytes[..len]);
            match copy.read() {
                Ok(_) => assert!(LISTS.contains(&&name[..]), "{name} cut at {len}"),
                Err(errors) => assert!(!errors.to_string().is_empty()),
            }
        }
    });
}

#[test]
fn bit_flips_do_not_panic() {
    let names: Vec<String> = names().into_iter().filter(|name| !name.starts_with("pages-")).collect();
    (0..8u64).into_par_iter().for_each(|lane| {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(lane + 1);
        let mut random = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % below as u64) as usize
        };
        let copy = Copy::new();
        for _ in 0..500 {
            let name = &names[random(names.len())];
            let bytes = copy.bytes(name);
            let mut damaged = bytes.clone();
            for _ in 0..=random(3) {
                let at = random(damaged.len());
                damaged[at] ^= 1 << random(8);
            }
            copy.write(name, &damaged);
            if let Err(errors) = copy.read() {
                assert!(!errors.errors().is_empty());
            }
            copy.write(name, &bytes);
        }
    });
}

#[test]
fn any_bytes_do_not_panic() {
    for name in names() {
        let copy = Copy::new();
        for bytes in [&[][..], &[0; 64], &[0xff; 64], &[0x19, 0x43, 0x56, 0x54, 0xff, 0xff, 0xff, 0xff]] {
            copy.write(&name, bytes);
            assert!(copy.read().is_err(), "{name} {bytes:02x?}");
        }
    }
}

#[test]
fn missing_images_are_named() {
    for (name, why) in [
        ("inventory.img", "an image directory has one"),
        ("core-4713.img", "pstree.img names it"),
        ("ids-4713.img", "a living task has one"),
        ("mm-4713.img", "a living task has one"),
        ("pagemap-4713.img", "a living task has one"),
        ("fs-4713.img", "a living task has one"),
        ("pages-2.img", "pagemap-4713.img has pages in it"),
    ] {
        check(|copy| fs::remove_file(copy.path(name)).unwrap(), &[&format!("{name}: missing: {why}")]);
    }
}

#[test]
fn what_is_no_file_is_an_error() {
    let empty = tempfile::tempdir().unwrap();
    let error = read_model(empty.path()).unwrap_err();
    assert_eq!(error.errors()[0].file(), "inventory.img");
    assert!(read_model(&empty.path().join("nowhere")).is_err());
    // A directory, and a FIFO without a writer, which blocks who opens it the plain way.
    check(
        |copy| {
            fs::remove_file(copy.path("mm-4711.img")).unwrap();
            fs::create_dir(copy.path("mm-4711.img")).unwrap();
            fs::remove_file(copy.path("sk-queues.img")).unwrap();
            make_fifo(&copy.path("sk-queues.img"));
        },
        &["mm-4711.img: not a regular file", "sk-queues.img: not a regular file"],
    );
}

/// Makes a FIFO, by the tool, for this module has no system calls.
fn make_fifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn all_errors_are_reported() {
    check(
        |copy| {
            fs::remove_file(copy.path("fs-4711.img")).unwrap();
            copy.write("mm-4713.img", b"what is this");
            copy.set_entries("seccomp.img", &[vec![8]]);
            copy.write("sk-queues.img", &copy.bytes("sk-queues.img")[..20]);
            copy.write("surprise.img", b"");
        },
        &[
            "surprise.img: not an image that regrow knows by name",
            "fs-4711.img: missing: a living task has one",
            "mm-4713.img: bad magic 0x74616877 at offset 0, expected 0x54564319",
            "sk-queues.img: truncated: 10 bytes wanted at offset 16, 4 there",
            "seccomp.img entry 0: malformed seccomp_entry: field reaches behind the end of its message at byte 1 of the entry",
        ],
    );
}

#[test]
fn what_is_not_known_is_refused() {
    let set_inventory = |copy: &Copy, change: &dyn Fn(&mut InventoryEntry)| {
        let mut inventory = InventoryEntry::decode(&copy.entries("inventory.img")[0][..]).unwrap();
        change(&mut inventory);
        copy.set_entries("inventory.img", &[inventory.encode_to_vec()]);
    };
    check(
        |copy| set_inventory(copy, &|inventory| inventory.img_version = 3),
        &["inventory.img entry 0: unsupported: images of version 3; 1 and 2 (1.1) are known"],
    );
    check(
        |copy| set_inventory(copy, &|inventory| inventory.compress = Some(1)),
        &["inventory.img entry 0: unsupported: the pages are compressed"],
    );
    // Field 17 of the inventory is the first that no version has yet: its tag takes two bytes.
    check(
        |copy| {
            let mut inventory = copy.entries("inventory.img").remove(0);
            inventory.extend([0x88, 0x01, 1]);
            copy.set_entries("inventory.img", &[inventory]);
        },
        &["inventory.img entry 0: unsupported: unknown field 17 in inventory_entry"],
    );
    check(|copy| copy.write("cipher.img", b"keys"), &["cipher.img: unsupported: the images are encrypted"]);
    check(
        |copy| std::os::unix::fs::symlink("../before", copy.path("parent")).unwrap(),
        &["parent: missing: the directory of the dump before: it leads to ../before, where nothing is"],
    );
    check(
        |copy| {
            let mut files = copy.entries("files.img");
            files.push(FileEntry { r#type: 21, id: 77, ..FileEntry::default() }.encode_to_vec());
            copy.set_entries("files.img", &files);
        },
        &["files.img entry 11: unsupported: unknown kind of open file 21"],
    );
}

#[test]
fn unread_images_are_listed_if_they_say_anything() {
    let copy = Copy::new();
    copy.set_entries("tty-info.img", &[]);
    copy.set_entries("utsns-11.img", &[vec![8, 1], vec![8, 2]]);
    copy.set_entries("bpfmap-data.img", &[vec![8, 1]]);
    copy.write("route-9.img", b"");
    copy.write("iptables-9.img", b"*filter");
    copy.write("dump.log", b"not an image");
    let unread: Vec<String> = copy
        .read()
        .unwrap()
        .unread
        .iter()
        .map(|u| format!("{} {:?} {}", u.file, u.entries, u.what))
        .collect();
    assert_eq!(
        unread,
        [
            "bpfmap-data.img None contents of BPF maps",
            "iptables-9.img None iptables of a network namespace",
            "utsns-11.img Some(2) a UTS namespace",
        ]
    );
}

#[test]
fn images_must_agree() {
    check(
        |copy| copy.write("pages-1.img", &[0; 4096]),
        &["pagemap-4711.img: describes 28672 bytes of pages-1.img, which has 4096"],
    );
    check(
        |copy| copy.write("pages-1.img", &[0; 8 * 4096]),
        &["pagemap-4711.img: describes only 28672 bytes of pages-1.img, which has 32768"],
    );
    check(
        |copy| {
            let mut files = copy.entries("files.img");
            files.retain(|f| FileEntry::decode(&f[..]).unwrap().r#type != 2);
            copy.set_entries("files.img", &files);
        },
        &[
            "fdinfo-2.img entry 3: the file of descriptor 3 is 0x4, which files.img lacks",
            "fdinfo-2.img entry 4: the file of descriptor 4 is 0x5, which files.img lacks",
            "fdinfo-3.img entry 3: the file of descriptor 3 is 0x4, which files.img lacks",
            "pipes-data.img entry 0: data of pipe 0x10012f, which files.img lacks",
        ],
    );
    check(
        |copy| copy.set_entries("pstree.img", &copy.entries("pstree.img")[..1]),
        &[
            "core-4713.img: belongs to no task of pstree.img",
            "fdinfo-3.img: belongs to no task of pstree.img",
            "fs-4713.img: belongs to no task of pstree.img",
            "ids-4713.img: belongs to no task of pstree.img",
            "mm-4713.img: belongs to no task of pstree.img",
            "pagemap-4713.img: belongs to no task of pstree.img",
            "pages-2.img: belongs to no task of pstree.img",
        ],
    );
}

/// The mapping of `inode_name` becomes what the images mean by it.
fn check_memfd(inode_name: &str, is_open: bool, expected: VmaKind) {
    check_memfd_of(inode_name, None, is_open, expected);
}

fn check_memfd_of(inode_name: &str, huge: Option<u32>, is_open: bool, expected: VmaKind) {
    let copy = Copy::new();
    let mut mm = MmEntry::decode(&copy.entries("mm-4711.img")[0][..]).unwrap();
    mm.vmas.push(VmaEntry {
        start: 0x2000_0000,
        end: 0x2000_2000,
        pgoff: 0x1000,
        shmid: 90,
        prot: 3,
        flags: if huge.is_some() { 0x4_0001 } else { 1 },
        status: vma::AREA_REGULAR | vma::FILE_SHARED | vma::AREA_MEMFD,
        fd: -1,
        madv: None,
        fdflags: Some(2),
    });
    copy.set_entries("mm-4711.img", &[mm.encode_to_vec()]);
    let memfd = MemfdFileEntry { id: 90, flags: 2, pos: 0, fown: FownEntry::default(), inode_id: 1 };
    let mut files = copy.entries("files.img");
    files.push(FileEntry { r#type: 18, id: 90, memfd: Some(memfd), ..FileEntry::default() }.encode_to_vec());
    copy.set_entries("files.img", &files);
    let inode = MemfdInodeEntry {
        name: inode_name.into(),
        size: 0x3000,
        shmid: 5150,
        inode_id: 1,
        hugetlb_flag: huge,
        ..Default::default()
    };
    copy.set_entries("memfd.img", &[inode.encode_to_vec()]);
    let head = PagemapHead { pages_id: 9 }.encode_to_vec();
    let page = PagemapEntry {
        vaddr: 0x1000,
        compat_nr_pages: 1,
        in_parent: None,
        flags: Some(4),
        nr_pages: Some(1),
    };
    copy.set_entries("pagemap-shmem-5150.img", &[head, page.encode_to_vec()]);
    copy.write("pages-9.img", &[7; 4096]);
    if is_open {
        let mut fds = copy.entries("fdinfo-3.img");
        fds.push(
            super::proto::FdinfoEntry { id: 90, flags: 0, r#type: 18, fd: 90, xattr_security_selinux: None }
                .encode_to_vec(),
        );
        copy.set_entries("fdinfo-3.img", &fds);
    }
    let model = copy.read().unwrap();
    let vmas = &model.tasks[0].alive().unwrap().mm.vmas;
    let vma = vmas.iter().find(|vma| vma.start == 0x2000_0000).unwrap();
    assert_eq!(vma.kind, expected);
    // The size is in memfd.img alone.
    assert_eq!(vma.flags >> 26, huge.map_or(0, |_| 21));
    assert_eq!(model.shm[0].pages.extents[0].start, 0x1000);
}

#[test]
fn anonymous_shared_memory_is_told_from_memfds() {
    let memfd = VmaKind::Memfd { ofd_id: 90, inode_id: 1, offset_bytes: 0x1000, file_flags: Some(2) };
    check_memfd("/dev/zero", false, VmaKind::AnonShared { shmid: 5150, offset_bytes: 0x1000 });
    check_memfd("/dev/zero", true, memfd);
    check_memfd("cache", false, memfd);
    let anonymous = VmaKind::AnonShared { shmid: 5150, offset_bytes: 0x1000 };
    let huge = Some(4 | 21 << 26);
    check_memfd_of("/anon_hugepage", huge, false, anonymous);
    check_memfd_of("/anon_hugepage", huge, true, memfd);
    check_memfd_of("/dev/zero", huge, false, memfd);
    check_memfd("/anon_hugepage", false, memfd);
}

/// Directories of cgroups, each with what is below it; however deep they are nested.
#[test]
fn directories_of_cgroups() {
    let property = |name: &str, value: &str| CgroupPropEntry {
        name: name.as_bytes().to_vec(),
        value: value.as_bytes().to_vec(),
        perms: Some(proto::CgroupPerms { mode: 0o100_644, uid: 1, gid: 2 }),
    };
    let directory = |name: &str, children: Vec<CgroupDirEntry>| CgroupDirEntry {
        dir_name: name.as_bytes().to_vec(),
        children: children.iter().map(Message::encode_to_vec).collect(),
        properties: vec![property("pids.max", "7")],
        dir_perms: None,
    };
    let image = |dirs: Vec<CgroupDirEntry>| CgroupEntry {
        sets: Vec::new(),
        controllers: vec![CgControllerEntry {
            cnames: vec![b"cpu".to_vec(), b"cpuacct".to_vec()],
            dirs: dirs.iter().map(Message::encode_to_vec).collect(),
            is_threaded: Some(true),
        }],
    };
    let write = |copy: &Copy, image: &CgroupEntry| copy.set_entries("cgroup.img", &[image.encode_to_vec()]);

    let copy = Copy::new();
    let dirs = vec![
        directory("/a", vec![directory("b", vec![directory("c", Vec::new())]), directory("d", Vec::new())]),
        directory("/", vec![directory("e", Vec::new())]),
    ];
    write(&copy, &image(dirs));
    let model = copy.read().unwrap();
    let [hierarchy] = &model.cgroup_hierarchies[..] else { panic!("one hierarchy") };
    assert_eq!(hierarchy.controllers, ["cpu", "cpuacct"]);
    let paths = ["/a", "/a/b", "/a/b/c", "/a/d", "/", "/e"];
    assert_eq!(hierarchy.paths(), paths.map(|path| Some(path.to_owned())));
    let file = &hierarchy.directories[2].properties[0];
    assert_eq!((file.name.as_str(), file.value.as_str()), ("pids.max", "7"));
    assert_eq!(file.perms, Some(CgroupPerms { mode: 0o100_644, uid: 1, gid: 2 }));
    // What is written reads the same.
    let written = tempfile::tempdir().unwrap();
    write_model(&model, &model, written.path()).unwrap();
    assert_eq!(read_model(written.path()).unwrap().cgroup_hierarchies, model.cgroup_hierarchies);

    // Names that are together longer than a path can be.
    let copy = Copy::new();
    let long = "x".repeat(3000);
    let dirs = vec![directory(
        "/a",
        vec![directory(&long, vec![directory(&long, vec![directory("y", Vec::new())])])],
    )];
    write(&copy, &image(dirs));
    let model = copy.read().unwrap();
    let paths = [Some("/a".to_owned()), Some(format!("/a/{long}")), None, None];
    assert_eq!(model.cgroup_hierarchies[0].paths(), paths);

    let mut deep = directory("x", Vec::new());
    for _ in 0..300 {
        deep = directory("x", vec![deep]);
    }
    let expected = "cgroup.img entry 0: unsupported: cgroups nested 256 deep";
    check(|copy| write(copy, &image(vec![deep])), &[expected]);
    let bad = CgroupDirEntry { children: vec![vec![0xff]], ..directory("/a", Vec::new()) };
    check(
        |copy| write(copy, &image(vec![bad])),
        &[
            "cgroup.img entry 0: malformed cgroup_dir_entry: field reaches behind the end of its message at byte 1 of the entry",
        ],
    );
}

/// Filters, as the dump of a thread with two of them leaves them.
#[test]
fn filters_of_system_calls() {
    const ALLOW: [u8; 8] = [0x06, 0, 0, 0, 0, 0, 0xff, 0x7f];
    const TSYNC: u32 = 1;
    let filter = |program: &[u8], prev, flags| SeccompFilterEntry { filter: program.to_vec(), prev, flags };
    let write = |copy: &Copy, filters: Vec<SeccompFilterEntry>, mode: u32, first: Option<u32>| {
        copy.set_entries("seccomp.img", &[SeccompEntry { seccomp_filters: filters }.encode_to_vec()]);
        let mut core = CoreEntry::decode(&copy.entries("core-4713.img")[0][..]).unwrap();
        let thread = core.thread_core.as_mut().unwrap();
        (thread.seccomp_mode, thread.seccomp_filter) = (Some(mode), first);
        copy.set_entries("core-4713.img", &[core.encode_to_vec()]);
    };

    let copy = Copy::new();
    write(&copy, vec![filter(&ALLOW, None, Some(2)), filter(&ALLOW.repeat(2), Some(0), None)], 2, Some(1));
    let model = copy.read().unwrap();
    let filters: Vec<_> = model.seccomp_filters.iter().map(|f| (f.program.len(), f.next, f.flags)).collect();
    assert_eq!(filters, [(8, None, 2), (16, Some(0), 0)]);
    let thread = &model.tasks[1].alive().unwrap().threads[0];
    assert_eq!((thread.seccomp_mode, thread.seccomp_filter), (2, Some(1)));

    let refuse = |filters: &[SeccompFilterEntry], mode, first, expected: &[&str]| {
        check(|copy| write(copy, filters.to_vec(), mode, first), expected);
    };
    let good = filter(&ALLOW, None, None);
    refuse(&[], 2, None, &["core-4713.img entry 0: seccomp mode 2 without a filter"]);
    refuse(&[], 1, Some(0), &["core-4713.img entry 0: a seccomp filter in mode 1"]);
    refuse(&[], 3, None, &["core-4713.img entry 0: unsupported: seccomp mode 3"]);
    refuse(
        std::slice::from_ref(&good),
        2,
        Some(1),
        &["core-4713.img entry 0: its seccomp filter is 1, and seccomp.img has 1"],
    );
    refuse(
        &[filter(&ALLOW, Some(7), None)],
        2,
        Some(0),
        &["seccomp.img entry 0: filter 0 is followed by filter 7, of 1"],
    );
    refuse(&[filter(&ALLOW, Some(0), None)], 2, Some(0), &["seccomp.img entry 0: filter 0 follows itself"]);
    refuse(
        &[filter(&ALLOW[..7], None, None)],
        2,
        Some(0),
        &["seccomp.img entry 0: filter 0: 7 bytes are not 1 to 4096 instructions"],
    );
    refuse(
        &[filter(&ALLOW.repeat(4097), None, None)],
        2,
        Some(0),
        &["seccomp.img entry 0: filter 0: 32776 bytes are not 1 to 4096 instructions"],
    );
    refuse(
        &[good.clone(), filter(&[0xff; 8], None, None)],
        2,
        Some(0),
        &["seccomp.img entry 0: filter 1: instruction 0: code 0xffff"],
    );
    refuse(
        &[filter(&ALLOW, None, Some(8))],
        2,
        Some(0),
        &["seccomp.img entry 0: unsupported: filter 0: flags 0x8"],
    );
    refuse(
        &[filter(&ALLOW, None, Some(TSYNC)), filter(&ALLOW, Some(0), None)],
        2,
        Some(1),
        &["seccomp.img entry 0: unsupported: of filter 1 and the next only one is for all threads (TSYNC)"],
    );
}
