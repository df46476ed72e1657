//! Officers restore a KMS with `kmsctl`, and the process that they restore may be killed at any step.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use cvm_kms::keys::RootKeys;
use cvm_kms::store::{KeyDirectory, Permissions, State};
use kms_simulator::AgentMode;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::http::post;
use crate::support::kmsctl::Desk;
use crate::support::process::Ran;
use crate::support::program::{Program, Setting};
use crate::support::recovery::Officers;
use crate::support::{Answer, World, eventually};

/// The files of all officers on one desk: a test has one machine.
fn desk(world: &World, officers: &Officers) -> Desk {
    let desk = Desk::in_world(world);
    desk.write("manifest.json", officers.manifest());
    for index in 1..=officers.set.files.len() {
        desk.write(&format!("{index}.age"), officers.file(index));
        desk.write(&format!("{index}.key"), officers.identity(index));
    }
    desk
}

/// `kmsctl recovery <verb>` with the share and the key of these officers.
struct Run<'a> {
    verb: &'a str,
    url: String,
    pin: String,
    share: usize,
    key: usize,
    more: &'a [&'a str],
}

impl Run<'_> {
    async fn at(&self, desk: &Desk) -> Ran {
        let (share, key) = (format!("{}.age", self.share), format!("{}.key", self.key));
        let files = ["--share", &share, "--identity", &key];
        let who = ["recovery", self.verb, "--kms", &self.url, "--pin", &self.pin];
        desk.run(&[&who[..], &files, self.more].concat()).await
    }
}

#[track_caller]
fn ended(ran: &Ran, code: i32, text: &str) {
    assert_eq!((ran.code, ran.text().contains(text)), (code, true), "{text}: {}", ran.text());
}

const ROOT: [&str; 2] = ["--dangerous-root", "root.der"];

