"""Intel's collateral for a quote: its dates and its model, read before it is verified, so that a refusal says what is wrong."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Dict, List, Optional, Tuple

import dcap_qvl
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from . import _json
from ._errors import VerificationError

_DATE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)")


# Intel's chains have leaf, CA and root, of about 4 KiB.
MAX_CHAIN = 3
MAX_CHAIN_BYTES = 32 << 10

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]*)-----END CERTIFICATE-----\s*")


def certificates(pem: bytes) -> List[x509.Certificate]:
    """The certificates of a chain in PEM, each naming the next one's subject as its issuer. The text of a chain is not
    signed, so anything between the blocks is refused: two readers could find two chains in it.

    Raises:
        ValueError: with the reason.
    """
    # Quotes have the chain as a C string.
    rest = pem.rstrip(b"\0 \t\r\n").lstrip()
    if len(pem) > MAX_CHAIN_BYTES:
        raise ValueError(f"is longer than {MAX_CHAIN_BYTES} bytes")
    found: List[x509.Certificate] = []
    while rest or not found:
        block = _BLOCK.match(rest)
        if block is None:
            raise ValueError("has something that is not a CERTIFICATE block")
        if len(found) == MAX_CHAIN:
            raise ValueError(f"has more than {MAX_CHAIN} certificates")
        der = base64.b64decode(b"".join(block[1].split()), validate=True)
        found.append(x509.load_der_x509_certificate(der))
        rest = rest[block.end() :]
    for certificate, issuer in zip(found, found[1:]):
        if certificate.issuer == certificate.subject or certificate.issuer != issuer.subject:
            raise ValueError("is not in order: leaf, CA, root")
    return found


def _mismatch(why: str) -> VerificationError:
    return VerificationError("collateral_mismatch", f"the collateral does not fit the quote: {why}")


@dataclass(frozen=True)
class Collateral:
    """Collateral that parses; no signature of it is verified."""

    parts: dcap_qvl.QuoteCollateralV3
    # The platform's certificates (PEM), if they came with the collateral. The library prefers them to those in the quote.
    pck_chain: Optional[bytes]
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
            parts = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(document, allow_nan=False))
            return cls._parse(parts, document.get("pck_certificate_chain"))
        except (
            AttributeError,
            ValueError,
            KeyError,
            OverflowError,
            UnsupportedAlgorithm,
            x509.InvalidVersion,
        ) as error:
            raise _mismatch("it does not parse") from error

    @classmethod
    def _parse(cls, parts: dcap_qvl.QuoteCollateralV3, pck_chain: Optional[str]) -> "Collateral":
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
            ends.extend(int(one.not_valid_after_utc.timestamp()) for one in certificates(chain.encode()))
        fmspc = str(tcb_info["fmspc"])
        if not re.fullmatch(r"[0-9A-Fa-f]{12}", fmspc):
            raise ValueError("an FMSPC of another form")
        issuer = pck_crl.issuer.rfc4514_string()
        is_platform = "Platform" in issuer and "Processor" not in issuer
        return cls(
            parts=parts,
            pck_chain=None if pck_chain is None else pck_chain.encode(),
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
        in_quote = quote.cert_chain_pem_bytes()
        try:
            for chain in (self.pck_chain, in_quote):
                if chain is not None:
                    certificates(chain)
            if not in_quote:
                # A quote with an encrypted platform id names no model.
                return
            named = (quote.fmspc().upper(), quote.ca().lower())
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
            raise VerificationError(
                "quote", f"the platform's certificate chain does not parse: {error}"
            ) from error
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
