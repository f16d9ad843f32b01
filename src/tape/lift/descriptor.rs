//! Calls that change descriptor tables, and names in the file system.

use regrow_graph::verify::{Change, Effect, FdEffect, FileEffect, NameEffect};

use super::{Call, Lift};

impl Call<'_, '_> {
    /// Descriptors and names; `None`: the call is none of them.
    pub(super) fn descriptor(&self) -> Lift<Option<Effect>> {
        let region = self.lifter;
        let effect: Lift<Effect> = match libc::c_long::from(self.record.nr) {
            libc::SYS_openat => {
                let path = self.path_at_cwd()?;
                Ok(Effect::Fd(FdEffect::Open { path, flags: self.low(2), fd: self.number()? }))
            }
            libc::SYS_pipe2 => {
                self.gives_zero()?;
                region.output(self.arg(0), 8)?;
                Ok(Effect::Fd(FdEffect::Pipe { flags: self.low(1) }))
            }
            libc::SYS_socketpair => {
                self.gives_zero()?;
                region.output(self.arg(3), 8)?;
                if self.low(0) as i32 != libc::AF_UNIX || self.low(2) != 0 {
                    return Err(format!("family {}, protocol {}", self.low(0), self.low(2)));
                }
                // SOCK_CLOEXEC and SOCK_NONBLOCK are O_CLOEXEC and O_NONBLOCK.
                let (sock_type, flags) = (self.low(1) & 0xf, self.low(1) & !0xf);
                Ok(Effect::Fd(FdEffect::SocketPair { sock_type, flags }))
            }
            libc::SYS_socket => {
                let (sock_type, flags) = (self.low(1) & 0xf, self.low(1) & !0xf);
                let (family, protocol, fd) = (self.low(0), self.low(2), self.number()?);
                Ok(Effect::Fd(FdEffect::Socket { family, sock_type, protocol, flags, fd }))
            }
            libc::SYS_accept4 => {
                if self.arg(1) != 0 || self.arg(2) != 0 {
                    return Err("asks for the address".to_owned());
                }
                let (listener, flags, fd) = (self.fd(0)?, self.low(3), self.number()?);
                Ok(Effect::Fd(FdEffect::Accept { listener, flags, fd }))
            }
            libc::SYS_fchmodat | libc::SYS_fchownat => self.file(),
            libc::SYS_eventfd2 => Ok(Effect::Fd(FdEffect::Eventfd {
                counter: self.low(0),
                flags: self.low(1),
                fd: self.number()?,
            })),
            libc::SYS_epoll_create1 => {
                Ok(Effect::Fd(FdEffect::Epoll { flags: self.low(0), fd: self.number()? }))
            }
            libc::SYS_timerfd_create => Ok(Effect::Fd(FdEffect::Timerfd {
                clock: self.low(0),
                flags: self.low(1),
                fd: self.number()?,
            })),
            libc::SYS_signalfd4 => {
                if self.low(0) != u32::MAX || self.arg(2) != 8 {
                    return Err(format!(
                        "of descriptor {}, sets of {} bytes",
                        self.low(0) as i32,
                        self.arg(2)
                    ));
                }
                let [mask] = region.array::<1>(self.arg(1))?;
                Ok(Effect::Fd(FdEffect::Signalfd { mask, flags: self.low(3), fd: self.number()? }))
            }
            libc::SYS_userfaultfd => {
                Ok(Effect::Fd(FdEffect::Userfault { flags: self.low(0), fd: self.number()? }))
            }
            libc::SYS_memfd_create => Ok(Effect::Fd(FdEffect::Memfd {
                name: region.text(self.arg(0))?.to_vec(),
                flags: self.low(1),
                fd: self.number()?,
            })),

            // Names.
            libc::SYS_mkdirat => {
                self.gives_zero()?;
                Ok(Effect::Name(NameEffect::MakeDirectory { path: self.path_at_cwd()? }))
            }
            libc::SYS_mknodat => {
                self.gives_zero()?;
                self.must_be_zero(&[3])?;
                let (path, mode) = (self.path_at_cwd()?, self.low(2));
                if mode & libc::S_IFMT != libc::S_IFIFO {
                    return Err(format!("mode {mode:#o}"));
                }
                Ok(Effect::Name(NameEffect::MakeFifo { path }))
            }
            libc::SYS_linkat => {
                self.gives_zero()?;
                let from = self.path_at_cwd()?;
                if self.low(2) as i32 != libc::AT_FDCWD || self.low(4) != 0 {
                    return Err(format!(
                        "relative to descriptor {}, flags {:#x}",
                        self.low(2) as i32,
                        self.low(4)
                    ));
                }
                Ok(Effect::Name(NameEffect::Link { from, to: region.absolute_path(self.arg(3))? }))
            }
            libc::SYS_renameat2 => {
                self.gives_zero()?;
                let from = self.path_at_cwd()?;
                if self.low(2) as i32 != libc::AT_FDCWD {
                    return Err(format!("relative to descriptor {}", self.low(2) as i32));
                }
                let to = region.absolute_path(self.arg(3))?;
                match self.low(4) {
                    0 => Ok(Effect::Name(NameEffect::Rename { from, to })),
                    libc::RENAME_EXCHANGE => Ok(Effect::Name(NameEffect::Exchange { from, to })),
                    flags => Err(format!("flags {flags:#x}")),
                }
            }
            libc::SYS_unlinkat => {
                self.gives_zero()?;
                let path = self.path_at_cwd()?;
                match self.low(2) as i32 {
                    0 => Ok(Effect::Name(NameEffect::Unlink { path })),
                    libc::AT_REMOVEDIR => Ok(Effect::Name(NameEffect::RemoveDirectory { path })),
                    flags => Err(format!("flags {flags:#x}")),
                }
            }

            libc::SYS_dup3 => {
                let (from, to, flags) = (self.fd(0)?, self.fd(1)?, self.low(2));
                if flags & !(libc::O_CLOEXEC as u32) != 0 {
                    return Err(format!("flags {flags:#o}"));
                }
                self.gives(u64::from(to))?;
                Ok(Effect::Fd(FdEffect::Dup { from, to, cloexec: flags != 0 }))
            }
            libc::SYS_dup2 => {
                let (from, to) = (self.fd(0)?, self.fd(1)?);
                self.gives(u64::from(to))?;
                Ok(Effect::Fd(FdEffect::Dup { from, to, cloexec: false }))
            }
            libc::SYS_close => {
                self.gives_zero()?;
                Ok(Effect::Fd(FdEffect::Close { fd: self.fd(0)? }))
            }
            libc::SYS_close_range => {
                self.gives_zero()?;
                let (unshare, mark) = (libc::CLOSE_RANGE_UNSHARE, libc::CLOSE_RANGE_CLOEXEC);
                let flags = self.low(2);
                if flags & !(unshare | mark) != 0 {
                    return Err(format!("flags {flags:#x}"));
                }
                Ok(Effect::Fd(FdEffect::CloseRange {
                    first: self.low(0),
                    last: self.low(1),
                    only_mark: flags & mark != 0,
                    unshare: flags & unshare != 0,
                }))
            }
            libc::SYS_fcntl => self.fcntl(),
            _ => return Ok(None),
        };
        effect.map(Some)
    }

