//! `tls = …` of a listener and of a next hop. Secrets stand in files, and the files are read at once, so that checking a
//! configuration finds what is wrong with them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::pki_types::ServerName;

use super::{
    ClientTls, FileError, IdentityFiles, Mode, Pin, ReloadingIdentity, ServerFiles, ServerTls,
    client::{authorities, parse_name},
};
use crate::config::{Table, choice};

/// Whose word counts for the certificate of a next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// Those of the system: `/etc/ssl/certs`, or SSL_CERT_FILE and SSL_CERT_DIR.
    System,
    /// Those that browsers trust, as they were when this was built.
    Public,
    /// Those in a PEM file, and no others.
    File(PathBuf),
}

impl Roots {
    /// Reads `key`: `"system"`, `"public"` or the absolute path of a PEM file. None if it is absent, or after noting what
    /// is wrong, also with the file.
    pub fn read(table: &Table<'_>, key: &str) -> Option<Self> {
        let roots = table.parse_with(key, Self::parse)?;
        authorities(&roots)
            .map_err(|error| table.error(key, error.to_string()))
            .ok()?;
        Some(roots)
    }

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "system" => Ok(Self::System),
            "public" => Ok(Self::Public),
            path if Path::new(path).is_absolute() => Ok(Self::File(PathBuf::from(path))),
            other => Err(format!(
                "unknown roots {other:?}; \"system\", \"public\", or the absolute path of a PEM file"
            )),
        }
    }
}

/// How a next hop is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSettings {
    /// Whether TLS is used.
    pub mode: Mode,
    /// Unset: the roots of the system, or none if there are pins, which then decide alone.
    pub roots: Option<Roots>,
    /// One of these must fit, if there are any.
    pub pins: Vec<Pin>,
    /// The name to ask for and to verify, in place of the host's.
    pub server_name: Option<ServerName<'static>>,
    /// Shown if the server asks.
    pub identity: Option<IdentityFiles>,
}

impl ClientSettings {
    /// A mode with everything else as it is unless said otherwise.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            roots: None,
            pins: Vec::new(),
            server_name: None,
            identity: None,
        }
    }
}

const MODES: [(&str, Mode); 4] = [
    ("required", Mode::Require),
    ("opportunistic", Mode::Opportunistic),
    ("implicit", Mode::Implicit),
    ("none", Mode::None),
];

fn mode(text: &str) -> Result<Mode, String> {
    choice("mode", text, &MODES)
}

impl ClientTls {
    /// Reads `key` of a next hop: `"required"`, `"opportunistic"`, `"implicit"`, `"none"`, or a table with `mode`, `roots`
    /// (`"system"`, `"public"` or a path), `pin`, `server_name`, `certificate` and `key`; `default` if it is absent, and
    /// in a table without `mode` it is required. None after noting what is wrong.
    pub fn read(table: &Table<'_>, key: &str, default: Mode) -> Option<Self> {
        if !table.has_table(key) {
            let settings = match table.has(key) {
                true => ClientSettings::new(table.parse_with(key, mode)?),
                false => ClientSettings::new(default),
            };
            return Self::new(&settings)
                .map_err(|error| table.error(key, error.to_string()))
                .ok();
        }
        let inner = table.table(key)?;
        let made = settings(&inner).and_then(|settings| {
            let made = Self::new(&settings);
            made.map_err(|error| inner.error(place(&error, &settings), error.to_string()))
                .ok()
        });
        inner.finish();
        made
    }
}

