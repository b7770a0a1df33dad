//! The wiring: open, bind, take over, announce, run until told to stop, drain.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use linkmail_service::{
    allow::PeerFilter,
    exit::Exit,
    fresh,
    grpc::CallLayer,
    listen::BindError,
    shutdown,
    tasks::{Defect, Tasks},
    telemetry::{Telemetry, TelemetryConfig},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, Services},
    arrivals::Arrivals,
    config::Config,
    cycle::{self, Desk, Keeper, Shared},
    inbound::{self, Inbound},
    names::NextHop,
    operator::Operator,
    outbound::{self, Forwarder, InHand, Unrecorded, direct::Direct},
    release,
    route::Routes,
    spool::{Spool, SpoolError},
    telemetry::{Instruments, SCOPE},
};

/// What is in progress when the relay is told to stop gets so long: a message on its way, a program that hangs up.
const DRAIN: Duration = Duration::from_secs(25);
/// The last telemetry gets so long to leave.
const FLUSH: Duration = Duration::from_secs(3);
/// Finished messages can be looked up for so long.
const KEPT: Duration = Duration::from_secs(7 * 86_400);
/// Certificates, credentials and lists are looked at so often, to see whether they changed.
const REFRESH_EVERY: Duration = Duration::from_secs(15);
/// The wait before mail that could not be routed anew is tried again.
const REROUTE_PAUSE: Duration = Duration::from_secs(10);
/// What is older is looked for so often.
const FORGET_EVERY: Duration = Duration::from_secs(600);

