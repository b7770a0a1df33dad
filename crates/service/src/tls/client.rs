//! The client's side of a handshake: what a next hop must show, and what happens when it does not.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, WebPkiServerVerifier},
    pki_types::ServerName,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    ClientSettings, FileError, MaybeTls, ReloadingIdentity, Roots, ServerFiles, TlsError, Trust,
    dane::{self, Tlsa},
    files, provider,
    verify::{Demand, ServerVerifier, by_roots},
};

/// Whether a next hop is reached over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Never.
    None,
    /// STARTTLS if it is offered; nobody is verified (RFC 7435): it keeps out who only listens.
    Opportunistic,
    /// STARTTLS, or no mail.
    Require,
    /// TLS from the first octet, as on port 465 (RFC 8314 3.3), or no mail.
    Implicit,
}

impl Mode {
    /// The word for it in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Opportunistic => "opportunistic",
            Self::Require => "required",
            Self::Implicit => "implicit",
        }
    }

    /// Whether a certificate is verified.
    #[must_use]
    pub fn verifies(self) -> bool {
        matches!(self, Self::Require | Self::Implicit)
    }
}

/// Sessions of so many servers are kept for resumption. A next hop has one name, or a few by its MX records.
const SERVERS: usize = 8;
/// As rustls counts.
const TICKETS_PER_SERVER: usize = 8;

/// TLS to one next hop. Keep the value: it holds the sessions that later connections resume, which saves the certificates
/// on the wire and, under TLS 1.2, a round trip.
pub struct ClientTls {
    mode: Mode,
    server_name: Option<ServerName<'static>>,
    identity: Option<Arc<ReloadingIdentity>>,
    prepared: Prepared,
}

struct Prepared {
    config: Arc<ClientConfig>,
    trust: Trust,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("mode", &self.mode)
            .field("server_name", &self.server_name)
            .field("trust", &self.prepared.trust)
            .finish_non_exhaustive()
    }
}

impl ClientTls {
    /// Makes it from settings, and reads the files that they name.
    ///
    /// # Errors
    /// A file is missing or malformed, or the system has no roots.
    pub fn new(settings: &ClientSettings) -> Result<Self, FileError> {
        let identity = match &settings.identity {
            None => None,
            Some(files) => Some(Arc::new(ReloadingIdentity::load(ServerFiles {
                default: files.clone(),
                by_name: Vec::new(),
                client_roots: None,
            })?)),
        };
        let demand = demand(settings)?;
        Ok(Self {
            mode: settings.mode,
            server_name: settings.server_name.clone(),
            prepared: prepare(demand, identity.as_ref()),
            identity,
        })
    }

    /// STARTTLS, or no mail, verified by TLSA records in place of roots and pins: for one next hop, whose every connection
    /// is verified so. `base` is the name that the records are of. `domain` is the next hop's domain if `base` came out of
    /// its MX records: a certificate may name either (RFC 7672 3.2.2). With no usable record nobody is verified, and TLS is
    /// still demanded (RFC 7672 2.2).
    ///
    /// # Errors
    /// A name is none that a certificate could have.
    pub fn dane(base: &str, domain: Option<&str>, records: &[Tlsa]) -> Result<Self, TlsError> {
        let names: Vec<_> = domain.map(parse_name).transpose()?.into_iter().collect();
        let records = dane::usable(records);
        let demand = if records.is_empty() {
            Demand::Anything
        } else {
            Demand::Dane(records, names)
        };
        Ok(Self {
            mode: Mode::Require,
            server_name: Some(parse_name(base)?),
            identity: None,
            prepared: prepare(demand, None),
        })
    }

    /// Whether TLS is used.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The client's own certificate, for [`crate::fresh::keep_fresh`].
    #[must_use]
    pub fn identity(&self) -> Option<&Arc<ReloadingIdentity>> {
        self.identity.as_ref()
    }

    /// Whether mail may go in the clear, over a new connection, after STARTTLS failed. Only where it is opportunistic.
    #[must_use]
    pub fn may_go_clear(&self) -> bool {
        matches!(self.mode, Mode::None | Mode::Opportunistic)
    }

