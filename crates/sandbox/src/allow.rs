//! Adds measured values to the allowlist of the KMS, as an operator would.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::state::StateDir;

const FILE: &str = "auth-config.json";

/// The candidate allowlist for the shadow commands.
pub(crate) const CANDIDATE: &str = "candidate.json";

/// Whether the file was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    New,
    Known,
}

/// Writes an allowlist that allows nothing, if there is none.
pub(crate) fn prepare(state: &StateDir) -> Result<()> {
    match state.read(FILE)? {
        Some(_) => Ok(()),
        None => state.write(FILE, &format!("{:#}\n", nobody())),
    }
}

/// Allows a KMS: its measurement, on this device, with this OS image.
pub(crate) fn kms(state: &StateDir, mr_aggregated: &[u8], device: &[u8], os_image: &[u8]) -> Result<Entry> {
    edit(state, |file| {
        list(file, "/osImages", os_image);
        list(file, "/kms/mrAggregated", mr_aggregated);
        list(file, "/kms/devices", device);
    })
}

/// Allows an app: its compose file, on this device, with this OS image.
pub(crate) fn app(
    state: &StateDir,
    app_id: &[u8],
    compose: &[u8],
    device: &[u8],
    os_image: &[u8],
) -> Result<Entry> {
    edit(state, |file| enter(file, app_id, compose, device, os_image))
}

/// Writes a second allowlist beside the policy, with one more app.
pub(crate) fn candidate(
    state: &StateDir,
    app_id: &[u8],
    compose: &[u8],
    device: &[u8],
    os_image: &[u8],
) -> Result<()> {
    let mut file = current(state)?.unwrap_or_else(nobody);
    enter(&mut file, app_id, compose, device, os_image);
    state.write(CANDIDATE, &format!("{file:#}\n"))
}

fn enter(file: &mut Value, app_id: &[u8], compose: &[u8], device: &[u8], os_image: &[u8]) {
    let id = hex::encode(app_id);
    if let Some(apps) = file["apps"].as_object_mut() {
        apps.entry(&id)
            .or_insert_with(|| json!({"composeHashes": [], "devices": [], "allowAnyDevice": false}));
    }
    list(file, "/osImages", os_image);
    list(file, &format!("/apps/{id}/composeHashes"), compose);
    list(file, &format!("/apps/{id}/devices"), device);
}

fn current(state: &StateDir) -> Result<Option<Value>> {
    let text = state.read(FILE)?;
    text.map(|text| serde_json::from_str(&text))
        .transpose()
        .with_context(|| format!("{} is not JSON", state.policy().display()))
}

fn edit(state: &StateDir, change: impl FnOnce(&mut Value)) -> Result<Entry> {
    let before = current(state)?;
    let mut after = before.clone().unwrap_or_else(nobody);
    change(&mut after);
    if before.as_ref() == Some(&after) {
        return Ok(Entry::Known);
    }
    state.write(FILE, &format!("{after:#}\n"))?;
    Ok(Entry::New)
}

/// An allowlist that allows nothing.
fn nobody() -> Value {
    json!({
        "gatewayAppId": "",
        "osImages": [],
        "allowedTcbStatuses": ["UpToDate"],
        "allowedAdvisoryIds": [],
        "kms": {"mrAggregated": [], "devices": [], "allowAnyDevice": false},
        "apps": Map::new(),
    })
}

/// Adds a value to a list in the file.
fn list(file: &mut Value, pointer: &str, value: &[u8]) {
    if let Some(Value::Array(entries)) = file.pointer_mut(pointer) {
        let entry = Value::String(format!("0x{}", hex::encode(value)));
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_made_once_and_keep_what_is_there() {
        let home = tempfile::tempdir().expect("directory");
        let state = StateDir::open(Some(home.path().to_owned())).expect("state");
        prepare(&state).expect("nobody");
        assert_eq!(kms(&state, &[1; 32], &[2; 32], &[3; 32]).expect("kms"), Entry::New);
        assert_eq!(app(&state, &[4; 20], &[5; 32], &[2; 32], &[3; 32]).expect("app"), Entry::New);
        assert_eq!(kms(&state, &[1; 32], &[2; 32], &[3; 32]).expect("kms"), Entry::Known);
        assert_eq!(app(&state, &[4; 20], &[5; 32], &[2; 32], &[3; 32]).expect("app"), Entry::Known);

        prepare(&state).expect("nothing to do");
        let text = state.read(FILE).expect("readable").expect("there");
        let file: Value = serde_json::from_str(&text).expect("json");
        assert_eq!(file["osImages"], json!([format!("0x{}", "03".repeat(32))]));
        assert_eq!(file["kms"]["mrAggregated"], json!([format!("0x{}", "01".repeat(32))]));
        assert_eq!(file["apps"]["04".repeat(20)]["composeHashes"], json!([format!("0x{}", "05".repeat(32))]));
    }
}
