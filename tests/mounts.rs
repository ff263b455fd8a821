//! Several applications in one server: each is chosen by its prefix, and all are swapped by one transaction.
//!
//! That the longest prefix wins, on whole segments, is in `exchange.rs`. What a newcomer would get wrong: a worker is of
//! one generation, so that on one connection two applications can never answer from two deploys.

use std::fs;
use std::time::Duration;

use harness::classes::CLASSES;
use harness::{
    Class, Connection, Load, Plan, Server, Site, process, programs, under_each_class,
    under_each_that_keeps_alive, wait_for,
};

const PACE: Duration = Duration::from_millis(2);
const ONE: &str = "INSPECT-VERSION:1";
const TWO: &str = "INSPECT-VERSION:2";

fn install(site: &Site, version: u32, names: &[&str]) {
    for name in names {
        site.install(programs().inspect(version), name);
    }
}

/// `/a` and `/b`, and nothing at the root. What is about the host alone is tried under the first class.
fn launch<'s>(site: &'s Site, class: Class) -> Server<'s> {
    install(site, 1, &["a.so", "b.so"]);
    let launch = site.launch().class(class).workers(2).settings(&[("keepalive", "30")]);
    launch.with(|file| _ = file.remove("application").list("mount", &["/a=a.so", "/b=b.so"])).start()
}

fn load(server: &Server<'_>, target: &str) -> Load {
    let plan = Plan { target: target.to_owned(), ..Plan::versions(1) };
    Load::start(server.address(), plan.paced(PACE))
}

fn versions(server: &Server<'_>) -> [String; 2] {
    ["/a/version", "/b/version"].map(|target| server.text(target))
}

#[test]
fn all_are_swapped_by_one_transaction_and_nobody_is_lost() {
    under_each_class(|class| {
        let site = Site::new("swapped");
        let mut server = launch(&site, class);
        let loads = [load(&server, "/a/version"), load(&server, "/b/version")];
        install(&site, 2, &["a.so", "b.so"]);
        server.reload_well();
        loads.iter().for_each(|load| load.epoch(1));
        assert_eq!(versions(&server), [TWO, TWO]);
        // One of them alone.
        install(&site, 1, &["b.so"]);
        server.reload_well();
        wait_for("the second one's version", || versions(&server) == [TWO, ONE]);
        loads.iter().for_each(|load| load.more(10));
        for (load, after) in loads.into_iter().zip([&["2"][..], &["1", "2"]]) {
            let report = load.stop();
            assert_eq!(report.expect_flawless().labels(1), after);
        }
        // Others, at other places.
        server.configure(|file| _ = file.list("mount", &["/a=b.so", "/a/c=a.so"]));
        let first = load(&server, "/a/version");
        server.reload_well();
        first.stop().expect_flawless();
        assert_eq!(server.text("/a/version"), ONE);
        assert_eq!(server.text("/a/c/version"), TWO);
        for target in ["/", "/b/version", "/b", "/ab/version", "/%61/version"] {
            assert_eq!(server.get(target).status, 404, "{target}");
        }
        server.finish();
    });
}

#[test]
fn one_that_is_broken_refuses_the_reload_of_all() {
    let site = Site::new("one_broken");
    let mut server = launch(&site, CLASSES[0]);
    let loads = [load(&server, "/a/version"), load(&server, "/b/version")];
    install(&site, 2, &["a.so"]);
    for (count, broken) in [programs().fixture("no_note"), programs().bad_abi()].iter().enumerate() {
        site.install(broken, "b.so");
        let verdict = server.reload();
        assert!(verdict.starts_with("Reload refused, generation 1 serves on: "), "{verdict}");
        server.expect_error("Reload refused, generation 1");
        assert_eq!(server.verdicts().len(), count + 1);
        assert_eq!(versions(&server), [ONE, ONE]);
    }
    site.write("b.so", "this is no library");
    let verdict = server.reload();
    assert!(verdict.contains("b.so") && !verdict.contains("a.so"), "{verdict}");
    // Also whoever is born now is of the old generation, in all its parts.
    let old = server.workers();
    process::send(old[0], harness::Signal::SIGTERM);
    server.wait_gone(old[0]);
    wait_for("another worker", || server.workers().len() == 2);
    assert_eq!(versions(&server), [ONE, ONE]);
    install(&site, 2, &["b.so"]);
    server.reload_well();
    assert_eq!(versions(&server), [TWO, TWO]);
    loads.into_iter().for_each(|load| _ = load.stop().expect_flawless());
    server.finish();
}

