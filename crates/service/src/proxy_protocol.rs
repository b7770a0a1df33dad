//! The header by which a proxy says whose connection it passes on: the PROXY protocol of HAProxy, versions 1 and 2.
//!
//! Pure. The header must be read to its last octet and no further, for what follows belongs to the client: [`next`] says
//! how many octets may be read at once. Whoever may send a header may name any client, so that it is to be read from
//! proxies alone, and from them always (section 5 of the specification).
//!
//! Limits: TLVs of version 2 are passed over, its checksum among them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of version 1, its CRLF included (section 2.1).
const LONGEST_TEXT: usize = 107;
/// The longest header of version 2 that is taken. Addresses need up to 232 octets; TLVs with a client's certificate
/// name need some hundreds more.
const LONGEST_BINARY: usize = 4096;

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// This client's.
    Client(SocketAddr),
    /// The proxy's own, such as a health check: LOCAL of version 2 alone.
    Proxy,
    /// That of a client whose address the proxy does not know, or that has none of the Internet.
    Unknown,
}

/// How far a header has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many octets belong to it for certain; they must be read, and no more.
    More(usize),
    /// It is complete.
    Done(Source),
}

/// Why what came is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// It begins like neither version.
    #[error("no header of the PROXY protocol")]
    Missing,
    /// A header of version 1 that is malformed.
    #[error("a malformed header of the PROXY protocol, version 1")]
    Text,
    /// A header of version 2 that is malformed, or has a value that nobody has given a meaning.
    #[error("a malformed header of the PROXY protocol, version 2")]
    Binary,
    /// Longer than any that is taken.
    #[error("a header of the PROXY protocol that is too long")]
    TooLong,
}

/// What the octets of a header, as far as they were read, come to.
///
/// # Errors
/// It is none, or none that is understood: the connection is to be closed.
pub fn next(octets: &[u8]) -> Result<Progress, ProxyError> {
    // The shortest header of version 1 has 15 octets.
    let Some((start, rest)) = octets.split_first_chunk::<12>() else {
        let begins = SIGNATURE.starts_with(octets) || starts_alike(octets);
        return match begins {
            true => Ok(Progress::More(SIGNATURE.len() - octets.len())),
            false => Err(ProxyError::Missing),
        };
    };
    if *start == SIGNATURE {
        binary(rest)
    } else if start.starts_with(b"PROXY ") {
        text(octets)
    } else {
        Err(ProxyError::Missing)
    }
}

fn starts_alike(octets: &[u8]) -> bool {
    let name = b"PROXY ";
    name.starts_with(&octets[..octets.len().min(name.len())])
}

/// Version 1: `PROXY TCP4 192.0.2.1 192.0.2.2 56324 25` and CRLF.
fn text(octets: &[u8]) -> Result<Progress, ProxyError> {
    let Some(line) = octets.strip_suffix(b"\n") else {
        return match octets.len() {
            ..LONGEST_TEXT => Ok(Progress::More(1)),
            _ => Err(ProxyError::TooLong),
        };
    };
    let line = line.strip_suffix(b"\r").ok_or(ProxyError::Text)?;
    let line = std::str::from_utf8(line).map_err(|_| ProxyError::Text)?;
    let words: Vec<&str> = line.split(' ').collect();
    let source = match words.as_slice() {
        // What follows UNKNOWN is to be ignored.
        ["PROXY", "UNKNOWN", ..] => Some(Source::Unknown),
        ["PROXY", "TCP4", from, to, port, to_port] => to
            .parse::<Ipv4Addr>()
            .ok()
            .and(number(to_port))
            .and_then(|_| client(from.parse::<Ipv4Addr>().ok()?.into(), port)),
        ["PROXY", "TCP6", from, to, port, to_port] => to
            .parse::<Ipv6Addr>()
            .ok()
            .and(number(to_port))
            .and_then(|_| client(from.parse::<Ipv6Addr>().ok()?.into(), port)),
        _ => None,
    };
    source.map(Progress::Done).ok_or(ProxyError::Text)
}

fn client(address: IpAddr, port: &str) -> Option<Source> {
    Some(Source::Client(SocketAddr::new(address, number(port)?)))
}

/// A port: decimal digits without sign and leading zero.
fn number(text: &str) -> Option<u16> {
    let plain = text == "0" || !text.starts_with(['0', '+']);
    plain.then(|| text.parse().ok()).flatten()
}

/// Version 2, behind its signature: version and command, family, length, addresses, TLVs.
fn binary(octets: &[u8]) -> Result<Progress, ProxyError> {
    let Some(([command, family, high, low], rest)) = octets.split_first_chunk::<4>() else {
        return Ok(Progress::More(4 - octets.len()));
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if SIGNATURE.len() + 4 + length > LONGEST_BINARY {
        return Err(ProxyError::TooLong);
    }
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyError::Binary),
    };
    if rest.len() < length {
        return Ok(Progress::More(length - rest.len()));
    }
    let addresses = match family {
        // Also of UNIX and UDP, which have nothing to do with a client of ours.
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(ProxyError::Binary),
    };
    if is_local {
        // Whatever it says of addresses is to be ignored.
        return Ok(Progress::Done(Source::Proxy));
    }
    let addresses = rest.get(..addresses).filter(|_| addresses <= length);
    let addresses = addresses.ok_or(ProxyError::Binary)?;
    let source = match family {
        0x11 => inet::<4>(addresses),
        0x21 => inet::<16>(addresses),
        _ => Some(Source::Unknown),
    };
    source.map(Progress::Done).ok_or(ProxyError::Binary)
}

