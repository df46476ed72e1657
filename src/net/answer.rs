//! The response to a request, and a refusal as one.

use axum::body::Body;
use http::Response;

use super::prpc::{self, Encoding};
use super::status;
use crate::error::Error;

pub(super) type Answer = Response<Body>;

/// A refusal in the protocol of the request; JSON where the encoding is not known.
pub(super) fn refusal(is_grpc: bool, cause: &Error) -> Answer {
    match is_grpc {
        true => status::grpc_answer(cause),
        false => prpc::error(Encoding::Json, cause).map(Body::new),
    }
}
