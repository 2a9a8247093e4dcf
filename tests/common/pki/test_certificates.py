"""The authority and its server's certificate, also in a real TLS handshake."""

from __future__ import annotations

import base64
import socket
import ssl
import textwrap
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from common.errors import TrustError
from common.pki import certificates
from common.pki.address import parse_address
from common.pki.keys import new_p384_key, plain_key_bytes

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
KEY, SERVER = new_p384_key(), new_p384_key()
ROOT = certificates.make_authority("St. Anna", KEY, NOW)
PEM = certificates.certificate_text(ROOT)


def server_at(address: str, now: datetime = NOW, root: x509.Certificate = ROOT) -> x509.Certificate:
    return certificates.make_server(root, KEY, SERVER.public_key(), parse_address(address), now)


def names(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in found]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("fedct.example.org:8443", ["fedct.example.org", "localhost", "127.0.0.1"]),
        ("192.0.2.7:8443", ["192.0.2.7", "localhost", "127.0.0.1"]),
        ("[2001:db8::7]:8443", ["2001:db8::7", "localhost", "127.0.0.1"]),
        ("127.0.0.1:8443", ["127.0.0.1", "localhost"]),
    ],
)
def test_a_server_is_named_by_its_address_and_by_loopback(address, expected):
    assert names(server_at(address)) == expected


def test_a_server_can_serve_and_sign_nothing():
    found = server_at("h.example:1").extensions
    assert found.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert found.get_extension_for_class(x509.KeyUsage).value.key_cert_sign is False
    assert list(found.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]


def handshake(tmp_path, server: x509.Certificate, host: str, trusted: x509.Certificate = ROOT) -> str:
    """Serve with ``server`` on loopback and connect as ``host`` trusting ``trusted``; "" or the client's error."""
    (tmp_path / "pem").write_bytes(certificates.certificate_text(server).encode() + plain_key_bytes(SERVER))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "pem")
    asking = ssl.create_default_context(cadata=certificates.certificate_text(trusted))
    asking.verify_flags |= ssl.VERIFY_X509_STRICT
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            try:
                serving.wrap_socket(connection, server_side=True).close()
            except OSError:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname()) as plain,
                asking.wrap_socket(plain, server_hostname=host),
            ):
                return ""
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        finally:
            thread.join()


def test_tls_trusts_the_server_by_its_names_and_by_no_other(tmp_path):
    server = server_at("fedct.example.org:8443")
    for host in ("fedct.example.org", "localhost", "127.0.0.1"):
        assert handshake(tmp_path, server, host) == ""
    assert "mismatch" in handshake(tmp_path, server, "evil.example.org")


def test_tls_refuses_a_server_of_another_authority_or_one_that_has_ended(tmp_path):
    other = certificates.make_authority("St. Anna", new_p384_key(), NOW)
    assert handshake(tmp_path, server_at("h.example:1"), "h.example", other) != ""
    old = server_at("h.example:1", NOW - 399 * DAY, certificates.make_authority("A", KEY, NOW - 500 * DAY))
    assert handshake(tmp_path, old, "h.example", certificates.make_authority("A", KEY, NOW - 500 * DAY)) != ""


def test_days_are_counted_down_to_the_end_and_below():
    server = server_at("h.example:1")
    assert certificates.days_left(server, NOW) == certificates.SERVER_DAYS
    assert certificates.days_left(server, NOW + 397 * DAY + timedelta(hours=1)) == 0
    assert certificates.days_left(server, NOW + 398 * DAY + timedelta(seconds=1)) == -1


def test_a_server_does_not_outlive_its_authority():
    late = NOW + (certificates.AUTHORITY_DAYS - 10) * DAY
    assert server_at("h.example:1", late).not_valid_after_utc == ROOT.not_valid_after_utc
    with pytest.raises(TrustError, match="has ended"):
        server_at("h.example:1", NOW + (certificates.AUTHORITY_DAYS + 1) * DAY)


def test_a_site_whose_clock_is_an_hour_behind_can_connect():
    assert server_at("h.example:1").not_valid_before_utc == NOW - timedelta(hours=1)


def test_a_key_that_is_not_the_authoritys_signs_no_server():
    with pytest.raises(TrustError, match="does not belong"):
        certificates.make_server(ROOT, SERVER, SERVER.public_key(), parse_address("h.example:1"), NOW)


def signed(*, ca=True, path_length=0, cert_sign=True, issuer=None, key=KEY, extensions=True) -> x509.Certificate:
    """A root with something wrong with it."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer or name).public_key(KEY.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
    if extensions:
        usage = dict.fromkeys(("digital_signature", "content_commitment", "key_encipherment"), False)
        usage |= dict.fromkeys(("data_encipherment", "key_agreement", "crl_sign", "encipher_only"), False)
        usage |= {"decipher_only": False, "key_cert_sign": cert_sign}
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
        builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
    return builder.sign(key, hashes.SHA384())


OTHER_NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "other")])


def test_the_authority_that_is_made_is_one():
    certificates.check_authority(ROOT, NOW)
    certificates.check_authority(signed(), NOW)


@pytest.mark.parametrize(
    "certificate",
    [
        pytest.param(server_at("h.example:1"), id="a server's certificate"),
        pytest.param(signed(ca=False), id="a certificate that is no authority"),
        pytest.param(signed(path_length=1), id="an authority that may make authorities"),
        pytest.param(signed(cert_sign=False), id="an authority that may not sign"),
        pytest.param(signed(issuer=OTHER_NAME), id="an authority that names another issuer"),
        pytest.param(signed(key=SERVER), id="an authority signed by another key"),
        pytest.param(signed(extensions=False), id="a certificate without constraints"),
    ],
)
def test_what_is_no_root_for_servers_is_refused(certificate):
    with pytest.raises(TrustError, match="root"):
        certificates.check_authority(certificate, NOW)


@pytest.mark.parametrize("now", [NOW - DAY, NOW + certificates.AUTHORITY_DAYS * DAY])
def test_an_authority_outside_its_time_is_refused_with_the_clocks_date(now):
    with pytest.raises(TrustError, match=f"clock says {now:%Y-%m-%d}"):
        certificates.check_authority(ROOT, now)


def test_a_certificate_is_read_back_and_only_in_its_own_spelling():
    assert certificates.read_certificate(PEM) == ROOT
    for text in (
        "",
        "x",
        PEM + PEM,
        "note\n" + PEM,
        PEM + "\n",
        PEM.replace("\n", "\r\n"),
        PEM[:-30],
        PEM + "#" * 9000,
    ):
        with pytest.raises(TrustError):
            certificates.read_certificate(text)


@given(text=st.text(max_size=200) | st.binary(min_size=1, max_size=200).map(lambda b: PEM[:60] + b.hex() + PEM[60:]))
def test_any_other_text_is_no_certificate(text):
    with pytest.raises(TrustError):
        certificates.read_certificate(text)


DER = ROOT.public_bytes(serialization.Encoding.DER)


@given(position=st.integers(0, len(DER) - 1), value=st.integers(0, 255))
def test_an_authority_changed_in_one_byte_is_refused(position, value):
    changed = DER[:position] + bytes([value]) + DER[position + 1 :]
    if changed == DER:
        return
    lines = textwrap.wrap(base64.b64encode(changed).decode(), 64)
    text = "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])
    with pytest.raises(TrustError):
        certificates.check_authority(certificates.read_certificate(text), NOW)
