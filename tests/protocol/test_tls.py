"""What a hospital's TLS says of the coordinator's certificate, with the authority that the invitation brought."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest

from common.pki.address import Address
from server.ca import create, renew


def shake_hands(coordinator, name: str = "127.0.0.1") -> None:
    """A TLS handshake in memory between a hospital and this coordinator's server."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(coordinator.server_file, coordinator.server_key_file)
    client = ssl.create_default_context(cafile=str(coordinator.authority_file))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue
    assert ends == []


PASSPHRASE = "correct horse battery"


@pytest.fixture
def made(tmp_path):
    def make(days_ago: int):
        then = datetime.now(UTC) - timedelta(days=days_ago)
        return create(tmp_path / "c", "C", Address("127.0.0.1", 8443), PASSPHRASE, then)

    return make


def test_a_hospital_trusts_a_coordinator_within_its_time(made):
    shake_hands(made(0))


@pytest.mark.failure(
    "the coordinator's certificate, expired",
    seen="`status` warns from 30 days before; at the site: certificate expired",
    ends="no site connects until `renew` and `start`",
    ledgers="nothing",
)
def test_an_expired_certificate_is_refused_and_a_renewed_one_accepted_without_the_hospitals_doing_anything(made):
    coordinator = made(500)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(coordinator)
    renew(coordinator, PASSPHRASE, datetime.now(UTC))
    shake_hands(coordinator)


def test_a_certificate_for_another_host_is_refused(made):
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
        shake_hands(made(0), "127.0.0.2")
