//! What can be wrong with messages that carry descriptors.
//!
//! Here no mutation says of itself that it changes something: two messages may carry the same. Of a mutant that
//! has a certificate still, [`Plan::is_equivalent`] says whether everybody ends with what they would have had,
//! whoever comes last.
//!
//! # Sources
//! `unix(7)`, `cmsg(3)`, `recvmsg(2)`.

use regrow::tape::Tapes;
use regrow::tape::abi::{Record, Verb};

use super::{At, Mutant, Plan, is_call};
use crate::tables::{ends_by, rights_of};

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageKind {
    /// A message is not sent.
    DropMessage,
    /// Two messages of one task are sent in the other order.
    SwapMessages,
    /// A message goes through another channel, or the wrong way.
    OtherLane,
    /// A message has one descriptor fewer.
    FewerRights,
    /// A message has another descriptor.
    OtherRights,
    /// A message is sent behind what closes a descriptor that it needs.
    CloseBeforeSend,
    /// The event is posted before the message has been sent.
    PostBeforeSend,
    /// A message is received before the event that says that it has been sent.
    ReceiveEarly,
    /// A task receives twice from the channel that it received from before, and not from the next.
    ReceiveTwice,
    /// Two messages are received in the other order.
    SwapReceives,
    /// A message that others look for, too, is taken; or what is to be taken stays.
    OtherLook,
    /// There is room for one descriptor fewer.
    LessRoom,
    /// What is received is closed on exec, or is not.
    OtherMark,
    /// A message is not received.
    DropReceive,
    /// Nobody looks whether all descriptors have come.
    DropProbe,
}

impl MessageKind {
    /// All of them.
    pub const ALL: [MessageKind; 15] = [
        MessageKind::DropMessage,
        MessageKind::SwapMessages,
        MessageKind::OtherLane,
        MessageKind::FewerRights,
        MessageKind::OtherRights,
        MessageKind::CloseBeforeSend,
        MessageKind::PostBeforeSend,
        MessageKind::ReceiveEarly,
        MessageKind::ReceiveTwice,
        MessageKind::SwapReceives,
        MessageKind::OtherLook,
        MessageKind::LessRoom,
        MessageKind::OtherMark,
        MessageKind::DropReceive,
        MessageKind::DropProbe,
    ];
}

