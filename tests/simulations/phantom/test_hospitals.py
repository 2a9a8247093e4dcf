"""A consortium is written whole, the same each time, and continues where it stopped."""

from __future__ import annotations

import csv
import errno
import hashlib
from pathlib import Path

import pytest

from client.site import load_sites
from common.errors import StorageError, UsageError
from simulations.phantom import hospitals
from simulations.phantom.gallery import draw_gallery, read_volume
from simulations.phantom.hospitals import Request, enrol, write_hospitals


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "sites"
    write_hospitals(out, patients=4, counts=(2, 1, 1), sites=2, seed=7, workers=1)
    return out


def test_each_hospital_is_a_site_folder_with_a_row_and_a_series_a_patient(consortium: Path) -> None:
    labels = []
    sites = load_sites(consortium)
    assert [site.name for site in sites] == ["hospital-1", "hospital-2"]
    for site in sites:
        assert site.config.simulated
        with site.labels_file.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert sorted(row["patient_id"] for row in rows) == sorted(p.name for p in site.dicom_dir.iterdir())
        labels += [row["label"] for row in rows]
        for row in rows:
            volume = read_volume(site.dicom_dir / row["patient_id"])
            assert int(row["key_image"]) in volume.instances
            assert volume.units.min() >= -1024
            assert volume.units.max() > 700
    assert sorted(labels) == ["burst", "compression", "compression", "normal"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_with_two_workers(consortium: Path, tmp_path: Path) -> None:
    seen = []
    write_hospitals(
        tmp_path / "again", patients=4, counts=(2, 1, 1), sites=2, seed=7, workers=2,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert digests(tmp_path / "again") == digests(consortium)
    assert seen == [(n, 4) for n in range(5)]


def test_another_seed_gives_other_patients() -> None:
    one, two = (enrol(Request(1, 40, (16, 17, 7), 3, seed)) for seed in (1, 2))
    assert [p.label for p in one] != [p.label for p in two]


def test_numbers_tell_neither_class_nor_hospital() -> None:
    people = enrol(Request(1, 698, (279, 295, 124), 5, 1))
    assert [p.number for p in people] == list(range(1, 699))
    for name in ("label", "site"):
        first = {getattr(p, name) for p in people[:60]}
        assert len(first) == len({getattr(p, name) for p in people})


def test_a_complete_folder_is_left_as_it_is(consortium: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in consortium.rglob("*")}
    write_hospitals(consortium, patients=4, counts=(2, 1, 1), sites=2, seed=7, workers=1)
    assert {path: path.stat().st_mtime_ns for path in consortium.rglob("*")} == before


@pytest.mark.parametrize("change", [{"seed": 8}, {"sites": 3}, {"counts": (1, 2, 1)}])
def test_a_folder_made_with_other_settings_is_not_touched(consortium: Path, change: dict) -> None:
    settings = {"patients": 4, "counts": (2, 1, 1), "sites": 2, "seed": 7} | change
    before = digests(consortium)
    with pytest.raises(UsageError, match="other settings"):
        write_hospitals(consortium, **settings)
    assert digests(consortium) == before


def test_a_folder_with_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not an empty folder"):
        write_hospitals(tmp_path, patients=4, counts=None, sites=2, seed=7)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "wrong", [{"counts": (1, 1, 1)}, {"sites": 0}, {"sites": 5}, {"seed": -1}, {"workers": 0}, {"patients": 0}]
)
def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path: Path, wrong: dict) -> None:
    settings = {"patients": 4, "counts": None, "sites": 2, "seed": 7} | wrong
    with pytest.raises(UsageError):
        write_hospitals(tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_leaves_whole_patients_only_and_continues_to_the_same_bytes(
    consortium: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real, calls = tmp_path / "out", hospitals.write_series, []

    def stops(folder: Path, *rest: object) -> None:
        calls.append(folder)
        if len(calls) == 3:
            folder.mkdir(parents=True)
            (folder / "half").write_bytes(b"half a slice")
            raise KeyboardInterrupt
        real(folder, *rest)

    monkeypatch.setattr(hospitals, "write_series", stops)
    with pytest.raises(KeyboardInterrupt):
        write_hospitals(out, patients=4, counts=(2, 1, 1), sites=2, seed=7, workers=1)
    finished = {p.name for p in out.glob("*/dicom/*")}
    assert len(finished) == 2
    assert all(name.startswith("PH-") for name in finished)
    assert not list(out.glob("*/site.toml"))
    monkeypatch.undo()
    write_hospitals(out, patients=4, counts=(2, 1, 1), sites=2, seed=7, workers=1)
    assert digests(out) == digests(consortium)


def test_what_a_killed_process_left_is_swept_up(consortium: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_hospitals(out, patients=4, counts=(2, 1, 1), sites=2, seed=7, workers=1)
    site = out / "hospital-1"
    victim = next((site / "dicom").iterdir())
    partial = victim.rename(victim.with_name(f".{victim.name}.part"))
    for name in ("site.toml", "labels.csv"):
        (site / name).unlink()
    write_hospitals(out, patients=4, counts=(2, 1, 1), sites=2, seed=7, workers=1)
    assert not partial.exists()
    assert digests(out) == digests(consortium)


def test_a_full_disk_is_one_clear_error_and_no_half_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, *_: object) -> None:
        folder.mkdir(parents=True)
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "1"))

    monkeypatch.setattr(hospitals, "write_series", full)
    with pytest.raises(StorageError, match="no space left"):
        write_hospitals(tmp_path / "out", patients=4, counts=None, sites=2, seed=7, workers=1)
    assert not list((tmp_path / "out").glob("*/dicom/*"))


def test_the_gallery_is_a_picture_of_all_hospitals(consortium: Path, tmp_path: Path) -> None:
    draw_gallery(consortium, tmp_path / "gallery.png")
    assert (tmp_path / "gallery.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "gallery.png").stat().st_size > 50_000
