//! Certificates of the vectors as X.509: their content, and the specification that reproduces them.

use cvm_kms::keys::RootKeys;
use kms_attest::certificate::{self, CertificateSpec, Issuer, Role, Validity, oid};
use kms_attest::identity::AppInfo;
use kms_attest::p256::P256Key;
use kms_attest::ra_tls;
use sha2::{Digest, Sha256};
use x509_parser::asn1_rs::FromDer;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::X509Certificate;

use crate::vector_cases::json::{Check, Failure, Json, ensure};

/// A certificate of the vectors.
pub(super) struct Vector<'a> {
    pub(super) pem: &'a str,
    pub(super) der: Vec<u8>,
    pub(super) key: P256Key,
    pub(super) validity: Validity,
    subject: Vec<u8>,
    issuer: Vec<u8>,
}

impl<'a> Vector<'a> {
    /// Reads a certificate with its private key, without comparing what is said about it.
    pub(super) fn read(case: &'a Json) -> Check<Self> {
        let key_pem = case.at("private_key_pem")?;
        let key = P256Key::from_pem(key_pem.text()?)?;
        key_pem.is_text(&key.pem())?;
        let (pem, der) = (case.at("pem")?, case.at("der")?);
        der.is_bytes(certificate::der(pem.text()?)?)?;
        pem.is_text(&certificate::pem(&der.bytes()?))?;
        let (pem, der) = (pem.text()?, der.bytes()?);
        ensure!(ra_tls::spki_of(&der)? == key.spki_der(), "the private key is not the certificate's");
        let parsed = parse(&der)?;
        let second = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp());
        let validity = Validity {
            not_before: second(parsed.validity().not_before)?,
            not_after: second(parsed.validity().not_after)?,
        };
        let subject = parsed.subject().as_raw().to_vec();
        let issuer = parsed.issuer().as_raw().to_vec();
        Ok(Self { pem, key, validity, subject, issuer, der })
    }

    pub(super) fn is_self_signed(&self) -> bool {
        self.subject == self.issuer
    }

    /// Whether this certificate's key signed `other`, and under this certificate's name.
    pub(super) fn has_issued(&self, other: &Self) -> Check<bool> {
        let (this, other_parsed) = (parse(&self.der)?, parse(&other.der)?);
        let signed = other_parsed.verify_signature(Some(this.public_key())).is_ok();
        Ok(signed && self.subject == other.issuer)
    }

    /// What the certificate says beyond its name, key and dates.
    pub(super) fn says(&self) -> Check<Said> {
        said(&self.der)
    }

    /// Compares everything but the random signature with a certificate of ours, whose own signature must verify.
    pub(super) fn is_issued_alike(&self, ours: &[u8], issuer: &P256Key) -> Check {
        let (theirs, parsed) = (to_be_signed(&self.der)?, parse(ours)?);
        ensure!(
            theirs == to_be_signed(ours)?,
            "the certificate is {}, ours is {}",
            hex::encode(theirs),
            hex::encode(to_be_signed(ours)?)
        );
        let spki = issuer.spki_der();
        let (_, issuer) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&spki)?;
        parsed.verify_signature(Some(&issuer))?;
        Ok(())
    }
}

/// What a certificate says, ready to be said again.
pub(super) struct Said {
    organization: Option<String>,
    pub(super) common_name: String,
    names: Vec<String>,
    pub(super) role: Role,
    pub(super) app_id: Option<Vec<u8>>,
    pub(super) app_info: Option<Vec<u8>>,
    pub(super) usage: Option<String>,
    pub(super) evidence: Option<Vec<u8>>,
    /// It has the extensions of old certificates, which ours reads and never writes.
    pub(super) is_legacy: bool,
}

impl Said {
    pub(super) fn spec(&self, validity: Validity) -> CertificateSpec<'_> {
        CertificateSpec {
            organization: self.organization.as_deref(),
            common_name: &self.common_name,
            names: &self.names,
            validity,
            role: self.role,
            app_id: self.app_id.as_deref(),
            app_info: self.app_info.as_deref(),
            usage: self.usage.as_deref(),
            evidence: self.evidence.as_deref(),
        }
    }
}

pub(super) fn said(der: &[u8]) -> Check<Said> {
    let parsed = parse(der)?;
    let first = |mut texts: Vec<String>| if texts.is_empty() { None } else { Some(texts.remove(0)) };
    let organization = parsed.subject().iter_organization().map(|name| name.as_str().map(str::to_owned));
    let common_name = parsed.subject().iter_common_name().map(|name| name.as_str().map(str::to_owned));
    let mut said = Said {
        organization: first(organization.collect::<Result<_, _>>()?),
        common_name: first(common_name.collect::<Result<_, _>>()?).unwrap_or_default(),
        names: Vec::new(),
        role: Role::LEAF,
        app_id: None,
        app_info: None,
        usage: None,
        evidence: None,
        is_legacy: false,
    };
    for extension in parsed.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                said.names = names.general_names.iter().map(general_name).collect::<Check<_>>()?;
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                said.role = Role::Leaf { server_auth: usage.server_auth, client_auth: usage.client_auth };
            }
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                let path_len = constraints.path_len_constraint.unwrap_or_default();
                said.role = Role::Ca { path_len: u8::try_from(path_len)? };
            }
            _ => {}
        }
        for (arcs, payload) in [
            (oid::APP_ID, &mut said.app_id),
            (oid::APP_INFO, &mut said.app_info),
            (oid::ATTESTATION, &mut said.evidence),
        ] {
            if oid::is(&extension.oid, arcs) {
                *payload = Some(octets(extension.value)?.to_vec());
            }
        }
        said.is_legacy |= oid::is(&extension.oid, oid::TDX_QUOTE) || oid::is(&extension.oid, oid::EVENT_LOG);
    }
    said.usage = ra_tls::special_usage(der)?;
    Ok(said)
}

