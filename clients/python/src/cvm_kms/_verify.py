"""Verification of an attestation: a pure function of the answer, the pins, the accepted statuses, a root and a time."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Collection, List, Mapping, Optional, Tuple, Union

import dcap_qvl
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509 import InvalidVersion, load_der_x509_certificate, load_pem_x509_certificates

from . import _events, _identity, _quote
from ._answer import Answer, Statement, parse_answer, parse_statement
from ._collateral import Collateral
from ._errors import KeyMismatchError, PinsError, VerificationError
from ._identity import Identity, sha256
from ._pins import Pins, PinsLike

LABEL = b"cvm-kms-attestation:"
ROOT_LABEL = b"cvm-kms-attestation-root:"
UP_TO_DATE = ("UpToDate",)
# How old a statement may be by default, and how far ahead of the clock it may be, seconds.
MAX_AGE = 600
MAX_AHEAD = 300
ROOT_PIN = "root_ca_spki_sha256"
DEFAULT_DOMAIN = "default"

_NONCE = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Attestation:
    """What was proved. Byte strings are in lower-case hexadecimal."""

    statement: Statement
    app_id: str
    compose_hash: str
    instance_id: str
    key_provider: str
    device_id: str
    mr_system: str
    mr_aggregated: str
    # A claim of the VM's configuration.
    os_image_hash: str
    tcb_status: str
    advisory_ids: Tuple[str, ...]
    fmspc: str
    # Unix seconds until which the collateral is valid.
    collateral_expires: int
    # Unix seconds at which this was judged.
    judged_at: int
    # The names of the pins that were compared, in a fixed order.
    pins: Tuple[str, ...]
    # Whether the statement has the caller's nonce, so that it was made after the caller asked.
    fresh: bool
    # Whether the root CA key signed the quote, so that this is the KMS that has the root keys.
    signed_by_root: bool

    def check_tls_key(self, spki: bytes) -> None:
        """Requires that a TLS server has the attested key.

        Args:
            spki: SubjectPublicKeyInfo (DER) of its certificate.

        Raises:
            KeyMismatchError: `tls_key`.
        """
        shown = hashlib.sha256(spki).hexdigest()
        if not hmac.compare_digest(shown, self.statement.rpc_spki_sha256):
            raise KeyMismatchError(
                "tls_key",
                "the server's TLS key is not the one that the quote proves: another program answers at this address",
            )


def _compare_pins(pins: Pins, identity: Identity, statement: Statement) -> None:
    policy = statement.policies.get(DEFAULT_DOMAIN)
    shown: Mapping[str, Optional[str]] = {
        "root_ca_spki_sha256": statement.root.ca_spki_sha256,
        "k256_public_key": statement.root.k256_public_key,
        "mr_aggregated": identity.mr_aggregated.hex(),
        "os_image_hash": identity.os_image_hash.hex(),
        "compose_hash": identity.compose_hash.hex(),
        "app_id": identity.app_id.hex(),
        "log_key": statement.log.key if statement.log else None,
        "policy_digest": policy.digest if policy else None,
    }
    for name, allowed in pins.items():
        value = shown[name]
        if value not in allowed:
            raise VerificationError(
                "pin_mismatch", f"{name} is {value or 'missing'}, which is not pinned", pin=name
            )


def seconds(now: Union[int, float, datetime, None]) -> int:
    """Unix seconds.

    Raises:
        PinsError: if that is no time, or a time without a zone.
    """
    if now is None:
        return int(time.time())
    if isinstance(now, datetime):
        if now.tzinfo is None:
            raise PinsError("argument", "now must have a time zone")
        now = now.timestamp()
    if isinstance(now, bool) or not isinstance(now, (int, float)) or not 0 <= now < 1 << 53:
        raise PinsError("argument", "now must be Unix seconds")
    return int(now)


def accepted_statuses(statuses: Collection[str]) -> Tuple[str, ...]:
    """Accepted TCB statuses by Intel's names.

    Raises:
        PinsError: `argument`, if that is no list of texts.
    """
    found = (statuses,) if isinstance(statuses, str) else tuple(statuses)
    if not found or not all(isinstance(status, str) for status in found):
        raise PinsError("argument", "tcb_statuses must be names of TCB statuses, at least one")
    return found


def trusted_root(root_ca: Optional[bytes]) -> Optional[bytes]:
    """A root certificate as DER, from PEM or DER.

    Raises:
        PinsError: `argument`, if it is not exactly one certificate.
    """
    if root_ca is None:
        return None
    try:
        is_pem = root_ca.lstrip().startswith(b"-----BEGIN")
        found = load_pem_x509_certificates(root_ca) if is_pem else [load_der_x509_certificate(root_ca)]
        (certificate,) = found
    except (AttributeError, TypeError, ValueError, InvalidVersion) as error:
        raise PinsError("argument", "root_ca must be one certificate, DER or PEM, as bytes") from error
    return certificate.public_bytes(Encoding.DER)


def verify(
    answer: Union[bytes, str],
    pins: PinsLike,
    *,
    now: Union[int, float, datetime, None] = None,
    nonce: Optional[str] = None,
    max_age: Optional[float] = MAX_AGE,
    tcb_statuses: Collection[str] = UP_TO_DATE,
    root_ca: Optional[bytes] = None,
) -> Attestation:
    """Verifies the answer of `/attestation.json`, also a saved one.

    In this order: the pins; the format; that the quote covers the statement; that the TD is isolated; the collateral; that the
    events replay to RTMR3; the quote and its TCB status; the signature of the root; nonce and time; the pinned values. Nothing
    that the KMS says of itself is compared before the quote is known to cover it.

    Args:
        answer: the body.
        pins: names and values; see `Pins`.
        now: the time of the verdict, Unix seconds or a `datetime` with a zone; without it the current time.
        nonce: 32 bytes in hexadecimal that the statement must have, because the caller sent them.
        max_age: how old the statement may be, seconds; `None` is any age. The collateral expires in any case.
        tcb_statuses: accepted TCB statuses by Intel's names. `Revoked` is never accepted.
        root_ca: another root than Intel's (DER or PEM), for simulated platforms.

    Raises:
        PinsError: an argument is wrong.
        VerificationError: with the first check that fails.
    """
    wanted = Pins.parse(pins)
    judged_at = seconds(now)
    accepted = accepted_statuses(tcb_statuses)
    root = trusted_root(root_ca)
    if nonce is not None and not _NONCE.fullmatch(nonce):
        raise PinsError("argument", "nonce must be 32 bytes in lower-case hexadecimal")
    parts = parse_answer(answer)
    parsed = _quote.parse(parts.quote)
    entries = _entries(parts.event_log)
    expected = hashlib.sha512(LABEL + parts.statement.encode()).digest()
    if not hmac.compare_digest(expected, _report_data(parsed)):
        raise VerificationError("report_data", "the quote is not over this statement")
    _quote.check_isolation(parsed)
    if parts.collateral is None:
        raise VerificationError(
            "collateral_missing", "the answer has no collateral for its quote; ask again later"
        )
    collateral = Collateral.parse(parts.collateral)
    collateral.check(parsed, judged_at)
    try:
        events = _events.measured(entries, _rtmr3(parsed))
    except _events.EventError as error:
        raise VerificationError(
            "event_log", f"the event log is not what the quote measured: {error}"
        ) from error
    quote = _quote.verify(parts.quote, collateral, root, judged_at, accepted)
    # What was compared above is what the verifier read.
    if quote.report_data != expected or quote.rt_mr3 != _rtmr3(parsed):
        raise VerificationError("quote", "the quote has two readings")
    identity = _identity.read(quote, events, parts.vm_config)
    statement = parse_statement(parts.statement)
    signed_by_root = _check_root(parts, statement)
    _check_time(statement, judged_at, nonce, max_age)
    if ROOT_PIN in wanted and not signed_by_root:
        raise _root_refused("there is no signature, and the root is pinned")
    _compare_pins(wanted, identity, statement)
    return Attestation(
        statement=statement,
        app_id=identity.app_id.hex(),
        compose_hash=identity.compose_hash.hex(),
        instance_id=identity.instance_id.hex(),
        key_provider=identity.key_provider.decode("utf-8", "replace"),
        device_id=sha256(quote.ppid).hex(),
        mr_system=identity.mr_system.hex(),
        mr_aggregated=identity.mr_aggregated.hex(),
        os_image_hash=identity.os_image_hash.hex(),
        tcb_status=quote.tcb_status,
        advisory_ids=quote.advisory_ids,
        fmspc=quote.fmspc.hex(),
        collateral_expires=collateral.ends,
        judged_at=judged_at,
        pins=tuple(name for name, _ in wanted.items()),
        fresh=nonce is not None,
        signed_by_root=signed_by_root,
    )


def _report_data(parsed: dcap_qvl.Quote) -> bytes:
    report: Any = parsed.report
    return bytes(report.report_data)


def _rtmr3(parsed: dcap_qvl.Quote) -> bytes:
    report: Any = parsed.report
    return bytes(report.rt_mr3)


def _entries(event_log: str) -> List[_events.Entry]:
    try:
        return _events.parse(event_log)
    except _events.MalformedLog as error:
        raise VerificationError("malformed", f"event_log: {error}") from error


def _root_refused(why: str) -> VerificationError:
    return VerificationError(
        "root_signature", f"the root CA key has not signed this quote and statement: {why}"
    )


def _check_root(parts: Answer, statement: Statement) -> bool:
    """Whether the root CA key in the statement signed quote and statement. Anyone can state the public key of another's root,
    so nothing else says that this KMS has its root keys. A wrong signature is never accepted.

    Signed is `"cvm-kms-attestation-root:" ‖ SHA-256(quote) ‖ SHA-256(statement)`.
    """
    if parts.root is None:
        return False
    if sha256(parts.root.ca_spki).hex() != statement.root.ca_spki_sha256:
        raise _root_refused("the signer is another key than the statement's root")
    signature = parts.root.signature
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    message = ROOT_LABEL + sha256(parts.quote) + sha256(parts.statement.encode())
    try:
        key = load_der_public_key(parts.root.ca_spki)
        if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
            raise _root_refused("the signer is not a P-256 key")
        key.verify(encode_dss_signature(r, s), message, ECDSA(SHA256()))
    except (ValueError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise _root_refused("the signature is wrong") from error
    return True


def _check_time(statement: Statement, now: int, nonce: Optional[str], max_age: Optional[float]) -> None:
    if nonce is not None and (statement.nonce is None or not hmac.compare_digest(statement.nonce, nonce)):
        raise VerificationError("nonce", "the answer is not to this request: its nonce differs")
    if statement.time > now + MAX_AHEAD:
        raise VerificationError("time", f"the statement is {statement.time - now} s ahead of the clock")
    if max_age is not None and now - statement.time > max_age:
        raise VerificationError("time", f"the statement is {now - statement.time} s old")
