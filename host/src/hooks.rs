//! The hooks of a generation: which libraries have which, and what each is told.
//!
//! Owns the calls and what an error of a hook means: two of them are part of the boot, the others are only heard. Does
//! not own the moments ([`crate::worker`], [`crate::runtime`]). What a newcomer would get wrong: a hook that nobody has
//! must cost nothing, so the bits are looked at before anything is put together for the call, and a worker without any
//! holds no hooks at all.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rgunicorn_worker_api::abi::{self, Bytes};
use rgunicorn_worker_api::request::Request;

use crate::image::Image;
use crate::plugin::{self, HookPlugin, PluginError};
use crate::runtime::Runtime;

/// Those that run in the hook process, by name.
pub const MASTER_HOOKS: &[&str] = &[
    "on_starting",
    "when_ready",
    "on_reload",
    "pre_fork",
    "child_exit",
    "nworkers_changed",
    "pre_exec",
    "on_exit",
];

/// The libraries of a generation that have hooks, in the order in which they are called.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "tables of functions")]
pub struct Hooks {
    libraries: Vec<(&'static Image, HookPlugin)>,
    /// A bit for each hook that one of them has.
    present: u64,
}

impl Hooks {
    /// Probe, Template, Worker: opens the libraries.
    ///
    /// # Errors
    /// The first that cannot be opened.
    pub fn open(
        runtime: &'static Runtime,
        place: impl Fn(&Path) -> PathBuf + Copy,
    ) -> Result<Self, PluginError> {
        let mut hooks = Self { libraries: Vec::new(), present: 0 };
        for image in runtime.generation().hook_images() {
            runtime.slot().set_stage(&format!("loading {}", image.original.display()));
            let library = HookPlugin::open(image, place)?;
            hooks.present |= library.present();
            hooks.libraries.push((image, library));
        }
        Ok(hooks)
    }

    /// Worker: it is forked.
    ///
    /// # Errors
    /// A hook has refused, and with it the boot.
    pub fn post_fork(&self, runtime: &Runtime) -> Result<(), PluginError> {
        self.ask(runtime, abi::HOOK_POST_FORK)
    }

    /// Whether a worker that serves is told of anything: else it need not even ask.
    pub fn hear_of_service(&self) -> bool {
        let hooks = [
            abi::HOOK_PRE_REQUEST,
            abi::HOOK_POST_REQUEST,
            abi::HOOK_WORKER_INT,
            abi::HOOK_WORKER_ABORT,
            abi::HOOK_WORKER_EXIT,
        ];
        hooks.into_iter().any(|hook| self.has(hook))
    }

    /// Worker: its applications are ready.
    ///
    /// # Errors
    /// A hook has refused, and with it the boot.
    pub fn post_worker_init(&self, runtime: &Runtime) -> Result<(), PluginError> {
        self.ask(runtime, abi::HOOK_POST_WORKER_INIT)
    }

    /// Worker: a request begins.
    pub fn pre_request(&self, runtime: &Runtime, request: &Request<'_>) {
        if self.has(abi::HOOK_PRE_REQUEST) {
            let texts = [request.method(), request.target()].map(Bytes::new);
            self.heard(abi::HOOK_PRE_REQUEST, &facts(runtime), &texts);
        }
    }

    /// Worker: a request has ended; none is one that could not be understood.
    pub fn post_request(
        &self,
        runtime: &Runtime,
        request: Option<&Request<'_>>,
        status: u16,
        duration: Duration,
    ) {
        if self.has(abi::HOOK_POST_REQUEST) {
            let texts = request
                .map_or([Bytes::new(b""); 2], |request| [request.method(), request.target()].map(Bytes::new));
            let [age, generation] = facts(runtime);
            let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
            self.heard(abi::HOOK_POST_REQUEST, &[age, generation, status.into(), micros], &texts);
        }
    }

    /// Worker: any of the others.
    pub fn tell(&self, runtime: &Runtime, hook: u32) {
        if self.has(hook) {
            self.heard(hook, &facts(runtime), &[]);
        }
    }

    fn has(&self, hook: u32) -> bool {
        self.present >> hook & 1 == 1
    }

