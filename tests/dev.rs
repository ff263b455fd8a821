//! `rgunicorn dev`: a source changes, it is built, and what was built is served, without a request that is lost.
//!
//! The build here is a shell script that copies what cargo has made before: what is tested is when it runs and what
//! becomes of its end. What a newcomer would get wrong: the first process is not the master; the server is its child.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};

use harness::{Address, Load, Plan, Signal, Site, process, programs, wait_for};

/// Fails as a compiler does, or puts the library there that the source asks for.
const BUILD: &str = "case $(cat src/app.rs) in\n\
    1) cp one.so new.so ;;\n\
    2) cp two.so new.so ;;\n\
    slow) sleep 1000 ;;\n\
    bad) echo 'this is no library' > new.so ;;\n\
    *) echo 'error[E0425]: cannot find value' >&2; exit 101 ;;\n\
    esac\n\
    mv new.so app.so\n";

/// A developer's directory with `rgunicorn dev` at work in it.
struct Dev<'s> {
    site: &'s Site,
    process: Child,
}

impl<'s> Dev<'s> {
    fn prepare(site: &Site, source: &str) {
        site.write("one.so", fs::read(programs().inspect(1)).expect("it is built"));
        site.write("two.so", fs::read(programs().inspect(2)).expect("it is built"));
        site.write("build.sh", BUILD);
        site.directory("src");
        save(site, source);
    }

    fn start(site: &'s Site, words: &[&str]) -> Self {
        let file = |name: &str| File::create(site.join(name)).expect("a file in our directory");
        let process = Command::new(programs().rgunicorn())
            .args(["dev", "--build", "sh build.sh", "--watch", "src"])
            .args(["--bind", "unix:server.sock", "--error-logfile", "error.log", "app.so"])
            .args(words)
            .env_remove("RGUNICORN_CMD_ARGS")
            .env("PWD", site.path())
            .current_dir(site.path())
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .process_group(0)
            .spawn()
            .expect("the program");
        Self { site, process }
    }

    /// What it has said, and what the builds have.
    fn said(&self, text: &str) -> usize {
        self.site.read("stderr").matches(text).count()
    }

    #[track_caller]
    fn wait_said(&self, text: &str) {
        wait_for(&format!("{text:?} from dev"), || self.said(text) > 0);
    }

    fn save(&self, source: &str) {
        save(self.site, source);
    }

    fn address(&self) -> Address {
        Address::Unix(self.site.join("server.sock"))
    }

    fn serves(&self) -> Option<String> {
        self.address().get("/version").ok().map(|response| response.text())
    }

    /// A worker that was just told to leave may answer once more, so that one look at it would say little.
    #[track_caller]
    fn wait_served(&self, version: &str) {
        wait_for(version, || self.serves().as_deref() == Some(version));
    }

    fn log(&self) -> String {
        self.site.read("error.log")
    }

    fn id(&self) -> i32 {
        self.process.id() as i32
    }

    /// Ends it; nothing may be left.
    fn stop(mut self, signal: Signal) -> Option<i32> {
        let all = descendants(self.id());
        process::send(self.id(), signal);
        let code = self.process.wait().expect("it is our child").code();
        for pid in all {
            wait_for("the end of its processes", || !process::runs(pid));
        }
        assert_eq!(self.said("fatal runtime error"), 0, "{}", self.site.read("stderr"));
        code
    }
}

