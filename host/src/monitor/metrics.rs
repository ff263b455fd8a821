//! `/metrics`: what the monitor knows, in the text format of Prometheus (version 0.0.4).
//!
//! Owns the names. They are an interface: dashboards and alarms hang on them. Does not own any counter. What a newcomer
//! would get wrong: a histogram's buckets are cumulative on the wire, and times are seconds there, whatever they were
//! counted in.

use std::fmt::{Display, Write};

use super::health::Snapshot;
use crate::scoreboard::{Doing, ExitReason, Histogram, LINES, Outcome, Role, latency_bounds, queue_bounds};

/// The content type.
pub const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";

const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];

/// The page.
pub fn page(snapshot: &Snapshot) -> String {
    let mut page = Page(String::with_capacity(8 * 1024));
    page.server(snapshot);
    page.workers(snapshot);
    page.requests(snapshot);
    page.reloads(snapshot);
    page.0
}

struct Page(String);

impl Page {
    fn server(&mut self, snapshot: &Snapshot) {
        let facts = snapshot.facts;
        self.family("rgunicorn_info", "gauge", "The version that runs.");
        self.sample("rgunicorn_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        self.gauge("rgunicorn_uptime_seconds", "Since the master began.", seconds(facts.uptime(), 1e9));
        let ready = u8::from(snapshot.unready().is_none());
        self.gauge("rgunicorn_ready", "Whether /readyz says so.", ready);
        self.gauge("rgunicorn_generation", "The generation that serves.", facts.generation());
        self.counter(
            "rgunicorn_log_lines_dropped_total",
            "Lines of logs that could not be written at once.",
            facts.dropped(),
        );
        self.family("rgunicorn_log_lines_total", "counter", "Lines of the error log, by level.");
        for (level, count) in LINES.iter().zip(facts.lines()) {
            let count = count.load(std::sync::atomic::Ordering::Relaxed);
            self.sample("rgunicorn_log_lines_total", &[("level", level)], count);
        }
        self.counter(
            "rgunicorn_monitor_restarts_total",
            "Monitors that were replaced: by a reload, or because they died.",
            facts.monitors().saturating_sub(1),
        );
    }

    fn workers(&mut self, snapshot: &Snapshot) {
        let facts = snapshot.facts;
        self.gauge("rgunicorn_workers_wanted", "Workers that there shall be.", facts.wanted());
        self.family("rgunicorn_workers", "gauge", "Workers, by what they are at.");
        for doing in Doing::ALL {
            self.sample("rgunicorn_workers", &[("state", doing.as_str())], snapshot.workers(doing));
        }
        let companions = facts.companions();
        self.family("rgunicorn_processes", "gauge", "Processes beside the workers, by what they are for.");
        for role in Role::ALL {
            let count = companions.iter().filter(|companion| companion.role == role).count();
            self.sample("rgunicorn_processes", &[("role", role.as_str())], count);
        }
        self.gauge(
            "rgunicorn_workers_failing",
            "Workers that are missing because they die again and again before they are ready.",
            facts.failing(),
        );
        self.counter("rgunicorn_worker_spawns_total", "Workers that were forked.", facts.spawned());
        self.family("rgunicorn_worker_exits_total", "counter", "Workers that are gone, by reason.");
        for reason in ExitReason::ALL {
            let labels = [("reason", reason.as_str())];
            self.sample("rgunicorn_worker_exits_total", &labels, facts.exits(reason));
        }
        self.counter(
            "rgunicorn_worker_timeouts_total",
            "Workers that were silent for longer than timeout.",
            facts.timeouts(),
        );
    }

    fn requests(&mut self, snapshot: &Snapshot) {
        let totals = &snapshot.totals;
        let sum = |count: fn(&crate::scoreboard::Life) -> u64| {
            snapshot.lives.iter().fold(0_u64, |sum, life| sum.saturating_add(count(life)))
        };
        self.gauge(
            "rgunicorn_connections_open",
            "Connections that workers hold.",
            sum(|life| life.connections),
        );
        self.counter(
            "rgunicorn_connections_accepted_total",
            "Connections that workers accepted.",
            totals.accepted,
        );
        self.gauge("rgunicorn_requests_active", "Requests at work.", sum(|life| life.active));
        self.family(
            "rgunicorn_requests_total",
            "counter",
            "Requests that ended, by the class of their status.",
        );
        for (class, count) in CLASSES.iter().zip(totals.statuses) {
            self.sample("rgunicorn_requests_total", &[("status", class)], count);
        }
        self.counter(
            "rgunicorn_received_bytes_total",
            "Octets of requests, heads included.",
            totals.bytes_in,
        );
        self.counter("rgunicorn_sent_bytes_total", "Octets of response bodies.", totals.bytes_out);
        self.histogram(
            "rgunicorn_request_duration_seconds",
            "From a whole head to the end of the answer.",
            &totals.latency,
            latency_bounds(),
            1e6,
        );
        self.histogram(
            "rgunicorn_queue_duration_seconds",
            "How long clients had waited when they were accepted; of every sixteenth TCP connection.",
            &totals.queue,
            queue_bounds(),
            1e3,
        );
        self.gauge(
            "rgunicorn_queue_longest_seconds",
            "The longest of these times.",
            seconds(totals.longest_queue, 1e3),
        );
        self.family("rgunicorn_backlog", "gauge", "Connections that wait to be accepted.");
        for queue in &snapshot.queues {
            self.sample("rgunicorn_backlog", &[("address", &queue.address)], queue.waiting);
        }
        self.family("rgunicorn_backlog_limit", "gauge", "How many may wait.");
        for queue in &snapshot.queues {
            self.sample("rgunicorn_backlog_limit", &[("address", &queue.address)], queue.room);
        }
    }

    fn reloads(&mut self, snapshot: &Snapshot) {
        let facts = snapshot.facts;
        self.family("rgunicorn_reloads_total", "counter", "Reloads, the first start among them, by verdict.");
        for outcome in Outcome::ALL {
            self.sample("rgunicorn_reloads_total", &[("verdict", outcome.as_str())], facts.reloads(outcome));
        }
        let Some(last) = facts.last_verdict() else { return };
        self.family("rgunicorn_reload_last_verdict", "gauge", "1 for the verdict on the last reload.");
        for outcome in Outcome::ALL {
            let labels = [("verdict", outcome.as_str())];
            self.sample("rgunicorn_reload_last_verdict", &labels, u8::from(outcome == last.outcome));
        }
        let age = crate::sys::fd::monotonic_ns().saturating_sub(last.at);
        self.gauge("rgunicorn_reload_last_age_seconds", "Since that verdict.", seconds(age, 1e9));
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    fn histogram<const BUCKETS: usize>(
        &mut self,
        name: &str,
        help: &str,
        histogram: &Histogram<BUCKETS>,
        bounds: impl Iterator<Item = u64>,
        per_second: f64,
    ) {
        self.family(name, "histogram", help);
        let bounds = bounds.map(|bound| seconds(bound, per_second).to_string());
        let bounds = bounds.chain(["+Inf".to_owned()]);
        let bucket = format!("{name}_bucket");
        for (bound, count) in bounds.zip(histogram.cumulative()) {
            self.sample(&bucket, &[("le", &bound)], count);
        }
        self.sample(&format!("{name}_sum"), &[], seconds(histogram.sum, per_second));
        self.sample(&format!("{name}_count"), &[], histogram.count());
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{label}=\"{text}\"");
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

fn seconds(count: u64, per_second: f64) -> f64 {
    count as f64 / per_second
}

#[cfg(test)]
mod tests {
    use super::super::health::Queue;
    use super::*;
    use crate::scoreboard::{Companion, Scoreboard, ServerState};
    use std::time::Duration;

    #[test]
    fn the_page_is_what_a_scraper_reads() {
        let board = Scoreboard::new(3).unwrap();
        let worker = board.claim(0, 1, 1);
        worker.count_request(200, 10, 20, Some(Duration::from_micros(17)));
        worker.count_request(0, 1, 0, None);
        board.facts().publish(ServerState::Serving, 4, 2, 0);
        board.facts().count_exit(ExitReason::Signal);
        board.facts().set_companions([Companion { role: Role::Template, pid: 7, generation: 4 }]);
        board.facts().set_verdict(4, Outcome::Done, "");
        let address = "unix:/a\"b".to_owned();
        let page = page(&Snapshot::take(&board, vec![Queue { address, waiting: 3, room: 5 }]));
        for line in [
            "rgunicorn_generation 4",
            "rgunicorn_ready 0",
            "rgunicorn_requests_total{status=\"2xx\"} 1",
            "rgunicorn_requests_total{status=\"none\"} 1",
            "rgunicorn_request_duration_seconds_bucket{le=\"0.000016\"} 0",
            "rgunicorn_request_duration_seconds_bucket{le=\"0.000032\"} 1",
            "rgunicorn_request_duration_seconds_bucket{le=\"+Inf\"} 1",
            "rgunicorn_request_duration_seconds_sum 0.000017",
            "rgunicorn_request_duration_seconds_count 1",
            "rgunicorn_backlog{address=\"unix:/a\\\"b\"} 3",
            "rgunicorn_worker_exits_total{reason=\"signal\"} 1",
            "rgunicorn_reload_last_verdict{verdict=\"done\"} 1",
            "rgunicorn_sent_bytes_total 20",
            "rgunicorn_processes{role=\"template\"} 1",
            "rgunicorn_processes{role=\"hooks\"} 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
        // Each family is announced once, before its samples.
        let mut families = std::collections::BTreeSet::new();
        for line in page.lines() {
            match line.strip_prefix("# TYPE ").and_then(|line| line.split(' ').next()) {
                Some(name) => assert!(families.insert(name.to_owned()), "{name} twice"),
                None if line.starts_with('#') => {}
                None => {
                    let name = line.split(['{', ' ']).next().unwrap_or_default();
                    let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
                    assert!(
                        families.contains(name) || base.is_some_and(|base| families.contains(base)),
                        "{line}"
                    );
                }
            }
        }
    }
}
