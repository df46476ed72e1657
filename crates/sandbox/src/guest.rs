//! Apps in CVMs of their own, which fetch their keys like every guest.

use anyhow::{Context as _, Result, bail, ensure};
use kms_attest::verify::Verifier;
use kms_client::{AppKeys, BootError, KmsUrl, ServerAttestation, fetch_app_keys};
use kms_simulator::{Cvm, KeyProvider};
use serde::{Deserialize, Serialize};

use crate::env::{Env, Machine};
use crate::output::fingerprint;
use crate::state::StateDir;

/// The app's compose file. Its hash is measured, so another text is another app.
const COMPOSE: &str = r#"{"manifest_version":2,"name":"hello","runner":"docker-compose","docker_compose_file":"services:\n  hello:\n    image: busybox\n    command: httpd -f\n"}"#;

/// An app that is not in the allowlist.
const STRANGER: &str = r#"{"manifest_version":2,"name":"stranger","runner":"docker-compose","docker_compose_file":"services:\n  stranger:\n    image: busybox\n    command: sleep infinity\n"}"#;

const FILE: &str = "app-keys.json";

/// An app that waits for its keys.
pub(crate) struct Guest {
    machine: Machine,
    verifier: Verifier,
}

impl Guest {
    /// Boots the CVM of the first app up to that point.
    pub(crate) async fn boot(env: &Env) -> Result<Self> {
        Ok(Self { machine: env.boot("app", COMPOSE).await?, verifier: env.verifier()? })
    }

    /// Boots another instance of the same app, for `kmsctl` to use.
    pub(crate) async fn boot_another(env: &Env) -> Result<Self> {
        Ok(Self { machine: env.boot("kmsctl", COMPOSE).await?, verifier: env.verifier()? })
    }

    /// Boots an app that is not in the allowlist.
    pub(crate) async fn boot_stranger(env: &Env) -> Result<Self> {
        Ok(Self { machine: env.boot("stranger", STRANGER).await?, verifier: env.verifier()? })
    }

    pub(crate) fn agent_address(&self) -> &str {
        self.machine.agent_address()
    }

    pub(crate) fn cvm(&self) -> &Cvm {
        &self.machine.cvm
    }

    /// Fetches its keys from the KMS, which must prove that it is one.
    pub(crate) async fn fetch(&self, kms: KmsUrl) -> Result<Result<AppKeys, BootError>> {
        fetch(&self.machine, &self.verifier, kms).await
    }

    /// Measures the key provider, as a guest does before it runs its app: a verifier of the app then sees
    /// which KMS it depends on.
    pub(crate) fn finish_boot(&self, keys: &AppKeys) {
        self.machine.cvm.finish_boot(&KeyProvider::Kms(keys.key_provider.clone()));
    }
}

/// Fetches the keys of the app in `machine`, as a guest does at boot.
pub(crate) async fn fetch(
    machine: &Machine,
    verifier: &Verifier,
    kms: KmsUrl,
) -> Result<Result<AppKeys, BootError>> {
    let attester = machine.attester()?;
    let vm_config = attester.vm_config().await.context("ask the guest agent for vm_config")?;
    let server = ServerAttestation::Required(verifier);
    Ok(fetch_app_keys(&[kms], &attester, server, &vm_config, None).await)
}

/// Fingerprints of the keys, which are shown and stored instead of the keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fingerprints {
    pub(crate) disk: String,
    pub(crate) env: String,
    pub(crate) k256: String,
}

/// Whether an earlier run received keys too. They must be the same, or the app could not open its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    First,
    Same,
}

impl Fingerprints {
    pub(crate) fn of(keys: &AppKeys) -> Self {
        Self {
            disk: fingerprint(&keys.response.disk_crypt_key),
            env: fingerprint(&keys.response.env_crypt_key),
            k256: fingerprint(&keys.response.k256_key),
        }
    }

    /// Compares the fingerprints with those of the earlier run, or stores them for the next.
    pub(crate) fn remember(&self, state: &StateDir) -> Result<Memory> {
        match state.read(FILE)? {
            None => {
                state.write(FILE, &serde_json::to_string_pretty(self)?)?;
                Ok(Memory::First)
            }
            Some(text) => {
                let path = state.path().join(FILE);
                let Ok(earlier) = serde_json::from_str::<Self>(&text) else {
                    bail!("{} was not written by this program", path.display())
                };
                ensure!(
                    earlier == *self,
                    "the keys of the app are not those of the earlier run ({})",
                    path.display()
                );
                Ok(Memory::Same)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_keys_than_before_are_an_error() {
        let home = tempfile::tempdir().expect("directory");
        let state = StateDir::open(Some(home.path().to_owned())).expect("state");
        let keys = Fingerprints { disk: "00".into(), env: "01".into(), k256: "02".into() };
        assert_eq!(keys.remember(&state).expect("first"), Memory::First);
        assert_eq!(keys.remember(&state).expect("same"), Memory::Same);
        let other = Fingerprints { disk: "ff".into(), ..keys };
        assert!(other.remember(&state).is_err());
    }
}
