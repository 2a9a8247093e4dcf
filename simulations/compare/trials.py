"""One study on one split of the patients: trained together, alone, in one place, and without each hospital in turn.

What is complete is not done again: ``run/judged.json`` in a trial's folder names, for each way of training, what its
model said at each site (``simulations.compare.judgements``). A fold that was broken off starts its rounds again, and
is charged again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.budget import site_ledger, whole_study_events
from client.ingest.cohort import open_cohort
from client.ledger import charged
from client.received import Received, network
from client.site import Site
from common.console import say
from common.errors import BudgetExceeded, DataError, UsageError
from common.files import write_atomic
from common.models.resnet import Network
from common.models.weights import initial_model
from common.privacy.accounting import epsilon
from common.study import Study
from server.results import read_results
from server.run_folder import RunFolder
from simulations.compare.content import Kind
from simulations.compare.judgements import Judgement, is_saved
from simulations.federation import add_comparisons, check_quorum, federate

FEDERATED: Kind = "federated"
UNSEEN: Kind = "unseen"
KINDS: tuple[Kind, ...] = ("local", FEDERATED, "central", UNSEEN)
"""How a model was trained; ``unseen``: for each hospital the one that was trained without it."""
Names = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Consortium:
    """The simulated hospitals, and what is asked of them. ``kinds``: those of KINDS beside ``federated``."""

    root: Path
    sites: tuple[Site, ...]
    kinds: tuple[Kind, ...]
    seed: int


@dataclass(frozen=True)
class Trial:
    """A study on one split. ``fold``: None without cross-validation. ``base``: where ``model.initial`` starts."""

    study: Study
    folder: RunFolder
    base: Path

    @property
    def fold(self) -> int | None:
        """Which part of the patients is held out."""
        return self.study.evaluation.fold

    @property
    def title(self) -> str:
        """How it is called on the terminal."""
        return f"'{self.study.name}'" + (f", fold {self.fold} of {self.study.evaluation.folds}" if self.fold else "")

    def without(self, site: Site) -> RunFolder:
        """The folder of the run that leaves this hospital out."""
        return RunFolder(self.folder.root / f"without-{site.name}")


def run_trial(trial: Trial, consortium: Consortium) -> None:
    """Do what is not done yet, and keep what the models said. Raises FedctError."""
    marked = _Marked(trial, consortium)
    marked.begin()
    if not marked.has(FEDERATED):
        say(f"Training {trial.title}")
        _together(trial, consortium.root, consortium.sites, trial.folder, consortium.seed)
        marked.add(FEDERATED, [(site, _judged_at(site, trial)) for site in consortium.sites])
    baselines = [kind for kind in ("local", "central") if kind in consortium.kinds and not marked.has(kind)]
    if baselines:
        results = read_results(trial.folder.results_file)
        found = add_comparisons(results, trial.study, consortium.sites, baselines, trial.folder)[1]
        for kind, said in found.judgements.items():
            marked.add(kind, [(site, said[site.name]) for site in consortium.sites])
    if UNSEEN in consortium.kinds:
        for site in consortium.sites:
            if not marked.has(UNSEEN, site):
                _leave_out(trial, consortium, site, marked)


def judgements(trial: Trial, consortium: Consortium) -> dict[Kind, dict[str, Judgement]]:
    """What the models of a trial that is complete said, by kind and site."""
    names = _Marked(trial, consortium).names
    kinds = [kind for kind in KINDS if kind == FEDERATED or kind in consortium.kinds]
    return {kind: {s.name: Judgement.load(s, names[kind][s.name]) for s in consortium.sites} for kind in kinds}


def require_budget(trials: Sequence[Trial], consortium: Consortium) -> None:
    """Raise BudgetExceeded unless every site's budget takes all that is left to do, before anything is trained."""
    for site in consortium.sites:
        policy, ledger = site.config.policy, site_ledger(site)
        pending = [study for trial in trials for study in _pending(trial, consortium, site)]
        before = charged(ledger.entries(), site.config.cohort) if ledger else []
        events = [event for study in pending for event in whole_study_events(study, policy)]
        after = epsilon([*before, *events], policy.max_delta)
        if after > policy.max_epsilon:
            raise BudgetExceeded(
                f"{len(pending)} trainings would bring site '{site.name}' to epsilon {after:.4g}, since folds and repeated "
                f"trainings have patients in common; policy.max_epsilon is {policy.max_epsilon:g}",
                "Take fewer folds or studies, ask for a smaller epsilon, or raise max_epsilon in site.toml",
            )


def require_patients(trials: Sequence[Trial], consortium: Consortium) -> None:
    """Raise DataError unless every site has somebody to train on in every trial, and someone is tested."""
    for trial in trials:
        tested = 0
        for site in consortium.sites:
            held_out = open_cohort(site, trial.study).held_out
            tested += int(held_out.sum())
            if held_out.all():
                raise DataError(
                    f"site '{site.name}' has no patient to train on in {trial.title}",
                    "Take fewer folds or larger sites",
                )
        if tested == 0:
            raise DataError(f"no patient is held out in {trial.title}", "Take fewer folds or more patients")


