//! The directories of the dumps before this one.
//!
//! `criu dump --prev-images-dir` puts a link named `parent` into the new directory; where that leads, there may be
//! another. This finds the directories and looks into none of them but for what makes all of its pages unreadable. Which
//! pages are there is [`super::pagemap`]'s business.
//!
//! Example: `images/3/parent` leads to `../2` and `images/2/parent` to `../1`; so of `images/3` the parents are
//! `images/2` and `images/1`.
//!
//! # Sources
//! `open_parent` in `criu/image.c`: what is named `parent` is opened as a directory, from each directory anew; so a
//! relative link is relative to the directory that it is in, and a chain may be longer than one path can be.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::{Errors, ImageError};
use super::model::Upwards;

/// The name that leads from a directory to the one before it.
pub(crate) const PARENT: &str = "parent";

/// The directories before one, the nearest first.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// As absolute paths without links.
    pub(crate) dirs: Vec<PathBuf>,
    /// Whether there are no more; else what kept the next from being found is an error already.
    pub(crate) is_whole: bool,
}

/// Where the directories before `path` are.
pub(crate) fn find(path: &Path, errors: &mut Errors) -> Chain {
    let mut chain = Chain::default();
    let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino());
    let mut seen: BTreeSet<(u64, u64)> = std::fs::metadata(path).iter().map(identity).collect();
    loop {
        let link = chain.dirs.last().map_or(path, PathBuf::as_path).join(PARENT);
        let name = format!("{}{PARENT}", Upwards(chain.dirs.len() as u32));
        match std::fs::symlink_metadata(&link) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                chain.is_whole = true;
                return chain;
            }
            // Asked once more, it says the same.
            Ok(_) | Err(_) => {}
        }
        let found = std::fs::metadata(&link).and_then(|metadata| Ok((metadata, link.canonicalize()?)));
        let (metadata, dir) = match found {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let target = std::fs::read_link(&link).unwrap_or_default();
                let reason = format!("it leads to {}, where nothing is", target.display());
                errors.missing_file(name, format!("the directory of the dump before: {reason}"));
                return chain;
            }
            Err(source) => {
                errors.push(ImageError::Io { file: name, source });
                return chain;
            }
        };
        if !metadata.is_dir() {
            errors.inconsistent(name, None, format!("{} is no directory", dir.display()));
            return chain;
        }
        // By way of /proc a link leads to what has no path, or one that means another directory here.
        if std::fs::metadata(&dir).ok().is_none_or(|is| identity(&is) != identity(&metadata)) {
            errors.inconsistent(name, None, "it leads to a directory that cannot be reached by its path");
            return chain;
        }
        if !seen.insert(identity(&metadata)) {
            errors.inconsistent(name, None, format!("it leads back to {}", dir.display()));
            return chain;
        }
        if dir.join("cipher.img").exists() {
            errors.unsupported(name, None, "the images there are encrypted");
            return chain;
        }
        chain.dirs.push(dir);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Makes directories with links (name of the directory, where its `parent` leads), and compares what is found from
    /// `a`: names of directories, or errors. `DIR` stands for where it all is.
    #[track_caller]
    fn check(links: &[(&str, &str)], expected: &str) {
        let room = tempfile::tempdir().unwrap();
        let at = room.path().canonicalize().unwrap();
        for name in ["a", "b", "c"] {
            fs::create_dir(at.join(name)).unwrap();
        }
        fs::write(at.join("file"), "").unwrap();
        let at_text = at.to_str().unwrap();
        for (from, to) in links {
            symlink(to.replace("DIR", at_text), at.join(from).join(PARENT)).unwrap();
        }
        let mut errors = Errors::new();
        let chain = find(&at.join("a"), &mut errors);
        assert_eq!(chain.is_whole, errors.is_empty());
        let dirs: Vec<_> =
            chain.dirs.iter().map(|dir| dir.strip_prefix(&at).unwrap().to_str().unwrap()).collect();
        let said = match errors.finish(&at, Some(())) {
            Ok(()) => dirs.join(" "),
            Err(errors) => errors.errors()[0].to_string().replace(at_text, "DIR"),
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn links_are_followed_from_where_they_are() {
        check(&[], "");
        check(&[("a", "../b"), ("b", "../c")], "b c");
        check(&[("a", "DIR/c")], "c");
        // A link on the way to another directory is none of the chain.
        check(&[("a", "../b/parent/../b"), ("b", "../c")], "b c");
    }

    #[test]
    fn what_leads_nowhere_is_refused() {
        check(
            &[("a", "../d")],
            "parent: missing: the directory of the dump before: it leads to ../d, where nothing is",
        );
        check(&[("a", "../file")], "parent: DIR/file is no directory");
        check(&[("a", "parent")], "parent: Too many levels of symbolic links (os error 40)");
        check(&[("a", "../b"), ("b", "../file/x")], "parent/parent: Not a directory (os error 20)");
    }

    #[test]
    fn a_chain_ends() {
        check(&[("a", "../a")], "parent: it leads back to DIR/a");
        check(&[("a", ".")], "parent: it leads back to DIR/a");
        check(
            &[("a", "../b"), ("b", "../c"), ("c", "DIR/b")],
            "parent/parent/parent: it leads back to DIR/b",
        );
    }

    #[test]
    fn a_directory_without_a_path_is_refused() {
        let gone = tempfile::tempdir().unwrap();
        let open = fs::File::open(gone.path()).unwrap();
        gone.close().unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&open);
        let link = format!("/proc/{}/fd/{number}", std::process::id());
        let reason = format!("it leads to {link}, where nothing is");
        check(&[("a", &link)], &format!("parent: missing: the directory of the dump before: {reason}"));
    }

    #[test]
    fn a_chain_may_be_longer_than_a_path() {
        let room = tempfile::tempdir().unwrap();
        let name = |number: usize| room.path().join(number.to_string());
        for number in 0..700 {
            fs::create_dir(name(number)).unwrap();
            if number > 0 {
                symlink(format!("../{}", number - 1), name(number).join(PARENT)).unwrap();
            }
        }
        let mut errors = Errors::new();
        let chain = find(&name(699), &mut errors);
        assert!(chain.is_whole && errors.is_empty());
        assert_eq!(chain.dirs.len(), 699);
        assert_eq!(chain.dirs.last().unwrap(), &name(0).canonicalize().unwrap());
    }
}
