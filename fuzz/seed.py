#!/usr/bin/env python3
"""Writes the seeds of every fuzz target into fuzz/corpus/<target>/, from tests/vectors and from the texts below.

Run it after the vectors or an input format changed: python3 fuzz/seed.py. It rewrites the files that it made before,
named `seed-…`, and leaves others, such as inputs that fuzzing found (`found-…`), where they are.
"""

import base64
import gzip
import hashlib
import json
import re
import struct
from pathlib import Path

HERE = Path(__file__).resolve().parent
VECTORS = HERE.parent / "tests" / "vectors"
FIXTURES = VECTORS / "fixtures"


def vectors(name):
    return json.loads((VECTORS / f"{name}.json").read_text())


def named(entries, *names):
    return {name: next(entry for entry in entries if entry["name"] == name) for name in names}


def evidence():
    """The smallest evidence of each platform in both wire forms, and every unusual way to write MessagePack."""
    attestation = vectors("attestation")
    names = [
        "mock-tdx-v0-stripped", "mock-tdx-v1-v2events-with-preimages-stripped", "synthetic-gcp-tdx-v0",
        "synthetic-gcp-tdx-v1", "synthetic-aws-nitro-tpm-v0", "synthetic-aws-nitro-tpm-v1", "synthetic-nitro-enclave-v0",
        "synthetic-nitro-enclave-v1", "synthetic-sev-snp-v0", "synthetic-sev-snp-v1",
    ]
    for name, blob in named(attestation["blobs"], *names).items():
        yield name, bytes.fromhex(blob["bytes"])
    for failure in attestation["decode_failures"]:
        if len(failure["bytes"]) < 100:
            yield failure["name"], bytes.fromhex(failure["bytes"])
    for case in vectors("msgpack_leniency")["cases"]:
        yield case["name"], bytes.fromhex(case["bytes"])


def identity():
    attestation = vectors("attestation")
    yield "tdx-quote", bytes.fromhex((FIXTURES / "dcap-qvl/tdx-quote.hex").read_text().strip().removeprefix("0x"))
    yield "nitro-enclave", (FIXTURES / "dstack/nitro_attestation_dbg.bin").read_bytes()
    for name, blob in named(attestation["blobs"], "synthetic-aws-nitro-tpm-v0", "synthetic-nitro-enclave-v0").items():
        # V0: a zero byte, the platform's index, a length of two bytes, and the document.
        yield f"document-of-{name}", bytes.fromhex(blob["bytes"])[4:]
    for index, info in enumerate(vectors("certs")["app_info_extension"]):
        yield f"app-info-{index}", bytes.fromhex(info["msgpack"])
    for index, config in enumerate(attestation["mr_config_ids"]):
        if "document" in config:
            yield f"mr-config-{index}", config["document"].encode()
    yield "vm-config", attestation["request_vm_config"].encode()
    yield "vm-config-nested", json.dumps({"vm_config": attestation["request_vm_config"]}).encode()
    yield "vm-config-all", json.dumps({
        "os_image_hash": "ab", "cpu_count": 2, "memory_size": 1 << 31, "qemu_single_pass_add_pages": True, "pic": False,
        "qemu_version": "9.2.1", "num_nics": 2, "num_verity_volumes": 1, "swtpm": True, "image": "dstack-0.6.0",
        "host_share_mode": "9p", "ovmf_variant": "pre202505", "tdx_attestation_variant": "lite",
        "tdx_measurement": {"checksum_file": "YQ==", "measurement": "Yg=="},
    }).encode()


def ra_tls_certificate():
    certificates = vectors("certs")
    for name, certificate in named(certificates["certificates"], "kms-root-ca", "kms-rpc-unattested", "app-ca",
                                   "generalizedtime-2050").items():
        yield name, bytes.fromhex(certificate["der"])
    clients = ["ra-client-v0", "ra-client-v1-with-v2-events", "ra-client-legacy-oids-gzip-log",
               "ra-client-legacy-oids-no-log"]
    for name, certificate in named(certificates["client_certificates"], *clients).items():
        yield name, bytes.fromhex(certificate["der"])
    blobs = vectors("attestation")["blobs"]
    for name, blob in named(blobs, "synthetic-aws-nitro-tpm-v0", "synthetic-nitro-enclave-v1").items():
        yield f"carried-{name}", bytes.fromhex(blob["bytes"])
    yield "carried-app-info", bytes.fromhex(certificates["app_info_extension"][0]["msgpack"])
    yield "carried-app-id", bytes(range(20))
    yield "carried-usage", b"kms:rpc"


def event_log():
    for scenario in vectors("eventlog")["scenarios"]:
        name, events = scenario["name"], scenario["events"]
        if name in ("kms-app-v2", "mixed-versions-with-post-ready-events"):
            log = ",".join(event["tdx_event_json_with_preimage"] for event in events[:8])
            yield f"log-{name}", f"[{log}]".encode()
        if name in ("kms-app-v1", "system-ready-first", "empty"):
            log = "[" + ",".join(event["tdx_event_json"] for event in events[:5]) + "]"
            yield f"log-{name}", log.encode()
            yield f"compressed-{name}", b"ELGZv1" + gzip.compress(log.encode(), 9, mtime=0)
        if name in ("mixed-versions-with-post-ready-events", "duplicate-events", "no-boot-mr-done"):
            yield f"events-{name}", ("[" + ",".join(event["runtime_event_json"] for event in events) + "]").encode()
    bomb = b"[" + b" " * (1 << 20) + b"]"
    yield "compressed-bomb", b"ELGZv1" + gzip.compress(bomb, 9, mtime=0)


