//! The runtime directory: where the images of all generations of one server lie.
//!
//! Owns its choice, its lock, its name and its end, and the sweeping of what killed servers left behind. Does not own
//! what lies in a generation's directory. Easily got wrong: the lock is a flock(2), which belongs to the open file
//! description and so to all processes that inherited it. It ends with the last descriptor, and at once for all with an
//! explicit LOCK_UN: therefore nothing here ever unlocks, and the lock is a plain `File`, which only closes.

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{FILE_MODE, make_directory};
use crate::sys::exec_map;

/// The file in the directory that its users hold a shared lock on.
const LOCK: &str = "lock";
/// An unfinished directory of this age has lost its maker.
const ORPHANED: Duration = Duration::from_secs(600);

/// A runtime directory that this process, or one that it was forked from, keeps locked.
#[derive(Debug)]
pub struct RuntimeDir {
    path: PathBuf,
    lock: File,
}

/// No directory can hold images.
#[derive(Debug)]
pub struct RuntimeDirError {
    /// What was tried, in order, and the step that failed.
    tried: Vec<Attempt>,
}

#[derive(Debug)]
struct Attempt {
    parent: PathBuf,
    step: &'static str,
    error: io::Error,
}

impl fmt::Display for RuntimeDirError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot make a runtime directory (")?;
        for (index, attempt) in self.tried.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(
                f,
                "{separator}in {}: cannot {}: {}",
                attempt.parent.display(),
                attempt.step,
                attempt.error
            )?;
        }
        write!(f, "); give an existing directory that is writable and not mounted noexec with --runtime-dir")
    }
}

impl std::error::Error for RuntimeDirError {}

impl RuntimeDir {
    /// Probe: makes the directory of a server that starts: in `wanted`, or else in the first usable of `beside`, the
    /// service manager's directories and the temporary ones. Sweeps there first.
    ///
    /// # Errors
    /// `wanted` is unusable, or all others are; the sentence says which step failed.
    pub fn create(wanted: Option<&Path>, beside: Option<&Path>) -> Result<Self, RuntimeDirError> {
        let mut tried = Vec::new();
        let candidates = match wanted {
            Some(wanted) => vec![wanted.to_owned()],
            None => candidates(beside),
        };
        for parent in candidates {
            let outcome = if wanted.is_none() { judge(&parent) } else { Ok(()) };
            match outcome.and_then(|()| Self::create_in(&parent)) {
                Ok(created) => return Ok(created),
                Err((step, error)) => tried.push(Attempt { parent, step, error }),
            }
        }
        Err(RuntimeDirError { tried })
    }

    fn create_in(parent: &Path) -> Result<Self, (&'static str, io::Error)> {
        // A symlink such as `current` moves on at the next deployment; workers started later need this very path.
        let parent = fs::canonicalize(parent).map_err(at("find it"))?;
        sweep(&parent);
        let (unfinished, path) = (parent.join(name(Stage::Unfinished)), parent.join(name(Stage::Final)));
        make_directory(&unfinished).map_err(at("create a directory in it"))?;
        let finish = || {
            let lock = lock_in(&unfinished).map_err(at("lock a file in it"))?;
            prove(&unfinished)?;
            fs::rename(&unfinished, &path).map_err(at("rename a directory in it"))?;
            Ok(lock)
        };
        match finish() {
            Ok(lock) => Ok(Self { path, lock }),
            Err(error) => {
                // The sentence is about the step that failed; what stays is swept later.
                let _ = fs::remove_dir_all(&unfinished);
                Err(error)
            }
        }
    }

    /// Master: takes a lock of its own on the directory that a probe made and still holds.
    ///
    /// # Errors
    /// It is gone, or is no directory of this user.
    pub fn adopt(path: &Path) -> Result<Self, RuntimeDirError> {
        let take = || {
            judge_ours(path)?;
            lock_in(path)
        };
        match take() {
            Ok(lock) => Ok(Self { path: path.to_owned(), lock }),
            Err(error) => {
                let attempt = Attempt { parent: path.to_owned(), step: "lock it", error };
                Err(RuntimeDirError { tried: vec![attempt] })
            }
        }
    }

