//! Safe types over system calls: one file per subject, nothing about servers.
//!
//! Owns every `unsafe` block that talks to the kernel. Decides nothing: who is forked, signalled or waited for is
//! said by the callers. A newcomer's likely mistake is to add a call elsewhere "because nix has it": nix hides real-time
//! signals in `waitpid`, and leaves EINTR to the caller; here each outcome in the manual page has been looked at.

pub mod exec;
pub mod exec_map;
pub mod fd;
pub mod filter;
pub mod fork;
pub mod inherit;
pub mod inotify;
pub mod process;
pub mod shm;
pub mod signal;
pub mod tcp;
pub mod title;
pub mod unix_diag;
pub mod wait;

pub use nix::unistd::Pid;
