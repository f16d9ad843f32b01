//! The CRIU that tests and races stand on: found, and let dump tasks of other users where root lacks a capability for it.
//!
//! Also a module of the races (`benches/arena`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The CRIU to dump with. `profile`: the directory with the binaries of this build.
///
/// # Errors
/// There is none, or it does not work here: what to do about it.
pub(crate) fn find(profile: &Path) -> Result<PathBuf, String> {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return Err("only root can restore pids".to_owned());
    }
    let criu = if let Some(path) = std::env::var_os("REGROW_CRIU") {
        PathBuf::from(path)
    } else {
        let mut found: Vec<PathBuf> =
            [profile.parent().unwrap_or(profile), &Path::new(env!("CARGO_MANIFEST_DIR")).join("target")]
                .iter()
                .filter_map(|target| fs::read_dir(target.join("criu")).ok())
                .flatten()
                .filter_map(|entry| Some(entry.ok()?.path().join("criu")))
                .filter(|path| path.is_file())
                .collect();
        // The oldest: the images that most users have.
        found.sort();
        found.into_iter().next().ok_or("no CRIU to dump with: run scripts/provide-criu or set REGROW_CRIU")?
    };
    let check =
        Command::new(&criu).arg("check").output().map_err(|error| format!("{}: {error}", criu.display()))?;
    if !check.status.success() {
        let text = String::from_utf8_lossy(&check.stderr);
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(3)..].join("\n");
        return Err(format!("{} check: {end}", criu.display()));
    }
    Ok(criu)
}

/// Without CAP_SYS_RESOURCE CRIU cannot read the limits of tasks of another uid, and refuses to dump them:
/// it then runs with `tests/programs/rlimit-shim.c` preloaded.
///
/// # Errors
/// The shim cannot be made.
pub(crate) fn with_rlimit_shim(criu: PathBuf, profile: &Path) -> Result<PathBuf, String> {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
    let effective = effective.and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or("no CapEff")?;
    if effective & 1 << CAP_SYS_RESOURCE != 0 {
        return Ok(criu);
    }
    // Test programs run at the same time: each makes its own and puts it in its place by rename.
    let own = |name: &str| profile.join(format!("{name}.{}", std::process::id()));
    let place = |name: &str| {
        let path = profile.join(name);
        fs::rename(own(name), &path).map(|()| path).map_err(|error| format!("{name}: {error}"))
    };
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/rlimit-shim.c");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O2", "-o"]).arg(own("rlimit-shim.so")).arg(source);
    let status = cc.status().map_err(|error| format!("cc: {error}"))?;
    if !status.success() {
        return Err(format!("cc rlimit-shim.c: {status}"));
    }
    let shim = place("rlimit-shim.so")?;
    let script = format!("#!/bin/sh\nLD_PRELOAD={} exec {} \"$@\"\n", shim.display(), criu.display());
    fs::write(own("criu-with-shim"), script).map_err(|error| error.to_string())?;
    fs::set_permissions(own("criu-with-shim"), fs::Permissions::from_mode(0o755))
        .map_err(|error| error.to_string())?;
    place("criu-with-shim")
}
