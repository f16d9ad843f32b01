//! How fast pages get from a file in the page cache into memory, by each of the ways that there are.
//!
//! ```text
//! cargo bench --bench fill -- [--mib N] [--rounds N] [--cold]
//! ```
//!
//! | way | what the filling task does |
//! |---|---|
//! | `preadv` | `preadv(2)` into memory that has no pages |
//! | `populate` | `MADV_POPULATE_WRITE`, then `preadv(2)` |
//! | `copy` | `UFFDIO_COPY` from a mapping of the file |
//! | `memcpy` | a copy from a mapping of the file by instructions |
//! | `pwritev` | shared memory only: `pwrite(2)` from a mapping of the file into the memory's file |
//!
//! Each is measured in a process of its own, from the first call to the last, setting up and tearing down
//! included. With two threads each fills one half. What is below is the same into huge pages, into shared memory,
//! over pages that are shared with a parent, and in short runs, between which a page each is left out. Beside that
//! stands `memcpy(3)` between memory that has all its pages: nothing that copies is faster.
//!
//! With `--cold` the file is dropped from the page cache before each measurement, and other ways are compared: those above;
//! `O_DIRECT`, by which the disk writes into the memory itself; and to read the file through first, as a restore does
//! (`src/image/ahead.rs`), or to ask for it (`POSIX_FADV_WILLNEED`), and then to copy.
//!
//! The constants by which a plan chooses the way are those of the cost model (`regrow calibrate`); this shows
//! where they come from, and what there would be to gain.
//!
//! # Sources
//! userfaultfd(2), ioctl_userfaultfd(2), madvise(2), readv(2).
#![allow(clippy::print_stdout, reason = "the tables are the result")]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use regrow::sys::cache;

const PAGE: usize = 4096;
const HUGE: usize = 2 << 20;
/// Pieces of one `preadv` (IOV_MAX).
const PIECES: usize = 1024;
/// uapi/linux/userfaultfd.h
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_COPY: libc::c_ulong = 0xc028_aa03;
const UFFD_API: u64 = 0xaa;
const REGISTER_MODE_MISSING: u64 = 1;
const MADV_POPULATE_WRITE: i32 = 23;

/// How fast memory is filled
#[derive(Debug, Parser)]
struct Fill {
    /// How much is filled, in MiB
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(4..))]
    mib: u32,
    /// How often
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// From a file that is not in the page cache
    #[arg(long)]
    cold: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Preadv,
    Populate,
    Copy,
    /// As [`Way::Copy`], with the mapping of the file populated first.
    CopyPopulated,
    Memcpy,
    Pwritev,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Preadv => "preadv",
            Way::Populate => "populate, preadv",
            Way::Copy => "copy",
            Way::CopyPopulated => "populated, copy",
            Way::Memcpy => "memcpy from the mapping",
            Way::Pwritev => "pwrite from the mapping",
        }
    }
}

/// What is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    Private,
    Huge,
    Shared,
    /// Private, and a parent has pages there.
    Inherited,
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
struct Case {
    way: Way,
    memory: Memory,
    threads: usize,
    /// Pages in a row; between two rows one is left out. 0: all.
    run: usize,
}

fn main() -> Result<()> {
    let fill = Fill::parse();
    if !fill.bench {
        println!("ways to fill memory are measured by `cargo bench --bench fill`");
        return Ok(());
    }
    fill.run()
}

