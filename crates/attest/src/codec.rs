//! The encodings of evidence, CSRs and documents: SCALE, MessagePack and CBOR. Each reader is bounded by its
//! input.

pub(crate) mod cbor;
mod cursor;
mod field;
pub(crate) mod pack;
pub(crate) mod scale;

pub use field::{FieldError, Problem};
