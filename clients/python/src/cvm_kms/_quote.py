"""A TDX quote, verified by `dcap-qvl`, and the checks that it leaves to its callers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Collection, Dict, Mapping, Optional, Tuple

import dcap_qvl

from ._collateral import Collateral
from ._errors import VerificationError

MAX_REASON = 400

TDX = 0x81
SEPT_VE_DISABLE = 1 << 28
# SEPT_VE_DISABLE, PKS (30) and KL (31). Refused are the debug byte, reserved bits, migration, and PERFMON (63), which the
# library accepts.
PERMITTED_ATTRIBUTES = SEPT_VE_DISABLE | 1 << 30 | 1 << 31


@dataclass(frozen=True)
class VerifiedQuote:
    """What a verified quote says. Registers are bytes."""

    mr_td: bytes
    rt_mr0: bytes
    rt_mr1: bytes
    rt_mr2: bytes
    rt_mr3: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    report_data: bytes
    tcb_status: str
    advisory_ids: Tuple[str, ...]
    ppid: bytes
    fmspc: bytes


# Words of dcap-qvl about a platform below every level that Intel lists.
UNLISTED = (
    "No matching TCB level found",
    "is below minimum required from TDX module TCB levels",
    "QE ISVSVN",
)


def parse(quote: bytes) -> dcap_qvl.Quote:
    """A TDX quote, not verified.

    Raises:
        VerificationError: `quote`.
    """
    try:
        parsed = dcap_qvl.parse_quote(quote)
    except ValueError as error:
        raise VerificationError("quote", f"the quote does not parse: {_reason(error)}") from error
    if not parsed.is_tdx() or not isinstance(parsed.report, (dcap_qvl.TdReport10, dcap_qvl.TdReport15)):
        raise VerificationError("quote", "the quote is not of a TD of version 1.0 or 1.5")
    return parsed


def check_isolation(quote: dcap_qvl.Quote) -> None:
    """Requires that no other party may read or change the TD's memory.

    Raises:
        VerificationError: `debug`, `td_isolation`.
    """
    report: Any = quote.report
    attributes = int.from_bytes(report.td_attributes, "little")
    if attributes & 0xFF:
        raise VerificationError("debug", "the KMS runs in debug mode, so its host can read its memory")
    if attributes & ~PERMITTED_ATTRIBUTES:
        raise _not_isolated(f"td attributes {attributes & ~PERMITTED_ATTRIBUTES:#018x} are not accepted")
    if not attributes & SEPT_VE_DISABLE:
        raise _not_isolated("SEPT_VE_DISABLE is not enabled")
    if any(report.mr_signer_seam):
        raise _not_isolated("mr_signer_seam is not zero")
    if any(getattr(report, "mr_service_td", b"")):
        raise _not_isolated("mr_service_td is not zero")


def _not_isolated(why: str) -> VerificationError:
    return VerificationError("td_isolation", f"the KMS is not isolated from its host: {why}")


def _reason(error: BaseException) -> str:
    """The library's message on one line of bounded length, because part of it may come from the sender."""
    line = " ".join(str(error).split())
    return "".join(character for character in line if character.isprintable())[:MAX_REASON]


def _tcb_status(found: str, accepted: Collection[str]) -> VerificationError:
    return VerificationError(
        "tcb_status",
        f"the TCB status of the platform is {found}, and accepted is {', '.join(sorted(accepted))}",
    )


def _claims(
    quote: bytes, collateral: Collateral, root_ca: Optional[bytes], now: int, accepted: Collection[str]
) -> Dict[str, Any]:
    try:
        verifier = dcap_qvl.QuoteVerifier(root_ca)
        policy = dcap_qvl.QuotePolicy.claims_only(now)
        claims = json.loads(verifier.verify_with_policy(quote, collateral.parts, now, policy).to_json())
    except (ValueError, OverflowError) as error:
        reason = _reason(error)
        if "TCB status is invalid: Revoked" in reason:
            raise _tcb_status("Revoked", accepted) from error
        if any(words in reason for words in UNLISTED):
            raise _tcb_status("below every level that Intel lists", accepted) from error
        raise VerificationError("quote", f"the quote is not genuine: {reason}") from error
    if not isinstance(claims, dict) or claims.get("claims_version") != 1:
        raise VerificationError("quote", "this release of dcap-qvl has claims of another version")
    return claims


def _field(body: Mapping[str, Any], name: str, length: int) -> bytes:
    value = bytes.fromhex(body[name])
    if len(value) != length:
        raise ValueError(f"{name} has {len(value)} bytes")
    return value


def verify(
    quote: bytes, collateral: Collateral, root_ca: Optional[bytes], now: int, accepted: Collection[str]
) -> VerifiedQuote:
    """Verifies a quote at a time.

    The library verifies the signatures up to the root, both revocation lists, the validity of every part of the collateral at
    `now`, the quoting enclave's identity, and which TCB level the platform has.

    Args:
        quote: the quote, version 4 or 5.
        collateral: Intel's collateral.
        root_ca: the trusted root (DER); `None` is Intel's.
        now: Unix seconds.
        accepted: TCB statuses by Intel's names. `Revoked` is never accepted.

    Raises:
        VerificationError: `quote`, `tcb_status`.
    """
    claims = _claims(quote, collateral, root_ca, now, accepted)
    try:
        if claims["tee_type"] != TDX:
            raise VerificationError("quote", "the quote is not of a TD")
        report = claims["report"]
        body = report["TD10"] if "TD10" in report else report["TD15"]["base"]
        tcb, pck = claims["tcb"], claims["platform"]["pck"]
        found = VerifiedQuote(
            mr_td=_field(body, "mr_td", 48),
            rt_mr0=_field(body, "rt_mr0", 48),
            rt_mr1=_field(body, "rt_mr1", 48),
            rt_mr2=_field(body, "rt_mr2", 48),
            rt_mr3=_field(body, "rt_mr3", 48),
            mr_config_id=_field(body, "mr_config_id", 48),
            mr_owner=_field(body, "mr_owner", 48),
            mr_owner_config=_field(body, "mr_owner_config", 48),
            report_data=_field(body, "report_data", 64),
            tcb_status=str(tcb["status"]),
            advisory_ids=tuple(str(advisory) for advisory in tcb["advisory_ids"]),
            ppid=bytes(pck["ppid"]),
            fmspc=bytes(pck["fmspc"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        # The library's own output, so this is a release that this package does not know.
        raise VerificationError("quote", f"the claims of dcap-qvl do not parse: {_reason(error)}") from error
    if found.tcb_status == "Revoked" or found.tcb_status not in accepted:
        raise _tcb_status(found.tcb_status, accepted)
    return found