fn general_name(name: &GeneralName<'_>) -> Check<String> {
    match name {
        GeneralName::DNSName(name) => Ok((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match **bytes {
            [a, b, c, d] => Ok(std::net::Ipv4Addr::new(a, b, c, d).to_string()),
            ref bytes => Ok(std::net::Ipv6Addr::from(<[u8; 16]>::try_from(bytes)?).to_string()),
        },
        other => Err(Failure(format!("a subject alternative name that is not known: {other:?}"))),
    }
}

/// Compares a certificate with what the vectors say it says.
pub(super) fn is_parsed(expected: &Json, der: &[u8]) -> Check {
    let parsed = parse(der)?;
    let serial = hex::encode(parsed.raw_serial());
    let number = |hex: &str| hex.trim_start_matches('0').to_owned();
    let their_serial = expected.at("serial")?;
    ensure!(number(their_serial.text()?) == number(&serial), "{}: ours is {serial}", their_serial.path());
    expected.at("subject")?.is_text(&parsed.subject().to_string())?;
    expected.at("issuer")?.is_text(&parsed.issuer().to_string())?;
    expected.at("not_before")?.is_number(parsed.validity().not_before.timestamp())?;
    expected.at("not_after")?.is_number(parsed.validity().not_after.timestamp())?;
    expected.at("signature_algorithm")?.is_text(&parsed.signature_algorithm.algorithm.to_id_string())?;
    let spki = ra_tls::spki_of(der)?;
    expected.at("spki_der")?.is_bytes(&spki)?;
    expected.at("spki_sha256")?.is_bytes(Sha256::digest(&spki))?;
    let extensions = expected.at("extensions")?.list()?;
    ensure!(
        extensions.len() == parsed.extensions().len(),
        "the certificate has {} extensions, expected {}",
        parsed.extensions().len(),
        extensions.len()
    );
    for (expected, extension) in extensions.iter().zip(parsed.extensions()) {
        expected.at("oid")?.is_text(&extension.oid.to_id_string())?;
        expected.at("critical")?.is_bool(extension.critical)?;
        expected.at("value")?.is_bytes(extension.value)?;
        if let Some(inner) = expected.maybe("inner_octet_string") {
            inner.is_bytes(octets(extension.value)?)?;
        }
    }
    let said = said(der)?;
    if !said.is_legacy {
        let evidence = ra_tls::evidence_in(der)?.map(|evidence| evidence.encode());
        ensure!(evidence == said.evidence, "ours finds other evidence");
    }
    let app_info = said.app_info.as_deref().map(AppInfo::from_msgpack).transpose()?;
    ensure!(ra_tls::app_info_in(der)? == app_info, "ours finds other app info");
    let usage = ra_tls::special_usage(der)?;
    match expected.some("special_usage") {
        Some(theirs) => theirs.is_text(&usage.ok_or_else(|| Failure("ours finds no usage".into()))?)?,
        None => ensure!(usage.is_none(), "ours finds the usage {usage:?}"),
    }
    let app_id = ra_tls::app_id_in(der)?;
    match expected.some("app_id") {
        Some(theirs) => theirs.is_bytes(app_id.ok_or_else(|| Failure("ours finds no app id".into()))?),
        None => {
            ensure!(app_id.is_none(), "ours finds the app id {app_id:?}");
            Ok(())
        }
    }
}

/// Issues what a certificate says once more.
pub(super) fn issue_again(
    said: &Said,
    validity: Validity,
    key: &P256Key,
    issuer: &Vector<'_>,
) -> Check<Vec<u8>> {
    let issuer = Issuer::new(&issuer.der, &issuer.key)?;
    Ok(certificate::issue(&said.spec(validity), &key.spki_der(), &issuer)?)
}

/// The root keys that certificates of the vectors belong to. No certificate depends on the secp256k1 key.
pub(super) fn root_keys(ca: &P256Key, temp_ca: &P256Key) -> Check<RootKeys> {
    let copy = |key: &P256Key| P256Key::from_scalar(key.scalar());
    Ok(RootKeys::from_parts(copy(ca)?, copy(temp_ca)?, cvm_kms::keys::K256Key::generate()))
}

/// All of a certificate but its random signature.
pub(super) fn to_be_signed(der: &[u8]) -> Check<Vec<u8>> {
    Ok(parse(der)?.tbs_certificate.as_ref().to_vec())
}

fn parse(der: &[u8]) -> Check<X509Certificate<'_>> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Failure("the certificate does not parse".into())),
    }
}

/// The payload inside the OCTET STRING inside an extension.
fn octets(value: &[u8]) -> Check<&[u8]> {
    match <&[u8]>::from_der(value) {
        Ok(([], payload)) => Ok(payload),
        _ => Err(Failure("an extension holds no OCTET STRING".into())),
    }
}
