"""Flower's SuperNode, which also notes when it last heard from the coordinator (``client.contact``), and waits less.

Flower says in its log that it retries, for weeks if need be; this says since when. Flower asks for work every 3 s, which
is most of a short round: here that is so once a node has been idle for half a minute, and before it asks the sooner the
less long ago it had work. Run as a process of its own, with
Flower's own arguments after the folder::

    python -P -m client.supernode NODE_FOLDER --superlink HOST:PORT ...
"""

from __future__ import annotations

import functools
import sys
import time
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.cli.flower_supernode import flower_supernode
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.contact import ContactBook, problem_of, problem_of_status

PROGRAM = "flower-supernode"
IDLE_SECONDS = 3.0  # Flower's pause when there is no work; its other pauses wait for the runner
SHORTEST_IDLE = 0.2
IDLE_SHARE = 0.1  # of the time since it last had work
RUNNER_SECONDS = 0.1
FIRST_WAIT, LONGEST_WAIT = 0.2, 2.0  # for a part of a message that the coordinator is still sending


class Pauses:
    """In place of the module ``time`` in Flower's loop, of which it uses ``sleep`` alone."""

    def __init__(self) -> None:
        self._worked = float("-inf")

    def sleep(self, seconds: float) -> None:
        """Wait for work, or for the runner, as the module says."""
        now = time.monotonic()
        if seconds < IDLE_SECONDS:
            self._worked = now
            time.sleep(RUNNER_SECONDS)
        else:
            time.sleep(min(seconds, max(SHORTEST_IDLE, (now - self._worked) * IDLE_SHARE)))


def wait_less() -> None:
    """Shorten the pauses of Flower's node in this process."""
    setattr(start_client_internal, "time", Pauses())  # noqa: B010 - Flower has no setting for it
    defaults = {**(pull_objects.__kwdefaults__ or {}), "initial_backoff": FIRST_WAIT, "backoff_cap": LONGEST_WAIT}
    pull_objects.__kwdefaults__ = defaults


class NotingInterceptor(NodeAuthHttpInterceptor):
    """Signs each request, as Flower's does, and notes how it ended."""

    def __init__(
        self, private_key: ec.EllipticCurvePrivateKey, public_key: ec.EllipticCurvePublicKey, book: ContactBook
    ) -> None:
        super().__init__(private_key, public_key)
        self._book = book

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Pass the request on."""
        try:
            response = super().intercept(context, call_next)
        except httpx.HTTPError as error:
            self._note(problem_of(error))
            raise
        self._note(problem_of_status(response.status_code))
        return response

    def _note(self, problem: str) -> None:
        try:
            self._book.note(problem)
        except OSError as error:  # a full disk must not end the node; a contact that is not noted counts as none
            sys.stderr.write(f"the contact can't be noted ({type(error).__name__})\n")


def main() -> None:
    """Entry point of the process."""
    folder, arguments = Path(sys.argv[1]), sys.argv[2:]
    book = ContactBook(folder, int(arguments[arguments.index("--port") + 1]))
    setattr(  # noqa: B010 - Flower gives no other way to listen
        fleet_http_connection, "NodeAuthHttpInterceptor", functools.partial(NotingInterceptor, book=book)
    )
    wait_less()
    sys.argv = [PROGRAM, *arguments]
    flower_supernode()


if __name__ == "__main__":
    main()
