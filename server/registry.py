"""The registry: whom the coordinator invited, which node keys it admitted, which it revoked.

One SQLite file. A token is never in it, only its digest; an invitation can be used once, and rows are never
deleted, so a key or token that was ever used is known for good. A site has at most one node key at a time. Each
change is one transaction under SQLite's write lock, so that of two requests with one token one is admitted.

``admit`` checks, in this order:

1. the request has the form, and its maker has the node key that it names (``common.pki.request``);
2. this coordinator made the invitation that it names: whoever saw another one is answering somebody else;
3. its maker knew that invitation's token, and names the invitation's site;
4. the invitation was not withdrawn;
5. the invitation was not used before, by this key or another;
6. the invitation has not expired;
7. the node key was never admitted before.
"""

from __future__ import annotations

import os
import re
import sqlite3
import unicodedata
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, NoReturn

from common.errors import CoordinatorError, StorageError, TrustError, UsageError
from common.pki.invitation import Invitation, read_time, token_digest, write_time
from common.pki.request import JoinRequest, node_fingerprint, open_request

_BUSY_SECONDS = 60.0
_SCHEMA = """
CREATE TABLE invitation (
  digest TEXT PRIMARY KEY, token_digest TEXT NOT NULL UNIQUE, site TEXT NOT NULL, title TEXT NOT NULL,
  made TEXT NOT NULL, expires TEXT NOT NULL, withdrawn TEXT
) STRICT;
CREATE TABLE node (
  key TEXT PRIMARY KEY, site TEXT NOT NULL, invitation TEXT NOT NULL UNIQUE REFERENCES invitation (digest),
  admitted TEXT NOT NULL, revoked TEXT
) STRICT;
CREATE UNIQUE INDEX one_node_a_site ON node (site) WHERE revoked IS NULL;
"""
_INVITE_AGAIN = "Invite the site again"


@dataclass(frozen=True)
class Node:
    """A site's node: ``key`` is its public key, one line of OpenSSH."""

    site: str
    key: str

    @property
    def fingerprint(self) -> str:
        """What the site reads out on the telephone."""
        return node_fingerprint(self.key)


@dataclass(frozen=True)
class Standing:
    """How a site stands. ``since``: UTC; of an expired invitation, when it expired. ``fingerprint``: "" without a node."""

    site: str
    title: str
    standing: Literal["invited", "expired", "admitted", "revoked", "withdrawn"]
    since: str
    fingerprint: str


def site_name(title: str) -> str:
    """The name that stands for a hospital in studies: letters, digits and dashes. Raises UsageError if none is left."""
    plain = unicodedata.normalize("NFKD", title.casefold()).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:63].rstrip("-")
    if not name:
        raise UsageError(f"no site name can be made of {title!r}", "Write the hospital's name in Latin letters")
    return name


