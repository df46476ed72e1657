//! The routes as auth-simple has them, and our additions.

use tower::ServiceExt as _;

use super::*;
use crate::config::{AuthApi, EmptyDevices, Endpoint, Webhook};

struct Setup {
    _directory: tempfile::TempDir,
    router: Router,
}

fn backend(file: &Value, change: impl FnOnce(&mut AuthBackend)) -> Setup {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("auth-config.json");
    std::fs::write(&path, file.to_string()).unwrap();
    let policy =
        Policy::from_config(&AuthApi::Allowlist { path, empty_devices: EmptyDevices::AnyDevice }).unwrap();
    let mut backend = AuthBackend { policy, token: None, signer: None };
    change(&mut backend);
    Setup { _directory: directory, router: router(backend) }
}

fn file() -> Value {
    json!({
        "gatewayAppId": "0xgate",
        "kmsContractAddr": "0xkms",
        "chainId": 7,
        "appImplementation": "0xapp",
        "osImages": ["0x".to_owned() + &"44".repeat(32)],
        "allowedAdvisoryIds": ["INTEL-SA-1"],
        "kms": {"mrAggregated": ["55".repeat(32)]},
        "apps": {"11".repeat(20): {"composeHashes": ["22".repeat(32)], "allowAnyDevice": true}},
    })
}

fn asked() -> Value {
    json!({
        "teeVariant": "dstack-tdx",
        "mrAggregated": "55".repeat(32),
        "osImageHash": "44".repeat(32),
        "mrSystem": "66".repeat(32),
        "appId": "11".repeat(20),
        "composeHash": "22".repeat(32),
        "instanceId": "",
        "deviceId": "33".repeat(32),
        "keyProviderInfo": "",
        "tcbStatus": "UpToDate",
        "advisoryIds": [],
        "attestationMode": "dstack-tdx",
    })
}

fn with(change: impl FnOnce(&mut Map<String, Value>)) -> Value {
    let mut value = asked();
    change(value.as_object_mut().unwrap());
    value
}

