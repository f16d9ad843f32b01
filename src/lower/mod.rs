//! Operations into system calls, one file a kind of operation.
//!
//! The order is the plan's and the values are the recipes'; what this stage knows is how Linux is
//! asked for each of them. Worked example: `Create { pipe, at: [3, 4] }` with five bytes in it
//! becomes `pipe2(scratch, 0) = 0`, `write(4, "hello", 5) = 5`.

mod aio;
mod attributes;
mod credentials;
mod eventfd;
mod fifo;
mod fill;
mod inet;
mod ipc;
mod memory;
mod nameless;
mod owner;
mod pass;
mod pipe;
mod poll;
mod reg;
pub mod registers;
mod seccomp;
mod stage;
mod unix;

use std::collections::BTreeMap;

use regrow_graph::graph::OpKind;
use regrow_graph::ids::{Fd, OpId, TaskId};
use regrow_graph::order::{Item, Plan};

use crate::image;
use crate::resolve::recipe::{CgroupRecipe, ResourceKind};
use crate::resolve::{Recipes, Role, Window};
use crate::runner;
use crate::tape::abi::{
    CLONE_ARGS_CGROUP, CLONE_ARGS_EXIT_SIGNAL, CLONE_ARGS_FLAGS, CLONE_ARGS_SET_TID, CLONE_ARGS_SET_TID_SIZE,
    CLONE_INTO_CGROUP,
};
use crate::tape::assemble::{Assembler, Tape, TooLarge};
use crate::tape::{Cgroup, CgroupFile, CgroupPerms, Tapes};

/// How many records are as long as what a task's records read: about two kilobytes.
const BUFFERS: usize = 32;

/// Lowers and assembles a whole plan.
///
/// # Errors
/// The tapes are larger than the window allows.
pub fn lower(plan: &Plan, recipes: &Recipes, window: &Window) -> Result<Tapes, TooLarge> {
    let names = nameless::names(recipes) + unix::names(recipes);
    let mut asm = Assembler::with_undo(
        window.base,
        plan.events.len(),
        names,
        attributes::cells(recipes) + pass::cells(plan) + fill::cells(recipes) + aio::cells(recipes),
        runner::code(),
    );
    // Few operations take more than one record, and a task's buffers are as long as some more. Room that is not used
    // costs nothing, and what grows is copied.
    let operations: usize = plan.programs.iter().map(Vec::len).sum();
    asm.reserve(operations + operations / 4 + BUFFERS * plan.programs.len());
    let mut tapes = vec![(0, 0); plan.programs.len()];
    let into: BTreeMap<usize, Fd> = plan
        .order
        .iter()
        .filter_map(|op| match plan.graph.op(*op).kind {
            OpKind::Fork { child, into: Some(into) } => Some((child.index(), into)),
            _ => None,
        })
        .collect();
    let mut records = Vec::new();
    // Who forks a task needs the address of its tape.
    for index in births(plan).into_iter().rev() {
        let program = &plan.programs[index];
        let recipe = &recipes.tasks[index];
        let mut lowering = Lowering {
            recipes,
            window,
            asm: &mut asm,
            tape: Tape { records: std::mem::take(&mut records), ..Tape::default() },
            task: TaskId::new(index),
            tapes: &tapes,
        };
        for item in program {
            match item {
                Item::Op(op) => lowering.op(plan, *op),
                Item::Post(event) => {
                    let word = lowering.asm.event(event.0);
                    lowering.tape.post(word);
                }
                Item::Wait(event) => {
                    let word = lowering.asm.event(event.0);
                    lowering.tape.wait(word);
                }
            }
        }
        records = lowering.tape.records;
        let clone_args =
            clone_args(&mut asm, recipe.pid.0, recipe.role, recipe.shares_table, into.get(&index));
        let tape = asm.tape(recipe.pid.0, recipe.exit_code.is_none(), clone_args, &records);
        tapes[index] = (clone_args, tape);
        records.clear();
    }
    let mut tapes = asm.finish(window.region_len, window.len)?;
    let place: BTreeMap<u32, usize> =
        recipes.tasks.iter().enumerate().map(|(index, recipe)| (recipe.pid.0, index)).collect();
    // Guests are nobody's in the plan.
    tapes.tasks.sort_by_key(|task| place.get(&task.pid).copied().unwrap_or(usize::MAX));
    let (clocks_ns, suspended) = (recipes.clocks_ns, recipes.filtered.clone());
    Ok(Tapes { clocks_ns, suspended, cgroups: recipes.cgroups.iter().map(cgroup).collect(), ..tapes })
}

