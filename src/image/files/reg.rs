//! Paths: regular files, directories, devices (`regfile.proto`).

use super::{fown, mount_id};
use crate::image::error::Errors;
use crate::image::file::Entry;
use crate::image::model::{OfdKind, RegFile};
use crate::image::proto::FileEntry;

/// Reads the `reg` of an entry.
pub(crate) fn read(e: FileEntry, entry: &Entry<'_>, errors: &mut Errors) -> Option<OfdKind> {
    let e = e.reg?;
    let path = errors.text(e.name, entry, "path")?;
    if path.contains('\0') {
        errors.inconsistent(entry.file, entry.index, "path with a zero byte");
    }
    // The build-id is stored as words in the order of its bytes.
    let build_id = e.build_id.iter().flat_map(|word| word.to_le_bytes()).collect();
    let checksum =
        e.checksum.map(|sum| (sum, e.checksum_config.unwrap_or(0), e.checksum_parameter.unwrap_or(0)));
    Some(OfdKind::Reg(RegFile {
        path,
        flags: e.flags,
        position: e.pos,
        fown: fown(&e.fown),
        mount_id: mount_id(e.mnt_id),
        size_bytes: e.size,
        mode: e.mode,
        is_external: e.ext.unwrap_or(false),
        build_id,
        checksum,
    }))
}
