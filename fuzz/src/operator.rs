//! Credentials of operators: headers, lines of an htpasswd file, and secrets that they choose.

use std::sync::{Arc, LazyLock};

use cvm_kms::operator::chosen::ChosenSecret;
use cvm_kms::operator::{BadHtpasswd, Credentials, Operator, OperatorToken, Shown, Users};
use http::{HeaderMap, HeaderValue, header};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Without the token in it, in plain or in base64, no header is the operator's.
static CREDENTIALS: LazyLock<Credentials> = LazyLock::new(|| Credentials::Needed {
    token: Some(OperatorToken::new(TOKEN)),
    users: Default::default(),
    named: Arc::default(),
});

/// Uses the bytes as an htpasswd file, as a secret, and as the value of each header that may carry credentials.
pub fn operator(data: &[u8]) {
    if let Err(
        BadHtpasswd::Malformed { line } | BadHtpasswd::Cost { line, .. } | BadHtpasswd::Repeated { line },
    ) = Users::read(data)
    {
        let text = String::from_utf8_lossy(data);
        assert!((1..=text.lines().count()).contains(&line), "line {line} of {text:?}");
    }
    if let Ok(secret) = ChosenSecret::parse(data) {
        let text = secret.expose();
        assert!(text.chars().count() >= 12 && !text.chars().any(char::is_control), "{text:?}");
        assert!(data.starts_with(text.as_bytes()) && data.len() <= text.len() + 2, "{data:?}");
    }
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    for name in [header::AUTHORIZATION, header::HeaderName::from_static("x-admin-token")] {
        let headers = HeaderMap::from_iter([(name, value.clone())]);
        // Without users no password is hashed.
        if CREDENTIALS.shown(&headers) == Shown::Right(Operator::Token) {
            let text = value.to_str().expect("credentials are text");
            let encoded =
                text.split_once(' ').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"));
            assert!(encoded || text.contains(TOKEN), "{text:?} is not the operator's");
        }
    }
}
