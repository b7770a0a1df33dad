//! From the greeting to the first order: EHLO, STARTTLS and AUTH.
//!
//! What TLS and SASL need beside SMTP is the shell's: it makes the handshake when [`ClientStep::StartTls`] says so, and
//! names a mechanism and answers challenges when [`ClientStep::Authenticate`] and [`ClientStep::AuthChallenge`] ask.
//! Octets that came in clear behind the answer to STARTTLS are an injection and end the session, whenever they come before
//! the handshake has begun; what the server offered before TLS is forgotten (RFC 3207 4.2, 6). Where TLS is required,
//! nothing but EHLO and STARTTLS is ever said in clear.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use crate::ehlo::Capabilities;
use crate::reply::{Reply, Severity};

use super::{Awaited, ClientSession, ClientStep, CloseReason, FlightLimits};

/// Which protocol is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// SMTP (RFC 5321).
    #[default]
    Smtp,
    /// LMTP (RFC 2033): LHLO, and a reply for each recipient behind the content.
    Lmtp,
}

/// How TLS is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsUse {
    /// Not at all.
    #[default]
    Never,
    /// If STARTTLS is offered (RFC 7435).
    IfOffered,
    /// STARTTLS has to be offered and to succeed.
    Required,
    /// The connection is encrypted already (RFC 8314 3.3).
    Active,
}

/// What a session is told when it is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientConfig {
    /// What it calls itself in EHLO.
    pub hostname: String,
    /// Which protocol it speaks.
    pub protocol: Protocol,
    /// How it uses TLS.
    pub tls: TlsUse,
    /// Whether it authenticates itself; the session ends if that is not possible.
    pub authenticate: bool,
    /// How much may be under way at once.
    pub flight: FlightLimits,
}

/// The longest AUTH command with its CRLF (RFC 5321 4.5.3.1.4, RFC 4954 4).
const MAX_AUTH_COMMAND: usize = 512;

/// Where the session stands before its first order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// A reply is awaited.
    Talking,
    /// The shell makes the TLS handshake.
    Handshake,
    /// The shell names a mechanism, or answers a challenge.
    Login,
    Ready,
}

#[derive(Debug)]
pub(super) struct Stage {
    at: At,
    encrypted: bool,
    /// STARTTLS was refused and need not succeed.
    tls_given_up: bool,
    authenticated: bool,
    /// An initial response that was too long for the command: it answers the empty challenge.
    held_back: Option<Vec<u8>>,
}

impl Stage {
    pub(super) fn new(config: &ClientConfig) -> Stage {
        Stage {
            at: At::Talking,
            encrypted: config.tls == TlsUse::Active,
            tls_given_up: false,
            authenticated: false,
            held_back: None,
        }
    }
}

impl ClientSession {
    /// The TLS handshake that [`ClientStep::StartTls`] asked for was made: everything known in clear is forgotten. Octets that
    /// were received between the two end the session.
    pub fn tls_started(&mut self) {
        if self.hello.at != At::Handshake || self.ended_by_injection() {
            return;
        }
        self.hello.encrypted = true;
        self.capabilities = None;
        self.say_hello();
    }

    /// Authenticates by `mechanism`, after [`ClientStep::Authenticate`]; `initial` is its initial response, not encoded. One
    /// that makes the command longer than 512 octets goes as the answer to an empty challenge (RFC 4954 4).
    pub fn auth(&mut self, mechanism: &str, initial: Option<&[u8]>) {
        if self.hello.at != At::Login {
            return;
        }
        let mut line = format!("AUTH {mechanism}");
        match initial {
            None => {}
            // RFC 4954 4: an empty initial response is a single equals sign.
            Some([]) => line.push_str(" ="),
            Some(octets) => {
                line.push(' ');
                BASE64.encode_string(octets, &mut line);
                if line.len() + 2 > MAX_AUTH_COMMAND {
                    line = format!("AUTH {mechanism}");
                    self.hello.held_back = Some(octets.to_vec());
                }
            }
        }
        self.secret(&line);
    }

    /// Answers [`ClientStep::AuthChallenge`].
    pub fn auth_response(&mut self, response: &[u8]) {
        if self.hello.at == At::Login {
            let line = BASE64.encode(response);
            self.secret(&line);
        }
    }

