//! Takes a file only when it stands still: reading what another program may be writing at this moment.
//!
//! Owns the looks at a file and the waiting between them. Does not write copies. A look opens the path afresh, so that a
//! symlink that was switched and a rename in between are seen. Easily got wrong: one read is not enough, however
//! complete the file looks, since a linker or `cp` may be in the middle of it; and the age of a file comes from the wall
//! clock, which may be wrong, so that our own observation counts as well.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest as _, Sha256};

use super::ImageError;
use crate::elf_note::{self, ElfError, ElfFacts, hex};

/// A larger plugin is a mistake; it is read into memory.
const SIZE_LIMIT: u64 = 1 << 30;
/// A younger file gets a second full look.
const YOUNG: Duration = Duration::from_secs(2);
/// Between the looks at a young file.
pub(super) const BETWEEN: Duration = Duration::from_millis(100);
/// Between the looks at a file that is not whole.
const RETRY: Duration = Duration::from_millis(50);
/// A file that is not whole and has not changed for so long never will be.
const ABANDONED: Duration = Duration::from_secs(1);

/// A file that stood still.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) bytes: Vec<u8>,
    pub(super) sha256: String,
    pub(super) facts: ElfFacts,
}

/// Which file, and in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Mark {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// One look: opened once, read once.
struct Look {
    mark: Mark,
    /// By the wall clock; `None` when it was changed in the future, or while it was read.
    age: Option<Duration>,
    bytes: Vec<u8>,
    sha256: String,
}

impl Look {
    fn take(file: &Path) -> Result<Self, ImageError> {
        let (mut opened, before) = open(file)?;
        let size = before.size();
        if size > SIZE_LIMIT {
            return Err(ImageError::TooLarge { size });
        }
        let mut bytes = Vec::new();
        // One octet more than the size shows a file that grew. The size is below the limit, so it fits.
        bytes
            .try_reserve_exact(size as usize + 1)
            .map_err(|_| ImageError::Unreadable(io::ErrorKind::OutOfMemory.into()))?;
        (&mut opened).take(size + 1).read_to_end(&mut bytes).map_err(ImageError::Unreadable)?;
        let after = opened.metadata().map_err(ImageError::Unreadable)?;
        let mark = Mark::of(&after);
        let still = mark == Mark::of(&before) && bytes.len() as u64 == size;
        let age = after.modified().ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
        let sha256 = hex(&Sha256::digest(&bytes));
        Ok(Self { mark, age: age.filter(|_| still), bytes, sha256 })
    }

    fn is_older_than(&self, limit: Duration) -> bool {
        self.age.is_some_and(|age| age >= limit)
    }

    fn is_same(&self, other: &Self) -> bool {
        self.mark == other.mark && self.sha256 == other.sha256
    }
}

/// Opens a regular file. O_NONBLOCK keeps the open(2) of a FIFO from waiting for its writer.
fn open(file: &Path) -> Result<(File, Metadata), ImageError> {
    let options = libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(options).open(file).map_err(|error| {
        match (error.kind(), error.raw_os_error()) {
            (io::ErrorKind::NotFound, _) => ImageError::Missing,
            (_, Some(libc::ELOOP)) => ImageError::SymlinkLoop,
            (_, Some(libc::ENXIO)) => ImageError::NotRegular("a socket or a device"),
            _ => ImageError::Unreadable(error),
        }
    })?;
    let metadata = opened.metadata().map_err(ImageError::Unreadable)?;
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok((opened, metadata));
    }
    Err(if kind.is_dir() {
        ImageError::Directory
    } else if kind.is_fifo() {
        ImageError::NotRegular("a FIFO")
    } else {
        ImageError::NotRegular("a device")
    })
}

/// Probe: the file, once two looks agree.
///
/// # Errors
/// It cannot be read, is no shared library, or did not stand still before the deadline.
pub(super) fn take(file: &Path, deadline: Instant) -> Result<Taken, ImageError> {
    let mut look = Look::take(file)?;
    // Since when, as we saw it, the file is as it is.
    let mut since = Instant::now();
    loop {
        let (whole, pause) = match elf_note::facts(&look.bytes) {
            Ok(facts) if is_settled(file, &look) => return Ok(taken(look, facts)),
            Ok(_) => (true, BETWEEN),
            Err(error) if !error.may_pass() => return Err(ImageError::Elf(error)),
            Err(error) if look.is_older_than(ABANDONED) || since.elapsed() >= ABANDONED => {
                return Err(ImageError::Elf(error));
            }
            Err(_) => (false, RETRY),
        };
        wait(pause, deadline, &look)?;
        let next = look_again(file, deadline, &look)?;
        if next.is_same(&look) {
            if whole {
                let facts = elf_note::facts(&next.bytes).map_err(ImageError::Elf)?;
                return Ok(taken(next, facts));
            }
        } else {
            since = Instant::now();
        }
        look = next;
    }
}

fn taken(look: Look, facts: ElfFacts) -> Taken {
    Taken { bytes: look.bytes, sha256: look.sha256, facts }
}

/// Whether a second look at the inode suffices: the file is old, and the path still leads to it, unchanged. Two
/// writes within one tick of the file system's clock, which the mark cannot tell apart, are long past.
fn is_settled(file: &Path, look: &Look) -> bool {
    look.is_older_than(YOUNG) && open(file).is_ok_and(|(_, metadata)| Mark::of(&metadata) == look.mark)
}

/// The next look. A file that was there and is gone is being replaced by a tool that unlinks first.
fn look_again(file: &Path, deadline: Instant, last: &Look) -> Result<Look, ImageError> {
    let gone = Instant::now();
    loop {
        match Look::take(file) {
            Err(ImageError::Missing) if gone.elapsed() < ABANDONED => wait(RETRY, deadline, last)?,
            outcome => return outcome,
        }
    }
}

/// Sleeps; the probe has nothing else to do, and the master ends it at its deadline.
fn wait(pause: Duration, deadline: Instant, look: &Look) -> Result<(), ImageError> {
    if Instant::now() + pause > deadline {
        let size = look.mark.size;
        return Err(ImageError::BeingWritten { size });
    }
    #[expect(clippy::disallowed_methods, reason = "in the probe, which nobody waits for in this way")]
    std::thread::sleep(pause);
    Ok(())
}

/// Whether a library is for another machine, which the loader passes over in its search.
pub(super) fn is_for_another_machine(error: &ImageError) -> bool {
    matches!(error, ImageError::Elf(ElfError::OtherMachine { .. }))
}
