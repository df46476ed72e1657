"""Pins."""

import unittest

from cvm_kms import Pins, PinsError

ROOT = "ab" * 32


class PinsTest(unittest.TestCase):
    def test_a_pin_has_one_value_or_several(self) -> None:
        pins = Pins.parse({"app_id": ["01" * 20, "02" * 20], "root_ca_spki_sha256": ROOT})
        self.assertEqual(
            pins.items(),
            [
                ("root_ca_spki_sha256", frozenset({ROOT})),
                ("app_id", frozenset({"01" * 20, "02" * 20})),
            ],
        )

    def test_wrong_pins_are_refused(self) -> None:
        for pins, said in [
            ({}, "which KMS is meant"),
            ({"compose_hash": ROOT}, "which KMS is meant"),
            ({"k256_public_key": "02" + ROOT, "app_id": "01" * 20}, "which KMS is meant"),
            ({"root_ca": ROOT}, "unknown pin 'root_ca'"),
            ({"root_ca_spki_sha256": ROOT, "Mr_aggregated": ROOT}, "unknown pin"),
            ({1: ROOT}, "unknown pin"),
            ({"root_ca_spki_sha256": ROOT[2:]}, "64 lower-case"),
            ({"root_ca_spki_sha256": ROOT.upper()}, "64 lower-case"),
            ({"root_ca_spki_sha256": "0x" + ROOT}, "64 lower-case"),
            ({"root_ca_spki_sha256": ROOT[1:] + "\n"}, "64 lower-case"),
            ({"root_ca_spki_sha256": None}, "not text"),
            ({"root_ca_spki_sha256": []}, "1 to 256 values"),
            ({"root_ca_spki_sha256": [ROOT, 1]}, "not text"),
            ({"root_ca_spki_sha256": ROOT, "log_key": ""}, "1 to 1024"),
            ([], "mapping"),
            (None, "mapping"),
        ]:
            with self.subTest(pins=pins), self.assertRaises(PinsError) as caught:
                Pins.parse(pins)
            self.assertEqual(caught.exception.code, "no_pin" if "which KMS" in said else "bad_pins")
            self.assertIn(said, str(caught.exception))

    def test_pins_that_contradict_a_release_are_refused(self) -> None:
        release = Pins.parse({"mr_aggregated": [ROOT, "cd" * 32]})
        more = Pins.parse({"mr_aggregated": ROOT, "app_id": "01" * 20})
        both = release.with_more(more)
        self.assertEqual(both["mr_aggregated"], frozenset({ROOT}))
        self.assertIn("app_id", both)
        partial = Pins.parse({"app_id": "01" * 20}, must_identify=False)
        self.assertEqual(release.with_more(partial)["app_id"], frozenset({"01" * 20}))
        with self.assertRaises(PinsError):
            Pins.parse(partial)
        with self.assertRaises(PinsError):
            release.with_more(Pins.parse({"mr_aggregated": "ef" * 32}))


if __name__ == "__main__":
    unittest.main()
