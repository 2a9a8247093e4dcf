from __future__ import annotations

import numpy as np
import pytest

from client.prediction.source import read_new_study
from simulations.benchmarks.attention import on_vertebra, share_within
from simulations.phantom.dicom import write_series
from simulations.phantom.hospitals import FORMAT, Request, enrol
from simulations.phantom.patient import examine, scan


@pytest.mark.slow
def test_the_mask_lies_on_bone_with_softer_discs_above_and_below(tmp_path, make_study):
    """Shifted by half a level, up or down, it would lie on less bone: so it knows where the vertebra is."""
    person = enrol(Request(FORMAT, 3, (1, 1, 1), 1, 5))[0]
    findings, _ = examine(person)
    write_series(tmp_path / "ct" / "series", person, findings, scan(person))
    study = make_study(view="sagittal", slice_spacing_mm=4.0, planes=1, size=64, spacing_mm=2.5)
    study = study.model_copy(
        update={
            "input": study.input.model_copy(update={"windows": (type(study.input.windows[0])(low=-200, high=800),)})
        }
    )
    new = read_new_study(tmp_path / "ct", study, lambda _done, _total: None)
    mask, plane = on_vertebra(person, new.chosen.plan)[0], new.centres[0].astype(float)
    assert 0.02 < mask.mean() < 0.15
    rows, columns = np.nonzero(mask)
    assert plane[mask].mean() > 1.3 * plane[~mask].mean()
    assert abs(rows.mean() - 32) < 20
    in_front = np.clip(columns - 20, 0, 63)
    assert plane[rows, in_front].mean() < plane[mask].mean()


def test_a_share_is_that_of_what_speaks_for_the_class():
    maps = np.array([[[3.0, -5.0], [1.0, 0.0]]], np.float32)
    mask = np.array([[[True, True], [False, False]]])
    assert share_within(maps, mask) == pytest.approx(0.75)
    assert np.isnan(share_within(-np.abs(maps), mask))
