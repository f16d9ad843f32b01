//! A small model of Linux: descriptor tables, fork, sessions, process groups, zombies.
//!
//! It takes calls and answers as Linux would, with an [`Errno`] where Linux would refuse. It knows
//! nothing of plans. Example: after `create(100, 2)` in an empty table, 0 and 1 are open, and
//! `dup(100, 0, 5)` makes 5 refer to what 0 refers to.
//!
//! # Sources
//! open(2), dup(2), close_range(2), setsid(2), setpgid(2), waitid(2); `kernel/sys.c`
//! (`ksys_setsid`, `do_setpgid`).

use std::collections::{BTreeMap, BTreeSet};

/// Session of whoever starts the root.
pub const CRADLE_SID: u32 = 1;
/// Process group of whoever starts the root.
pub const CRADLE_PGID: u32 = 2;

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errno {
    /// Not permitted.
    Perm,
    /// No such process.
    Srch,
    /// The number is not open.
    BadF,
    /// No number left.
    MFile,
    /// Nonsense.
    Inval,
    /// The pid is taken.
    Exist,
    /// Nothing to take.
    Again,
}

/// An open file description, by when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Description(pub usize);

/// One process.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// Its parent's pid.
    pub parent: u32,
    /// Session.
    pub sid: u32,
    /// Process group.
    pub pgid: u32,
    /// Descriptors: what each refers to, and close-on-exec.
    pub table: BTreeMap<u32, (Description, bool)>,
    /// What has no descriptor and is inherited (shared mappings), by a number of the caller's.
    pub mappings: BTreeSet<usize>,
    /// Dead and not reaped.
    pub is_zombie: bool,
    /// Its death raises SIGCHLD.
    pub raises_sigchld: bool,
    /// SIGCHLD is pending.
    pub has_sigchld: bool,
    /// Children of those below that die come to it.
    pub is_subreaper: bool,
}

/// All processes.
#[derive(Debug, Default)]
pub struct Kernel {
    /// By pid.
    pub processes: BTreeMap<u32, Process>,
    /// Numbers must stay below; 0: no limit.
    pub fd_limit: u32,
    threads: BTreeSet<u32>,
    opened: usize,
}

impl Kernel {
    /// A kernel with one process, of `pid`, born by an init that leads the cradle's session, beside a
    /// leader of the cradle's group.
    pub fn new(pid: u32, fd_limit: u32) -> Kernel {
        let outside = |pgid| Process { sid: CRADLE_SID, pgid, ..Process::default() };
        let mut processes =
            BTreeMap::from([(CRADLE_SID, outside(CRADLE_SID)), (CRADLE_PGID, outside(CRADLE_PGID))]);
        processes.insert(pid, Process { parent: CRADLE_SID, ..outside(CRADLE_PGID) });
        Kernel { processes, fd_limit, threads: BTreeSet::new(), opened: 0 }
    }

    fn alive(&mut self, pid: u32) -> Result<&mut Process, Errno> {
        self.processes.get_mut(&pid).filter(|process| !process.is_zombie).ok_or(Errno::Srch)
    }

    /// fork(2) with a chosen pid, and with SIGCHLD or no exit signal.
    ///
    /// # Errors
    /// `Exist`, `Srch`.
    pub fn fork(&mut self, pid: u32, child: u32, raises_sigchld: bool) -> Result<(), Errno> {
        let born = Process {
            parent: pid,
            raises_sigchld,
            has_sigchld: false,
            is_subreaper: false,
            ..self.alive(pid)?.clone()
        };
        self.bear(child, born)
    }

    /// clone(2) with CLONE_PARENT: the child has the caller's parent, and its exit signal.
    ///
    /// # Errors
    /// `Exist`, `Srch`.
    pub fn fork_sibling(&mut self, pid: u32, child: u32) -> Result<(), Errno> {
        let born = Process { has_sigchld: false, is_subreaper: false, ..self.alive(pid)?.clone() };
        self.bear(child, born)
    }

    fn bear(&mut self, child: u32, born: Process) -> Result<(), Errno> {
        if self.is_taken(child) {
            return Err(Errno::Exist);
        }
        self.processes.insert(child, born);
        Ok(())
    }

