//! What the nodes of a fleet do to each other when the disk of one of them is slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cvm_kms::config::{Config, State};
use cvm_kms::keys::RootKeys;
use cvm_kms::keys::keyring::Keyring;
use cvm_kms::metrics::Metrics;
use cvm_kms::state::shared::{AdoptError, Document, Provenance, Reporter, Roots, Shared};
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use crate::support::eventually;
use crate::support::postgres::Postgres;

/// A document that is written again and again, because its node always believes that it is not there yet.
#[derive(Debug)]
struct Slow {
    /// One permit for each time that the disk takes it.
    disk: Semaphore,
    waits: AtomicBool,
}

impl Document for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn merge(&self, there: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
        Ok(Some(there.unwrap_or(b"one").to_vec()))
    }

    fn has_news(&self) -> bool {
        false
    }

    fn adopt<'a>(&'a self, _: &'a [u8], _: &'a Provenance) -> BoxFuture<'a, Result<(), AdoptError>> {
        Box::pin(async {
            self.waits.store(true, Ordering::SeqCst);
            self.disk.acquire().await.expect("it is not closed").forget();
            self.waits.store(false, Ordering::SeqCst);
            Ok(())
        })
    }
}

#[derive(Debug)]
struct Keys(Arc<Keyring>);

impl Roots for Keys {
    fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.0)
    }
}

#[derive(Debug)]
struct Nothing;

impl Reporter for Nothing {
    fn status(&self) -> Vec<u8> {
        b"{}".to_vec()
    }

    fn poll_interval(&self) -> Duration {
        Duration::from_secs(1)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_disk_holds_up_no_other_node() {
    let (postgres, directory) = (Postgres::start().await, tempfile::tempdir().expect("a directory"));
    let (config, _) = Config::from_toml(&postgres.toml("node-0")).expect("valid");
    let State::Postgres(settings) = config.core.state else { panic!("postgres") };
    let metrics = Arc::new(Metrics::new([]));
    let (shared, keeping) =
        Shared::open(settings, directory.path().join("fleet.json"), metrics).expect("it opens");
    let keys = Arc::new(Keys(Arc::new(Keyring::first(RootKeys::generate()))));
    let slow = Arc::new(Slow { disk: Semaphore::new(1), waits: AtomicBool::new(false) });
    let documents: Vec<Arc<dyn Document>> = vec![Arc::<Slow>::clone(&slow)];
    let running = tokio::spawn(keeping.run(keys, documents, Arc::new(Nothing)));
    eventually("the first state", async || (shared.view().known() == 1).then_some(())).await;
    let pushing = tokio::spawn(async move { shared.push("slow").await });
    eventually("the disk", async || slow.waits.load(Ordering::SeqCst).then_some(())).await;
    postgres.run("SELECT seq FROM kms_head FOR UPDATE NOWAIT").await;
    slow.disk.add_permits(1);
    assert_eq!(pushing.await.expect("no panic"), Ok(()));
    running.abort();
}
