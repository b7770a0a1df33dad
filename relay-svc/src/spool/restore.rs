//! A backup that becomes the spool of a state folder, for a relay that is to go on from it.
//!
//! Everything is read once: the database is checked by SQLite, each body by its size and hash while it is copied. The
//! backup itself is not changed. The database gets its name last, so that no relay starts on half of it.
//!
//! What the relay delivered after the backup was made stands in it as waiting, and goes again.
//!
//! May touch: the backup, the state folder.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::{
    SpoolError,
    backup::{self, BackupError, Contents, PART, at},
    embedded, removal,
    schema::{self, FILE},
};

/// Why a backup did not become the spool.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is none, or one that was not finished.
    #[error("{0}: there is no spool.sqlite: it is no backup, or one that was broken off")]
    NoBackup(PathBuf),
    /// What lies there would be lost.
    #[error(
        "{path}: holds {found:?}: expected the state folder of a relay that has no spool yet; move the old one away"
    )]
    NotEmpty {
        /// The state folder.
        path: PathBuf,
        /// What is in it.
        found: String,
    },
    /// Some bodies are not what was accepted.
    #[error(
        "{count} messages of the backup are damaged ({}): with --damaged they are restored too, and set aside when they \
         are to be sent",
        named.join("; ")
    )]
    Damaged {
        /// How many.
        count: u64,
        /// The first of them.
        named: Vec<String>,
    },
    /// It cannot be read or written.
    #[error(transparent)]
    Copy(#[from] BackupError),
}

impl From<SpoolError> for RestoreError {
    fn from(error: SpoolError) -> Self {
        Self::Copy(error.into())
    }
}

/// So much of a body is in memory at once.
const PIECE: usize = 64 * 1024;

/// Makes the backup in `from` the spool of the state folder `state`, which has none. `damaged_too`: also what cannot be
/// sent. After `Ok` it is synced.
///
/// # Errors
/// A relay uses `state`, it has a spool, or the backup is not whole; nothing of it is left in `state` then.
pub fn restore(from: &Path, state: &Path, damaged_too: bool) -> Result<Contents, RestoreError> {
    if !schema::exists(from) {
        return Err(RestoreError::NoBackup(from.to_owned()));
    }
    let _lock = embedded::lock(state)?;
    expect_empty(state)?;
    let source = schema::open_reader(from)?;
    schema::known(&source, from)?;
    backup::check(&source, &from.join(FILE))?;
    let copied = copy(&source, from, state, damaged_too);
    if copied.is_err() {
        backup::discard(state);
    }
    copied
}

/// A relay that ran on a shared spool, or never accepted anything, leaves its locks.
fn expect_empty(state: &Path) -> Result<(), RestoreError> {
    for entry in fs::read_dir(state).map_err(at(state))? {
        let name = entry.map_err(at(state))?.file_name();
        let is_ours = ["lock", removal::FILE].iter().any(|known| name == *known);
        let is_empty = || {
            let bodies = fs::read_dir(state.join("bodies"));
            name == "bodies" && bodies.is_ok_and(|mut bodies| bodies.next().is_none())
        };
        if !is_ours && !is_empty() {
            return Err(RestoreError::NotEmpty {
                path: state.to_owned(),
                found: name.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(())
}

fn copy(
    source: &Connection,
    from: &Path,
    state: &Path,
    damaged_too: bool,
) -> Result<Contents, RestoreError> {
    backup::copy_database(source, &state.join(PART))?;
    let mut contents = Contents::default();
    contents.count(source)?;
    check_inline(source, &mut contents)?;
    copy_files(source, (from, state), &mut contents)?;
    if contents.damages > 0 && !damaged_too {
        return Err(RestoreError::Damaged {
            count: contents.damages,
            named: contents.damaged,
        });
    }
    fs::create_dir_all(state.join("bodies")).map_err(at(state))?;
    backup::publish(state)?;
    Ok(contents)
}

/// Whether the bodies that lie in the database are what was accepted. One whose message is done is gone.
fn check_inline(source: &Connection, contents: &mut Contents) -> Result<(), SpoolError> {
    let sql = "SELECT m.id, m.hash, b.content, m.done_ms FROM messages m LEFT JOIN bodies b USING (seq) \
               WHERE m.body_file IS NULL ORDER BY m.seq";
    let mut statement = source.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id: Vec<u8> = row.get(0)?;
        let hash: Vec<u8> = row.get(1)?;
        let done: Option<i64> = row.get(3)?;
        match row.get_ref(2)?.as_blob_or_null() {
            Ok(Some(body)) if Sha256::digest(body)[..] != hash => {
                contents.damage(&id, "its hash differs");
            }
            Ok(None) if done.is_none() => contents.damage(&id, "it has no body"),
            Ok(_) => {}
            Err(_) => contents.damage(&id, "its body is none"),
        }
    }
    Ok(())
}

fn copy_files(
    source: &Connection,
    (from, state): (&Path, &Path),
    contents: &mut Contents,
) -> Result<(), BackupError> {
    let sql = "SELECT hash FROM messages WHERE body_file = ?1";
    let mut hash_of = source.prepare(sql).map_err(SpoolError::from)?;
    backup::each_file(source, |id, name, size| {
        let hash = hash_of.query_row([name], |row| row.get::<_, Vec<u8>>(0));
        let hash = hash.map_err(SpoolError::from)?;
        let Some(name) = backup::plain(name) else {
            contents.damage(id, format_args!("its body file is called {name:?}"));
            return Ok(());
        };
        let (body, copy) = (
            from.join("bodies").join(name),
            state.join("bodies").join(name),
        );
        let body = match File::open(&body) {
            Ok(body) => body,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                contents.damage(id, format_args!("bodies/{name} is missing"));
                return Ok(());
            }
            Err(error) => return Err(at(&body)(error)),
        };
        let (octets, found) = copy_body(body, &copy).map_err(at(&copy))?;
        contents.files += 1;
        if octets != size {
            contents.damage(id, format_args!("{octets} octets of {size}"));
        } else if found[..] != hash {
            contents.damage(id, "its hash differs");
        }
        Ok(())
    })
}

/// Says how many octets were copied, and their hash. The copy is synced.
fn copy_body(mut body: File, to: &Path) -> io::Result<(u64, [u8; 32])> {
    let mut copy = File::create_new(to)?;
    let (mut hash, mut octets, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
    loop {
        let read = body.read(&mut piece)?;
        if read == 0 {
            break;
        }
        hash.update(&piece[..read]);
        copy.write_all(&piece[..read])?;
        octets += read as u64;
    }
    copy.sync_all()?;
    Ok((octets, hash.finalize().into()))
}
