//! Gunicorn's own requests, good and bad, against this server.
//!
//! They are in `tests/requests` of Gunicorn's published source distribution, which this test downloads where it can and
//! keeps nothing of. Where there is no network, no `pip` or no Python, it says so and tests nothing. What a newcomer
//! would get wrong: a case that is judged differently here is not to be fixed by adding it to [`OTHERWISE`]; that table
//! is for rules of an RFC that Gunicorn does not enforce, or refuses beyond.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::{Address, Connection, Failure, Response, Server, Site, programs, sha256};
use serde_json::Value;

/// Below these the corpus is not what this test knows, and would prove nothing.
const FEWEST: [(&str, usize); 2] = [("valid", 55), ("invalid", 75)];

/// What is decided otherwise than Gunicorn does.
#[derive(Clone, Copy)]
enum Ours {
    /// Valid there and refused here with 400, because it has no Host field; with one it must be served.
    NeedsHost,
    /// Valid there, refused here with this status.
    Refused(u16),
    /// Invalid there, served here.
    Served,
}

/// By name, each with the reason.
const OTHERWISE: &[(&str, Ours, &str)] = &[
    ("valid/004", Ours::NeedsHost, HOST),
    ("valid/006", Ours::NeedsHost, HOST),
    ("valid/007", Ours::NeedsHost, HOST),
    ("valid/010", Ours::NeedsHost, HOST),
    ("valid/011", Ours::NeedsHost, HOST),
    ("valid/013", Ours::NeedsHost, HOST),
    ("valid/014", Ours::NeedsHost, HOST),
    ("valid/018", Ours::NeedsHost, HOST),
    ("valid/021", Ours::NeedsHost, HOST),
    ("valid/022", Ours::NeedsHost, HOST),
    ("valid/023", Ours::NeedsHost, HOST),
    ("valid/028", Ours::NeedsHost, HOST),
    ("valid/031", Ours::NeedsHost, HOST),
    ("valid/031compat", Ours::NeedsHost, HOST),
    ("valid/031compat2", Ours::NeedsHost, HOST),
    ("valid/100", Ours::NeedsHost, HOST),
    ("valid/compat_obs_fold_huge", Ours::NeedsHost, HOST),
    ("valid/pp_02", Ours::NeedsHost, HOST),
    ("valid/025", Ours::Refused(501), CODING),
    ("valid/025_line", Ours::Refused(501), CODING),
    ("valid/029", Ours::Refused(501), CODING),
    ("valid/030", Ours::Refused(501), CODING),
    ("valid/rfc9112_smuggle_gzip_chunked_01", Ours::Refused(501), CODING),
    ("valid/rfc9112_smuggle_te_identity_chunked_01", Ours::Refused(501), CODING),
    ("valid/005", Ours::Refused(400), FRAGMENT),
    ("valid/012", Ours::Refused(400), TRAILER),
    ("valid/099", Ours::Refused(400), SHORT),
    ("valid/rfc9112_target_absolute_userinfo_01", Ours::Refused(400), USERINFO),
    ("invalid/limit_header_default_01", Ours::Served, NO_LIMIT),
];

const HOST: &str = "RFC 9112 section 3.2: a request of HTTP/1.1 without Host is answered 400";
const CODING: &str =
    "RFC 9112 section 6.1: a transfer coding below chunked that the server does not decode is answered 501";
const FRAGMENT: &str = "RFC 9112 section 3.2: no form of the target has a fragment";
const TRAILER: &str = "RFC 9110 section 6.5.1: a field such as Content-Type must not be sent as a trailer";
const SHORT: &str = "RFC 9112 section 8: the client ends its request before the length it declared";
const USERINFO: &str = "RFC 9110 section 4.2.4: user information in an http target is an error";
const NO_LIMIT: &str = "limit_request_field_size 0 is no limit of its own here, as docs/SETTINGS.md says";

/// Names settings as Gunicorn does, and prints each case as a line of JSON. Modules of Gunicorn that cases import are
/// replaced by ones that have every name: no code of Gunicorn runs.
const READER: &str = r#"
import json, pathlib, sys, types

