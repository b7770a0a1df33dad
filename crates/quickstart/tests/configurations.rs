//! The configurations that the quick start writes are good to the daemons that read them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fs, path::PathBuf};

use linkmail_quickstart::{
    configuration::{self, Refuser},
    scene::Ports,
};
use tempfile::TempDir;

fn ports() -> Ports {
    Ports::beginning_at(20_250).unwrap()
}

/// The file, and the folder that goes away with the test.
fn written(text: &str) -> (PathBuf, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("service.toml");
    fs::write(&file, text).unwrap();
    (file, folder)
}

#[test]
fn the_relays_take_theirs() {
    let state = PathBuf::from("/tmp/a folder");
    for text in [
        configuration::provider(&state, ports(), Refuser::World),
        configuration::provider(&state, ports(), Refuser::SmartHost),
        configuration::edge(&state, ports()),
    ] {
        let (file, _folder) = written(&text);
        let config = relay_svc::config::load(&file);
        let config = config.unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        assert_eq!(config.state, state);
    }
}

#[test]
fn the_monitor_takes_its_own() {
    let state = PathBuf::from("/tmp/a folder");
    let text = configuration::monitor(&state, ports());
    let (file, _folder) = written(&text);
    let config = monitor_svc::config::load(&file);
    let config = config.unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    assert_eq!(config.state, state);
}
