//! Tasks: the process tree, and the images of each task and thread.
//!
//! The inverse of [`super::super::task`], `core`, `mm` and `fds`.

use super::super::aio::all_pages;
use super::super::magic;
use super::super::model::{
    AioRing, Alive, Creds, Fpu, Image, KobjIds, Model, OfdKind, PosixTimer, Regs, SigAction, Task, TaskState,
    Thread, Timers, Vma, VmaKind,
};
use super::super::proto::{
    AioRingEntry, CoreEntry, CredsEntry, FdinfoEntry, FsEntry, ItimerEntry, MARCH_X86_64, MmEntry,
    PosixTimerEntry, PstreeEntry, RlimitEntry, RseqEntry, SaEntry, SiginfoEntry, SignalQueueEntry,
    TaskCoreEntry, TaskKobjIdsEntry, TaskRlimitsEntry, TaskTimersEntry, ThreadCoreEntry, ThreadInfoX86,
    ThreadSasEntry, UserX86CetEntry, UserX86FpregsEntry, UserX86RegsEntry, UserX86XsaveEntry, VmaEntry,
};
use super::super::vma;
use super::{Contents, Entries, Out, WriteError, by_entry, files, pages};

/// `task_state` (`compel/include/uapi/task-state.h`).
mod state {
    pub(super) const ALIVE: u32 = 1;
    pub(super) const DEAD: u32 = 2;
    pub(super) const STOPPED: u32 = 3;
}

/// The process tree.
pub(super) fn write_pstree<C: Contents + ?Sized>(out: &Out<'_, C>, tasks: &[Task]) -> Result<(), WriteError> {
    let mut entries = Entries::new(&magic::PSTREE);
    for task in by_entry(tasks, |task| task.origin) {
        let threads =
            task.alive().map_or(vec![task.pid.0], |alive| alive.threads.iter().map(|t| t.tid.0).collect());
        let (pid, ppid, pgid, sid) = (task.pid.0, task.ppid.0, task.pgid.0, task.sid.0);
        entries.push(&PstreeEntry { pid, ppid, pgid, sid, threads });
    }
    out.write(Image::Pstree, &entries)
}

/// All images of one task but its descriptor table, where another task with the same one has written it.
pub(super) fn write_task<C: Contents + ?Sized>(
    out: &Out<'_, C>,
    model: &Model,
    task: &Task,
) -> Result<(), WriteError> {
    let (alive, state) = match &task.state {
        TaskState::Alive(alive) => (alive, state::ALIVE),
        TaskState::Stopped(alive) => (alive, state::STOPPED),
        TaskState::Zombie { exit_code, comm } => {
            let tc = TaskCoreEntry {
                task_state: state::DEAD,
                exit_code: *exit_code,
                comm: comm.clone().into_bytes(),
                ..TaskCoreEntry::default()
            };
            return write_core(out, task.pid.0, CoreEntry { tc: Some(tc), ..core() });
        }
    };
    for thread in &alive.threads {
        let is_leader = thread.tid == task.pid;
        let tc = is_leader.then(|| process(alive, thread, state));
        let image = Image::Core(thread.tid.0);
        let entry = CoreEntry {
            tc,
            thread_info: Some(thread_info(image, thread)?),
            thread_core: Some(thread_core(thread, is_leader)),
            ..core()
        };
        write_core(out, thread.tid.0, entry)?;
    }
    write_ids(out, task.pid.0, &alive.ids)?;
    write_mm(out, model, task.pid.0, alive)?;
    let mut entries = Entries::new(&magic::FS);
    entries.push(&FsEntry { cwd_id: alive.fs.cwd_id, root_id: alive.fs.root_id, umask: Some(alive.umask) });
    out.write(Image::Fs(task.pid.0), &entries)?;
    write_fds(out, model, task, alive)
}

fn core() -> CoreEntry {
    CoreEntry { mtype: MARCH_X86_64, ..CoreEntry::default() }
}

fn write_core<C: Contents + ?Sized>(out: &Out<'_, C>, tid: u32, core: CoreEntry) -> Result<(), WriteError> {
    let mut entries = Entries::new(&magic::CORE);
    entries.push(&core);
    out.write(Image::Core(tid), &entries)
}

