//! The wiring: open, bind, announce, run until told to stop.

use std::time::Duration;

use linkmail_service::{
    allow::PeerFilter,
    exit::Exit,
    grpc::CallLayer,
    listen::{BindError, GrpcListener},
    shutdown,
    tasks::{Defect, Tasks},
    telemetry::{Telemetry, TelemetryConfig},
};

use crate::{
    api::{self, Services},
    clock::{Clock, Stamp, plausible},
    config::Config,
    ledger::{Ledger, LedgerError},
    notify::{Channel, Nobody, Webhook},
    relay::GrpcRelay,
    run::{Desk, Keeper, Notifier, Reader, Shared},
    telemetry::{Gauges, Instruments, SCOPE},
};

/// What is in progress when the monitor is told to stop gets so long; what it was is in the ledger.
const DRAIN: Duration = Duration::from_secs(10);
/// The last telemetry gets so long to leave.
const FLUSH: Duration = Duration::from_secs(3);

/// Why the monitor could not start, or go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Telemetry could not start.
    #[error(transparent)]
    Telemetry(#[from] linkmail_service::telemetry::TelemetryError),
    /// The ledger could not be opened.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The relay's address cannot be used.
    #[error("relay.address: {0}")]
    Relay(tonic::transport::Error),
    /// The webhook cannot be used.
    #[error(transparent)]
    Webhook(#[from] crate::notify::NoCertificates),
    /// The gRPC address could not be bound.
    #[error("grpc.listen: {0}")]
    Grpc(#[from] BindError),
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
            Self::Telemetry(_) | Self::Relay(_) | Self::Webhook(_) => Exit::Config,
            Self::Ledger(LedgerError::InUse { .. }) => Exit::TempFail,
            Self::Ledger(LedgerError::TooNew { .. } | LedgerError::Damaged(_)) => Exit::DataError,
            Self::Ledger(_) => Exit::CannotCreate,
            Self::Grpc(BindError::Refused { source, .. }) if denied(source) => Exit::NoPermission,
            Self::Defect(_) => Exit::Software,
            Self::Grpc(_) | Self::Signals(_) => Exit::OsError,
        }
    }
}

/// Runs the monitor until SIGTERM or SIGINT.
///
/// # Errors
/// It could not start, or a part of it ended by a defect.
pub async fn serve(config: Config) -> Result<(), StartError> {
    let telemetry = Telemetry::start(TelemetryConfig {
        service_name: SCOPE.to_owned(),
        service_version: env!("CARGO_PKG_VERSION").to_owned(),
        instance_id: config.relay.consumer.clone(),
        otlp_endpoint: config.telemetry.otlp.clone(),
        log_filter: config.telemetry.log.clone(),
        dropped_metric: "monitor.telemetry.dropped",
    })?;
    let result = run(config, &telemetry).await;
    telemetry.shutdown(FLUSH).await;
    result
}

async fn run(config: Config, telemetry: &Telemetry) -> Result<(), StartError> {
    let ledger = Ledger::open(&config.state)?;
    let clock = clock(&ledger).await?;
    let names = config.monitors.iter().map(|monitor| monitor.name.clone());
    ledger.enrol(names.collect(), clock.now()).await?;
    let channel = config.relay.address.channel().map_err(StartError::Relay)?;
    let webhook = config.webhook.clone().map(Webhook::new).transpose()?;
    let grpc = config.grpc.listen.bind().await?;
    let announced = grpc.address().to_string();
    let signals = shutdown::signals().map_err(StartError::Signals)?;

    let gauges = Gauges::default();
    gauges.observe(&telemetry.meter(), clock);
    let recipients = config.monitors.iter();
    let recipients = recipients.map(|monitor| monitor.reverse_path.to_string());
    let consumer = config.relay.consumer.clone();
    let shared = Shared {
        relay: GrpcRelay::new(channel, consumer, recipients.collect(), telemetry.tracer()),
        ledger,
        clock,
        instruments: Instruments::new(&telemetry.meter()),
        gauges,
    };
    let tasks = Tasks::new();
    let desk = start(&config, &shared, &tasks);
    match webhook {
        Some(webhook) => notify(&shared, webhook, &tasks),
        None => notify(&shared, Nobody, &tasks),
    }
    serve_calls(&config, &shared, desk, grpc, telemetry, &tasks);
    tracing::info!(
        grpc = announced,
        relay = %config.relay.address,
        monitors = config.monitors.len(),
        "ready"
    );
    Ok(tasks.run(&signals, DRAIN).await?)
}

async fn clock(ledger: &Ledger) -> Result<Clock, StartError> {
    let (wall, recorded) = (Stamp::now(), ledger.newest_time().await?);
    let start = plausible(wall, recorded);
    if start != wall {
        tracing::warn!(
            shows = wall.rfc2822(),
            taken = start.rfc2822(),
            "the wall clock was never set; times are wrong until the next start with one that is"
        );
    }
    Ok(Clock::starting_at(start))
}

/// Starts the keepers and the reader.
fn start(config: &Config, shared: &Shared<GrpcRelay>, tasks: &Tasks) -> Desk {
    let (desk, seats) = Desk::new(&config.monitors);
    for seat in seats {
        let keeper = Keeper::new(shared.clone(), seat);
        tasks.spawn("keeper", keeper.run(tasks.cancel().clone()));
    }
    let reader = Reader::new(shared.clone(), config.monitors.clone());
    tasks.spawn("reader", reader.run(tasks.cancel().clone()));
    desk
}

fn notify(shared: &Shared<GrpcRelay>, channel: impl Channel, tasks: &Tasks) {
    let notifier = Notifier {
        ledger: shared.ledger.clone(),
        clock: shared.clock,
        channel,
        instruments: shared.instruments.clone(),
        gauges: shared.gauges.clone(),
    };
    tasks.spawn("notifier", notifier.run(tasks.cancel().clone()));
}

fn serve_calls(
    config: &Config,
    shared: &Shared<GrpcRelay>,
    desk: Desk,
    grpc: GrpcListener,
    telemetry: &Telemetry,
    tasks: &Tasks,
) {
    let services = Services {
        ledger: shared.ledger.clone(),
        desk,
        clock: shared.clock,
        shutdown: tasks.cancel().clone(),
    };
    let incoming = grpc.incoming(PeerFilter::new(config.grpc.allow.iter().copied()));
    let calls = CallLayer::new(telemetry.tracer(), &telemetry.meter());
    tasks.spawn("gRPC", async move {
        if let Err(error) = api::serve(services, incoming, calls).await {
            tracing::error!(%error, "the gRPC services ended");
        }
    });
}