def scale_text(text):
    length = len(text)
    prefix = (length << 2).to_bytes(1, "little") if length < 64 else (length << 2 | 1).to_bytes(2, "little")
    return prefix + text.encode()


def csr():
    """A version, then the fields after the key of a request, which the target signs."""
    confirm_and_key = 18 + 2 + 91
    requests = named(vectors("certs")["csr"], "v1", "v2-config0-attestation-v0", "v2-config2-attestation-v1")
    for name, request in requests.items():
        yield name, bytes([request["api_version"]]) + bytes.fromhex(request["csr"])[confirm_and_key:]
    yield "v2-whole", bytes([2]) + bytes.fromhex(requests["v2-config0-attestation-v0"]["csr"])[:600]
    blob = named(vectors("attestation")["blobs"], "synthetic-nitro-enclave-v0")["synthetic-nitro-enclave-v0"]
    evidence = bytes.fromhex(blob["bytes"])
    for name, subject, names, flags, dates in [
        ("plain", "app", ["app.example.com", "10.0.2.3"], "010101" "00", b"\0\0"),
        ("app-info", "app", [], "000001" "01", b"\0\0"),
        ("dated", "app", [], "000001" "00", b"\x01" + bytes(8) + b"\x01" + (4 << 30).to_bytes(8, "little")),
        ("never", "app", [], "000001" "00", b"\0\x01" + bytes([255] * 8)),
        ("own-name", "app", ["*.example.com"], "010000" "00", b"\0\0"),
        ("own-subject", "kms.example.com", [], "010000" "00", b"\0\0"),
    ]:
        head = b"\x01" + scale_text("Org") + scale_text(subject)
        listed = bytes([len(names) << 2]) + b"".join(scale_text(name) for name in names)
        yield f"v2-small-{name}", b"\x02" + head + listed + bytes.fromhex(flags) + dates + evidence


def tag(number, kind, payload):
    return bytes([number << 3 | kind]) + payload


def field(number, payload):
    return tag(number, 2, bytes([len(payload)]) + payload)


METHODS = ["GetAppKey", "GetKmsKey", "GetAppEnvEncryptPubKey", "GetMeta", "GetTempCaCert", "GetChallenge", "SignCert",
           "LegacyClearImageCache", "Bootstrap", "Onboard", "GetAttestationInfo", "Finish", "ClearImageCache"]

BODIES = {
    "GetAppKey": (b"api_version=1&vm_config=%7B%7D", {"api_version": 1, "vm_config": "{}"},
                  tag(1, 0, b"\x01") + field(2, b"{}")),
    "GetKmsKey": (b"vm_config=%7b%7d+", {"vm_config": "{}"}, field(1, b"{}")),
    "GetAppEnvEncryptPubKey": (b"app_id=0x00fF", {"app_id": "0x00fF"}, field(1, bytes(20))),
    "GetMeta": (b"", {}, b""),
    "SignCert": (b"api_version=2&csr=00&signature=3000", {"api_version": "2", "csr": "00", "signature": "", "vm_config": ""},
                 tag(1, 0, b"\x02") + field(2, b"\0") + field(3, b"0\0") + field(4, b"{}")),
    "LegacyClearImageCache": (b"token=t&image_hash=all", {"token": "t", "image_hash": "all", "config_hash": ""},
                              field(1, b"t") + field(2, b"all")),
    "Bootstrap": (b"domain=kms.example.com", {"domain": "kms.example.com"}, field(1, b"kms.example.com")),
    "Onboard": (b"source_url=https://a/prpc&domain=b", {"source_url": "https://a/prpc", "domain": "b"},
                field(1, b"https://a") + field(2, b"b")),
    "Finish": (b"", {}, b""),
    "ClearImageCache": (b"image_hash=a&config_hash=b", {"image_hash": "a", "config_hash": "b"},
                        field(1, b"a") + field(2, b"b")),
}


def prpc():
    """A method, a form of request (query, typed JSON, `?json`, sniffed, another verb), then the message."""
    for method, (query, message, protobuf) in BODIES.items():
        row = METHODS.index(method)
        text = json.dumps(message).encode()
        forms = [(0, query), (2, text), (5, protobuf)]
        if method == "GetAppKey":
            forms += [(4, text), (6, text), (7, b"")]
        for form, payload in forms:
            yield f"{method}-{form}", bytes([row, form]) + payload
    yield "braced-protobuf", bytes([1, 5]) + field(1, b'{"a":"bc"}')
    yield "array", bytes([2, 2]) + b'["0xAB"]'
    yield "unknown-and-duplicate", bytes([2, 2]) + b'{"later":[1,{"a":null}],"app_id":"00","app_id":"01"}'
    yield "unknown-protobuf-group", bytes([0, 5]) + b"\x7b\x08\x01\x7c" + tag(1, 0, b"\xff" * 9 + b"\x01")


