//! Accepting connections, up to a limit, until told to stop.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use linkmail_smtp::{ServerConfig, replies};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{places::Places, session};
use crate::{
    arrivals::Arrivals,
    config::{Config, Limits, Listener},
    names::LinkName,
    policy::{self, Policy},
    spool::Spool,
    telemetry::Instruments,
};

/// The pause after the system refused to accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The wait for a client that is turned away to take its 421.
const TURN_AWAY: Duration = Duration::from_secs(5);

/// What all listeners share.
pub struct Inbound {
    pub(super) spool: Spool,
    pub(super) policy: Arc<Policy>,
    pub(super) limits: Limits,
    pub(super) smtp: Arc<ServerConfig>,
    pub(super) arrivals: Arrivals,
    pub(super) instruments: Instruments,
    /// Networks that a provider releases from, with the link they stand for.
    released_from: Vec<(ipnet::IpNet, LinkName)>,
    places: Places,
}

impl Inbound {
    /// Made from the configuration.
    #[must_use]
    pub fn new(
        config: &Config,
        spool: Spool,
        arrivals: Arrivals,
        instruments: Instruments,
    ) -> Self {
        let released_from = config
            .links
            .iter()
            .flat_map(|link| {
                link.released_from
                    .iter()
                    .map(|network| (*network, link.name.clone()))
            })
            .collect::<Vec<_>>();
        let any_link = !released_from.is_empty()
            || config
                .listeners
                .iter()
                .any(|listener| listener.link.is_some());
        let smtp = ServerConfig {
            hostname: config.hostname.to_string(),
            size_limit: config.limits.message_size,
            max_recipients: config.limits.recipients,
            etrn: config.policy.routes.holds().next().is_some(),
            chunking: true,
            dsn: true,
            smtputf8: true,
            ..ServerConfig::default()
        };
        Self {
            spool,
            policy: Arc::clone(&config.policy),
            limits: config.limits,
            smtp: Arc::new(smtp),
            arrivals,
            instruments,
            released_from,
            places: Places::new(config.limits.sessions, any_link),
        }
    }

    /// The link that a client's mail comes over: the listener's, or that of the network it is in.
    pub(super) fn link_of(&self, listener: &Listener, peer: SocketAddr) -> Option<LinkName> {
        let by_network = || {
            let found = self
                .released_from
                .iter()
                .find(|(network, _)| policy::contains(&[*network], peer.ip()));
            found.map(|(_, link)| link.clone())
        };
        listener.link.clone().or_else(by_network)
    }
}

/// Serves one listener until cancelled; then waits until its sessions have said 421 and gone.
pub async fn serve(
    inbound: Arc<Inbound>,
    listener: Listener,
    socket: TcpListener,
    cancel: CancellationToken,
) {
    let listener = Arc::new(listener);
    let sessions = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = socket.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let over_link = inbound.link_of(&listener, peer).is_some();
        match inbound.places.take(over_link) {
            Some(place) => {
                let (inbound, listener, cancel) =
                    (Arc::clone(&inbound), Arc::clone(&listener), cancel.clone());
                sessions.spawn(async move {
                    session::run(&inbound, &listener, stream, peer, cancel).await;
                    drop(place);
                });
            }
            None => {
                tracing::warn!(%peer, "turned away: as many sessions as are allowed are open");
                sessions.spawn(turn_away(stream, inbound.smtp.hostname.clone()));
            }
        }
    }
    drop(socket);
    sessions.close();
    sessions.wait().await;
}

async fn turn_away(mut stream: TcpStream, hostname: String) {
    let mut reply = Vec::new();
    replies::too_many_sessions(&hostname).encode(&mut reply);
    // A client that does not take its reply loses nothing but that.
    let _ = tokio::time::timeout(TURN_AWAY, async {
        stream.write_all(&reply).await?;
        stream.shutdown().await
    })
    .await;
}
