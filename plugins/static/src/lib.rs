//! Files from a directory, as an application that is deployed as it is. docs/STATIC.md is its manual.
//!
//! This file owns its life and what each request comes to. `path` makes a name of the request's path, `root` opens it,
//! `coding` chooses among encoded forms, `validators` judges conditions, `ranges` parts; `settings` is what the operator
//! decides. Nothing is kept between requests: what is answered is what the kernel had when the file was opened, and its
//! size and time are those of the very file that is sent.
//!
//! It is a blocking application: opening a file may wait for a disk, and sending one may too.
//!
//! A newcomer might open the root once and for all in `create`. That also runs in the probe, and may run in a process
//! that is forked afterwards; so it is opened again in `start`.

mod coding;
mod path;
mod ranges;
mod root;
mod settings;
mod validators;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use coding::Accepted;
use path::{Name, Unnamed};
use ranges::{Multipart, Wanted};
use rgunicorn_worker_api::prelude::*;
use root::Root;
use rustix::io::Errno;
use settings::Settings;
use validators::{State, Validators, Verdict, values};

export_app! { "app": blocking = app }

/// A file up to this size is read and sent together with the head.
const SMALL: u64 = 16 * 1024;

const ALLOWED: (&str, &str) = ("Allow", "GET, HEAD, OPTIONS");

/// What a worker serves.
struct Site {
    settings: Settings,
    /// There from `start` on.
    root: OnceLock<Root>,
}

fn app(facts: &WorkerFacts<'_>) -> Result<App, Error> {
    let settings = Settings::parse(facts.settings())?;
    // Tried here, so that the probe finds a mistake; kept from `start` on.
    open_root(&settings)?;
    let site = Arc::new(Site { settings, root: OnceLock::new() });
    let starting = Arc::clone(&site);
    let app = App::blocking(move |request, response| site.answer(request, response));
    Ok(app.on_start(move |_| starting.start()))
}

fn open_root(settings: &Settings) -> Result<Root, Error> {
    Root::open(&settings.root, settings.symlinks).map_err(|error| {
        let root = settings.root.display();
        Error::new(format!(
            "cannot serve the directory {root}: {error}; check 'root' in its settings, and who may enter it"
        ))
    })
}

/// What a path comes to.
enum Found {
    File(Opened),
    /// A directory whose path lacks the slash at its end.
    Directory,
}

/// A regular file, opened.
struct Opened {
    name: Vec<u8>,
    file: File,
    state: State,
}

/// Why there is nothing to send.
enum Trouble {
    /// The answer says it all.
    Status(u16),
    /// Nobody's fault outside; it is logged, and answered with 500.
    System(Error),
}

impl From<Unnamed> for Trouble {
    fn from(unnamed: Unnamed) -> Self {
        Self::Status(match unnamed {
            Unnamed::Malformed => 400,
            Unnamed::Nowhere => 404,
        })
    }
}

impl Site {
    fn start(&self) -> Result<(), Error> {
        let root = open_root(&self.settings)?;
        self.root.set(root).map_err(|_| Error::new("it was started twice"))
    }

    fn root(&self) -> Result<&Root, Trouble> {
        self.root.get().ok_or_else(|| Trouble::System(Error::new("it was called before it was started")))
    }

    fn answer(&self, request: &mut Request<'_>, response: &mut Response<'_>) -> Result<(), Error> {
        match request.method() {
            b"GET" | b"HEAD" => {}
            b"OPTIONS" => return Ok(response.respond(204, &[ALLOWED], b"")?),
            _ => return Ok(plain(response, 405, &[ALLOWED])?),
        }
        match self.find(request.path_info()) {
            Ok(Found::File(opened)) => self.send(opened, request, response),
            Ok(Found::Directory) => Ok(plain(response, 301, &[("Location", &with_slash(request))])?),
            Err(Trouble::Status(status)) => Ok(plain(response, status, &[])?),
            Err(Trouble::System(error)) => Err(error),
        }
    }

    /// What answers for a path, the fallback included.
    fn find(&self, path: &[u8]) -> Result<Found, Trouble> {
        match (self.look_up(path), &self.settings.fallback) {
            (Err(Trouble::Status(404)), Some(fallback)) => match self.look_up(fallback.as_bytes())? {
                // Nobody asked for that one, so that nobody could be sent to it.
                Found::Directory => Err(Trouble::Status(404)),
                found @ Found::File(_) => Ok(found),
            },
            (found, _) => found,
        }
    }

