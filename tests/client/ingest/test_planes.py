from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from client.ingest.geometry import Series, build_series
from client.ingest.headers import read_source
from client.ingest.planes import Aligned, Lattice, apply_window, plan_planes, sample, slices_needed, windowed
from client.ingest.records import Header
from client.ingest.volume import AIR_HU, Slice, read_volume
from common.study import Input, Window

WIDE = Window(low=-1000, high=1000)
X, Y, Z = np.eye(3)

# Where a marker must be seen: (plane, row, column) directions in LPS, written out from the user's side.
SEEN = {"axial": (Z, Y, X), "sagittal": (X, -Z, Y), "coronal": (Y, -Z, X)}
MARKERS = {"left": np.array([22.0, 3, -4]), "front": np.array([-3.0, -20, 5]), "head": np.array([4.0, 2, 21])}

TURNS = {
    "as most scanners write it": (X, Y, Z),
    "slices written from head to feet": (X, Y, -Z),
    "prone": (-X, -Y, Z),
    "rows and columns swapped": (Y, X, Z),
    "mirrored in the plane": (-X, Y, Z),
    "acquired sagittally": (Y, -Z, X),
    "acquired coronally, back to front": (X, -Z, -Y),
    "oblique": tuple(Rotation.from_euler("xyz", [14, -9, 7], degrees=True).as_matrix().T),
}


