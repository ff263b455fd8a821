//! The worker classes of the workspace, and what each can.
//!
//! Owns the list: a test that must hold under every class goes through it, so that a new class meets all that is known
//! about the old ones. Knows of a class only what an operator reads about it. What a newcomer would get wrong: what a
//! class cannot do is no reason to leave it out; the test says what it does instead.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A worker class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// What `-k` takes.
    pub name: &'static str,
    /// Whether a connection is kept for the next request.
    pub keeps_alive: bool,
    /// Whether `--threads` of them run blocking applications at a time.
    pub threads: bool,
    /// Whether requests wait for async applications without a thread, any number of them.
    pub futures: bool,
    /// Whether an inline application keeps the loop from going on, so that `timeout` finds one that sleeps.
    pub inline_on_loop: bool,
}

/// All of them, in the order in which a site grows.
pub const CLASSES: [Class; 3] = [
    Class { name: "sync", keeps_alive: false, threads: false, futures: false, inline_on_loop: true },
    Class { name: "threaded", keeps_alive: true, threads: true, futures: true, inline_on_loop: false },
    Class { name: "poll", keeps_alive: true, threads: true, futures: true, inline_on_loop: true },
];

/// All of them, one after the other.
pub fn classes() -> impl Iterator<Item = Class> {
    CLASSES.into_iter()
}

/// Tries something under each class, also after it failed under another one.
///
/// # Panics
/// If it panicked under one; the panic's own words are above, after the name of the class.
#[track_caller]
pub fn under_each_class(test: impl Fn(Class)) {
    under_each("every class", |_| true, test);
}

/// Tries something under each class that keeps connections.
///
/// # Panics
/// As [`under_each_class`].
#[track_caller]
pub fn under_each_that_keeps_alive(test: impl Fn(Class)) {
    under_each("every class that keeps connections", |class| class.keeps_alive, test);
}

/// Tries something under each class that has threads.
///
/// # Panics
/// As [`under_each_class`].
#[track_caller]
pub fn under_each_with_threads(test: impl Fn(Class)) {
    under_each("every class with threads", |class| class.threads, test);
}

/// Tries something under all classes at a time: for what waits most of the time, in a [`Site`](crate::Site) for such.
///
/// # Panics
/// As [`under_each_class`].
#[track_caller]
pub fn under_all_classes_at_a_time(test: impl Fn(Class) + Sync) {
    let failed: Vec<&str> = std::thread::scope(|scope| {
        let test = &test;
        let tried: Vec<_> = classes().map(|class| (class.name, scope.spawn(move || test(class)))).collect();
        tried.into_iter().filter_map(|(name, thread)| thread.join().is_err().then_some(name)).collect()
    });
    assert!(failed.is_empty(), "of every class, failed under {failed:?}");
}

#[track_caller]
fn under_each(which: &str, wanted: impl Fn(&Class) -> bool, test: impl Fn(Class)) {
    let failed: Vec<&str> = classes()
        .filter(|class| wanted(class))
        .filter(|class| {
            eprintln!("--- under {}:", class.name);
            // What a failed test leaves behind is a directory, which belongs to that class alone.
            catch_unwind(AssertUnwindSafe(|| test(*class))).is_err()
        })
        .map(|class| class.name)
        .collect();
    assert!(failed.is_empty(), "of {which}, failed under {failed:?}");
}
