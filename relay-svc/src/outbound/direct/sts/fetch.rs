//! A policy file over HTTPS (RFC 8461 3.3): from `mta-sts.DOMAIN` itself, whose certificate must be for that name.
//!
//! No redirects, no caching by HTTP, no proxies.

use std::time::Duration;

use hickory_resolver::proto::rr::Name;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use linkmail_service::tls::{ClientSettings, ClientTls, FileError, Mode, Roots, TlsError};
use tokio::time::{Instant, timeout_at};

use super::policy::{Policy, PolicyError};
use crate::{
    names::HostPort,
    outbound::{
        connect::{ConnectError, connect_any},
        direct::name_servers::{LookupError, NameServers},
    },
};

/// All of it may take so long (RFC 8461 3.3: a minute at most).
const PATIENCE: Duration = Duration::from_secs(30);
/// A policy file has so many octets at most (RFC 8461 3.3).
const OCTETS: usize = 64 * 1024;

/// Why there is no policy file.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The host's name does not lead to an address.
    #[error(transparent)]
    LookUp(#[from] LookupError),
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// There is no TLS, or the certificate is not good.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// HTTP went wrong.
    #[error("{0}")]
    Http(String),
    /// The answer is another than 200; also a redirect.
    #[error("answered {0}")]
    Status(StatusCode),
    /// It is something else, such as a page for people.
    #[error("it is {0:?}, not text/plain")]
    ContentType(String),
    /// The file is none.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// It took too long.
    #[error("it took longer than {PATIENCE:?}")]
    TimedOut,
}

/// Fetches policy files.
#[derive(Debug)]
pub(super) struct Fetcher {
    tls: ClientTls,
    port: u16,
}

impl Fetcher {
    /// Certificates are checked by these roots: those that browsers trust, as RFC 8461 3.3 has it, unless told otherwise.
    ///
    /// # Errors
    /// The roots cannot be read.
    pub(super) fn new(roots: Roots) -> Result<Self, FileError> {
        Self::with(roots, 443)
    }

    fn with(roots: Roots, port: u16) -> Result<Self, FileError> {
        let settings = ClientSettings {
            roots: Some(roots),
            ..ClientSettings::new(Mode::Implicit)
        };
        let tls = ClientTls::new(&settings)?;
        Ok(Self { tls, port })
    }

