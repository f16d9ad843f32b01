//! Calls on sockets: names, messages, options.

use regrow_graph::verify::{Change, Effect, FdEffect, SocketOption};

use super::{Call, Check, IOV_MAX, Lift};

impl Call<'_, '_> {
    /// Sockets; `None`: the call is none of them.
    pub(super) fn socket(&self) -> Lift<Option<Effect>> {
        let region = self.lifter;
        let effect: Lift<Effect> = match libc::c_long::from(self.record.nr) {
            libc::SYS_bind | libc::SYS_connect => {
                self.gives_zero()?;
                // struct sockaddr_storage.
                if self.arg(2) > 128 {
                    return Err(format!("an address of {} bytes", self.arg(2)));
                }
                let address = region.input(self.arg(1), self.arg(2))?.to_vec();
                if libc::c_long::from(self.record.nr) == libc::SYS_bind {
                    self.object(Change::Bind { address })
                } else {
                    self.object(Change::Connect { address })
                }
            }
            libc::SYS_listen => {
                self.gives_zero()?;
                self.object(Change::Listen { backlog: self.low(1) })
            }
            libc::SYS_sendto => {
                self.gives_exactly(self.arg(2))?;
                self.must_be_zero(&[4, 5])?;
                let never_blocks = self.send_flags(3)?;
                let data = region.input(self.arg(1), self.arg(2))?.to_vec();
                self.object(Change::Send { data, rights: Vec::new(), never_blocks })
            }
            libc::SYS_sendmsg => self.sendmsg(),
            libc::SYS_recvmsg => self.recvmsg(),
            libc::SYS_shutdown => {
                let not_connected = u64::from(libc::ENOTCONN as u32).wrapping_neg();
                let connected = self.check != Check::Equal || self.record.expect != not_connected;
                if connected {
                    self.gives_zero()?;
                }
                let bits = self.low(1).checked_add(1).filter(|bits| (1..=3).contains(bits));
                let bits = bits.ok_or_else(|| format!("how {}", self.low(1)))?;
                self.object(Change::Shutdown { bits, connected })
            }
            libc::SYS_setsockopt => self.setsockopt(),
            _ => return Ok(None),
        };
        effect.map(Some)
    }

    /// Says whether the call fails instead of blocking.
    fn send_flags(&self, index: usize) -> Lift<bool> {
        let flags = self.low(index) as i32;
        if flags & !(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) != 0 {
            return Err(format!("flags {flags:#x}"));
        }
        Ok(flags & libc::MSG_DONTWAIT != 0)
    }

    fn sendmsg(&self) -> Lift<Effect> {
        let never_blocks = self.send_flags(2)?;
        // struct msghdr: name, namelen, iov, iovlen, control, controllen, flags.
        let [name, name_len, iov, iov_len, control, control_len, _] = self.lifter.array::<7>(self.arg(1))?;
        if name != 0 || name_len as u32 != 0 || iov_len > IOV_MAX {
            return Err("a name, or too many vectors".to_owned());
        }
        let mut data = Vec::new();
        for vector in self.lifter.words(iov, 2 * iov_len)?.chunks_exact(2) {
            data.extend_from_slice(self.lifter.input(vector[0], vector[1])?);
        }
        self.gives_exactly(data.len() as u64)?;
        let mut rights = Vec::new();
        if control_len != 0 {
            // One struct cmsghdr: len, level, type, then the numbers.
            let bytes = self.lifter.input(control, control_len)?;
            let [len, kind] = self.lifter.array::<2>(control)?;
            let wanted = u64::from(libc::SOL_SOCKET as u32) | u64::from(libc::SCM_RIGHTS as u32) << 32;
            let is_one = len >= 16 && len <= control_len && control_len - len < 8 && len % 4 == 0;
            if kind != wanted || !is_one {
                return Err("control messages other than one of SCM_RIGHTS".to_owned());
            }
            let numbers = bytes.get(16..len as usize).unwrap_or_default();
            rights = numbers
                .chunks_exact(4)
                .map(|word| u32::from_ne_bytes(std::array::from_fn(|i| word[i])))
                .collect();
        }
        self.object(Change::Send { data, rights, never_blocks })
    }

