//! Files that clients store and fetch, piece by piece: no more than a piece of one is ever in memory.
//!
//! A file appears under its name when all of it is there. A client that leaves half-way drops the handler's future, and
//! with it the half of a file. What a newcomer gets wrong: a name is a client's. Only plain ones are taken, so that no
//! path leads out of the directory.

use std::io;
use std::path::{Path, PathBuf};

use axum::body::{Body, Bytes};
use axum::extract::{self, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Service;
use crate::failure::Failure;

/// Octets read from a file at a time.
const PIECE: usize = 64 * 1024;

/// A file that is not whole yet; it is removed when this is dropped.
struct Half(PathBuf);

impl Drop for Half {
    fn drop(&mut self) {
        // It has its name by now, or never will.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The path of a plain name.
fn path(directory: &Path, name: &str) -> Result<PathBuf, Failure> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(Failure(StatusCode::BAD_REQUEST, "a name has letters, digits, and - _ . between them"));
    }
    Ok(directory.join(name))
}

/// `PUT /files/NAME`
pub(crate) async fn store(
    State(service): State<Service>,
    extract::Path(name): extract::Path<String>,
    body: Body,
) -> Result<(StatusCode, String), Failure> {
    let failed = |why: io::Error| Failure::ours("cannot store a file", why);
    let target = path(&service.uploads, &name)?;
    let number = UPLOADS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let half = Half(service.uploads.join(format!(".{}-{number}", service.worker.pid)));
    let mut file = File::create_new(&half.0).await.map_err(failed)?;
    let mut body = body.into_data_stream();
    let mut length = 0;
    while let Some(piece) = body.next().await {
        // Not sent: the server knows what is wrong with the client's body.
        let piece = piece.map_err(|_| Failure(StatusCode::BAD_REQUEST, "the body could not be read"))?;
        length += piece.len();
        file.write_all(&piece).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    fs::rename(&half.0, target).await.map_err(failed)?;
    Ok((StatusCode::CREATED, format!("{length} octets\n")))
}

/// Uploads that this worker has begun.
static UPLOADS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// `GET /files/NAME`
pub(crate) async fn fetch(
    State(service): State<Service>,
    extract::Path(name): extract::Path<String>,
) -> Result<Response, Failure> {
    let file = match File::open(path(&service.uploads, &name)?).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure(StatusCode::NOT_FOUND, "there is no such file"));
        }
        Err(error) => return Err(Failure::ours("cannot open a file", error)),
    };
    let length = file.metadata().await.map_err(|why| Failure::ours("cannot look at a file", why))?.len();
    let pieces = stream::unfold(file, |mut file| async {
        let mut piece = Vec::with_capacity(PIECE);
        match file.read_buf(&mut piece).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(Bytes::from(piece)), file)),
            Err(error) => Some((Err(error), file)),
        }
    });
    let kind = [(header::CONTENT_TYPE, "application/octet-stream".to_owned())];
    // A file that shrinks meanwhile ends early, and the server then cuts the connection.
    let length = [(header::CONTENT_LENGTH, length.to_string())];
    Ok((kind, length, Body::from_stream(pieces)).into_response())
}
