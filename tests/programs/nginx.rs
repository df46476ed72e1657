//! The example of `docs/operators/resolve.md`: nginx of Debian asks the KMS before it routes to an app.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::operator::Operator;
use crate::support::tools::program;
use crate::support::{ADMIN_TOKEN, World, eventually, free_port};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/nginx-resolve.conf");

/// A running nginx, ended when dropped.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The example with the addresses of a test, in a configuration of its own.
fn start(directory: &Path, replaced: &[(&str, String)]) -> Nginx {
    let mut example = std::fs::read_to_string(EXAMPLE).expect("the example");
    for (from, to) in replaced {
        assert!(example.contains(from), "{from} is in the example");
        example = example.replace(from, to);
    }
    let here = directory.display();
    std::fs::write(directory.join("resolve.conf"), example).expect("a file");
    let token = format!("proxy_set_header Authorization \"Bearer {ADMIN_TOKEN}\";\n");
    std::fs::write(directory.join("kms-token.conf"), token).expect("a file");
    // One process, which does not become another user: the directory is this user's.
    let main = format!(
        "daemon off;\nmaster_process off;\npid {here}/pid;\nerror_log {here}/error.log;\nevents {{}}\nhttp {{\n\
         access_log off;\nclient_body_temp_path {here}/body;\nproxy_temp_path {here}/proxy;\n\
         fastcgi_temp_path {here}/fastcgi;\nuwsgi_temp_path {here}/uwsgi;\nscgi_temp_path {here}/scgi;\n\
         include {here}/resolve.conf;\n}}\n"
    );
    std::fs::write(directory.join("nginx.conf"), main).expect("a file");
    let nginx = program("nginx");
    let arguments = ["-p", &here.to_string(), "-c", "nginx.conf"];
    let checked = Command::new(&nginx).args(arguments).arg("-t").output().expect("nginx runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let running = Command::new(&nginx).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).spawn();
    Nginx(running.expect("nginx runs"))
}

/// What a visitor of `host` gets: the status and the rest.
async fn visit(port: u16, host: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer))
}

/// An app, which says the same to everyone.
fn app() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = listener.local_addr().expect("an address").port();
    listener.set_nonblocking(true).expect("a socket");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = [0; 1024];
                let _ = stream.read(&mut asked).await;
                let text = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nthe app";
                let _ = stream.write_all(text.as_bytes()).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn nginx_routes_to_an_app_only_while_the_kms_says_so() {
    let mut world = World::ready().await;
    let served = world.app(1);
    world.allow_app(&served);
    let caller = world.caller().shows(&world.attested(&served).await);
    assert_eq!(caller.json("GetAppKey", json!({ "api_version": 1 })).await.status, 200);

    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path().display();
    let port = free_port();
    let admin = world.admin_address().await;
    let id = hex::encode(served.app_id());
    let nginx = start(
        directory.path(),
        &[
            ("/var/cache/nginx/kms-resolve", format!("{here}/cache")),
            ("/etc/nginx/kms-token.conf", format!("{here}/kms-token.conf")),
            ("server 127.0.0.1:8001", format!("server {admin}")),
            ("0123456789abcdef0123456789abcdef01234567", id),
            ("127.0.0.1:8080", format!("127.0.0.1:{}", app())),
            ("listen 127.0.0.1:8443", format!("listen 127.0.0.1:{port}")),
        ],
    );
    let becomes = async |status: u16, says: &str| {
        eventually(&format!("{status} {says}"), async || {
            visit(port, "app.example.com")
                .await
                .filter(|(found, text)| *found == status && text.contains(says))
        })
        .await;
    };
    becomes(200, "the app").await;
    let (status, text) = visit(port, "other.example.com").await.expect("an answer");
    assert_eq!(status, 403, "{text}");

    let operator = Operator::of(&world).await;
    operator.freeze("app", served.app_id()).await;
    becomes(403, "frozen").await;
    assert!(operator.unfreeze("app", served.app_id()).await);
    becomes(200, "the app").await;
    // Nobody knows, so nothing is sent.
    world.stop().await;
    becomes(503, "does not say").await;
    drop(nginx);
}
