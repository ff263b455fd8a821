//! The configuration file: TOML, read with the line of every value.
//!
//! Owns the translation of a file into [`Values`] and application tables, and the sentences about what is wrong in
//! it. Does not own where the file is or what values mean together: see [`super`].
//!
//! What a newcomer would get wrong: `app` has two meanings, told apart by type. `app = "x.so"` is short for
//! `application = "x.so"`; `[app.NAME]` is the table of settings of the application NAME. TOML allows one of them in
//! a file, so a file with tables writes `application`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::mounts::{self, MountSettings};
use crate::cli::{Origin, Values};
use crate::settings::{Kind, Place, SETTINGS, Setting, Value, find, gunicorn, nearest};

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct FileContents {
    pub(super) values: Values,
    /// `[app.NAME]` by NAME, with the line it begins on.
    pub(super) applications: BTreeMap<String, (serde_json::Value, usize)>,
    /// Of the mounts that are tables.
    pub(super) mount_settings: MountSettings,
}

/// Probe: reads the text of a file; `path` is for messages.
pub(super) fn read(path: &Path, text: &str) -> Result<FileContents, ConfigError> {
    let reader = Reader { path, text };
    let table = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let hint = if text.get(span.clone()).is_some_and(|key| key.trim() == "app") {
            "; write application = \"...\" in a file that has [app.NAME] tables"
        } else {
            ""
        };
        ConfigError::Settings(format!(
            "cannot read {} line {}: {}{hint}",
            path.display(),
            reader.line(&span),
            match (error.message(), text.get(span.clone()).map(str::trim)) {
                ("duplicate key", Some(key)) if key != "app" => {
                    format!("'{key}' stands here for the second time; keep one of them")
                }
                ("duplicate key", _) => "duplicate key".to_owned(),
                (message, _) => format!("{}; {}", message.replace('\n', ", "), reader.language(&span)),
            }
        ))
    })?;
    let mut contents = FileContents::default();
    for (key, value) in table.get_ref() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("app", DeValue::Table(tables)) => contents.applications = reader.applications(tables)?,
            ("mount", DeValue::Array(elements)) => {
                let list;
                (list, contents.mount_settings) = mounts::read(&reader, elements)?;
                let setting = find("mount").expect("it is in the table");
                contents.values.set(setting, Value::List(list), reader.origin(&key.span()));
            }
            (name, _) => {
                let name = if name == "app" { "application" } else { name };
                let setting = find(name).filter(|setting| setting.place == Place::Anywhere);
                let Some(setting) = setting else { return Err(reader.unknown(key)) };
                if name != key.get_ref() && table.get_ref().contains_key("application") {
                    return Err(
                        reader.fail(key, "'app' and 'application' are the same setting; keep one of them")
                    );
                }
                let value = reader.value(setting, value)?;
                contents.values.set(setting, value, reader.origin(&key.span()));
            }
        }
    }
    Ok(contents)
}

