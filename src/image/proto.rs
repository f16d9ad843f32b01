//! The messages of CRIU's images, as far as regrow reads them, and what each may contain.
//!
//! Turns the `.proto` definitions of CRIU 4.2 (`images/*.proto`) into structs that `prost` decodes
//! and, beside each, a [`Schema`]: every field number that the definition has, its name, and
//! whether it is required. The schema is what [`super::wire`] holds an entry against *before*
//! `prost` sees it. That is needed for two reasons: `prost` turns a missing required field into a
//! zero without a word, and it skips fields it has no name for, which is how a newer CRIU would
//! say something that regrow does not understand.
//!
//! Strings are `bytes` here: CRIU writes names and paths as the kernel gave them, in any encoding.
//! Repeated numbers are not packed, which is how CRIU writes them (it reads both).
//! Enumerations are `uint32`, so that a value from the future stays visible. Messages that are not
//! read (`bytes` with a comment) are kept whole and not looked into.
//!
//! Example: `required uint32 pid = 1;` of `pstree_entry` is `[uint32, required] pid: u32 = 1;`.

/// One field of a message.
pub(crate) struct Field {
    /// Its number on the wire.
    pub(crate) number: u32,
    /// Its name in the `.proto` definition.
    pub(crate) name: &'static str,
    /// Must be there.
    pub(crate) required: bool,
    /// The message it holds, where that one is read.
    pub(crate) message: Option<&'static Schema>,
}

/// What a message may contain.
pub(crate) struct Schema {
    /// Its name in the `.proto` definition.
    pub(crate) name: &'static str,
    /// Its fields, at most 64 (the presence of each is a bit of a word).
    pub(crate) fields: &'static [Field],
}

/// A message that knows its schema.
pub(crate) trait Described: prost::Message + Default {
    /// Its schema.
    const SCHEMA: &'static Schema;
}

/// Whether a field attribute list ends in `required`.
const fn is_required(attributes: &str) -> bool {
    let (text, word) = (attributes.as_bytes(), "required".as_bytes());
    if text.len() < word.len() {
        return false;
    }
    let start = text.len() - word.len();
    let mut i = 0;
    while i < word.len() {
        if text[start + i] != word[i] {
            return false;
        }
        i += 1;
    }
    true
}

macro_rules! sub_schema {
    () => {
        None
    };
    ($sub:ident) => {
        Some(<$sub as Described>::SCHEMA)
    };
}

/// Defines messages: `Name = "proto_name" { [prost attributes] field: Type = number in Message; }`.
macro_rules! messages {
    ($(
        $(#[$doc:meta])*
        $name:ident = $wire:literal {
            $([$($attr:tt)*] $field:ident : $ty:ty = $tag:tt $(in $sub:ident)?;)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, prost::Message)]
        pub(crate) struct $name {
            $(
                #[prost($($attr)*, tag = $tag)]
                pub(crate) $field: $ty,
            )*
        }

        impl Described for $name {
            const SCHEMA: &'static Schema = &Schema {
                name: $wire,
                fields: &[$(Field {
                    number: $tag,
                    name: stringify!($field),
                    required: is_required(stringify!($($attr)*)),
                    message: sub_schema!($($sub)?),
                }),*],
            };
        }
        const _: () = assert!(<$name as Described>::SCHEMA.fields.len() <= 64);
    )*};
}

