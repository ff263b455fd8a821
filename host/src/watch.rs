//! `--reload`: which files are watched, and when a change of them is to become a reload.
//!
//! Owns the watches and the quiet that has to follow a change. Does not own the reload, which takes files only when they
//! stand still ([`crate::image`]) and leaves the old generation serving when they are broken. The probe sets the
//! watches up, so that the master looks up no path; the master gets, for each directory, the names that matter, and
//! from the first probe the descriptor.
//!
//! That descriptor is the only one as long as the master lives: each later probe adds to the watches it has inherited,
//! and the master removes those that are not wanted any more. A new one for each reload would be closed by the master,
//! which may take long ([`crate::sys::inotify`]). While a probe adds, the master reads nothing
//! ([`Watcher::begin_probe`]): what happens then waits in the kernel's queue until it is known what matters.
//!
//! What a newcomer would get wrong: a path is more than its last directory. A deploy switches a symlink somewhere on the
//! way, so the directory of each of them is watched, too. And what this server writes itself must not reload it: its
//! logs and its pid file may match a pattern, and are left out.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use glob::{MatchOptions, Pattern};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::generation::Generation;
use crate::logging::LogTarget;
use crate::sys::inotify::{Event, Inotify};

/// After a file was closed or renamed: others of the same build may follow.
const QUIET: Duration = Duration::from_millis(200);
/// After a name has appeared: a link is complete, a file is still to be written.
const APPEARED: Duration = Duration::from_millis(500);
/// Changes that never end are not waited for longer than this.
const LONGEST: Duration = Duration::from_secs(3);
/// Directories that patterns may add.
const DIRECTORIES: usize = 1000;
/// As a shell has it: `*` matches neither a slash nor a name with a dot in front.
const SHELL: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// The names that matter in one directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Directory {
    wd: i32,
    path: PathBuf,
    /// Patterns, or names as they are, escaped.
    names: BTreeSet<String>,
}

/// What is watched, as the probe tells it to the master.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Watched {
    directories: Vec<Directory>,
    /// Files that the server itself writes.
    own: Vec<PathBuf>,
}

/// `--reload-extra-file`, sorted out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraFiles {
    /// Files as they are; absolute.
    pub files: Vec<PathBuf>,
    /// Patterns; absolute.
    pub patterns: Vec<String>,
}

/// Whether a text is a pattern, by the rule that Gunicorn has: a path that holds one of these is one, too.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// A pattern that begins in this directory, which is none itself, whatever its name.
///
/// # Errors
/// What is wrong with it.
pub fn absolute_pattern(directory: &Path, text: &str) -> Result<String, String> {
    Pattern::new(text).map_err(|error| error.to_string())?;
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    Ok(format!("{}/{text}", Pattern::escape(&directory.to_string_lossy())))
}

/// Probe: watches that are being set up. Dropped, it takes back what it has added.
#[derive(Debug)]
pub struct Setup {
    inotify: Inotify,
    /// Whether the master has it already.
    inherited: bool,
    /// What the master watches: not to be taken back.
    before: BTreeSet<i32>,
    watched: Watched,
    given_away: bool,
}

impl Setup {
    /// Probe: watches what the configuration names, in addition to what the master watches; nothing, and none, without
    /// `--reload`.
    ///
    /// # Errors
    /// One sentence.
    pub fn begin(config: &Config, master: Option<&Watcher>) -> Result<Option<Self>, String> {
        if !config.reload {
            return Ok(None);
        }
        let inotify = match master {
            Some(master) => master.inotify.another().map_err(|error| cannot_share(&error)),
            None => Inotify::new().map_err(|error| {
                format!(
                    "cannot watch files for --reload: inotify: {error}; raise fs.inotify.max_user_instances"
                )
            }),
        }?;
        let mut setup = Self {
            inotify,
            inherited: master.is_some(),
            before: master.map(|master| master.watched.numbers()).unwrap_or_default(),
            watched: Watched { directories: Vec::new(), own: own_files(config) },
            given_away: false,
        };
        let plugins = config.mounts.iter().map(|mount| &mount.application.file);
        let plugins = plugins.chain([&config.worker_class.file]).chain(&config.hooks);
        for file in plugins.chain(&config.file) {
            setup.watch_file(file)?;
        }
        config.reload_extra_files.files.iter().try_for_each(|file| setup.watch_file(file))?;
        config.reload_extra_files.patterns.iter().try_for_each(|pattern| setup.watch_pattern(pattern))?;
        Ok(Some(setup))
    }

