//! What this host lacks for the whole directory: free pids, namespaces, images of features that
//! regrow does not know, options that the images need.

use super::Resolver;
use super::problem::ProblemKind;
use crate::host::{Probe, Whose};
use crate::image::{Ofd, OfdKind};

/// linux/capability.h
pub(super) const CAP_SYS_RESOURCE: u32 = 24;
/// linux/capability.h
pub(super) const CAP_AUDIT_CONTROL: u32 = 30;
/// linux/capability.h
pub(super) const CAP_IPC_LOCK: u32 = 14;
/// linux/capability.h
pub(super) const CAP_SYS_ADMIN: u32 = 21;
/// linux/capability.h
const CAP_NET_ADMIN: u32 = 12;
/// linux/capability.h
pub(super) const CAP_CHECKPOINT_RESTORE: u32 = 40;

pub(super) fn find_problems(resolver: &mut Resolver<'_>) {
    taken_pids(resolver);
    privileges(resolver);
    socket_buffers(resolver);
    namespaces(resolver);
    unread_images(resolver);
    let model = resolver.model;
    if model.inventory.lsm_type != 0 {
        resolver.problems.unsupported(
            None,
            None,
            format!("LSM profiles (type {} in inventory.img) are not restored yet", model.inventory.lsm_type),
        );
    }
    for plugin in &model.inventory.plugins {
        resolver.problems.unsupported(None, None, format!("the CRIU plugin {plugin} is needed"));
    }
    if let Some(root) = &resolver.options.root {
        resolver.problems.unsupported(None, None, format!("--root {}: not supported yet", root.display()));
    }
}

fn taken_pids(resolver: &mut Resolver<'_>) {
    let model = resolver.model;
    for (pid, taken) in &resolver.facts.pids.taken {
        let origin = model.tasks.iter().find(|task| task.pid == *pid).map(|task| task.origin);
        let owner = model.tasks.iter().find(|task| {
            task.pid == *pid || task.alive().is_some_and(|a| a.threads.iter().any(|t| t.tid == *pid))
        });
        if owner.is_none() {
            // Only named as a group or session; whether that can be entered is the planner's to say.
            continue;
        }
        if taken.whose == Whose::Regrow && !resolver.options.restoring {
            // A dry run does not stay; a restore has its own numbers behind those of the images.
            continue;
        }
        let text = format!("pid {pid} is in use by {taken}");
        resolver.problems.add(ProblemKind::PidTaken, owner.map(|task| task.pid), origin, text);
    }
    if let Some(max) = resolver.facts.pids.pid_max {
        for task in &model.tasks {
            if task.pid.0 >= max {
                let text = format!("pid {} is not below kernel.pid_max {max}", task.pid);
                resolver.problems.add(ProblemKind::Lacking, Some(task.pid), Some(task.origin), text);
            }
        }
    }
}

fn privileges(resolver: &mut Resolver<'_>) {
    if !resolver.facts.own.caps.has_effective(CAP_SYS_ADMIN)
        && !resolver.facts.own.caps.has_effective(CAP_CHECKPOINT_RESTORE)
    {
        let text = "CAP_CHECKPOINT_RESTORE (or CAP_SYS_ADMIN) is missing: pids cannot be chosen";
        resolver.problems.add(ProblemKind::Lacking, None, None, text);
    }
    if let Some(mode @ 1..) = resolver.facts.own.seccomp_mode {
        let text = format!("seccomp is on here (mode {mode}), and every task would inherit it");
        resolver.problems.add(ProblemKind::Lacking, None, None, text);
    }
    for (what, probe) in [
        ("prctl(PR_SET_MM_MAP) (CONFIG_CHECKPOINT_RESTORE)", resolver.facts.kernel.set_mm_map),
        ("close_range(2) (Linux 5.9)", resolver.facts.kernel.close_range),
    ] {
        if let Probe::Absent(errno) = probe {
            resolver.problems.add(ProblemKind::Lacking, None, None, format!("{what} is missing: {errno}"));
        }
    }
}

/// The buffers of sockets get the sizes they had, which may be beyond the host's maximum: SO_SNDBUFFORCE asks for
/// a capability in the first user namespace (`capable()` in net/core/sock.c).
fn socket_buffers(resolver: &mut Resolver<'_>) {
    let model = resolver.model;
    let own = &resolver.facts.own;
    let is_socket = |ofd: &&Ofd| matches!(ofd.kind, OfdKind::Unix(_) | OfdKind::Inet(_));
    let Some(socket) = model.ofds.iter().find(is_socket) else { return };
    if own.caps.has_effective(CAP_NET_ADMIN) && own.is_in_first_user_ns != Some(false) {
        return;
    }
    let text = "CAP_NET_ADMIN in the first user namespace is missing: the buffers of sockets cannot be sized";
    resolver.problems.add(ProblemKind::Lacking, None, Some(socket.origin), text);
}

/// Tasks must live in the namespaces in which CRIU itself lived; time is [`super::clocks`]'s, IPC [`super::ipc`]'s.
fn namespaces(resolver: &mut Resolver<'_>) {
    let model = resolver.model;
    let Some(root) = model.inventory.root_ids else { return };
    for task in &model.tasks {
        let Some(alive) = task.alive() else { continue };
        let ids = alive.ids;
        for (what, own, outer) in [
            ("pid", ids.pid_ns, root.pid_ns),
            ("network", ids.net_ns, root.net_ns),
            ("UTS", ids.uts_ns, root.uts_ns),
            ("mount", ids.mnt_ns, root.mnt_ns),
            ("user", ids.user_ns, root.user_ns),
            ("cgroup", ids.cgroup_ns, root.cgroup_ns),
        ] {
            if own != 0 && outer != 0 && own != outer {
                let text = format!("lives in a {what} namespace of its own: not restored yet");
                resolver.problems.unsupported(Some(task.pid), Some(task.core_origin), text);
            }
        }
    }
}

fn unread_images(resolver: &mut Resolver<'_>) {
    for image in &resolver.model.unread {
        let count = image.entries.map_or(String::new(), |count| format!(" ({count} entries)"));
        let text = format!("{}{count}: {}: not restored yet", image.file, image.what);
        resolver.problems.unsupported(None, None, text);
    }
}
