//! What can be wrong with an image directory.
//!
//! Every error names the file and, inside it, the entry or the offset. A reader does not stop at
//! the first: it puts each into [`Errors`] and goes on where it can, so that one run tells all.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::file::Entry;
use super::proto::Described;
use super::wire::{Finding, check_wire};

/// Errors kept of one directory. A hostile image could give one for every byte of it.
const ERRORS_MAX: usize = 256;

/// One thing that is wrong with an image directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// An image that the others need is not there.
    #[error("{file}: missing: {reason}")]
    MissingFile {
        /// File name.
        file: String,
        /// Who needs it.
        reason: String,
    },
    /// The file cannot be read.
    #[error("{file}: {source}")]
    Io {
        /// File name.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file does not start with the magic numbers of its kind.
    #[error("{file}: bad magic 0x{found:08x} at offset {offset}, expected 0x{expected:08x}")]
    BadMagic {
        /// File name.
        file: String,
        /// Where.
        offset: u64,
        /// What is there.
        found: u32,
        /// What should be.
        expected: u32,
    },
    /// The file ends too early.
    #[error("{file}: truncated: {wanted} bytes wanted at offset {offset}, {had} there")]
    Truncated {
        /// File name.
        file: String,
        /// Where the wanted bytes start.
        offset: u64,
        /// How many they are.
        wanted: u64,
        /// How many are there.
        had: u64,
    },
    /// An entry is not the protobuf message it should be.
    #[error("{file} entry {entry}: malformed {message}: {reason}")]
    Malformed {
        /// File name.
        file: String,
        /// Entry, from 0.
        entry: u32,
        /// The message it should be.
        message: &'static str,
        /// Why it is not.
        reason: String,
    },
    /// A required field is missing.
    #[error("{file} entry {entry}: {message} lacks {field}")]
    MissingField {
        /// File name.
        file: String,
        /// Entry, from 0.
        entry: u32,
        /// The message that lacks it.
        message: &'static str,
        /// Path of the field from the entry, such as `vmas[3].start`.
        field: String,
    },
    /// Says something that cannot be, by itself or beside another image.
    #[error("{file}{}: {reason}", at(*entry))]
    Inconsistent {
        /// File name.
        file: String,
        /// Entry, from 0.
        entry: Option<u32>,
        /// What cannot be.
        reason: String,
    },
    /// Uses something that regrow does not read.
    #[error("{file}{}: unsupported: {reason}", at(*entry))]
    Unsupported {
        /// File name.
        file: String,
        /// Entry, from 0.
        entry: Option<u32>,
        /// What it uses.
        reason: String,
    },
    /// An `.img` file whose name is none of CRIU's.
    #[error("{file}: not an image that regrow knows by name")]
    UnknownImage {
        /// File name.
        file: String,
    },
    /// A field that regrow does not know: written by a CRIU newer than it.
    #[error("{file} entry {entry}: unsupported: unknown field {number} in {message}{}", within(path))]
    UnknownField {
        /// File name.
        file: String,
        /// Entry, from 0.
        entry: u32,
        /// The message that has it.
        message: &'static str,
        /// Path of that message from the entry; empty: the entry itself.
        path: String,
        /// The field's number.
        number: u32,
    },
}

fn at(entry: Option<u32>) -> String {
    entry.map(|entry| format!(" entry {entry}")).unwrap_or_default()
}

fn within(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" at {path}") }
}

impl ImageError {
    /// Name of the file it is about.
    pub fn file(&self) -> &str {
        match self {
            ImageError::MissingFile { file, .. }
            | ImageError::Io { file, .. }
            | ImageError::BadMagic { file, .. }
            | ImageError::Truncated { file, .. }
            | ImageError::Malformed { file, .. }
            | ImageError::MissingField { file, .. }
            | ImageError::Inconsistent { file, .. }
            | ImageError::Unsupported { file, .. }
            | ImageError::UnknownImage { file }
            | ImageError::UnknownField { file, .. } => file,
        }
    }

    /// Whether the images are sound but use something that regrow does not read.
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self,
            ImageError::Unsupported { .. }
                | ImageError::UnknownField { .. }
                | ImageError::UnknownImage { .. }
        )
    }
}

/// Everything that is wrong with an image directory: at least one error.
#[derive(Debug, thiserror::Error)]
pub struct ReadErrors {
    dir: PathBuf,
    errors: Vec<ImageError>,
    omitted: u64,
}

impl ReadErrors {
    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The errors; never empty.
    pub fn errors(&self) -> &[ImageError] {
        &self.errors
    }

    /// How many more there were than are kept.
    pub fn omitted(&self) -> u64 {
        self.omitted
    }
}

