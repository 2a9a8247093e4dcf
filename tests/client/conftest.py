"""Cohorts written without DICOM."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from client.ingest.cohort import EXAMPLE, PATIENT, cohort_folder, new_manifest
from client.ingest.store import CohortWriter, Seal
from client.keys import load_or_make_key
from client.site import Site
from common.study import Study


@pytest.fixture(scope="session")
def encrypting() -> Callable[[Site, bool], Site]:
    """The same site with ``data.encrypt`` set."""

    def make(site: Site, encrypt: bool) -> Site:
        data = site.config.data.model_copy(update={"encrypt": encrypt})
        return dataclasses.replace(site, config=site.config.model_copy(update={"data": data}))

    return make


@pytest.fixture(scope="session")
def write_cohort() -> Callable[..., Path]:
    """Write the cohort of ``study``: 12 patients of 4 examples; sealed if the site encrypts. Returns its folder.

    Planes are random; patient ``n`` has label 1 where ``n % 3 == 0``, and is held out where ``n % 4 == 0``,
    or in fold ``1 + n % folds`` of a study of more than two.
    """

    def write(site: Site, study: Study, source: str = "source", files: dict[str, bytes] | None = None) -> Path:
        size, windows = study.input.size, len(study.input.windows)
        key = load_or_make_key(site.key_file)
        rng = np.random.default_rng(7)
        examples, patients = np.zeros(48, EXAMPLE), np.zeros(12, PATIENT)
        patients["pseudonym"] = [list(key.pseudonym("patient", f"P{number}")) for number in range(12)]
        folds = study.evaluation.folds or 2
        patients["fold"] = 1 + np.arange(12) % folds if folds > 2 else np.where(np.arange(12) % 4 == 0, 1, 2)
        patients["label"] = np.arange(12) % 3 == 0
        examples["patient"] = np.repeat(np.arange(12), 4)
        examples["label"] = patients["label"][examples["patient"]]
        centre = np.arange(48)
        examples["planes"] = np.stack([np.maximum(centre - 1, 0), centre, np.minimum(centre + 1, 47)], axis=1)
        target = cohort_folder(site, study)
        target.parent.mkdir(exist_ok=True)
        seal = Seal.new(key, study.cohort_digest) if site.config.data.encrypt else None
        with CohortWriter(target, (windows, size, size), seal) as writer:
            for _ in range(12):
                writer.add(rng.integers(0, 256, (4, windows, size, size), np.uint8))
            writer.commit(examples, patients, new_manifest(study, source), files)
        return target

    return write