    /// Absolute, without symlinks.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Probe: makes the directory of a generation. Its name is never used twice, also when the same number is prepared
    /// again: the loader, perf and gdb know files by their paths.
    ///
    /// # Errors
    /// As mkdir(2) and chmod(2) give them.
    pub fn generation_dir(&self, n: u64) -> io::Result<PathBuf> {
        loop {
            let path = self.path.join(format!("gen-{n}-{}", unique()));
            match make_directory(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                outcome => return outcome.map(|()| path),
            }
        }
    }

    /// Master: removes what a probe left behind that did not live to remove it.
    pub fn remove_generation(&self, n: u64) {
        let prefix = format!("gen-{n}-");
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        for entry in
            entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        {
            if let Err(error) = fs::remove_dir_all(entry.path()) {
                log::debug!(
                    "cannot remove {}: {error}; it goes when the server ends",
                    entry.path().display()
                );
            }
        }
    }

    /// What a worker keeps open so that the directory counts as in use while the worker lives. Closed by exec.
    pub fn descriptors(&self) -> impl IntoIterator<Item = RawFd> + use<> {
        [self.lock.as_raw_fd()]
    }

    /// Removes the directory with all in it; processes that have images mapped keep them.
    pub fn remove(&self) {
        // Wherever it is by now: the lock's descriptor knows (proc(5)). Without /proc it is looked for where it was.
        let lock = fs::read_link(format!("/proc/self/fd/{}", self.lock.as_raw_fd()));
        let path = lock.ok().and_then(|lock| Some(lock.parent()?.to_owned())).filter(|path| path.is_dir());
        if let Err(error) = remove(path.as_deref().unwrap_or(&self.path)) {
            log::debug!("cannot remove {}: {error}; the next start sweeps it", self.path.display());
        }
    }
}

/// The lock goes last: a directory without one has lost its server, and may be swept.
fn remove(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else if entry.file_name() != LOCK {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir_all(path)
}

/// Removes what servers of this user left in `parent` when they were killed.
fn sweep(parent: &Path) {
    // Unreadable: what is there stays, and the next step says why it fails.
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if judge_ours(&path).is_err() || !is_abandoned(&path) {
            continue;
        }
        match remove(&path) {
            Ok(()) => log::debug!("removed {}, left behind by a server that is gone", path.display()),
            Err(error) => log::debug!("cannot remove {}: {error}", path.display()),
        }
    }
}

/// Whether nobody uses a directory of ours, by its name's stage, its lock and, before it has one, its age.
fn is_abandoned(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let unfinished = name.starts_with(&prefix(Stage::Unfinished));
    if !unfinished && !name.starts_with(&prefix(Stage::Final)) {
        return false;
    }
    if unfinished {
        let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
        if age.is_none_or(|age| age < ORPHANED) {
            return false;
        }
    }
    match open_lock(path) {
        // The lock ends here with the file. Nobody can take one in between: who adopts a directory does so while
        // its maker holds a lock, and then this attempt fails.
        Ok(lock) => lock.try_lock().is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// A real directory of this user.
fn judge_ours(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to another user"));
    }
    Ok(())
}

/// Makes the lock file where there is none, and takes a shared lock.
fn lock_in(directory: &Path) -> io::Result<File> {
    let lock = open_lock(directory).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound if is_unfinished(directory) => {
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(directory.join(LOCK))
        }
        _ => Err(error),
    })?;
    // std's shared lock is flock(2) on Linux. Only a sweeper holds another, and then the directory is going away.
    lock.try_lock_shared()?;
    Ok(lock)
}

fn is_unfinished(directory: &Path) -> bool {
    directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix(Stage::Unfinished)))
}

fn open_lock(directory: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(directory.join(LOCK))
}

/// Writes a small file and maps it executable, which /run often forbids.
fn prove(directory: &Path) -> Result<(), (&'static str, io::Error)> {
    let path = directory.join("proof");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(at("create a file in it"))?;
    file.write_all(b"executable?\n").map_err(at("write to a file in it"))?;
    file.set_permissions(Permissions::from_mode(FILE_MODE)).map_err(at("set the mode of a file in it"))?;
    exec_map::try_executable_mapping(&file)
        .map_err(at("map a file in it executable (is it mounted noexec?)"))?;
    fs::remove_file(&path).map_err(at("remove a file in it"))
}

