//! Plays against the pure client session, which carries out the orders of the given part.

use std::collections::HashSet;
use std::time::Duration;

use linkmail_smtp::{
    Asked, ClientConfig, ClientPhase, ClientSession, ClientStep, Content, DeliverBy, ForwardPath,
    Priority, Protocol, Recipient, RecipientOutcome, ReversePath, TlsUse, Transaction,
    TransactionOutcome,
};

use crate::given::{body, bracketed, unknown, value};
use crate::player::{Failure, Side};
use crate::pure::take_line;
use crate::transcript::{Fact, Speaker, Transcript};

const STATEMENTS: &str =
    "one of: drives: | client_name | protocol lmtp | starttls | login | send | ask | etrn | quit";

/// The pure client session with its orders.
#[derive(Debug)]
pub struct PureClient {
    session: ClientSession,
    sent: Vec<(Vec<Recipient>, Vec<u8>)>,
    /// Messages whose body was given, and whose end was not.
    fed: HashSet<u64>,
    awaiting: Option<ClientPhase>,
    awaits_tls: bool,
    login: Option<Login>,
    output: Vec<u8>,
    closed: bool,
    facts: Vec<String>,
}

impl PureClient {
    /// A session with the orders that the transcript gives. Errors: a statement that is not known.
    pub fn new(transcript: &Transcript) -> Result<PureClient, Failure> {
        let login = login(transcript)?;
        let mut client = PureClient {
            session: ClientSession::new(config(transcript, login.is_some())?),
            sent: Vec::new(),
            fed: HashSet::new(),
            awaiting: None,
            awaits_tls: false,
            login,
            output: Vec::new(),
            closed: false,
            facts: Vec::new(),
        };
        for fact in &transcript.given {
            client.order(transcript, fact)?;
        }
        client.run();
        Ok(client)
    }

    fn order(&mut self, transcript: &Transcript, fact: &Fact) -> Result<(), Failure> {
        let (key, rest) = fact.text.split_once(' ').unwrap_or((&fact.text, ""));
        match key {
            "send" => {
                let form = "send <sender> to <recipient> ... [priority N] [by BY] [8bit] [streamed] body \"TEXT\" | N octets";
                let (rest, streamed) = match rest.split_once(" streamed body ") {
                    Some((envelope, body)) => (format!("{envelope} body {body}"), true),
                    None => (rest.to_owned(), false),
                };
                let (transaction, body) =
                    parse_send(&rest).ok_or_else(|| unknown(transcript, fact, form))?;
                let content = if streamed {
                    Content::Streamed
                } else {
                    Content::Whole(body.clone())
                };
                self.sent.push((transaction.recipients.clone(), body));
                self.session.transmit(transaction, content);
            }
            "etrn" if rest != "off" => self.session.etrn(value(transcript, fact, rest)?),
            "ask" => {
                let path = bracketed(rest).and_then(|paths| paths.first().copied());
                let path = path.and_then(|path| ForwardPath::parse_utf8(path.as_bytes()).ok());
                let path = path.ok_or_else(|| unknown(transcript, fact, "ask <recipient>"))?;
                self.session.ask(path);
            }
            "quit" => self.session.quit(),
            // What is given for the server side, in a file that drives both.
            "drives:" | "pure:" | "client_name" | "protocol" | "hostname" | "client" | "own"
            | "unknown" | "held" | "etrn" | "chunking" | "size_limit" | "max_recipients"
            | "after" | "offer" | "auth" | "user" | "starttls" | "login" => {}
            _ => return Err(unknown(transcript, fact, STATEMENTS)),
        }
        Ok(())
    }

    fn run(&mut self) {
        self.awaiting = None;
        loop {
            match self.session.step() {
                ClientStep::Write(bytes) => self.output.extend(bytes),
                ClientStep::Read(phase) => {
                    self.awaiting = Some(phase);
                    return;
                }
                ClientStep::Ready => return,
                ClientStep::WriteSecret(bytes) => self.output.extend(bytes),
                ClientStep::StartTls => {
                    self.awaits_tls = true;
                    return;
                }
                ClientStep::Authenticate => match &self.login {
                    Some(login) => self
                        .session
                        .auth(login.mechanism, login.initial().as_deref()),
                    None => self.session.abandon("no login is given".into()),
                },
                ClientStep::AuthChallenge(challenge) => match &self.login {
                    Some(login) => self.session.auth_response(&login.respond(&challenge)),
                    None => self.session.abandon("no login is given".into()),
                },
                ClientStep::Authenticated => self.facts.push("logged in".into()),
                ClientStep::SendBody(number) => {
                    // A body that cannot be sent shows in the outcome.
                    let _ = if self.fed.insert(number) {
                        let body = self.body_of(number);
                        self.session.body(&body)
                    } else {
                        self.session.end_body()
                    };
                }
                ClientStep::Transaction(number, outcome) => self.note(number, &outcome),
                ClientStep::Asked(asked) => self.facts.push(match asked {
                    Asked::NotAsked(reply) => format!("not asked {reply}"),
                    Asked::Answer(reply) => format!("asked {reply}"),
                }),
                ClientStep::Etrn(reply) => self.facts.push(format!("etrn {reply}")),
                ClientStep::Closed(reason) => {
                    if !self.closed {
                        self.facts.push(format!("closed: {reason}"));
                    }
                    self.closed = true;
                    return;
                }
            }
        }
    }

    fn body_of(&self, number: u64) -> Vec<u8> {
        let sent = usize::try_from(number).ok().and_then(|n| self.sent.get(n));
        sent.map(|(_, body)| body.clone()).unwrap_or_default()
    }

