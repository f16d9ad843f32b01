//! The memfd with the tapes, and its mappings.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU32;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::tape::Tapes;
use crate::tape::abi::Control;

/// A memfd that holds assembled tapes.
///
/// # Errors
/// The kernel's, of memfd_create(2) or write(2).
pub fn create(tapes: &Tapes) -> std::io::Result<OwnedFd> {
    // MFD_EXEC: tapes are executed; without it vm.memfd_noexec may forbid that.
    const MFD_EXEC: MFdFlags = MFdFlags::from_bits_retain(0x10);
    let flags = MFdFlags::MFD_CLOEXEC;
    let fd = memfd_create(c"regrow", flags | MFD_EXEC).or_else(|errno| match errno {
        // Kernels before 6.3 do not know the flag.
        Errno::EINVAL => memfd_create(c"regrow", flags),
        other => Err(other),
    })?;
    let mut file = File::from(fd);
    file.write_all(&tapes.rw)?;
    file.write_all(&tapes.ro)?;
    if let Some(area) = tapes.trace() {
        file.write_all(crate::runner::traced_code())?;
        let slots = area.slots - tapes.base;
        for (at, words) in tapes.marked_slots() {
            file.write_all_at(&words.map(u64::to_ne_bytes).concat(), slots + at)?;
        }
        file.seek(SeekFrom::Start(tapes.region_len()))?;
    }
    // Behind what is mapped: for the launcher.
    file.write_all(&crate::tape::launcher_table(&tapes.undo, &tapes.cgroups)?)?;
    if file.metadata()?.len() < tapes.region_len() {
        file.set_len(tapes.region_len())?;
    }
    Ok(file.into())
}

/// Where tasks have the region.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Address.
    pub base: u64,
    /// Length of the written part.
    pub rw_len: u64,
    /// Length of the part that is only read and executed; that with a traced runner too.
    pub ro_len: u64,
    /// Length of the part that the traced runner writes; 0 where nothing is traced.
    pub trace_len: u64,
}

impl Place {
    /// That of tapes.
    pub fn of(tapes: &Tapes) -> Place {
        let (code_len, trace_len) = tapes.trace().map_or((0, 0), |area| (area.code_len, area.slots_len));
        let ro_len = tapes.ro.len() as u64 + code_len;
        Place { base: tapes.base, rw_len: tapes.rw.len() as u64, ro_len, trace_len }
    }
}

/// The slots of a traced run, as they are now: empty where nothing is traced.
///
/// # Errors
/// The kernel's, of pread(2).
pub fn read_slots(fd: BorrowedFd<'_>, tapes: &Tapes) -> std::io::Result<Vec<u8>> {
    let Some(area) = tapes.trace() else { return Ok(Vec::new()) };
    let mut slots = vec![0; area.slots_len as usize];
    File::from(fd.try_clone_to_owned()?).read_exact_at(&mut slots, area.slots - tapes.base)?;
    Ok(slots)
}

/// Maps the region where the tasks will have it. Nothing may be mapped there.
///
/// # Errors
/// The kernel's: EEXIST where something is in the way.
pub fn map_in_place(fd: BorrowedFd<'_>, place: Place) -> Result<InPlace, Errno> {
    let behind = place.rw_len + place.ro_len;
    let parts = [
        (place.base, place.rw_len, libc::PROT_READ | libc::PROT_WRITE, 0),
        (place.base + place.rw_len, place.ro_len, libc::PROT_READ | libc::PROT_EXEC, place.rw_len),
        (place.base + behind, place.trace_len, libc::PROT_READ | libc::PROT_WRITE, behind),
    ];
    for (address, len, prot, offset) in parts.into_iter().filter(|(_, len, ..)| *len > 0) {
        // SAFETY: MAP_FIXED_NOREPLACE takes nothing away that this program uses.
        let at = unsafe {
            libc::mmap(
                address as *mut libc::c_void,
                len as usize,
                prot,
                libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE,
                fd.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        if at.addr() as u64 != address {
            // Kernels before 4.17 take the address as a hint.
            return Err(Errno::EEXIST);
        }
    }
    Ok(InPlace { control: place.base as *mut Control })
}

/// The region where the tasks have it. It stays mapped for the life of the process.
#[derive(Debug, Clone, Copy)]
pub struct InPlace {
    control: *mut Control,
}

impl InPlace {
    /// The launcher's thread, or that it has died.
    pub fn launcher(self) -> &'static AtomicU32 {
        // SAFETY: `map_in_place` has mapped the control block for good, the field is aligned, and all
        // who touch it do so atomically.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.control).launcher) }
    }

    /// 1: the tree lives.
    pub fn committed(self) -> &'static AtomicU32 {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.control).committed) }
    }
}

