"""Figures for Prometheus: text format 0.0.4. None of them is a number of patients, examples or files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from client.audit_log import AuditLog
from client.site import Site

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METRICS: Mapping[str, tuple[str, str]] = {
    "fedct_site_healthy": ("gauge", "Whether the site would answer the coordinator."),
    "fedct_site_problem": ("gauge", "1 for each code that /health shows."),
    "fedct_site_seconds_since_contact": ("gauge", "Since the coordinator last accepted a request."),
    "fedct_site_restarts_total": ("counter", "Starts of a service after its first, since the daemon began."),
    "fedct_site_answers_total": (
        "counter",
        "Answers to the coordinator on the audit log: ok, or the code of a refusal.",
    ),
    "fedct_site_epsilon_spent": ("gauge", "Of a patient's budget, by all studies on the cohort."),
    "fedct_site_epsilon_limit": ("gauge", "The budget: policy.max_epsilon."),
    "fedct_site_study_epsilon_spent": ("gauge", "By one study; these don't add up."),
}


@dataclass(frozen=True)
class Sample:
    """One value of a metric of ``METRICS``."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Records:
    """What ledger and audit log say: answers by code, and epsilon spent on the cohort and by each study's digest."""

    answers: Mapping[str, int]
    cohort: str
    spent: float
    limit: float
    by_study: Mapping[str, float]

    def samples(self) -> list[Sample]:
        """As metrics."""
        cohort = {"cohort": self.cohort}
        return [
            *(Sample("fedct_site_answers_total", count, {"code": code}) for code, count in self.answers.items()),
            Sample("fedct_site_epsilon_spent", self.spent, cohort),
            Sample("fedct_site_epsilon_limit", self.limit, cohort),
            *(Sample("fedct_site_study_epsilon_spent", e, {"study": study}) for study, e in self.by_study.items()),
        ]


def records_of(site: Site) -> Records:
    """Read and verify ledger and audit log. Raises LedgerError or StorageError."""
    from client.budget import site_ledger, spending  # here, since accounting takes a second to import

    codes: Counter[str] = Counter()
    for entry in AuditLog(site.audit_file).read():
        if entry.kind == "release":
            codes["ok"] += 1
        elif entry.kind in ("refused-or-failed", "not-ready"):
            codes[str(entry.details.get("code"))] += 1
    book = site_ledger(site)
    present = spending(site, book.entries() if book else ())[0]
    by_study = {study.digest[:12]: study.epsilon for study in present.studies}
    return Records(dict(codes), present.cohort, present.epsilon, site.config.policy.max_epsilon, by_study)


def exposition(samples: Iterable[Sample]) -> str:
    """The page: each metric with its help and type, then its samples."""
    lines: list[str] = []
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.name, []).append(sample)
    for name, group in groups.items():
        kind, words = METRICS[name]
        lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{_labels(sample.labels)} {sample.value:.10g}" for sample in group]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    pairs = [f'{name}="{_escaped(value)}"' for name, value in labels.items()]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
