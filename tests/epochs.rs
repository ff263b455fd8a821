//! Past, now and next: hosts, worker classes and applications of three minor versions of the interface, each with each.
//!
//! A plugin that was built for an older minor version, or for a newer one, is loaded and serves; what one side lacks is
//! absent. Two versions of which neither continues the other are refused. What a newcomer would get wrong: *now* is the
//! program of this checkout; the others are derived from its sources and built in the target folder (see
//! `epochs/derive.rs`), which takes a minute or two the first time.

#[path = "epochs/derive.rs"]
mod derive;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use derive::Epoch;
use harness::{Connection, Site, programs};
use nix::fcntl::{Flock, FlockArg};

/// What was built of one epoch.
struct Built {
    epoch: Epoch,
    host: PathBuf,
    class: PathBuf,
    app: PathBuf,
}

/// The four epochs, built once.
fn built() -> &'static [Built; 4] {
    static BUILT: OnceLock<[Built; 4]> = OnceLock::new();
    BUILT.get_or_init(|| {
        let test = std::env::current_exe().expect("a test has a file");
        // target/PROFILE/deps/epochs-0123456789abcdef
        let target = test.ancestors().nth(3).expect("cargo's layout").join("rgunicorn-tests").join("epochs");
        fs::create_dir_all(&target).expect("a directory below target");
        let lock = File::create(target.join("lock")).expect("a lock file");
        let _locked = Flock::lock(lock, FlockArg::LockExclusive).expect("the lock");
        [
            build(&target, Epoch::Past),
            Built {
                epoch: Epoch::Now,
                host: programs().rgunicorn(),
                class: programs().sync(),
                app: programs().fixture("epoch"),
            },
            build(&target, Epoch::Next),
            build(&target, Epoch::Other),
        ]
    })
}

fn build(target: &Path, epoch: Epoch) -> Built {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let workspace = target.join(epoch.name());
    derive::write_workspace(root, epoch, &workspace);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let mut command = Command::new(cargo);
    command.args(["build", "--offline", "--quiet", "-p", "rgunicorn-sync", "-p", "rgunicorn-fixture-epoch"]);
    // Who has another history is never a host here.
    if epoch != Epoch::Other {
        command.args(["-p", "rgunicorn"]);
    }
    let feature = if epoch == Epoch::Past { "past" } else { "next" };
    command.args(["--features", &format!("rgunicorn-fixture-epoch/{feature}")]);
    // One folder for all: what comes from elsewhere is built once.
    command.current_dir(&workspace).env("CARGO_TARGET_DIR", target.join("target")).stdin(Stdio::null());
    // The edits are no model of style.
    command.env("RUSTFLAGS", "--cap-lints=warn");
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    // The next build writes over what cargo leaves there.
    let keep = |name: &str| {
        let kept = workspace.join("built").join(name);
        fs::create_dir_all(workspace.join("built")).expect("a directory below target");
        let temporary = kept.with_extension("new");
        fs::copy(target.join("target/debug").join(name), &temporary).expect("what was built");
        fs::rename(&temporary, &kept).expect("its name");
        kept
    };
    Built {
        epoch,
        host: if epoch == Epoch::Other { PathBuf::new() } else { keep("rgunicorn") },
        class: keep("libsync.so"),
        app: keep("libfx_epoch.so"),
    }
}

