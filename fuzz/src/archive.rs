//! A directory of small files in one input.
//!
//! ```text
//! entry   u8 length of the name, the name, u16 zeros, u32 length, bytes …
//! ```
//!
//! A file is its bytes and then `zeros` pages of zeros: pages images are long, and what is in them matters little. Numbers
//! are little-endian. Any bytes are an archive: what is left at its end is ignored, and so is a name that could lead out of the
//! directory.

/// Bytes in a page.
const PAGE: usize = 4096;
/// More pages of zeros than this are as good as this.
const ZEROS_MAX: u16 = 16;
/// The longest name.
const NAME_MAX: usize = 64;

/// One file.
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

fn is_name(name: &[u8]) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name != b"."
        && name != b".."
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
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
    fn no_name_leads_out() {
        for name in ["..", ".", "a/b", "", "a\0"] {
            assert_eq!(read(&write(&[File { name: name.to_owned(), bytes: vec![1], zeros: 0 }])), []);
        }
        let two = [File::new("a", vec![1]), File::new("a", vec![2])];
        assert_eq!(read(&write(&two)), two[..1]);
        assert_eq!(read(&[200, 1, 2]), []);
    }
}
