//! Plays against the pure client session, which carries out the orders of the given part.

use std::time::Duration;

use linkmail_smtp::{
    ClientPhase, ClientSession, ClientStep, ForwardPath, RecipientOutcome, ReversePath,
    Transaction, TransactionOutcome,
};

use crate::given::{body, bracketed, unknown, value};
use crate::player::{Failure, Side};
use crate::pure::take_line;
use crate::transcript::{Fact, Speaker, Transcript};

const STATEMENTS: &str = "one of: drives: | client_name | send | etrn | quit";

/// The pure client session with its orders.
#[derive(Debug)]
pub struct PureClient {
    session: ClientSession,
    sent: Vec<(Vec<ForwardPath>, Vec<u8>)>,
    outcomes: usize,
    awaiting: Option<ClientPhase>,
    output: Vec<u8>,
    closed: bool,
    facts: Vec<String>,
}

impl PureClient {
    /// A session with the orders that the transcript gives. Errors: a statement that is not known.
    pub fn new(transcript: &Transcript) -> Result<PureClient, Failure> {
        let name = transcript
            .given
            .iter()
            .find_map(|fact| fact.text.strip_prefix("client_name "))
            .unwrap_or("client.test");
        let mut client = PureClient {
            session: ClientSession::new(name.to_owned()),
            sent: Vec::new(),
            outcomes: 0,
            awaiting: None,
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
                let form = "send <sender> to <recipient> ... [8bit] body \"TEXT\" | N octets";
                let (transaction, body) =
                    parse_send(rest).ok_or_else(|| unknown(transcript, fact, form))?;
                self.sent.push((transaction.recipients.clone(), body));
                self.session.transmit(transaction);
            }
            "etrn" if rest != "off" => self.session.etrn(value(transcript, fact, rest)?),
            "quit" => self.session.quit(),
            // What is given for the server side, in a file that drives both.
            "drives:" | "client_name" | "hostname" | "client" | "own" | "unknown" | "held"
            | "etrn" | "size_limit" | "max_recipients" | "after" => {}
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
                ClientStep::SendBody => {
                    let body = self.sent.get(self.outcomes).map(|(_, body)| body.clone());
                    // A body that cannot be sent shows in the outcome.
                    let _ = self
                        .session
                        .body(&body.unwrap_or_default())
                        .and_then(|()| self.session.end_body());
                }
                ClientStep::Transaction(outcome) => self.note(&outcome),
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

    fn note(&mut self, outcome: &TransactionOutcome) {
        let recipients = self
            .sent
            .get(self.outcomes)
            .map(|(recipients, _)| recipients.clone())
            .unwrap_or_default();
        self.outcomes += 1;
        for (path, outcome) in recipients.iter().zip(&outcome.recipients) {
            let fate = match outcome {
                RecipientOutcome::Accepted(reply) => format!("accepted {reply}"),
                RecipientOutcome::Refused(reply) => format!("refused {reply}"),
                RecipientOutcome::NotTried(reason) => format!("not tried: {reason}"),
                RecipientOutcome::InDoubt => "in doubt".to_owned(),
            };
            self.facts.push(format!("recipient <{path}> {fate}"));
        }
    }
}

/// Reads `<sender> to <recipient> ... [8bit] body "TEXT"`.
fn parse_send(rest: &str) -> Option<(Transaction, Vec<u8>)> {
    let (sender, rest) = rest.split_once(" to ")?;
    let (recipients, text) = rest.split_once(" body ")?;
    let (recipients, eight_bit) = match recipients.strip_suffix(" 8bit") {
        Some(recipients) => (recipients, true),
        None => (recipients, false),
    };
    let sender = sender.strip_prefix('<')?.strip_suffix('>')?;
    let body = body(text)?;
    let recipients = bracketed(recipients)?
        .into_iter()
        .map(|path| ForwardPath::parse(path.as_bytes()).ok())
        .collect::<Option<Vec<_>>>()?;
    let transaction = Transaction {
        reverse_path: ReversePath::parse(sender.as_bytes()).ok()?,
        recipients,
        size: body.len() as u64,
        eight_bit,
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

    fn wait(&mut self, time: Duration) -> bool {
        if self.awaiting.is_some_and(|phase| time >= phase.timeout()) {
            self.session.time_out();
            self.run();
        }
        true
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
