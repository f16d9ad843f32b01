//! Which way is cheaper: small pure functions of the table.
//!
//! None of them knows a plan. Whoever plans asks them with numbers, and must be right whatever they
//! answer.

use super::{CostModel, sum};

/// Most descriptors that a message takes (SCM_MAX_FD, unix(7)).
const MESSAGE_FDS: u64 = 253;

/// How a server with many children, and descriptors private to each of them, forks them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forking {
    /// Itself: each child inherits what was made for all before it, and closes it.
    Itself,
    /// By helper tasks that fork so many children each and send the server's ends back to it.
    Batches {
        /// Children of one helper.
        size: u64,
    },
}

/// How a task's address space compares with that of the parent that it is forked by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Likeness {
    /// Mappings of the parent that the task has, too.
    pub kept: u64,
    /// Mappings of the parent that it has not.
    pub dropped: u64,
    /// Pages of both, in mappings of both, that hold the same.
    pub alike: u64,
    /// Those that do not.
    pub other: u64,
    /// Pages that only the parent has.
    pub only_parent: u64,
}

impl CostModel {
    /// To let `forks` children inherit `descriptors` each.
    pub fn inherit(&self, descriptors: u64, forks: u64) -> u64 {
        sum(&[(descriptors.saturating_mul(forks), self.fork_fd_ns)])
    }

    /// To let `forks` children inherit `descriptors` each that they do not want: each closes them by one
    /// `close_range`.
    pub fn inherit_and_close(&self, descriptors: u64, forks: u64) -> u64 {
        let all = descriptors.saturating_mul(forks);
        let calls = if descriptors == 0 { 0 } else { forks };
        sum(&[(all, self.fork_fd_ns + self.close_many_ns), (calls, self.call_ns)])
    }

    /// To pass `descriptors` in `messages` over a unix socket that is there, and close them where they came
    /// from.
    pub fn pass(&self, descriptors: u64, messages: u64) -> u64 {
        sum(&[
            (messages, self.send_ns + self.receive_ns),
            (descriptors, self.send_fd_ns + self.receive_fd_ns + self.close_many_ns),
        ])
    }

    /// How many messages it takes to pass so many descriptors.
    pub fn messages(descriptors: u64) -> u64 {
        descriptors.div_ceil(MESSAGE_FDS)
    }

    /// Whether `descriptors` that all of `receivers` tasks want are better passed to each of them than inherited
    /// by all of `forks` tasks, most of which only close them.
    pub fn is_passing_cheaper(&self, descriptors: u64, receivers: u64, forks: u64) -> bool {
        let unwanted = forks.saturating_sub(receivers);
        let inherited = self
            .inherit(descriptors, forks.min(receivers))
            .saturating_add(self.inherit_and_close(descriptors, unwanted));
        let messages = CostModel::messages(descriptors).saturating_mul(receivers);
        self.pass(descriptors.saturating_mul(receivers), messages) < inherited
    }

    /// What it costs, in work, to give `children` children `private` descriptors each whose other ends the
    /// server keeps, forking them so.
    ///
    /// *Itself*: child number i inherits the server's i·k ends and closes them, together N²·k/2. In *batches* of
    /// B this is N/B times B²·k/2, that is N·B·k/2; against that stand a helper for each batch, and every end
    /// passed back.
    pub fn prefork(&self, children: u64, private: u64, forking: Forking) -> u64 {
        match forking {
            Forking::Itself => self.prefork_by_one(children, private),
            Forking::Batches { size } => {
                let size = size.clamp(1, children.max(1));
                let (whole, rest) = (children / size, children % size);
                let of_rest = if rest == 0 { 0 } else { self.batch(rest, private) };
                self.batch(size, private).saturating_mul(whole).saturating_add(of_rest)
            }
        }
    }

    fn prefork_by_one(&self, children: u64, private: u64) -> u64 {
        let inherited = children.saturating_mul(children.saturating_sub(1)) / 2;
        sum(&[
            (children, self.fork_ns + self.call_ns),
            (inherited.saturating_mul(private), self.fork_fd_ns + self.close_many_ns),
        ])
    }

