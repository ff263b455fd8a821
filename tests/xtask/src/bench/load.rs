//! A round of load on one server, and what it cost.
//!
//! Owns the call of `wrk` and the understanding of its report. What a newcomer would get wrong: requests per second say
//! how fast the client is; what a request costs is the CPU time of the server, divided by the answers.

use std::path::Path;
use std::process::Command;

use super::modes::Mode;
use super::plan::Plan;
use super::server::{Server, pinned, said};

/// One round. Times for each request, in µs.
#[derive(Clone, Copy)]
pub(super) struct Round {
    pub(super) cpu: f64,
    /// Ticks of 10 ms of the whole round, in user space and in the kernel.
    pub(super) ticks: [u64; 2],
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// Loads a server for the time of a round.
pub(super) fn measure(root: &Path, plan: &Plan, server: &Server, mode: &Mode) -> Result<Round, String> {
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", &format!("-c{}", plan.connections), &format!("-d{}", plan.seconds), "--latency"]);
    wrk.args(mode.words(root)).arg(format!("http://127.0.0.1:{}{}", server.port, mode.path));
    let before = server.used();
    let report = said(&mut pinned(&plan.cores[1], &wrk))?;
    let used = server.used().since(before);
    // Where connections come and go, wrk counts the ends that it did not expect, and says so in a line of its own.
    if report.contains("Non-2xx") {
        return Err(format!("it has refused requests: {}", one_line(&report)));
    }
    let requests =
        report.split_once(" requests in ").and_then(|(before, _)| before.split_whitespace().last());
    let requests = requests.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    if requests == 0 {
        return Err("no request was answered".to_owned());
    }
    let percentile = |name: &str| {
        let line = report.lines().find_map(|line| line.trim().strip_prefix(name));
        line.and_then(|rest| microseconds(rest.trim()))
            .ok_or_else(|| format!("wrk has not told the latency of {name}: {}", one_line(&report)))
    };
    Ok(Round {
        cpu: used.total as f64 / 1000.0 / requests as f64,
        ticks: [used.user, used.system],
        p50: percentile("50%")?,
        p99: percentile("99%")?,
    })
}

/// `812.00us`, `1.20ms`, `2.00s`.
fn microseconds(text: &str) -> Option<f64> {
    for (unit, factor) in [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 6e7)] {
        if let Some(number) = text.strip_suffix(unit) {
            return number.parse::<f64>().ok().map(|number| number * factor);
        }
    }
    None
}

fn one_line(report: &str) -> String {
    report.split_whitespace().collect::<Vec<_>>().join(" ")
}