def require_sites(trials: Sequence[Trial], consortium: Consortium) -> None:
    """Raise QuorumError or UsageError unless there are sites enough, also where one of them is left out."""
    for trial in trials:
        check_quorum(trial.study, consortium.root, consortium.sites)
        least, count = trial.study.federation.minimum_sites, len(consortium.sites)
        if UNSEEN in consortium.kinds and count - 1 < max(least, 1):
            raise UsageError(
                f"--leave-one-out would train on {count - 1} of {count} sites; federation.minimum_sites is {least}",
                "Lower the minimum, or give more sites",
            )


def _pending(trial: Trial, consortium: Consortium, site: Site) -> Iterator[Study]:
    """The study, once for each federated training in which ``site`` has yet to take part."""
    marked = _Marked(trial, consortium)
    if not marked.matches or not (marked.has(FEDERATED) or _is_complete(trial, trial.folder)):
        yield trial.study
    for other in consortium.sites if UNSEEN in consortium.kinds else ():
        done = marked.matches and (marked.has(UNSEEN, other) or _is_complete(trial, trial.without(other)))
        if other.name != site.name and not done:
            yield trial.study


def _leave_out(trial: Trial, consortium: Consortium, site: Site, marked: _Marked) -> None:
    """Train without ``site``, and ask the model about it: about everybody there, unless folds test each patient once."""
    say(f"Training {trial.title} without {site.name}")
    folder = trial.without(site)
    others = tuple(other for other in consortium.sites if other.name != site.name)
    _together(trial, _folder_of(others, folder.root / "sites"), others, folder, consortium.seed)
    model = _final_model(trial, folder)
    said = Judgement.of(model, open_cohort(site, trial.study), trial.study, everybody=trial.fold is None)
    marked.add(UNSEEN, [(site, said)])


def _folder_of(sites: Sequence[Site], folder: Path) -> Path:
    """A folder that holds these sites alone, as links to theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for site in sites:
        (folder / site.name).symlink_to(site.folder.resolve(), target_is_directory=True)
    return folder


def _together(trial: Trial, root: Path, sites: Sequence[Site], folder: RunFolder, seed: int) -> None:
    """Federated training into ``folder``, unless that is complete."""
    if not _is_complete(trial, folder):
        federate(trial.study, root, sites, folder, trial.base, seed)


def _is_complete(trial: Trial, folder: RunFolder) -> bool:
    """Whether the run in ``folder`` of a trial that was begun with the same data and seed has finished."""
    if not folder.results_file.exists() or not folder.model_file.exists():
        return False
    try:
        results = read_results(folder.results_file)
    except UsageError:  # of another version, or damaged: made anew
        return False
    return results.outcome == "finished" and results.study_digest == trial.study.digest


def _judged_at(site: Site, trial: Trial) -> Judgement:
    """What the final model says at a site, with the weights that the site keeps for itself where the study has some."""
    received = Received.whole(_final_model(trial, trial.folder), trial.study)
    return Judgement.of(network(site, trial.study, received), open_cohort(site, trial.study), trial.study)


def _final_model(trial: Trial, folder: RunFolder) -> Network:
    """The model that a run left, in the network of its study."""
    source = trial.study.model.model_copy(update={"initial": str(folder.model_file), "initial_sha256": ""})
    return initial_model(trial.study.model_copy(update={"model": source}), 0)


class _Marked:
    """What of a trial is complete: the names of judgements by kind and site, kept in ``run/judged.json``.

    ``matches``: whether the folder was begun with this study, seed, hospitals and their data.
    """

    def __init__(self, trial: Trial, consortium: Consortium) -> None:
        self._folder = trial.folder
        self._path = trial.folder.inner / "judged.json"
        self._sites = consortium.sites
        sources = "".join(open_cohort(site, trial.study).source_digest for site in consortium.sites)
        data = hashlib.sha256(sources.encode()).hexdigest()
        names = [site.name for site in consortium.sites]
        self._of = {"study": trial.study.digest, "seed": consortium.seed, "sites": names, "data": data}
        found = self._read()
        self.matches = found is not None
        self.names: Names = found or {}

    def begin(self) -> None:
        """Forget the runs of another study, seed or data in this folder."""
        if self.matches:
            return
        for results in (self._folder.results_file, *self._folder.root.glob("without-*/results.json")):
            results.unlink(missing_ok=True)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._write()

    def has(self, kind: str, site: Site | None = None) -> bool:
        """Whether the models of this kind were asked, at ``site`` or everywhere, and the answers are there."""
        sites = self._sites if site is None else (site,)
        known = self.names.get(kind, {})
        return all(one.name in known and is_saved(one, known[one.name]) for one in sites)

    def add(self, kind: str, said: Sequence[tuple[Site, Judgement]]) -> None:
        """Seal the answers at their sites, then note their names."""
        names = {site.name: judgement.save(site) for site, judgement in said}
        self.names[kind] = self.names.get(kind, {}) | names
        self._write()

    def _write(self) -> None:
        write_atomic(self._path, json.dumps(self._of | {"judgements": self.names}, indent=1).encode())

    def _read(self) -> Names | None:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            same = {key: content[key] for key in self._of} == self._of
            return dict(content["judgements"]) if same else None
        except (OSError, ValueError, KeyError, TypeError):  # absent or damaged: all is done anew
            return None
