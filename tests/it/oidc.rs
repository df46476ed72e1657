//! Operators who sign in with access tokens of OpenID Connect.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cvm_kms::api::Role;
use cvm_kms::config::Config;
use cvm_kms::operator::oidc::{Holder, KeySet, Rules, Token, TokenError};
use futures_util::FutureExt as _;
use kms_attest::clock::unix_now;
use serde_json::{Value, json};

use crate::support::http::{request, with};
use crate::support::issuer::{Issuer, Signer};
use crate::support::{ADMIN_TOKEN, Answer, Caller, World, tools};

const NOW: u64 = 1_800_000_000;

fn rules(issuer: &str) -> Rules {
    Rules {
        issuer: issuer.to_owned(),
        audience: "kms".to_owned(),
        claim: "groups".to_owned(),
        name_claim: "sub".to_owned(),
        roles: BTreeMap::from([("kms-owners".to_owned(), Role::Owner), ("all".to_owned(), Role::Viewer)]),
        clock_skew: Duration::from_secs(60),
    }
}

fn claims(issuer: &str, now: u64) -> Value {
    json!({ "iss": issuer, "aud": "kms", "sub": "alice", "exp": now + 600, "iat": now, "groups": ["all", "kms-owners"] })
}

fn keys(list: &[Value]) -> KeySet {
    KeySet::parse(json!({ "keys": list }).to_string().as_bytes()).expect("keys")
}

fn verified(token: &str, keys: &KeySet, rules: &Rules) -> Result<Holder, TokenError> {
    Token::parse(token)?.verify(keys, rules, NOW)
}

#[test]
fn a_token_of_each_algorithm_identifies_its_holder() {
    let rules = rules("https://id.example");
    for signer in Signer::each() {
        let set = keys(&[Signer::ed().jwk("other"), signer.jwk("one")]);
        let header = json!({ "alg": signer.algorithm(), "kid": "one", "typ": "at+jwt" });
        let holder = verified(&signer.sign(&header, &claims("https://id.example", NOW)), &set, &rules);
        let expected = Holder {
            subject: "alice".to_owned(),
            name: "alice".to_owned(),
            role: Some(Role::Owner),
            expires_at: NOW + 660,
        };
        assert_eq!(holder, Ok(expected), "{}", signer.algorithm());
    }
}

