//! Sockets with names: `sockets DIR`. Unix sockets that listen, that were accepted, that are bound to
//! paths and abstract names, with and without peers, and internet sockets of all kinds that need no
//! connection. A child shares a listener with its parent and accepts from it afterwards.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener, UnixStream};

use nix::sys::socket::sockopt::{ReuseAddr, ReusePort};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrIn, bind, getsockopt, listen, setsockopt,
    shutdown, socket,
};
use regrow_test_programs::Task;

fn main() {
    let mut task = Task::root();
    std::fs::create_dir(task.file("run")).expect("mkdir");

    // A listener with a connection accepted from it, and one accepted whose peer is gone.
    let path = task.file("run/listener");
    let listener = UnixListener::bind(&path).expect("bind");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("chmod");
    let mut client = UnixStream::connect(&path).expect("connect");
    let (mut server, _) = listener.accept().expect("accept");
    client.write_all(b"to the server").expect("write");
    server.write_all(b"to the client").expect("write");
    let mut left = UnixStream::connect(&path).expect("connect");
    let (mut orphan, _) = listener.accept().expect("accept");
    left.write_all(b"farewell").expect("write");
    drop(left);

    // The same with an abstract name.
    let name = format!("regrow-test-{}", std::process::id());
    let name = UnixAddr::from_abstract_name(name).expect("name");
    let hidden = UnixListener::bind_addr(&name).expect("bind");
    let hidden_client = UnixStream::connect_addr(&name).expect("connect");
    let (hidden_server, _) = hidden.accept().expect("accept");

    // Datagram sockets: one that others are connected to, with something in its queue; one by itself.
    let mailbox_path = task.file("run/mailbox");
    let mailbox = UnixDatagram::bind(&mailbox_path).expect("bind");
    let sender = UnixDatagram::unbound().expect("socket");
    sender.connect(&mailbox_path).expect("connect");
    sender.send(b"one").expect("send");
    sender.send(b"two").expect("send");
    let lonely = UnixDatagram::unbound().expect("socket");
    let unconnected =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None).expect("socket");

    // Internet sockets.
    let tcp4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let tcp6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).ok();
    let sharing: Vec<_> = (0..2)
        .scan(0, |port, _| {
            let socket =
                socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).expect("socket");
            setsockopt(&socket, ReusePort, &true).expect("setsockopt");
            bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, *port)).expect("bind");
            listen(&socket, Backlog::new(7).expect("backlog")).expect("listen");
            *port = nix::sys::socket::getsockname::<SockaddrIn>(socket.as_raw_fd()).expect("name").port();
            Some(socket)
        })
        .collect();
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let to_udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    to_udp.connect(udp.local_addr().expect("address")).expect("connect");
    let half = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    half.connect(udp.local_addr().expect("address")).expect("connect");
    shutdown(half.as_raw_fd(), Shutdown::Read).expect("shutdown");
    let fresh = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).expect("socket");
    setsockopt(&fresh, ReuseAddr, &true).expect("setsockopt");
    let before = addresses(&[&tcp4], &[&udp, &to_udp, &half]);

    task.spawn("child", |task| {
        task.park();
        let accepted = listener.accept().is_ok();
        task.check("accepts from the inherited listener", accepted);
    });

    task.park();

    let found =
        std::fs::metadata(&path).map(|it| (it.file_type().is_socket(), it.permissions().mode() & 0o7777));
    task.check_eq("the file", found.ok(), Some((true, 0o640)));
    expect(&mut task, "server", &mut server, b"to the server");
    expect(&mut task, "client", &mut client, b"to the client");
    expect(&mut task, "orphan", &mut orphan, b"farewell");
    task.check_eq("end of the orphan", orphan.read(&mut [0; 1]).ok(), Some(0));
    let peer = client.peer_addr().ok().and_then(|address| address.as_pathname().map(ToOwned::to_owned));
    task.check_eq("the peer's name", peer, Some(path.clone()));
    let again = UnixStream::connect(&path);
    task.check("connects again", again.is_ok());
    let peer =
        hidden_client.peer_addr().ok().and_then(|address| address.as_abstract_name().map(ToOwned::to_owned));
    task.check_eq("the abstract name", peer.as_deref(), name.as_abstract_name());
    task.check("connects to the abstract name", UnixStream::connect_addr(&name).is_ok());
    drop(hidden_server);

    let mut bytes = [0; 16];
    for wanted in [&b"one"[..], b"two"] {
        let count = mailbox.recv(&mut bytes).unwrap_or(0);
        task.check_eq("mail", &bytes[..count], wanted);
    }
    task.check("sends again", sender.send(b"three").is_ok());
    task.check_eq("three", mailbox.recv(&mut bytes).ok(), Some(5));
    task.check("sends by name", lonely.send_to(b"four", &mailbox_path).is_ok());
    task.check_eq("four", mailbox.recv(&mut bytes).ok(), Some(4));
    task.check(
        "still no peer",
        nix::sys::socket::getpeername::<SockaddrIn>(unconnected.as_raw_fd()).is_err(),
    );

    task.check_eq("addresses", addresses(&[&tcp4], &[&udp, &to_udp, &half]), before);
    for listener in [Some(&tcp4), tcp6.as_ref()].into_iter().flatten() {
        let address = listener.local_addr().expect("address");
        task.check(
            "connects over a network",
            TcpStream::connect(address).is_ok() && listener.accept().is_ok(),
        );
    }
    for socket in &sharing {
        task.check_eq("SO_REUSEPORT", getsockopt(socket, ReusePort), Ok(true));
    }
    task.check("sends a datagram", to_udp.send(b"hello").is_ok());
    task.check_eq("receives a datagram", udp.recv(&mut bytes).ok(), Some(5));
    task.check_eq("a connection shut down for reading", half.recv(&mut bytes).ok(), Some(0));
    task.check_eq("SO_REUSEADDR", getsockopt(&fresh, ReuseAddr), Ok(true));
    task.finish();
}

fn addresses(listeners: &[&TcpListener], sockets: &[&UdpSocket]) -> Vec<Option<SocketAddr>> {
    let listeners = listeners.iter().map(|listener| listener.local_addr().ok());
    let sockets = sockets.iter().flat_map(|socket| [socket.local_addr().ok(), socket.peer_addr().ok()]);
    listeners.chain(sockets).collect()
}

/// Reads exactly as many bytes as wanted and compares them.
fn expect(task: &mut Task, what: &str, stream: &mut UnixStream, wanted: &[u8]) {
    let mut found = vec![0; wanted.len()];
    task.check_ok(what, stream.read_exact(&mut found));
    task.check(what, found == wanted);
}
