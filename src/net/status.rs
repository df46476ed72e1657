//! The one place that maps our error codes to HTTP and gRPC.

use axum::body::Body;
use http::{HeaderName, Response, StatusCode};

use crate::error::{Code, Error};

/// What kind of error it was, in a stable word, as a header of prpc.
pub const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
/// The id of a refusal, as a header of prpc and as metadata of gRPC.
pub const DENIAL_ID: HeaderName = HeaderName::from_static(DENIAL_ID_KEY);
const DENIAL_ID_KEY: &str = "x-denial-id";
/// The code of a refusal, as metadata of gRPC. In prpc it is in the body.
const DENIAL_CODE: &str = "x-denial-code";

/// The HTTP status of an error. `docs/protocol.md` lists where it differs from the peer, which answers 400 to all.
pub fn http(code: Code) -> StatusCode {
    match code {
        Code::InvalidRequest | Code::AlreadyOnboarded => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Denied => StatusCode::FORBIDDEN,
        Code::UnknownMethod => StatusCode::NOT_FOUND,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        Code::NotReady | Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Whether the same request may succeed a little later: such answers carry `Retry-After`.
pub fn is_temporary(code: Code) -> bool {
    matches!(code, Code::NotReady | Code::Unavailable | Code::TooManyRequests)
}

/// The gRPC status of an error, with its message and how a refusal can be looked up.
pub fn grpc(error: &Error) -> tonic::Status {
    let mut status = tonic::Status::new(grpc_code(error.code()), error.message());
    if let Some(denial) = error.denial()
        && let Ok(id) = denial.id.parse()
    {
        status.metadata_mut().insert(DENIAL_ID_KEY, id);
        status.metadata_mut().insert(DENIAL_CODE, tonic::metadata::MetadataValue::from_static(denial.code));
    }
    status
}

/// The whole gRPC answer that an error is, for a request that does not reach its service.
pub fn grpc_answer(error: &Error) -> Response<Body> {
    let mut answer = grpc(error).into_http();
    answer.extensions_mut().insert(error.code());
    answer
}

/// The HTTP status as which an answer is counted. A gRPC refusal is 200 on the wire; it counts as what the same error
/// is in prpc.
pub fn counted<B>(answer: &Response<B>) -> StatusCode {
    if let Some(code) = answer.extensions().get::<Code>() {
        return http(*code);
    }
    let Some(status) = answer.headers().get(tonic::Status::GRPC_STATUS) else { return answer.status() };
    match tonic::Code::from_bytes(status.as_bytes()) {
        tonic::Code::Ok => StatusCode::OK,
        tonic::Code::InvalidArgument | tonic::Code::FailedPrecondition => StatusCode::BAD_REQUEST,
        tonic::Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        tonic::Code::PermissionDenied => StatusCode::FORBIDDEN,
        tonic::Code::Unimplemented => StatusCode::NOT_FOUND,
        tonic::Code::ResourceExhausted => StatusCode::PAYLOAD_TOO_LARGE,
        tonic::Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn grpc_code(code: Code) -> tonic::Code {
    match code {
        Code::InvalidRequest => tonic::Code::InvalidArgument,
        Code::Unauthenticated => tonic::Code::Unauthenticated,
        Code::Denied => tonic::Code::PermissionDenied,
        Code::AlreadyOnboarded => tonic::Code::FailedPrecondition,
        Code::UnknownMethod => tonic::Code::Unimplemented,
        Code::TooLarge | Code::TooManyRequests => tonic::Code::ResourceExhausted,
        Code::NotReady | Code::Unavailable => tonic::Code::Unavailable,
        Code::Internal => tonic::Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODES: [Code; 10] = [
        Code::InvalidRequest,
        Code::Unauthenticated,
        Code::Denied,
        Code::NotReady,
        Code::AlreadyOnboarded,
        Code::UnknownMethod,
        Code::TooLarge,
        Code::TooManyRequests,
        Code::Unavailable,
        Code::Internal,
    ];

    #[test]
    fn an_error_counts_the_same_in_grpc_as_in_prpc() {
        for code in CODES {
            let error = Error::new(code, "text");
            assert_eq!(counted(&grpc_answer(&error)), http(code), "{code:?}");
            // The answers of services say less, but a request that is one too many never reaches one.
            if code != Code::TooManyRequests {
                assert_eq!(counted(&grpc(&error).into_http::<Body>()), http(code), "{code:?}");
            }
        }
    }

    #[test]
    fn what_is_no_error_of_ours_counts_as_it_is() {
        for status in [StatusCode::OK, StatusCode::METHOD_NOT_ALLOWED] {
            let mut answer = Response::new(());
            *answer.status_mut() = status;
            assert_eq!(counted(&answer), status);
        }
    }
}
