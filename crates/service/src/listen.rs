//! Where gRPC listens and connects: an IP address with a port, or a Unix socket.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixSocket, UnixStream};
use tonic::transport::{Channel, Endpoint};

use crate::allow::PeerFilter;
use crate::config::{FromConfig, Value};
use crate::incoming::{Incoming, Socket};

/// How long a process behind an existing socket file has to answer before a new one gives way to it.
const STALE_SOCKET_PATIENCE: Duration = Duration::from_secs(1);

/// Owner and group may connect to a Unix socket.
const SOCKET_MODE: u32 = 0o660;

const WAITING_CONNECTIONS: u32 = 128;

/// An address of a gRPC service, `127.0.0.1:7025` or `unix:/run/linkmail.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrpcAddress {
    /// TCP on one address; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A Unix socket at an absolute path.
    Unix(PathBuf),
}

/// Text that is no [`GrpcAddress`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected an address such as \"127.0.0.1:7025\" or \"unix:/run/linkmail.sock\", found {0:?}"
)]
pub struct NotAnAddress(String);

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process answers on the Unix socket.
    #[error("cannot listen on {0}: another process listens there")]
    InUse(GrpcAddress),
    /// What stands at the path is not a socket, and is left alone.
    #[error("cannot listen on {0}: the path exists and is not a socket")]
    NotASocket(GrpcAddress),
    /// The operating system refused.
    #[error("cannot listen on {address}: {source}")]
    Refused {
        /// Where.
        address: GrpcAddress,
        /// Why.
        source: io::Error,
    },
}

/// Why a client has no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there, or may not be reached.
    #[error("cannot connect to {address}: {reason}")]
    Failed {
        /// Where.
        address: GrpcAddress,
        /// The innermost reason.
        reason: String,
    },
    /// The socket file is not open to this user.
    #[error("cannot connect to {address}: permission denied")]
    Denied {
        /// Where.
        address: GrpcAddress,
    },
    /// No connection in time.
    #[error("cannot connect to {address}: no answer within {limit:?}")]
    TimedOut {
        /// Where.
        address: GrpcAddress,
        /// How long was waited.
        limit: Duration,
    },
}

impl GrpcAddress {
    /// Whether only this host can reach the address: loopback, or a Unix socket.
    pub fn is_local(&self) -> bool {
        match self {
            GrpcAddress::Tcp(address) => address.ip().to_canonical().is_loopback(),
            GrpcAddress::Unix(_) => true,
        }
    }

    /// Starts to listen. A socket file that nobody answers on is replaced.
    ///
    /// # Errors
    /// The address is in use, is not ours, or is not a socket.
    pub async fn bind(&self) -> Result<GrpcListener, BindError> {
        let refused = |source| BindError::Refused {
            address: self.clone(),
            source,
        };
        match self {
            GrpcAddress::Tcp(address) => {
                let listener = TcpListener::bind(address).await.map_err(refused)?;
                let bound = listener.local_addr().map_err(refused)?;
                Ok(GrpcListener {
                    address: GrpcAddress::Tcp(bound),
                    socket: Socket::Tcp(listener),
                })
            }
            GrpcAddress::Unix(path) => {
                self.remove_stale(path).await?;
                let listener = bind_unix(path).map_err(refused)?;
                let file = SocketFile::at(path).map_err(refused)?;
                Ok(GrpcListener {
                    address: self.clone(),
                    socket: Socket::Unix {
                        listener,
                        _file: file,
                    },
                })
            }
        }
    }

    async fn remove_stale(&self, path: &Path) -> Result<(), BindError> {
        let Ok(metadata) = std::fs::symlink_metadata(path) else {
            return Ok(());
        };
        if !metadata.file_type().is_socket() {
            return Err(BindError::NotASocket(self.clone()));
        }
        let answer = tokio::time::timeout(STALE_SOCKET_PATIENCE, UnixStream::connect(path)).await;
        match answer {
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(|source| BindError::Refused {
                    address: self.clone(),
                    source,
                })
            }
            Ok(Err(source)) => Err(BindError::Refused {
                address: self.clone(),
                source,
            }),
            Ok(Ok(_)) | Err(_) => Err(BindError::InUse(self.clone())),
        }
    }

    /// Connects as a client, within `limit`. Give each call its own deadline: a server that accepts
    /// and says nothing counts as connected.
    ///
    /// # Errors
    /// Nobody listens there, or nobody answered in time.
    pub async fn connect(&self, limit: Duration) -> Result<Channel, ConnectError> {
        let address = self.clone();
        let failed = |error: tonic::transport::Error| {
            let innermost = innermost(&error);
            let denied = innermost
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
            if denied {
                ConnectError::Denied { address }
            } else {
                let reason = innermost.to_string();
                ConnectError::Failed { address, reason }
            }
        };
        let uri = match self {
            GrpcAddress::Tcp(address) => format!("http://{address}"),
            GrpcAddress::Unix(path) => format!("unix:{}", path.display()),
        };
        let connecting = async {
            let endpoint = Endpoint::from_shared(uri)?.connect_timeout(limit);
            endpoint.connect().await
        };
        match tokio::time::timeout(limit, connecting).await {
            Ok(connected) => connected.map_err(failed),
            Err(_) => Err(ConnectError::TimedOut {
                address: self.clone(),
                limit,
            }),
        }
    }
}

/// The last error of a chain; tonic's own words ("transport error") say nothing.
fn innermost<'e>(
    mut error: &'e (dyn std::error::Error + 'static),
) -> &'e (dyn std::error::Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// The mode is set before the socket listens, so that nobody else can connect in between.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(WAITING_CONNECTIONS)
}

impl fmt::Display for GrpcAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GrpcAddress::Tcp(address) => write!(f, "{address}"),
            GrpcAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for GrpcAddress {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let wrong = || NotAnAddress(text.to_owned());
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') && !path.ends_with('/') => {
                Ok(GrpcAddress::Unix(PathBuf::from(path)))
            }
            Some(_) => Err(wrong()),
            None => text.parse().map(GrpcAddress::Tcp).map_err(|_| wrong()),
        }
    }
}

impl FromConfig for GrpcAddress {
    fn from_config(value: &Value<'_>) -> Result<Self, String> {
        value.parse_with(|text| {
            text.parse()
                .map_err(|error: NotAnAddress| error.to_string())
        })
    }
}

/// A bound address.
#[derive(Debug)]
pub struct GrpcListener {
    address: GrpcAddress,
    socket: Socket,
}

impl GrpcListener {
    /// The address as bound, with the real port.
    pub fn address(&self) -> &GrpcAddress {
        &self.address
    }

    /// The connections of peers that `filter` lets in, for [`crate::serve::serve_grpc`].
    pub fn incoming(self, filter: PeerFilter) -> Incoming {
        Incoming::new(self.socket, filter)
    }
}

/// A socket file of ours, removed when the listener goes away, unless another one took its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(SocketFile {
            path: path.to_owned(),
            identity: identity(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // A file that stays behind is stale, and is replaced at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for text in ["127.0.0.1:7025", "[::1]:7025", "unix:/run/linkmail.sock"] {
            assert_eq!(text.parse::<GrpcAddress>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "localhost:7025",
            "unix:relative",
            "unix:",
            "unix:/",
            "127.0.0.1",
        ] {
            assert!(text.parse::<GrpcAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn local_is_loopback_or_unix() {
        for (text, local) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("unix:/s", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
        ] {
            assert_eq!(
                text.parse::<GrpcAddress>().unwrap().is_local(),
                local,
                "{text}"
            );
        }
    }
}
