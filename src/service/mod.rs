//! The methods of the API as plain async functions, the table of who may call what, and the caller.

pub mod admin;
mod env_keys;
pub mod kms;
pub mod lockout;
pub mod meta;
pub mod onboard;
pub mod prepared;
pub mod quota;
pub mod readiness;
mod refusal;
pub mod setup;
pub mod wrong_credentials;

use std::{net::IpAddr, sync::Arc};

use crate::{
    admission::{Author, Peer},
    metrics::Kind,
    operator::Operator,
};

/// Who is asking: an address, what the TLS layer knows of the peer, and the operator whose credentials were shown.
#[derive(Clone, Debug)]
pub struct Caller {
    remote: IpAddr,
    peer: Arc<Peer>,
    operator: Option<Arc<Operator>>,
}

impl Caller {
    /// A caller on a connection from `remote`.
    pub fn new(remote: IpAddr, peer: Arc<Peer>) -> Self {
        Self { remote, peer, operator: None }
    }

    /// The address that the connection comes from.
    pub fn remote(&self) -> IpAddr {
        self.remote
    }

    /// The same caller, whose credentials were looked at.
    pub fn identified(self, operator: Operator) -> Self {
        Self { operator: Some(Arc::new(operator)), ..self }
    }

    /// The operator whose credentials were shown, if they were asked for: `token`, `user <name>` or `anyone`.
    pub fn operator(&self) -> Option<String> {
        self.operator.as_ref().map(ToString::to_string)
    }

    /// Who answers for what this caller changes.
    pub fn author(&self) -> Author {
        let by = self.operator.as_ref().map_or_else(|| "anyone".to_owned(), ToString::to_string);
        Author { by, remote: self.remote }
    }

    /// What the TLS layer knows, with the evidence that was verified on this connection.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

/// The services of the proto file, each with the phase and the listener that serves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Main listener, once keys exist.
    Kms,
    /// Main listener, until keys exist.
    Onboard,
    /// Admin listener, once keys exist.
    Admin,
}

impl Service {
    /// Its name in the proto file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kms => "KMS",
            Self::Onboard => "Onboard",
            Self::Admin => "Admin",
        }
    }
}

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Anyone who can connect.
    Open,
    /// Anyone, or holders of the onboarding token where one is configured.
    Onboarding,
    /// Callers whose client certificate carries an attestation that verifies and that policy allows.
    AttestedCertificate,
    /// Anyone whose message carries an attestation that verifies and that policy allows.
    AttestedMessage,
    /// Anyone whose message carries the operator's token.
    TokenInMessage,
    /// Operators: the listener has authenticated the request.
    Operator,
    /// Operators, for a caller whose client certificate carries an attestation that verifies and that policy allows.
    OperatorAndAttestedCertificate,
}

impl Access {
    /// Whether the peer's counters of attestation requests count it.
    pub fn counted_as(self) -> Kind {
        match self {
            Self::AttestedCertificate | Self::AttestedMessage | Self::OperatorAndAttestedCertificate => {
                Kind::Attestation
            }
            Self::Open | Self::Onboarding | Self::TokenInMessage | Self::Operator => Kind::Other,
        }
    }
}

/// One method of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// `KMS.GetAppKey`
    GetAppKey,
    /// `KMS.GetKmsKey`
    GetKmsKey,
    /// `KMS.GetAppEnvEncryptPubKey`
    GetAppEnvEncryptPubKey,
    /// `KMS.GetMeta`
    GetMeta,
    /// `KMS.GetTempCaCert`
    GetTempCaCert,
    /// `KMS.SignCert`
    SignCert,
    /// `KMS.ClearImageCache`, with the token in the message
    LegacyClearImageCache,
    /// `Onboard.Bootstrap`
    Bootstrap,
    /// `Onboard.Onboard`
    Onboard,
    /// `Onboard.GetAttestationInfo`
    GetAttestationInfo,
    /// `Onboard.Finish`
    Finish,
    /// `Admin.ClearImageCache`
    ClearImageCache,
    /// `Admin.GetKmsKey`
    AdminGetKmsKey,
    /// `Admin.Explain`
    Explain,
    /// `Admin.ListDenials`
    ListDenials,
    /// `Admin.Freeze`
    Freeze,
    /// `Admin.Unfreeze`
    Unfreeze,
    /// `Admin.ListFrozen`
    ListFrozen,
    /// `Admin.StartShadow`
    StartShadow,
    /// `Admin.ShadowReport`
    ShadowReport,
    /// `Admin.StopShadow`
    StopShadow,
    /// `Admin.RefreshCollateral`
    RefreshCollateral,
    /// `Admin.RecentReleases`
    RecentReleases,
    /// `Admin.LowerClockFloor`
    LowerClockFloor,
}

/// Who may ask for a method by GET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByGet {
    /// It changes nothing, or, as `Finish`, nothing that was not decided before.
    Anyone,
    /// It has always been served by GET, and scripts rely on it. Browsers, which follow links, have to POST.
    Programs,
    /// It changes something.
    Nobody,
}

/// What is fixed about a method: the row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The method.
    pub method: Method,
    /// The service it belongs to, hence phase and listener.
    pub service: Service,
    /// Its name in the proto file.
    pub name: &'static str,
    /// Who may call it.
    pub access: Access,
    /// The largest request body in bytes.
    pub body_limit: usize,
}