impl Setup {
    async fn send(&self, request: http::request::Builder, body: impl Into<Body>) -> (StatusCode, Value) {
        let answer = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/json");
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn ask(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let request = Request::post(path).header("content-type", "application/json");
        self.send(request, body.to_string()).await
    }
}

#[tokio::test]
async fn the_file_decides_as_in_auth_simple() {
    let setup = backend(&file(), |_| {});
    let allowed = json!({"isAllowed": true, "gatewayAppId": "0xgate", "reason": ""});
    assert_eq!(setup.ask("/bootAuth/app", &asked()).await, (StatusCode::OK, allowed.clone()));
    assert_eq!(setup.ask("/bootAuth/kms", &asked()).await, (StatusCode::OK, allowed.clone()));
    let prefixed = with(|fields| {
        for key in ["mrAggregated", "osImageHash", "appId", "composeHash"] {
            let text = fields[key].as_str().unwrap().to_uppercase();
            fields.insert(key.to_owned(), json!(format!("0x{text}")));
        }
    });
    assert_eq!(setup.ask("/bootAuth/app", &prefixed).await.1, allowed);
    type Change = fn(&mut Map<String, Value>);
    let cases: [(&str, Change, &str); 9] = [
        ("/bootAuth/app", |f| drop(f.shift_remove("tcbStatus")), "TCB status is not allowed"),
        ("/bootAuth/app", |f| f["advisoryIds"] = json!(["INTEL-SA-1", "x"]), "advisory ID is not allowed"),
        ("/bootAuth/app", |f| f["osImageHash"] = json!(""), "OS image is not allowed"),
        ("/bootAuth/app", |f| f["appId"] = json!("not hex"), "app not registered"),
        ("/bootAuth/app", |f| f["composeHash"] = json!("2"), "compose hash not allowed"),
        ("/bootAuth/kms", |f| f["mrAggregated"] = json!("é"), "aggregated MR not allowed"),
        ("/bootAuth/kms", |f| f["tcbStatus"] = json!("OutOfDate"), "TCB status is not allowed"),
        ("/bootAuth/app", |f| f["osImageHash"] = json!("44"), "OS image is not allowed"),
        ("/bootAuth/app", |f| f["appId"] = json!(" ".to_owned() + &"11".repeat(20)), "app not registered"),
    ];
    for (path, change, reason) in cases {
        let denied = json!({"isAllowed": false, "gatewayAppId": "0xgate", "reason": reason});
        assert_eq!(setup.ask(path, &with(change)).await, (StatusCode::OK, denied));
    }
    let minimal = with(|fields| {
        for key in ["teeVariant", "mrSystem", "keyProviderInfo", "attestationMode", "advisoryIds"] {
            fields.shift_remove(key);
        }
    });
    assert_eq!(setup.ask("/bootAuth/app", &minimal).await.1, allowed);
}

#[tokio::test]
async fn an_apps_stage_is_said_with_its_decision_and_signed() {
    use std::time::SystemTime;

    use kms_policy::signed::{self, Signature};

    for stage in [None, Some("boot"), Some("any")] {
        let mut file = file();
        if let Some(stage) = stage {
            file["apps"]["11".repeat(20)]["releaseStage"] = json!(stage);
            file["apps"]["11".repeat(20)]["rootEpoch"] = json!("current");
            file["apps"]["11".repeat(20)]["readableEpochs"] = json!(["0.1"]);
        }
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let der = hex::decode(format!("302e020100300506032b657004220420{seed}")).unwrap();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der)
        );
        let signer = DecisionSigner::from_pem(pem.as_bytes()).unwrap();
        let key = signer.public_key();
        let setup = backend(&file, |backend| backend.signer = Some(signer));
        for (path, body, expected) in [
            ("/bootAuth/app", asked(), stage),
            ("/bootAuth/kms", asked(), None),
            ("/bootAuth/app", with(|asked| drop(asked.insert("composeHash".into(), json!("00")))), None),
        ] {
            let text = body.to_string();
            let nonce = Nonce::parse("0f").unwrap();
            let request = Request::post(path)
                .header("content-type", "application/json")
                .header(NONCE_HEADER, nonce.as_str());
            let (status, said) = setup.send(request, text.clone()).await;
            assert_eq!(
                (status, said.get("releaseStage").and_then(Value::as_str)),
                (StatusCode::OK, expected)
            );
            let said_epochs = kms_policy::AppEpochs::parse(said.as_object().unwrap()).unwrap();
            assert_eq!(
                said_epochs.as_ref().map(ToString::to_string),
                expected.map(|_| "rootEpoch current, readableEpochs 0.1".to_owned())
            );
            let signature: Signature = serde_json::from_value(said["signature"].clone()).unwrap();
            let kind = if path.ends_with("app") { SubjectKind::App } else { SubjectKind::Kms };
            let question = SignedRequest { kind, body: text.as_bytes(), nonce: &nonce };
            let answer = Claims {
                is_allowed: said["isAllowed"].as_bool().unwrap(),
                gateway_app_id: said["gatewayAppId"].as_str().unwrap(),
                reason: said["reason"].as_str().unwrap(),
                release_stage: expected.map(|stage| crate::config::ReleaseStage::parse(stage).unwrap()),
                epochs: said_epochs.as_ref(),
            };
            let outcome = signed::verify(&key, question, answer, Some(&signature), SystemTime::now());
            assert_eq!(outcome, Ok(()), "{path} {stage:?}");
        }
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_used_denies() {
    let setup = backend(&json!([]), |_| {});
    let (status, answer) = setup.ask("/bootAuth/app", &asked()).await;
    assert_eq!((status, &answer["isAllowed"]), (StatusCode::OK, &json!(false)));
}

#[tokio::test]
async fn what_cannot_be_decided_is_no_denial() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let webhook = Webhook::at(Endpoint::parse(&format!("http://{nobody}")).unwrap());
    let setup = backend(&file(), |backend| {
        backend.policy = Policy::from_config(&AuthApi::Webhook(Box::new(webhook))).unwrap();
    });
    for path in ["/bootAuth/app", "/bootAuth/kms"] {
        let request = Request::post(path).header("content-type", "application/json");
        let request =
            request.header(NONCE_HEADER, "ab".repeat(16)).body(Body::from(asked().to_string())).unwrap();
        let answer = setup.router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(answer.headers()["retry-after"], "1");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let expected = json!({"error": "authorization backend unavailable"});
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected, "{path}: no isAllowed");
    }
}

