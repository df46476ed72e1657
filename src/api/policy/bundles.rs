//! Signed bundles of policies as operators see and change them.

use std::sync::Arc;

use kms_attest::identity::DomainName;
use kms_policy::bundle::{Bundle, BundleDigest, Bundled, UnverifiedBundle};
use kms_policy::settings::{Activation, OnExpiry};
use kms_wire::bundles::{
    BundleList, BundleOutcome, BundleState, PastBundle, ShownBundle, ShownFork, ShownShadow,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::api::admin::AdminService;
use crate::api::{Caller, other_domain};
use crate::clock::{rfc3339, unix};
use crate::control::{
    ActivateBundle, Activated, Approved, Author, BundleKeeper, BundleView, OfferError, Offered, Origin,
    bundle_document,
};
use crate::error::{Code, Error, Result};
use crate::operator::DomainScope;
use crate::proto::StartShadowRequest;
use crate::request;
use crate::state::SeenBundle;
use crate::state::shared::Shared;

/// Shows and changes the signed bundles of the domains that have them.
#[derive(Debug)]
pub struct BundleService {
    keepers: Vec<Arc<BundleKeeper>>,
    policies: Vec<Arc<kms_policy::Policy>>,
    /// `None` where nothing is shared.
    shared: Option<Arc<Shared>>,
    admin: Arc<AdminService>,
}

/// What becomes of a bundle that only an owner puts in force.
const WAITS: &str = "it is verified and waits to be put in force";

/// A bundle by its digest.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BundleRequest {
    /// The digest of the bundle that waits, hex, as it was reviewed.
    digest: String,
}

/// A domain.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FetchRequest {
    /// Its name; absent for that of the credential, or for `default`.
    #[serde(default)]
    domain: Option<String>,
}

/// Whether a scope has the domain of this name.
fn has(scope: &DomainScope, domain: &str) -> bool {
    domain.parse().is_ok_and(|domain| scope.has(&domain))
}

/// Checks that a bundle is for a domain of `scope`.
fn expect_own(scope: &DomainScope, domain: &str) -> Result<()> {
    match scope.limit().is_none() || has(scope, domain) {
        true => Ok(()),
        false => Err(other_domain(scope, "the bundle is for another one")),
    }
}

impl BundleService {
    /// For the keepers of these policies, one policy a keeper.
    pub fn new(
        bundles: Vec<(Arc<BundleKeeper>, Arc<kms_policy::Policy>)>,
        shared: Option<Arc<Shared>>,
        admin: Arc<AdminService>,
    ) -> Self {
        let (keepers, policies) = bundles.into_iter().unzip();
        Self { keepers, policies, shared, admin }
    }

    fn keeper(&self, domain: &str) -> Result<&Arc<BundleKeeper>> {
        self.keepers.iter().find(|keeper| keeper.domain() == domain).ok_or_else(|| {
            let text = format!(
                "the policy of the domain {} has no signed bundles: core.auth_api.bundle.keys names their signers",
                crate::audit::printable(domain)
            );
            Error::new(Code::Conflict, text).because("not_configured")
        })
    }

    /// The domains of `scope` with bundles.
    pub async fn list(&self, scope: &DomainScope) -> BundleList {
        let mut domains = Vec::new();
        for (keeper, policy) in self.keepers.iter().zip(&self.policies) {
            if has(scope, keeper.domain())
                && let Some(bundled) = policy.bundled()
            {
                domains.push(state(keeper.view().await, bundled));
            }
        }
        BundleList { domains }
    }

    /// Takes a bundle from an operator; it waits to be put in force. Its header says for which domain it is.
    ///
    /// # Errors
    /// It is refused; `other_domain`.
    pub async fn push(&self, caller: &Caller, bytes: Vec<u8>) -> Result<BundleOutcome> {
        let read = tokio::task::spawn_blocking(move || {
            let domain = UnverifiedBundle::parse(&bytes).map(|bundle| bundle.header().domain().to_owned());
            domain.map(|domain| (domain, bytes))
        });
        let read = read.await.map_err(|error| Error::internal("the check ended in a panic", error))?;
        let (domain, bytes) = read.map_err(|error| refused(error.into()))?;
        expect_own(caller.scope()?, &domain)?;
        let (keeper, author) = (Arc::clone(self.keeper(&domain)?), caller.author());
        let offer =
            request::spawn(async move { keeper.offer(bytes, Origin::Operators, Some(&author)).await });
        let offered = offer.await.map_err(|error| Error::internal("the change ended in a panic", error))?;
        let (offered, digest) = offered.map_err(refused)?;
        Ok(outcome(domain, digest, &offered))
    }

