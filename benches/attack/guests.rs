//! Many guests, kills, and a long run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cvm_kms::proto::GetTempCaCertResponse;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use kms_simulator::Cvm;
use serde_json::json;

use crate::support::guests::{Guests, killed_under_load};
use crate::support::program::Setting;
use crate::support::{Caller, Identity, http};
use crate::target::Target;
use crate::wire::many;
use crate::{Attack, Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    Case { attack: Attack::Alone(kills), ..Case::new("kill -9 under load", soak) },
    Case { max_p99: Duration::from_secs(8), ..Case::new("boot storm", boot_storm) },
    Case::new("soak", soak),
];

/// Number of CVMs in a boot storm; fewer in a short run.
const STORM: u32 = 1500;
const SMALL_STORM: u32 = 300;

/// Kills the KMS repeatedly while guests request keys.
fn kills(setting: &Setting, until: Instant) -> LocalBoxFuture<'_, Outcome> {
    async move {
        let killed = killed_under_load(setting, |kills| kills == 0 || Instant::now() < until).await?;
        Ok(format!("{} kills; {} keys handed out, {} lines", killed.kills, killed.handed, killed.recorded))
    }
    .boxed_local()
}

/// CVMs that boot at the same time: each fetches the temporary CA and then its keys on its own connections,
/// with evidence that is new to the KMS.
fn boot_storm(target: &Target, until: Instant) -> LocalBoxFuture<'_, Outcome> {
    async move {
        let is_short = until.saturating_duration_since(Instant::now()) < Duration::from_secs(5);
        let count = if is_short { SMALL_STORM } else { STORM };
        let caller = target.caller();
        let guests = identities(target, &caller, count).await;
        let slowest = AtomicU64::new(0);
        let began = Instant::now();
        let booting = guests.iter().map(|guest| async {
            let ca = caller.try_json("GetTempCaCert", json!({})).await.map(|answer| answer.status);
            let keys = guest.try_json("GetAppKey", json!({})).await.map(|answer| answer.status);
            let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            slowest.fetch_max(took, Ordering::Relaxed);
            match (ca, keys) {
                (Ok(200), Ok(200)) => Ok(()),
                other => Err(format!("{other:?} after {took} ms")),
            }
        });
        let booted = futures_util::future::join_all(booting).await;
        let failed: Vec<_> = booted.into_iter().filter_map(Result::err).collect();
        if let Some(first) = failed.first() {
            return Err(format!("{} of {count} CVMs have no keys: {first}", failed.len()));
        }
        Ok(format!(
            "{count} CVMs have their keys, the last after {:.1} s",
            slowest.into_inner() as f64 / 1000.0
        ))
    }
    .boxed_local()
}

/// The callers of `count` instances of an allowed app.
async fn identities(target: &Target, caller: &Caller, count: u32) -> Vec<Caller> {
    let world = &target.setting.world;
    let ca: GetTempCaCertResponse = caller.json("GetTempCaCert", json!({})).await.message();
    let cvms: Vec<_> = (0..count)
        .map(|number| {
            let builder = Cvm::builder(&world.platform).app_id([0x66; 20]).compose_hash([0x66; 32]);
            let mut instance = [0x66; 20];
            instance[..4].copy_from_slice(&number.to_be_bytes());
            builder.instance_id(&instance).build()
        })
        .collect();
    world.allow_app(&cvms[0]);
    let making = async |cvms: &[std::sync::Arc<Cvm>]| {
        let (ca, caller, cvms) = (ca.clone(), caller.clone(), cvms.to_vec());
        let make =
            move || cvms.iter().map(|cvm| caller.shows(&Identity::attested(&ca, cvm))).collect::<Vec<_>>();
        tokio::task::spawn_blocking(make).await.expect("identities")
    };
    let (left, right) = cvms.split_at(cvms.len() / 2);
    let (mut left, right) = tokio::join!(making(left), making(right));
    left.extend(right);
    left
}

/// Usual and some malformed requests for a long time; memory and descriptors must not grow.
fn soak(target: &Target, until: Instant) -> LocalBoxFuture<'_, Outcome> {
    async move {
        let idle = target.descriptors();
        let began = Instant::now();
        let time = until.saturating_duration_since(began);
        let caller = target.caller();
        let guests = Guests::of(&target.setting.world, &caller, 16);
        let asking = guests.ask(Duration::from_millis(600));
        let booting = identities(target, &caller, 64).await;
        let stranger = caller.shows(&Identity::self_issued(&target.setting.world.app(2)));
        let calls = many(4, until, |number| {
            let (caller, stranger, booting) = (&caller, &stranger, &booting);
            async move {
                let calls = [
                    caller.try_json("GetMeta", json!({})).await,
                    caller.http1().try_send(http::request("GET", "/metrics", "")).await,
                    stranger.try_json("GetAppKey", json!({})).await,
                    caller.try_json("SignCert", json!({ "csr": "junk" })).await,
                    caller.try_send(http::post("/prpc/SignCert", vec![b'x'; 64 * 1024])).await,
                    booting[(Instant::now() - began).as_millis() as usize % booting.len()]
                        .try_json("GetAppKey", json!({}))
                        .await,
                ];
                if let Ok(mut half) = target.tls(1 + number as u8, caller).await {
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut half, b"PRI * HT").await;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                calls.iter().filter(|call| call.is_ok()).count() as u64
            }
        });
        // The largest size in each quarter of the time.
        let sampling = async {
            let mut quarters = [0_u64; 4];
            while Instant::now() < until {
                let quarter = began.elapsed().as_millis() * 4 / time.as_millis().max(1);
                let most = &mut quarters[(quarter as usize).min(3)];
                *most = target.memory().max(*most);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            quarters
        };
        let (calls, quarters) = tokio::join!(calls, sampling);
        guests.end();
        asking.join_all().await;
        let mut open = target.descriptors();
        let patience = Instant::now() + Duration::from_secs(10);
        while open > idle + 4 && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(50)).await;
            open = target.descriptors();
        }
        let did = format!(
            "{calls} calls, {} keys; MiB by quarter {}; descriptors {idle} → {open}",
            guests.handed(),
            quarters.map(|kib| format!("{:.1}", kib as f64 / 1024.0)).join(" ")
        );
        guests.account(&target.setting.world)?;
        if open > idle + 4 {
            return Err(format!("descriptors stay open: {did}"));
        }
        // The caches fill in the first quarters.
        if quarters[3] > quarters[1] + quarters[1] / 4 + 8 * 1024 {
            return Err(format!("memory grows: {did}"));
        }
        Ok(did)
    }
    .boxed_local()
}
