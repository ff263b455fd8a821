//! `rgunicorn dev`: builds when a source has changed, beside a server that takes what was built.
//!
//! Owns the words of this subcommand, which sources are watched, when a build begins, and the life of two children: the
//! build, and the server. Does not own the swap: the server runs with `--reload` ([`crate::watch`]), sees the new library
//! by itself, and keeps the old one if the new one is no good. What a newcomer would get wrong: this process is not the
//! master, and loads nothing. A build that fails leaves the library, and so the server, as it was.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cli::CliError;
use crate::error::{EXIT_SETTINGS, EXIT_USAGE, StartError, io_text};
use crate::sys::Pid;
use crate::sys::exec;
use crate::sys::fd::{Watch, poll};
use crate::sys::fork::fork;
use crate::sys::inotify::{Event, Inotify};
use crate::sys::signal::{self, Mask, Received, Signal, SignalQueue};
use crate::sys::wait::{Ended, reap};

/// How it is used.
pub const HELP: &str = "\
Serves an application that is being written: builds it, serves it, builds it again whenever a source has changed, and
has the server swap it. A build that fails leaves the old one serving.

Usage: rgunicorn dev [--build COMMAND] [--watch PATH]... [OPTIONS OF THE SERVER] APP

Options:
      --build COMMAND  What builds it, for a shell [default: cargo build]
      --watch PATH     A source, or a directory of sources and all below it [default: .]
  -h, --help           Print this help.

All other words are the server's, which is started with --reload.

Names that begin with a dot or end in '~' are no sources, nor is a directory with a file CACHEDIR.TAG, as cargo's target
directory has one.

    rgunicorn dev target/debug/libhello.so --bind 127.0.0.1:8000
";

/// After a change: others of the same save may follow.
const QUIET: Duration = Duration::from_millis(50);
/// Directories that are watched at most.
const DIRECTORIES: usize = 10_000;
/// Marks a directory of things that can be made again (bford.info/cachedir).
const CACHE_MARK: &str = "CACHEDIR.TAG";
/// Of a command that could not be executed, as shells have it.
const EXIT_NOT_EXECUTED: i32 = 126;

/// What was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    build: String,
    watch: Vec<PathBuf>,
    server: Vec<String>,
}

/// Understands the words after `dev`; none asks for help.
///
/// # Errors
/// One sentence.
pub fn parse(words: &[String]) -> Result<Option<Plan>, CliError> {
    let mut plan = Plan { build: "cargo build".to_owned(), watch: Vec::new(), server: Vec::new() };
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        match name {
            "-h" | "--help" => return Ok(None),
            "--build" | "--watch" => {
                let value = value.or_else(|| rest.next().cloned()).filter(|value| !value.is_empty());
                let Some(value) = value else {
                    let why =
                        format!("cannot run dev: {name} has no value; 'rgunicorn dev --help' shows how");
                    return Err(CliError::Usage(why));
                };
                match name {
                    "--build" => plan.build = value,
                    _ => plan.watch.push(value.into()),
                }
            }
            "--" => {
                plan.server.push(word.clone());
                plan.server.extend(rest.by_ref().cloned());
            }
            _ => plan.server.push(word.clone()),
        }
    }
    if plan.watch.is_empty() {
        plan.watch.push(PathBuf::from("."));
    }
    Ok(Some(plan))
}

/// Builds and serves until it is told to stop, or the server ends by itself.
///
/// # Errors
/// The sources cannot be watched, no child can be made, or the server says that its settings are wrong.
pub fn run(plan: &Plan, mask: &Mask) -> Result<(), StartError> {
    let fail = |what: &str, error: &io::Error| {
        StartError::new(EXIT_SETTINGS, format!("cannot run dev: {what}: {}", io_text(error)))
    };
    let program = std::env::current_exe().map_err(|error| fail("the program's own file", &error))?;
    let signals = SignalQueue::new().map_err(|error| fail("signalfd", &error))?;
    let mut session = Session {
        plan,
        mask: *mask,
        program,
        sources: Sources::watch(&plan.watch)?,
        signals,
        build: None,
        server: None,
        due: Some(Instant::now()),
        stopping: false,
    };
    let ended = session.run();
    session.end_build();
    match ended {
        Ok(0) => Ok(()),
        Ok(code) => Err(StartError::new(code, "the server has ended; see what it said above")),
        Err(error) => Err(fail("its children and sources", &error)),
    }
}

/// What goes on.
struct Session<'p> {
    plan: &'p Plan,
    /// That of the start, for the children.
    mask: Mask,
    program: PathBuf,
    sources: Sources,
    signals: SignalQueue,
    /// The build that runs, which leads a process group, and since when.
    build: Option<(Pid, Instant)>,
    server: Option<Pid>,
    /// When the next build begins; none while nothing has changed.
    due: Option<Instant>,
    stopping: bool,
}

