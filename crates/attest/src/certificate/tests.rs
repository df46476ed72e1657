//! Certificates against the peer's, field by field and byte by byte.

use serde_json::Value;

use super::*;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../../tests/vectors/certs.json")).expect("certs.json is JSON")
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
    let clients = vectors["client_certificates"].as_array().unwrap().iter().map(|client| ("temp-ca", client));
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
