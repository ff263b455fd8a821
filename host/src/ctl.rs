//! `rgunicorn ctl`: asks a running server through its control socket, and shows the answer.
//!
//! Owns the words of this subcommand, and the tables. Does not own what is answered (`monitor/control.rs`). What a
//! newcomer would get wrong: the exit code is part of the answer. A deploy script runs `ctl PATH reload` and goes on only
//! if that is 0.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::CliError;
use crate::error::{EXIT_SETTINGS, StartError, io_text};
use crate::monitor::control::{self, Wish};
use crate::verb::Verb;

/// How it is used.
pub const HELP: &str = "\
Asks a running server through its control socket (--control-socket).

Usage: rgunicorn ctl PATH COMMAND [--json]

Commands:
  status           Show the server and its workers
  workers          Show the workers
  reload           Reload, wait for the verdict; the exit code is 0 if the new generation serves
  workers N        Have N workers, until the next reload
  log-level LEVEL  Log from this level on, until the next reload
  stop             Stop gracefully, as TERM

Options:
      --json       Print the answer as JSON
  -h, --help       Print this help.
";

/// How long an answer may take that waits for nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    socket: PathBuf,
    line: String,
    json: bool,
}

/// Understands the words after `ctl`; none asks for help.
///
/// # Errors
/// One sentence.
pub fn parse(words: &[String]) -> Result<Option<Request>, CliError> {
    let usage =
        |why: &str| CliError::Usage(format!("cannot run ctl: {why}; 'rgunicorn ctl --help' shows how"));
    if words.iter().any(|word| word == "-h" || word == "--help") {
        return Ok(None);
    }
    let json = words.iter().any(|word| word == "--json");
    let mut rest = words.iter().filter(|word| *word != "--json");
    let socket = rest.next().ok_or_else(|| usage("the path of the control socket is missing"))?;
    let line = rest.map(String::as_str).collect::<Vec<_>>().join(" ");
    if line.is_empty() {
        return Err(usage("the command is missing"));
    }
    control::wish(&line).map_err(|why| usage(&why))?;
    Ok(Some(Request { socket: socket.into(), line, json }))
}

/// The answer.
#[derive(Debug)]
pub struct Told {
    /// For standard output.
    pub text: String,
    ok: bool,
}

impl Told {
    /// The end of the program, once the text is printed.
    ///
    /// # Errors
    /// The server has refused; that has been said.
    pub fn end(&self) -> Result<(), StartError> {
        if self.ok { Ok(()) } else { Err(StartError::told(EXIT_SETTINGS)) }
    }
}

impl Request {
    /// Asks, and returns what is to be printed. Who asks for JSON gets an object, whatever happens.
    ///
    /// # Errors
    /// The server cannot be reached, or has refused: its sentence, unless that is in the object.
    pub fn ask(&self) -> Result<Told, StartError> {
        match self.answer() {
            Err(error) if self.json => {
                let object = json!({ "ok": false, "message": error.to_string() });
                Ok(Told { text: format!("{object}\n"), ok: false })
            }
            answer => answer,
        }
    }

    fn answer(&self) -> Result<Told, StartError> {
        let text = self.exchange().map_err(|error| {
            let socket = self.socket.display();
            let why = io_text(&error);
            StartError::new(
                EXIT_SETTINGS,
                format!(
                    "cannot ask the server at {socket}: {why}; is it running with --control-socket {socket}?"
                ),
            )
        })?;
        let answer: Value = serde_json::from_str(&text).map_err(|error| {
            let why = if text.is_empty() { "it closed the connection".to_owned() } else { error.to_string() };
            StartError::new(EXIT_SETTINGS, format!("cannot understand the answer of the server: {why}"))
        })?;
        let ok = answer["ok"] == Value::Bool(true);
        let message = answer["message"].as_str().unwrap_or_default();
        let text = match (ok, self.json) {
            (_, true) => text,
            (true, false) if self.line.starts_with("status") => status(&answer),
            (true, false) if self.line == "workers" => workers(&answer),
            (true, false) => format!("{message}\n"),
            (false, false) => return Err(StartError::new(EXIT_SETTINGS, message)),
        };
        Ok(Told { text, ok })
    }

    fn exchange(&self) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        // A reload takes as long as it takes; whoever asks for one can interrupt this program.
        let waits = control::wish(&self.line) == Ok(Wish::Verb(Verb::Reload));
        stream.set_read_timeout((!waits).then_some(PATIENCE))?;
        stream.write_all(format!("{}\n", self.line).as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }
}

