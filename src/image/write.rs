//! The image writer: turns a [`Model`] into a CRIU image directory, the inverse of the reader.
//!
//! What the reader understands is written back in version 1.1 (a common magic heads every image), with
//! the same messages: reading what was written gives the model that was written, up to where in an
//! image raw bytes lie. What the model does not keep is not there to be written: the uptime of the dump,
//! CRIU's notes for its next dump. What the model only *counts* (TLS
//! descriptors, images that are not read) is refused, never left out in silence.
//!
//! The model has raw bytes (pages, what waits in pipes and sockets) only by place. Where they come from says
//! [`Contents`]: an image directory, or memory ([`Held`]) for a model that never was in images.
//!
//! Example: a model with the one task 7 becomes
//!
//! ```text
//! inventory.img  pstree.img  core-7.img  ids-7.img  mm-7.img  pagemap-7.img  pages-1.img
//! fs-7.img  fdinfo-2.img  files.img  seccomp.img
//! ```
//!
//! and, where some of its pages are of a dump before, `parent/pagemap-7.img` and `parent/pages-1.img`.
//!
//! # Sources
//! As the reader's, and what a restore of CRIU 4.2 opens: `criu/cr-restore.c`, `criu/files.c`, `criu/mem.c`,
//! `criu/pagemap.c`.

mod files;
mod ipc;
mod pages;
mod shared;
mod task;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use prost::Message;
use thiserror::Error;

use super::error::ImageError;
use super::file::open_blob;
use super::magic::{COMMON_MAGIC, Kind};
use super::model::{Blob, Image, Model, Origin};
use super::parents::PARENT;

pub use pages::write_pagemap;

/// Why a model cannot be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The directory or a file in it.
    #[error("{file}: {source}")]
    Io {
        /// Its name.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// Raw bytes of the model cannot be had.
    #[error(transparent)]
    Contents(#[from] ImageError),
    /// Raw bytes that the model places where there are none.
    #[error("{image}: {len_bytes} bytes at {offset_bytes} are not held")]
    NotHeld {
        /// The image that the model places them in.
        image: Image,
        /// Where.
        offset_bytes: u64,
        /// How many.
        len_bytes: u64,
    },
    /// The model does not keep enough of something to write it.
    #[error("{image}: {what} cannot be written")]
    Unsupported {
        /// The image it would be in.
        image: String,
        /// What.
        what: String,
    },
}

impl WriteError {
    fn unsupported(image: Image, what: impl Into<String>) -> WriteError {
        WriteError::Unsupported { image: image.to_string(), what: what.into() }
    }
}

/// Where the raw bytes of a model are.
pub trait Contents {
    /// The bytes of a blob. Pages are asked for as blobs of `pages-ID.img`.
    ///
    /// # Errors
    /// They cannot be had.
    fn bytes(&self, blob: &Blob) -> Result<Cow<'_, [u8]>, WriteError>;
}

/// The images that the model was read from.
impl Contents for Model {
    fn bytes(&self, blob: &Blob) -> Result<Cow<'_, [u8]>, WriteError> {
        Ok(Cow::Owned(open_blob(self, blob)?))
    }
}

/// Raw bytes in memory, for a model that no image directory stands behind.
#[derive(Debug, Clone, Default)]
pub struct Held(BTreeMap<Image, Vec<u8>>);

impl Held {
    /// Keeps bytes behind those of the same image, and says where.
    pub fn add(&mut self, image: Image, bytes: &[u8]) -> Blob {
        let held = self.0.entry(image).or_default();
        let blob = Blob { image, offset_bytes: held.len() as u64, len_bytes: bytes.len() as u64 };
        held.extend_from_slice(bytes);
        blob
    }
}

impl Held {
    /// Forgets the bytes of an image.
    pub fn remove(&mut self, image: Image) {
        self.0.remove(&image);
    }
}

impl Contents for Held {
    fn bytes(&self, blob: &Blob) -> Result<Cow<'_, [u8]>, WriteError> {
        let find = || {
            let start = usize::try_from(blob.offset_bytes).ok()?;
            let end = start.checked_add(usize::try_from(blob.len_bytes).ok()?)?;
            self.0.get(&blob.image)?.get(start..end)
        };
        find().map(Cow::Borrowed).ok_or(WriteError::NotHeld {
            image: blob.image,
            offset_bytes: blob.offset_bytes,
            len_bytes: blob.len_bytes,
        })
    }
}

/// Writes `model` as an image directory into `dir`, which must be there and hold no image yet. Pages of dumps before are
/// written into directories in it; where else `parent` leads to is up to the caller ([`write_pagemap`]).
///
/// # Errors
/// See [`WriteError`]; what had been written until then stays.
pub fn write_model<C: Contents + ?Sized>(model: &Model, contents: &C, dir: &Path) -> Result<(), WriteError> {
    if let Some(unread) = model.unread.first() {
        return Err(WriteError::Unsupported { image: unread.file.clone(), what: unread.what.to_owned() });
    }
    let out = Out { dir, contents };
    // A directory takes the place of the link: so what is written can be moved as a whole.
    let mut before = dir.to_owned();
    for _ in 0..pages::parents(model) {
        before.push(PARENT);
        fs::create_dir(&before).map_err(|source| WriteError::Io { file: PARENT.to_owned(), source })?;
    }
    shared::write_inventory(&out, &model.inventory)?;
    task::write_pstree(&out, &model.tasks)?;
    for task in &model.tasks {
        task::write_task(&out, model, task)?;
    }
    files::write_ofds(&out, model)?;
    files::write_data(&out, model)?;
    shared::write_shared(&out, model)?;
    ipc::write_namespaces(&out, model)?;
    for shm in &model.shm {
        pages::write(&out, Image::PagemapShmem(shm.shmid), &shm.pages)?;
    }
    Ok(())
}

