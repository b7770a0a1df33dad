//! What an operator does to mail that waits: holds it, takes it up again, tries it now, sends it another way, gives it up.
//!
//! In small steps, each a commit, for a bounded time; who asked goes on from where it ended. What a feed has read ahead is
//! taken back before it is changed, so that nothing is sent as it stood before; what a session has begun is left alone, and
//! counted. Replicas that share a spool have feeds of their own, which see a change within a second: what one of them begins
//! until then is recorded as it ends, if it can be (a message that was deleted may have been delivered).
//!
//! May touch: the spool, and `outbound` for what is in hand and for reports. Must not touch: links, cycles, wire types.

mod order;

use std::{collections::BTreeSet, time::Duration};

use linkmail_smtp::Mailbox;
use tokio::time::Instant;

pub use order::{Action, Done, Order, WrongOrder};

use crate::{
    names::NextHop,
    outbound::{Forwarder, Pause},
    spool::{FilterPlace, RecipientState, Selected, SpoolError, Steered},
};

/// One order is worked at for so long; who asked goes on with the next.
const TURN: Duration = Duration::from_secs(10);

/// Carries out orders. Cheap to clone.
#[derive(Clone)]
pub struct Operator {
    forwarder: Forwarder,
    /// Next hops that mail can be sent by: somebody works for each.
    served: BTreeSet<NextHop>,
}

impl Operator {
    /// With the next hops that are served beside those of the routes: the links.
    #[must_use]
    pub fn new(forwarder: Forwarder, links: impl IntoIterator<Item = NextHop>) -> Self {
        let routes = &forwarder.policy.routes;
        let fixed = routes.hops().into_iter().cloned();
        let mut served: BTreeSet<_> = fixed.chain(links).collect();
        served.remove(&NextHop::Report);
        Self { forwarder, served }
    }

    /// Reads a next hop that mail can be sent by.
    ///
    /// # Errors
    /// A sentence for a person: what is wrong and what would be right.
    pub fn hop(&self, text: &str) -> Result<NextHop, String> {
        let known = NextHop::parse(text).ok();
        if let Some(hop) = known.filter(|hop| self.served.contains(hop)) {
            return Ok(hop);
        }
        let served: Vec<_> = self.served.iter().map(NextHop::to_string).collect();
        Err(format!(
            "{text:?} is no next hop of the configuration; one of {}",
            served.join(", ")
        ))
    }

    /// Does what an order says, as far as the time of a turn goes.
    ///
    /// # Errors
    /// The spool cannot be read or written: what was done before that stands.
    pub async fn carry_out(&self, order: &Order) -> Result<Done, SpoolError> {
        let end = Instant::now() + TURN;
        let (mut done, mut place) = (Done::default(), order.place);
        loop {
            let states = order.action.states().to_vec();
            let spool = &self.forwarder.spool;
            let selection = spool.select(order.filter.clone(), states, place).await?;
            if !selection.found.is_empty() {
                self.batch(order, selection.found, &mut done).await?;
            }
            match selection.next {
                None => return Ok(done),
                Some(next) => place = next,
            }
            if Instant::now() >= end {
                done.next = Some(place);
                return Ok(done);
            }
        }
    }

    /// Whether a filter takes mail that is held for its site: one look.
    ///
    /// # Errors
    /// The spool cannot be read.
    pub async fn is_of_held(&self, order: &Order) -> Result<bool, SpoolError> {
        let spool = &self.forwarder.spool;
        let held = vec![RecipientState::Held];
        let filter = order.filter.clone();
        let selection = spool.select(filter, held, FilterPlace::default()).await?;
        Ok(!selection.found.is_empty())
    }

    /// What one look found. A read-ahead that takes the same mail waits until it is changed.
    async fn batch(
        &self,
        order: &Order,
        found: Vec<Selected>,
        done: &mut Done,
    ) -> Result<(), SpoolError> {
        let pause = self.forwarder.in_hand.pause().await;
        let found = found
            .into_iter()
            .filter(|one| one.hop != NextHop::Report.to_string());
        let mut steered = Vec::new();
        for recipient in found {
            let to = match self.target(&order.action, &recipient) {
                Target::None => None,
                Target::Hop(hop) => Some(hop),
                Target::Same => continue,
                Target::Nowhere => {
                    done.unfit_recipients += 1;
                    continue;
                }
            };
            if self.is_free(order, &pause, &recipient) {
                steered.push(Steered { recipient, to });
            } else {
                done.skipped_recipients += 1;
            }
        }
        if order.validate_only {
            done.count(steered.iter().map(|one| one.recipient.seq));
            return Ok(());
        }
        match (&order.action, order.action.step()) {
            (Action::Bounce { reason }, _) => self.bounce(order, reason, steered, done).await,
            (_, Some(step)) => {
                let operator = order.operator.clone();
                let spool = &self.forwarder.spool;
                let changed = spool.steer(step, steered, operator).await?;
                done.count(changed.iter().map(|one| one.seq));
                note(order, &changed);
                Ok(())
            }
            (_, None) => Ok(()),
        }
    }

