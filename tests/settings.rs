//! Each setting takes effect, and refuses what it cannot be.
//!
//! Owns one entry per setting: what is seen on the wire, in /proc or in a file when it is set, and a value that must be
//! refused with a sentence that names it.. What a newcomer
//! would get wrong: `--print-config` proves nothing here. It shows what was read, not what is done.

use std::fs;

use harness::{Site, programs};

/// A site with the test application.
fn site(name: &str) -> Site {
    let site = Site::new(&format!("setting_{name}"));
    site.install(programs().inspect(1), "app.so");
    site
}

/// A server with this line in its file does not start, and says why in one sentence.
fn refuses(name: &str, value: &str, sentence: &str) {
    let site = site(name);
    let ended = site.launch().with(|settings| _ = settings.raw(name, value)).start_in_vain();
    assert!(!ended.status.success(), "{name} = {value} was accepted");
    assert!(ended.stderr.contains(name), "{name} is not named: {}", ended.stderr);
    assert!(ended.stderr.contains(sentence), "{sentence:?} is not said: {}", ended.stderr);
    assert_eq!(ended.stderr.trim_end().lines().count(), 1, "{}", ended.stderr);
}

/// The command line that /proc shows for a process.
fn title(pid: i32) -> String {
    let octets = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&octets).trim_end_matches('\0').to_owned()
}

/// One entry per setting: `name, a bad value and what is said of it, a test that it takes effect`.
macro_rules! settings {
    ($($name:ident, $bad:expr => $sentence:expr, |$site:ident| $effect:block)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn takes_effect() {
                let $site = site(stringify!($name));
                $effect
            }

            #[test]
            fn refuses_a_bad_value() {
                refuses(stringify!($name), $bad, $sentence);
            }
        })*
    };
}

settings! {
    proc_name, r#""a\u0007b""# => "control character", |site| {
        let long = "n".repeat(300);
        let server = site.launch().with(|settings| _ = settings.text("proc_name", &long)).start();
        let worker = server.workers()[0];
        assert_eq!(title(server.pid()), format!("rgunicorn: master [{long}]"));
        assert_eq!(title(worker), format!("rgunicorn: worker [{long}]"));
        // What the title has overwritten is still there for the application.
        assert_eq!(server.text("/env?name=PWD"), site.path().display().to_string());
        server.finish();
    }
}

#[test]
fn the_title_names_the_application_unless_told_otherwise() {
    let site = site("title");
    let mut server = site.launch().start();
    assert_eq!(title(server.pid()), "rgunicorn: master [app.so:app]");
    server.configure(|settings| _ = settings.text("proc_name", "x"));
    server.reload_well();
    assert_eq!(title(server.pid()), "rgunicorn: master [x]");
    server.finish();
}
