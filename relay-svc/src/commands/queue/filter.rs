//! The options that say which mail is meant.

use std::time::Duration;

use clap::{Args, ValueEnum};
use linkmail_proto::relay::v1::{MessageFilter, recipient::State};
use linkmail_service::{
    clock::Stamp,
    config::{ByteSize, duration},
};

/// Which recipients of which messages; all that is given must fit.
#[derive(Debug, Default, Args)]
pub(in crate::commands) struct Filter {
    /// Messages, as the list names them
    #[arg(value_name = "MESSAGE")]
    messages: Vec<String>,
    /// Recipients in this state
    #[arg(long)]
    state: Option<StateWord>,
    /// Recipients with this next hop, such as link:isp
    #[arg(long, value_name = "HOP")]
    route: Option<String>,
    /// Recipients with this address, such as bob@branch.example or probe-*@branch.example; or in this domain, or below it:
    /// branch.example, *.branch.example
    #[arg(long, value_name = "PATTERN")]
    recipient: Option<String>,
    /// Messages from such an address; '' is the null reverse path
    #[arg(long, value_name = "PATTERN")]
    sender: Option<String>,
    /// Messages that were accepted longer ago than this, such as 2h or 3d
    #[arg(long, value_name = "TIME", value_parser = duration)]
    older_than: Option<Duration>,
    /// Messages larger than this, such as 10MB
    #[arg(long, value_name = "SIZE", value_parser = str::parse::<ByteSize>)]
    larger_than: Option<ByteSize>,
}

/// The states, as the list says them.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum StateWord {
    Queued,
    Delivered,
    Bounced,
    Discarded,
    SetAside,
    Held,
    OnHold,
}

impl StateWord {
    fn state(self) -> State {
        match self {
            Self::Queued => State::Queued,
            Self::Delivered => State::Delivered,
            Self::Bounced => State::Bounced,
            Self::Discarded => State::Discarded,
            Self::SetAside => State::SetAside,
            Self::Held => State::Held,
            Self::OnHold => State::OnHold,
        }
    }
}

impl Filter {
    /// Whether it says by itself in which states what is meant is.
    pub(super) fn names_states(&self) -> bool {
        self.state.is_some() || !self.messages.is_empty()
    }

    /// As the service wants it.
    pub(super) fn to_wire(&self) -> MessageFilter {
        let before = self.older_than.map(|age| Stamp::now().minus(age));
        let larger_than = self.larger_than.map_or(0, |size| size.0);
        MessageFilter {
            names: self.messages.iter().map(|name| full_name(name)).collect(),
            state: self.state.map_or(0, |word| word.state().into()),
            route: self.route.clone().unwrap_or_default(),
            recipient: self.recipient.clone().unwrap_or_default(),
            sender: self.sender.clone(),
            accepted_before: before.map(|stamp| prost_types::Timestamp {
                seconds: stamp.0.div_euclid(1000),
                nanos: i32::try_from(stamp.0.rem_euclid(1000)).unwrap_or(0) * 1_000_000,
            }),
            larger_than_bytes: i64::try_from(larger_than).unwrap_or(i64::MAX),
        }
    }
}

/// `messages/{id}`, also of the id alone.
pub(super) fn full_name(name: &str) -> String {
    match name.strip_prefix("messages/") {
        Some(_) => name.to_owned(),
        None => format!("messages/{name}"),
    }
}
