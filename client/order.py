"""What the runner hands to the process of a task; apart from ``client.task``, so that the runner needs no torch."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from common.logs import place_of

TASK_MODULE = "client.task"


@dataclass(frozen=True)
class Order:
    """Where the node answers, the token and type of the task that was claimed, and the site folder."""

    address: str
    token: str
    task_type: str
    site: Path


def carry_out(order: Order, told: Connection) -> None:
    """Do the task, in a process where ``client.task`` was imported before it was forked.

    What became of it goes to ``told`` in JSON: fields of the runner's log. Python never gets to print the exception
    that ends the process, nor one that it came of, since their texts may name a patient.
    """
    from client.task import run_task

    try:
        result = run_task(order)
    except BaseException as error:
        told.send_bytes(json.dumps({"error": type(error).__name__, "where": place_of(error)}).encode())
        sys.exit(1)
    told.send_bytes(json.dumps(result).encode())


def nothing() -> None:
    """Do nothing. Starting a process for it makes the fork server import what tasks need."""
