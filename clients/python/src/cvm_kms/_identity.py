"""The identity of a TDX guest, from its verified quote and the events that replay to RTMR3."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, Sequence

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


def _is_unsigned(bits: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and 0 <= value < 1 << bits


def _is_optional(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_hex(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(?:[0-9a-fA-F]{2})*", value) is not None


def _is_base64(value: Any) -> bool:
    try:
        return isinstance(value, str) and base64.b64decode(value, validate=True) is not None
    except ValueError:
        return False


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and _is_optional(_is_unsigned(8))(value.get("pxb_bus"))


def _is_measurement(value: Any) -> bool:
    parts = ("checksum_file", "measurement")
    return isinstance(value, dict) and all(_is_base64(value.get(part)) for part in parts)


# The keys that only a VM configuration has, and what their values must be. Others are ignored.
_OF_A_VM: Dict[str, Callable[[Any], bool]] = {
    "os_image_hash": _is_hex,
    "cpu_count": _is_unsigned(32),
    "memory_size": _is_unsigned(64),
    "qemu_single_pass_add_pages": _is_optional(_is_flag),
    "pic": _is_optional(_is_flag),
    "qemu_version": _is_optional(_is_text),
    "pci_hole64_size": _is_unsigned(64),
    "hugepages": _is_flag,
    "numa_nodes": lambda value: isinstance(value, list) and all(map(_is_node, value)),
    "num_gpus": _is_unsigned(32),
    "num_nvswitches": _is_unsigned(32),
    "num_nics": _is_unsigned(32),
    "num_verity_volumes": _is_unsigned(32),
    "extra_root_devices": lambda value: isinstance(value, list),
    "swtpm": _is_flag,
    "hotplug_off": _is_flag,
    "image": _is_optional(_is_text),
    "host_share_mode": _is_text,
    "ovmf_variant": lambda value: value in (None, "pre202505"),
    "tdx_attestation_variant": lambda value: value in ("legacy", "lite"),
    "tdx_measurement": _is_optional(_is_measurement),
    "gcp_measurement": _is_optional(_is_measurement),
    "aws_measurement": _is_optional(_is_measurement),
    "sev_snp_measurement": lambda value: True,
}


def _object(text: str) -> Dict[str, Any]:
    try:
        found = _json.parse(text)
    except _json.JsonError as error:
        raise _unidentified(f"vm_config: {error}") from error
    if not isinstance(found, dict):
        raise _unidentified("vm_config is not an object")
    return found


def _vm_config(text: str) -> Dict[str, Any]:
    """A VM configuration. A guest's system configuration holds that of the VM as text; then it has no key of a VM itself."""
    found = _object(text or "{}")
    nested = found.get("vm_config")
    if nested is not None and nested != "":
        if not isinstance(nested, str) or any(key in _OF_A_VM for key in found):
            raise _unidentified("vm_config has two layouts")
        found = _object(nested)
        if found.get("vm_config") not in (None, ""):
            raise _unidentified("vm_config is nested twice")
    for key, is_right in _OF_A_VM.items():
        if key in found and not is_right(found[key]):
            raise _unidentified(f"{key} of vm_config has another form")
    return found


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
        os_image_hash=bytes.fromhex(_vm_config(vm_config).get("os_image_hash", "")),
    )
