//! What was measured, beside the built-in table.

use std::fmt::Write;

use super::words;
use crate::cost::calibrate::Calibration;

/// A calibration as text.
pub fn text(calibration: &Calibration) -> String {
    let host = &calibration.host;
    let privileged = if host.privileged { "" } else { ", without privileges" };
    let mut text = format!(
        "measured on {}, {}, Linux {}{privileged}; each {} times\nbuilt-in table: {}\n\n",
        words::count(host.cores, "core"),
        host.machine,
        host.kernel,
        calibration.samples,
        calibration.built_in_measured_on
    );
    let mut rows = vec![["constant", "ns", "half between", "built in", "what"].map(str::to_owned).to_vec()];
    for row in &calibration.constants {
        let between = row.half_between_ns.map_or_else(String::new, |[low, high]| format!("{low}–{high}"));
        let measured = row.measured_ns.map_or_else(|| "-".to_owned(), |ns| ns.to_string());
        rows.push(vec![
            row.constant.to_owned(),
            measured,
            between,
            row.built_in_ns.to_string(),
            row.what.to_owned(),
        ]);
    }
    text.push_str(&words::table(&rows, 0));
    for row in &calibration.constants {
        if let Some(why) = &row.kept_because {
            let _ = writeln!(text, "{} cannot be measured here, and stays as built in: {why}", row.constant);
        }
    }
    text
}
