//! A directory of small files in one input.
//!
//! ```text
//! entry   u8 length of the name, the name, u16 zeros, u32 length, bytes …
//! ```
//!
//! A file is its bytes and then `zeros` pages of zeros: pages images are long, and what is in them matters little. Numbers
//! are little-endian. Any bytes are an archive: what is left at its end is ignored, and so is a name that could lead out of the
//! directory.
//!
//! Directories of dumps before are in it: `before-1/pages-1.img` is a file of the first of them, `parent` a link of the
//! directory itself, and `before-1/parent` one of the first. The first byte of a link says where it leads: to one of these
//! directories (0 is the directory itself), round and round, or to what is not there. So links lead anywhere but out.

/// Bytes in a page.
const PAGE: usize = 4096;
/// More pages of zeros than this are as good as this.
const ZEROS_MAX: u16 = 16;
/// The longest name.
const NAME_MAX: usize = 64;

/// How many directories of dumps before there may be.
pub const BEFORE: u8 = 3;
/// The name of a link to a directory of a dump before.
pub const LINK: &str = "parent";

/// The directory of a dump before, by its number; 0: that of the archive itself.
pub fn directory_name(number: u8) -> String {
    if number == 0 { ".".to_owned() } else { format!("before-{number}") }
}

/// One file, or a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its name.
    pub name: String,
    /// What it starts with.
    pub bytes: Vec<u8>,
    /// How many pages of zeros follow.
    pub zeros: u16,
}

impl File {
    /// The number of the directory that it is in, and its name there.
    pub fn place(&self) -> (u8, &str) {
        let (number, name) = place_of(&self.name);
        (number.unwrap_or(0), name)
    }

    /// The directory that it leads to, if it is a link: `Some(None)` is none that there could be.
    pub fn leads_to(&self) -> Option<Option<u8>> {
        let number = self.bytes.first().copied().unwrap_or(0) % (BEFORE + 2);
        (self.place().1 == LINK).then_some((number <= BEFORE).then_some(number))
    }

    /// A link.
    pub fn link(name: &str, to: u8) -> File {
        File { name: name.to_owned(), bytes: vec![to], zeros: 0 }
    }

    /// Its length.
    pub fn len(&self) -> usize {
        self.bytes.len().saturating_add(usize::from(self.zeros).saturating_mul(PAGE))
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of its bytes.
    pub fn whole(&self) -> Vec<u8> {
        let mut whole = self.bytes.clone();
        whole.resize(self.len(), 0);
        whole
    }

    /// The file with these contents, in its shortest form.
    pub fn new(name: &str, mut bytes: Vec<u8>) -> File {
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let zeros = ((bytes.len() - used) / PAGE).min(usize::from(ZEROS_MAX));
        bytes.truncate(bytes.len() - zeros * PAGE);
        File { name: name.to_owned(), bytes, zeros: zeros as u16 }
    }
}

/// The number of the directory that a name starts with, and the rest.
fn place_of(name: &str) -> (Option<u8>, &str) {
    let before = name.strip_prefix("before-").and_then(|rest| rest.split_once('/'));
    let found = before.and_then(|(number, rest)| {
        let number = (1..=BEFORE).find(|known| known.to_string() == number)?;
        Some((Some(number), rest))
    });
    found.unwrap_or((None, name))
}

fn is_name(name: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(name) else { return false };
    let (_, base) = place_of(text);
    // A file must not be where a directory has to be.
    let is_directory = (1..=BEFORE).any(|number| base == directory_name(number));
    (1..=NAME_MAX).contains(&name.len())
        && !["", ".", ".."].contains(&base)
        && !is_directory
        && base.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// The files of an archive; of two with one name the first.
pub fn read(mut input: &[u8]) -> Vec<File> {
    let mut files: Vec<File> = Vec::new();
    let mut next = || -> Option<File> {
        let mut take = |len: usize| input.split_off(..len.min(input.len()));
        let len = usize::from(*take(1)?.first()?);
        let name = take(len)?;
        let zeros = u16::from_le_bytes(take(2)?.try_into().ok()?).min(ZEROS_MAX);
        let len = u32::from_le_bytes(take(4)?.try_into().ok()?) as usize;
        let bytes = take(len)?.to_vec();
        let name = if is_name(name) { String::from_utf8_lossy(name).into_owned() } else { String::new() };
        Some(File { name, bytes, zeros })
    };
    while let Some(file) = next() {
        if !file.name.is_empty() && !files.iter().any(|other| other.name == file.name) {
            files.push(file);
        }
    }
    files
}

/// The archive of these files.
pub fn write(files: &[File]) -> Vec<u8> {
    let mut out = Vec::new();
    for File { name, bytes, zeros } in files {
        out.push(name.len().min(NAME_MAX) as u8);
        out.extend_from_slice(&name.as_bytes()[..name.len().min(NAME_MAX)]);
        out.extend_from_slice(&zeros.to_le_bytes());
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let mut page = vec![0; 3 * PAGE];
        page[PAGE] = 7;
        let files = vec![File::new("a.img", b"xyz".to_vec()), File::new("pages-1.img", page.clone())];
        assert_eq!((files[1].zeros, files[1].bytes.len()), (1, 2 * PAGE));
        assert_eq!(files[1].whole(), page);
        assert_eq!(read(&write(&files)), files);
    }

    #[test]
    fn links_lead_to_directories() {
        let to = |byte| File::link("before-1/parent", byte).leads_to();
        assert_eq!(
            [0, 3, 4, 5, 8].map(to),
            [Some(Some(0)), Some(Some(3)), Some(None), Some(Some(0)), Some(Some(3))]
        );
        assert_eq!(File::new("before-1/parent.img", vec![1]).leads_to(), None);
        assert_eq!(File::new("before-2/a.img", vec![1]).place(), (2, "a.img"));
        let files = vec![File::link("parent", 1), File::new("before-1/a.img", vec![1])];
        assert_eq!(read(&write(&files)), files);
    }

    #[test]
    fn no_name_leads_out() {
        for name in ["..", ".", "a/b", "", "a\0"] {
            assert_eq!(read(&write(&[File { name: name.to_owned(), bytes: vec![1], zeros: 0 }])), []);
        }
        for name in [
            "before-1/..",
            "before-0/a",
            "before-4/a",
            "before-1/b/c",
            "before-1/",
            "before-2",
            "../before-1/a",
        ] {
            assert_eq!(
                read(&write(&[File { name: name.to_owned(), bytes: vec![1], zeros: 0 }])),
                [],
                "{name}"
            );
        }
        let two = [File::new("a", vec![1]), File::new("a", vec![2])];
        assert_eq!(read(&write(&two)), two[..1]);
        assert_eq!(read(&[200, 1, 2]), []);
    }
}
