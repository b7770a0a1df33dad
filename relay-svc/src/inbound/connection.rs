//! From an accepted connection to a session: whose connection a proxy passes on, and whether there is a place for it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use linkmail_service::proxy_protocol::{self, Progress, Source};
use linkmail_smtp::{ServerConfig, replies};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Inbound, places::Place, session};
use crate::{config::Listener, policy};

/// The wait for a client that is turned away to take its 421.
const TURN_AWAY: Duration = Duration::from_secs(5);
/// The wait for a proxy's header, which it sends with the connection.
const PROXY_HEADER: Duration = Duration::from_secs(5);

/// Stands for a client that a proxy cannot name: it has no rights by its address, not even those of the proxy.
const UNKNOWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A listener, and what its sessions need.
pub(super) struct Door {
    pub(super) inbound: Arc<Inbound>,
    pub(super) listener: Listener,
    pub(super) smtp: Arc<ServerConfig>,
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is to be done with a connection, if anything.
pub(super) fn take(
    door: &Arc<Door>,
    stream: TcpStream,
    peer: SocketAddr,
    cancel: &CancellationToken,
) -> Option<Work> {
    let (door, cancel) = (Arc::clone(door), cancel.clone());
    let Some(proxies) = &door.listener.proxy_from else {
        // The place is taken at once, so that there are never more tasks than places, but for those that turn away.
        let place = door.place(peer);
        return Some(Box::pin(async move {
            door.serve(place, stream, peer, cancel).await;
        }));
    };
    if !policy::contains(proxies, peer.ip()) {
        tracing::warn!(%peer, "closed: not a proxy of proxy_from");
        return None;
    }
    Some(Box::pin(async move {
        let mut stream = stream;
        let header = tokio::select! {
            () = cancel.cancelled() => return,
            header = timeout(PROXY_HEADER, proxy_header(&mut stream)) => header,
        };
        let client = match header {
            Ok(Ok(Source::Client(client))) => client,
            Ok(Ok(Source::Proxy)) => peer,
            Ok(Ok(Source::Unknown)) => UNKNOWN,
            Ok(Err(error)) => {
                tracing::warn!(%peer, error, "closed: no header of the proxy");
                return;
            }
            Err(_) => {
                tracing::warn!(%peer, error = "timed out", "closed: no header of the proxy");
                return;
            }
        };
        let place = door.place(client);
        door.serve(place, stream, client, cancel).await;
    }))
}

impl Door {
    fn place(&self, peer: SocketAddr) -> Option<Place> {
        let over_link = self.inbound.link_of(&self.listener, peer).is_some();
        match self.inbound.places.take(peer.ip(), over_link) {
            Ok(place) => Some(place),
            Err(reason) => {
                tracing::warn!(%peer, "turned away: {reason}");
                None
            }
        }
    }

    async fn serve(
        &self,
        place: Option<Place>,
        stream: TcpStream,
        peer: SocketAddr,
        cancel: CancellationToken,
    ) {
        match place {
            Some(place) => {
                session::run(self, stream, peer, cancel).await;
                drop(place);
            }
            None => self.turn_away(stream).await,
        }
    }

    async fn turn_away(&self, mut stream: TcpStream) {
        if self.listener.tls.as_ref().is_some_and(|tls| tls.implicit) {
            // It waits for TLS, and would understand nothing else.
            return;
        }
        let mut reply = Vec::new();
        replies::too_many_sessions(&self.smtp.hostname).encode(&mut reply);
        // A client that does not take its reply loses nothing but that.
        let _ = timeout(TURN_AWAY, async {
            stream.write_all(&reply).await?;
            stream.shutdown().await
        })
        .await;
    }
}

/// Reads the header of the PROXY protocol, and not an octet more.
async fn proxy_header(stream: &mut TcpStream) -> Result<Source, String> {
    let mut octets = Vec::new();
    loop {
        match proxy_protocol::next(&octets).map_err(|error| error.to_string())? {
            Progress::Done(source) => return Ok(source),
            Progress::More(count) => {
                let begun = octets.len();
                octets.resize(begun + count, 0);
                let read = stream.read_exact(&mut octets[begun..]).await;
                read.map_err(|error| error.to_string())?;
            }
        }
    }
}
