//! An application for rgunicorn: a function from request to response.
//!
//! It is *blocking*: it may sleep, read files, ask a database. One that never waits is `inline`, one that returns a future
//! `async`; the word below and the function that makes the `App` must agree.

use rgunicorn_worker_api::prelude::*;

export_app! { "app": blocking = app }

/// Makes the application: in each worker, and before that in a process that only tries whether it works. An error here
/// is a reload that is refused, and what served before serves on.
fn app(_: &WorkerFacts<'_>) -> Result<App, Error> {
    Ok(App::blocking(|request, response| {
        let answer = greeting(request.path());
        Ok(response.respond(200, &[("Content-Type", "text/plain")], answer.as_bytes())?)
    }))
}

/// What is answered to a request for this path.
fn greeting(path: &[u8]) -> String {
    format!("Hello from {}\n", path.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_names_the_path() {
        assert_eq!(greeting(b"/world"), "Hello from /world\n");
    }
}
