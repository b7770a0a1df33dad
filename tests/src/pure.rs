//! Plays against the pure server session, in a small world that the given part describes.

use std::sync::Arc;
use std::time::Duration;

use linkmail_smtp::{AuthAnswer, Reply, ServerSession, ServerStep, replies};

use crate::player::{Failure, Side};
use crate::transcript::{Speaker, Transcript};
use crate::world::{Draft, World, described};

/// After so long without a command the client is closed (RFC 5321 4.5.3.2.7).
const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);

/// The pure server session with a world around it.
#[derive(Debug)]
pub struct PureServer {
    session: ServerSession,
    world: World,
    draft: Option<Draft>,
    stored: usize,
    output: Vec<u8>,
    awaits_tls: bool,
    closed: bool,
    facts: Vec<String>,
}

impl PureServer {
    /// The world that the transcript gives, and a session in it. Errors: a statement that is not known.
    pub fn new(transcript: &Transcript) -> Result<PureServer, Failure> {
        let world = World::new(transcript)?;
        let config = Arc::new(world.config.clone());
        let mut session = if world.in_tls {
            ServerSession::within_tls(config)
        } else {
            ServerSession::new(config)
        };
        if world.talks_early {
            session.early_talker();
        }
        let mut server = PureServer {
            session,
            world,
            draft: None,
            stored: 0,
            output: Vec::new(),
            awaits_tls: false,
            closed: false,
            facts: Vec::new(),
        };
        server.run();
        Ok(server)
    }

    fn run(&mut self) {
        loop {
            match self.session.step() {
                ServerStep::Write(bytes) => self.output.extend(bytes),
                ServerStep::Read => return,
                ServerStep::StartTls => {
                    self.awaits_tls = true;
                    return;
                }
                ServerStep::Close => {
                    self.closed = true;
                    return;
                }
                ServerStep::Auth { mechanism, initial } => {
                    let answer = self.world.auth(mechanism, initial);
                    self.authenticate(answer);
                }
                ServerStep::AuthResponse(response) => {
                    let answer = self.world.auth_response(response);
                    self.authenticate(answer);
                }
                step => self.transact(step),
            }
        }
    }

    /// The steps that are about a message, or about those that wait.
    fn transact(&mut self, step: ServerStep) {
        let answer = match step {
            ServerStep::Mail {
                reverse_path,
                mut parameters,
            } => {
                let reply = self.world.sender(&mut parameters);
                self.draft = Some(Draft {
                    reverse_path,
                    parameters,
                    recipients: Vec::new(),
                    body: Vec::new(),
                    protocol: "",
                });
                reply
            }
            ServerStep::Recipient {
                forward_path,
                parameters,
            } => {
                let answer = self.world.recipient(&forward_path);
                if let Some(draft) = self.draft.as_mut().filter(|_| answer.is_positive()) {
                    draft.recipients.push((forward_path, parameters));
                }
                answer
            }
            ServerStep::BeginData => {
                if let Some(draft) = &mut self.draft {
                    draft.protocol = self.session.protocol();
                }
                let other = self.world.begin_data.clone();
                other.unwrap_or_else(replies::start_data)
            }
            ServerStep::Body(bytes) => {
                if let Some(draft) = &mut self.draft {
                    draft.body.extend(bytes);
                }
                return;
            }
            ServerStep::EndOfData => self.store(),
            ServerStep::Abort(reason) => {
                self.draft = None;
                self.facts.push(format!("aborted: {reason}"));
                return;
            }
            ServerStep::Etrn(node) => {
                let (answer, started) = self.world.release(&node);
                if started {
                    self.facts.push(format!("release {node}"));
                }
                answer
            }
            _ => return,
        };
        self.session.answer(answer);
    }

    fn authenticate(&mut self, answer: AuthAnswer) {
        if let AuthAnswer::Accepted { identity } = &answer {
            self.facts.push(format!("authenticated {identity}"));
            if self.world.trusts(identity) {
                self.session.trust_peer();
            }
        }
        self.session.answer_auth(answer);
    }

    fn store(&mut self) -> Reply {
        let Some(draft) = self.draft.take() else {
            return replies::spool_unavailable();
        };
        let answer = self.world.after_data(self.stored + 1);
        if answer.is_positive() {
            self.facts.extend(described(&draft));
            self.stored += 1;
        }
        answer
    }
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
