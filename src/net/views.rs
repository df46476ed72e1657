//! What operators read of this KMS over HTTP: JSON documents, each with parameters in its query.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::router::{json, route};
use crate::api::Service;
use crate::api::views::{DenialQuery, HistoryQuery, Nothing, ReleaseQuery, Views, read_query};
use crate::error::Result;

/// The routes of the views.
pub(super) fn routes(views: &Arc<Views>) -> Router {
    document(views, "/api/v1/overview", |views, _, Nothing {}| async move { views.overview().await })
        .merge(document(views, "/api/v1/history", |views, _, query: HistoryQuery| async move {
            views.history(query).await
        }))
        .merge(document(views, "/api/v1/releases", |views, _, query: ReleaseQuery| async move {
            views.releases(query).await
        }))
        .merge(document(views, "/api/v1/releases/{seq}", |views, seq, Nothing {}| async move {
            views.release(&seq).await
        }))
        .merge(document(views, "/api/v1/denials", |views, _, query: DenialQuery| async move {
            views.denials(query).await
        }))
        .merge(document(views, "/api/v1/denials/{id}", |views, id, Nothing {}| async move {
            views.denial(&id).await
        }))
}

/// A route that is read. `answer` gets the last part of the path, which is not decoded: no id needs it.
fn document<Q, A, F>(
    views: &Arc<Views>,
    path: &'static str,
    answer: impl Fn(Arc<Views>, String, Q) -> F + Clone + Send + Sync + 'static,
) -> Router
where
    Q: DeserializeOwned + Send + 'static,
    A: Serialize,
    F: Future<Output = Result<A>> + Send,
{
    let views = Arc::clone(views);
    route(Service::Admin, path, move |request: Request| {
        let (views, answer) = (Arc::clone(&views), answer.clone());
        async move {
            let id = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            json(match read_query(request.uri().query()) {
                Ok(query) => answer(views, id, query).await,
                Err(error) => Err(error),
            })
        }
    })
}