    /// Whether nobody sends it at this moment. It is in nobody's hand then.
    fn is_free(&self, order: &Order, pause: &Pause<'_>, recipient: &Selected) -> bool {
        if order.validate_only {
            !pause.has_begun(&recipient.hop, recipient.seq)
        } else {
            pause.take_back(&recipient.hop, recipient.seq)
        }
    }

    /// Each message by itself, with its report in the same commit.
    async fn bounce(
        &self,
        order: &Order,
        reason: &str,
        steered: Vec<Steered>,
        done: &mut Done,
    ) -> Result<(), SpoolError> {
        let of = |one: &Steered| {
            let Selected {
                seq, hop, state, ..
            } = &one.recipient;
            (*seq, hop.clone(), *state)
        };
        let why = match reason {
            "" => "returned by an operator".to_owned(),
            reason => format!("returned by an operator: {reason}"),
        };
        for together in steered.chunk_by(|one, next| of(one) == of(next)) {
            let Some((seq, hop, state)) = together.first().map(of) else {
                continue;
            };
            let places = together.iter().map(|one| one.recipient.idx).collect();
            let spool = &self.forwarder.spool;
            match spool.waiting_at(seq, hop.clone(), state, places).await {
                // It got its outcome meanwhile.
                Ok(due) if due.recipients.is_empty() => {}
                Ok(due) => {
                    let operator = &order.operator;
                    let returned = self
                        .forwarder
                        .return_to_sender(hop, due, &why, operator)
                        .await?;
                    done.count((0..returned.refused).map(|_| seq));
                }
                Err(SpoolError::Damaged(_)) => done.unfit_recipients += together.len() as u64,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Where a recipient goes by an action.
    fn target(&self, action: &Action, recipient: &Selected) -> Target {
        let by_routes = || {
            let address = Mailbox::parse_utf8(&recipient.address).ok();
            let address = address.as_ref();
            let route = address.and_then(|at| self.forwarder.policy.routes.find(at));
            match address.zip(route) {
                Some((address, route)) => {
                    let hop = route.target.hop(address);
                    Target::Hop(self.forwarder.spool.sized_hop(hop, recipient.size))
                }
                None => Target::Nowhere,
            }
        };
        match action {
            Action::Release if recipient.state == RecipientState::SetAside => by_routes(),
            Action::Release => match self.serves(&recipient.hop) {
                Some(hop) => Target::Hop(hop),
                None => by_routes(),
            },
            Action::Reroute { to } => {
                let target = to.clone().map_or_else(by_routes, Target::Hop);
                let aside = recipient.state == RecipientState::SetAside;
                match target {
                    Target::Hop(hop) if hop.to_string() == recipient.hop && !aside => Target::Same,
                    target => target,
                }
            }
            Action::Hold | Action::Expedite | Action::Delete | Action::Bounce { .. } => {
                Target::None
            }
        }
    }

    /// The next hop of that name, if somebody works for it.
    fn serves(&self, hop: &str) -> Option<NextHop> {
        let routes = &self.forwarder.policy.routes;
        if let Some(domain) = NextHop::parse_mx(hop) {
            return routes.use_mx().then_some(NextHop::Mx(domain));
        }
        if let Some(node) = NextHop::parse_hold(hop) {
            return routes
                .hold_of(&node)
                .is_some()
                .then_some(NextHop::Hold(node));
        }
        if let Some(link) = NextHop::parse_oversize(hop) {
            let is_there = self.served.contains(&NextHop::Link(link.clone()));
            return is_there.then_some(NextHop::Oversize(link));
        }
        self.hop(hop).ok()
    }
}

/// Where a recipient goes.
enum Target {
    /// It stays where it is.
    None,
    /// There.
    Hop(NextHop),
    /// It goes there already.
    Same,
    /// No route takes it.
    Nowhere,
}

/// One line per recipient that is given up, the message's identity first.
fn note(order: &Order, changed: &[Selected]) {
    let operator = &order.operator;
    for one in changed {
        let (id, recipient) = (one.id, String::from_utf8_lossy(&one.address));
        match order.action {
            Action::Delete => {
                let reply = "deleted by an operator";
                tracing::info!(%id, %recipient, outcome = "discarded", reply, operator, "recipient settled");
            }
            _ => {
                let action = order.action.as_str();
                tracing::info!(%id, %recipient, action, operator, "recipient changed by an operator");
            }
        }
    }
}
