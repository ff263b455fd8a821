//! Two applications in one library, which give the same answer: `plain` from a function, `axum` from a router.
//!
//! A library may hold any number; which one answers is said where it is given to the server (`libpair.so:axum`), and
//! both can be mounted at once. They share the library's code, its statics and, if they are async, its runtime. The
//! difference of the two is what a router costs: docs/PERFORMANCE.md.

use axum::Router;
use axum::routing::get;
use rgunicorn_worker_api::prelude::*;

export_app! { "plain": inline = plain, "axum": async = axum }

const ANSWER: &str = "Hello, World!\n";

fn plain(_: &WorkerFacts<'_>) -> Result<App, Error> {
    Ok(App::inline(|_request, response| {
        Ok(response.respond(200, &[("Content-Type", "text/plain; charset=utf-8")], ANSWER.as_bytes())?)
    }))
}

fn axum(_: &WorkerFacts<'_>) -> Result<App, Error> {
    Ok(App::tower(Router::new().route("/", get(async || ANSWER))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rgunicorn_worker_api::sdk::kit::Loaded;

    #[test]
    fn both_say_the_same() {
        let (plain, axum) = (Loaded::new(plain).unwrap(), Loaded::new(axum).unwrap());
        let (one, other) = (plain.get("/"), axum.get("/"));
        assert_eq!((one.status, &*one.text()), (200, ANSWER));
        assert_eq!((other.status, &*other.text()), (200, ANSWER));
        assert_eq!(one.field("content-type"), other.field("content-type"));
        assert_eq!(axum.get("/elsewhere").status, 404);
    }
}
