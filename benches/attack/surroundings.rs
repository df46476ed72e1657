//! Failures around the KMS: of the reader of its log, and of its disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::json;

use crate::support::Identity;
use crate::support::guests::Guests;
use crate::support::program::{Setting, Stderr};
use crate::target::Target;
use crate::wire::many;
use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    Case { stderr: Some(Stderr::Unread), ..Case::new("a log that nobody reads", refusals) },
    Case {
        stderr: Some(Stderr::Unread),
        ..Case::new("a log whose reader is gone", |target, until| {
            target.close_log();
            refusals(target, until)
        })
    },
    Case {
        prepare: |setting| {
            // Otherwise the first write beyond the limit would end the process, which a full disk does not
            // do.
            started_by(setting, &["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
            Ok(())
        },
        ..Case::new("a full disk, and room again", full_disk)
    },
    Case {
        prepare: |setting| {
            if !std::path::Path::new("/usr/bin/strace").exists() {
                return Err("strace is not installed");
            }
            let fault = "inject=fdatasync:error=EIO:when=12..14";
            let strace = ["/usr/bin/strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"];
            started_by(setting, &[&strace[..], &["-e", "trace=fdatasync", "-e", fault]].concat());
            Ok(())
        },
        ..Case::new("syncs that fail", failing_sync)
    },
];

/// Pause between two requests of a guest.
const PAUSE: Duration = Duration::from_millis(50);

fn started_by(setting: &mut Setting, launcher: &[&str]) {
    let program = std::mem::take(&mut setting.launcher);
    setting.launcher = launcher.iter().map(|word| (*word).to_owned()).chain(program).collect();
}

/// Refusals, each of which logs a line, while an allowed guest requests its keys until it is no longer
/// allowed.
fn refusals(target: &Target, until: Instant) -> LocalBoxFuture<'_, Outcome> {
    async move {
        let caller = target.caller();
        let guests = Guests::of(&target.setting.world, &caller, 1);
        let stranger = caller.shows(&Identity::self_issued(&target.setting.world.app(2)));
        let asking = guests.ask(PAUSE);
        let refused = AtomicU64::new(0);
        many(4, until, |_| async {
            let Ok(mut line) = stranger.connect().await else { return 0 };
            let request = || crate::support::http::json("GetAppKey", json!({}));
            while let Ok(answer) = line.try_send(request()).await {
                refused.fetch_add(u64::from(answer.status == 403), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            1
        })
        .await;
        let handed = guests.handed();
        // Reloading the allowlist also logs a line, and must take effect all the same.
        target.setting.world.allowlist.write_text("{}");
        let stopped = comes("the guest is refused", until, || guests.refused(403) > 0).await;
        guests.end();
        asking.join_all().await;
        stopped?;
        if handed == 0 {
            return Err("the guest never had its keys".to_owned());
        }
        let refused = refused.into_inner();
        Ok(format!("{refused} refusals; an allowed guest had its keys {handed} times, then was refused"))
    }
    .boxed_local()
}

/// Waits until a condition holds, until the time is over and for at least eight seconds.
async fn comes(what: &str, until: Instant, is_so: impl Fn() -> bool) -> Result<(), String> {
    let until = until.max(Instant::now() + Duration::from_secs(8));
    while !is_so() {
        if Instant::now() >= until {
            return Err(format!("{what}: not within the time"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// The disk is full, then not: releases stop and resume on their own. The log is on the same disk.
fn full_disk(target: &Target, until: Instant) -> LocalBoxFuture<'_, Outcome> {
    async move {
        let guests = Guests::of(&target.setting.world, &target.caller(), 4);
        let asking = guests.ask(PAUSE);
        comes("keys", until, || guests.handed() >= 4).await?;
        let limit = |current| {
            let limit = Rlimit { current, maximum: None };
            prlimit(Some(target.pid()), Resource::Fsize, limit).map_err(|error| error.to_string())
        };
        limit(Some(0))?;
        comes("a refusal", until, || guests.refused(503) >= 4).await?;
        // The disk stays full for a third of the remaining time.
        tokio::time::sleep(until.saturating_duration_since(Instant::now()) / 3).await;
        let before = guests.handed();
        limit(None)?;
        let began = Instant::now();
        comes("keys again", until, || guests.handed() > before).await?;
        recovered(target, &guests, asking, began.elapsed()).await
    }
    .boxed_local()
}

/// Three syncs fail.
fn failing_sync(target: &Target, until: Instant) -> LocalBoxFuture<'_, Outcome> {
    async move {
        let guests = Guests::of(&target.setting.world, &target.caller(), 4);
        let asking = guests.ask(PAUSE);
        comes("a refusal", until, || guests.refused(503) > 0).await?;
        let (before, began) = (guests.handed(), Instant::now());
        comes("keys again", until, || guests.handed() > before + 4).await?;
        recovered(target, &guests, asking, began.elapsed()).await
    }
    .boxed_local()
}

async fn recovered(
    target: &Target,
    guests: &Guests,
    asking: tokio::task::JoinSet<()>,
    after: Duration,
) -> Outcome {
    guests.end();
    asking.join_all().await;
    let recorded = guests.account(&target.setting.world)?;
    Ok(format!(
        "{} answers 503, keys again after {:.1} s; {} handed out, {recorded} lines",
        guests.refused(503),
        after.as_secs_f64(),
        guests.handed()
    ))
}
