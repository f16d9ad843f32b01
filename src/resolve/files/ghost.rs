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
use super::super::recipe::{Content, Inode, InodeKind, NEW_FILE_MODE, Nameless, Piece, ResourceKind};
use super::name;
use crate::image::{GhostFile, Image, Ofd, OfdKind, Origin, RegFile, Remap};

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
    /// A file that CRIU gave another name, by the number of that name in files.img.
    Linked(u32),
}

/// The ghost file or link remap that a description of the images shows.
pub(in super::super) fn key_of(resolver: &Resolver<'_>, ofd_id: u32) -> Option<InodeKey> {
    match remap_of(resolver, ofd_id)? {
        Remap { remap_type: GHOST, remap_id, .. } => Some(InodeKey::Ghost(remap_id)),
        Remap { remap_type: LINKED, remap_id, .. } => Some(InodeKey::Linked(remap_id)),
        Remap { .. } => None,
    }
}

/// How the name of a description was lost, if it was.
pub(in super::super) fn remap_of(resolver: &Resolver<'_>, ofd_id: u32) -> Option<Remap> {
    resolver.remap_of_id.get(&ofd_id).copied()
}

/// An inode that has lost its names.
struct Lost<'a> {
    key: InodeKey,
    /// The type, as in `st_mode`.
    kind: u32,
    /// The names that it had: the first is the one that it is made under.
    paths: Vec<&'a str>,
    ghost: Option<&'a GhostFile>,
    /// The name that it has still.
    from: Option<&'a str>,
    origin: Origin,
}

/// Inodes that must be made in one go: they want one name, or one missing directory.
#[derive(Default)]
struct Group<'a> {
    lost: Vec<Lost<'a>>,
    /// Directories to be made and removed again.
    scaffold: BTreeSet<String>,
    /// What other groups may not touch.
    claims: BTreeSet<String>,
}

/// Makes the resources of all ghost files and link remaps, without any description yet.
pub(super) fn make(resolver: &mut Resolver<'_>) {
    let lost = lost(resolver);
    for group in group(resolver, lost) {
        make_group(resolver, group);
    }
}

/// All inodes of the images without their names that can be had here; of the others it is said why not.
fn lost<'a>(resolver: &mut Resolver<'a>) -> Vec<Lost<'a>> {
    let model = resolver.model;
    let mut names: BTreeMap<(u32, u32), (BTreeSet<&str>, Origin)> = BTreeMap::new();
    for remap in &model.remaps {
        let ofd = resolver.ofd_of_id.get(&remap.orig_id).map(|ofd| &model.ofds[ofd.index()]);
        if let Some(Ofd { kind: OfdKind::Reg(file), .. }) = ofd {
            let of_inode = names.entry((remap.remap_type, remap.remap_id));
            of_inode.or_insert_with(|| (BTreeSet::new(), remap.origin)).0.insert(&file.path);
        }
    }
    let mut lost = Vec::new();
    for ghost in &model.ghosts {
        // One that only sockets refer to is theirs to judge.
        let Some((paths, _)) = names.get(&(GHOST, ghost.id)) else { continue };
        lost.push(Lost {
            key: InodeKey::Ghost(ghost.id),
            kind: ghost.mode & libc::S_IFMT,
            paths: paths.iter().copied().collect(),
            ghost: Some(ghost),
            from: None,
            origin: ghost.origin,
        });
    }
    for remap in model.remaps.iter().filter(|remap| remap.remap_type == LINKED) {
        let id = remap.remap_id;
        let Some((paths, origin)) = names.remove(&(LINKED, id)) else { continue };
        let linked = resolver.ofd_of_id.get(&id).map(|ofd| &model.ofds[ofd.index()]);
        let Some(Ofd { kind: OfdKind::Reg(file), .. }) = linked else {
            let text = format!("a file kept under another name: file {id:#x} is not in files.img");
            resolver.problems.add(ProblemKind::BadImages, None, Some(origin), text);
            continue;
        };
        super::judge(resolver, file, origin);
        lost.push(Lost {
            key: InodeKey::Linked(id),
            // What it is has been judged, as far as the images say it.
            kind: file.mode.map_or(libc::S_IFREG, |mode| mode & libc::S_IFMT),
            paths: paths.into_iter().collect(),
            ghost: None,
            from: Some(&file.path),
            origin,
        });
    }
    lost.retain(|lost| judge(resolver, lost));
    lost
}