    /// One helper: its life, its children, and the way back of what it made for the server.
    fn batch(&self, size: u64, private: u64) -> u64 {
        let ends = size.saturating_mul(private);
        let helper = sum(&[(1, self.fork_ns + self.birth_ns + self.exit_ns + self.reap_ns)]);
        helper
            .saturating_add(self.prefork_by_one(size, private))
            .saturating_add(self.pass(ends, CostModel::messages(ends)))
    }

    /// The cheapest way to fork `children` children with `private` descriptors each: the batch size B of
    /// least work, or no batches where these cost more than they save. The server itself where both cost
    /// the same, then the smallest B.
    pub fn forking(&self, children: u64, private: u64) -> Forking {
        // No kernel has more pids than this (PID_MAX_LIMIT, linux/threads.h).
        let ways = (1..children.min(1 << 22)).map(|size| Forking::Batches { size });
        let cost = |way: &Forking| self.prefork(children, private, *way);
        std::iter::once(Forking::Itself).chain(ways).min_by_key(cost).unwrap_or(Forking::Itself)
    }

    /// How many helpers should fork `children` tasks for their parent, on `cores` cores: 0 if it should do
    /// so itself. Each child has `child_ns` to do when it is born.
    ///
    /// One task forks one child after the other, while the cores that it leaves free do the children's work. Only where
    /// that is less than forking, or cores are many, do helpers that fork at the same time make it faster; against
    /// that stand their own lives. More of them than there are cores serve nobody.
    pub fn forkers(&self, children: u64, child_ns: u64, cores: u64) -> u64 {
        let cores = cores.max(1);
        let time = |helpers: u64| {
            let life = self.fork_ns + self.birth_ns + self.exit_ns + self.reap_ns;
            let forks = sum(&[(children, self.fork_ns), (helpers, life)]);
            let work = forks.saturating_add(children.saturating_mul(child_ns));
            let in_turn = match helpers {
                0 => sum(&[(children, self.fork_ns)]),
                _ => sum(&[
                    (helpers, self.fork_ns),
                    (children.div_ceil(helpers), self.fork_ns),
                    (1, self.birth_ns),
                ]),
            };
            (work / cores).max(in_turn.saturating_add(child_ns))
        };
        let most = if cores == 1 { 0 } else { cores.min(children) };
        (0..=most).min_by_key(|helpers| time(*helpers)).unwrap_or(0)
    }

    /// What a task saves, in work, if it inherits the address space of its parent and changes what differs,
    /// instead of being forked by a tiny parent and mapping and filling all; below 0 it costs.
    ///
    /// A mapping in common is copied instead of mapped, a page in common is an entry of a page table instead of a
    /// read. Against that stand the mappings and pages that are copied in vain: they are unmapped or dropped,
    /// or, where the page is another, copied once more when it is read.
    pub fn saved_by_inheriting(&self, like: &Likeness) -> i64 {
        let parts = [
            (like.kept, self.map_ns - self.fork_vma_ns),
            (like.alike, self.fill_page_ns - self.fork_page_ns),
            (like.dropped, -(self.fork_vma_ns + self.unmap_ns)),
            (like.other, self.fill_page_ns - self.fork_page_ns - self.replace_page_ns),
            (like.only_parent, -(self.fork_page_ns + self.drop_page_ns)),
        ];
        parts.iter().map(|(times, each_ns)| *times as f64 * each_ns).sum::<f64>().round() as i64
    }

    /// What it takes to set up an address space of so many mappings and pages.
    ///
    /// A parent that lets its children inherit does so before it forks them, and all of them wait for it:
    /// where they save less than this together, everybody rebuilds at the same time.
    pub fn set_up(&self, vmas: u64, pages: u64) -> u64 {
        sum(&[(vmas, self.map_ns), (pages, self.fill_page_ns)])
    }

    /// What it costs a task to be born with so many mappings and pages that are of no use to it.
    pub fn burden(&self, vmas: u64, pages: u64) -> u64 {
        sum(&[(vmas, self.fork_vma_ns + self.unmap_ns), (pages, self.fork_page_ns + self.drop_page_ns)])
    }
}