    /// Whether the connection is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.hello.encrypted
    }

    /// Ends the session if octets came in clear that the handshake is not about, be it a part of a line; says whether it is
    /// over. They would be read as the head of the first answer under TLS (RFC 3207 6).
    pub(super) fn ended_by_injection(&mut self) -> bool {
        if self.closed.is_none() && self.hello.at == At::Handshake && self.input.has_unread() {
            let what = "octets in clear behind the answer to STARTTLS".to_owned();
            self.die(CloseReason::Protocol(what));
        }
        self.closed.is_some()
    }

    /// Whether the server knows who we are, by AUTH.
    pub(super) fn is_authenticated(&self) -> bool {
        self.hello.authenticated
    }

    /// Whether orders are carried out.
    pub(super) fn is_ready(&self) -> bool {
        self.hello.at == At::Ready
    }

    pub(super) fn hello_step(&self) -> Option<ClientStep> {
        match self.hello.at {
            At::Handshake => Some(ClientStep::StartTls),
            At::Login => Some(ClientStep::Authenticate),
            At::Talking | At::Ready => None,
        }
    }

    fn secret(&mut self, line: &str) {
        self.hello.at = At::Talking;
        self.output_is_secret = true;
        self.command(line.as_bytes(), Awaited::Auth);
    }

    fn say_hello(&mut self) {
        let verb = match self.config.protocol {
            Protocol::Smtp => "EHLO",
            Protocol::Lmtp => "LHLO",
        };
        let line = format!("{verb} {}", self.config.hostname);
        self.hello.at = At::Talking;
        self.command(line.as_bytes(), Awaited::Ehlo);
    }

    pub(super) fn greeted(&mut self, reply: Reply) {
        let is_welcome = reply.code == 220;
        self.greeting = Some(reply.clone());
        if is_welcome {
            self.say_hello();
        } else {
            self.die(CloseReason::Refused(reply));
        }
    }

    pub(super) fn answer_to_ehlo(&mut self, reply: Reply) {
        match reply.severity() {
            Severity::Positive => {
                self.capabilities = Some(Capabilities::from_reply(&reply));
                self.introduce();
            }
            Severity::Permanent if self.needs_tls() => {
                let why = format!("STARTTLS is required, and EHLO was refused: {reply}");
                self.die(CloseReason::NotEncrypted(why));
            }
            Severity::Permanent if self.config.protocol == Protocol::Smtp => {
                let line = format!("HELO {}", self.config.hostname);
                self.command(line.as_bytes(), Awaited::Helo);
            }
            _ => self.die(CloseReason::Refused(reply)),
        }
    }

    pub(super) fn answer_to_helo(&mut self, reply: Reply) {
        if reply.is_positive() {
            self.capabilities = Some(Capabilities::default());
            self.introduce();
        } else {
            self.die(CloseReason::Refused(reply));
        }
    }

    fn needs_tls(&self) -> bool {
        self.config.tls == TlsUse::Required && !self.hello.encrypted
    }

    /// What has to be done before the first order, one thing at a time.
    fn introduce(&mut self) {
        let offered = self.capabilities.as_ref();
        if !self.hello.encrypted && !self.hello.tls_given_up {
            let has_tls = offered.is_some_and(|offered| offered.starttls);
            match (self.config.tls, has_tls) {
                (TlsUse::IfOffered | TlsUse::Required, true) => {
                    return self.command(b"STARTTLS", Awaited::StartTls);
                }
                (TlsUse::Required, false) => {
                    let why = "STARTTLS is required and not offered".to_owned();
                    return self.die(CloseReason::NotEncrypted(why));
                }
                (TlsUse::Never | TlsUse::IfOffered | TlsUse::Active, _) => {}
            }
        }
        self.hello.at = if self.config.authenticate && !self.hello.authenticated {
            At::Login
        } else {
            At::Ready
        };
    }

    pub(super) fn answer_to_starttls(&mut self, reply: Reply) {
        if reply.code == 220 {
            self.hello.at = At::Handshake;
        } else if self.config.tls == TlsUse::Required {
            let why = format!("STARTTLS is required and was refused: {reply}");
            self.die(CloseReason::NotEncrypted(why));
        } else if reply.code != 421 {
            self.hello.tls_given_up = true;
            self.introduce();
        }
    }

    pub(super) fn answer_to_auth(&mut self, reply: Reply) {
        match reply.severity() {
            Severity::Positive => {
                self.hello.authenticated = true;
                self.steps.push_back(ClientStep::Authenticated);
                self.introduce();
            }
            Severity::Intermediate => {
                let text = reply.lines.first().map_or(&b""[..], Vec::as_slice);
                match (
                    BASE64.decode(text.trim_ascii()),
                    self.hello.held_back.take(),
                ) {
                    (Ok(challenge), Some(initial)) if challenge.is_empty() => {
                        self.secret(&BASE64.encode(initial));
                    }
                    (Ok(_), Some(_)) => {
                        self.protocol_error("a challenge where the client begins", &reply);
                    }
                    (Ok(challenge), None) => {
                        self.hello.at = At::Login;
                        self.steps.push_back(ClientStep::AuthChallenge(challenge));
                    }
                    (Err(_), _) => self.protocol_error("a challenge that is not base64", &reply),
                }
            }
            Severity::Transient | Severity::Permanent => self.die(CloseReason::LoginRefused(reply)),
        }
    }
}
