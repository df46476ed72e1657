"""Every error of this package. Each has a `code` of a closed list, and a message that says what was wrong.

    CvmKmsError
    ├── PinsError           the pins or another argument are wrong
    ├── VerificationError   what the server showed proves less than was asked
    ├── KeyMismatchError    the TLS connection ends at another key than the attested one
    ├── TransportError      no answer, or one that is not HTTP as expected
    ├── ReleaseError        the release of a repository does not describe a KMS
    └── CallError           the KMS answered a call with an error

The codes of the first three are those of `docs/decisions/0042`, which clients of all languages have, and `argument`.
"""

from __future__ import annotations

from typing import FrozenSet, Optional


class CvmKmsError(Exception):
    """Base of the errors of this package.

    Attributes:
        code: what went wrong, one of the class's `CODES`.
    """

    CODES: FrozenSet[str] = frozenset()

    def __init__(self, code: str, message: str) -> None:
        if code not in self.CODES:
            raise AssertionError(f"{code} is not a code of {type(self).__name__}")
        super().__init__(message)
        self.code = code

    def __str__(self) -> str:
        return f"{super().__str__()} ({self.code})"


class PinsError(CvmKmsError, ValueError):
    """The pins or another argument are wrong. Nothing was sent."""

    CODES = frozenset({"bad_pins", "no_pin", "argument"})


class VerificationError(CvmKmsError):
    """The attestation does not prove what was asked of it.

    Attributes:
        pin: with `pin_mismatch`, the name of the pin.
    """

    CODES = frozenset(
        {
            "too_large",
            "malformed",
            "duplicate_key",
            "unknown_version",
            "report_data",
            "debug",
            "td_isolation",
            "collateral_missing",
            "collateral_mismatch",
            "collateral_expired",
            "event_log",
            "quote",
            "tcb_status",
            "identity",
            "root_signature",
            "nonce",
            "time",
            "pin_mismatch",
        }
    )

    def __init__(self, code: str, message: str, pin: Optional[str] = None) -> None:
        super().__init__(code, message)
        self.pin = pin


class KeyMismatchError(CvmKmsError):
    """The TLS connection ends at another key than the attested one. No request was sent on it."""

    CODES = frozenset({"tls_key"})


class TransportError(CvmKmsError):
    """There is no answer, or one that is not usable."""

    CODES = frozenset({"unreachable", "timeout", "tls", "answer_too_large", "redirect", "http", "status"})


class ReleaseError(CvmKmsError):
    """`cvm-kms-release.json` of a repository does not describe a KMS."""

    CODES = frozenset({"release"})


class CallError(CvmKmsError):
    """The KMS answered a call with an error.

    Attributes:
        status: the HTTP status.
        kms_code: the KMS's own code, such as `denied`, if it gave one.
        denial_id: what an operator needs to look the refusal up, if the KMS gave one.
    """

    CODES = frozenset({"call"})

    def __init__(
        self, message: str, status: int, kms_code: Optional[str] = None, denial_id: Optional[str] = None
    ) -> None:
        super().__init__("call", message)
        self.status = status
        self.kms_code = kms_code
        self.denial_id = denial_id
