//! The encodings of evidence, certificate requests and documents: SCALE, MessagePack and CBOR, each bounded by its input.

pub(crate) mod cbor;
mod cursor;
mod field;
pub(crate) mod pack;
pub(crate) mod scale;

pub use field::{FieldError, Problem};
