//! Tapes by hand for the images in `tests/images/pair`, and what loses them their certificate.

use std::path::Path;

use super::*;
use crate::image::Model;
use crate::image::{Blob, OfdKind, TaskState, open_blob, read_model};
use crate::runner;
use crate::tape::abi::{CLONE_ARGS_EXIT_SIGNAL, CLONE_ARGS_SET_TID, CLONE_ARGS_SET_TID_SIZE, Record};
use crate::tape::assemble::{Assembler, Tape};

const BASE: u64 = 0x1_0000_0000;
const WINDOW: u64 = 1 << 21;
const AT_CWD: u64 = libc::AT_FDCWD as u64;
const CLOEXEC: u64 = libc::O_CLOEXEC as u64;

pub(super) fn pair() -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/pair/images");
    let mut model = read_model(&dir).expect("the images are good");
    for alive in model.tasks.iter_mut().filter_map(|task| task.alive_mut()) {
        // The tapes below map nothing.
        (alive.mm.vmas, alive.mm.pages) = Default::default();
    }
    model
}

/// A host whose launcher has, of what a fork leaves to a child, just what the root is to have: the
/// tapes below are about descriptors.
fn ground(model: &Model) -> Ground {
    let expected = expected(model, &Ground::default()).expect("the images are good");
    let root = &expected.tasks[0];
    Ground { inherited: Inherited(root.attributes[&root.pid].clone()), ..Ground::default() }
}

/// What no child inherits of its parent; and nothing that the launcher had mapped.
fn thread_of_its_own(tape: &mut Tape, model: &Model, index: usize) {
    let thread = &model.tasks[index].alive().expect("it lives").threads[0];
    let (head, len) = thread.robust_list;
    tape.call(libc::SYS_set_robust_list, &[head, len], 0);
    tape.call(libc::SYS_set_tid_address, &[thread.clear_tid_addr], u64::from(thread.tid.0));
    tape.call(libc::SYS_munmap, &[0, BASE], 0);
    tape.call(libc::SYS_munmap, &[BASE + WINDOW, 0x7fff_ffff_f000 - BASE - WINDOW], 0);
}

fn clone_args(asm: &mut Assembler, pid: u32) -> u64 {
    let mut words = [0; 11];
    words[CLONE_ARGS_EXIT_SIGNAL] = libc::SIGCHLD as u64;
    words[CLONE_ARGS_SET_TID] = asm.data(&pid.to_ne_bytes(), 4);
    words[CLONE_ARGS_SET_TID_SIZE] = 1;
    asm.words(&words)
}

/// Tapes for the pair's descriptors, by hand: `change` sees each task's records before they are
/// laid down.
fn tapes(model: &Model, change: impl Fn(u32, &mut Vec<Record>)) -> Tapes {
    let mut asm = Assembler::new(BASE, 0, 0, runner::code());
    let payload = |blob: &Blob| open_blob(model, blob).expect("the payload is there");
    let (pipe, packets) = (payload(&model.pipe_data[0].data), &model.packets);

    let mut child = Tape::default();
    child.call(libc::SYS_close, &[4], 0);
    child.call(libc::SYS_close, &[5], 0);
    let name = asm.text(model.tasks[1].alive().expect("it lives").comm.as_bytes());
    child.call(libc::SYS_prctl, &[libc::PR_SET_NAME as u64, name, 0, 0, 0], 0);
    thread_of_its_own(&mut child, model, 1);
    child.arrive();
    child.park();
    change(4713, &mut child.records);
    let child_args = clone_args(&mut asm, 4713);
    let child_tape = asm.tape(4713, true, child_args, &child.records);

    let mut parent = Tape::default();
    let null = asm.text(b"/dev/null");
    let scratch = asm.scratch();
    parent.call(libc::SYS_close_range, &[0, u64::from(u32::MAX), 0], 0);
    parent.call(libc::SYS_setsid, &[], 4711);
    parent.call(libc::SYS_openat, &[AT_CWD, null, libc::O_RDONLY as u64, 0], 0);
    parent.call(libc::SYS_openat, &[AT_CWD, null, libc::O_WRONLY as u64, 0], 1);
    parent.call(libc::SYS_dup3, &[1, 2, 0], 2);
    parent.call(libc::SYS_pipe2, &[scratch, CLOEXEC], 0);
    let data = asm.data(&pipe, 1);
    parent.call(libc::SYS_write, &[4, data, pipe.len() as u64], pipe.len() as u64);
    parent.call(libc::SYS_socketpair, &[libc::AF_UNIX as u64, libc::SOCK_STREAM as u64, 0, scratch], 0);
    for packet in packets {
        // Description 6 is descriptor 5 of the parent: what waits there is sent from the other end.
        let (bytes, from) = (payload(&packet.data), if packet.id_for == 6 { 6 } else { 5 });
        let data = asm.data(&bytes, 1);
        let args = [from, data, bytes.len() as u64, libc::MSG_DONTWAIT as u64];
        parent.call(libc::SYS_sendto, &args, bytes.len() as u64);
    }
    parent.fork(child_args, child_tape, 4713);
    parent.call(libc::SYS_close, &[6], 0);
    thread_of_its_own(&mut parent, model, 0);
    parent.arrive();
    parent.park();
    change(4711, &mut parent.records);
    let args = clone_args(&mut asm, 4711);
    asm.tape(4711, true, args, &parent.records);
    asm.finish(1 << 20, WINDOW).expect("they fit")
}

