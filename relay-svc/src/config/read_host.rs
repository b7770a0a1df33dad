//! The `[[host]]` part of the file: how next hops are spoken to.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
};

use linkmail_sasl::Name;
use linkmail_service::{
    config::{Document, Position, Table},
    tls::{ClientTls, Mode},
};

use super::read::{host as named, positive_if_said};
use crate::{
    names::{HostPort, Scheme},
    outbound::{CONNECTIONS, Host, Hosts, Login, Patience, Sasl},
};

/// What was read; where each entry stands, too.
#[derive(Default)]
pub(super) struct Read {
    pub(super) hosts: Option<Hosts>,
    at: Vec<(Position, HostPort)>,
}

impl Read {
    /// An entry for a host that mail never goes to would be believed in and do nothing. `used` are those that the rest of
    /// the file names, `exchangers` the port at which any host may be one.
    pub(super) fn check_use(
        &self,
        document: &Document,
        used: &BTreeSet<&HostPort>,
        exchangers: Option<u16>,
    ) {
        for (position, at) in &self.at {
            let is_exchanger = at.scheme == Scheme::Smtp && Some(at.port) == exchangers;
            if used.contains(at) || is_exchanger {
                continue;
            }
            let url = |host: &HostPort| format!("{}://{host}", host.scheme.as_str());
            let alike = used.iter().find(|host| host.host == at.host);
            let hint = alike.map(|host| format!(", but {} is", url(host)));
            let (at, hint) = (url(at), hint.unwrap_or_default());
            let what = format!(
                "{at} is no smart_host, fallback, dequeue, to or release_to in this file{hint}"
            );
            document.error(position, what);
        }
    }
}

pub(super) fn hosts(document: &Document, root: &Table<'_>) -> Read {
    let mut named = HashMap::new();
    let mut complete = true;
    let mut places = Vec::new();
    for table in root.tables("host") {
        let position = table.position("at");
        let Some((at, host)) = host(table) else {
            complete = false;
            continue;
        };
        if named.insert(at.clone(), Arc::new(host)).is_some() {
            document.error(&position, format!("{at} has a [[host]] already"));
        } else {
            places.push((position, at));
        }
    }
    let hosts = Hosts::new(named).map_err(|error| root.error("host", error.to_string()));
    Read {
        hosts: hosts.ok().filter(|_| complete),
        at: places,
    }
}

fn host(table: Table<'_>) -> Option<(HostPort, Host)> {
    let at = table.required_with("at", named);
    let has_login = table.has("login");
    let login = has_login.then(|| table.table("login").and_then(login));
    // A password never goes to somebody who was not asked who he is.
    let is_smtps = at.as_ref().is_some_and(|at| at.scheme == Scheme::Smtps);
    let default = match (is_smtps, has_login) {
        (true, _) => Mode::Implicit,
        (false, true) => Mode::Require,
        (false, false) => Mode::Opportunistic,
    };
    let tls = ClientTls::read(&table, "tls", default);
    if is_smtps && tls.as_ref().is_some_and(|tls| tls.mode() != Mode::Implicit) {
        table.error(
            "tls",
            "smtps:// is TLS from the first octet; expected mode \"implicit\"",
        );
    }
    if let (Some(tls), Some(Some(login))) = (&tls, &login) {
        refuse_to_give_secret(&table, tls.mode(), login);
    }
    let patience = Patience {
        hello: positive_if_said(&table, "hello_timeout"),
        command: positive_if_said(&table, "command_timeout"),
        data_end: positive_if_said(&table, "data_end_timeout"),
    };
    let connections = table.or("connections", CONNECTIONS);
    if connections == 0 {
        table.error("connections", "expected at least 1");
    }
    table.finish();
    let host = Host {
        tls: tls?,
        login: match login {
            Some(login) => Some(login?),
            None => None,
        },
        patience,
        connections,
    };
    Some((at?, host))
}

/// Whoever answers would have the password, where nobody is verified. The session sees to that, too.
fn refuse_to_give_secret(table: &Table<'_>, mode: Mode, login: &Login) {
    let giving = login.mechanisms.iter().filter(|sasl| sasl.gives_secret());
    let giving: Vec<_> = giving.map(|sasl| sasl.name()).collect();
    if !mode.verifies() && !giving.is_empty() {
        table.error(
            "tls",
            format!(
                "{:?} verifies nobody, and {} would give the password to whoever answers; expected \"required\" or \"implicit\", or other login.mechanisms",
                mode.as_str(),
                giving.join(", ")
            ),
        );
    }
}

fn login(table: Table<'_>) -> Option<Login> {
    let user = table.required_with("user", |text| {
        Name::parse(text).map_err(|error| error.to_string())
    });
    let password_file: Option<PathBuf> = table.required("password_file");
    if let Some(path) = &password_file
        && let Err(error) = std::fs::read_to_string(path)
    {
        table.error("password_file", format!("{}: {error}", path.display()));
    }
    let mechanisms = match table.has("mechanisms") {
        true => table.required_list_with("mechanisms", "mechanism", Sasl::parse),
        false => Sasl::DEFAULT.to_vec(),
    };
    table.finish();
    Some(Login {
        user: user?,
        password_file: password_file?,
        mechanisms,
    })
}
