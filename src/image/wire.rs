//! Holds the bytes of one entry against the schema of its message.
//!
//! Turns an entry into a list of [`Finding`]s: required fields that are missing and fields that
//! the schema does not know, each with its path (`vmas[3].start`). It knows the protobuf wire
//! format and nothing of what the fields mean, and it allocates only for findings.
//!
//! Example: the entry `08 05` (field 1, varint 5) of a `pstree_entry` gives three findings: `ppid`,
//! `pgid` and `sid` are missing.
//!
//! A field that the schema does not know is reported unless it is a varint 0 or empty: CRIU's
//! writers mark optional fields as present also when they carry the default, so a field of a newer
//! version that says "not used here" arrives as a zero.

use super::proto::Schema;

/// At most so many findings are kept of one entry: each costs more memory than what it reports.
const FINDINGS_MAX: usize = 16;

/// Something that an entry lacks or has too much.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// A required field is missing.
    Missing {
        /// The message it is missing in.
        message: &'static str,
        /// Path of the field from the entry.
        path: String,
    },
    /// The message has a field that regrow does not know.
    Unknown {
        /// The message.
        message: &'static str,
        /// Path of the message from the entry; empty: the entry itself.
        path: String,
        /// The field's number.
        number: u32,
    },
}

/// Why bytes are not a protobuf message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotWire {
    /// Offset in the entry.
    pub(crate) offset: usize,
    /// Why.
    pub(crate) reason: &'static str,
}

