//! What tells one state of a file from another, and what a client's conditions make of it (RFC 9110 section 8.8 and 13).
//!
//! Owns `ETag`, `Last-Modified`, and the precedence of the conditions. Opens nothing.
//!
//! What a newcomer gets wrong: a file that was written within the last second can be written again and keep its time,
//! as far as that is told. Its tag is therefore weak: good for 304, too weak to put parts together by (ranges).

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rgunicorn_worker_api::prelude::Request;

/// For so long after a file was written it may be written again unnoticed.
const UNSETTLED: Duration = Duration::from_secs(1);

/// What an open file says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct State {
    pub(crate) length: u64,
    /// When it was written: seconds since 1970, and nanoseconds within the second.
    pub(crate) written: (i64, i64),
}

impl State {
    pub(crate) fn new(found: &Metadata) -> Self {
        Self { length: found.size(), written: (found.mtime(), found.mtime_nsec()) }
    }
}

/// By what a client tells the state of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Validators {
    /// With its quotes, without `W/`.
    opaque: String,
    is_weak: bool,
    /// In whole seconds, and not in the future.
    modified: SystemTime,
}

/// What the conditions of a request come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Answer as if there were none.
    Go,
    /// 304
    NotModified,
    /// 412
    Failed,
}

impl Validators {
    /// Those of a file, or of one of its encoded forms. Neither inode nor time of change is part of it: they differ
    /// between servers that have the same files.
    pub(crate) fn new(state: State, coding: &str, now: SystemTime) -> Self {
        let (seconds, nanoseconds) = state.written;
        let dash = if coding.is_empty() { "" } else { "-" };
        let opaque = format!("\"{:x}-{seconds:x}.{nanoseconds:x}{dash}{coding}\"", state.length);
        let since = Duration::new(seconds.try_into().unwrap_or(0), nanoseconds.try_into().unwrap_or(0));
        let written = UNIX_EPOCH + since;
        let is_weak = written + UNSETTLED > now;
        let modified = whole_seconds(written.min(now));
        Self { opaque, is_weak, modified }
    }

    /// The value of `ETag`.
    pub(crate) fn etag(&self) -> String {
        format!("{}{}", if self.is_weak { "W/" } else { "" }, self.opaque)
    }

    /// The value of `Last-Modified`.
    pub(crate) fn last_modified(&self) -> String {
        httpdate::fmt_http_date(self.modified)
    }

    /// Evaluates conditions in the order of RFC 9110 section 13.2.2; the method is GET or HEAD.
    pub(crate) fn judge(&self, request: &Request<'_>) -> Verdict {
        let values = |name: &str| values(request, name);
        self.verdict(
            values("if-match").as_deref(),
            values("if-unmodified-since").as_deref(),
            values("if-none-match").as_deref(),
            values("if-modified-since").as_deref(),
        )
    }

    fn verdict(
        &self,
        if_match: Option<&[u8]>,
        if_unmodified_since: Option<&[u8]>,
        if_none_match: Option<&[u8]>,
        if_modified_since: Option<&[u8]>,
    ) -> Verdict {
        match (if_match, if_unmodified_since.and_then(date)) {
            (Some(list), _) if !self.is_among(list, Comparison::Strong) => return Verdict::Failed,
            (None, Some(date)) if self.modified > date => return Verdict::Failed,
            _ => {}
        }
        match (if_none_match, if_modified_since.and_then(date)) {
            (Some(list), _) if self.is_among(list, Comparison::Weak) => Verdict::NotModified,
            (None, Some(date)) if self.modified <= date => Verdict::NotModified,
            _ => Verdict::Go,
        }
    }

    /// Whether the part that the client asks for belongs to what it has (`If-Range`, section 13.1.5).
    pub(crate) fn matches_range(&self, value: &[u8]) -> bool {
        if value.starts_with(b"\"") || value.starts_with(b"W/") {
            return value == self.opaque.as_bytes() && !self.is_weak;
        }
        // Exactly, not "or later"; and a time as young as this says nothing for sure.
        date(value) == Some(self.modified) && !self.is_weak
    }

    fn is_among(&self, list: &[u8], comparison: Comparison) -> bool {
        if list == b"*" {
            return true;
        }
        tags(list).any(|(is_weak, opaque)| {
            opaque == self.opaque.as_bytes() && (comparison == Comparison::Weak || !(is_weak || self.is_weak))
        })
    }
}

/// RFC 9110 section 8.8.3.2.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

/// All values of a field as one list.
pub(crate) fn values(request: &Request<'_>, name: &str) -> Option<Vec<u8>> {
    let mut all: Option<Vec<u8>> = None;
    for field in request.fields().filter(|field| field.name.eq_ignore_ascii_case(name.as_bytes())) {
        match &mut all {
            None => all = Some(field.value.to_vec()),
            Some(list) => {
                list.extend_from_slice(b", ");
                list.extend_from_slice(field.value);
            }
        }
    }
    all
}

