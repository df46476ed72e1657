//! An answer that is encoded once and sent many times.

use std::sync::OnceLock;

use bytes::Bytes;

/// A message with its encodings, each made when first asked for.
#[derive(Debug)]
pub struct Prepared<M> {
    message: M,
    json: OnceLock<Bytes>,
    protobuf: OnceLock<Bytes>,
}

impl<M: prost::Message + serde::Serialize> Prepared<M> {
    /// Nothing is encoded yet.
    pub fn new(message: M) -> Self {
        Self { message, json: OnceLock::new(), protobuf: OnceLock::new() }
    }

    /// The message itself.
    pub fn message(&self) -> &M {
        &self.message
    }

    /// Its compact JSON.
    pub fn json(&self) -> Bytes {
        let encode =
            || serde_json::to_vec(&self.message).expect("messages have text keys and finite numbers only");
        self.json.get_or_init(|| encode().into()).clone()
    }

    /// Its protobuf bytes.
    pub fn protobuf(&self) -> Bytes {
        self.protobuf.get_or_init(|| self.message.encode_to_vec().into()).clone()
    }
}
