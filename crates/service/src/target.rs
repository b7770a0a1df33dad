//! Where a daemon finds another one: a host with a port, or a Unix socket; and the connection to it, which comes and goes.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use tonic::transport::{Channel, Endpoint};

use crate::{
    config::{FromConfig, Value},
    listen::GrpcAddress,
};

/// The wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// A quiet connection is asked so often whether it still stands.
const PING_EVERY: Duration = Duration::from_secs(30);
/// The wait for the answer.
const PING_ANSWER: Duration = Duration::from_secs(20);

/// Where a daemon finds another one: `relay.example:7025`, `127.0.0.1:7025` or `unix:/run/linkmail.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrpcTarget {
    /// TCP to a host.
    Tcp {
        /// A name or an IP address, without brackets. A name is looked up at each connection.
        host: String,
        /// The port, not 0.
        port: u16,
    },
    /// A Unix socket at an absolute path.
    Unix(PathBuf),
}

impl GrpcTarget {
    /// A channel that connects when it is first used, and anew whenever the connection is lost. A call fails while there
    /// is none. Give each call its own deadline.
    ///
    /// # Errors
    /// The path of the socket cannot stand in a URI.
    pub fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let uri = match self {
            GrpcTarget::Tcp { .. } => format!("http://{self}"),
            GrpcTarget::Unix(_) => self.to_string(),
        };
        Ok(Endpoint::from_shared(uri)?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER)
            .keep_alive_while_idle(true)
            .connect_lazy())
    }
}

impl fmt::Display for GrpcTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GrpcTarget::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            GrpcTarget::Tcp { host, port } => write!(f, "{host}:{port}"),
            GrpcTarget::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for GrpcTarget {
    type Err = NotATarget;

    fn from_str(text: &str) -> Result<Self, NotATarget> {
        let wrong = || NotATarget(text.to_owned());
        match text.parse::<GrpcAddress>() {
            Ok(GrpcAddress::Unix(path)) => return Ok(GrpcTarget::Unix(path)),
            Ok(GrpcAddress::Tcp(address)) if address.port() != 0 => {
                return Ok(GrpcTarget::Tcp {
                    host: address.ip().to_string(),
                    port: address.port(),
                });
            }
            Ok(GrpcAddress::Tcp(_)) => return Err(wrong()),
            Err(_) => {}
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port: u16 = port.parse().map_err(|_| wrong())?;
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        // A last label of digits alone is a mistyped address, and no name (RFC 1123 2.1).
        let last = host.rsplit('.').next().unwrap_or_default();
        let is_name = host.len() <= 253
            && host.split('.').all(label)
            && !last.bytes().all(|b| b.is_ascii_digit());
        if port == 0 || !is_name {
            return Err(wrong());
        }
        Ok(GrpcTarget::Tcp {
            host: host.to_owned(),
            port,
        })
    }
}

impl FromConfig for GrpcTarget {
    fn from_config(value: &Value<'_>) -> Result<Self, String> {
        value.parse_with(|text| text.parse().map_err(|error: NotATarget| error.to_string()))
    }
}

/// Text that is no [`GrpcTarget`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected an address such as \"relay.example:7025\", \"127.0.0.1:7025\" or \"unix:/run/linkmail.sock\", found {0:?}"
)]
pub struct NotATarget(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_names_too() {
        for text in [
            "relay:7025",
            "relay.branch.example:7025",
            "linkmail-edge-0.linkmail_edge:1",
            "127.0.0.1:7025",
            "[::1]:7025",
            "unix:/run/linkmail.sock",
        ] {
            assert_eq!(text.parse::<GrpcTarget>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "relay",
            "relay:",
            "relay:0",
            "relay:x",
            ":7025",
            "re lay:7025",
            "a..b:7025",
            "127.0.0.1:0",
            "127.0.0.256:7025",
            "::1:7025",
            "http://relay:7025",
            "unix:relative",
        ] {
            assert!(text.parse::<GrpcTarget>().is_err(), "{text}");
        }
    }
}
