//! The webhook: a notice is an HTTP POST of JSON.
//!
//! 2xx is taken; everything else is not, redirects too. Limits: no authentication but what stands in the address.

use std::time::Duration;

use http::{Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::TokioExecutor,
};
use tonic::codegen::Bytes;

use super::{Channel, Waiting};

/// The wait for the head of the answer, with all that comes before it.
const ANSWER: Duration = Duration::from_secs(10);

/// Where notices are posted.
#[derive(Debug)]
pub struct Webhook {
    url: Uri,
    client: HttpClient,
}

#[derive(Debug)]
enum HttpClient {
    Plain(Client<HttpConnector, Full<Bytes>>),
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

/// Why there is no webhook.
#[derive(Debug, thiserror::Error)]
#[error(
    "webhook.url: no certificates to check an https address by: {0}; install the system's, such as ca-certificates"
)]
pub struct NoCertificates(std::io::Error);

impl Webhook {
    /// Posts to `url`.
    ///
    /// # Errors
    /// It is an https address, and the system has no root certificates.
    pub fn new(url: Uri) -> Result<Self, NoCertificates> {
        let mut builder = Client::builder(TokioExecutor::new());
        // A notice a day needs no connection that is kept.
        builder.pool_max_idle_per_host(0);
        let client = if url.scheme_str() == Some("https") {
            let connector = HttpsConnectorBuilder::new()
                .with_native_roots()
                .map_err(NoCertificates)?
                .https_only()
                .enable_http1()
                .build();
            HttpClient::Tls(builder.build(connector))
        } else {
            HttpClient::Plain(builder.build(HttpConnector::new()))
        };
        Ok(Self { url, client })
    }

    async fn post(&self, notice: &Waiting) -> Result<StatusCode, String> {
        let request = Request::post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(
                header::USER_AGENT,
                concat!("monitor-svc/", env!("CARGO_PKG_VERSION")),
            )
            .header("Idempotency-Key", &notice.id)
            .body(Full::from(notice.body.clone()))
            .map_err(|error| error.to_string())?;
        let answer = match &self.client {
            HttpClient::Plain(client) => client.request(request).await,
            HttpClient::Tls(client) => client.request(request).await,
        };
        answer
            .map(|answer| answer.status())
            .map_err(|error| innermost(&error))
    }
}

impl Channel for Webhook {
    async fn deliver(&self, notice: &Waiting) -> Result<(), String> {
        match tokio::time::timeout(ANSWER, self.post(notice)).await {
            Ok(Ok(status)) if status.is_success() => Ok(()),
            Ok(Ok(status)) => Err(format!("answered {status}")),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(format!("no answer within {ANSWER:?}")),
        }
    }
}

/// The last error of a chain; the library's own words ("client error") say nothing.
fn innermost(error: &Error) -> String {
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
