"""Verifies what a cvm-kms runs."""

from ._answer import Epoch, Log, Policy, RootKeys, Statement
from ._errors import CvmKmsError, KeyMismatchError, PinsError, VerificationError
from ._pins import NAMES as PIN_NAMES
from ._pins import Pins
from ._verify import Attestation, verify

__version__ = "0.1.0"

__all__ = [
    "PIN_NAMES",
    "Attestation",
    "CvmKmsError",
    "Epoch",
    "KeyMismatchError",
    "Log",
    "Pins",
    "PinsError",
    "Policy",
    "RootKeys",
    "Statement",
    "VerificationError",
    "verify",
]
