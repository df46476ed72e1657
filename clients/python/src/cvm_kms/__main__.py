"""`python -m cvm_kms verify TARGET [--pins FILE]`: verifies a KMS, or a saved answer, and prints what was proved as JSON.

Exit status: 0 proved, 1 not proved, 2 wrong arguments, 3 no answer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, List, Optional

from . import _json, _release
from ._answer import MAX_BYTES
from ._errors import CvmKmsError, PinsError, TransportError
from ._pins import MAX_TEXT, MAX_VALUES, NAMES
from ._session import connect
from ._transport import TIMEOUT
from ._verify import MAX_AGE, UP_TO_DATE, Attestation, verify

MAX_PINS_FILE = MAX_TEXT * MAX_VALUES * len(NAMES)


def _arguments(given: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cvm_kms", description="Verifies a cvm-kms.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("verify", help="verify a KMS, or a saved /attestation.json")
    command.add_argument("target", help="https://host[:port], owner/repo, or a file with a saved answer")
    command.add_argument("--pins", metavar="FILE", help="the pins, a JSON object of names and values")
    command.add_argument("--base", default=_release.BASE, help="where repositories are")
    command.add_argument(
        "--tcb-status",
        action="append",
        metavar="STATUS",
        help="an accepted TCB status, may be repeated; by default UpToDate only",
    )
    command.add_argument(
        "--root-ca", metavar="FILE", help="another root than Intel's, DER or PEM; for simulated platforms"
    )
    command.add_argument("--now", type=int, metavar="SECONDS", help="judge a file at this Unix time")
    command.add_argument(
        "--max-age", type=int, metavar="SECONDS", help=f"of a statement in a file; default {MAX_AGE}"
    )
    command.add_argument("--any-age", action="store_true", help="accept an old statement in a file")
    command.add_argument("--timeout", type=float, default=TIMEOUT, metavar="SECONDS", help="for each request")
    return parser.parse_args(given)


def _read(name: str, limit: int) -> bytes:
    try:
        with open(name, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise PinsError("argument", f"{name}: {error.strerror}") from error
    if len(data) > limit:
        raise PinsError("argument", f"{name} is longer than {limit} bytes")
    return data


def _pins(name: Optional[str]) -> Any:
    if name is None:
        return None
    try:
        return _json.parse(_read(name, MAX_PINS_FILE))
    except _json.JsonError as error:
        raise PinsError("bad_pins", f"{name}: {error}") from error


def _verified(arguments: argparse.Namespace) -> Attestation:
    pins = _pins(arguments.pins)
    root_ca = None if arguments.root_ca is None else _read(arguments.root_ca, 1 << 16)
    statuses = arguments.tcb_status or UP_TO_DATE
    target = arguments.target
    if "://" in target or (_release.is_repository(target) and not Path(target).exists()):
        if arguments.now is not None or arguments.max_age is not None or arguments.any_age:
            raise PinsError("argument", "--now, --max-age and --any-age are for files")
        with connect(
            target,
            pins,
            base=arguments.base,
            tcb_statuses=statuses,
            root_ca=root_ca,
            timeout=arguments.timeout,
        ) as session:
            return session.attestation
    if pins is None:
        raise PinsError("no_pin", "--pins is needed with a file")
    # Its own limit refuses one byte more.
    answer = _read(target, MAX_BYTES + 1)
    max_age = MAX_AGE if arguments.max_age is None else arguments.max_age
    return verify(
        answer,
        pins,
        now=arguments.now,
        max_age=None if arguments.any_age else max_age,
        tcb_statuses=statuses,
        root_ca=root_ca,
    )


def main(given: Optional[List[str]] = None) -> int:
    """Runs the command and returns its exit status."""
    arguments = _arguments(given)
    try:
        attestation = _verified(arguments)
    except CvmKmsError as error:
        status = 2 if isinstance(error, PinsError) else 3 if isinstance(error, TransportError) else 1
        json.dump({"verified": False, "code": error.code, "error": str(error)}, sys.stdout)
        print()
        return status
    json.dump({"verified": True, "proved": dataclasses.asdict(attestation)}, sys.stdout, indent=2)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
