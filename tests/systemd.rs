//! Under a service manager: what it is told over its notify socket, in which order, and that it is never waited for.
//!
//! The test stands in for systemd and listens on NOTIFY_SOCKET. What a newcomer would get wrong: that a message has *not*
//! come yet proves something only if it was looked for after what must come first, so the order is asserted, not the time.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use harness::{Launch, Signal, Site, process, programs, wait_for};

struct Manager {
    socket: UnixDatagram,
    variable: String,
    heard: Mutex<Vec<(Instant, String)>>,
}

impl Manager {
    fn new(site: &Site) -> Self {
        let path = site.join("notify");
        site.mine("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        Self::on(socket, path.to_str().expect("UTF-8").to_owned())
    }

    fn on(socket: UnixDatagram, variable: String) -> Self {
        socket.set_nonblocking(true).expect("a socket");
        Self { socket, variable, heard: Mutex::default() }
    }

    /// All messages so far, without those about the status.
    fn heard(&self) -> Vec<String> {
        let all = self.all().into_iter().map(|(_, message)| message);
        all.filter(|message| !message.starts_with("STATUS=")).collect()
    }

    fn all(&self) -> Vec<(Instant, String)> {
        let mut heard = self.heard.lock().expect("no panic");
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            heard.push((Instant::now(), String::from_utf8_lossy(&buffer[..length]).into_owned()));
        }
        heard.clone()
    }

    fn status(&self) -> String {
        let all = self.all();
        let last = all.iter().rev().find_map(|(_, message)| message.strip_prefix("STATUS="));
        last.unwrap_or_default().to_owned()
    }

    #[track_caller]
    fn wait(&self, message: &str) {
        wait_for(message, || self.heard().iter().any(|heard| heard.starts_with(message)));
    }

    #[track_caller]
    fn wait_status(&self, text: &str) {
        wait_for(&format!("the status {text:?}"), || self.status().contains(text));
    }

    fn forget(&self) {
        self.all();
        self.heard.lock().expect("no panic").clear();
    }
}

fn launch<'s>(site: &'s Site, manager: &Manager) -> Launch<'s> {
    site.install(programs().inspect(1), "app.so");
    site.launch().env("NOTIFY_SOCKET", &manager.variable)
}

#[test]
fn ready_comes_with_the_first_worker_and_a_slow_boot_asks_for_time() {
    let site = Site::new("sd_ready");
    let manager = Manager::new(&site);
    let begin = Instant::now();
    let server =
        launch(&site, &manager).with(|settings| _ = settings.init("probe-ok:start:sleep:3000")).start();
    manager.wait("READY=1");
    assert_eq!(manager.heard(), ["EXTEND_TIMEOUT_USEC=10000000", "READY=1"]);
    let ready = manager.all().into_iter().find(|(_, message)| message == "READY=1").map(|(at, _)| at);
    eprintln!("ready {:.1?} after the start, with a boot of 3 s", ready.map(|at| at - begin));
    assert!(manager.all()[0].1.starts_with("STATUS=Starting"), "{:?}", manager.all());
    manager.wait_status("Generation 1 serves with 1 of 1 workers");
    server.finish();
    assert_eq!(manager.heard().last().map(String::as_str), Some("STOPPING=1"));
}

#[test]
fn a_reload_is_told_with_its_time_and_ends_however_it_ends() {
    let site = Site::new("sd_reload");
    let manager = Manager::new(&site);
    let mut server = launch(&site, &manager).start();
    manager.wait("READY=1");
    manager.forget();
    let before = monotonic_microseconds();
    server.reload_well();
    manager.wait("READY=1");
    let heard = manager.heard();
    let time = heard[0].strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{heard:?}"));
    assert!(time.parse::<u64>().expect("a number") >= before, "{time} and {before}");
    assert_eq!(heard[1..], ["READY=1"]);
    manager.forget();
    server.configure(|settings| _ = settings.text("application", "app.so:nobody"));
    server.expect_error("Reload refused");
    server.reload();
    manager.wait("READY=1");
    assert_eq!(manager.heard().len(), 2, "{:?}", manager.heard());
    manager.wait_status("Generation 2 serves with 1 of 1 workers; the last reload was refused: ");
    server.configure(|settings| _ = settings.text("application", "app.so:app"));
    server.reload_well();
    wait_for("another status", || !manager.status().contains("refused"));
    server.finish();
}

/// The clock of MONOTONIC_USEC.
fn monotonic_microseconds() -> u64 {
    let uptime = fs::read_to_string("/proc/uptime").expect("a kernel");
    // CLOCK_BOOTTIME, in hundredths: the same but for times of suspension, which would only make it larger.
    let seconds: f64 = uptime.split(' ').next().and_then(|text| text.parse().ok()).expect("seconds");
    let (monotonic, boot) = clocks();
    ((seconds - (boot - monotonic) - 0.02) * 1e6) as u64
}