impl Fill {
    fn run(&self) -> Result<()> {
        let bytes = (self.mib as usize) << 20;
        let file = tempfile::tempfile().context("a file")?;
        let mut state = 1u64;
        let mut chunk = vec![0u8; 1 << 20];
        for _ in 0..self.mib {
            for word in chunk.chunks_exact_mut(8) {
                // xorshift64: no two pages are alike, and nothing compresses.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_ne_bytes());
            }
            (&file).write_all(&chunk).context("the file")?;
        }
        println!("{} MiB, GiB/s: median of {} rounds (least–most)\n", self.mib, self.rounds);
        println!("| what | 1 thread | 2 threads |\n|---|---|---|");
        let row = |label: &str, of: &mut dyn FnMut(usize) -> Result<f64>| -> Result<()> {
            let mut cells = Vec::new();
            for threads in [1, 2] {
                let mut rates = Vec::new();
                for _ in 0..self.rounds {
                    rates.push(of(threads)?);
                }
                rates.sort_by(f64::total_cmp);
                let (least, most) = (rates[0], rates[rates.len() - 1]);
                cells.push(format!("{:.2} ({least:.2}–{most:.2})", rates[rates.len() / 2]));
            }
            println!("| {label} | {} |", cells.join(" | "));
            Ok(())
        };
        let plain = |way, memory| (way, memory, 0);
        if self.cold {
            let direct = reopened(&file, libc::O_DIRECT)?;
            file.sync_all().context("the file")?;
            let case = |way, threads| Case { way, memory: Memory::Private, threads, run: 0 };
            let firsts: [(&str, First, Way, &File); 6] = [
                ("preadv", First::Nothing, Way::Preadv, &file),
                ("copy", First::Nothing, Way::Copy, &file),
                ("O_DIRECT", First::Nothing, Way::Preadv, &direct),
                ("read through, then copy", First::ReadThrough, Way::Copy, &file),
                ("read through, then preadv", First::ReadThrough, Way::Preadv, &file),
                ("asked for, copy meanwhile", First::AskedFor, Way::Copy, &file),
            ];
            for (label, first, way, from) in firsts {
                row(label, &mut |threads| {
                    drop_from_cache(&file)?;
                    let start = Instant::now();
                    first.run(&file, bytes)?;
                    let took = start.elapsed().as_secs_f64();
                    let rate = measure(case(way, threads), from, bytes)?;
                    let bytes = bytes as f64 / f64::from(1 << 30);
                    Ok(bytes / (took + bytes / rate))
                })?;
            }
            return Ok(());
        }
        row("warm memcpy", &mut |threads| in_child(|| warm_memcpy(bytes, threads)))?;
        let mut cases = vec![
            ("private", plain(Way::Preadv, Memory::Private)),
            ("private", plain(Way::Populate, Memory::Private)),
            ("private", plain(Way::Copy, Memory::Private)),
            ("private", plain(Way::CopyPopulated, Memory::Private)),
            ("private", plain(Way::Memcpy, Memory::Private)),
            ("huge pages", plain(Way::Preadv, Memory::Huge)),
            ("huge pages", plain(Way::Populate, Memory::Huge)),
            ("shared", plain(Way::Preadv, Memory::Shared)),
            ("shared", plain(Way::Populate, Memory::Shared)),
            ("shared", plain(Way::Copy, Memory::Shared)),
            ("shared", plain(Way::CopyPopulated, Memory::Shared)),
            ("shared", plain(Way::Pwritev, Memory::Shared)),
            ("over a parent's", plain(Way::Preadv, Memory::Inherited)),
            ("over a parent's, dropped first", plain(Way::Copy, Memory::Inherited)),
        ];
        for run in [1, 4, 16, 64, 256] {
            cases.push(("runs", (Way::Preadv, Memory::Private, run)));
            cases.push(("runs", (Way::Copy, Memory::Private, run)));
        }
        for run in [1, 4, 16, 64] {
            cases.push(("runs over a parent's", (Way::Preadv, Memory::Inherited, run)));
            cases.push(("runs over a parent's, dropped first", (Way::Copy, Memory::Inherited, run)));
        }
        for (label, (way, memory, run)) in cases {
            let label = match run {
                0 => format!("{label}: {}", way.name()),
                _ => format!("{label} of {run} pages: {}", way.name()),
            };
            row(&label, &mut |threads| measure(Case { way, memory, threads, run }, &file, bytes))?;
        }
        Ok(())
    }
}

/// What is done before a cold file is copied from.
#[derive(Debug, Clone, Copy)]
enum First {
    Nothing,
    ReadThrough,
    AskedFor,
}

