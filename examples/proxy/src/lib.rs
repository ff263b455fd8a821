//! A reverse proxy: each request goes to another server, and its answer back, piece by piece in both directions.
//!
//! This file owns the life of the application. `settings` is what an operator says, `forward` one exchange, `fields`
//! what of a head may pass, `pieces` the bodies and who is to blame when nothing comes, `tunnel` connections that have
//! become something else than HTTP, such as WebSockets.
//!
//! A newcomer might connect to the other servers here, or refuse to boot without them. Their health is not this
//! application's: it boots, is swapped and serves while they are down, and says 502 until they are back.

mod fields;
mod forward;
mod pieces;
mod settings;
mod tunnel;

use std::convert::Infallible;
use std::sync::Arc;

use forward::Proxy;
use rgunicorn_worker_api::prelude::{App, Error, WorkerFacts, export_app};
use settings::Settings;

export_app! { "proxy": async = app }

fn app(facts: &WorkerFacts<'_>) -> Result<App, Error> {
    let rules = facts.settings_as::<Settings>()?.check()?;
    // The connections that are kept to the other servers are a worker's, and begin with its first request.
    Ok(App::tower_with(move |_| {
        let proxy = Arc::new(Proxy::new(rules.clone()));
        async move {
            Ok(tower::service_fn(move |request| {
                let proxy = Arc::clone(&proxy);
                async move { Ok::<_, Infallible>(proxy.answer(request).await) }
            }))
        }
    }))
}
