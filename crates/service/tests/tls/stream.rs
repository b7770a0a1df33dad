//! Streams with and without TLS over real sockets.

use std::time::Duration;

use linkmail_service::tls::{ClientSettings, Liveness, MaybeTls, Mode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, split},
    net::{TcpListener, TcpStream},
};

use crate::{
    authority::Authority,
    peer::{PATIENCE, client, server},
};

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap());
    let (near, far) = tokio::join!(near, listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// The client's end and the server's, with TLS or without.
async fn pair(tls: bool) -> (MaybeTls<TcpStream>, MaybeTls<TcpStream>) {
    let (near, far) = sockets().await;
    if !tls {
        return (MaybeTls::plain(near), MaybeTls::plain(far));
    }
    let authority = Authority::new("root");
    let server = server(authority.issue("mx.branch.example").server());
    let client = client(&ClientSettings::new(Mode::Opportunistic));
    let (near, far) = tokio::join!(
        client.connect(near, "mx.branch.example", PATIENCE),
        server.accept(far, PATIENCE)
    );
    (near.unwrap(), far.unwrap())
}

async fn until(stream: &MaybeTls<TcpStream>, wanted: Liveness) {
    let seen = async {
        while stream.liveness() != wanted {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.unwrap();
}

#[tokio::test]
async fn halves_carry_both_ways_at_once() {
    for tls in [false, true] {
        let (near, far) = pair(tls).await;
        assert_eq!(near.is_tls(), tls);
        let text: Vec<u8> = (0..1_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let (mut read, mut write) = split(near);
        let (mut far_read, mut far_write) = split(far);
        let there = async {
            write.write_all(&text).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let echo = async {
            tokio::io::copy(&mut far_read, &mut far_write)
                .await
                .unwrap();
            far_write.shutdown().await.unwrap();
        };
        let mut back = Vec::new();
        let (_, _, read) = tokio::join!(there, echo, read.read_to_end(&mut back));
        read.unwrap();
        assert!(back == text);
    }
}

#[tokio::test]
async fn an_idle_connection_shows_what_came_and_that_it_ended() {
    for tls in [false, true] {
        let (mut near, mut far) = pair(tls).await;
        let mut octets = [0; 3];
        far.write_all(b"250").await.unwrap();
        far.flush().await.unwrap();
        near.read_exact(&mut octets).await.unwrap();
        assert!(near.is_idle(), "tls {tls}");
        far.write_all(b"421 bye").await.unwrap();
        far.flush().await.unwrap();
        until(&near, Liveness::DataWaiting).await;
        // What TLS holds decrypted counts as much as what is in the socket.
        near.read_exact(&mut octets).await.unwrap();
        assert!(!tls || near.liveness() == Liveness::DataWaiting);
        let mut rest = [0; 4];
        near.read_exact(&mut rest).await.unwrap();
        assert!(near.is_idle(), "tls {tls}");
        far.close(PATIENCE).await;
        // Under TLS the end is announced first.
        let end = if tls {
            Liveness::DataWaiting
        } else {
            Liveness::Closed
        };
        until(&near, end).await;
        assert_eq!(near.read(&mut rest).await.unwrap(), 0);
        assert!(!near.is_idle());
    }
}

#[tokio::test]
async fn a_close_without_notice_is_an_end_and_a_peer_that_does_not_read_holds_no_close() {
    let (mut near, far) = pair(true).await;
    // The socket goes away below TLS.
    drop(far);
    assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
    let (mut near, _far) = pair(true).await;
    let flood = async {
        let block = vec![0; 1 << 16];
        while near.write_all(&block).await.is_ok() {}
    };
    let full = tokio::time::timeout(Duration::from_millis(300), flood).await;
    assert!(full.is_err());
    let began = std::time::Instant::now();
    near.close(Duration::from_millis(100)).await;
    assert!(began.elapsed() < PATIENCE);
}

#[tokio::test]
async fn tls_is_not_put_into_tls() {
    let (near, far) = pair(true).await;
    assert!(near.into_plain().is_err());
    assert_eq!(
        far.socket().local_addr().unwrap().ip().to_string(),
        "127.0.0.1"
    );
    let (near, _) = pair(false).await;
    assert!(near.into_plain().is_ok());
}
