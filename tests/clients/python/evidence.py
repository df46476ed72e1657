"""What a relying party reads from an attested certificate: the evidence, its quote, and the key that it must bind."""

import asyncio
import hashlib
import socket
import ssl

import dcap_qvl
import msgpack
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ARC = "1.3.6.1.4.1.62397.1"


def server_certificate(host, port):
    """The certificate of a server, from any issuer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection((host, port), timeout=30) as tcp:
        with context.wrap_socket(tcp, server_hostname=host) as tls:
            return tls.getpeercert(binary_form=True)


def extension(certificate, number):
    """The content of a private extension: the OCTET STRING inside the extension's own, shorter than 64 KiB."""
    for found in certificate.extensions:
        if found.oid.dotted_string == f"{ARC}.{number}":
            value = found.value.value
            assert value[0] == 4, "not an OCTET STRING"
            if value[1] < 0x80:
                return value[2:]
            size = value[1] & 0x7F
            content = value[2 + size :]
            assert len(content) == int.from_bytes(value[2 : 2 + size], "big")
            return content
    return None


def quote_of(evidence):
    """The TDX quote in versioned evidence: SCALE after two zero bytes, or MessagePack."""
    if evidence[:2] == b"\0\0":
        size = 1 << (evidence[2] & 3)
        assert size < 8, "a length of at most four bytes"
        length = int.from_bytes(evidence[2 : 2 + size], "little") >> 2
        return evidence[2 + size : 2 + size + length]
    decoded = msgpack.unpackb(evidence)
    assert decoded["version"] == 1 and decoded["platform"]["kind"] == "tdx", decoded["platform"]["kind"]
    return bytes(decoded["platform"]["data"]["quote"])


def read(der):
    """The quote in a certificate, the report data that bind the certificate's key, and the special usage."""
    certificate = x509.load_der_x509_certificate(der)
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {
        "quote": quote_of(extension(certificate, 8)),
        "bound": hashlib.sha512(b"ratls-cert:" + key).digest(),
        "usage": extension(certificate, 4).decode(),
    }


def collateral_of(quote, pccs):
    """The collateral of the quote's platform from a collateral service."""

    async def fetch():
        return await dcap_qvl.get_collateral(pccs, quote)

    return asyncio.run(fetch())
