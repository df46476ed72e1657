//! Responses of an authorization backend.

use std::sync::{LazyLock, Mutex};

use cvm_kms::config::{AuthApi, Endpoint, Webhook};
use kms_policy::{Decision, Policy, Subject};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use super::allowlist::boot_info;
use super::loopback;

/// Maximum length of a reason in a response, characters.
const MAX_REASON: usize = 512;

/// A backend that returns what the target sets.
struct Backend {
    /// Held during a request, so that there is one at a time.
    asked: Mutex<(Runtime, Policy)>,
    address: String,
}

static ANSWER: Mutex<(u16, Vec<u8>)> = Mutex::new((200, Vec::new()));

static BACKEND: LazyLock<Backend> = LazyLock::new(|| {
    let address = format!("http://{}", loopback::serve(|_| Some(ANSWER.lock().ok()?.clone())));
    let url = Endpoint::parse(&address).expect("the address is an URL");
    let policy =
        Policy::from_config(&AuthApi::Webhook(Box::new(Webhook::at(url)))).expect("the client can be built");
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    Backend { asked: Mutex::new((runtime, policy)), address }
});

/// The first byte chooses the status; the others are the body.
///
/// Only a successful response that says so allows; a reason is short and printable; the caller learns nothing
/// else.
pub fn webhook(data: &[u8]) {
    let Some((choice, body)) = data.split_first() else { return };
    let status = [200, 200, 200, 201, 204, 302, 400, 404, 429, 500][usize::from(*choice) % 10];
    // A response with status 204 has no body.
    let body: &[u8] = if status == 204 { &[] } else { body };

    let asked = BACKEND.asked.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    *ANSWER.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = (status, body.to_vec());
    let (runtime, policy) = &*asked;
    let boot_info = boot_info(Vec::new());
    let decision = runtime.block_on(policy.decide(Subject::App(&boot_info)));

    let answer: Option<Value> = serde_json::from_slice(body).ok().filter(|_| (200..300).contains(&status));
    let says = |key: &str| answer.as_ref().map(|answer| answer[key].clone());
    match decision {
        // An array is read by position.
        Ok(_) if answer.as_ref().is_some_and(Value::is_array) => {}
        Ok(Decision::Allowed { gateway_app_id, release_stage, epochs }) => {
            assert_eq!(says("isAllowed"), Some(true.into()));
            assert_eq!(says("gatewayAppId"), Some(gateway_app_id.into()));
            let stage = says("releaseStage").filter(|stage| !stage.is_null());
            assert_eq!(stage, release_stage.map(|stage| stage.name().into()));
            for (key, value) in epochs.iter().flat_map(|epochs| epochs.fields()) {
                // A list is without repeats, in order.
                assert!(value.is_array() || says(&key) == Some(value), "{key}");
            }
        }
        Ok(Decision::IfImage(condition)) => panic!("a backend names no image: {condition:?}"),
        Ok(Decision::Denied(denial)) => {
            assert_eq!(says("isAllowed"), Some(false.into()));
            assert!(denial.reason.chars().count() <= MAX_REASON && !denial.reason.contains(char::is_control));
        }
        Err(error) => assert!(!error.to_string().contains(&BACKEND.address), "the caller is told an address"),
    }
}
