//! What an operator asks for, and what was done.

use crate::{
    names::NextHop,
    spool::{FilterPlace, MessageFilter, RecipientState, Step},
};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Kept until it is released.
    Hold,
    /// Taken up again.
    Release,
    /// Tried now.
    Expedite,
    /// Given up, and nobody is told.
    Delete,
    /// Given up with a report to the sender.
    Bounce {
        /// Why, for the report; may be empty.
        reason: String,
    },
    /// Sent another way.
    Reroute {
        /// The next hop; none: where the routes say.
        to: Option<NextHop>,
    },
}

/// What is to be done to which mail.
#[derive(Debug, Clone)]
pub struct Order {
    /// What.
    pub action: Action,
    /// To which recipients.
    pub filter: MessageFilter,
    /// Count, and change nothing.
    pub validate_only: bool,
    /// Where it goes on.
    pub place: FilterPlace,
    /// Who asks, for the history and the log.
    pub operator: String,
}

/// What was done; or would be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Messages of which a recipient was changed.
    pub messages: u64,
    /// Recipients that were changed.
    pub recipients: u64,
    /// Recipients that were being sent, and were left alone.
    pub skipped_recipients: u64,
    /// Recipients that no route takes, or that are too damaged; left alone.
    pub unfit_recipients: u64,
    /// Where it goes on, if there may be more.
    pub next: Option<FilterPlace>,
    /// The message that was counted last.
    last: Option<i64>,
}

/// The action is not for mail in that state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrongOrder {
    /// What is held for its site.
    #[error(
        "mail that is HELD for its site is sent by NodeService.ReleaseNode (relay-svc node release)"
    )]
    HeldForNode,
    /// It is over, or in a state that the action does not change.
    #[error("the action does not change mail in this state")]
    State,
}

impl Action {
    /// The states that it is for.
    pub(super) fn states(&self) -> &'static [RecipientState] {
        use RecipientState::{Held, OnHold, Queued, SetAside};
        match self {
            Self::Hold => &[Queued, Held],
            Self::Release => &[OnHold, SetAside],
            Self::Expedite => &[Queued],
            Self::Delete | Self::Bounce { .. } | Self::Reroute { .. } => {
                &[Queued, Held, OnHold, SetAside]
            }
        }
    }

    /// What the spool does; a report needs more than that.
    pub(super) fn step(&self) -> Option<Step> {
        match self {
            Self::Hold => Some(Step::Hold),
            Self::Release => Some(Step::Release),
            Self::Expedite => Some(Step::Expedite),
            Self::Delete => Some(Step::Delete),
            Self::Reroute { .. } => Some(Step::Reroute),
            Self::Bounce { .. } => None,
        }
    }

    /// The word for it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Expedite => "expedite",
            Self::Delete => "delete",
            Self::Bounce { .. } => "bounce",
            Self::Reroute { .. } => "reroute",
        }
    }

    /// Whether it is for mail in a state.
    ///
    /// # Errors
    /// It is not.
    pub fn is_for(&self, state: RecipientState) -> Result<(), WrongOrder> {
        match (self, state) {
            _ if self.states().contains(&state) => Ok(()),
            (Self::Release | Self::Expedite, RecipientState::Held) => Err(WrongOrder::HeldForNode),
            _ => Err(WrongOrder::State),
        }
    }

    /// Whether mail that is held for its site is sent by another call.
    #[must_use]
    pub fn leaves_held(&self) -> bool {
        matches!(self, Self::Release | Self::Expedite)
    }
}

impl Done {
    /// Counts recipients, each by the place of its message; those of one message stand together.
    pub(super) fn count(&mut self, recipients: impl Iterator<Item = i64>) {
        for message in recipients {
            self.recipients += 1;
            if self.last != Some(message) {
                self.messages += 1;
                self.last = Some(message);
            }
        }
    }

    /// Whether nothing was changed, and nothing was in the way of it.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.recipients + self.skipped_recipients + self.unfit_recipients == 0
            && self.next.is_none()
    }

    /// As octets, for an answer that is remembered.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let next = self
            .next
            .map_or(u64::MAX, |next| next.to_number().unsigned_abs());
        let numbers = [
            self.messages,
            self.recipients,
            self.skipped_recipients,
            self.unfit_recipients,
            next,
        ];
        numbers
            .iter()
            .flat_map(|number| number.to_be_bytes())
            .collect()
    }

    /// What [`Self::to_bytes`] made; nothing of other octets.
    #[must_use]
    pub fn from_bytes(octets: &[u8]) -> Option<Self> {
        let (numbers, rest) = octets.as_chunks::<8>();
        let [
            messages,
            recipients,
            skipped_recipients,
            unfit_recipients,
            next,
        ] = <[[u8; 8]; 5]>::try_from(numbers)
            .ok()?
            .map(u64::from_be_bytes);
        rest.is_empty().then_some(Self {
            messages,
            recipients,
            skipped_recipients,
            unfit_recipients,
            next: i64::try_from(next).ok().map(FilterPlace::of_number),
            last: None,
        })
    }
}
