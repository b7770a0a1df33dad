//! Whether a recipient is taken: the policy, and then whether there is such a user. Who is not there is refused here, and
//! not after the message was carried further.

use linkmail_smtp::{ForwardPath, Reply, replies};

use super::Inbound;
use crate::{inquiry::Verdict, names::NextHop, policy::Admitted, route::Check};

impl Inbound {
    /// The recipient, or the reply that refuses it.
    pub(super) async fn admit(
        &self,
        path: &ForwardPath,
        may_relay: bool,
    ) -> Result<Admitted, Reply> {
        let admitted = self.policy.recipient(path, may_relay);
        let admitted = admitted.map_err(|denied| denied.reply())?;
        let verdict = match (&admitted.check, &admitted.hop) {
            (Some(Check::Listed(file)), _) => {
                let list = self.recipient_lists.get(file);
                match list.is_none_or(|list| list.current().has(&admitted.address)) {
                    true => Verdict::Taken,
                    false => Verdict::NoSuchUser,
                }
            }
            (Some(Check::CallForward), NextHop::Smtp(host)) => {
                self.call_forward.ask(host, &admitted.address).await
            }
            (Some(Check::CallForward) | None, _) => Verdict::Taken,
        };
        match verdict {
            Verdict::Taken => Ok(admitted),
            Verdict::NoSuchUser => Err(replies::no_such_user()),
            Verdict::Later => Err(replies::cannot_verify()),
        }
    }
}
