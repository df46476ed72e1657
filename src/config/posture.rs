//! The relaxed settings of a configuration, as stable codes for `GetMeta`, metrics and the log.

use super::{
    AuthApi, BlockChoice, Config, EmptyDevices, Endpoint, Ethereum, Relaxation, RelaxationCode, Webhook,
};

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

    /// Whether measured registers are compared with OS images.
    pub fn verifies_os_images(&self) -> bool {
        self.relaxed.iter().all(|relaxation| relaxation.code != RelaxationCode::OsImageNotVerified)
    }

    /// The codes of the relaxations.
    pub fn codes(&self) -> impl Iterator<Item = &'static str> {
        self.relaxed.iter().map(|relaxation| relaxation.code.name())
    }

    /// How far each goes: [`Relaxation::details`], or the code where there are none. Each code begins one at least.
    pub fn details(&self) -> impl Iterator<Item = &str> {
        self.relaxed.iter().flat_map(|relaxation| {
            let code = relaxation.details.is_empty().then_some(relaxation.code.name());
            code.into_iter().chain(relaxation.details.iter().map(String::as_str))
        })
    }
}

/// The relaxations that a policy can have.
struct PolicyPosture<'a> {
    allows_everything: bool,
    empty_devices: EmptyDevices,
    webhook: Option<&'a Webhook>,
    chain: Option<&'a Ethereum>,
}

impl<'a> PolicyPosture<'a> {
    fn of(config: &'a AuthApi) -> Self {
        let none = Self {
            allows_everything: false,
            empty_devices: EmptyDevices::NoDevice,
            webhook: None,
            chain: None,
        };
        match config {
            AuthApi::Dev { gateway_app_id: _ } => Self { allows_everything: true, ..none },
            AuthApi::Allowlist { path: _, empty_devices } => Self { empty_devices: *empty_devices, ..none },
            AuthApi::Bundle(bundle) => Self { empty_devices: bundle.empty_devices, ..none },
            AuthApi::Webhook(webhook) => Self { webhook: Some(webhook), ..none },
            AuthApi::Ethereum(chain) => Self { chain: Some(chain), ..none },
        }
    }
}

