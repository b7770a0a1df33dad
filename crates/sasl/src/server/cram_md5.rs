//! CRAM-MD5 (RFC 2195): a name, and the HMAC of our challenge under the secret that is stored in clear.

use crate::keyed::{equal, hmac_md5};
use crate::name::{Name, Password};

use super::{Decoy, Failure, ServerSetup, State, Turn, ask, decide};

/// What the client answered to our challenge.
#[derive(Debug)]
pub(super) struct Answer {
    challenge: String,
    name: Name,
    digest: [u8; 16],
}

/// The form of a message identifier, as RFC 2195 2 has it; what makes it unique is the nonce.
pub(super) fn challenge(setup: &ServerSetup) -> String {
    format!("<{}@{}>", setup.nonce, setup.hostname)
}

/// `name SP digest`; names may have spaces, the digest has none.
pub(super) fn respond(challenge: String, response: &[u8]) -> Turn {
    let space = response.iter().rposition(|&byte| byte == b' ');
    let (name, digest) = response.split_at(space.ok_or(Failure::Malformed)?);
    let answer = Answer {
        challenge,
        digest: read_digest(&digest[1..]).ok_or(Failure::Malformed)?,
        name: Name::from_bytes(name).map_err(Failure::Name)?,
    };
    ask(&answer.name.clone(), State::CramMd5LookUp(answer))
}

impl Answer {
    /// Holds the digest against the secret. Without one the same is computed with that of a decoy.
    pub(super) fn check(self, secret: Option<Password>, decoy: &Decoy) -> Turn {
        let made_up = decoy.clear_secret(&self.name);
        let key = secret
            .as_ref()
            .map_or(made_up.as_slice(), Password::as_bytes);
        let is_right = bool::from(equal(
            &hmac_md5(key, self.challenge.as_bytes()),
            &self.digest,
        ));
        decide(self.name, is_right & secret.is_some())
    }
}

/// 32 lower-case hexadecimal digits (RFC 2195 2).
fn read_digest(text: &[u8]) -> Option<[u8; 16]> {
    let nibble = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(nibble(*high)? << 4 | nibble(*low)?),
            _ => None,
        })
        .collect();
    bytes?.try_into().ok()
}
