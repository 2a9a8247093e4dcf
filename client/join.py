"""Join a coordinator: from an invitation to a site that can connect, and a request to hand back.

What a site keeps of it::

    SITE/site.toml            [coordinator]: address, study key, digest of the invitation
    SITE/node/node.key        the node's private key (OpenSSH, mode 0600); made here, and it never leaves
    SITE/node/authority.crt   the certificate that the coordinator's TLS is checked with

``site.toml`` is written last: a site is joined when it says so. Killed before that, the next ``join`` starts over, and
killed after it, ``join`` with the same invitation writes the request again, for the same key.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from client.site import AUTHORITY, NODE_KEY, CoordinatorSettings, Site, SiteConfig, create_site, load_site
from common.errors import SiteError, from_os_error
from common.files import whole_folder, write_atomic
from common.pki import keys
from common.pki.invitation import Invitation
from common.pki.request import make_request
from common.toml import table


def join(invitation: Invitation, folder: Path) -> tuple[Site, str]:
    """Join with a checked invitation; the site, made if ``folder`` has none, and the request to hand back.

    Raises SiteError if the site has another name, is a simulated one, or joined with another invitation.
    """
    known = load_site(folder) if (folder / "site.toml").exists() else None
    if known is not None:
        _check(known, invitation)
    try:
        if known is None or not known.joined:
            known = _join(invitation, folder, known)
        key = keys.read_node_key((known.node_dir / NODE_KEY).read_bytes())
    except OSError as error:
        raise from_os_error(error) from None
    return known, make_request(invitation, key)


def _check(site: Site, invitation: Invitation) -> None:
    where = site.folder / "site.toml"
    if site.config.simulated:
        raise SiteError(f"'{where}' is a simulated site's", "Join with a folder of its own")
    if site.name != invitation.site:
        raise SiteError(
            f"'{where}' has name = '{site.name}'; the invitation is for site '{invitation.site}'",
            f'Set name = "{invitation.site}" in the file, or ask for another invitation',
        )
    if not site.joined and "coordinator" in site.config.model_fields_set:
        raise SiteError(f"'{where}' has a section [coordinator] without an address", "Take the section out of the file")
    if site.joined and site.config.coordinator.invitation != invitation.digest:
        raise SiteError(
            f"'{where}' joined {site.config.coordinator.address} with another invitation",
            f"To join anew, move '{site.node_dir}' away and take [coordinator] out of the file",
        )


def _join(invitation: Invitation, folder: Path, known: Site | None) -> Site:
    """Make the node's key and enter the coordinator in ``site.toml``."""
    settings = CoordinatorSettings(
        address=invitation.address, study_key=invitation.study_key, invitation=invitation.digest
    )
    if known is None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(folder, 0o700)
        _make_node(folder / settings.node, invitation)
        config = SiteConfig(name=invitation.site, title=invitation.title, coordinator=settings)
        return create_site(folder, config)
    _make_node(known.node_dir, invitation)
    path = folder / "site.toml"
    text = path.read_text(encoding="utf-8").rstrip("\n")
    lines = [text, "", *table("coordinator", settings.model_dump())]
    write_atomic(path, ("\n".join(lines) + "\n").encode())
    return load_site(folder)


def _make_node(folder: Path, invitation: Invitation) -> None:
    """The node's folder, whole or not at all; what an interrupted ``join`` left is replaced."""
    if folder.exists() and not {path.name for path in folder.iterdir()} <= {NODE_KEY, AUTHORITY}:
        raise SiteError(f"'{folder}' holds other files than a node's", "Move them away")
    with whole_folder(folder) as partial:
        write_atomic(partial / NODE_KEY, keys.node_key_bytes(keys.new_p384_key()))
        write_atomic(partial / AUTHORITY, invitation.authority.encode())
        shutil.rmtree(folder, ignore_errors=True)
