//! The handlers as applications in a library of their own.
//!
//! Owns nothing but the names: what they do is `handlers.rs`, which the worker class has linked in too.

mod handlers;

use handlers::Face;
use rgunicorn_worker_api::prelude::*;

export_app! { "hello": inline = hello, "fields": inline = fields }

struct Crossing<'c, 'q, 's>(&'c Request<'q>, &'c mut Response<'s>);

impl Face for Crossing<'_, '_, '_> {
    fn field(&self, name: &str) -> Option<&[u8]> {
        self.0.field(name)
    }

    fn respond(&mut self, fields: &[(&str, &str)], body: &[u8]) -> Result<(), Fault> {
        self.1.respond(200, fields, body)
    }
}

fn hello(_: &WorkerFacts<'_>) -> Result<App, Error> {
    Ok(App::inline(|request, response| handlers::hello(&mut Crossing(request, response))))
}

fn fields(_: &WorkerFacts<'_>) -> Result<App, Error> {
    Ok(App::inline(|request, response| handlers::fields(&mut Crossing(request, response))))
}
