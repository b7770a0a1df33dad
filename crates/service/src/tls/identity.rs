//! What a server shows, read from files and read again while it runs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use rustls::{
    RootCertStore, SignatureScheme,
    client::{ResolvesClientCert, verify_server_name},
    pki_types::ServerName,
    server::{
        ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
};

use super::{
    files::{self, FileError},
    provider,
    x509::{Parts, sha256},
};
use crate::{clock::Stamp, fresh::Refresh};

/// The files of one identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The chain in PEM: the server's own certificate first, then those of its issuers.
    pub certificate: PathBuf,
    /// The key of the first one, in PEM, without a password.
    pub key: PathBuf,
}

/// The files of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// What a client is shown unless it asks for a name of another.
    pub default: IdentityFiles,
    /// Shown to who asks for a name in their certificate (SNI, RFC 6066 3).
    pub by_name: Vec<IdentityFiles>,
    /// Clients are asked for a certificate, which counts if it leads to one of these roots (PEM).
    pub client_roots: Option<PathBuf>,
}

/// A chain and its key.
#[derive(Debug, Clone)]
pub struct ServerIdentity(Arc<CertifiedKey>);

impl ServerIdentity {
    /// Reads both files.
    ///
    /// # Errors
    /// One is missing, malformed, or not for the other.
    pub fn load(files: &IdentityFiles) -> Result<Self, FileError> {
        let mut seen = Seen::default();
        Self::read(files, &mut seen)
    }

    fn read(from: &IdentityFiles, seen: &mut Seen) -> Result<Self, FileError> {
        let chain = seen.read(&from.certificate)?;
        let secret = seen.read(&from.key)?;
        let pair = files::certified_key((&from.certificate, &chain), (&from.key, &secret))?;
        Ok(Self(Arc::new(pair)))
    }

    fn expires(&self) -> Option<Stamp> {
        let own = self.0.end_entity_cert().ok()?;
        Parts::read(own)?.not_after
    }

    fn is_for(&self, name: &ServerName<'_>) -> bool {
        let own = self
            .0
            .end_entity_cert()
            .and_then(ParsedCertificate::try_from);
        own.is_ok_and(|own| verify_server_name(&own, name).is_ok())
    }
}

/// What was read, by its digest: the same contents need not be taken over again.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Seen(BTreeMap<PathBuf, [u8; 32]>);

impl Seen {
    fn read(&mut self, path: &Path) -> Result<Vec<u8>, FileError> {
        let octets = files::read(path)?;
        self.0.insert(path.to_owned(), sha256(&octets));
        Ok(octets)
    }
}

/// One consistent reading of all files.
#[derive(Debug)]
struct Current {
    default: ServerIdentity,
    by_name: Vec<ServerIdentity>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    seen: Seen,
}

impl Current {
    fn read(from: &ServerFiles) -> Result<Self, FileError> {
        let mut seen = Seen::default();
        let default = ServerIdentity::read(&from.default, &mut seen)?;
        let by_name = from
            .by_name
            .iter()
            .map(|files| ServerIdentity::read(files, &mut seen))
            .collect::<Result<_, _>>()?;
        let clients = match &from.client_roots {
            None => None,
            Some(path) => {
                let octets = seen.read(path)?;
                Some(client_verifier(path, files::roots(path, &octets)?)?)
            }
        };
        Ok(Self {
            default,
            by_name,
            clients,
            seen,
        })
    }
}

impl Current {
    /// The first to expire, and its place among the files.
    fn expires(&self) -> Option<(Stamp, usize)> {
        let all = std::iter::once(&self.default).chain(&self.by_name);
        let times = all
            .enumerate()
            .filter_map(|(index, identity)| Some((identity.expires()?, index)));
        times.min()
    }

    /// An expired certificate is served: who does not verify it can still encrypt.
    fn warn_of_expired(&self, files: &ServerFiles) {
        let Some((when, index)) = self.expires().filter(|(when, _)| *when < Stamp::now()) else {
            return;
        };
        let mut all = std::iter::once(&files.default).chain(&files.by_name);
        if let Some(files) = all.nth(index) {
            let certificate = files.certificate.display();
            tracing::warn!(%certificate, expired = when.rfc2822(), "the certificate has expired");
        }
    }
}

fn client_verifier(
    path: &Path,
    roots: RootCertStore,
) -> Result<Arc<dyn ClientCertVerifier>, FileError> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| FileError::Malformed {
            path: path.to_owned(),
            what: error.to_string(),
        })
}

/// What [`ReloadingIdentity::reload`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// The files hold what they held.
    Unchanged,
    /// New sessions are shown the new contents. Those in progress go on.
    Changed,
}

/// What a server shows now. Handshakes take the latest good reading of the files.
///
/// The contents are compared, not times: a swapped symbolic link (Kubernetes) and a restored file are noticed alike.
#[derive(Debug)]
pub struct ReloadingIdentity {
    files: ServerFiles,
    current: RwLock<Arc<Current>>,
    /// What was wrong at the last reading, so that it is logged once and not at each.
    wrong: Mutex<Option<FileError>>,
}

impl ReloadingIdentity {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// One is missing or malformed.
    pub fn load(files: ServerFiles) -> Result<Self, FileError> {
        let current = Current::read(&files)?;
        current.warn_of_expired(&files);
        Ok(Self {
            files,
            current: RwLock::new(Arc::new(current)),
            wrong: Mutex::new(None),
        })
    }

    /// When the first of its certificates expires, for metrics and warnings.
    #[must_use]
    pub fn expires(&self) -> Option<Stamp> {
        self.current().expires().map(|(when, _)| when)
    }

    /// Reads the files again. Blocks on the disk. A bad file changes nothing: the old contents stay, and the log says
    /// which file it is and what is wrong with it, once.
    ///
    /// # Errors
    /// What is wrong. Files of a pair may be seen between two writes; the next reading mends that.
    pub fn reload(&self) -> Result<Reload, FileError> {
        let read = Current::read(&self.files);
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(new) => {
                *wrong = None;
                if new.seen == self.current().seen {
                    return Ok(Reload::Unchanged);
                }
                new.warn_of_expired(&self.files);
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                let certificate = self.files.default.certificate.display();
                tracing::info!(%certificate, "certificates read anew");
                Ok(Reload::Changed)
            }
            Err(error) => {
                if wrong.as_ref() != Some(&error) {
                    tracing::error!(%error, "certificates not read anew; the old ones stay in use");
                    *wrong = Some(error.clone());
                }
                Err(error)
            }
        }
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether clients are asked for a certificate; this does not change while it runs.
    pub(super) fn asks_clients(&self) -> bool {
        self.files.client_roots.is_some()
    }

    /// What a client's certificate is verified by now.
    pub(super) fn clients(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.current().clients.clone()
    }
}

impl Refresh for ReloadingIdentity {
    fn refresh(&self) {
        // What is wrong is in the log already.
        let _ = self.reload();
    }
}

impl ResolvesServerCert for ReloadingIdentity {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current();
        let asked = hello
            .server_name()
            .and_then(|name| ServerName::try_from(name).ok());
        let found = asked.and_then(|name| {
            // The default comes first also here: a name that several have is its own.
            std::iter::once(&current.default)
                .chain(&current.by_name)
                .find(|identity| identity.is_for(&name))
        });
        // A name that nobody has gets the default: who delivers mail to an MX often asks for what it knows it by.
        Some(Arc::clone(&found.unwrap_or(&current.default).0))
    }
}

/// A client shows its default, whoever asks.
impl ResolvesClientCert for ReloadingIdentity {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current().default.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
