//! The methods of the API as plain async functions, the table of who may call what, and the caller.

pub mod admin;
mod env_keys;
pub mod events;
mod images;
pub mod kms;
pub mod lockout;
pub mod meta;
pub mod onboard;
pub mod prepared;
pub mod quota;
pub mod readiness;
mod receipt;
mod refusal;
pub mod routes;
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
    /// Who may ask for it by GET.
    pub by_get: ByGet,
}

// From `proto/kms.proto`: adding a method there, with its options, adds it to dispatch, limits, metrics and the tests' table.
include!(concat!(env!("OUT_DIR"), "/methods.rs"));

impl Method {
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
    fn a_candidate_for_the_policy_fits_into_its_request() {
        assert_eq!(Method::StartShadow.row().body_limit, crate::policy::MAX_CANDIDATE);
    }

    #[test]
    fn callers_without_attestation_cannot_send_large_bodies() {
        for row in METHODS.iter().filter(|row| row.access == Access::Open) {
            assert!(row.body_limit <= 64 * 1024, "{row:?}");
        }
    }
}
