//! `files.img`, and what waits in pipes, FIFOs and sockets.
//!
//! The inverse of [`super::super::files`].

use super::super::files;
use super::super::magic;
use super::super::magic::Kind;
use super::super::model::{
    Fown, Image, InetSocket, Interest, Model, Ofd, OfdKind, PipeData, RegFile, SocketOptions, Timerfd,
    UnixSocket,
};
use super::super::proto::{
    EventfdFileEntry, EventpollFileEntry, EventpollTfdEntry, FifoEntry, FileEntry, FilePermsEntry, FownEntry,
    InetSkEntry, IpOptsEntry, IpOptsRawEntry, MemfdFileEntry, PipeDataEntry, PipeEntry, RegFileEntry,
    SCM_RIGHTS, ScmEntry, SignalfdEntry, SkOptsEntry, SkPacketEntry, TcpOptsEntry, TimerfdEntry, UnixSkEntry,
};
use super::{Contents, Entries, Out, WriteError, by_entry};

/// The number of a description's kind (`fd_types` of fdinfo.proto).
pub(super) fn fd_type(ofd: &Ofd) -> Result<u32, WriteError> {
    Ok(match &ofd.kind {
        OfdKind::Reg(_) => files::REG,
        OfdKind::Pipe(_) => files::PIPE,
        OfdKind::Eventfd(_) => files::EVENTFD,
        OfdKind::Epoll(_) => files::EVENTPOLL,
        OfdKind::Timerfd(_) => files::TIMERFD,
        OfdKind::Signalfd(_) => files::SIGNALFD,
        OfdKind::Fifo(_) => files::FIFO,
        OfdKind::Unix(_) => files::UNIXSK,
        OfdKind::Inet(_) => files::INETSK,
        OfdKind::Memfd(_) => files::MEMFD,
        OfdKind::Other(name) => {
            return Err(WriteError::unsupported(Image::Files, format!("an open file of the kind {name}")));
        }
    })
}

/// Every open file description, in the order of the image that they came from.
pub(super) fn write_ofds<C: Contents + ?Sized>(out: &Out<'_, C>, model: &Model) -> Result<(), WriteError> {
    let mut entries = Entries::new(&magic::FILES);
    for ofd in by_entry(&model.ofds, |ofd| ofd.origin) {
        entries.push(&file_entry(ofd)?);
    }
    out.write(Image::Files, &entries)
}

