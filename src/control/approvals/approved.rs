//! The proof that an owner's change may be made now.

use super::action::{
    Action, ActivateBundle, ActivatePolicy, CreateRecoverySet, EpochAction, ForgetNode, InviteReplica,
    LowerClockFloor, MoveApp, OwnerCredential, RepairFleet, ReplaceHtpasswd, RestoreDomain, StartRollout,
    Unfreeze,
};
use crate::control::{Author, Changer};
use crate::operator::{Operator, Person};

/// Proof that a change may be made now: once, exactly as it is described here. Only [`Approvals`](super::Approvals) makes it.
#[derive(Debug)]
pub struct Approved<A> {
    action: A,
    operator: Operator,
    author: Author,
    consent: Consent,
    /// Who requested it, if a second owner has approved it.
    requester: Option<Person>,
}

/// Why a change of an owner may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// One owner is enough: `core.admin.approvals = 1`.
    OneIsEnough,
    /// Two owners are needed, and it concerns the requester's own credential only.
    Own,
    /// Two owners are needed, and there are not two yet.
    FewerThanTwo,
    /// A second owner has approved it.
    Second,
}

/// An approved change of each kind.
#[derive(Debug)]
pub enum EachApproved {
    /// See [`Action`].
    Unfreeze(Approved<Unfreeze>),
    /// See [`Action`].
    LowerClockFloor(Approved<LowerClockFloor>),
    /// See [`Action`].
    ActivatePolicy(Approved<ActivatePolicy>),
    /// See [`Action`].
    ActivateBundle(Approved<ActivateBundle>),
    /// See [`Action`].
    ReplaceHtpasswd(Approved<ReplaceHtpasswd>),
    /// See [`Action`].
    OwnerCredential(Approved<OwnerCredential>),
    /// See [`Action`].
    CreateRecoverySet(Approved<CreateRecoverySet>),
    /// See [`Action`].
    Epoch(Approved<EpochAction>),
    /// See [`Action`].
    MoveApp(Approved<MoveApp>),
    /// See [`Action`].
    RepairFleet(Approved<RepairFleet>),
    /// [`Action::ForgetNode`].
    ForgetNode(Approved<ForgetNode>),
    /// See [`Action`].
    RestoreDomain(Approved<RestoreDomain>),
    /// See [`Action`].
    InviteReplica(Approved<InviteReplica>),
    /// See [`Action`].
    StartRollout(Approved<StartRollout>),
}

impl<A> Approved<A> {
    pub(super) fn new(action: A, operator: Operator, author: Author, consent: Consent) -> Self {
        Self { action, operator, author, consent, requester: None }
    }

    pub(super) fn requested_by(self, requester: Person) -> Self {
        Self { requester: Some(requester), ..self }
    }

    /// What may be done.
    pub fn action(&self) -> &A {
        &self.action
    }

    /// For the audit log: the requester, and the owner who approved it.
    pub fn author(&self) -> &Author {
        &self.author
    }

    /// Why it may be done.
    pub fn consent(&self) -> Consent {
        self.consent
    }

    fn with<B>(self, action: impl FnOnce(A) -> B) -> Approved<B> {
        let Self { action: old, operator, author, consent, requester } = self;
        Approved { action: action(old), operator, author, consent, requester }
    }
}

impl Approved<Action> {
    /// The same by its kind.
    pub fn by_kind(self) -> EachApproved {
        let Self { action, operator, author, consent, requester } = self;
        let rest = Approved { action: (), operator, author, consent, requester };
        match action {
            Action::Unfreeze(action) => EachApproved::Unfreeze(rest.with(|()| action)),
            Action::LowerClockFloor(action) => EachApproved::LowerClockFloor(rest.with(|()| action)),
            Action::ActivatePolicy(action) => EachApproved::ActivatePolicy(rest.with(|()| action)),
            Action::ActivateBundle(action) => EachApproved::ActivateBundle(rest.with(|()| action)),
            Action::ReplaceHtpasswd(action) => EachApproved::ReplaceHtpasswd(rest.with(|()| action)),
            Action::OwnerCredential(action) => EachApproved::OwnerCredential(rest.with(|()| action)),
            Action::CreateRecoverySet(action) => EachApproved::CreateRecoverySet(rest.with(|()| action)),
            Action::Epoch(action) => EachApproved::Epoch(rest.with(|()| action)),
            Action::MoveApp(action) => EachApproved::MoveApp(rest.with(|()| action)),
            Action::ForgetNode(action) => EachApproved::ForgetNode(rest.with(|()| action)),
            Action::RepairFleet(action) => EachApproved::RepairFleet(rest.with(|()| action)),
            Action::RestoreDomain(action) => EachApproved::RestoreDomain(rest.with(|()| action)),
            Action::InviteReplica(action) => EachApproved::InviteReplica(rest.with(|()| action)),
            Action::StartRollout(action) => EachApproved::StartRollout(rest.with(|()| action)),
        }
    }
}

impl Approved<OwnerCredential> {
    /// The operator that makes the change, with this proof.
    pub fn into_changer(self) -> Changer {
        Changer {
            operator: self.operator,
            author: self.author,
            owner_change: Some(OwnerChange {
                change: self.action,
                consent: self.consent,
                requester: self.requester,
            }),
        }
    }
}

/// The change of an owner's credential that was approved.
#[derive(Debug)]
pub struct OwnerChange {
    change: OwnerCredential,
    consent: Consent,
    requester: Option<Person>,
}

impl OwnerChange {
    /// As of a KMS where one owner is enough.
    #[cfg(test)]
    pub(in crate::control) fn of_one_owner(change: OwnerCredential) -> Self {
        Self { change, consent: Consent::OneIsEnough, requester: None }
    }

    /// Whether exactly `change` was approved.
    pub(in crate::control) fn is(&self, change: &OwnerCredential) -> bool {
        self.change == *change
    }

    /// The other owner who has chosen the secret that the change sets; `before` has chosen the one that it replaces. Holders
    /// who replace their own secret may be the person who chose that one.
    pub(in crate::control) fn chosen_by(&self, before: Option<&Person>) -> Option<Person> {
        match self.consent {
            Consent::Own => before.cloned(),
            Consent::OneIsEnough | Consent::FewerThanTwo | Consent::Second => self.requester.clone(),
        }
    }

    /// Who requested it, if a second owner has approved it.
    pub(in crate::control) fn requester(&self) -> Option<&Person> {
        self.requester.as_ref()
    }

    /// How many owners without an end must be left.
    pub(in crate::control) fn least_owners(&self) -> usize {
        match self.consent {
            Consent::OneIsEnough => 1,
            Consent::Own | Consent::FewerThanTwo | Consent::Second => 2,
        }
    }
}