messages! {
    // inventory.proto
    PluginsEntry = "plugins_entry" {
        [bytes = "vec", repeated] plugins: Vec<Vec<u8>> = 12;
    }
    InventoryEntry = "inventory_entry" {
        [uint32, required] img_version: u32 = 1;
        [bool, optional] fdinfo_per_id: Option<bool> = 2;
        [message, optional] root_ids: Option<TaskKobjIdsEntry> = 3 in TaskKobjIdsEntry;
        [bool, optional] ns_per_id: Option<bool> = 4;
        [uint32, optional] root_cg_set: Option<u32> = 5;
        [uint32, optional] lsmtype: Option<u32> = 6;
        [uint64, optional] dump_uptime: Option<u64> = 8;
        [uint32, optional] pre_dump_mode: Option<u32> = 9;
        [bool, optional] tcp_close: Option<bool> = 10;
        [uint32, optional] network_lock_method: Option<u32> = 11;
        [message, optional] plugins_entry: Option<PluginsEntry> = 12 in PluginsEntry;
        [bytes = "vec", optional] dump_criu_run_id: Option<Vec<u8>> = 13;
        [bool, optional] allow_uprobes: Option<bool> = 14;
        [uint32, optional] compress: Option<u32> = 15;
        [uint32, optional] compress_block_size: Option<u32> = 16;
    }

    // pstree.proto
    PstreeEntry = "pstree_entry" {
        [uint32, required] pid: u32 = 1;
        [uint32, required] ppid: u32 = 2;
        [uint32, required] pgid: u32 = 3;
        [uint32, required] sid: u32 = 4;
        [uint32, repeated, packed = "false"] threads: Vec<u32> = 5;
    }

    // core-x86.proto
    UserX86RegsEntry = "user_x86_regs_entry" {
        [uint64, required] r15: u64 = 1;
        [uint64, required] r14: u64 = 2;
        [uint64, required] r13: u64 = 3;
        [uint64, required] r12: u64 = 4;
        [uint64, required] bp: u64 = 5;
        [uint64, required] bx: u64 = 6;
        [uint64, required] r11: u64 = 7;
        [uint64, required] r10: u64 = 8;
        [uint64, required] r9: u64 = 9;
        [uint64, required] r8: u64 = 10;
        [uint64, required] ax: u64 = 11;
        [uint64, required] cx: u64 = 12;
        [uint64, required] dx: u64 = 13;
        [uint64, required] si: u64 = 14;
        [uint64, required] di: u64 = 15;
        [uint64, required] orig_ax: u64 = 16;
        [uint64, required] ip: u64 = 17;
        [uint64, required] cs: u64 = 18;
        [uint64, required] flags: u64 = 19;
        [uint64, required] sp: u64 = 20;
        [uint64, required] ss: u64 = 21;
        [uint64, required] fs_base: u64 = 22;
        [uint64, required] gs_base: u64 = 23;
        [uint64, required] ds: u64 = 24;
        [uint64, required] es: u64 = 25;
        [uint64, required] fs: u64 = 26;
        [uint64, required] gs: u64 = 27;
        [uint32, optional] mode: Option<u32> = 28;
    }
    UserX86CetEntry = "user_x86_cet_entry" {
        [uint64, required] cet: u64 = 1;
        [uint64, required] ssp: u64 = 2;
    }
    UserX86XsaveEntry = "user_x86_xsave_entry" {
        [uint64, required] xstate_bv: u64 = 1;
        [uint32, repeated, packed = "false"] ymmh_space: Vec<u32> = 2;
        [uint64, repeated, packed = "false"] bndreg_state: Vec<u64> = 3;
        [uint64, repeated, packed = "false"] bndcsr_state: Vec<u64> = 4;
        [uint64, repeated, packed = "false"] opmask_reg: Vec<u64> = 5;
        [uint64, repeated, packed = "false"] zmm_upper: Vec<u64> = 6;
        [uint64, repeated, packed = "false"] hi16_zmm: Vec<u64> = 7;
        [uint32, repeated, packed = "false"] pkru: Vec<u32> = 8;
        [message, optional] cet: Option<UserX86CetEntry> = 9 in UserX86CetEntry;
    }
    UserX86FpregsEntry = "user_x86_fpregs_entry" {
        [uint32, required] cwd: u32 = 1;
        [uint32, required] swd: u32 = 2;
        [uint32, required] twd: u32 = 3;
        [uint32, required] fop: u32 = 4;
        [uint64, required] rip: u64 = 5;
        [uint64, required] rdp: u64 = 6;
        [uint32, required] mxcsr: u32 = 7;
        [uint32, required] mxcsr_mask: u32 = 8;
        [uint32, repeated, packed = "false"] st_space: Vec<u32> = 9;
        [uint32, repeated, packed = "false"] xmm_space: Vec<u32> = 10;
        [uint32, repeated, packed = "false"] padding: Vec<u32> = 11;
        [message, optional] xsave: Option<UserX86XsaveEntry> = 13 in UserX86XsaveEntry;
    }
    UserDescT = "user_desc_t" {
        [uint32, required] entry_number: u32 = 1;
        [uint32, required] base_addr: u32 = 2;
        [uint32, required] limit: u32 = 3;
        [bool, required] seg_32bit: bool = 4;
        [bool, required] contents_h: bool = 5;
        [bool, required] contents_l: bool = 6;
        [bool, required] read_exec_only: bool = 7;
        [bool, required] limit_in_pages: bool = 8;
        [bool, required] seg_not_present: bool = 9;
        [bool, required] usable: bool = 10;
    }
    ThreadInfoX86 = "thread_info_x86" {
        [uint64, required] clear_tid_addr: u64 = 1;
        [message, required] gpregs: UserX86RegsEntry = 2 in UserX86RegsEntry;
        [message, required] fpregs: UserX86FpregsEntry = 3 in UserX86FpregsEntry;
        [message, repeated] tls: Vec<UserDescT> = 4 in UserDescT;
    }

    // core.proto, rlimit.proto, timer.proto, creds.proto, sa.proto, siginfo.proto, rseq.proto
    RlimitEntry = "rlimit_entry" {
        [uint64, required] cur: u64 = 1;
        [uint64, required] max: u64 = 2;
    }
    TaskRlimitsEntry = "task_rlimits_entry" {
        [message, repeated] rlimits: Vec<RlimitEntry> = 1 in RlimitEntry;
    }
    ItimerEntry = "itimer_entry" {
        [uint64, required] isec: u64 = 1;
        [uint64, required] iusec: u64 = 2;
        [uint64, required] vsec: u64 = 3;
        [uint64, required] vusec: u64 = 4;
    }
    PosixTimerEntry = "posix_timer_entry" {
        [uint32, required] it_id: u32 = 1;
        [uint32, required] clock_id: u32 = 2;
        [uint32, required] si_signo: u32 = 3;
        [uint32, required] it_sigev_notify: u32 = 4;
        [uint64, required] sival_ptr: u64 = 5;
        [uint32, required] overrun: u32 = 6;
        [uint64, required] isec: u64 = 7;
        [uint64, required] insec: u64 = 8;
        [uint64, required] vsec: u64 = 9;
        [uint64, required] vnsec: u64 = 10;
        [int32, optional] notify_thread_id: Option<i32> = 11;
    }
    TaskTimersEntry = "task_timers_entry" {
        [message, required] real: ItimerEntry = 1 in ItimerEntry;
        [message, required] virt: ItimerEntry = 2 in ItimerEntry;
        [message, required] prof: ItimerEntry = 3 in ItimerEntry;
        [message, repeated] posix: Vec<PosixTimerEntry> = 4 in PosixTimerEntry;
    }
    SiginfoEntry = "siginfo_entry" {
        [bytes = "vec", required] siginfo: Vec<u8> = 1;
    }
    SignalQueueEntry = "signal_queue_entry" {
        [message, repeated] signals: Vec<SiginfoEntry> = 1 in SiginfoEntry;
    }
    SaEntry = "sa_entry" {
        [uint64, required] sigaction: u64 = 1;
        [uint64, required] flags: u64 = 2;
        [uint64, required] restorer: u64 = 3;
        [uint64, required] mask: u64 = 4;
        [bool, optional] compat_sigaction: Option<bool> = 5;
        // The upper half of MIPS's 128 signals.
        [uint64, optional] mask_extended: Option<u64> = 6;
    }
    CredsEntry = "creds_entry" {
        [uint32, required] uid: u32 = 1;
        [uint32, required] gid: u32 = 2;
        [uint32, required] euid: u32 = 3;
        [uint32, required] egid: u32 = 4;
        [uint32, required] suid: u32 = 5;
        [uint32, required] sgid: u32 = 6;
        [uint32, required] fsuid: u32 = 7;
        [uint32, required] fsgid: u32 = 8;
        [uint32, repeated, packed = "false"] cap_inh: Vec<u32> = 9;
        [uint32, repeated, packed = "false"] cap_prm: Vec<u32> = 10;
        [uint32, repeated, packed = "false"] cap_eff: Vec<u32> = 11;
        [uint32, repeated, packed = "false"] cap_bnd: Vec<u32> = 12;
        [uint32, required] secbits: u32 = 13;
        [uint32, repeated, packed = "false"] groups: Vec<u32> = 14;
        [bytes = "vec", optional] lsm_profile: Option<Vec<u8>> = 15;
        [bytes = "vec", optional] lsm_sockcreate: Option<Vec<u8>> = 16;
        [bytes = "vec", optional] apparmor_data: Option<Vec<u8>> = 17;
        [uint32, optional] no_new_privs: Option<u32> = 18;
        [uint32, repeated, packed = "false"] cap_amb: Vec<u32> = 19;
    }
    RseqEntry = "rseq_entry" {
        [uint64, required] rseq_abi_pointer: u64 = 1;
        [uint32, required] rseq_abi_size: u32 = 2;
        [uint32, required] signature: u32 = 3;
        [uint64, optional] rseq_cs_pointer: Option<u64> = 4;
    }
    TaskCoreEntry = "task_core_entry" {
        [uint32, required] task_state: u32 = 1;
        [uint32, required] exit_code: u32 = 2;
        [uint32, required] personality: u32 = 3;
        [uint32, required] flags: u32 = 4;
        [uint64, required] blk_sigset: u64 = 5;
        [bytes = "vec", required] comm: Vec<u8> = 6;
        [message, optional] timers: Option<TaskTimersEntry> = 7 in TaskTimersEntry;
        [message, optional] rlimits: Option<TaskRlimitsEntry> = 8 in TaskRlimitsEntry;
        [uint32, optional] cg_set: Option<u32> = 9;
        [message, optional] signals_s: Option<SignalQueueEntry> = 10 in SignalQueueEntry;
        [uint32, optional] old_seccomp_mode: Option<u32> = 11;
        [uint32, optional] old_seccomp_filter: Option<u32> = 12;
        [uint32, optional] loginuid: Option<u32> = 13;
        [int32, optional] oom_score_adj: Option<i32> = 14;
        [message, repeated] sigactions: Vec<SaEntry> = 15 in SaEntry;
        [bool, optional] child_subreaper: Option<bool> = 18;
        // The upper half of MIPS's 128 signals; written (and meaningless) on every architecture.
        [uint64, optional] blk_sigset_extended: Option<u64> = 20;
        [uint32, optional] stop_signo: Option<u32> = 21;
        [uint32, optional] membarrier_registration_mask: Option<u32> = 22;
    }
    TaskKobjIdsEntry = "task_kobj_ids_entry" {
        [uint32, required] vm_id: u32 = 1;
        [uint32, required] files_id: u32 = 2;
        [uint32, required] fs_id: u32 = 3;
        [uint32, required] sighand_id: u32 = 4;
        [uint32, optional] pid_ns_id: Option<u32> = 5;
        [uint32, optional] net_ns_id: Option<u32> = 6;
        [uint32, optional] ipc_ns_id: Option<u32> = 7;
        [uint32, optional] uts_ns_id: Option<u32> = 8;
        [uint32, optional] mnt_ns_id: Option<u32> = 9;
        [uint32, optional] user_ns_id: Option<u32> = 10;
        [uint32, optional] cgroup_ns_id: Option<u32> = 11;
        [uint32, optional] time_ns_id: Option<u32> = 12;
    }
    ThreadSasEntry = "thread_sas_entry" {
        [uint64, required] ss_sp: u64 = 1;
        [uint64, required] ss_size: u64 = 2;
        [uint32, required] ss_flags: u32 = 3;
    }
    ThreadCoreEntry = "thread_core_entry" {
        [uint64, required] futex_rla: u64 = 1;
        [uint32, required] futex_rla_len: u32 = 2;
        [sint32, optional] sched_nice: Option<i32> = 3;
        [uint32, optional] sched_policy: Option<u32> = 4;
        [uint32, optional] sched_prio: Option<u32> = 5;
        [uint64, optional] blk_sigset: Option<u64> = 6;
        [message, optional] sas: Option<ThreadSasEntry> = 7 in ThreadSasEntry;
        [uint32, optional] pdeath_sig: Option<u32> = 8;
        [message, optional] signals_p: Option<SignalQueueEntry> = 9 in SignalQueueEntry;
        [message, optional] creds: Option<CredsEntry> = 10 in CredsEntry;
        [uint32, optional] seccomp_mode: Option<u32> = 11;
        [uint32, optional] seccomp_filter: Option<u32> = 12;
        [bytes = "vec", optional] comm: Option<Vec<u8>> = 13;
        [uint64, optional] blk_sigset_extended: Option<u64> = 14;
        [message, optional] rseq_entry: Option<RseqEntry> = 15 in RseqEntry;
        [uint32, optional] cg_set: Option<u32> = 16;
        [uint64, optional] timerslack_ns: Option<u64> = 17;
    }
    CoreEntry = "core_entry" {
        [uint32, required] mtype: u32 = 1;
        [message, optional] thread_info: Option<ThreadInfoX86> = 2 in ThreadInfoX86;
        [message, optional] tc: Option<TaskCoreEntry> = 3 in TaskCoreEntry;
        [message, optional] ids: Option<TaskKobjIdsEntry> = 4 in TaskKobjIdsEntry;
        [message, optional] thread_core: Option<ThreadCoreEntry> = 5 in ThreadCoreEntry;
        // Other architectures: `mtype` says so, and the reader refuses it.
        [bytes = "vec", optional] ti_arm: Option<Vec<u8>> = 6;
        [bytes = "vec", optional] ti_aarch64: Option<Vec<u8>> = 8;
        [bytes = "vec", optional] ti_ppc64: Option<Vec<u8>> = 9;
        [bytes = "vec", optional] ti_s390: Option<Vec<u8>> = 10;
        [bytes = "vec", optional] ti_mips: Option<Vec<u8>> = 11;
        [bytes = "vec", optional] ti_loongarch64: Option<Vec<u8>> = 12;
        [bytes = "vec", optional] ti_riscv64: Option<Vec<u8>> = 13;
    }

    // mm.proto, vma.proto
    AioRingEntry = "aio_ring_entry" {
        [uint64, required] id: u64 = 1;
        [uint32, required] nr_req: u32 = 2;
        [uint32, required] ring_len: u32 = 3;
    }
    VmaEntry = "vma_entry" {
        [uint64, required] start: u64 = 1;
        [uint64, required] end: u64 = 2;
        // In bytes, whatever its name says.
        [uint64, required] pgoff: u64 = 3;
        [uint64, required] shmid: u64 = 4;
        [uint32, required] prot: u32 = 5;
        [uint32, required] flags: u32 = 6;
        [uint32, required] status: u32 = 7;
        [sint64, required] fd: i64 = 8;
        [uint64, optional] madv: Option<u64> = 9;
        [uint32, optional] fdflags: Option<u32> = 10;
    }
    MmEntry = "mm_entry" {
        [uint64, required] mm_start_code: u64 = 1;
        [uint64, required] mm_end_code: u64 = 2;
        [uint64, required] mm_start_data: u64 = 3;
        [uint64, required] mm_end_data: u64 = 4;
        [uint64, required] mm_start_stack: u64 = 5;
        [uint64, required] mm_start_brk: u64 = 6;
        [uint64, required] mm_brk: u64 = 7;
        [uint64, required] mm_arg_start: u64 = 8;
        [uint64, required] mm_arg_end: u64 = 9;
        [uint64, required] mm_env_start: u64 = 10;
        [uint64, required] mm_env_end: u64 = 11;
        [uint32, required] exe_file_id: u32 = 12;
        [uint64, repeated, packed = "false"] mm_saved_auxv: Vec<u64> = 13;
        [message, repeated] vmas: Vec<VmaEntry> = 14 in VmaEntry;
        [int32, optional] dumpable: Option<i32> = 15;
        [message, repeated] aios: Vec<AioRingEntry> = 16 in AioRingEntry;
        [bool, optional] thp_disabled: Option<bool> = 17;
    }

    // pagemap.proto
    PagemapHead = "pagemap_head" {
        [uint32, required] pages_id: u32 = 1;
    }
    PagemapEntry = "pagemap_entry" {
        [uint64, required] vaddr: u64 = 1;
        [uint32, required] compat_nr_pages: u32 = 2;
        [bool, optional] in_parent: Option<bool> = 3;
        [uint32, optional] flags: Option<u32> = 4;
        [uint64, optional] nr_pages: Option<u64> = 5;
    }

    // fs.proto
    FsEntry = "fs_entry" {
        [uint32, required] cwd_id: u32 = 1;
        [uint32, required] root_id: u32 = 2;
        [uint32, optional] umask: Option<u32> = 3;
    }

    // fdinfo.proto
    FdinfoEntry = "fdinfo_entry" {
        [uint32, required] id: u32 = 1;
        [uint32, required] flags: u32 = 2;
        [uint32, required] r#type: u32 = 3;
        [uint32, required] fd: u32 = 4;
        [bytes = "vec", optional] xattr_security_selinux: Option<Vec<u8>> = 5;
    }
    FileEntry = "file_entry" {
        [uint32, required] r#type: u32 = 1;
        [uint32, required] id: u32 = 2;
        [message, optional] reg: Option<RegFileEntry> = 3 in RegFileEntry;
        // Kinds that are not read yet stay bytes.
        [message, optional] isk: Option<InetSkEntry> = 4 in InetSkEntry;
        [bytes = "vec", optional] nsf: Option<Vec<u8>> = 5;
        [bytes = "vec", optional] psk: Option<Vec<u8>> = 6;
        [bytes = "vec", optional] nlsk: Option<Vec<u8>> = 7;
        [message, optional] efd: Option<EventfdFileEntry> = 8 in EventfdFileEntry;
        [message, optional] epfd: Option<EventpollFileEntry> = 9 in EventpollFileEntry;
        [message, optional] sgfd: Option<SignalfdEntry> = 10 in SignalfdEntry;
        [bytes = "vec", optional] tunf: Option<Vec<u8>> = 11;
        [message, optional] tfd: Option<TimerfdEntry> = 12 in TimerfdEntry;
        [bytes = "vec", optional] ify: Option<Vec<u8>> = 13;
        [bytes = "vec", optional] ffy: Option<Vec<u8>> = 14;
        [bytes = "vec", optional] ext: Option<Vec<u8>> = 15;
        [message, optional] usk: Option<UnixSkEntry> = 16 in UnixSkEntry;
        [message, optional] fifo: Option<FifoEntry> = 17 in FifoEntry;
        [message, optional] pipe: Option<PipeEntry> = 18 in PipeEntry;
        [bytes = "vec", optional] tty: Option<Vec<u8>> = 19;
        [message, optional] memfd: Option<MemfdFileEntry> = 20 in MemfdFileEntry;
        [bytes = "vec", optional] bpf: Option<Vec<u8>> = 21;
        [bytes = "vec", optional] pidfd: Option<Vec<u8>> = 22;
    }
    FownEntry = "fown_entry" {
        [uint32, required] uid: u32 = 1;
        [uint32, required] euid: u32 = 2;
        [uint32, required] signum: u32 = 3;
        [uint32, required] pid_type: u32 = 4;
        [uint32, required] pid: u32 = 5;
    }
    RegFileEntry = "reg_file_entry" {
        [uint32, required] id: u32 = 1;
        [uint32, required] flags: u32 = 2;
        [uint64, required] pos: u64 = 3;
        [message, required] fown: FownEntry = 5 in FownEntry;
        [bytes = "vec", required] name: Vec<u8> = 6;
        [sint32, optional] mnt_id: Option<i32> = 7;
        [uint64, optional] size: Option<u64> = 8;
        [bool, optional] ext: Option<bool> = 9;
        [uint32, optional] mode: Option<u32> = 10;
        [uint32, repeated, packed = "false"] build_id: Vec<u32> = 11;
        [uint32, optional] checksum: Option<u32> = 12;
        [uint32, optional] checksum_config: Option<u32> = 13;
        [uint32, optional] checksum_parameter: Option<u32> = 14;
    }
    PipeEntry = "pipe_entry" {
        [uint32, required] id: u32 = 1;
        [uint32, required] pipe_id: u32 = 2;
        [uint32, required] flags: u32 = 3;
        [message, required] fown: FownEntry = 4 in FownEntry;
    }
    EventfdFileEntry = "eventfd_file_entry" {
        [uint32, required] id: u32 = 1;
        [uint32, required] flags: u32 = 2;
        [message, required] fown: FownEntry = 3 in FownEntry;
        [uint64, required] counter: u64 = 4;
    }
    // eventpoll.proto, timerfd.proto, signalfd.proto, fifo.proto
    EventpollTfdEntry = "eventpoll_tfd_entry" {
        [uint32, required] id: u32 = 1;
        [uint32, required] tfd: u32 = 2;
        [uint32, required] events: u32 = 3;
        [uint64, required] data: u64 = 4;
        [uint32, optional] dev: Option<u32> = 5;
        [uint64, optional] inode: Option<u64> = 6;
        [uint64, optional] pos: Option<u64> = 7;
    }
    EventpollFileEntry = "eventpoll_file_entry" {
        [uint32, required] id: u32 = 1;
        [uint32, required] flags: u32 = 2;
        [message, required] fown: FownEntry = 3 in FownEntry;
        [message, repeated] tfd: Vec<EventpollTfdEntry> = 4 in EventpollTfdEntry;
    }
    TimerfdEntry = "timerfd_entry" {
        [uint32, required] id: u32 = 1;
        [uint32, required] flags: u32 = 2;
        [message, required] fown: FownEntry = 3 in FownEntry;
        [uint32, required] clockid: u32 = 4;
        [uint64, required] ticks: u64 = 5;
        [uint32, required] settime_flags: u32 = 6;
        [uint64, required] vsec: u64 = 7;
        [uint64, required] vnsec: u64 = 8;
        [uint64, required] isec: u64 = 9;
        [uint64, required] insec: u64 = 10;
    }
    SignalfdEntry = "signalfd_entry" {
        [uint32, required] id: u32 = 1;
        [uint32, required] flags: u32 = 2;
        [message, required] fown: FownEntry = 3 in FownEntry;
        [uint64, required] sigmask: u64 = 4;
    }
    FifoEntry = "fifo_entry" {
        [uint32, required] id: u32 = 1;
        [uint32, required] pipe_id: u32 = 2;
        [uint32, optional] regf_id: Option<u32> = 3;
    }
    SkOptsEntry = "sk_opts_entry" {
        [uint32, required] so_sndbuf: u32 = 1;
        [uint32, required] so_rcvbuf: u32 = 2;
        [uint64, required] so_snd_tmo_sec: u64 = 3;
        [uint64, required] so_snd_tmo_usec: u64 = 4;
        [uint64, required] so_rcv_tmo_sec: u64 = 5;
        [uint64, required] so_rcv_tmo_usec: u64 = 6;
        [bool, optional] reuseaddr: Option<bool> = 7;
        [uint32, optional] so_priority: Option<u32> = 8;
        [uint32, optional] so_rcvlowat: Option<u32> = 9;
        [uint32, optional] so_mark: Option<u32> = 10;
        [bool, optional] so_passcred: Option<bool> = 11;
        [bool, optional] so_passsec: Option<bool> = 12;
        [bool, optional] so_dontroute: Option<bool> = 13;
        [bool, optional] so_no_check: Option<bool> = 14;
        [bytes = "vec", optional] so_bound_dev: Option<Vec<u8>> = 15;
        [fixed64, repeated, packed = "false"] so_filter: Vec<u64> = 16;
        [bool, optional] so_reuseport: Option<bool> = 17;
        [bool, optional] so_broadcast: Option<bool> = 18;
        [bool, optional] so_keepalive: Option<bool> = 19;
        // Of TCP sockets, and deprecated there.
        [uint32, optional] tcp_keepcnt: Option<u32> = 20;
        [uint32, optional] tcp_keepidle: Option<u32> = 21;
        [uint32, optional] tcp_keepintvl: Option<u32> = 22;
        [uint32, optional] so_oobinline: Option<u32> = 23;
        [uint32, optional] so_linger: Option<u32> = 24;
        [uint32, optional] so_buf_lock: Option<u32> = 25;
    }
    IpOptsRawEntry = "ip_opts_raw_entry" {
        [bool, optional] hdrincl: Option<bool> = 1;
        [bool, optional] nodefrag: Option<bool> = 2;
        [bool, optional] checksum: Option<bool> = 3;
        [uint32, repeated, packed = "false"] icmpv_filter: Vec<u32> = 4;
    }
    IpOptsEntry = "ip_opts_entry" {
        [bool, optional] freebind: Option<bool> = 1;
        [message, optional] raw: Option<IpOptsRawEntry> = 4 in IpOptsRawEntry;
        [bool, optional] pktinfo: Option<bool> = 5;
        [uint32, optional] tos: Option<u32> = 6;
        [uint32, optional] ttl: Option<u32> = 7;
    }
    TcpOptsEntry = "tcp_opts_entry" {
        [bool, optional] cork: Option<bool> = 1;
        [bool, optional] nodelay: Option<bool> = 2;
        [uint32, optional] keepcnt: Option<u32> = 3;
        [uint32, optional] keepidle: Option<u32> = 4;
        [uint32, optional] keepintvl: Option<u32> = 5;
    }
    InetSkEntry = "inet_sk_entry" {
        [uint32, required] id: u32 = 1;
        [uint32, required] ino: u32 = 2;
        [uint32, required] family: u32 = 3;
        [uint32, required] r#type: u32 = 4;
        [uint32, required] proto: u32 = 5;
        [uint32, required] state: u32 = 6;
        [uint32, required] src_port: u32 = 7;
        [uint32, required] dst_port: u32 = 8;
        [uint32, required] flags: u32 = 9;
        [uint32, required] backlog: u32 = 10;
        [uint32, repeated, packed = "false"] src_addr: Vec<u32> = 11;
        [uint32, repeated, packed = "false"] dst_addr: Vec<u32> = 12;
        [message, required] fown: FownEntry = 13 in FownEntry;
        [message, required] opts: SkOptsEntry = 14 in SkOptsEntry;
        [bool, optional] v6only: Option<bool> = 15;
        [message, optional] ip_opts: Option<IpOptsEntry> = 16 in IpOptsEntry;
        [bytes = "vec", optional] ifname: Option<Vec<u8>> = 17;
        [uint32, optional] ns_id: Option<u32> = 18;
        [uint32, optional] shutdown: Option<u32> = 19;
        [message, optional] tcp_opts: Option<TcpOptsEntry> = 20 in TcpOptsEntry;
    }
    FilePermsEntry = "file_perms_entry" {
        [uint32, required] mode: u32 = 1;
        [uint32, required] uid: u32 = 2;
        [uint32, required] gid: u32 = 3;
    }
    UnixSkEntry = "unix_sk_entry" {
        [uint32, required] id: u32 = 1;
        [uint32, required] ino: u32 = 2;
        [uint32, required] r#type: u32 = 3;
        [uint32, required] state: u32 = 4;
        [uint32, required] flags: u32 = 5;
        [uint32, required] uflags: u32 = 6;
        [uint32, required] backlog: u32 = 7;
        [uint32, required] peer: u32 = 8;
        [message, required] fown: FownEntry = 9 in FownEntry;
        [message, required] opts: SkOptsEntry = 10 in SkOptsEntry;
        [bytes = "vec", required] name: Vec<u8> = 11;
        [uint32, optional] shutdown: Option<u32> = 12;
        [message, optional] file_perms: Option<FilePermsEntry> = 13 in FilePermsEntry;
        [bytes = "vec", optional] name_dir: Option<Vec<u8>> = 14;
        [bool, optional] deleted: Option<bool> = 15;
        [uint32, optional] ns_id: Option<u32> = 16;
        [sint32, optional] mnt_id: Option<i32> = 17;
    }
    MemfdFileEntry = "memfd_file_entry" {
        [uint32, required] id: u32 = 1;
        [uint32, required] flags: u32 = 2;
        [uint64, required] pos: u64 = 3;
        [message, required] fown: FownEntry = 4 in FownEntry;
        [uint32, required] inode_id: u32 = 5;
    }
    MemfdInodeEntry = "memfd_inode_entry" {
        [bytes = "vec", required] name: Vec<u8> = 1;
        [uint32, required] uid: u32 = 2;
        [uint32, required] gid: u32 = 3;
        [uint64, required] size: u64 = 4;
        [uint32, required] shmid: u32 = 5;
        [uint32, required] seals: u32 = 6;
        [uint64, required] inode_id: u64 = 7;
        [uint32, optional] hugetlb_flag: Option<u32> = 8;
        [uint32, optional] mode: Option<u32> = 9;
    }

    // pipe-data.proto, sk-packet.proto
    PipeDataEntry = "pipe_data_entry" {
        [uint32, required] pipe_id: u32 = 1;
        [uint32, required] bytes: u32 = 2;
        [uint32, optional] size: Option<u32> = 3;
    }
    ScmEntry = "scm_entry" {
        [uint32, required] r#type: u32 = 1;
        [uint32, repeated, packed = "false"] rights: Vec<u32> = 2;
    }
    SkPacketEntry = "sk_packet_entry" {
        [uint32, required] id_for: u32 = 1;
        [uint32, required] length: u32 = 2;
        [message, repeated] scm: Vec<ScmEntry> = 4 in ScmEntry;
    }

    // remap-file-path.proto, file-lock.proto
    RemapFilePathEntry = "remap_file_path_entry" {
        [uint32, required] orig_id: u32 = 1;
        [uint32, required] remap_id: u32 = 2;
        [uint32, optional] remap_type: Option<u32> = 3;
    }
    // ghost-file.proto, time.proto
    GhostFileEntry = "ghost_file_entry" {
        [uint32, required] uid: u32 = 1;
        [uint32, required] gid: u32 = 2;
        [uint32, required] mode: u32 = 3;
        [uint32, optional] dev: Option<u32> = 4;
        [uint64, optional] ino: Option<u64> = 5;
        [uint32, optional] rdev: Option<u32> = 6;
        [message, optional] atim: Option<Timeval> = 7 in Timeval;
        [message, optional] mtim: Option<Timeval> = 8 in Timeval;
        [bool, optional] chunks: Option<bool> = 9;
        [uint64, optional] size: Option<u64> = 10;
        [bytes = "vec", optional] symlnk_target: Option<Vec<u8>> = 11;
    }
    GhostChunkEntry = "ghost_chunk_entry" {
        [uint64, required] len: u64 = 1;
        [uint64, required] off: u64 = 2;
    }
    Timeval = "timeval" {
        [uint64, required] tv_sec: u64 = 1;
        [uint64, required] tv_usec: u64 = 2;
    }
    FileLockEntry = "file_lock_entry" {
        [uint32, required] flag: u32 = 1;
        [uint32, required] r#type: u32 = 2;
        [int32, required] pid: i32 = 3;
        [int32, required] fd: i32 = 4;
        [int64, required] start: i64 = 5;
        [int64, required] len: i64 = 6;
    }

    // timens.proto
    Timespec = "timespec" {
        [uint64, required] tv_sec: u64 = 1;
        [uint64, required] tv_nsec: u64 = 2;
    }
    TimensEntry = "timens_entry" {
        [message, required] monotonic: Timespec = 1 in Timespec;
        [message, required] boottime: Timespec = 2 in Timespec;
    }

    // ipc-desc.proto, ipc-var.proto, ipc-shm.proto, ipc-msg.proto, ipc-sem.proto
    IpcDescEntry = "ipc_desc_entry" {
        [uint32, required] key: u32 = 1;
        [uint32, required] uid: u32 = 2;
        [uint32, required] gid: u32 = 3;
        [uint32, required] cuid: u32 = 4;
        [uint32, required] cgid: u32 = 5;
        [uint32, required] mode: u32 = 6;
        [uint32, required] id: u32 = 7;
    }
    IpcVarEntry = "ipc_var_entry" {
        [uint32, repeated, packed = "false"] sem_ctls: Vec<u32> = 1;
        [uint32, required] msg_ctlmax: u32 = 2;
        [uint32, required] msg_ctlmnb: u32 = 3;
        [uint32, required] msg_ctlmni: u32 = 4;
        [uint32, required] auto_msgmni: u32 = 5;
        [uint64, required] shm_ctlmax: u64 = 6;
        [uint64, required] shm_ctlall: u64 = 7;
        [uint32, required] shm_ctlmni: u32 = 8;
        [uint32, required] shm_rmid_forced: u32 = 9;
        [uint32, required] mq_queues_max: u32 = 10;
        [uint32, required] mq_msg_max: u32 = 11;
        [uint32, required] mq_msgsize_max: u32 = 12;
        [uint32, optional] mq_msg_default: Option<u32> = 13;
        [uint32, optional] mq_msgsize_default: Option<u32> = 14;
        [uint32, optional] msg_next_id: Option<u32> = 15;
        [uint32, optional] sem_next_id: Option<u32> = 16;
        [uint32, optional] shm_next_id: Option<u32> = 17;
    }
    IpcShmEntry = "ipc_shm_entry" {
        [message, required] desc: IpcDescEntry = 1 in IpcDescEntry;
        [uint64, required] size: u64 = 2;
        [bool, optional] in_pagemaps: Option<bool> = 3;
        [uint32, optional] hugetlb_flag: Option<u32> = 4;
    }
    IpcMsg = "ipc_msg" {
        [uint64, required] mtype: u64 = 1;
        [uint32, required] msize: u32 = 2;
    }
    IpcMsgEntry = "ipc_msg_entry" {
        [message, required] desc: IpcDescEntry = 1 in IpcDescEntry;
        [uint32, required] qbytes: u32 = 2;
        [uint32, required] qnum: u32 = 3;
    }
    IpcSemEntry = "ipc_sem_entry" {
        [message, required] desc: IpcDescEntry = 1 in IpcDescEntry;
        [uint32, required] nsems: u32 = 2;
    }

    // cgroup.proto
    CgMemberEntry = "cg_member_entry" {
        [bytes = "vec", required] name: Vec<u8> = 1;
        [bytes = "vec", required] path: Vec<u8> = 2;
        // Length of the part of the path above the cgroup namespace; the namespace's own id
        // (`KobjIds::cgroup_ns`) says whether there is one.
        [uint32, optional] cgns_prefix: Option<u32> = 3;
    }
    CgSetEntry = "cg_set_entry" {
        [uint32, required] id: u32 = 1;
        [message, repeated] ctls: Vec<CgMemberEntry> = 2 in CgMemberEntry;
    }
    CgroupPerms = "cgroup_perms" {
        [uint32, required] mode: u32 = 1;
        [uint32, required] uid: u32 = 2;
        [uint32, required] gid: u32 = 3;
    }
    CgroupPropEntry = "cgroup_prop_entry" {
        [bytes = "vec", required] name: Vec<u8> = 1;
        [bytes = "vec", required] value: Vec<u8> = 2;
        [message, optional] perms: Option<CgroupPerms> = 3 in CgroupPerms;
    }
    CgroupDirEntry = "cgroup_dir_entry" {
        [bytes = "vec", required] dir_name: Vec<u8> = 1;
        // Each is a message as this one: looked into one by one.
        [bytes = "vec", repeated] children: Vec<Vec<u8>> = 2;
        [message, repeated] properties: Vec<CgroupPropEntry> = 3 in CgroupPropEntry;
        [message, optional] dir_perms: Option<CgroupPerms> = 4 in CgroupPerms;
    }
    CgControllerEntry = "cg_controller_entry" {
        [bytes = "vec", repeated] cnames: Vec<Vec<u8>> = 1;
        [bytes = "vec", repeated] dirs: Vec<Vec<u8>> = 2;
        // Whether threads may be in other cgroups than their task: who is, the threads say.
        [bool, optional] is_threaded: Option<bool> = 3;
    }
    CgroupEntry = "cgroup_entry" {
        [message, repeated] sets: Vec<CgSetEntry> = 1 in CgSetEntry;
        [message, repeated] controllers: Vec<CgControllerEntry> = 2 in CgControllerEntry;
    }
    // seccomp.proto
    SeccompFilterEntry = "seccomp_filter" {
        [bytes = "vec", required] filter: Vec<u8> = 1;
        [uint32, optional] prev: Option<u32> = 2;
        [uint32, optional] flags: Option<u32> = 3;
    }
    SeccompEntry = "seccomp_entry" {
        [message, repeated] seccomp_filters: Vec<SeccompFilterEntry> = 1 in SeccompFilterEntry;
    }
}

/// `core_entry.march`: x86-64.
pub(crate) const MARCH_X86_64: u32 = 1;

/// `SCM_RIGHTS` of `scm_entry.type`.
pub(crate) const SCM_RIGHTS: u32 = 1;
