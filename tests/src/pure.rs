//! Plays against the pure server session, in a small world that the given part describes.

use std::sync::Arc;
use std::time::Duration;

use linkmail_smtp::reply_reader::ReplyReader;
use linkmail_smtp::transcript::escape;
use linkmail_smtp::{
    Domain, EtrnNode, ForwardPath, Reply, ReversePath, ServerConfig, ServerSession, ServerStep,
    replies,
};

use crate::given::{bracketed, unknown, value};
use crate::player::{Failure, Side};
use crate::transcript::{Fact, Speaker, Transcript};

/// After so long without a command the client is closed (RFC 5321 4.5.3.2.7).
const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);
/// A message of more lines is shown by its size.
const MAX_SHOWN_LINES: usize = 12;

const STATEMENTS: &str = "one of: drives: | hostname | client | own | unknown | held | size_limit | max_recipients | etrn off | after data";

#[derive(Debug)]
struct World {
    may_relay: bool,
    may_etrn: bool,
    own: Vec<Domain>,
    unknown: Vec<ForwardPath>,
    held: Vec<(Domain, u64)>,
    after_data: Option<Reply>,
}

#[derive(Debug)]
struct Draft {
    reverse_path: ReversePath,
    recipients: Vec<ForwardPath>,
    eight_bit: bool,
    body: Vec<u8>,
}

/// The pure server session with a world around it.
#[derive(Debug)]
pub struct PureServer {
    session: ServerSession,
    world: World,
    draft: Option<Draft>,
    stored: usize,
    output: Vec<u8>,
    closed: bool,
    facts: Vec<String>,
}

impl PureServer {
    /// The world that the transcript gives, and a session in it. Errors: a statement that is not known.
    pub fn new(transcript: &Transcript) -> Result<PureServer, Failure> {
        let mut config = ServerConfig {
            hostname: "relay.test".into(),
            size_limit: 25_000_000,
            max_recipients: 1000,
            etrn: true,
        };
        let mut world = World {
            may_relay: false,
            may_etrn: false,
            own: Vec::new(),
            unknown: Vec::new(),
            held: Vec::new(),
            after_data: None,
        };
        for fact in &transcript.given {
            state(transcript, fact, &mut config, &mut world)?;
        }
        let mut server = PureServer {
            session: ServerSession::new(Arc::new(config)),
            world,
            draft: None,
            stored: 0,
            output: Vec::new(),
            closed: false,
            facts: Vec::new(),
        };
        server.run();
        Ok(server)
    }

    fn run(&mut self) {
        loop {
            let reply = match self.session.step() {
                ServerStep::Write(bytes) => {
                    self.output.extend(bytes);
                    continue;
                }
                ServerStep::Read => return,
                ServerStep::Close => {
                    self.closed = true;
                    return;
                }
                ServerStep::Body(bytes) => {
                    if let Some(draft) = &mut self.draft {
                        draft.body.extend(bytes);
                    }
                    continue;
                }
                ServerStep::Abort(reason) => {
                    self.draft = None;
                    self.facts.push(format!("aborted: {reason}"));
                    continue;
                }
                ServerStep::Mail {
                    reverse_path,
                    eight_bit,
                    ..
                } => {
                    self.draft = Some(Draft {
                        reverse_path,
                        recipients: Vec::new(),
                        eight_bit,
                        body: Vec::new(),
                    });
                    replies::sender_ok()
                }
                ServerStep::Recipient(path) => self.recipient(path),
                ServerStep::BeginData => replies::start_data(),
                ServerStep::EndOfData => self.store(),
                ServerStep::Etrn(node) => self.release(&node),
            };
            self.session.answer(reply);
        }
    }

    fn recipient(&mut self, path: ForwardPath) -> Reply {
        let world = &self.world;
        let is_ours = match &path {
            ForwardPath::Postmaster => true,
            ForwardPath::Mailbox(mailbox) => world.own.contains(mailbox.domain()),
        };
        if !is_ours && !world.may_relay {
            return replies::relaying_denied();
        }
        if world.unknown.contains(&path) {
            return replies::no_such_user();
        }
        if let Some(draft) = &mut self.draft {
            draft.recipients.push(path);
        }
        replies::recipient_ok()
    }

    fn store(&mut self) -> Reply {
        let draft = self.draft.take();
        if let Some(reply) = &self.world.after_data {
            return reply.clone();
        }
        if let Some(draft) = draft {
            self.facts.extend(described(&draft));
        }
        self.stored += 1;
        replies::message_accepted(&self.stored.to_string())
    }

