//! The audit log for outside verifiers: signed checkpoints and tiles (C2SP `tlog-tiles`) under `/log/`.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use kms_ledger::tile::{Content, Tile};

use super::probes::Reader;
use super::route::route;
use crate::api::Service;
use crate::audit::{Audit, AuditError};

/// Tiles never change.
const IMMUTABLE: &str = "public, max-age=604800, immutable";
const IMMUTABLE_PRIVATE: &str = "private, max-age=604800, immutable";

/// `GET /log/checkpoint` and `GET /log/tile/…`. Hash tiles are public; entries name apps, so only operators
/// may read them.
pub(super) fn routes(service: Service, audit: Arc<Audit>, reader: Reader) -> Router {
    let tiles = Arc::clone(&audit);
    let entries = match reader {
        Reader::Anyone => Router::new(),
        Reader::Operator => {
            let tiles = Arc::clone(&audit);
            route(service, "/log/tile/entries/{*tile}", move |request: Request| tile(tiles, reader, request))
        }
    };
    let hashes = route(service, "/log/tile/{*tile}", move |request: Request| tile(tiles, reader, request));
    route(service, "/log/checkpoint", move || async move { checkpoint(&audit) }).merge(hashes).merge(entries)
}

fn checkpoint(audit: &Audit) -> Response {
    match audit.checkpoint() {
        Some(checkpoint) => {
            let mut answer = answer(StatusCode::OK, "text/plain; charset=utf-8", "no-cache");
            *answer.body_mut() = Body::from(checkpoint.to_string());
            answer
        }
        None => told(StatusCode::SERVICE_UNAVAILABLE, "nothing is signed yet"),
    }
}

async fn tile(audit: Arc<Audit>, reader: Reader, request: Request) -> Response {
    let path = request.uri().path();
    let Some(Ok(tile)) = path.strip_prefix("/log/").map(str::parse::<Tile>) else {
        return told(StatusCode::NOT_FOUND, "not the path of a tile");
    };
    let caching = match (tile.content(), reader) {
        (Content::Hashes(_), _) => IMMUTABLE,
        (Content::Entries, Reader::Operator) => IMMUTABLE_PRIVATE,
        (Content::Entries, Reader::Anyone) => {
            return told(
                StatusCode::FORBIDDEN,
                "entries name apps: operators read them on the admin listener",
            );
        }
    };
    let content = tokio::task::spawn_blocking(move || audit.tile(&tile)).await;
    match content.map_err(|error| AuditError::Write(io::Error::other(error))) {
        Ok(Ok(Some(content))) => {
            let mut answer = answer(StatusCode::OK, "application/octet-stream", caching);
            *answer.body_mut() = Body::from(content);
            answer
        }
        Ok(Ok(None)) => told(StatusCode::NOT_FOUND, "the signed tree does not have this tile"),
        Ok(Err(AuditError::Missing { seq })) => {
            tracing::warn!(seq, "a requested record is in no file of the audit log");
            told(StatusCode::NOT_FOUND, "the records are no longer kept here")
        }
        Ok(Err(error)) | Err(error) => {
            tracing::error!(%error, "the audit log cannot be read");
            told(StatusCode::SERVICE_UNAVAILABLE, "the log cannot be read")
        }
    }
}

fn told(status: StatusCode, text: &'static str) -> Response {
    let mut answer = answer(status, "text/plain; charset=utf-8", "no-store");
    *answer.body_mut() = Body::from(text);
    answer
}

fn answer(status: StatusCode, kind: &'static str, caching: &'static str) -> Response {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    answer
}
