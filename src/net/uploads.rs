//! Files of owners over HTTP: `POST /api/v1/file-upload/{name}`.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;

use super::prpc;
use super::route::{flag, json, part, read_body, route};
use crate::api::Service;
use crate::api::policy::Placed;
use crate::api::uploads::{Intent, UploadName, UploadService};
use crate::error::Result;

const UPLOAD: &str = "/api/v1/file-upload/{name}";

/// The route of uploads.
pub(super) fn routes(service: Arc<UploadService>) -> Router {
    route(
        Service::Admin,
        UPLOAD,
        move |request: Request| async move { json(upload(&service, request).await) },
    )
}

async fn upload(service: &UploadService, request: Request) -> Result<Placed> {
    let caller = prpc::caller(request.extensions())?.clone();
    let intent = match flag(request.uri().query(), "dry_run")? {
        true => Intent::Check,
        false => Intent::Replace,
    };
    let name = UploadName::parse(part(request.uri().path(), 0))?;
    let content = read_body(Service::Admin, UPLOAD, request.into_body()).await?;
    service.upload(&caller, name, content.to_vec(), intent).await
}