pub(super) struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn origin(&self, span: &Range<usize>) -> Origin {
        Origin::File { path: self.path.to_owned(), line: self.line(span) }
    }

    /// What the file is to be written in, with an example for whoever has written something else: the end of a sentence.
    fn language(&self, span: &Range<usize>) -> String {
        let line = self.text.lines().nth(self.line(span) - 1).unwrap_or_default();
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        let name = name.trim();
        let anywhere = || SETTINGS.iter().filter(|setting| setting.place == Place::Anywhere);
        let near = nearest(name, anywhere().map(|setting| setting.name)).unwrap_or("workers");
        let example = find(near).map(|setting| example(setting, value.trim())).unwrap_or_default();
        let python = self.path.extension().is_some_and(|end| end == "py") || self.text.lines().any(is_python);
        let not = if python { ", not Python" } else { "" };
        format!("the file is TOML{not}: a line of it is, for example, {example}")
    }

    /// "cannot read /etc/x.toml line 3: …".
    pub(super) fn fail<T>(&self, at: &Spanned<T>, why: &str) -> ConfigError {
        ConfigError::Settings(format!(
            "cannot read {} line {}: {why}",
            self.path.display(),
            self.line(&at.span())
        ))
    }

    fn unknown(&self, key: &Spanned<impl AsRef<str>>) -> ConfigError {
        let name = key.get_ref().as_ref();
        if let Some(setting) = find(name) {
            let why = format!("'{name}' cannot stand in a file; give {} as an argument", setting.flag_text());
            return self.fail(key, &why);
        }
        let flag = |setting: &&Setting| setting.flags.contains(&name.replace('_', "-").as_str());
        let names = SETTINGS.iter().filter(|setting| setting.place == Place::Anywhere);
        let meant = names.clone().find(flag).map(|setting| setting.name);
        if let (None, Some(became)) = (meant, gunicorn::became(name)) {
            return self.fail(key, &format!("there is no setting '{name}'; {became}"));
        }
        let why = match meant.or_else(|| nearest(name, names.map(|setting| setting.name))) {
            Some(near) => format!("there is no setting '{name}'; did you mean '{near}'?"),
            None => format!("there is no setting '{name}'; 'rgunicorn --help' lists all"),
        };
        self.fail(key, &why)
    }

    fn value(&self, setting: &Setting, value: &Spanned<DeValue<'_>>) -> Result<Value, ConfigError> {
        let wrong = |got: &DeValue<'_>| {
            let why = format!("'{}' must be {}, not {}", setting.name, setting.kind.describe(), article(got));
            self.fail(value, &why)
        };
        let parse = |word: &str| {
            setting.parse(word).map_err(|why| self.fail(value, &format!("'{}' {why}", setting.name)))
        };
        match (setting.kind, value.get_ref()) {
            (Kind::Mode, DeValue::Integer(number)) if number.radix() == 8 => {
                parse(&format!("0o{}", number.as_str()))
            }
            (
                Kind::Mode | Kind::Integer { .. } | Kind::CountOrAuto { .. } | Kind::Size | Kind::Seconds,
                DeValue::Integer(number),
            ) => match i128::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => parse(&number.to_string()),
                Err(_) => parse(number.as_str()),
            },
            (Kind::Mode | Kind::Size, DeValue::String(text)) => parse(text),
            // "4" is no number, here as elsewhere.
            (Kind::CountOrAuto { .. }, DeValue::String(text)) if text.parse::<u64>().is_err() => parse(text),
            (Kind::Seconds, DeValue::Float(number)) => parse(number.as_str()),
            (Kind::Flag, DeValue::Boolean(flag)) => Ok(Value::Flag(*flag)),
            (Kind::ChoiceOrFlag(_), DeValue::Boolean(flag)) => parse(&flag.to_string()),
            (
                Kind::Text
                | Kind::Path
                | Kind::Choice(_)
                | Kind::ChoiceOrFlag(_)
                | Kind::TextList
                | Kind::PathList,
                DeValue::String(text),
            ) => parse(text),
            (Kind::TextList | Kind::PathList, DeValue::Array(elements)) => {
                let mut list = Vec::new();
                for element in elements.iter() {
                    let DeValue::String(text) = element.get_ref() else {
                        return Err(wrong(element.get_ref()));
                    };
                    parse(text)?;
                    list.push(text.clone().into_owned());
                }
                Ok(Value::List(list))
            }
            (Kind::Options, DeValue::Table(table)) => {
                let mut options = BTreeMap::new();
                for (name, option) in table {
                    let text = match option.get_ref() {
                        DeValue::String(text) => text.clone().into_owned(),
                        DeValue::Integer(number) => {
                            match i128::from_str_radix(number.as_str(), number.radix()) {
                                Ok(number) => number.to_string(),
                                Err(_) => number.as_str().to_owned(),
                            }
                        }
                        DeValue::Float(number) => number.as_str().to_owned(),
                        DeValue::Boolean(flag) => flag.to_string(),
                        other => {
                            let (name, got) = (name.get_ref(), article(other));
                            let why = format!(
                                "'{}.{name}' must be a text, a number or a flag, not {got}",
                                setting.name
                            );
                            return Err(self.fail(option, &why));
                        }
                    };
                    let name = name.get_ref().clone().into_owned();
                    setting
                        .parse(&format!("{name}={text}"))
                        .map_err(|why| self.fail(option, &format!("'{}.{name}' {why}", setting.name)))?;
                    options.insert(name, text);
                }
                Ok(Value::Options(options))
            }
            (_, other) => Err(wrong(other)),
        }
    }

    fn applications(
        &self,
        tables: &DeTable<'_>,
    ) -> Result<BTreeMap<String, (serde_json::Value, usize)>, ConfigError> {
        let mut applications = BTreeMap::new();
        for (name, value) in tables {
            let DeValue::Table(_) = value.get_ref() else {
                let why = format!("'app.{}' must be a table of the application's settings", name.get_ref());
                return Err(self.fail(name, &why));
            };
            let settings = self.json(value)?;
            let line = self.line(&name.span());
            applications.insert(name.get_ref().clone().into_owned(), (settings, line));
        }
        Ok(applications)
    }

    /// The same value in JSON's types; dates and times become text.
    pub(super) fn json(&self, value: &Spanned<DeValue<'_>>) -> Result<serde_json::Value, ConfigError> {
        Ok(match value.get_ref() {
            DeValue::String(text) => text.as_ref().into(),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => number.into(),
                Err(_) => return Err(self.fail(value, "the number does not fit into 64 bits")),
            },
            DeValue::Float(number) => match number.as_str().parse::<f64>() {
                Ok(number) if number.is_finite() => number.into(),
                _ => return Err(self.fail(value, "the number must be finite")),
            },
            DeValue::Boolean(flag) => (*flag).into(),
            DeValue::Datetime(time) => time.to_string().into(),
            DeValue::Array(elements) => {
                elements.iter().map(|element| self.json(element)).collect::<Result<Vec<_>, _>>()?.into()
            }
            DeValue::Table(table) => {
                let mut object = serde_json::Map::new();
                for (name, value) in table {
                    object.insert(name.get_ref().clone().into_owned(), self.json(value)?);
                }
                object.into()
            }
        })
    }
}

