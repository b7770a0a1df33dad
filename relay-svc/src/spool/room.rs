//! The reserve: what mail must leave free on the disk of the spool.
//!
//! Mail that fills the disk to the last page would leave none for a cycle, an outcome or a report, and the queue could not
//! drain. So mail is refused while less than the reserve is free, and what the queue itself writes is not.
//!
//! May touch: the state of the disk. Must not touch: what is on it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::SpoolError;

/// The disk of the spool. Cheap to clone.
#[derive(Clone)]
pub(super) struct Room {
    folder: PathBuf,
    reserve: u64,
    is_short: Arc<AtomicBool>,
}

impl Room {
    /// The disk of this folder, with so many octets in reserve.
    pub(super) fn new(folder: &Path, reserve: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            reserve,
            is_short: Arc::default(),
        }
    }

    /// Whether there is room for more mail.
    ///
    /// # Errors
    /// [`SpoolError::Full`]: less than the reserve is free. A disk that cannot be asked has room: writing will tell.
    pub(super) fn check(&self) -> Result<(), SpoolError> {
        let Ok(disk) = rustix::fs::statvfs(&self.folder) else {
            return Ok(());
        };
        let (free, reserve) = (disk.f_bavail.saturating_mul(disk.f_frsize), self.reserve);
        let is_short = free < reserve;
        if is_short != self.is_short.swap(is_short, Ordering::Relaxed) {
            match is_short {
                true => tracing::warn!(
                    free,
                    reserve,
                    "spool: the disk is full up to its reserve: mail is refused"
                ),
                false => tracing::info!(free, reserve, "spool: there is room for mail again"),
            }
        }
        match is_short {
            true => Err(SpoolError::Full),
            false => Ok(()),
        }
    }
}
