//! `rgunicorn inspect`: what plugin files are, and whether a start would take them, without running them.
//!
//! Owns what is asked of each file and in which order, and the exit code. Does not own the judgement, which is the
//! start's own (`image`, `plugin`), nor how it is shown (`report`). `load` goes further, in a child.
//!
//! What a newcomer would get wrong: a sentence about a broken file is never written here. `inspect`, `check`, the first
//! start and a HUP must say the same one, so that each asks the same functions in the same order.

mod load;
mod report;

use std::path::Path;
use std::time::{Duration, Instant};

use rgunicorn_worker_api::abi;

use crate::cli::Values;
use crate::config::{PluginRef, Sources};
use crate::elf_note::ElfFacts;
use crate::error::StartError;
use crate::image::trust::{self, Untrusted};
use crate::image::{self, Image};
use crate::plugin::{self, Kind, PluginError};
use crate::probe::{FIRST_BOOT_TIMEOUT, Refusal};

/// How long to wait for a file that is being written, as a start without settings does.
const PATIENCE: Duration = FIRST_BOOT_TIMEOUT;

/// What the operator wants to know of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Whether it is a good worker class.
    WorkerClass(String),
    /// What it is. With `:NAME` at its end, whether it has that application.
    Any(String),
}

/// What is to be inspected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The files, in this order.
    pub asked: Vec<Asked>,
    /// The version of the interface to judge for; none is this program's.
    pub against: Option<(u32, u32)>,
    /// Whether to load them, too.
    pub load: bool,
    /// How long loading one may take.
    pub boot_timeout: Duration,
    /// Whether files are taken that everybody can write.
    pub allow_world_writable: bool,
    /// Whether to answer in JSON.
    pub json: bool,
}

/// The answer.
#[derive(Debug)]
pub struct Told {
    /// For standard output.
    pub text: String,
    exit_code: i32,
}

impl Told {
    /// The end of the program, once the text is printed.
    ///
    /// # Errors
    /// Not all files are good; that has been said.
    pub fn end(&self) -> Result<(), StartError> {
        if self.exit_code == 0 { Ok(()) } else { Err(StartError::told(self.exit_code)) }
    }
}

/// `1.2` as two numbers.
pub fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// What was found out about one file.
#[derive(Debug)]
struct Finding {
    /// As it was typed.
    text: String,
    kind: Kind,
    /// None if there is nothing to tell but the refusal.
    file: Option<File>,
    /// What loading it showed.
    loaded: Option<load::Loaded>,
    refusal: Option<Refusal>,
}

/// A shared library that could be read.
#[derive(Debug)]
struct File {
    image: Image,
    facts: ElfFacts,
}

impl Request {
    /// Looks at all files.
    ///
    /// # Errors
    /// The current directory cannot be found, or the answer cannot be written as JSON. A bad file is no error.
    pub fn look(&self) -> Result<Told, StartError> {
        let sources = Sources::capture(Values::default())?;
        let host = self.against.unwrap_or((abi::ABI_MAJOR, abi::ABI_MINOR));
        let mut findings: Vec<Finding> =
            self.asked.iter().map(|asked| self.find(asked, &sources, host)).collect();
        judge_needs(&mut findings);
        let refused = findings.iter().find_map(|finding| finding.refusal.as_ref());
        let exit_code = refused.map_or(0, |refusal| refusal.exit_code);
        let text = match (self.json, findings.as_slice()) {
            (true, findings) => report::json(findings, host)?,
            (false, [one]) => report::page(one, host),
            (false, findings) => report::table(findings),
        };
        Ok(Told { text, exit_code })
    }

    fn find(&self, asked: &Asked, sources: &Sources, host: (u32, u32)) -> Finding {
        let (text, found) = match asked {
            Asked::WorkerClass(text) => (text, sources.find_worker_class(text)),
            Asked::Any(text) => (text, sources.find_application(text)),
        };
        let kind = match asked {
            Asked::WorkerClass(_) => Kind::WorkerClass,
            Asked::Any(_) => Kind::Application,
        };
        let mut finding = Finding { text: text.clone(), kind, file: None, loaded: None, refusal: None };
        let verdict = found
            .map_err(|error| Refusal::new(error.exit_code(), error.to_string()))
            .and_then(|found| self.judge(&mut finding, asked, &found, host));
        finding.refusal = verdict.err();
        finding
    }

    /// The steps of a start, in its order.
    fn judge(
        &self,
        finding: &mut Finding,
        asked: &Asked,
        found: &PluginRef,
        host: (u32, u32),
    ) -> Result<(), Refusal> {
        let deadline = Instant::now() + PATIENCE.mul_f64(0.8);
        let kind = finding.kind;
        self.trust(&found.file).map_err(|why| PluginError::of_file(kind, &found.file, &why))?;
        let (image, facts) = image::look(&found.file, deadline)
            .map_err(|error| PluginError::of_file(kind, &found.file, &error))?;
        image
            .neighbours
            .iter()
            .try_for_each(|library| self.trust(&library.original))
            .map_err(|why| PluginError::of_file(kind, &found.file, &why))?;
        let is_free = matches!(asked, Asked::Any(_)) && !found.names_application();
        if is_free && let Some(kind) = image.note.as_ref().and_then(plugin::kind_of) {
            finding.kind = kind;
        }
        let File { image, .. } = finding.file.insert(File { image, facts });
        let judged = plugin::judge_against(image, finding.kind, host);
        if judged.is_err()
            && let Some(kind) = image.note.as_ref().and_then(plugin::kind_of)
        {
            // Refused for what it was asked as: shown as what it is.
            finding.kind = kind;
        }
        let note = judged?;
        if finding.kind == Kind::Application && !is_free {
            plugin::judge_name(image, note, &found.name)?;
        }
        if self.load {
            finding.loaded = Some(load::load(image, finding.kind, self.boot_timeout)?);
        }
        Ok(())
    }

    fn trust(&self, file: &Path) -> Result<(), Untrusted> {
        if self.allow_world_writable { Ok(()) } else { trust::judge(file) }
    }
}

/// Of applications that are asked about beside one worker class: whether that offers what they need.
fn judge_needs(findings: &mut [Finding]) {
    let note = |finding: &Finding| finding.file.as_ref()?.image.note.clone();
    let mut classes = findings.iter().filter(|finding| finding.kind == Kind::WorkerClass);
    let (Some(class), None) = (classes.next(), classes.next()) else { return };
    let (Some(class_note), None) = (note(class), &class.refusal) else { return };
    let class = class.text.clone();
    for finding in findings.iter_mut().filter(|one| one.kind == Kind::Application && one.refusal.is_none()) {
        let Some(File { image, .. }) = &finding.file else { continue };
        let Some(note) = &image.note else { continue };
        let judged = plugin::judge_needs(&image.original, note, &class, &class_note);
        finding.refusal = judged.err().map(Refusal::from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_two_numbers() {
        assert_eq!(version("1.2"), Some((1, 2)));
        for text in ["1", "1.", ".1", "1.2.3", "a.b", "-1.0", ""] {
            assert_eq!(version(text), None, "{text}");
        }
    }
}
