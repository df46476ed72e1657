"""Documents that are altered at random, the same in each run: whatever is in them, the answer is a verdict."""

import json
import os
import random
import unittest
from typing import Any, Iterator, List, Tuple

import cvm_kms

from . import mock
from .test_vectors import DIRECTORY

# `CVM_KMS_MUTATIONS=100000 python -m unittest tests.test_mutations` searches longer.
ROUNDS = int(os.environ.get("CVM_KMS_MUTATIONS", "1500"))
VALUES: List[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    2**64,
    2**70,
    "",
    "x",
    "00",
    "\0",
    [],
    {},
    [[]],
    {"a": 1},
    "9999-12-31T23:59:59Z",
]


def places(value: Any, path: Tuple[Any, ...] = ()) -> Iterator[Tuple[Any, ...]]:
    """The paths of all parts of a JSON value but itself."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


def altered_text(rng: random.Random, text: str) -> str:
    """The text with some of its characters replaced, removed or repeated."""
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(text) + 1), rng.randint(1, 40)
        piece = rng.choice(
            ["", text[at : at + length], "null", "1e999", "{", '"', rng.choice("0123456789abcdef-")]
        )
        text = text[:at] + piece + text[at + rng.choice([0, 1, length]) :]
    return text


def alter(rng: random.Random, value: Any) -> None:
    """Alters one part of a JSON object or list, also inside JSON in a text."""
    found = list(places(value))
    if not found:
        return
    *path, last = rng.choice(found)
    for key in path:
        value = value[key]
    part = value[last]
    if isinstance(part, str) and part[:1] in ("{", "[") and rng.random() < 0.6:
        inner = json.loads(part)
        alter(rng, inner)
        value[last] = json.dumps(inner)
    elif isinstance(part, str) and part and rng.random() < 0.8:
        value[last] = altered_text(rng, part)
    else:
        value[last] = rng.choice(VALUES)


class Mutations(unittest.TestCase):
    def test_every_document_gets_a_verdict(self) -> None:
        documents = [json.loads(file.read_text()) for file in sorted(DIRECTORY.glob("good*.json"))]
        root = (DIRECTORY / "root.der").read_bytes()
        rng = random.Random(0)
        seen = set()
        for number in range(ROUNDS):
            document = rng.choice(documents)
            answer = json.loads(json.dumps(document["answer"]))
            alter(rng, answer)
            text = json.dumps(answer)
            if rng.random() < 0.1:
                text = altered_text(rng, text)
            try:
                cvm_kms.verify(
                    text, document["pins"], now=document["now"], nonce=document["nonce"], root_ca=root
                )
                seen.add("ok")
            except cvm_kms.CvmKmsError as error:
                seen.add(error.code)
            except Exception as error:
                raise AssertionError(f"round {number} of {document['name']}: {text}") from error
        self.assertGreater(len(seen), 8, seen)

    def test_no_altered_statement_or_quote_is_accepted(self) -> None:
        answer = mock.answer()
        rng = random.Random(1)
        for name in ["statement", "quote"]:
            for _ in range(200):
                at = rng.randrange(len(answer[name]))
                if name == "quote" and at >= 2 * (632 + 4 + 128):
                    # What follows is certificates, whose text has bytes that mean nothing.
                    continue
                other = rng.choice("0123456789abcdef".replace(answer[name][at], ""))
                text = answer[name][:at] + other + answer[name][at + 1 :]
                with self.subTest(name=name, at=at), self.assertRaises(cvm_kms.VerificationError):
                    pins = {"root_ca_spki_sha256": mock.ROOT_SPKI_SHA256}
                    cvm_kms.verify(
                        json.dumps({**answer, name: text}), pins, now=mock.NOW, root_ca=mock.ROOT_CA
                    )


if __name__ == "__main__":
    unittest.main()
