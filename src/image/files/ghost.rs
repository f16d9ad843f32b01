//! Ghost files (`ghost-file-ID.img`): what an unlinked file held and was.
//!
//! The image has one `ghost_file_entry`; then, of a regular file, either all its bytes up to the end
//! of the image, or (`chunks`) a `ghost_chunk_entry` before each stretch of bytes, with holes between.
//!
//! Example: `mode 0100644, chunks, size 8192`, `len 3, off 4096` and the bytes `abc` are a file of two
//! pages, the first of which is a hole.

use crate::image::error::{Errors, ImageError};
use crate::image::file::Entry;
use crate::image::magic;
use crate::image::model::{GhostFile, GhostPiece, Image, Origin};
use crate::image::proto::{GhostChunkEntry, GhostFileEntry, Timeval};
use crate::image::read::Dir;

/// The ghost file with the number `id`.
pub(crate) fn read_ghost(dir: &Dir<'_>, id: u32, errors: &mut Errors) -> Option<GhostFile> {
    let image = Image::GhostFile(id);
    let mut ghost: Option<GhostFile> = None;
    let mut chunked = false;
    dir.for_each(image, &magic::GHOST_FILE, errors, |entries, entry, errors| {
        let Some(file) = &mut ghost else {
            let Some(e) = errors.decode::<GhostFileEntry>(entry) else {
                return Err(unreadable_rest(entry));
            };
            chunked = e.chunks.unwrap_or(false);
            let mut file = head(id, e, entry, errors);
            if file.mode & libc::S_IFMT == libc::S_IFREG && !chunked {
                let data = entries.rest(image);
                file.size_bytes = data.len_bytes;
                if data.len_bytes > 0 {
                    file.pieces.push(GhostPiece { at: 0, data });
                }
            }
            ghost = Some(file);
            return Ok(());
        };
        if !chunked {
            return Err(unreadable_rest(entry));
        }
        let Some(e) = errors.decode::<GhostChunkEntry>(entry) else {
            return Err(unreadable_rest(entry));
        };
        let data = entries.long_payload(image, e.len)?;
        if e.off.checked_add(e.len).is_none_or(|end| end > file.size_bytes) {
            let reason = format!("{} bytes at {} of a file of {}", e.len, e.off, file.size_bytes);
            errors.inconsistent(entry.file, entry.index, reason);
        } else if e.len > 0 {
            file.pieces.push(GhostPiece { at: e.off, data });
        }
        Ok(())
    });
    ghost
}

fn head(id: u32, e: GhostFileEntry, entry: &Entry<'_>, errors: &mut Errors) -> GhostFile {
    let mut time = |e: Option<Timeval>| {
        let e = e?;
        if e.tv_usec >= 1_000_000 {
            errors.inconsistent(entry.file, entry.index, format!("a time with {} us", e.tv_usec));
        }
        // Before 1970 seconds are negative; the images store them as they are in memory.
        Some((e.tv_sec as i64, e.tv_usec.saturating_mul(1000)))
    };
    let (atime, mtime) = (time(e.atim), time(e.mtim));
    let size_bytes = e.size.unwrap_or(0);
    if e.chunks == Some(true) && e.size.is_none() {
        errors.missing_field(entry.file, entry.index, "ghost_file_entry", "size");
    }
    if size_bytes > i64::MAX as u64 {
        errors.inconsistent(entry.file, entry.index, format!("a file of {size_bytes} bytes"));
    }
    GhostFile {
        id,
        mode: e.mode,
        uid: e.uid,
        gid: e.gid,
        times: atime.zip(mtime),
        size_bytes,
        pieces: Vec::new(),
        origin: Origin { image: Image::GhostFile(id), entry: entry.index },
    }
}

/// What follows an entry that cannot be read cannot be found.
fn unreadable_rest(entry: &Entry<'_>) -> ImageError {
    ImageError::Inconsistent {
        file: entry.file.to_owned(),
        entry: Some(entry.index),
        reason: "what follows cannot be read".to_owned(),
    }
}
