"""The answer of `/attestation.json`, and the statement in it, parsed into types."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Mapping, Optional, Tuple, Union

from . import _json
from ._errors import VerificationError

MAX_BYTES = 1 << 20

_HEX = re.compile(r"(?:[0-9a-f]{2})*")


def _malformed(why: str) -> VerificationError:
    return VerificationError("malformed", why)


def _read(data: Union[bytes, str], what: str) -> Mapping[str, Any]:
    """An object of version 1, from JSON."""
    try:
        found = _object(_json.parse(data), what)
    except _json.DuplicateKeyError as error:
        raise VerificationError("duplicate_key", f"{what}: {error}") from error
    except _json.JsonError as error:
        raise _malformed(f"{what}: {error}") from error
    _version(found, what)
    return found


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _malformed(f"{what} is not an object")
    return value


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str):
        raise _malformed(f"{name} is not text")
    return value


def _hex(found: Mapping[str, Any], name: str, length: Optional[int] = None) -> str:
    value = _text(found, name)
    if not _HEX.fullmatch(value) or (length is not None and len(value) != 2 * length):
        digits = "" if length is None else f"{2 * length} "
        raise _malformed(f"{name} is not {digits}lower-case hexadecimal digits")
    return value


def _number(found: Mapping[str, Any], name: str, bits: int = 64) -> int:
    value = found.get(name)
    if type(value) is not int or not 0 <= value < 1 << bits:
        raise _malformed(f"{name} is not a number of {bits} bits")
    return value


def _list(found: Mapping[str, Any], name: str) -> "list[Any]":
    value = found.get(name)
    if not isinstance(value, list):
        raise _malformed(f"{name} is not a list")
    return value


def _texts(found: Mapping[str, Any], name: str) -> Tuple[str, ...]:
    texts = _list(found, name)
    if not all(isinstance(text, str) for text in texts):
        raise _malformed(f"{name} is not a list of texts")
    return tuple(texts)


def _version(found: Mapping[str, Any], what: str) -> None:
    version = _number(found, "version")
    if version != 1:
        raise VerificationError(
            "unknown_version",
            f"the version of {what} is {version}, and this client knows version 1: update it",
        )


@dataclass(frozen=True)
class RootKeys:
    """The public keys of a root: SHA-256 of the CA's SubjectPublicKeyInfo, and the secp256k1 key, in hexadecimal."""

    ca_spki_sha256: str
    k256_public_key: str


@dataclass(frozen=True)
class Epoch:
    """A root epoch."""

    epoch: int
    state: str
    root: RootKeys


@dataclass(frozen=True)
class Log:
    """The transparency log of a KMS: its name, its key line, and its newest checkpoint (a signed note)."""

    origin: str
    key: str
    checkpoint: str


@dataclass(frozen=True)
class Policy:
    """The policy of a domain: its kind, and the digest of its rules if the kind has one."""

    kind: str
    digest: Optional[str]


@dataclass(frozen=True)
class Statement:
    """What a KMS says of itself. The quote covers every byte of it."""

    time: int
    nonce: Optional[str]
    kms_version: str
    program_sha256: Optional[str]
    name: str
    endpoints: Tuple[str, ...]
    rpc_spki_sha256: str
    root: RootKeys
    epochs: Tuple[Epoch, ...]
    log: Optional[Log]
    policies: Mapping[str, Policy]
    relaxed: Tuple[str, ...]
    # Whether nobody can log in to its machine; None if it does not know that.
    sealed: Optional[bool]


def _root(found: Mapping[str, Any]) -> RootKeys:
    return RootKeys(_hex(found, "ca_spki_sha256", 32), _hex(found, "k256_public_key", 33))


def _optional_hex(found: Mapping[str, Any], name: str, length: int) -> Optional[str]:
    return None if found.get(name) is None else _hex(found, name, length)


def _log(value: Any) -> Optional[Log]:
    if value is None:
        return None
    found = _object(value, "log")
    return Log(_text(found, "origin"), _text(found, "key"), _text(found, "checkpoint"))


def _epoch(value: Any) -> Epoch:
    found = _object(value, "an epoch")
    return Epoch(_number(found, "epoch", 32), _text(found, "state"), _root(found))


def _policy(value: Any) -> Policy:
    found = _object(value, "a policy")
    return Policy(_text(found, "kind"), _optional_hex(found, "digest", 32))


def parse_statement(text: str) -> Statement:
    """A statement of version 1. Fields that this client does not know are ignored.

    Raises:
        VerificationError: `malformed`, `duplicate_key` or `unknown_version`.
    """
    found = _read(text, "the statement")
    sealed = found.get("sealed")
    if "sealed" not in found or not isinstance(sealed, (bool, type(None))):
        raise _malformed("sealed is not true, false or null")
    return Statement(
        time=_number(found, "time"),
        nonce=_optional_hex(found, "nonce", 32),
        kms_version=_text(found, "kms_version"),
        program_sha256=_optional_hex(found, "program_sha256", 32),
        name=_text(found, "name"),
        endpoints=_texts(found, "endpoints"),
        rpc_spki_sha256=_hex(found, "rpc_spki_sha256", 32),
        root=_root(_object(found.get("root"), "root")),
        epochs=tuple(_epoch(epoch) for epoch in _list(found, "epochs")),
        log=_log(found.get("log")),
        policies={
            domain: _policy(policy) for domain, policy in _object(found.get("policies"), "policies").items()
        },
        relaxed=_texts(found, "relaxed"),
        sealed=sealed,
    )


@dataclass(frozen=True)
class RootSignature:
    """A signature of the root CA key over quote and statement."""

    # SubjectPublicKeyInfo, DER.
    ca_spki: bytes
    # ECDSA with SHA-256, r ‖ s.
    signature: bytes


@dataclass(frozen=True)
class Answer:
    """The parts of `/attestation.json`, none of them verified."""

    statement: str
    quote: bytes
    event_log: str
    vm_config: str
    # `QuoteCollateralV3` as an object, or `None` if the KMS had none.
    collateral: Any
    root: Optional[RootSignature]


def _root_signature(value: Any) -> Optional[RootSignature]:
    if value is None:
        return None
    found = _object(value, "root")
    # The length of a P-256 key.
    return RootSignature(
        bytes.fromhex(_hex(found, "ca_spki", 91)), bytes.fromhex(_hex(found, "signature", 64))
    )


def parse_answer(data: Union[bytes, str]) -> Answer:
    """An answer of version 1. Fields that this client does not know are ignored.

    Raises:
        VerificationError: `too_large`, `malformed`, `duplicate_key` or `unknown_version`.
    """
    size = len(data if isinstance(data, bytes) else data.encode("utf-8", "replace"))
    if size > MAX_BYTES:
        raise VerificationError(
            "too_large", f"the answer must have at most {MAX_BYTES} bytes, and has {size}"
        )
    found = _read(data, "the answer")
    return Answer(
        statement=_text(found, "statement"),
        quote=bytes.fromhex(_hex(found, "quote")),
        event_log=_text(found, "event_log"),
        vm_config=_text(found, "vm_config"),
        collateral=found.get("collateral"),
        root=_root_signature(found.get("root")),
    )
