from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from client.ingest.geometry import GAP_MM, Refused, Series, build_series, order_slices
from client.ingest.records import Header, Reason


@pytest.fixture(scope="module")
def stack(make_series):
    """Headers at ``positions`` [n, 3] in mm of a frame that ``turn`` rotates."""
    template = make_series(3, series_uid="1.2").headers[0]

    def make(positions, turn=None, spacing=(0.8, 0.7), **changes) -> list[Header]:
        turn = Rotation.identity() if turn is None else turn
        orientation = (*turn.apply([1, 0, 0]), *turn.apply([0, 1, 0]))
        first = dataclasses.replace(template, orientation=orientation, spacing=spacing, rows=64, columns=32)
        return [
            dataclasses.replace(
                first, **{"path": str(i), "sop_uid": f"9.{i}", "position": tuple(turn.apply(p))} | changes
            )
            for i, p in enumerate(positions)
        ]

    return make


def along_z(heights) -> list[list[float]]:
    return [[10.0, -20.0, z] for z in heights]


def reason(found) -> Reason | None:
    return found.reason if isinstance(found, Refused) else None


def apart(*groups: list[Header]) -> list[Header]:
    """The headers of several groups, as different files and SOP instances."""
    return [
        dataclasses.replace(header, path=f"{k}-{header.path}", sop_uid=f"{k}.{header.sop_uid}")
        for k, group in enumerate(groups)
        for header in group
    ]


@settings(deadline=None)
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    count=st.integers(3, 40),
    step=st.floats(0.3, 8),
    tilt=st.sampled_from([0.0, -30.0, 8.5, 21.0]),
    seed=st.integers(0, 100),
)
def test_any_orientation_tilt_and_file_order_gives_the_true_affine(stack, angles, count, step, tilt, seed):
    turn = Rotation.from_euler("xyz", angles, degrees=True)
    shear = np.tan(np.radians(tilt))
    headers = stack([[10, -20 + z * shear, z] for z in np.arange(count) * step], turn)
    random.Random(seed).shuffle(headers)
    series = order_slices(headers)
    assert isinstance(series, Series)
    assert [int(header.path) for header in series.headers] == list(range(count))
    height = (count - 1) * step
    truth = np.array([10 + 0.7 * 5, -20 + height * shear + 0.8 * 9, height])
    assert np.linalg.norm((series.affine @ [count - 1, 9, 5, 1])[:3] - turn.apply(truth)) < 1e-6
    assert series.even
    assert series.slice_spacing == pytest.approx(step)
    assert np.linalg.det(series.affine[:3, ::-1][:, 1:]) > 0  # column, row, slice are right-handed
    drifts = abs(height * shear) > 1
    assert series.notes == ((f"gantry tilt {abs(tilt):.1f} degrees",) if drifts else ())


@pytest.mark.parametrize(
    ("positions", "expected", "detail"),
    [
        (along_z([0, 1]), Reason.TOO_FEW_SLICES, "2 slices"),
        (along_z([0]), Reason.TOO_FEW_SLICES, "1 slice"),
        (along_z([0, 1, 1, 2]), Reason.DUPLICATE_POSITION, "1 of 4 slices"),
        (along_z([0, 1, 1.005, 2]), Reason.DUPLICATE_POSITION, "1 of 4 slices"),
        (along_z([0, 1, 2, 5, 6, 7]), Reason.UNEVEN_SPACING, "steps 1.0-3.0 mm"),
        (along_z([0, 3, 6, 12, 15]), Reason.UNEVEN_SPACING, "steps 3.0-6.0 mm"),
        (along_z([0, 5, 10.6, 15, 20]), Reason.UNEVEN_SPACING, "steps 4.4-5.6 mm"),
        ([[0, 0.7 * 3 * i, 3 * i] for i in range(20)], Reason.GANTRY_TILT, "tilt 35.0 degrees"),
        ([[0, 5 * (i == 4), 3 * i] for i in range(20)], Reason.UNEVEN_SPACING, "slices up to 5.0 mm off their line"),
        ([[0, 0.02 * i * i, 3 * i] for i in range(20)], Reason.UNEVEN_SPACING, "slices up to 1.8 mm off their line"),
    ],
)
def test_a_stack_that_would_have_to_be_invented_is_refused(stack, positions, expected, detail):
    found = order_slices(stack(positions))
    assert reason(found) == expected
    assert found.detail == detail


