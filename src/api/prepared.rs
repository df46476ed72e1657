//! The results of methods: a message, or one that is encoded once and sent many times.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

/// A result of message type `M`, in each encoding.
pub trait Reply<M> {
    /// As compact JSON.
    fn json(&self) -> Bytes;
    /// As protobuf.
    fn protobuf(&self) -> Bytes;
    /// As the message itself.
    fn into_message(self) -> M;
}

impl<M: prost::Message + serde::Serialize> Reply<M> for M {
    fn json(&self) -> Bytes {
        serde_json::to_vec(self).expect("messages have text keys and finite numbers only").into()
    }

    fn protobuf(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    fn into_message(self) -> Self {
        self
    }
}

impl<M: prost::Message + serde::Serialize + Clone> Reply<M> for Arc<Prepared<M>> {
    fn json(&self) -> Bytes {
        self.json.get_or_init(|| self.message.json()).clone()
    }

    fn protobuf(&self) -> Bytes {
        self.protobuf.get_or_init(|| self.message.protobuf()).clone()
    }

    fn into_message(self) -> M {
        self.message.clone()
    }
}

/// A message with its encodings, each made at its first use.
#[derive(Debug)]
pub struct Prepared<M> {
    message: M,
    json: OnceLock<Bytes>,
    protobuf: OnceLock<Bytes>,
}

impl<M: prost::Message + serde::Serialize> Prepared<M> {
    /// Encodes nothing yet.
    pub fn new(message: M) -> Self {
        Self { message, json: OnceLock::new(), protobuf: OnceLock::new() }
    }

    /// The message itself.
    pub fn message(&self) -> &M {
        &self.message
    }
}
