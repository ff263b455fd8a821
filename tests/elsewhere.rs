//! Plugins of somebody else: built outside of the workspace, with a manifest, a lock file and a target folder of
//! their own, perhaps by another compiler, and a library beside a library.
//!
//! Owns the sources of two plugins as a newcomer would write them. What a newcomer would get wrong: only the packages
//! come from this checkout (path dependencies); nothing of the workspace, its profiles or its lints, reaches them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Pace, Server, Signal, Site, process, programs, wait_for};

const APPLICATION: &str = r#"
use rgunicorn_worker_api::prelude::*;

export_app! { "app": inline = app }

fn app(_: &WorkerFacts<'_>) -> Result<App, Error> {
    Ok(App::inline(|request, response| {
        let text = format!("elsewhere: {}\n", request.path().escape_ascii());
        Ok(response.respond(200, &[("Content-Type", "text/plain")], text.as_bytes())?)
    }))
}
"#;

/// The root of this checkout.
fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// A directory far from the checkout, where packages are written. It stays if the test fails.
struct Workshop(PathBuf);

impl Workshop {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rgt-{}-workshop-{name}", std::process::id()));
        fs::create_dir(&path).expect("a new directory");
        Self(path)
    }

    /// Writes a package with one source file. The lock file is the workspace's, so that nothing is downloaded.
    fn write(&self, name: &str, source: &str, dependencies: &str) {
        let (directory, root) = (self.0.join(name), checkout());
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"3.2.1\"\nedition = \"2024\"\n\n[lib]\ncrate-type = [\"cdylib\"]\n\n\
             [dependencies]\nrgunicorn-worker-api = {{ path = \"{}/worker-api\" }}\n{dependencies}\n\n[workspace]\n",
            root.display()
        );
        fs::create_dir_all(directory.join("src")).expect("a new directory");
        fs::write(directory.join("Cargo.toml"), manifest).expect("a new file");
        fs::write(directory.join("src/lib.rs"), source).expect("a new file");
        fs::copy(root.join("Cargo.lock"), directory.join("Cargo.lock")).expect("the workspace has one");
    }

    /// Builds a package by our toolchain or another; the library that comes of it.
    fn build(&self, name: &str, toolchain: Option<&str>, release: bool) -> PathBuf {
        // What they depend on has been built there.
        let target = toolchain.map_or_else(|| programs().target().to_owned(), |_| programs().nightly());
        let mut command = match toolchain {
            None => Command::new(std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into())),
            Some(toolchain) => {
                let mut command = Command::new("rustup");
                command.args(["run", toolchain, "cargo"]);
                command
            }
        };
        command.args(["build", "--offline"]).current_dir(self.0.join(name)).env("CARGO_TARGET_DIR", &target);
        command.env("CARGO_PROFILE_DEV_DEBUG", "0");
        if toolchain.is_some() {
            for ours in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTDOC"] {
                command.env_remove(ours);
            }
        }
        if release {
            command.arg("--release");
        }
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
        let profile = if release { "release" } else { "debug" };
        target.join(profile).join(format!("lib{}.so", name.replace('-', "_")))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the packages stay: {}", self.0.display());
        } else {
            // What cannot be removed now lies in the temporary directory like anything else there.
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

const THEIR_APPLICATION: &str = "elsewhere-app";
const THEIR_CLASS: &str = "elsewhere-class";

/// Both packages: the application above, and the fixture's class under another name and with nothing of its workspace.
fn workshop(name: &str) -> Workshop {
    let (workshop, root) = (Workshop::new(name), checkout());
    workshop.write(THEIR_APPLICATION, APPLICATION, "");
    let class =
        fs::read_to_string(root.join("tests/fixtures/minimal_class/src/lib.rs")).expect("the fixture");
    let dependencies = format!(
        "rgunicorn-http1 = {{ path = \"{}/plugins/http1\" }}\nrustix = {{ version = \"1.1\", features = [\"event\", \"net\"] }}",
        root.display()
    );
    workshop.write(THEIR_CLASS, &class, &dependencies);
    workshop
}

/// A good server with these two plugins, and a reload of it.
fn serves(site: &Site, class: Option<&Path>, application: &Path) {
    site.install(application, "elsewhere.so");
    let mut launch = site.launch().workers(2).with(|file| {
        file.text("application", "elsewhere.so:app").list("bind", &["127.0.0.1:0", "unix:server.sock"]);
    });
    if let Some(class) = class {
        site.install(class, "class.so");
        launch = launch.with(|file| _ = file.text("worker_class", "./class.so"));
    }
    let server = launch.start();
    for round in 0..2 {
        for address in server.addresses() {
            for pace in [Pace::Whole, Pace::Pieces(1)] {
                let heard =
                    address.converse(b"GET /x%20y HTTP/1.1\r\nHost: a\r\n\r\n", pace).expect("an answer");
                let answer = heard.response("GET").expect("a whole answer");
                assert_eq!((answer.status, answer.text().as_str()), (200, "elsewhere: /x%20y\n"));
                assert_eq!(answer.field("x-greeting"), class.map(|_| "hello"), "{:?}", answer.fields);
            }
        }
        if round == 0 {
            server.reload_well();
        }
    }
    server.finish();
}

#[test]
fn an_application_and_a_class_of_somebody_else() {
    let workshop = workshop("ours");
    let application = workshop.build(THEIR_APPLICATION, None, false);
    let class = workshop.build(THEIR_CLASS, None, false);
    // Profiles may be mixed.
    let optimised = workshop.build(THEIR_APPLICATION, None, true);
    let site = Site::new("elsewhere");
    for application in [application, optimised] {
        serves(&site, None, &application);
        serves(&site, Some(&class), &application);
    }
}

#[test]
fn plugins_of_another_compiler() {
    let listed = Command::new("rustup").args(["toolchain", "list"]).output();
    let listed =
        listed.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned());
    let Some(nightly) = listed.split_ascii_whitespace().find(|word| word.starts_with("nightly")) else {
        eprintln!("skipped: plugins_of_another_compiler, because rustup has no nightly toolchain");
        return;
    };
    let workshop = workshop("nightly");
    let application = workshop.build(THEIR_APPLICATION, Some(nightly), false);
    let class = workshop.build(THEIR_CLASS, Some(nightly), false);
    let site = Site::new("nightly");
    serves(&site, None, &application);
    serves(&site, Some(&class), &application);
    site.install(programs().hello(), "hello.so");
    let server = with_class(&site, "./class.so", "hello.so:app", &["greeting=ours"]);
    assert_eq!(
        (server.text("/"), server.get("/").field("x-greeting")),
        ("Hello, World!\n".to_owned(), Some("ours"))
    );
    server.finish();
}