impl Session<'_> {
    /// Returns the exit code.
    fn run(&mut self) -> io::Result<i32> {
        loop {
            for received in self.signals.take()? {
                self.handle(&received)?;
            }
            while let Some((pid, ended)) = reap() {
                if let Some(code) = self.bury(pid, ended)? {
                    return Ok(code);
                }
            }
            if self.stopping && self.server.is_none() {
                return Ok(0);
            }
            if let Some(changed) = self.sources.take()? {
                say(&format!("{} has changed", changed.display()));
                self.due = Some(Instant::now() + QUIET);
            }
            // What changes during a build is built when that is done.
            let due = self.due.filter(|_| self.build.is_none() && !self.stopping);
            if due.is_some_and(|due| due <= Instant::now()) {
                self.due = None;
                self.begin_build()?;
            } else {
                let signals = Watch::readable(self.signals.as_fd());
                poll(&mut [signals, Watch::readable(self.sources.inotify.as_fd())], due)?;
            }
        }
    }

    /// Whatever would end another program ends this one, and its children first.
    fn handle(&mut self, received: &Received) -> io::Result<()> {
        let told = match received.signal() {
            Some(signal @ (Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT)) => signal,
            // A terminal that is closed. To the server it would mean a reload.
            Some(Signal::SIGHUP) => Signal::SIGTERM,
            _ => return Ok(()),
        };
        self.stopping = true;
        self.end_build();
        if let Some(server) = self.server {
            signal::send(server, told)?;
        }
        Ok(())
    }

    /// All that the shell has begun. It may have come to its end by now.
    fn end_build(&self) {
        if let Some((build, _)) = self.build {
            let _ = nix::sys::signal::killpg(build, Signal::SIGTERM);
        }
    }

    /// A child has ended. Returns the exit code of this program, if that ends, too.
    fn bury(&mut self, pid: Pid, ended: Ended) -> io::Result<Option<i32>> {
        if let Some((_, begun)) = self.build.take_if(|(build, _)| *build == pid) {
            if self.stopping {
                return Ok(None);
            }
            let then = match (ended, self.server) {
                (Ended::Exited(0), server) => {
                    say(&format!("built in {:.1} s", begun.elapsed().as_secs_f64()));
                    return if server.is_none() { self.begin_server().map(|()| None) } else { Ok(None) };
                }
                (_, Some(_)) => "what was built before serves on",
                (_, None) => "nothing is served yet",
            };
            say(&format!("the build {ended}; {then}"));
        } else if self.server == Some(pid) {
            self.server = None;
            match ended {
                _ if self.stopping => return Ok(Some(0)),
                // Its own wish, or words that no build can mend.
                Ended::Exited(code @ (0 | EXIT_SETTINGS | EXIT_USAGE)) => {
                    self.stopping = true;
                    return Ok(Some(code));
                }
                _ => say(&format!("the server {ended}; it is started again after the next build")),
            }
        }
        Ok(None)
    }

    fn begin_build(&mut self) -> io::Result<()> {
        say(&self.plan.build);
        let words = ["sh", "-c", &self.plan.build].map(OsString::from);
        let build = self.spawn(Path::new("/bin/sh"), &words, Group::Own)?;
        // The child does the same: whoever comes first. It may have gone by now, or be another program already.
        let _ = nix::unistd::setpgid(build, build);
        self.build = Some((build, Instant::now()));
        Ok(())
    }

    fn begin_server(&mut self) -> io::Result<()> {
        let own = [self.program.as_os_str(), "--reload".as_ref()].map(OsString::from);
        let words: Vec<_> = own.into_iter().chain(self.plan.server.iter().map(OsString::from)).collect();
        self.server = Some(self.spawn(&self.program, &words, Group::Ours)?);
        Ok(())
    }

    /// A child that ends with this process, in the state in which this one was started.
    fn spawn(&self, program: &Path, words: &[OsString], group: Group) -> io::Result<Pid> {
        let parent = Pid::this();
        fork(|| {
            let variables: Vec<_> = std::env::vars_os().collect();
            if group == Group::Own {
                let _ = nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0));
            }
            let prepared = signal::reset_to_default()
                .and_then(|()| signal::kill_with_parent(parent))
                .and_then(|is_there| self.mask.restore().map(|()| is_there));
            let failed = match prepared {
                // Nobody is left to be a child of.
                Ok(false) => return 0,
                Ok(true) => exec::execute(program, words, &variables).err(),
                Err(error) => Some(error),
            };
            if let Some(error) = failed {
                say(&format!("cannot execute {}: {}", program.display(), io_text(&error)));
            }
            EXIT_NOT_EXECUTED
        })
    }
}

