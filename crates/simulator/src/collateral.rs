//! The collateral that Intel publishes about a platform (TCB info, QE identity, CRLs), signed by the
//! simulated Intel.

use std::iter;
use std::sync::Arc;

use dcap_qvl::QuoteCollateralV3;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

use crate::pki::{Certified, date, pem_chain};
use crate::platform::{CPU_SVN, PCE_SVN, PckCa, Platform};
use crate::quote::{QE_ISV_PROD_ID, QE_ISV_SVN, QE_MR_SIGNER};
use crate::tcb::{MODULE_ISV_SVN, Standing, TcbLevel};

/// A window of time, Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// issueDate, or a CRL's thisUpdate.
    pub issued: u64,
    /// nextUpdate; at least one second later than `issued`.
    pub next_update: u64,
}

impl Validity {
    /// 2020-01-02 to 2099-12-31.
    pub const WIDE: Validity = Validity { issued: 1_577_923_200, next_update: 4_102_358_400 };

    /// From a day before `now` to `seconds` after it.
    pub fn lasting(now: u64, seconds: u64) -> Self {
        Self::new(now.saturating_sub(86_400), now.saturating_add(seconds))
    }

    /// From `issued` to `next_update`, which is moved to one second after `issued` if it is not later.
    pub fn new(issued: u64, next_update: u64) -> Self {
        Self { issued, next_update: next_update.max(issued.saturating_add(1)) }
    }
}

/// A certificate that the CRLs list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// The root itself, in its own CRL.
    Root,
    /// The CA of the platform's PCK certificate, in the root's CRL.
    PckCa,
    /// The platform's PCK certificate, in its CA's CRL.
    Pck,
    /// The signer of TCB info, in the root's CRL.
    TcbSigner,
    /// The signer of QE identity, in the root's CRL.
    QeSigner,
}

/// The content of the collateral. Default: valid 2020 to 2099, nothing revoked, every [`TcbLevel`] as its
/// name says.
#[derive(Clone, Debug)]
pub struct CollateralSpec {
    /// Validity of TCB info.
    pub tcb_info: Validity,
    /// Validity of QE identity.
    pub qe_identity: Validity,
    /// Validity of both CRLs.
    pub crls: Validity,
    /// `tcbEvaluationDataNumber`; also the CRLs' number.
    pub evaluation_number: u32,
    /// The status in TCB info of platforms at [`TcbLevel::UpToDate`], which a "TCB recovery" changes.
    pub platform: Standing,
    /// `tcbDate` of one more level, above every level that simulated platforms reach; `None` for no such
    /// level. All other levels have the date `tcb_info.issued`.
    pub newest: Option<u64>,
    /// `tcbDate` of one more level at [`TcbLevel::OutOfDate`], for platforms with newer firmware than
    /// simulated ones; the newest level then requires that firmware too. `None` for no such level.
    pub firmware: Option<u64>,
    /// A status word for TCB info's lowest level; `None` for Intel's.
    pub word: Option<&'static str>,
    /// The status in TCB info of the TDX module of TD 1.5 quotes (UpToDate, OutOfDate or Revoked).
    pub module: Standing,
    /// The status of the quoting enclave in QE identity.
    pub qe: Standing,
    /// The lowest version of the quoting enclave that QE identity lists.
    pub lowest_qe: u16,
    /// The certificates in the CRLs.
    pub revoked: Vec<Revocation>,
}

impl Default for CollateralSpec {
    fn default() -> Self {
        Self::valid(Validity::WIDE)
    }
}

impl CollateralSpec {
    /// All parts valid in the same window.
    pub fn valid(validity: Validity) -> Self {
        Self {
            tcb_info: validity,
            qe_identity: validity,
            crls: validity,
            evaluation_number: 17,
            platform: Standing::of(TcbLevel::UpToDate),
            newest: None,
            firmware: None,
            word: None,
            module: Standing::of(TcbLevel::UpToDate),
            qe: Standing::of(TcbLevel::UpToDate),
            lowest_qe: QE_ISV_SVN,
            revoked: Vec::new(),
        }
    }

    /// As after a TCB recovery: platforms that were up to date are now at `level`.
    pub fn after_tcb_recovery(level: TcbLevel) -> Self {
        Self { platform: Standing::of(level), ..Self::default() }
    }

    /// As after a TCB recovery of `date` (Unix seconds) whose update no simulated platform has: those that
    /// were up to date are now at `level`, and a better level exists.
    pub fn after_tcb_recovery_of(date: u64, level: TcbLevel) -> Self {
        let before = Self::default();
        Self {
            platform: Standing::of(level),
            newest: Some(date),
            evaluation_number: before.evaluation_number + 1,
            ..before
        }
    }

