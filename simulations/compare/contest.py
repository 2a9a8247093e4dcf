"""Studies compared on the same patients and the same hospitals: run what is to be run, then say what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

from client.budget import site_ledger
from client.ledger import charged
from client.site import Site
from common.errors import StudyError, UsageError
from common.privacy.accounting import epsilon
from common.study import Study
from common.version import versions
from server.run_folder import RunFolder
from simulations.compare.assemble import Key, Said, arm, duels, settings_that_differ
from simulations.compare.content import Candidate, Contest, write_contest
from simulations.compare.page import write_page
from simulations.compare.trials import (
    FEDERATED,
    KINDS,
    UNSEEN,
    Consortium,
    Trial,
    judgements,
    require_budget,
    require_patients,
    require_sites,
    run_trial,
)
from simulations.compare.words import findings
from simulations.federation import check_kinds, ingest_all, simulated_sites

JSON, PAGE = "comparison.json", "comparison.html"


@dataclass(frozen=True)
class Entry:
    """A study that takes part. ``base``: the folder of its file, where ``model.initial`` starts."""

    study: Study
    base: Path


def compete(
    entries: Sequence[Entry],
    root: Path,
    out: Path,
    *,
    kinds: Sequence[str] = (),
    leave_one_out: bool = False,
    folds: int | None = None,
    seed: int = 0,
) -> Contest:
    """Train every study in every way on every fold, unless ``out`` has it already; write the comparison there.

    ``kinds``: of ``local`` and ``central``, beside federated training. ``leave_one_out``: also without each hospital
    in turn. ``folds``: K for a cross-validation, None for the studies' own split. Nothing is trained before all
    studies fit each other, the data and every site's budget. Raises FedctError.
    """
    started = datetime.now(UTC)
    check_kinds(kinds)
    _require_same_patients([entry.study for entry in entries], folds)
    asked = tuple(kind for kind in KINDS if kind in kinds or (kind == UNSEEN and leave_one_out))
    consortium = Consortium(root, tuple(simulated_sites(root)), asked, seed)
    by_study = {
        entry.study.name: _trials(entry, out if len(entries) == 1 else out / entry.study.name, folds)
        for entry in entries
    }
    trials = [trial for of_study in by_study.values() for trial in of_study]
    require_sites(trials, consortium)
    for of_study in by_study.values():
        ingest_all(consortium.sites, of_study[0].study)  # one cohort serves all folds
    require_patients(trials, consortium)
    require_budget(trials, consortium)
    for trial in trials:
        run_trial(trial, consortium)
    contest = _assemble(by_study, consortium, folds, started)
    write_contest(contest, out / JSON)
    write_page(contest, out / PAGE)
    return contest


def _require_same_patients(studies: Sequence[Study], folds: int | None) -> None:
    """Raise UsageError or StudyError unless the studies have names of their own, one task and one split."""
    names = [study.name for study in studies]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two studies are named '{name}'", "Give each study a name of its own")
    for difference in settings_that_differ(studies):
        section, _, key = difference.setting.partition(".")
        split = key == "split_seed" or (folds is None and key in ("holdout", "folds"))
        if section == "task" or (section == "evaluation" and split):
            values = " and ".join(dict.fromkeys(repr(value) for value in difference.values))
            raise StudyError(
                f"the studies differ in {difference.setting}: {values}; expected one task, judged on the same patients",
                "Make them equal, or compare other studies",
            )
    if folds is None and len({study.evaluation.fold for study in studies}) > 1:
        raise StudyError(
            "the studies hold out different folds", "Make evaluation.fold equal, or use --cross-validation"
        )


def _trials(entry: Entry, folder: Path, folds: int | None) -> list[Trial]:
    if folds is None:
        return [Trial(entry.study, RunFolder(folder), entry.base)]
    return [
        Trial(entry.study.of_fold(fold, folds), RunFolder(folder / f"fold-{fold}"), entry.base)
        for fold in range(1, folds + 1)
    ]


def _assemble(
    by_study: dict[str, list[Trial]], consortium: Consortium, folds: int | None, started: datetime
) -> Contest:
    said: dict[Key, Said] = {}
    for name, trials in by_study.items():
        of_folds = [judgements(trial, consortium) for trial in trials]
        for kind in of_folds[0]:
            said[(name, kind)] = [one[kind] for one in of_folds]
    scores = all(site.config.policy.evaluation == "exact" for site in consortium.sites)
    contest = Contest(
        started=started,
        finished=datetime.now(UTC),
        seed=consortium.seed,
        folds=folds,
        sites=tuple(site.name for site in consortium.sites),
        versions=versions(),
        candidates=tuple(_candidate(trials, consortium.sites) for trials in by_study.values()),
        differences=settings_that_differ([trials[0].study for trials in by_study.values()]),
        arms=tuple(arm(key, by_study[key[0]][0].study, said[key]) for key in said),
        duels=tuple(duels(_pairs(list(said)), said, scores=scores)),
        decides="corrected-t" if folds else "mcnemar",
    )
    return contest.model_copy(update={"findings": findings(contest)})


def _pairs(keys: Sequence[Key]) -> list[tuple[Key, Key]]:
    """What is compared: the federated models with each other, and with the other ways to train the same study."""
    together = [key for key in keys if key[1] == FEDERATED]
    own = [(key, other) for key in together for other in keys if other[0] == key[0] and other != key]
    return [*combinations(together, 2), *own]


def _candidate(trials: Sequence[Trial], sites: Sequence[Site]) -> Candidate:
    study = trials[0].study
    digests = {trial.study.digest for trial in trials}
    spent = [_spent(site, digests) for site in sites] if study.privacy.on else []
    return Candidate(
        name=study.name,
        title=study.title,
        digests=tuple(trial.study.digest for trial in trials),
        study=study.model_dump(mode="json"),
        epsilon=max(spent) if spent else None,
        delta=max(site.config.policy.max_delta for site in sites) if spent else None,
    )


def _spent(site: Site, digests: set[str]) -> float:
    """What these studies were charged at a site, together."""
    ledger, cohort = site_ledger(site), site.config.cohort
    entries = ledger.entries() if ledger else ()
    events = [event for digest in digests for event in charged(entries, cohort, digest)]
    return epsilon(events, site.config.policy.max_delta)