fn file_entry(ofd: &Ofd) -> Result<FileEntry, WriteError> {
    let id = ofd.id;
    let mut e = FileEntry { r#type: fd_type(ofd)?, id, ..FileEntry::default() };
    match &ofd.kind {
        OfdKind::Reg(file) => e.reg = Some(reg(id, file)),
        OfdKind::Pipe(pipe) => {
            let (pipe_id, flags, fown) = (pipe.pipe_id, pipe.flags, fown(&pipe.fown));
            e.pipe = Some(PipeEntry { id, pipe_id, flags, fown });
        }
        OfdKind::Eventfd(file) => {
            let (flags, fown, counter) = (file.flags, fown(&file.fown), file.counter);
            e.efd = Some(EventfdFileEntry { id, flags, fown, counter });
        }
        OfdKind::Epoll(file) => {
            let tfd = file.interests.iter().map(target).collect();
            e.epfd = Some(EventpollFileEntry { id, flags: file.flags, fown: fown(&file.fown), tfd });
        }
        OfdKind::Timerfd(file) => e.tfd = Some(timerfd(id, file)),
        OfdKind::Signalfd(file) => {
            let (flags, fown, sigmask) = (file.flags, fown(&file.fown), file.mask);
            e.sgfd = Some(SignalfdEntry { id, flags, fown, sigmask });
        }
        OfdKind::Fifo(file) => {
            e.fifo = Some(FifoEntry { id, pipe_id: file.pipe_id, regf_id: Some(file.reg_id) });
        }
        OfdKind::Unix(socket) => e.usk = Some(unix(id, socket)),
        OfdKind::Inet(socket) => e.isk = Some(inet(id, socket)),
        OfdKind::Memfd(file) => {
            let (flags, pos, fown) = (file.flags, file.position, fown(&file.fown));
            let Ok(inode_id) = u32::try_from(file.inode_id) else {
                return Err(WriteError::unsupported(
                    Image::Files,
                    format!("memfd inode {:#x}", file.inode_id),
                ));
            };
            e.memfd = Some(MemfdFileEntry { id, flags, pos, fown, inode_id });
        }
        // `fd_type` has refused it.
        OfdKind::Other(_) => {}
    }
    Ok(e)
}

fn fown(fown: &Fown) -> FownEntry {
    FownEntry { uid: fown.uid, euid: fown.euid, signum: fown.signum, pid_type: fown.pid_type, pid: fown.pid }
}

fn reg(id: u32, file: &RegFile) -> RegFileEntry {
    RegFileEntry {
        id,
        flags: file.flags,
        pos: file.position,
        fown: fown(&file.fown),
        name: file.path.clone().into_bytes(),
        mnt_id: file.mount_id,
        size: file.size_bytes,
        ext: file.is_external.then_some(true),
        mode: file.mode,
        build_id: file.build_id.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect(),
        checksum: file.checksum.map(|(sum, _, _)| sum),
        checksum_config: file.checksum.map(|(_, config, _)| config),
        checksum_parameter: file.checksum.map(|(_, _, parameter)| parameter),
    }
}

/// CRIU leaves the id in a target at 0: it is inside of the epoll file that it belongs to.
fn target(interest: &Interest) -> EventpollTfdEntry {
    EventpollTfdEntry {
        id: 0,
        tfd: interest.fd,
        events: interest.events,
        data: interest.data,
        dev: None,
        inode: interest.inode,
        pos: None,
    }
}

fn timerfd(id: u32, file: &Timerfd) -> TimerfdEntry {
    const UNIT: u64 = 1_000_000_000;
    TimerfdEntry {
        id,
        flags: file.flags,
        fown: fown(&file.fown),
        clockid: file.clock_id,
        ticks: file.ticks,
        settime_flags: file.settime_flags,
        vsec: file.value_ns / UNIT,
        vnsec: file.value_ns % UNIT,
        isec: file.interval_ns / UNIT,
        insec: file.interval_ns % UNIT,
    }
}

fn unix(id: u32, socket: &UnixSocket) -> UnixSkEntry {
    UnixSkEntry {
        id,
        ino: socket.inode,
        r#type: socket.sock_type,
        state: socket.state,
        flags: socket.flags,
        uflags: socket.uflags,
        backlog: socket.backlog,
        peer: socket.peer,
        fown: fown(&socket.fown),
        opts: socket_options(&socket.options),
        name: socket.name.clone(),
        shutdown: (socket.shutdown != 0).then_some(socket.shutdown),
        file_perms: socket.file_perms.map(|(mode, uid, gid)| FilePermsEntry { mode, uid, gid }),
        name_dir: socket.name_dir.clone().map(String::into_bytes),
        deleted: socket.deleted.then_some(true),
        ns_id: socket.ns_id,
        mnt_id: socket.mount_id,
    }
}

fn socket_options(options: &SocketOptions) -> SkOptsEntry {
    const UNIT: u64 = 1_000_000;
    SkOptsEntry {
        so_sndbuf: options.sndbuf_bytes,
        so_rcvbuf: options.rcvbuf_bytes,
        so_snd_tmo_sec: options.snd_timeout_us / UNIT,
        so_snd_tmo_usec: options.snd_timeout_us % UNIT,
        so_rcv_tmo_sec: options.rcv_timeout_us / UNIT,
        so_rcv_tmo_usec: options.rcv_timeout_us % UNIT,
        // CRIU asks for these of every socket, and says what it was told.
        reuseaddr: Some(options.reuseaddr),
        so_priority: options.priority,
        so_rcvlowat: options.rcvlowat,
        so_mark: options.mark,
        so_passcred: Some(options.passcred),
        so_passsec: Some(options.passsec),
        so_dontroute: Some(options.dontroute),
        so_no_check: Some(options.no_check),
        so_bound_dev: options.bound_dev.clone().map(String::into_bytes),
        so_filter: options.filter.clone(),
        so_reuseport: Some(options.reuseport),
        so_broadcast: Some(options.broadcast),
        so_keepalive: Some(options.keepalive),
        tcp_keepcnt: options.keep[0],
        tcp_keepidle: options.keep[1],
        tcp_keepintvl: options.keep[2],
        so_oobinline: Some(u32::from(options.oobinline)),
        so_linger: options.linger_s,
        so_buf_lock: options.buf_lock,
    }
}

fn inet(id: u32, socket: &InetSocket) -> InetSkEntry {
    let words =
        |address: &[u8]| address.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word)).collect();
    let is = |option: bool| option.then_some(true);
    // What the options of old versions have as well is told there.
    let keep = |which: usize| socket.keep[which].filter(|_| socket.options.keep[which].is_none());
    let raw = IpOptsRawEntry {
        hdrincl: socket.hdrincl,
        nodefrag: socket.nodefrag,
        checksum: socket.checksum,
        icmpv_filter: socket.icmp_filter.clone(),
    };
    let ip = IpOptsEntry {
        freebind: is(socket.freebind),
        raw: (raw != IpOptsRawEntry::default()).then_some(raw),
        pktinfo: is(socket.pktinfo),
        tos: socket.tos,
        ttl: socket.ttl,
    };
    let tcp = TcpOptsEntry {
        cork: is(socket.cork),
        nodelay: is(socket.nodelay),
        keepcnt: keep(0),
        keepidle: keep(1),
        keepintvl: keep(2),
    };
    InetSkEntry {
        id,
        ino: socket.inode,
        family: socket.family,
        r#type: socket.sock_type,
        proto: socket.protocol,
        state: socket.state,
        src_port: u32::from(socket.src.1),
        dst_port: u32::from(socket.dst.1),
        flags: socket.flags,
        backlog: socket.backlog,
        src_addr: words(&socket.src.0),
        dst_addr: words(&socket.dst.0),
        fown: fown(&socket.fown),
        opts: socket_options(&socket.options),
        v6only: socket.v6only,
        ip_opts: Some(ip),
        ifname: socket.device.clone().map(String::into_bytes),
        ns_id: socket.ns_id,
        shutdown: (socket.shutdown != 0).then_some(socket.shutdown),
        tcp_opts: (tcp != TcpOptsEntry::default()).then_some(tcp),
    }
}

