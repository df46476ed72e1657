//! A credential for the console that sees everything and changes nothing.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kms_client::operator::{OperatorConnection, OperatorToken, OperatorUrl};
use kms_client::{Role, Trust};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

const CREDENTIALS: &str = "/api/v1/credentials";
const NAME: &str = "sandbox-viewer";
const LIMIT: Duration = Duration::from_secs(30);
const MAX_RESPONSE: usize = 1 << 20;

#[derive(Deserialize)]
struct Listed {
    credentials: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Issued {
    token: String,
}

/// The token of a viewer, new at each start: only its hash is kept.
pub(crate) async fn token(admin: SocketAddr, owner: &str) -> Result<String> {
    let url: OperatorUrl = format!("http://{admin}").parse()?;
    let owner = OperatorToken::new(Zeroizing::new(owner.to_owned()))?;
    let connection = OperatorConnection::open(&url, Trust::PublicRoots, Some(owner)).await?;
    let listed = connection.fetch(LIMIT, CREDENTIALS, MAX_RESPONSE).await?;
    let listed: Listed = listed.json().context("the list of credentials is not readable")?;
    let (path, body) = match listed.credentials.iter().any(|credential| credential.name == NAME) {
        true => (format!("{CREDENTIALS}/{NAME}/rotate"), Vec::new()),
        false => {
            let body = json!({ "name": NAME, "role": Role::Viewer.name() });
            (CREDENTIALS.to_owned(), body.to_string().into_bytes())
        }
    };
    let issued = connection.post(LIMIT, &path, body, MAX_RESPONSE).await?;
    let issued: Issued = issued.json().context("the response has no token")?;
    Ok(issued.token)
}
