//! The commands as a shell runs them.

#![allow(clippy::unwrap_used)]

use std::{
    path::Path,
    process::{Command, Stdio},
};

/// Whoever reads may have seen enough, such as `head`: that is no error, and no panic.
#[test]
fn a_reader_that_is_gone_ends_a_command_well() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/monitor.toml");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_monitor-svc"))
        .args(["check", "--config"])
        .arg(example)
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success(), "{}", output.status);
}
