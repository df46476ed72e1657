//! X.509 certificates in the one shape that every KMS of a cluster issues, extension by extension.
//!
//! Written with a DER writer rather than a certificate library because the bytes matter: names must be identical on all
//! replicas, extensions stand in the peer's order, and keyUsage keeps the peer's two-byte form.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use thiserror::Error;
use time::OffsetDateTime;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;
use yasna::models::{GeneralizedTime, ObjectIdentifier, UTCTime};
use yasna::{DERWriter, DERWriterSeq, Tag};

use crate::p256::P256Key;

/// The last second that X.509 can express, 9999-12-31T23:59:59Z, as Unix time.
pub const LAST_SECOND: u64 = 253_402_300_799;
/// 1975-01-01T00:00:00Z as Unix time: the usual notBefore, since guests boot with wrong clocks.
pub const LONG_AGO: u64 = 157_766_400;

const FIRST_YEAR_OF_GENERALIZED_TIME: i32 = 2050;
const IDENTIFIER_LENGTH: usize = 20;
const PEM_COLUMNS: usize = 64;
/// A text longer than this is not one certificate.
const LONGEST_PEM: usize = 24 * 1024 * 1024;

/// Object identifiers of the private extensions.
pub mod oid {
    use x509_parser::der_parser::Oid;

    /// TDX quote, raw (legacy, read only).
    pub const TDX_QUOTE: &[u64] = &[1, 3, 6, 1, 4, 1, 62397, 1, 1];
    /// TDX event log, JSON (legacy, read only).
    pub const EVENT_LOG: &[u64] = &[1, 3, 6, 1, 4, 1, 62397, 1, 2];
    /// App id, 20 raw bytes.
    pub const APP_ID: &[u64] = &[1, 3, 6, 1, 4, 1, 62397, 1, 3];
    /// Special usage, UTF-8 text.
    pub const SPECIAL_USAGE: &[u64] = &[1, 3, 6, 1, 4, 1, 62397, 1, 4];
    /// Versioned attestation, stripped.
    pub const ATTESTATION: &[u64] = &[1, 3, 6, 1, 4, 1, 62397, 1, 8];
    /// App info, MessagePack.
    pub const APP_INFO: &[u64] = &[1, 3, 6, 1, 4, 1, 62397, 1, 9];

    /// Whether a parsed identifier is the one with these arcs.
    pub fn is(found: &Oid<'_>, arcs: &[u64]) -> bool {
        found.iter().is_some_and(|found| found.eq(arcs.iter().copied()))
    }

    pub(super) const COMMON_NAME: &[u64] = &[2, 5, 4, 3];
    pub(super) const ORGANIZATION: &[u64] = &[2, 5, 4, 10];
    pub(super) const SUBJECT_KEY_IDENTIFIER: &[u64] = &[2, 5, 29, 14];
    pub(super) const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
    pub(super) const SUBJECT_ALTERNATIVE_NAME: &[u64] = &[2, 5, 29, 17];
    pub(super) const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
    pub(super) const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
    pub(super) const SERVER_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 1];
    pub(super) const CLIENT_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 2];
    pub(super) const ECDSA_WITH_SHA256: &[u64] = &[1, 2, 840, 10045, 4, 3, 2];
}

/// What a certificate says.
#[derive(Debug, Clone)]
pub struct CertificateSpec<'a> {
    /// Subject `O`, omitted if none.
    pub organization: Option<&'a str>,
    /// Subject `CN`.
    pub common_name: &'a str,
    /// Subject alternative names: an IP address becomes an iPAddress, anything else a dNSName.
    pub names: &'a [String],
    /// First and last second.
    pub validity: Validity,
    /// Authority or end entity.
    pub role: Role,
    /// Payload of `.3`.
    pub app_id: Option<&'a [u8]>,
    /// Payload of `.9`.
    pub app_info: Option<&'a [u8]>,
    /// Payload of `.4`.
    pub usage: Option<&'a str>,
    /// Payload of `.8`.
    pub evidence: Option<&'a [u8]>,
}

/// The seconds between which a certificate is valid, both included, as Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub not_before: u64,
    /// Last second.
    pub not_after: u64,
}

/// What the key of a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Signs certificates, with at most `path_len` authorities below it.
    Ca {
        /// The path length constraint.
        path_len: u8,
    },
    /// Signs handshakes; neither flag set means no extended key usage, hence no restriction.
    Leaf {
        /// Extended key usage serverAuth.
        server_auth: bool,
        /// Extended key usage clientAuth.
        client_auth: bool,
    },
}

