"""The request to join: a site's answer to an invitation.

It names the site, the node's public key and the digest of the invitation that the site saw. Two proofs go with it:

* *of the invitation*: HMAC-SHA256 of all three under the token's digest. The token itself does not travel back, so
  whoever reads a request on its way can't use it with another key;
* *of the node key*: an ECDSA signature (SHA-384) by that key over the body, so nobody can hand in another's key.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from common.errors import TrustError
from common.pki import keys
from common.pki.documents import HEX, NAME, Body, open_document, parse_body, signed_bytes, write_document
from common.pki.invitation import Invitation, token_digest

KIND = "fedct-request"
_REMEDY = "Have the site run 'fedct-site join' again, and send the request unchanged"


class JoinRequest(Body):
    """``invitation``: digest of the invitation. ``node_key``: one line of OpenSSH. ``proof``: of the invitation."""

    version: Literal[1]
    site: str = Field(pattern=NAME)
    invitation: str = Field(pattern=HEX)
    node_key: str = Field(max_length=400)
    proof: str = Field(pattern=HEX)

    @property
    def fingerprint(self) -> str:
        """The node key's fingerprint, to compare by telephone."""
        return node_fingerprint(self.node_key)

    def holds(self, token_digest_: str) -> bool:
        """Whether whoever made this request knew the token with this digest."""
        return hmac.compare_digest(self.proof, _proof(token_digest_, self.site, self.invitation, self.node_key))


def node_fingerprint(node_key: str) -> str:
    """Fingerprint of a node's public key, given as one line of OpenSSH."""
    return keys.fingerprint(b"fedct-node\0" + node_key.encode())


def make_request(invitation: Invitation, node_key: ec.EllipticCurvePrivateKey) -> str:
    """The signed request of a site that holds ``invitation`` and made ``node_key``."""
    public = keys.node_public(node_key)
    body = {
        "version": 1,
        "site": invitation.site,
        "invitation": invitation.digest,
        "node_key": public,
        "proof": _proof(token_digest(invitation.token), invitation.site, invitation.digest, public),
    }
    return write_document(KIND, body, node_key.sign(signed_bytes(KIND, body), ec.ECDSA(hashes.SHA384())))


def open_request(content: bytes) -> JoinRequest:
    """Read a request and check that its maker has the node key. Raises TrustError.

    Whether the invitation is known, open and the right one is for the registry, which keeps the token's digest.
    """
    document = open_document(content, KIND)
    request = parse_body(JoinRequest, document.body, "request")
    try:
        keys.read_node_public(request.node_key).verify(document.signature, document.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise TrustError("the request was altered: it is not signed by the node key that it names", _REMEDY) from None
    return request


def _proof(digest: str, site: str, invitation: str, node_key: str) -> str:
    content = f"{KIND}\0{site}\0{invitation}\0{node_key}"
    return hmac.new(bytes.fromhex(digest), content.encode(), sha256).hexdigest()
