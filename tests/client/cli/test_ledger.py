"""fedct-site ledger, as it is typed."""

from __future__ import annotations

import json
import re
import shutil
import sys

import pytest

from client.cli import main
from client.ledger import Ledger
from client.site import PolicySettings, Site, SiteConfig, create_site
from common.errors import LedgerError, SiteError, StudyError, UsageError
from common.privacy.accounting import epsilon
from common.privacy.events import Gaussian, SubsampledGaussian

EVENTS = [SubsampledGaussian(3.0, 0.5, 4), Gaussian(20.0)]
STUDY = """
format = 1
name = "spine"
task = { classes = ["dark", "bright"] }
input = { windows = [{ low = -200, high = 800 }], spacing_mm = 2.0, size = 32 }
model = {}
training = { learning_rate = 0.1, local_steps = 4, batch_patients = 4 }
privacy = { unit = "patient", epsilon = 4.0, delta = 1e-5, clip = 1.0, sampling_rate = 0.5 }
federation = { rounds = 3 }
"""


@pytest.fixture
def call(monkeypatch, capsys):
    """Type ``fedct-site ledger ...``; the exit code, and what stood on the two outputs."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["fedct-site", "ledger", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def site(tmp_path) -> Site:
    policy = PolicySettings(max_epsilon=8.0, max_delta=1e-5)
    return create_site(tmp_path / "hospital", SiteConfig(name="st-example", policy=policy))


@pytest.fixture
def spent(site) -> Site:
    """The site after two rounds of a study that it did not approve."""
    for round_ in (1, 2):
        reserve(site, round_)
    return site


def reserve(site, round_):
    book = Ledger(site.ledger_file)
    row = book.reserve(
        cohort="default", study_digest="d" * 64, round_=round_, events=EVENTS, max_epsilon=8.0, max_delta=1e-5
    )
    book.commit(row)


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


def test_show_tells_what_was_spent_by_which_study(call, spent):
    code, shown, _ = call("show", "--site", spent.folder)
    assert code == 0
    figure = f"{epsilon(EVENTS * 2, 1e-5):.3f}"
    assert f"epsilon {figure} of 8 spent at delta 1e-05 (per patient, add or remove one; PLD" in shown
    assert "4 rows, the chain is intact" in shown
    (row,) = [line for line in shown.splitlines() if "dddddddddddd" in line]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["(no approval)", "d" * 12, "2", "8", "2", "0", figure]


def test_show_as_json_holds_the_same(call, spent):
    code, shown, _ = call("show", "--site", spent.folder, "--json")
    content = json.loads(shown)
    assert code == 0
    assert (content["rows"], content["max_epsilon"], content["delta"]) == (4, 8.0, 1e-5)
    assert content["head"] == Ledger(spent.ledger_file).entries()[-1].hash
    ((cohort),) = content["cohorts"]
    assert cohort["epsilon"] == epsilon(EVENTS * 2, 1e-5) < cohort["epsilon_rdp"]
    assert cohort["studies"][0]["rounds"] == [1, 2]


def test_a_site_that_was_never_charged_says_so_and_gets_no_ledger_by_asking(call, site, study):
    for words in (["show"], ["verify"], ["export"], ["forecast", study]):
        code, shown, errors = call(*words, "--site", site.folder)
        assert (code, errors) == (0, "")
    assert "The budget has room for" in shown
    assert {p.name for p in site.folder.iterdir()} == {"site.toml"}
    assert "nothing was ever charged" in call("show", "--site", site.folder)[1]
    assert json.loads(call("show", "--site", site.folder, "--json")[1])["cohorts"][0]["epsilon"] == 0


def test_forecast_says_cost_room_and_approval(call, spent, study):
    code, shown, _ = call("forecast", study, "--site", spent.folder)
    assert code == 0
    assert re.search(r"training alone +epsilon (3\.99\d|4\.000)\n", shown)
    assert "with 3 noised evaluations" in shown
    assert "It fits the budget. It is not approved yet." in shown
    content = json.loads(call("forecast", study, "--site", spent.folder, "--json")[1])
    assert content["study"] == "spine"
    assert content["fits"] is True
    assert content["spent"] < content["whole"] < content["after"] < content["spent"] + content["whole"]
    assert content["rounds_left"] >= content["rounds"] == 3
    assert Ledger(spent.ledger_file).verify() == 4


def test_forecast_of_one_fold_says_what_all_of_them_cost(call, site, study):
    alone = json.loads(call("forecast", study, "--site", site.folder, "--json")[1])
    study.write_text(study.read_text() + "evaluation = { folds = 5, fold = 2 }\n")
    code, shown, _ = call("forecast", study, "--site", site.folder)
    told = json.loads(call("forecast", study, "--site", site.folder, "--json")[1])
    assert code == 0
    assert re.search(rf"after all 5 folds +epsilon {told['after_folds']:.3f}, more than the budget\n", shown)
    assert "Each fold is a study of its own, approved and charged on its own" in shown
    assert told["after_folds"] > told["after"] == alone["after"]


def test_forecast_says_what_would_refuse_the_study(call, spent, study):
    study.write_text(STUDY.replace("epsilon = 4.0", "epsilon = 7.9"))
    shown = call("forecast", study, "--site", spent.folder)[1]
    assert "Refused by the budget: it would end above 8." in shown
    study.write_text(STUDY.replace("epsilon = 4.0", "epsilon = 9.0"))
    shown = call("forecast", study, "--site", spent.folder)[1]
    assert "Refused by the site's policy: study 'spine' asks privacy.epsilon 9.0" in shown


def test_an_export_is_the_same_in_a_file_and_on_the_terminal_and_is_verified(call, spent, tmp_path):
    path = tmp_path / "export.jsonl"
    code, said, _ = call("export", "--site", spent.folder, "--out", path)
    assert (code, "4 rows" in said) == (0, True)
    assert call("export", "--site", spent.folder)[1] == path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    reserve(spent, 3)
    code, said, _ = call("verify", "--site", spent.folder, "--export", path)
    assert code == 0
    assert "6 rows, the chain is intact" in said
    assert "4 rows, the first of the ledger" in said
    code, said, _ = call("verify", "--export", path, "--json")
    assert json.loads(said) == {"export_rows": 4, "head": Ledger(spent.ledger_file).entries()[3].hash}


def test_verify_without_anything_to_verify_is_a_wrong_call(call):
    code, _, errors = call("verify")
    assert code == UsageError.exit_code
    assert "--site, --export or both" in errors


def test_a_copied_back_old_ledger_is_refused_by_every_command(call, spent, study, tmp_path):
    shutil.copy(spent.ledger_file, tmp_path / "old")
    reserve(spent, 3)
    shutil.copy(tmp_path / "old", spent.ledger_file)
    for words in (["show"], ["verify"], ["export"], ["forecast", study]):
        code, _, errors = call(*words, "--site", spent.folder)
        assert code == LedgerError.exit_code
        assert "rolled back" in errors
        assert "Traceback" not in errors


def test_a_ledger_that_is_gone_is_no_empty_ledger(call, spent):
    spent.ledger_file.unlink()
    for words in (["show"], ["verify"], ["export"]):
        code, _, errors = call(*words, "--site", spent.folder)
        assert code == LedgerError.exit_code
        assert "missing though 'ledger.head' exists" in errors


def test_an_edited_export_is_refused_with_its_line(call, spent, tmp_path):
    path = tmp_path / "export.jsonl"
    call("export", "--site", spent.folder, "--out", path)
    path.write_text(path.read_text().replace('"round":2', '"round":1', 1))
    for where in ([], ["--site", spent.folder]):
        code, _, errors = call("verify", *where, "--export", path)
        assert code == LedgerError.exit_code
        assert "line 3 of export" in errors


def test_a_wrong_site_or_study_is_one_line_with_its_exit_code(call, site, tmp_path):
    assert call("show", "--site", tmp_path / "none")[0] == SiteError.exit_code
    code, _, errors = call("forecast", tmp_path / "none.toml", "--site", site.folder)
    assert code == StudyError.exit_code
    assert len(errors.splitlines()) == 1