MESSAGES = ["GetAppKeyRequest", "AppId", "PublicKeyResponse", "AppKeyResponse", "GetMetaResponse", "GetKmsKeyRequest",
            "KmsKeys", "KmsKeyResponse", "GetTempCaCertResponse", "SignCertRequest", "SignCertResponse",
            "LegacyClearImageCacheRequest", "ClearImageCacheRequest", "BootstrapRequest", "BootstrapResponse",
            "OnboardRequest", "OnboardResponse", "AttestationInfoResponse", "PrpcError"]


def session():
    """Two sessions: challenge, digests of both keys, exporter, method."""
    one = b"".join(bytes([number]) * 32 for number in (1, 2, 3, 4)) + b"KMS.GetAppKey"
    yield "same", one + one
    yield "other-challenge", one + bytes(32) + one[32:]
    yield "other-method", one + one[:-3] + b"Kms"
    yield "short", b"\1" * 40


def message():
    """A message, then its encoding."""
    texts = {
        "PublicKeyResponse": '{"public_key":"00","signature":"0x0102","timestamp":"1700000000","signature_v1":""}',
        "AppKeyResponse": '{"ca_cert":"pem","disk_crypt_key":"00","k256_key":"01","gateway_app_id":"g","os_image_hash":""}',
        "GetMetaResponse": '{"ca_cert":"c","allow_any_upgrade":true,"k256_pubkey":"02","bootstrap_info":{"ca_pubkey":"00",'
                           '"k256_pubkey":"01","attestation":""},"is_dev":false,"gateway_app_id":null,"chain_id":"1",'
                           '"relaxed_settings":["dev_auth"],"auth_info_age_seconds":3}',
        "KmsKeyResponse": '{"temp_ca_key":"k","keys":[{"ca_key":"c","k256_key":"00"}]}',
        "SignCertResponse": '{"certificate_chain":["leaf","ca"]}',
        "AttestationInfoResponse": '{"device_id":"00","tee_variant":"dstack-tdx","attestation_mode":"dstack-tdx",'
                                   '"site_name":"here","ppid":"ff"}',
        "OnboardResponse": "k256_pubkey=02ab",
        "AppId": "app_id=0x00",
    }
    for name, text in texts.items():
        yield name, bytes([MESSAGES.index(name)]) + text.encode()
    for name, protobuf in {
        "GetMetaResponse": field(1, b"c") + tag(2, 0, b"\x01") + field(4, field(1, b"\0")) + tag(8, 0, b"\xac\x02")
                           + b"\xa2\x06\x01v" + b"\xaa\x06\x08dev_auth" + b"\xb0\x06\x05",
        "KmsKeyResponse": field(1, b"k") + field(2, field(1, b"c") + field(2, b"\0")),
        "AttestationInfoResponse": field(1, b"\0") + field(4, b"dstack-tdx") + field(8, b"\xff"),
        "PrpcError": field(1, b"no such app"),
    }.items():
        yield f"{name}-protobuf", bytes([MESSAGES.index(name)]) + protobuf


