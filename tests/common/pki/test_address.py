"""HOST:PORT, read strictly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UsageError
from common.pki.address import Address, parse_address

LABEL = st.from_regex(r"\A[a-z]([a-z0-9-]{0,8}[a-z0-9])?\Z")
HOST = st.lists(LABEL, min_size=1, max_size=4).map(".".join) | st.ip_addresses().map(str)


@given(host=HOST, port=st.integers(1, 65535))
def test_an_address_is_read_back_as_it_is_written(host, port):
    address = Address(host, port)
    assert parse_address(str(address)) == address


@given(text=st.text(max_size=300) | st.from_regex(r"\A[a-z0-9.:\[\]-]{1,40}:[0-9]{1,6}\Z"))
def test_any_text_is_an_address_or_a_usage_error(text):
    try:
        address = parse_address(text)
    except UsageError:
        return
    assert 1 <= address.port <= 65535
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "host", "ip"),
    [
        ("Fedct.Example.ORG:8443", "fedct.example.org", False),
        ("192.0.2.7:1", "192.0.2.7", True),
        ("[2001:DB8:0::7]:65535", "2001:db8::7", True),
        ("localhost:443", "localhost", False),
    ],
)
def test_names_and_both_kinds_of_ip_addresses_are_taken(text, host, ip):
    address = parse_address(text)
    assert (address.host, address.ip is not None) == (host, ip)


@pytest.mark.parametrize(
    "text",
    [
        *("", "host", "host:", ":8443", "host:0", "host:65536", "host:x", "host:1:2", "2001:db8::7:8443", "[host]:1"),
        *("http://host:1", "user@host:1", "ho st:1", "host:1 ", "host:1\n", "-a:1", "a-:1", "a..b:1", "256.1.1.1:1"),
        *("1.2.3:1", "münchen.example:1", "a" * 64 + ":1", "a." * 200 + "b:1", "host:٣"),
    ],
)
def test_whatever_else_is_refused_with_an_example(text):
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert "such as fedct.example.org:8443" in caught.value.remedy
    assert len(str(caught.value)) < 500
