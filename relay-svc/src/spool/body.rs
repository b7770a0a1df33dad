//! Bodies: written while they arrive, read while they are sent, never wholly in memory above [`INLINE_LIMIT`].

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncWriteExt},
};

use super::{INLINE_LIMIT, SpoolError, db::Db, room::Room, writer::sync_failed};

/// The end of the name of a file that no row names yet.
const UNFINISHED: &str = ".part";

/// The body of a message that is being received. Dropped without being accepted, it leaves nothing behind.
pub struct Draft {
    folder: PathBuf,
    /// Where it may not use all that is free.
    room: Option<Room>,
    hash: Sha256,
    size: u64,
    eight_bit: bool,
    memory: Vec<u8>,
    file: Option<PartFile>,
}

struct PartFile {
    path: PathBuf,
    file: File,
}

impl Drop for PartFile {
    fn drop(&mut self) {
        // After acceptance the file has its final name, and this finds nothing.
        let _ = fs::remove_file(&self.path);
    }
}

/// A body that is complete and, where it lies in a file, synced under its final name.
pub(super) enum Finished {
    Inline(Vec<u8>),
    File(String),
}

impl Finished {
    /// The file it lies in.
    pub(super) fn file(&self) -> Option<&str> {
        match self {
            Self::File(name) => Some(name),
            Self::Inline(_) => None,
        }
    }
}

/// What is known of a finished body.
pub(super) struct Facts {
    pub(super) size: u64,
    pub(super) eight_bit: bool,
    pub(super) hash: [u8; 32],
}

impl Draft {
    pub(super) fn new(folder: PathBuf, room: Option<Room>) -> Self {
        Self {
            folder,
            room,
            hash: Sha256::new(),
            size: 0,
            eight_bit: false,
            memory: Vec::new(),
            file: None,
        }
    }

    /// Octets so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends octets; above [`INLINE_LIMIT`] they go to a file.
    ///
    /// # Errors
    /// The file cannot be written; a full disk is [`SpoolError::Full`].
    pub async fn write(&mut self, octets: &[u8]) -> Result<(), SpoolError> {
        self.hash.update(octets);
        self.size += octets.len() as u64;
        self.eight_bit |= !octets.is_ascii();
        self.memory.extend_from_slice(octets);
        if self.memory.len() > INLINE_LIMIT {
            if let Some(room) = &self.room {
                room.check()?;
            }
            self.spill().await.map_err(full_or_io)?;
        }
        Ok(())
    }

    async fn spill(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let path = self
                .folder
                .join(format!("{}{UNFINISHED}", uuid::Uuid::new_v4().as_simple()));
            let file = File::create(&path).await?;
            self.file = Some(PartFile { path, file });
        }
        if let Some(part) = &mut self.file {
            part.file.write_all(&self.memory).await?;
            part.file.flush().await?;
        }
        self.memory.clear();
        Ok(())
    }

    /// Makes the body durable where it lies in a file, and gives what its row needs.
    pub(super) async fn finish(mut self) -> Result<(Finished, Facts), SpoolError> {
        if self.file.is_some() {
            self.spill().await.map_err(full_or_io)?;
        }
        let facts = Facts {
            size: self.size,
            eight_bit: self.eight_bit,
            hash: self.hash.finalize().into(),
        };
        let Some(part) = self.file.take() else {
            return Ok((Finished::Inline(self.memory), facts));
        };
        // A full disk may show only now. What was to be synced is thrown away with the file then.
        if let Err(error) = part.file.sync_data().await {
            return Err(match full_or_io(error) {
                SpoolError::Full => SpoolError::Full,
                error => sync_failed(&error),
            });
        }
        let name = part
            .path
            .file_name()
            .map(|n| n.to_string_lossy().replace(UNFINISHED, ""))
            .unwrap_or_default();
        let (folder, target) = (self.folder, name.clone());
        let task = tokio::task::spawn_blocking(move || {
            let bodies = fs::File::open(&folder)?;
            fs::rename(&part.path, folder.join(target))?;
            if let Err(error) = bodies.sync_all() {
                sync_failed(&error.into());
            }
            Ok(())
        });
        task.await
            .map_err(|_| SpoolError::Closed)?
            .map_err(full_or_io)?;
        Ok((Finished::File(name), facts))
    }
}

fn full_or_io(error: io::Error) -> SpoolError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SpoolError::Full,
        _ => SpoolError::Io(error),
    }
}

/// A stored body, read piece by piece and checked against the hash in its row.
pub struct Body {
    source: Source,
    hash: Sha256,
    expected: Vec<u8>,
}

enum Source {
    /// At most [`INLINE_LIMIT`] octets; taken by the first read.
    Inline(Vec<u8>),
    File(File),
}

impl Body {
    pub(super) fn inline(content: Vec<u8>, expected: Vec<u8>) -> Self {
        Self {
            source: Source::Inline(content),
            hash: Sha256::new(),
            expected,
        }
    }

    pub(super) async fn open(
        folder: &Path,
        name: &str,
        expected: Vec<u8>,
    ) -> Result<Self, SpoolError> {
        let file = File::open(folder.join("bodies").join(name)).await?;
        Ok(Self {
            source: Source::File(file),
            hash: Sha256::new(),
            expected,
        })
    }

    /// The whole of a body that lies in the database; nothing when it lies in a file.
    ///
    /// # Errors
    /// It is not what was accepted.
    pub async fn whole(&mut self) -> io::Result<Option<Vec<u8>>> {
        if matches!(self.source, Source::File(_)) {
            return Ok(None);
        }
        let octets = self.next().await?;
        // An empty body was checked by that.
        if !octets.is_empty() {
            self.next().await?;
        }
        Ok(Some(octets))
    }

    /// The next piece, of up to 64 KiB; empty at the end.
    ///
    /// # Errors
    /// The file cannot be read, or, at the end, the body is not what was accepted.
    pub async fn next(&mut self) -> io::Result<Vec<u8>> {
        let piece = match &mut self.source {
            Source::Inline(octets) => std::mem::take(octets),
            Source::File(file) => {
                let mut piece = vec![0; INLINE_LIMIT];
                let read = file.read(&mut piece).await?;
                piece.truncate(read);
                piece
            }
        };
        if !piece.is_empty() {
            self.hash.update(&piece);
        } else if self.hash.finalize_reset().as_slice() != self.expected {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is not what was accepted: its hash differs",
            ));
        }
        Ok(piece)
    }

    /// At most `limit` octets from the start, for the header of a report.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn head(mut self, limit: usize) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        while head.len() < limit {
            let piece = self.next().await?;
            if piece.is_empty() {
                break;
            }
            head.extend_from_slice(&piece);
        }
        head.truncate(limit);
        Ok(head)
    }
}

/// Whether there are bodies that were complete.
pub(super) fn any(folder: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(folder.join("bodies"))? {
        if !entry?.file_name().to_string_lossy().ends_with(UNFINISHED) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes body files that no row names: left by a crash between rename and commit, or between commit and removal.
pub(super) fn sweep(folder: &Path, db: &Db<'_>) -> Result<(), SpoolError> {
    let known = "SELECT 1 FROM messages WHERE body_file = ?1";
    for entry in fs::read_dir(folder.join("bodies"))? {
        let entry = entry?;
        let name = entry.file_name();
        let named = match name.to_str() {
            Some(name) if !name.ends_with(UNFINISHED) => db.exists(known, &[name.into()])?,
            _ => false,
        };
        if !named {
            fs::remove_file(entry.path())?;
            tracing::info!(file = %name.to_string_lossy(), "spool: removed a body that no message names");
        }
    }
    Ok(())
}