def config():
    defaults = (HERE.parent / "kms.toml").read_text()
    bare = "\n".join(line for line in defaults.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    yield "defaults", bare.encode()
    for name, text in {
        "dev": '[core.auth_api]\ntype = "dev"\n[core.auth_api.dev]\ngateway_app_id = "any"\n',
        "allowlist": '[core.auth_api]\ntype = "allowlist"\nallowlist = { path = "/a.json", strict_devices = true }\n',
        "webhook": '[core.auth_api]\ntype = "webhook"\nwebhook.url = "http://auth-api:8000"\n',
        "admin": '[core.admin]\nenabled = true\nauth_token = "0123456789abcdefXYZ"\nport = 8001\n',
        "no-tee": '[core]\ninsecure_no_tee = true\nenforce_self_authorization = false\n[core.attester]\ntype = "none"\n',
        "limits": '[rpc.limits]\nSignCert = "2MiB"\n[core.limits]\nrequest_timeout = "1m"\nmax_connections = 9\n',
        "typo": '[core]\ncert_dri = "/x"\n[cor]\nx = 1\n[core.image]\ndownload_timeout = "5 parsecs"\n',
        "types": 'rpc = 1\ncore.image = [1, 2.5, 1979-05-27T07:32:00Z, nan, """\n"""]\n',
        "deep": "a." * 70 + "a = 1\n",
        "broken": 'core = { auth_token = "0123456789abcdefXYZ"',
        "json": '{"core":{"admin":{"enabled":true,"auth_token":"0123456789abcdefXYZ"},"x":null},"rpc":{"port":-1}}',
        "json-list": "{}\n",
        "json-broken": '{"core":',
    }.items():
        yield name, text.encode()


def allowlist():
    app = {"composeHashes": ["0xE5"], "devices": ["f6"], "allowAnyDevice": False}
    full = {"gatewayAppId": "0x01", "kmsContractAddr": "0x02", "chainId": 1, "appImplementation": "0x03",
            "osImages": ["0xb2"], "allowedTcbStatuses": ["UpToDate"], "allowedAdvisoryIds": ["INTEL-SA-1"],
            "kms": {"mrAggregated": ["a1"], "devices": [], "allowAnyDevice": False}, "apps": {"0xD4": app}}
    for name, file in {
        "empty": {},
        "full": full,
        "any-device": full | {"apps": {"d4": app | {"devices": [], "allowAnyDevice": True}}},
        "empty-devices": full | {"apps": {"d4": app | {"devices": []}, "D4": app}},
        "other-app": full | {"apps": {"": app, "zz": app, "0x0xd4": app}},
        "outdated": full | {"allowedTcbStatuses": ["OutOfDate"], "osImages": ["", "0x", "b2", "B2"]},
        "wrong-types": full | {"apps": [app]},
        "unknown": full | {"later": {"a": [1, 2.5, None]}},
    }.items():
        yield name, json.dumps(file).encode()
    for name, stage in {"boot": "boot", "null": None, "wrong": "later", "object": {"boot": None}}.items():
        yield f"release-stage-{name}", json.dumps(full | {"apps": {"d4": app | {"releaseStage": stage}}}).encode()
    yield "release-stage-of-nobody", json.dumps(full | {"apps": {"zz": {"releaseStage": "later"}}}).encode()
    yield "same-key-twice", b'{"osImages":["b2"],"apps":{"d4":{"composeHashes":["e5"]},"d4":{}}}'
    yield "not-json", b'{"apps":'


def policy_bundle():
    """Texts that the target signs, and records."""
    header = {"name": "prod", "domain": "default", "serial": 1, "not_before": "2026-01-01T00:00:00Z",
              "expires": "2026-07-01T00:00:00Z", "previous": None}
    rules = '{\n  "osImages": ["b2"],\n  "apps": {}\n}'
    for name, (changed, policy) in {
        "first": ({}, rules),
        "second": ({"serial": 2, "previous": "07" * 32}, rules),
        "other-domain": ({"domain": "sandbox"}, rules),
        "unknown-field": ({"x": 1}, rules),
        "twice": ({}, '{"apps":{},"apps":{}}'),
    }.items():
        line = json.dumps(header | changed, separators=(",", ":"))
        yield name, f"cvm-kms/policy-bundle/v1\n{line}\n{policy}\n".encode()
    def minisign(name):
        return (VECTORS / "minisign" / name).read_bytes()

    yield "minisign", minisign("prod-1.bundle") + b"\n" + minisign("prod-1.one.minisig") + minisign("prod-1.two.minisig")
    yield "minisig", minisign("prod-1.one.legacy.minisig")
    yield "record", b'{"version":1,"bundles":{"floor":0,"in_force":null,"pending":null,"fork":null,"seen":[]}}'


def collateral():
    for name in ("good", "no-root-crl"):
        yield name, json.dumps(vectors("tdx_quotes")["collateral"][name]).encode()


def stored_collateral():
    parts = {name: vectors("tdx_quotes")["collateral"]["good"][name] for name in (
        "pck_crl_issuer_chain", "root_ca_crl", "pck_crl", "tcb_info_issuer_chain", "tcb_info", "tcb_info_signature",
        "qe_identity_issuer_chain", "qe_identity", "qe_identity_signature")}
    documents = json.dumps(parts, separators=(",", ":")).encode()
    line = b"cvm-kms collateral 1 1750000000"
    digest = hashlib.sha256(line + b"\n" + documents).hexdigest().encode()
    yield "file", line + b" " + digest + b"\n" + documents
    yield "documents", documents[:4096]
    yield "later-version", b"cvm-kms collateral 2 1750000000 " + digest + b"\n{}"


def key_pem():
    root = vectors("keys")["root_ca"]
    pem = next(value for value in root.values() if isinstance(value, str) and value.startswith("-----BEGIN"))
    yield "pkcs8", pem.encode()
    yield "crlf-and-text", b"text\r\n" + pem.replace("\n", "\r\n").encode() + b"text"
    for key, value in root.items():
        if isinstance(value, str) and re.fullmatch(r"(?:[0-9a-f]{2})+", value):
            yield key, bytes.fromhex(value)


def keyring():
    def epoch(number, times, *keys):
        ends = (b"\0" if time is None else b"\1" + struct.pack(">Q", time) for time in times)
        kind = b"\1" if len(keys[0]) == 32 else b"\2"
        return struct.pack(">I", number) + b"".join(ends) + kind + b"".join(keys)

    def encoding(*epochs):
        return b"cvmkms-1" + b"\x22" * 32 + struct.pack(">I", len(epochs)) + b"".join(epochs)

    public = vectors("keys")
    spki, point = public["root_ca"]["spki_der"], public["root_k256"]["public_key_compressed"]
    first = epoch(0, [None, 0, None, None], b"\x11" * 32, b"\x33" * 32)
    second = epoch(1, [1, 2, None, None], b"\x12" * 32, b"\x34" * 32)
    destroyed = epoch(0, [None, 0, 5, 6], bytes.fromhex(spki), bytes.fromhex(point))
    yield "first", encoding(first)
    yield "several", encoding(first, second, epoch(2, [3, None, None, None], b"\x13" * 32, b"\x35" * 32))
    yield "destroyed", encoding(destroyed, second)
    yield "none-active", encoding(destroyed)
    yield "gone", encoding(epoch(0, [None, 0, 5, None], b"\x11" * 32, b"\x33" * 32))
    entry = {"epoch": 0, "times": {"activate_at": 0}, "ca_spki": spki, "k256_public": point}
    held = {"ca_key": public["root_ca"]["scalar"], "k256_key": public["root_k256"]["file_bytes"], "ca_cert": "PEM"}
    later = {**entry, **held, "epoch": 1, "times": {"prepared_at": 1}}
    gone = {**entry, "times": {"activate_at": 0, "retired_at": 5, "destroyed_at": 6}}
    files = {"file": [entry, later], "file-destroyed": [gone, later], "file-gap": [later], "file-none": []}
    for name, epochs in files.items():
        yield name, json.dumps({"version": 1, "epochs": epochs}, indent=2).encode()
    yield "file-later-version", json.dumps({"version": 2, "epochs": [entry]}).encode()


def oidc():
    def token(header, claims, signature=b"x" * 64):
        parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
        return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)

    claims = {"iss": "https://id.example", "aud": ["kms"], "sub": "alice", "exp": 1800000600, "nbf": 1800000000,
              "iat": 1800000000.5, "realm_access": {"roles": ["owners"]}}
    yield "token", token({"alg": "EdDSA", "kid": "k", "typ": "at+jwt"}, claims)
    yield "token-none", token({"alg": "none"}, claims, b"")
    yield "token-hs256", token({"alg": "HS256", "kid": "k"}, claims)
    yield "claims", json.dumps(claims).encode()
    yield "claims-repeated", b'{"sub":"a","sub":"b"}'
    yield "keys", json.dumps({"keys": [
        {"kty": "RSA", "kid": "r", "use": "sig", "alg": "RS256", "n": "A" * 342, "e": "AQAB"},
        {"kty": "EC", "crv": "P-256", "kid": "e", "key_ops": ["verify"], "x": "A" * 43, "y": "A" * 43},
        {"kty": "OKP", "crv": "Ed25519", "kid": "o", "x": "A" * 43},
        {"kty": "oct", "k": "c2VjcmV0"},
    ]}).encode()


