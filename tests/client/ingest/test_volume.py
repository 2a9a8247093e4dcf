from __future__ import annotations

import numpy as np
import pydicom
import pytest
from openjpeg.utils import encode_array
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, RLELossless

from client.ingest.volume import AIR_HU, HIGHEST_HU, PixelsUnreadable, read_volume

RAMP = np.linspace(-900, 900, 3 * 8 * 10).round().reshape(3, 8, 10)


def read(folder, rows=8, columns=10):
    """The slices of ``folder`` in the order of their positions."""
    paths = sorted(folder.iterdir(), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2])
    return read_volume(folder, [path.name for path in paths], rows, columns)


def test_hounsfield_units_come_back_as_written(tmp_path, write_series):
    write_series(tmp_path, RAMP)
    volume = read(tmp_path)
    assert volume.dtype == np.int16
    np.testing.assert_array_equal(volume, RAMP)


def test_each_slice_keeps_its_own_slope_and_intercept(tmp_path, write_series):
    def rescale(index, dataset):
        dataset.RescaleSlope, dataset.RescaleIntercept = [(1, 0), (0.5, -1000), (2, 24)][index]
        dataset.PixelData = np.full((8, 10), 100, dtype="<i2").tobytes()

    write_series(tmp_path, RAMP, each=rescale)
    assert [int(plane[0, 0]) for plane in read(tmp_path)] == [100, -950, 224]


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_slices_decode_to_the_same_values(tmp_path, write_series, syntax):
    voxels = np.kron(RAMP, np.ones((4, 4)))
    write_series(tmp_path, voxels)
    for path in list(tmp_path.iterdir()):
        dataset = pydicom.dcmread(path)
        if syntax == RLELossless:
            dataset.compress(syntax, generate_instance_uid=False)
        else:
            dataset.PixelData = encapsulate([encode_array(dataset.pixel_array, photometric_interpretation=2)])
            dataset["PixelData"].is_undefined_length = True
            dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(path)
    np.testing.assert_array_equal(read(tmp_path, 32, 40), voxels)


@pytest.mark.parametrize(
    "case", [(1, "SS", -2000, -2000), (1, "US", 63536, -2000), (0, "US", 63536, 63536), (0, "US", 0, 0)]
)
def test_padding_becomes_air_however_its_sign_is_written(tmp_path, write_series, case):
    sign, vr, value, stored = case

    def pad(_, dataset):
        pixels = np.full((8, 10), 1024)
        pixels[0, 0] = stored
        dataset.PixelRepresentation = sign
        dataset.add_new("PixelPaddingValue", vr, value)
        dataset.PixelData = pixels.astype("<i2" if sign else "<u2").tobytes()

    write_series(tmp_path, RAMP, each=pad)
    volume = read(tmp_path)
    assert (volume[:, 0, 0] == AIR_HU).all()
    assert (volume[:, 1:] == 0).all()


def test_a_padding_range_is_taken_whole(tmp_path, write_series):
    def pad(_, dataset):
        pixels = np.full((8, 10), 3000)
        pixels[0, :3] = (50, 60, 61)
        dataset.PixelPaddingValue, dataset.PixelPaddingRangeLimit = 60, 40
        dataset.PixelData = pixels.astype("<i2").tobytes()

    write_series(tmp_path, RAMP, each=pad)
    assert read(tmp_path)[0, 0, :4].tolist() == [AIR_HU, AIR_HU, 61 - 1024, 3000 - 1024]


def test_values_outside_the_range_of_ct_are_clipped(tmp_path, write_series):
    voxels = RAMP.copy()
    voxels[0, 0, :2] = (-3024, 20000)
    write_series(tmp_path, voxels)
    assert read(tmp_path)[0, 0, :2].tolist() == [AIR_HU, HIGHEST_HU]


@pytest.mark.parametrize("damage", ["truncated", "no pixels", "other size", "gone"])
def test_a_slice_that_cant_be_decoded_refuses_the_volume(tmp_path, write_series, damage):
    write_series(tmp_path, RAMP)
    path = min(tmp_path.iterdir())
    names = sorted(found.name for found in tmp_path.iterdir())
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "no pixels":
        dataset = pydicom.dcmread(path)
        del dataset.PixelData
        dataset.save_as(path)
    elif damage == "gone":
        path.unlink()
    with pytest.raises(PixelsUnreadable):
        read_volume(tmp_path, names, 8, 10 if damage != "other size" else 9)


def test_a_data_set_without_file_meta_is_decoded(tmp_path, write_series):
    write_series(tmp_path, RAMP)
    for path in list(tmp_path.iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[content.index(b"\x08\x00\x08\x00") :])  # from (0008,0008) on
    np.testing.assert_array_equal(_read_bare(tmp_path), RAMP)


def _read_bare(folder):
    def height(path):
        return pydicom.dcmread(path, force=True).ImagePositionPatient[2]

    return read_volume(folder, [path.name for path in sorted(folder.iterdir(), key=height)], 8, 10)
