//! Drives a rollout: asks a KMS what comes next, and has a program replace each node. Any node of the fleet can be asked, so with
//! several URLs the next one is tried when one does not answer.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::PathBuf;
use std::time::Duration;

use kms_client::CallError;
use kms_client::rollout::{Next, NodeProgress, RolloutView};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::hook::{Program, Running, Task};
use super::{REPLY, ROLLOUT, show};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Audience, Output, Terminal, printable};
use crate::target::{ADMIN_TIME, AdminService, Administered};

const STEP: &str = "/api/v1/rollout/step";
const ME: &str = "/api/v1/me";
/// The pause between two questions.
const PAUSE: Duration = Duration::from_secs(2);
/// How often it is looked whether the program has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// For how long no KMS need answer: nodes start again meanwhile.
const SILENCE: Duration = Duration::from_secs(300);

/// A node as a line.
pub(super) struct Line<'a>(pub(super) &'a NodeProgress);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NodeProgress { name, step, since, reason, .. } = self.0;
        write!(f, "{} {} since {}", printable(name), printable(step), printable(since))?;
        match reason {
            Some(reason) => write!(f, ": {}", printable(reason)),
            None => Ok(()),
        }
    }
}

/// What was printed of the nodes.
#[derive(Default)]
struct Seen(Vec<(String, String)>);

impl Seen {
    /// Prints each node that is in another step. Whether somebody reads it.
    fn print(&mut self, view: &RolloutView, terminal: &Terminal) -> Outcome<Output> {
        let mut output = Output::Open;
        let nodes = view.rollout.as_ref().map(|rollout| rollout.nodes.as_slice()).unwrap_or_default();
        let now: Vec<_> = nodes.iter().map(|node| (node.name.clone(), node.step.clone())).collect();
        if terminal.audience() == Audience::People {
            let is_news = |node: &NodeProgress| !self.0.contains(&(node.name.clone(), node.step.clone()));
            for node in nodes.iter().filter(|node| node.step != "waiting" && is_news(node)) {
                output = terminal.append(&format!("{}\n", Line(node)))?;
            }
        }
        self.0 = now;
        Ok(output)
    }
}

/// The end of a rollout, or its pause.
fn ended(view: &RolloutView, terminal: &Terminal) -> Outcome {
    terminal.show(view, |page| show(view, page))?;
    Ok(if is_done(view) { Exit::Done } else { Exit::Failed })
}

/// Whether the rollout has ended well, or there is none. False if the node cannot show it, because it is older or shares nothing.
fn is_done(view: &RolloutView) -> bool {
    view.problem.is_none()
        && view.rollout.as_ref().is_none_or(|rollout| {
            rollout.state == "done" && rollout.nodes.iter().all(|node| node.step != "failed")
        })
}

/// Whether the KMS has noted that the program of this node runs.
fn is_replacing(view: &RolloutView, name: &str, run: u32) -> bool {
    matches!(&view.next, Next::Replacing { node, attempt } if node == name && *attempt == run)
}

/// Whether an operator must speak first.
fn has_failed(view: &RolloutView) -> bool {
    view.rollout.as_ref().is_some_and(|rollout| rollout.failed)
}

/// Follows a rollout until it ends or pauses because a node failed.
pub(super) async fn watch(admin: &Administered, terminal: &Terminal) -> Outcome {
    let (mut link, mut seen) = (Link::new(admin, terminal), Seen::default());
    loop {
        let view = link.asked(None).await?.map_err(|refusal| refusal.failure)?;
        let output = seen.print(&view, terminal)?;
        if view.next == Next::End || has_failed(&view) {
            return ended(&view, terminal);
        }
        if output == Output::Closed {
            return Ok(Exit::Done);
        }
        sleep(PAUSE).await;
    }
}

/// The caller's credential, as a KMS knows it.
#[derive(Deserialize)]
struct Me {
    role: String,
    domain: Option<String>,
}

impl Me {
    fn may_drive(&self) -> bool {
        self.domain.is_none() && ["owner", "operator"].contains(&&*self.role)
    }

