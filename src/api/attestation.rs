//! `/attestation.json`: by one document, outsiders verify what this KMS runs, with tools that they trust. The document is
//! described in `docs/decisions/0042-a-document-proves-a-kms-to-outsiders.md`.

mod maker;
mod statement;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use kms_attest::single_flight::{SingleFlight, Unfinished};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

pub use self::maker::{Maker, Unproven};
use crate::address::bucket;
use crate::error::{Code, Error, Result};

/// How long a document without a nonce is given out.
pub const LIFETIME: Duration = Duration::from_secs(60);
/// From this age on, the next one is made.
const REFRESH_AT: Duration = Duration::from_secs(35);
/// The pause after an attempt that gave no document.
const RETRY: Duration = Duration::from_secs(5);
/// If nobody has asked for the document in this time, no new one is made until somebody asks.
const WANTED_FOR: Duration = Duration::from_secs(3600);
/// How long a failure is the answer to requests, so that many of them are one attempt.
const FAILURE_COUNTS: Duration = Duration::from_secs(2);
/// The longest wait for a document.
const WAIT: Duration = Duration::from_secs(20);
/// Quotes over a nonce that are made at a time. Others need the quoting enclave too: guests of this KMS do not, but its
/// replicas and its certificate.
const AT_A_TIME: usize = 2;
/// An address may ask for one quote with a nonce in this time, and for `BURST` at once.
const EACH: Duration = Duration::from_secs(10);
const BURST: NonZeroU32 = NonZeroU32::new(3).expect("not zero");
/// All addresses together may ask for one in this time, and for `ALL_BURST` at once.
const ALL_EACH: Duration = Duration::from_secs(1);
const ALL_BURST: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
/// From this many addresses on, those that are quiet are forgotten.
const MAX_REMEMBERED: usize = 4096;

/// The document, as it is sent.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Document {
    /// 1.
    version: u64,
    /// What the KMS states of itself, JSON as text: the quote is over exactly these bytes.
    statement: String,
    /// A TDX quote, hex. Its report data are SHA-512 of `cvm-kms-attestation:` and the statement.
    quote: String,
    /// The events that the quote measures, a JSON list as text.
    event_log: String,
    /// The configuration of the VM, JSON as text.
    vm_config: String,
    /// What Intel signs about the platform, to verify the quote offline.
    collateral: Value,
    /// The signature of the root CA key.
    root: RootSignature,
}

/// The root CA key signs the quote and the statement.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RootSignature {
    /// Its SubjectPublicKeyInfo, DER, hex.
    ca_spki: String,
    /// ECDSA with SHA-256 over `cvm-kms-attestation-root:`, SHA-256 of the quote and SHA-256 of the statement; `r ‖ s`, hex.
    signature: String,
}

/// A document with the time at which it was made.
#[derive(Debug)]
pub struct Made {
    /// JSON.
    pub json: Bytes,
    made: Instant,
}

impl Made {
    /// How long it is still given out.
    pub fn remaining(&self) -> Duration {
        LIFETIME.saturating_sub(self.made.elapsed())
    }
}

type Outcome = std::result::Result<Arc<Made>, Unproven>;

/// Gives out documents about this KMS.
#[derive(Debug)]
pub struct AttestationService {
    maker: Arc<Maker>,
    current: ArcSwapOption<Made>,
    failed: ArcSwapOption<(Instant, Unproven)>,
    /// When somebody last asked for one without a nonce.
    wanted: ArcSwapOption<Instant>,
    shared: SingleFlight<(), Outcome>,
    fresh: SingleFlight<[u8; 32], Outcome>,
    addresses: DefaultKeyedRateLimiter<IpAddr>,
    all: DefaultDirectRateLimiter,
}

impl AttestationService {
    /// Documents of `maker`.
    pub fn new(maker: Maker) -> Self {
        let each = |each, burst| Quota::with_period(each).expect("not zero").allow_burst(burst);
        Self {
            maker: Arc::new(maker),
            current: ArcSwapOption::empty(),
            failed: ArcSwapOption::empty(),
            wanted: ArcSwapOption::empty(),
            shared: SingleFlight::new(1),
            fresh: SingleFlight::new(AT_A_TIME),
            addresses: RateLimiter::keyed(each(EACH, BURST)),
            all: RateLimiter::direct(each(ALL_EACH, ALL_BURST)),
        }
    }

    /// The document without a nonce: the same for all who ask within a minute.
    ///
    /// # Errors
    /// [`Code::Unavailable`] with a reason of [`Unproven`].
    pub async fn shared(self: &Arc<Self>) -> Result<Arc<Made>> {
        self.wanted.store(Some(Arc::new(Instant::now())));
        if let Some(current) = self.current() {
            return Ok(current);
        }
        if let Some(failed) = &*self.failed.load()
            && failed.0.elapsed() < FAILURE_COUNTS
        {
            return Err(failed.1.told());
        }
        self.make_shared().await.map_err(Unproven::told)
    }

    /// A document over `nonce`, made for `address`.
    ///
    /// # Errors
    /// [`Code::TooManyRequests`]; [`Code::Unavailable`] with a reason of [`Unproven`].
    pub async fn fresh(&self, nonce: [u8; 32], address: IpAddr) -> Result<Arc<Made>> {
        if self.addresses.len() > MAX_REMEMBERED {
            self.addresses.retain_recent();
        }
        // First of the address, so that one that asks too often takes nothing from the others.
        if self.addresses.check_key(&bucket(address)).is_err() || self.all.check().is_err() {
            return Err(too_many());
        }
        let maker = Arc::clone(&self.maker);
        let making = self.fresh.join(nonce, || async move { maker.make(Some(nonce)).await.map(Arc::new) });
        let making = making.map_err(|_| too_many())?;
        finished(making.result()).await.map_err(Unproven::told)
    }

    /// Keeps a document ready while there are requests, until dropped.
    pub async fn refresh_loop(self: Arc<Self>) {
        let mut tick = tokio::time::interval(RETRY);
        loop {
            tick.tick().await;
            let is_wanted = self.wanted.load().as_ref().is_some_and(|wanted| wanted.elapsed() < WANTED_FOR);
            let is_young = self.current.load().as_ref().is_some_and(|made| made.made.elapsed() < REFRESH_AT);
            if is_wanted && !is_young {
                // The cause of a failure is in the log.
                let _ = self.make_shared().await;
            }
        }
    }

    fn current(&self) -> Option<Arc<Made>> {
        self.current.load_full().filter(|made| made.made.elapsed() < LIFETIME)
    }

    async fn make_shared(self: &Arc<Self>) -> Outcome {
        let service = Arc::clone(self);
        let making = self.shared.join((), || async move {
            let made = service.maker.make(None).await.map(Arc::new);
            match &made {
                Ok(made) => service.current.store(Some(Arc::clone(made))),
                Err(why) => service.failed.store(Some(Arc::new((Instant::now(), *why)))),
            }
            made
        });
        match making {
            Ok(making) => finished(making.result()).await,
            Err(Unfinished::Busy | Unfinished::Abandoned) => Err(Unproven::Late),
        }
    }
}

async fn finished(result: impl Future<Output = std::result::Result<Outcome, Unfinished>>) -> Outcome {
    match tokio::time::timeout(WAIT, result).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) | Err(_) => Err(Unproven::Late),
    }
}

fn too_many() -> Error {
    let text = "too many quotes with a nonce are asked for; wait, or ask without a nonce";
    Error::new(Code::TooManyRequests, text)
}
