//! The client side of an exchange: challenges of a server in, responses out.
//!
//! The caller sends [`ClientExchange::initial_response`] with the AUTH command, answers each challenge with
//! [`ClientExchange::respond`], and after `235` asks [`ClientExchange::finish`] whether the server has proven itself,
//! too. After an error the exchange is given up: the caller cancels it (`*`).
//!
//! Limits: SCRAM-SHA-256 and CRAM-MD5. PLAIN and LOGIN need no state, and are made elsewhere.

use thiserror::Error;

use crate::credential::SaltedPassword;
use crate::keyed::{Sha256Bytes, equal, hmac_md5, hmac_sha256, sha256, xor};
use crate::mechanism::Mechanism;
use crate::name::{Name, Password};
use crate::nonce::Nonce;
use crate::scram::{
    ClientFinal, ClientFirst, MessageError, ServerFinal, ServerFirst, auth_message,
};

/// The longest challenge, in octets: what fits a line of 12288 octets in base64 (RFC 4954 4).
pub const MAX_CHALLENGE: usize = 12288 / 4 * 3;

/// Why an exchange cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClientError {
    /// A challenge longer than [`MAX_CHALLENGE`].
    #[error("the server sent a challenge of more than 9216 octets")]
    TooLong,
    /// Not what the mechanism prescribes.
    #[error("the server sent a malformed challenge")]
    Malformed,
    /// SCRAM with a mandatory extension, and none is known.
    #[error("the server requires a SCRAM extension, and none is known")]
    Extension,
    /// SCRAM with so few iterations that the password could be guessed from the exchange, or so many that they would
    /// keep us busy for seconds.
    #[error("the server asks for a count of iterations that is not 4096 (RFC 7677) to 2000000")]
    Iterations,
    /// SCRAM: the nonce of the server does not continue ours, so the answer belongs to another exchange.
    #[error("the server answered to another exchange: its nonce does not continue ours")]
    Nonce,
    /// SCRAM: the server refuses, with a word of RFC 5802 7.
    #[error("the server refused the login: {0}")]
    Refused(String),
    /// SCRAM: the signature is not that of a server that has keys of our password.
    #[error("the server could not prove that it knows us: somebody else may be answering")]
    Signature,
    /// SCRAM: the server accepted before it proved itself.
    #[error(
        "the server accepted the login without proving that it knows us: somebody else may be answering"
    )]
    Unproven,
    /// The server accepted before we answered, went on after the end, or the exchange was given up before.
    #[error("the server went on in an order that the mechanism does not have")]
    Order,
}

impl From<MessageError> for ClientError {
    fn from(error: MessageError) -> ClientError {
        match error {
            MessageError::Malformed | MessageError::ChannelBinding | MessageError::Name(_) => {
                ClientError::Malformed
            }
            MessageError::Extension => ClientError::Extension,
            MessageError::Iterations => ClientError::Iterations,
        }
    }
}

/// What the exchange waits for.
#[derive(Debug)]
enum State {
    /// To be asked for the first message of SCRAM, for the AUTH command or by an empty challenge.
    ScramStart(ClientFirst),
    /// Salt and iterations.
    ScramFirst(ClientFirst),
    /// The signature of the server, which must be this one.
    ScramFinal(Sha256Bytes),
    /// The challenge of CRAM-MD5.
    CramMd5(Name),
    /// `235`.
    Done,
    /// Nothing: it was given up.
    Failed,
}

/// The client side of one AUTH command. See the module for how it is driven.
#[derive(Debug)]
pub struct ClientExchange {
    mechanism: Mechanism,
    password: Password,
    state: State,
}

impl ClientExchange {
    /// An exchange by SCRAM-SHA-256. The nonce is used for this one alone; see [`Nonce::from_random`].
    pub fn scram_sha_256(name: Name, password: Password, nonce: &Nonce) -> ClientExchange {
        ClientExchange {
            mechanism: Mechanism::ScramSha256,
            password,
            state: State::ScramStart(ClientFirst::new(name, nonce)),
        }
    }

    /// An exchange by CRAM-MD5.
    pub fn cram_md5(name: Name, password: Password) -> ClientExchange {
        ClientExchange {
            mechanism: Mechanism::CramMd5,
            password,
            state: State::CramMd5(name),
        }
    }

    /// What to write behind AUTH.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// What to send with the AUTH command; none if the server speaks first.
    ///
    /// The command with it must fit 512 octets (RFC 4954 4). A caller that finds it too long sends AUTH alone, and
    /// gives the empty challenge that comes to [`ClientExchange::respond`], which answers with the same bytes.
    pub fn initial_response(&self) -> Option<Vec<u8>> {
        match &self.state {
            State::ScramStart(first) => Some(first.text().into_bytes()),
            _ => None,
        }
    }

    /// The response to a challenge. With SCRAM one of them takes a PBKDF2 with as many iterations as the server names.
    ///
    /// Errors: [`ClientError`]; after one every further challenge is an error, too.
    pub fn respond(&mut self, challenge: &[u8]) -> Result<Vec<u8>, ClientError> {
        if challenge.len() > MAX_CHALLENGE {
            self.state = State::Failed;
            return Err(ClientError::TooLong);
        }
        let text = std::str::from_utf8(challenge).map_err(|_| ClientError::Malformed);
        let (state, response) = match std::mem::replace(&mut self.state, State::Failed) {
            State::ScramStart(first) if challenge.is_empty() => {
                let response = first.text();
                (State::ScramFirst(first), response)
            }
            State::ScramStart(first) | State::ScramFirst(first) => {
                scram_final(&first, text?, &self.password)?
            }
            State::ScramFinal(signature) => match ServerFinal::parse(text?)? {
                ServerFinal::Signature(theirs) if equal(&theirs, &signature).into() => {
                    (State::Done, String::new())
                }
                ServerFinal::Signature(_) => return Err(ClientError::Signature),
                ServerFinal::Error(error) => return Err(ClientError::Refused(error)),
            },
            State::CramMd5(name) => {
                let digest = hmac_md5(self.password.as_bytes(), challenge);
                let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                (State::Done, format!("{name} {digits}"))
            }
            State::Done | State::Failed => return Err(ClientError::Order),
        };
        self.state = state;
        Ok(response.into_bytes())
    }