    /// Probe: adds the libraries that the plugins bring, and gives the watches away, with the descriptor if the master
    /// has none yet.
    ///
    /// # Errors
    /// One sentence.
    pub fn finish(mut self, generation: &Generation) -> Result<(Watched, Option<OwnedFd>), String> {
        for neighbour in generation.images().flat_map(|image| &image.neighbours) {
            self.watch_file(&neighbour.original)?;
        }
        let descriptor = match self.inherited {
            true => None,
            false => Some(self.inotify.another().map_err(|error| cannot_share(&error))?),
        };
        self.given_away = true;
        Ok((std::mem::take(&mut self.watched), descriptor.map(OwnedFd::from)))
    }

    /// A file: its name, the name of each symlink on the way to it, and of what it is in the end.
    fn watch_file(&mut self, path: &Path) -> Result<(), String> {
        let mut way = PathBuf::new();
        for component in path.components() {
            if let Component::Normal(name) = component {
                let directory = way.clone();
                way.push(name);
                if way == path || way.is_symlink() {
                    self.watch_name(&directory, name)?;
                }
            } else {
                way.push(component);
            }
        }
        match path.canonicalize() {
            Ok(target) if target != path => match (target.parent(), target.file_name()) {
                (Some(directory), Some(name)) => self.watch_name(directory, name),
                _ => Ok(()),
            },
            // One that is not there has no other name yet.
            _ => Ok(()),
        }
    }

    fn watch_name(&mut self, directory: &Path, name: &OsStr) -> Result<(), String> {
        self.watch(directory, Pattern::escape(&name.to_string_lossy()))
    }

    /// A pattern: its last part in each directory that the parts before it match now.
    fn watch_pattern(&mut self, pattern: &str) -> Result<(), String> {
        let (directories, name) = match pattern.rsplit_once('/') {
            Some((directories, "**")) => (format!("{directories}/**"), "*"),
            Some((directories, name)) => (directories.to_owned(), name),
            None => (String::new(), pattern),
        };
        // Two stars stand for no directory as well, which the pattern alone would not match.
        let base = directories.strip_suffix("/**").map(str::to_owned);
        let mut found = BTreeSet::new();
        for directories in base.iter().chain([&directories]) {
            let root = if directories.is_empty() { "/" } else { directories };
            let matching = glob::glob_with(root, SHELL)
                .map_err(|error| format!("cannot watch '{pattern}' for --reload: {error}"))?;
            // One that cannot be entered holds nothing that could be served either.
            found.extend(matching.flatten().filter(|path| path.is_dir()).take(DIRECTORIES + 1));
        }
        if found.len() > DIRECTORIES {
            return Err(format!(
                "cannot watch '{pattern}' for --reload: it stands for more than {DIRECTORIES} directories; give a \
                 narrower one"
            ));
        }
        found.iter().try_for_each(|directory| self.watch(directory, name.to_owned()))
    }

