//! Certificates and keys from PEM files, with an error that names the file and says what would be right.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{Error as PemError, PemObject},
    },
    sign::CertifiedKey,
};

use super::provider;

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The operating system does not give it.
    #[error("{}: cannot be read: {reason}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// The words of the operating system.
        reason: String,
    },
    /// It holds something else.
    #[error("{}: {what}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what would be right.
        what: String,
    },
    /// Both files are good, but not for each other.
    #[error(
        "{}: not the key of {}; expected the key of the first certificate in it, which must be that of the server itself",
        key.display(), certificate.display()
    )]
    Mismatch {
        /// The file with the chain.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// The system has no certificate authorities.
    #[error(
        "the system has no certificate authorities ({0}); install its package ca-certificates, or write roots = \"public\" or a file"
    )]
    NoSystemRoots(String),
}

/// The octets of a file. Bounded: what is larger is no certificate, but a mistake.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    const LARGEST: u64 = 16 << 20;
    let unreadable = |reason: String| FileError::Unreadable {
        path: path.to_owned(),
        reason,
    };
    let mut octets = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut octets))
        .map_err(|error| unreadable(error.to_string()))?;
    if octets.len() as u64 > LARGEST {
        return Err(unreadable(format!("more than {LARGEST} octets")));
    }
    Ok(octets)
}

/// Every certificate in a file; at least one.
pub(super) fn certificates(
    path: &Path,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let malformed = |what: String| FileError::Malformed {
        path: path.to_owned(),
        what,
    };
    let found: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(format!("not PEM: {}", pem_words(&error))))?;
    if found.is_empty() {
        let what = if text.starts_with(b"\x30") {
            "a certificate in DER; expected PEM (openssl x509 -inform DER -in FILE)"
        } else {
            "holds no certificate; expected PEM that begins with -----BEGIN CERTIFICATE-----"
        };
        return Err(malformed(what.to_owned()));
    }
    Ok(found)
}

/// A chain and its key, checked against each other.
pub(super) fn certified_key(
    (certificate, chain): (&Path, &[u8]),
    (key, secret): (&Path, &[u8]),
) -> Result<CertifiedKey, FileError> {
    let chain = certificates(certificate, chain)?;
    let malformed = |path: &Path, what: String| FileError::Malformed {
        path: path.to_owned(),
        what,
    };
    let found = PrivateKeyDer::from_pem_slice(secret)
        .map_err(|error| malformed(key, no_key(&error, secret)))?;
    let signing = provider()
        .key_provider
        .load_private_key(found)
        .map_err(|error| malformed(key, format!("not a usable private key ({error}); expected RSA of at least 2048 bits, ECDSA P-256 or P-384, or Ed25519")))?;
    let pair = CertifiedKey::new(chain, signing);
    match pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(pair)
        }
        Err(rustls::Error::InconsistentKeys(_)) => Err(FileError::Mismatch {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        }),
        Err(error) => Err(malformed(
            certificate,
            format!("the first certificate is not usable: {error}"),
        )),
    }
}

/// The roots in a file; at least one, and each one usable.
pub(super) fn roots(path: &Path, text: &[u8]) -> Result<RootCertStore, FileError> {
    let mut store = RootCertStore::empty();
    for (index, root) in certificates(path, text)?.into_iter().enumerate() {
        store.add(root).map_err(|error| FileError::Malformed {
            path: path.to_owned(),
            what: format!("certificate {} is not usable: {error}", index + 1),
        })?;
    }
    Ok(store)
}

fn no_key(error: &PemError, text: &[u8]) -> String {
    let has = |words: &[u8]| text.windows(words.len()).any(|window| window == words);
    if has(b"ENCRYPTED") {
        return "the key is encrypted; expected one without a password (openssl pkey -in FILE), readable by this service alone".to_owned();
    }
    match error {
        PemError::NoItemsFound => {
            "holds no private key; expected PEM that begins with -----BEGIN PRIVATE KEY-----"
                .to_owned()
        }
        // The text of the file stays out of the log: it is a secret.
        _ => "not PEM; expected a private key that begins with -----BEGIN PRIVATE KEY-----"
            .to_owned(),
    }
}

fn pem_words(error: &PemError) -> String {
    match error {
        PemError::MissingSectionEnd { .. } => {
            "a line -----END CERTIFICATE----- is missing; is the file complete?".to_owned()
        }
        PemError::IllegalSectionStart { .. } => "a line -----BEGIN …----- is malformed".to_owned(),
        PemError::Base64Decode(_) => "what stands between BEGIN and END is not base64".to_owned(),
        error => error.to_string(),
    }
}
