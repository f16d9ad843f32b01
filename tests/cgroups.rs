//! Trees whose tasks are in cgroups of their own: in a hierarchy of version 2, in one of a controller, in one that has
//! only a name. Every hierarchy that can be written here is used; a test makes cgroups below its own name and removes
//! them. No hierarchy is mounted or made: a dump that runs at the same time would find it.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use support::dumped::Dumped;
use support::{Scenario, say, skip};

/// The hierarchies, and cgroups of one test below their roots.
struct Cgroups {
    version_2: PathBuf,
    controller: Option<PathBuf>,
    named: Option<PathBuf>,
    made: Vec<PathBuf>,
    _turn: MutexGuard<'static, ()>,
}

/// What one test removes another may still be dumping.
static TURN: Mutex<()> = Mutex::new(());

impl Cgroups {
    /// `None` where there are none to be written, which has been said then.
    fn of(test: &str) -> Option<Cgroups> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
        let find = |kind: &str, option: &str| {
            let line = mounts.lines().find(|line| {
                let (_, filesystem) = line.split_once(" - ").unwrap_or_default();
                let options = filesystem.rsplit(' ').next().unwrap_or_default();
                filesystem.starts_with(kind)
                    && (option.is_empty() || options.split(',').any(|one| one == option))
            })?;
            Some(PathBuf::from(line.split(' ').nth(4)?).join(format!("regrow-{test}-{}", std::process::id())))
        };
        let Some(version_2) = find("cgroup2 ", "") else {
            skip("no hierarchy of cgroup v2 is mounted");
            return None;
        };
        let (controller, named) = (find("cgroup ", "pids"), find("cgroup ", "name=systemd"));
        let mut cgroups = Cgroups { version_2, controller, named, made: Vec::new(), _turn: turn };
        if fs::create_dir(&cgroups.version_2).is_err() {
            skip("cgroups cannot be made here");
            return None;
        }
        cgroups.made.push(cgroups.version_2.clone());
        for directory in [cgroups.controller.clone(), cgroups.named.clone()].into_iter().flatten() {
            cgroups.make(&directory);
        }
        if cgroups.controller.is_none() || cgroups.named.is_none() {
            say("there are no hierarchies of version 1 here: only version 2 is tested");
        }
        Some(cgroups)
    }

    fn make(&mut self, directory: &Path) {
        fs::create_dir(directory).expect("a cgroup");
        self.made.push(directory.to_owned());
    }

    /// Version 2, with what is below.
    fn second(&self, below: &str) -> String {
        self.version_2.join(below).to_str().expect("UTF-8").trim_end_matches('/').to_owned()
    }

    /// All hierarchies, each with what is below, as the program takes them.
    fn all(&self, below: &str) -> String {
        let all = [Some(&self.version_2), self.controller.as_ref(), self.named.as_ref()];
        let join = |directory: &PathBuf| {
            directory.join(below).to_str().expect("UTF-8").trim_end_matches('/').to_owned()
        };
        all.into_iter().flatten().map(join).collect::<Vec<_>>().join(",")
    }

    /// Those that this process is in, of the same hierarchies.
    fn callers(&self) -> String {
        let own = fs::read_to_string("/proc/self/cgroup").expect("/proc is mounted");
        let of = |controller: &str, directory: &PathBuf| {
            // proc(5): number, controllers and path, with colons between.
            let mut lines = own.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
            let (_, path) = lines.find(|(names, _)| names.split(',').any(|name| name == controller))?;
            let at = directory.parent()?.join(path.trim_start_matches('/'));
            Some(at.to_str()?.trim_end_matches('/').to_owned())
        };
        let all = [
            of("", &self.version_2),
            self.controller.as_ref().and_then(|directory| of("pids", directory)),
            self.named.as_ref().and_then(|directory| of("name=systemd", directory)),
        ];
        all.into_iter().flatten().collect::<Vec<_>>().join(",")
    }

    /// Removes what is there, as if the machine were another one.
    fn forget(&self) {
        for directory in self.made.iter().rev() {
            remove(directory);
        }
    }

    /// Those that are there.
    fn there(&self) -> Vec<&PathBuf> {
        self.made.iter().filter(|directory| directory.exists()).collect()
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        self.forget();
    }
}

