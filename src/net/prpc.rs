//! prpc: the API as JSON, protobuf or query strings over plain HTTP requests (`docs/protocol.md`).

use bytes::Bytes;
use http::{Extensions, HeaderValue, Method as Verb, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::Full;
use kms_wire::code::{DENIAL_ID, ERROR_CODE};
use kms_wire::encoding::is_read;
pub use kms_wire::encoding::{Encoding, from_query};
use kms_wire::method::UNKNOWN_METHOD;
use prost::Message;
use serde::de::DeserializeOwned;

use super::refusal_log::RefusalLog;
use super::{body, same_site};
use crate::api::prepared::Reply;
use crate::api::{ByGet, Caller, Method, Row, Service};
use crate::config::BodyLimits;
use crate::error::{Code, Error, Result};
use crate::proto::PrpcError;
use crate::request::{self, Context, ErrorBody};

/// A response with all of its body in memory.
pub type Answer = Response<Full<Bytes>>;

/// The most bytes read of the body for an unknown method, or of a request that is refused: enough to choose the encoding of
/// the response.
const REFUSED_BODY: usize = 16 * 1024;

/// A request to a method: decodes its message once, and encodes the response in the same encoding.
#[derive(Debug)]
pub struct Call {
    encoding: Encoding,
    payload: Payload,
}

#[derive(Debug)]
enum Payload {
    Body(Bytes),
    Query(String),
}

impl Call {
    /// Calls a method with its message `Q`, for its response `M`.
    pub async fn unary<Q, M, A>(self, method: impl AsyncFnOnce(Q) -> Result<A>) -> Result<Bytes>
    where
        Q: Message + Default + DeserializeOwned,
        A: Reply<M>,
    {
        let reply = method(self.decode()?).await?;
        Ok(self.encoded(&reply))
    }

    /// Like [`Call::unary`], for a method whose request has no fields: the payload is ignored.
    pub async fn nullary<M, A: Reply<M>>(self, method: impl AsyncFnOnce() -> Result<A>) -> Result<Bytes> {
        let reply = method().await?;
        Ok(self.encoded(&reply))
    }

    fn encoded<M>(&self, reply: &impl Reply<M>) -> Bytes {
        match self.encoding {
            Encoding::Json | Encoding::SniffedJson => reply.json(),
            Encoding::Protobuf => reply.protobuf(),
        }
    }

    /// Decodes the message; an empty payload is the default message.
    pub fn decode<Q: Message + Default + DeserializeOwned>(&self) -> Result<Q> {
        let message = match &self.payload {
            Payload::Body(bytes) => self.encoding.decode(bytes.clone()),
            Payload::Query(query) => from_query(query),
        };
        message.map_err(|error| Error::invalid(error.to_string()))
    }
}

/// Calls the methods of one service.
pub trait Dispatch {
    /// The service, whose name is the prefix of its methods.
    const SERVICE: Service;

    /// Calls `method`.
    fn call(&self, method: Method, caller: &Caller, call: Call)
    -> impl Future<Output = Result<Bytes>> + Send;
}

/// The caller that the middleware put beside a request.
pub(super) fn caller(extensions: &Extensions) -> Result<&Caller> {
    let missing = || Error::internal("no connection information", "caller extension missing");
    extensions.get::<Caller>().ok_or_else(missing)
}

/// Serves one request to `/prpc/<name>`.
pub async fn serve<D: Dispatch, B>(
    dispatch: &D,
    limits: &BodyLimits,
    name: &str,
    request: Request<B>,
) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if !is_read(request.method()) && request.method() != Verb::POST {
        return plain(StatusCode::NOT_FOUND, "not found");
    }
    let (parts, incoming) = request.into_parts();
    let asked = Encoding::asked(&parts.method, parts.uri.query(), &parts.headers);
    let caller = match caller(&parts.extensions) {
        Ok(caller) => caller,
        Err(missing) => return error(Encoding::Json, &missing),
    };

    let name = stripped(name, D::SERVICE);
    let row = Method::find(D::SERVICE, name);
    // Before a long body is read, and below again: a credential can be revoked meanwhile.
    if let Some(row) = row
        && let Err(refused) = caller.admit(row.access, row.reach)
    {
        if let Some(log) = parts.extensions.get::<RefusalLog>() {
            log.tell(name, caller.remote(), &refused);
        }
        return error(encoding_of(asked, incoming).await, &refused);
    }
    let limit = row.map_or(REFUSED_BODY, |row| limits.of(row.name).unwrap_or(row.body_limit));
    let (payload, encoding) = match body::read(incoming, limit).await {
        Ok(bytes) => {
            let encoding = asked.unwrap_or_else(|| Encoding::of_body(&bytes));
            let payload = if is_read(&parts.method) {
                Payload::Query(parts.uri.query().unwrap_or_default().to_owned())
            } else {
                Payload::Body(bytes)
            };
            (payload, encoding)
        }
        Err(body::ReadError { begin, cause }) => {
            return error(asked.unwrap_or_else(|| Encoding::of_body(&begin)), &cause);
        }
    };
    let Some(row @ Row { method, .. }) = row else {
        let unknown = Error::new(Code::UnknownMethod, format!("{UNKNOWN_METHOD}: {name}"));
        return error(encoding, &unknown);
    };
    let may_read = match row.by_get {
        ByGet::Anyone => true,
        ByGet::Programs => !same_site::is_by_browser(&parts.headers),
        ByGet::Nobody => false,
    };
    if is_read(&parts.method) && !may_read {
        return error(encoding, &Error::invalid(format!("{name} changes something: ask for it by POST")));
    }
    let answer = match caller.admit(row.access, row.reach) {
        Ok(()) => dispatch.call(*method, caller, Call { encoding, payload }).await,
        Err(refused) => Err(refused),
    };
    match answer {
        Ok(bytes) => success(*method, encoding, bytes),
        Err(cause) => {
            if let Some(log) = parts.extensions.get::<RefusalLog>() {
                log.tell(name, caller.remote(), &cause);
            }
            error(encoding, &cause)
        }
    }
}