    fn having(&self, hook: u32) -> impl Iterator<Item = &(&'static Image, HookPlugin)> {
        self.libraries.iter().filter(move |(_, library)| library.present() >> hook & 1 == 1)
    }

    fn ask(&self, runtime: &Runtime, hook: u32) -> Result<(), PluginError> {
        self.run(runtime, hook, &facts(runtime))
    }

    /// Worker, hook process: runs a hook that is told numbers only, of one library after the other.
    ///
    /// # Errors
    /// The first that failed; the others are not run then.
    pub fn run(&self, runtime: &Runtime, hook: u32, numbers: &[u64]) -> Result<(), PluginError> {
        for (image, library) in self.having(hook) {
            runtime.slot().set_stage(&format!("in the hook {} of {}", name(hook), image.original.display()));
            library.call(hook, numbers, &[]).map_err(|why| plugin::hook_failed(image, name(hook), &why))?;
        }
        Ok(())
    }

    fn heard(&self, hook: u32, numbers: &[u64], texts: &[Bytes]) {
        for (image, library) in self.having(hook) {
            if let Err(why) = library.call(hook, numbers, texts) {
                log::error!("{}", plugin::hook_failed(image, name(hook), &why));
            }
        }
    }
}

/// What every hook is told, in the order of `EVENT_AGE` and `EVENT_GENERATION`.
fn facts(runtime: &Runtime) -> [u64; 2] {
    [runtime.age(), runtime.generation().number]
}

/// The names behind a library's bits.
pub fn names(present: u64) -> Vec<String> {
    let bits = (0..u64::BITS).filter(|hook| present & (1 << hook) != 0);
    bits.map(|hook| name(hook).to_owned()).collect()
}

fn name(hook: u32) -> &'static str {
    match hook {
        abi::HOOK_POST_FORK => "post_fork",
        abi::HOOK_POST_WORKER_INIT => "post_worker_init",
        abi::HOOK_WORKER_INT => "worker_int",
        abi::HOOK_WORKER_ABORT => "worker_abort",
        abi::HOOK_WORKER_EXIT => "worker_exit",
        abi::HOOK_PRE_REQUEST => "pre_request",
        abi::HOOK_ON_STARTING => "on_starting",
        abi::HOOK_WHEN_READY => "when_ready",
        abi::HOOK_ON_RELOAD => "on_reload",
        abi::HOOK_CHILD_EXIT => "child_exit",
        abi::HOOK_NWORKERS_CHANGED => "nworkers_changed",
        abi::HOOK_ON_EXIT => "on_exit",
        abi::HOOK_PRE_FORK => "pre_fork",
        abi::HOOK_PRE_EXEC => "pre_exec",
        _ => "post_request",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../docs/HOOKS.md");

    #[test]
    fn every_hook_of_gunicorn_has_a_row() {
        let list = include_str!("settings/gunicorn_27.txt");
        let of_hooks = |section: &&str| section.lines().next().is_some_and(|title| title.ends_with("Hooks"));
        let lines = list.split("\n## ").filter(of_hooks).flat_map(|section| section.lines().skip(1));
        let names: Vec<&str> = lines.filter_map(|line| line.split('\t').next()).collect();
        assert_eq!(names.len(), 20, "the list is not read any more: {names:?}");
        for name in names {
            let there = PAGE.lines().any(|line| line.starts_with('|') && line.contains(&format!("`{name}`")));
            assert!(there, "docs/HOOKS.md has no row for {name}");
        }
    }

    #[test]
    fn every_hook_has_a_name_of_its_own_and_runs_where_it_belongs() {
        let names: std::collections::BTreeSet<&str> = (0..=abi::HOOK_PRE_EXEC).map(name).collect();
        assert_eq!(names.len(), 1 + abi::HOOK_PRE_EXEC as usize);
        for name in &names {
            let row = PAGE.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
            let row = row.unwrap_or_else(|| panic!("docs/HOOKS.md has no row for {name}"));
            assert_eq!(row.contains("| adapted |"), MASTER_HOOKS.contains(name), "{row}");
        }
        assert!(MASTER_HOOKS.iter().all(|name| names.contains(name)));
    }
}
