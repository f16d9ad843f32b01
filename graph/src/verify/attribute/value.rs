//! Values of attributes, in one normal form: what the kernel would show in the same way is equal.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{AttributeKind, Cleared, Form};
use crate::verify::expected::{InodeId, InodeKind};

/// SIGKILL and SIGSTOP, whose actions and blocking cannot be changed: bit 0 is signal 1.
pub(crate) const UNBLOCKABLE: u64 = 1 << 8 | 1 << 18;

/// A value; of which sort is the attribute's affair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// Nobody knows it.
    Unknown,
    /// There is none: no stack, no list, no timer, no signal.
    Nothing,
    /// A number; signed ones as `i64`.
    Number(u64),
    /// Several numbers.
    Numbers(Arc<[u64]>),
    /// A path, a name, bytes.
    Bytes(Arc<[u8]>),
    /// What the task does on each signal: index 0 is signal 1. `None`: nobody knows.
    #[serde(with = "array")]
    Actions(Arc<[Option<Action>; 64]>),
    /// Resource limits by number. `None`: nobody knows.
    #[serde(with = "array")]
    Limits(Arc<[Option<Limit>; 16]>),
    /// POSIX timers by id.
    Timers(Arc<BTreeMap<u32, Timer>>),
    /// Signals in the order in which they came.
    Signals(Arc<Vec<Pending>>),
    /// Cgroups by hierarchy, as `/proc/PID/cgroup` has both: those that are not the caller's.
    Cgroups(Arc<BTreeMap<String, String>>),
    /// In the model: a file without a name that the tapes have made.
    Made(usize),
    /// In the images: a file without a name.
    Inode(InodeId),
}

/// Arrays of any length, as sequences: serde itself has them up to 32.
mod array {
    use std::sync::Arc;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer, T: Serialize, const N: usize>(
        array: &Arc<[T; N]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(array.iter())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: Deserialize<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<Arc<[T; N]>, D::Error> {
        let all: Box<[T]> = Vec::deserialize(deserializer)?.into();
        let len = all.len();
        let array: Box<[T; N]> =
            all.try_into().map_err(|_| D::Error::invalid_length(len, &"another length"))?;
        Ok(array.into())
    }
}

/// `sigaction(2)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Action {
    pub handler: u64,
    pub flags: u64,
    pub restorer: u64,
    pub mask: u64,
}

impl Action {
    /// Whether a child that dies leaves no zombie (only of SIGCHLD).
    pub(crate) fn discards_children(&self) -> bool {
        const SA_NOCLDWAIT: u64 = 2;
        self.handler == 1 || self.flags & SA_NOCLDWAIT != 0
    }
}

/// A resource limit; `u64::MAX` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
    /// Whether it is the launcher's. Not compared, and never so in what is expected.
    #[serde(skip)]
    pub(crate) is_inherited: bool,
}

impl Limit {
    /// Both limits.
    pub fn new(soft: u64, hard: u64) -> Limit {
        Limit { soft, hard, is_inherited: false }
    }
}

/// A POSIX timer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timer {
    /// The clock.
    pub clock: u32,
    /// `struct sigevent` as far as it means something: value, signal, kind of notice, thread.
    pub event: [u64; 4],
    /// Interval in nanoseconds, first expiry in nanoseconds.
    pub times_ns: (u64, u64),
}

/// A signal that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Its number.
    pub signal: u32,
    /// `siginfo_t`.
    pub info: Arc<[u8]>,
}

impl Value {
    /// Bytes.
    pub fn bytes(bytes: &[u8]) -> Value {
        Value::Bytes(bytes.into())
    }

    /// A signed number.
    pub fn signed(number: i32) -> Value {
        Value::Number(i64::from(number) as u64)
    }

    /// Numbers; none: nothing.
    pub fn numbers(numbers: &[u64]) -> Value {
        if numbers.is_empty() { Value::Nothing } else { Value::Numbers(numbers.into()) }
    }

    /// Groups, in the kernel's order.
    pub fn groups(groups: &[u32]) -> Value {
        let mut groups: Vec<u64> = groups.iter().map(|group| u64::from(*group)).collect();
        groups.sort_unstable();
        Value::numbers(&groups)
    }

    /// `sigaltstack(2)`: SS_ONSTACK says where the thread was, not what is set.
    pub fn alt_stack(sp: u64, flags: u32, len: u64) -> Value {
        const SS_ONSTACK: u32 = 1;
        const SS_DISABLE: u32 = 2;
        if flags & SS_DISABLE != 0 {
            Value::Nothing
        } else {
            Value::numbers(&[sp, u64::from(flags & !SS_ONSTACK), len])
        }
    }

    /// `set_robust_list(2)`.
    pub fn robust_list(head: u64, len: u64) -> Value {
        if head == 0 || len == 0 { Value::Nothing } else { Value::numbers(&[head, len]) }
    }

    /// `rseq(2)`.
    pub fn rseq(address: u64, len: u32, signature: u32) -> Value {
        if address == 0 {
            Value::Nothing
        } else {
            Value::numbers(&[address, u64::from(len), u64::from(signature)])
        }
    }

    /// Registered commands of `membarrier(2)`: those for cores and restartable sequences are also
    /// registered as the plain one (kernel/sched/membarrier.c, `membarrier_register_private_expedited`).
    pub fn membarrier(commands: u32) -> Value {
        const PLAIN: u32 = 1 << 4;
        const WITH_MORE: u32 = 1 << 6 | 1 << 8;
        let plain = if commands & WITH_MORE != 0 { PLAIN } else { 0 };
        Value::Number(u64::from(commands | plain))
    }

