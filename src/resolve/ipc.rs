//! The IPC namespace of the tree: its variables, System V segments, message queues, semaphore sets.
//!
//! A tree that had one of its own gets a new one: the root makes it before anything else and is its first member, so that
//! everybody is born in it. All that lives in it is one resource, which the root makes: the kernel gives an id of our
//! choice to whoever asks next (`kernel.shm_next_id`), and only one may ask at a time. A failed restore leaves nothing:
//! what is in a namespace goes with it.
//!
//! Segments are attached in the window, as carriers are ([`super::memory`]), and filled there by those who use them. A user
//! makes each of its views by `mremap` with old size 0, which counts as an attachment: of any part, at any address. One
//! that is attached to be read only can never be written, so there are two kinds of carriers. Of huge pages there is no
//! second view: who has such a segment attaches it for each of its views ([`super::huge`]). What nobody has attached is
//! detached again when the window goes.
//!
//! Worked example: two tasks that have a segment of three pages attached, one of them only the second page and to be read:
//! the root makes it and attaches it twice; the one task views three pages of the first, the other one page of the
//! second.
//!
//! # Sources
//! ipc/shm.c (`do_shmat`, `shm_may_destroy`), ipc/util.c (`ipc_idr_alloc`), ipc/ipc_sysctl.c (`ipc_permissions`), sysvipc(7).

use std::collections::{BTreeMap, BTreeSet};

use regrow_graph::ids::TaskId;

use super::memory::{Carrier, SharedFill, share_out};
use super::numbers::PAGE;
use super::problem::ProblemKind;
use super::recipe::{
    IpcRecipe, QueueRecipe, ResourceKind, SegmentRecipe, SemaphoreRecipe, StepKind, SysvObject,
};
use super::window::TASK_SIZE;
use super::{Payloads, Resolver, host, huge};
use crate::image::huge::{MAP_HUGE, of_segment, page_bytes};
use crate::image::ipc::{IpcNs, SHM_DEST, SHM_LOCKED, SysvPerm, SysvSegment};
use crate::image::{Extent, Image, Origin, VmaKind};

/// What a new namespace allows (uapi/linux/{shm,msg,sem}.h, linux/ipc.h): what is to be made there must fit in.
mod new {
    pub(super) const SHMMNI: u64 = 4096;
    pub(super) const MSGMAX: u64 = 8192;
    pub(super) const MSGMNI: u64 = 32000;
    pub(super) const SEMMSL: u64 = 32000;
    pub(super) const SEMMNS: u64 = 1_024_000_000;
    pub(super) const SEMMNI: u64 = 32000;
    /// `ULONG_MAX - (1 << 24)`, of `shmmax` and `shmall`.
    pub(super) const SHM: u64 = u64::MAX - (1 << 24);
}

/// Who has segments attached, by id: to be written, to be read only.
type Users = BTreeMap<u32, [BTreeSet<TaskId>; 2]>;

pub(super) fn resolve(resolver: &mut Resolver<'_>, payloads: &Payloads) {
    refuse_others(resolver);
    let users = users(resolver);
    let Some(ns) = resolver.model.own_ipc() else { return };
    lacking(resolver, ns);
    let own = &resolver.facts.own;
    let own_ids = [own.uids.map_or(0, |uids| uids.effective), own.gids.map_or(0, |gids| gids.effective)];
    let mut recipe = IpcRecipe { own_ids, own_dumpable: own.dumpable, ..IpcRecipe::default() };
    segments(resolver, ns, &users, &mut recipe);
    queues(resolver, ns, payloads, &mut recipe);
    semaphores(resolver, ns, payloads, &mut recipe);
    variables(resolver, ns, &mut recipe);
    let Some(root) = resolver.model.tasks.first() else { return };
    let origin = Origin::new(Image::IpcVar(root.alive().map_or(0, |alive| alive.ids.ipc_ns)), 0);
    let resource = resolver.add_resource(ResourceKind::Ipc(Box::new(recipe)), origin, vec![None]);
    // The root makes it, and is the one to have what nobody has.
    let all: BTreeSet<TaskId> = users.values().flatten().flatten().copied().chain([TaskId::new(0)]).collect();
    resolver.forest.resources[resource.index()].users = all.into_iter().collect();
    for segment in &ns.segments {
        contents(resolver, segment, &users, resource);
    }
}

