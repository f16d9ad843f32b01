//! The reader on incremental dumps: the real directory `tests/images/pair`, with pages moved to directories before it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;
use tempfile::TempDir;

use super::proto::{PagemapEntry, PagemapHead};
use super::*;
use crate::synth::increments::spread;
use crate::synth::model::Synthetic;

/// How far back each page is.
const DEPTHS: [u32; 7] = [0, 1, 2, 0, 2, 1, 0];

/// The task whose pages are looked at, and its pagemap.
const TASK: u32 = 4711;
const PAGEMAP: &str = "pagemap-4711.img";

pub(super) fn pair() -> Model {
    read_model(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/pair/images")).unwrap()
}

/// The pair with all its bytes in memory.
pub(super) fn held() -> Synthetic {
    let model = pair();
    let mut contents = Held::default();
    let blobs =
        model.pipe_data.iter().map(|pipe| pipe.data).chain(model.packets.iter().map(|packet| packet.data));
    let mut all: Vec<Blob> = blobs.collect();
    all.sort_by_key(|blob| (blob.image, blob.offset_bytes));
    for blob in all {
        // Bytes are held from where they are in the image: what lies before is of no interest.
        let gap = blob.offset_bytes - contents.add(blob.image, &[]).offset_bytes;
        contents.add(blob.image, &vec![0; gap as usize]);
        contents.add(blob.image, &open_blob(&model, &blob).unwrap());
    }
    for alive in model.tasks.iter().filter_map(Task::alive) {
        for extent in &alive.mm.pages.extents {
            let (image, len_bytes) = (Image::Pages(extent.image), extent.len_pages * 4096);
            let blob = Blob { image, offset_bytes: extent.offset_bytes, len_bytes };
            contents.add(image, &open_blob(&model, &blob).unwrap());
        }
    }
    Synthetic { model, contents }
}

/// Every stored page of the model, with its task and address.
fn pages(model: &Model) -> Vec<(u32, u64, Vec<u8>)> {
    let mut all = Vec::new();
    for task in &model.tasks {
        for extent in &task.alive().unwrap().mm.pages.extents {
            for at in (0..extent.len_pages).map(|page| page * 4096) {
                let image = Image::Pages(extent.image);
                let blob = Blob { image, offset_bytes: extent.offset_bytes + at, len_bytes: 4096 };
                all.push((task.pid.0, extent.start + at, open_blob(model, &blob).unwrap()));
            }
        }
    }
    all
}

/// The pair as a dump and two before it.
struct Chain(TempDir);

impl Chain {
    fn new() -> Chain {
        let chain = Chain(tempfile::tempdir().unwrap());
        let Synthetic { model, contents } =
            spread(&held(), |_, page| DEPTHS[page as usize % DEPTHS.len()]).unwrap();
        write_model(&model, &contents, chain.0.path()).unwrap();
        chain
    }

    /// A file, by the way to it from the directory.
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn entries(&self, name: &str) -> Vec<PagemapEntry> {
        let bytes = fs::read(self.path(name)).unwrap();
        let mut rest = &bytes[8..];
        let mut entries = Vec::new();
        while let Some((len, body)) = rest.split_first_chunk::<4>() {
            let (entry, behind) = body.split_at(u32::from_le_bytes(*len) as usize);
            entries.push(entry.to_vec());
            rest = behind;
        }
        entries[1..].iter().map(|entry| PagemapEntry::decode(&entry[..]).unwrap()).collect()
    }

    fn set_entries(&self, name: &str, entries: &[PagemapEntry]) {
        let mut bytes = fs::read(self.path(name)).unwrap()[..8].to_vec();
        let head = PagemapHead { pages_id: 1 }.encode_to_vec();
        for entry in std::iter::once(head).chain(entries.iter().map(Message::encode_to_vec)) {
            bytes.extend((entry.len() as u32).to_le_bytes());
            bytes.extend(entry);
        }
        fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&self) -> Result<Model, ReadErrors> {
        read_model(self.0.path())
    }
}

#[test]
fn pages_are_found_where_they_are() {
    let chain = Chain::new();
    let model = chain.read().unwrap();
    let before =
        |depth: usize| chain.0.path().canonicalize().unwrap().join(["parent", "parent/parent"][depth]);
    assert_eq!(model.parents, [before(0), before(1)]);
    let extents = &model.tasks[0].alive().unwrap().mm.pages.extents;
    let depths: Vec<u32> = extents.iter().map(|extent| extent.image.depth).collect();
    assert!(depths.starts_with(&DEPTHS), "{depths:?}");
    assert!(extents.iter().all(|extent| extent.len_pages == 1));
    assert_eq!(pages(&model), pages(&pair()));
}

#[test]
fn what_is_written_reads_the_same() {
    let made = spread(&held(), |_, page| DEPTHS[page as usize % DEPTHS.len()]).unwrap().model;
    let words = |model: &Model| {
        let pages = |task: &Task| format!("{:#?}", task.alive().unwrap().mm.pages);
        model.tasks.iter().map(pages).collect::<Vec<_>>()
    };
    assert_eq!(words(&Chain::new().read().unwrap()), words(&made));
}

/// What CRIU up to 3.0 wrote: no flags, and a count of 32 bits.
#[test]
fn old_pagemaps() {
    let chain = Chain::new();
    for way in ["", "parent/", "parent/parent/"] {
        let name = format!("{way}{PAGEMAP}");
        let mut entries = chain.entries(&name);
        for entry in &mut entries {
            entry.in_parent = (entry.flags == Some(1)).then_some(true);
            entry.flags = None;
            entry.compat_nr_pages = entry.nr_pages.take().unwrap() as u32;
        }
        chain.set_entries(&name, &entries);
    }
    assert_eq!(pages(&chain.read().unwrap()), pages(&pair()));
}

/// What is stored goes before what is stored further back, whatever that is; of that nothing is read.
#[test]
fn what_is_older_is_not_looked_at() {
    let chain = Chain::new();
    let name = format!("parent/{PAGEMAP}");
    let mut entries = chain.entries(&name);
    let own = chain.entries(PAGEMAP)[0].vaddr;
    assert!(own < entries[0].vaddr);
    entries
        .insert(0, PagemapEntry { vaddr: own, flags: Some(4), nr_pages: Some(1), ..PagemapEntry::default() });
    chain.set_entries(&name, &entries);
    let stored = chain.path("parent/pages-1.img");
    let bytes = [vec![0xee; 4096], fs::read(&stored).unwrap()].concat();
    fs::write(stored, bytes).unwrap();
    // The directory before that has it, too: on demand, which is no page at all.
    let name = format!("parent/{name}");
    let mut entries = chain.entries(&name);
    entries
        .insert(0, PagemapEntry { vaddr: own, flags: Some(2), nr_pages: Some(1), ..PagemapEntry::default() });
    chain.set_entries(&name, &entries);
    assert_eq!(pages(&chain.read().unwrap()), pages(&pair()));
}

/// Damages a chain and compares all errors about one of the tasks. `#N` stands for the address of its Nth page.
#[track_caller]
fn check(damage: impl FnOnce(&Chain), expected: &[&str]) {
    let chain = Chain::new();
    damage(&chain);
    let errors = chain
        .read()
        .map_or_else(|errors| errors.errors().iter().map(ToString::to_string).collect(), |_| Vec::new());
    let dir = chain.0.path().canonicalize().unwrap().display().to_string();
    let found = errors
        .into_iter()
        .map(|error: String| error.replace(&dir, "DIR"))
        .filter(|error| !error.contains("4713"))
        .map(|error| {
            let of_task = pages(&pair()).into_iter().filter(|(task, ..)| *task == TASK);
            of_task
                .enumerate()
                .fold(error, |error, (n, (_, at, _))| error.replace(&format!("{at:#x}"), &format!("#{n}")))
        });
    assert_eq!(found.collect::<Vec<_>>(), expected);
}

/// Takes the last page of a pagemap away, or leaves its entry there with other flags.
fn lose_last(chain: &Chain, way: &str, flags: Option<u32>) {
    let name = format!("{way}{PAGEMAP}");
    let mut entries = chain.entries(&name);
    let last = entries.pop().unwrap();
    assert_eq!((last.flags, last.nr_pages), (Some(4), Some(1)));
    entries.extend(flags.map(|flags| PagemapEntry { flags: Some(flags), ..last }));
    chain.set_entries(&name, &entries);
    let stored = fs::File::options().write(true).open(chain.path(&format!("{way}pages-1.img"))).unwrap();
    stored.set_len(stored.metadata().unwrap().len() - 4096).unwrap();
}

#[test]
fn directories_that_are_missing() {
    check(|_| {}, &[]);
    check(
        |chain| fs::remove_dir_all(chain.path("parent")).unwrap(),
        &["pagemap-4711.img entry 2: page #1 should be of a dump before, and parent is not there"],
    );
    check(
        |chain| fs::remove_dir_all(chain.path("parent/parent")).unwrap(),
        &["pagemap-4711.img entry 2: page #2 should be of a dump before, and parent/parent is not there"],
    );
    // Said once, and not for each page.
    check(
        |chain| {
            fs::remove_dir_all(chain.path("parent/parent")).unwrap();
            std::os::unix::fs::symlink("..", chain.path("parent/parent")).unwrap();
        },
        &["parent/parent: it leads back to DIR"],
    );
}

#[test]
fn pagemaps_that_are_missing() {
    let parent = format!("parent/{PAGEMAP}");
    check(
        |chain| fs::remove_file(chain.path(&parent)).unwrap(),
        &["parent/pagemap-4711.img: missing: pagemap-4711.img entry 2 has pages in it, such as #1"],
    );
    check(
        |chain| fs::remove_file(chain.path("parent/parent").join(PAGEMAP)).unwrap(),
        &["parent/parent/pagemap-4711.img: missing: pagemap-4711.img entry 2 has pages in it, such as #2"],
    );
    check(
        |chain| fs::write(chain.path(&parent), [0; 99]).unwrap(),
        &["parent/pagemap-4711.img: bad magic 0x00000000 at offset 0, expected 0x54564319"],
    );
    check(
        |chain| {
            let bytes = fs::read(chain.path(&parent)).unwrap();
            fs::write(chain.path(&parent), &bytes[..bytes.len() - 1]).unwrap();
        },
        &["parent/pagemap-4711.img: truncated: 14 bytes wanted at offset 66, 13 there"],
    );
    check(
        |chain| {
            let mut entries = chain.entries(&parent);
            entries[0].flags = Some(8);
            chain.set_entries(&parent, &entries);
        },
        &["parent/pagemap-4711.img entry 1: unsupported: unknown flags 0x8"],
    );
}

#[test]
fn pages_that_are_missing() {
    check(
        |chain| fs::remove_file(chain.path("parent/pages-1.img")).unwrap(),
        &["parent/pages-1.img: missing: parent/pagemap-4711.img has pages in it"],
    );
    for (len, what) in [(4096, "describes 8192 bytes"), (12288, "describes only 8192 bytes")] {
        check(
            |chain| {
                let path = chain.path("parent/parent/pages-1.img");
                fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
            },
            &[&format!(
                "parent/parent/pagemap-4711.img: {what} of parent/parent/pages-1.img, which has {len}"
            )],
        );
    }
    check(
        |chain| lose_last(chain, "parent/", None),
        &[
            "pagemap-4711.img entry 5: page #5 should be of a dump before, and parent/pagemap-4711.img lacks it",
        ],
    );
    check(
        |chain| lose_last(chain, "parent/", Some(2)),
        &[
            "pagemap-4711.img entry 5: page #5 should be of a dump before, and parent/pagemap-4711.img lacks it",
        ],
    );
    check(
        |chain| lose_last(chain, "parent/parent/", None),
        &[
            "pagemap-4711.img entry 4: page #4 should be of a dump before, and parent/parent/pagemap-4711.img lacks it",
        ],
    );
}
