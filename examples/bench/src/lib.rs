//! `bench`: the application to measure a server with.
//!
//! Owns five answers, which this example's README lists: small, large, made anew, made once, and the client's own. What
//! a newcomer would get wrong: whatever is done here is counted as the server's. So nothing is allocated for `/hello` and
//! `/big`, and what the others need is kept from one request to the next.

use std::cell::RefCell;
use std::fmt::Write;

use rgunicorn_worker_api::prelude::*;
use serde::Serialize;

export_app! { "app": inline = app }

/// Octets of `/big`.
const BIG: usize = 1024 * 1024;

/// Whole alphabets, the last of them longer than needed. In the file and not in memory until somebody asks for it.
static ALPHABETS: [[u8; 26]; BIG.div_ceil(26)] = [*b"abcdefghijklmnopqrstuvwxyz"; BIG.div_ceil(26)];

/// The longest body that is echoed in one piece, and the longest piece of others.
const PIECE: usize = 64 * 1024;

thread_local! {
    /// What `/echo` has read or `/json` has written.
    static KEPT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn app(_: &WorkerFacts<'_>) -> Result<App, Error> {
    let page = page()?;
    Ok(App::inline(move |request, response| match request.path_info() {
        b"/hello" => respond(response, "text/plain", b"Hello, World!"),
        b"/echo" => KEPT.with_borrow_mut(|kept| echo(request, response, kept)),
        b"/big" => respond(response, "text/plain", &ALPHABETS.as_flattened()[..BIG]),
        b"/json" => KEPT.with_borrow_mut(|kept| {
            kept.clear();
            serde_json::to_writer(&mut *kept, &OBJECT)?;
            respond(response, "application/json", kept)
        }),
        b"/page" => respond(response, "text/html; charset=utf-8", page.as_bytes()),
        _ => Ok(response.respond(404, &[("Content-Type", "text/plain")], b"there is no such page\n")?),
    }))
}

fn respond(response: &mut Response<'_>, kind: &str, body: &[u8]) -> Result<(), Error> {
    Ok(response.respond(200, &[("Content-Type", kind)], body)?)
}

/// The body as it came. One that fits is answered at once, so that the server knows its length; of a longer one only its
/// head tells that, if at all.
fn echo(request: &mut Request<'_>, response: &mut Response<'_>, kept: &mut Vec<u8>) -> Result<(), Error> {
    const KIND: (&str, &str) = ("Content-Type", "application/octet-stream");
    kept.resize(PIECE, 0);
    let (length, over) = fill(request, kept)?;
    // Whether it was all: a body of exactly one piece has no octet behind it.
    let mut next = [0];
    if over || request.read(&mut next)? == 0 {
        return respond(response, KIND.1, &kept[..length]);
    }
    match request.body_length() {
        Some(declared) => response.start(200, &[KIND, ("Content-Length", &declared.to_string())])?,
        None => response.start(200, &[KIND])?,
    }
    response.write(&kept[..length])?;
    response.write(&next)?;
    loop {
        let (length, over) = fill(request, kept)?;
        response.write(&kept[..length])?;
        if over {
            return Ok(response.end()?);
        }
    }
}

/// Reads until the piece is full or the body is over; how much, and whether it is over.
fn fill(request: &mut Request<'_>, piece: &mut [u8]) -> Result<(usize, bool), Error> {
    let mut length = 0;
    while length < piece.len() {
        match request.read(&mut piece[length..])? {
            0 => return Ok((length, true)),
            count => length += count,
        }
    }
    Ok((length, false))
}

/// What `/json` tells.
#[derive(Serialize)]
struct Object {
    message: &'static str,
    number: u32,
    ratio: f64,
    ready: bool,
    nothing: Option<u32>,
    words: [&'static str; 3],
}

const OBJECT: Object = Object {
    message: "Hello, World!",
    number: 42,
    ratio: 0.5,
    ready: true,
    nothing: None,
    words: ["one", "two", "three"],
};

/// A table of a length as pages have it.
fn page() -> Result<String, Error> {
    let mut page = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>Two hundred rows</title></head>\n\
         <body>\n<h1>Two hundred rows</h1>\n<table>\n<tr><th>row</th><th>its square</th><th>about it</th></tr>\n",
    );
    for row in 1..=200 {
        let kind = if row % 2 == 0 { "even" } else { "odd" };
        let square = row * row;
        writeln!(
            page,
            "<tr class=\"{kind}\"><td><a href=\"/row/{row}\">{row}</a></td><td>{square}</td>\
             <td>a number that is {kind}</td></tr>"
        )?;
    }
    page.push_str("</table>\n</body>\n</html>\n");
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rgunicorn_worker_api::sdk::kit::Loaded;

    #[test]
    fn the_answers_are_what_the_readme_says() {
        let app = Loaded::new(app).unwrap();
        assert_eq!(app.get("/hello").text(), "Hello, World!");
        let big = app.get("/big").body;
        assert_eq!(big.len(), 1_048_576);
        assert!(big.iter().enumerate().all(|(i, octet)| usize::from(*octet) == usize::from(b'a') + i % 26));
        let json = app.get("/json");
        let value: serde_json::Value = serde_json::from_slice(&json.body).unwrap();
        assert_eq!(value["message"], "Hello, World!");
        assert!((19_000..22_000).contains(&app.get("/page").body.len()), "{}", app.get("/page").body.len());
        assert_eq!(app.get("/echo").body, b"");
        assert_eq!(app.get("/elsewhere").status, 404);
    }
}
