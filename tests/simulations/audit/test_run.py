"""The whole audit, small: made once, then looked at from all sides."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import sys

import pytest
from rich.console import Console

from common.errors import AuditFailed, UsageError
from simulations.audit import run
from simulations.audit.page import page
from simulations.audit.run import Scale, audit, require_pass, write_audit
from simulations.cli import main


@pytest.fixture(scope="module")
def found(small_study):
    study = small_study(
        model={"trainable": "norm+head"},
        training={"local_steps": 2, "batch_patients": 4},
        privacy={"epsilon": 2.0, "delta": 1e-4},
        federation={"rounds": 4},
    )
    return audit(study, 200, Console(file=io.StringIO()), Scale(patients=6, models=4))


@pytest.fixture
def failing(found):
    check = dataclasses.replace(found.checks[0], passed=False, found="It moved by <b>9</b> clips.")
    return dataclasses.replace(found, checks=(check, *found.checks[1:]))


@pytest.mark.slow
def test_a_sound_release_passes_every_part(found):
    assert found.failures() == []
    assert {check.part for check in found.checks} == {"replay", "noise", "draws", "account", "canaries", "attacks"}
    require_pass(found)


@pytest.mark.slow
def test_the_json_holds_claim_and_figures(found):
    content = json.loads(found.to_json())
    assert content["passed"] is True
    assert content["claim"]["epsilon"] == 2.0
    assert content["claim"]["steps"] == 8
    (canaries,) = [check for check in content["checks"] if check["part"] == "canaries"]
    assert 0 <= canaries["figures"]["bounds"]["steinke"] <= 2.0


@pytest.mark.slow
def test_the_page_is_self_contained_and_says_what_failed(found, failing):
    for one, word in ((found, "Passed."), (failing, "FAILED.")):
        text = page(one)
        assert word in text
        assert "<script" not in text
        assert not re.findall(r"(?:src|href)=\"(?!data:|#)", text)
        assert text.count("data:image/png;base64,") == 3
    assert "&lt;b&gt;9&lt;/b&gt;" in page(failing)


@pytest.mark.slow
def test_files_are_written_whole_or_not_at_all(found, tmp_path):
    write_audit(found, tmp_path / "new" / "audit")
    assert {path.name for path in (tmp_path / "new" / "audit").iterdir()} == {"audit.html", "audit.json"}


@pytest.mark.slow
@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_the_command_exits_with_zero_only_if_all_passes(
    found, failing, tmp_path, monkeypatch, capsys, study_file, extra
):
    study_file(tmp_path / "study.toml", found.study)
    arguments = ["fedct-sim", "audit", str(tmp_path / "study.toml"), "--out", str(tmp_path / "audit"), *extra]
    monkeypatch.setattr(sys, "argv", arguments)
    for one, code in ((found, 0), (failing, AuditFailed.exit_code)):
        monkeypatch.setattr(run, "audit", lambda *_, one=one: one)
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
        out, errors = capsys.readouterr()
        assert ("replay: distance of neighbours" in errors) is bool(code)
        if extra:
            assert json.loads(out)["passed"] is not bool(code)


def test_a_study_without_a_claim_has_nothing_to_audit(small_study):
    with pytest.raises(UsageError, match="no claim"):
        audit(small_study(privacy={"unit": "off"}), 1000, Console(file=io.StringIO()))


@pytest.mark.parametrize("canaries", [0, 49, 8193])
def test_too_few_or_too_many_canaries_are_refused_at_once(small_study, canaries):
    with pytest.raises(UsageError, match=r"50\.\.8192"):
        audit(small_study(), canaries, Console(file=io.StringIO()))
