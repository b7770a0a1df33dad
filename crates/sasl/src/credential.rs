//! What is stored for a name.
//!
//! The keys of SCRAM-SHA-256 serve SCRAM, PLAIN and LOGIN. No password can be read from them, and whoever steals them
//! cannot log in with them, but he can try passwords: one try costs him one PBKDF2. CRAM-MD5 works with nothing but the
//! password in clear; a credential has it only where it was asked for.

use std::fmt;
use std::num::NonZeroU32;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use thiserror::Error;

use crate::keyed::{self, SHA256_LEN, Sha256Bytes};
use crate::name::{Password, PrepareError};

/// What stands before the keys in the stored form, the scheme name of RFC 5803 and PostgreSQL.
pub(crate) const SCRAM_SCHEME: &str = "SCRAM-SHA-256$";
/// What stands before the clear secret in the stored form.
pub(crate) const CRAM_SCHEME: &str = "CRAM-MD5$";

/// A salt has no fewer octets than this.
pub const MIN_SALT: usize = 8;
/// A salt has no more octets than this.
pub const MAX_SALT: usize = 64;
/// The octets of a salt that is made here, and of the salt of a decoy.
pub const SALT_LEN: usize = 16;

/// Why something is no credential. The text itself is not repeated: it may hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CredentialError {
    /// Not the form of the keys.
    #[error(
        "malformed; right is SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>, \
         salt and keys in base64"
    )]
    Form,
    /// The count of iterations is out of bounds.
    #[error("iterations must be 4096 (RFC 7677) to 2000000")]
    Iterations,
    /// The salt is too short or too long.
    #[error("the salt must have 8 to 64 octets")]
    Salt,
    /// A key is no SHA-256 hash.
    #[error("StoredKey and ServerKey must have 32 octets each")]
    Key,
    /// What follows `CRAM-MD5$` is not base64.
    #[error("malformed; right is CRAM-MD5$<secret>, the secret in base64")]
    SecretForm,
    /// The clear secret is no password.
    #[error("the secret: {0}")]
    Secret(PrepareError),
}

/// How often PBKDF2 turns a password over before it is a key: 4096 (RFC 7677 4) to 2,000,000.
///
/// The count is what a try costs to a thief of the keys, and what each login by PLAIN or LOGIN costs this server. With
/// SCRAM the client pays. [`Iterations::DEFAULT`] took 2 to 3 ms of an AMD EPYC core in an optimised build;
/// 600,000, which OWASP asks of web logins, 90 ms, so that a dozen strangers a second would keep a core busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Iterations(NonZeroU32);

impl Iterations {
    /// The least (RFC 7677 4).
    pub const MIN: u32 = 4096;
    /// The most. A stored line or a foreign server that names more would keep us busy for seconds.
    pub const MAX: u32 = 2_000_000;
    /// 15,000: the rule of thumb of RFC 7677 4, where no handset has to keep up.
    pub const DEFAULT: Iterations = Iterations(NonZeroU32::MIN.saturating_add(14_999));

    /// Errors: [`CredentialError::Iterations`].
    pub fn new(count: u32) -> Result<Iterations, CredentialError> {
        NonZeroU32::new(count)
            .filter(|_| (Iterations::MIN..=Iterations::MAX).contains(&count))
            .map(Iterations)
            .ok_or(CredentialError::Iterations)
    }

    /// Reads decimal digits without sign and leading zero (posit-number of RFC 5802 7).
    pub(crate) fn parse(text: &str) -> Option<Result<Iterations, CredentialError>> {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
        (is_number && !text.is_empty()).then(|| match text.parse() {
            Ok(count) => Iterations::new(count),
            Err(_) => Err(CredentialError::Iterations),
        })
    }

    /// The count.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Iterations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// SaltedPassword of RFC 5802 3, from which both sides derive what they prove.
pub(crate) struct SaltedPassword(Sha256Bytes);

impl SaltedPassword {
    pub(crate) fn derive(password: &Password, salt: &[u8], iterations: Iterations) -> Self {
        SaltedPassword(keyed::pbkdf2_sha256(
            password.as_bytes(),
            salt,
            iterations.0,
        ))
    }

    pub(crate) fn client_key(&self) -> Sha256Bytes {
        keyed::hmac_sha256(&self.0, b"Client Key")
    }

