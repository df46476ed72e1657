//! `[core.auth_api.webhook]`: the URL of the service that decides, and how both sides authenticate.

use std::time::Duration;

use serde_json::Value;

use super::listeners;
use super::reader::{Report, Section};
use super::sections::Environment;
use super::{ClientFiles, DecisionKey, Webhook, values};

/// The default of the peer, and the longest here: guests wait a minute for their keys.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) fn read(section: &mut Section<'_>, environment: Environment<'_>) -> Webhook {
    let url = section
        .required("url", None, |value| values::endpoint(value).map(Some))
        .unwrap_or_else(values::placeholder);
    let bearer_token = listeners::token(section, "bearer_token", &["KMS_WEBHOOK_TOKEN"], environment);
    if bearer_token.as_ref().is_some_and(|token| !token.expose().bytes().all(|byte| byte.is_ascii_graphic()))
    {
        section.find("bearer_token", "must be printable ASCII without spaces, here or in KMS_WEBHOOK_TOKEN");
    }
    let ca_file = section.path("ca_file");
    let client = match (section.path("client_cert_file"), section.path("client_key_file")) {
        (Some(certificate), Some(key)) => Some(ClientFiles { certificate, key }),
        (None, None) => None,
        (Some(_), None) => {
            section.find("client_key_file", "must name the key that belongs to client_cert_file");
            None
        }
        (None, Some(_)) => {
            section.find("client_cert_file", "must name the certificate that belongs to client_key_file");
            None
        }
    };
    let decision_key = section.required("decision_key", None, |value: Value| {
        values::non_empty(values::string(value)?).map(|text| DecisionKey::parse(&text)).transpose()
    });
    let timeout = section.required("timeout", Webhook::DEFAULT_TIMEOUT, |value| {
        let timeout = values::duration(&values::string(value)?)?;
        let timeout = timeout.filter(|timeout| !timeout.is_zero() && *timeout <= MAX_TIMEOUT);
        timeout.ok_or_else(|| format!("must be from 1s to {}s", MAX_TIMEOUT.as_secs()))
    });
    Webhook { url, bearer_token, ca_file, client, decision_key, timeout }
}

