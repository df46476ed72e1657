//! An error as a whole gRPC response, and the HTTP status under which a response is counted. `kms_wire::code`
//! maps the codes.

use axum::body::Body;
use http::{Response, StatusCode};
use kms_wire::code::{DENIAL_CODE_KEY, DENIAL_ID_KEY};

use crate::error::{Code, Error};
use crate::request;

/// The gRPC status of an error, with its message and the ids with which a refusal can be looked up.
pub fn grpc(error: &Error) -> tonic::Status {
    request::fail(error.code(), error.message());
    let mut status = tonic::Status::new(tonic::Code::from_i32(error.code().grpc() as i32), error.message());
    if let Some(denial) = error.denial()
        && let Ok(id) = denial.id.parse()
    {
        status.metadata_mut().insert(DENIAL_ID_KEY, id);
        status
            .metadata_mut()
            .insert(DENIAL_CODE_KEY, tonic::metadata::MetadataValue::from_static(denial.code));
    }
    status
}

/// The whole gRPC response for an error, for a request that does not reach its service.
pub fn grpc_answer(error: &Error) -> Response<Body> {
    let mut answer = grpc(error).into_http();
    answer.extensions_mut().insert(error.code());
    answer
}

/// The HTTP status under which a response is counted. A gRPC refusal is 200 on the wire; it is counted as the
/// status of the same error in prpc.
pub fn counted<B>(answer: &Response<B>) -> StatusCode {
    if let Some(code) = answer.extensions().get::<Code>() {
        return code.http();
    }
    let Some(status) = answer.headers().get(tonic::Status::GRPC_STATUS) else { return answer.status() };
    match tonic::Code::from_bytes(status.as_bytes()) {
        tonic::Code::Ok => StatusCode::OK,
        tonic::Code::InvalidArgument | tonic::Code::FailedPrecondition => StatusCode::BAD_REQUEST,
        tonic::Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        tonic::Code::PermissionDenied => StatusCode::FORBIDDEN,
        tonic::Code::Unimplemented => StatusCode::NOT_FOUND,
        tonic::Code::Aborted => StatusCode::CONFLICT,
        tonic::Code::ResourceExhausted => StatusCode::PAYLOAD_TOO_LARGE,
        tonic::Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODES: [Code; 12] = [
        Code::InvalidRequest,
        Code::Unauthenticated,
        Code::Denied,
        Code::NotReady,
        Code::AlreadyOnboarded,
        Code::ApprovalNeeded,
        Code::UnknownMethod,
        Code::Conflict,
        Code::TooLarge,
        Code::TooManyRequests,
        Code::Unavailable,
        Code::Internal,
    ];

    #[test]
    fn an_error_counts_the_same_in_grpc_as_in_prpc() {
        for code in CODES {
            let error = Error::new(code, "text");
            assert_eq!(counted(&grpc_answer(&error)), code.http(), "{code:?}");
            // Services give fewer details, but a request over the rate never reaches one.
            if code != Code::TooManyRequests {
                assert_eq!(counted(&grpc(&error).into_http::<Body>()), code.http(), "{code:?}");
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
