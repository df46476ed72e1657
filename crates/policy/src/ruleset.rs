//! An allowlist in memory: parsed once, and decided by without a file.

use std::sync::Arc;

use crate::decision::{Decision, Subject};
use crate::drop_in_background::drop_in_background;
use crate::rules::Rules;
use crate::rules::RulesError;
use crate::settings::EmptyDevices;

/// The rules of an `auth-config.json`, with what an empty device list means.
pub struct Ruleset {
    rules: Arc<Rules>,
    empty_devices: EmptyDevices,
}

impl Ruleset {
    /// Parses a text. Ten thousand apps take tens of milliseconds.
    ///
    /// # Errors
    /// [`RulesError`]
    pub fn parse(json: &[u8], empty_devices: EmptyDevices) -> Result<Self, RulesError> {
        Ok(Self { rules: Arc::new(Rules::parse(json)?), empty_devices })
    }

    /// How it judges `subject`.
    pub fn decide(&self, subject: Subject<'_>) -> Decision {
        self.rules.decide(subject, self.empty_devices)
    }

    /// How much it allows.
    pub fn summary(&self) -> String {
        self.rules.summary()
    }
}

impl Drop for Ruleset {
    /// Freeing the rules of a hundred thousand apps takes a while, which the last user does not wait for.
    fn drop(&mut self) {
        drop_in_background(Arc::clone(&self.rules));
    }
}