/// Puts together what has to do with each other.
fn group<'a>(resolver: &Resolver<'_>, lost: Vec<Lost<'a>>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for lost in lost {
        let mut group = Group::default();
        for path in &lost.paths {
            let missing = missing_above(resolver, path);
            group.claims.insert(missing.first().cloned().unwrap_or_else(|| (*path).to_owned()));
            group.scaffold.extend(missing);
        }
        group.lost.push(lost);
        let related: Vec<Group<'a>> =
            groups.extract_if(.., |other| !other.claims.is_disjoint(&group.claims)).collect();
        for other in related {
            group.lost.extend(other.lost);
            group.scaffold.extend(other.scaffold);
            group.claims.extend(other.claims);
        }
        groups.push(group);
    }
    groups.sort_by(|a, b| a.claims.cmp(&b.claims));
    groups
}

fn make_group(resolver: &mut Resolver<'_>, mut group: Group<'_>) {
    let model = resolver.model;
    // Directories first, those above before those below.
    group.lost.sort_by_key(|lost| (lost.kind != libc::S_IFDIR, lost.paths.first().copied()));
    let mut directories = BTreeSet::new();
    let mut inodes = Vec::with_capacity(group.lost.len());
    for lost in &group.lost {
        let Some((path, further)) = lost.paths.split_first() else { continue };
        if lost.kind == libc::S_IFDIR {
            group.scaffold.remove(*path);
            if !directories.insert(*path) {
                let text = format!("{path}: two unlinked directories of one name are not restored yet");
                resolver.problems.unsupported(None, Some(lost.origin), text);
            }
        }
        let path = (*path).to_owned();
        let kind = match (lost.from, lost.kind) {
            (Some(from), _) => InodeKind::Linked { path, from: from.to_owned() },
            (None, libc::S_IFDIR) => InodeKind::Directory { path },
            (None, libc::S_IFIFO) => InodeKind::Fifo { path, capacity: None, data: Vec::new() },
            (None, _) => file_kind(resolver, path),
        };
        let further = further.iter().map(|name| (*name).to_owned()).collect();
        inodes.push(match lost.ghost {
            Some(ghost) => ghost_inode(&model.dir, ghost, kind, further),
            None => Inode {
                kind,
                mode: 0,
                uid: 0,
                gid: 0,
                size_bytes: 0,
                times: None,
                contents: Vec::new(),
                first: None,
                further,
            },
        });
    }
    let clash = group
        .lost
        .iter()
        .filter(|lost| lost.kind != libc::S_IFDIR)
        .find_map(|lost| Some((lost, *lost.paths.iter().find(|path| directories.contains(*path))?)));
    if let Some((lost, path)) = clash {
        let text =
            format!("{path}: an unlinked file and an unlinked directory of one name are not restored yet");
        resolver.problems.unsupported(None, Some(lost.origin), text);
    }
    let Some(first) = group.lost.first() else { return };
    let (keys, origin) = (group.lost.iter().map(|lost| lost.key).collect(), first.origin);
    let recipe = Nameless { scaffold: group.scaffold.into_iter().collect(), inodes, opens: Vec::new() };
    resolver.add_nameless(recipe, keys, origin);
}

/// How a ghost file is made.
fn ghost_inode(dir: &std::path::Path, ghost: &GhostFile, kind: InodeKind, further: Vec<String>) -> Inode {
    let piece = |piece: &crate::image::GhostPiece| Piece {
        at: piece.at,
        from: piece.data.offset_bytes,
        len: piece.data.len_bytes,
    };
    let source = || dir.join(Image::GhostFile(ghost.id).to_string()).to_string_lossy().into_owned();
    Inode {
        kind,
        mode: ghost.mode & 0o7777,
        uid: ghost.uid,
        gid: ghost.gid,
        size_bytes: ghost.size_bytes,
        times: ghost.times,
        contents: (!ghost.pieces.is_empty())
            .then(|| Content { path: source(), pieces: ghost.pieces.iter().map(piece).collect() })
            .into_iter()
            .collect(),
        first: None,
        further,
    }
}