    /// clone(2) with CLONE_THREAD: a further thread shares everything that this model knows.
    ///
    /// # Errors
    /// `Exist`, `Srch`.
    pub fn start_thread(&mut self, pid: u32, tid: u32) -> Result<(), Errno> {
        self.alive(pid)?;
        if self.is_taken(tid) || !self.threads.insert(tid) {
            return Err(Errno::Exist);
        }
        Ok(())
    }

    fn is_taken(&self, pid: u32) -> bool {
        self.threads.contains(&pid)
            || self.processes.contains_key(&pid)
            || self.processes.values().any(|process| process.sid == pid || process.pgid == pid)
    }

    /// Opens `count` descriptions, one after another.
    ///
    /// # Errors
    /// `MFile`, `Srch`.
    pub fn create(
        &mut self,
        pid: u32,
        count: usize,
        cloexec: bool,
    ) -> Result<Vec<(u32, Description)>, Errno> {
        let (limit, mut opened) = (self.fd_limit, self.opened);
        let table = &mut self.alive(pid)?.table;
        let mut made = Vec::new();
        for _ in 0..count {
            // open(2): "the lowest-numbered file descriptor not currently open for the process".
            let fd = (0..).find(|fd| !table.contains_key(fd)).ok_or(Errno::MFile)?;
            if limit != 0 && fd >= limit {
                return Err(Errno::MFile);
            }
            table.insert(fd, (Description(opened), cloexec));
            made.push((fd, Description(opened)));
            opened += 1;
        }
        self.opened = opened;
        Ok(made)
    }

    /// Gives descriptions that are open somewhere the lowest free numbers, as recvmsg(2) does.
    ///
    /// # Errors
    /// `MFile`, `Srch`.
    pub fn receive(&mut self, pid: u32, what: &[Description], cloexec: bool) -> Result<Vec<u32>, Errno> {
        let limit = self.fd_limit;
        let table = &mut self.alive(pid)?.table;
        let mut at = Vec::new();
        for description in what {
            let fd = (0..).find(|fd| !table.contains_key(fd)).ok_or(Errno::MFile)?;
            if limit != 0 && fd >= limit {
                return Err(Errno::MFile);
            }
            table.insert(fd, (*description, cloexec));
            at.push(fd);
        }
        Ok(at)
    }

    /// Maps something that children inherit.
    ///
    /// # Errors
    /// `Srch`.
    pub fn map(&mut self, pid: u32, what: usize) -> Result<(), Errno> {
        self.alive(pid)?.mappings.insert(what);
        Ok(())
    }

    /// dup3(2).
    ///
    /// # Errors
    /// `BadF`, `Inval`, `Srch`.
    pub fn dup(&mut self, pid: u32, from: u32, to: u32, cloexec: bool) -> Result<Description, Errno> {
        let limit = self.fd_limit;
        let table = &mut self.alive(pid)?.table;
        if from == to {
            return Err(Errno::Inval);
        }
        let Some((what, _)) = table.get(&from).copied() else { return Err(Errno::BadF) };
        if limit != 0 && to >= limit {
            return Err(Errno::BadF);
        }
        table.insert(to, (what, cloexec));
        Ok(what)
    }

    /// close(2).
    ///
    /// # Errors
    /// `BadF`, `Srch`.
    pub fn close(&mut self, pid: u32, fd: u32) -> Result<(), Errno> {
        self.alive(pid)?.table.remove(&fd).map(|_| ()).ok_or(Errno::BadF)
    }

    /// close_range(2).
    ///
    /// # Errors
    /// `Inval`, `Srch`.
    pub fn close_range(&mut self, pid: u32, first: u32, last: u32) -> Result<(), Errno> {
        let table = &mut self.alive(pid)?.table;
        if first > last {
            return Err(Errno::Inval);
        }
        table.retain(|fd, _| *fd < first || *fd > last);
        Ok(())
    }

    /// fcntl(2), F_SETFD.
    ///
    /// # Errors
    /// `BadF`, `Srch`.
    pub fn set_cloexec(&mut self, pid: u32, fd: u32, cloexec: bool) -> Result<Description, Errno> {
        let (what, flag) = self.alive(pid)?.table.get_mut(&fd).ok_or(Errno::BadF)?;
        *flag = cloexec;
        Ok(*what)
    }