class Errors(types.ModuleType):
    def __getattr__(self, name):
        return type(name, (Exception,), {})

class Config:
    def __init__(self):
        self.values = {}
    def set(self, name, value):
        self.values[name] = value

def octets(value):
    return (value if isinstance(value, bytes) else value.encode("latin-1")).hex()

for name in ("gunicorn", "gunicorn.http"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["gunicorn.http.errors"] = Errors("gunicorn.http.errors")
sys.modules["gunicorn.config"] = types.ModuleType("gunicorn.config")
sys.modules["gunicorn.config"].Config = Config

for kind in ("valid", "invalid"):
    for path in sorted(pathlib.Path(sys.argv[1], kind).glob("*.http")):
        raw = path.read_bytes().replace(b"\n", b"")
        for escape, octet in ((b"\\r\\n", b"\r\n"), (b"\\0", b"\0"), (b"\\n", b"\n"), (b"\\t", b"\t")):
            raw = raw.replace(escape, octet)
        pieces = raw.split(b"\\x")
        raw = pieces[0] + b"".join(bytes([int(p[:2], 16)]) + p[2:] for p in pieces[1:])
        scope = {"uri": lambda text: text, "cfg": Config()}
        exec(compile(path.with_suffix(".py").read_text(), str(path), "exec"), scope)
        expected = scope["request"]
        case = {"name": f"{kind}/{path.stem}", "octets": raw.hex(), "settings": scope["cfg"].values}
        if isinstance(expected, (dict, list)):
            case["requests"] = [
                {
                    "method": one["method"],
                    "target": octets(one["uri"]),
                    "version": "HTTP/%d.%d" % one["version"],
                    "headers": [[octets(part) for part in field] for field in one["headers"]],
                    "trailers": [[octets(part) for part in field] for field in one.get("trailers", [])],
                    "body": octets(one["body"]),
                }
                for one in (expected if isinstance(expected, list) else [expected])
            ]
        print(json.dumps(case))
"#;

#[derive(Clone)]
struct Case {
    name: String,
    octets: Vec<u8>,
    settings: Vec<(String, Value)>,
    /// None if the octets are invalid.
    requests: Option<Vec<Value>>,
}

/// Downloads the distribution and reads its cases; why not, if it cannot.
fn corpus(site: &Site) -> Result<Vec<Case>, String> {
    let python = |arguments: &[&str]| {
        let mut command = Command::new("python3");
        command.args(arguments).current_dir(site.path()).stdin(Stdio::null());
        let output = command.output().map_err(|error| format!("python3 cannot be run: {error}"))?;
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    };
    let folder = site.directory("download");
    let words = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "1"];
    let from = ["--no-deps", "--no-binary", ":all:", "--dest", "download", "gunicorn==27.*"];
    python(&[&words[..], &from].concat()).map_err(|why| format!("it cannot be downloaded: {why}"))?;
    let archive = fs::read_dir(&folder)
        .expect("our directory")
        .find_map(|entry| entry.ok().map(|entry| entry.path()))
        .ok_or("the download left no file")?;
    let unpacked = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&folder).status();
    assert!(unpacked.is_ok_and(|status| status.success()), "tar cannot unpack {}", archive.display());
    let requests = fs::read_dir(&folder)
        .expect("our directory")
        .filter_map(|entry| Some(entry.ok()?.path().join("tests/requests")))
        .find(|path| path.is_dir())
        .ok_or("the distribution has no tests/requests")?;
    let script = site.join("reader.py");
    fs::write(&script, READER).expect("a file in our directory");
    let lines =
        python(&[path(&script), path(&requests)]).expect("the cases are in Python that this one understands");
    let cases = lines.lines().map(|line| case(&serde_json::from_str(line).expect("JSON"))).collect();
    fs::remove_file(&script).and_then(|()| fs::remove_dir_all(&folder)).expect("they are ours");
    Ok(cases)
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path of ours is UTF-8")
}