/// Whether a line is one that Gunicorn's file may have and that no TOML file has.
fn is_python(line: &str) -> bool {
    let words = ["import ", "from ", "def ", "class ", "if ", "for ", "@"];
    let value = line.split_once('=').map_or("", |(_, value)| value.trim());
    words.iter().any(|word| line.starts_with(word)) || ["True", "False", "None"].contains(&value)
}

/// A line that sets a setting, to what a Python file says if that can be seen.
fn example(setting: &Setting, python: &str) -> String {
    let default = setting.default_value(|_| None).ok().flatten().map(|value| value.to_text());
    let text = default.filter(|text| !text.is_empty()).unwrap_or_else(|| "...".to_owned());
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    let value = match setting.kind {
        Kind::Flag => (python != "False").to_string(),
        Kind::Integer { .. } | Kind::Seconds => text,
        Kind::CountOrAuto { .. } => "\"auto\"".to_owned(),
        Kind::TextList | Kind::PathList => format!("[\"{}\"]", text.replace(',', "\", \"")),
        Kind::Options => "{ NAME = \"VALUE\" }".to_owned(),
        Kind::Size | Kind::Mode | Kind::Text | Kind::Path | Kind::Choice(_) | Kind::ChoiceOrFlag(_) => {
            format!("\"{text}\"")
        }
    };
    format!("{} = {value}", setting.name)
}

