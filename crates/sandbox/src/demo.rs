//! The steps of the demo, from simulated hardware to an app that has its keys.

use std::convert::Infallible;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use cvm_kms::clock::unix_now;
use cvm_kms::keys::statement;
use kms_attest::binding::ReportData;
use kms_attest::evidence::Evidence;
use kms_attest::verify::{Binding, Verifier};
use kms_client::boot::{AttemptError, FailedAttempt};
use kms_client::proto::BootstrapResponse;
use kms_client::{BootError, CallError, KmsUrl, ServerAttestation};
use sha2::{Digest as _, Sha256};

use crate::allow::{self, Entry};
use crate::env::Env;
use crate::fleet::Fleet;
use crate::guest::{Fingerprints, Guest, Memory};
use crate::kms::{self, Admin, Kms, Node};
use crate::output::{Output, fingerprint};
use crate::paste::{Refusal, Yours};
use crate::state::StateDir;
use crate::viewer;

pub(crate) struct Demo {
    state: StateDir,
    ports: Ports,
    /// The token of the admin listener, valid for this run.
    token: String,
    // Before the fields that they depend on, so that they are dropped first.
    guest: Option<Guest>,
    yours: Option<(Guest, Guest)>,
    fleet: Option<Fleet>,
    kms: Option<Kms>,
    spares: Vec<Kms>,
    env: Option<Env>,
}

/// The ports of the KMS on 127.0.0.1.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) main: u16,
    pub(crate) admin: u16,
}

impl Demo {
    pub(crate) fn new(state: StateDir, ports: Ports) -> Self {
        let token = hex::encode(rand::random::<[u8; 16]>());
        Self {
            state,
            ports,
            token,
            guest: None,
            yours: None,
            fleet: None,
            kms: None,
            spares: Vec::new(),
            env: None,
        }
    }

    /// Runs the demo with its output, and leaves everything running.
    pub(crate) async fn tell(&mut self, output: &mut Output) -> Result<()> {
        output.opening("kms-sandbox: a KMS and a confidential VM on simulated TDX hardware");
        output.note(format_args!("state in {}", self.state.path().display()));
        let Self { state, ports, token, guest, kms, env, .. } = self;

        output.chapter("Hardware");
        let env = env.insert(Env::start(state).await?);
        output.note("a software TDX machine; its own root takes the place of Intel's");
        output.fact("device", hex::encode(env.platform().device_id()));
        output.fact("collateral", env.pccs_url());
        let verifier = env.verifier()?;

        output.chapter("KMS");
        let had_keys = state.has_keys();
        allow::prepare(state)?;
        let admin = Admin { port: ports.admin, token: token.clone() };
        let node = Node { certs: state.certs(), port: ports.main, admin: Some(admin) };
        let kms = kms.insert(Kms::start(state, env, &node).await?);
        output.fact("address", kms.base());
        output.fact("policy", state.policy().display());
        if had_keys {
            output.good("keys found", "onboarding was done by an earlier run");
        } else {
            output.note("runs in a CVM of its own and has no keys yet: it can only be onboarded");
            onboard(output, state, kms, &verifier).await?;
        }
        serve(output, state, kms, &verifier).await?;

        output.chapter("Confidential VM");
        let guest = guest.insert(Guest::boot(env).await?);
        release(output, state, kms, guest).await
    }

    /// Adds CVMs that boot again and again once everything is set up.
    pub(crate) async fn populate(&mut self, output: &mut Output) -> Result<()> {
        let Self { state, fleet, env: Some(env), .. } = self else { return Ok(()) };
        output.chapter("More CVMs");
        let fleet = fleet.insert(Fleet::build(state, env).await?);
        let (all, denied) = fleet.size();
        output.note(format_args!(
            "{all} CVMs on two hosts reboot until the end, first one a second, later two a minute;"
        ));
        output.note(format_args!(
            "{denied} of them are denied, each for another reason (--quiet leaves all of them out)"
        ));
        Ok(())
    }

