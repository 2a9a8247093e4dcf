"""Aggregation: one strategy a file, over flat vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from common.study import Study
from server.aggregation import fedadam, fedavg, fedavgm, fedyogi, robust
from server.aggregation.mean import MeanAggregate, Move, RunningMean
from server.aggregation.scaffold import Controls, ScaffoldAggregate
from server.aggregation.spool import Spool, SpoolAggregate
from server.aggregation.vectors import Aggregate, State, Vector

_MOVES: dict[str, Move] = {
    "fedavg": fedavg.apply,
    "fedprox": fedavg.apply,
    "fedavgm": fedavgm.apply,
    "fedadam": fedadam.apply,
    "fedyogi": fedyogi.apply,
}


def begin(study: Study, round_: int, length: int, sites: int, state: State, folder: Path) -> Aggregate:
    """The aggregate of one round.

    ``length``: of an update; ``sites``: how many there are in the study; ``state``: what the last round left; ``folder``:
    of the run, in which ``updates.f32`` lies during a round of a robust strategy, and ``controls/`` of SCAFFOLD.
    """
    federation = study.federation
    rate = federation.server_learning_rate
    if federation.strategy in _MOVES:
        mean = RunningMean(length, federation.weights)
        return MeanAggregate(mean, _MOVES[federation.strategy], state, rate)
    if federation.strategy == "scaffold":
        path_length = study.training.local_steps * study.learning_rate(round_)
        controls = Controls(folder / "controls", length, round_)
        return ScaffoldAggregate(RunningMean(length), controls, state, sites, path_length, rate)
    return SpoolAggregate(Spool(folder / "updates.f32", length), _robust(study), rate)


def _robust(study: Study) -> Callable[[Spool], Vector]:
    federation = study.federation
    if federation.strategy == "median":
        return robust.median
    if federation.strategy == "trimmed-mean" and federation.trim is not None:
        return lambda spool: robust.trimmed_mean(spool, federation.trim or 0.0)
    if federation.strategy == "multi-krum" and federation.liars is not None:
        return lambda spool: robust.multi_krum(spool, federation.liars or 0)
    raise ValueError(f"strategy '{federation.strategy}' is unknown")


__all__ = ["Aggregate", "State", "Vector", "begin"]
