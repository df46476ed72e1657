//! The exchanges of the vectors, and faulty services.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::*;
use crate::collateral::CaKind;
use crate::collateral::testing::{
    NOW, Route, Routes, Server, bytes_of, json, mock_anchors, mock_quote, normal_routes, routes_of,
    with_encrypted_ppid,
};
use crate::platform::tdx::verify_quote;

const PCK_CRL_PATH: &str = "/sgx/certification/v4/pckcrl?ca=platform&encoding=der";
const TCB_PATH: &str = "/tdx/certification/v4/tcb?fmspc=000000000000";
const QE_PATH: &str = "/tdx/certification/v4/qe/identity?update=standard";
const ROOT_CRL_PATH: &str = "/sgx/certification/v4/rootcacrl";

fn client(url: &str) -> Result<Pccs, EndpointError> {
    Pccs::new(url, Http::new(&[]).unwrap(), &mock_anchors())
}

async fn fetch(server: &Server) -> Result<Collateral, CollateralError> {
    client(&server.base).unwrap().fetch(&mock_quote()).await
}

async fn failure(server: &Server) -> FetchFailure {
    match fetch(server).await.unwrap_err() {
        CollateralError::Unavailable { failures } => failures.into_iter().next().unwrap(),
        other => panic!("{other}"),
    }
}

async fn failure_with(change: impl FnOnce(&mut Routes)) -> FetchFailure {
    let mut routes = normal_routes();
    change(&mut routes);
    failure(&Server::start(routes).await).await
}

#[tokio::test]
async fn every_exchange_of_the_vectors_goes_as_the_peers() {
    let vectors = json("pccs.json");
    let expected = &vectors["expected_collateral"];
    let quote = bytes_of(&vectors["quote"]);
    let exchanges = vectors["exchanges"].as_array().unwrap();
    assert_eq!(exchanges.len(), 9);
    for exchange in exchanges {
        let name = exchange["name"].as_str().unwrap();
        let server = Server::start(routes_of(&vectors, exchange)).await;
        let url = format!("{}{}", server.base, exchange["base_url_suffix"].as_str().unwrap());
        let result = client(&url).unwrap().fetch(&quote).await;
        assert_eq!(serde_json::json!(server.requests()), exchange["requests"], "{name}");
        // The peer reads only hex; DER is what other services send.
        let error = exchange.get("error").filter(|_| name != "root CRL served as raw DER");
        match error {
            Some(_) => assert!(result.is_err(), "{name}"),
            None => {
                let collateral = result.unwrap_or_else(|e| panic!("{name}: {e:?}"));
                let mut parts = serde_json::to_value(collateral.parts()).unwrap();
                let chain = parts.as_object_mut().unwrap().remove("pck_certificate_chain");
                assert!(chain.is_some(), "{name}");
                assert_eq!(&parts, expected, "{name}");
                assert!(verify_quote(&quote, &collateral, &mock_anchors(), NOW).is_ok(), "{name}");
            }
        }
    }
}

#[test]
fn base_urls_are_cut_to_the_service() {
    let cases = [
        ("", DEFAULT_PCCS_URL),
        ("  ", DEFAULT_PCCS_URL),
        ("https://h", "https://h"),
        ("https://h///", "https://h"),
        ("https://h/sgx/certification/v4", "https://h"),
        ("https://h/tdx/certification/v4/", "https://h"),
        ("https://h/tdx/certification/v4/sgx/certification/v4/", "https://h"),
        ("https://h/mirror/sgx/certification/v4/", "https://h/mirror"),
        ("http://user:secret@h:8081/", "http://user:secret@h:8081"),
    ];
    for (url, expected) in cases {
        assert_eq!(client(url).unwrap().base, expected, "{url}");
    }
    for url in ["h", "ftp://h", "unix:/run/x", "https://", "/sgx/certification/v4"] {
        assert_eq!(client(url).err(), Some(EndpointError::NotHttp { index: 0 }), "{url}");
    }
    for (url, version) in [
        ("https://h/sgx/certification/v3/", 3),
        ("http://h:8081/tdx/certification/v3", 3),
        ("https://h/sgx/certification/v5/", 5),
        ("https://h/sgx/certification/v3/rootcacrl", 3),
    ] {
        let refused = EndpointError::Version { index: 0, version };
        assert_eq!(client(url).err(), Some(refused.clone()), "{url}");
        assert!(refused.to_string().ends_with("TDX needs v4"), "{refused}");
    }
    for url in ["https://h/?a=b", "https://h/#x"] {
        assert_eq!(client(url).err(), Some(EndpointError::HasQuery { index: 0 }), "{url}");
    }
}