/// The control block, mapped somewhere: what tasks and coordinator tell each other.
#[derive(Debug)]
pub struct Shared {
    control: *mut Control,
    // Keeps the mapping's file.
    _fd: OwnedFd,
}

impl Shared {
    /// Maps the head of the region.
    ///
    /// # Errors
    /// The kernel's.
    pub fn map(fd: BorrowedFd<'_>) -> std::io::Result<Shared> {
        let fd = fd.try_clone_to_owned()?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; the memfd has at least a page
        // (the written part is never empty).
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Control>(),
                prot,
                libc::MAP_SHARED,
                fd.as_fd().as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Shared { control: at.cast(), _fd: fd })
    }

    fn word(&self, field: impl Fn(*mut Control) -> *mut u32) -> &AtomicU32 {
        // SAFETY: the mapping lives as long as `self`, the field is aligned (repr(C), asserted in
        // abi.rs), and all who touch it do so atomically: the runner by lock-prefixed instructions
        // or aligned moves.
        unsafe { AtomicU32::from_ptr(field(self.control)) }
    }

    /// Bits of [`crate::tape::abi::wake`].
    pub fn wake(&self) -> &AtomicU32 {
        // SAFETY: only the address of the field is taken.
        self.word(|control| unsafe { &raw mut (*control).wake })
    }

    /// 1 lets all pass the barrier.
    pub fn release(&self) -> &AtomicU32 {
        // SAFETY: only the address of the field is taken.
        self.word(|control| unsafe { &raw mut (*control).release })
    }

    /// 1 lets those who have parked leave the window: `window_len` bytes of it, with these signals blocked.
    pub fn let_leave(&self, window_len: u64, mask: u64) -> &AtomicU32 {
        // SAFETY: the mapping lives as long as `self`, and nobody reads the two before the word says so, which
        // the caller sets after this.
        unsafe {
            (&raw mut (*self.control).window_len).write_volatile(window_len);
            (&raw mut (*self.control).leaving_mask).write_volatile(mask);
        }
        // SAFETY: only the address of the field is taken.
        self.word(|control| unsafe { &raw mut (*control).leave })
    }

    /// 1 stops all forking.
    pub fn abort(&self) -> &AtomicU32 {
        // SAFETY: only the address of the field is taken.
        self.word(|control| unsafe { &raw mut (*control).abort })
    }

    /// The coordinator's thread, or that it has died.
    pub fn coordinator(&self) -> &AtomicU32 {
        // SAFETY: only the address of the field is taken.
        self.word(|control| unsafe { &raw mut (*control).coordinator })
    }

    /// 1: the tree lives.
    pub fn committed(&self) -> &AtomicU32 {
        // SAFETY: only the address of the field is taken.
        self.word(|control| unsafe { &raw mut (*control).committed })
    }

    /// How many have arrived.
    pub fn arrived(&self) -> &AtomicU32 {
        // SAFETY: only the address of the field is taken.
        self.word(|control| unsafe { &raw mut (*control).arrived })
    }

    /// Record, result and pid of the first failure. Meaningful once [`Shared::wake`] says so.
    pub fn failure(&self) -> (u64, i64, u32) {
        // SAFETY: the runner writes the three before it sets the wake bit that the caller has seen.
        unsafe {
            (
                (&raw const (*self.control).failed_record).read_volatile(),
                (&raw const (*self.control).failed_result).read_volatile(),
                (&raw const (*self.control).failed_pid).read_volatile() as u32,
            )
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and nothing refers to it any more.
        unsafe {
            libc::munmap(self.control.cast(), size_of::<Control>());
        }
    }
}
