//! Unlinked files and directories that somebody still has: open, mapped, executed or as a working
//! directory.
//!
//! Each is made anew under the name that it had, so that /proc shows the same name, opened as often as
//! the images say, and unlinked again at once. All that must be done about one name, or below one
//! missing directory, is one resource: it is made by one task, in one go, so that no two of them ever
//! want the same name at the same time.
//!
//! Worked example: `/tmp/d/f` and `/tmp/d` were unlinked. One resource makes the directory, makes and
//! fills the file, unlinks the file, removes the directory, and opens both through `/proc/self/fd`.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use regrow_graph::ids::OfdId;

use super::super::Resolver;
use super::super::numbers::{O_CREATION, O_LARGEFILE, O_SETTABLE, O_TMPFILE_BIT};
use super::super::problem::ProblemKind;
use super::super::recipe::{Content, Inode, InodeKind, Nameless, Piece, ResourceKind};
use super::name;
use crate::image::{GhostFile, Image, Ofd, OfdKind, RegFile, Remap};
use crate::tape::Undo;

/// `remap_type` of a link remap, a ghost file, a process that is gone.
pub(in super::super) const LINKED: u32 = 0;
pub(in super::super) const GHOST: u32 = 1;

/// What is put behind a name for a moment.
const ASIDE: &str = ".regrow";

/// Which inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum InodeKey {
    /// A ghost file, by the number of its image.
    Ghost(u32),
    /// A memfd, by its number in memfd.img.
    Memfd(u64),
}

/// The ghost file that a description of the images shows.
pub(in super::super) fn key_of(resolver: &Resolver<'_>, ofd_id: u32) -> Option<InodeKey> {
    let remap = remap_of(resolver, ofd_id)?;
    (remap.remap_type == GHOST).then_some(InodeKey::Ghost(remap.remap_id))
}

/// How the name of a description was lost, if it was.
pub(in super::super) fn remap_of(resolver: &Resolver<'_>, ofd_id: u32) -> Option<Remap> {
    resolver.model.remaps.iter().find(|remap| remap.orig_id == ofd_id).copied()
}

/// Makes the resources of all ghost files, without any description yet.
pub(super) fn make(resolver: &mut Resolver<'_>) {
    let model = resolver.model;
    let mut names: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
    for remap in model.remaps.iter().filter(|remap| remap.remap_type == GHOST) {
        let ofd = resolver.ofd_of_id.get(&remap.orig_id).map(|ofd| &model.ofds[ofd.index()]);
        if let Some(Ofd { kind: OfdKind::Reg(file), .. }) = ofd {
            names.entry(remap.remap_id).or_default().insert(&file.path);
        }
    }
    let mut groups: BTreeMap<String, Vec<(&GhostFile, &str)>> = BTreeMap::new();
    let mut scaffolds: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for ghost in &model.ghosts {
        // One that only sockets or FIFOs refer to is theirs to judge.
        let Some(paths) = names.get(&ghost.id) else { continue };
        let Some(path) = judge(resolver, ghost, paths) else { continue };
        let missing = missing_above(resolver, path);
        let group = missing.first().cloned().unwrap_or_else(|| path.to_owned());
        scaffolds.entry(group.clone()).or_default().extend(missing);
        groups.entry(group).or_default().push((ghost, path));
    }
    for (group, mut ghosts) in groups {
        // Directories first, those above before those below.
        ghosts.sort_by_key(|(ghost, path)| (ghost.mode & libc::S_IFMT != libc::S_IFDIR, *path, ghost.id));
        let mut scaffold = scaffolds.remove(&group).unwrap_or_default();
        let mut directories = BTreeSet::new();
        let mut inodes = Vec::with_capacity(ghosts.len());
        for (ghost, path) in &ghosts {
            let is_directory = ghost.mode & libc::S_IFMT == libc::S_IFDIR;
            if is_directory {
                scaffold.remove(*path);
                if !directories.insert(*path) {
                    let text = format!("{path}: two unlinked directories of one name are not restored yet");
                    resolver.problems.unsupported(None, Some(ghost.origin), text);
                }
            }
            let path = (*path).to_owned();
            let source =
                || model.dir.join(Image::GhostFile(ghost.id).to_string()).to_string_lossy().into_owned();
            let piece = |piece: &crate::image::GhostPiece| Piece {
                at: piece.at,
                from: piece.data.offset_bytes,
                len: piece.data.len_bytes,
            };
            inodes.push(Inode {
                kind: if is_directory { InodeKind::Directory { path } } else { file_kind(resolver, path) },
                mode: ghost.mode & 0o7777,
                uid: ghost.uid,
                gid: ghost.gid,
                size_bytes: ghost.size_bytes,
                times: ghost.times,
                content: (!ghost.pieces.is_empty())
                    .then(|| Content { path: source(), pieces: ghost.pieces.iter().map(piece).collect() }),
                first: None,
            });
        }
        let clash = directories.iter().find(|directory| {
            inodes
                .iter()
                .any(|inode| matches!(&inode.kind, InodeKind::File { path, .. } if path == *directory))
        });
        if let (Some(path), Some((ghost, _))) = (clash, ghosts.first()) {
            let text = format!(
                "{path}: an unlinked file and an unlinked directory of one name are not restored yet"
            );
            resolver.problems.unsupported(None, Some(ghost.origin), text);
        }
        let Some((first, _)) = ghosts.first() else { continue };
        let keys: Vec<InodeKey> = ghosts.iter().map(|(ghost, _)| InodeKey::Ghost(ghost.id)).collect();
        let recipe = Nameless { scaffold: scaffold.into_iter().collect(), inodes, opens: Vec::new() };
        resolver.add_nameless(recipe, keys, first.origin);
    }
}