impl First {
    fn run(self, file: &File, bytes: usize) -> Result<()> {
        match self {
            First::Nothing => Ok(()),
            First::ReadThrough => std::thread::scope(|scope| {
                let half = bytes / 2;
                let other = scope.spawn(move || read_through(file, half, bytes));
                read_through(file, 0, half)?;
                other.join().ok().context("a thread panicked")?
            }),
            First::AskedFor => {
                for at in (0..bytes).step_by(HUGE) {
                    // SAFETY: no pointers.
                    let result = unsafe {
                        libc::posix_fadvise(
                            file.as_raw_fd(),
                            at as i64,
                            HUGE as i64,
                            libc::POSIX_FADV_WILLNEED,
                        )
                    };
                    ensure!(result == 0, "posix_fadvise: {}", io::Error::from_raw_os_error(result));
                }
                Ok(())
            }
        }
    }
}

fn read_through(file: &File, from: usize, to: usize) -> Result<()> {
    let file = reopened(file, 0)?;
    let null = File::options().write(true).open("/dev/null").context("/dev/null")?;
    let mut at = from as u64;
    while at < to as u64 {
        match cache::read_through(&file, &null, at, (to as u64 - at).min(8 << 20)).context("sendfile")? {
            0 => anyhow::bail!("the file is too short"),
            read => at += read,
        }
    }
    Ok(())
}

/// Another description of the same file.
fn reopened(file: &File, flags: i32) -> Result<File> {
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::options().read(true).custom_flags(flags).open(name).context("the file, opened once more")
}

fn drop_from_cache(file: &File) -> Result<()> {
    // SAFETY: no pointers.
    let result = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    ensure!(result == 0, "posix_fadvise: {}", io::Error::from_raw_os_error(result));
    Ok(())
}