/// What is written into one image, in the order in which it stood there: that of the model is the tree's.
fn by_entry<T>(list: &[T], origin: impl Fn(&T) -> Origin) -> Vec<&T> {
    let mut sorted: Vec<&T> = list.iter().collect();
    sorted.sort_by_key(|it| origin(it).entry);
    sorted
}

/// The directory that is written, and where raw bytes come from.
struct Out<'a, C: ?Sized> {
    dir: &'a Path,
    contents: &'a C,
}

impl<C: Contents + ?Sized> Out<'_, C> {
    fn file(&self, image: Image, bytes: &[u8]) -> Result<(), WriteError> {
        let file = image.to_string();
        let write = || -> io::Result<()> {
            let mut options = fs::OpenOptions::new();
            io::Write::write_all(&mut options.write(true).create_new(true).open(self.dir.join(&file))?, bytes)
        };
        write().map_err(|source| WriteError::Io { file, source })
    }

    /// An image of the given entries.
    fn write(&self, image: Image, entries: &Entries) -> Result<(), WriteError> {
        self.file(image, &entries.0)
    }
}

/// The bytes of an image: magic numbers, then entries.
struct Entries(Vec<u8>);

impl Entries {
    fn new(kind: &Kind) -> Entries {
        let mut bytes = Vec::new();
        if !kind.is_inventory() {
            bytes.extend(COMMON_MAGIC.to_le_bytes());
        }
        bytes.extend(kind.magic.to_le_bytes());
        Entries(bytes)
    }

    fn push(&mut self, message: &impl Message) {
        self.0.extend((message.encoded_len() as u32).to_le_bytes());
        self.0.extend(message.encode_to_vec());
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;

    use super::super::model::{OfdKind, VmaKind};
    use super::super::read_model;
    use super::*;

    fn pair() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/pair/images")
    }

    /// Writes a model and reads it again.
    fn there_and_back<C: Contents + ?Sized>(model: &Model, contents: &C) -> (tempfile::TempDir, Model) {
        let dir = tempfile::tempdir().unwrap();
        write_model(model, contents, dir.path()).unwrap();
        let mut read = read_model(dir.path()).unwrap();
        read.dir = model.dir.clone();
        (dir, read)
    }

    #[test]
    fn a_dump_is_written_as_it_was_read() {
        let model = read_model(&pair()).unwrap();
        let (dir, read) = there_and_back(&model, &model);
        assert_eq!(format!("{read:#?}"), format!("{model:#?}"));
        // Most images come out byte for byte as CRIU wrote them.
        let mut differ = Vec::new();
        for entry in fs::read_dir(pair()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".img")
                && fs::read(pair().join(&name)).ok() != fs::read(dir.path().join(&name)).ok()
            {
                differ.push(name);
            }
        }
        differ.sort();
        // But for what the model does not keep: empty TLS descriptors, whether pages might come on demand.
        let expected = ["core-4711.img", "core-4713.img", "pagemap-4711.img", "pagemap-4713.img"];
        assert_eq!(differ, expected);
    }

    #[test]
    fn a_directory_is_not_written_twice() {
        let model = read_model(&pair()).unwrap();
        let (dir, _) = there_and_back(&model, &model);
        let error = write_model(&model, &model, dir.path()).unwrap_err();
        assert_eq!(error.to_string(), "inventory.img: File exists (os error 17)");
    }

    /// Spoils the model of the sample and compares why it is not written.
    fn check(spoil: impl FnOnce(&mut Model), expected: &str) {
        let mut model = read_model(&pair()).unwrap();
        spoil(&mut model);
        let dir = tempfile::tempdir().unwrap();
        let error = write_model(&model, &model, dir.path()).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn what_the_model_only_counts_is_refused() {
        check(
            |model| model.ofds[0].kind = OfdKind::Other("TTY"),
            "files.img: an open file of the kind TTY cannot be written",
        );
        check(
            |model| model.tasks[0].alive_mut().unwrap().threads[0].gdt_tls = 2,
            "core-4711.img: 2 TLS descriptors cannot be written",
        );
        check(
            |model| model.tasks[0].alive_mut().unwrap().mm.vmas[0].kind = VmaKind::Other,
            "mm-4711.img: a mapping of status 0x41 at 0x400000 cannot be written",
        );
        check(
            |model| model.inventory.img_version = 1,
            "inventory.img: images of version 1, not 2 (1.1), cannot be written",
        );
    }

    #[test]
    fn bytes_that_are_not_held_are_named() {
        let mut held = Held::default();
        let image = Image::PipesData;
        held.add(image, b"abc");
        let blob = held.add(image, b"de");
        assert_eq!(&*held.bytes(&blob).unwrap(), b"de");
        let beyond = Blob { len_bytes: 3, ..blob };
        assert_eq!(held.bytes(&beyond).unwrap_err().to_string(), "pipes-data.img: 3 bytes at 3 are not held");
    }
}
