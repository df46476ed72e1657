//! HTTP requests of the API: method, query and body, in each encoding.

use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use cvm_kms::admission::Peer;
use cvm_kms::api::{Caller, METHODS, Method, Row, Service};
use cvm_kms::config::BodyLimits;
use cvm_kms::error::Result;
use cvm_kms::net::prpc::{self, Answer, Call, Dispatch};
use cvm_kms::operator::Operator;
use cvm_kms::proto::PrpcError;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use kms_wire::method::RequestVisitor;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Maximum length of an error message for a caller: 1,024 bytes and a mark that it was shortened.
const MAX_MESSAGE: usize = 1024 + '…'.len_utf8();

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime starts");
}

/// The form of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Query,
    JsonByType,
    JsonByQuery,
    Body,
    OtherVerb,
}

/// The first byte chooses the method, the second the form of the request; the others are its message.
///
/// The response has a known status and is no longer than the request allows; an error is short and in the
/// encoding of its request; sending a method's response back as its request gives the same bytes.
pub fn prpc(data: &[u8]) {
    let [row, form, message @ ..] = data else { return };
    let row = &METHODS[usize::from(*row) % METHODS.len()];
    let form = match form % 8 {
        0 | 1 => Form::Query,
        2 | 3 => Form::JsonByType,
        4 => Form::JsonByQuery,
        5 | 6 => Form::Body,
        _ => Form::OtherVerb,
    };
    let Some(answer) = ask(row, form, message) else { return };
    let (parts, body) = taken(answer);
    let is_json = parts.headers.get(header::CONTENT_TYPE).is_some_and(|value| value == "application/json");
    match parts.status {
        // For the older API's sake.
        StatusCode::OK if parts.headers[header::CONTENT_TYPE].as_bytes().starts_with(b"text/") => {
            assert!(row.method == Method::Finish && body == "OK");
        }
        StatusCode::OK => {
            // A byte of a message becomes at most six in JSON and two in hex.
            assert!(body.len() <= 6 * message.len() + 256, "{} bytes became {}", message.len(), body.len());
            let form = if is_json { Form::JsonByType } else { Form::Body };
            let (again, same) = taken(ask(row, form, &body).expect("any body can be sent"));
            assert!(again.status == StatusCode::OK && same == body, "the answer is not its own echo");
        }
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => {
            assert!(error_message(is_json, &body).len() <= MAX_MESSAGE);
        }
        StatusCode::NOT_FOUND => assert!(form == Form::OtherVerb),
        status => panic!("{} is answered with {status}", row.name),
    }
}

fn ask(row: &Row, form: Form, message: &[u8]) -> Option<Answer> {
    let query = match form {
        Form::Query => std::str::from_utf8(message).ok()?,
        Form::JsonByQuery => "json",
        _ => "",
    };
    let uri = Uri::builder().path_and_query(format!("/prpc/{}?{query}", row.name)).build().ok()?;
    let request = Request::builder().uri(uri).method(match form {
        Form::Query => "GET",
        Form::OtherVerb => "PUT",
        _ => "POST",
    });
    let request = match form {
        Form::JsonByType => request.header(header::CONTENT_TYPE, "application/json; charset=utf-8"),
        _ => request,
    };
    let caller = Caller::new(IpAddr::from(Ipv4Addr::LOCALHOST), Arc::new(Peer::new(None)));
    // As the admin listener does for the holder of its token.
    let caller = if row.service == Service::Admin { caller.identified(Operator::Token) } else { caller };
    let body = if form == Form::Query { Bytes::new() } else { Bytes::copy_from_slice(message) };
    let request = request.extension(caller).body(Full::new(body)).ok()?;
    let limits = BodyLimits::default();
    Some(RUNTIME.with(|runtime| {
        runtime.block_on(async {
            match row.service {
                Service::Kms => prpc::serve(&EchoKms, &limits, row.name, request).await,
                Service::Onboard => prpc::serve(&EchoOnboard, &limits, row.name, request).await,
                Service::Admin => prpc::serve(&EchoAdmin, &limits, row.name, request).await,
            }
        })
    }))
}

fn taken(answer: Answer) -> (http::response::Parts, Bytes) {
    let (parts, body) = answer.into_parts();
    let Ok(body) = RUNTIME.with(|runtime| runtime.block_on(body.collect()));
    (parts, body.to_bytes())
}

/// The message of an error, in either encoding.
fn error_message(is_json: bool, body: &[u8]) -> String {
    if is_json {
        let error: serde_json::Value = serde_json::from_slice(body).expect("an error is JSON");
        return error["error"].as_str().expect("an error has a text").to_owned();
    }
    PrpcError::decode(body).expect("an error is protobuf").message
}

struct EchoKms;
struct EchoOnboard;
struct EchoAdmin;

macro_rules! echo {
    ($($dispatch:ident: $service:ident),*) => {$(
        impl Dispatch for $dispatch {
            const SERVICE: Service = Service::$service;

            async fn call(&self, method: Method, _: &Caller, call: Call) -> Result<Bytes> {
                echo(method, call).await
            }
        }
    )*};
}

echo!(EchoKms: Kms, EchoOnboard: Onboard, EchoAdmin: Admin);

/// Responds with the request.
async fn echo(method: Method, call: Call) -> Result<Bytes> {
    method.visit_request(Echo(call)).await
}

struct Echo(Call);

impl RequestVisitor for Echo {
    type Output = Pin<Box<dyn Future<Output = Result<Bytes>> + Send>>;

    fn message<M: Message + Default + Serialize + DeserializeOwned + 'static>(self) -> Self::Output {
        Box::pin(self.0.unary::<M, M, M>(async |message| Ok(message)))
    }

    fn nothing(self) -> Self::Output {
        Box::pin(std::future::ready(Ok(Bytes::new())))
    }
}