#[test]
fn an_altered_token_identifies_nobody() {
    let [ed, ec, rsa] = Signer::each();
    let rules = rules("https://id.example");
    let set = keys(&[ed.jwk("one"), ec.jwk("two"), rsa.jwk("three")]);
    let good = claims("https://id.example", NOW);
    let header = json!({ "alg": "EdDSA", "kid": "one" });
    let token = ed.sign(&header, &good);
    assert!(verified(&token, &set, &rules).is_ok());

    // Without a signature, and with the public key as a shared secret.
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let of = |header: Value, signature: &[u8]| {
        format!("{}.{}.{}", part(&header), part(&good), URL_SAFE_NO_PAD.encode(signature))
    };
    let public = rsa.jwk("three")["n"].as_str().expect("a modulus").to_owned();
    let hs = json!({ "alg": "HS256", "kid": "three" });
    let message = format!("{}.{}", part(&hs), part(&good));
    let secret = hmac::Key::new(hmac::HMAC_SHA256, public.as_bytes());
    let shared = hmac::sign(&secret, message.as_bytes());
    let huge = ed.sign(&header, &json!({ "iss": "x".repeat(9000) }));
    let (message, _) = token.rsplit_once('.').expect("three parts");
    let path = json!({ "alg": "EdDSA", "kid": "../../one" });
    let twice = |members: &str| format!("{{{members},{}", &good.to_string()[1..]);
    for (what, token, error) in [
        ("none", of(json!({ "alg": "none" }), b""), TokenError::Algorithm),
        ("None", of(json!({ "alg": "None", "kid": "one" }), b""), TokenError::Algorithm),
        ("HS256", of(hs, shared.as_ref()), TokenError::Algorithm),
        ("RS512", of(json!({ "alg": "RS512", "kid": "three" }), b"x"), TokenError::Algorithm),
        ("no alg", of(json!({ "kid": "one" }), b"x"), TokenError::Algorithm),
        ("no signature", format!("{message}."), TokenError::Signature),
        ("another signature", format!("{message}.{}", "A".repeat(86)), TokenError::Signature),
        ("a signature that is no base64", format!("{message}.%%"), TokenError::Signature),
        ("another key", Signer::ed().sign(&header, &good), TokenError::Signature),
        (
            "a key of another kind",
            ed.sign(&json!({ "alg": "EdDSA", "kid": "two" }), &good),
            TokenError::UnknownKey,
        ),
        ("an unknown key", ed.sign(&json!({ "alg": "EdDSA", "kid": "none" }), &good), TokenError::UnknownKey),
        ("a path as the key's id", ed.sign(&path, &good), TokenError::UnknownKey),
        (
            "extensions",
            ed.sign(&json!({ "alg": "EdDSA", "kid": "one", "crit": ["b64"] }), &good),
            TokenError::Malformed("its header needs extensions"),
        ),
        (
            "an id token's type",
            ed.sign(&json!({ "alg": "EdDSA", "kid": "one", "typ": "logout+jwt" }), &good),
            TokenError::Malformed("it is of another type"),
        ),
        (
            "a number as the key's id",
            ed.sign(&json!({ "alg": "EdDSA", "kid": 1 }), &good),
            TokenError::Malformed("the id of its key is not a short text"),
        ),
        (
            "alg twice",
            ed.sign_text(r#"{"alg":"none","alg":"EdDSA","kid":"one"}"#, &good.to_string()),
            TokenError::Malformed("a part is not a JSON object, or repeats a member"),
        ),
        (
            "groups twice",
            ed.sign_text(&header.to_string(), &twice(r#""groups":["all"]"#)),
            TokenError::Malformed("a part is not a JSON object, or repeats a member"),
        ),
        (
            "sub twice",
            ed.sign_text(&header.to_string(), &twice(r#""sub":"bob""#)),
            TokenError::Malformed("a part is not a JSON object, or repeats a member"),
        ),
        (
            "a list",
            ed.sign_text(&header.to_string(), "[]"),
            TokenError::Malformed("a part is not a JSON object, or repeats a member"),
        ),
        ("too long", huge, TokenError::Malformed("it is too long")),
        ("two parts", "eyJ.eyJ".to_owned(), TokenError::Malformed("it does not have three parts")),
        ("four parts", format!("{token}.x"), TokenError::Malformed("it does not have three parts")),
        ("padding", format!("{}==", token), TokenError::Signature),
    ] {
        assert_eq!(verified(&token, &set, &rules), Err(error), "{what}");
    }
    assert!(!format!("{:?}", Token::parse(&token).expect("a token")).contains("ey"));
}

#[test]
fn a_token_counts_here_and_now_only() {
    let signer = Signer::ed();
    let rules = rules("https://id.example");
    let set = keys(&[signer.jwk("one")]);
    let header = json!({ "alg": "EdDSA" });
    let of = |changes: Value| {
        let mut claims = claims("https://id.example", NOW);
        for (name, value) in changes.as_object().expect("an object") {
            match value {
                Value::Null => drop(claims.as_object_mut().expect("an object").remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        verified(&signer.sign(&header, &claims), &set, &rules)
    };
    for (changes, error) in [
        (json!({ "iss": "https://id.example/" }), "iss is another issuer"),
        (json!({ "iss": null }), "iss is another issuer"),
        (json!({ "aud": "other" }), "aud is another audience"),
        (json!({ "aud": ["other", "kms2"] }), "aud is another audience"),
        (json!({ "aud": ["kms", 1] }), "aud is another audience"),
        (json!({ "aud": null }), "aud is another audience"),
        (json!({ "exp": NOW - 60 }), "it has expired"),
        (json!({ "exp": null }), "exp is missing"),
        (json!({ "exp": "soon" }), "exp, nbf or iat is not a date"),
        (json!({ "exp": -1 }), "exp, nbf or iat is not a date"),
        (json!({ "exp": 1e300 }), "exp, nbf or iat is not a date"),
        (json!({ "exp": NOW + 86_401 }), "exp is more than a day away"),
        (json!({ "nbf": NOW + 61 }), "nbf or iat is in the future"),
        (json!({ "iat": NOW + 61 }), "nbf or iat is in the future"),
        (json!({ "sub": null }), "sub is not a short text without spaces"),
        (json!({ "sub": "" }), "sub is not a short text without spaces"),
        (json!({ "sub": "a b" }), "sub is not a short text without spaces"),
        (json!({ "sub": "a\u{202e}b" }), "sub is not a short text without spaces"),
        (json!({ "sub": "x".repeat(129) }), "sub is not a short text without spaces"),
    ] {
        assert_eq!(of(changes.clone()), Err(TokenError::Claim(error)), "{changes}");
    }
    for (changes, role) in [
        (json!({ "exp": NOW - 59, "nbf": NOW + 60, "aud": ["x", "kms"] }), Some(Role::Owner)),
        (json!({ "exp": (NOW + 5) as f64 + 0.5 }), Some(Role::Owner)),
        (json!({ "groups": "all other" }), Some(Role::Viewer)),
        (json!({ "groups": ["other", 1, null] }), None),
        (json!({ "groups": { "kms-owners": true } }), None),
        (json!({ "groups": null }), None),
    ] {
        assert_eq!(of(changes.clone()).map(|holder| holder.role), Ok(role), "{changes}");
    }
    let nested = Rules { claim: "realm_access.roles".to_owned(), ..rules.clone() };
    let mut claims = claims("https://id.example", NOW);
    claims["realm_access"] = json!({ "roles": ["kms-owners"] });
    let holder = verified(&signer.sign(&header, &claims), &set, &nested).expect("a holder");
    assert_eq!(holder.role, Some(Role::Owner), "a path");
}

#[test]
fn keys_of_other_kinds_and_purposes_are_left_out() {
    let [ed, ec, rsa] = Signer::each();
    let with = |mut key: Value, name: &str, value: Value| {
        key[name] = value;
        key
    };
    for (what, key) in [
        ("encryption", with(ed.jwk("one"), "use", json!("enc"))),
        ("other operations", with(ed.jwk("one"), "key_ops", json!(["encrypt"]))),
        ("another algorithm", with(rsa.jwk("one"), "alg", json!("RS512"))),
        ("another curve", with(ec.jwk("one"), "crv", json!("P-384"))),
        ("a short point", with(ec.jwk("one"), "x", json!("AA"))),
        ("a short modulus", with(rsa.jwk("one"), "n", json!("A".repeat(171)))),
        ("a long exponent", with(rsa.jwk("one"), "e", json!("A".repeat(9)))),
        ("a shared key", json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "one" })),
        ("no key", json!("key")),
        ("a long id", ed.jwk(&"x".repeat(257))),
    ] {
        let text = json!({ "keys": [key] }).to_string();
        let error = KeySet::parse(text.as_bytes()).expect_err(what).to_string();
        assert_eq!(error, "the issuer has no key for RS256, ES256 or EdDSA", "{what}");
    }
    let many = json!({ "keys": vec![ed.jwk("one"); 65] }).to_string();
    assert_eq!(
        KeySet::parse(many.as_bytes()).expect_err("many").to_string(),
        "the issuer has more than 64 keys"
    );
    for text in ["", "{}", "[]", "{\"keys\":1}", "\u{0}"] {
        let error = KeySet::parse(text.as_bytes()).expect_err(text).to_string();
        assert_eq!(error, "the issuer's keys are not JSON Web Keys", "{text}");
    }
    let two = keys(&[ed.jwk("one"), Signer::ed().jwk("two")]);
    let token = ed.sign(&json!({ "alg": "EdDSA" }), &claims("https://id.example", NOW));
    let ambiguous = verified(&token, &two, &rules("https://id.example"));
    assert_eq!(ambiguous, Err(TokenError::UnknownKey), "without an id it could be either");
}

/// A KMS that trusts `issuer`.
async fn world(issuer: &Issuer, more: &str) -> (World, Caller) {
    let toml = format!(
        "core.admin.oidc.issuer = '{}'\ncore.admin.oidc.audience = 'kms'\ncore.admin.oidc.roles = {{ kms-owners = 'owner', \
         all = 'viewer' }}\n{more}",
        issuer.url
    );
    let mut world = World::ready().await;
    world.configure(&toml);
    world.start().await.expect("it starts again");
    let admin = Caller::new(world.admin_address().await).plain();
    (world, admin)
}

async fn get(admin: &Caller, path: &str, token: &str) -> Answer {
    admin.send(with(request("GET", path, ""), "authorization", &format!("Bearer {token}"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_the_issuer_has_the_role_of_the_groups() {
    let signer = Signer::ed();
    let issuer = Issuer::with(&[signer.jwk("one")]).await;
    let (world, admin) = world(&issuer, "").await;
    let token = |sub: &str, groups: Value| {
        let mut claims = claims(&issuer.url, unix_now());
        (claims["sub"], claims["groups"]) = (json!(sub), groups);
        signer.sign(&json!({ "alg": "EdDSA", "kid": "one" }), &claims)
    };
    let alice = token("alice", json!(["kms-owners"]));
    let me = get(&admin, "/api/v1/me", &alice).await.value();
    assert_eq!(
        (&me["name"], &me["kind"], &me["role"]),
        (&json!("alice"), &json!("oidc"), &json!("owner")),
        "{me}"
    );
    assert!(me["expires_at"].is_string(), "{me}");
    let eve = token("eve", json!(["all"]));
    assert_eq!(get(&admin, "/api/v1/me", &eve).await.value()["role"], "viewer");
    assert_eq!(get(&admin, "/api/v1/credentials", &eve).await.status, 403);
    let nobody = get(&admin, "/api/v1/me", &token("mallory", json!(["other"]))).await;
    assert_eq!(nobody.status, 403, "{}", nobody.text());
    assert!(nobody.text().contains("no group of yours has a role"), "{}", nobody.text());
    let freeze = json!({ "scope": "kms", "value": "", "reason": "r" }).to_string();
    let freeze = with(request("POST", "/prpc/Freeze", freeze), "content-type", "application/json");
    let answer = admin.send(with(freeze, "authorization", &format!("Bearer {alice}"))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(world.audited("frozen")[0]["by"], "oidc:alice");
    // Only as a bearer token.
    let shown = admin.send(with(request("GET", "/api/v1/me", ""), "x-admin-token", &alice)).await;
    assert_eq!(shown.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_issuer_did_not_sign_or_what_has_ended_is_refused() {
    let signer = Signer::ed();
    let issuer = Issuer::with(&[signer.jwk("one")]).await;
    let (_world, admin) = world(&issuer, "").await;
    let header = json!({ "alg": "EdDSA", "kid": "one" });
    let old = signer.sign(&header, &claims(&issuer.url, unix_now() - 3600));
    for _ in 0..20 {
        let answer = get(&admin, "/livez", &old).await;
        assert_eq!(
            (answer.status, answer.text()),
            (401, ""),
            "a token that has ended is no guess, and locks nobody out"
        );
    }
    let good = signer.sign(&header, &claims(&issuer.url, unix_now()));
    assert_eq!(get(&admin, "/livez", &good).await.status, 200);
    let forged = Signer::ed().sign(&header, &claims(&issuer.url, unix_now()));
    assert_eq!(get(&admin, "/livez", &forged).await.status, 401);
    assert_eq!(get(&admin, "/livez", ADMIN_TOKEN).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_cannot_be_reached_stops_nobody_else() {
    let signer = Signer::ed();
    let issuer = Issuer::with(&[signer.jwk("one")]).await;
    issuer.describe(json!({ "issuer": "https://other.example", "jwks_uri": "https://other.example/keys" }));
    let (_world, admin) = world(&issuer, "").await;
    let token = signer.sign(&json!({ "alg": "EdDSA", "kid": "one" }), &claims(&issuer.url, unix_now()));
    for _ in 0..3 {
        let answer = get(&admin, "/livez", &token).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, "11"), "{}", answer.text());
        assert_eq!(answer.header("x-error-code"), "issuer_unavailable");
        assert_eq!(get(&admin, "/livez", ADMIN_TOKEN).await.status, 200);
    }
    assert_eq!(issuer.requests(), 1, "one attempt in ten seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_kept_and_fetched_again_for_an_unknown_one() {
    use cvm_kms::net::oidc::Bounds;
    let (first, second) = (Signer::ed(), Signer::ed());
    let server = Issuer::with(&[first.jwk("one")]).await;
    let toml = format!(
        "[core.admin.oidc]\nissuer = '{}'\naudience = 'kms'\nroles = {{ kms-owners = 'owner' }}",
        server.url
    );
    let Ok((config, _)) = Config::from_toml(&toml) else { panic!("a configuration") };
    let oidc = config.core.admin.oidc.expect("an issuer");
    let bounds = Bounds { pause: Duration::ZERO, ..Bounds::USUAL };
    let client = Arc::new(cvm_kms::net::oidc::Issuer::new(&oidc, bounds).expect("a client"));
    let now = unix_now();
    let token = |signer: &Signer, id: &str| {
        signer.sign(&json!({ "alg": "EdDSA", "kid": id }), &claims(&server.url, now))
    };
    for _ in 0..3 {
        let holder = client.identify(&token(&first, "one"), now).await.expect("a holder");
        assert_eq!(holder.to_string(), "oidc:alice");
    }
    assert_eq!(server.requests(), 2, "its description and its keys, once");
    server.show(&[first.jwk("one"), second.jwk("two")]);
    assert!(client.identify(&token(&second, "two"), now).await.is_ok(), "another key");
    assert_eq!(server.requests(), 4);
    server.show(&[second.jwk("two")]);
    assert!(client.identify(&token(&first, "one"), now).await.is_ok(), "until they are fetched again");
    assert!(client.identify(&token(&first, "three"), now).await.is_err());
    assert!(client.identify(&token(&first, "one"), now).await.is_err(), "the issuer has taken the key back");
    server.describe(json!({}));
    assert!(client.identify(&token(&second, "two"), now).await.is_ok(), "while the issuer fails");
    assert!(client.check().await.expect_err("a description").to_string().contains("openid-configuration"));
    server.describe(json!({ "issuer": server.url, "jwks_uri": "http://192.0.2.1/keys" }));
    assert!(
        client.check().await.expect_err("plain http").to_string().contains("jwks_uri is not an https URL")
    );

    let never = Bounds { keep: Duration::ZERO, pause: Duration::ZERO, ..Bounds::USUAL };
    let client = Arc::new(cvm_kms::net::oidc::Issuer::new(&oidc, never).expect("a client"));
    assert!(client.identify(&token(&second, "two"), now).await.is_err(), "keys that are too old");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_counts_also_if_its_caller_hangs_up() {
    use cvm_kms::net::oidc::{Bounds, Refusal};
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let toml =
        format!("[core.admin.oidc]\nissuer = '{url}'\naudience = 'kms'\nroles = {{ kms-owners = 'owner' }}");
    let Ok((config, _)) = Config::from_toml(&toml) else { panic!("a configuration") };
    let oidc = config.core.admin.oidc.expect("an issuer");
    let bounds = Bounds { request: Duration::from_millis(300), ..Bounds::USUAL };
    let client = Arc::new(cvm_kms::net::oidc::Issuer::new(&oidc, bounds).expect("a client"));
    let now = unix_now();
    let token = Signer::ed().sign(&json!({ "alg": "EdDSA", "kid": "one" }), &claims(&url, now));
    let first = {
        let (client, token) = (Arc::clone(&client), token.clone());
        tokio::spawn(async move { client.identify(&token, now).await })
    };
    let (_connection, _) = silent.accept().await.expect("a request");
    first.abort();
    assert!(first.await.is_err_and(|error| error.is_cancelled()));
    for _ in 0..3 {
        assert_eq!(client.identify(&token, now).await.err(), Some(Refusal::Unreachable));
    }
    assert!(silent.accept().now_or_never().is_none(), "one attempt in ten seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_the_issuer_is_a_second_owner() {
    let signer = Signer::ed();
    let issuer = Issuer::with(&[signer.jwk("one")]).await;
    let (world, admin) = world(&issuer, "core.admin.approvals = 2").await;
    let post = async |path: &str, body: Value, token: &str| {
        let asked =
            with(request("POST", path, body.to_string()), "authorization", &format!("Bearer {token}"));
        admin.send(with(asked, "content-type", "application/json")).await
    };
    let token = |sub: &str, group: &str| {
        let mut claims = claims(&issuer.url, unix_now());
        (claims["sub"], claims["groups"]) = (json!(sub), json!([group]));
        signer.sign(&json!({ "alg": "EdDSA", "kid": "one" }), &claims)
    };
    let (alice, eve) = (token("alice", "kms-owners"), token("eve", "all"));
    let bob = json!({ "name": "alice", "role": "owner" });
    let waits = post("/api/v1/credentials", bob, &alice).await;
    assert_eq!(waits.status, 202, "the issuer has owners, so nobody is alone: {}", waits.text());
    let id = waits.value()["approval"]["id"].as_str().expect("an id").to_owned();
    let approve = format!("/api/v1/approvals/{id}/approve");
    let own = post(&approve, json!({}), &token("alice", "kms-owners")).await;
    assert_eq!(own.status, 403, "another token of the same person: {}", own.text());
    assert_eq!(post(&approve, json!({}), &eve).await.status, 403);
    let done = post(&approve, json!({}), ADMIN_TOKEN).await;
    assert_eq!((done.status, &done.value()["state"]), (200, &json!("done")), "{}", done.text());
    assert_eq!(world.audited("approval_requested")[0]["by"], "oidc:alice");
}

/// npm `oidc-provider`, until it is dropped.
struct Provider(std::process::Child);

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_provider_that_others_publish_are_accepted() {
    use std::io::{BufRead as _, BufReader};
    use std::process::Stdio;
    let (provider, served) = tokio::task::spawn_blocking(|| {
        let directory = tools::npm("clients/node");
        let mut node = std::process::Command::new(tools::program("node"));
        node.arg(directory.join("issuer.mjs"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut provider = node.spawn().map(Provider).expect("it starts");
        let lines = BufReader::new(provider.0.stdout.take().expect("its output")).lines();
        let line = lines.map_while(Result::ok).find(|line| line.starts_with('{')).expect("a line of JSON");
        (provider, serde_json::from_str::<Value>(&line).expect("JSON"))
    })
    .await
    .expect("no panic");
    let toml = format!(
        "[core.admin.oidc]\nissuer = '{}'\naudience = 'kms'\nroles = {{ kms-owners = 'owner' }}",
        served["issuer"].as_str().expect("a URL")
    );
    let Ok((config, _)) = Config::from_toml(&toml) else { panic!("a configuration") };
    let oidc = config.core.admin.oidc.expect("an issuer");
    let client = cvm_kms::net::oidc::Issuer::new(&oidc, cvm_kms::net::oidc::Bounds::USUAL).expect("a client");
    let client = Arc::new(client);
    client.check().await.expect("its description and its keys");
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        let token = served["tokens"][algorithm].as_str().expect("a token");
        let operator = client.identify(token, unix_now()).await.expect(algorithm);
        assert_eq!((operator.to_string().as_str(), operator.role()), ("oidc:operator", Some(Role::Owner)));
        let other = token.rsplit_once('.').expect("three parts").0;
        assert!(client.identify(&format!("{other}.{}", "A".repeat(86)), unix_now()).await.is_err());
    }
    drop(provider);
}

#[test]
fn a_configuration_that_would_let_nobody_or_others_in_is_refused() {
    for (keys, expected) in [
        (
            "issuer = 'http://id.example'",
            "core.admin.oidc.issuer: must be an https URL, unless insecure_plain_http is true",
        ),
        (
            "issuer = 'https://id.example?x'",
            "core.admin.oidc.issuer: must be a URL without query and fragment",
        ),
        ("issuer = 'https://id.example'", "core.admin.oidc.audience: is missing"),
        ("issuer = 'https://id.example'\naudience = 'a'", "core.admin.oidc.roles: is missing"),
        ("roles = { a = 'root' }", "core.admin.oidc.roles: a: role must be owner, operator"),
        ("roles = 1", "core.admin.oidc.roles: must be a table of groups"),
        ("clock_skew = '6m'", "core.admin.oidc.clock_skew: must be from 0s to 5m"),
        ("issuer = 'http://127.0.0.1:1'\nca_file = '/x'", "core.admin.oidc.ca_file: needs an https URL"),
    ] {
        let text = format!("[core.admin]\nenabled = true\nauth_token = 'x'\n[core.admin.oidc]\n{keys}");
        let findings = Config::from_toml(&text).err().expect("it is refused").findings;
        let told: Vec<_> = findings.iter().map(|it| format!("{}: {}", it.subject, it.message)).collect();
        assert!(told.iter().any(|finding| finding.starts_with(expected)), "{keys}: {told:?}");
    }
}