/// A cgroup is busy until the last that was in it has gone altogether.
fn remove(directory: &Path) {
    for _ in 0..200 {
        match fs::remove_dir(directory) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(Duration::from_millis(5))
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound && !std::thread::panicking() => {
                panic!("{}: {error}", directory.display())
            }
            Ok(()) | Err(_) => return,
        }
    }
    say(&format!("{} is left behind", directory.display()));
}

/// What each of a tree is in, again after two dumps and restores, and after one by CRIU.
#[test]
fn tasks_in_cgroups_of_their_own() {
    let Some(mut cgroups) = Cgroups::of("own") else { return };
    for below in ["job", "other"] {
        for base in [Some(cgroups.version_2.clone()), cgroups.controller.clone(), cgroups.named.clone()] {
            base.into_iter().for_each(|base| cgroups.make(&base.join(below)));
        }
    }
    // Nobody goes into the root of version 2: CRIU would look at all that is below it, and others make and remove cgroups
    // there.
    let places = [
        // Inherited by most, and not by all.
        format!("0:{}", cgroups.all("")),
        "1:".to_owned(),
        format!("1:{}!", cgroups.all("job")),
        "2:".to_owned(),
        format!("2:{}", cgroups.second("other")),
        format!("1:{}", cgroups.second("other")),
        // Its children are where it was.
        format!("1:+{}", cgroups.all("other")),
        "2:!".to_owned(),
    ];
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    Scenario::program("cgroups", &places).run();
    Scenario::program("cgroups", &places).by_plan().by_lowest_pid().rounds(1).run();
}

/// A parent has moved before it forked, and its child is where the caller is: in all hierarchies, or in some.
#[test]
fn children_where_the_caller_is() {
    let Some(mut cgroups) = Cgroups::of("back") else { return };
    cgroups.make(&cgroups.version_2.join("job"));
    let callers = cgroups.callers();
    let places = [
        format!("0:{}", cgroups.all("")),
        format!("1:{callers}"),
        // Its child is born there and goes on.
        format!("2:{}", cgroups.second("job")),
        format!("1:{}", callers.rsplit(',').next().unwrap_or_default()),
        "2:".to_owned(),
    ];
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    // "No set 1 found": it stores no directories of the caller's set, and then looks for them.
    Scenario::program("cgroups", &places).criu_cannot("it looks in vain for the caller's set").run();
}

/// On a machine where they are not there, they are made with what they said; and nothing of it stays if the restore
/// fails, at whatever step.
#[test]
fn cgroups_that_are_made_again() {
    let Some(mut cgroups) = Cgroups::of("made") else { return };
    let (empty, job) = (cgroups.version_2.join("empty"), cgroups.version_2.join("job"));
    cgroups.make(&job);
    cgroups.make(&empty);
    fs::write(cgroups.version_2.join("cgroup.max.depth"), "7").expect("a property");
    let limit = cgroups.controller.as_ref().map(|directory| directory.join("pids.max"));
    if let Some(limit) = &limit {
        fs::write(limit, "123").expect("a property");
    }
    let places = [format!("0:{}", cgroups.all("")), format!("1:{}", cgroups.second("job")), "1:".to_owned()];
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    let Some(mut tree) = Dumped::program("cgroups", &places) else { return };
    let made = |cgroups: &Cgroups| {
        assert_eq!(cgroups.there().len(), cgroups.made.len());
        let text = |path: &Path| fs::read_to_string(path).expect("a property").trim().to_owned();
        assert_eq!(text(&cgroups.version_2.join("cgroup.max.depth")), "7");
        if let Some(limit) = &limit {
            assert_eq!(text(limit), "123");
        }
    };
    cgroups.forget();
    let mut faults: Vec<String> =
        ["keep", "map", "clone", "seize", "registers", "tell"].map(|step| format!("{step}:5")).to_vec();
    faults.extend((0..cgroups.made.len()).map(|turn| format!("cgroups@{turn}:28")));
    let root = tree.root();
    faults.extend([2, 20].map(|record| format!("{root}:{record}:5")));
    for fault in &faults {
        let ended = tree.restore(&["-o", "fault.log", "--inject-fault", fault]);
        assert_eq!(ended.code, Some(1), "{fault}: {}", ended.text);
        tree.check_nothing_left(fault);
        assert!(cgroups.there().is_empty(), "{fault}: {:?} is left", cgroups.there());
    }
    let ended = tree.restore(&["-o", "made.log"]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.text, tree.work_text("made.log"));
    made(&cgroups);
    tree.check_restored("made");

    // By a stored plan, and on a machine where some are there already: those stay as they are.
    cgroups.forget();
    let dir = tree.images_dir();
    let (dir, plan) = (dir.to_str().expect("UTF-8"), tree.file("tree.plan"));
    let plan = plan.to_str().expect("UTF-8");
    let ended = tree.regrow(&["plan", "-D", dir, "--out", plan]);
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    assert!(cgroups.there().is_empty(), "a plan makes nothing");
    fs::create_dir(&cgroups.version_2).expect("a cgroup");
    fs::write(cgroups.version_2.join("cgroup.max.depth"), "9").expect("a property");
    let ended = tree.restore(&["-o", "by-plan.log", "--plan", plan]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.text, tree.work_text("by-plan.log"));
    assert_eq!(cgroups.there().len(), cgroups.made.len());
    assert_eq!(fs::read_to_string(cgroups.version_2.join("cgroup.max.depth")).expect("a property"), "9\n");
    tree.check_restored("by plan");
}