    fn look_up(&self, path: &[u8]) -> Result<Found, Trouble> {
        let name = Name::decode(path, self.settings.dotfiles)?;
        if !name.is_directory {
            let file = self.root()?.file(&name.text).map_err(|error| trouble(error, &name.text))?;
            let facts = file.metadata().map_err(|error| system(&error, &name.text))?;
            if facts.is_file() {
                return Ok(Found::File(Opened { name: name.text, file, state: State::new(&facts) }));
            }
            if !facts.is_dir() {
                return Err(Trouble::Status(404));
            }
        }
        let index = self.index(&name)?;
        Ok(if name.is_directory { Found::File(index) } else { Found::Directory })
    }

    /// The file that answers for a directory.
    fn index(&self, directory: &Name) -> Result<Opened, Trouble> {
        for index in &self.settings.index {
            if let Some(opened) = self.regular(directory.join(index))? {
                return Ok(opened);
            }
        }
        Err(Trouble::Status(404))
    }

    /// Opens a regular file; none if there is no such thing.
    fn regular(&self, name: Vec<u8>) -> Result<Option<Opened>, Trouble> {
        let opened = self.root()?.file(&name).map_err(|error| trouble(error, &name));
        match opened {
            Ok(file) => {
                let facts = file.metadata().map_err(|error| system(&error, &name))?;
                Ok(facts.is_file().then(|| Opened { name, file, state: State::new(&facts) }))
            }
            Err(Trouble::Status(404)) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// The encoded form of a file that the client likes best. One that is older than the file is of an earlier one.
    fn encoded(
        &self,
        plain: &Opened,
        accepted: &Accepted,
    ) -> Result<Option<(Opened, &'static str)>, Trouble> {
        for coding in &accepted.codings {
            let name = [&plain.name, coding.suffix().as_bytes()].concat();
            match self.regular(name) {
                Ok(Some(form)) if form.state.written.0 >= plain.state.written.0 => {
                    return Ok(Some((form, coding.name())));
                }
                // One that cannot be opened is no reason not to send the file itself.
                Ok(_) | Err(Trouble::Status(_)) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(None)
    }

    fn send(
        &self,
        plain_form: Opened,
        request: &Request<'_>,
        response: &mut Response<'_>,
    ) -> Result<(), Error> {
        let path = format!("/{}", String::from_utf8_lossy(&plain_form.name));
        let media_type = self.settings.media_type(&path);
        let mut fields = Fields::default();
        let (opened, coding) = if self.settings.precompressed.is_empty() {
            (plain_form, "")
        } else {
            fields.add("Vary", "Accept-Encoding");
            let wishes = request.fields().filter(|field| field.name.eq_ignore_ascii_case(b"accept-encoding"));
            let accepted = Accepted::new(wishes.map(|field| field.value), &self.settings.precompressed);
            match self.encoded(&plain_form, &accepted) {
                Ok(Some(encoded)) => encoded,
                Ok(None) if accepted.identity => (plain_form, ""),
                Ok(None) => return Ok(plain(response, 406, &[("Vary", "Accept-Encoding")])?),
                Err(Trouble::Status(status)) => return Ok(plain(response, status, &[])?),
                Err(Trouble::System(error)) => return Err(error),
            }
        };
        let validators = Validators::new(opened.state, coding, SystemTime::now());
        fields.add("ETag", validators.etag());
        fields.add("Last-Modified", validators.last_modified());
        for (name, value) in self.settings.fields(&path) {
            fields.add(name, value);
        }
        match validators.judge(request) {
            Verdict::Go => {}
            Verdict::NotModified => return Ok(response.respond(304, &fields.borrowed(), b"")?),
            Verdict::Failed => return Ok(plain(response, 412, &[])?),
        }
        if !coding.is_empty() {
            fields.add("Content-Encoding", coding);
        }
        fields.add("Accept-Ranges", "bytes");
        let body =
            Body { file: &opened.file, length: opened.state.length, is_head: request.method() == b"HEAD" };
        let sent = body.send(wanted(request, &validators, body.length), &media_type, fields, response);
        if sent == Err(Fault::System) && opened.file.metadata().is_ok_and(|now| now.len() < body.length) {
            log::warn!(
                "{} has become shorter while it was sent; the connection is closed",
                path.escape_debug()
            );
        }
        Ok(sent?)
    }
}

/// What of a file the client is to have. `Range` is for GET alone (RFC 9110 section 14.2).
fn wanted(request: &Request<'_>, validators: &Validators, length: u64) -> Wanted {
    match (request.method(), values(request, "range"), values(request, "if-range")) {
        (b"GET", Some(_), Some(state)) if !validators.matches_range(&state) => Wanted::Whole,
        (b"GET", Some(range), _) => Wanted::new(&range, length),
        _ => Wanted::Whole,
    }
}

/// Header fields that are made up on the way.
#[derive(Default)]
struct Fields(Vec<(String, String)>);

impl Fields {
    fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    fn borrowed(&self) -> Vec<Field<'_>> {
        self.0.iter().map(|(name, value)| Field::new(name, value)).collect()
    }
}

/// The content to be sent.
struct Body<'f> {
    file: &'f File,
    length: u64,
    is_head: bool,
}

impl Body<'_> {
    fn send(
        &self,
        wanted: Wanted,
        media_type: &str,
        mut fields: Fields,
        response: &mut Response<'_>,
    ) -> Result<(), Fault> {
        match wanted {
            Wanted::Whole => {
                fields.add("Content-Type", media_type);
                self.part(200, 0, self.length, fields, response)
            }
            Wanted::One(range) => {
                fields.add("Content-Type", media_type);
                fields.add("Content-Range", ranges::content_range(&range, self.length));
                self.part(206, range.start, range.end - range.start, fields, response)
            }
            Wanted::Several(parts) => {
                let multipart = Multipart::new(parts, media_type, self.length);
                fields.add("Content-Type", multipart.media_type());
                fields.add("Content-Length", multipart.length().to_string());
                response.start(206, &fields.borrowed())?;
                for (head, range) in &multipart.parts {
                    response.write(head.as_bytes())?;
                    response.send_file(self.file, range.start, range.end - range.start)?;
                }
                response.write(multipart.end.as_bytes())?;
                response.end()
            }
            Wanted::Beyond => plain(response, 416, &[("Content-Range", &format!("bytes */{}", self.length))]),
        }
    }

    /// One stretch of the file as the whole body.
    fn part(
        &self,
        status: u16,
        offset: u64,
        length: u64,
        mut fields: Fields,
        response: &mut Response<'_>,
    ) -> Result<(), Fault> {
        if length <= SMALL && !self.is_head {
            let mut content = vec![0; length as usize];
            // From one that has just become shorter nothing is read; below it is found to be short, and said.
            if self.file.read_exact_at(&mut content, offset).is_ok() {
                return response.respond(status, &fields.borrowed(), &content);
            }
        }
        fields.add("Content-Length", length.to_string());
        response.start(status, &fields.borrowed())?;
        if !self.is_head {
            response.send_file(self.file, offset, length)?;
        }
        response.end()
    }
}

/// An answer without a file: its status in words.
fn plain(response: &mut Response<'_>, status: u16, fields: &[(&str, &str)]) -> Result<(), Fault> {
    let text = match status {
        301 => "Moved Permanently\n",
        400 => "Bad Request\n",
        403 => "Forbidden\n",
        404 => "Not Found\n",
        405 => "Method Not Allowed\n",
        406 => "Not Acceptable\n",
        412 => "Precondition Failed\n",
        416 => "Range Not Satisfiable\n",
        _ => "Service Unavailable\n",
    };
    let fields = [&[("Content-Type", "text/plain")], fields].concat();
    response.respond(status, &fields, text.as_bytes())
}

/// The same path with a slash at its end, relative to itself: whatever prefix a proxy took off stays, and no path can
/// make another host of it.
fn with_slash(request: &Request<'_>) -> String {
    let path = String::from_utf8_lossy(request.path());
    let last = path.rsplit('/').next().unwrap_or_default();
    match request.query() {
        Some(query) => format!("./{last}/?{}", String::from_utf8_lossy(query)),
        None => format!("./{last}/"),
    }
}

/// What an error of opening means to the client.
fn trouble(error: Errno, name: &[u8]) -> Trouble {
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::NXIO | Errno::NODEV => {
            Trouble::Status(404)
        }
        Errno::LOOP | Errno::XDEV => {
            let name = name.escape_ascii();
            log::debug!("/{name} is not served: a symbolic link on the way is not followed ({error})");
            Trouble::Status(404)
        }
        Errno::ACCESS | Errno::PERM => Trouble::Status(403),
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => {
            log::error!("cannot open /{}: {error}", name.escape_ascii());
            Trouble::Status(503)
        }
        other => system(&other.into(), name),
    }
}

fn system(error: &io::Error, name: &[u8]) -> Trouble {
    Trouble::System(Error::new(format!("cannot open /{}: {error}", name.escape_ascii())))
}