/// The settings in a table; None after noting what is wrong.
fn settings(table: &Table<'_>) -> Option<ClientSettings> {
    let mode = match table.has("mode") {
        true => table.parse_with("mode", mode),
        false => Some(Mode::Require),
    };
    let roots = table.parse_with("roots", Roots::parse);
    let pins = match table.has("pin") {
        true => table.required_list_with("pin", "pin", |text| {
            text.parse::<Pin>().map_err(|error| error.to_string())
        }),
        false => Vec::new(),
    };
    let server_name = table.parse_with("server_name", |text| {
        parse_name(text).map_err(|error| error.to_string())
    });
    let identity = match (table.has("certificate"), table.has("key")) {
        (false, false) => None,
        _ => Some(pair(table)?),
    };
    let mode = mode?;
    if !mode.verifies() {
        for key in ["roots", "pin"] {
            if table.has(key) {
                let word = mode.as_str();
                table.error(key, format!("mode = \"{word}\" verifies nobody; expected mode = \"required\" or \"implicit\" with it"));
                return None;
            }
        }
    }
    // What was noted for them must not be read as their absence, which trusts others.
    let wrong = (pins.is_empty() && table.has("pin"))
        || (roots.is_none() && table.has("roots"))
        || (server_name.is_none() && table.has("server_name"));
    (!wrong).then_some(ClientSettings {
        mode,
        roots,
        pins,
        server_name,
        identity,
    })
}

/// The key to which an error of a file belongs.
fn place(error: &FileError, settings: &ClientSettings) -> &'static str {
    let path = match error {
        FileError::Unreadable { path, .. } | FileError::Malformed { path, .. } => path,
        FileError::Mismatch { .. } => return "key",
        FileError::NoSystemRoots(_) => return "roots",
    };
    match &settings.identity {
        Some(identity) if identity.key == *path => "key",
        Some(identity) if identity.certificate == *path => "certificate",
        _ => "roots",
    }
}

/// `certificate` and `key`, which go together.
fn pair(table: &Table<'_>) -> Option<IdentityFiles> {
    let certificate = table.required("certificate");
    let key = table.required("key");
    Some(IdentityFiles {
        certificate: certificate?,
        key: key?,
    })
}

impl ServerTls {
    /// Reads `key` of a listener: `{ certificate, key }`, with `by_name = [{ certificate, key }]` for further names and
    /// `client_roots` to ask clients for a certificate. None if it is absent, or after noting what is wrong. The second
    /// part goes to [`crate::fresh::keep_fresh`].
    pub fn read(table: &Table<'_>, key: &str) -> Option<(Self, Arc<ReloadingIdentity>)> {
        let inner = table.table(key)?;
        let default = pair(&inner);
        let by_name: Vec<_> = inner
            .tables("by_name")
            .into_iter()
            .map(|entry| {
                let files = pair(&entry);
                entry.finish();
                files
            })
            .collect();
        let wrong_roots = |roots: &Option<PathBuf>| roots.is_none() && inner.has("client_roots");
        let client_roots: Option<PathBuf> = inner.optional("client_roots");
        let files = (!wrong_roots(&client_roots)).then_some(());
        let made = files.and(default).and_then(|default| {
            let files = ServerFiles {
                default,
                by_name: by_name.into_iter().collect::<Option<_>>()?,
                client_roots,
            };
            serve(&inner, files)
        });
        inner.finish();
        made
    }
}

fn serve(table: &Table<'_>, files: ServerFiles) -> Option<(ServerTls, Arc<ReloadingIdentity>)> {
    let identity = ReloadingIdentity::load(files.clone())
        .map_err(|error| table.error(server_place(&error, &files), error.to_string()))
        .ok()?;
    let identity = Arc::new(identity);
    let tls = ServerTls::new(Arc::clone(&identity))
        .map_err(|error| table.error("certificate", error.to_string()))
        .ok()?;
    Some((tls, identity))
}

fn server_place(error: &FileError, files: &ServerFiles) -> &'static str {
    let path = match error {
        FileError::Unreadable { path, .. } | FileError::Malformed { path, .. } => path,
        FileError::Mismatch { key, .. } => key,
        FileError::NoSystemRoots(_) => return "client_roots",
    };
    match () {
        () if files.default.key == *path => "key",
        () if files.default.certificate == *path => "certificate",
        () if files.client_roots.as_ref() == Some(path) => "client_roots",
        () => "by_name",
    }
}
