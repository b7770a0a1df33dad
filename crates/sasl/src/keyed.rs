//! Keyed hashes, and comparison that takes the same time whatever is compared.
//!
//! SHA-256 comes from ring, which the tree carries for TLS. HMAC-MD5 is needed for CRAM-MD5 alone and stands on the
//! md-5 crate: MD5 is broken for signatures, while no attack on HMAC-MD5 is known that helps here (RFC 6151 2.3).

use std::num::NonZeroU32;

use md5::{Digest, Md5};
use ring::{digest, hmac, pbkdf2};
use subtle::{Choice, ConstantTimeEq};

/// The octets of a SHA-256 hash.
pub(crate) const SHA256_LEN: usize = 32;
/// The octets of a block of MD5 (RFC 2104 2).
const MD5_BLOCK: usize = 64;

pub(crate) type Sha256Bytes = [u8; SHA256_LEN];

pub(crate) fn sha256(data: &[u8]) -> Sha256Bytes {
    to_array(digest::digest(&digest::SHA256, data).as_ref())
}

pub(crate) fn hmac_sha256(key: &[u8], data: &[u8]) -> Sha256Bytes {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    to_array(hmac::sign(&key, data).as_ref())
}

/// Hi() of RFC 5802 2.2: PBKDF2 with HMAC-SHA-256.
pub(crate) fn pbkdf2_sha256(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Sha256Bytes {
    let mut output = [0; SHA256_LEN];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        iterations,
        salt,
        password,
        &mut output,
    );
    output
}

/// HMAC-MD5 (RFC 2104).
pub(crate) fn hmac_md5(key: &[u8], data: &[u8]) -> [u8; 16] {
    let mut block = [0; MD5_BLOCK];
    if key.len() > MD5_BLOCK {
        block[..16].copy_from_slice(&Md5::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Md5::new()
        .chain_update(block.map(|byte| byte ^ 0x36))
        .chain_update(data)
        .finalize();
    Md5::new()
        .chain_update(block.map(|byte| byte ^ 0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

/// Whether two byte strings are equal. Only their lengths show in the time it takes.
pub(crate) fn equal(left: &[u8], right: &[u8]) -> Choice {
    left.ct_eq(right)
}

pub(crate) fn xor(left: Sha256Bytes, right: Sha256Bytes) -> Sha256Bytes {
    std::array::from_fn(|index| left[index] ^ right[index])
}

/// ring gives slices; those of SHA-256 have 32 octets.
fn to_array(bytes: &[u8]) -> Sha256Bytes {
    let mut array = [0; SHA256_LEN];
    array.copy_from_slice(bytes);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// RFC 2202 2, test cases 1, 2, 5 and 6: short keys and one longer than a block.
    #[test]
    fn hmac_md5_matches_rfc_2202() {
        for (key, data, mac) in [
            (
                vec![0x0b; 16],
                "Hi There",
                "9294727a3638bb1c13f48ef8158bfc9d",
            ),
            (
                b"Jefe".to_vec(),
                "what do ya want for nothing?",
                "750c783e6ab0b503eaa86e310a5db738",
            ),
            (
                vec![0x0c; 16],
                "Test With Truncation",
                "56461ef2342edc00f9bab995690efd4c",
            ),
            (
                vec![0xaa; 80],
                "Test Using Larger Than Block-Size Key - Hash Key First",
                "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd",
            ),
        ] {
            assert_eq!(hex(&hmac_md5(&key, data.as_bytes())), mac, "{data}");
        }
    }

    #[test]
    fn a_difference_anywhere_is_seen() {
        assert!(bool::from(equal(b"abc", b"abc")));
        for other in [b"abd".as_slice(), b"xbc", b"ab", b"abcd", b""] {
            assert!(!bool::from(equal(b"abc", other)));
        }
    }
}