impl Role {
    /// A leaf without extended key usage.
    pub const LEAF: Role = Role::Leaf { server_auth: false, client_auth: false };
}

/// Why a certificate cannot be issued or read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// A date that X.509 cannot express.
    #[error("certificate date {0} is after 9999-12-31T23:59:59Z")]
    Date(u64),
    /// A subject alternative name that is not ASCII.
    #[error("subject alternative name is not ASCII")]
    Name,
    /// The subject's public key is not SubjectPublicKeyInfo DER.
    #[error("public key is not SubjectPublicKeyInfo DER")]
    PublicKey,
    /// Not one X.509 certificate in DER.
    #[error("not an X.509 certificate in DER")]
    Certificate,
    /// No `CERTIFICATE` block, or one that is not Base64.
    #[error("no certificate in the PEM text")]
    Pem,
    /// An authority's certificate and private key do not belong together.
    #[error("CA certificate does not match private key")]
    KeyMismatch,
}

/// An authority: its name as its certificate spells it, and its key.
pub struct Issuer<'a> {
    name: Vec<u8>,
    key: &'a P256Key,
}

impl<'a> Issuer<'a> {
    /// The authority of this certificate; the key must be the certificate's.
    pub fn new(certificate: &[u8], key: &'a P256Key) -> Result<Issuer<'a>, CertificateError> {
        let (rest, parsed) =
            x509_parser::parse_x509_certificate(certificate).map_err(|_| CertificateError::Certificate)?;
        if !rest.is_empty() {
            return Err(CertificateError::Certificate);
        }
        if parsed.public_key().raw != key.spki_der() {
            return Err(CertificateError::KeyMismatch);
        }
        Ok(Issuer { name: parsed.subject().as_raw().to_vec(), key })
    }

    /// [`new`](Self::new) from PEM.
    pub fn from_pem(certificate: &str, key: &'a P256Key) -> Result<Issuer<'a>, CertificateError> {
        Issuer::new(&der(certificate)?, key)
    }
}

/// A certificate of `key` signed by itself, DER.
pub fn self_signed(spec: &CertificateSpec<'_>, key: &P256Key) -> Result<Vec<u8>, CertificateError> {
    sign(spec, &key.spki_der(), &name(spec), key)
}

/// A certificate of the key in `subject_spki` (DER, embedded as given) signed by `issuer`, DER.
pub fn issue(
    spec: &CertificateSpec<'_>,
    subject_spki: &[u8],
    issuer: &Issuer<'_>,
) -> Result<Vec<u8>, CertificateError> {
    sign(spec, subject_spki, &issuer.name, issuer.key)
}

/// One certificate as PEM: 64 columns, LF, final LF.
pub fn pem(der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut pem = String::with_capacity(base64.len() + base64.len() / PEM_COLUMNS + 64);
    pem.push_str("-----BEGIN CERTIFICATE-----\n");
    for line in base64.as_bytes().chunks(PEM_COLUMNS) {
        pem.extend(line.iter().map(|&byte| char::from(byte)));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// The DER of the first certificate of a PEM text.
pub fn der(pem: &str) -> Result<Vec<u8>, CertificateError> {
    if pem.len() > LONGEST_PEM {
        return Err(CertificateError::Pem);
    }
    let (_, rest) = pem.split_once("-----BEGIN CERTIFICATE-----").ok_or(CertificateError::Pem)?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----").ok_or(CertificateError::Pem)?;
    let base64: Vec<u8> = body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(base64).map_err(|_| CertificateError::Pem)
}

/// Last second (Unix time) of the first certificate of a PEM text; 0 if that is before 1970.
pub fn not_after(pem: &str) -> Result<u64, CertificateError> {
    let der = der(pem)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| CertificateError::Certificate)?;
    Ok(u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0))
}

fn sign(
    spec: &CertificateSpec<'_>,
    spki: &[u8],
    issuer: &[u8],
    key: &P256Key,
) -> Result<Vec<u8>, CertificateError> {
    let (rest, public_key) = SubjectPublicKeyInfo::from_der(spki).map_err(|_| CertificateError::PublicKey)?;
    if !rest.is_empty() {
        return Err(CertificateError::PublicKey);
    }
    let not_before = Date::new(spec.validity.not_before)?;
    let not_after = Date::new(spec.validity.not_after)?;
    let names = spec.names.iter().map(|name| GeneralName::parse(name)).collect::<Result<Vec<_>, _>>()?;

    let to_be_signed = sequence(|tbs| {
        tbs.next().write_tagged(Tag::context(0), |version| version.write_u8(2));
        tbs.next().write_bigint_bytes(&serial(&public_key.subject_public_key.data), true);
        signature_algorithm(tbs.next());
        tbs.next().write_der(issuer);
        tbs.next().write_sequence(|validity| {
            not_before.write(validity.next());
            not_after.write(validity.next());
        });
        tbs.next().write_der(&name(spec));
        tbs.next().write_der(spki);
        if says_anything(spec) {
            tbs.next().write_tagged(Tag::context(3), |outer| {
                outer.write_sequence(|list| extensions(list, spec, &names, spki));
            });
        }
    });
    let signature = key.sign_der(&to_be_signed);
    Ok(sequence(|certificate| {
        certificate.next().write_der(&to_be_signed);
        signature_algorithm(certificate.next());
        certificate.next().write_bitvec_bytes(&signature, signature.len() * 8);
    }))
}

/// A certificate that says nothing beyond its name has no extensions at all, not even keyUsage.
/// Quirk of the peer, see `docs/compatibility.md`.
fn says_anything(spec: &CertificateSpec<'_>) -> bool {
    let private = [spec.app_id, spec.app_info, spec.usage.map(str::as_bytes), spec.evidence];
    !spec.names.is_empty() || spec.role != Role::LEAF || private.iter().any(Option::is_some)
}

fn extensions(
    list: &mut DERWriterSeq<'_>,
    spec: &CertificateSpec<'_>,
    names: &[GeneralName<'_>],
    spki: &[u8],
) {
    if !names.is_empty() {
        let value = sequence(|list| names.iter().for_each(|name| name.write(list.next())));
        extension(list.next(), oid::SUBJECT_ALTERNATIVE_NAME, Criticality::Ignorable, &value);
    }
    // Nine bits although the ninth is never set. Quirk of the peer, see `docs/compatibility.md`.
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

enum GeneralName<'a> {
    Dns(&'a str),
    Ip(IpAddr),
}

impl GeneralName<'_> {
    fn parse(name: &str) -> Result<GeneralName<'_>, CertificateError> {
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

/// A second that X.509 can express.
struct Date(OffsetDateTime);

impl Date {
    fn new(unix: u64) -> Result<Date, CertificateError> {
        if unix > LAST_SECOND {
            return Err(CertificateError::Date(unix));
        }
        let date = i64::try_from(unix).ok().and_then(|unix| OffsetDateTime::from_unix_timestamp(unix).ok());
        date.map(Date).ok_or(CertificateError::Date(unix))
    }

    /// UTCTime before 2050, GeneralizedTime from then on (RFC 5280 section 4.1.2.5).
    fn write(&self, writer: DERWriter<'_>) {
        if self.0.year() < FIRST_YEAR_OF_GENERALIZED_TIME {
            writer.write_utctime(&UTCTime::from_datetime(self.0));
        } else {
            writer.write_generalized_time(&GeneralizedTime::from_datetime(self.0));
        }
    }
}

/// The subject's name: `O` if any, then `CN`, each UTF8String in its own RDN.
fn name(spec: &CertificateSpec<'_>) -> Vec<u8> {
    sequence(|name| {
        let attributes = [(oid::ORGANIZATION, spec.organization), (oid::COMMON_NAME, Some(spec.common_name))];
        for (oid, value) in attributes {
            let Some(value) = value else { continue };
            name.next().write_set(|attributes| {
                attributes.next().write_sequence(|attribute| {
                    attribute.next().write_oid(&ObjectIdentifier::from_slice(oid));
                    attribute.next().write_utf8_string(value);
                });
            });
        }
    })
}

fn signature_algorithm(writer: DERWriter<'_>) {
    writer.write_sequence(|algorithm| {
        algorithm.next().write_oid(&ObjectIdentifier::from_slice(oid::ECDSA_WITH_SHA256));
    });
}

/// First 20 bytes of SHA-256(public point), top bit cleared: the same for every certificate of a key.
fn serial(point: &[u8]) -> [u8; IDENTIFIER_LENGTH] {
    let mut serial = first_of_sha256(point);
    serial[0] &= 0x7f;
    serial
}

fn first_of_sha256(bytes: &[u8]) -> [u8; IDENTIFIER_LENGTH] {
    let mut first = [0; IDENTIFIER_LENGTH];
    first.copy_from_slice(&Sha256::digest(bytes)[..IDENTIFIER_LENGTH]);
    first
}

fn sequence(content: impl FnOnce(&mut DERWriterSeq<'_>)) -> Vec<u8> {
    yasna::construct_der(|writer| writer.write_sequence(content))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../../tests/vectors/certs.json")).expect("certs.json is JSON")
    }

    /// The certificate up to its signature: all that is not random.
    fn to_be_signed(certificate: &[u8]) -> Vec<u8> {
        let (rest, parsed) = x509_parser::parse_x509_certificate(certificate).expect("a certificate");
        assert!(rest.is_empty());
        parsed.tbs_certificate.as_ref().to_vec()
    }

    fn verifies(certificate: &[u8], issuer: &P256Key) -> bool {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).expect("a certificate");
        let spki = issuer.spki_der();
        let (_, key) = SubjectPublicKeyInfo::from_der(&spki).expect("a public key");
        parsed.verify_signature(Some(&key)).is_ok()
    }

    fn text(value: &Value) -> &str {
        value.as_str().expect("text")
    }

    /// What a vector's certificate says, read from its parsed fields.
    struct Said {
        organization: Option<String>,
        common_name: String,
        names: Vec<String>,
        role: Role,
        payloads: [Option<Vec<u8>>; 4],
        validity: Validity,
    }

    impl Said {
        fn by(parsed: &Value) -> Said {
            let subject = text(&parsed["subject"]);
            let (organization, common_name) = match subject.strip_prefix("O=") {
                Some(rest) => rest.split_once(", CN=").map(|(o, cn)| (Some(o.to_owned()), cn)).unwrap(),
                None => (None, subject.strip_prefix("CN=").unwrap()),
            };
            let extensions = parsed["extensions"].as_array().unwrap();
            let value =
                |oid: &str| extensions.iter().find(|ext| ext["oid"] == oid).map(|ext| text(&ext["value"]));
            let payload = |last: &str| {
                let inner = value(&format!("1.3.6.1.4.1.62397.1.{last}"))?;
                let inner = hex::decode(inner).unwrap();
                Some(yasna::parse_der(&inner, |reader| reader.read_bytes()).unwrap())
            };
            let eku = value("2.5.29.37").unwrap_or_default();
            let role = match value("2.5.29.19") {
                Some(constraints) if constraints.ends_with("01") => Role::Ca { path_len: 1 },
                Some(_) => Role::Ca { path_len: 0 },
                None => Role::Leaf {
                    server_auth: eku.contains("06082b06010505070301"),
                    client_auth: eku.contains("06082b06010505070302"),
                },
            };
            Said {
                organization,
                common_name: common_name.to_owned(),
                names: match value("2.5.29.17") {
                    None => Vec::new(),
                    Some("3011820f6b6d732e6578616d706c652e636f6d") => vec!["kms.example.com".to_owned()],
                    Some("3010820e6c65676163792e6578616d706c65") => vec!["legacy.example".to_owned()],
                    Some("300b8209612e6578616d706c65") => vec!["a.example".to_owned()],
                    Some(_) => ["app-a.example.com", "10.1.2.3", "*.wild.example", "2001:db8::1"]
                        .map(str::to_owned)
                        .to_vec(),
                },
                role,
                payloads: ["3", "9", "4", "8"].map(payload),
                validity: Validity {
                    not_before: parsed["not_before"].as_u64().unwrap(),
                    not_after: parsed["not_after"].as_u64().unwrap(),
                },
            }
        }

        fn spec(&self) -> CertificateSpec<'_> {
            let [app_id, app_info, usage, evidence] = &self.payloads;
            CertificateSpec {
                organization: self.organization.as_deref(),
                common_name: &self.common_name,
                names: &self.names,
                validity: self.validity,
                role: self.role,
                app_id: app_id.as_deref(),
                app_info: app_info.as_deref(),
                usage: usage.as_deref().map(|usage| std::str::from_utf8(usage).unwrap()),
                evidence: evidence.as_deref(),
            }
        }
    }

    #[test]
    fn certificates_equal_the_peers_up_to_the_random_signature() {
        let vectors = vectors();
        let certificates = vectors["certificates"].as_array().unwrap();
        let find = |name: &str| certificates.iter().find(|vector| vector["name"] == name).unwrap();
        let root_key = P256Key::from_pem(text(&find("kms-root-ca")["private_key_pem"])).unwrap();
        let root = Issuer::from_pem(text(&find("kms-root-ca")["pem"]), &root_key).unwrap();
        for vector in certificates {
            let key = P256Key::from_pem(text(&vector["private_key_pem"])).unwrap();
            let said = Said::by(&vector["parsed"]);
            let is_self_signed = vector["parsed"]["subject"] == vector["parsed"]["issuer"];
            let ours = if is_self_signed {
                self_signed(&said.spec(), &key).unwrap()
            } else {
                issue(&said.spec(), &key.spki_der(), &root).unwrap()
            };
            let theirs = hex::decode(text(&vector["der"])).unwrap();
            assert_eq!(to_be_signed(&ours), to_be_signed(&theirs), "{}", vector["name"]);
            assert!(verifies(&ours, if is_self_signed { &key } else { &root_key }), "{}", vector["name"]);
            assert_eq!(pem(&theirs), text(&vector["pem"]));
            assert_eq!(der(text(&vector["pem"])).unwrap(), theirs);
        }
    }

    #[test]
    fn leaves_of_requests_and_clients_equal_the_peers() {
        let vectors = vectors();
        let certificates = vectors["certificates"].as_array().unwrap();
        let issuer = |name: &str| {
            let vector = certificates.iter().find(|vector| vector["name"] == name).unwrap();
            (P256Key::from_pem(text(&vector["private_key_pem"])).unwrap(), text(&vector["pem"]))
        };
        let leaves = vectors["csr"].as_array().unwrap().iter().map(|csr| ("app-ca", &csr["leaf_example"]));
        let clients =
            vectors["client_certificates"].as_array().unwrap().iter().map(|client| ("temp-ca", client));
        let mut compared = 0;
        for (issuer_name, vector) in leaves.chain(clients).filter(|(_, vector)| vector["pem"].is_string()) {
            let theirs = der(text(&vector["pem"])).unwrap();
            let said = Said::by(&vector["parsed"]);
            if said.payloads.iter().all(Option::is_none) {
                continue; // legacy extensions are never written
            }
            let (issuer_key, issuer_pem) = issuer(issuer_name);
            let spki = hex::decode(text(&vector["parsed"]["spki_der"])).unwrap();
            let issuer = Issuer::from_pem(issuer_pem, &issuer_key).unwrap();
            let ours = issue(&said.spec(), &spki, &issuer).unwrap();
            assert_eq!(to_be_signed(&ours), to_be_signed(&theirs), "{}", vector["name"]);
            compared += 1;
        }
        assert!(compared >= 12, "{compared}");
    }

    fn plain<'a>(names: &'a [String], not_after: u64) -> CertificateSpec<'a> {
        CertificateSpec {
            organization: None,
            common_name: "x",
            names,
            validity: Validity { not_before: LONG_AGO, not_after },
            role: Role::LEAF,
            app_id: None,
            app_info: None,
            usage: None,
            evidence: None,
        }
    }

