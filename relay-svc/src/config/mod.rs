//! The configuration of relay-svc, as types. `deploy/examples/relay.toml` shows every key with unit and default.
//!
//! Reading it checks everything that can be known from the file alone, and reports all that is wrong at once.

mod read;
mod read_database;
mod read_host;
mod read_link;
mod read_listener;
mod read_route;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;
use linkmail_sasl::{CredentialFile, Mechanism};
use linkmail_service::{
    fresh::{Refresh, ReloadingFile},
    settings::{Listen, Telemetry},
    tls::{ReloadingIdentity, Roots, ServerTls},
};
use linkmail_smtp::{EtrnNode, FlightLimits, Mailbox};

use crate::{
    names::{HostPort, LinkName},
    outbound::{Hosts, direct::name_servers::Dnssec},
    policy::{Identity, Policy},
    queue::{RetryPolicy, late::Lateness, window::Oversize},
    recipient_list::RecipientList,
    sender_map::SenderMap,
};

pub use read::{api_address, credentials_path, load};
pub use read_database::state_folder;

/// The recipients that there are, by the path of the file that says so.
pub type RecipientLists = BTreeMap<PathBuf, Arc<ReloadingFile<RecipientList>>>;

/// The whole file.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name that the relay greets with.
    pub hostname: Arc<str>,
    /// The folder of the spool.
    pub state: PathBuf,
    /// The database of the spool, where replicas share one.
    pub database: Option<Database>,
    /// Whom reports name as their author.
    pub postmaster: Mailbox,
    /// The gRPC services.
    pub grpc: Grpc,
    /// Traces, metrics and logs.
    pub telemetry: Telemetry,
    /// What a client may do.
    pub limits: Limits,
    /// When mail is tried again.
    pub retry: RetryPolicy,
    /// When mail is late, or left by its line.
    pub late: Lateness,
    /// Who may authenticate.
    pub credentials: Option<Arc<ReloadingFile<CredentialFile>>>,
    /// Where mail comes in; at least one.
    pub listeners: Vec<Listener>,
    /// Routes and the postmaster.
    pub policy: Arc<Policy>,
    /// The files that `recipients_file` of routes names.
    pub recipient_lists: RecipientLists,
    /// The lines to the outside.
    pub links: Vec<Link>,
    /// How next hops are spoken to.
    pub hosts: Hosts,
    /// How mail goes straight to the exchangers of its domain.
    pub mx: Mx,
}

/// `spool`
#[derive(Debug, Clone)]
pub struct Database {
    /// Where: `postgres://USER@HOST/NAME`, without a password.
    pub url: String,
    /// The file that holds the password.
    pub password_file: Option<PathBuf>,
}

/// `[mx]`
#[derive(Debug, Clone)]
pub struct Mx {
    /// The port of the exchangers.
    pub port: u16,
    /// Domains that are delivered to at once; at least one.
    pub domains: usize,
    /// Who says whether an answer of a name server is proven.
    pub dnssec: Dnssec,
    /// Whose word counts for a policy and for the exchangers that it names; unset: policies are not followed.
    pub mta_sts: Option<Roots>,
}

impl Config {
    /// Everything that is read again while the relay runs.
    #[must_use]
    pub fn files(&self) -> Vec<Arc<dyn Refresh>> {
        let mut files: Vec<Arc<dyn Refresh>> = Vec::new();
        if let Some(file) = &self.credentials {
            files.push(file.clone());
        }
        for listener in &self.listeners {
            if let Some(tls) = &listener.tls {
                files.push(tls.identity.clone());
            }
            if let Some(file) = &listener.sender_map {
                files.push(file.clone());
            }
        }
        for identity in self.hosts.identities() {
            files.push(identity.clone());
        }
        for file in self.recipient_lists.values() {
            files.push(file.clone());
        }
        files
    }
}

/// `[grpc]`
#[derive(Debug, Clone)]
pub struct Grpc {
    /// Where it listens, and who may connect.
    pub at: Listen,
    /// Whose messages may go to anyone.
    pub relay_from: Vec<IpNet>,
}

/// `[limits]`
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Octets of one message.
    pub message_size: u64,
    /// Recipients of one message.
    pub recipients: usize,
    /// SMTP sessions at once.
    pub sessions: usize,
    /// SMTP sessions at once from one address.
    pub sessions_per_client: usize,
    /// Without a command for so long, a session is closed.
    pub command_timeout: Duration,
    /// Without data for so long inside DATA, a session is closed.
    pub data_timeout: Duration,
    /// Fewer octets of a message in a minute, on average over `data_timeout`, close a session.
    pub slowest: u64,
    /// Waiting for commands may take so long in all from one message to the next.
    pub between_messages: Duration,
    /// A session may last so long.
    pub session_time: Duration,
    /// So many wrong credentials from one address are answered; then none for a while.
    pub auth_failures: u32,
    /// How long that while is, and how long a failure counts.
    pub auth_pause: Duration,
    /// So many octets of the spool's disk stay free for what the queue does: no mail is taken with less.
    pub reserve: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        Self {
            message_size: 25_000_000,
            recipients: 1000,
            sessions: 200,
            sessions_per_client: 50,
            command_timeout: minutes(5),
            data_timeout: minutes(5),
            slowest: 100,
            between_messages: minutes(60),
            session_time: minutes(24 * 60),
            auth_failures: 10,
            auth_pause: minutes(10),
            reserve: 64 << 20,
        }
    }
}