    fn release(&mut self, node: &EtrnNode) -> Reply {
        if !self.world.may_etrn {
            return replies::release_denied(node);
        }
        let asked = match node {
            EtrnNode::Queue(_) => return replies::release_unavailable(node),
            EtrnNode::Domain(domain) | EtrnNode::Subdomains(domain) => domain,
        };
        let below = format!(".{asked}").to_ascii_lowercase();
        let is_meant = |held: &Domain| {
            held == asked
                || matches!(node, EtrnNode::Subdomains(_))
                    && held.to_string().to_ascii_lowercase().ends_with(&below)
        };
        let counts: Vec<u64> = self
            .world
            .held
            .iter()
            .filter(|(domain, _)| is_meant(domain))
            .map(|(_, count)| *count)
            .collect();
        if counts.is_empty() {
            return replies::release_denied(node);
        }
        match counts.iter().sum() {
            0 => replies::nothing_held(node),
            count => {
                self.facts.push(format!("release {node}"));
                replies::release_counted(count, node)
            }
        }
    }
}

/// A stored message in the words of `-- then --`.
fn described(draft: &Draft) -> Vec<String> {
    let recipients: Vec<String> = draft
        .recipients
        .iter()
        .map(|path| format!("<{path}>"))
        .collect();
    let eight_bit = if draft.eight_bit { " 8bit" } else { "" };
    let mut lines = vec![format!(
        "message from <{}> to {}{eight_bit}",
        draft.reverse_path,
        recipients.join(" ")
    )];
    let count = draft.body.iter().filter(|byte| **byte == b'\n').count();
    if count > MAX_SHOWN_LINES {
        lines.push(format!("  {} octets in {count} lines", draft.body.len()));
    } else {
        let body = draft.body.strip_suffix(b"\r\n").unwrap_or_default();
        if !draft.body.is_empty() {
            let text = escape(body).replace("\\r\\n", "\n");
            let shown = |line: &str| match line {
                "" => "|".to_owned(),
                line => format!("| {line}"),
            };
            lines.extend(text.split('\n').map(shown));
        }
    }
    lines
}

fn state(
    transcript: &Transcript,
    fact: &Fact,
    config: &mut ServerConfig,
    world: &mut World,
) -> Result<(), Failure> {
    let wrong = |expected: &str| unknown(transcript, fact, expected);
    let (key, rest) = fact.text.split_once(' ').unwrap_or((&fact.text, ""));
    match key {
        "drives:" | "send" | "quit" | "client_name" => {}
        "hostname" => config.hostname = rest.to_owned(),
        "client" => {
            world.may_relay = rest.contains("in relay_from");
            world.may_etrn = rest.contains("in etrn_from");
        }
        "own" => {
            for word in rest.split_whitespace() {
                world.own.push(value(transcript, fact, word)?);
            }
        }
        "unknown" => {
            let paths = bracketed(rest).ok_or_else(|| wrong("unknown <address> ..."))?;
            for path in paths {
                let path = ForwardPath::parse(path.as_bytes()).map_err(|_| wrong("an address"))?;
                world.unknown.push(path);
            }
        }
        "held" => {
            let (count, node) = rest
                .split_once(" for ")
                .ok_or_else(|| wrong("held N for DOMAIN"))?;
            let count = value(transcript, fact, count)?;
            world.held.push((value(transcript, fact, node)?, count));
        }
        "size_limit" => config.size_limit = value(transcript, fact, rest)?,
        "max_recipients" => config.max_recipients = value(transcript, fact, rest)?,
        "etrn" if rest == "off" => config.etrn = false,
        // An order for the client side, in a file that drives both.
        "etrn" => {}
        "after" => {
            let reply = rest
                .strip_prefix("data ")
                .ok_or_else(|| wrong("after data REPLY"))?;
            let mut reader = ReplyReader::new();
            reader.receive(format!("{reply}\r\n").as_bytes());
            world.after_data = reader.next_reply().map_err(|_| wrong("a reply"))?;
        }
        _ => return Err(wrong(STATEMENTS)),
    }
    Ok(())
}

impl Side for PureServer {
    fn speaker(&self) -> Speaker {
        Speaker::Server
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
        if time >= COMMAND_TIMEOUT {
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

/// Takes the first line with its CRLF out of `output`, or all of it if there is none.
pub(crate) fn take_line(output: &mut Vec<u8>) -> Option<Vec<u8>> {
    if output.is_empty() {
        return None;
    }
    let end = output
        .windows(2)
        .position(|pair| pair == b"\r\n")
        .map_or(output.len(), |at| at + 2);
    Some(output.drain(..end).collect())
}
