//! The extensions of a certificate, in the peer's order and bytes.

use std::net::IpAddr;

use yasna::models::ObjectIdentifier;
use yasna::{DERWriter, DERWriterSeq, Tag};

use super::asn1::{first_of_sha256, sequence};
use super::oid;
use super::spec::{CertificateError, CertificateSpec, Role};

/// A certificate with nothing but a name has no extensions at all, not even keyUsage. Quirk of the peer, see
/// `docs/compatibility.md`.
pub(super) fn says_anything(spec: &CertificateSpec<'_>) -> bool {
    let private = [spec.app_id, spec.app_info, spec.usage.map(str::as_bytes), spec.evidence];
    !spec.names.is_empty() || spec.role != Role::LEAF || private.iter().any(Option::is_some)
}

/// Writes the extensions for `spec` in the peer's order.
pub(super) fn extensions(
    list: &mut DERWriterSeq<'_>,
    spec: &CertificateSpec<'_>,
    names: &[GeneralName<'_>],
    spki: &[u8],
) {
    if !names.is_empty() {
        let value = sequence(|list| names.iter().for_each(|name| name.write(list.next())));
        extension(list.next(), oid::SUBJECT_ALTERNATIVE_NAME, Criticality::Ignorable, &value);
    }
    // Nine bits, although the ninth is never set. Quirk of the peer, see `docs/compatibility.md`.
    let usage = match spec.role {
        Role::Ca { .. } => yasna::construct_der(|writer| writer.write_bitvec_bytes(&[0x86, 0], 9)),
        Role::Leaf { .. } => yasna::construct_der(|writer| writer.write_bitvec_bytes(&[0x80, 0], 9)),
    };
    extension(list.next(), oid::KEY_USAGE, Criticality::Critical, &usage);
    match spec.role {
        Role::Ca { path_len } => {
            let identifier = yasna::construct_der(|writer| writer.write_bytes(&first_of_sha256(spki)));
            extension(list.next(), oid::SUBJECT_KEY_IDENTIFIER, Criticality::Ignorable, &identifier);
            let constraints = sequence(|constraints| {
                constraints.next().write_bool(true);
                constraints.next().write_u8(path_len);
            });
            extension(list.next(), oid::BASIC_CONSTRAINTS, Criticality::Critical, &constraints);
        }
        Role::Leaf { server_auth: false, client_auth: false } => {}
        Role::Leaf { server_auth, client_auth } => {
            let purposes = sequence(|purposes| {
                for (wanted, purpose) in [(server_auth, oid::SERVER_AUTH), (client_auth, oid::CLIENT_AUTH)] {
                    if wanted {
                        purposes.next().write_oid(&ObjectIdentifier::from_slice(purpose));
                    }
                }
            });
            extension(list.next(), oid::EXTENDED_KEY_USAGE, Criticality::Ignorable, &purposes);
        }
    }
    let private = [
        (oid::APP_ID, spec.app_id),
        (oid::APP_INFO, spec.app_info),
        (oid::SPECIAL_USAGE, spec.usage.map(str::as_bytes)),
        (oid::ATTESTATION, spec.evidence),
    ];
    for (oid, payload) in private {
        if let Some(payload) = payload {
            let value = yasna::construct_der(|writer| writer.write_bytes(payload));
            extension(list.next(), oid, Criticality::Ignorable, &value);
        }
    }
}

#[derive(Clone, Copy)]
enum Criticality {
    Critical,
    Ignorable,
}

fn extension(writer: DERWriter<'_>, oid: &[u64], criticality: Criticality, value: &[u8]) {
    writer.write_sequence(|extension| {
        extension.next().write_oid(&ObjectIdentifier::from_slice(oid));
        if let Criticality::Critical = criticality {
            extension.next().write_bool(true);
        }
        extension.next().write_bytes(value);
    });
}

/// A subject alternative name.
pub(super) enum GeneralName<'a> {
    Dns(&'a str),
    Ip(IpAddr),
}

impl GeneralName<'_> {
    pub(super) fn parse(name: &str) -> Result<GeneralName<'_>, CertificateError> {
        match name.parse() {
            Ok(address) => Ok(GeneralName::Ip(address)),
            Err(_) if name.is_ascii() => Ok(GeneralName::Dns(name)),
            Err(_) => Err(CertificateError::Name),
        }
    }

    fn write(&self, writer: DERWriter<'_>) {
        match self {
            GeneralName::Dns(name) => writer.write_tagged_implicit(Tag::context(2), |name_writer| {
                name_writer.write_ia5_string(name);
            }),
            GeneralName::Ip(address) => {
                writer.write_tagged_implicit(Tag::context(7), |name_writer| match address {
                    IpAddr::V4(address) => name_writer.write_bytes(&address.octets()),
                    IpAddr::V6(address) => name_writer.write_bytes(&address.octets()),
                })
            }
        }
    }
}