def operator():
    token = "0123456789abcdef0123456789abcdef"
    yield "bearer", f"Bearer {token}".encode()
    yield "token", token.encode()
    yield "basic", b"Basic MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY6"
    yield "basic-without-colon", b"basic bm9jb2xvbg=="
    yield "htpasswd", b"# people\n\nalice:$2y$05$" + b"a" * 53 + b"\n"
    yield "htpasswd-md5", b"alice:$apr1$x\n"


def events():
    yield "query", b"since=2h&until=2026-01-01T00:00:00Z&type=denied&app_id=0xab&source=kms&limit=5&cursor=9&format=text"
    yield "id", b"17"
    yield "lines", b"disk swapped\n\x1b[31mred\xff\r\n" + "\u202e\u2028".encode() + b"\nno end"
    yield "record", (b'{"seq":7,"time":"2026-01-02T03:04:05.678Z","prev":"00","event":"denied","app_id":"aa","code":"c",'
                     b'"reason":"a\\nb","remote":"::1","hash":"11"}')
    yield "reported", (b'{"seq":8,"time":"2026-01-02T03:04:05.678Z","prev":"00","event":"reported","source":"api",'
                       b'"message":"hello","by":"user eve","remote":"::1","hash":"11"}')


def dotenv():
    """Files as people write them, and plaintexts."""
    yield "plain", b"# comment\nA=1\n B = two words \r\nC='quoted'\nD=x # y\nA=2\n"
    yield "unicode", "\u00c4=\u00e9\U0001f600\u00a0\n".encode()
    yield "nonsense", b"A=1\nnonsense\n"
    yield "export", b"export A=1\n"
    for index, case in enumerate(vectors("keys")["env_encryption"][:2]):
        yield f"plaintext-{index}", case["plaintext"].encode()


def known_signers():
    """Lists of known signers."""
    key = vectors("keys")["guest_getkey_chain"][0]["kms_root_public_key"]
    yield "list", f"# mine\nkms.example:8000 {key} first\n\n[::1]:443\t0x{key}\n".encode()
    yield "no-port", f"kms.example {key}\n".encode()
    yield "no-key", b"kms.example:8000 02\n"


