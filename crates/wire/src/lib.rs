//! The wire form of the API, shared by server and clients.
//!
//! | Module | Content |
//! |---|---|
//! | [`message`] | the messages of `proto/kms.proto`, and their JSON form |
//! | [`method`] | the table of methods: service, access, body size, GET |
//! | [`role`] | what a credential of operators may do |
//! | [`encoding`] | the encodings of requests, and messages from bodies and query strings |
//! | [`media`] | media types of requests |
//! | [`fleet`] | what the nodes of a fleet say of themselves, and how that is shown |
//! | [`bundles`] | signed bundles of policies, as operators see them |
//! | [`code`] | error codes in HTTP and gRPC |
//! | [`join`] | invitations of replicas |
//! | [`operation`] | what goes on for longer than a request, as operators see it |
//! | [`rollout`] | how a rollout of an OS image is shown |

pub mod bundles;
pub mod code;
pub mod encoding;
pub mod fleet;
pub mod join;
pub mod media;
pub mod message;
pub mod method;
pub mod operation;
pub mod role;
pub mod rollout;

/// The encoded `FileDescriptorSet` of the API, for gRPC reflection and for tests that walk every method.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kms.descriptors"));
