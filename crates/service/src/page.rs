//! Page sizes and page tokens (AIP-158).
//!
//! A token is a place in the list, masked and sealed by a hash over the arguments of the call: it tells a client
//! nothing, cannot be made up, and fits no other list. It carries no authority.

use sha2::{Digest, Sha256};
use tonic::Status;

use crate::errors::ErrorDomain;

const DEFAULT: u32 = 50;
const LARGEST: u32 = 1000;

/// The size of a page: 0 is the default, too many is the most, a negative number is wrong.
///
/// # Errors
/// INVALID_ARGUMENT, of this domain.
pub fn size(domain: ErrorDomain, asked: i32) -> Result<u32, Status> {
    match u32::try_from(asked) {
        Ok(0) => Ok(DEFAULT),
        Ok(size) => Ok(size.min(LARGEST)),
        Err(_) => Err(domain.invalid("page_size", "must not be negative")),
    }
}

/// A list, named by its kind and the arguments that shape it.
#[derive(Debug, Clone, Copy)]
pub struct List<'a> {
    /// Whose errors its are.
    pub domain: ErrorDomain,
    /// The arguments, the kind first.
    pub arguments: &'a [&'a str],
}

impl List<'_> {
    /// The place that a token stands for; nothing for the first page.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it is no token of this list.
    pub fn place(&self, token: &str) -> Result<Option<i64>, Status> {
        if token.is_empty() {
            return Ok(None);
        }
        let wrong = || {
            self.domain.invalid(
                "page_token",
                "is not a token of this list with these arguments",
            )
        };
        let number = u128::from_str_radix(token, 16).map_err(|_| wrong())?;
        let (seal, masked) = ((number >> 64) as u64, number as u64);
        let place = (masked ^ self.hash("mask", seal)) as i64;
        if self.token(place) == token {
            Ok(Some(place))
        } else {
            Err(wrong())
        }
    }

    /// The token of a place.
    #[must_use]
    pub fn token(&self, place: i64) -> String {
        let seal = self.hash("seal", place as u64);
        let masked = (place as u64) ^ self.hash("mask", seal);
        format!("{seal:016x}{masked:016x}")
    }

    fn hash(&self, purpose: &str, number: u64) -> u64 {
        let mut hash = Sha256::new();
        for part in [&["linkmail page token 1", purpose], self.arguments].concat() {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        hash.update(number.to_be_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        digest
            .iter()
            .take(8)
            .fold(0, |number, octet| (number << 8) | u64::from(*octet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: ErrorDomain = ErrorDomain("test.linkmail");

    #[test]
    fn a_token_fits_its_own_list_and_no_other() {
        let list = List {
            domain: HERE,
            arguments: &["messages", "QUEUED"],
        };
        for place in [0, 1, 77, i64::MAX] {
            assert_eq!(list.place(&list.token(place)).unwrap(), Some(place));
        }
        let token = list.token(5);
        assert!(
            List {
                domain: HERE,
                arguments: &["messages", ""]
            }
            .place(&token)
            .is_err()
        );
        for bad in [
            "x",
            "5",
            "",
            "ffffffffffffffffffffffffffffffff",
            &token[1..],
            &format!("{token}0"),
        ] {
            assert_ne!(list.place(bad).ok().flatten(), Some(5), "{bad}");
        }
        assert!(list.place("5").is_err());
    }

    #[test]
    fn sizes_are_coerced_or_refused() {
        assert_eq!(
            (
                size(HERE, 0).unwrap(),
                size(HERE, 7).unwrap(),
                size(HERE, i32::MAX).unwrap()
            ),
            (50, 7, 1000)
        );
        assert!(size(HERE, -1).is_err());
    }
}
