//! A backup of the embedded spool, made beside the relay that runs on it.
//!
//! It is the spool of one moment: SQLite copies the database as one reader saw it (`VACUUM INTO`, one transaction, so
//! nothing begins anew under load), and body files that its rows name are linked, or copied where the backup lies on
//! another disk. Body files never change once they have their names; that none of them goes meanwhile is for `removal`.
//! The relay accepts and delivers all the time. Its log is not cut until the database is copied, and bodies of what it
//! delivers stay until the end.
//!
//! The database gets its name last, after everything is synced: a folder without one is no backup.
//!
//! May touch: the state folder, the folder of the backup. Must not touch: what the spool says.
//!
//! Limits: bodies are looked at by their sizes; a restore checks their hashes.

use std::{
    fs::{self, File},
    io,
    path::{Component, Path, PathBuf},
};

use rusqlite::Connection;

use super::{
    SpoolError,
    removal::Hold,
    schema::{self, FILE},
};

/// The database of a backup, or of a restore, that is not whole yet.
pub(super) const PART: &str = "spool.sqlite.part";

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is nothing to be copied.
    #[error("{0}: there is no spool.sqlite: expected the state folder of a relay")]
    NoSpool(PathBuf),
    /// What lies there would be mixed with the copy.
    #[error("{0}: not empty: expected an empty folder, or one that is not there yet")]
    NotEmpty(PathBuf),
    /// Only one at a time.
    #[error("{0}: another backup is being made of it")]
    Busy(PathBuf),
    /// The database itself is damaged.
    #[error("{path}: the database is damaged: {said}")]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What SQLite found.
        said: String,
    },
    /// A file or folder cannot be written or read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database cannot be read, or written.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Messages, with those that are done and can still be looked up.
    pub messages: u64,
    /// Recipients that wait.
    pub queued: u64,
    /// Recipients that are held for their site.
    pub held: u64,
    /// Bodies that lie in files.
    pub files: u64,
    /// Messages whose bodies are not what was accepted, in words; as many as are worth naming.
    pub damaged: Vec<String>,
    /// How many they are.
    pub damages: u64,
}

/// So many damaged messages are named.
const NAMED: usize = 10;

impl Contents {
    pub(super) fn damage(&mut self, id: &[u8], what: impl std::fmt::Display) {
        self.damages += 1;
        if self.damaged.len() < NAMED {
            let id = crate::names::MessageId::from_bytes(id);
            let id = id.map_or_else(|| "a message without an id".to_owned(), |id| id.to_string());
            self.damaged.push(format!("{id}: {what}"));
        }
    }

    /// Counts what the tables hold.
    pub(super) fn count(&mut self, database: &Connection) -> Result<(), SpoolError> {
        let count = |sql: &str| -> Result<u64, SpoolError> {
            let number: i64 = database.query_row(sql, [], |row| row.get(0))?;
            Ok(number.unsigned_abs())
        };
        self.messages = count("SELECT count(*) FROM messages")?;
        self.queued = count("SELECT count(*) FROM recipients WHERE state = 1")?;
        self.held = count("SELECT count(*) FROM recipients WHERE state = 6")?;
        Ok(())
    }
}

pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> BackupError + '_ {
    |source| BackupError::File {
        path: path.to_owned(),
        source,
    }
}

/// Copies the spool of the state folder `state`, which a relay may be using, to the empty folder `to`. After `Ok` the copy
/// is synced.
///
/// # Errors
/// There is nothing to copy, `to` has something in it, or one of them cannot be read or written; nothing of the copy is
/// left then.
pub fn back_up(state: &Path, to: &Path) -> Result<Contents, BackupError> {
    if !schema::exists(state) {
        return Err(BackupError::NoSpool(state.to_owned()));
    }
    make_empty(to)?;
    let hold = Hold::take(state).map_err(at(state))?;
    let hold = hold.ok_or_else(|| BackupError::Busy(state.to_owned()))?;
    let source = schema::open_reader(state)?;
    schema::known(&source, state)?;
    let copied = copy(&source, state, to);
    if copied.is_err() {
        discard(to);
    }
    drop(hold);
    copied
}

