//! Compiles the contract with `protox`: no `protoc`, no network, each service's descriptors kept for reflection.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

/// The files of each service's package.
const PACKAGES: [(&str, &[&str]); 2] = [
    (
        "relay",
        &[
            "linkmail/relay/v1/message_service.proto",
            "linkmail/relay/v1/cycle_service.proto",
            "linkmail/relay/v1/link_service.proto",
            "linkmail/relay/v1/node_service.proto",
            "linkmail/relay/v1/report_service.proto",
        ],
    ),
    (
        "monitor",
        &[
            "linkmail/monitor/v1/monitor_service.proto",
            "linkmail/monitor/v1/probe_service.proto",
        ],
    ),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=linkmail");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for (name, files) in PACKAGES {
        let descriptors = protox::Compiler::new(["."])?
            .include_imports(true)
            .include_source_info(true)
            .open_files(files)?
            .file_descriptor_set();
        let file = out.join(format!("{name}.bin"));
        fs::write(file, descriptors.encode_to_vec())?;
        tonic_prost_build::configure().compile_fds(descriptors)?;
    }
    Ok(())
}
