from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from client.ingest.geometry import Series, build_series, order_slices
from client.ingest.records import Header, Reason


def stack(positions, turn=None, spacing=(0.8, 0.7), **changes) -> list[Header]:
    """Headers at ``positions`` [n, 3] in mm of a frame that ``turn`` rotates."""
    turn = Rotation.identity() if turn is None else turn
    across, down = turn.apply([1, 0, 0]), turn.apply([0, 1, 0])
    first = Header("0", "P", "1.1", "1.2", "", (0, 0, 0), (*across, *down), spacing, 64, 32, True)
    return [
        dataclasses.replace(first, path=str(i), sop_uid=f"9.{i}", position=tuple(turn.apply(p)), **changes)
        for i, p in enumerate(positions)
    ]


def along_z(heights) -> list[list[float]]:
    return [[10.0, -20.0, z] for z in heights]


@settings(deadline=None)
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    count=st.integers(3, 40),
    step=st.floats(0.3, 8),
    seed=st.integers(0, 100),
)
def test_any_orientation_and_file_order_gives_the_true_affine(angles, count, step, seed):
    turn = Rotation.from_euler("xyz", angles, degrees=True)
    headers = stack(along_z(np.arange(count) * step), turn)
    random.Random(seed).shuffle(headers)
    series = order_slices(headers)
    assert isinstance(series, Series)
    assert [int(header.path) for header in series.headers] == list(range(count))
    truth = np.array([10 + 0.7 * 5, -20 + 0.8 * 9, (count - 1) * step])
    assert np.linalg.norm((series.affine @ [count - 1, 9, 5, 1])[:3] - turn.apply(truth)) < 1e-6
    assert series.slice_spacing == pytest.approx(step)
    assert np.linalg.det(series.affine[:3, ::-1][:, 1:]) > 0  # column, row, slice are right-handed


@pytest.mark.parametrize(
    ("positions", "reason"),
    [
        (along_z([0, 1]), Reason.TOO_FEW_SLICES),
        (along_z([0, 1, 1, 2]), Reason.DUPLICATE_POSITION),
        (along_z([0, 1, 1.005, 2]), Reason.DUPLICATE_POSITION),
        (along_z([0, 1, 2, 4, 5, 6]), Reason.UNEVEN_SPACING),
        (along_z([0, 0.5, 1, 2, 2.5, 3]), Reason.UNEVEN_SPACING),
        (along_z([0, 5, 10.6, 15, 20]), Reason.UNEVEN_SPACING),
        ([[0, 0.3 * i, 3 * i] for i in range(20)], Reason.GANTRY_TILT),
        ([[0, 5 * (i == 4), 3 * i] for i in range(20)], Reason.UNEVEN_SPACING),
    ],
)
def test_a_stack_that_is_no_even_volume_is_refused(positions, reason):
    assert order_slices(stack(positions)) == reason


@settings(deadline=None)
@given(count=st.integers(5, 200), missing=st.data(), step=st.floats(0.3, 10))
def test_one_missing_slice_is_always_noticed(count, missing, step):
    heights = np.delete(np.arange(count) * step, missing.draw(st.integers(1, count - 2)))
    assert order_slices(stack(along_z(heights))) == Reason.UNEVEN_SPACING


def test_positions_rounded_to_a_tenth_of_a_millimetre_are_even():
    assert isinstance(order_slices(stack(along_z(np.round(np.arange(60) * 0.625, 1)))), Series)


def test_mixed_orientations_sizes_and_patients_are_told_apart():
    axial = stack(along_z(range(4)))
    tilted = stack(along_z(range(5)), Rotation.from_euler("x", 0.2, degrees=True))
    wide = stack(along_z(range(6)), columns=40)
    other = stack(along_z(range(7)), patient_id="Q")
    mixed = [
        dataclasses.replace(h, sop_uid=f"{k}.{h.sop_uid}")
        for k, g in enumerate((axial, tilted, wide, other))
        for h in g
    ]
    series, skips = build_series(mixed)
    assert sorted(len(one.headers) for one in series) == [4, 5, 6, 7]
    assert not skips


def test_the_same_instance_twice_counts_once():
    headers = stack(along_z(range(4)))
    copies = [dataclasses.replace(header, path=f"copy/{header.path}") for header in headers]
    series, skips = build_series(copies + headers)
    assert [len(one.headers) for one in series] == [4]
    assert {skip.reason for skip in skips} == {Reason.DUPLICATE_INSTANCE}
    assert sorted(skip.path for skip in skips) == [f"copy/{i}" for i in range(4)]


def test_without_series_uids_a_folder_is_a_series():
    one = stack(along_z(range(4)), series_uid="")
    two = stack(along_z(range(3)), series_uid="")
    headers = [dataclasses.replace(h, path=f"{k}/{h.path}", sop_uid="") for k, g in enumerate((one, two)) for h in g]
    assert sorted(len(found.headers) for found in build_series(headers)[0]) == [3, 4]
