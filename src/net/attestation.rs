//! `GET /attestation.json`: the document by which this KMS proves itself to outsiders. Pages of any site may read it,
//! because it is public.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderValue, header};

use super::prpc;
use super::route::route;
use crate::api::attestation::AttestationService;
use crate::api::{Caller, Service};
use crate::error::{Code, Error, Result};

const PATH: &str = "/attestation.json";
/// When one who asks with a nonce may ask again, seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("10");

/// The route, on the main listener of a KMS with keys.
pub(super) fn routes(service: Arc<AttestationService>) -> Router {
    route(Service::Kms, PATH, move |request: Request| async move {
        let asked = nonce(request.uri().query());
        let address = prpc::caller(request.extensions()).map(Caller::remote);
        // Boxed, because nearly all requests wait for nothing and would still carry a future of this size.
        let answered = Box::pin(async { show(&service, asked?, address?).await });
        let mut answer = match answered.await {
            Ok(answer) => answer,
            Err(error) => {
                let mut answer = prpc::route_error(&error).map(Body::new);
                answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
                if error.code() == Code::TooManyRequests {
                    answer.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
                }
                answer
            }
        };
        let headers = answer.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        answer
    })
}

async fn show(
    service: &Arc<AttestationService>,
    nonce: Option<[u8; 32]>,
    address: IpAddr,
) -> Result<Response> {
    let (made, caching) = match nonce {
        None => {
            let made = service.shared().await?;
            let caching = format!("public, max-age={}", made.remaining().as_secs());
            (made, HeaderValue::from_str(&caching).expect("a number"))
        }
        Some(nonce) => (service.fresh(nonce, address).await?, HeaderValue::from_static("no-store")),
    };
    let mut answer = Response::new(Body::from(made.json.clone()));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, caching);
    Ok(answer)
}

/// The nonce of a request, if it has one. The query may say nothing else.
fn nonce(query: Option<&str>) -> Result<Option<[u8; 32]>> {
    let mut nonce = None;
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if key != "nonce" {
            return Err(Error::invalid("there is no such parameter; the only one is nonce"));
        }
        let is_lower = value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let bytes = hex::decode(&*value).ok().filter(|_| is_lower).and_then(|bytes| bytes.try_into().ok());
        let bytes: [u8; 32] =
            bytes.ok_or_else(|| Error::invalid("nonce must be 64 lower-case hexadecimal digits"))?;
        if nonce.replace(bytes).is_some() {
            return Err(Error::invalid("nonce is given more than once"));
        }
    }
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_one_nonce_or_none() {
        let digits = "ab".repeat(32);
        assert_eq!(nonce(None).expect("none"), None);
        assert_eq!(nonce(Some("")).expect("none"), None);
        assert_eq!(nonce(Some(&format!("nonce={digits}"))).expect("one"), Some([0xab; 32]));
        for wrong in [
            "nonce=".to_owned(),
            format!("nonce={}", &digits[2..]),
            format!("nonce={digits}ab"),
            format!("nonce={}", digits.to_uppercase()),
            format!("nonce={digits}&nonce={digits}"),
            format!("nonce={digits}&more=1"),
            "more=1".to_owned(),
        ] {
            assert_eq!(nonce(Some(&wrong)).expect_err(&wrong).code(), Code::InvalidRequest, "{wrong}");
        }
    }
}
