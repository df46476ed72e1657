//! An operator at the admin listener of a KMS under test.

use cvm_kms::proto::{ExplainRequest, ExplainResponse};
use serde_json::{Value, json};

use super::http::{self, with};
use super::{ADMIN_TOKEN, Answer, Caller, World};

/// Calls the admin service with the valid token.
pub struct Operator(Caller);

impl Operator {
    /// The operator of `world`.
    pub async fn of(world: &World) -> Self {
        Self(Caller::new(world.admin_address().await).plain())
    }

    /// `POST /prpc/<method>`.
    pub async fn call(&self, method: &str, body: Value) -> Answer {
        self.0.send(with(http::json(method, body), "x-admin-token", ADMIN_TOKEN)).await
    }

    /// Like [`Operator::call`], but must succeed.
    pub async fn done(&self, method: &str, body: Value) -> Value {
        let answer = self.call(method, body).await;
        assert_eq!(answer.status, 200, "{method}: {}", answer.text());
        answer.value()
    }

    /// Freezes a target without an end.
    pub async fn freeze(&self, scope: &str, value: &[u8]) {
        let request = json!({ "scope": scope, "value": hex::encode(value), "reason": "a test" });
        self.done("Freeze", request).await;
    }

    /// Freezes as `request` says, until the other nodes of the fleet have it.
    pub async fn freezes_all(&self, request: Value) {
        super::eventually("a freeze that is shared", async || {
            (self.done("Freeze", request.clone()).await["shared"] == true).then_some(())
        })
        .await;
    }

    /// Unfreezes a target; returns whether it was frozen.
    pub async fn unfreeze(&self, scope: &str, value: &[u8]) -> bool {
        let request = json!({ "scope": scope, "value": hex::encode(value) });
        self.done("Unfreeze", request).await["was_frozen"].as_bool().expect("a word")
    }

    /// Requests an explanation.
    pub async fn explain(&self, request: ExplainRequest) -> ExplainResponse {
        let answer = self.call("Explain", serde_json::to_value(request).expect("JSON")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.message()
    }
}
