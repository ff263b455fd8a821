//! A directory of its own for one test, and the right to run servers in it.
//!
//! Owns the directory: plugins, configuration file, logs, sockets, images. It is removed with the test, unless the
//! test fails: then it stays, and its logs are printed. What a newcomer would get wrong: only a few sites exist at a
//! time in one test process, however many threads run tests, because times are measured here.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use nix::sys::resource::{Resource, setrlimit};

use crate::server::Launch;

/// How many sites there may be at a time. Most of a test is waiting: with two of them, two processors were busy a quarter of
/// the time. As many tests run at a time, by `.cargo/config.toml`.
const AT_ONCE: u32 = 3;

static TAKEN: Mutex<u32> = Mutex::new(0);
static GIVEN_BACK: Condvar = Condvar::new();
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A directory of its own.
#[derive(Debug)]
pub struct Site {
    path: PathBuf,
    /// What the test itself has put there.
    made: Mutex<BTreeSet<PathBuf>>,
    /// Whether it is one of the few.
    counted: bool,
}

/// What servers of the harness write as they were told to.
const LOGS: &[&str] = &["stdout", "stderr", "error.log", "access.log"];

impl Site {
    /// Makes the directory, once there are few enough others. Other users may enter it.
    pub fn new(name: &str) -> Self {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken >= AT_ONCE {
            taken = GIVEN_BACK.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken += 1;
        drop(taken);
        Self::make(name, true)
    }

    /// The same at once, however many there are: for a test that does nothing most of the time but wait for what takes its
    /// time, say a timeout, and does not mind who else is there.
    pub fn waiting(name: &str) -> Self {
        Self::make(name, false)
    }

    fn make(name: &str, counted: bool) -> Self {
        // Dozens of processes are killed by ABRT and SEGV here; nobody wants their core files.
        setrlimit(Resource::RLIMIT_CORE, 0, 0).expect("a limit can be lowered");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Short: a Unix socket's path has 107 octets at most.
        let short: String = name.chars().take(40).collect();
        let path = std::env::temp_dir().join(format!("rgt-{}-{number}-{short}", std::process::id()));
        fs::create_dir(&path).expect("a directory for the test");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it is ours");
        Self { path, made: Mutex::new(BTreeSet::new()), counted }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Puts a copy of a file here; it appears whole, in place of what has the name (rename(2)).
    pub fn install(&self, from: impl AsRef<Path>, name: &str) {
        let from = from.as_ref();
        let content = fs::read(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        self.write(name, &content);
    }

    /// Writes a file that appears whole.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let temporary = self.join(&format!(".new-{name}"));
        fs::write(&temporary, content).expect("a new file");
        fs::set_permissions(&temporary, Permissions::from_mode(0o755)).expect("it is ours");
        fs::rename(&temporary, self.join(name)).expect("its name");
        self.mine(name);
    }

    /// Makes a directory.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        fs::create_dir(&path).expect("a new directory");
        self.mine(name);
        path
    }

    /// Something with this name here is the test's, not left behind by a server.
    pub fn mine(&self, name: &str) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(PathBuf::from(name));
    }

    /// A file as text; empty if there is none.
    pub fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.join(name)).unwrap_or_default()).into_owned()
    }

    /// What lies here and was put neither by the test nor where it told the server to.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |path: &PathBuf| made.contains(path) || LOGS.iter().any(|log| path.as_os_str() == *log);
        self.entries().into_iter().filter(|path| !known(path)).collect()
    }

    /// Writes over a file that is there, as cp(1) does: the same inode, cut to nothing first.
    pub fn overwrite(&self, from: impl AsRef<Path>, name: &str) {
        let content = fs::read(from).expect("what to copy");
        fs::write(self.join(name), content).expect("the file to write over");
    }

    /// A server to be started here, with `app.so:app` on a port of its own.
    pub fn launch(&self) -> Launch<'_> {
        Launch::new(self)
    }

    /// Every file and directory below, as paths relative to the site.
    pub fn entries(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut left = vec![self.path.clone()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    left.push(path.clone());
                }
                found.extend(path.strip_prefix(&self.path).ok().map(Path::to_owned));
            }
        }
        found
    }

    fn show(&self) {
        eprintln!("--- the test failed; its directory stays: {}", self.path.display());
        for name in ["server.toml", "stdout", "stderr", "error.log"] {
            let Ok(text) = fs::read_to_string(self.join(name)) else { continue };
            if text.is_empty() {
                continue;
            }
            let lines: Vec<&str> = text.lines().collect();
            let from = lines.len().saturating_sub(150);
            eprintln!("--- {name}{}:", if from > 0 { " (its end)" } else { "" });
            eprintln!("{}", lines[from..].join("\n"));
        }
        eprintln!("---");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show();
        } else {
            // What cannot be removed now lies in the temporary directory like anything else there.
            let _ = fs::remove_dir_all(&self.path);
        }
        if self.counted {
            *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
            GIVEN_BACK.notify_one();
        }
    }
}
