from __future__ import annotations

import contextlib
import warnings

import gdcm
import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openjpeg.utils import encode_array
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence

from client.ingest.plausibility import BINS, count_hu
from client.ingest.volume import AIR_HU, HIGHEST_HU, PixelsUnreadable, Slice, read_volume

RAMP = np.linspace(-900, 900, 3 * 8 * 10).round().reshape(3, 8, 10)
LOSSY_HU = 40


def read(folder, rows=8, columns=10):
    """The slices of ``folder`` in the order of their positions."""
    paths = sorted(folder.iterdir(), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2])
    return read_volume(folder, [Slice(path.name) for path in paths], rows, columns).hounsfield


def test_hounsfield_units_come_back_as_written(tmp_path, write_series):
    write_series(tmp_path, RAMP)
    volume = read(tmp_path)
    assert volume.dtype == np.int16
    np.testing.assert_array_equal(volume, RAMP)


def test_the_histogram_counts_what_was_measured(tmp_path, write_series):
    write_series(tmp_path, RAMP)
    slices = [Slice(path.name) for path in tmp_path.iterdir()]
    histogram = read_volume(tmp_path, slices, 8, 10).histogram
    assert histogram.shape == (BINS,)
    np.testing.assert_array_equal(histogram, count_hu(RAMP))
    assert histogram.sum() == RAMP.size


@pytest.mark.parametrize("sign", [0, 1])
def test_each_slice_keeps_its_own_slope_and_intercept(tmp_path, write_series, sign):
    scales = [(1, 0), (0.5, -1000), (2, 24)]

    def rescale(index, dataset):
        dataset.RescaleSlope, dataset.RescaleIntercept = scales[index]
        dataset.PixelRepresentation = sign
        dataset.PixelData = np.full((8, 10), 101, dtype="<i2").tobytes()

    write_series(tmp_path, RAMP, each=rescale)
    assert [int(plane[0, 0]) for plane in read(tmp_path)] == [101, -950, 226]  # -949.5 to the even


@settings(deadline=None, max_examples=40)
@given(
    sign=st.booleans(),
    slope=st.sampled_from([1, 1, 2, 0.25, -1]),
    intercept=st.sampled_from([0, -1024, -1000.5, 30000, -40000, -8192]),
    stored=st.lists(st.integers(0, 65535), min_size=6, max_size=6),
)
def test_any_stored_value_is_scaled_and_clipped(tmp_path_factory, write_series, sign, slope, intercept, stored):
    values = np.array(stored, dtype="<u2").view("<i2" if sign else "<u2").reshape(2, 3)

    def put(_, dataset):
        dataset.PixelRepresentation = int(sign)
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
        dataset.PixelData = values.tobytes()

    folder = tmp_path_factory.mktemp("scaled")
    write_series(folder, np.zeros((1, 2, 3)), each=put)
    expected = np.rint(np.clip(values.astype(float) * slope + intercept, AIR_HU, HIGHEST_HU))
    np.testing.assert_array_equal(read(folder, 2, 3)[0], expected)


def test_a_modality_table_takes_the_place_of_slope_and_intercept(tmp_path, write_series):
    def table(_, dataset):
        item = Dataset()
        item.LUTDescriptor = [4, 10, 16]
        item.ModalityLUTType = "HU"
        item.LUTData = [0, 40, 60, 1000]
        item["LUTDescriptor"].VR = "SS"
        item["LUTData"].VR = "US"
        dataset.ModalityLUTSequence = Sequence([item])
        del dataset.RescaleSlope, dataset.RescaleIntercept
        dataset.PixelData = np.resize([9, 10, 11, 12, 13, 14], (8, 10)).astype("<i2").tobytes()

    write_series(tmp_path, RAMP, each=table)
    assert read(tmp_path)[0, 0, :6].tolist() == [0, 0, 40, 60, 1000, 1000]


def _encapsulated(dataset, frames, syntax, bits=12, allocated=16):
    dataset.PixelRepresentation = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, bits, bits - 1
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].is_undefined_length = True


def _by_gdcm(folder, syntax):
    """Re-encode every file of ``folder`` with GDCM."""
    for path in list(folder.iterdir()):
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(path))
        assert writer.Write()


def _jpeg_2000(stored, **how):
    return imagecodecs.jpeg2k_encode(stored, codecformat="j2k", bitspersample=12, **how)


