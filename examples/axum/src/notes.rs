//! Notes in a database: SQLite, behind a pool that the requests of a worker share.
//!
//! SQLite blocks, so each query runs on a thread for blocking work, and the handler waits for it without one. A
//! newcomer might share one connection among workers: none survives a fork, and each worker has a pool of its own.

use std::path::Path;

use axum::Json;
use axum::extract::{self, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use deadpool_sqlite::rusqlite::{self, Connection, OptionalExtension, params};
use deadpool_sqlite::{Config, Pool, Runtime};
use rgunicorn_worker_api::error::Error;

use crate::Service;
use crate::failure::Failure;

/// The table, and a journal that lets workers read while one writes.
const SCHEMA: &str = "PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL);";

/// The notes that are there.
#[derive(Clone)]
pub(crate) struct Notes(Pool);

/// A note.
#[derive(serde::Serialize)]
pub(crate) struct Note {
    id: i64,
    text: String,
}

/// What a client writes.
#[derive(serde::Deserialize)]
pub(crate) struct NewNote {
    text: String,
}

/// The query of a list.
#[derive(serde::Deserialize)]
pub(crate) struct Limits {
    #[serde(default)]
    after: i64,
    #[serde(default = "hundred")]
    limit: u32,
}

fn hundred() -> u32 {
    100
}

impl Notes {
    /// Opens the database, and makes it if there is none.
    pub(crate) async fn open(file: &Path, connections: usize) -> Result<Self, Error> {
        let pool = Config::new(file).builder(Runtime::Tokio1)?.max_size(connections).build()?;
        let notes = Self(pool);
        let opened = notes.ask(|connection| connection.execute_batch(SCHEMA)).await;
        opened.map_err(|why| Error::new(format!("cannot open the database {}: {why}", file.display())))?;
        Ok(notes)
    }

    /// Connections that are open.
    pub(crate) fn connections(&self) -> usize {
        self.0.status().size
    }

    /// Asks the database, on a thread where that may take its time.
    async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Connection) -> rusqlite::Result<R> + Send + 'static,
    ) -> Result<R, String> {
        let connection = self.0.get().await.map_err(|error| error.to_string())?;
        let answer = connection.interact(question).await.map_err(|error| error.to_string())?;
        answer.map_err(|error| error.to_string())
    }
}

fn note(row: &rusqlite::Row<'_>) -> rusqlite::Result<Note> {
    Ok(Note { id: row.get(0)?, text: row.get(1)? })
}

/// `GET /notes?after=ID&limit=N`
pub(crate) async fn list(
    State(service): State<Service>,
    Query(limits): Query<Limits>,
) -> Result<Json<Vec<Note>>, Failure> {
    let notes = service.notes.ask(move |connection| {
        connection
            .prepare_cached("SELECT id, text FROM notes WHERE id > ?1 ORDER BY id LIMIT ?2")?
            .query_map(params![limits.after, limits.limit], note)?
            .collect::<rusqlite::Result<Vec<Note>>>()
    });
    Ok(Json(notes.await.map_err(|why| Failure::ours("cannot list notes", why))?))
}

/// `POST /notes` with `{"text": …}`
pub(crate) async fn add(
    State(service): State<Service>,
    Json(NewNote { text }): Json<NewNote>,
) -> Result<impl IntoResponse, Failure> {
    let insert = service.notes.ask(move |connection| {
        connection.prepare_cached("INSERT INTO notes (text) VALUES (?1)")?.execute([&text])?;
        Ok(Note { id: connection.last_insert_rowid(), text })
    });
    let note = insert.await.map_err(|why| Failure::ours("cannot add a note", why))?;
    Ok((StatusCode::CREATED, [(header::LOCATION, format!("/notes/{}", note.id))], Json(note)))
}

/// `GET /notes/ID`
pub(crate) async fn one(
    State(service): State<Service>,
    extract::Path(id): extract::Path<i64>,
) -> Result<Json<Note>, Failure> {
    let find = service.notes.ask(move |connection| {
        connection
            .prepare_cached("SELECT id, text FROM notes WHERE id = ?1")?
            .query_row([id], note)
            .optional()
    });
    let found = find.await.map_err(|why| Failure::ours("cannot find a note", why))?;
    found.map(Json).ok_or(Failure(StatusCode::NOT_FOUND, "there is no such note"))
}

/// `DELETE /notes/ID`
pub(crate) async fn remove(
    State(service): State<Service>,
    extract::Path(id): extract::Path<i64>,
) -> Result<StatusCode, Failure> {
    let delete = service
        .notes
        .ask(move |connection| connection.prepare_cached("DELETE FROM notes WHERE id = ?1")?.execute([id]));
    match delete.await.map_err(|why| Failure::ours("cannot remove a note", why))? {
        0 => Err(Failure(StatusCode::NOT_FOUND, "there is no such note")),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}
