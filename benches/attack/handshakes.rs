//! Attacks on the TLS handshake.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use kms_attest::certificate::{self, CertificateSpec, Issuer, Role};
use kms_attest::p256::P256Key;
use rustls::crypto::aws_lc_rs::kx_group;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::Case;
use crate::support::Identity;
use crate::support::identity::{LOOK_ALIKE, look_alikes, spec};
use crate::target::Target;
use crate::wire::many;

pub(crate) const CASES: &[Case] = &[
    Case::new("chains of look-alikes", look_alike_chains),
    Case::new("new connections", new_connections),
    Case::new("slow TLS", slow_tls),
    Case::new("TLS junk", junk),
];

/// Certificates that chain to no root, followed by as many with the same name as a handshake holds.
fn look_alike_chains(target: &Target, until: Instant) -> LocalBoxFuture<'_, Result<String, String>> {
    async move {
        let ca_key = P256Key::generate();
        let ca = CertificateSpec { role: Role::Ca { path_len: 255 }, common_name: LOOK_ALIKE, ..spec() };
        let ca = certificate::self_signed(&ca, &ca_key).expect("certificate");
        let issuer = Issuer::new(&ca, &ca_key).expect("an issuer");
        let key = P256Key::generate();
        let leaf = certificate::issue(&spec(), &key.spki_der(), &issuer).expect("certificate");
        let callers: Vec<_> = [62_000, 14_000, 900]
            .map(|bytes| Identity::of(leaf.clone(), &key).followed_by(&look_alikes(bytes)))
            .into_iter()
            .map(|identity| target.caller().shows(&identity))
            .collect();
        let accepted = AtomicU64::new(0);
        let before = target.cpu();
        let sent = many(6, until, |number| {
            let (caller, accepted) = (&callers[number % callers.len()], &accepted);
            async move {
                // In TLS 1.3 the client learns about the refusal after it has finished its side.
                if let Ok(mut stream) = target.tls(1, caller).await {
                    let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
                    if stream.read(&mut [0; 1]).await.is_ok_and(|read| read > 0) {
                        accepted.fetch_add(1, Ordering::Relaxed);
                    }
                }
                1
            }
        })
        .await;
        let each = target.cpu().saturating_sub(before).as_secs_f64() / sent.max(1) as f64;
        if accepted.load(Ordering::Relaxed) > 0 {
            return Err("a stray certificate passed".to_owned());
        }
        // Before chains were bounded, one cost seconds.
        if each > 0.1 {
            return Err(format!("a handshake costs {each:.3} CPU-seconds"));
        }
        Ok(format!("{sent} handshakes, {:.2} ms each", each * 1000.0))
    }
    .boxed_local()
}

/// As many handshakes as one address can make, with hybrid and with classic key exchange.
fn new_connections(target: &Target, until: Instant) -> LocalBoxFuture<'_, Result<String, String>> {
    async move {
        let middle = until - until.saturating_duration_since(Instant::now()) / 2;
        let hybrid = target.caller();
        let classic = hybrid.exchanges(&[kx_group::X25519]);
        let mut did = Vec::new();
        for (name, caller, until) in [("hybrid", hybrid, middle), ("classic", classic, until)] {
            let before = target.cpu();
            let made = many(16, until, |_| async { u64::from(target.tls(1, &caller).await.is_ok()) }).await;
            let each = target.cpu().saturating_sub(before).as_secs_f64() / made.max(1) as f64;
            did.push(format!("{made} {name} handshakes, {:.2} ms each", each * 1000.0));
        }
        Ok(did.join("; "))
    }
    .boxed_local()
}

/// The beginning of a handshake, byte by byte.
fn slow_tls(target: &Target, until: Instant) -> LocalBoxFuture<'_, Result<String, String>> {
    async move {
        let opened = many(400, until, |_| async {
            let Ok(mut stream) = target.tcp(1).await else { return 0 };
            for byte in [0x16, 3, 1, 2, 0].into_iter().chain(std::iter::repeat(1)) {
                if stream.write_all(&[byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            1
        })
        .await;
        Ok(format!("{opened} connections closed by the server"))
    }
    .boxed_local()
}

/// Bytes that are not TLS records.
fn junk(target: &Target, until: Instant) -> LocalBoxFuture<'_, Result<String, String>> {
    async move {
        let sent = many(16, until, |number| async move {
            let Ok(mut stream) = target.tcp(1).await else { return 0 };
            let mut junk = vec![0x16, 3, 1, 0x40, 0];
            junk.resize(16 * 1024, u8::try_from(number).unwrap_or(0));
            for _ in 0..64 {
                if stream.write_all(&junk).await.is_err() {
                    break;
                }
            }
            1
        })
        .await;
        Ok(format!("{sent} connections"))
    }
    .boxed_local()
}