fn clocks() -> (f64, f64) {
    let clock = |id| {
        let time = nix::time::clock_gettime(id).expect("a clock");
        time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9
    };
    (clock(nix::time::ClockId::CLOCK_MONOTONIC), clock(nix::time::ClockId::CLOCK_BOOTTIME))
}

#[test]
fn the_watchdog_is_fed_at_half_its_interval_and_not_without_workers() {
    let site = Site::new("sd_watchdog");
    let manager = Manager::new(&site);
    let mut server = launch(&site, &manager).env("WATCHDOG_USEC", "400000").start();
    let pings = || -> Vec<Instant> {
        manager.all().into_iter().filter(|(_, text)| text == "WATCHDOG=1").map(|(at, _)| at).collect()
    };
    wait_for("five pings", || pings().len() >= 5);
    let all = pings();
    let gaps: Vec<Duration> = all.windows(2).map(|pair| pair[1] - pair[0]).collect();
    eprintln!("pings of a watchdog of 400 ms came after {gaps:.0?}");
    // A worker that can never boot: nobody serves, and nobody says otherwise.
    fs::remove_file(site.join("app.so")).expect("it is there");
    server.expect_error("");
    server.configure(|settings| _ = settings.raw("boot_timeout", "1"));
    let images: Vec<PathBuf> =
        site.entries().into_iter().filter(|path| path.to_string_lossy().ends_with("app.so")).collect();
    for image in &images {
        // The master has the images open; what is cut off is a library no more, by whatever name it is opened.
        fs::File::options()
            .write(true)
            .open(site.join(image.to_str().expect("UTF-8")))
            .and_then(|file| file.set_len(64))
            .expect("ours");
    }
    process::send(server.workers()[0], Signal::SIGKILL);
    wait_for("a worker that fails", || !server.messages("failed to boot").is_empty());
    manager.forget();
    wait_for("two more", || server.messages("failed to boot").len() >= 4);
    assert_eq!(pings(), [], "nobody serves");
    server.stop(Signal::SIGTERM);
}

#[test]
fn a_new_master_becomes_the_main_process_when_the_old_one_goes() {
    let site = Site::new("sd_usr2");
    let manager = Manager::new(&site);
    let mut server = launch(&site, &manager).pidfile().start();
    manager.wait("READY=1");
    server.signal(Signal::SIGUSR2);
    server.wait_log("is ready");
    manager.forget();
    server.signal(Signal::SIGTERM);
    server.wait_end_alone();
    server.wait_log("Master has been promoted.");
    wait_for("the pid file", || !site.join("pid.2").exists());
    let heir: i32 = site.read("pid").trim().parse().expect("a process id");
    let promoted = format!("MAINPID={heir}\nREADY=1");
    manager.wait(&promoted);
    assert_eq!(manager.heard(), [format!("MAINPID={heir}"), promoted], "and not that the service stops");
    server.finish_heir(heir);
    assert_eq!(manager.heard().last().map(String::as_str), Some("STOPPING=1"));
}

#[test]
fn a_service_manager_that_does_not_read_is_not_waited_for() {
    let site = Site::new("sd_full");
    let name = format!("rgt-notify-{}", std::process::id());
    let socket =
        UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("a name")).expect("a socket");
    let manager = Manager::on(socket, format!("@{name}"));
    let flood = UnixDatagram::unbound().expect("a socket");
    flood.set_nonblocking(true).expect("a socket");
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    while flood.send_to_addr(b"flood", &address).is_ok() {}
    let server = launch(&site, &manager).start();
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    server.reload_well();
    // Now it reads, and has missed nothing.
    manager.wait("READY=1");
    manager.wait("RELOADING=1");
    server.finish();
}

#[test]
fn the_unit_files_are_sound() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: there is no systemd-analyze here");
        return;
    }
    let site = Site::new("sd_units");
    let units = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/systemd"));
    let mut files = Vec::new();
    for entry in fs::read_dir(units).expect("the units").flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "md") {
            continue;
        }
        let name = entry.file_name().to_string_lossy().replace('@', "@shop");
        let text = fs::read_to_string(entry.path()).expect("a unit");
        // Where this machine has the program.
        let program = programs().rgunicorn().display().to_string();
        // Not executable, as a plugin of the harness would be: systemd-analyze minds.
        fs::write(site.join(&name), text.replace("/usr/bin/rgunicorn", &program)).expect("a file");
        site.mine(&name);
        files.push(site.join(&name));
    }
    assert_eq!(files.len(), 4);
    let output =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&files).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // What it says about units of this machine is not about ours.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("rgunicorn")).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
}