#[tokio::test]
async fn officers_restore_a_kms_that_has_proved_itself() {
    let root = RootKeys::generate();
    let officers = Officers::of(&root, 2, 3);
    let world = World::onboarding().await;
    let desk = desk(&world, &officers);
    let url = format!("https://localhost:{}", world.address().port());
    let plain = format!("http://localhost:{}", world.address().port());
    let pin = hex::encode(world.cvm.mr_aggregated());
    let run = |verb: &'static str, share: usize, more: &'static [&'static str]| Run {
        verb,
        url: url.clone(),
        pin: pin.clone(),
        share,
        key: share,
        more,
    };
    const OPEN: &[&str] = &["--manifest", "manifest.json", "--yes", ROOT[0], ROOT[1]];
    const SEND: &[&str] = OPEN;

    // Nothing is sent to a server that has not proved what it runs.
    let other = Run { pin: "11".repeat(32), ..run("restore", 1, OPEN) };
    ended(&other.at(&desk).await, 4, "which is not pinned; nothing was sent");
    let intel = run("restore", 1, &["--manifest", "manifest.json", "--yes"]);
    ended(&intel.at(&desk).await, 4, "nothing was sent");
    let plain = Run { url: plain, ..run("restore", 1, OPEN) };
    ended(&plain.at(&desk).await, 2, "starts with https://");
    let tcb = [OPEN, &["--pin-tcb", "SWHardeningNeeded"]].concat();
    let tcb = Run { more: &tcb, ..run("restore", 1, OPEN) };
    ended(&tcb.at(&desk).await, 4, "which --pin-tcb does not name; nothing was sent");
    let unpinned = desk
        .run(&["recovery", "send", "--kms", &url, "--share", "1.age", "--identity", "1.key", "--yes"])
        .await;
    ended(&unpinned, 2, "--pin");
    // Without the manifest neither the share nor the clock could be checked.
    ended(&run("send", 1, &["--yes", ROOT[0], ROOT[1]]).at(&desk).await, 2, "--manifest");
    // The wrong officer, another set, nobody who confirms, no restore yet.
    ended(&Run { key: 2, ..run("restore", 1, OPEN) }.at(&desk).await, 2, "it is for another officer");
    let others = Officers::of(&root, 2, 3);
    desk.write("others.json", others.manifest());
    desk.write("9.age", others.file(1));
    desk.write("9.key", others.identity(1));
    ended(&run("restore", 9, OPEN).at(&desk).await, 2, "9.age does not fit manifest.json");
    let silent = run("restore", 1, &["--manifest", "manifest.json", ROOT[0], ROOT[1]]);
    ended(&silent.at(&desk).await, 2, "there is no terminal to confirm that the share is sent: use --yes");
    ended(&run("send", 1, SEND).at(&desk).await, 3, "kmsctl recovery restore opens one; nothing was sent");
    desk.write("altered.json", officers.manifest().replace("\"threshold\": 2", "\"threshold\": 3"));
    let altered = run("restore", 1, &["--manifest", "altered.json", "--yes", ROOT[0], ROOT[1]]);
    ended(&altered.at(&desk).await, 2, "altered.json: ");
    assert!(world.audited("restore_opened").is_empty());

    let first = run("restore", 1, OPEN).at(&desk).await;
    ended(&first, 0, "The share of officer-1 (index 1) is accepted.");
    for text in [
        format!("It has proved mrAggregated {pin} (pinned), TCB status UpToDate"),
        format!("Recovery set  {}", officers.number()),
        "1 of 2 shares have arrived".to_owned(),
        "officer-2 (2), officer-3 (3)".to_owned(),
    ] {
        assert!(first.text().contains(&text), "{text}: {}", first.text());
    }
    // kmsctl that is started again finds the restore as it is.
    ended(&run("restore", 1, OPEN).at(&desk).await, 3, "the share of officer-1 (index 1) is in already");
    ended(&run("send", 9, SEND).at(&desk).await, 2, "9.age does not fit manifest.json");
    const OTHER: &[&str] = &["--manifest", "others.json", "--yes", ROOT[0], ROOT[1]];
    ended(&run("send", 9, OTHER).at(&desk).await, 3, "and yours is of");
    let shown = desk.json(0, &["recovery", "status", "--kms", &url, "--pin", &pin, ROOT[0], ROOT[1]]).await;
    assert_eq!(shown["ceremony"]["received"], 1, "{shown}");

    let last = run("send", 3, &["--yes", "--manifest", "manifest.json", ROOT[0], ROOT[1]]).at(&desk).await;
    ended(&last, 0, "The root keys are restored and saved.");
    assert!(last.text().contains(&hex::encode(root.k256_public())), "{}", last.text());
    for ran in [&first, &last] {
        for index in 1..=3 {
            assert!(!ran.text().contains(&officers.secret(index)), "the share of officer {index} is printed");
        }
    }
    let finished =
        desk.run(&["finish", "--kms", &format!("http://localhost:{}", world.address().port())]).await;
    assert_eq!(finished.code, 0, "{}", finished.text());
    assert_eq!(world.root_keys().k256_public(), root.k256_public());
    // Keys that exist are never replaced, and the command says so before it asks.
    ended(&run("restore", 2, OPEN).at(&desk).await, 3, "it serves keys already");
}