#[track_caller]
fn check(model: &Model, tapes: &Tapes, expected: &str) {
    match certify(model, tapes, &ground(&pair()), None) {
        Ok(certificate) => panic!("a certificate, expected: {expected}\n{certificate}"),
        Err(counterexample) => assert_eq!(counterexample.to_string(), expected),
    }
}

#[test]
fn a_real_tree() {
    let model = pair();
    let certificate =
        certify(&model, &tapes(&model, |_, _| ()), &ground(&model), None).expect("a certificate");
    assert_eq!((certificate.tasks, certificate.descriptors, certificate.descriptions), (2, 11, 6));
    assert_eq!(certificate.queued_bytes, 2 * 11 + 10 + 11);
}

#[test]
fn records_that_lose_the_certificate() {
    let model = pair();
    let lost = |pid: u32, at: usize, by: Option<Record>, expected: &str| {
        let tapes = tapes(&model, |task, records| {
            if task == pid {
                records.splice(at..=at, by);
            }
        });
        check(&model, &tapes, expected);
    };
    let call = |nr: libc::c_long, args: &[u64], expect: u64| {
        let mut tape = Tape::default();
        tape.call(nr, args, expect);
        tape.records.pop()
    };
    let pipe = "file 0x4 (pipe 0x10012f, reading end)";
    lost(
        4711,
        6,
        None,
        &format!("task 4711: descriptor 3 ({pipe}): data ends as 0 bytes, the images say 11 bytes"),
    );
    lost(
        4713,
        0,
        None,
        "task 4713: descriptor 4 (the writing end of pipe 0x10012f) is open at the end; the images have nothing there",
    );
    lost(
        4713,
        0,
        call(libc::SYS_reboot, &[], 0),
        "task 4713, record 0: unknown effect: system call 169: not modelled",
    );
    lost(
        4711,
        4,
        call(libc::SYS_dup3, &[0, 2, 0], 2),
        "task 4711: descriptor 2 ends as the same description as descriptor 0 of task 4711 (file /dev/null), the images say file 0x3 (/dev/null)",
    );
    lost(
        4711,
        11,
        None,
        "task 4711: descriptor 6 (socket 0x100131) is open at the end; the images have nothing there",
    );
}

