//! The webhook against a server of our own on loopback.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::clock::Stamp;

fn notice() -> Waiting {
    Waiting {
        seq: 1,
        monitor: "branch".into(),
        id: "0198c5d2-0000-4000-8000-000000000001".into(),
        created: Stamp(0),
        next: Stamp(0),
        attempts: 0,
        body: "{\"id\":\"0198c5d2-0000-4000-8000-000000000001\"}".into(),
        traceparent: String::new(),
    }
}

/// A server that gives one answer to everything and remembers what it was sent. `None`: it never answers.
async fn server(answer: Option<&'static str>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?key=1", listener.local_addr().unwrap());
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let remembered = Arc::clone(&heard);
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut octets = Vec::new();
            while !octets.ends_with(b"}") {
                let mut buffer = [0; 4096];
                match socket.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => octets.extend_from_slice(&buffer[..read]),
                }
            }
            let text = String::from_utf8(octets).unwrap();
            remembered.lock().unwrap().push(text);
            match answer {
                Some(answer) => socket.write_all(answer.as_bytes()).await.unwrap(),
                None => open.push(socket),
            }
        }
    });
    (url, heard)
}

async fn deliver(url: &str) -> Result<(), String> {
    let webhook = Webhook::new(url.parse().unwrap()).unwrap();
    webhook.deliver(&notice()).await
}

#[tokio::test]
async fn a_notice_is_a_post_of_json_with_a_stable_identity() {
    let (url, heard) = server(Some("HTTP/1.1 204 No Content\r\n\r\n")).await;
    deliver(&url).await.unwrap();
    let heard = heard.lock().unwrap().remove(0).to_ascii_lowercase();
    let (head, body) = heard.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("post /hook?key=1 http/1.1\r\n"), "{head}");
    for header in [
        "content-type: application/json",
        "idempotency-key: 0198c5d2-0000-4000-8000-000000000001",
        "content-length: 45",
    ] {
        assert!(
            head.lines().any(|line| line == header),
            "no {header} in {head}"
        );
    }
    assert_eq!(body, notice().body);
}

#[tokio::test]
async fn only_2xx_is_taken_and_a_redirect_is_not_followed() {
    for (answer, told) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        ("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", ""),
        (
            "HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n",
            "answered 302 Found",
        ),
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "answered 404 Not Found",
        ),
        (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
            "answered 503 Service Unavailable",
        ),
        ("SSH-2.0-x\r\n", "invalid HTTP version parsed"),
    ] {
        let (url, heard) = server(Some(answer)).await;
        let delivered = deliver(&url).await.err().unwrap_or_default();
        assert_eq!(delivered, told, "{answer}");
        assert_eq!(heard.lock().unwrap().len(), 1, "{answer}");
    }
}

#[tokio::test]
async fn nobody_there_is_told_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let told = deliver(&format!("http://{address}/")).await.unwrap_err();
    assert!(told.contains("refused"), "{told}");
}

/// The clock is paused after the request has arrived: then nothing but the time limit can end the wait.
#[tokio::test]
async fn a_server_that_never_answers_costs_ten_seconds() {
    let (url, heard) = server(None).await;
    let delivering = tokio::spawn(async move { deliver(&url).await });
    while heard.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    assert_eq!(
        delivering.await.unwrap().unwrap_err(),
        "no answer within 10s"
    );
    assert!(start.elapsed().as_secs() <= 10);
}

#[test]
fn an_https_address_gets_a_client_that_speaks_tls() {
    let webhook = Webhook::new("https://pager.example/hook".parse().unwrap()).unwrap();
    assert!(format!("{webhook:?}").contains("Tls"));
}
