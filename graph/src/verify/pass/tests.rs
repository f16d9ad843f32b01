//! A small tree whose tasks send each other descriptors, and what loses its certificate.
//!
//! Task 10 makes two channels, at 0 and 1 and at 2 and 3. Task 11 opens a file and puts it on the first, at which
//! 12 and 13 look; 13 opens another, and sends it, and the first, to 10 through the second.

use std::collections::BTreeMap;

use super::super::*;
use crate::ids::{Fd, OfdId};

type Tapes = BTreeMap<u32, Vec<Effect>>;

const SEQPACKET: u32 = 5;
const DGRAM: u32 = 2;

fn close(first: Fd, last: Fd) -> Effect {
    Effect::Fd(FdEffect::CloseRange { first, last, only_mark: false, unshare: false })
}

fn open(path: &str, fd: Fd) -> Effect {
    Effect::Fd(FdEffect::Open { path: path.into(), flags: 0, fd })
}

fn dup(from: Fd, to: Fd) -> Effect {
    Effect::Fd(FdEffect::Dup { from, to, cloexec: false })
}

fn fork(pid: u32) -> Effect {
    Effect::Fork(Birth { pid, flags: 0, exit_signal: 17, cgroup: None })
}

fn channel(sock_type: u32) -> Effect {
    Effect::Fd(FdEffect::SocketPair { sock_type, flags: 0 })
}

fn send(fd: Fd, rights: &[Fd]) -> Effect {
    let change = Change::Send { data: vec![0], rights: rights.to_vec(), never_blocks: true };
    Effect::Object { fd, change }
}

fn receive(socket: Fd, rights: u32, stays: bool) -> Effect {
    let (bytes, cloexec, never_blocks) = (1, false, true);
    Effect::Fd(FdEffect::Receive { socket, bytes, rights, cloexec, stays, never_blocks })
}

fn probe(fd: Fd) -> Effect {
    Effect::Fd(FdEffect::Probe { fd, cloexec: false })
}

fn tapes() -> Tapes {
    let root = vec![
        close(0, Fd::MAX),
        Effect::SetSid,
        channel(SEQPACKET),
        channel(SEQPACKET),
        fork(11),
        fork(12),
        fork(13),
        close(0, 2),
        Effect::Wait(1),
        // Two files, the second of them is dropped.
        receive(3, 2, false),
        probe(1),
        close(1, 1),
        close(3, 3),
        Effect::Arrive,
        Effect::Park,
    ];
    let giver = vec![
        open("/a", 4),
        send(0, &[4]),
        Effect::Post(0),
        close(0, 3),
        dup(4, 0),
        close(4, 4),
        Effect::Arrive,
        Effect::Park,
    ];
    let looks =
        vec![Effect::Wait(0), receive(1, 1, true), probe(4), close(0, 3), Effect::Arrive, Effect::Park];
    let forwards = vec![
        close(0, 0),
        close(3, 3),
        Effect::Wait(0),
        receive(1, 1, true),
        probe(0),
        open("/b", 3),
        send(2, &[3, 0]),
        Effect::Post(1),
        close(1, 2),
        Effect::Arrive,
        Effect::Park,
    ];
    BTreeMap::from([(10, root), (11, giver), (12, looks), (13, forwards)])
}

fn expected() -> Expected {
    let slot = |fd, ofd| Slot { fd, ofd: OfdId(ofd), cloexec: false };
    let task = |pid, ppid, table: &[Slot]| ExpectedTask {
        pid,
        ppid,
        sid: 10,
        pgid: 10,
        table: table.to_vec(),
        ..ExpectedTask::default()
    };
    let file = |name: &str, path: &str| ExpectedOfd {
        name: name.into(),
        spec: OfdSpec::Path { path: path.into(), position: Some(0) },
        ..ExpectedOfd::default()
    };
    Expected {
        tasks: vec![
            task(10, 0, &[slot(0, 1)]),
            task(11, 10, &[slot(0, 0)]),
            task(12, 10, &[slot(4, 0)]),
            task(13, 10, &[slot(0, 0), slot(3, 1)]),
        ],
        ofds: vec![file("file a", "/a"), file("file b", "/b")],
        paths: [b"/a".to_vec(), b"/b".to_vec()].into(),
        ..Expected::default()
    }
}