    /// One message, whose bytes and control message nobody reads. The header is the call's own, because the
    /// kernel writes into it how much it has given (recvmsg(2)).
    fn recvmsg(&self) -> Lift<Effect> {
        let region = self.lifter;
        let flags = self.low(2) as i32;
        if flags & !(libc::MSG_DONTWAIT | libc::MSG_PEEK | libc::MSG_CMSG_CLOEXEC) != 0 {
            return Err(format!("flags {flags:#x}"));
        }
        let [name, name_len, iov, iov_len, control, control_len, out_flags] =
            region.own_words::<7>(self.arg(1))?;
        if name != 0 || name_len != 0 || iov_len != 1 || out_flags != 0 {
            return Err("a name, flags, or not one vector".to_owned());
        }
        let [buffer, bytes] = region.array::<2>(iov)?;
        if bytes == 0 {
            return Err("no byte, so its result would say nothing".to_owned());
        }
        region.output(buffer, bytes)?;
        self.gives_exactly(bytes)?;
        // struct cmsghdr, then the numbers.
        let rights = control_len.checked_sub(16).filter(|len| len % 4 == 0).map(|len| len / 4);
        let rights = rights.and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0);
        let rights = rights.ok_or_else(|| format!("a control buffer of {control_len} bytes"))?;
        region.output(control, control_len)?;
        Ok(Effect::Fd(FdEffect::Receive {
            socket: self.fd(0)?,
            bytes,
            rights,
            cloexec: flags & libc::MSG_CMSG_CLOEXEC != 0,
            stays: flags & libc::MSG_PEEK != 0,
            never_blocks: flags & libc::MSG_DONTWAIT != 0,
        }))
    }

    fn setsockopt(&self) -> Lift<Effect> {
        self.gives_zero()?;
        let (level, name, len) = (self.low(1) as i32, self.low(2) as i32, self.arg(4));
        let number = || {
            if len != 4 {
                return Err(format!("a value of {len} bytes"));
            }
            Ok(u64::from(self.lifter.u32s(self.arg(3), 1)?[0]))
        };
        let microseconds = || {
            let [seconds, micros] = self.lifter.array::<2>(self.arg(3))?;
            let total = seconds.checked_mul(1_000_000).and_then(|sum| sum.checked_add(micros));
            total.filter(|_| len == 16).ok_or_else(|| "not a time".to_owned())
        };
        if level != libc::SOL_SOCKET {
            let option =
                protocol_option(level, name).ok_or_else(|| format!("level {level}, option {name}"))?;
            if option == SocketOption::IcmpFilter {
                if len > 32 {
                    return Err(format!("a value of {len} bytes"));
                }
                let bytes = self.lifter.input(self.arg(3), len)?.to_vec();
                return self.object(Change::SetBytes { option, bytes });
            }
            return self.object(Change::SetOption { option, value: number()?, force: false });
        }
        if name == libc::SO_BINDTODEVICE {
            if len > 16 {
                return Err(format!("a device's name of {len} bytes"));
            }
            let bytes = self.lifter.input(self.arg(3), len)?.to_vec();
            return self.object(Change::SetBytes { option: SocketOption::BoundDevice, bytes });
        }
        if name == libc::SO_ATTACH_FILTER {
            // struct sock_fprog: length and, behind padding, the address.
            let [count, filter] = self.lifter.array::<2>(self.arg(3))?;
            if len != 16 || count > 4096 {
                return Err("not a filter".to_owned());
            }
            let bytes = self.lifter.input(filter, count * 8)?.to_vec();
            return self.object(Change::SetBytes { option: SocketOption::Filter, bytes });
        }
        let (option, value, force) = match name {
            libc::SO_SNDBUF => (SocketOption::SendBuffer, number()?, false),
            libc::SO_SNDBUFFORCE => (SocketOption::SendBuffer, number()?, true),
            libc::SO_RCVBUF => (SocketOption::ReceiveBuffer, number()?, false),
            libc::SO_RCVBUFFORCE => (SocketOption::ReceiveBuffer, number()?, true),
            libc::SO_SNDTIMEO => (SocketOption::SendTimeout, microseconds()?, false),
            libc::SO_RCVTIMEO => (SocketOption::ReceiveTimeout, microseconds()?, false),
            libc::SO_REUSEADDR => (SocketOption::ReuseAddr, number()?, false),
            libc::SO_REUSEPORT => (SocketOption::ReusePort, number()?, false),
            libc::SO_PRIORITY => (SocketOption::Priority, number()?, false),
            libc::SO_RCVLOWAT => (SocketOption::ReceiveLowat, number()?, false),
            libc::SO_MARK => (SocketOption::Mark, number()?, false),
            libc::SO_PASSCRED => (SocketOption::PassCred, number()?, false),
            libc::SO_PASSSEC => (SocketOption::PassSec, number()?, false),
            libc::SO_DONTROUTE => (SocketOption::DontRoute, number()?, false),
            libc::SO_NO_CHECK => (SocketOption::NoCheck, number()?, false),
            libc::SO_BROADCAST => (SocketOption::Broadcast, number()?, false),
            libc::SO_KEEPALIVE => (SocketOption::KeepAlive, number()?, false),
            libc::SO_OOBINLINE => (SocketOption::OobInline, number()?, false),
            libc::SO_LINGER if len == 8 => {
                let linger = self.lifter.u32s(self.arg(3), 2)?;
                (SocketOption::Linger, if linger[0] == 0 { 0 } else { u64::from(linger[1]) + 1 }, false)
            }
            libc::SO_BUF_LOCK => (SocketOption::BufferLock, number()?, false),
            name => return Err(format!("option {name}")),
        };
        self.object(Change::SetOption { option, value, force })
    }
}

