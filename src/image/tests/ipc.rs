//! Images of an IPC namespace, beside the real directory: read, and damaged.

use super::super::ipc::{SHM_DEST, SysvPerm};
use super::super::proto::{IpcDescEntry, IpcMsg, IpcMsgEntry, IpcSemEntry, IpcShmEntry, IpcVarEntry};
use super::*;

fn desc(id: u32, key: u32, mode: u32) -> IpcDescEntry {
    IpcDescEntry { id, key, mode, uid: 1, gid: 2, cuid: 3, cgid: 4 }
}

fn segment(id: u32, key: u32, mode: u32, size: u64) -> IpcShmEntry {
    IpcShmEntry { desc: desc(id, key, mode), size, in_pagemaps: Some(true), hugetlb_flag: None }
}

fn variables() -> IpcVarEntry {
    IpcVarEntry {
        sem_ctls: vec![250, 32000, 32, 128],
        shm_ctlmni: 4096,
        shm_next_id: Some(7),
        ..Default::default()
    }
}

/// Entries, each with what follows it.
fn write(copy: &Copy, name: &str, entries: &[(Vec<u8>, Vec<u8>)]) {
    copy.set_entries(name, &[]);
    let mut bytes = copy.bytes(name);
    for (entry, behind) in entries {
        bytes.extend((entry.len() as u32).to_le_bytes());
        bytes.extend(entry);
        bytes.extend(behind);
    }
    copy.write(name, &bytes);
}

fn plain(entry: &impl Message) -> (Vec<u8>, Vec<u8>) {
    (entry.encode_to_vec(), Vec::new())
}

/// A namespace with something of each kind.
fn whole(copy: &Copy) {
    write(copy, "ipcns-var-9.img", &[plain(&variables())]);
    let segments = [segment(98307, 0x2a, 0o640, 5000), segment(4, 0, 0o600 | SHM_DEST, 1)];
    write(copy, "ipcns-shm-9.img", &segments.iter().map(plain).collect::<Vec<_>>());
    let queue = IpcMsgEntry { desc: desc(5, 0x2b, 0o600), qbytes: 16384, qnum: 2 };
    let messages = [(7, b"hello"), (8, b"world")].map(|(mtype, text)| {
        let message = IpcMsg { mtype, msize: text.len() as u32 };
        (message.encode_to_vec(), [&text[..], &[0; 3]].concat())
    });
    let empty = IpcMsgEntry { desc: desc(6, 0, 0o600), qbytes: 1, qnum: 0 };
    let entries = [&[plain(&queue)], &messages[..], &[plain(&empty)]].concat();
    write(copy, "ipcns-msg-9.img", &entries);
    let set = IpcSemEntry { desc: desc(8, 0x2c, 0o600), nsems: 3 };
    write(copy, "ipcns-sem-9.img", &[(set.encode_to_vec(), vec![1, 0, 2, 0, 3, 0, 0, 0])]);
}

#[test]
fn all_of_a_namespace_is_read() {
    let copy = Copy::new();
    whole(&copy);
    let model = copy.read().unwrap();
    let ns = &model.ipc[&9];
    assert_eq!((ns.vars.sem[1], ns.vars.shmmni, ns.vars.next_ids), (32000, 4096, [None, None, Some(7)]));
    // By their ids, wherever they stand.
    let perm = SysvPerm { id: 98307, key: 0x2a, uid: 1, gid: 2, cuid: 3, cgid: 4, mode: 0o640 };
    assert_eq!((ns.segments[1].perm, ns.segments[1].size_bytes), (perm, 5000));
    assert_eq!(
        (ns.segments[0].perm.mode, ns.segments[0].origin.to_string()),
        (0o1600, "ipcns-shm-9.img entry 1".to_owned())
    );
    let read = |blob: &Blob| open_blob(&model, blob).unwrap();
    let messages: Vec<(u64, Vec<u8>)> =
        ns.queues[0].messages.iter().map(|message| (message.kind, read(&message.data))).collect();
    assert_eq!(messages, [(7, b"hello".to_vec()), (8, b"world".to_vec())]);
    assert_eq!((ns.queues.len(), ns.queues[1].most_bytes), (2, 1));
    assert_eq!((ns.semaphores[0].count, read(&ns.semaphores[0].values)), (3, vec![1, 0, 2, 0, 3, 0]));
    // It is nobody's.
    assert!(model.own_ipc().is_none());
}

#[test]
fn damaged_namespaces_are_errors() {
    let damaged = |damage: &dyn Fn(&Copy), expected: &[&str]| {
        check(
            |copy| {
                whole(copy);
                damage(copy);
            },
            expected,
        );
    };
    let shm = |entries: Vec<IpcShmEntry>| {
        move |copy: &Copy| write(copy, "ipcns-shm-9.img", &entries.iter().map(plain).collect::<Vec<_>>())
    };
    damaged(&|copy| std::fs::remove_file(copy.path("ipcns-shm-9.img")).unwrap(), &[]);
    damaged(
        &shm(vec![segment(4, 1, 0o600, 1), segment(4, 1, 0o600, 1)]),
        &["ipcns-shm-9.img entry 1: id 4 a second time", "ipcns-shm-9.img entry 1: key 0x1 a second time"],
    );
    damaged(
        &shm(vec![segment(4, 1, 0o4600, 0)]),
        &[
            "ipcns-shm-9.img entry 0: unsupported: id 4: unknown permission bits 0o4000",
            "ipcns-shm-9.img entry 0: a segment of 0 bytes",
        ],
    );
    damaged(
        &shm(vec![IpcShmEntry { in_pagemaps: None, ..segment(4, 1, 0o600, 1) }]),
        &[
            "ipcns-shm-9.img entry 0: unsupported: contents of System V shared memory beside its entry: CRIU before 2.0",
        ],
    );
    let queue = IpcMsgEntry { desc: desc(5, 0, 0o600), qbytes: 16384, qnum: 2 };
    let message = IpcMsg { mtype: 1, msize: 3 };
    damaged(
        &|copy| write(copy, "ipcns-msg-9.img", &[plain(&queue), (message.encode_to_vec(), vec![0; 8])]),
        &["ipcns-msg-9.img: 1 messages are missing at its end"],
    );
    damaged(
        &|copy| write(copy, "ipcns-msg-9.img", &[plain(&queue), (message.encode_to_vec(), vec![0; 3])]),
        &[
            "ipcns-msg-9.img: truncated: 8 bytes wanted at offset 43, 3 there",
            "ipcns-msg-9.img: 1 messages are missing at its end",
        ],
    );
    let set = IpcSemEntry { desc: desc(8, 0x2c, 0o600), nsems: 0 };
    damaged(
        &|copy| write(copy, "ipcns-sem-9.img", &[plain(&set)]),
        &["ipcns-sem-9.img entry 0: a set of 0 semaphores"],
    );
    let odd = IpcVarEntry { sem_ctls: vec![1], ..variables() };
    damaged(
        &|copy| write(copy, "ipcns-var-9.img", &[plain(&odd)]),
        &["ipcns-var-9.img entry 0: kernel.sem has 1 numbers, 4 are expected"],
    );
}