#[tokio::test]
async fn an_encrypted_ppid_is_exchanged_for_the_platforms_chain_first() {
    let quote = with_encrypted_ppid(&mock_quote(), 3, 384);
    let path = format!(
        "/sgx/certification/v4/pckcert?qeid={}&encrypted_ppid={}&cpusvn={}&pcesvn=0201&pceid=0304",
        "00".repeat(16),
        "EE".repeat(384),
        "07".repeat(16),
    );
    let mut routes = normal_routes();
    let issuers = routes[PCK_CRL_PATH].headers[0].1.clone();
    let leaf = mock_pck_leaf();
    let level = format!("{}0201", "07".repeat(16));
    let answer = |level: &str| Route {
        headers: vec![(PCK_CHAIN.into(), issuers.clone()), (PCK_TCBM.into(), level.into())],
        body: leaf.clone().into_bytes(),
        ..Route::status(200)
    };
    routes.insert(path.clone(), answer(&level));
    let server = Server::start(routes.clone()).await;
    let collateral = client(&server.base).unwrap().fetch(&quote).await.unwrap();
    assert!(
        collateral.pck_certificate_chain().unwrap().starts_with(&format!("{}\n-----BEGIN", leaf.trim_end()))
    );
    assert_eq!(server.requests()[0], format!("GET {path}"));
    assert_eq!(server.requests().len(), 5);
    // The fetched chain takes the place of the one missing in the quote.
    assert!(verify_quote(&quote, &collateral, &mock_anchors(), NOW).is_ok());

    for (level, expected) in [
        (format!("{}0201", "06".repeat(16)), FetchFailure::TcbLevel),
        (format!("{}0101", "07".repeat(16)), FetchFailure::TcbLevel),
        ("0707".into(), FetchFailure::TcbLevel),
        ("x".into(), malformed(Resource::PckCertificate, "SGX-TCBm is not hex")),
    ] {
        server.set_routes([(path.clone(), answer(&level))].into());
        let error = client(&server.base).unwrap().fetch(&quote).await.unwrap_err();
        assert_eq!(error, CollateralError::unavailable(expected), "{level}");
    }
    server.set_routes(HashMap::new());
    let error = client(&server.base).unwrap().fetch(&quote).await.unwrap_err();
    let status = FetchFailure::Status { resource: Resource::PckCertificate, status: 404 };
    assert_eq!(error, CollateralError::unavailable(status));
}

/// PEM of the PCK certificate in the mock quote.
fn mock_pck_leaf() -> String {
    let quote = mock_quote();
    let start = quote.windows(10).position(|window| window == b"-----BEGIN").unwrap();
    let chain = String::from_utf8(quote[start..].to_vec()).unwrap();
    chain.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap().to_owned()
}

