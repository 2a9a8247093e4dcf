"""A comparison through Flower's simulation runtime, on real processes."""

from __future__ import annotations

import json

import pytest

from client.ledger import Ledger
from client.site import load_sites
from server.results import read_results
from simulations.compare.content import Contest

pytestmark = pytest.mark.slow


def test_one_fold_is_trained_with_and_without_each_hospital_and_every_training_is_charged(
    start, left, to_toml, make_sites, small_study, tmp_path
):
    study = small_study(
        federation={"rounds": 1, "minimum_sites": 1}, evaluation={"holdout": 0.2, "folds": 3, "fold": 2}
    )
    root, out = make_sites(2, patients=8), tmp_path / "out"
    (tmp_path / "study.toml").write_text(to_toml(study))
    arguments = ("run", tmp_path / "study.toml", "--sites", root, "--out", out, "--leave-one-out")
    process = start(*arguments)
    output, _ = process.communicate(timeout=2400)
    assert process.returncode == 0, output
    assert f"Comparison: {out / 'comparison.html'}" in output
    found = Contest.model_validate_json((out / "comparison.json").read_text())
    together, unseen = found.arms
    assert together.metrics.cases == unseen.metrics.cases == found.duels[0].cases > 0
    for folder, names in ((out, {"site-1", "site-2"}), (out / "without-site-1", {"site-2"})):
        results = read_results(folder / "results.json")
        assert results.study_digest == study.digest
        assert {site.site for site in results.sites} == names
    # What the sites released at the end of the run is what they judged afterwards.
    assert read_results(out / "results.json").final.pooled.confusion == together.metrics.confusion
    for site in load_sites(root):
        assert Ledger(site.ledger_file).rounds_charged("default", study.digest) == (1, 1)
    assert left() == []
    again = start(*arguments, "--json")
    output, _ = again.communicate(timeout=900)
    assert again.returncode == 0, output
    shown = Contest.model_validate(json.loads(output[output.index("{\n") :]))
    assert shown.arms == found.arms
    assert [len(Ledger(site.ledger_file).rounds_charged("default", study.digest)) for site in load_sites(root)] == [
        2,
        2,
    ]
