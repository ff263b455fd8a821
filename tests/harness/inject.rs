//! System calls that fail: strace(1) attached to a running process answers them in the kernel's place.
//!
//! Owns the tracer, its beginning and its end. What a newcomer would get wrong: a tracer slows every traced call, so a
//! test asks for the calls that it breaks and no others, and compares no times. Where strace is missing or may not
//! attach (a container without ptrace), [`Fault::begin`] says so and the test is skipped by name.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::usage;
use crate::wait::{wait_for, within};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Calls that fail for as long as this lives.
#[derive(Debug)]
pub struct Fault {
    tracer: Child,
    pid: i32,
    /// Where the tracer writes a line for each call.
    calls: PathBuf,
}

impl Fault {
    /// From now on these calls of a process, of its threads and of the children that it forks from now on, fail so.
    /// `calls` and `how` are as strace(1) writes them: `accept4` or `?fork,?clone`, and `error=EMFILE`, perhaps with
    /// `:when=1`. None if this machine cannot do that; the reason is printed.
    pub fn begin(pid: i32, calls: &str, how: &str) -> Option<Self> {
        let mut command = Command::new("strace");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("rgt-{}-calls-{number}", std::process::id()));
        command.args(["-f", "-qq", "-e", &format!("trace={calls}"), "-o"]).arg(&file);
        command.args(["-e", &format!("inject={calls}:{how}"), "-p", &pid.to_string()]);
        let tracer = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let Ok(tracer) = tracer else {
            eprintln!("skipped: strace is not installed");
            return None;
        };
        let mut fault = Self { tracer, pid, calls: file };
        let mut ended = false;
        let attached = within(Duration::from_secs(10), || {
            ended = matches!(fault.tracer.try_wait(), Ok(Some(_)));
            ended || traced_by(pid) == Some(fault.tracer.id())
        });
        if ended || attached.is_none() {
            eprintln!("skipped: strace cannot attach to process {pid} for {calls}: {}", fault.complaint());
            return None;
        }
        Some(fault)
    }

    /// How many of the calls were made so far.
    pub fn calls(&self) -> usize {
        let lines = fs::read_to_string(&self.calls).unwrap_or_default();
        lines.lines().filter(|line| line.contains('(')).count()
    }

    /// From now on the calls are the kernel's again.
    pub fn end(self) {
        drop(self);
    }

    fn complaint(&mut self) -> String {
        let _ = self.tracer.kill();
        let mut text = String::new();
        if let Some(stderr) = &mut self.tracer.stderr {
            let _ = std::io::Read::read_to_string(stderr, &mut text);
        }
        text
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        // It detaches from all that it traces.
        let _ = kill(Pid::from_raw(self.tracer.id() as i32), Signal::SIGTERM);
        if within(Duration::from_secs(10), || matches!(self.tracer.try_wait(), Ok(Some(_)))).is_none() {
            let _ = self.tracer.kill();
            let _ = self.tracer.wait();
        }
        let _ = fs::remove_file(&self.calls);
        let pid = self.pid;
        if !std::thread::panicking() {
            wait_for("the tracer to be gone", || traced_by(pid).is_none_or(|tracer| tracer == 0));
        }
    }
}

/// Who traces all threads of a process: 0 is nobody. None if the process is gone, or the threads differ.
fn traced_by(pid: i32) -> Option<u32> {
    let tracer = |thread: i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse::<u32>().ok())
    };
    let tracers: Vec<u32> = usage::threads(pid).into_iter().filter_map(tracer).collect();
    let first = *tracers.first()?;
    tracers.iter().all(|tracer| *tracer == first).then_some(first)
}
