//! An allowlist in memory, without a file.

use std::sync::Arc;

use crate::decision::{Decision, Subject};
use crate::drop_in_background::drop_in_background;
use crate::rules::Rules;
use crate::rules::RulesError;
use crate::settings::EmptyDevices;

/// The rules of an `auth-config.json`, and the meaning of an empty device list.
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

    /// Decides about `subject`.
    pub fn decide(&self, subject: Subject<'_>) -> Decision {
        self.rules.decide(subject, self.empty_devices)
    }

    /// How much it allows.
    pub fn summary(&self) -> String {
        self.rules.summary()
    }
}

impl Drop for Ruleset {
    /// Freeing the rules of a hundred thousand apps takes long, so it happens in the background.
    fn drop(&mut self) {
        drop_in_background(Arc::clone(&self.rules));
    }
}