fn copy(source: &Connection, state: &Path, to: &Path) -> Result<Contents, BackupError> {
    let part = to.join(PART);
    copy_database(source, &part)?;
    let copy = schema::open_copy(&part)?;
    check(&copy, &part)?;
    let mut contents = Contents::default();
    contents.count(&copy)?;
    let (from, bodies) = (state.join("bodies"), to.join("bodies"));
    fs::create_dir(&bodies).map_err(at(&bodies))?;
    each_file(&copy, |id, name, size| {
        let Some(name) = plain(name) else {
            contents.damage(id, format_args!("its body file is called {name:?}"));
            return Ok(());
        };
        match link_or_copy(&from.join(name), &bodies.join(name)) {
            Ok(octets) if octets == size => contents.files += 1,
            Ok(octets) => contents.damage(id, format_args!("{octets} octets of {size}")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                contents.damage(id, format_args!("bodies/{name} is missing"));
            }
            Err(error) => return Err(at(&bodies.join(name))(error)),
        }
        Ok(())
    })?;
    drop(copy);
    publish(to)?;
    Ok(contents)
}

/// Makes the folder if it is missing.
pub(super) fn make_empty(folder: &Path) -> Result<(), BackupError> {
    fs::create_dir_all(folder).map_err(at(folder))?;
    match fs::read_dir(folder).map_err(at(folder))?.next() {
        None => Ok(()),
        Some(_) => Err(BackupError::NotEmpty(folder.to_owned())),
    }
}

/// As one reader sees it, synced.
pub(super) fn copy_database(source: &Connection, part: &Path) -> Result<(), BackupError> {
    let name = part.to_str().ok_or_else(|| {
        let what = "expected a name in UTF-8";
        at(part)(io::Error::new(io::ErrorKind::InvalidInput, what))
    })?;
    let copied = source.execute("VACUUM INTO ?1", [name]);
    copied.map_err(SpoolError::from)?;
    Ok(())
}

/// Whether the database makes sense to SQLite.
pub(super) fn check(database: &Connection, path: &Path) -> Result<(), BackupError> {
    let said = database.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    let said = match said {
        Ok(said) if said == "ok" => return Ok(()),
        Ok(said) => said,
        Err(error) => error.to_string(),
    };
    Err(BackupError::Damaged {
        path: path.to_owned(),
        said,
    })
}

/// Hands out the id, the file and the size of each message whose body lies in a file.
pub(super) fn each_file(
    database: &Connection,
    mut take: impl FnMut(&[u8], &str, u64) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let sql = "SELECT id, body_file, size FROM messages WHERE body_file IS NOT NULL ORDER BY seq";
    let mut statement = database.prepare(sql).map_err(SpoolError::from)?;
    let mut rows = statement.query([]).map_err(SpoolError::from)?;
    while let Some(row) = rows.next().map_err(SpoolError::from)? {
        let read = || -> rusqlite::Result<(Vec<u8>, String, i64)> {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        };
        let (id, name, size) = read().map_err(SpoolError::from)?;
        take(&id, &name, size.unsigned_abs())?;
    }
    Ok(())
}

/// The name of a file in the folder of bodies, and nothing that leads elsewhere.
pub(super) fn plain(name: &str) -> Option<&str> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(part)), None) if part == name => Some(name),
        _ => None,
    }
}

/// Says how many octets it has.
fn link_or_copy(from: &Path, to: &Path) -> io::Result<u64> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(fs::metadata(to)?.len());
    }
    // It is missing, or lies on another disk.
    let mut body = File::open(from)?;
    let mut copy = File::create_new(to)?;
    let octets = io::copy(&mut body, &mut copy)?;
    copy.sync_all()?;
    Ok(octets)
}

/// Gives the database its name, once everything is synced.
pub(super) fn publish(folder: &Path) -> Result<(), BackupError> {
    let (part, whole) = (folder.join(PART), folder.join(FILE));
    for path in [&part, &folder.join("bodies"), &folder.to_owned()] {
        sync(path)?;
    }
    fs::rename(&part, &whole).map_err(at(&whole))?;
    sync(folder)?;
    match folder.canonicalize().map_err(at(folder))?.parent() {
        Some(above) => sync(above),
        None => Ok(()),
    }
}

fn sync(path: &Path) -> Result<(), BackupError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(at(path))
}

/// Takes away what was begun in a folder that was empty.
pub(super) fn discard(folder: &Path) {
    for name in [PART, FILE] {
        let _ = fs::remove_file(folder.join(name));
    }
    let _ = fs::remove_file(folder.join(format!("{PART}-journal")));
    let _ = fs::remove_dir_all(folder.join("bodies"));
}
