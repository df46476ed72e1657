"""Verification of answers: every check refuses what it is for."""

import hashlib
import json
import unittest
from datetime import datetime, timezone

import cvm_kms

from . import mock

ROOT = {"root_ca_spki_sha256": mock.ROOT_SPKI_SHA256}
NONCE = "5e" * 32


def verify(answer: object, pins: dict = ROOT, **options: object) -> cvm_kms.Attestation:
    options = {"now": mock.NOW, "root_ca": mock.ROOT_CA, **options}
    return cvm_kms.verify(json.dumps(answer) if isinstance(answer, dict) else answer, pins, **options)


class Verify(unittest.TestCase):
    def refused(self, code: str, answer: object, pins: dict = ROOT, **options: object) -> str:
        with self.assertRaises(cvm_kms.VerificationError) as caught:
            verify(answer, pins, **options)
        self.assertEqual(caught.exception.code, code, str(caught.exception))
        return str(caught.exception)

    def test_a_good_answer_proves_the_machine(self) -> None:
        proved = verify(json.dumps(mock.answer()).encode())
        self.assertEqual(proved.app_id, "11" * 20)
        self.assertEqual(proved.compose_hash, "22" * 32)
        self.assertEqual(proved.instance_id, "33" * 20)
        self.assertEqual(proved.os_image_hash, "44" * 32)
        self.assertEqual(proved.key_provider, '{"name":"none","id":""}')
        self.assertEqual(proved.tcb_status, "UpToDate")
        self.assertEqual(proved.statement.name, "kms.example.com")
        self.assertEqual(proved.pins, ("root_ca_spki_sha256",))
        self.assertFalse(proved.fresh)
        self.assertTrue(proved.signed_by_root)
        at = datetime.fromtimestamp(mock.NOW, timezone.utc)
        self.assertEqual(verify(mock.answer(), now=at).judged_at, mock.NOW)

    def test_quotes_of_version_5_and_events_of_version_2_are_read(self) -> None:
        events = [
            mock.event(entry["event"], bytes.fromhex(entry["event_payload"]), 2) for entry in mock.EVENTS
        ]
        self.assertEqual(verify(mock.answer(events=events)).app_id, "11" * 20)

    def test_every_pin_is_compared(self) -> None:
        proved = verify(mock.answer())
        shown = {
            "root_ca_spki_sha256": mock.ROOT_SPKI_SHA256,
            "k256_public_key": "02" + "bb" * 32,
            "mr_aggregated": proved.mr_aggregated,
            "os_image_hash": "44" * 32,
            "compose_hash": "22" * 32,
            "app_id": "11" * 20,
            "log_key": "kms.example.com/log+0+AA",
            "policy_digest": "dd" * 32,
        }
        self.assertEqual(set(shown), set(cvm_kms.PIN_NAMES))
        self.assertEqual(verify(mock.answer(), shown).pins, cvm_kms.PIN_NAMES)
        for name, value in shown.items():
            other = value[:-2] + ("00" if name != "log_key" else "BB")
            with self.assertRaises(cvm_kms.VerificationError) as caught:
                verify(mock.answer(), {**shown, name: other})
            self.assertEqual((caught.exception.code, caught.exception.pin), ("pin_mismatch", name))
            verify(mock.answer(), {**shown, name: [other, value]})
        bare = mock.answer(json.dumps(mock.statement(log=None, policies={})))
        verify(bare)
        for name in ["log_key", "policy_digest"]:
            self.refused("pin_mismatch", bare, {**ROOT, name: shown[name]})

    def test_mr_aggregated_has_the_launch_registers_if_one_is_set(self) -> None:
        plain = verify(mock.answer()).mr_aggregated
        self.assertNotEqual(verify(mock.answer(changes={48 + 184: b"\1"})).mr_aggregated, plain)

    def test_the_quote_must_cover_the_statement(self) -> None:
        answer = mock.answer()
        for text in [answer["statement"] + " ", json.dumps(mock.statement(sealed=False))]:
            self.refused("report_data", {**answer, "statement": text})

    def test_the_events_must_replay_to_the_register(self) -> None:
        answer = mock.answer()
        for events in [mock.EVENTS[:-1], mock.EVENTS[1:], [*mock.EVENTS, mock.event("more")], []]:
            self.assertIn("RTMR3", self.refused("event_log", {**answer, "event_log": json.dumps(events)}))
        swapped = [mock.EVENTS[1], mock.EVENTS[0], *mock.EVENTS[2:]]
        self.refused("event_log", {**answer, "event_log": json.dumps(swapped)})
        self.refused("malformed", {**answer, "event_log": "{"})

    def test_what_names_no_guest_is_refused(self) -> None:
        for scripts in [[b"1"], [b"1" * 32] * 6]:
            events = [*(mock.event("init-script-hash", script) for script in scripts), *mock.EVENTS]
            self.refused("identity", mock.answer(events=events))
        verify(mock.answer(events=[mock.event("init-script-hash", b"1" * 32), *mock.EVENTS]))
        # Only events before `system-ready` identify.
        events = [entry for entry in mock.EVENTS if entry["event"] != "app-id"]
        late = mock.answer(events=[*events, mock.event("app-id", b"\1" * 20)])
        self.assertEqual(verify(late).app_id, "")
        self.refused("pin_mismatch", late, {**ROOT, "app_id": "01" * 20})

    def test_a_forged_quote_is_refused(self) -> None:
        answer = mock.answer()
        quote = bytes.fromhex(answer["quote"])
        # In MRTD, the signature, the attestation key, the QE report.
        for offset in [200, 632 + 4 + 10, 632 + 4 + 64 + 10, 632 + 4 + 128 + 6 + 330]:
            altered = quote[:offset] + bytes([quote[offset] ^ 1]) + quote[offset + 1 :]
            self.refused("quote", {**answer, "quote": altered.hex()})
        self.refused("quote", {**answer, "quote": quote[:-1000].hex()})
        self.refused("quote", {**answer, "quote": ""})
        self.refused("quote", {**answer, "quote": "00" * 70_000})

    def test_the_root_is_intels_unless_another_is_given(self) -> None:
        self.refused("quote", mock.answer(), root_ca=None)
        self.refused("quote", mock.answer(), root_ca=mock.OTHER_ROOT_CA)
        pem = mock.QUOTES["root_ca"]["mock"]["pem"].encode()
        verify(mock.answer(), root_ca=pem)
        for root_ca in [
            b"",
            b"x",
            mock.ROOT_CA[:-1],
            mock.ROOT_CA + b"x",
            pem * 2,
            pem.decode(),
            b"-----BEGIN",
        ]:
            with self.assertRaises(cvm_kms.PinsError) as caught:
                verify(mock.answer(), root_ca=root_ca)
            self.assertEqual(caught.exception.code, "argument")

    def test_collateral_must_be_genuine_and_of_its_time(self) -> None:
        self.refused("collateral_missing", {**mock.answer(), "collateral": None})
        self.refused("quote", mock.answer(collateral="bad-tcb-sig"))
        self.refused("collateral_mismatch", mock.answer(collateral="no-pck-crl"))
        self.refused("collateral_expired", mock.answer(), now=4_102_444_800 + 1)
        self.refused("collateral_expired", mock.answer(), now=1_500_000_000)
        answer = mock.answer()
        for name in answer["collateral"]:
            without = {key: value for key, value in answer["collateral"].items() if key != name}
            self.refused("collateral_mismatch", {**answer, "collateral": without})
        self.refused("collateral_mismatch", {**answer, "collateral": []})

    def test_only_accepted_tcb_statuses_pass(self) -> None:
        for collateral, status in [
            ("platform-outofdate", "OutOfDate"),
            ("platform-swhardening", "SWHardeningNeeded"),
            ("platform-confneeded", "ConfigurationNeeded"),
            ("qe-outofdate", "OutOfDate"),
        ]:
            answer = mock.answer(collateral=collateral)
            self.assertIn(status, self.refused("tcb_status", answer))
            proved = verify(answer, tcb_statuses=["UpToDate", status])
            self.assertEqual(proved.tcb_status, status)
        for collateral in ["platform-revoked", "qe-revoked"]:
            self.refused(
                "tcb_status", mock.answer(collateral=collateral), tcb_statuses=["UpToDate", "Revoked"]
            )
        self.refused("tcb_status", mock.answer(), tcb_statuses=["uptodate"])
        for statuses in [[1], []]:
            with self.assertRaises(cvm_kms.PinsError):
                verify(mock.answer(), tcb_statuses=statuses)

    def test_a_td_that_others_can_read_is_refused(self) -> None:
        attributes = 48 + 120
        for value, code in [
            (b"\x01\x00\x00\x10\x00\x00\x00\x00", "debug"),
            (b"\x02\x00\x00\x10\x00\x00\x00\x00", "debug"),
            (b"\x00\x00\x00\x00\x00\x00\x00\x00", "td_isolation"),
            (b"\x00\x00\x00\x30\x00\x00\x00\x00", "td_isolation"),
            (b"\x00\x00\x00\x10\x00\x00\x00\x80", "td_isolation"),
        ]:
            self.refused(code, mock.answer(changes={attributes: value}))
        self.refused("td_isolation", mock.answer(changes={48 + 64: b"\1"}))

    def test_the_root_must_have_signed_this_quote_and_statement(self) -> None:
        good = mock.answer()
        other = mock.answer(root=mock.root_key(2))
        unsigned = {**good, "root": None}
        measured = {"mr_aggregated": verify(good).mr_aggregated}
        self.assertFalse(verify(unsigned, measured).signed_by_root)
        self.refused("root_signature", unsigned)
        for pins in [ROOT, measured]:
            self.refused("root_signature", other, pins)
            signature = good["root"]["signature"]
            for altered in ["00" * 64, signature[64:] + signature[:64], mock.answer()["root"]["signature"]]:
                root = {**good["root"], "signature": altered}
                self.refused("root_signature", {**good, "root": root}, pins)
        for root in [
            [],
            {},
            {**good["root"], "signature": "00" * 63},
            {**good["root"], "ca_spki": "00" * 90},
        ]:
            self.refused("malformed", {**good, "root": root})

    def test_the_tls_key_is_compared(self) -> None:
        key = mock.root_key(3)
        digest = hashlib.sha256(mock.spki(key)).hexdigest()
        proved = verify(mock.answer(json.dumps(mock.statement(rpc_spki_sha256=digest))))
        proved.check_tls_key(mock.spki(key))
        with self.assertRaises(cvm_kms.KeyMismatchError) as caught:
            proved.check_tls_key(mock.spki(mock.root_key(4)))
        self.assertEqual(caught.exception.code, "tls_key")

    def test_nonce_and_time(self) -> None:
        def at(**changes: object) -> dict:
            return mock.answer(json.dumps(mock.statement(**changes)))

        self.assertTrue(verify(at(nonce=NONCE), nonce=NONCE).fresh)
        for nonce in [None, "00" * 32]:
            self.refused("nonce", at(nonce=nonce), nonce=NONCE)
        self.refused("time", at(time=mock.NOW + 301))
        verify(at(time=mock.NOW + 300))
        self.refused("time", at(time=mock.NOW - 61), max_age=60)
        verify(at(time=mock.NOW - 60), max_age=60)
        self.refused("time", at(time=mock.NOW - 601))
        verify(at(time=mock.NOW - 10**7), max_age=None)
        for options in [{"nonce": "xx"}, {"now": -1}, {"now": True}, {"now": datetime(2025, 1, 1)}]:
            with self.assertRaises(cvm_kms.PinsError):
                verify(at(nonce=NONCE), **options)

    def test_malformed_answers_are_refused(self) -> None:
        answer = mock.answer()
        for data in [b"", b"[]", b"null", b"\xff", "\ud800"]:
            self.refused("malformed", data)
        self.refused("too_large", b" " * (1 << 20) + b"{}")
        self.refused("too_large", "é" * (1 << 19) + "{}")
        self.refused("duplicate_key", b'{"version": 1, "version": 1}')
        for name in answer:
            without = {key: value for key, value in answer.items() if key != name}
            missing = {"collateral": "collateral_missing", "root": "root_signature"}
            self.refused(missing.get(name, "malformed"), without)
            if name != "collateral":
                self.refused("malformed", {**answer, name: []})
        self.refused("unknown_version", {**answer, "version": 2})
        self.refused("malformed", {**answer, "version": True})
        self.refused("malformed", {**answer, "quote": "0"})
        for name in mock.statement():
            changed = {key: value for key, value in mock.statement().items() if key != name}
            if name not in ("nonce", "program_sha256", "log"):
                self.refused("malformed", mock.answer(json.dumps(changed)))
            self.refused("malformed", mock.answer(json.dumps({**changed, name: 1.5})))
        self.refused("unknown_version", mock.answer(json.dumps(mock.statement(version=2))))
        twice = json.dumps(mock.statement())[:-1] + ', "sealed": true}'
        self.refused("duplicate_key", mock.answer(twice))
        verify(mock.answer(json.dumps(mock.statement(more={"new": 1}))))

    def test_a_vm_configuration_has_one_layout(self) -> None:
        answer = mock.answer()
        image = '{"os_image_hash":"' + "45" * 32 + '"}'
        nested = json.dumps({"kms_urls": [], "vm_config": image})
        self.assertEqual(verify({**answer, "vm_config": nested}).os_image_hash, "45" * 32)
        self.assertEqual(verify({**answer, "vm_config": "{}"}).os_image_hash, "")
        self.assertEqual(verify({**answer, "vm_config": ""}).os_image_hash, "")
        for text in [
            "[]",
            '{"os_image_hash":"a"}',
            '{"os_image_hash":"","os_image_hash":""}',
            json.dumps({"os_image_hash": "", "vm_config": image}),
            json.dumps({"vm_config": image, "cpu_count": 1}),
            json.dumps({"vm_config": nested}),
            json.dumps({"vm_config": {}}),
        ]:
            self.refused("identity", {**answer, "vm_config": text})

    def test_a_vm_configuration_has_the_form_that_the_kms_demands(self) -> None:
        answer = mock.answer()
        good = {
            "spec_version": 1,
            "cpu_count": 2,
            "memory_size": 2**63,
            "pic": None,
            "numa_nodes": [{}, {"pxb_bus": 5}],
            "tdx_attestation_variant": "lite",
            "tdx_measurement": {"checksum_file": "AA==", "measurement": ""},
        }
        verify({**answer, "vm_config": json.dumps(good)})
        for key, value in [
            ("cpu_count", 2**32),
            ("cpu_count", -1),
            ("cpu_count", True),
            ("cpu_count", None),
            ("memory_size", 1.0),
            ("memory_size", 2**64),
            ("pic", 1),
            ("image", 1),
            ("host_share_mode", None),
            ("numa_nodes", [1]),
            ("numa_nodes", [{"pxb_bus": 256}]),
            ("ovmf_variant", "new"),
            ("tdx_attestation_variant", None),
            ("tdx_measurement", {"checksum_file": "AA"}),
            ("extra_root_devices", {}),
        ]:
            said = self.refused("identity", {**answer, "vm_config": json.dumps({**good, key: value})})
            self.assertIn(key, said)

    def test_a_chain_has_certificates_in_order_and_nothing_else(self) -> None:
        answer = mock.answer()
        for name in ["pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain"]:
            pem = answer["collateral"][name]
            end = "-----END CERTIFICATE-----"
            blocks = [block + end for block in pem.split(end)[:-1]]
            self.assertEqual(len(blocks), 2, name)

            def with_chain(text: str, name: str = name) -> dict:
                return {**answer, "collateral": {**answer["collateral"], name: text}}

            verify(with_chain(" \n" + pem.replace("\n", "\r\n") + "\n\0"))
            for text in [
                "",
                "x" + pem,
                pem + "x",
                blocks[0] + "\nKey: value\n" + blocks[1],
                pem.replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
                blocks[1] + blocks[0],
                pem + blocks[1],
                pem + pem,
                pem.replace("MII", "MI"),
                pem + " " * (1 << 15),
            ]:
                self.refused("collateral_mismatch", with_chain(text))
        chain = {**answer["collateral"], "pck_certificate_chain": "x"}
        self.refused("quote", {**answer, "collateral": chain})


if __name__ == "__main__":
    unittest.main()
