"""Verifies what a cvm-kms runs, and talks to it over the TLS key that it attested.

import cvm_kms

kms = cvm_kms.connect("https://kms.example.com:8000", {"root_ca_spki_sha256": "…"})
meta = kms.call("GetMeta")
kms.attestation.mr_aggregated
"""

from ._answer import Epoch, Log, Policy, RootKeys, Statement
from ._errors import (
    CallError,
    CvmKmsError,
    KeyMismatchError,
    PinsError,
    ReleaseError,
    TransportError,
    VerificationError,
)
from ._pins import NAMES as PIN_NAMES
from ._pins import Pins
from ._session import Session, connect
from ._transport import Response
from ._verify import Attestation, verify

__version__ = "0.1.0"

__all__ = [
    "PIN_NAMES",
    "Attestation",
    "CallError",
    "CvmKmsError",
    "Epoch",
    "KeyMismatchError",
    "Log",
    "Pins",
    "PinsError",
    "Policy",
    "ReleaseError",
    "Response",
    "RootKeys",
    "Session",
    "Statement",
    "TransportError",
    "VerificationError",
    "connect",
    "verify",
]
