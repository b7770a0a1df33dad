//! The connection to the collector: OTLP over gRPC, no retries, every step bounded.

use std::time::Duration;

use opentelemetry_otlp::{
    MetricExporter, RetryPolicy, SpanExporter, WithExportConfig, WithTonicConfig,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// The longest that one export may take, connecting included.
pub(super) const EXPORT_LIMIT: Duration = Duration::from_secs(5);

const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const CERTIFICATE_VARIABLE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";

/// The endpoint of the environment, if one is named there.
pub(super) fn from_environment() -> Option<String> {
    std::env::var(ENDPOINT_VARIABLE)
        .ok()
        .filter(|endpoint| !endpoint.is_empty())
}

/// Reads an address. `https` needs the authority's certificate in `OTEL_EXPORTER_OTLP_CERTIFICATE`:
/// no other roots are built in.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, String> {
    const WANTED: &str = "expected a URL such as \"http://127.0.0.1:4317\"";
    let endpoint =
        Endpoint::from_shared(text.to_owned()).map_err(|_| format!("{WANTED}, found {text:?}"))?;
    let endpoint = endpoint.connect_timeout(EXPORT_LIMIT).timeout(EXPORT_LIMIT);
    match (endpoint.uri().scheme_str(), endpoint.uri().host()) {
        (Some("http"), Some(_)) => Ok(endpoint),
        (Some("https"), Some(_)) => with_tls(endpoint),
        _ => Err(format!("{WANTED}, found {text:?}")),
    }
}

fn with_tls(endpoint: Endpoint) -> Result<Endpoint, String> {
    let path = std::env::var(CERTIFICATE_VARIABLE).map_err(|_| {
        format!(
            "https needs the authority's certificate: a PEM file named by {CERTIFICATE_VARIABLE}"
        )
    })?;
    let pem = std::fs::read(&path).map_err(|error| format!("{path}: {error}"))?;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
    endpoint
        .tls_config(tls)
        .map_err(|error| format!("{path}: {error}"))
}

/// Both exporters over one channel, which connects when the first export asks for it.
/// Call inside the runtime that is to drive the connection.
pub(super) fn exporters(channel: Channel) -> Result<(SpanExporter, MetricExporter), String> {
    let spans = SpanExporter::builder()
        .with_tonic()
        .with_channel(channel.clone())
        .with_timeout(EXPORT_LIMIT)
        .with_retry_policy(RetryPolicy::disabled())
        .build()
        .map_err(|error| error.to_string())?;
    let metrics = MetricExporter::builder()
        .with_tonic()
        .with_channel(channel)
        .with_timeout(EXPORT_LIMIT)
        .with_retry_policy(RetryPolicy::disabled())
        .build()
        .map_err(|error| error.to_string())?;
    Ok((spans, metrics))
}
