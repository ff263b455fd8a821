//! Every pair of `tests/requests` over a socket: what the parser's own test reads from memory, a server reads here.
//!
//! A valid request is answered with what `inspect` was shown of it; an invalid one with its status, an answer that is
//! well-formed, and the end of the connection. The meaning of `.expect` files is owned by
//! `plugins/http1/tests/requests.rs`. What a newcomer would get wrong: a class that keeps no connections answers only the
//! first of several requests in one file, whatever the others are.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use harness::{
    Address, Class, Connection, Failure, Heard, Pace, Response, Server, Site, programs, sha256,
    under_each_class,
};

/// Below these a checkout is broken, and the loops would pass without having tested anything.
const FEWEST: [(&str, usize); 2] = [("valid", 150), ("invalid", 400)];

struct Pair {
    name: String,
    octets: Vec<u8>,
    options: Vec<String>,
    expected: Vec<String>,
}

fn pairs(kind: &str) -> Vec<Pair> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("requests").join(kind);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("a checkout has requests")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "http"))
        .collect();
    paths.sort();
    let fewest = FEWEST.iter().find(|(name, _)| *name == kind).expect("two kinds").1;
    assert!(paths.len() >= fewest, "{} pairs in {}", paths.len(), folder.display());
    paths.into_iter().map(|path| pair(&path)).collect()
}

fn pair(path: &Path) -> Pair {
    let text = fs::read_to_string(path.with_extension("expect")).expect("each request has its expectation");
    let (options, expected): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with("option "));
    Pair {
        name: path.file_stem().expect("a name").to_string_lossy().into_owned(),
        octets: fs::read(path).expect("it can be read"),
        options: options.iter().map(|line| line["option ".len()..].to_owned()).collect(),
        expected: expected.into_iter().map(str::to_owned).collect(),
    }
}

/// Runs each pair under each class on a server with the settings that its options name, over TCP and a Unix socket, in
/// one piece and octet by octet; `judge` says what is wrong with what was heard.
fn run(kind: &str, judge: fn(Class, &Pair, Heard) -> Result<(), String>) {
    under_each_class(|class| {
        let site = Site::new(kind);
        site.install(programs().inspect(1), "app.so");
        let mut groups: BTreeMap<Vec<String>, Vec<Pair>> = BTreeMap::new();
        for pair in pairs(kind) {
            groups.entry(pair.options.clone()).or_default().push(pair);
        }
        let (mut count, mut wrong) = (0, String::new());
        for (options, pairs) in &groups {
            let server = launch(&site, class, options);
            for pair in pairs {
                for address in server.addresses() {
                    // One octet at a time, but no more than some thousand pieces.
                    for pace in [Pace::Whole, Pace::Pieces(1 + pair.octets.len() / 8192)] {
                        count += 1;
                        let heard = converse(class, address, pair, pace);
                        let heard = heard.map_err(|failure| failure.to_string());
                        if let Err(why) = heard.and_then(|heard| judge(class, pair, heard)) {
                            let _ = writeln!(wrong, "{} {pace:?} {address:?}: {why}", pair.name);
                        }
                    }
                }
            }
            server.finish();
        }
        eprintln!("{count} conversations on {} servers", groups.len());
        assert!(wrong.is_empty(), "{wrong}");
    });
}

/// A server with the settings that options of the parser stand for.
fn launch<'s>(site: &'s Site, class: Class, options: &[String]) -> Server<'s> {
    let launch = site.launch().class(class).workers(2).with(|settings| {
        settings.list("bind", &["127.0.0.1:0", "unix:server.sock"]);
        for option in options {
            match option.split_once('=') {
                Some(("body", limit)) => settings.raw("limit_request_body", limit),
                Some((name, word)) => settings.text(name, word),
                None => settings.raw(option, "true"),
            };
        }
    });
    launch.start()
}

fn converse(class: Class, address: &Address, pair: &Pair, pace: Pace) -> Result<Heard, Failure> {
    let mut connection = Connection::open(address)?;
    // The server may refuse before it has read everything.
    let _ = connection.send_at(&pair.octets, pace);
    let truncated = pair.expected.iter().any(|line| line == "error Truncated");
    // Whoever keeps the connection must know that no other request comes.
    let valid = pair.expected.iter().any(|line| line.starts_with("method "));
    if truncated || valid && class.keeps_alive {
        let _ = connection.end_sending();
    }
    let mut heard = connection.hear();
    // Who still sends a second request while the first is answered meets a closed socket: a class that keeps no
    // connections lingers only for what it has seen come. The answer must be whole all the same; `judge` looks.
    let several = requests(pair).len() > 1;
    if (several || pair.name.contains("_pipelined"))
        && !class.keeps_alive
        && pace != Pace::Whole
        && heard.end == Err(Failure::Reset)
    {
        heard.end = Ok(());
    }
    Ok(heard)
}

