//! `kmsctl doctor`: everything that an operator of a running KMS should look at, with what to do.

use clap::Args;
use kms_attest::certificate::not_after_of;
use kms_client::CallError;
use kms_client::operator::OperatorConnection;
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::{ADMIN_TIME, AdminService, Administered};
use crate::when;

/// The largest response.
const MAX_RESPONSE: usize = 4 << 20;
/// What ends sooner than this is a warning: certificates and credentials.
const SOON: i64 = 14 * 24 * 3600;
/// The clocks of this machine and the KMS may differ so much.
const MAX_DRIFT: i64 = 30;

/// Arguments of `kmsctl doctor`.
#[derive(Args, Debug)]
#[command(
    after_help = "Exit codes: 0 nothing is wrong, or only warnings; 1 something is wrong, or warnings with --strict; \
                        others as for every command"
)]
pub(crate) struct Doctor {
    /// Fail on warnings too
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    admin: Administered,
}

/// How much a finding matters, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    Fine,
    /// It was not looked at: this version or role does not show it.
    Unknown,
    Warning,
    Wrong,
}

#[derive(Debug, Serialize)]
struct Finding {
    about: &'static str,
    level: Level,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'static str>,
}

/// Everything that was found.
#[derive(Debug, Default, Serialize)]
struct Report {
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, about: &'static str, level: Level, message: impl Into<String>) {
        self.findings.push(Finding { about, level, message: message.into(), remedy: None });
    }

    fn advise(
        &mut self,
        about: &'static str,
        level: Level,
        message: impl Into<String>,
        remedy: &'static str,
    ) {
        self.findings.push(Finding { about, level, message: message.into(), remedy: Some(remedy) });
    }
}

impl Doctor {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let admin = self.admin.one()?;
        let connection = admin.connect(terminal).await?;
        let mut report = Report::default();
        certificate(&connection, &mut report)?;
        let ask = Asked { admin, connection: &connection };
        // Without this one there is no use in the others.
        let health = ask.required("/api/v1/health").await?;
        readiness(&health, &mut report);
        if let Some(me) = ask.optional("/api/v1/me", "credential", &mut report).await? {
            credential(&me, &mut report);
        }
        if let Some(all) = ask.optional("/api/v1/credentials", "credentials", &mut report).await? {
            credentials(&all, &mut report);
        }
        if let Some(overview) = ask.optional("/api/v1/overview", "overview", &mut report).await? {
            attention(&overview, &mut report);
        }
        if let Some(platforms) = ask.optional("/api/v1/platforms", "collateral", &mut report).await? {
            collateral(&platforms, &mut report);
        }
        if let Some(ledger) = ask.optional("/api/v1/ledger", "ledger", &mut report).await? {
            witnesses(&ledger, &mut report);
        }
        if let Some(recovery) = ask.optional("/api/v1/recovery", "recovery", &mut report).await? {
            of_recovery(&recovery, &mut report);
        }
        if let Some(settings) = ask.optional("/api/v1/settings", "settings", &mut report).await? {
            profile(&settings, &mut report);
        }
        terminal.show(&report, |page| report.findings.iter().for_each(|finding| line(page, finding)))?;
        let worst = report.findings.iter().map(|finding| finding.level).max();
        Ok(match worst {
            Some(Level::Wrong) => Exit::Failed,
            Some(Level::Warning) if self.strict => Exit::Failed,
            Some(Level::Warning | Level::Unknown | Level::Fine) | None => Exit::Done,
        })
    }
}

struct Asked<'a> {
    admin: AdminService<'a>,
    connection: &'a OperatorConnection,
}

impl Asked<'_> {
    async fn required(&self, path: &str) -> Outcome<Value> {
        let document = self.admin.fetch_on(self.connection, path, MAX_RESPONSE).await?;
        document.json().ok_or_else(|| Failure::failed(format_args!("{path} answers in no JSON")))
    }

    /// `None` where this version does not have the route, or the credential may not use it.
    async fn optional(&self, path: &str, about: &'static str, report: &mut Report) -> Outcome<Option<Value>> {
        match self.connection.fetch(ADMIN_TIME, path, MAX_RESPONSE).await {
            Ok(document) => Ok(document.json()),
            Err(CallError::Refused { status, message, .. }) if [403, 404].contains(&status.as_u16()) => {
                let why = match status.as_u16() {
                    404 => "this version does not tell".to_owned(),
                    _ => printable(&message),
                };
                report.add(about, Level::Unknown, why);
                Ok(None)
            }
            Err(error) => Err(self.admin.failure(error)?),
        }
    }
}

