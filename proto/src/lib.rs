//! The gRPC contracts of pgconvoy (package `pgconvoy.v1`), and nothing else.
//!
//! Architecture Invariant: conversions to and from domain types live here, with the wire, so the domain never sees a
//! generated type.

pub mod convert;
mod redacted;
pub mod status;

/// Generated from `pgconvoy/v1/*.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::clone_on_ref_ptr,
    clippy::allow_attributes_without_reason,
    rustdoc::all,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("pgconvoy.v1");
}

/// The contracts as a file descriptor set, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