/// Whether a ghost file can be made here: its name, if so.
fn judge<'a>(resolver: &mut Resolver<'_>, ghost: &GhostFile, paths: &BTreeSet<&'a str>) -> Option<&'a str> {
    let origin = Some(ghost.origin);
    let path = *paths.first()?;
    let kind = ghost.mode & libc::S_IFMT;
    if !matches!(kind, libc::S_IFREG | libc::S_IFDIR) {
        resolver.problems.unsupported(
            None,
            origin,
            format!("{path}: an unlinked file of type {kind:#o} is not restored yet"),
        );
        return None;
    }
    if let Some(other) = paths.iter().nth(1) {
        let text = format!("{path}: an unlinked file that had several names ({other}) is not restored yet");
        resolver.problems.unsupported(None, origin, text);
        return None;
    }
    if !path.starts_with('/') || path.split('/').any(|part| part == "." || part == "..") {
        resolver.problems.add(
            ProblemKind::BadImages,
            None,
            origin,
            format!("{path}: not an absolute path without . and .."),
        );
        return None;
    }
    match resolver
        .facts
        .files
        .get(path)
        .map(|fact| (fact.reached.as_ref().map_err(|errno| *errno), fact.is_symlink))
    {
        Some((Err(Errno::ENOENT), false)) => Some(path),
        Some((Err(errno), false)) => {
            resolver.problems.add(
                ProblemKind::FileChanged,
                None,
                origin,
                format!("{path}: {}", errno.desc()),
            );
            None
        }
        Some((Ok(stat), false)) if kind == libc::S_IFREG && can_change_places(resolver, path, stat.mode) => {
            Some(path)
        }
        Some(_) => {
            let text = format!("{path}: exists, and an unlinked file must be made under that name");
            resolver.problems.add(ProblemKind::FileChanged, None, origin, text);
            None
        }
        None => {
            resolver.problems.add(
                ProblemKind::FileChanged,
                None,
                origin,
                format!("{path}: was not looked at"),
            );
            None
        }
    }
}

/// How a file is made: under its name, or beside it where another file has that name now.
fn file_kind(resolver: &Resolver<'_>, path: String) -> InodeKind {
    let is_taken = resolver.facts.files.get(&path).is_some_and(|fact| fact.reached.is_ok());
    let aside = is_taken.then(|| format!("{path}{ASIDE}"));
    InodeKind::File { path, aside }
}

/// Whether the file that has the name of an unlinked one now can be taken out of the way and put back:
/// it must not be mistaken for the other after a failure, and nobody may open it meanwhile.
fn can_change_places(resolver: &Resolver<'_>, path: &str, mode: u32) -> bool {
    let is_plain = mode & libc::S_IFMT == libc::S_IFREG && mode & 0o7077 != Undo::FILE_MODE & 0o7077;
    let model = resolver.model;
    let remapped: BTreeSet<u32> = model.remaps.iter().map(|remap| remap.orig_id).collect();
    let is_named = |ofd: &Ofd| {
        matches!(&ofd.kind, OfdKind::Reg(file) if file.path == path) && !remapped.contains(&ofd.id)
    };
    // One task does one thing after another.
    let is_alone = model.tasks.iter().filter(|task| task.alive().is_some()).count() == 1;
    is_plain && (is_alone || !model.ofds.iter().any(is_named))
}

/// The directories above `path` that do not exist, from the top.
fn missing_above(resolver: &Resolver<'_>, path: &str) -> Vec<String> {
    let is_missing = |path: &&str| resolver.facts.files.get(*path).is_some_and(|fact| fact.reached.is_err());
    path.match_indices('/')
        .map(|(end, _)| &path[..end])
        .filter(|above| !above.is_empty())
        .filter(is_missing)
        .map(str::to_owned)
        .collect()
}

