//! The rgunicorn master: supervises worker processes and swaps what they run.
//!
//! From start to stop: [`cli`] reads what was typed; the [`arbiter`] takes the process over and forks a [`probe`], which
//! loads the [`config`], copies the [`image`]s of a [`generation`] and tries them; the arbiter binds the
//! [`listener`]s and forks [`worker`]s, itself or by a [`template`], in which the [`runtime`] stands between the worker class, the applications and
//! the [`scoreboard`]. HUP is the same transaction again. What is spawned, drained and killed is decided by the
//! [`roster`], which forks nothing.
//!
//! Reading order: [`arbiter`], [`roster`], [`probe`], [`worker`], [`runtime`], [`plugin`].

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests have threads, and wait as they like"))]

pub mod access_log;
pub mod arbiter;
pub mod balance;
pub mod certify;
pub mod check;
pub mod class_help;
pub mod cli;
pub mod config;
pub mod ctl;
pub mod daemon;
pub mod dev;
pub mod elf_note;
pub mod error;
pub mod generation;
pub mod hook_process;
pub mod hooks;
pub mod image;
pub mod inherit;
pub mod inspect;
pub mod listener;
pub mod logging;
pub mod monitor;
pub mod new;
pub mod oom;
pub mod outcome;
pub mod pidfile;
pub mod plugin;
pub mod probe;
pub mod roster;
pub mod runtime;
pub mod scoreboard;
pub mod settings;
pub mod sys;
pub mod systemd;
#[cfg(test)]
mod temp_dir;
pub mod template;
pub mod verb;
mod walk;
pub mod watch;
pub mod worker;
