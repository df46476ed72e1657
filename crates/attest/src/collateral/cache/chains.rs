//! PCK chains of platforms whose quotes name an encrypted PPID: kept after the first quote that they verified, so that later ones
//! need no service.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use dcap_qvl::quote::{AuthData, Quote};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::CollateralCache;
use crate::collateral::origin::{Origin, QeId};
use crate::collateral::store::MAX_CHAINS;
use crate::collateral::{FetchFailure, PckChain, RefusedFile, Resource, StoredChain, StoredProblem};

/// One chain for each quoting enclave, which has one PCK certificate at a time.
#[derive(Default)]
pub(super) struct Chains {
    chains: HashMap<QeId, Kept>,
    uses: u64,
}

struct Kept {
    chain: PckChain,
    last_use: u64,
}

impl Chains {
    fn take(&mut self, qe_id: &QeId) -> Option<PckChain> {
        self.uses += 1;
        let kept = self.chains.get_mut(qe_id)?;
        kept.last_use = self.uses;
        Some(kept.chain.clone())
    }

    /// Whether it is new. The one that was used longest ago makes room.
    fn put(&mut self, qe_id: QeId, chain: PckChain) -> bool {
        self.uses += 1;
        let is_new = self.chains.get(&qe_id).is_none_or(|kept| kept.chain != chain);
        self.chains.insert(qe_id, Kept { chain, last_use: self.uses });
        while self.chains.len() > MAX_CHAINS {
            let oldest = self.chains.iter().min_by_key(|(_, kept)| kept.last_use).map(|(qe_id, _)| *qe_id);
            let Some(oldest) = oldest else { break };
            self.chains.remove(&oldest);
        }
        is_new
    }
}

impl CollateralCache {
    /// The chain that verified an earlier quote of the same quoting enclave, if its PCK certificate is valid now and has signed
    /// the report of the enclave in this quote. So no other chain is ever used, whatever is on the disk; revocation is decided
    /// for each quote.
    pub(super) fn kept_chain(&self, qe_id: &QeId, quote: &Quote) -> Option<PckChain> {
        let chain = self.chains().take(qe_id)?;
        (chain.is_valid_at(self.clock().now()) && has_certified(&chain, quote)).then_some(chain)
    }

    /// Keeps `chain`, which was fetched and has verified `quote`, in memory and on the disk.
    pub(crate) async fn keep_chain(&self, quote: &Quote, chain: &PckChain) {
        let Ok(Origin::EncryptedPpid(request)) = Origin::of_parsed(quote) else { return };
        let qe_id = request.qe_id;
        let is_new = self.chains().put(qe_id, chain.clone());
        let Some(store) = self.shared.options.store.clone().filter(|_| is_new) else { return };
        let (cache, chain) = (self.clone(), chain.clone());
        let write = move || {
            let written =
                store.write_chain(qe_id, &chain.pem(), |other| cache.chains().chains.contains_key(other));
            if let Err(error) = written {
                cache.shared.stored().unsaved += 1;
                tracing::error!(%error, "a PCK chain cannot be kept: after a restart it is fetched again");
            }
        };
        // If the writing task panics, the chain is in memory still.
        let _ = tokio::task::spawn_blocking(write).await;
    }

    /// Uses the chains of the store that lead to the root; returns the files that do not.
    pub(super) fn load_chains(&self, stored: Vec<StoredChain>) -> Vec<RefusedFile> {
        let root = self.shared.anchors.tdx_root();
        let refused = stored.into_iter().filter_map(|StoredChain { file, qe_id, pem }| {
            let resource = Resource::PckCertificate;
            let failure = match PckChain::read(pem.as_bytes()) {
                Err(_) => FetchFailure::Malformed { resource, problem: "chain does not parse" },
                Ok(chain) if !chain.leads_to(root) => FetchFailure::Untrusted(resource),
                Ok(chain) => {
                    self.chains().put(qe_id, chain);
                    return None;
                }
            };
            Some(RefusedFile { file, problem: StoredProblem::Refused(failure) })
        });
        refused.collect()
    }