/// `[[listener]]`
#[derive(Debug, Clone)]
pub struct Listener {
    /// Where it listens.
    pub address: SocketAddr,
    /// Who may send out.
    pub relay_from: Vec<IpNet>,
    /// Other relays of this project, whose repeats are recognised.
    pub repeats_from: Vec<IpNet>,
    /// What comes here came over this link.
    pub link: Option<LinkName>,
    /// LMTP instead of SMTP.
    pub lmtp: bool,
    /// What it shows, and how TLS begins.
    pub tls: Option<Tls>,
    /// Mail and ETRN are taken under TLS only.
    pub require_tls: bool,
    /// The mechanisms of AUTH that are offered in the clear.
    pub auth_in_clear: Vec<Mechanism>,
    /// The mechanisms of AUTH that are offered under TLS.
    pub auth_in_tls: Vec<Mechanism>,
    /// Mail and ETRN are taken from authenticated clients only.
    pub require_auth: bool,
    /// Whose certificate counts as authentication.
    pub relay_by: Vec<Identity>,
    /// Headers are completed: mail starts here.
    pub submission: bool,
    /// What senders are called outside.
    pub sender_map: Option<Arc<ReloadingFile<SenderMap>>>,
    /// Each connection begins with a header of the PROXY protocol, and comes from one of these networks.
    pub proxy_from: Option<Vec<IpNet>>,
    /// Mail from domains that take none is refused.
    pub refuse_null_mx: bool,
    /// A client that speaks before it is greeted is turned away.
    pub refuse_early_talkers: bool,
    /// A client that pipelines where it may not is turned away.
    pub strict_pipelining: bool,
}

impl Listener {
    /// One that speaks SMTP in the clear, to clients who may not send out.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address,
            relay_from: Vec::new(),
            repeats_from: Vec::new(),
            link: None,
            lmtp: false,
            tls: None,
            require_tls: false,
            auth_in_clear: Vec::new(),
            auth_in_tls: Vec::new(),
            require_auth: false,
            relay_by: Vec::new(),
            submission: false,
            sender_map: None,
            proxy_from: None,
            refuse_null_mx: false,
            refuse_early_talkers: false,
            strict_pipelining: false,
        }
    }
}

/// `tls` and `tls_mode` of a listener.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Shakes hands.
    pub server: ServerTls,
    /// What it shows, to be kept fresh.
    pub identity: Arc<ReloadingIdentity>,
    /// From the first octet on, in place of STARTTLS (RFC 8314 3.3).
    pub implicit: bool,
}

/// `[[link]]`
#[derive(Debug, Clone)]
pub struct Link {
    /// Its name.
    pub name: LinkName,
    /// The next hop over it.
    pub smart_host: HostPort,
    /// The hosts that are tried in its place, in this order, when no session with it comes about.
    pub fallback: Vec<HostPort>,
    /// The most connections to the smart host at once; at least one.
    pub connections: usize,
    /// How much each of them may have under way.
    pub flight: FlightLimits,
    /// Which mail goes in hours that are kept for it only.
    pub oversize: Option<Oversize>,
    /// How it is dialled.
    pub dial: Dial,
    /// Who is asked to release mail.
    pub dequeue: Vec<Dequeue>,
    /// What starts a cycle.
    pub trigger: Triggers,
    /// Addresses that the provider releases from.
    pub released_from: Vec<IpNet>,
    /// Receiving ends when nothing came for so long.
    pub quiet: Duration,
    /// Receiving ends after so long.
    pub receive_at_most: Duration,
    /// So long after the last forwarded message the provider is asked once more.
    pub bounce_wait: Duration,
    /// The first pause after a cycle whose line did not come up.
    pub redial_after: Duration,
}

/// `dial`
#[derive(Debug, Clone)]
pub struct Dial {
    /// The driver with its own settings.
    pub driver: Driver,
    /// How long one connect may take.
    pub patience: Duration,
    /// Tries within one cycle; at least one.
    pub attempts: u32,
    /// The pause between them.
    pub pause: Duration,
}

/// How a line is dialled.
#[derive(Debug, Clone)]
pub enum Driver {
    /// Connecting is dialling.
    Implicit,
    /// Programs dial and hang up.
    Command {
        /// The program that dials, with its arguments.
        up: Vec<String>,
        /// The program that hangs up; empty: none.
        down: Vec<String>,
        /// How long one of them may take.
        timeout: Duration,
    },
}

impl Driver {
    /// The word for it in the configuration.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Implicit => "implicit",
            Self::Command { .. } => "command",
        }
    }
}

/// One host that is asked, and for which nodes.
#[derive(Debug, Clone)]
pub struct Dequeue {
    /// Who is asked.
    pub host: HostPort,
    /// For what; at least one.
    pub nodes: Vec<EtrnNode>,
}

/// `trigger`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Triggers {
    /// A schedule: so long from start to start.
    pub every: Option<Duration>,
    /// So many messages wait.
    pub queued: Option<u64>,
    /// A message waits so long.
    pub oldest: Option<Duration>,
}
