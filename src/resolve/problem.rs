//! Problems: every reason why a directory cannot be restored here, of a kind that scripts can tell
//! apart by exit code.

use std::fmt;

use serde::Serialize;

use crate::image::{NsPid, Origin};

/// What sort of reason it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The images themselves are damaged or contradict themselves.
    BadImages,
    /// A stored plan is damaged, or is none.
    BadPlan,
    /// A pid or tid of the images is in use.
    PidTaken,
    /// A file is missing, or is not the file that was dumped.
    FileChanged,
    /// The images need something that regrow does not restore (yet).
    Unsupported,
    /// The kernel or the privileges of the caller do not allow it.
    Lacking,
    /// A stored plan is of other images, or of a host that is not as this one.
    StalePlan,
    /// regrow's own plan was refuted by its own checker.
    Defect,
}

impl ProblemKind {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            ProblemKind::BadImages => "bad images",
            ProblemKind::BadPlan => "bad plan",
            ProblemKind::PidTaken => "pid taken",
            ProblemKind::FileChanged => "file missing or changed",
            ProblemKind::Unsupported => "unsupported",
            ProblemKind::Lacking => "kernel or privilege lacking",
            ProblemKind::StalePlan => "stale plan",
            ProblemKind::Defect => "defect of regrow",
        }
    }
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Its kind.
    pub kind: ProblemKind,
    /// The task it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<NsPid>,
    /// What, and why.
    pub text: String,
    /// The image entry it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind.name())?;
        if let Some(task) = self.task {
            write!(f, "task {task}: ")?;
        }
        f.write_str(&self.text)?;
        if let Some(origin) = self.origin {
            write!(f, " [{origin}]")?;
        }
        Ok(())
    }
}

/// Collects problems on the way, so that all are reported and not the first.
#[derive(Debug, Default)]
pub struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    /// Notes one.
    pub fn add(
        &mut self,
        kind: ProblemKind,
        task: Option<NsPid>,
        origin: Option<Origin>,
        text: impl Into<String>,
    ) {
        self.list.push(Problem { kind, task, text: text.into(), origin });
    }

    /// Something that regrow does not restore.
    pub fn unsupported(&mut self, task: Option<NsPid>, origin: Option<Origin>, text: impl Into<String>) {
        self.add(ProblemKind::Unsupported, task, origin, text);
    }

    /// All of them, each once, in the order in which they were found.
    pub fn into_vec(self) -> Vec<Problem> {
        let mut seen = std::collections::HashSet::new();
        self.list.into_iter().filter(|p| seen.insert((p.kind, p.task, p.text.clone(), p.origin))).collect()
    }
}