fn line(page: &mut Page, finding: &Finding) {
    let (tone, word) = match finding.level {
        Level::Fine => (Tone::Good, "fine"),
        Level::Unknown => (Tone::Doubtful, "unknown"),
        Level::Warning => (Tone::Doubtful, "WARNING"),
        Level::Wrong => (Tone::Bad, "WRONG"),
    };
    let word = page.toned(tone, &format!("{word:<8}"));
    page.line(format_args!("{word} {}: {}", finding.about, finding.message));
    if let Some(remedy) = finding.remedy {
        page.line(format_args!("         {remedy}"));
    }
}

/// Seconds from now to an RFC 3339 time.
fn until(text: &str) -> Option<i64> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(moment.unix_timestamp() - i64::try_from(when::now()).ok()?)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// In days, or hours if it is less.
fn span(seconds: i64) -> String {
    match seconds.abs() {
        less if less < 2 * 86_400 => format!("{} h", less / 3600),
        more => format!("{} days", more / 86_400),
    }
}

fn ends(about: &'static str, what: &str, left: i64, remedy: &'static str, report: &mut Report) {
    match left {
        left if left <= 0 => {
            report.advise(about, Level::Wrong, format!("{what} ended {} ago", span(left)), remedy);
        }
        left if left < SOON => {
            report.advise(about, Level::Warning, format!("{what} ends in {}", span(left)), remedy);
        }
        left => report.add(about, Level::Fine, format!("{what} ends in {}", span(left))),
    }
}

fn certificate(connection: &OperatorConnection, report: &mut Report) -> Outcome<()> {
    let Some(tls) = connection.tls() else {
        match connection.url().is_exposed() {
            true => report.advise(
                "tls",
                Level::Wrong,
                "the credential goes over plain http",
                "set core.admin.tls",
            ),
            false => report.add("tls", Level::Fine, "none, on this machine"),
        }
        return Ok(());
    };
    let end = not_after_of(tls.server_certificate());
    let end = end.map_err(|_| Failure::unproven("the server's certificate cannot be read"))?;
    let left = i64::try_from(end).unwrap_or(i64::MAX) - i64::try_from(when::now()).unwrap_or(0);
    ends(
        "tls",
        "the certificate of the admin listener",
        left,
        "reload the KMS, or renew the files of core.admin.tls",
        report,
    );
    Ok(())
}

fn readiness(health: &Value, report: &mut Report) {
    report.add("version", Level::Fine, printable(text(health, "version")));
    let level = match text(health, "status") {
        "ok" => Level::Fine,
        "degraded" => Level::Warning,
        _ => Level::Wrong,
    };
    report.add("readiness", level, printable(text(health, "status")));
    for reason in list(health, "reasons") {
        let told = format!("{} ({})", printable(text(reason, "message")), printable(text(reason, "code")));
        report.add("readiness", level.max(Level::Warning), told);
    }
    let Some(ahead) = until(text(health, "timestamp")) else { return };
    match ahead.abs() > MAX_DRIFT {
        true => report.advise(
            "clock",
            Level::Wrong,
            format!("the clocks of this machine and the KMS differ by {} s", ahead.abs()),
            "set the wrong one: certificates and collateral are judged by it",
        ),
        false => {
            report.add("clock", Level::Fine, format!("differs from this machine's by {} s", ahead.abs()))
        }
    }
}

fn credential(me: &Value, report: &mut Report) {
    let who = format!("{} ({})", printable(text(me, "name")), printable(text(me, "role")));
    match text(me, "kind") {
        "anyone" => report.advise(
            "credential",
            Level::Wrong,
            "the admin listener asks for no credentials",
            "remove core.admin.insecure_no_auth",
        ),
        _ => report.add("credential", Level::Fine, who),
    }
}