    fn watch(&mut self, directory: &Path, name: String) -> Result<(), String> {
        let wd = self.inotify.watch_directory(directory).map_err(|error| {
            let advice = match error.raw_os_error() {
                Some(libc::ENOSPC) => "raise fs.inotify.max_user_watches",
                _ => "make it a directory that can be read, or leave --reload out",
            };
            let directory = directory.display();
            format!("cannot watch {directory} for --reload: {}; {advice}", crate::error::io_text(&error))
        })?;
        let known = self.watched.directories.iter_mut();
        match known.into_iter().find(|known| known.wd == wd && known.path == directory) {
            Some(known) => _ = known.names.insert(name),
            None => self.watched.directories.push(Directory {
                wd,
                path: directory.to_owned(),
                names: BTreeSet::from([name]),
            }),
        }
        Ok(())
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        // Of a new descriptor the watches go with it.
        if self.inherited && !self.given_away {
            self.watched.numbers().difference(&self.before).for_each(|wd| self.inotify.unwatch(*wd));
        }
    }
}

impl Watched {
    /// The watches' numbers.
    fn numbers(&self) -> BTreeSet<i32> {
        self.directories.iter().map(|directory| directory.wd).collect()
    }
}

fn cannot_share(error: &io::Error) -> String {
    format!("cannot watch files for --reload: inotify: {error}; raise the limit of open files (ulimit -n)")
}

/// What the server writes itself.
fn own_files(config: &Config) -> Vec<PathBuf> {
    let logs = std::iter::once(&config.errorlog).chain(&config.accesslog);
    let logs = logs.filter_map(|log| match log {
        LogTarget::File(file) => Some(file.clone()),
        LogTarget::Standard => None,
    });
    logs.chain(config.pidfile.clone()).collect()
}

/// Master: the watches in force: none, if the configuration of now has no `--reload`.
#[derive(Debug)]
pub struct Watcher {
    inotify: Inotify,
    watched: Watched,
    pending: Option<Pending>,
}

/// A change that waits for quiet.
#[derive(Debug)]
struct Pending {
    file: PathBuf,
    since: Instant,
    due: Instant,
}

impl Watcher {
    /// Master: takes over the descriptor of the first probe. What matters comes with [`Watcher::adopt`].
    pub fn new(inotify: OwnedFd) -> Self {
        Self { inotify: Inotify::from_fd(inotify), watched: Watched::default(), pending: None }
    }

    /// Master: what a probe has set up is in force, and nothing else.
    pub fn adopt(&mut self, watched: Watched) {
        let before = std::mem::replace(&mut self.watched, watched).numbers();
        before.difference(&self.watched.numbers()).for_each(|wd| self.inotify.unwatch(*wd));
    }

    /// Master: a probe is about to read what there is now, so that whatever has happened so far is seen. From now until
    /// it has reported, [`Watcher::take`] must not be called.
    ///
    /// # Errors
    /// The watches cannot be read.
    pub fn begin_probe(&mut self, now: Instant) -> io::Result<()> {
        // In a storm something is left over: that is one more reload.
        self.take(now)?;
        self.pending = None;
        Ok(())
    }

