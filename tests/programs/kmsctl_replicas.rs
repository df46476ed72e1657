//! `kmsctl replica` and the command that it prints: from an invitation to a node that serves.

use crate::support::World;
use crate::support::kmsctl::Desk;
use serde_json::{Value, json};

const TOKEN: &str = "operators-token";

async fn source() -> World {
    let toml = format!("core.admin.auth_token = \"{TOKEN}\"\ncore.onboard.public_key_handover = false");
    World::ready_with(&toml).await
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invited_node_is_followed_until_it_serves() {
    let (source, replica) = (source().await, World::onboarding().await);
    let desk = Desk::of_operator(&source, TOKEN).await;
    let invite = ["replica", "invite", "--domain", "kms2.example", "--label", "rack 7", "--valid-for", "10m"];
    let made = desk.json(0, &invite).await;
    let (id, token) = (text(&made["join"]["id"]), text(&made["token"]));
    assert_eq!((&made["join"]["state"], &made["join"]["label"]), (&json!("waiting"), &json!("rack 7")));
    let shown = desk.run(&["replica", "show", &id]).await.expect_ok().text();
    assert!(shown.contains("kmsctl onboard --kms") && !shown.contains(&token), "{shown}");
    assert!(shown.contains("--kms is the address of the new node's onboarding"), "{shown}");

    // The command that was printed, with the addresses of this test.
    let command = text(&made["join"]["command"]);
    let printed: Vec<&str> = command.split(' ').collect();
    assert_eq!(printed[..2], ["kmsctl", "onboard"], "{command}");
    let (onboarding, url) =
        (format!("http://{}", replica.address()), format!("https://{}", source.address()));
    desk.write("token", format!("{token}\n"));
    let mut arguments: Vec<&str> = printed[1..].to_vec();
    for (option, value) in [("--kms", &*onboarding), ("--source", &url), ("--source-token-file", "token")] {
        let at = arguments.iter().position(|it| *it == option).expect(option);
        arguments[at + 1] = value;
    }
    let watching = async { desk.run(&["replica", "watch", &id]).await };
    let joining = async {
        desk.run(&arguments).await.expect_ok();
        desk.run(&["finish", "--kms", &onboarding]).await.expect_ok();
    };
    let (watched, ()) = tokio::join!(watching, joining);
    assert_eq!(watched.code, 0, "{}", watched.text());
    for stage in ["started", "attested", "allowed", "keys", "committed", "serving", "The new node serves."] {
        assert!(watched.text().contains(stage), "{stage}: {}", watched.text());
    }
    let listed = desk.json(0, &["replica", "list"]).await;
    assert_eq!((&listed["joins"][0]["id"], &listed["joins"][0]["confirmed"]), (&json!(id), &json!(true)));
    let all = desk.json(0, &["operations"]).await;
    assert_eq!((&all["operations"][0]["id"], &all["operations"][0]["over"]), (&json!(id), &json!(true)));
    let one = desk.run(&["operations", &id]).await.expect_ok().text();
    for said in ["kms2.example gets the root keys: serving", "attested", "committed"] {
        assert!(one.contains(said), "{said}: {one}");
    }
    let ran = desk.run(&["replica", "cancel", &id]).await;
    assert!(ran.code == 3 && ran.text().contains("used up"), "{}", ran.text());
    // Another node by the same invitation.
    let second = World::onboarding().await;
    let onboarding = format!("http://{}", second.address());
    let arguments = ["onboard", "--kms", &onboarding, "--source", &url, "--domain", "kms3.example"];
    let arguments = [&arguments[..], &["--source-token-file", "token"]].concat();
    let refused = desk.json(3, &arguments).await;
    assert_eq!(refused["code"], "source_invitation_over", "{refused}");
    let error = refused["error"].as_str().expect("a text");
    assert!(error.contains("ask an owner of the source for a new invitation"), "{error}");
    // The token is no credential of an operator.
    let other = Desk::in_world(&source)
        .with("KMS_ADMIN_URL", format!("http://{}", source.admin_address().await))
        .with("KMS_ADMIN_TOKEN", token);
    assert_eq!(other.run(&["replica", "list"]).await.code, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_that_ends_without_a_node_is_a_failure() {
    let source = source().await;
    let desk = Desk::of_operator(&source, TOKEN).await;
    let made = desk.json(0, &["replica", "invite", "--domain", "kms2.example"]).await;
    let id = text(&made["join"]["id"]);
    let mut invite =
        vec!["replica", "invite", "--domain", "kms3.example", "--source-url", "https://nat.example:9000"];
    let shown = desk.run(&invite).await.expect_ok().text();
    assert!(shown.contains(" --kms http://NEW-NODE:8000 ") && shown.contains("not of this KMS"), "{shown}");
    invite.extend(["--new-node", "http://10.0.0.9:9100"]);
    let named = desk.run(&invite).await.expect_ok().text();
    assert!(
        named.contains(" --kms http://10.0.0.9:9100 --source ") && !named.contains("not of this KMS"),
        "{named}"
    );
    assert!(
        shown.contains("--source https://nat.example:9000 ") && shown.contains("invite it again"),
        "{shown}"
    );
    let cancelled = desk.json(0, &["replica", "cancel", &id]).await;
    assert_eq!((&cancelled["state"], &cancelled["over"]), (&json!("cancelled"), &json!(true)));
    let ran = desk.run(&["replica", "watch", &id]).await;
    let again = "invite it again: kmsctl replica invite --domain kms2.example";
    for said in ["It is over: cancelled.", again] {
        assert!(ran.code == 1 && ran.text().contains(said), "{}", ran.text());
    }
    let made = desk.json(0, &["replica", "invite", "--domain", "kms2.example", "--valid-for", "1s"]).await;
    let ran = desk.run(&["replica", "watch", &text(&made["join"]["id"])]).await;
    assert!(ran.code == 1 && ran.text().contains("It is over: expired."), "{}", ran.text());
    for (arguments, code, said) in [
        (&["replica", "watch", "../x"][..], 2, "16 hex digits"),
        (&["replica", "show", "0123456789abcdef"], 3, "there is no invitation"),
        (&["operations", "../x"], 2, "letters and digits"),
        (&["operations", "0123456789abcdef"], 3, "there is no operation"),
        (&["replica", "invite", "--domain", "a b"], 3, "invalid DNS label"),
        (&["replica", "invite", "--domain", "a.example", "--source-url", "http://a.example"], 2, "https://"),
        (&["replica", "invite", "--domain", "a.example", "--valid-for", "1h"], 3, "from 1 to 900"),
    ] {
        let ran = desk.run(arguments).await;
        assert!(ran.code == code && ran.text().contains(said), "{arguments:?}: {}", ran.text());
    }
}