/// Whether an inode can be had here under its names.
fn judge(resolver: &mut Resolver<'_>, lost: &Lost<'_>) -> bool {
    let origin = Some(lost.origin);
    let Some((path, further)) = lost.paths.split_first() else { return false };
    let is_known = match lost.kind {
        libc::S_IFREG => true,
        libc::S_IFDIR => lost.from.is_none(),
        libc::S_IFIFO => lost.from.is_none(),
        _ => false,
    };
    if !is_known {
        let text = format!("{path}: an unlinked file of type {:#o} is not restored yet", lost.kind);
        resolver.problems.unsupported(None, origin, text);
        return false;
    }
    if let Some(other) = further.first()
        && lost.kind != libc::S_IFREG
    {
        let text = format!(
            "{path}: an unlinked file of type {:#o} that had several names ({other}) is not restored yet",
            lost.kind
        );
        resolver.problems.unsupported(None, origin, text);
        return false;
    }
    // Not `all`: every name is judged.
    let bad = lost.paths.iter().filter(|path| !judge_name(resolver, lost, path)).count();
    bad == 0
}

/// Whether one of the names of an inode can be given to it for a moment.
fn judge_name(resolver: &mut Resolver<'_>, lost: &Lost<'_>, path: &str) -> bool {
    let origin = Some(lost.origin);
    if !path.starts_with('/') || path.split('/').any(|part| part == "." || part == "..") {
        let text = format!("{path}: not an absolute path without . and ..");
        resolver.problems.add(ProblemKind::BadImages, None, origin, text);
        return false;
    }
    let fact = resolver.facts.files.get(path);
    let text = match fact.map(|fact| (fact.reached.as_ref().map_err(|errno| *errno), fact.is_symlink)) {
        Some((Err(Errno::ENOENT), false)) => return true,
        Some((Err(errno), false)) => format!("{path}: {}", errno.desc()),
        Some((Ok(stat), false))
            if lost.kind == libc::S_IFREG
                && lost.from.is_none()
                && lost.paths.len() == 1
                && can_change_places(resolver, path, stat.mode) =>
        {
            return true;
        }
        Some(_) => format!("{path}: exists, and an unlinked file must be made under that name"),
        None => format!("{path}: was not looked at"),
    };
    resolver.problems.add(ProblemKind::FileChanged, None, origin, text);
    false
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
    let is_plain = mode & libc::S_IFMT == libc::S_IFREG && mode & 0o7077 != NEW_FILE_MODE & 0o7077;
    let model = resolver.model;
    let remapped: BTreeSet<u32> = model.remaps.iter().map(|remap| remap.orig_id).collect();
    let is_named = |ofd: &Ofd| {
        matches!(&ofd.kind, OfdKind::Reg(file) if file.path == path) && !remapped.contains(&ofd.id)
    };
    // One task does one thing after another.
    let is_alone = model.tasks.iter().filter(|task| task.alive().is_some()).count() == 1;
    is_plain && (is_alone || !model.ofds.iter().any(is_named))
}

/// The directories above `path` that do not exist, from the top: one that is not there, and all below it.
fn missing_above(resolver: &Resolver<'_>, path: &str) -> Vec<String> {
    let is_there = |path: &&str| resolver.facts.files.get(*path).is_none_or(|fact| fact.reached.is_ok());
    path.match_indices('/')
        .map(|(end, _)| &path[..end])
        .filter(|above| !above.is_empty())
        .skip_while(is_there)
        .map(str::to_owned)
        .collect()
}