ENCODERS = {
    "JPEG baseline": (uid.JPEGBaseline8Bit, lambda s: imagecodecs.jpeg8_encode((s >> 4).astype("u1"), level=98), 8),
    "JPEG extended": (uid.JPEGExtended12Bit, lambda s: imagecodecs.jpeg8_encode(s, level=98, bitspersample=12), 12),
    "JPEG lossless": (uid.JPEGLosslessSV1, lambda s: imagecodecs.ljpeg_encode(s, bitspersample=12), 12),
    "JPEG-LS lossless": (uid.JPEGLSLossless, imagecodecs.jpegls_encode, 12),
    "JPEG-LS near-lossless": (uid.JPEGLSNearLossless, lambda s: imagecodecs.jpegls_encode(s, level=2), 12),
    "JPEG 2000 lossless": (uid.JPEG2000Lossless, lambda s: _jpeg_2000(s, reversible=True), 12),
    "JPEG 2000 lossless, by OpenJPEG": (
        uid.JPEG2000Lossless,
        lambda s: encode_array(s, photometric_interpretation=2, bits_stored=12),
        12,
    ),
    "JPEG 2000": (uid.JPEG2000, lambda s: _jpeg_2000(s, level=60), 12),
    "HTJ2K lossless": (uid.HTJ2KLossless, lambda s: imagecodecs.htj2k_encode(s, reversible=True), 16),
    "HTJ2K lossless RPCL": (uid.HTJ2KLosslessRPCL, lambda s: imagecodecs.htj2k_encode(s, reversible=True), 16),
    "HTJ2K": (uid.HTJ2K, lambda s: imagecodecs.htj2k_encode(s, reversible=True), 16),
}
LOSSY = {"JPEG baseline", "JPEG extended", "JPEG-LS near-lossless", "JPEG 2000"}
SMOOTH = np.kron(RAMP, np.ones((6, 6)))


@pytest.mark.parametrize("name", ENCODERS)
def test_compressed_slices_decode_to_their_values(tmp_path, write_series, name):
    syntax, encode, bits = ENCODERS[name]
    slope = 16 if bits == 8 else 1

    def compress(index, dataset):
        stored = np.rint(SMOOTH[index] + 1024).astype(np.uint16)
        dataset.RescaleSlope = slope
        _encapsulated(dataset, [encode(stored)], syntax, bits, 8 if bits == 8 else 16)

    write_series(tmp_path, SMOOTH, each=compress)
    error = np.abs(read(tmp_path, *SMOOTH.shape[1:]) - SMOOTH)
    assert error.max() <= (LOSSY_HU if name in LOSSY else 0)


@pytest.mark.parametrize(
    "syntax", [gdcm.TransferSyntax.JPEGLosslessProcess14, gdcm.TransferSyntax.JPEGLosslessProcess14_1]
)
def test_lossless_jpeg_of_signed_values_decodes(tmp_path, write_series, syntax):
    write_series(tmp_path, SMOOTH, RescaleIntercept=0)
    _by_gdcm(tmp_path, syntax)
    np.testing.assert_array_equal(read(tmp_path, *SMOOTH.shape[1:]), SMOOTH)


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
    ],
)
def test_uncompressed_deflated_and_run_length_slices_decode(tmp_path, write_series, syntax):
    write_series(tmp_path, SMOOTH)
    for path in list(tmp_path.iterdir()):
        dataset = pydicom.dcmread(path)
        if syntax == uid.RLELossless:
            dataset.compress(syntax, generate_instance_uid=False)
            dataset.save_as(path)
        else:
            dataset.file_meta.TransferSyntaxUID = syntax
            if syntax == uid.ExplicitVRBigEndian:
                dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                new = pydicom.Dataset(dataset)
                new.file_meta, new.preamble = dataset.file_meta, b"\0" * 128
                pydicom.dcmwrite(path, new, enforce_file_format=True)
    np.testing.assert_array_equal(read(tmp_path, *SMOOTH.shape[1:]), SMOOTH)


@pytest.mark.parametrize("name", ["JPEG lossless", "JPEG-LS lossless", "JPEG 2000 lossless", "HTJ2K lossless"])
def test_a_code_stream_of_another_size_is_refused_before_memory_is_taken(tmp_path, write_series, memory_peak, name):
    syntax, encode, bits = ENCODERS[name]
    big = encode(np.full((3000, 3000), 7, dtype=np.uint16))

    write_series(tmp_path, RAMP, each=lambda _, dataset: _encapsulated(dataset, [big], syntax, bits))
    slices = [Slice(path.name) for path in tmp_path.iterdir()]
    with pytest.raises(PixelsUnreadable), memory_peak(4 * len(big) + 2_000_000):
        read_volume(tmp_path, slices, 8, 10)