impl Drop for Dev<'_> {
    fn drop(&mut self) {
        // Only if the test has failed: its children die with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// As an editor does: another file takes the place of the one that was there.
fn save(site: &Site, source: &str) {
    fs::write(site.join("src/.app.rs.new"), source).expect("a file");
    fs::rename(site.join("src/.app.rs.new"), site.join("src/app.rs")).expect("its name");
}

/// The processes that it has begun, and those that they have.
fn descendants(pid: i32) -> Vec<i32> {
    let children = process::children(pid).into_iter().map(|child| child.pid);
    children.flat_map(|child| std::iter::once(child).chain(descendants(child))).collect()
}

fn version(number: u32) -> String {
    format!("INSPECT-VERSION:{number}")
}

#[test]
fn what_is_saved_is_built_and_served_and_nobody_is_lost() {
    let site = Site::new("saved");
    Dev::prepare(&site, "1");
    let dev = Dev::start(&site, &["--workers", "2"]);
    dev.wait_served(&version(1));
    let load = Load::start(&dev.address(), Plan::versions(2));
    dev.save("2");
    dev.wait_served(&version(2));
    // One that does not compile: the compiler's words, and the old one serves on.
    dev.save("oops");
    dev.wait_said("error[E0425]: cannot find value");
    dev.wait_said("the build exited with code 101; what was built before serves on");
    dev.wait_served(&version(2));
    // One that compiles and cannot be loaded: the server refuses it by itself.
    dev.save("bad");
    wait_for("a refusal", || dev.log().contains("Reload refused, generation 2 serves on"));
    dev.wait_served(&version(2));
    // Written over, as other editors do.
    fs::write(site.join("src/app.rs"), "1").expect("it is there");
    dev.wait_served(&version(1));
    load.stop().expect_flawless();
    assert!(dev.said("src/app.rs has changed") >= 4);
    assert_eq!(dev.stop(Signal::SIGTERM), Some(0));
    assert_eq!(site.read("error.log").matches("Shutting down: Master").count(), 1);
}

#[test]
fn a_first_build_that_fails_is_built_again_and_then_served() {
    let site = Site::new("first_build");
    Dev::prepare(&site, "oops");
    let dev = Dev::start(&site, &[]);
    dev.wait_said("the build exited with code 101; nothing is served yet");
    // The server cannot start with this one, and is started again with the next.
    dev.save("bad");
    dev.wait_said("the server exited with code 4; it is started again after the next build");
    dev.save("1");
    dev.wait_served(&version(1));
    assert_eq!(dev.stop(Signal::SIGINT), Some(0));
}

#[test]
fn a_build_that_runs_is_ended_with_all_that_it_has_begun() {
    let site = Site::new("slow_build");
    Dev::prepare(&site, "1");
    let dev = Dev::start(&site, &[]);
    dev.wait_served(&version(1));
    dev.save("slow");
    let id = dev.id();
    let is_sleep =
        |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
    let sleeping = || descendants(id).into_iter().find(is_sleep);
    wait_for("the build to be slow", || sleeping().is_some());
    let sleeping = sleeping().expect("it sleeps");
    assert_eq!(dev.serves(), Some(version(1)));
    assert_eq!(dev.stop(Signal::SIGHUP), Some(0));
    wait_for("the end of what the build began", || !process::runs(sleeping));
}

#[test]
fn when_it_is_killed_its_server_dies_with_it() {
    let site = Site::new("killed");
    Dev::prepare(&site, "1");
    let mut dev = Dev::start(&site, &[]);
    dev.wait_served(&version(1));
    let all = descendants(dev.id());
    assert!(all.len() >= 2, "a master and a worker: {all:?}");
    dev.process.kill().expect("it runs");
    assert_eq!(dev.process.wait().expect("it is our child").signal(), Some(9));
    for pid in all {
        wait_for("the end of its processes", || !process::runs(pid));
    }
}

#[test]
fn words_that_no_build_can_mend_end_it() {
    let site = Site::new("usage");
    Dev::prepare(&site, "1");
    for (words, code, why) in [
        (&["--wrokers", "2"][..], 2, "did you mean '--workers'?"),
        (&["--user", "no-such-user"], 1, "there is no such user"),
    ] {
        let mut dev = Dev::start(&site, words);
        assert_eq!(
            dev.process.wait().expect("it is our child").code(),
            Some(code),
            "{}",
            site.read("stderr")
        );
        assert!(site.read("stderr").contains(why), "{}", site.read("stderr"));
    }
    let ended = |words: &[&str]| {
        let output =
            Command::new(programs().rgunicorn()).arg("dev").args(words).output().expect("the program");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), format!("{out}{err}"))
    };
    let (code, text) = ended(&["app.so", "--help"]);
    assert!(code == Some(0) && text.contains("Usage: rgunicorn dev"), "{text}");
    let (code, text) = ended(&["--build"]);
    assert!(code == Some(2) && text.contains("--build has no value"), "{text}");
    let (code, text) = ended(&["--watch", "/no/such/directory", "app.so"]);
    assert!(code == Some(1) && text.contains("cannot watch /no/such/directory: No such file"), "{text}");
}
