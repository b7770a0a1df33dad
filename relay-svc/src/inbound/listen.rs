//! Accepting connections until told to stop.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use linkmail_sasl::Mechanism;
use linkmail_smtp::ServerConfig;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    authority::Authority,
    connection::{self, Door},
    places::Places,
};
use crate::{
    arrivals::Arrivals,
    config::{Config, Limits, Listener, RecipientLists},
    inquiry::{CallForward, SenderDomains},
    names::LinkName,
    policy::{self, Policy},
    spool::Spool,
    telemetry::Instruments,
};

/// The pause after the system refused to accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all listeners share.
pub struct Inbound {
    pub(super) spool: Spool,
    pub(super) policy: Arc<Policy>,
    pub(super) limits: Limits,
    pub(super) smtp: Arc<ServerConfig>,
    pub(super) arrivals: Arrivals,
    pub(super) instruments: Instruments,
    pub(super) recipient_lists: RecipientLists,
    pub(super) call_forward: CallForward,
    pub(super) senders: SenderDomains,
    pub(super) authority: Option<Authority>,
    /// Networks that a provider releases from, with the link they stand for.
    released_from: Vec<(ipnet::IpNet, LinkName)>,
    pub(super) places: Places,
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
            limits: true,
            mt_priority: true,
            deliver_by: Some(0),
            xlinkmail_by_login: true,
            ..ServerConfig::default()
        };
        let limits = config.limits;
        let authority = config
            .credentials
            .as_ref()
            .map(|file| Authority::new(Arc::clone(file), config.hostname.to_string(), &limits));
        Self {
            spool,
            policy: Arc::clone(&config.policy),
            limits,
            smtp: Arc::new(smtp),
            arrivals,
            instruments,
            recipient_lists: config.recipient_lists.clone(),
            call_forward: CallForward::new(Arc::clone(&config.hostname), config.hosts.clone()),
            senders: SenderDomains::new(config.mx.dnssec),
            authority,
            released_from,
            places: Places::new(limits.sessions, limits.sessions_per_client, any_link),
        }
    }

    /// The link that a client's mail comes over: the listener's, or that of the network it is in. None for a client whose
    /// address is not known: who it is decides about a place that is kept back, and for how long a line is held.
    pub(super) fn link_of(&self, listener: &Listener, peer: SocketAddr) -> Option<LinkName> {
        if peer.ip().is_unspecified() {
            return None;
        }
        let by_network = || {
            let found = self
                .released_from
                .iter()
                .find(|(network, _)| policy::contains(&[*network], peer.ip()));
            found.map(|(_, link)| link.clone())
        };
        listener.link.clone().or_else(by_network)
    }

    /// What a session at this listener is configured with.
    fn smtp_at(&self, listener: &Listener) -> ServerConfig {
        let names = |mechanisms: &[Mechanism]| {
            let names = mechanisms.iter().map(|one| one.as_str().to_owned());
            names.collect()
        };
        ServerConfig {
            lmtp: listener.lmtp,
            // Asking for mail belongs to SMTP.
            etrn: self.smtp.etrn && !listener.lmtp,
            starttls: listener.tls.as_ref().is_some_and(|tls| !tls.implicit),
            require_tls: listener.require_tls,
            auth_in_clear: names(&listener.auth_in_clear),
            auth_in_tls: names(&listener.auth_in_tls),
            require_auth: listener.require_auth,
            strict_pipelining: listener.strict_pipelining,
            ..ServerConfig::clone(&self.smtp)
        }
    }
}

/// Serves one listener until cancelled; then waits until its sessions have said 421 and gone.
pub async fn serve(
    inbound: Arc<Inbound>,
    listener: Listener,
    socket: TcpListener,
    cancel: CancellationToken,
) {
    let door = Arc::new(Door {
        smtp: Arc::new(inbound.smtp_at(&listener)),
        inbound,
        listener,
    });
    let sessions = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Some(work) = connection::take(&door, stream, peer, &cancel) {
                    sessions.spawn(work);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(socket);
    sessions.close();
    sessions.wait().await;
}