fn verdict(change: impl FnOnce(&mut Tapes, &mut Expected)) -> Result<Certificate, Counterexample> {
    let (mut tapes, mut expected) = (tapes(), expected());
    change(&mut tapes, &mut expected);
    let tasks = tapes.into_iter().map(|(pid, effects)| {
        let effects = effects.into_iter().zip(0..).map(|(effect, record)| Lifted { record, effect });
        LiftedTask { pid, effects: effects.collect() }
    });
    let tree = LiftedTree {
        total: 4,
        root: Birth { pid: 10, flags: 0, exit_signal: 17, cgroup: None },
        tasks: tasks.collect(),
        ..LiftedTree::default()
    };
    verify(&tree, &expected)
}

/// Demands that a change of one task's tape loses the certificate, with these words.
#[track_caller]
fn refused(pid: u32, change: impl FnOnce(&mut Vec<Effect>), words: &str) {
    match verdict(|tapes, _| change(tapes.get_mut(&pid).expect("a tape"))) {
        Ok(_) => panic!("certified, expected: {words}"),
        Err(counterexample) => {
            let text = counterexample.to_string();
            assert!(text.contains(words), "{text}\nexpected: {words}");
        }
    }
}

#[test]
fn the_tree_has_a_certificate() {
    let certificate = verdict(|_, _| {}).expect("a certificate");
    assert_eq!((certificate.messages_received, certificate.descriptors), (3, 5));
}

/// A giver that is a helper is gone before its message is received: it waits in the other socket.
#[test]
fn the_giver_may_die() {
    let change = |tapes: &mut Tapes, expected: &mut Expected| {
        tapes.insert(11, vec![open("/a", 4), send(0, &[4]), Effect::Post(0), Effect::Exit { code: 0 }]);
        let root = tapes.get_mut(&10).expect("a tape");
        root[4] = Effect::Fork(Birth { pid: 11, flags: 0, exit_signal: 0, cgroup: None });
        root.insert(13, Effect::AwaitExit { pid: 11, reap: true });
        expected.tasks.remove(1);
    };
    let (mut tapes, mut wanted) = (tapes(), expected());
    change(&mut tapes, &mut wanted);
    let tasks = tapes.into_iter().map(|(pid, effects)| {
        let effects = effects.into_iter().zip(0..).map(|(effect, record)| Lifted { record, effect });
        LiftedTask { pid, effects: effects.collect() }
    });
    let root = Birth { pid: 10, flags: 0, exit_signal: 17, cgroup: None };
    let tree = LiftedTree { total: 3, root, tasks: tasks.collect(), ..LiftedTree::default() };
    assert_eq!(verify(&tree, &wanted).map(|certificate| certificate.helpers), Ok(1));
}

#[test]
fn what_is_received_must_have_been_sent() {
    // Not certainly before: nobody waits.
    refused(
        12,
        |tape| drop(tape.remove(0)),
        "into which it is sent, is not ordered with record 1 of task 11",
    );
    // Never.
    refused(11, |tape| drop(tape.remove(1)), "what nobody has sent");
    refused(13, |tape| drop(tape.remove(6)), "what nobody has sent");
    // The post is before the sending.
    refused(11, |tape| tape.swap(1, 2), "which it is sent, is not ordered with record 2 of task 11");
    // Twice.
    refused(10, |tape| tape.insert(11, receive(3, 2, false)), "what nobody has sent");
}

#[test]
fn what_is_received_must_be_what_is_expected() {
    refused(
        12,
        |tape| tape[1] = receive(1, 2, true),
        "1 bytes and 1 descriptors, and there is room for 1 and 2",
    );
    refused(
        10,
        |tape| tape[9] = receive(3, 1, false),
        "1 bytes and 2 descriptors, and there is room for 1 and 1",
    );
    refused(13, |tape| tape[6] = send(2, &[0, 3]), "the images say file b");
    refused(13, |tape| tape[6] = send(2, &[3, 9]), "descriptor 9 is not open");
    refused(12, |tape| tape[1] = receive(0, 1, true), "what nobody has sent");
    refused(12, |tape| tape[1] = receive(7, 1, true), "descriptor 7 is not open");
    refused(13, |tape| tape[3] = receive(2, 1, true), "what nobody has sent");
}

#[test]
fn whoever_receives_must_look() {
    refused(12, |tape| drop(tape.remove(2)), "does not look whether it has got them");
    refused(12, |tape| tape[2] = probe(3), "does not look whether it has got them");
    refused(12, |tape| tape.insert(0, probe(9)), "descriptor 9 is not open");
}

#[test]
fn messages_that_are_left() {
    refused(11, |tape| tape.insert(2, send(0, &[4])), "sends descriptors that nobody receives");
    refused(13, |tape| tape.insert(7, send(2, &[0])), "sends descriptors that nobody receives");
    refused(11, |tape| tape.insert(2, send(1, &[4])), "sends descriptors that nobody receives");
}

