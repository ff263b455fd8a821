//! `cargo reliability`: what accidents cost, here and in two peers; what faults of the machine do; and a soak.
//!
//! Not a test: it asserts little, prints what it saw, and writes the tables of docs/RELIABILITY.md. Each figure comes
//! from the same clients on the same machine. What a newcomer would get wrong: a row is an accident that *happens to
//! whoever operates the server*, not a trick on one implementation; so each candidate meets it in its own terms (a file
//! that is no library here, a module with a syntax error there), and a candidate that knows no such thing gets a dash,
//! never a zero.

mod candidates;
mod faults;
mod losses;
mod soak;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo reliability losses [ROW [SERVER]]   what accidents cost; only rows and servers with that text
       cargo reliability faults [TEXT]          system calls that fail; only rows with that text
       cargo reliability soak [--minutes N]     load, reloads and kills, 30 minutes unless N is given";

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let minutes = |text: &str| text.parse::<u64>().ok().filter(|minutes| *minutes > 0);
    let well = match words.as_slice() {
        ["losses"] => losses::table("", ""),
        ["losses", row] => losses::table(row, ""),
        ["losses", row, server] => losses::table(row, server),
        ["faults"] => faults::run(""),
        ["faults", word] => faults::run(word),
        ["soak"] => soak::run(30),
        ["soak", "--minutes", text] if minutes(text).is_some() => soak::run(minutes(text).unwrap_or(1)),
        ["--help" | "-h"] => {
            println!("{USAGE}");
            true
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
