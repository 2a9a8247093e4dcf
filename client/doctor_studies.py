"""The doctor's checks of a site's records and of the studies that it approved, by the rules of a real round."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from client.audit_log import AuditLog
from client.budget import Forecast, forecast, site_ledger, study_charges
from client.doctor import Check, attempt
from client.ingest.build import source_digest
from client.ingest.cohort import Cohort, open_cohort
from client.ingest.labels import read_table
from client.ingest.report import class_counts
from client.ingest.scan import walk
from client.participation import begun_rounds, local_now, readiness
from client.policy import check_moment, check_study
from client.site import Site
from common.errors import BudgetExceeded, DataError, SiteError
from common.study import Study, study_from_json
from common.version import VERSION


def ledger(site: Site) -> Check:
    """The ledger's rows, chain and head."""
    book = site_ledger(site)
    rows = book.verify() if book else 0
    return Check("ledger", "ok", f"{rows} rows, the chain is intact" if rows else "nothing was ever charged")


def audit_log(site: Site) -> Check:
    """The audit log's lines, chain and head."""
    return Check("audit log", "ok", f"{AuditLog(site.audit_file).verify()} lines, the chain is intact")


def of_all(site: Site) -> list[Check]:
    """The checks of every approved study. Once a study can run, another that can't is a warning."""
    files = sorted((site.folder / "approved").glob("*.json"))
    if not files:
        remedy = "Review and approve one (fedct-site study approve)"
        return [Check("studies", "fail", "none is approved here, so every round is refused", remedy)]
    groups = [_of_file(site, path) for path in files]
    if any(_can_run(group) for group in groups):
        groups = [group if _can_run(group) else [_softened(check) for check in group] for group in groups]
    return [check for group in groups for check in group]


def of_study(site: Site, study: Study) -> list[Check]:
    """The checks of one study."""
    look = {
        "approval": lambda: approval(site, study),
        "hours": lambda: hours(site),
        "cohort": lambda: cohort(site, study),
        "files": lambda: files(site, study),
        "budget": lambda: budget(site, study),
    }
    found = [check for name, one in look.items() for check in attempt(name, one)]
    return [replace(check, name=f"{study.name}: {check.name}") for check in found]


def approval(site: Site, study: Study) -> Check:
    """Approved, signed, and within the site's limits: checks 1 to 7."""
    check_study(study, site.config.policy, approved=site.is_approved(study), round_=1)
    found = f"approved as {study.digest[:12]}, format {study.format}, within the site's limits"
    return Check("approval", "ok", found)


def hours(site: Site) -> Check:
    """Whether a round might begin now: checks 8 and 9."""
    policy, now = site.config.policy, local_now()
    check_moment(policy, begun_rounds(AuditLog(site.audit_file)), now)
    return Check("hours", "ok", f"it is {now:%H:%M}, a round may begin in {policy.hours}")


def cohort(site: Site, study: Study) -> Check:
    """Whether the cohort opens, and whom it holds."""
    found = open_cohort(site, study)
    training, held_out = len(found.training_patients()), len(found.holdout_patients())
    if not training:
        raise DataError(f"the cohort of study '{study.name}' has no training patient", "Add patients")
    words = f"{training} patients for training, {held_out} held out; {_labels(found, study)}"
    made_by = str(found.manifest["code_version"])
    if made_by != VERSION:
        remedy = "Run 'fedct-site ingest' again if the coordinator asks for it"
        return Check("cohort", "warn", f"{words}; ingested by release {made_by}, this is {VERSION}", remedy)
    empty = [
        name
        for name, count in class_counts(found.examples, found.held_out, study.task.classes).items()
        if not count.patients
    ]
    remedy = "Check the label table" if empty else ""
    return Check("cohort", "warn" if empty else "ok", words, remedy)


def files(site: Site, study: Study) -> Check:
    """Whether files or labels changed since the ingest; looks at names, sizes and times alone."""
    entries, _ = walk(site.dicom_dir)
    table = b"" if study.task.structure else read_table(site.labels_file)
    if source_digest(entries, table) == open_cohort(site, study).source_digest:
        return Check("files", "ok", f"{len(entries)} files and the labels are as they were ingested")
    remedy = "Run 'fedct-site ingest' again, if that is wanted"
    return Check("files", "warn", "files or labels are not those that were ingested", remedy)


def budget(site: Site, study: Study) -> Check:
    """Whether the budget takes what comes next: the whole study, or once that has begun its next round."""
    book = site_ledger(site)
    cost = forecast(site, study, book)
    words = f"epsilon {cost.spent:.2f} of {cost.max_epsilon:g} is spent"
    if not cost.charges:
        if book is not None:
            readiness(site, study)
        elif not cost.fits:  # as there, which would make the ledger, and as root a ledger that the trainer can't write
            raise BudgetExceeded(
                f"{words}; the whole study would bring it to {cost.after:.2f}",
                "Agree on fewer rounds or a smaller epsilon, or raise max_epsilon in site.toml",
            )
        return Check("budget", "ok", f"{words}; the whole study brings it to {cost.after:.2f}")
    if book is not None and cost.rounds_left is not None:
        next_round = study_charges(study, site.config.policy, 1)
        after = book.forecast(cost.cohort, next_round, cost.delta)
        if not after <= cost.max_epsilon:
            raise BudgetExceeded(
                f"{words}; the next round would bring it to {after:.2f}",
                "Tell the coordinator, or raise max_epsilon in site.toml",
            )
    return _under_way(study, cost, len(set(book.rounds_charged(cost.cohort, study.digest))) if book else 0, words)


def _under_way(study: Study, cost: Forecast, begun: int, words: str) -> Check:
    missing = study.federation.rounds - begun
    words += f"; {begun} of {study.federation.rounds} rounds were charged"
    if cost.rounds_left is not None and missing > cost.rounds_left:
        remedy = "Tell the coordinator, or raise max_epsilon in site.toml"
        return Check("budget", "warn", f"{words}, and {cost.rounds_left} more fit", remedy)
    return Check("budget", "ok", words)


def _of_file(site: Site, path: Path) -> list[Check]:
    """The checks of an approval; one that this release can't read is not approved any more."""

    def read() -> list[Check]:
        study = study_from_json(path.read_text(encoding="utf-8"))
        if study.digest != path.stem:
            raise SiteError(f"'{path}' holds the study {study.digest[:12]}", "Remove it and approve the study again")
        return of_study(site, study)

    return attempt(f"approved/{path.stem[:12]}", read)


def _labels(found: Cohort, study: Study) -> str:
    counts = class_counts(found.examples, found.held_out, study.task.classes)
    return ", ".join(f"{name} {count.patients}" for name, count in counts.items())


def _can_run(group: Iterable[Check]) -> bool:
    return all(check.state != "fail" for check in group)


def _softened(check: Check) -> Check:
    return replace(check, state="warn") if check.state == "fail" else check
