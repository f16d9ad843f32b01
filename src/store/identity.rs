//! Which images a plan was made from.
//!
//! Cheap identity is what `stat(2)` says: length, times, inode. Where all of that is as it was, so is the
//! content. Where it is not (the directory was copied and came back, a backup was unpacked), the content
//! decides: of metadata images by their BLAKE3, which is always stored; of `pages-*.img` by theirs if it was
//! asked for when the plan was made, else length and modification time must be the same. A plan needs no
//! other file of the directory than the `*.img`; and of the directories of dumps before, the pagemaps and the pages.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::image;
use crate::resolve::problem::{Problem, ProblemKind};

/// Images that are asked for by one job, at most.
const AT_ONCE: usize = 64;

/// The images of a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// By name, in the order of the names.
    pub images: Vec<ImageFile>,
    /// The directories of the dumps before, the nearest first.
    pub parents: Vec<Parent>,
}

/// The directory of a dump before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Its path without links, which is in the tapes.
    pub dir: PathBuf,
    /// Its pagemaps and pages images, in the order of the names.
    pub images: Vec<ImageFile>,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFile {
    /// Its name in the directory.
    pub name: String,
    /// What `stat(2)` said.
    pub stat: Stat,
    /// BLAKE3 of its content; `None`: of pages, unless it was asked for.
    pub hash: Option<[u8; 32]>,
}

/// What of `stat(2)` changes when a file does. Times in seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// Length.
    pub size_bytes: u64,
    /// Last change of the content.
    pub modified: (i64, i64),
    /// Last change of the inode.
    pub changed: (i64, i64),
    /// Inode number.
    pub ino: u64,
    /// Device.
    pub dev: u64,
}

impl Stat {
    fn of(metadata: &std::fs::Metadata) -> Stat {
        Stat {
            size_bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            ino: metadata.ino(),
            dev: metadata.dev(),
        }
    }
}

/// Whether a file of this name holds pages: large, and copied into tasks when the tapes play.
fn holds_pages(name: &str) -> bool {
    name.starts_with("pages-")
}

/// Whether a file of this name is an image.
fn is_image(name: &str) -> bool {
    name.ends_with(".img")
}

/// Whether a file of this name in the directory of a dump before is looked into.
fn is_of_pages(name: &str) -> bool {
    is_image(name) && (holds_pages(name) || name.starts_with("pagemap-"))
}

fn names(dir: &Path, is_wanted: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        if let Ok(name) = entry?.file_name().into_string()
            && is_wanted(&name)
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn hash(path: &Path) -> io::Result<[u8; 32]> {
    // Not to hang on something that is no file any more.
    let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(*hasher.finalize().as_bytes()),
            len => hasher.update(&buffer[..len]),
        };
    }
}

impl Identity {
    /// Of the images that are in `dir` now.
    ///
    /// # Errors
    /// The directory, or an image, cannot be read.
    pub fn of(dir: &Path, hash_pages: bool) -> io::Result<Identity> {
        let images = ImageFile::all_of(dir, names(dir, is_image)?, hash_pages)?;
        let parents = image::parents(dir).map_err(io::Error::other)?.into_iter().map(|dir| {
            let images = ImageFile::all_of(&dir, names(&dir, is_of_pages)?, hash_pages)?;
            Ok(Parent { dir, images })
        });
        Ok(Identity { images, parents: parents.collect::<io::Result<_>>()? })
    }