/// The process group of a child.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    /// One of its own, so that all of it can be ended.
    Own,
    /// This one, to which a terminal sends its signals.
    Ours,
}

/// One line to the developer.
fn say(text: &str) {
    // A terminal that has gone takes this program with it.
    let _ = writeln!(io::stderr(), "rgunicorn dev: {text}");
}

/// Directories in which names are sources.
#[derive(Debug)]
struct Sources {
    inotify: Inotify,
    /// Each directory with the number of its watch; and the one name that counts, if it is not all of them.
    watched: Vec<(i32, PathBuf, Option<OsString>)>,
}

impl Sources {
    fn watch(paths: &[PathBuf]) -> Result<Self, StartError> {
        let fail = |path: &Path, error: &io::Error| {
            let advice = match error.raw_os_error() {
                Some(libc::ENOSPC) => "raise fs.inotify.max_user_watches, or name less with --watch",
                Some(libc::EMFILE) => "raise fs.inotify.max_user_instances",
                _ => "name sources with --watch",
            };
            let path = path.display();
            StartError::new(EXIT_SETTINGS, format!("cannot watch {path}: {}; {advice}", io_text(error)))
        };
        let inotify = Inotify::new().map_err(|error| fail(Path::new("."), &error))?;
        let mut sources = Self { inotify, watched: Vec::new() };
        for path in paths {
            let found = path.metadata().and_then(|found| {
                if found.is_dir() {
                    return sources.watch_tree(path);
                }
                // Not the file: an editor puts another one in its place.
                let above =
                    path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
                sources.watch_one(above, path.file_name().map(OsString::from))
            });
            found.map_err(|error| fail(path, &error))?;
        }
        Ok(sources)
    }

    /// A directory and all below it that hold sources. What vanishes meanwhile is none.
    fn watch_tree(&mut self, directory: &Path) -> io::Result<()> {
        let mut left = vec![directory.to_owned()];
        while let Some(directory) = left.pop() {
            match self.watch_one(&directory, None) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                watched => watched?,
            }
            // Looked at after it is watched: a mark that comes later is an event.
            if directory.join(CACHE_MARK).exists() {
                self.forget(&directory);
                continue;
            }
            for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
                // A symbolic link to a directory may lead anywhere, also back here.
                if is_source(&entry.file_name()) && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    left.push(entry.path());
                }
            }
        }
        Ok(())
    }

    /// Nothing below this directory counts any more; its events are passed over.
    fn forget(&mut self, directory: &Path) {
        self.watched.retain(|(_, path, _)| !path.starts_with(directory));
    }

    fn watch_one(&mut self, directory: &Path, name: Option<OsString>) -> io::Result<()> {
        if self.watched.len() >= DIRECTORIES {
            return Err(io::Error::other(format!("there are more than {DIRECTORIES} directories")));
        }
        let wd = self.inotify.watch_directory(directory)?;
        let entry = (wd, directory.to_owned(), name);
        if !self.watched.contains(&entry) {
            self.watched.push(entry);
        }
        Ok(())
    }

    /// A source that has changed since this was last asked, without waiting.
    fn take(&mut self) -> io::Result<Option<PathBuf>> {
        let mut changed = None;
        for event in self.inotify.take()? {
            let is_change = match event {
                Event::Written(wd, name) => self.changed(wd, &name, Change::Complete)?,
                Event::Created(wd, name) => self.changed(wd, &name, Change::Begun)?,
                Event::Overflow => Some(PathBuf::from("one of many files")),
                Event::Gone(wd) => {
                    self.watched.retain(|(other, _, _)| *other != wd);
                    None
                }
            };
            changed = is_change.or(changed);
        }
        Ok(changed)
    }

    fn changed(&mut self, wd: i32, name: &OsStr, change: Change) -> io::Result<Option<PathBuf>> {
        let counts = |only: &Option<OsString>| only.as_ref().is_none_or(|only| only == name);
        // A file that was named by itself counts, also where the names of its directory are judged.
        let within = self.watched.iter().filter(|(other, _, only)| *other == wd && counts(only));
        let within = within.max_by_key(|(_, _, only)| only.is_some());
        let Some((_, directory, only)) = within else { return Ok(None) };
        if only.is_none() && name == CACHE_MARK {
            let directory = directory.clone();
            self.forget(&directory);
            return Ok(None);
        }
        if only.is_none() && !is_source(name) {
            return Ok(None);
        }
        let (path, is_alone) = (directory.join(name), only.is_some());
        match path.symlink_metadata() {
            Ok(found) if found.is_dir() => {
                if !is_alone {
                    // Files may be in it already, whose appearance nobody has seen.
                    self.watch_tree(&path)?;
                }
                let is_watched = self.watched.iter().any(|(_, watched, _)| *watched == path);
                return Ok(is_watched.then_some(path));
            }
            // Somebody is still writing, and will be done.
            Ok(found) if found.is_file() && found.nlink() == 1 && change == Change::Begun => return Ok(None),
            // One that is gone again is a change as well.
            _ => {}
        }
        Ok(Some(path.strip_prefix(".").map_or(path.clone(), Path::to_owned)))
    }
}