const KIB: usize = 1024;

/// A request that carries a VM configuration with OS image documents.
const WITH_VM_CONFIG: usize = 256 * KIB;
/// A certificate request carries unstripped evidence: some 50 KiB, twice that in JSON.
const WITH_EVIDENCE: usize = 1024 * KIB;
/// A request of a few short fields.
const SHORT: usize = 16 * KIB;
/// A candidate for the policy.
const WITH_ALLOWLIST: usize = crate::policy::LARGEST_CANDIDATE;

/// Every method there is. Dispatch, limits, metrics and `tests/it/access_table.rs` read it.
pub const METHODS: [Row; 24] = {
    use Access::*;
    use Method::*;
    const fn row(
        service: Service,
        name: &'static str,
        method: Method,
        access: Access,
        body_limit: usize,
    ) -> Row {
        Row { method, service, name, access, body_limit }
    }
    [
        row(Service::Kms, "GetAppKey", GetAppKey, AttestedCertificate, WITH_VM_CONFIG),
        row(Service::Kms, "GetKmsKey", GetKmsKey, AttestedCertificate, WITH_VM_CONFIG),
        row(Service::Kms, "GetAppEnvEncryptPubKey", GetAppEnvEncryptPubKey, Open, SHORT),
        row(Service::Kms, "GetMeta", GetMeta, Open, SHORT),
        row(Service::Kms, "GetTempCaCert", GetTempCaCert, Open, SHORT),
        row(Service::Kms, "SignCert", SignCert, AttestedMessage, WITH_EVIDENCE),
        row(Service::Kms, "ClearImageCache", LegacyClearImageCache, TokenInMessage, SHORT),
        row(Service::Onboard, "Bootstrap", Bootstrap, Onboarding, SHORT),
        row(Service::Onboard, "Onboard", Method::Onboard, Onboarding, SHORT),
        row(Service::Onboard, "GetAttestationInfo", GetAttestationInfo, Open, SHORT),
        row(Service::Onboard, "Finish", Finish, Onboarding, SHORT),
        row(Service::Admin, "ClearImageCache", ClearImageCache, Operator, SHORT),
        row(Service::Admin, "GetKmsKey", AdminGetKmsKey, OperatorAndAttestedCertificate, WITH_VM_CONFIG),
        row(Service::Admin, "Explain", Explain, Operator, WITH_EVIDENCE),
        row(Service::Admin, "ListDenials", ListDenials, Operator, SHORT),
        row(Service::Admin, "Freeze", Freeze, Operator, SHORT),
        row(Service::Admin, "Unfreeze", Unfreeze, Operator, SHORT),
        row(Service::Admin, "ListFrozen", ListFrozen, Operator, SHORT),
        row(Service::Admin, "StartShadow", StartShadow, Operator, WITH_ALLOWLIST),
        row(Service::Admin, "ShadowReport", ShadowReport, Operator, SHORT),
        row(Service::Admin, "StopShadow", StopShadow, Operator, SHORT),
        row(Service::Admin, "RefreshCollateral", RefreshCollateral, Operator, SHORT),
        row(Service::Admin, "RecentReleases", RecentReleases, Operator, SHORT),
        row(Service::Admin, "LowerClockFloor", LowerClockFloor, Operator, SHORT),
    ]
};

impl Method {
    /// Who may ask for it by GET: what a browser does for a link, no operator must find done.
    pub fn by_get(self) -> ByGet {
        match self {
            Self::Freeze
            | Self::Unfreeze
            | Self::StartShadow
            | Self::StopShadow
            | Self::RefreshCollateral
            | Self::LowerClockFloor => ByGet::Nobody,
            Self::Bootstrap | Self::Onboard | Self::ClearImageCache | Self::AdminGetKmsKey => ByGet::Programs,
            Self::GetAppKey
            | Self::GetKmsKey
            | Self::GetAppEnvEncryptPubKey
            | Self::GetMeta
            | Self::GetTempCaCert
            | Self::SignCert
            | Self::LegacyClearImageCache
            | Self::GetAttestationInfo
            | Self::Finish
            | Self::Explain
            | Self::ListDenials
            | Self::ListFrozen
            | Self::ShadowReport
            | Self::RecentReleases => ByGet::Anyone,
        }
    }

    /// The method `name` of `service`; names are case sensitive.
    pub fn find(service: Service, name: &str) -> Option<&'static Row> {
        METHODS.iter().find(|row| row.service == service && row.name == name)
    }

    /// Its row in the table.
    pub fn row(self) -> &'static Row {
        METHODS.iter().find(|row| row.method == self).expect("the table lists every method")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_case_sensitive_and_bound_to_their_service() {
        assert!(Method::find(Service::Kms, "GetMeta").is_some());
        assert!(Method::find(Service::Kms, "getmeta").is_none());
        assert!(Method::find(Service::Onboard, "GetMeta").is_none());
    }

    #[test]
    fn every_method_has_exactly_one_row() {
        for row in &METHODS {
            assert_eq!(METHODS.iter().filter(|other| other.method == row.method).count(), 1, "{row:?}");
            assert_eq!(row.method.row(), row);
        }
    }

    #[test]
    fn callers_without_attestation_cannot_send_large_bodies() {
        for row in METHODS.iter().filter(|row| row.access == Access::Open) {
            assert!(row.body_limit <= 64 * KIB, "{row:?}");
        }
    }
}
