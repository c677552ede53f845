"""wsd with TLS against Python's `websockets` and OpenSSL."""

import ssl
import subprocess

import pytest
from websockets.sync.client import connect

from wsd import running_wsd

DEADLINE_S = 10


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost that is its own authority, and its key, made by openssl."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key]
        + ["-out", cert, "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True,
        capture_output=True,
    )
    return cert, key


@pytest.fixture(scope="module")
def port(certificate):
    with running_wsd("--threads", "2", tls=certificate) as port:
        yield port


def trusting(certificate, version):
    context = ssl.create_default_context(cafile=certificate[0])
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_messages_and_the_close(certificate, port, version):
    context = trusting(certificate, version)
    with connect(f"wss://localhost:{port}/echo", ssl=context, open_timeout=DEADLINE_S, max_size=None) as client:
        assert client.socket.version() == {ssl.TLSVersion.TLSv1_2: "TLSv1.2"}.get(version, "TLSv1.3")
        for size in [0, 1, 126, 16_384, 65_536, 1_048_576]:
            client.send(b"x" * size)
            assert client.recv(timeout=DEADLINE_S) == b"x" * size
        client.send(["Grü", "", "ße"])
        assert client.recv(timeout=DEADLINE_S) == "Grüße"
        client.close(1000, "enough")
        assert (client.protocol.close_rcvd.code, client.protocol.close_rcvd.reason) == (1000, "enough")


def test_what_is_too_old_is_refused(certificate, port):
    context = trusting(certificate, ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("AES128-SHA256:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        connect(f"wss://localhost:{port}/echo", ssl=context, open_timeout=DEADLINE_S)
