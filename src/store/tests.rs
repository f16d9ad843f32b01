//! Stored plans of a synthetic forest: there and back, damaged, forged, and stale in every fact.

use std::path::PathBuf;

use regrow_graph::verify::Certificate;

use super::format::{Section, Sections};
use super::*;
use crate::host::HostFacts;
use crate::image;
use crate::image::RLimit;
use crate::pipeline;
use crate::resolve::problem::Problem;
use crate::synth::{self, random};

/// A forest's images, and the plan for them. `None` where this process may not even plan, which is said.
struct Planned {
    dir: tempfile::TempDir,
    prepared: Prepared,
    plan: StoredPlan,
    certificate: Certificate,
}

impl Planned {
    fn images(&self) -> PathBuf {
        self.dir.path().join("images")
    }
}

fn planned() -> Option<Planned> {
    planned_with(&Options::default())
}

fn planned_with(options: &Options) -> Option<Planned> {
    let dir = tempfile::tempdir().expect("tempdir");
    let images = dir.path().join("images");
    let shape = random::Shape {
        tasks: 8,
        depth: 3,
        shared_fds: 10,
        shared_maps: 2,
        with_pairs: true,
        first_pid: 31_000,
        directory: dir.path().join("files"),
        seed: 7,
    };
    let forest = shape.forest();
    for made in [&shape.directory, &images] {
        std::fs::create_dir(made).expect("mkdir");
    }
    for (path, bytes) in shape.files(&forest) {
        std::fs::write(path, bytes).expect("a file");
    }
    let executable = std::env::current_exe().expect("this program");
    let executable = executable.to_str().expect("UTF-8");
    let ground = synth::model::Ground { own: &crate::host::gather_own(), executable };
    let synthetic = synth::model::synthesise(&forest, &ground).expect("a model");
    image::write_model(&synthetic.model, &synthetic.contents, &images).expect("images");
    let identity = Identity::of(&images, true).expect("an identity");
    let (prepared, problems) = pipeline::try_prepare(&images, options).expect("good images");
    let Some(prepared) = prepared else {
        assert!(!nix::unistd::geteuid().is_root(), "{problems:?}");
        println_skip(&problems);
        return None;
    };
    let plan = StoredPlan::of(&prepared, identity, options);
    let certificate = prepared.certificate.clone();
    Some(Planned { dir, prepared, plan, certificate })
}

#[allow(clippy::print_stderr)] // Said to who runs the tests.
fn println_skip(problems: &[Problem]) {
    eprintln!("skipped: nothing can be planned here: {problems:?}");
}

fn sections(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut sections = Sections::of(bytes, bytes.len() as u64).expect("a plan");
    Section::ALL.iter().map(|_| sections.read().expect("a section").1).collect()
}

/// A file of these sections, with checksums that are right.
fn file(parts: &[Vec<u8>]) -> Vec<u8> {
    let parts: [&[u8]; Section::ALL.len()] = std::array::from_fn(|at| parts[at].as_slice());
    [format::head(&parts), parts.concat()].concat()
}

#[test]
fn there_and_back() {
    let Some(planned) = planned() else { return };
    let plan = &planned.plan;
    let bytes = plan.to_bytes().expect("bytes");
    let read = StoredPlan::from_bytes(&bytes).expect("a plan");
    assert_eq!((&read.about, &read.images, &read.host), (&plan.about, &plan.images, &plan.host));
    assert_eq!((&read.demands, &read.deadlines), (&plan.demands, &plan.deadlines));
    assert_eq!((&read.tapes, &read.purposes), (&plan.tapes, &plan.purposes));
    let threads = |plan: &StoredPlan| plan.threads.iter().map(wire::StoredThread::of).collect::<Vec<_>>();
    assert_eq!(threads(&read), threads(plan));
    assert_eq!(read.to_bytes().expect("bytes"), bytes);
    assert_eq!(read.certify().expect("a certificate"), planned.certificate);
    let purposes = read.purposes.all();
    for (_, record) in plan.tapes.tasks.iter().flat_map(|task| plan.tapes.records(task)) {
        assert_eq!(purposes[&record.op], planned.prepared.purpose(record.op));
    }
    ready::verify_images(&read, &planned.images()).expect("it is a plan of these images");
}

