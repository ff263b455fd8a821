//! What was measured, as the tables of docs/PERFORMANCE.md, and which of the project's targets are met.
//!
//! Owns the arithmetic and the page. What a newcomer would get wrong: a ratio is not that of two medians. In each round
//! the candidates took turns, so each round has a ratio of its own, and the table has the median of those: what slows the
//! machine down for a while slows both.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::candidates::{CANDIDATES, candidate};
use super::idle::{IDLE, Idleness, WATCHED};
use super::load::Round;
use super::modes::{BROWSER_LIKE, CLOSE, DOWNLOAD, KEEP, LOG, MODES, Mode, PIPELINED, UPLOAD};
use super::plan::Plan;

/// Around the part of the page that is written here.
const BEGIN: &str = "<!-- cargo bench-servers --write: from here -->\n";
const END: &str = "<!-- cargo bench-servers --write: to here -->\n";

/// The rounds of one candidate in one mode; none for a round that failed.
pub(super) struct Series {
    pub(super) mode: &'static str,
    pub(super) name: String,
    pub(super) label: String,
    pub(super) rounds: Vec<Option<Round>>,
}

/// All that was measured.
#[derive(Default)]
pub(super) struct Results {
    pub(super) series: Vec<Series>,
    pub(super) idle: Vec<(&'static str, Vec<Idleness>)>,
    /// Octets, after the load of hello.
    pub(super) memory: Vec<(&'static str, u64)>,
    pub(super) versions: Vec<String>,
    pub(super) left_out: Vec<String>,
}

/// The middle one; of an even number the mean of both.
fn median(figures: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    let upper = *figures.get(figures.len() / 2)?;
    Some(if figures.len().is_multiple_of(2) {
        f64::midpoint(upper, figures[figures.len() / 2 - 1])
    } else {
        upper
    })
}

impl Series {
    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().flatten().map(of)).unwrap_or(f64::NAN)
    }

    /// The median, divided into user space and kernel: the sum is known exactly, the parts as ticks of 10 ms, so the ticks
    /// of all rounds are taken together.
    fn parts(&self) -> [f64; 2] {
        let sum =
            |part: usize| self.rounds.iter().flatten().map(|round| round.ticks[part]).sum::<u64>() as f64;
        let all = (sum(0) + sum(1)).max(1.0);
        [0, 1].map(|part| self.median(|round| round.cpu) * sum(part) / all)
    }

    fn bounds(&self) -> (f64, f64) {
        let cpu = || self.rounds.iter().flatten().map(|round| round.cpu);
        (cpu().fold(f64::INFINITY, f64::min), cpu().fold(0.0, f64::max))
    }

    /// The median of the ratios, round by round.
    fn ratio(&self, other: &Self) -> Option<f64> {
        let both = self.rounds.iter().zip(&other.rounds).filter_map(|(ours, theirs)| ours.zip(*theirs));
        median(both.map(|(ours, theirs)| ours.cpu / theirs.cpu))
    }
}