    /// Asks the source of a domain now.
    ///
    /// # Errors
    /// It gives nothing that can be used; `other_domain`.
    pub async fn fetch(&self, caller: &Caller, request: FetchRequest) -> Result<BundleOutcome> {
        let scope = caller.scope()?;
        let own = scope.limit().unwrap_or(&DomainName::DEFAULT).as_str();
        let domain = request.domain.unwrap_or_else(|| own.to_owned());
        expect_own(scope, &domain)?;
        let keeper = self.keeper(&domain)?;
        let asked = Arc::clone(keeper);
        let fetch = request::spawn(async move { (asked.fetch().await, asked.view().await) });
        let (fetched, view) =
            fetch.await.map_err(|error| Error::internal("the request ended in a panic", error))?;
        let fetched =
            fetched.map_err(|problem| Error::new(Code::Conflict, problem).because("no_usable_bundle"))?;
        let known = view.record.in_force.as_deref().and_then(BundleDigest::parse);
        let is_source =
            |seen: &SeenBundle| [Origin::File, Origin::Server].iter().any(|it| it.name() == seen.origin);
        let is_of_source = |digest: &BundleDigest| {
            let is_it = |seen: &SeenBundle| seen.digest == digest.to_string();
            view.record.seen.iter().any(|seen| is_it(seen) && is_source(seen))
        };
        let pending = view.pending.as_ref().map(|pending| pending.bundle().digest()).filter(is_of_source);
        let digest = fetched.or(pending).or(known);
        let digest = digest.ok_or_else(|| Error::new(Code::Conflict, "the source gives no bundle"))?;
        if known == Some(digest) {
            return Ok(outcome(domain, digest, &Offered::InForce));
        }
        let (activation, message) = next(keeper.bundled());
        Ok(BundleOutcome {
            activation: Some(named(activation).to_owned()),
            changed: fetched.is_some(),
            message: message.to_owned(),
            ..outcome(domain, digest, &Offered::Waits)
        })
    }

    /// Evaluates the bundle that waits on live requests, without deciding.
    ///
    /// # Errors
    /// No bundle with this digest waits.
    pub async fn shadow(&self, caller: &Caller, request: BundleRequest) -> Result<BundleOutcome> {
        let (keeper, pending) = self.pending(&request.digest).await?;
        if keeper.domain() != DomainName::DEFAULT.as_str() {
            let text = format!(
                "a shadow evaluates requests that core.auth_api decides, and the bundle is for the domain {}: activate it without \
                 one; nothing was changed",
                keeper.domain()
            );
            return Err(Error::new(Code::Conflict, text).because("not_configured"));
        }
        let header = pending.header();
        let name = format!("bundle {} {}", header.name(), header.serial());
        let start = StartShadowRequest {
            auth_config_json: pending.policy().to_owned(),
            name: name.clone(),
            strict_devices: None,
        };
        self.admin.start_shadow(caller, start).await?;
        Ok(BundleOutcome {
            domain: keeper.domain().to_owned(),
            digest: pending.digest().to_string(),
            state: "pending".to_owned(),
            activation: Some(named(Activation::Manual).to_owned()),
            changed: false,
            shared: None,
            message: format!("{name} judges live requests from now on, without deciding"),
        })
    }

    async fn pending(&self, digest: &str) -> Result<(&Arc<BundleKeeper>, Bundle)> {
        let digest = parse(digest)?;
        for keeper in &self.keepers {
            let pending = keeper.view().await.pending;
            if let Some(pending) = pending.filter(|pending| pending.bundle().digest() == digest) {
                return Ok((keeper, pending.bundle().clone()));
            }
        }
        Err(refused(OfferError::NotPending(digest)))
    }

