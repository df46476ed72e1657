//! Sources as they answer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kms_ledger::key::{PublicKey, VerifyingKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::super::minisign_vectors::{BY_ONE as MINISIG, FIRST as TEXT, ONE as MINISIGN};
use super::super::{UnverifiedBundle, with_minisig};
use super::*;
use crate::settings::{Activation, EmptyDevices, OnExpiry, PinnedKeys};

fn settings(source: BundleSource) -> Bundle {
    let key = VerifyingKey::new("team/a".parse().unwrap(), PublicKey::Ed25519([1; 32])).to_string();
    Bundle {
        source,
        keys: PinnedKeys::new([&*key], 1).unwrap(),
        poll_interval: Duration::from_secs(60),
        ca_file: None,
        on_expiry: OnExpiry::Warn,
        warn_before_expiry: Duration::ZERO,
        activation: Activation::Automatic,
        shadow: None,
        minimum_serial: 0,
        empty_devices: EmptyDevices::NoDevice,
    }
}

/// Answers each request by its head, one request a connection; gives its URL and the heads.
async fn server(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> (Endpoint, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/team/prod.bundle", listener.local_addr().unwrap());
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let head = String::from_utf8_lossy(&head).to_lowercase();
            seen.lock().unwrap().push(head.clone());
            let _ = stream.write_all(&answer(&head)).await;
        }
    });
    (Endpoint::parse(&url).unwrap(), heads)
}

fn ok(body: &str, headers: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}")
        .into_bytes()
}

