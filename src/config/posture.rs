//! What the configuration relaxes, as stable codes for `GetMeta`, metrics and the log.

use std::borrow::Cow;

use super::{AuthApi, BlockChoice, Config, Endpoint};

/// One relaxed setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relaxation {
    /// Stable, for machines: `dev_auth`.
    pub code: &'static str,
    /// One sentence for people: what is given up.
    pub sentence: Cow<'static, str>,
}

/// Everything that is relaxed, in a stable order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Posture {
    relaxed: Vec<Relaxation>,
}

impl Posture {
    /// Adds a relaxation that the configuration alone does not show, such as one of the policy's.
    pub fn relax(&mut self, relaxation: Relaxation) {
        if !self.relaxed.iter().any(|known| known.code == relaxation.code) {
            self.relaxed.push(relaxation);
        }
    }

    /// The relaxations.
    pub fn relaxed(&self) -> &[Relaxation] {
        &self.relaxed
    }

    /// The codes of the relaxations.
    pub fn codes(&self) -> impl Iterator<Item = &'static str> {
        self.relaxed.iter().map(|relaxation| relaxation.code)
    }
}

impl Config {
    /// What this configuration relaxes.
    pub fn posture(&self) -> Posture {
        let core = &self.core;
        let exposed_webhook = matches!(&core.auth_api, AuthApi::Webhook(webhook) if webhook.is_exposed());
        let chain = match &core.auth_api {
            AuthApi::Ethereum(chain) => Some(chain),
            _ => None,
        };
        let relaxed = [
            (core.insecure_no_tee, "no_tee", "no TEE protects the keys, and nothing attests this service"),
            (
                matches!(core.auth_api, AuthApi::Dev { .. }),
                "dev_auth",
                "every attested caller is allowed: anyone with a TDX machine can have the keys of any app",
            ),
            (
                !core.attest_rpc_cert,
                "rpc_cert_not_attested",
                "the server certificate carries no attestation: callers cannot check what they talk to",
            ),
            (
                !core.enforce_self_authorization,
                "self_authorization_off",
                "this service serves keys without being allowed by the policy itself",
            ),
            (
                !core.image.verify,
                "os_image_not_verified",
                "apps are not held to a measured OS image: anyone with a TDX machine can boot an image of their own and claim an app",
            ),
            (
                core.attestation.tdx_root.is_some(),
                "external_trust_anchors",
                "evidence is accepted under a root that is not the hardware vendor's",
            ),
            (
                core.admin.enabled && core.admin.insecure_no_auth,
                "admin_without_credentials",
                "the admin listener asks for no credentials",
            ),
            (
                core.insecure_world_readable_keys,
                "world_readable_keys",
                "the key directory may be readable by others on this machine",
            ),
            (
                exposed_webhook,
                "webhook_unencrypted",
                "the policy is asked over plain http beyond this machine: whoever is in between decides",
            ),
            (
                chain.is_some_and(|chain| chain.rpc_urls.iter().any(Endpoint::is_exposed)),
                "chain_unencrypted",
                "the chain is read over plain http beyond this machine: whoever is in between decides",
            ),
            (
                chain.is_some_and(|chain| matches!(chain.block, BlockChoice::Latest { .. })),
                "chain_not_final",
                "policy is read from blocks that the chain may still drop: what was revoked may hold again for a while",
            ),
        ];
        let mut posture = Posture {
            relaxed: relaxed
                .into_iter()
                .filter(|(is_relaxed, ..)| *is_relaxed)
                .map(|(_, code, sentence)| Relaxation { code, sentence: sentence.into() })
                .collect(),
        };
        core.tcb.relaxations().into_iter().for_each(|relaxation| posture.relax(relaxation));
        posture
    }
}
