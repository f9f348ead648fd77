"""A fetcher that may dial this machine's loopback, and a media host on it."""

import datetime
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deployments.config import MediaConfig
from deployments.fetcher.fetcher import Fetcher
from deployments.observability.metrics import RecordingSink
from tests.support.media_server import MediaServer


@pytest.fixture
def server() -> Iterator[MediaServer]:
    with MediaServer() as running:
        yield running


@asynccontextmanager
async def fetching(
    *, metrics=None, lookup=None, ssl_context=None, clock=time.monotonic, **settings
) -> AsyncIterator[Fetcher]:
    """A `Fetcher` with these `media:` settings; 127.0.0.1 may be dialled unless they say otherwise."""
    config = MediaConfig.model_validate({"allowed_networks": ["127.0.0.1/32"], **settings})
    fetcher = Fetcher(config, metrics or RecordingSink(), lookup=lookup, ssl_context=ssl_context, clock=clock)
    try:
        yield fetcher
    finally:
        await fetcher.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """(server's context, client's context, names seen in handshakes) for `media.example` and 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "media.example")])
    names = [x509.DNSName("media.example"), x509.IPAddress(ip_address("127.0.0.1"))]
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    seen = []
    serving.sni_callback = lambda _socket, name, _context: seen.append(name)
    return serving, ssl.create_default_context(cafile=str(folder / "cert.pem")), seen
