//! Bundles of several domains: each has its keys, its serials and its activation.

use super::*;
use crate::support::Caller;
use crate::support::faults::{Asked, FaultServer, Reply};

pub(super) struct Team {
    pub(super) world: World,
    key: SecretKey,
    pub(super) sources: [PathBuf; 2],
}

impl Team {
    pub(super) fn bundle(&self, domain: &str, serial: u64, previous: Option<&[u8]>) -> Vec<u8> {
        let policy = fs::read(self.world.allowlist.path()).expect("allowlist");
        let times = (unix_now() - 60, unix_now() + 86400);
        let header = Header::new("prod", domain, serial, times, previous.map(digest)).expect("a header");
        sign(&header, &policy, &self.key).expect("a bundle")
    }

    pub(super) async fn state(&self, domain: &str) -> Value {
        let answer = send(&self.world, request("GET", "/api/v1/policy/bundles", "")).await;
        let list = answer.value()["domains"].as_array().expect("domains").clone();
        list.into_iter().find(|state| state["domain"] == domain).expect("the domain")
    }

    pub(super) async fn in_force(&self, domain: &str, serial: u64) {
        eventually("the bundle in force", async || {
            (self.state(domain).await["in_force"]["serial"] == serial).then_some(())
        })
        .await;
    }
}

/// Both domains have bundles, with the first of each in force. `more` is at the end of the section of `team-b`.
pub(super) async fn team(more: &str) -> Team {
    let mut world = World::stopped_with("").await;
    let key = SecretKey::generate("team/ann".parse().expect("a name")).expect("a key");
    let sources = [world.path("default.bundle"), world.path("team-b.bundle")];
    let app = hex::encode(world.app(2).app_id());
    let of =
        |source: &PathBuf| format!("keys = ['{}']\nsource = '{}'\n", key.verifying_key(), source.display());
    world.configure(&format!(
        "[core.auth_api.bundle]\n{}\n[domains.team-b]\napps = ['{app}']\nallow_dev_images = true\n[domains.team-b.auth_api]\ntype = 'allowlist'\n\
         [domains.team-b.auth_api.bundle]\n{}{more}",
        of(&sources[0]),
        of(&sources[1])
    ));
    let mut team = Team { world, key, sources };
    team.world.allow_app(&team.world.app(1));
    team.world.allow_app(&team.world.app(2));
    for (domain, source) in ["default", "team-b"].into_iter().zip(&team.sources) {
        fs::write(source, team.bundle(domain, 1, None)).expect("source");
    }
    team.world.start().await.expect("the KMS starts");
    team.world.bootstrap().await;
    team.world.finish().await;
    team.in_force("default", 1).await;
    team.in_force("team-b", 1).await;
    team
}

#[tokio::test]
async fn a_domain_has_serials_of_its_own_and_takes_no_bundle_of_another() {
    let team = team("").await;
    let [default, other] = &team.sources;
    let first = fs::read(other).expect("source");
    // A bundle of the other domain in the source, though its key is pinned here too.
    fs::write(other, team.bundle("default", 2, Some(&fs::read(default).expect("source")))).expect("source");
    eventually("the refusal", async || {
        let problem = team.state("team-b").await["source_problem"].clone();
        problem
            .as_str()
            .is_some_and(|it| it.contains("is for the domain default, not for team-b"))
            .then_some(())
    })
    .await;
    assert_eq!(team.state("team-b").await["in_force"]["serial"], 1);
    // Serials of one do not count in the other.
    let second = team.bundle("team-b", 2, Some(&first));
    let third = team.bundle("team-b", 3, Some(&second));
    fs::write(other, &second).expect("source");
    team.in_force("team-b", 2).await;
    fs::write(other, &third).expect("source");
    team.in_force("team-b", 3).await;
    assert_eq!(team.state("default").await["lowest_serial"], 1);
    let next = team.bundle("default", 2, Some(&fs::read(default).expect("source")));
    fs::write(default, &next).expect("source");
    team.in_force("default", 2).await;
    // A fork of one is none of the other, and each record says its domain.
    let stray = team.bundle("team-b", 3, Some(&first));
    let pushed = with(post("/api/v1/policy/bundles", stray), "content-type", "application/octet-stream");
    assert_eq!(code(&send(&team.world, pushed).await), (409, "bundle_forked".to_owned()));
    assert_eq!(team.state("default").await["fork"], Value::Null);
    assert_eq!(team.state("team-b").await["fork"]["serial"], 3);
    let activated = team.world.audited("policy_bundle_activated");
    let of = |domain: &str| activated.iter().filter(|record| record["domain"] == domain).count();
    assert_eq!((of("default"), of("team-b")), (2, 3));
    // Each decision has the digest of its domain's bundle.
    for (number, bundle) in [(1, &next), (2, &third)] {
        let app = team.world.attested(&team.world.app(number)).await;
        let caller = team.world.caller().shows(&app);
        let answer = caller.json("GetAppKey", json!({ "api_version": 1, "vm_config": "" })).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let released = team.world.audited("app_key_released");
        assert_eq!(released.last().expect("a record")["policy_sha256"], digest(bundle).to_string());
    }
}