/// A cgroup that the launcher makes.
fn cgroup(recipe: &CgroupRecipe) -> Cgroup {
    let perms = |perms: Option<image::CgroupPerms>| {
        perms.map(|perms| CgroupPerms { mode: perms.mode, uid: perms.uid, gid: perms.gid })
    };
    let file = |file: &image::CgroupProperty| CgroupFile {
        name: file.name.as_bytes().to_vec(),
        value: file.value.as_bytes().to_vec(),
        perms: perms(file.perms),
    };
    Cgroup {
        directory: recipe.directory.as_bytes().to_vec(),
        perms: perms(recipe.perms),
        files: recipe.files.iter().map(file).collect(),
    }
}

/// All tasks, each after who forks it.
fn births(plan: &Plan) -> Vec<usize> {
    let born = plan.order.iter().filter_map(|op| match &plan.graph.op(*op).kind {
        OpKind::Fork { child, .. } | OpKind::StartThread { thread: child } => Some(child.index()),
        _ => None,
    });
    std::iter::once(0).filter(|_| !plan.programs.is_empty()).chain(born).collect()
}

/// What a thread shares with the others of its task (clone(2)). Its registers, and with them its
/// stack and TLS, are set at the commit; until then it needs neither.
const THREAD: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM;

/// `struct clone_args` for a child, or a thread, with a pid of our choice (clone(2)); `into`: where the forker has the
/// directory of the cgroup that it is born in.
fn clone_args(asm: &mut Assembler, pid: u32, role: Role, shares_table: bool, into: Option<&Fd>) -> u64 {
    let wanted = asm.data(&pid.to_ne_bytes(), 4);
    let mut words = [0u64; 11];
    match role {
        Role::Task => words[CLONE_ARGS_EXIT_SIGNAL] = libc::SIGCHLD as u64,
        // It gets its forker's exit signal (clone(2)), which is SIGCHLD, too.
        Role::Sibling => words[CLONE_ARGS_FLAGS] = libc::CLONE_PARENT as u64,
        Role::Thread => words[CLONE_ARGS_FLAGS] = THREAD as u64,
        Role::Helper { raises_sigchld: true } => words[CLONE_ARGS_EXIT_SIGNAL] = libc::SIGCHLD as u64,
        // Its parent waits for it and is to hear nothing else of it.
        Role::Helper { raises_sigchld: false } => {}
    }
    if shares_table {
        words[CLONE_ARGS_FLAGS] |= libc::CLONE_FILES as u64;
    }
    if let Some(into) = into {
        words[CLONE_ARGS_FLAGS] |= CLONE_INTO_CGROUP;
        words[CLONE_ARGS_CGROUP] = u64::from(*into);
    }
    words[CLONE_ARGS_SET_TID] = wanted;
    words[CLONE_ARGS_SET_TID_SIZE] = 1;
    asm.words(&words)
}

/// One task's lowering.
struct Lowering<'a> {
    recipes: &'a Recipes,
    window: &'a Window,
    asm: &'a mut Assembler,
    tape: Tape,
    task: TaskId,
    /// Addresses of `clone_args` and tape of the tasks already lowered.
    tapes: &'a [(u64, u64)],
}