#[tokio::test]
async fn officers_see_what_they_send_to_and_a_restore_for_another_name_gets_no_share() {
    let officers = Officers::of(&RootKeys::generate(), 2, 3);
    let world = World::onboarding().await;
    let desk = desk(&world, &officers);
    let url = format!("https://localhost:{}", world.address().port());
    let pin = hex::encode(world.cvm.mr_aggregated());
    let status = ["recovery", "status", "--kms", &url, "--pin", &pin, ROOT[0], ROOT[1]];
    let shown = desk.json(0, &status).await;
    assert_eq!((&shown["plan"], &shown["kms"]["policy"]), (&Value::Null, &json!("allowlist")), "{shown}");
    let digest = shown["kms"]["policy_digest"].as_str().expect("that of the allowlist");
    // Whoever reaches it first opened it, with the right set and the name of another machine.
    let path = "/recovery/restore?domain=other.example";
    let opened = world.caller().send(post(path, officers.manifest())).await;
    assert_eq!(opened.status, 200, "{}", opened.text());
    let run = |verb: &'static str, share: usize, more: &'static [&'static str]| Run {
        verb,
        url: url.clone(),
        pin: pin.clone(),
        share,
        key: share,
        more,
    };
    const MORE: &[&str] = &["--manifest", "manifest.json", "--yes", ROOT[0], ROOT[1]];
    const NAMED: &[&str] =
        &["--manifest", "manifest.json", "--yes", ROOT[0], ROOT[1], "--domain", "other.example"];
    for verb in ["restore", "send"] {
        ended(&run(verb, 1, MORE).at(&desk).await, 3, "the restore gives it the name other.example");
    }
    let shown = desk.json(0, &status).await;
    assert_eq!(
        (&shown["ceremony"]["received"], &shown["plan"]["domain"]),
        (&json!(0), &json!("other.example"))
    );
    assert_eq!(shown["plan"]["epochs"], json!([0]));
    let sent = run("send", 1, NAMED).at(&desk).await;
    ended(&sent, 0, "The share of officer-1 (index 1) is accepted.");
    assert!(sent.text().contains(&format!("policy allowlist, digest {digest}")), "{}", sent.text());
    ended(&run("restore", 2, NAMED).at(&desk).await, 0, "The root keys are restored and saved.");
}

#[tokio::test]
async fn a_kms_that_cannot_prove_itself_gets_no_share() {
    let officers = Officers::of(&RootKeys::generate(), 2, 2);
    let mut world = World::stopped_with("").await;
    world.agent.set_mode(AgentMode::Down);
    world.start().await.expect("it starts");
    let desk = desk(&world, &officers);
    let url = format!("https://localhost:{}", world.address().port());
    let pin = hex::encode(world.cvm.mr_aggregated());
    let more = &["--manifest", "manifest.json", "--yes", ROOT[0], ROOT[1]];
    let run = Run { verb: "restore", url, pin, share: 1, key: 1, more };
    ended(&run.at(&desk).await, 4, "its TLS certificate carries no attestation; nothing was sent");
    assert!(world.audited("restore_opened").is_empty());
}

/// A process that officers restore.
struct Node {
    setting: Setting,
    program: Option<Program>,
}

/// When the process is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// After the manifest.
    Opened,
    /// After a share that is not the last.
    Share,
    /// As soon as this name is in the key directory, after the last share was sent.
    Appeared(&'static str),
    /// As soon as the response to the last share has arrived.
    Answered,
}

impl Node {
    async fn empty() -> Self {
        let setting = Setting::with("").await;
        let program = Some(setting.start_logging("trace").await);
        Self { setting, program }
    }

    async fn post(&self, path: &str, body: String) -> Option<Answer> {
        self.setting.caller().try_send(post(path, body)).await.ok()
    }

    async fn sent(&self, officers: &Officers, index: usize) -> Option<Answer> {
        self.post("/recovery/shares", officers.share(index)).await
    }