    /// How the images in `dir` are others than these. `thoroughly`: content decides wherever it was stored;
    /// else only where the cheap identity differs, so that usually no image is opened.
    pub fn differences(&self, dir: &Path, thoroughly: bool) -> Vec<Problem> {
        let stale = |text: String| Problem { kind: ProblemKind::StalePlan, task: None, text, origin: None };
        let mut problems = Vec::new();
        // Thousands of files, and each is asked for: on all cores, also on those that have something else to do first.
        let changed = |images: &[ImageFile], dir: &Path, way: &str| -> Vec<String> {
            let images = images.par_iter().with_max_len(AT_ONCE);
            images.filter_map(|image| image.difference(dir, way, thoroughly)).collect()
        };
        let (here, changed_here) = rayon::join(|| names(dir, is_image), || changed(&self.images, dir, ""));
        let here = match here {
            Ok(here) => here,
            Err(error) => return vec![stale(format!("{}: {error}", dir.display()))],
        };
        let planned: HashSet<&str> = self.images.iter().map(|image| image.name.as_str()).collect();
        for name in here.iter().filter(|name| !planned.contains(name.as_str())) {
            problems.push(stale(format!("{name} is new since the plan was made")));
        }
        problems.extend(changed_here.into_iter().map(stale));
        let are = match image::parents(dir) {
            Ok(are) => are,
            Err(errors) => {
                problems.extend(errors.errors().iter().map(|error| stale(error.to_string())));
                return problems;
            }
        };
        let were: Vec<&PathBuf> = self.parents.iter().map(|parent| &parent.dir).collect();
        for nth in 0..were.len().max(are.len()) {
            let [is, was] = [are.get(nth), were.get(nth).copied()];
            if is != was {
                let shown = |dir: Option<&PathBuf>| {
                    dir.map_or_else(|| "nowhere".to_owned(), |dir| dir.display().to_string())
                };
                let link = "parent/".repeat(nth) + "parent";
                problems.push(stale(format!("{link} leads to {}, led to {}", shown(is), shown(was))));
                return problems;
            }
        }
        for (nth, parent) in self.parents.iter().enumerate() {
            let way = "parent/".repeat(nth + 1);
            problems.extend(changed(&parent.images, &parent.dir, &way).into_iter().map(stale));
        }
        problems
    }

    /// All images, those of dumps before, too.
    pub fn all(&self) -> impl Iterator<Item = &ImageFile> {
        self.images.iter().chain(self.parents.iter().flat_map(|parent| &parent.images))
    }

    /// All that hold pages, those of `dir` by their numbers, then those of dumps before.
    pub fn of_pages(&self, dir: &Path) -> Vec<PathBuf> {
        let pages_of = |dir: &Path, images: &[ImageFile]| -> Vec<PathBuf> {
            let names = images.iter().map(|image| &image.name).filter(|name| holds_pages(name));
            image::ahead::in_order(names.cloned().collect(), true)
                .into_iter()
                .map(|name| dir.join(name))
                .collect()
        };
        let mut all = pages_of(dir, &self.images);
        all.extend(self.parents.iter().flat_map(|parent| pages_of(&parent.dir, &parent.images)));
        all
    }

    /// How many hold pages, and how many do not.
    pub fn count(&self) -> (usize, usize) {
        let pages = self.all().filter(|image| holds_pages(&image.name)).count();
        (pages, self.all().count() - pages)
    }
}

impl ImageFile {
    fn all_of(dir: &Path, names: Vec<String>, hash_pages: bool) -> io::Result<Vec<ImageFile>> {
        let of = |name: String| {
            let path = dir.join(&name);
            let named = |error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
            let stat = Stat::of(&std::fs::metadata(&path).map_err(named)?);
            let wanted = hash_pages || !holds_pages(&name);
            let hash = if wanted { Some(hash(&path).map_err(named)?) } else { None };
            Ok(ImageFile { name, stat, hash })
        };
        names.into_iter().map(of).collect()
    }

    /// How the file of this name in `dir` is another one, in words, which put `way` before its name.
    fn difference(&self, dir: &Path, way: &str, thoroughly: bool) -> Option<String> {
        let Ok(name) = Path::new(&self.name).strip_prefix("") else { return None };
        if name.components().count() != 1 || !is_image(&self.name) {
            return Some(format!("{}: no name of an image", self.name.escape_debug()));
        }
        let path = dir.join(name);
        let is = match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => Stat::of(&metadata),
            Ok(_) => return Some(format!("{way}{} is no regular file any more", self.name)),
            Err(error) => return Some(format!("{way}{}: {error}", self.name)),
        };
        if is == self.stat && !(thoroughly && self.hash.is_some()) {
            return None;
        }
        let changed =
            |what: String| Some(format!("{way}{} has changed since the plan was made: {what}", self.name));
        if is.size_bytes != self.stat.size_bytes {
            return changed(format!("{} bytes long, was {}", is.size_bytes, self.stat.size_bytes));
        }
        match self.hash {
            Some(wanted) => match hash(&path) {
                Ok(is) if is == wanted => None,
                Ok(_) => changed("its content is another".to_owned()),
                Err(error) => Some(format!("{way}{}: {error}", self.name)),
            },
            None if is.modified == self.stat.modified => None,
            None => changed(format!(
                "modified {}, was {} (plan --hash-pages lets the content decide)",
                time(is.modified),
                time(self.stat.modified)
            )),
        }
    }
}

