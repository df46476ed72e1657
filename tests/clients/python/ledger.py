"""`proofbundle` on proofs of releases: the signature of the log, and that the record is in its tree."""

import json
import sys

from proofbundle.tlogproof import verify_tlog_proof


def verdict(case):
    entry = bytes.fromhex(case["entry"])
    found = verify_tlog_proof(case["proof"], entry, case["log_key"], expected_origin=case["origin"])
    return {"log": found["log_ok"], "inclusion": found["inclusion_ok"], "ok": found["ok"]}


json.dump([verdict(case) for case in json.load(sys.stdin)], sys.stdout)
