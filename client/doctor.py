"""Would this site take part in the next round? One check a line, each a value with what to do about it.

A site is healthy when no check fails. The checks of a study are those that a real round runs (``client.policy``,
``client.participation``), not others like them; the network is tried the way the node goes.

=========== =====================================================================================================
the machine ``disk``, ``memory``, ``gpu``                                          (``client.doctor_machine``)
the way out ``enrolment``, ``connection``, ``certificate``, ``clock``, ``registration``  (``client.doctor_network``)
the daemon  ``node``, ``contact``, ``runner``                                      (``client.doctor_machine``)
the records ``ledger``, ``audit log``; of each study ``approval``, ``hours``, ``cohort``, ``files``, ``budget``
            (``client.doctor_studies``)
=========== =====================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from client.site import Site
from common.errors import FedctError, from_os_error
from common.study import Study

State = Literal["ok", "warn", "fail"]
APART = "Run it as root, or each half as its own user: --part node, --part runner"


@dataclass(frozen=True)
class Check:
    """``name``: of what; with the study's name before it if it is one study's. ``found``: in words, for a person of
    the hospital. ``remedy``: what to do; never empty when the state is "fail".
    """

    name: str
    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Findings:
    """All checks of a site, in their order."""

    site: str
    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """Whether the site would take part in the next round, as far as the checks can tell."""
        return bool(self.checks) and all(check.state != "fail" for check in self.checks)


def attempt(name: str, look: Callable[[], Check | list[Check]]) -> list[Check]:
    """What ``look`` finds; an error of ours, or of a file, is a check that failed."""
    try:
        found = look()
    except PermissionError as error:
        return [Check(name, "fail", f"'{error.filename}' can't be read by this user", APART)]
    except OSError as error:
        return [_failed(name, from_os_error(error))]
    except FedctError as error:
        return [_failed(name, error)]
    return found if isinstance(found, list) else [found]


def _failed(name: str, error: FedctError) -> Check:
    return Check(name, "fail", error.message, error.remedy or "See the site guide")


def diagnose(site: Site, parts: Sequence[str], study: Study | None = None) -> Findings:
    """Look at ``site``. ``parts``: the halves whose checks are run, "node" and "runner".

    ``study``: the one that is asked about; by default all that the site approved, of which one that can't run only
    warns as long as another can.
    """
    from client import doctor_machine as machine
    from client import doctor_network as network
    from client import doctor_studies as studies

    checks = attempt("disk", lambda: machine.disk(site)) + attempt("memory", machine.memory)
    if "node" in parts:
        checks += network.checks(site)
        checks += attempt("node", lambda: machine.node(site))
        checks += attempt("contact", lambda: machine.contact(site))
    if "runner" in parts:
        checks += attempt("gpu", machine.gpu)
        checks += attempt("runner", lambda: machine.runner(site))
        checks += attempt("ledger", lambda: studies.ledger(site))
        checks += attempt("audit log", lambda: studies.audit_log(site))
        checks += studies.of_study(site, study) if study else studies.of_all(site)
    return Findings(site.name, tuple(checks))
