from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from common.errors import TrustError
from common.model_card import read_card
from common.models.weights import initial_model, save_weights
from common.pki.keys import new_study_key, study_key_bytes, study_public
from common.provenance import PROVENANCE, verify
from server.coordinator import Coordinator, open_coordinator
from server.results import Participation, PrivacySummary, Results, RoundRecord, SiteSummary
from server.run import publish
from server.run_folder import RunFolder

KEY = new_study_key()


@pytest.fixture(scope="module")
def model(small_study):
    """A study and its network."""
    study = small_study(privacy={"unit": "off"})
    return study, initial_model(study, 0)


@pytest.fixture
def coordinator(tmp_path):
    """A coordinator's folder, as far as runs need it."""
    home = tmp_path / "coordinator"
    home.mkdir()
    (home / "coordinator.toml").write_text('title = "T"\naddress = "127.0.0.1:8443"\ncontrol = "127.0.0.1:8444"\n')
    (home / "study.key").write_bytes(study_key_bytes(KEY))
    return open_coordinator(home)


def finish(folder: RunFolder, model, coordinator: Coordinator | None = None, *, written: bool = True) -> Results:
    """A run that ended, published."""
    study, network = model
    folder.prepare(study, folder.root)
    digest = save_weights(folder.model_file, network, {"study": study.digest}) if written else ""
    now = datetime(2026, 3, 4, tzinfo=UTC)
    rounds = tuple(
        RoundRecord(
            round=n, seconds=1.5, bytes_down=1, bytes_up=1, participation=(Participation(site="a", status="ok"),)
        )
        for n in (1, 2)
    )
    results = Results(
        study_name=study.name,
        study_digest=study.digest,
        study=study.model_dump(mode="json"),
        started=now,
        finished=now,
        seed=0,
        simulated=coordinator is None,
        versions={},
        outcome="finished" if written else "failed",
        model_sha256=digest,
        sites=(SiteSummary(site="a", rounds_ok=2, rounds_missed=0, evaluation="withheld"),),
        rounds=rounds,
        privacy=PrivacySummary(on=False),
    )
    publish(results, folder, coordinator)
    return results


def test_a_coordinators_run_is_signed_with_its_study_key_wherever_it_lies(tmp_path, coordinator, model):
    folder = RunFolder(tmp_path / "elsewhere")
    finish(folder, model, coordinator)
    found = verify(folder.root, study_public(KEY))
    assert (found.study, found.rounds, found.records) == (model[0].digest, 2, True)
    with pytest.raises(TrustError):
        verify(folder.root, study_public(new_study_key()))


def test_a_simulation_is_chained_and_never_signed(coordinator, model):
    folder = RunFolder(coordinator.folder / "runs" / "simulated")
    results = finish(folder, model)
    found = verify(folder.root)
    assert (found.rounds, found.records, found.signed) == (2, True, False)
    with pytest.raises(TrustError, match="no signature"):
        verify(folder.root, study_public(KEY))
    with pytest.raises(ValueError, match="no simulation"):
        publish(results, folder, coordinator)


def test_a_run_that_is_published_again_is_sealed_again(tmp_path, model):
    folder = RunFolder(tmp_path / "out")
    results = finish(folder, model)
    publish(results.model_copy(update={"data": "more is known now"}), folder)
    assert verify(folder.root).records
    card = read_card(folder.card_json)
    assert card.model_sha256 == results.model_sha256


def test_a_run_without_a_model_has_neither_card_for_programs_nor_provenance(tmp_path, model):
    folder = RunFolder(tmp_path / "out")
    finish(folder, model, written=False)
    assert not (folder.root / PROVENANCE).exists()
    assert not folder.card_json.exists()
    assert json.loads(folder.results_file.read_text())["model_sha256"] == ""


def test_a_new_run_in_the_folder_removes_what_the_former_left(tmp_path, model):
    folder = RunFolder(tmp_path / "out")
    finish(folder, model)
    folder.prepare(model[0], tmp_path)
    assert not (folder.root / PROVENANCE).exists()
    assert not folder.card_json.exists()
