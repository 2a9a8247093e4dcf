from __future__ import annotations

import io

import numpy as np
from PIL import Image

from client.ingest.cohort import EXAMPLE, PATIENT
from client.ingest.contact_sheet import IN_ALL, contact_sheet

DIGEST = "0123456789abcdef" * 4


def tables(patients=10, each=4, classes=2):
    people = np.zeros(patients, PATIENT)
    people["pseudonym"] = np.arange(patients)[:, None]
    examples = np.zeros(patients * each, EXAMPLE)
    examples["patient"] = np.repeat(np.arange(patients), each)
    examples["label"] = examples["patient"] % classes
    examples["planes"] = np.arange(len(examples))[:, None] + [-1, 0, 1]
    examples["planes"] = examples["planes"].clip(0, len(examples) - 1)
    return examples, people


def planes_of(count, windows=1, size=8):
    planes = np.zeros((count, windows, size, size), np.uint8)
    planes[:, :, 0, :] = np.arange(count)[:, None, None]  # the first row says which plane it is
    planes[:, :, 1, 2] = 200
    return planes


def pixels(tile):
    return np.array(Image.open(io.BytesIO(tile.png)))


def test_a_tile_is_the_stored_centre_plane_unturned():
    examples, people = tables()
    planes = planes_of(40)
    for tile in contact_sheet(examples, people, planes, ("a", "b"), DIGEST):
        image = pixels(tile)
        number = int(image[0, 0])
        np.testing.assert_array_equal(image, planes[number, 0])
        patient = examples["patient"][number]
        assert tile.label == "ab"[patient % 2]
        assert tile.pseudonym == f"{patient:02x}" * 3


def test_each_class_shows_five_different_patients():
    tiles = contact_sheet(*tables(), planes_of(40), ("a", "b", "none"), DIGEST)
    assert [tile.label for tile in tiles] == ["a"] * 5 + ["b"] * 5
    assert len({tile.pseudonym for tile in tiles}) == 10


def test_a_class_with_few_patients_shows_more_of_their_examples():
    tiles = contact_sheet(*tables(patients=2, each=3), planes_of(6), ("a", "b"), DIGEST)
    assert [tile.label for tile in tiles] == ["a"] * 3 + ["b"] * 3


def test_the_choice_is_fixed_by_the_cohort_digest():
    made = [contact_sheet(*tables(), planes_of(40), ("a", "b"), digest) for digest in (DIGEST, DIGEST, DIGEST[::-1])]
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_windows_stand_side_by_side():
    tile = contact_sheet(*tables(), planes_of(40, windows=3), ("a", "b"), DIGEST)[0]
    assert pixels(tile).shape == (8, 24)


def test_many_classes_share_the_sheet():
    classes = [str(number) for number in range(30)]
    examples, people = tables(patients=60, classes=30)
    tiles = contact_sheet(examples, people, planes_of(240), classes, DIGEST)
    assert len(tiles) == 30 <= IN_ALL
