//! Runs other programs, such as `openssl` and `curl`.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// The output and exit status of a program.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs a program to its end on a blocking thread, because it may talk to a server on the runtime.
pub async fn run(program: &str, arguments: &[&str], input: &str) -> Ran {
    let mut command = Command::new(program);
    command.args(arguments);
    finish(command, input.to_owned()).await
}

/// Like [`run`], for a prepared command.
pub async fn finish(mut command: Command, input: String) -> Ran {
    let output = tokio::task::spawn_blocking(move || -> std::io::Result<Output> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().expect("piped");
        // A program need not read its input.
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

    /// Panics unless the program succeeded.
    pub fn expect_ok(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.text());
        self
    }
}