def proof():
    """Responses that prove a KMS of the development root, responses that do not, and allowlists."""
    certificates = {certificate["name"]: certificate["pem"] for certificate in vectors("certs")["certificates"]}
    keys = vectors("keys")
    signed = next(case for case in keys["env_pubkey_signatures"] if case["timestamp"] == "1700000000")
    meta = {
        "ca_cert": certificates["kms-root-ca"], "k256_pubkey": keys["guest_getkey_chain"][0]["kms_root_public_key"],
    }
    answer = {name: signed[name] for name in ["public_key", "signature", "signature_v1"]}
    document = {
        "format": "kms-proof-1", "url": "https://kms.example.com/prpc", "taken_at": 1700000000,
        "server_certificate": certificates["kms-rpc"], "ca_cert": certificates["kms-root-ca"], "meta": meta,
        "env_key": {"app_id": signed["app_id"], "answer": answer | {"timestamp": 1700000000}},
        "collateral": vectors("tdx_quotes")["collateral"]["good"], "bootstrap_collateral": None,
    }
    yield "proven", json.dumps(document).encode()
    less = document | {"server_certificate": certificates["kms-rpc-unattested"], "collateral": None}
    yield "unattested", json.dumps(less).encode()
    nothing = {name: None for name in document} | {name: document[name] for name in ["format", "url", "taken_at"]}
    yield "nothing", json.dumps(nothing | {"missing": {"server_certificate": "connection failed"}}).encode()
    value = "ab" * 32
    yield "allowlist", json.dumps([{"name": "a", "mr_aggregated": value}, {"mr_system": ["0x" + value]}]).encode()
    yield "allowlist-unmeasured", json.dumps({"device_id": value}).encode()


def ethereum():
    """A choice of use, then the return value of a contract, the result for a block or a chain, or a complete body."""
    word = lambda number: number.to_bytes(32, "big")
    tail = lambda text: word(len(text.encode())) + text.encode() + bytes(-len(text.encode()) % 32)
    verdict = lambda is_allowed, reason: bytes([0]) + word(is_allowed) + word(64) + tail(reason)
    yield "allowed", verdict(1, "")
    yield "allowed-with-reason", verdict(1, "welcome")
    yield "denied", verdict(0, "Compose hash not allowed")
    yield "denied-at-length", verdict(0, "\u00e9" * 700)
    yield "other-boolean", verdict(2, "")
    yield "other-offset", bytes([0]) + word(1) + word(96) + word(0) + word(0)
    yield "empty", bytes([0])
    yield "gateway", bytes([3]) + word(32) + tail("0xgateway")
    yield "implementation", bytes([4]) + bytes(12) + b"\x11" * 20
    yield "implementation-too-wide", bytes([4]) + b"\x11" * 32
    yield "block-missing", bytes([5]) + b"null"
    for name, number in [("old", "0x1"), ("far", "0xffffffffffffffff")]:
        block = {"number": number, "hash": "0x" + "cd" * 32, "timestamp": number}
        yield f"block-{name}", bytes([5]) + json.dumps(block).encode()
    yield "chain-other", bytes([6]) + b'"0x2105"'
    for name, body in [
        ("error", '{"jsonrpc":"2.0","id":null,"error":{"code":3,"message":"execution reverted"}}'),
        ("html", "<html>502</html>"),
        ("result", '{"jsonrpc":"2.0","id":6,"result":"0x"}'),
    ]:
        yield f"body-{name}", bytes([7]) + body.encode()


def tcb_info():
    """TCB info and QE identity of real collateral, shortened to the fields that are read."""
    for name in ["tdx_quote", "tdx_quote_outdated"]:
        collateral = json.loads((FIXTURES / f"dcap-qvl/{name}_collateral.json").read_text())
        yield name, collateral["tcb_info"].encode() + b"\0" + collateral["qe_identity"].encode()


def webhook():
    """A choice of status, then the body."""
    denied = {"isAllowed": False, "gatewayAppId": "", "reason": "compose hash not allowed"}
    for name, choice, body in [
        ("allowed", 0, json.dumps({"isAllowed": True, "gatewayAppId": "0x01", "reason": ""})),
        ("denied", 0, json.dumps(denied)),
        ("denied-at-length", 0, json.dumps(denied | {"reason": "\n\u00e9" * 300}, ensure_ascii=False)),
        ("denied-with-status", 6, json.dumps(denied)),
        ("allowed-with-status", 9, json.dumps({"isAllowed": True, "gatewayAppId": "", "reason": ""})),
        ("text", 0, "isAllowed"),
        ("by-position", 0, '[true,"g",""]'),
        ("empty", 4, ""),
        ("elsewhere", 5, ""),
    ]:
        yield name, bytes([choice]) + body.encode()


def question():
    good = {"teeVariant": "dstack-tdx", "mrAggregated": "a1", "osImageHash": "0xB2", "mrSystem": "c3", "appId": "0Xd4",
            "composeHash": "e5", "instanceId": "", "deviceId": "f", "tcbStatus": "UpToDate", "advisoryIds": ["INTEL-SA-1"]}
    yield "whole", json.dumps(good).encode()
    yield "least", json.dumps({key: good[key] for key in good if key.endswith(("Hash", "Id", "gated"))}).encode()
    yield "null", json.dumps(good | {"appId": None}).encode()
    yield "number-among-advisories", json.dumps(good | {"advisoryIds": ["a", 1]}).encode()
    yield "list", b'["a1", "b2"]'
    yield "no-hex", json.dumps(good | {"appId": "\u00e9", "composeHash": " e5"}).encode()


def request_headers():
    yield "id", b"01HV-x_y.z"
    yield "long-id", b"7" * 65
    yield "parent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    yield "later-parent", b"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more"
    yield "no-trace", b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01"


