"""The SuperLink's nodes: those that the registry admitted, and no others.

Flower keeps its own table of node keys. A key that was once unregistered can't be registered again there, which suits
a revoked one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flwr.supercore.constant import NodeStatus

from common.errors import FedctError, RunError, from_os_error
from common.files import exclusive
from common.pki.keys import node_public_pem
from server.control import Control, KnownNode, NotRunning
from server.registry import Node, Registry

if TYPE_CHECKING:
    from server.daemon import Daemon

EVERY_SECONDS = 5.0


@dataclass(frozen=True)
class Registered:
    """``nodes``: Flower's number of each admitted site's node. ``added``, ``removed``: how many were changed."""

    nodes: dict[str, int]
    added: int
    removed: int


def register_nodes(daemon: Daemon, registry: Registry) -> Registered:
    """Bring the running SuperLink to know exactly the nodes that ``registry`` admitted; revoked ones go first.

    One at a time, and the registry is read inside: an older reading would unregister, for good, whoever was admitted
    since. Raises NotRunning when there is no SuperLink, RunError when Flower refuses.
    """
    with daemon.control() as link, exclusive(daemon.superlink / "nodes.lock"):
        return synchronise(link, registry.admitted())


def keep_registered(
    daemon: Daemon, registry: Registry, told_to_stop: threading.Event, note: Callable[[str], None]
) -> None:
    """Register nodes every few seconds until told to stop, and note each change in one line.

    ``admit`` and ``revoke`` do it at once; this is for what they could not tell while the SuperLink was down.
    """
    said = ""
    while not told_to_stop.is_set():
        line = _attempt(daemon, registry) or said
        if line != said:
            note(line)
            said = line
        told_to_stop.wait(EVERY_SECONDS)


def _attempt(daemon: Daemon, registry: Registry) -> str:
    """What to say of one attempt; "" while the SuperLink is not there."""
    try:
        names = sorted(register_nodes(daemon, registry).nodes)
    except NotRunning:
        return ""
    except (FedctError, OSError) as error:
        found = from_os_error(error) if isinstance(error, OSError) else error
        return f"Nodes could not be registered: {found.message}"
    return f"Sites that may connect: {', '.join(names) or 'none yet'}"


def synchronise(link: Control, admitted: Sequence[Node]) -> Registered:
    """Unregister what is not ``admitted`` and register what is. Raises RunError when Flower refuses."""
    wanted = {node_public_pem(node.key): node for node in admitted}
    known = {node.key: node for node in link.nodes()}
    active = {key: node for key, node in known.items() if node.status != NodeStatus.UNREGISTERED}
    extra = [node for key, node in active.items() if key not in wanted]
    for node in extra:
        link.unregister(node.id)
    numbers = {site.site: active[key].id for key, site in wanted.items() if key in active}
    new = {key: site for key, site in wanted.items() if key not in known}
    for key, site in new.items():
        numbers[site.site] = link.register(key, site.site)
    dead = sorted(site.site for key, site in wanted.items() if key in known and key not in active)
    if dead:
        raise RunError(
            f"Flower unregistered the nodes of {', '.join(dead)} once, and takes no key twice",
            "Run 'fedct-coordinator revoke' for each and invite it again",
        )
    return Registered(numbers, len(new), len(extra))


def node_states(daemon: Daemon, registry: Registry) -> dict[str, str]:
    """How the node of each admitted site stands: ``registered``, ``online``, ``offline``, or ``unregistered``.

    A site that the SuperLink has not been told of is left out. Raises as ``register_nodes``.
    """
    return {site: node.status for site, node in known_nodes(daemon, registry).items()}


def known_nodes(daemon: Daemon, registry: Registry) -> dict[str, KnownNode]:
    """What the SuperLink knows of the node of each admitted site, as ``node_states``."""
    with daemon.control() as link:
        known = {node.key: node for node in link.nodes()}
    keys = {node.site: node_public_pem(node.key) for node in registry.admitted()}
    return {site: known[key] for site, key in keys.items() if key in known}
