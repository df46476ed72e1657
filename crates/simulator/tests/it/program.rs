//! The program as docker compose runs it: two listeners and one file, until it is stopped.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use kms_simulator::Platform;

struct Running {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kms-simulator"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The rest of the next line with `prefix`.
    fn said(&mut self, prefix: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.lines.read_line(&mut line).unwrap(), 0, "ended before saying `{prefix}`");
            if let Some(rest) = line.trim_end().strip_prefix(prefix) {
                return rest.to_owned();
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_serves_until_terminated_and_leaves_the_root_behind() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, root) = (directory.path().join("agent.sock"), directory.path().join("root.pem"));
    let mut running = Running::start(&[
        "--seed",
        "program",
        "--pccs-listen",
        "127.0.0.1:0",
        "--agent-socket",
        socket.to_str().unwrap(),
        "--root-ca",
        root.to_str().unwrap(),
        "--app-id",
        &"07".repeat(20),
        "--collateral-seconds",
        "3600",
    ]);
    let pccs = running.said("collateral at http://");
    assert_eq!(running.said("app id "), "07".repeat(20));
    let platform = Platform::from_seed(b"program");
    assert_eq!(running.said("device_id "), hex::encode(platform.device_id()));
    assert_eq!(std::fs::read_to_string(&root).unwrap(), platform.root_pem());
    assert!(socket.exists());

    let mut stream = TcpStream::connect(pccs).unwrap();
    stream
        .write_all(b"GET /sgx/certification/v4/rootcacrl HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    let stopped = Command::new("kill").arg(running.child.id().to_string()).status().unwrap();
    assert!(stopped.success());
    assert!(running.child.wait().unwrap().success());
    assert!(!socket.exists());
}

#[test]
fn wrong_arguments_are_refused_with_what_is_wrong() {
    for (arguments, said) in [
        (["--app-id", "07"], "--app-id must be 20 bytes, got 1"),
        (["--compose-hash", "x"], "--compose-hash must be hex"),
        (["--tcb", "Fine"], "unknown TCB level `Fine`, expected one of: UpToDate"),
        (["--quote", "3"], "expected 4, 5 or 5.15"),
        (["--event-log-version", "3"], "expected 1 or 2"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_kms-simulator"))
            .args(["--pccs-listen", "127.0.0.1:0", "--agent-socket", "/nonexistent/agent.sock"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(said), "{arguments:?}: {text}");
    }
}