def os_image():
    """A choice and an amount of memory, then a document, an image as `image` takes it, or a text."""
    vectors_ = vectors("os_image")
    launch = vectors_["sev_snp"][0]
    yield "sev-snp-document", b"\x04\x00" + bytes.fromhex(launch["measurement_snp_cbor"])
    yield "sev-snp-config", b"\x04\x00" + launch["vm_config"].encode()
    for index, image in enumerate(vectors_["images"]):
        files = {name: base64.b64decode(content) for name, content in image["files_base64"].items()}
        yield f"document-{index}", b"\x00\x00" + files["measurement.tdx.cbor"]
        yield f"metadata-{index}", b"\x03\x00" + files["metadata.json"]
        if index > 0:
            continue
        # The descriptor and its sections, moved to directly before the table of GUIDs that ends the firmware.
        firmware, table = files["ovmf.fd"], 256
        start = firmware.rindex(b"TDVF")
        count = int.from_bytes(firmware[start + 12:start + 16], "little")
        descriptor = firmware[start:start + 16 + 32 * count]
        before = (len(firmware) - start).to_bytes(4, "little")
        after = (len(descriptor) + table).to_bytes(4, "little")
        end = descriptor + firmware[-table:].replace(before, after, 1)
        kernel, tables = files["bzImage"], bytes.fromhex(vectors_["acpi_tables"])
        lengths = len(kernel).to_bytes(2, "little") + len(tables).to_bytes(2, "little")
        for memory in range(2):
            yield f"image-memory-{memory}", bytes([1, memory]) + lengths + kernel + tables + end
    yield "configuration", b"\x03\x00" + vectors_["legacy"][0]["vm_config"].encode()
    yield "manifest", b"\x03\x00" + b"".join(b"%064x  file-%d\n" % (number, number) for number in range(3))
    yield "manifest-unsafe", b"\x03\x00" + b"0" * 64 + b"  ../kernel\n"


def acpi():
    """Shapes of each kind as text and as numbers."""
    cases = json.loads((VECTORS / "acpi" / "acpi_tables.json").read_text())["vectors"]
    for index, case in enumerate(case for case in cases if case["qemu_version"].startswith("10.0")):
        if index % 4 == 0:
            yield f"shape-{index}", json.dumps(case["vm_config"]).encode()
    yield "numbers", bytes([3, 8, 0, 16, 2, 1, 1, 0, 0b10, 0])
    yield "numbers-huge-pages", bytes([0, 4, 0, 8, 1, 0, 1, 1, 0b11, 64])
    yield "numbers-nodes", bytes([5, 8, 0, 16, 2, 0, 2, 0, 0b10, 0, 5, 7, 8, 2])
    yield "numbers-many-cpus", bytes([4, 255, 255, 8, 0, 0, 1, 0, 0, 0])


def ledger():
    """A choice of format, then the text or bytes."""
    lists = vectors("ledger")
    for name, case in named(lists["checkpoints"], "plain", "cosigned", "extension_line", "size_leading_zero").items():
        yield f"note-{name}", b"\x00" + case["note"].encode()
    for path in ["tile/0/x001/x234/067.p/255", "tile/entries/000"]:
        yield path, b"\x01" + path.encode()
    yield "vkey", b"\x01" + lists["keys"][0]["vkey"].encode()
    yield "bundle", b"\x02\x03" + bytes.fromhex(lists["entry_bundles"][0]["bundle"])
    for name, case in named(lists["tlog_proofs"], "plain", "extra", "one_leaf").items():
        yield f"proof-{name}", b"\x03" + case["text"].encode()
    for name, step in named(lists["witness"]["steps"], "first", "grow_to_13").items():
        yield f"request-{name}", b"\x04" + step["request"].encode()
    yield "answer-size", b"\x055\n"
    yield "vouched-key", b"\x06" + lists["keys"][0]["vkey"].encode() + b"\n" + b"00" * 65 + b"\n"
    yield "events", b'\x07:\n\nid: 7\ndata: {"seq":7}\n\nid:8\r\ndata:one\r\ndata: two\r\n\r\n'
    watched = {"format": "kmsctl-watch-1", "views": [{
        "url": "https://kms.example/prpc", "log_key": lists["keys"][0]["vkey"], "root_key": None,
        "checkpoint": named(lists["checkpoints"], "plain")["plain"]["note"], "seen_at": 1, "grown_at": 1}]}
    yield "watched", b"\x08" + json.dumps(watched, indent=2).encode()
    yield "answer-lines", b"\x05" + lists["cosignatures"][0]["note"].split("\n\n")[1].encode()