    fn note(&mut self, number: u64, outcome: &TransactionOutcome) {
        let sent = usize::try_from(number).ok().and_then(|n| self.sent.get(n));
        let recipients = sent.map(|(recipients, _)| recipients.clone());
        let recipients = recipients.unwrap_or_default();
        for (recipient, outcome) in recipients.iter().zip(&outcome.recipients) {
            let path = &recipient.path;
            let fate = match outcome {
                RecipientOutcome::Accepted(reply) => format!("accepted {reply}"),
                RecipientOutcome::Refused(reply) => format!("refused {reply}"),
                RecipientOutcome::NotTried(reason) => format!("not tried: {reason}"),
                RecipientOutcome::InDoubt => "in doubt".to_owned(),
                RecipientOutcome::BadBody(bad) => format!("bad body: {bad}"),
            };
            self.facts.push(format!("recipient <{path}> {fate}"));
        }
    }
}

/// What the session is configured with.
fn config(transcript: &Transcript, authenticate: bool) -> Result<ClientConfig, Failure> {
    let mut config = ClientConfig {
        hostname: "client.test".into(),
        authenticate,
        ..ClientConfig::default()
    };
    for fact in &transcript.given {
        match fact.text.split_once(' ').unwrap_or((&fact.text, "")) {
            ("client_name", name) => config.hostname = name.to_owned(),
            ("protocol", "lmtp") => config.protocol = Protocol::Lmtp,
            ("starttls", "if offered") => config.tls = TlsUse::IfOffered,
            ("starttls", "required") => config.tls = TlsUse::Required,
            ("starttls", _) => return Err(unknown(transcript, fact, "if offered | required")),
            _ => {}
        }
    }
    Ok(config)
}

/// How the client logs in: `login NAME PASSWORD by PLAIN|LOGIN`.
#[derive(Debug)]
struct Login {
    name: String,
    password: String,
    mechanism: &'static str,
}

fn login(transcript: &Transcript) -> Result<Option<Login>, Failure> {
    let mut facts = transcript.given.iter();
    let Some(fact) = facts.find(|fact| fact.text.starts_with("login ")) else {
        return Ok(None);
    };
    let words: Vec<&str> = fact.text.split(' ').collect();
    let mechanism = match words.get(4) {
        Some(&"PLAIN") => "PLAIN",
        Some(&"LOGIN") => "LOGIN",
        _ => "",
    };
    match words.as_slice() {
        [_, name, password, "by", _] if !mechanism.is_empty() => Ok(Some(Login {
            name: (*name).to_owned(),
            password: (*password).to_owned(),
            mechanism,
        })),
        _ => Err(unknown(
            transcript,
            fact,
            "login NAME PASSWORD by PLAIN|LOGIN",
        )),
    }
}

impl Login {
    fn initial(&self) -> Option<Vec<u8>> {
        (self.mechanism == "PLAIN").then(|| self.plain())
    }

    fn respond(&self, challenge: &[u8]) -> Vec<u8> {
        match challenge {
            b"" => self.plain(),
            b"Username:" => self.name.clone().into_bytes(),
            _ => self.password.clone().into_bytes(),
        }
    }

    /// RFC 4616 2.
    fn plain(&self) -> Vec<u8> {
        format!("\0{}\0{}", self.name, self.password).into_bytes()
    }
}

/// Reads `<sender> to <recipient> ... [priority N] [by BY] [8bit] body "TEXT"`.
fn parse_send(rest: &str) -> Option<(Transaction, Vec<u8>)> {
    let (sender, rest) = rest.split_once(" to ")?;
    let (recipients, text) = rest.split_once(" body ")?;
    let (recipients, eight_bit) = match recipients.strip_suffix(" 8bit") {
        Some(recipients) => (recipients, true),
        None => (recipients, false),
    };
    let (recipients, deliver_by) = match recipients.split_once(" by ") {
        Some((recipients, by)) => (recipients, Some(DeliverBy::parse(by.as_bytes())?)),
        None => (recipients, None),
    };
    let (recipients, priority) = match recipients.split_once(" priority ") {
        Some((recipients, n)) => (recipients, Some(Priority::parse(n.as_bytes())?)),
        None => (recipients, None),
    };
    let sender = sender.strip_prefix('<')?.strip_suffix('>')?;
    let body = body(text)?;
    let recipients = bracketed(recipients)?
        .into_iter()
        .map(|path| ForwardPath::parse(path.as_bytes()).ok())
        .collect::<Option<Vec<_>>>()?;
    let transaction = Transaction {
        reverse_path: ReversePath::parse(sender.as_bytes()).ok()?,
        recipients: recipients.into_iter().map(Recipient::from).collect(),
        size: body.len() as u64,
        eight_bit,
        priority,
        deliver_by,
        ..Transaction::default()
    };
    Some((transaction, body))
}

impl Side for PureClient {
    fn speaker(&self) -> Speaker {
        Speaker::Client
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.session.receive(bytes);
        self.run();
    }

    fn end_of_input(&mut self) {
        self.session.end_of_input();
        self.run();
    }

    fn lose_line(&mut self) -> bool {
        self.session.line_lost();
        self.run();
        true
    }

    fn wait(&mut self, time: Duration) -> bool {
        if self.awaiting.is_some_and(|phase| time >= phase.timeout()) {
            self.session.time_out();
            self.run();
        }
        true
    }

    fn start_tls(&mut self) -> bool {
        if self.awaits_tls {
            self.awaits_tls = false;
            self.session.tls_started();
            self.run();
            return true;
        }
        false
    }

    fn next_line(&mut self) -> Option<Vec<u8>> {
        take_line(&mut self.output)
    }

    fn is_closed(&mut self) -> bool {
        self.closed
    }

    fn facts(&mut self) -> Option<Vec<String>> {
        Some(self.facts.clone())
    }
}
