//! The API: messages and descriptors (from `kms_wire`) and gRPC services, all from `proto/kms.proto`.

pub use kms_wire::DESCRIPTORS;
pub use kms_wire::message::*;

#[allow(missing_docs, clippy::all, unreachable_pub)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/kms.rs"));
}
pub use generated::{admin_client, admin_server, kms_client, kms_server, onboard_client, onboard_server};