/// The type of a TOML value in a sentence.
pub(super) fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Values {
        read(Path::new("/f.toml"), text).unwrap_or_else(|error| panic!("{text}: {error}")).values
    }

    #[test]
    fn reads_every_kind() {
        let cases = [
            ("workers = 4", "workers", "4"),
            ("workers = 0x10", "workers", "16"),
            ("timeout = 5", "timeout", "5"),
            ("timeout = 0.5", "timeout", "0.5"),
            ("umask = 0o22", "umask", "0o22"),
            ("umask = '022'", "umask", "0o22"),
            ("umask = 0", "umask", "0o0"),
            ("bind = ':80'", "bind", ":80"),
            ("bind = [':80', ':81']", "bind", ":80,:81"),
            ("loglevel = 'Debug'", "loglevel", "debug"),
            ("app = 'x.so'", "application", "x.so"),
            ("application = 'x.so'", "application", "x.so"),
            ("[worker_options]\na = 1\nb = true\nc = 'x'", "worker_options", "a=1,b=true,c=x"),
        ];
        for (text, name, expected) in cases {
            assert_eq!(values(text).get(name).unwrap().value.to_text(), expected, "{text}");
        }
    }

    #[test]
    fn remembers_lines() {
        let given = values("# comment\n\nworkers = 4\n").get("workers").unwrap().clone();
        assert_eq!(given.origin.to_string(), "in /f.toml line 3");
    }

    #[test]
    fn application_tables_become_json() {
        let text = "[app.shop]\nname = 'x'\nlimits = { a = 1, b = [1.5, true] }\nsince = 2026-11-21\n";
        let contents = read(Path::new("/f.toml"), text).unwrap();
        let expected = serde_json::json!({
            "name": "x", "limits": {"a": 1, "b": [1.5, true]}, "since": "2026-11-21",
        });
        assert_eq!(contents.applications["shop"], (expected, 1));
    }

    #[test]
    fn refuses_with_file_line_key_and_hint() {
        let cases = [
            (
                "\nwokers = 1",
                "cannot read /f.toml line 2: there is no setting 'wokers'; did you mean 'workers'?",
            ),
            (
                "access-logfile = 1",
                "cannot read /f.toml line 1: there is no setting 'access-logfile'; did you mean 'accesslog'?",
            ),
            (
                "zzz = 1",
                "cannot read /f.toml line 1: there is no setting 'zzz'; 'rgunicorn --help' lists all",
            ),
            (
                "certfile = 'x'",
                "cannot read /f.toml line 1: there is no setting 'certfile'; what Gunicorn has by that name is not there \
                 yet: With TLS. Until then a proxy in front ends it",
            ),
            (
                "workers = 1\nworkers = 2",
                "cannot read /f.toml line 2: 'workers' stands here for the second time; keep one of them",
            ),
            (
                "config = 'x'",
                "cannot read /f.toml line 1: 'config' cannot stand in a file; give --config as an argument",
            ),
            (
                "workers = 0",
                "cannot read /f.toml line 1: 'workers' must be a whole number from 1 to 1024, or auto, not '0'",
            ),
            (
                "workers = -1",
                "cannot read /f.toml line 1: 'workers' must be a whole number from 1 to 1024, or auto, not '-1'",
            ),
            (
                "workers = '4'",
                "cannot read /f.toml line 1: 'workers' must be a whole number from 1 to 1024, or auto, not a text",
            ),
            (
                "workers = 4.5",
                "cannot read /f.toml line 1: 'workers' must be a whole number from 1 to 1024, or auto, not a number with a fraction",
            ),
            (
                "umask = 22",
                "cannot read /f.toml line 1: 'umask' must be octal with a leading zero, such as 022 or 0o22, not '22'",
            ),
            (
                "\nbind = [\n1]",
                "cannot read /f.toml line 2: 'bind' must be a text or a list of texts, not a whole number",
            ),
            (
                "app.x = 1",
                "cannot read /f.toml line 1: 'app.x' must be a table of the application's settings",
            ),
            (
                "application = 'a'\napp = 'b'",
                "cannot read /f.toml line 2: 'app' and 'application' are the same setting; keep one of them",
            ),
            (
                "[worker_options]\na = []",
                "cannot read /f.toml line 2: 'worker_options.a' must be a text, a number or a flag, not a list",
            ),
        ];
        for (text, expected) in cases {
            let error = read(Path::new("/f.toml"), text).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.exit_code()), (expected, 1), "{text}");
        }
        for text in ["workers = ", "workers = 1\nworkers = 2", "= 3"] {
            let error = read(Path::new("/f.toml"), text).unwrap_err().to_string();
            assert!(
                error.starts_with("cannot read /f.toml line ") && !error.contains('\n'),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn who_writes_python_is_told_what_the_file_is() {
        let cases = [
            (
                "x.py",
                "import os\n",
                "line 1",
                "the file is TOML, not Python: a line of it is, for example, workers = \"auto\"",
            ),
            (
                "f.toml",
                "bind = ':80'\nworkers = multiprocessing.cpu_count() * 2 + 1\n",
                "line 2",
                "the file is TOML: a line of it is, for example, workers = \"auto\"",
            ),
            (
                "f.toml",
                "preload_app = True\n",
                "line 1",
                "the file is TOML, not Python: a line of it is, for example, preload_app = true",
            ),
            ("f.toml", "reload = False", "line 1", "for example, reload = false"),
            ("f.toml", "bind = f'{host}:80'\n", "line 1", "for example, bind = [\"127.0.0.1:8000\"]"),
            ("f.toml", "timeout 30\n", "line 1", "for example, "),
            ("x.py", "def on_starting(server):\n    pass\n", "line 1", "not Python"),
        ];
        for (path, text, line, end) in cases {
            let error = read(Path::new(path), text).unwrap_err().to_string();
            assert!(error.contains(line) && error.contains(end) && !error.contains('\n'), "{text}: {error}");
        }
        // Every setting has an example that can be read.
        for setting in SETTINGS.iter().filter(|setting| setting.place == Place::Anywhere) {
            let line = example(setting, "");
            assert!(DeTable::parse(&line).is_ok(), "{line}");
        }
    }

    #[test]
    fn tells_how_to_have_both_meanings_of_app() {
        let error = read(Path::new("/f.toml"), "app = 'x.so'\n[app.x]\na = 1\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("write application ="), "{error}");
    }
}
