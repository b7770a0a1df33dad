//! The parts of a configuration that both daemons have: `[grpc]` and `[telemetry]`.

use ipnet::IpNet;

use crate::{config::Table, listen::GrpcAddress, telemetry};

/// Where the gRPC services listen, and who may connect.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Where.
    pub listen: GrpcAddress,
    /// Who, besides loopback and the Unix socket.
    pub allow: Vec<IpNet>,
}

impl Listen {
    /// Reads `listen` and `allow` of `[grpc]`; `default` is where it listens unless said otherwise. The caller finishes the
    /// table.
    #[must_use]
    pub fn read(table: &Table<'_>, default: GrpcAddress) -> Self {
        let listen = table.or("listen", default);
        let allow: Vec<IpNet> = table.list("allow");
        if !listen.is_local() && allow.is_empty() {
            table.error(
                "listen",
                format!("{listen} can be reached from other hosts: name those that may connect in grpc.allow, or listen on loopback or a Unix socket"),
            );
        }
        Self { listen, allow }
    }

    /// Without a `[grpc]`.
    #[must_use]
    pub fn at(default: GrpcAddress) -> Self {
        Self {
            listen: default,
            allow: Vec::new(),
        }
    }
}

/// Where telemetry goes, and what is logged.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// OTLP over gRPC; unset: the environment decides.
    pub otlp: Option<String>,
    /// A filter for log lines.
    pub log: String,
}

impl Telemetry {
    /// Reads `[telemetry]`.
    #[must_use]
    pub fn read(root: &Table<'_>) -> Self {
        let unless_said = || "info".to_owned();
        let Some(table) = root.table("telemetry") else {
            return Self {
                otlp: None,
                log: unless_said(),
            };
        };
        let otlp = table.parse_with("otlp", |text| {
            telemetry::check_endpoint(text).map(|()| text.to_owned())
        });
        let log = table.parse_with("log", |text| {
            telemetry::check_filter(text).map(|()| text.to_owned())
        });
        table.finish();
        Self {
            otlp,
            log: log.unwrap_or_else(unless_said),
        }
    }
}
