//! The collateral server and the guest agent over their sockets: documents, refusals, faults.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::sync::Arc;
use std::time::Duration;

use dcap_qvl::verify::QuoteVerifier;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kms_attest::binding::ReportData;
use kms_attest::evidence::Evidence;
use kms_attest::measurement::EventVersion;
use kms_simulator::{
    AgentMode, Certification, CollateralSpec, Cvm, Endpoint, GuestAgent, KeyProvider, PccsMode, PccsServer,
    PckCa, Platform, PlatformSpec, QuoteFormat, Stage, TcbLevel,
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

const NOW: u64 = 1_750_000_000;

struct Answer {
    status: u16,
    chain: String,
    body: Vec<u8>,
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Full<Bytes>>,
) -> Result<http::Response<Incoming>, hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    sender.send_request(request).await
}

async fn get(pccs: &PccsServer, path: &str) -> Result<Answer, hyper::Error> {
    let stream = TcpStream::connect(pccs.address()).await.unwrap();
    let request = http::Request::get(path).header("host", "pccs").body(Full::default()).unwrap();
    let response = send(stream, request).await?;
    let chain = response.headers().iter().find(|(name, _)| name.as_str().ends_with("issuer-chain"));
    let chain = chain.map(|(_, value)| value.to_str().unwrap().to_owned()).unwrap_or_default();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes().to_vec();
    let chain = percent_encoding::percent_decode_str(&chain).decode_utf8().unwrap().into_owned();
    Ok(Answer { status, chain, body })
}

async fn call(agent: &GuestAgent, path: &str, body: &str) -> Result<(u16, Vec<u8>), hyper::Error> {
    let request = http::Request::post(path)
        .header("host", "agent")
        .body(Full::from(body.to_owned().into_bytes()))
        .unwrap();
    let response = match agent.address().strip_prefix("unix:") {
        Some(path) => send(UnixStream::connect(path).await.unwrap(), request).await?,
        None => {
            let address = agent.address().strip_prefix("http://").unwrap().to_owned();
            send(TcpStream::connect(address).await.unwrap(), request).await?
        }
    };
    let status = response.status().as_u16();
    Ok((status, response.into_body().collect().await?.to_bytes().to_vec()))
}