def test_run_lengths_that_make_another_size_are_refused(tmp_path, write_series, capfd):
    def bomb(_, dataset):
        dataset.compress(uid.RLELossless, generate_instance_uid=False)
        (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
        _encapsulated(dataset, [frame[:64] + b"\x81\x00" * 50_000], uid.RLELossless, 16)

    write_series(tmp_path, RAMP, each=bomb)
    with pytest.raises(PixelsUnreadable):
        read(tmp_path)
    assert capfd.readouterr().err == ""


def test_frames_are_found_by_number_with_the_scale_of_each(tmp_path, write_series):
    frames = np.arange(5)[:, None, None] * 100 + np.arange(80).reshape(8, 10)

    def scale(slope, intercept):
        groups, item = Dataset(), Dataset()
        item.RescaleSlope, item.RescaleIntercept = slope, intercept
        groups.PixelValueTransformationSequence = Sequence([item])
        return groups

    def enhance(_, dataset):
        del dataset.RescaleSlope, dataset.RescaleIntercept
        dataset.NumberOfFrames = 5
        dataset.SharedFunctionalGroupsSequence = Sequence([scale(1, -50)])
        own = [Dataset() for _ in range(5)]
        own[3] = scale(2, 10)
        dataset.PerFrameFunctionalGroupsSequence = Sequence(own)
        dataset.PixelData = frames.astype("<i2").tobytes()

    write_series(tmp_path, RAMP[:1], each=enhance)
    name = next(tmp_path.iterdir()).name
    volume = read_volume(tmp_path, [Slice(name, 5), Slice(name, 2), Slice(name, 4)], 8, 10).hounsfield
    np.testing.assert_array_equal(volume, [frames[4] - 50, frames[1] - 50, frames[3] * 2 + 10])
    with pytest.raises(PixelsUnreadable):
        read_volume(tmp_path, [Slice(name, 6)], 8, 10)


def test_compressed_frames_are_decoded_one_by_one(tmp_path, write_series):
    frames = (np.arange(4)[:, None, None] * 100 + np.arange(80).reshape(8, 10)).astype(np.uint16)

    def compress(_, dataset):
        dataset.NumberOfFrames = 4
        _encapsulated(dataset, [imagecodecs.jpegls_encode(frame) for frame in frames], uid.JPEGLSLossless)

    write_series(tmp_path, RAMP[:1], each=compress)
    name = next(tmp_path.iterdir()).name
    volume = read_volume(tmp_path, [Slice(name, 3), Slice(name, 1)], 8, 10).hounsfield
    np.testing.assert_array_equal(volume, frames[[2, 0]].astype(int) - 1024)


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
    slices = [Slice(path.name) for path in tmp_path.iterdir()]
    volume = read_volume(tmp_path, slices, 8, 10)
    assert (volume.hounsfield[:, 0, 0] == AIR_HU).all()
    assert (volume.hounsfield[:, 1:] == 0).all()
    assert volume.histogram.sum() == 3 * 79  # padding is no measurement


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
    slices = [Slice(found.name) for found in sorted(tmp_path.iterdir())]
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "no pixels":
        dataset = pydicom.dcmread(path)
        del dataset.PixelData
        dataset.save_as(path)
    elif damage == "gone":
        path.unlink()
    with pytest.raises(PixelsUnreadable):
        read_volume(tmp_path, slices, 8, 10 if damage != "other size" else 9)


@settings(deadline=None, max_examples=40)
@given(name=st.sampled_from(sorted(ENCODERS)), at=st.floats(0, 1), value=st.integers(0, 255), cut=st.booleans())
def test_damaged_code_streams_are_decoded_or_refused(tmp_path_factory, write_series, name, at, value, cut):
    syntax, encode, bits = ENCODERS[name]
    stream = bytearray(encode(np.rint(SMOOTH[0] + 1024).astype(np.uint16)))
    place = min(int(at * len(stream)), len(stream) - 1)
    stream[place] = value
    damaged = bytes(stream[: max(place, 4)] if cut else stream)
    folder = tmp_path_factory.mktemp("damaged")
    write_series(
        folder, SMOOTH[:1], each=lambda _, d: _encapsulated(d, [damaged], syntax, bits, 8 if bits == 8 else 16)
    )
    with contextlib.suppress(PixelsUnreadable):
        assert read(folder, *SMOOTH.shape[1:]).shape == SMOOTH[:1].shape


def test_a_data_set_without_file_meta_is_decoded(tmp_path, write_series):
    write_series(tmp_path, RAMP)
    for path in list(tmp_path.iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[content.index(b"\x08\x00\x08\x00") :])  # from (0008,0008) on

    def height(path):
        return pydicom.dcmread(path, force=True).ImagePositionPatient[2]

    slices = [Slice(path.name) for path in sorted(tmp_path.iterdir(), key=height)]
    np.testing.assert_array_equal(read_volume(tmp_path, slices, 8, 10).hounsfield, RAMP)
