"""What every process of Flower's is started with, at a site and at the coordinator."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

LOOPBACK = "127.0.0.1"
NO_PROXY = ("NO_PROXY", "no_proxy")
CHUNK_BYTES = 5 << 20  # Flower's own default; what the coordinator takes in one request hangs on it

# For a process that trains: torch's threads soon leave the processor when they wait, to whom else it is busy with
# (spinning, each step may take twice as long beside another process), and freed memory is kept for the next tensor,
# since what the system hands out anew takes as long to clear as a layer to compute.
TRAINING = {
    "GOMP_SPINCOUNT": "1000",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
}


def flower_environment(home: Path) -> dict[str, str]:
    """Environment with ``home / "flwr"`` as Flower's own folder: nothing phones home, nothing is installed.

    No proxy is asked for loopback, however the variable is spelled: where both are set, the lower-case one counts.
    """
    direct = ",".join(filter(None, (LOOPBACK, "localhost", *(os.environ.get(name) for name in NO_PROXY))))
    return {
        **os.environ,
        "FLWR_HOME": str(home / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(CHUNK_BYTES),
        **dict.fromkeys(NO_PROXY, direct),
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def free_port() -> int:
    """A port of loopback that nothing listens on now."""
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        port: int = sock.getsockname()[1]
        return port