#[tokio::test]
async fn an_unexpected_response_is_named() {
    type Change = fn(&mut Route);
    let cases: [(&str, Change, FetchFailure); 11] = [
        (PCK_CRL_PATH, |r| r.status = 503, FetchFailure::Status { resource: Resource::PckCrl, status: 503 }),
        (TCB_PATH, |r| r.status = 404, FetchFailure::Status { resource: Resource::TcbInfo, status: 404 }),
        (
            QE_PATH,
            |r| r.headers.clear(),
            FetchFailure::MissingHeader { resource: Resource::QeIdentity, header: QE_IDENTITY_CHAIN },
        ),
        (
            TCB_PATH,
            |r| r.headers.clear(),
            FetchFailure::MissingHeader { resource: Resource::TcbInfo, header: "TCB-Info-Issuer-Chain" },
        ),
        (TCB_PATH, |r| r.body = b"{}".to_vec(), malformed(Resource::TcbInfo, "is not the expected json")),
        (QE_PATH, |r| r.body = vec![0xff], malformed(Resource::QeIdentity, "is not utf-8")),
        (
            QE_PATH,
            |r| r.body = br#"{"enclaveIdentity":{},"signature":"zz"}"#.to_vec(),
            malformed(Resource::QeIdentity, "signature is not hex"),
        ),
        (
            QE_PATH,
            |r| r.headers[0].1 = "%ff".into(),
            malformed(Resource::QeIdentity, "issuer chain is not percent-encoded utf-8"),
        ),
        (
            QE_PATH,
            |r| r.headers[0].1 = "a".repeat(MAX_CHAIN_HEADER + 1),
            malformed(Resource::QeIdentity, "issuer chain is too long"),
        ),
        (
            ROOT_CRL_PATH,
            |r| r.body = b"zz".to_vec(),
            malformed(Resource::RootCrl, "is not a crl in DER, PEM or hex"),
        ),
        (ROOT_CRL_PATH, |r| r.status = 500, FetchFailure::NoDistributionPoint),
    ];
    for (path, change, expected) in cases {
        let got = failure_with(|routes| change(routes.get_mut(path).unwrap())).await;
        assert_eq!(got, expected, "{path}");
    }
}

#[tokio::test]
async fn bodies_are_bounded() {
    for (path, resource, limit) in [
        (PCK_CRL_PATH, Resource::PckCrl, MAX_CRL),
        (TCB_PATH, Resource::TcbInfo, MAX_DOCUMENT),
        (QE_PATH, Resource::QeIdentity, MAX_DOCUMENT),
        (ROOT_CRL_PATH, Resource::RootCrl, MAX_CRL),
    ] {
        let got = failure_with(|routes| {
            routes.get_mut(path).unwrap().body = vec![b'0'; limit + 1];
        })
        .await;
        assert_eq!(got, FetchFailure::TooLarge { resource, limit });
    }
}

#[tokio::test]
async fn no_server_is_no_connection_and_the_error_shown_names_no_address() {
    // Bound and not listening, so that no other server gets the port.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let error = client(&url).unwrap().fetch(&mock_quote()).await.unwrap_err();
    let CollateralError::Unavailable { failures } = &error else { panic!() };
    assert_eq!(failures[0].to_string(), "pck crl: no connection: connection refused");
    for text in [error.to_string(), failures[0].to_string()] {
        assert!(!text.contains("127.0.0.1") && !text.contains("http"), "{text}");
    }
}

#[tokio::test]
async fn a_redirect_is_followed_within_the_host_only() {
    let normal = Server::start(normal_routes()).await;
    let to = |location: String| Route { headers: vec![("location".into(), location)], ..Route::status(302) };
    // Same host and port: followed.
    let mut routes = normal_routes();
    let moved = routes.remove(PCK_CRL_PATH).unwrap();
    routes.insert("/moved".into(), moved);
    routes.insert(PCK_CRL_PATH.into(), to("/moved".into()));
    let server = Server::start(routes.clone()).await;
    assert!(fetch(&server).await.is_ok());
    // Another port is another service.
    routes.insert(PCK_CRL_PATH.into(), to(format!("{}{PCK_CRL_PATH}", normal.base)));
    server.set_routes(routes.clone());
    let refused = FetchFailure::Status { resource: Resource::PckCrl, status: 302 };
    assert_eq!(failure(&server).await, refused);
    assert!(normal.requests().is_empty());
    // A redirect loop ends.
    routes.insert(PCK_CRL_PATH.into(), to(PCK_CRL_PATH.into()));
    server.set_routes(routes);
    assert_eq!(failure(&server).await, refused);
}

#[test]
fn intels_own_service_is_not_asked_for_the_root_crl() {
    let intel = client("https://api.trustedservices.intel.com/sgx/certification/v4/").unwrap();
    assert!(!intel.has_root_crl());
    assert!(client(DEFAULT_PCCS_URL).unwrap().has_root_crl());
}

#[test]
fn the_distribution_point_of_intels_root_is_read() {
    let anchors = TrustAnchors::intel();
    assert_eq!(
        distribution_point(anchors.tdx_root()).as_deref(),
        Some("https://certificates.trustedservices.intel.com/IntelSGXRootCA.der")
    );
    assert_eq!(distribution_point(mock_anchors().tdx_root()), None);
}