def volume_with_markers(turn, shape=(46, 70, 66), spacing=(1.9, 1.1, 1.2)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HU, affine and centre in LPS mm; ``turn`` gives the directions of column, row and slice index."""
    across, down, through = turn
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = (d * s for d, s in zip((through, down, across), spacing, strict=True))
    affine[:3, 3] = (-210.3, 55.7, -812.4)
    index = np.indices(shape).reshape(3, -1)
    places = (affine[:3, :3] @ index).T + affine[:3, 3]
    centre = (places[0] + places[-1]) / 2
    hounsfield = np.full(len(places), -1000.0)
    for marker in MARKERS.values():
        hounsfield += 1800 * np.exp(-((places - centre - marker) ** 2).sum(axis=1) / (2 * 3.0**2))
    return hounsfield.reshape(shape), affine, centre


def whole(view: str, **changes) -> Input:
    values = {"view": view, "spacing_mm": 1.4, "slice_spacing_mm": 1.4, "planes": 47, "size": 64} | changes
    return Input(windows=(WIDE,), **values)


def ingested(folder) -> tuple[Series, np.ndarray]:
    headers = [found for path in folder.iterdir() for found in read_source(folder, path.name)]
    (series,), skips = build_series(headers)
    assert not skips
    _, rows, columns = series.shape
    slices = [Slice(header.path, header.frame) for header in series.headers]
    return series, read_volume(folder, slices, rows, columns).hounsfield


def render(volume, lattice, plan, wanted):
    """As ingest does it, from a whole volume."""
    aligned = Aligned.of(lattice, plan)
    planes = sample(volume, lattice, plan) if aligned is None else aligned.sampled(volume[:, *aligned.part])
    return windowed(planes, plan, wanted)


def drawn(series, volume, plan, *windows, **changes) -> np.ndarray:
    """The planes of a whole volume, uint8 [planes, windows, size, size]."""
    wanted = Input(windows=windows or (WIDE,), spacing_mm=1.0, size=32, **changes)
    return render(volume, Lattice.of(series), plan, wanted)


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS.keys())
def test_markers_are_seen_where_they_are_in_the_patient(tmp_path, write_series, turn):
    hounsfield, affine, _ = volume_with_markers(turn)
    write_series(tmp_path, hounsfield, affine)
    series, volume = ingested(tmp_path)
    for view, directions in SEEN.items():
        plan = plan_planes(series, whole(view))
        pixels = drawn(series, volume, plan)[:, 0].astype(float)
        middle = (np.array(pixels.shape) - 1) / 2
        if view == "axial":
            assert len(pixels) == 49  # the 47 planes and a neighbour at each end
        grid = (np.indices(pixels.shape) - middle[:, None, None, None]) * 1.4
        for name, marker in MARKERS.items():
            expected = np.array([marker @ direction for direction in directions])
            near = np.sqrt(((grid - expected[:, None, None, None]) ** 2).sum(axis=0)) < 9
            weight = np.where(near, pixels, 0)
            found = (grid * weight).reshape(3, -1).sum(axis=1) / weight.sum()
            assert np.linalg.norm(found - expected) < 0.5, (view, name)


@pytest.mark.parametrize("turn", [t for n, t in TURNS.items() if "acquired" not in n and n != "oblique"])
def test_slices_as_acquired_show_front_on_top_and_right_on_the_left(tmp_path, write_series, turn):
    hounsfield, affine, _ = volume_with_markers(turn)
    write_series(tmp_path, hounsfield, affine)
    series, volume = ingested(tmp_path)
    plan = plan_planes(series, whole("axial", slice_spacing_mm=0, planes=0))
    assert len(plan.origins) == 46
    pixels = drawn(series, volume, plan)[:, 0]
    for marker in MARKERS.values():
        plane, row, column = np.rint(marker[[2, 1, 0]] / (1.9, 1.4, 1.4) + (22.5, 31.5, 31.5)).astype(int)
        assert pixels[plane, row, column] > 190
        assert pixels[plane, row, 63 - column] < 60
        assert pixels[45 - plane, row, column] < 60


def test_the_slice_of_each_example_is_named(tmp_path, write_series):
    uids = {}

    def mark(index, dataset):
        uids[str(dataset.SOPInstanceUID)] = index
        dataset.PixelData = np.full((40, 40), 1024 + 10 * index, "<i2").tobytes()

    affine = volume_with_markers(TURNS["slices written from head to feet"])[1]
    write_series(tmp_path, np.zeros((9, 40, 40)), affine, each=mark)
    series, volume = ingested(tmp_path)
    plan = plan_planes(series, whole("axial", slice_spacing_mm=0, planes=0, size=32, spacing_mm=1))
    pixels = drawn(series, volume, plan, Window(low=0, high=255))
    for example, index in zip(plan.examples, plan.slices, strict=True):
        written = uids[series.headers[index].sop_uid]
        assert (pixels[example[1]] == 10 * written).all()
        assert pixels[example[0]].max() >= pixels[example[1]].max() >= pixels[example[2]].max()  # written head first


def plain_series(shape=(20, 30, 30), turn=TURNS["as most scanners write it"]) -> tuple[Series, np.ndarray]:
    volume, affine, _ = volume_with_markers(turn, shape)
    return Series(headers_of(shape, turn), affine, np.arange(shape[0]) * 1.0), np.rint(volume).astype(np.int16)


def headers_of(shape, turn) -> tuple[Header, ...]:
    texts = dict.fromkeys(["path", "patient_id", "study_uid", "series_uid", "sop_uid", "frame_of_reference"], "")
    texts |= dict.fromkeys(["acquisition", "kernel", "vendor", "syntax"], "")
    header = Header(
        **texts,
        position=(0, 0, 0),
        orientation=(*turn[0], *turn[1]),
        spacing=(1.1, 1.2),
        rows=shape[1],
        columns=shape[2],
        frame=0,
        original=True,
        primary=True,
        thickness=0.0,
    )
    return (header,) * shape[0]


@pytest.mark.parametrize(
    ("planes", "stored", "first", "last"),
    [
        (0, 20, [0, 0, 1], [18, 19, 19]),
        (4, 6, [0, 1, 2], [3, 4, 5]),
        (20, 20, [0, 0, 1], [18, 19, 19]),
        (99, 20, [0, 0, 1], [18, 19, 19]),
        (1, 3, [0, 1, 2], [0, 1, 2]),
    ],
)
def test_examples_are_the_central_slices_with_their_neighbours(planes, stored, first, last):
    series, _ = plain_series()
    plan = plan_planes(series, whole("axial", slice_spacing_mm=0, planes=planes))
    assert len(plan.origins) == stored
    assert plan.examples[0].tolist() == first
    assert plan.examples[-1].tolist() == last
    count = min(planes or 20, 20)
    assert plan.slices.tolist() == list(range((20 - count) // 2, (20 - count) // 2 + count))


@pytest.mark.parametrize(("view", "axis"), [("sagittal", 0), ("coronal", 1)])
def test_a_reformat_stores_a_neighbour_on_both_sides_of_the_centre(view, axis):
    series, _ = plain_series()
    plan = plan_planes(series, whole(view, planes=2, slice_spacing_mm=5))
    assert plan.examples.tolist() == [[0, 1, 2], [1, 2, 3]]
    centre = (series.affine @ [9.5, 14.5, 14.5, 1])[axis]
    np.testing.assert_allclose(plan.origins[:, axis] - centre, [-7.5, -2.5, 2.5, 7.5])


def test_resampled_axial_planes_stay_within_the_volume():
    series, volume = plain_series()
    plan = plan_planes(series, whole("axial", planes=0, slice_spacing_mm=1.9))
    assert len(plan.origins) == 20
    pixels = drawn(series, volume, plan, Window(low=AIR_HU, high=-1000))
    assert (pixels[:, :, 31:33, 31:33] == 255).all()  # no plane has slipped out into air


@pytest.mark.parametrize("turn", ["acquired sagittally", "acquired coronally, back to front"])
def test_slices_as_acquired_must_be_axial(turn):
    series, _ = plain_series(turn=TURNS[turn])
    assert plan_planes(series, whole("axial", slice_spacing_mm=0)) is None
    assert plan_planes(series, whole("axial", slice_spacing_mm=2)) is not None


def test_outside_the_volume_is_air_from_half_a_voxel_on():
    series, volume = plain_series()
    volume[:] = 0
    plan = plan_planes(series, whole("sagittal", planes=1, spacing_mm=0.5, size=256, slice_spacing_mm=1))
    pixels = drawn(series, volume, plan, Window(low=AIR_HU, high=0))[1, 0]
    assert set(np.unique(pixels)) == {0, 255}
    inside = np.argwhere(pixels).astype(float)
    extent = (inside.max(axis=0) - inside.min(axis=0) + 1) * 0.5
    np.testing.assert_allclose(extent, [20 * 1.9, 30 * 1.1], atol=0.51)


@settings(deadline=None, max_examples=25)
@given(
    angles=st.tuples(*[st.floats(-40, 40)] * 3),
    view=st.sampled_from(sorted(SEEN)),
    slice_spacing=st.floats(1, 9),
    planes=st.integers(1, 5),
    spacing=st.floats(0.6, 5),
)
def test_the_slices_needed_are_enough(angles, view, slice_spacing, planes, spacing):
    turn = tuple(Rotation.from_euler("xyz", angles, degrees=True).as_matrix().T)
    series, volume = plain_series((30, 24, 24), turn)
    plan = plan_planes(series, whole(view, size=32, planes=planes, spacing_mm=spacing, slice_spacing_mm=slice_spacing))
    first, end = slices_needed(series, plan)
    wanted = Input(windows=(WIDE,), spacing_mm=1.0, size=32)
    cut = render(volume[first:end], Lattice.of(series).cut(first, end), plan, wanted).astype(int)
    full = drawn(series, volume, plan).astype(int)
    # The half voxel of grace beyond the first slice of the part is inside the whole, so edges may differ.
    if first == 0 and end == 30:
        np.testing.assert_array_equal(cut, full)
    assert np.abs(cut - full).max() <= 1


def test_few_planes_need_few_slices():
    series, _ = plain_series((200, 30, 30))
    first, end = slices_needed(series, plan_planes(series, whole("axial", slice_spacing_mm=0, planes=2)))
    assert end - first <= 8
    assert first <= 98
    assert end >= 102


def test_downsampling_averages_what_it_skips():
    series, volume = plain_series((10, 120, 120))
    volume[:] = np.random.default_rng(1).normal(0, 300, volume.shape)
    fine = drawn(series, volume, plan_planes(series, whole("axial", slice_spacing_mm=0, spacing_mm=1.1)))
    wanted = whole("axial", slice_spacing_mm=0, spacing_mm=4.4, size=32)
    coarse = drawn(series, volume, plan_planes(series, wanted))
    assert coarse[:, :, 6:-6, 6:-6].std() < 0.3 * fine[:, :, 4:-4, 4:-4].std()
    assert abs(coarse[:, :, 6:-6, 6:-6].mean() - 127.5) < 2


def test_chunks_do_not_change_the_planes():
    series, volume = plain_series((60, 20, 20))
    plan = plan_planes(series, whole("axial", planes=0, slice_spacing_mm=3.5, size=32))
    together = drawn(series, volume, plan)
    for index in range(len(plan.origins)):
        alone = drawn(series, volume, dataclasses.replace(plan, origins=plan.origins[[index]]))
        np.testing.assert_array_equal(alone[0], together[index])


def test_a_window_is_linear_between_its_ends():
    window = Window(low=-160, high=240)
    values = np.array([-2000, -160, 40, 240, 5000], dtype=np.float32)
    assert apply_window(values, window).tolist() == [0, 0, 128, 255, 255]


def centre_of_ball(pixels, plan, around) -> np.ndarray:
    """LPS mm of the centre of brightness within 12 mm of ``around``, found in the planes alone."""
    plane, row, column = np.indices(pixels.shape)
    places = plan.origins[plane] + row[..., None] * plan.row_step + column[..., None] * plan.column_step
    weight = np.where(np.linalg.norm(places - around, axis=-1) < 12, pixels, 0).astype(float)
    return (places * weight[..., None]).reshape(-1, 3).sum(axis=0) / weight.sum()


TILTS = {"upright": 0.0, "tilted back": 21.0, "tilted forward": -30.0}
STEPS = {
    "even": np.full(50, 1.5),
    "from head to feet": np.full(50, -1.5),
    "slices missing here and there": np.repeat([1.5, 1.5, 3.0, 1.5, 1.5], 8),
    "denser in one half": np.repeat([1.2, 2.4], [40, 22]),
}
BALL = np.array([9.0, -7.0, 4.0])


@pytest.mark.parametrize("tilt", TILTS.values(), ids=TILTS.keys())
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS.keys())
def test_a_ball_is_found_within_half_a_millimetre_in_every_view(tmp_path, write_series, tilt, steps):
    """As the gantry tilts, rows lean out of the axial plane while the table moves along z."""
    lean = np.radians(tilt)
    down = np.array([0, np.cos(lean), np.sin(lean)])
    heights = np.concatenate([[0], np.cumsum(steps)])
    heights -= (heights[0] + heights[-1]) / 2
    rows, columns = np.arange(70) - 34.5, np.arange(60) - 29.5
    places = heights[:, None, None, None] * Z + 1.1 * rows[:, None, None] * down + 1.3 * columns[:, None] * X
    voxels = 1800 * np.exp(-((places - BALL) ** 2).sum(axis=-1) / (2 * 3.0**2)) - 1000
    affine = np.eye(4)
    affine[:3, 1], affine[:3, 2] = 1.1 * down, 1.3 * X

    def put(index, dataset):
        dataset.ImagePositionPatient = [float(f"{v:.6f}") for v in places[index, 0, 0]]

    write_series(tmp_path, voxels, affine, each=put)
    series, volume = ingested(tmp_path)
    assert bool(tilt) == any(note.startswith("gantry tilt") for note in series.notes)
    assert (np.ptp(np.abs(steps)) == 0) == series.even
    wanted = [whole(view, spacing_mm=1.0, slice_spacing_mm=1.0, size=80) for view in SEEN]
    if tilt > -30:  # its planes as acquired are axial as well
        wanted.append(whole("axial", spacing_mm=1.0, slice_spacing_mm=0, planes=0, size=80))
    coarse = [whole(view, spacing_mm=2.5, slice_spacing_mm=4.0, size=40) for view in SEEN]
    for image in (*wanted, *coarse):
        plan = plan_planes(series, image)
        found = centre_of_ball(drawn(series, volume, plan)[:, 0], plan, BALL)
        assert np.linalg.norm(found - BALL) < 0.5, image


def test_uneven_slices_as_acquired_are_shown_untouched(tmp_path, write_series):
    heights = [0.0, 1.0, 3.0, 4.0, 5.0]

    def put(index, dataset):
        dataset.ImagePositionPatient = [0.0, 0.0, heights[index]]
        dataset.PixelData = np.full((40, 40), 1024 + 10 * index, "<i2").tobytes()

    write_series(tmp_path, np.zeros((5, 40, 40)), each=put)
    series, volume = ingested(tmp_path)
    plan = plan_planes(series, whole("axial", slice_spacing_mm=0, planes=0, size=32, spacing_mm=1))
    pixels = drawn(series, volume, plan, Window(low=0, high=255))
    assert [set(np.unique(plane)) for plane in pixels] == [{0}, {10}, {20}, {30}, {40}]
    np.testing.assert_allclose(plan.origins[:, 2], heights)


def test_a_gap_is_filled_between_its_own_neighbours(tmp_path, write_series):
    heights = [0.0, 1.0, 3.0, 4.0, 5.0]

    def put(index, dataset):
        dataset.ImagePositionPatient = [0.0, 0.0, heights[index]]
        dataset.PixelData = np.full((40, 40), 1024 + int(20 * heights[index]), "<i2").tobytes()

    write_series(tmp_path, np.zeros((5, 40, 40)), each=put)
    series, volume = ingested(tmp_path)
    plan = plan_planes(series, whole("axial", slice_spacing_mm=0.5, planes=0, size=32, spacing_mm=1))
    pixels = drawn(series, volume, plan, Window(low=0, high=255))
    np.testing.assert_allclose(pixels[:, 0, 16, 16], 10 * np.arange(11))


@pytest.mark.parametrize(("name", "value"), [("denoise", "median"), ("normalise", "z-score")])
def test_what_the_study_wants_done_to_planes_is_done(name, value):
    series, volume = plain_series()
    volume = volume + np.random.default_rng(0).normal(0, 60, volume.shape).astype(np.int16)
    plan = plan_planes(series, whole("axial", slice_spacing_mm=0))
    plain, changed = drawn(series, volume, plan), drawn(series, volume, plan, **{name: value})
    assert plain.shape == changed.shape
    if name == "denoise":
        assert changed[0, 0, 20:40, 20:40].std() < 0.7 * plain[0, 0, 20:40, 20:40].std()
    else:
        assert abs(float(changed[0].mean()) - 127.5) < 3


@settings(deadline=None, max_examples=40)
@given(
    turn=st.sampled_from([name for name in TURNS if name != "oblique"]),
    view=st.sampled_from(sorted(SEEN)),
    slice_spacing=st.floats(1, 9),
    planes=st.integers(1, 4),
    spacing=st.floats(0.6, 5),
    uneven=st.booleans(),
)
def test_sampling_axis_by_axis_gives_what_sampling_in_space_gives(turn, view, slice_spacing, planes, spacing, uneven):
    series, volume = plain_series((30, 24, 22), TURNS[turn])
    if uneven:
        places = np.concatenate([np.arange(20) * 0.8, 16 + np.arange(10) * 1.44])
        series = dataclasses.replace(series, places=places * 29 / places[-1])
    plan = plan_planes(series, whole(view, size=40, planes=planes, spacing_mm=spacing, slice_spacing_mm=slice_spacing))
    lattice = Lattice.of(series)
    aligned = Aligned.of(lattice, plan)
    assert aligned is not None
    for fast, plain in zip(aligned.sampled(volume[:, *aligned.part]), sample(volume, lattice, plan), strict=True):
        np.testing.assert_allclose(fast, plain, atol=0.5)


def test_oblique_planes_are_sampled_in_space():
    series, _ = plain_series(turn=TURNS["oblique"])
    assert Aligned.of(Lattice.of(series), plan_planes(series, whole("sagittal"))) is None
