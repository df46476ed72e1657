//! A start: what was kept is read and put into force again.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use kms_attest::state_file::Replaced;
use kms_policy::Policy;
use kms_policy::bundle::source::{Fetcher, read_file};
use kms_policy::bundle::{Bundle, BundleDigest, Bundled};
use kms_policy::settings::BundleSource;

use super::super::past::last_activated;
use super::super::serials::highest;
use super::offer::seen;
use super::{BundleKeeper, KeeperError, Origin, State};
use crate::audit::{Audit, Beginning, Event};
use crate::clock::unix_now;
use crate::metrics::Metrics;
use crate::state::{BundleFileError, BundleFiles, BundleRecord};

impl BundleKeeper {
    /// Reads what was kept and puts the bundle that was in force into force again, if its signatures are still valid. `None` if
    /// `policy` has no bundles.
    ///
    /// # Errors
    /// [`KeeperError`]
    pub fn open(
        domain: &str,
        policy: &Arc<Policy>,
        directory: &Path,
        log: &Path,
        audit: &Arc<Audit>,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Self>, KeeperError> {
        let Some(bundled) = policy.bundled() else { return Ok(None) };
        let fetcher = Fetcher::new(bundled.settings())?;
        let files = BundleFiles::new(directory.to_owned(), domain);
        let record = match files.read()? {
            Some(record) => record,
            None => beginning(&files, bundled, domain, log, audit)?,
        };
        load(&files, bundled, domain, &record);
        bundled.set_forked(record.fork.is_some());
        let pending = record.pending.as_deref().and_then(|digest| kept(&files, bundled, domain, digest).ok());
        Ok(Some(Self {
            domain: domain.to_owned(),
            policy: Arc::clone(policy),
            files,
            audit: Arc::clone(audit),
            metrics: Arc::clone(metrics),
            state: tokio::sync::Mutex::new(State { record, pending, unattended: None }),
            started: Instant::now(),
            source: tokio::sync::Mutex::new(fetcher),
            of_fleet: tokio::sync::Mutex::default(),
            in_fleet: Mutex::default(),
            refused: Mutex::default(),
        }))
    }

    /// Puts into force what a start would find in the key directory, or in a file that is the source; changes nothing on the
    /// disk.
    ///
    /// # Errors
    /// [`BundleFileError`]
    pub fn inspect(domain: &str, policy: &Policy, directory: &Path) -> Result<(), BundleFileError> {
        let Some(bundled) = policy.bundled() else { return Ok(()) };
        let files = BundleFiles::new(directory.to_owned(), domain);
        let record = files.read()?.unwrap_or_default();
        load(&files, bundled, domain, &record);
        if let (None, BundleSource::File(path)) = (bundled.bundle(), &bundled.settings().source) {
            let keys = &bundled.settings().keys;
            let read = read_file(path, !keys.minisign_keys().is_empty());
            match read.map(|bytes| Bundle::open(&bytes, keys, domain)) {
                Ok(Ok(bundle)) => bundled.put_in_force(bundle, SystemTime::now()),
                Ok(Err(error)) => bundled.say_why_none(error.to_string()),
                Err(error) => bundled.say_why_none(error.to_string()),
            }
        }
        Ok(())
    }
}

/// Verifies a kept bundle again.
fn kept(files: &BundleFiles, bundled: &Bundled, domain: &str, digest: &str) -> Result<Bundle, String> {
    let digest = BundleDigest::parse(digest).ok_or("its digest in the record is not one")?;
    let bytes = files.kept(digest).map_err(|error| format!("it cannot be read: {error}"))?;
    let bundle = Bundle::open(&bytes, &bundled.settings().keys, domain).map_err(|error| error.to_string())?;
    if bundle.digest() == digest { Ok(bundle) } else { Err("it is another one".to_owned()) }
}

/// Puts the bundle that was in force into force again.
fn load(files: &BundleFiles, bundled: &Bundled, domain: &str, record: &BundleRecord) {
    let Some(digest) = &record.in_force else {
        let highest = highest(record);
        if highest > 0 && record.pending.is_none() {
            bundled.say_why_none(format!(
                "no signed bundle is in force; the next one needs serial {highest} or higher"
            ));
        }
        return;
    };
    let seen = record.seen.iter().find(|seen| seen.digest == *digest);
    let minimum = bundled.settings().minimum_serial;
    match kept(files, bundled, domain, digest) {
        // By the bundle itself, because the record of it can be gone.
        Ok(bundle) if bundle.header().serial() < minimum => bundled.say_why_none(format!(
            "the bundle that was in force has serial {}, below core.auth_api.bundle.minimum_serial",
            bundle.header().serial()
        )),
        Ok(bundle) => {
            let since = seen.and_then(|seen| seen.activated_at).map_or_else(SystemTime::now, |seconds| {
                SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(unix_now()))
            });
            bundled.put_in_force(bundle, since);
        }
        Err(problem) => {
            tracing::error!(domain, problem, "the policy bundle that was in force cannot be used");
            bundled.say_why_none(format!("the bundle that was in force cannot be used: {problem}"));
        }
    }
}

/// The record of a start that finds none: empty for a new KMS. Where the audit log or kept bundles show that there was one, its
/// serials still count.
fn beginning(
    files: &BundleFiles,
    bundled: &Bundled,
    domain: &str,
    log: &Path,
    audit: &Audit,
) -> Result<BundleRecord, KeeperError> {
    let mut record = BundleRecord::default();
    if audit.beginning() == Beginning::Continued {
        record.seen.extend(last_activated(log, audit, domain).map_err(KeeperError::Log)?);
    }
    for bytes in files.all_kept() {
        if let Ok(bundle) = Bundle::open(&bytes, &bundled.settings().keys, domain)
            && record.seen.iter().all(|seen| seen.serial != bundle.header().serial())
        {
            record.seen.push(seen(&bundle, Origin::Operators, 0));
        }
    }
    record.seen.sort_by_key(|seen| std::cmp::Reverse(seen.serial));
    record.floor = highest(&record);
    if record.floor > 0 {
        tracing::error!(domain, floor = record.floor, "the file with the serials of policy bundles is gone");
        audit.note(Event::PolicySerialsLost { domain: domain.to_owned(), floor: record.floor });
    }
    if let Err(error) = files.replace(&record).and_then(Replaced::safely) {
        tracing::error!(%error, "the serials of policy bundles cannot be written");
    }
    Ok(record)
}
