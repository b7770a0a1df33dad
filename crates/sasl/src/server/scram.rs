//! SCRAM-SHA-256 (RFC 5802, RFC 7677): the client proves that it knows the password, and we that we know its keys.

use crate::credential::ScramKeys;
use crate::keyed::{equal, hmac_sha256, sha256, xor};
use crate::name::Name;
use crate::scram::{ClientFinal, ClientFirst, ServerFinal, ServerFirst, auth_message};

use super::{Failure, ServerSetup, State, Step, Turn, ask, decide};

/// An exchange whose salt was sent.
#[derive(Debug)]
pub(super) struct Open {
    first: ClientFirst,
    server_first: ServerFirst,
    keys: ScramKeys,
    is_known: bool,
}

pub(super) fn first(response: &[u8]) -> Turn {
    let first = ClientFirst::parse(text(response)?)?;
    if first
        .authorization
        .as_ref()
        .is_some_and(|name| *name != first.name)
    {
        return Err(Failure::Authorization);
    }
    ask(&first.name.clone(), State::ScramLookUp(first))
}

/// Sends the salt: that of the name, or that of a decoy.
pub(super) fn challenge(first: ClientFirst, keys: Option<ScramKeys>, setup: &ServerSetup) -> Turn {
    let made_up = setup.decoy.scram_keys(&first.name);
    let is_known = keys.is_some();
    let keys = keys.unwrap_or(made_up);
    let nonce = format!("{}{}", first.nonce, setup.nonce);
    let server_first = ServerFirst::new(nonce, &keys.salt, keys.iterations);
    let challenge = Step::Challenge(server_first.text.clone().into_bytes());
    let open = Open {
        first,
        server_first,
        keys,
        is_known,
    };
    Ok((State::ScramFinal(Box::new(open)), challenge))
}

impl Open {
    /// Holds the proof against the keys, and signs.
    pub(super) fn last(self, response: &[u8]) -> Turn {
        let last = ClientFinal::parse(text(response)?)?;
        let is_ours = equal(&last.header, self.first.header.as_bytes())
            & equal(last.nonce.as_bytes(), self.server_first.nonce.as_bytes());
        if !bool::from(is_ours) {
            return Err(Failure::OtherExchange);
        }
        let message = auth_message(
            &self.first.bare,
            &self.server_first.text,
            &last.without_proof,
        );
        let client_signature = hmac_sha256(&self.keys.stored_key, message.as_bytes());
        let client_key = xor(last.proof, client_signature);
        let is_right = bool::from(equal(&sha256(&client_key), &self.keys.stored_key));
        let signature = hmac_sha256(&self.keys.server_key, message.as_bytes());
        if !(is_right & self.is_known) {
            return Err(Failure::Credentials);
        }
        let challenge = Step::Challenge(ServerFinal::write(signature).into_bytes());
        Ok((State::ScramEnd(self.first.name), challenge))
    }
}

/// The client has seen our signature, and goes on: it is content.
pub(super) fn end(name: Name, response: &[u8]) -> Turn {
    if response.is_empty() {
        decide(name, true)
    } else {
        Err(Failure::Malformed)
    }
}

fn text(response: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(response).map_err(|_| Failure::Malformed)
}
