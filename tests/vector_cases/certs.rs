//! `certs.json`: certificates issued and read, certificate requests, report data, app info.

mod client;
mod csr;
mod x509;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cvm_kms::ca::{self, Lifetime};
use cvm_kms::domain::Domain;
use cvm_kms::keys::derive::app_ca_key;
use kms_attest::binding::{self, ReportData};
use kms_attest::certificate::{self, Role, oid};
use kms_attest::identity::{AppId, AppInfo};
use kms_attest::ra_tls;
use kms_attest::vm_config::VmConfig;

use self::x509::{Said, Vector, is_parsed, issue_again, root_keys};
use super::Directory;
use super::cases::{Cases, Notes};
use super::json::{Check, Failure, Json, ensure};
use super::pki::DevelopmentPki;

const USAGE_RPC: &str = "kms:rpc";
const USAGE_APP_CA: &str = "app:ca";

/// The certificates that others are issued under, by what they are.
struct Authorities<'a> {
    all: Vec<Vector<'a>>,
    root: usize,
    temp: usize,
}

impl<'a> Authorities<'a> {
    fn read(file: &'a Json) -> Check<Self> {
        let all = file.at("certificates")?.list()?.iter().map(Vector::read).collect::<Check<Vec<_>>>()?;
        let mut found = [None; 2];
        for (index, vector) in all.iter().enumerate() {
            match vector.says()?.role {
                Role::Ca { path_len: 1 } if vector.is_self_signed() => found[0].get_or_insert(index),
                Role::Ca { path_len: 0 } if vector.is_self_signed() => found[1].get_or_insert(index),
                _ => continue,
            };
        }
        let [Some(root), Some(temp)] = found else {
            return Err(Failure("certificates: there is no root CA or no temporary CA".into()));
        };
        Ok(Self { all, root, temp })
    }

    fn root(&self) -> &Vector<'a> {
        &self.all[self.root]
    }

    fn temp(&self) -> &Vector<'a> {
        &self.all[self.temp]
    }

    /// The authority whose key signed a certificate.
    fn issuer_of(&self, certificate: &Vector<'_>) -> Check<&Vector<'a>> {
        for authority in &self.all {
            if authority.has_issued(certificate)? {
                return Ok(authority);
            }
        }
        Err(Failure("nothing in the file has issued this certificate".into()))
    }
}

pub(super) fn check<'a>(file: &'a Json, cases: &mut Cases<'a>, directory: &'a Directory) -> Check {
    let pki = DevelopmentPki::of(file, directory)?;
    let vm_config = file.at("vm_config")?.text()?;
    VmConfig::parse(vm_config)?;
    let context = Arc::new((Authorities::read(file)?, pki));
    let with = Arc::clone(&context);
    cases.list(file, "certificates", move |case, notes| issued(case, &with.0, notes))?;
    let with = Arc::clone(&context);
    cases
        .list(file, "client_certificates", move |case, notes| client::check(case, &with.0, &with.1, notes))?;
    cases.list(file, "csr", move |case, notes| csr::check(case, &context.0, &context.1, notes))?;
    cases.named("vm_config", move |_| {
        for case in file.at("client_certificates")?.list()? {
            let evidence = ra_tls::evidence_in(&case.at("der")?.bytes()?);
            if evidence.is_ok_and(|found| found.is_some_and(|evidence| evidence.stack.config == vm_config)) {
                return Ok(());
            }
        }
        Err(Failure("no evidence has it".to_owned()))
    });
    cases.list(file, "report_data", |case, _| {
        let (tag, hash) = (case.at("tag")?.text()?, case.at("hash")?.text()?);
        let content = case.at("content")?.bytes()?;
        let ours = ReportData::for_content(tag, hash, &content)?;
        case.at("report_data")?.is_bytes(ours.0)?;
        match (tag, hash) {
            (binding::RA_TLS, "") => ensure!(ReportData::ra_tls(&content) == ours, "RA-TLS has another form"),
            (binding::APP_DATA, "") => {
                ensure!(ReportData::app_data(&content) == ours, "app data have another form")
            }
            _ => {}
        }
        Ok(())
    })?;
    cases.list(file, "app_info_extension", |case, _| app_info(case))?;
    cases.single(file, "oids", |case, _| oids(case))
}

/// A certificate of the file, said once more by the shape, and issued by the CA if it is one of ours.
fn issued(case: &Json, authorities: &Authorities<'_>, notes: &mut Notes) -> Check {
    let vector = Vector::read(case)?;
    is_parsed(case.at("parsed")?, &vector.der)?;
    let said = vector.says()?;
    let issuer = if vector.is_self_signed() { &vector } else { authorities.issuer_of(&vector)? };
    let again = if vector.is_self_signed() {
        certificate::self_signed(&said.spec(vector.validity), &vector.key)?
    } else {
        issue_again(&said, vector.validity, &vector.key, issuer)?
    };
    vector.is_issued_alike(&again, &issuer.key)?;
    by_the_ca(&vector, &said, authorities, notes)
}