    async fn opened(&self, officers: &Officers) {
        let answer = self.post("/recovery/restore", officers.manifest()).await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    async fn kill(&mut self) {
        let mut program = self.program.take().expect("it runs");
        program.signal(Signal::KILL);
        program.ended().await;
    }

    /// Does the ceremony up to the moment, and kills the process; the response to the last share, if it came.
    async fn killed_at(&mut self, moment: Moment, officers: &Officers) -> Option<Answer> {
        self.opened(officers).await;
        if matches!(moment, Moment::Opened) {
            self.kill().await;
            return None;
        }
        assert_eq!(self.sent(officers, 1).await.expect("an answer").status, 200);
        let answered = match moment {
            Moment::Opened | Moment::Share => None,
            Moment::Answered => self.sent(officers, 2).await,
            Moment::Appeared(name) => {
                let pid = self.program.as_ref().expect("it runs").pid();
                let path = self.setting.world.path("certs").join(name);
                // On a thread of its own without pauses, because a commit takes milliseconds.
                let watching = tokio::task::spawn_blocking(move || {
                    let began = Instant::now();
                    while path.symlink_metadata().is_err() && began.elapsed() < Duration::from_secs(20) {}
                    rustix::process::kill_process(pid, Signal::KILL).expect("it runs");
                });
                let answered = self.sent(officers, 2).await;
                watching.await.expect("a kill");
                answered
            }
        };
        self.kill().await;
        answered
    }
}

/// All files below a directory that hold these bytes.
fn holding(directory: &Path, secret: &[u8], found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            holding(&entry.path(), secret, found);
        } else if kind.is_file() {
            let content = std::fs::read(entry.path()).expect("a file");
            if content.windows(secret.len()).any(|window| window == secret) {
                found.insert(entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kms_killed_at_any_step_of_a_restore_is_empty_or_complete_and_leaves_no_secret() {
    let root = RootKeys::generate();
    let (mut nothing, mut everything) = (0, 0);
    for moment in [
        Moment::Opened,
        Moment::Share,
        Moment::Appeared(".staging"),
        Moment::Appeared(".staging/rpc-domain"),
        Moment::Appeared(".commit"),
        Moment::Appeared("root-ca.key"),
        Moment::Answered,
    ] {
        let officers = Officers::of(&root, 2, 3);
        let mut node = Node::empty().await;
        let answered = node.killed_at(moment, &officers).await;
        let certs = node.setting.world.path("certs");
        if matches!(moment, Moment::Opened | Moment::Share) {
            let mut kept = BTreeSet::new();
            for scalar in [root.ca().scalar(), root.k256().scalar()] {
                holding(&node.setting.world.path(""), &scalar[..], &mut kept);
            }
            assert!(kept.is_empty(), "{moment:?}: {kept:?}");
        }
        let directory = KeyDirectory::open(&certs, Permissions::OwnerOnly).expect("a directory");
        let is_complete = match directory.state().expect("readable") {
            State::Empty => false,
            State::Complete(_) => true,
            State::Broken { reason, .. } => panic!("{moment:?}: {reason}"),
        };
        drop(directory);
        if let Some(answer) = &answered {
            assert_eq!(answer.status, 200, "{moment:?}: {}", answer.text());
            assert!(is_complete, "{moment:?}: it said that the keys are restored");
        }
        // Neither logs at the highest level nor any other file hold a share, or a root key in another form than its own.
        let mut kept = BTreeSet::new();
        for index in 1..=2 {
            let digits = officers.secret(index);
            holding(&node.setting.world.path(""), digits.as_bytes(), &mut kept);
            holding(&node.setting.world.path(""), &hex::decode(digits).expect("hex"), &mut kept);
        }
        for scalar in [root.ca().scalar(), root.k256().scalar()] {
            holding(&node.setting.world.path(""), hex::encode(&scalar[..]).as_bytes(), &mut kept);
        }
        assert!(kept.is_empty(), "{moment:?}: {kept:?}");

        node.program = Some(node.setting.start().await);
        if is_complete {
            everything += 1;
        } else {
            nothing += 1;
            let mut status: Value = node.setting.caller().get("/recovery").await.value();
            assert!(status["kms"].take().is_object(), "{moment:?}");
            let nothing_open = json!({ "ceremony": null, "plan": null, "kms": null, "restored": null });
            assert_eq!(status, nothing_open, "{moment:?}");
            node.opened(&officers).await;
            for index in [2, 3] {
                let answer = node.sent(&officers, index).await.expect("an answer");
                assert_eq!(answer.status, 200, "{moment:?}: {}", answer.text());
            }
            let finished = node.setting.caller().plain().json("Finish", json!({})).await;
            assert_eq!(finished.status, 200, "{moment:?}");
        }
        eventually("GetMeta", async || {
            let answer = node.setting.caller().try_json("GetMeta", json!({})).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        assert_eq!(node.setting.world.root_keys().k256_public(), root.k256_public(), "{moment:?}");
        assert!(!node.setting.world.audited("keys_restored").is_empty(), "{moment:?}: no line, no keys");
        node.kill().await;
    }
    assert!(nothing >= 2 && everything >= 1, "{nothing} times nothing, {everything} times everything");
}