/// One step from a message to a field of it: name and, where repeated, index.
type Step = (&'static str, u32);

/// What `body` lacks or has too much to be a message of `schema`.
///
/// # Errors
/// Where the bytes are not the wire format.
pub(crate) fn check_wire(schema: &'static Schema, body: &[u8]) -> Result<Vec<Finding>, NotWire> {
    let mut walk = Walk { path: Vec::new(), findings: Vec::new() };
    walk.message(schema, body, 0)?;
    Ok(walk.findings)
}

/// The field of bytes with this number, and the message without it, where it is there exactly once.
pub(crate) fn parted_by(body: &[u8], number: u32) -> Option<(&[u8], Vec<u8>)> {
    let mut cursor = Cursor { body, at: 0, base: 0 };
    let mut found = None;
    while cursor.at < body.len() {
        let start = cursor.at;
        let key = cursor.varint().ok()?;
        let bytes = match key & 7 {
            0 => cursor.varint().ok().map(|_| None)?,
            1 => cursor.take(8).ok().map(|_| None)?,
            2 => {
                let len = usize::try_from(cursor.varint().ok()?).ok()?;
                Some(cursor.take(len).ok()?)
            }
            5 => cursor.take(4).ok().map(|_| None)?,
            _ => return None,
        };
        if key >> 3 == u64::from(number) {
            let part = (bytes?, start, cursor.at);
            found.replace(part).is_none().then_some(())?;
        }
    }
    let (bytes, start, end) = found?;
    Some((bytes, [&body[..start], &body[end..]].concat()))
}

struct Walk {
    path: Vec<Step>,
    findings: Vec<Finding>,
}

impl Walk {
    /// Checks one message, `base` bytes into the entry. The depth is that of the schemas, which
    /// do not refer to themselves.
    fn message(&mut self, schema: &'static Schema, body: &[u8], base: usize) -> Result<(), NotWire> {
        let mut cursor = Cursor { body, at: 0, base };
        let mut seen = 0u64;
        let mut index = [0u32; 64];
        // Where the field before stands in the schema: writers keep the order of the numbers, as schemas do.
        let mut last = 0;
        while cursor.at < body.len() {
            let key = cursor.varint()?;
            let number = u32::try_from(key >> 3).map_err(|_| cursor.error("field number too large"))?;
            if number == 0 {
                return Err(cursor.error("field number 0"));
            }
            let (value, start) = match key & 7 {
                0 => {
                    let value = cursor.varint()?;
                    (Value::Number(value), cursor.at)
                }
                1 => (Value::Bytes(cursor.take(8)?), cursor.at),
                2 => {
                    let len = cursor.varint()?;
                    let len = usize::try_from(len).map_err(|_| cursor.error("length too large"))?;
                    let start = cursor.at;
                    (Value::Bytes(cursor.take(len)?), start)
                }
                5 => (Value::Bytes(cursor.take(4)?), cursor.at),
                _ => return Err(cursor.error("unknown wire type")),
            };
            let Some(i) = place_of(schema, number, last) else {
                if value.is_set() {
                    let path = self.render(None);
                    self.push(Finding::Unknown { message: schema.name, path, number });
                }
                continue;
            };
            (seen, last) = (seen | 1 << i, i);
            let field = &schema.fields[i];
            if let (Some(inner), Value::Bytes(bytes), 2) = (field.message, value, key & 7) {
                self.path.push((field.name, index[i]));
                self.message(inner, bytes, base.saturating_add(start))?;
                self.path.pop();
                index[i] = index[i].saturating_add(1);
            }
        }
        for (i, field) in schema.fields.iter().enumerate() {
            if field.required && seen & (1 << i) == 0 {
                let path = self.render(Some(field.name));
                self.push(Finding::Missing { message: schema.name, path });
            }
        }
        Ok(())
    }

    fn push(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    fn render(&self, last: Option<&str>) -> String {
        let mut text = String::new();
        for (name, index) in &self.path {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(plain(name));
            // The first of a field reads best without a number: most fields are not repeated.
            if *index > 0 {
                text.push_str(&format!("[{index}]"));
            }
        }
        if let Some(last) = last {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(plain(last));
        }
        text
    }
}

/// Where the field of this number stands in the schema. It is looked for from the place of the field before on, where
/// it nearly always is: the same one again, or the next.
fn place_of(schema: &Schema, number: u32, last: usize) -> Option<usize> {
    let fields = schema.fields;
    let is_it = |at: &usize| fields[*at].number == number;
    (last..fields.len()).find(is_it).or_else(|| (0..last.min(fields.len())).find(is_it))
}

/// A field's name without Rust's mark for names that are keywords.
fn plain(name: &str) -> &str {
    name.strip_prefix("r#").unwrap_or(name)
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Value<'_> {
    fn is_set(&self) -> bool {
        match self {
            Value::Number(n) => *n != 0,
            Value::Bytes(bytes) => bytes.iter().any(|b| *b != 0),
        }
    }
}

struct Cursor<'a> {
    body: &'a [u8],
    at: usize,
    base: usize,
}

impl<'a> Cursor<'a> {
    fn error(&self, reason: &'static str) -> NotWire {
        NotWire { offset: self.base.saturating_add(self.at), reason }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], NotWire> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.body.len());
        let Some(end) = end else {
            return Err(self.error("field reaches behind the end of its message"));
        };
        let bytes = &self.body[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, NotWire> {
        // Most are of one byte: keys, flags, short lengths.
        match self.body.get(self.at) {
            Some(byte) if byte & 0x80 == 0 => {
                self.at += 1;
                Ok(u64::from(*byte))
            }
            Some(_) | None => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, NotWire> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.error("varint longer than 10 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::proto::{Described, FileEntry, PstreeEntry};

    fn check(schema: &'static Schema, body: &[u8], expected: &str) {
        let found = match check_wire(schema, body) {
            Ok(findings) => findings
                .iter()
                .map(|f| match f {
                    Finding::Missing { path, .. } => format!("-{path}"),
                    Finding::Unknown { path, number, .. } => format!("+{path}#{number}"),
                })
                .collect::<Vec<_>>()
                .join(" "),
            Err(e) => format!("{} at {}", e.reason, e.offset),
        };
        assert_eq!(found, expected, "{body:02x?}");
    }

    #[test]
    fn a_field_that_is_there_once() {
        let check = |body: &[u8], expected: Option<(&[u8], &[u8])>| {
            let found = parted_by(body, 3);
            let found = found.as_ref().map(|(bytes, rest)| (*bytes, rest.as_slice()));
            assert_eq!(found, expected, "{body:02x?}");
        };
        check(&[8, 1, 26, 2, 7, 7, 34, 0], Some((&[7, 7], &[8, 1, 34, 0])));
        check(&[26, 0], Some((&[], &[])));
        // Its bytes may look like what is beside it.
        check(&[34, 2, 26, 0, 26, 1, 9], Some((&[9], &[34, 2, 26, 0])));
        check(&[8, 1], None);
        check(&[26, 0, 26, 0], None);
        check(&[24, 0], None);
        check(&[26, 2, 7], None);
        check(&[26, 0, 8], None);
    }

    #[test]
    fn complete_message_has_no_findings() {
        check(PstreeEntry::SCHEMA, &[8, 1, 16, 0, 24, 1, 32, 1, 40, 1, 40, 2], "");
        check(PstreeEntry::SCHEMA, &[8, 1, 16, 0, 24, 1, 32, 1, 42, 2, 1, 2], "");
    }

    #[test]
    fn missing_and_unknown_fields_are_named() {
        check(PstreeEntry::SCHEMA, &[8, 5], "-ppid -pgid -sid");
        check(PstreeEntry::SCHEMA, &[8, 1, 16, 0, 24, 1, 32, 1, 48, 7], "+#6");
        check(FileEntry::SCHEMA, &[16, 1, 26, 2, 8, 1], "-reg.flags -reg.pos -reg.fown -reg.name -type");
    }

    #[test]
    fn unknown_zero_says_nothing() {
        check(PstreeEntry::SCHEMA, &[8, 1, 16, 0, 24, 1, 32, 1, 48, 0], "");
        check(PstreeEntry::SCHEMA, &[8, 1, 16, 0, 24, 1, 32, 1, 50, 0], "");
    }

    #[test]
    fn bad_wire_is_an_error() {
        check(PstreeEntry::SCHEMA, &[8], "field reaches behind the end of its message at 1");
        check(PstreeEntry::SCHEMA, &[0, 1], "field number 0 at 1");
        check(PstreeEntry::SCHEMA, &[11], "unknown wire type at 1");
        check(PstreeEntry::SCHEMA, &[0xff; 12], "varint longer than 10 bytes at 10");
        check(
            PstreeEntry::SCHEMA,
            &[10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            "field reaches behind the end of its message at 11",
        );
    }
}
