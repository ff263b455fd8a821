//! `cargo reliability`: what a deploy costs, here and in two peers; and a soak.
//!
//! Not a test: it asserts little, prints what it saw, and writes the tables of docs/RELIABILITY.md. Each figure comes
//! from the same clients on the same machine. What a newcomer would get wrong: a row is an accident that *happens to
//! whoever operates the server*, not a trick on one implementation; so each candidate meets it in its own terms (a file
//! that is no library here, a module with a syntax error there), and a candidate that knows no such thing gets a dash,
//! never a zero.
//!
//! ```text
//! cargo reliability                     the table, all candidates
//! cargo reliability losses broken       only rows whose name contains the word
//! cargo reliability soak 30             30 minutes of load, reloads and kills
//! ```

mod candidates;
mod losses;
mod soak;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let minutes = |text: &str| text.parse::<u64>().ok().filter(|minutes| *minutes > 0);
    match words.as_slice() {
        [] => losses::table(""),
        ["losses"] => losses::table(""),
        ["losses", row] => losses::table(row),
        ["soak", text] if minutes(text).is_some() => soak::run(minutes(text).unwrap_or(1)),
        _ => {
            eprintln!("usage: cargo reliability [losses [ROW] | soak MINUTES]");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
