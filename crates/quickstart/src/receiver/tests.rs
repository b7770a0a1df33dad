//! The receiver against a real client, and against raw sockets for what a real client does not do.

use lettre::{Address, SmtpTransport, Transport, address::Envelope, transport::smtp::Error};
use tokio::{io::AsyncReadExt, task::JoinHandle};

use super::*;

/// A receiver that runs.
struct Running {
    address: SocketAddr,
    notices: mpsc::Receiver<Notice>,
    cancel: CancellationToken,
    serving: JoinHandle<()>,
}

impl Running {
    async fn start(folder: Option<&Path>) -> Self {
        let rules = Rules {
            hostname: "receiver.test".into(),
            refusals: vec![
                "nobody@world.example=550 5.1.1 no such user"
                    .parse()
                    .unwrap(),
            ],
            folder: folder.map(Path::to_owned),
        };
        let any = "127.0.0.1:0".parse().unwrap();
        let receiver = Receiver::bind(&[any], rules).await.unwrap();
        let address = receiver.addresses()[0];
        let (sender, notices) = mpsc::channel(1000);
        let cancel = CancellationToken::new();
        Self {
            address,
            notices,
            serving: tokio::spawn(receiver.serve(sender, cancel.clone())),
            cancel,
        }
    }

    /// Sends a message with lettre's client, which writes the last CRLF itself.
    async fn send(&self, to: &'static [&'static str], content: Vec<u8>) -> Result<(), Error> {
        let transport = SmtpTransport::builder_dangerous(self.address.ip().to_string())
            .port(self.address.port())
            .build();
        let sending = tokio::task::spawn_blocking(move || {
            let to = to.iter().map(|to| to.parse::<Address>().unwrap());
            let from = "alice@branch.example".parse().unwrap();
            let envelope = Envelope::new(Some(from), to.collect()).unwrap();
            let content = content.strip_suffix(b"\r\n").unwrap();
            transport.send_raw(&envelope, content).map(drop)
        });
        sending.await.unwrap()
    }

    /// Stops it; what it told of that was not read yet.
    async fn stop(self) -> Vec<Notice> {
        self.cancel.cancel();
        self.serving.await.unwrap();
        let mut notices = self.notices;
        let mut all = Vec::new();
        while let Some(notice) = notices.recv().await {
            all.push(notice);
        }
        all
    }
}

fn message(number: usize, body: &str) -> Vec<u8> {
    format!("Message-ID: <{number}@b.example>\r\nSubject: no. {number}\r\n\r\n{body}\r\n")
        .into_bytes()
}

#[tokio::test]
async fn a_message_is_told_and_kept_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(Some(folder.path())).await;
    let content = message(1, &"..a line with dots\r\n.\r\n".repeat(20_000));
    let to = &["bob@world.example", "carol@world.example"];
    running.send(to, content.clone()).await.unwrap();
    let address = running.address;
    let notices = running.stop().await;
    let [Notice::Arrived(arrival)] = notices.as_slice() else {
        panic!("{notices:?}")
    };
    assert_eq!(arrival.listener, address);
    assert_eq!(arrival.reverse_path, "alice@branch.example");
    assert_eq!(arrival.recipients, to);
    assert_eq!(arrival.size, content.len() as u64);
    assert_eq!(arrival.message_id, "<1@b.example>");
    assert_eq!(arrival.subject, "no. 1");
    let kept = std::fs::read(arrival.file.as_ref().unwrap()).unwrap();
    assert!(kept == content);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_refused_recipient_hears_its_reply_and_nothing_arrives() {
    let running = Running::start(None).await;
    let refused = running.send(&["nobody@world.example"], message(1, "x"));
    let error = refused.await.unwrap_err();
    assert_eq!(error.status().unwrap().to_string(), "550");
    assert!(error.to_string().contains("no such user"), "{error}");
    let refused = Notice::Refused {
        recipient: "nobody@world.example".into(),
        reply: "550 5.1.1 no such user".into(),
    };
    assert_eq!(running.stop().await, [refused]);
}

#[tokio::test]
async fn a_thousand_messages_in_one_flight_arrive_once_and_in_order() {
    let mut running = Running::start(None).await;
    let mut flight = b"EHLO x\r\n".to_vec();
    for number in 0..1000 {
        flight.extend(b"MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n");
        flight.extend(message(number, "x"));
        flight.extend(b".\r\n");
    }
    flight.extend(b"QUIT\r\n");
    let stream = TcpStream::connect(running.address).await.unwrap();
    let (mut replies, mut commands) = stream.into_split();
    let writing = tokio::spawn(async move { commands.write_all(&flight).await.map(|()| commands) });
    for number in 0..1000 {
        let Some(Notice::Arrived(arrival)) = running.notices.recv().await else {
            panic!("no arrival {number}")
        };
        assert_eq!(arrival.message_id, format!("<{number}@b.example>"));
    }
    let mut said = String::new();
    replies.read_to_string(&mut said).await.unwrap();
    assert_eq!(said.matches("\r\n250 2.0.0 OK, queued").count(), 1000);
    drop(writing.await.unwrap().unwrap());
    assert_eq!(running.stop().await, []);
}

#[tokio::test]
async fn a_message_that_breaks_off_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(Some(folder.path())).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let commands = b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\nSubject: half\r\n";
    stream.write_all(commands).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert!(said.contains("354"), "{said}");
    assert_eq!(running.stop().await, []);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_stop_says_421_and_one_session_too_many_too() {
    let running = Running::start(None).await;
    let mut open = Vec::new();
    for _ in 0..SESSIONS {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        // The greeting has come, so the session has its place.
        assert_eq!(stream.read_u8().await.unwrap(), b'2');
        open.push(stream);
    }
    let mut said = String::new();
    let mut one_more = TcpStream::connect(running.address).await.unwrap();
    one_more.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("421 4.7.0"), "{said}");
    running.cancel.cancel();
    for mut stream in open {
        said.clear();
        stream.read_to_string(&mut said).await.unwrap();
        assert!(said.contains("\r\n421 4.3.2"), "{said}");
    }
    assert_eq!(running.stop().await, []);
}

#[tokio::test]
async fn a_folder_must_be_there_and_an_address_free() {
    let rules = |folder: Option<&str>| Rules {
        hostname: "receiver.test".into(),
        refusals: Vec::new(),
        folder: folder.map(PathBuf::from),
    };
    let any = "127.0.0.1:0".parse().unwrap();
    let error = Receiver::bind(&[any], rules(Some("/nonexistent")))
        .await
        .unwrap_err();
    assert!(matches!(error, ReceiverError::NotAFolder(_)), "{error}");
    let first = Receiver::bind(&[any], rules(None)).await.unwrap();
    let error = Receiver::bind(&first.addresses(), rules(None))
        .await
        .unwrap_err();
    assert!(matches!(error, ReceiverError::Listen { .. }), "{error}");
}