    /// Prints commands to try while it runs: a line for every `kmsctl` command, with CVMs and KMSs to use
    /// them on.
    pub(crate) async fn invite(&mut self, output: &mut Output) -> Result<()> {
        let Self { state, token, kms, spares, yours, env, .. } = self;
        let (Some(kms), Some(env)) = (kms, env) else { return Ok(()) };
        output.chapter("A stranger");
        output.note("another app on the same machine, which is not allowed:");
        let (app, stranger) =
            yours.insert((Guest::boot_another(env).await?, Guest::boot_stranger(env).await?));
        let refusal = refuse_stranger(output, kms, stranger).await?;
        let cvm = stranger.cvm();
        let device = cvm.platform().device_id();
        allow::candidate(state, cvm.app_id(), cvm.compose_hash(), &device, cvm.os_image_hash())?;
        for name in ["first", "second"] {
            let certs = env.passing_directory(&format!("certs-of-the-{name}-spare"));
            spares.push(Kms::spare(state, env, certs).await?);
        }
        let [first, second] = &spares[..] else { bail!("two further KMSs were started") };

        output.chapter("Console");
        let admin = kms.admin_address()?;
        output.fact("address", format_args!("http://{admin}/"));
        output.fact("viewer token", viewer::token(admin, token).await?);
        output
            .note("a viewer sees everything and changes nothing; to change something, sign in as an owner:");
        output.fact("owner token", format_args!("KMS_ADMIN_TOKEN in {}", state.environment().display()));
        output.note("for the actions of an owner that wait for a second one: kmsctl credential create ada --role owner");

        output.chapter("Yours");
        let own = std::env::current_exe()?;
        let yours = Yours {
            programs: own.parent().map(Path::to_path_buf).unwrap_or_default(),
            kms: kms.base(),
            admin,
            token,
            pccs: env.pccs_url(),
            agent: app.agent_address(),
            app_id: app.cvm().app_id(),
            root_spki: Sha256::digest(kms::public_key(&std::fs::read_to_string(state.root_ca())?)?).into(),
            domain: format!("lab-{}", unix_now()),
            refusal,
            spares: [first.address(), second.address()],
        };
        yours.prepare(state)?;
        output.note("everything stays up until Ctrl-C; paste into another terminal");
        yours.lacks().into_iter().for_each(|text| output.note(text));
        for group in yours.lines(state) {
            output.command("");
            output.note(group.title);
            for line in group.lines {
                output.command(line);
            }
        }
        output.command("");
        output.fact("audit log", state.certs().join("audit.jsonl").display());
        output.fact("log", state.log().display());
        output.fact("configuration", state.config().display());
        output.fact("start over", format_args!("remove {}", state.path().display()));
        Ok(())
    }

    /// Boots the CVMs that reboot, and starts the KMS again when an operator restarts it; until it fails.
    pub(crate) async fn kms_ended(&mut self) -> Result<()> {
        loop {
            let Self { state, token, kms: running, fleet, env: Some(env), .. } = self else {
                return Ok(());
            };
            let Some(kms) = running.as_mut() else { return Ok(()) };
            let (url, restart) = (kms.url(), kms.restart_requested());
            tokio::select! {
                ended = kms.ended() => return ended,
                never = reboots(fleet, url) => match never {},
                () = restart => {}
            }
            // This program is the supervisor.
            let admin = Admin { port: kms.admin_address()?.port(), token: token.clone() };
            let node = Node { certs: state.certs(), port: kms.address().port(), admin: Some(admin) };
            if let Some(kms) = running.take() {
                kms.stop().await;
            }
            *running = Some(Kms::start(state, env, &node).await?);
        }
    }

    pub(crate) async fn end(mut self) {
        for kms in self.kms.take().into_iter().chain(self.spares.drain(..)) {
            kms.stop().await;
        }
    }
}

async fn reboots(fleet: &mut Option<Fleet>, kms: KmsUrl) -> Infallible {
    match fleet {
        Some(fleet) => fleet.live(kms).await,
        None => std::future::pending().await,
    }
}

/// The operator's part: read the measurements, allow them, make the keys, verify them.
async fn onboard(output: &mut Output, state: &StateDir, kms: &Kms, verifier: &Verifier) -> Result<()> {
    output.chapter("Onboarding");
    let onboarding = kms.onboarding().await?;
    let measured = onboarding.measurements().await?;
    output.note("the KMS attests itself; this is what an operator has to allow:");
    output.fact("mr_aggregated", hex::encode(&measured.mr_aggregated));
    output.fact("os_image_hash", hex::encode(&measured.os_image_hash));
    output.fact("device_id", hex::encode(&measured.device_id));

    output.waiting("waiting for it to make root keys");
    let mut answer = onboarding.bootstrap().await;
    if let Err(CallError::Refused { message, .. }) = &answer {
        let entry = allow::kms(state, &measured.mr_aggregated, &measured.device_id, &measured.os_image_hash)?;
        ensure!(entry == Entry::New, "the KMS is allowed and makes no keys: {message}");
        output.refused(message);
        output.good("allowed", "all three entered into auth-config.json");
        output.waiting("trying again");
        answer = onboarding.bootstrap().await;
    }
    let made = answer?;
    output.good("bootstrapped", "root keys made inside the KMS's CVM");
    output.fact("root CA", format_args!("{} (SHA-256 of its public key)", fingerprint(&made.ca_pubkey)));
    output.fact("root k256", hex::encode(&made.k256_pubkey));
    check_statement(&made, verifier).await?;
    output.good("verified", "a quote of that CVM covers both public keys");
    onboarding.finish().await
}