    /// When [`Watcher::take`] is to be called if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        self.pending.as_ref().map(|pending| pending.due)
    }

    /// Reads what has happened; returns a file that has changed, once there was quiet after it.
    ///
    /// # Errors
    /// The watches cannot be read.
    pub fn take(&mut self, now: Instant) -> io::Result<Option<PathBuf>> {
        for event in self.inotify.take()? {
            match event {
                // Of a probe that was killed before it could take its watches back.
                Event::Written(wd, _) | Event::Created(wd, _) if !self.watches(wd) => {
                    self.inotify.unwatch(wd)
                }
                Event::Written(wd, name) => self.changed(wd, &name, QUIET, now),
                Event::Created(wd, name) => self.changed(wd, &name, APPEARED, now),
                Event::Gone(wd) => {
                    for gone in self.watched.directories.iter().filter(|directory| directory.wd == wd) {
                        let path = gone.path.display();
                        log::warn!(
                            "{path} is gone and not watched any more; send HUP when it is there again"
                        );
                    }
                }
                Event::Overflow => self.postpone(PathBuf::from("one of many files"), APPEARED, now),
            }
        }
        let due = self.pending.take_if(|pending| pending.due <= now);
        Ok(due.map(|pending| pending.file))
    }

    fn watches(&self, wd: i32) -> bool {
        self.watched.directories.iter().any(|directory| directory.wd == wd)
    }

    fn changed(&mut self, wd: i32, name: &OsStr, quiet: Duration, now: Instant) {
        let text = name.to_string_lossy();
        let matches =
            |pattern: &String| Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_with(&text, SHELL));
        let file = self.watched.directories.iter().find_map(|directory| {
            let file = directory.path.join(name);
            let wanted = directory.wd == wd && directory.names.iter().any(matches);
            (wanted && !self.watched.own.contains(&file)).then_some(file)
        });
        if let Some(file) = file {
            self.postpone(file, quiet, now);
        }
    }

    fn postpone(&mut self, file: PathBuf, quiet: Duration, now: Instant) {
        let since = self.pending.as_ref().map_or(now, |pending| pending.since);
        self.pending = Some(Pending { file, since, due: (now + quiet).min(since + LONGEST) });
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::temp_dir::TempDir;

    /// As a probe's, of a master that may have watches.
    fn setup_beside(master: Option<&Watcher>) -> Setup {
        let inotify = master.map_or_else(Inotify::new, |master| master.inotify.another()).unwrap();
        let before = master.map(|master| master.watched.numbers()).unwrap_or_default();
        let watched = Watched::default();
        Setup { inotify, inherited: master.is_some(), before, watched, given_away: false }
    }

    fn setup() -> Setup {
        setup_beside(None)
    }

    impl Setup {
        fn give_away(mut self) -> Watched {
            self.given_away = true;
            std::mem::take(&mut self.watched)
        }

        fn watcher(self) -> Watcher {
            let mut watcher = Watcher::new(self.inotify.another().unwrap().into());
            watcher.adopt(self.give_away());
            watcher
        }
    }

    /// How many directories the kernel watches for it (proc(5), fdinfo).
    fn kernels(watcher: &Watcher) -> usize {
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&watcher.as_fd());
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).unwrap();
        info.lines().filter(|line| line.starts_with("inotify ")).count()
    }

    /// What would be reloaded for, with all the quiet there can be.
    fn seen(watcher: &mut Watcher) -> Option<PathBuf> {
        let now = Instant::now();
        assert_eq!(watcher.take(now).unwrap(), None, "not before it is quiet");
        let due = watcher.deadline()?;
        assert!(due > now && due <= now + APPEARED);
        watcher.take(due).unwrap()
    }

    #[test]
    fn a_file_and_each_symlink_on_its_way_are_watched() {
        let temp = TempDir::new("watch");
        for release in ["1", "2"] {
            fs::create_dir_all(temp.join(release)).unwrap();
            fs::write(temp.join(release).join("app.so"), release).unwrap();
        }
        symlink("1", temp.join("current")).unwrap();
        let path = temp.join("current/app.so");
        let mut setup = setup();
        setup.watch_file(&path).unwrap();
        let mut watcher = setup.watcher();
        assert_eq!(seen(&mut watcher), None);

        fs::write(temp.join("1/app.so"), "new").unwrap();
        assert_eq!(seen(&mut watcher), Some(path.clone()));
        fs::write(temp.join("1/other.so"), "").unwrap();
        fs::write(temp.join("2/app.so"), "").unwrap();
        assert_eq!(seen(&mut watcher), None, "neither is ours");
        symlink("2", temp.join("next")).unwrap();
        fs::rename(temp.join("next"), temp.join("current")).unwrap();
        assert_eq!(seen(&mut watcher), Some(temp.join("current")));
    }

    #[test]
    fn a_pattern_stands_for_names_that_come_later_too() {
        let temp = TempDir::new("patterns");
        fs::create_dir_all(temp.join("a/b")).unwrap();
        let mut setup = setup();
        setup.watch_pattern(&format!("{}/a/**/*.html", temp.path().display())).unwrap();
        setup.watched.own.push(temp.join("a/own.html"));
        let mut watcher = setup.watcher();
        for (name, wanted) in [
            ("a/x.html", true),
            ("a/b/y.html", true),
            ("a/x.txt", false),
            ("a/.hidden.html", false),
            ("z.html", false),
            ("a/own.html", false),
        ] {
            fs::write(temp.join(name), "").unwrap();
            assert_eq!(seen(&mut watcher), wanted.then(|| temp.join(name)), "{name}");
        }
    }

    #[test]
    fn several_changes_are_one_and_a_stream_of_them_is_not_waited_for() {
        let temp = TempDir::new("several");
        let mut setup = setup();
        setup.watch_pattern(&format!("{}/*", temp.path().display())).unwrap();
        let mut watcher = setup.watcher();
        let begun = Instant::now();
        let mut now = begun;
        let reloaded = loop {
            fs::write(temp.join("x"), "").unwrap();
            now += QUIET / 2;
            if watcher.take(now).unwrap().is_some() {
                break now - begun;
            }
        };
        assert!(reloaded >= LONGEST && reloaded <= LONGEST + QUIET, "{reloaded:?}");
    }

    #[test]
    fn a_probe_adds_to_the_watches_and_what_it_leaves_out_goes() {
        let temp = TempDir::new("adopt");
        for directory in ["old", "both", "new"] {
            fs::create_dir(temp.join(directory)).unwrap();
        }
        let files = |names: &[&str], mut setup: Setup| {
            names.iter().for_each(|name| setup.watch_file(&temp.join(name)).unwrap());
            setup
        };
        let mut watcher = files(&["old/app.so", "both/app.so"], setup()).watcher();
        let before = watcher.watched.numbers();

        // One that is refused leaves nothing.
        let refused = files(&["new/app.so", "both/app.so"], setup_beside(Some(&watcher)));
        assert_eq!(kernels(&watcher), 3);
        drop(refused);
        assert_eq!((kernels(&watcher), watcher.watched.numbers()), (2, before));

        fs::write(temp.join("old/app.so"), "").unwrap();
        watcher.begin_probe(Instant::now()).unwrap();
        let next = files(&["new/app.so", "both/app.so"], setup_beside(Some(&watcher)));
        // While the probe is at work: of what is watched only from now on, and of what is not any more.
        fs::write(temp.join("new/app.so"), "").unwrap();
        fs::write(temp.join("old/app.so"), "").unwrap();
        watcher.adopt(next.give_away());
        assert_eq!(kernels(&watcher), 2);
        assert_eq!(seen(&mut watcher), Some(temp.join("new/app.so")));
        fs::write(temp.join("both/app.so"), "").unwrap();
        assert_eq!(seen(&mut watcher), Some(temp.join("both/app.so")));

        // A probe that was killed takes nothing back.
        let _ = files(&["old/app.so"], setup_beside(Some(&watcher))).give_away();
        assert_eq!(kernels(&watcher), 3);
        fs::write(temp.join("old/app.so"), "").unwrap();
        assert_eq!(seen(&mut watcher), None);
        assert_eq!(kernels(&watcher), 2);

        watcher.adopt(Watched::default());
        assert_eq!((kernels(&watcher), seen(&mut watcher)), (0, None));
    }

    #[test]
    fn what_cannot_be_watched_is_said() {
        let mut setup = setup();
        let refused = setup.watch_file(Path::new("/no/such/directory/app.so")).expect_err("it is not there");
        assert!(refused.starts_with("cannot watch /no/such/directory for --reload: "), "{refused}");
        let directory = Path::new("/a[1]");
        assert_eq!(absolute_pattern(directory, "*.x").as_deref(), Ok("/a[[]1[]]/*.x"));
        assert_eq!(absolute_pattern(directory, "/*").as_deref(), Ok("/*"));
        assert!(absolute_pattern(directory, "a[").is_err());
    }
}