    #[test]
    fn what_x509_cannot_express_is_refused() {
        let key = P256Key::generate();
        assert!(self_signed(&plain(&[], LAST_SECOND), &key).is_ok());
        for date in [LAST_SECOND + 1, u64::MAX] {
            assert_eq!(self_signed(&plain(&[], date), &key).err(), Some(CertificateError::Date(date)));
        }
        let names = ["bücher.example".to_owned()];
        assert_eq!(self_signed(&plain(&names, 0), &key).err(), Some(CertificateError::Name));
        let certificate = self_signed(&plain(&[], LAST_SECOND), &key).unwrap();
        let issuer = Issuer::new(&certificate, &key).unwrap();
        for spki in [&b""[..], &[0x30, 0x00], &[&key.spki_der()[..], &[0]].concat()] {
            assert_eq!(issue(&plain(&[], 0), spki, &issuer).err(), Some(CertificateError::PublicKey));
        }
    }

    #[test]
    fn an_issuer_needs_its_own_certificate() {
        let key = P256Key::generate();
        let certificate = self_signed(&plain(&[], LAST_SECOND), &key).unwrap();
        let with_tail = [&certificate[..], &[0]].concat();
        let cases = [
            (&certificate[..], &P256Key::generate(), CertificateError::KeyMismatch),
            (&certificate[1..], &key, CertificateError::Certificate),
            (&with_tail, &key, CertificateError::Certificate),
        ];
        for (certificate, key, error) in cases {
            assert_eq!(Issuer::new(certificate, key).err(), Some(error));
        }
        assert_eq!(Issuer::from_pem("nothing", &key).err(), Some(CertificateError::Pem));
    }

    #[test]
    fn private_identifiers_are_those_of_the_vectors() {
        let vectors = vectors();
        let arcs = [
            ("tdx_quote", oid::TDX_QUOTE),
            ("event_log", oid::EVENT_LOG),
            ("app_id", oid::APP_ID),
            ("special_usage", oid::SPECIAL_USAGE),
            ("attestation", oid::ATTESTATION),
            ("app_info", oid::APP_INFO),
        ];
        for (name, arcs) in arcs {
            let dotted: Vec<String> = arcs.iter().map(u64::to_string).collect();
            assert_eq!(vectors["oids"][name], dotted.join("."));
        }
    }
}
