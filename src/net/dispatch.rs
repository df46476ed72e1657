//! From a method of the table to the function of its service that answers it, by prpc and by gRPC; generated from `proto/kms.proto`.
//!
//! The function has the method's name, and takes the caller and the request. A method without one does not compile.

use bytes::Bytes;

use super::grpc;
use super::prpc::{Call, Dispatch};
use crate::api::admin::AdminService;
use crate::api::kms::KmsService;
use crate::api::onboard::OnboardService;
use crate::api::{Caller, Method, Service};
use crate::error::{Code, Error, Result};

include!(env!("KMS_DISPATCH"));

/// The table found the method in another service: [`Method::find`] does not do that.
fn elsewhere(method: Method) -> Error {
    Error::new(Code::UnknownMethod, format!("Service not found: {}", method.row().name))
}
