//! The small world of a server transcript: what the given part says there is, and how its shell decides.

use linkmail_smtp::reply_reader::ReplyReader;
use linkmail_smtp::transcript::escape;
use linkmail_smtp::{
    AuthAnswer, Domain, EtrnNode, ForwardPath, MailParameters, Priority, RcptParameters, Reply,
    ReversePath, ServerConfig, replies,
};

use crate::given::{bracketed, unknown, value};
use crate::player::Failure;
use crate::transcript::{Fact, Transcript};

/// A message of more lines is shown by its size.
const MAX_SHOWN_LINES: usize = 12;

const STATEMENTS: &str = "one of: drives: | hostname | client | own | unknown | held | size_limit | max_recipients | max_messages | max_commands | etrn off | chunking off | offer | auth in | require | user | trusts | lmtp | tls from the start | pipelining strict | talks early | begin data | after data";

#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) config: ServerConfig,
    pub(crate) in_tls: bool,
    pub(crate) talks_early: bool,
    pub(crate) begin_data: Option<Reply>,
    after_data: Option<Reply>,
    may_relay: bool,
    may_etrn: bool,
    may_prioritise: bool,
    own: Vec<Domain>,
    unknown: Vec<ForwardPath>,
    held: Vec<(Domain, u64)>,
    users: Vec<(String, String)>,
    trusted: Vec<String>,
    /// The AUTH exchange that is under way: its mechanism, and the name that LOGIN was given.
    exchange: Option<(String, Option<Vec<u8>>)>,
}

#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) reverse_path: ReversePath,
    pub(crate) parameters: MailParameters,
    pub(crate) recipients: Vec<(ForwardPath, RcptParameters)>,
    pub(crate) body: Vec<u8>,
    pub(crate) protocol: &'static str,
}

impl World {
    /// The world that the transcript gives. Errors: a statement that is not known.
    pub(crate) fn new(transcript: &Transcript) -> Result<World, Failure> {
        let mut world = World {
            config: ServerConfig {
                hostname: "relay.test".into(),
                etrn: true,
                chunking: true,
                ..ServerConfig::default()
            },
            ..World::default()
        };
        for fact in &transcript.given {
            if !world.configure(transcript, fact)? {
                world.populate(transcript, fact)?;
            }
        }
        Ok(world)
    }