/// The step by which the root leaves the namespace that it was born in.
pub(super) fn birth(resolver: &Resolver<'_>) -> Option<StepKind> {
    resolver.model.own_ipc().map(|_| StepKind::NewIpcNamespace)
}

/// All tasks must be in the root's namespace, or all in the one in which CRIU was.
fn refuse_others(resolver: &mut Resolver<'_>) {
    let model = resolver.model;
    let Some(root) = model.tasks.first().and_then(|task| task.alive()) else { return };
    let outer = model.inventory.root_ids.map_or(0, |ids| ids.ipc_ns);
    let is_own = root.ids.ipc_ns != 0 && outer != 0 && root.ids.ipc_ns != outer;
    if is_own && !model.ipc.contains_key(&root.ids.ipc_ns) {
        let text = format!("its IPC namespace is {}, of which there are no images", root.ids.ipc_ns);
        let task = &model.tasks[0];
        resolver.problems.add(ProblemKind::BadImages, Some(task.pid), Some(task.core_origin), text);
    }
    for task in &model.tasks {
        let Some(alive) = task.alive() else { continue };
        if alive.ids.ipc_ns != 0 && root.ids.ipc_ns != 0 && alive.ids.ipc_ns != root.ids.ipc_ns {
            let text = "lives in another IPC namespace than the root: not restored yet";
            resolver.problems.unsupported(Some(task.pid), Some(task.core_origin), text);
        }
    }
    for id in model.ipc.keys().filter(|id| **id != root.ids.ipc_ns) {
        let text = "images of an IPC namespace that is not the root's: not restored yet";
        resolver.problems.unsupported(None, Some(Origin::new(Image::IpcVar(*id), 0)), text);
    }
}

/// Who has what attached. Attachments must lie in segments that there are.
fn users(resolver: &mut Resolver<'_>) -> Users {
    let model = resolver.model;
    let sizes: BTreeMap<u32, (u64, u32)> = resolver
        .model
        .own_ipc()
        .iter()
        .flat_map(|ns| &ns.segments)
        .map(|segment| (segment.perm.id, (huge::segment_len(segment), of_segment(segment.huge))))
        .collect();
    let mut users = Users::new();
    for (index, task) in model.tasks.iter().enumerate() {
        for vma in task.alive().iter().flat_map(|alive| &alive.mm.vmas) {
            let VmaKind::SysV { shmid, offset_bytes, read_only } = vma.kind else { continue };
            let bad = match sizes.get(&shmid) {
                None => Some("which no image has".to_owned()),
                Some((size, _)) if offset_bytes.saturating_add(vma.end - vma.start) > *size => {
                    Some(format!("which ends at {size:#x}"))
                }
                Some((_, huge)) if vma.flags & MAP_HUGE != *huge => {
                    Some("which has pages of another size".to_owned())
                }
                Some(_) => None,
            };
            if let Some(bad) = bad {
                let text = format!(
                    "mapping {:#x}-{:#x}: System V segment {shmid} from {offset_bytes:#x} on, {bad}",
                    vma.start, vma.end
                );
                resolver.problems.add(ProblemKind::BadImages, Some(task.pid), Some(vma.origin), text);
            }
            users.entry(shmid).or_default()[usize::from(read_only)].insert(TaskId::new(index));
        }
    }
    users
}

/// What the kernel or the caller lacks.
fn lacking(resolver: &mut Resolver<'_>, ns: &IpcNs) {
    let own = &resolver.facts.own;
    let mut lacks = Vec::new();
    if !own.caps.has_effective(host::CAP_SYS_ADMIN) {
        lacks.push("an IPC namespace cannot be made without CAP_SYS_ADMIN".to_owned());
    }
    if !resolver.facts.kernel.ipc_namespaces {
        lacks.push("IPC namespaces (CONFIG_IPC_NS) are missing".to_owned());
    }
    let has_any = !ns.segments.is_empty() || !ns.queues.is_empty() || !ns.semaphores.is_empty();
    if has_any && !resolver.facts.kernel.ipc_next_ids {
        let text = "ids of System V objects cannot be chosen: kernel.shm_next_id (CONFIG_CHECKPOINT_RESTORE) is missing";
        lacks.push(text.to_owned());
    }
    for text in lacks {
        let origin = resolver.model.tasks.first().map(|task| task.core_origin);
        resolver.problems.add(ProblemKind::Lacking, None, origin, text);
    }
}

