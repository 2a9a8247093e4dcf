"""The coordinator's own certificate authority: one root, kept for years, and one server certificate under it.

RFC 5280. The root may sign servers only (path length 0); a server certificate is for one HOST:PORT, and for the
loopback names, by which the coordinator reaches itself. Validity starts an hour early, so that a site whose clock
is a little behind can connect. A server's certificate never outlives its root.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import TrustError
from common.pki.address import Address

AUTHORITY_DAYS = 3650
SERVER_DAYS = 398
WARN_DAYS = 30
"""A certificate with fewer days left is warned about."""
MOST_CERTIFICATE_CHARACTERS = 8192
_EARLY = timedelta(hours=1)
_REMEDY = "Ask the coordinator for a new invitation"


def make_authority(title: str, key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    """A self-signed root named ``title`` for ``AUTHORITY_DAYS`` from ``now``."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{title[:40]} fedct authority")])
    end = now + timedelta(days=AUTHORITY_DAYS)
    builder = _builder(name, name, key.public_key(), now, end)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
    return builder.sign(key, hashes.SHA384())


def make_server(
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    server: ec.EllipticCurvePublicKey,
    address: Address,
    now: datetime,
) -> x509.Certificate:
    """A certificate of ``server`` for TLS at ``address`` and on loopback, for ``SERVER_DAYS`` from ``now``.

    Raises TrustError if the root has ended, or if ``authority_key`` is not its key.
    """
    if authority_key.public_key() != authority.public_key():
        raise TrustError("the authority's key does not belong to its certificate", "Restore ca.crt and ca.key together")
    if days_left(authority, now) < 0:
        raise TrustError("the authority has ended", "Make a new coordinator and invite the sites again")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address.host[:64])])
    end = min(now + timedelta(days=SERVER_DAYS), authority.not_valid_after_utc)
    builder = _builder(name, authority.subject, server, now, end)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(digital_signature=True), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(_names(address)), critical=False)
    return builder.add_extension(identifier, critical=False).sign(authority_key, hashes.SHA384())


def certificate_text(certificate: x509.Certificate) -> str:
    """PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def read_certificate(text: str) -> x509.Certificate:
    """Read exactly one certificate in the spelling of ``certificate_text``. Raises TrustError."""
    try:
        certificate = x509.load_pem_x509_certificate(text[:MOST_CERTIFICATE_CHARACTERS].encode())
        same = certificate_text(certificate) == text
    except Exception:  # the parser raises errors of many kinds, for a version, an algorithm, a broken length
        same = False
    if not same:
        raise TrustError("this is not one certificate in PEM", _REMEDY)
    return certificate


def check_authority(certificate: x509.Certificate, now: datetime) -> None:
    """Raise TrustError unless this is a root such as ``make_authority`` makes, and valid ``now``."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        key = certificate.public_key()
        certificate.verify_directly_issued_by(certificate)
    except Exception:  # as above; whatever it is, this is no root of ours
        raise TrustError("the authority's certificate is not a self-signed root", _REMEDY) from None
    sound = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)
    if not sound or not constraints.ca or constraints.path_length != 0 or not usage.key_cert_sign:
        raise TrustError("the authority's certificate is not a root on NIST P-384 for servers", _REMEDY)
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise TrustError(
            f"the authority's certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d} "
            f"to {certificate.not_valid_after_utc:%Y-%m-%d}; this machine's clock says {now:%Y-%m-%d}",
            "Check the clock; otherwise ask the coordinator for a new invitation",
        )


def days_left(certificate: x509.Certificate, now: datetime) -> int:
    """Whole days until the certificate ends, rounded down: -1 and less when it has ended."""
    return (certificate.not_valid_after_utc - now) // timedelta(days=1)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - _EARLY).not_valid_after(end)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)


def _names(address: Address) -> Iterable[x509.GeneralName]:
    hosts: list[x509.GeneralName] = [x509.DNSName(address.host) if address.ip is None else x509.IPAddress(address.ip)]
    loopback = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    return [*hosts, *(name for name in loopback if name not in hosts)]


def _usage(**allowed: bool) -> x509.KeyUsage:
    every = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
    every += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in every})