/// The tags of a list with whether each is weak, up to what is none. A tag may hold commas.
fn tags(list: &[u8]) -> impl Iterator<Item = (bool, &[u8])> {
    let mut rest = list;
    std::iter::from_fn(move || {
        while let [b' ' | b'\t' | b',', after @ ..] = rest {
            rest = after;
        }
        let (is_weak, quoted) = match rest.strip_prefix(b"W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let end = quoted.strip_prefix(b"\"")?.iter().position(|octet| *octet == b'"')? + 2;
        let (opaque, after) = quoted.split_at(end);
        rest = after;
        Some((is_weak, opaque))
    })
}

/// A date in any of the three forms (RFC 9110 section 5.6.7); none if it is no date, which ignores the condition.
fn date(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn validators(is_weak: bool) -> Validators {
        let modified = UNIX_EPOCH + Duration::from_secs(784_111_777);
        Validators { opaque: "\"a,b\"".to_owned(), is_weak, modified }
    }

    #[test]
    fn conditions_have_their_precedence() {
        use Verdict::{Failed, Go, NotModified};
        let none = None::<&str>;
        for (if_match, unmodified, none_match, since, expected) in [
            (none, none, none, none, Go),
            (Some("*"), none, none, none, Go),
            (Some("\"a,b\""), none, none, none, Go),
            (Some("\"x\" , \"a,b\""), none, none, none, Go),
            (Some("W/\"a,b\""), none, none, none, Failed),
            (Some("\"a\""), none, none, none, Failed),
            (Some(""), none, none, none, Failed),
            // The tag decides; the date is not even looked at.
            (Some("\"a,b\""), Some(EARLIER), none, none, Go),
            (none, Some(EARLIER), none, none, Failed),
            (none, Some(MODIFIED), none, none, Go),
            (none, Some("yesterday"), none, none, Go),
            (none, none, Some("*"), none, NotModified),
            (none, none, Some("W/\"a,b\""), none, NotModified),
            (none, none, Some("\"x\",\"a,b\""), none, NotModified),
            (none, none, Some("\"x\""), Some(LATER), Go),
            (none, none, Some("\"a,b\""), Some(EARLIER), NotModified),
            (none, none, Some("a,b"), none, Go),
            (none, none, Some("\"a,b"), none, Go),
            (none, none, none, Some(MODIFIED), NotModified),
            (none, none, none, Some(LATER), NotModified),
            (none, none, none, Some(EARLIER), Go),
            (none, none, none, Some("Sunday, 06-Nov-94 08:49:37 GMT"), NotModified),
            (none, none, none, Some("Sun Nov  6 08:49:37 1994"), NotModified),
            (none, none, none, Some("06 Nov 1994"), Go),
            // What must hold first fails first.
            (Some("\"x\""), none, Some("\"a,b\""), none, Failed),
            (Some("\"a,b\""), none, Some("\"a,b\""), none, NotModified),
        ] {
            let got = validators(false).verdict(
                if_match.map(str::as_bytes),
                unmodified.map(str::as_bytes),
                none_match.map(str::as_bytes),
                since.map(str::as_bytes),
            );
            assert_eq!(got, expected, "{if_match:?} {unmodified:?} {none_match:?} {since:?}");
        }
    }

    #[test]
    fn what_is_weak_is_good_enough_for_304_only() {
        let weak = validators(true);
        assert_eq!(weak.etag(), "W/\"a,b\"");
        assert!(weak.is_among(b"\"a,b\"", Comparison::Weak));
        assert!(!weak.is_among(b"\"a,b\"", Comparison::Strong));
        assert!(!weak.matches_range(b"\"a,b\""));
        assert!(!weak.matches_range(MODIFIED.as_bytes()));
        let strong = validators(false);
        for (value, expected) in [
            ("\"a,b\"", true),
            ("W/\"a,b\"", false),
            ("\"x\"", false),
            (MODIFIED, true),
            (LATER, false),
            (EARLIER, false),
            ("", false),
            ("*", false),
        ] {
            assert_eq!(strong.matches_range(value.as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn a_file_that_was_just_written_or_comes_from_the_future_has_a_weak_tag() {
        let path = std::env::temp_dir().join(format!("rgunicorn-static-{}-validators", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for (age, weak, modified) in
            [(-3600_i64, true, 0_u64), (0, true, 0), (1, false, 1), (100, false, 100)]
        {
            let written =
                if age < 0 { now + Duration::from_secs(3600) } else { now - Duration::from_secs(age as u64) };
            file.set_modified(written).unwrap();
            let validators = Validators::new(State::new(&file.metadata().unwrap()), "br", now);
            assert_eq!(validators.is_weak, weak, "{age}");
            assert_eq!(validators.modified, now - Duration::from_secs(modified), "{age}");
            assert!(validators.opaque.ends_with("-br\""), "{}", validators.opaque);
        }
        let _ = std::fs::remove_file(path);
    }
}