    /// Puts the bundle that waits in force.
    ///
    /// # Errors
    /// No bundle with this digest waits; it is not valid now; a second owner must approve it.
    pub async fn activate(self: Arc<Self>, caller: &Caller, request: BundleRequest) -> Result<BundleOutcome> {
        let digest = parse(&request.digest)?;
        for (keeper, policy) in self.keepers.iter().zip(&self.policies) {
            if policy.bundled().is_some_and(|bundled| bundled.is_in_force(digest)) {
                return Ok(outcome(keeper.domain().to_owned(), digest, &Offered::InForce));
            }
        }
        let (keeper, pending) = self.pending(&request.digest).await?;
        let action = ActivateBundle {
            domain: keeper.domain().to_owned(),
            name: pending.header().name().to_owned(),
            serial: pending.header().serial(),
            digest: pending.digest().to_string(),
        };
        let approved = self.admin.gate().pass(caller, action).await?;
        self.activate_approved(&approved).await
    }

    /// Puts a bundle in force. If its policy is the candidate in shadow, that ends.
    pub(in crate::api) async fn activate_approved(
        self: Arc<Self>,
        approved: &Approved<ActivateBundle>,
    ) -> Result<BundleOutcome> {
        let ActivateBundle { domain, digest, .. } = approved.action().clone();
        let author = approved.author().clone();
        let service = Arc::clone(&self);
        let change = request::spawn(async move { service.make(&domain, &digest, author).await });
        change.await.map_err(|error| Error::internal("the change ended in a panic", error))?
    }

    async fn make(&self, domain: &str, digest: &str, author: Author) -> Result<BundleOutcome> {
        use sha2::{Digest as _, Sha256};
        let (keeper, digest) = (self.keeper(domain)?, parse(digest)?);
        let pending = keeper.view().await.pending.filter(|pending| pending.bundle().digest() == digest);
        let Activated { changed, serial } = keeper.activate(digest, Some(&author)).await.map_err(refused)?;
        if changed {
            // Otherwise methods that anyone may call would notice half a second later.
            let _ = self.admin.foundation().self_authorization.fresh().await;
            if let Some(pending) = pending {
                let sha256 = Sha256::digest(pending.bundle().policy()).into();
                self.admin.stop_shadow_if(author, &sha256).await;
            }
        }
        let (shared, unknown) = match &self.shared {
            None => (None, String::new()),
            Some(shared) => match shared.push(&bundle_document(domain)).await {
                Ok(()) if keeper.is_of_fleet(digest) => (Some(true), String::new()),
                // Nothing is written over a bundle that this node cannot read, or one that is not older.
                Ok(()) => (
                    Some(false),
                    "; the other nodes do not know it: the fleet has another bundle, which is not older or cannot be used here, see the \
                     log of this node"
                        .to_owned(),
                ),
                Err(why) => (Some(false), format!("; the other nodes do not know it yet: {why}")),
            },
        };
        Ok(BundleOutcome {
            domain: domain.to_owned(),
            digest: digest.to_string(),
            state: "in_force".to_owned(),
            activation: None,
            changed,
            shared,
            message: format!("the bundle with serial {serial} decides from now on{unknown}"),
        })
    }
}

fn parse(digest: &str) -> Result<BundleDigest> {
    let parsed = BundleDigest::parse(&digest.to_ascii_lowercase());
    parsed.ok_or_else(|| Error::invalid("digest must be 64 hex digits: the digest of a bundle"))
}

fn named(activation: Activation) -> &'static str {
    match activation {
        Activation::Automatic => "automatic",
        Activation::Manual => "manual",
    }
}

/// What becomes of a bundle of the source that waits.
fn next(bundled: &Bundled) -> (Activation, &'static str) {
    let settings = bundled.settings();
    match (settings.activation, &settings.shadow) {
        (Activation::Automatic, _) if bundled.is_held() => (
            Activation::Manual,
            "it is verified and held, because of what it would deny: it waits for an owner",
        ),
        (Activation::Automatic, None) => {
            (Activation::Automatic, "it is verified, and decides by itself as soon as it is valid")
        }
        (Activation::Automatic, Some(_)) => (
            Activation::Automatic,
            "it is verified; it judges live requests for a while, and decides by itself unless it is held",
        ),
        (Activation::Manual, _) => (Activation::Manual, WAITS),
    }
}

