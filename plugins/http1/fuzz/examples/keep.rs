//! Takes inputs into `kept`: `cargo run --example keep head DIRECTORY`, with a directory that the fuzzer has minimised.
//!
//! What a newcomer would get wrong: the file is written anew. What shall stay is among the inputs that were minimised.

use std::error::Error;
use std::fs;
use std::path::Path;

use rgunicorn_http1_fuzz::kept;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [target, directory] = words.as_slice() else {
        return Err("say which target, and the directory of its inputs".into());
    };
    let mut lines = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| format!("cannot read {directory}: {error}"))? {
        lines.push(kept::to_line(&fs::read(entry?.path())?));
    }
    // In an order of their own, so that a difference shows what has come and gone.
    lines.sort_by(|one, other| (one.len(), one).cmp(&(other.len(), other)));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("kept").join(format!("{target}.txt"));
    fs::write(&file, lines.join("\n") + "\n")
        .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    Ok(())
}