fn credentials(all: &Value, report: &mut Report) {
    for credential in list(all, "credentials").filter(|it| text(it, "state") == "active") {
        let Some(end) = credential.get("expires_at").and_then(Value::as_i64) else { continue };
        let left = end.saturating_sub(i64::try_from(when::now()).unwrap_or(0));
        let what = format!("the credential {}", printable(text(credential, "name")));
        ends(
            "credentials",
            &what,
            left,
            "create its successor, then revoke it: kmsctl credential create",
            report,
        );
    }
}

fn attention(overview: &Value, report: &mut Report) {
    for relaxed in list(overview, "relaxed") {
        let told =
            format!("{}: {}", printable(text(relaxed, "setting")), printable(text(relaxed, "message")));
        report.advise("posture", Level::Warning, told, "kms doctor, with the configuration, has the remedy");
    }
    for item in list(overview, "attention") {
        let level = match text(item, "severity") {
            "critical" => Level::Wrong,
            "warning" => Level::Warning,
            _ => Level::Fine,
        };
        let last = when::ago(text(item, "last")).map_or_else(String::new, |ago| format!(" (last {ago})"));
        report.add("attention", level, format!("{}{last}", printable(text(item, "message"))));
    }
}

fn collateral(platforms: &Value, report: &mut Report) {
    let all: Vec<&Value> = list(platforms, "collateral").collect();
    let ends_in = |it: &&Value| it.get("expires_in_s").and_then(Value::as_i64);
    match all.iter().filter_map(ends_in).min() {
        None => report.add("collateral", Level::Unknown, "none is kept"),
        Some(left) if left <= 86_400 => report.advise(
            "collateral",
            if left <= 0 { Level::Wrong } else { Level::Warning },
            format!("the first of {} ends in {} h", all.len(), left / 3600),
            "make sure that core.attestation.urls.pccs can be reached, then kmsctl refresh-collateral",
        ),
        Some(left) => report.add(
            "collateral",
            Level::Fine,
            format!("the first of {} ends in {}", all.len(), span(left)),
        ),
    }
    for forecast in list(platforms, "forecast") {
        report.add("collateral", Level::Warning, printable(text(forecast, "message")));
    }
}

fn witnesses(ledger: &Value, report: &mut Report) {
    match ledger.get("healthy").and_then(Value::as_bool) {
        Some(false) => report.add("ledger", Level::Wrong, printable(text(ledger, "problem"))),
        Some(true) | None => {
            let size = ledger.get("size").and_then(Value::as_u64).unwrap_or(0);
            report.add("ledger", Level::Fine, format!("{size} records"));
        }
    }
    for witness in list(ledger, "witnesses") {
        let level = if text(witness, "state") == "ok" { Level::Fine } else { Level::Warning };
        let told = format!("{}: {}", printable(text(witness, "name")), printable(text(witness, "state")));
        report.add("witness", level, told);
    }
}

fn of_recovery(recovery: &Value, report: &mut Report) {
    if recovery.get("set").is_none_or(Value::is_null) {
        return report.advise(
            "recovery",
            Level::Warning,
            "there is no recovery set: if every replica is lost, every key is",
            "kmsctl recovery create --recipients officers.txt --threshold 3",
        );
    }
    match text(recovery, "advice") {
        "" => {
            let told = match text(recovery, "proved_at") {
                "" => format!("new; the first drill is due by {}", printable(text(recovery, "drill_due_at"))),
                at => format!("proved at {}", printable(at)),
            };
            report.add("recovery", Level::Fine, told);
        }
        advice => report.add("recovery", Level::Warning, printable(advice)),
    }
}

fn profile(settings: &Value, report: &mut Report) {
    let of = |key: &str| list(settings, "settings").find(|it| text(it, "key") == key);
    if let Some(profile) = of("profile").map(|it| text(it, "value")) {
        match profile == "production" {
            true => report.add("profile", Level::Fine, printable(profile)),
            false => report.advise(
                "profile",
                Level::Warning,
                printable(profile),
                "set profile = \"production\", so that the KMS does not start with unsafe settings",
            ),
        }
    }
    let waiting: Vec<String> =
        list(settings, "restart_required").filter_map(Value::as_str).map(printable).collect();
    if !waiting.is_empty() {
        report.add("settings", Level::Warning, format!("a restart is needed for {}", waiting.join(", ")));
    }
}
