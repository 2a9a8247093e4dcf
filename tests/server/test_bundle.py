from __future__ import annotations

import tomllib

import pytest

from server.bundle import bundle_files, write_files


@pytest.mark.parametrize(("simulated", "run"), [(True, ""), (False, "small-20260301-123005")])
def test_a_bundle_holds_references_and_settings_and_no_code(small_study, simulated, run):
    study = small_study()
    files = bundle_files(study, 7, simulated=simulated, run=run)
    assert sorted(files) == ["LICENSE", "README.md", "pyproject.toml"]
    content = tomllib.loads(files["pyproject.toml"].decode())["tool"]["flwr"]["app"]
    assert content["components"] == {"serverapp": "server.app:app", "clientapp": "client.app:app"}
    assert content["config"] == {"study": study.digest, "seed": 7, "simulated": simulated, "run": run}


def test_a_bundle_is_written_as_it_is(tmp_path):
    folder = write_files(tmp_path / "bundle", {"a": b"x", "b": b"y"})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a": b"x", "b": b"y"}
