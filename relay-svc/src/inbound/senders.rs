//! Whether a sender is taken, where a listener looks at that.

use linkmail_smtp::{Reply, ReversePath, replies};

use super::Inbound;
use crate::config::Listener;

impl Inbound {
    /// The sender as it is called outside, or the reply that refuses it. The null sender has no domain, and our own domains
    /// take mail.
    pub(super) async fn admit_sender(
        &self,
        listener: &Listener,
        path: ReversePath,
    ) -> Result<ReversePath, Reply> {
        // If mail starts here.
        let path = match &listener.sender_map {
            Some(map) => map.current().reverse_path(path),
            None => path,
        };
        let asked = path.mailbox().filter(|_| listener.refuse_null_mx);
        let is_own = |mailbox| {
            self.policy
                .routes
                .find(mailbox)
                .is_some_and(|route| route.own)
        };
        if let Some(mailbox) = asked
            && !is_own(mailbox)
            && self.senders.takes_no_mail(mailbox.domain()).await
        {
            return Err(replies::sender_takes_no_mail());
        }
        Ok(path)
    }
}
