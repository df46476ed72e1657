//! Calls the function of a service that implements a method, for prpc and gRPC; generated from
//! `proto/kms.proto`.
//!
//! The function has the method's name and takes the caller and the request. A method without its function
//! does not compile.

use bytes::Bytes;
use kms_wire::method::UNKNOWN_METHOD;

use super::grpc;
use super::prpc::{Call, Dispatch};
use crate::api::admin::AdminService;
use crate::api::kms::KmsService;
use crate::api::onboard::OnboardService;
use crate::api::{Caller, Method, Service};
use crate::error::{Code, Error, Result};

include!(env!("KMS_DISPATCH"));

/// For a method of another service, which [`Method::find`] never returns.
fn elsewhere(method: Method) -> Error {
    Error::new(Code::UnknownMethod, format!("{UNKNOWN_METHOD}: {}", method.row().name))
}
