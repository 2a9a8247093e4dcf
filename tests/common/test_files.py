"""Files are written whole or not at all."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.files import whole_folder, write_atomic


@settings(max_examples=20, deadline=None)
@given(data=st.binary(max_size=5000))
def test_what_is_written_is_what_is_there(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "file"
    write_atomic(path, b"old")
    write_atomic(path, data)
    assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o400])
def test_the_mode_is_the_one_asked_for_whatever_the_umask(tmp_path: Path, mode):
    write_atomic(tmp_path / "file", b"x", mode=mode)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_by_default_only_the_owner_reads_it(tmp_path: Path):
    write_atomic(tmp_path / "file", b"x")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_a_full_disk_leaves_the_old_file_and_no_part(tmp_path: Path):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="large"):
            write_atomic(path, bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_rename_leaves_no_part(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "folder", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_missing_folder_is_an_os_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "none" / "file", b"x")


@pytest.mark.slow
def test_a_process_killed_while_it_writes_leaves_the_old_file_or_the_new(tmp_path: Path):
    path = tmp_path / "file"
    code = (
        "import sys; from pathlib import Path; from common.files import whole_folder, write_atomic\n"
        "path, i = Path(sys.argv[1]), 0\n"
        "while True:\n"
        "    i += 1; write_atomic(path, bytes([i % 256]) * 200_000)\n"
        "    if i == 1: print('go', flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, path], env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.communicate()
        data = path.read_bytes()
        assert len(data) == 200_000
        assert len(set(data)) == 1


def test_a_folder_is_there_whole_and_only_its_owner_reads_it(tmp_path: Path):
    with whole_folder(tmp_path / "site") as partial:
        (partial / "key").write_text("k")
        assert not (tmp_path / "site").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["site"]
    assert (tmp_path / "site" / "key").read_text() == "k"
    assert stat.S_IMODE((tmp_path / "site").stat().st_mode) == 0o700


def test_a_folder_that_could_not_be_filled_is_not_there_at_all(tmp_path: Path):
    def fill() -> None:
        with whole_folder(tmp_path / "site") as partial:
            (partial / "key").write_text("k")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_not_replaced(tmp_path: Path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "ledger").write_text("spent")
    with pytest.raises(OSError, match="not empty"), whole_folder(tmp_path / "site"):
        pass
    assert (tmp_path / "site" / "ledger").read_text() == "spent"
    assert [p.name for p in tmp_path.iterdir()] == ["site"]
