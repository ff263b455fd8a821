//! Makes `corpus` out of what is kept, and of `tests/requests`: every raw request there becomes an input of `head`, `body`
//! and `exchange`.
//!
//! Owns what goes before a request. What a newcomer would get wrong: an input begins with octets of choice; and the
//! seed of `body` is only what follows the empty line, taken for a chunked body.

use std::error::Error;
use std::fs;
use std::path::Path;

use rgunicorn_http1_fuzz::kept;

/// The octets of choice that each target takes off before the request.
const TARGETS: &[(&str, &[&[u8]])] = &[
    // Settings and the size of a piece: strict and lenient.
    ("head", &[&[0, 1], &[0b0101_1111, 3], &[0b1000_0000, 1]]),
    // Settings, the size of a piece, room, framing.
    ("body", &[&[0, 1, 1, 0], &[0x80, 3, 5, 0]]),
    // Settings, which application, the size of a piece, how much is taken at a time, how many acts there are.
    ("exchange", &[&[0, 0, 1, 9, 0], &[0, 3, 5, 0, 4, 2, 60, 6, 0]]),
];

fn main() -> Result<(), Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (target, choices) in TARGETS {
        let corpus = here.join("corpus").join(target);
        fs::create_dir_all(&corpus)?;
        for kind in ["valid", "invalid"] {
            for entry in fs::read_dir(here.join("../../../tests/requests").join(kind))? {
                let path = entry?.path();
                if path.extension().is_none_or(|extension| extension != "http") {
                    continue;
                }
                let request = fs::read(&path)?;
                let head = request.windows(4).position(|end| end == b"\r\n\r\n").map_or(0, |at| at + 4);
                let octets = if *target == "body" { &request[head..] } else { &request[..] };
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                for (number, choice) in choices.iter().enumerate() {
                    fs::write(corpus.join(format!("{kind}-{name}-{number}")), [choice, octets].concat())?;
                }
            }
        }
    }
    for entry in fs::read_dir(here.join("kept"))? {
        let path = entry?.path();
        let corpus = here.join("corpus").join(path.file_stem().unwrap_or_default());
        fs::create_dir_all(&corpus)?;
        for (number, line) in fs::read_to_string(&path)?.lines().enumerate() {
            let input = kept::from_line(line).ok_or_else(|| format!("{}: {line}", path.display()))?;
            fs::write(corpus.join(format!("kept-{number}")), input)?;
        }
    }
    Ok(())
}