#[tokio::test]
async fn a_bundle_of_another_domain_is_not_tried_on_requests_that_it_would_not_decide() {
    let team = team("").await;
    let first = fs::read(&team.sources[1]).expect("source");
    let second = team.bundle("team-b", 2, Some(&first));
    let pushed =
        with(post("/api/v1/policy/bundles", second.clone()), "content-type", "application/octet-stream");
    assert_eq!(send(&team.world, pushed).await.status, 200);
    let body = json!({ "digest": digest(&second).to_string() }).to_string();
    let tried = with(post("/api/v1/policy/bundles/shadow", body), "content-type", "application/json");
    let answer = send(&team.world, tried).await;
    assert_eq!(code(&answer), (409, "not_configured".to_owned()), "{}", answer.text());
    assert!(answer.text().contains("is for the domain team-b"), "{}", answer.text());
}

#[tokio::test]
async fn a_domain_whose_policy_cannot_decide_is_a_warning_with_its_name() {
    let receiver = FaultServer::answering(|_| Reply::json(&json!({}))).await;
    let target = format!(
        "on_expiry = 'deny'\n[[core.notify]]\nname = 'pager'\nurl = '{}'\nsecret = 'sixteen bytes or more'\n",
        receiver.url()
    );
    let team = team(&target).await;
    let world = &team.world;
    // To expire, and then forked.
    let first = fs::read(&team.sources[1]).expect("source");
    let policy = fs::read(world.allowlist.path()).expect("allowlist");
    let times = (unix_now() - 60, unix_now() + 4);
    let header = Header::new("prod", "team-b", 2, times, Some(digest(&first))).expect("a header");
    let second = sign(&header, &policy, &team.key).expect("a bundle");
    fs::write(&team.sources[1], &second).expect("source");
    team.in_force("team-b", 2).await;
    let stray = team.bundle("team-b", 2, Some(&first));
    let pushed = with(post("/api/v1/policy/bundles", stray), "content-type", "application/octet-stream");
    assert_eq!(code(&send(world, pushed).await), (409, "bundle_forked".to_owned()));
    let codes = ["domain_policy_unavailable", "policy_fork", "policy_expires"];
    let ready = eventually("the warnings", async || {
        let ready = world.caller().get("/readyz").await;
        assert_eq!(ready.status, 200, "other domains are served: {}", ready.text());
        codes.iter().all(|code| ready.text().contains(code)).then(|| ready.text().to_owned())
    })
    .await;
    assert!(!ready.contains("team-b"), "nobody without a credential is told the names: {ready}");
    let shown = send(world, request("GET", "/readyz", "")).await.value();
    for warning in shown["warnings"].as_array().expect("warnings") {
        let (code, detail) = (warning["code"].as_str().expect("a code"), warning["detail"].as_str());
        let is_of_domain = detail.is_some_and(|detail| detail.contains("domain team-b: "));
        assert!(is_of_domain || !codes.contains(&code), "{shown}");
    }
    let overview = send(world, request("GET", "/api/v1/overview", "")).await.text().to_owned();
    assert!(overview.contains("domain team-b: "), "{overview}");
    // An operator of the other domain is not told.
    let body = json!({ "name": "other", "role": "viewer", "domain": "default" }).to_string();
    let created = send(world, post("/api/v1/credentials", body)).await.value();
    let token = created["token"].as_str().expect("a token").to_owned();
    for path in ["/readyz", "/api/v1/health"] {
        let admin = Caller::new(world.admin_address().await).plain();
        let answer = admin.send(with(request("GET", path, ""), "x-admin-token", &token)).await;
        assert!(answer.status == 200 && answer.text().contains("policy_fork"), "{}", answer.text());
        assert!(!answer.text().contains("team-b"), "{}", answer.text());
    }
    for line in [
        "cvm_kms_ready 1",
        "cvm_kms_not_ready{reason=\"domain_policy_unavailable\"} 1",
        "cvm_kms_domain_policy_unavailable{domain=\"team-b\"} 1",
        "cvm_kms_policy_forked{domain=\"team-b\"} 1",
    ] {
        eventually(line, async || {
            let metrics = world.caller().get("/metrics").await;
            metrics.text().contains(line).then_some(())
        })
        .await;
    }
    for code in codes {
        let said = eventually(code, async || {
            receiver.asked().iter().map(Asked::json).find(|body| body["type"] == code)
        })
        .await;
        let message = said["message"].as_str().expect("a message");
        assert!(message.ends_with("domain team-b)"), "{said}");
    }
    // A later bundle of the branch in force ends it, but for the end of bundles of a day that is near.
    let third = team.bundle("team-b", 3, Some(&second));
    fs::write(&team.sources[1], &third).expect("source");
    team.in_force("team-b", 3).await;
    eventually("the end", async || {
        let ready = world.caller().get("/readyz").await;
        codes[..2].iter().all(|code| !ready.text().contains(code)).then_some(())
    })
    .await;
}