#[test]
fn every_damage_is_refused() {
    let Some(planned) = planned() else { return };
    let good = planned.plan.to_bytes().expect("bytes");
    let parts = sections(&good);
    let head = good.len() - parts.iter().map(Vec::len).sum::<usize>();
    let mut places: Vec<usize> = (0..head).collect();
    let mut start = head;
    for part in &parts {
        let end = start + part.len();
        places.extend(start..end.min(start + 24));
        places.extend(end.saturating_sub(8).max(start)..end);
        start = end;
    }
    let mut state = 5;
    places.extend((0..300).map(|_| random::next(&mut state) as usize % good.len()));
    for at in places {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        assert!(StoredPlan::from_bytes(&bytes).is_err(), "byte {at}");
        assert!(StoredPlan::from_bytes(&good[..at]).is_err(), "the first {at} bytes");
    }
    assert!(StoredPlan::from_bytes(&[good.as_slice(), &[0]].concat()).is_err());
}

/// Changed, and given a checksum that is right: never a panic, and never another certificate than for what it
/// was made for.
#[test]
fn forged_sections() {
    let Some(planned) = planned() else { return };
    let parts = sections(&planned.plan.to_bytes().expect("bytes"));
    let mut state = 11;
    let mut random = |below: usize| random::next(&mut state) as usize % below.max(1);
    let (mut read, mut refuted) = (0, 0);
    for round in 0..270 {
        let mut parts = parts.clone();
        // The region is the next test's.
        let section = [0, 1, 2, 3, 3, 4, 5, 5, 8][round % 9];
        let part = &mut parts[section];
        let at = random(part.len());
        match random(4) {
            0 => part[at] = [0, 1, 0x7f, 0x80, 0xff][random(5)],
            1 => part[at] ^= 1 << random(8),
            2 => part.truncate(at),
            _ => part.insert(at, random(256) as u8),
        }
        let Ok(plan) = StoredPlan::from_bytes(&file(&parts)) else { continue };
        read += 1;
        let _ = (plan.purposes.all(), plan.images.differences(&planned.images(), false));
        let _ = plan.host.relied.differences(&planned.prepared.facts, &plan.tapes);
        match plan.certify() {
            Ok(certificate) => assert_eq!(certificate.records, planned.certificate.records),
            Err(_) => refuted += 1,
        }
    }
    assert!(read > 20 && refuted > 10, "{read} were read, {refuted} refuted");
}

/// Each record that makes a descriptor, a session, a group, memory, or data that waits, left out of the stored
/// tapes; of others a few, which may be redundant.
#[test]
fn forged_records_lose_the_certificate() {
    let Some(planned) = planned() else { return };
    let tapes = &planned.plan.tapes;
    let makers = [
        libc::SYS_openat,
        libc::SYS_pipe2,
        libc::SYS_socketpair,
        libc::SYS_eventfd2,
        libc::SYS_dup3,
        libc::SYS_setsid,
        libc::SYS_setpgid,
        libc::SYS_sendto,
        libc::SYS_mmap,
        libc::SYS_mremap,
        libc::SYS_preadv,
    ];
    let mut state = 3;
    let mut lost = 0;
    for task in &tapes.tasks {
        for (address, record) in tapes.records(task) {
            let is_maker = makers.contains(&record.nr.into());
            if record.verb() != Some(Verb::Syscall)
                || !is_maker && !random::next(&mut state).is_multiple_of(16)
            {
                continue;
            }
            let mut plan = planned.plan.clone();
            let nothing = u64::from(u32::MAX);
            let args = [nothing, nothing, 0, 0, 0, 0];
            let idle = Record { nr: libc::SYS_close_range as u16, args, expect: 0, check: 0, ..record };
            let at = (address - tapes.ro_base()) as usize;
            plan.tapes.ro[at..at + 64].copy_from_slice(&idle.to_bytes());
            let plan = StoredPlan::from_bytes(&plan.to_bytes().expect("bytes")).expect("a plan");
            match plan.certify() {
                Err(_) => lost += 1,
                Ok(_) if !is_maker => {}
                Ok(_) => panic!("task {}: {}", task.pid, crate::tape::disasm::line(tapes, &record)),
            }
        }
    }
    assert!(lost > 30, "{lost}");
}

