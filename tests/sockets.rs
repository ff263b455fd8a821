//! Listening sockets that are not plain: passed by others, without a file, another user's, not free yet.
//!
//! What a newcomer would get wrong: a socket that the test has made stays the test's. That a server has served on it and
//! gone must not be seen by a client that connects afterwards: it waits in the queue for whoever comes next.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use harness::{
    Address, Connection, Launch, Load, Plan, Server, Signal, Site, process, programs, wait_for, within,
};

fn site(name: &str) -> Site {
    let site = Site::new(name);
    site.install(programs().inspect(1), "app.so");
    site
}

fn bind<'s>(launch: Launch<'s>, addresses: &[&str]) -> Launch<'s> {
    launch.with(|settings| _ = settings.list("bind", addresses))
}

/// As a service manager starts it, the sockets at descriptor 3 and up.
fn activated<'s>(site: &'s Site, sockets: Vec<OwnedFd>, names: &str) -> Launch<'s> {
    let count = sockets.len();
    let script = format!("export LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names}; exec \"$@\"");
    site.launch().passing(sockets, &script)
}

fn tcp() -> (TcpListener, OwnedFd, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = Address::Tcp(listener.local_addr().expect("it is bound"));
    let passed = listener.try_clone().expect("a descriptor").into();
    (listener, passed, address)
}

/// Asks, and is left waiting: nobody accepts here now.
fn ask_in_vain(address: &Address) -> Connection {
    let mut connection = Connection::open(address).expect("it still listens");
    connection.send_get("/version").expect("the kernel takes it");
    connection
}

#[test]
fn a_descriptor_that_was_passed_is_served_reloaded_and_only_left() {
    let site = site("fd");
    let (_ours, passed, address) = tcp();
    let start = || {
        let sockets = vec![passed.try_clone().expect("a descriptor")];
        bind(site.launch().passing(sockets, "exec \"$@\""), &["fd://3", "127.0.0.1:0"]).workers(2).start()
    };
    let server = start();
    assert_eq!(server.addresses()[0], address, "it is shown by its address");
    let load = Load::start(&address, Plan::versions(2));
    server.reload_well();
    load.more(50);
    load.stop().expect_flawless();
    let own = server.addresses()[1].clone();
    server.finish();
    assert!(own.get("/version").is_err(), "its own address has gone with it");
    let mut waiting = ask_in_vain(&address);
    let server = start();
    assert_eq!(waiting.read_response().expect("an answer").text(), "INSPECT-VERSION:1");
    server.finish();
}

/// Newcomers never cease here: a worker that wanted to see that queue empty would not leave.
#[test]
fn a_server_that_stops_does_not_empty_a_queue_that_others_hold() {
    let site = site("fd_stop");
    let (_ours, passed, address) = tcp();
    let launch = bind(site.launch().passing(vec![passed], "exec \"$@\""), &["fd://3"]);
    let mut server = launch.settings(&[("head_timeout", "0.5"), ("graceful_timeout", "20")]).start();
    let clients: Vec<TcpStream> =
        (0..64).map(|_| TcpStream::connect(("127.0.0.1", address.port())).expect("it listens")).collect();
    let (status, time) = server.stop(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0));
    eprintln!("stopped within {time:.1?}, before 64 silent clients were waited for one after another");
    assert!(time < Duration::from_secs(5), "{time:?}");
    drop(clients);
    server.check_log();
}

#[test]
fn sockets_of_the_service_manager_replace_bind() {
    let site = site("activated");
    let (_tcp, passed_tcp, tcp_address) = tcp();
    let path = site.join("s");
    let unix = UnixListener::bind(&path).expect("a path");
    site.mine("s");
    let mode = fs::metadata(&path).expect("a file").mode();
    let sockets = vec![passed_tcp, unix.try_clone().expect("a descriptor").into()];
    // What is configured is the same path, which a server that obeyed would take for another program's.
    let server = bind(activated(&site, sockets, "web:local"), &["unix:s"]).args(&["--umask", "077"]).start();
    assert_eq!(server.addresses(), [tcp_address.clone(), Address::Unix(path.clone())]);
    for address in server.addresses() {
        assert_eq!(address.get("/version").expect("an answer").text(), "INSPECT-VERSION:1");
    }
    assert_eq!(fs::metadata(&path).expect("a file").mode(), mode, "the file is the socket unit's");
    server.reload_well();
    server.finish();
    assert!(
        UnixStream::connect(&path).is_ok() && TcpStream::connect(("127.0.0.1", tcp_address.port())).is_ok()
    );
}

#[test]
fn sockets_of_the_service_manager_can_be_chosen_by_name() {
    let site = site("named");
    let ((_one, first, _), (_other, second, address)) = (tcp(), tcp());
    let mut server = bind(activated(&site, vec![first, second], "admin:web"), &["fd://web"]).start();
    assert_eq!(server.addresses(), [address]);
    server.configure(|settings| _ = settings.list("bind", &["fd://nobody"]));
    let verdict = server.reload();
    assert!(verdict.ends_with("has passed no socket of this name, only admin, web"), "{verdict}");
    server.expect_error("no socket of this name");
    // The other one is still there for a configuration that asks for it.
    server.configure(|settings| _ = settings.list("bind", &["fd://web", "fd://admin"]));
    server.reload_well();
    server.finish();
}

