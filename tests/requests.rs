//! Every pair of `tests/requests` over a socket: what the parser's own test reads from memory, a server reads here.
//!
//! A valid request is answered with what `inspect` was shown of it; an invalid one with its status, an answer that is
//! well-formed, and the end of the connection. The meaning of `.expect` files is owned by
//! `plugins/http1/tests/requests.rs`. What a newcomer would get wrong: worker class `sync` serves one request on a
//! connection, so of several in one file only the first is answered, whatever the others are.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use harness::{Address, Connection, Failure, Heard, Pace, Response, Server, Site, programs};
use sha2::{Digest, Sha256};

/// Below these a checkout is broken, and the loops would pass without having tested anything.
const FEWEST: [(&str, usize); 2] = [("valid", 80), ("invalid", 250)];

/// Options of the parser for which the server has no setting.
const NOT_OFFERED: &[&str] = &[
    "permit_obsolete_folding",
    "strip_header_spaces",
    "permit_unconventional_http_method",
    "permit_unconventional_http_version",
    "casefold_http_method",
    "header_map=refuse",
    "header_map=dangerous",
];

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

/// Runs each pair on a server with the settings that its options name, over TCP and a Unix socket, in one piece and
/// octet by octet; `judge` says what is wrong with what was heard.
fn run(kind: &str, judge: fn(&Pair, Heard) -> Result<(), String>) {
    let site = Site::new(kind);
    site.install(programs().inspect(1), "app.so");
    let (skipped, pairs): (Vec<Pair>, Vec<Pair>) = pairs(kind)
        .into_iter()
        .partition(|pair| pair.options.iter().any(|option| NOT_OFFERED.contains(&&**option)));
    let (limited, plain): (Vec<Pair>, Vec<Pair>) =
        pairs.into_iter().partition(|pair| pair.options == ["body=10"]);
    let (mut count, mut wrong) = (0, String::new());
    for (pairs, limit) in [(plain, 0), (limited, 10)] {
        let server = launch(&site, limit);
        for pair in &pairs {
            assert!(
                limit > 0 || pair.options.is_empty(),
                "{}: unknown options {:?}",
                pair.name,
                pair.options
            );
            for address in server.addresses() {
                // One octet at a time, but no more than some thousand pieces.
                for pace in [Pace::Whole, Pace::Pieces(1 + pair.octets.len() / 8192)] {
                    count += 1;
                    let heard = converse(address, pair, pace).map_err(|failure| failure.to_string());
                    if let Err(why) = heard.and_then(|heard| judge(pair, heard)) {
                        let _ = writeln!(wrong, "{} {pace:?} {address:?}: {why}", pair.name);
                    }
                }
            }
        }
        server.finish();
    }
    let skipped: Vec<&str> = skipped.iter().map(|pair| &*pair.name).collect();
    eprintln!(
        "{count} conversations; skipped, as the server has no such setting: {} {skipped:?}",
        skipped.len()
    );
    assert!(wrong.is_empty(), "{wrong}");
}

fn launch(site: &Site, limit: u32) -> Server<'_> {
    let launch = site.launch().workers(2).with(|settings| {
        settings.list("bind", &["127.0.0.1:0", "unix:server.sock"]);
        settings.raw("limit_request_body", &limit.to_string());
    });
    launch.start()
}

fn converse(address: &Address, pair: &Pair, pace: Pace) -> Result<Heard, Failure> {
    let mut connection = Connection::open(address)?;
    // The server may refuse before it has read everything.
    let _ = connection.send_at(&pair.octets, pace);
    if pair.expected.iter().any(|line| line == "error Truncated") {
        let _ = connection.end_sending();
    }
    let mut heard = connection.hear();
    // Who still sends a second request while the first is answered meets a closed socket: `sync` lingers only for what
    // it has seen come. The answer must be whole all the same; `judge` looks.
    if pair.name.contains("_pipelined") && pace != Pace::Whole && heard.end == Err(Failure::Reset) {
        heard.end = Ok(());
    }
    Ok(heard)
}

#[test]
fn valid() {
    run("valid", |pair, heard| {
        let first = first_request(pair);
        let method = first[0].strip_prefix("method ").ok_or("the expectation has no method")?;
        let text = heard.head();
        let response = heard.response(method).map_err(|failure| format!("{failure}: {text:?}"))?;
        expect(response.status == 200 && response.closes(), || format!("{response:?}"))?;
        if method == "HEAD" {
            let length = response.field("content-length").and_then(|length| length.parse().ok());
            return expect(length > Some(50_u64), || format!("{response:?}"));
        }
        let (shown, wanted) = (shown(&response)?, wanted(&first));
        expect(shown == wanted, || format!("\n{}\n-- expected:\n{}", shown.join("\n"), wanted.join("\n")))
    });
}

#[test]
fn invalid() {
    run("invalid", |pair, heard| {
        let status = match pair.name.split_once('_').expect("a number and a name").1 {
            // What is wrong comes after the request that is answered.
            name if name.starts_with("pipelined") => 200,
            _ => pair
                .expected
                .iter()
                .find_map(|line| line.strip_prefix("status ")?.parse().ok())
                .ok_or("the expectation has no status")?,
        };
        let text = String::from_utf8_lossy(&heard.octets).into_owned();
        let method =
            if heard.rest().is_empty() && pair.octets.starts_with(b"HEAD ") { "HEAD" } else { "GET" };
        let response = heard.response(method).map_err(|failure| format!("{failure}: {text:?}"))?;
        let framed = response.field("content-length").is_some();
        expect(response.status == status && response.closes() && framed, || format!("not {status}: {text:?}"))
    });
}

fn expect(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

/// The lines of the first request.
fn first_request(pair: &Pair) -> Vec<&str> {
    let starts = |line: &&String| line.starts_with("method ");
    let second =
        pair.expected.iter().skip(1).position(|line| starts(&line)).map_or(pair.expected.len(), |at| at + 1);
    pair.expected[..second].iter().map(String::as_str).collect()
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
    wanted.push(format!("body {} {:x}", body.len(), Sha256::digest(&body)));
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
