//! What a server session is configured with.

/// Switches and limits of a session. Everything that has a switch is off by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// The name in the greeting and in the answer to EHLO.
    pub hostname: String,
    /// The largest message that is accepted, in octets before dot-stuffing; advertised as SIZE. 25 million.
    pub size_limit: u64,
    /// The most recipients of one message; RFC 5321 4.5.3.1.8 asks for at least 100. 1000.
    pub max_recipients: usize,
    /// LMTP instead of SMTP (RFC 2033): LHLO, and one reply for each recipient after the message.
    pub lmtp: bool,
    /// Whether ETRN is offered (RFC 1985).
    pub etrn: bool,
    /// Whether CHUNKING is offered (RFC 3030).
    pub chunking: bool,
    /// Whether DSN is offered (RFC 3461). On only where the parameters are stored and passed on.
    pub dsn: bool,
    /// Whether SMTPUTF8 is offered (RFC 6531). On only where such envelopes are stored and passed on.
    pub smtputf8: bool,
    /// Whether MT-PRIORITY is offered (RFC 6710). On only where the queue acts on it, and the shell says in its answer to
    /// MAIL what becomes of a priority that a client may not have: [`crate::replies::priority_changed`].
    pub mt_priority: bool,
    /// Whether DELIVERBY is offered (RFC 2852), and the least time, in seconds, that is taken for a message which is to be
    /// returned when late; 0 for none. On only where the queue acts on it.
    pub deliver_by: Option<u32>,
    /// Whether XLINKMAIL is offered to every client; see [`super::ServerSession::trust_peer`] for one that has proved
    /// itself.
    pub xlinkmail: bool,
    /// Whether XLINKMAIL is for every client that authenticates itself, and is offered with that condition where AUTH is.
    pub xlinkmail_by_login: bool,
    /// Whether STARTTLS is offered (RFC 3207). The shell must be able to do [`super::ServerStep::StartTls`].
    pub starttls: bool,
    /// Whether mail and ETRN are taken under TLS only.
    pub require_tls: bool,
    /// The mechanisms of AUTH that are offered without TLS, in upper case and in order of preference (RFC 4954).
    pub auth_in_clear: Vec<String>,
    /// The mechanisms of AUTH that are offered under TLS.
    pub auth_in_tls: Vec<String>,
    /// Whether mail and ETRN are taken from authenticated clients only.
    pub require_auth: bool,
    /// So many credentials may be wrong in one session; one more ends it. 3.
    pub max_auth_failures: usize,
    /// So many MAIL commands are taken in one session; one more ends it.
    pub max_messages: Option<usize>,
    /// Whether LIMITS is offered, which tells `max_messages` and `max_recipients` to the client (RFC 9422).
    pub limits: bool,
    /// So many commands may come without a message that is taken; one more ends the session. Accepted recipients and
    /// chunks do not count. 1000.
    pub max_idle_commands: usize,
    /// Whether a client is turned away that pipelines before that was offered to it, or behind a command that ends its
    /// group (RFC 2920 3.1).
    pub strict_pipelining: bool,
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            hostname: "localhost".to_owned(),
            size_limit: 25_000_000,
            max_recipients: 1000,
            lmtp: false,
            etrn: false,
            chunking: false,
            dsn: false,
            smtputf8: false,
            mt_priority: false,
            deliver_by: None,
            xlinkmail: false,
            xlinkmail_by_login: false,
            starttls: false,
            require_tls: false,
            auth_in_clear: Vec::new(),
            auth_in_tls: Vec::new(),
            require_auth: false,
            max_auth_failures: 3,
            max_messages: None,
            limits: false,
            max_idle_commands: 1000,
            strict_pipelining: false,
        }
    }
}
