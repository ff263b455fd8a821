//! The parts of the rgunicorn master, so far: what it needs to know and to keep.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests have threads, and wait as they like"))]

pub mod access_log;
pub mod cli;
pub mod config;
pub mod elf_note;
pub mod error;
pub mod image;
pub mod listener;
pub mod logging;
pub mod pidfile;
pub mod roster;
pub mod scoreboard;
pub mod settings;
pub mod sys;
#[cfg(test)]
mod temp_dir;
