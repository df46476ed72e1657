//! The wire form of the API: what server and clients have in common.
//!
//! | Module | Idea |
//! |---|---|
//! | [`message`] | the messages of `proto/kms.proto`, and how they are written in JSON |
//! | [`method`] | the table of methods: service, access, body size, GET |
//! | [`encoding`] | how a request is encoded, and messages read from bodies and query strings |
//! | [`media`] | media types of requests |
//! | [`code`] | what kind of error it was, in HTTP and in gRPC |

pub mod code;
pub mod encoding;
pub mod media;
pub mod message;
pub mod method;

/// The encoded `FileDescriptorSet` of the API, for gRPC reflection and for tests that walk every method.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kms.descriptors"));
