//! The allowlist as an authorization backend for other KMSs: the routes of auth-simple, and signed decisions.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use kms_attest::identity::BootInfo;
use kms_policy::signed::{Claims, DecisionSigner, NONCE_HEADER, Nonce, SignedRequest};
use kms_policy::{Decision, NotCompared, Policy, SubjectKind};
use serde_json::{Map, Value, json};

use crate::clock::unix_now;
use crate::operator::OperatorToken;

const MAX_REQUEST: usize = 64 * 1024;
/// How long a signed decision is valid, in seconds.
const SIGNED_FOR: u64 = 60;

/// What decides, and how its responses are authenticated.
pub struct AuthBackend {
    /// What decides.
    pub policy: Policy,
    /// The token that callers must send as `Authorization: Bearer`; `None` admits everyone.
    pub token: Option<OperatorToken>,
    /// Signs the decisions on requests with a nonce.
    pub signer: Option<DecisionSigner>,
}

impl fmt::Debug for AuthBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthBackend").finish_non_exhaustive()
    }
}

type Backend = State<Arc<AuthBackend>>;

/// `GET /`, `POST /bootAuth/app`, `POST /bootAuth/kms`, and `GET /health` for probes, which needs no token.
pub fn router(backend: AuthBackend) -> Router {
    let backend = Arc::new(backend);
    let guarded = Router::new()
        .route("/", get(info))
        .route("/bootAuth/app", post(|state: Backend, request| decide(state, SubjectKind::App, request)))
        .route("/bootAuth/kms", post(|state: Backend, request| decide(state, SubjectKind::Kms, request)))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&backend), authorized))
        .with_state(backend);
    guarded
        .route("/health", get(|| async { json_answer(StatusCode::OK, &json!({"status": "ok"})) }))
        .fallback(|| async { json_answer(StatusCode::NOT_FOUND, &json!({"error": "not found"})) })
}

async fn authorized(State(backend): Backend, request: Request<Body>, next: Next) -> Response {
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|value| value.strip_prefix("Bearer "));
    match &backend.token {
        Some(token) if !shown.is_some_and(|shown| token.is(shown)) => {
            let mut answer =
                json_answer(StatusCode::UNAUTHORIZED, &json!({"error": "a bearer token is needed"}));
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            answer
        }
        _ => next.run(request).await,
    }
}

async fn info(State(backend): Backend) -> Response {
    match backend.policy.info().await {
        Ok(info) => {
            let implementation = info.app_auth_implementation.unwrap_or_default();
            let body = json!({
                "status": "ok",
                "kmsContractAddr": info.kms_contract_address.unwrap_or_default(),
                "gatewayAppId": info.gateway_app_id.unwrap_or_default(),
                "chainId": info.chain_id.unwrap_or_default(),
                "appAuthImplementation": implementation,
                "appImplementation": implementation,
            });
            json_answer(StatusCode::OK, &body)
        }
        Err(error) => {
            let body = json!({"status": "error", "message": error.to_string()});
            json_answer(StatusCode::INTERNAL_SERVER_ERROR, &body)
        }
    }
}