/// One that can be made by whoever restores.
fn object(
    resolver: &mut Resolver<'_>,
    what: &str,
    perm: &SysvPerm,
    origin: Origin,
    recipe: &IpcRecipe,
) -> SysvObject {
    if [perm.cuid, perm.cgid] != recipe.own_ids && recipe.own_ids != [0, 0] {
        let text = format!(
            "{what} {}: it was made by user {} and group {}, which only root can be for a moment",
            perm.id, perm.cuid, perm.cgid
        );
        resolver.problems.add(ProblemKind::Lacking, None, Some(origin), text);
    }
    let SysvPerm { id, key, uid, gid, cuid, cgid, mode } = *perm;
    SysvObject { id, key, uid, gid, cuid, cgid, mode: mode & 0o777 }
}

fn segments(resolver: &mut Resolver<'_>, ns: &IpcNs, users: &Users, recipe: &mut IpcRecipe) {
    let model = resolver.model;
    let others: BTreeSet<u64> = resolver.carriers.keys().copied().collect();
    let stored: BTreeMap<u64, bool> =
        model.shm.iter().map(|shm| (shm.shmid, !shm.pages.extents.is_empty())).collect();
    let mut at = resolver.carriers_end.0;
    for segment in &ns.segments {
        let SysvPerm { id, mode, .. } = segment.perm;
        let origin = Some(segment.origin);
        let has_pages = stored.get(&u64::from(id)).copied().unwrap_or(false);
        let none = Default::default();
        let [written, read] = users.get(&id).unwrap_or(&none);
        let is_used = !written.is_empty() || !read.is_empty();
        huge::judge_segment(resolver, segment, recipe.own_ids[0]);
        let huge = of_segment(segment.huge);
        let page = page_bytes(huge).unwrap_or(PAGE);
        if others.contains(&u64::from(id)) {
            let text = format!("System V segment {id} and other shared memory have the same images");
            resolver.problems.add(ProblemKind::BadImages, None, origin, text);
        }
        // Its first attachment ends with the restore, and it would go.
        if !is_used && mode & SHM_DEST != 0 {
            let text = format!("System V segment {id} is marked for removal, and no task of the tree has it");
            resolver.problems.unsupported(None, origin, text);
        }
        if !is_used && has_pages && ns.vars.shm_rmid_forced != 0 {
            let text = format!(
                "System V segment {id}: nobody has it attached, and kernel.shm_rmid_forced lets none be filled"
            );
            resolver.problems.unsupported(None, origin, text);
        }
        let mut attached = Vec::new();
        let len = huge::segment_len(segment);
        // To be filled it must be written. Of huge pages each view is attached for itself, while one holds the segment.
        let written = has_pages || !written.is_empty() || huge != 0 && is_used;
        for (read_only, wanted) in [(false, written), (true, huge == 0 && !read.is_empty())] {
            if !wanted {
                continue;
            }
            at = at.next_multiple_of(page);
            if at.checked_add(len).is_none_or(|end| end >= TASK_SIZE) {
                let text = format!("System V segment {id} of {len} bytes: no address space is that large");
                resolver.problems.add(ProblemKind::BadImages, None, origin, text);
                break;
            }
            attached.push((at, read_only));
            resolver.attached.insert((id, read_only), at);
            at += len + PAGE;
        }
        let object = object(resolver, "System V segment", &segment.perm, segment.origin, recipe);
        recipe.segments.push(SegmentRecipe {
            object,
            size_bytes: segment.size_bytes,
            huge,
            attached,
            is_locked: mode & SHM_LOCKED != 0,
            is_removed: mode & SHM_DEST != 0,
        });
    }
    resolver.carriers_end.0 = at;
}