impl Config {
    /// What this configuration relaxes.
    pub fn posture(&self) -> Posture {
        let core = &self.core;
        let policy = PolicyPosture::of(&core.auth_api);
        let of_domains = self.domains.values().filter_map(|domain| domain.auth_api.as_ref());
        let of_domains: Vec<_> = of_domains.map(PolicyPosture::of).collect();
        let webhooks = || of_domains.iter().chain([&policy]).filter_map(|policy| policy.webhook);
        let chains = || of_domains.iter().chain([&policy]).filter_map(|policy| policy.chain);
        let relaxed = [
            (
                core.insecure_no_tee,
                RelaxationCode::NoTee,
                "no TEE protects the keys, and nothing attests this service",
            ),
            (
                policy.allows_everything,
                RelaxationCode::DevAuth,
                "every attested caller is allowed: anyone with a TDX machine can have the keys of any app",
            ),
            (
                of_domains.iter().any(|policy| policy.allows_everything),
                RelaxationCode::DomainDevAuth,
                "every attested caller is allowed in a domain: anyone with a TDX machine can have the keys of its apps",
            ),
            (
                !core.attest_rpc_cert,
                RelaxationCode::RpcCertNotAttested,
                "the server certificate carries no attestation: callers cannot check what they talk to",
            ),
            (
                !core.enforce_self_authorization,
                RelaxationCode::SelfAuthorizationOff,
                "this service serves keys without being allowed by the policy itself",
            ),
            (
                !core.image.verify,
                RelaxationCode::OsImageNotVerified,
                // The first words are the peer's.
                "os image verification is disabled; os_image_hash is caller-supplied and unverified: anyone \
                 with a TDX machine can boot an image of their own and claim an app",
            ),
            (
                of_domains
                    .iter()
                    .chain([&policy])
                    .any(|policy| policy.empty_devices == EmptyDevices::AnyDevice),
                RelaxationCode::EmptyDevicesAllowAny,
                "an empty device list in the allowlist means any device \
                 (core.auth_api.allowlist.insecure_empty_devices_allow_any)",
            ),
            (
                core.attestation.tdx_root.is_some(),
                RelaxationCode::ExternalTrustAnchors,
                "evidence is accepted under a root that is not the hardware vendor's",
            ),
            (
                core.admin.enabled && core.admin.insecure_no_auth,
                RelaxationCode::AdminWithoutCredentials,
                "the admin listener requires no credentials",
            ),
            (
                core.admin.is_exposed(),
                RelaxationCode::AdminUnencrypted,
                "the admin listener speaks plain http beyond this machine: others can read and use its credentials",
            ),
            (
                core.insecure_world_readable_keys,
                RelaxationCode::WorldReadableKeys,
                "the key directory may be readable by others on this machine",
            ),
            (
                webhooks().any(Webhook::is_exposed),
                RelaxationCode::WebhookUnencrypted,
                "the policy is called over plain http beyond this machine: an attacker in between can decide",
            ),
            (
                chains().any(|chain| chain.rpc_urls.iter().any(Endpoint::is_exposed)),
                RelaxationCode::ChainUnencrypted,
                "the chain is read over plain http beyond this machine: an attacker in between can decide",
            ),
            (
                core.admin.enabled && core.admin.oidc.as_ref().is_some_and(|oidc| oidc.issuer.is_exposed()),
                RelaxationCode::OidcPlainHttp,
                "the keys of the issuer of operators' tokens come over plain http: others can become operators",
            ),
            (
                core.notify.iter().any(|target| target.url.is_exposed()),
                RelaxationCode::NotificationsUnencrypted,
                "notifications go over plain http beyond this machine: others can read which apps get keys",
            ),
            (
                chains().any(|chain| matches!(chain.block, BlockChoice::Latest { .. })),
                RelaxationCode::ChainNotFinal,
                "policy is read from blocks that the chain may still drop: what was revoked may hold again for a while",
            ),
        ];
        let mut posture = Posture {
            relaxed: relaxed
                .into_iter()
                .filter(|(is_relaxed, ..)| *is_relaxed)
                .map(|(_, code, sentence)| Relaxation {
                    code,
                    sentence: sentence.into(),
                    details: Vec::new(),
                })
                .collect(),
        };
        if let Some(BlockChoice::Latest { confirmations }) = policy.chain.map(|chain| chain.block) {
            let code = RelaxationCode::ChainNotFinal;
            let not_final = posture.relaxed.iter_mut().filter(|relaxation| relaxation.code == code);
            not_final
                .for_each(|it| it.details = vec![format!("{}:confirmations:{confirmations}", code.name())]);
        }
        core.tcb.relaxations().into_iter().for_each(|relaxation| posture.relax(relaxation));
        posture
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(toml: &str) -> Vec<String> {
        let (config, _) = Config::from_toml(toml).expect("a valid configuration");
        config.posture().details().map(str::to_owned).collect()
    }

    #[test]
    fn everything_relaxed_is_in_the_details_and_how_far_it_goes() {
        let tcb = "[core.tcb]\nadvisories = ['INTEL-SA-00837', 'INTEL-SA-00960']\nfmspcs = ['b0c06f000000']\n\
                   [core.tcb.grace]\nOutOfDate = '60d'\nSWHardeningNeeded = '90m'";
        let quiet = "core.auth_api = { type = 'webhook', webhook.url = 'https://policy.example' }";
        let mut found = details(&format!("{quiet}\ncore.image.verify = false\n{tcb}"));
        found.sort_unstable();
        assert_eq!(
            found,
            [
                "os_image_not_verified",
                "tcb_advisory:INTEL-SA-00837",
                "tcb_advisory:INTEL-SA-00960",
                "tcb_grace:OutOfDate:60d",
                "tcb_grace:SWHardeningNeeded:90m",
                "tcb_model:b0c06f000000",
            ]
        );
        assert_eq!(details(quiet), Vec::<String>::new());
    }

    #[test]
    fn the_confirmations_are_shown_and_no_url_is() {
        let chain = "[core.auth_api]\ntype = 'ethereum'\n[core.auth_api.ethereum]\n\
                     rpc_urls = ['http://user:secret@node.example/path']\nchain_id = 1\n\
                     kms_contract = '0x1111111111111111111111111111111111111111'\nblock = 'latest'\n\
                     confirmations = 3";
        assert_eq!(details(chain), ["chain_unencrypted", "chain_not_final:confirmations:3"]);
    }
}
