//! Attacks on the admin listener while an operator uses it.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::support::ADMIN_TOKEN;
use crate::target::Target;
use crate::wire::many;
use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    Case {
        prepare: |setting| {
            // The default cost: about 50 ms of CPU time.
            let hash = bcrypt::hash_with_result("pass word", 10).expect("bcrypt");
            let hash = hash.format_for_version(bcrypt::Version::TwoY);
            let file = setting.world.path("htpasswd");
            fs::write(&file, format!("alice:{hash}\n")).expect("htpasswd");
            setting.configure(&format!("core.admin.htpasswd_file = \"{}\"", file.display()));
            Ok(())
        },
        ..Case::new("300 wrong passwords at once", wrong_passwords)
    },
    Case::new("wrong tokens where the right one is", wrong_tokens),
];

/// Time-out of an operator's request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Freezes the `number`th app from `127.0.0.<last>` with this `authorization` header; returns the HTTP
/// status.
async fn freeze(target: &Target, last: u8, authorization: &str, number: u64) -> io::Result<u16> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into())?;
    let mut stream = socket.connect(target.setting.admin).await?;
    let body = format!(r#"{{"scope": "app", "value": "{number:040x}", "reason": "an attack"}}"#);
    let request = format!(
        "POST /prpc/Admin.Freeze HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: {authorization}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let status = answer.get(9..12).and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
    status.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// An operator who freezes one app after another until the time is over; returns their number and the longest
/// duration.
async fn operator(
    target: &Target,
    last: u8,
    authorization: &str,
    until: Instant,
) -> Result<(u64, Duration), String> {
    let (mut frozen, mut longest) = (0, Duration::ZERO);
    while frozen == 0 || Instant::now() < until {
        let began = Instant::now();
        match timeout(PATIENCE, freeze(target, last, authorization, frozen)).await {
            Ok(Ok(200)) => frozen += 1,
            Ok(Ok(status)) => {
                return Err(format!("the operator gets {status} after {frozen} that went well"));
            }
            Ok(Err(error)) => return Err(format!("the operator: {error}, after {frozen} that went well")),
            Err(_) => return Err(format!("the operator has no answer after {frozen} that went well")),
        }
        longest = longest.max(began.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok((frozen, longest))
}

fn said(did: u64, what: &str, (frozen, longest): (u64, Duration)) -> String {
    format!("{did} {what}; the operator froze {frozen}, each within {} ms", longest.as_millis())
}

/// Wrong passwords from one address, while an operator at another uses the right one.
fn wrong_passwords(target: &Target, until: Instant) -> LocalBoxFuture<'_, Outcome> {
    async move {
        let wrong = format!("Basic {}", STANDARD.encode("alice:a guess"));
        let right = format!("Basic {}", STANDARD.encode("alice:pass word"));
        let guessing = many(300, until, |_| {
            let wrong = &wrong;
            async move { u64::from(freeze(target, 1, wrong, 0).await.is_ok()) }
        });
        let operator = async {
            // After the guesses have arrived.
            tokio::time::sleep(Duration::from_millis(300)).await;
            operator(target, 201, &right, until).await
        };
        let (guesses, operator) = tokio::join!(guessing, operator);
        Ok(said(guesses, "answers to guesses", operator?))
    }
    .boxed_local()
}

/// Twenty wrong tokens a second from the address of an operator who uses the right one.
fn wrong_tokens(target: &Target, until: Instant) -> LocalBoxFuture<'_, Outcome> {
    async move {
        let sent = AtomicU64::new(0);
        let guessing = many(4, until, |_| {
            let sent = &sent;
            async move {
                let began = Instant::now();
                sent.fetch_add(1, Ordering::Relaxed);
                // The response may be delayed; the next guess does not wait for it.
                let _ = timeout(Duration::from_millis(200), freeze(target, 1, "Bearer a guess", 0)).await;
                tokio::time::sleep(Duration::from_millis(200).saturating_sub(began.elapsed())).await;
                1
            }
        });
        let right = format!("Bearer {ADMIN_TOKEN}");
        let operator = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            operator(target, 1, &right, until).await
        };
        let (_, operator) = tokio::join!(guessing, operator);
        Ok(said(sent.into_inner(), "guesses", operator?))
    }
    .boxed_local()
}