#[tokio::test]
async fn a_server_is_asked_with_the_tag_of_what_was_accepted() {
    let (endpoint, heads) = server(|head| match head.contains("if-none-match: \"one\"") {
        true => b"HTTP/1.1 304 Not Modified\r\nconnection: close\r\n\r\n".to_vec(),
        false => ok("bundle", "etag: \"one\"\r\n"),
    })
    .await;
    let mut fetcher = Fetcher::new(&settings(BundleSource::Server(endpoint))).unwrap();
    let first = fetcher.fetch().await.unwrap();
    let Fetched::New(body, seen) = first.clone() else { panic!("{first:?}") };
    assert_eq!(body, b"bundle");
    // What was not accepted is asked for again.
    assert_eq!(fetcher.fetch().await.unwrap(), first);
    fetcher.accept(seen);
    assert_eq!(fetcher.fetch().await.unwrap(), Fetched::Unchanged);
    assert_eq!(heads.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn what_a_server_may_not_do_is_an_error_without_its_address() {
    let redirect = |to: &str| {
        let to = to.to_owned();
        move |_: &str| {
            format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .into_bytes()
        }
    };
    let of = async |endpoint| Fetcher::new(&settings(BundleSource::Server(endpoint))).unwrap().fetch().await;
    for to in ["https://policy.example/x", "http://policy.example/x", "ftp://127.0.0.1/x"] {
        let (endpoint, _) = server(redirect(to)).await;
        assert_eq!(of(endpoint).await, Err(FetchError::Status(302)), "{to}");
    }
    let (endpoint, heads) = server(redirect("/again")).await;
    let error = of(endpoint).await.unwrap_err().to_string();
    assert!(heads.lock().unwrap().len() <= MAX_REDIRECTS + 1 && !error.contains("127.0.0.1"), "{error}");
    let (endpoint, _) = server(|_| {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", MAX_BUNDLE + 1)
            .into_bytes()
    })
    .await;
    assert_eq!(of(endpoint).await, Err(FetchError::TooLarge));
    // Nobody asked whether it was modified.
    let (endpoint, _) = server(|_| b"HTTP/1.1 304 Not Modified\r\nconnection: close\r\n\r\n".to_vec()).await;
    assert_eq!(of(endpoint).await, Err(FetchError::Status(304)));
    let closed = Endpoint::parse("http://127.0.0.1:1/x").unwrap();
    let error = of(closed).await.unwrap_err();
    assert!(
        matches!(&error, FetchError::Connection(_)) && !error.to_string().contains("127.0.0.1"),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_is_new_when_its_content_is() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("prod.bundle");
    let mut fetcher = Fetcher::new(&settings(BundleSource::File(path.clone()))).unwrap();
    assert!(matches!(fetcher.fetch().await, Err(FetchError::File(_))));
    std::fs::write(&path, "one").unwrap();
    let Fetched::New(body, seen) = fetcher.fetch().await.unwrap() else { panic!("not new") };
    assert_eq!(body, b"one");
    fetcher.accept(seen);
    std::fs::write(&path, "one").unwrap();
    assert_eq!(fetcher.fetch().await.unwrap(), Fetched::Unchanged);
    std::fs::write(&path, "two").unwrap();
    assert!(matches!(fetcher.fetch().await, Ok(Fetched::New(..))));
    let nowhere = Fetcher::new(&settings(BundleSource::Operators)).unwrap();
    assert_eq!(nowhere.fetch().await, Err(FetchError::NoSource));
}

fn with_key_of_minisign(source: BundleSource) -> Bundle {
    Bundle { keys: PinnedKeys::with_minisign([], [MINISIGN], 1).unwrap(), ..settings(source) }
}

#[tokio::test]
async fn a_signature_beside_a_bundle_is_asked_for_where_a_key_of_minisign_is_pinned() {
    let answer = |head: &str| match head.starts_with("get /team/prod.bundle.minisig ") {
        true => ok(MINISIG, ""),
        false => ok(TEXT, "etag: \"one\"\r\n"),
    };
    let (endpoint, heads) = server(answer).await;
    let source = BundleSource::Server(endpoint);
    let fetched = Fetcher::new(&with_key_of_minisign(source.clone())).unwrap().fetch().await.unwrap();
    let Fetched::New(body, Seen::ETag(Some(etag))) = fetched else { panic!("{fetched:?}") };
    assert_eq!(
        (body.clone(), etag.as_bytes()),
        (with_minisig(TEXT.as_bytes(), MINISIG.as_bytes()), &b"\"one\""[..])
    );
    assert!(UnverifiedBundle::parse(&body).is_ok());
    assert_eq!(heads.lock().unwrap().len(), 2);
    // Without such a key nothing else is asked for.
    let Fetched::New(body, _) = Fetcher::new(&settings(source)).unwrap().fetch().await.unwrap() else {
        panic!()
    };
    assert_eq!((body, heads.lock().unwrap().len()), (TEXT.into(), 3));

    let missing = |head: &str| match head.contains(".minisig ") {
        true => b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec(),
        false => ok(TEXT, ""),
    };
    let (endpoint, _) = server(missing).await;
    let of = async |source| Fetcher::new(&with_key_of_minisign(source)).unwrap().fetch().await;
    assert_eq!(of(BundleSource::Server(endpoint)).await, Err(FetchError::Minisig("status 404".to_owned())));
    let (endpoint, _) = server(|head| match head.contains(".minisig ") {
        true => {
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", MAX_MINISIG + 1)
                .into_bytes()
        }
        false => ok(TEXT, ""),
    })
    .await;
    assert!(matches!(of(BundleSource::Server(endpoint)).await, Err(FetchError::Minisig(_))));
}

#[tokio::test]
async fn a_new_signature_beside_a_file_is_new() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("prod.bundle");
    std::fs::write(&path, TEXT).unwrap();
    let mut fetcher = Fetcher::new(&with_key_of_minisign(BundleSource::File(path.clone()))).unwrap();
    assert!(matches!(fetcher.fetch().await, Err(FetchError::Minisig(_))));
    std::fs::write(home.path().join("prod.bundle.minisig"), MINISIG).unwrap();
    let Fetched::New(body, seen) = fetcher.fetch().await.unwrap() else { panic!("not new") };
    assert_eq!(body, with_minisig(TEXT.as_bytes(), MINISIG.as_bytes()));
    fetcher.accept(seen);
    assert_eq!(fetcher.fetch().await.unwrap(), Fetched::Unchanged);
    std::fs::write(home.path().join("prod.bundle.minisig"), MINISIG.repeat(2)).unwrap();
    assert!(matches!(fetcher.fetch().await, Ok(Fetched::New(..))));
}
