//! What the operator decides: the table of this application in the configuration file.
//!
//! Owns the names, the defaults and the judgement. A newcomer might leave a wrong value for the first request to find.
//! Everything is judged when the application is created, so that a reload with a mistake is refused.

use std::collections::BTreeMap;
use std::path::PathBuf;

use glob::{MatchOptions, Pattern};
use rgunicorn_worker_api::prelude::Error;
use serde::Deserialize;

use crate::coding::Coding;

/// `*` stops at a slash, and takes names that begin with a dot: whether those are shown is another setting.
const MATCH: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// Fields that tell what this application has found out itself, or frame the answer. A rule must not set them.
const OURS: &[&str] = &[
    "accept-ranges",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    // A setting of its own: `types`.
    "content-type",
    "date",
    "etag",
    "keep-alive",
    "last-modified",
    "location",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
];

/// The table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The directory; a relative path starts where the workers run (`chdir`).
    pub(crate) root: PathBuf,
    /// What answers for a directory: the first of these that is there.
    #[serde(default = "index")]
    pub(crate) index: Vec<String>,
    /// Whether names that begin with a dot are shown.
    #[serde(default)]
    pub(crate) dotfiles: bool,
    #[serde(default)]
    pub(crate) symlinks: Symlinks,
    /// Which compressed variants to look for beside a file, the preferred first.
    #[serde(default = "precompressed")]
    pub(crate) precompressed: Vec<Coding>,
    /// Added to the media types of texts; none if empty.
    #[serde(default = "charset")]
    charset: String,
    /// Media types by extension, before those that are known.
    #[serde(default)]
    types: BTreeMap<String, String>,
    #[serde(default)]
    rules: Vec<Rule>,
    /// A path in the root that answers, with 200, for what is not there.
    pub(crate) fallback: Option<String>,
}

/// What becomes of symbolic links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Symlinks {
    /// Followed as long as they do not leave the root.
    #[default]
    Within,
    /// Not there.
    Never,
}

/// Fields for the files that a pattern matches.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(deserialize_with = "pattern")]
    path: Pattern,
    fields: BTreeMap<String, String>,
}

fn index() -> Vec<String> {
    vec!["index.html".to_owned()]
}

fn precompressed() -> Vec<Coding> {
    vec![Coding::Brotli, Coding::Zstd, Coding::Gzip]
}

fn charset() -> String {
    "utf-8".to_owned()
}

fn pattern<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Pattern, D::Error> {
    let text = String::deserialize(deserializer)?;
    if !text.starts_with('/') {
        let why = format!(
            "the path '{text}' of a rule must begin with '/': '/**' is everything, '/**/*.js' all scripts"
        );
        return Err(serde::de::Error::custom(why));
    }
    Pattern::new(&text).map_err(|error| {
        serde::de::Error::custom(format!("the path '{text}' of a rule is no pattern: {error}"))
    })
}

impl Settings {
    /// Reads the table, as the server hands it over: a JSON object.
    pub(crate) fn parse(json: &str) -> Result<Self, Error> {
        let settings: Self = serde_json::from_str(json).map_err(|error| {
            let text = error.to_string();
            // Lines and columns are of the JSON, which nobody has written.
            let why = text.rsplit_once(" at line ").map_or(text.as_str(), |(why, _)| why);
            if why == "missing field `root`" {
                return wrong("there is no 'root', the directory to serve");
            }
            wrong(why)
        })?;
        settings.judge()?;
        Ok(settings)
    }

    fn judge(&self) -> Result<(), Error> {
        for name in &self.index {
            if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
                return Err(wrong(&format!("index: '{name}' is no name of a file")));
            }
        }
        if let Some(path) = &self.fallback
            && (!path.starts_with('/') || path.ends_with('/'))
        {
            return Err(wrong(&format!(
                "fallback: '{path}' must be the path of a file, as in '/index.html'"
            )));
        }
        let mut values = self.types.values().map(|media| ("types", media)).collect::<Vec<_>>();
        values.push(("charset", &self.charset));
        for rule in &self.rules {
            for (name, value) in &rule.fields {
                if !is_token(name) {
                    return Err(wrong(&format!("rules: '{name}' is no name of a header field")));
                }
                if OURS.contains(&name.to_ascii_lowercase().as_str()) {
                    return Err(wrong(&format!("rules: the field '{name}' is not a rule's to set")));
                }
                values.push(("rules", value));
            }
        }
        for (place, value) in values {
            if !value.bytes().all(|octet| matches!(octet, b' '..=b'~')) || value.trim() != value {
                return Err(wrong(&format!(
                    "{place}: '{}' cannot stand in a header field",
                    value.escape_debug()
                )));
            }
        }
        Ok(())
    }

    /// The media type of a file.
    pub(crate) fn media_type(&self, name: &str) -> String {
        let file = name.rsplit('/').next().unwrap_or(name);
        let Some((_, extension)) = file.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()) else {
            return "application/octet-stream".to_owned();
        };
        let known = self.types.get(extension).or_else(|| self.types.get(&extension.to_ascii_lowercase()));
        if let Some(media) = known {
            return media.clone();
        }
        let media = mime_guess::from_ext(extension).first_or_octet_stream();
        // XML says in its first line what it is written in, and a parameter here would overrule that.
        let is_text =
            (media.type_() == "text" && media.subtype() != "xml") || media.subtype() == "javascript";
        if is_text && !self.charset.is_empty() && media.get_param("charset").is_none() {
            format!("{media}; charset={}", self.charset)
        } else {
            media.to_string()
        }
    }

    /// The fields that rules set for a file, by its path below the mount point. Of two that set the same the later wins.
    pub(crate) fn fields(&self, path: &str) -> Vec<(&str, &str)> {
        let mut fields: Vec<(&str, &str)> = Vec::new();
        for rule in self.rules.iter().filter(|rule| rule.path.matches_with(path, MATCH)) {
            for (name, value) in &rule.fields {
                fields.retain(|(earlier, _)| !earlier.eq_ignore_ascii_case(name));
                fields.push((name, value));
            }
        }
        fields
    }
}