fn at(step: &'static str) -> impl FnOnce(io::Error) -> (&'static str, io::Error) {
    move |error| (step, error)
}

/// Where to try when the operator names no directory, best first.
fn candidates(beside: Option<&Path>) -> Vec<PathBuf> {
    // systemd gives a list, separated by colons.
    let variable = |name: &str| {
        let value = std::env::var(name).ok()?;
        value.split(':').next().map(PathBuf::from)
    };
    let root = nix::unistd::geteuid().is_root();
    let mut all: Vec<PathBuf> = beside.and_then(|path| std::path::absolute(path).ok()).into_iter().collect();
    all.extend(variable("STATE_DIRECTORY"));
    all.extend(variable("XDG_RUNTIME_DIR"));
    all.extend(root.then(|| PathBuf::from("/run")));
    all.extend(std::env::var_os("TMPDIR").map(PathBuf::from));
    all.push(PathBuf::from("/tmp"));
    all.retain(|path| path.is_absolute());
    let mut seen = std::collections::HashSet::new();
    all.retain(|path| seen.insert(path.clone()));
    all
}

/// Whether a directory that the operator did not name is fit: nobody else can rename ours away, and if the workers
/// may run as another user, that one can pass.
fn judge(parent: &Path) -> Result<(), (&'static str, io::Error)> {
    let real = fs::canonicalize(parent).map_err(at("find it"))?;
    let metadata = fs::metadata(&real).map_err(at("examine it"))?;
    let mode = metadata.mode();
    if mode & 0o002 != 0 && mode & libc::S_ISVTX == 0 {
        let error = io::Error::other("every user may rename directories in it");
        return Err(("trust it", error));
    }
    if nix::unistd::geteuid().is_root() {
        for ancestor in real.ancestors() {
            let mode = fs::metadata(ancestor).map_err(at("examine it"))?.mode();
            if mode & 0o001 == 0 {
                let error = io::Error::other(format!("{} is closed to them", ancestor.display()));
                return Err(("let the workers' user pass", error));
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Stage {
    Unfinished,
    Final,
}

/// Names begin with a dot, since the directory may lie beside the application, and have the user, since /tmp is shared.
fn prefix(stage: Stage) -> String {
    let user = nix::unistd::geteuid();
    match stage {
        Stage::Unfinished => format!(".rgunicorn-new-{user}-"),
        Stage::Final => format!(".rgunicorn-{user}-"),
    }
}

fn name(stage: Stage) -> String {
    format!("{}{}", prefix(stage), unique())
}

/// Never the same twice: a process id comes again, but not in the same nanosecond.
fn unique() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{:x}", std::process::id(), now.as_nanos())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::temp_dir::TempDir;

    fn create(parent: &TempDir) -> RuntimeDir {
        RuntimeDir::create(Some(parent.path()), None).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    /// Children that other tests fork in this process share the locks until they are gone.
    fn is_swept_soon(parent: &TempDir, path: &Path) -> bool {
        let start = std::time::Instant::now();
        while path.exists() && start.elapsed() < Duration::from_secs(10) {
            sweep(parent.path());
            std::thread::sleep(Duration::from_millis(5));
        }
        !path.exists()
    }

    #[test]
    fn is_made_with_its_mode_and_lock_and_removed_with_all_in_it() {
        let parent = TempDir::new("runtime");
        let runtime = create(&parent);
        assert_eq!(mode(runtime.path()), 0o711);
        assert!(runtime.path().join(LOCK).is_file());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        let (first, second) = (runtime.generation_dir(7).unwrap(), runtime.generation_dir(7).unwrap());
        assert_ne!(first, second);
        assert_eq!(mode(&first), 0o711);
        assert!(first.file_name().unwrap().to_str().unwrap().starts_with("gen-7-"));
        fs::write(first.join("x"), "x").unwrap();
        runtime.remove();
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
        runtime.remove();
    }

    #[test]
    fn two_servers_in_one_place_do_not_disturb_each_other() {
        let parent = TempDir::new("runtime");
        let (one, two) = (create(&parent), create(&parent));
        assert_ne!(one.path(), two.path());
        assert!(one.path().is_dir() && two.path().is_dir());
    }

    #[test]
    fn what_a_killed_server_left_behind_is_swept() {
        let parent = TempDir::new("runtime");
        let killed = create(&parent);
        let left = killed.path().to_owned();
        fs::create_dir(left.join("gen-1")).unwrap();
        drop(killed);
        let next = create(&parent);
        assert!(is_swept_soon(&parent, &left));
        assert!(next.path().is_dir());
    }

    #[test]
    fn sweeping_spares_what_is_not_abandoned_or_not_ours() {
        let parent = TempDir::new("runtime");
        let elsewhere = TempDir::new("runtime-elsewhere");
        fs::write(elsewhere.join("precious"), "x").unwrap();
        let link = parent.join(&name(Stage::Final));
        symlink(elsewhere.path(), &link).unwrap();
        let unfinished = parent.join(&name(Stage::Unfinished));
        let application = parent.join(".rgunicorn-settings");
        fs::create_dir(&unfinished).unwrap();
        fs::create_dir(&application).unwrap();
        sweep(parent.path());
        assert!(link.symlink_metadata().is_ok() && elsewhere.join("precious").exists());
        assert!(unfinished.is_dir() && application.is_dir());
        // The same unfinished directory, long after.
        File::open(&unfinished).unwrap().set_modified(SystemTime::now() - ORPHANED * 2).unwrap();
        sweep(parent.path());
        assert!(!unfinished.exists());
    }

    #[test]
    fn the_master_keeps_what_the_probe_made() {
        let parent = TempDir::new("runtime");
        let made = create(&parent);
        let adopted = RuntimeDir::adopt(made.path()).unwrap();
        drop(made);
        sweep(parent.path());
        assert!(adopted.path().is_dir());
        // A worker holds a duplicate of the descriptor and outlives the master's own.
        let path = adopted.path().to_owned();
        let worker = adopted.lock.try_clone().unwrap();
        assert_eq!(adopted.descriptors().into_iter().collect::<Vec<_>>(), [adopted.lock.as_raw_fd()]);
        drop(adopted);
        sweep(parent.path());
        assert!(path.is_dir());
        drop(worker);
        assert!(is_swept_soon(&parent, &path));
        assert!(RuntimeDir::adopt(&path).is_err());
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_named_with_the_step() {
        let parent = TempDir::new("runtime");
        let error =
            RuntimeDir::create(Some(&parent.join("no")), Some(parent.path())).unwrap_err().to_string();
        assert!(error.contains("/no: cannot find it: No such file"), "{error}");
        fs::write(parent.join("file"), "x").unwrap();
        let error = RuntimeDir::create(Some(&parent.join("file")), None).unwrap_err().to_string();
        assert!(error.contains("/file: cannot create a directory in it: Not a directory"), "{error}");
    }

    #[test]
    fn without_a_wish_it_lies_beside_the_application_unless_others_could_move_it() {
        let application = TempDir::new("runtime");
        let runtime = RuntimeDir::create(None, Some(application.path())).unwrap();
        assert_eq!(runtime.path().parent().unwrap(), fs::canonicalize(application.path()).unwrap());
        runtime.remove();
        fs::set_permissions(application.path(), Permissions::from_mode(0o777)).unwrap();
        assert_eq!(judge(application.path()).unwrap_err().0, "trust it");
        let elsewhere = RuntimeDir::create(None, Some(application.path())).unwrap();
        assert_ne!(elsewhere.path().parent().unwrap(), application.path());
        elsewhere.remove();
    }

    #[test]
    fn a_switched_symlink_does_not_move_it() {
        let release = TempDir::new("runtime");
        let links = TempDir::new("runtime-links");
        symlink(release.path(), links.join("current")).unwrap();
        let runtime = RuntimeDir::create(Some(&links.join("current")), None).unwrap();
        assert_eq!(runtime.path().parent().unwrap(), fs::canonicalize(release.path()).unwrap());
    }
}
