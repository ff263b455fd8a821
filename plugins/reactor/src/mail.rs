//! What wakes the loop out of epoll_wait(2): keys of connections that want to be looked at.
//!
//! It owns an eventfd and the protocol that writes it only when the loop sleeps. The eventfd is watched
//! edge-triggered: each write is an event, and nobody ever needs to read it.
//!
//! | bit      | set by                                | means                                              |
//! |----------|---------------------------------------|----------------------------------------------------|
//! | `MAIL`   | anybody, any thread                   | there is something to look at before sleeping      |
//! | `ASLEEP` | the loop, when no other bit is set    | who sets `MAIL` must also write the eventfd        |
//!
//! What a newcomer gets wrong: [`Mail::leave`] posts without waking. What it posts is found when the loop wakes
//! for another reason, and keeps it from going to sleep; it does not disturb a sleeping loop.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

const MAIL: u8 = 1;
const ASLEEP: u8 = 2;

pub(crate) struct Mail {
    bits: AtomicU8,
    event: OwnedFd,
    rung: Mutex<Vec<u64>>,
}

/// A panic under one of these locks leaves a whole list behind.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mail {
    pub(crate) fn new() -> Result<Self, Errno> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { bits: AtomicU8::new(0), event, rung: Mutex::new(Vec::new()) })
    }

    /// To be watched for input, edge-triggered.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// This connection wants to be looked at.
    pub(crate) fn ring(&self, key: u64) {
        lock(&self.rung).push(key);
        self.wake();
    }

    /// There is something to look at: now, if the loop sleeps.
    pub(crate) fn wake(&self) {
        if self.bits.fetch_or(MAIL, Ordering::SeqCst) & ASLEEP != 0 {
            // Fails only if the counter is full, and then it was written often enough.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    /// There is something to look at when the loop is awake.
    pub(crate) fn leave(&self) {
        self.bits.fetch_or(MAIL, Ordering::SeqCst);
    }

    /// The loop: announces its sleep; `false` if there is a reason not to.
    pub(crate) fn falls_asleep(&self) -> bool {
        self.bits.compare_exchange(0, ASLEEP, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The loop: is awake.
    pub(crate) fn wakes_up(&self) {
        self.bits.fetch_and(!ASLEEP, Ordering::SeqCst);
    }

    /// The loop: whether there is something, which is then taken.
    pub(crate) fn take(&self, rung: &mut Vec<u64>) -> bool {
        // The loop sees its own post without a lock; most turns there is none.
        if self.bits.load(Ordering::SeqCst) & MAIL == 0 {
            return false;
        }
        self.bits.fetch_and(!MAIL, Ordering::SeqCst);
        std::mem::swap(&mut *lock(&self.rung), rung);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::timespec;
    use rustix::event::{PollFd, PollFlags, poll};
    use std::time::Duration;

    fn readable(mail: &Mail) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(mail.fd(), PollFlags::IN)];
        poll(&mut fds, Some(&timespec(Duration::ZERO))).unwrap() == 1
    }

    #[test]
    fn post_while_awake_costs_no_system_call_and_keeps_from_sleeping() {
        let mail = Mail::new().unwrap();
        mail.ring(7);
        assert!(!readable(&mail) && !mail.falls_asleep());
        let mut rung = Vec::new();
        assert!(mail.take(&mut rung) && rung == [7] && !mail.take(&mut rung));
        assert!(mail.falls_asleep());
    }

    #[test]
    fn post_while_asleep_wakes_unless_it_is_only_left() {
        let mail = Mail::new().unwrap();
        assert!(mail.falls_asleep());
        mail.leave();
        assert!(!readable(&mail));
        std::thread::scope(|scope| scope.spawn(|| mail.ring(7)).join().unwrap());
        assert!(readable(&mail));
        mail.wakes_up();
        assert!(!mail.falls_asleep());
    }
}
