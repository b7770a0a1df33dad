//! The server side of an exchange: responses of a client in, steps for the shell out.
//!
//! One [`ServerExchange`] is one AUTH command. The shell does what a [`Step`] says, and answers: a challenge with
//! [`ServerExchange::respond`], a question for a credential with [`ServerExchange::look_up`]. A client that cancels
//! (`*`) is forgotten by dropping the exchange.
//!
//! A name that is not known goes the same way as one that is, with made-up keys ([`Decoy`]) and at the same cost, and
//! fails where a wrong password fails. The same holds for a name that lacks what the mechanism needs.
//!
//! Limits: the salt of a decoy changes with its secret. If the secret is drawn at each start, or iterations and length
//! of salt of stored keys differ from those of the decoy, then whoever asks again, or compares, can tell a name that is
//! there from one that is not.

mod cram_md5;
mod decoy;
mod password;
mod scram;
#[cfg(test)]
mod tests;

use thiserror::Error;

use crate::credential::Credential;
use crate::mechanism::Mechanism;
use crate::name::{Name, Password, PrepareError};
use crate::nonce::Nonce;
use crate::scram::{ClientFirst, MessageError};

pub use decoy::Decoy;

/// The longest response, in octets: what fits a line of 12288 octets in base64 (RFC 4954 4).
pub const MAX_RESPONSE: usize = 12288 / 4 * 3;

/// What an exchange needs of the outside.
#[derive(Debug)]
pub struct ServerSetup {
    /// Makes the exchange unique; see [`Nonce::from_random`].
    pub nonce: Nonce,
    /// The server's name, which the challenge of CRAM-MD5 shows.
    pub hostname: String,
    /// What stands in for credentials that are not there.
    pub decoy: Decoy,
}

/// What the shell is to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this as a challenge (`334`, base64), and give the response to [`ServerExchange::respond`].
    Challenge(Vec<u8>),
    /// Look the name up, and give what is there to [`ServerExchange::look_up`].
    NeedCredential {
        /// Whose credential; prepared, not yet authenticated.
        name: Name,
    },
    /// The client is who it says (`235`). The exchange is over.
    Accepted {
        /// The authenticated name, which is also the one to act for.
        name: Name,
    },
    /// The client is refused. The exchange is over.
    Failed(Failure),
}

/// Why a client is refused. For logs: the client itself is to hear no more than the code of the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Failure {
    /// A response longer than [`MAX_RESPONSE`].
    #[error("a response of more than 9216 octets")]
    TooLong,
    /// An initial response, though the server speaks first (CRAM-MD5).
    #[error("an initial response to a mechanism that has none")]
    InitialResponse,
    /// Not what the mechanism prescribes.
    #[error("a malformed response")]
    Malformed,
    /// What is given as a name is none.
    #[error("the name: {0}")]
    Name(PrepareError),
    /// What is given as a password can be nobody's.
    #[error("the password: {0}")]
    Password(PrepareError),
    /// SCRAM with channel binding, which is not offered.
    #[error("channel binding, which is not offered")]
    ChannelBinding,
    /// SCRAM with a mandatory extension, and none is known.
    #[error("a mandatory extension, and none is known")]
    Extension,
    /// The last message of SCRAM does not repeat nonce and header: it belongs to another exchange, or was changed.
    #[error("the response belongs to another exchange")]
    OtherExchange,
    /// The client wants to act for another name.
    #[error("an authorisation identity that differs from the name")]
    Authorization,
    /// The name is not known, has no credential for the mechanism, or the password is wrong.
    #[error("unknown name or wrong password")]
    Credentials,
    /// A defect of the shell: it answered what was not asked.
    #[error("an answer that was not asked for")]
    NotAsked,
}

impl Failure {
    /// Whether the client broke the protocol (`501 5.5.2`), rather than failed to prove who it is (`535 5.7.8`).
    pub fn is_malformed(self) -> bool {
        match self {
            Failure::TooLong
            | Failure::InitialResponse
            | Failure::Malformed
            | Failure::ChannelBinding
            | Failure::Extension
            | Failure::OtherExchange => true,
            Failure::Name(_)
            | Failure::Password(_)
            | Failure::Authorization
            | Failure::Credentials
            | Failure::NotAsked => false,
        }
    }
}

impl From<MessageError> for Failure {
    fn from(error: MessageError) -> Failure {
        match error {
            MessageError::Malformed | MessageError::Iterations => Failure::Malformed,
            MessageError::ChannelBinding => Failure::ChannelBinding,
            MessageError::Extension => Failure::Extension,
            MessageError::Name(error) => Failure::Name(error),
        }
    }
}