#[test]
fn a_descriptor_that_was_not_passed_ends_the_start() {
    let site = site("no_fd");
    let ended = bind(site.launch(), &["fd://77"]).start_in_vain();
    assert_eq!(ended.status.code(), Some(1));
    let expected =
        "rgunicorn: cannot use fd://77: descriptor 77 was not passed to the program, or is no socket\n";
    assert_eq!(ended.stderr, expected);
    assert_eq!(site.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn an_abstract_name_is_served_kept_over_a_reload_and_given_up() {
    let site = site("abstract");
    let name = format!("unix:@rgt-{}", std::process::id());
    let server = bind(site.launch().workers(2), &[&name]).start();
    let address = server.address().clone();
    let load = Load::start(&address, Plan::versions(2));
    server.reload_well();
    load.more(50);
    load.stop().expect_flawless();
    server.finish();
    assert!(address.get("/version").is_err());
}

#[test]
fn a_unix_socket_belongs_to_the_workers_user() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can run workers as another user");
        return;
    }
    let site = site("owner");
    let server = bind(site.launch(), &["unix:s"]).args(&["--user", "nobody", "--umask", "0117"]).start();
    let file = fs::metadata(site.join("s")).expect("a socket");
    let nobody = nix::unistd::User::from_name("nobody").ok().flatten().expect("there is one");
    assert_eq!((file.uid(), file.gid()), (nobody.uid.as_raw(), nobody.gid.as_raw()));
    assert_eq!(file.mode() & 0o777, 0o660);
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    server.finish();
}

#[test]
fn the_file_of_a_killed_server_is_replaced() {
    let site = site("stale");
    let mut server: Server<'_> = bind(site.launch(), &["unix:s"]).start();
    server.kill_master();
    assert!(site.join("s").exists());
    wait_for("the end of all processes", || process::group(server.pid()).is_empty());
    let server = bind(site.launch(), &["unix:s"]).start();
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    server.finish();
}

#[test]
fn an_address_that_becomes_free_within_seconds_is_waited_for() {
    let site = site("busy");
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = holder.local_addr().expect("it is bound").to_string();
    let log = || site.read("stderr");
    let mut server = std::thread::scope(|scope| {
        let free = scope.spawn(|| {
            // At the first start there is no configured log yet: the lines go to standard error.
            wait_for("the first attempt", || log().contains(&format!("Connection in use: {address}")));
            drop(holder);
        });
        let server = bind(site.launch(), &[&address]).start();
        free.join().expect("no panic");
        server
    });
    server.expect_error("Connection in use");
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    server.finish();
}

#[test]
fn an_address_that_stays_busy_ends_the_start_and_a_term_ends_the_waiting() {
    let site = site("busy_for_ever");
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = holder.local_addr().expect("it is bound").to_string();
    let ended = bind(site.launch(), &[&address]).start_in_vain();
    assert_eq!(ended.status.code(), Some(1));
    let attempts = ended.stderr.matches("Connection in use: ").count();
    eprintln!("{attempts} attempts within {:.1?}", ended.time);
    assert_eq!(attempts, 5);
    assert!(ended.time > Duration::from_secs(3), "{:?}", ended.time);
    let last = ended.stderr.lines().last().unwrap_or_default();
    assert!(
        last.starts_with(&format!("rgunicorn: cannot bind {address}: Address already in use; another")),
        "{last}"
    );
    // The same, and stopped in the middle of it.
    let launch = bind(site.launch(), &[&address]);
    let (ended, time) = launch.start_and_stop(Signal::SIGTERM, |children| !children.is_empty());
    assert!(time < Duration::from_secs(3), "{time:?}");
    assert_eq!(ended.processes, []);
    assert!(
        within(Duration::from_secs(1), || site.leftovers().is_empty()).is_some(),
        "{:?}",
        site.leftovers()
    );
}

/// Somebody has tidied up too much: nobody can connect any more, and a HUP is the way out.
#[test]
fn a_socket_whose_file_is_gone_is_bound_again_by_a_reload() {
    let site = site("file_gone");
    let server = bind(site.launch(), &["127.0.0.1:0", "unix:s"]).start();
    let [tcp, unix] = server.addresses() else { panic!("{:?}", server.addresses()) };
    let load = Load::start(tcp, Plan::versions(2));
    fs::remove_file(site.join("s")).expect("it is there");
    assert!(unix.get("/version").is_err(), "its file is gone");
    server.reload_well();
    assert_eq!(unix.get("/version").expect("it is bound again").text(), "INSPECT-VERSION:1");
    assert_eq!(server.messages("was gone; it is bound again").len(), 1, "{}", server.log());
    // What somebody else has put there is his.
    fs::remove_file(site.join("s")).expect("it is there");
    let other = UnixListener::bind(site.join("s")).expect("its name is free");
    server.reload_well();
    drop(other);
    load.more(20);
    load.stop().expect_flawless();
    fs::remove_file(site.join("s")).expect("it is the test's");
    server.finish();
}
