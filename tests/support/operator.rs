//! An operator at the admin listener of a KMS under test.

use std::borrow::Borrow;

use bytes::Bytes;
use cvm_kms::proto::{ExplainRequest, ExplainResponse};
use http::Request;
use serde_json::{Value, json};

use super::http::{json as prpc, request, with};
use super::{ADMIN_TOKEN, Answer, Caller, World};

/// `request` with the valid token.
pub fn authorized(request: Request<Bytes>) -> Request<Bytes> {
    with(request, "x-admin-token", ADMIN_TOKEN)
}

/// [`Operator::ask`] of `world`.
pub async fn ask(world: &World, verb: &str, path: &str, body: impl Borrow<Value>) -> Answer {
    Operator::of(world).await.ask(verb, path, body).await
}

/// [`Operator::done`] of `world`.
pub async fn done(world: &World, verb: &str, path: &str, body: impl Borrow<Value>) -> Value {
    Operator::of(world).await.done(verb, path, body).await
}

/// Calls the admin service with the valid token.
pub struct Operator(Caller);

impl Operator {
    /// The operator of `world`.
    pub async fn of(world: &World) -> Self {
        Self(Caller::new(world.admin_address().await).plain())
    }

    /// Any request.
    pub async fn send(&self, request: Request<Bytes>) -> Answer {
        self.0.send(authorized(request)).await
    }

    /// `GET <path>`.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(request("GET", path, "")).await
    }

    /// `<verb> <path>` with a JSON body, or without one if it is null.
    pub async fn ask(&self, verb: &str, path: &str, body: impl Borrow<Value>) -> Answer {
        let body = body.borrow();
        self.send(request(verb, path, if body.is_null() { String::new() } else { body.to_string() })).await
    }

    /// Like [`Operator::ask`], but must succeed.
    pub async fn done(&self, verb: &str, path: &str, body: impl Borrow<Value>) -> Value {
        let answer = self.ask(verb, path, body).await;
        assert_eq!(answer.status, 200, "{verb} {path}: {}", answer.text());
        answer.value()
    }

    /// `POST /prpc/<method>`.
    pub async fn call(&self, method: &str, body: Value) -> Answer {
        self.send(prpc(method, body)).await
    }

    /// Like [`Operator::call`], but must succeed.
    pub async fn called(&self, method: &str, body: Value) -> Value {
        let answer = self.call(method, body).await;
        assert_eq!(answer.status, 200, "{method}: {}", answer.text());
        answer.value()
    }

    /// Freezes a target without an end.
    pub async fn freeze(&self, scope: &str, value: &[u8]) {
        let request = json!({ "scope": scope, "value": hex::encode(value), "reason": "a test" });
        self.called("Freeze", request).await;
    }

    /// Freezes as `request` says, until the other nodes of the fleet have it.
    pub async fn freezes_all(&self, request: Value) {
        super::eventually("a freeze that is shared", async || {
            (self.called("Freeze", request.clone()).await["shared"] == true).then_some(())
        })
        .await;
    }

    /// Unfreezes a target; returns whether it was frozen.
    pub async fn unfreeze(&self, scope: &str, value: &[u8]) -> bool {
        let request = json!({ "scope": scope, "value": hex::encode(value) });
        self.called("Unfreeze", request).await["was_frozen"].as_bool().expect("a word")
    }

    /// Requests an explanation.
    pub async fn explain(&self, request: ExplainRequest) -> ExplainResponse {
        let answer = self.call("Explain", serde_json::to_value(request).expect("JSON")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.message()
    }
}
