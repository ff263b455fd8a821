//! Executing another program in place of a forked child, with descriptors at numbers that it knows.
//!
//! Owns the renumbering and execve(2). Does not own what is executed, nor the words that tell the program about its
//! descriptors. What a newcomer would get wrong: the mask of blocked signals goes on over exec, and is meant to: a signal
//! that comes before the new program reads any waits, instead of killing it.
#![allow(unsafe_code, reason = "dup3(2) onto numbers that other values believe to own")]

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::inherit::FIRST;

/// Child: puts copies of `fds` at the numbers from 3 on, in this order, open over exec, and returns them: keep them until
/// then.
///
/// What had these numbers before is closed, whoever owned it: only for a child that executes a program next or leaves.
///
/// # Errors
/// EMFILE.
pub fn place(fds: &[BorrowedFd<'_>]) -> io::Result<Vec<OwnedFd>> {
    let beyond = FIRST + RawFd::try_from(fds.len()).map_err(io::Error::other)?;
    // First out of the way: one of them may lie where another one goes.
    let mut moved = Vec::with_capacity(fds.len());
    for fd in fds {
        moved.push(fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(beyond))?);
    }
    let mut placed = Vec::with_capacity(moved.len());
    for (number, fd) in (FIRST..).zip(&moved) {
        // SAFETY: closes what other values own; in this process, a forked child that executes a program or leaves through
        // _exit, none of them is used or dropped again (the caller's promise). Without flags it is open over exec.
        if unsafe { libc::dup3(*fd, number, 0) } < 0 {
            return Err(Errno::last().into());
        }
        // SAFETY: dup3(2) has just opened it, and what owned the number is never used again.
        placed.push(unsafe { OwnedFd::from_raw_fd(number) });
    }
    debug_assert!(placed.iter().map(AsRawFd::as_raw_fd).eq(FIRST..beyond), "one after the other");
    Ok(placed)
}

/// Child: becomes another program; returns only if that fails.
///
/// # Errors
/// As execve(2) gives them; `InvalidInput` for a word with a zero octet.
pub fn execute(
    program: &Path,
    words: &[OsString],
    variables: &[(OsString, OsString)],
) -> io::Result<Infallible> {
    let text = |word: &OsStr| CString::new(word.as_bytes()).map_err(io::Error::from);
    let words = words.iter().map(|word| text(word)).collect::<io::Result<Vec<_>>>()?;
    let pair = |(name, value): &(OsString, OsString)| {
        let mut pair = name.clone();
        pair.push("=");
        pair.push(value);
        text(&pair)
    };
    let variables = variables.iter().map(pair).collect::<io::Result<Vec<_>>>()?;
    Ok(nix::unistd::execve(&text(program.as_os_str())?, &words, &variables)?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::super::fd::pipe;
    use super::super::fork::fork;
    use super::super::wait::{Ended, wait};
    use super::*;

    #[test]
    fn descriptors_and_variables_are_in_the_new_program_where_it_looks() {
        let ((read, write), (other, _end)) = (pipe().unwrap(), pipe().unwrap());
        File::from(write).write_all(b"four\n").unwrap();
        let pid = fork(|| {
            // Swapped on purpose: whatever numbers they have now, one may lie where the other goes.
            let _placed = place(&[other.as_fd(), read.as_fd()]).unwrap();
            let script = "read -r word <&4 && [ \"$word\" = \"$WORD\" ]";
            let words = ["sh", "-c", script].map(OsString::from);
            let failed = execute(Path::new("/bin/sh"), &words, &[("WORD".into(), "four".into())]);
            i32::from(failed.is_err()) + 1
        })
        .unwrap();
        assert_eq!(wait(pid).unwrap(), Ended::Exited(0));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let error = execute(Path::new("/nowhere/x"), &["x".into()], &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let error = execute(Path::new("/bin/true"), &["a\0b".into()], &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
