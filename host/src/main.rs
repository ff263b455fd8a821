//! The `rgunicorn` program: what was typed becomes a running master, an error becomes one sentence and an exit code.

use std::io::{self, Write};
use std::process::ExitCode;
use std::rc::Rc;

use rgunicorn::cli::{self, Invocation, PrintFormat};
use rgunicorn::config::{Config, Sources};
use rgunicorn::daemon;
use rgunicorn::error::{StartError, lines, one_line};
use rgunicorn::inherit::Inheritance;
use rgunicorn::sys::{signal, title};

fn main() -> ExitCode {
    // First of all: a signal that comes before the master listens to its queue must wait there, not kill.
    let blocked = signal::block_all();
    title::take_over();
    let ended = match blocked {
        Ok(mask) => run(&mask),
        Err(error) => Err(StartError::new(1, format!("cannot block signals: {error}"))),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_told() {
                // A standard error that is gone leaves the exit code to tell.
                let _ = writeln!(io::stderr(), "rgunicorn: {}", one_line(&error));
            }
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
        }
    }
}

fn run(mask: &signal::Mask) -> Result<(), StartError> {
    match cli::parse(std::env::args_os())? {
        Invocation::Version(text) => print(&text),
        Invocation::Help { text, values } if values.get("worker_class").is_none() => print(&text),
        Invocation::Help { text, values } => {
            unblock(mask)?;
            let options = rgunicorn::class_help::options(&Sources::capture(values)?);
            print(&format!("{text}\n{options}"))
        }
        Invocation::PrintConfig(values, format) => {
            unblock(mask)?;
            let mut text = Vec::new();
            let config = Config::load(&Sources::capture(values)?)?;
            match format {
                PrintFormat::Toml => config.print(&mut text),
                PrintFormat::Json => config.print_json(&mut text),
            }
            .map_err(|error| StartError::new(1, error.to_string()))?;
            print(&String::from_utf8_lossy(&text))
        }
        Invocation::CheckConfig(values) => {
            rgunicorn::check::check(&Sources::capture(values)?, mask).map(|_| ())
        }
        Invocation::Check(values) => {
            let told = rgunicorn::check::check(&Sources::capture(values)?, mask)?;
            print(&told)
        }
        Invocation::Certify(request) => {
            unblock(mask)?;
            request.run()
        }
        Invocation::New(request) => {
            unblock(mask)?;
            print(&request.make()?)
        }
        Invocation::Inspect(request) => {
            unblock(mask)?;
            let told = request.look()?;
            print(&told.text)?;
            told.end()
        }
        Invocation::Control(request) => {
            unblock(mask)?;
            let told = request.ask()?;
            print(&told.text)?;
            told.end()
        }
        Invocation::Develop(plan) => rgunicorn::dev::run(&plan, mask),
        Invocation::Serve(values) => serve(&Sources::capture(values)?, mask),
    }
}

fn serve(sources: &Sources, mask: &signal::Mask) -> Result<(), StartError> {
    // Before anything else is opened: what has a number now was passed by whoever started the program.
    let inheritance = Rc::new(Inheritance::capture()?);
    daemon::serve(sources, &inheritance, mask)
}

/// Only a master reads signals from a queue; the rest of the program is to be interrupted as any other.
fn unblock(mask: &signal::Mask) -> Result<(), StartError> {
    mask.restore().map_err(|error| StartError::new(1, format!("cannot restore the signal mask: {error}")))
}

/// Writes to standard output. A reader that has gone (`--help | head`) is no error.
fn print(text: &str) -> Result<(), StartError> {
    match io::stdout().write_all(lines(text).as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(StartError::new(1, format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}