#[tokio::test]
async fn the_forms_in_which_services_differ_give_the_same_collateral() {
    type Change = fn(&mut Routes);
    fn with(routes: &mut Routes, path: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) {
        let route = routes.get_mut(path).unwrap();
        route.body = change(std::mem::take(&mut route.body));
    }
    fn pem(der: &[u8]) -> Vec<u8> {
        let certificate = crate::certificate::pem(der);
        certificate.replace("CERTIFICATE", "X509 CRL").into_bytes()
    }
    let cases: [(&str, Change); 10] = [
        ("pck crl in hex, as old versions of Intel's PCCS", |r| {
            with(r, PCK_CRL_PATH, |der| hex::encode(der).into_bytes());
        }),
        ("pck crl in PEM", |r| with(r, PCK_CRL_PATH, |der| pem(&der))),
        ("root crl in DER", |r| with(r, ROOT_CRL_PATH, |text| hex::decode(text).unwrap())),
        ("root crl in PEM", |r| with(r, ROOT_CRL_PATH, |text| pem(&hex::decode(text).unwrap()))),
        ("root crl with a line break", |r| with(r, ROOT_CRL_PATH, |text| [text, b"\r\n".to_vec()].concat())),
        ("a byte order mark", |r| {
            with(r, TCB_PATH, |text| ["\u{feff}".as_bytes(), &text].concat());
            with(r, QE_PATH, |text| ["\u{feff}".as_bytes(), &text].concat());
        }),
        ("white space around the document", |r| {
            with(r, TCB_PATH, |text| [b" \n", &text[..], b"\n"].concat())
        }),
        ("a signature in upper case", |r| {
            with(r, TCB_PATH, |text| {
                let text = String::from_utf8(text).unwrap();
                let at = text.rfind("\"signature\":\"").unwrap() + 13;
                format!("{}{}", &text[..at], text[at..].to_uppercase()).into_bytes()
            });
        }),
        ("more members", |r| {
            with(r, QE_PATH, |text| {
                let text = String::from_utf8(text).unwrap();
                text.replacen('{', "{\"status\":\"ok\",\"requestId\":1,", 1).into_bytes()
            });
        }),
        ("the lines of chains ended by CRLF", |r| {
            for path in [PCK_CRL_PATH, TCB_PATH, QE_PATH] {
                let header = &mut r.get_mut(path).unwrap().headers[0].1;
                *header = header.replace("%0A", "%0D%0A");
            }
        }),
    ];
    let expected = fetch(&Server::start(normal_routes()).await).await.unwrap();
    for (case, change) in cases {
        let mut routes = normal_routes();
        change(&mut routes);
        let fetched = fetch(&Server::start(routes).await).await;
        assert_eq!(fetched.as_ref(), Ok(&expected), "{case}");
    }
}

mod distribution_points {
    use rcgen::{BasicConstraints, CertificateParams, CrlDistributionPoint, IsCa, KeyPair};

    use super::*;