    /// setsid(2): "Fail if a process group id already exists that equals the proposed session id"
    /// (`ksys_setsid`).
    ///
    /// # Errors
    /// `Perm`, `Srch`.
    pub fn set_sid(&mut self, pid: u32) -> Result<(), Errno> {
        if self.processes.values().any(|process| process.pgid == pid) {
            return Err(Errno::Perm);
        }
        let process = self.alive(pid)?;
        if process.sid == pid {
            return Err(Errno::Perm);
        }
        process.sid = pid;
        process.pgid = pid;
        Ok(())
    }

    /// setpgid(2) on the caller: not for session leaders; a group of others must have a member (a
    /// zombie is one) in the same session.
    ///
    /// # Errors
    /// `Perm`, `Srch`.
    pub fn set_pgid(&mut self, pid: u32, pgid: u32) -> Result<(), Errno> {
        let sid = self.alive(pid)?.sid;
        if sid == pid {
            return Err(Errno::Perm);
        }
        if pgid != pid {
            let member = self.processes.values().find(|process| process.pgid == pgid);
            if member.is_none_or(|member| member.sid != sid) {
                return Err(Errno::Perm);
            }
        }
        self.alive(pid)?.pgid = pgid;
        Ok(())
    }

    /// prctl(2), PR_SET_CHILD_SUBREAPER.
    ///
    /// # Errors
    /// `Srch`.
    pub fn become_subreaper(&mut self, pid: u32) -> Result<(), Errno> {
        self.alive(pid)?.is_subreaper = true;
        Ok(())
    }

    /// exit(2): the table goes, a SIGCHLD comes, children go to the nearest subreaper above, or to init,
    /// which hears of the death of those that are dead (`forget_original_parent`).
    ///
    /// # Errors
    /// `Srch`.
    pub fn exit(&mut self, pid: u32) -> Result<(), Errno> {
        let mut heir = self.alive(pid)?.parent;
        while let Some(process) = self.processes.get(&heir).filter(|process| !process.is_subreaper) {
            heir = process.parent;
        }
        let mut has_died = false;
        for orphan in self.processes.values_mut().filter(|process| process.parent == pid) {
            orphan.parent = heir;
            orphan.raises_sigchld = true;
            has_died |= orphan.is_zombie;
        }
        if let Some(heir) = self.processes.get_mut(&heir) {
            heir.has_sigchld |= has_died;
        }
        let process = self.alive(pid)?;
        process.is_zombie = true;
        process.table.clear();
        process.mappings.clear();
        let (parent, raises_sigchld) = (process.parent, process.raises_sigchld);
        if let Some(parent) = self.processes.get_mut(&parent).filter(|_| raises_sigchld) {
            parent.has_sigchld = true;
        }
        Ok(())
    }

    /// waitid(2) with WNOWAIT: whether it returns (otherwise it blocks).
    ///
    /// # Errors
    /// `Srch` if it is nobody's child here.
    pub fn wait_would_return(&self, pid: u32, child: u32) -> Result<bool, Errno> {
        self.processes
            .get(&child)
            .filter(|process| process.parent == pid)
            .map(|process| process.is_zombie)
            .ok_or(Errno::Srch)
    }

    /// waitid(2) that reaps.
    ///
    /// # Errors
    /// `Srch` if it is nobody's child here, `Again` if it lives.
    pub fn reap(&mut self, pid: u32, child: u32) -> Result<(), Errno> {
        if !self.wait_would_return(pid, child)? {
            return Err(Errno::Again);
        }
        self.processes.remove(&child);
        Ok(())
    }

    /// sigtimedwait(2) for SIGCHLD, without waiting.
    ///
    /// # Errors
    /// `Again` if none is pending.
    pub fn take_sigchld(&mut self, pid: u32) -> Result<(), Errno> {
        let process = self.alive(pid)?;
        if std::mem::take(&mut process.has_sigchld) { Ok(()) } else { Err(Errno::Again) }
    }
}
