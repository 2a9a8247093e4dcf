"""A study from first message to results: rounds, checkpoints, final evaluation, model, report.

A folder with checkpoints goes on where the last one stands, whatever ended the attempt before: the next round is asked
of whoever is there now, and each site charges it anew. Whatever happens, ``results.json`` and ``report.html`` say it:
a run that fails keeps the rounds that were complete, with the reason.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path

from flwr.serverapp import Grid
from torch import nn

from common.errors import FedctError, QuorumError, from_os_error
from common.models.weights import digest_of, initial_model, load_vector, save_weights, to_vector
from common.privacy.plan import plan_for
from common.study import Study
from common.version import versions
from server import checkpoints
from server.checkpoints import Checkpoint
from server.coordinator import Coordinator
from server.evaluation import evaluate, final_metrics
from server.provenance import seal
from server.report import render_report
from server.report.card import write_cards
from server.results import (
    FinalMetrics,
    Metrics,
    PrivacySummary,
    Results,
    RoundRecord,
    SiteSummary,
    write_results,
)
from server.rounds import Outcome, Rounds
from server.run_folder import RunFolder
from server.subgroups import subgroups
from server.tracking import Tracking

RELATION = "add or remove one patient"
ACCOUNTANT = "PLD (dp-accounting, pessimistic)"


def run_study(
    grid: Grid, study: Study, folder: RunFolder, seed: int, coordinator: Coordinator | None = None
) -> Results:
    """Run what is left of ``study`` and write the results; FedctError when the run failed, after writing.

    ``coordinator``: whose run it is; None for a simulation.

    Raises RunError, with nothing written, when another process works in the folder. What is no FedctError passes
    through with no word of an end.
    """
    with folder.alone():
        folder.remove_results()
        tracking = Tracking(coordinator.config.tracking if coordinator else (), folder, study.name)
        attempt, failure = _Attempt(study, folder, seed, tracking, simulated=coordinator is None), None
        try:
            attempt.run(grid)
        except FedctError as error:
            failure = error
        except OSError as error:
            failure = from_os_error(error)
        results = attempt.results(failure)
        try:
            publish(results, folder, coordinator)
        except OSError as error:
            failure = from_os_error(error)
        tracking.finish(results)
        outcome, reason = ("failed", str(failure)) if failure else ("finished", "")
        folder.event("end", outcome=outcome, reason=reason, code=failure.code if failure else "")
    if failure:
        raise failure
    return results


class _Attempt:
    """One attempt at a run, and what is known of the run so far; sites' claims as each last made them."""

    def __init__(self, study: Study, folder: RunFolder, seed: int, tracking: Tracking, *, simulated: bool) -> None:
        self._study, self._folder, self._seed, self._simulated = study, folder, seed, simulated
        self._tracking = tracking
        self._started = datetime.now(UTC)
        self._records: list[RoundRecord] = []
        self._sites: tuple[str, ...] = ()
        self._epsilon: dict[str, float] = {}
        self._evaluation: dict[str, str] = {}
        self._final, self._model_sha256 = FinalMetrics(), ""

    def run(self, grid: Grid) -> None:
        """The rounds after the newest checkpoint, and the final evaluation."""
        study, folder = self._study, self._folder
        last = checkpoints.newest(folder.inner, study.digest)
        model = initial_model(study, self._seed, folder.initial_file)
        if last:
            self._restore(last, model)
        rounds = Rounds(
            grid,
            study,
            model,
            folder,
            self._seed,
            admitted=not self._simulated,
            state=dict(last.state) if last else None,
            expected=self._sites,
        )
        first, total = len(self._records) + 1, study.federation.rounds
        folder.event("begin", round=first, of=total)
        try:
            for round_ in range(first, total + 1):
                rounds.gather(round_)
                self._complete(round_, rounds.train(round_), model, rounds)
            if first > total:
                with contextlib.suppress(QuorumError):  # all rounds are there: it is evaluated by whoever can
                    rounds.gather(total)
            outcome = rounds.evaluate(total)
        finally:
            self._sites = tuple(rounds.names)
        self._note(outcome)
        released = {site: (counts, outcome.counts_std[site]) for site, counts in outcome.counts.items()}
        groups = {site: (outcome.subgroups[site], std) for site, (_, std) in released.items()}
        final = final_metrics(released, study.task.classes)
        self._final = final.model_copy(update={"subgroups": subgroups(groups)})
        self._model_sha256 = save_model(study, model, folder.model_file)

    def _restore(self, last: Checkpoint, model: nn.Module) -> None:
        load_vector(model, last.weights)
        self._started, self._records, self._sites = last.started, list(last.records), last.sites
        self._epsilon, self._evaluation = dict(last.epsilon), dict(last.evaluation)

    def _complete(self, round_: int, outcome: Outcome, model: nn.Module, rounds: Rounds) -> None:
        """The round counts from here: its checkpoint is durable, and then the event log says so."""
        record = _record(self._study, round_, outcome, digest_of(model))
        self._records.append(record)
        self._note(outcome)
        checkpoint = Checkpoint(
            study=self._study.digest,
            seed=self._seed,
            started=self._started,
            round=round_,
            weights=to_vector(model),
            state=rounds.state,
            records=tuple(self._records),
            sites=tuple(rounds.names),
            epsilon=self._epsilon,
            evaluation=self._evaluation,
        )
        checkpoints.save(self._folder.inner, checkpoint)
        self._folder.event(
            "round",
            **record.model_dump(mode="json", include={"round", "seconds", "model_round"}),
            accuracy=_accuracy(record.metrics),
            took_part=outcome.answered,
            missed=[[p.site, p.status, p.reason] for p in record.participation if p.status != "ok"],
            of=self._study.federation.rounds,
        )
        self._tracking.round(record)

    def _note(self, outcome: Outcome) -> None:
        """Keep what sites said of themselves."""
        self._epsilon |= {s: max(e, self._epsilon.get(s, 0.0)) for s, e in outcome.epsilon.items()}
        self._evaluation |= {s: mode for s, mode in outcome.modes.items() if mode != "none"}

    def results(self, failure: FedctError | None) -> Results:
        """The results so far. ``failure``: why the run ended before its end, if it did."""
        study = self._study
        return Results(
            study_name=study.name,
            study_digest=study.digest,
            study=study.model_dump(mode="json"),
            started=self._started,
            finished=datetime.now(UTC),
            seed=self._seed,
            simulated=self._simulated,
            data=study.description,
            versions=versions(),
            outcome="failed" if failure else "finished",
            reason=str(failure) if failure else "",
            model_sha256=self._model_sha256,
            sites=tuple(self._summary(name) for name in self._sites),
            rounds=tuple(self._records),
            final=self._final,
            privacy=_privacy(study),
        )

    def _summary(self, site: str) -> SiteSummary:
        parts = [part for record in self._records for part in record.participation if part.site == site]
        ok = sum(part.status == "ok" for part in parts)
        return SiteSummary(
            site=site,
            rounds_ok=ok,
            rounds_missed=len(self._records) - ok,
            epsilon=self._epsilon.get(site) if self._study.privacy.on else None,
            delta=self._study.privacy.delta,
            evaluation=self._evaluation.get(site, "withheld"),  # type: ignore[arg-type]
        )


