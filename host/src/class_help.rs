//! `-k CLASS --help`: the worker class's own options, as its file declares them.
//!
//! Owns the text behind the help of the settings. What a newcomer would get wrong: nothing of the class runs for it.
//! The options stand in the note of the file, which is read as any other data; and whoever asks for help gets it, also
//! when the class cannot be found.

use std::fmt::Write;

use crate::config::{self, Sources};
use crate::elf_note::{self, Note};
use crate::error::io_text;

/// The options of the class that was typed, as text with its newline; or why they cannot be told.
pub fn options(sources: &Sources) -> String {
    let class = match config::find_worker_class(sources) {
        Ok(class) => class,
        Err(error) => return format!("Options of the worker class: {error}\n"),
    };
    let note = std::fs::read(&class.file)
        .map_err(|error| io_text(&error))
        .and_then(|bytes| elf_note::facts(&bytes).map_err(|error| error.to_string()));
    let file = class.file.display();
    match note {
        Ok(facts) => match facts.note {
            Some(note) => format!("Options of the worker class {} ({file}):\n{}", class.name, list(&note)),
            None => format!("Options of the worker class: {file} is no plugin of rgunicorn\n"),
        },
        Err(why) => format!("Options of the worker class: cannot read {file}: {why}\n"),
    }
}

fn list(note: &Note) -> String {
    let options = note.options();
    if options.is_empty() {
        return "  It has none.\n".to_owned();
    }
    let mut text = String::new();
    for option in options {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "      --worker-option {}=<{}>\n          {} [default: {}]",
            option.name,
            option.kind.to_uppercase(),
            option.help,
            option.default
        );
    }
    // The file is somebody's: nothing of it may reach a terminal as a command.
    text.chars()
        .map(|character| if character.is_control() && character != '\n' { '?' } else { character })
        .collect()
}