/// One description of a ghost file.
pub(super) fn resolve(resolver: &mut Resolver<'_>, ofd: OfdId, entry: &Ofd, file: &RegFile, remap: Remap) {
    if remap.remap_type != GHOST {
        return refuse(resolver, entry, remap);
    }
    let flags = flags(file.flags);
    let key = InodeKey::Ghost(remap.remap_id);
    // What `/proc/self/fd` has are links, so only the description that the file is made by can have it.
    if file.flags & libc::O_NOFOLLOW as u32 != 0 && !resolver.can_be_first(key, flags) {
        let text = format!(
            "{}: an unlinked file that was opened with O_NOFOLLOW, but not to make it, is not restored yet",
            name(entry)
        );
        resolver.problems.unsupported(None, Some(entry.origin), text);
    }
    let is_path = file.flags & libc::O_PATH as u32 != 0;
    let position = if is_path || file.position == u64::MAX { 0 } else { file.position };
    resolver.open_inode(key, flags, position, Some(ofd));
}

/// Flags to open an unlinked file with. One that was made by O_TMPFILE keeps that flag for ever; it
/// cannot be had for a file with a name (open(2)).
fn flags(flags: u32) -> u32 {
    let dropped = if flags & O_TMPFILE_BIT != 0 { libc::O_TMPFILE as u32 } else { 0 };
    flags & !(O_CREATION | O_LARGEFILE | dropped)
}

/// What is no ghost file.
pub(in super::super) fn refuse(resolver: &mut Resolver<'_>, entry: &Ofd, remap: Remap) {
    let text = match remap.remap_type {
        LINKED => format!(
            "{}: its name was replaced, and it is kept under another (--link-remap): not restored yet",
            name(entry)
        ),
        GHOST => format!("{}: was unlinked, and is of a kind that is not restored yet", name(entry)),
        _ => format!("{}: a file of a process that is gone is not restored yet", name(entry)),
    };
    resolver.problems.unsupported(None, Some(entry.origin), text);
}

impl Resolver<'_> {
    /// Adds the resource of inodes that nobody has open yet.
    pub(super) fn add_nameless(
        &mut self,
        recipe: Nameless,
        keys: Vec<InodeKey>,
        origin: crate::image::Origin,
    ) {
        // The number by which each is made, and the image that fills it: closed at the end.
        let numbers = recipe.inodes.iter().map(|inode| 1 + usize::from(inode.content.is_some())).sum();
        let resource =
            self.add_resource(ResourceKind::Nameless(Box::new(recipe)), origin, vec![None; numbers]);
        for (index, key) in keys.into_iter().enumerate() {
            self.inodes.insert(key, (resource, index));
        }
    }

    /// Whether a description with these flags can be the one that the inode is made by, which nobody else
    /// is yet: a memfd is made for reading and writing, a file also without following links.
    fn can_be_first(&self, key: InodeKey, flags: u32) -> bool {
        let Some((resource, inode)) = self.inodes.get(&key).copied() else { return false };
        let ResourceKind::Nameless(recipe) = &self.recipes.resources[resource.index()].kind else {
            return false;
        };
        let Some(inode) = recipe.inodes.get(inode).filter(|inode| inode.first.is_none()) else {
            return false;
        };
        let made_with = match inode.kind {
            InodeKind::Memfd { .. } => libc::O_RDWR,
            InodeKind::File { .. } => libc::O_RDWR | libc::O_NOFOLLOW,
            InodeKind::Directory { .. } => return false,
        };
        flags & !O_SETTABLE == made_with as u32
    }

    /// One more description of an inode; `None` if it is not made (which has been said).
    pub(in super::super) fn open_inode(
        &mut self,
        key: InodeKey,
        flags: u32,
        position: u64,
        ofd: Option<OfdId>,
    ) -> Option<OfdId> {
        let (resource, inode) = self.inodes.get(&key).copied()?;
        let is_first = self.can_be_first(key, flags);
        let shared = (key, flags);
        if ofd.is_none()
            && let Some(known) = self.inode_views.get(&shared)
        {
            return Some(*known);
        }
        let new = match ofd {
            Some(ofd) => ofd,
            None => {
                let new = self.new_ofd();
                self.inode_views.insert(shared, new);
                new
            }
        };
        if let ResourceKind::Nameless(recipe) = &mut self.recipes.resources[resource.index()].kind {
            if is_first {
                // Each inode has a number, and those with content have another for it.
                let numbers = |inode: &Inode| 1 + usize::from(inode.content.is_some());
                let number = recipe.inodes.iter().take(inode).map(numbers).sum::<usize>();
                recipe.inodes.get_mut(inode)?.first = Some((flags & O_SETTABLE, position));
                *self.forest.resources[resource.index()].yields.get_mut(number)? = Some(new);
                self.inode_views.entry((key, libc::O_RDWR as u32)).or_insert(new);
                return Some(new);
            }
            recipe.opens.push(super::super::recipe::Opening { inode, flags, position });
            self.forest.resources[resource.index()].yields.push(Some(new));
        }
        Some(new)
    }
}
