//! Plays transcripts: SMTP dialogues as text files, against our server session, our client session, or a listening server.
//!
//! The format is in docs/transcripts.md. [`transcript`] reads and writes files, [`player`] plays one against a [`player::Side`]:
//! [`pure::PureServer`] and [`client::PureClient`] without sockets, [`socket::SocketSide`] over TCP and TLS. [`ways`] makes
//! further transcripts of one that sends its text by DATA.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod client;
pub mod given;
pub mod player;
pub mod pure;
pub mod socket;
pub mod transcript;
mod update;
pub mod ways;
pub mod wire;
mod world;

pub use player::{Failure, Side, play};
pub use transcript::{Drives, Transcript};

use std::path::{Path, PathBuf};

/// Every transcript below `folder`, sorted by path. Errors: a folder cannot be read.
pub fn transcripts_below(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(transcripts_below(&path)?);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "smtp")
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Plays a file against every pure side that it drives, and rewrites it first if `update` is set.
pub fn play_file(path: &Path, update: bool) -> Result<(), Failure> {
    let mut transcript = Transcript::read(path)?;
    if update {
        transcript = updated(&transcript)?;
        std::fs::write(path, transcript.to_string())
            .map_err(|error| Failure::unreadable(path, &error.to_string()))?;
    }
    if transcript.drives() != Drives::Client {
        play(&transcript, &mut pure::PureServer::new(&transcript)?)?;
    }
    if transcript.drives() != Drives::Server {
        play(&transcript, &mut client::PureClient::new(&transcript)?)?;
    }
    Ok(())
}

/// The transcript with what each side that it drives says and finds.
fn updated(transcript: &Transcript) -> Result<Transcript, Failure> {
    let mut rewritten = transcript.clone();
    let mut then = Vec::new();
    if transcript.drives() != Drives::Client {
        rewritten = update::updated(&rewritten, &mut pure::PureServer::new(transcript)?)?;
        then.append(&mut rewritten.then);
    }
    if transcript.drives() != Drives::Server {
        rewritten = update::updated(&rewritten, &mut client::PureClient::new(transcript)?)?;
        then.append(&mut rewritten.then);
    }
    rewritten.then = then;
    Transcript::parse(&transcript.path, &rewritten.to_string())
}
