//! The `[[listener]]` part of the file.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use linkmail_sasl::Mechanism;
use linkmail_service::{
    config::{Table, choice},
    fresh::ReloadingFile,
    tls::ServerTls,
};

use super::{Listener, Tls, read::known_link};
use crate::{names::LinkName, policy::Identity, sender_map::SenderMap};

/// What is needed of the rest of the file.
pub(super) struct Around<'a> {
    /// The names of links; none if they are wrong themselves.
    pub(super) links: Option<&'a BTreeSet<LinkName>>,
    /// Whether `credentials` stands in the file, right or wrong.
    pub(super) has_credentials: bool,
}

/// What is offered under TLS unless the file says otherwise. CRAM-MD5 needs the password in clear on our side.
const UNDER_TLS: [Mechanism; 3] = [Mechanism::ScramSha256, Mechanism::Plain, Mechanism::Login];

pub(super) fn listener(table: Table<'_>, around: &Around<'_>) -> Option<Listener> {
    let address = table.required("address");
    let mut listener = Listener::at(address.unwrap_or_else(|| ([0, 0, 0, 0], 0).into()));
    listener.relay_from = table.list("relay_from");
    listener.repeats_from = table.list("repeats_from");
    listener.link = table.parse_with("link", LinkName::parse);
    if let Some(name) = &listener.link {
        known_link(&table, "link", name, around.links);
    }
    let protocols = [("smtp", false), ("lmtp", true)];
    listener.lmtp = table
        .parse_with("protocol", |text| choice("protocol", text, &protocols))
        .unwrap_or_default();
    let tls = tls(&table);
    listener.require_tls = table.or("require_tls", false);
    if listener.require_tls && !table.has("tls") {
        table.error("require_tls", "needs tls = { certificate, key }");
    }
    auth(&table, &mut listener, around.has_credentials);
    listener.relay_by = table.list_with("relay_by", |text| match Identity::parse(text)? {
        Identity::Name(_) => Err(format!(
            "{text:?}: who authenticates may send out anyway; expected sha256: and the hash of a certificate's public key"
        )),
        key => Ok(key),
    });
    if table.has("relay_by") && !table.has("tls") {
        table.error("relay_by", "needs tls = { certificate, key, client_roots }");
    }
    if table.has("relay_by") && listener.require_auth {
        table.error(
            "relay_by",
            "a certificate is no login, which require_auth = true wants of everybody",
        );
    }
    listener.submission = table.or("submission", false);
    listener.sender_map = sender_map(&table, listener.submission);
    listener.proxy_from = proxy_from(&table);
    listener.refuse_null_mx = table.or("refuse_null_mx", false);
    listener.refuse_early_talkers = table.or("refuse_early_talkers", false);
    listener.strict_pipelining = table.or("strict_pipelining", false);
    table.finish();
    address?;
    listener.tls = tls?;
    Some(listener)
}

/// None after noting what is wrong.
fn tls(table: &Table<'_>) -> Option<Option<Tls>> {
    let modes = [("starttls", false), ("implicit", true)];
    let implicit = table.parse_with("tls_mode", |text| choice("tls_mode", text, &modes));
    if !table.has("tls") {
        if table.has("tls_mode") {
            table.error("tls_mode", "needs tls = { certificate, key }");
        }
        return Some(None);
    }
    let (server, identity) = ServerTls::read(table, "tls")?;
    Some(Some(Tls {
        server,
        identity,
        implicit: implicit.unwrap_or_default(),
    }))
}

fn auth(table: &Table<'_>, listener: &mut Listener, has_credentials: bool) {
    let mechanism = |text: &str| {
        text.parse()
            .map_err(|_| format!("unknown mechanism {text:?}; one of {}", names()))
    };
    let in_clear = |text: &str| match mechanism(text)? {
        Mechanism::Plain | Mechanism::Login => Err(format!(
            "{text} shows the password to whoever reads the line; write it under auth, which is for TLS"
        )),
        other => Ok(other),
    };
    let in_tls: Vec<Mechanism> = table.list_with("auth", mechanism);
    listener.auth_in_clear = table.list_with("auth_in_clear", in_clear);
    for key in ["auth", "auth_in_clear"] {
        if table.has(key) && !has_credentials {
            table.error(
                key,
                "needs the file of credentials at the top: credentials = \"/path\"",
            );
        }
    }
    if table.has("auth") && !table.has("tls") {
        table.error(
            "auth",
            "needs tls = { certificate, key }; see auth_in_clear",
        );
    }
    listener.auth_in_tls = match has_credentials && table.has("tls") {
        true if table.has("auth") => in_tls,
        true => UNDER_TLS.to_vec(),
        false => Vec::new(),
    };
    listener.require_auth = table.or("require_auth", false);
    let may_ask = !listener.auth_in_tls.is_empty() || !listener.auth_in_clear.is_empty();
    if listener.require_auth && !may_ask {
        table.error(
            "require_auth",
            "nobody can authenticate here; needs credentials at the top, and tls or auth_in_clear",
        );
    }
}

fn names() -> String {
    Mechanism::ALL.map(Mechanism::as_str).join(", ")
}

fn sender_map(table: &Table<'_>, submission: bool) -> Option<Arc<ReloadingFile<SenderMap>>> {
    let path: PathBuf = table.optional("sender_map")?;
    if !submission {
        table.error(
            "sender_map",
            "needs submission = true: mail that is relayed is never changed",
        );
    }
    ReloadingFile::load(&path, SenderMap::parse)
        .map_err(|error| table.error("sender_map", error.to_string()))
        .ok()
        .map(Arc::new)
}

fn proxy_from(table: &Table<'_>) -> Option<Vec<ipnet::IpNet>> {
    let on = table.or("proxy_protocol", false);
    let networks = table.list("proxy_from");
    if on && networks.is_empty() {
        table.error(
            "proxy_from",
            "missing or empty; proxy_protocol = true needs the networks of the proxies: whoever may speak it may name any client",
        );
    }
    if !on && table.has("proxy_from") {
        table.error("proxy_from", "needs proxy_protocol = true");
    }
    on.then_some(networks)
}