#[tokio::test]
async fn the_documents_are_those_of_the_collateral() {
    let platform = Platform::from_seed(b"servers");
    let other = Platform::new(&PlatformSpec {
        fmspc: [0xab; 6],
        pck_ca: PckCa::Processor,
        certification: Certification::EncryptedPpid2048,
        ..PlatformSpec::from_seed(b"servers")
    });
    let pccs =
        PccsServer::start_on(([127, 0, 0, 1], 0).into(), &platform, &[Arc::clone(&other)]).await.unwrap();

    for (platform, ca, fmspc) in
        [(&platform, "platform", "53494D000000"), (&other, "processor", "ABABABABABAB")]
    {
        let expected = platform.collateral();
        let crl = get(&pccs, &format!("/sgx/certification/v4/pckcrl?ca={ca}&encoding=der")).await.unwrap();
        assert_eq!((crl.status, crl.body, crl.chain), (200, expected.pck_crl, expected.pck_crl_issuer_chain));

        let tcb =
            get(&pccs, &format!("/tdx/certification/v4/tcb?fmspc={fmspc}&update=standard")).await.unwrap();
        let signature = hex::encode(&expected.tcb_info_signature);
        let text = format!(r#"{{"tcbInfo":{},"signature":"{signature}"}}"#, expected.tcb_info);
        assert_eq!(String::from_utf8(tcb.body).unwrap(), text);
        assert_eq!(tcb.chain, expected.tcb_info_issuer_chain);

        let qe = get(&pccs, "/tdx/certification/v4/qe/identity?update=standard").await.unwrap();
        let signature = hex::encode(&expected.qe_identity_signature);
        let text = format!(r#"{{"enclaveIdentity":{},"signature":"{signature}"}}"#, expected.qe_identity);
        assert_eq!(String::from_utf8(qe.body).unwrap(), text);
        assert_eq!(qe.chain, expected.qe_identity_issuer_chain);

        let root = get(&pccs, "/sgx/certification/v4/rootcacrl").await.unwrap();
        assert_eq!(hex::decode(root.body).unwrap(), expected.root_ca_crl);
        assert_eq!(get(&pccs, "/IntelSGXRootCA.der").await.unwrap().body, expected.root_ca_crl);
    }

    let quote = dcap_qvl::quote::Quote::parse(&Cvm::builder(&other).build().quote([0; 64])).unwrap();
    let parameters = quote.encrypted_ppid_params().unwrap();
    let path = format!(
        "/sgx/certification/v4/pckcert?qeid={}&encrypted_ppid={}&cpusvn=&pcesvn=&pceid=",
        hex::encode_upper(quote.qeid()),
        hex::encode_upper(parameters.encrypted_ppid)
    );
    let pck = get(&pccs, &path).await.unwrap();
    assert_eq!(String::from_utf8(pck.body).unwrap() + &pck.chain, other.pck_chain_pem());

    for (path, status) in [
        ("/tdx/certification/v4/tcb?fmspc=000000000000", 404),
        ("/tdx/certification/v4/tcb", 404),
        ("/sgx/certification/v4/pckcrl?ca=else&encoding=der", 400),
        ("/sgx/certification/v4/pckcrl?ca=platform", 400),
        ("/sgx/certification/v4/pckcert?encrypted_ppid=", 404),
        ("/elsewhere", 404),
    ] {
        assert_eq!(get(&pccs, path).await.unwrap().status, status, "{path}");
    }
    assert_eq!(pccs.requests_to(Endpoint::TcbInfo), 4);
    assert_eq!(pccs.requests_to(Endpoint::RootCaCrl), 2);
    assert_eq!(pccs.request_count(), 17);
    assert_eq!(pccs.requests().last().unwrap(), "GET /elsewhere");
}

#[tokio::test]
async fn the_collateral_server_fails_as_told_and_recovers() {
    let platform = Platform::from_seed(b"servers");
    let pccs = PccsServer::start(&platform).await.unwrap();
    let path = "/tdx/certification/v4/qe/identity?update=standard";
    let crl = "/sgx/certification/v4/rootcacrl";
    let good = get(&pccs, path).await.unwrap().body;

    for (mode, status) in [(PccsMode::Down, 503), (PccsMode::Missing, 404), (PccsMode::Garbage, 200)] {
        pccs.set_mode(mode);
        let answer = get(&pccs, path).await.unwrap();
        assert_eq!(answer.status, status, "{mode:?}");
        assert_ne!(answer.body, good, "{mode:?}");
    }
    pccs.set_mode(PccsMode::Disconnecting);
    assert!(get(&pccs, path).await.is_err());
    for mode in [PccsMode::Silent, PccsMode::Endless, PccsMode::Slow(Duration::from_secs(60))] {
        pccs.set_mode(mode);
        assert!(
            tokio::time::timeout(Duration::from_millis(200), get(&pccs, path)).await.is_err(),
            "{mode:?}"
        );
    }

    pccs.set_mode(PccsMode::Up);
    pccs.set_endpoint_mode(Endpoint::QeIdentity, PccsMode::Corrupt);
    let corrupt = get(&pccs, path).await.unwrap().body;
    assert_eq!(corrupt.len(), good.len());
    assert_eq!(corrupt.iter().zip(&good).filter(|(a, b)| a != b).count(), 1);
    assert_eq!(get(&pccs, crl).await.unwrap().status, 200);

    pccs.set_mode(PccsMode::Up);
    assert_eq!(get(&pccs, path).await.unwrap().body, good);
    pccs.publish(&CollateralSpec { evaluation_number: 99, ..CollateralSpec::default() });
    let changed: Value = serde_json::from_slice(&get(&pccs, path).await.unwrap().body).unwrap();
    assert_eq!(changed["enclaveIdentity"]["tcbEvaluationDataNumber"], 99);

    let address = pccs.address();
    drop(pccs);
    let ends = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ends).await.expect("nothing listens any more");
}

#[tokio::test]
async fn attest_answers_evidence_that_verifies() {
    let platform = Platform::from_seed(b"servers");
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("dstack.sock");
    std::fs::write(&socket, "left by a former run").unwrap();
    for (format, version) in [
        (QuoteFormat::V4, EventVersion::V1),
        (QuoteFormat::V5Td10, EventVersion::V2),
        (QuoteFormat::V5Td15, EventVersion::V1),
    ] {
        let cvm = Cvm::builder(&platform).format(format).event_version(version).stage(Stage::Ready).build();
        let agent = GuestAgent::serve(&cvm, &socket).await.unwrap();
        let asked = json!({ "report_data": "ab".repeat(64) }).to_string();
        let (status, body) = call(&agent, "/Attest?json", &asked).await.unwrap();
        assert_eq!(status, 200);
        let answer: Value = serde_json::from_slice(&body).unwrap();
        let bytes = hex::decode(answer["attestation"].as_str().unwrap()).unwrap();
        let evidence = Evidence::decode(&bytes).unwrap();
        assert_eq!(evidence, cvm.evidence(ReportData([0xab; 64])));
        assert_eq!(evidence.report_data().unwrap().0, [0xab; 64]);
        assert_eq!(evidence.stack.runtime_events, cvm.runtime_events());
        let tdx = evidence.tdx().unwrap();
        let verified = QuoteVerifier::new(platform.root_der().to_vec())
            .verify(&tdx.quote, &platform.collateral(), NOW)
            .unwrap();
        let report = verified.report.as_td10().unwrap();
        assert_eq!(
            report.rt_mr3,
            kms_attest::measurement::replay_rtmr3(
                &evidence.stack.runtime_events,
                kms_attest::measurement::Until::End,
            )
        );
        drop(agent);
        assert!(!socket.exists());
    }
}

#[tokio::test]
async fn report_data_is_padded_and_wrong_calls_are_refused() {
    let platform = Platform::from_seed(b"servers");
    let cvm = Cvm::builder(&platform).build();
    let agent = GuestAgent::serve_tcp(&cvm).await.unwrap();
    let (_, body) = call(&agent, "/GetQuote?json", r#"{"report_data":"01"}"#).await.unwrap();
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["report_data"], format!("01{}", "00".repeat(63)));
    let (status, _) = call(&agent, "/Attest?json", "{}").await.unwrap();
    assert_eq!(status, 200);

    for (path, body, status, said) in [
        ("/Attest?json", json!({ "report_data": "00".repeat(65) }).to_string(), 400, "at most 64 bytes"),
        ("/Attest?json", r#"{"report_data":"xy"}"#.to_owned(), 400, "must be hex"),
        ("/Attest?json", r#"{"report_data":5}"#.to_owned(), 400, "must be hex"),
        ("/Attest?json", "{".to_owned(), 400, "must be JSON"),
        ("/EmitEvent?json", "{}".to_owned(), 400, "event must be text"),
        ("/Nothing?json", "{}".to_owned(), 404, "no such method"),
    ] {
        let (answered, text) = call(&agent, path, &body).await.unwrap();
        assert_eq!(answered, status, "{path} {body}");
        assert!(String::from_utf8(text).unwrap().contains(said), "{path} {body}");
    }
    assert_eq!(agent.request_count(), 8);
}

#[tokio::test]
async fn info_describes_the_cvm_and_events_move_its_registers() {
    let platform = Platform::from_seed(b"servers");
    let cvm = Cvm::builder(&platform).app_id([3; 20]).instance_id(b"").build();
    let agent = GuestAgent::serve_tcp(&cvm).await.unwrap();
    let info = async || -> Value {
        serde_json::from_slice(&call(&agent, "/Info?json", "null").await.unwrap().1).unwrap()
    };
    let before = info().await;
    assert_eq!(before["app_id"], "03".repeat(20));
    assert_eq!(before["instance_id"], "");
    assert_eq!(before["vm_config"], cvm.vm_config());
    assert_eq!(before["key_provider_info"], "");
    assert_eq!(before["mr_aggregated"], hex::encode(cvm.mr_aggregated()));
    let tcb_info: Value = serde_json::from_str(before["tcb_info"].as_str().unwrap()).unwrap();
    assert_eq!(tcb_info["event_log"], json!(cvm.event_log()), "with what the quote does not say");
    assert_eq!(tcb_info["app_compose"], "");

    cvm.finish_boot(&KeyProvider::Kms(vec![1, 2, 3]));
    let after = info().await;
    assert_ne!(after["mr_aggregated"], before["mr_aggregated"]);
    assert_eq!(after["key_provider_info"], hex::encode(br#"{"name":"kms","id":"010203"}"#));

    let (status, _) = call(&agent, "/EmitEvent?json", r#"{"event":"mine","payload":"00ff"}"#).await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(cvm.runtime_events().last().unwrap().payload, [0, 0xff]);
    assert_ne!(info().await["mr_aggregated"], after["mr_aggregated"]);

    agent.replace_cvm(&Cvm::builder(&platform).app_id([4; 20]).tcb(TcbLevel::OutOfDate).build());
    assert_eq!(info().await["app_id"], "04".repeat(20));
}

#[tokio::test]
async fn the_guest_agent_fails_as_told() {
    let platform = Platform::from_seed(b"servers");
    let cvm = Cvm::builder(&platform).build();
    let agent = GuestAgent::serve_tcp(&cvm).await.unwrap();

    agent.set_mode(AgentMode::Down);
    assert_eq!(call(&agent, "/Info?json", "null").await.unwrap().0, 500);
    agent.set_mode(AgentMode::Garbage);
    assert!(serde_json::from_slice::<Value>(&call(&agent, "/Info?json", "null").await.unwrap().1).is_err());
    agent.set_mode(AgentMode::WrongFields);
    let wrong: Value = serde_json::from_slice(&call(&agent, "/Attest?json", "{}").await.unwrap().1).unwrap();
    assert!(Evidence::decode(&hex::decode(wrong["attestation"].as_str().unwrap()).unwrap()).is_err());
    agent.set_mode(AgentMode::WrongReportData);
    let other: Value = serde_json::from_slice(&call(&agent, "/Attest?json", "{}").await.unwrap().1).unwrap();
    let other = Evidence::decode(&hex::decode(other["attestation"].as_str().unwrap()).unwrap()).unwrap();
    assert_ne!(other.report_data().unwrap().0, [0; 64]);
    agent.set_mode(AgentMode::Disconnecting);
    assert!(call(&agent, "/Info?json", "null").await.is_err());
    for mode in [AgentMode::Silent, AgentMode::Slow(Duration::from_secs(60))] {
        agent.set_mode(mode);
        let waited =
            tokio::time::timeout(Duration::from_millis(200), call(&agent, "/Info?json", "null")).await;
        assert!(waited.is_err(), "{mode:?}");
    }
}
