//! The wire contract of linkmail: what `proto/linkmail` says, as Rust types. No logic lives here.
//!
//! The generated types stop at the `api` module of each service; inner code never sees them.

/// `linkmail.relay.v1`: messages, cycles, links, nodes and reports of relay-svc.
pub mod relay {
    /// Version 1, kept stable: fields are added, never changed.
    #[allow(missing_docs)]
    pub mod v1 {
        tonic::include_proto!("linkmail.relay.v1");
    }

    /// The encoded `FileDescriptorSet` of what relay-svc serves, with imports, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/relay.bin"));
}

/// `linkmail.monitor.v1`: monitors and probes of monitor-svc.
pub mod monitor {
    /// Version 1, kept stable: fields are added, never changed.
    #[allow(missing_docs)]
    pub mod v1 {
        tonic::include_proto!("linkmail.monitor.v1");
    }

    /// The encoded `FileDescriptorSet` of what monitor-svc serves, with imports, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/monitor.bin"));
}
