//! Halves of invitations: the requester of a new secret gets one, and the owner who approves it the other. Neither of them can
//! activate it alone.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::control::INVITATION;

/// The most halves that wait for their requesters.
const MAX_HALVES: usize = 64;

/// The halves of requesters, in memory only, until their invitations lapse.
#[derive(Default)]
pub(super) struct Halves(Mutex<VecDeque<Half>>);

struct Half {
    /// The request.
    id: String,
    text: Zeroizing<String>,
    until: Instant,
}

impl Halves {
    /// Keeps the first half for the requester, with name and prefix, and returns the second one: one after the other they are
    /// the invitation. Each half has as many digits of the secret.
    pub(super) fn split(&self, id: &str, invitation: &str) -> Zeroizing<String> {
        let secret = invitation.rfind('_').map_or(0, |at| at + 1);
        let middle = invitation.floor_char_boundary(secret + (invitation.len() - secret) / 2);
        let (first, second) = invitation.split_at(middle);
        let mut halves = self.waiting();
        if halves.len() >= MAX_HALVES {
            halves.pop_front();
        }
        let until = Instant::now() + Duration::from_secs(INVITATION);
        halves.push_back(Half { id: id.to_owned(), text: Zeroizing::new(first.to_owned()), until });
        Zeroizing::new(second.to_owned())
    }

    /// The half of the requester of `id`.
    pub(super) fn of_requester(&self, id: &str) -> Option<Zeroizing<String>> {
        self.waiting().iter().find(|half| half.id == id).map(|half| half.text.clone())
    }

    /// The halves whose invitations have not lapsed.
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Half>> {
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        halves.retain(|half| now < half.until);
        halves
    }
}

impl std::fmt::Debug for Halves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Halves").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_half_has_more_of_the_secret() {
        let halves = Halves::default();
        let secret = "0123456789abcdef".repeat(4);
        let invitation = format!("ckms_a.b_{secret}");
        let second = halves.split("1", &invitation);
        let first = halves.of_requester("1").expect("a half");
        assert_eq!(format!("{}{}", first.as_str(), second.as_str()), invitation);
        assert_eq!((first.as_str(), second.as_str()), (&invitation[..41], &secret[32..]));
        assert_eq!(halves.of_requester("2"), None);
        (0..MAX_HALVES).for_each(|number| drop(halves.split(&format!("x{number}"), &invitation)));
        assert_eq!(halves.of_requester("1"), None, "they are bounded");
    }
}
