//! The table of methods, generated from `proto/kms.proto`: service, access, and body limit of each.

use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::role::Role;

/// How the text of a refusal begins whose server has no such method. The words are those of `dstack-kms`, which in some versions
/// gives no status of their own to such refusals.
pub const UNKNOWN_METHOD: &str = "Service not found";

/// The services of the proto file; each belongs to a phase and a listener.
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
    /// Anyone, or holders of the onboarding token if one is configured.
    Onboarding,
    /// Callers with an attestation in the client certificate that verifies and that policy allows.
    AttestedCertificate,
    /// Callers with an attestation in the message that verifies and that policy allows.
    AttestedMessage,
    /// Callers with the operator's token in the message.
    TokenInMessage,
    /// Operators whose credential has this role or includes it: the listener has authenticated the request.
    Operator(Role),
    /// Operators, for a caller whose client certificate carries an attestation that verifies and that policy allows.
    OperatorAndAttestedCertificate(Role),
    /// Holders of an invitation that was not used yet. Only routes have it.
    Invitation,
}

impl Access {
    /// Whether callers bring evidence, which the policy must allow: for keys or a certificate.
    pub fn takes_evidence(self) -> bool {
        match self {
            Self::AttestedCertificate | Self::AttestedMessage | Self::OperatorAndAttestedCertificate(_) => {
                true
            }
            Self::Open | Self::Onboarding | Self::TokenInMessage | Self::Operator(_) | Self::Invitation => {
                false
            }
        }
    }

    /// The role that an operator needs; `None` where no operator is asked for.
    pub fn role(self) -> Option<Role> {
        match self {
            Self::Operator(role) | Self::OperatorAndAttestedCertificate(role) => Some(role),
            Self::Open
            | Self::Onboarding
            | Self::AttestedCertificate
            | Self::AttestedMessage
            | Self::TokenInMessage
            | Self::Invitation => None,
        }
    }
}

/// Whether credentials that are limited to a domain may use a method or a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// They may not: it is about the whole KMS.
    WholeKms,
    /// They may: it shows and changes what is in their domain only.
    Domain,
}

/// What operators and owners with a named credential may do with a method or a route while a node does not know what was changed
/// on the other nodes of its fleet: their credential may have been revoked there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhileStale {
    /// Nothing: it changes something, or gives away what they may not have any more.
    Nothing,
    /// Read, by GET.
    Reads,
    /// All of it: it changes nothing, or only stops something.
    All,
}

/// Who may call a method by GET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByGet {
    /// It changes nothing, or, like `Finish`, nothing that was not already decided.
    Anyone,
    /// Scripts rely on GET for it. Browsers, which follow links, must use POST.
    Programs,
    /// It changes something.
    Nobody,
}

/// The properties of a method: its row in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The method.
    pub method: Method,
    /// The service it belongs to, which decides its phase and listener.
    pub service: Service,
    /// Its name in the proto file.
    pub name: &'static str,
    /// Who may call it.
    pub access: Access,
    /// Whether credentials of one domain may.
    pub reach: Reach,
    /// Whether named credentials may while the node is stale.
    pub while_stale: WhileStale,
    /// The largest request body in bytes.
    pub body_limit: usize,
    /// Who may call it by GET.
    pub by_get: ByGet,
}

// From `proto/kms.proto`: a method added there, with its options, is added to dispatch, limits, metrics and
// the tests' table.
include!(concat!(env!("OUT_DIR"), "/methods.rs"));
include!(concat!(env!("OUT_DIR"), "/method_names.rs"));
include!(concat!(env!("OUT_DIR"), "/method_requests.rs"));

/// What is done with the type of a method's request, for code that treats all methods alike.
pub trait RequestVisitor {
    /// What comes of it.
    type Output;

    /// The request is this message.
    fn message<M: Message + Default + Serialize + DeserializeOwned + 'static>(self) -> Self::Output;

    /// The request has no fields.
    fn nothing(self) -> Self::Output;
}

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

    /// The default message in JSON and in protobuf, read again.
    struct Again;

    impl RequestVisitor for Again {
        type Output = Vec<u8>;

        fn message<M: Message + Default + Serialize + DeserializeOwned + 'static>(self) -> Vec<u8> {
            let text = serde_json::to_string(&M::default()).expect("JSON");
            let message: M = serde_json::from_str(&text).expect("its own JSON");
            M::decode(&*message.encode_to_vec()).expect("its own protobuf").encode_to_vec()
        }

        fn nothing(self) -> Vec<u8> {
            Vec::new()
        }
    }

    #[test]
    fn each_request_that_says_nothing_is_empty_and_is_read_again() {
        for row in &METHODS {
            assert_eq!(row.method.visit_request(Again), [0; 0], "{row:?}");
        }
    }

    #[test]
    fn callers_without_attestation_cannot_send_large_bodies() {
        for row in METHODS.iter().filter(|row| row.access == Access::Open) {
            assert!(row.body_limit <= 64 * 1024, "{row:?}");
        }
    }
}
