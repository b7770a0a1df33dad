//! The token of a probe, and the reverse path that carries it. The token is random; the rest is pure.

use std::fmt;

use linkmail_smtp::Mailbox;
use uuid::Uuid;

/// RFC 5321 4.5.3.1.1.
const LOCAL_PART_LIMIT: usize = 64;

/// What tells a probe's report from every other mail: 128 random bits, 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Token(u128);

impl Token {
    /// A new one, from the system's random numbers.
    #[must_use]
    pub fn random() -> Self {
        // A UUID has six bits that are not random; turned, those of the second lie elsewhere.
        let (one, two) = (Uuid::new_v4().as_u128(), Uuid::new_v4().as_u128());
        Self(one ^ two.rotate_left(32))
    }

    /// Reads 32 hex digits, of either case: mail hosts on the way back may change it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then(|| u128::from_str_radix(text, 16).ok().map(Self))
            .flatten()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.to_string()
    }
}

impl TryFrom<String> for Token {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is not a token"))
    }
}

/// A reverse path with a place for the token, `probe-*@branch.example`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    before: String,
    after: String,
}

impl Pattern {
    /// Reads a pattern: exactly one `*`, in the local part, and an address with any token in its place.
    ///
    /// # Errors
    /// A sentence for a person: what is wrong and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "{text:?}: {why}; expected an address with one *, such as \"probe-*@branch.example\""
            )
        };
        let (before, after) = text
            .split_once('*')
            .ok_or_else(|| wrong("it has no *, where the token goes"))?;
        if after.contains('*') {
            return Err(wrong("it has more than one *"));
        }
        if before.contains('@') {
            return Err(wrong("the * must stand before the @"));
        }
        let pattern = Self {
            before: before.to_owned(),
            after: after.to_owned(),
        };
        let filled = pattern.address(Token(0));
        let mailbox = Mailbox::parse(filled.as_bytes())
            .map_err(|error| wrong(&format!("it is not an address: {error}")))?;
        if mailbox.local().len() > LOCAL_PART_LIMIT {
            return Err(wrong(
                "with a token of 32 octets its local part is longer than 64 octets",
            ));
        }
        if mailbox.local().starts_with(b"\"") {
            return Err(wrong("a quoted local part is not taken"));
        }
        Ok(pattern)
    }

    /// The address that carries a token.
    #[must_use]
    pub fn address(&self, token: Token) -> String {
        format!("{}{token}{}", self.before, self.after)
    }

    /// The domain.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.after
            .rsplit_once('@')
            .map_or(&self.after, |(_, domain)| domain)
    }

    /// Whether an address is one of this pattern, whatever stands in the place of the token. Case does not matter.
    #[must_use]
    pub fn fits(&self, address: &str) -> bool {
        self.place(address).is_some()
    }

    /// What stands in the place of the token.
    fn place(&self, address: &str) -> Option<String> {
        let address = address.to_ascii_lowercase();
        let rest = address.strip_prefix(&self.before.to_ascii_lowercase())?;
        let place = rest.strip_suffix(&self.after.to_ascii_lowercase())?;
        Some(place.to_owned())
    }

    /// The token that an address carries.
    #[must_use]
    pub fn token(&self, address: &str) -> Option<Token> {
        Token::parse(&self.place(address)?)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}*{}", self.before, self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_from_its_address_in_any_case() {
        let pattern = Pattern::parse("Probe-*@branch.example").unwrap();
        for _ in 0..100 {
            let token = Token::random();
            let address = pattern.address(token);
            assert_eq!(pattern.token(&address), Some(token));
            assert_eq!(pattern.token(&address.to_uppercase()), Some(token));
            assert_eq!(Token::parse(&token.to_string()), Some(token));
        }
        assert_ne!(Token::random(), Token::random());
    }

    #[test]
    fn every_bit_of_a_token_is_random() {
        let (mut ones, mut zeros) = (0, 0);
        for _ in 0..200 {
            let token = Token::random().0;
            ones |= token;
            zeros |= !token;
        }
        assert_eq!((ones, zeros), (u128::MAX, u128::MAX));
    }

    #[test]
    fn other_addresses_carry_no_token() {
        let pattern = Pattern::parse("probe-*@branch.example").unwrap();
        for address in [
            "probe-@branch.example",
            "probe-1@branch.example",
            "probe-0123456789abcdef0123456789abcde@branch.example",
            "probe-0123456789abcdef0123456789abcdef0@branch.example",
            "probe-+123456789abcdef0123456789abcdef@branch.example",
            "probe-0123456789abcdef0123456789abcdef@else.example",
            "0123456789abcdef0123456789abcdef@branch.example",
            "",
            "é",
        ] {
            assert_eq!(pattern.token(address), None, "{address}");
        }
        for (address, fits) in [
            ("Probe-@branch.example", true),
            ("probe-x@branch.example", true),
            ("probe-x@else.example", false),
            ("x@branch.example", false),
        ] {
            assert_eq!(pattern.fits(address), fits, "{address}");
        }
    }

    #[test]
    fn patterns_that_are_none_are_refused() {
        let long = format!("{}-*@branch.example", "x".repeat(40));
        for bad in [
            "probe@branch.example",
            "probe-*",
            "p*-*@branch.example",
            "probe@*.example",
            "probe *@branch.example",
            "*@",
            "\"a*\"@branch.example",
            &long,
        ] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            Pattern::parse("*@b.example").unwrap().to_string(),
            "*@b.example"
        );
    }
}