fn write_ids<C: Contents + ?Sized>(out: &Out<'_, C>, pid: u32, ids: &KobjIds) -> Result<(), WriteError> {
    let mut entries = Entries::new(&magic::IDS);
    entries.push(&kobj_ids(ids));
    out.write(Image::Ids(pid), &entries)
}

/// Ids of kernel objects; 0 is "not said".
pub(super) fn kobj_ids(ids: &KobjIds) -> TaskKobjIdsEntry {
    let id = |id: u32| (id != 0).then_some(id);
    TaskKobjIdsEntry {
        vm_id: ids.vm,
        files_id: ids.files,
        fs_id: ids.fs,
        sighand_id: ids.sighand,
        pid_ns_id: id(ids.pid_ns),
        net_ns_id: id(ids.net_ns),
        ipc_ns_id: id(ids.ipc_ns),
        uts_ns_id: id(ids.uts_ns),
        mnt_ns_id: id(ids.mnt_ns),
        user_ns_id: id(ids.user_ns),
        cgroup_ns_id: id(ids.cgroup_ns),
        time_ns_id: id(ids.time_ns),
    }
}

fn process(alive: &Alive, leader: &Thread, task_state: u32) -> TaskCoreEntry {
    let rlimits = alive.rlimits.iter().map(|limit| RlimitEntry { cur: limit.cur, max: limit.max }).collect();
    TaskCoreEntry {
        task_state,
        exit_code: 0,
        personality: alive.personality,
        // PF_* of the kernel; nobody reads them.
        flags: 0,
        blk_sigset: leader.blocked,
        comm: alive.comm.clone().into_bytes(),
        timers: Some(timers(&alive.timers)),
        rlimits: Some(TaskRlimitsEntry { rlimits }),
        cg_set: None,
        signals_s: Some(signals(&alive.pending_shared)),
        old_seccomp_mode: None,
        old_seccomp_filter: None,
        loginuid: alive.loginuid,
        oom_score_adj: Some(alive.oom_score_adj),
        sigactions: sigactions(&alive.sigactions),
        child_subreaper: Some(alive.child_subreaper),
        blk_sigset_extended: None,
        stop_signo: alive.stop_signo,
        membarrier_registration_mask: (alive.membarrier != 0).then_some(alive.membarrier),
    }
}

/// All but those of SIGKILL and SIGSTOP, which the images have no entries for.
fn sigactions(actions: &[SigAction]) -> Vec<SaEntry> {
    (1..)
        .zip(actions)
        .filter(|(signal, _)| !matches!(*signal, libc::SIGKILL | libc::SIGSTOP))
        .map(|(_, action)| SaEntry {
            sigaction: action.handler,
            flags: action.flags,
            restorer: action.restorer,
            mask: action.mask,
            compat_sigaction: Some(action.compat),
            mask_extended: None,
        })
        .collect()
}

fn signals(infos: &[Vec<u8>]) -> SignalQueueEntry {
    SignalQueueEntry { signals: infos.iter().map(|info| SiginfoEntry { siginfo: info.clone() }).collect() }
}

fn timers(timers: &Timers) -> TaskTimersEntry {
    const UNIT: u64 = 1_000_000;
    let [real, virt, prof] = timers.itimers.map(|(interval_us, value_us)| ItimerEntry {
        isec: interval_us / UNIT,
        iusec: interval_us % UNIT,
        vsec: value_us / UNIT,
        vusec: value_us % UNIT,
    });
    TaskTimersEntry { real, virt, prof, posix: timers.posix.iter().map(posix_timer).collect() }
}

fn posix_timer(timer: &PosixTimer) -> PosixTimerEntry {
    const UNIT: u64 = 1_000_000_000;
    PosixTimerEntry {
        it_id: timer.id,
        clock_id: timer.clock_id,
        si_signo: timer.signo,
        it_sigev_notify: timer.notify,
        sival_ptr: timer.sival_ptr,
        overrun: timer.overrun,
        isec: timer.interval_ns / UNIT,
        insec: timer.interval_ns % UNIT,
        vsec: timer.value_ns / UNIT,
        vnsec: timer.value_ns % UNIT,
        notify_thread_id: timer.notify_tid,
    }
}

