//! Signals: blocked and read from a descriptor in the master, a few words of handler in a worker.
//!
//! Owns masks, dispositions, the signalfd and the only code of ours that ever runs inside a signal handler. Does not
//! own what a signal means. Easily got wrong: a handler may interrupt an allocation or a lock, so that it only stores
//! integers, writes an eventfd and puts `errno` back; and an *ignored* signal survives execve(2) into programs that an
//! application starts while a handled one does not, which is why nothing is ever set to SIG_IGN here.
#![allow(unsafe_code, reason = "sigaction(2), sigaltstack(2) and the handlers themselves")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use libc::{c_int, c_void, siginfo_t};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpid, getppid};

pub use nix::sys::signal::Signal;

use super::fd::EventFd;

/// The name of a signal for a log line: `SIGTERM`, or `signal 37` for one without a name.
pub fn name(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) => format!("signal {number}"),
    }
}

/// Sends `signal` to one process. False: there is no such process (any more).
///
/// # Errors
/// `InvalidInput` for a pid that kill(2) would take for a group or for everybody; EPERM.
pub fn send(pid: Pid, signal: Signal) -> io::Result<bool> {
    if pid.as_raw() <= 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{pid} is not one process")));
    }
    match nix::sys::signal::kill(pid, signal) {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// A signal mask to go back to.
#[derive(Clone, Copy, Debug)]
pub struct Mask(SigSet);

impl Mask {
    /// Puts the mask back, for the calling thread.
    ///
    /// # Errors
    /// None that sigprocmask(2) gives for a mask that came from it.
    pub fn restore(&self) -> io::Result<()> {
        Ok(self.0.thread_set_mask()?)
    }
}

/// Blocks every signal that can be blocked and returns what was blocked before.
///
/// The mask survives execve(2): a program started by us later inherits it unless it is restored before.
///
/// # Errors
/// None that sigprocmask(2) gives for these arguments.
pub fn block_all() -> io::Result<Mask> {
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), Some(&mut before))?;
    Ok(Mask(before))
}