def log():
    """Files of a log: for each a byte that says which, two bytes of length, and its content."""
    def file(which, content):
        return bytes([which]) + len(content).to_bytes(2, "big") + content

    lines, prev = [], "00" * 32
    for seq in range(1, 6):
        salt = f'"salt":"{"A" * 22}",' if seq > 2 else ""
        seal = ""
        if seq == 3:
            old = b"".join(lines)
            seal = (f',"first":1,"lines":2,"bytes":{len(old)},"sha256":"{hashlib.sha256(old).hexdigest()}","head":"{prev}"')
        event = "imported" if seq == 3 else "stopped"
        entry = f'{{"seq":{seq},"time":"2026-01-01T00:00:00Z","prev":"{prev}",{salt}"event":"{event}"{seal}'
        prev = hashlib.sha256((entry + "}").encode()).hexdigest()
        lines.append(f'{entry},"hash":"{prev}"}}\n'.encode())
    whole = file(0, b"".join(lines))
    yield "chain", whole
    yield "closed", file(1, b"".join(lines[:2])) + file(0, b"".join(lines[2:]))
    yield "damaged", file(1, b"".join(lines[:2]) + b"\0\0") + file(0, b"".join(lines[2:]))
    lists = vectors("ledger")
    note = named(lists["checkpoints"], "plain")["plain"]["note"].encode()
    key = lists["keys"][0]["vkey"].encode() + b"\n" + b"00" * 65 + b"\n"
    node = b'{"node":"8da50153fc024870","first":1}'
    yield "tree", whole + file(3, node) + file(4, key) + file(5, note) + file(6, b"\n".join(note.split(b"\n")[1:3]) + b"\n")


def sealed_env():
    """Environments that PyHPKE sealed to the secret 07…07, and files that are none."""
    enc = "V9tLNZ8jrl4Ubk4lEgVnBHIlBjSMFQwUdT0Mkz0E1CE="
    sealed = {
        (0, 0): "Noq1K55nGAQtC1KUJuuIKLNIlgFPZC6ExWxFQmZMy/MeGX/sqKTu3ol4Vj/URXKUl0lUa8KUikUc",
        (3, 1): "WrrzpIHF7wX00U7XgNkIs5vkwJu1ua/Ho5s1PdpwZVKa1ezwdjvL6WXdaQ97Ro9Arau/QOcU6nkI",
    }
    for (root, app), ciphertext in sealed.items():
        file = {"version": 1, "root_epoch": root, "app_epoch": app, "enc": enc, "ciphertext": ciphertext}
        yield f"epochs-{root}-{app}", json.dumps(file).encode()
    yield "other-epochs", json.dumps({**file, "root_epoch": 4}, indent=1).encode()
    yield "later-version", json.dumps({**file, "version": 2}).encode()
    yield "no-app-epoch", json.dumps({name: value for name, value in file.items() if name != "app_epoch"}).encode()
    yield "short", json.dumps({**file, "ciphertext": "AAAA"}).encode()
    yield "plaintext", '{"env": [{"key": "A", "value": "caf\u00e9"}]}'.encode()


def recovery():
    """Shares and files of officers. Manifests need a signature: one that is altered is a part of the corpus by itself."""
    share = {"version": 1, "set": "00" * 16, "index": 2, "officer": "alice", "share": "01" * 32}
    yield "share", json.dumps(share).encode()
    yield "share-out-of-range", json.dumps({**share, "share": "ff" * 32}).encode()
    recipient = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa"
    ssh = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN"
    yield "officers", f"# officers\nalice {recipient}\n{ssh} bob@laptop\n".encode()
    yield "officers-twice", f"a {recipient}\nb {recipient}\n".encode()
    yield "age", b"-----BEGIN AGE ENCRYPTED FILE-----\nYWdlLWVuY3J5cHRpb24ub3JnL3YxCg==\n-----END AGE ENCRYPTED FILE-----\n"
    point = "036b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    officer = {"recipient": recipient, "file_sha256": "00" * 32}
    manifest = {
        "version": 1, "set": "00" * 16, "created_at": 1, "domain": "kms", "threshold": 2,
        "officers": [{"index": 1, "name": "a", **officer}, {"index": 2, "name": "b", **officer, "recipient": ssh}],
        "commitments": [point, point], "identity_epoch": 0,
        "epochs": [{"epoch": 0, "ca_spki_sha256": "00" * 32, "k256_public": "02" + "00" * 31 + "01"}],
        "ledger": None, "salt": "00" * 32, "sealed": "A" * 32,
    }
    yield "unsigned", json.dumps({"manifest": manifest, "signature": "00" * 65}).encode()
    # What is sealed: form, temporary CA, number of epochs; then number, times (activated at 0), kind, keys.
    epoch = bytes(4) + b"\0" + b"\1" + bytes(8) + b"\0\0"
    yield "material", b"cvmkms-1" + b"\1" * 32 + bytes([0, 0, 0, 1]) + epoch + b"\1" + b"\2" * 32 + b"\3" * 32


TARGETS = [acpi, allowlist, collateral, config, csr, dotenv, ethereum, event_log, events, evidence, identity,
           key_pem, keyring, known_signers, ledger, log, message, oidc, operator, os_image, policy_bundle, proof, prpc, question,
           recovery, ra_tls_certificate, request_headers, sealed_env, session, stored_collateral,
           tcb_info, webhook]


def main():
    for target in TARGETS:
        directory = HERE / "corpus" / target.__name__
        directory.mkdir(parents=True, exist_ok=True)
        for old in directory.glob("seed-*"):
            old.unlink()
        for name, content in target():
            name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
            (directory / f"seed-{name}").write_bytes(content)


if __name__ == "__main__":
    main()