/// One description of a ghost file.
pub(super) fn resolve(resolver: &mut Resolver<'_>, ofd: OfdId, entry: &Ofd, file: &RegFile, remap: Remap) {
    let Some(key) = key_of(resolver, entry.id) else {
        return refuse(resolver, entry, remap);
    };
    let flags = flags(file.flags);
    // What `/proc/self/fd` has are links, so only the description that the file is made by can have it.
    let can_be_first = resolver.name_index(key, &file.path) == 0 && resolver.can_be_first(key, flags);
    if file.flags & libc::O_NOFOLLOW as u32 != 0 && !can_be_first {
        let text = format!(
            "{}: an unlinked file that was opened with O_NOFOLLOW, but not to make it, is not restored yet",
            name(entry)
        );
        resolver.problems.unsupported(None, Some(entry.origin), text);
    }
    let is_path = file.flags & libc::O_PATH as u32 != 0;
    let position = if is_path || file.position == u64::MAX { 0 } else { file.position };
    resolver.open_inode(key, &file.path, flags, position, Some(ofd));
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
            "{}: is kept under another name (--link-remap), and is of a kind that is not restored yet",
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
        let numbers = recipe
            .inodes
            .iter()
            .map(|inode| 1 + inode.further.len() + usize::from(!inode.contents.is_empty()))
            .sum();
        let resource =
            self.add_resource(ResourceKind::Nameless(Box::new(recipe)), origin, vec![None; numbers]);
        for (index, key) in keys.into_iter().enumerate() {
            self.inodes.insert(key, (resource, index));
        }
    }

    /// What the pipe behind an unlinked FIFO is like.
    pub(super) fn fill_fifo(&mut self, key: InodeKey, bytes: Option<u32>, held: Vec<u8>) {
        let Some((resource, inode)) = self.inodes.get(&key).copied() else { return };
        if let ResourceKind::Nameless(recipe) = &mut self.recipes.resources[resource.index()].kind
            && let Some(Inode { kind: InodeKind::Fifo { capacity, data, .. }, .. }) =
                recipe.inodes.get_mut(inode)
        {
            (*capacity, *data) = (bytes, held);
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
            InodeKind::Directory { .. } | InodeKind::Fifo { .. } | InodeKind::Linked { .. } => return false,
        };
        flags & !O_SETTABLE == made_with as u32
    }

    /// Which of the names of an inode it is: 0 the first, that it is made under.
    fn name_index(&self, key: InodeKey, path: &str) -> usize {
        let made = self.inodes.get(&key).and_then(|(resource, inode)| {
            match &self.recipes.resources[resource.index()].kind {
                ResourceKind::Nameless(recipe) => recipe.inodes.get(*inode),
                _ => None,
            }
        });
        let further = made.map_or([].as_slice(), |inode| inode.further.as_slice());
        further.iter().position(|name| name == path).map_or(0, |index| index + 1)
    }

    /// One more description of an inode, by the name `path`, if it had several; `None` if it is not made
    /// (which has been said).
    pub(in super::super) fn open_inode(
        &mut self,
        key: InodeKey,
        path: &str,
        flags: u32,
        position: u64,
        ofd: Option<OfdId>,
    ) -> Option<OfdId> {
        let (resource, inode) = self.inodes.get(&key).copied()?;
        let name = self.name_index(key, path);
        let shared = (key, name, flags);
        let is_first = name == 0 && self.can_be_first(key, flags);
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
                // Each inode has a number, one for each further name, and those with content another for it.
                let numbers =
                    |inode: &Inode| 1 + inode.further.len() + usize::from(!inode.contents.is_empty());
                let number = recipe.inodes.iter().take(inode).map(numbers).sum::<usize>();
                recipe.inodes.get_mut(inode)?.first = Some((flags & O_SETTABLE, position));
                *self.forest.resources[resource.index()].yields.get_mut(number)? = Some(new);
                self.inode_views.entry((key, 0, libc::O_RDWR as u32)).or_insert(new);
                return Some(new);
            }
            recipe.opens.push(super::super::recipe::Opening { inode, name, flags, position });
            self.forest.resources[resource.index()].yields.push(Some(new));
        }
        Some(new)
    }
}