fn wrong(why: &str) -> Error {
    Error::new(format!(
        "cannot use its settings: {why}; see the table of this application in the configuration file"
    ))
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    let is_token_octet = |octet: u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet);
    !text.is_empty() && text.bytes().all(is_token_octet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_root_is_needed() {
        let settings = Settings::parse(r#"{"root": "public"}"#).unwrap();
        assert_eq!(settings.index, ["index.html"]);
        assert_eq!((settings.symlinks, settings.dotfiles), (Symlinks::Within, false));
        assert_eq!(settings.precompressed.len(), 3);
        for (name, media) in [
            ("a/b.html", "text/html; charset=utf-8"),
            ("a.JS", "text/javascript; charset=utf-8"),
            ("a.css", "text/css; charset=utf-8"),
            ("a.svg", "image/svg+xml"),
            ("a.xml", "text/xml"),
            ("a.json", "application/json"),
            ("a.wasm", "application/wasm"),
            ("a.woff2", "font/woff2"),
            ("a.b/none", "application/octet-stream"),
            (".html", "application/octet-stream"),
            ("x.unheard-of", "application/octet-stream"),
        ] {
            assert_eq!(settings.media_type(name), media, "{name}");
        }
    }

    #[test]
    fn rules_and_types_are_applied_in_their_order() {
        let settings = Settings::parse(
            r#"{"root": "/", "charset": "", "types": {"x": "a/b; c=d"}, "rules": [
                {"path": "/**", "fields": {"Cache-Control": "no-cache", "X-All": "1"}},
                {"path": "/assets/**/*.js", "fields": {"cache-control": "max-age=9"}}]}"#,
        )
        .unwrap();
        assert_eq!(settings.fields("/a/b"), [("Cache-Control", "no-cache"), ("X-All", "1")]);
        for path in ["/assets/x.js", "/assets/a/b/x.js"] {
            assert_eq!(settings.fields(path), [("X-All", "1"), ("cache-control", "max-age=9")], "{path}");
        }
        assert_eq!(settings.media_type("a.x"), "a/b; c=d");
        assert_eq!(settings.media_type("a.html"), "text/html");
    }

    #[test]
    fn mistakes_are_named() {
        for (json, why) in [
            ("{}", "there is no 'root'"),
            (r#"{"root": "a", "rot": 1}"#, "unknown field `rot`, expected one of"),
            (r#"{"root": 1}"#, "invalid type: integer `1`"),
            (r#"{"root": "a", "symlinks": "all"}"#, "unknown variant `all`, expected `within` or `never`"),
            (r#"{"root": "a", "precompressed": ["lz"]}"#, "unknown variant `lz`"),
            (r#"{"root": "a", "index": ["a/b"]}"#, "index: 'a/b' is no name"),
            (r#"{"root": "a", "fallback": "x"}"#, "fallback: 'x' must be the path"),
            (r#"{"root": "a", "rules": [{"path": "x", "fields": {}}]}"#, "must begin with '/'"),
            (r#"{"root": "a", "rules": [{"path": "/[", "fields": {}}]}"#, "is no pattern"),
            (r#"{"root": "a", "rules": [{"path": "/**", "fields": {"a b": ""}}]}"#, "'a b' is no name"),
            (
                r#"{"root": "a", "rules": [{"path": "/**", "fields": {"ETag": ""}}]}"#,
                "'ETag' is not a rule's",
            ),
            (
                r#"{"root": "a", "rules": [{"path": "/**", "fields": {"A": "b\r\nc"}}]}"#,
                r"'b\r\nc' cannot stand",
            ),
            (r#"{"root": "a", "types": {"x": "a\n"}}"#, "types: "),
        ] {
            let error = Settings::parse(json).unwrap_err().to_string();
            assert!(error.starts_with("cannot use its settings: ") && error.contains(why), "{json}: {error}");
            assert!(!error.contains(" line 1"), "{error}");
        }
    }
}
