//! From the path of a request to the name of a file, relative to the root.
//!
//! Owns the decoding, and the judgement of each segment. Opens nothing: that a name does not lead out of the root by a
//! symlink is `root`'s to see.
//!
//! What a newcomer gets wrong: a segment is judged after it was decoded, and decoded once. `%2e%2e` is `..`, `%2f` is a
//! slash that separates nothing and so belongs to no file, and `%252e` is the name `%2e`.

/// What a path stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// Segments with slashes between them, none in front and none behind; empty for the root itself.
    pub(crate) text: Vec<u8>,
    /// Whether the path ended in a slash.
    pub(crate) is_directory: bool,
}

/// Why a path stands for no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unnamed {
    /// It cannot be decoded, or holds a zero, which no system call could take.
    Malformed,
    /// No file has, or shows, such a name.
    Nowhere,
}

impl Name {
    /// The name behind a path that was cut at the mount point: empty, or with a slash in front.
    pub(crate) fn decode(path: &[u8], dotfiles: bool) -> Result<Self, Unnamed> {
        let Some(below) = path.strip_prefix(b"/") else {
            let mount_itself = Self { text: Vec::new(), is_directory: false };
            return if path.is_empty() { Ok(mount_itself) } else { Err(Unnamed::Nowhere) };
        };
        let mut text = Vec::with_capacity(below.len());
        let mut is_directory = true;
        for (index, raw) in below.split(|octet| *octet == b'/').enumerate() {
            // Only the last one may be empty: `/a//b` is not another name for `/a/b`.
            if !is_directory && index > 0 {
                text.push(b'/');
            } else if index > 0 {
                return Err(Unnamed::Nowhere);
            }
            let begin = text.len();
            decode(raw, &mut text)?;
            is_directory = text.len() == begin;
            if !is_shown(&text[begin..], index == 0, dotfiles) {
                return Err(Unnamed::Nowhere);
            }
        }
        if is_directory {
            // The slash behind the last directory.
            text.pop();
        }
        Ok(Self { text, is_directory })
    }

    /// A file in this directory.
    pub(crate) fn join(&self, file: &str) -> Vec<u8> {
        let mut text = self.text.clone();
        if !text.is_empty() {
            text.push(b'/');
        }
        text.extend_from_slice(file.as_bytes());
        text
    }
}

/// Whether a segment names something in its directory that is for everybody. `/.well-known` is made to be seen
/// (RFC 8615).
fn is_shown(segment: &[u8], is_first: bool, dotfiles: bool) -> bool {
    match segment {
        b"." | b".." => false,
        [b'.', ..] => dotfiles || (is_first && segment == b".well-known"),
        _ => !segment.contains(&b'/'),
    }
}

/// Appends what percent-encoded octets stand for (RFC 3986 section 2.1).
fn decode(raw: &[u8], text: &mut Vec<u8>) -> Result<(), Unnamed> {
    let mut octets = raw.iter();
    while let Some(octet) = octets.next() {
        let octet = match octet {
            b'%' => {
                let mut digit = || char::from(*octets.next()?).to_digit(16);
                match (digit(), digit()) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => return Err(Unnamed::Malformed),
                }
            }
            other => *other,
        };
        if octet == 0 {
            return Err(Unnamed::Malformed);
        }
        text.push(octet);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_names() {
        for (path, text, is_directory) in [
            ("", "", false),
            ("/", "", true),
            ("/a", "a", false),
            ("/a/", "a", true),
            ("/a/b.c", "a/b.c", false),
            ("/a%20b/%C3%A4", "a b/\u{e4}", false),
            ("/%252e%252e", "%2e%2e", false),
            ("/a..b/c...", "a..b/c...", false),
            ("/a;v=1", "a;v=1", false),
            ("/a\\..\\b", "a\\..\\b", false),
            ("/.well-known/x", ".well-known/x", false),
        ] {
            let expected = Name { text: text.as_bytes().to_owned(), is_directory };
            assert_eq!(Name::decode(path.as_bytes(), false), Ok(expected), "{path}");
        }
    }

    #[test]
    fn what_names_nothing_is_told_from_what_is_malformed() {
        for path in [
            "/..",
            "/../a",
            "/a/..",
            "/a/../b",
            "/.",
            "/a/./b",
            "/%2e%2e/a",
            "/.%2E",
            "/%2e",
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/a%2fb",
            "/..%2f..%2fetc",
            "/%2f",
            "/.git/config",
            "/a/.env",
            "/a/...",
            "/a/.well-known",
            "*",
            "a",
        ] {
            assert_eq!(Name::decode(path.as_bytes(), false), Err(Unnamed::Nowhere), "{path}");
        }
        for path in ["/%", "/%4", "/%zz", "/a%00", "/%00/..", "/%+1"] {
            assert_eq!(Name::decode(path.as_bytes(), false), Err(Unnamed::Malformed), "{path}");
        }
        for path in ["/..", "/.", "/a/%2e%2e", "/a%2fb"] {
            assert_eq!(Name::decode(path.as_bytes(), true), Err(Unnamed::Nowhere), "{path}");
        }
        let hidden = Name { text: b".git/a".to_vec(), is_directory: false };
        assert_eq!(Name::decode(b"/.git/a", true), Ok(hidden));
    }
}
