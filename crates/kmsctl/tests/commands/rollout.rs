//! `kmsctl rollout run`: what is checked before anything is started.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::{Authority, Desk, Leaf, Reply, TestServer};

/// A KMS that answers who the caller is, and takes no step; and what it was asked.
async fn kms(me: Result<Value, u16>) -> (TestServer, Arc<Mutex<Vec<String>>>) {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&asked);
    let server =
        TestServer::start(Arc::new(Authority::new()), &[Leaf::kms()], &["h2", "http/1.1"], move |_, call| {
            let is_me = call.method == "me";
            log.lock().expect("log").push(call.method);
            match (&me, is_me) {
                (Ok(me), true) => Reply::Json(me.clone()),
                (Err(status), true) => Reply::Status(*status, b"no".to_vec()),
                (_, false) => Reply::Status(409, br#"{"error":"a step was asked for"}"#.to_vec()),
            }
        })
        .await;
    (server, asked)
}

#[tokio::test]
async fn a_driver_starts_nothing_unless_each_node_takes_its_credential() {
    let desk = Desk::default().with("KMS_ADMIN_TOKEN", "operators-token");
    desk.write("hook", "#!/bin/sh\nexit 0\n");
    std::fs::set_permissions(desk.path("hook"), std::fs::Permissions::from_mode(0o755)).expect("rights");
    let me = |role: &str, domain: Value| json!({ "role": role, "domain": domain });
    for (other, said) in [
        (Err(401), "the token is wrong"),
        (Ok(me("viewer", Value::Null)), "the credential has the role viewer there"),
        (Ok(me("owner", json!("shop"))), "the role owner of the domain shop there"),
        (Ok(me("operator", Value::Null)), "a step was asked for"),
        // It may be the node that is being replaced.
        (Err(502), "a step was asked for"),
    ] {
        let (one, asked) = kms(Ok(me("owner", Value::Null))).await;
        let (two, _) = kms(other).await;
        let urls = format!("{},{}", one.url, two.url);
        let run = ["rollout", "run", "--hook", "./hook", "--admin", &urls, "--dangerous-any-server"];
        desk.run(&run).await.expect(3).says(said);
        let asked = asked.lock().expect("log").clone();
        assert_eq!(asked.contains(&"step".to_owned()), said.starts_with("a step"), "{said}: {asked:?}");
    }
}