/// Issues a certificate as the service does, at the time at which it must have been issued.
fn by_the_ca(vector: &Vector<'_>, said: &Said, authorities: &Authorities<'_>, notes: &mut Notes) -> Check {
    let root = root_keys(&authorities.root().key, &authorities.temp().key)?;
    match (said.role, said.usage.as_deref()) {
        (Role::Ca { .. }, None) if vector.key.scalar() == root.ca().scalar() => {
            let ours = ca::root_certificate(&root, issued_at(vector, ca::ROOT_CA))?;
            vector.is_issued_alike(&ours, &vector.key)
        }
        (Role::Ca { .. }, None) if vector.key.scalar() == root.temp_ca().scalar() => {
            let ours = ca::temp_certificate(&root, issued_at(vector, ca::TEMP_CA))?;
            vector.is_issued_alike(&ours, &vector.key)
        }
        (Role::Ca { .. }, Some(USAGE_APP_CA)) => {
            let app_id = AppId::try_from(said.app_id.as_deref().unwrap_or_default())?;
            ensure!(
                app_ca_key(&root, &app_id)?.scalar() == vector.key.scalar(),
                "the key of this app CA is not derived from the root"
            );
            Ok(())
        }
        (Role::Leaf { .. }, Some(USAGE_RPC)) => {
            let issuer = ca::root_issuer(&root, authorities.root().pem)?;
            let domain = Domain::parse(&said.common_name)?;
            let evidence = said.evidence.as_deref();
            let now = issued_at(vector, ca::RPC_LEAF);
            let ours = ca::rpc_leaf(&issuer, &domain, &vector.key, evidence, now)?;
            vector.is_issued_alike(&ours, root.ca())?;
            notes.differs("the TLS certificate lives 90 days instead of ten years: nobody can revoke it");
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The time at which a certificate of this lifetime and end was issued.
fn issued_at(vector: &Vector<'_>, lifetime: Lifetime) -> SystemTime {
    let length = lifetime.from(UNIX_EPOCH).not_after;
    UNIX_EPOCH + Duration::from_secs(vector.validity.not_after.saturating_sub(length))
}

fn app_info(case: &Json) -> Check {
    let encoded = case.at("msgpack")?;
    let ours = AppInfo::from_msgpack(&encoded.bytes()?)?;
    for name in ["fields", "json"] {
        case.at(name)?.is_json(&serde_json::to_value(&ours)?)?;
    }
    let read: AppInfo = case.at("json")?.read()?;
    ensure!(read == ours, "the JSON form reads as another");
    match encoded.bytes()?.first() {
        // An old writer's array, with or without the last element: read, never written.
        Some(0x98) => {}
        Some(0x99) => encoded.is_bytes(app_info_array(&ours))?,
        _ => encoded.is_bytes(ours.to_msgpack())?,
    }
    ensure!(AppInfo::from_msgpack(&ours.to_msgpack())? == ours, "reads as another");
    ensure!(ours.to_msgpack()[0] == 0x89, "ours is no map of nine");
    Ok(())
}

/// App info as the peer wrote it before 0.6.0: an array of nine elements, here from the bytes of the map without its keys.
pub(super) fn app_info_array(app_info: &AppInfo) -> Vec<u8> {
    let mut rest = app_info.to_msgpack();
    rest[0] = 0x99;
    for key in [
        "app_id",
        "compose_hash",
        "instance_id",
        "device_id",
        "mr_system",
        "mr_aggregated",
        "os_image_hash",
        "key_provider_info",
        "init_script_hashes",
    ] {
        let written = [&[0xa0 | key.len() as u8][..], key.as_bytes()].concat();
        let at = rest.windows(written.len()).position(|window| window == written).expect("the key is there");
        rest.drain(at..at + written.len());
    }
    rest
}

fn oids(case: &Json) -> Check {
    let known = [
        ("tdx_quote", oid::TDX_QUOTE),
        ("event_log", oid::EVENT_LOG),
        ("app_id", oid::APP_ID),
        ("special_usage", oid::SPECIAL_USAGE),
        ("attestation", oid::ATTESTATION),
        ("app_info", oid::APP_INFO),
    ];
    for (name, arcs) in known {
        let arcs: Vec<String> = arcs.iter().map(u64::to_string).collect();
        case.at(name)?.is_text(&arcs.join("."))?;
    }
    Ok(())
}
