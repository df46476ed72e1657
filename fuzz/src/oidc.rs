//! Access tokens of OpenID Connect, their claims, and the keys of their issuer.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use cvm_kms::api::Role;
use cvm_kms::operator::oidc::{
    KeySet, MAX_TOKEN, Rules, Token, TokenError, dangerous_unsigned_holder, looks_like_token,
};

const NOW: u64 = 1_800_000_000;

static RULES: LazyLock<Rules> = LazyLock::new(|| Rules {
    issuer: "https://id.example".to_owned(),
    audience: "kms".to_owned(),
    claim: "realm_access.roles".to_owned(),
    name_claim: "sub".to_owned(),
    roles: BTreeMap::from([("owners".to_owned(), Role::Owner)]),
    clock_skew: Duration::from_secs(60),
});

/// A public key whose private key nobody has.
static KEYS: LazyLock<KeySet> = LazyLock::new(|| {
    let keys = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    KeySet::parse(keys.as_bytes()).expect("a key")
});

/// Uses the bytes as a token, as claims, and as a set of keys.
pub fn oidc(data: &[u8]) {
    let _ = KeySet::parse(data);
    if let Ok(holder) = dangerous_unsigned_holder(data, &RULES, NOW) {
        assert!((NOW..=NOW + 86_400 + 120).contains(&holder.expires_at), "{holder:?}");
        assert!(holder.name.bytes().all(|byte| byte.is_ascii_graphic()), "{holder:?}");
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let is_long = text.len() > MAX_TOKEN;
    assert!(!(is_long && looks_like_token(text)));
    match Token::parse(text) {
        Ok(token) => {
            assert!(!is_long);
            let refused = token.verify(&KEYS, &RULES, NOW).expect_err("nobody can sign");
            assert!(matches!(refused, TokenError::UnknownKey | TokenError::Signature), "{refused}");
        }
        Err(error) => {
            assert!(matches!(error, TokenError::Malformed(_) | TokenError::Algorithm), "{error}");
        }
    }
}
