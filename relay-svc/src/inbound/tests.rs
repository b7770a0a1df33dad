//! What a cycle that receives sees of the sessions over its link.

use std::{path::Path, sync::Arc};

use opentelemetry::Context;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    arrivals::{Arrivals, OpenWindow},
    config,
    names::{CycleId, LinkName},
    spool::Spool,
    telemetry::Instruments,
};

const CONFIG: &str = r#"
hostname = "relay.branch.example"
state = "STATE"
[limits]
sessions = 2
[[listener]]
address = "127.0.0.1:2525"
[[listener]]
address = "127.0.0.1:2526"
link = "isp"
[[route]]
domains = ["branch.example"]
to = "smtp://127.0.0.1:9"
[[link]]
name = "isp"
smart_host = "smtp://127.0.0.1:9"
dial = { driver = "implicit" }
"#;

/// Both listeners of the configuration: for the site, and of the link.
struct Relay {
    site: std::net::SocketAddr,
    link: std::net::SocketAddr,
    arrivals: Arrivals,
    cancel: CancellationToken,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn start(folder: &Path) -> Relay {
    start_as(folder, CONFIG).await
}

async fn start_as(folder: &Path, config: &str) -> Relay {
    let file = folder.join("relay.toml");
    let text = config.replace("STATE", &folder.display().to_string());
    std::fs::write(&file, text).unwrap();
    let config = config::load(&file).unwrap();
    let (arrivals, cancel) = (Arrivals::default(), CancellationToken::new());
    let spool = Spool::open(folder).unwrap();
    let inbound = Inbound::new(&config, spool, arrivals.clone(), Instruments::default());
    let inbound = Arc::new(inbound);
    let mut addresses = Vec::new();
    for listener in config.listeners {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(socket.local_addr().unwrap());
        tokio::spawn(serve(inbound.clone(), listener, socket, cancel.clone()));
    }
    Relay {
        site: addresses[0],
        link: addresses[1],
        arrivals,
        cancel,
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    async fn connect(address: std::net::SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(address).await.unwrap()))
    }

    async fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).await.unwrap();
    }

    /// The last line of the next reply.
    async fn reply(&mut self) -> String {
        let reply = self.whole_reply().await;
        reply.split_inclusive('\n').next_back().unwrap().to_owned()
    }

    async fn whole_reply(&mut self) -> String {
        let (mut reply, mut start) = (String::new(), 0);
        loop {
            self.0.read_line(&mut reply).await.unwrap();
            if reply.get(start + 3..start + 4) != Some("-") {
                return reply;
            }
            start = reply.len();
        }
    }

    async fn ask(&mut self, command: &str) -> String {
        self.send(&format!("{command}\r\n")).await;
        self.reply().await
    }
}

fn last(window: &OpenWindow) -> Instant {
    window.tally().last
}

#[tokio::test]
async fn a_stranger_who_gets_nowhere_does_not_hold_the_line_and_a_message_does() {
    let folder = tempfile::tempdir().unwrap();
    let relay = start(folder.path()).await;
    let link = LinkName::parse("isp").unwrap();
    let window = relay.arrivals.open(&link, CycleId::new(), Context::new());
    let mut client = Client::connect(relay.link).await;
    client.reply().await;
    let begun = last(&window);
    client.ask("EHLO client.example").await;
    assert!(last(&window) > begun, "EHLO is progress");

    for _ in 0..6 {
        client.ask("NOOP").await;
    }
    let idle = last(&window);
    client.ask("NOOP").await;
    client.send("NOO").await;
    client.ask("P").await;
    assert_eq!(last(&window), idle, "NOOP is not");

    client.ask("MAIL FROM:<a@client.example>").await;
    client.ask("RCPT TO:<b@branch.example>").await;
    client.ask("DATA").await;
    let mut before = last(&window);
    assert!(before > idle, "a transaction is");
    client.send("text\r\n").await;
    while last(&window) == before {
        tokio::task::yield_now().await;
    }
    before = last(&window);
    assert!(client.ask(".").await.starts_with("250 "));
    assert!(last(&window) > before);
    assert_eq!((window.tally().messages, window.tally().open), (1, 0));

    before = last(&window);
    client.ask("RSET").await;
    assert!(last(&window) > before, "after a message it may take breath");
}

#[tokio::test]
async fn a_site_that_stalls_leaves_a_place_to_the_provider() {
    let folder = tempfile::tempdir().unwrap();
    let relay = start(folder.path()).await;
    let mut stalled = Client::connect(relay.site).await;
    assert!(stalled.reply().await.starts_with("220 "));
    let mut turned_away = Client::connect(relay.site).await;
    assert!(turned_away.reply().await.starts_with("421 4.7.0 "));
    let mut rest = Vec::new();
    turned_away.0.read_to_end(&mut rest).await.unwrap();
    let mut provider = Client::connect(relay.link).await;
    assert!(provider.reply().await.starts_with("220 "));
}

/// The listener of the link, behind a proxy; everyone who has an address may do everything.
const BEHIND_PROXY: &str = r#"
proxy_protocol = true
proxy_from = ["127.0.0.1/32"]
relay_from = ["0.0.0.0/0", "::/0"]
repeats_from = ["0.0.0.0/0", "::/0"]
[[route]]
domains = ["held.example"]
to = "hold"
release_to = "smtp://127.0.0.1:9"
etrn_from = ["0.0.0.0/0", "::/0"]
[[route]]
domains = ["*"]
to = "smtp://127.0.0.1:9"
"#;

#[tokio::test]
async fn a_client_that_its_proxy_cannot_name_has_no_rights_by_address() {
    let folder = tempfile::tempdir().unwrap();
    let config = CONFIG.replace("link = \"isp\"\n", &format!("link = \"isp\"{BEHIND_PROXY}"));
    let relay = start_as(folder.path(), &config).await;
    let link = LinkName::parse("isp").unwrap();
    let window = relay.arrivals.open(&link, CycleId::new(), Context::new());
    let local = "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let unspecified = "\r\n\r\n\0\r\nQUIT\n\x21\0\0\0";
    for (header, may) in [
        (local, true),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n", true),
        ("PROXY UNKNOWN\r\n", false),
        (unspecified, false),
    ] {
        let begun = last(&window);
        let mut client = Client::connect(relay.link).await;
        client.send(header).await;
        client.reply().await;
        client.send("EHLO client.example\r\n").await;
        let offered = client.whole_reply().await;
        assert_eq!(offered.contains("XLINKMAIL"), may, "{header:?} {offered}");
        client.ask("MAIL FROM:<a@client.example>").await;
        let code = |reply: String| reply[..3].to_owned();
        let relays = client.ask("RCPT TO:<b@remote.example>").await;
        assert_eq!(code(relays), if may { "250" } else { "550" }, "{header:?}");
        client.ask("RSET").await;
        let releases = client.ask("ETRN held.example").await;
        assert_eq!(code(releases) != "459", may, "{header:?}");
        assert_eq!(last(&window) > begun, may, "{header:?}");
        client.ask("QUIT").await;
    }
}
