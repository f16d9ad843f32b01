//! A program dumped under another kernel: Debian's, booted by an emulator (`scripts/provide-guest`) with
//! the program, its libraries and CRIU at the paths that they have here.
//!
//! ```text
//! initial file system: guestinit, the program, CRIU ─▶ boot ─ program ready ─ criu dump ─▶ serial line ─▶ images
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Outcome, PID_BEFORE_ROOT, shown, tail};

/// Booting and dumping takes some twenty seconds on an idle machine.
const LIMIT: Duration = Duration::from_secs(300);

/// A CPU without AVX-512, shadow stacks and the like: any machine of today has what a task of it needs.
const CPU: &str = "Haswell-v4,-pcid,-tsc-deadline,-invpcid,-spec-ctrl,enforce=off";

/// The other kernel, and what boots it.
pub(crate) struct Guest {
    folder: PathBuf,
}

/// What there is to be dumped.
pub(crate) struct Job<'a> {
    /// The init of the guest: `guestinit`.
    pub(crate) init: &'a Path,
    /// The program and its arguments.
    pub(crate) program: &'a [String],
    /// CRIU as `scripts/provide-criu` unpacks it.
    pub(crate) criu: &'a Path,
    /// Where the program says that it is ready.
    pub(crate) state: &'a Path,
    /// Where the images go, here and there.
    pub(crate) images: &'a Path,
    /// For files of this job.
    pub(crate) work: &'a Path,
}

impl Guest {
    /// What `scripts/provide-guest` has unpacked; an error says what is missing.
    pub(crate) fn find(target: &Path) -> Outcome<Guest> {
        let folders = [target.join("guest"), Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest")];
        let folder = folders.into_iter().find(|folder| folder.join(".complete").exists());
        folder
            .map(|folder| Guest { folder })
            .ok_or("no other kernel to dump under: run scripts/provide-guest".to_owned())
    }

    /// Boots, dumps, and gives the other kernel's release. The images are in their directory then.
    pub(crate) fn dump(&self, job: &Job<'_>) -> Outcome<String> {
        let archive = job.work.join("guest.cpio");
        self.build_archive(job, &archive).map_err(|error| format!("{}: {error}", archive.display()))?;
        let (console, line) = (job.work.join("guest.console"), job.work.join("guest.line"));
        let errors = job.work.join("guest.errors");
        let errors_file =
            fs::File::create(&errors).map_err(|error| format!("{}: {error}", errors.display()))?;
        // Its modules and its firmware are where they were unpacked.
        let unpacked = self.folder.join("root/usr");
        let mut emulator = Command::new(self.folder.join("qemu"))
            .env("QEMU_MODULE_DIR", unpacked.join("lib/x86_64-linux-gnu/qemu"))
            .arg("-L")
            .arg(unpacked.join("share/qemu"))
            .arg("-L")
            .arg(unpacked.join("share/seabios"))
            .args(["-machine", "pc,accel=tcg", "-cpu", CPU, "-m", "512", "-smp", "1", "-display", "none"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .arg("-kernel")
            .arg(self.folder.join("vmlinuz"))
            .arg("-initrd")
            .arg(&archive)
            .args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/guestinit mitigations=off"])
            .args([
                "-serial",
                &format!("file:{}", shown(&console)),
                "-serial",
                &format!("file:{}", shown(&line)),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors_file)
            .spawn()
            .map_err(|error| format!("qemu: {error}"))?;
        let start = Instant::now();
        let status = loop {
            match emulator.try_wait() {
                Ok(Some(status)) => break Ok(status),
                Ok(None) if start.elapsed() < LIMIT => std::thread::sleep(Duration::from_millis(50)),
                other => {
                    let _ = emulator.kill();
                    let _ = emulator.wait();
                    break Err(format!("it did not end: {other:?}"));
                }
            }
        };
        let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let (errors, console) = (text(&errors), text(&console));
        let failed = |what: String| format!("the other kernel: {what}\n{errors}\n{}", tail(&console, 20));
        status.map_err(failed)?;
        let last = unpack(&fs::read(&line).unwrap_or_default(), job.images).map_err(failed)?;
        if last["status"] != json!(0) {
            let log = fs::read_to_string(job.images.join("dump.log")).unwrap_or_default();
            return Err(failed(format!("{last}\n{}", tail(&log, 20))));
        }
        Ok(last["release"].as_str().unwrap_or_default().to_owned())
    }

    /// The initial file system: all in one archive of the format `newc`
    /// (Documentation/driver-api/early-userspace/buffer-format.rst).
    fn build_archive(&self, job: &Job<'_>, path: &Path) -> std::io::Result<()> {
        let criu = job.criu.parent().unwrap_or(job.criu);
        let mut files = BTreeSet::new();
        for program in [job.init, Path::new(&job.program[0])] {
            files.insert(program.to_owned());
            files.extend(libraries(program));
        }
        // The wrapper is a script, and there is no shell.
        let (argv, own) = criu_argv(criu)?;
        files.extend(own);
        let plan = json!({
            "program": job.program,
            "criu": argv,
            "state": job.state,
            "images": job.images,
            "last_pid": PID_BEFORE_ROOT,
            // Others could not be given back here.
            "capabilities": own_capabilities(),
        });
        let mut archive = Archive {
            file: std::io::BufWriter::new(fs::File::create(path)?),
            at: 0,
            inode: 0,
            made: BTreeSet::new(),
        };
        archive.entry("guest.json", 0o100_644, plan.to_string().as_bytes())?;
        archive.entry("guestinit", 0o100_755, &fs::read(job.init)?)?;
        archive.directories(Path::new("/dev/console"))?;
        archive.directories(Path::new("/modules/any"))?;
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|it| it == "ko")) {
                archive.entry(&format!("modules/{}", name.display()), 0o100_644, &fs::read(&path)?)?;
            }
        }
        for file in files {
            archive.directories(&file)?;
            let mode = fs::metadata(&file)?.permissions().mode();
            archive.entry(&shown(&file)[1..], mode, &fs::read(&file)?)?;
        }
        archive.entry("TRAILER!!!", 0, &[])?;
        archive.file.flush()
    }
}

/// Writes the files that came over the line; gives its last line.
fn unpack(mut rest: &[u8], images: &Path) -> Outcome<Value> {
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or("it said nothing, or not all")?;
        let line: Value = serde_json::from_slice(&rest[..end]).map_err(|error| error.to_string())?;
        rest = &rest[end + 1..];
        let (Some(name), Some(bytes)) = (line["name"].as_str(), line["bytes"].as_u64()) else {
            return Ok(line);
        };
        let (file, next) = rest.split_at_checked(bytes as usize).ok_or(format!("{name} is cut off"))?;
        fs::write(images.join(name), file).map_err(|error| format!("{name}: {error}"))?;
        rest = next;
    }
}

