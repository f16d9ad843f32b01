//! Holds what regrow does not restore: `beyond DIR KIND...`, of the kinds `netlink` and `packet`
//! (sockets). For tests of refusals: it is dumped and not restored.

use std::os::fd::OwnedFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use regrow_test_programs::Task;

fn main() {
    let mut task = Task::root();
    let held: Vec<OwnedFd> = std::env::args()
        .skip(2)
        .map(|kind| match kind.as_str() {
            "netlink" => {
                socket(AddressFamily::Netlink, SockType::Raw, SockFlag::empty(), None).expect("socket")
            }
            "packet" => {
                socket(AddressFamily::Packet, SockType::Datagram, SockFlag::empty(), None).expect("socket")
            }
            other => panic!("{other}: it is `netlink` or `packet`"),
        })
        .collect();
    task.park();
    drop(held);
    task.finish();
}
