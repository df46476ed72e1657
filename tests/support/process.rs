//! Other programs: `openssl`, `curl`.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// What a program printed, and whether it was content.
pub struct Ran {
    /// Its exit status.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs a program to its end, off the runtime's threads: a server may live there that it talks to.
pub async fn run(program: &str, arguments: &[&str], input: &str) -> Ran {
    let mut command = Command::new(program);
    command.args(arguments);
    finish(command, input.to_owned()).await
}

/// As [`run`], for a command that is set up already.
pub async fn finish(mut command: Command, input: String) -> Ran {
    let output = tokio::task::spawn_blocking(move || -> std::io::Result<Output> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().expect("piped");
        // A program that does not read its input is no failure.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output()
    });
    let output = output.await.expect("no panic").expect("the program is installed");
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Ran {
    /// Both streams.
    pub fn text(&self) -> String {
        format!("status {}\n{}{}", self.code, self.out, self.err)
    }

    /// Panics unless the program was content.
    pub fn expect_ok(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.text());
        self
    }
}
