//! From the file to the types, with every error of the file in one go.

use std::{net::SocketAddr, path::Path, sync::Arc};

use http::Uri;
use linkmail_service::{
    config::{ConfigErrors, Document, Table},
    listen::GrpcAddress,
    settings::{Listen, Telemetry},
    target::GrpcTarget,
};

use super::{
    Config, Relay,
    read_monitor::{self, ReadMonitor},
};

/// Reads and checks a file.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    finish(&Document::load(path)?)
}

/// Reads a document, and gives the configuration or everything that is wrong.
pub(super) fn finish(document: &Document) -> Result<Config, ConfigErrors> {
    let config = read(document);
    document.finish()?;
    // Without a noted error every required part was read.
    config.ok_or_else(|| unreachable_gap(document))
}

/// A required part is missing although no error was noted: say so instead of going on.
fn unreachable_gap(document: &Document) -> ConfigErrors {
    document
        .root()
        .error("monitor", "the configuration is incomplete");
    document
        .finish()
        .err()
        .unwrap_or_else(|| unreachable!("an error was just noted"))
}

fn read(document: &Document) -> Option<Config> {
    let root = document.root();
    let state = root.required("state");
    let relay = relay(&root);
    let grpc = grpc(&root);
    let telemetry = Telemetry::read(&root);
    let webhook = webhook(&root);
    let monitors: Vec<ReadMonitor> = root
        .tables("monitor")
        .into_iter()
        .map(read_monitor::monitor)
        .collect();
    if monitors.is_empty() {
        root.error("monitor", "missing; at least one [[monitor]] is required");
    }
    read_monitor::once_each(document, &monitors);
    root.finish();
    Some(Config {
        state: state?,
        relay,
        grpc,
        telemetry,
        webhook,
        monitors: monitors
            .into_iter()
            .map(|read| read.monitor.map(Arc::new))
            .collect::<Option<_>>()?,
    })
}

fn relay(root: &Table<'_>) -> Relay {
    let mut relay = Relay {
        address: GrpcTarget::Tcp {
            host: "127.0.0.1".to_owned(),
            port: 7025,
        },
        consumer: "monitor-svc".to_owned(),
    };
    if let Some(table) = root.table("relay") {
        relay.address = table.or("address", relay.address);
        if let Some(consumer) = table.parse_with("consumer", consumer) {
            relay.consumer = consumer;
        }
        table.finish();
    }
    relay
}

fn consumer(text: &str) -> Result<String, String> {
    let fits = (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} is not a consumer: 1 to 63 letters, digits and hyphens"
        ))
    }
}

fn grpc(root: &Table<'_>) -> Listen {
    let here = GrpcAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 7026)));
    let Some(table) = root.table("grpc") else {
        return Listen::at(here);
    };
    let at = Listen::read(&table, here);
    table.finish();
    at
}

fn webhook(root: &Table<'_>) -> Option<Uri> {
    let table = root.table("webhook")?;
    let url = table.required_with("url", url);
    table.finish();
    url
}

fn url(text: &str) -> Result<Uri, String> {
    let wrong = || {
        format!(
            "{text:?} is not a web address; expected one such as \"https://pager.example/hook\""
        )
    };
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let good = matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty());
    if !good {
        return Err(wrong());
    }
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Err("a name and a password in the address are not sent; leave them out".to_owned());
    }
    Ok(uri)
}
