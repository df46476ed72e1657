"""The event log of a TDX guest: its runtime events, and the register that they replay to."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Iterator, List, Optional, Sequence

from . import _json

RUNTIME_EVENT_TYPE = 0x0800_0001
RUNTIME_REGISTER = 3
# After this event apps may extend the register with any name: later events carry no identity.
SYSTEM_READY = "system-ready"
# As the KMS itself limits the evidence of its callers.
MAX_EVENTS = 4096

_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*")


class MalformedLog(ValueError):
    """The event log is not one."""


class EventError(ValueError):
    """The events are not those that were measured."""


@dataclass(frozen=True)
class RuntimeEvent:
    """An event that the guest extended into RTMR3."""

    name: str
    payload: bytes
    version: int

    def preimage(self) -> bytes:
        """What the digest covers.

        Version 1: `u32le(type) ‖ ":" ‖ name ‖ ":" ‖ payload`.
        Version 2: the canonical JSON (RFC 8785) of `{"name": …, "payload": hex, "type": …}`.
        """
        if self.version == 1:
            kind = RUNTIME_EVENT_TYPE.to_bytes(4, "little")
            return b":".join([kind, self.name.encode(), self.payload])
        fields = {"name": self.name, "payload": self.payload.hex(), "type": RUNTIME_EVENT_TYPE}
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()

    def digest(self) -> bytes:
        """SHA-384 of the preimage."""
        return hashlib.sha384(self.preimage()).digest()


@dataclass(frozen=True)
class Entry:
    """A runtime event as the log has it. Only a replay shows that it was measured."""

    event: RuntimeEvent
    imr: int
    # The digest that the log states; empty in a stripped log.
    digest: bytes
    # The preimage of the digest, hexadecimal, if the guest agent added it.
    preimage: Optional[str]

    def check(self, index: int) -> None:
        """Requires that digest and preimage are the event's own, as far as they are there.

        Raises:
            EventError: with the position in the log.
        """
        if self.imr != RUNTIME_REGISTER:
            raise EventError(f"runtime event {index} is of register {self.imr}, not {RUNTIME_REGISTER}")
        if self.digest and self.digest != self.event.digest():
            raise EventError(f"the digest of runtime event {index} is not that of its name and payload")
        if self.preimage is None:
            if self.event.version == 2 and self.digest:
                raise EventError(f"runtime event {index} of version 2 has no preimage")
        elif not _HEX.fullmatch(self.preimage) or bytes.fromhex(self.preimage) != self.event.preimage():
            raise EventError(f"the preimage of runtime event {index} is not its canonical form")


def _hex(value: Any, what: str) -> bytes:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise MalformedLog(f"{what} of an event is not hexadecimal")
    return bytes.fromhex(value)


def _number(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value <= 0xFFFF_FFFF:
        raise MalformedLog(f"{what} of an event is not a number of 32 bits")
    return value


def _entry(index: int, value: Any) -> Optional[Entry]:
    """An entry of the log; `None` if it is not a runtime event."""
    if not isinstance(value, dict):
        raise MalformedLog(f"event {index} is not an object")
    imr = _number(value.get("imr"), "imr")
    kind = _number(value.get("event_type"), "event_type")
    name = value.get("event")
    if not isinstance(name, str):
        raise MalformedLog(f"event {index} has no name")
    digest = _hex(value.get("digest", ""), "digest")
    payload = _hex(value.get("event_payload"), "event_payload")
    version = value.get("version", 1)
    if type(version) is not int or version not in (1, 2):
        raise MalformedLog(f"the version of event {index} is neither 1 nor 2")
    preimage = value.get("preimage")
    if preimage is not None and not isinstance(preimage, str):
        raise MalformedLog(f"the preimage of event {index} is not text")
    if kind != RUNTIME_EVENT_TYPE:
        return None
    return Entry(RuntimeEvent(name, payload, version), imr, digest, preimage)


def _system(events: Sequence[RuntimeEvent]) -> Iterator[RuntimeEvent]:
    for event in events:
        if event.name == SYSTEM_READY:
            return
        yield event


def parse(text: str) -> List[Entry]:
    """The runtime events of an event log in its JSON form: an array of objects with `imr`, `event_type`, `digest`,
    `event` and `event_payload`, and possibly `version` and `preimage`.

    Raises:
        MalformedLog: with the reason.
    """
    try:
        log = _json.parse(text)
    except _json.JsonError as error:
        raise MalformedLog(str(error)) from error
    if not isinstance(log, list):
        raise MalformedLog("the event log is not an array")
    if len(log) > MAX_EVENTS:
        raise MalformedLog(f"the event log must have at most {MAX_EVENTS} events, and has {len(log)}")
    found = (_entry(index, value) for index, value in enumerate(log))
    return [entry for entry in found if entry is not None]


def measured(entries: Sequence[Entry], register: bytes) -> List[RuntimeEvent]:
    """The events, if they replay to `register`, RTMR3 of a quote. Their names and payloads are then as measured.

    If there are events of version 2, digests and preimages of all must be their own, as the KMS demands of its callers.

    Raises:
        EventError: they are others, or the name of an event of version 1 before `system-ready` has a colon, because its
            digest does not say where the name ends.
    """
    events = [entry.event for entry in entries]
    if any(event.version == 1 and ":" in event.name for event in _system(events)):
        raise EventError("the name of a runtime event must not contain a colon")
    replayed = replay(events)
    if replayed != register:
        raise EventError(f"RTMR3 mismatch, quoted: {register.hex()}, replayed: {replayed.hex()}")
    if any(event.version == 2 for event in events):
        for index, entry in enumerate(entries):
            entry.check(index)
    return events


def replay(events: Sequence[RuntimeEvent]) -> bytes:
    """RTMR3 after these events: `mr₀ = 0⁴⁸, mr := SHA-384(mr ‖ digest)`."""
    register = bytes(48)
    for event in events:
        register = hashlib.sha384(register + event.digest()).digest()
    return register


def first_payload(events: Sequence[RuntimeEvent], name: str) -> bytes:
    """The payload of the first event with this name before the first `system-ready`; empty without one."""
    return next((event.payload for event in _system(events) if event.name == name), b"")


def payloads(events: Sequence[RuntimeEvent], name: str) -> List[bytes]:
    """The payloads of the events with this name before the first `system-ready`."""
    return [event.payload for event in _system(events) if event.name == name]