    fn fcntl(&self) -> Lift<Effect> {
        let fd = self.fd(0)?;
        let value = self.low(2);
        let change = match self.low(1) as i32 {
            libc::F_SETFD => {
                self.gives_zero()?;
                if value & !(libc::FD_CLOEXEC as u32) != 0 {
                    return Err(format!("F_SETFD {value:#x}"));
                }
                return Ok(Effect::Fd(FdEffect::SetCloexec { fd, cloexec: value != 0 }));
            }
            dup @ (libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) => {
                let cloexec = dup == libc::F_DUPFD_CLOEXEC;
                return Ok(Effect::Fd(FdEffect::DupLowest {
                    from: fd,
                    least: self.fd(2)?,
                    to: self.number()?,
                    cloexec,
                }));
            }
            libc::F_GETFD => {
                let cloexec = self.record.expect == libc::FD_CLOEXEC as u64;
                self.gives_exactly(u64::from(cloexec))?;
                return Ok(Effect::Fd(FdEffect::Probe { fd, cloexec }));
            }
            libc::F_SETPIPE_SZ => {
                self.gives_exactly(u64::from(value))?;
                return self.object(Change::SetPipeSize { bytes: value });
            }
            libc::F_SETFL => Change::SetStatus { flags: value },
            libc::F_SETOWN => match value as i32 {
                group @ ..0 => Change::SetOwner { pid_type: 2, pid: group.unsigned_abs() },
                pid => Change::SetOwner { pid_type: 1, pid: pid as u32 },
            },
            // libc does not name it: F_SETOWN_EX (asm-generic/fcntl.h).
            15 => {
                let owner = self.lifter.u32s(self.arg(2), 2)?;
                Change::SetOwner { pid_type: owner[0], pid: owner[1] }
            }
            libc::F_SETLEASE if matches!(value, 0 | 1) => Change::Lock,
            libc::F_SETLK | libc::F_OFD_SETLK => {
                // l_type, l_whence; l_start; l_len; l_pid.
                let [kind, _, _, pid] = self.lifter.array::<4>(self.arg(2))?;
                if !matches!(kind as u32, 0 | 1) || pid as u32 != 0 {
                    return Err(format!("lock of type {kind:#x} for {pid}"));
                }
                Change::Lock
            }
            // F_ADD_SEALS (uapi/linux/fcntl.h)
            1033 => Change::AddSeals { seals: value },
            // F_SETSIG
            10 => Change::SetSignal { signal: value },
            command => return Err(format!("command {command}")),
        };
        self.gives_zero()?;
        self.object(change)
    }

    /// A change of a file by its absolute path.
    fn file(&self) -> Lift<Effect> {
        self.gives_zero()?;
        let path = self.path_at_cwd()?;
        Ok(Effect::File(match libc::c_long::from(self.record.nr) {
            libc::SYS_fchmodat => FileEffect::Chmod { path, mode: self.low(2) },
            _ => {
                if self.low(4) != 0 {
                    return Err(format!("flags {:#x}", self.low(4)));
                }
                FileEffect::Chown { path, uid: self.low(2), gid: self.low(3) }
            }
        }))
    }
}
