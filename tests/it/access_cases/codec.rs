//! Makes one call in each codec, and reduces its response to a code and a text.

use bytes::Bytes;
use cvm_kms::api::Service;
use cvm_kms::error::Code;
use cvm_kms::proto::PrpcError;
use http::Request;
use prost::Message as _;
use serde::Serialize;
use serde_json::json;

use crate::support::Answer;
use crate::support::http::{post, with};

/// The encoding of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// prpc with JSON bodies.
    Json,
    /// prpc with protobuf bodies.
    Protobuf,
    /// gRPC.
    Grpc,
}

/// A request's message, ready for each codec.
#[derive(Clone, Debug)]
pub struct Message {
    json: Vec<u8>,
    protobuf: Vec<u8>,
}

impl Message {
    /// Encodes the message for all codecs.
    pub fn of(message: &(impl prost::Message + Serialize)) -> Self {
        Self {
            json: serde_json::to_vec(message).expect("messages have a JSON form"),
            protobuf: message.encode_to_vec(),
        }
    }

    /// The message with default fields.
    pub fn empty() -> Self {
        Self { json: b"{}".to_vec(), protobuf: Vec::new() }
    }

    /// The empty message in exactly `length` bytes: spaces in JSON, an unknown field in protobuf.
    pub fn empty_of_length(length: usize) -> Self {
        let mut json = b"{}".to_vec();
        json.resize(length, b' ');
        // Field 15, length-delimited; its length in the four bytes that a varint of 28 bits may take.
        let size = u32::try_from(length - 5).expect("a limit");
        let digit = |index: u32| (size >> (7 * index)) as u8 & 0x7f;
        let mut protobuf = vec![0x7a, digit(0) | 0x80, digit(1) | 0x80, digit(2) | 0x80, digit(3)];
        protobuf.resize(length, 0);
        Self { json, protobuf }
    }
}

/// The result that a caller sees: HTTP status in prpc, gRPC status in gRPC, and the error's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The status.
    pub status: u16,
    /// Empty for a success.
    pub text: String,
}

impl Told {
    /// The success of `codec`.
    pub fn success(codec: Codec) -> Self {
        Self { status: if codec == Codec::Grpc { 0 } else { 200 }, text: String::new() }
    }

    /// The error `code`. The numbers are copied from `docs/protocol.md` and not taken from `net::status`.
    pub fn error(codec: Codec, code: Code, text: impl Into<String>) -> Self {
        let (http, grpc) = match code {
            Code::InvalidRequest => (400, tonic::Code::InvalidArgument),
            Code::AlreadyOnboarded | Code::ApprovalNeeded => (400, tonic::Code::FailedPrecondition),
            Code::Unauthenticated => (401, tonic::Code::Unauthenticated),
            Code::Denied => (403, tonic::Code::PermissionDenied),
            Code::UnknownMethod => (404, tonic::Code::Unimplemented),
            Code::TooLarge => (413, tonic::Code::ResourceExhausted),
            Code::TooManyRequests => (429, tonic::Code::ResourceExhausted),
            Code::Internal => (500, tonic::Code::Internal),
            Code::Conflict => (409, tonic::Code::Aborted),
            Code::NotReady | Code::Unavailable => (503, tonic::Code::Unavailable),
        };
        let status = if codec == Codec::Grpc { grpc as u16 } else { http };
        Self { status, text: text.into() }
    }
}

impl Codec {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Json, Self::Protobuf, Self::Grpc];

    /// The request that calls `method` of `service`.
    pub fn request(self, service: Service, method: &str, message: &Message) -> Request<Bytes> {
        let service = service.name();
        match self {
            Self::Json => {
                let request = post(&format!("/prpc/{service}.{method}"), message.json.clone());
                with(request, "content-type", "application/json")
            }
            Self::Protobuf => post(&format!("/prpc/{service}.{method}"), message.protobuf.clone()),
            Self::Grpc => {
                let length = u32::try_from(message.protobuf.len()).expect("a message").to_be_bytes();
                let frame = [&[0][..], &length, &message.protobuf].concat();
                let request = post(&format!("/kms.{service}/{method}"), frame);
                with(with(request, "content-type", "application/grpc"), "te", "trailers")
            }
        }
    }

    /// The result in `answer`. An error must be in the codec of its request, without anything else.
    pub fn told(self, answer: &Answer) -> Told {
        match self {
            Self::Json | Self::Protobuf if answer.status == 200 => Told::success(self),
            // The admin listener checks credentials before it knows any codec.
            Self::Json | Self::Protobuf if answer.body.is_empty() => {
                Told { status: answer.status, text: String::new() }
            }
            Self::Json => {
                let (status, text) = answer.refusal();
                let (mut expected, id) = (json!({ "error": text }), answer.header("x-denial-id"));
                if !id.is_empty() {
                    // A refusal that can be looked up has a code, which other tests compare.
                    expected["code"] = answer.value()["code"].clone();
                    expected["denial_id"] = json!(id);
                    assert!(expected["code"].is_string(), "{answer:?}");
                }
                assert_eq!(answer.value(), expected, "nothing but the error");
                Told { status, text }
            }
            Self::Protobuf => {
                let error =
                    PrpcError::decode(answer.body.clone()).unwrap_or_else(|e| panic!("{e}: {answer:?}"));
                assert_eq!(error.encode_to_vec(), answer.body, "nothing but the error: {answer:?}");
                Told { status: answer.status, text: error.message }
            }
            Self::Grpc => {
                let told = grpc_status(answer);
                if told.status != 0 {
                    assert!(answer.body.is_empty(), "nothing but the error: {answer:?}");
                }
                told
            }
        }
    }
}

/// The status in the trailers, or in the headers of a response without a body, or as clients derive it from a
/// response that is not gRPC.
fn grpc_status(answer: &Answer) -> Told {
    let text = |name: &str| {
        let value = answer.trailers.get(name).or_else(|| answer.headers.get(name))?;
        Some(percent_encoding::percent_decode(value.as_bytes()).decode_utf8_lossy().into_owned())
    };
    let status = match text("grpc-status") {
        Some(status) => {
            assert_eq!(answer.status, 200, "{answer:?}");
            status.parse().expect("a number")
        }
        // https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
        None => match answer.status {
            401 => tonic::Code::Unauthenticated as u16,
            _ => panic!("no gRPC answer: {answer:?}"),
        },
    };
    Told { status, text: text("grpc-message").unwrap_or_default() }
}