/// An option of another level than SOL_SOCKET.
///
/// # Sources
/// uapi/linux/in.h, in6.h, tcp.h, icmp.h, icmpv6.h.
fn protocol_option(level: i32, name: i32) -> Option<SocketOption> {
    const ICMP_FILTER: i32 = 1;
    const ICMPV6_FILTER: i32 = 1;
    const IP_NODEFRAG: i32 = 22;
    const IPV6_HDRINCL: i32 = 36;
    const IPV6_FREEBIND: i32 = 78;
    Some(match (level, name) {
        (libc::IPPROTO_IP, libc::IP_FREEBIND) | (libc::IPPROTO_IPV6, IPV6_FREEBIND) => SocketOption::FreeBind,
        (libc::IPPROTO_IP, libc::IP_PKTINFO) | (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) => {
            SocketOption::PacketInfo
        }
        (libc::IPPROTO_IP, libc::IP_TOS) => SocketOption::TypeOfService,
        (libc::IPPROTO_IP, libc::IP_TTL) => SocketOption::TimeToLive,
        (libc::IPPROTO_IP, IP_NODEFRAG) => SocketOption::NoDefrag,
        (libc::IPPROTO_IP, libc::IP_HDRINCL) | (libc::IPPROTO_IPV6, IPV6_HDRINCL) => {
            SocketOption::HeaderIncluded
        }
        (libc::IPPROTO_RAW, ICMP_FILTER) | (libc::IPPROTO_ICMPV6, ICMPV6_FILTER) => SocketOption::IcmpFilter,
        (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) => SocketOption::V6Only,
        (libc::IPPROTO_TCP, libc::TCP_NODELAY) => SocketOption::NoDelay,
        (libc::IPPROTO_TCP, libc::TCP_CORK) => SocketOption::Cork,
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT) => SocketOption::KeepCount,
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) => SocketOption::KeepIdle,
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL) => SocketOption::KeepInterval,
        _ => return None,
    })
}