fn thread_core(thread: &Thread, is_leader: bool) -> ThreadCoreEntry {
    ThreadCoreEntry {
        futex_rla: thread.robust_list.0,
        futex_rla_len: thread.robust_list.1 as u32,
        sched_nice: Some(thread.sched.nice),
        sched_policy: Some(thread.sched.policy),
        sched_prio: (thread.sched.priority != 0).then_some(thread.sched.priority),
        blk_sigset: (!is_leader).then_some(thread.blocked),
        sas: Some(ThreadSasEntry {
            ss_sp: thread.sas.sp,
            ss_size: thread.sas.size_bytes,
            ss_flags: thread.sas.flags,
        }),
        pdeath_sig: (thread.pdeath_sig != 0).then_some(thread.pdeath_sig),
        signals_p: Some(signals(&thread.pending)),
        creds: thread.creds.as_deref().map(creds),
        seccomp_mode: (thread.seccomp_mode != 0).then_some(thread.seccomp_mode),
        seccomp_filter: thread.seccomp_filter,
        comm: thread.comm.clone().map(String::into_bytes),
        blk_sigset_extended: None,
        rseq_entry: thread.rseq.map(|rseq| RseqEntry {
            rseq_abi_pointer: rseq.address,
            rseq_abi_size: rseq.size_bytes,
            signature: rseq.signature,
            rseq_cs_pointer: (rseq.critical_section != 0).then_some(rseq.critical_section),
        }),
        cg_set: thread.cg_set,
        timerslack_ns: thread.timer_slack_ns,
    }
}

fn creds(creds: &Creds) -> CredsEntry {
    let words = |mask: u64| vec![mask as u32, (mask >> 32) as u32];
    CredsEntry {
        uid: creds.uid,
        gid: creds.gid,
        euid: creds.euid,
        egid: creds.egid,
        suid: creds.suid,
        sgid: creds.sgid,
        fsuid: creds.fsuid,
        fsgid: creds.fsgid,
        cap_inh: words(creds.cap_inh),
        cap_prm: words(creds.cap_prm),
        cap_eff: words(creds.cap_eff),
        cap_bnd: words(creds.cap_bnd),
        secbits: creds.securebits,
        groups: creds.groups.clone(),
        lsm_profile: creds.lsm_profile.clone().map(String::into_bytes),
        lsm_sockcreate: creds.lsm_sockcreate.clone().map(String::into_bytes),
        apparmor_data: None,
        no_new_privs: Some(u32::from(creds.no_new_privs)),
        cap_amb: words(creds.cap_amb),
    }
}

fn thread_info(image: Image, thread: &Thread) -> Result<ThreadInfoX86, WriteError> {
    if thread.gdt_tls != 0 {
        return Err(WriteError::unsupported(image, format!("{} TLS descriptors", thread.gdt_tls)));
    }
    let Some(fpu) = thread.fpu.as_deref() else {
        return Err(WriteError::unsupported(image, "a thread without FPU state"));
    };
    Ok(ThreadInfoX86 {
        clear_tid_addr: thread.clear_tid_addr,
        gpregs: regs(&thread.regs),
        fpregs: fpregs(image, fpu)?,
        tls: Vec::new(),
    })
}

fn regs(regs: &Regs) -> UserX86RegsEntry {
    UserX86RegsEntry {
        r15: regs.r15,
        r14: regs.r14,
        r13: regs.r13,
        r12: regs.r12,
        bp: regs.bp,
        bx: regs.bx,
        r11: regs.r11,
        r10: regs.r10,
        r9: regs.r9,
        r8: regs.r8,
        ax: regs.ax,
        cx: regs.cx,
        dx: regs.dx,
        si: regs.si,
        di: regs.di,
        orig_ax: regs.orig_ax,
        ip: regs.ip,
        cs: regs.cs,
        flags: regs.flags,
        sp: regs.sp,
        ss: regs.ss,
        fs_base: regs.fs_base,
        gs_base: regs.gs_base,
        ds: regs.ds,
        es: regs.es,
        fs: regs.fs,
        gs: regs.gs,
        // NATIVE and COMPAT of `user_x86_regs_mode`.
        mode: Some(if regs.compat { 2 } else { 1 }),
    }
}