async fn decide(State(backend): Backend, kind: SubjectKind, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    if !is_json(&parts.headers) {
        return invalid("the content type must be application/json");
    }
    let Ok(body) = Limited::new(body, MAX_REQUEST).collect().await else {
        let body =
            json!({"error": format!("the request must be complete and no longer than {MAX_REQUEST} bytes")});
        return json_answer(StatusCode::PAYLOAD_TOO_LARGE, &body);
    };
    let body = body.to_bytes();
    let identity = match asked_about(&body) {
        Ok(identity) => identity,
        Err(problem) => return invalid(&problem),
    };
    let decision = backend.policy.decide(kind.subject(&identity)).await;
    let known = backend.policy.last_info().and_then(|info| info.gateway_app_id).unwrap_or_default();
    let (is_allowed, gateway_app_id, reason, release_stage, epochs) = match decision {
        Ok(Decision::Allowed { gateway_app_id, release_stage, epochs }) => {
            (true, gateway_app_id, String::new(), release_stage, epochs)
        }
        // The caller names its OS image here, and nobody has compared its registers with it.
        Ok(Decision::IfImage(condition)) => {
            let denial = condition.otherwise(&NotCompared::IdentityOnly);
            let expected = denial.expected.as_deref();
            tracing::info!(kind = kind.path(), expected, "an entry of kms.images does not hold for others");
            (false, known, denial.reason, None, None)
        }
        Ok(Decision::Denied(denial)) => (false, known, denial.reason, None, None),
        // Without a decision the response must not look like one, and must not be signed.
        Err(error) => {
            tracing::warn!(kind = kind.path(), error = error.detail(), "not decided");
            let mut answer =
                json_answer(StatusCode::SERVICE_UNAVAILABLE, &json!({"error": error.to_string()}));
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            return answer;
        }
    };
    tracing::debug!(kind = kind.path(), is_allowed, reason, "decided");
    let answer = Claims {
        is_allowed,
        gateway_app_id: &gateway_app_id,
        reason: &reason,
        release_stage,
        epochs: epochs.as_deref(),
    };
    let mut said = json!({"isAllowed": is_allowed, "gatewayAppId": gateway_app_id, "reason": reason});
    if let Some(stage) = release_stage {
        said["releaseStage"] = json!(stage.name());
    }
    if let (Some(epochs), Some(said)) = (&epochs, said.as_object_mut()) {
        said.extend(epochs.fields());
    }
    let nonce = parts.headers.get(NONCE_HEADER).and_then(|value| Nonce::parse(value.to_str().ok()?));
    if let (Some(signer), Some(nonce)) = (&backend.signer, &nonce) {
        let expires = unix_now() + SIGNED_FOR;
        let question = SignedRequest { kind, body: &body, nonce };
        said["signature"] = json!(signer.sign(question, answer, expires));
    }
    json_answer(StatusCode::OK, &said)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let subtype = essence.strip_prefix("application/");
    subtype.is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json"))
}

/// The subject of a request, by the strict schema: six strings are required, four more fields are optional,
/// and each must have its type.
///
/// # Errors
/// Which field is missing or has another type, in words for the caller.
pub fn asked_about(body: &[u8]) -> Result<BootInfo, String> {
    let Ok(Value::Object(fields)) = kms_attest::json::from_utf8(body) else {
        return Err("the body must be a JSON object".to_owned());
    };
    let needed = |key| text(&fields, key)?.ok_or_else(|| format!("{key} is missing"));
    let optional = |key| Ok::<_, String>(text(&fields, key)?.unwrap_or_default());
    Ok(BootInfo {
        tee_variant: optional("teeVariant")?.to_owned(),
        mr_aggregated: measured(needed("mrAggregated")?),
        os_image_hash: measured(needed("osImageHash")?),
        mr_system: measured(optional("mrSystem")?),
        app_id: measured(needed("appId")?),
        compose_hash: measured(needed("composeHash")?),
        instance_id: measured(needed("instanceId")?),
        device_id: measured(needed("deviceId")?),
        key_provider_info: Vec::new(),
        tcb_status: optional("tcbStatus")?.to_owned(),
        advisory_ids: advisories(&fields)?,
    })
}

fn text<'a>(fields: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, String> {
    match fields.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{key} must be a string")),
    }
}

fn advisories(fields: &Map<String, Value>) -> Result<Vec<String>, String> {
    let error = || "advisoryIds must be a list of strings".to_owned();
    match fields.get("advisoryIds") {
        None => Ok(Vec::new()),
        Some(Value::Array(ids)) => {
            ids.iter().map(|id| id.as_str().map(str::to_owned).ok_or_else(error)).collect()
        }
        Some(_) => Err(error()),
    }
}

/// The bytes of a hexadecimal text, with or without `0x`. Invalid text gives no bytes, which no rule allows.
fn measured(text: &str) -> Vec<u8> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    hex::decode(digits).unwrap_or_default()
}

fn invalid(problem: &str) -> Response {
    json_answer(StatusCode::BAD_REQUEST, &json!({"success": false, "error": {"message": problem}}))
}

fn json_answer(status: StatusCode, body: &Value) -> Response {
    let mut answer = Response::new(Body::from(body.to_string()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

#[cfg(test)]
mod tests;