#[tokio::test]
async fn the_schema_is_strict() {
    let setup = backend(&file(), |_| {});
    let mut bad: Vec<Value> = vec![json!([]), json!(7), json!(null), json!("x")];
    for key in ["mrAggregated", "osImageHash", "appId", "composeHash", "instanceId", "deviceId"] {
        bad.push(with(|fields| drop(fields.shift_remove(key))));
    }
    for key in ["appId", "teeVariant", "tcbStatus", "mrSystem", "advisoryIds"] {
        for value in [Value::Null, json!(7), json!({})] {
            bad.push(with(|fields| fields[key] = value));
        }
    }
    bad.push(with(|fields| fields["advisoryIds"] = json!(["a", 1])));
    bad.push(with(|fields| fields["advisoryIds"] = json!("a")));
    for body in bad {
        let (status, answer) = setup.ask("/bootAuth/app", &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}: {answer}");
        assert!(answer["error"]["message"].is_string() && answer.get("isAllowed").is_none(), "{answer}");
    }
    for (kind, expected) in [
        ("application/json", StatusCode::OK),
        ("application/json; charset=utf-8", StatusCode::OK),
        ("application/vnd.kms+json", StatusCode::OK),
        ("text/plain", StatusCode::BAD_REQUEST),
        ("", StatusCode::BAD_REQUEST),
    ] {
        let request = Request::post("/bootAuth/app").header("content-type", kind);
        assert_eq!(setup.send(request, asked().to_string()).await.0, expected, "{kind}");
    }
    for body in ["", "{", "\u{feff}{}"] {
        let request = Request::post("/bootAuth/app").header("content-type", "application/json");
        assert_eq!(setup.send(request, body).await.0, StatusCode::BAD_REQUEST);
    }
    let request = Request::post("/bootAuth/app").header("content-type", "application/json");
    let large = format!("{}{}", asked(), " ".repeat(MAX_REQUEST));
    assert_eq!(setup.send(request, large).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn it_tells_about_itself_and_nothing_else_is_there() {
    let setup = backend(&file(), |_| {});
    let expected = json!({
        "status": "ok", "kmsContractAddr": "0xkms", "gatewayAppId": "0xgate", "chainId": 7,
        "appAuthImplementation": "0xapp", "appImplementation": "0xapp",
    });
    assert_eq!(setup.send(Request::get("/"), "").await, (StatusCode::OK, expected));
    assert_eq!(setup.send(Request::get("/health"), "").await.0, StatusCode::OK);
    for path in ["/bootAuth", "/bootAuth/", "/metrics", "/bootAuth/app/x"] {
        assert_eq!(setup.send(Request::get(path), "").await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn with_a_token_nobody_is_answered_without_it() {
    let setup = backend(&file(), |backend| backend.token = Some(OperatorToken::new("hush")));
    for (shown, expected) in [
        (None, StatusCode::UNAUTHORIZED),
        (Some("Bearer hus"), StatusCode::UNAUTHORIZED),
        (Some("hush"), StatusCode::UNAUTHORIZED),
        (Some("Bearer hush "), StatusCode::UNAUTHORIZED),
        (Some("Bearer hush"), StatusCode::OK),
    ] {
        for request in [
            Request::get("/"),
            Request::post("/bootAuth/app").header("content-type", "application/json"),
            Request::post("/bootAuth/kms").header("content-type", "application/json"),
        ] {
            let request = match shown {
                Some(shown) => request.header("authorization", shown),
                None => request,
            };
            assert_eq!(setup.send(request, asked().to_string()).await.0, expected, "{shown:?}");
        }
    }
    assert_eq!(setup.send(Request::get("/health"), "").await.0, StatusCode::OK);
}