fn outcome(domain: String, digest: BundleDigest, offered: &Offered) -> BundleOutcome {
    let (state, activation, message) = match offered {
        Offered::InForce => ("in_force", None, "it is in force already"),
        Offered::Waits => ("pending", Some(Activation::Manual), WAITS),
    };
    BundleOutcome {
        domain,
        digest: digest.to_string(),
        state: state.to_owned(),
        activation: activation.map(|activation| named(activation).to_owned()),
        changed: *offered == Offered::Waits,
        shared: None,
        message: message.to_owned(),
    }
}

/// What operators are told: there is nothing secret in it.
fn refused(error: OfferError) -> Error {
    let (text, code) = (error.to_string(), error.code());
    match error {
        OfferError::Bundle(_) => Error::invalid(text).because(code),
        OfferError::Rollback { .. }
        | OfferError::TooFarAhead { .. }
        | OfferError::Fork { .. }
        | OfferError::BelowMinimum { .. }
        | OfferError::Expired(_)
        | OfferError::NotYetValid(_)
        | OfferError::NotPending(_) => Error::new(Code::Conflict, text).because(code),
        OfferError::Disk(error) | OfferError::Unsynced(error) => {
            Error::new(Code::Unavailable, text).caused_by(error).because(code)
        }
        OfferError::Audit(error) => Error::new(Code::Unavailable, text).caused_by(error).because(code),
        OfferError::Panic => Error::new(Code::Internal, text),
    }
}

fn state(view: BundleView, bundled: &Bundled) -> BundleState {
    let settings = bundled.settings();
    let in_force = bundled.bundle();
    let highest = view.record.seen.iter().map(|seen| seen.serial).max().unwrap_or(0);
    let time = |seconds: u64| (seconds > 0).then(|| rfc3339(seconds));
    BundleState {
        domain: view.domain,
        in_force: in_force
            .map(|it| ShownBundle { since: Some(rfc3339(unix(it.since))), ..shown(&it.bundle) }),
        pending: view.pending.as_ref().map(|pending| shown(pending.bundle())),
        lowest_serial: highest.max(view.record.floor).max(settings.minimum_serial),
        threshold: settings.keys.threshold(),
        keys: settings.keys.names().map(str::to_owned).collect(),
        source: settings.source.kind().to_owned(),
        source_problem: bundled.source_problem(),
        activation: named(settings.activation).to_owned(),
        on_expiry: match settings.on_expiry {
            OnExpiry::Warn => "warn",
            OnExpiry::Deny => "deny",
        }
        .to_owned(),
        shadow: view.record.shadow.map(|it| ShownShadow {
            digest: it.digest,
            ran_seconds: it.ran,
            of_seconds: settings.shadow.map(|shadow| shadow.time.as_secs()),
            compared: it.compared,
            would_allow: it.newly_allowed,
            would_deny: it.newly_denied,
            denies_this_kms: it.denies_this_kms,
            held: it.held,
        }),
        fork: view.record.fork.map(|fork| ShownFork {
            serial: fork.serial,
            digest: fork.digest,
            at: rfc3339(fork.at),
        }),
        history: view
            .record
            .seen
            .into_iter()
            .map(|seen| PastBundle {
                name: seen.name,
                serial: seen.serial,
                digest: seen.digest,
                signers: seen.signers,
                origin: seen.origin,
                received_at: time(seen.received_at),
                activated_at: seen.activated_at.and_then(time),
                activated_by: seen.activated_by,
                expires: time(seen.expires),
            })
            .collect(),
    }
}

/// A bundle that is not in force.
pub(super) fn shown(bundle: &Bundle) -> ShownBundle {
    let header = bundle.header();
    ShownBundle {
        name: header.name().to_owned(),
        serial: header.serial(),
        digest: bundle.digest().to_string(),
        previous: header.previous().map(|digest| digest.to_string()),
        not_before: rfc3339(header.not_before()),
        expires: rfc3339(header.expires()),
        signers: bundle.signers().to_vec(),
        rules: bundle.summary(),
        since: None,
    }
}
