//! Calls that do something to what a descriptor refers to.

use regrow_graph::verify::{Change, Effect, UserfaultChange};

use super::{Call, Check, IOV_MAX, Lift, RW_MAX, time};

impl Call<'_, '_> {
    /// Files, pipes, events, timers; `None`: the call is none of them.
    pub(super) fn object_change(&self) -> Lift<Option<Effect>> {
        let region = self.lifter;
        let effect: Lift<Effect> = match libc::c_long::from(self.record.nr) {
            libc::SYS_lseek => {
                self.succeeds()?;
                if self.low(2) as i32 != libc::SEEK_SET || self.arg(1) > i64::MAX as u64 {
                    return Err("not from the start of the file".to_owned());
                }
                if self.check == Check::Equal {
                    self.gives(self.arg(1))?;
                }
                self.object(Change::Seek { position: self.arg(1) })
            }
            libc::SYS_write => {
                self.gives_exactly(self.arg(2))?;
                self.object(Change::Write { data: region.input(self.arg(1), self.arg(2))?.to_vec() })
            }
            libc::SYS_epoll_ctl => {
                self.gives_zero()?;
                if self.low(1) as i32 != libc::EPOLL_CTL_ADD {
                    return Err(format!("operation {}", self.low(1)));
                }
                // struct epoll_event is packed: 12 bytes.
                let words = region.u32s(self.arg(3), 3)?;
                let data = u64::from(words[1]) | u64::from(words[2]) << 32;
                self.object(Change::Watch { target: self.fd(2)?, events: words[0], data })
            }
            libc::SYS_timerfd_settime => {
                self.gives_zero()?;
                self.must_be_zero(&[3])?;
                let [interval_s, interval, value_s, value] = region.array::<4>(self.arg(2))?;
                self.object(Change::SetTimer {
                    flags: self.low(1),
                    interval_ns: time(interval_s, interval, 1_000_000_000)?,
                    value_ns: time(value_s, value, 1_000_000_000)?,
                })
            }
            libc::SYS_ioctl => {
                /// TFD_IOC_SET_TICKS (linux/timerfd.h).
                const SET_TICKS: u32 = 0x4008_5400;
                self.gives_zero()?;
                match self.low(1) {
                    SET_TICKS => {
                        let [ticks] = region.array::<1>(self.arg(2))?;
                        self.object(Change::SetTicks { ticks })
                    }
                    command => self.userfault(command),
                }
            }
            libc::SYS_read => self.read(vec![(self.arg(1), self.arg(2))], None),
            libc::SYS_pread64 => self.read(vec![(self.arg(1), self.arg(2))], Some(self.arg(3))),
            libc::SYS_preadv => {
                if self.arg(2) > IOV_MAX || self.arg(4) != 0 {
                    return Err(format!("{} vectors, upper offset {:#x}", self.arg(2), self.arg(4)));
                }
                let words = region.words(self.arg(1), 2 * self.arg(2))?;
                self.read(words.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect(), Some(self.arg(3)))
            }
            libc::SYS_flock => {
                self.gives_zero()?;
                let operation = self.low(1) as i32;
                if operation & libc::LOCK_NB == 0
                    || !matches!(operation & !libc::LOCK_NB, libc::LOCK_SH | libc::LOCK_EX)
                {
                    return Err(format!("operation {operation:#x}"));
                }
                self.object(Change::Lock)
            }
            libc::SYS_ftruncate => {
                self.gives_zero()?;
                self.object(Change::Truncate { len: self.arg(1) })
            }
            libc::SYS_sendfile => {
                self.gives_exactly(self.arg(3))?;
                self.must_be_zero(&[2])?;
                if self.arg(3) > RW_MAX {
                    return Err(format!("{} bytes, more than can be copied at once", self.arg(3)));
                }
                self.object(Change::Copy { from: self.fd(1)?, len: self.arg(3) })
            }
            libc::SYS_fchown => {
                self.gives_zero()?;
                let (uid, gid) = (self.low(1), self.low(2));
                if uid == u32::MAX || gid == u32::MAX {
                    return Err("leaves the owner or the group".to_owned());
                }
                self.object(Change::SetFileOwner { uid, gid })
            }
            libc::SYS_fchmod => {
                self.gives_zero()?;
                self.object(Change::SetMode { mode: self.low(1) })
            }
            libc::SYS_utimensat => {
                self.gives_zero()?;
                self.must_be_zero(&[1, 3])?;
                let [atime, atime_ns, mtime, mtime_ns] = region.array::<4>(self.arg(2))?;
                if atime_ns >= 1_000_000_000 || mtime_ns >= 1_000_000_000 {
                    return Err("not a time".to_owned());
                }
                self.object(Change::SetTimes {
                    atime: (atime as i64, atime_ns),
                    mtime: (mtime as i64, mtime_ns),
                })
            }
            libc::SYS_fchdir => {
                self.gives_zero()?;
                self.object(Change::Enter)
            }
            _ => return Ok(None),
        };
        effect.map(Some)
    }

    /// Structures that the kernel writes into are the call's own.
    fn userfault(&self, command: u32) -> Lift<Effect> {
        /// uapi/linux/userfaultfd.h.
        const API: u64 = 0xaa;
        const MISSING: u64 = 1;
        let region = self.lifter;
        let change = match command {
            // UFFDIO_API
            0xc018_aa3f => match region.own_words::<3>(self.arg(2))? {
                [API, 0, 0] => UserfaultChange::Handshake,
                [api, features, _] => return Err(format!("API {api:#x}, features {features:#x}")),
            },
            // UFFDIO_REGISTER
            0xc020_aa00 => match region.own_words::<4>(self.arg(2))? {
                [at, len, MISSING, 0] => UserfaultChange::Register { at, len },
                [_, _, mode, _] => return Err(format!("mode {mode:#x}")),
            },
            // UFFDIO_COPY: it gives 0 only where all has been copied.
            0xc028_aa03 => match region.own_words::<5>(self.arg(2))? {
                [to, from, len, 0, 0] => UserfaultChange::Copy { to, from, len },
                [_, _, _, mode, _] => return Err(format!("mode {mode:#x}")),
            },
            // UFFDIO_MOVE: likewise.
            0xc028_aa05 => match region.own_words::<5>(self.arg(2))? {
                [to, from, len, 0, 0] => UserfaultChange::Move { to, from, len },
                [_, _, _, mode, _] => return Err(format!("mode {mode:#x}")),
            },
            // UFFDIO_UNREGISTER
            0x8010_aa01 => {
                let [at, len] = region.array::<2>(self.arg(2))?;
                UserfaultChange::Unregister { at, len }
            }
            command => return Err(format!("command {command:#x}")),
        };
        self.object(Change::Userfault(change))
    }

    fn read(&self, into: Vec<(u64, u64)>, offset: Option<u64>) -> Lift<Effect> {
        let total = into.iter().try_fold(0u64, |sum, (_, len)| sum.checked_add(*len));
        let total = total.filter(|total| *total <= RW_MAX).ok_or("too long to be read at once")?;
        self.gives_exactly(total)?;
        for (start, len) in &into {
            let end = start.checked_add(*len).ok_or("beyond the address space")?;
            if *start < self.lifter.common.tapes.ro_base() && self.lifter.common.tapes.base < end {
                self.lifter.output(*start, *len)?;
            }
        }
        self.object(Change::Read { into, offset })
    }
}