impl Results {
    fn find(&self, mode: &str, name: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.mode == mode && series.name == name)
    }

    fn ratio(&self, mode: &str, name: &str, reference: &str) -> Option<f64> {
        self.find(mode, name)?.ratio(self.find(mode, reference)?)
    }

    /// All tables.
    pub(super) fn page(&self, plan: &Plan, machine: &str) -> Result<String, std::fmt::Error> {
        let mut page = String::new();
        let part = if plan.rounds == 1 { "one round".to_owned() } else { format!("{} rounds", plan.rounds) };
        writeln!(
            page,
            "{machine}\n\nµs of CPU for each request: the median of {part} of {} s, the least and the most, and of the \
             median the part in user space and in the kernel (known to a few hundredths of a round); the latency that the load saw, with {} connections, in µs; \
             the ratio to a reference, as the median of the rounds' ratios.",
            plan.seconds, plan.connections
        )?;
        for mode in MODES {
            self.table(&mut page, mode)?;
        }
        self.idle_table(&mut page)?;
        self.memory_table(&mut page)?;
        self.targets(&mut page)?;
        if !self.left_out.is_empty() {
            writeln!(page, "\nLeft out:\n")?;
            self.left_out.iter().try_for_each(|sentence| writeln!(page, "- {sentence}"))?;
        }
        Ok(page)
    }

    fn table(&self, page: &mut String, mode: &Mode) -> std::fmt::Result {
        let mut rows: Vec<&Series> = self.series.iter().filter(|series| series.mode == mode.key).collect();
        if rows.is_empty() {
            return Ok(());
        }
        rows.sort_by(|one, other| one.median(|round| round.cpu).total_cmp(&other.median(|round| round.cpu)));
        let reference = rows.iter().copied().find(|series| series.name == mode.reference);
        let to = reference.map_or("–".to_owned(), |series| format!("to {}", series.label));
        writeln!(page, "\n| {} | CPU | least–most | user | system | p50 | p99 | {to} |", mode.title)?;
        writeln!(page, "|---|---|---|---|---|---|---|---|")?;
        for row in rows {
            let (least, most) = row.bounds();
            let [user, system] = row.parts();
            let (p50, p99) = (row.median(|round| round.p50), row.median(|round| round.p99));
            let ratio = reference.and_then(|reference| row.ratio(reference));
            writeln!(
                page,
                "| {} | {} | {}–{} | {} | {} | {:.0} | {} | {} |",
                row.label,
                short(row.median(|round| round.cpu)),
                short(least),
                short(most),
                short(user),
                short(system),
                p50,
                // With few and slow answers wrk finds none, and says 0.
                if p99 < p50 { "–".to_owned() } else { format!("{p99:.0}") },
                ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}")),
            )?;
        }
        Ok(())
    }

    fn idle_table(&self, page: &mut String) -> std::fmt::Result {
        if self.idle.is_empty() {
            return Ok(());
        }
        let seconds = WATCHED.as_secs();
        writeln!(
            page,
            "\n| {IDLE} idle connections | octets of private memory for each | least–most | CPU in {seconds} s, µs | in ticks of 10 ms |"
        )?;
        writeln!(page, "|---|---|---|---|---|")?;
        let mut rows: Vec<_> = self.idle.iter().collect();
        let octets = |looks: &[Idleness]| median(looks.iter().map(|look| look.octets)).unwrap_or(f64::NAN);
        rows.sort_by(|(_, one), (_, other)| octets(one).total_cmp(&octets(other)));
        for (name, looks) in rows {
            let least = looks.iter().map(|look| look.octets).fold(f64::INFINITY, f64::min);
            let most = looks.iter().map(|look| look.octets).fold(0.0, f64::max);
            let cpu = median(looks.iter().map(|look| look.cpu)).unwrap_or(f64::NAN);
            let ticks = median(looks.iter().map(|look| look.ticks as f64)).unwrap_or(f64::NAN);
            let label = label(name);
            writeln!(
                page,
                "| {label} | {:.0} | {least:.0}–{most:.0} | {cpu:.0} | {ticks:.0} |",
                octets(looks)
            )?;
        }
        Ok(())
    }

    fn memory_table(&self, page: &mut String) -> std::fmt::Result {
        if self.memory.is_empty() {
            return Ok(());
        }
        writeln!(page, "\n| private memory of who answers, after the load of hello | KiB |\n|---|---|")?;
        let mut rows = self.memory.clone();
        rows.sort_by_key(|(_, octets)| *octets);
        rows.iter().try_for_each(|(name, octets)| writeln!(page, "| {} | {} |", label(name), octets / 1024))
    }

    /// What the project has set itself, each with what came of it.
    fn targets(&self, page: &mut String) -> std::fmt::Result {
        let mut rows = Vec::new();
        let mut row = |what: String, most: f64, figure: Option<f64>, digits: usize| {
            let Some(figure) = figure else { return };
            let verdict = if figure <= most {
                "met".to_owned()
            } else {
                format!("missed by {:.0} %", 100.0 * (figure / most - 1.0))
            };
            rows.push(format!("| {what} | {most} | {figure:.digits$} | {verdict} |"));
        };
        for (mode, name, reference, most) in [
            (KEEP, "poll", "hyper", 0.95),
            (KEEP, "poll", "floor", 1.12),
            (BROWSER_LIKE, "poll", "hyper", 0.95),
            (PIPELINED, "poll", "hyper", 0.6),
            (UPLOAD, "poll", "hyper", 1.0),
            (DOWNLOAD, "poll", "hyper", 0.8),
            (CLOSE, "sync", "nginx", 0.95),
            (KEEP, "threaded", "poll", 1.3),
            (LOG, "tmpfs", "poll", 1.05),
        ] {
            let title = super::modes::mode(mode).map_or(mode, |mode| mode.title);
            let what = match name {
                "tmpfs" => "`poll` with an access log on tmpfs, to without".to_owned(),
                _ => format!("{title}: {} to {}", label(name), label(reference)),
            };
            row(what, most, self.ratio(mode, name, reference), 2);
        }
        // Ahead of everybody else, wherever both take part.
        for series in self.series.iter().filter(|series| series.mode != LOG) {
            let is_peer =
                candidate(&series.name).is_some_and(|candidate| !candidate.is_ours) && series.name != "floor";
            if is_peer
                && let Some(ratio) = self.ratio(series.mode, "poll", &series.name)
                && ratio >= 1.0
            {
                let title = super::modes::mode(series.mode).map_or(series.mode, |mode| mode.title);
                row(format!("{title}: `poll` ahead of {}", series.label), 1.0, Some(ratio), 2);
            }
        }
        if let Some((_, looks)) = self.idle.iter().find(|(name, _)| *name == "poll") {
            let octets = median(looks.iter().map(|look| look.octets));
            row("`poll`: octets for each idle connection".to_owned(), 507.0, octets, 0);
            // A heartbeat a second is no cost of a connection: a thousandth of the time is the bound.
            let cpu = median(looks.iter().map(|look| look.cpu));
            row(
                "`poll`: µs of CPU while all are idle".to_owned(),
                WATCHED.as_micros() as f64 / 1000.0,
                cpu,
                0,
            );
        }
        for (name, octets) in &self.memory {
            if candidate(name).is_some_and(|candidate| candidate.is_ours) {
                let octets = *octets as f64 / 1024.0;
                row(format!("{}: KiB of private memory of a worker", label(name)), 1024.0, Some(octets), 0);
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        writeln!(
            page,
            "\nA target is judged by medians. Where the rounds of two servers spread wider than the distance to it, only more rounds on a quieter machine decide.\n\n| target | at most | measured | |\n|---|---|---|---|"
        )?;
        rows.iter().try_for_each(|row| writeln!(page, "{row}"))?;
        let peers: Vec<&str> =
            CANDIDATES.iter().filter(|one| !one.is_ours && one.name != "floor").map(|one| one.name).collect();
        let compared =
            self.series.iter().filter(|series| series.mode != LOG && peers.contains(&&*series.name));
        let compared = compared.filter(|series| self.ratio(series.mode, "poll", &series.name).is_some());
        let compared: Vec<f64> =
            compared.filter_map(|series| self.ratio(series.mode, "poll", &series.name)).collect();
        let ahead = compared.iter().filter(|ratio| **ratio < 1.0).count();
        if !compared.is_empty() {
            writeln!(
                page,
                "\n`poll` is ahead in {ahead} of {} comparisons with a peer; where it is not, a row above says so.",
                compared.len()
            )?;
        }
        Ok(())
    }
}

/// Three digits that count.
fn short(figure: f64) -> String {
    let digits = if figure < 10.0 { 2 } else { usize::from(figure < 100.0) };
    format!("{figure:.digits$}")
}

fn label(name: &str) -> &str {
    candidate(name).map_or(name, |candidate| candidate.label)
}

/// Puts the tables into the page, where its marks are.
pub(super) fn write(file: &Path, tables: &str) -> Result<(), String> {
    let text =
        fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.ok_or_else(|| {
        format!("cannot write the tables into {}: it lacks the lines {BEGIN:?} and {END:?}", file.display())
    })?;
    let text = format!("{before}{BEGIN}\n{}\n{END}{after}", tables.trim());
    fs::write(file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))
}