#[test]
fn valid() {
    run("valid", |class, pair, heard| {
        let mut asked = requests(pair);
        let last = asked.iter().position(|lines| !class.keeps_alive || lines.contains(&"keep-alive no"));
        asked.truncate(last.map_or(asked.len(), |last| last + 1));
        let methods: Vec<&str> = asked.iter().filter_map(|lines| lines[0].strip_prefix("method ")).collect();
        let text = heard.head();
        let responses = heard.responses(&methods).map_err(|failure| format!("{failure}: {text:?}"))?;
        for (lines, response) in asked.iter().zip(&responses) {
            // What follows an answer of 2xx to CONNECT belongs to no request.
            let ends = lines.contains(&"keep-alive no") || lines[0] == "method CONNECT";
            let closes = !class.keeps_alive || ends;
            expect(response.status == 200 && response.closes() == closes, || format!("{response:?}"))?;
            if lines[0] == "method HEAD" {
                let length = response.field("content-length").and_then(|length| length.parse().ok());
                expect(length > Some(50_u64), || format!("{response:?}"))?;
                continue;
            }
            let (shown, wanted) = (shown(response)?, wanted(lines));
            expect(shown == wanted, || {
                format!("\n{}\n-- expected:\n{}", shown.join("\n"), wanted.join("\n"))
            })?;
        }
        Ok(())
    });
}

#[test]
fn invalid() {
    run("invalid", |class, pair, heard| {
        let status = pair.expected.iter().find_map(|line| line.strip_prefix("status ")?.parse().ok());
        let status: u16 = status.ok_or("the expectation has no status")?;
        // What is wrong may come after a request that is answered, and then only if the connection is kept.
        let pipelined = pair.name.split_once('_').is_some_and(|(_, name)| name.starts_with("pipelined"));
        let wanted = match (pipelined, class.keeps_alive) {
            (false, _) => vec![status],
            (true, false) => vec![200],
            (true, true) => vec![200, status],
        };
        let text = String::from_utf8_lossy(&heard.octets).into_owned();
        let method =
            if heard.rest().is_empty() && pair.octets.starts_with(b"HEAD ") { "HEAD" } else { "GET" };
        let methods = vec![method; wanted.len()];
        let responses = heard.responses(&methods).map_err(|failure| format!("{failure}: {text:?}"))?;
        let statuses: Vec<u16> = responses.iter().map(|response| response.status).collect();
        let framed = responses.iter().all(|response| response.field("content-length").is_some());
        let closes = responses.last().is_some_and(Response::closes);
        expect(statuses == wanted && closes && framed, || format!("not {wanted:?}: {text:?}"))
    });
}

fn expect(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

/// The lines of each request.
fn requests(pair: &Pair) -> Vec<Vec<&str>> {
    let mut requests: Vec<Vec<&str>> = Vec::new();
    for line in &pair.expected {
        if line.starts_with("method ") {
            requests.push(Vec::new());
        }
        if let Some(last) = requests.last_mut() {
            last.push(line);
        }
    }
    requests
}

/// Of an expectation, what `inspect` shows too, the body as length and hash. Names of fields in lower case.
fn wanted(lines: &[&str]) -> Vec<String> {
    let (mut wanted, mut body) = (Vec::new(), Vec::new());
    for line in lines {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        match key {
            "method" | "target" | "version" => wanted.push((*line).to_owned()),
            "field" | "trailer" => {
                let (name, value) = value.split_once(':').expect("a name and a value");
                wanted.push(format!("{key} {}:{value}", name.to_lowercase()));
            }
            "body" => body = unescape(value),
            "path" | "query" | "authority" | "keep-alive" | "expect-continue" | "upgrade" => {}
            other => panic!("unknown line {other}"),
        }
    }
    wanted.push(format!("body {} {}", body.len(), sha256(&body)));
    wanted.sort_by_key(|line| line.split(' ').next() == Some("trailer"));
    wanted
}

/// What `inspect` shows, in the same lines.
fn shown(response: &Response) -> Result<Vec<String>, String> {
    let object: serde_json::Value =
        serde_json::from_slice(&response.body).map_err(|error| error.to_string())?;
    let text = |value: &serde_json::Value| escape(value.as_str().unwrap_or("?"));
    let line = |key: &str, value: String| format!("{key} {value}").trim_end().to_owned();
    let fields = |kind: &str, key: &str| -> Vec<String> {
        let pairs = object[key].as_array().cloned().unwrap_or_default();
        let field = |pair: &serde_json::Value| {
            line(kind, format!("{}: {}", text(&pair[0]).to_lowercase(), text(&pair[1])))
        };
        pairs.iter().map(field).collect()
    };
    let version = text(&object["version"]);
    let version = version.strip_prefix("HTTP/").ok_or("no version")?;
    let mut lines = vec![
        line("method", text(&object["method"])),
        line("target", text(&object["target"])),
        line("version", version.to_owned()),
    ];
    lines.extend(fields("field", "headers"));
    lines.push(format!("body {} {}", object["body_len"], text(&object["body_sha256"])));
    lines.extend(fields("trailer", "trailers"));
    Ok(lines)
}

/// Latin-1 to octets to the escapes of Rust.
fn escape(text: &str) -> String {
    let octets: Vec<u8> = text.chars().map(|character| u8::try_from(character).expect("Latin-1")).collect();
    octets.escape_ascii().to_string()
}

fn unescape(text: &str) -> Vec<u8> {
    let (mut octets, mut rest) = (Vec::new(), text.bytes());
    while let Some(octet) = rest.next() {
        let escaped = if octet == b'\\' { rest.next() } else { None };
        octets.push(match escaped {
            None => octet,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'x') => {
                let digits = [rest.next().expect("a digit"), rest.next().expect("a digit")];
                let digits = std::str::from_utf8(&digits).expect("ASCII");
                u8::from_str_radix(digits, 16).expect("two hexadecimal digits")
            }
            Some(itself) => itself,
        });
    }
    octets
}
