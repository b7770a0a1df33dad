//! `spool`: the database that replicas share.

use std::path::{Path, PathBuf};

use linkmail_service::config::{ConfigErrors, Document, Table};
use sqlx::postgres::PgConnectOptions;

use super::{Database, read::unreachable_gap};
use crate::spool::SpoolError;

/// What may stand behind the `?` of an address.
const PARAMETERS: [&str; 6] = [
    "host",
    "port",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
];

pub(super) fn database(root: &Table<'_>) -> Option<Database> {
    let url = root.parse_with("spool", address);
    let password_file: Option<PathBuf> = root.optional("spool_password_file");
    if let Some(path) = &password_file {
        if !root.has("spool") {
            root.error("spool_password_file", "goes with spool, which is not there");
        } else if let Err(error) = std::fs::read_to_string(path) {
            root.error(
                "spool_password_file",
                format!("{}: {error}", path.display()),
            );
        }
    }
    Some(Database {
        url: url?,
        password_file,
    })
}

/// The state folder alone, for commands that work on the spool itself; `None` when the spool lies in a database.
///
/// # Errors
/// The file cannot be read, is not TOML, or `state` is wrong or missing; the rest is not looked at.
pub fn state_folder(path: &Path) -> Result<Option<PathBuf>, ConfigErrors> {
    let document = Document::load(path)?;
    let root = document.root();
    let (found, is_shared) = (root.required("state"), root.has("spool"));
    document.finish()?;
    match (found, is_shared) {
        (_, true) => Ok(None),
        (Some(folder), false) => Ok(Some(folder)),
        (None, false) => Err(unreachable_gap(&document)),
    }
}

fn address(text: &str) -> Result<String, String> {
    let expected = "expected postgres://USER@HOST/NAME";
    let rest = text
        .strip_prefix("postgres://")
        .or_else(|| text.strip_prefix("postgresql://"))
        .ok_or_else(|| format!("{expected}, found {text:?}"))?;
    let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, name) = place.split_once('/').unwrap_or((place, ""));
    if name.is_empty() {
        return Err(format!("{expected}, found no name of a database"));
    }
    match authority.rsplit_once('@') {
        // The text has a secret in it: it is not repeated.
        Some((user, _)) if user.contains(':') => {
            return Err(format!(
                "{expected}; the password stands in spool_password_file"
            ));
        }
        Some((user, _)) if !user.is_empty() => {}
        _ => return Err(format!("{expected}, found no user")),
    }
    for parameter in parameters.split('&').filter(|part| !part.is_empty()) {
        let key = parameter.split('=').next().unwrap_or(parameter);
        if !PARAMETERS.contains(&key) {
            let known = PARAMETERS.join(", ");
            return Err(format!(
                "expected one of {known} behind the ?, found {key:?}"
            ));
        }
    }
    text.parse::<PgConnectOptions>()
        .map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

impl Database {
    /// The database at the address that somebody gave on a command line, as `spool` of a configuration names it.
    ///
    /// # Errors
    /// In words, what is wrong with the address.
    pub fn at(address_text: &str, password_file: Option<PathBuf>) -> Result<Self, String> {
        Ok(Self {
            url: address(address_text)?,
            password_file,
        })
    }

    /// How to connect, with the password as it stands in its file now.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn options(&self) -> Result<PgConnectOptions, SpoolError> {
        let options: PgConnectOptions = self
            .url
            .parse()
            .map_err(|error: sqlx::Error| SpoolError::Unavailable(error.to_string()))?;
        Ok(match &self.password_file {
            None => options,
            Some(path) => {
                options.password(std::fs::read_to_string(path)?.trim_end_matches(['\r', '\n']))
            }
        })
    }
}
