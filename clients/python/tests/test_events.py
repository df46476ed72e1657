"""Event logs: the vectors of the repository, and what is refused."""

import json
import unittest

from cvm_kms import _events

from . import mock

SCENARIOS = json.loads((mock.VECTORS / "eventlog.json").read_text())["scenarios"]


class Events(unittest.TestCase):
    def test_events_replay_as_in_the_vectors(self) -> None:
        self.assertGreaterEqual(len(SCENARIOS), 9)
        for scenario in SCENARIOS:
            with self.subTest(scenario["name"]):
                for form in ["tdx_event_json", "tdx_event_json_with_preimage", "tdx_event_json_stripped"]:
                    entries = _events.parse("[" + ",".join(event[form] for event in scenario["events"]) + "]")
                    for entry, expected in zip(entries, scenario["events"]):
                        self.assertEqual(entry.event.preimage().hex(), expected["preimage"])
                        self.assertEqual(entry.event.digest().hex(), expected["sha384_digest"])
                    events = [entry.event for entry in entries]
                    self.assertEqual(_events.replay(events).hex(), scenario["rtmr3_full"])

    def test_only_events_before_system_ready_identify(self) -> None:
        log = [mock.event("app-id", b"1"), mock.event("app-id", b"2"), mock.event("system-ready")]
        events = [entry.event for entry in _events.parse(json.dumps([*log, mock.event("late", b"3")]))]
        self.assertEqual(_events.first_payload(events, "app-id"), b"1")
        self.assertEqual(_events.payloads(events, "app-id"), [b"1", b"2"])
        self.assertEqual(_events.first_payload(events, "late"), b"")

    def test_events_of_other_types_are_not_replayed(self) -> None:
        other = {"imr": 0, "event_type": 10, "digest": "00" * 48, "event": "ACPI DATA", "event_payload": ""}
        entries = _events.parse(json.dumps([other, mock.event("a")]))
        self.assertEqual([entry.event.name for entry in entries], ["a"])

    def test_texts_that_are_no_log_are_refused(self) -> None:
        good = mock.event("a", b"1")
        for log in [
            {},
            [1],
            [{**good, "imr": -1}],
            [{**good, "imr": True}],
            [{**good, "event_type": 2**32}],
            [{**good, "event": None}],
            [{**good, "event_payload": "1"}],
            [{**good, "event_payload": "zz"}],
            [{**good, "digest": None}],
            [{**good, "version": 3}],
            [{**good, "version": True}],
            [{**good, "preimage": 1}],
            [good] * (_events.MAX_EVENTS + 1),
        ]:
            with self.subTest(log=str(log)[:120]), self.assertRaises(_events.MalformedLog):
                _events.parse(json.dumps(log))
        for text in ["", "ELGZv1", "[" + json.dumps(good)[:-1] + ', "event": "b"}]']:
            with self.assertRaises(_events.MalformedLog):
                _events.parse(text)

    def test_events_that_are_not_what_was_measured_are_refused(self) -> None:
        plain = mock.event("a", b"1")
        canonical = mock.event("b", b"1", version=2)
        for log, register in [
            ([plain], bytes(48)),
            ([], b"\1" * 48),
            ([mock.event("app-id:", b"1")], None),
            ([{**canonical, "preimage": canonical["preimage"] + "20"}], None),
            ([{**canonical, "preimage": "zz"}], None),
            ([{key: value for key, value in canonical.items() if key != "preimage"}], None),
            ([{**canonical, "imr": 2}], None),
            ([canonical, {**plain, "digest": "00" * 48}], None),
        ]:
            entries = _events.parse(json.dumps(log))
            replayed = _events.replay([entry.event for entry in entries])
            with self.subTest(log=str(log)[:120]), self.assertRaises(_events.EventError):
                _events.measured(entries, replayed if register is None else register)

    def test_stripped_events_and_later_names_are_accepted(self) -> None:
        canonical = {**mock.event("b", b"1", version=2), "digest": ""}
        del canonical["preimage"]
        for log in [
            [],
            [canonical],
            [mock.event("system-ready"), mock.event("a:b")],
            [mock.event("a:b", version=2)],
        ]:
            entries = _events.parse(json.dumps(log))
            events = [entry.event for entry in entries]
            self.assertEqual(_events.measured(entries, _events.replay(events)), events)


if __name__ == "__main__":
    unittest.main()