#[test]
fn one_connection_never_sees_two_deploys() {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("one_deploy");
        let server = launch(&site, class);
        let pair = || {
            let mut connection = Connection::open(server.address()).expect("a connection");
            let answers = ["/a/version", "/b/version"].map(|target| {
                // One that was told to leave says so, and the second question has nobody to answer it.
                connection.send_get(target).ok()?;
                connection.read_response().ok().map(|response| response.text())
            });
            let [Some(first), second] = answers else { panic!("no answer: {answers:?}") };
            if let Some(second) = second {
                assert_eq!(first, second, "two deploys on one connection");
            }
            first
        };
        assert_eq!(pair(), ONE);
        for version in [2, 1, 2] {
            install(&site, version, &["a.so", "b.so"]);
            let before = server.verdicts().len();
            server.signal(harness::Signal::SIGHUP);
            let wanted = if version == 1 { ONE } else { TWO };
            wait_for("the new version", || pair() == wanted);
            assert!(server.wait_verdict(before).starts_with("Reloaded: "));
        }
        server.finish();
    });
}

#[test]
fn the_same_application_is_told_a_different_thing_at_each_place() {
    under_each_class(|class| {
        let site = Site::new("places");
        site.install(programs().files(), "files.so");
        site.install(programs().inspect(1), "app.so");
        for name in ["left", "right"] {
            fs::write(site.directory(name).join("index.html"), name).expect("a file");
            site.mine(&format!("{name}/index.html"));
        }
        let mount = |prefix: &str, root: &str| {
            format!(
                "[[mount]]\nprefix = '{prefix}'\napplication = 'files.so'\nsettings = {{ root = '{root}' }}\n"
            )
        };
        let tables = mount("/files/left", "left") + &mount("/files/right/", "right");
        let mut server = site.launch().class(class).with(|file| _ = file.append(&tables)).start();
        for (target, text) in
            [("/files/left/", "left"), ("/files/right/index.html", "right"), ("/version", ONE)]
        {
            assert_eq!(server.text(target), text, "{target}");
        }
        let redirect = server.get("/files/left?x");
        assert_eq!((redirect.status, redirect.field("location")), (301, Some("./left/?x")));
        for target in ["/files/left/../right/", "/files/left/%2e%2e/right/", "/files/left//index.html"] {
            assert_eq!(server.get(target).status, 404, "{target}");
        }
        // What belongs to none of them is the root's.
        assert!(server.text("/files/leftover").contains(r#""target":"/files/leftover""#));

        // A mistake at one place is everybody's.
        server.configure(|file| _ = file.append(&mount("/third", "nowhere")));
        let verdict = server.reload();
        assert!(verdict.contains("cannot serve the directory nowhere"), "{verdict}");
        server.expect_error("Reload refused");
        assert_eq!(server.text("/files/left/"), "left");
        fs::write(site.directory("nowhere").join("index.html"), "third").expect("a file");
        site.mine("nowhere/index.html");
        server.reload_well();
        assert_eq!(server.text("/third/"), "third");
        server.finish();

        // The command line names others; the tables of those that are not among them are not used.
        let words = ["--mount", "/files/right/=files.so", "--mount", "/more=app.so"];
        let server = site.launch().class(class).with(|file| _ = file.append(&tables)).args(&words).start();
        assert_eq!(server.text("/files/right/"), "right");
        assert_eq!(server.text("/more/version"), ONE);
        assert!(server.text("/files/left/").contains(r#""target":"/files/left/""#));
        server.finish();
    });
}

#[test]
fn a_prefix_that_a_proxy_tells_is_the_applications_to_use() {
    let site = Site::new("script_name");
    let server = launch(&site, CLASSES[0]);
    let request = b"GET /a/echo HTTP/1.1\r\nHost: a\r\nSCRIPT_NAME: /outer\r\nConnection: close\r\n\r\n";
    let heard = server.address().converse(request, harness::Pace::Whole);
    let text = heard.and_then(|heard| heard.response("GET")).expect("an answer").text();
    // It chooses no application and changes no target.
    assert!(text.contains("SCRIPT_NAME") && text.contains("/outer"), "{text}");
    assert!(text.contains(r#""target":"/a/echo""#), "{text}");
    server.finish();
}
