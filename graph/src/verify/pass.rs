//! Descriptions that travel in messages of unix sockets (`SCM_RIGHTS`).
//!
//! A receiving call waits for nobody: what it receives has certainly been sent before, so it is the
//! same in every run. For that the sendings into one socket come in one order (as everything that changes
//! it), and the receivings from it, too. A message that is only looked at stays; a socket from which
//! somebody looks at a message is one from which nobody takes any, so all see the same.
//!
//! A message cannot be lost on its way: who receives it has the receiving end by descent from who made it, so
//! somebody had it open all the time. What nobody has received may be left only where the images have it.
//!
//! # Sources
//! `unix(7)`, `recvmsg(2)`; net/unix/af_unix.c (`unix_dgram_recvmsg`, `unix_peek_fds`, `unix_release_sock`),
//! net/core/scm.c (`scm_detach_fds`), include/net/scm.h (`SCM_MAX_FD`).

use super::before::At;
use super::object::{ObjectKind, SOCK_SEQPACKET};
use super::outcome::{Counterexample, Wrong};
use super::run::Run;
use crate::ids::Fd;

/// SCM_MAX_FD.
pub(super) const MOST_RIGHTS: usize = 253;

/// A call that receives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Receiving {
    pub(super) socket: Fd,
    pub(super) bytes: u64,
    pub(super) rights: u32,
    pub(super) cloexec: bool,
    pub(super) stays: bool,
}

impl Run<'_> {
    /// Receives one message; its descriptions get the lowest free numbers. Gives the last of them.
    pub(super) fn receive(
        &mut self,
        at: At,
        call: &'static str,
        wanted: Receiving,
    ) -> Result<Option<Fd>, Wrong> {
        let desc = self.descriptor(at, call, wanted.socket)?;
        let object = self.objects.description(desc).object;
        let what = self.describe(desc);
        let refused = |why: &str| Wrong::Refused { call, what: format!("{what}: {why}") };
        let ObjectKind::Socket(socket) = &self.objects.objects[object].kind else {
            return Err(refused("not a socket"));
        };
        if socket.sock_type != SOCK_SEQPACKET {
            return Err(Wrong::NotModelled { call, what: format!("receiving from {what}") });
        }
        let taken = socket.traffic.taken;
        if taken.is_some_and(|(_, stays)| stays != wanted.stays) {
            return Err(refused("some take its messages and others only look at them"));
        }
        let Some(packet) = socket.queue.first() else { return Err(Wrong::NothingToReceive { what }) };
        let (data, sent, rights) = (packet.data.len() as u64, packet.sent, packet.rights.clone());
        if data != wanted.bytes || rights.len() != wanted.rights as usize {
            let is = format!("{data} bytes and {} descriptors", rights.len());
            let wanted = format!("{} and {}", wanted.bytes, wanted.rights);
            return Err(Wrong::OtherMessage { what, is, wanted });
        }
        if let Some(sent) = sent {
            self.order(sent, at, call, || format!("{what}, into which it is sent,"))?;
        }
        if let Some((last, false)) = taken {
            self.order(last, at, call, || format!("{what}, from which it is taken,"))?;
        }
        let ObjectKind::Socket(socket) = &mut self.objects.objects[object].kind else {
            return Err(refused("not a socket"));
        };
        socket.traffic.taken = Some((at, wanted.stays));
        let charge = if wanted.stays { 0 } else { socket.queue.remove(0).charge };
        let peer = socket.peer;
        self.received.extend(sent);
        if let Some(peer) = peer
            && let ObjectKind::Socket(sender) = &mut self.objects.objects[peer].kind
            && charge > 0
        {
            sender.traffic.released.push((at, charge));
        }
        let mut last = None;
        for right in rights {
            last = Some(self.place_lowest(at, call, 0, right, wanted.cloexec)?);
        }
        self.certificate.messages_received += 1;
        Ok(last)
    }

    /// Gives the sender back what has certainly been received by then.
    pub(super) fn release_room(&mut self, at: At, object: usize) {
        let before = &self.before;
        if let ObjectKind::Socket(socket) = &mut self.objects.objects[object].kind {
            let mut freed = 0;
            socket.traffic.released.retain(|(received, charge)| {
                let is_free = before.holds(*received, at);
                if is_free {
                    freed += charge;
                }
                !is_free
            });
            socket.release(freed);
        }
    }

    /// The first message that nobody has received and nobody can receive any more: of a socket that is not
    /// open (`open` has a word for each object).
    pub(super) fn lost_message(&self, open: &[bool]) -> Option<Counterexample> {
        for (index, object) in self.objects.objects.iter().enumerate() {
            let ObjectKind::Socket(socket) = &object.kind else { continue };
            if open[index] {
                continue;
            }
            let lost = socket.queue.iter().filter_map(|packet| Some((packet.sent?, packet.rights.len())));
            let is_lost = |(sent, rights): &(At, usize)| *rights > 0 && !self.received.contains(sent);
            if let Some((sent, _)) = lost.into_iter().find(is_lost) {
                return Some(Counterexample {
                    task: self.pid(sent.task),
                    record: Some(sent.record),
                    wrong: Wrong::MessageLeft,
                });
            }
        }
        None
    }

    /// A look at a number: nothing but a wrong prediction makes it fail.
    pub(super) fn probe(&mut self, at: At, call: &'static str, fd: Fd, cloexec: bool) -> Result<(), Wrong> {
        let entry = self.use_table(at, call)?.get(fd).ok_or(Wrong::NotOpen { call, fd })?;
        if entry.cloexec == cloexec { Ok(()) } else { Err(Wrong::WrongCloexec { fd, is: entry.cloexec }) }
    }
}

#[cfg(test)]
mod tests;
