//! Hooks: what a library that is neither class nor application is told of a worker's life.
//!
//! | hook | when | thread | an error |
//! |---|---|---|---|
//! | `post_fork` | after the fork, before class and applications are loaded (with `preload_app` they are) | main | fails the boot |
//! | `post_worker_init` | every application is started and ready | main | fails the boot |
//! | `pre_request` | a head was read | any, several at once | is logged |
//! | `post_request` | its answer has ended | any, several at once | is logged |
//! | `worker_int` | INT or QUIT was sent to the worker itself | watch | is logged |
//! | `worker_abort` | the worker was silent for `timeout`, and is about to be aborted | watch | is logged |
//! | `worker_exit` | the class has returned, or the worker must leave at once; not after a crash | main or watch | is logged |
//!
//! All run in the worker, with its rights. What a newcomer would get wrong: hooks on the watch thread run beside the
//! threads that serve, also while one of those holds a lock for ever.

use crate::abi;
use std::time::Duration;

/// What a hook is told. `[worker] [any thread]`
#[derive(Debug, Default)]
pub struct Event<'e> {
    pub(crate) numbers: [u64; 4],
    pub(crate) texts: [&'e [u8]; 2],
}

impl<'e> Event<'e> {
    /// The worker's number in order of birth.
    #[must_use]
    pub fn age(&self) -> u64 {
        self.numbers[abi::EVENT_AGE]
    }

    /// Its generation, counted from 1.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.numbers[abi::EVENT_GENERATION]
    }

    /// `post_request`: the status of the answer; 0 if there was none.
    #[must_use]
    pub fn status(&self) -> u16 {
        u16::try_from(self.numbers[abi::EVENT_STATUS]).unwrap_or(0)
    }

    /// `post_request`: from the head of the request to the end of its answer.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_micros(self.numbers[abi::EVENT_MICROS])
    }

    /// `pre_request`, `post_request`: as the client sent it; empty if it could not be understood.
    #[must_use]
    pub fn method(&self) -> &'e [u8] {
        self.texts[abi::EVENT_METHOD]
    }

    /// `pre_request`, `post_request`: as the client sent it; empty if it could not be understood.
    #[must_use]
    pub fn target(&self) -> &'e [u8] {
        self.texts[abi::EVENT_TARGET]
    }
}
