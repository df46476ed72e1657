//! The checks of the secp256k1 root key: its origin, and its signatures.

use kms_attest::collateral::platform_is_rooted;
use kms_attest::evidence::{Evidence, Platform};
use kms_attest::identity::Registers;
use kms_attest::verify::{Binding, Verified, VerifyError, verify};

use super::answers::EnvKeyAnswer;
use super::answers::Quote;
use super::examine::Examination;
use super::{Check, Outcome, pins};
use crate::environment::EnvKey;
use crate::environment::key::MAX_AHEAD_SECONDS;
use crate::epochs::Epochs;
use crate::proto::BootstrapResponse;
use crate::receipt::shown_log;
use crate::root_epochs::{StatedEpoch, follow, stated_epoch};
use crate::statement::{Signer, app_key_signer, bootstrap_report_data};

/// A KMS has no more root epochs.
const MAX_EPOCHS: usize = 64;

fn epochs_of(env_key: &EnvKeyAnswer) -> Epochs {
    Epochs::of(env_key.answer.root_epoch, env_key.answer.app_epoch)
}

impl Examination<'_> {
    /// The key in `GetMeta`: attested, pinned, or neither.
    pub(super) fn k256(&mut self, root_spki: Option<&[u8]>) -> Option<Signer> {
        let Some(meta) = &self.answers.meta else {
            self.note(Check::K256Attested, Outcome::Unavailable, self.answers.why("meta"));
            return None;
        };
        let Ok(k256) = Signer::try_from(meta.k256_pubkey.as_slice()) else {
            self.failed(Check::K256Attested, "k256_pubkey of GetMeta is not a secp256k1 public key");
            return None;
        };
        if let Some(pinned) = self.pins.k256 {
            let followed = match pinned == k256 {
                true => String::new(),
                false => match self.followed(&pinned, root_spki) {
                    Ok(epoch) => format!(": it states this one, that of root epoch {}", epoch.number),
                    Err(problem) => {
                        let detail = format!("k256_pubkey is {k256}, pinned is {pinned}: {problem}");
                        self.failed(Check::K256Attested, detail);
                        return Some(k256);
                    }
                },
            };
            let known =
                if followed.is_empty() { "pinned" } else { "the key of an older root epoch is pinned" };
            if meta.bootstrap_info.is_none() {
                let detail = format!("{known}{followed}; this KMS shows no bootstrap statement");
                self.passed(Check::K256Attested, detail);
                return Some(k256);
            }
        }
        let Some(info) = &meta.bootstrap_info else {
            let detail = "this KMS shows no bootstrap statement, as only the first of a cluster does; pin its k256 key";
            self.not_checked(Check::K256Attested, detail);
            return Some(k256);
        };
        match self.bootstrap(info, k256, root_spki) {
            Ok((status, older)) => {
                let older = older.map_or_else(String::new, |older| {
                    format!("; the key of an older root epoch was, and states that of root epoch {older}")
                });
                let detail = format!("attested with the root CA where both were made, TCB {status}{older}");
                self.passed(Check::K256Attested, detail);
            }
            Err((outcome, problem)) => self.note(Check::K256Attested, outcome, problem),
        }
        Some(k256)
    }

    /// The root epoch of the KMS, to whose keys an older root key that is `known` leads.
    pub(super) fn followed(&self, known: &Signer, root_spki: Option<&[u8]>) -> Result<StatedEpoch, String> {
        let meta = self.answers.meta.as_ref().ok_or("there is no GetMeta")?;
        let epoch = follow(meta, known).map_err(|error| error.to_string())?;
        match root_spki {
            Some(root) if root == epoch.ca_spki => Ok(epoch),
            Some(_) => Err(format!("the older key states another root CA of root epoch {}", epoch.number)),
            None => Err("there is no root".to_owned()),
        }
    }

    /// The TCB status of the platform that attested the new keys, and the root epoch to which they lead if they are those of an
    /// older one.
    fn bootstrap(
        &self,
        info: &BootstrapResponse,
        k256: Signer,
        root_spki: Option<&[u8]>,
    ) -> Result<(String, Option<u32>), (Outcome, String)> {
        let failed = |problem: String| (Outcome::Failed, problem);
        let (mut made, mut leads_to) = (k256, None);
        if info.k256_pubkey != k256.as_bytes() {
            let other =
                |why: &str| failed(format!("bootstrap_info is about another k256 key than GetMeta{why}"));
            made = Signer::try_from(info.k256_pubkey.as_slice()).map_err(|_| other(", which is not one"))?;
            let epoch = self.followed(&made, root_spki).map_err(|problem| other(&format!(": {problem}")))?;
            leads_to = Some(epoch.number);
        }
        match root_spki {
            None => return Err((Outcome::NotChecked, "there is no root".to_owned())),
            Some(_) if leads_to.is_some() => {}
            Some(root) if root != info.ca_pubkey => {
                return Err(failed("bootstrap_info is about another root CA".to_owned()));
            }
            Some(_) => {}
        }
        if info.attestation.is_empty() {
            return Err(failed(
                "bootstrap_info carries no attestation: the keys were made without a TEE".to_owned(),
            ));
        }
        let evidence = Evidence::decode(&info.attestation).map_err(|error| failed(error.to_string()))?;
        let verified = self.bootstrap_evidence(&evidence, &info.ca_pubkey, made)?;
        let status = verified.tcb_status().to_owned();
        let accepted = self.pins.bootstrap_tcb.as_ref().unwrap_or(&self.pins.tcb);
        if !accepted.contains(&status) {
            let accepted = accepted.join(", ");
            return Err(failed(format!(
                "the keys were made on a platform that is {status}; accepted: {accepted}"
            )));
        }
        let accepted = self.pins.bootstrap_advisories.as_ref().or(self.pins.advisories.as_ref());
        if let Some(accepted) = accepted {
            let ids = verified.advisory_ids();
            let rest: Vec<&str> =
                ids.iter().filter(|id| !accepted.contains(id)).map(String::as_str).collect();
            if !rest.is_empty() {
                let rest = rest.join(", ");
                return Err(failed(format!(
                    "the keys were made on a platform with advisories that are not accepted: {rest}"
                )));
            }
        }
        if !self.pins.identities.is_empty() {
            let shown =
                verified.app_info(Registers::RunTime, "").map_err(|error| failed(error.to_string()))?;
            pins::find(&self.pins.identities, &shown, pins::image_proof(&verified))
                .map_err(|difference| failed(format!("the keys were made by {difference}")))?;
        }
        Ok((status, leads_to))
    }

    fn bootstrap_evidence(
        &self,
        evidence: &Evidence,
        ca_spki: &[u8],
        k256: Signer,
    ) -> Result<Verified, (Outcome, String)> {
        if let Platform::Tdx(tdx) = &evidence.platform {
            platform_is_rooted(&tdx.quote, self.anchors)
                .map_err(|error| (Outcome::Failed, format!("bootstrap_info: {error}")))?;
        }
        let collateral = match self.answers.collateral(Quote::Bootstrap) {
            None => return Err((Outcome::Unavailable, self.answers.why("bootstrap_collateral"))),
            Some(Err(error)) => return Err((Outcome::Failed, format!("bootstrap_collateral: {error}"))),
            Some(Ok(collateral)) => collateral,
        };
        let expected = bootstrap_report_data(ca_spki, &k256);
        let binding = Binding::ReportData(&expected);
        verify(evidence, binding, &collateral, self.anchors, self.now).map_err(|error| match error {
            VerifyError::ReportData | VerifyError::QuotedReportData => {
                (Outcome::Failed, "the attestation of bootstrap_info vouches for other keys".to_owned())
            }
            error => (Outcome::Failed, format!("bootstrap_info: {error}")),
        })
    }

    pub(super) fn app_key_chain(&mut self, k256: Option<Signer>) {
        let Some(k256) = k256 else {
            return self.not_checked(Check::AppKeyChain, "there is no k256 key");
        };
        let Some(env_key) = &self.answers.env_key else {
            let reason = self.answers.why("env_key");
            return self.note(Check::AppKeyChain, Outcome::Unavailable, reason);
        };
        let Some(app_id) = env_key.app_id() else {
            return self.failed(Check::AppKeyChain, "app_id is not 20 bytes in hexadecimal");
        };
        if self.answers.taken_at > self.now.saturating_add(MAX_AHEAD_SECONDS) {
            return self.failed(
                Check::AppKeyChain,
                "the answers were taken after the time at which they are judged",
            );
        }
        // The time of collection is only a claim of the document, so freshness is judged by the current time.
        let fresh = EnvKey::verify(&env_key.answer, app_id, self.now).is_ok();
        match EnvKey::verify(&env_key.answer, app_id, self.answers.taken_at) {
            Ok(key) if key.signer == k256 => {
                let limits = if fresh { "" } else { "; only the signature was checked: it is not fresh" };
                let detail = format!("signature_v1 for app {app_id} is of the k256 key{limits}");
                self.passed(Check::AppKeyChain, detail);
            }
            Ok(key) => {
                self.failed(Check::AppKeyChain, format!("signed by {}, not by the k256 key", key.signer))
            }
            Err(error) => self.failed(Check::AppKeyChain, error.to_string()),
        }
    }

    /// From the quote to the log: the key in `GetMeta` that signs the checkpoints of this node.
    pub(super) fn log_key(&mut self, k256: Option<Signer>) {
        let Some(meta) = self.answers.meta.as_ref().filter(|meta| !meta.log_key.is_empty()) else { return };
        let Some(k256) = k256 else {
            return self.not_checked(Check::LogKey, "there is no k256 key");
        };
        match shown_log(meta) {
            Ok((log, signer)) if signer == k256 => {
                self.passed(Check::LogKey, format!("log_key of {} is signed by the k256 key", log.origin()));
            }
            Ok((_, signer)) => {
                self.failed(Check::LogKey, format!("log_key is signed by {signer}, not by the k256 key"));
            }
            Err(error) => self.failed(Check::LogKey, format!("log_key: {error}")),
        }
    }

    pub(super) fn released_keys(&mut self, k256: Option<Signer>, root_spki: Option<&[u8]>) {
        // Without released keys this check is not listed at all.
        let Some(released) = &self.pins.released else { return };
        let Some(k256) = k256 else {
            return self.not_checked(Check::ReleasedKeys, "there is no k256 key");
        };
        let Some(root) = root_spki else {
            return self.not_checked(Check::ReleasedKeys, "there is no root");
        };
        let signer = match app_key_signer(released.app_id, &released.k256_key, &released.k256_signature) {
            Ok(signer) => signer,
            Err(error) => return self.failed(Check::ReleasedKeys, format!("k256_signature: {error}")),
        };
        // The root CA that comes with keys is that of the KMS at the time, the signature that of the keys' epoch.
        let is_ca = |epoch: &StatedEpoch| epoch.ca_spki[..] == released.root_spki;
        if root != released.root_spki && self.stated(k256, is_ca).is_none() {
            return self.failed(Check::ReleasedKeys, "the keys came with another root CA");
        }
        let of = match self.stated(k256, |epoch| epoch.signer == signer) {
            _ if signer == k256 => "of this KMS".to_owned(),
            Some(epoch) if epoch.number == released.epochs.root => {
                format!("of root epoch {}, which this KMS states", epoch.number)
            }
            Some(epoch) => {
                let (told, found) = (released.epochs.root, epoch.number);
                let problem =
                    format!("the file says root epoch {told}, but k256_signature is of epoch {found}");
                return self.failed(Check::ReleasedKeys, problem);
            }
            None => {
                return self
                    .failed(Check::ReleasedKeys, format!("k256_signature is of {signer}, not of this KMS"));
            }
        };
        let env_key = self.answers.env_key.as_ref();
        match env_key.filter(|env_key| env_key.app_id() == Some(released.app_id)) {
            Some(env_key) if epochs_of(env_key) != released.epochs => {
                let shown = epochs_of(env_key);
                let detail = format!("k256_signature is {of}; the env key that it shows is of {shown}");
                self.passed(Check::ReleasedKeys, detail);
            }
            Some(env_key) if env_key.answer.public_key != released.env_public_key => {
                self.failed(
                    Check::ReleasedKeys,
                    "the KMS shows another env key for this app than the released one",
                );
            }
            Some(_) => self.passed(Check::ReleasedKeys, format!("k256_signature and env key are {of}")),
            None => self.passed(Check::ReleasedKeys, format!("k256_signature is {of}")),
        }
    }

    /// The first other root epoch of this kind whose keys the root key of the KMS states.
    fn stated(&self, k256: Signer, is_meant: impl Fn(&StatedEpoch) -> bool) -> Option<StatedEpoch> {
        let meta = self.answers.meta.as_ref()?;
        let stated = meta.epochs.iter().take(MAX_EPOCHS).map(|epoch| stated_epoch(meta, epoch.number));
        // The statement about the epoch of the root key itself says nothing of its root CA.
        stated.flatten().find(|epoch| epoch.stated_by == k256 && epoch.signer != k256 && is_meant(epoch))
    }
}
