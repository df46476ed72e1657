//! The files that this program writes: no two keys may name the same one.

use std::path::{Path, PathBuf};

use super::reader::Report;
use super::{AuthApi, Config};

/// The files of the key directory; the tests of `store` compare this list with theirs.
pub const KEY_FILES: [&str; 13] = [
    "root-ca.key",
    "root-k256.key",
    "keyring.json",
    "tmp-ca.key",
    "rpc.key",
    "root-ca.crt",
    "tmp-ca.crt",
    "rpc.crt",
    "rpc-domain",
    "bootstrap-info.json",
    APP_EPOCHS,
    DOMAINS,
    "root-fingerprints.json",
];

/// What keeps, in the key directory, what was notified.
pub const NOTIFIED: &str = "notified.json";

/// What keeps, in the key directory, the settings that were changed at run time.
pub const RUNTIME_SETTINGS: &str = "settings.json";

/// The directory that keeps, in the key directory, collateral of the models that were seen.
pub const COLLATERAL: &str = "collateral";

/// What earlier versions kept, in the key directory, of collateral that was uploaded. It is taken over at the start.
pub const COLLATERAL_BUNDLE: &str = "collateral-bundle.json";

/// What keeps, in the key directory, the epochs that operators chose for apps.
pub const APP_EPOCHS: &str = "app-epochs.json";

/// What keeps, in the key directory, the domains that operators made, and the apps that they put into one.
pub const DOMAINS: &str = "domains.json";

/// What keeps, in the key directory, the invitations of replicas.
pub const JOINS: &str = "joins.json";

/// What keeps, in the key directory, the nodes of the fleet that operators drain.
pub const DRAINS: &str = "drains.json";

/// What keeps, in the key directory, what this node last knew of the state that it shares with others.
pub const FLEET: &str = "fleet.json";

/// What the name of a file ends with that was replaced when its node joined a fleet.
pub const BEFORE_FLEET: &str = "before-fleet";

/// Keeps, in the key directory, which recovery set is the current one, and how drills ended.
pub const RECOVERY: &str = "recovery.json";

/// The directory that keeps, in the key directory, signed bundles of policies and the serials that were seen.
pub const POLICY_BUNDLES: &str = "policy-bundles";

/// What an uploaded file ends with until it is in its place.
pub const STAGED: &str = "staged";

/// A file, and the key that names it.
struct Named {
    key: &'static str,
    path: PathBuf,
}

pub(super) fn check(config: &Config, report: &mut Report) {
    let core = &config.core;
    let named = |key, path: &Path| Named { key, path: resolved(path) };
    let mut written = vec![
        named("core.audit.file", &core.audit.file),
        named("core.events.index", &core.events.index),
        named("core.freeze.file", &core.freeze.file),
        named("core.admin.credentials_file", &core.admin.credentials_file),
        named("core.admin.approvals_file", &core.admin.approvals_file),
        named("core.tcb.floors_file", &core.tcb.floors_file),
    ];
    written.extend(core.events.fifo.iter().map(|path| named("core.events.fifo", path)));
    let directory = resolved(&core.cert_dir.join("x"));
    let mut others: Vec<_> = KEY_FILES
        .iter()
        .chain([
            &NOTIFIED,
            &RUNTIME_SETTINGS,
            &COLLATERAL,
            &COLLATERAL_BUNDLE,
            &FLEET,
            &JOINS,
            &DRAINS,
            &RECOVERY,
            &POLICY_BUNDLES,
        ])
        .map(|name| Named { key: "core.cert_dir", path: directory.with_file_name(name) })
        .collect();
    let extensions = ["tree", "node", "archived"];
    others.extend(extensions.map(|end| named("core.audit.file", &core.audit.file.with_extension(end))));
    let policies = config.domains.values().filter_map(|domain| domain.auth_api.as_ref());
    for (key, policy) in std::iter::once(("core.auth_api.allowlist.path", &core.auth_api))
        .chain(policies.map(|policy| ("auth_api.allowlist.path of a domain", policy)))
    {
        match policy {
            AuthApi::Allowlist { path, .. } => {
                let staged = path.with_added_extension(STAGED);
                others.extend([path, &staged].map(|path| named(key, path)));
            }
            AuthApi::Bundle(_) | AuthApi::Webhook(_) | AuthApi::Ethereum(_) | AuthApi::Dev { .. } => {}
        }
    }
    let suffixes = ["reserve", "new"];
    others.extend(suffixes.map(|end| named("core.audit.file", &core.audit.file.with_added_extension(end))));
    for path in core.admin.htpasswd_file.iter() {
        let staged = path.with_added_extension(STAGED);
        others.extend([path, &staged].map(|path| named("core.admin.htpasswd_file", path)));
    }
    for tls in core.admin.tls.iter() {
        others.extend([named("core.admin.tls.key", &tls.key), named("core.admin.tls.certs", &tls.certs)]);
    }
    for (index, one) in written.iter().enumerate() {
        let before = written.iter().take(index);
        if let Some(other) = before.chain(&others).find(|other| other.path == one.path) {
            // Both are named: which of them is wrong only the operator knows.
            report.find(one.key, format!("is a file of {} too", other.key));
        }
    }
}

