//! The envelope of JSON-RPC 2.0, and the few values in it that are used here.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::error::NodeError;

/// Maximum length of a node's message in the log, in characters.
const MAX_QUOTE: usize = 256;
/// The error code of a reverted call.
const EXECUTION_REVERTED: i64 = 3;
/// The message of nodes that have no code for a reverted call.
const REVERTED_WORDS: &str = "execution reverted";

/// A request that calls `method` with `params`.
pub(super) fn request(id: u64, method: &'static str, params: &Value) -> Vec<u8> {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string().into_bytes()
}

#[derive(Deserialize)]
struct Response<'a> {
    jsonrpc: String,
    id: Option<u64>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    code: i64,
    #[serde(default)]
    message: String,
}

/// The result in the response to request `id`; `None` if it is `null`.
pub(super) fn result(id: u64, body: &[u8]) -> Result<Option<&RawValue>, NodeError> {
    let body = std::str::from_utf8(body).map_err(|_| NodeError::NotJsonRpc("not UTF-8"))?;
    // Serde would accept an array as an object.
    if !body.trim_start().starts_with('{') {
        return Err(NodeError::NotJsonRpc("not an object"));
    }
    let answer: Response<'_> =
        serde_json::from_str(body).map_err(|_| NodeError::NotJsonRpc("not its members"))?;
    if answer.jsonrpc != "2.0" {
        return Err(NodeError::NotJsonRpc("another version"));
    }
    match (answer.id, answer.result, answer.error) {
        (Some(found), ..) if found != id => Err(NodeError::NotJsonRpc("the answer to another request")),
        (_, None, Some(failure)) => Err(failure.into()),
        (Some(_), result, None) => Ok(result),
        _ => Err(NodeError::NotJsonRpc("neither a result nor an error")),
    }
}

impl From<Failure> for NodeError {
    fn from(Failure { code, message }: Failure) -> Self {
        let message: String = message.chars().take(MAX_QUOTE).map(printable).collect();
        // Other messages do not count: "out of gas" can be a limit of this node, and "reverted" can come from
        // its proxy.
        let begins = message.get(..REVERTED_WORDS.len());
        let says_so = begins.is_some_and(|words| words.eq_ignore_ascii_case(REVERTED_WORDS));
        match code == EXECUTION_REVERTED || says_so {
            true => Self::Reverted { message },
            false => Self::Error { code, message },
        }
    }
}

pub(super) fn printable(character: char) -> char {
    if character.is_control() { ' ' } else { character }
}

/// `0x` and up to 16 hex digits.
pub(super) fn quantity(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").filter(|digits| (1..=16).contains(&digits.len()))?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// `0x` and whole bytes in hex.
pub(super) fn bytes(text: &str) -> Option<Vec<u8>> {
    hex::decode(text.strip_prefix("0x")?).ok()
}

/// A string result.
pub(super) fn text(result: Option<&RawValue>) -> Result<String, NodeError> {
    let result = result.ok_or(NodeError::NotJsonRpc("no result"))?;
    serde_json::from_str(result.get()).map_err(|_| NodeError::NotJsonRpc("a result of another type"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_the_request_counts() {
        for (body, expected) in [
            (r#"{"jsonrpc":"2.0","id":7,"result":"0x1"}"#, Ok(Some(r#""0x1""#))),
            (r#" {"id":7,"result":{"a":[1]},"jsonrpc":"2.0","more":1}"#, Ok(Some(r#"{"a":[1]}"#))),
            (r#"{"jsonrpc":"2.0","id":7,"result":null}"#, Ok(None)),
            (r#"{"jsonrpc":"2.0","id":8,"result":"0x1"}"#, Err("the answer to another request")),
            (r#"{"jsonrpc":"2.0","id":"7","result":"0x1"}"#, Err("not its members")),
            (r#"{"jsonrpc":"2.0","id":7,"id":7,"result":"0x1"}"#, Err("not its members")),
            (r#"{"jsonrpc":"2.0","result":"0x1"}"#, Err("neither a result")),
            (r#"{"jsonrpc":"2.0","id":null,"result":"0x1"}"#, Err("neither a result")),
            (r#"{"jsonrpc":"1.0","id":7,"result":"0x1"}"#, Err("another version")),
            (r#"{"id":7,"result":"0x1"}"#, Err("not its members")),
            (r#"["2.0",7,"0x1",null]"#, Err("not an object")),
            (r#"[{"jsonrpc":"2.0","id":7,"result":"0x1"}]"#, Err("not an object")),
            (r#"{"jsonrpc":"2.0","id":7,"result":"0x1"}x"#, Err("not its members")),
            ("<html>", Err("not an object")),
            ("", Err("not an object")),
            (
                r#"{"jsonrpc":"2.0","id":7,"result":"0x1","error":{"code":1,"message":"m"}}"#,
                Err("neither a result"),
            ),
            (
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32005,"message":"slow\ndown"}}"#,
                Err("-32005: slow down"),
            ),
            (r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32000}}"#, Err("error -32000: ")),
            (
                r#"{"jsonrpc":"2.0","id":7,"error":{"code":3,"message":"m"}}"#,
                Err("the contract call failed: m"),
            ),
            (
                r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32000,"message":"Out of gas"}}"#,
                Err("JSON-RPC error -32000: Out of gas"),
            ),
            (
                r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32000,"message":"execution reverted: m"}}"#,
                Err("the contract call failed: execution reverted: m"),
            ),
            (
                r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32000,"message":"state reverted to another"}}"#,
                Err("JSON-RPC error -32000: state reverted to another"),
            ),
            (r#"{"jsonrpc":"2.0","id":7,"error":"m"}"#, Err("not its members")),
        ] {
            let found = result(7, body.as_bytes()).map(|result| result.map(RawValue::get));
            match expected {
                Ok(expected) => assert_eq!(found, Ok(expected), "{body}"),
                Err(expected) => {
                    let error = found.expect_err(body).to_string();
                    assert!(error.contains(expected), "{body}: {error}");
                }
            }
        }
        let not_text = result(7, b"{\"jsonrpc\":\"\xff\"}").err();
        assert_eq!(not_text, Some(NodeError::NotJsonRpc("not UTF-8")));
    }

    #[test]
    fn a_nodes_words_are_cut_between_characters() {
        let body = json!({ "jsonrpc": "2.0", "id": 7, "error": { "code": 1, "message": "é".repeat(9000) } });
        let error = result(7, body.to_string().as_bytes()).err();
        assert_eq!(error, Some(NodeError::Error { code: 1, message: "é".repeat(MAX_QUOTE) }));
    }

    #[test]
    fn quantities_are_hex_of_at_most_eight_bytes() {
        for (text, expected) in [
            ("0x0", Some(0)),
            ("0x7a69", Some(31337)),
            ("0x00ff", Some(255)),
            ("0xffffffffffffffff", Some(u64::MAX)),
            ("0x10000000000000000", None),
            ("0x", None),
            ("0x+1", None),
            ("1", None),
            ("", None),
            ("0xé", None),
        ] {
            assert_eq!(quantity(text), expected, "{text:?}");
        }
        assert_eq!(bytes("0x00ff"), Some(vec![0, 255]));
        for text in ["", "00", "0x0", "0xzz", "0xé"] {
            assert_eq!(bytes(text), None, "{text:?}");
        }
    }
}