@settings(deadline=None)
@given(steps=st.lists(st.floats(1.0, 2.4), min_size=4, max_size=40), tilt=st.floats(-25, 25))
def test_every_slice_of_an_uneven_stack_lies_where_its_header_says(stack, steps, tilt):
    heights = np.concatenate([[0], np.cumsum(steps)])
    positions = [[10, z * np.tan(np.radians(tilt)), z] for z in heights]
    series = order_slices(stack(positions))
    assert isinstance(series, Series)  # at most 2.4 times the median, and below GAP_MM
    found = series.affine[:3, 0] * series.places[:, None] + series.affine[:3, 3]
    # What is taken as even may be off by the tolerance; what is not, by nothing.
    assert np.abs(found - positions).max() < (0.36 if series.even else 1e-9)


def test_a_missing_slice_is_interpolated_across_and_named(stack):
    series = order_slices(stack(along_z([0, 1, 2, 4, 5, 6])))
    assert series.notes == ("uneven spacing 1.0-2.0 mm interpolated",)
    np.testing.assert_allclose(series.places * 1.2, [0, 1, 2, 4, 5, 6])


@settings(deadline=None)
@given(count=st.integers(5, 200), missing=st.data(), step=st.floats(0.3, 10))
def test_one_missing_slice_is_always_noticed(stack, count, missing, step):
    heights = np.delete(np.arange(count) * step, missing.draw(st.integers(1, count - 2)))
    found = order_slices(stack(along_z(heights)))
    if 2 * step <= GAP_MM - 1e-9:
        assert len(found.notes) == 1
        assert found.notes[0].startswith("uneven spacing")
    elif 2 * step > GAP_MM + 1e-9:
        assert reason(found) == Reason.UNEVEN_SPACING


def test_positions_rounded_to_a_tenth_of_a_millimetre_are_even(stack):
    series = order_slices(stack(along_z(np.round(np.arange(60) * 0.625, 1))))
    assert series.even
    assert series.notes == ()


def test_mixed_orientations_sizes_spacings_and_patients_are_told_apart(stack):
    groups = (
        stack(along_z(range(4))),
        stack(along_z(range(5)), Rotation.from_euler("x", 0.2, degrees=True)),
        stack(along_z(range(6)), columns=40),
        stack(along_z(range(7)), patient_id="Q"),
        stack(along_z(range(8)), spacing=(0.8, 0.71)),
    )
    series, skips = build_series(apart(*groups))
    assert sorted(len(one.headers) for one in series) == [4, 5, 6, 7, 8]
    assert not skips


def test_spacings_that_differ_by_rounding_are_one_series(stack):
    headers = stack(along_z(range(6)))
    rounded = [dataclasses.replace(h, spacing=(0.8, 0.70005 - 1e-7 * i)) for i, h in enumerate(headers)]
    assert [len(one.headers) for one in build_series(rounded)[0]] == [6]


def test_the_same_instance_twice_counts_once(stack):
    headers = stack(along_z(range(4)))
    copies = [dataclasses.replace(header, path=f"copy/{header.path}") for header in headers]
    series, skips = build_series(copies + headers)
    assert [len(one.headers) for one in series] == [4]
    assert {skip.reason for skip in skips} == {Reason.DUPLICATE_INSTANCE}
    assert sorted(skip.path for skip in skips) == [f"copy/{i}" for i in range(4)]


def test_frames_of_one_file_are_slices_and_its_copy_is_none(stack):
    headers = stack(along_z(range(4)), sop_uid="9")
    frames = [dataclasses.replace(h, path="file", frame=i + 1) for i, h in enumerate(headers)]
    copies = [dataclasses.replace(h, path="z-copy") for h in frames]
    series, skips = build_series(frames + copies)
    assert [[h.frame for h in one.headers] for one in series] == [[1, 2, 3, 4]]
    assert [(skip.path, skip.reason) for skip in skips] == [("z-copy", Reason.DUPLICATE_INSTANCE)] * 4