/// Child: unblocks every signal, after the handlers are in place. What is pending is delivered before this returns.
///
/// # Errors
/// None that sigprocmask(2) gives for these arguments.
pub fn unblock_all() -> io::Result<()> {
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Child: gives every signal its default action: neither what the master inherited (`nohup` ignores HUP, Rust's runtime
/// ignores PIPE) nor the runtime's own crash handlers go on. The mask is left alone.
///
/// # Errors
/// None that sigaction(2) gives for these arguments.
pub fn reset_to_default() -> io::Result<()> {
    for number in 1..=libc::SIGRTMAX() {
        // 32 and 33 belong to the C library, which refuses them with EINVAL.
        let theirs = (32..libc::SIGRTMIN()).contains(&number);
        if number != libc::SIGKILL && number != libc::SIGSTOP && !theirs {
            set_action(number, libc::SIG_DFL, 0, Interruptible::ByAll)?;
        }
    }
    Ok(())
}

/// A signal that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub number: i32,
    /// Who sent it, in our pid namespace; 0 when the kernel did, or a process outside of it.
    pub sender: Pid,
    /// `si_code` of sigaction(2): `SI_USER` for kill(2), `SI_KERNEL` for a terminal.
    pub code: i32,
}

impl Received {
    /// The signal, unless it has no name (real-time ones).
    pub fn signal(&self) -> Option<Signal> {
        Signal::try_from(self.number).ok()
    }
}

/// Master: pending signals as a descriptor to poll and read (signalfd(2)).
///
/// It reads the signals of the process that *reads*, not of the one that made it: a child must not use the copy that
/// it inherits. Standard signals do not queue: one CHLD may stand for many children.
#[derive(Debug)]
pub struct SignalQueue(SignalFd);

impl SignalQueue {
    /// A queue for all signals, which must be blocked ([`block_all`]) in every thread.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM, ENODEV as signalfd(2) gives them.
    pub fn new() -> io::Result<Self> {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self(SignalFd::with_flags(&SigSet::all(), flags)?))
    }

    /// Takes all signals that are pending now, without waiting. The kernel gives the lowest number first: their order
    /// is not that of arrival.
    ///
    /// # Errors
    /// None expected once the queue exists.
    pub fn take(&self) -> io::Result<Vec<Received>> {
        let mut taken = Vec::new();
        loop {
            match self.0.read_signal() {
                Ok(None) => return Ok(taken),
                Ok(Some(info)) => taken.push(Received {
                    number: info.ssi_signo.cast_signed(),
                    sender: Pid::from_raw(info.ssi_pid.cast_signed()),
                    code: info.ssi_code,
                }),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for SignalQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Child: asks the kernel to kill this process when its parent ends, however it ends (`PR_SET_PDEATHSIG`).
///
/// False: the parent had gone before the wish was in place, and nothing will come; leave at once. Must be called after
/// the last setuid(2), which clears it, and from the thread that was forked. The "parent" is the *thread* that forked
/// (prctl(2)); the master has only one.
///
/// # Errors
/// None that prctl(2) gives for these arguments.
pub fn kill_with_parent(parent: Pid) -> io::Result<bool> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    Ok(getppid() == parent)
}

/// What a worker's handlers store for its loop: a bit per signal number, and the descriptor to write.
static PENDING: AtomicU64 = AtomicU64::new(0);
static WAKE: AtomicI32 = AtomicI32::new(-1);

/// The signals a worker acts upon.
const NOTED: [Signal; 4] = [Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGINT, Signal::SIGUSR1];

/// Handled so that they neither kill nor leak through execve(2): HUP and USR2 mean something to the master only, but a
/// terminal, or `pkill` by name, sends them to everybody; PIPE is for those who write to a socket without MSG_NOSIGNAL.
/// TTIN and TTOU keep their default: a handled TTOU would make a background write to the terminal spin.
const SWALLOWED: [Signal; 3] = [Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGPIPE];

/// Worker: TERM, QUIT, INT and USR1 as a descriptor that becomes readable and a set of what came.
#[derive(Debug)]
pub struct WorkerSignals {
    wake: &'static EventFd,
}

/// Which signals came since they were last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalBits(u64);

impl SignalBits {
    /// Whether this one came, once or more often.
    pub fn contains(self, signal: Signal) -> bool {
        self.0 & bit(signal as c_int) != 0
    }

    /// Whether none came.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

fn bit(number: c_int) -> u64 {
    1u64.checked_shl(number.cast_unsigned()).unwrap_or(0)
}

impl WorkerSignals {
    /// Worker: installs the handlers, with system calls restarted after them and on the alternate stack where a thread
    /// has one (foreign runtimes, Go's among them, insist). Call before [`unblock_all`]; once in a process.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM as eventfd(2) gives them.
    pub fn install() -> io::Result<Self> {
        // Leaked: a handler may use it until the very end of the process.
        let wake: &'static EventFd = Box::leak(Box::new(EventFd::new()?));
        WAKE.store(wake.as_fd().as_raw_fd(), Ordering::Release);
        // What the parent noted and had not taken yet is the parent's.
        PENDING.store(0, Ordering::Release);
        let flags = libc::SA_RESTART | libc::SA_ONSTACK;
        for signal in NOTED {
            let handler = note as extern "C" fn(c_int) as libc::sighandler_t;
            set_action(signal as c_int, handler, flags, Interruptible::ByAll)?;
        }
        for signal in SWALLOWED {
            let handler = swallow as extern "C" fn(c_int) as libc::sighandler_t;
            set_action(signal as c_int, handler, flags, Interruptible::ByAll)?;
        }
        Ok(Self { wake })
    }

    /// Worker: what came since the last call. The descriptor is cleared first, so that a signal arriving between the
    /// two steps makes it readable again.
    ///
    /// # Errors
    /// None expected.
    pub fn take(&self) -> io::Result<SignalBits> {
        self.wake.clear()?;
        Ok(SignalBits(PENDING.swap(0, Ordering::AcqRel)))
    }
}

impl AsFd for WorkerSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

extern "C" fn note(number: c_int) {
    let errno = Errno::last_raw();
    PENDING.fetch_or(bit(number), Ordering::AcqRel);
    wake(WAKE.load(Ordering::Acquire));
    Errno::set_raw(errno);
}

extern "C" fn swallow(_number: c_int) {}

/// Adds one to an eventfd from inside a handler: write(2) is async-signal-safe, and EAGAIN (it is readable already) is
/// as good as success.
fn wake(fd: RawFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: `one` is eight live bytes. The descriptor belongs to a leaked `EventFd`, or is -1, which is EBADF.
    unsafe { libc::write(fd, one.as_ptr().cast(), one.len()) };
}

/// Where a crash is written, word by word, for another process to read.
#[derive(Clone, Copy, Debug)]
pub struct CrashCell {
    /// The signal's number, stored last: 0 means that there is no crash.
    pub signal: &'static AtomicU64,
    /// The program counter at the fault; 0 where the architecture is not known to us.
    pub pc: &'static AtomicU64,
    /// The address that could not be accessed; 0 when the signal was sent by a process.
    pub address: &'static AtomicU64,
    /// The nearest address on the stack that lies in one of `ranges`: who called the library that faulted. 0: none.
    pub caller: &'static AtomicU64,
    /// Where the images lie: three words each, start, end, and one that is not looked at. An end of 0 ends the list.
    pub ranges: &'static [AtomicU64],
}

/// What the crash handler needs; set before the handler is, never changed.
/// A worker that a template forked finds the first one taken, and sets the second.
static CRASH: [OnceLock<Crash>; 2] = [const { OnceLock::new() }; 2];
/// Of two threads that crash together the first one is written down.
static CLAIMED: AtomicBool = AtomicBool::new(false);

#[derive(Debug)]
struct Crash {
    cell: CrashCell,
    master: Pid,
    watch: RawFd,
}

/// Worker: stores a crash (SEGV, BUS, ILL, FPE, ABRT) in `cell`, then lets the default action end the process, with
/// the core file and wait status that it would have had. An ABRT sent by `master` ends nothing: it makes `watch`
/// readable, for a thread that can still say what the stuck ones are doing.
///
/// Gives the calling thread an alternate stack, without which a stack overflow could not be recorded; other threads
/// call [`alternate_stack`] themselves. Once in a process; once more in a child that it forks.
///
/// # Errors
/// ENOMEM for the stack; `AlreadyExists` on a third call.
pub fn install_crash_handlers(cell: CrashCell, master: Pid, watch: &'static EventFd) -> io::Result<()> {
    let crash = Crash { cell, master, watch: watch.as_fd().as_raw_fd() };
    let free = CRASH.iter().find(|set| set.get().is_none());
    free.and_then(|free| free.set(crash).ok()).ok_or(io::ErrorKind::AlreadyExists)?;
    alternate_stack()?;
    // No SA_RESETHAND: an ABRT of the master must leave the handler in place. `crashed` resets it by itself.
    let flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    let handler = crashed as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as libc::sighandler_t;
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT] {
        // Nothing interrupts the recording, so that another handler's crash cannot be taken for this one.
        set_action(signal, handler, flags, Interruptible::ByNone)?;
    }
    Ok(())
}

/// How much stack a crash handler gets: our own frames are small, but the kernel's signal frame holds all vector
/// registers (11 KiB with AMX).
const ALTERNATE_STACK: usize = 64 * 1024;

/// Gives the calling thread a stack for its signal handlers, for as long as the process lives.
///
/// # Errors
/// ENOMEM.
pub fn alternate_stack() -> io::Result<()> {
    let stack: &'static mut [u8] = vec![0u8; ALTERNATE_STACK].leak();
    let wanted = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: ALTERNATE_STACK };
    // SAFETY: the memory is leaked and nobody else writes it. The old stack, if any, is not freed by us.
    match unsafe { libc::sigaltstack(&raw const wanted, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn crashed(number: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let errno = Errno::last_raw();
    // SAFETY: with SA_SIGINFO the kernel passes a siginfo_t that lives as long as the handler runs (sigaction(2)).
    let info = unsafe { &*info };
    // Set before the handler was installed; `get` is one atomic load.
    if let Some(crash) = CRASH.iter().rev().find_map(OnceLock::get) {
        // SAFETY: every signal that kill(2) sent carries a pid, and SI_USER says that it was kill(2).
        let from_master = info.si_code == libc::SI_USER && unsafe { info.si_pid() } == crash.master.as_raw();
        if number == libc::SIGABRT && from_master {
            wake(crash.watch);
            Errno::set_raw(errno);
            return;
        }
        record(&crash.cell, number, info, context);
    }
    // Nothing to do about a failure: the process ends one way or the other.
    let _ = set_action(number, libc::SIG_DFL, 0, Interruptible::ByAll);
    // A fault repeats itself on return, now with the default action: its core file then shows the fault and not us.
    // A signal that a process sent (or abort(3), raise(3)) must be sent again; it is blocked until we return.
    if info.si_code <= 0 {
        // SAFETY: raise(3) is async-signal-safe and takes any number.
        unsafe { libc::raise(number) };
    }
    Errno::set_raw(errno);
}

fn record(cell: &CrashCell, number: c_int, info: &siginfo_t, context: *mut c_void) {
    if CLAIMED.swap(true, Ordering::AcqRel) {
        return;
    }
    if info.si_code > 0 {
        // SAFETY: a code above 0 comes from the kernel, which fills in the address for the faults handled here.
        let address = unsafe { info.si_addr() };
        cell.address.store(address.addr() as u64, Ordering::Relaxed);
    }
    let pc = program_counter(context);
    cell.pc.store(pc, Ordering::Relaxed);
    cell.signal.store(u64::from(number.cast_unsigned()), Ordering::Release);
    // Last: who called is a guess, and what is certain is written down by now.
    if info.si_code > 0 && !lies_in(cell.ranges, pc) {
        cell.caller.store(nearest_caller(cell.ranges, context), Ordering::Relaxed);
    }
}

fn lies_in(ranges: &[AtomicU64], address: u64) -> bool {
    ranges.chunks_exact(3).any(|range| {
        let [start, end] = [0, 1].map(|word: usize| range[word].load(Ordering::Relaxed));
        start <= address && address < end
    })
}

/// How much of the stack is searched: deep enough for the C library's own frames.
const STACK_WORDS: usize = 4096;

/// A guess without frame pointers or unwinding, neither of which a handler can rely on: the first word up the stack
/// that points into an image is almost always a return address into it.
fn nearest_caller(ranges: &[AtomicU64], context: *mut c_void) -> u64 {
    let top = stack_pointer(context);
    if top == 0 || !top.is_multiple_of(8) {
        return 0;
    }
    // Page by page, through the kernel: a load beyond the stack's base would fault with all signals blocked, and the
    // process would die of that fault instead of the one that came.
    let end = top + STACK_WORDS * size_of::<u64>();
    let mut at = top;
    let mut page = [0_u64; PAGE_WORDS];
    while at < end {
        let words = PAGE_WORDS - (at % PAGE) / size_of::<u64>();
        if !read_own_memory(at, &mut page[..words]) {
            return 0;
        }
        if let Some(word) = page[..words].iter().find(|word| lies_in(ranges, **word)) {
            return *word;
        }
        at += words * size_of::<u64>();
    }
    0
}

/// The smallest page of any machine: what lies in one is mapped as a whole or not at all.
const PAGE: usize = 4096;
const PAGE_WORDS: usize = PAGE / size_of::<u64>();

/// Copies memory of this process that may not be there. False: it is not, or a seccomp filter forbids the call.
/// One system call, no lock and no allocation, and always allowed on oneself (process_vm_readv(2)).
fn read_own_memory(from: usize, into: &mut [u64]) -> bool {
    let length = size_of_val(into);
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: length };
    let remote = libc::iovec { iov_base: std::ptr::with_exposed_provenance_mut(from), iov_len: length };
    let pid = getpid().as_raw();
    // SAFETY: the kernel writes at most `length` bytes into `into`; what it cannot read is EFAULT.
    let got = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(got) == Ok(length)
}

fn stack_pointer(context: *mut c_void) -> usize {
    // SAFETY: as for the program counter.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    #[cfg(target_arch = "x86_64")]
    let top = context.uc_mcontext.gregs[libc::REG_RSP as usize].cast_unsigned();
    #[cfg(target_arch = "aarch64")]
    let top = context.uc_mcontext.sp;
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let top = {
        let _ = context;
        0_u64
    };
    usize::try_from(top).unwrap_or(0)
}

fn program_counter(context: *mut c_void) -> u64 {
    // SAFETY: the third argument of an SA_SIGINFO handler is a ucontext_t that lives as long as the handler runs.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    #[cfg(target_arch = "x86_64")]
    let pc = context.uc_mcontext.gregs[libc::REG_RIP as usize].cast_unsigned();
    #[cfg(target_arch = "aarch64")]
    let pc = context.uc_mcontext.pc;
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let pc = {
        let _ = context;
        0
    };
    pc
}

/// Which other signals may interrupt a handler.
#[derive(Clone, Copy)]
enum Interruptible {
    ByAll,
    ByNone,
}

fn set_action(
    number: c_int,
    handler: libc::sighandler_t,
    flags: c_int,
    interruptible: Interruptible,
) -> io::Result<()> {
    let mask = match interruptible {
        Interruptible::ByAll => SigSet::empty(),
        Interruptible::ByNone => SigSet::all(),
    };
    let action = libc::sigaction {
        sa_sigaction: handler,
        sa_mask: *mask.as_ref(),
        sa_flags: flags,
        sa_restorer: None, // the C library's own business
    };
    // SAFETY: `handler` is SIG_DFL or one of the three functions above, whose signatures fit `flags`; they only use
    // atomics, statics set before, and async-signal-safe calls. The kernel copies `action`.
    match unsafe { libc::sigaction(number, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::fd::{Watch, channel, pipe, poll};
    use super::super::fork::fork;
    use super::super::shm::Shared;
    use super::super::wait::{Ended, wait};
    use super::*;

    /// Signal, pc, address, caller.
    type Words = Shared<[AtomicU64; 4]>;

    fn words() -> Words {
        Shared::new(1).unwrap()
    }

    fn cell(words: Words) -> CrashCell {
        let [signal, pc, address, caller] = &words.items()[0];
        CrashCell { signal, pc, address, caller, ranges: &[] }
    }

    fn seen(words: Words) -> [u64; 4] {
        [0, 1, 2, 3].map(|index: usize| words.items()[0][index].load(Ordering::Acquire))
    }

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(10))
    }

    /// Child: what every crashing one begins with; no core files.
    fn armed(words: Words, master: Pid) -> &'static EventFd {
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0).unwrap();
        reset_to_default().unwrap();
        let watch: &'static EventFd = Box::leak(Box::new(EventFd::new().unwrap()));
        install_crash_handlers(cell(words), master, watch).unwrap();
        unblock_all().unwrap();
        watch
    }

    fn killed(signal: c_int) -> Ended {
        Ended::Killed { signal, core: false }
    }

    #[test]
    fn groups_and_everybody_are_never_signalled() {
        for pid in [0, -1, -1000] {
            let refused = send(Pid::from_raw(pid), Signal::SIGTERM);
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        let pid = fork(|| 0).unwrap();
        assert!(send(pid, Signal::SIGTERM).unwrap(), "a zombie is still there");
        wait(pid).unwrap();
        assert!(!send(pid, Signal::SIGTERM).unwrap());
    }

    #[test]
    fn the_queue_takes_what_is_pending_and_says_who_sent_it() {
        let pid = fork(|| {
            let queue = SignalQueue::new().unwrap();
            assert!(queue.take().unwrap().is_empty());
            for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGHUP, Signal::SIGTTOU] {
                send(getpid(), signal).unwrap();
            }
            assert_eq!(poll(&mut [Watch::readable(queue.as_fd())], soon()).unwrap(), 1);
            let taken = queue.take().unwrap();
            let signals: Vec<_> = taken.iter().filter_map(Received::signal).collect();
            assert_eq!(signals, [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGTTOU]);
            assert!(taken.iter().all(|one| one.sender == getpid() && one.code == libc::SI_USER));
            assert!(queue.take().unwrap().is_empty());
            0
        })
        .unwrap();
        assert_eq!(wait(pid).unwrap(), Ended::Exited(0));
    }

    #[test]
    fn a_blocked_process_survives_everything_that_can_be_blocked() {
        let pid = fork(|| {
            block_all().unwrap();
            for signal in Signal::iterator().filter(|one| !matches!(one, Signal::SIGKILL | Signal::SIGSTOP)) {
                send(getpid(), signal).unwrap();
            }
            0
        })
        .unwrap();
        assert_eq!(wait(pid).unwrap(), Ended::Exited(0));
    }

    #[test]
    fn an_inherited_ignore_is_gone_after_the_reset() {
        let pid = fork(|| {
            set_action(libc::SIGHUP, libc::SIG_IGN, 0, Interruptible::ByAll).unwrap();
            reset_to_default().unwrap();
            unblock_all().unwrap();
            send(getpid(), Signal::SIGHUP).unwrap();
            0
        })
        .unwrap();
        assert_eq!(wait(pid).unwrap(), killed(libc::SIGHUP));
    }

    #[test]
    fn a_worker_notes_some_swallows_some_and_keeps_errno() {
        let pid = fork(|| {
            reset_to_default().unwrap();
            let signals = WorkerSignals::install().unwrap();
            unblock_all().unwrap();
            Errno::set_raw(77);
            for signal in SWALLOWED {
                send(getpid(), signal).unwrap();
            }
            assert!(signals.take().unwrap().is_empty());
            for signal in [Signal::SIGTERM, Signal::SIGUSR1] {
                send(getpid(), signal).unwrap();
            }
            assert_eq!(poll(&mut [Watch::readable(signals.as_fd())], soon()).unwrap(), 1);
            let came = signals.take().unwrap();
            assert!(came.contains(Signal::SIGTERM) && came.contains(Signal::SIGUSR1));
            assert!(!came.contains(Signal::SIGQUIT) && !came.contains(Signal::SIGHUP));
            assert!(signals.take().unwrap().is_empty());
            // The second time write(2) fails inside the handler, and nobody may see that.
            for _ in 0..2 {
                Errno::set_raw(77);
                note(libc::SIGINT);
                assert_eq!(Errno::last_raw(), 77);
                WAKE.store(-1, Ordering::Release);
            }
            0
        })
        .unwrap();
        assert_eq!(wait(pid).unwrap(), Ended::Exited(0));
    }

    #[test]
    fn programs_that_a_worker_starts_inherit_no_ignored_signal() {
        let (read, write) = pipe().unwrap();
        let pid = fork(move || {
            reset_to_default().unwrap();
            let _signals = WorkerSignals::install().unwrap();
            unblock_all().unwrap();
            // execve(2) in the child itself: `Command` would tidy up on its own.
            nix::unistd::dup2_stdout(&write).unwrap();
            let arguments = [c"cat", c"/proc/self/status"];
            let _ = nix::unistd::execvp(c"cat", &arguments);
            1
        })
        .unwrap();
        let mut status = String::new();
        io::Read::read_to_string(&mut std::fs::File::from(read), &mut status).unwrap();
        assert_eq!(wait(pid).unwrap(), Ended::Exited(0));
        for field in ["SigIgn:", "SigBlk:", "SigCgt:"] {
            let line = status.lines().find(|line| line.starts_with(field)).unwrap();
            let bits = u64::from_str_radix(line.trim_start_matches(field).trim(), 16).unwrap();
            // 32 and 33 are out of reach of sigaction(3); whoever started the tests may have ignored them.
            assert_eq!(bits & !(0b11 << 31), 0, "{line}");
        }
    }

    #[test]
    fn a_fault_is_written_down_and_kills_as_it_would_have() {
        let words = words();
        let pid = fork(move || {
            armed(words, Pid::from_raw(i32::MAX));
            let nowhere = std::ptr::without_provenance::<u8>(0x1238);
            // SAFETY: none: the fault is what is tested, in a child that ends by it.
            i32::from(unsafe { nowhere.read_volatile() })
        })
        .unwrap();
        assert_eq!(wait(pid).unwrap(), killed(libc::SIGSEGV));
        let [signal, pc, address, _] = seen(words);
        assert_eq!((signal, address), (libc::SIGSEGV as u64, 0x1238));
        assert_ne!(pc, 0);
    }

    #[test]
    fn a_stack_overflow_is_written_down() {
        fn deeper(depth: u64) -> u64 {
            let here = std::hint::black_box([depth; 64]);
            if depth == u64::MAX { 0 } else { deeper(depth + 1) + here[(depth % 64) as usize] }
        }
        let words = words();
        let pid = fork(move || {
            armed(words, Pid::from_raw(i32::MAX));
            i32::from(deeper(0) == 1)
        })
        .unwrap();
        assert_eq!(wait(pid).unwrap(), killed(libc::SIGSEGV));
        assert_eq!(seen(words)[0], libc::SIGSEGV as u64);
    }

    #[test]
    fn abort_and_a_fault_sent_by_a_process_have_no_address() {
        for (signal, number) in [(Signal::SIGABRT, libc::SIGABRT), (Signal::SIGBUS, libc::SIGBUS)] {
            let words = words();
            let pid = fork(move || {
                armed(words, Pid::from_raw(i32::MAX));
                send(getpid(), signal).unwrap();
                0
            })
            .unwrap();
            assert_eq!(wait(pid).unwrap(), killed(number));
            let [signal, _, address, _] = seen(words);
            assert_eq!((signal, address), (number as u64, 0));
        }
        let words = words();
        let pid = fork(move || {
            armed(words, Pid::from_raw(i32::MAX));
            std::process::abort()
        })
        .unwrap();
        assert_eq!(wait(pid).unwrap(), killed(libc::SIGABRT));
        assert_eq!(seen(words)[0], libc::SIGABRT as u64);
    }

    #[test]
    fn an_abort_of_the_master_only_wakes_the_watch_each_time() {
        let words = words();
        let (ours, theirs) = channel().unwrap();
        let master = getpid();
        let pid = fork(move || {
            let watch = armed(words, master);
            for _ in 0..2 {
                theirs.send(b"go", &[]).unwrap();
                assert_eq!(poll(&mut [Watch::readable(watch.as_fd())], soon()).unwrap(), 1);
                assert!(watch.clear().unwrap());
            }
            0
        })
        .unwrap();
        for _ in 0..2 {
            ours.receive().unwrap();
            send(pid, Signal::SIGABRT).unwrap();
        }
        assert_eq!(wait(pid).unwrap(), Ended::Exited(0));
        assert_eq!(seen(words), [0; 4]);
    }

    /// The search for a caller walks up the stack, and may walk off it: that must not change what the process dies of.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_signal_that_kills_is_the_one_that_came() {
        extern "C" fn illegal(_: *mut c_void) -> *mut c_void {
            // SAFETY: none: the fault is what is tested, in a child that ends by it.
            unsafe { std::arch::asm!("ud2") };
            std::ptr::null_mut()
        }
        const SIZE: usize = 256 * 1024;
        let words = words();
        let pid = fork(move || {
            armed(words, Pid::from_raw(i32::MAX));
            // A stack with nothing readable above it.
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: a new mapping at an address of the kernel's choice.
            let map =
                unsafe { libc::mmap(std::ptr::null_mut(), SIZE + 65536, libc::PROT_NONE, flags, -1, 0) };
            // SAFETY: the lower part of that mapping.
            assert_eq!(unsafe { libc::mprotect(map, SIZE, libc::PROT_READ | libc::PROT_WRITE) }, 0);
            // SAFETY: zeros are storage for attributes that the next call initialises.
            let mut attributes: libc::pthread_attr_t = unsafe { std::mem::zeroed() };
            // SAFETY: initialises what is passed.
            assert_eq!(unsafe { libc::pthread_attr_init(&raw mut attributes) }, 0);
            // SAFETY: the stack is mapped for as long as the process lives.
            assert_eq!(unsafe { libc::pthread_attr_setstack(&raw mut attributes, map, SIZE) }, 0);
            let mut thread = 0;
            // SAFETY: all pointers are to live locals; the function takes no argument.
            unsafe {
                libc::pthread_create(&raw mut thread, &raw const attributes, illegal, std::ptr::null_mut())
            };
            // SAFETY: the thread was created just now.
            unsafe { libc::pthread_join(thread, std::ptr::null_mut()) }
        })
        .unwrap();
        assert_eq!(wait(pid).unwrap(), killed(libc::SIGILL));
        assert_eq!(seen(words)[0], libc::SIGILL as u64);
    }

    #[test]
    fn the_caller_of_a_library_that_faults_is_found_on_the_stack() {
        // `ranges` holds the test's own text, and the fault is in the C library: strlen of an address that is not there.
        let words = words();
        let ranges: &'static [AtomicU64] = Shared::<AtomicU64>::new(3).unwrap().items();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let here = armed as fn(Words, Pid) -> &'static EventFd as usize as u64;
        let text = maps.lines().filter_map(|line| line.split_once(' ')?.0.split_once('-')).find_map(
            |(start, end)| {
                let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
                (start <= here && here < end).then_some((start, end))
            },
        );
        let (start, end) = text.unwrap();
        ranges[0].store(start, Ordering::Relaxed);
        ranges[1].store(end, Ordering::Relaxed);
        let pid = fork(move || {
            reset_to_default().unwrap();
            let watch: &'static EventFd = Box::leak(Box::new(EventFd::new().unwrap()));
            nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0).unwrap();
            let cell = CrashCell { ranges, ..cell(words) };
            install_crash_handlers(cell, Pid::from_raw(i32::MAX), watch).unwrap();
            unblock_all().unwrap();
            // SAFETY: none: the fault is what is tested, in a child that ends by it.
            i32::from(unsafe { libc::strlen(std::ptr::without_provenance(0x1238)) } == 0)
        })
        .unwrap();
        assert_eq!(wait(pid).unwrap(), killed(libc::SIGSEGV));
        let [_, pc, _, caller] = seen(words);
        assert!(pc < start || pc >= end, "the fault was to be in the C library");
        assert!(start <= caller && caller < end, "{caller:x} not in {start:x}-{end:x}");
    }

    #[test]
    fn a_child_dies_with_its_parent_and_knows_when_it_came_too_late() {
        // Nobody of the three outlives the pipe: its end is the proof that all are gone.
        let (read, write) = pipe().unwrap();
        let (ours, theirs) = channel().unwrap();
        let parent = fork(move || {
            let me = getpid();
            let hold = write;
            fork(move || {
                let in_time = kill_with_parent(me).unwrap();
                let wrong = kill_with_parent(Pid::from_raw(me.as_raw() + 1)).unwrap();
                theirs.send(&[u8::from(in_time), u8::from(wrong)], &[]).unwrap();
                loop {
                    std::thread::park();
                }
            })
            .unwrap();
            let _hold = hold;
            loop {
                std::thread::park();
            }
        })
        .unwrap();
        let told = ours.receive().unwrap();
        assert!(matches!(&told, super::super::fd::Incoming::Message(text, _) if text == &[1, 0]), "{told:?}");
        send(parent, Signal::SIGKILL).unwrap();
        wait(parent).unwrap();
        assert_eq!(
            poll(&mut [Watch::readable(read.as_fd())], soon()).unwrap(),
            1,
            "the child is still there"
        );
    }

    #[test]
    fn names() {
        assert_eq!(name(libc::SIGTERM), "SIGTERM");
        assert_eq!(name(40), "signal 40");
        assert_eq!(name(-1), "signal -1");
    }
}
