//! Kills the servers of a test process that is itself killed.
//!
//! A test that fails stops its server on the way out; one that gets a KILL or a Ctrl-C cannot. So a shell waits at the
//! other end of a pipe, is told of each server's process group, and kills what is left when the pipe closes.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

const SCRIPT: &str = r#"
groups=
while read -r what group; do
    case $what in
    begun) groups="$groups $group" ;;
    ended) left=; for one in $groups; do [ "$one" = "$group" ] || left="$left $one"; done; groups=$left ;;
    esac
done
for group in $groups; do kill -9 -- "-$group"; done
"#;

static GUARD: Mutex<Option<ChildStdin>> = Mutex::new(None);

/// A server with this process group has begun.
pub fn begun(group: i32) {
    tell("begun", group);
}

/// Nothing of this process group is left.
pub fn ended(group: i32) {
    tell("ended", group);
}

fn tell(what: &str, group: i32) {
    let mut guard = GUARD.lock().unwrap_or_else(PoisonError::into_inner);
    let pipe = guard.get_or_insert_with(|| {
        // A group of its own: a Ctrl-C is for the tests.
        #[expect(clippy::zombie_processes, reason = "it ends after this process has")]
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("a shell");
        shell.stdin.take().expect("its end of the pipe")
    });
    writeln!(pipe, "{what} {group}").expect("the guard listens");
}
