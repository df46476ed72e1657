//! `attestation/`: documents of KMSs for outsiders, one file each, with the verdict of every client.

use std::path::Path;

use kms_attest::trust::TrustAnchors;
use kms_client::proof::attestation::{Answer, Code, Pins, Refusal, Rules};
use serde::Deserialize;
use serde_json::Value;

use super::cases::Case;
use super::json::{Check, Failure, ensure};

/// Files beside the cases: the root of the simulated platforms.
const ROOTS: [&str; 2] = ["root.der", "root.pem"];

/// A file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    name: String,
    says: String,
    root: String,
    now: u64,
    nonce: Option<String>,
    tcb_statuses: Vec<String>,
    pins: Value,
    expect: String,
    /// The document; `text` where it is not a JSON object.
    answer: Option<Value>,
    text: Option<String>,
    /// Spaces are appended up to this length.
    padded_to: Option<usize>,
    /// The key of the server of a connection.
    tls_spki: Option<String>,
    /// With `pin_mismatch`: which pin.
    pin: Option<String>,
}

/// Every file of the directory as a case.
pub(super) fn cases(directory: &Path) -> Check<Vec<Case<'static>>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let files = names.into_iter().filter(|name| !ROOTS.contains(&name.as_str()));
    let cases: Vec<Case<'static>> = files
        .map(|name| {
            let directory = directory.to_owned();
            let run = {
                let name = name.clone();
                move || check(&directory, &name)
            };
            Case { name: format!("attestation/{name}"), run: Box::new(move |_| run()) }
        })
        .collect();
    ensure!(!cases.is_empty(), "attestation: there is no document");
    Ok(cases)
}

fn check(directory: &Path, file: &str) -> Check {
    let document: Document = serde_json::from_slice(&std::fs::read(directory.join(file))?)?;
    ensure!(format!("{}.json", document.name) == file, "{file}: its name is {}", document.name);
    ensure!(!document.says.is_empty(), "{file}: says nothing");
    let known = document.expect == "ok" || Code::ALL.iter().any(|code| code.name() == document.expect);
    ensure!(known, "{file}: {} is no code", document.expect);
    let anchors = match document.root.as_str() {
        "intel" => TrustAnchors::intel(),
        "simulated" => {
            let der = std::fs::read(directory.join("root.der"))?;
            let anchors = TrustAnchors::with_tdx_root(&der)?;
            let pem = std::fs::read(directory.join("root.pem"))?;
            ensure!(TrustAnchors::with_tdx_root(&pem)? == anchors, "root.pem is another certificate");
            anchors
        }
        other => return Err(Failure(format!("{file}: {other} is no root"))),
    };
    let (code, pin) = match verdict(&document, &anchors)? {
        Ok(()) => ("ok", None),
        Err(refusal) => (refusal.code().name(), refusal.pin().map(|pin| pin.name().to_owned())),
    };
    ensure!(code == document.expect, "{file}: {code}, expected {}", document.expect);
    ensure!(pin == document.pin, "{file}: the pin {pin:?}, expected {:?}", document.pin);
    Ok(())
}

fn verdict(document: &Document, anchors: &TrustAnchors) -> Check<Result<(), Refusal>> {
    let mut bytes = match (&document.answer, &document.text) {
        (Some(answer), None) => answer.to_string().into_bytes(),
        (None, Some(text)) => text.clone().into_bytes(),
        _ => return Err(Failure("either answer or text".to_owned())),
    };
    if let Some(length) = document.padded_to {
        bytes.resize(length, b' ');
    }
    let nonce = match &document.nonce {
        None => None,
        Some(nonce) => Some(hex::decode(nonce)?.try_into().map_err(|_| Failure("a short nonce".to_owned()))?),
    };
    let rules = Rules { tcb_statuses: document.tcb_statuses.clone(), nonce, ..Rules::default() };
    let spki = document.tls_spki.as_ref().map(hex::decode).transpose()?;
    let verdict = || {
        let pins = Pins::parse(&document.pins.to_string())?;
        let proved = Answer::parse(&bytes)?.verify(&pins, &rules, anchors, document.now)?;
        spki.map_or(Ok(()), |spki| proved.check_tls_key(&spki))
    };
    Ok(verdict())
}
