//! Measuring the constants on this host.
//!
//! Every measurement runs in tasks of its own, in a pid namespace that ends with it, and leaves nothing. What
//! cannot be measured here keeps the built-in value, and says why.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use regrow_graph::cost::CostModel;
use serde::Serialize;

use super::bench::Median;
use super::file::{Costs, FORMAT, Host};
use super::suite::{ALL, Ground};
use crate::host;

/// CAP_SYS_ADMIN (linux/capability.h): a namespace without a user namespace takes it.
const CAP_SYS_ADMIN: u32 = 21;

/// How a process gets where its children may choose their pids: a new pid namespace.
pub type Enter<'a> = &'a dyn Fn() -> Result<(), String>;

/// One constant as it was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub constant: &'static str,
    /// What costs so much.
    pub what: &'static str,
    /// How it is measured.
    pub how: &'static str,
    /// The value of the built-in table, in nanoseconds.
    pub built_in_ns: f64,
    /// The median, in nanoseconds; `None`: it could not be measured.
    pub measured_ns: Option<f64>,
    /// Half of the single measurements lie between these two.
    pub half_between_ns: Option<[f64; 2]>,
    /// Why it could not be measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_because: Option<String>,
}

/// A whole calibration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calibration {
    /// `regrow-calibration/1`.
    pub format: &'static str,
    /// This host.
    pub host: Host,
    /// How often each measurement was repeated.
    pub samples: u32,
    /// What the built-in table was measured on.
    pub built_in_measured_on: &'static str,
    /// All constants, in the order of the table.
    pub constants: Vec<Row>,
}

/// Measures all constants, each measurement `samples` times. Must be called while this process has one thread.
pub fn calibrate(samples: u32, enter: Enter<'_>) -> Calibration {
    let file = std::env::current_exe().ok().filter(|file| file.is_file());
    let file = file.unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let directory = file.parent().unwrap_or(Path::new("/"));
    let ground = Ground {
        samples,
        cpu: last_cpu(),
        enter,
        file: file.as_os_str().as_bytes().to_vec(),
        directory: directory.as_os_str().as_bytes().to_vec(),
    };
    let mut found: BTreeMap<&str, Result<Median, String>> = BTreeMap::new();
    for measurement in ALL {
        let outcome = (measurement.run)(&ground);
        for name in measurement.constants {
            let one = match &outcome {
                Ok(constants) => constants.get(name).copied().ok_or("it was not measured".to_owned()),
                Err(why) => Err(why.clone()),
            };
            found.insert(name, one);
        }
    }
    let rows =
        CostModel::CONSTANTS.iter().zip(CostModel::default().values()).map(|(constant, built_in_ns)| {
            let (measured, why) = match found.remove(constant.name) {
                Some(Ok(median)) => (Some(median.map(rounded)), None),
                Some(Err(why)) => (None, Some(why)),
                None => (None, Some("nothing measures it".to_owned())),
            };
            Row {
                constant: constant.name,
                what: constant.what,
                how: constant.how,
                built_in_ns,
                measured_ns: measured.map(|median| median.middle),
                half_between_ns: measured.map(|median| [median.low, median.high]),
                kept_because: why,
            }
        });
    Calibration {
        format: "regrow-calibration/1",
        host: this_host(),
        samples,
        built_in_measured_on: CostModel::MEASURED_ON,
        constants: rows.collect(),
    }
}

impl Calibration {
    /// The table, as it is written to a file.
    pub fn costs(&self) -> Costs {
        let mut costs = CostModel::default();
        let mut kept = BTreeMap::new();
        for row in &self.constants {
            if let Some(place) = costs.get_mut(row.constant)
                && let Some(measured_ns) = row.measured_ns
            {
                *place = measured_ns;
            }
            kept.extend(row.kept_because.clone().map(|why| (row.constant.to_owned(), why)));
        }
        Costs { format: FORMAT.to_owned(), host: self.host.clone(), kept, costs }
    }
}

/// To a tenth of a nanosecond: what is behind that is noise.
fn rounded(ns: f64) -> f64 {
    (ns * 10.0).round() / 10.0
}

/// The last CPU that we may run on: the first has more of the machine's own work.
fn last_cpu() -> Option<usize> {
    let cpus = sched_getaffinity(Pid::from_raw(0)).ok()?;
    (0..CpuSet::count()).rev().find(|cpu| cpus.is_set(*cpu).unwrap_or(false))
}

fn this_host() -> Host {
    let names = nix::sys::utsname::uname().ok();
    let word = |name: Option<&std::ffi::OsStr>| {
        name.map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    };
    Host {
        cores: super::cores(),
        kernel: word(names.as_ref().map(|names| names.release())),
        machine: word(names.as_ref().map(|names| names.machine())),
        privileged: host::gather_own().caps.has_effective(CAP_SYS_ADMIN),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// No constant is forgotten, none is measured twice, and none has a name that the table does not have.
    #[test]
    fn every_constant_is_measured_once() {
        let measured: Vec<&str> = ALL.iter().flat_map(|measurement| measurement.constants).copied().collect();
        let wanted: BTreeSet<&str> = CostModel::CONSTANTS.iter().map(|constant| constant.name).collect();
        assert_eq!(measured.iter().copied().collect::<BTreeSet<_>>(), wanted);
        assert_eq!(measured.len(), wanted.len());
    }
}