/// The bounding set of this process.
fn own_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let text = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t"));
    text.and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(u64::MAX)
}

/// The loader and the libraries of a program, as the loader lists them.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// How to start CRIU without its wrapper, and the files that this takes.
fn criu_argv(folder: &Path) -> std::io::Result<(Vec<String>, Vec<PathBuf>)> {
    // Debian has it in bin or in sbin.
    let is_criu = |path: &Path| path.ends_with("bin/criu") || path.ends_with("sbin/criu");
    let mut files = Vec::new();
    let mut folders = vec![folder.join("root")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if path.is_file() && (name.contains(".so") || is_criu(&path)) {
                files.push(path);
            }
        }
    }
    let find = |is: &dyn Fn(&Path) -> bool| {
        files.iter().find(|path| is(path)).map(|path| shown(path)).unwrap_or_default()
    };
    let loader =
        find(&|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux")));
    let program = find(&is_criu);
    let folders: BTreeSet<String> = files.iter().filter_map(|path| path.parent()).map(shown).collect();
    let libraries = folders.into_iter().collect::<Vec<_>>().join(":");
    Ok((vec![loader, "--library-path".to_owned(), libraries, program], files))
}

struct Archive {
    file: std::io::BufWriter<fs::File>,
    at: usize,
    inode: u32,
    made: BTreeSet<PathBuf>,
}

impl Archive {
    /// The directories above a path.
    fn directories(&mut self, path: &Path) -> std::io::Result<()> {
        let above: Vec<&Path> = path.ancestors().skip(1).filter(|path| path.parent().is_some()).collect();
        for directory in above.into_iter().rev() {
            if self.made.insert(directory.to_owned()) {
                self.entry(&shown(directory)[1..], 0o040_755, &[])?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> std::io::Result<()> {
        self.inode += 1;
        let numbers =
            [self.inode, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        let header: String = numbers.iter().map(|number| format!("{number:08x}")).collect();
        self.put(format!("070701{header}{name}\0").as_bytes())?;
        self.put(content)
    }

    /// Names and contents are filled up to a multiple of four bytes.
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)?;
        self.at += bytes.len();
        let pad = self.at.next_multiple_of(4) - self.at;
        self.at += pad;
        self.file.write_all(&[0; 3][..pad])
    }
}
