//! Scenarios in a real browser: Debian's Chromium, driven by Playwright.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use crate::support::{process, tools};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// As many browsers at once as there are cores: each needs most of one.
static BROWSERS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)));

/// Runs `tests/page/<scenario>.mjs` against the page at `url`, and returns its result.
pub(crate) async fn play(scenario: &str, url: &str, more: Value) -> Value {
    let _turn = BROWSERS.acquire().await.expect("never closed");
    let directory = tokio::task::spawn_blocking(|| tools::npm("page")).await.expect("no panic");
    let screenshots = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/page-screenshots");
    std::fs::create_dir_all(&screenshots).expect("directory for pictures");
    let mut given = json!({
        "url": url,
        "chromium": tools::program("chromium"),
        "screenshots": screenshots,
    });
    given.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
    let mut command = Command::new(tools::program("timeout"));
    command.arg("1200").arg(tools::program("node")).arg(format!("{scenario}.mjs")).arg(given.to_string());
    command.current_dir(&directory);
    let ran = process::finish(command, String::new()).await.expect_ok();
    let last = ran.out.lines().last().expect("a result");
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {}", ran.out))
}