def save_model(study: Study, model: nn.Module, path: Path) -> str:
    """Write a global model for others to use; its SHA-256, which weights and study fix. OSError passes through."""
    return save_weights(path, model, {"study": study.digest, "study_name": study.name})


def publish(results: Results, folder: RunFolder, coordinator: Coordinator | None = None) -> None:
    """Write results.json, report.html, the model cards and the provenance of ``results``, signed by ``coordinator``."""
    write_results(results, folder.results_file)
    render_report(results, folder.report_file)
    write_cards(results, folder)
    seal(folder, coordinator)


def _record(study: Study, round_: int, outcome: Outcome, weights: str) -> RoundRecord:
    counts, std = outcome.pooled()
    classes = study.task.classes
    return RoundRecord(
        round=round_,
        seconds=outcome.seconds,
        bytes_down=outcome.bytes_down,
        bytes_up=outcome.bytes_up,
        participation=tuple(outcome.participation),
        model_round=round_ - 1 if counts is not None else None,
        metrics=None if counts is None else evaluate(counts, classes, std),
        site_metrics={s: evaluate(c, classes, outcome.counts_std[s]) for s, c in outcome.counts.items()},
        weights_sha256=weights,
        contributions=outcome.contributions,
    )


def _privacy(study: Study) -> PrivacySummary:
    plan = plan_for(study)
    if plan is None:
        return PrivacySummary(on=False)
    return PrivacySummary(
        on=True,
        unit="patient",
        relation=RELATION,
        epsilon=study.privacy.epsilon,
        delta=study.privacy.delta,
        accountant=ACCOUNTANT,
        sigma=plan.sigma,
        sampling_rate=plan.sampling_rate,
        clip=plan.clip,
        steps_per_round=plan.steps_per_round,
        rounds=plan.rounds,
    )


def _accuracy(metrics: Metrics | None) -> float | None:
    return metrics.accuracy.value if metrics else None
