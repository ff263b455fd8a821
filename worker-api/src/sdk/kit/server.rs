//! An application under a real server, on a free port, for as long as a test has the value.
//!
//! It owns the server's process and a directory for its configuration and log. The library is the one that `cargo test`
//! has built; the program is named by the variable `RGUNICORN`, or lies beside it, or is found in `PATH`. What a newcomer gets wrong: for
//! a library that has no other kind than `cdylib`, `cargo test` builds no file, and there is only what an earlier
//! `cargo build` has left; where its sources have changed since, it is refused ([`changed_since`]). With `crate-type =
//! ["cdylib", "rlib"]` each `cargo test` builds it. Unit tests alone need no file.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::error::Error;
use crate::sdk::kit::Answer;

/// How long anything may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server with one worker.
///
/// ```no_run
/// use rgunicorn_worker_api::sdk::kit::Server;
///
/// # fn main() -> Result<(), rgunicorn_worker_api::error::Error> {
/// // target/debug/deps/libshop.so, and its application `app`.
/// let server = Server::start("shop", "app", "worker_class = 'poll'\n[app.app]\ncurrency = 'EUR'\n")?;
/// assert_eq!(server.get("/prices")?.status, 200);
/// server.reload()?;
/// # Ok(()) }
/// ```
///
/// When it is dropped it is told to leave; while a test panics, its log is printed first.
#[derive(Debug)]
pub struct Server {
    master: Child,
    directory: PathBuf,
    address: SocketAddr,
}

