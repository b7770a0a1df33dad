//! What stands in for credentials that are not there, so that a stranger does not learn which names are.

use std::fmt;

use crate::credential::{Iterations, SALT_LEN, ScramKeys};
use crate::keyed::{Sha256Bytes, hmac_sha256};
use crate::name::Name;

/// Makes up credentials, always the same for a name. `Debug` does not show the secret.
#[derive(Clone)]
pub struct Decoy {
    secret: [u8; 32],
    iterations: Iterations,
}

impl Decoy {
    /// `secret` is random, known to nobody, and best the same for as long as the credentials are; `iterations` are
    /// those that stored keys have.
    pub fn new(secret: [u8; 32], iterations: Iterations) -> Decoy {
        Decoy { secret, iterations }
    }

    /// Keys that belong to no password.
    pub(super) fn scram_keys(&self, name: &Name) -> ScramKeys {
        ScramKeys {
            iterations: self.iterations,
            salt: self.derive("salt", name)[..SALT_LEN].to_vec(),
            stored_key: self.derive("stored key", name),
            server_key: self.derive("server key", name),
        }
    }

    /// A clear secret that belongs to nobody.
    pub(super) fn clear_secret(&self, name: &Name) -> Sha256Bytes {
        self.derive("clear secret", name)
    }

    fn derive(&self, purpose: &str, name: &Name) -> Sha256Bytes {
        hmac_sha256(&self.secret, format!("{purpose}\0{name}").as_bytes())
    }
}

impl fmt::Debug for Decoy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoy")
            .field("iterations", &self.iterations.get())
            .finish_non_exhaustive()
    }
}
