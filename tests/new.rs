//! A new author's first hour: `rgunicorn new`, and then nothing but what it prints.
//!
//! What a newcomer would get wrong: the commands are taken from the output. A hint that does not work as it stands fails
//! here. The only thing that is said beside them is where to listen and to log, by a variable, because tests share ports.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use harness::{Address, Signal, Site, process, programs, wait_for};

/// What `new` printed: blocks of commands, each for a terminal of its own.
struct Hints {
    blocks: Vec<Vec<String>>,
}

/// A terminal: where it is, and what is the same for all commands.
struct Terminal {
    directory: PathBuf,
}

impl Terminal {
    fn open(site: &Site) -> Self {
        Self { directory: site.path().to_owned() }
    }

    /// A command with what an author's shell has: cargo, and one place for what is built.
    fn shell(&self, line: &str) -> Command {
        let target = programs().rgunicorn().ancestors().nth(2).expect("cargo's layout").to_owned();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
        let tools = Path::new(&cargo).parent().expect("cargo lies in a directory").to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(tools).chain(std::env::split_paths(&path)));
        let mut command = Command::new("sh");
        for name in [
            "PORT",
            "WEB_CONCURRENCY",
            "RGUNICORN_PLUGIN_PATH",
            "RGUNICORN",
            "RGUNICORN_SOURCE",
            "INSPECT_INIT",
        ] {
            command.env_remove(name);
        }
        command
            .args(["-c", line])
            .current_dir(&self.directory)
            .env("PWD", &self.directory)
            .env("PATH", path.expect("no colon in a path"))
            .env("CARGO_TARGET_DIR", target)
            // As this workspace has what comes from elsewhere, so that it is not built again.
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            // All that it needs is there, because this workspace needs it too.
            .env("CARGO_NET_OFFLINE", "true")
            .env("RGUNICORN_CMD_ARGS", format!("--bind 127.0.0.1:0 --error-logfile {}", self.log().display()))
            .stdin(Stdio::null());
        command
    }

    fn log(&self) -> PathBuf {
        self.directory.join("error.log")
    }

    /// Runs a line that must succeed; returns what it wrote to standard output.
    #[track_caller]
    fn run(&mut self, line: &str) -> String {
        eprintln!("$ {line}");
        if let Some(directory) = line.strip_prefix("cd ") {
            self.directory.push(directory);
            return String::new();
        }
        let Output { status, stdout, stderr } = self.shell(line).output().expect("a shell");
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{line}: {status}\n{stdout}\n{stderr}");
        stdout.into_owned()
    }

    /// Starts a line that serves, and waits until it does.
    fn serve(&self, line: &str) -> Server {
        eprintln!("$ {line}");
        let errors = fs::File::create(self.directory.join("stderr")).expect("a file");
        let child =
            self.shell(&format!("exec {line}")).process_group(0).stderr(errors).spawn().expect("a shell");
        let mut server = Server { child, log: self.log(), address: Address::Unix(PathBuf::new()) };
        wait_for("the server to listen", || {
            let log = fs::read_to_string(&server.log).unwrap_or_default();
            let ended = server.child.try_wait().expect("it is our child");
            assert!(
                ended.is_none(),
                "{log}{}",
                fs::read_to_string(self.directory.join("stderr")).unwrap_or_default()
            );
            let line =
                log.lines().find_map(|line| line.split_once("Listening at: http://")).map(|(_, rest)| rest);
            let address = line.and_then(|rest| rest.split(' ').next()?.parse().ok()).map(Address::Tcp);
            let ready = log.contains("Using worker: ");
            if let Some(address) = address.filter(|_| ready) {
                server.address = address;
                return true;
            }
            false
        });
        server
    }
}

/// A server that a hint has started. It does not outlive its test.
struct Server {
    child: Child,
    log: PathBuf,
    address: Address,
}

impl Server {
    fn text(&self, target: &str) -> String {
        self.address
            .get(target)
            .map(|answer| answer.text())
            .unwrap_or_else(|failure| panic!("{target}: {failure}"))
    }

