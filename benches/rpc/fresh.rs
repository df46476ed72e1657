//! What fresh evidence costs: `GetAppKey` with it and without it, alternating, on kept connections and on new ones.
//!
//! The quotes are the simulator's, made by the load generator: their verification is complete, but the time that a TDX machine
//! takes for a quote is in none of the numbers.

use std::sync::Arc;

use cvm_kms::proto::{GetAppKeyRequest, GetChallengeResponse};
use kms_attest::binding::session::{Session, spki_sha256};
use kms_attest::ra_tls;
use prost::Message as _;
use rustls::ClientConfig;

use super::load::{Answering, Connections, Load, Sent};
use super::{CALLERS, Setting, app_key, machine, measure, microseconds, milliseconds, numbered, request};

/// Measurements of each, alternating.
const PAIRS: usize = 5;
/// Guests per round that connect once, with evidence that is new to the KMS.
const COLD_GUESTS: usize = 300;

/// Measures and prints a table.
pub(super) async fn compare() {
    println!("{}", machine());
    let setting = Setting::new().await;
    let (kms, _) = setting.start().await;
    println!(
        "\n| `GetAppKey` | median | with fresh evidence | server CPU | with it | ratio, median of {PAIRS} pairs | least | most |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    let kept = setting.guests(CALLERS as u64).await;
    let cold = setting.guests((2 * PAIRS * COLD_GUESTS) as u64).await;
    for (name, connections) in [("kept", Connections::Kept), ("new", Connections::New)] {
        let mut rounds = Vec::new();
        for pair in 0..PAIRS {
            let guests = |second: usize| match connections {
                Connections::Kept => kept.clone(),
                Connections::New => cold.chunks(COLD_GUESTS).nth(2 * pair + second).expect("guests").to_vec(),
            };
            let load = |guests: Vec<Arc<ClientConfig>>, sent| Load {
                connections,
                workers: CALLERS,
                sent,
                most: if connections == Connections::New { guests.len() as u64 } else { u64::MAX },
                tls: numbered(guests),
            };
            let without = load(guests(0), Sent::Bytes(app_key()));
            let with = load(guests(1), setting.fresh(guests(1)));
            // Each goes first equally often.
            let (without, with) = if pair % 2 == 0 {
                let first = measure(&kms, &without).await;
                (first, measure(&kms, &with).await)
            } else {
                let first = measure(&kms, &with).await;
                (measure(&kms, &without).await, first)
            };
            rounds.push((with.server.as_secs_f64() / without.server.as_secs_f64(), without, with));
        }
        rounds.sort_by(|(left, ..), (right, ..)| left.total_cmp(right));
        let (ratio, without, with) = &rounds[PAIRS / 2];
        println!(
            "| {name} | {:.2} ms | {:.2} ms | {:.0} µs | {:.0} µs | {ratio:.2} | {:.2} | {:.2} |",
            milliseconds(without.outcome.median),
            milliseconds(with.outcome.median),
            microseconds(without.server),
            microseconds(with.server),
            rounds[0].0,
            rounds[PAIRS - 1].0,
        );
    }
}

impl Setting {
    /// Calls of these guests with fresh evidence.
    fn fresh(&self, guests: Vec<Arc<ClientConfig>>) -> Sent {
        let keys: Vec<[u8; 32]> = guests.iter().map(|guest| key_of(guest)).collect();
        let app = Arc::clone(&self.app);
        let answering: Answering = Arc::new(move |number, connection, challenge| {
            let challenge = GetChallengeResponse::decode(challenge).expect("a challenge").nonce;
            let exporter = kms_attest::tls::exporter(connection).expect("TLS 1.3");
            let server = connection.peer_certificates().and_then(<[_]>::first).expect("a certificate");
            let session = Session {
                challenge: challenge.as_slice().try_into().expect("32 bytes"),
                client_spki_sha256: &keys[number as usize % keys.len()],
                server_spki_sha256: &spki_sha256(&ra_tls::spki_of(server).expect("a key")),
                exporter: &exporter,
                method: "KMS.GetAppKey",
            };
            let fresh_evidence = app.evidence(session.report_data()).stripped().encode();
            let message =
                GetAppKeyRequest { api_version: 1, challenge, fresh_evidence, ..Default::default() };
            request("POST", "/prpc/GetAppKey", &message.encode_to_vec())
        });
        Sent::Fresh { challenge: request("POST", "/prpc/GetChallenge", b""), answering }
    }
}

/// SHA-256 of the key that a guest shows.
fn key_of(guest: &ClientConfig) -> [u8; 32] {
    let shown = guest.client_auth_cert_resolver.resolve(&[], &[]).expect("a certificate");
    spki_sha256(&ra_tls::spki_of(&shown.cert[0]).expect("a key"))
}
