//! PLAIN and LOGIN: the password itself comes, and is held against the keys of SCRAM.

use crate::credential::ScramKeys;
use crate::name::{Name, Password};

use super::{Decoy, Failure, State, Step, Turn, ask, decide};

/// The challenges of LOGIN as servers in the field send them; some clients look for these very words.
pub(super) const LOGIN_NAME: &str = "Username:";
const LOGIN_PASSWORD: &str = "Password:";

/// `[authzid] NUL authcid NUL passwd` (RFC 4616 2).
pub(super) fn plain(response: &[u8]) -> Turn {
    let parts: Vec<&[u8]> = response.split(|&byte| byte == 0).collect();
    let [authorization, name, password] = parts[..] else {
        return Err(Failure::Malformed);
    };
    let name = Name::from_bytes(name).map_err(Failure::Name)?;
    if !authorization.is_empty() {
        let acting_for = Name::from_bytes(authorization).map_err(Failure::Name)?;
        if acting_for != name {
            return Err(Failure::Authorization);
        }
    }
    login_password(name, password)
}

pub(super) fn login_name(response: &[u8]) -> Turn {
    let name = Name::from_bytes(response).map_err(Failure::Name)?;
    let challenge = Step::Challenge(LOGIN_PASSWORD.into());
    Ok((State::LoginPassword(name), challenge))
}

pub(super) fn login_password(name: Name, response: &[u8]) -> Turn {
    let password = Password::from_bytes(response).map_err(Failure::Password)?;
    ask(&name.clone(), State::PasswordLookUp(name, password))
}

/// Holds the password against the keys. Without keys the same is computed with those of a decoy.
pub(super) fn check(
    name: Name,
    password: &Password,
    keys: Option<ScramKeys>,
    decoy: &Decoy,
) -> Turn {
    let is_known = keys.is_some();
    let keys = keys.unwrap_or_else(|| decoy.scram_keys(&name));
    let is_right = keys.verify(password);
    decide(name, is_right & is_known)
}
