"""Sessions against servers on this machine: honest ones, men in the middle, and such that misbehave."""

import contextlib
import io
import json
import socket
import ssl
import tempfile
import threading
import unittest
import unittest.mock
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

import cvm_kms
from cvm_kms import __main__ as command

from . import mock

PINS = {"root_ca_spki_sha256": mock.ROOT_SPKI_SHA256}


def connect(target: str, pins: object = PINS, **options: object) -> cvm_kms.Session:
    return cvm_kms.connect(target, pins, root_ca=mock.ROOT_CA, **options)


class Sessions(unittest.TestCase):
    def kms(self, **options: object) -> mock.FakeKms:
        found = mock.FakeKms(**options)
        self.addCleanup(found.close)
        return found

    def server(self, key: object = None) -> mock.Server:
        key = key or ec.generate_private_key(ec.SECP256R1())
        found = mock.Server(key)
        self.addCleanup(found.close)
        return found

    def session(self, target: str, *arguments: object, **options: object) -> cvm_kms.Session:
        found = connect(target, *arguments, **options)
        self.addCleanup(found.close)
        return found

    def refused(self, error: type, code: str, *arguments: object, **options: object) -> str:
        with self.assertRaises(error) as caught:
            connect(*arguments, **options)
        self.assertEqual(caught.exception.code, code, str(caught.exception))
        return str(caught.exception)

    def measured(self, kms: mock.FakeKms) -> dict:
        """Pins of what a KMS runs, without its root."""
        return {"mr_aggregated": self.session(kms.url).attestation.mr_aggregated}

    def test_a_session_uses_the_connection_that_was_verified(self) -> None:
        kms = self.kms()
        session = self.session(kms.url)
        self.assertTrue(session.attestation.fresh)
        self.assertEqual(session.attestation.statement.rpc_spki_sha256, kms.spki_sha256)
        self.assertEqual(session.get("/health").text, "OK")
        self.assertEqual(session.call("GetMeta"), {"version": "1"})
        self.assertEqual(kms.handshakes, 1)
        session.close()
        self.assertEqual(session.get("/health").status, 200)
        self.assertEqual(kms.handshakes, 2)
        self.assertEqual(sum("attestation" in line for line in kms.seen), 1)

    def test_each_attestation_has_its_own_nonce(self) -> None:
        kms = self.kms()
        session = self.session(kms.url)
        session.attest()
        asked = [line for line in kms.seen if "nonce=" in line]
        self.assertEqual((len(asked), len(set(asked))), (2, 2))
        stale = self.kms(nonce="00" * 32)
        self.refused(cvm_kms.VerificationError, "nonce", stale.url)
        old = self.kms(time=mock.NOW)
        self.refused(cvm_kms.VerificationError, "time", old.url)

    def test_wrong_pins_are_refused(self) -> None:
        kms = self.kms()
        for pins in [{"root_ca_spki_sha256": "00" * 32}, {**PINS, "compose_hash": "00" * 32}]:
            self.refused(cvm_kms.VerificationError, "pin_mismatch", kms.url, pins)
        asked = len(kms.seen)
        for pins, code in [
            (None, "no_pin"),
            ({}, "no_pin"),
            ({"app_id": "11" * 20}, "no_pin"),
            ({"root": "00" * 32}, "bad_pins"),
        ]:
            self.refused(cvm_kms.PinsError, code, kms.url, pins)
        self.assertEqual(len(kms.seen), asked, "nothing is sent with wrong pins")

    def test_a_man_in_the_middle_with_another_certificate_is_refused(self) -> None:
        kms = self.kms()
        middle = self.server()
        # It passes the true answers on, with the nonce of the caller.
        middle.routes = dict(kms.routes)
        self.refused(cvm_kms.KeyMismatchError, "tls_key", middle.url)
        self.refused(cvm_kms.KeyMismatchError, "tls_key", middle.url, self.measured(kms))
        self.assertTrue(all("nonce=" in line for line in middle.seen), middle.seen)

    def test_a_machine_that_only_names_the_root_is_refused(self) -> None:
        # It attests its own TLS key, and states the true root, which is public.
        impostor = self.kms(root=mock.root_key(2))
        self.refused(cvm_kms.VerificationError, "root_signature", impostor.url)

    def test_after_a_restart_with_another_key_the_root_decides(self) -> None:
        kms = self.kms()
        by_root = self.session(kms.url)
        by_measurement = self.session(kms.url, self.measured(kms))
        port, before = kms.port, by_root.attestation
        kms.close()
        with self.assertRaises(cvm_kms.TransportError) as caught:
            by_root.get("/health")
        self.assertEqual(caught.exception.code, "unreachable")
        after = mock.FakeKms(port)
        self.addCleanup(after.close)
        with self.assertRaises(cvm_kms.KeyMismatchError) as changed:
            by_measurement.post("/health", b"secret")
        self.assertEqual(changed.exception.code, "tls_key")
        self.assertEqual(after.seen, [], "nothing was sent to the other key")
        with self.assertRaises(cvm_kms.KeyMismatchError):
            by_measurement.attest()
        after.seen.clear()
        self.assertEqual(by_root.post("/health", b"x").text, "OK")
        self.assertNotEqual(by_root.attestation.statement.rpc_spki_sha256, before.statement.rpc_spki_sha256)
        self.assertEqual([line.split("?")[0] for line in after.seen][-1], "POST /health")
        self.assertIn("attestation.json", after.seen[0])
        self.assertEqual(self.session(after.url, self.measured(after)).get("/health").text, "OK")

    def test_another_machine_at_the_same_address_gets_no_request(self) -> None:
        kms = self.kms()
        session = self.session(kms.url)
        port = kms.port
        kms.close()
        other = mock.FakeKms(port, mock.root_key(2))
        self.addCleanup(other.close)
        for _ in range(2):
            with self.assertRaises(cvm_kms.VerificationError) as caught:
                session.post("/health", b"secret")
            self.assertEqual(caught.exception.code, "root_signature")
        self.assertTrue(all("attestation.json" in line for line in other.seen), other.seen)

    def test_redirects_are_refused(self) -> None:
        kms, elsewhere = self.kms(), self.server()
        kms.routes["/moved"] = lambda _: (307, {"Location": elsewhere.url + "/x"}, b"")
        session = self.session(kms.url)
        with self.assertRaises(cvm_kms.TransportError) as caught:
            session.get("/moved")
        self.assertEqual(caught.exception.code, "redirect")
        kms.routes["/attestation.json"] = kms.routes["/moved"]
        self.refused(cvm_kms.TransportError, "status", kms.url)
        self.assertEqual(elsewhere.handshakes, 0)

    def test_answers_are_bounded(self) -> None:
        kms = self.kms()
        session = self.session(kms.url, max_bytes=1000)
        sizes = {"/1000": (1000, {}), "/1001": (1001, {}), "/claimed": (0, {"Content-Length": str(1 << 40)})}
        for path, (size, headers) in sizes.items():
            kms.routes[path] = lambda _, size=size, headers=headers: (200, headers, b"x" * size)
        self.assertEqual(len(session.get("/1000").body), 1000)
        chunks = b"".join(b"40\r\n" + b"x" * 64 + b"\r\n" for _ in range(20)) + b"0\r\n\r\n"
        kms.routes["/chunked"] = lambda _: (200, {"Transfer-Encoding": "chunked"}, chunks)
        for path in ["/1001", "/claimed", "/chunked"]:
            with self.subTest(path), self.assertRaises(cvm_kms.TransportError) as caught:
                session.get(path)
            self.assertEqual(caught.exception.code, "answer_too_large")
        self.assertEqual(session.get("/health").text, "OK", "a new connection after a failure")
        kms.routes["/attestation.json"] = lambda _: (200, {}, b" " * ((1 << 20) + 1))
        self.refused(cvm_kms.TransportError, "answer_too_large", kms.url)

    def test_calls_tell_what_the_kms_says(self) -> None:
        kms = self.kms()
        session = self.session(kms.url)
        body = {"error": "App not allowed", "code": "denied", "denial_id": "d-1"}
        kms.routes["/prpc/KMS.GetAppKey"] = lambda _: (403, {}, json.dumps(body).encode())
        with self.assertRaises(cvm_kms.CallError) as caught:
            session.call("GetAppKey", {"vm_config": ""})
        error = caught.exception
        self.assertEqual((error.status, error.kms_code, error.denial_id), (403, "denied", "d-1"))
        self.assertIn("App not allowed", str(error))
        kms.routes["/prpc/KMS.Echo"] = lambda query: (200, {}, query["body"])
        self.assertEqual(session.call("KMS.Echo", {"a": [1, "é"]}), {"a": [1, "é"]})
        for data in [b"[]", b"x", b'{"a": 1, "a": 2}', b'{"a": NaN}']:
            kms.routes["/prpc/KMS.Odd"] = lambda _, data=data: (200, {}, data)
            with self.assertRaises(cvm_kms.TransportError) as odd:
                session.call("Odd")
            self.assertEqual(odd.exception.code, "http")
        asked = len(kms.seen)
        for method, message in [
            ("Get Meta", {}),
            ("../x", {}),
            ("", {}),
            ("Echo", {"a": float("nan")}),
            ("Echo", {1: b""}),
        ]:
            with self.assertRaises(cvm_kms.PinsError):
                session.call(method, message)
        for path in ["health", "/a b", "/a\r\nX: y", "", "/é"]:
            with self.assertRaises(cvm_kms.PinsError):
                session.get(path)
        for headers in [{"Host": "x"}, {"A\n": "x"}, {"A": "x\r\nB: y"}, {"A": "é"}, {"content-length": "1"}]:
            with self.assertRaises(cvm_kms.PinsError):
                session.get("/health", headers=headers)
        self.assertEqual(len(kms.seen), asked)

    def test_every_wait_ends(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"https://127.0.0.1:{silent.getsockname()[1]}"
            self.refused(cvm_kms.TransportError, "timeout", url, timeout=0.2)
        self.refused(cvm_kms.TransportError, "unreachable", f"https://127.0.0.1:{mock.free_port()}")
        kms = self.kms()
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        session = self.session(kms.url)
        # Only now, because a busy machine may need longer to verify.
        session._timeout = 0.5

        def wait(_: dict) -> tuple:
            go_on.wait(60)
            return 200, {}, b""

        kms.routes["/waits"] = wait
        with self.assertRaises(cvm_kms.TransportError) as caught:
            session.get("/waits")
        self.assertEqual(caught.exception.code, "timeout")
        # A header at a time: no single read is late.
        drips = self.dripping()
        self.refused(cvm_kms.TransportError, "timeout", drips, timeout=1)

    def raw(self, port: int = 0) -> tuple:
        """A socket that listens, and the TLS of a server with a key of its own."""
        key = ec.generate_private_key(ec.SECP256R1())
        listener = socket.create_server(("127.0.0.1", port))
        self.addCleanup(listener.close)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "identity.pem"
            file.write_bytes(mock.pem_identity(key))
            context.load_cert_chain(file)
        return listener, context

    def test_not_a_byte_is_written_to_another_key(self) -> None:
        kms = self.kms()
        session = self.session(kms.url, self.measured(kms))
        port = kms.port
        kms.close()
        listener, context = self.raw(port)
        # Without them the client has nothing unread when it closes, so that its end arrives as an end.
        context.num_tickets = 0
        got = []

        def serve() -> None:
            accepted, _ = listener.accept()
            accepted.settimeout(60)
            with context.wrap_socket(accepted, server_side=True, suppress_ragged_eofs=True) as stream:
                got.append(stream.recv(1000))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with self.assertRaises(cvm_kms.KeyMismatchError):
            session.post("/health", b"secret")
        thread.join(60)
        self.assertEqual(got, [b""])

    def test_threads_share_a_session(self) -> None:
        kms = self.kms()
        session = self.session(kms.url)
        kms.routes["/echo"] = lambda query: (200, {}, query["body"])
        wrong = []

        def use(name: str) -> None:
            for number in range(20):
                sent = f"{name} {number}".encode()
                if session.post("/echo", sent).body != sent:
                    wrong.append(sent)
                if number % 7 == 0:
                    session.close()

        threads = [threading.Thread(target=use, args=(str(number),)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        self.assertEqual((wrong, kms.seen.count("POST /echo")), ([], 80))

    def dripping(self) -> str:
        """A TLS server that sends a header every 50 ms."""
        listener, context = self.raw()
        over = threading.Event()
        self.addCleanup(over.set)

        def serve() -> None:
            with contextlib.suppress(OSError):
                accepted, _ = listener.accept()
                with context.wrap_socket(accepted, server_side=True) as stream:
                    stream.sendall(b"HTTP/1.1 200 OK\r\n")
                    while not over.wait(0.05):
                        stream.sendall(b"X: y\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        return f"https://127.0.0.1:{listener.getsockname()[1]}"

    def test_a_kms_may_ask_to_wait_for_its_quote(self) -> None:
        kms = self.kms()
        true, asked = kms.routes["/attestation.json"], []

        def busy(query: dict) -> tuple:
            asked.append(query["nonce"])
            return (429, {"Retry-After": "1"}, b"later") if len(asked) == 1 else true(query)

        kms.routes["/attestation.json"] = busy
        self.assertEqual(self.session(kms.url).get("/health").text, "OK")
        self.assertEqual(len(asked), 2)
        for seconds in ["31", "0", "-1", "x", "1.5", "99999999999"]:
            kms.routes["/attestation.json"] = lambda _, seconds=seconds: (
                429,
                {"Retry-After": seconds},
                b"later",
            )
            said = self.refused(cvm_kms.TransportError, "status", kms.url)
            self.assertIn("429", said)

    def test_after_a_failed_verification_nothing_is_sent_to_the_old_key_either(self) -> None:
        kms = self.kms()
        session = self.session(kms.url)
        true = kms.routes["/attestation.json"]
        kms.routes["/attestation.json"] = lambda _: true({})
        kms.seen.clear()
        for call in [session.attest, lambda: session.get("/health"), lambda: session.post("/health", b"x")]:
            with self.assertRaises(cvm_kms.VerificationError) as caught:
                call()
            self.assertEqual(caught.exception.code, "nonce")
        self.assertEqual({line.split("?")[0] for line in kms.seen}, {"GET /attestation.json"})
        kms.routes["/attestation.json"] = true
        self.assertEqual(session.get("/health").text, "OK")

    def test_a_get_is_sent_again_where_a_kept_connection_ends_and_a_post_is_not(self) -> None:
        kms = self.kms()
        session = self.session(kms.url)

        def hang_up_once(_: dict) -> tuple:
            kms.routes["/once"] = kms.routes["/health"]
            kms.connections[-1].shutdown(socket.SHUT_RDWR)
            return 200, {}, b"never read"

        kms.routes["/once"] = hang_up_once
        self.assertEqual(session.get("/once").text, "OK")
        self.assertEqual(kms.seen.count("GET /once"), 2)
        kms.routes["/once"] = hang_up_once
        with self.assertRaises(cvm_kms.TransportError) as caught:
            session.post("/once", b"x")
        self.assertEqual(caught.exception.code, "unreachable")
        self.assertEqual(kms.seen.count("POST /once"), 1)

    def test_tls_1_2_is_refused(self) -> None:
        kms = self.kms()
        kms.context.maximum_version = ssl.TLSVersion.TLSv1_2
        self.refused(cvm_kms.TransportError, "tls", kms.url)

    def test_targets_that_are_no_kms_are_refused(self) -> None:
        for target in [
            "http://127.0.0.1:1",
            "https://127.0.0.1:1/path",
            "https://user@127.0.0.1:1",
            "https://127.0.0.1:1/#x",
            "https://127.0.0.1:1/?x=1",
            "https://",
            "https://:8000",
            "https://127.0.0.1:0",
            "https://127.0.0.1:x",
            "https://a b",
            "kms.example.com",
            "a/b/c",
            "../b",
            "a/..",
            "",
        ]:
            with self.subTest(target):
                self.refused(cvm_kms.PinsError, "argument", target)

    def release(self, base: mock.Server, owner: str, data: object) -> None:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        base.routes[f"/{owner}/releases/latest/download/cvm-kms-release.json"] = lambda _: (200, {}, body)

    def test_a_repository_says_where_the_kms_is_and_what_to_pin(self) -> None:
        kms = self.kms()
        base = mock.PlainServer()
        self.addCleanup(base.close)
        nobody = f"https://127.0.0.1:{mock.free_port()}"
        self.release(
            base, "acme/kms", {"version": 1, "endpoints": [nobody, kms.url], "pins": PINS, "more": 1}
        )
        session = self.session("acme/kms", None, base=base.url)
        self.assertEqual((session.url, session.get("/health").text), (kms.url, "OK"))
        # Added pins need not identify the KMS again.
        self.session("acme/kms", {"compose_hash": "22" * 32}, base=base.url)
        self.refused(
            cvm_kms.PinsError, "bad_pins", "acme/kms", {"root_ca_spki_sha256": "00" * 32}, base=base.url
        )
        self.refused(
            cvm_kms.VerificationError, "pin_mismatch", "acme/kms", {"app_id": "00" * 20}, base=base.url
        )
        name = "/acme/kms/releases/latest/download/cvm-kms-release.json"
        base.routes["/moved" + name] = lambda _: (302, {"Location": name}, b"")
        self.session("acme/kms", None, base=base.url + "/moved")
        base.routes["/round" + name] = lambda _: (302, {"Location": "/round" + name}, b"")
        self.refused(cvm_kms.TransportError, "redirect", "acme/kms", None, base=base.url + "/round")
        self.refused(cvm_kms.TransportError, "status", "acme/other", None, base=base.url)
        for other in ["http://192.0.2.1", "ftp://127.0.0.1", base.url + "/?x=", "x"]:
            self.refused(cvm_kms.PinsError, "argument", "acme/kms", None, base=other)
        for place in ["http://192.0.2.1/", "ftp://127.0.0.1/", "https://user@127.0.0.1/", "https://[/"]:
            base.routes["/to" + name] = lambda _, place=place: (302, {"Location": place}, b"")
            self.refused(cvm_kms.TransportError, "redirect", "acme/kms", None, base=base.url + "/to")
        for data in [
            b"x",
            b" " * 70_000,
            {"version": 2, "endpoints": [kms.url], "pins": PINS},
            {"version": 1, "endpoints": [], "pins": PINS},
            {"version": 1, "endpoints": ["http://127.0.0.1:1"], "pins": PINS},
            {"version": 1, "endpoints": kms.url, "pins": PINS},
            {"version": 1, "endpoints": [kms.url]},
            {"version": 1, "endpoints": [kms.url], "pins": {"root": "00" * 32}},
        ]:
            self.release(base, "acme/kms", data)
            with self.subTest(data=str(data)[:80]), self.assertRaises(cvm_kms.CvmKmsError) as caught:
                connect("acme/kms", None, base=base.url)
            self.assertIn(caught.exception.code, ("release", "answer_too_large"))

    def test_the_release_of_an_untrusted_server_is_refused(self) -> None:
        base = self.server()
        self.refused(cvm_kms.TransportError, "tls", "acme/kms", None, base=base.url)
        self.assertEqual(base.seen, [])

    def test_proxies_of_the_environment_are_not_used(self) -> None:
        kms = self.kms()
        with unittest.mock.patch.dict(
            "os.environ", {"https_proxy": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"}
        ):
            self.assertEqual(self.session(kms.url).get("/health").text, "OK")


class Command(unittest.TestCase):
    def run_command(self, *arguments: str) -> tuple:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            status = command.main(["verify", *arguments])
        return status, json.loads(out.getvalue())

    def test_the_command_tells_what_is_proved(self) -> None:
        kms = mock.FakeKms()
        self.addCleanup(kms.close)
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            (directory / "root.der").write_bytes(mock.ROOT_CA)
            (directory / "pins.json").write_text(json.dumps(PINS))
            (directory / "wrong.json").write_text(json.dumps({"mr_aggregated": "00" * 32}))
            (directory / "bad.json").write_text('{"mr_aggregated": 1, "mr_aggregated": 2}')
            (directory / "saved.json").write_text(json.dumps(mock.answer()))
            (directory / "offline.json").write_text(json.dumps(PINS))
            file = lambda of: str(directory / of)  # noqa: E731
            root = ["--root-ca", file("root.der")]
            status, said = self.run_command(kms.url, "--pins", file("pins.json"), *root)
            self.assertEqual((status, said["verified"]), (0, True))
            self.assertEqual(said["proved"]["statement"]["rpc_spki_sha256"], kms.spki_sha256)
            saved = [file("saved.json"), "--pins", file("offline.json"), *root, "--now", str(mock.NOW)]
            self.assertEqual(self.run_command(*saved)[0], 0)
            for arguments, expected, code in [
                ([*saved, "--max-age", "0", "--now", str(mock.NOW + 1)], 1, "time"),
                ([kms.url, "--pins", file("wrong.json"), *root], 1, "pin_mismatch"),
                ([kms.url, "--pins", file("pins.json")], 1, "quote"),
                ([kms.url, "--pins", file("bad.json"), *root], 2, "bad_pins"),
                ([kms.url, *root], 2, "no_pin"),
                ([file("saved.json"), *root], 2, "no_pin"),
                ([file("none.json"), "--pins", file("pins.json")], 2, "argument"),
                ([kms.url, "--pins", file("none.json")], 2, "argument"),
                ([kms.url, "--pins", file("pins.json"), *root, "--tcb-status", "OutOfDate"], 1, "tcb_status"),
                (saved[:-2], 1, "time"),
                ([*saved[:-2], "--any-age"], 0, None),
                ([kms.url, "--pins", file("pins.json"), "--now", "1"], 2, "argument"),
                ([f"https://127.0.0.1:{mock.free_port()}", "--pins", file("pins.json")], 3, "unreachable"),
            ]:
                with self.subTest(arguments=arguments):
                    status, said = self.run_command(*arguments)
                    self.assertEqual((status, said.get("code")), (expected, code), said)


if __name__ == "__main__":
    unittest.main()
