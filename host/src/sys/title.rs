//! The title of a process: what ps(1) shows in place of its command line.
//!
//! Owns the memory in which the kernel put arguments and environment, which is where the kernel reads the title from
//! (proc(5), `cmdline`). Does not own what the title says. Easily got wrong: whoever writes there destroys the strings
//! that `argv` and `environ` point at. So [`take_over`] moves all of them away first, and `std::env` works as before.
//! `/proc/PID/environ` does too as long as the title is no longer than the arguments were; then it begins with the rest of
//! the title, as with other servers that have titles.
//!
//! The kernel shows the area of the arguments up to its end; only when the last octet of that area is not NUL does it
//! read on into the environment, up to the first NUL. So a title may be longer than the command line was.
#![allow(unsafe_code, reason = "the C environment, and writing where the kernel put it")]

use std::ffi::{CStr, CString, c_char};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

// SAFETY: the C library declares it with this type (environ(7)).
unsafe extern "C" {
    /// The environment, as every library of the process sees it (environ(7)).
    static mut environ: *mut *mut c_char;
}

/// Where the kernel reads titles from.
struct Area {
    /// Arguments and environment, one behind the other, for as long as the process lives.
    octets: &'static [AtomicU8],
    /// How much of it is a title's: what the arguments had, or more if a title was longer.
    used: AtomicUsize,
}

static AREA: OnceLock<Area> = OnceLock::new();

/// Master: makes the area ours, once, as early as possible: no other thread may read the environment meanwhile.
/// Without /proc nothing is done, and titles stay what they are.
pub fn take_over() {
    let Some(cells) = pointers() else { return };
    let Some(begin) = cells.first().map(|(_, text)| *text) else { return };
    let count = std::env::args_os().count();
    let (mut length, mut arguments) = (0, 0);
    for (index, (cell, text)) in cells.into_iter().enumerate() {
        if text != begin.wrapping_add(length) {
            break; // A string that lies elsewhere is not in the way.
        }
        // SAFETY: execve(2) has put a NUL-terminated string there, and nothing has written there since.
        let text = unsafe { CStr::from_ptr(text) };
        length += text.count_bytes() + 1;
        if index < count {
            arguments = length;
        }
        // Leaked: these are the arguments and the environment from now on.
        let copy = text.to_owned().into_raw();
        // SAFETY: a cell of the array that execve(2) has made on the stack, which is writable; no other thread is
        // there to read it (the caller's promise).
        unsafe { cell.write(copy) };
    }
    // SAFETY: `length` octets of strings that follow each other, above the first frame of the stack, which never goes.
    // Nobody points there any more, and single octets need no alignment.
    let octets = unsafe { std::slice::from_raw_parts(begin.cast::<AtomicU8>(), length) };
    // A second call would find the copies; it changes nothing.
    let _ = AREA.set(Area { octets, used: AtomicUsize::new(arguments) });
}

/// The cells of the array of arguments and environment that execve(2) made, each with the string it points at; without
/// the environment if something has moved that already.
fn pointers() -> Option<Vec<(*mut *mut c_char, *const c_char)>> {
    // Field 28 of proc(5) `stat`, the stack at the program's entry: the number of arguments, the array, a null, the
    // array of the environment, a null. What precedes the last parenthesis is the name, the field after it the third.
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let start: usize = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(25)?.parse().ok()?;
    let bottom = std::ptr::with_exposed_provenance_mut::<*mut c_char>(start);
    let arguments = std::env::args_os().count();
    if bottom.is_null() || AREA.get().is_some() {
        return None;
    }
    // SAFETY: the kernel has written a number there, and a stack is never unmapped.
    let count = unsafe { bottom.cast::<usize>().read() };
    if count != arguments || arguments == 0 {
        return None;
    }
    // SAFETY: reads one pointer; no other thread changes it (the caller's promise).
    let variables = unsafe { environ };
    let array = bottom.wrapping_add(1);
    let end = if variables == array.wrapping_add(arguments + 1) { usize::MAX } else { arguments };
    let mut cells = Vec::new();
    let mut index = 0;
    while index < end {
        let cell = array.wrapping_add(index);
        // SAFETY: a cell of the arrays, each of which ends with a null; the loop ends at the second one.
        let text = unsafe { cell.read() };
        match (text.is_null(), index == arguments) {
            (true, true) => {}
            (true, false) => break,
            (false, _) => cells.push((cell, text.cast_const())),
        }
        index += 1;
    }
    Some(cells)
}

/// What a process of the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The one that is signalled.
    Master,
    /// Tries a generation.
    Probe,
    /// Has created the applications, and forks workers.
    Template,
    /// Runs the hooks of the master's moments.
    HookProcess,
    /// Serves.
    Worker,
    /// Tells others how the server is.
    Monitor,
}

impl Role {
    /// As title and log say it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Probe => "probe",
            Self::Template => "template",
            Self::HookProcess => "hook process",
            Self::Worker => "worker",
            Self::Monitor => "monitor",
        }
    }
}

/// Sets the title of this process, `rgunicorn: ROLE [NAME]`; cut if it is longer than arguments and environment were.
/// Without [`take_over`] nothing happens.
///
/// What top(1) and killall(1) go by is another name, of 15 octets (`PR_SET_NAME`, prctl(2)). The master keeps there what
/// execve(2) has given it, its program's file, so that `killall -HUP rgunicorn` and `pidof rgunicorn` mean the master and
/// nobody else; its children are named by what they are.
pub fn set(role: Role, name: &str) {
    let Some(area) = AREA.get() else { return };
    let title = format!("rgunicorn: {} [{name}]", role.word());
    let text = title.bytes().filter(|octet| *octet != 0).take(area.octets.len().saturating_sub(1));
    let text: Vec<u8> = text.chain([0]).collect();
    // Over all of the arguments, and over what is left of a longer title; no further into the environment than needed.
    let end = area.used.fetch_max(text.len(), Ordering::Relaxed).max(text.len());
    let text = text.into_iter().chain(std::iter::repeat(0));
    for (cell, octet) in area.octets[..end].iter().zip(text) {
        cell.store(octet, Ordering::Relaxed);
    }
    if role != Role::Master
        && let Ok(short) = CString::new(format!("rgunicorn: {}", role.word()))
    {
        // It is there for people; nothing depends on it. The kernel cuts it.
        let _ = nix::sys::prctl::set_name(&short);
    }
}
