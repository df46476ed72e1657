//! The last errors whose fault is ours or that of a service: a bounded list for operators.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use kms_wire::code::Code;

use super::Metrics;
use crate::request;
use kms_attest::clock::unix_now;

/// How many errors are kept.
const KEPT: usize = 32;

/// An error that callers got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldError {
    /// When it happened last, Unix seconds.
    pub at: u64,
    /// The label of the method.
    pub method: &'static str,
    /// Its code.
    pub code: Code,
    /// The beginning of what the caller was told.
    pub message: String,
    /// The last request that it happened to.
    pub request_id: String,
    /// How often it happened.
    pub count: u64,
}

/// The newest is last.
#[derive(Debug, Default)]
pub(super) struct Errors(Mutex<VecDeque<ToldError>>);

impl Errors {
    /// Keeps the error of this task's request. A repeated one is counted, so that it does not displace others.
    pub(super) fn note(&self, method: &'static str) {
        let told = request::current(|context| {
            let failure = context.failure()?;
            Some((failure.code, failure.message.clone()?, context.id().logged().to_string()))
        });
        let Some((code, message, request_id)) = told.flatten() else { return };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same =
            kept.iter().position(|old| (old.method, old.code) == (method, code) && old.message == message);
        let count = same.and_then(|place| kept.remove(place)).map_or(1, |old| old.count.saturating_add(1));
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(ToldError { at: unix_now(), method, code, message, request_id, count });
    }
}

impl Metrics {
    /// The last errors that callers got and that are not their fault, the newest first.
    pub fn last_errors(&self) -> Vec<ToldError> {
        let kept = self.errors.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().rev().cloned().collect()
    }
}