    /// Why it may not.
    fn lack(&self) -> String {
        let of = self.domain.iter().map(|domain| format!(" of the domain {}", printable(domain)));
        let of = of.collect::<String>();
        let role = printable(&self.role);
        format!(
            "the credential has the role {role}{of} there; it must be that of an operator or owner of all domains"
        )
    }
}

/// Asks whichever KMS answers.
struct Link<'a> {
    admin: &'a Administered,
    terminal: &'a Terminal,
    /// Which URL.
    at: usize,
    has_answered: bool,
    silent_since: Option<Instant>,
}

/// A KMS refuses.
struct Refusal {
    code: Option<String>,
    failure: Failure,
}

impl<'a> Link<'a> {
    fn new(admin: &'a Administered, terminal: &'a Terminal) -> Self {
        Self { admin, terminal, at: 0, has_answered: false, silent_since: None }
    }

    /// The rollout, or with a body the response to a step. Asks again while no KMS answers.
    async fn asked(&mut self, step: Option<&Value>) -> Outcome<Result<RolloutView, Refusal>> {
        loop {
            match self.try_once(step).await? {
                Ok(view) => {
                    (self.has_answered, self.silent_since) = (true, None);
                    return Ok(Ok(view));
                }
                Err(refusal) if refusal.failure.exit != Exit::Failed => return Ok(Err(refusal)),
                Err(Refusal { failure, .. }) => {
                    self.at += 1;
                    if !self.has_answered && self.at >= self.admin.each().count() {
                        return Err(failure);
                    }
                    let since = *self.silent_since.get_or_insert_with(|| {
                        self.terminal.warn(&failure.message);
                        Instant::now()
                    });
                    if since.elapsed() > SILENCE {
                        return Err(failure);
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Asks each KMS who the caller is there: all must take the same credential, because each is asked while another one is replaced.
    /// One that does not answer may be the one that is being replaced.
    async fn check(&self) -> Outcome<()> {
        let mut silent = None;
        let mut has_answered = false;
        for service in self.admin.each() {
            match self.caller_at(service).await {
                Ok(me) if me.may_drive() => has_answered = true,
                Ok(me) => return Err(Failure::refused(format_args!("{}: {}", service.url, me.lack()))),
                Err(failure) if failure.exit == Exit::Failed => {
                    self.terminal.warn(&failure.message);
                    silent = Some(failure);
                }
                Err(failure) => {
                    let hint = "nothing was started; all nodes must take the same credential: use a named one, which they share";
                    return Err(failure.hint(hint));
                }
            }
        }
        match silent {
            Some(failure) if !has_answered => Err(failure),
            _ => Ok(()),
        }
    }

    async fn caller_at(&self, service: AdminService<'_>) -> Outcome<Me> {
        let connection = service.connect(self.terminal).await?;
        let answer = service.fetch_on(&connection, ME, REPLY.max_bytes).await?;
        answer.json().ok_or_else(|| (REPLY.unreadable)(service.url))
    }

    async fn try_once(&self, step: Option<&Value>) -> Outcome<Result<RolloutView, Refusal>> {
        let services: Vec<_> = self.admin.each().collect();
        let service = services[self.at % services.len()];
        let refused = |failure| Ok(Err(Refusal { code: None, failure }));
        let connection = match service.connect(self.terminal).await {
            Ok(connection) => connection,
            Err(failure) => return refused(failure),
        };
        let answer = match step {
            Some(body) => {
                connection.post(ADMIN_TIME, STEP, body.to_string().into_bytes(), REPLY.max_bytes).await
            }
            None => connection.fetch(ADMIN_TIME, ROLLOUT, REPLY.max_bytes).await,
        };
        match answer {
            Ok(document) => match document.json() {
                Some(view) => Ok(Ok(view)),
                None => refused((REPLY.unreadable)(service.url)),
            },
            Err(error) => {
                let code = match &error {
                    CallError::Refused { code, .. } => code.clone(),
                    CallError::Method(_)
                    | CallError::Encode { .. }
                    | CallError::Transport { .. }
                    | CallError::TooLarge { .. }
                    | CallError::Decode { .. }
                    | CallError::Incomplete { .. }
                    | CallError::Timeout { .. } => None,
                };
                Ok(Err(Refusal { code, failure: service.failure(error)? }))
            }
        }
    }
}

/// Replaces the nodes of a rollout with a program.
pub(super) struct Driver<'a> {
    link: Link<'a>,
    program: Program,
    id: String,
    /// The rollout that it drives, once it knows.
    rollout: Option<String>,
    take_over: bool,
    seen: Seen,
    /// The node and the attempt of which the KMS was told that the program starts.
    announced: Option<(String, u32)>,
}

impl<'a> Driver<'a> {
    pub(super) fn new(
        admin: &'a Administered,
        terminal: &'a Terminal,
        hook: PathBuf,
        time: Duration,
        take_over: bool,
    ) -> Outcome<Self> {
        // A hasher with random keys: what it gives for nothing differs each time.
        let random = || RandomState::new().build_hasher().finish();
        Ok(Self {
            link: Link::new(admin, terminal),
            program: Program::new(&hook, time)?,
            id: format!("{:016x}{:016x}", random(), random()),
            rollout: None,
            take_over,
            seen: Seen::default(),
            announced: None,
        })
    }

    /// Checks that each KMS takes the credential.
    pub(super) async fn check(&self) -> Outcome<()> {
        self.link.check().await
    }

    /// Drives the rollout until it ends, pauses because a node failed, or another driver takes over.
    pub(super) async fn run(mut self) -> Outcome {
        let stop = |kind| signal(kind).map_err(|error| Failure::failed(format_args!("signals: {error}")));
        let (mut interrupted, mut terminated) =
            (stop(SignalKind::interrupt())?, stop(SignalKind::terminate())?);
        // When the program is dropped, it is killed.
        tokio::select! {
            ended = self.drive() => return ended,
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
        let hint = "the rollout waits: go on with kmsctl rollout run; a node that was being replaced needs kmsctl rollout retry";
        Err(Failure::failed("interrupted, and its program was ended").hint(hint))
    }

    async fn drive(&mut self) -> Outcome {
        let mut is_waiting = false;
        loop {
            let view = match self.step(None).await? {
                Ok(view) => view,
                Err(Refusal { code, failure }) if code.as_deref() == Some("rollout_driven") => {
                    if !is_waiting {
                        self.link.terminal.warn(format_args!("{}; waiting for it", failure.message));
                    }
                    is_waiting = true;
                    sleep(PAUSE).await;
                    continue;
                }
                Err(Refusal { failure, .. }) => return Err(failure),
            };
            is_waiting = false;
            self.take_over = false;
            if self.rollout.is_none() {
                self.rollout = view.rollout.as_ref().map(|rollout| rollout.id.clone());
            }
            self.seen.print(&view, self.link.terminal)?;
            match &view.next {
                Next::End => return ended(&view, self.link.terminal),
                Next::Paused if has_failed(&view) => return ended(&view, self.link.terminal),
                Next::Replace { node, id, attempt } => self.replace(&view, node, id, *attempt).await?,
                // Its announcement arrived, but not the answer.
                Next::Replacing { node, attempt } if self.announced == Some((node.clone(), *attempt)) => {
                    let id = view.rollout.iter().flat_map(|rollout| &rollout.nodes);
                    let id = id.filter(|one| one.name == *node).map(|one| one.id.clone()).next();
                    self.call(&view, node, &id.unwrap_or_default(), *attempt).await?;
                }
                Next::Replacing { .. } | Next::Wait | Next::Paused | Next::Other => sleep(PAUSE).await,
            }
        }
    }

    async fn step(&mut self, hook: Option<Value>) -> Outcome<Result<RolloutView, Refusal>> {
        let body =
            json!({ "driver": self.id, "rollout": self.rollout, "take_over": self.take_over, "hook": hook });
        self.link.asked(Some(&body)).await
    }

    /// Says that the program starts, and if nothing objects, starts it.
    async fn replace(&mut self, view: &RolloutView, node: &str, id: &str, attempt: u32) -> Outcome<()> {
        self.announced = Some((node.to_owned(), attempt));
        let starts = json!({
            "node": node, "attempt": attempt, "says": "starts", "seconds": self.program.seconds()
        });
        match self.step(Some(starts)).await? {
            Ok(now) if is_replacing(&now, node, attempt) => self.call(view, node, id, attempt).await,
            // Such as a rollout that was cancelled: the next step tells.
            Ok(_) => {
                sleep(PAUSE).await;
                Ok(())
            }
            Err(refusal) => {
                self.link.terminal.warn(&refusal.failure.message);
                sleep(PAUSE).await;
                Ok(())
            }
        }
    }

    /// Runs the program, and says how it ended.
    async fn call(&mut self, view: &RolloutView, node: &str, id: &str, attempt: u32) -> Outcome<()> {
        self.announced = None;
        let Some(rollout) = &view.rollout else { return Ok(()) };
        let task = Task { rollout: &rollout.id, image: &rollout.image, node, id, attempt };
        let result = match self.program.start(&task) {
            Ok(mut running) => self.await_end(&mut running).await?,
            Err(error) => Err(format!("it does not start: {error}")),
        };
        let (says, reason) = match &result {
            Ok(()) => ("succeeded", ""),
            Err(reason) => ("failed", &**reason),
        };
        let report = json!({ "node": node, "attempt": attempt, "says": says, "reason": reason });
        match self.step(Some(report)).await? {
            Ok(_) => Ok(()),
            Err(refusal) => {
                self.link.terminal.warn(&refusal.failure.message);
                Ok(())
            }
        }
    }

    /// Waits for the program, and renews the right to act meanwhile.
    async fn await_end(&mut self, running: &mut Running) -> Outcome<Result<(), String>> {
        let mut renewed = Instant::now();
        loop {
            if let Some(ended) = running.ended() {
                return Ok(ended);
            }
            sleep(LOOK_EVERY).await;
            if renewed.elapsed() > PAUSE {
                // A refusal changes nothing: what has begun is brought to its end.
                if let Ok(Ok(view)) = tokio::time::timeout(PAUSE, self.once()).await {
                    self.seen.print(&view, self.link.terminal)?;
                }
                renewed = Instant::now();
            }
        }
    }

    /// Asks the next KMS once.
    async fn once(&mut self) -> Result<RolloutView, ()> {
        let body = json!({ "driver": self.id, "rollout": self.rollout });
        match self.link.try_once(Some(&body)).await {
            Ok(Ok(view)) => Ok(view),
            _ => {
                self.link.at += 1;
                Err(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(json: Value) -> RolloutView {
        serde_json::from_value(json).expect("a view")
    }

    #[test]
    fn a_rollout_that_cannot_be_shown_is_not_said_to_be_done() {
        let end = json!({ "do": "end" });
        for (problem, is_done_now) in [(None, true), (Some("ask a newer node"), false)] {
            let view = view(json!({ "shared": true, "rollout": null, "problem": problem, "next": end }));
            assert_eq!(is_done(&view), is_done_now, "{problem:?}");
        }
    }

    #[test]
    fn a_program_is_started_only_if_the_kms_has_noted_it() {
        let shown = |next: Value| view(json!({ "shared": true, "rollout": null, "next": next }));
        for (next, is_noted) in [
            (json!({ "do": "replacing", "node": "a", "attempt": 2 }), true),
            (json!({ "do": "replacing", "node": "a", "attempt": 1 }), false),
            (json!({ "do": "replacing", "node": "b", "attempt": 2 }), false),
            (json!({ "do": "end" }), false),
            (json!({ "do": "wait" }), false),
        ] {
            assert_eq!(is_replacing(&shown(next.clone()), "a", 2), is_noted, "{next}");
        }
    }
}
