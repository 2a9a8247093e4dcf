"""A study from first message to results: rounds, final evaluation, model, report.

Whatever happens, ``results.json`` and ``report.html`` say it: a run that fails keeps
the rounds that were complete, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from flwr.serverapp import Grid

from common.errors import FedctError, from_os_error
from common.files import write_atomic
from common.models.weights import initial_model, save_weights
from common.privacy.plan import plan_for
from common.study import Study
from common.version import versions
from server.evaluation import evaluate, final_metrics
from server.report import render_report
from server.report.card import model_card
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

RELATION = "add or remove one patient"
ACCOUNTANT = "PLD (dp-accounting, pessimistic)"


def run_study(grid: Grid, study: Study, folder: RunFolder, seed: int, *, simulated: bool) -> Results:
    """Run all rounds of ``study`` and write the results; FedctError when the run failed, after writing."""
    started = datetime.now(UTC)
    records: list[RoundRecord] = []
    outcomes: list[Outcome] = []
    names: Sequence[str] = ()
    final, digest = FinalMetrics(), ""
    failure: FedctError | None = None
    try:
        model = initial_model(study, seed, folder.initial_file)
        rounds = Rounds(grid, study, model, folder, seed)
        names = rounds.gather()
        for round_ in range(1, study.federation.rounds + 1):
            outcome = rounds.train(round_)
            outcomes.append(outcome)
            records.append(_record(study, round_, outcome))
            folder.event(
                "round",
                **records[-1].model_dump(mode="json", include={"round", "seconds", "model_round"}),
                accuracy=_accuracy(records[-1].metrics),
                of=study.federation.rounds,
            )
        outcome = rounds.evaluate(study.federation.rounds)
        outcomes.append(outcome)
        released = {site: (counts, outcome.counts_std[site]) for site, counts in outcome.counts.items()}
        final = final_metrics(released, study.task.classes)
        digest = save_weights(folder.model_file, model, {"study": study.digest, "study_name": study.name})
    except FedctError as error:
        failure = error
    except OSError as error:
        failure = from_os_error(error)
    results = Results(
        study_name=study.name,
        study_digest=study.digest,
        study=study.model_dump(mode="json"),
        started=started,
        finished=datetime.now(UTC),
        seed=seed,
        simulated=simulated,
        data=study.description,
        versions=versions(),
        outcome="failed" if failure else "finished",
        reason=str(failure) if failure else "",
        model_sha256=digest,
        sites=tuple(_summary(study, name, outcomes[: len(records)], outcomes) for name in names),
        rounds=tuple(records),
        final=final,
        privacy=_privacy(study),
    )
    publish(results, folder)
    folder.event("end", outcome=results.outcome, reason=results.reason, code=failure.code if failure else "")
    if failure:
        raise failure
    return results


def publish(results: Results, folder: RunFolder) -> None:
    """Write results.json, report.html and model-card.md of ``results``."""
    write_results(results, folder.results_file)
    render_report(results, folder.root / "report.html")
    write_atomic(folder.card_file, model_card(results).encode(), mode=0o644)


def _record(study: Study, round_: int, outcome: Outcome) -> RoundRecord:
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
    )


def _summary(study: Study, site: str, rounds: Sequence[Outcome], outcomes: Sequence[Outcome]) -> SiteSummary:
    ok = sum(p.status == "ok" for outcome in rounds for p in outcome.participation if p.site == site)
    epsilons = [outcome.epsilon[site] for outcome in outcomes if site in outcome.epsilon]
    modes = [outcome.modes[site] for outcome in outcomes if outcome.modes.get(site, "none") != "none"]
    return SiteSummary(
        site=site,
        rounds_ok=ok,
        rounds_missed=len(rounds) - ok,
        epsilon=max(epsilons) if study.privacy.on and epsilons else None,
        delta=study.privacy.delta,
        evaluation=modes[-1] if modes else "withheld",  # type: ignore[arg-type]
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
