//! What things cost: a table of measured constants, and the choices that follow from it.
//!
//! A [`CostModel`] is data. `regrow calibrate` measures one on a host; without it the built-in table
//! serves, measured as [`CostModel::MEASURED_ON`] says. Whatever is in it, a plan is right: the
//! constants choose between ways that all lead to the same tree, so wrong ones cost time only.
//!
//! | module | turns |
//! |---|---|
//! | `price` | what the tapes do ([`crate::verify::LiftedTree`]) into a cost for each record |
//! | `predict` | priced tapes into the time that they take: work, critical path, on so many cores |
//! | `fill` | runs of pages into the cheaper way to fill them |
//! | `choose` | numbers of tasks, descriptors, mappings and pages into the cheaper way |
//!
//! Costs are whole nanoseconds and saturate: absurd constants give absurd sums, and never a panic.
//!
//! Worked example: to give 100 descriptors to each of 50 children by fork.
//!
//! ```
//! use regrow_graph::cost::CostModel;
//! let costs = CostModel { fork_fd_ns: 10.0, ..CostModel::default() };
//! assert_eq!(costs.inherit(100, 50), 50_000);
//! ```

mod choose;
mod fill;
mod predict;
mod price;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use choose::{Forking, Likeness};
pub use fill::{Moving, PageRun};
pub use predict::{Leg, Prediction, predict};
pub use price::{Act, Moment, PricedTape, PricedTree, price};

/// One constant of a [`CostModel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Constant {
    /// Its name, as in files.
    pub name: &'static str,
    /// What costs so many nanoseconds.
    pub what: &'static str,
    /// How it is measured.
    pub how: &'static str,
}

/// A number that no cost can be.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("{name} is {value} ns: a cost is a number from 0 to {}", CostModel::MOST_NS)]
pub struct BadConstant {
    /// The constant.
    pub name: &'static str,
    /// What it is said to be.
    pub value: f64,
}

macro_rules! cost_model {
    ($($name:ident = $value:literal, $what:literal, $how:literal;)*) => {
        /// The table: nanoseconds for each thing that a plan does.
        #[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct CostModel {
            $(
                #[doc = concat!($what, ". In nanoseconds.\n\nMeasured: ", $how, ".")]
                pub $name: f64,
            )*
        }

        impl Default for CostModel {
            /// The built-in table.
            fn default() -> CostModel {
                CostModel { $($name: $value,)* }
            }
        }

        impl CostModel {
            /// All constants, in the order of the table.
            pub const CONSTANTS: &'static [Constant] =
                &[$(Constant { name: stringify!($name), what: $what, how: $how },)*];

            /// The values, in the order of [`CostModel::CONSTANTS`].
            pub fn values(&self) -> Vec<f64> {
                vec![$(self.$name,)*]
            }

            /// The place of the constant `name`, to be set.
            pub fn get_mut(&mut self, name: &str) -> Option<&mut f64> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)*
                    _ => None,
                }
            }
        }
    };
}

