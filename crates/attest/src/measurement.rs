//! Runtime events: their digests, the registers that they replay to, and their payloads.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256, Sha384};

/// The event type of runtime events of both versions.
pub const RUNTIME_EVENT_TYPE: u32 = 0x0800_0001;

/// The RTMR that runtime events extend.
pub const RUNTIME_REGISTER: u32 = 3;

/// The event at which the system stops measuring its boot.
pub const BOOT_MR_DONE: &str = "boot-mr-done";

/// The event after which the app may extend the register with any name: later events carry no identity.
pub const SYSTEM_READY: &str = "system-ready";

/// How an event's digest is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventVersion {
    /// `SHA-384(u32le(type) ‖ ":" ‖ name ‖ ":" ‖ payload)`
    #[default]
    V1,
    /// `SHA-384(JCS({"name": name, "payload": hex(payload), "type": type}))`
    V2,
}

impl EventVersion {
    fn is_v1(&self) -> bool {
        *self == Self::V1
    }

    /// The number on the wire.
    pub fn number(self) -> u64 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    /// The version with this number.
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::V1),
            2 => Some(Self::V2),
            _ => None,
        }
    }
}

impl Serialize for EventVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.number())
    }
}

impl<'de> Deserialize<'de> for EventVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        Self::from_number(number)
            .ok_or_else(|| serde::de::Error::custom(format!("event version must be 1 or 2, got {number}")))
    }
}

/// An event that the guest extended into RTMR3 (PCR14 with a TPM). In its JSON form, a line of the guest's
/// log, the payload is base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeEvent {
    /// Name.
    pub event: String,
    /// The event's data.
    #[serde(with = "base64_text")]
    pub payload: Vec<u8>,
    /// How the digest is computed.
    #[serde(default, skip_serializing_if = "EventVersion::is_v1")]
    pub version: EventVersion,
}

impl RuntimeEvent {
    /// The bytes that are hashed into the digest.
    pub fn preimage(&self) -> Vec<u8> {
        match self.version {
            EventVersion::V1 => {
                let kind = RUNTIME_EVENT_TYPE.to_le_bytes();
                [&kind, b":".as_slice(), self.event.as_bytes(), b":", &self.payload].concat()
            }
            EventVersion::V2 => {
                #[derive(Serialize)]
                struct Canonical<'a> {
                    name: &'a str,
                    payload: String,
                    #[serde(rename = "type")]
                    kind: u32,
                }
                let payload = hex::encode(&self.payload);
                let canonical = Canonical { name: &self.event, payload, kind: RUNTIME_EVENT_TYPE };
                serde_jcs::to_vec(&canonical).expect("two texts and a number have a canonical form")
            }
        }
    }

    /// The digest that extends RTMR3, and PCR14 on AWS.
    pub fn sha384_digest(&self) -> [u8; 48] {
        Sha384::digest(self.preimage()).into()
    }

    /// The digest that extends PCR14 on GCP.
    pub fn sha256_digest(&self) -> [u8; 32] {
        Sha256::digest(self.preimage()).into()
    }

    /// The event as an entry of the TDX event log.
    pub fn to_tdx_event(&self) -> TdxEvent {
        TdxEvent {
            imr: RUNTIME_REGISTER,
            event_type: RUNTIME_EVENT_TYPE,
            digest: self.sha384_digest().to_vec(),
            event: self.event.clone(),
            event_payload: self.payload.clone(),
            version: self.version,
            preimage: None,
        }
    }

    /// The same entry with the digest's preimage, as in the guest agent's `Attest` response.
    pub fn to_tdx_event_with_preimage(&self) -> TdxEvent {
        TdxEvent { preimage: Some(hex::encode(self.preimage())), ..self.to_tdx_event() }
    }
}

/// An entry of the TDX event log, a runtime event or not. Its JSON form has bytes in hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TdxEvent {
    /// The RTMR, from 0.
    pub imr: u32,
    /// [`RUNTIME_EVENT_TYPE`], or a TCG event type.
    pub event_type: u32,
    /// The digest that extended the register; empty in a stripped log.
    #[serde(default, with = "hex::serde")]
    pub digest: Vec<u8>,
    /// Name.
    pub event: String,
    /// The measured data.
    #[serde(with = "hex::serde")]
    pub event_payload: Vec<u8>,
    /// How a runtime event's digest is computed.
    #[serde(default, skip_serializing_if = "EventVersion::is_v1")]
    pub version: EventVersion,
    /// The digest's preimage in hex, if the guest agent added it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preimage: Option<String>,
}