/// What a segment holds is read by those who have it, or else by the root.
fn contents(
    resolver: &mut Resolver<'_>,
    segment: &SysvSegment,
    users: &Users,
    resource: regrow_graph::ids::ResourceId,
) {
    let (id, len) = (segment.perm.id, huge::segment_len(segment));
    let Some(at) = resolver.attached.get(&(id, false)).copied() else { return };
    let image = Image::PagemapShmem(u64::from(id));
    let model = resolver.model;
    let Some(shm) = model.shm.iter().find(|shm| shm.shmid == u64::from(id)) else { return };
    for extent in &shm.pages.extents {
        let end = extent.start.checked_add(extent.len_pages.saturating_mul(PAGE));
        if end.is_none_or(|end| end > len) {
            let text =
                format!("page at {:#x} is behind the end of the segment ({len:#x} bytes)", extent.start);
            let origin = Origin::new(image, extent.entry as usize);
            resolver.problems.add(ProblemKind::BadImages, None, Some(origin), text);
        }
    }
    let fillers: BTreeSet<TaskId> = users.get(&id).into_iter().flatten().flatten().copied().collect();
    let fillers: Vec<TaskId> =
        if fillers.is_empty() { vec![TaskId::new(0)] } else { fillers.into_iter().collect() };
    let carrier = Carrier { resource, at, len, opened: None };
    for (stored, extents) in shm.pages.by_image() {
        let extents: Vec<Extent> = extents
            .iter()
            .map(|extent| Extent { start: extent.start.saturating_add(at), ..*extent })
            .collect();
        let origin = Origin::new(image, 0);
        let shared = SharedFill { image: stored, origin, carrier, is_read: true, extents: Vec::new() };
        share_out(resolver, &shared, &extents, &fillers);
    }
}

fn queues(resolver: &mut Resolver<'_>, ns: &IpcNs, payloads: &Payloads, recipe: &mut IpcRecipe) {
    let may_exceed = resolver.facts.own.caps.has_effective(host::CAP_SYS_RESOURCE);
    for (queue, bytes) in ns.queues.iter().zip(&payloads.messages) {
        let id = queue.perm.id;
        let messages: Vec<(u64, Vec<u8>)> =
            queue.messages.iter().map(|message| message.kind).zip(bytes.iter().cloned()).collect();
        let most_bytes = u64::from(queue.most_bytes);
        // ipc/msg.c, `msg_fits_inqueue`.
        let held: u64 = messages.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let fits = |most: u64| held <= most && messages.len() as u64 <= most;
        let at_first = u64::from(ns.vars.msgmnb);
        if most_bytes > at_first && !may_exceed {
            let text = format!(
                "message queue {id}: {most_bytes} bytes are more than kernel.msgmnb ({at_first}), and CAP_SYS_RESOURCE is missing"
            );
            resolver.problems.add(ProblemKind::Lacking, None, Some(queue.origin), text);
        }
        if !fits(most_bytes) && !fits(at_first) {
            let text = format!(
                "message queue {id}: it holds more than it may now ({most_bytes} bytes): not restored yet"
            );
            resolver.problems.unsupported(None, Some(queue.origin), text);
        }
        let object = object(resolver, "message queue", &queue.perm, queue.origin, recipe);
        recipe.queues.push(QueueRecipe { object, most_bytes, is_full: !fits(most_bytes), messages });
    }
}

fn semaphores(resolver: &mut Resolver<'_>, ns: &IpcNs, payloads: &Payloads, recipe: &mut IpcRecipe) {
    /// `SEMVMX` (uapi/linux/sem.h).
    const MOST: u16 = 32767;
    for (set, bytes) in ns.semaphores.iter().zip(&payloads.semaphores) {
        let words = bytes.chunks_exact(2);
        let values: Vec<u16> = words.map(|word| u16::from_le_bytes([word[0], word[1]])).collect();
        if let Some(value) = values.iter().find(|value| **value > MOST) {
            let text = format!("semaphore set {}: a value of {value}", set.perm.id);
            resolver.problems.add(ProblemKind::BadImages, None, Some(set.origin), text);
        }
        let object = object(resolver, "semaphore set", &set.perm, set.origin, recipe);
        recipe.semaphores.push(SemaphoreRecipe { object, values });
    }
}

