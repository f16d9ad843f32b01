//! What targets run on: facts about a host that is always the same as far as it can be, and a directory in memory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use regrow::host::{self, FileFact, FileStat, HostFacts};
use regrow::image::{Model, NsPid};

use crate::archive::{self, File};

/// Files that the seeds name and that are to be there, with their modes.
const THERE: [(&str, u32); 5] = [
    ("/fuzz/executable", 0o100_755),
    ("/fuzz/file-0", 0o100_644),
    ("/fuzz/fifo", 0o010_644),
    ("/fuzz", 0o040_755),
    ("/tmp/pair", 0o100_755),
];

static FACTS: OnceLock<HostFacts> = OnceLock::new();

/// Before anything else: one thread for all, so that a run's memory and time are its own and coverage is the same each time.
pub fn begin() {
    crate::limit::lift_for_panics();
    let built = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global();
    if let Err(error) = built {
        eprintln!("no pool of one thread: {error}");
        std::process::abort();
    }
}

/// Learns what the models ask of this host, once, and completes it.
pub fn learn(models: &[Model]) {
    let mut facts = HostFacts::default();
    let mut files: BTreeMap<String, FileFact> = BTreeMap::new();
    for model in models {
        facts = host::gather(model, None);
        files.append(&mut facts.files);
    }
    // Names of synthetic files have a number.
    let named: Vec<String> = files.keys().cloned().collect();
    for name in named {
        let mode = THERE.iter().find(|(there, _)| name == *there).map(|(_, mode)| *mode);
        let mode = mode.or_else(|| name.starts_with("/fuzz/regrow").then_some(0o100_644));
        if let Some(mode) = mode {
            let stat =
                FileStat { mode, size_bytes: 4096, rdev: 0, ino: 9, dev: 9, block_bytes: 4096, sectors: 8 };
            let fact = FileFact { reached: Ok(stat), is_symlink: false, build_id: None, huge: None };
            files.insert(name, fact);
        }
    }
    facts.files = files;
    facts.pids.taken.clear();
    facts.pids.taken_by_absent_leaders.clear();
    facts.pids.pid_max = Some(1 << 22);
    facts.pids.spare = (4_000_000..4_000_016).map(NsPid).collect();
    let _ = FACTS.set(facts);
}

/// What was learned.
pub fn facts() -> HostFacts {
    FACTS.get().cloned().unwrap_or_default()
}

/// A directory of this process below `REGROW_FUZZ_DIR`, or in memory.
pub fn directory(name: &str) -> io::Result<PathBuf> {
    let base = std::env::var_os("REGROW_FUZZ_DIR").unwrap_or_else(|| "/dev/shm/regrow-fuzz".into());
    let path = Path::new(&base).join(std::process::id().to_string()).join(name);
    fs::create_dir_all(&path)?;
    Ok(path)
}

/// Makes the directory hold these files and no others; gives their length.
pub fn place(dir: &Path, files: &[File]) -> io::Result<usize> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Of a link, the link and not what it leads to.
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    let mut sum = 0usize;
    for file in files {
        place_one(dir, file)?;
        sum = sum.saturating_add(file.len());
    }
    Ok(sum)
}

/// Writes one file, or makes one link.
pub fn place_one(dir: &Path, file: &File) -> io::Result<()> {
    let (number, name) = file.place();
    let path = dir.join(archive::directory_name(number)).join(name);
    if let Some(before) = path.parent() {
        fs::create_dir_all(before)?;
    }
    if let Some(to) = file.leads_to() {
        let to = to.map_or_else(|| "none".to_owned(), archive::directory_name);
        let up = if number == 0 { "." } else { ".." };
        return std::os::unix::fs::symlink(Path::new(up).join(to), path);
    }
    fs::write(&path, &file.bytes)?;
    if file.zeros > 0 {
        fs::OpenOptions::new().write(true).open(&path)?.set_len(file.len() as u64)?;
    }
    Ok(())
}

/// The images of a directory, by name, and those of the dumps before that are in it (`parent`), as many as an archive
/// holds.
pub fn files(dir: &Path) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    let mut dir = dir.to_owned();
    for number in 0..=archive::BEFORE {
        let prefix = if number == 0 { String::new() } else { archive::directory_name(number) + "/" };
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str().filter(|name| name.ends_with(".img")) {
                files.push(File::new(&format!("{prefix}{name}"), fs::read(entry.path())?));
            }
        }
        dir = dir.join(archive::LINK);
        if number == archive::BEFORE || !dir.is_dir() {
            break;
        }
        files.push(File::link(&format!("{prefix}{}", archive::LINK), number + 1));
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(files)
}

/// An error of the harness itself ends the process: it must not look like a clean run.
pub fn must<T, E: std::fmt::Display>(result: Result<T, E>, what: &str) -> T {
    result.unwrap_or_else(|error| {
        eprintln!("the harness is broken: {what}: {error}");
        std::process::exit(2)
    })
}
