//! The argument of ETRN: whose mail is to be released (RFC 1985 5.2).

use std::fmt;
use std::str::FromStr;

use crate::path::{Domain, PathError};

/// The longest name of a queue, in octets; RFC 1985 sets none, a domain's bound is taken.
const MAX_QUEUE_NAME: usize = 255;

/// What an ETRN asks to be released.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EtrnNode {
    /// `node`: mail for exactly this domain.
    Domain(Domain),
    /// `@node`: mail for this domain and every domain below it.
    Subdomains(Domain),
    /// `#name`: a queue that the server knows by name, printable ASCII without spaces.
    Queue(Vec<u8>),
}

impl EtrnNode {
    /// Reads the argument. Errors: [`PathError`] about the domain, or about the name behind `#`.
    pub fn parse(bytes: &[u8]) -> Result<EtrnNode, PathError> {
        match bytes.split_first() {
            None => Err(PathError::Empty),
            Some((b'@', domain)) => Domain::parse(domain).map(EtrnNode::Subdomains),
            Some((b'#', name)) => {
                if name.is_empty() {
                    Err(PathError::Empty)
                } else if name.len() > MAX_QUEUE_NAME {
                    Err(PathError::DomainTooLong)
                } else if !name.iter().all(u8::is_ascii_graphic) {
                    Err(PathError::Domain)
                } else {
                    Ok(EtrnNode::Queue(name.to_vec()))
                }
            }
            Some(_) => Domain::parse(bytes).map(EtrnNode::Domain),
        }
    }

    /// The domain, with or without its sub-domains; none for a queue.
    pub fn domain(&self) -> Option<&Domain> {
        match self {
            EtrnNode::Domain(domain) | EtrnNode::Subdomains(domain) => Some(domain),
            EtrnNode::Queue(_) => None,
        }
    }

    /// The argument as it goes on the wire, with its `@` or `#`.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            EtrnNode::Domain(domain) => domain.as_bytes().to_vec(),
            EtrnNode::Subdomains(domain) => [b"@", domain.as_bytes()].concat(),
            EtrnNode::Queue(name) => [b"#".as_slice(), name].concat(),
        }
    }
}

impl fmt::Display for EtrnNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

impl FromStr for EtrnNode {
    type Err = PathError;

    fn from_str(text: &str) -> Result<EtrnNode, PathError> {
        EtrnNode::parse(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_decides() {
        for text in ["branch.example", "@branch.example", "#night", "[192.0.2.1]"] {
            assert_eq!(text.parse::<EtrnNode>().unwrap().to_string(), text);
        }
        assert!(matches!(
            EtrnNode::parse(b"@branch.example"),
            Ok(EtrnNode::Subdomains(_))
        ));
        for (text, error) in [
            ("", PathError::Empty),
            ("@", PathError::Empty),
            ("#", PathError::Empty),
            ("a b", PathError::Domain),
            ("@a..b", PathError::Domain),
            ("#a\tb", PathError::Domain),
        ] {
            assert_eq!(EtrnNode::parse(text.as_bytes()), Err(error), "{text:?}");
        }
    }
}