/// Verifies the response of Bootstrap, as an auditor can at any later time.
async fn check_statement(made: &BootstrapResponse, verifier: &Verifier) -> Result<()> {
    let evidence = Evidence::decode(&made.attestation).context("the attestation of the new keys")?;
    let k256 = made.k256_pubkey.as_slice().try_into().context("the root k256 public key is not 33 bytes")?;
    let expected = statement::bootstrap_report_data(&made.ca_pubkey, k256);
    verifier
        .verify(&evidence, Binding::ReportData(&expected))
        .await
        .context("the attestation of the new keys does not verify")?;
    Ok(())
}

/// Waits for the switch, and connects to the KMS as a client.
async fn serve(output: &mut Output, state: &StateDir, kms: &mut Kms, verifier: &Verifier) -> Result<()> {
    output.chapter("Serving");
    output.waiting("waiting for the KMS to serve keys");
    let (connection, root) = kms.serving(state).await?;
    let verified = connection
        .verify_server(ServerAttestation::Required(verifier))
        .await
        .context("the KMS's certificate")?
        .context("the KMS's certificate carries no attestation")?;
    let meta = connection.meta().await?;
    output.good(
        "serving",
        format_args!("{} under root CA {}", kms.base(), fingerprint(&kms::public_key(&root)?)),
    );
    output.good(
        "verified",
        format_args!("its certificate carries a quote, TCB status {}", verified.tcb_status()),
    );
    output.fact(
        "relaxed",
        format_args!("{} (GetMeta shows this to everyone)", meta.relaxed_settings.join(", ")),
    );
    Ok(())
}

/// An app is denied until it is allowed, and then receives its keys.
async fn release(output: &mut Output, state: &StateDir, kms: &Kms, guest: &Guest) -> Result<()> {
    let cvm = guest.cvm();
    output.note("an app boots on the same machine; measured before it runs:");
    output.fact("app_id", hex::encode(cvm.app_id()));
    output.fact("compose_hash", hex::encode(cvm.compose_hash()));
    output.fact("os_image_hash", hex::encode(cvm.os_image_hash()));
    let device = cvm.platform().device_id();

    output.waiting("requesting keys");
    let mut started = Instant::now();
    let mut answer = guest.fetch(kms.url()).await?;
    if let Some((reason, _)) = answer.as_ref().err().and_then(denial) {
        let entry = allow::app(state, cvm.app_id(), cvm.compose_hash(), &device, cvm.os_image_hash())?;
        ensure!(entry == Entry::New, "the app is allowed and gets no keys: {reason}");
        output.refused(reason);
        output.good("allowed", "app, compose hash and device entered into auth-config.json");
        output.waiting("requesting keys again");
        started = Instant::now();
        answer = guest.fetch(kms.url()).await?;
    }
    let keys = answer?;
    let took = started.elapsed();

    let server = keys.server.as_ref().context("the KMS showed no attestation")?;
    output.good(
        "verified",
        format_args!("the KMS by the CVM (kms:rpc, {}), the CVM by the KMS", server.tcb_status()),
    );
    output.good("released", format_args!("over RA-TLS, in {} ms; SHA-256 begins with", took.as_millis()));
    let shown = Fingerprints::of(&keys);
    output.fact("  disk key", &shown.disk);
    output.fact("  env key", &shown.env);
    output.fact("  k256 key", &shown.k256);
    if shown.remember(state)? == Memory::Same {
        output.good("the same keys", "as in the earlier run: the app can open its disk");
    }
    guest.finish_boot(&keys);
    output.good("key provider", format_args!("measured by the CVM: {}", fingerprint(&keys.key_provider)));
    Ok(())
}

/// Has a request refused, so that there is a refusal to explain.
async fn refuse_stranger(output: &mut Output, kms: &Kms, stranger: &Guest) -> Result<Refusal> {
    output.fact("app_id", hex::encode(stranger.cvm().app_id()));
    match stranger.fetch(kms.url()).await? {
        Ok(_) => {
            output.good("released", "it is already in auth-config.json");
            Ok(Refusal::None(stranger.cvm().evidence(ReportData([0x5a; 64])).encode()))
        }
        Err(error) => {
            let (reason, id) = denial(&error).ok_or(error)?;
            output.refused(reason);
            let id = id.context("the KMS gave its refusal no id")?;
            output.fact("denial", &id);
            Ok(Refusal::Denial(id))
        }
    }
}

/// The reason and the denial id, if the KMS refused.
fn denial(error: &BootError) -> Option<(String, Option<String>)> {
    let BootError::AllFailed(attempts) = error else { return None };
    match &attempts[..] {
        [
            FailedAttempt {
                error: AttemptError::Call(CallError::Refused { message, denial_id, .. }), ..
            },
        ] => Some((message.clone(), denial_id.clone())),
        _ => None,
    }
}
