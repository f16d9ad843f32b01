//! What the images say of the tree's IPC namespace, for the checker.

use std::collections::BTreeMap;

use regrow_graph::verify::{
    ExpectedIpc, ExpectedPerm, ExpectedQueue, ExpectedSemaphores, ExpectedSysvSegment, IpcKind,
};

use super::space;
use crate::image::huge::of_segment;
use crate::image::ipc::{IpcNs, SysvPerm};
use crate::image::{Blob, ImageError, Model};

/// The namespace; `None`: the tree lives in the caller's.
///
/// # Errors
/// Messages or values cannot be read.
pub(super) fn expected(
    model: &Model,
    read: &impl Fn(&Blob) -> Result<Vec<u8>, ImageError>,
) -> Result<Option<Box<ExpectedIpc>>, ImageError> {
    let Some(root) = model.tasks.first().and_then(|task| task.alive()) else { return Ok(None) };
    let Some(ns) = model.ipc.get(&root.ids.ipc_ns) else { return Ok(None) };
    let mut wanted = ExpectedIpc { variables: variables(ns), ..ExpectedIpc::default() };
    let kinds = [IpcKind::Queue, IpcKind::Semaphores, IpcKind::Segment];
    for (kind, id) in kinds.into_iter().zip(ns.vars.next_ids) {
        wanted.next_ids.extend(id.map(|id| (kind, id)));
    }
    for segment in &ns.segments {
        let stored = model.shm.iter().find(|shm| shm.shmid == u64::from(segment.perm.id));
        let pages = stored.map(|shm| space::pages(model, &shm.pages.extents, &[])).unwrap_or_default();
        let (perm, size, huge) = (perm(&segment.perm), segment.size_bytes, of_segment(segment.huge));
        let segment_wanted = ExpectedSysvSegment { perm, size, huge, pages };
        wanted.segments.insert(segment.perm.id, segment_wanted);
    }
    for queue in &ns.queues {
        let mut messages = Vec::with_capacity(queue.messages.len());
        for message in &queue.messages {
            messages.push((message.kind, read(&message.data)?));
        }
        let most_bytes = u64::from(queue.most_bytes);
        wanted.queues.insert(queue.perm.id, ExpectedQueue { perm: perm(&queue.perm), most_bytes, messages });
    }
    for set in &ns.semaphores {
        let bytes = read(&set.values)?;
        let values = bytes.chunks_exact(2).map(|value| u16::from_le_bytes([value[0], value[1]])).collect();
        wanted.semaphores.insert(set.perm.id, ExpectedSemaphores { perm: perm(&set.perm), values });
    }
    Ok(Some(Box::new(wanted)))
}

fn perm(perm: &SysvPerm) -> ExpectedPerm {
    let SysvPerm { id: _, key, uid, gid, cuid, cgid, mode } = *perm;
    ExpectedPerm { key, uid, gid, cuid, cgid, mode }
}

/// The text of each variable, as its file takes it.
fn variables(ns: &IpcNs) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let vars = &ns.vars;
    let sem: Vec<String> = vars.sem.iter().map(u32::to_string).collect();
    let kernel: [(&str, String); 9] = [
        ("sem", sem.join(" ")),
        ("msgmax", vars.msgmax.to_string()),
        ("msgmnb", vars.msgmnb.to_string()),
        ("msgmni", vars.msgmni.to_string()),
        ("auto_msgmni", vars.auto_msgmni.to_string()),
        ("shmmax", vars.shmmax.to_string()),
        ("shmall", vars.shmall.to_string()),
        ("shmmni", vars.shmmni.to_string()),
        ("shm_rmid_forced", vars.shm_rmid_forced.to_string()),
    ];
    let [queues_max, msg_max, msgsize_max, msg_default, msgsize_default] = vars.mqueue;
    let mqueue = [
        ("queues_max", queues_max),
        ("msg_max", msg_max),
        ("msgsize_max", msgsize_max),
        ("msg_default", msg_default),
        ("msgsize_default", msgsize_default),
    ];
    let mut all: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut add = |dir: &str, name: &str, text: String| {
        all.insert(format!("/proc/sys/{dir}/{name}").into_bytes(), text.into_bytes());
    };
    for (name, text) in kernel {
        add("kernel", name, text);
    }
    // A kernel without POSIX message queues had none of them: the least `msg_max` is 1.
    for (name, value) in mqueue.into_iter().filter(|(_, value)| msg_max != 0 && *value != 0) {
        add("fs/mqueue", name, value.to_string());
    }
    all
}