    fn finish(mut self) {
        process::send(self.child.id() as i32, Signal::SIGTERM);
        let mut status = None;
        wait_for("the server's end", || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        assert_eq!(status.and_then(|status| status.code()), Some(0));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server's log:\n{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
        // It leads its group; a server whose master is killed ends by itself.
        process::send(self.child.id() as i32, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Makes a project; what is printed becomes the hints.
fn new(terminal: &mut Terminal, words: &str) -> Hints {
    let told = terminal.run(&format!("{} new {words}", programs().rgunicorn().display()));
    eprintln!("{told}");
    assert!(
        told.contains("the interface is taken from /") || told.contains("rgunicorn.h is in it"),
        "{told}"
    );
    let mut blocks: Vec<Vec<String>> = Vec::new();
    let mut within = false;
    for line in told.lines() {
        match line.strip_prefix("  ") {
            Some(command) if within => blocks.last_mut().expect("a block").push(command.to_owned()),
            Some(command) => blocks.push(vec![command.to_owned()]),
            None => {}
        }
        within = line.starts_with("  ");
    }
    Hints { blocks }
}

/// Takes what was built out of the directory that all tests share.
fn clean(terminal: &Terminal, package: &str) {
    // What stays is in nobody's way.
    let _ = terminal.shell(&format!("cargo clean --package {package}")).output();
}

#[test]
fn an_application_is_made_built_served_changed_and_reloaded() {
    let site = Site::new("new_app");
    let (mut first, mut second) = (Terminal::open(&site), Terminal::open(&site));
    let hints = new(&mut first, "app fresh-app");
    let [build, change] = hints.blocks.as_slice() else { panic!("{:?}", hints.blocks) };
    let (serve, before) = build.split_last().expect("commands");
    assert!(before.contains(&"cargo test".to_owned()), "{before:?}");
    for line in before {
        first.run(line);
    }
    let server = first.serve(serve);
    assert_eq!(server.text("/world"), "Hello from /world\n");

    let source = site.join("fresh-app/src/lib.rs");
    let text = fs::read_to_string(&source).expect("the source");
    fs::write(&source, text.replace("Hello from", "Good morning from")).expect("it is ours");
    for line in change {
        second.run(line);
    }
    wait_for("the new answer", || server.text("/world") == "Good morning from /world\n");
    clean(&first, "fresh-app");
    server.finish();
}

#[test]
fn an_application_in_c_is_made_built_served_changed_and_reloaded() {
    for tool in ["cc", "make"] {
        if Command::new(tool).arg("--version").output().is_err() {
            eprintln!("skipped an_application_in_c_is_made_built_served_changed_and_reloaded: no {tool}");
            return;
        }
    }
    let site = Site::new("new_c_app");
    let (mut first, mut second) = (Terminal::open(&site), Terminal::open(&site));
    let hints = new(&mut first, "app fresh-c --c");
    let [build, change] = hints.blocks.as_slice() else { panic!("{:?}", hints.blocks) };
    let (serve, before) = build.split_last().expect("commands");
    for line in before {
        first.run(line);
    }
    let server = first.serve(serve);
    assert_eq!(server.text("/"), "Hello from C\n");
    let source = site.join("fresh-c/fresh_c.c");
    let text = fs::read_to_string(&source).expect("the source");
    fs::write(&source, text.replace("Hello from", "Good morning from")).expect("it is ours");
    for line in change {
        second.run(line);
    }
    wait_for("the new answer", || server.text("/") == "Good morning from C\n");
    server.finish();
}

#[test]
fn a_worker_class_is_made_built_certified_and_serves() {
    let site = Site::new("new_worker");
    let mut terminal = Terminal::open(&site);
    let hints = new(&mut terminal, "worker fresh-class");
    let [build, serve] = hints.blocks.as_slice() else { panic!("{:?}", hints.blocks) };
    let mut card = String::new();
    for line in build {
        card = terminal.run(line);
    }
    assert!(card.contains(" 0 failed, "), "{card}");
    let [serve] = serve.as_slice() else { panic!("{serve:?}") };
    let server = terminal.serve(serve);
    assert_eq!(server.text("/"), "reference");
    clean(&terminal, "fresh-class");
    server.finish();
}

#[test]
fn what_cannot_be_made_is_refused_in_one_sentence() {
    let site = Site::new("new_refused");
    site.directory("there");
    let terminal = Terminal::open(&site);
    let program = programs().rgunicorn().display().to_string();
    for (words, code, part) in [
        ("app there", 1, "there is there already"),
        ("app Shop", 1, "a name begins with a small letter"),
        ("app ../shop", 1, "a name begins with a small letter"),
        ("worker fn", 1, "Rust needs that word for itself"),
        ("app shop --source .", 1, "it has no worker-api/Cargo.toml"),
        ("app Static --c", 1, "a name begins with a small letter"),
        ("app", 2, "NAME"),
        ("plugin shop", 2, "plugin"),
        ("", 2, "rgunicorn new --help"),
    ] {
        let output = terminal.shell(&format!("{program} new {words}")).output().expect("a shell");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(code), 1), "{words}: {stderr}");
        assert!(stderr.contains(part), "{words}: {stderr}");
    }
    assert_eq!(site.leftovers(), Vec::<PathBuf>::new(), "something was made");
    // What Rust needs is nothing to C.
    let made = terminal.shell(&format!("{program} new app static --c")).output().expect("a shell");
    assert!(made.status.success() && site.join("static/static.c").is_file(), "{made:?}");
    std::fs::remove_dir_all(site.join("static")).expect("it is ours");
}
