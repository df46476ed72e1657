//! The API: messages (from `kms_client::proto`), gRPC services and the descriptor set, all from `proto/kms.proto`.

pub use ::kms_client::proto::*;

#[allow(missing_docs, clippy::all, unreachable_pub)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/kms.rs"));
}
pub use generated::{admin_client, admin_server, kms_client, kms_server, onboard_client, onboard_server};

/// The encoded `FileDescriptorSet` of the API, for gRPC reflection and for tests that walk every method.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kms.descriptors"));
