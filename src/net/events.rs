//! The event log over HTTP: `/logs`, `/api/v1/events`, its stream, `/api/v1/new_event` and `/api/v1/audit-logs`.

mod stream;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderName, HeaderValue, Method as Verb, header};
use kms_ledger::Size;
use kms_ledger::tile::{Content, Tile};
use serde_json::{Value, json};

use super::prpc;
use super::route::{read_body, route, uncached};
use super::same_site;
use crate::api::events::{EventService, now};
use crate::api::{Caller, Service};
use crate::error::{Error, Result};
use crate::events::{self, Format, Page, Query, Reach};
use crate::operator::DomainScope;

pub(super) const STREAM: &str = "/api/v1/events/stream";
const LOGS: &str = "/logs";
const EVENTS: &str = "/api/v1/events";
const NEW_EVENT: &str = "/api/v1/new_event";
const AUDIT_LOGS: &str = "/api/v1/audit-logs";

/// The response header with the cursor of the next, older page.
const NEXT_CURSOR: HeaderName = HeaderName::from_static("x-next-cursor");
/// The oldest and the newest event of the index, and the newest of the log before the query; 0 where there is none.
const INDEX_FIRST: HeaderName = HeaderName::from_static("x-index-first");
const INDEX_LAST: HeaderName = HeaderName::from_static("x-index-last");
const LOG_NEWEST: HeaderName = HeaderName::from_static("x-log-newest");

pub(super) fn routes(service: Arc<EventService>) -> Router {
    let page = |path, usual, shape: Shape| {
        let service = Arc::clone(&service);
        route(Service::Admin, path, move |request: Request| async move {
            let scope = prpc::caller(request.extensions()).and_then(Caller::scope).cloned();
            uncached(match scope {
                Ok(scope) => page(&service, &scope, request.uri().query(), usual, shape).await,
                Err(error) => Err(error),
            })
        })
    };
    let streamed = Arc::clone(&service);
    let report = Arc::clone(&service);
    page(LOGS, Format::Text, Shape::Event)
        .merge(page(EVENTS, Format::Json, Shape::Event))
        .merge(page(AUDIT_LOGS, Format::Json, Shape::Proven))
        .merge(route(Service::Admin, STREAM, move |request: Request| async move {
            uncached(stream::open(&streamed, request))
        }))
        .merge(route(Service::Admin, NEW_EVENT, move |request: Request| async move {
            uncached(new_event(&report, request).await)
        }))
}

/// How much is sent of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// The event alone.
    Event,
    /// The event, and where its proof is in the ledger.
    Proven,
}

async fn page(
    service: &EventService,
    scope: &DomainScope,
    query: Option<&str>,
    usual: Format,
    shape: Shape,
) -> Result<Response> {
    let query = read(query, scope)?;
    let (format, newest) = (query.format.unwrap_or(usual), service.newest());
    let acknowledged = service.acknowledged();
    let rendered = service.page(&query, move |page, reach| {
        let body = match format {
            Format::Text => page.records.iter().map(events::text).collect(),
            Format::Json => json_of(&page, shape, newest),
        };
        (body, page.next, reach)
    });
    let (body, next, Reach { first, last }): (String, _, _) = rendered.await?;
    let kind = match format {
        Format::Text => "text/plain; charset=utf-8",
        Format::Json => "application/json",
    };
    let mut answer = Response::new(Body::from(body));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in [(INDEX_FIRST, first), (INDEX_LAST, last), (LOG_NEWEST, acknowledged)] {
        answer.headers_mut().insert(name, value.into());
    }
    if let Some(next) = next {
        answer.headers_mut().insert(NEXT_CURSOR, next.into());
    }
    Ok(answer)
}

fn read(query: Option<&str>, scope: &DomainScope) -> Result<Query> {
    Query::read(query.unwrap_or_default(), now(), scope.clone())
        .map_err(|error| Error::invalid(error.to_string()))
}

fn json_of(page: &Page, shape: Shape, newest: u64) -> String {
    let events = page.records.iter().map(|record| {
        let mut event = events::json(record);
        if shape == Shape::Proven {
            event["proof"] = proof(record.seq, newest.max(record.seq));
        }
        event
    });
    Value::Array(events.collect()).to_string()
}

/// Where a record's inclusion proof is: record n is leaf n − 1, and a tile holds 256 leaves. `newest` is the
/// size of the tree, or smaller: a log has the tiles of smaller trees too.
fn proof(seq: u64, newest: u64) -> Value {
    let leaf = seq.saturating_sub(1);
    let tile = |content| {
        Tile::at(content, leaf / 256, Size::try_from(newest).ok()?).map(|tile| format!("/log/{tile}"))
    };
    json!({
        "leaf_index": leaf,
        "checkpoint": "/log/checkpoint",
        "hashes": tile(Content::Hashes(0)),
        "entries": tile(Content::Entries),
    })
}

async fn new_event(service: &EventService, request: Request) -> Result<Response> {
    let (parts, incoming) = request.into_parts();
    let caller = prpc::caller(&parts.extensions)?;
    let message = match parts.method {
        Verb::GET | Verb::HEAD if same_site::is_by_browser(&parts.headers) => {
            return Err(Error::invalid("new_event changes something: ask for it by POST"));
        }
        Verb::GET => in_form(parts.uri.query().unwrap_or_default().as_bytes()),
        Verb::HEAD => return Err(Error::invalid("new_event changes something: ask for it by POST")),
        _ => in_body(&read_body(Service::Admin, NEW_EVENT, incoming).await?)?,
    };
    let seq = service.report(caller, &message).await?;
    let mut answer = Response::new(Body::from(json!({ "seq": seq }).to_string()));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(answer)
}

/// The message in a body: a form field `message`, JSON `{"message": "…"}`, or the whole body as text.
fn in_body(body: &[u8]) -> Result<Vec<u8>> {
    if body.starts_with(b"message=") {
        return Ok(in_form(body));
    }
    if body.trim_ascii_start().starts_with(b"{")
        && let Ok(Value::Object(object)) = kms_attest::json::from_utf8::<Value>(body)
        && let Some(Value::String(message)) = object.get("message")
    {
        return Ok(message.as_bytes().to_vec());
    }
    Ok(body.to_vec())
}

/// The value of `message` in a form; empty if there is none.
fn in_form(form: &[u8]) -> Vec<u8> {
    let found = form_urlencoded::parse(form).find(|(key, _)| key == "message");
    found.map(|(_, message)| message.into_owned().into_bytes()).unwrap_or_default()
}
