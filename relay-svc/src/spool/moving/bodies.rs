//! Bodies: those that lie in files become pieces in the database; of all of them the server says the hash.
//!
//! A body that was damaged before stays so: its message is set aside when it is to be sent, as it would have been.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use rusqlite::Connection;
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, Row as _};

use super::{
    MoveError,
    destination::{Destination, server},
    rows::Batch,
};
use crate::spool::{Contents, PIECE, backup};

/// So many pieces are sent at once.
const PIECES: usize = 32;
/// So many bodies that differ are looked at in one go.
const PAGE: usize = 100;

/// Copies the bodies that lie in files of the state folder.
pub(super) async fn copy(
    source: &Connection,
    state: &Path,
    destination: &mut Destination,
    contents: &mut Contents,
) -> Result<(), MoveError> {
    let sql =
        "SELECT id, body_file, size, hash FROM messages WHERE body_file IS NOT NULL ORDER BY seq";
    let mut statement = source.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (id, name, hash): (Vec<u8>, String, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(3)?);
        let size = row.get::<_, i64>(2)?.unsigned_abs();
        let Some(name) = backup::plain(&name) else {
            contents.damage(&id, format_args!("its body file is called {name:?}"));
            continue;
        };
        let path = state.join("bodies").join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                contents.damage(&id, format_args!("bodies/{name} is missing"));
                continue;
            }
            Err(source) => return Err(MoveError::File { path, source }),
        };
        let (octets, found) = copy_one(file, &path, name, destination).await?;
        contents.files += 1;
        if octets != size {
            contents.damage(&id, format_args!("{octets} octets of {size}"));
        } else if found[..] != hash {
            contents.damage(&id, "its hash differs");
        }
    }
    Ok(())
}

/// In one change. Says how many octets it has, and their hash.
async fn copy_one(
    mut file: File,
    path: &Path,
    name: &str,
    destination: &mut Destination,
) -> Result<(u64, [u8; 32]), MoveError> {
    destination.batch().await?;
    let sql = format!(
        "INSERT INTO large_bodies (name, created_ms) VALUES \
         ('{}', CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT))",
        name.replace('\'', "''")
    );
    destination.plain(sql).await?;
    let into = "COPY body_chunks (name, n, content) FROM STDIN (FORMAT binary)";
    let (mut whole, mut octets, mut hashes) = (Sha256::new(), 0, Vec::new());
    let (mut batch, mut pieces, mut n) = (Batch::new(), 0, 0_i64);
    loop {
        let piece = piece(&mut file).map_err(|source| MoveError::File {
            path: path.to_owned(),
            source,
        })?;
        if piece.is_empty() || pieces == PIECES {
            let full = std::mem::replace(&mut batch, Batch::new());
            destination.copy_in(into, full.finish()).await?;
            pieces = 0;
        }
        if piece.is_empty() {
            break;
        }
        whole.update(&piece);
        octets += piece.len() as u64;
        hashes.push(Sha256::digest(&piece).to_vec());
        batch.begin_row(3);
        batch.column(Some(name.as_bytes()));
        batch.column(Some(&n.to_be_bytes()));
        batch.column(Some(&piece));
        (pieces, n) = (pieces + 1, n + 1);
    }
    expect_pieces(name, &hashes, destination).await?;
    destination.commit().await?;
    Ok((octets, whole.finalize().into()))
}

/// Up to [`PIECE`] octets, fewer only at the end; empty behind it.
fn piece(file: &mut File) -> io::Result<Vec<u8>> {
    let mut piece = Vec::with_capacity(PIECE);
    file.take(PIECE as u64).read_to_end(&mut piece)?;
    Ok(piece)
}

/// Whether the server has what was sent.
async fn expect_pieces(
    name: &str,
    hashes: &[Vec<u8>],
    destination: &mut Destination,
) -> Result<(), MoveError> {
    let sql = "SELECT sha256(content) FROM body_chunks WHERE name = $1 ORDER BY n";
    let bound = name.to_owned();
    let look = async |connection: &mut PgConnection| {
        sqlx::query_scalar::<_, Vec<u8>>(sql)
            .bind(bound)
            .fetch_all(connection)
            .await
    };
    let found = destination
        .within(std::time::Duration::from_secs(60), look)
        .await?;
    match found == hashes {
        true => Ok(()),
        false => Err(MoveError::NotTheSame(format!("body {name}"))),
    }
}

/// Whether the bodies that lie in the table are what was accepted; those that are not must have been damaged here.
pub(super) async fn verify(
    source: &Connection,
    destination: &mut Destination,
    contents: &mut Contents,
) -> Result<(), MoveError> {
    let sql = format!(
        "SELECT m.seq FROM bodies b JOIN messages m USING (seq) WHERE m.seq > $1 AND sha256(b.content) <> m.hash \
         ORDER BY m.seq LIMIT {PAGE}"
    );
    let mut here = source.prepare(
        "SELECT m.id, m.hash, b.content FROM bodies b JOIN messages m USING (seq) WHERE seq = ?1",
    )?;
    let mut after = 0;
    loop {
        let differing = destination.look(sql.clone(), Some(after)).await?;
        for row in &differing {
            let seq: i64 = row
                .try_get(0)
                .map_err(|error| server(destination.name(), error))?;
            let (id, hash, body): (Vec<u8>, Vec<u8>, Vec<u8>) =
                here.query_row([seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            if Sha256::digest(&body)[..] == hash {
                return Err(MoveError::NotTheSame(format!("body of message {seq}")));
            }
            contents.damage(&id, "its hash differs");
            after = seq;
        }
        if differing.len() < PAGE {
            return Ok(());
        }
    }
}