    fn chains(&self) -> MutexGuard<'_, Chains> {
        self.shared.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the key of the PCK certificate has signed the report of the quoting enclave.
fn has_certified(chain: &PckChain, quote: &Quote) -> bool {
    let signature = match &quote.auth_data {
        AuthData::V3(data) => &data.qe_report_signature,
        AuthData::V4(data) => &data.qe_report_data.qe_report_signature,
    };
    let Ok((_, leaf)) = X509Certificate::from_der(chain.leaf()) else { return false };
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &leaf.public_key().subject_public_key.data[..])
        .verify(quote.qe_report(), signature)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::collateral::testing::{NOW, mock_anchors, mock_quote, other_anchors};
    use crate::collateral::{CacheOptions, Clock};

    #[test]
    fn the_chain_that_was_used_longest_ago_makes_room() {
        let quote = mock_quote();
        let chain = PckChain::read(Quote::parse(&quote).unwrap().inner_cert_data()).unwrap();
        let id = |number: usize| {
            let mut id = QeId::default();
            id[..8].copy_from_slice(&(number as u64).to_be_bytes());
            id
        };
        let mut chains = Chains::default();
        for number in 0..MAX_CHAINS {
            assert!(chains.put(id(number), chain.clone()));
        }
        assert!(!chains.put(id(1), chain.clone()), "it is the same");
        assert!(chains.take(&id(0)).is_some());
        assert!(chains.put(id(MAX_CHAINS), chain));
        assert_eq!(chains.chains.len(), MAX_CHAINS);
        assert!(chains.take(&id(0)).is_some() && chains.take(&id(1)).is_some());
        assert!(chains.take(&id(2)).is_none());
    }

    #[test]
    fn a_chain_on_the_disk_is_used_only_for_the_quotes_of_its_platform_and_while_it_is_valid() {
        let bytes = mock_quote();
        let quote = Quote::parse(&bytes).unwrap();
        let pem = PckChain::read(quote.inner_cert_data()).unwrap().pem();
        let time = Arc::new(AtomicU64::new(NOW));
        let now = Arc::clone(&time);
        let clock = Clock::from_fn(move || now.load(Ordering::Relaxed));
        let cache = |anchors| {
            let options = CacheOptions { is_offline: true, clock: clock.clone(), ..CacheOptions::default() };
            CollateralCache::new(&["http://127.0.0.1:9"], &anchors, options).unwrap()
        };
        let id = QeId::default();
        let stored =
            |pem: &str| vec![StoredChain { file: "file".to_owned(), qe_id: id, pem: pem.to_owned() }];
        let trusted = cache(mock_anchors());
        assert_eq!(trusted.load_chains(stored(&pem)), []);
        assert!(trusted.kept_chain(&id, &quote).is_some());
        assert!(trusted.kept_chain(&[1; 16], &quote).is_none());
        let real = crate::collateral::testing::real_quote();
        assert!(trusted.kept_chain(&id, &Quote::parse(&real).unwrap()).is_none(), "of another platform");
        time.store(u64::from(u32::MAX), Ordering::Relaxed);
        assert!(trusted.kept_chain(&id, &quote).is_none(), "it has ended");
        time.store(NOW, Ordering::Relaxed);
        assert_eq!(trusted.load_chains(stored(&pem[1..])).len(), 1);
        let other = cache(other_anchors());
        let problem = StoredProblem::Refused(FetchFailure::Untrusted(Resource::PckCertificate));
        assert_eq!(other.load_chains(stored(&pem))[0].problem, problem);
        assert!(other.kept_chain(&id, &quote).is_none());
    }

    #[test]
    fn only_the_certificate_that_signed_the_enclaves_report_is_that_of_a_quote() {
        let bytes = mock_quote();
        let quote = Quote::parse(&bytes).unwrap();
        let chain = PckChain::read(quote.inner_cert_data()).unwrap();
        assert!(has_certified(&chain, &quote));
        let real = crate::collateral::testing::real_quote();
        let real = Quote::parse(&real).unwrap();
        assert!(!has_certified(&chain, &real));
        assert!(has_certified(&PckChain::read(real.inner_cert_data()).unwrap(), &real));
    }
}