/// A variable, and what of it is in use: most of what is made, and what a new namespace has.
struct Variable {
    path: String,
    text: String,
    /// In use, allowed in the end, allowed at first.
    needs: Vec<[u64; 3]>,
}

/// Variables are set before anything is made, unless they do not allow it any more.
fn variables(resolver: &mut Resolver<'_>, ns: &IpcNs, recipe: &mut IpcRecipe) {
    let vars = &ns.vars;
    let limit = |name: &str, value: u64, needs: &[[u64; 2]]| Variable {
        path: format!("/proc/sys/kernel/{name}"),
        text: value.to_string(),
        needs: needs.iter().map(|[used, at_first]| [*used, value, *at_first]).collect(),
    };
    let sum = |values: &mut dyn Iterator<Item = u64>| values.fold(0u64, u64::saturating_add);
    let most = |values: &mut dyn Iterator<Item = u64>| values.max().unwrap_or(0);
    let sizes = || ns.segments.iter().map(|segment| segment.size_bytes);
    let counts = || ns.semaphores.iter().map(|set| u64::from(set.count));
    let lengths = || ns.queues.iter().flat_map(|queue| &queue.messages).map(|message| message.data.len_bytes);
    let sem: Vec<String> = vars.sem.iter().map(u32::to_string).collect();
    let used = [most(&mut counts()), sum(&mut counts()), 0, ns.semaphores.len() as u64];
    let at_first = [new::SEMMSL, new::SEMMNS, 0, new::SEMMNI];
    let sem_needs = used
        .into_iter()
        .zip(&vars.sem)
        .zip(at_first)
        .map(|((used, is), first)| [used, u64::from(*is), first]);
    let mut all = vec![
        Variable { path: "/proc/sys/kernel/sem".to_owned(), text: sem.join(" "), needs: sem_needs.collect() },
        limit("msgmax", vars.msgmax.into(), &[[most(&mut lengths()), new::MSGMAX]]),
        limit("msgmnb", vars.msgmnb.into(), &[]),
        limit("auto_msgmni", vars.auto_msgmni.into(), &[]),
        limit("msgmni", vars.msgmni.into(), &[[ns.queues.len() as u64, new::MSGMNI]]),
        limit("shmmax", vars.shmmax, &[[most(&mut sizes()), new::SHM]]),
        limit("shmall", vars.shmall, &[[sum(&mut sizes().map(|size| size.div_ceil(PAGE))), new::SHM]]),
        limit("shmmni", vars.shmmni.into(), &[[ns.segments.len() as u64, new::SHMMNI]]),
    ];
    let names = ["queues_max", "msg_max", "msgsize_max", "msg_default", "msgsize_default"];
    // The least that the kernel takes of the second is 1: it had none.
    if vars.mqueue[1] != 0 {
        if !resolver.facts.kernel.mqueue {
            let text = "POSIX message queues (CONFIG_POSIX_MQUEUE) are missing: their limits cannot be set";
            let origin = resolver.model.tasks.first().map(|task| task.core_origin);
            resolver.problems.add(ProblemKind::Lacking, None, origin, text);
        }
        for (name, value) in names.iter().zip(vars.mqueue).filter(|(_, value)| *value != 0) {
            let path = format!("/proc/sys/fs/mqueue/{name}");
            all.push(Variable { path, text: value.to_string(), needs: Vec::new() });
        }
    }
    for Variable { path, text, needs } in all {
        let fits = needs.iter().all(|[used, is, _]| used <= is);
        if needs.iter().any(|[used, is, first]| used > is && used > first) {
            let text = format!("{path} is {text}, and more is in use: not restored yet");
            let origin = resolver.model.tasks.first().map(|task| task.core_origin);
            resolver.problems.unsupported(None, origin, text);
        }
        if fits { &mut recipe.early } else { &mut recipe.late }.push((path, text));
    }
    // Orphans go as soon as it is set.
    recipe.late.push(("/proc/sys/kernel/shm_rmid_forced".to_owned(), vars.shm_rmid_forced.to_string()));
    for (name, id) in ["msg", "sem", "shm"].iter().zip(vars.next_ids) {
        recipe.late.extend(id.map(|id| (format!("/proc/sys/kernel/{name}_next_id"), id.to_string())));
    }
}