    /// A root of our own with a CRL distribution point at `url`.
    fn root(url: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec![url.to_owned()] }];
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn chain_of(root: &CertificateDer<'_>) -> String {
        crate::certificate::pem(root)
    }

    fn pccs(base: &str, root: &CertificateDer<'_>) -> Pccs {
        let anchors = TrustAnchors::with_tdx_root(root).unwrap();
        Pccs::new(base, Http::new(&[]).unwrap(), &anchors).unwrap()
    }

    #[tokio::test]
    async fn the_root_crl_comes_from_the_trusted_roots_own_address_when_the_service_has_none() {
        let der = hex::decode(&normal_routes()[ROOT_CRL_PATH].body).unwrap();
        let crl = Route { body: der.clone(), ..Route::status(200) };
        let elsewhere = Server::start([("/root.crl".to_owned(), crl)].into()).await;
        let service = Server::start(HashMap::new()).await;
        let root = root(&format!("{}/root.crl", elsewhere.base));
        let fetched = pccs(&service.base, &root).root_crl(&chain_of(&root)).await;
        assert_eq!(fetched, Ok(der));
        assert_eq!(service.requests(), [format!("GET {ROOT_CRL_PATH}")]);
        assert_eq!(elsewhere.requests(), ["GET /root.crl"]);
    }

    #[tokio::test]
    async fn an_address_in_a_certificate_of_another_root_is_never_asked() {
        let inside = Server::start(HashMap::new()).await;
        let service = Server::start(HashMap::new()).await;
        let (trusted, foreign) = (root("http://127.0.0.1:1/"), root(&format!("{}/secret", inside.base)));
        let fetched = pccs(&service.base, &trusted).root_crl(&chain_of(&foreign)).await;
        assert_eq!(fetched, Err(FetchFailure::NoDistributionPoint));
        assert!(inside.requests().is_empty());
    }

    #[tokio::test]
    async fn a_distribution_point_neither_redirects_nor_has_another_scheme() {
        let inside = Server::start(HashMap::new()).await;
        let redirect = Route { headers: vec![("location".into(), "/root.crl".into())], ..Route::status(301) };
        let elsewhere = Server::start([("/moved".to_owned(), redirect)].into()).await;
        let moved = root(&format!("{}/moved", elsewhere.base));
        let fetched = pccs(&inside.base, &moved).root_crl(&chain_of(&moved)).await;
        let status = FetchFailure::Status { resource: Resource::DistributionPoint, status: 301 };
        assert_eq!(fetched, Err(status));
        let file = root("file:///etc/passwd");
        let fetched = pccs(&inside.base, &file).root_crl(&chain_of(&file)).await;
        assert_eq!(fetched, Err(FetchFailure::NoDistributionPoint));
    }
}

#[test]
fn compaction_removes_white_space_between_tokens_and_nothing_else() {
    let cases = [
        (r#"{ "b" : 1.0, "a" : [ 1e3 , "x y" ] }"#, r#"{"b":1.0,"a":[1e3,"x y"]}"#),
        ("{\n\t\"a\\\" b\" : \"\\\\\" , \"c\" : \" \\\\\\\" d \"\r\n}", r#"{"a\" b":"\\","c":" \\\" d "}"#),
        (r#"{"a":"\u0041\/ é"}"#, r#"{"a":"\u0041\/ é"}"#),
        (r#"{"a":1,"a":2}"#, r#"{"a":1,"a":2}"#),
        ("null", "null"),
    ];
    for (json, expected) in cases {
        assert_eq!(compact(json), expected);
    }
}

#[tokio::test]
async fn collateral_for_a_platform_must_be_signed_and_current() {
    let server = Server::start(normal_routes()).await;
    let pccs = client(&server.base).unwrap();
    let platform = PlatformKey { fmspc: [0; 6], ca: CaKind::Platform };
    assert!(pccs.platform(platform, &Clock::fixed(NOW)).await.is_ok());
    let late = pccs.platform(platform, &Clock::fixed(u64::MAX / 2)).await;
    assert_eq!(late, Err(FetchFailure::NotCurrent));
    let processor = PlatformKey { ca: CaKind::Processor, ..platform };
    let status = FetchFailure::Status { resource: Resource::PckCrl, status: 404 };
    assert_eq!(pccs.platform(processor, &Clock::fixed(NOW)).await, Err(status));
}

#[tokio::test]
async fn a_slow_response_does_not_hold_the_caller_that_has_left() {
    let mut routes = normal_routes();
    routes.get_mut(PCK_CRL_PATH).unwrap().delay = Duration::from_secs(60);
    let server = Server::start(routes).await;
    let fetched = tokio::time::timeout(Duration::from_millis(50), fetch(&server)).await;
    assert!(fetched.is_err());
}

proptest::proptest! {
    #[test]
    fn a_compacted_document_is_what_a_json_library_writes_compactly(
        keys in proptest::collection::vec(".{0,8}", 0..6),
        texts in proptest::collection::vec("[ \\\"\\\\{}a-c\n]{0,12}", 0..6),
        number in proptest::num::i64::ANY,
    ) {
        let mut document = serde_json::json!({ "texts": texts, "number": number });
        for key in keys {
            document[key] = serde_json::json!([{ "a": [] }, null, true]);
        }
        let pretty = serde_json::to_string_pretty(&document).unwrap();
        proptest::prop_assert_eq!(compact(&pretty), document.to_string());
    }
}
