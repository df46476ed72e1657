//! Report data of fresh evidence: two sessions have the same only if they are the same.

use kms_attest::binding::session::Session;

/// The longest name of a method that is tried.
const MAX_METHOD: usize = 64;

/// The input is cut into two sessions, whose report data differ if any part does.
pub fn session(data: &[u8]) {
    let (first, second) = data.split_at(data.len() / 2);
    let (first, second) = (Parts::of(first), Parts::of(second));
    let is_same = first.session().report_data() == second.session().report_data();
    assert_eq!(is_same, first == second, "sessions are told apart");
}

#[derive(PartialEq, Eq)]
struct Parts {
    fixed: [[u8; 32]; 4],
    method: String,
}

impl Parts {
    /// Missing bytes are zero.
    fn of(data: &[u8]) -> Self {
        let mut fixed = [[0; 32]; 4];
        let mut rest = data;
        for part in &mut fixed {
            let (taken, left) = rest.split_at(rest.len().min(part.len()));
            part[..taken.len()].copy_from_slice(taken);
            rest = left;
        }
        let method = String::from_utf8_lossy(&rest[..rest.len().min(MAX_METHOD)]).into_owned();
        Self { fixed, method }
    }

    fn session(&self) -> Session<'_> {
        let [challenge, client_spki_sha256, server_spki_sha256, exporter] = &self.fixed;
        Session { challenge, client_spki_sha256, server_spki_sha256, exporter, method: &self.method }
    }
}
