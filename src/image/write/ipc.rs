//! IPC namespaces: the inverse of [`super::super::ipc`].

use super::super::ipc::{IpcNs, SysvPerm};
use super::super::magic;
use super::super::model::{Blob, Image, Model};
use super::super::proto::{IpcDescEntry, IpcMsg, IpcMsgEntry, IpcSemEntry, IpcShmEntry, IpcVarEntry};
use super::{Contents, Entries, Out, WriteError, by_entry};

/// The images of all namespaces. CRIU writes all four of each, also those without entries.
pub(super) fn write_namespaces<C: Contents + ?Sized>(
    out: &Out<'_, C>,
    model: &Model,
) -> Result<(), WriteError> {
    for (id, ns) in &model.ipc {
        write_variables(out, Image::IpcVar(*id), ns)?;
        write_segments(out, Image::IpcShm(*id), ns)?;
        write_queues(out, Image::IpcMsg(*id), ns)?;
        write_semaphores(out, Image::IpcSem(*id), ns)?;
    }
    Ok(())
}

fn write_variables<C: Contents + ?Sized>(
    out: &Out<'_, C>,
    image: Image,
    ns: &IpcNs,
) -> Result<(), WriteError> {
    let vars = &ns.vars;
    let [mq_queues_max, mq_msg_max, mq_msgsize_max, mq_msg_default, mq_msgsize_default] = vars.mqueue;
    // A kernel without such queues has no defaults of them.
    let told = |value: u32| (value != 0).then_some(value);
    let [msg_next_id, sem_next_id, shm_next_id] = vars.next_ids;
    let mut entries = Entries::new(&magic::IPC_VAR);
    entries.push(&IpcVarEntry {
        sem_ctls: vars.sem.clone(),
        msg_ctlmax: vars.msgmax,
        msg_ctlmnb: vars.msgmnb,
        msg_ctlmni: vars.msgmni,
        auto_msgmni: vars.auto_msgmni,
        shm_ctlmax: vars.shmmax,
        shm_ctlall: vars.shmall,
        shm_ctlmni: vars.shmmni,
        shm_rmid_forced: vars.shm_rmid_forced,
        mq_queues_max,
        mq_msg_max,
        mq_msgsize_max,
        mq_msg_default: told(mq_msg_default),
        mq_msgsize_default: told(mq_msgsize_default),
        msg_next_id,
        sem_next_id,
        shm_next_id,
    });
    out.write(image, &entries)
}

fn write_segments<C: Contents + ?Sized>(
    out: &Out<'_, C>,
    image: Image,
    ns: &IpcNs,
) -> Result<(), WriteError> {
    let mut entries = Entries::new(&magic::IPC_SHM);
    for segment in by_entry(&ns.segments, |segment| segment.origin) {
        entries.push(&IpcShmEntry {
            desc: desc(&segment.perm),
            size: segment.size_bytes,
            in_pagemaps: Some(true),
            hugetlb_flag: segment.huge,
        });
    }
    out.write(image, &entries)
}

fn write_queues<C: Contents + ?Sized>(out: &Out<'_, C>, image: Image, ns: &IpcNs) -> Result<(), WriteError> {
    let mut entries = Entries::new(&magic::IPC_MSG);
    for queue in by_entry(&ns.queues, |queue| queue.origin) {
        let qnum = queue.messages.len() as u32;
        entries.push(&IpcMsgEntry { desc: desc(&queue.perm), qbytes: queue.most_bytes, qnum });
        for message in &queue.messages {
            let Ok(msize) = u32::try_from(message.data.len_bytes) else {
                return Err(WriteError::unsupported(image, "a message of more than 4 GiB"));
            };
            entries.push(&IpcMsg { mtype: message.kind, msize });
            push_padded(out, &mut entries, &message.data)?;
        }
    }
    out.write(image, &entries)
}

fn write_semaphores<C: Contents + ?Sized>(
    out: &Out<'_, C>,
    image: Image,
    ns: &IpcNs,
) -> Result<(), WriteError> {
    let mut entries = Entries::new(&magic::IPC_SEM);
    for set in by_entry(&ns.semaphores, |set| set.origin) {
        entries.push(&IpcSemEntry { desc: desc(&set.perm), nsems: set.count });
        push_padded(out, &mut entries, &set.values)?;
    }
    out.write(image, &entries)
}

fn desc(perm: &SysvPerm) -> IpcDescEntry {
    let SysvPerm { id, key, uid, gid, cuid, cgid, mode } = *perm;
    IpcDescEntry { key, uid, gid, cuid, cgid, mode, id }
}

/// Bytes behind an entry are filled up to a multiple of eight.
fn push_padded<C: Contents + ?Sized>(
    out: &Out<'_, C>,
    entries: &mut Entries,
    blob: &Blob,
) -> Result<(), WriteError> {
    let bytes = out.contents.bytes(blob)?;
    entries.raw(&bytes);
    entries.raw(&[0; 7][..bytes.len().next_multiple_of(8) - bytes.len()]);
    Ok(())
}