// The class of the fixtures.

fn minimal<'s>(site: &'s Site, application: &str, options: &[&str]) -> Server<'s> {
    with_class(site, "./minimal.so", application, options)
}

fn with_class<'s>(site: &'s Site, class: &str, application: &str, options: &[&str]) -> Server<'s> {
    let mut words = vec!["-k".to_owned(), class.to_owned()];
    for option in options {
        words.extend(["--worker-option".to_owned(), (*option).to_owned()]);
    }
    site.launch().with(|file| _ = file.text("application", application)).args(&words).start()
}

#[test]
fn options_of_a_class() {
    let site = Site::new("options");
    site.install(programs().fixture("minimal_class"), "minimal.so");
    site.install(programs().inspect(1), "app.so");
    for (options, greeting) in [
        (&[][..], Some("hello")),
        (&["greeting=good morning"][..], Some("good morning")),
        (&["greeting=a=b", "pause=0.01"][..], Some("a=b")),
        (&["greeting="][..], None),
    ] {
        let server = minimal(&site, "app.so:app", options);
        let answer = server.get("/version");
        assert_eq!(
            (answer.text().as_str(), answer.field("x-greeting")),
            ("INSPECT-VERSION:1", greeting),
            "{options:?}"
        );
        server.finish();
    }
    for (options, words) in [
        (&["greting=x"][..], &["greting", "minimal", "greeting"][..]),
        (&["pause=soon"][..], &["pause", "soon"][..]),
        (&["pause=-1"][..], &["pause", "-1"][..]),
        (&["greeting"][..], &["NAME=VALUE", "greeting"][..]),
    ] {
        let mut arguments = vec!["-k", "./minimal.so"];
        for option in options {
            arguments.extend(["--worker-option", option]);
        }
        let ended = site.launch().args(&arguments).start_in_vain();
        assert!(
            matches!(ended.status.code(), Some(1..=3)),
            "{options:?}: {:?}: {}",
            ended.status,
            ended.stderr
        );
        for word in words {
            assert!(ended.stderr.contains(word), "{word}: {}", ended.stderr);
        }
        assert_eq!(ended.processes, []);
    }
    // A class without options has none to take.
    let ended = site.launch().args(&["--worker-option", "greeting=x"]).start_in_vain();
    assert!(
        !ended.status.success() && ended.stderr.contains("greeting"),
        "{:?}: {}",
        ended.status,
        ended.stderr
    );
}