/// Why the relay could not start, or go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Telemetry could not start.
    #[error(transparent)]
    Telemetry(#[from] linkmail_service::telemetry::TelemetryError),
    /// The spool could not be opened.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// A listener could not be bound.
    #[error("listener {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The gRPC address could not be bound.
    #[error("grpc.listen: {0}")]
    Grpc(#[from] BindError),
    /// The authorities for the policies of domains could not be read.
    #[error(transparent)]
    Authorities(#[from] linkmail_service::tls::FileError),
    /// The signals could not be caught.
    #[error("signals: {0}")]
    Signals(std::io::Error),
    /// It started, and a part of it ended by a defect; the log says which.
    #[error(transparent)]
    Defect(#[from] Defect),
}

impl StartError {
    /// The exit status that tells the kind of failure.
    #[must_use]
    pub fn exit(&self) -> Exit {
        let denied = |error: &std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
        match self {
            Self::Telemetry(_) | Self::Spool(SpoolError::Refused { .. }) => Exit::Config,
            Self::Spool(SpoolError::InUse { .. } | SpoolError::Unavailable(_)) => Exit::TempFail,
            Self::Spool(
                SpoolError::TooNew { .. }
                | SpoolError::Damaged(_)
                | SpoolError::DatabaseGone { .. }
                | SpoolError::Moved { .. }
                | SpoolError::HalfMoved { .. },
            ) => Exit::DataError,
            Self::Spool(_) => Exit::CannotCreate,
            Self::Listen { source, .. } if denied(source) => Exit::NoPermission,
            Self::Grpc(BindError::Refused { source, .. }) if denied(source) => Exit::NoPermission,
            Self::Defect(_) => Exit::Software,
            Self::Listen { .. } | Self::Grpc(_) | Self::Signals(_) | Self::Authorities(_) => {
                Exit::OsError
            }
        }
    }
}

/// Runs the relay until SIGTERM or SIGINT.
///
/// # Errors
/// It could not start, or a part of it ended by a defect.
pub async fn serve(config: Config) -> Result<(), StartError> {
    let telemetry = Telemetry::start(TelemetryConfig {
        service_name: SCOPE.to_owned(),
        service_version: env!("CARGO_PKG_VERSION").to_owned(),
        instance_id: config.hostname.to_string(),
        otlp_endpoint: config.telemetry.otlp.clone(),
        log_filter: config.telemetry.log.clone(),
        dropped_metric: "relay.telemetry.dropped",
    })?;
    let result = run(config, &telemetry).await;
    telemetry.shutdown(FLUSH).await;
    result
}

async fn run(config: Config, telemetry: &Telemetry) -> Result<(), StartError> {
    let spool = match &config.database {
        None => Spool::open_with(&config.state, config.limits.reserve)?,
        Some(database) => Spool::connect(database.options()?).await?,
    };
    limit_sizes(&config, &spool);
    if !spool.is_shared() {
        let routes = config.policy.routes.clone();
        told(spool.reroute(routes).await?);
    }
    let mut sockets = Vec::new();
    for listener in &config.listeners {
        let refused = |source| StartError::Listen {
            address: listener.address,
            source,
        };
        sockets.push(TcpListener::bind(listener.address).await.map_err(refused)?);
    }
    let grpc = config.grpc.at.listen.bind().await?;
    let announced = grpc.address().to_string();
    let signals = shutdown::signals().map_err(StartError::Signals)?;

    let tasks = Tasks::new();
    let fresh = fresh::keep_fresh(config.files(), REFRESH_EVERY, tasks.cancel().clone());
    tasks.spawn("files", fresh.map_err(StartError::Signals)?);
    let addresses: Vec<_> = sockets
        .iter()
        .filter_map(|socket| socket.local_addr().ok())
        .map(|a| a.to_string())
        .collect();
    let named = config.policy.routes.named_nodes();
    spool.know_nodes(named).await?;
    let (desk, operator) = start(&config, &spool, sockets, &tasks).await?;
    let services = Services {
        spool: spool.clone(),
        desk,
        operator,
        policy: Arc::clone(&config.policy),
        relay_from: config.grpc.relay_from.clone(),
        message_size: config.limits.message_size,
        recipients: config.limits.recipients,
        hostname: Arc::clone(&config.hostname),
        instruments: Instruments::default(),
        shutdown: tasks.cancel().clone(),
    };
    let incoming = grpc.incoming(PeerFilter::new(config.grpc.at.allow.iter().copied()));
    let calls = CallLayer::new(telemetry.tracer(), &telemetry.meter());
    tasks.spawn("gRPC", async move {
        if let Err(error) = api::serve(services, incoming, calls).await {
            tracing::error!(%error, "the gRPC services ended");
        }
    });
    tracing::info!(
        grpc = announced,
        listeners = serde_json::json!(addresses).to_string(),
        "ready"
    );
    let ended = tasks.run(&signals, DRAIN).await;
    spool.close().await;
    Ok(ended?)
}

/// How large mail may be for a link at any time.
fn limit_sizes(config: &Config, spool: &Spool) {
    let large = config.links.iter().filter_map(|link| {
        let oversize = link.oversize.as_ref()?;
        Some((link.name.clone(), oversize.above))
    });
    spool.limit_sizes(large.collect());
    if config.links.iter().any(|link| link.oversize.is_some()) {
        outbound::check_zone();
    }
}

/// Says that queued mail was routed anew.
fn told(moved: u64) {
    if moved > 0 {
        tracing::info!(
            recipients = moved,
            "the routes changed, or what links take: queued mail was routed anew"
        );
    }
}

/// Routes what is queued by our routes, beside everything else: whoever sends of it ends that first.
async fn reroute(spool: Spool, routes: Routes, cancel: CancellationToken) {
    while spool.is_shared() && !cancel.is_cancelled() {
        match spool.reroute_shared(&routes, &cancel).await {
            Ok(moved) => {
                told(moved);
                break;
            }
            Err(error) => {
                tracing::error!(%error, "queued mail cannot be routed anew");
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = tokio::time::sleep(REROUTE_PAUSE) => {}
                }
            }
        }
    }
    cancel.cancelled().await;
}

async fn start(
    config: &Config,
    spool: &Spool,
    sockets: Vec<TcpListener>,
    tasks: &Tasks,
) -> Result<(Desk, Operator), StartError> {
    let arrivals = Arrivals::on(spool);
    let exchange = arrivals.clone().exchange(tasks.cancel().clone());
    tasks.spawn("arrivals", exchange);
    let forwarder = Forwarder {
        spool: spool.clone(),
        policy: Arc::clone(&config.policy),
        retry: config.retry,
        late: config.late,
        hostname: Arc::clone(&config.hostname),
        postmaster: config.postmaster.clone(),
        instruments: Instruments::default(),
        unrecorded: Unrecorded::default(),
        in_hand: InHand::default(),
        flight: linkmail_smtp::FlightLimits::default(),
        hosts: config.hosts.clone(),
    };
    let routes = config.policy.routes.clone();
    let rerouting = reroute(spool.clone(), routes, tasks.cancel().clone());
    tasks.spawn("reroute", rerouting);
    let (desk, places) = Desk::new(&config.links);
    let shared = Shared {
        forwarder: forwarder.clone(),
        arrivals: arrivals.clone(),
        desk: desk.clone(),
    };
    cycle::interrupt_unkept(spool, &config.links).await?;
    for (link, requests) in places {
        let cancel = tasks.cancel().clone();
        let keeper = Keeper::post(shared.clone(), link, requests, cancel).await?;
        tasks.spawn("keeper", keeper);
    }
    let always: BTreeSet<_> = config.policy.routes.hops().into_iter().cloned().collect();
    for hop in always {
        if let NextHop::Smtp(host) = hop {
            tasks.spawn(
                "delivery",
                outbound::run_always(forwarder.clone(), host, tasks.cancel().clone()),
            );
        }
    }
    if config.policy.routes.use_mx() {
        tasks.spawn(
            "direct",
            direct(config, forwarder.clone(), &sockets, tasks)?,
        );
    }
    let links = config
        .links
        .iter()
        .map(|link| NextHop::Link(link.name.clone()));
    let operator = Operator::new(forwarder.clone(), links);
    let late = outbound::watch_late(spool.clone(), config.late, tasks.cancel().clone());
    tasks.spawn("late", late);
    tasks.spawn("release", release::run(forwarder, tasks.cancel().clone()));
    let inbound = Arc::new(Inbound::new(
        config,
        spool.clone(),
        arrivals,
        Instruments::default(),
    ));
    for (listener, socket) in config.listeners.iter().zip(sockets) {
        let serve = inbound::serve(
            Arc::clone(&inbound),
            listener.clone(),
            socket,
            tasks.cancel().clone(),
        );
        tasks.spawn("listener", serve);
    }
    tasks.spawn("forget", forget(spool.clone(), tasks.cancel().clone()));
    let (watched, cancel) = (spool.clone(), tasks.cancel().clone());
    tasks.spawn("clock", async move {
        cancel.run_until_cancelled(watched.watch_wall()).await;
    });
    Ok((desk, operator))
}

/// Delivery to the exchangers of domains. The addresses are those that were bound: they are what leads back to us.
fn direct(
    config: &Config,
    forwarder: Forwarder,
    sockets: &[TcpListener],
    tasks: &Tasks,
) -> Result<impl Future<Output = ()> + use<>, StartError> {
    let listening = sockets.iter().filter_map(|socket| socket.local_addr().ok());
    let listening: Vec<_> = listening.collect();
    let mx = &config.mx;
    let direct = Direct::new(forwarder, &listening, mx)?;
    Ok(outbound::direct::run(
        direct,
        mx.domains,
        tasks.cancel().clone(),
    ))
}

/// Forgets finished messages that are older than they need to be kept. One replica does it for all.
async fn forget(spool: Spool, cancel: CancellationToken) {
    while let Some(lease) = spool.claimed("forget", &cancel).await {
        let until = lease.ends().clone();
        tokio::select! {
            () = forget_under(spool.under(&lease)) => {}
            () = until.cancelled() => {}
            () = cancel.cancelled() => return,
        }
    }
}

async fn forget_under(spool: Spool) {
    loop {
        match spool.sweep_bodies().await {
            Ok(0) => {}
            Ok(_) => continue,
            Err(error) => {
                tracing::warn!(%error, "bodies that no message names could not be swept");
            }
        }
        match spool.forget(KEPT).await {
            Ok(0) => {}
            Ok(_) => continue,
            Err(error) => tracing::warn!(%error, "old messages could not be forgotten"),
        }
        tokio::time::sleep(FORGET_EVERY).await;
    }
}
