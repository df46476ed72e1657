"""Intel's collateral for a quote: its dates and its model, read before it is verified, so that a refusal says what is wrong."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Dict, Tuple

import dcap_qvl
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from . import _json
from ._errors import VerificationError

_DATE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)")


def _mismatch(why: str) -> VerificationError:
    return VerificationError("collateral_mismatch", f"the collateral does not fit the quote: {why}")


@dataclass(frozen=True)
class Collateral:
    """Collateral that parses; no signature of it is verified."""

    parts: dcap_qvl.QuoteCollateralV3
    # The FMSPC, upper-case hexadecimal, and the PCK CA of the CRL: `platform` or `processor`.
    model: Tuple[str, str]
    # The first and the last second at which all of it is valid, Unix seconds.
    begins: int
    ends: int

    @classmethod
    def parse(cls, document: Any) -> "Collateral":
        """Collateral from `QuoteCollateralV3` as an object.

        Raises:
            VerificationError: `collateral_mismatch`.
        """
        try:
            return cls._parse(dcap_qvl.QuoteCollateralV3.from_json(json.dumps(document, allow_nan=False)))
        except (ValueError, KeyError, OverflowError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
            raise _mismatch("it does not parse") from error

    @classmethod
    def _parse(cls, parts: dcap_qvl.QuoteCollateralV3) -> "Collateral":
        tcb_info, qe_identity = _document(parts.tcb_info), _document(parts.qe_identity)
        pck_crl = x509.load_der_x509_crl(parts.pck_crl)
        ends = [_seconds(tcb_info["nextUpdate"]), _seconds(qe_identity["nextUpdate"])]
        for crl in (pck_crl, x509.load_der_x509_crl(parts.root_ca_crl)):
            if crl.next_update_utc is None:
                raise ValueError("a revocation list without an end")
            # Other than the documents, a list has expired at its nextUpdate.
            ends.append(int(crl.next_update_utc.timestamp()) - 1)
        for chain in (
            parts.pck_crl_issuer_chain,
            parts.tcb_info_issuer_chain,
            parts.qe_identity_issuer_chain,
        ):
            found = x509.load_pem_x509_certificates(chain.encode())
            ends.extend(int(certificate.not_valid_after_utc.timestamp()) for certificate in found)
        fmspc = str(tcb_info["fmspc"])
        if not re.fullmatch(r"[0-9A-Fa-f]{12}", fmspc):
            raise ValueError("an FMSPC of another form")
        issuer = pck_crl.issuer.rfc4514_string()
        is_platform = "Platform" in issuer and "Processor" not in issuer
        return cls(
            parts=parts,
            model=(fmspc.upper(), "platform" if is_platform else "processor"),
            begins=max(_seconds(tcb_info["issueDate"]), _seconds(qe_identity["issueDate"])),
            ends=min(ends),
        )

    def check(self, quote: dcap_qvl.Quote, now: int) -> None:
        """Requires that it is valid at `now`, and of the model that the quote names.

        Raises:
            VerificationError: `collateral_expired`, `collateral_mismatch`, `quote`.
        """
        if not self.begins <= now <= self.ends:
            raise VerificationError(
                "collateral_expired",
                f"the collateral is valid from {self.begins} to {self.ends} (Unix seconds), and the time is {now}",
            )
        if not quote.cert_chain_pem_bytes():
            # A quote with an encrypted platform id names no model.
            return
        try:
            named = (quote.fmspc().upper(), quote.ca().lower())
        except ValueError as error:
            raise VerificationError("quote", "the quote does not name its platform") from error
        if named != self.model:
            raise _mismatch(f"it is of the model {self.model[0]}, and the quote of {named[0]}")


def _document(text: str) -> Dict[str, Any]:
    found = _json.parse(text)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def _seconds(text: Any) -> int:
    found = _DATE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError("not a date")
    return int(datetime.fromisoformat(found[1] + found[2].replace("Z", "+00:00")).timestamp())
