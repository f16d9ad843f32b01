//! Image files: how they are opened and framed.
//!
//! Turns a file of the directory into its bytes, checks the magic numbers at its head and splits
//! what follows into entries. It knows nothing of what the entries say.
//!
//! ```text
//! version 1       magic  (u32 length, protobuf) …
//! version 1.1     0x54564319  magic  (u32 length, protobuf) …
//! inventory.img   magic  (u32 length, protobuf)              in both versions
//! ```
//!
//! All numbers are little-endian. In `pipes-data.img`, `fifo-data.img` and `sk-queues.img` an entry
//! is followed by raw bytes, as many as it says, without padding. A pages image is raw from its
//! first byte.
//!
//! Example: `19 43 56 54  30 30 27 50  02 00 00 00  08 01` is a pstree image of version 1.1 with one
//! entry of two bytes.
//!
//! Small files are read, big ones are mapped. **The directory must not change while it is used**: a
//! mapped file that shrinks raises SIGBUS on the next access, and one that is overwritten shows
//! the new bytes. Every size is checked against the length that the file had when it was opened.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::ops::Deref;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use memmap2::Mmap;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, stat};

use super::error::ImageError;
use super::magic::{COMMON_MAGIC, Kind};
use super::model::{Blob, Image, Model, PagesImage};

/// Files from this size on are mapped; a smaller one costs less to copy than to map.
const MAP_FROM_BYTES: u64 = 64 << 10;

/// The version of an image directory, by the numbers of `inventory.img`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// 1: one magic number heads each image.
    V1,
    /// 2, called 1.1: the common magic comes before it.
    V1_1,
}

/// The bytes of a file.
#[derive(Debug)]
pub(crate) enum Bytes {
    Read(Vec<u8>),
    Mapped(Mmap),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Read(bytes) => bytes,
            Bytes::Mapped(map) => map,
        }
    }
}

/// Opens a regular file; gives its length too.
///
/// Not blocking: an image directory may hold a FIFO under the name of an image.
pub(super) fn open(path: &Path) -> io::Result<(File, u64)> {
    with_length(OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?)
}

/// As [`open`], by its name in an open directory: the way to that is not gone once more.
fn open_in(dir: &File, name: &str) -> io::Result<(File, u64)> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = loop {
        match openat(dir, name, flags, Mode::empty()) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    with_length(File::from(file))
}

fn with_length(file: File) -> io::Result<(File, u64)> {
    let len = length(&fstat(&file)?)?;
    Ok((file, len))
}

/// Opens a directory whose images are to be read by their names in it.
///
/// # Errors
/// [`ImageError::Io`].
pub(crate) fn open_directory(path: &Path) -> Result<File, ImageError> {
    let open = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path);
    open.map_err(|source| ImageError::Io { file: path.display().to_string(), source })
}

/// Opens a regular file to be read in parts.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    open(path).map(|(file, _)| file)
}

/// The length of a regular file.
fn length(stat: &FileStat) -> io::Result<u64> {
    if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

/// Maps a file.
#[allow(unsafe_code)]
pub(super) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is private and read-only, and nobody in this process writes to image
    // files. What another process does to the file while it is mapped is outside of our reach: the
    // module and `map_image` document that the directory must not change.
    unsafe { Mmap::map(file) }
}

/// A directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Where it is.
    pub(crate) path: &'a Path,
    /// The directory itself, where it is open.
    pub(crate) open: Option<&'a File>,
}

/// The contents of a file, which errors call `shown`; `None` if there is no such file.
///
/// # Errors
/// [`ImageError::Io`].
pub(crate) fn read_file(dir: Place<'_>, name: &str, shown: &str) -> Result<Option<Bytes>, ImageError> {
    let read = || -> io::Result<Bytes> {
        let (file, len) = match dir.open {
            Some(dir) => open_in(dir, name)?,
            None => open(&dir.path.join(name))?,
        };
        if len >= MAP_FROM_BYTES {
            return Ok(Bytes::Mapped(map(&file)?));
        }
        // One byte more than the file has, so that the read that sees its end needs no growth.
        let mut bytes = Vec::with_capacity(len as usize + 1);
        file.take(len).read_to_end(&mut bytes)?;
        Ok(Bytes::Read(bytes))
    };
    match read() {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ImageError::Io { file: shown.to_owned(), source }),
    }
}

/// The length of a file, which errors call `shown`; `None` if there is no such file.
///
/// # Errors
/// [`ImageError::Io`].
pub(crate) fn file_len(dir: Place<'_>, name: &str, shown: &str) -> Result<Option<u64>, ImageError> {
    let stat = match dir.open {
        Some(dir) => fstatat(dir, name, AtFlags::empty()),
        None => stat(&dir.path.join(name)),
    };
    match stat.map_err(io::Error::from).and_then(|stat| length(&stat)) {
        Ok(len) => Ok(Some(len)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ImageError::Io { file: shown.to_owned(), source }),
    }
}

/// Maps a file of pages.
///
/// Its directory must not change as long as the mapping lives: if the file shrinks, touching a page
/// behind its new end raises SIGBUS. Its length at the time of mapping is the length of the result;
/// check extents against that, too.
///
/// # Errors
/// [`ImageError::Io`].
pub fn map_image(model: &Model, image: PagesImage) -> Result<Mmap, ImageError> {
    let mapped = open(&model.path(Image::Pages(image))).and_then(|(file, _)| map(&file));
    mapped.map_err(|source| ImageError::Io { file: image.to_string(), source })
}

