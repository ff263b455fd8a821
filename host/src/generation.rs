//! A generation: one immutable set of configuration, worker-class image and application images.
//!
//! The probe makes it, the master keeps it, every worker of it runs the same bytes, also one that is respawned days
//! later. What a newcomer would get wrong: nothing here is ever changed in place, and nothing is looked up again. A
//! reload makes the next generation.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::image::Image;

/// An application at its place in the URL space.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MountedApp {
    /// Without a trailing slash; empty for `/`.
    pub prefix: String,
    /// Its name in the library.
    pub name: String,
    /// Its settings, a JSON object as text.
    pub settings: String,
    /// Index into [`Generation::apps`]: several mounts may share a library.
    pub image: usize,
}

/// One immutable set of what runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Generation {
    /// Counted from 1.
    pub number: u64,
    /// The configuration, everything resolved.
    pub config: Config,
    /// The worker class.
    pub class: Image,
    /// The options of the worker class: what the operator set, else the defaults of the class.
    pub class_options: Vec<(String, String)>,
    /// The libraries of applications, each once.
    pub apps: Vec<Image>,
    /// The applications, longest prefix first.
    pub mounts: Vec<MountedApp>,
    /// The libraries that have hooks and nothing else.
    pub hooks: Vec<Image>,
    /// Where the images lie; removed when the last process that uses them is gone.
    pub directory: PathBuf,
}

impl Generation {
    /// What the worker class calls itself.
    pub fn class_name(&self) -> &str {
        let named = self.class.note.as_ref().and_then(|note| note.get("class"));
        named.unwrap_or(&self.config.worker_class.name)
    }

    /// The images that have hooks, in the order in which they are called: those of the setting, then applications.
    pub fn hook_images(&self) -> impl Iterator<Item = &Image> {
        let has_hooks = |image: &&Image| image.note.as_ref().is_some_and(|note| note.get("hooks").is_some());
        self.hooks.iter().chain(self.apps.iter().filter(has_hooks))
    }

    /// All images, in the order in which load ranges are numbered: the class, the applications, the hooks.
    pub fn images(&self) -> impl Iterator<Item = &Image> {
        std::iter::once(&self.class).chain(&self.apps).chain(&self.hooks)
    }
}