impl TdxEvent {
    /// Whether this is a runtime event. As in the peer, the register does not matter.
    pub fn is_runtime(&self) -> bool {
        self.event_type == RUNTIME_EVENT_TYPE
    }

    fn is_v2(&self) -> bool {
        self.is_runtime() && self.version == EventVersion::V2
    }

    /// The entry as a runtime event. The caller has checked that it is one.
    fn to_runtime_event(&self) -> RuntimeEvent {
        RuntimeEvent { event: self.event.clone(), payload: self.event_payload.clone(), version: self.version }
    }
}

/// The runtime events of a TDX event log, in order.
pub fn runtime_events_of(log: &[TdxEvent]) -> Vec<RuntimeEvent> {
    let runtime = log.iter().filter(|entry| entry.is_runtime());
    runtime.map(TdxEvent::to_runtime_event).collect()
}

/// The guest's stage when the evidence was made. RTMR3 is only ever extended, so evidence of a later stage
/// cannot pass as evidence of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Before `system-ready`: the guest's system is booting and no app runs.
    Boot,
    /// After `system-ready`: apps run, and any process that reaches the guest agent can obtain evidence.
    Running,
}

impl Stage {
    /// The stage after these events.
    pub fn of(events: &[RuntimeEvent]) -> Self {
        match events.iter().any(|event| event.event == SYSTEM_READY) {
            true => Self::Running,
            false => Self::Boot,
        }
    }

    /// The name: `boot` or `running`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Running => "running",
        }
    }
}

/// Which events a replay includes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Up to and including the first `boot-mr-done`; all if there is none.
    BootMrDone,
    /// All.
    End,
}

fn replayed(events: &[RuntimeEvent], until: Until) -> &[RuntimeEvent] {
    let boot_end = events.iter().position(|event| event.event == BOOT_MR_DONE);
    match (until, boot_end) {
        (Until::BootMrDone, Some(last)) => &events[..=last],
        (Until::BootMrDone, None) | (Until::End, _) => events,
    }
}

/// RTMR3 after these events: `mr₀ = 0⁴⁸, mr := SHA-384(mr ‖ digest)`.
pub fn replay_rtmr3(events: &[RuntimeEvent], until: Until) -> [u8; 48] {
    replayed(events, until).iter().fold([0; 48], |register, event| {
        Sha384::new().chain_update(register).chain_update(event.sha384_digest()).finalize().into()
    })
}

/// PCR14 of a GCP guest after these events: `mr₀ = 0³², mr := SHA-256(mr ‖ digest)`.
pub fn replay_pcr14_sha256(events: &[RuntimeEvent], until: Until) -> [u8; 32] {
    replayed(events, until).iter().fold([0; 32], |register, event| {
        Sha256::new().chain_update(register).chain_update(event.sha256_digest()).finalize().into()
    })
}

/// PCR14 of an AWS NitroTPM guest after these events: computed like RTMR3.
pub fn replay_pcr14_sha384(events: &[RuntimeEvent], until: Until) -> [u8; 48] {
    replay_rtmr3(events, until)
}

/// The payloads of the events with this name before the first `system-ready`.
pub fn payloads<'a>(events: &'a [RuntimeEvent], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let system = events.iter().take_while(|event| event.event != SYSTEM_READY);
    system.filter(move |event| event.event == name).map(|event| event.payload.as_slice())
}

/// The payload of the first event with this name before the first `system-ready`; empty if there is no such
/// event.
pub fn first_payload<'a>(events: &'a [RuntimeEvent], name: &'a str) -> &'a [u8] {
    payloads(events, name).next().unwrap_or_default()
}

/// Why runtime events are refused. `index` is the position in the event log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreimageError {
    /// A V2 event without a preimage: the evidence is not from `Attest`.
    #[error("V2 runtime event {index} is missing its digest preimage")]
    Missing {
        /// Position in the log.
        index: usize,
    },
    /// The preimage is not hex.
    #[error("the digest preimage of V2 runtime event {index} is not hex")]
    NotHex {
        /// Position in the log.
        index: usize,
    },
    /// The preimage does not hash to the digest. In the peer also the error for a stripped log, whose digests
    /// are empty.
    #[error("V2 runtime event {index} digest does not match its preimage")]
    DigestMismatch {
        /// Position in the log.
        index: usize,
    },
    /// The preimage hashes to the digest but differs from the event's canonical form.
    #[error("V2 runtime event {index} preimage is not the canonical event representation")]
    NotCanonical {
        /// Position in the log.
        index: usize,
    },
    /// A stripped V2 event that differs from the event at its position in the replay, so nothing binds it.
    #[error("V2 runtime event {index} has no digest and is not among the events that replay to the register")]
    NotReplayed {
        /// Position in the log.
        index: usize,
    },
    /// A runtime event of either version that differs from the event at its position in the replay.
    #[error("runtime event {index} is not the one that replays to the register at its place")]
    NotMeasured {
        /// Position in the log.
        index: usize,
    },
    /// The log has fewer runtime events than the replay.
    #[error("the event log has {logged} runtime events, and {replayed} replay to the register")]
    Fewer {
        /// Number of runtime events in the log.
        logged: usize,
        /// Number of replayed events.
        replayed: usize,
    },
}

