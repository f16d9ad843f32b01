//! The image layer: turns a CRIU image directory into a [`Model`].
//!
//! [`read_model`] reads every image of the directory, holds each against its definition and against
//! the others, and gives either the whole model or *all* errors that it found. The input is not
//! trusted: any bytes give a model or errors, never a panic, and memory is bounded by a small
//! multiple of the size of the files.
//!
//! What it does not know: this host (whether a path exists, a pid is free, a feature is there), and
//! what a restore can do. It refuses only what it cannot *read*: an image with contents that no
//! reader here understands is listed in [`Model::unread`], a kind of open file that no reader
//! understands is [`OfdKind::Other`], and what a later CRIU may add is an error, because its meaning
//! is not known here.
//!
//! Example: a directory with the images of one sleeping task
//!
//! ```text
//! inventory.img  pstree.img  core-7.img  ids-7.img  mm-7.img  pagemap-7.img  pages-1.img
//! fs-7.img  fdinfo-2.img  files.img  seccomp.img
//! ```
//!
//! becomes a model with one [`Task`], of pid 7, whose [`Alive`] part has its threads from
//! `core-7.img`, its mappings from `mm-7.img`, extents of `pages-1.img` from `pagemap-7.img`, and
//! the descriptors of `fdinfo-2.img`, each of which names an [`Ofd`] from `files.img`. `seccomp.img`
//! holds no filter and so is not listed anywhere.
//!
//! The way back, from a [`Model`] to a directory, is [`write_model`].
//!
//! # Sources
//! The definitions in `images/*.proto`, `criu/image-desc.c`, `criu/include/magic.h` and
//! `criu/include/image.h` of CRIU 4.2, and what its dump writes.

pub mod ahead;
pub mod alike;
pub mod huge;
pub mod ipc;
pub mod model;
pub mod vdso;
pub mod vma;

mod aio;
mod arrange;
mod core;
mod error;
mod fds;
mod file;
mod files;
mod known;
mod magic;
mod mm;
mod pagemap;
mod parents;
mod proto;
pub(crate) mod ranges;
mod read;
mod seccomp;
mod shared;
mod table;
mod task;
mod wire;
mod write;

#[cfg(test)]
mod increments;
#[cfg(test)]
mod tests;

pub use arrange::arrange;
pub use error::{ImageError, ReadErrors};
pub use file::{Blobs, map_image, open_blob};
pub use model::*;
pub use read::{highest_pid, parents, read_model};
pub(crate) use task::PID_MAX;
pub use write::{Contents, Held, WriteError, write_model, write_pagemap};