#[test]
fn options_of_a_class_at_a_reload() {
    let site = Site::new("options_hup");
    site.install(programs().fixture("minimal_class"), "minimal.so");
    site.install(programs().inspect(1), "app.so");
    let launch = site.launch().with(|file| {
        file.text("worker_class", "./minimal.so").raw("worker_options", "{ greeting = \"one\" }");
    });
    let mut server = launch.start();
    assert_eq!(server.get("/version").field("x-greeting"), Some("one"));
    server.configure(|file| _ = file.raw("worker_options", "{ greeting = \"two\" }"));
    server.reload_well();
    assert_eq!(server.get("/version").field("x-greeting"), Some("two"));
    for wrong in ["{ greting = \"three\" }", "{ pause = \"soon\" }"] {
        server.configure(|file| _ = file.raw("worker_options", wrong));
        let verdict = server.reload();
        assert!(!verdict.starts_with("Reloaded"), "{verdict}");
        assert_eq!(server.get("/version").field("x-greeting"), Some("two"));
    }
    server.configure(|file| _ = file.remove("worker_options").remove("worker_class"));
    server.reload_well();
    assert_eq!(server.get("/version").field("x-greeting"), None);
    server.expect_error("Reload refused");
    server.finish();
}

#[test]
fn the_small_class_serves_every_kind_of_application() {
    let site = Site::new("kinds");
    site.install(programs().fixture("minimal_class"), "minimal.so");
    site.install(programs().fixture("two_names"), "names.so");
    site.install(programs().fixture("exchange"), "fx.so");
    for name in ["first", "second", "third"] {
        let server = minimal(&site, &format!("names.so:{name}"), &[]);
        assert_eq!(server.text("/"), name);
        server.finish();
    }
    for name in ["app", "blocking"] {
        let server = minimal(&site, &format!("fx.so:{name}"), &[]);
        assert_eq!(server.text("/early"), "early");
        if name == "app" {
            assert_eq!(server.text("/pending"), "woken");
        }
        server.finish();
    }
}

// A library that needs a library.

#[test]
fn a_library_beside_a_library() {
    let site = Site::new("neighbour");
    site.install(programs().fixture("neighbour"), "app.so");
    let helper = "libfx_neighbour_helper.so";
    let built = programs().fixture("neighbour").with_file_name("lib").join(helper);
    let lib = site.directory("lib");
    site.mine(&format!("lib/{helper}"));
    fs::copy(&built, lib.join(helper)).expect("the helper");
    let mut server = site.launch().workers(2).start();
    for _ in 0..10 {
        assert_eq!(server.text("/"), "42");
    }

    // cp(1) over the live file, no HUP: a worker that is started afterwards is of the same generation.
    fs::write(lib.join(helper), helper_with(&site, 43)).expect("the file to write over");
    let before = server.workers();
    process::send(before[0], Signal::SIGKILL);
    wait_for("a new worker", || {
        let now = server.workers();
        now.len() == 2 && !now.contains(&before[0])
    });
    // The old one is away for good: the new one must answer.
    process::send(before[1], Signal::SIGSTOP);
    for _ in 0..10 {
        assert_eq!(server.text("/"), "42");
    }
    process::send(before[1], Signal::SIGCONT);
    for _ in 0..10 {
        assert_eq!(server.text("/"), "42");
    }

    server.reload_well();
    for _ in 0..10 {
        assert_eq!(server.text("/"), "43");
    }

    // Without the helper there is no new generation, and no loss.
    fs::remove_file(lib.join(helper)).expect("it is there");
    let verdict = server.reload();
    assert!(!verdict.starts_with("Reloaded") && verdict.contains(helper), "{verdict}");
    assert_eq!(server.text("/"), "43");
    server.expect_error("SIGKILL");
    server.expect_error(helper);
    server.finish();
}

/// The helper that says another number, built as the fixture builds it.
fn helper_with(site: &Site, number: u32) -> Vec<u8> {
    let out = site.join("helper-build");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command
        .args(["--edition=2024", "--crate-type=cdylib", "--crate-name=fx_neighbour_helper", "-Copt-level=1"])
        .arg("-Clink-arg=-Wl,-soname,libfx_neighbour_helper.so")
        .arg("-o")
        .arg(&out)
        .arg(checkout().join("tests/fixtures/neighbour/helper/lib.rs"))
        .env("FX_NEIGHBOUR_NUMBER", number.to_string());
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    site.mine("helper-build");
    fs::read(out).expect("what was built")
}
