//! Routes of probes and metrics.

use serde_json::json;

use super::super::operation::{Answer, Bodies, Operation, get, object};
use super::TEXT;
use crate::api::Service;
use crate::api::health::Health;

pub(super) fn health(bodies: &mut Bodies) -> Vec<Operation> {
    let reason = json!({
        "type": "object",
        "properties": {
            "code": { "type": "string" },
            "text": { "type": "string" },
            "detail": { "type": "string", "description": "on the admin listener only" },
        },
        "required": ["code", "text"],
    });
    let ready = object(json!({
        "status": { "enum": ["ready", "not_ready"] },
        "reasons": { "type": "array", "items": reason.clone() },
        "warnings": { "type": "array", "items": reason },
    }));
    let both = "Also on the main listener, open to anyone.";
    let health = bodies.of::<Health>();
    vec![
        get(
            Service::Admin,
            "/livez",
            "Whether the process answers",
            Answer::Json(object(json!({ "status": { "const": "ok" } }))),
        )
        .described(both),
        get(
            Service::Admin,
            "/readyz",
            "Whether keys can be released, and why not",
            Answer::Json(ready.clone()),
        )
        .described(both)
        .or(503, Answer::Json(ready)),
        get(Service::Admin, "/api/v1/health", "The health of this KMS", Answer::Json(health.clone())),
        get(
            Service::Kms,
            "/health",
            "OK, or with `Accept: application/json` the health",
            Answer::Either(health, TEXT[0]),
        ),
        get(
            Service::Kms,
            "/metrics",
            "Metrics in the text format of Prometheus",
            Answer::Other(&["text/plain; version=0.0.4; charset=utf-8"]),
        ),
    ]
}
