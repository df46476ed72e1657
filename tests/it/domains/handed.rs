//! Domains that were made at run time reach new replicas and come back with a recovery set; others must be equal.

use super::run_time::{DOMAINS, assign, create, is_given};
use super::{in_domain, keys};
use crate::support::http::post;
use crate::support::operator::{ask, done};
use crate::support::{Answer, World};
use age::secrecy::ExposeSecret as _;
use age::x25519::Identity;
use kms_recovery::{Identities, NoCallbacks, decrypt};
use serde_json::{Value, json};

async fn onboard(replica: &World, source: &World) -> Answer {
    let body = json!({ "source_url": format!("https://{}", source.address()), "domain": "replica.example" });
    replica.caller().plain().json("Onboard", body).await
}

async fn listed(world: &World) -> Value {
    let mut listed = done(world, "GET", DOMAINS, Value::Null).await;
    for domain in listed["domains"].as_array_mut().expect("a list") {
        // When and by whom is of the KMS that is asked.
        for key in ["created_at", "created_by", "archived_at", "archived_by"] {
            domain.as_object_mut().expect("an object").remove(key);
        }
    }
    listed
}

#[tokio::test]
async fn a_new_replica_gives_apps_the_keys_of_the_domains_that_were_made_at_the_source() {
    let mut source = World::ready().await;
    let [prod, team, old, plain] = [1, 2, 3, 4].map(|number| source.app(number));
    source.configure(&in_domain("prod", &prod, ""));
    source.start().await.expect("it starts again");
    let rules = json!({ "allow_dev_images": true, "instance_scoped": true, "default_epoch": 0 });
    done(&source, "POST", DOMAINS, json!({ "name": "team", "rules": rules })).await;
    create(&source, "old").await;
    assign(&source, "team", &team).await;
    assign(&source, "old", &old).await;
    done(&source, "POST", &format!("{DOMAINS}/old/archive"), Value::Null).await;

    let mut replica = World::onboarding_with(&in_domain("prod", &prod, "")).await;
    let answer = onboard(&replica, &source).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    replica.finish().await;
    for app in [&prod, &team, &old, &plain] {
        source.allow_app(app);
        replica.allow_app(app);
    }
    for _ in 0..2 {
        for app in [&prod, &team, &plain] {
            let (there, here) = (keys(&source, app).await, keys(&replica, app).await);
            assert_eq!(
                (&here.disk_crypt_key, &here.k256_key, &here.env_crypt_key),
                (&there.disk_crypt_key, &there.k256_key, &there.env_crypt_key)
            );
        }
        assert_eq!(listed(&replica).await, listed(&source).await);
        let asked = json!({ "app_id": hex::encode(old.app_id()) });
        let answer = replica.caller().json("GetAppEnvEncryptPubKey", asked).await;
        assert!(answer.text().contains("the domain old is archived"), "{}", answer.text());
        // With a file of its own after a restart too.
        replica.start().await.expect("it starts again");
    }
    let received = &replica.audited("domains_received")[0];
    assert_eq!(
        (&received["domains"], &received["archived"], &received["apps"], &received["by"]),
        (&json!(2), &json!(1), &json!(2), &json!("onboarding"))
    );
    assert_eq!(received["source"], format!("https://{}/prpc", source.address()));
    let order: Vec<_> = replica
        .audit()
        .iter()
        .filter_map(|record| record["event"].as_str().map(str::to_owned))
        .filter(|event| {
            ["domains_received", "domain_created", "domain_archived", "app_assigned", "keys_received"]
                .contains(&&**event)
        })
        .collect();
    assert_eq!(
        order,
        [
            "domains_received",
            "domain_created",
            "domain_created",
            "domain_archived",
            "app_assigned",
            "app_assigned",
            "keys_received"
        ],
        "what decides the keys is in the log before there are any"
    );
    let created = &replica.audited("domain_created")[1];
    assert_eq!((&created["domain"], &created["rules"]), (&json!("team"), &rules));

    // Later changes are told, and not taken by a fetch.
    create(&source, "later").await;
    let fetch = json!({ "source_url": format!("https://{}", source.address()) });
    let answer = ask(&replica, "POST", "/api/v1/epochs/fetch", fetch).await;
    assert_eq!(
        (answer.status, &answer.value()["code"]),
        (409, &json!("domains_differ")),
        "{}",
        answer.text()
    );
    assert!(answer.text().contains("the domain later is only there"), "{}", answer.text());
}

