//! The init of another kernel, booted to dump a program there: makes a file system of what came with it,
//! runs the program, dumps it by CRIU and sends the images over the second serial line.
//!
//! What it does is said by `/guest.json`:
//! `{"program":[..],"criu":[..],"state":DIR,"images":DIR,"last_pid":N,
//! "capabilities":MASK}`, the last for the program's bounding set. The answer is, for each file of the
//! images, a line `{"name":NAME,"bytes":N}` with the bytes behind it, and a last line
//! `{"status":S,"release":R}` (the raw wait status of CRIU, the kernel's name) or `{"error":TEXT}`.
//!
//! Kernel modules in `/modules` are loaded first. The program runs in a session of its own, on `/dev/null`; it is ready when the file `ready` is in `state`.

#![allow(clippy::print_stdout, reason = "standard output is the console")]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot, setsid};
use serde_json::{Value, json};

type Error = Box<dyn std::error::Error>;

/// How long the program may take to get ready, on an emulated CPU.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the file system is made.
const ROOT: &str = "/root-to-be";
const LINE: &str = "/dev/ttyS1";

fn main() {
    if let Err(error) = prepare_root() {
        println!("guestinit: {error}");
        power_off();
    }
    if let Err(error) = send() {
        println!("guestinit: {LINE}: {error}");
    }
    power_off()
}

/// The initial file system is one that CRIU does not know as a root: everything moves to a tmpfs.
fn prepare_root() -> Result<(), Error> {
    let none: Option<&str> = None;
    let entries: Vec<_> = fs::read_dir("/")?.collect::<Result<_, _>>()?;
    fs::create_dir(ROOT)?;
    mount(Some("tmpfs"), ROOT, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    for entry in entries {
        copy(&entry.path(), &Path::new(ROOT).join(entry.file_name()))?;
    }
    for (kind, at) in [("proc", "proc"), ("sysfs", "sys"), ("devtmpfs", "dev")] {
        let at = Path::new(ROOT).join(at);
        fs::create_dir_all(&at)?;
        mount(Some(kind), &at, Some(kind), MsFlags::empty(), none)?;
    }
    chdir(ROOT)?;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none)?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}

/// Copies directories, files and links, with their modes.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let metadata = fs::symlink_metadata(from)?;
    if metadata.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        fs::set_permissions(to, metadata.permissions())?;
    } else if metadata.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
    } else if metadata.is_file() {
        fs::copy(from, to)?;
    }
    Ok(())
}

fn send() -> Result<(), Error> {
    let mut line = OpenOptions::new().write(true).open(LINE)?;
    let mut settings = nix::sys::termios::tcgetattr(&line)?;
    nix::sys::termios::cfmakeraw(&mut settings);
    nix::sys::termios::tcsetattr(&line, nix::sys::termios::SetArg::TCSANOW, &settings)?;
    let last = match dump(&mut line) {
        Ok(status) => {
            let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
            json!({ "status": status, "release": release.trim() })
        }
        Err(error) => json!({ "error": error.to_string() }),
    };
    writeln!(line, "{last}")?;
    nix::sys::termios::tcdrain(&line)?;
    Ok(())
}

/// Runs and dumps the program; gives CRIU's wait status.
fn dump(line: &mut impl Write) -> Result<i32, Error> {
    let plan: Value = serde_json::from_str(&fs::read_to_string("/guest.json")?)?;
    let strings = |key: &str| -> Vec<String> {
        let list = plan[key].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let path = |key: &str| Path::new(plan[key].as_str().unwrap_or_default()).to_owned();
    let (program, criu, state, images) = (strings("program"), strings("criu"), path("state"), path("images"));
    fs::create_dir_all(&state)?;
    fs::create_dir_all(&images)?;
    fs::create_dir_all("/tmp")?;
    fs::set_permissions("/tmp", fs::Permissions::from_mode(0o1777))?;
    fs::create_dir_all("/run")?;
    for entry in fs::read_dir("/modules")? {
        let module = fs::File::open(entry?.path())?;
        nix::kmod::finit_module(&module, c"", nix::kmod::ModuleInitFlags::empty())?;
    }
    loopback_up()?;
    fs::write("/proc/sys/kernel/ns_last_pid", plan["last_pid"].to_string())?;

    let mut command = Command::new(program.first().ok_or("no program")?);
    command.args(&program[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let capabilities = plan["capabilities"].as_u64().unwrap_or(u64::MAX);
    let drop_others = move || {
        for capability in (0..64).filter(|bit| capabilities >> bit & 1 == 0) {
            // SAFETY: takes no pointer. Those that the kernel does not know are refused.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
        setsid().map(drop).map_err(Into::into)
    };
    // SAFETY: only plain system calls between fork and exec.
    unsafe { command.pre_exec(drop_others) };
    let mut child = command.spawn()?;
    let start = Instant::now();
    while !state.join("ready").exists() {
        if let Some(status) = child.try_wait()? {
            return Err(format!("the program has ended: {status}").into());
        }
        if start.elapsed() > PATIENCE {
            return Err("the program does not get ready".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("guestinit: the program is ready after {:?}", start.elapsed());
    let start = Instant::now();
    let status = Command::new(criu.first().ok_or("no CRIU")?)
        .args(&criu[1..])
        .args(["dump", "-t", &child.id().to_string(), "-o", "dump.log", "-v4", "-D"])
        .arg(&images)
        .stdin(Stdio::null())
        .status()?;
    println!("guestinit: criu dump took {:?}: {status}", start.elapsed());
    for entry in fs::read_dir(&images)? {
        let entry = entry?;
        let bytes = fs::read(entry.path())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        writeln!(line, "{}", json!({ "name": name, "bytes": bytes.len() }))?;
        line.write_all(&bytes)?;
    }
    Ok(status.into_raw())
}

/// CRIU does not start without a network to try things on (netdevice(7)).
fn loopback_up() -> Result<(), Error> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: an all-zero structure is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads the structure, which lives.
    let result = unsafe {
        libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCSIFFLAGS, &raw const request)
    };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// The machine ends, and its emulator with it.
fn power_off() -> ! {
    nix::unistd::sync();
    let _ = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF);
    std::process::abort()
}
