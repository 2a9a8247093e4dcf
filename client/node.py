"""A site's two services: Flower's SuperNode, which has the network, and the runner, which has the data.

They meet on a loopback port and share a secret; the node gets the site's *name* and its key, and nothing else of
the site. Both are supervised (``common.supervisor``): a node that was killed is refused by the coordinator until
its lease of 60 s has lapsed, and is tried again until then. One ``serve`` runs both, or each half is a service of a
user of its own (``client.systemd``)::

    SITE/node/      the node's: what join made (client.join), and runner.secret, contact.json, node.log (Flower's
                    output), serve.log; flwr/ and empty/
    SITE/runner/    the runner's: runner.log and serve.log (common.logs), runner.out (what Python itself printed),
                    runner.lock; flwr/ and empty/

Modes are 0700 and 0600. Where IT opened ``node`` to a group, what the runner needs of it is 0640.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from client.contact import shared_mode
from client.health import Standing, watched
from client.site import AUTHORITY, NODE_KEY, Site
from common.errors import SiteError
from common.files import write_atomic
from common.flower_env import LOOPBACK, NO_PROXY, TRAINING, flower_environment, free_port
from common.logs import JsonLog
from common.supervisor import Event, Service, supervise

Part = Literal["node", "runner"]
BOTH: tuple[Part, ...] = ("node", "runner")
SECRET = "runner.secret"  # noqa: S105 - a file name

# Flower's node ends itself in silence when it is answered 401.
REFUSED = "the coordinator does not accept it: the key is not admitted or was revoked, or this clock is wrong"


def node_environment(site: Site) -> dict[str, str]:
    """What the node is started with; its HTTPS proxy is the site's, if ``site.toml`` names one.

    Then nothing in this process's environment sends it another way: the node calls the coordinator and loopback alone.
    """
    environment, proxy = flower_environment(site.node_dir), site.config.service.proxy
    if not proxy:
        return environment
    direct = dict.fromkeys(NO_PROXY, f"{LOOPBACK},localhost")
    return environment | {"HTTPS_PROXY": proxy, "https_proxy": proxy} | direct


def services(site: Site, port: int) -> dict[Part, Service]:
    """The node and the runner of a joined ``site``, meeting on loopback ``port``."""
    home, runner_home = site.node_dir, site.runner_dir
    secret = str(home / SECRET)
    python = (sys.executable, "-P", "-m")  # -P: never from the working directory
    node = (
        *(*python, "client.supernode", str(home), "--superlink", site.config.coordinator.address),
        *("--root-certificates", str(home / AUTHORITY), "--auth-supernode-private-key", str(home / NODE_KEY)),
        *("--host", LOOPBACK, "--port", str(port), "--node-config", f'site="{site.name}"'),
        *("--isolation", "process", "--superexec-auth-secret-file", secret),
    )
    runner = (*python, "client.runner", str(site.folder), "--address", f"{LOOPBACK}:{port}", "--secret", secret)
    environment = TRAINING | flower_environment(runner_home)
    return {
        "node": Service("node", node, node_environment(site), home / "empty", home / "node.log", {0: REFUSED}),
        "runner": Service("runner", runner, environment, runner_home / "empty", runner_home / "runner.out"),
    }


def serve(
    site: Site,
    told_to_stop: threading.Event,
    note: Callable[[str], None],
    parts: Sequence[Part] = BOTH,
    metrics_port: int = 0,
) -> None:
    """Take part until told to stop. ``metrics_port``: of loopback, for health and metrics; 0: none.

    Raises SiteError when the site joined nobody, what it joined with is gone, or a half can't run alone.
    """
    if not site.joined:
        raise SiteError(f"site '{site.name}' joined no coordinator", "Join one with 'fedct-site join'")
    port = site.config.service.port
    if not port and set(parts) != set(BOTH):
        raise SiteError(
            f"'{site.folder / 'site.toml'}' has service.port = 0, so node and runner can't find each other",
            "Set it to a port of this machine that nothing else uses, such as 9101",
        )
    port = port or free_port()
    if "node" in parts:
        _prepare_node(site)
    if "runner" in parts:
        _prepare_runner(site)
    standing = Standing(site, tuple(parts), port)
    logs = {part: JsonLog(_home(site, part) / "serve.log") for part in parts}
    found = services(site, port)

    def happened(event: Event) -> None:
        note(str(event))
        standing.happened(event)
        level: Literal["info", "warning"] = "warning" if event.what in ("ended", "killed") else "info"
        log, process = logs[part_of(event)], event.process
        log.write(event.what, level, service=event.service, process=process, exit=event.code, wait=event.wait)

    with contextlib.ExitStack() as closing, watched(standing, metrics_port):
        for log in logs.values():
            closing.callback(log.close)
        supervise([found[part] for part in parts], told_to_stop, happened)


def part_of(event: Event) -> Part:
    """Whose event it is."""
    return "node" if event.service == "node" else "runner"


def _home(site: Site, part: Part) -> Path:
    return site.node_dir if part == "node" else site.runner_dir


def _prepare_node(site: Site) -> None:
    home = site.node_dir
    for name in (AUTHORITY, NODE_KEY):
        if not (home / name).is_file():
            raise SiteError(f"'{home / name}' does not exist", "Ask for a new invitation, and join again")
    _make_folders(home)
    if not (home / SECRET).exists():
        write_atomic(home / SECRET, secrets.token_hex(32).encode(), mode=shared_mode(home))
    os.chmod(home / SECRET, shared_mode(home))  # IT may have opened the folder since


def _prepare_runner(site: Site) -> None:
    secret = site.node_dir / SECRET
    if not os.access(secret, os.R_OK):
        raise SiteError(
            f"'{secret}' can't be read", "Start the node first; both users need a common group (fedct-site systemd)"
        )
    _make_folders(site.runner_dir)


def _make_folders(home: Path) -> None:
    for folder in (home, home / "flwr", home / "empty"):
        folder.mkdir(mode=0o700, exist_ok=True)
