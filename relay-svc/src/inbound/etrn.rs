//! The answer to ETRN (RFC 1985 5.3): whether the client may ask, and how much waits. It is given at once; the release
//! itself goes on behind it, and is found by whoever does it in the spool.

use linkmail_smtp::{EtrnNode, Reply, replies};
use opentelemetry::KeyValue;

use super::Inbound;
use crate::{
    clock::Stamp,
    policy::{Client, ReleaseDenied},
    telemetry,
};

pub(super) async fn answer(inbound: &Inbound, asked: &EtrnNode, client: &Client) -> Reply {
    let reply = reply(inbound, asked, client).await;
    tracing::info!(
        node = %asked,
        client = %client.address,
        identity = client.name(),
        %reply,
        "release asked for"
    );
    let code = KeyValue::new(telemetry::REPLY_CODE, i64::from(reply.code));
    inbound.instruments.release_requests.add(1, &[code]);
    reply
}

async fn reply(inbound: &Inbound, asked: &EtrnNode, client: &Client) -> Reply {
    let scope = match inbound.policy.release(asked, client) {
        Ok(scope) => scope,
        Err(ReleaseDenied::NotAllowed) => return replies::release_denied(asked),
        Err(ReleaseDenied::NoSuchQueue) => return replies::release_unavailable(asked),
    };
    let (policy, client) = (inbound.policy.clone(), client.clone());
    let may = move |node: &_| policy.may_release(node, &client);
    match inbound
        .spool
        .request_release(scope, may, Stamp::now())
        .await
    {
        Ok(0) => replies::nothing_held(asked),
        Ok(count) => replies::release_counted(count, asked),
        Err(error) => {
            tracing::error!(node = %asked, %error, "a release could not be requested");
            replies::release_unavailable(asked)
        }
    }
}
