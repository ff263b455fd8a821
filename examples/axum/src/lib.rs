//! A service as axum users write them: routes, JSON, extractors, a database behind a pool, events, files, middleware.
//!
//! This file owns its settings, its life and its routes; `notes` is the database, `files` what is uploaded, `ticks` a
//! task in the background with whoever listens to it. Nothing here knows which worker class it runs under.
//!
//! A newcomer might open the database in `app`. That runs in the probe too, before the fork of a template process, and
//! without a runtime. What is checked there is what can be known without one: the settings. The pool is made in
//! `start`, once in each worker; if that fails, the old generation serves on.

mod failure;
mod files;
mod notes;
mod ticks;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::routing::{get, put};
use axum::{Json, Router};
use rgunicorn_worker_api::prelude::{App, Error, WorkerFacts, export_app};
use rgunicorn_worker_api::sdk::runtime::Worker;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::trace::TraceLayer;

export_app! { "app": async = app }

/// The table `[app.app]` of the configuration file.
#[derive(Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The file of the database; it is made if there is none.
    database: PathBuf,
    /// Connections to it that a worker keeps.
    #[serde(default = "four")]
    pool: usize,
    /// The directory of what is uploaded.
    uploads: PathBuf,
}

fn four() -> usize {
    4
}

/// What all requests of a worker share.
#[derive(Clone)]
struct Service {
    worker: Worker,
    notes: notes::Notes,
    ticks: ticks::Ticks,
    uploads: Arc<PathBuf>,
}

fn app(facts: &WorkerFacts<'_>) -> Result<App, Error> {
    let settings: Settings = facts.settings_as()?;
    if settings.pool == 0 {
        return Err(Error::new("the setting `pool` must be at least 1: every request needs a connection"));
    }
    if !settings.uploads.is_dir() {
        let path = settings.uploads.display();
        return Err(Error::new(format!("the setting `uploads` must name a directory, and {path} is none")));
    }
    if lies_within(&settings.database, &settings.uploads)? {
        let (database, uploads) = (settings.database.display(), settings.uploads.display());
        return Err(Error::new(format!(
            "the setting `database` must lie outside of `uploads`, and {database} is within {uploads}, where clients \
             read and write files"
        )));
    }
    Ok(App::tower_with(move |worker| start(worker, settings.clone())))
}

/// Whether a file, which need not be there yet, is in a directory or below it, by whatever way.
fn lies_within(file: &Path, directory: &Path) -> Result<bool, Error> {
    let directory = directory.canonicalize()?;
    // A file that is not there has the directory in which it will be; if that is missing, the pool says so.
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let places = [parent.canonicalize(), file.canonicalize()];
    Ok(places.into_iter().flatten().any(|place| place.starts_with(&directory)))
}

/// In each worker, on its runtime.
async fn start(worker: Worker, settings: Settings) -> Result<Router, Error> {
    let service = Service {
        worker,
        notes: notes::Notes::open(&settings.database, settings.pool).await?,
        ticks: ticks::Ticks::start(),
        uploads: Arc::new(settings.uploads),
    };
    tracing::info!(pool = settings.pool, "the database is open");
    Ok(Router::new()
        .route("/", get(about))
        .route("/notes", get(notes::list).post(notes::add))
        .route("/notes/{id}", get(notes::one).delete(notes::remove))
        .route("/ticks", get(ticks::count))
        .route("/ticks/stream", get(ticks::stream))
        .route("/files/{name}", put(files::store).get(files::fetch))
        .layer(SetResponseHeaderLayer::if_not_present(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ))
        .layer(TraceLayer::new_for_http())
        .with_state(service))
}

#[derive(serde::Serialize)]
struct About {
    pid: u32,
    age: u64,
    generation: u64,
    connections: usize,
}

/// `GET /`: which worker answers, and how many connections to the database it has opened.
async fn about(State(service): State<Service>) -> Json<About> {
    let Worker { pid, age, generation, .. } = service.worker;
    Json(About { pid, age, generation, connections: service.notes.connections() })
}
