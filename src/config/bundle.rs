//! `[core.auth_api.bundle]`: signed bundles in place of a file, and what contradicts them.

use std::time::Duration;

use kms_policy::settings::{Activation, Bundle, BundleSource, OnExpiry, PinnedKeys, UnattendedShadow};
use serde_json::Value;

use super::reader::{Report, Section};
use super::{EmptyDevices, OwnerRule, values};

/// Sources are not asked more often than this.
const LEAST_POLL: Duration = Duration::from_secs(10);

/// Reads the section; `None` without keys: no bundles are used.
pub(super) fn read(section: &mut Section<'_>, empty_devices: EmptyDevices) -> Option<Bundle> {
    let keys = section.required("keys", Vec::new(), texts);
    let minisign_keys = section.required("minisign_keys", Vec::new(), texts);
    let threshold = section.required("threshold", 1, number);
    let base = section.required("github_base", values::placeholder(), values::endpoint);
    let source = section.required("source", BundleSource::Operators, |value| {
        BundleSource::parse(&values::string(value)?, &base)
    });
    let poll_interval = section.required("poll_interval", LEAST_POLL, |value| {
        let interval = values::duration(&values::string(value)?)?.filter(|interval| *interval >= LEAST_POLL);
        interval.ok_or_else(|| format!("must be {}s or longer", LEAST_POLL.as_secs()))
    });
    let ca_file = section.path("ca_file");
    let activation =
        section.required("activation", Activation::Manual, |value| match values::string(value)?.as_str() {
            "automatic" => Ok(Activation::Automatic),
            "manual" => Ok(Activation::Manual),
            _ => Err("must be \"automatic\" or \"manual\"".to_owned()),
        });
    let on_expiry =
        section.required("on_expiry", OnExpiry::Deny, |value| match values::string(value)?.as_str() {
            "warn" => Ok(OnExpiry::Warn),
            "deny" => Ok(OnExpiry::Deny),
            _ => Err("must be \"warn\" or \"deny\"".to_owned()),
        });
    let warn_before_expiry = section.required("warn_before_expiry", Duration::ZERO, |value| {
        values::duration(&values::string(value)?)?.ok_or_else(|| "must be a duration, such as 7d".to_owned())
    });
    let time = section.required("shadow", None, |value| {
        let text = values::string(value)?;
        if text.is_empty() {
            return Ok(None);
        }
        let time = values::duration(&text)?.filter(|time| !time.is_zero());
        time.map(Some).ok_or_else(|| "must be a duration, such as 10m, or empty".to_owned())
    });
    let max_denied = section.required("shadow_max_denied", 0, number);
    let shadow = time.map(|time| UnattendedShadow { time, max_denied });
    let minimum_serial = section.required("minimum_serial", 0, number);
    if keys.is_empty() && minisign_keys.is_empty() {
        return None;
    }
    let [vkeys, minisign] = [&keys, &minisign_keys].map(|keys| keys.iter().map(String::as_str));
    let keys = match PinnedKeys::with_minisign(vkeys, minisign, threshold) {
        Ok(keys) => keys,
        Err(problem) => {
            let is_of_minisign =
                keys.is_empty() || PinnedKeys::new(keys.iter().map(String::as_str), 1).is_ok();
            let key = if is_of_minisign && !minisign_keys.is_empty() { "minisign_keys" } else { "keys" };
            section.find(key, &problem);
            return None;
        }
    };
    Some(Bundle {
        source,
        keys,
        poll_interval,
        ca_file,
        on_expiry,
        warn_before_expiry,
        activation,
        shadow,
        minimum_serial,
        empty_devices,
    })
}

fn texts(value: Value) -> Result<Vec<String>, String> {
    let Value::Array(list) = value else { return Err("must be a list of verifier keys".to_owned()) };
    list.into_iter().map(values::string).collect()
}

fn number(value: Value) -> Result<u64, String> {
    value.as_u64().ok_or_else(|| "must be a whole number, 0 or more".to_owned())
}

