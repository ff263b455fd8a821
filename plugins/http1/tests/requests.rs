//! Runs every pair in `tests/requests`: raw bytes and what must come of them.
//!
//! It owns the meaning of the `.expect` files, line by line:
//!
//! - `option NAME` or `option NAME=VALUE`: a switch of `Leniency` or the body limit; all else is default;
//! - `method` … `trailer`: one request, beginning with `method`; several follow each other on one connection.
//!   Octets outside printable ASCII, quotes and backslashes are escaped as in Rust;
//! - `status NNN` and `error Variant`: the refusal that ends the file, after any number of good requests.
//!
//! What a newcomer would get wrong: each file runs in one piece and octet by octet, and both must agree
//! with it. A file that ends within a body is a client that closed, and an error too.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use rgunicorn_http1::{
    BodyDecoder, BodyFraming, Error, Head, HeaderMap, Leniency, Limits, Progress, Step, Version,
};

/// Below these a checkout is broken, and the loops would pass without having tested anything.
const FEWEST_VALID: usize = 150;
const FEWEST_INVALID: usize = 400;

#[test]
fn valid() {
    run("valid", FEWEST_VALID, |requests, error| match error {
        None => requests,
        Some(error) => format!("{requests}refused: {error:?}\n"),
    });
}

#[test]
fn invalid() {
    run("invalid", FEWEST_INVALID, |_, error| match error {
        None => "accepted\n".to_owned(),
        Some(error) => {
            let variant = format!("{error:?}");
            let variant = variant.split('(').next().expect("split yields one part at least");
            format!("status {}\nerror {variant}\n", error.status())
        }
    });
}

/// Which of two limits a line too long for both is said to break depends on where it was cut; all else not.
fn verdict((requests, error): &(String, Option<Error>)) -> (&str, String) {
    let error = match error {
        Some(error) if error.status() == 431 => "over a limit".to_owned(),
        other => format!("{other:?}"),
    };
    (requests, error)
}

/// Every file, with a few octets changed, doubled or left out: nothing panics, and what comes of it does not
/// depend on how it arrives. The generator is seeded, so that a failure can be repeated.
#[test]
fn mutated_requests_do_not_depend_on_splitting() {
    const OCTETS: &[u8] = b"\r\n\r\n\r\n \t:;,=\"\\0159afAG/*#_\0\x7f\x80\xff";
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let limits = Limits {
        request_line: 60,
        fields: 6,
        field_size: 60,
        head: 150,
        body: Some(30),
        chunk_extensions: 12,
        trailer_fields: 2,
        trailers: 40,
    };
    let (mut accepted, mut refused) = (0, 0);
    for kind in ["valid", "invalid"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/requests").join(kind);
        for path in pairs(&folder) {
            let input = fs::read(&path).unwrap();
            for round in 0..60 {
                let leniency = Leniency {
                    permit_obsolete_folding: round % 2 == 0,
                    strip_header_spaces: round % 3 == 0,
                    ..Leniency::default()
                };
                let mut input = input.clone();
                for _ in 0..random(4) {
                    let at = random(input.len());
                    match random(4) {
                        0 => input[at] = OCTETS[random(OCTETS.len())],
                        1 => input.insert(at, OCTETS[random(OCTETS.len())]),
                        2 if input.len() > 1 => drop(input.remove(at)),
                        _ => input.insert(at, input[at]),
                    }
                }
                let whole = converse(&input, input.len(), &limits, &leniency);
                for piece in [1, 2, 3, 11] {
                    let split = converse(&input, piece, &limits, &leniency);
                    assert_eq!(
                        verdict(&split),
                        verdict(&whole),
                        "in pieces of {piece}: {}",
                        input.escape_ascii()
                    );
                }
                match whole.1 {
                    None => accepted += 1,
                    Some(_) => refused += 1,
                }
            }
        }
    }
    assert!(accepted > 1000 && refused > 1000, "{accepted} accepted, {refused} refused");
}