/// What `--manage-cgroups` does and what it does not.
#[test]
fn modes() {
    let Some(mut cgroups) = Cgroups::of("modes") else { return };
    let job = cgroups.version_2.join("job");
    cgroups.make(&job);
    let places = [format!("0:{}", cgroups.second("job"))];
    let Some(mut tree) = Dumped::program("cgroups", &places.each_ref().map(String::as_str)) else { return };
    let own = |tree: &mut Dumped| {
        let script = format!("grep -c regrow-modes /proc/{}/cgroup", tree.root());
        tree.shell(&script).text.trim().to_owned()
    };
    let images = tree.images_dir();
    let images = images.to_str().expect("UTF-8").to_owned();

    let root = tree.root().to_string();
    let explained = tree.regrow(&["explain", "-D", &images, "task", &root]);
    assert!(explained.text.contains("cgroup.procs"), "{}", explained.text);

    let ended = tree.restore(&["-o", "none.log", "--manage-cgroups=none"]);
    assert_eq!((ended.code, own(&mut tree).as_str()), (Some(0), "1"), "{}", ended.text);
    tree.check_restored("none, and it is there");

    cgroups.forget();
    let ended = tree.regrow(&["check", "-D", &images, "--manage-cgroups=none"]);
    assert_eq!(ended.code, Some(7), "{}", ended.text);
    assert!(ended.text.contains("is not there (--manage-cgroups=none)"), "{}", ended.text);

    let ended = tree.restore(&["-o", "ignore.log", "--manage-cgroups=ignore"]);
    assert_eq!((ended.code, own(&mut tree).as_str()), (Some(0), "0"), "{}", ended.text);
    assert!(cgroups.there().is_empty());
    // The program notices that it is elsewhere.
    fs::write(tree.state_dir().join("go"), "").expect("go");
    tree.await_gone();

    for option in
        ["--manage-cgroups=full", "--manage-cgroups=props", "--manage-cgroups=strict", "--cgroup-root=/x"]
    {
        let ended = tree.regrow(&["check", "-D", &images, option]);
        assert_eq!(ended.code, Some(6), "{option}: {}", ended.text);
        assert!(ended.text.contains(option.split("=/").next().unwrap_or(option)), "{}", ended.text);
    }
}

/// A cgroup that is frozen would hold the tree.
#[test]
fn what_is_refused() {
    let Some(mut cgroups) = Cgroups::of("refused") else { return };
    let job = cgroups.version_2.join("job");
    cgroups.make(&job);
    let places = [format!("0:{}", cgroups.second("job"))];
    let Some(mut tree) = Dumped::program("cgroups", &places.each_ref().map(String::as_str)) else { return };
    let images = tree.images_dir();
    let images = images.to_str().expect("UTF-8").to_owned();
    fs::write(job.join("cgroup.freeze"), "1").expect("frozen");
    let ended = tree.regrow(&["check", "-D", &images]);
    assert_eq!(ended.code, Some(7), "{}", ended.text);
    assert!(ended.text.contains("is frozen here"), "{}", ended.text);
    fs::write(job.join("cgroup.freeze"), "0").expect("thawed");
    let ended = tree.restore(&["-o", "thawed.log"]);
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    tree.check_restored("thawed");
}
