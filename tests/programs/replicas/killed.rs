//! A replica or its source that is killed during onboarding restarts empty or complete.

use std::collections::BTreeSet;
use std::fs::DirEntry;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use cvm_kms::store::{KeyDirectory, Permissions, State};
use rustix::process::{Pid, Signal};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Node;
use crate::support::{Answer, World};

const DOMAIN: &str = "replica.example";

/// When the process is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// After this fraction of the usual duration, in twentieths.
    After(u32),
    /// As soon as the source has recorded that it hands its keys over.
    Released,
    /// As soon as this name is in the key directory.
    Appeared(&'static str),
    /// While this directory of a commit exists: the process runs in short steps, and is stopped while the
    /// test checks.
    Within(&'static str),
    /// As soon as the response has arrived.
    Answered,
}

async fn onboard(node: &Node, source: &World) -> Option<Answer> {
    let url = format!("https://{}", source.address());
    let body = json!({ "source_url": url, "domain": DOMAIN });
    node.caller().plain().try_json("Onboard", body).await.ok()
}

/// Calls `Onboard` and kills the process at the moment; returns the response, if it came before.
async fn killed_at(moment: Moment, usual: Duration, node: &mut Node, source: &World) -> Option<Answer> {
    let released = source.audited("kms_key_released").len();
    let directory = node.setting.world.path("certs");
    let program = node.program.take().expect("it runs");
    let pid = program.pid();
    let kill = move || rustix::process::kill_process(pid, Signal::KILL).expect("it runs");
    // On a thread of its own without pauses, because a commit takes milliseconds.
    let watch = |is_there: Box<dyn Fn() -> bool + Send>| {
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            while !is_there() && began.elapsed() < Duration::from_secs(20) {}
            kill();
        })
    };
    let answered = match moment {
        Moment::After(twentieths) => {
            let killing = async {
                sleep(usual * twentieths / 20).await;
                kill();
            };
            tokio::join!(onboard(node, source), killing).0
        }
        Moment::Released => {
            let log = source.key_file("audit.jsonl");
            let watching = watch(Box::new(move || {
                let text = std::fs::read_to_string(&log).expect("audit log");
                text.matches("\"kms_key_released\"").count() > released
            }));
            let answered = onboard(node, source).await;
            watching.await.expect("a kill");
            answered
        }
        Moment::Appeared(name) => {
            let path = directory.join(name);
            let watching = watch(Box::new(move || path.symlink_metadata().is_ok()));
            let answered = onboard(node, source).await;
            watching.await.expect("a kill");
            answered
        }
        Moment::Within(name) => {
            let path = directory.join(name);
            let watching = tokio::task::spawn_blocking(move || {
                let began = Instant::now();
                let goes_on = || began.elapsed() < Duration::from_secs(20);
                // The record that a commit waits for.
                let is_recorded = || {
                    let log = std::fs::read_to_string(directory.join("audit.jsonl"));
                    log.is_ok_and(|text| text.contains("\"keys_received\""))
                };
                while !is_recorded() && goes_on() {}
                loop {
                    hold(pid);
                    if path.symlink_metadata().is_ok() || directory.join("rpc-domain").exists() || !goes_on()
                    {
                        break kill();
                    }
                    rustix::process::kill_process(pid, Signal::CONT).expect("it runs");
                    // A step is a few of the hundred system calls of a commit.
                    let step = Instant::now();
                    while step.elapsed() < Duration::from_micros(200) {}
                }
            });
            let answered = onboard(node, source).await;
            watching.await.expect("a kill");
            answered
        }
        Moment::Answered => {
            let answered = onboard(node, source).await;
            kill();
            answered
        }
    };
    drop(program);
    answered
}

