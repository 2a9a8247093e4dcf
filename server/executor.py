"""Flower's executor for the coordinator's own app: ``flower-superexec``, kept to ServerApp tasks.

The stock one also takes agent, model and connector tasks, which no study has. Run as a process::

    python -P -m server.executor --runtime-api-address … --insecure --superexec-auth-secret-file …
"""

from __future__ import annotations

from flwr.supercore.cli import flower_superexec
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.plugin import AutoExecPlugin


def only_server_apps() -> None:
    """Let this process ask for ServerApp tasks and no others."""
    AutoExecPlugin.supported_task_types = frozenset({TaskType.SERVER_APP})


def main() -> None:
    """Entry point of the process."""
    only_server_apps()
    flower_superexec()


if __name__ == "__main__":
    main()
