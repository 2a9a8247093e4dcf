"""The doctor's checks of the machine and of the daemon on it."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime

import psutil

from client.contact import read_contact
from client.doctor import Check
from client.health import answers
from client.site import Site
from client.standing import is_held

GB = 1e9
LEAST_DISK, LITTLE_DISK = 0.5 * GB, 10 * GB  # ledger and logs must grow; an ingest wants more
LEAST_MEMORY, LITTLE_MEMORY = 1 * GB, 4 * GB
_START = "Start it: systemctl start fedct-node fedct-trainer, or 'fedct-site serve'"


def disk(site: Site) -> Check:
    """Room for ledger, logs and cohorts at the site folder."""
    free = shutil.disk_usage(site.folder).free
    found = f"{free / GB:.1f} GB free at '{site.folder}'"
    if free < LEAST_DISK:
        return Check(
            "disk", "fail", found, f"Free some; the ledger can't be written without, expected {LEAST_DISK / GB:g} GB"
        )
    state = "ok" if free >= LITTLE_DISK else "warn"
    return Check(
        "disk", "ok" if state == "ok" else "warn", found, "" if state == "ok" else "Free some before an ingest"
    )


def memory() -> Check:
    """Memory that a round could take now."""
    free, total = psutil.virtual_memory().available, psutil.virtual_memory().total
    found = f"{free / GB:.1f} of {total / GB:.1f} GB available"
    if free < LEAST_MEMORY:
        return Check("memory", "fail", found, "End what else runs here, or take a larger machine")
    few = free < LITTLE_MEMORY
    return Check("memory", "warn" if few else "ok", found, "A ResNet-50 may not fit; end what else runs" if few else "")


def gpu() -> Check:
    """What training runs on: no part of it uses a GPU."""
    import torch

    there = f"{torch.cuda.get_device_name()} is there and stays idle" if torch.cuda.is_available() else "none"
    return Check("gpu", "ok", f"{there}; rounds run on {psutil.cpu_count()} processor cores")


def node(site: Site) -> Check:
    """Whether the node of this site answers on its loopback port."""
    noted = read_contact(site.node_dir)
    port = site.config.service.port or (noted.port if noted else 0)
    if port and answers(port):
        return Check("node", "ok", f"answers on loopback port {port}")
    return Check("node", "fail", "does not run", _START)


def contact(site: Site) -> Check:
    """Whether the coordinator heard from the node, and accepted it, within the last two minutes."""
    noted, now = read_contact(site.node_dir), datetime.now(UTC)
    if noted is None:
        return Check("contact", "fail", "the node never reached the coordinator", _START)
    trouble, last = noted.trouble(now), f"last accepted {noted.heard or 'never'}"
    if trouble:
        return Check("contact", "fail", f"{trouble}; {last}", "See the checks of the connection, and node/node.log")
    return Check("contact", "ok", last)


def runner(site: Site) -> Check:
    """Whether the runner of this site is there."""
    if is_held(site.runner_dir):
        return Check("runner", "ok", "runs")
    return Check("runner", "fail", "does not run", _START)