    /// The policy of a domain.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn fetch(
        &self,
        names: &NameServers,
        domain: &str,
    ) -> Result<Policy, FetchError> {
        let deadline = Instant::now() + PATIENCE;
        match timeout_at(deadline, self.get(names, domain, deadline)).await {
            Ok(file) => Ok(Policy::parse(&file?)?),
            Err(_) => Err(FetchError::TimedOut),
        }
    }

    async fn get(
        &self,
        names: &NameServers,
        domain: &str,
        deadline: Instant,
    ) -> Result<Bytes, FetchError> {
        let host = format!("mta-sts.{domain}");
        let name = Name::from_ascii(&host)
            .map_err(|error| LookupError::Failed(Name::root(), format!("{host}: {error}")))?;
        let addresses = names.addresses(&name).await?.addresses;
        let to = HostPort::exchanger(&host, self.port);
        let stream = connect_any(&to, &addresses, deadline).await?;
        let stream = self.tls.connect(stream, &host, PATIENCE).await?;
        let wrong = |error: &dyn std::fmt::Display| FetchError::Http(error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| wrong(&error))?;
        let request = Request::get("/.well-known/mta-sts.txt")
            .header(header::HOST, &host)
            .header(
                header::USER_AGENT,
                concat!("relay-svc/", env!("CARGO_PKG_VERSION")),
            )
            .body(Empty::<Bytes>::new())
            .map_err(|error| wrong(&error))?;
        let answer = async {
            let answer = sender
                .send_request(request)
                .await
                .map_err(|error| wrong(&error))?;
            if answer.status() != StatusCode::OK {
                return Err(FetchError::Status(answer.status()));
            }
            let kind = answer.headers().get(header::CONTENT_TYPE);
            let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            let bare = kind.split(';').next().unwrap_or_default().trim();
            if !bare.eq_ignore_ascii_case("text/plain") {
                return Err(FetchError::ContentType(kind.to_owned()));
            }
            let body = Limited::new(answer.into_body(), OCTETS).collect().await;
            body.map(http_body_util::Collected::to_bytes)
                .map_err(|error| wrong(&error))
        };
        // The connection is driven here, and goes with this future: nothing is left behind by one that took too long.
        tokio::pin!(answer, connection);
        tokio::select! {
            file = &mut answer => file,
            ended = &mut connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(wrong(&error)),
            },
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{path::PathBuf, sync::Arc};

    use linkmail_service::tls::{IdentityFiles, ReloadingIdentity, ServerFiles, ServerTls};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::outbound::direct::{
        name_servers::Dnssec,
        test_zone::{Served, Zone},
    };

    pub(in super::super) const POLICY: &str =
        "version: STSv1\nmode: enforce\nmx: mx.remote.example\nmax_age: 604800\n";

    /// An HTTPS server that gives the same answer to every request, and the authority of its certificate.
    pub(in super::super) struct Web {
        folder: tempfile::TempDir,
        pub(in super::super) port: u16,
        task: tokio::task::JoinHandle<()>,
    }

    impl Web {
        pub(in super::super) async fn serve(certified: &str, answer: String) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut root = CertificateParams::new(Vec::new()).unwrap();
            root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![certified.to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &root).unwrap();
            let write = |name: &str, text: String| -> PathBuf {
                let path = folder.path().join(name);
                std::fs::write(&path, text).unwrap();
                path
            };
            write("root.pem", root.pem());
            let files = ServerFiles {
                default: IdentityFiles {
                    certificate: write("own.pem", certificate.pem()),
                    key: write("own.key", key.serialize_pem()),
                },
                by_name: Vec::new(),
                client_roots: None,
            };
            let identity = Arc::new(ReloadingIdentity::load(files).unwrap());
            let tls = ServerTls::new(identity).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let task = tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let Ok(mut stream) = tls.accept(stream, PATIENCE).await else {
                        continue;
                    };
                    let mut request = [0; 4096];
                    let _ = stream.read(&mut request).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                }
            });
            Self { folder, port, task }
        }

        pub(in super::super) fn fetcher(&self) -> Fetcher {
            Fetcher::with(Roots::File(self.folder.path().join("root.pem")), self.port).unwrap()
        }
    }

    impl Drop for Web {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    pub(in super::super) fn answer(head: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    }

    async fn zone() -> Served {
        Zone::default()
            .a("mta-sts.remote.example.", "127.0.0.1")
            .serve()
            .await
    }

    async fn fetch(certified: &str, answer: String) -> Result<Policy, String> {
        let (web, zone) = (Web::serve(certified, answer).await, zone().await);
        let fetched = web
            .fetcher()
            .fetch(&zone.name_servers(Dnssec::Off), "remote.example")
            .await;
        fetched.map_err(|error| error.to_string())
    }

    const NAME: &str = "mta-sts.remote.example";

    #[tokio::test]
    async fn a_policy_comes_from_the_host_that_has_its_name() {
        let good = answer("200 OK\r\nContent-Type: Text/Plain; charset=utf-8", POLICY);
        let policy = fetch(NAME, good.clone()).await.unwrap();
        assert_eq!(policy.mx, ["mx.remote.example"]);
        assert!(
            fetch("remote.example", good.clone())
                .await
                .unwrap_err()
                .contains("certificate")
        );
        // Another authority than ours vouches for it.
        let (web, zone) = (Web::serve(NAME, good).await, zone().await);
        let public = Fetcher::with(Roots::Public, web.port).unwrap();
        let error = public
            .fetch(&zone.name_servers(Dnssec::Off), "remote.example")
            .await;
        assert!(matches!(error, Err(FetchError::Tls(_))), "{error:?}");
        let error = web
            .fetcher()
            .fetch(&zone.name_servers(Dnssec::Off), "nobody.example")
            .await;
        assert!(matches!(error, Err(FetchError::Connect(_))), "{error:?}");
    }

    #[tokio::test]
    async fn what_is_no_policy_file_is_said() {
        let plain = "200 OK\r\nContent-Type: text/plain";
        let long = format!("{POLICY}x: {}\n", "x".repeat(OCTETS));
        for (given, wrong) in [
            (
                answer("404 Not Found\r\nContent-Type: text/plain", POLICY),
                "answered 404 Not Found",
            ),
            (
                answer(
                    "301 Moved Permanently\r\nLocation: https://remote.example/",
                    "",
                ),
                "answered 301 Moved Permanently",
            ),
            (
                answer("200 OK\r\nContent-Type: text/html", POLICY),
                "it is \"text/html\", not text/plain",
            ),
            (answer("200 OK", POLICY), "it is \"\", not text/plain"),
            (answer(plain, "<html>"), "line 1 of the policy is malformed"),
            (answer(plain, &long), "length limit exceeded"),
        ] {
            assert_eq!(fetch(NAME, given).await, Err(wrong.to_owned()));
        }
        let cut = format!("HTTP/1.1 {plain}\r\nContent-Length: 900\r\n\r\n{POLICY}");
        assert!(fetch(NAME, cut).await.is_err());
    }
}
