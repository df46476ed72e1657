//! In which lane a request waits: that of the domain that its caller has proved or claims.

use std::sync::Arc;

use kms_attest::identity::{AppId, DomainName};

use super::{Claim, Lane, Lanes, Place, Share, Standing};
use crate::address::bucket;
use crate::api::Caller;
use crate::control::Domains;
use crate::net::party::Party;
use crate::net::slots::Activity;

/// What a costly request asks for, as far as it says whose work it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) enum Asks {
    /// Something for the app in the evidence of the client certificate, which is verified.
    ItsApp,
    /// The root keys, for the KMS in the evidence of the client certificate. Every KMS is in the default domain.
    ItsKms,
    /// Something else: the evidence in the client certificate is not looked at.
    Anything,
}

impl Lanes {
    /// The turns of a request of `caller`. Without `domains`, or with the default one only, there is one lane and nothing is
    /// read of the caller's evidence.
    pub(in crate::net) fn of(
        &self,
        domains: Option<&Arc<Domains>>,
        caller: &Caller,
        activity: &Activity,
        asks: Asks,
    ) -> Share {
        let peer = caller.peer();
        let address = Party::Address(bucket(caller.remote()));
        let party = peer.admitted_as().map_or(address, Party::App);
        let Some(domains) = domains.filter(|domains| domains.are_several()) else {
            let lane = Lane::Domain(DomainName::DEFAULT);
            let share = self.share(Place { lane, standing: Standing::Proved, party }, None);
            return Share { limit: self.0.limit, ..share };
        };
        let lane_of = |app: &AppId| Lane::Domain(domains.of(app).name.clone());
        let proved = |lane| self.share(Place { lane, standing: Standing::Proved, party }, None);
        if let Some(app) = peer.admitted_as() {
            return proved(lane_of(&app));
        }
        let known = activity.known_app().map(|app| lane_of(&app));
        let claimed = match asks {
            Asks::ItsApp => peer.claimed_app().map(|app| lane_of(&app)),
            Asks::ItsKms => peer.claimed_app().map(|_| Lane::Domain(DomainName::DEFAULT)),
            Asks::Anything => None,
        };
        match claimed {
            Some(lane) if peer.is_verified() => proved(lane),
            Some(lane) if !peer.is_refused() && !self.disregards(caller.remote(), &lane) => {
                let standing =
                    if known.as_ref() == Some(&lane) { Standing::Proved } else { Standing::Claimed };
                let (caller, domains) = (caller.clone(), Arc::clone(domains));
                let claim = Claim { lane: lane.clone(), address: caller.remote(), caller, domains };
                self.share(Place { lane, standing, party }, Some(claim))
            }
            // What it proves in the lane of the unproved excuses the next callers of its address.
            Some(lane) if !peer.is_refused() => {
                let (caller, domains) = (caller.clone(), Arc::clone(domains));
                let claim = Claim { lane, address: caller.remote(), caller, domains };
                let place = Place { lane: Lane::Unproved, standing: Standing::Claimed, party };
                self.share(place, Some(claim))
            }
            Some(_) => self.unproved(party),
            None => known.map_or_else(|| self.unproved(party), proved),
        }
    }

    fn unproved(&self, party: Party) -> Share {
        self.share(Place { lane: Lane::Unproved, standing: Standing::Claimed, party }, None)
    }
}
