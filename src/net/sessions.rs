//! Resumable TLS sessions, bounded by memory because a guest's session holds its certificate.

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use rustls::server::StoresServerSessions;

/// The memory of all sessions in bytes: about 200 sessions of guests, or [`MAX_SESSIONS`] without client
/// certificates.
const MAX_BYTES: u64 = 2 * 1024 * 1024;
/// The most sessions, the same number as the peer keeps.
const MAX_SESSIONS: u64 = 1024;

/// The most recent and most used sessions by id.
#[derive(Debug)]
pub(super) struct Sessions(Cache<Vec<u8>, Box<[u8]>, Bytes>);

/// Weighs a session by its bytes.
#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Vec<u8>, Box<[u8]>> for Bytes {
    fn weight(&self, _: &Vec<u8>, session: &Box<[u8]>) -> u64 {
        (session.len() as u64).max(MAX_BYTES / MAX_SESSIONS)
    }
}

impl Sessions {
    pub(super) fn new() -> Self {
        // The initial capacity.
        Self(Cache::with_weighter(64, MAX_BYTES, Bytes))
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, id: Vec<u8>, session: Vec<u8>) -> bool {
        // rustls grows the vector by doubling, so up to half of it is unused.
        self.0.insert(id, session.into_boxed_slice());
        true
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.0.get(id).map(Vec::from)
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.0.remove(id).map(|(_, session)| session.into_vec())
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_taken_once() {
        let sessions = Sessions::new();
        assert!(sessions.can_cache() && sessions.put(b"id".to_vec(), b"session".to_vec()));
        assert_eq!(sessions.get(b"id").as_deref(), Some(&b"session"[..]));
        assert_eq!(sessions.take(b"id").as_deref(), Some(&b"session"[..]));
        assert_eq!((sessions.take(b"id"), sessions.get(b"id")), (None, None));
    }

    #[test]
    fn sessions_are_bounded_by_their_bytes_and_their_number() {
        for length in [1, 200, 9000, 60_000] {
            let sessions = Sessions::new();
            for number in 0..5000_u32 {
                sessions.put(number.to_be_bytes().to_vec(), vec![0; length]);
            }
            let kept = sessions.0.len() as u64;
            assert!(kept <= MAX_SESSIONS, "{kept} of {length} bytes");
            assert!(kept * length as u64 <= MAX_BYTES, "{kept} of {length} bytes");
            assert!(kept > 0, "{length} bytes");
        }
    }
}
