//! The allowlist file of a KMS under test.

use std::fs;
use std::path::{Path, PathBuf};

use kms_simulator::Cvm;
use serde_json::{Value, json};

/// An `auth-config.json`; each change replaces the file, so that no reader sees a part of it.
pub struct AllowlistFile {
    path: PathBuf,
}

impl AllowlistFile {
    /// A new file that allows nothing, with the values that `GetMeta` shows.
    pub fn new(path: PathBuf) -> Self {
        let file = Self { path };
        file.write(&json!({
            "gatewayAppId": "0xgateway",
            "kmsContractAddr": "0x1111111111111111111111111111111111111111",
            "chainId": 7,
            "appImplementation": "0x2222222222222222222222222222222222222222",
            "osImages": [],
            "kms": { "mrAggregated": [], "devices": [], "allowAnyDevice": true },
            "apps": {},
        }));
        file
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Allows an app, its compose hash and its OS image, on any device.
    pub fn allow_app(&self, cvm: &Cvm) {
        self.change(|rules| {
            add(&mut rules["osImages"], cvm.os_image_hash());
            let app = &mut rules["apps"][hex::encode(cvm.app_id())];
            app["allowAnyDevice"] = json!(true);
            add(&mut app["composeHashes"], cvm.compose_hash());
        });
    }

    /// Allows a KMS with its current measurement, and its OS image, on any device.
    pub fn allow_kms(&self, cvm: &Cvm) {
        self.change(|rules| {
            add(&mut rules["osImages"], cvm.os_image_hash());
            add(&mut rules["kms"]["mrAggregated"], &cvm.mr_aggregated());
        });
    }

    pub fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut rules = serde_json::from_slice(&fs::read(&self.path).expect("allowlist")).expect("JSON");
        change(&mut rules);
        self.write(&rules);
    }

    pub fn write(&self, rules: &Value) {
        self.write_text(&rules.to_string());
    }

    /// Replaces the file's content.
    pub fn write_text(&self, text: &str) {
        let new = self.path.with_extension("new");
        fs::write(&new, text).expect("allowlist");
        fs::rename(&new, &self.path).expect("allowlist");
    }

    pub fn remove(&self) {
        fs::remove_file(&self.path).expect("allowlist");
    }
}

fn add(list: &mut Value, bytes: &[u8]) {
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().expect("a list").push(json!(hex::encode(bytes)));
}
