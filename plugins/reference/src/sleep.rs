//! A future that is ready after a while: a thread for each, which is enough for a test.
//!
//! What a newcomer would get wrong: a future may be polled again by another thread with another waker, so that the last
//! waker counts, and one that was dropped must not be woken for.

use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

#[derive(Default)]
struct Shared {
    over: bool,
    waker: Option<Waker>,
}

pub(crate) fn milliseconds(count: u64) -> impl Future<Output = ()> {
    let shared = Arc::new(Mutex::new(Shared::default()));
    let mut begun = false;
    poll_fn(move |context| {
        let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if state.over {
            return Poll::Ready(());
        }
        state.waker = Some(context.waker().clone());
        if !begun {
            begun = true;
            // Weak, so that a future that is dropped takes its waker with it.
            let shared = Arc::downgrade(&shared);
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(count));
                let Some(shared) = shared.upgrade() else { return };
                let waker = {
                    let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    state.over = true;
                    state.waker.take()
                };
                if let Some(waker) = waker {
                    waker.wake();
                }
            });
        }
        Poll::Pending
    })
}