    /// Interval timers (interval, first expiry). The real one forgets its interval when it is disarmed.
    pub fn interval_timers(timers: [(u64, u64); 3]) -> Value {
        let [mut real, virt, prof] = timers;
        if real.1 == 0 {
            real.0 = 0;
        }
        let words = [real.0, real.1, virt.0, virt.1, prof.0, prof.1];
        if words == [0; 6] { Value::Nothing } else { Value::numbers(&words) }
    }

    /// POSIX timers by id.
    pub fn timers(timers: BTreeMap<u32, Timer>) -> Value {
        if timers.is_empty() { Value::Nothing } else { Value::Timers(timers.into()) }
    }

    /// Cgroups by hierarchy.
    pub fn cgroups(cgroups: BTreeMap<String, String>) -> Value {
        if cgroups.is_empty() { Value::Nothing } else { Value::Cgroups(cgroups.into()) }
    }

    /// Signals that wait.
    pub fn signals(signals: Vec<Pending>) -> Value {
        if signals.is_empty() { Value::Nothing } else { Value::Signals(signals.into()) }
    }

    pub(crate) fn is_known(&self) -> bool {
        *self != Value::Unknown
    }

    /// In words, for messages.
    pub fn shown(&self, kind: AttributeKind) -> String {
        let form = kind.row().form;
        match self {
            Value::Unknown => "unknown (nothing certain sets it)".to_owned(),
            Value::Nothing if kind == AttributeKind::Cgroups => "the caller's".to_owned(),
            Value::Nothing => "none".to_owned(),
            Value::Number(number) => shown(*number, form),
            Value::Numbers(numbers) => {
                numbers.iter().map(|number| shown(*number, form)).collect::<Vec<_>>().join(" ")
            }
            Value::Bytes(_) if kind == AttributeKind::AuxiliaryVector => "another one".to_owned(),
            Value::Bytes(bytes) => bytes.escape_ascii().to_string(),
            // Those are compared one by one.
            Value::Actions(_) => "64 actions".to_owned(),
            Value::Limits(_) => "16 limits".to_owned(),
            Value::Timers(timers) => timers
                .iter()
                .map(|(id, timer)| {
                    let (interval, value) = timer.times_ns;
                    let [data, signal, notice, thread] = timer.event;
                    format!(
                        "timer {id} (clock {}, signal {signal}, notice {notice}, thread {thread}, data {data:#x}, every {interval} ns, first in {value} ns)",
                        timer.clock
                    )
                })
                .collect::<Vec<_>>()
                .join(", "),
            Value::Signals(signals) => {
                let mut text = String::new();
                for pending in signals.iter() {
                    let separator = if text.is_empty() { "" } else { ", " };
                    let _ = write!(text, "{separator}signal {}", pending.signal);
                    // Who raised it and with what: the words behind number, errno and code.
                    let _ = write!(text, " ({:x?})", pending.info.get(..32).unwrap_or(&pending.info));
                }
                text
            }
            Value::Cgroups(cgroups) => {
                cgroups.iter().map(|(name, path)| format!("{name}:{path}")).collect::<Vec<_>>().join(" ")
            }
            Value::Made(_) => "a file without a name".to_owned(),
            Value::Inode(InodeId::Ghost(id)) => format!("the unlinked file {id:#x}"),
            Value::Inode(InodeId::Memfd(id)) => format!("memfd {id}"),
            Value::Inode(InodeId::Linked(id)) => format!("the file that is called {id:#x} still"),
        }
    }
}

impl From<Cleared> for Value {
    fn from(cleared: Cleared) -> Value {
        match cleared {
            Cleared::Zero => Value::Number(0),
            Cleared::Nothing => Value::Nothing,
        }
    }
}

fn shown(number: u64, form: Form) -> String {
    match form {
        Form::Decimal => number.to_string(),
        Form::Signed => (number as i64).to_string(),
        Form::Octal => format!("0{number:02o}"),
        Form::Hex => format!("{number:#x}"),
    }
}

pub(crate) fn shown_action(action: &Action) -> String {
    let Action { handler, flags, restorer, mask } = action;
    let handler = match handler {
        0 => "the default".to_owned(),
        1 => "ignored".to_owned(),
        address => format!("handled at {address:#x}"),
    };
    format!("{handler} (flags {flags:#x}, restorer {restorer:#x}, mask {mask:#x})")
}

pub(crate) fn shown_limit(limit: &Limit) -> String {
    let one = |limit: u64| if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() };
    format!("{}, hard {}", one(limit.soft), one(limit.hard))
}

pub(crate) fn shown_kind(kind: InodeKind) -> &'static str {
    match kind {
        InodeKind::File => "unlinked file",
        InodeKind::Directory => "removed directory",
        InodeKind::Memfd => "memfd",
        InodeKind::Fifo => "unlinked FIFO",
        InodeKind::Linked => "file of another name",
    }
}

/// What of `struct sigevent` means something: the value, the signal, the kind of notice, and the thread
/// where one is told.
pub fn timer_event(data: u64, signal: u64, notice: u64, thread: u64) -> [u64; 4] {
    const SIGEV_THREAD_ID: u64 = 4;
    [data, signal, notice, if notice & SIGEV_THREAD_ID != 0 { thread } else { 0 }]
}
