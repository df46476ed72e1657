//! Checks across keys: settings that contradict each other.

use super::reader::Report;
use super::{Admin, AuthApi, Config, OwnerRule, PublicHandover, Rpc, bundle, webhook};

pub(super) fn check(config: &Config, report: &mut Report) {
    let core = &config.core;
    if core.cert_dir.as_os_str().is_empty() {
        report.find("core.cert_dir", "must name a directory");
    }
    if core.insecure_no_tee {
        for (is_on, key) in [
            (core.attest_rpc_cert, "core.attest_rpc_cert"),
            (core.enforce_self_authorization, "core.enforce_self_authorization"),
        ] {
            if is_on {
                report.find(
                    key,
                    "must be false with core.insecure_no_tee = true: nothing could attest this service",
                );
            }
        }
    }
    policy(&core.auth_api, "core.auth_api", core.admin.approvals, report);
    super::domains::check(config, report);
    super::tcb::check(&core.tcb, report);
    super::paths::check(config, report);
    if core.onboard.public_handover == PublicHandover::Disabled {
        let key = "core.onboard.public_key_handover";
        if !core.admin.enabled || core.admin.tls.is_none() {
            let why = "false: no replica can get the root keys, because there is no admin listener with core.admin.tls";
            report.notice(key, why);
        } else if core.admin.insecure_no_auth {
            report.notice(
                key,
                "false, but core.admin.insecure_no_auth hands root keys over without credentials",
            );
        }
    }
    if core.admin.enabled {
        admin(&core.admin, &config.rpc, &core.auth_api, report);
    } else if core.admin.auth_token.is_some() || core.admin.htpasswd_file.is_some() {
        report.notice(
            "core.admin.enabled",
            "false: credentials are configured, but there is no admin listener",
        );
    }
}

/// Checks a policy that the section `at` configures.
pub(super) fn policy(auth_api: &AuthApi, at: &str, owners: OwnerRule, report: &mut Report) {
    match auth_api {
        AuthApi::Allowlist { path, .. } if path.as_os_str().is_empty() => {
            report.find(&format!("{at}.allowlist.path"), "must name a file");
        }
        AuthApi::Webhook(webhook) => webhook::check(webhook, at, report),
        AuthApi::Bundle(bundle) => bundle::check(bundle, at, owners, report),
        AuthApi::Allowlist { .. } | AuthApi::Ethereum(_) | AuthApi::Dev { .. } => {}
    }
}

fn admin(admin: &Admin, rpc: &Rpc, auth_api: &AuthApi, report: &mut Report) {
    if admin.insecure_no_auth && matches!(admin.approvals, OwnerRule::TwoOwners { .. }) {
        let why = "2 needs credentials, so core.admin.insecure_no_auth must be false: without them, everybody is one person";
        report.find("core.admin.approvals", why);
    }
    if admin.insecure_no_auth && admin.oidc.is_some() {
        report.find("core.admin.oidc.issuer", "must be empty with core.admin.insecure_no_auth = true");
    }
    let same_address =
        admin.address == rpc.address || admin.address.is_unspecified() || rpc.address.is_unspecified();
    if admin.is_exposed() && !admin.insecure_plain_http {
        report.find(
            "core.admin.address",
            format!(
                "{} is not this machine, and without core.admin.tls the listener speaks plain HTTP, so that others can read \
                 credentials: name files in core.admin.tls, with create_if_missing = true; or set it to \"127.0.0.1\"; or \
                 core.admin.insecure_plain_http = true",
                admin.address
            ),
        );
    }
    if admin.port != 0 && admin.port == rpc.port && same_address {
        report.find("core.admin.port", format!("{} is the port of the main listener too", admin.port));
    }
    match auth_api {
        AuthApi::Webhook(webhook)
            if webhook.url.is_loopback() && webhook.url.url().port_or_known_default() == Some(admin.port) =>
        {
            report.find(
                "core.admin.port",
                format!(
                    "{} is the port of core.auth_api.webhook.url too: the policy would be this service",
                    admin.port
                ),
            );
        }
        AuthApi::Webhook(_)
        | AuthApi::Allowlist { .. }
        | AuthApi::Bundle(_)
        | AuthApi::Ethereum(_)
        | AuthApi::Dev { .. } => {}
    }
}
