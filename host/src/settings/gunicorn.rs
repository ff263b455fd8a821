//! What became of each setting of Gunicorn 27: the last part of docs/SETTINGS.md.
//!
//! Owns the verdicts and their words. The names, flags and defaults are data (`gunicorn_27.txt`), written down once
//! from Gunicorn itself. What a newcomer would get wrong: a setting that the table has under Gunicorn's name needs no
//! line here; the tests below then hold it to Gunicorn's flags and default. Only what differs gets a verdict, and one
//! that is built later loses its line.

use std::fmt::Write;

#[cfg(test)]
use super::{Setting, find};

/// The settings of Gunicorn 27.
const LIST: &str = include_str!("gunicorn_27.txt");

/// What became of a setting that is not simply supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The need is met, in another way or under another name, or the default differs.
    Adapted(&'static str),
    /// Not there yet.
    Planned(&'static str),
    /// It is about Python.
    NotApplicable(&'static str),
}

use Verdict::{Adapted, NotApplicable, Planned};

const HOOK: Verdict = Adapted("A function of that name in a library that `hooks` names: see docs/HOOKS.md.");
const TLS: Verdict = Planned("With TLS. Until then a proxy in front ends it.");
const HTTP2: Verdict = Planned("With HTTP/2. Until then a proxy in front speaks it.");
const DIRTY: Verdict = NotApplicable(
    "Dirty workers keep work out of processes whose Python threads exclude each other; a native application has \
     threads and pools of its own.",
);
const DICTIONARY: Verdict = NotApplicable(
    "It configures Python's `logging`. The two logs are set by `errorlog`, `loglevel`, `accesslog` and their kin.",
);

/// The exceptions, in the order of the list.
const VERDICTS: &[(&str, Verdict)] = &[
    ("config", Adapted("The file is TOML, `./rgunicorn.toml` by default; nothing in it is executed.")),
    ("wsgi_app", Adapted("`application`: a library and a name in it.")),
    (
        "asgi_loop",
        NotApplicable("It chooses between Python's event loops. Here the worker class has the loop."),
    ),
    (
        "asgi_lifespan",
        NotApplicable(
            "It is ASGI's protocol; every application has `create`, `start`, `ready`, `drain`, `shutdown`.",
        ),
    ),
    (
        "asgi_disconnect_grace_period",
        NotApplicable(
            "An async application whose client has gone is dropped, not cancelled by an exception.",
        ),
    ),
    (
        "websocket_max_message_size",
        Adapted("A connection that an application took over is the application's, limits included."),
    ),
    (
        "http_parser",
        NotApplicable("It chooses between a parser in Python and one in C. There is one parser."),
    ),
    (
        "preload_app",
        Adapted(
            "A template process of each generation creates the applications and forks its workers, so that a reload \
             brings new code all the same.",
        ),
    ),
    (
        "sendfile",
        Adapted("Always on: an application that answers with a file descriptor decides it by doing so."),
    ),
    (
        "reuse_port",
        Adapted(
            "The master holds the sockets and every worker accepts from each, so that no queue is lost with a worker.",
        ),
    ),
    (
        "chdir",
        Adapted("Relative paths of all settings start there; the program's own directory does not change."),
    ),
    ("daemon", Adapted("The command ends only when the first worker is ready, or with why none is.")),
    (
        "worker_tmp_dir",
        Adapted(
            "The heartbeat is in shared memory and needs no file. `runtime_dir` says where the images lie.",
        ),
    ),
    (
        "initgroups",
        Adapted(
            "On by default: without it Gunicorn's workers keep the master's groups, which are root's. Here never.",
        ),
    ),
    ("umask", Adapted("Octal only: a bare `22`, which Gunicorn takes for `0o26`, is refused.")),
    ("tmp_upload_dir", Adapted("Bodies are streamed to the application; none is kept in a file.")),
    (
        "pythonpath",
        Adapted("`plugin_path`: where applications and worker classes given by name are searched."),
    ),
    ("paste", NotApplicable("PasteDeploy is Python's. Name the library itself: `FILE.so:NAME`.")),
    (
        "raw_paste_global_conf",
        NotApplicable("PasteDeploy is Python's. An application's settings are the table `[app.NAME]`."),
    ),
    ("protocol", Adapted("HTTP only. Where uwsgi was spoken by nginx, `proxy_pass` takes its place.")),
    ("uwsgi_allow_ips", Adapted("No uwsgi, hence nobody to allow; for HTTP there is `forwarded_allow_ips`.")),
    ("root_path", Adapted("`mount`: the prefix under which an application stands, and which it is told.")),
    ("limit_request_fields", Adapted("At least 1: Gunicorn takes 0 for the most there can be, 32768.")),
    ("loglevel", Adapted("One level more, `trace`. `warning` is Gunicorn's, `warn` is not known.")),
    ("logger_class", NotApplicable("It names a Python class. `log_format` chooses between text and JSON.")),
    ("logconfig", DICTIONARY),
    ("logconfig_dict", DICTIONARY),
    ("logconfig_json", DICTIONARY),
    (
        "syslog_addr",
        Adapted("Datagrams only: with `tcp://` or a stream the server would have to wait for the daemon."),
    ),
    (
        "syslog_prefix",
        Adapted("The tag is `rgunicorn.PREFIX.error`, where Gunicorn's begins with `gunicorn.`."),
    ),
    (
        "enable_stdio_inheritance",
        Adapted("A daemon has `/dev/null`; `capture_output` keeps what the workers write."),
    ),
    ("statsd_host", Adapted("The monitor process sends sums once a second: see docs/MONITORING.md.")),
    ("proc_name", Adapted("The titles begin with `rgunicorn: `, which has Gunicorn's `gunicorn: ` inside.")),
    ("default_proc_name", Adapted("No setting: without `proc_name` it is the application as it was given.")),
    ("keyfile", TLS),
    ("certfile", TLS),
    ("ssl_version", TLS),
    ("cert_reqs", TLS),
    ("ca_certs", TLS),
    ("suppress_ragged_eofs", NotApplicable("It is an option of Python's `ssl` module.")),
    ("do_handshake_on_connect", NotApplicable("It is an option of Python's `ssl` module.")),
    ("ciphers", TLS),
    ("http_protocols", HTTP2),
    ("http2_cleartext", HTTP2),
    ("http2_max_concurrent_streams", HTTP2),
    ("http2_initial_window_size", HTTP2),
    ("http2_max_frame_size", HTTP2),
    ("http2_max_header_list_size", HTTP2),
    ("reload", Adapted("It watches the plugin files; a broken build leaves the old generation serving.")),
    ("reload_engine", Adapted("`auto` is inotify; `poll` is refused, since every Linux has inotify.")),
    ("reload_extra_files", Adapted("A path may be a pattern, and what matches it later is seen.")),
    ("check_config", Adapted("It also begins a worker and ends it again.")),
    ("print_config", Adapted("As TOML that can be read again; `--print-config=json` is for programs.")),
    ("spew", NotApplicable("It prints each line of Python that runs. perf, strace and gdb see native code.")),
    (
        "control_socket",
        Adapted("Off by default, so that nobody has one without knowing; spoken to by `rgunicorn ctl`."),
    ),
    ("control_socket_mode", Adapted("Always `0600`: whoever may open it can stop the server.")),
    ("control_socket_disable", Adapted("Not needed: there is none unless `control_socket` is set.")),
    ("on_starting", HOOK),
    ("on_reload", HOOK),
    ("when_ready", HOOK),
    ("pre_fork", HOOK),
    ("post_fork", HOOK),
    ("post_worker_init", HOOK),
    ("worker_int", HOOK),
    ("worker_abort", HOOK),
    ("pre_exec", HOOK),
    ("pre_request", HOOK),
    ("post_request", HOOK),
    ("child_exit", HOOK),
    ("worker_exit", HOOK),
    ("nworkers_changed", HOOK),
    ("on_exit", HOOK),
    ("ssl_context", NotApplicable("It is handed an object of Python's `ssl` module.")),
    ("dirty_apps", DIRTY),
    ("dirty_workers", DIRTY),
    ("dirty_timeout", DIRTY),
    ("dirty_threads", DIRTY),
    ("dirty_graceful_timeout", DIRTY),
    ("on_dirty_starting", DIRTY),
    ("dirty_post_fork", DIRTY),
    ("dirty_worker_init", DIRTY),
    ("dirty_worker_exit", DIRTY),
];

/// Flags of Gunicorn that the list does not have, each with the setting that it stands for.
const OTHER_FLAGS: &[(&str, &str)] = &[("--sendfile", "sendfile")];

/// What became of Gunicorn's worker classes, of those that others have made for it, and of any other Python class.
const CLASSES: &[(&str, &str)] = &[
    ("sync", "The same name."),
    ("gthread", "Stands for `threaded`."),
    ("gevent", "Green threads are Python's. `threaded` runs what blocks, `poll` has many connections."),
    ("eventlet", "Green threads are Python's. `threaded` runs what blocks, `poll` has many connections."),
    ("tornado", "Tornado's loop is Python's. Use `poll`, which has a loop for async applications."),
    ("asgi", "ASGI is Python's. Use `poll`, which has a loop for async applications."),
    ("uvicorn", "ASGI is Python's. Use `poll`, which has a loop for async applications."),
    ("aiohttp", "aiohttp is Python's. Use `poll`, which has a loop for async applications."),
    (".", "A Python class. Use `sync`, `threaded` or `poll`, or the file of a worker class."),
];

/// What takes the place of a worker class of Gunicorn's that was not found; the end of a sentence.
pub(crate) fn class_became(text: &str) -> Option<String> {
    // Of a dotted name the parts count: 'gunicorn.workers.ggevent.GeventWorker', 'uvicorn.workers.UvicornWorker'.
    let text = text.to_lowercase();
    let (_, how) = CLASSES.iter().find(|(name, _)| !is_supported(name) && text.contains(name))?;
    Some(how.trim_end_matches('.').replace('`', "'"))
}

fn is_supported(class: &str) -> bool {
    ["sync", "gthread"].contains(&class)
}

/// A line of the list.
struct Theirs {
    name: &'static str,
    flags: Vec<&'static str>,
    /// None where Gunicorn has none, one that depends on where it runs, or the '-' of a standard stream.
    default: Option<&'static str>,
}

fn theirs(line: &'static str) -> Option<Theirs> {
    let mut fields = line.split('\t');
    let (name, flags, default) = (fields.next()?, fields.next()?, fields.next()?);
    let flags = flags.split(' ').filter(|flag| *flag != "-").collect();
    Some(Theirs { name, flags, default: Some(default).filter(|default| *default != "-") })
}

fn verdict(name: &str) -> Option<Verdict> {
    VERDICTS.iter().find(|(other, _)| *other == name).map(|(_, verdict)| *verdict)
}

/// What became of a setting that Gunicorn has by this name or flag, and that is not in the table under it; the end of a
/// sentence. None for what Gunicorn does not have either.
pub(crate) fn became(name_or_flag: &str) -> Option<String> {
    let other = OTHER_FLAGS.iter().find(|(flag, _)| *flag == name_or_flag);
    let name_or_flag = other.map_or(name_or_flag, |(_, name)| name);
    let lines = LIST.lines().filter(|line| !line.starts_with('#'));
    let theirs = lines
        .filter_map(theirs)
        .find(|theirs| theirs.name == name_or_flag || theirs.flags.contains(&name_or_flag))?;
    let (word, how) = match verdict(theirs.name)? {
        Adapted(how) => ("met in another way", how),
        Planned(how) => ("not there yet", how),
        NotApplicable(how) => ("about Python", how),
    };
    let how = how.trim_end_matches('.').replace('`', "'");
    Some(format!("what Gunicorn has by that name is {word}: {how}"))
}

/// The comparison, as the last section of the page.
pub(super) fn comparison() -> String {
    let mut page = "\n## Gunicorn's settings\n\nEvery setting of Gunicorn 27, and what became of it. *Supported*: the \
                    same name, flags and default.\n*Adapted*: the need is met in another way. *Planned*: not there \
                    yet. *Not applicable*: it is about Python.\n"
        .to_owned();
    for line in LIST.lines().filter(|line| !line.starts_with("# ")) {
        // Writing to a String cannot fail.
        let _ = match (line.strip_prefix("## "), theirs(line)) {
            (Some(section), _) => {
                write!(
                    page,
                    "\n### {section}\n\n| Gunicorn | flags | default | here | how |\n|---|---|---|---|---|\n"
                )
            }
            (None, Some(theirs)) => page.write_str(&row(&theirs)),
            (None, None) => Ok(()),
        };
    }
    page.push_str("\n### Worker classes\n\n| Gunicorn | here | how |\n|---|---|---|\n");
    for (name, how) in CLASSES {
        let word = if is_supported(name) { "supported" } else { "not applicable" };
        let name = if *name == "." { "a class by its path".to_owned() } else { format!("`{name}`") };
        // As above.
        let _ = writeln!(page, "| {name} | {word} | {how} |");
    }
    page
}

fn row(theirs: &Theirs) -> String {
    let flags: Vec<String> = theirs.flags.iter().map(|flag| format!("`{flag}`")).collect();
    let flags = if flags.is_empty() { "none".to_owned() } else { flags.join(", ") };
    let (word, how) = match verdict(theirs.name) {
        Some(Adapted(how)) => ("adapted", how),
        Some(Planned(how)) => ("planned", how),
        Some(NotApplicable(how)) => ("not applicable", how),
        None => ("supported", "As in Gunicorn."),
    };
    let default = theirs.default.map_or_else(|| "none".to_owned(), |default| format!("`{default}`"));
    format!("| `{}` | {flags} | {} | {word} | {how} |\n", theirs.name, default.replace('|', "\\|"))
}

/// Whether a default of the table is the one Gunicorn has, in its words.
#[cfg(test)]
fn agrees(ours: &Setting, theirs: &Theirs) -> bool {
    let ours_text = ours.default_value(|_| None).ok().flatten().map(|value| value.to_text());
    match (ours_text.as_deref(), theirs.default) {
        (Some(text), Some(default)) => text == default,
        // Their '-' is both "none" and the path of a standard stream.
        (Some("-") | None, None) => true,
        (None, Some(_)) | (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Theirs> {
        LIST.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| theirs(line).expect("three fields"))
            .collect()
    }

    #[test]
    fn every_flag_and_class_that_is_not_there_is_told_what_became_of_it() {
        for theirs in all() {
            for flag in theirs.flags.iter().filter(|flag| flag.starts_with("--")) {
                let ours = super::super::SETTINGS.iter().any(|setting| setting.flags.contains(&&flag[2..]));
                assert!(ours || became(flag).is_some(), "{flag}");
            }
        }
        assert!(became("--sendfile").is_some_and(|became| became.contains("Always on")));
        for (class, part) in [
            ("gevent", "'threaded' runs what blocks"),
            ("gunicorn.workers.ggevent.GeventWorker", "'threaded' runs what blocks"),
            ("eventlet", "'poll' has many"),
            ("tornado", "Use 'poll'"),
            ("uvicorn.workers.UvicornWorker", "ASGI is Python's"),
            ("uvicorn_worker.UvicornWorker", "ASGI is Python's"),
            ("meinheld.gmeinheld.MeinheldWorker", "A Python class"),
        ] {
            assert!(class_became(class).is_some_and(|became| became.contains(part)), "{class}");
        }
        assert_eq!(class_became("mine"), None);
    }

    #[test]
    fn every_setting_of_gunicorn_has_a_verdict_or_is_in_the_table() {
        let all = all();
        assert_eq!(all.len(), 120, "the list is not read any more");
        for Theirs { name, .. } in &all {
            match verdict(name) {
                None => assert!(
                    find(name).is_some(),
                    "'{name}' has no verdict and is not in the table of settings"
                ),
                Some(Planned(_)) => assert!(
                    find(name).is_none(),
                    "'{name}' is in the table of settings now: take its line out of VERDICTS, or say what differs"
                ),
                Some(NotApplicable(how)) => assert!(find(name).is_none() && how.ends_with('.'), "{name}"),
                Some(Adapted(how)) => assert!(how.ends_with('.'), "{name}"),
            }
        }
        for (name, _) in VERDICTS {
            assert!(all.iter().any(|theirs| theirs.name == *name), "Gunicorn has no setting '{name}'");
        }
    }

    #[test]
    fn what_is_supported_has_gunicorns_flags_and_default() {
        for theirs in all().iter().filter(|theirs| verdict(theirs.name).is_none()) {
            let ours = find(theirs.name).expect("the test above");
            for flag in &theirs.flags {
                let there = match flag.strip_prefix("--") {
                    Some(long) => ours.flags.contains(&long),
                    None => ours.short == flag.chars().nth(1),
                };
                assert!(there, "{} has no {flag}", theirs.name);
            }
            assert!(agrees(ours, theirs), "{}: Gunicorn's default is {:?}", theirs.name, theirs.default);
        }
    }
}