    pub(crate) fn server_key(&self) -> Sha256Bytes {
        keyed::hmac_sha256(&self.0, b"Server Key")
    }
}

/// The keys of SCRAM-SHA-256 for one name. `Debug` shows neither keys nor salt.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    pub(crate) iterations: Iterations,
    pub(crate) salt: Vec<u8>,
    pub(crate) stored_key: Sha256Bytes,
    pub(crate) server_key: Sha256Bytes,
}

impl ScramKeys {
    /// Makes keys from a password; this takes one PBKDF2. `salt` are random octets, best [`SALT_LEN`] of them, drawn
    /// anew for each credential. Errors: [`CredentialError::Salt`].
    pub fn derive(
        password: &Password,
        salt: &[u8],
        iterations: Iterations,
    ) -> Result<ScramKeys, CredentialError> {
        check_salt(salt)?;
        let salted = SaltedPassword::derive(password, salt, iterations);
        Ok(ScramKeys {
            iterations,
            salt: salt.to_vec(),
            stored_key: keyed::sha256(&salted.client_key()),
            server_key: salted.server_key(),
        })
    }

    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`. Errors: [`CredentialError`].
    pub fn decode(text: &str) -> Result<ScramKeys, CredentialError> {
        let form = CredentialError::Form;
        let rest = text.strip_prefix(SCRAM_SCHEME).ok_or(form)?;
        let (parameters, keys) = rest.split_once('$').ok_or(form)?;
        let (iterations, salt) = parameters.split_once(':').ok_or(form)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(form)?;
        let salt = BASE64_STANDARD.decode(salt).map_err(|_| form)?;
        check_salt(&salt)?;
        Ok(ScramKeys {
            iterations: Iterations::parse(iterations).ok_or(form)??,
            salt,
            stored_key: decode_key(stored_key)?,
            server_key: decode_key(server_key)?,
        })
    }

    /// The stored form, as [`ScramKeys::decode`] reads it.
    pub fn encode(&self) -> String {
        format!(
            "{SCRAM_SCHEME}{}:{}${}:{}",
            self.iterations,
            BASE64_STANDARD.encode(&self.salt),
            BASE64_STANDARD.encode(self.stored_key),
            BASE64_STANDARD.encode(self.server_key)
        )
    }

    /// How often the password was turned over.
    pub fn iterations(&self) -> Iterations {
        self.iterations
    }

    /// Whether these are the keys of `password`; this takes one PBKDF2.
    pub fn verify(&self, password: &Password) -> bool {
        let salted = SaltedPassword::derive(password, &self.salt, self.iterations);
        let stored_key = keyed::sha256(&salted.client_key());
        keyed::equal(&stored_key, &self.stored_key).into()
    }
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramKeys")
            .field("iterations", &self.iterations.get())
            .finish_non_exhaustive()
    }
}

/// What a server knows of one name: keys, a clear secret, or both.
#[derive(Clone, Debug, Default)]
pub struct Credential {
    pub(crate) scram: Option<ScramKeys>,
    pub(crate) cram_md5: Option<Password>,
}

impl Credential {
    /// A credential with keys made from a password, for SCRAM-SHA-256, PLAIN and LOGIN; see [`ScramKeys::derive`].
    pub fn from_password(
        password: &Password,
        salt: &[u8],
        iterations: Iterations,
    ) -> Result<Credential, CredentialError> {
        ScramKeys::derive(password, salt, iterations).map(Credential::from_keys)
    }

    /// A credential with keys that are there.
    pub fn from_keys(keys: ScramKeys) -> Credential {
        Credential {
            scram: Some(keys),
            cram_md5: None,
        }
    }

    /// Adds the password in clear, for CRAM-MD5. Whoever reads the stored form can then log in.
    pub fn with_cram_md5(self, secret: Password) -> Credential {
        Credential {
            cram_md5: Some(secret),
            ..self
        }
    }

    /// The keys for SCRAM-SHA-256, PLAIN and LOGIN.
    pub fn scram(&self) -> Option<&ScramKeys> {
        self.scram.as_ref()
    }

    /// Whether the password in clear is there.
    pub fn has_cram_md5(&self) -> bool {
        self.cram_md5.is_some()
    }
}

/// The stored form of a clear secret.
pub(crate) fn encode_secret(secret: &Password) -> String {
    format!("{CRAM_SCHEME}{}", BASE64_STANDARD.encode(secret.as_bytes()))
}

/// Reads `CRAM-MD5$<secret>`.
pub(crate) fn decode_secret(text: &str) -> Result<Password, CredentialError> {
    let bytes = text
        .strip_prefix(CRAM_SCHEME)
        .and_then(|secret| BASE64_STANDARD.decode(secret).ok())
        .ok_or(CredentialError::SecretForm)?;
    Password::from_bytes(&bytes).map_err(CredentialError::Secret)
}

fn check_salt(salt: &[u8]) -> Result<(), CredentialError> {
    if (MIN_SALT..=MAX_SALT).contains(&salt.len()) {
        Ok(())
    } else {
        Err(CredentialError::Salt)
    }
}

fn decode_key(text: &str) -> Result<[u8; SHA256_LEN], CredentialError> {
    let bytes = BASE64_STANDARD
        .decode(text)
        .map_err(|_| CredentialError::Form)?;
    bytes.try_into().map_err(|_| CredentialError::Key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys of `pencil` under the salt of RFC 7677 3, in the form of PostgreSQL.
    const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
        WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn keys_are_made_as_others_make_them_and_read_back() {
        let salt = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let pencil = Password::parse("pencil").unwrap();
        let iterations = Iterations::new(4096).unwrap();
        let keys = ScramKeys::derive(&pencil, &salt, iterations).unwrap();
        assert_eq!(keys.encode(), PENCIL);
        assert_eq!(ScramKeys::decode(PENCIL).unwrap(), keys);
        assert!(keys.verify(&pencil));
        assert!(!keys.verify(&Password::parse("pencil ").unwrap()));
    }

    /// In the rows `{salt}` and `{key}` stand for good ones.
    #[test]
    fn what_is_no_key_is_refused() {
        use CredentialError::{Form, Iterations, Key, Salt};
        let key = BASE64_STANDARD.encode([7; 32]);
        let salt = BASE64_STANDARD.encode([7; 16]);
        let filled = |text: &str| text.replace("{key}", &key).replace("{salt}", &salt);
        let good = ScramKeys::decode(&filled("SCRAM-SHA-256$4096:{salt}${key}:{key}"));
        assert!(good.is_ok());
        for (text, error) in [
            ("", Form),
            ("scram-sha-256$4096:{salt}${key}:{key}", Form),
            ("SCRAM-SHA-1$4096:{salt}${key}:{key}", Form),
            ("SCRAM-SHA-256$4096:{salt}${key}", Form),
            ("SCRAM-SHA-256$4096:{salt}:{key}", Form),
            ("SCRAM-SHA-256$+4096:{salt}${key}:{key}", Form),
            ("SCRAM-SHA-256$04096:{salt}${key}:{key}", Form),
            ("SCRAM-SHA-256$:{salt}${key}:{key}", Form),
            ("SCRAM-SHA-256$4096:{salt}${key}:{key}$", Form),
            ("SCRAM-SHA-256$4095:{salt}${key}:{key}", Iterations),
            ("SCRAM-SHA-256$2000001:{salt}${key}:{key}", Iterations),
            ("SCRAM-SHA-256$99999999999:{salt}${key}:{key}", Iterations),
            ("SCRAM-SHA-256$4096:AAAA${key}:{key}", Salt),
            ("SCRAM-SHA-256$4096:!{salt}${key}:{key}", Form),
            ("SCRAM-SHA-256$4096:{salt}${salt}:{key}", Key),
            ("SCRAM-SHA-256$4096:{salt}${key}:", Key),
        ] {
            assert_eq!(ScramKeys::decode(&filled(text)), Err(error), "{text}");
        }
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        for (text, error) in [
            ("CRAM-MD5$dGFu*", CredentialError::SecretForm),
            ("cram-md5$dGFu", CredentialError::SecretForm),
            ("CRAM-MD5$", CredentialError::Secret(PrepareError::Empty)),
            (
                "CRAM-MD5$Bw==",
                CredentialError::Secret(PrepareError::Prohibited),
            ),
            (
                "CRAM-MD5$/w==",
                CredentialError::Secret(PrepareError::NotUtf8),
            ),
        ] {
            assert_eq!(decode_secret(text).err(), Some(error), "{text}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let credential = Credential::from_keys(ScramKeys::decode(PENCIL).unwrap())
            .with_cram_md5(Password::parse("pencil").unwrap());
        assert_eq!(
            format!("{credential:?}"),
            "Credential { scram: Some(ScramKeys { iterations: 4096, .. }), cram_md5: Some(Password(..)) }"
        );
    }

    #[test]
    fn the_default_is_fifteen_thousand() {
        assert_eq!(Iterations::new(15_000), Ok(Iterations::DEFAULT));
    }
}
