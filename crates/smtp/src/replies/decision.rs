//! The replies for whoever decides about senders, recipients, messages and ETRN.

use crate::etrn::EtrnNode;
use crate::priority::Priority;
use crate::reply::{Enhanced, Reply};

/// 250 to MAIL.
pub fn sender_ok() -> Reply {
    Reply::new(250, Enhanced(2, 1, 0), "sender OK")
}

/// 250 to MAIL: the message is taken with another priority than was asked for (RFC 6710 4.1 and 7; the number comes first).
pub fn priority_changed(priority: Priority) -> Reply {
    Reply::new(
        250,
        Enhanced(2, 3, 6),
        format!("{priority} is the priority of this message, the one asked for is not allowed"),
    )
}

/// 550 to MAIL: the sender's domain says that it takes no mail (RFC 7505 4.2).
pub fn sender_takes_no_mail() -> Reply {
    let text = "the sender's domain takes no mail (null MX)";
    Reply::new(550, Enhanced(5, 7, 27), text)
}

/// 250 to RCPT.
pub fn recipient_ok() -> Reply {
    Reply::new(250, Enhanced(2, 1, 5), "recipient OK")
}

/// 550 to RCPT: nobody of that name (RFC 3463 3.2).
pub fn no_such_user() -> Reply {
    Reply::new(550, Enhanced(5, 1, 1), "no such user here")
}

/// 550 to RCPT: the domain is not ours and this client may not send out.
pub fn relaying_denied() -> Reply {
    Reply::new(550, Enhanced(5, 7, 1), "relaying denied")
}

/// 354 to DATA.
pub fn start_data() -> Reply {
    Reply::new(354, None, "end data with <CRLF>.<CRLF>")
}

/// 250 after end of data: responsibility is taken; `id` is the message's.
pub fn message_accepted(id: &str) -> Reply {
    Reply::new(250, Enhanced(2, 0, 0), format!("OK, queued as {id}"))
}

/// 451: the spool cannot take it now.
pub fn spool_unavailable() -> Reply {
    Reply::new(451, Enhanced(4, 3, 0), "spool unavailable, try again later")
}

/// 450: whether there is such a user cannot be found out now.
pub fn cannot_verify() -> Reply {
    let text = "recipient cannot be verified now, try again later";
    Reply::new(450, Enhanced(4, 4, 3), text)
}

/// 554: as many `Received` fields as only a loop makes (RFC 5321 6.3).
pub fn mail_loop() -> Reply {
    Reply::new(554, Enhanced(5, 4, 6), "too many hops, this message loops")
}

/// 251 to ETRN: nothing waits.
pub fn nothing_held(node: &EtrnNode) -> Reply {
    Reply::new(
        251,
        Enhanced(2, 0, 0),
        format!("OK, no messages waiting for node {node}"),
    )
}

/// 253 to ETRN: `count` messages wait and are released.
pub fn release_counted(count: u64, node: &EtrnNode) -> Reply {
    Reply::new(
        253,
        Enhanced(2, 0, 0),
        format!("OK, {count} pending messages for node {node} started"),
    )
}

/// 458 to ETRN: not now.
pub fn release_unavailable(node: &EtrnNode) -> Reply {
    Reply::new(
        458,
        Enhanced(4, 3, 0),
        format!("Unable to queue messages for node {node}"),
    )
}

/// 459 to ETRN: this client may not ask for this node. 4yz goes with class 4 (RFC 3463 2).
pub fn release_denied(node: &EtrnNode) -> Reply {
    Reply::new(
        459,
        Enhanced(4, 7, 1),
        format!("Node {node} not allowed: not authorised"),
    )
}
