//! The configuration of relay-svc, as types. `deploy/examples/relay.toml` shows every key with unit and default.
//!
//! Reading it checks everything that can be known from the file alone, and reports all that is wrong at once.

mod read;
mod read_host;
mod read_link;
mod read_route;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;
use linkmail_service::settings::{Listen, Telemetry};
use linkmail_smtp::{EtrnNode, FlightLimits, Mailbox};

use crate::{
    names::{HostPort, LinkName},
    outbound::{Hosts, direct::name_servers::Dnssec},
    policy::Policy,
    queue::RetryPolicy,
};

pub use read::load;

/// The whole file.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name that the relay greets with.
    pub hostname: Arc<str>,
    /// The folder of the spool.
    pub state: PathBuf,
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
    /// Where mail comes in; at least one.
    pub listeners: Vec<Listener>,
    /// Routes and the postmaster.
    pub policy: Arc<Policy>,
    /// The lines to the outside.
    pub links: Vec<Link>,
    /// How next hops are spoken to.
    pub hosts: Hosts,
    /// How mail goes straight to the exchangers of its domain.
    pub mx: Mx,
}

/// `[mx]`
#[derive(Debug, Clone, Copy)]
pub struct Mx {
    /// The port of the exchangers.
    pub port: u16,
    /// Domains that are delivered to at once; at least one.
    pub domains: usize,
    /// Who says whether an answer of a name server is proven.
    pub dnssec: Dnssec,
    /// Whether the policies of domains are fetched and followed.
    pub mta_sts: bool,
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
    /// Without a command for so long, a session is closed.
    pub command_timeout: Duration,
    /// Without data for so long inside DATA, a session is closed.
    pub data_timeout: Duration,
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
#[derive(Debug, Clone, Copy, Default)]
pub struct Triggers {
    /// A schedule: so long from start to start.
    pub every: Option<Duration>,
    /// So many messages wait.
    pub queued: Option<u64>,
    /// A message waits so long.
    pub oldest: Option<Duration>,
}
