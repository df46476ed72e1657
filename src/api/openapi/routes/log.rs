//! Routes of the attestation document, the audit log and its events.

use serde_json::json;

use super::super::operation::{Answer, Bodies, Operation, get, object, post, query};
use super::TEXT;
use crate::api::Service;
use crate::api::attestation::Document;

pub(super) fn log(bodies: &mut Bodies) -> Vec<Operation> {
    let bytes = Answer::Other(&["application/octet-stream"]);
    let both = "Also on the main listener, open to anyone.";
    vec![
        get(
            Service::Kms,
            "/attestation.json",
            "A quote about this KMS, with all that verifies it",
            Answer::Json(bodies.of::<Document>()),
        )
        .described("Without a nonce at most a minute old. What a statement says counts only where the quote verifies.")
        .with_query(vec![query(
            "nonce",
            "64 lower-case hexadecimal digits, which the statement repeats",
            json!({ "type": "string", "pattern": "^[0-9a-f]{64}$" }),
        )]),
        get(Service::Admin, "/log/checkpoint", "The signed checkpoint of the audit log", Answer::Other(TEXT))
            .described(both)
            .or(503, Answer::Other(TEXT)),
        get(Service::Admin, "/log/tile/{*tile}", "A tile of hashes", bytes.clone())
            .described(both)
            .or(403, Answer::Other(TEXT))
            .or(404, Answer::Other(TEXT))
            .or(503, Answer::Other(TEXT)),
        get(Service::Admin, "/log/tile/entries/{*tile}", "A bundle of entries", bytes)
            .or(404, Answer::Other(TEXT))
            .or(503, Answer::Other(TEXT)),
    ]
}

pub(super) fn events(bodies: &mut Bodies) -> Vec<Operation> {
    let _ = bodies;
    let text = |name, description| query(name, description, json!({ "type": "string" }));
    let filter = || {
        vec![
            text("since", "the earliest time: RFC 3339, a date, or an age such as 2h"),
            text("until", "the latest time"),
            query("type", "the type of the events", json!({ "type": "string" })),
            text("app_id", "the app in hexadecimal"),
            query("source", "where they come from", json!({ "enum": ["kms", "pipe", "api"] })),
            query("limit", "the most events", json!({ "type": "integer", "minimum": 0, "maximum": 1000 })),
            query("cursor", "only events before this number", json!({ "type": "integer", "minimum": 0 })),
            query("format", "the form of the answer", json!({ "enum": ["json", "text"] })),
        ]
    };
    let event = json!({
        "type": "object",
        "properties": {
            "seq": { "type": "integer", "description": "its number in the audit log" },
            "received_at": { "type": "string", "description": "RFC 3339 in UTC" },
            "source": { "type": "string" },
            "type": { "type": "string" },
            "severity": { "enum": ["info", "warning", "critical"] },
            "message": { "type": "string", "description": "a sentence" },
            "app_id": { "type": "string" },
            "details": { "type": "object", "description": "the fields of the record" },
        },
        "required": ["seq", "received_at", "source", "type", "severity", "message", "details"],
    });
    let list = json!({ "type": "array", "items": event });
    let paged = "The header X-Next-Cursor has the cursor of the next, older page, if there is one.";
    let reported =
        object(json!({ "seq": { "type": "integer", "description": "its number in the audit log" } }));
    let message = query("message", "the event, at most 2 KiB", json!({ "type": "string" }));
    vec![
        get(Service::Admin, "/logs", "Events as text, newest first", Answer::Either(list.clone(), TEXT[0]))
            .with_query(filter())
            .described(paged),
        get(Service::Admin, "/api/v1/events", "Events, newest first", Answer::Either(list.clone(), TEXT[0]))
            .with_query(filter())
            .described(paged),
        get(
            Service::Admin,
            "/api/v1/audit-logs",
            "Events with the places of their proofs",
            Answer::Either(list, TEXT[0]),
        )
        .with_query(filter())
        .described(paged),
        get(
            Service::Admin,
            "/api/v1/events/stream",
            "Events as they happen",
            Answer::Other(&["text/event-stream"]),
        )
        .with_query(
            filter().into_iter().filter(|it| !["until", "cursor", "format"].contains(&&*it.name)).collect(),
        )
        .described("Server-sent events, which do not end."),
        get(Service::Admin, "/api/v1/new_event", "Report an event", Answer::Json(reported.clone()))
            .with_query(vec![message])
            .described("Not for browsers, which use POST."),
        post(Service::Admin, "/api/v1/new_event", "Report an event", Answer::Json(reported))
            .taking("text/plain", json!({ "type": "string" }))
            .described("The body is the event: text, a form field `message`, or JSON with `message`."),
    ]
}