impl Lowering<'_> {
    fn op(&mut self, plan: &Plan, id: OpId) {
        self.tape.op = id.0;
        match &plan.graph.op(id).kind {
            OpKind::Fork { child, .. } | OpKind::StartThread { thread: child } => {
                let (clone_args, tape) = self.tapes[child.index()];
                self.tape.fork(clone_args, tape, self.recipes.tasks[child.index()].pid.0);
            }
            OpKind::Create { resource, at, cloexec } => {
                let recipes = self.recipes;
                match &recipes.resources[resource.index()].kind {
                    ResourceKind::File { path, flags, position, purpose } => {
                        self.open(path, *flags, *position, *purpose, at, *cloexec)
                    }
                    ResourceKind::Pipe { flags, reopened, capacity, data } => {
                        self.pipe(*flags, reopened, *capacity, data, at, *cloexec)
                    }
                    ResourceKind::Eventfd { counter, flags } => self.eventfd(*counter, *flags, at, *cloexec),
                    ResourceKind::Epoll { flags } => self.epoll(*flags, at, *cloexec),
                    ResourceKind::Timerfd { clock_id, flags } => {
                        self.timerfd(*clock_id, *flags, at, *cloexec)
                    }
                    ResourceKind::Signalfd { mask, flags } => self.signalfd(*mask, *flags, at, *cloexec),
                    ResourceKind::Fifo { path, flags, capacity, data } => {
                        self.fifo(path, flags, *capacity, data, at, *cloexec)
                    }
                    ResourceKind::SocketPair { sock_type, ends } => {
                        self.socket_pair(*sock_type, ends, at, *cloexec)
                    }
                    ResourceKind::UnixSockets(group) => self.unix_sockets(group, at, *cloexec),
                    ResourceKind::InetSockets(sockets) => self.inet_sockets(sockets, at, *cloexec),
                    ResourceKind::Nameless(recipe) => self.nameless(recipe, at, *cloexec),
                    ResourceKind::Channel => self.channel(*cloexec),
                    ResourceKind::Userfault => self.userfault(at, *cloexec),
                    ResourceKind::Carrier { address, len, flags } => self.carrier(*address, *len, *flags),
                    ResourceKind::Ipc(recipe) => self.ipc(recipe, at, *cloexec),
                    ResourceKind::OpenedCarrier { address, len } => {
                        self.open_carrier(*address, *len, at, *cloexec)
                    }
                }
            }
            OpKind::Dup { from, to, cloexec, .. } => {
                let flags = if *cloexec { libc::O_CLOEXEC } else { 0 };
                self.tape.call(
                    libc::SYS_dup3,
                    &[u64::from(*from), u64::from(*to), flags as u64],
                    u64::from(*to),
                );
            }
            OpKind::Close { first, last } if first == last => {
                self.tape.call(libc::SYS_close, &[u64::from(*first)], 0)
            }
            OpKind::Close { first, last } => {
                self.tape.call(libc::SYS_close_range, &[u64::from(*first), u64::from(*last), 0], 0);
            }
            OpKind::Send { through, fds, .. } => self.send(*through, fds),
            OpKind::Receive { through, at, cloexec, stays, .. } => {
                self.receive(*through, at, *cloexec, *stays)
            }
            OpKind::Stage { .. } | OpKind::Turn { .. } => {}
            OpKind::SetCloexec { fd, cloexec } => {
                let flag = if *cloexec { libc::FD_CLOEXEC } else { 0 };
                self.tape.call(libc::SYS_fcntl, &[u64::from(*fd), libc::F_SETFD as u64, flag as u64], 0);
            }
            OpKind::SetSid => {
                self.tape.call(libc::SYS_setsid, &[], u64::from(self.recipes.tasks[self.task.index()].pid.0))
            }
            OpKind::BecomeSubreaper => self.prctl(libc::PR_SET_CHILD_SUBREAPER, 1),
            OpKind::SetPgid { pgid } => self.tape.call(libc::SYS_setpgid, &[0, u64::from(*pgid)], 0),
            OpKind::Step { step, fds } => {
                let recipes = self.recipes;
                self.step(&recipes.steps[step.index()].kind, fds);
            }
            OpKind::AwaitExit { child, reap } => {
                let pid = u64::from(self.recipes.tasks[child.index()].pid.0);
                // __WALL: a helper has no exit signal, which makes it a "clone" child (waitid(2)).
                let options = libc::WEXITED | if *reap { libc::__WALL } else { libc::WNOWAIT };
                let options = options as u64;
                self.tape.call(libc::SYS_waitid, &[u64::from(libc::P_PID), pid, 0, options, 0], 0);
            }
            OpKind::EatSigchld => {
                let set = self.asm.words(&[1 << (libc::SIGCHLD - 1)]);
                let now = self.asm.words(&[0, 0]);
                self.tape.call(libc::SYS_rt_sigtimedwait, &[set, 0, now, 8], libc::SIGCHLD as u64);
            }
            OpKind::Exit => self.exit(),
            OpKind::Arrive => self.tape.arrive(),
            OpKind::Park => self.tape.park(),
        }
    }

    /// `fcntl(F_SETFL)` where there is more to set than the `O_NONBLOCK` of a creation.
    fn further_flags(&mut self, fd: u64, flags: u32) {
        if flags & !(libc::O_NONBLOCK as u32) != 0 {
            self.tape.call(libc::SYS_fcntl, &[fd, libc::F_SETFL as u64, u64::from(flags)], 0);
        }
    }

    /// `fcntl(F_SETFL)` where there is anything to set.
    fn status_flags(&mut self, fd: Fd, flags: u32) {
        if flags != 0 {
            self.tape.call(libc::SYS_fcntl, &[u64::from(fd), libc::F_SETFL as u64, u64::from(flags)], 0);
        }
    }
}