/// Refuses combinations that would not have the effect that they suggest.
pub(super) fn check(webhook: &Webhook, at: &str, report: &mut Report) {
    if webhook.url.url().scheme() == "http" {
        for (is_set, key) in
            [(webhook.ca_file.is_some(), "ca_file"), (webhook.client.is_some(), "client_cert_file")]
        {
            if is_set {
                report.find(
                    &format!("{at}.webhook.{key}"),
                    format!(
                        "needs an https URL in {at}.webhook.url: over plain http nobody shows a certificate"
                    ),
                );
            }
        }
    }
    if webhook.bearer_token.is_some() && webhook.url.is_exposed() {
        report.notice(
            &format!("{at}.webhook.bearer_token"),
            "goes over plain http beyond this machine: an attacker in between can read and use it",
        );
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{AuthApi, Config, Notice};

    const HEX: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn webhook(text: &str) -> (Box<Webhook>, Vec<Notice>) {
        let (config, notices) = Config::from_toml(text).unwrap_or_else(|error| panic!("{error}"));
        let AuthApi::Webhook(webhook) = config.core.auth_api else { panic!("a webhook") };
        (webhook, notices)
    }

    fn finding(text: &str) -> String {
        let error = Config::from_toml(text).err().unwrap_or_else(|| panic!("no finding in {text}"));
        error.to_string()
    }

    #[test]
    fn everything_is_off_by_default() {
        let (webhook, _) = webhook("");
        assert!(webhook.bearer_token.is_none() && webhook.ca_file.is_none() && webhook.client.is_none());
        assert_eq!((webhook.decision_key, webhook.timeout), (None, Webhook::DEFAULT_TIMEOUT));
    }

    #[test]
    fn a_time_out_is_from_a_second_to_a_minute() {
        for (text, expected) in [("1s", 1), ("2s", 2), ("60s", 60), ("1m", 60)] {
            let (webhook, _) = webhook(&format!("core.auth_api.webhook.timeout = '{text}'"));
            assert_eq!(webhook.timeout, Duration::from_secs(expected), "{text}");
        }
        for text in ["0s", "61s", "1h", "never", "", "2"] {
            let found = finding(&format!("core.auth_api.webhook.timeout = '{text}'"));
            assert!(found.contains("core.auth_api.webhook.timeout: must be "), "{text}: {found}");
        }
    }

    #[test]
    fn keys_are_read() {
        let text = format!(
            "core.auth_api.webhook = {{url = 'https://auth', bearer_token = ' hush ', ca_file = '/ca.pem', \
             client_cert_file = '/c.pem', client_key_file = '/k.pem', decision_key = '{HEX}'}}"
        );
        let (webhook, notices) = webhook(&text);
        assert_eq!(notices, []);
        assert_eq!(webhook.bearer_token.unwrap().expose(), "hush");
        assert_eq!(webhook.ca_file.unwrap(), PathBuf::from("/ca.pem"));
        assert_eq!(webhook.client, Some(ClientFiles { certificate: "/c.pem".into(), key: "/k.pem".into() }));
        assert_eq!(webhook.decision_key.unwrap().to_string(), HEX);
    }

    #[test]
    fn what_would_not_work_is_found() {
        for (keys, expected) in [
            (
                "url = 'https://auth', client_cert_file = '/c.pem'",
                "webhook.client_key_file: must name the key",
            ),
            (
                "url = 'https://auth', client_key_file = '/k.pem'",
                "webhook.client_cert_file: must name the cert",
            ),
            ("url = 'http://auth', ca_file = '/ca.pem'", "webhook.ca_file: needs an https URL"),
            (
                "url = 'http://127.0.0.1', client_cert_file = '/c', client_key_file = '/k'",
                "webhook.client_cert_file: needs an https URL",
            ),
            ("url = 'https://auth', bearer_token = 'hu sh'", "webhook.bearer_token: must be printable ASCII"),
            (
                "url = 'https://auth', bearer_token = \"hush\\u0007\"",
                "webhook.bearer_token: must be printable",
            ),
            (
                "url = 'https://auth', decision_key = 'abc'",
                "webhook.decision_key: must be an Ed25519 public key",
            ),
            ("url = 'https://auth', bearer_tokn = 'x'", "did you mean `bearer_token`?"),
        ] {
            let found = finding(&format!("core.auth_api.webhook = {{{keys}}}"));
            assert!(found.contains(expected), "{expected} is not in {found}");
            assert!(!found.contains("hu sh"), "{found}");
        }
    }

    #[test]
    fn a_token_over_plain_http_is_noticed_where_it_leaves_the_machine() {
        for (url, expected) in [
            ("http://auth:8000", true),
            ("http://10.0.2.2:8001", true),
            ("http://127.0.0.1:8001", false),
            ("http://localhost:8001", false),
            ("https://auth:8000", false),
        ] {
            let (_, notices) =
                webhook(&format!("core.auth_api.webhook = {{url = '{url}', bearer_token = 'x'}}"));
            assert_eq!(notices.iter().any(|notice| notice.key.ends_with("bearer_token")), expected, "{url}");
        }
    }

    #[test]
    fn signed_decisions_make_plain_http_no_relaxation() {
        let codes = |text: &str| -> Vec<_> { Config::from_toml(text).unwrap().0.posture().codes().collect() };
        assert_eq!(codes("core.auth_api.webhook.url = 'http://auth'"), ["webhook_unencrypted"]);
        let signed = format!("core.auth_api.webhook = {{url = 'http://auth', decision_key = '{HEX}'}}");
        assert_eq!(codes(&signed), [""; 0]);
    }
}