fn case(value: &Value) -> Case {
    let settings = value["settings"].as_object().expect("an object");
    Case {
        name: text(&value["name"]).to_owned(),
        octets: octets(&value["octets"]),
        settings: settings.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        requests: value["requests"].as_array().cloned(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn octets(value: &Value) -> Vec<u8> {
    let digits = text(value).as_bytes().chunks(2);
    digits
        .map(|two| u8::from_str_radix(std::str::from_utf8(two).expect("ASCII"), 16).expect("two digits"))
        .collect()
}

/// Worker classes that are built.
fn classes() -> impl Iterator<Item = PathBuf> {
    let beside = |class| programs().sync().with_file_name(format!("lib{class}.so"));
    ["sync", "threaded", "poll"].map(beside).into_iter().filter(|path| path.is_file())
}

fn launch<'s>(site: &'s Site, class: &Path, wanted: &[(String, Value)]) -> Server<'s> {
    let launch = site.launch().with(|settings| {
        settings.list("bind", &["unix:server.sock", "127.0.0.1:0"]).text("worker_class", path(class));
        for (name, value) in wanted {
            // Gunicorn hands all cases to its parser as from a peer without an address, which it trusts.
            match value {
                Value::String(value) => settings.text(name, value),
                value => settings.raw(name, &value.to_string()),
            };
        }
    });
    launch.start()
}

/// All answers on one connection, to its end.
fn converse(address: &Address, case: &Case) -> Result<Vec<Response>, Failure> {
    let mut connection = Connection::open(address)?;
    // The server may refuse before it has read everything.
    let _ = connection.send(&case.octets);
    let _ = connection.end_sending();
    let mut answers: Vec<Response> = Vec::new();
    loop {
        let method = match &case.requests {
            // A client that has ended its own direction is left after the last answer.
            Some(requests) if requests.len() == answers.len() => break,
            Some(requests) => text(&requests[answers.len()]["method"]),
            None => "GET",
        };
        let answer = if method == "HEAD" { connection.read_head()? } else { connection.read_response()? };
        let is_last = answer.closes() || answer.status >= 400;
        answers.push(answer);
        if is_last {
            break;
        }
    }
    connection.read_end()?;
    Ok(answers)
}

impl Case {
    /// The same with a Host field in each request that begins with a line of HTTP/1.1.
    fn with_host(&self) -> Self {
        let mut octets = Vec::new();
        for line in self.octets.split_inclusive(|octet| *octet == b'\n') {
            octets.extend_from_slice(line);
            if line.ends_with(b" HTTP/1.1\r\n") {
                octets.extend_from_slice(b"Host: gunicorn\r\n");
            }
        }
        let mut requests = self.requests.clone();
        for request in requests.iter_mut().flatten().filter(|request| request["version"] == "HTTP/1.1") {
            let hexadecimal =
                |text: &str| text.bytes().map(|octet| format!("{octet:02x}")).collect::<String>();
            let field = serde_json::json!([hexadecimal("Host"), hexadecimal("gunicorn")]);
            request["headers"].as_array_mut().expect("an array").insert(0, field);
        }
        Self { octets, requests, ..self.clone() }
    }

    /// Whether the first request is well, as HTTP/1.0 is without `Host`.
    fn begins_with_host(&self) -> bool {
        let first = self.requests.iter().flatten().next();
        first.is_some_and(|request| request["version"] == "HTTP/1.0")
    }
}

/// What is wrong with what the server makes of a case.
fn examine(address: &Address, case: &Case) -> Result<(), String> {
    let ours = OTHERWISE.iter().find(|(name, ..)| *name == case.name).map(|(_, ours, _)| *ours);
    let judge = |case: &Case, ours| {
        let answers = converse(address, case).map_err(|failure| failure.to_string())?;
        judge(case, &answers, ours)
    };
    match ours {
        Some(Ours::NeedsHost) => {
            // A class that keeps no connection may not come as far as the request without it.
            judge(case, Some(Ours::Refused(400))).or_else(|wrong| match case.begins_with_host() {
                true => judge(case, None).map_err(|_| wrong),
                false => Err(wrong),
            })?;
            judge(&case.with_host(), None)
        }
        other => judge(case, other),
    }
}

/// What is wrong with the answers.
fn judge(case: &Case, answers: &[Response], ours: Option<Ours>) -> Result<(), String> {
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    let refused =
        answers.last().is_some_and(|answer| (400..=505).contains(&answer.status) && answer.closes());
    let good = match (&case.requests, ours) {
        (Some(_), Some(Ours::Refused(status))) => refused && statuses.last() == Some(&status),
        (None, Some(Ours::Served)) => statuses.iter().all(|status| *status == 200),
        (None, Some(Ours::Refused(_) | Ours::NeedsHost))
        | (Some(_), Some(Ours::Served | Ours::NeedsHost)) => {
            return Err("the table names it, and there is nothing to decide otherwise".to_owned());
        }
        (None, None) => refused && !statuses.contains(&500),
        (Some(requests), None) => {
            if answers.is_empty() || (answers.len() < requests.len() && !answers[answers.len() - 1].closes())
            {
                return Err(format!("{} answers to {} requests", answers.len(), requests.len()));
            }
            for (request, answer) in requests.iter().zip(answers) {
                compare(request, answer)?;
            }
            true
        }
    };
    if good { Ok(()) } else { Err(format!("answered {statuses:?}")) }
}

/// What `inspect` was shown is what Gunicorn expects.
fn compare(request: &Value, answer: &Response) -> Result<(), String> {
    if answer.status != 200 {
        return Err(format!("a valid request was answered {}", answer.status));
    }
    if request["method"] == "HEAD" {
        return Ok(());
    }
    let shown: Value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
    let latin = |value: &Value| octets(value).into_iter().map(char::from).collect::<String>();
    let fields = |value: &Value| -> Vec<(String, String)> {
        let pairs = value.as_array().into_iter().flatten();
        pairs.map(|pair| (latin(&pair[0]).to_ascii_uppercase(), latin(&pair[1]))).collect()
    };
    let shown_fields = |value: &Value| -> Vec<(String, String)> {
        let pairs = value.as_array().into_iter().flatten();
        pairs.map(|pair| (text(&pair[0]).to_ascii_uppercase(), text(&pair[1]).to_owned())).collect()
    };
    let body = octets(&request["body"]);
    let digest = sha256(&body);
    let same = shown["method"] == request["method"]
        && text(&shown["target"]) == latin(&request["target"])
        && shown["version"] == request["version"]
        && shown_fields(&shown["headers"]) == fields(&request["headers"])
        && shown_fields(&shown["trailers"]) == fields(&request["trailers"])
        && shown["body_len"] == body.len()
        && text(&shown["body_sha256"]) == digest;
    if same { Ok(()) } else { Err(format!("shown as {shown}, not {request}")) }
}

#[test]
fn gunicorn_s_own_requests() {
    let site = Site::new("corpus");
    site.install(programs().inspect(1), "app.so");
    let cases = match corpus(&site) {
        Ok(cases) => cases,
        Err(why) => {
            eprintln!("SKIPPED gunicorn_s_own_requests: {why}");
            return;
        }
    };
    for (kind, fewest) in FEWEST {
        let count = cases.iter().filter(|case| case.name.split('/').next() == Some(kind)).count();
        assert!(count >= fewest, "{count} cases are {kind}");
    }
    for (name, _, reason) in OTHERWISE {
        assert!(cases.iter().any(|case| case.name == *name), "there is no case {name}");
        eprintln!("{name}: {reason}");
    }
    let mut settings: Vec<&[(String, Value)]> = Vec::new();
    for case in &cases {
        if !settings.contains(&&case.settings[..]) {
            settings.push(&case.settings);
        }
    }
    let (mut count, mut wrong) = (0, Vec::new());
    for class in classes() {
        for wanted in &settings {
            let server = launch(&site, &class, wanted);
            for case in cases.iter().filter(|case| case.settings == *wanted) {
                for address in server.addresses() {
                    count += 1;
                    if let Err(why) = examine(address, case) {
                        wrong.push(format!("{} {} {address:?}: {why}", class.display(), case.name));
                    }
                }
            }
            server.finish();
        }
    }
    eprintln!("{count} conversations about {} cases, with {} sets of settings", cases.len(), settings.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
