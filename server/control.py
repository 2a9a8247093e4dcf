"""What an operator asks of the running SuperLink, over loopback and with the operator's secret."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from common.errors import RunError
from server.listener import OPERATOR_HEADER

START = "Start it with 'fedct-coordinator start'"
TIMEOUT_SECONDS = 30.0


class NotRunning(RunError):  # noqa: N818 - a state, not a fault
    """Nothing listens where the SuperLink should."""


class _Operator:
    """Adds the operator's secret to each request."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers[OPERATOR_HEADER] = self._secret
        return call_next(context)


@dataclass(frozen=True)
class Run:
    """A run as the SuperLink knows it. ``status``: ``pending``, ``starting``, ``running``, ``finished:...``."""

    id: int
    status: str


@dataclass(frozen=True)
class KnownNode:
    """A node as the SuperLink knows it. ``id``: Flower's number. ``key``: its public key, PEM.

    ``status``: ``registered``, ``online``, ``offline``, or ``unregistered``, which is for good. ``seen``: until when
    its last sign of life counted, ISO 8601, or "".
    """

    id: int
    key: bytes
    status: str
    seen: str = ""


class Control:
    """A connection to the SuperLink at ``127.0.0.1:port``; use it as a context manager.

    Every method raises NotRunning when nothing listens there, and RunError when Flower refuses or it is another's.
    """

    def __init__(self, port: int, secret: str) -> None:
        self._port = port
        self._client = ControlHttpClient.from_server_address(
            server_address=f"127.0.0.1:{port}",
            insecure=True,
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="fedct-coordinator"), _Operator(secret)],
        )
        self._client.close()  # it would hand the secret to the proxy that HTTP_PROXY names
        self._client._client = httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False)  # noqa: SLF001 - no other way

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def start_run(self, files: Mapping[str, bytes]) -> int:
        """Start a run of a bundle with these files; its number."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the pathspec that Flower calls
            content, _ = build_fab_from_files(files)
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        with self._asking("accept the run"):
            response = self._client.StartRun(StartRunRequest(fab=fab_to_proto(fab)))
        if not response.HasField("run_id"):
            raise RunError("Flower did not accept the run", "See the SuperLink's log")
        return int(response.run_id)

    def stop_run(self, run: int) -> bool:
        """Stop a run; False when it was over already."""
        with self._asking(f"stop run {run}"):
            return bool(self._client.StopRun(StopRunRequest(run_id=run)).success)

    def runs(self) -> list[Run]:
        """All runs, by number."""
        with self._asking("list its runs"):
            found = self._client.ListRuns(ListRunsRequest()).run_dict
        return [Run(number, _status(run.status)) for number, run in sorted(found.items())]

    def nodes(self) -> list[KnownNode]:
        """Every node that was ever registered."""
        with self._asking("list its nodes"):
            found = self._client.ListNodes(ListNodesRequest()).nodes_info
        return [KnownNode(node.node_id, node.public_key, node.status, _seen(node.online_until)) for node in found]

    def register(self, key: bytes, name: str) -> int:
        """Let the node with this public key (PEM) connect; its number. Flower takes no key twice."""
        with self._asking(f"register the node of {name}"):
            return int(self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=name)).node_id)

    def unregister(self, node: int) -> None:
        """Let the node of this number connect no longer, for good."""
        with self._asking(f"unregister node {node}"):
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node))

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPStatusError as error:
            code = error.response.status_code
            raise RunError(
                f"the SuperLink at 127.0.0.1:{self._port} did not {what}: status {code} {error.response.text[:300]}",
                "See superlink/superlink.log; after status 401 it is another coordinator's",
            ) from None
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise NotRunning(f"no SuperLink listens at 127.0.0.1:{self._port}", START) from None
        except (httpx.HTTPError, ValueError) as error:
            raise RunError(
                f"what listens at 127.0.0.1:{self._port} does not answer as this coordinator's SuperLink does "
                f"({type(error).__name__})",
                "See superlink/superlink.log; if it is another program, choose another port for control",
            ) from None


def _seen(until: float) -> str:
    """When a node's lease ended or ends; "" if it never had one."""
    return datetime.fromtimestamp(until, UTC).isoformat() if until > 0 else ""


def _status(status: object) -> str:
    parts = [str(getattr(status, name, "")) for name in ("status", "sub_status")]
    return ":".join(part for part in parts if part)
