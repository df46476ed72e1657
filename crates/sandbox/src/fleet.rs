//! CVMs that reboot again and again, so that a running sandbox has something to show. Some of them are denied,
//! each for another reason.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Result;
use kms_attest::p256::P256Key;
use kms_attest::verify::Verifier;
use kms_client::sign::LeafRequest;
use kms_client::{AppKeys, Connection, KmsUrl, Trust};
use kms_simulator::{Cvm, TcbLevel};
use sha2::{Digest as _, Sha256};

use crate::allow;
use crate::env::{Env, Host, Machine};
use crate::guest::fetch;
use crate::state::StateDir;

/// The mean time between the first two boots.
const FIRST_PAUSE: f64 = 0.8;
/// By how much the mean grows with each boot. In the first ten minutes, in which people try the console, what they
/// have just allowed boots again within about two minutes.
const SLOWING: f64 = 1.005;
/// The largest mean, seconds: about three thousand boots a day.
const LAST_PAUSE: f64 = 30.0;

/// What is wrong with a CVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// Its app is not in the allowlist.
    UnknownApp,
    /// Its app has another compose file in the allowlist.
    OtherCompose,
    /// Its OS image is not in the allowlist.
    OtherImage,
    /// Its app is allowed on the other host only.
    OtherHost,
    /// Its memory can be read by the host.
    Debug,
    /// Its host lacks updates.
    OutOfDate,
}

/// App, instance, host and flaw of each CVM.
const CVMS: [(&str, u8, Host, Flaw); 13] = [
    ("payments", 1, Host::First, Flaw::None),
    ("payments", 2, Host::First, Flaw::None),
    ("payments", 3, Host::Second, Flaw::None),
    ("payments", 4, Host::Second, Flaw::OtherImage),
    ("gateway", 1, Host::First, Flaw::None),
    ("gateway", 2, Host::Second, Flaw::None),
    ("search", 1, Host::First, Flaw::None),
    ("search", 2, Host::First, Flaw::OtherCompose),
    ("ledger-sync", 1, Host::First, Flaw::None),
    ("ledger-sync", 2, Host::Second, Flaw::OtherHost),
    ("scratch", 1, Host::Second, Flaw::UnknownApp),
    ("search", 3, Host::First, Flaw::Debug),
    ("gateway", 3, Host::First, Flaw::OutOfDate),
];

/// The app that also has a certificate issued at each boot.
const WITH_CERTIFICATE: &str = "gateway";

/// A fixed set of CVMs, and the order and pace in which they boot.
pub(crate) struct Fleet {
    members: Vec<Member>,
    verifier: Verifier,
    chance: Chance,
    deck: Vec<usize>,
    pause: f64,
}

struct Member {
    app: &'static str,
    flaw: Flaw,
    machine: Machine,
}

impl Fleet {
    /// Builds the CVMs, and allows those without a flaw.
    pub(crate) async fn build(state: &StateDir, env: &Env) -> Result<Self> {
        let mut members = Vec::new();
        for (app, instance, host, flaw) in CVMS {
            let app_id = first_20(&digest(&format!("kms-sandbox app {app}")));
            let compose = digest(&format!("kms-sandbox compose file of {app}"));
            let seed = digest(&format!("kms-sandbox instance {instance} of {app}"));
            let cvm = Cvm::builder(env.host(host)).app_id(app_id).instance_id(&first_20(&seed));
            let cvm = match flaw {
                Flaw::OtherCompose => {
                    cvm.compose_hash(digest(&format!("kms-sandbox next compose file of {app}")))
                }
                Flaw::None
                | Flaw::UnknownApp
                | Flaw::OtherImage
                | Flaw::OtherHost
                | Flaw::Debug
                | Flaw::OutOfDate => cvm.compose_hash(compose),
            };
            let cvm = match flaw {
                Flaw::OtherImage => cvm.os_image_hash(digest("kms-sandbox next OS image")),
                Flaw::Debug => cvm.debug(),
                Flaw::OutOfDate => cvm.tcb(TcbLevel::OutOfDate),
                Flaw::None | Flaw::UnknownApp | Flaw::OtherCompose | Flaw::OtherHost => cvm,
            };
            let cvm = cvm.build();
            if flaw == Flaw::None {
                let device = cvm.platform().device_id();
                allow::app(state, &app_id, &compose, &device, cvm.os_image_hash())?;
            }
            let machine = env.serve(&format!("{app}-{instance}"), cvm).await?;
            members.push(Member { app, flaw, machine });
        }
        let chance = Chance { seed: digest(&hex::encode(state.seed()?)), drawn: 0 };
        Ok(Self { members, verifier: env.verifier()?, chance, deck: Vec::new(), pause: FIRST_PAUSE })
    }

