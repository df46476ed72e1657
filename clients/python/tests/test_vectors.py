"""The documents that clients of all languages judge: `tests/vectors/attestation` of the repository."""

import json
import os
import unittest
from pathlib import Path
from typing import Optional, Tuple

import cvm_kms

from . import mock

DIRECTORY = Path(os.environ.get("CVM_KMS_ATTESTATIONS") or mock.VECTORS / "attestation")


def verdict(document: dict) -> Tuple[str, Optional[str]]:
    """The code of the refusal, or `ok`; and the pin."""
    text = document["text"] if "text" in document else json.dumps(document["answer"], separators=(",", ":"))
    data = text.encode()
    if "padded_to" in document:
        data = data.ljust(document["padded_to"])
    root = (DIRECTORY / "root.der").read_bytes() if document["root"] == "simulated" else None
    try:
        proved = cvm_kms.verify(
            data,
            document["pins"],
            now=document["now"],
            nonce=document["nonce"],
            tcb_statuses=document["tcb_statuses"],
            root_ca=root,
        )
        if "tls_spki" in document:
            proved.check_tls_key(bytes.fromhex(document["tls_spki"]))
    except cvm_kms.CvmKmsError as error:
        return error.code, getattr(error, "pin", None)
    return "ok", None


class Vectors(unittest.TestCase):
    def test_every_document_gets_its_verdict(self) -> None:
        files = sorted(DIRECTORY.glob("*.json"))
        self.assertGreater(len(files), 100)
        seen = set()
        for file in files:
            document = json.loads(file.read_text())
            self.assertEqual(file.stem, document["name"])
            with self.subTest(document["name"]):
                self.assertEqual(verdict(document), (document["expect"], document.get("pin")))
            seen.add(document["expect"])
        known = (
            cvm_kms.VerificationError.CODES | cvm_kms.KeyMismatchError.CODES | {"bad_pins", "no_pin", "ok"}
        )
        self.assertEqual((known - seen) - {"identity"}, set(), "every code has a document")
        self.assertLessEqual(seen, known)


if __name__ == "__main__":
    unittest.main()
