//! What operators read of this KMS over HTTP: JSON documents, each with parameters in its query; and the changes
//! that belong to them.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderValue, Method as Verb, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::prpc;
use super::route::{json, part, read_optional_json, route};
use crate::api::views::{
    BundleQuery, CvmQuery, DenialQuery, FreezeBody, HistoryQuery, LiftBody, Nothing, PreviewBody,
    ReleaseQuery, ResolveQuery, Views, read_query,
};
use crate::api::{Caller, Service};
use crate::error::Result;
use crate::operator::DomainScope;
use crate::proto::ExplainRequest;

const FREEZES: &str = "/api/v1/freezes";
const PREVIEW: &str = "/api/v1/freezes/preview";
const LIFT: &str = "/api/v1/freezes/{id}/lift";
const EXPLAIN: &str = "/api/v1/explain";

/// How long a proxy may keep the response about an app.
const FOR_PROXIES: HeaderValue = HeaderValue::from_static("private, max-age=5");

/// The routes of the views.
pub(super) fn routes(views: &Arc<Views>) -> Router {
    let resolve = |path| {
        let resolve = document(views, path, |views, scope, app, query: ResolveQuery| async move {
            views.resolve(&scope, &app, query).await
        });
        resolve.layer(axum::middleware::map_response(kept_shortly))
    };
    document(
        views,
        "/api/v1/overview",
        |views, scope, _, Nothing {}| async move { views.overview(&scope).await },
    )
    .merge(document(views, "/api/v1/history", |views, scope, _, query: HistoryQuery| async move {
        views.history(&scope, query).await
    }))
    .merge(document(views, "/api/v1/releases", |views, scope, _, query: ReleaseQuery| async move {
        views.releases(&scope, query).await
    }))
    .merge(document(views, "/api/v1/releases/{seq}", |views, scope, seq, Nothing {}| async move {
        views.release(&scope, &seq).await
    }))
    .merge(document(views, "/api/v1/denials", |views, scope, _, query: DenialQuery| async move {
        views.denials(&scope, query).await
    }))
    .merge(document(views, "/api/v1/denials/{id}", |views, scope, id, Nothing {}| async move {
        views.denial(&scope, &id).await
    }))
    .merge(document(views, "/api/v1/cvms", |views, scope, _, query: CvmQuery| async move {
        views.cvms(&scope, query).await
    }))
    .merge(document(views, "/api/v1/cvms/{id}", |views, scope, id, Nothing {}| async move {
        views.cvm(&scope, &id).await
    }))
    .merge(document(
        views,
        "/api/v1/platforms",
        |views, _, _, Nothing {}| async move { views.platforms().await },
    ))
    .merge(document(
        views,
        "/api/v1/collateral",
        |views, _, _, Nothing {}| async move { Ok(views.collateral()) },
    ))
    .merge(document(views, "/api/v1/collateral/bundle", |views, _, _, query: BundleQuery| async move {
        views.collateral_page(&query)
    }))
    .merge(document(views, "/api/v1/ledger", |views, _, _, Nothing {}| async move { views.ledger().await }))
    .merge(document(
        views,
        "/api/v1/replicas",
        |views, _, _, Nothing {}| async move { views.replicas().await },
    ))
    .merge(resolve("/api/v1/resolve/{app}"))
    .merge(resolve("/v1/resolve/{app}"))
    .merge(posts(views))
}

/// The routes with a request body.
fn posts(views: &Arc<Views>) -> Router {
    let [freezes, preview, lift, explain] = std::array::from_fn(|_| Arc::clone(views));
    route(Service::Admin, FREEZES, move |request: Request| async move {
        match *request.method() {
            Verb::POST => json(frozen(&freezes, request).await),
            _ => json(match read_query(request.uri().query()) {
                Ok(Nothing {}) => match prpc::caller(request.extensions()).and_then(Caller::scope) {
                    Ok(scope) => freezes.freezes(scope),
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            }),
        }
    })
    .merge(route(Service::Admin, PREVIEW, move |request: Request| async move {
        json(match posted::<PreviewBody>(PREVIEW, request).await {
            Ok(Posted { caller, body }) => match caller.scope() {
                Ok(scope) => preview.preview(scope, body).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        })
    }))
    .merge(route(Service::Admin, LIFT, move |request: Request| async move {
        let id = part(request.uri().path(), 1).to_owned();
        json(match posted::<LiftBody>(LIFT, request).await {
            Ok(Posted { caller, body }) => lift.lift(&caller, &id, body).await,
            Err(error) => Err(error),
        })
    }))
    .merge(route(Service::Admin, EXPLAIN, move |request: Request| async move {
        json(match posted::<ExplainRequest>(EXPLAIN, request).await {
            Ok(Posted { caller, body }) => explain.explain(&caller, body).await,
            Err(error) => Err(error),
        })
    }))
}

async fn frozen(views: &Views, request: Request) -> Result<impl Serialize + use<>> {
    let Posted { caller, body } = posted::<FreezeBody>(FREEZES, request).await?;
    views.freeze(&caller, body).await
}

/// A request with a JSON body.
struct Posted<T> {
    caller: Caller,
    body: T,
}

/// Reads the body of a request to the row `path`, which may be empty.
async fn posted<T: DeserializeOwned>(path: &str, request: Request) -> Result<Posted<T>> {
    let caller = prpc::caller(request.extensions())?.clone();
    let Nothing {} = read_query(request.uri().query())?;
    let body = read_optional_json(path, request).await?;
    Ok(Posted { caller, body })
}

/// A route that is read. `answer` gets what the caller may see, and the last part of the path, which is not decoded: no id
/// needs it.
fn document<Q, A, F>(
    views: &Arc<Views>,
    path: &'static str,
    answer: impl Fn(Arc<Views>, DomainScope, String, Q) -> F + Clone + Send + Sync + 'static,
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
            let id = part(request.uri().path(), 0).to_owned();
            let scope = prpc::caller(request.extensions()).and_then(Caller::scope).cloned();
            let asked = scope.and_then(|scope| Ok((scope, read_query(request.uri().query())?)));
            json(match asked {
                Ok((scope, query)) => answer(views, scope, id, query).await,
                Err(error) => Err(error),
            })
        }
    })
}

/// Lets caches keep an answer about an app for some seconds, whether it is yes or no.
async fn kept_shortly(mut answer: Response<Body>) -> Response<Body> {
    if [200, 403].contains(&answer.status().as_u16()) {
        answer.headers_mut().insert(header::CACHE_CONTROL, FOR_PROXIES);
    }
    answer
}
