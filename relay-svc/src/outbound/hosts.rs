//! How each next hop is spoken to: TLS, and the login. What the configuration does not name is spoken to over TLS where it
//! offers that, without a login.

use std::{collections::HashMap, io, path::PathBuf, sync::Arc, time::Duration};

use linkmail_sasl::{Mechanism, Name};
use linkmail_service::tls::{ClientSettings, ClientTls, FileError, Mode, ReloadingIdentity, Roots};
use linkmail_smtp::ClientPhase;

use crate::names::{HostPort, Scheme};

/// How one host is spoken to.
pub struct Host {
    /// TLS; it keeps the sessions that later connections resume.
    pub tls: ClientTls,
    /// The login, if there is one.
    pub login: Option<Login>,
    /// The waits that are not those of RFC 5321 4.5.3.2.
    pub patience: Patience,
    /// The most connections to it at once, where a route names it; at least one.
    pub connections: usize,
}

/// How many connections there are to a host at once, unless the configuration says.
pub const CONNECTIONS: usize = 16;

/// Who the relay is to a host.
#[derive(Debug, Clone)]
pub struct Login {
    /// The name.
    pub user: Name,
    /// The file with the password, or the token for XOAUTH2: its first line. Read at each login, so that it may change.
    pub password_file: PathBuf,
    /// The mechanisms that may be used, as the server names them; the best of those that it offers is taken.
    pub mechanisms: Vec<Sasl>,
}

/// A mechanism that the relay logs in with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sasl {
    /// One of a password.
    Password(Mechanism),
    /// A bearer token, as some providers want (XOAUTH2).
    Token,
}

impl Sasl {
    /// All that are used unless the configuration says otherwise, the best first. CRAM-MD5 tells a listener enough to try
    /// passwords at leisure, and is used where asked for.
    pub const DEFAULT: [Self; 3] = [
        Self::Password(Mechanism::ScramSha256),
        Self::Password(Mechanism::Plain),
        Self::Password(Mechanism::Login),
    ];

    /// The registered name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Password(mechanism) => mechanism.as_str(),
            Self::Token => "XOAUTH2",
        }
    }

    /// Whether it hands the secret itself to the server, whoever that is: only to one that was verified.
    #[must_use]
    pub fn gives_secret(self) -> bool {
        match self {
            Self::Password(mechanism) => mechanism.needs_encryption(),
            Self::Token => true,
        }
    }

    /// Reads the registered name.
    ///
    /// # Errors
    /// A sentence for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("XOAUTH2") {
            return Ok(Self::Token);
        }
        text.parse().map(Self::Password).map_err(|_| {
            format!(
                "{text:?} is not a mechanism; expected SCRAM-SHA-256, CRAM-MD5, PLAIN, LOGIN or XOAUTH2"
            )
        })
    }
}

/// How long is waited for what, where that is not the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Patience {
    /// For the greeting, and for the answers to EHLO, STARTTLS and AUTH.
    pub hello: Option<Duration>,
    /// For the answers to MAIL, RCPT and RSET, to DATA, and for each block of a message to be taken.
    pub command: Option<Duration>,
    /// For the answer to the end of a message.
    pub data_end: Option<Duration>,
}

/// The wait for the answer to QUIT: nothing depends on it.
const GOODBYE: Duration = Duration::from_secs(5);

impl Patience {
    /// The wait of a phase (RFC 5321 4.5.3.2).
    #[must_use]
    pub fn of(&self, phase: ClientPhase) -> Duration {
        let said = match phase {
            ClientPhase::Quit => Some(GOODBYE),
            ClientPhase::Greeting
            | ClientPhase::Hello
            | ClientPhase::StartTls
            | ClientPhase::Auth => self.hello,
            ClientPhase::DataEnd => self.data_end,
            _ => self.command,
        };
        said.unwrap_or_else(|| phase.timeout())
    }
}

/// All hosts that the configuration names. Cheap to clone.
#[derive(Clone)]
pub struct Hosts {
    named: Arc<HashMap<HostPort, Arc<Host>>>,
    other: Arc<Host>,
    /// What is named `smtps://` and has no entry.
    implicit: Arc<Host>,
}

impl Hosts {
    /// Those that are named; all others are spoken to over TLS where they offer it, or where their URL says so.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(named: HashMap<HostPort, Arc<Host>>) -> io::Result<Self> {
        let implicit = ClientSettings::new(Mode::Implicit);
        // An image from scratch may have no roots of the system.
        let public = ClientSettings {
            roots: Some(Roots::Public),
            ..implicit.clone()
        };
        let implicit = ClientTls::new(&implicit).or_else(|_| ClientTls::new(&public));
        let other = ClientTls::new(&ClientSettings::new(Mode::Opportunistic));
        let host = |tls: Result<ClientTls, FileError>| {
            io::Result::Ok(Arc::new(Host {
                tls: tls.map_err(|error| io::Error::other(error.to_string()))?,
                login: None,
                patience: Patience::default(),
                connections: CONNECTIONS,
            }))
        };
        Ok(Self {
            named: Arc::new(named),
            other: host(other)?,
            implicit: host(implicit)?,
        })
    }

    /// How a host is spoken to.
    #[must_use]
    pub fn of(&self, host: &HostPort) -> Arc<Host> {
        let unnamed = match host.scheme {
            Scheme::Smtps => &self.implicit,
            Scheme::Smtp | Scheme::Lmtp => &self.other,
        };
        Arc::clone(self.named.get(host).unwrap_or(unnamed))
    }

    /// The certificates that hosts are shown, which change while the relay runs.
    pub fn identities(&self) -> impl Iterator<Item = &Arc<ReloadingIdentity>> {
        self.named.values().filter_map(|host| host.tls.identity())
    }
}

impl std::fmt::Debug for Hosts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.named.keys()).finish()
    }
}
