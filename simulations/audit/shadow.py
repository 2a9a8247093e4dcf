"""The public shadow cohort: synthetic patients in place of a hospital's, ingested as a hospital's are.

An audit needs no hospital data. The study stays as it is but for its task, which becomes that of the synthetic
patients: three classes, one label a patient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.ingest.build import ingest
from client.ingest.cohort import Cohort, open_cohort
from client.site import PolicySettings, Site
from common.errors import DataError
from common.study import Study, Task
from simulations.phantom.hospitals import write_hospitals
from simulations.phantom.severity import LABELS

SEED = 2023  # of the synthetic patients: the same in every audit
Progress = Callable[[int, int], None]


def shadow_study(study: Study) -> Study:
    """The study with the synthetic patients' task, from random weights; all else is the study's."""
    if set(study.task.values) == set(LABELS) and study.task.label_level == "patient":
        task = study.task.model_copy(update={"label_column": "label"})
    else:
        task = Task(classes=LABELS)
    model = study.model.model_copy(update={"initial": "none", "initial_sha256": ""})
    return study.model_copy(update={"task": task, "model": model})


def shadow_site(folder: Path, study: Study, patients: int, progress: Progress) -> tuple[Site, Cohort]:
    """A hospital of ``patients`` synthetic patients under ``folder``, and its cohort for ``study``.

    ``study``: of ``shadow_study``. Raises DataError when fewer than two thirds of the patients can be used.
    """
    (site,) = write_hospitals(folder, patients=patients, counts=None, sites=1, seed=SEED, progress=progress)
    report = ingest(site, study)
    if report.patients < 2 * patients / 3:
        raise DataError(
            f"{report.patients} of {patients} synthetic patients fit input of study '{study.name}'",
            "An audit needs them: loosen input.planes or input.kernels for it",
        )
    return site, open_cohort(site, study)


def everybody(cohort: Cohort) -> list[NDArray[np.intp]]:
    """Example indices of each patient, held out or not: the truth that the checks go by."""
    owner = np.asarray(cohort.examples["patient"])
    return [np.flatnonzero(owner == number) for number in range(len(cohort.patients))]


def with_policy(site: Site, policy: PolicySettings) -> Site:
    """The same site folder under another policy."""
    return dataclasses.replace(site, config=site.config.model_copy(update={"policy": policy}))


@dataclass(frozen=True)
class Held:
    """Some patients in memory; satisfies ``client.training.views.Examples``.

    ``pictures`` uint8 [n, channels, size, size]; ``labels`` [n]; ``patients``: indices of each.
    """

    pictures: NDArray[np.uint8]
    labels: NDArray[np.int64]
    patients: list[NDArray[np.intp]]

    def pixels(self, indices: NDArray[np.intp]) -> NDArray[np.uint8]:
        """uint8 [n, channels, size, size] of these examples."""
        return self.pictures[indices]


def held(cohort: Cohort, patients: Sequence[NDArray[np.intp]], most: int) -> Held:
    """A copy of ``patients``, of each its first ``most`` examples."""
    chosen = [patient[:most] for patient in patients]
    ends = np.cumsum([len(patient) for patient in chosen])
    rows = np.concatenate(chosen)
    return Held(cohort.pixels(rows), cohort.labels[rows], np.split(np.arange(len(rows)), ends[:-1]))


def with_strangers(some: Held, classes: int, rng: np.random.Generator) -> Held:
    """``some`` and three patients made to do harm: noise, black and white, and a picture under a wrong label.

    Each has as many examples as the patient before them; those of one patient are all the same.
    """
    shape = some.pictures.shape[1:]
    wrong = some.pictures[some.patients[0][0]]
    made = [rng.integers(0, 256, shape, dtype=np.uint8), rng.integers(0, 2, shape, dtype=np.uint8) * 255, wrong]
    label = (int(some.labels[some.patients[0][0]]) + 1) % classes
    size = max(2, len(some.patients[-1]))
    start = len(some.labels)
    return Held(
        np.concatenate([some.pictures, *(np.repeat(one[None].astype(np.uint8), size, axis=0) for one in made)]),
        np.concatenate([some.labels, np.full(size * len(made), label, dtype=np.int64)]),
        [*some.patients, *np.split(np.arange(start, start + size * len(made)), len(made))],
    )
