//! docs/SETTINGS.md, written from the table of settings.
//!
//! Owns the page's words around the table and its layout. What a newcomer would get wrong: the page is never edited by
//! hand. Change the table, then run `RGUNICORN_BLESS=1 cargo test -p rgunicorn settings::reference`.

use super::{Kind, OnReload, Place, SETTINGS, Setting, gunicorn};

const OPENING: &str = "\
# Settings

This page is written from the table in `host/src/settings.rs`; `rgunicorn --help` shows the same, and with `-k CLASS` the
options of that worker class. In a checkout `cargo pages` writes the manual page and completions for bash, zsh and fish
into `target/pages`.

A setting can stand in three places. Of two that set the same one the later in this list wins:

1. The configuration file, in TOML: `-c FILE`, else `./rgunicorn.toml` if there is one. Its keys are the names below.
2. The words of the environment variable `RGUNICORN_CMD_ARGS`, written as on the command line.
3. The command line.

Flags that may be repeated add to each other within one place; a list in a stronger place replaces the whole list of a
weaker one. Only the options of the worker class are replaced one by one. An unknown key or flag is an error, and the
sentence names the nearest known one.

Settings of the form `NAME=VALUE` are tables in the file: `[worker_options]`, `[secure_scheme_headers]`. One more kind of
table is no setting of the server: `[app.NAME]` is handed to the application NAME as JSON.

A HUP reads the file again. The command line and the environment are those of the start. *Applies* means that the next
generation has the new value; *fixed* means that a reload that changes the value is refused, and names the setting.
";

/// The whole page, as Markdown.
pub fn reference() -> String {
    let mut page = OPENING.to_owned();
    let mut section = "";
    for setting in SETTINGS {
        if setting.section != section {
            section = setting.section;
            page.push_str(&format!("\n## {section}\n\n"));
            page.push_str("| setting | flags | value | default | what it does | on reload |\n");
            page.push_str("|---|---|---|---|---|---|\n");
        }
        page.push_str(&row(setting));
    }
    page.push_str(&gunicorn::comparison());
    page
}

fn row(setting: &Setting) -> String {
    let cells = [
        code(setting.name),
        flags(setting),
        value(setting.kind),
        default(setting),
        help(setting),
        on_reload(setting).to_owned(),
    ];
    format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
}

fn flags(setting: &Setting) -> String {
    let short = setting.short.map(|letter| code(&format!("-{letter}")));
    let long = setting.flags.iter().map(|flag| code(&format!("--{flag}")));
    let all: Vec<String> = short.into_iter().chain(long).collect();
    if all.is_empty() { "the argument `APP`".to_owned() } else { all.join(", ") }
}

fn value(kind: Kind) -> String {
    let repeated = if kind.is_repeatable() { ", repeatable" } else { "" };
    match kind {
        Kind::Integer { unit, .. } | Kind::CountOrAuto { unit, .. } => {
            format!("{} ({unit})", kind.describe())
        }
        Kind::TextList => format!("a text{repeated}"),
        Kind::PathList => format!("a path{repeated}"),
        Kind::Options => format!("`NAME=VALUE`{repeated}"),
        Kind::Size
        | Kind::Seconds
        | Kind::Mode
        | Kind::Text
        | Kind::Path
        | Kind::Flag
        | Kind::Choice(_)
        | Kind::ChoiceOrFlag(_) => kind.describe(),
    }
}

fn default(setting: &Setting) -> String {
    let fixed = setting.default.map_or_else(|| "none".to_owned(), code);
    match setting.default_from {
        Some((variable, before)) => format!("{}, else {fixed}", code(&format!("{before}${variable}"))),
        None => fixed,
    }
}

fn help(setting: &Setting) -> String {
    match setting.place {
        Place::Anywhere => setting.help.to_owned(),
        Place::Words => format!("{} Not in the file.", setting.help),
        Place::CommandLine => format!("{} On the command line only.", setting.help),
    }
}

fn on_reload(setting: &Setting) -> &'static str {
    match (setting.place, setting.on_reload) {
        (Place::CommandLine, _) => "–",
        // Typed once; what a reload reads again is the file it names.
        (Place::Words, _) => "the file is read again",
        (Place::Anywhere, OnReload::Applies) => "applies",
        (Place::Anywhere, OnReload::Fixed) => "fixed",
    }
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::reference;

    #[test]
    fn the_page_is_what_the_table_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/SETTINGS.md");
        if std::env::var_os("RGUNICORN_BLESS").is_some() {
            std::fs::write(&path, reference()).unwrap();
        }
        let page = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            page == reference(),
            "docs/SETTINGS.md is not what the table says; run \
             RGUNICORN_BLESS=1 cargo test -p rgunicorn settings::reference and look at the difference"
        );
    }
}
