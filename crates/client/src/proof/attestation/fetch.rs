//! Requests a document over one connection, whose server must have the key that the document proves.

use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use http::Method;

use super::answer::MAX_BYTES;
use crate::rpc::{accepted, read_bounded, within};
use crate::{CallError, Connection};

/// The path of the document.
pub const PATH: &str = "/attestation.json";
/// A quote takes the hardware a second or so, and a busy KMS longer.
const LIMIT: Duration = Duration::from_secs(30);

/// A document as it was received; nothing in it is verified.
#[derive(Debug)]
pub struct Fetched {
    /// The document.
    pub document: Vec<u8>,
    /// The nonce of the request, which the statement must have.
    pub nonce: [u8; 32],
}

/// Requests a document with a new nonce.
///
/// # Errors
/// [`CallError`].
pub async fn fetch(connection: &Connection) -> Result<Fetched, CallError> {
    let unaddressed = || CallError::Method(PATH.to_owned());
    let mut nonce = [0; 32];
    SystemRandom::new().fill(&mut nonce).map_err(|_| unaddressed())?;
    let path = connection.url().path(&format!("{PATH}?nonce={}", hex::encode(nonce)));
    let request = path.and_then(|path| connection.request(Method::GET, path, None, ""));
    let request = request.ok_or_else(unaddressed)?;
    let exchange = async {
        let response = accepted(PATH, connection.send(request).await).await?;
        read_bounded(PATH, response, MAX_BYTES).await
    };
    let document = within(LIMIT, PATH, exchange).await?.to_vec();
    Ok(Fetched { document, nonce })
}
