//! The encodings of prpc requests and responses: JSON, protobuf or a query string.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method as Verb};
use prost::Message;
use serde::de::DeserializeOwned;

use crate::media;

/// The encoding of a request and its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// JSON, chosen by the request.
    Json,
    /// JSON, because the body begins with `{` and its media type does not exclude it, as with `curl -d '{}'`.
    /// As protobuf the byte would start a group, which no message has.
    SniffedJson,
    /// Protobuf.
    Protobuf,
}

impl Encoding {
    /// The encoding that the request line and headers choose; `None` leaves it to the body.
    pub fn asked(verb: &Verb, query: Option<&str>, headers: &HeaderMap) -> Option<Self> {
        let by_query = || {
            form_urlencoded::parse(query.unwrap_or_default().as_bytes())
                .any(|(key, value)| key == "json" && matches!(&*value, "" | "1" | "true"))
        };
        if is_read(verb) || by_query() {
            return Some(Self::Json);
        }
        match &*media::of_body(headers) {
            "application/json" => Some(Self::Json),
            // `curl -d` sends the first, whatever the body is.
            "application/x-www-form-urlencoded" | "text/json" => None,
            kind if kind.ends_with("+json") => None,
            _ => Some(Self::Protobuf),
        }
    }

    /// White space before the brace is ambiguous: a line feed also begins field 1 in protobuf, and white
    /// space may be its length. A body that is entirely well-formed protobuf is protobuf.
    pub fn of_body(body: &[u8]) -> Self {
        let is_protobuf = || <()>::decode(body).is_ok();
        match body.trim_ascii_start().first() {
            Some(b'{') if body.starts_with(b"{") || !is_protobuf() => Self::SniffedJson,
            _ => Self::Protobuf,
        }
    }

    /// Its media type.
    pub fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json | Self::SniffedJson => "application/json",
            Self::Protobuf => "application/octet-stream",
        })
    }

    /// Decodes the message in a body; an empty body is the default message.
    ///
    /// # Errors
    /// The body is not such a message.
    pub fn decode<Q: Message + Default + DeserializeOwned>(self, body: Bytes) -> Result<Q, DecodeError> {
        if body.is_empty() {
            return Ok(Q::default());
        }
        match self {
            // `serde_json` does not check UTF-8 in what it skips, so it is given a `str`.
            Self::Json | Self::SniffedJson => match std::str::from_utf8(&body) {
                Ok(text) => serde_json::from_str(text).map_err(DecodeError::Json),
                Err(_) => Err(DecodeError::NotUtf8),
            },
            Self::Protobuf => Q::decode(body).map_err(DecodeError::Protobuf),
        }
    }
}

/// Whether the method is GET or HEAD, so that the request has no body.
pub fn is_read(verb: &Verb) -> bool {
    matches!(*verb, Verb::GET | Verb::HEAD)
}

/// Why a request contains no such message. The texts are for the caller.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// JSON that is malformed or does not fit the message.
    #[error(transparent)]
    Json(serde_json::Error),
    /// Not UTF-8.
    #[error("the body is not UTF-8")]
    NotUtf8,
    /// Malformed protobuf.
    #[error(transparent)]
    Protobuf(prost::DecodeError),
    /// A query string with an unusable value.
    #[error(transparent)]
    Query(serde::de::value::Error),
}

/// Decodes a message from a query string: text values, unknown keys ignored.
///
/// # Errors
/// A value is invalid, or a key occurs twice.
pub fn from_query<Q: DeserializeOwned>(query: &str) -> Result<Q, DecodeError> {
    let pairs = form_urlencoded::parse(query.as_bytes());
    let map = serde::de::value::MapDeserializer::<_, serde::de::value::Error>::new(pairs);
    Q::deserialize(map).map_err(DecodeError::Query)
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;
    use crate::message::{AppId, GetAppKeyRequest, GetKmsKeyRequest};

    #[test]
    fn the_encoding_is_asked_for_by_verb_query_or_type_and_some_types_leave_it_to_the_body() {
        let (json, protobuf, by_body) = (Some(Encoding::Json), Some(Encoding::Protobuf), None);
        for (verb, query, kind, expected) in [
            (Verb::GET, None, "", json),
            (Verb::HEAD, None, "", json),
            (Verb::POST, None, "", protobuf),
            (Verb::POST, Some("json"), "", json),
            (Verb::POST, Some("json="), "", json),
            (Verb::POST, Some("json=1"), "application/octet-stream", json),
            (Verb::POST, Some("a=b&json=true"), "", json),
            (Verb::POST, Some("json=0"), "", protobuf),
            (Verb::POST, Some("json=yes"), "", protobuf),
            (Verb::POST, None, "application/json", json),
            (Verb::POST, None, "Application/JSON; charset=utf-8", json),
            (Verb::POST, None, "application/x-www-form-urlencoded", by_body),
            (Verb::POST, None, "application/vnd.api+json", by_body),
            (Verb::POST, None, "text/json", by_body),
            (Verb::POST, None, "application/jsonx", protobuf),
            (Verb::POST, None, "application/x-not-a-thing", protobuf),
            (Verb::POST, None, "application/octet-stream", protobuf),
            (Verb::POST, None, "text/plain", protobuf),
            (Verb::POST, None, "multipart/form-data; boundary=x", protobuf),
        ] {
            let mut headers = HeaderMap::new();
            if !kind.is_empty() {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            }
            assert_eq!(Encoding::asked(&verb, query, &headers), expected, "{verb} {query:?} {kind}");
        }
    }

    #[test]
    fn a_body_that_begins_with_a_brace_is_json() {
        assert_eq!(Encoding::of_body(b"{}"), Encoding::SniffedJson);
        assert_eq!(Encoding::of_body(b" \n  {}"), Encoding::SniffedJson);
        assert_eq!(Encoding::of_body(b""), Encoding::Protobuf);
        assert_eq!(Encoding::of_body(&[0x0a, 0x01, b'{']), Encoding::Protobuf);
    }

    #[test]
    fn protobuf_that_begins_with_line_feeds_and_a_brace_is_not_json() {
        let vm_config = r#"{"a":"bc"}"#.to_owned();
        let body = GetKmsKeyRequest {
            vm_config,
            epochs: false,
            challenge: Vec::new(),
            fresh_evidence: Vec::new(),
            join_token: String::new(),
        }
        .encode_to_vec();
        assert_eq!(body[..3], *b"\n\n{");
        assert_eq!(Encoding::of_body(&body), Encoding::Protobuf);
    }

    #[test]
    fn query_strings_carry_hex_and_numbers_and_drop_unknown_keys() {
        let app: AppId = from_query("json&app_id=0x00FF&other=1").expect("hex");
        assert_eq!(app.app_id, [0, 255]);
        let request: GetAppKeyRequest = from_query("api_version=1&vm_config=%7B%7D").expect("number");
        assert_eq!((request.api_version, request.vm_config.as_str()), (1, "{}"));
        let request: GetAppKeyRequest = from_query("root_epoch=1").expect("an optional number");
        assert_eq!((request.root_epoch, request.app_epoch), (Some(1), None));
    }

    #[test]
    fn query_strings_with_bad_values_are_refused_by_name() {
        for query in ["app_id=0", "app_id=zz", "app_id=00&app_id=01"] {
            assert!(from_query::<AppId>(query).is_err(), "{query}");
        }
        for query in ["api_version=-1", "api_version=1.5", "api_version=4294967296", "api_version="] {
            assert!(from_query::<GetAppKeyRequest>(query).is_err(), "{query}");
        }
    }
}