/// Stops a process and waits until all its threads have stopped.
fn hold(pid: Pid) {
    rustix::process::kill_process(pid, Signal::STOP).expect("it runs");
    let threads = format!("/proc/{}/task", pid.as_raw_nonzero());
    let is_held = |thread: std::io::Result<DirEntry>| {
        // A thread that has ended meanwhile does nothing either.
        let Ok(text) = std::fs::read_to_string(thread.expect("it runs").path().join("stat")) else {
            return true;
        };
        text.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
    };
    let began = Instant::now();
    while !std::fs::read_dir(&threads).expect("it runs").all(is_held) {
        assert!(began.elapsed() < Duration::from_secs(5), "the process does not stop");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_killed_at_any_moment_of_onboarding_is_empty_or_complete() {
    let source = World::ready().await;
    let expected = source.root_keys();
    let usual = {
        let node = Node::empty("").await;
        let began = Instant::now();
        assert_eq!(onboard(&node, &source).await.expect("an answer").status, 200);
        began.elapsed()
    };
    let (mut nothing, mut everything, mut interrupted) = (0, 0, 0);
    let moments = [1, 4, 8, 12, 16, 18, 20, 22].map(Moment::After).into_iter().chain([
        Moment::Released,
        Moment::Appeared(".staging"),
        Moment::Appeared(".staging/rpc-domain"),
        Moment::Appeared(".commit"),
        Moment::Appeared("root-ca.key"),
        Moment::Appeared("rpc-domain"),
        Moment::Answered,
    ]);
    // On a busy machine a commit may complete between two checks; such a moment is tried again.
    let within = [".staging", ".commit"].into_iter().flat_map(|name| [Moment::Within(name); 40]);
    let mut reached = BTreeSet::new();
    for moment in moments.chain(within) {
        if matches!(moment, Moment::Within(name) if reached.contains(name)) {
            continue;
        }
        let mut node = Node::empty("").await;
        let answered = killed_at(moment, usual, &mut node, &source).await;
        let certs = node.setting.world.path("certs");
        let left: Vec<_> =
            [".staging", ".commit"].into_iter().filter(|name| certs.join(name).exists()).collect();
        interrupted += usize::from(!left.is_empty());
        reached.extend(left);
        let directory = KeyDirectory::open(&certs, Permissions::OwnerOnly).expect("a directory");
        let is_complete = match directory.state().expect("readable") {
            State::Empty => false,
            State::Complete(stored) => {
                assert_eq!(stored.keyring.epochs()[0].public().ca_spki, expected.ca_spki(), "{moment:?}");
                assert_eq!(stored.keyring.epochs()[0].public().k256, expected.k256_public(), "{moment:?}");
                assert_eq!(stored.domain.as_deref(), Some(DOMAIN), "{moment:?}");
                assert_eq!(stored.bootstrap_info, None, "{moment:?}");
                true
            }
            State::Broken { reason, .. } => panic!("{moment:?}: {reason}"),
        };
        drop(directory);
        if let Some(answer) = &answered {
            assert_eq!(answer.status, 200, "{moment:?}: {answer:?}");
            assert!(is_complete, "{moment:?}: it said that it has the keys");
        }
        // It restarts with the keys, or can request them again.
        node.restart().await;
        if is_complete {
            everything += 1;
            node.serves().await;
        } else {
            nothing += 1;
            assert!(!matches!(moment, Moment::Answered), "an answer was given");
            let answer = onboard(&node, &source).await.expect("an answer");
            assert_eq!(answer.status, 200, "{moment:?}: {answer:?}");
            node.finish().await;
        }
        assert_eq!(node.meta().await.k256_pubkey, expected.k256_public(), "{moment:?}");
        node.stop().await;
        assert!(!node.setting.world.audited("keys_received").is_empty(), "{moment:?}: no line, no keys");
    }
    println!(
        "{nothing} times nothing, {everything} times everything, {interrupted} in a commit, in {usual:?}"
    );
    assert!(nothing > 0 && everything > 0, "{nothing} times nothing, {everything} times everything");
    assert!(interrupted >= 2, "{interrupted} kills hit a commit");
    assert_eq!(reached, BTreeSet::from([".commit", ".staging"]), "each half of a commit was interrupted");
}

/// The point at which the source dies during a handover; its last message is lost.
#[derive(Clone, Copy, Debug)]
struct Fatal {
    /// Number of the connection, from 0.
    connection: usize,
    /// The number of the message from the source on it; `None`: before the connection is accepted.
    piece: Option<usize>,
}

/// Forwards connections to `source` until the fatal point, at which `kill` is called. Returns its address.
async fn gate(
    source: SocketAddr,
    fatal: Fatal,
    kill: impl Fn() + Clone + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(timeout(Duration::from_secs(60), async move {
        // The connections before the fatal one stay open meanwhile.
        let mut connections = JoinSet::new();
        for number in 0..=fatal.connection {
            let (client, _) = listener.accept().await.expect("a connection");
            let end = (number == fatal.connection).then_some(fatal.piece);
            if end == Some(None) {
                return kill();
            }
            connections.spawn(passed_on(client, source, end.flatten(), kill.clone()));
        }
        connections.join_all().await;
    }));
    address
}

/// Forwards until either side ends, or until the source has sent its fatal message.
async fn passed_on(mut client: TcpStream, source: SocketAddr, fatal: Option<usize>, kill: impl Fn()) {
    let mut server = TcpStream::connect(source).await.expect("the source");
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let back = async {
        let mut piece = vec![0; 64 << 10];
        for count in 0.. {
            let length = from_server.read(&mut piece).await.unwrap_or(0);
            if fatal == Some(count) {
                return kill();
            }
            if length == 0 || to_client.write_all(&piece[..length]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = back => {}
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_killed_at_any_moment_leaves_its_replica_empty_and_able_to_try_again() {
    let mut source = Node::first("source.example", "").await;
    let replica = Node::empty("").await;
    for (connection, piece) in
        [(0, None), (0, Some(0)), (0, Some(1)), (1, None), (1, Some(0)), (1, Some(1)), (1, Some(2))]
    {
        let pid = source.program.as_ref().expect("it runs").pid();
        let kill = move || rustix::process::kill_process(pid, Signal::KILL).expect("it runs");
        let fatal = Fatal { connection, piece };
        let gate = gate(source.setting.address, fatal, kill).await;
        let (status, text) = replica.onboard(&format!("https://{gate}"), DOMAIN).await.refusal();
        source.program.take().expect("it ran").ended().await;
        println!("{fatal:?}: {status} {text}");
        assert_eq!(status, 503, "{fatal:?}: {text}");
        assert!(text.starts_with("Failed to onboard: "), "{fatal:?}: {text}");
        assert!(!replica.setting.world.key_file("root-ca.key").exists(), "{fatal:?}");
        assert!(replica.setting.world.audited("keys_received").is_empty(), "{fatal:?}");
        source.restart().await;
        source.serves().await;
    }
    assert_eq!(replica.onboard(&source.url(), DOMAIN).await.status, 200);
    replica.finish().await;
    assert_eq!(replica.meta().await.k256_pubkey, source.meta().await.k256_pubkey);
    source.stop().await;
}
