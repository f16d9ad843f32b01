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

/// How a child gets the memory that it has in common with its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryBy {
    /// It is forked when its parent has the memory, and changes what differs.
    Inheriting,
    /// It is forked while its parent is tiny, and maps and fills.
    Rebuilding,
}

/// Memory that a task has in common with tasks below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Mappings in common.
    pub vmas: u64,
    /// Pages in common that are there.
    pub pages: u64,
    /// Mappings that a task below has otherwise: to unmap what was inherited, or to map anew.
    pub changed_vmas: u64,
    /// Pages that a task below has otherwise: they are read either way, and inherited for nothing.
    pub changed_pages: u64,
    /// Tasks below that have it, at all depths.
    pub tasks: u64,
    /// How many forks lie between the task and the deepest of them: 1 if all are its children.
    pub depth: u64,
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
    /// so itself. A helper is forked and dies by and by, while those before it are at work already; more
    /// than there are cores serve nobody.
    pub fn forkers(&self, children: u64, cores: u64) -> u64 {
        let time = |helpers: u64| match helpers {
            0 => sum(&[(children, self.fork_ns)]),
            _ => sum(&[
                (helpers, self.fork_ns + self.reap_ns),
                (1, self.birth_ns + self.exit_ns),
                (children.div_ceil(helpers), self.fork_ns),
            ]),
        };
        (0..=cores.min(children)).min_by_key(|helpers| time(*helpers)).unwrap_or(0)
    }

    /// Whether memory in common is better inherited or rebuilt, on `cores` cores.
    ///
    /// Work: a task that *inherits* pays for each mapping and page at its fork, and for what differs: an
    /// unmap or a map, and the page that was inherited in vain. One that *rebuilds* maps and reads all.
    /// Time is what is longer, the work shared by the cores or the longest chain; who inherits comes after
    /// its parent's memory is there, so that a deep chain builds one memory after another, while those who
    /// rebuild all fork first and fill at the same time. Rebuilding wins where both cost the same: it adds
    /// no order.
    pub fn memory(&self, memory: &Memory, cores: u64) -> MemoryBy {
        if self.memory_time(memory, MemoryBy::Inheriting, cores)
            < self.memory_time(memory, MemoryBy::Rebuilding, cores)
        {
            MemoryBy::Inheriting
        } else {
            MemoryBy::Rebuilding
        }
    }

    /// The time until all tasks have the memory, in one of the two ways.
    pub fn memory_time(&self, memory: &Memory, by: MemoryBy, cores: u64) -> u64 {
        let Memory { vmas, pages, changed_vmas, changed_pages, tasks, depth } = *memory;
        let reads = vmas.min(pages);
        let build = sum(&[(vmas, self.map_ns), (reads, self.fill_ns), (pages, self.fill_page_ns)]);
        let tiny = sum(&[(1, self.fork_ns)]);
        let (each, path) = match by {
            MemoryBy::Inheriting => {
                let each = sum(&[
                    (1, self.fork_ns),
                    (vmas, self.fork_vma_ns),
                    (pages, self.fork_page_ns),
                    (changed_vmas, self.unmap_ns + self.map_ns),
                    (changed_pages, self.fill_page_ns),
                ]);
                (each, build.saturating_add(each.saturating_mul(depth)))
            }
            MemoryBy::Rebuilding => {
                (tiny.saturating_add(build), build.saturating_add(tiny.saturating_mul(depth)))
            }
        };
        let work = build.saturating_add(each.saturating_mul(tasks));
        path.max(work / cores.max(1))
    }
}
