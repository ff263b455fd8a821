//! Futures that wait for sockets, and the one thread that waits for all of them.
//!
//! Owns the epoll instance and the list of who waits for which socket. A newcomer might register a socket once and
//! for all: level-triggered, one whose reader rests would wake the thread for ever; edge-triggered, an edge that comes
//! when nobody waits is lost. Here a socket is armed by whoever is about to wait for it, for one event (`EPOLLONESHOT`
//! in epoll_ctl(2)). One that is ready already fires at once, so that nothing can be missed in between.

use rgunicorn_worker_api::prelude::log;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{Builder, JoinHandle};

/// The event of the eventfd; sockets are counted from 1.
const STOP: u64 = 0;

struct Waits {
    epoll: OwnedFd,
    stop: OwnedFd,
    stopping: AtomicBool,
    wakers: Mutex<HashMap<u64, Waker>>,
    next: AtomicU64,
}

impl Waits {
    fn wakers(&self) -> MutexGuard<'_, HashMap<u64, Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's life.
    fn run(&self) {
        let mut events = [MaybeUninit::uninit(); 256];
        while !self.stopping.load(Ordering::Acquire) {
            let happened = match epoll::wait(&self.epoll, &mut events, None) {
                Ok((happened, _)) => happened,
                Err(Errno::INTR) => continue,
                Err(error) => {
                    log::error!(
                        "downstream: cannot wait for sockets: {error}; calls end by their time limit"
                    );
                    return;
                }
            };
            for event in happened {
                let waker = self.wakers().remove(&event.data.u64());
                // Outside of the lock, as in the timer.
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        }
    }
}

/// Waits for the sockets of a worker.
pub(crate) struct Poller {
    waits: Arc<Waits>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Poller {
    /// Makes the epoll instance and starts the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let waits = Arc::new(Waits {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            stop: eventfd(0, EventfdFlags::CLOEXEC)?,
            stopping: AtomicBool::new(false),
            wakers: Mutex::default(),
            next: AtomicU64::new(STOP + 1),
        });
        epoll::add(&waits.epoll, &waits.stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
        let ours = Arc::clone(&waits);
        let thread = Builder::new().name("poller".to_owned()).spawn(move || ours.run())?;
        Ok(Self { waits, thread: Mutex::new(Some(thread)) })
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.waits.stopping.store(true, Ordering::Release);
        if let Err(error) = rustix::io::write(&self.waits.stop, &1_u64.to_ne_bytes()) {
            log::error!("downstream: cannot wake the thread that waits for sockets: {error}");
            return;
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A panic of the thread's has been logged where it happened.
        let _ = thread.map(JoinHandle::join);
    }

    /// A socket that does not block, to be waited for.
    pub(crate) fn watch(&self, stream: TcpStream) -> io::Result<Watched> {
        let number = self.waits.next.fetch_add(1, Ordering::Relaxed);
        // Armed for nothing: it is told when somebody waits.
        let flags = epoll::EventFlags::ONESHOT;
        epoll::add(&self.waits.epoll, &stream, epoll::EventData::new_u64(number), flags)?;
        Ok(Watched { stream, number, waits: Arc::clone(&self.waits) })
    }
}

/// A socket, closed when this is dropped.
pub(crate) struct Watched {
    stream: TcpStream,
    number: u64,
    waits: Arc<Waits>,
}

impl Watched {
    /// Tries something that reads or waits for its end, and arranges to be woken if it would block.
    pub(crate) fn poll_readable<R>(
        &self,
        context: &Context<'_>,
        attempt: impl FnOnce(&TcpStream) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        self.poll(context, epoll::EventFlags::IN | epoll::EventFlags::RDHUP, attempt)
    }

    /// Tries something that writes or waits for the connection.
    pub(crate) fn poll_writable<R>(
        &self,
        context: &Context<'_>,
        attempt: impl FnOnce(&TcpStream) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        self.poll(context, epoll::EventFlags::OUT, attempt)
    }

    fn poll<R>(
        &self,
        context: &Context<'_>,
        flags: epoll::EventFlags,
        attempt: impl FnOnce(&TcpStream) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        match attempt(&self.stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result),
        }
        // First the waker, then the event that takes it.
        let before = self.waits.wakers().insert(self.number, context.waker().clone());
        drop(before);
        let (data, flags) = (epoll::EventData::new_u64(self.number), flags | epoll::EventFlags::ONESHOT);
        match epoll::modify(&self.waits.epoll, &self.stream, data, flags) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Closing would take it out as well; an event that is being delivered finds no waker either way.
        let _ = epoll::delete(&self.waits.epoll, &self.stream);
        let waker = self.waits.wakers().remove(&self.number);
        drop(waker);
    }
}
