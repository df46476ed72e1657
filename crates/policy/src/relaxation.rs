//! A relaxed setting: a stable code and a sentence.

use std::borrow::Cow;

/// One relaxed setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relaxation {
    /// Which setting it is.
    pub code: RelaxationCode,
    /// One sentence for people: which protection is missing.
    pub sentence: Cow<'static, str>,
    /// One entry for each relaxed item: `tcb_grace:OutOfDate:60d`. It is public, so it contains no URL and no
    /// path. Empty if the code is enough.
    pub details: Vec<String>,
}

/// A setting that can be relaxed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RelaxationCode {
    /// No TEE protects the keys.
    NoTee,
    /// The policy allows every attested caller.
    DevAuth,
    /// The policy of a domain does.
    DomainDevAuth,
    /// The server certificate carries no attestation.
    RpcCertNotAttested,
    /// The KMS serves without being allowed by the policy itself.
    SelfAuthorizationOff,
    /// Measured registers are not compared with OS images.
    OsImageNotVerified,
    /// An empty device list of the allowlist means any device.
    EmptyDevicesAllowAny,
    /// The allowlist has such a list.
    EmptyDeviceList,
    /// Evidence is accepted under a root that is not the vendor's.
    ExternalTrustAnchors,
    /// The admin listener requires no credentials.
    AdminWithoutCredentials,
    /// The admin listener speaks plain HTTP beyond this machine.
    AdminUnencrypted,
    /// The key directory may be readable by others.
    WorldReadableKeys,
    /// The webhook is called over plain HTTP beyond this machine.
    WebhookUnencrypted,
    /// The chain is.
    ChainUnencrypted,
    /// The issuer of operators' tokens is.
    OidcPlainHttp,
    /// Targets of notifications are.
    NotificationsUnencrypted,
    /// The policy is read from blocks that the chain may drop.
    ChainNotFinal,
    /// TCB statuses are tolerated for a time.
    TcbGrace,
    /// Advisories are tolerated.
    TcbAdvisories,
    /// Platform models are tolerated.
    TcbModels,
}

/// A key of the configuration that relaxes a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelaxedKey {
    /// Its name: `core.insecure_no_tee`.
    pub key: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

impl RelaxationCode {
    /// The stable code for programs: `dev_auth`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoTee => "no_tee",
            Self::DevAuth => "dev_auth",
            Self::DomainDevAuth => "domain_dev_auth",
            Self::RpcCertNotAttested => "rpc_cert_not_attested",
            Self::SelfAuthorizationOff => "self_authorization_off",
            Self::OsImageNotVerified => "os_image_not_verified",
            Self::EmptyDevicesAllowAny => "empty_devices_allow_any",
            Self::EmptyDeviceList => "empty_device_list",
            Self::ExternalTrustAnchors => "external_trust_anchors",
            Self::AdminWithoutCredentials => "admin_without_credentials",
            Self::AdminUnencrypted => "admin_unencrypted",
            Self::WorldReadableKeys => "world_readable_keys",
            Self::WebhookUnencrypted => "webhook_unencrypted",
            Self::ChainUnencrypted => "chain_unencrypted",
            Self::OidcPlainHttp => "oidc_plain_http",
            Self::NotificationsUnencrypted => "notifications_unencrypted",
            Self::ChainNotFinal => "chain_not_final",
            Self::TcbGrace => "tcb_grace",
            Self::TcbAdvisories => "tcb_advisories",
            Self::TcbModels => "tcb_models",
        }
    }

    /// The key that relaxes it, and what to do about that. `None` where no key does by itself: each URL with plain HTTP is
    /// found by itself, and a list of devices is an entry of the allowlist.
    pub fn relaxed_key(self) -> Option<RelaxedKey> {
        const TO_TRUE: &str = "Set it to true";
        const REMOVE: &str = "Remove it: the default is safe";
        const UPDATE: &str = "Update the platforms, and remove it";
        let (key, remedy) = match self {
            Self::NoTee => ("core.insecure_no_tee", "Run it in a confidential VM, and remove the key"),
            Self::DevAuth => ("core.auth_api.type", "Set it to \"allowlist\", \"webhook\" or \"ethereum\""),
            Self::DomainDevAuth => {
                ("domains", "Set auth_api.type of each domain to \"allowlist\", \"webhook\" or \"ethereum\"")
            }
            Self::RpcCertNotAttested => ("core.attest_rpc_cert", TO_TRUE),
            Self::SelfAuthorizationOff => ("core.enforce_self_authorization", TO_TRUE),
            Self::OsImageNotVerified => ("core.image.verify", TO_TRUE),
            Self::EmptyDevicesAllowAny => {
                ("core.auth_api.allowlist.insecure_empty_devices_allow_any", REMOVE)
            }
            Self::ExternalTrustAnchors => {
                ("core.attestation.root_ca.tdx", "Remove it: the vendor's root is built in")
            }
            Self::AdminWithoutCredentials => (
                "core.admin.insecure_no_auth",
                "Remove it: without other credentials the first start creates an owner and prints its token once",
            ),
            Self::AdminUnencrypted => (
                "core.admin.address",
                "Name files in core.admin.tls, with create_if_missing = true, or set it to \"127.0.0.1\"",
            ),
            Self::WorldReadableKeys => ("core.insecure_world_readable_keys", REMOVE),
            Self::OidcPlainHttp => ("core.admin.oidc.issuer", "Set it to the issuer's https URL"),
            Self::ChainNotFinal => ("core.auth_api.ethereum.block", "Set it to \"finalized\" or \"safe\""),
            Self::TcbGrace => ("core.tcb.grace", UPDATE),
            Self::TcbAdvisories => ("core.tcb.advisories", UPDATE),
            Self::TcbModels => ("core.tcb.fmspcs", UPDATE),
            Self::EmptyDeviceList
            | Self::WebhookUnencrypted
            | Self::ChainUnencrypted
            | Self::NotificationsUnencrypted => return None,
        };
        Some(RelaxedKey { key, remedy })
    }
}