/// What waits in pipes, FIFOs and sockets: each entry is followed by its bytes.
pub(super) fn write_data<C: Contents + ?Sized>(out: &Out<'_, C>, model: &Model) -> Result<(), WriteError> {
    write_pipes(out, Image::PipesData, &magic::PIPES_DATA, &model.pipe_data)?;
    write_pipes(out, Image::FifoData, &magic::FIFO_DATA, &model.fifo_data)?;
    if model.packets.is_empty() {
        return Ok(());
    }
    let mut entries = Entries::new(&magic::SK_QUEUES);
    for packet in by_entry(&model.packets, |packet| packet.origin) {
        if packet.rights.is_empty() != (packet.control_messages == 0) {
            return Err(WriteError::unsupported(Image::SkQueues, "a control message without descriptors"));
        }
        // Several messages in one packet were one to whoever will receive it, as the kernel joins them.
        if packet.control_messages > 1 {
            return Err(WriteError::unsupported(Image::SkQueues, "a packet with several control messages"));
        }
        let scm = ScmEntry { r#type: SCM_RIGHTS, rights: packet.rights.clone() };
        let data = out.contents.bytes(&packet.data)?;
        entries.push(&SkPacketEntry {
            id_for: packet.id_for,
            length: length(Image::SkQueues, data.len())?,
            scm: if packet.rights.is_empty() { Vec::new() } else { vec![scm] },
        });
        entries.raw(&data);
    }
    out.write(Image::SkQueues, &entries)
}

fn write_pipes<C: Contents + ?Sized>(
    out: &Out<'_, C>,
    image: Image,
    kind: &Kind,
    list: &[PipeData],
) -> Result<(), WriteError> {
    if list.is_empty() {
        return Ok(());
    }
    let mut entries = Entries::new(kind);
    for pipe in by_entry(list, |pipe| pipe.origin) {
        let data = out.contents.bytes(&pipe.data)?;
        let bytes = length(image, data.len())?;
        entries.push(&PipeDataEntry { pipe_id: pipe.pipe_id, bytes, size: pipe.capacity_bytes });
        entries.raw(&data);
    }
    out.write(image, &entries)
}

fn length(image: Image, len: usize) -> Result<u32, WriteError> {
    u32::try_from(len).map_err(|_| WriteError::unsupported(image, format!("an entry of {len} bytes")))
}
