//! How findings are shown: a page for one file, a table for a fleet, JSON for programs.
//!
//! Owns the words and the layout. What a newcomer would get wrong: what a note says is an author's text, and goes to a
//! terminal; control characters are escaped here, for every form but JSON, which escapes them itself.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{File, Finding};
use crate::elf_note::Note;
use crate::error::{EXIT_SETTINGS, StartError};
use crate::plugin::Kind;

/// Octets of static TLS beyond which there may be no room: as many glibc sets aside for all libraries that are loaded
/// later (its tunable `glibc.rtld.optional_static_tls`).
const STATIC_TLS_ROOM: u64 = 512;

/// Everything about one file.
pub(super) fn page(finding: &Finding, host: (u32, u32)) -> String {
    let mut page = Page { text: format!("{}\n", plain(&name_of(finding))) };
    page.line("verdict", &verdict(finding, host));
    if let Some(file) = &finding.file {
        if let Some(note) = &file.image.note {
            page.note(finding.kind, note, host);
        }
        page.file(file);
    }
    if let Some(loaded) = &finding.loaded {
        page.line("loaded", &format!("it says that it has: {}", loaded.says.join(", ")));
    }
    page.text
}

fn name_of(finding: &Finding) -> String {
    let file = finding.file.as_ref();
    file.map_or_else(|| finding.text.clone(), |file| file.image.original.display().to_string())
}

fn verdict(finding: &Finding, (major, minor): (u32, u32)) -> String {
    match &finding.refusal {
        Some(refusal) => format!("refused: {}", refusal.sentence),
        None if finding.loaded.is_some() => "good: it was loaded".to_owned(),
        None => format!("good for interface {major}.{minor}"),
    }
}

struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(self.text, "  {name:<13} {}", plain(value));
        }
    }

    fn note(&mut self, kind: Kind, note: &Note, host: (u32, u32)) {
        let get = |key| note.get(key).unwrap_or_default();
        self.line("kind", kind.noun());
        self.line("name", &format!("{} {}", get("name"), get("version")));
        self.line("interface", &format!("{}{}", get("abi"), beside(get("abi"), host)));
        match kind {
            Kind::WorkerClass => {
                self.line("class", get("class"));
                self.line("features", &features(note).join(", "));
                self.line("http1", get("http1"));
            }
            Kind::Application => {
                let apps = note.applications();
                let apps: Vec<String> = apps.iter().map(|(name, how)| format!("{name} ({how})")).collect();
                self.line("applications", &apps.join(", "));
            }
            Kind::Hooks => {}
        }
        // Of an application, too: it may have hooks with it.
        self.line("hooks", &note.list("hooks").collect::<Vec<_>>().join(", "));
        self.line("asks for", &note.list("needs").collect::<Vec<_>>().join(", "));
        let built = match note.get("compiler") {
            Some(compiler) => format!("{compiler} for the C interface"),
            None => format!("{} for {}, panic={}", get("rustc"), get("target"), get("panic")),
        };
        self.line("built by", &built);
        for option in note.options() {
            let default = if option.default.is_empty() { "unset" } else { &option.default };
            self.line("option", &format!("{} ({}, {default}): {}", option.name, option.kind, option.help));
        }
    }

    fn file(&mut self, file: &File) {
        let image = &file.image;
        self.line("needs", &file.facts.needed.join(", "));
        for neighbour in &image.neighbours {
            let path = neighbour.original.display();
            self.line("brings", &format!("{path}, sha256 {}", neighbour.sha256));
        }
        self.line("build id", image.build_id.as_deref().unwrap_or_default());
        self.line("sha256", &image.sha256);
        self.line("size", &format!("{} octets", image.size));
        self.line("warning", &tls_warning(file).unwrap_or_default());
    }
}

/// How the file's version of the interface relates to the host's, if they differ.
fn beside(theirs: &str, host: (u32, u32)) -> &'static str {
    match super::version(theirs) {
        Some((major, minor)) if major == host.0 && minor > host.1 => {
            " (newer; what it has beyond the host's version is not used)"
        }
        Some((major, minor)) if major == host.0 && minor < host.1 => {
            " (older; it does without what came later)"
        }
        _ => "",
    }
}