/// How far a change has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    /// The name is there.
    Begun,
    /// Whoever wrote the file has closed it, or it came whole.
    Complete,
}

/// Whether a name can be one of a source: neither hidden nor an editor's copy.
fn is_source(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    !name.starts_with(b".") && !name.ends_with(b"~") && name != CACHE_MARK.as_bytes()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::temp_dir::TempDir;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn words_are_sorted_into_ours_and_the_servers() {
        let plan =
            parse(&words("--watch src x.so --build=make -b :80 --watch=Cargo.toml -w 2")).unwrap().unwrap();
        assert_eq!(plan.build, "make");
        assert_eq!(plan.watch, [PathBuf::from("src"), PathBuf::from("Cargo.toml")]);
        assert_eq!(plan.server, words("x.so -b :80 -w 2"));
        let plan = parse(&words("x.so -- --build")).unwrap().unwrap();
        assert_eq!((plan.build.as_str(), plan.watch), ("cargo build", vec![PathBuf::from(".")]));
        assert_eq!(plan.server, words("x.so -- --build"));
        assert_eq!(parse(&words("x.so --help")), Ok(None));
        for line in ["x.so --build", "--watch=", "--watch"] {
            let error = parse(&words(line)).unwrap_err();
            assert!(error.to_string().contains("has no value"), "{error}");
        }
    }

    #[test]
    fn sources_are_what_a_person_writes() {
        let temp = TempDir::new("dev");
        let at = |name: &str| temp.join(name);
        fs::create_dir_all(at("src/deep")).unwrap();
        fs::create_dir_all(at("target/debug")).unwrap();
        fs::create_dir_all(at(".git")).unwrap();
        fs::write(at("target/CACHEDIR.TAG"), "").unwrap();
        let mut sources = Sources::watch(&[temp.path().to_owned()]).unwrap();
        assert_eq!(sources.take().unwrap(), None);
        for (name, counts) in [
            ("src/a.rs", true),
            ("src/deep/b.rs", true),
            ("Cargo.toml", true),
            ("src/.a.rs.swp", false),
            ("src/a.rs~", false),
            ("target/x", false),
            ("target/debug/x", false),
            (".git/index", false),
        ] {
            fs::write(at(name), "").unwrap();
            assert_eq!(sources.take().unwrap(), counts.then(|| at(name)), "{name}");
        }
        fs::rename(at("src/a.rs"), at("src/c.rs")).unwrap();
        assert_eq!(sources.take().unwrap(), Some(at("src/c.rs")));
        // A directory that appears, and what appears in it.
        fs::create_dir_all(at("src/new/er")).unwrap();
        assert!(sources.take().unwrap().is_some());
        fs::write(at("src/new/er/d.rs"), "").unwrap();
        assert_eq!(sources.take().unwrap(), Some(at("src/new/er/d.rs")));
        // As cargo makes its target directory: under another name first, with the mark, and then more and more.
        fs::create_dir(at("build1")).unwrap();
        let _ = sources.take().unwrap();
        fs::write(at("build1/CACHEDIR.TAG"), "").unwrap();
        assert_eq!(sources.take().unwrap(), None);
        fs::rename(at("build1"), at("build")).unwrap();
        assert_eq!(sources.take().unwrap(), None);
        fs::create_dir(at("build/debug")).unwrap();
        fs::write(at("build/debug/x"), "").unwrap();
        assert_eq!(sources.take().unwrap(), None);
    }

    #[test]
    fn a_single_file_is_watched_by_its_name() {
        let temp = TempDir::new("dev_file");
        fs::write(temp.join(".env"), "").unwrap();
        for above in [&[][..], &[temp.path().to_owned()]] {
            let mut sources = Sources::watch(&[above, &[temp.join(".env")]].concat()).unwrap();
            fs::write(temp.join(".other"), "").unwrap();
            assert_eq!(sources.take().unwrap(), None);
            fs::write(temp.join(".next"), "").unwrap();
            fs::rename(temp.join(".next"), temp.join(".env")).unwrap();
            assert_eq!(sources.take().unwrap(), Some(temp.join(".env")));
        }
        let error = Sources::watch(&[temp.join("missing")]).unwrap_err().to_string();
        assert!(error.starts_with("cannot watch ") && error.contains("No such file"), "{error}");
    }
}
