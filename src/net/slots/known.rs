//! Addresses from which callers were admitted, and for which app.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use kms_attest::identity::AppId;
use tokio::time::Instant;

use super::activity::PeerTrust;
use super::one_less;
use crate::net::party::Party;

/// How long an address stays known after a caller from it was admitted.
pub(super) const KNOWN_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How many addresses are known at most.
pub(super) const MAX_KNOWN: usize = 16 * 1024;

/// Addresses from which callers were admitted.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) addresses: HashMap<IpAddr, Proof>,
    pub(super) by_owner: HashMap<Owner, usize>,
}

#[derive(Debug)]
pub(super) struct Proof {
    owner: Owner,
    last: Instant,
}

/// Which app's callers were admitted from an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    App(AppId),
    /// Several apps': the address is shared, and is a group of its own.
    Several,
    Operator,
}

impl Known {
    /// Records that a caller from this address was admitted.
    pub(super) fn add(&mut self, address: IpAddr, trust: PeerTrust, now: Instant) {
        let owner = match trust {
            PeerTrust::Stranger => return,
            PeerTrust::Admitted(app) => Owner::App(app),
            PeerTrust::Operator => Owner::Operator,
        };
        let owner = match self.addresses.get(&address).map(|proof| proof.owner) {
            None => {
                if self.addresses.len() >= MAX_KNOWN && !self.make_room(owner, now) {
                    return;
                }
                owner
            }
            Some(Owner::Operator) => Owner::Operator,
            Some(Owner::App(before)) if owner != Owner::App(before) && owner != Owner::Operator => {
                Owner::Several
            }
            Some(Owner::Several) if owner != Owner::Operator => Owner::Several,
            Some(Owner::App(_) | Owner::Several) => owner,
        };
        self.forget(&address);
        self.addresses.insert(address, Proof { owner, last: now });
        *self.by_owner.entry(owner).or_insert(0) += 1;
    }

    /// Forgets one address of the app that has the most, unless the newcomer's app has as many: an app with
    /// many addresses must not displace those of others, nor keep them from becoming known.
    fn make_room(&mut self, newcomer: Owner, now: Instant) -> bool {
        let is_over = |proof: &Proof| now.duration_since(proof.last) >= KNOWN_FOR;
        let over: Vec<_> =
            self.addresses.iter().filter(|(_, proof)| is_over(proof)).map(|(address, _)| *address).collect();
        over.iter().for_each(|address| self.forget(address));
        if self.addresses.len() < MAX_KNOWN {
            return true;
        }
        let apps = self.by_owner.iter().filter(|(owner, _)| **owner != Owner::Operator);
        let Some((largest, count)) =
            apps.max_by_key(|(_, count)| **count).map(|(owner, count)| (*owner, *count))
        else {
            return false;
        };
        let has = self.by_owner.get(&newcomer).copied().unwrap_or(0);
        if newcomer != Owner::Operator && newcomer != largest && has >= count {
            return false;
        }
        let its = self.addresses.iter().filter(|(_, proof)| proof.owner == largest);
        let Some(oldest) = its.min_by_key(|(_, proof)| proof.last).map(|(address, _)| *address) else {
            return false;
        };
        self.forget(&oldest);
        true
    }

    fn forget(&mut self, address: &IpAddr) {
        if let Some(proof) = self.addresses.remove(address) {
            one_less(&mut self.by_owner, &proof.owner);
        }
    }

    pub(super) fn contains(&self, address: IpAddr, now: Instant) -> bool {
        self.addresses.get(&address).is_some_and(|proof| now.duration_since(proof.last) < KNOWN_FOR)
    }

    pub(super) fn group(&self, address: IpAddr) -> Party {
        match self.addresses.get(&address).map(|proof| proof.owner) {
            Some(Owner::App(app)) => Party::App(app),
            Some(Owner::Several | Owner::Operator) | None => Party::Address(address),
        }
    }
}
