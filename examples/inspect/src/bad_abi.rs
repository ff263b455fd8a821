//! What `inspect` exports instead of an application when it is built with `INSPECT_BAD_ABI=1`.
//!
//! A note and a symbol of version 2 of the interface, which no server of version 1 knows: a server must refuse the
//! file by what the note says, without running a byte of it. The symbol's content is therefore of no matter.
#![allow(
    unsafe_code,
    reason = "the export macro only writes version 1, so section and symbol are written by hand"
)]

use rgunicorn_worker_api::note;

const PARTS: &[&str] = &[
    "kind=app\nname=",
    env!("CARGO_PKG_NAME"),
    "\nversion=",
    env!("CARGO_PKG_VERSION"),
    "\nabi=2.0\nrustc=",
    note::RUSTC,
    "\ntarget=",
    note::TARGET,
    "\napps=app:blocking,\n",
];

#[unsafe(link_section = ".note.rgunicorn")]
#[used]
static NOTE: note::Block<{ note::padded(note::length(PARTS, &[])) }> = note::block(PARTS, &[]);

/// Where a server of version 2 would look.
#[unsafe(no_mangle)]
pub(crate) static RGUNICORN_APP_V2: [usize; 8] = [0; 8];