    /// What the session is configured with; false if the statement is about something else.
    fn configure(&mut self, transcript: &Transcript, fact: &Fact) -> Result<bool, Failure> {
        let wrong = |expected: &str| unknown(transcript, fact, expected);
        let config = &mut self.config;
        let (key, rest) = fact.text.split_once(' ').unwrap_or((&fact.text, ""));
        match (key, rest) {
            ("hostname", name) => config.hostname = name.to_owned(),
            ("size_limit", limit) => config.size_limit = value(transcript, fact, limit)?,
            ("max_recipients", most) => config.max_recipients = value(transcript, fact, most)?,
            ("max_messages", most) => config.max_messages = Some(value(transcript, fact, most)?),
            ("max_commands", most) => config.max_idle_commands = value(transcript, fact, most)?,
            ("etrn", "off") => config.etrn = false,
            ("chunking", "off") => config.chunking = false,
            ("offer", words) => {
                for word in words.split_whitespace() {
                    if let Some(least) = word.strip_prefix("deliverby") {
                        let least = least.strip_prefix('=').unwrap_or("0");
                        config.deliver_by = Some(value(transcript, fact, least)?);
                        continue;
                    }
                    let switch = match word {
                        "dsn" => &mut config.dsn,
                        "smtputf8" => &mut config.smtputf8,
                        "starttls" => &mut config.starttls,
                        "limits" => &mut config.limits,
                        "mt-priority" => &mut config.mt_priority,
                        "xlinkmail" => &mut config.xlinkmail,
                        "xlinkmail-by-login" => &mut config.xlinkmail_by_login,
                        _ => {
                            let words = "offer dsn smtputf8 starttls limits mt-priority deliverby[=SECONDS] xlinkmail xlinkmail-by-login";
                            return Err(wrong(words));
                        }
                    };
                    *switch = true;
                }
            }
            ("auth", words) => {
                let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
                match words.split_at_checked(2) {
                    Some(([_, place], names)) if place == "clear" => {
                        config.auth_in_clear = names.to_vec();
                    }
                    Some(([_, place], names)) if place == "tls" => {
                        config.auth_in_tls = names.to_vec();
                    }
                    _ => return Err(wrong("auth in clear|tls MECHANISM ...")),
                }
            }
            ("require", "tls") => config.require_tls = true,
            ("require", "auth") => config.require_auth = true,
            ("lmtp", "") => config.lmtp = true,
            ("pipelining", "strict") => config.strict_pipelining = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What there is, and what is decided.
    fn populate(&mut self, transcript: &Transcript, fact: &Fact) -> Result<(), Failure> {
        let wrong = |expected: &str| unknown(transcript, fact, expected);
        let reply = |text: &str| parse_reply(text).ok_or_else(|| wrong("a reply"));
        let (key, rest) = fact.text.split_once(' ').unwrap_or((&fact.text, ""));
        match (key, rest) {
            // Orders for the client side, in a file that drives both.
            (
                "drives:" | "pure:" | "send" | "quit" | "client_name" | "etrn" | "starttls"
                | "login",
                _,
            ) => {}
            ("client", what) => {
                self.may_relay = what.contains("in relay_from");
                self.may_etrn = what.contains("in etrn_from");
                self.may_prioritise = what.contains("in priority_from");
            }
            ("own", words) => {
                for word in words.split_whitespace() {
                    self.own.push(value(transcript, fact, word)?);
                }
            }
            ("unknown", words) => {
                let paths = bracketed(words).ok_or_else(|| wrong("unknown <address> ..."))?;
                for path in paths {
                    self.unknown
                        .push(parse_path(path).ok_or_else(|| wrong("an address"))?);
                }
            }
            ("held", what) => {
                let (count, node) = what
                    .split_once(" for ")
                    .ok_or_else(|| wrong("held N for DOMAIN"))?;
                let count = value(transcript, fact, count)?;
                self.held.push((value(transcript, fact, node)?, count));
            }
            ("user", what) => {
                let (name, password) = what
                    .split_once(' ')
                    .ok_or_else(|| wrong("user NAME PASSWORD"))?;
                self.users.push((name.to_owned(), password.to_owned()));
            }
            ("trusts", name) => self.trusted.push(name.to_owned()),
            ("tls", "from the start") => self.in_tls = true,
            ("talks", "early") => self.talks_early = true,
            ("begin" | "after", what) => {
                let text = what
                    .strip_prefix("data ")
                    .ok_or_else(|| wrong("begin|after data REPLY"))?;
                let said = Some(reply(text)?);
                match key {
                    "begin" => self.begin_data = said,
                    _ => self.after_data = said,
                }
            }
            _ => return Err(wrong(STATEMENTS)),
        }
        Ok(())
    }

    /// The reply to a sender; a priority that the client may not have is taken out of what it said.
    pub(crate) fn sender(&self, parameters: &mut MailParameters) -> Reply {
        match parameters.priority {
            Some(asked) if asked != Priority::NORMAL && !self.may_prioritise => {
                parameters.priority = None;
                replies::priority_changed(Priority::NORMAL)
            }
            _ => replies::sender_ok(),
        }
    }

    pub(crate) fn recipient(&self, path: &ForwardPath) -> Reply {
        let is_ours = match path {
            ForwardPath::Postmaster => true,
            ForwardPath::Mailbox(mailbox) => self.own.contains(mailbox.domain()),
        };
        if !is_ours && !self.may_relay {
            replies::relaying_denied()
        } else if self.unknown.contains(path) {
            replies::no_such_user()
        } else {
            replies::recipient_ok()
        }
    }

    /// The reply to a message.
    pub(crate) fn after_data(&self, id: usize) -> Reply {
        let accepted = || replies::message_accepted(&id.to_string());
        self.after_data.clone().unwrap_or_else(accepted)
    }

    /// What is said to ETRN, and whether it starts anything.
    pub(crate) fn release(&self, node: &EtrnNode) -> (Reply, bool) {
        let asked = match node {
            _ if !self.may_etrn => return (replies::release_denied(node), false),
            EtrnNode::Queue(_) => return (replies::release_unavailable(node), false),
            EtrnNode::Domain(domain) | EtrnNode::Subdomains(domain) => domain,
        };
        let below = format!(".{asked}").to_ascii_lowercase();
        let is_meant = |held: &Domain| {
            held == asked
                || matches!(node, EtrnNode::Subdomains(_))
                    && held.to_string().to_ascii_lowercase().ends_with(&below)
        };
        let meant = self.held.iter().filter(|(domain, _)| is_meant(domain));
        let counts: Vec<u64> = meant.map(|(_, count)| *count).collect();
        if counts.is_empty() {
            return (replies::release_denied(node), false);
        }
        match counts.iter().sum() {
            0 => (replies::nothing_held(node), false),
            count => (replies::release_counted(count, node), true),
        }
    }

    /// Begins an exchange. PLAIN and LOGIN are known; any other mechanism cannot be had just now.
    pub(crate) fn auth(&mut self, mechanism: String, initial: Option<Vec<u8>>) -> AuthAnswer {
        let prompt = match mechanism.as_str() {
            "PLAIN" => &b""[..],
            "LOGIN" => b"Username:",
            _ => return AuthAnswer::Refused(replies::authentication_unavailable()),
        };
        self.exchange = Some((mechanism, None));
        match initial {
            Some(initial) => self.auth_response(initial),
            None => AuthAnswer::Challenge(prompt.to_vec()),
        }
    }

    pub(crate) fn auth_response(&mut self, response: Vec<u8>) -> AuthAnswer {
        let credentials = match self.exchange.take() {
            Some((mechanism, None)) if mechanism == "LOGIN" => {
                self.exchange = Some((mechanism, Some(response)));
                return AuthAnswer::Challenge(b"Password:".to_vec());
            }
            Some((_, Some(name))) => (name, response),
            _ => {
                let mut parts = response
                    .split(|byte| *byte == 0)
                    .skip(1)
                    .map(<[u8]>::to_vec);
                (
                    parts.next().unwrap_or_default(),
                    parts.next().unwrap_or_default(),
                )
            }
        };
        let mut users = self.users.iter();
        let found = users.find(|(name, password)| {
            (name.as_bytes(), password.as_bytes()) == (&credentials.0, &credentials.1)
        });
        match found {
            Some((name, _)) => AuthAnswer::Accepted {
                identity: name.clone(),
            },
            None => AuthAnswer::Refused(replies::bad_credentials()),
        }
    }

    pub(crate) fn trusts(&self, name: &str) -> bool {
        self.trusted.iter().any(|known| known == name)
    }
}

fn parse_path(text: &str) -> Option<ForwardPath> {
    ForwardPath::parse_utf8(text.as_bytes()).ok()
}

fn parse_reply(text: &str) -> Option<Reply> {
    let mut reader = ReplyReader::new();
    reader.receive(format!("{text}\r\n").as_bytes());
    reader.next_reply().ok().flatten()
}

/// A stored message in the words of `-- then --`.
pub(crate) fn described(draft: &Draft) -> Vec<String> {
    let recipients = draft.recipients.iter();
    let recipients: Vec<String> = recipients.map(|(path, _)| format!("<{path}>")).collect();
    let mut lines = vec![format!(
        "message from <{}> to {}{}",
        draft.reverse_path,
        recipients.join(" "),
        parameters(draft)
    )];
    for (path, parameters) in &draft.recipients {
        let mut line = format!("  <{path}>");
        if let Some(notify) = parameters.notify {
            line.push_str(&format!(" NOTIFY={}", notify.encode()));
        }
        if let Some(original) = &parameters.original {
            line.push_str(&format!(" ORCPT={}", original.encode(false)));
        }
        if *parameters != RcptParameters::default() {
            lines.push(line);
        }
    }
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

fn parameters(draft: &Draft) -> String {
    let mut text = String::new();
    let given = &draft.parameters;
    if given.eight_bit {
        text.push_str(" 8bit");
    }
    if given.smtputf8 {
        text.push_str(" SMTPUTF8");
    }
    if let Some(ret) = given.ret {
        text.push_str(&format!(" RET={}", ret.encode()));
    }
    if let Some(id) = &given.envelope_id {
        text.push_str(&format!(" ENVID={}", id.encode()));
    }
    if let Some(submitter) = &given.submitter {
        text.push_str(&format!(" AUTH=<{submitter}>"));
    }
    if let Some(priority) = given.priority {
        text.push_str(&format!(" MT-PRIORITY={priority}"));
    }
    if let Some(by) = given.deliver_by {
        text.push_str(&format!(" BY={by}"));
    }
    if let Some(id) = &given.peer_id {
        text.push_str(&format!(" XLMID={id}"));
    }
    if !matches!(draft.protocol, "SMTP" | "ESMTP") {
        text.push_str(&format!(" with {}", draft.protocol));
    }
    text
}
