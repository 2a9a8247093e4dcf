"""The doctor's checks of the way to the coordinator, which it goes as the node does.

The node calls through httpx with the environment of ``client.node.node_environment``, the site's proxy in it, and
trusts the coordinator's authority alone (flwr.supercore.protobuf.client); so does this. It asks for ``/health``, and
then signs one request as the node would, with a body that no one can read: an admitted key gets as far as that its
body is refused (400), any other is turned away before (401). Nothing happens at the coordinator.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
from cryptography import x509
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.contact import problem_of
from client.doctor import Check, attempt
from client.node import node_environment
from client.site import AUTHORITY, NODE_KEY, Site
from common.errors import SiteError
from common.pki import keys
from common.pki.address import parse_address
from common.pki.certificates import WARN_DAYS, check_authority, days_left, read_certificate

SECONDS = 15.0
AHEAD, BEHIND = SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
_PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy")
_SIGNED = "/v1/fleet/get-run"
_UNREADABLE = b"\xff"
_REMEDIES = {
    "certificate": "If a firewall inspects TLS, exempt this host; else compare authorities with the coordinator, and the clock",
    "tls": "Check that the address is the coordinator's, and that no firewall inspects TLS",
    "proxy": "Check service.proxy in site.toml or HTTPS_PROXY, and that the proxy lets CONNECT to this host and port pass",
    "unreachable": "Have the firewall let this machine connect to that host and port, or set service.proxy in site.toml",
}


@dataclass(frozen=True)
class Reached:
    """What the coordinator's answer showed. ``ahead``: seconds that this clock is ahead of the coordinator's."""

    certificate: x509.Certificate
    ahead: float | None
    seconds: float


def checks(site: Site) -> list[Check]:
    """Enrolment, and if that holds connection, certificate, clock and registration."""
    found = attempt("enrolment", lambda: enrolment(site))
    if found[0].state == "fail":
        return found
    with going_as_the_node(site):
        way = _way(site)
        try:
            reached = reach(site)
        except httpx.HTTPError as error:
            return [*found, _unreached(site, error, way)]
        address = site.config.coordinator.address
        words = f"{address} answers over TLS in {1000 * reached.seconds:.0f} ms, {way}"
        found += [Check("connection", "ok", words), certificate(reached), clock(reached)]
        return found + attempt("registration", lambda: registration(site))


def enrolment(site: Site) -> Check:
    """What ``join`` stored is there, and the authority's certificate holds."""
    if not site.joined:
        raise SiteError(f"site '{site.name}' joined no coordinator", "Join one with 'fedct-site join'")
    keys.read_node_key((site.node_dir / NODE_KEY).read_bytes())
    authority, now = read_certificate((site.node_dir / AUTHORITY).read_text(encoding="ascii")), datetime.now(UTC)
    check_authority(authority, now)
    days = days_left(authority, now)
    found = f"joined {site.config.coordinator.address}; the authority's certificate has {days} days left"
    late = days < WARN_DAYS
    return Check("enrolment", "warn" if late else "ok", found, "Ask for a new invitation in time" if late else "")


@contextlib.contextmanager
def going_as_the_node(site: Site) -> Iterator[None]:
    """Have this process's proxies be the node's meanwhile."""
    environment = node_environment(site)
    before = {name: os.environ.get(name) for name in _PROXY_VARIABLES}
    _set({name: environment.get(name) for name in _PROXY_VARIABLES})
    try:
        yield
    finally:
        _set(before)


def reach(site: Site) -> Reached:
    """Ask the coordinator for ``/health``. Raises httpx.HTTPError."""
    begun = time.monotonic()
    with _client(site) as client, client.stream("GET", "/health") as response:
        seconds = time.monotonic() - begun
        received = datetime.now(UTC)
        tls = response.extensions["network_stream"].get_extra_info("ssl_object")
        certificate_ = x509.load_der_x509_certificate(tls.getpeercert(True))
        response.raise_for_status()
        date = response.headers.get("date")
    # Date has whole seconds: on average it is half a second older than the answer
    ahead = (received - parsedate_to_datetime(date)).total_seconds() - 0.5 if date else None
    return Reached(certificate_, ahead, seconds)


def certificate(reached: Reached) -> Check:
    """Days left of the server's certificate."""
    days = days_left(reached.certificate, datetime.now(UTC))
    late = days < WARN_DAYS
    remedy = "Tell the coordinator to renew it (fedct-coordinator renew)" if late else ""
    return Check("certificate", "warn" if late else "ok", f"the server's has {days} days left", remedy)


def clock(reached: Reached) -> Check:
    """The coordinator refuses what is signed more than 5 s in its future, or 305 s in its past."""
    remedy = "Set the clock by NTP (timedatectl set-ntp true)"
    if reached.ahead is None:
        return Check("clock", "warn", "the coordinator's answer has no date to compare with", remedy)
    ahead = reached.ahead
    found = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the coordinator's, give or take a second"
    if not -BEHIND < ahead < AHEAD:
        return Check("clock", "fail", f"{found}; it takes up to {AHEAD} s ahead and {BEHIND} s behind", remedy)
    near = not -BEHIND / 5 < ahead < AHEAD / 2
    return Check("clock", "warn" if near else "ok", found, remedy if near else "")


def registration(site: Site) -> Check:
    """Whether the coordinator admits this node's key."""
    key = keys.read_node_key((site.node_dir / NODE_KEY).read_bytes())
    signer = NodeAuthHttpInterceptor(key, key.public_key())
    with _client(site) as client:
        media = {"content-type": PROTOBUF_MEDIA_TYPE, "accept": PROTOBUF_MEDIA_TYPE}
        request = client.build_request("POST", _SIGNED, content=_UNREADABLE, headers=media)
        context = ProtobufRequestContext("", GetRunRequest(), request)
        try:
            status = signer.intercept(context, lambda signed: client.send(signed.request)).status_code
        except httpx.HTTPError as error:
            return Check("registration", "fail", f"can't be asked ({problem_of(error)})", "Try again")
    if status == httpx.codes.BAD_REQUEST:
        return Check("registration", "ok", "the coordinator admits this node's key")
    if status == httpx.codes.UNAUTHORIZED:
        remedy = "Ask the coordinator whether it admitted or revoked this site; see also the clock"
        return Check("registration", "fail", "the coordinator does not accept this node's key", remedy)
    return Check("registration", "warn", f"the coordinator answered {status}", "Ask the coordinator for its log")


def _client(site: Site) -> httpx.Client:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=(site.node_dir / AUTHORITY).read_text(encoding="ascii"))
    return httpx.Client(verify=context, timeout=SECONDS, base_url=f"https://{site.config.coordinator.address}")


def _unreached(site: Site, error: httpx.HTTPError, way: str) -> Check:
    code = problem_of(error)
    words = _verdict(error)
    remedy = _REMEDIES.get(code, "Ask the coordinator whether it runs")
    return Check("connection", "fail", f"{site.config.coordinator.address}: {code}{words}, {way}", remedy)


def _verdict(error: BaseException) -> str:
    """What OpenSSL has against a certificate, in brackets."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return f" ({cause.verify_message})" if cause is not None else ""


def _way(site: Site) -> str:
    """In words, without a proxy's password."""
    host = parse_address(site.config.coordinator.address).host
    proxies = urllib.request.getproxies_environment()
    proxy = proxies.get("https") or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(host):
        return "directly"
    return f"through the proxy {httpx.URL(proxy).copy_with(username=None, password=None)}"


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
