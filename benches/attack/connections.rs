//! Attacks with many connections.

use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::Case;
use crate::target::Target;
use crate::wire::many;

pub(crate) const CASES: &[Case] = &[
    Case {
        config: "core.limits.max_connections = 256",
        ..Case::new("all slots from two addresses", all_slots)
    },
    Case::new("slow headers", slow_headers),
    Case::new("request smuggling", smuggling),
];

/// Two addresses hold all slots that they can get and sometimes request `/health`.
fn all_slots(target: &Target, until: Instant) -> LocalBoxFuture<'_, Result<String, String>> {
    async move {
        let caller = target.caller().http1();
        let asked = many(300, until, |number| {
            let caller = &caller;
            async move {
                let last = if number % 2 == 0 { 1 } else { 2 };
                let Ok(mut stream) = target.tls(last, caller).await else {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    return 0;
                };
                let mut asked = 0;
                loop {
                    let probe = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
                    if stream.write_all(probe).await.is_err() {
                        return asked;
                    }
                    if !matches!(stream.read(&mut [0; 1024]).await, Ok(1..)) {
                        return asked;
                    }
                    asked += 1;
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        })
        .await;
        Ok(format!("{asked} probes"))
    }
    .boxed_local()
}

/// A request line and headers sent byte by byte.
fn slow_headers(target: &Target, until: Instant) -> LocalBoxFuture<'_, Result<String, String>> {
    async move {
        let caller = target.caller().http1();
        let opened = many(300, until, |_| {
            let caller = &caller;
            async move {
                let Ok(mut stream) = target.tls(1, caller).await else { return 0 };
                let header = b"GET /prpc/GetMeta HTTP/1.1\r\nhost: localhost\r\nx-slow: ";
                for byte in header.iter().chain(std::iter::repeat(&b'a')) {
                    if stream.write_all(&[*byte]).await.is_err() {
                        break;
                    }
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

/// Requests whose length two parsers may interpret differently, each followed by a second request. The second
/// must not get a response of its own unless the first was well-formed.
fn smuggling(target: &Target, until: Instant) -> LocalBoxFuture<'_, Result<String, String>> {
    const SECOND: &str = "GET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n";
    async move {
        let caller = target.caller().http1();
        let first = |headers: &str, body: &str| {
            format!("POST /prpc/GetMeta HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n{body}{SECOND}")
        };
        let length = SECOND.len();
        let variants = [
            first(&format!("content-length: 0\r\ncontent-length: {length}\r\n"), ""),
            first(&format!("content-length: {length}, 0\r\n"), ""),
            first(&format!("content-length: +{length}\r\n"), ""),
            first("content-length: -1\r\n", ""),
            first("content-length: 0x2\r\n", ""),
            first("content-length: 18446744073709551616\r\n", ""),
            first("transfer-encoding: chunked, identity\r\n", "0\r\n\r\n"),
            first("transfer-encoding: xchunked\r\n", "0\r\n\r\n"),
            first("transfer-encoding\u{b}: chunked\r\n", "0\r\n\r\n"),
            first("transfer-encoding : chunked\r\n", "0\r\n\r\n"),
            first("transfer-encoding: chunked\r\n", "0x0\r\n\r\n"),
            first("transfer-encoding: chunked\r\n", "-0\r\n\r\n"),
            first("transfer-encoding: chunked\r\n", "fffffffffffffffff\r\n"),
            first("x: y\r\n folded: content-length\r\n", ""),
            first("x: a\rcontent-length: 5\r\n", ""),
        ];
        let mut sent = 0;
        loop {
            for variant in &variants {
                let mut stream = target.tls(1, &caller).await.map_err(|error| error.to_string())?;
                stream.write_all(variant.as_bytes()).await.map_err(|error| error.to_string())?;
                let mut answer = Vec::new();
                let reading = stream.read_to_end(&mut answer);
                let _ = tokio::time::timeout(Duration::from_millis(500), reading).await;
                let text = String::from_utf8_lossy(&answer);
                // The first is refused and the connection closes; the bytes after it are not parsed as a
                // request.
                if text.matches("HTTP/1.1 ").count() > 1 || text.starts_with("HTTP/1.1 200") {
                    return Err(format!("{variant:?} gives {text:?}"));
                }
                sent += 1;
                if Instant::now() >= until {
                    return Ok(format!("{sent} requests of {} kinds", variants.len()));
                }
            }
        }
    }
    .boxed_local()
}