fn run(kind: &str, fewest: usize, report: fn(String, Option<Error>) -> String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/requests").join(kind);
    let mut failures = String::new();
    let pairs = pairs(&folder);
    assert!(pairs.len() >= fewest, "{} pairs in {}", pairs.len(), folder.display());
    for path in &pairs {
        let input = fs::read(path).unwrap();
        let expected = fs::read_to_string(path.with_extension("expect")).unwrap();
        let (options, expected): (Vec<&str>, Vec<&str>) =
            expected.lines().partition(|line| line.starts_with("option "));
        let (limits, leniency) = settings(&options);
        for piece in [input.len(), 1, 7] {
            let (requests, error) = converse(&input, piece, &limits, &leniency);
            let got = report(requests, error);
            if !got.lines().eq(expected.iter().copied()) {
                let expected = expected.join("\n");
                let _ = writeln!(
                    failures,
                    "{} in pieces of {piece}:\n{got}-- expected:\n{expected}\n",
                    path.display()
                );
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

fn pairs(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "http"))
        .collect();
    paths.sort();
    paths
}

fn settings(options: &[&str]) -> (Limits, Leniency) {
    let (mut limits, mut leniency) = (Limits::default(), Leniency::default());
    for option in options {
        match option.strip_prefix("option ").unwrap() {
            "permit_obsolete_folding" => leniency.permit_obsolete_folding = true,
            "strip_header_spaces" => leniency.strip_header_spaces = true,
            "permit_unconventional_http_method" => leniency.permit_unconventional_http_method = true,
            "permit_unconventional_http_version" => leniency.permit_unconventional_http_version = true,
            "casefold_http_method" => leniency.casefold_http_method = true,
            "header_map=refuse" => leniency.header_map = HeaderMap::Refuse,
            "header_map=dangerous" => leniency.header_map = HeaderMap::Dangerous,
            "body=10" => limits.body = Some(10),
            other => panic!("unknown option {other}"),
        }
    }
    (limits, leniency)
}

/// Reads all requests from a connection that delivers `input` in pieces, and describes them.
fn converse(input: &[u8], piece: usize, limits: &Limits, leniency: &Leniency) -> (String, Option<Error>) {
    let mut out = String::new();
    let mut head = Head::new();
    let mut start = 0;
    while start < input.len() {
        match one_request(&mut head, &input[start..], piece, limits, leniency, &mut out) {
            Ok(Some(taken)) => start += taken,
            Ok(None) => {
                out.push_str("partial head\n");
                break;
            }
            Err(error) => return (out, Some(error)),
        }
    }
    (out, None)
}

fn one_request(
    head: &mut Head,
    input: &[u8],
    piece: usize,
    limits: &Limits,
    leniency: &Leniency,
    out: &mut String,
) -> Result<Option<usize>, Error> {
    let mut arrived = piece.min(input.len());
    let len = loop {
        match head.parse(&input[..arrived], limits, leniency)? {
            Progress::Complete { len } => break len,
            Progress::Partial if arrived == input.len() => return Ok(None),
            Progress::Partial => arrived = (arrived + piece).min(input.len()),
        }
    };
    let mut description = String::new();
    describe(head, &input[..len], &mut description);

    let mut body = Vec::new();
    let mut decoder = BodyDecoder::new(head.framing(), limits, leniency.header_map)?;
    let mut at = len;
    loop {
        match decoder.step(&input[at..arrived])? {
            Step::Data { range } => {
                assert!(!range.is_empty(), "empty data");
                body.extend_from_slice(&input[at..][range.clone()]);
                at += range.end;
            }
            Step::NeedMore => {
                at = arrived;
                if arrived == input.len() {
                    decoder.end_of_input()?;
                    unreachable!("more is needed though the body has ended");
                }
                arrived = (arrived + piece).min(input.len());
            }
            Step::End { consumed } => {
                at += consumed;
                break;
            }
        }
    }
    assert!(decoder.is_done() && decoder.end_of_input().is_ok());
    out.push_str(&description);
    if head.framing() != BodyFraming::None {
        line(out, "body", &body);
    }
    for (name, value) in decoder.trailers() {
        field(out, "trailer", name, value);
    }
    Ok(Some(at))
}

fn describe(head: &Head, buf: &[u8], out: &mut String) {
    line(out, "method", head.method(buf));
    line(out, "target", head.target(buf));
    line(out, "version", if head.version() == Version::Http11 { b"1.1" } else { b"1.0" });
    line(out, "path", head.path(buf));
    if let Some(query) = head.query(buf) {
        line(out, "query", query);
    }
    if let Some(authority) = head.authority(buf) {
        line(out, "authority", authority);
    }
    for (index, (name, value)) in head.fields(buf).enumerate() {
        assert_eq!(head.field_at(buf, index), Some((name, value)));
        field(out, "field", name, value);
    }
    assert_eq!(head.field_at(buf, head.fields(buf).len()), None);
    line(out, "keep-alive", if head.keep_alive() { b"yes" } else { b"no" });
    if head.expect_continue() {
        line(out, "expect-continue", b"");
    }
    if let Some(protocol) = head.upgrade(buf) {
        line(out, "upgrade", protocol);
    }
}

fn line(out: &mut String, key: &str, value: &[u8]) {
    let text = format!("{key} {}", value.escape_ascii());
    out.push_str(text.trim_end_matches(' '));
    out.push('\n');
}

fn field(out: &mut String, key: &str, name: &[u8], value: &[u8]) {
    let text = format!("{key} {}: {}", name.escape_ascii(), value.escape_ascii());
    out.push_str(text.trim_end_matches(' '));
    out.push('\n');
}