/// What a function says that both sides must have.
fn where_both(both: bool, said: &'static str) -> &'static str {
    if both { said } else { "absent" }
}

/// Serves with these three, and compares what is there with what should be.
fn serve(host: &Built, class: &Built, app: &Built) {
    let cell = format!("{} under {} in {}", app.epoch.name(), class.epoch.name(), host.epoch.name());
    eprintln!("{cell}");
    let site = Site::new("epochs");
    site.install(&app.app, "app.so");
    site.install(&class.class, "class.so");
    site.mine("trace");
    let launch = site.launch().program(&host.host).with(|settings| {
        settings.text("worker_class", "./class.so").raw("graceful_timeout", "5");
        settings.list("raw_env", &[format!("FX_TRACE={}", site.join("trace").display())]);
    });
    let server = launch.start();
    assert_eq!(server.text("/"), "hello", "{cell}");
    let rest = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n";
    let mut connection = Connection::open(server.address()).expect("it listens");
    connection.send(rest).expect("it reads");
    let answer = connection.read_response().expect("an answer").text();
    assert_eq!(answer, "3 octets, sum 294, 1 trailers", "{cell}");

    let (host, class, app) = (host.epoch, class.epoch, app.epoch);
    let seven = |other: Epoch| if app == Epoch::Next { where_both(other == Epoch::Next, "7") } else { "-" };
    let facts = format!(
        "stuck {}, host {}, expired {}, request {}, response {}",
        where_both(host > Epoch::Past && app > Epoch::Past, "there"),
        seven(host),
        if app == Epoch::Past { "-" } else { "false" },
        seven(class),
        seven(class),
    );
    assert_eq!(server.text("/facts"), facts, "{cell}");
    // A number that nobody else knows is the plainest fault; where the class does not know it either, all is well.
    let fault = if class == Epoch::Next { "System" } else { "none" };
    assert_eq!(server.text("/unknown-fault"), fault, "{cell}");

    let mut connection = Connection::open(server.address()).expect("it listens");
    connection
        .send(b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: epoch\r\n\r\n")
        .expect("it reads");
    if app > Epoch::Past && class > Epoch::Past {
        let head = connection.read_head().expect("a head");
        let said = format!("descriptor there, stream {}\n", seven(class));
        assert_eq!(
            (head.status, connection.octets(said.len()).expect("octets")),
            (101, said.into_bytes()),
            "{cell}"
        );
        connection.read_end().expect("an end");
    } else {
        assert_eq!(connection.read_response().expect("an answer").text(), "Unsupported", "{cell}");
    }

    let number = |epoch: Epoch| if epoch == Epoch::Next { "Some(7)" } else { "None" };
    let asked = server.messages("epoch: ");
    let mut expected = Vec::new();
    if host == Epoch::Next {
        for plugin in [class, app] {
            expected.push(format!("epoch: the host asks, module {}", number(plugin)));
        }
    }
    if class == Epoch::Next {
        expected.push(format!("epoch: the class asks, host {}, application {}", number(host), number(app)));
    }
    assert_eq!(asked, expected, "{cell}");
    server.finish();
    let drained = if host > Epoch::Past && app > Epoch::Past { "drain\n" } else { "" };
    assert_eq!(site.read("trace"), drained, "{cell}");
}

#[test]
fn each_host_serves_with_each_class_and_each_application() {
    let [epochs @ .., _] = built();
    for host in epochs {
        for class in epochs {
            for app in epochs {
                serve(host, class, app);
            }
        }
    }
}

#[test]
fn histories_that_diverged_are_refused() {
    let [past, now, next, other] = built();
    let refused = |host: &Built, class: &Built, app: &Built, words: &str| {
        let site = Site::new("diverged");
        site.install(&app.app, "app.so");
        site.install(&class.class, "class.so");
        // What stands behind the sentence takes kilobytes, and is for who asks.
        for (level, details) in [("info", false), ("debug", true)] {
            let launch = site.launch().program(&host.host).with(|settings| {
                settings.text("worker_class", "./class.so").text("loglevel", level);
            });
            let ended = launch.start_in_vain();
            let sentence = ended.stderr.lines().last().unwrap_or_default();
            assert!(sentence.starts_with("rgunicorn: ") && sentence.contains(words), "{}", ended.stderr);
            let all = format!("{}{}", ended.stderr, site.read("error.log"));
            assert_eq!(all.contains("fn()->u32"), details, "{level}: {all}");
        }
    };
    let why = |what: &str| format!("{what}.so: its interface is neither an older nor a newer form");
    refused(next, next, other, &why("app"));
    refused(next, other, next, &why("class"));
    // An older host knows neither: each continues its history, but the two would call each other.
    refused(now, next, other, &why("app"));
    refused(past, other, next, &why("app"));
}
