//! docs/RELIABILITY.md: the places that its tables have, and on what they were measured.
//!
//! Owns the marks. Does not own the tables. What a newcomer would get wrong: what stands between the marks is only ever
//! what a program wrote, whole; so a run that was restricted to some rows is not written.

use std::fs;
use std::process::Command;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/RELIABILITY.md");

/// Prints a table, and puts it into its place in the page if that is wanted. Whether that went well.
pub(crate) fn print(command: &str, table: &str, write: bool) -> bool {
    println!("{table}");
    if !write {
        return true;
    }
    let written = fs::read_to_string(PAGE).map_err(|error| error.to_string()).and_then(|page| {
        let page = replaced(&page, command, table)?;
        fs::write(PAGE, page).map_err(|error| error.to_string())
    });
    if let Err(error) = &written {
        eprintln!("cannot put the table into {PAGE}: {error}");
    }
    written.is_ok()
}

fn replaced(page: &str, command: &str, table: &str) -> Result<String, String> {
    let mark = |word: &str| format!("<!-- cargo reliability {command} --write: {word} here -->\n");
    let (begin, end) = (mark("from"), mark("to"));
    let parts = page.split_once(&begin).zip(page.split_once(&end));
    let ((before, _), (_, after)) =
        parts.ok_or_else(|| format!("it does not have both marks: {begin}{end}"))?;
    Ok(format!("{before}{begin}\n{}\n\n{end}{after}", table.trim_end()))
}

/// When, by which build, and on what machine.
pub(crate) fn machine() -> String {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    let (kernel, status, cpuinfo) =
        (read("/proc/sys/kernel/osrelease"), read("/proc/self/status"), read("/proc/cpuinfo"));
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or("?");
    // What a distribution or a host has appended says nothing to a reader.
    let kernel = kernel.trim().split('-').next().unwrap_or_default();
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    let date = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output();
    let date =
        date.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    format!("Until {date}; {build} build, Linux {kernel}, cores {} of {cores}", allowed.trim())
}

/// How busy the machine is: over the last minute.
pub(crate) fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// The same over the last one, five and fifteen minutes.
pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("load average {}", text.split(' ').take(3).collect::<Vec<_>>().join(", "))
}
