//! The steps of admission after verification, in order: written once, for live requests and for explanations.

use std::sync::Arc;
use std::time::Instant;

use kms_attest::identity::{AppId, Identity};
use kms_attest::verify::Verified;
use kms_policy::examination::Examination;
use kms_policy::{AppEpochs, Decision, Denial, DenialCode, Policy, Role, Subject};

use super::fresh::{is_required, same_guest};
use super::judged::{Compared, Judged, Said};
use super::permit::{Admitted, Basis, DecidedBy};
use super::{
    Asked, AskedEpochs, ChosenEpochs, DomainDenial, Foundation, FreshFault, Freshness, GrantedEpochs,
    ImageCheck, Placed, Proved, Refusal, Relaxations, RootEpochs, StageRule, StageVerdict, Step, Tolerated,
    epochs, sealed, vm_config,
};
use crate::config::{ReleaseStage, RequireFresh};
use crate::control::{NotFrozen, Shadow};
use crate::keys::epoch::AppEpoch;
use crate::os_image::{ImageKind, OsImageError, OsImages};

/// The end of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The first refusal, as for a live request.
    Refused,
    /// The last step, whatever the earlier steps found. Without an identity there are no further steps.
    Done,
}

/// The finding of a step that passed.
#[derive(Debug)]
pub enum Passed<'a> {
    /// [`Step::Identity`].
    Identity(&'a Identity),
    /// [`Step::Domain`].
    Domain(&'a Placed),
    /// [`Step::Session`], with the identity by fresh evidence, by which the later steps judge.
    Session(Proved, Option<&'a Identity>),
    /// [`Step::Frozen`].
    NotFrozen,
    /// [`Step::Policy`].
    Policy,
    /// [`Step::Stage`], by this rule; `None` if the request is not for keys of an app.
    Stage(Option<StageRule>),
    /// [`Step::Epochs`], of keys or of a certificate of an app.
    Epochs(&'a GrantedEpochs),
    /// [`Step::OsImage`], for this identity.
    OsImage(&'a Identity),
    /// [`Step::OsImage`], which the configuration disables.
    OsImageWaived,
}

/// Observes each step. Only the walk of [`super::Admission`]'s observer leads to a permit.
pub trait Observer: Send {
    /// Where the walk ends.
    const UNTIL: Until;

    /// Asks policy about `subject`, a caller of this place: for the decision alone, or with every rule. `denial` tells to which denial
    /// another decision about the same caller would lead.
    fn policy(
        &mut self,
        policy: &Policy,
        placed: &Placed,
        subject: Subject<'_>,
        denial: &(dyn Fn(&Decision) -> Option<Denial> + Send + Sync),
    ) -> impl Future<Output = Examination> + Send;

    /// Awaits the comparison with the OS image; `None` if the observer does not wait for it.
    fn image<T: Send>(
        &mut self,
        comparison: impl Future<Output = Result<T, OsImageError>> + Send,
    ) -> impl Future<Output = Option<Result<T, OsImageError>>> + Send;

    /// The exceptions of `core.tcb` that apply before policy is asked.
    fn tolerated(&mut self, relaxations: &Relaxations);

    /// A step passed.
    fn passed(&mut self, passed: Passed<'_>);

    /// A step refused, or a service that it needs does not respond.
    fn refused(&mut self, step: Step, refusal: &Refusal);
}

/// The services that the steps need.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) foundation: Arc<Foundation>,
    /// Evaluates live requests without deciding.
    pub(super) shadow: Arc<Shadow>,
    pub(super) release_stage: ReleaseStage,
    pub(super) require_fresh: RequireFresh,
    /// The root epochs that there are.
    pub(super) ring: Arc<dyn RootEpochs>,
}

impl Walk {
    /// Runs the steps up to the observer's end.
    ///
    /// # Errors
    /// The first refusal.
    pub(super) async fn run<O: Observer>(
        &self,
        verified: &Verified,
        role: Role,
        asked: Asked<'_>,
        freshness: &Freshness,
        observer: &mut O,
    ) -> Result<Admitted, Refusal> {
        let Asked { vm_config, epochs, .. } = asked;
        let identified = identified(verified, role, vm_config);
        match &identified {
            Ok(identity) => observer.passed(Passed::Identity(identity)),
            Err(refusal) => observer.refused(Step::Identity, refusal),
        }
        let identity = identified?;
        let placed = Placed::of(&self.foundation.domains, role, &identity);
        let events = &verified.evidence().stack.runtime_events;
        let admitted_there = placed.admits(asked.domain, &identity, events);
        let admitted_there = admitted_there.map_err(|denial| of_domain(denial, &identity, None));
        let admitted_there = tell(observer, Step::Domain, admitted_there, |()| Passed::Domain(&placed))?;
        let proved = self.proved((verified, &identity), &placed, role, vm_config, freshness);
        match &proved {
            Ok((how, later)) => observer.passed(Passed::Session(*how, later.as_ref())),
            Err(refusal) => observer.refused(Step::Session, refusal),
        }
        let proved = ends::<O, _>(proved)?;
        // From here on the guest is judged by what it is now.
        let verified = freshness.latest(verified);
        let identity = match &proved {
            Ok((_, Some(later))) => later.clone(),
            Ok((_, None)) | Err(_) => identity,
        };
        let admitted_now = match &proved {
            Ok((how, Some(later))) => {
                let events = &verified.evidence().stack.runtime_events;
                let admitted = placed.admits(asked.domain, later, events);
                admitted.map_err(|denial| of_domain(denial, later, Some(*how)))
            }
            Ok((_, None)) | Err(_) => Ok(()),
        };
        if let Err(refusal) = &admitted_now {
            observer.refused(Step::Domain, refusal);
        }
        let admitted_now = ends::<O, _>(admitted_now)?;
        // Policy is not asked about a frozen caller. The check is repeated before a permit is made.
        let not_frozen = self.not_frozen(&identity);
        let not_frozen = tell(observer, Step::Frozen, not_frozen, |_| Passed::NotFrozen)?;
        let opened_by = sealed::opened_by(&verified.evidence().stack.runtime_events);
        let basis = Basis {
            verdict: verified.verdict().clone(),
            role,
            stage: verified.stage(),
            opened_by: opened_by.map(str::to_owned),
            asked: epochs,
        };
        let judged = ends::<O, _>(self.judge(&basis, &identity, &placed, observer).await)?;
        // After policy, so that a denial costs no download. The age of the decision limits the time that this
        // may take.
        let compared = match &self.foundation.image {
            ImageCheck::Waived => {
                observer.passed(Passed::OsImageWaived);
                Ok(Compared::WAIVED)
            }
            ImageCheck::Required(images) => {
                match observer.image(Box::pin(booted(images, verified, vm_config, &placed))).await {
                    None => Ok(Compared::not_awaited()),
                    Some(compared) => {
                        let compared = compared.map_err(|error| Refusal::OsImage {
                            error,
                            identity: Box::new(identity.clone()),
                            relaxations: judged.as_ref().map(|it| it.relaxations.clone()).unwrap_or_default(),
                            by: judged.as_ref().ok().map(|it| Box::new(it.by)),
                        });
                        tell(observer, Step::OsImage, compared, |_| Passed::OsImage(&identity))?
                    }
                }
            }
        };
        let kind = match compared.as_ref().ok().and_then(Compared::kind) {
            Some(kind) => {
                let how = proved.as_ref().ok().map(|(how, _)| *how);
                placed.admits_image(kind).map_err(|denial| of_domain(denial, &identity, how))
            }
            None => Ok(()),
        };
        if let Err(refusal) = &kind {
            observer.refused(Step::OsImage, refusal);
        }
        let kind = ends::<O, _>(kind)?;
        // What depends on the image is decided now.
        let allowed = match (judged, &compared) {
            (Ok(judged), Ok(compared)) => {
                let allowed = judged.proven(compared, &identity);
                if let Err(refusal) = &allowed {
                    observer.refused(Step::OsImage, refusal);
                }
                ends::<O, _>(allowed)?
            }
            (Ok(judged), Err(_)) => judged.proven(&Compared::not_awaited(), &identity),
            (Err(refusal), _) => Err(refusal),
        };
        admitted_there?;
        let (proved, _) = proved?;
        admitted_now?;
        not_frozen?;
        let compared = compared?;
        let allowed = allowed?;
        kind?;
        Ok(Admitted { identity, placed, proved, allowed, compared, basis })
    }

    /// Whether a caller of this place must bring fresh evidence.
    fn requires_fresh(&self, placed: &Placed, role: Role) -> bool {
        is_required(placed.domain().rules.require_fresh.unwrap_or(self.require_fresh), role)
    }

    /// Checks that what a caller has proved is still enough where it is placed now.
    ///
    /// # Errors
    /// [`Refusal::Fresh`].
    pub(super) fn still_proved(
        &self,
        identity: &Identity,
        placed: &Placed,
        role: Role,
        proved: Proved,
    ) -> Result<(), Refusal> {
        match (proved, self.requires_fresh(placed, role)) {
            (Proved::Fresh, _) | (Proved::Certificate | Proved::Unknown, false) => Ok(()),
            (Proved::Certificate | Proved::Unknown, true) => {
                Err(Refusal::Fresh { fault: FreshFault::Required, identity: Box::new(identity.clone()) })
            }
        }
    }

    /// How the caller proves that it is this guest now, and its identity by fresh evidence.
    ///
    /// # Errors
    /// [`Refusal::Fresh`].
    fn proved(
        &self,
        (verified, identity): (&Verified, &Identity),
        placed: &Placed,
        role: Role,
        vm_config: &str,
        freshness: &Freshness,
    ) -> Result<(Proved, Option<Identity>), Refusal> {
        let is_required = self.requires_fresh(placed, role);
        let same = |fresh: &Verified| {
            let later =
                identified(fresh, role, vm_config).map_err(|refusal| FreshFault::unidentified(&refusal))?;
            same_guest((verified, identity), (fresh, &later)).map(|()| later)
        };
        let outcome = match freshness {
            Freshness::Absent if is_required => Err(FreshFault::Required),
            Freshness::Unknown if is_required => Ok((Proved::Unknown, None)),
            Freshness::Absent | Freshness::Unknown => Ok((Proved::Certificate, None)),
            Freshness::Refused(fault) => Err(fault.clone()),
            Freshness::Verified(fresh) => same(fresh).map(|later| (Proved::Fresh, Some(later))),
            Freshness::Unbound(fresh) => same(fresh).map(|later| (Proved::Unknown, Some(later))),
        };
        outcome.map_err(|fault| Refusal::Fresh { fault, identity: Box::new(identity.clone()) })
    }

    /// Asks policy, checks whether keys are released at the guest's stage, and chooses their epochs.
    ///
    /// # Errors
    /// The first refusal.
    pub(super) async fn judge<O: Observer>(
        &self,
        basis: &Basis,
        identity: &Identity,
        placed: &Placed,
        observer: &mut O,
    ) -> Result<Judged, Refusal> {
        let Foundation { tolerance, image, .. } = &*self.foundation;
        let policy = self.foundation.policy_of(&placed.domain().name);
        let Tolerated { told, relaxations } = tolerance.apply(&basis.verdict, identity);
        observer.tolerated(&relaxations);
        let denial = |decision: &Decision| self.denial(decision, basis, identity, placed);
        let examined = observer.policy(policy, placed, basis.role.subject(&told), &denial).await;
        let at = Instant::now();
        drop(told);
        let Examination { decision, release_stage, epochs: of_app, digest, .. } = examined;
        let by = DecidedBy { policy: policy.kind(), digest };
        let boxed = || Box::new(identity.clone());
        let denied = |denial| {
            let (identity, relaxations, by) = (boxed(), relaxations.clone(), Some(Box::new(by)));
            Err(Refusal::Denied { denial, identity, relaxations, by })
        };
        let said = match decision {
            Ok(Decision::Allowed { gateway_app_id, .. }) => Ok(Said::Allowed(gateway_app_id)),
            Ok(Decision::IfImage(condition)) => match image.is_ruled_out(basis.opened_by.as_deref()) {
                None => Ok(Said::IfImage(condition)),
                Some(why) => denied(condition.otherwise(&why)),
            },
            Ok(Decision::Denied(denial)) => denied(denial),
            Err(error) => Err(Refusal::PolicyUnavailable(error)),
        };
        let said = tell(observer, Step::Policy, said, |_| Passed::Policy)?;
        let rule = match StageRule::of(release_stage, self.release_stage).judge(basis.role, basis.stage) {
            StageVerdict::Released(rule) => Ok(rule),
            StageVerdict::TooLate(rule) => {
                let (identity, relaxations, by) = (boxed(), relaxations.clone(), Box::new(by));
                Err(Refusal::AfterBoot { rule, identity, relaxations, by })
            }
        };
        let rule = tell(observer, Step::Stage, rule, |rule| Passed::Stage(*rule))?;
        let epochs = match basis.role {
            Role::Kms => Ok(GrantedEpochs::FIRST),
            Role::App | Role::Certificate => {
                let granted = self.epochs(basis.asked, of_app.as_deref(), &identity.app_id, placed);
                let granted = granted.map_err(|denial| {
                    let (identity, relaxations, by) = (boxed(), relaxations.clone(), Box::new(by));
                    Refusal::Epochs { denial, identity, relaxations, by }
                });
                match &granted {
                    Ok(epochs) => observer.passed(Passed::Epochs(epochs)),
                    Err(refusal) => observer.refused(Step::Epochs, refusal),
                }
                ends::<O, _>(granted)?
            }
        };
        Ok(Judged { said: said?, by, rule: rule?, epochs: epochs?, relaxations, at })
    }

    /// The denial to which a decision about a caller leads, by what is known without another service; an image that would be
    /// compared counts as the right one.
    fn denial(
        &self,
        decision: &Decision,
        basis: &Basis,
        identity: &Identity,
        placed: &Placed,
    ) -> Option<Denial> {
        match decision {
            Decision::Denied(denial) => Some(denial.clone()),
            Decision::IfImage(condition) => {
                let why = self.foundation.image.is_ruled_out(basis.opened_by.as_deref())?;
                Some(condition.clone().otherwise(&why))
            }
            Decision::Allowed { release_stage, epochs, .. } => {
                let rule = StageRule::of(*release_stage, self.release_stage);
                match (rule.judge(basis.role, basis.stage), basis.role) {
                    (StageVerdict::TooLate(_), _) => Some(too_late()),
                    (StageVerdict::Released(_), Role::Kms) => None,
                    (StageVerdict::Released(_), Role::App | Role::Certificate) => {
                        self.epochs(basis.asked, epochs.as_deref(), &identity.app_id, placed).err()
                    }
                }
            }
        }
    }

    /// The epochs of an app's keys, by what the policy says of it.
    ///
    /// # Errors
    /// The denial.
    pub(super) fn epochs(
        &self,
        asked: AskedEpochs,
        said: Option<&AppEpochs>,
        app: &AppId,
        placed: &Placed,
    ) -> Result<GrantedEpochs, Denial> {
        epochs::grant(asked, said, self.chosen(app).or(placed.epochs()), &*self.ring)
    }

    /// What an operator chose for an app.
    pub(super) fn chosen(&self, app: &AppId) -> Option<ChosenEpochs> {
        let choice = self.foundation.app_epochs.of(app)?;
        Some(ChosenEpochs { root: choice.root, app: AppEpoch(choice.app) })
    }

    /// Proof that `identity` is not frozen now.
    ///
    /// # Errors
    /// [`Refusal::Frozen`], [`Refusal::StateStale`].
    pub(super) fn not_frozen(&self, identity: &Identity) -> Result<NotFrozen, Refusal> {
        let checked = self.foundation.freezes.check(identity);
        checked.map_err(|stopped| Refusal::stopped(stopped, Some(Box::new(identity.clone()))))
    }
}

/// The identity of a caller in a role, by the VM configuration of the request, which must be that of the
/// evidence.
///
/// # Errors
/// [`Refusal::Unidentified`], [`Refusal::ConfigMismatch`].
fn identified(verified: &Verified, role: Role, vm_config: &str) -> Result<Identity, Refusal> {
    let identity = verified.identity(role.registers(), vm_config)?;
    match vm_config::agree(vm_config, &verified.evidence().stack.config) {
        Ok(()) => Ok(identity),
        Err(mismatch) => Err(Refusal::ConfigMismatch { mismatch, identity: Box::new(identity) }),
    }
}

/// The image that a guest has booted, and its kind, if its domain needs to know that.
///
/// # Errors
/// [`OsImageError`]: it booted something else, or that is not known.
async fn booted(
    images: &OsImages,
    verified: &Verified,
    vm_config: &str,
    placed: &Placed,
) -> Result<Compared, OsImageError> {
    let image = images.verify(verified, vm_config).await?;
    let kind = match placed.refuses_dev_images() {
        true => images.kind(verified, vm_config).await?,
        false => ImageKind::Unknown,
    };
    Ok(Compared(Ok((image, kind))))
}

/// The denial of a guest that has booted, to which keys are released while it boots.
fn too_late() -> Denial {
    Denial {
        code: DenialCode::GuestHasBooted,
        reason: "keys are released to a guest that boots".to_owned(),
        expected: Some("boot".to_owned()),
        actual: Some("running".to_owned()),
    }
}

fn of_domain(denial: DomainDenial, identity: &Identity, proved: Option<Proved>) -> Refusal {
    Refusal::Domain { denial, identity: Box::new(identity.clone()), proved }
}

/// Reports the outcome of a step. The outer result is whether the walk goes on.
fn tell<'p, O: Observer, T>(
    observer: &mut O,
    step: Step,
    outcome: Result<T, Refusal>,
    passed: impl FnOnce(&T) -> Passed<'p>,
) -> Result<Result<T, Refusal>, Refusal> {
    match &outcome {
        Ok(found) => observer.passed(passed(found)),
        Err(refusal) => observer.refused(step, refusal),
    }
    ends::<O, T>(outcome)
}

/// The outer result is whether the walk goes on.
fn ends<O: Observer, T>(outcome: Result<T, Refusal>) -> Result<Result<T, Refusal>, Refusal> {
    match (outcome, O::UNTIL) {
        (Err(refusal), Until::Refused) => Err(refusal),
        (outcome, Until::Refused | Until::Done) => Ok(outcome),
    }
}