fn features(note: &Note) -> Vec<String> {
    let words = note.get("features").unwrap_or_default().split(',');
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn tls_warning(file: &File) -> Option<String> {
    let (octets, facts) = (file.facts.tls, &file.facts);
    facts.static_tls.then(|| {
        let likely = if octets > STATIC_TLS_ROOM { "; that is more than is set aside, and loading may fail" } else { "" };
        format!(
            "it wants {octets} octets of static thread-local memory (initial-exec model), which all plugins of a \
             worker share{likely}; rebuild it without -ftls-model=initial-exec, or preload it with LD_PRELOAD"
        )
    })
}

/// One line for each file, and the sentences of those that are refused.
pub(super) fn table(findings: &[Finding]) -> String {
    let head = ["FILE", "KIND", "NAME", "VERSION", "ABI", "HTTP1", "RUSTC", "PANIC", "SHA256", "VERDICT"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut sentences = Vec::new();
    for finding in findings {
        let note = finding.file.as_ref().and_then(|file| file.image.note.as_ref());
        let get = |key| match note.and_then(|note| note.get(key)) {
            Some(value) if !value.is_empty() => value.to_owned(),
            _ => "-".to_owned(),
        };
        // "rustc 1.95.0 (59807616e 2026-04-14)": the number tells compilers apart well enough.
        let rustc = get("rustc").split(' ').nth(1).unwrap_or("-").to_owned();
        let hash = finding.file.as_ref().map_or("-", |file| &file.image.sha256[..12]).to_owned();
        let verdict = match &finding.refusal {
            None => "good".to_owned(),
            Some(refusal) => {
                sentences.push(refusal.sentence.as_str());
                format!("refused [{}]", sentences.len())
            }
        };
        let row = [name_of(finding), get("kind"), get("name"), get("version"), get("abi"), get("http1")];
        let row = row.into_iter().chain([rustc, get("panic"), hash, verdict]);
        rows.push(row.map(|cell| plain(&cell)).collect());
    }
    let mut text = crate::ctl::table(&rows);
    for (index, sentence) in sentences.iter().enumerate() {
        let _ = writeln!(text, "[{}] {}", index + 1, plain(sentence));
    }
    text
}

/// `{"interface": …, "files": [{"verdict": "good" or "refused", …}, …]}`.
pub(super) fn json(findings: &[Finding], (major, minor): (u32, u32)) -> Result<String, StartError> {
    let files: Vec<Value> = findings.iter().map(object).collect();
    let value = json!({ "interface": format!("{major}.{minor}"), "files": files });
    serde_json::to_string_pretty(&value)
        .map(|text| text + "\n")
        .map_err(|error| StartError::new(EXIT_SETTINGS, format!("cannot write JSON: {error}")))
}

fn object(finding: &Finding) -> Value {
    let mut value = json!({
        "file": name_of(finding),
        "asked": finding.text,
        "verdict": if finding.refusal.is_none() { "good" } else { "refused" },
        "why": finding.refusal.as_ref().map(|refusal| &refusal.sentence),
        "exit_code": finding.refusal.as_ref().map_or(0, |refusal| refusal.exit_code),
    });
    if let Some(file) = &finding.file {
        let image = &file.image;
        let neighbours = image.neighbours.iter();
        let brings: Vec<Value> = neighbours
            .map(|neighbour| json!({ "file": neighbour.original, "sha256": neighbour.sha256 }))
            .collect();
        value["needs"] = json!(file.facts.needed);
        value["brings"] = json!(brings);
        value["build_id"] = json!(image.build_id);
        value["sha256"] = json!(image.sha256);
        value["size"] = json!(image.size);
        value["tls"] = json!({ "octets": file.facts.tls, "static": file.facts.static_tls });
        value["note"] = image.note.as_ref().map_or(Value::Null, note_object);
    }
    if let Some(loaded) = &finding.loaded {
        value["loaded"] = json!(loaded.says);
    }
    value
}

/// The note's lines; those that are lists are lists here.
fn note_object(note: &Note) -> Value {
    let mut object = serde_json::Map::new();
    for (key, value) in note.lines().filter(|(key, _)| *key != "option") {
        object.entry(key.to_owned()).or_insert_with(|| json!(value));
    }
    if note.get("apps").is_some() {
        let apps = note.applications();
        let apps: Vec<Value> =
            apps.iter().map(|(name, how)| json!({ "name": name, "execution": how })).collect();
        object.insert("apps".to_owned(), json!(apps));
    }
    if note.get("features").is_some() {
        object.insert("features".to_owned(), json!(features(note)));
    }
    let options = note.options();
    if !options.is_empty() {
        let option = |option: &crate::elf_note::NoteOption| json!({ "name": option.name, "type": option.kind, "default": option.default, "help": option.help });
        object.insert("options".to_owned(), options.iter().map(option).collect());
    }
    Value::Object(object)
}

/// Without what a terminal would obey.
fn plain(text: &str) -> String {
    let escape = |character: char| {
        let escaped: Vec<char> =
            if character.is_control() { character.escape_default().collect() } else { vec![character] };
        escaped
    };
    text.chars().flat_map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart() {
        assert_eq!(beside("1.0", (1, 0)), "");
        assert!(beside("1.1", (1, 0)).contains("newer"));
        assert!(beside("1.0", (1, 1)).contains("older"));
        // That is a refusal, and needs no words beside it.
        assert_eq!(beside("2.0", (1, 1)), "");
        assert_eq!(beside("?", (1, 1)), "");
    }

    #[test]
    fn an_authors_text_commands_no_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }
}