    /// Whether `235` may be believed: the exchange has run to its end, and with SCRAM the server has proven itself.
    pub fn finish(self) -> Result<(), ClientError> {
        match self.state {
            State::Done => Ok(()),
            State::ScramStart(_) | State::ScramFirst(_) | State::ScramFinal(_) => {
                Err(ClientError::Unproven)
            }
            State::CramMd5(_) | State::Failed => Err(ClientError::Order),
        }
    }
}

/// Proves that we know the password, and computes what the server must sign.
fn scram_final(
    first: &ClientFirst,
    challenge: &str,
    password: &Password,
) -> Result<(State, String), ClientError> {
    let answer = ServerFirst::parse(challenge)?;
    match answer.nonce.strip_prefix(&first.nonce) {
        Some(theirs) if !theirs.is_empty() => {}
        _ => return Err(ClientError::Nonce),
    }
    let salted = SaltedPassword::derive(password, &answer.salt, answer.iterations);
    let without_proof = ClientFinal::without_proof(&first.header, &answer.nonce);
    let message = auth_message(&first.bare, &answer.text, &without_proof);
    let client_key = salted.client_key();
    let client_signature = hmac_sha256(&sha256(&client_key), message.as_bytes());
    let signature = hmac_sha256(&salted.server_key(), message.as_bytes());
    let response = ClientFinal::write(&without_proof, xor(client_key, client_signature));
    Ok((State::ScramFinal(signature), response))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677 3.
    const FIRST: &[u8] =
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const LAST: &[u8] = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn scram() -> ClientExchange {
        ClientExchange::scram_sha_256(
            Name::parse("user").unwrap(),
            Password::parse("pencil").unwrap(),
            &"rOprNGfwEbeRWgbNEkqO".parse().unwrap(),
        )
    }

    fn cram_md5() -> ClientExchange {
        ClientExchange::cram_md5(
            Name::parse("tim").unwrap(),
            Password::parse("tanstaaftanstaaf").unwrap(),
        )
    }

    #[test]
    fn scram_is_that_of_rfc_7677() {
        for with_auth in [true, false] {
            let mut exchange = scram();
            let initial = exchange.initial_response().unwrap();
            assert_eq!(initial, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
            if !with_auth {
                assert_eq!(exchange.respond(b""), Ok(initial));
                assert_eq!(exchange.initial_response(), None);
            }
            assert_eq!(
                String::from_utf8(exchange.respond(FIRST).unwrap()).unwrap(),
                "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                 p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
            );
            assert_eq!(exchange.respond(LAST), Ok(vec![]));
            assert_eq!(exchange.finish(), Ok(()));
        }
    }

    #[test]
    fn cram_md5_is_that_of_rfc_2195() {
        let mut exchange = cram_md5();
        assert_eq!(exchange.initial_response(), None);
        assert_eq!(
            exchange.respond(b"<1896.697170952@postoffice.reston.mci.net>"),
            Ok(b"tim b913a602c7eda7a495b4e6e7334d3890".to_vec())
        );
        assert_eq!(exchange.respond(b"<again>"), Err(ClientError::Order));
        assert_eq!(cram_md5().finish(), Err(ClientError::Order));
    }

    #[test]
    fn a_server_that_does_not_keep_to_scram_is_not_believed() {
        let long = vec![b'x'; MAX_CHALLENGE + 1];
        let refused = ClientError::Refused("invalid-proof".to_owned());
        for (challenges, error) in [
            (vec![], ClientError::Unproven),
            (vec![FIRST], ClientError::Unproven),
            (vec![b"", FIRST], ClientError::Unproven),
            (vec![b"", b""], ClientError::Malformed),
            (vec![long.as_slice()], ClientError::TooLong),
            (vec![b"\xff"], ClientError::Malformed),
            (
                vec![b"r=rOprNGfwEbeRWgbNEkqO,s=AAAA,i=4096"],
                ClientError::Nonce,
            ),
            (
                vec![b"r=hvYDpWUa2RaTCAfuxFIlj,s=AAAA,i=4096"],
                ClientError::Nonce,
            ),
            (
                vec![b"r=rOprNGfwEbeRWgbNEkqO%,s=AAAA,i=1"],
                ClientError::Iterations,
            ),
            (
                vec![b"m=x,r=rOprNGfwEbeRWgbNEkqO%,s=AAAA,i=4096"],
                ClientError::Extension,
            ),
            (vec![FIRST, b""], ClientError::Malformed),
            (vec![FIRST, b"e=invalid-proof"], refused),
            (
                vec![FIRST, b"v=AAAATRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="],
                ClientError::Signature,
            ),
            (vec![FIRST, LAST, b""], ClientError::Order),
        ] {
            let mut exchange = scram();
            let mut results = challenges
                .iter()
                .map(|challenge| exchange.respond(challenge));
            let failed = results.find_map(Result::err);
            if failed.is_some() {
                assert_eq!(exchange.respond(LAST), Err(ClientError::Order));
            }
            assert_eq!(failed.or_else(|| exchange.finish().err()), Some(error));
        }
    }

    #[test]
    fn the_password_is_not_shown() {
        assert!(!format!("{:?}", cram_md5()).contains("tanstaaf"));
    }
}
