//! Error codes and their mapping to HTTP and gRPC, which is only here.

use http::{HeaderName, StatusCode};

/// The header of prpc with the stable name of an error's code.
pub const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
/// The id of a refusal, as a header of prpc and as metadata of gRPC.
pub const DENIAL_ID: HeaderName = HeaderName::from_static(DENIAL_ID_KEY);
/// The name of [`DENIAL_ID`].
pub const DENIAL_ID_KEY: &str = "x-denial-id";
/// The code of a refusal, as metadata of gRPC. In prpc it is in the body.
pub const DENIAL_CODE_KEY: &str = "x-denial-code";

/// Why a request ended without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request is malformed or impossible.
    InvalidRequest,
    /// The method needs an attestation, and the caller has none that verifies.
    Unauthenticated,
    /// Denied by the policy.
    Denied,
    /// This KMS cannot serve the request yet.
    NotReady,
    /// Keys exist already.
    AlreadyOnboarded,
    /// The request is right, and waits for a second owner.
    ApprovalNeeded,
    /// The method does not exist here.
    UnknownMethod,
    /// The state of this KMS does not allow it now; the request is valid.
    Conflict,
    /// The request is larger than the method allows.
    TooLarge,
    /// The caller's address or app sends too many requests.
    TooManyRequests,
    /// Something that this KMS depends on does not respond; the same request may succeed later.
    Unavailable,
    /// A fault in this KMS.
    Internal,
}

impl Code {
    /// The stable name, as in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Unauthenticated => "unauthenticated",
            Self::Denied => "denied",
            Self::NotReady => "not_ready",
            Self::AlreadyOnboarded => "already_onboarded",
            Self::ApprovalNeeded => "approval_needed",
            Self::UnknownMethod => "unknown_method",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::TooManyRequests => "too_many_requests",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// Its HTTP status. `docs/protocol.md` lists the differences to the peer, which always responds with 400.
    pub fn http(self) -> StatusCode {
        match self {
            Self::InvalidRequest | Self::AlreadyOnboarded | Self::ApprovalNeeded => StatusCode::BAD_REQUEST,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::UnknownMethod => StatusCode::NOT_FOUND,
            Self::Conflict => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::NotReady | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Its gRPC status code (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>).
    pub fn grpc(self) -> GrpcCode {
        match self {
            Self::InvalidRequest => GrpcCode::InvalidArgument,
            Self::Unauthenticated => GrpcCode::Unauthenticated,
            Self::Denied => GrpcCode::PermissionDenied,
            Self::AlreadyOnboarded | Self::ApprovalNeeded => GrpcCode::FailedPrecondition,
            Self::Conflict => GrpcCode::Aborted,
            Self::UnknownMethod => GrpcCode::Unimplemented,
            Self::TooLarge | Self::TooManyRequests => GrpcCode::ResourceExhausted,
            Self::NotReady | Self::Unavailable => GrpcCode::Unavailable,
            Self::Internal => GrpcCode::Internal,
        }
    }

    /// Whether the same request may succeed a little later: such responses have `Retry-After`.
    pub fn is_temporary(self) -> bool {
        match self {
            Self::NotReady | Self::Unavailable | Self::TooManyRequests => true,
            Self::InvalidRequest
            | Self::Unauthenticated
            | Self::Denied
            | Self::AlreadyOnboarded
            | Self::ApprovalNeeded
            | Self::UnknownMethod
            | Self::Conflict
            | Self::TooLarge
            | Self::Internal => false,
        }
    }
}

/// The gRPC status codes of our errors, with their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GrpcCode {
    /// `INVALID_ARGUMENT`
    InvalidArgument = 3,
    /// `PERMISSION_DENIED`
    PermissionDenied = 7,
    /// `RESOURCE_EXHAUSTED`
    ResourceExhausted = 8,
    /// `FAILED_PRECONDITION`
    FailedPrecondition = 9,
    /// `ABORTED`
    Aborted = 10,
    /// `UNIMPLEMENTED`
    Unimplemented = 12,
    /// `INTERNAL`
    Internal = 13,
    /// `UNAVAILABLE`
    Unavailable = 14,
    /// `UNAUTHENTICATED`
    Unauthenticated = 16,
}