class Registry:
    """The registry in ``path``. Every method raises CoordinatorError if the file is missing or damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        """Make the file, mode 0600. Raises FileExistsError if there is one."""
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        with closing(sqlite3.connect(self.path)) as database:
            database.executescript(_SCHEMA)

    def invite(self, invitation: Invitation, now: datetime) -> None:
        """Note an invitation; an older one of the same site that was not used is withdrawn.

        Raises UsageError if the site has a node already.
        """
        with self._transaction() as database:
            if database.execute("SELECT 1 FROM node WHERE site = ? AND revoked IS NULL", [invitation.site]).fetchone():
                raise UsageError(
                    f"site '{invitation.site}' is admitted already",
                    f"To replace its key, run 'fedct-coordinator revoke {invitation.site}' first",
                )
            self._withdraw(database, invitation.site, now)
            row = (invitation.digest, token_digest(invitation.token), invitation.site, invitation.title)
            database.execute(
                "INSERT INTO invitation VALUES (?, ?, ?, ?, ?, ?, NULL)", (*row, write_time(now), invitation.expires)
            )

    def admit(self, content: bytes, now: datetime) -> Node:
        """Admit the node of a request. Raises TrustError at the first check that fails; then nothing is changed."""
        request = open_request(content)
        with self._transaction() as database:
            self._check(database, request, now)
            database.execute(
                "INSERT INTO node VALUES (?, ?, ?, ?, NULL)",
                (request.node_key, request.site, request.invitation, write_time(now)),
            )
        return Node(request.site, request.node_key)

    def revoke(self, site: str, now: datetime) -> None:
        """End the site's node, and withdraw invitations that it has not used. Raises UsageError if it has neither."""
        with self._transaction() as database:
            nodes = database.execute(
                "UPDATE node SET revoked = ? WHERE site = ? AND revoked IS NULL", (write_time(now), site)
            ).rowcount
            if nodes + self._withdraw(database, site, now) == 0:
                raise UsageError(
                    f"site '{site}' has neither a node nor an open invitation", "See 'fedct-coordinator status'"
                )

    def admitted(self) -> tuple[Node, ...]:
        """The nodes that may connect, by site."""
        with self._transaction() as database:
            rows = database.execute("SELECT site, key FROM node WHERE revoked IS NULL ORDER BY site").fetchall()
        return tuple(Node(*row) for row in rows)

    def standings(self, now: datetime) -> tuple[Standing, ...]:
        """Every site that was ever invited, by name, as it stands ``now``."""
        with self._transaction() as database:
            rows = database.execute(
                """SELECT i.site, i.title, i.expires, i.withdrawn, n.key, n.admitted, n.revoked
                FROM invitation i LEFT JOIN node n ON n.invitation = i.digest ORDER BY i.made, i.rowid"""
            ).fetchall()
        latest = {row[0]: _standing(*row, now=now) for row in rows}
        return tuple(latest[site] for site in sorted(latest))

    def _check(self, database: sqlite3.Connection, request: JoinRequest, now: datetime) -> None:
        """Checks 2 to 7 of the module's docstring."""
        found = database.execute(
            "SELECT token_digest, site, expires, withdrawn FROM invitation WHERE digest = ?", [request.invitation]
        ).fetchone()
        if found is None:
            _refuse(
                f"the request of site '{request.site}' answers an invitation that this coordinator did not make: "
                "somebody changed it on its way, or it is another coordinator's",
                "Compare the coordinator's fingerprint with the site by telephone, and invite it again",
            )
        digest, site, expires, withdrawn = found
        if not request.holds(digest) or request.site != site:
            _refuse(f"whoever made the request of site '{request.site}' did not hold its invitation", _INVITE_AGAIN)
        if withdrawn is not None:
            _refuse(f"the invitation of site '{site}' was withdrawn at {withdrawn}", "Use its newest invitation")
        self._check_unused(database, request)
        if not now < read_time(expires):
            _refuse(f"the invitation of site '{site}' expired at {expires}", _INVITE_AGAIN)
        for other, revoked in database.execute("SELECT site, revoked FROM node WHERE key = ?", [request.node_key]):
            state = "was revoked" if revoked else "is in use"
            _refuse(f"the node key of the request was admitted for site '{other}' before, and {state}", _INVITE_AGAIN)

    def _check_unused(self, database: sqlite3.Connection, request: JoinRequest) -> None:
        """Check 5."""
        used = database.execute("SELECT key, admitted FROM node WHERE invitation = ?", [request.invitation]).fetchone()
        if used is None:
            return
        key, admitted = used
        if key == request.node_key:
            _refuse(f"this request was admitted at {admitted} already", "Nothing needs to be done")
        _refuse(
            f"the invitation of site '{request.site}' was used at {admitted} by another key, whose fingerprint is "
            f"{node_fingerprint(key)}; this request's is {request.fingerprint}. One of the two is not the hospital",
            f"Ask the hospital for its fingerprint; run 'fedct-coordinator revoke {request.site}' and invite it again",
        )

    def _withdraw(self, database: sqlite3.Connection, site: str, now: datetime) -> int:
        """Withdraw the unused invitations of a site; how many there were."""
        return database.execute(
            """UPDATE invitation SET withdrawn = ? WHERE site = ? AND withdrawn IS NULL
            AND digest NOT IN (SELECT invitation FROM node)""",
            (write_time(now), site),
        ).rowcount

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """The database under its write lock; committed at the end, rolled back on any error."""
        if not self.path.exists():
            raise CoordinatorError(f"registry '{self.path}' does not exist", "Restore it from its copy")
        try:
            with closing(sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous = FULL")
                database.execute("PRAGMA foreign_keys = ON")
                database.execute("BEGIN IMMEDIATE")
                with database:
                    yield database
        except sqlite3.OperationalError as error:
            raise StorageError(
                f"registry '{self.path}' can't be used ({error})", "Check the disk and the mode"
            ) from None
        except sqlite3.DatabaseError as error:
            raise CoordinatorError(f"registry '{self.path}' is damaged ({error})", "Restore it from its copy") from None


def _standing(
    site: str,
    title: str,
    expires: str,
    withdrawn: str | None,
    key: str | None,
    admitted: str | None,
    revoked: str | None,
    *,
    now: datetime,
) -> Standing:
    """How the latest invitation of a site, and the node that came of it, stand."""
    if key is not None and admitted is not None:
        print_ = node_fingerprint(key)
        return (
            Standing(site, title, "revoked", revoked, print_)
            if revoked
            else Standing(site, title, "admitted", admitted, print_)
        )
    if withdrawn is not None:
        return Standing(site, title, "withdrawn", withdrawn, "")
    return Standing(site, title, "invited" if now < read_time(expires) else "expired", expires, "")


def _refuse(message: str, remedy: str) -> NoReturn:
    raise TrustError(message, remedy)