/// What the exchange waits for.
#[derive(Debug)]
enum State {
    /// The response of PLAIN.
    Plain,
    /// The name of LOGIN.
    LoginName,
    /// The password of LOGIN.
    LoginPassword(Name),
    /// The credential that a password is held against.
    PasswordLookUp(Name, Password),
    /// The response of CRAM-MD5 to this challenge.
    CramMd5(String),
    /// The credential that a response of CRAM-MD5 is held against.
    CramMd5LookUp(cram_md5::Answer),
    /// The first message of SCRAM.
    ScramFirst,
    /// The credential whose salt goes into the answer.
    ScramLookUp(ClientFirst),
    /// The last message of SCRAM.
    ScramFinal(Box<scram::Open>),
    /// The empty response to our signature, which RFC 4954 4 has us wait for.
    ScramEnd(Name),
    Over,
}

/// What is waited for next, and what the shell is to do for it.
type Turn = Result<(State, Step), Failure>;

/// The server side of one AUTH command. See the module for how it is driven.
#[derive(Debug)]
pub struct ServerExchange {
    setup: ServerSetup,
    state: State,
}

impl ServerExchange {
    /// Begins an exchange, with the response that came with the AUTH command, if one did (`=` is an empty one).
    pub fn start(
        mechanism: Mechanism,
        initial_response: Option<Vec<u8>>,
        setup: ServerSetup,
    ) -> (ServerExchange, Step) {
        let (state, challenge) = match mechanism {
            Mechanism::Plain => (State::Plain, String::new()),
            Mechanism::Login => (State::LoginName, password::LOGIN_NAME.to_owned()),
            Mechanism::ScramSha256 => (State::ScramFirst, String::new()),
            Mechanism::CramMd5 => {
                let challenge = cram_md5::challenge(&setup);
                (State::CramMd5(challenge.clone()), challenge)
            }
        };
        let mut exchange = ServerExchange { setup, state };
        let step = match initial_response {
            None => Step::Challenge(challenge.into_bytes()),
            Some(_) if mechanism == Mechanism::CramMd5 => {
                exchange.take_turn(|_, _| Err(Failure::InitialResponse))
            }
            Some(response) => exchange.respond(&response),
        };
        (exchange, step)
    }

    /// Takes the response to the last challenge.
    pub fn respond(&mut self, response: &[u8]) -> Step {
        self.take_turn(|state, _| {
            if response.len() > MAX_RESPONSE {
                return Err(Failure::TooLong);
            }
            match state {
                State::Plain => password::plain(response),
                State::LoginName => password::login_name(response),
                State::LoginPassword(name) => password::login_password(name, response),
                State::CramMd5(challenge) => cram_md5::respond(challenge, response),
                State::ScramFirst => scram::first(response),
                State::ScramFinal(open) => open.last(response),
                State::ScramEnd(name) => scram::end(name, response),
                State::PasswordLookUp(..)
                | State::CramMd5LookUp(_)
                | State::ScramLookUp(_)
                | State::Over => Err(Failure::NotAsked),
            }
        })
    }

    /// Takes what is stored for the name that was asked for; none if nothing is.
    ///
    /// With PLAIN and LOGIN this takes one PBKDF2, some milliseconds of computing.
    pub fn look_up(&mut self, credential: Option<Credential>) -> Step {
        self.take_turn(|state, setup| {
            let credential = credential.unwrap_or_default();
            match state {
                State::PasswordLookUp(name, password) => {
                    password::check(name, &password, credential.scram, &setup.decoy)
                }
                State::CramMd5LookUp(answer) => answer.check(credential.cram_md5, &setup.decoy),
                State::ScramLookUp(first) => scram::challenge(first, credential.scram, setup),
                _ => Err(Failure::NotAsked),
            }
        })
    }

    fn take_turn(&mut self, turn: impl FnOnce(State, &ServerSetup) -> Turn) -> Step {
        let state = std::mem::replace(&mut self.state, State::Over);
        match turn(state, &self.setup) {
            Ok((state, step)) => {
                self.state = state;
                step
            }
            Err(failure) => Step::Failed(failure),
        }
    }
}

/// Asks for a credential.
fn ask(name: &Name, state: State) -> Turn {
    let name = name.clone();
    Ok((state, Step::NeedCredential { name }))
}

/// Ends the exchange: the client is who it says, or it is not.
fn decide(name: Name, proven: bool) -> Turn {
    if proven {
        Ok((State::Over, Step::Accepted { name }))
    } else {
        Err(Failure::Credentials)
    }
}
