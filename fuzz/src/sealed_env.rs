//! Sealed environments.

use kms_client::environment::{Epochs, SealedEnv, envelope};

/// The secret to which the seeds are sealed.
const SECRET: [u8; 32] = [7; 32];

/// A file that is read is the same after it is written again, and opens for its own epochs only; an error is short.
/// Any bytes that are sealed are opened again.
pub fn sealed_env(data: &[u8]) {
    match SealedEnv::parse(data) {
        Ok(sealed) => {
            let again = SealedEnv::parse(sealed.to_json().as_bytes()).expect("its own file");
            assert_eq!(again, sealed);
            if sealed.open(&SECRET).is_ok() {
                let Epochs { root, app } = sealed.epochs();
                let name = format!("\"root_epoch\":{root},\"app_epoch\":{app}");
                let other = format!("\"root_epoch\":{},\"app_epoch\":{app}", root ^ 1);
                let text = sealed.to_json().replacen(&name, &other, 1);
                let relabelled = SealedEnv::parse(text.as_bytes()).expect("a file");
                assert!(relabelled.open(&SECRET).is_err(), "opens for {}", relabelled.epochs());
            }
        }
        Err(error) => assert!(error.to_string().len() < 200, "{error}"),
    }
    let public = envelope::public_key(&SECRET).expect("a key");
    let epochs = Epochs { root: data.len() as u32, app: data.first().copied().unwrap_or(0).into() };
    let sealed = SealedEnv::seal(&public, epochs, data).expect("a short plaintext");
    assert_eq!(sealed.open(&SECRET).expect("its own key").as_slice(), data);
}
