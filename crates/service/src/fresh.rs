//! Files that are read again while the daemon runs: on SIGHUP, and by looking at them now and then.
//!
//! What changed counts, not when: a swapped symbolic link (Kubernetes) and a restored file are noticed alike. A bad file
//! changes nothing: the old contents stay, and the log says what is wrong with it, once.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

/// A larger file is a mistake.
const LARGEST: u64 = 16 << 20;

/// What [`keep_fresh`] keeps fresh.
pub trait Refresh: Send + Sync {
    /// Looks at the files again. Blocks on the disk; tells the log what came of it.
    fn refresh(&self);
}

/// Refreshes all on SIGHUP and every `every`, until `cancel` is cancelled. A part for [`crate::tasks::Tasks`].
///
/// # Errors
/// The operating system refuses the signal handler.
pub fn keep_fresh<F: Refresh + ?Sized + 'static>(
    files: Vec<Arc<F>>,
    every: Duration,
    cancel: CancellationToken,
) -> io::Result<impl Future<Output = ()> + Send> {
    // At once, and not when the future is first polled: until then SIGHUP would end the process.
    let mut hangups = signal(SignalKind::hangup())?;
    Ok(async move {
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => {}
                _ = hangups.recv() => tracing::info!("SIGHUP: reading files anew"),
            }
            for file in &files {
                let file = Arc::clone(file);
                // The outcome is in the log already.
                let _ = tokio::task::spawn_blocking(move || file.refresh()).await;
            }
        }
    })
}

/// What is wrong with a file: which one, and what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}", path.display())]
pub struct BadFile {
    /// Which.
    pub path: PathBuf,
    /// The words of the operating system, or what is wrong with which line.
    pub what: String,
}

/// A text file of the operator's, as a type.
pub struct ReloadingFile<T> {
    path: PathBuf,
    parse: fn(&str) -> Result<T, String>,
    current: RwLock<Arc<T>>,
    seen: Mutex<Seen>,
}

/// What the last readings came to.
struct Seen {
    digest: [u8; 32],
    /// What was wrong at the last reading, so that it is logged once and not at each.
    wrong: Option<BadFile>,
}

impl<T> std::fmt::Debug for ReloadingFile<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReloadingFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl<T> ReloadingFile<T> {
    /// Reads a file for the first time. The error of `parse` is for a person, and says which line it is.
    ///
    /// # Errors
    /// It cannot be read, or holds something else.
    pub fn load(path: &Path, parse: fn(&str) -> Result<T, String>) -> Result<Self, BadFile> {
        let (text, digest) = read(path)?;
        let value = parse(&text).map_err(|what| bad(path, what))?;
        Ok(Self {
            path: path.to_owned(),
            parse,
            current: RwLock::new(Arc::new(value)),
            seen: Mutex::new(Seen {
                digest,
                wrong: None,
            }),
        })
    }

    /// Which file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The latest good contents.
    #[must_use]
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T: Send + Sync> Refresh for ReloadingFile<T> {
    fn refresh(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let read = read(&self.path).and_then(|(text, digest)| {
            if digest == seen.digest {
                return Ok(None);
            }
            let value = (self.parse)(&text).map_err(|what| bad(&self.path, what))?;
            Ok(Some((value, digest)))
        });
        match read {
            Ok(new) => {
                seen.wrong = None;
                if let Some((value, digest)) = new {
                    seen.digest = digest;
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                    tracing::info!(file = %self.path.display(), "file read anew");
                }
            }
            Err(error) => {
                if seen.wrong.as_ref() != Some(&error) {
                    tracing::error!(%error, "file not read anew; the old contents stay in use");
                    seen.wrong = Some(error);
                }
            }
        }
    }
}

fn bad(path: &Path, what: String) -> BadFile {
    BadFile {
        path: path.to_owned(),
        what,
    }
}

fn read(path: &Path) -> Result<(String, [u8; 32]), BadFile> {
    let unreadable = |error: io::Error| bad(path, format!("cannot be read: {error}"));
    let mut octets = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut octets))
        .map_err(unreadable)?;
    if octets.len() as u64 > LARGEST {
        return Err(bad(path, format!("more than {LARGEST} octets")));
    }
    let digest = Sha256::digest(&octets).into();
    let text = String::from_utf8(octets).map_err(|_| bad(path, "not UTF-8 text".to_owned()))?;
    Ok((text, digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Result<u32, String> {
        text.trim()
            .parse()
            .map_err(|_| "line 1: no number".to_owned())
    }

    #[test]
    fn a_new_file_is_taken_over_and_a_bad_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        let missing = ReloadingFile::load(&path, number).unwrap_err();
        assert!(missing.what.starts_with("cannot be read: "), "{missing}");
        std::fs::write(&path, "1\n").unwrap();
        let file = ReloadingFile::load(&path, number).unwrap();
        for (text, expected) in [("2", 2), ("two", 2), ("\u{0}", 2), ("3", 3), ("3", 3)] {
            std::fs::write(&path, text).unwrap();
            file.refresh();
            assert_eq!(*file.current(), expected, "{text:?}");
        }
        std::fs::write(&path, b"\xff").unwrap();
        file.refresh();
        std::fs::remove_file(&path).unwrap();
        file.refresh();
        assert_eq!(*file.current(), 3);
        let seen = file.seen.lock().unwrap();
        assert!(seen.wrong.is_some());
    }
}
