//! HTTP/2 frames made by hand, so that they can be invalid, and helpers for many connections.

use std::io;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, WriteHalf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use crate::target::Target;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// `GET https://localhost/prpc/GetMeta`, encoded by HPACK without the dynamic table.
pub(crate) fn get_meta() -> Vec<u8> {
    request(0x82, "/prpc/GetMeta")
}

/// `POST https://localhost<path>`.
pub(crate) fn post(path: &str) -> Vec<u8> {
    request(0x83, path)
}

fn request(method: u8, path: &str) -> Vec<u8> {
    // Method and scheme from the static table; path and authority as literals without indexing.
    let mut block = vec![method, 0x87, 0x04];
    text(&mut block, path);
    block.push(0x01);
    text(&mut block, "localhost");
    block
}

/// An HPACK string literal without Huffman coding, at most 126 bytes.
pub(crate) fn text(block: &mut Vec<u8>, text: &str) {
    block.push(u8::try_from(text.len()).expect("a short text"));
    block.extend_from_slice(text.as_bytes());
}

/// An HTTP/2 frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// An HTTP/2 connection on which anything can be sent. What the server sends is thrown away.
pub(crate) struct Raw {
    writer: WriteHalf<TlsStream<TcpStream>>,
    reader: JoinHandle<()>,
    next: u32,
}

impl Raw {
    /// Connects from `127.0.0.<last>` and opens HTTP/2.
    pub(crate) async fn open(target: &Target, last: u8) -> io::Result<Self> {
        let stream = target.tls(last, &target.caller().http2()).await?;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let reader = tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            while matches!(reader.read(&mut buffer).await, Ok(1..)) {}
        });
        let mut opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        opening.extend(frame(SETTINGS, 0, 0, &[]));
        // A large window, so that the server's responses are not limited.
        opening.extend(frame(WINDOW_UPDATE, 0, 0, &0x3fff_ffff_u32.to_be_bytes()));
        writer.write_all(&opening).await?;
        Ok(Self { writer, reader, next: 1 })
    }

    /// The number of a new stream.
    pub(crate) fn stream(&mut self) -> u32 {
        let number = self.next;
        self.next += 2;
        number
    }

    /// Sends frames.
    pub(crate) async fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.writer.write_all(frames).await?;
        self.writer.flush().await
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Runs `attackers` copies of an attack until the time is over; returns the sum of their work. An attack
/// whose connection closes starts again.
pub(crate) async fn many<F>(attackers: usize, until: Instant, attack: impl Fn(usize) -> F) -> u64
where
    F: Future<Output = u64>,
{
    let attack = &attack;
    let each = (0..attackers).map(|number| async move {
        let mut done = 0;
        while Instant::now() < until {
            match tokio::time::timeout_at(until.into(), attack(number)).await {
                Ok(more) => done += more,
                // It was running.
                Err(_) => return done + 1,
            }
            tokio::task::yield_now().await;
        }
        done
    });
    futures_util::future::join_all(each).await.into_iter().sum()
}