def test_without_series_uids_a_folder_or_a_file_of_frames_is_a_series(stack):
    one = [dataclasses.replace(h, path=f"0/{h.path}") for h in stack(along_z(range(4)), series_uid="", sop_uid="")]
    two = [dataclasses.replace(h, path=f"1/{h.path}") for h in stack(along_z(range(3)), series_uid="", sop_uid="")]
    frames = [
        dataclasses.replace(h, path="1/frames", frame=i + 1)
        for i, h in enumerate(stack(along_z(range(5)), series_uid="", sop_uid=""))
    ]
    series, skips = build_series(one + two + frames)
    assert sorted(len(found.headers) for found in series) == [3, 4, 5]
    assert not skips


@pytest.mark.parametrize("told_by", ["acquisition", "kernel", "thickness"])
def test_several_reconstructions_under_one_series_uid_are_split(stack, told_by):
    values = {"acquisition": ("1", "2"), "kernel": ("B30f", "B70f"), "thickness": (1.0, 3.0)}[told_by]
    groups = [stack(along_z(np.arange(6) + 0.0), **{told_by: value}) for value in values]
    series, skips = build_series(apart(*groups))
    assert [(len(one.headers), one.notes) for one in series] == [(6, ("split by acquisition",))] * 2
    assert {len({getattr(h, told_by) for h in one.headers}) for one in series} == {1}
    assert not skips


def test_acquisitions_that_lie_among_each_other_are_not_one_uneven_stack(stack):
    """Two breath-holds 0.3 mm apart: interpolating between them would mix them."""
    first = stack(along_z(np.arange(8) * 1.0), acquisition="1")
    second = stack(along_z(np.arange(8) + 0.3), acquisition="2")
    assert [one.notes for one in build_series(apart(first, second))[0]] == [("split by acquisition",)] * 2


def test_acquisitions_that_follow_each_other_are_one_stack(stack):
    """Step and shoot: every few slices have an acquisition number of their own."""
    lower = stack(along_z(np.arange(8) * 1.0), acquisition="1")
    upper = stack(along_z(9.0 + np.arange(8)), acquisition="2")
    (series,), skips = build_series(apart(lower, upper))
    assert series.notes == ("uneven spacing 1.0-2.0 mm interpolated",)
    assert not skips


def test_only_the_sound_part_of_a_split_is_kept(stack):
    sound, broken = stack(along_z(range(6)), acquisition="1"), stack(along_z([0, 1, 20, 21]), acquisition="2")
    series, skips = build_series(apart(sound, broken))
    assert [len(one.headers) for one in series] == [6]
    assert [(skip.reason, skip.detail) for skip in skips] == [(Reason.UNEVEN_SPACING, "steps 1.0-19.0 mm")] * 4


def test_two_slices_at_one_position_that_nothing_tells_apart_are_refused(stack):
    series, skips = build_series(apart(stack(along_z(range(6))), stack(along_z(range(6)))))
    assert not series
    assert [(skip.reason, skip.detail) for skip in skips] == [(Reason.DUPLICATE_POSITION, "6 of 12 slices")] * 12


@settings(deadline=None, max_examples=60)
@given(
    heights=st.lists(st.floats(-50, 50), max_size=12),
    kinds=st.lists(st.sampled_from(["1", "2"]), min_size=12, max_size=12),
)
def test_every_header_ends_in_one_series_or_one_skip(stack, heights, kinds):
    headers = [
        dataclasses.replace(h, acquisition=kind) for h, kind in zip(stack(along_z(heights)), kinds, strict=False)
    ]
    series, skips = build_series(headers)
    ended = [h.path for one in series for h in one.headers] + [skip.path for skip in skips]
    assert sorted(ended) == sorted(h.path for h in headers)
