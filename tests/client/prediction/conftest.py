"""One CT study as DICOM, and a model of a study that fits it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common.models.saved import load_saved
from common.models.weights import initial_model, save_weights

VOXELS = np.full((12, 40, 40), -1000.0)
VOXELS[:, 6:34, 6:34] = 40
VOXELS[4:9, 14:26, 12:22] = 400
VOXELS += np.random.default_rng(0).integers(-20, 21, VOXELS.shape)
AFFINE = np.array([[0, 0, 1.5, -30], [0, 1.5, 0, -25], [3, 0, 0, 100], [0, 0, 0, 1]], float)
DESCRIBED = {"PatientBirthDate": "", "PatientSex": "O", "StudyDate": "20200101", "StudyTime": "1200", "StudyID": "1"}


@pytest.fixture
def case(tmp_path, write_series, make_study):
    """``folder`` of a CT study, ``study`` and ``model`` (a file of random weights), ``saved`` the model, loaded."""
    study = make_study(view="sagittal", slice_spacing_mm=2.0, planes=3, size=32, spacing_mm=2.0)
    return make_case(tmp_path, write_series, study)


@pytest.fixture
def slice_case(tmp_path, write_series, make_study):
    """The same for a study of slices as they were acquired."""
    return make_case(tmp_path, write_series, make_study(label_level="slice"))


def make_case(root: Path, write_series, study) -> SimpleNamespace:
    tags = DESCRIBED | {"FrameOfReferenceUID": "1.2.840.1", "BodyPartExamined": "SPINE"}
    uids = write_series(root / "ct" / "deep" / "series", VOXELS, AFFINE, **tags)
    model = root / "model.safetensors"
    save_weights(model, initial_model(study, 1), {"study": study.digest})
    return SimpleNamespace(
        folder=root / "ct", uids=uids, study=study, model=model, saved=load_saved(model, study), root=root
    )
