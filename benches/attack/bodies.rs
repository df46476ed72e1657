//! Attacks with request bodies.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use http::Request;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt as _;

use crate::Case;
use crate::target::Target;
use crate::wire::{DATA, END_HEADERS, HEADERS, Raw, frame, many, post};

pub(crate) const CASES: &[Case] = &[
    Case {
        config: "core.limits.max_request_memory = \"64MiB\"",
        ..Case::new("unfinished bodies", unfinished_bodies)
    },
    Case {
        config: "core.limits.max_request_memory = \"64MiB\"",
        ..Case::new("unfinished bodies in their windows", bodies_in_windows)
    },
    Case::new("slow bodies", slow_bodies),
    Case::new("announced lengths", announced_lengths),
    Case::new("a stream of reflection", reflection),
];

/// 40 connections with 64 streams, each with an unfinished body of almost 1 MiB.
fn unfinished_bodies(target: &Target, until: Instant) -> LocalBoxFuture<'_, Result<String, String>> {
    async move {
        let sent = many(40, until, |number| async move {
            let last = 1 + u8::try_from(number % 4).unwrap_or(0);
            let Ok(mut raw) = Raw::open(target, last).await else { return 0 };
            let streams: Vec<u32> = (0..64).map(|_| raw.stream()).collect();
            for stream in &streams {
                if raw.send(&frame(HEADERS, END_HEADERS, *stream, &post("/prpc/SignCert"))).await.is_err() {
                    return 0;
                }
            }
            let data = [b' '; 16 * 1000];
            let mut sent = 0;
            for _ in 0..62 {
                for stream in &streams {
                    // Ignores the flow-control windows: the server may refuse what exceeds them.
                    if raw.send(&frame(DATA, 0, *stream, &data)).await.is_err() {
                        return sent;
                    }
                    sent += 16_000;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::sleep(Duration::from_secs(30)).await;
            sent
        })
        .await;
        Ok(format!("{} MB in bodies", sent / 1_000_000))
    }
    .boxed_local()
}

/// The same from a client that respects flow control, so that nothing is refused for exceeding a window.
fn bodies_in_windows(target: &Target, until: Instant) -> LocalBoxFuture<'_, Result<String, String>> {
    async move {
        let sent = Arc::new(AtomicU64::new(0));
        let caller = target.caller().http2();
        many(40, until, |number| {
            let (sent, caller) = (&sent, &caller);
            async move {
                let last = 1 + u8::try_from(number % 4).unwrap_or(0);
                let Ok(stream) = target.tls(last, caller).await else { return 0 };
                let opened = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
                let Ok((sender, connection)) = opened else { return 0 };
                tokio::spawn(connection);
                let requests = (0..64).map(|_| {
                    let (mut sender, sent) = (sender.clone(), Arc::clone(sent));
                    async move {
                        let chunks = stream::iter(0..63).map(move |_| {
                            sent.fetch_add(CHUNK.len() as u64, Ordering::Relaxed);
                            Ok::<_, Infallible>(Frame::data(Bytes::from_static(CHUNK)))
                        });
                        // The body never ends.
                        let body = StreamBody::new(chunks.chain(stream::pending()));
                        let request = Request::post("https://localhost/prpc/SignCert").body(body);
                        sender.ready().await.ok()?;
                        sender.send_request(request.expect("a request")).await.ok()
                    }
                });
                futures_util::future::join_all(requests).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                1
            }
        })
        .await;
        Ok(format!("{} MB in bodies", sent.load(Ordering::Relaxed) / 1_000_000))
    }
    .boxed_local()
}

/// A chunk of a body.
const CHUNK: &[u8] = &[b' '; 16 * 1024];

/// Bodies sent byte by byte.
fn slow_bodies(target: &Target, until: Instant) -> LocalBoxFuture<'_, Result<String, String>> {
    async move {
        let caller = target.caller().http1();
        let opened = many(300, until, |_| {
            let caller = &caller;
            async move {
                let Ok(mut stream) = target.tls(1, caller).await else { return 0 };
                let head =
                    b"POST /prpc/SignCert HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n";
                if stream.write_all(head).await.is_err() {
                    return 0;
                }
                while stream.write_all(b" ").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                1
            }
        })
        .await;
        Ok(format!("{opened} connections closed by the server"))
    }
    .boxed_local()
}

/// Announced lengths for which a careless server allocates memory, and unrequested compressed bodies.
fn announced_lengths(target: &Target, until: Instant) -> LocalBoxFuture<'_, Result<String, String>> {
    async move {
        let caller = target.caller().http1();
        let grpc = |flag: u8| {
            let mut head = b"POST /kms.KMS/GetMeta HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/grpc-web\r\n\
                             grpc-encoding: gzip\r\ncontent-length: 9\r\n\r\n"
                .to_vec();
            head.extend([flag, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x8b, 8, 0]);
            head
        };
        let requests = [
            grpc(0),
            grpc(1),
            b"POST /prpc/SignCert HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9223372036854775807\r\n\r\n".to_vec(),
            b"POST /prpc/GetMeta HTTP/1.1\r\nhost: localhost\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00"
                .to_vec(),
            b"POST /prpc/GetMeta HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n7fffffffffffffff\r\n"
                .to_vec(),
        ];
        let sent = many(8, until, |number| {
            let (caller, request) = (&caller, &requests[number % requests.len()]);
            async move {
                let Ok(mut stream) = target.tls(1, caller).await else { return 0 };
                let _ = stream.write_all(request).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                1
            }
        })
        .await;
        Ok(format!("{sent} requests"))
    }
    .boxed_local()
}

/// One stream with as many messages as possible; each counts as a request.
fn reflection(target: &Target, until: Instant) -> LocalBoxFuture<'_, Result<String, String>> {
    async move {
        // Message 7 of ServerReflectionRequest: list_services = "".
        let message = [0, 0, 0, 0, 2, 0x3a, 0];
        let messages = message.repeat(1000);
        let sent = many(4, until, |_| {
            let messages = &messages;
            async move {
                let Ok(mut raw) = Raw::open(target, 1).await else { return 0 };
                let stream = raw.stream();
                let mut block = post("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
                // A literal header field without indexing: content-type, number 31 of the static table.
                block.extend([0x0f, 0x10]);
                crate::wire::text(&mut block, "application/grpc");
                if raw.send(&frame(HEADERS, END_HEADERS, stream, &block)).await.is_err() {
                    return 0;
                }
                let mut sent = 0;
                while raw.send(&frame(DATA, 0, stream, messages)).await.is_ok() && sent < 20_000 {
                    sent += 1000;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                sent
            }
        })
        .await;
        Ok(format!("{sent} messages"))
    }
    .boxed_local()
}