    fn lists(&self, revocation: Revocation) -> bool {
        self.revoked.contains(&revocation)
    }
}

/// A JSON document with its signature over the exact text.
pub(crate) struct Signed {
    pub(crate) json: String,
    pub(crate) signature: [u8; 64],
}

/// Everything that a PCCS serves about platforms of one root.
pub(crate) struct Published {
    /// By FMSPC.
    tcb_infos: Vec<([u8; 6], Signed)>,
    pub(crate) tcb_info_chain: String,
    pub(crate) qe_identity: Signed,
    pub(crate) qe_identity_chain: String,
    pub(crate) root_crl: Vec<u8>,
    platform_crl: PckCrl,
    processor_crl: PckCrl,
}

/// The CRL of a PCK CA with its issuer chain.
pub(crate) struct PckCrl {
    pub(crate) der: Vec<u8>,
    pub(crate) chain: String,
}

impl Published {
    /// `spec.revoked` refers to the certificates of `first`, except for PCK certificates, which are revoked
    /// for all.
    pub(crate) fn new(first: &Platform, others: &[Arc<Platform>], spec: &CollateralSpec) -> Self {
        let pki = first.pki();
        let platforms = || iter::once(first).chain(others.iter().map(Arc::as_ref));
        let by_root: Vec<&Certified> = [
            (Revocation::Root, &pki.root),
            (Revocation::PckCa, pki.ca(first.pck_ca())),
            (Revocation::TcbSigner, &pki.tcb_signer),
            (Revocation::QeSigner, &pki.qe_signer),
        ]
        .into_iter()
        .filter(|(revocation, _)| spec.lists(*revocation))
        .map(|(_, certified)| certified)
        .collect();
        let crl = |issuer: &Certified, revoked: &[&Certified]| {
            issuer.revocation_list(revoked, spec.crls, spec.evaluation_number)
        };
        let pck_crl = |kind: PckCa| {
            let revoked: Vec<&Certified> = platforms()
                .filter(|platform| spec.lists(Revocation::Pck) && platform.pck_ca() == kind)
                .map(|platform| &platform.pki().pck)
                .collect();
            PckCrl { der: crl(pki.ca(kind), &revoked), chain: pem_chain(&[pki.ca(kind), &pki.root]) }
        };

        Self {
            tcb_infos: platforms()
                .map(|platform| (platform.fmspc(), sign(&tcb_info(platform.fmspc(), spec), &pki.tcb_signer)))
                .collect(),
            tcb_info_chain: pem_chain(&[&pki.tcb_signer, &pki.root]),
            qe_identity: sign(&qe_identity(spec), &pki.qe_signer),
            qe_identity_chain: pem_chain(&[&pki.qe_signer, &pki.root]),
            root_crl: crl(&pki.root, &by_root),
            platform_crl: pck_crl(PckCa::Platform),
            processor_crl: pck_crl(PckCa::Processor),
        }
    }

    pub(crate) fn pck_crl(&self, kind: PckCa) -> &PckCrl {
        match kind {
            PckCa::Platform => &self.platform_crl,
            PckCa::Processor => &self.processor_crl,
        }
    }

    /// TCB info of a model, by its FMSPC in hex.
    pub(crate) fn tcb_info(&self, fmspc: &str) -> Option<&Signed> {
        self.tcb_infos
            .iter()
            .find(|(known, _)| hex::encode(known).eq_ignore_ascii_case(fmspc))
            .map(|(_, signed)| signed)
    }
}

/// The collateral of one platform, as after fetching all parts. A chain in the quote is not repeated, so that
/// the collateral fits every quote of the model.
pub(crate) fn collateral(platform: &Platform, spec: &CollateralSpec) -> QuoteCollateralV3 {
    let published = Published::new(platform, &[], spec);
    let pck_crl = published.pck_crl(platform.pck_ca());
    let tcb_info = published.tcb_infos.first().map(|(_, signed)| signed);
    QuoteCollateralV3 {
        pck_crl_issuer_chain: pck_crl.chain.clone(),
        pck_crl: pck_crl.der.clone(),
        tcb_info: tcb_info.map(|signed| signed.json.clone()).unwrap_or_default(),
        tcb_info_signature: tcb_info.map(|signed| signed.signature.to_vec()).unwrap_or_default(),
        tcb_info_issuer_chain: published.tcb_info_chain,
        qe_identity_issuer_chain: published.qe_identity_chain,
        qe_identity: published.qe_identity.json,
        qe_identity_signature: published.qe_identity.signature.to_vec(),
        root_ca_crl: published.root_crl,
        pck_certificate_chain: platform.is_certified_by_ppid().then(|| platform.pck_chain_pem().to_owned()),
    }
}

