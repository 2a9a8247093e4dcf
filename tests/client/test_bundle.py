from __future__ import annotations

import hashlib
import io
import zipfile

import pytest
from flwr.cli.build import build_fab_from_files
from hypothesis import given
from hypothesis import strategies as st

from client.bundle import (
    ALLOWED,
    MOST_BYTES,
    BadBundle,
    BundleWithCode,
    UnknownStudy,
    WrongComponent,
    WrongDigest,
    WrongTask,
    check_bundle,
)
from common.errors import PolicyRefusal
from server.bundle import bundle_files

STUDY = "ab" * 32
CONFIG = f"""
[tool.flwr.app.components]
clientapp = "client.app:app"
[tool.flwr.app.config]
study = "{STUDY}"
"""


def bundle(config=CONFIG, /, **files: str) -> bytes:
    return zipped({"pyproject.toml": config, **files})


def zipped(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def check(content: bytes, *, task="flwr-clientapp", digests=None, approved=(STUDY,)) -> None:
    found = (hashlib.sha256(content).hexdigest(),) if digests is None else digests
    check_bundle(content, task, found, lambda digest: digest in approved)


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_the_bundle_that_the_coordinator_makes_passes(small_study):
    study = small_study()
    content, _ = build_fab_from_files(bundle_files(study, 0, simulated=False, run="r"))
    check(content, approved=(study.digest,))


@pytest.mark.parametrize(
    "name", ["client/app.py", "client.py", "sitecustomize.py", "lib.so", "a.pth", "pyproject.toml/x"]
)
def test_a_bundle_with_anything_that_could_be_executed_is_refused(name):
    with pytest.raises(BundleWithCode):
        check(bundle(**{name: "raise SystemExit"}))


@pytest.mark.parametrize("name", ["../pyproject.toml", "/etc/passwd", "README.MD", "./README.md"])
def test_a_bundle_with_a_name_that_only_looks_allowed_is_refused(name):
    with pytest.raises(PolicyRefusal):
        check(bundle(**{name: "x"}))


def test_a_name_that_some_readers_cut_at_a_nul_is_refused():
    with pytest.raises(BundleWithCode):
        check(bundle(**{"README.md%.py": "x"}).replace(b"README.md%.py", b"README.md\0.py"))


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_bundle_that_names_a_file_twice_is_refused():
    buffer = io.BytesIO(bundle())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("pyproject.toml", CONFIG)
    with pytest.raises(BadBundle):
        check(buffer.getvalue())


@pytest.mark.parametrize(
    "task", ["flwr-serverapp", "flwr-agentapp", "flwr-model", "flwr-connector", "flwr-simulation", ""]
)
def test_a_task_for_another_component_is_refused(task):
    with pytest.raises(WrongTask):
        check(bundle(), task=task)


@pytest.mark.parametrize("component", ["server.app:app", "client.app:main", "evil:app", "client.app:app ", ""])
def test_a_bundle_that_asks_for_another_app_is_refused(component):
    with pytest.raises(WrongComponent):
        check(bundle(CONFIG.replace("client.app:app", component)))


@pytest.mark.parametrize("digests", [(), ("0" * 64,), (hashlib.sha256(bundle()).hexdigest(), "")])
def test_a_bundle_under_another_digest_is_refused(digests):
    with pytest.raises(WrongDigest):
        check(bundle(), digests=digests)


def test_a_bundle_whose_study_is_not_approved_is_refused():
    with pytest.raises(UnknownStudy):
        check(bundle(), approved=())


@pytest.mark.parametrize("answer", [None, 1, "yes"])
def test_only_a_plain_yes_approves(answer):
    content = bundle()
    with pytest.raises(UnknownStudy):
        check_bundle(content, "flwr-clientapp", (hashlib.sha256(content).hexdigest(),), lambda _: answer)


def test_a_bundle_that_unfolds_to_more_than_the_limit_is_refused():
    with pytest.raises(BadBundle):
        check(bundle(**{"README.md": "0" * (MOST_BYTES + 1)}))


def test_a_bundle_that_lies_about_the_size_of_a_file_is_refused():
    content = bundle(CONFIG + "#" + "0" * (2 * MOST_BYTES))
    size = (2 * MOST_BYTES + len(CONFIG) + 1).to_bytes(4, "little")
    assert content.count(size) == 2
    with pytest.raises(PolicyRefusal):
        check(content.replace(size, (100).to_bytes(4, "little")))


def test_a_bundle_that_is_too_large_is_refused_unread():
    with pytest.raises(BadBundle):
        check(b"x" * (MOST_BYTES + 1))


@pytest.mark.parametrize("config", ["", "tool = 1", "[tool]\nflwr = 2", "not toml", '[tool.flwr.app]\nconfig = "x"'])
def test_settings_that_are_not_a_bundles_are_refused(config):
    with pytest.raises(PolicyRefusal):
        check(bundle(config))


def test_a_bundle_without_settings_is_refused():
    with pytest.raises(BadBundle):
        check(zipped({"README.md": "x"}))


@given(st.binary(max_size=400))
def test_bytes_that_are_no_bundle_are_refused_and_nothing_else_happens(content):
    with pytest.raises(PolicyRefusal):
        check(content)


@given(st.data())
def test_a_damaged_bundle_is_refused_or_is_still_harmless(data):
    content = bytearray(bundle())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] = data.draw(st.integers(0, 255))
    try:
        check(bytes(content))
    except PolicyRefusal:
        return
    assert set(zipfile.ZipFile(io.BytesIO(bytes(content))).namelist()) <= ALLOWED