/// The same text for the same file, as far as its directory tells.
fn resolved(path: &Path) -> PathBuf {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return path.to_owned() };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let found = std::fs::canonicalize(directory).or_else(|_| std::path::absolute(directory));
    found.map_or_else(|_| path.to_owned(), |directory| directory.join(name))
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn findings(text: &str) -> Vec<String> {
        let found = Config::from_toml(text).err().map(|error| error.findings).unwrap_or_default();
        found.iter().map(|finding| format!("{}: {}", finding.subject, finding.message)).collect()
    }

    #[test]
    fn no_two_keys_name_the_same_file() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display().to_string();
        std::fs::create_dir(directory.path().join("keys")).unwrap();
        std::os::unix::fs::symlink(directory.path().join("keys"), directory.path().join("link")).unwrap();
        for (keys, expected) in [
            ("events.index = 'ROOT/keys/audit.jsonl'", "core.events.index: is a file of core.audit.file too"),
            ("events.index = 'ROOT/link/audit.jsonl'", "core.events.index: is a file of core.audit.file too"),
            (
                "events.index = 'ROOT/keys/./audit.jsonl'",
                "core.events.index: is a file of core.audit.file too",
            ),
            ("events.index = 'ROOT/keys/audit.tree'", "core.events.index: is a file of core.audit.file too"),
            (
                "events.index = 'ROOT/keys/audit.jsonl.reserve'",
                "core.events.index: is a file of core.audit.file too",
            ),
            ("events.index = 'ROOT/keys/root-ca.key'", "core.events.index: is a file of core.cert_dir too"),
            ("events.index = 'ROOT/keys/notified.json'", "core.events.index: is a file of core.cert_dir too"),
            ("events.fifo = 'ROOT/keys/rpc-domain'", "core.events.fifo: is a file of core.cert_dir too"),
            ("events.fifo = 'ROOT/keys/events.redb'", "core.events.fifo: is a file of core.events.index too"),
            ("events.fifo = 'ROOT/keys/frozen.json'", "core.events.fifo: is a file of core.freeze.file too"),
            (
                "events.index = 'ROOT/keys/collateral-floors.json'",
                "core.tcb.floors_file: is a file of core.events.index too",
            ),
            (
                "events.index = 'ROOT/x'\nadmin.htpasswd_file = 'ROOT/x'\nadmin.auth_token = 'x'",
                "core.events.index: is a file of core.admin.htpasswd_file too",
            ),
            (
                "events.index = 'ROOT/x.staged'\nadmin.htpasswd_file = 'ROOT/x'\nadmin.auth_token = 'x'",
                "core.events.index: is a file of core.admin.htpasswd_file too",
            ),
            ("events.index = 'ROOT/keys/settings.json'", "core.events.index: is a file of core.cert_dir too"),
            ("events.index = 'ROOT/keys/joins.json'", "core.events.index: is a file of core.cert_dir too"),
            (
                "events.index = 'ROOT/keys/app-epochs.json'",
                "core.events.index: is a file of core.cert_dir too",
            ),
            (
                "admin.credentials_file = 'ROOT/keys/frozen.json'",
                "core.admin.credentials_file: is a file of core.freeze.file too",
            ),
            (
                "admin.approvals_file = 'ROOT/keys/credentials.json'",
                "core.admin.approvals_file: is a file of core.admin.credentials_file too",
            ),
            ("freeze.file = 'ROOT/keys/audit.jsonl'", "core.freeze.file: is a file of core.audit.file too"),
        ] {
            let text = format!("[core]\ncert_dir = 'ROOT/keys'\n{keys}").replace("ROOT", &root);
            assert_eq!(findings(&text), [expected], "{keys}");
        }
        let fine = format!("[core]\ncert_dir = '{root}/keys'\nevents.fifo = '{root}/keys/events.fifo'");
        assert_eq!(findings(&fine), [""; 0]);
    }
}