/// Refuses what would make the rule of two owners ineffective.
pub(super) fn check(bundle: &Bundle, at: &str, owners: OwnerRule, report: &mut Report) {
    if bundle.source == BundleSource::Operators {
        report.notice(
            &format!("{at}.bundle.source"),
            "is empty, so operators push bundles, which they can only when keys are served: until then everything is denied, \
             also the bootstrap. Name a source for the first one",
        );
    }
    if bundle.shadow.is_some() && bundle.activation == Activation::Manual {
        report.notice(
            &format!("{at}.bundle.shadow"),
            "has no effect with activation = \"manual\": kmsctl policy activate DIGEST --shadow tries a bundle",
        );
    }
    let is_automatic = bundle.activation == Activation::Automatic && bundle.source != BundleSource::Operators;
    if is_automatic && bundle.keys.threshold() < 2 && matches!(owners, OwnerRule::TwoOwners { .. }) {
        report.find(
            &format!("{at}.bundle.threshold"),
            "must be 2 or more with activation = \"automatic\" and core.admin.approvals = 2: one signer would \
             change the policy alone",
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{AuthApi, Config};

    const A: &str = "team/a+2a3f3a3c+AYqIRVDnIXWqT9IrXGW6Wzx4Dzp1LFwPn1tZ0E6VJp4Z";

    const MINISIGN: &str = "RWSSzPiMSUn93c/mSMRVPuITCPSlbFU3LmIW7ohaZomaS1409LyZaHfp";

    fn finding(text: &str) -> String {
        let error = Config::from_toml(text).err().unwrap_or_else(|| panic!("no finding in {text}"));
        error.to_string()
    }

    /// Two keys with the ids that belong to them.
    fn keys() -> [String; 2] {
        use kms_ledger::key::{PublicKey, VerifyingKey};
        ["team/a", "team/b"].map(|name| {
            let key = PublicKey::Ed25519([name.as_bytes()[5]; 32]);
            VerifyingKey::new(name.parse().expect("a name"), key).to_string()
        })
    }

    #[test]
    fn keys_make_the_rules_come_from_bundles() {
        let [a, b] = keys();
        let text = format!(
            "core.auth_api = {{type = 'allowlist', bundle = {{keys = ['{a}', '{b}'], threshold = 2, \
             source = 'github:team/policy@latest', on_expiry = 'deny', poll_interval = '1m'}}}}"
        );
        let (config, _) = Config::from_toml(&text).unwrap_or_else(|error| panic!("{error}"));
        let AuthApi::Bundle(bundle) = config.core.auth_api else { panic!("not a bundle") };
        assert_eq!((bundle.keys.keys().len(), bundle.keys.threshold()), (2, 2));
        assert_eq!(bundle.source.kind(), "server");
        // Keys of another kind of policy are not used, and of a file neither.
        let (config, _) = Config::from_toml("core.auth_api.type = 'allowlist'").unwrap();
        assert!(matches!(config.core.auth_api, AuthApi::Allowlist { .. }));
    }

    #[test]
    fn what_would_not_work_is_found() {
        let [a, b] = keys();
        let one = format!("keys = ['{a}']");
        for (keys, expected) in [
            (format!("keys = ['{A}']"), "the key id does not fit"),
            ("keys = 'x'".to_owned(), "must be a list of verifier keys"),
            ("minisign_keys = ['RWx']".to_owned(), "must be a public key of minisign"),
            (format!("{one}, minisign_keys = ['{MINISIGN}', '{MINISIGN}']"), "have the same key"),
            (
                format!("{one}, minisign_keys = ['{MINISIGN}'], threshold = 3"),
                "threshold must be from 1 to 2",
            ),
            (format!("{one}, threshold = 2"), "threshold must be from 1 to 1"),
            (format!("keys = ['{a}', '{b}', '{a}'], threshold = 2"), "have the same key"),
            (format!("{one}, source = 'http://policy.example/x'"), "must be an https URL"),
            (format!("{one}, poll_interval = '1s'"), "must be 10s or longer"),
            (format!("{one}, activation = 'maybe'"), "must be \"automatic\" or \"manual\""),
            (format!("{one}, shadow = 'soon'"), "must be a duration"),
            (format!("{one}, shadow = 'never'"), "must be a duration, such as 10m, or empty"),
            (format!("{one}, shadow_max_denied = -1"), "must be a whole number"),
            (format!("{one}, on_expiry = 'ignore'"), "must be \"warn\" or \"deny\""),
            (format!("{one}, sorce = ''"), "did you mean `source`?"),
        ] {
            let found = finding(&format!("core.auth_api = {{type = 'allowlist', bundle = {{{keys}}}}}"));
            assert!(found.contains(expected), "{expected} is not in {found}");
        }
        let two = "core.admin = {enabled = true, auth_token = 'x', approvals = 2}\n";
        let of = |keys: &str| format!("{two}core.auth_api = {{type = 'allowlist', bundle = {{{keys}}}}}");
        assert!(
            finding(&of(&format!("{one}, source = '/b'")))
                .contains("one signer would change the policy alone")
        );
        for fine in [
            one.clone(),
            format!("{one}, source = '/b', activation = 'manual'"),
            format!("minisign_keys = ['{MINISIGN}']"),
            format!("{one}, minisign_keys = ['{MINISIGN}'], threshold = 2, source = '/b'"),
            format!("keys = ['{a}', '{b}'], threshold = 2, source = '/b'"),
        ] {
            assert!(Config::from_toml(&of(&fine)).is_ok(), "{fine}");
        }
    }
}