impl Plan<'_> {
    /// One mutant of this kind, chosen by `seed`; `None`: the plan has nothing to be spoiled so.
    pub fn message_mutant(&self, kind: MessageKind, seed: u64) -> Option<Mutant> {
        let places: Vec<At> = (0..self.records.len())
            .flat_map(|task| (0..self.records[task].len()).map(move |index| (task, index)))
            .filter(|at| self.is_message_place(kind, *at))
            .collect();
        let tries = places.len().min(12);
        (0..tries).find_map(|step| {
            let at = places[((seed >> 8) as usize).wrapping_add(step * 31) % places.len()];
            let tapes = self.spoil_message(kind, at, seed)?;
            let record = self.record(at);
            let line = regrow::tape::disasm::line(self.tapes, record);
            let what = format!("{kind:?}: task {}, record {}: {line}", self.tape(at).pid, at.1);
            Some(Mutant { tapes, what })
        })
    }

    /// Whether the plan sends anything that somebody receives.
    pub fn has_messages(&self) -> bool {
        self.records.iter().flatten().any(|record| is_call(record, libc::SYS_recvmsg))
    }

    /// Whether everybody ends with exactly the table that the plan gives, whoever comes last.
    ///
    /// # Errors
    /// Who comes last where it does not, and what happens then.
    pub fn is_equivalent(&self, tapes: &Tapes) -> Result<(), String> {
        let all = self.tapes.tasks.iter().map(|task| Some(task.pid));
        for last in std::iter::once(None).chain(all) {
            let ends = ends_by(tapes, last).map_err(|why| format!("{last:?} is the last: {why}"))?;
            if ends != self.ends {
                return Err(format!("{last:?} is the last: other tables"));
            }
        }
        Ok(())
    }

    /// A sending to somebody who receives it, not what is to wait in a socket for ever.
    fn is_sending(&self, record: &Record) -> bool {
        is_call(record, libc::SYS_sendmsg)
            && rights_of(self.tapes, record).is_some_and(|(all, _)| !all.is_empty())
    }

    fn is_message_place(&self, kind: MessageKind, (task, index): At) -> bool {
        let records = &self.records[task];
        let record = &records[index];
        let receives = |record: &Record| is_call(record, libc::SYS_recvmsg);
        match kind {
            MessageKind::DropMessage
            | MessageKind::SwapMessages
            | MessageKind::OtherLane
            | MessageKind::FewerRights
            | MessageKind::OtherRights
            | MessageKind::CloseBeforeSend
            | MessageKind::PostBeforeSend => self.is_sending(record),
            MessageKind::ReceiveEarly => {
                // All that is waited for before the next message.
                let next = records[index..].iter().find(|it| it.verb() != Some(Verb::Wait));
                record.verb() == Some(Verb::Wait) && next.is_some_and(receives)
            }
            MessageKind::ReceiveTwice
            | MessageKind::SwapReceives
            | MessageKind::OtherLook
            | MessageKind::LessRoom
            | MessageKind::OtherMark
            | MessageKind::DropReceive => receives(record),
            MessageKind::DropProbe => {
                is_call(record, libc::SYS_fcntl)
                    && record.args[1] as i32 == libc::F_GETFD
                    && index > 0
                    && receives(&records[index - 1])
            }
        }
    }

    fn spoil_message(&self, kind: MessageKind, at: At, seed: u64) -> Option<Tapes> {
        let (task, index) = at;
        let records = &self.records[task];
        let record = records[index];
        let changed = |records: Vec<Record>| Some(self.with(&[(task, records)]));
        let dropped = || {
            let mut records = records.clone();
            records.remove(index);
            changed(records)
        };
        let replaced = |record: Record| {
            let mut records = records.clone();
            records[index] = record;
            changed(records)
        };
        let next = |is: &dyn Fn(&Record) -> bool| (index + 1..records.len()).find(|at| is(&records[*at]));
        // Behind that one.
        let moved = |behind: usize| {
            let mut records = records.clone();
            records[index..=behind].rotate_left(1);
            changed(records)
        };
        let other_through = || {
            let ends = |it: &&Record| is_call(it, libc::SYS_sendmsg) || is_call(it, libc::SYS_recvmsg);
            let others = records.iter().filter(ends).map(|it| it.args[0]);
            let others: Vec<u64> = others.filter(|fd| *fd != record.args[0]).collect();
            let mut other = record;
            other.args[0] = *others.get(seed as usize % others.len().max(1))?;
            Some(other)
        };
        let flagged = |flag: i32| {
            let mut other = record;
            other.args[2] ^= flag as u64;
            replaced(other)
        };
        match kind {
            MessageKind::DropMessage | MessageKind::ReceiveEarly | MessageKind::DropProbe => dropped(),
            MessageKind::DropReceive => dropped(),
            MessageKind::SwapMessages => {
                let with = next(&|it| self.is_sending(it))?;
                let mut records = records.clone();
                records.swap(index, with);
                changed(records)
            }
            MessageKind::OtherLane => replaced(other_through()?),
            MessageKind::FewerRights => {
                let control = self.word(record.args[1] + 32)?;
                let (room, len) = (self.word(record.args[1] + 40)?, self.word(control)?);
                let tapes = self.with_words(self.tapes.clone(), control, len.checked_sub(4)?)?;
                let room = if room == len { room - 4 } else { room };
                (len > 16).then(|| self.with_words(tapes, record.args[1] + 40, room))?
            }
            MessageKind::OtherRights => {
                let (numbers, _) = rights_of(self.tapes, &record)?;
                let control = self.word(record.args[1] + 32)?;
                let nth = seed as usize % numbers.len();
                let other = if seed & 4096 == 0 { numbers[nth] + 1 } else { numbers[nth].checked_sub(1)? };
                let mut tapes = self.tapes.clone();
                let at =
                    usize::try_from((control + 16 + 4 * nth as u64).checked_sub(tapes.ro_base())?).ok()?;
                tapes.ro.get_mut(at..at + 4)?.copy_from_slice(&(other as u32).to_ne_bytes());
                Some(tapes)
            }
            MessageKind::CloseBeforeSend => {
                let (mut needed, _) = rights_of(self.tapes, &record)?;
                needed.push(record.args[0]);
                let closes = |it: &Record| {
                    needed.iter().any(|fd| {
                        is_call(it, libc::SYS_close) && it.args[0] == *fd
                            || is_call(it, libc::SYS_close_range)
                                && (it.args[0]..=it.args[1]).contains(fd)
                                && it.args[2] as u32 & libc::CLOSE_RANGE_CLOEXEC == 0
                    })
                };
                moved(next(&closes)?)
            }
            MessageKind::PostBeforeSend => moved(next(&|it| it.verb() == Some(Verb::Post))?),
            MessageKind::ReceiveTwice => {
                let before = records[..index].iter().rev().find(|it| is_call(it, libc::SYS_recvmsg))?;
                let mut other = record;
                other.args[0] = before.args[0];
                replaced(other).filter(|_| other.args[0] != record.args[0])
            }
            MessageKind::SwapReceives => {
                let with = next(&|it| is_call(it, libc::SYS_recvmsg))?;
                let mut records = records.clone();
                records.swap(index, with);
                changed(records)
            }
            MessageKind::OtherLook => flagged(libc::MSG_PEEK),
            MessageKind::OtherMark => flagged(libc::MSG_CMSG_CLOEXEC),
            MessageKind::LessRoom => {
                let address = record.args[1] + 40;
                let room = u64::from_ne_bytes(self.tapes.bytes(address, 8)?.try_into().ok()?);
                let mut tapes = self.tapes.clone();
                let at = usize::try_from(address - tapes.base).ok()?;
                tapes.rw.get_mut(at..at + 8)?.copy_from_slice(&(room - 4).to_ne_bytes());
                Some(tapes)
            }
        }
    }

    /// The same tapes with another word of the read-only part.
    fn with_words(&self, mut tapes: Tapes, address: u64, word: u64) -> Option<Tapes> {
        let at = usize::try_from(address.checked_sub(tapes.ro_base())?).ok()?;
        tapes.ro.get_mut(at..at + 8)?.copy_from_slice(&word.to_ne_bytes());
        Some(tapes)
    }
}
