//! What `INSPECT_INIT` makes the application do when it is created or started.
//!
//! `[probe-ok:][start:]MODE`. `probe-ok:` spares the probe, so that the fault is first met in a live worker;
//! `start:` moves it from `create` to `start`. Modes are those of [`Mode`]; anything else succeeds at once. Not
//! here: what a request can ask for.

use rgunicorn_worker_api::prelude::*;
use std::time::Duration;

/// The variable's name.
const VARIABLE: &str = "INSPECT_INIT";

/// A moment in the life of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// In `create`.
    Create,
    /// In `start`.
    Start,
}

/// What to do at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Nothing.
    Succeed,
    /// Return an error.
    Fail,
    /// Return an error while there is a file `barred` in the working directory.
    Barred,
    /// Panic.
    Panic,
    /// Die by SIGABRT.
    Abort,
    /// End the process with this status.
    Exit(i32),
    /// Never return.
    Hang,
    /// Succeed after a while.
    Sleep(Duration),
}

/// The variable's value, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    moment: Moment,
    spare_probe: bool,
    mode: Mode,
}

/// Does what the environment asks for at `moment`.
///
/// # Errors
/// If asked to fail.
pub(crate) fn run(moment: Moment, facts: &WorkerFacts<'_>) -> Result<(), Error> {
    let value = std::env::var(VARIABLE).unwrap_or_default();
    let plan = parse(&value);
    if plan.moment != moment || plan.spare_probe && facts.is_probe() { Ok(()) } else { perform(plan.mode) }
}

fn parse(value: &str) -> Plan {
    if let Some(rest) = value.strip_prefix("probe-ok:") {
        return Plan { spare_probe: true, ..parse(rest) };
    }
    if let Some(rest) = value.strip_prefix("start:") {
        return Plan { moment: Moment::Start, ..parse(rest) };
    }
    let mode = match value.split_once(':') {
        None => match value {
            "fail" => Mode::Fail,
            "barred" => Mode::Barred,
            "panic" => Mode::Panic,
            "abort" => Mode::Abort,
            "exit" => Mode::Exit(7),
            "hang" => Mode::Hang,
            _ => Mode::Succeed,
        },
        Some(("exit", status)) => status.parse().map_or(Mode::Succeed, Mode::Exit),
        Some(("sleep", ms)) => ms.parse().map_or(Mode::Succeed, |ms| Mode::Sleep(Duration::from_millis(ms))),
        Some(_) => Mode::Succeed,
    };
    Plan { moment: Moment::Create, spare_probe: false, mode }
}

#[expect(clippy::panic, clippy::exit, reason = "the misbehaviour that was asked for")]
fn perform(mode: Mode) -> Result<(), Error> {
    match mode {
        Mode::Succeed => {}
        Mode::Fail => return Err(Error::new("inspect: asked to fail")),
        Mode::Barred if std::path::Path::new("barred").exists() => {
            return Err(Error::new("inspect: barred"));
        }
        Mode::Barred => {}
        Mode::Panic => panic!("inspect: asked to panic"),
        Mode::Abort => std::process::abort(),
        Mode::Exit(status) => std::process::exit(status),
        Mode::Hang => loop {
            std::thread::park();
        },
        Mode::Sleep(time) => std::thread::sleep(time),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_prefixes_and_a_mode() {
        let plan = |moment, spare_probe, mode| Plan { moment, spare_probe, mode };
        for (value, expected) in [
            ("", plan(Moment::Create, false, Mode::Succeed)),
            ("fail", plan(Moment::Create, false, Mode::Fail)),
            ("start:barred", plan(Moment::Start, false, Mode::Barred)),
            ("panic", plan(Moment::Create, false, Mode::Panic)),
            ("abort", plan(Moment::Create, false, Mode::Abort)),
            ("hang", plan(Moment::Create, false, Mode::Hang)),
            ("exit", plan(Moment::Create, false, Mode::Exit(7))),
            ("exit:0", plan(Moment::Create, false, Mode::Exit(0))),
            ("sleep:250", plan(Moment::Create, false, Mode::Sleep(Duration::from_millis(250)))),
            ("sleep:x", plan(Moment::Create, false, Mode::Succeed)),
            ("fail:now", plan(Moment::Create, false, Mode::Succeed)),
            ("probe-ok:exit:3", plan(Moment::Create, true, Mode::Exit(3))),
            ("start:panic", plan(Moment::Start, false, Mode::Panic)),
            ("probe-ok:start:hang", plan(Moment::Start, true, Mode::Hang)),
            ("start:probe-ok:hang", plan(Moment::Start, true, Mode::Hang)),
        ] {
            assert_eq!(parse(value), expected, "{value}");
        }
    }

    #[test]
    fn only_failing_fails() {
        assert!(perform(Mode::Succeed).is_ok());
        assert_eq!(perform(Mode::Fail).unwrap_err().message(), "inspect: asked to fail");
    }
}
