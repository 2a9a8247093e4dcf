"""Inviting sites, and telling the SuperLink of changes: what the commands and the page both do."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime

from common.pki.invitation import Invitation, make_invitation, sign_invitation
from server.control import NotRunning
from server.coordinator import Coordinator, read_file
from server.daemon import daemon_of
from server.nodes import register_nodes
from server.registry import Registry, site_name


@dataclass(frozen=True)
class Invited:
    """An invitation, and its ``document``: what is sent to the hospital, and kept nowhere."""

    invitation: Invitation
    document: str


def invite(coordinator: Coordinator, title: str, now: datetime) -> Invited:
    """Invite the hospital ``title``; a former invitation that it did not use is withdrawn.

    Raises UsageError if no name can be made of it or it is admitted already, TrustError on a bad title.
    """
    key = coordinator.study_key()
    invitation = make_invitation(
        coordinator=coordinator.config.title,
        address=coordinator.config.address,
        authority=read_file(coordinator.authority_file).decode("utf-8", "replace"),
        study_key=key,
        site=site_name(title),
        title=title,
        now=now,
        random=secrets.token_bytes,
    )
    Registry(coordinator.registry_file).invite(invitation, now)
    return Invited(invitation, sign_invitation(invitation, key))


def tell_superlink(coordinator: Coordinator) -> str:
    """Have a running SuperLink know the nodes of the registry; what became of it, in a sentence."""
    try:
        done = register_nodes(daemon_of(coordinator), Registry(coordinator.registry_file))
    except NotRunning:
        return "The SuperLink is not running; it learns of this when it starts"
    return f"The SuperLink knows {len(done.nodes)} nodes ({done.added} new, {done.removed} removed)"