#[test]
fn models_that_lose_the_certificate() {
    let good = pair();
    let tapes = tapes(&good, |_, _| ());
    let lost = |change: &dyn Fn(&mut Model), expected: &str| {
        let mut model = good.clone();
        change(&mut model);
        check(&model, &tapes, expected);
    };
    let alive = |model: &mut Model, change: &dyn Fn(&mut crate::image::Alive)| match &mut model.tasks[1].state
    {
        TaskState::Alive(alive) | TaskState::Stopped(alive) => change(alive),
        TaskState::Zombie { .. } => panic!("it lives"),
    };
    lost(
        &|model| alive(model, &|alive| alive.fds[0].cloexec = true),
        "task 4713: descriptor 0 ends with close-on-exec off, the images say on",
    );
    lost(
        &|model| {
            alive(model, &|alive| {
                alive
                    .threads
                    .push(crate::image::Thread { tid: crate::image::NsPid(4714), ..alive.threads[0].clone() })
            })
        },
        "task 4713: its thread 4714 is never created",
    );
    lost(
        &|model| alive(model, &|alive| alive.threads[0].seccomp_mode = 1),
        "task 4713: seccomp mode is 0 at the end, the images say 1",
    );
    lost(
        &|model| {
            let program = [6u8, 0, 0, 0, 0, 0, 0xff, 0x7f][..].into();
            model.seccomp_filters = vec![crate::image::SeccompFilter { program, next: None, flags: 0 }];
            alive(model, &|alive| {
                (alive.threads[0].seccomp_mode, alive.threads[0].seccomp_filter) = (2, Some(0));
            });
        },
        "task 4713: seccomp mode is 0 at the end, the images say 2",
    );
    lost(
        &|model| alive(model, &|alive| alive.fds[4].ofd_id = 6),
        "task 4713: descriptor 6 ends as a description of its own (socket 0x100131), the images say that it shares file 0x6 (unix socket 0x100130) with descriptor 5 of task 4711",
    );
    lost(
        &|model| model.tasks[1].pgid = crate::image::NsPid(4713),
        "task 4713: ends in process group 4711, the images say 4713",
    );
    lost(
        &|model| model.ofds[2].kind = OfdKind::Other("TTY"),
        "task 4711: descriptor 3: file 0x4 (TTY): a file of kind TTY cannot be checked yet",
    );
    lost(
        &|model| model.packets[0].control_messages = 1,
        "task 4711: descriptor 5: file 0x6 (unix socket 0x100130): control messages in its queue cannot be checked yet",
    );
    lost(
        &|model| model.pipe_data[0].data.len_bytes = 1 << 40,
        "task 4711: the images cannot be used to check it: pipes-data.img: truncated: 1099511627776 bytes wanted at offset 22, 11 there",
    );
}

#[test]
fn clocks_that_lose_the_certificate() {
    let mut model = pair();
    let mut tapes = tapes(&model, |_, _| ());
    let facts = |now| Facts { clocks_ns: [Some(1), Some(now), Some(now)], ..Facts::default() };
    let dumped = model.clocks_of_tree().expect("the clocks of the dump");
    let now = (dumped.boottime.0 + 1) * 1_000_000_000;
    let inherited = ground(&model).inherited;
    let on = |now| Ground { facts: facts(now), inherited: inherited.clone(), ..Ground::default() };
    let is_certified = |model: &Model, tapes: &Tapes, now: u64| match certify(model, tapes, &on(now), None) {
        Ok(_) => true,
        Err(counterexample) => {
            assert!(counterexample.to_string().contains("its clocks"), "{counterexample}");
            false
        }
    };
    assert!(is_certified(&model, &tapes, now));
    assert!(!is_certified(&model, &tapes, 1), "the host's clocks are behind");
    let nanoseconds = |(seconds, rest)| seconds * 1_000_000_000 + rest;
    let wanted = [dumped.monotonic, dumped.boottime].map(nanoseconds);
    tapes.clocks_ns = Some(wanted);
    assert!(is_certified(&model, &tapes, 1));
    tapes.clocks_ns = Some([wanted[0], wanted[1] - 1]);
    assert!(!is_certified(&model, &tapes, 1), "another time");
    // It had a time namespace, and has none.
    for task in &mut model.tasks {
        if let TaskState::Alive(alive) = &mut task.state {
            alive.ids.time_ns = 77;
        }
    }
    model.clocks.insert(77, dumped);
    tapes.clocks_ns = None;
    assert!(!is_certified(&model, &tapes, now));
    tapes.clocks_ns = Some(wanted);
    assert!(is_certified(&model, &tapes, now));
}

#[test]
fn another_runner() {
    let model = pair();
    let mut tapes = tapes(&model, |_, _| ());
    tapes.ro[0] ^= 1;
    check(&model, &tapes, "task 4711: unknown effect: the tapes come with another runner");
}

/// Bits that flip in what the tapes are made of: no panic, and never a certificate for another
/// number of records.
#[test]
fn hostile_tapes() {
    let model = pair();
    let good = tapes(&model, |_, _| ());
    let ground = ground(&model);
    let records = certify(&model, &good, &ground, None).expect("a certificate").records;
    let start = runner::code().len();
    for at in start..good.ro.len().min(start + 4096) {
        for bit in [0, 3, 7] {
            let mut tapes = good.clone();
            tapes.ro[at] ^= 1 << bit;
            if let Ok(certificate) = certify(&model, &tapes, &ground, None) {
                assert_eq!(certificate.records, records);
            }
        }
    }
}