impl Server {
    /// Starts the application `name` of the library `lib{library}.so`, with these settings as the configuration file
    /// has them. Returns when its first worker serves.
    ///
    /// # Errors
    /// What is missing, or out of date, or what the server said when it could not start.
    pub fn start(library: &str, name: &str, settings: &str) -> Result<Self, Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let file = library_file(library)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("{library}-{}-{number}", std::process::id()));
        fs::create_dir(&directory).map_err(|error| {
            Error::new(format!("cannot make the directory {}: {error}", directory.display()))
        })?;
        fs::write(directory.join("test.toml"), settings)?;
        let beside = file.parent().map(|directory| directory.join("rgunicorn")).filter(|path| path.is_file());
        let program = std::env::var_os("RGUNICORN")
            .or_else(|| beside.map(PathBuf::into_os_string))
            .unwrap_or_else(|| OsString::from("rgunicorn"));
        let mut application = file.into_os_string();
        application.push(format!(":{name}"));
        let log = fs::File::create(directory.join("log"))?;
        let master = Command::new(&program)
            .arg("--config")
            .arg(directory.join("test.toml"))
            .args(["--bind", "127.0.0.1:0"])
            .arg(application)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| {
                Error::new(format!(
                    "cannot run {}: {error}; set RGUNICORN to the path of the server",
                    program.display()
                ))
            })?;
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { master, directory, address: unknown };
        server.address = server.wait_until_it_listens()?;
        Ok(server)
    }

    fn wait_until_it_listens(&mut self) -> Result<SocketAddr, Error> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            let log = self.log();
            let listening = log.lines().find_map(|line| {
                let (_, address) = line.split_once("Listening at: http://")?;
                address.split(' ').next()?.parse().ok()
            });
            if let Some(address) = listening {
                return Ok(address);
            }
            if let Some(status) = self.master.try_wait()? {
                return Err(Error::new(format!("the server has ended ({status}); it said:\n{log}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(Error::new(format!("the server does not listen; it said:\n{}", self.log())))
    }

    /// Where it listens, for a client of your own.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.join("log")).unwrap_or_default()).into_owned()
    }

    /// The answer to a GET.
    ///
    /// # Errors
    /// As [`Server::ask`].
    pub fn get(&self, target: &str) -> Result<Answer, Error> {
        self.ask("GET", target, &[], b"")
    }

    /// The answer to a request, on a connection of its own.
    ///
    /// # Errors
    /// There is none, or it is not HTTP.
    pub fn ask(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, Error> {
        let mut head =
            format!("{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        let mut connection = TcpStream::connect(self.address)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.write_all(head.as_bytes())?;
        // Who is refused may be so before everything was sent, and the answer says why.
        let _ = connection.write_all(body);
        let mut octets = Vec::new();
        connection.read_to_end(&mut octets)?;
        answer_of(&octets, method == "HEAD")
            .ok_or_else(|| Error::new(format!("{method} {target}: not an answer: {}", octets.escape_ascii())))
    }

    /// Sends HUP, and waits until the new generation serves.
    ///
    /// # Errors
    /// The reload was refused; the old generation serves on.
    pub fn reload(&self) -> Result<(), Error> {
        let verdicts = |log: &str| -> Vec<String> {
            let is_one = |line: &&str| line.contains("] Reload");
            log.lines().filter(is_one).map(str::to_owned).collect()
        };
        let before = verdicts(&self.log()).len();
        self.signal("HUP")?;
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            match verdicts(&self.log()).get(before) {
                Some(line) if line.contains("] Reloaded: ") => return Ok(()),
                Some(line) => return Err(Error::new(line)),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        Err(Error::new(format!("the reload does not end; the server said:\n{}", self.log())))
    }

    fn signal(&self, name: &str) -> Result<(), Error> {
        // A program, because a library that needs no unsafe code for it would be one more dependency of every author.
        let status = Command::new("kill").args(["-s", name, &self.master.id().to_string()]).status()?;
        if status.success() { Ok(()) } else { Err(Error::new(format!("cannot send {name} to the server"))) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut stderr = std::io::stderr();
            // Nobody is left to tell if that fails.
            let _ = writeln!(stderr, "--- the server's log:\n{}---", self.log());
        }
        let begin = Instant::now();
        // One that has ended was reaped by that look, and its number may be another's by now.
        if matches!(self.master.try_wait(), Ok(None)) && self.signal("TERM").is_ok() {
            while begin.elapsed() < PATIENCE && matches!(self.master.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // Both do nothing to a process that has ended.
        let _ = self.master.kill();
        let _ = self.master.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The library as this `cargo test` has built it.
fn library_file(library: &str) -> Result<PathBuf, Error> {
    static BEGIN: OnceLock<SystemTime> = OnceLock::new();
    let begin = *BEGIN.get_or_init(SystemTime::now);
    let test = std::env::current_exe()?;
    // target/PROFILE/deps/test-0123456789abcdef
    newest(test.parent().unwrap_or(Path::new(".")), library, begin)
}

/// The newer of the two files that it may be: `cargo test` leaves it in `deps`, `cargo build` above that, too.
fn newest(deps: &Path, library: &str, begin: SystemTime) -> Result<PathBuf, Error> {
    const KINDS: &str = "`crate-type = [\"cdylib\", \"rlib\"]`";
    let name = format!("lib{library}.so");
    let (tested, built) = (deps.join(&name), deps.with_file_name(&name));
    let place = match (modified(&tested), modified(&built)) {
        (Some(tested_at), built_at) if built_at.is_none_or(|built_at| built_at < tested_at) => tested,
        (_, Some(built_at)) => {
            if let Some(source) = changed_since(&built, built_at, begin) {
                return Err(Error::new(format!(
                    "{} is older than {}, and would be tested as it was: `cargo test` builds the library of a package \
                     that has {KINDS}; for any other, run `cargo build` first",
                    built.display(),
                    source.display()
                )));
            }
            built
        }
        (_, None) => {
            return Err(Error::new(format!(
                "there is no {name} in {}; `cargo test` builds it for tests in `tests/`, of the package whose library \
                 it is, if that has {KINDS}",
                deps.display()
            )));
        }
    };
    Ok(place)
}

/// A source of this library that was written after it, and before the tests began: then cargo has not built the library
/// for them. What is saved while they run cargo could not know.
///
/// The sources are those that cargo names in a file beside whatever `cargo build` leaves. A library that `cargo test` has
/// built is newer than that one, and needs no such look. Cargo goes by the same times: what it calls fresh has no source
/// that is newer.
fn changed_since(library: &Path, at: SystemTime, begin: SystemTime) -> Option<PathBuf> {
    // One line, `LIBRARY: SOURCE SOURCE`, with a backslash before the spaces within a name.
    let rule = fs::read_to_string(library.with_extension("d")).ok()?;
    let (_, sources) = rule.split_once(": ")?;
    let sources = sources.trim_end().replace("\\ ", "\0");
    sources
        .split(' ')
        .map(|name| PathBuf::from(name.replace('\0', " ")))
        // Where the configuration has them relative to somewhere, it is not known to what.
        .filter(|source| source.is_absolute())
        .find(|source| modified(source).is_some_and(|changed| at < changed && changed < begin))
}

fn modified(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).ok()?.modified().ok()
}

/// A whole answer, read to the connection's end.
fn answer_of(octets: &[u8], bodiless: bool) -> Option<Answer> {
    let end = octets.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, rest) = (&octets[..end], &octets[end + 4..]);
    let mut lines = head.split(|octet| *octet == b'\n').map(<[u8]>::trim_ascii);
    let status =
        std::str::from_utf8(lines.next()?.strip_prefix(b"HTTP/1.1 ")?.get(..3)?).ok()?.parse().ok()?;
    if status < 200 {
        return answer_of(rest, bodiless);
    }
    let field = |line: &[u8]| {
        let colon = line.iter().position(|octet| *octet == b':')?;
        Some((String::from_utf8_lossy(&line[..colon]).into_owned(), line[colon + 1..].trim_ascii().to_vec()))
    };
    let fields = lines.map(field).collect::<Option<Vec<_>>>()?;
    let mut answer = Answer { status, fields, body: Vec::new(), is_whole: true };
    if bodiless || matches!(status, 204 | 304) {
        return Some(answer);
    }
    if answer.field("transfer-encoding").is_some() {
        (answer.body, answer.is_whole) = chunks(rest)?;
    } else {
        let declared: Option<usize> = answer.field("content-length").and_then(|digits| digits.parse().ok());
        answer.is_whole = declared.is_none_or(|declared| declared == rest.len());
        answer.body = rest.to_vec();
    }
    Some(answer)
}

/// The octets of a chunked body, and whether its end was there.
fn chunks(mut rest: &[u8]) -> Option<(Vec<u8>, bool)> {
    let mut body = Vec::new();
    loop {
        let Some(line) = rest.windows(2).position(|two| two == b"\r\n") else { return Some((body, false)) };
        let digits = std::str::from_utf8(&rest[..line]).ok()?;
        let length = usize::from_str_radix(digits.split(';').next()?.trim(), 16).ok()?;
        rest = &rest[line + 2..];
        if length == 0 {
            return Some((body, true));
        }
        body.extend_from_slice(&rest[..length.min(rest.len())]);
        match rest.get(length + 2..) {
            Some(next) => rest = next,
            None => return Some((body, false)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "Miri cannot set the time of a file")]
    fn a_library_that_is_older_than_its_sources_is_not_tested() {
        let directory = std::env::temp_dir().join(format!("kit-{}", std::process::id()));
        let deps = directory.join("debug/deps");
        fs::create_dir_all(&deps).unwrap();
        let begin = SystemTime::now();
        let write = |name: &str, text: &str, seconds_ago: u64| {
            fs::write(directory.join(name), text).unwrap();
            let file = fs::File::options().write(true).open(directory.join(name)).unwrap();
            file.set_modified(begin - Duration::from_secs(seconds_ago)).unwrap();
        };
        let found = || {
            let place = newest(&deps, "shop", begin).map_err(|error| error.to_string())?;
            Ok(place.strip_prefix(&directory).unwrap().to_owned())
        };
        let is_refused = |said: &str| found().is_err_and(|error: String| error.contains(said));
        assert!(is_refused("there is no libshop.so in "));

        // After `cargo build`.
        write("lib.rs", "", 50);
        write("the other.rs", "", 50);
        let lines = format!(
            "{0}/debug/libshop.so: relative.rs {0}/gone.rs {0}/lib.rs {0}/the other.rs\n",
            directory.display()
        );
        write("debug/libshop.d", &lines.replace("the other", "the\\ other"), 40);
        write("debug/libshop.so", "", 40);
        write("debug/deps/libshop.so", "", 40);
        let built = Ok(PathBuf::from("debug/libshop.so"));
        assert_eq!(found(), built);
        // `cargo test` leaves it as it is.
        write("the other.rs", "", 30);
        assert!(is_refused("debug/libshop.so is older than "), "{:?}", found());
        assert!(is_refused("the other.rs, and would be tested as it was"), "{:?}", found());
        // Or builds it.
        write("debug/deps/libshop.so", "", 20);
        assert_eq!(found(), Ok(PathBuf::from("debug/deps/libshop.so")));
        // `cargo build` follows, and somebody saves a file while the tests run.
        write("debug/libshop.so", "", 10);
        fs::File::options()
            .write(true)
            .open(directory.join("lib.rs"))
            .unwrap()
            .set_modified(begin + Duration::from_secs(5))
            .unwrap();
        assert_eq!(found(), built);
        // Nobody knows what it was made of.
        fs::remove_file(directory.join("debug/libshop.d")).unwrap();
        assert_eq!(found(), built);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn answers_are_read_to_their_end() {
        let read = |text: &str| {
            let answer = answer_of(text.as_bytes(), false)?;
            Some((answer.status, answer.text().into_owned(), answer.is_whole))
        };
        let head = "HTTP/1.1 200 OK\r\nX-A: b\r\n";
        for (rest, body, is_whole) in [
            ("Content-Length: 2\r\n\r\nok", "ok", true),
            ("Content-Length: 3\r\n\r\nok", "ok", false),
            ("\r\nok", "ok", true),
            ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1;a=b\r\n!\r\n0\r\n\r\n", "ok!", true),
            ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "ok", false),
            ("Transfer-Encoding: chunked\r\n\r\n5\r\nok", "ok", false),
        ] {
            assert_eq!(read(&format!("{head}{rest}")), Some((200, body.to_owned(), is_whole)), "{rest}");
        }
        assert_eq!(
            read(&format!("HTTP/1.1 103 Early Hints\r\n\r\n{head}\r\n")),
            Some((200, String::new(), true))
        );
        assert_eq!(read("SSH-2.0\r\n\r\n"), None);
    }
}