#[test]
fn several_who_receive() {
    // One takes what another looks at.
    refused(12, |tape| tape[1] = receive(1, 1, false), "some take its messages and others only look at them");
    // Two take, and nobody says which takes what.
    let both_take = |tapes: &mut Tapes| {
        tapes.get_mut(&11).expect("a tape").insert(2, send(0, &[4]));
        tapes.get_mut(&12).expect("a tape")[1] = receive(1, 1, false);
        tapes.get_mut(&13).expect("a tape")[3] = receive(1, 1, false);
    };
    let text = verdict(|tapes, _| both_take(tapes)).expect_err("no certificate").to_string();
    assert!(text.contains("from which it is taken, is not ordered"), "{text}");
    let one_waits = |tapes: &mut Tapes| {
        both_take(tapes);
        tapes.get_mut(&12).expect("a tape").insert(3, Effect::Post(2));
        tapes.get_mut(&13).expect("a tape").insert(2, Effect::Wait(2));
    };
    verdict(|tapes, _| one_waits(tapes)).expect("a certificate");
}

#[test]
fn several_who_send() {
    let also = |tapes: &mut Tapes, waits: bool| {
        let other = tapes.get_mut(&12).expect("a tape");
        other.splice(3..3, [send(2, &[4]), Effect::Post(2)]);
        if waits {
            tapes.get_mut(&13).expect("a tape").insert(6, Effect::Wait(2));
        }
        let root = tapes.get_mut(&10).expect("a tape");
        root.splice(9..9, [Effect::Wait(2), receive(3, 1, false), probe(0), close(0, 0)]);
    };
    let text = verdict(|tapes, _| also(tapes, false)).expect_err("no certificate").to_string();
    assert!(text.contains("send on a socket of the pair") && text.contains("is not ordered"), "{text}");
    verdict(|tapes, _| also(tapes, true)).expect("a certificate");
}

#[test]
fn sending_never_waits() {
    let many = |tapes: &mut Tapes, count: usize| {
        let sender = tapes.get_mut(&13).expect("a tape");
        sender.splice(7..7, std::iter::repeat_n(send(2, &[0]), count));
        let root = tapes.get_mut(&10).expect("a tape");
        for _ in 0..count {
            root.splice(12..12, [receive(3, 1, false), probe(1), close(1, 1)]);
        }
    };
    verdict(|tapes, _| many(tapes, 100)).expect("a certificate");
    let text = verdict(|tapes, _| many(tapes, 200)).expect_err("no certificate").to_string();
    assert!(text.contains("send would block"), "{text}");
    // What has certainly been received takes no room any more.
    let in_turns = |tapes: &mut Tapes, waits: bool| {
        let (sender, receiver) = (13, 10);
        for event in 0..3 {
            let sends = std::iter::repeat_n(send(2, &[0]), 100);
            let sent: Vec<Effect> = sends.chain([Effect::Post(10 + event)]).collect();
            let wait = (waits && event > 0).then_some(Effect::Wait(20 + event - 1));
            let tape = tapes.get_mut(&sender).expect("a tape");
            let at = tape.len() - 3;
            tape.splice(at..at, wait.into_iter().chain(sent));
            let tape = tapes.get_mut(&receiver).expect("a tape");
            let at = tape.len() - 3;
            let takes = (0..100).flat_map(|_| [receive(3, 1, false), probe(1), close(1, 1)]);
            let taken: Vec<Effect> = [Effect::Wait(10 + event)]
                .into_iter()
                .chain(takes)
                .chain([Effect::Post(20 + event)])
                .collect();
            tape.splice(at..at, taken);
        }
    };
    verdict(|tapes, _| in_turns(tapes, true)).expect("a certificate");
    let text = verdict(|tapes, _| in_turns(tapes, false)).expect_err("no certificate").to_string();
    assert!(text.contains("send would block"), "{text}");
}

#[test]
fn what_cannot_be() {
    refused(10, |tape| tape[2] = channel(DGRAM), "receiving from a socket");
    refused(
        12,
        |tape| tape.splice(1..1, [open("/a", 4), receive(4, 1, true)]).for_each(drop),
        "not a socket",
    );
    let rights: Vec<Fd> = vec![4; 254];
    refused(11, |tape| tape[1] = send(0, &rights), "sends 254 descriptors, 253 are the most in a message");
    // Behind the barrier nobody receives.
    refused(12, |tape| tape.insert(5, receive(1, 1, true)), "recvmsg after the barrier");
    // What waits in a socket of the images is not for us.
    refused(13, |tape| tape[2] = Effect::Wait(1), "can never go on");
}
