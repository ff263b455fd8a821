//! A configuration file, as a test writes and changes it.
//!
//! Owns only the text; what a setting means is the server's. What a newcomer would get wrong: a server of the harness
//! takes everything from this file except its error log, so that a test can change anything at a HUP.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Settings by name, each with its value as TOML writes it.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    values: BTreeMap<String, String>,
    /// Text that is no setting, put at the end as it is.
    rest: String,
}

impl Settings {
    /// Sets a text.
    pub fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.raw(name, &quoted(value))
    }

    /// Sets a list of texts.
    pub fn list<T: AsRef<str>>(&mut self, name: &str, values: &[T]) -> &mut Self {
        let values: Vec<String> = values.iter().map(|value| quoted(value.as_ref())).collect();
        self.raw(name, &format!("[{}]", values.join(", ")))
    }

    /// Sets whatever stands right of the equals sign.
    pub fn raw(&mut self, name: &str, value: &str) -> &mut Self {
        self.values.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A setting's value as it stands in the file.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Takes a setting out.
    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.values.remove(name);
        self
    }

    /// What `inspect` shall do when it is created or started: `INSPECT_INIT`.
    pub fn init(&mut self, mode: &str) -> &mut Self {
        self.list("raw_env", &[format!("INSPECT_INIT={mode}")])
    }

    /// Puts text at the end of the file as it is.
    pub fn append(&mut self, text: &str) -> &mut Self {
        self.rest.push_str(text);
        self
    }

    /// Puts this text at the end in place of what was put there before.
    pub fn replace_rest(&mut self, text: &str) -> &mut Self {
        text.clone_into(&mut self.rest);
        self
    }

    /// The file.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.values {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name} = {value}");
        }
        text + &self.rest
    }
}

fn quoted(text: &str) -> String {
    assert!(!text.contains(['"', '\\', '\n']), "this harness does not escape: {text:?}");
    format!("\"{text}\"")
}