cost_model! {
    call_ns = 98.0, "a system call that does next to nothing", "umask, many in a row";
    fork_ns = 23_300.0, "fork of a task with a tiny address space, to the parent", "clone3 with a chosen pid by a task that has the window and no descriptor";
    fork_fd_ns = 7.9, "fork, for each open descriptor", "the same with many eventfds, the difference divided by their number";
    fork_vma_ns = 480.0, "fork, for each mapping", "the same with many mappings without a page";
    fork_page_ns = 94.0, "fork, for each page that is there", "the same with many pages of one mapping";
    birth_ns = 13_100.0, "the start of a forked task", "the CPU time of a child at its first record";
    exit_ns = 34_000.0, "the end of a task", "a child that exits at once, from its fork until its parent has reaped it, on one CPU; fork, birth and reaping taken off";
    reap_ns = 3800.0, "waitid for a child that has died, and reaping it", "a child that has died before";
    thread_ns = 12_300.0, "the start of a thread", "clone3 of a thread with a chosen tid";
    setsid_ns = 10_100.0, "setsid", "in a child";
    setpgid_ns = 840.0, "setpgid", "in a child, which founds its own group";
    dup_ns = 200.0, "a copy of a descriptor to another number", "dup3 to a free number";
    close_ns = 250.0, "close of a descriptor that is not the last of its description", "close of a copy";
    close_last_ns = 1100.0, "close of the last descriptor of a description", "close of an eventfd";
    close_many_ns = 120.0, "each further descriptor that close_range closes", "close_range of many inherited eventfds in a child";
    open_ns = 1500.0, "open of a file by its path", "openat of the program itself";
    pipe_ns = 2700.0, "a pipe", "pipe2";
    socket_ns = 2900.0, "a unix socket", "socket";
    socketpair_ns = 5600.0, "a pair of unix sockets", "socketpair";
    handle_ns = 1300.0, "an eventfd, timerfd, signalfd or epoll file", "eventfd2";
    memfd_ns = 3000.0, "a memfd", "memfd_create";
    attach_ns = 950.0, "what is hung onto a description or a task: epoll interest, lock, timer, pending signal", "epoll_ctl(EPOLL_CTL_ADD) and EPOLL_CTL_DEL of an eventfd, halved";
    path_ns = 920.0, "a call that looks a path up, other than open", "chdir to the directory of the program";
    write_ns = 500.0, "a write of a few bytes to a pipe", "write of 8 bytes to a pipe and read of them, halved";
    send_ns = 1800.0, "a message over a unix socket: sending it", "sendmsg of one byte over a seqpacket pair";
    send_fd_ns = 54.0, "a descriptor in a message: sending it", "sendmsg of one byte with many descriptors, the difference divided by their number";
    receive_ns = 1500.0, "a message over a unix socket: receiving it", "recvmsg of one byte";
    receive_fd_ns = 160.0, "a descriptor in a message: receiving it", "recvmsg of one byte with many descriptors";
    post_ns = 290.0, "posting an event that nobody sleeps for", "a post";
    wake_ns = 1600.0, "posting an event, for each task that it wakes", "a post that wakes a child, on one CPU";
    wait_ns = 5.0, "a wait for an event that has been posted", "waits in a row";
    woken_ns = 4700.0, "a wait that sleeps: falling asleep and going on", "from the end of a post until the child that waits goes on, on one CPU";
    arrive_ns = 4700.0, "the barrier: counting oneself and falling asleep", "that of a wait, of which it is one";
    map_ns = 2100.0, "mmap of anonymous memory", "mmap at a fixed address";
    map_file_ns = 2500.0, "mmap of a file", "mmap of a memfd at a fixed address";
    remap_ns = 2500.0, "mremap: one more view of shared memory", "mremap with old size 0";
    unmap_ns = 5100.0, "munmap of a mapping", "munmap of a mapping with one page";
    protect_ns = 840.0, "mprotect or madvise of a mapping", "mprotect of an anonymous mapping, forth and back";
    drop_page_ns = 110.0, "munmap, for each inherited page", "munmap of many inherited pages in a child";
    fill_ns = 830.0, "a read of pages, to start with", "pread of one page into fresh memory, without the page";
    fill_page_ns = 2600.0, "a read of pages, for each", "pread of many pages from a memfd into fresh memory";
    replace_page_ns = 3200.0, "a read of pages, for each that is shared: it is copied first", "pread of pages from a memfd into inherited ones";
    register_ns = 980.0, "registering memory with a userfaultfd, or no more", "UFFDIO_REGISTER and UFFDIO_UNREGISTER of a mapping, halved";
    copy_ns = 380.0, "a copy of pages by a userfaultfd, to start with", "UFFDIO_COPY of one page from a mapped memfd, without the page";
    copy_page_ns = 980.0, "a copy of pages by a userfaultfd, for each", "UFFDIO_COPY of many pages from a mapped memfd";
    credentials_ns = 1200.0, "a change of credentials", "prctl(PR_SET_KEEPCAPS), forth and back";
    filter_ns = 14_100.0, "a filter of system calls", "seccomp with one instruction, in a child";
    commit_thread_ns = 43_300.0, "the commit of a thread: seize, stop, unmap, registers, let go", "the same steps by ptrace with children that sleep";
}

impl CostModel {
    /// What the built-in table was measured on.
    pub const MEASURED_ON: &'static str = "2 cores of a virtual machine, x86-64, Linux 6.18, as root, with nothing else on it: medians of five runs";

    /// The largest constant that a table may have: a thousand seconds. Beyond it is no cost but a mistake.
    pub const MOST_NS: f64 = 1e12;

    /// Whether every constant can be a cost.
    ///
    /// # Errors
    /// The first that is negative, not a number, or beyond [`CostModel::MOST_NS`].
    pub fn check(&self) -> Result<(), BadConstant> {
        for (constant, value) in CostModel::CONSTANTS.iter().zip(self.values()) {
            if !(0.0..=CostModel::MOST_NS).contains(&value) {
                return Err(BadConstant { name: constant.name, value });
            }
        }
        Ok(())
    }
}

/// So many times each: a sum in whole nanoseconds, that saturates.
fn sum(parts: &[(u64, f64)]) -> u64 {
    // A cast to an integer saturates, and is 0 of what is no number.
    parts.iter().map(|(times, each_ns)| *times as f64 * each_ns).sum::<f64>().round() as u64
}
