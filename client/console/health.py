"""The doctor on the page: what is wrong here, and what to do about it.

The page sends nothing out, so the way to the coordinator is left to ``fedct-site doctor``; what the node noted of it
is shown.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from client.console.desk import AtSite
from client.doctor import Findings, attempt, diagnose
from client.site import Site
from common.web.page import View

router = APIRouter()


@router.get("/health")
def health(view: View) -> Response:
    """The frame; the checks, which look at every file, come as a part."""
    return view.show("health.html.j2")


@router.get("/health/checks")
def checks(view: View, site: AtSite) -> Response:
    """The findings."""
    findings = look(site)
    states = [check.state for check in findings.checks]
    return view.show("_checks.html.j2", findings=findings, failed=states.count("fail"), warned=states.count("warn"))


def look(site: Site) -> Findings:
    """The doctor's checks that stay on this machine: those of the runner, and of the node what it noted itself."""
    from client import doctor_machine

    found = diagnose(site, ("runner",)).checks
    node = attempt("node", lambda: doctor_machine.node(site)) + attempt("contact", lambda: doctor_machine.contact(site))
    return Findings(site.name, (*found[:2], *node, *found[2:]))
