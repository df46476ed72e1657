//! Guests of one app that request their keys repeatedly, and a comparison of the releases with the audit log.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cvm_kms::audit::segments;
use kms_ledger::compressed::Stored;
use kms_simulator::Cvm;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::program::Setting;
use super::{Caller, Identity, World, eventually, http};

/// The longest wait for a response.
const PATIENCE: Duration = Duration::from_secs(12);
const PAUSE: Duration = Duration::from_millis(5);

/// Guests, each with its own instance id.
pub struct Guests {
    guests: Vec<(String, Caller)>,
    answers: Mutex<Answers>,
    has_ended: AtomicBool,
}

#[derive(Default)]
struct Answers {
    /// How often each instance received its keys.
    handed: HashMap<String, usize>,
    /// How often each other status was received.
    refused: HashMap<u16, usize>,
}

impl Guests {
    /// `count` instances of an app of `world`, which is now allowed.
    pub fn of(world: &World, caller: &Caller, count: u32) -> Arc<Self> {
        let guest = |number: u32| {
            let mut instance = [0xf0; 20];
            instance[..4].copy_from_slice(&number.to_be_bytes());
            let builder = Cvm::builder(&world.platform).app_id([0x77; 20]).compose_hash([0x77; 32]);
            builder.instance_id(&instance).build()
        };
        let cvms: Vec<_> = (0..count).map(guest).collect();
        world.allow_app(cvms.first().expect("a guest"));
        let guests = cvms
            .iter()
            .map(|cvm| (hex::encode(cvm.instance_id()), caller.shows(&Identity::self_issued(cvm))));
        Arc::new(Self {
            guests: guests.collect(),
            answers: Mutex::default(),
            has_ended: AtomicBool::new(false),
        })
    }

    /// Each guest requests keys on a connection that it keeps while it lasts, with `pause` after each
    /// response, until [`Guests::end`].
    pub fn ask(self: &Arc<Self>, pause: Duration) -> JoinSet<()> {
        self.has_ended.store(false, Ordering::Relaxed);
        let ask = |number| {
            let guests = Arc::clone(self);
            async move { guests.ask_as(number, pause).await }
        };
        (0..self.guests.len()).map(ask).collect()
    }

    async fn ask_as(&self, number: usize, pause: Duration) {
        let (instance, caller) = &self.guests[number];
        while !self.has_ended() {
            if let Ok(Ok(mut line)) = timeout(PATIENCE, caller.connect()).await {
                let mut ask = async || line.try_send(http::json("GetAppKey", json!({}))).await;
                while let Ok(Ok(answer)) = timeout(PATIENCE, ask()).await {
                    self.count(instance, answer.status);
                    tokio::time::sleep(pause).await;
                    if self.has_ended() {
                        return;
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn count(&self, instance: &str, status: u16) {
        let mut answers = self.answers();
        if status == 200 {
            *answers.handed.entry(instance.to_owned()).or_default() += 1;
        } else {
            *answers.refused.entry(status).or_default() += 1;
        }
    }

    /// Stops all guests.
    pub fn end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }

    /// How often keys were released.
    pub fn handed(&self) -> usize {
        self.answers().handed.values().sum()
    }

    /// How often this status was received instead.
    pub fn refused(&self, status: u16) -> usize {
        self.answers().refused.get(&status).copied().unwrap_or_default()
    }

    /// Checks that the audit log has a line for each release; returns its number of releases.
    pub fn account(&self, world: &World) -> Result<usize, String> {
        let files = segments(&world.key_file("audit.jsonl")).map_err(|error| error.to_string())?;
        let mut lines: HashMap<String, usize> = HashMap::new();
        for file in files {
            // A closed file is compressed at some time.
            let mut text = String::new();
            let stored = Stored::open(&file).map_err(|error| error.to_string())?;
            stored.reader().read_to_string(&mut text).map_err(|error| error.to_string())?;
            for line in text.lines() {
                // The last line may be incomplete.
                let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
                if line["event"] == "app_key_released" {
                    let instance = line["instance_id"].as_str().unwrap_or_default();
                    *lines.entry(instance.to_owned()).or_default() += 1;
                }
            }
        }
        for (instance, handed) in &self.answers().handed {
            let recorded = lines.get(instance).copied().unwrap_or_default();
            if recorded < *handed {
                return Err(format!("{instance} got its keys {handed} times and has {recorded} lines"));
            }
        }
        Ok(lines.values().sum())
    }

    fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().expect("no panic")
    }
}

/// The result of [`killed_under_load`].
pub struct Killed {
    /// How often it was killed.
    pub kills: u32,
    /// How often keys were released.
    pub handed: usize,
    /// How many releases are in the audit log.
    pub recorded: usize,
}

/// Starts the program and kills it while guests receive keys, repeatedly while `goes_on` says so; then every
/// release must be in a log that verifies. The setting makes keys by itself.
pub async fn killed_under_load(setting: &Setting, goes_on: impl Fn(u32) -> bool) -> Result<Killed, String> {
    let guests = Guests::of(&setting.world, &setting.caller(), 8);
    let mut kills = 0;
    while goes_on(kills) {
        let program = setting.start().await;
        let before = guests.handed();
        let asking = guests.ask(Duration::ZERO);
        eventually("guests get their keys", async || (guests.handed() >= before + 8).then_some(())).await;
        // At different moments of a release.
        tokio::time::sleep(Duration::from_micros(u64::from(kills) * 7_919 % 50_000)).await;
        program.signal(Signal::KILL);
        guests.end();
        asking.join_all().await;
        drop(program);
        kills += 1;
    }
    let program = setting.start().await;
    if program.stop(Signal::TERM).await != Some(0) {
        return Err("it does not end in order".to_owned());
    }
    let log = setting.world.key_file("audit.jsonl");
    let verified = setting.run(&["audit", "verify", log.to_str().expect("text")]).await;
    if verified.code != 0 {
        return Err(verified.text());
    }
    Ok(Killed { kills, handed: guests.handed(), recorded: guests.account(&setting.world)? })
}
