//! The configuration of a KMS under test, written only here.

use std::path::Path;

/// The dependencies of the KMS.
pub struct Surroundings<'a> {
    /// Holds the key directory and the image cache.
    pub directory: &'a Path,
    /// Base URL of the collateral service.
    pub pccs: &'a str,
    /// Root of the simulated platform.
    pub root: &'a Path,
    /// Address of the guest agent.
    pub agent: &'a str,
    /// The allowlist.
    pub allowlist: &'a Path,
}

/// The configuration: as strict as possible on a simulated platform, all listeners on free ports of
/// 127.0.0.1.
pub fn text(surroundings: &Surroundings<'_>) -> toml::Table {
    let Surroundings { directory, pccs, root, agent, allowlist } = surroundings;
    let (directory, root, allowlist) = (directory.display(), root.display(), allowlist.display());
    let token = super::ADMIN_TOKEN;
    let text = format!(
        r#"
        [rpc]
        address = "127.0.0.1"
        port = 0

        [core]
        cert_dir = "{directory}/certs"
        site_name = "test site"
        image = {{ verify = false, cache_dir = "{directory}/images" }}
        auth_api = {{ type = "allowlist", allowlist.path = "{allowlist}" }}
        attester.address = "{agent}"
        onboard = {{ address = "127.0.0.1", port = 0 }}
        admin = {{ enabled = true, address = "127.0.0.1", port = 0, auth_token = "{token}" }}
        limits.shutdown_grace = "2s"

        [core.attestation]
        insecure_allow_external_trust_anchors = true
        urls.pccs = "{pccs}"
        root_ca.tdx = "{root}"
        "#
    );
    text.parse().expect("TOML")
}

/// `base` with keys replaced by those in `toml`.
pub fn laid_over(mut base: toml::Table, toml: &str) -> toml::Table {
    merge(&mut base, toml.parse().expect("TOML"));
    base
}

fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}
