//! Files of costs: JSON, versioned, with the host that they were measured on.
//!
//! ```json
//! {
//!   "format": "regrow-costs/1",
//!   "host": { "cores": 2, "kernel": "6.18.0", "machine": "x86_64", "privileged": true },
//!   "kept": { "filter_ns": "seccomp: EPERM" },
//!   "costs": { "call_ns": 118.4, "fork_ns": 61250.0 }
//! }
//! ```
//!
//! `costs` has every constant of [`CostModel`] (two of them are shown); `kept` names those that could not be
//! measured and have the value of the built-in table, with the reason.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regrow_graph::cost::{BadConstant, CostModel};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Name and version.
pub const FORMAT: &str = "regrow-costs/1";

/// No table is nearly as long.
const MOST_BYTES: u64 = 1 << 20;

/// A table as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// [`FORMAT`].
    pub format: String,
    /// Where it was measured.
    pub host: Host,
    /// Constants that could not be measured there, and why.
    #[serde(default)]
    pub kept: BTreeMap<String, String>,
    /// The table.
    pub costs: CostModel,
}

/// A host, in a few words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// CPUs that could be used.
    pub cores: u32,
    /// Release of the kernel.
    pub kernel: String,
    /// Architecture.
    pub machine: String,
    /// Whether it was measured with privileges, or in a user namespace.
    pub privileged: bool,
}

/// Why a file gives no table.
#[derive(Debug, Error)]
pub enum CostsError {
    /// It cannot be read or written.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is something else, or of another version.
    #[error("{}: no file of costs: {what}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A constant cannot be a cost.
    #[error("{}: {error}", .path.display())]
    Constant {
        /// The file.
        path: PathBuf,
        /// Which, and what it is said to be.
        error: BadConstant,
    },
}

/// Reads a table.
///
/// # Errors
/// See [`CostsError`].
pub fn read(path: &Path) -> Result<Costs, CostsError> {
    use std::io::Read;
    let io = |error| CostsError::Io { path: path.to_owned(), error };
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut text))
        .map_err(io)?;
    parse(path, &text)
}

fn parse(path: &Path, text: &[u8]) -> Result<Costs, CostsError> {
    let bad = |what: String| CostsError::Format { path: path.to_owned(), what };
    if text.len() as u64 > MOST_BYTES {
        return Err(bad(format!("longer than {MOST_BYTES} bytes")));
    }
    // Of another version the rest means something else.
    let json: serde_json::Value = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
    match json.get("format").and_then(serde_json::Value::as_str) {
        Some(FORMAT) => {}
        Some(other) => return Err(bad(format!("its format is {other:?}, and {FORMAT:?} is read"))),
        None => return Err(bad(format!("it does not say that its format is {FORMAT:?}"))),
    }
    let costs: Costs = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
    costs.costs.check().map_err(|error| CostsError::Constant { path: path.to_owned(), error })?;
    Ok(costs)
}

/// Writes a table. What is there with this name is replaced when the new one is complete.
///
/// # Errors
/// The kernel's.
pub fn write(path: &Path, costs: &Costs) -> Result<(), CostsError> {
    use std::io::Write;
    let io = |error| CostsError::Io { path: path.to_owned(), error };
    let text = serde_json::to_string_pretty(costs).map_err(|error| io(error.into()))? + "\n";
    let mut name = path.file_name().ok_or_else(|| io(std::io::ErrorKind::InvalidFilename.into()))?.to_owned();
    name.push(format!(".{}", std::process::id()));
    let aside = path.with_file_name(name);
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&aside)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| std::fs::rename(&aside, path));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&aside);
        io(error)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn table() -> serde_json::Value {
        serde_json::to_value(Costs {
            format: FORMAT.to_owned(),
            host: Host::default(),
            kept: BTreeMap::new(),
            costs: CostModel::default(),
        })
        .unwrap()
    }

    /// Changes a good file and expects the words of the error, or none.
    fn check(change: impl FnOnce(&mut serde_json::Value), expected: Option<&str>) {
        let mut json = table();
        change(&mut json);
        let text = serde_json::to_vec(&json).unwrap();
        match (parse(Path::new("costs.json"), &text), expected) {
            (Ok(_), None) => {}
            (Err(error), Some(words)) => {
                let error = error.to_string();
                assert!(error.starts_with("costs.json: ") && error.contains(words), "{error}");
            }
            (other, _) => panic!("{other:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn bad_files_are_named() {
        check(|_| {}, None);
        check(|json| json["format"] = "regrow-costs/2".into(), Some("its format is \"regrow-costs/2\""));
        check(|json| json["format"] = 1.into(), Some("does not say"));
        check(|json| json["costs"]["fork_ns"] = (-1).into(), Some("fork_ns is -1 ns"));
        check(|json| json["costs"]["fork_ns"] = 1e300.into(), Some("a cost is a number from 0 to"));
        check(|json| json["costs"]["fork_ns"] = "dear".into(), Some("invalid type"));
        check(|json| json["costs"]["tea_ns"] = 1.into(), Some("unknown field `tea_ns`"));
        check(
            |json| drop(json["costs"].as_object_mut().unwrap().remove("dup_ns")),
            Some("missing field `dup_ns`"),
        );
        let error = parse(Path::new("x"), b"fork_ns = 1").unwrap_err().to_string();
        assert!(error.starts_with("x: no file of costs: "), "{error}");
        assert!(parse(Path::new("x"), &vec![b' '; 1 << 21]).unwrap_err().to_string().contains("longer than"));
    }

    #[test]
    fn written_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("costs.json");
        let costs: Costs = serde_json::from_value(table()).unwrap();
        std::fs::write(&path, "something else").unwrap();
        write(&path, &costs).unwrap();
        assert_eq!(read(&path).unwrap(), costs);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write(Path::new("/"), &costs).is_err());
        assert!(read(dir.path()).unwrap_err().to_string().contains("directory"));
    }
}
