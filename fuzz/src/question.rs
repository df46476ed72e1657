//! Requests to `kms auth serve`.

use cvm_kms::net::auth_backend::asked_about;
use serde_json::Value;

/// The required text fields, and the optional ones.
const NEEDED: [&str; 6] = ["mrAggregated", "osImageHash", "appId", "composeHash", "instanceId", "deviceId"];
const OPTIONAL: [&str; 3] = ["teeVariant", "mrSystem", "tcbStatus"];

/// A body of another shape is refused with a message of bounded length; otherwise the hashes are those of the
/// texts, or empty.
pub fn question(data: &[u8]) {
    let value: Value = serde_json::from_slice(data).unwrap_or_default();
    let is_text = |key: &str| value[key].is_string();
    let is_good = value.is_object()
        && NEEDED.iter().all(|key| is_text(key))
        && OPTIONAL.iter().all(|key| value.get(*key).is_none() || is_text(key))
        && value
            .get("advisoryIds")
            .is_none_or(|ids| ids.as_array().is_some_and(|ids| ids.iter().all(Value::is_string)));
    match asked_about(data) {
        Err(problem) => assert!(!is_good && problem.len() < 100, "{problem}"),
        Ok(identity) => {
            assert!(is_good);
            for (key, bytes) in [
                ("appId", identity.app_id),
                ("composeHash", identity.compose_hash),
                ("deviceId", identity.device_id),
                ("osImageHash", identity.os_image_hash),
                ("mrAggregated", identity.mr_aggregated),
            ] {
                let text = value[key].as_str().unwrap_or_default().to_ascii_lowercase();
                let digits = text.strip_prefix("0x").unwrap_or(&text);
                assert!(bytes.is_empty() || hex::encode(bytes) == digits, "{key}");
            }
            assert_eq!(identity.tcb_status, value["tcbStatus"].as_str().unwrap_or_default());
        }
    }
}
