//! The one place that maps our error codes to HTTP and gRPC.

use http::StatusCode;

use crate::error::{Code, Error};

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

/// The gRPC status of an error, with its message.
pub fn grpc(error: &Error) -> tonic::Status {
    tonic::Status::new(grpc_code(error.code()), error.message())
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
