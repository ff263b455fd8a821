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
mod page;
mod soak;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo reliability losses [ROW [SERVER]]   what accidents cost; only rows and servers with that text
       cargo reliability faults [TEXT]          system calls that fail; only rows with that text
       cargo reliability soak [--minutes N]     load, reloads and kills, 30 minutes unless N is given
       With --write and no text, the table takes its place in docs/RELIABILITY.md.";

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let write = words.iter().any(|word| word == "--write");
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|word| *word != "--write").collect();
    let minutes = |text: &str| text.parse::<u64>().ok().filter(|minutes| *minutes > 0);
    let well = match words.as_slice() {
        ["losses"] => losses::table("", "", write),
        ["losses", row] if !write => losses::table(row, "", false),
        ["losses", row, server] if !write => losses::table(row, server, false),
        ["faults"] => faults::run("", write),
        ["faults", word] if !write => faults::run(word, false),
        ["soak"] => soak::run(30, write),
        ["soak", "--minutes", text] if minutes(text).is_some() => {
            soak::run(minutes(text).unwrap_or(1), write)
        }
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