/// Checks that each V2 runtime event of the log has a preimage that hashes to its digest and is its canonical
/// form. This is the peer's check.
pub fn validate_v2_preimages(log: &[TdxEvent]) -> Result<(), PreimageError> {
    let mut v2 = log.iter().enumerate().filter(|(_, entry)| entry.is_v2());
    v2.try_for_each(|(index, entry)| validate_v2_preimage(index, entry))
}

fn validate_v2_preimage(index: usize, entry: &TdxEvent) -> Result<(), PreimageError> {
    let preimage = decoded_preimage(index, entry)?.ok_or(PreimageError::Missing { index })?;
    if Sha384::digest(&preimage).as_slice() != entry.digest {
        return Err(PreimageError::DigestMismatch { index });
    }
    is_canonical(index, &preimage, &entry.to_runtime_event())
}

/// The check of [`validate_v2_preimages`], and the runtime events of the log must equal `replayed`, the
/// events that replay to RTMR3: same names, payloads and versions in the same order, with their digests
/// unless stripped. A stripped event needs no preimage; if it has one, it must be the canonical form.
///
/// A log with V1 events only and a log without runtime events are not compared: nothing is read from them,
/// and the peer accepts them.
pub fn validate_v2_events(log: &[TdxEvent], replayed: &[RuntimeEvent]) -> Result<(), PreimageError> {
    let has_v2 =
        log.iter().any(TdxEvent::is_v2) || replayed.iter().any(|event| event.version == EventVersion::V2);
    let runtime: Vec<(usize, &TdxEvent)> =
        log.iter().enumerate().filter(|(_, entry)| entry.is_runtime()).collect();
    if !has_v2 || runtime.is_empty() {
        return Ok(());
    }
    let mut measured = replayed.iter();
    for (index, entry) in &runtime {
        validate_measured(*index, entry, measured.next())?;
    }
    match measured.len() {
        0 => Ok(()),
        _ => Err(PreimageError::Fewer { logged: runtime.len(), replayed: replayed.len() }),
    }
}

/// Checks an entry against the replayed event at its position.
fn validate_measured(
    index: usize,
    entry: &TdxEvent,
    measured: Option<&RuntimeEvent>,
) -> Result<(), PreimageError> {
    let is_stripped = entry.digest.is_empty();
    if entry.is_v2() && !is_stripped {
        validate_v2_preimage(index, entry)?;
    }
    let event = entry.to_runtime_event();
    if measured != Some(&event) || entry.imr != RUNTIME_REGISTER {
        return Err(match entry.is_v2() && is_stripped {
            true => PreimageError::NotReplayed { index },
            false => PreimageError::NotMeasured { index },
        });
    }
    if !is_stripped && entry.digest != event.sha384_digest() {
        return Err(PreimageError::NotMeasured { index });
    }
    match decoded_preimage(index, entry)? {
        Some(preimage) => is_canonical(index, &preimage, &event),
        None => Ok(()),
    }
}

fn decoded_preimage(index: usize, entry: &TdxEvent) -> Result<Option<Vec<u8>>, PreimageError> {
    let preimage = entry.preimage.as_ref().map(hex::decode);
    preimage.transpose().map_err(|_| PreimageError::NotHex { index })
}

fn is_canonical(index: usize, preimage: &[u8], event: &RuntimeEvent) -> Result<(), PreimageError> {
    match preimage == event.preimage() {
        true => Ok(()),
        false => Err(PreimageError::NotCanonical { index }),
    }
}

/// Serde for bytes as standard base64.
pub(crate) mod base64_text {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        BASE64_STANDARD.decode(text.as_bytes()).map_err(|_| D::Error::custom("not base64"))
    }
}

#[cfg(test)]
mod tests;
