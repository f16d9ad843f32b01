//! Holds what regrow does not restore: `beyond DIR KIND...`, of the kinds `tcp` (a listening socket) and
//! `packet` (a packet socket). For tests of refusals: it is dumped and not restored.

use std::net::TcpListener;
use std::os::fd::OwnedFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use regrow_test_programs::Task;

fn main() {
    let mut task = Task::root();
    let held: Vec<OwnedFd> = std::env::args()
        .skip(2)
        .map(|kind| match kind.as_str() {
            "tcp" => TcpListener::bind("127.0.0.1:0").expect("bind").into(),
            "packet" => {
                socket(AddressFamily::Packet, SockType::Datagram, SockFlag::empty(), None).expect("socket")
            }
            other => panic!("{other}: it is `tcp` or `packet`"),
        })
        .collect();
    task.park();
    drop(held);
    task.finish();
}
