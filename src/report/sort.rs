//! Of what sort an operation or a record is: what the pictures colour by.

use regrow_graph::graph::{OpKind, Reason};
use regrow_graph::ids::OpId;
use serde::{Deserialize, Serialize};

use crate::pipeline::Prepared;
use crate::resolve::recipe::StepKind;
use crate::tape::abi::{Record, Verb};

/// What something is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// The birth of a task or thread.
    Birth,
    /// Making a resource, and what waits in it.
    Make,
    /// Numbers of descriptors.
    Descriptor,
    /// The address space.
    Memory,
    /// Everything else that a task has.
    Attribute,
    /// Waiting for another task, or telling it.
    Wait,
    /// The barrier, and what is behind a task's tape.
    Barrier,
    /// Death.
    Death,
}

impl Sort {
    /// All, in the order of a legend, with the words for it.
    pub const ALL: [(Sort, &'static str); 8] = [
        (Sort::Birth, "fork"),
        (Sort::Make, "make"),
        (Sort::Descriptor, "descriptors"),
        (Sort::Memory, "memory"),
        (Sort::Attribute, "attributes"),
        (Sort::Wait, "wait"),
        (Sort::Barrier, "barrier"),
        (Sort::Death, "death"),
    ];

    /// Of an operation.
    pub(super) fn of_op(prepared: &Prepared, op: OpId) -> Sort {
        let node = prepared.plan.graph.op(op);
        match &node.kind {
            OpKind::Fork { .. } | OpKind::StartThread { .. } => Sort::Birth,
            OpKind::Create { .. } if matches!(node.why, Reason::NeededBy { .. }) => Sort::Memory,
            OpKind::Create { .. } => Sort::Make,
            OpKind::Dup { .. }
            | OpKind::Close { .. }
            | OpKind::SetCloexec { .. }
            | OpKind::Send { .. }
            | OpKind::Receive { .. } => Sort::Descriptor,
            OpKind::Stage { .. } | OpKind::Turn { .. } => Sort::Wait,
            OpKind::AwaitExit { .. } => Sort::Wait,
            OpKind::Exit => Sort::Death,
            OpKind::Arrive | OpKind::Park => Sort::Barrier,
            OpKind::SetSid | OpKind::SetPgid { .. } | OpKind::BecomeSubreaper | OpKind::EatSigchld => {
                Sort::Attribute
            }
            OpKind::Step { step, .. } => match &prepared.resolved.recipes.steps[step.index()].kind {
                StepKind::Vacate
                | StepKind::Unmap { .. }
                | StepKind::Mmap { .. }
                | StepKind::MapShared { .. }
                | StepKind::AttachHuge(_)
                | StepKind::Grow { .. }
                | StepKind::Mprotect { .. }
                | StepKind::Madvise { .. }
                | StepKind::Mlock { .. }
                | StepKind::MapVdso { .. }
                | StepKind::Poke { .. }
                | StepKind::Fill { .. }
                | StepKind::Ring(_)
                | StepKind::Copy(_)
                | StepKind::SetMm(_) => Sort::Memory,
                StepKind::Write(_) | StepKind::FillPair(_) | StepKind::Watch { .. } => Sort::Make,
                StepKind::Bare
                | StepKind::NewIpcNamespace
                | StepKind::SigAction { .. }
                | StepKind::Umask(_)
                | StepKind::Chdir(_)
                | StepKind::EnterDirectory
                | StepKind::Chroot(_)
                | StepKind::Comm(_)
                | StepKind::Personality(_)
                | StepKind::AltStack(_)
                | StepKind::RobustList { .. }
                | StepKind::TidAddress { .. }
                | StepKind::Rseq { .. }
                | StepKind::Dumpable(_)
                | StepKind::ThpDisable(_)
                | StepKind::ChildSubreaper(_)
                | StepKind::ParentDeathSignal(_)
                | StepKind::Lock { .. }
                | StepKind::Nice(_)
                | StepKind::TimerSlack(_)
                | StepKind::Scheduler { .. }
                | StepKind::QueueSignal { .. }
                | StepKind::IntervalTimer { .. }
                | StepKind::PosixTimers(_)
                | StepKind::ArmTimer(_)
                | StepKind::Membarrier(_)
                | StepKind::Credentials(_)
                | StepKind::SeccompStrict
                | StepKind::SeccompFilters(_)
                | StepKind::ArmTimerfd { .. }
                | StepKind::Owner { .. }
                | StepKind::RLimit { .. } => Sort::Attribute,
            },
        }
    }

    /// Of a record, by what it does: of a stored plan nothing more is known.
    pub fn of_record(record: &Record) -> Sort {
        match record.verb() {
            Some(Verb::Fork) => Sort::Birth,
            Some(Verb::Post | Verb::Wait) => Sort::Wait,
            Some(Verb::Arrive | Verb::Park) => Sort::Barrier,
            None => Sort::Death,
            Some(Verb::Syscall | Verb::Indirect) => match libc::c_long::from(record.nr) {
                libc::SYS_mmap
                | libc::SYS_mremap
                | libc::SYS_munmap
                | libc::SYS_mprotect
                | libc::SYS_madvise
                | libc::SYS_mlock
                | libc::SYS_shmat
                | libc::SYS_arch_prctl
                | libc::SYS_process_vm_writev
                | libc::SYS_preadv
                | libc::SYS_pread64
                | libc::SYS_userfaultfd
                | libc::SYS_io_setup
                | libc::SYS_io_submit
                | libc::SYS_io_getevents => Sort::Memory,
                libc::SYS_close
                | libc::SYS_close_range
                | libc::SYS_dup3
                | libc::SYS_fcntl
                | libc::SYS_recvmsg => Sort::Descriptor,
                libc::SYS_waitid => Sort::Wait,
                libc::SYS_exit_group | libc::SYS_exit | libc::SYS_kill => Sort::Death,
                libc::SYS_openat
                | libc::SYS_pipe2
                | libc::SYS_socket
                | libc::SYS_socketpair
                | libc::SYS_bind
                | libc::SYS_listen
                | libc::SYS_connect
                | libc::SYS_accept4
                | libc::SYS_sendmsg
                | libc::SYS_write
                | libc::SYS_eventfd2
                | libc::SYS_epoll_create1
                | libc::SYS_epoll_ctl
                | libc::SYS_timerfd_create
                | libc::SYS_signalfd4
                | libc::SYS_memfd_create => Sort::Make,
                _ => Sort::Attribute,
            },
        }
    }
}
