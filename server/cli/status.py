"""fedct-coordinator status: certificates and sites."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from common.clock import now
from common.console import err, out, print_json, say
from common.errors import RunError
from server.cli.options import HERE, FolderOption, JsonOption

if TYPE_CHECKING:
    from server.coordinator import Coordinator


def status(folder: FolderOption = HERE, as_json: JsonOption = False) -> None:
    """Show how long the certificates last, how each site stands, and whose nodes are connected."""
    from server import ca
    from server.coordinator import open_coordinator
    from server.registry import Registry

    opened, moment = open_coordinator(folder), now()
    certificates, sites = ca.expiries(opened, moment), Registry(opened.registry_file).standings(moment)
    nodes, trouble = _nodes(opened)
    warnings = [c.warning for c in certificates if c.warning] + ([trouble] if trouble else [])
    if as_json:
        content = {
            "title": opened.config.title,
            "address": opened.config.address,
            "fingerprint": ca.fingerprint(opened),
            "certificates": [{"name": c.name, "ends": c.ends.isoformat(), "days": c.days} for c in certificates],
            "sites": [asdict(site) for site in sites],
            "serving": nodes is not None,
            "nodes": nodes or {},
            "warnings": warnings,
        }
        print_json(content)
        return
    say(f"{opened.config.title} at {opened.config.address}, fingerprint {ca.fingerprint(opened)}")
    for one in certificates:
        say(f"Certificate of the {one.name}: until {one.ends:%Y-%m-%d}, {one.days} days left")
    if sites:
        table = Table("site", "hospital", "standing", "since or until", "node", "node key")
        for site in sites:
            table.add_row(
                site.site,
                escape(site.title),
                site.standing,
                site.since,
                (nodes or {}).get(site.site, ""),
                site.fingerprint,
            )
        out.print(table)
    else:
        say("No site was invited yet")
    say("Not serving: start it with 'fedct-coordinator start'" if nodes is None else "Serving")
    for warning in warnings:
        say(f"Warning: {warning}", err)


def _nodes(opened: Coordinator) -> tuple[dict[str, str] | None, str]:
    """How each admitted site's node stands, None while nothing serves; and what is wrong, or ""."""
    from server.control import NotRunning
    from server.daemon import daemon_of
    from server.nodes import node_states
    from server.registry import Registry

    try:
        return node_states(daemon_of(opened), Registry(opened.registry_file)), ""
    except NotRunning:
        return None, ""
    except RunError as error:
        return None, error.message