fn sign(document: &Value, signer: &Certified) -> Signed {
    let json = document.to_string();
    let signature = signer.key.sign_raw(json.as_bytes());
    Signed { json, signature }
}

fn tcb_info(fmspc: [u8; 6], spec: &CollateralSpec) -> Value {
    let listed = TcbLevel::LISTED.into_iter().map(|level| {
        let standing = match level {
            TcbLevel::UpToDate => spec.platform.clone(),
            other => Standing::of(other),
        };
        let tcb = json!({
            "sgxtcbcomponents": components(CPU_SVN),
            "pcesvn": PCE_SVN,
            "tdxtcbcomponents": components(level.required_components()),
        });
        tcb_level(tcb, &standing, spec.tcb_info.issued)
    });
    let newest = spec.newest.map(|date| {
        let firmware = if spec.firmware.is_some() { newer_firmware() } else { CPU_SVN };
        let tcb = json!({
            "sgxtcbcomponents": components(firmware),
            "pcesvn": PCE_SVN,
            "tdxtcbcomponents": components(TcbLevel::beyond()),
        });
        tcb_level(tcb, &Standing::of(TcbLevel::UpToDate), date)
    });
    let firmware = spec.firmware.map(|date| {
        let tcb = json!({
            "sgxtcbcomponents": components(newer_firmware()),
            "pcesvn": PCE_SVN,
            "tdxtcbcomponents": components(TcbLevel::OutOfDate.required_components()),
        });
        tcb_level(tcb, &Standing::of(TcbLevel::OutOfDate), date)
    });
    let mut levels: Vec<Value> = newest.into_iter().chain(firmware).chain(listed).collect();
    if let (Some(word), Some(lowest)) = (spec.word, levels.last_mut()) {
        lowest["tcbStatus"] = json!(word);
    }
    let module = json!({
        "mrsigner": "0".repeat(96), "attributes": "0000000000000000", "attributesMask": "FFFFFFFFFFFFFFFF",
    });
    let mut identity = json!({ "id": "TDX_01" });
    for (key, value) in module.as_object().into_iter().flatten() {
        identity[key] = value.clone();
    }
    identity["tcbLevels"] =
        json!([tcb_level(json!({ "isvsvn": MODULE_ISV_SVN }), &spec.module, spec.tcb_info.issued)]);

    json!({
        "id": "TDX",
        "version": 3,
        "issueDate": rfc3339(spec.tcb_info.issued),
        "nextUpdate": rfc3339(spec.tcb_info.next_update),
        "fmspc": hex::encode_upper(fmspc),
        "pceId": "0000",
        "tcbType": 0,
        "tcbEvaluationDataNumber": spec.evaluation_number,
        "tdxModule": module,
        "tdxModuleIdentities": [identity],
        "tcbLevels": levels,
    })
}

/// CPUSVN of firmware that no simulated platform has.
fn newer_firmware() -> [u8; 16] {
    let mut newer = CPU_SVN;
    newer[0] += 1;
    newer
}

fn qe_identity(spec: &CollateralSpec) -> Value {
    json!({
        "id": "TD_QE",
        "version": 2,
        "issueDate": rfc3339(spec.qe_identity.issued),
        "nextUpdate": rfc3339(spec.qe_identity.next_update),
        "tcbEvaluationDataNumber": spec.evaluation_number,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": hex::encode_upper(QE_MR_SIGNER),
        "isvprodid": QE_ISV_PROD_ID,
        "tcbLevels": [tcb_level(json!({ "isvsvn": spec.lowest_qe }), &spec.qe, spec.qe_identity.issued)],
    })
}

fn tcb_level(tcb: Value, standing: &Standing, date: u64) -> Value {
    let mut level = json!({
        "tcb": tcb,
        "tcbDate": rfc3339(date),
        "tcbStatus": standing.level.status(),
    });
    if !standing.advisories.is_empty() {
        level["advisoryIDs"] = json!(standing.advisories);
    }
    level
}

fn components(svn: [u8; 16]) -> Value {
    svn.iter().map(|svn| json!({ "svn": svn })).collect()
}

fn rfc3339(unix: u64) -> String {
    date(unix).format(&Rfc3339).expect("years up to 9999 always format")
}