/// Reads the bytes of a blob of the images that the model was read from.
///
/// # Errors
/// [`ImageError::Io`], or [`ImageError::Truncated`] where the file has become shorter.
pub fn open_blob(model: &Model, blob: &Blob) -> Result<Vec<u8>, ImageError> {
    Blobs::of(model).read(blob)
}

/// Reads blobs of the images that a model was read from. Those that follow each other in one image, as what waits in a
/// thousand pipes does, cost one opening of it.
#[derive(Debug)]
pub struct Blobs<'a> {
    model: &'a Model,
    /// The image that was read last, and its length in bytes.
    open: RefCell<Option<(Image, File, u64)>>,
}

impl<'a> Blobs<'a> {
    /// Of the images of a model.
    pub fn of(model: &'a Model) -> Blobs<'a> {
        Blobs { model, open: RefCell::new(None) }
    }

    /// The bytes of a blob.
    ///
    /// # Errors
    /// [`ImageError::Io`], or [`ImageError::Truncated`] where the file has become shorter.
    pub fn read(&self, blob: &Blob) -> Result<Vec<u8>, ImageError> {
        let io = |source| ImageError::Io { file: blob.image.to_string(), source };
        let mut open = self.open.borrow_mut();
        let (image, file, len) = match open.take().filter(|(image, ..)| *image == blob.image) {
            Some(open) => open,
            None => {
                let (file, len) = self::open(&self.model.path(blob.image)).map_err(io)?;
                (blob.image, file, len)
            }
        };
        let (_, file, len) = open.insert((image, file, len));
        let had = len.saturating_sub(blob.offset_bytes);
        let size = usize::try_from(blob.len_bytes).ok().filter(|_| blob.len_bytes <= had);
        let size = size.ok_or_else(|| ImageError::Truncated {
            file: blob.image.to_string(),
            offset: blob.offset_bytes,
            wanted: blob.len_bytes,
            had,
        })?;
        let mut bytes = vec![0; size];
        file.read_exact_at(&mut bytes, blob.offset_bytes).map_err(io)?;
        Ok(bytes)
    }
}

/// One entry: a protobuf message, not yet decoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    /// Name of the file.
    pub(crate) file: &'a str,
    /// Its number, from 0.
    pub(crate) index: u32,
    /// The message.
    pub(crate) body: &'a [u8],
}

/// The entries of an image, one after the other.
pub(crate) struct Entries<'a> {
    file: &'a str,
    bytes: &'a [u8],
    at: usize,
    next: u32,
}

impl<'a> Entries<'a> {
    /// Checks the magic numbers of an image of the kind.
    ///
    /// # Errors
    /// [`ImageError::BadMagic`], [`ImageError::Truncated`].
    pub(crate) fn open(
        file: &'a str,
        bytes: &'a [u8],
        kind: &Kind,
        version: Version,
    ) -> Result<Entries<'a>, ImageError> {
        let mut entries = Entries { file, bytes, at: 0, next: 0 };
        if version == Version::V1_1 && !kind.is_inventory() {
            entries.magic(COMMON_MAGIC)?;
        }
        entries.magic(kind.magic)?;
        Ok(entries)
    }

    fn magic(&mut self, expected: u32) -> Result<(), ImageError> {
        let offset = self.at as u64;
        let found = self.number()?;
        if found != expected {
            return Err(ImageError::BadMagic { file: self.file.to_owned(), offset, found, expected });
        }
        Ok(())
    }

    fn number(&mut self) -> Result<u32, ImageError> {
        let mut number = [0; 4];
        number.copy_from_slice(self.take(4)?);
        Ok(u32::from_le_bytes(number))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], ImageError> {
        let had = self.bytes.len() - self.at;
        if len > had {
            let file = self.file.to_owned();
            return Err(ImageError::Truncated {
                file,
                offset: self.at as u64,
                wanted: len as u64,
                had: had as u64,
            });
        }
        let bytes = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(bytes)
    }

    /// The next entry; `None` at the end of the file.
    ///
    /// # Errors
    /// [`ImageError::Truncated`]: nothing can be read behind it.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry<'a>>, ImageError> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let len = self.number()?;
        let body = self.take(len as usize)?;
        let entry = Entry { file: self.file, index: self.next, body };
        self.next = self.next.saturating_add(1);
        Ok(Some(entry))
    }

    /// Steps over `len` raw bytes behind an entry and says where they are.
    ///
    /// # Errors
    /// [`ImageError::Truncated`].
    pub(crate) fn payload(&mut self, image: Image, len: u32) -> Result<Blob, ImageError> {
        self.long_payload(image, u64::from(len))
    }

    /// As [`Entries::payload`], for what may be longer than any other.
    ///
    /// # Errors
    /// [`ImageError::Truncated`].
    pub(crate) fn long_payload(&mut self, image: Image, len: u64) -> Result<Blob, ImageError> {
        let offset_bytes = self.at as u64;
        self.take(usize::try_from(len).unwrap_or(usize::MAX))?;
        Ok(Blob { image, offset_bytes, len_bytes: len })
    }

    /// Steps over everything up to the end of the file and says where it is.
    pub(crate) fn rest(&mut self, image: Image) -> Blob {
        let offset_bytes = self.at as u64;
        self.at = self.bytes.len();
        Blob { image, offset_bytes, len_bytes: self.at as u64 - offset_bytes }
    }
}