impl fmt::Display for ReadErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.omitted.saturating_add(self.errors.len() as u64);
        let plural = if count == 1 { "problem" } else { "problems" };
        write!(f, "cannot read the images in {}: {count} {plural}", self.dir.display())?;
        for error in &self.errors {
            write!(f, "\n  {error}")?;
        }
        if self.omitted > 0 {
            write!(f, "\n  and {} more", self.omitted)?;
        }
        Ok(())
    }
}

/// The errors found so far.
#[derive(Debug, Default)]
pub(crate) struct Errors {
    list: Vec<ImageError>,
    omitted: u64,
}

impl Errors {
    pub(crate) fn new() -> Errors {
        Errors::default()
    }

    pub(crate) fn push(&mut self, error: ImageError) {
        if self.list.len() < ERRORS_MAX {
            self.list.push(error);
        } else {
            self.omitted = self.omitted.saturating_add(1);
        }
    }

    /// Takes over the errors of another part, behind its own.
    pub(crate) fn append(&mut self, other: Errors) {
        for error in other.list {
            self.push(error);
        }
        self.omitted = self.omitted.saturating_add(other.omitted);
    }

    /// How many errors there were.
    pub(crate) fn count(&self) -> u64 {
        self.omitted.saturating_add(self.list.len() as u64)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The value of `result`, its error put down here.
    pub(crate) fn keep<T>(&mut self, result: Result<T, ImageError>) -> Option<T> {
        result.map_err(|error| self.push(error)).ok()
    }

    pub(crate) fn missing_file(&mut self, file: impl ToString, reason: impl Into<String>) {
        self.push(ImageError::MissingFile { file: file.to_string(), reason: reason.into() });
    }

    pub(crate) fn inconsistent(
        &mut self,
        file: impl ToString,
        entry: impl Into<Option<u32>>,
        reason: impl Into<String>,
    ) {
        self.push(ImageError::Inconsistent {
            file: file.to_string(),
            entry: entry.into(),
            reason: reason.into(),
        });
    }

    pub(crate) fn unsupported(
        &mut self,
        file: impl ToString,
        entry: impl Into<Option<u32>>,
        reason: impl Into<String>,
    ) {
        self.push(ImageError::Unsupported {
            file: file.to_string(),
            entry: entry.into(),
            reason: reason.into(),
        });
    }

    pub(crate) fn missing_field(
        &mut self,
        file: impl ToString,
        entry: u32,
        message: &'static str,
        field: &str,
    ) {
        self.push(ImageError::MissingField {
            file: file.to_string(),
            entry,
            message,
            field: field.to_owned(),
        });
    }

    /// The entry as a message, or nothing where it is not one or lacks a required field. Unknown
    /// fields are put down and do not keep the rest from being read.
    pub(crate) fn decode<M: Described>(&mut self, entry: &Entry<'_>) -> Option<M> {
        let (file, number, message) = (entry.file, entry.index, M::SCHEMA.name);
        let malformed =
            |reason: String| ImageError::Malformed { file: file.to_owned(), entry: number, message, reason };
        let findings = match check_wire(M::SCHEMA, entry.body) {
            Ok(findings) => findings,
            Err(e) => {
                self.push(malformed(format!("{} at byte {} of the entry", e.reason, e.offset)));
                return None;
            }
        };
        let mut complete = true;
        for finding in findings {
            self.push(match finding {
                Finding::Missing { message, path } => {
                    complete = false;
                    ImageError::MissingField { file: file.to_owned(), entry: number, message, field: path }
                }
                Finding::Unknown { message, path, number: field } => ImageError::UnknownField {
                    file: file.to_owned(),
                    entry: number,
                    message,
                    path,
                    number: field,
                },
            });
        }
        if !complete {
            return None;
        }
        let decoded = M::decode(entry.body).map_err(|e| malformed(e.to_string()));
        self.keep(decoded)
    }

    /// Bytes of a name or a path as text.
    pub(crate) fn text(&mut self, bytes: Vec<u8>, entry: &Entry<'_>, what: &str) -> Option<String> {
        String::from_utf8(bytes)
            .map_err(|e| {
                let lossy = String::from_utf8_lossy(e.as_bytes()).escape_debug().to_string();
                self.unsupported(entry.file, entry.index, format!("{what} {lossy:?} is not UTF-8"));
            })
            .ok()
    }

    /// The model, if nothing was wrong and there is one.
    pub(crate) fn finish<T>(mut self, dir: &Path, model: Option<T>) -> Result<T, ReadErrors> {
        match model {
            Some(model) if self.is_empty() => return Ok(model),
            Some(_) => {}
            // A reader that gives nothing says why; should one not, that is an error all the same.
            None if self.is_empty() => self.inconsistent(dir.display(), None, "nothing could be read"),
            None => {}
        }
        Err(ReadErrors { dir: dir.to_owned(), errors: self.list, omitted: self.omitted })
    }
}