#[tokio::test]
async fn a_replica_with_other_domains_receives_no_keys_and_says_in_what_they_differ() {
    let mut source = World::ready().await;
    let [one, two] = [1, 2].map(|number| source.app(number));
    source.configure(&in_domain("prod", &one, ""));
    source.start().await.expect("it starts again");
    create(&source, "team").await;
    assign(&source, "team", &two).await;
    let own = |domains: Value, apps: Value| {
        Some(json!({ "version": 1, "domains": domains, "archived": [], "apps": apps }).to_string())
    };
    let made = |name: &str| json!({ "name": name, "rules": {}, "since": 1, "by": "token" });
    let placed = |domain: &str| json!({ "app_id": hex::encode(two.app_id()), "domain": domain, "since": 1, "by": "token" });
    let prod = in_domain("prod", &one, "");
    for (toml, file, problem) in [
        (String::new(), None, Some("the domain prod is only there")),
        (
            in_domain("prod", &two, ""),
            None,
            Some("is in the domain prod by the configuration, and was put into team"),
        ),
        ("[domains.prod]".to_owned(), None, Some("prod has other apps: 0 here, 1 there")),
        (
            in_domain("prod", &one, "instance_scoped = true"),
            None,
            Some("prod has instance_scoped true here, false there"),
        ),
        (
            in_domain("prod", &one, "default_epoch = 0"),
            None,
            Some("prod has default_epoch 0 here, none there"),
        ),
        (format!("{prod}\n[domains.more]"), None, Some("the domain more is only here")),
        // Its own ones stay.
        (
            prod.clone(),
            own(json!([made("other")]), json!([])),
            Some("the domain team is only there; the domain other is only here"),
        ),
        (prod.clone(), own(json!([made("team")]), json!([])), Some("team has other apps: 0 here, 1 there")),
        (prod.clone(), own(json!([made("team")]), json!([placed("team")])), None),
        // Configured here and made there: the same keys.
        (format!("{prod}\n{}", in_domain("team", &two, "")), None, None),
    ] {
        let mut replica = World::stopped_with(&toml).await;
        if let Some(file) = &file {
            std::fs::create_dir_all(replica.key_file("")).expect("a directory");
            std::fs::write(replica.key_file("domains.json"), file).expect("the file");
        }
        replica.start().await.expect("it onboards");
        let answer = onboard(&replica, &source).await;
        match problem {
            None => assert_eq!(answer.status, 200, "{toml}: {}", answer.text()),
            Some(problem) => {
                assert_eq!(answer.status, 409, "{toml}: {}", answer.text());
                assert!(answer.text().contains(problem), "{toml}: {}", answer.text());
                assert!(!replica.key_file("root-ca.key").exists(), "{toml}");
                let kept = std::fs::read_to_string(replica.key_file("domains.json")).ok();
                assert_eq!(kept, file, "{toml}");
                assert!(replica.audited("domains_received").is_empty(), "{toml}");
            }
        }
    }
}

#[tokio::test]
async fn a_recovery_set_brings_the_domains_back_and_says_when_they_have_changed() {
    let lost = World::ready().await;
    let [team, plain] = [1, 2].map(|number| lost.app(number));
    create(&lost, "team").await;
    assign(&lost, "team", &team).await;
    let officers: Vec<Identity> = (0..2).map(|_| Identity::generate()).collect();
    let named = |(at, identity): (usize, &Identity)| json!({ "name": format!("officer-{at}"), "recipient": identity.to_public().to_string() });
    let recipients: Value = officers.iter().enumerate().map(named).collect();
    let body = json!({ "recipients": recipients, "threshold": 2 });
    let made = done(&lost, "POST", "/api/v1/recovery/sets", body).await;
    let changed =
        async || done(&lost, "GET", "/api/v1/recovery", Value::Null).await["app_epochs_changed"].clone();
    assert_eq!(changed().await, json!(false));
    create(&lost, "later").await;
    assert_eq!(changed().await, json!(true), "a new set is due");

    let mut restored = World::onboarding().await;
    let manifest = made["manifest"].as_str().expect("a text").to_owned();
    let opened = restored.caller().send(post("/recovery/restore", manifest)).await;
    assert_eq!(opened.status, 200, "{}", opened.text());
    for (at, identity) in officers.iter().enumerate() {
        let key = identity.to_string();
        let identities = Identities::parse(key.expose_secret().as_bytes(), NoCallbacks).expect("a key");
        let file = made["files"][at]["content"].as_str().expect("a file");
        let share =
            decrypt(file.as_bytes(), &identities).expect("the officer's own file").to_json().to_string();
        let answer = restored.caller().send(post("/recovery/shares", share)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    restored.finish().await;
    for app in [&team, &plain] {
        lost.allow_app(app);
        restored.allow_app(app);
    }
    for _ in 0..2 {
        assert!(is_given(&restored, "team", &team).await && is_given(&restored, "default", &plain).await);
        assert_eq!(keys(&restored, &team).await.k256_key, keys(&lost, &team).await.k256_key);
        restored.start().await.expect("it starts again");
    }
    let received = &restored.audited("domains_received")[0];
    let set = made["set"].as_str().expect("a number");
    assert_eq!((&received["source"], &received["apps"]), (&json!(format!("recovery set {set}")), &json!(1)));
}
