//! Memory shared between the master and every process forked after it was made.
//!
//! Owns the mapping and the rule of what may live in it. Does not own any layout: the scoreboard names the words.
//! Easily got wrong: the other side may be hostile or killed between two stores, so that no value in here is ever
//! trusted, and no lock may live in here: its holder can die.
#![allow(unsafe_code, reason = "a slice over mmap(2)ed memory needs a raw pointer")]

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64};

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

/// A type that may live in memory shared between processes.
///
/// # Safety
/// All-zero bytes are a valid value, every byte pattern is, and everything in it is an atomic integer: no pointer, no
/// lock, no padding that is read, no destructor.
pub unsafe trait Plain: Sync + 'static {}

// SAFETY: an atomic integer takes every bit pattern and owns nothing.
unsafe impl Plain for AtomicU32 {}
// SAFETY: as above.
unsafe impl Plain for AtomicU64 {}
// SAFETY: an array has no padding between its elements and adds nothing to them.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// `len` items of `T`, zero at first, shared with every child forked later; never unmapped.
pub struct Shared<T: 'static>(&'static [T]);

impl<T: Plain> Shared<T> {
    /// Master: maps the memory. Pages cost nothing until they are touched.
    ///
    /// # Errors
    /// ENOMEM as mmap(2) gives it, or `InvalidInput` for no items, or too many to count.
    pub fn new(len: usize) -> io::Result<Self> {
        let bytes = size_of::<T>()
            .checked_mul(len)
            .and_then(NonZeroUsize::new)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { mmap_anonymous(None, bytes, protection, MapFlags::MAP_SHARED) }?;
        // A page is aligned for every atomic. The kernel zeroed it, which `Plain` makes a valid value.
        // SAFETY: the mapping holds exactly `len` items, is never unmapped, and is only written through atomics.
        let items = unsafe { std::slice::from_raw_parts(start.as_ptr().cast::<T>(), len) };
        Ok(Self(items))
    }
}

impl<T> Shared<T> {
    /// The items, for as long as the process lives.
    pub fn items(&self) -> &'static [T] {
        self.0
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

impl<T> Deref for Shared<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0
    }
}

impl<T> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("len", &self.0.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::super::fork::fork;
    use super::super::wait::{Ended, wait};
    use super::*;

    #[test]
    fn starts_at_zero_and_is_seen_by_the_other_process() {
        let shared: Shared<[AtomicU64; 3]> = Shared::new(1000).unwrap();
        assert!(shared.iter().flatten().all(|word| word.load(Relaxed) == 0));
        shared[999][2].store(5, Relaxed);
        let pid = fork(move || {
            shared[0][0].store(9, Relaxed);
            i32::from(shared[999][2].load(Relaxed) != 5)
        })
        .unwrap();
        assert_eq!(wait(pid).unwrap(), Ended::Exited(0));
        assert_eq!(shared[0][0].load(Relaxed), 9);
    }

    #[test]
    fn impossible_sizes_are_errors() {
        assert!(Shared::<AtomicU64>::new(0).is_err());
        assert!(Shared::<AtomicU64>::new(usize::MAX).is_err());
        assert!(Shared::<AtomicU64>::new(usize::MAX / 16).is_err());
    }
}