/// Two addresses of `N` octets, and their ports.
fn inet<const N: usize>(octets: &[u8]) -> Option<Source>
where
    IpAddr: From<[u8; N]>,
{
    let address = *octets.first_chunk::<N>()?;
    let port = *octets.get(2 * N..)?.first_chunk::<2>()?;
    let port = u16::from_be_bytes(port);
    Some(Source::Client(SocketAddr::new(address.into(), port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads as a shell does: no more than it is told. What it came to, and how much was read.
    fn read(octets: &[u8]) -> (Result<Option<Source>, ProxyError>, usize) {
        let mut taken = 0;
        loop {
            match next(&octets[..taken]) {
                Ok(Progress::Done(source)) => return (Ok(Some(source)), taken),
                Ok(Progress::More(count)) if taken + count > octets.len() => {
                    return (Ok(None), taken);
                }
                Ok(Progress::More(count)) => {
                    assert!(count > 0);
                    taken += count;
                }
                Err(error) => return (Err(error), taken),
            }
        }
    }

    fn client(text: &str) -> Result<Option<Source>, ProxyError> {
        Ok(Some(Source::Client(text.parse().unwrap())))
    }

    #[test]
    fn text_headers() {
        let unknown = Ok(Some(Source::Unknown));
        let (text, missing) = (Err(ProxyError::Text), Err(ProxyError::Missing));
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        for (header, source) in [
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 56324 25\r\n",
                client("192.0.2.1:56324"),
            ),
            (
                "PROXY TCP6 2001:db8::1 2001:db8::2 0 65535\r\n",
                client("[2001:db8::1]:0"),
            ),
            ("PROXY UNKNOWN\r\n", unknown),
            ("PROXY UNKNOWN ffff::1 x y z\r\n", unknown),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 25\n", text),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\n", text),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 25 1\r\n", text),
            ("PROXY TCP4 192.0.2.1  192.0.2.2 56324 25\r\n", text),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 056 25\r\n", text),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 65536 25\r\n", text),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 +1 25\r\n", text),
            ("PROXY TCP4 192.0.2.01 192.0.2.2 1 25\r\n", text),
            ("PROXY TCP4 2001:db8::1 2001:db8::2 1 25\r\n", text),
            ("PROXY TCP6 192.0.2.1 2001:db8::2 1 25\r\n", text),
            ("PROXY tcp4 192.0.2.1 192.0.2.2 1 25\r\n", text),
            (&long, Err(ProxyError::TooLong)),
            ("PROXY TCP4 192.0.2.1", Ok(None)),
            ("PROXY", Ok(None)),
            ("", Ok(None)),
            ("EHLO client.example\r\n", missing),
            ("proxy unknown\r\n", missing),
            ("PROXYTCP4 192.0.2.1\r\n", missing),
            ("\r\n\r\n\0\r\nQUIX\n", missing),
        ] {
            let followed = format!("{header}EHLO client.example\r\n");
            let (got, taken) = read(header.as_bytes());
            assert_eq!(got, source, "{header:?}");
            if matches!(source, Ok(Some(_))) {
                assert_eq!(
                    (read(followed.as_bytes()).1, taken),
                    (header.len(), header.len())
                );
            }
        }
    }

    fn binary(command: u8, family: u8, length: usize, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(length).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, rest].concat()
    }

    #[test]
    fn binary_headers() {
        let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 4, 0, 25];
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        v6[15] = 1;
        v6[33] = 7;
        let with_tlv = [v4.as_slice(), &[4, 0, 3, 1, 2, 3]].concat();
        let (own, bad) = (Ok(Some(Source::Proxy)), Err(ProxyError::Binary));
        let unknown = Ok(Some(Source::Unknown));
        for (header, source) in [
            (binary(0x21, 0x11, 12, &v4), client("192.0.2.1:56324")),
            (binary(0x21, 0x11, 18, &with_tlv), client("192.0.2.1:56324")),
            (binary(0x21, 0x21, 36, &v6), client("[2001:db8::1]:7")),
            (binary(0x20, 0x11, 12, &v4), own),
            (binary(0x20, 0x00, 0, &[]), own),
            (binary(0x21, 0x00, 6, &with_tlv[12..]), unknown),
            (binary(0x21, 0x31, 216, &[7; 216]), unknown),
            (binary(0x21, 0x12, 12, &v4), unknown),
            (binary(0x21, 0x11, 11, &v4[..11]), bad),
            (binary(0x21, 0x21, 12, &v4), bad),
            (binary(0x21, 0x13, 12, &v4), bad),
            (binary(0x21, 0x41, 12, &v4), bad),
            (binary(0x22, 0x11, 12, &v4), bad),
            (binary(0x11, 0x11, 12, &v4), bad),
            (binary(0x21, 0x11, 12, &v4[..11]), Ok(None)),
            (binary(0x21, 0x11, 18, &v4), Ok(None)),
            (binary(0x21, 0x11, 65535, &v4), Err(ProxyError::TooLong)),
            (SIGNATURE[..11].to_vec(), Ok(None)),
            (SIGNATURE.to_vec(), Ok(None)),
        ] {
            let (got, taken) = read(&header);
            assert_eq!(got, source, "{header:x?}");
            if matches!(source, Ok(Some(_))) {
                let followed = [header.as_slice(), b"EHLO x\r\n"].concat();
                assert_eq!((read(&followed).1, taken), (header.len(), header.len()));
            }
        }
    }
}