#[test]
fn another_runner_is_refused() {
    let Some(planned) = planned() else { return };
    let mut plan = planned.plan.clone();
    let at = (plan.tapes.code - plan.tapes.ro_base()) as usize;
    plan.tapes.ro[at + 7] ^= 1;
    let said = plan.certify().expect_err("another runner").to_string();
    assert!(said.contains("another runner"), "{said}");
}

/// What the certificate cannot see, `verify -D` does: a plan that is judged by something else than the images.
#[test]
fn forged_demands() {
    let Some(planned) = planned() else { return };
    let check = |name: &str, forge: &dyn Fn(&mut StoredPlan)| {
        let mut plan = planned.plan.clone();
        forge(&mut plan);
        plan.certify().unwrap_or_else(|wrong| panic!("{name}: its own demands are met: {wrong}"));
        let said = match ready::verify_images(&plan, &planned.images()) {
            Ok(_) => panic!("{name}: not noticed"),
            Err(error) => error.problems().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        };
        assert!(said.starts_with("stale plan: ") && said.contains(name), "{said}, expected {name}");
    };
    let pid = planned.plan.demands.threads[0].task;
    check(&format!("task {pid} is not judged by"), &|plan| {
        plan.demands.expected.tasks[0].attributes.clear();
    });
    check("which paths may be opened", &|plan| {
        plan.demands.expected.paths.insert(b"/etc/shadow".to_vec());
    });
    check("what the commit sets", &|plan| {
        plan.demands.threads[0].registers[16] ^= 8;
        plan.threads[0].registers.rip ^= 8;
    });
    check(&format!("extended state of thread {pid}"), &|plan| {
        if let Some(byte) = plan.threads[0].xstate.get_mut(200) {
            *byte ^= 1;
        }
    });
    check("pages-1.img has changed", &|plan| {
        let pages = plan.images.images.iter_mut().find(|image| image.name == "pages-1.img");
        pages.expect("an image").hash = Some([0; 32]);
    });
}

/// Every fact that is relied on, changed: refused with its name, what it was, and what it is.
#[test]
fn stale_facts() {
    let Some(planned) = planned() else { return };
    let relied = &planned.plan.host.relied;
    let (facts, tapes) = (&planned.prepared.facts, &planned.plan.tapes);
    let differences = |facts: &HostFacts| -> Vec<String> {
        let mut all = relied.differences(facts, tapes);
        all.extend(host::window(facts, tapes));
        all.extend(host::clocks(&planned.plan.demands.clocks, facts, tapes));
        all.iter().map(|problem| problem.text.clone()).collect()
    };
    assert_eq!(differences(facts), Vec::<String>::new());
    let check = |expected: &str, change: &dyn Fn(&mut HostFacts)| {
        let mut changed = facts.clone();
        change(&mut changed);
        let said = differences(&changed);
        assert!(said.iter().any(|text| text.starts_with(expected)), "{said:?}, expected {expected}");
    };
    let release = facts.kernel.release.clone().expect("a release");
    check(&format!("planned on Linux {release}, this is 6.99"), &|facts| {
        facts.kernel.release = Some("6.99".to_owned());
    });
    check("planned with the vDSO ", &|facts| facts.vdso.as_mut().expect("a vDSO").bytes[9] ^= 1);
    check("planned with the CPU's extended state ", &|facts| {
        facts.xsave.as_mut().expect("XSAVE").size_bytes += 64;
    });
    check("planned with user ids 0 0 0 0, here it is 7 7 7 7", &|facts| {
        facts.own.uids = Some(crate::host::Ids { real: 7, effective: 7, saved: 7, fs: 7 });
    });
    check("planned with group ids ", &|facts| {
        facts.own.gids = Some(crate::host::Ids { real: 7, effective: 7, saved: 7, fs: 7 });
    });
    check("planned with groups ", &|facts| facts.own.groups = Some(vec![77]));
    check("planned with effective capabilities ", &|facts| facts.own.caps.effective ^= 1);
    check("planned with permitted capabilities ", &|facts| facts.own.caps.permitted ^= 1);
    check("planned with inheritable capabilities ", &|facts| facts.own.caps.inheritable ^= 1);
    check("planned with bounding capabilities ", &|facts| facts.own.caps.bounding ^= 1);
    check("planned with ambient capabilities ", &|facts| facts.own.caps.ambient ^= 1);
    check("planned with securebits ", &|facts| facts.own.securebits = Some(0x2f));
    check("planned with no_new_privs false, here it is true", &|facts| {
        facts.own.no_new_privs = Some(true);
    });
    check("planned with seccomp mode 0, here it is 2", &|facts| facts.own.seccomp_mode = Some(2));
    check("planned with hard resource limit 7 ", &|facts| {
        facts.own.rlimits[7] = Some(RLimit { cur: 3, max: 3 });
    });
    check("planned with kernel.pid_max ", &|facts| facts.pids.pid_max = Some(300));
    check("planned with fs.nr_open ", &|facts| facts.kernel.nr_open = Some(1));
    check("planned with fs.pipe-max-size ", &|facts| facts.kernel.pipe_max_size_bytes = Some(4096));
    check("planned with vm.max_map_count ", &|facts| facts.kernel.max_map_count = Some(9));
    check("planned with fs.suid_dumpable ", &|facts| facts.kernel.suid_dumpable = Some(9));
    check("planned with prctl(PR_SET_MM_MAP) there, here it is not there", &|facts| {
        facts.kernel.set_mm_map = crate::host::Probe::Absent(nix::errno::Errno::EINVAL);
    });
    // Counted by the certificate.
    check("planned with nice ", &|facts| facts.own.nice = Some(-3));
    check("planned with personality ", &|facts| facts.own.personality = Some(0x40000));
    check("planned with oom_score_adj ", &|facts| facts.own.oom_score_adj = Some(-900));
    // Of the surroundings.
    check("the tapes are to be at ", &|facts| {
        facts.address_space.in_use.push((tapes.base + 4096, tapes.base + 8192));
    });
    let file = relied.files.iter().find(|file| file.found.starts_with("a regular file")).expect("a file");
    check(&format!("{}: planned with a regular file, here is a directory", file.path), &|facts| {
        let fact = facts.files.get_mut(&file.path).expect("a file");
        if let Ok(stat) = &mut fact.reached {
            stat.mode = libc::S_IFDIR | 0o755;
        }
    });
    check(&format!("{}: planned with a regular file", file.path), &|facts| {
        facts.files.get_mut(&file.path).expect("a file").reached = Err(nix::errno::Errno::ENOENT);
    });
    // More than there was is no less.
    let mut more = facts.clone();
    more.kernel.nr_open = Some(u64::MAX);
    more.pids.pid_max = Some(4_194_304);
    assert_eq!(differences(&more), Vec::<String>::new());
}

