"""The identity of a TDX guest, from its verified quote and the events that replay to RTMR3."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Sequence

from . import _events, _json, _quote
from ._errors import VerificationError

MAX_INIT_SCRIPTS = 5


@dataclass(frozen=True)
class Identity:
    """Who a guest is: from its events, its registers, and a claim of its configuration about the OS image."""

    app_id: bytes
    compose_hash: bytes
    instance_id: bytes
    key_provider: bytes
    mr_system: bytes
    mr_aggregated: bytes
    os_image_hash: bytes


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def _unidentified(why: str) -> VerificationError:
    return VerificationError("identity", f"the evidence names no guest: {why}")


def _os_image_hash(text: str) -> bytes:
    """The image that a VM configuration claims; a guest's system configuration holds that of the VM as text."""
    found: Any = {}
    for _ in range(2):
        try:
            found = _json.parse(text or "{}")
        except _json.JsonError as error:
            raise _unidentified(f"vm_config: {error}") from error
        if not isinstance(found, dict):
            raise _unidentified("vm_config is not an object")
        nested = found.get("vm_config")
        if nested is None or nested == "":
            break
        if not isinstance(nested, str) or "os_image_hash" in found:
            raise _unidentified("vm_config has two layouts")
        text = nested
    else:
        raise _unidentified("vm_config is nested twice")
    value = found.get("os_image_hash", "")
    if not isinstance(value, str) or not re.fullmatch(r"(?:[0-9a-fA-F]{2})*", value):
        raise _unidentified("os_image_hash is not hexadecimal")
    return bytes.fromhex(value)


def read(quote: _quote.VerifiedQuote, events: Sequence[_events.RuntimeEvent], vm_config: str) -> Identity:
    """Who the guest is.

    `mr_system = SHA-256(MRTD ‖ RTMR0 ‖ RTMR1 ‖ RTMR2 ‖ mr_key_provider)`;
    `mr_aggregated = SHA-256(MRTD ‖ RTMR0 ‖ RTMR1 ‖ RTMR2 ‖ RTMR3 [‖ MRCONFIGID ‖ MROWNER ‖ MROWNERCONFIG])`,
    with the last three if any of them is not zero.
    """

    scripts = _events.payloads(events, "init-script-hash")
    if len(scripts) > MAX_INIT_SCRIPTS or any(len(script) != 32 for script in scripts):
        raise _unidentified(f"init-script-hash must be there at most {MAX_INIT_SCRIPTS} times, with 32 bytes")
    key_provider = _events.first_payload(events, "key-provider")
    mr_key_provider = sha256(key_provider) if key_provider else bytes(32)
    boot = quote.mr_td + quote.rt_mr0 + quote.rt_mr1 + quote.rt_mr2
    launch = quote.mr_config_id + quote.mr_owner + quote.mr_owner_config
    return Identity(
        app_id=_events.first_payload(events, "app-id"),
        compose_hash=_events.first_payload(events, "compose-hash"),
        instance_id=_events.first_payload(events, "instance-id"),
        key_provider=key_provider,
        mr_system=sha256(boot, mr_key_provider),
        mr_aggregated=sha256(boot, quote.rt_mr3, launch if any(launch) else b""),
        os_image_hash=_os_image_hash(vm_config),
    )
