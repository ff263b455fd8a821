//! The parts of the rgunicorn master, so far: settings, sockets, logs and system calls.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests have threads, and wait as they like"))]

pub mod access_log;
pub mod cli;
pub mod config;
pub mod error;
pub mod listener;
pub mod logging;
pub mod pidfile;
pub mod settings;
pub mod sys;
#[cfg(test)]
mod temp_dir;
