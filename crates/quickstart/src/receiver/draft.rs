//! A message while it comes in: its header and size in memory, its octets in a file if one was asked for.

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::{
    fs::File,
    io::{AsyncWriteExt, BufWriter},
};

use super::arrival::Header;

/// Octets that are gathered before the file is written to.
const GATHERED: usize = 64 * 1024;

pub(super) struct Draft {
    pub(super) header: Header,
    /// Octets so far.
    pub(super) size: u64,
    file: Option<DraftFile>,
    /// The first thing that went wrong with the file; the client hears of it after its data.
    failed: Option<io::Error>,
}

impl Draft {
    /// Begins a message, with a file if there is a folder to keep it in.
    pub(super) async fn open(folder: Option<&Path>) -> Self {
        let mut draft = Self {
            header: Header::default(),
            size: 0,
            file: None,
            failed: None,
        };
        if let Some(folder) = folder {
            match DraftFile::create(folder).await {
                Ok(file) => draft.file = Some(file),
                Err(error) => draft.failed = Some(error),
            }
        }
        draft
    }

    /// Takes the next octets.
    pub(super) async fn write(&mut self, octets: &[u8]) {
        self.header.feed(octets);
        self.size += octets.len() as u64;
        if let (Some(file), None) = (&mut self.file, &self.failed) {
            self.failed = file.writer.write_all(octets).await.err();
        }
    }

    /// Gives the file its lasting name, if there is one. Not synced: a crash of the machine may lose it.
    pub(super) async fn keep(&mut self) -> io::Result<Option<PathBuf>> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        match &mut self.file {
            Some(file) => file.keep().await.map(Some),
            None => Ok(None),
        }
    }
}

/// A file that goes away with its draft unless it is kept.
struct DraftFile {
    /// `.ID.part` until it is kept, so that a reader of `*.eml` sees whole messages only.
    partial: PathBuf,
    lasting: PathBuf,
    writer: BufWriter<File>,
}

impl DraftFile {
    async fn create(folder: &Path) -> io::Result<Self> {
        // By time, so that the names are in the order of arrival.
        let id = uuid::Uuid::now_v7();
        let partial = folder.join(format!(".{id}.part"));
        let file = File::create_new(&partial).await?;
        Ok(Self {
            partial,
            lasting: folder.join(format!("{id}.eml")),
            writer: BufWriter::with_capacity(GATHERED, file),
        })
    }

    async fn keep(&mut self) -> io::Result<PathBuf> {
        self.writer.flush().await?;
        tokio::fs::rename(&self.partial, &self.lasting).await?;
        Ok(self.lasting.clone())
    }
}

impl Drop for DraftFile {
    fn drop(&mut self) {
        // Gone already if it was kept.
        let _ = std::fs::remove_file(&self.partial);
    }
}
