//! Hooks: what a library of hooks, or an application that has some with it, is told of server, workers and requests.
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
//! | `on_starting` | the first generation is about to boot | hook process | is logged |
//! | `when_ready` | the first worker is ready, and the server listens | hook process | is logged |
//! | `on_reload` | a reload is asked for | hook process | refuses the reload |
//! | `pre_fork` | a worker is about to be forked | hook process | is logged |
//! | `pre_exec` | a new master is about to be executed | hook process | refuses that |
//! | `nworkers_changed` | there shall be another number of workers | hook process | is logged |
//! | `child_exit` | a worker has ended, however | hook process | is logged |
//! | `on_exit` | the last worker has ended | hook process | is logged |
//!
//! Those with a thread run in the worker, with its rights; the others one after the other in a process of the
//! generation that has the workers' rights too. The master waits for `on_reload`, `pre_fork` and `pre_exec`, 5 s at most;
//! one that does not answer has not refused. What a newcomer would get wrong: hooks on the watch thread run beside the
//! threads that serve, also while one of those holds a lock for ever.

use crate::abi;
use std::time::Duration;

/// What a hook is told. `[worker, hook process] [any thread]`
#[derive(Debug, Default)]
pub struct Event<'e> {
    pub(crate) numbers: [u64; 9],
    pub(crate) texts: [&'e [u8]; 2],
}

impl<'e> Event<'e> {
    /// The worker's number in order of birth; 0 if it is not about one.
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

    /// `child_exit`: the worker's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        u32::try_from(self.numbers[abi::EVENT_PID]).unwrap_or(0)
    }

    /// `child_exit`: the code it has ended with; 0 if a signal has killed it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::try_from(self.numbers[abi::EVENT_EXIT_CODE]).unwrap_or(0)
    }

    /// `child_exit`: the signal that has killed it; 0 if none has.
    #[must_use]
    pub fn signal(&self) -> u32 {
        u32::try_from(self.numbers[abi::EVENT_SIGNAL]).unwrap_or(0)
    }

    /// `nworkers_changed`: how many there shall be.
    #[must_use]
    pub fn workers(&self) -> u64 {
        self.numbers[abi::EVENT_WORKERS]
    }

    /// `nworkers_changed`: how many there should be before; 0 at the start.
    #[must_use]
    pub fn workers_before(&self) -> u64 {
        self.numbers[abi::EVENT_WORKERS_BEFORE]
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