/// A time since 1970 as a date, in UTC.
pub fn time((seconds, nanoseconds): (i64, i64)) -> String {
    let (days, rest) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    // Years from March on, in eras of 400 (the calendar repeats after 146097 days).
    let shifted = days.saturating_add(719_468);
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era.saturating_mul(400) + year_of_era + i64::from(month <= 2);
    let (hours, minutes, seconds) = (rest / 3600, rest / 60 % 60, rest % 60);
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    format!("{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02}.{nanoseconds:09} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let check = |seconds: i64, expected: &str| assert_eq!(time((seconds, 5)), expected);
        check(0, "1970-01-01 00:00:00.000000005 UTC");
        check(951_782_400, "2000-02-29 00:00:00.000000005 UTC");
        check(1_764_121_265, "2025-11-26 01:41:05.000000005 UTC");
        check(-1, "1969-12-31 23:59:59.000000005 UTC");
        // Hostile ones are dates, too, and no panic.
        let _ = (time((i64::MAX, 0)), time((i64::MIN, 0)));
    }

    fn directory() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("tempdir");
        for name in ["inventory.img", "pages-1.img", "dump.log"] {
            std::fs::write(dir.path().join(name), name).expect("write");
        }
        dir
    }

    #[track_caller]
    fn check(identity: &Identity, dir: &Path, expected: &[&str]) {
        let said: Vec<String> =
            identity.differences(dir, false).iter().map(|problem| problem.text.clone()).collect();
        assert_eq!(said.len(), expected.len(), "{said:?}");
        for (is, wanted) in said.iter().zip(expected) {
            assert!(is.starts_with(wanted), "{is}, expected {wanted}");
        }
    }

    #[test]
    fn content_decides_where_stat_does_not() {
        let dir = directory();
        let path = |name: &str| dir.path().join(name);
        let of = |hash_pages| Identity::of(dir.path(), hash_pages).expect("an identity");
        let (plain, hashed) = (of(false), of(true));
        check(&plain, dir.path(), &[]);
        std::fs::write(path("dump.log"), "another").expect("write");
        check(&plain, dir.path(), &[]);
        // The same content once more: other times.
        for name in ["inventory.img", "pages-1.img"] {
            std::fs::remove_file(path(name)).expect("remove");
            std::thread::sleep(std::time::Duration::from_millis(20));
            std::fs::write(path(name), name).expect("write");
        }
        check(&hashed, dir.path(), &[]);
        check(&plain, dir.path(), &["pages-1.img has changed since the plan was made: modified "]);
        std::fs::write(path("inventory.img"), "inventory.IMG").expect("write");
        std::fs::write(path("pages-1.img"), "pages-1.IMG").expect("write");
        let content = "has changed since the plan was made: its content is another";
        let [inventory, pages] = ["inventory.img", "pages-1.img"].map(|name| format!("{name} {content}"));
        check(&hashed, dir.path(), &[&inventory, &pages]);
        std::fs::write(path("inventory.img"), "short").expect("write");
        check(
            &plain,
            dir.path(),
            &["inventory.img has changed since the plan was made: 5 bytes long, was 13", "pages-1.img has"],
        );
    }

    #[test]
    fn images_that_come_and_go() {
        let dir = directory();
        let identity = Identity::of(dir.path(), false).expect("an identity");
        std::fs::write(dir.path().join("ids-7.img"), "").expect("write");
        std::fs::remove_file(dir.path().join("inventory.img")).expect("remove");
        check(
            &identity,
            dir.path(),
            &["ids-7.img is new since the plan was made", "inventory.img: No such file"],
        );
        check(&identity, &dir.path().join("none"), &[&format!("{}/none: No such", dir.path().display())]);
        let strange = ImageFile { name: "../x.img".to_owned(), stat: Stat::default(), hash: None };
        check(&Identity { images: vec![strange], parents: Vec::new() }, &dir.path().join("none2"), &[""]);
    }
}
