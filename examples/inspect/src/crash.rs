//! The ways in which a request can end the worker.
//!
//! The only file here with unsafe code: a memory fault cannot be had without. `kill(2)` would not do, because the
//! fault's address and cause are what a crash report shows.

/// Dies by SIGSEGV: writes to address 0.
#[expect(unsafe_code, reason = "an invalid write is what was asked for")]
pub(crate) fn segv() -> ! {
    // Through C, because Rust checks for null before its own writes in debug builds and would die by SIGABRT;
    // through black_box, because a compiler that sees the null may drop the write.
    let nowhere = std::hint::black_box(std::ptr::null_mut());
    // SAFETY: none, on purpose. Page 0 is never mapped (mmap_min_addr), so the process ends here and nothing
    // runs after the invalid write.
    unsafe { libc::memset(nowhere, 1, std::hint::black_box(1)) };
    std::process::abort()
}

/// Ends the process with `status`, without a word to the server.
#[expect(clippy::exit, reason = "what was asked for")]
pub(crate) fn exit(status: i32) -> ! {
    std::process::exit(status)
}