fn status(answer: &Value) -> String {
    let mut text = String::new();
    let show = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let seconds = |value: &Value| format!("{:.0} s", value.as_f64().unwrap_or_default());
    let ready = match answer["not_ready_because"].as_str() {
        None => "yes".to_owned(),
        Some(why) => format!("no: {why}"),
    };
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<12} {value}");
    };
    line("version", &show(&answer["version"]));
    line("master", &show(&answer["master"]));
    line("state", &show(&answer["state"]));
    line("ready", &ready);
    line("uptime", &seconds(&answer["uptime_seconds"]));
    line("generation", &show(&answer["generation"]));
    line("log level", &show(&answer["log_level"]));
    for listener in answer["listeners"].as_array().into_iter().flatten() {
        let (address, waiting) = (show(&listener["address"]), show(&listener["waiting"]));
        line("listener", &format!("{address}, {waiting} of {} waiting", show(&listener["room"])));
    }
    if let last @ Value::Object(_) = &answer["last_reload"] {
        let (verdict, age) = (show(&last["verdict"]), seconds(&last["age_seconds"]));
        line("last reload", &format!("{verdict}, {age} ago: {}", show(&last["message"])));
    }
    for process in answer["processes"].as_array().into_iter().flatten() {
        let (pid, generation) = (show(&process["pid"]), show(&process["generation"]));
        let text = format!("pid {pid}, generation {generation}, {}", megabytes(&process["memory_bytes"]));
        line(&show(&process["role"]), &text);
    }
    line("workers", &format!("{} wanted", show(&answer["workers_wanted"])));
    text.push('\n');
    text + &workers(answer)
}

/// The workers, and the images that they run: each once.
fn workers(answer: &Value) -> String {
    let mut rows = vec![
        ["PID", "GEN", "AGE", "STATE", "UP", "REQUESTS", "CONNS", "MEMORY", "IMAGES", "DOING"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let mut images: Vec<String> = Vec::new();
    for worker in answer["workers"].as_array().into_iter().flatten() {
        let number =
            |name: &str| worker[name].as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
        let memory = megabytes(&worker["memory_bytes"]);
        let uptime = format!("{:.0}s", worker["uptime_seconds"].as_f64().unwrap_or_default());
        let applications = worker["applications"].as_array().into_iter().flatten();
        let numbers: Vec<String> = [&worker["worker_class"]]
            .into_iter()
            .chain(applications)
            .filter_map(image)
            .map(|image| {
                let known = images.iter().position(|other| *other == image).unwrap_or_else(|| {
                    images.push(image);
                    images.len() - 1
                });
                format!("[{}]", known + 1)
            })
            .collect();
        let doing = worker["doing"].as_str().unwrap_or_default();
        let since = worker["doing_seconds"].as_f64();
        let doing = since.map_or_else(|| doing.to_owned(), |since| format!("{doing} ({since:.1} s)"));
        rows.push(vec![
            number("pid"),
            number("generation"),
            number("age"),
            worker["state"].as_str().unwrap_or("-").to_owned(),
            uptime,
            number("requests"),
            number("connections"),
            memory,
            numbers.concat(),
            doing,
        ]);
    }
    let mut text = table(&rows);
    for (index, image) in images.iter().enumerate() {
        let _ = writeln!(text, "[{}] {image}", index + 1);
    }
    text
}

/// An amount of memory that may not be known.
fn megabytes(octets: &Value) -> String {
    octets.as_u64().map_or_else(|| "-".to_owned(), |octets| format!("{:.1}M", octets as f64 / 1048576.0))
}

fn image(image: &Value) -> Option<String> {
    let path = image["path"].as_str()?;
    let hash = image["sha256"].as_str().unwrap_or("-");
    let build_id = image["build_id"].as_str().map(|id| format!(", build id {id}")).unwrap_or_default();
    Some(format!("{path}, sha256 {hash}{build_id}"))
}

/// Columns as wide as their widest cell.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn words_become_a_request() {
        let request = parse(&words("/s workers 4 --json")).unwrap().unwrap();
        assert_eq!(request, Request { socket: "/s".into(), line: "workers 4".to_owned(), json: true });
        assert_eq!(parse(&words("--help")).unwrap(), None);
        for (line, part) in
            [("/s", "command is missing"), ("--json", "socket is missing"), ("/s dance", "'dance'")]
        {
            let error = parse(&words(line)).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn a_table_names_each_image_once() {
        let class = json!({ "path": "/p/libsync.so", "sha256": "aa", "build_id": "bb" });
        let worker = |pid: u64| {
            json!({
                "pid": pid, "generation": 1, "age": 1, "state": "busy", "uptime_seconds": 3.2, "requests": 5,
                "connections": 1, "memory_bytes": 3 << 20, "doing": "GET /", "doing_seconds": 0.25,
                "worker_class": class, "applications": [{ "path": "/p/app.so", "sha256": "cc", "build_id": null }],
            })
        };
        let text = workers(&json!({ "workers": [worker(10), worker(200)] }));
        let expected = "\
PID  GEN  AGE  STATE  UP  REQUESTS  CONNS  MEMORY  IMAGES  DOING
10   1    1    busy   3s  5         1      3.0M    [1][2]  GET / (0.2 s)
200  1    1    busy   3s  5         1      3.0M    [1][2]  GET / (0.2 s)
[1] /p/libsync.so, sha256 aa, build id bb
[2] /p/app.so, sha256 cc
";
        assert_eq!(text, expected);
    }
}
