"""Sites: how each stands, invitations, and admission with both fingerprints in view."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Path, UploadFile
from starlette.responses import Response

from common.clock import now
from common.errors import RunError
from common.pki.documents import MOST_BYTES
from common.pki.request import open_request
from common.web.gate import needs
from common.web.page import View, Viewer
from server import ca
from server.control import KnownNode, NotRunning
from server.coordinator import Coordinator
from server.daemon import daemon_of
from server.dashboard.desk import AtDesk, Desk
from server.enrolment import invite as make_invitation
from server.history import Hello
from server.nodes import known_nodes, register_nodes
from server.registry import Registry, Standing

router = APIRouter()
Document = Annotated[str, Form(max_length=MOST_BYTES)]
Site = Annotated[str, Path(max_length=63)]


@dataclass(frozen=True)
class Row:
    """A site: its standing, its node if the SuperLink knows it, and what it last said of itself in any run."""

    standing: Standing
    node: KnownNode | None
    hello: Hello | None


@router.get("/sites")
def sites(view: View, desk: AtDesk) -> Response:
    """Every site that was ever invited, and how long the certificates last."""
    here, moment = desk.here, now()
    nodes, trouble = _nodes(view, here)
    said = _hellos(desk)
    standings = Registry(here.registry_file).standings(moment)
    rows = [Row(one, nodes.get(one.site), said.get(one.site)) for one in standings]
    return view.show(
        "sites.html.j2",
        rows=rows,
        certificates=ca.expiries(here, moment),
        fingerprint=ca.fingerprint(here),
        trouble=trouble,
    )


@router.post("/sites/invite")
@needs("operator")
def invite(view: View, desk: AtDesk, title: Annotated[str, Form(min_length=1, max_length=200)]) -> Response:
    """Invite a hospital. Its invitation is shown this once, and kept nowhere."""
    made = make_invitation(desk.here, title, now())
    view.act(f"invited {made.invitation.site}")
    return view.show("invitation.html.j2", invitation=made.invitation, document=made.document)


@router.get("/sites/admit")
@needs("approver")
def admit_page(view: View, desk: AtDesk) -> Response:
    """Where the request of a hospital is given."""
    _ = desk.here
    return view.show("admit.html.j2", request=None, document="", heard="", differs=False)


@router.post("/sites/admit/look")
@needs("approver")
async def look(view: View, desk: AtDesk, file: UploadFile) -> Response:
    """Show the fingerprint of a request beside a field for what the hospital reads out."""
    _ = desk.here
    document = (await file.read(MOST_BYTES + 1)).decode("utf-8", "replace")
    asked = open_request(document.encode())
    view.act(f"looked at the request of {asked.site}")
    return view.show("admit.html.j2", request=asked, document=document, heard="", differs=False)


@router.post("/sites/admit")
@needs("approver")
def admit(view: View, desk: AtDesk, document: Document, heard: Annotated[str, Form(max_length=200)]) -> Response:
    """Admit a node whose fingerprint is the one that the hospital read out; with another one, nothing happens."""
    asked = open_request(document.encode())
    if _plain(heard) != _plain(asked.fingerprint):
        view.act(f"did not admit {asked.site}: the fingerprints differ")
        return view.show("admit.html.j2", 409, request=asked, document=document, heard=heard, differs=True)
    node = Registry(desk.here.registry_file).admit(document.encode(), now())
    view.act(f"admitted {node.site}, {node.fingerprint}")
    return _told(view, desk.here, view.t("sites.admitted", site=node.site))


@router.get("/sites/{site}/revoke")
@needs("approver")
def ask_revoke(view: View, desk: AtDesk, site: Site) -> Response:
    """Ask whether to end a site's node or invitation."""
    _ = desk.here
    lines = [view.t("sites.why_revoke"), view.t("sites.why_revoke_more")]
    title, go = view.t("sites.ask_revoke", site=site), view.t("sites.revoke")
    action = f"/sites/{site}/revoke"
    return view.show("confirm.html.j2", title=title, lines=lines, action=action, go=go, back="/sites", danger=True)


@router.post("/sites/{site}/revoke")
@needs("approver")
def revoke(view: View, desk: AtDesk, site: Site) -> Response:
    """End a site's node for good, and withdraw its open invitation."""
    Registry(desk.here.registry_file).revoke(site, now())
    view.act(f"revoked {site}")
    return _told(view, desk.here, view.t("sites.revoked", site=site))


def _told(view: Viewer, here: Coordinator, said: str) -> Response:
    """Back to the sites, once a running SuperLink knows of a change."""
    try:
        register_nodes(daemon_of(here), Registry(here.registry_file))
        return view.go("/sites", said)
    except NotRunning:
        return view.go("/sites", " ".join((said, view.t("sites.told_later"))))
    except RunError as error:
        return view.go("/sites", f"{said} {error}", "warn")


def _nodes(view: Viewer, here: Coordinator) -> tuple[dict[str, KnownNode], str]:
    """What the SuperLink knows, and what keeps it from being known, or ""."""
    try:
        return known_nodes(daemon_of(here), Registry(here.registry_file)), ""
    except NotRunning:
        return {}, view.t("sites.not_serving")
    except RunError as error:
        return {}, view.t("sites.trouble", why=error)


def _hellos(desk: Desk) -> dict[str, Hello]:
    """What each site last said of itself."""
    found: dict[str, Hello] = {}
    for run in desk.runs.all():
        for site, hello in run.history.hellos.items():
            if site not in found or hello.time > found[site].time:
                found[site] = hello
    return found


def _plain(fingerprint: str) -> str:
    """A fingerprint without the spaces and capitals in which people write it."""
    return re.sub(r"[\s:.-]", "", fingerprint).casefold()