/// Bytes as the words that the images have them in; what is no whole word is cut.
fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// The same in words of 64 bits.
fn long_words(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

fn fpregs(image: Image, fpu: &Fpu) -> Result<UserX86FpregsEntry, WriteError> {
    let xsave = match fpu.xstate_bv {
        Some(xstate_bv) => Some(xsave(image, xstate_bv, &fpu.components)?),
        None if fpu.components.is_empty() => None,
        None => return Err(WriteError::unsupported(image, "extended state without xstate_bv")),
    };
    Ok(UserX86FpregsEntry {
        cwd: u32::from(fpu.cwd),
        swd: u32::from(fpu.swd),
        twd: u32::from(fpu.twd),
        fop: u32::from(fpu.fop),
        rip: fpu.rip,
        rdp: fpu.rdp,
        mxcsr: fpu.mxcsr,
        mxcsr_mask: fpu.mxcsr_mask,
        st_space: words(&fpu.st_space),
        xmm_space: words(&fpu.xmm_space),
        padding: Vec::new(),
        xsave,
    })
}

fn xsave(
    image: Image,
    xstate_bv: u64,
    components: &[(u32, Vec<u8>)],
) -> Result<UserX86XsaveEntry, WriteError> {
    let mut e = UserX86XsaveEntry { xstate_bv, ..UserX86XsaveEntry::default() };
    for (number, bytes) in components {
        match number {
            2 => e.ymmh_space = words(bytes),
            3 => e.bndreg_state = long_words(bytes),
            4 => e.bndcsr_state = long_words(bytes),
            5 => e.opmask_reg = long_words(bytes),
            6 => e.zmm_upper = long_words(bytes),
            7 => e.hi16_zmm = long_words(bytes),
            9 => e.pkru = words(bytes),
            11 => match long_words(bytes)[..] {
                [cet, ssp] => e.cet = Some(UserX86CetEntry { cet, ssp }),
                _ => return Err(WriteError::unsupported(image, "a CET state of another length")),
            },
            other => {
                return Err(WriteError::unsupported(image, format!("component {other} of the FPU state")));
            }
        }
    }
    Ok(e)
}

fn write_mm<C: Contents + ?Sized>(
    out: &Out<'_, C>,
    model: &Model,
    pid: u32,
    alive: &Alive,
) -> Result<(), WriteError> {
    let (image, mm) = (Image::Mm(pid), &alive.mm);
    let mut mappings: Vec<&Vma> = mm.vmas.iter().collect();
    mappings.sort_by_key(|vma| vma.origin.entry);
    let mut vmas =
        mappings.into_iter().map(|vma| vma_entry(model, image, vma)).collect::<Result<Vec<_>, _>>()?;
    vmas.extend(mm.guards.iter().map(|&(start, end)| VmaEntry {
        start,
        end,
        // As CRIU has them: no mapping of their own, but private memory in all that is looked at.
        status: vma::AREA_GUARD,
        flags: (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u32,
        fd: -1,
        ..VmaEntry::default()
    }));
    let mut entries = Entries::new(&magic::MM);
    entries.push(&MmEntry {
        mm_start_code: mm.start_code,
        mm_end_code: mm.end_code,
        mm_start_data: mm.start_data,
        mm_end_data: mm.end_data,
        mm_start_stack: mm.start_stack,
        mm_start_brk: mm.start_brk,
        mm_brk: mm.brk,
        mm_arg_start: mm.arg_start,
        mm_arg_end: mm.arg_end,
        mm_env_start: mm.env_start,
        mm_env_end: mm.env_end,
        exe_file_id: mm.exe_file_id,
        mm_saved_auxv: mm.auxv.clone(),
        vmas,
        dumpable: mm.dumpable,
        aios: mm.aio_rings.iter().map(aio_entry).collect(),
        thp_disabled: Some(mm.thp_disabled),
    });
    out.write(image, &entries)?;
    pages::write(out, Image::Pagemap(pid), &all_pages(&mm.pages, &mm.aio_rings))
}

fn aio_entry(ring: &AioRing) -> AioRingEntry {
    AioRingEntry { id: ring.start, nr_req: ring.requests, ring_len: ring.len_bytes as u32 }
}

fn vma_entry(model: &Model, image: Image, vma: &Vma) -> Result<VmaEntry, WriteError> {
    let (shmid, pgoff, fdflags) = match vma.kind {
        VmaKind::AnonPrivate | VmaKind::Vvar | VmaKind::Vdso | VmaKind::Vsyscall | VmaKind::AioRing => {
            (0, 0, None)
        }
        VmaKind::FilePrivate { ofd_id, offset_bytes, file_flags }
        | VmaKind::FileShared { ofd_id, offset_bytes, file_flags }
        | VmaKind::Memfd { ofd_id, offset_bytes, file_flags, .. } => {
            (u64::from(ofd_id), offset_bytes, file_flags)
        }
        VmaKind::AnonShared { shmid, offset_bytes } if vma.status & vma::AREA_MEMFD == 0 => {
            (shmid, offset_bytes, None)
        }
        VmaKind::AnonShared { shmid, offset_bytes } => {
            let Some(id) = memfd_of(model, shmid) else {
                let what = format!("shared memory {shmid:#x} at {:#x} without a memfd", vma.start);
                return Err(WriteError::unsupported(image, what));
            };
            // Anonymous memory may always be written to, whatever its protection is now (mprotect(2)).
            (u64::from(id), offset_bytes, Some(libc::O_RDWR as u32))
        }
        VmaKind::SysV { shmid, offset_bytes, read_only } => {
            let attached = if read_only { libc::O_RDONLY } else { libc::O_RDWR };
            (u64::from(shmid), offset_bytes, Some(attached as u32))
        }
        VmaKind::Other => {
            let what = format!("a mapping of status {:#x} at {:#x}", vma.status, vma.start);
            return Err(WriteError::unsupported(image, what));
        }
    };
    Ok(VmaEntry {
        start: vma.start,
        end: vma.end,
        pgoff,
        shmid,
        prot: vma.prot,
        flags: vma.flags,
        status: vma.status,
        fd: -1,
        madv: (vma.madvise != 0).then_some(vma.madvise),
        fdflags,
    })
}

/// The id of the description through which shared anonymous memory is stored.
fn memfd_of(model: &Model, shmid: u64) -> Option<u32> {
    let inode = model.memfds.iter().find(|inode| inode.shmid == shmid)?.inode_id;
    model.ofds.iter().find_map(|ofd| match &ofd.kind {
        OfdKind::Memfd(file) if file.inode_id == inode => Some(ofd.id),
        _ => None,
    })
}

fn write_fds<C: Contents + ?Sized>(
    out: &Out<'_, C>,
    model: &Model,
    task: &Task,
    alive: &Alive,
) -> Result<(), WriteError> {
    // CRIU creates the image with its first entry. Tasks that share a table share the image.
    let is_written = || {
        let others = model.tasks.iter().take_while(|other| other.pid != task.pid);
        others.filter_map(Task::alive).any(|other| other.ids.files == alive.ids.files)
    };
    if alive.fds.is_empty() || is_written() {
        return Ok(());
    }
    let image = Image::Fdinfo(alive.ids.files);
    let mut entries = Entries::new(&magic::FDINFO);
    for fd in by_entry(&alive.fds, |fd| alive.origin_of(fd)) {
        let Some(ofd) = model.ofds.iter().find(|ofd| ofd.id == fd.ofd_id) else {
            let what = format!("descriptor {}, whose description {:#x} is missing,", fd.fd, fd.ofd_id);
            return Err(WriteError::unsupported(image, what));
        };
        entries.push(&FdinfoEntry {
            id: fd.ofd_id,
            flags: u32::from(fd.cloexec),
            r#type: files::fd_type(ofd)?,
            fd: fd.fd,
            xattr_security_selinux: None,
        });
    }
    out.write(image, &entries)
}
