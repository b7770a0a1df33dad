//! Those who wait for the relay's answer to the probe that is in hand. The desk bounds how many they are.

use super::{
    Shared,
    desk::{Answer, RunError},
};
use crate::{
    ledger::{LedgerError, RequestConflict, RequestKey},
    names::ProbeId,
    probe::Probe,
    relay::Relay,
};

/// Callers of one keeper.
#[derive(Default)]
pub(super) struct Callers {
    waiting: Vec<Caller>,
}

struct Caller {
    answer: Answer,
    /// The identity of the call, if the ledger does not know it yet.
    key: Option<RequestKey>,
    /// The probe that the call ran before, if it is a repeat.
    known: Option<ProbeId>,
}

impl Callers {
    /// One more waits; those who have gone are forgotten.
    pub(super) fn wait(&mut self, answer: Answer, key: Option<RequestKey>, known: Option<ProbeId>) {
        self.waiting.retain(|caller| !caller.answer.is_closed());
        self.waiting.push(Caller { answer, key, known });
    }

    /// Whether nobody waits.
    pub(super) fn are_gone(&self) -> bool {
        self.waiting.iter().all(|caller| caller.answer.is_closed())
    }

    /// All of them get a probe, after their identities were remembered in one commit; a repeat gets its own.
    pub(super) async fn answer<R: Relay>(mut self, shared: &Shared<R>, probe: &Probe) {
        self.waiting.retain(|caller| !caller.answer.is_closed());
        let keys = self.waiting.iter().filter_map(|caller| caller.key.clone());
        let keys: Vec<RequestKey> = keys.collect();
        let conflicts = if keys.is_empty() {
            Ok(Vec::new())
        } else {
            let now = shared.clock.now();
            shared.ledger.join(probe.id, keys, now).await
        };
        for Caller { answer, key, known } in self.waiting {
            let result = match (&conflicts, key, known) {
                (Err(error), Some(_), _) => Err(repeatable(error)),
                (Ok(conflicts), Some(key), _) if conflicts.contains(&key.id) => {
                    Err(RequestConflict.into())
                }
                (_, _, Some(id)) if id != probe.id => {
                    let own = shared.ledger.probe(id).await;
                    own.map(|own| own.unwrap_or_else(|| probe.clone()))
                }
                _ => Ok(probe.clone()),
            };
            tell(answer, result.map_err(RunError::Ledger));
        }
    }

    /// All of them hear of an error.
    pub(super) fn refuse(self, error: &LedgerError) {
        for caller in self.waiting {
            tell(caller.answer, Err(repeatable(error).into()));
        }
    }
}

/// What several callers are told of one error.
fn repeatable(error: &LedgerError) -> LedgerError {
    match error {
        LedgerError::Full => LedgerError::Full,
        LedgerError::Request(conflict) => LedgerError::Request(*conflict),
        _ => LedgerError::Closed,
    }
}

/// The caller may have gone.
pub(super) fn tell(answer: Answer, result: Result<Probe, RunError>) {
    let _ = answer.send(result);
}
