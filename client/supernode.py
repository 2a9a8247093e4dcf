"""Flower's SuperNode, which also notes when it last heard from the coordinator (``client.contact``).

Flower says in its log that it retries, for weeks if need be; this says since when. Run as a process of its own, with
Flower's own arguments after the folder::

    python -P -m client.supernode NODE_FOLDER --superlink HOST:PORT ...
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode import fleet_http_connection
from flwr.supernode.cli.flower_supernode import flower_supernode
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.contact import ContactBook, problem_of, problem_of_status

PROGRAM = "flower-supernode"


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
    sys.argv = [PROGRAM, *arguments]
    flower_supernode()


if __name__ == "__main__":
    main()