/// Anonymous memory; or, of a file, its pages.
fn map(bytes: usize, prot: i32, flags: i32, file: Option<&File>) -> Result<usize> {
    let (flags, fd) = match file {
        Some(file) => (flags, file.as_raw_fd()),
        None => (flags | libc::MAP_ANONYMOUS, -1),
    };
    // SAFETY: no address is given, so nothing is replaced.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, prot, flags, fd, 0) };
    ensure!(start != libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
    Ok(start as usize)
}

fn check(what: &str, result: i64) -> Result<i64> {
    ensure!(result >= 0, "{what}: {}", io::Error::last_os_error());
    Ok(result)
}

fn advise(start: usize, bytes: usize, advice: i32) -> Result<()> {
    // SAFETY: the callers name memory that was mapped here and that no reference points into.
    let result = unsafe { libc::madvise(start as *mut libc::c_void, bytes, advice) };
    check("madvise", result.into()).map(drop)
}

/// Runs it in a process of its own; what it gives is the number of bytes a second, in GiB.
fn in_child(body: impl FnOnce() -> Result<f64>) -> Result<f64> {
    let shared = map(PAGE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, None)?;
    // SAFETY: this program has one thread between measurements.
    let pid = check("fork", unsafe { libc::fork() }.into())? as i32;
    if pid == 0 {
        let code = match body() {
            Ok(rate) => {
                // SAFETY: a page of its own, shared with the parent, which reads it when this process has ended.
                unsafe { (shared as *mut f64).write(rate) };
                0
            }
            Err(error) => {
                println!("{error:#}");
                1
            }
        };
        // SAFETY: nothing of the parent's is to be run here.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: the child that was just forked; the status is a live value.
    check("waitpid", unsafe { libc::waitpid(pid, &raw mut status, 0) }.into())?;
    ensure!(status == 0, "a measurement failed");
    // SAFETY: as above; the page was zeros at first, which are a number, too.
    let rate = unsafe { (shared as *const f64).read() };
    // SAFETY: mapped above.
    unsafe { libc::munmap(shared as *mut libc::c_void, PAGE) };
    Ok(rate)
}

/// GiB/s of `bytes` that `body` handles, half of them in each thread where there are two.
fn timed(bytes: usize, threads: usize, body: impl Fn(usize, usize) -> Result<usize> + Sync) -> Result<f64> {
    let start = Instant::now();
    let done: usize = if threads == 1 {
        body(0, bytes)?
    } else {
        let half = bytes / 2 / HUGE * HUGE;
        std::thread::scope(|scope| -> Result<usize> {
            let other = scope.spawn(|| body(half, bytes - half));
            let own = body(0, half)?;
            Ok(own + other.join().ok().context("a thread panicked")??)
        })?
    };
    Ok(done as f64 / f64::from(1 << 30) / start.elapsed().as_secs_f64())
}

fn copy_words(to: usize, from: usize, bytes: usize) {
    // SAFETY: the callers name two ranges of mappings of their own, which do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
}

fn warm_memcpy(bytes: usize, threads: usize) -> Result<f64> {
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let from = map(bytes, rw, libc::MAP_PRIVATE | libc::MAP_POPULATE, None)?;
    let to = map(bytes, rw, libc::MAP_PRIVATE | libc::MAP_POPULATE, None)?;
    timed(bytes, threads, |at, len| {
        copy_words(to + at, from + at, len);
        Ok(len)
    })
}

/// The runs that start within a range: first byte and length.
fn runs(at: usize, len: usize, run: usize) -> Vec<(usize, usize)> {
    if run == 0 {
        return vec![(at, len)];
    }
    let step = (run + 1) * PAGE;
    (at.next_multiple_of(step)..at + len).step_by(step).map(|start| (start, run * PAGE)).collect()
}

fn measure(case: Case, file: &File, bytes: usize) -> Result<f64> {
    // Whole runs only.
    let bytes = bytes / (case.run + 1) / PAGE * (case.run + 1) * PAGE;
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let to = match case.memory {
        Memory::Private => map(bytes, rw, libc::MAP_PRIVATE, None)?,
        Memory::Inherited => map(bytes, rw, libc::MAP_PRIVATE | libc::MAP_POPULATE, None)?,
        Memory::Huge => {
            let start = map(bytes + HUGE, rw, libc::MAP_PRIVATE, None)?.next_multiple_of(HUGE);
            advise(start, bytes, libc::MADV_HUGEPAGE)?;
            start
        }
        Memory::Shared => map(bytes, rw, libc::MAP_SHARED, None)?,
    };
    let result = in_child(|| fill(case, file, to, bytes));
    // SAFETY: mapped above.
    unsafe { libc::munmap(to as *mut libc::c_void, bytes) };
    result
}

fn fill(case: Case, file: &File, to: usize, bytes: usize) -> Result<f64> {
    let start = Instant::now();
    let mut filled = 0;
    match case.way {
        Way::Preadv | Way::Populate => {
            timed(bytes, case.threads, |at, len| read(case, file, to, (at, len)))?;
        }
        Way::Copy | Way::CopyPopulated => {
            let populate = if case.way == Way::CopyPopulated { libc::MAP_POPULATE } else { 0 };
            let from = map(bytes, libc::PROT_READ, libc::MAP_SHARED | populate, Some(file))?;
            if case.memory == Memory::Inherited {
                for (at, len) in runs(0, bytes, case.run) {
                    advise(to + at, len, libc::MADV_DONTNEED)?;
                }
            }
            let fd = userfaultfd(to, bytes)?;
            timed(bytes, case.threads, |at, len| {
                for (at, len) in runs(at, len, case.run) {
                    copy(&fd, to + at, from + at, len)?;
                }
                Ok(len)
            })?;
            drop(fd);
            // SAFETY: mapped above.
            unsafe { libc::munmap(from as *mut libc::c_void, bytes) };
        }
        Way::Memcpy => {
            let from = map(bytes, libc::PROT_READ, libc::MAP_SHARED, Some(file))?;
            timed(bytes, case.threads, |at, len| {
                copy_words(to + at, from + at, len);
                Ok(len)
            })?;
        }
        Way::Pwritev => {
            let from = map(bytes, libc::PROT_READ, libc::MAP_SHARED, Some(file))?;
            let name = format!("/proc/self/map_files/{to:x}-{:x}", to + bytes);
            let memory = File::options().write(true).open(name).context("map_files")?;
            timed(bytes, case.threads, |at, len| {
                let from = (from + at) as *const libc::c_void;
                // SAFETY: a part of the mapping.
                let result = unsafe { libc::pwrite(memory.as_raw_fd(), from, len, at as i64) };
                ensure!(check("pwrite", result as i64)? as usize == len, "a short write");
                Ok(len)
            })?;
        }
    }
    let elapsed = start.elapsed();
    // What was to be filled holds it: every page is looked at.
    let holds = map(bytes, libc::PROT_READ, libc::MAP_SHARED, Some(file))?;
    for (at, len) in runs(0, bytes, case.run) {
        filled += len;
        for page in (at..at + len).step_by(PAGE) {
            // SAFETY: both are mapped, and as long.
            let (is, wanted) =
                unsafe { (((to + page) as *const u64).read(), ((holds + page) as *const u64).read()) };
            ensure!(is == wanted, "{:?}: page {page:#x} holds something else", case);
        }
    }
    Ok(filled as f64 / f64::from(1 << 30) / elapsed.as_secs_f64())
}

/// Reads with a sink for what is left out.
fn read(case: Case, file: &File, to: usize, (at, len): (usize, usize)) -> Result<usize> {
    if case.way == Way::Populate {
        advise(to + at, len, MADV_POPULATE_WRITE)?;
    }
    let mut sink = [0u8; PAGE];
    let sink = libc::iovec { iov_base: sink.as_mut_ptr().cast(), iov_len: PAGE };
    let runs = runs(at, len, case.run);
    for runs in runs.chunks(PIECES / 2) {
        let mut pieces = Vec::with_capacity(PIECES);
        for (at, len) in runs {
            if !pieces.is_empty() {
                pieces.push(sink);
            }
            pieces.push(libc::iovec { iov_base: (to + at) as *mut libc::c_void, iov_len: *len });
        }
        let total: usize = pieces.iter().map(|piece| piece.iov_len).sum();
        let mut done = 0;
        while done < total {
            // Only a read without gaps is longer than one call brings.
            if done > 0 {
                pieces[0].iov_base = (to + at + done) as *mut libc::c_void;
                pieces[0].iov_len = total - done;
            }
            let offset = (runs[0].0 + done) as i64;
            // SAFETY: the pieces are memory of this measurement, and live ones.
            let result =
                unsafe { libc::preadv(file.as_raw_fd(), pieces.as_ptr(), pieces.len() as i32, offset) };
            let result = check("preadv", result as i64)? as usize;
            ensure!(result > 0 && (done + result == total || pieces.len() == 1), "a short read");
            done += result;
        }
    }
    Ok(len)
}

fn userfaultfd(to: usize, bytes: usize) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    let fd = check("userfaultfd", fd)? as i32;
    let mut api = [UFFD_API, 0, 0];
    let mut range = [to as u64, bytes as u64, REGISTER_MODE_MISSING, 0];
    // SAFETY: the descriptor is new and nobody else's; both structures are as long as the calls say.
    let fd = unsafe {
        check("UFFDIO_API", libc::ioctl(fd, UFFDIO_API, api.as_mut_ptr()).into())?;
        check("UFFDIO_REGISTER", libc::ioctl(fd, UFFDIO_REGISTER, range.as_mut_ptr()).into())?;
        OwnedFd::from_raw_fd(fd)
    };
    Ok(fd)
}

fn copy(fd: &OwnedFd, to: usize, from: usize, len: usize) -> Result<()> {
    let mut copy = [to as u64, from as u64, len as u64, 0, 0];
    // SAFETY: the structure is as long as the call says, and the memory is this measurement's.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_COPY, copy.as_mut_ptr()) };
    check("UFFDIO_COPY", result.into())
        .with_context(|| format!("{} of {len} bytes", copy[4] as i64))
        .map(drop)
}