/// Who copies pages relies on userfaultfd(2), whoever reads them does not.
#[test]
fn a_plan_that_copies_needs_userfaultfd() {
    use crate::host::Probe;
    const NAME: &str = "userfaultfd(2)";
    let mut options = Options::default();
    for (copy_ns, read_ns, copies) in [(0.0, 1e9, true), (1e9, 0.0, false)] {
        options.costs.register_ns = copy_ns;
        options.costs.copy_ns = copy_ns;
        options.costs.copy_page_ns = copy_ns;
        options.costs.fill_page_ns = read_ns;
        let Some(planned) = planned_with(&options) else { return };
        if !planned.prepared.facts.kernel.userfaultfd.is_present() {
            return;
        }
        let (relied, tapes) = (&planned.plan.host.relied, &planned.plan.tapes);
        assert_eq!(tapes.has_call(libc::SYS_userfaultfd), copies);
        assert_eq!(relied.facts.iter().any(|fact| fact.name == NAME), copies);
        let mut changed = planned.prepared.facts.clone();
        for (probe, now) in [
            (Probe::Absent(nix::errno::Errno::EPERM), "not there (Operation not permitted)"),
            (Probe::Unknown, "unknown"),
        ] {
            changed.kernel.userfaultfd = probe;
            let said: Vec<String> =
                relied.differences(&changed, tapes).into_iter().map(|problem| problem.text).collect();
            let stale = format!("planned with {NAME} there, here it is {now}");
            assert_eq!(said, if copies { vec![stale] } else { Vec::new() });
        }
    }
}

/// No two facts have the same name: one would be compared with the other.
#[test]
fn facts_have_names_of_their_own() {
    let Some(planned) = planned() else { return };
    let facts = host::named(&planned.prepared.facts, &planned.plan.tapes, true);
    let names: std::collections::BTreeSet<&str> = facts.iter().map(|(_, fact)| fact.name.as_str()).collect();
    assert_eq!(names.len(), facts.len());
}