    /// Shakes hands with `host` within `patience`: after the 220 to STARTTLS, or at once with [`Mode::Implicit`].
    ///
    /// Under TLS 1.3 a server judges our certificate after this has ended: that it refuses it is the error of the first
    /// read, and `TlsError::from` puts it in words.
    ///
    /// # Errors
    /// Why there is no TLS. The connection is closed then.
    pub async fn connect<S>(
        &self,
        stream: S,
        host: &str,
        patience: Duration,
    ) -> Result<MaybeTls<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = self.name(host)?;
        shake_hands(&self.prepared, stream, name, patience).await
    }

    fn name(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => parse_name(host),
        }
    }
}

async fn shake_hands<S>(
    prepared: &Prepared,
    stream: S,
    name: ServerName<'static>,
    patience: Duration,
) -> Result<MaybeTls<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connector = TlsConnector::from(Arc::clone(&prepared.config));
    let stream = timeout(patience, connector.connect(name, stream))
        .await
        .map_err(|_| TlsError::TimedOut(patience))??;
    Ok(MaybeTls::client(stream, prepared.trust.clone()))
}

/// A host as a certificate names it: without the final dot of DNS. An address is verified, but not sent as SNI.
pub(super) fn parse_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    let bare = host.strip_suffix('.').unwrap_or(host);
    ServerName::try_from(bare.to_owned()).map_err(|_| TlsError::NoName(host.to_owned()))
}

fn demand(settings: &ClientSettings) -> Result<Demand, FileError> {
    if !settings.mode.verifies() {
        return Ok(Demand::Anything);
    }
    let chosen = settings.roots.as_ref();
    if settings.pins.is_empty() {
        let chosen = chosen.unwrap_or(&Roots::System);
        return Ok(Demand::Roots(authorities(chosen)?));
    }
    let besides = chosen.map(authorities).transpose()?;
    Ok(Demand::Pinned(settings.pins.clone(), besides))
}

/// Those of the system and the public ones are many: next hops share them.
pub(super) fn authorities(chosen: &Roots) -> Result<Arc<WebPkiServerVerifier>, FileError> {
    static SYSTEM: OnceLock<Arc<WebPkiServerVerifier>> = OnceLock::new();
    static PUBLIC: OnceLock<Arc<WebPkiServerVerifier>> = OnceLock::new();
    let shared = match chosen {
        Roots::File(path) => return by_roots(files::roots(path, &files::read(path)?)?),
        Roots::System => &SYSTEM,
        Roots::Public => &PUBLIC,
    };
    if let Some(there) = shared.get() {
        return Ok(Arc::clone(there));
    }
    let read = by_roots(match chosen {
        Roots::System => system_roots()?,
        _ => webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(),
    })?;
    Ok(Arc::clone(shared.get_or_init(|| read)))
}

fn system_roots() -> Result<RootCertStore, FileError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    // Bundles of systems hold certificates that rustls cannot use; those that it can are enough.
    store.add_parsable_certificates(found.certs);
    if !store.is_empty() {
        return Ok(store);
    }
    let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    Err(FileError::NoSystemRoots(match errors.as_slice() {
        [] => "none were found".to_owned(),
        errors => errors.join("; "),
    }))
}

fn prepare(demand: Demand, identity: Option<&Arc<ReloadingIdentity>>) -> Prepared {
    let trust = demand.trust();
    let verifier = Arc::new(ServerVerifier::new(demand));
    let builder = ClientConfig::builder_with_provider(provider());
    // ring speaks both versions: this cannot fail.
    let builder = match builder.with_safe_default_protocol_versions() {
        Ok(builder) => builder,
        Err(error) => unreachable!("ring without TLS 1.2 or 1.3: {error}"),
    };
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::clone(identity) as _),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::in_memory_sessions(SERVERS * TICKETS_PER_SERVER);
    Prepared {
        config: Arc::new(config),
        trust,
    }
}
