//! `[[mount]]`: a mount as a table, for an application that has settings of its own at this place.
//!
//! Owns the keys of that table, and how it is printed again. Does not own what a prefix may be, nor the search for the
//! application ([`super`]). What a newcomer would get wrong: both forms of the setting become the same list of
//! `PREFIX=APP`, so that precedence and comparison know one form. The settings are kept apart, by that text, and are of no
//! use to a list from a stronger place that does not hold it.

use std::collections::BTreeMap;
use std::io;

use serde_json::{Value as Json, json};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::ConfigError;
use super::file::{Reader, article};
use crate::settings::nearest;

/// The keys of a mount.
const KEYS: &[&str] = &["prefix", "application", "settings"];

/// Settings of mounts by `PREFIX=APP`; each an object.
pub(super) type MountSettings = BTreeMap<String, Json>;

/// Probe: the list of `PREFIX=APP` that an array of texts and tables says, and the settings of the tables.
pub(super) fn read(
    reader: &Reader<'_>,
    elements: &DeArray<'_>,
) -> Result<(Vec<String>, MountSettings), ConfigError> {
    let (mut list, mut settings) = (Vec::new(), MountSettings::new());
    for element in elements.iter() {
        match element.get_ref() {
            DeValue::String(text) => list.push(text.clone().into_owned()),
            DeValue::Table(table) => {
                let (text, own) = mount(reader, element, table)?;
                settings.extend(own.map(|own| (text.clone(), own)));
                list.push(text);
            }
            other => {
                let why = format!("a mount must be PREFIX=APP or a table, not {}", article(other));
                return Err(reader.fail(element, &why));
            }
        }
    }
    Ok((list, settings))
}

fn mount(
    reader: &Reader<'_>,
    whole: &Spanned<DeValue<'_>>,
    table: &DeTable<'_>,
) -> Result<(String, Option<Json>), ConfigError> {
    if let Some((key, _)) = table.iter().find(|(key, _)| !KEYS.contains(&key.get_ref().as_ref())) {
        let name = key.get_ref();
        let why = match nearest(name, KEYS.iter().copied()) {
            Some(near) => format!("a mount has no '{name}'; did you mean '{near}'?"),
            None => format!("a mount has no '{name}'; it has {}", KEYS.join(", ")),
        };
        return Err(reader.fail(key, &why));
    }
    let text = |key: &str| match table.get(key).map(|value| (value, value.get_ref())) {
        Some((_, DeValue::String(text))) if !text.is_empty() => Ok(text.as_ref()),
        Some((value, other)) => {
            let why =
                format!("the {key} of a mount must be a text that is not empty, not {}", article(other));
            Err(reader.fail(value, &why))
        }
        None => Err(reader.fail(whole, &format!("this mount has no '{key}'"))),
    };
    let (prefix, application) = (text("prefix")?, text("application")?);
    if prefix.contains('=') {
        return Err(
            reader.fail(whole, &format!("the prefix '{prefix}' of a mount must not have a '=' in it"))
        );
    }
    let settings = match table.get("settings") {
        None => None,
        Some(value) if matches!(value.get_ref(), DeValue::Table(_)) => Some(reader.json(value)?),
        Some(value) => {
            let why = format!("the settings of a mount must be a table, not {}", article(value.get_ref()));
            return Err(reader.fail(value, &why));
        }
    };
    Ok((format!("{prefix}={application}"), settings))
}

/// The list as it can be read again, in JSON's types: those with settings of their own are tables.
pub(super) fn printable(list: &[String], settings: &MountSettings) -> Json {
    let element = |text: &String| match (settings.get(text), text.split_once('=')) {
        (Some(own), Some((prefix, application))) => {
            json!({ "prefix": prefix, "application": application, "settings": own })
        }
        _ => json!(text),
    };
    list.iter().map(element).collect::<Vec<_>>().into()
}

/// The same as TOML, on one line.
pub(super) fn to_toml(list: &[String], settings: &MountSettings) -> io::Result<String> {
    super::inline(&printable(list, settings))
}
