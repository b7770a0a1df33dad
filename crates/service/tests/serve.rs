//! Listening, letting in, serving and ending, with real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use linkmail_service::allow::PeerFilter;
use linkmail_service::exit::Exit;
use linkmail_service::listen::{BindError, ConnectError, GrpcAddress};
use linkmail_service::serve::{Served, serve_grpc};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Router};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const LIMIT: Duration = Duration::from_secs(5);

async fn health() -> Router {
    let (_reporter, service) = tonic_health::server::health_reporter();
    Server::builder().add_service(service)
}

struct Running {
    address: GrpcAddress,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<Served, tonic::transport::Error>>,
}

async fn start(address: &str, grace: Duration) -> Running {
    let address: GrpcAddress = address.parse().unwrap();
    let listener = address.bind().await.unwrap();
    let address = listener.address().clone();
    let incoming = listener.incoming(PeerFilter::default());
    let shutdown = CancellationToken::new();
    let router = health().await;
    let serving = tokio::spawn(serve_grpc(router, incoming, shutdown.clone(), grace));
    Running {
        address,
        shutdown,
        serving,
    }
}

impl Running {
    async fn check(&self) {
        let channel = self.address.connect(LIMIT).await.unwrap();
        let mut client = HealthClient::new(channel);
        let request = HealthCheckRequest::default();
        client.check(request).await.unwrap();
    }

    async fn end(self) -> Served {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(LIMIT, self.serving).await;
        ended.expect("serving ends").unwrap().unwrap()
    }

    fn tcp(&self) -> std::net::SocketAddr {
        match &self.address {
            GrpcAddress::Tcp(address) => *address,
            GrpcAddress::Unix(_) => panic!("a Unix socket"),
        }
    }
}

#[tokio::test]
async fn tcp_serves_and_shows_its_real_port() {
    let running = start("127.0.0.1:0", LIMIT).await;
    assert!(!running.address.to_string().ends_with(":0"));
    running.check().await;
    assert_eq!(running.end().await, Served::Drained);
}

#[tokio::test]
async fn a_client_that_says_nothing_does_not_hold_the_end() {
    let running = start("127.0.0.1:0", Duration::from_millis(200)).await;
    let mut silent = TcpStream::connect(running.tcp()).await.unwrap();
    running.check().await;
    let before = Instant::now();
    assert_eq!(running.end().await, Served::Aborted);
    assert!(before.elapsed() >= Duration::from_millis(200));
    assert!(before.elapsed() < Duration::from_secs(2));
    // Its connection is closed, not only forgotten.
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(LIMIT, silent.read_to_end(&mut rest)).await;
    assert!(closed.is_ok());
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_its_place_comes_free_again() {
    let running = start("127.0.0.1:0", Duration::ZERO).await;
    let mut silent = Vec::new();
    for _ in 0..256 {
        let mut client = TcpStream::connect(running.tcp()).await.unwrap();
        // The server's first frame says that the connection has its place.
        assert!(client.read_u8().await.is_ok());
        silent.push(client);
    }
    let mut refused = TcpStream::connect(running.tcp()).await.unwrap();
    assert!(refused.read_u8().await.is_err());
    silent.pop();
    // The server notices in its own time.
    let served = async {
        while TcpStream::connect(running.tcp())
            .await
            .unwrap()
            .read_u8()
            .await
            .is_err()
        {}
    };
    tokio::time::timeout(LIMIT, served).await.unwrap();
    running.end().await;
}

#[tokio::test]
async fn an_open_stream_ends_with_the_grace_period() {
    let running = start("127.0.0.1:0", Duration::from_millis(100)).await;
    let channel = running.address.connect(LIMIT).await.unwrap();
    let mut client = HealthClient::new(channel);
    let watching = client.watch(HealthCheckRequest::default()).await.unwrap();
    let mut watching = watching.into_inner();
    assert!(watching.message().await.unwrap().is_some());
    assert_eq!(running.end().await, Served::Aborted);
    assert!(watching.message().await.is_err());
}

#[tokio::test]
async fn a_unix_socket_serves_with_its_mode_and_goes_with_the_listener() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.sock");
    let address = format!("unix:{}", path.display());
    let running = start(&address, LIMIT).await;
    assert_eq!(running.address.to_string(), address);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    running.check().await;

    let second: GrpcAddress = address.parse().unwrap();
    assert!(matches!(second.bind().await, Err(BindError::InUse(_))));
    running.check().await;

    assert_eq!(running.end().await, Served::Drained);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_stale_socket_file_is_replaced_and_any_other_file_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "closing leaves the file");
    let address = format!("unix:{}", path.display());
    let running = start(&address, LIMIT).await;
    running.check().await;
    running.end().await;

    std::fs::write(&path, "precious").unwrap();
    let address: GrpcAddress = address.parse().unwrap();
    let refused = address.bind().await.unwrap_err();
    assert!(
        refused
            .to_string()
            .ends_with("the path exists and is not a socket")
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = GrpcAddress::Tcp(listener.local_addr().unwrap());
    drop(listener);
    let error = address.connect(LIMIT).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot connect to {address}: Connection refused (os error 111)")
    );
    assert_eq!(Exit::from(&error), Exit::Unavailable);

    let missing: GrpcAddress = "unix:/nowhere/relay.sock".parse().unwrap();
    let error = missing.connect(LIMIT).await.unwrap_err();
    assert!(matches!(error, ConnectError::Failed { .. }), "{error}");
}

#[tokio::test]
async fn a_port_in_use_says_so() {
    let running = start("127.0.0.1:0", LIMIT).await;
    let refused = running.address.bind().await.unwrap_err().to_string();
    let said = format!(
        "cannot listen on {}: Address already in use",
        running.address
    );
    assert!(refused.starts_with(&said), "{refused}");
}
