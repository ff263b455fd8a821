//! Whether code in a file may be run: an executable mapping, made and undone.
//!
//! Owns the one mmap(2) call that shows it. Does not choose directories. A newcomer would ask statvfs(3) for
//! `ST_NOEXEC` instead: that misses security modules, and file systems that only the attempt shows.
#![allow(unsafe_code, reason = "mmap(2) and munmap(2) take and give raw addresses")]

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Probe: maps the first page of a file executable, as the loader would, and unmaps it.
///
/// # Errors
/// EPERM on a file system that is mounted noexec, EACCES where a policy forbids it, as mmap(2) gives them.
pub fn try_executable_mapping(file: &File) -> io::Result<()> {
    let length = NonZeroUsize::MIN;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_EXEC;
    // SAFETY: a private mapping at an address of the kernel's choice touches no memory of ours; it is never read.
    let start = unsafe { mmap(None, length, protection, MapFlags::MAP_PRIVATE, file, 0) }?;
    // SAFETY: the mapping was made above with this length, and nothing refers to it.
    unsafe { munmap(start, length.get()) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_can_be_mapped() {
        try_executable_mapping(&File::open("/proc/self/exe").unwrap()).unwrap();
    }

    #[test]
    fn a_file_on_a_noexec_mount_cannot() {
        use nix::sys::statvfs::{FsFlags, statvfs};
        if !statvfs("/proc").unwrap().flags().contains(FsFlags::ST_NOEXEC) {
            eprintln!("skipped a_file_on_a_noexec_mount_cannot: /proc is not mounted noexec");
            return;
        }
        let error = try_executable_mapping(&File::open("/proc/self/status").unwrap()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
}
