//! The smallest complete application: copy this.

use rgunicorn_worker_api::prelude::*;

export_app! { "app": inline = app }

fn app(_: &WorkerFacts<'_>) -> Result<App, Error> {
    Ok(App::inline(|_request, response| {
        Ok(response.respond(200, &[("Content-Type", "text/plain")], b"Hello, World!\n")?)
    }))
}