/// Refuses a request before its method is called, in the encoding in which [`serve`] would have responded.
pub async fn refuse<B>(request: Request<B>, cause: &Error) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (parts, incoming) = request.into_parts();
    let asked = Encoding::asked(&parts.method, parts.uri.query(), &parts.headers);
    error(encoding_of(asked, incoming).await, cause)
}

/// The encoding of a request that is refused: by the begin of its body, where nothing else says it.
async fn encoding_of<B>(asked: Option<Encoding>, incoming: B) -> Encoding
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match asked {
        Some(encoding) => encoding,
        None => Encoding::of_body(&match body::read(incoming, REFUSED_BODY).await {
            Ok(body) => body,
            Err(body::ReadError { begin, .. }) => begin,
        }),
    }
}

fn stripped(name: &str, service: Service) -> &str {
    let mut name = name;
    while let Some(rest) = name.strip_prefix(service.name()).and_then(|rest| rest.strip_prefix('.')) {
        name = rest;
    }
    name
}

fn success(method: Method, encoding: Encoding, bytes: Bytes) -> Answer {
    let mut answer = match (method, encoding) {
        // The older API sends an empty body, which the peer's client reads as `null`.
        (Method::KmsClearImageCache, _) => Response::new(Full::new(Bytes::new())),
        // The older API sends text, to callers that send `{}` without a content type.
        (Method::Finish, Encoding::SniffedJson) => return plain(StatusCode::OK, "OK"),
        _ => Response::new(Full::new(bytes)),
    };
    answer.headers_mut().insert(header::CONTENT_TYPE, encoding.content_type());
    answer
}

/// The body of an error as the peer's clients read it.
fn peers_body(cause: &Error) -> serde_json::Value {
    let mut object = serde_json::json!({ "error": cause.message() });
    if let Some(denial) = cause.denial() {
        object["code"] = denial.code.into();
        object["denial_id"] = denial.id.as_str().into();
    }
    if let Some(approval) = cause.approval() {
        object["code"] = cause.reason().into();
        object["message"] = cause.message().into();
        object["approval"] = approval.clone();
    }
    object
}

/// The body of an error of our own routes.
fn full_body(cause: &Error) -> serde_json::Value {
    let code = cause.denial().map_or(cause.reason(), |denial| denial.code);
    let mut object =
        serde_json::json!({ "error": cause.message(), "code": code, "message": cause.message() });
    if let Some(id) = request::current(|context| context.id().to_string()) {
        object["request_id"] = id.into();
    }
    if let Some(denial) = cause.denial() {
        object["denial_id"] = denial.id.as_str().into();
    }
    if let Some(approval) = cause.approval() {
        object["approval"] = approval.clone();
    }
    object
}

/// An error in the encoding of the request.
pub fn error(encoding: Encoding, cause: &Error) -> Answer {
    let message = cause.message();
    request::fail(cause.code(), message);
    let body = match encoding {
        Encoding::Json | Encoding::SniffedJson => {
            let object = match request::current(Context::error_body) {
                Some(ErrorBody::Full) => full_body(cause),
                Some(ErrorBody::Peer) | None => peers_body(cause),
            };
            serde_json::to_vec_pretty(&object).expect("an object of texts")
        }
        Encoding::Protobuf => PrpcError { message: message.to_owned() }.encode_to_vec(),
    };
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = cause.code().http();
    answer.headers_mut().insert(header::CONTENT_TYPE, encoding.content_type());
    if cause.code().is_temporary() {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer.headers_mut().insert(ERROR_CODE, HeaderValue::from_static(cause.reason()));
    if let Some(id) = cause.denial().and_then(|denial| HeaderValue::from_str(&denial.id).ok()) {
        answer.headers_mut().insert(DENIAL_ID, id);
    }
    answer.extensions_mut().insert(cause.code());
    answer
}

/// An error of a route that is not a method: `error` as in prpc, with `code`, `message` and `request_id` beside it.
pub fn route_error(cause: &Error) -> Answer {
    if let Some(approval) = cause.approval() {
        return waiting(cause, approval);
    }
    let body = serde_json::to_vec_pretty(&full_body(cause)).expect("an object of texts");
    let (parts, _) = error(Encoding::Json, cause).into_parts();
    Response::from_parts(parts, Full::new(body.into()))
}

/// A request that waits for a second owner, which is no error of a route.
fn waiting(cause: &Error, approval: &serde_json::Value) -> Answer {
    let object =
        serde_json::json!({ "code": cause.reason(), "message": cause.message(), "approval": approval });
    let body = serde_json::to_vec_pretty(&object).expect("an object of texts");
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = StatusCode::ACCEPTED;
    answer.headers_mut().insert(header::CONTENT_TYPE, Encoding::Json.content_type());
    answer
}

/// A short response in plain text.
pub fn plain(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *answer.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, text);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_the_own_service_are_stripped_repeatedly() {
        assert_eq!(stripped("KMS.KMS.GetMeta", Service::Kms), "GetMeta");
        assert_eq!(stripped("kms.KMS.GetMeta", Service::Kms), "kms.KMS.GetMeta");
        assert_eq!(stripped("Admin.ClearImageCache", Service::Kms), "Admin.ClearImageCache");
    }
}
