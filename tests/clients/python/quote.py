"""dcap-qvl on the quote inside the certificate of a KMS, with collateral from a collateral service, under a given root."""

import json
import os
import sys
import time

import dcap_qvl

from evidence import collateral_of, read, server_certificate

asked = json.load(sys.stdin)
shown = read(server_certificate(asked["host"], asked["port"]))
quote, now = shown["quote"], int(time.time())
root = bytes.fromhex(asked["root"])
collateral = collateral_of(quote, asked["pccs"])


def verdict(altered, *roots):
    """The TCB status, or why the quote is refused."""
    try:
        if roots:
            return dcap_qvl.verify_with_root_ca(altered, collateral, *roots, now).status
        return dcap_qvl.verify(altered, collateral, now).status
    except ValueError as error:
        return f"refused: {error}"


def flipped(offset):
    return quote[:offset] + bytes([quote[offset] ^ 1]) + quote[offset + 1 :]


report = dcap_qvl.Quote.parse(quote).report
json.dump(
    {
        "status": verdict(quote, root),
        "usage": shown["usage"],
        "binds_the_key": report.report_data == shown["bound"],
        "rt_mr3": report.rt_mr3.hex(),
        "flipped": {str(offset): verdict(flipped(offset), root) for offset in asked["flips"]},
        "under_intels_root": verdict(quote),
    },
    sys.stdout,
)
# The module is native code with threads of its own, which sometimes end the interpreter by a signal while it shuts down.
sys.stdout.flush()
os._exit(0)
