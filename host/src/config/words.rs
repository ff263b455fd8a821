//! Splits a text into words as a shell does: white space separates, quotes and backslashes join.
//!
//! Owns only that; there are no variables, no patterns and no comments, since the text comes from an environment
//! variable that a shell has expanded already.
//!
//! What a newcomer would get wrong: `''` is a word (an empty one), and inside double quotes a backslash escapes only
//! `"` and `\`, elsewhere it stays.

/// The words of `text`.
///
/// # Errors
/// What is wrong with the quoting, as the end of a sentence.
pub(super) fn split(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some('\'') => break,
                        Some(quoted) => word.push(quoted),
                        None => return Err("a single quote is not closed"),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some('"') => break,
                        Some('\\') => match characters.next() {
                            Some(escaped @ ('"' | '\\')) => word.push(escaped),
                            Some(other) => word.extend(['\\', other]),
                            None => return Err("a double quote is not closed"),
                        },
                        Some(quoted) => word.push(quoted),
                        None => return Err("a double quote is not closed"),
                    }
                }
            }
            '\\' => match characters.next() {
                Some(escaped) => word.get_or_insert_default().push(escaped),
                None => return Err("a backslash stands at the end"),
            },
            space if space.is_ascii_whitespace() => words.extend(word.take()),
            plain => word.get_or_insert_default().push(plain),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn splits_as_a_shell() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("  -w 4\t-b :80\n", &["-w", "4", "-b", ":80"]),
            ("--access-logformat '%(h)s \"%(r)s\"'", &["--access-logformat", "%(h)s \"%(r)s\""]),
            (r#"a"b c"'d e'f\ g"#, &["ab cd ef g"]),
            (r#""a\"b\\c\d""#, &[r#"a"b\c\d"#]),
            ("'' \"\"", &["", ""]),
        ];
        for (text, expected) in cases {
            assert_eq!(
                split(text).as_deref(),
                Ok(&expected.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()[..])
            );
        }
    }

    #[test]
    fn refuses_open_quotes() {
        for text in ["'a", "\"a", "\"a\\", "a\\"] {
            assert!(split(text).is_err(), "{text}");
        }
    }
}
