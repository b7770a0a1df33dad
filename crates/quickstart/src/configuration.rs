//! The configurations of the three daemons, as texts that a reader can learn from.

use std::path::Path;

use crate::scene::{Door, Ports};

const PROVIDER: &str = include_str!("configuration/provider.toml");
const WORLD: &str = include_str!("configuration/world.toml");
const REFUSING: &str = include_str!("configuration/refusing.toml");
const EDGE: &str = include_str!("configuration/edge.toml");
const MONITOR: &str = include_str!("configuration/monitor.toml");

/// Who refuses the false user of the probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refuser {
    /// The world: the provider took the probe, and writes the bounce.
    World,
    /// The provider, at RCPT: the edge writes the bounce itself.
    SmartHost,
}

/// The provider's file.
#[must_use]
pub fn provider(state: &Path, ports: Ports, refuser: Refuser) -> String {
    let routes = match refuser {
        Refuser::World => WORLD,
        Refuser::SmartHost => REFUSING,
    };
    filled(
        &PROVIDER.replace("{{world_routes}}\n", routes),
        state,
        ports,
    )
}

/// The edge's file.
#[must_use]
pub fn edge(state: &Path, ports: Ports) -> String {
    filled(EDGE, state, ports)
}

/// The monitor's file.
#[must_use]
pub fn monitor(state: &Path, ports: Ports) -> String {
    filled(MONITOR, state, ports)
}

/// A text with its addresses and its folder.
fn filled(text: &str, state: &Path, ports: Ports) -> String {
    let addresses = [
        ("{{world}}", Door::World),
        ("{{mailbox}}", Door::Mailbox),
        ("{{site}}", Door::Site),
        ("{{released}}", Door::Released),
        ("{{provider}}", Door::Provider),
        ("{{edge_grpc}}", Door::EdgeGrpc),
        ("{{provider_grpc}}", Door::ProviderGrpc),
        ("{{monitor_grpc}}", Door::MonitorGrpc),
    ];
    let text = addresses
        .iter()
        .fold(text.to_owned(), |text, (placeholder, door)| {
            text.replace(placeholder, &ports.at(*door).to_string())
        });
    text.replace("{{state}}", &in_toml(state))
}

/// A path as it stands between the quotes of a TOML string.
fn in_toml(path: &Path) -> String {
    let text = path.display().to_string();
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placeholder_is_filled() {
        let state = Path::new("/tmp/a \"quoted\" folder");
        let ports = Ports::beginning_at(20_250).unwrap();
        for text in [
            provider(state, ports, Refuser::World),
            provider(state, ports, Refuser::SmartHost),
            edge(state, ports),
            monitor(state, ports),
        ] {
            assert!(!text.contains("{{"), "{text}");
            assert!(
                text.contains(r#"state = "/tmp/a \"quoted\" folder""#),
                "{text}"
            );
        }
    }
}