    /// How many CVMs there are, and how many of them are denied.
    pub(crate) fn size(&self) -> (usize, usize) {
        let denied = self.members.iter().filter(|member| member.flaw != Flaw::None).count();
        (self.members.len(), denied)
    }

    /// Boots one CVM after the other, without end: first one a second, later two a minute.
    pub(crate) async fn live(&mut self, kms: KmsUrl) -> Infallible {
        loop {
            let next = self.next();
            if let Some(member) = self.members.get(next) {
                member.boot(&self.verifier, &kms).await;
            }
            let pause = self.pause * (0.5 + self.chance.fraction());
            self.pause = (self.pause * SLOWING).min(LAST_PAUSE);
            tokio::time::sleep(Duration::from_secs_f64(pause)).await;
        }
    }

    /// The next CVM to boot: all in a random order, those without a flaw twice as often, then again.
    fn next(&mut self) -> usize {
        if self.deck.is_empty() {
            let again = self.members.iter().enumerate().filter(|(_, member)| member.flaw == Flaw::None);
            self.deck = (0..self.members.len()).chain(again.map(|(index, _)| index)).collect();
            for last in (1..self.deck.len()).rev() {
                self.deck.swap(last, self.chance.below(last + 1));
            }
        }
        self.deck.pop().unwrap_or_default()
    }
}

impl Member {
    /// Requests the keys, and a certificate if the app has one. The outcome is in the KMS's audit log, which
    /// is what people look at; an operator may stop or break the KMS meanwhile.
    async fn boot(&self, verifier: &Verifier, kms: &KmsUrl) {
        if let Ok(Ok(keys)) = fetch(&self.machine, verifier, kms.clone()).await
            && self.app == WITH_CERTIFICATE
        {
            let _ = self.certificate(&keys, kms).await;
        }
    }

    async fn certificate(&self, keys: &AppKeys, kms: &KmsUrl) -> Result<()> {
        let attester = self.machine.attester()?;
        let connection = Connection::open(kms, Trust::RootCa(&keys.response.ca_cert), None).await?;
        let name = format!("{}.example", self.app);
        let leaf = LeafRequest {
            subject: name.clone(),
            names: vec![name],
            server_auth: true,
            with_app_info: true,
            ..LeafRequest::default()
        };
        connection.sign_cert(&leaf, &P256Key::generate(), &attester, self.machine.cvm.vm_config()).await?;
        Ok(())
    }
}

/// Numbers that are random to people and the same for the same seed.
struct Chance {
    seed: [u8; 32],
    drawn: u64,
}

impl Chance {
    fn draw(&mut self) -> u32 {
        self.drawn += 1;
        let hash: [u8; 32] =
            Sha256::new().chain_update(self.seed).chain_update(self.drawn.to_be_bytes()).finalize().into();
        let [a, b, c, d, ..] = hash;
        u32::from_be_bytes([a, b, c, d])
    }

    /// From 0 up to 1.
    fn fraction(&mut self) -> f64 {
        f64::from(self.draw()) / (f64::from(u32::MAX) + 1.0)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.draw() as usize % limit
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

fn first_20(hash: &[u8; 32]) -> [u8; 20] {
    let (first, _) = hash.split_first_chunk().expect("32 bytes have 20");
    *first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_cvm_boots_before_any_boots_a_third_time_and_the_order_follows_the_seed() {
        let home = tempfile::tempdir().expect("directory");
        let state = StateDir::open(Some(home.path().to_owned())).expect("state");
        allow::prepare(&state).expect("an allowlist");
        let env = Env::start(&state).await.expect("machines");
        let order = |mut fleet: Fleet| {
            let (all, denied) = fleet.size();
            (0..2 * all - denied).map(|_| fleet.next()).collect::<Vec<_>>()
        };
        let fleet = Fleet::build(&state, &env).await.expect("CVMs");
        let first = order(fleet);
        for (index, (app, _, _, flaw)) in CVMS.iter().enumerate() {
            let times = first.iter().filter(|booted| **booted == index).count();
            assert_eq!(times, if *flaw == Flaw::None { 2 } else { 1 }, "{app} {index}");
        }
        assert_eq!(order(Fleet::build(&state, &env).await.expect("CVMs")), first);
        let text = state.read("auth-config.json").expect("readable").expect("there");
        for (app, _, _, flaw) in CVMS {
            let listed = text.contains(&hex::encode(first_20(&digest(&format!("kms-sandbox app {app}")))));
            assert_eq!(listed, flaw != Flaw::UnknownApp, "{app}");
        }
    }
}
